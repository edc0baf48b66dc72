"""An undo of a run that wrote into tables with history: the versions before it come back, as if it had never loaded.

A version that the run wrote goes, also where a later run has ended it. A row that the run wrote again with the same
values stays. The caller holds the dataset and the run, and commits all of it together.
"""

from collections.abc import Sequence
from typing import LiteralString

import psycopg
from psycopg import sql

from etl import queries
from etl.datasets import Dataset, Table, listed, same_key
from etl.datasets.histories import VALID_FROM, identifier_of, kept_tables
from etl.ingestion.ledger import undoing
from etl.ingestion.ledger.undoing import RunToUndo
from etl.quick_dataclasses import dataclass

_SQL = queries.load("putting_back")
_BACK = sql.Identifier("pg_temp", "etl_back")


@dataclass(frozen=True, kw_only=True)
class Change:
    """The rows of a table that an undo deletes, and those that it shows again."""

    deleted: int
    restored: int


@dataclass(frozen=True, kw_only=True)
class _ShownColumn:
    """A column of a table with history.

    `is_settable`: an update can set it; `is_required`: it refuses null; `default_value` is the expression for new rows.
    """

    attname: str
    is_settable: bool
    is_required: bool
    default_value: LiteralString | None


def is_possible(connection: psycopg.Connection, dataset: Dataset, run: RunToUndo) -> bool:
    """Return whether the histories have all versions that the run has ended."""
    tables = [table.name for table, _ in kept_tables(dataset)]
    if not tables or len(tables) < len([table for table in dataset.record_tables if not table.deletes]):
        return False
    row = connection.execute(_SQL["is_complete"], {"tables": tables, "started_at": run.started_at}).fetchone()
    return bool(row and row[0])


def count(connection: psycopg.Connection, dataset: Dataset, run: RunToUndo) -> list[Change]:
    """Count for each table what `take_back` would do, without a change."""
    found: dict[str, Change] = {}
    for table, children in kept_tables(dataset):
        names = _names(connection, dataset, table, run, finds_seen=True)
        shown = _count(connection, _SQL["count_shown"].format(**names))
        found[table.name] = Change(deleted=_count(connection, _SQL["count_going"].format(**names)), restored=shown)
        for child in children:
            of_child = names | {"child": child.identifier, "history": identifier_of(child)}
            going = _count(connection, _SQL["count_going_children"].format(**of_child))
            # The query of the versions reads the history of the records.
            shown = _count(connection, _SQL["count_shown_children"].format(**of_child))
            found[child.name] = Change(deleted=going, restored=shown)
    return [found.get(table.name) or _of_deletions(connection, table, run) for table in dataset.tables]


def prepare(connection: psycopg.Connection, dataset: Dataset, run: RunToUndo) -> None:
    """Let later runs be the end of the versions before a run, where they found or wrote the rows of the run unchanged.

    This comes before the rows are given to these runs. From now on the transaction ends no version.
    """
    connection.execute(_SQL["keep_none"])
    for table, children in kept_tables(dataset):
        names = _names(connection, dataset, table, run)
        _change(connection, "take_over", names)
        histories = [{"history": identifier_of(each)} for each in (*children, table)]
        if table.has_digest:
            seen = names | {"seen": undoing.seen_later(table, run.number)}
            for each in histories:
                _change(connection, "end_by_seen", seen | each)
            _change(connection, "show_by_seen", seen)
        for each in histories:
            _change(connection, "end_by_later", names | each)
        _change(connection, "show_by_later", names)
        _change(connection, "show_new_by_later", names)


def take_back(connection: psycopg.Connection, dataset: Dataset, run: RunToUndo) -> list[Change]:
    """Take the versions of a run away and show those before them, and return what was done to each table.

    The rows that later runs have found unchanged belong to these runs already.
    """
    found: dict[str, Change] = {}
    for table, children in kept_tables(dataset):
        _keep_seen(connection, dataset, table, children, run)
        names = _names(connection, dataset, table, run)
        connection.execute(_SQL["note_back"].format(**names))
        deleted = {
            child.name: _change(connection, "delete_children", names | {"child": child.identifier})
            for child in children
        }
        going = _count(connection, _SQL["count_going"].format(**names))
        _change(connection, "delete_records", names)
        for child in children:
            _change(connection, "forget_children", names | {"child_history": identifier_of(child)})
        _change(connection, "forget_records", names)
        restored = {table.name: _change(connection, "show_records", names)}
        deleted[table.name] = going - _count(connection, _SQL["count_going"].format(**names))
        for child in children:
            restored[child.name] = _change(connection, "show_children", names | _of_table(connection, child))
        for each in (table, *children):
            _change(connection, "end_anew", names | {"history": identifier_of(each)})
        connection.execute(_SQL["drop_back"].format(**names))
        found |= {name: Change(deleted=deleted[name], restored=restored[name]) for name in deleted}
    for table in dataset.tables:
        if table.deletes:
            found[table.name] = Change(deleted=undoing.delete_rows(connection, table, run.number), restored=0)
    return [found[table.name] for table in dataset.tables]


