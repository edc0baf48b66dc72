"""Where a block of many records ends, and where they stand in it: found by searching, proven by decoding. Pure.

Two records that follow one another look alike where they meet: the bytes from the `}` of the one through the first
member's name of the other, the needle, are learned from records that were walked. The last needle of a block is where
it may end; that the bytes before it decode as whole records is the proof, for JSON can be read in one way only.
"""

import re
from collections.abc import Iterable, Iterator, Sequence

import msgspec

from etl.ingestion.boundaries import nesting, not_an_object, piece_spans
from etl.ingestion.constants import MAX_NESTING
from etl.ingestion.values import Piece, Shape, Span

_FIRST_NAME = re.compile(r'[ \t\n\r]*,?[ \t\n\r]*\{[ \t\n\r]*"[^"\\]*"[ \t\n\r]*:')

_BETWEEN = re.compile(rb"[ \t\n\r,]*")

_MISSES = 4
_WALKED_AFTER_MISSES = 64
_CANDIDATES = 64
_GROUPS = 16

_values = msgspec.json.Decoder(list[msgspec.Raw]).decode
_value = msgspec.json.Decoder(msgspec.Raw).decode


class Needle:
    """How records meet in one source, and where the next block of them ends."""

    def __init__(self, shape: Shape) -> None:
        self._needle = b"\n" if shape == "lines" else b""
        self._shape = shape
        self._bytes_each = 0.0
        self._is_ambiguous = False
        self._misses = 0
        self._to_walk = 0

    def learn(self, text: str, end: int) -> None:
        """Learn from a record that was walked and ends at `end`, where the next one is in the text, too."""
        self._to_walk -= 1
        if self._shape == "array" and text[end - 1] == "}" and (name := _FIRST_NAME.match(text, end)):
            self._needle = text[end - 1 : name.end()].encode("latin-1")

    def block(self, data: bytes, start: int, stop: int, most: int) -> tuple[int, int] | None:
        """Return the end of a block of records that begins at `start` and ends before `stop`, and their number.

        `most` is how many there may be. None: they are to be walked.
        """
        if not self._needle or self._to_walk > 0:
            return None
        if self._bytes_each:
            stop = min(stop, start + int(most * self._bytes_each * 0.95))
        search = self._lines if self._shape == "lines" else self._records
        found = search(data, start, stop)
        if found is None:
            self._misses += 1
            if self._misses >= _MISSES:
                self._misses, self._to_walk = 0, _WALKED_AFTER_MISSES
            return None
        end, count = found
        self._misses = 0
        self._bytes_each = (end - start) / count
        if count > most:
            self._to_walk = most
            return None
        return found

    def _lines(self, data: bytes, start: int, stop: int) -> tuple[int, int] | None:
        end = data.rfind(b"\n", start, stop)
        if end < 0:
            return None
        block = data[start:end].rstrip(b" \t\r")
        count = _proven(block, map(_value, block.split(b"\n")))
        return (start + len(block), count) if count else None

    def _records(self, data: bytes, start: int, stop: int) -> tuple[int, int] | None:
        at = data.rfind(self._needle, start, stop)
        if at >= 0 and not self._is_ambiguous:
            count = _prove(data, start, at + 1)
            if count:
                return at + 1, count
            # A child object that begins as the records do: the needle is found inside of a record, too.
            self._is_ambiguous = True
        at = self._balanced(data, start, at)
        count = _prove(data, start, at + 1) if at >= 0 else 0
        return (at + 1, count) if count else None

    def _balanced(self, data: bytes, start: int, at: int) -> int:
        """Return the last needle up to `at` before which as many objects end as begin, or -1.

        Braces in texts mislead it; the proof notices.
        """
        if at < 0:
            return -1
        depth = data.count(b"{", start, at + 1) - data.count(b"}", start, at + 1)
        for _ in range(_CANDIDATES):
            if depth == 0 or at < 0:
                return at
            before = data.rfind(self._needle, start, at)
            depth -= data.count(b"{", before + 1, at + 1) - data.count(b"}", before + 1, at + 1)
            at = before
        return -1


def spans(piece: Piece) -> Iterator[Span]:
    """Yield where each record of a piece stands in it, in order, as `piece_spans` does, but by whole blocks."""
    for begin, end in piece.blocks or ((0, len(piece.data)),):
        sizes = _sizes(piece.data[begin:end], piece.shape)
        if sizes is None:
            part = Piece(offset=0, count=0, first_record=1, data=piece.data[begin:end], shape=piece.shape)
            for span in piece_spans(part):
                yield Span(begin + span.start, begin + span.end, span.fault)
            continue
        at = begin
        for size in sizes:
            between = _BETWEEN.match(piece.data, at)
            start = between.end() if between else at
            at = start + size
            yield Span(start, at, not_an_object(chr(piece.data[start])))


def _sizes(block: bytes, shape: Shape) -> list[int] | None:
    """Return how long the records of a block are, or None where it does not decode as one."""
    try:
        if shape == "array":
            return list(map(len, _values(b"[%b]" % block)))
        if shape == "lines":
            lines = [line.strip(b" \t\r") for line in block.split(b"\n")]
            for line in lines:
                _value(line)
            return list(map(len, lines))
    except (msgspec.MsgspecError, RecursionError):
        pass
    return None


def _prove(data: bytes, start: int, end: int) -> int:
    array = b"".join((b"[", memoryview(data)[start:end], b"]"))
    try:
        return _proven(array, _values(array))
    except (msgspec.MsgspecError, RecursionError):
        return 0


def _proven(data: bytes, values: Iterable[msgspec.Raw]) -> int:
    """Return how many records a block holds, or 0 where one is no JSON or is nested deeper than MAX_NESTING."""
    try:
        found = list(values)
    except (msgspec.MsgspecError, RecursionError):
        return 0
    return len(found) if _is_shallow(data, found) else 0


def _is_shallow(data: bytes, values: Sequence[msgspec.Raw]) -> bool:
    """Tell whether no value is nested deeper than MAX_NESTING.

    To count brackets costs as much as to decode, so it is done where a value is large enough only, and for many values
    at a time.
    """
    sizes = list(map(len, values))
    most_objects = max(sizes) // len(b'{"":}')
    if most_objects + _count_up_to(MAX_NESTING, b"[", data) < MAX_NESTING:
        return True
    together = max(1, len(sizes) // _GROUPS)
    between = len(data) - sum(sizes)
    begin = 0
    for first in range(0, len(sizes), together):
        size = sum(sizes[first : first + together])
        # What stands between values may all come before these, or none of it.
        around = data[begin : begin + size + between]
        if around.count(b"{") + around.count(b"[") > MAX_NESTING and any(
            nesting(bytes(value).decode("latin-1")) > MAX_NESTING for value in values[first : first + together]
        ):
            return False
        begin += size
    return True


def _count_up_to(most: int, found: bytes, data: bytes) -> int:
    """Count what is found in the data, but not beyond `most`: to find what is rare is much faster than to count."""
    count, at = 0, data.find(found)
    while at >= 0 and count < most:
        count, at = count + 1, data.find(found, at + 1)
    return count
