"""The settings of a session: pinned, whatever the role and its database set, or reported where the role may not.

A session also reads dates and times that the calendar of Python lacks: PostgreSQL holds times before the year 1 and
after the year 9999, and `infinity`.
"""

import psycopg
from psycopg.abc import Buffer
from psycopg.adapt import Loader
from psycopg.types import datetime as python

from etl import queries
from etl.database.pooling import Pooling, SharedSessionError
from etl.errors import UsageError

_SQL = queries.load("database")


def lift_limits(connection: psycopg.Connection, *, is_own: bool = False) -> bool:
    """Let no time limit end the next statements.

    Return False, and change nothing, when a pooler may lend the session to others: it reports a process at the login
    that is not the server's. `is_own` says that the pooler does not.
    """
    backend = 0 if is_own else connection.info.backend_pid
    return connection.execute(_SQL["lift_limits"], {"backend": backend}).fetchone() is not None


def pin(connection: psycopg.Connection, *, sees_all: bool) -> int:
    """Pin the settings of a session, and return the process of the server that serves it.

    With `sees_all` the server refuses a statement, instead of hiding rows, where a policy of a table would hide some.
    """
    values = {"row_security": "off" if sees_all else "on"}
    return int(queries.one(connection, _SQL["pin_session"], values)["backend"])


def require_own(way: Pooling, name: str) -> None:
    """Raise SharedSessionError when a pooler lends the session to another connection after each transaction."""
    if way == "transaction":
        raise SharedSessionError(
            f"a pooler in front of {name} gives each transaction another session of the server",
            hint="name the server itself, or a pool with pool_mode = session: locks and settings must outlive a batch",
        )


def require_usable(connection: psycopg.Connection) -> None:
    """Raise UsageError when the encoding of the database, or a setting that the role may not change, spoils a load."""
    user, name = connection.info.user, connection.info.dbname
    encoding = connection.info.parameter_status("server_encoding")
    if encoding != "UTF8":
        raise UsageError(
            f"expected a database with the encoding UTF8, which can store every text; {name} has {encoding}",
            hint="create database NAME encoding 'UTF8' template template0",
        )
    if replication_role(connection) == "replica":
        raise UsageError(
            f"session_replication_role is replica for {user}: no trigger notes changes, and no foreign key is checked",
            hint=f"as a superuser: alter role {user} reset session_replication_role,"
            f" and alter database {name} reset session_replication_role",
        )


def replication_role(connection: psycopg.Connection) -> str:
    """Return session_replication_role: with `replica` no trigger notes the changes of the facts."""
    row = connection.execute(_SQL["replication_role"]).fetchone()
    return str(row[0]) if row else "origin"


def read_all_times(connection: psycopg.Connection) -> None:
    """Let a connection return each date or time that Python cannot hold as the server's text."""
    for name, loader in _LOADERS.items():
        connection.adapters.register_loader(name, _or_text(loader))


def _or_text(loader: type[Loader]) -> type[Loader]:
    class OrText(loader):  # type: ignore[valid-type,misc] # a class of psycopg that is chosen at run time
        def load(self, data: Buffer) -> object:
            try:
                return super().load(data)
            except psycopg.DataError:
                return bytes(data).decode()

    return OrText


_LOADERS: dict[str, type[Loader]] = {
    "date": python.DateLoader,
    "time": python.TimeLoader,
    "timetz": python.TimetzLoader,
    "timestamp": python.TimestampLoader,
    "timestamptz": python.TimestamptzLoader,
    "interval": python.IntervalLoader,
}
