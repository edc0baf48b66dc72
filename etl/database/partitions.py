"""Partitions of facts: made ahead and for the rows of a load, and removed when they are old."""

from collections.abc import Sequence

import psycopg
from psycopg import sql

from etl import queries
from etl.datasets import Dataset, Table
from etl.datasets.partitions import partitioned
from etl.errors import UsageError
from etl.quick_dataclasses import dataclass

_SQL = queries.load("partitions")
_TABLES = queries.load("tables")
_AHEAD = {"month": "3 months", "day": "14 days"}
"""The time for which partitions are made before a row needs them."""

MOMENTS = (sql.Literal("1900-01-01"), sql.Literal("2200-01-01"))
"""The days from and until which `etl.make_partitions` makes partitions."""


@dataclass(frozen=True, kw_only=True)
class Partition:
    """A partition that is older than is kept; `state` is attached, detaching, detached or gone."""

    fact: str
    column: str
    first_day: str
    until_day: str
    name: str
    state: str
    bytes: int

    @property
    def table(self) -> sql.Identifier:
        """The partitioned table."""
        return sql.Identifier(*self.fact.split("."))

    @property
    def identifier(self) -> sql.Identifier:
        """The partition."""
        return sql.Identifier(self.fact.split(".")[0], self.name)


def install(connection: psycopg.Connection, dataset: Dataset) -> None:
    """List the partitioned tables of a dataset, and make their partitions of the next time.

    Raises UsageError for a table that is there and is not partitioned in this way.
    """
    for table in partitioned(dataset):
        row = connection.execute(_SQL["kind"], {"table": table.quoted}).fetchone()
        if row is None or row[0] != "p" or row[1] != [table.partition_by]:
            raise UsageError(
                f"the table {table.name} is not partitioned by {table.partition_by}, and it cannot be changed to that",
                hint=f"load into a table of another name, or remove partition_by from {dataset.path}",
            )
        connection.execute(queries.load("precalculation")["note_lost_partitions"])
        names = {"fact": table.name, "column": table.partition_by, "every": table.partition_every}
        connection.execute(_SQL["list_fact"], names)
        connection.execute(_SQL["make_ahead"], {**names, "ahead": _AHEAD[table.partition_every]})


def make_for_rows(connection: psycopg.Connection, dataset: Dataset, sources: Sequence[sql.Composable]) -> None:
    """Make the partitions that rows need which wait in other tables, one for each table of the dataset."""
    for table, source in zip(dataset.tables, sources, strict=True):
        column = table.column(table.partition_by or "")
        if column is not None:
            name = sql.Identifier(column.name)
            typed = sql.SQL("{}::{}").format(name, sql.SQL(column.column_type.server_name))
            zone = sql.SQL(" at time zone 'UTC'" if column.type == "timestamptz" else "::timestamp")
            statement = _SQL["make_for_rows"].format(moment=typed + zone, source=source, column=name)
            connection.execute(statement, {"fact": table.name})


def can_be_made(table: Table) -> sql.Composed:
    """Return the condition that a partition can be made for a row."""
    first, until = MOMENTS
    name = sql.Identifier(table.partition_by or "")
    return sql.SQL("{0} >= {1} and {0} < {2}").format(name, first, until)


def older(connection: psycopg.Connection, dataset: Dataset, keep: str) -> list[Partition]:
    """Return the partitions of a dataset that end before an age, an SQL interval; the oldest first."""
    facts = [table.name for table in partitioned(dataset)]
    names = ("fact", "column", "first_day", "until_day", "name", "state", "bytes")
    found = connection.execute(_SQL["older"], {"facts": facts, "keep": keep}).fetchall()
    return [Partition(**dict(zip(names, row, strict=True))) for row in found]


def rows_of(connection: psycopg.Connection, partition: Partition) -> int:
    """Count the rows of a partition."""
    if partition.state == "gone":
        return 0
    [(count,)] = connection.execute(queries.load("reading")["count_rows"].format(table=partition.identifier)).fetchall()
    return int(count)


def remove(connection: psycopg.Connection, partition: Partition) -> None:
    """Empty a partition, detach it and drop it; a removal that was cut off is continued where it ended.

    `connection` is in autocommit mode.
    """
    names = {"table": partition.table, "partition": partition.identifier}
    connection.execute(_SQL["begin_removal"], {"fact": partition.fact, "name": partition.name})
    if partition.state == "attached":
        limits = {"first": sql.Literal(partition.first_day), "until": sql.Literal(partition.until_day)}
        connection.execute(_SQL["empty"].format(column=sql.Identifier(partition.column), **limits, **names))
        connection.execute(_SQL["detach"].format(**names))
    elif partition.state == "detaching":
        connection.execute(_SQL["finish_detaching"].format(**names))
    with connection.transaction():
        connection.execute(_TABLES["drop"].format(table=partition.identifier))
        connection.execute(_SQL["forget"], {"fact": partition.fact, "name": partition.name})
