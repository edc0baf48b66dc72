"""`etl load`."""

import signal
from collections.abc import Iterator
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
    given_by,
    json_option,
    metrics_option,
    outlive_reader,
    print_json,
    print_line,
    settings_options,
)
from etl.cli.progress import display
from etl.cli.summary import sentence, total_of
from etl.errors import SIGNALS, EtlError, ExitCode, UsageError
from etl.ingestion.pipeline import outcome
from etl.ingestion.pipeline.command import CommandResult, load_all, precalculate_all, require_all
from etl.ingestion.pipeline.job import Load, Stop, Target
from etl.ingestion.pipeline.sharing import shares_of
from etl.ingestion.sources import encodings, naming
from etl.ingestion.values import Summary
from etl.metrics import Report
from etl.settings import LoadSettings

log = structlog.get_logger(__name__)


@click.command(
    "load",
    epilog="Example: etl load shipments exports/2026-11-21.json.gz --json",
)
@click.argument("dataset", metavar="DATASET[,DATASET...]", shell_complete=completion.several_datasets)
@click.argument("sources", nargs=-1, required=True, metavar="SOURCE...")
@settings_options(LoadSettings)
@metrics_option("load")
@json_option
@click.pass_obj
def command(
    common: Common,
    /,
    dataset: str,
    sources: tuple[str, ...],
    as_json: bool,
    report: Report,
    **options: Any,
) -> int:
    """Load sources into a dataset: files, globs, folders, URLs, or - for standard input.

    Several datasets, separated by commas, take their records from the same document in one pass.

    Run the same command again after any interruption: it loads the rest.
    """
    outlive_reader()
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
        with common.database() as database, _stopped_by_signals() as stop:
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
            precalculate_all(load, common.config_dir, result, print_error)
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
    return result.exit_code


def _print_summary(summary: Summary, error: EtlError | None, *, as_json: bool) -> None:
    if error:
        print_error(error)
    if as_json:
        print_json([summary.document()], print_line)
    else:
        print_line(sentence(summary))
        for reason in summary.reasons:
            column = ".".join(filter(None, (reason.table, reason.column)))
            print_line(
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
        print_json([total], print_line)
        return
    if len(result.summaries) > 1:
        print_line(total_of(result.summaries, datasets))
    if precalculated:
        seconds = sum(refreshed.seconds for refreshed in precalculated)
        names = [refreshed.aggregate for refreshed in precalculated]
        refreshed_names = ", ".join(names) if len(names) < 4 else f"{len(names)} aggregates"
        print_line(f"precalculated {refreshed_names} in {seconds:.1f} s")


@contextmanager
def _stopped_by_signals() -> Iterator[Stop]:
    """Let the first SIGTERM, SIGINT or SIGHUP stop the load after the current batch, and the second one at once.

    A SIGHUP that nohup ignores stays ignored.
    """
    stop = Stop()

    def note(number: int, _frame: FrameType | None) -> None:
        if not stop.signal_number:
            log.warning("stopping", signal=number, then="after the current batch")
        stop.note(number)

    numbers = [signal.SIGINT, signal.SIGTERM]
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        numbers.append(signal.SIGHUP)
    before = {number: signal.signal(number, note) for number in numbers}
    try:
        with stop.interrupting():
            yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
