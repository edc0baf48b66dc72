"""The triggers of the facts, which note the changes of each statement. Their SQL is generated here.

Each statement that inserts, updates, deletes or truncates rows enters, in its own transaction, the days, hours or keys
of these rows in `etl.touched`, which has no unique key: noting never waits. The triggers of a fact note what all
aggregates of the database watch.
"""

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import LiteralString

import psycopg
from psycopg import sql

from etl import queries
from etl.errors import InternalError
from etl.precalculation.buckets import kind_of
from etl.quick_dataclasses import dataclass

_SQL = queries.load("installation")
_TABLES = queries.load("tables")
_COMMA = sql.SQL(", ")
_TRIGGERS = 4
_ARRAYS: Mapping[str, LiteralString] = {"days": "date[]", "hours": "timestamp[]", "keys": "text[]"}
_ROWS = {"inserted": ("new_rows",), "updated": ("old_rows", "new_rows"), "deleted": ("old_rows",)}


@dataclass(frozen=True, kw_only=True)
class _Note:
    """What is noted of the rows of a fact: the values of an expression in a column of etl.touched, or only a change."""

    noted: str
    column: str = ""
    value: sql.Composable | None = None


def install(connection: psycopg.Connection, facts: Iterable[str]) -> list[str]:
    """Make the triggers of these facts, inside a transaction; return the facts whose changes were not noted before.

    Before a change it waits for the transactions that are writing to the fact, because their triggers did not note what
    the aggregates watch now.
    """
    without_triggers = []
    for fact in sorted(set(facts)):
        body = _body(connection, fact)
        installed = connection.execute(_SQL["installed_triggers"], {"function": _name(fact), "fact": fact}).fetchone()
        if installed == (_source(body, connection), _TRIGGERS):
            continue
        connection.execute(queries.load("tables")["hold_writers"].format(table=_table(fact)))
        for statement in _statements(fact, body):
            connection.execute(statement)
        connection.execute(_SQL["watch_partitions"], {"fact": fact})
        if installed is None or installed[1] != _TRIGGERS:
            without_triggers.append(fact)
    return without_triggers


def ddl(connection: psycopg.Connection, fact: str) -> list[sql.Composed]:
    """Return the statements that make the function and the triggers of a fact."""
    return _statements(fact, _body(connection, fact))


def _statements(fact: str, body: sql.Composed) -> list[sql.Composed]:
    function = sql.Identifier("etl", _name(fact))
    comment = sql.Literal(f"notes the changes of {fact} for the aggregates that read it")
    return [
        _TABLES["make_function"].format(function=function, body=body),
        _TABLES["comment_function"].format(function=function, comment=comment),
        _TABLES["revoke_function"].format(function=function),
        _SQL["make_triggers"].format(function=function, fact=_table(fact)),
    ]


def _body(connection: psycopg.Connection, fact: str) -> sql.Composed:
    notes = [_note(*row) for row in connection.execute(_SQL["notes"], {"fact": fact})]
    if not notes:
        raise InternalError(f"expected an aggregate that watches {fact}, got none")
    parts = {
        operation: sql.SQL(";\n        ").join(_statements_of(fact, notes, rows)) + sql.SQL(";")
        for operation, rows in _ROWS.items()
    }
    return _SQL["notes_body"].format(fact=sql.Literal(fact), **parts)


def _note(noted: str, is_key: bool, bucket: str) -> _Note:
    noting = kind_of(bucket).noting
    if is_key:
        return _Note(noted=noted, column="keys", value=sql.SQL("{}::text").format(sql.Identifier(noted)))
    if noting is None:
        return _Note(noted=noted)
    return _Note(noted=noted, column=noting.column, value=sql.SQL(noting.value).format(sql.SQL(noted)))


def _statements_of(fact: str, notes: Sequence[_Note], rows: tuple[str, ...]) -> Iterator[sql.Composed]:
    """Yield the statements that note the changes of these rows, the transition tables of a trigger."""
    values = [note for note in notes if note.value]
    if len(values) < len(notes):
        yield _SQL["note_change"].format(fact=sql.Literal(fact), rows=sql.Identifier(rows[0]))
    if not values:
        return
    names = [sql.SQL(f"note_{number}") for number, _ in enumerate(values, 1)]
    expressions = _COMMA.join(note.value for note in values if note.value)
    array = sql.SQL("array_agg({0}) filter (where {0} is not null) as {0}")
    yield _SQL["note_values"].format(
        fact=sql.Literal(fact),
        arrays=sql.SQL(",\n                ").join(array.format(name) for name in names),
        names=_COMMA.join(names),
        rows=sql.SQL("\n                    union all\n                    ").join(
            sql.SQL("select {} from {}").format(expressions, sql.Identifier(table)) for table in rows
        ),
        sets=_COMMA.join(sql.SQL("({})").format(name) for name in names),
        notes=sql.SQL(",\n                ").join(map(_touched_row, values, names)),
    )


def _touched_row(note: _Note, name: sql.SQL) -> sql.Composed:
    """Return the row for etl.touched: the expression, and one of its arrays."""
    arrays = [
        name if column == note.column else sql.SQL("null::{}").format(sql.SQL(kind)) for column, kind in _ARRAYS.items()
    ]
    return sql.SQL("({})").format(_COMMA.join([sql.Literal(note.noted), *arrays]))


def _source(body: sql.Composed, connection: psycopg.Connection) -> str:
    return f"\n{body.as_string(connection)}\n"


def _name(fact: str) -> str:
    name = f"note_{fact.replace('.', '_')}"
    digest = hashlib.sha256(fact.encode()).hexdigest()[:8]
    return name if len(name) <= 63 else f"{name[:54]}_{digest}"


def _table(fact: str) -> sql.Identifier:
    return sql.Identifier(*fact.split("."))
