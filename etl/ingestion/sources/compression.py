"""Compressed bytes -> bytes, by their first bytes and not by the name of the file. Knows no source and no JSON."""

import bz2
import lzma
import sys
import zipfile
from collections.abc import Callable
from io import BufferedReader
from typing import Any, cast

from zlib_ng import zlib_ng

from etl.ingestion.constants import READ_BYTES
from etl.ingestion.sources.encodings import Reader
from etl.ingestion.sources.recognition import Compression

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd


class ArchiveError(ValueError):
    """An archive that is no single compressed file; the message says why."""


_GzipError = cast(type[Exception], zlib_ng.error)  # Its stub declares an instance instead of the class.

DAMAGE_ERRORS = (_GzipError, lzma.LZMAError, zstd.ZstdError, zipfile.BadZipFile)
"""The errors of readers for damaged data. EOFError means that the data ends too early; bz2 raises a bare OSError."""


def decompressed(raw: BufferedReader, compression: Compression) -> Reader:
    """Return a reader of the content of compressed data; several gzip members or zstd frames are one content.

    Raises ArchiveError for a zip archive that does not hold exactly one readable file, EOFError for a zip archive that
    is cut off.
    """
    openers: dict[Compression, Callable[[Any], Any]] = {
        "gzip": _Gzip,
        "bzip2": bz2.open,
        "xz": lzma.open,
        "zstd": zstd.open,
        "zip": _only_member,
    }
    return cast(Reader, openers[compression](raw))


class _Gzip:
    """Reads the content of gzip data (RFC 1952), member after member; zeros after a member are skipped, as gzip does.

    zlib-ng takes less than half of the time of the standard library.
    """

    _WITH_HEADER = 31  # zlib's window bits for data with gzip's header and checksum

    def __init__(self, raw: BufferedReader) -> None:
        self._raw = raw
        self._most = READ_BYTES
        self._is_begun = False
        self._output_bytes = 0
        self._is_full = False
        self._data = b""
        self._begin(zlib_ng.decompressobj(self._WITH_HEADER), b"")

    def read1(self, size: int, /) -> bytes:
        """Return at most `size` bytes; no bytes at the end.

        Raises EOFError when the data ends too early, one of DAMAGE_ERRORS after the last readable byte.
        """
        while self._is_full or self._data or self._has_more():
            most = min(size, self._most)
            try:
                content: bytes = self._member.decompress(self._data, most)
            except _GzipError:
                if most == 1:
                    raise
                self._most = max(1, most // 16)
                self._go_back()
                continue
            self._output_bytes += len(content)
            self._is_full = len(content) == most
            self._data = self._member.unconsumed_tail
            if self._member.eof:
                self._is_begun = False
                self._begin(zlib_ng.decompressobj(self._WITH_HEADER), self._member.unused_data)
            if content:
                return content
        return b""

    def _begin(self, member: Any, data: bytes) -> None:
        """Continue a member with this data, and keep a copy of it, because a fault loses the content of its call."""
        self._member, self._before = member, member.copy()
        self._data = self._chunk = data if self._is_begun else data.lstrip(b"\0")
        self._is_begun |= bool(self._data)
        self._output_bytes = 0
        self._is_full = False

    def _go_back(self) -> None:
        """Return to the position after the bytes that were given out."""
        self._member, self._data = self._before.copy(), self._chunk
        remaining = self._output_bytes
        while remaining:
            remaining -= len(self._member.decompress(self._data, remaining))
            self._data = self._member.unconsumed_tail

    def _has_more(self) -> bool:
        """Read data for the next call; False at the end."""
        while data := self._raw.read1(READ_BYTES):
            self._begin(self._member, data)
            if self._data:
                return True
        if self._is_begun:
            raise EOFError
        return False


def _only_member(raw: BufferedReader) -> Reader:
    if not raw.seekable():
        raise ArchiveError("a zip archive has its table of contents at its end, and cannot be read from a stream")
    try:
        archive = zipfile.ZipFile(raw)
    except zipfile.BadZipFile:
        raise EOFError from None  # The table of contents at the end of the archive is missing.
    members = [member for member in archive.infolist() if not member.is_dir()]
    if len(members) != 1:
        raise ArchiveError(f"expected a zip archive with one file, got {len(members)}")
    try:
        return cast(Reader, archive.open(members[0]))
    except (RuntimeError, NotImplementedError):
        raise ArchiveError("the zip archive is encrypted, or its compression method is unknown") from None
