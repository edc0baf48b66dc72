"""`etl report`."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import click

from etl import report
from etl.cli import completion
from etl.cli.groups import Command
from etl.cli.options import Common, json_option, option, print_note, print_text
from etl.cli.tables import Column, print_cells
from etl.database.connecting import connect
from etl.errors import UsageError, cannot_write
from etl.exporting import places
from etl.precalculation import catalogue
from etl.standard_streams import binary_output

_ENDINGS: dict[str, report.Format] = {
    ".csv": "csv",
    ".json": "json",
    ".ndjson": "json",
    ".parquet": "parquet",
    ".html": "html",
}


@click.command("report", cls=Command, epilog="Example: etl report lane_performance --format csv --output lanes.csv")
@click.argument("aggregate", required=False, metavar="[AGGREGATE]", shell_complete=completion.aggregates)
@option(
    "--format",
    type=click.Choice(["table", "csv", "json", "parquet", "html"]),
    help="Default: by the ending of --output, else table. json is one object per line.",
)
@option("--output", metavar="FILE", default="-", show_default=True, help="File to write; - for standard output.")
@option("--columns", metavar="NAME,...", help="Columns to show, in this order. Default: all.")
@option("--limit", type=click.IntRange(1), help="Number of rows. Default: 20 in a table, 1,000 in html.")
@option("--from", "place", metavar="DIR|URL", help="Read the page on all aggregates from an export, without a server.")
@json_option
@click.pass_obj
def command(
    common: Common,
    aggregate: str | None,
    format: report.Format | None,
    output: str,
    columns: str | None,
    limit: int | None,
    place: str | None,
    as_json: bool,
) -> None:
    """Show an aggregate, newest rows first. Without a name: when each was refreshed, in html also charts."""
    (chosen,) = catalogue.choose([aggregate], common.config_dir) if aggregate else (None,)
    names = tuple(name.strip() for name in (columns or "").split(",") if name.strip())
    if as_json and format not in {None, "json"}:
        raise UsageError(f"--json and --format {format} exclude each other")
    chosen_format = "json" if as_json else format or _ENDINGS.get(Path(output).suffix.lower(), "table")
    if chosen_format == "table" and output != "-":
        raise UsageError(f"the ending of {output} names no format", hint="give --format csv, json, parquet or html")
    is_overview = chosen is None and chosen_format == "html"
    known = tuple(catalogue.choose([], common.config_dir)) if is_overview else ()
    if place is not None:
        if not is_overview or names or limit:
            raise UsageError(
                "--from gives the page on all aggregates only",
                hint="etl report --from DIR --output page.html; for rows etl sql",
            )
        with _opened(output, chosen_format) as file:
            report.write_page_of_export(places.place_of(place), known, file)
        return
    request = report.ReportRequest(aggregate=chosen, columns=names, limit=limit, known=known)
    # Not `database()`, which reads the ledger: an analyst has no right to, and needs none.
    with common.server(creates=False) as database, connect(database, "etl:report", sees_all=False) as connection:
        if chosen_format == "table":
            _show(report.draw(connection, request), database.place)
            return
        with _opened(output, chosen_format) as file:
            report.write(connection, request, chosen_format, file, database=database.name)


def _show(shown: report.TerminalReport, place: str) -> None:
    if not shown.cells:
        print_text(shown.title)
        print_text(f"no row in {place}")
        return
    columns = [Column(name, rank) for name, rank in zip(shown.columns, shown.ranks, strict=True)]
    print_cells(shown.title, columns, shown.cells, shown.is_number, "--columns, --format csv, or in a pipe")
    if len(shown.cells) < shown.count_all:
        print_note(f"{len(shown.cells):,} of {shown.count_all:,} rows; more with --limit")


@contextmanager
def _opened(output: str, format: str) -> Iterator[BinaryIO]:
    """Yield standard output, or a file that gets its name when it is complete."""
    if output == "-":
        if format == "parquet" and sys.stdout.isatty():
            raise UsageError("parquet cannot be printed on a terminal", hint="give a file with --output")
        with binary_output() as file:
            yield file
        return
    path = Path(output)
    unfinished = path.with_name(f".{path.name}.unfinished")
    try:
        try:
            with unfinished.open("wb") as file:
                yield file
            unfinished.replace(path)
        finally:
            unfinished.unlink(missing_ok=True)
    except OSError as error:
        raise cannot_write(output, error) from error
