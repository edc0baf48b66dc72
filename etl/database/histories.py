"""The histories of a dataset in a database: makes them and their triggers, and checks that no version is lost."""

from collections.abc import Iterator
from typing import LiteralString

import psycopg
from psycopg import sql

from etl import queries
from etl.database.row_history import Kept, kept
from etl.datasets import Dataset, Table, quoted
from etl.datasets.histories import ADDED, VALID_FROM, identifier_of, name_of
from etl.errors import UsageError
from etl.quick_dataclasses import dataclass

_SQL = queries.load("row_history")


@dataclass(frozen=True, kw_only=True)
class Unfit:
    """Why a history cannot keep the versions of its table, and the remedy."""

    table: str
    column: str | None
    found: str
    remedy: str


def install(connection: psycopg.Connection, dataset: Dataset) -> list[Table]:
    """Make the histories of a dataset and their triggers, inside a transaction; drop triggers that it does not want.

    Nothing is changed where all of it is there. Returns the tables that have a history.
    """
    for each in _kept(connection, dataset):
        if list(_unmade(connection, each)):
            _make(connection, each)
    _drop_unwanted(connection, dataset)
    return [table for each in _kept(connection, dataset) for table in each.tables]


def _make(connection: psycopg.Connection, each: Kept) -> None:
    for table in each.tables:
        connection.execute(queries.load("tables")["hold_writers"].format(table=table.identifier))
    is_whole = all(_exists(connection, table) for table in each.tables) and not _lacks_triggers(connection, each)
    for statement in each.table_statements():
        connection.execute(statement)
    for table in each.tables:
        is_whole = _add_columns(connection, table) and is_whole
    for statement in each.comment_statements():
        connection.execute(statement)
    if not is_whole:
        for statement in (*each.align_statements(), each.register()):
            connection.execute(statement)
    for statement in each.trigger_statements():
        connection.execute(statement)


def _add_columns(connection: psycopg.Connection, table: Table) -> bool:
    """Let a history keep the new columns of its table; return whether its versions have the values of all columns.

    A column of the table may have had another name: the versions of before have its values by that name.
    """
    missing = [(name, type_) for name, type_, existing, _ in _unfit_columns(connection, table) if existing is None]
    values = {"table": table.quoted, "history": identifier_of(table).as_string(None), "added": list(ADDED)}
    may_be_renamed = queries.one(connection, _SQL["may_be_renamed"], values)["may_be_renamed"]
    for name, type_ in missing:
        names = {"table": identifier_of(table), "column": sql.Identifier(name), "type": sql.SQL(type_)}
        connection.execute(queries.load("tables")["add_column"].format(**names))
    return not (missing and may_be_renamed)


def _lacks_triggers(connection: psycopg.Connection, each: Kept) -> bool:
    return any(bodies.keys() - _installed(connection, table) for table, bodies in each.bodies().items())


def _drop_unwanted(connection: psycopg.Connection, dataset: Dataset) -> None:
    """Drop the triggers of tables whose history the definition does not name any more; the versions stay.

    Another dataset of the tables may have the option.
    """
    names = {"tables": [table.name for table in dataset.tables], "dataset": dataset.name}
    if connection.execute(_SQL["belongs_to_another"], names).fetchone():
        return
    wanted = {table for each in _kept(connection, dataset) for table in each.bodies()}
    for table in dataset.tables:
        if table.name in wanted:
            continue
        for name in _installed(connection, table.name):
            connection.execute(_SQL["drop_trigger"].format(trigger=sql.Identifier(name), table=table.identifier))
            connection.execute(_SQL["forget"], {"table": table.name})


def require_kept(connection: psycopg.Connection, dataset: Dataset) -> None:
    """Raise UsageError when a history would not keep a version that ends, or would let a change fail."""
    for each in _kept(connection, dataset):
        for unfit in (*_missing(connection, each), *_unfit(connection, each)):
            where = f"the column {unfit.column} of {unfit.table}" if unfit.column else unfit.table
            raise UsageError(f"{where} {unfit.found}", hint=unfit.remedy.removesuffix(";"))


