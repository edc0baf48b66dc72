"""`etl load`."""

import os
import signal
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from types import FrameType
from typing import Any

import click
import structlog

from etl.cli import completion, print_error
from etl.cli.options import (
    Common,
    LedgerCode,
    given_by,
    json_option_of_load,
    metrics_option,
    option,
    print_json,
    print_text,
    settings_options,
)
from etl.cli.progress import display
from etl.errors import DONE, SIGNALS, EtlError, ExitCode, UsageError
from etl.ingestion.pipeline import outcome
from etl.ingestion.pipeline.command import CommandResult, load_all, precalculate_all, require_all
from etl.ingestion.pipeline.job import Load, Stop, Target
from etl.ingestion.pipeline.sharing import shares_of
from etl.ingestion.sources import encodings, naming
from etl.ingestion.values import Balance, Summary
from etl.metrics import Report
from etl.settings import LoadSettings

log = structlog.get_logger(__name__)

_COUNTS = ("rejected", "failed", "skipped", "withheld")

_MOST_MEMBERS = 10


@click.command(
    "load",
    epilog="Example: etl load shipments exports/2026-11-21.json.gz --json",
)
@click.argument("dataset", metavar="DATASET[,DATASET...]", shell_complete=completion.several_datasets)
@click.argument("sources", nargs=-1, required=True, metavar="SOURCE...")
@settings_options(LoadSettings)
@metrics_option("load")
@json_option_of_load
@option(
    "--timeout",
    type=click.FloatRange(0.1),
    metavar="SECONDS",
    help="End the load after this time as SIGTERM does, with exit code 143; the same command loads the rest.",
)
@click.pass_obj
def command(
    common: Common,
    /,
    dataset: str,
    sources: tuple[str, ...],
    as_json: bool,
    timeout: float | None,
    report: Report,
    **options: Any,
) -> int:
    """Load sources into a dataset: files, globs, folders, URLs, or - for standard input.

    Several datasets, separated by commas, take their records from the same document in one pass.

    Run the same command again after any interruption: it loads the rest.
    """
    settings = LoadSettings.read(given_by(LoadSettings, options))
    if settings.dry_run:
        report.withdraw()
    shares = shares_of(dataset, settings.records, settings.format, common.config_dir)
    if settings.encoding != "auto":
        encodings.require_known(settings.encoding)
    named = [each for argument in sources for each in naming.named(argument, settings.encoding)]
    result = CommandResult()
    shown = display(named, is_json=common.logs.format == "json")
    try:
        patience = common.patience(settings.retries, settings.retry_for)
        with _ending_after(timeout), common.database(patience) as database, _stopped_by_signals() as stop:
            load = Load(
                database=database,
                settings=settings,
                targets=[Target.of(share.dataset, share.records, settings) for share in shares],
                stop=stop,
                logs=replace(common.logs, below=shown.height),
                watch=shown,
            )
            require_all(load, named, common.config_dir)
            load_all(load, named, result, partial(_print_summary, as_json=as_json))
            precalculate_all(load, common.config_dir, result, partial(_tell, report))
            if not result.codes & {ExitCode.DATABASE_AWAY, *SIGNALS}:
                report.look_at(database)
    except UsageError:
        raise
    except EtlError as error:
        for number, share in enumerate(shares):
            summary = outcome.not_begun(named[0], share.dataset, common.name, error)
            _print_summary(summary, None if number else error, as_json=as_json)
        result.codes.add(error.exit_code)
    report.count_sources(result.summaries)
    _print_total(result, len(named), len(shares), as_json=as_json)
    return LedgerCode(result.exit_code)


def _tell(report: Report, error: EtlError) -> None:
    """Tell an error that ended no source."""
    report.note_error(error)
    print_error(error)


def _print_summary(summary: Summary, error: EtlError | None, *, as_json: bool) -> None:
    if error:
        print_error(error, run=summary.run, dataset=summary.dataset, source=summary.source)
    if as_json:
        print_json([summary.document()])
    else:
        print_text(sentence(summary))
        for reason in summary.reasons:
            column = ".".join(filter(None, (reason.table, reason.column)))
            print_text(
                f"  {reason.count:,} x {reason.sqlstate} {column + ': ' if column else ''}{reason.reason}"
                f" (first: record {reason.first_record:,} at byte {reason.first_offset:,})"
            )


def _print_total(result: CommandResult, sources: int, datasets: int, *, as_json: bool) -> None:
    """Print the sum of all sources, and the refreshed aggregates."""
    precalculated = result.precalculated
    if as_json:
        total = {
            "kind": "total",
            "exit_code": result.exit_code,
            "sources": sources,
            "precalculated": [vars(refreshed) for refreshed in precalculated],
        }
        print_json([total])
        return
    if len(result.summaries) > 1:
        print_text(total_of(result.summaries, datasets))
    if precalculated:
        seconds = sum(refreshed.seconds for refreshed in precalculated)
        names = [refreshed.aggregate for refreshed in precalculated]
        refreshed_names = ", ".join(names) if len(names) < 4 else f"{len(names)} aggregates"
        print_text(f"precalculated {refreshed_names} in {seconds:.1f} s")


@contextmanager
def _ending_after(seconds: float | None) -> Iterator[None]:
    """Send SIGTERM to this process when the block takes longer."""
    if seconds is None:
        yield
        return

    def end() -> None:
        log.warning("timed_out", seconds=seconds)
        os.kill(os.getpid(), signal.SIGTERM)

    timer = threading.Timer(seconds, end)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


