"""Tables like the facts, which the rows of a run go through: they refuse a row where the fact itself would refuse it.

A column that no record fills gets its value in the fact, by a default, an identity or a trigger: here it may be empty.
It keeps its default only where a check or a generated column reads it, because most defaults take effect each time.
"""

from collections.abc import Sequence
from contextlib import suppress
from typing import LiteralString, cast

import psycopg
from psycopg import sql

from etl import queries
from etl.datasets import Dataset, Table
from etl.errors import UsageError
from etl.ingestion.destination.refusals import PARTITION_CHECK

_SQL = queries.load("staging")


def make_schema(connection: psycopg.Connection) -> None:
    """Make the schema of the tables of unfinished runs, if it is missing: a dump may have left it out.

    Raises UsageError when the user may not make it.
    """
    row = connection.execute(_SQL["is_schema_missing"]).fetchone()
    if not row or not row[0]:
        return
    try:
        connection.execute(queries.load("database")["make_staging_schema"])
    except psycopg.errors.InsufficientPrivilege as error:
        raise UsageError(
            f"the schema etl_staging is missing, and the user {connection.info.user} may not make it",
            hint="run etl db migrate as the owner of the database",
        ) from error


def make_temporary(connection: psycopg.Connection, dataset: Dataset, tables: Sequence[sql.Identifier]) -> None:
    """Make the temporary tables that the connection does not have yet, one like each table of the dataset."""
    _make(connection, "make_temporary", dataset, tables)


def make_logged(connection: psycopg.Connection, dataset: Dataset, tables: Sequence[sql.Identifier]) -> None:
    """Make the logged tables that are missing, one like each table of the dataset."""
    _make(connection, "make_staging", dataset, tables)
    for new, fact in zip(tables, dataset.tables, strict=True):
        if fact.has_digest:  # An older version of this tool began the run.
            connection.execute(_SQL["add_digest"].format(new=new))


def check_partitions(connection: psycopg.Connection, dataset: Dataset, tables: Sequence[sql.Identifier]) -> None:
    """Let tables refuse a row that no partition of its fact holds now, for rows that reach the fact later or never."""
    for new, fact in zip(tables, dataset.tables, strict=True):
        condition = _partition_condition(connection, fact)
        if condition is not None:
            names = {"new": new, "name": sql.Identifier(PARTITION_CHECK), "condition": condition}
            connection.execute(_SQL["drop_partition_check"].format(**names))
            # A fact that is partitioned by a column which no record fills decides itself.
            with suppress(psycopg.errors.UndefinedColumn), connection.transaction():
                connection.execute(_SQL["add_partition_check"].format(**names))


def _partition_condition(connection: psycopg.Connection, fact: Table) -> sql.Composable | None:
    """Return the condition that a partition of a fact holds a row, or can be made for it; None: it has none."""
    if fact.partition_by:
        from etl.database import partitions  # noqa: PLC0415 - most tables are not partitioned

        return partitions.can_be_made(fact)
    row = connection.execute(_SQL["partitions"], {"table": fact.quoted}).fetchone()
    return sql.SQL(cast(LiteralString, row[0])) if row and row[0] else None


def make_partitions(connection: psycopg.Connection, dataset: Dataset, sources: Sequence[sql.Composable]) -> None:
    """Make the partitions that rows need which wait in these tables, one for each table of the dataset."""
    if any(table.partition_by for table in dataset.tables):
        from etl.database import partitions  # noqa: PLC0415 - most tables are not partitioned

        partitions.make_for_rows(connection, dataset, sources)


def _make(connection: psycopg.Connection, statement: str, dataset: Dataset, tables: Sequence[sql.Identifier]) -> None:
    pairs = list(zip(tables, dataset.tables, strict=True))
    made = [_SQL[statement].format(new=new, table=fact.identifier) for new, fact in pairs]
    connection.execute(queries.together(queries.load("database")["hush_notices"], *made))
    changes: list[sql.Composed] = []
    for new, fact in pairs:
        sent = [*(column.name for column in fact.columns), *fact.lineage]
        values = {"new": new.as_string(connection), "table": fact.quoted, "sent": sent}
        for name, is_read, default in connection.execute(_SQL["columns_not_sent"], values).fetchall():
            names: dict[str, sql.Composable] = {"new": new, "column": sql.Identifier(name)}
            changes.append(_SQL["take_null" if is_read else "drop_column"].format(**names))
            if is_read and default:
                names["default"] = sql.SQL(cast(LiteralString, default))
                changes.append(_SQL["set_default"].format(**names))
    if changes:
        connection.execute(queries.together(*changes))
