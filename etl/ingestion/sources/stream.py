"""File, URL or standard input -> decompressed UTF-8, and what is known of the content before it is read."""

import os
import stat
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from io import BufferedReader, RawIOBase
from pathlib import Path
from typing import TYPE_CHECKING, cast

from etl.errors import SourceError, reason_of
from etl.ingestion import constants
from etl.ingestion.constants import HEAD_BYTES, READ_BYTES
from etl.ingestion.sources import remote
from etl.ingestion.sources.compression import DAMAGED, Reader, Unreadable, decompressed
from etl.ingestion.sources.encodings import NotText, Utf8Reader, is_utf8, line_feeds
from etl.ingestion.sources.recognition import compression_of, encoding_of
from etl.ingestion.values import Source
from etl.settings import RetrySettings

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

_PATIENCE = RetrySettings(
    attempts=constants.RETRY_ATTEMPTS,
    base_seconds=constants.RETRY_BASE_SECONDS,
    cap_seconds=constants.RETRY_CAP_SECONDS,
)

_MAGIC_BYTES = 8
_LONGEST_MARK = 4

_GET_AGAIN = "get the file again and run the same command; what is in is not loaded twice"


class Changed(Exception):
    """The source is not any more what it was when it was opened."""


class Stream:
    """The content of a source, decompressed and as UTF-8, read once from the front.

    `position` counts the bytes given out. `head` are its first bytes, at most HEAD_BYTES, which identify it; `size`
    the bytes as they are stored, None where that is not known. `is_repeatable` tells whether it can be opened again,
    `waits` whether its bytes may be a long time coming. `encoding` is what it was decoded from.
    """

    def __init__(
        self, source: Source, raw: BufferedReader, size: int | None, check_unchanged: Callable[[], None] | None = None
    ) -> None:
        self.source = source
        self.position = 0
        self.size = size
        self.is_repeatable = check_unchanged is not None
        self.waits = source.path is None or not self.is_repeatable
        self.encoding = "utf-8"
        self._check_unchanged = check_unchanged
        self._count = 0
        self._translation: bytes | None = None
        self._fault: SourceError | None = None
        self._is_as_stored = True
        self._raw = raw
        self._bytes = self._text(self._content(raw))
        self.head = self._fill(HEAD_BYTES)
        self._translation = line_feeds(self.head)
        if self._translation:
            self.head = self.head.translate(self._translation)
        self._ahead = self.head

    @property
    def plain_path(self) -> str | None:
        """The path at which its bytes can be read again at any offset, or None."""
        is_plain = self.is_repeatable and self._is_as_stored and not self._translation
        return self.source.path if is_plain else None

    @property
    def stored_position(self) -> int:
        """How many bytes of the source as stored were read; of a stream that has no size, of its content."""
        # Not by the buffer, whose lock is held while it waits for bytes: another thread may ask.
        return self.position if self.size is None else self._raw.raw.tell()

    def read(self, size: int = READ_BYTES) -> bytes:
        """Return `size` bytes, fewer at the end or before a fault.

        Raises SourceError when the file cannot be read, decompressed or decoded, or changed since it was opened.
        """
        if self._ahead:
            data, self._ahead = self._ahead[:size], self._ahead[size:]
        else:
            data = self._fill(size)
        if not data and self._fault:
            raise self._fault
        self.position += len(data)
        return data

    def _content(self, raw: BufferedReader) -> Reader:
        compression = compression_of(raw.peek(_MAGIC_BYTES))
        if compression is None:
            return raw
        self._is_as_stored = False
        try:
            return decompressed(raw, compression)
        except Unreadable as error:
            raise SourceError(
                f"{self.source.name}: {error}",
                hint="unpack what is meant and give it to standard input: unzip -p FILE MEMBER | etl load DATASET -",
            ) from None
        except EOFError:
            raise self._broken("the compressed data ends too early") from None

    def _text(self, content: Reader) -> Reader:
        if self.source.encoding != "auto":
            if is_utf8(self.source.encoding):
                return content
            self.encoding = self.source.encoding
            self._is_as_stored = False
            return Utf8Reader(content, self.source.encoding, mark=0)
        begun = _Begun(content)
        found = encoding_of(begun.ahead)
        if found is None:
            return begun
        self.encoding = found.name
        self._is_as_stored = False
        return Utf8Reader(begun, found.name, found.mark)

    def _fill(self, size: int) -> bytes:
        """Read until there are `size` bytes; a fault waits until what is before it was given out."""
        parts = []
        held = 0
        try:
            while held < size and not self._fault and (data := self._read(size - held)):
                parts.append(data)
                held += len(data)
        except SourceError as error:
            self._fault = error
        data = b"".join(parts)
        return data.translate(self._translation) if self._translation else data

    def _read(self, size: int) -> bytes:
        try:
            # read1 gives what there is; read would lose it when the compressed data breaks off behind.
            data = self._bytes.read1(size)
            if not data and self._check_unchanged:
                self._check_unchanged()
        except EOFError:
            raise self._broken("the compressed data ends too early") from None
        except DAMAGED:
            raise self._broken("the compressed data is damaged") from None
        except NotText as error:
            raise self._broken(
                f"invalid {self.encoding} at byte {error.position} of the file", hint="--encoding names another"
            ) from None
        except Changed:
            raise self._broken("the file changed while it was read") from None
        except OSError as error:
            # bz2 tells damage by an OSError that names no error of the system.
            raise self._broken((error.strerror or "the compressed data is damaged").lower()) from error
        self._count += len(data)
        return data

    def _broken(self, what: str, hint: str = _GET_AGAIN) -> SourceError:
        return SourceError(f"{self.source.name}: {what}, at byte {self._count} of its content", hint=hint)


