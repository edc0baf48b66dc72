"""Holds what the server did against what a statement had to do.

A trigger before a row, or a rule, can skip rows of a statement without an error. The server counts the rows that it
wrote; this module counts those that it had to write, for tables that have such a trigger or rule.
"""

from collections.abc import Collection, Iterable

import psycopg
from psycopg import sql

from etl import queries
from etl.datasets import Dataset
from etl.errors import EtlError, InternalError, UsageError
from etl.ingestion.destination.merging import Statement
from etl.ingestion.destination.sending import Exchange, Waiting

_SQL = queries.load("effects")


def carry_out_all(exchange: Exchange, dataset: Dataset, statements: Iterable[Statement]) -> Waiting[None]:
    """Carry out statements as `carry_out` does."""
    guarded = guarded_tables(exchange.connection, dataset)
    for statement in statements:
        yield from carry_out(exchange, dataset, statement, guarded)


def carry_out(exchange: Exchange, dataset: Dataset, statement: Statement, guarded: Collection[int]) -> Waiting[int]:
    """Run a statement and return the number of rows that the server wrote.

    Raises psycopg.Error as the server refuses it, UsageError when a trigger of a `guarded` table skipped rows.
    """
    written = (yield from exchange.run(statement.text)).command_tuples or 0
    if statement.table in guarded:
        missing = _missing(exchange.connection, statement, written)
        if missing > 0:
            raise skipped(exchange.connection, dataset.tables[statement.table].name, f"{missing:,}")
    return written


def _missing(connection: psycopg.Connection, statement: Statement, written: int) -> int:
    missing = 0
    if statement.expected is not None:
        missing += count(connection, statement.expected) - written
    if statement.left is not None:
        missing += count(connection, statement.left)
    return missing


def checked(statement: Statement) -> sql.Composed:
    """Return a statement for a PL/pgSQL block that notes its table when it did not write all rows."""
    nothing = sql.SQL("select 0")
    return _SQL["checked"].format(
        statement=statement.text,
        expected=statement.expected or sql.SQL("select at_written"),
        left=statement.left or nothing,
        table=sql.Literal(str(statement.table)),
    )


def require_none_skipped(connection: psycopg.Connection, dataset: Dataset) -> None:
    """Raise UsageError when a statement in a block of this transaction noted that it did not write all rows."""
    row = connection.execute(_SQL["skipped_in_block"]).fetchone()
    if row and row[0]:
        raise skipped(connection, dataset.tables[int(row[0])].name, "some")


def guarded_tables(connection: psycopg.Connection, dataset: Dataset) -> set[int]:
    """Return the numbers of the dataset's tables whose rows a trigger or a rule may skip."""
    names = [table.identifier.as_string(connection) for table in dataset.tables]
    return {number for (number,) in connection.execute(_SQL["guarded_tables"], {"tables": names})}


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
