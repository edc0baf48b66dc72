"""The spool as the loader reads it: the events of ended segments, from a place on; and what is loaded is removed."""

import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import zip_longest

from etl.collecting import segments
from etl.collecting.segments import Segment, Stream
from etl.ingestion.constants import BLOCK_BYTES
from etl.ingestion.values import Piece


@dataclass(frozen=True, kw_only=True)
class Keep:
    """Segments are kept for so many seconds after they were written, but only as long as a stream has so many bytes."""

    seconds: float
    bytes: int


@dataclass(frozen=True, kw_only=True)
class Stretch:
    """Consecutive events of a stream, one per line, and the byte at which they begin."""

    offset: int
    lines: bytes = field(repr=False)

    @property
    def end(self) -> int:
        """The byte after the last line feed."""
        return self.offset + len(self.lines)

    def piece(self, first_record: int) -> Piece:
        """Return the events as a piece; the first one is this record of its stream."""
        blocks = tuple(self._blocks())
        return Piece(
            offset=self.offset,
            count=self.lines.count(b"\n"),
            first_record=first_record,
            parts=(self.lines,),
            shape="lines",
            blocks=blocks,
            block_rows=tuple(None for _ in blocks),
        )

    def _blocks(self) -> Iterator[tuple[int, int]]:
        begin = 0
        while begin < len(self.lines):
            end = self.lines.rfind(b"\n", begin, begin + BLOCK_BYTES) + 1
            end = end or self.lines.index(b"\n", begin) + 1
            yield begin, end
            begin = end


def next_stretch(stream: Stream, position: int, most_events: int, most_bytes: int) -> Stretch | None:
    """Return the next events of a stream that are safe on the disk; None: there are none now.

    They begin at the position, or later, where segments are missing. Raises DamagedError.
    """
    begin = end = position
    parts: list[bytes] = []
    events = size = 0
    for lines, offset in _lines_from(stream, position):
        if offset != end:
            if parts:
                break
            begin = offset
        parts.append(lines)
        end = offset + len(lines)
        events += lines.count(b"\n")
        size += len(lines)
        if events >= most_events or size >= most_bytes:
            break
    whole = b"".join(parts)
    return Stretch(offset=begin, lines=_first(whole, most_events, most_bytes)) if whole else None


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


def _first(lines: bytes, most_events: int, most_bytes: int) -> bytes:
    """Return the first whole lines, at least one."""
    if len(lines) > most_bytes:
        lines = lines[: (lines.rfind(b"\n", 0, most_bytes) + 1) or lines.index(b"\n") + 1]
    if lines.count(b"\n") <= most_events:
        return lines
    at = 0
    for _ in range(most_events):
        at = lines.index(b"\n", at) + 1
    return lines[:at]


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