class _Begun:
    """A reader whose first bytes were looked at; a fault behind them waits until they were given out."""

    def __init__(self, reader: Reader) -> None:
        self.ahead = b""
        self._reader = reader
        self._fault: Exception | None = None
        try:
            while len(self.ahead) < _LONGEST_MARK and (data := reader.read1(READ_BYTES)):
                self.ahead += data
        except Exception as error:  # noqa: BLE001 - raised where it belongs
            self._fault = error

    def read1(self, size: int, /) -> bytes:
        """Return at most `size` bytes; none at the end."""
        if self.ahead:
            given, self.ahead = self.ahead[:size], self.ahead[size:]
            return given
        if self._fault:
            raise self._fault
        return self._reader.read1(size)


class _Awaited(RawIOBase):
    """A stream of which so many bytes come at once, although a pipe gives at first what was written first."""

    def __init__(self, stream: BufferedReader, size: int) -> None:
        self._begin = stream.read(size)
        self._rest = stream

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: "WriteableBuffer") -> int:
        view = memoryview(buffer).cast("B")
        begin, self._begin = self._begin[: len(view)], self._begin[len(view) :]
        view[: len(begin)] = begin
        return len(begin) or self._rest.readinto1(view)


@contextmanager
def opened(source: Source, retries: RetrySettings = _PATIENCE) -> Iterator[Stream]:
    """Open a source for one pass; a transfer over the network that breaks is tried again.

    Raises SourceError when there is no such file or it cannot be read.
    """
    if source.url is not None:
        begun = remote.opened(source.url, retries)
        with closing(begun.raw):
            yield Stream(source, begun.raw, begun.size, begun.check_unchanged)
        return
    if source.path is None:
        yield Stream(source, _awaited(cast(BufferedReader, sys.stdin.buffer)), None)
        return
    with ExitStack() as stack:
        try:
            _require_file(Path(source.path), source.name)
            file = stack.enter_context(Path(source.path).open("rb"))
            before = os.fstat(file.fileno())
            if stat.S_ISREG(before.st_mode):
                stream = Stream(source, file, before.st_size, lambda: _compare(file, before))
            else:  # A pipe has no size, and what it gives cannot be read a second time.
                stream = Stream(source, _awaited(file), None)
        except OSError as error:
            raise SourceError(
                f"cannot read {source.name}: {reason_of(error)}",
                hint="check the path and the right to read it",
            ) from error
        yield stream


def _require_file(path: Path, name: str) -> None:
    """Raise SourceError for a folder that holds no file, OSError when it may not be looked at."""
    if path.is_dir():
        next(path.iterdir(), None)
        raise SourceError(f"the folder {name} holds no file", hint="hidden, .part and .tmp files do not count")


def _awaited(stream: BufferedReader) -> BufferedReader:
    return BufferedReader(_Awaited(stream, _MAGIC_BYTES))


def _compare(file: BufferedReader, before: os.stat_result) -> None:
    now = os.fstat(file.fileno())
    if (now.st_size, now.st_mtime_ns) != (before.st_size, before.st_mtime_ns):
        raise Changed
