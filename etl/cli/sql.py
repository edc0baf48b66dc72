"""`etl sql`."""

from decimal import Decimal
from typing import Any

import click
import msgspec

from etl.cli.groups import Command
from etl.cli.options import json_option, option, print_json, print_note, print_text
from etl.cli.tables import Column, print_cells
from etl.exporting import places, querying
from etl.exporting.querying import Answer
from etl.report import display


@click.command("sql", cls=Command, epilog='Example: etl sql "select count(*) from logistics.shipments"')
@click.argument("query")
@option("--from", "place", metavar="DIR|URL", default="exports", show_default=True, help="Folder or URL of the export.")
@json_option
def command(query: str, place: str, as_json: bool) -> None:
    """Answer a query of SQL from the last export, by DuckDB and without a server."""
    answer = querying.answer(places.place_of(place), query)
    if as_json:
        rows = [[_with_digits(value) for value in row] for row in answer.rows]
        print_json([{"kind": "answer", **answer.freshness, "columns": answer.columns, "rows": rows}])
        return
    cells = list(zip(*display.by_column(answer.rows, len(answer.columns)), strict=True))
    columns = [Column(name, rank) for rank, name in enumerate(answer.columns)]
    title = f"read at {answer.export.read_at:%Y-%m-%d %H:%M:%S} UTC"
    if cells:
        is_number = display.numeric_columns(answer.rows, len(answer.columns))
        print_cells(title, columns, cells, is_number, "--json, or in a pipe")
    else:
        print_text(f"no row, {title}")
    _tell_freshness(answer)


def _with_digits(value: Any) -> Any:
    """Return a decimal as a number of JSON with all its digits."""
    return msgspec.Raw(f"{value:f}".encode()) if isinstance(value, Decimal) else value


def _tell_freshness(answer: Answer) -> None:
    """Say of each table that the answer read which loads it includes, and what was pending."""
    for table in answer.tables:
        through = f"loads up to {table.facts_through:%Y-%m-%d %H:%M:%S} UTC" if table.facts_through else "loads unknown"
        pending = f"; {table.pending_buckets:,} buckets were pending" if table.pending_buckets else ""
        print_note(f"{table.table}: {through}{pending}")
