"""File, URL or standard input -> its content as decompressed UTF-8, and what is known of it before it is read."""

import glob
import os
import re
import select
import stat
import sys
import time
from collections.abc import Callable, Hashable, Iterator
from contextlib import ExitStack, closing, contextmanager
from io import BufferedReader, RawIOBase
from pathlib import Path
from threading import Timer
from typing import TYPE_CHECKING, cast

import structlog

from etl.errors import SourceError, reason_of
from etl.ingestion import constants
from etl.ingestion.constants import HEAD_BYTES, MAGIC_BYTES, READ_BYTES
from etl.ingestion.sources.encodings import InvalidTextError, Reader, Utf8Reader, is_utf8
from etl.ingestion.sources.naming import PASSED_BY
from etl.ingestion.sources.recognition import compression_of, encoding_of, line_feeds
from etl.ingestion.values import Member, Source
from etl.settings import RetrySettings

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

log = structlog.get_logger(__name__)

_AWAITED_SECONDS = 1.0
"""A named pipe that waits longer for its writer is reported."""

_DEFAULT_RETRIES = RetrySettings(
    attempts=constants.RETRY_ATTEMPTS,
    base_seconds=constants.RETRY_BASE_SECONDS,
    cap_seconds=constants.RETRY_CAP_SECONDS,
)

_LONGEST_MARK = 4

_BULK = re.compile(rb'\s*+(?:\xef\xbb\xbf)?\s*+\{\s*+"(?:index|create|update|delete)"')
"""The beginning of a source for Elasticsearch's bulk API, perhaps. White space is never looked at twice."""

_GET_AGAIN = "get the file again and run the same command; loaded records are not loaded twice"


class SourceChangedError(Exception):
    """The source changed since it was opened."""


