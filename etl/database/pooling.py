"""Whether a connection has a session of the server for itself, or shares sessions with others through a pooler.

A command needs its own session: it holds advisory locks, pins settings, and keeps temporary tables between
transactions. PgBouncer's transaction and statement pooling give each transaction to any free session.
"""

from collections.abc import Callable
from typing import Literal

import psycopg

from etl import queries
from etl.errors import UsageError

Pooling = Literal["none", "session", "transaction"]

_SQL = queries.load("pooling")

_TRIES = 3


class SharedSessionError(UsageError):
    """A pooler shares the sessions of the server between connections."""


def pooling(connection: psycopg.Connection, another: Callable[[], psycopg.Connection]) -> Pooling:
    """Return how this connection reaches the server; `another` opens a second connection in the same way.

    At the login, a pooler reports the id of a process that does not exist on the server. A pooler that shares sessions
    is found by a second connection with an open transaction: it gets the session of the first, or the first gets
    another session.
    """
    before = _backend(connection)
    if before == connection.info.backend_pid:
        return "none"
    for _ in range(_TRIES):
        with another() as other:
            try:
                with other.transaction():
                    if _backend(other) == before or _backend(connection) != before:
                        return "transaction"
            except psycopg.Error:  # Statement pooling refuses a transaction.
                return "transaction"
    return "session"


def _backend(connection: psycopg.Connection) -> int:
    row = connection.execute(_SQL["backend"]).fetchone()
    return int(row[0]) if row else 0
