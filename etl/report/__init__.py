"""Reports on the aggregates: on a terminal, in a file, or in a browser.

A report without the name of an aggregate shows how fresh all aggregates are; in HTML also the figures of the network.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO, Literal

import psycopg

from etl.errors import UsageError
from etl.exporting import querying
from etl.exporting.manifest import Manifest
from etl.exporting.places import Place
from etl.precalculation import reading
from etl.precalculation.catalogue import Aggregate
from etl.precalculation.reading import Subject
from etl.report import display, files, state

Format = Literal["table", "csv", "json", "parquet", "html"]

ROWS_OF_A_TABLE = 20
ROWS_OF_A_PAGE = 1_000  # a browser shows ten times as many, but nobody reads them

# The columns that a reader needs first; more do not fit on the page. A narrow terminal leaves out the last ones first.
_COLUMNS_OF_THE_OVERVIEW = (
    "aggregate",
    "pending_buckets",
    "rejected_pending",
    "facts_through",
    "newest_event_at",
    "future_event_at",
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
class ReportRequest:
    """The content of a report: one aggregate, or all; these columns, or all; at most `limit` rows.

    A page on all tells by `known`, all aggregates of the installation, which of them cannot have rows yet.
    """

    aggregate: Aggregate | None
    known: tuple[Aggregate, ...] = ()
    columns: tuple[str, ...] = ()
    limit: int | None = None


@dataclass(frozen=True, kw_only=True)
class TerminalReport:
    """A table for the terminal: the texts of its rows, the columns that hold numbers, and the count of all rows.

    `ranks` says for each column how early it is left out: a reader needs those with low ranks first.
    """

    title: str
    columns: list[str]
    ranks: list[int]
    cells: list[tuple[str, ...]]
    is_number: list[bool]
    count_all: int


def draw(connection: psycopg.Connection, request: ReportRequest) -> TerminalReport:
    """Return a table for the terminal.

    Raises UsageError when the aggregate was never computed, a column is unknown, or the user may not read it.
    """
    with reading.snapshot(connection, _aggregates(request)):
        subject = _subject(connection, request)
        rows = list(reading.read(connection, subject, _most_rows(request)))
        columns = [name for name, _ in subject.columns]
        return TerminalReport(
            title=_title(connection, request),
            columns=columns,
            ranks=_ranks(columns, request),
            cells=list(zip(*display.by_column(rows, len(columns)), strict=True)),
            is_number=display.numeric_columns(rows, len(columns)),
            count_all=reading.count_rows(connection, subject),
        )


def _most_rows(request: ReportRequest) -> int | None:
    """Return how many rows a terminal shows at most; the list of the aggregates is not cut."""
    return request.limit or (ROWS_OF_A_TABLE if request.aggregate is not None else None)


def write(
    connection: psycopg.Connection, request: ReportRequest, format: Format, output: BinaryIO, *, database: str
) -> None:
    """Write a report in any format but the table; `database` is the name that an HTML page shows.

    Raises UsageError as `draw` does, and when pyarrow is missing for Parquet.
    """
    with reading.snapshot(connection, _aggregates(request, format)):
        if format != "html":
            _WRITERS[format](connection, _subject(connection, request), request.limit, output)
        elif request.aggregate is None:
            output.write(_overview(connection, request, database).encode())
        else:
            output.write(_page_of(connection, request, request.aggregate, database).encode())


def _aggregates(request: ReportRequest, format: Format = "table") -> tuple[str, ...]:
    """Return the aggregates whose rows a report shows."""
    if request.aggregate is not None:
        return (request.aggregate.name,)
    if format != "html":
        return ()
    from etl.report import overview  # noqa: PLC0415 - only a page needs it

    return overview.AGGREGATES


def _subject(connection: psycopg.Connection, request: ReportRequest) -> Subject:
    if request.aggregate is None:
        return reading.of_freshness(connection, request.columns)
    return reading.of_aggregate(connection, request.aggregate, request.columns)


def _ranks(columns: list[str], request: ReportRequest) -> list[int]:
    """Return the order in which columns are needed: the grain of an aggregate is its first columns."""
    if request.aggregate is not None or request.columns:
        return list(range(len(columns)))
    first = _COLUMNS_OF_THE_OVERVIEW
    return [first.index(name) if name in first else len(first) + place for place, name in enumerate(columns)]


def _title(connection: psycopg.Connection, request: ReportRequest) -> str:
    if request.aggregate is None:
        return "freshness of the aggregates"
    freshness = reading.freshness_of(connection, request.aggregate.name)
    return "; ".join([request.aggregate.name, *(sentence.text for sentence in state.of_one(freshness))])


def _overview(connection: psycopg.Connection, request: ReportRequest, database: str) -> str:
    from etl.report import overview, page, readers  # noqa: PLC0415 - only a page needs them and the templates

    if request.columns or request.limit:
        raise UsageError("the page on all aggregates has neither --columns nor --limit", hint="name an aggregate")
    reader = readers.Snapshot(connection)
    content = overview.read(reader, _COLUMNS_OF_THE_OVERVIEW, request.known)
    return page.overview(database, reader.read_at(), content)


def write_page_of_export(place: Place, known: Sequence[Aggregate], output: BinaryIO) -> None:
    """Write the page on all aggregates from the last export at a place, without a server.

    Raises UsageError when there is no export, or it lacks a table or its types; SourceError when a file is missing.
    """
    from etl.report import overview, page, readers  # noqa: PLC0415 - only a page needs them and the templates

    def drawn(connection: Any, export: Manifest) -> str:
        readers.require_tables(export, overview.AGGREGATES, place.name)
        content = overview.read(readers.Exported(connection, export), _COLUMNS_OF_THE_OVERVIEW, known)
        return page.overview(f"{export.database}, export {export.export}", export.read_at, content)

    output.write(querying.read(place, drawn).encode())


def _page_of(connection: psycopg.Connection, request: ReportRequest, aggregate: Aggregate, database: str) -> str:
    from etl.report import page  # noqa: PLC0415 - only a page needs the templates

    subject = _subject(connection, request)
    rows = list(reading.read(connection, subject, request.limit or ROWS_OF_A_PAGE))
    sentences = state.of_one(reading.freshness_of(connection, aggregate.name))
    count_all = reading.count_rows(connection, subject)
    return page.of_rows(database, reading.read_at(connection), subject, sentences, rows, count_all)
