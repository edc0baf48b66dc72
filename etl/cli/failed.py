"""`etl failed`."""

import re
import shlex
from collections import deque
from datetime import timedelta
from pathlib import Path
from typing import Any

import click

from etl import datasets
from etl.cli import completion, print_error
from etl.cli.options import (
    Common,
    failed_dir_option,
    json_option,
    metrics_option,
    option,
    outlive_reader,
    print_json,
    print_line,
    print_table,
    retry_options,
)
from etl.database.connecting import Database, connect
from etl.database.pooling import require_own_session
from etl.errors import BusyError, ExitCode, UsageError, gravest
from etl.ingestion.failed_store.locating import is_plain, length_in
from etl.ingestion.failed_store.store import FailedStore
from etl.ingestion.ledger import failures
from etl.ingestion.pipeline.refreshing import precalculate
from etl.ingestion.pipeline.replay import ReplayResult, replay, require_whole
from etl.ingestion.pipeline.stopping import Stop
from etl.metrics import Report
from etl.settings import RetrySettings


@click.group("failed")
def command() -> None:
    """Look at the records that were refused, put them right, and load them again."""


@command.command("list", epilog="Example: etl failed list --dataset shipments")
@option("--run", shell_complete=completion.runs, help="Only of this run.")
@option("--dataset", shell_complete=completion.datasets, help="Only of this dataset.")
@option("--all", "show_all", is_flag=True, help="Also what was replayed, discarded or superseded.")
@json_option
@click.pass_obj
def list_command(common: Common, run: str | None, dataset: str | None, show_all: bool, as_json: bool) -> None:
    """List the files of the failed store that wait."""
    with common.database() as database:
        found = _find(database, run=run, dataset=dataset, state=None if show_all else "pending")
    if as_json:
        print_json(found)
        return
    names = ("id", "dataset", "source", "kind", "state", "count_records", "sqlstate", "message", "attempts")
    print_table(
        "failed store",
        ["id", "dataset", "source", "kind", "state", "records", "sqlstate", "first fault", "attempts"],
        [tuple(row[name] for name in names) for row in found],
    )


@command.command("show", epilog="Example: etl failed show 20261121T081500Z-3f9a1c-10233-r")
@click.argument("id", shell_complete=completion.failures)
@failed_dir_option
@json_option
@click.pass_obj
def show_command(common: Common, id: str, failed_dir: Path, as_json: bool) -> None:
    """Show each record of a file of the failed store with its place, its fault and its text."""
    with common.database() as database:
        row = _named(database, id)
    with FailedStore(failed_dir) as store:
        details = store.details(row["dataset"], row["run"], id)
        lines = store.content(row["dataset"], row["run"], id).splitlines()
    details |= {name: row[name] for name in ("state", "attempts", "note")}
    if as_json:
        print_json([details | {"texts": [line.decode("utf-8", errors="replace") for line in lines]}])
        return
    click.echo(f"{id}: {row['count_records']:,} {row['kind']} records of {row['source']}, {row['state']}")
    for place, line in zip(details["records"], lines, strict=False):
        where = ".".join(filter(None, (place["table"], place["column"])))
        click.echo(f"\nrecord {place['record']:,} at byte {place['offset']:,}, key {place['key'] or 'unknown'}")
        click.echo(f"  {place['sqlstate']} {where + ': ' if where else ''}{place['reason']}")
        click.echo(f"  {line.decode('utf-8', errors='replace')}")
        if is_plain(row["source"]):
            name = shlex.quote(f"./{row['source']}" if row["source"].startswith("-") else row["source"])
            length = length_in(row["source"], place["offset"], line, is_keyed=details.get("keyed", False))
            click.echo(f"  tail -c +{place['offset'] + 1} {name} | head -c {length}")


