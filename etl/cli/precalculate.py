"""`etl precalculate`."""

import click

from etl.cli.options import Common, json_option, print_json, print_table
from etl.database import connect
from etl.precalculation import catalogue, refresh


@click.command("precalculate", epilog="Example: etl precalculate daily_shipments lane_performance")
@click.argument("aggregates", nargs=-1, metavar="[AGGREGATE...]")
@json_option
@click.pass_obj
def command(common: Common, aggregates: tuple[str, ...], as_json: bool) -> None:
    """Bring aggregates up to date with the facts: those named, or all."""
    chosen = catalogue.choose(aggregates)
    with common.database() as database, connect(database, "etl:precalculate") as connection:
        done = [refresh.refresh(connection, aggregate, run=None) for aggregate in chosen]
    if as_json:
        print_json(vars(refreshed) for refreshed in done)
        return
    print_table(
        "precalculated",
        ["aggregate", "rows changed", "seconds"],
        [(refreshed.aggregate, refreshed.rows, refreshed.seconds) for refreshed in done],
    )
