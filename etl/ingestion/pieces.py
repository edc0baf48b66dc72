"""Bytes -> pieces that begin and end at record boundaries, with exact offsets and record numbers.

Every record is walked by the JSON scanner before its piece is given out, so nothing behind a syntax fault is
ever loaded. An array is found by ijson, which also checks the document around it to its end.
"""

import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from decimal import InvalidOperation
from typing import NamedTuple

import ijson

from etl.errors import SourceError, UsageError
from etl.ingestion.boundaries import NotJSON, line_span, may_go_on, skip_blank, value_end
from etl.ingestion.constants import MAX_NESTING, MAX_RECORD_BYTES, PIECE_BYTES, READ_BYTES
from etl.ingestion.values import ByteStream, Piece, Range, Shape
from etl.settings import Format

# ijson converts integers by int(), which refuses more than 4,300 digits by an error that ends the process.
sys.set_int_max_str_digits(0)

_BOM = b"\xef\xbb\xbf".decode("latin-1")

# ijson keeps a path for each level, so a document that only nests must be noticed before it fills the memory.
_FEED_BYTES = 1 << 12
_NESTING_STEPS = {"start_map": 1, "start_array": 1, "end_map": -1, "end_array": -1}


@dataclass(frozen=True, kw_only=True)
class Cut:
    """How a source is cut: its format, the path of a record, records a piece, and the ranges known already."""

    format: Format
    records: str
    batch_rows: int
    known: Mapping[int, Range]


def require_path(format: Format, records: str) -> None:
    """Raise UsageError when a records path names no array; the records of NDJSON need no path."""
    if format != "ndjson" and records != "item" and not records.endswith(".item"):
        raise UsageError(
            f"the records path {records} names no array",
            hint="name the elements of an array by --records, as in shipments.item",
        )


def cut(stream: ByteStream, how: Cut) -> Iterator[Piece]:
    """Yield the pieces of a source in order; a known range comes again as the very piece that it was.

    Raises SourceError when the source cannot be read to its end or holds no record at all (but an empty array),
    after the whole records before the fault were given out.
    """
    window = _Window(stream)
    first = window.skip_start()
    if not first:
        raise window.fault("expected JSON, the source is empty", 0)
    if first not in "[{":
        raise window.fault("expected JSON that begins with [ or {, got something else", window.front)
    if how.format == "ndjson" or (how.format == "auto" and first == "{" and how.records == "item"):
        shape: Shape = "lines" if _has_lines(window) else "values"
        yield from _gather(window, how, shape, _walk(window, shape, how.known))
    else:
        yield from _gather(window, how, "array", _walk_arrays(window, how))


class _Record(NamedTuple):
    """Where a record begins and ends, in bytes of the stream."""

    offset: int
    end: int


# None: an array ended, and a piece ends with it.
_Found = _Record | Range | None


def _gather(window: "_Window", how: Cut, shape: Shape, found: Iterator[_Found]) -> Iterator[Piece]:
    """Gather records to pieces of `batch_rows` records or PIECE_BYTES, whichever comes first."""
    begin = end = count = 0
    first_record = 1

    def gathered() -> Piece:
        nonlocal count, first_record
        piece = Piece(offset=begin, count=count, first_record=first_record, data=window.take(end, begin), shape=shape)
        first_record += count
        count = 0
        return piece

    try:
        for item in found:
            is_full = count >= how.batch_rows or end - begin >= PIECE_BYTES
            if count and (is_full or not isinstance(item, _Record)):
                yield gathered()
            if item is None:
                continue
            begin, end = (begin if count else item.offset), item.end
            count += item.count if isinstance(item, Range) else 1
            if isinstance(item, Range):
                yield gathered()
    except SourceError:
        if count:
            yield gathered()
        raise
    if count:
        yield gathered()


