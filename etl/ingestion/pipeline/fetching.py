"""Ranges of a source at a URL, which a worker reads while it loads the range before them."""

import threading
from concurrent.futures import Future
from typing import NamedTuple

import structlog

from etl.settings import RetrySettings

log = structlog.get_logger(__name__)

MOST_AHEAD = 2
"""Ranges that are read and not taken: the next one, and that of a task which has just begun. It bounds the memory."""


_WAITING_SHARE = 0.2
"""The share of their time that workers may wait for their ranges; the command sends the bytes where it is more."""

_JUDGED = 2
"""Pieces for each worker that this is judged by, after one that is small and opens the connections."""


class Range(NamedTuple):
    """Bytes of a source at a URL."""

    url: str
    offset: int
    length: int


def fetch(wanted: Range, retries: RetrySettings) -> bytes:
    """Read a range now; it may be shorter when the content changed.

    Raises SourceError.
    """
    from etl.ingestion.sources import remote  # noqa: PLC0415 - few sources are in a store

    return remote.read_range(wanted.url, wanted.offset, wanted.length, retries)


class RangesAhead:
    """The ranges that threads of this process read before their task begins: at most MOST_AHEAD."""

    def __init__(self) -> None:
        self._changing = threading.Lock()
        self._begun: dict[Range, Future[bytes]] = {}

    def begin(self, wanted: Range, retries: RetrySettings) -> None:
        """Begin to read a range, unless as many as may be ahead are."""
        future: Future[bytes] = Future()
        with self._changing:
            if wanted in self._begun or len(self._begun) >= MOST_AHEAD:
                return
            self._begun[wanted] = future
        threading.Thread(target=_fetch_into, args=(future, wanted, retries), daemon=True).start()

    def take(self, wanted: Range, retries: RetrySettings) -> bytes:
        """Return a range, and keep it no longer; one that was not begun is read now.

        Raises SourceError, also for a fault of the thread that read it.
        """
        with self._changing:
            future = self._begun.pop(wanted, None)
        return fetch(wanted, retries) if future is None else future.result()

    def drop(self, wanted: Range) -> None:
        """Keep a range no longer: its task is at another worker, or ended."""
        with self._changing:
            self._begun.pop(wanted, None)

    def clear(self) -> None:
        """Keep no range."""
        with self._changing:
            self._begun.clear()


def _fetch_into(future: "Future[bytes]", wanted: Range, retries: RetrySettings) -> None:
    try:
        future.set_result(fetch(wanted, retries))
    except BaseException as error:  # noqa: BLE001 - raised by `take`, where it belongs
        future.set_exception(error)


class Waiting:
    """How long workers wait for the ranges that they read themselves.

    A store or a network that is busy serves the command, which reads the whole source in any case, and the workers in
    turn. Then the load is faster where the command sends the bytes that it has.
    """

    def __init__(self) -> None:
        self._results: list[tuple[float, float]] = []
        self._is_short = True

    def note(self, waited: float, seconds: float) -> None:
        """Take the times of a task into account."""
        if self._is_short and waited:
            self._results.append((waited, seconds))

    def is_short(self, workers: int) -> bool:
        """Return whether the workers continue to read their ranges themselves; once they do not, they never do."""
        if self._is_short and len(self._results) >= (1 + _JUDGED) * workers:
            judged, self._results = self._results[workers:], []
            waited, seconds = (sum(times) for times in zip(*judged, strict=True))
            self._is_short = waited <= _WAITING_SHARE * seconds
            log.info("workers_waited_for_source", share=round(waited / seconds, 2), reads_itself=self._is_short)
        return self._is_short
