"""Where the tables of a dataset differ from its definition, and what puts it right. Looks, and changes nothing."""

from collections.abc import Iterator
from dataclasses import dataclass

import psycopg
from psycopg import sql

from etl import queries
from etl.database.tables import denied
from etl.datasets import LINEAGE, Dataset, Table, limits_ddl, quoted, sql_type

_SQL = queries.load("comparison")
_EXPECTED = "etl_expected"


@dataclass(frozen=True, kw_only=True)
class Difference:
    """One thing in which a table is not as the definition says; without a remedy it is as it may be."""

    table: str
    column: str | None
    found: str
    remedy: str


@dataclass(frozen=True, kw_only=True)
class _Held:
    type: str
    is_required: bool
    has_default: bool


def compare(connection: psycopg.Connection, dataset: Dataset) -> list[Difference]:
    """Return where the tables differ; a column that the definition does not name is told, and stays.

    Raises UsageError when the server denies to look.
    """
    try:
        with connection.transaction(force_rollback=True):
            connection.execute(queries.load("database")["hush_notices"])
            return [difference for table in dataset.tables for difference in _of_table(connection, dataset, table)]
    except psycopg.errors.InsufficientPrivilege as error:
        what = f"compare the tables of {dataset.name}: {error.diag.message_primary}"
        raise denied(connection, dataset, what) from error


def _of_table(connection: psycopg.Connection, dataset: Dataset, table: Table) -> Iterator[Difference]:
    held = _columns(connection, table.quoted)
    create = f"etl dataset create {dataset.name}"
    if not held:
        yield Difference(table=table.name, column=None, found="the table is missing", remedy=create)
        return
    for name in (*(column.name for column in table.columns), *LINEAGE):
        if name not in held:
            yield Difference(table=table.name, column=name, found="the column is missing", remedy=create)
    yield from _of_columns(connection, table, held)
    yield from _of_checks(connection, table, held)
    yield from _of_indexes(connection, dataset, table, create)


def _of_columns(connection: psycopg.Connection, table: Table, held: dict[str, _Held]) -> Iterator[Difference]:
    for column in table.columns:
        found = held.get(column.name)
        if found is None:
            continue
        wanted = sql_type(column.type)
        written = wanted.as_string(connection)
        if found.type != column.column_type.server_name:
            change = sql.SQL("type {}").format(wanted)
            yield _difference(table, column.name, f"is {found.type}, and not {written}", change)
        if column.required and not found.is_required:
            yield _difference(table, column.name, "takes null, and is required", sql.SQL("set not null"))
        if found.is_required and not column.required:
            yield _difference(table, column.name, "refuses null, and is not required", sql.SQL("drop not null"))
    named = {*(column.name for column in table.columns), *LINEAGE}
    for name, found in held.items():
        if name in named:
            continue
        if found.is_required and not found.has_default:
            told = "is not in the definition, refuses null and has no default: no record loads"
            yield _difference(table, name, told, sql.SQL("drop not null"))
        else:
            yield Difference(table=table.name, column=name, found="is not in the definition, and stays", remedy="")


def _of_checks(connection: psycopg.Connection, table: Table, held: dict[str, _Held]) -> Iterator[Difference]:
    connection.execute(limits_ddl(table, sql.Identifier("pg_temp", _EXPECTED)))
    expected = connection.execute(_SQL["checks"], {"table": f"pg_temp.{_EXPECTED}"}).fetchall()
    connection.execute(sql.SQL("drop table {}").format(sql.Identifier("pg_temp", _EXPECTED)))
    found = set(connection.execute(_SQL["checks"], {"table": table.quoted}).fetchall())
    for name, check in expected:
        if name in held and (name, check) not in found:
            alter = f"alter table {table.quoted} add {check};"
            yield Difference(table=table.name, column=name, found=f"lacks the {check}", remedy=alter)


def _of_indexes(connection: psycopg.Connection, dataset: Dataset, table: Table, create: str) -> Iterator[Difference]:
    found = connection.execute(_SQL["indexes"], {"table": table.quoted}).fetchall()
    key = list(dataset.key)
    told = ", ".join(key)
    if key and not table.each and not any(is_unique and set(names) == set(key) for is_unique, names in found):
        alter = f"alter table {table.quoted} add primary key ({quoted(key)});"
        yield Difference(table=table.name, column=None, found=f"no unique index of the key ({told})", remedy=alter)
    for wanted in [*table.index, *([dataset.key] if key and table.each else [])]:
        if not any(names[: len(wanted)] == list(wanted) for _, names in found):
            lacking = f"no index on ({', '.join(wanted)})"
            yield Difference(table=table.name, column=None, found=lacking, remedy=create)


def _difference(table: Table, column: str, found: str, change: sql.Composable) -> Difference:
    alter = sql.SQL("alter table {} alter column {} {};").format(table.identifier, sql.Identifier(column), change)
    return Difference(table=table.name, column=column, found=found, remedy=alter.as_string(None))


def _columns(connection: psycopg.Connection, table: str) -> dict[str, _Held]:
    return {
        name: _Held(type=type_, is_required=is_required, has_default=has_default)
        for name, type_, is_required, has_default in connection.execute(_SQL["columns"], {"table": table})
    }
