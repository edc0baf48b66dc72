"""Faults that tests cause in the server: PL/pgSQL that runs for certain rows, and a gate at which loads wait."""

from collections.abc import Callable
from typing import Any, Literal, LiteralString

import psycopg
from psycopg import sql

Connection = psycopg.Connection[tuple[Any, ...]]
Moment = Literal["in COPY", "in COMMIT", "in closing"]

_TRIGGERS: dict[Moment, LiteralString] = {
    "in COPY": "create trigger {name} before insert on {table} for each row when ({when}) execute function {name}()",
    "in COMMIT": (
        "create constraint trigger {name} after insert on {table} deferrable initially deferred"
        " for each row when ({when}) execute function {name}()"
    ),
    "in closing": "create trigger {name} before update on {table} for each row when ({when}) execute function {name}()",
}


def on_insert(
    connection: Connection,
    table: str,
    when: LiteralString | sql.Composed,
    body: str,
    *,
    moment: Moment = "in COPY",
    name: str = "fault",
) -> None:
    """Run PL/pgSQL for each row of the table that meets the condition, at a moment of its load."""
    function = "create or replace function {name}() returns trigger language plpgsql as {body}"
    connection.execute(
        sql.SQL(function).format(name=sql.Identifier(name), body=f"begin {body} return new; end"),
    )
    connection.execute(
        sql.SQL(_TRIGGERS[moment]).format(
            name=sql.Identifier(name),
            table=sql.Identifier(*table.split(".")),
            when=sql.SQL(when) if isinstance(when, str) else when,
        )
    )


class Gate:
    """An advisory lock of the test, for which loads wait in a trigger."""

    def __init__(self, connection: Connection, moment: Moment, backend: Callable[[LiteralString], int]) -> None:
        self._connection = connection
        self._moment = moment
        self._backend = backend
        connection.execute("select pg_advisory_lock(42)")

    def put(self, table: str, when: LiteralString | sql.Composed) -> None:
        """Put the gate before the rows of a table that meet the condition."""
        wait = "perform pg_advisory_xact_lock_shared(42);"
        on_insert(self._connection, table, when, wait, moment=self._moment, name="etl_gate")

    def reached(self) -> int:
        """Wait until a load waits at the gate, and return the process id of its backend."""
        return self._backend(_AT_GATE[self._moment])

    def open(self) -> None:
        """Let the loads continue; a later load does not wait."""
        self._connection.execute("select pg_advisory_unlock_all()")


_AT_GATE: dict[Moment, LiteralString] = {
    "in COPY": "wait_event = 'advisory' and query !~* '^commit'",
    "in COMMIT": "wait_event = 'advisory' and query ~* '^commit'",
    "in closing": "wait_event = 'advisory' and query ~* '^ *update'",
}