def _walk(window: "_Window", shape: Shape, known: Mapping[int, Range]) -> Iterator[_Found]:
    """Yield the records from the front of the window to the end of the array (its `]` stays) or of the stream."""
    at = window.front
    is_first = True
    while character := window.skip_blank(at):
        at = window.position
        if shape == "array" and character == "]":
            return
        if shape == "array" and not is_first:
            if character != ",":
                raise window.fault("expected , or ] behind a record, got something else", at)
            character = window.skip_blank(at + 1)
            at = window.position
        recorded = known.get(at)
        if recorded is not None:
            at = window.hold(recorded)
            yield recorded
        else:
            end = window.line_end(at) if shape == "lines" else window.value_end(at, shape)
            yield _Record(at, end)
            at = end
        is_first = False
    if shape == "array":
        raise window.fault("the array is cut off before its ]", window.position)


def _walk_arrays(window: "_Window", how: Cut) -> Iterator[_Found]:
    """Yield the records of every array at the records path."""
    document = _Document(window, how.records.removesuffix("item").removesuffix("."))
    found = False
    while document.next_array():
        found = True
        yield from _walk(window, "array", how.known)
        yield None
        document.end_array()
    if not found:
        raise window.fault(
            f"no array at the records path {how.records}",
            window.front,
            hint=f"arrays are at: {', '.join(document.others)} (--records)" if document.others else None,
        )


def _has_lines(window: "_Window") -> bool:
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


class _Window:
    """The part of the stream that is looked at, as latin-1 text. All positions are bytes of the stream.

    What is before `front` was taken; it is let go when the stream is read on, and not each time something is taken:
    small records behind a large one would move the rest of the window again and again.
    """

    def __init__(self, stream: ByteStream) -> None:
        self.front = 0
        self.position = 0
        self._text = ""
        self._offset = 0
        self._stream = stream
        self._number = 1

    @property
    def _end(self) -> int:
        return self._offset + len(self._text)

    def extend(self, begun: int) -> bool:
        """Read on; False at the end of the stream.

        `begun` is where something unfinished begins: as much again as is held of it is read, for adding a little at
        a time would scan a large record over and over.

        Raises SourceError when it is too large.
        """
        held = self._end - begun
        if held > MAX_RECORD_BYTES:
            raise self.fault(f"no record ends within {MAX_RECORD_BYTES} bytes", begun)
        data = self._stream.read(max(READ_BYTES, held))
        if data:
            self._text = self._text[self.front - self._offset :] + data.decode("latin-1")
            self._offset = self.front
        return bool(data)

    def extends(self, begun: int) -> bool:
        """Read on; False at the end of the stream and before a fault, which is told when the records are there."""
        try:
            return self.extend(begun)
        except SourceError:
            return False

    def text_from(self, begin: int) -> str:
        """Return what is held from `begin` on."""
        return self._text[begin - self._offset :]

    def take(self, end: int, begin: int | None = None) -> bytes:
        """Return the bytes from `begin` (or the front) to `end`; the front is `end` from now on."""
        begin = self.front if begin is None else begin
        self.front = min(end, self._end)
        return self._text[begin - self._offset : end - self._offset].encode("latin-1")

    def take_to(self, last: str, size: int) -> bytes:
        """Take up to and with the first character `last`, but at most `size` bytes; none at the end of the stream."""
        if self.front == self._end and not self.extend(self.front):
            return b""
        index = self.front - self._offset
        found = self._text.find(last, index, index + size)
        return self.take(self._offset + (found + 1 if found >= 0 else index + size))

    def skip_start(self) -> str:
        """Pass over a byte-order mark and white space; return the first character, or nothing at the end."""
        while self._end < len(_BOM) and self.extend(0):
            pass
        if self._text.startswith(_BOM):
            self.take(len(_BOM))
        character = self.skip_blank(self.front)
        self.take(self.position)
        return character

    def skip_blank(self, at: int) -> str:
        """Set `position` behind white space; return the character there, or nothing at the end of the stream."""
        self.position = self._offset + skip_blank(self._text, at - self._offset)
        while self.position == self._end and self.extend(at):
            self.position = self._offset + skip_blank(self._text, self.position - self._offset)
        index = self.position - self._offset
        return self._text[index : index + 1]

    def value_end(self, at: int, shape: Shape) -> int:
        """Return where the JSON value ends that begins at `at`.

        Raises SourceError when none does.
        """
        while True:
            index = at - self._offset
            try:
                end = value_end(self._text, index)
            except NotJSON as error:
                if error.cut_off and self.extend(at):
                    continue
                what = "the source is cut off in this record" if error.cut_off else f"not JSON: {error.reason}"
                raise self.fault(what, at if error.cut_off else self._offset + error.position) from None
            if may_go_on(self._text, index, end):
                if self.extend(at):
                    continue
                if shape == "array":
                    raise self.fault("the source is cut off in this record", at)
            self._number += 1
            return self._offset + end

    def line_end(self, at: int) -> int:
        """Return where the record ends that begins at `at` on its line, be it JSON or not.

        Raises SourceError when the last line is cut off within a value.
        """
        searched = at
        while (newline := self._text.find("\n", searched - self._offset)) < 0:
            searched = self._end
            if not self.extends(at):
                self._require_whole_line(at)
                newline = len(self._text)
                break
        self._number += 1
        return self._offset + line_span(self._text, at - self._offset, newline).end

    def _require_whole_line(self, at: int) -> None:
        """Raise SourceError when the last line may be less than was meant; an object that is closed is whole."""
        index = at - self._offset
        cut_off = False
        try:
            if not may_go_on(self._text, index, value_end(self._text, index)):
                return
        except NotJSON as error:
            cut_off = error.cut_off
        self.extend(at)  # Where a fault ended the line, it is told now.
        if cut_off:
            raise self.fault("the source is cut off in its last line", at)

    def hold(self, known: Range) -> int:
        """Read on until a known range is held whole, or the stream ends; return where it ends."""
        while self._end < known.end and self.extend(self._end):
            pass
        self._number += known.count
        return known.end

    def fault(self, what: str, at: int, *, hint: str | None = None) -> SourceError:
        """Return the error that names the file, the record and the byte."""
        return SourceError(
            f"{self._stream.source.name}: {what}, at record {self._number}, byte {at}",
            hint=hint or "get the file again and run the same command; what is in is not loaded twice",
        )


