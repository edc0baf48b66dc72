"""Path or standard input -> decompressed bytes, and what is known of the content before it is read."""

import bz2
import glob
import gzip
import lzma
import os
import stat
import sys
import zlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from io import BufferedReader, RawIOBase
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, cast

from etl.errors import SourceError, UsageError
from etl.ingestion.constants import COMPRESSED, HEAD_BYTES, READ_BYTES
from etl.ingestion.values import Source

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

_MAGIC: dict[bytes, Any] = dict(zip(COMPRESSED, (gzip.open, bz2.open, lzma.open), strict=True))
_MAGIC_BYTES = 8


class Stream:
    """The decompressed bytes of a source, read once from the front. `position` counts the bytes given out.

    `head` are its first bytes, at most HEAD_BYTES, which identify it; `size` the bytes as stored, None for a stream
    that cannot be read again.
    """

    def __init__(self, source: Source, raw: BufferedReader, before: os.stat_result | None) -> None:
        self.source = source
        self.position = 0
        self.size = before.st_size if before else None
        self._raw = raw
        self._before = before
        magic = raw.peek(_MAGIC_BYTES)
        self._is_compressed = magic.startswith(COMPRESSED)
        opener = next((opener for start, opener in _MAGIC.items() if magic.startswith(start)), None)
        self._bytes: IO[bytes] = opener(raw) if opener else raw
        self._count = 0
        self._fault: SourceError | None = None
        self.head = self._ahead = self._fill(HEAD_BYTES)

    @property
    def plain_path(self) -> str | None:
        """The path at which its bytes can be read again at any offset, or None."""
        return self.source.path if self.size is not None and not self._is_compressed else None

    def read(self, size: int = READ_BYTES) -> bytes:
        """Return `size` bytes, fewer at the end or before a fault.

        Raises SourceError when the file cannot be read or decompressed, or changed since it was opened.
        """
        if self._ahead:
            data, self._ahead = self._ahead[:size], self._ahead[size:]
        else:
            data = self._fill(size)
        if not data and self._fault:
            raise self._fault
        self.position += len(data)
        return data

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
        return b"".join(parts)

    def _read(self, size: int) -> bytes:
        try:
            # read1 gives what there is; read would lose it when the compressed data breaks off behind.
            data: bytes = self._bytes.read1(size)  # type: ignore[attr-defined] # all of them have it
        except EOFError:
            raise self._broken("the compressed data ends too early") from None
        except (zlib.error, lzma.LZMAError, gzip.BadGzipFile):
            raise self._broken("the compressed data is damaged") from None
        except OSError as error:
            # bz2 tells damage by an OSError that names no error of the system.
            raise self._broken((error.strerror or "the compressed data is damaged").lower()) from error
        if not data:
            self._check_unchanged()
        self._count += len(data)
        return data

    def _check_unchanged(self) -> None:
        if self._before is None:
            return
        now = os.fstat(self._raw.fileno())
        if (now.st_size, now.st_mtime_ns) != (self._before.st_size, self._before.st_mtime_ns):
            raise self._broken("the file changed while it was read")

    def _broken(self, what: str) -> SourceError:
        return SourceError(
            f"{self.source.name}: {what}, at byte {self._count} of its content",
            hint="get the file again and run the same command; what is in is not loaded twice",
        )


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
def opened(source: Source) -> Iterator[Stream]:
    """Open a source for one pass.

    Raises SourceError when there is no such file or it cannot be read.
    """
    if source.path is None:
        yield Stream(source, _awaited(cast(BufferedReader, sys.stdin.buffer)), None)
        return
    if Path(source.path).is_dir():
        raise SourceError(f"the folder {source.name} holds no file", hint="hidden, .part and .tmp files do not count")
    with ExitStack() as stack:
        try:
            file = stack.enter_context(Path(source.path).open("rb"))
            before = os.fstat(file.fileno())
            if stat.S_ISREG(before.st_mode):
                stream = Stream(source, file, before)
            else:  # A pipe has no size, and what it gives cannot be read a second time.
                stream = Stream(source, _awaited(file), None)
        except OSError as error:
            raise SourceError(
                f"cannot read {source.name}: {(error.strerror or 'unknown error').lower()}",
                hint="check the path and the right to read it",
            ) from error
        yield stream


def _awaited(stream: BufferedReader) -> BufferedReader:
    return BufferedReader(_Awaited(stream, _MAGIC_BYTES))


def named(argument: str) -> list[Source]:
    """Return the sources that a command line argument names: a path, a glob, a folder, or `-` for standard input.

    Of a folder all files but hidden and unfinished ones, sorted; what matches nothing is kept as a path, so that
    its absence is told.
    """
    if not argument:
        raise UsageError("a source has no name", hint="is a variable of the calling script empty?")
    if argument == "-":
        return [Source(name="-", path=None)]
    path = Path(argument)
    if path.is_dir():
        found = sorted(str(entry) for entry in path.iterdir() if entry.is_file() and _is_finished(entry))
        return [Source(name=name, path=name) for name in found or [argument]]
    if not path.exists() and (found := sorted(glob.glob(argument))):  # noqa: PTH207 - a pattern may be absolute
        return [Source(name=name, path=name) for name in found]
    return [Source(name=argument, path=argument)]


def _is_finished(path: Path) -> bool:
    return not path.name.startswith(".") and path.suffix not in {".part", ".tmp"}
