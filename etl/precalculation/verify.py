"""The verification of an aggregate: it is recomputed and compared with its table row by row. Changes nothing."""

from collections.abc import Sequence
from typing import Any

import psycopg
from psycopg import sql

from etl import queries
from etl.database.snapshots import Snapshots
from etl.precalculation.buckets import EVERYTHING, BucketRange
from etl.precalculation.catalogue import Aggregate
from etl.precalculation.pending import is_known, see_due
from etl.precalculation.refresh import compute, explain_errors, joined, tables_of
from etl.quick_dataclasses import dataclass

_SQL = queries.load("precalculation")

# Nobody reads more keys. The count is exact.
KEYS_SHOWN = 100


@dataclass(frozen=True, kw_only=True)
class Verification:
    """How an aggregate differs from its facts.

    `differences` counts the rows that are missing, surplus or different. Pending buckets are not compared; `pending`
    says whether there are any. `keys` are the keys of the first of these rows, each with the kind of difference.
    """

    aggregate: str
    differences: int
    pending: bool
    keys: tuple[tuple[dict[str, Any], str], ...]


def verify(connection: psycopg.Connection, aggregate: Aggregate) -> Verification:
    """Compare an aggregate with its facts in one snapshot; readers and refreshes do not wait.

    Raises UsageError when a table or a right on it is missing, psycopg's errors otherwise.
    """
    with explain_errors(connection, aggregate):
        snapshots = Snapshots(connection, tables_of([aggregate]), force_rollback=True)
        while True:
            with snapshots.next():
                found = _compare(connection, aggregate)
            if snapshots.is_whole:
                return found


def _compare(connection: psycopg.Connection, aggregate: Aggregate) -> Verification:
    connection.execute(_SQL["see_table"].format(table=aggregate.identifier))
    pending = see_due(connection, aggregate) if is_known(connection, aggregate) else [EVERYTHING]
    if EVERYTHING in pending:
        return Verification(aggregate=aggregate.name, differences=0, pending=True, keys=())
    compute(connection, aggregate, aggregate.computed_from_facts() if aggregate.parts else aggregate.computed())
    rows = connection.execute(_differences(aggregate, pending)).fetchall()
    return Verification(
        aggregate=aggregate.name,
        differences=rows[0][2] if rows else 0,
        pending=bool(pending),
        keys=tuple((key, difference) for key, difference, _ in rows),
    )


def _differences(aggregate: Aggregate, pending: Sequence[BucketRange]) -> sql.Composed:
    values = [name for name, _ in aggregate.columns if name not in aggregate.key]
    return _SQL["differences"].format(
        table=aggregate.identifier,
        first=sql.Identifier(aggregate.key[0]),
        kept_key=_as_object(aggregate.key, "kept"),
        fresh_key=_as_object(aggregate.key, "fresh"),
        same_key=joined(aggregate.key, sql.SQL("kept.{0} = fresh.{0}"), sql.SQL(" and ")),
        kept_values=joined(values, sql.SQL("kept.{0}")),
        fresh_values=joined(values, sql.SQL("fresh.{0}")),
        pending=sql.SQL(" or ").join([aggregate.within(buckets) for buckets in pending] or [sql.SQL("false")]),
        limit=sql.Literal(KEYS_SHOWN),
    )


def _as_object(key: Sequence[str], row: str) -> sql.Composed:
    """Return a JSON object of the key of one row, null where the row is missing."""
    pairs = (sql.SQL("{}, {}").format(sql.Literal(name), sql.Identifier(row, name)) for name in key)
    first = sql.Identifier(row, key[0])
    return sql.SQL("case when {} is not null then jsonb_build_object({}) end").format(first, sql.SQL(", ").join(pairs))
