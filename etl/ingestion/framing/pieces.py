"""Bytes -> pieces that begin and end at record boundaries, with exact offsets and record numbers.

Every record is proven to be JSON before its piece is given out, a block of them at a time or walked one by one, so
nothing behind a syntax fault is ever loaded. An array is found by ijson, which also checks the document around it to
its end.
"""

import sys
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from etl.errors import SourceError
from etl.ingestion.constants import BLOCK_BYTES, MAX_RECORD_BYTES, PIECE_BYTES
from etl.ingestion.framing.boundaries import NotJSON, value_end
from etl.ingestion.framing.documents import Document, container
from etl.ingestion.framing.formats import format_of
from etl.ingestion.framing.needles import BlockStart, Needle
from etl.ingestion.framing.window import Window
from etl.ingestion.values import BlockRows, ByteStream, LoadedRange, Piece, PieceShape, Proof, Prover
from etl.settings import Format

# What is looked at to tell in words what a source is that is no JSON.
_LOOK_BYTES = 1 << 12


@dataclass(frozen=True, kw_only=True)
class CutOptions:
    """How the records of one path are cut: the format of the source, the path, records a piece, the ranges known
    already, and the bytes that a record may have. The `prover` is asked first how many records a block holds; without
    one the cutter checks the blocks itself.

    The first piece has at most `first_rows` records, if they are fewer, and each at most twice as many as the last.
    """

    format: Format
    records_path: str
    batch_rows: int
    known: Mapping[int, LoadedRange]
    max_record_bytes: int = MAX_RECORD_BYTES
    first_rows: int = sys.maxsize
    prover: Prover | None = None


class NoRecordsError(SourceError):
    """A whole document has nothing at some of the records paths: `faults` are told by the places of these paths."""

    def __init__(self, faults: Mapping[int, SourceError]) -> None:
        first = next(iter(faults.values()))
        super().__init__(str(first), hint=first.hint)
        self.faults = faults


def cut(stream: ByteStream, *hows: CutOptions) -> Iterator[Piece]:
    """Yield the pieces of a source in order; a known range comes again as the very piece that it was.

    The records of several paths come in one pass, none of them within another; each piece tells which it belongs to.

    Raises SourceError when the source cannot be read to its end or holds no record at all (but an empty array),
    after the whole records before the fault were given out; NoRecordsError when it was read to its end, and some of
    the paths name nothing in it.
    """
    return (piece for piece in cutting(stream, *hows) if piece is not None)


def cutting(stream: ByteStream, *hows: CutOptions) -> Iterator[Piece | None]:
    """Yield as `cut` does, and None after each block of a piece, so that something else can be done in between."""
    how = hows[0]
    window = Window(stream, how.max_record_bytes)
    first = _require_json(window)
    has_one = len(hows) == 1  # Lines and values that follow one another have no paths.
    if has_one and (how.format == "ndjson" or (how.format == "auto" and first == "{" and how.records_path == "item")):
        shape: PieceShape = "lines" if _has_lines(window) else "values"
        gathered = _Gathered(window, how, shape)
        yield from _gather(gathered, _walk(gathered, how))
        return
    yield from _contained(window, hows)


def _require_json(window: Window) -> str:
    """Go on to the first character that is no blank, and return it.

    Raises SourceError when it begins no array and no object.
    """
    first = window.skip_start()
    if not first:
        raise window.fault("expected JSON, the source is empty", 0)
    if first not in "[{":
        format_name = format_of(window.text_from(window.front)[:_LOOK_BYTES])
        actual = f"what looks like {format_name}" if format_name else "something else"
        raise window.fault(
            f"expected JSON that begins with [ or {{, got {actual}",
            window.front,
            hint="give the file that holds the records as JSON" if format_name else None,
        )
    return first


def _contained(window: Window, hows: Sequence[CutOptions]) -> Iterator[Piece | None]:
    """Yield the records of every array or object at the records paths."""
    wanted = [container(how.records_path) for how in hows]
    gathered = [
        _Gathered(window, how, each.shape, which) for which, (how, each) in enumerate(zip(hows, wanted, strict=True))
    ]
    numbers = dict.fromkeys(range(len(hows)), 1)
    missing = set(numbers)
    document = Document(window, wanted)
    while (which := document.next()) is not None:
        missing.discard(which)
        window.number = numbers[which]
        window.records = hows[which].records_path if len(hows) > 1 else None
        yield from _gather(gathered[which], _walk(gathered[which], hows[which], is_alone=wanted[which].is_alone))
        numbers[which] = window.number
        document.end(which)
    window.number, window.records = 1, None
    faults = {
        which: window.fault(
            f"no {wanted[which].kind} at the records path {hows[which].records_path or repr('')}",
            window.front,
            hint=document.hint,
        )
        for which in sorted(missing)
    }
    if faults:
        raise NoRecordsError(faults)


