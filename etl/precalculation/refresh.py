"""Refresh of one aggregate: recomputed in full, in one transaction that no reader waits for.

Knows what is stale by the ledger: the transactions of the batches that the last refresh did not see.
"""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import psycopg
from psycopg import sql
from psycopg.pq import TransactionStatus

from etl import queries
from etl.errors import InternalError, UsageError
from etl.precalculation.catalogue import Aggregate

_SQL = queries.load("precalculation")
_COMMA = sql.SQL(", ")


@dataclass(frozen=True, kw_only=True)
class Refreshed:
    """What a refresh did: buckets recomputed, rows inserted, updated or deleted, and the seconds it took."""

    aggregate: str
    buckets: int
    rows: int
    seconds: float


def stale(
    connection: psycopg.Connection, aggregates: Iterable[Aggregate], datasets: Mapping[str, str]
) -> list[Aggregate]:
    """Return the aggregates that are due: never refreshed, of another definition, or behind their facts.

    `datasets` gives the dataset that loads each fact table. An aggregate is behind when its last refresh did
    not see a batch or a publication of these datasets. A change made by hand is not noticed.
    """
    due = []
    for aggregate in aggregates:
        asked = {
            "aggregate": aggregate.name,
            "definition_hash": aggregate.hash,
            "datasets": [datasets[fact] for fact in aggregate.facts if fact in datasets],
        }
        row = connection.execute(_SQL["is_stale"], asked).fetchone()
        if row and row[0]:
            due.append(aggregate)
    return due


def refresh(connection: psycopg.Connection, aggregate: Aggregate, *, run: str | None) -> Refreshed:
    """Bring an aggregate up to date with the facts, all of it or nothing.

    `connection` is in autocommit mode and outside a transaction; `run` is the run that asks, or None.
    Refreshes of one aggregate queue. Readers see the old rows until the commit; a row that does not change is
    not written. Raises UsageError when a table or the right to it is missing, psycopg's errors for all else.
    """
    if not connection.autocommit or connection.info.transaction_status != TransactionStatus.IDLE:
        raise InternalError("expected an autocommit connection outside a transaction for a refresh")
    try:
        # The lock comes before BEGIN: an older snapshot could not update what the refresh before has written.
        with _turn(connection, aggregate), connection.transaction():
            connection.execute(_SQL["see_one_snapshot"])
            connection.execute(_SQL["compute"].format(select=aggregate.statement))
            rows = _store(connection, aggregate)
            seconds, buckets = _note(connection, aggregate, run)
    except (psycopg.errors.UndefinedTable, psycopg.errors.UndefinedColumn) as error:
        raise UsageError(
            f"{aggregate.name} cannot be refreshed: {error.diag.message_primary}", hint="etl db migrate"
        ) from error
    except psycopg.errors.InsufficientPrivilege as error:
        raise UsageError(
            f"the user {connection.info.user} may not refresh {aggregate.name}: {error.diag.message_primary}",
            hint=f"grant etl_loader to {connection.info.user}",
        ) from error
    return Refreshed(aggregate=aggregate.name, buckets=buckets, rows=rows, seconds=seconds)


@contextmanager
def _turn(connection: psycopg.Connection, aggregate: Aggregate) -> Iterator[None]:
    connection.execute(_SQL["lock"], {"aggregate": aggregate.name})
    try:
        yield
    finally:
        # A connection that was lost has released the lock already.
        if not connection.closed:
            connection.execute(_SQL["unlock"], {"aggregate": aggregate.name})


def _store(connection: psycopg.Connection, aggregate: Aggregate) -> int:
    names = [name for name, _ in aggregate.columns]
    values = [name for name in names if name not in aggregate.key]
    same_key = _joined(aggregate.key, sql.SQL("kept.{0} = fresh.{0}"), sql.SQL(" and "))
    deleted = connection.execute(_SQL["delete_gone"].format(table=aggregate.identifier, same_key=same_key)).rowcount
    merged = connection.execute(
        _SQL["merge_changed"].format(
            table=aggregate.identifier,
            same_key=same_key,
            kept_values=_joined(values, sql.SQL("kept.{0}")),
            fresh_values=_joined(values, sql.SQL("fresh.{0}")),
            assignments=_joined(values, sql.SQL("{0} = fresh.{0}")),
            columns=_joined(names, sql.SQL("{0}")),
            fresh_columns=_joined(names, sql.SQL("fresh.{0}")),
        )
    ).rowcount
    return deleted + merged


def _note(connection: psycopg.Connection, aggregate: Aggregate, run: str | None) -> tuple[float, int]:
    bucket = sql.Literal("all") if aggregate.bucket == "all" else sql.Identifier(aggregate.bucket)
    noted = {"aggregate": aggregate.name, "definition_hash": aggregate.hash, "run": run}
    row = connection.execute(_SQL["note_refresh"].format(bucket=bucket), noted).fetchone()
    if row is None:
        raise InternalError(f"expected the freshness of {aggregate.name} to be noted, got no row")
    return float(row[0]), row[1]


def _joined(names: Iterable[str], pattern: sql.SQL, separator: sql.SQL = _COMMA) -> sql.Composed:
    return separator.join(pattern.format(sql.Identifier(name)) for name in names)
