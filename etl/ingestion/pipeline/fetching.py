"""Ranges of a source at a URL, which a worker reads while it loads the range before them."""

import threading
from concurrent.futures import Future
from typing import NamedTuple

import structlog

from etl.settings import RetrySettings

log = structlog.get_logger(__name__)

MOST_AHEAD = 2
"""Ranges that are read and not taken: the next one, and that of a task which has just begun. It bounds the memory."""


_COMMAND_SHARE = 1 / 3
"""The share of its time that the command may wait for the source: workers that read it, too, ask for as much again."""

_WAITING_SHARE = 0.2
"""The share of their time that workers may wait for their ranges; the command sends the bytes where it is more."""

_JUDGED = 2
"""Pieces for each worker that the command, or the workers, are judged by, after some that are small."""

_FIRST_JUDGEMENT = 2
"""The command is judged after so many times these pieces, by the last of them: before these it waits for no worker."""


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
    """Who reads the bytes that workers load of a source at a URL: each worker its ranges, or the command for them.

    The command reads the whole source in any case, because it cuts it. At first it sends the bytes that it has. Workers
    read their ranges once it is seen that the command hardly waits for the source: a store or a network that is busy
    would serve the command and the workers in turn, and the load would be slower. So it is, too, when workers wait for
    their ranges; then the command sends the bytes of all further pieces.
    """

    def __init__(self) -> None:
        self._submitted = 0
        self._begun: tuple[float, float] = (0.0, 0.0)
        self._may_read = False
        self._results: list[tuple[float, float]] = []
        self._is_short = True

    def note_command(self, waited: float, now: float, workers: int) -> None:
        """Take the time into account that the command has waited for the source when it submits a piece.

        The first pieces, for which no worker is waited for, say nothing.
        """
        self._submitted += 1
        judged, rest = divmod(self._submitted, _JUDGED * workers)
        if self._may_read or rest:
            return
        (begun, before), self._begun = self._begun, (now, waited)
        if judged >= _FIRST_JUDGEMENT and now > begun:
            share = (waited - before) / (now - begun)
            self._may_read = share <= _COMMAND_SHARE
            if self._may_read or judged == _FIRST_JUDGEMENT:
                log.info("command_waited_for_source", share=round(share, 2), reads_itself=self._may_read)

    def note(self, waited: float, seconds: float) -> None:
        """Take the times of a task into account."""
        if self._is_short and waited:
            self._results.append((waited, seconds))

    def is_short(self, workers: int) -> bool:
        """Return whether workers read their ranges themselves; once they did and do not, they never do."""
        if self._is_short and len(self._results) >= (1 + _JUDGED) * workers:
            judged, self._results = self._results[workers:], []
            waited, seconds = (sum(times) for times in zip(*judged, strict=True))
            self._is_short = waited <= _WAITING_SHARE * seconds
            log.info("workers_waited_for_source", share=round(waited / seconds, 2), reads_itself=self._is_short)
        return self._may_read and self._is_short
