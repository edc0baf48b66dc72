"""`etl runs`."""

import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, get_args

import click

from etl.cli import completion, next_commands
from etl.cli.groups import Group
from etl.cli.options import (
    Common,
    LedgerCode,
    json_option,
    no_precalculate_option,
    option,
    parsed_age,
    print_json,
    print_note,
    print_text,
)
from etl.cli.tables import Column, print_table
from etl.database.connecting import connect
from etl.errors import ExitCode, UsageError
from etl.ingestion.ledger import batches, failures, history
from etl.ingestion.ledger.history import AttemptRow, RunFilter, RunRow, RunStatus
from etl.ingestion.pipeline import purging, tracing, undoing
from etl.ingestion.pipeline.undoing import UndoRequest, UndoResult

_UNITS = {"m": "minutes", "h": "hours", "d": "days", "w": "weeks"}

_OF_RUNS = (
    *(Column("run"), Column("started", 5), Column("ended", 7), Column("dataset", 1), Column("source", 4, "path")),
    *(Column("status"), Column("records", 3), Column("rejected", 6), Column("waiting", 2), Column("records/s", 8)),
    Column("by", 9),
)
_OF_ATTEMPTS = (
    *(Column("attempt"), Column("started", 1), Column("ended", 4), Column("exit code"), Column("read", 2)),
    *(Column("retried", 6), Column("bytes", 5), Column("by", 7), Column("pid", 8), Column("version", 9)),
    Column("source", 3, "path"),
)
_OF_FAULTS = (
    *(Column("kind", 5), Column("state", 3), Column("sqlstate", 2), Column("table", 6), Column("column", 1)),
    *(Column("reason", kind="text"), Column("records"), Column("first record", 4), Column("at byte", 7)),
)
_OF_FAILURES = (
    *(Column("id"), Column("kind", 2), Column("state", 1), Column("records"), Column("first fault", kind="text")),
)


class _Since(click.ParamType[datetime]):
    """A time: a date or a time (UTC without a zone), or an age."""

    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> datetime:
        if isinstance(value, datetime):
            return value
        try:
            if age := re.fullmatch(r"(\d{1,9})([mhdw])", value):
                return datetime.now(UTC) - timedelta(**{_UNITS[age[2]]: int(age[1])})
            time = datetime.fromisoformat(value)
            return time if time.tzinfo else time.replace(tzinfo=UTC)
        except (ValueError, OverflowError):
            self.fail("expected a date, a time, or how long ago as in 30m, 12h, 7d, 2w", param, ctx)


@click.group("runs", cls=Group)
def command() -> None:
    """Show what was loaded, when, from where, and how it ended; take a run back; shorten the ledger."""


@command.command("list", epilog="Example: etl runs list --dataset shipments --since 7d")
@option("--dataset", shell_complete=completion.datasets, help="Only runs of this dataset.")
@option("--status", type=click.Choice(get_args(RunStatus)), help="Only runs that have this status now.")
@option("--since", type=_Since(), metavar="WHEN", help="Only runs begun since 2026-11-21, or an age: 30m, 12h, 7d, 2w.")
@option("--limit", type=click.IntRange(1), default=20, show_default=True, help="At most this many, the newest first.")
@json_option
@click.pass_obj
def list_command(
    common: Common,
    dataset: str | None,
    status: RunStatus | None,
    since: datetime | None,
    limit: int,
    as_json: bool,
) -> None:
    """List the newest runs."""
    run_filter = RunFilter(dataset=dataset, status=status, since=since, limit=limit)
    with common.looking() as database, connect(database) as connection:
        runs = history.runs(connection, run_filter, Path.cwd())
    if as_json:
        print_json(map(vars, runs))
        return
    if not runs:
        print_text(f"no run {'of this kind ' if dataset or status or since else ''}in {database.place}")
        return
    print_table(
        "runs",
        _OF_RUNS,
        [
            (
                *(run.run, run.started_at, run.ended_at, run.dataset, run.source, run.status),
                *(run.records, run.rejected, run.pending, _rounded(run.records_per_second), _account(run)),
            )
            for run in runs
        ],
    )


