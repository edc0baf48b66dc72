"""The part of a source that is looked at: as bytes, and where records are walked as latin-1 text of the same length."""

import re

from etl.errors import SourceError
from etl.ingestion.constants import BLOCK_BYTES, READ_BYTES
from etl.ingestion.framing.boundaries import NotJSON, line_span, may_go_on, member_value, value_end
from etl.ingestion.framing.needles import BlockStart, Needle
from etl.ingestion.values import ByteStream, LoadedRange, PieceShape, Proof

_BLANK = re.compile(rb"[ \t\n\r]*")
_BOM = b"\xef\xbb\xbf"


class Window:
    """A window on a stream: its bytes, and the same as text. All positions are bytes of the stream.

    What is before `front` was taken; it is let go when the stream is read on, and not each time something is taken:
    small records behind a large one would move the rest of the window again and again. A fault names the `number` of
    the record and, where there are several, the path of the `records` that it counts.
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

    @property
    def _end(self) -> int:
        return self._offset + len(self._data)

    @property
    def _text(self) -> str:
        """The same as text, made where records are walked only."""
        if self._decoded is None:
            self._decoded = self._data.decode("latin-1")
        return self._decoded

    def extend(self, begun: int) -> bool:
        """Read on; False at the end of the stream.

        `begun` is where something unfinished begins: as much again as is held of it is read, for adding a little at
        a time would scan a large record over and over.

        Raises SourceError when it is too large.
        """
        held = self._end - begun
        self._require_small(begun, self._end)
        return self._append(max(READ_BYTES, held))

    def _require_small(self, begin: int, end: int) -> None:
        if end - begin > self._max_record_bytes:
            raise self.fault(
                f"no record ends within {self._max_record_bytes} bytes",
                begin,
                hint="is it a file without separators? else --max-record-bytes allows more",
            )

    def _append(self, size: int) -> bool:
        self._is_ended = True  # unless there is more, and also before a fault
        data = self._stream.read(size)
        if data:
            self._is_ended = False
            gone = self.front - self._offset
            self._decoded = None
            self._data = b"".join((memoryview(self._data)[gone:], data))
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
        return self._data[begin - self._offset : end - self._offset]

    def take_to(self, last: re.Pattern[bytes], size: int) -> bytes:
        """Take up to and with the first byte that is `last`, at most `size` bytes; none at the end of the stream."""
        if self.front == self._end and not self.extend(self.front):
            return b""
        index = self.front - self._offset
        found = last.search(self._data, index, index + size)
        return self.take(self._offset + (found.end() if found else index + size))

    def give_back(self, size: int) -> None:
        """Let the front be before the bytes that were taken just now."""
        self.front -= size

    def skip_start(self) -> str:
        """Pass over a byte-order mark and white space; return the first character, or nothing at the end."""
        while self._end < len(_BOM) and self.extend(0):
            pass
        if self._data.startswith(_BOM):
            self.take(len(_BOM))
        character = self.skip_blank(self.front)
        self.take(self.position)
        return character

    def skip_blank(self, at: int) -> str:
        """Set `position` behind white space; return the character there, or nothing at the end of the stream."""
        self.position = self._behind_blank(at)
        while self.position == self._end and self.extend(at):
            self.position = self._behind_blank(self.position)
        index = self.position - self._offset
        return self._data[index : index + 1].decode("latin-1")

    def _behind_blank(self, at: int) -> int:
        match = _BLANK.match(self._data, at - self._offset)
        return self._offset + match.end() if match else at

    def block(self, at: int, needle: Needle, before: int, place: BlockStart) -> tuple[bytes, Proof] | None:
        """Return a block of whole records that begins at `at` and ends before `before`, and its proof.

        None: the record at `at` is to be walked.
        """
        while self._end - at < BLOCK_BYTES and not self._is_ended and self.extends(at):
            pass
        index = at - self._offset
        found = needle.block(self._data, index, index + min(BLOCK_BYTES, before - at), place)
        if found is not None:
            self.number += found[1].records
        return found

    def learn(self, end: int, needle: Needle) -> None:
        """Let the needle learn from the record that was walked up to `end`."""
        needle.learn(self._text, end - self._offset)

    def value_end(self, at: int, shape: PieceShape) -> int:
        """Return where the JSON value ends that begins at `at`, or of "members" the one whose key does.

        Raises SourceError when none does.
        """
        while True:
            index = at - self._offset
            try:
                index = member_value(self._text, index) if shape == "members" else index
                end = value_end(self._text, index)
            except NotJSON as error:
                if error.cut_off and self.extend(at):
                    continue
                what = "the source is cut off in this record" if error.cut_off else f"not JSON: {error.reason}"
                raise self.fault(what, at if error.cut_off else self._offset + error.position) from None
            if may_go_on(self._text, index, end):
                if self.extend(at):
                    continue
                if shape in {"array", "members"}:
                    raise self.fault("the source is cut off in this record", at)
            self._require_small(at, self._offset + end)
            self.number += 1
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
        self._require_small(at, self._offset + newline)
        self.number += 1
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

    def hold(self, known: LoadedRange) -> int:
        """Read on until a known range is held whole, or the stream ends; return where it ends."""
        while self._end < known.end and self._append(known.end - self._end):
            pass
        self.number += known.count
        return known.end

    def fault(self, what: str, at: int, *, hint: str | None = None) -> SourceError:
        """Return the error that names the file, the record and the byte."""
        record = (
            f"record {self.number}" if self.records is None else f"record {self.number} of {self.records or repr('')}"
        )
        return SourceError(
            f"{self._stream.source.name}: {what}, at {record}, byte {at}",
            hint=hint or "get the file again and run the same command; what is in is not loaded twice",
        )
