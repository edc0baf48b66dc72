"""The triggers of the facts: what a statement changed is noted, by SQL that is generated here and can be read.

Each statement that inserts, updates, deletes or truncates rows enters, in its own transaction, the days or keys of
these rows into `etl.touched`, which has no unique key: noting waits for nobody. What is noted of a fact is what any
aggregate of the database watches.
"""

import hashlib
from collections.abc import Iterable, Iterator, Sequence

import psycopg
from psycopg import sql

from etl import queries
from etl.errors import InternalError

_SQL = queries.load("installation")
_COMMA = sql.SQL(", ")
_TRIGGERS = 4
_ROWS = {"inserted": ("new_rows",), "updated": ("old_rows", "new_rows"), "deleted": ("old_rows",)}


def install(connection: psycopg.Connection, facts: Iterable[str]) -> list[str]:
    """Make the triggers of these facts, inside a transaction; return the facts whose changes were not noted before.

    Where something changes it waits for the transactions that are writing to the fact: what they had noted was not
    what the aggregates watch now.
    """
    unnoted = []
    for fact in sorted(set(facts)):
        body = _body(connection, fact)
        installed = connection.execute(_SQL["installed_triggers"], {"function": _name(fact), "fact": fact}).fetchone()
        if installed == (_source(body, connection), _TRIGGERS):
            continue
        connection.execute(_SQL["hold_writers"].format(fact=_table(fact)))
        for statement in _statements(fact, body):
            connection.execute(statement)
        if installed is None or installed[1] != _TRIGGERS:
            unnoted.append(fact)
    return unnoted


def ddl(connection: psycopg.Connection, fact: str) -> list[sql.Composed]:
    """Return the statements that make the function and the triggers of a fact."""
    return _statements(fact, _body(connection, fact))


def _statements(fact: str, body: sql.Composed) -> list[sql.Composed]:
    function = sql.Identifier("etl", _name(fact))
    told = sql.Literal(f"notes what changes in {fact}, for the aggregates that read it")
    return [
        _SQL["make_function"].format(function=function, body=body),
        _SQL["comment_function"].format(function=function, comment=told),
        _SQL["revoke_function"].format(function=function),
        _SQL["make_triggers"].format(function=function, fact=_table(fact)),
    ]


def _body(connection: psycopg.Connection, fact: str) -> sql.Composed:
    notes = connection.execute(_SQL["notes"], {"fact": fact}).fetchall()
    if not notes:
        raise InternalError(f"expected an aggregate that watches {fact}, got none")
    parts = {
        operation: sql.SQL(";\n        ").join(_notes(fact, notes, rows)) + sql.SQL(";")
        for operation, rows in _ROWS.items()
    }
    return _SQL["notes_body"].format(fact=sql.Literal(fact), **parts)


def _notes(fact: str, notes: Sequence[tuple[str, bool]], rows: tuple[str, ...]) -> Iterator[sql.Composed]:
    """Yield the statements that note what is watched of these rows, the transition tables of a trigger."""
    values = [(noted, is_key) for noted, is_key in notes if noted]
    if len(values) < len(notes):
        yield _SQL["note_change"].format(fact=sql.Literal(fact), rows=sql.Identifier(rows[0]))
    if not values:
        return
    names = [sql.SQL(f"note_{number}") for number, _ in enumerate(values, 1)]
    expressions = _COMMA.join(
        sql.SQL("{}::text").format(sql.Identifier(noted)) if is_key else sql.SQL(noted) for noted, is_key in values
    )
    listed = [
        sql.SQL("({}, null::date[], {})" if is_key else "({}, {}, null::text[])").format(sql.Literal(noted), name)
        for (noted, is_key), name in zip(values, names, strict=True)
    ]
    array = sql.SQL("array_agg({0}) filter (where {0} is not null) as {0}")
    yield _SQL["note_values"].format(
        fact=sql.Literal(fact),
        arrays=sql.SQL(",\n                ").join(array.format(name) for name in names),
        names=_COMMA.join(names),
        rows=sql.SQL("\n                    union all\n                    ").join(
            sql.SQL("select {} from {}").format(expressions, sql.Identifier(each)) for each in rows
        ),
        sets=_COMMA.join(sql.SQL("({})").format(name) for name in names),
        notes=sql.SQL(",\n                ").join(listed),
    )


def _source(body: sql.Composed, connection: psycopg.Connection) -> str:
    return f"\n{body.as_string(connection)}\n"


def _name(fact: str) -> str:
    name = f"note_{fact.replace('.', '_')}"
    digest = hashlib.sha256(fact.encode()).hexdigest()[:8]
    return name if len(name) <= 63 else f"{name[:54]}_{digest}"


def _table(fact: str) -> sql.Identifier:
    return sql.Identifier(*fact.split("."))