@command.command("show", epilog="Example: etl runs show 20261121T081500Z-3f9a1c")
@click.argument("run", shell_complete=completion.runs)
@json_option
@click.pass_obj
def show_command(common: Common, run: str, as_json: bool) -> None:
    """Show one run (`latest`: the newest): attempts, balance, refused records with their reasons, the next command."""
    with common.looking() as database, connect(database) as connection:
        run = history.name_of(connection, run)
        runs = history.runs(connection, RunFilter(run=run), Path.cwd())
        if not runs:
            raise UsageError(f"no run is called {run}", hint="etl runs list")
        attempts = history.attempts(connection, run)
        faults = history.faults(connection, run)
        stored = failures.find(connection, run=run)
        unknown = batches.unknown_members(connection, run)
    if as_json:
        print_json([vars(runs[0]) | vars(unknown) | {"attempts": attempts, "faults": faults, "failures": stored}])
        return
    _print_run(runs[0], Path.cwd())
    print_table(
        "attempts",
        _OF_ATTEMPTS,
        [
            (
                *(attempt.attempt, attempt.started_at, attempt.ended_at, attempt.exit_code),
                *(attempt.count_read, attempt.count_retried, attempt.bytes_read),
                *(_account(attempt), str(attempt.pid), attempt.tool_version, attempt.source),
            )
            for attempt in attempts
        ],
    )
    _print_unknown(unknown)
    if faults:
        print_table(
            "refused",
            _OF_FAULTS,
            [tuple(vars(fault).values()) for fault in faults],
        )
    if stored:
        print_table(
            "failed store",
            _OF_FAILURES,
            [(failure.id, failure.kind, failure.state, failure.count_records, failure.message) for failure in stored],
        )


@command.command("trace", epilog="Example: etl runs trace logistics.shipments shipment_id=SHP-000000017")
@click.argument("table")
@click.argument("values", nargs=-1, metavar="COLUMN=VALUE...")
@option("--run", shell_complete=completion.runs, help="Only rows of this run; latest: the newest one.")
@json_option
@click.pass_obj
def trace_command(common: Common, table: str, values: tuple[str, ...], run: str | None, as_json: bool) -> None:
    """Show the record that the rows with these values came from: its source, its number, its byte and its text."""
    if not (values or run):
        raise UsageError(
            "nothing is named to trace", hint="name COLUMN=VALUE, as in shipment_id=SHP-000000017, or --run"
        )
    conditions = [
        (column, value) for column, equals, value in (text.partition("=") for text in values) if column and equals
    ]
    if len(conditions) < len(values):
        raise UsageError("expected COLUMN=VALUE", hint="as in shipment_id=SHP-000000017")
    with common.looking() as database, connect(database) as connection:
        traces, has_more = tracing.trace(connection, table, conditions, run, common.config_dir)
    if as_json:
        print_json(map(vars, traces))
    for trace in () if as_json else traces:
        if trace.run is None:
            print_text(trace.missing or "")
            continue
        place = f"record {trace.record:,} of {trace.source}" + (
            "" if trace.offset is None else f" at byte {trace.offset:,}"
        )
        print_text(f"{place}, loaded by run {trace.run} ({trace.loaded_at:%Y-%m-%d %H:%M:%S %Z})")
        click.echo(f"  {trace.text if trace.text is not None else trace.missing}")
    if has_more:
        print_note(f"more than {tracing.MAX_ROWS} records: name more columns")


@command.command("undo", epilog="Example: etl runs undo 20261121T081500Z-3f9a1c --dry-run")
@click.argument("run", shell_complete=completion.runs)
@option("--dry-run", is_flag=True, help="Count the rows that would be deleted, and change nothing.")
@option(
    "--delete-rows",
    envvar=None,
    show_envvar=False,
    is_flag=True,
    help="Also take back a merge that may have written over rows of other runs: these older versions stay lost.",
)
@no_precalculate_option
@json_option
@click.pass_obj
def undo_command(
    common: Common, run: str, dry_run: bool, delete_rows: bool, no_precalculate: bool, as_json: bool
) -> int:
    """Take a run back: delete the rows that it loaded, and forget its source, which then loads again as a new run.

    RUN is its name, or `latest`. All tables of its dataset lose these rows together, or none does.
    """
    request = UndoRequest(run=run, deletes_merged=delete_rows, is_dry_run=dry_run)
    with common.database(creates=False) as database:
        for result in undoing.undo(request, database, common.config_dir, precalculates=not no_precalculate):
            if not isinstance(result, UndoResult):
                continue
            if as_json:
                print_json([vars(result)])
            else:
                _print_undone(result)
    return LedgerCode(ExitCode.SUCCESS)


@command.command("purge", epilog="Example: etl runs purge --older-than 90d --dry-run")
@option("--older-than", required=True, metavar="AGE", help="Least age since their end, as in 90d, 12h or 26w.")
@option("--dataset", shell_complete=completion.datasets, help="Only runs of this dataset.")
@option("--dry-run", is_flag=True, help="Count the rows that would be removed, and change nothing.")
@json_option
@click.pass_obj
def purge_command(common: Common, older_than: str, dataset: str | None, dry_run: bool, as_json: bool) -> None:
    """Make the ledger smaller: let the batches of each old run become one row, and its attempts too.

    Their sums stay, and so do the marks by which a source is known: its records load no second time. Runs that are not
    finished, and runs with records that wait in the failed store, are left alone.
    """
    age = parsed_age(older_than)
    count = removed = attempts = 0
    with common.database(creates=False) as database, connect(database) as connection:
        for run in purging.purge_runs(connection, age, dataset, is_dry_run=dry_run):
            count, attempts = count + 1, attempts + run.attempts_removed
            removed += run.batches - run.rows
            if as_json:
                print_json([vars(run)])
    if not as_json:
        would = "would become" if dry_run else "became"
        print_text(f"{count:,} runs {would} smaller: {removed:,} rows of batches and {attempts:,} of attempts fewer")