def _keep_seen(
    connection: psycopg.Connection, dataset: Dataset, table: Table, children: Sequence[Table], run: RunToUndo
) -> None:
    """Give ended versions that later runs found unchanged to these runs, and correct which run ended each version."""
    names = _names(connection, dataset, table, run)
    if table.has_digest:
        _change(connection, "keep_seen", names | {"seen": undoing.seen_later(table, run.number)})
    _change(connection, "end_by_seen_version", names)
    for child in children:
        _change(connection, "follow_record", names | {"child_history": identifier_of(child)})


def _of_deletions(connection: psycopg.Connection, table: Table, run: RunToUndo) -> Change:
    return Change(deleted=undoing.count_rows(connection, table, run.number).own_rows, restored=0)


def _change(connection: psycopg.Connection, statement: str, names: dict[str, sql.Composable]) -> int:
    return connection.execute(_SQL[statement].format(**names)).rowcount


def _count(connection: psycopg.Connection, query: sql.Composed) -> int:
    row = connection.execute(query).fetchone()
    return int(row[0]) if row else 0


def _of_table(connection: psycopg.Connection, table: Table) -> dict[str, sql.Composable]:
    """Return the names of a table and its history, with the columns that the history keeps."""
    columns = _columns_of(connection, table)
    names = [column.attname for column in columns]
    return {
        "table": table.identifier,
        "history": identifier_of(table),
        "columns": listed(names),
        "returned": listed([*names, "valid_from"], "kept"),
        "values": sql.SQL(", ").join(_value(column, has_row=not table.each) for column in columns),
    }


def _value(column: _ShownColumn, *, has_row: bool) -> sql.Composable:
    """Return the value of a column for a version that is shown again; `has_row`: its key may have a row."""
    name = sql.Identifier("shown", column.attname)
    if not column.is_required:
        return name
    others: list[sql.Composable] = [sql.Identifier("record", column.attname)] if has_row else []
    others += [sql.SQL(column.default_value)] if column.default_value else []
    return sql.SQL("coalesce({})").format(sql.SQL(", ").join([name, *others]))


def _columns_of(connection: psycopg.Connection, table: Table) -> list[_ShownColumn]:
    """Return the columns that the history of a table keeps."""
    return queries.rows_as(_ShownColumn, connection, _SQL["shown_columns"], {"table": table.quoted})


def _names(
    connection: psycopg.Connection, dataset: Dataset, table: Table, run: RunToUndo, *, finds_seen: bool = False
) -> dict[str, sql.Composable]:
    """Return the names and conditions of the statements. `finds_seen`: `keep_seen` has not run yet."""
    key = dataset.key
    names = _of_table(connection, table) | {
        "back": _BACK,
        "number": sql.Literal(run.number),
        "started_at": sql.Literal(run.started_at),
        "key": listed(key),
        "key_of_ended": listed(key, "ended"),
        "is_key_of_shown": same_key(key, "record", "shown"),
        "is_key_of_back": same_key(key, "back", "record"),
        "is_key_of_kept": same_key(key, "kept", "ended"),
        "is_key_of_child": same_key(key, "child", "record"),
        "is_version": _is_version(key, "kept", "back"),
        "is_version_of_child": _is_version(key, "child", "kept"),
    }
    for row, column in (("ended", "valid_from"), ("kept", "valid_from"), ("record", VALID_FROM)):
        identifier = sql.Identifier(row)
        unseen: sql.Composable = sql.SQL("true")
        if finds_seen and table.has_digest:
            unseen = _SQL["unseen"].format(row=identifier, seen=undoing.seen_later(table, run.number))
        goes = names | {"row": identifier, "valid_from": sql.Identifier(column), "unseen": unseen}
        names[f"{row}_goes"] = _SQL["goes"].format(**goes)
    columns = _columns_of(connection, table)
    assigned = [column.attname for column in columns if column.is_settable and column.attname not in key]
    names["assignments"] = sql.SQL(", ").join(
        sql.SQL("{0} = excluded.{0}").format(sql.Identifier(name)) for name in (*assigned, VALID_FROM)
    )
    later = _SQL["later"].format(**names, is_key_of_record=same_key(key, "record", "ended"))
    names["query"] = _SQL["back"].format(**names, later=later)
    return names | {"is_key_of_record": same_key(key, "record", "kept")}


def _is_version(key: Sequence[str], left: str, right: str) -> sql.Composed:
    times = sql.SQL(" and {0}.valid_from is not distinct from {1}.valid_from and {0}.valid_to = {1}.valid_to")
    return same_key(key, left, right) + times.format(sql.Identifier(left), sql.Identifier(right))
