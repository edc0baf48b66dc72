"""Ranges of a source at a URL, which a worker reads while it loads the range before them."""

import threading
from concurrent.futures import Future
from typing import NamedTuple

from etl.settings import RetrySettings

MOST_AHEAD = 2
"""Ranges that are read and not taken: the next one, and that of a task which has just begun. It bounds the memory."""


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
