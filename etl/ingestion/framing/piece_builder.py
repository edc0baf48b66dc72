"""Records -> pieces: their bytes, their blocks, and the marks of the fingerprint. Pure."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from etl.errors import SourceError
from etl.ingestion.constants import BLOCK_BYTES, CELL_BYTES, LAYER_LEVELS, PIECE_BYTES, WHOLE_RECORD_BYTES
from etl.ingestion.fingerprints import LF, Fingerprint, Mark, is_own, powers_between
from etl.ingestion.framing.needles import BlockStart, Needle
from etl.ingestion.framing.nesting import is_nested_deeper
from etl.ingestion.framing.spans import Spans
from etl.ingestion.framing.window import Window
from etl.ingestion.values import BlockRows, Piece, PieceShape, Proof, Prover

# Of arrays that are so far apart each has pieces of its own.
_MAX_GAP_BYTES = 1 << 16

# A larger record is rare; the bytes up to the next mark are kept until they are compared.
_MAX_KNOWN_BYTES = 4 * CELL_BYTES


class Stretch(NamedTuple):
    """A block of records, or one scanned record: its beginning and end in bytes of the stream.

    A block has its bytes and its proof; a scanned record has neither.
    """

    offset: int
    end: int
    data: bytes = b""
    proof: Proof | None = None


class PieceBuilder:
    """Builds the pieces of one path: a piece ends at its number of records or at PIECE_BYTES, whichever is first."""

    def __init__(
        self,
        window: Window,
        shape: PieceShape,
        which: int,
        *,
        prover: Prover | None,
        batch_rows: int,
        first_rows: int,
    ) -> None:
        self.window = window
        self.shape = shape
        self.count = 0
        self.containers = 0
        self.needle = Needle(shape, prover)
        self._which = which
        self._batch_rows = batch_rows
        self._most = min(first_rows, batch_rows)
        self._first_record = 1
        self._begin = self._end = 0
        self._blocks: list[tuple[int, int]] = []
        self._rows: list[BlockRows | None] = []
        self._is_open = False
        self._is_heavy = False
        self._parts: list[bytes] = []
        self._fingerprint = Fingerprint()
        self._start = self._fingerprint
        self._gap = b""
        self._before: Mark | None = None
        self._hashed_to: int | None = None
        self._marks: list[Mark] = []
        self._gaps: list[tuple[int, int]] = []
        self._joint = b""

    @property
    def records(self) -> int:
        """The number of records so far."""
        return self._fingerprint.records

    def begin_container(self) -> bool:
        """Note that the next record begins in another array or object; False when the open piece must end before."""
        self._hashed_to = None
        self.containers += 1
        if not self.count:
            return True
        kept, self.window.kept_from = self.window.kept_from, None
        if kept is None or len(self._joint) > _MAX_GAP_BYTES:
            return False
        self._joint += self.window.between(kept, self.window.front)
        return True

    def end_container(self) -> None:
        """Note that the array or object ends; a piece that is open may continue in the next one."""
        if self.count:
            if self._is_open:
                self._take()
                self._is_open = False
            self.window.kept_from = self.window.front

    def cell_end(self, at: int) -> int:
        """Return the byte at which the cell of the fingerprint ends, seen from the record at `at`.

        It may be too early where bytes count as fewer, never too late.
        """
        gap = 1 if self._hashed_to is None else len(self.window.hashed(self._hashed_to, at))
        end = self._fingerprint.end
        return at + (end // CELL_BYTES + 1) * CELL_BYTES - end - gap

    def known_stretch(self, at: int, expected: Sequence[Mark]) -> Stretch | None:
        """Return the records from `at` to one of these marks, or None where the source does not have it."""
        fingerprint, window = self._fingerprint, self.window
        if self._hashed_to is None:
            gap: bytes | memoryview = LF if fingerprint.records else b""
        else:
            gap = window.hashed(self._hashed_to, at)
        for mark in expected:
            count, end = mark.records - fingerprint.records, at + mark.end - fingerprint.end - len(gap)
            if not 0 < count <= self.next_place(at).most or not at < end <= at + _MAX_KNOWN_BYTES:
                continue
            if not window.holds(end) or b"\r" in (data := window.between(at, end)):
                continue
            reached = fingerprint.copy()
            reached.add(gap, 0)
            reached.add(data, count)
            if reached.mark == mark:
                window.number += count
                return Stretch(at, end, data, Proof(count))
        return None

    def next_place(self, at: int) -> BlockStart:
        """Return the place of the record at `at` in this piece, or in the next piece when this one is full."""
        if not self.count:
            return BlockStart(offset=at, place=1, most=self._most)
        if self.is_full:
            return BlockStart(offset=at, place=1, most=self._most_of_next)
        return BlockStart(offset=self._begin, place=self.count + 1, most=self._most - self.count)

    @property
    def _most_of_next(self) -> int:
        return min(2 * self._most, self._batch_rows)

    @property
    def is_full(self) -> bool:
        """Whether the piece takes no further record."""
        return self.count >= self._most or self._end - self._begin >= PIECE_BYTES

    def add(self, stretch: Stretch) -> bool:
        """Add records at the end of the piece; True when a block is complete."""
        proof = stretch.proof
        count = 1 if proof is None else proof.records
        self._hash(stretch, count)
        if not self.count:
            self._begin = stretch.offset
        elif self._joint:
            self._gaps.append((self._end - self._begin, stretch.offset - self._begin))
            self._parts.append(self._joint)
            self._joint = b""
        self.count += count
        if proof is None:  # The records of a block are neither deep nor large.
            self._is_heavy |= _is_heavy(self.window.between(stretch.offset, stretch.end))
        if proof is None and self._is_open:
            self._blocks[-1] = (self._blocks[-1][0], stretch.end)
        else:
            self._blocks.append((stretch.offset, stretch.end))
            self._rows.append(None if proof is None else proof.rows)
        self._end = stretch.end
        begin, end = self._blocks[-1]
        self._is_open = proof is None and end - begin < BLOCK_BYTES
        if not self._is_open:
            self._take(stretch.data)
        return not self._is_open

    def _hash(self, stretch: Stretch, count: int) -> None:
        """Add records to the fingerprint, and note the marks among them."""
        fingerprint, window = self._fingerprint, self.window
        previous_end = fingerprint.end
        if not self.count:
            self._before = fingerprint.mark if fingerprint.records else None
        if self._hashed_to is not None:
            fingerprint.add(window.hashed(self._hashed_to, stretch.offset), 0)
        elif fingerprint.records:
            fingerprint.add(LF, 0)
        if not self.count:
            self._gap = b"" if self._hashed_to is None else window.between(self._hashed_to, stretch.offset)
            self._start = fingerprint.copy()
        begin = stretch.offset
        before = fingerprint.records
        powers = powers_between(before, before + count - 1) if previous_end < CELL_BYTES else []
        if powers:
            spans = Spans(stretch.data, self.shape)
            for number in powers:
                end = stretch.offset + spans[number - before - 1].end
                fingerprint.add(window.hashed(begin, end), number - fingerprint.records)
                begin = end
                if fingerprint.end < CELL_BYTES:
                    self._marks.append(fingerprint.mark)
            count -= fingerprint.records - before
        fingerprint.add(window.hashed(begin, stretch.end), count)
        self._hashed_to = stretch.end
        if is_own(fingerprint.records, fingerprint.end, previous_end):
            self._marks.append(fingerprint.mark)

    def _take(self, last: bytes = b"") -> None:
        """Take the bytes of the piece from the window, without those before the piece; `last` are known already."""
        begin = None if self._parts else self._begin
        self._parts += filter(None, (self.window.take(self._end - len(last), begin), last))
        self.window.front += len(last)

    def piece(self) -> Piece:
        """Return the piece, and begin the next one."""
        if self._is_open:
            self._take()
        piece = Piece(
            offset=self._begin,
            count=self.count,
            first_record=self._first_record,
            parts=tuple(self._parts),
            shape=self.shape,
            which=self._which,
            blocks=tuple((begin - self._begin, end - self._begin) for begin, end in self._blocks),
            block_rows=tuple(self._rows),
            gap=self._gap,
            start=self._start,
            before=self._before,
            marks=tuple(self._marks),
            end_mark=self._fingerprint.mark,
            is_heavy=self._is_heavy,
            gaps=tuple(self._gaps),
        )
        self.window.kept_from = None
        self._joint = b""
        self._first_record += self.count
        self._most = self._most_of_next
        self.count = 0
        self._is_open = self._is_heavy = False
        self._blocks, self._rows, self._parts, self._marks, self._gaps = [], [], [], [], []
        return piece


def _is_heavy(record: bytes) -> bool:
    if len(record) > WHOLE_RECORD_BYTES:
        return True
    brackets = record.count(b"[") + record.count(b"{")
    return brackets > LAYER_LEVELS and is_nested_deeper(record, LAYER_LEVELS)


def build(builder: PieceBuilder, stretches: Iterator[Stretch | None], *, is_ended: bool) -> Iterator[Piece | None]:
    """Build pieces of records; None ends a piece early, because nothing else comes now.

    Without `is_ended` the last one may have records of the next array, too.
    """
    try:
        for stretch in stretches:
            if builder.count and (builder.is_full or stretch is None):
                yield builder.piece()
            if stretch is not None and builder.add(stretch):
                yield None
    except SourceError:
        if builder.count:
            yield builder.piece()
        raise
    if builder.count and (is_ended or builder.is_full):
        yield builder.piece()