def _of(table: str, restored: dict[str, int]) -> list[int]:
    """Return how many rows of a table are restored, if some of any table are."""
    return [restored.get(table, 0)] if restored else []


def _print_undone(result: UndoResult) -> None:
    if result.status == "already_undone":
        print_text(f"run {result.run} is undone already, since {result.undone_at:%Y-%m-%d %H:%M:%S %Z}")
        return
    done = "undone" if result.status == "undone" else "nothing was changed; an undo would delete these rows"
    print_text(f"run {result.run}, {result.mode} of {result.source} into {result.dataset}: {done}")
    click.echo()
    restored = result.rows_restored
    print_table(
        "rows",
        [
            *(Column("table"), Column("deleted"), *[Column("restored")] * bool(restored)),
            *(Column("before", 1), Column("after", 1)),
        ],
        [
            (each.table, each.rows_deleted, *_of(each.table, restored), each.rows_before, each.rows_after)
            for each in result.tables
        ],
    )
    if result.restored:
        print_text(
            f"its source is known by an earlier run again, whose rows are still there: {', '.join(result.restored)}"
        )
    if result.superseded:
        print_text(f"{result.superseded:,} records that wait in the failed store will not be replayed")
    if result.keys_deleted:
        print_text(
            f"up to {result.keys_deleted:,} rows that records of this run have deleted stay lost: load their sources"
            f" again by --force (etl runs list --dataset {result.dataset})"
        )
    if result.rows_written_over:
        print_text(
            f"up to {result.rows_written_over:,} rows of other runs, which this run may have written over, stay lost:"
            f" load their sources again by --force (etl runs list --dataset {result.dataset})"
        )


def _print_run(run: RunRow, here: Path) -> None:
    print_text(f"run {run.run}: {_status(run)}")
    print_text(f"  {run.dataset} from {run.source}, {run.mode}, begun {run.started_at:%Y-%m-%d %H:%M:%S %Z}")
    parts = {"unchanged": run.unchanged, "deleted their key": run.deleted}
    shown = ", ".join(f"{count:,} of them {name}" for name, count in parts.items() if count)
    of_loaded = f" ({shown})" if shown else ""
    counts = f"{run.loaded:,} loaded{of_loaded}, {run.rejected:,} rejected, {run.failed:,} failed"
    print_text(f"  {run.records:,} records in {run.batches:,} batches: {counts}")
    if run.rows_deleted or run.rows_kept:
        kept = f"; kept that may belong to rejected records: {run.rows_kept:,}" if run.rows_kept else ""
        print_text(f"  rows deleted by the replace: {run.rows_deleted:,}{kept}")
    if run.records_per_second and run.seconds:
        rate = f"{run.records_per_second:,.0f} records/s, {run.bytes / 1e6 / run.seconds:,.1f} MB/s"
        print_text(f"  {run.bytes:,} bytes in {run.seconds:,.1f} s ({rate})")
    if run.pending:
        print_text(f"  {run.pending:,} records wait in the failed store")
    if run.status == "aborted":
        limits = "--max-rejected N" + (", or --max-deleted N" if run.mode == "replace" else "")
        again = next_commands.completed(history.load_command(run, here))
        print_text(f"  next: {next_commands.completed(run.next or '')}; to load it all the same: {again} {limits}")
    elif run.next and run.status != "running":
        print_text(f"  next: {next_commands.completed(run.next)}")
    click.echo()


def _print_unknown(members: batches.UnknownMembers) -> None:
    if members.unknown:
        others = [("(other members)", members.unknown_others)] if members.unknown_others else []
        print_table("unknown members", [Column("member"), Column("records")], [*members.ordered, *others])


def _status(run: RunRow) -> str:
    """Return the status of a run in words."""
    if run.undone_at is not None:
        return (
            f"undone at {run.undone_at:%Y-%m-%d %H:%M:%S %Z} by {run.undone_by}, {run.rows_undone or 0:,} rows deleted"
        )
    if run.status == "running":
        newest = f"; its newest batch began {run.last_batch_at:%H:%M:%S %Z}" if run.last_batch_at else ""
        return f"running, process {run.pid} of {_account(run)} holds its source{newest}"
    if run.status == "died":
        return (
            f"died, process {run.pid} of {_account(run)} was killed or lost; its committed batches are loaded and count"
        )
    if run.exit_code is None:
        return run.status
    return f"{run.status}, exit code {run.exit_code} at {run.ended_at:%Y-%m-%d %H:%M:%S %Z}"


def _account(row: RunRow | AttemptRow) -> str:
    return "" if row.host is None else f"{row.os_user}@{row.host}"  # The attempts of a run may have been deleted.


def _rounded(value: float | None) -> int | None:
    return None if value is None else round(value)
