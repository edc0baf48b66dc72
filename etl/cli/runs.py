"""`etl runs`."""

import click

from etl.cli import completion
from etl.cli.options import Common, json_option, option, print_json, print_table
from etl.database import connect
from etl.errors import UsageError
from etl.ingestion import ledger


@click.group("runs")
def command() -> None:
    """Show what was loaded, when, from where, and how it ended."""


@command.command("list", epilog="Example: etl runs list --limit 5")
@option("--limit", type=click.IntRange(1), default=20, show_default=True, help="How many of the newest.")
@json_option
@click.pass_obj
def list_command(common: Common, limit: int, as_json: bool) -> None:
    """List the newest runs."""
    with common.database() as database, connect(database) as connection:
        found = ledger.runs_list(connection, run=None, limit=limit)
    if as_json:
        print_json(found)
        return
    print_table(
        "runs",
        [
            "run",
            "dataset",
            "source",
            "state",
            "records",
            "loaded",
            "rejected",
            "failed",
            "pending",
            "attempts",
        ],
        [
            (
                row["run"],
                row["dataset"],
                row["source"],
                "finished" if row["finished_at"] else "not finished",
                *(row[name] for name in ("records", "loaded", "rejected", "failed", "pending", "attempts")),
            )
            for row in found
        ],
    )


@command.command("show", epilog="Example: etl runs show 20261121T081500Z-3f9a1c")
@click.argument("run", shell_complete=completion.runs)
@json_option
@click.pass_obj
def show_command(common: Common, run: str, as_json: bool) -> None:
    """Show one run: its attempts, its balance, and what waits in the failed store."""
    with common.database() as database, connect(database) as connection:
        found = ledger.runs_list(connection, run=run, limit=1)
        if not found:
            raise UsageError(f"no run is called {run}", hint="etl runs list")
        attempts = ledger.run_attempts(connection, run)
        failed = ledger.failures_list(connection, run=run)
    if as_json:
        print_json([found[0] | {"attempts": attempts, "failures": failed}])
        return
    print_table(f"run {run}", ["what", "value"], list(found[0].items()))
    print_table(
        "attempts",
        ["attempt", "started", "ended", "exit code", "read", "retried", "bytes", "host", "user", "pid"],
        [tuple(row.values()) for row in attempts],
    )
    if failed:
        print_table(
            "failed store",
            ["id", "kind", "state", "records", "fault"],
            [tuple(row[name] for name in ("id", "kind", "state", "count_records", "message")) for row in failed],
        )
