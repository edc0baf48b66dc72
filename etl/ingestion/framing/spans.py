"""Where the records of a piece stand in it: blocks of them are decoded as one. Pure."""

import re
from bisect import bisect_left
from collections.abc import Collection, Iterator, Sequence
from itertools import accumulate
from typing import cast, overload

import msgspec

from etl.ingestion.framing.boundaries import not_an_object, piece_spans
from etl.ingestion.values import Piece, PieceShape, Span

_BETWEEN = re.compile(rb"[ \t\n\r,]*")

_values = msgspec.json.Decoder(list[msgspec.Raw]).decode
_value = msgspec.json.Decoder(msgspec.Raw).decode

_UNDECODED = (msgspec.MsgspecError, RecursionError)


class Spans(Sequence[Span]):
    """Where the records of a block stand in it, in order, as `piece_spans` finds them, but decoded as one."""

    def __init__(self, data: bytes, shape: PieceShape) -> None:
        self._data = data
        self._slowly: list[Span] = []
        try:
            values = _values_of(data, shape)
        except _UNDECODED:
            self._slowly = list(piece_spans(Piece(offset=0, count=0, first_record=1, parts=(data,), shape=shape)))
            self._starts, self._sizes = [0] * len(self._slowly), [0] * len(self._slowly)
            return
        self._sizes = list(map(len, values))
        self._starts = _starts(data, values, self._sizes)

    def __len__(self) -> int:
        """Return the number of records."""
        return len(self._starts)

    @overload
    def __getitem__(self, place: int) -> Span: ...
    @overload
    def __getitem__(self, place: slice) -> list[Span]: ...
    def __getitem__(self, place: int | slice) -> Span | list[Span]:
        """Return where the record at a place, from 0, begins and ends."""
        if isinstance(place, slice):
            return [self[each] for each in range(*place.indices(len(self)))]
        if self._slowly:
            return self._slowly[place]
        start = self._starts[place]
        return Span(start, start + self._sizes[place], not_an_object(chr(self._data[start])))


def spans(piece: Piece, places: Collection[int] | None = None) -> Iterator[tuple[int, Span]]:
    """Yield where records of a piece stand in it, in order, with their places from 1: of those named, or of all."""
    first = 1
    wanted = None if places is None else sorted(places)
    for begin, end in piece.blocks or ((0, piece.length),):
        found = Spans(piece.between(begin, end), piece.shape)
        last = first + len(found)
        here = range(first, last) if wanted is None else wanted[bisect_left(wanted, first) : bisect_left(wanted, last)]
        for place in here:
            span = found[place - first]
            yield place, Span(begin + span.start, begin + span.end, span.fault)
        first = last


def _values_of(block: bytes, shape: PieceShape) -> Sequence[msgspec.Raw | bytes]:
    """Return the records of a block as they are written.

    Raises one of _UNDECODED where it does not decode as one.
    """
    if shape == "array":
        return cast(Sequence[msgspec.Raw], _values(b"[%b]" % block))
    if shape == "lines":
        lines = [line.strip(b" \t\r") for line in block.split(b"\n")]
        for line in lines:
            _value(line)
        return lines
    raise msgspec.DecodeError("records of this shape are decoded one by one")


def _starts(block: bytes, values: Sequence[msgspec.Raw | bytes], sizes: Sequence[int]) -> list[int]:
    """Return where each value begins in the block that consists of them and of what stands between them."""
    first = _behind_blank(block, 0)
    joint = block[first + sizes[0] : _behind_blank(block, first + sizes[0])] if sizes else b""
    if not first and joint.join(values) == block:  # Nearly always all of them meet alike.
        return list(accumulate((size + len(joint) for size in sizes[:-1]), initial=0))
    starts = []
    at = 0
    for size in sizes:
        at = _behind_blank(block, at)
        starts.append(at)
        at += size
    return starts


def _behind_blank(block: bytes, at: int) -> int:
    found = _BETWEEN.match(block, at)
    return found.end() if found else at
