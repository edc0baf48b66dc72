"""Reports: what an analyst sees of the aggregates, on a terminal, in a file or in a browser.

Without the name of an aggregate a report is about all: how fresh each is; as HTML with the figures of the network.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import BinaryIO, Literal

import psycopg
from rich.table import Table

from etl.errors import UsageError
from etl.precalculation import reading
from etl.precalculation.catalogue import Aggregate
from etl.precalculation.reading import Subject
from etl.report import figures, files, page, state, terminal

Format = Literal["table", "csv", "json", "parquet", "html"]

ROWS_OF_A_TABLE = 20
ROWS_OF_A_PAGE = 1_000  # a browser shows ten times as many, but nobody reads them

# What a reader wants to know first, and no more than a page is wide.
_COLUMNS_OF_THE_OVERVIEW = (
    "aggregate",
    "pending_buckets",
    "rejected_pending",
    "facts_through",
    "newest_event_at",
    "refreshed_at",
    "mode",
    "rows",
    "seconds",
)

_WRITERS: dict[str, Callable[[psycopg.Connection, Subject, int | None, BinaryIO], None]] = {
    "csv": files.write_csv,
    "json": files.write_json,
    "parquet": files.write_parquet,
}


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What is to be reported: an aggregate, or all; these columns, or each; at most so many rows."""

    aggregate: Aggregate | None
    columns: tuple[str, ...] = ()
    limit: int | None = None


@dataclass(frozen=True, kw_only=True)
class Drawn:
    """A table for the terminal: how many rows it shows of how many, and the columns that it has no room for."""

    title: str
    table: Table
    count_rows: int
    count_all: int
    left_out: list[str]


def draw(connection: psycopg.Connection, wanted: Wanted, width: int | None) -> Drawn:
    """Return a table of at most `width` characters; None: as wide as it gets.

    Raises UsageError when there is nothing to report, a column is unknown or the user may not read it.
    """
    with reading.snapshot(connection):
        of = _subject(connection, wanted)
        rows = list(reading.read(connection, of, wanted.limit or ROWS_OF_A_TABLE))
        table, left_out = terminal.drawn([name for name, _ in of.columns], rows, width)
        return Drawn(
            title=_title(connection, wanted),
            table=table,
            count_rows=len(rows),
            count_all=reading.count_rows(connection, of),
            left_out=left_out,
        )


def write(connection: psycopg.Connection, wanted: Wanted, format: Format, output: BinaryIO, *, database: str) -> None:
    """Write a report in a format other than the table; `database` is the name that an HTML page shows.

    Raises UsageError as `draw` does, and when pyarrow is missing for Parquet.
    """
    with reading.snapshot(connection):
        if format != "html":
            _WRITERS[format](connection, _subject(connection, wanted), wanted.limit, output)
        elif wanted.aggregate is None:
            output.write(_overview(connection, wanted, database).encode())
        else:
            output.write(_page_of(connection, wanted, wanted.aggregate, database).encode())


def _subject(connection: psycopg.Connection, wanted: Wanted) -> Subject:
    if wanted.aggregate is None:
        return reading.of_freshness(connection, wanted.columns)
    return reading.of_aggregate(connection, wanted.aggregate, wanted.columns)


def _title(connection: psycopg.Connection, wanted: Wanted) -> str:
    if wanted.aggregate is None:
        return "freshness of the aggregates"
    freshness = reading.freshness_of(connection, wanted.aggregate.name)
    return "; ".join([wanted.aggregate.name, *(each.text for each in state.of_one(freshness))])


def _overview(connection: psycopg.Connection, wanted: Wanted, database: str) -> str:
    if wanted.columns or wanted.limit:
        raise UsageError("the page over all aggregates takes neither --columns nor --limit", hint="name an aggregate")
    freshness = reading.of_freshness(connection, _COLUMNS_OF_THE_OVERVIEW)
    rows = list(reading.read(connection, freshness, None))
    return page.overview(database, reading.read_at(connection), figures.read(connection), freshness, rows)


def _page_of(connection: psycopg.Connection, wanted: Wanted, aggregate: Aggregate, database: str) -> str:
    of = _subject(connection, wanted)
    rows = list(reading.read(connection, of, wanted.limit or ROWS_OF_A_PAGE))
    freshness = reading.freshness_of(connection, aggregate.name)
    return page.of_rows(database, reading.read_at(connection), of, freshness, rows, reading.count_rows(connection, of))
