"""Requests are written in groups: all that arrive during a write are the next group. Nothing else waits."""

import hashlib
import threading
from abc import ABC, abstractmethod
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass

import structlog

from etl.collecting.buffers import Accepted, Limits, OtherBodyError, RefusedError
from etl.collecting.events import Events

GROUP_BYTES = 16 << 20

log = structlog.get_logger(__name__)


@dataclass(frozen=True, kw_only=True)
class Request:
    """Events that wait to be written; the digests of their idempotency key and of their lines, if there is a key."""

    events: Events
    key: str | None
    body: str
    future: "Future[Accepted]"

    def answer(self, place: Accepted | OtherBodyError | RefusedError) -> None:
        """End the wait of the request."""
        if isinstance(place, Accepted):
            self.future.set_result(place)
        else:
            self.future.set_exception(place)


class GroupWriter(ABC):
    """Takes requests of one dataset; one thread writes them, a group of at most about `group_bytes` at a time."""

    group_bytes = GROUP_BYTES

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._news = threading.Condition()
        self._waiting: list[Request] = []
        self._waiting_bytes = 0
        self._is_closing = False
        self._thread: threading.Thread | None = None

    def _start(self, name: str) -> None:
        """Begin to write."""
        self._thread = threading.Thread(target=self._write_all, name=name, daemon=True)
        self._thread.start()

    @property
    def is_closed(self) -> bool:
        """Whether the buffer was closed."""
        return self._is_closing

    def submit(self, events: Events, key: str | None = None) -> "Future[Accepted]":
        """Let events be written; the future has their places when they are durable.

        A request with the `key` of an earlier one gets the places of that one. Raises RefusedError at once when no
        events are taken; the future may raise it, too, and OtherBodyError.
        """
        digest = hashlib.sha256(key.encode()).hexdigest()[:32] if key is not None else None
        body = hashlib.sha256(events.lines).hexdigest()[:32] if key is not None else ""
        request = Request(events=events, key=digest, body=body, future=Future())
        with self._news:
            self._require_open()
            self._waiting.append(request)
            self._waiting_bytes += len(events.lines)
            self._news.notify()
        return request.future

    def _require_open(self) -> None:
        """Raise RefusedError when no request is taken now."""
        if self._is_closing:
            raise RefusedError("the collector ends", 5)
        if self._waiting_bytes > self._limits.waiting_bytes:
            raise RefusedError("too many events wait to be written", 1)

    def close(self) -> None:
        """Write what was submitted, and end."""
        with self._news:
            self._is_closing = True
            self._news.notify()
        if self._thread is not None:
            self._thread.join()

    # The thread

    @abstractmethod
    def _write(self, requests: Sequence[Request]) -> None:
        """Write a group, and answer each of its requests."""

    def _after_group(self) -> None:  # noqa: B027 - only the spool has something due
        """Do what is due after a group, or at the time of `_seconds_left`."""

    def _seconds_left(self) -> float | None:
        """Return the seconds until `_after_group` is due although no request comes; None: never."""
        return None

    @abstractmethod
    def _end(self) -> None:
        """Do what is due after the last group."""

    def _write_all(self) -> None:
        while (requests := self._next()) is not None:
            if requests := [request for request in requests if request.future.set_running_or_notify_cancel()]:
                try:
                    self._write(requests)
                except Exception as error:  # noqa: BLE001 - the thread continues, and the text may quote an event
                    log.error("group_failed", error=type(error).__name__)  # noqa: TRY400 - without the text
                    left = [request for request in requests if not request.future.done()]
                    self._refuse_all(left, RefusedError("the collector has a fault; nothing was acknowledged", 5))
            self._after_group()
        self._end()

    def _next(self) -> list[Request] | None:
        """Wait for requests, or until something else is due; None: the buffer is closed, and nothing is left."""
        with self._news:
            while not self._waiting and not self._is_closing:
                left = self._seconds_left()
                if left is not None and left <= 0:
                    return []
                self._news.wait(left)
            if not self._waiting:
                return None
            count = size = 0
            while count < len(self._waiting) and size < self.group_bytes:
                size += len(self._waiting[count].events.lines)
                count += 1
            requests, self._waiting = self._waiting[:count], self._waiting[count:]
            self._waiting_bytes -= size
            return requests

    def _refuse_all(self, requests: Sequence[Request], reason: RefusedError) -> None:
        """Acknowledge none of these requests, and none of those that came meanwhile."""
        with self._news:
            late = [request for request in self._waiting if request.future.set_running_or_notify_cancel()]
            self._waiting, self._waiting_bytes = [], 0
        for request in (*requests, *late):
            request.answer(reason)
