"""The triggers of the facts: what a statement changed is noted, by SQL that is generated here and can be read.

Each statement that inserts, updates, deletes or truncates rows enters, in its own transaction, the days or keys of
these rows into `etl.touched`, which has no unique key: noting waits for nobody. What is noted of a fact is what any
aggregate of the database watches.
"""

import hashlib
from collections.abc import Iterable, Iterator

import psycopg
from psycopg import sql

from etl import queries
from etl.errors import InternalError
from etl.precalculation.catalogue import Fact

_SQL = queries.load("installation")
_TRIGGERS = 4
_ROWS = {"inserted": ("new_rows",), "updated": ("old_rows", "new_rows"), "deleted": ("old_rows",)}


def install(connection: psycopg.Connection, facts: Iterable[Fact]) -> list[str]:
    """Make the triggers of these facts, inside a transaction; return the facts whose changes were not noted before.

    Where something changes it waits for the transactions that are writing to the fact: what they had noted was not
    what the aggregates watch now.
    """
    unnoted = []
    for fact in sorted({fact.table: fact for fact in facts}.values(), key=lambda fact: fact.table):
        body = _body(connection, fact)
        installed = connection.execute(
            _SQL["installed_triggers"], {"function": _name(fact), "fact": fact.table}
        ).fetchone()
        if installed == (_source(body, connection), _TRIGGERS):
            continue
        connection.execute(_SQL["hold_writers"].format(fact=fact.identifier))
        for statement in _statements(fact, body):
            connection.execute(statement)
        if installed is None or installed[1] != _TRIGGERS:
            unnoted.append(fact.table)
    return unnoted


def ddl(connection: psycopg.Connection, fact: Fact) -> list[sql.Composed]:
    """Return the statements that make the function and the triggers of a fact."""
    return _statements(fact, _body(connection, fact))


def _statements(fact: Fact, body: sql.Composed) -> list[sql.Composed]:
    function = sql.Identifier("etl", _name(fact))
    told = sql.Literal(f"notes what changes in {fact.table}, for the aggregates that read it")
    return [
        _SQL["make_function"].format(function=function, body=body),
        _SQL["comment_function"].format(function=function, comment=told),
        _SQL["revoke_function"].format(function=function),
        _SQL["make_triggers"].format(function=function, fact=fact.identifier),
    ]


def _body(connection: psycopg.Connection, fact: Fact) -> sql.Composed:
    notes = connection.execute(_SQL["notes"], {"fact": fact.table}).fetchall()
    if not notes:
        raise InternalError(f"expected an aggregate that watches {fact.table}, got none")
    parts = {
        operation: sql.SQL(";\n        ").join(_notes(fact, notes, rows)) + sql.SQL(";")
        for operation, rows in _ROWS.items()
    }
    return _SQL["notes_body"].format(fact=sql.Literal(fact.table), **parts)


def _notes(fact: Fact, notes: Iterable[tuple[str, bool]], rows: tuple[str, ...]) -> Iterator[sql.Composed]:
    for noted, is_key in notes:
        value = sql.SQL("{}::text").format(sql.Identifier(noted)) if is_key else sql.SQL(noted)
        one = [sql.SQL("select {} from {}").format(value, sql.Identifier(name)) for name in rows]
        found = (
            sql.SQL(" union ").join(one)
            if len(one) > 1
            else sql.SQL("select distinct {} from {}").format(value, sql.Identifier(rows[0]))
        )
        name = "note_keys" if is_key else "note_days" if noted else "note_change"
        if not noted:
            found = sql.SQL("select from {}").format(sql.Identifier(rows[-1]))
        yield _SQL[name].format(fact=sql.Literal(fact.table), noted=sql.Literal(noted), found=found)


def _source(body: sql.Composed, connection: psycopg.Connection) -> str:
    return f"\n{body.as_string(connection)}\n"


def _name(fact: Fact) -> str:
    name = f"note_{fact.table.replace('.', '_')}"
    digest = hashlib.sha256(fact.table.encode()).hexdigest()[:8]
    return name if len(name) <= 63 else f"{name[:54]}_{digest}"
