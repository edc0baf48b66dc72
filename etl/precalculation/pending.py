"""What is pending: the changes that triggers noted become buckets, and buckets become ranges to be recomputed.

Knows no aggregate but those that the database knows: another installation may have entered its own.
"""

from collections.abc import Sequence
from typing import Any

import psycopg
from psycopg import sql

from etl import queries
from etl.precalculation.buckets import EVERYTHING, BucketRange
from etl.precalculation.catalogue import Aggregate

_SQL = queries.load("precalculation")


def gather(connection: psycopg.Connection) -> None:
    """Bring what was noted so far to the aggregates that read it, in a short transaction of its own."""
    row = connection.execute(_SQL["is_touched"]).fetchone()
    if not row or not row[0]:
        return
    # Outside of the transaction, in which whoever holds a fact exclusively is waited for no longer than usual.
    connection.execute(_SQL["lock_gathering"])
    try:
        with connection.transaction():
            connection.execute(_SQL["gather"].format(touched=_touched(connection), buckets=_SQL["buckets"]))
    finally:
        if not connection.closed:
            connection.execute(_SQL["unlock_gathering"])


def take_due(connection: psycopg.Connection, aggregate: Aggregate) -> tuple[list[BucketRange], int]:
    """Take what is pending; return the ranges of buckets to recompute, and how many buckets were touched.

    Those noted since `gather` are among them, for the snapshot of this transaction sees their facts already; they stay
    for the next refresh. Ranges that cover half of the time between them become one: fewer executions, and at most
    twice the facts.
    """
    rows = _due(connection, aggregate, "take_pending")
    ranges = _ranges(rows)
    if len(rows) > 1 and EVERYTHING not in ranges and 2 * sum(row[3] for row in rows) >= rows[0][4]:
        ranges = [BucketRange(first=ranges[0].first, until=ranges[-1].until)]
    return ranges, sum(row[2] for row in rows)


def see_due(connection: psycopg.Connection, aggregate: Aggregate) -> list[BucketRange]:
    """Return the ranges of buckets that the snapshot of this transaction knows as changed, and leave them."""
    return _ranges(_due(connection, aggregate, "see_pending"))


def is_known(connection: psycopg.Connection, aggregate: Aggregate) -> bool:
    """Tell whether the aggregate was refreshed before, by this definition; else all of it is due."""
    row = connection.execute(
        _SQL["is_known"], {"aggregate": aggregate.name, "definition_hash": aggregate.hash}
    ).fetchone()
    return bool(row and row[0])


def _due(connection: psycopg.Connection, aggregate: Aggregate, pending: str) -> list[tuple[Any, ...]]:
    name = sql.Literal(aggregate.name)
    statement = _SQL["due"].format(
        touched=_touched(connection),
        buckets=_SQL["buckets"],
        pending=_SQL[pending].format(aggregate=name),
        aggregate=name,
        step=aggregate.kind.step,
        type=aggregate.kind.limit_type,
    )
    return connection.execute(statement).fetchall()


def _ranges(rows: Sequence[tuple[Any, ...]]) -> list[BucketRange]:
    if any(first is None for first, *_ in rows):
        return [EVERYTHING]
    return [BucketRange(first=first, until=until) for first, until, *_ in rows]


def _touched(connection: psycopg.Connection) -> sql.Composed:
    via = [_via(way) for way in connection.execute(_SQL["ways_via"])]
    return _SQL["touched"].format(via=sql.SQL("\n").join(via))


def _via(way: tuple[Any, ...]) -> sql.Composed:
    aggregates, fact, noted, table, column, kind, day, is_there = way
    named = {"aggregates": sql.Literal(aggregates), "fact": sql.Literal(fact), "noted": sql.Literal(noted)}
    if not is_there:
        return _SQL["touched_via_lost"].format(**named)
    return _SQL["touched_via"].format(
        **named,
        day=sql.SQL(day),
        table=sql.Identifier(*table.split(".")),
        column=sql.Identifier(column),
        type=sql.SQL(kind),
    )


def installed(connection: psycopg.Connection) -> list[dict[str, Any]]:
    """List the aggregates of the database: name, grain, bucket, last refresh and pending buckets."""
    return queries.rows(connection, _SQL["list_aggregates"])
