"""The differences between the tables of a dataset and its definition, with remedies. Reads, and changes nothing."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Literal

import psycopg
from psycopg import sql

from etl import queries
from etl.database.tables import denied, identity_remedy, key_remedy, require_types
from etl.datasets import DIGEST, LINEAGE, Dataset, Table, limits_ddl, sql_type
from etl.quick_dataclasses import dataclass

_SQL = queries.load("comparison")
_EXPECTED = "etl_expected"


@dataclass(frozen=True, kw_only=True)
class Difference:
    """One difference of a table from its definition; a difference without a remedy is allowed."""

    table: str
    column: str | None
    found: str
    remedy: str


@dataclass(frozen=True, kw_only=True)
class _TableColumn:
    type: str
    is_required: bool
    is_filled: bool
    generated: Literal["", "computed", "identity"]


def compare(connection: psycopg.Connection, dataset: Dataset) -> list[Difference]:
    """Return the differences of the tables; a column that the definition does not name is one, and stays.

    Raises UsageError if the user may not read the catalogue, DefinitionError if the server lacks a type.
    """
    try:
        with connection.transaction(force_rollback=True):
            connection.execute(queries.load("database")["hush_notices"])
            require_types(connection, dataset)
            found = [difference for table in dataset.tables for difference in _of_table(connection, dataset, table)]
            return [*found, *_of_histories(connection, dataset)]
    except psycopg.errors.InsufficientPrivilege as error:
        what = f"compare the tables of {dataset.name}: {error.diag.message_primary}"
        raise denied(connection, dataset, what) from error


def _of_table(connection: psycopg.Connection, dataset: Dataset, table: Table) -> Iterator[Difference]:
    columns = _columns(connection, table.quoted)
    create = f"etl dataset create {dataset.name}"
    if not columns:
        yield Difference(table=table.name, column=None, found="the table is missing", remedy=create)
        return
    for name in (*(column.name for column in table.columns), *LINEAGE):
        if name not in columns:
            yield Difference(table=table.name, column=name, found="the column is missing", remedy=create)
    connection.execute(limits_ddl(table, sql.Identifier("pg_temp", _EXPECTED)))
    yield from _of_columns(connection, table, columns)
    yield from _of_generated(dataset, table, columns)
    yield from _of_checks(connection, table, columns)
    connection.execute(sql.SQL("drop table {}").format(sql.Identifier("pg_temp", _EXPECTED)))
    yield from _of_indexes(connection, dataset, table, create)


def _of_columns(connection: psycopg.Connection, table: Table, columns: dict[str, _TableColumn]) -> Iterator[Difference]:
    expected = _columns(connection, f"pg_temp.{_EXPECTED}")
    for column in table.columns:
        existing = columns.get(column.name)
        if existing is None:
            continue
        type_ = sql_type(column.type)
        if existing.type != expected[column.name].type:
            text = f"is {existing.type}, and not {type_.as_string(connection)}"
            yield _other_type(table, column.name, text, type_)
        if column.required and not existing.is_required:
            yield _difference(table, column.name, "takes null, and is required", sql.SQL("set not null"))
        if existing.is_required and not column.required:
            yield _difference(table, column.name, "refuses null, and is not required", sql.SQL("drop not null"))
    firsts = (name for column in table.columns if column.keep_first for name in column.names_of_first)
    of_history = ["etl_valid_from"] * table.history
    named = {*(column.name for column in table.columns), *LINEAGE, DIGEST, *firsts, *of_history}
    for name, existing in columns.items():
        if name in named:
            continue
        if existing.is_required and not existing.is_filled:
            text = "is not in the definition, refuses null and has no default: no record loads"
            yield _difference(table, name, text, sql.SQL("drop not null"))
        else:
            yield Difference(table=table.name, column=name, found="is not in the definition, and stays", remedy="")


def _of_generated(dataset: Dataset, table: Table, columns: dict[str, _TableColumn]) -> Iterator[Difference]:
    """Yield the columns of the definition that a load cannot fill, or cannot update."""
    for column in table.columns:
        generated = columns[column.name].generated if column.name in columns else ""
        if generated == "computed":
            text, remedy = "is computed by the server, and takes no value", f"leave it out of {dataset.path}"
            yield Difference(table=table.name, column=column.name, found=text, remedy=remedy)
        if generated == "identity" and dataset.key and column.name not in dataset.key and not table.each:
            remedy = identity_remedy(table.quoted, [column.name])
            text = "is generated always, and no update can change it"
            yield Difference(table=table.name, column=column.name, found=text, remedy=remedy)


def _of_checks(connection: psycopg.Connection, table: Table, columns: dict[str, _TableColumn]) -> Iterator[Difference]:
    expected = connection.execute(_SQL["checks"], {"table": f"pg_temp.{_EXPECTED}"}).fetchall()
    existing = set(connection.execute(_SQL["checks"], {"table": table.quoted}).fetchall())
    for name, check in expected:
        if name in columns and (name, check) not in existing:
            alter = f"alter table {table.quoted} add {check};"
            yield Difference(table=table.name, column=name, found=f"lacks the {check}", remedy=alter)


def _of_indexes(connection: psycopg.Connection, dataset: Dataset, table: Table, create: str) -> Iterator[Difference]:
    indexes = connection.execute(_SQL["indexes"], {"table": table.quoted}).fetchall()
    key = list(dataset.key)
    key_text = ", ".join(key)
    if key and not table.each and not any(is_unique and set(names) == set(key) for is_unique, names in indexes):
        remedy = key_remedy(connection, dataset, table)
        yield Difference(table=table.name, column=None, found=f"no unique index of the key ({key_text})", remedy=remedy)
    for index in [*table.index, *([dataset.key] if key and table.each else [])]:
        if not any(names[: len(index)] == list(index) for _, names in indexes):
            missing = f"no index on ({', '.join(index)})"
            yield Difference(table=table.name, column=None, found=missing, remedy=create)


def _of_histories(connection: psycopg.Connection, dataset: Dataset) -> Iterator[Difference]:
    """Yield what the histories of the tables lack."""
    if not dataset.has_history:
        return
    from etl.database import histories  # noqa: PLC0415 - most tables keep no history

    for unfit in histories.differences(connection, dataset):
        yield Difference(**vars(unfit))


def _difference(table: Table, column: str, found: str, change: sql.Composable) -> Difference:
    alter = sql.SQL("alter table {} alter column {} {};").format(table.identifier, sql.Identifier(column), change)
    return Difference(table=table.name, column=column, found=found, remedy=alter.as_string(None))


def _other_type(table: Table, column: str, found: str, type_: sql.Composable) -> Difference:
    """Return the difference of a type. The server changes no type of a column that a trigger compares."""
    difference = _difference(table, column, found, sql.SQL("type {}").format(type_))
    if not table.history:
        return difference
    from etl.database.row_history import BEGAN  # noqa: PLC0415 - most tables keep no history

    drop = sql.SQL("drop trigger if exists {} on {};").format(sql.Identifier(BEGAN), table.identifier)
    return replace(difference, remedy=f"{drop.as_string(None)} {difference.remedy}")


def _columns(connection: psycopg.Connection, table: str) -> dict[str, _TableColumn]:
    return {
        name: _TableColumn(type=type_, is_required=is_required, is_filled=is_filled, generated=generated)
        for name, type_, is_required, is_filled, generated in connection.execute(_SQL["columns"], {"table": table})
    }