class _Found(NamedTuple):
    """Where records begin and end that follow one another, in bytes of the stream.

    Of a block these are the bytes and the proof; one that was walked has neither.
    """

    offset: int
    end: int
    data: bytes = b""
    proof: Proof | None = None


_Item = _Found | LoadedRange


class _Gathered:
    """The piece that is being gathered: so many records or PIECE_BYTES, whichever comes first."""

    def __init__(self, window: Window, how: CutOptions, shape: PieceShape, which: int = 0) -> None:
        self.window = window
        self.shape = shape
        self.count = 0
        self._which = which
        self._batch_rows = how.batch_rows
        self._most = min(how.first_rows, how.batch_rows)
        self._first_record = 1
        self._begin = self._end = 0
        self._blocks: list[tuple[int, int]] = []
        self._rows: list[BlockRows | None] = []
        self._is_open = False
        self._parts: list[bytes] = []

    def next_place(self, at: int) -> BlockStart:
        """Return where in its piece the record at `at` comes; where this one is full, in the next one."""
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
        return self.count >= self._most or self._end - self._begin >= PIECE_BYTES

    def add(self, block: _Found | LoadedRange) -> bool:
        """Add records behind those that are there; True when a block of them is complete."""
        proof = block.proof if isinstance(block, _Found) else Proof(block.count)
        if not self.count:
            self._begin = block.offset
        self.count += 1 if proof is None else proof.records
        if proof is None and self._is_open:
            self._blocks[-1] = (self._blocks[-1][0], block.end)
        else:
            self._blocks.append((block.offset, block.end))
            self._rows.append(None if proof is None else proof.rows)
        self._end = block.end
        begin, end = self._blocks[-1]
        self._is_open = proof is None and end - begin < BLOCK_BYTES
        if not self._is_open:
            self._take(block.data if isinstance(block, _Found) else b"")
        return not self._is_open

    def _take(self, last: bytes = b"") -> None:
        """Let the window go on; what stands before the piece is left out, and the `last` bytes are at hand already."""
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
        )
        self._first_record += self.count
        self._most = self._most_of_next
        self.count = 0
        self._is_open = False
        self._blocks, self._rows, self._parts = [], [], []
        return piece


def _gather(gathered: _Gathered, found: Iterator[_Item]) -> Iterator[Piece | None]:
    """Gather records to pieces; a known range is one by itself."""
    try:
        for item in found:
            if gathered.count and (gathered.is_full or not isinstance(item, _Found)):
                yield gathered.piece()
            is_complete = gathered.add(item)
            if isinstance(item, LoadedRange):
                yield gathered.piece()
            elif is_complete:
                yield None
    except SourceError:
        if gathered.count:
            yield gathered.piece()
        raise
    if gathered.count:
        yield gathered.piece()


def _walk(gathered: _Gathered, how: CutOptions, *, is_alone: bool = False) -> Iterator[_Item]:
    """Yield the records from the front of the window to the end of the array or object (its bracket stays) or of the
    stream, or the first one alone.
    """
    window, shape = gathered.window, gathered.shape
    last = {"array": "]", "members": "}"}.get(shape, "")
    needle = Needle(shape, how.prover)
    offsets = sorted(how.known)
    at = window.front
    is_first = True
    while character := window.skip_blank(at):
        at = window.position
        if character == last or (is_alone and not is_first):
            return
        if last and not is_first:
            if character != ",":
                raise window.fault(f"expected , or {last} behind a record, got something else", at)
            character = window.skip_blank(at + 1)
            at = window.position
        is_first = False
        recorded = how.known.get(at)
        if recorded is not None:
            at = window.hold(recorded)
            yield recorded
            continue
        later = bisect_right(offsets, at)
        before = offsets[later] if later < len(offsets) else sys.maxsize
        block = None if shape in {"values", "members"} else window.block(at, needle, before, gathered.next_place(at))
        if block is not None:
            data, proof = block
            end = at + len(data)
            yield _Found(at, end, data, proof)
        else:
            end = window.line_end(at) if shape == "lines" else window.value_end(at, shape)
            window.learn(end, needle)
            yield _Found(at, end)
        at = end
    if last:
        what = "array" if shape == "array" else "object"
        raise window.fault(f"the {what} is cut off before its {last}", window.position)


def _has_lines(window: Window) -> bool:
    """Tell whether the source holds one record a line; else its records span lines or share them."""
    begin = window.position
    while True:
        text = window.text_from(begin)
        try:
            end = value_end(text, 0)
        except NotJSON as error:
            if not error.cut_off:
                return True
            end = len(text)
        behind = text[end:].lstrip(" \t\r")[:1]
        if behind or not window.extends(begin):
            return "\n" not in text[:end] and behind in {"", "\n"}
