"""`etl failed`."""

from pathlib import Path

import click

from etl.cli.options import Common, failed_dir_option, json_option, option, print_json, print_table
from etl.database import connect
from etl.errors import UsageError
from etl.ingestion import ledger
from etl.ingestion.failures import FailedStore


@click.group("failed")
def command() -> None:
    """Look at the records that were refused, and why."""


@command.command("list", epilog="Example: etl failed list --dataset shipments")
@option("--run", help="Only of this run.")
@option("--dataset", help="Only of this dataset.")
@option("--all", "show_all", is_flag=True, help="Also what was replayed, discarded or superseded.")
@json_option
@click.pass_obj
def list_command(common: Common, run: str | None, dataset: str | None, show_all: bool, as_json: bool) -> None:
    """List the files of the failed store that wait."""
    with common.database() as database, connect(database) as connection:
        found = ledger.failures_list(connection, run=run, dataset=dataset, state=None if show_all else "pending")
    if as_json:
        print_json(found)
        return
    print_table(
        "failed store",
        ["id", "dataset", "source", "kind", "state", "records", "sqlstate", "fault", "attempts"],
        [
            tuple(
                row[name]
                for name in (
                    *("id", "dataset", "source", "kind", "state"),
                    *("count_records", "sqlstate", "message", "attempts"),
                )
            )
            for row in found
        ],
    )


@command.command("show", epilog="Example: etl failed show 20261121T081500Z-3f9a1c-10233-r")
@click.argument("id")
@failed_dir_option
@json_option
@click.pass_obj
def show_command(common: Common, id: str, failed_dir: Path, as_json: bool) -> None:
    """Show each record of a file of the failed store with its place, its fault and its text."""
    with common.database() as database, connect(database) as connection:
        found = ledger.failures_list(connection, id=id)
    if not found:
        raise UsageError(f"nothing in the failed store is called {id}", hint="etl failed list")
    row = found[0]
    with FailedStore(failed_dir) as store:
        details = store.details(row["dataset"], row["run"], id)
        lines = store.lines(row["dataset"], row["run"], id)
    details |= {name: row[name] for name in ("state", "attempts", "note")}
    if as_json:
        texts = [line.decode("utf-8", errors="replace") for line in lines]
        print_json([details | {"texts": texts}])
        return
    click.echo(f"{id}: {row['count_records']:,} {row['kind']} records of {row['source']}, {row['state']}")
    for place, line in zip(details["records"], lines, strict=False):
        where = ".".join(filter(None, (place["table"], place["column"])))
        click.echo(f"\nrecord {place['record']:,} at byte {place['offset']:,}, key {place['key'] or 'unknown'}")
        click.echo(f"  {place['sqlstate']} {where + ': ' if where else ''}{place['reason']}")
        click.echo(f"  {line.decode('utf-8', errors='replace')}")
