"""`etl runs`."""

import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, get_args

import click

from etl.cli import completion
from etl.cli.options import Common, json_option, option, print_json, print_table
from etl.database.connecting import connect
from etl.errors import UsageError
from etl.ingestion.ledger import failures, history
from etl.ingestion.ledger.history import RunFilter, RunStatus
from etl.ingestion.pipeline import tracing

_UNITS = {"m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


class _Since(click.ParamType[datetime]):
    """A moment: a date or time (UTC where it names no zone), or how long ago."""

    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> datetime:
        if isinstance(value, datetime):
            return value
        try:
            if ago := re.fullmatch(r"(\d{1,9})([mhdw])", value):
                return datetime.now(UTC) - timedelta(**{_UNITS[ago[2]]: int(ago[1])})
            found = datetime.fromisoformat(value)
            return found if found.tzinfo else found.replace(tzinfo=UTC)
        except (ValueError, OverflowError):
            self.fail("expected a date, a time, or how long ago as in 30m, 12h, 7d, 2w", param, ctx)


@click.group("runs")
def command() -> None:
    """Show what was loaded, when, from where, and how it ended."""


@command.command("list", epilog="Example: etl runs list --dataset shipments --since 7d")
@option("--dataset", shell_complete=completion.datasets, help="Only of this dataset.")
@option("--status", type=click.Choice(get_args(RunStatus)), help="Only those that stand so now.")
@option("--since", type=_Since(), metavar="WHEN", help="Only those begun since: 2026-11-21, or ago: 30m, 12h, 7d, 2w.")
@option("--limit", type=click.IntRange(1), default=20, show_default=True, help="How many of the newest.")
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
    wanted = RunFilter(dataset=dataset, status=status, since=since, limit=limit)
    with common.database() as database, connect(database) as connection:
        found = history.runs(connection, wanted, Path.cwd())
    if as_json:
        print_json(found)
        return
    print_table(
        "runs",
        ["run", "started", "ended", "dataset", "source", "status", "records", "rejected", "waiting", "records/s", "by"],
        [
            (
                *(row[name] for name in ("run", "started_at", "ended_at", "dataset", "source", "status")),
                *(row[name] for name in ("records", "rejected", "pending")),
                _rounded(row["records_per_second"]),
                _who(row),
            )
            for row in found
        ],
    )


@command.command("show", epilog="Example: etl runs show 20261121T081500Z-3f9a1c")
@click.argument("run", shell_complete=completion.runs)
@json_option
@click.pass_obj
def show_command(common: Common, run: str, as_json: bool) -> None:
    """Show one run, also while it goes on: its attempts, its balance, what was refused and why, and what to do next."""
    with common.database() as database, connect(database) as connection:
        found = history.runs(connection, RunFilter(run=run), Path.cwd())
        if not found:
            raise UsageError(f"no run is called {run}", hint="etl runs list")
        attempts = history.attempts(connection, run)
        faults = history.faults(connection, run)
        failed = failures.find(connection, run=run)
    if as_json:
        print_json([found[0] | {"attempts": attempts, "faults": faults, "failures": failed}])
        return
    _print_run(found[0], Path.cwd())
    print_table(
        "attempts",
        ["attempt", "started", "ended", "exit code", "read", "retried", "bytes", "by", "pid", "version", "source"],
        [
            (
                *(row[name] for name in ("attempt", "started_at", "ended_at", "exit_code")),
                *(row[name] for name in ("count_read", "count_retried", "bytes_read")),
                *(_who(row), str(row["pid"]), row["tool_version"], row["source"]),
            )
            for row in attempts
        ],
    )
    if faults:
        names = ("kind", "state", "sqlstate", "table", "column", "reason", "count_records")
        print_table(
            "refused",
            ["kind", "state", "sqlstate", "table", "column", "reason", "records", "first record", "at byte"],
            [tuple(row[name] for name in (*names, "first_record", "first_offset")) for row in faults],
        )
    if failed:
        print_table(
            "failed store",
            ["id", "kind", "state", "records", "first fault"],
            [tuple(row[name] for name in ("id", "kind", "state", "count_records", "message")) for row in failed],
        )


@command.command("trace", epilog="Example: etl runs trace logistics.shipments shipment_id=SHP-000000017")
@click.argument("table")
@click.argument("values", nargs=-1, required=True, metavar="COLUMN=VALUE...")
@json_option
@click.pass_obj
def trace_command(common: Common, table: str, values: tuple[str, ...], as_json: bool) -> None:
    """Show from which record of which source the rows of a table came that hold these values, and its text."""
    wanted = [
        (column, value) for column, equals, value in (each.partition("=") for each in values) if column and equals
    ]
    if len(wanted) < len(values):
        raise UsageError("expected COLUMN=VALUE", hint="as in shipment_id=SHP-000000017")
    with common.database() as database, connect(database) as connection:
        found, has_more = tracing.trace(connection, table, wanted)
    if as_json:
        print_json(found)
    for row in () if as_json else found:
        if row["run"] is None:
            click.echo(row["missing"])
            continue
        where = f"record {row['record']:,} of {row['source']}"
        at = "" if row["offset"] is None else f" at byte {row['offset']:,}"
        click.echo(f"{where}{at}, loaded by run {row['run']} ({row['loaded_at']:%Y-%m-%d %H:%M:%S %Z})")
        click.echo(f"  {row['text'] if row['text'] is not None else row['missing']}")
    if has_more:
        click.echo(f"more than {tracing.MAX_ROWS} records: name more columns", err=True)


def _print_run(row: Mapping[str, Any], here: Path) -> None:
    click.echo(f"run {row['run']}: {_standing(row)}")
    click.echo(
        f"  {row['dataset']} from {row['source']}, {row['mode']}, begun {row['started_at']:%Y-%m-%d %H:%M:%S %Z}"
    )
    counts = (f"{row[name]:,} {name}" for name in ("loaded", "rejected", "failed"))
    click.echo(f"  {row['records']:,} records in {row['batches']:,} batches: {', '.join(counts)}")
    if row["records_per_second"]:
        rate = f"{row['records_per_second']:,.0f} records/s, {row['bytes'] / 1e6 / row['seconds']:,.1f} MB/s"
        click.echo(f"  {row['bytes']:,} bytes in {row['seconds']:,.1f} s ({rate})")
    if row["pending"]:
        click.echo(f"  {row['pending']:,} records wait in the failed store")
    if row["status"] == "aborted":
        click.echo(
            f"  next: {row['next']}, and when it is meant so: {history.load_command(row, here)} --max-rejected N"
        )
    elif row["next"] and row["status"] != "running":
        click.echo(f"  next: {row['next']}")
    click.echo()


def _standing(row: Mapping[str, Any]) -> str:
    """Return in words how a run stands."""
    if row["status"] == "running":
        latest = f"; its newest batch began {row['last_batch_at']:%H:%M:%S %Z}" if row["last_batch_at"] else ""
        return f"running, process {row['pid']} of {_who(row)} holds its source{latest}"
    if row["status"] == "died":
        return f"died, process {row['pid']} of {_who(row)} ended without a word; what it brought in is in, and counts"
    code = (
        "" if row["exit_code"] is None else f", exit code {row['exit_code']} at {row['ended_at']:%Y-%m-%d %H:%M:%S %Z}"
    )
    return f"{row['status']}{code}"


def _who(row: Mapping[str, Any]) -> str:
    return f"{row['os_user']}@{row['host']}"


def _rounded(value: float | None) -> int | None:
    return None if value is None else round(value)
