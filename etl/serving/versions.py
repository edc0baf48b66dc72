"""The versions of the aggregates at the moment of a request: one query answers all requests that wait for it.

A notification of a new version comes after the commit, at times some milliseconds after it. So a kept answer is sent
only when a query that began after the request has found its version to be the newest. Under load a query serves all
requests that came during the one before, which costs a few percent.
"""

import asyncio
from collections.abc import Mapping
from contextlib import suppress

import psycopg

from etl import queries
from etl.database.connecting import Database, conninfo_of
from etl.serving import problems
from etl.serving.deadlines import Deadline
from etl.serving.pool import Connection, configure

SECONDS = 3.0
"""How long a query may take. It reads a few rows; a service that cannot read them answers nothing that it has kept."""

_SQL = queries.load("serving")


class Versions:
    """Asks the database for the versions, over a connection of its own."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._connection: Connection | None = None
        self._waiting: list[asyncio.Future[Mapping[str, int]]] = []
        self._task: asyncio.Task[None] | None = None
        self._text: str | None = None
        self._versions: Mapping[str, int] = {}

    async def now(self) -> Mapping[str, int]:
        """Return the versions by aggregate, read after this call; an aggregate that was never computed has none.

        Raises ProblemError when the database does not answer.
        """
        future: asyncio.Future[Mapping[str, int]] = asyncio.get_running_loop().create_future()
        self._waiting.append(future)
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._answer())
        return await future

    async def close(self) -> None:
        """Close the connection."""
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task
        await self._drop()

    async def _answer(self) -> None:
        """Answer those who wait, until nobody does."""
        while self._waiting:
            waiting, self._waiting = self._waiting, []
            try:
                async with asyncio.timeout(SECONDS):
                    versions = await self._read_again()
            except (psycopg.Error, OSError, TimeoutError):
                await self._drop()
                for future in waiting:
                    if not future.done():  # Those who asked may have gone.
                        future.set_exception(problems.busy("the database cannot be reached now"))
            except BaseException:
                for future in waiting:
                    future.cancel()
                raise
            else:
                for future in waiting:
                    if not future.done():
                        future.set_result(versions)

    async def _read_again(self) -> Mapping[str, int]:
        """Read the versions, over a new connection where the last one was lost."""
        if self._connection is not None:
            try:
                return await self._read(self._connection)
            except psycopg.OperationalError:
                await self._drop()
        connection = await psycopg.AsyncConnection.connect(
            conninfo_of(self._database, "etl:serve:versions"), autocommit=True, prepare_threshold=1
        )
        self._connection = connection
        await configure(connection, f"{round(SECONDS * 1000)}ms")
        return await self._read(connection)

    async def _read(self, connection: Connection) -> Mapping[str, int]:
        with Deadline(connection, SECONDS / 2):
            row = await (await connection.execute(_SQL["versions"])).fetchone()
        text = str(row[0]) if row and row[0] is not None else ""
        if text != self._text:
            pairs = (pair.rpartition(" ") for pair in text.split("\n") if pair)
            self._versions = {name: int(version) for name, _, version in pairs}
            self._text = text
        return self._versions

    async def _drop(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.close()
