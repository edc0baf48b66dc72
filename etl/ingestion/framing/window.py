"""A window on a source: its bytes, and latin-1 text of the same length where records are scanned one by one."""

import re

from etl.errors import SourceError
from etl.ingestion.constants import BLOCK_BYTES, MAX_NESTING, READ_BYTES
from etl.ingestion.fingerprints import as_hashed
from etl.ingestion.framing.boundaries import (
    NotJSON,
    is_joined,
    is_whole_record,
    line_span,
    may_continue,
    member_value,
    value_end,
)
from etl.ingestion.framing.dialects import dialect_at
from etl.ingestion.framing.needles import BlockStart, Needle
from etl.ingestion.framing.nesting import ArrayScan, BracketScan
from etl.ingestion.values import ByteStream, PieceShape, Proof

_BLANK = re.compile(rb"[ \t\n\r]*")
_BOM = b"\xef\xbb\xbf"
_BLANK_OR_MARK = re.compile(rb"(?:[ \t\n\r]|\xef\xbb\xbf)*")

# A cell is two blocks, so that none is small; a record that passes the end of the cell is rarely larger.
_LAST_OF_CELL_BYTES = BLOCK_BYTES * 3 // 2
_RECORD_BYTES = 1 << 14

_MOST_KEPT = 1 << 18