class Stream:
    """The content of a source, decompressed and as UTF-8, read once from the front.

    `position` counts the bytes given out. `head` are the first bytes, at most HEAD_BYTES.
    `is_idle`: the last read of a pipe gave fewer bytes than asked for, because none came for long.
    `size` is the number of bytes as stored, or None if it is unknown. `is_repeatable`: the source can be opened again.
    `waits`: a read may take long, as from a pipe or a network; `waited` are the seconds that its reads took so far.
    `encoding` is the encoding of the stored text. `version` changes when the content of a file changes; it is None
    where that cannot be seen.
    """

    def __init__(
        self,
        source: Source,
        raw: BufferedReader,
        size: int | None,
        check_unchanged: Callable[[], None] | None = None,
        version: Hashable | None = None,
    ) -> None:
        self.source = source
        self.version = version
        self.position = 0
        self.size = size
        self.is_repeatable = check_unchanged is not None
        self.waits = source.path is None or not self.is_repeatable
        self.waited = 0.0
        self.encoding = "utf-8"
        self._check_unchanged = check_unchanged
        self._count = 0
        self._translation: bytes | None = None
        self._fault: SourceError | None = None
        self._is_as_stored = True
        self._raw = raw
        self.is_idle = False
        self._pipe: Pausing | None = None
        self._bytes = self._text(self._content(raw))
        if isinstance(raw.raw, Pausing) and self._is_as_stored:  # A decoder would take a pause for the end.
            self._pipe = raw.raw
            self._pipe.begin_to_linger()
        self.head = self._fill(HEAD_BYTES)
        if _BULK.match(self.head):
            self._join_actions()
        self._translation = line_feeds(self.head)
        if self._translation:
            self.head = self.head.translate(self._translation)
        self._ahead = self.head

    @property
    def plain_path(self) -> str | None:
        """The path of a file whose bytes can be read again at any offset, or None."""
        is_plain = self.is_repeatable and self._is_as_stored and not self._translation and not self.source.member
        return self.source.path if is_plain else None

    @property
    def public_url(self) -> str | None:
        """The URL of an object or a file whose bytes are the content and that holds no secret, or None.

        A user before the host, or a query, may be a secret. A server of HTTP need not send ranges.
        """
        url = self.source.url
        if url is None or not (self._is_as_stored and self.is_repeatable) or self._translation or self.source.member:
            return None
        from etl.ingestion.sources import remote  # noqa: PLC0415 - as for opening a URL

        return url if remote.printable(url) == url else None

    @property
    def time_ns(self) -> int | None:
        """The time of the last change of a file, in nanoseconds; None for everything else."""
        return self.version[3] if isinstance(self.version, tuple) else None

    @property
    def stored_position(self) -> int:
        """The number of bytes read of the source as stored; of a stream without a size, of its content."""
        # Not from the buffer: it holds its lock while it waits for bytes, and this may be another thread.
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

    def _join_actions(self) -> None:
        """Read each action with its document as one record, if the source is made of these."""
        from etl.ingestion.sources import bulk  # noqa: PLC0415 - few sources are

        if not bulk.is_bulk(self.head):
            return
        pipe, self._is_as_stored = self._pipe, False
        self._bytes = bulk.BulkReader(
            _HeadedReader(self.head, self._bytes, self._fault), lambda: pipe is not None and pipe.has_lingered
        )
        self._count, self._fault = 0, None
        self.head = self._fill(HEAD_BYTES)

    def _content(self, raw: BufferedReader) -> Reader:
        compression = compression_of(raw.peek(MAGIC_BYTES))
        if compression is None:
            return raw
        from etl.ingestion.sources.compression import ArchiveError, decompressed  # noqa: PLC0415 - many sources are plain

        self._is_as_stored = False
        try:
            return decompressed(raw, compression)
        except ArchiveError as error:
            raise SourceError(
                f"{self.source.name}: {error}",
                hint="unpack the file that is meant to standard input: unzip -p FILE MEMBER | etl load DATASET -",
            ) from None
        except EOFError:
            raise self._fault_here("the compressed data ends too early") from None

    def _text(self, content: Reader) -> Reader:
        if self.source.encoding != "auto":
            if is_utf8(self.source.encoding):
                return content
            self.encoding = self.source.encoding
            self._is_as_stored = False
            return Utf8Reader(content, self.source.encoding, mark=0)
        reader = _PeekedReader(content)
        encoding = encoding_of(reader.peeked)
        if encoding is None:
            return reader
        self.encoding = encoding.name
        self._is_as_stored = False
        return Utf8Reader(reader, encoding.name, encoding.mark)

    def _fill(self, size: int) -> bytes:
        """Read until there are `size` bytes, or some and then none for long; a fault is kept until after the bytes."""
        self.is_idle = False
        parts = []
        length = 0
        try:
            while length < size and not self._fault:
                data = self._read(size - length)
                parts.append(data)
                length += len(data)
                if data:
                    continue
                has_lingered = self._pipe is not None and self._pipe.take_lingered()
                self.is_idle = has_lingered and length > 0
                if not has_lingered or length:
                    break
        except SourceError as error:
            self._fault = error
        data = b"".join(parts)
        return data.translate(self._translation) if self._translation else data

    def _read(self, size: int) -> bytes:
        try:
            begun = time.monotonic()
            # read1 returns the bytes that there are; read would lose them when the compressed data ends too early.
            data = self._bytes.read1(size) or b""
            self.waited += time.monotonic() - begun if self.waits else 0.0
            if not data and self._check_unchanged:
                self._check_unchanged()
        except EOFError:
            raise self._fault_here("the compressed data ends too early") from None
        except _damage_errors():
            raise self._fault_here("the compressed data is damaged") from None
        except InvalidTextError as error:
            raise self._fault_here(
                f"invalid {self.encoding} at byte {error.position} of the file",
                hint="--encoding names another encoding",
            ) from None
        except SourceChangedError:
            raise self._fault_here("the file changed while it was read") from None
        except OSError as error:
            # bz2 reports damage by an OSError without an error of the system.
            raise self._fault_here((error.strerror or "the compressed data is damaged").lower()) from error
        self._count += len(data)
        return data

    def _fault_here(self, reason: str, hint: str = _GET_AGAIN) -> SourceError:
        return SourceError(f"{self.source.name}: {reason}, at byte {self._count} of its content", hint=hint)


