"""The positions of records in their piece; blocks of records are decoded at once. Pure."""

import re
from bisect import bisect_left
from collections.abc import Collection, Iterator, Sequence
from functools import cached_property
from itertools import accumulate
from typing import cast, overload

import msgspec

from etl.ingestion.framing.boundaries import not_an_object, piece_spans
from etl.ingestion.values import Piece, PieceShape, Span

_BETWEEN = re.compile(rb"[ \t\n\r,]*")

# The beginning of an object, to the colon after its first name. A name that begins like this follows no string's end.
_HEAD = re.compile(rb'\{[ \t\n\r]*+"([A-Za-z0-9_][A-Za-z0-9_.$@ -]*+)"[ \t\n\r]*+:')
_BLANK = b" \t\r"

_values = msgspec.json.Decoder(list[msgspec.Raw]).decode
_value = msgspec.json.Decoder(msgspec.Raw).decode
_members = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_COLON = re.compile(rb'"[ \t\n\r]*:[ \t\n\r]*').fullmatch
_HAS_ESCAPE = re.compile(r'[\x00-\x1f"\\]').search
_encode = msgspec.json.Encoder().encode

_UNDECODED = (msgspec.MsgspecError, RecursionError)


class Members:
    """The members of an object, as they are written."""

    def __init__(self, decoded: dict[str, msgspec.Raw], colon: bytes) -> None:
        self.values = list(decoded.values())
        self._decoded = decoded
        self._colon = colon

    @cached_property
    def keys(self) -> list[bytes]:
        """The keys, without their quotes."""
        return list(map(str.encode, self._decoded))

    @cached_property
    def texts(self) -> list[bytes]:
        """The members as a whole."""
        return [b'"%b%b%b' % (key, self._colon, value) for key, value in zip(self.keys, self.values, strict=True)]


def members(data: bytes) -> Members | None:
    """Return the members that these bytes are, or None where this is not certain.

    They are decoded as an object, which keeps one of two members with the same key and replaces escapes in keys. So
    the members are written again: only if that gives the same bytes, nothing is lost.
    """
    text = b"{%b}" % data
    try:
        decoded = _members(text)
    except _UNDECODED:
        return None
    if not decoded:
        return None
    if _encode(decoded) == text and not _HAS_ESCAPE("".join(decoded)):
        return Members(decoded, b'":')
    key, value = next(iter(decoded.items()))
    begin = 1 + len(key.encode())
    colon = data[begin : data.find(bytes(value), begin)]
    if not _COLON(colon):
        return None
    found = Members(decoded, colon)
    first = len(found.texts[0])
    separator = data[first : _after_separator(data, first)]
    return found if separator.join(found.texts) == data else None


class Spans(Sequence[Span]):
    """The spans of the records of a block, in order: those of `piece_spans`, but decoded at once."""

    def __init__(self, data: bytes, shape: PieceShape) -> None:
        self._data = data
        self._scanned: list[Span] = []
        self._values: Sequence[msgspec.Raw | bytes] = ()
        self._of_members = members(data) if shape == "members" else None
        try:
            values = self._of_members.texts if self._of_members else _values_of(data, shape)
        except _UNDECODED:
            self._scanned = list(piece_spans(Piece(offset=0, count=0, first_record=1, parts=(data,), shape=shape)))
            self._starts, self._sizes = [0] * len(self._scanned), [0] * len(self._scanned)
            return
        self._values = values
        self._sizes = list(map(len, values))
        self._starts = _starts(data, values, self._sizes)

    def __len__(self) -> int:
        """Return the number of records."""
        return len(self._starts)

    @property
    def texts(self) -> Sequence[msgspec.Raw | bytes]:
        """The records as they are written; members without their keys."""
        return (
            self._of_members.values
            if self._of_members
            else self._values or [self._data[span.start : span.end] for span in self._scanned]
        )

    @property
    def wholes(self) -> Sequence[msgspec.Raw | bytes]:
        """The records as they are written; members with their keys."""
        return self._of_members.texts if self._of_members else self.texts

    @overload
    def __getitem__(self, place: int) -> Span: ...
    @overload
    def __getitem__(self, place: slice) -> list[Span]: ...
    def __getitem__(self, place: int | slice) -> Span | list[Span]:
        """Return the span of the record at a place, from 0."""
        if isinstance(place, slice):
            return [self[number] for number in range(*place.indices(len(self)))]
        if self._scanned:
            return self._scanned[place]
        start = self._starts[place]
        end = start + self._sizes[place]
        begin = end - len(self._of_members.values[place]) if self._of_members else start
        return Span(start, end, not_an_object(chr(self._data[begin])))


def span_around(data: bytes, shape: PieceShape, offset: int) -> Span | None:
    """Return the span of the record that has a value at this byte, or None where it is not certain.

    The value is the one of a member of the record itself, so the record is the innermost object around it. A line is a
    record. In an array the first name of the block, with the `{` before it, is no part of a string. So what is from
    there to the `}` before the next one is an object around the value, if it decodes as one value.
    """
    if shape == "lines":
        start, end = data.rfind(b"\n", 0, offset) + 1, data.find(b"\n", offset)
        line = data[start : len(data) if end < 0 else end]
        start += len(line) - len(line.lstrip(_BLANK))
        return Span(start, start + len(line.strip(_BLANK)))
    head = _HEAD.match(data)
    if shape != "array" or not head:
        return None
    start, following = data.rfind(head[0], 0, offset), data.find(head[0], offset)
    end = data.rfind(b"}", offset, len(data) if following < 0 else following) + 1
    if start < 0 or not end:
        return None
    try:
        _value(data[start:end])
    except _UNDECODED:
        return None
    return Span(start, end)


def spans(piece: Piece, places: Collection[int] | None = None) -> Iterator[tuple[int, Span]]:
    """Yield the places, from 1, and the spans of records of a piece, in order: of these places, or of all."""
    first = 1
    wanted = None if places is None else sorted(places)
    for begin, end in piece.blocks or ((0, piece.length),):
        in_block = Spans(piece.between(begin, end), piece.shape)
        last = first + len(in_block)
        here = range(first, last) if wanted is None else wanted[bisect_left(wanted, first) : bisect_left(wanted, last)]
        for place in here:
            span = in_block[place - first]
            yield place, Span(begin + span.start, begin + span.end, span.fault)
        first = last


def _values_of(block: bytes, shape: PieceShape) -> Sequence[msgspec.Raw | bytes]:
    """Return the texts of the records of a block.

    Raises one of _UNDECODED when the block cannot be decoded at once.
    """
    if shape == "array":
        return cast(Sequence[msgspec.Raw], _values(b"[%b]" % block))
    if shape == "lines":
        lines = [line.strip(_BLANK) for line in block.split(b"\n")]
        for line in lines:
            _value(line)
        return lines
    raise msgspec.DecodeError("records of this shape are decoded one by one")


def _starts(block: bytes, values: Sequence[msgspec.Raw | bytes], sizes: Sequence[int]) -> list[int]:
    """Return the beginning of each value in the block, which consists of the values and their separators."""
    first = _after_separator(block, 0)
    separator = block[first + sizes[0] : _after_separator(block, first + sizes[0])] if sizes else b""
    if not first and separator.join(values) == block:  # Nearly always all separators are equal.
        return list(accumulate(map(len(separator).__add__, sizes[:-1]), initial=0))
    starts = []
    at = 0
    for size in sizes:
        at = _after_separator(block, at)
        starts.append(at)
        at += size
    return starts


def _after_separator(block: bytes, at: int) -> int:
    match = _BETWEEN.match(block, at)
    return match.end() if match else at