class Window:
    """A window on a stream: bytes, and the same bytes as text. All positions are bytes of the stream.

    The bytes before `front` were taken. They are dropped at the next read from the stream and not at once, because
    small records after a large record would move the rest of the window again and again. Those after `kept_from` stay,
    unless they are too many: then it becomes None. A fault names the `number` of
    the record and, if there are several paths, the path of the `records` that are counted.
    """

    def __init__(self, stream: ByteStream, max_record_bytes: int) -> None:
        self.front = 0
        self.position = 0
        self.number = 1
        self.records: str | None = None
        self._data = b""
        self._decoded: str | None = None
        self._offset = 0
        self._stream = stream
        self._max_record_bytes = max_record_bytes
        self._is_ended = False
        self.kept_from: int | None = None

    @property
    def source(self) -> str:
        """The name of the source."""
        return self._stream.source.name

    @property
    def _end(self) -> int:
        return self._offset + len(self._data)

    @property
    def _text(self) -> str:
        """The bytes as text, decoded only if records are scanned one by one."""
        if self._decoded is None:
            self._decoded = self._data.decode("latin-1")
        return self._decoded

    def extend(self, start: int) -> bool:
        """Read more of the stream; False at its end.

        `start` is the beginning of an unfinished record. Its length in the window is doubled, because adding a little
        at a time would scan a large record again and again.

        Raises SourceError when the record is too large.
        """
        return self._append(self._next_size(start))

    def _next_size(self, start: int) -> int:
        self._require_small(start, self._end)
        return max(READ_BYTES, self._end - start)

    def _require_small(self, begin: int, end: int) -> None:
        if end - begin > self._max_record_bytes:
            raise self.fault(
                f"no record ends within {self._max_record_bytes} bytes",
                begin,
                hint="is it a file without separators? else --max-record-bytes allows more",
            )

    def _append(self, size: int) -> bool:
        self._is_ended = True  # until data comes; a fault ends the stream, too
        data = self._stream.read(size)
        if data:
            self._is_ended = False
            if self.kept_from is not None and self._end - self.kept_from > _MOST_KEPT:
                self.kept_from = None
            begin = self.front if self.kept_from is None else self.kept_from
            self._decoded = None
            self._data = b"".join((memoryview(self._data)[begin - self._offset :], data))
            self._offset = begin
        return bool(data)

    def extends(self, start: int) -> bool:
        """Read more; False at the end of the stream and at a fault, which is raised after the records before it."""
        try:
            return self._append(self._next_size(start))
        except SourceError:
            return False

    def text_from(self, begin: int) -> str:
        """Return the text of the window from `begin` on."""
        return self._text[begin - self._offset :]

    def take(self, end: int, begin: int | None = None) -> bytes:
        """Return the bytes from `begin` (or the front) to `end`, and set the front to `end`."""
        begin = self.front if begin is None else begin
        self.front = min(end, self._end)
        return self._data[begin - self._offset : end - self._offset]

    def holds(self, end: int) -> bool:
        """Read until the window holds the bytes up to `end`; False when the stream ends before."""
        while self._end < end and self._append(end - self._end):
            pass
        return self._end >= end

    def between(self, begin: int, end: int) -> bytes:
        """Return the bytes between two positions."""
        return self._data[begin - self._offset : end - self._offset]

    def hashed(self, begin: int, end: int) -> bytes | memoryview:
        """Return the bytes between two positions as the fingerprint takes them."""
        first, last = begin - self._offset, end - self._offset
        if self._data.find(b"\r", first, last) < 0:
            return memoryview(self._data)[first:last]
        return as_hashed(self._data[first:last])

    def take_to(self, last: re.Pattern[bytes], size: int) -> bytes:
        """Take the bytes through the first match of `last`, at most `size`; no bytes at the end of the stream."""
        if self.front == self._end and not self.extend(self.front):
            return b""
        index = self.front - self._offset
        match = last.search(self._data, index, index + size)
        return self.take(self._offset + (match.end() if match else index + size))

    def give_back(self, size: int) -> None:
        """Set the front before the last `size` bytes that were taken."""
        self.front -= size

    def skip_start(self) -> str:
        """Skip a byte-order mark and white space; return the next character, or an empty text at the end."""
        while self._end < len(_BOM) and self.extend(0):
            pass
        if self._data.startswith(_BOM):
            self.take(len(_BOM))
        character = self.skip_blank(self.front)
        self.take(self.position)
        return character

    def skip_blank(self, at: int, *, marks: bool = False) -> str:
        """Set `position` after white space; return the character there, or an empty text at the end of the stream.

        With `marks` byte-order marks are skipped, too.
        """
        blank = _BLANK_OR_MARK if marks else _BLANK
        self.position = self._after(blank, at)
        while self._may_be_blank(self.position, marks=marks) and self.extend(at):
            self.position = self._after(blank, self.position)
        index = self.position - self._offset
        return self._data[index : index + 1].decode("latin-1")

    def _after(self, blank: re.Pattern[bytes], at: int) -> int:
        match = blank.match(self._data, at - self._offset)
        return self._offset + match.end() if match else at

    def _may_be_blank(self, at: int, *, marks: bool) -> bool:
        """Return whether the window ends here, or within a byte-order mark."""
        index = at - self._offset
        rest = self._data[index : index + len(_BOM)]
        return not rest or (marks and rest != _BOM and _BOM.startswith(rest))

    def _fill(self, at: int, size: int) -> None:
        """Read until the window has so many bytes from `at` on, or the stream has no more now."""
        while self._end - at < size and not (self._is_ended or self._stream.is_idle) and self.extends(at):
            pass

    def waits(self, at: int, shape: PieceShape) -> bool:
        """Return whether no whole record is known from `at` on, and the stream is idle."""
        if not self._stream.is_idle:
            return False
        rest = self._data[at - self._offset :].strip(b" \t\r\n,")
        return not rest or (shape == "lines" and b"\n" not in rest)

    def block(
        self, at: int, needle: Needle, cell_end: int, place: BlockStart, end: int | None = None
    ) -> tuple[bytes, Proof] | None:
        """Return a block of whole records that begins at `at`, and its proof; `end` is the end of the array, if known.

        No block passes `cell_end` by more than the first record that ends there or after it. None: the record at `at`
        must be scanned.
        """
        is_last = cell_end - at <= _LAST_OF_CELL_BYTES
        size = cell_end - at + _RECORD_BYTES if is_last else BLOCK_BYTES
        self._fill(at, size)
        index = at - self._offset
        stop = index + (cell_end - at if is_last else BLOCK_BYTES)
        if end is not None:
            stop, is_last = min(stop, end - self._offset), is_last and cell_end < end
        block = needle.block(self._data, index, stop, place, passes=is_last)
        if block is not None:
            self.number += block[1].records
        return block

    def array_end(self, at: int, scan: ArrayScan) -> int | None:
        """Return the end of the array around `at`, if no block from there can pass it unseen."""
        self._fill(at, _LAST_OF_CELL_BYTES)
        return scan.end(self._data, self._offset, at + _LAST_OF_CELL_BYTES)

    def rest(self, at: int, end: int, needle: Needle, place: BlockStart) -> tuple[bytes, Proof] | None:
        """Return the records from `at` to the end of their array, and their proof, or None."""
        block = needle.rest(self._data, at - self._offset, end - self._offset, place)
        if block is not None:
            self.number += block[1].records
        return block

    def learn(self, end: int, needle: Needle) -> None:
        """Let the needle learn from the scanned record that ends at `end`."""
        needle.learn(self._text, end - self._offset)

    def value_end(self, at: int, shape: PieceShape) -> int:
        """Return the end of the JSON value that begins at `at`; of "members" the key begins at `at`.

        Raises SourceError when no JSON value begins there.
        """
        while True:
            index = at - self._offset
            try:
                index = member_value(self._text, index) if shape == "members" else index
                end = value_end(self._text, index)
            except NotJSON as error:
                if error.cut_off:
                    before = self._end
                    large = self._large_end(at, index)
                    if large is not None:
                        return large
                    if self._end > before or self.extend(at):
                        continue
                reason = "the source is cut off in this record" if error.cut_off else error.sentence
                place = at if error.cut_off else self._offset + error.position
                raise self.fault(reason, place, hint=error.hint) from None
            if may_continue(self._text, index, end):
                if self.extend(at):
                    continue
                # Of values that follow one another, the last may be a number that ends with the source.
                if shape in {"array", "members"} or end < len(self._text):
                    raise self.fault("the source is cut off in this record", at)
            elif shape == "values" and is_joined(self._text, index, end):
                raise self.fault("not JSON: a number or a word does not end here", self._offset + end)
            self._require_small(at, self._offset + end)
            self.number += 1
            return self._offset + end

    def _large_end(self, at: int, index: int) -> int | None:
        """Return the end of the object or array at an index of the window, of which the record at `at` consists.

        Each byte is scanned once, however often the window is extended. None: the scan of the whole value decides.
        """
        if self._data[index : index + 1] not in (b"{", b"["):
            return None
        begin = scanned = self._offset + index
        scan = BracketScan(MAX_NESTING)
        while (end := scan.end(self._data, scanned - self._offset)) is None:
            scanned = self._end
            try:
                is_extended = self.extend(at)
            except SourceError:
                self._require_json_so_far(begin)
                raise
            if not is_extended:
                return None
        value = self._data[begin - self._offset : end]
        if not is_whole_record(value):
            return None
        self._require_small(at, self._offset + end)
        self.number += 1
        return self._offset + end

    def _require_json_so_far(self, begin: int) -> None:
        """Raise the fault of a value that is no JSON before the end of the window: it comes before any other fault."""
        try:
            value_end(self._text, begin - self._offset)
        except NotJSON as error:
            if not error.cut_off:
                raise self.fault(error.sentence, self._offset + error.position, hint=error.hint) from None

    def line_end(self, at: int) -> int:
        """Return the end of the record that begins at `at` on its line; it need not be JSON.

        Raises SourceError when the last line is cut off within a value.
        """
        searched = at
        while (newline := self._text.find("\n", searched - self._offset)) < 0:
            searched = self._end
            if not self.extends(at):
                self._require_whole_line(at)
                newline = len(self._text)
                break
        self._require_small(at, self._offset + newline)
        self.number += 1
        return self._offset + line_span(self._text, at - self._offset, newline).end

    def _require_whole_line(self, at: int) -> None:
        """Raise SourceError when the last line may be incomplete; a closed object is complete."""
        index = at - self._offset
        cut_off = False
        try:
            if not may_continue(self._text, index, value_end(self._text, index)):
                return
        except NotJSON as error:
            cut_off = error.cut_off
        self.extend(at)  # Raises the fault that ended the line, if there is one.
        if cut_off:
            raise self.fault("the source is cut off in its last line", at)

    def unexpected(self, reason: str, at: int) -> SourceError:
        """Return the error that a character cannot be at this place; it names what the text is, if that is known."""
        dialect = dialect_at(self._text, at - self._offset)
        if dialect is None:
            return self.fault(reason, at)
        return self.fault(f"not JSON: {dialect.name}", at, hint=dialect.hint)

    def fault(self, reason: str, at: int, *, hint: str | None = None) -> SourceError:
        """Return an error that names the file, the record and the byte."""
        record = (
            f"record {self.number}" if self.records is None else f"record {self.number} of {self.records or repr('')}"
        )
        return SourceError(
            f"{self._stream.source.name}: {reason}, at {record}, byte {at}",
            hint=hint or "get the file again and run the same command; loaded records are not loaded twice",
        )
