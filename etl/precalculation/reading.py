"""Reading an aggregate, or the freshness of all aggregates, in one snapshot.

Knows tables and their rows, and no format.
"""

import datetime as dt
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import psycopg
from psycopg import sql

from etl import queries
from etl.database.snapshots import one_snapshot
from etl.errors import InternalError, UsageError
from etl.precalculation.catalogue import Aggregate
from etl.quick_dataclasses import dataclass

Row = dict[str, Any]

ROWS_A_FETCH = 5_000

_SQL = queries.load("reading")


@dataclass(frozen=True, kw_only=True)
class Subject:
    """A table or view of schema analytics: the meaning of a row, columns with their comments, and the order of rows."""

    name: str
    grain: str
    columns: tuple[tuple[str, str], ...]
    order: sql.Composable

    @property
    def identifier(self) -> sql.Identifier:
        """The qualified name, quoted."""
        return sql.Identifier("analytics", self.name)


@contextmanager
def snapshot(connection: psycopg.Connection, aggregates: Iterable[str]) -> Iterator[None]:
    """Read rows of these aggregates, and freshness, in one snapshot. No aggregate is made again meanwhile.

    Raises UsageError when a table is missing or the user may not read it.
    """
    try:
        with one_snapshot(connection, (f"analytics.{name}" for name in (*aggregates, "freshness"))):
            connection.execute(_SQL["forbid_writing"])
            yield
    except (
        psycopg.errors.InvalidSchemaName,
        psycopg.errors.UndefinedTable,
        psycopg.errors.UndefinedColumn,
    ) as error:
        raise UsageError(
            f"the aggregates cannot be read: {error.diag.message_primary}", hint="etl db migrate"
        ) from error
    except psycopg.errors.InsufficientPrivilege as error:
        user = connection.info.user
        raise UsageError(
            f"the user {user} may not read the aggregates: {error.diag.message_primary}",
            hint=f"grant etl_analyst to {user}",
        ) from error


def of_aggregate(connection: psycopg.Connection, aggregate: Aggregate, columns: Sequence[str] = ()) -> Subject:
    """Return an aggregate as a subject: these columns, or all; the newest buckets first.

    Raises UsageError when it was never computed, and for an unknown column.
    """
    freshness_of(connection, aggregate.name)
    order = [
        sql.SQL("{} desc" if name == aggregate.bucket_column else "{}").format(sql.Identifier(name))
        for name in sorted(aggregate.key, key=lambda name: name != aggregate.bucket_column)
    ]
    return _subject(connection, aggregate.name, aggregate.grain, sql.SQL(", ").join(order), columns)


def of_freshness(connection: psycopg.Connection, columns: Sequence[str] = ()) -> Subject:
    """Return the freshness of all aggregates as a subject: these columns, or all.

    Raises UsageError for an unknown column.
    """
    grain = "One row per aggregate."
    return _subject(connection, "freshness", grain, sql.Identifier("aggregate"), columns)


def _subject(
    connection: psycopg.Connection, name: str, grain: str, order: sql.Composable, columns: Sequence[str]
) -> Subject:
    comments: dict[str, str] = dict(connection.execute(_SQL["columns"], {"table": f"analytics.{name}"}).fetchall())
    if not comments:
        raise UsageError(f"the table analytics.{name} is missing", hint="etl db migrate")
    for column in columns:
        if column not in comments:
            raise UsageError(f"{name} has no column {column!r}", hint=f"its columns: {', '.join(comments)}")
    chosen = tuple((column, comments[column]) for column in columns or comments)
    return Subject(name=name, grain=grain, columns=chosen, order=order)


def freshness_of(connection: psycopg.Connection, aggregate: str) -> Row:
    """Return the row of an aggregate in analytics.freshness.

    Raises UsageError when it was never computed, because then its empty table looks as if there were no facts.
    """
    rows = queries.rows(connection, _SQL["freshness_of"], {"aggregate": aggregate})
    if not rows or rows[0]["refreshed_at"] is None:
        raise UsageError(f"{aggregate} was never computed", hint=f"etl precalculate {aggregate}")
    return rows[0]


def read_at(connection: psycopg.Connection) -> dt.datetime:
    """Return the instant of the snapshot, by the server's clock."""
    row = connection.execute(_SQL["read_at"]).fetchone()
    if row is None:
        raise InternalError("expected the time of the server, got no row")
    instant: dt.datetime = row[0]
    return instant


def count_rows(connection: psycopg.Connection, subject: Subject) -> int:
    """Count the rows of a subject."""
    row = connection.execute(_SQL["count_rows"].format(table=subject.identifier)).fetchone()
    return int(row[0]) if row else 0


def read(connection: psycopg.Connection, subject: Subject, limit: int | None) -> Iterator[tuple[Any, ...]]:
    """Yield the rows of a subject, at most `limit`, in constant memory; the connection is in a snapshot."""
    with connection.cursor(name="etl_reading") as cursor:
        cursor.itersize = ROWS_A_FETCH
        cursor.execute(_statement(_SQL["rows"], subject, limit))
        yield from cursor


def read_csv(connection: psycopg.Connection, subject: Subject, limit: int | None) -> Iterator[bytes]:
    """Yield the rows of a subject as CSV with a header, as the server writes them."""
    with connection.cursor() as cursor, cursor.copy(_statement(_SQL["rows_as_csv"], subject, limit)) as blocks:
        yield from map(bytes, blocks)


def _statement(query: sql.SQL, subject: Subject, limit: int | None) -> sql.Composed:
    return query.format(
        columns=sql.SQL(", ").join(sql.Identifier(name) for name, _ in subject.columns),
        table=subject.identifier,
        order=subject.order,
        limit=sql.Literal(limit),
    )
