"""How far a load has come, told while it goes on: a bar on a terminal, elsewhere a line of the log now and then.

It looks at what the load counts, and does nothing for it; a bar is drawn by a thread of its own, a few times a second.
"""

import os
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

import structlog

from etl.ingestion.pipeline.job import Progress, Watch
from etl.ingestion.sources.stream import Stream
from etl.ingestion.values import Source
from etl.precalculation.refresh import Refreshed

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table

log = structlog.get_logger(__name__)

DRAWN_PER_SECOND = 4
SECONDS_BETWEEN_LINES = 10.0

# Long enough to be steady, short enough to follow a source that becomes harder.
_PACE_SECONDS = 20.0


class Display(Watch, Protocol):
    """A watch of a load that may draw on the terminal."""

    @property
    def height(self) -> int:
        """How many lines at the end of the terminal it draws again and again."""


class Pace:
    """How fast a load was lately, in records and stored bytes a second, and how long the rest takes at that."""

    def __init__(self, now: float) -> None:
        self._seen = deque([(now, 0, 0)])

    def note(self, now: float, records: int, position: int) -> None:
        """Note how many records are entered now, and how many bytes of the stored source are read."""
        self._seen.append((now, records, position))
        while len(self._seen) > 2 and self._seen[1][0] <= now - _PACE_SECONDS:
            self._seen.popleft()

    @property
    def records_per_second(self) -> float:
        """Records entered in a second, lately."""
        return self._per_second(1)

    def seconds_left(self, size: int) -> float | None:
        """Return how long the rest of a source of this size takes, None while nothing moves."""
        speed = self._per_second(2)
        return (size - self._seen[-1][2]) / speed if speed > 0 else None

    def _per_second(self, what: int) -> float:
        first, last = self._seen[0], self._seen[-1]
        seconds = last[0] - first[0]
        return (last[what] - first[what]) / seconds if seconds > 0 else 0.0


def display(sources: Sequence[Source], *, is_json: bool) -> Display:
    """Return the display that stderr has room for; `is_json` where programs read the log."""
    if is_json or not sys.stderr.isatty() or os.environ.get("TERM", "dumb") in {"dumb", "unknown"}:
        return Lines()
    return Bars(sources)


class Lines:
    """Tells in the log every ten seconds how far a source has come."""

    height = 0

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._due = 0.0
        self._tell: Callable[[float], None] | None = None

    @contextmanager
    def watching(self, stream: Stream, progress: Sequence[Progress]) -> Iterator[None]:
        """Watch a source while it is loaded."""
        pace = Pace(self._now())
        self._due = self._now() + SECONDS_BETWEEN_LINES

        def tell(now: float) -> None:
            sums = _sums(progress)
            position = _position(stream, sums)
            pace.note(now, sums.entered, position)
            told: dict[str, int] = {}
            if stream.size is not None:
                told["percent"] = _percent(position, stream.size)
                left = pace.seconds_left(stream.size)
                told |= {} if left is None else {"seconds_left": round(left)}
            log.info(
                "source_progressed",
                source=stream.source.name,
                run=",".join(each.run.run for each in progress if each.run) or None,
                records=sums.entered + sums.skipped,
                rejected=sums.rejected,
                bytes=position,
                records_per_second=round(pace.records_per_second),
                **told,
            )

        self._tell = tell
        try:
            yield
        finally:
            self._tell = None

    def moved(self) -> None:
        """Look at the clock behind each batch."""
        now = self._now()
        if now >= self._due and self._tell is not None:
            self._due = now + SECONDS_BETWEEN_LINES
            self._tell(now)

    def refreshing(self, done: Iterable[Refreshed]) -> Iterator[Refreshed]:
        """Yield the aggregates as they are done; the summary tells them."""
        yield from done