class _Document:
    """What stands around the arrays, parsed by ijson; it is fed all of the source but the records."""

    def __init__(self, window: _Window, prefix: str) -> None:
        self.others: list[str] = []
        self._window = window
        self._prefix = prefix
        self._nesting = 0
        self._events = ijson.sendable_list()
        self._parser = ijson.parse_coro(self._events)

    def next_array(self) -> bool:
        """Go on behind the `[` of the next array at the prefix; False when the document ended without one.

        Raises SourceError when the document is not JSON or ends too early.
        """
        # Feeding up to each [ tells to the byte where the array begins.
        while data := self._window.take_to("[", _FEED_BYTES):
            if self._feed(data):
                return True
        self._close()
        return False

    def end_array(self) -> None:
        """Go on behind the `]` of the array whose records were walked."""
        self._feed(self._window.take(self._window.position + 1, self._window.position))

    def _feed(self, data: bytes) -> bool:
        try:
            self._parser.send(data)
        except (ijson.JSONError, UnicodeDecodeError, InvalidOperation):
            raise self._window.fault("not JSON around the records", self._window.front) from None
        starts = [prefix for prefix, event, _ in self._events if event == "start_array"]
        self._nesting += sum(_NESTING_STEPS.get(event, 0) for _, event, _ in self._events)
        self._events.clear()
        if self._nesting > MAX_NESTING:
            raise self._window.fault(f"nested deeper than {MAX_NESTING} around the records", self._window.front)
        if len(self.others) < 5:
            self.others += [f"{prefix}.item".removeprefix(".") for prefix in starts if prefix != self._prefix]
        return self._prefix in starts

    def _close(self) -> None:
        # The parser passes over a token that the end of the source cuts in two. A blank ends a number or word, a quote
        # a text, and they are noticed; behind a whole document the quote is such a token itself.
        self._feed(b" ")
        self._feed(b'"')
        try:
            self._parser.close()
        except ijson.JSONError:
            raise self._window.fault("the source is cut off", self._window.front) from None
