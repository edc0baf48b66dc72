"""How long the service waits for an answer of the database that does not come."""

import asyncio
import os
import socket
from contextlib import suppress
from types import TracebackType
from typing import Any, Self

import psycopg


class Deadline:
    """Cuts a connection that is still in use after some seconds: its user gets an OperationalError at once.

    `statement_timeout` is kept by the server. A host that is gone, or a network that drops all packets, keeps nothing:
    the cancellation of a task waits for the answer to its request to cancel, and the operating system for half a
    minute.
    """

    def __init__(self, connection: psycopg.AsyncConnection[Any], seconds: float) -> None:
        self._connection = connection
        self._seconds = seconds
        self.is_over = False

    def __enter__(self) -> Self:
        self._timer = asyncio.get_running_loop().call_later(self._seconds, self._cut)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._timer.cancel()

    def _cut(self) -> None:
        """End both directions of the socket, so that the driver, which waits for it, reads its end."""
        self.is_over = True
        with (
            suppress(psycopg.OperationalError, OSError),
            socket.socket(fileno=os.dup(self._connection.fileno())) as ours,
        ):
            ours.shutdown(socket.SHUT_RDWR)
