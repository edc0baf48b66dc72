"""Bytes -> pieces that begin and end at record boundaries, with exact offsets and record numbers.

Every record is walked by the JSON scanner before its piece is given out, so nothing behind a syntax fault is
ever loaded. An array is found by ijson, which also checks the document around it to its end.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import ijson

from etl.errors import SourceError, UsageError
from etl.ingestion.boundaries import NotJSON, line_span, skip_blank, value_end
from etl.ingestion.constants import HEAD_BYTES, MAX_RECORD_BYTES, PIECE_BYTES, READ_BYTES
from etl.ingestion.values import ByteStream, Piece, Range, Shape
from etl.settings import Format

_BOM = b"\xef\xbb\xbf".decode("latin-1")


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
        raise window.fault("expected JSON that begins with [ or {, got something else", window.offset)
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
        piece = Piece(offset=begin, count=count, first_record=first_record, data=window.take(begin, end), shape=shape)
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
    at = window.offset
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
            end = window.line_end(at) if shape == "lines" else window.value_end(at)
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
            window.offset,
            hint=f"arrays are at: {', '.join(document.others)} (--records)" if document.others else None,
        )


def _has_lines(window: "_Window") -> bool:
    """Tell whether the source holds one record a line; else its records span lines or share them."""
    while True:
        try:
            end = value_end(window.text, 0)
        except NotJSON as error:
            if error.unfinished and len(window.text) < HEAD_BYTES and window.extend(0):
                continue
            return True
        behind = window.text[end : end + READ_BYTES].lstrip(" \t\r")[:1]
        if not behind and window.extend(0):
            continue
        return "\n" not in window.text[:end] and behind in {"", "\n"}


class _Window:
    """The part of the stream that is looked at: latin-1 text whose first character is byte `offset` of the stream.

    What is before the last `take` is let go. All positions are bytes of the stream.
    """

    def __init__(self, stream: ByteStream) -> None:
        self.text = ""
        self.offset = 0
        self.position = 0
        self._stream = stream
        self._number = 1

    def extend(self, begun: int) -> bool:
        """Read on; False at the end of the stream.

        `begun` is where an unfinished record begins in the text: as much again as is held of it is read, for
        adding a little at a time would scan a large record over and over.

        Raises SourceError when that record is too large.
        """
        held = len(self.text) - begun
        if held > MAX_RECORD_BYTES:
            raise self.fault(f"the record is larger than {MAX_RECORD_BYTES} bytes", self.offset + begun)
        data = self._stream.read(max(READ_BYTES, held))
        self.text += data.decode("latin-1")
        return bool(data)

    def take(self, begin: int, end: int) -> bytes:
        """Return the bytes from `begin` to `end` and let go of all before `end`."""
        data = self.text[begin - self.offset : end - self.offset].encode("latin-1")
        self.text = self.text[end - self.offset :]
        self.offset = end
        return data

    def skip_start(self) -> str:
        """Pass over a byte-order mark and white space; return the first character, or nothing at the end."""
        self.extend(0)
        if self.text.startswith(_BOM):
            self.take(0, len(_BOM))
        character = self.skip_blank(self.offset)
        self.take(self.offset, self.position)
        return character

    def skip_blank(self, at: int) -> str:
        """Set `position` behind white space; return the character there, or nothing at the end of the stream."""
        index = skip_blank(self.text, at - self.offset)
        while index == len(self.text) and self.extend(index):
            index = skip_blank(self.text, index)
        self.position = self.offset + index
        return self.text[index : index + 1]

    def value_end(self, at: int) -> int:
        """Return where the JSON value ends that begins at `at`.

        Raises SourceError when none does.
        """
        index = at - self.offset
        while True:
            try:
                end = value_end(self.text, index)
            except NotJSON as error:
                if error.unfinished and self.extend(index):
                    continue
                what = "the source is cut off in this record" if error.cut_off else f"not JSON: {error.reason}"
                raise self.fault(what, self.offset + (index if error.cut_off else error.position)) from None
            # A number may go on behind the text that is held.
            if end == len(self.text) and self.text[index] not in '{["' and self.extend(index):
                continue
            self._number += 1
            return self.offset + end

    def line_end(self, at: int) -> int:
        """Return where the record ends that begins at `at` on its line, be it JSON or not.

        Raises SourceError when the last line is cut off within a value.
        """
        index = at - self.offset
        newline = self.text.find("\n", index)
        while newline < 0:
            searched = len(self.text)
            if not self.extend(index):
                self._refuse_cut_line(index)
                break
            newline = self.text.find("\n", searched)
        self._number += 1
        return self.offset + line_span(self.text, index, newline if newline >= 0 else len(self.text)).end

    def _refuse_cut_line(self, index: int) -> None:
        try:
            value_end(self.text, index)
        except NotJSON as error:
            if error.cut_off:
                raise self.fault("the source is cut off in its last line", self.offset + index) from None

    def hold(self, known: Range) -> int:
        """Read on until a known range is held whole, or the stream ends; return where it ends."""
        while len(self.text) < known.end - self.offset and self.extend(len(self.text)):
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
        self._events = ijson.sendable_list()
        self._parser = ijson.parse_coro(self._events)

    def next_array(self) -> bool:
        """Go on behind the `[` of the next array at the prefix; False when the document ended without one.

        Raises SourceError when the document is not JSON or ends too early.
        """
        window = self._window
        while True:
            # Feeding up to each [ tells to the byte where the array begins.
            bracket = window.text.find("[")
            if bracket < 0:
                self._feed(window.take(window.offset, window.offset + len(window.text)))
                if not window.extend(0):
                    self._close()
                    return False
            elif self._feed(window.take(window.offset, window.offset + bracket + 1)):
                return True

    def end_array(self) -> None:
        """Go on behind the `]` of the array whose records were walked."""
        self._feed(self._window.take(self._window.position, self._window.position + 1))

    def _feed(self, data: bytes) -> bool:
        if not data:  # which ijson takes for the end
            return False
        try:
            self._parser.send(data)
        except (ijson.JSONError, UnicodeDecodeError):
            raise self._window.fault("not JSON around the records", self._window.offset) from None
        starts = [prefix for prefix, event, _ in self._events if event == "start_array"]
        self._events.clear()
        if len(self.others) < 5:
            self.others += [f"{prefix}.item".removeprefix(".") for prefix in starts if prefix != self._prefix]
        return self._prefix in starts

    def _close(self) -> None:
        try:
            self._parser.close()
        except ijson.JSONError:
            raise self._window.fault("the source is cut off", self._window.offset) from None
