"""Whether a connection is a session of its own, or shares sessions of the server with others by a pooler.

A load needs its own: it holds advisory locks, pins settings and keeps temporary tables from one transaction to the
next. PgBouncer's transaction and statement pooling give each transaction to whatever session is free.
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
    """Tell how this connection reaches the server.

    A pooler names a process at the login that is none of the server's. Whether it shares sessions shows when another
    connection holds a transaction open: it has the session that was ours, or ours is another afterwards.
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
