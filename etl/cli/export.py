"""`etl export`."""

import click

from etl.cli.groups import Command
from etl.cli.options import Common, json_option, option, print_json, print_text
from etl.database.connecting import connect
from etl.errors import UsageError
from etl.exporting import changes, exports, places


@click.command(
    "export",
    cls=Command,
    epilog="Example: etl export shipments carrier_scorecard --to exports --format parquet --partition month",
)
@click.argument("names", nargs=-1, metavar="[TABLE|AGGREGATE]...")
@option("--to", metavar="DIR|URL", required=True, help="Folder of the export, or its URL: s3://, gs:// or az://.")
@option(
    "--format",
    type=click.Choice(["parquet", "csv", "duckdb", "arrow"]),
    default="parquet",
    show_default=True,
    help="Format of the files; duckdb is one file with all tables.",
)
@option("--partition", type=click.Choice(["month"]), help="Write one file for each month of a table that has a time.")
@option("--since-last", is_flag=True, help="Write only what changed since the last export to this place.")
@option("--forget", is_flag=True, help="Note no more changes for this place, which is not used again; its files stay.")
@json_option
@click.pass_obj
def command(
    common: Common,
    names: tuple[str, ...],
    to: str,
    format: exports.Format,
    partition: str | None,
    since_last: bool,
    forget: bool,
    as_json: bool,
) -> None:
    """Write tables of one instant to files. Without a name: all facts and aggregates."""
    place = places.place_of(to)
    # Not `database()`, which reads the ledger: an analyst has no right to, and needs none.
    with common.server(creates=False) as database, connect(database, "etl:export", sees_all=False) as connection:
        if forget:
            if names or since_last:
                raise UsageError("--forget takes neither tables nor --since-last")
            was_known = changes.forget(connection, place.identity)
            said = "are noted no more" if was_known else "were not noted"
            print_text(f"changes for {place.name} {said}; its files stay")
            return
        request = exports.ExportRequest(
            tables=names,
            format=format,
            by_month=partition == "month",
            since_last=since_last,
            database=database.name,
            config_dir=common.config_dir,
        )
        written = exports.export(connection, request, place)
    if as_json:
        print_json([exports.summary(written, place)])
        return
    for table in written.tables:
        print_text(f"exported {table.table}: {table.rows:,} rows in {len(table.files)} files")
    read_at = f"{written.read_at:%Y-%m-%d %H:%M:%S} UTC"
    print_text(f"export {written.export} in {place.name}: {written.rows:,} rows, read at {read_at}")
