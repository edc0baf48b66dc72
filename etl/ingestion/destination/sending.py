"""Statements and rows -> the server, in the transaction that the caller holds. Other work is done while it works.

Uses libpq's own calls, because those of a cursor block until the server has taken the data and has answered (PostgreSQL
documentation, "Asynchronous Command Processing").
"""

import select
import time
from collections.abc import Generator, Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import TypeAlias, TypeVar

import psycopg
from psycopg import sql
from psycopg.pq import ConnStatus, ExecStatus, TransactionStatus
from psycopg.pq.abc import PGresult

from etl import queries
from etl.database.connecting import Session
from etl.database.watching import ServerConnection
from etl.errors import InternalError
from etl.ingestion.constants import COPY_BYTES
from etl.ingestion.values import Rows

_SQL = queries.load("sending")

_CANCEL_SECONDS = 5.0
_CANCEL_LONGEST_SECONDS = 10.0
_STEP_MILLISECONDS = 500
_CANCELLED = b"cancelled"

Result = TypeVar("Result")


class RowsSkippedError(InternalError):
    """The server counted fewer rows of a COPY than were sent."""


Waiting: TypeAlias = Generator[None, bool, Result]
"""A conversation with the server that yields whenever it has to wait, and returns its result at the end.

The caller may do a part of other work then, and sends whether it did: without any, the conversation waits for the
server. The caller keeps the control, so nothing of its work is called from below.
"""


def wait_for(conversation: Waiting[Result]) -> Result:
    """Hold a conversation with the server to its end, without other work."""
    try:
        next(conversation)
        while True:
            conversation.send(False)
    except StopIteration as end:
        result: Result = end.value
        return result


class Wire:
    """The exchanges over one session, one for each of its connections."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self._exchange: Exchange | None = None

    def exchange(self) -> "Exchange":
        """Return the exchange of the session's connection, a new one when the last connection was lost.

        Raises psycopg.OperationalError when the server cannot be reached now.
        """
        connection = self.session.connection()
        if self._exchange is None or self._exchange.connection is not connection:
            self._exchange = Exchange(connection)
        return self._exchange


class Exchange:
    """Sends statements and rows to the server over one connection, and reads its answers."""

    def __init__(self, connection: psycopg.Connection) -> None:
        self.connection = connection
        self._server = connection.pgconn
        self._watch = connection.watch if isinstance(connection, ServerConnection) else None
        self._answers, self._room = select.poll(), select.poll()
        self._answers.register(self._server.socket, select.POLLIN)
        self._room.register(self._server.socket, select.POLLIN | select.POLLOUT)

    def send(self, parts: Iterable[Rows], target: sql.Identifier, columns: sql.Composable) -> Waiting[int]:
        """COPY rows into these columns of a table; return how many the server counted.

        Raises psycopg.Error as the server refuses them, RowsSkippedError when it counted other rows than were sent.
        """
        total = 0
        for rows in parts:
            if not rows.count:
                continue
            names = columns if rows.columns is None else sql.SQL(", ").join(map(sql.Identifier, rows.columns))
            counted = yield from self._copy(_SQL[f"copy_{rows.format}"].format(table=target, columns=names), rows)
            if counted != rows.count:
                raise RowsSkippedError(f"COPY counted {counted} rows of a table, {rows.count} were sent")
            total += counted
        return total

    def run(self, statement: sql.Composed) -> Waiting[PGresult]:
        """Run a statement and return its last result.

        Raises psycopg.Error as the server refuses it.
        """
        with self._cancelling():
            self._server.send_query(statement.as_bytes(self.connection))
            return (yield from self._answer())

    def _copy(self, statement: sql.Composed, rows: Rows) -> Waiting[int]:
        """Send rows by a COPY statement and return how many the server counted."""
        with self._cancelling():
            self._server.send_query(statement.as_bytes(self.connection))
            yield from self._answer()
            for content in rows.encoded():
                view = memoryview(content)
                for at in range(0, len(view), COPY_BYTES):
                    self._server.put_copy_data(view[at : at + COPY_BYTES])
                    yield from self._flush()
            self._server.put_copy_end()
            return (yield from self._answer()).command_tuples or 0

    def _flush(self) -> Waiting[None]:
        """Send what libpq has buffered; yield while the server takes no more."""
        while self._server.flush():
            # Another try is cheap, and the socket has room long before poll() reports it.
            if not (yield) and self._waited(self._room):
                self._server.consume_input()

    def _answer(self) -> Waiting[PGresult]:
        """Wait for the end of the current statement, and return its last result.

        Raises psycopg.Error as the server refuses the statement, InternalError when there is no result.
        """
        yield from self._flush()
        answer = refused = None
        while (result := (yield from self._next_result())) is not None:
            answer = result
            if result.status == ExecStatus.FATAL_ERROR:
                refused = psycopg.errors.error_from_result(result)
            if result.status == ExecStatus.COPY_IN:
                break
        if self._server.status == ConnStatus.BAD:
            raise psycopg.OperationalError("the connection was lost") from refused
        if refused is not None:
            raise self._watch.reason(refused) if self._watch else refused
        if answer is None:
            raise InternalError("the server did not answer")
        return answer

    def _next_result(self) -> Waiting[PGresult | None]:
        # libpq would wait for a missing result itself, and would block all other threads.
        while self._server.is_busy():
            if (self._answers.poll(0) or not (yield)) and self._waited(self._answers):
                self._server.consume_input()
        return self._server.get_result()

    def _waited(self, events: select.poll) -> bool:
        """Wait at most half a second, and return whether the server may have answered or taken bytes.

        Raises psycopg.OperationalError when the connection is lost silently.
        """
        is_ready = bool(events.poll(_STEP_MILLISECONDS))
        if self._watch is not None:
            if is_ready:
                self._watch.heard()
            else:
                self._watch.waited()
        return is_ready

    @contextmanager
    def _cancelling(self) -> Iterator[None]:
        """Cancel the statement when an interruption ends the wait for the server, so that a rollback can follow."""
        try:
            yield
        except psycopg.Error:
            raise
        except BaseException:
            with suppress(psycopg.Error):
                self._cancel()
            if self._server.transaction_status == TransactionStatus.ACTIVE:
                self.connection.close()  # The server does not answer, and a rollback would wait for it.
            raise

    def _cancel(self) -> None:
        """Cancel the current statement and read its answers.

        Raises psycopg.Error, usually the server's confirmation that the statement was cancelled.
        """
        deadline = time.monotonic() + _CANCEL_LONGEST_SECONDS
        self.connection.cancel_safe(timeout=_CANCEL_SECONDS)
        with suppress(psycopg.Error):
            self._server.put_copy_end(_CANCELLED)
        while self._server.flush():
            self._room.poll(_STEP_MILLISECONDS)
            self._server.consume_input()
            self._require_time(deadline)
        # The server ignores a request that arrives before it has begun the statement.
        while self._server.is_busy():
            if self._answers.poll(_STEP_MILLISECONDS):
                self._server.consume_input()
            else:
                self._require_time(deadline)
                self.connection.cancel_safe(timeout=_CANCEL_SECONDS)
        while wait_for(self._answer()).status == ExecStatus.COPY_IN:  # The server begins the COPY only now.
            self._server.put_copy_end(_CANCELLED)

    def _require_time(self, deadline: float) -> None:
        """Close the connection, and raise psycopg.OperationalError, when the server did not answer in time."""
        if time.monotonic() > deadline:
            self.connection.close()
            raise psycopg.OperationalError("the server does not answer")
