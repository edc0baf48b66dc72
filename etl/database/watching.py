"""The wait while the server does not answer: another session holds a lock, or the connection is lost silently.

A window that closes, or a cut cable, ends a connection by itself. A proxy may keep it open and pass nothing on; only a
second connection shows then that the server waits for this client.
"""

import re
import time
from collections.abc import Callable, Generator
from contextlib import suppress
from typing import Any, TypeVar

import psycopg
import structlog
from psycopg.pq import TransactionStatus

from etl import queries
from etl.quick_dataclasses import dataclass

# How often a second connection looks at the server, and how often a wait is logged.
LOOK_SECONDS = 30.0
# How long a session waits for a lock whose holder does nothing, and for a server that waits for the client.
IDLE_SECONDS = 60.0
# A second connection that takes longer to answer is silent, too.
ANSWER_SECONDS = 10.0

# Nobody answered at all; a refusal of the server, such as one connection too many, is an answer.
_UNANSWERED = re.compile(r"Is the server running|timeout expired|closed the connection|unreachable|No route|could not")
_LONGEST_STEP = 1.0

_SQL = queries.load("watching")

Result = TypeVar("Result")

log = structlog.get_logger(__name__)


class ServerConnection(psycopg.Connection[tuple[Any, ...]]):
    """A connection whose waits for the server are watched, or end after some seconds.

    `backend` is the process of the server that serves it; that which libpq reports may be a pooler's invention.
    `replaced` are those of the lost connections whose place it takes: the server may not have noticed their loss yet.
    """

    backend = 0
    replaced: tuple[int, ...] = ()
    watch: "Watch | None" = None
    answers_within: float | None = None

    def wait(self, gen: Generator[Any, Any, Result], interval: float = 0.1, timeout: float | None = None) -> Result:
        """Hold a conversation of psycopg with the server to its end."""
        if self.watch is not None:
            return super().wait(self.watch.over(gen), interval, timeout)
        if timeout is not None or self.answers_within is None:
            return super().wait(gen, interval, timeout)
        try:
            return super().wait(gen, interval, self.answers_within)
        except psycopg.errors._WaitTimeout:  # noqa: SLF001 - what `wait` documents
            raise psycopg.errors.ConnectionTimeout("the server does not answer") from None


@dataclass(frozen=True, kw_only=True)
class _Activity:
    """The activity of a session of the server; `progress` changes whenever it does something."""

    is_awaiting_client: bool
    is_locked: bool
    progress: str


class Watch:
    """Looks at the server, over a second connection, while it does not answer the first one."""

    def __init__(self, connection: ServerConnection, another: Callable[[], ServerConnection]) -> None:
        """`another` opens a second connection."""
        self._connection = connection
        self._another = another
        self._last = self._silence = self._looked = 0.0
        self._seen: _Activity | None = None
        self._gave_up = False

    def over(self, conversation: Generator[Any, Any, Result]) -> Generator[Any, Any, Result]:
        """Hold a conversation of psycopg, which waits for readiness in steps, and look after each step in vain."""
        try:
            awaited = next(conversation)
            self.heard()
            while True:
                ready = yield awaited
                if ready:
                    self.heard()
                else:
                    self.waited()
                awaited = conversation.send(ready)
        except StopIteration as end:
            result: Result = end.value
            return result
        except psycopg.errors.QueryCanceled as error:
            raise self.reason(error) from error

    def reason(self, error: psycopg.Error) -> psycopg.Error:
        """Return the error of a lock that is not available where the watch cancelled the statement, else the error."""
        if not self._gave_up or not isinstance(error, psycopg.errors.QueryCanceled):
            return error
        self._gave_up = False
        return psycopg.errors.LockNotAvailable("another session holds a lock, and does nothing")

    def heard(self) -> None:
        """Note that the server answered, or took bytes."""
        self._last = time.monotonic()
        self._silence = self._looked = 0.0
        self._seen = None

    def waited(self) -> None:
        """Note a further wait of at most a second in vain, and look at the server when it is time.

        Raises psycopg.OperationalError when the connection is lost, and closes it.
        """
        now = time.monotonic()
        self._silence += min(now - self._last, _LONGEST_STEP)  # what this process did between two waits is no silence
        self._last = now
        if self._silence - self._looked < LOOK_SECONDS:
            return
        self._looked = self._silence
        if self._connection.pgconn.transaction_status == TransactionStatus.ACTIVE:
            self._look()
            self._last = time.monotonic()

    def _look(self) -> None:
        try:
            with self._another() as other:
                seen = self._activity(other)
                if seen is not None and seen.is_locked:
                    self._judge_lock(other)
                elif self._is_lost(seen):
                    with suppress(psycopg.Error):
                        other.execute(_SQL["terminate"], {"backend": self._connection.backend})
                    self._lose("the server waits for this client" if seen else "the server has ended the session")
                self._seen = seen
        except psycopg.OperationalError as error:
            if self._connection.closed:
                raise
            if _is_unanswered(error) and self._silence >= IDLE_SECONDS:
                self._lose("a second connection gets no answer either")

    def _activity(self, other: psycopg.Connection) -> _Activity | None:
        row = other.execute(_SQL["activity"], {"backend": self._connection.backend}).fetchone()
        return None if row is None else _Activity(is_awaiting_client=row[0], is_locked=row[1], progress=row[2])

    def _is_lost(self, seen: _Activity | None) -> bool:
        """Return whether the server waits for this client, and did so at the last look, or has ended the session."""
        if self._silence < IDLE_SECONDS:
            return False
        return seen is None or (seen.is_awaiting_client and seen == self._seen)

    def _lose(self, reason: str) -> None:
        log.warning("connection_silent", seconds=round(self._silence), reason=reason)
        self._connection.close()
        raise psycopg.OperationalError(f"nothing was heard for {self._silence:.0f} s: {reason}")

    def _judge_lock(self, other: psycopg.Connection) -> None:
        """Log who holds the lock; cancel the statement of this connection when the holder does nothing."""
        holders = queries.rows(other, _SQL["holders"], {"backend": self._connection.backend})
        for holder in holders:
            log.warning(
                "waiting_for_lock",
                pid=holder["pid"],
                application=holder["application"],
                since=holder["since"],
                state=holder["state"],
                seconds=round(self._silence),
            )
        if any(min(holder["idle_seconds"] or 0, self._silence) >= IDLE_SECONDS for holder in holders):
            self._gave_up = True
            other.execute(_SQL["cancel"], {"backend": self._connection.backend})


def _is_unanswered(error: psycopg.OperationalError) -> bool:
    return error.sqlstate is None and (
        isinstance(error, psycopg.errors.ConnectionTimeout) or bool(_UNANSWERED.search(str(error)))
    )
