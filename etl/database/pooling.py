"""Whether a connection has a session of the server for itself, or shares sessions with others through a pooler.

A load needs its own session: it holds advisory locks, pins settings, and keeps temporary tables between transactions.
PgBouncer's transaction and statement pooling give each transaction to any free session.
"""

from typing import Literal

import psycopg

from etl import queries
from etl.database.connecting import Database, connect
from etl.errors import UsageError

Pooling = Literal["none", "session", "transaction"]

_SQL = queries.load("pooling")

_TRIES = 3


def pooling(connection: psycopg.Connection, database: Database) -> Pooling:
    """Return how this connection reaches the server.

    At the login, a pooler reports the id of a process that does not exist on the server. A pooler that shares sessions
    is found by a second connection with an open transaction: it gets the session of the first, or the first gets
    another session.
    """
    before = _backend(connection)
    if before == connection.info.backend_pid:
        return "none"
    try:
        for _ in range(_TRIES):
            with connect(database, "etl:check") as other, other.transaction():
                if _backend(other) == before or _backend(connection) != before:
                    return "transaction"
    except psycopg.Error:  # Statement pooling refuses a transaction.
        return "transaction"
    return "session"


def require_own_session(connection: psycopg.Connection, database: Database) -> None:
    """Raise UsageError when a pooler shares the sessions of the server between connections."""
    if pooling(connection, database) == "transaction":
        raise UsageError(
            f"a pooler in front of {database.name} gives each transaction another session of the server",
            hint="name the server itself, or a pool with pool_mode = session: locks and settings must outlive a batch",
        )


def _backend(connection: psycopg.Connection) -> int:
    row = connection.execute(_SQL["backend"]).fetchone()
    return int(row[0]) if row else 0