@command.command("replay", epilog="Example: etl failed replay --dataset shipments")
@click.argument("ids", nargs=-1, metavar="[ID...]", shell_complete=completion.failures)
@option("--run", shell_complete=completion.runs, help="All that wait of this run.")
@option("--dataset", shell_complete=completion.datasets, help="All that wait of this dataset.")
@option("--all", "replay_all", is_flag=True, help="All that wait.")
@option("--no-precalculate", is_flag=True, help="Leave the aggregates as they are.")
@failed_dir_option
@metrics_option("replay")
@retry_options
@json_option
@click.pass_obj
def replay_command(
    common: Common,
    ids: tuple[str, ...],
    run: str | None,
    dataset: str | None,
    replay_all: bool,
    no_precalculate: bool,
    failed_dir: Path,
    retries: RetrySettings,
    as_json: bool,
    report: Report,
) -> int:
    """Load records of the failed store again, as their .ndjson files hold them now.

    Exit code 0 when all are in, 1 when some are refused again: these wait under a new id with their new reason.
    """
    outlive_reader()
    if not (ids or run or dataset or replay_all):
        raise UsageError("nothing is named to replay", hint="name ids, --run, --dataset or --all")
    codes: set[int] = set()
    last_run = None
    with common.database() as database, FailedStore(failed_dir) as store:
        with connect(database) as connection:
            require_own_session(connection, database)
        store.prepare()
        found = [_named(database, each) for each in ids] if ids else _find(database, run=run, dataset=dataset)
        chosen = found if ids else [row for row in found if row["state"] == "pending"]
        if not chosen:
            click.echo(" ".join(["nothing waits", *([f"of {run or dataset}"] if run or dataset else [])]), err=True)
        definitions = {name: datasets.find(name, common.config_dir) for name in {row["dataset"] for row in chosen}}
        for row in chosen:
            if row["state"] == "pending":
                require_whole(row, store)
        for row in chosen:
            try:
                one = replay(row, definitions[row["dataset"]], database, store, retries)
            except BusyError as error:  # The others need not wait for it.
                print_error(error)
                codes.add(error.exit_code)
                continue
            if one is not None:
                codes.add(ExitCode.FINDINGS if one.stored else ExitCode.SUCCESS)
                last_run = one.run
                report.count(one.dataset, {"loaded": one.loaded, "rejected": one.rejected, "failed": one.failed})
                _tell_replayed(one, as_json=as_json)
            elif ids:
                click.echo(f"{row['id']} does not wait: {_named(database, row['id'])['state']}", err=True)
        if not no_precalculate:
            # Of all that was found: a replay before this one may have been killed before it came to this.
            touched = {row["dataset"] for row in found if row["state"] in {"pending", "replayed"}}
            readable = [each for each in datasets.readable(common.config_dir) if each.name in touched]
            tables = {table.name for each in readable for table in each.tables}
            deque(precalculate(database, common.config_dir, tables, last_run, Stop()), maxlen=0)
        report.look_at(database)
    return gravest(codes)


def _tell_replayed(one: ReplayResult, *, as_json: bool) -> None:
    if as_json:
        print_json([vars(one)], print_line)
        return
    again = f"; waits as {', '.join(one.stored)}" if one.stored else ""
    print_line(f"replayed {one.id}: {one.loaded:,} loaded, {one.rejected + one.failed:,} refused again{again}")


@command.command("discard", epilog="Example: etl failed discard 20261121T081500Z-3f9a1c-10233-r --reason 'test data'")
@click.argument("ids", nargs=-1, required=True, metavar="ID...", shell_complete=completion.failures)
@option("--reason", required=True, help="Why these records are given up; kept in the ledger.")
@failed_dir_option
@json_option
@click.pass_obj
def discard_command(common: Common, ids: tuple[str, ...], reason: str, failed_dir: Path, as_json: bool) -> None:
    """Give records of the failed store up, for a reason; their files stay."""
    if not reason.strip():
        raise UsageError("--reason expects a reason")
    with common.database() as database, connect(database) as connection, FailedStore(failed_dir) as store:
        for row in [_named(database, each) for each in ids]:
            if not failures.discard(connection, row["id"], reason):
                raise UsageError(f"{row['id']} does not wait: {row['state']}", hint="etl failed list --all")
            store.note_state(row["dataset"], row["run"], row["id"], "discarded", reason)
            if as_json:
                print_json([{"id": row["id"], "count_records": row["count_records"], "reason": reason}])
            else:
                click.echo(f"discarded {row['id']}: {row['count_records']:,} records")


@command.command("purge", epilog="Example: etl failed purge --older-than 30d")
@option("--older-than", required=True, metavar="AGE", help="Least age since they were refused, as in 30d, 12h or 4w.")
@option("--dataset", shell_complete=completion.datasets, help="Only of this dataset.")
@failed_dir_option
@json_option
@click.pass_obj
def purge_command(common: Common, older_than: str, dataset: str | None, failed_dir: Path, as_json: bool) -> None:
    """Remove the files of records that were replayed, discarded or superseded; what waits is never removed.

    The ledger goes on to tell what became of them, without their content.
    """
    age = _age(older_than)
    removed = count_records = count_bytes = 0
    with common.database() as database, connect(database) as connection, FailedStore(failed_dir) as store:
        for row in failures.settled(connection, age, dataset):
            size = store.remove(row["dataset"], row["run"], row["id"])
            if size is None:
                continue
            removed, count_records, count_bytes = removed + 1, count_records + row["count_records"], count_bytes + size
            if as_json:
                print_json([row | {"bytes": size}])
            else:
                click.echo(f"removed {row['id']}: {row['count_records']:,} records, {row['state']}")
    if not as_json:
        click.echo(f"{removed:,} files with {count_records:,} records removed, {count_bytes:,} bytes")


_AGE = re.compile(r"([0-9]{1,6})([hdw])")


def _age(text: str) -> timedelta:
    found = _AGE.fullmatch(text.strip())
    if found is None:
        raise UsageError(f"--older-than expects an age such as 30d, 12h or 4w, got {text!r}")
    return timedelta(hours=int(found[1]) * {"h": 1, "d": 24, "w": 168}[found[2]])


def _find(database: Database, **wanted: str | None) -> list[dict[str, Any]]:
    with connect(database) as connection:
        return failures.find(connection, **wanted)


def _named(database: Database, id: str) -> dict[str, Any]:
    found = _find(database, id=id)
    if not found:
        raise UsageError(f"nothing in the failed store is called {id}", hint="etl failed list --all")
    return found[0]
