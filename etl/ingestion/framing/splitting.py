"""Pieces divided at a record: up to a limit, or by what is loaded already. Pure."""

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import replace

from etl.ingestion.framing.spans import spans
from etl.ingestion.values import Piece

RecordRange = tuple[int, int]
"""The numbers (from 1) of the first and of the last record of a range."""


class RecordLimit:
    """Lets the pieces of a source pass up to `limit` records of each of `paths` records paths.

    `cut` are the places of the paths that may have more records.
    """

    def __init__(self, limit: int, paths: int) -> None:
        self.cut: set[int] = set()
        self._limit = limit
        self._paths = paths

    @property
    def is_reached(self) -> bool:
        """Whether no further piece is within the limit."""
        return len(self.cut) == self._paths

    def within(self, piece: Piece) -> Piece | None:
        """Return the records of a piece that are within the limit; None: no record is."""
        if piece.last_record >= self._limit:
            self.cut.add(piece.which)
        if piece.first_record > self._limit:
            return None
        return split(piece, self._limit - piece.first_record + 1)[0] if piece.last_record > self._limit else piece


def split(piece: Piece, count: int) -> tuple[Piece, Piece]:
    """Return the first `count` records of a piece, and its other records; each part has at least one."""
    (_, last), (_, following) = spans(piece, [count, count + 1])
    end, begin = last.end, following.start
    first, rest = _part(piece, 0, end), _part(piece, begin, piece.length)
    first = replace(first, count=count)
    rest = replace(rest, count=piece.count - count, first_record=piece.first_record + count)
    if piece.start is None:
        return first, rest
    fingerprint = piece.start.copy()
    fingerprint.add(piece.hashed(0, end), count)
    first = replace(
        first,
        marks=tuple(mark for mark in piece.marks if mark.records <= fingerprint.records),
        end_mark=fingerprint.mark,
    )
    marks = tuple(mark for mark in piece.marks if mark.records > fingerprint.records)
    fingerprint = fingerprint.copy()
    fingerprint.add(piece.hashed(end, begin), 0)
    gap = b"" if (end, begin) in piece.gaps else piece.between(end, begin)
    return first, replace(rest, gap=gap, start=fingerprint, before=first.end_mark, marks=marks)


def _part(piece: Piece, begin: int, end: int) -> Piece:
    """Return the bytes of a piece between two record ends as a piece; the rows of its blocks name another offset."""
    blocks = tuple(
        (max(first, begin) - begin, min(last, end) - begin)
        for first, last in piece.blocks
        if first < end and last > begin
    )
    gaps = tuple((first - begin, last - begin) for first, last in piece.gaps if begin <= first and last <= end)
    parts = (piece.stored[begin:end],)
    return replace(piece, offset=piece.offset + begin, parts=parts, blocks=blocks, block_rows=(), gaps=gaps)


def divided(piece: Piece, loaded: Sequence[RecordRange]) -> Iterator[tuple[Piece, bool]]:
    """Yield the parts of a piece that are loaded, and those that are not, in order, with whether they are loaded.

    `loaded` are ranges of records, in order, that do not overlap.
    """
    place = bisect_left(loaded, piece.first_record, key=lambda each: each[1])
    while True:
        first, last = loaded[place] if place < len(loaded) else (piece.last_record + 1, piece.last_record + 1)
        is_loaded = first <= piece.first_record
        part_end = last if is_loaded else first - 1
        if part_end >= piece.last_record:
            yield piece, is_loaded
            return
        part, piece = split(piece, part_end - piece.first_record + 1)
        yield part, is_loaded
        place += is_loaded
