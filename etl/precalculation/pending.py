"""Pending work: noted changes become pending buckets, and buckets become ranges to recompute.

Knows only the aggregates that are registered in the database; another installation may have registered its own.
"""

from collections.abc import Sequence
from decimal import Decimal
from typing import Any

import psycopg
import structlog
from psycopg import sql
from psycopg.rows import class_row

from etl import queries
from etl.database.sqlstates import code_of, meaning
from etl.precalculation.buckets import EVERYTHING, BucketKind, BucketRange
from etl.precalculation.catalogue import Aggregate
from etl.quick_dataclasses import dataclass

_SQL = queries.load("precalculation")

# One execution of a select takes some 0.8 ms more, in which a select reads about so many pages.
_PAGES_OF_A_RANGE = 30

log = structlog.get_logger(__name__)


@dataclass(frozen=True, kw_only=True)
class _Due:
    """Buckets that are due and follow one another. `first` and `until` are None where all buckets are due.

    `seconds` is the length of the range, `seconds_of_all` the time from the first range to the end of the last.
    """

    first: str | None
    until: str | None
    buckets: int
    seconds: Decimal
    seconds_of_all: Decimal


def gather(connection: psycopg.Connection) -> None:
    """Turn the changes noted so far into pending buckets, in a short transaction of its own."""
    row = connection.execute(_SQL["is_touched"]).fetchone()
    if not row or not row[0]:
        return
    # The lock is taken outside the transaction, so that waiting for an exclusively locked fact ends as usual.
    connection.execute(_SQL["lock_gathering"])
    try:
        _gather(connection)
    except psycopg.Error as error:
        if connection.closed or meaning(error) not in {"data", "fix"} or not (hindering := _hindering(connection)):
            raise
        log.warning("pending_as_a_whole", aggregates=hindering, sqlstate=code_of(error))
        _gather(connection, as_whole=hindering)
    finally:
        if not connection.closed:
            connection.execute(_SQL["unlock_gathering"])


def _gather(connection: psycopg.Connection, as_whole: Sequence[str] = ()) -> None:
    with connection.transaction():
        touched = _touched(connection, as_whole=as_whole)
        gathered = _SQL["gather"].format(touched=touched, buckets=_SQL["buckets"])
        # What a crash of the server takes of it is noted again; the refresh after it waits for the disk.
        connection.execute(queries.together(queries.load("database")["defer_flush"], gathered))


def _hindering(connection: psycopg.Connection) -> list[str]:
    """Return the aggregates whose touched times cannot be found, such as by a cast that fails."""
    return [
        aggregate
        for (aggregate,) in connection.execute(_SQL["watched_by"]).fetchall()
        if not _is_findable(connection, aggregate)
    ]


def _is_findable(connection: psycopg.Connection, aggregate: str) -> bool:
    try:
        with connection.transaction(force_rollback=True):
            connection.execute(_SQL["try_touched"].format(touched=_touched(connection, of=[aggregate])))
    except psycopg.Error:
        if connection.closed:
            raise
        return False
    return True


def take_due(
    connection: psycopg.Connection, aggregate: Aggregate, *, is_touched: bool = True
) -> tuple[list[BucketRange], int]:
    """Take the pending buckets; return the ranges to recompute, and how many buckets were touched.

    Buckets noted since `gather` are included, because the snapshot of this transaction sees their facts already; they
    stay noted for the next refresh. With `is_touched=False` this snapshot has none. Ranges that cover half of the time
    between them become one range: fewer executions, which read at most twice the facts. So do those of small facts,
    which are read faster than planned for.
    """
    due = _due(connection, aggregate.name, aggregate.kind, "take_pending", is_touched=is_touched)
    ranges = _ranges(due)
    if len(due) > 1 and EVERYTHING not in ranges:
        is_dense = 2 * sum(part.seconds for part in due) >= due[0].seconds_of_all
        if is_dense or _pages(connection, aggregate) <= _PAGES_OF_A_RANGE * len(due):
            ranges = [BucketRange(first=ranges[0].first, until=ranges[-1].until)]
    return ranges, sum(part.buckets for part in due)


def _pages(connection: psycopg.Connection, aggregate: Aggregate) -> int:
    """Return the size of the facts of an aggregate, in pages of 8 KiB."""
    [(pages,)] = connection.execute(_SQL["pages"], {"tables": [fact.table for fact in aggregate.facts]}).fetchall()
    return int(pages)


def see_due(connection: psycopg.Connection, aggregate: Aggregate) -> list[BucketRange]:
    """Return the ranges of buckets that are changed in the snapshot of this transaction, and leave them pending."""
    return _ranges(_due(connection, aggregate.name, aggregate.kind, "see_pending"))


def take_buckets(connection: psycopg.Connection, consumer: str, kind: BucketKind) -> list[BucketRange]:
    """Take the pending buckets of a consumer that is no aggregate, as `take_due` does; return their ranges."""
    return _ranges(_due(connection, consumer, kind, "take_pending"))


def is_known(connection: psycopg.Connection, aggregate: Aggregate) -> bool:
    """Return whether the aggregate was refreshed before by this definition; otherwise all of it is due."""
    row = connection.execute(
        _SQL["is_known"], {"aggregate": aggregate.name, "definition_hash": aggregate.hash}
    ).fetchone()
    return bool(row and row[0])


def _due(
    connection: psycopg.Connection, consumer: str, kind: BucketKind, pending: str, *, is_touched: bool = True
) -> list[_Due]:
    name = sql.Literal(consumer)
    statement = _SQL["due"].format(
        touched=_touched(connection, of=[consumer]) if is_touched else _SQL["untouched"],
        buckets=_SQL["buckets"],
        pending=_SQL[pending].format(aggregate=name),
        aggregate=name,
        step=kind.step,
        type=kind.limit_type,
    )
    with connection.cursor(row_factory=class_row(_Due)) as cursor:
        return cursor.execute(statement).fetchall()


def _ranges(due: Sequence[_Due]) -> list[BucketRange]:
    ranges = [BucketRange(first=part.first, until=part.until) for part in due if part.first and part.until]
    return ranges if len(ranges) == len(due) else [EVERYTHING]


def _touched(
    connection: psycopg.Connection, *, of: Sequence[str] | None = None, as_whole: Sequence[str] = ()
) -> sql.Composed:
    """Return the select of the touched times, `of` some aggregates or of all; `as_whole`: without looking at times."""
    if as_whole:
        of = [name for (name,) in connection.execute(_SQL["watched_by"]) if name not in as_whole]
    names = None if of is None else list(of)
    via = [_via(join) for join in connection.execute(_SQL["joins"], {"aggregates": names})]
    if as_whole:
        via.append(_SQL["touched_as_whole"].format(as_whole=sql.Literal(list(as_whole))))
    return _SQL["touched"].format(via=sql.SQL("\n").join(via))


def _via(join: tuple[Any, ...]) -> sql.Composed:
    aggregates, fact, noted, table, column, kind, day, column_exists = join
    key = {"aggregates": sql.Literal(aggregates), "fact": sql.Literal(fact), "noted": sql.Literal(noted)}
    if not column_exists:
        return _SQL["touched_via_missing"].format(**key)
    return _SQL["touched_via"].format(
        **key,
        day=sql.SQL(day),
        table=sql.Identifier(*table.split(".")),
        column=sql.Identifier(column),
        type=sql.SQL(kind),
    )


def installed(connection: psycopg.Connection) -> list[dict[str, Any]]:
    """List the aggregates of the database: name, grain, bucket, last refresh and pending buckets."""
    return queries.rows(connection, _SQL["list_aggregates"])
