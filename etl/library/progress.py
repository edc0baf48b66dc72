"""The progress of a load, by calls of a function of the program."""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from etl.errors import InterruptedByUserError
from etl.ingestion.pipeline import counting, job
from etl.ingestion.sources.stream import Stream
from etl.ingestion.summary import Summary
from etl.precalculation.refresh import RefreshResult

_SECONDS = 0.25
"""The least time between two calls for one source, but for the last one."""


@dataclass(frozen=True, kw_only=True)
class Progress:
    """How much of a source is done: records and bytes, and the seconds since it began.

    `records` are loaded, refused, or were loaded before; `rejected` are some of them. `bytes` are those of the source
    as it is stored, of `size` in all; the size of a stream is None.
    """

    source: str
    records: int
    rejected: int
    bytes: int
    size: int | None
    seconds: float


class Calls:
    """Calls a function when a source begins, a few times a second, and when it ends.

    An exception of the function ends the load after the current batch. `error` is that exception.
    """

    def __init__(self, function: Callable[[Progress], object]) -> None:
        self._function = function
        self._report: Callable[[], None] | None = None
        self._due = 0.0
        self.error: Exception | None = None

    @contextmanager
    def watching(self, stream: Stream, progress: Sequence[job.Progress]) -> Iterator[None]:
        """Watch a source while it is loaded."""
        started = time.monotonic()

        def report() -> None:
            sums = counting.sums(progress)
            self._call(
                Progress(
                    source=stream.source.name,
                    records=sums.entered + sums.skipped,
                    rejected=sums.rejected,
                    bytes=counting.position(stream, sums),
                    size=stream.size,
                    seconds=time.monotonic() - started,
                )
            )

        self._report, self._due = report, 0.0
        self.moved()
        try:
            yield
            # The source is finished: an error of this call does not belong to it.
            report()
        finally:
            self._report = None

    def passed(self, summary: Summary) -> None:
        """Call the function for a source that is loaded with others, or already."""
        self._call(
            Progress(
                source=summary.source,
                records=summary.records.read,
                rejected=0,
                bytes=summary.bytes_read,
                size=summary.bytes_read,
                seconds=summary.seconds,
            )
        )

    def moved(self) -> None:
        """Call the function, unless it was called a moment ago; the load calls this after each batch.

        Raises InterruptedByUserError when the function has raised something.
        """
        now = time.monotonic()
        if self._report is None or now < self._due:
            return
        self._due = now + _SECONDS
        self._report()
        if self.error is not None:
            raise InterruptedByUserError(
                f"stopped by the program: its progress function raised {type(self.error).__name__}",
                signal_number=0,
                hint="the same call continues",
            ) from self.error

    def _call(self, progress: Progress) -> None:
        if self.error is None:
            try:
                self._function(progress)
            except Exception as error:  # noqa: BLE001 - the caller of the load gets it
                self.error = error

    def refreshing(self, done: Iterable[RefreshResult]) -> Iterator[RefreshResult]:
        """Yield the aggregates as they are done."""
        yield from done