class _PeekedReader:
    """A reader whose first bytes are known before they are read; a fault after them is raised after they were read."""

    def __init__(self, reader: Reader) -> None:
        self.peeked = b""
        self._reader = reader
        self._fault: Exception | None = None
        try:
            while len(self.peeked) < _LONGEST_MARK and (data := reader.read1(READ_BYTES)):
                self.peeked += data
        except Exception as error:  # noqa: BLE001 - raised by read1, after the bytes before it
            self._fault = error

    def read1(self, size: int, /) -> bytes:
        """Return at most `size` bytes; no bytes at the end."""
        if self.peeked:
            data, self.peeked = self.peeked[:size], self.peeked[size:]
            return data
        if self._fault:
            raise self._fault
        return self._reader.read1(size)


class _HeadedReader:
    """The bytes that were read already, then their fault, or those of a reader."""

    def __init__(self, head: bytes, reader: Reader, fault: Exception | None) -> None:
        self._head, self._reader, self._fault = head, reader, fault

    def read1(self, size: int, /) -> bytes:
        """Return at most `size` bytes; no bytes at the end."""
        if self._head:
            data, self._head = self._head[:size], self._head[size:]
            return data
        if self._fault:
            raise self._fault
        return self._reader.read1(size) or b""


class Pausing(RawIOBase):
    """Bytes that come with pauses.

    After `begin_to_linger`, a read that gets no byte for some time gives nothing, and `take_lingered` says so: it is
    not the end.
    """

    def __init__(self) -> None:
        self._may_linger = False
        self._has_lingered = False

    def readable(self) -> bool:
        """Return that it can be read."""
        return True

    def begin_to_linger(self) -> None:
        """Let reads give nothing after a pause from now on."""
        self._may_linger = True

    @property
    def has_lingered(self) -> bool:
        """Whether the last read gave nothing because no byte came for long."""
        return self._has_lingered

    def take_lingered(self) -> bool:
        """Return whether the last read gave nothing because no byte came for long."""
        has_lingered, self._has_lingered = self._has_lingered, False
        return has_lingered


class _Pipe(Pausing):
    """The bytes of a pipe as they come; the first `size` bytes come together, so that magic numbers are recognised.

    A pause is `linger` seconds long.
    """

    def __init__(self, stream: BufferedReader, size: int, linger: float | None) -> None:
        super().__init__()
        self._stream = stream  # It closes the pipe when nothing refers to it.
        # Without a buffer between: nobody would wait for bytes that are in it.
        self._raw = cast(RawIOBase, stream.raw)
        # An object that a program has put in the place of the standard input may be no file of the system.
        self._linger = linger if _has_descriptor(self._raw) else None
        self._begin = b""
        while len(self._begin) < size and (data := self._raw.read(size - len(self._begin))):
            self._begin += data

    def readinto(self, buffer: "WriteableBuffer") -> int | None:
        view = memoryview(buffer).cast("B")
        begin, self._begin = self._begin[: len(view)], self._begin[len(view) :]
        view[: len(begin)] = begin
        if begin:
            return len(begin)
        if self._may_linger and self._linger is not None and not self._has_bytes(self._linger):
            self._has_lingered = True
            return None
        return self._raw.readinto(view)

    def _has_bytes(self, seconds: float) -> bool:
        """Wait for bytes or for the end."""
        waiting = select.poll()
        waiting.register(self._raw.fileno(), select.POLLIN)
        return bool(waiting.poll(1000 * seconds))


def _has_descriptor(raw: RawIOBase) -> bool:
    try:
        return raw.fileno() >= 0
    except OSError:
        return False


