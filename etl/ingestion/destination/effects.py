"""Holds what the server did against what a statement had to do.

A trigger before a row, or a rule, can skip rows of a statement without an error. The server counts the rows that it
wrote; this module counts those that it had to write, for tables that have such a trigger or rule.
"""

import psycopg
from psycopg import sql

from etl import queries
from etl.datasets import Dataset
from etl.errors import EtlError, InternalError, UsageError
from etl.ingestion.destination.merging import Statement

_SQL = queries.load("effects")


def require_whole(connection: psycopg.Connection, dataset: Dataset, statement: Statement, written: int) -> None:
    """Raise UsageError when the server wrote fewer rows by a statement than it had to write."""
    missing = 0
    if statement.expected is not None:
        missing += count(connection, statement.expected) - written
    if statement.left is not None:
        missing += count(connection, statement.left)
    if missing > 0:
        raise skipped(connection, dataset.tables[statement.table].name, f"{missing:,}")


def checked(statement: Statement) -> sql.Composed:
    """Return a statement for a PL/pgSQL block that notes its table when it did not write all rows."""
    return _SQL["checked"].format(
        statement=statement.text,
        expected=statement.expected or sql.SQL("select at_written"),
        left=statement.left or sql.SQL("select 0"),
        table=sql.Literal(str(statement.table)),
    )


def require_none_skipped(connection: psycopg.Connection, dataset: Dataset) -> None:
    """Raise UsageError when a statement in a block of this transaction noted that it did not write all rows."""
    row = connection.execute(_SQL["skipped_in_block"]).fetchone()
    if row and row[0]:
        raise skipped(connection, dataset.tables[int(row[0])].name, "some")


def skipped(connection: psycopg.Connection, table: str, how_many: str) -> EtlError:
    """Return the error that the server skipped rows of a table; it names the triggers and rules that can skip them."""
    name = sql.Identifier(*table.split(".", 1)).as_string(connection)
    guards = [guard for (guard,) in connection.execute(_SQL["guards"], {"table": name})]
    if not guards:
        return InternalError(f"the server skipped {how_many} of the rows of {table}, which has no trigger and no rule")
    return UsageError(
        f"the server skipped {how_many} of the rows of {table} without an error: {', '.join(guards)} can skip rows, and"
        " so records would be lost",
        hint="let the trigger raise an exception instead of returning null, so that the record goes to the failed"
        f" store, or disable it; then run the same command (\\d {table} in `etl db psql` shows triggers and rules)",
    )


def count(connection: psycopg.Connection, statement: sql.SQL | sql.Composed) -> int:
    """Return the number that a query counts."""
    row = connection.execute(statement).fetchone()
    return int(row[0]) if row else 0
