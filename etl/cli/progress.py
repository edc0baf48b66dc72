"""The progress of a load: a bar on a terminal, a log event every ten seconds elsewhere.

This module only reads the counters of the load. A separate thread draws the bar, a few times a second.
"""

import os
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

import structlog

from etl.ingestion.pipeline import counting
from etl.ingestion.pipeline.job import Progress, Watch
from etl.ingestion.sources.stream import Stream
from etl.ingestion.summary import Summary
from etl.ingestion.values import Source
from etl.precalculation.refresh import RefreshResult
from etl.standard_streams import is_drawn_on, one_line, styled

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table

log = structlog.get_logger(__name__)

DRAWN_PER_SECOND = 4
SECONDS_BETWEEN_LINES = 10.0

# Widths on the terminal: the bar, and what a longer name keeps at least while there are figures to leave out.
_SHORT_BAR, _LONG_BAR = 8, 20
_NAME = 20

# Long enough for a steady figure, short enough to follow a source whose records become slower.
_PACE_SECONDS = 20.0


class Display(Watch, Protocol):
    """A watch of a load that can draw on the terminal."""

    @property
    def height(self) -> int:
        """Number of lines at the end of the terminal that are redrawn."""


class Pace:
    """The recent speed of a load in records and stored bytes a second, and the time that the rest takes."""

    def __init__(self, now: float) -> None:
        self._seen = deque([(now, 0, 0)])

    def note(self, now: float, records: int, position: int) -> None:
        """Note how many records are entered now, and how many bytes of the stored source are read."""
        self._seen.append((now, records, position))
        while len(self._seen) > 2 and self._seen[1][0] <= now - _PACE_SECONDS:
            self._seen.popleft()

    @property
    def records_per_second(self) -> float:
        """Records entered per second, over the last seconds."""
        return self._per_second(1)

    def seconds_left(self, size: int) -> float | None:
        """Return the seconds that the rest of a source of this size takes, None while no byte is read."""
        speed = self._per_second(2)
        return (size - self._seen[-1][2]) / speed if speed > 0 else None

    def _per_second(self, column: int) -> float:
        first, last = self._seen[0], self._seen[-1]
        seconds = last[0] - first[0]
        return (last[column] - first[column]) / seconds if seconds > 0 else 0.0


def display(sources: Sequence[Source], *, is_json: bool) -> Display:
    """Return bars for a terminal, else log lines; `is_json` says that programs read the log."""
    if is_json or not is_drawn_on(sys.stderr):
        return Lines()
    return Bars(sources)


class Lines:
    """Logs the progress of a source every ten seconds."""

    height = 0

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._due = 0.0
        self._sources = 0
        self._records = 0
        self._sources_due = now() + SECONDS_BETWEEN_LINES
        self._report: Callable[[float], None] | None = None

    @contextmanager
    def watching(self, stream: Stream, progress: Sequence[Progress]) -> Iterator[None]:
        """Watch a source while it is loaded."""
        pace = Pace(self._now())
        self._due = self._now() + SECONDS_BETWEEN_LINES

        def report(now: float) -> None:
            sums = counting.sums(progress)
            position = counting.position(stream, sums)
            pace.note(now, sums.entered, position)
            estimate: dict[str, int] = {}
            if stream.size is not None:
                estimate["percent"] = _percent(position, stream.size)
                left = pace.seconds_left(stream.size)
                estimate |= {} if left is None else {"seconds_left": round(left)}
            log.info(
                "source_progressed",
                source=stream.source.name,
                run=",".join(each.run.run for each in progress if each.run) or None,
                records=sums.entered + sums.skipped,
                rejected=sums.rejected,
                bytes=position,
                records_per_second=round(pace.records_per_second),
                **estimate,
            )

        self._report = report
        try:
            yield
        finally:
            self._report = None

    def passed(self, summary: Summary) -> None:
        """Log if ten seconds have passed: one event of the log names all sources at the end."""
        self._sources += 1
        self._records += summary.records.read
        now = self._now()
        if now >= self._sources_due:
            self._sources_due = now + SECONDS_BETWEEN_LINES
            log.info("sources_progressed", sources=self._sources, records=self._records)

    def moved(self) -> None:
        """Log if ten seconds have passed; the load calls this after each batch."""
        now = self._now()
        if now >= self._due and self._report is not None:
            self._due = now + SECONDS_BETWEEN_LINES
            self._report(now)

    def refreshing(self, done: Iterable[RefreshResult]) -> Iterator[RefreshResult]:
        """Yield the aggregates as they are done; the summary reports them."""
        yield from done