class Bars:
    """Draws a bar for the source in hand and, where there are several, one for all of them."""

    def __init__(self, sources: Sequence[Source]) -> None:
        sizes = [_size(each) for each in sources]
        self._total = sum(size for size in sizes if size is not None) if None not in sizes and len(sizes) > 1 else None
        self._count = len(sources)
        self._number = 0
        self._bytes_before = 0

    @property
    def height(self) -> int:
        """One line, or two."""
        return 1 if self._count == 1 else 2

    @contextmanager
    def watching(self, stream: Stream, progress: Sequence[Progress]) -> Iterator[None]:
        """Draw a source while it is loaded; the bar goes when it is done, and its summary takes the place."""
        self._number += 1
        pace = Pace(time.monotonic())
        try:
            with _live(lambda: self._drawn(stream, _sums(progress), pace)):
                yield
        finally:
            self._bytes_before += stream.size or 0

    def moved(self) -> None:
        """Do nothing: who draws looks by himself."""

    def _drawn(self, stream: Stream, progress: Progress, pace: Pace) -> "RenderableType":
        from rich.text import Text

        position = _position(stream, progress)
        pace.note(time.monotonic(), progress.entered, position)
        grid = _grid()
        left = None if stream.size is None else pace.seconds_left(stream.size)
        rejected = f"{progress.rejected:,} rejected"
        grid.add_row(
            Text(stream.source.name, overflow="ellipsis", no_wrap=True),
            *_bar(position, stream.size),
            f"{progress.entered + progress.skipped:,} records",
            f"{pace.records_per_second:,.0f}/s",
            Text(rejected, style="red" if progress.rejected else ""),
            "" if left is None else f"{_clock(left)} left",
        )
        if self._count > 1:
            grid.add_row(
                f"{self._number} of {self._count} sources",
                *_bar(self._bytes_before + position, self._total),
                *("", "", "", ""),
            )
        return grid

    def refreshing(self, done: Iterable[Refreshed]) -> Iterator[Refreshed]:
        """Draw which aggregate was refreshed last, and how many are."""
        last: list[str] = []

        def drawn() -> "RenderableType":
            from rich.text import Text

            told = f"{len(last)} aggregates, {last[-1]} just now" if last else "the first aggregate"
            return Text(f"precalculating: {told}", no_wrap=True, overflow="ellipsis")

        with _live(drawn):
            for each in done:
                last.append(each.aggregate)
                yield each


@contextmanager
def _live(drawn: "Callable[[], RenderableType]") -> Iterator[None]:
    """Draw at the end of the terminal; what is written to stderr meanwhile goes above."""
    from rich.console import Console
    from rich.live import Live

    # NO_COLOR takes the colours, which the console knows by itself, and leaves the bar.
    with Live(
        get_renderable=drawn,
        console=Console(stderr=True),
        refresh_per_second=DRAWN_PER_SECOND,
        transient=True,
        redirect_stdout=False,
    ):
        yield


def _grid() -> "Table":
    from rich.table import Table

    grid = Table.grid(padding=(0, 1))
    grid.add_column(no_wrap=True, overflow="ellipsis", ratio=1)
    grid.add_column(min_width=8)
    for _ in range(5):
        grid.add_column(no_wrap=True, justify="right")
    return grid


def _bar(position: int, size: int | None) -> "tuple[RenderableType, str]":
    from rich.progress_bar import ProgressBar

    if size is None:
        return ProgressBar(total=None, width=20), f"{position / 1e6:,.1f} MB"
    return ProgressBar(total=max(size, 1), completed=min(position, size), width=20), f"{_percent(position, size)} %"


def _sums(progress: Sequence[Progress]) -> Progress:
    """Return what is counted of all datasets of a source; they share its bytes."""
    names = ("entered", "skipped", "rejected")
    sums = {name: sum(getattr(each, name) for each in progress) for name in names}
    return Progress(**sums, bytes_read=max(each.bytes_read for each in progress))


def _position(stream: Stream, progress: Progress) -> int:
    """Return how many bytes of the source as stored are done with: what is read, but for what is still in hand."""
    return stream.stored_position * progress.bytes_read // max(stream.position, progress.bytes_read, 1)


def _percent(position: int, size: int) -> int:
    return 100 if not size else min(100, position * 100 // size)


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def _size(source: Source) -> int | None:
    try:
        return os.stat(source.path).st_size if source.path is not None else None  # noqa: PTH116 - no Path for a URL
    except OSError:
        return 0  # What is missing is told in its turn, and takes no time.
