"""Read-only sessions of the database, each as the role of the one who asks."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, TypeAlias, TypeVar
from weakref import WeakKeyDictionary

import psycopg
from psycopg import sql
from psycopg_pool import AsyncConnectionPool, PoolTimeout, TooManyRequests

from etl import queries
from etl.database.connecting import Database, conninfo_of
from etl.serving import problems
from etl.serving.deadlines import Deadline

Connection: TypeAlias = psycopg.AsyncConnection[Any]
T = TypeVar("T")

_SQL = queries.load("serving")
_SESSION = queries.load("database")

APPLICATION = "etl:serve"
# Seconds for which a request waits for a connection, and how many may wait.
WAIT_SECONDS = 2.0
MAX_WAITING = 200
# Seconds more than a statement may take, after which the server is taken for away; and those for a new session.
_GRACE_SECONDS = 2.0
_NEW_SECONDS = 5.0
# No role has this name: PostgreSQL has no empty identifiers.
_UNKNOWN = ""


class Sessions:
    """Connections to a database from which answers are read."""

    def __init__(self, database: Database, *, size: int, statement_seconds: float) -> None:
        self._statement_timeout = f"{round(statement_seconds * 1000)}ms"
        self._answer_seconds = statement_seconds + _GRACE_SECONDS
        self._roles: WeakKeyDictionary[Connection, str] = WeakKeyDictionary()
        """The role of each session that has another than its user."""
        self._pool: AsyncConnectionPool[Connection] = AsyncConnectionPool(
            conninfo_of(database, APPLICATION),
            min_size=min(2, size),
            max_size=size,
            timeout=WAIT_SECONDS,
            max_waiting=MAX_WAITING,
            kwargs={"autocommit": True},
            configure=self._configure,
            open=False,
            name="serving",
        )

    async def open(self) -> None:
        """Open the first connections; one that cannot be opened now is opened later."""
        await self._pool.open()

    async def close(self) -> None:
        """Close all connections."""
        await self._pool.close(timeout=5)

    @property
    def counts(self) -> dict[str, int]:
        """Counts of the pool, as psycopg_pool names them."""
        return self._pool.get_stats()

    async def _configure(self, connection: Connection) -> None:
        await configure(connection, self._statement_timeout)

    @asynccontextmanager
    async def session(self, role: str | None) -> AsyncIterator[Connection]:
        """Give a session that only reads, with the rights of a role of the database; each statement is a snapshot.

        Raises PoolTimeout and TooManyRequests when all connections are in use, OperationalError when the server does
        not answer in time.
        """
        async with self._pool.connection() as connection:
            with Deadline(connection, self._answer_seconds) as deadline:
                try:
                    await self._take_role(connection, role)
                    yield connection
                except psycopg.OperationalError as error:
                    if deadline.is_over:
                        raise _SilentError("the server did not answer in time") from error
                    raise

    async def _take_role(self, connection: Connection, role: str | None) -> None:
        # The role stays with the session, and each use sets its own: a statement less for most.
        if self._roles.get(connection) == role:
            return
        # Until the end of the statement, which may be cancelled, it is unknown which role the session has.
        self._roles[connection] = _UNKNOWN
        name = sql.SQL("none") if role is None else sql.Identifier(role)
        await connection.execute(sql.SQL("set role {}").format(name))
        if role is None:
            del self._roles[connection]
        else:
            self._roles[connection] = role

    async def read(self, role: str | None, reading: Callable[[Connection], Awaitable[T]]) -> T:
        """Return what a function reads in a session; after the end of the connection it is called once more.

        Raises ProblemError for errors of the database, and for one that does not answer in time.
        """
        try:
            try:
                return await self._read(role, reading)
            except _SilentError:
                await self._pool.drain()  # So are the other connections, and nothing is asked a second time.
                raise
            except psycopg.OperationalError as error:
                if not _is_lost(error):
                    raise
                await self._pool.drain()  # The server was restarted: the other connections are lost, too.
                return await self._read(role, reading)
        except (psycopg.Error, PoolTimeout, TooManyRequests) as error:
            raise problems.of_database(error) from error

    async def _read(self, role: str | None, reading: Callable[[Connection], Awaitable[T]]) -> T:
        async with self.session(role) as connection:
            return await reading(connection)


class _SilentError(psycopg.OperationalError):
    """The server did not answer in time, and would not a second time."""


def _is_lost(error: psycopg.OperationalError) -> bool:
    """Return whether an error says that the session has ended, and not that a statement failed in it."""
    return error.sqlstate is None or (error.sqlstate[:2] in {"08", "57"} and error.sqlstate != "57014")


async def configure(connection: Connection, statement_timeout: str) -> None:
    """Pin the settings of a session, as everywhere, and let it only read and obey the policies of its role."""
    with Deadline(connection, _NEW_SECONDS):
        await connection.execute(_SESSION["pin_session"], {"row_security": "on"})
        await connection.execute(_SQL["limit_session"], {"statement_timeout": statement_timeout})
