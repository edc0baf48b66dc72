"""The connections of a server: how many there are, how long one may be idle, and how large the head of a request is.

uvicorn waits without end for the head of a request, and takes a head of any size. So the clients that say nothing,
or begin a request and never end it, would take the place of the others.
"""

import asyncio
import resource
from typing import Any, ClassVar, cast

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

MOST_CONNECTIONS = 2_000
_SPARE = 100
"""So many more are answered with 503 while all others are in work."""
_OWN_FILES = 200
HEAD_SECONDS = 15.0
"""So long a client may take for the head of a request. One that is silent after an answer has `timeout_keep_alive`."""
MOST_HEAD_BYTES = 32_768
MOST_HEADERS = 100
MOST_PIPELINED = 16


class HeadError(Exception):
    """The head of a request is too large, or too many requests were sent before their answers."""


class GuardedProtocol(HttpToolsProtocol):
    """A connection that is closed when it says nothing, and when another one needs its place."""

    most: ClassVar[int] = MOST_CONNECTIONS
    idle: ClassVar[dict["GuardedProtocol", None]] = {}
    """The connections without a request in work, the one that has been for the longest time first."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self.headers = []
        self._unread_bytes = 0
        self._head_timer: asyncio.TimerHandle | None = None
        self._is_left = False
        self._in_work: RequestResponseCycle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override] # as that of uvicorn
        """Take a connection; one that is idle makes room for it."""
        super().connection_made(transport)
        if len(self.connections) > self.most:
            if self.idle:
                next(iter(self.idle)).leave()
            elif len(self.connections) > self.most + _SPARE:
                self.leave()
                return
        self._be_idle()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection."""
        self._be_busy()
        self._end_work()
        super().connection_lost(exc)

    def leave(self) -> None:
        """Close the connection at once."""
        self._is_left = True
        self._be_busy()
        self._end_work()
        self.connections.discard(self)
        self.transport.abort()

    def data_received(self, data: bytes) -> None:
        """Read what has come."""
        if self._is_left:
            return
        self._unread_bytes += len(data)
        super().data_received(data)
        if self._has_ended():
            self._end_work()
            return
        # A head, or what comes after a body, is kept until its end: no more of it than this, and what one read gives.
        if self._unread_bytes > MOST_HEAD_BYTES or len(self.headers) > MOST_HEADERS:
            self.leave()
            return
        # uvicorn ends its wait for the next request at the first byte, be it a blank line or the rest of a body.
        if self._is_waiting:
            self._be_idle()

    def on_headers_complete(self) -> None:
        """Begin the work on a request, unless its head is too large."""
        size = len(self.url) + sum(len(name) + len(value) for name, value in self.headers)
        if size > MOST_HEAD_BYTES or len(self.headers) > MOST_HEADERS or len(self.pipeline) >= MOST_PIPELINED:
            raise HeadError
        self._unread_bytes = 0
        self._be_busy()
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """Take a part of a body."""
        self._unread_bytes = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        """Take the end of a request."""
        self._unread_bytes = 0
        super().on_message_complete()

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        self._in_work = cycle
        super()._start_asgi_task(cycle, app)

    def on_response_complete(self) -> None:
        """Wait for the next request."""
        super().on_response_complete()
        if self._is_waiting and not self.transport.is_closing():
            self.idle[self] = None

    def handle_websocket_upgrade(self) -> None:
        """Leave the connection to another protocol."""
        self._is_left = True
        self._be_busy()
        super().handle_websocket_upgrade()

    @property
    def _is_waiting(self) -> bool:
        """Whether no request is in work."""
        cycle = cast("RequestResponseCycle | None", self.cycle)
        return cycle is None or cycle.response_complete

    def _end_work(self) -> None:
        """Let the request in work know that nothing can be sent any more; uvicorn says it later, to the last one."""
        if self._in_work is not None:
            self._in_work.disconnected = True
            self._in_work.message_event.set()
        self.pipeline.clear()

    def _has_ended(self) -> bool:
        return self._is_left or self.transport.is_closing()

    def _be_idle(self) -> None:
        """Wait for the head of a request, but not without end."""
        self.idle.setdefault(self)
        if self._head_timer is None:
            self._head_timer = self.loop.call_later(HEAD_SECONDS, self.leave)

    def _be_busy(self) -> None:
        self.idle.pop(self, None)
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None


def guarded() -> type[GuardedProtocol]:
    """Return the protocol of a server, for as many connections as this process may have open files."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MOST_CONNECTIONS + _SPARE + _OWN_FILES
    if soft != resource.RLIM_INFINITY and soft < wanted:
        soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    most = wanted if soft == resource.RLIM_INFINITY else min(wanted, soft)
    most = max(_SPARE, most - _SPARE - _OWN_FILES)
    return type("Guarded", (GuardedProtocol,), {"most": most, "idle": {}})
