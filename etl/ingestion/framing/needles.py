"""Where a block of many records ends: found by searching, proven by decoding. Pure.

Two records that follow one another look alike where they meet: the bytes from the `}` of the one through the first
member's name of the other, the needle, are learned from records that were walked. The last needle of a block is where
it may end; that the bytes before it decode as whole records is the proof, for JSON can be read in one way only.
"""

import re
from collections.abc import Sequence
from typing import NamedTuple

import msgspec

from etl.ingestion.constants import MAX_NESTING
from etl.ingestion.framing.boundaries import are_lines, is_nested_deeper
from etl.ingestion.values import Block, PieceShape, Proof, Prover

_FIRST_NAME = re.compile(r'[ \t\n\r]*,?[ \t\n\r]*\{[ \t\n\r]*"[^"\\]*"[ \t\n\r]*:')

_MISSES = 4
_WALKED_AFTER_MISSES = 64
_CANDIDATES = 64
_GROUPS = 16

_values = msgspec.json.Decoder(list[msgspec.Raw]).decode
_one = msgspec.json.Decoder(msgspec.Raw)
_value = _one.decode

_UNDECODED = (msgspec.MsgspecError, RecursionError)


class BlockStart(NamedTuple):
    """Where a block is to begin: of the piece at `offset` the record at `place`, and `most` records may follow."""

    offset: int
    place: int
    most: int


class Needle:
    """How records meet in one source, and where the next block of them ends.

    The `prover` is asked first what a block holds: it needs the records decoded, and decodes them once only.
    """

    def __init__(self, shape: PieceShape, prover: Prover | None) -> None:
        self._prover = prover
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

    def block(self, data: bytes, start: int, stop: int, at: BlockStart) -> tuple[bytes, Proof] | None:
        """Return a block of records that begins at `start` and ends before `stop`, and its proof.

        None: they are to be walked.
        """
        if not self._needle or self._to_walk > 0:
            return None
        if self._bytes_each:
            stop = min(stop, start + int(at.most * self._bytes_each * 0.95))
        search = self._lines if self._shape == "lines" else self._records
        found = search(data, start, stop, at)
        if found is None:
            self._misses += 1
            if self._misses >= _MISSES:
                self._misses, self._to_walk = 0, _WALKED_AFTER_MISSES
            return None
        block, proof = found
        self._misses = 0
        self._bytes_each = len(block) / proof.records
        if proof.records > at.most:
            self._to_walk = at.most
            return None
        return found

    def _lines(self, data: bytes, start: int, stop: int, at: BlockStart) -> tuple[bytes, Proof] | None:
        end = data.rfind(b"\n", start, stop)
        if end < 0:
            return None
        return self._proven(data[start:end].rstrip(b" \t\r"), at)

    def _records(self, data: bytes, start: int, stop: int, at: BlockStart) -> tuple[bytes, Proof] | None:
        last = data.rfind(self._needle, start, stop)
        if last >= 0 and not self._is_ambiguous:
            proven = self._proven(data[start : last + 1], at)
            if proven is not None:
                return proven
            # A child object that begins as the records do: the needle is found inside of a record, too.
            self._is_ambiguous = True
        last = self._balanced(data, start, last)
        return self._proven(data[start : last + 1], at) if last >= 0 else None

    def _proven(self, data: bytes, at: BlockStart) -> tuple[bytes, Proof] | None:
        block = Block(data=data, shape=self._shape, offset=at.offset, place=at.place)
        proof = (self._prover and self._prover.prove(block)) or _proof(block)
        return None if proof is None else (data, proof)

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


def _proof(block: Block) -> Proof | None:
    """Return how many records a block holds, or None where one is no JSON or is nested deeper than MAX_NESTING."""
    try:
        found = _values(b"[%b]" % block.data) if block.shape == "array" else _on_lines(block.data)
    except _UNDECODED:
        return None
    return Proof(len(found)) if found and _is_shallow(block.data, found) else None


def _on_lines(data: bytes) -> Sequence[msgspec.Raw]:
    found: list[msgspec.Raw] = _one.decode_lines(data)
    return found if are_lines(data, len(found)) else list(map(_value, data.split(b"\n")))


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
            is_nested_deeper(bytes(value), MAX_NESTING) for value in values[first : first + together]
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
