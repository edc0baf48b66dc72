"""The spool as the loader reads it: the events of ended segments, from a place on; and what is loaded is removed."""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import lru_cache
from itertools import zip_longest
from pathlib import Path

from etl.collecting import segments
from etl.collecting.buffers import Keep, Limits, UnreadableError
from etl.collecting.segments import Segment, Stream
from etl.collecting.spool import Spool
from etl.collecting.stretches import Stretch, stretch_of
from etl.errors import reason_of


@dataclass(frozen=True, kw_only=True)
class SpoolStore:
    """Spools in the folders of a folder."""

    folder: Path

    @property
    def name(self) -> str:
        """The folder."""
        return str(self.folder)

    def require_usable(self) -> None:
        """Do nothing: each spool checks its folder when it is opened."""

    def left_open(self) -> list[str]:
        """Return the datasets that have a folder: each may have a segment that a crash has left."""
        return SpoolReader(self.folder).datasets()

    def opened(self, dataset: str, limits: Limits) -> Spool:
        """Return the spool of a dataset.

        Raises BusyError when another process writes it, DatabaseError when the folder cannot be used.
        """
        return Spool(self.folder / dataset, limits)

    def reader(self) -> "SpoolReader":
        """Return a reader of the spools."""
        return SpoolReader(self.folder)


class SpoolReader:
    """Reads the spools in the folders of a folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def datasets(self) -> list[str]:
        """Return the datasets that have a folder."""
        with _reading(self._folder), suppress(FileNotFoundError, NotADirectoryError):
            return sorted(path.name for path in self._folder.iterdir() if path.is_dir())
        return []

    def streams(self, dataset: str) -> "list[SpooledStream]":
        """Return the streams of a dataset in the order in which they began."""
        with _reading(self._folder):
            return [SpooledStream(each) for each in segments.streams(self._folder / dataset)]

    def close(self) -> None:
        """Do nothing: no file stays open."""


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Raise UnreadableError for an error of the disk; that a file is gone passes: another loader removes files, too."""
    try:
        yield
    except FileNotFoundError:
        raise
    except OSError as error:
        raise UnreadableError(
            f"cannot read the spool {path}: {reason_of(error)}", "check the disk and its rights"
        ) from error


@dataclass(frozen=True)
class SpooledStream:
    """A stream in a folder of a spool."""

    stream: Stream

    @property
    def name(self) -> str:
        """The name of the stream."""
        return self.stream.name

    @property
    def newest(self) -> str:
        """The name of the segment that ended last."""
        with _reading(self.stream.folder):
            return self.stream.newest_ended

    def next_stretch(self, position: int, most_events: int, most_bytes: int) -> Stretch | None:
        """Return the next events of ended segments; None: there are none now.

        They begin at the position, or later, where segments are missing. Raises UnreadableError.
        """
        with _reading(self.stream.folder):
            return next_stretch(self.stream, position, most_events, most_bytes)

    def waiting(self, position: int) -> tuple[int, float]:
        """Return the bytes after a position, as far as segments have ended, and the age of the oldest of them."""
        with _reading(self.stream.folder):
            return waiting(self.stream, position)

    def waiting_events(self, position: int) -> int:
        """Return how many events are after a position, as far as segments have ended."""
        with _reading(self.stream.folder):
            return waiting_events(self.stream, position)

    def has(self, offset: int) -> bool:
        """Return whether the stream has an event at a byte, also in its open segment."""
        try:
            with _reading(self.stream.folder):
                for segment in reversed(self.stream.segments()):
                    if segment.offset <= offset:
                        return any(group.offset <= offset < group.end for group in segments.groups(segment.path))
        except FileNotFoundError:
            return True  # It was loaded, and removed, at this moment.
        return False

    def remove_loaded(self, position: int, keep: Keep, *, is_last: bool) -> None:
        """Remove the segments that are loaded and need not be kept."""
        with _reading(self.stream.folder):
            remove_loaded(self.stream, position, keep, is_last=is_last)


def next_stretch(stream: Stream, position: int, most_events: int, most_bytes: int) -> Stretch | None:
    """Return the next events of a stream that are safe on the disk; None: there are none now.

    They begin at the position, or later, where segments are missing. Raises DamagedError.
    """
    return stretch_of(_lines_from(stream, position), position, most_events, most_bytes)


def _lines_from(stream: Stream, position: int) -> Iterator[tuple[bytes, int]]:
    ended = [segment for segment in stream.segments() if segment.is_ended]
    for segment, following in _with_following(ended):
        if following is not None and following.offset <= position:
            continue
        for group in segments.ended_groups(segment, position):
            begin = max(0, position - group.offset)
            yield group.lines[begin:], group.offset + begin


def _with_following(ended: Sequence[Segment]) -> Iterator[tuple[Segment, Segment | None]]:
    """Yield each segment with the one after it; a stream that has just begun has none yet."""
    return zip_longest(ended, ended[1:])


def end_known(stream: Stream) -> int:
    """Return the byte after the last event that is safe on the disk, without reading more than the last segment."""
    ended = [segment for segment in stream.segments() if segment.is_ended]
    return segments.end_of_segment(ended[-1]) if ended else 0


def waiting(stream: Stream, position: int) -> tuple[int, float]:
    """Return the bytes of a stream after a position, as far as its segments have ended, and the age of the oldest."""
    ended = [segment for segment in stream.segments() if segment.is_ended]
    size = max(0, end_known(stream) - position) if ended else 0
    if not size:
        return 0, 0.0
    first = max((segment for segment in ended if segment.offset <= position), default=ended[0])
    with suppress(FileNotFoundError):
        return size, max(0.0, time.time() - first.path.stat().st_mtime)
    return size, 0.0


def waiting_events(stream: Stream, position: int) -> int:
    """Return how many events of a stream are after a position, as far as its segments have ended."""
    ended = [segment for segment in stream.segments() if segment.is_ended]
    total = 0
    for segment, following in _with_following(ended):
        if following is not None and following.offset <= position:
            continue
        with suppress(FileNotFoundError):
            total += _events_of(segment) if segment.offset >= position else segments.count_after(segment, position)
    return total


@lru_cache(maxsize=100_000)
def _events_of(segment: Segment) -> int:
    """Return how many events an ended segment has; it never changes."""
    return segments.count_after(segment, segment.offset)


def remove_loaded(stream: Stream, position: int, keep: Keep, *, is_last: bool) -> None:
    """Remove the segments whose events are loaded and need not be kept, and the folder of a stream that has ended.

    The last segment of the last stream stays: the next event gets its place after it.
    """
    found = stream.segments()
    ended = [segment for segment in found if segment.is_ended]
    before = time.time() - keep.seconds
    size = sum(_size(segment) for segment in ended)
    for segment, following in _with_following(ended):
        if (following is None and is_last) or not (size > keep.bytes or _is_old(segment, before)):
            break
        size -= _size(segment)
        end = following.offset if following is not None else end_known(stream)
        if end > position:
            break
        with suppress(FileNotFoundError):
            segment.path.unlink()
    if not is_last and not stream.segments():
        with suppress(OSError):
            stream.folder.rmdir()


def _size(segment: Segment) -> int:
    try:
        return segment.path.stat().st_size
    except FileNotFoundError:
        return 0


def _is_old(segment: Segment, before: float) -> bool:
    try:
        return segment.path.stat().st_mtime <= before
    except FileNotFoundError:
        return True
