"""A block of records of a piece, decoded at once. Pure."""

from collections.abc import Iterable, Sequence
from contextlib import suppress
from functools import cached_property
from itertools import repeat
from typing import Any, cast

import msgspec

from etl.ingestion.framing.addresses import Text
from etl.ingestion.framing.boundaries import are_lines
from etl.ingestion.framing.spans import Members, Spans, members, span_around
from etl.ingestion.values import PieceShape, Span

_values = msgspec.json.Decoder(list[msgspec.Raw]).decode

UNDECODABLE = (msgspec.MsgspecError, ValueError, RecursionError)
"""The errors of a decoder."""


class Decoders:
    """Decoders of a type of record: of arrays, and of single records or lines."""

    def __init__(self, record: Any) -> None:
        # Where any value is taken, a number stays text: it may be too large, and nobody asks for it.
        self.array = msgspec.json.Decoder(cast(Any, list)[record], float_hook=str)
        self.one = msgspec.json.Decoder(record, float_hook=str)


class RecordBlock:
    """A part of a piece that is decoded as one, unless a record may be deep or large."""

    def __init__(self, data: bytes, shape: PieceShape, is_heavy: bool = False) -> None:
        self.data = data
        self.is_heavy = is_heavy
        self._shape = shape
        self._spans: Spans | None = None
        self._decoded: tuple[bytes, int] | None = None  # The text that was decoded, and where the block begins in it.

    def decoded(self, decoders: Decoders) -> list[Any]:
        """Return the records.

        Raises one of UNDECODABLE if a record is not of the type.
        """
        if self._shape == "array":
            self._decoded = self._decoded or (b"[%b]" % self.data, 1)
            return cast(list[Any], decoders.array.decode(self._decoded[0]))
        if self._shape == "members":
            if self.members is None:
                raise ValueError("members that are not certain are decoded one by one")
            return cast(list[Any], decoders.array.decode(b"[%b]" % b",".join(self.members.values)))
        if self._shape == "lines":
            records: list[Any] = decoders.one.decode_lines(self.data)
            if are_lines(self.data, len(records)):
                self._decoded = self.data, 0
                return records
            return list(map(decoders.one.decode, self.data.split(b"\n")))
        raise ValueError("records that follow one another are decoded one by one")

    def record_text(self, place: int, span: Span) -> bytes | None:
        """Return a record as it is written, or None for a member that only the checked path reads."""
        if self._shape != "members":
            return self.data[span.start : span.end]
        return bytes(self.members.values[place]) if self.members else None

    def wholes(self, count: int) -> Sequence[msgspec.Raw | bytes]:
        """Return so many records as they are written; members with their keys."""
        if self._shape == "lines":
            lines = self.data.split(b"\n")
            if len(lines) == count:
                return list(map(bytes.strip, lines, repeat(b" \t\r")))
        if self._shape == "array":
            with suppress(*UNDECODABLE):
                return _values(b"[%b]" % self.data)
        return self.spans.wholes

    def part(self, places: Iterable[int], count: int) -> "RecordBlock":
        """Return the records at some places, of so many, as a block of their own; of lines none disturbs another."""
        wholes = self.wholes(count)
        texts = [wholes[place] for place in places]
        if self._shape == "lines" and not any(b"\n" in bytes(text) for text in texts):
            return RecordBlock(b"\n".join(texts), "lines")
        return RecordBlock(b",".join(texts), "array")

    def keys(self, count: int) -> Sequence[msgspec.Raw | bytes]:
        """Return the tokens of the keys of so many records, null for each where the records have none."""
        return [b"null"] * count if self.members is None else [b'"%b"' % key for key in self.members.keys]

    @cached_property
    def members(self) -> Members | None:
        """The members of the block, or None where these are no members or not certain."""
        return members(self.data) if self._shape == "members" else None

    def span_of(self, place: int, token: msgspec.Raw | bytes | None) -> Span:
        """Return the span of the record at a place; `token` is the value of a member of the record itself, or None.

        To find where the token is costs less than to find where all records of the block are.
        """
        found = None
        if token is not None and self._text is not None and self._spans is None:
            offset = self._text.offset_of(token)
            found = None if offset is None else span_around(self.data, self._shape, offset)
        return found or self.spans[place]

    @cached_property
    def _text(self) -> Text | None:
        return Text(*self._decoded) if self._decoded else None

    @property
    def spans(self) -> Spans:
        """The places of the records in the block."""
        if self._spans is None:
            self._spans = Spans(self.data, self._shape)
        return self._spans
