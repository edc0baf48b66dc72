"""What an export holds: its tables, their columns, and the column that divides each of them into months."""

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import psycopg
from psycopg import sql

from etl import datasets, queries
from etl.datasets import Dataset
from etl.errors import UsageError
from etl.exporting.server_columns import TIMES, ServerColumn
from etl.precalculation import catalogue
from etl.precalculation.catalogue import Aggregate
from etl.quick_dataclasses import dataclass

_SQL = queries.load("exporting")
_SCHEMAS = ("analytics", "logistics")


@dataclass(frozen=True, kw_only=True)
class Subject:
    """A table of an export. `month_of` is None where it is not divided; `datasets` load its rows."""

    name: str
    comment: str
    columns: tuple[ServerColumn, ...]
    month_of: ServerColumn | None
    aggregate: Aggregate | None
    datasets: tuple[str, ...]

    @property
    def identifier(self) -> sql.Identifier:
        """The qualified name, quoted."""
        return sql.Identifier(*self.name.split(".", 1))

    @property
    def quoted(self) -> str:
        """The qualified name, quoted, as a text."""
        return _quoted(self.name)

    @property
    def months_folder(self) -> str:
        """The name before the month in the names of folders; it is the name of no column."""
        return "etl_month" if any(column.name == "month" for column in self.columns) else "month"


def chosen(connection: psycopg.Connection, names: Sequence[str]) -> list[str]:
    """Return the qualified names of tables; without names those of all facts and aggregates.

    A name without a schema is that of an aggregate or of a table of facts. Raises UsageError for an unknown name.
    """
    known = [name for (name,) in connection.execute(_SQL["tables"])]
    if not names:
        if not known:
            raise UsageError("there is no table to export", hint="etl db migrate")
        return known
    return list(dict.fromkeys(_qualified(connection, name, known) for name in names))


def _qualified(connection: psycopg.Connection, name: str, known: Sequence[str]) -> str:
    wanted = [name] if "." in name else [f"{schema}.{name}" for schema in _SCHEMAS]
    for candidate in wanted:
        if candidate in known or _exists(connection, candidate):
            return candidate
    close = difflib.get_close_matches(name, [*known, *(each.split(".", 1)[1] for each in known)], n=1)
    hint = f"did you mean {close[0]}?" if close else f"tables: {', '.join(known)}"
    raise UsageError(f"there is no table {name!r}", hint=hint)


def _exists(connection: psycopg.Connection, name: str) -> bool:
    try:
        row = connection.execute(_SQL["described"], {"table": _quoted(name)}).fetchone()
    except psycopg.errors.InvalidName:
        return False
    return bool(row and row[0])


def described(
    connection: psycopg.Connection, names: Sequence[str], config_dir: Path, *, by_month: bool
) -> list[Subject]:
    """Return tables with their columns, in the snapshot of a transaction."""
    aggregates = {aggregate.table: aggregate for aggregate in catalogue.readable(config_dir)}
    definitions = datasets.readable(config_dir)
    return [_described(connection, name, aggregates, definitions, by_month=by_month) for name in names]


def of_columns(connection: psycopg.Connection, name: str, columns: Sequence[str]) -> Subject:
    """Return some columns of a table, in this order."""
    whole = _described(connection, name, {}, (), by_month=False)
    by_name = {column.name: column for column in whole.columns}
    return replace(whole, columns=tuple(by_name[column] for column in columns))


def _described(
    connection: psycopg.Connection,
    name: str,
    aggregates: Mapping[str, Aggregate],
    definitions: Sequence[Dataset],
    *,
    by_month: bool,
) -> Subject:
    columns = tuple(ServerColumn(*row) for row in connection.execute(_SQL["columns"], {"table": _quoted(name)}))
    [(_, comment)] = connection.execute(_SQL["described"], {"table": _quoted(name)}).fetchall()
    times = {column.name: column for column in columns if column.kind in TIMES}
    aggregate = aggregates.get(name)
    candidates = _month_columns(connection, name, aggregate, definitions) if by_month else []
    return Subject(
        name=name,
        comment=comment,
        columns=columns,
        month_of=next((times[candidate] for candidate in candidates if candidate in times), None),
        aggregate=aggregate,
        datasets=tuple(dataset.name for dataset in definitions if name in {table.name for table in dataset.tables}),
    )


def _month_columns(
    connection: psycopg.Connection, name: str, aggregate: Aggregate | None, definitions: Sequence[Dataset]
) -> list[str]:
    """Return the columns that may divide a table: that of the buckets, of the partitions, or the first of an index."""
    if aggregate is not None:
        return [aggregate.bucket_column] if aggregate.kind.noting else []
    tables = [table for dataset in definitions for table in dataset.tables if table.name == name]
    in_database = connection.execute(_SQL["leading_columns"], {"table": _quoted(name)})
    return [*(columns[0] for table in tables for columns in table.index), *(column for (column,) in in_database)]


def _quoted(name: str) -> str:
    return sql.Identifier(*name.split(".", 1)).as_string(None)
