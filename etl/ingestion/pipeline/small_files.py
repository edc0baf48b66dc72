"""The small files of a command, read whole and gathered in groups. This module asks no database."""

import os
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from stat import S_ISREG
from typing import TYPE_CHECKING

from etl.errors import SourceError
from etl.ingestion.constants import GROUP_BYTES, GROUP_FILES, READ_AHEAD, READERS, SMALL_FILE_BYTES
from etl.ingestion.framing.pieces import CutOptions, cut
from etl.ingestion.ledger.file_times import FileState
from etl.ingestion.pipeline.job import LOOK_SECONDS, Load
from etl.ingestion.pipeline.targets import Target
from etl.ingestion.sources.stream import opened
from etl.ingestion.values import Piece, Source
from etl.quick_dataclasses import dataclass
from etl.settings import RetrySettings

if TYPE_CHECKING:
    from concurrent.futures import Future, ThreadPoolExecutor


@dataclass(frozen=True, kw_only=True)
class SmallFile:
    """A file as it was read: its size and time, the bytes of its content, and its pieces, at least one.

    The size of a file that came over a network may be unknown, and its time is 0.

    `trusted` is the number of the run that has read it before, if its name, size and time are believed: then it has no
    pieces.
    """

    source: Source
    size: int | None
    time_ns: int
    bytes_read: int
    pieces: Sequence[Piece]
    trusted: int | None = None

    @property
    def state(self) -> FileState | None:
        """Its name, size and time, if it is a file of this machine."""
        is_local = self.source.path is not None and self.size is not None
        return FileState(self.source.name, self.size or 0, self.time_ns) if is_local else None

    @property
    def is_as_read(self) -> bool:
        """Whether the file has the same size and time still; what came over a network is not looked at again."""
        return self.source.path is None or _state(self.source.path) == (self.size, self.time_ns)


Trusted = Callable[[Sequence[FileState]], Mapping[int, int]]
"""Returns the numbers of the runs that have read files in these states, by the places of the files."""


def grouped(
    load: Load, target: Target, sources: Sequence[Source], trusted: Trusted | None = None
) -> Generator[list[SmallFile | Source]]:
    """Yield the sources in their order, in groups; those that are no small files, or cannot be read, as they are.

    Files that are `trusted` are not read, whatever their size. After a signal no file is read.
    """
    group: list[SmallFile | Source] = []
    size = 0
    options = load.cut_options(target)
    # The whole file is one batch if it may be.
    options = replace(options, first_rows=options.batch_rows)
    for source, small in _each_read(load, options, _looked_up(sources, trusted)):
        group.append(small or source)
        size += small.bytes_read if small else 0
        if small is None or len(group) == GROUP_FILES or size > GROUP_BYTES:
            yield group
            group, size = [], 0
    if group:
        yield group


def _each_read(
    load: Load, options: CutOptions, sources: Iterable[tuple[Source, SmallFile | None]]
) -> Iterator[tuple[Source, SmallFile | None]]:
    """Read the small files among the sources; those of a network are read ahead, several at once.

    What is known already is not read.
    """
    once = replace(load.settings.retries, attempts=1)
    pool: ThreadPoolExecutor | None = None
    waiting: deque[tuple[Source, Callable[[], SmallFile | None]]] = deque()
    try:
        for source, known in sources:
            if source.url is None or known is not None:
                # Read when its turn comes: a disk answers at once.
                waiting.append((source, partial(_read_local, load, options, source, known)))
            else:
                pool = pool or _readers()
                # One that cannot be read is tried again when its turn comes.
                reading = pool.submit(_read, options, source, once)
                waiting.append((source, partial(_awaited, load, reading)))
            while waiting and (pool is None or len(waiting) > READ_AHEAD):
                yield _next(waiting)
        while waiting:
            yield _next(waiting)
    finally:
        if pool is not None:
            pool.shutdown(wait=False, cancel_futures=True)


def _next(
    waiting: "deque[tuple[Source, Callable[[], SmallFile | None]]]",
) -> tuple[Source, SmallFile | None]:
    source, read = waiting.popleft()
    return source, read()


def _readers() -> "ThreadPoolExecutor":
    from concurrent.futures import ThreadPoolExecutor  # noqa: PLC0415 - few commands read from a network

    return ThreadPoolExecutor(READERS, thread_name_prefix="etl-read")


def _read_local(load: Load, options: CutOptions, source: Source, known: SmallFile | None) -> SmallFile | None:
    return known or (None if load.stop.signal_number else _read(options, source, load.settings.retries))


def _awaited(load: Load, reading: "Future[SmallFile | None]") -> SmallFile | None:
    """Return the file that a thread has read; None after a signal."""
    while not load.stop.signal_number:
        with suppress(TimeoutError):
            return reading.result(LOOK_SECONDS)
    return None


def _looked_up(sources: Sequence[Source], trusted: Trusted | None) -> Iterator[tuple[Source, SmallFile | None]]:
    """Yield the sources, each with its file if the file is trusted."""
    if trusted is None:
        yield from ((source, None) for source in sources)
        return
    for first in range(0, len(sources), GROUP_FILES):
        some = sources[first : first + GROUP_FILES]
        states = [(source, _state(source.path) if source.path is not None else None) for source in some]
        files = [(source, FileState(source.name, *state)) for source, state in states if state is not None]
        numbers = trusted([state for _, state in files])
        known = {
            files[place][0].name: SmallFile(
                source=files[place][0],
                size=files[place][1].size,
                time_ns=files[place][1].time_ns,
                bytes_read=0,
                pieces=(),
                trusted=number,
            )
            for place, number in numbers.items()
        }
        yield from ((source, known.get(source.name)) for source in some)


def _read(options: CutOptions, source: Source, retries: RetrySettings) -> SmallFile | None:
    """Read a small file; None for another kind of source, and for a file that has to be loaded by itself."""
    if source.path is None:
        return None if source.url is None else _content(options, source, retries, 0)
    before = _state(source.path)
    if before is None or before[0] > SMALL_FILE_BYTES:
        return None
    file = _content(options, source, retries, before[1])
    return file if file is not None and file.is_as_read else None


def _content(options: CutOptions, source: Source, retries: RetrySettings, time_ns: int) -> SmallFile | None:
    pieces: list[Piece] = []
    with suppress(SourceError, OSError), opened(source, retries) as stream:  # The next read reports it.
        if stream.encoding != "utf-8" or (stream.size or 0) > SMALL_FILE_BYTES:
            return None
        for piece in cut(stream, options):
            pieces.append(piece)
            if stream.position > 2 * SMALL_FILE_BYTES:
                return None
        if pieces:
            return SmallFile(
                source=source, size=stream.size, time_ns=time_ns, bytes_read=stream.position, pieces=pieces
            )
    return None


def _state(path: str) -> tuple[int, int] | None:
    """Return the size and the time of a regular file."""
    try:
        status = os.stat(path)  # noqa: PTH116 - four times for each of thousands of files: a Path costs as much
    except OSError:
        return None
    return (status.st_size, status.st_mtime_ns) if S_ISREG(status.st_mode) else None