def differences(connection: psycopg.Connection, dataset: Dataset) -> Iterator[Unfit]:
    """Yield all that the histories lack, functions of an older version of this tool, and rows that they would show."""
    for each in _kept(connection, dataset):
        yield from _unmade(connection, each)
        for table in each.tables:
            history = identifier_of(table).as_string(None)
            names = {"table": table.quoted, "beside": history}
            if connection.execute(queries.load("database")["shows_more"], names).fetchone() == (True,):
                found = f"shows all rows, and row-level security hides rows of {table.name}"
                remedy = f"alter table {history} enable row level security; (and give it policies)"
                yield Unfit(table=name_of(table), column=None, found=found, remedy=remedy)


def _kept(connection: psycopg.Connection, dataset: Dataset) -> list[Kept]:
    def columns_of(table: Table) -> list[str]:
        return [name for (name,) in connection.execute(_SQL["kept_columns"], {"table": table.quoted})]

    def operators_of(table: Table) -> dict[str, sql.Composable]:
        found = connection.execute(_SQL["operators"], {"table": table.quoted, "key": list(dataset.key)}).fetchall()
        # The name of an operator has no letters, so that it ends no statement and needs no quotes.
        return {
            name: sql.SQL("operator({}.{})").format(sql.Identifier(schema), sql.SQL(operator))
            for name, schema, operator in found
        }

    return kept(dataset, columns_of, operators_of)


def _missing(connection: psycopg.Connection, each: Kept) -> Iterator[Unfit]:
    """Yield the histories and the triggers that are missing, or disabled."""
    remedy = f"etl dataset create {each.dataset.name}"
    for table in each.tables:
        if not _exists(connection, table):
            yield Unfit(table=name_of(table), column=None, found="is missing: history = true", remedy=remedy)
    if not queries.one(connection, _SQL["has_valid_from"], {"table": each.table.quoted})["has_valid_from"]:
        yield Unfit(table=each.table.name, column=VALID_FROM, found="is missing, or no timestamptz", remedy=remedy)
    for name, bodies in each.bodies().items():
        if lacking := sorted(bodies.keys() - _installed(connection, name)):
            found = f"has no trigger {', '.join(lacking)}, or it is disabled: its history would have gaps"
            yield Unfit(table=name, column=None, found=found, remedy=remedy)


def _unfit(connection: psycopg.Connection, each: Kept) -> Iterator[Unfit]:
    """Yield the columns of the tables that their histories do not keep as they are."""
    for table in each.tables:
        history = identifier_of(table).as_string(None)
        is_there = _exists(connection, table)
        for name, type_, existing, refuses_null in _unfit_columns(connection, table) if is_there else ():
            alter = f"alter table {history} alter column {quoted([name])}"
            if existing is None:
                found, remedy = "is missing", f"etl dataset create {each.dataset.name}"
            elif refuses_null:
                found, remedy = f"refuses null, and that of {table.name} does not", f"{alter} drop not null;"
            else:
                found, remedy = f"is {existing}, and that of {table.name} is {type_}", f"{alter} type {type_};"
            yield Unfit(table=name_of(table), column=name, found=found, remedy=remedy)


def _unmade(connection: psycopg.Connection, each: Kept) -> Iterator[Unfit]:
    """Yield what `install` would make."""
    found = [*_missing(connection, each), *_unfit(connection, each)]
    yield from found
    for name, bodies in each.bodies().items() if not found else ():
        installed = _installed(connection, name)
        if any(body is not None and installed.get(trigger) != body for trigger, body in bodies.items()):
            text = "keeps its versions by a function that does not know all columns, or is older"
            yield Unfit(table=name, column=None, found=text, remedy=f"etl dataset create {each.dataset.name}")


def _exists(connection: psycopg.Connection, table: Table) -> bool:
    """Return whether there is the history of a table."""
    values = {"table": identifier_of(table).as_string(None)}
    return connection.execute(queries.load("tables")["exists"], values).fetchone() == (True,)


def _unfit_columns(connection: psycopg.Connection, table: Table) -> list[tuple[str, LiteralString, str | None, bool]]:
    values = {"table": table.quoted, "history": identifier_of(table).as_string(None)}
    return connection.execute(_SQL["unfit_columns"], values).fetchall()


def _installed(connection: psycopg.Connection, table: str) -> dict[str, str]:
    """Return the triggers of a table that keep its versions, with the bodies of their functions."""
    name = sql.Identifier(*table.split(".")).as_string(None)
    return dict(connection.execute(_SQL["installed_functions"], {"table": name}).fetchall())
