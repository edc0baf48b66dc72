"""`etl load`."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import FrameType

import click
import structlog

from etl.cli import completion, tell
from etl.cli.options import (
    Common,
    failed_dir_option,
    json_option,
    metrics_option,
    option,
    outlive_reader,
    print_json,
    retry_options,
    say,
)
from etl.cli.progress import display
from etl.cli.summary import sentence, total_of
from etl.errors import SIGNALS, EtlError, ExitCode, UsageError
from etl.ingestion import constants
from etl.ingestion.pipeline import outcome
from etl.ingestion.pipeline.command import CommandResult, load_all, precalculate_all, require_all
from etl.ingestion.pipeline.job import Load, Target
from etl.ingestion.pipeline.sharing import shares_of
from etl.ingestion.pipeline.stopping import Stop
from etl.ingestion.sources import encodings, naming
from etl.ingestion.values import Summary
from etl.metrics import Report
from etl.settings import Decoder, Format, Limit, LoadSettings, Mode, OnDuplicate, OnNul, OnUnknown, RetrySettings

log = structlog.get_logger(__name__)


@click.command(
    "load",
    epilog="Example: etl load shipments exports/2026-11-21.json.gz --json",
)
@click.argument("dataset", metavar="DATASET[,DATASET...]", shell_complete=completion.several_datasets)
@click.argument("sources", nargs=-1, required=True, metavar="SOURCE...")
@option(
    "--mode",
    type=click.Choice(["append", "merge", "replace"]),
    help="How rows meet those that are there; else the definition's.",
)
@option(
    "--format",
    type=click.Choice(["auto", "array", "ndjson", "document"]),
    default="auto",
    show_default=True,
    help="Shape of the source.",
)
@option(
    "--encoding",
    metavar="NAME",
    default="auto",
    show_default=True,
    help="What the source is written in, as in latin-1; auto takes UTF-8, UTF-16 and UTF-32.",
)
@option(
    "--records",
    metavar="PATH[,PATH...]",
    help="Path of one record, as in shipments.item, for each dataset in their order; else the definition's, or of"
    " several datasets NAME.item where it is item.",
)
@option(
    "--workers",
    type=click.IntRange(1, 64),
    help="Processes that load a source; else one for each core but one, at most 4, and fewer for a small source.",
)
@option(
    "--decoder",
    type=click.Choice(["auto", "ijson"]),
    default="auto",
    show_default=True,
    help="auto sends what PostgreSQL reads as it stands; ijson converts every value. The rows are the same.",
)
@option(
    "--batch-rows",
    type=click.IntRange(1, 1_000_000),
    default=constants.BATCH_ROWS,
    show_default=True,
    help="Records per batch: one COPY in one transaction; the first ones have fewer.",
)
@option(
    "--max-rejected",
    metavar="N|P%",
    default="10%",
    show_default=True,
    help="Stop with exit code 5 when more records are rejected of a dataset.",
)
@option(
    "--max-record-bytes",
    type=click.IntRange(1 << 20, 1 << 30),
    default=constants.MAX_RECORD_BYTES,
    show_default=True,
    help="A record with more bytes ends the source with exit code 3; memory grows with it.",
)
@option("--atomic", is_flag=True, help="All of a source or nothing, visible at once at the end.")
@option("--allow-empty", is_flag=True, help="Let a replace by no record empty the dataset.")
@option(
    "--limit",
    type=click.IntRange(1),
    metavar="N",
    help="Only the first N records of each source and dataset; without it the same command brings in the rest.",
)
@option("--dry-run", is_flag=True, help="Judge every record as a load would, keep nothing, and tell what is refused.")
@option(
    "--on-nul",
    type=click.Choice(["reject", "strip"]),
    help="A record with a NUL character, which PostgreSQL cannot hold: reject it, or load it without; else the"
    " definition's.",
)
@option(
    "--on-duplicate",
    type=click.Choice(["newest", "first", "reject"]),
    help="Records of one source with the same key: keep the newest, keep the first, or reject all but the first, and"
    " count them; else the definition's.",
)
@option(
    "--on-unknown",
    type=click.Choice(["ignore", "warn", "reject"]),
    help="Members that the definition does not know: pass over them, look for them in the first records of each batch"
    " and name them, or reject the record; else the definition's.",
)
@option("--no-precalculate", is_flag=True, help="Leave the aggregates as they are.")
@failed_dir_option
@metrics_option("load")
@option("--force", has_twin=False, is_flag=True, help="Load again what the ledger knows as loaded.")
@retry_options
@json_option
@click.pass_obj
def command(
    common: Common,
    dataset: str,
    sources: tuple[str, ...],
    mode: Mode | None,
    format: Format,
    encoding: str,
    records: str | None,
    workers: int | None,
    decoder: Decoder,
    batch_rows: int,
    max_rejected: str,
    max_record_bytes: int,
    atomic: bool,
    allow_empty: bool,
    on_nul: OnNul | None,
    on_duplicate: OnDuplicate | None,
    on_unknown: OnUnknown | None,
    limit: int | None,
    dry_run: bool,
    no_precalculate: bool,
    failed_dir: Path,
    force: bool,
    retries: RetrySettings,
    as_json: bool,
    report: Report,
) -> int:
    """Load sources into a dataset: files, globs, folders, URLs, or - for standard input.

    Several datasets, separated by commas, take their records from one document each, in one pass.

    Run the same command again after any end: it goes on where the ledger stops.
    """
    outlive_reader()
    settings = LoadSettings(
        mode=mode,
        format=format,
        records=records,
        decoder=decoder,
        workers=workers,
        batch_rows=batch_rows,
        failed_dir=failed_dir,
        atomic=atomic,
        allow_empty=allow_empty,
        max_rejected=Limit.read(max_rejected),
        force=force,
        precalculate=not (no_precalculate or dry_run),
        retries=retries,
        max_record_bytes=max_record_bytes,
        limit=limit,
        dry_run=dry_run,
        on_nul=on_nul,
        on_duplicate=on_duplicate,
        on_unknown=on_unknown,
    )
    if dry_run:
        report.withdraw()
    shares = shares_of(dataset, records, format, common.config_dir)
    if encoding != "auto":
        encodings.require_known(encoding)
    named = [each for argument in sources for each in naming.named(argument, encoding)]
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
            load_all(load, named, result, partial(_print, as_json=as_json))
            precalculate_all(load, common.config_dir, result, tell)
            if not result.codes & {ExitCode.DATABASE_AWAY, *SIGNALS}:
                report.look_at(database)
    except UsageError:
        raise
    except EtlError as error:
        for number, share in enumerate(shares):
            summary = outcome.not_begun(named[0], share.dataset, common.name, error)
            _print(summary, None if number else error, as_json=as_json)
        result.codes.add(error.exit_code)
    report.count_sources(result.summaries)
    precalculated = result.precalculated
    total = {
        "kind": "total",
        "exit_code": result.exit_code,
        "sources": len(named),
        "precalculated": [vars(refreshed) for refreshed in precalculated],
    }
    if as_json:
        print_json([total], say)
        return result.exit_code
    if len(result.summaries) > 1:
        say(total_of(result.summaries, len(shares)))
    if precalculated:
        seconds = sum(refreshed.seconds for refreshed in precalculated)
        names = [each.aggregate for each in precalculated]
        told = ", ".join(names) if len(names) < 4 else f"{len(names)} aggregates"
        say(f"precalculated {told} in {seconds:.1f} s")
    return result.exit_code


def _print(summary: Summary, error: EtlError | None, *, as_json: bool) -> None:
    if error:
        tell(error)
    if as_json:
        print_json([summary.document()], say)
    else:
        say(sentence(summary))
        for reason in summary.reasons:
            where = ".".join(filter(None, (reason.table, reason.column)))
            say(
                f"  {reason.count:,} x {reason.sqlstate} {where + ': ' if where else ''}{reason.reason}"
                f" (first: record {reason.first_record:,} at byte {reason.first_offset:,})"
            )


@contextmanager
def _stopped_by_signals() -> Iterator[Stop]:
    """Turn the first SIGTERM, SIGINT or SIGHUP into the wish to stop after the batch in hand, the second into an end.

    A SIGHUP that is ignored, as nohup does it, stays ignored.
    """
    stop = Stop()

    def note(number: int, _frame: FrameType | None) -> None:
        if not stop.signal_number:
            log.warning("stopping", signal=number, then="after the batch in hand")
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
