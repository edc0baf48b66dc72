"""The small files of a command, read whole and gathered in groups. This module asks no database."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from stat import S_ISREG

from etl.errors import SourceError
from etl.ingestion.constants import GROUP_BYTES, GROUP_FILES, SMALL_FILE_BYTES
from etl.ingestion.framing.pieces import CutOptions, cut
from etl.ingestion.ledger.together import FileState
from etl.ingestion.pipeline.job import Load, Target
from etl.ingestion.sources.stream import opened
from etl.ingestion.values import Piece, Source


@dataclass(frozen=True, kw_only=True)
class SmallFile:
    """A regular file as it was read: its size and time, the bytes of its content, and its pieces, at least one.

    `trusted` is the number of the run that has read it before, if its name, size and time are believed: then it has no
    pieces.
    """

    source: Source
    size: int
    time_ns: int
    bytes_read: int
    pieces: Sequence[Piece]
    trusted: int | None = None

    @property
    def state(self) -> FileState:
        """Its name, size and time."""
        return FileState(self.source.name, self.size, self.time_ns)

    @property
    def is_as_read(self) -> bool:
        """Whether the file has the same size and time still."""
        return self.source.path is not None and _state(self.source.path) == (self.size, self.time_ns)


Trusted = Callable[[Sequence[FileState]], Mapping[int, int]]
"""Returns the numbers of the runs that have read files in these states, by the places of the files."""


def grouped(
    load: Load, target: Target, sources: Sequence[Source], trusted: Trusted | None = None
) -> Iterator[list[SmallFile | Source]]:
    """Yield the sources in their order, in groups; those that are no small files, or cannot be read, as they are.

    Files that are `trusted` are not read, whatever their size. After a signal no file is read.
    """
    group: list[SmallFile | Source] = []
    size = 0
    options = load.cut_options(target)
    for source, known in _looked_up(sources, trusted):
        small = known or (None if load.stop.signal_number else _read(options, source))
        group.append(small or source)
        size += small.bytes_read if small else 0
        if small is None or len(group) == GROUP_FILES or size > GROUP_BYTES:
            yield group
            group, size = [], 0
    if group:
        yield group


def _looked_up(sources: Sequence[Source], trusted: Trusted | None) -> Iterator[tuple[Source, SmallFile | None]]:
    """Yield the sources, and those that are trusted as the files that they are."""
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


def _read(options: CutOptions, source: Source) -> SmallFile | None:
    """Read a small file; None for every other source, and for a file that cannot be read as it should."""
    if source.path is None or (before := _state(source.path)) is None or before[0] > SMALL_FILE_BYTES:
        return None
    pieces: list[Piece] = []
    try:
        with opened(source) as stream:
            if stream.encoding != "utf-8":
                return None
            for piece in cut(stream, options):
                pieces.append(piece)
                if stream.position > 2 * SMALL_FILE_BYTES:
                    return None
            bytes_read = stream.position
    except (SourceError, OSError):
        return None
    if not pieces or _state(source.path) != before:
        return None
    return SmallFile(source=source, size=before[0], time_ns=before[1], bytes_read=bytes_read, pieces=pieces)


def _state(path: str) -> tuple[int, int] | None:
    """Return the size and the time of a regular file."""
    try:
        status = Path(path).stat()
    except OSError:
        return None
    return (status.st_size, status.st_mtime_ns) if S_ISREG(status.st_mode) else None