class Bars:
    """Draws a bar for the current source and, if there are several, one for all of them."""

    def __init__(self, sources: Sequence[Source]) -> None:
        sizes = [_size(each) for each in sources]
        self._total = sum(size for size in sizes if size is not None) if None not in sizes and len(sizes) > 1 else None
        self._count = len(sources)
        self._number = 0
        self._bytes_before = 0

    @property
    def height(self) -> int:
        """One line, or two for several sources."""
        return 1 if self._count == 1 else 2

    @contextmanager
    def watching(self, stream: Stream, progress: Sequence[Progress]) -> Iterator[None]:
        """Draw a bar while a source is loaded; then its summary replaces the bar."""
        self._number += 1
        pace = Pace(time.monotonic())
        try:
            with _live(lambda: self._drawn(stream, counting.sums(progress), pace)):
                yield
        finally:
            self._bytes_before += stream.size or 0

    def passed(self, summary: Summary) -> None:
        """Count a source that has no bar of its own."""
        self._number += 1
        self._bytes_before += summary.bytes_read

    def moved(self) -> None:
        """Do nothing: the thread that draws reads the counters itself."""

    def _drawn(self, stream: Stream, progress: Progress, pace: Pace) -> "RenderableType":
        from rich.cells import cell_len
        from rich.text import Text

        from etl.cli.tables import shortened, width_of

        position = counting.position(stream, progress)
        pace.note(time.monotonic(), progress.entered, position)
        left = None if stream.size is None else pace.seconds_left(stream.size)
        share = _share(position, stream.size)
        figures = _figures(progress, pace, left)
        name = one_line(stream.source.name)
        sources = f"{self._number} of {self._count} sources" if self._count > 1 else ""
        wanted = max(cell_len(name), len(sources))
        room, bar = _fitted(wanted, len(share), figures, width_of(sys.stderr) or 80)
        grid = _grid(len(figures))
        texts = [Text(text, style="red" if text == _rejected(progress) else "") for text in figures.values()]
        grid.add_row(Text(shortened(name, room)), _bar(position, stream.size, bar), share, *texts)
        if sources:
            done = self._bytes_before + position
            grid.add_row(sources, _bar(done, self._total, bar), _share(done, self._total), *([""] * len(figures)))
        return grid

    def refreshing(self, done: Iterable[RefreshResult]) -> Iterator[RefreshResult]:
        """Draw the number of refreshed aggregates, and the last one."""
        last: list[str] = []

        def drawn() -> "RenderableType":
            from rich.text import Text

            done_so_far = f"{len(last)} aggregates, {last[-1]} just now" if last else "the first aggregate"
            return Text(f"precalculating: {done_so_far}", no_wrap=True, overflow="ellipsis")

        with _live(drawn):
            for each in done:
                last.append(each.aggregate)
                yield each


@contextmanager
def _live(drawn: "Callable[[], RenderableType]") -> Iterator[None]:
    """Draw at the end of the terminal; other text on stderr appears above the drawing."""
    from rich.console import Console
    from rich.live import Live

    # With NO_COLOR the console itself draws the bar without colours.
    with Live(
        get_renderable=drawn,
        console=Console(file=styled(sys.stderr)),
        refresh_per_second=DRAWN_PER_SECOND,
        transient=True,
        redirect_stdout=False,
    ):
        yield


def _grid(count_figures: int) -> "Table":
    from rich.table import Table

    grid = Table.grid(padding=(0, 1))
    grid.add_column(no_wrap=True, overflow="ellipsis", ratio=1)
    grid.add_column(min_width=_SHORT_BAR)
    for _ in range(1 + count_figures):
        grid.add_column(no_wrap=True, justify="right")
    return grid


def _figures(progress: Progress, pace: Pace, left: float | None) -> dict[str, str]:
    """Return the texts beside the bar, in their order."""
    figures = {
        "records": f"{progress.entered + progress.skipped:,} records",
        "rate": f"{pace.records_per_second:,.0f}/s",
        "rejected": _rejected(progress) or "0 rejected",
    }
    return figures if left is None else figures | {"left": f"{_clock(left)} left"}


def _rejected(progress: Progress) -> str:
    return f"{progress.rejected:,} rejected" if progress.rejected else ""


def _fitted(name: int, share: int, figures: dict[str, str], width: int) -> tuple[int, int]:
    """Return the widths of the name and of the bar; remove from the figures those that have no room.

    Share, rate and time left stay. The number of records is left out before that of rejected ones, if there are any.
    """
    least = min(name, _NAME)
    for leaves in ("records", "rejected") if figures["rejected"] != "0 rejected" else ("rejected", "records"):
        if _room(share, figures, width) < least + _SHORT_BAR:
            del figures[leaves]
    room = _room(share, figures, width)
    bar = max(_SHORT_BAR, min(_LONG_BAR, room - least))
    return max(1, room - bar), bar


def _room(share: int, figures: dict[str, str], width: int) -> int:
    """Return how much room the name and the bar have together."""
    return width - 2 - share - sum(1 + len(text) for text in figures.values())


def _bar(position: int, size: int | None, width: int) -> "RenderableType":
    from rich.progress_bar import ProgressBar

    if size is None:
        return ProgressBar(total=None, width=width)
    return ProgressBar(total=max(size, 1), completed=min(position, size), width=width)


def _share(position: int, size: int | None) -> str:
    """Return how much of a source is finished, in percent when its size is known."""
    return f"{position / 1e6:,.1f} MB" if size is None else f"{_percent(position, size):3} %"


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
        return 0  # The load reports a missing source when its turn comes.
