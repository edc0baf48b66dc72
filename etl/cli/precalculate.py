"""`etl precalculate`."""

from collections.abc import Collection, Sequence

import click
import psycopg

from etl.cli import completion, print_error, print_warning
from etl.cli.groups import Command
from etl.cli.options import Common, json_option, metrics_option, option, print_json, print_note, print_text
from etl.cli.tables import Column, print_table
from etl.database.connecting import connect
from etl.errors import EtlError, ExitCode, UsageError, gravest
from etl.metrics import Report
from etl.precalculation import catalogue, installation, pending, refresh, verify
from etl.precalculation.catalogue import Aggregate


@click.command("precalculate", cls=Command, epilog="Example: etl precalculate daily_shipments lane_performance")
@click.argument("aggregates", nargs=-1, metavar="[AGGREGATE...]", shell_complete=completion.aggregates)
@option("--full", is_flag=True, help="Recompute every bucket, not only the changed ones.")
@option(
    "--verify",
    "verifies",
    is_flag=True,
    help="Compare with the facts; exit code 1 if some differ.",
)
@option("--list", "lists", is_flag=True, help="Show grain, bucket, last refresh and pending buckets.")
@option(
    "--ddl",
    "prints_ddl",
    is_flag=True,
    help="Print the SQL of the tables, and of the triggers on the facts.",
)
@metrics_option("precalculate")
@json_option
@click.pass_obj
def command(
    common: Common,
    aggregates: tuple[str, ...],
    full: bool,
    verifies: bool,
    lists: bool,
    prints_ddl: bool,
    as_json: bool,
    report: Report,
) -> int:
    """Bring all aggregates, or the named ones, up to date with the facts."""
    if full + verifies + lists + prints_ddl > 1:
        raise UsageError("--full, --verify, --list and --ddl exclude each other")
    only_looks = verifies or lists or prints_ddl
    if only_looks:
        report.withdraw()
    chosen = catalogue.choose(aggregates, common.config_dir)
    wrong = [] if aggregates else list(catalogue.look(common.config_dir)[1].values())
    for error in wrong:
        print_warning(error)
    left_out = ExitCode.USAGE if wrong else ExitCode.SUCCESS
    with (
        common.looking() if only_looks else common.database() as database,
        connect(database, "etl:precalculate") as connection,
    ):
        if lists:
            return _list(connection, chosen, database.place, as_json=as_json)
        if verifies:
            return gravest([left_out, _verify(connection, chosen, as_json=as_json)])
        if prints_ddl:
            return _print_ddl(connection, chosen)
        try:
            _refresh(connection, chosen, full=full, as_json=as_json)
        finally:
            report.look(connection)
        return left_out


def _refresh(connection: psycopg.Connection, chosen: Sequence[Aggregate], *, full: bool, as_json: bool) -> None:
    done: list[refresh.RefreshResult] = []
    try:
        done.extend(refresh.refresh_all(connection, chosen, run=None, full=full))
    finally:  # Aggregates that were refreshed before an error are reported, too.
        _print_done(done, as_json=as_json)


def _print_done(done: Sequence[refresh.RefreshResult], *, as_json: bool) -> None:
    if as_json:
        print_json(vars(refreshed) for refreshed in done)
    elif done:
        print_table(
            "precalculated",
            [Column("aggregate"), Column("buckets"), Column("rows changed"), Column("seconds", 1)],
            [(refreshed.aggregate, refreshed.buckets, refreshed.rows, refreshed.seconds) for refreshed in done],
        )


def _list(connection: psycopg.Connection, chosen: Sequence[Aggregate], place: str, *, as_json: bool) -> int:
    names = [aggregate.name for aggregate in chosen]
    installed = [row for row in pending.installed(connection) if row["aggregate"] in names]
    missing = sorted(set(names) - {row["aggregate"] for row in installed})
    if missing:
        print_note(f"not in the database yet: {', '.join(missing)}; etl db migrate")
    if as_json:
        print_json(installed)
    elif not installed:
        print_text(f"no aggregate in {place}")
    else:
        columns = [
            *(Column("aggregate"), Column("grain", 3, "text"), Column("bucket", 2), Column("refreshed at", 1)),
            Column("pending buckets"),
        ]
        print_table("aggregates", columns, [tuple(row.values()) for row in installed])
    return ExitCode.SUCCESS


def _verify(connection: psycopg.Connection, chosen: Sequence[Aggregate], *, as_json: bool) -> int:
    compared = []
    failed: list[EtlError] = []
    for aggregate in chosen:
        try:
            compared.append(verify.verify(connection, aggregate))
        except UsageError as error:  # It hinders no other aggregate.
            failed.append(error)
        except psycopg.Error as error:
            failed.append(refresh.own_error(connection, aggregate, error))
    for failure in failed:
        print_error(failure)
    if as_json:
        print_json(
            vars(each) | {"keys": [{"key": key, "difference": difference} for key, difference in each.keys]}
            for each in compared
        )
    else:
        print_table(
            "verified",
            [Column("aggregate"), Column("differences"), Column("pending")],
            [(each.aggregate, each.differences, each.pending) for each in compared],
        )
        differing = [
            (each.aggregate, ", ".join(f"{name}={value}" for name, value in key.items()), difference)
            for each in compared
            for key, difference in each.keys
        ]
        if differing:
            columns = [Column("aggregate"), Column("key", kind="text"), Column("row is")]
            print_table("differences", columns, differing)
    _explain(connection, {each.aggregate for each in compared if each.differences})
    found = ExitCode.FINDINGS if any(each.differences for each in compared) else ExitCode.SUCCESS
    return gravest([found, *(failure.exit_code for failure in failed)])


def _explain(connection: psycopg.Connection, differing: Collection[str]) -> None:
    """Name the facts with partitions: their changes may have come past the triggers."""
    for fact, names in installation.divided(connection):
        if affected := [name for name in names if name in differing]:
            print_note(
                f"{fact} is partitioned, and changes by the name of a partition are not noted:"
                f" etl precalculate --full {' '.join(affected)}"
            )


def _print_ddl(connection: psycopg.Connection, chosen: Sequence[Aggregate]) -> int:
    for aggregate in chosen:
        for statement in installation.ddl(connection, aggregate):
            click.echo(f"{statement.as_string(connection)};\n")
    return ExitCode.SUCCESS