@contextmanager
def _stopped_by_signals() -> Iterator[Stop]:
    """Let the first SIGTERM, SIGINT or SIGHUP stop the load after the current batch, and the second one at once.

    A batch that is not done some seconds after the first signal ends as by a second one. A SIGHUP that nohup ignores
    stays ignored.
    """
    stop = Stop()

    def note(number: int, _frame: FrameType | None) -> None:
        if number == signal.SIGALRM and not stop.signal_number:
            number = signal.SIGTERM  # It came before this, and Python dropped the exception that it raised.
        if not stop.signal_number:
            log.warning("stopping", signal=number, then="after the current batch")
            signal.setitimer(signal.ITIMER_REAL, stop.grace_seconds)
        stop.note(number)

    numbers = [signal.SIGINT, signal.SIGTERM, signal.SIGALRM]
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        numbers.append(signal.SIGHUP)
    before = {number: signal.signal(number, note) for number in numbers}
    try:
        with stop.interrupting():
            yield stop
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        for number, handler in before.items():
            signal.signal(number, handler)


def sentence(summary: Summary) -> str:
    """Return the result of a source in one line; it ends with the next command if records are left."""
    status = f"dry run: {summary.status}" if summary.dry_run else summary.status
    line = f"{status} {summary.dataset} from {summary.source}: {_counts([summary.records])}"
    line += f" in {summary.seconds:.1f} s"
    if summary.status != "already_loaded":
        line += _rate(summary.records.loaded, summary.bytes_read, summary.seconds)
    if len(summary.rows) > 1 and any(summary.rows.values()):
        line += f"; rows: {', '.join(f'{table} {count:,}' for table, count in summary.rows.items())}"
    line += _deletions(summary)
    if summary.doubled:
        line += f"; {summary.doubled:,} of these records were loaded before, and --force added their rows again"
    if summary.policies.duplicates:
        line += f"; {summary.policies.duplicates:,} with the key of an earlier record"
    members, others = summary.policies.frequent_unknown(_MOST_MEMBERS)
    if members:
        names = ", ".join(f"{name} {count:,}" for name, count in members.items())
        line += f"; members that the definition does not know: {names}" + (f", others {others:,}" if others else "")
    if coerced := summary.policies.coerced:
        columns = ", ".join(f"{name} {count:,}" for name, count in coerced.items())
        line += f"; texts stored otherwise than they are written: {columns}"
    if summary.narrowed:
        columns = ", ".join(f"{name} ({effect})" for name, effect in summary.narrowed.items())
        line += f"; columns that may change values: {columns}"
    if summary.dry_run:
        keys = "keys of other sources" if summary.policies.duplicates else "keys across batches"
        return f"{line}; nothing was loaded; {keys}, foreign keys and triggers were not checked"
    if summary.status == "incomplete" and summary.exit_code in DONE:
        line += "; stopped by --limit: the same command without it loads the rest"
    if summary.records.pending:
        line += f"; {summary.records.pending:,} wait in the failed store: etl failed list --run {summary.run}"
    elif summary.run and summary.exit_code not in DONE and summary.status in {"incomplete", "aborted"}:
        line += f"; next: etl runs show {summary.run}"
    return line


def _deletions(summary: Summary) -> str:
    """Return what a replace deleted and kept, as a part of the line."""
    deleted, kept = sum(summary.rows_deleted.values()), sum(summary.rows_kept.values())
    text = ""
    if deleted:
        tables = ", ".join(f"{table} {count:,}" for table, count in summary.rows_deleted.items() if count)
        text += f"; rows deleted: {tables if len(summary.rows) > 1 else f'{deleted:,}'}"
    if kept:
        text += f"; rows kept that may belong to rejected records: {kept:,}"
    return text


def total_of(summaries: Sequence[Summary], datasets: int = 1) -> str:
    """Return the result of several sources in one line; each source has one summary for each dataset."""
    statuses = Counter(summary.status for summary in summaries)
    # A source is read once for all datasets.
    sources = [summaries[first : first + datasets] for first in range(0, len(summaries), datasets)]
    seconds = sum(max(summary.seconds for summary in each) for each in sources)
    bytes_read = sum(max(summary.bytes_read for summary in each) for each in sources)
    units = f"{len(sources)} sources" if len(sources) > 1 else f"{datasets} datasets"
    line = f"{units}, {', '.join(f'{count} {status}' for status, count in statuses.items())}: "
    line += f"{_counts([summary.records for summary in summaries])} in {seconds:.1f} s"
    loaded = sum(summary.records.loaded for summary in summaries)
    return line + _rate(loaded, bytes_read, seconds)


def _counts(balances: Sequence[Balance]) -> str:
    counts = {name: sum(getattr(each, name) for each in balances) for name in ("read", "loaded", *_COUNTS)}
    return ", ".join(f"{count:,} {name}" for name, count in counts.items() if count or name not in _COUNTS)


def _rate(loaded: int, bytes_read: int, seconds: float) -> str:
    if not loaded or not seconds:
        return ""
    volume = f"{bytes_read / 1e6 / seconds:,.1f}"
    return f" ({loaded / seconds:,.0f} records/s{'' if volume == '0.0' else f', {volume} MB/s'})"
