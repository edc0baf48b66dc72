"""The end of a block of many records: found by searching, proven by decoding. Pure.

The bytes between two neighbouring records are alike: from the `}` of the one through the name of the other's first
member. These bytes, the needle, are learned from records that were scanned. A block may end at its last needle; the
proof is that the bytes before it decode as whole records, because JSON can be read in one way only.
"""

import re
from collections.abc import Sequence
from typing import NamedTuple

import msgspec

from etl.ingestion.constants import LAYER_LEVELS
from etl.ingestion.framing.boundaries import are_lines
from etl.ingestion.framing.nesting import is_nested_deeper
from etl.ingestion.framing.spans import members
from etl.ingestion.values import Block, PieceShape, Proof, Prover

# Possessive: without it, megabytes of blanks would be tried again for each way to divide them.
_FIRST_NAME = re.compile(r'[ \t\n\r]*+,?[ \t\n\r]*+\{[ \t\n\r]*+"[^"\\]*+"[ \t\n\r]*+:')

# The bytes before the next key with its first quote, and those after the key through the name of the first member.
_NEXT_KEY = re.compile(
    r'([ \t\n\r]*+,[ \t\n\r]*+")[^"\\]*+("[ \t\n\r]*+:[ \t\n\r]*+\{[ \t\n\r]*+"[^"\\]*+"[ \t\n\r]*+:)'
)

_MISSES = 4
_SCANNED_AFTER_MISSES = 64
_CANDIDATES = 64
_GROUPS = 16

_values = msgspec.json.Decoder(list[msgspec.Raw]).decode
_one = msgspec.json.Decoder(msgspec.Raw)
_value = _one.decode

_UNDECODED = (msgspec.MsgspecError, RecursionError)


class BlockStart(NamedTuple):
    """Start of a block: record number `place` of the piece at `offset`; the block may hold at most `most` records."""

    offset: int
    place: int
    most: int


class Needle:
    """The needle of one source, and the end of its next block.

    The `prover` is asked first how many records a block holds: it needs the decoded records, which are decoded once.
    """

    def __init__(self, shape: PieceShape, prover: Prover | None) -> None:
        self._prover = prover
        # Of members it is what follows a key; the key differs.
        self._needle = b"\n" if shape == "lines" else b""
        self._before_key = b""
        self._shape = shape
        self._record_bytes = 0.0
        self._is_ambiguous = False
        self._misses = 0
        self._to_scan = 0

    def learn(self, text: str, end: int) -> None:
        """Learn from a scanned record that ends at `end`, if the text holds the beginning of the next record, too."""
        self._to_scan -= 1
        if self._shape == "array" and text[end - 1] == "}" and (name := _FIRST_NAME.match(text, end)):
            self._needle = text[end - 1 : name.end()].encode("latin-1")
        if self._shape == "members" and text[end - 1] == "}" and (name := _NEXT_KEY.match(text, end)):
            self._before_key = text[end - 1 : name.end(1)].encode("latin-1")
            self._needle = name[2].encode("latin-1")

    def block(
        self, data: bytes, start: int, stop: int, at: BlockStart, *, passes: bool = False
    ) -> tuple[bytes, Proof] | None:
        """Return a block of records that begins at `start` and ends before `stop`, and its proof.

        With `passes` it ends with the first record that ends at `stop` or after it, if that one is found. None: the
        records must be scanned one by one.
        """
        if not self._needle or self._to_scan > 0:
            return None
        if self._record_bytes:
            most = start + int(at.most * self._record_bytes * 0.95)
            passes = passes and stop < most
            stop = min(stop, most)
        end = self._first_end(data, start, stop) if passes else -1
        if end >= 0:
            result = self._prove(data[start:end], at)
        else:
            search = self._lines if self._shape == "lines" else self._records
            result = search(data, start, stop, at)
        if result is None:
            self._misses += 1
            if self._misses >= _MISSES:
                self._misses, self._to_scan = 0, _SCANNED_AFTER_MISSES
            return None
        block, proof = result
        self._misses = 0
        self._record_bytes = len(block) / proof.records
        if proof.records > at.most:
            self._to_scan = at.most
            return None
        return result

    def rest(self, data: bytes, start: int, stop: int, at: BlockStart) -> tuple[bytes, Proof] | None:
        """Return the records from `start` to the end of their array at `stop`, and their proof, if that works."""
        result = self._prove(data[start:stop].rstrip(b" \t\r\n"), at)
        return result if result is not None and result[1].records <= at.most else None

    def _first_end(self, data: bytes, start: int, least: int) -> int:
        """Return the end of the first record that ends at `least` or after it, or -1.

        No other record ends between the needle before it and its own end: these bytes are one value.
        """
        if self._shape == "members":
            return -1
        if self._shape == "lines":
            newline = data.find(b"\n", least)
            end = start + len(data[start:newline].rstrip(b" \t\r")) if newline >= 0 else -1
            return end if end >= least else -1
        end = data.find(self._needle, max(least - 1, start))
        before = data.rfind(self._needle, start, max(start, least - 2 + len(self._needle)))
        try:
            record = data[before + 1 if before >= 0 else start : end + 1].lstrip(b" \t\r\n,")
            return end + 1 if end >= 0 and len(_values(b"[%b]" % record)) == 1 else -1
        except _UNDECODED:
            return -1

    def _lines(self, data: bytes, start: int, stop: int, at: BlockStart) -> tuple[bytes, Proof] | None:
        end = data.rfind(b"\n", start, stop)
        if end < 0:
            return None
        return self._prove(data[start:end].rstrip(b" \t\r"), at)

    def _records(self, data: bytes, start: int, stop: int, at: BlockStart) -> tuple[bytes, Proof] | None:
        last = self._last_end(data, start, stop)
        if last >= 0 and not self._is_ambiguous:
            result = self._prove(data[start : last + 1], at)
            if result is not None:
                return result
            # A child object begins as the records do, so that the needle occurs inside records, too.
            self._is_ambiguous = True
        last = self._balanced(data, start, last)
        return self._prove(data[start : last + 1], at) if last >= 0 else None

    def _last_end(self, data: bytes, start: int, stop: int) -> int:
        """Return the place of the last `}` before `stop` with which a record may end, or -1."""
        at = data.rfind(self._needle, start, stop)
        if self._shape != "members":
            return at
        while at >= 0:
            quote = data.rfind(b'"', start, at)
            end = quote + 1 - len(self._before_key)
            if end >= start and data.startswith(self._before_key, end):
                return end
            at = data.rfind(self._needle, start, at)
        return -1

    def _prove(self, data: bytes, at: BlockStart) -> tuple[bytes, Proof] | None:
        block = Block(data=data, shape=self._shape, offset=at.offset, place=at.place)
        proof = (self._prover and self._prover.prove(block)) or _proof(block)
        return None if proof is None else (data, proof)

    def _balanced(self, data: bytes, start: int, at: int) -> int:
        """Return the last needle up to `at` before which as many objects end as begin, or -1.

        Braces in texts can lead to a wrong needle; then the proof fails.
        """
        if at < 0:
            return -1
        depth = data.count(b"{", start, at + 1) - data.count(b"}", start, at + 1)
        for _ in range(_CANDIDATES):
            if depth == 0 or at < 0:
                return at
            before = self._last_end(data, start, at)
            depth -= data.count(b"{", before + 1, at + 1) - data.count(b"}", before + 1, at + 1)
            at = before
        return -1