@contextmanager
def opened(source: Source, retries: RetrySettings = _DEFAULT_RETRIES, linger: float | None = None) -> Iterator[Stream]:
    """Open a source for one pass; an interrupted transfer over the network is retried.

    A read of a pipe gives fewer bytes than it is asked for when none came for `linger` seconds.

    Raises SourceError when the source does not exist or cannot be read.
    """
    if source.url is not None:
        from etl.ingestion.sources import remote  # noqa: PLC0415 - its modules would slow down the start of all others

        download = remote.open_url(source.url, retries)
        with closing(download.raw):
            yield Stream(source, download.raw, download.size, download.check_unchanged)
        return
    if source.path is None:
        if source.given is not None:
            yield Stream(source, BufferedReader(source.given), None)
        else:
            stdin = cast(BufferedReader, sys.stdin.buffer)
            yield Stream(source, BufferedReader(_Pipe(stdin, MAGIC_BYTES, linger)), None)
        return
    with ExitStack() as stack:
        try:
            _require_file(Path(source.path), source.name)
            file = stack.enter_context(_file(Path(source.path), source.name))
            before = os.fstat(file.fileno())
            if stat.S_ISREG(before.st_mode):
                version = (before.st_dev, before.st_ino, before.st_size, before.st_mtime_ns, source.member)
                content, size = (file, before.st_size) if source.member is None else _member(source, file)
                stream = Stream(source, content, size, lambda: _compare(file, before), version)
            else:  # A pipe has no size, and its bytes cannot be read a second time.
                stream = Stream(source, BufferedReader(_Pipe(file, MAGIC_BYTES, linger)), None)
        except OSError as error:
            raise _unreadable(source, error) from error
        yield stream


def _damage_errors() -> tuple[type[Exception], ...]:
    from etl.ingestion.sources.compression import DAMAGE_ERRORS  # noqa: PLC0415 - many sources are plain

    return DAMAGE_ERRORS


def _member(source: Source, file: BufferedReader) -> tuple[BufferedReader, int]:
    """Return the bytes of a file in an archive, and their number."""
    from etl.ingestion.sources import archives  # noqa: PLC0415 - most sources are in no archive
    from etl.ingestion.sources.compression import DAMAGE_ERRORS, ArchiveError  # noqa: PLC0415 - the same

    member = cast(Member, source.member)
    try:
        return archives.opened(file, member), member.size
    except ArchiveError as error:
        raise SourceError(f"{source.name}: {error}", hint=_GET_AGAIN) from None
    except (EOFError, *DAMAGE_ERRORS):
        raise SourceError(f"{source.name}: the archive is cut off or damaged", hint=_GET_AGAIN) from None


def _unreadable(source: Source, error: OSError) -> SourceError:
    if isinstance(error, FileNotFoundError) and glob.has_magic(source.name):
        return SourceError(
            f"no file matches the pattern {source.name}",
            hint=f"check the folder and the pattern; {PASSED_BY}",
        )
    return SourceError(f"cannot read {source.name}: {reason_of(error)}", hint="check the path and the right to read it")


def _file(path: Path, name: str) -> BufferedReader:
    """Open a file; log that a named pipe waits for the program that writes into it."""
    if not path.is_fifo():
        return path.open("rb")
    report = Timer(_AWAITED_SECONDS, log.info, ["source_awaited"], {"source": name, "reason": "nobody writes into it"})
    report.daemon = True
    report.start()
    try:
        return path.open("rb")
    finally:
        report.cancel()


def _require_file(path: Path, name: str) -> None:
    """Raise SourceError for a folder without files, OSError for a folder that cannot be listed."""
    if path.is_dir():
        next(path.iterdir(), None)
        raise SourceError(f"the folder {name} holds no file", hint=PASSED_BY)


def _compare(file: BufferedReader, before: os.stat_result) -> None:
    now = os.fstat(file.fileno())
    if (now.st_size, now.st_mtime_ns) != (before.st_size, before.st_mtime_ns):
        raise SourceChangedError