def _proof(block: Block) -> Proof | None:
    """Return how many records a block holds, or None when one is no JSON or is nested deeper than LAYER_LEVELS."""
    try:
        if block.shape == "members":
            found = members(block.data)
            values: Sequence[msgspec.Raw] = found.values if found else ()
        else:
            values = _values(b"[%b]" % block.data) if block.shape == "array" else _on_lines(block.data)
    except _UNDECODED:
        return None
    return Proof(len(values)) if values and _is_shallow(block.data, values) else None


def _on_lines(data: bytes) -> Sequence[msgspec.Raw]:
    values: list[msgspec.Raw] = _one.decode_lines(data)
    return values if are_lines(data, len(values)) else list(map(_value, data.split(b"\n")))


def _is_shallow(data: bytes, values: Sequence[msgspec.Raw]) -> bool:
    """Return whether no value is nested deeper than LAYER_LEVELS.

    Counting brackets costs as much as decoding. So it is done only when a value is large enough, and for many values at
    a time.
    """
    sizes = list(map(len, values))
    most_objects = max(sizes) // len(b'{"":}')
    if most_objects + _count_up_to(LAYER_LEVELS, b"[", data) < LAYER_LEVELS:
        return True
    step = max(1, len(sizes) // _GROUPS)
    between = len(data) - sum(sizes)
    begin = 0
    for first in range(0, len(sizes), step):
        size = sum(sizes[first : first + step])
        # All bytes between values may come before these values, or none.
        around = data[begin : begin + size + between]
        if around.count(b"{") + around.count(b"[") > LAYER_LEVELS and any(
            is_nested_deeper(bytes(value), LAYER_LEVELS) for value in values[first : first + step]
        ):
            return False
        begin += size
    return True


def _count_up_to(most: int, sought: bytes, data: bytes) -> int:
    """Count the occurrences in the data, up to `most`: searching for rare bytes is much faster than counting."""
    count, at = 0, data.find(sought)
    while at >= 0 and count < most:
        count, at = count + 1, data.find(sought, at + 1)
    return count
