"""Compressed bytes -> bytes, by what they begin with and whatever the name. Knows no source and no JSON."""

import bz2
import lzma
import sys
import zipfile
from collections.abc import Callable
from io import BufferedReader
from typing import Any, Protocol, cast

from zlib_ng import zlib_ng

from etl.ingestion.constants import READ_BYTES
from etl.ingestion.sources.recognition import Compression

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd


class Reader(Protocol):
    """What gives bytes from the front."""

    def read1(self, size: int, /) -> bytes:
        """Return at most `size` bytes, as soon as there are some; none at the end."""


class Unreadable(ValueError):
    """An archive that is no single compressed file; the message says why, and what can be done."""


_GzipDamaged = cast(type[Exception], zlib_ng.error)  # its stub takes the class for one of its exceptions

DAMAGED = (_GzipDamaged, lzma.LZMAError, zstd.ZstdError, zipfile.BadZipFile)
"""What readers raise for damaged data; EOFError tells that it ends too early. bz2 raises a bare OSError."""


def decompressed(raw: BufferedReader, compression: Compression) -> Reader:
    """Return what reads the content of compressed data; several gzip members or zstd frames are one content.

    Raises Unreadable for a zip archive that does not hold one file in the open.
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
    """The content of gzip data (RFC 1952), member after member; zeros behind one are passed over, as gzip does.

    zlib-ng takes less than half of the time that the standard library does.
    """

    _WITH_HEADER = 31  # zlib's word for: gzip's header and checksum are read, too

    def __init__(self, raw: BufferedReader) -> None:
        self._raw = raw
        self._most = READ_BYTES
        self._is_begun = False
        self._given = 0
        self._is_full = False
        self._data = b""
        self._begin(zlib_ng.decompressobj(self._WITH_HEADER), b"")

    def read1(self, size: int, /) -> bytes:
        """Return at most `size` bytes; none at the end.

        Raises EOFError when it breaks off, one of DAMAGED behind the last byte that can be had.
        """
        while self._is_full or self._data or self._has_more():
            most = min(size, self._most)
            try:
                found: bytes = self._member.decompress(self._data, most)
            except _GzipDamaged:
                if most == 1:
                    raise
                self._most = max(1, most // 16)
                self._go_back()
                continue
            self._given += len(found)
            self._is_full = len(found) == most
            self._data = self._member.unconsumed_tail
            if self._member.eof:
                self._is_begun = False
                self._begin(zlib_ng.decompressobj(self._WITH_HEADER), self._member.unused_data)
            if found:
                return found
        return b""

    def _begin(self, member: Any, data: bytes) -> None:
        """Go on with a member by this data; what it is now is kept, for a fault loses what was found in its call."""
        self._member, self._before = member, member.copy()
        self._data = self._chunk = data if self._is_begun else data.lstrip(b"\0")
        self._is_begun |= bool(self._data)
        self._given = 0
        self._is_full = False

    def _go_back(self) -> None:
        """Stand again behind what was given."""
        self._member, self._data = self._before.copy(), self._chunk
        left = self._given
        while left:
            left -= len(self._member.decompress(self._data, left))
            self._data = self._member.unconsumed_tail

    def _has_more(self) -> bool:
        """Have data for the next call; False at the end."""
        while data := self._raw.read1(READ_BYTES):
            self._begin(self._member, data)
            if self._data:
                return True
        if self._is_begun:
            raise EOFError
        return False


def _only_member(raw: BufferedReader) -> Reader:
    if not raw.seekable():
        raise Unreadable("the table of contents of a zip archive stands at its end, which a stream does not give first")
    try:
        archive = zipfile.ZipFile(raw)
    except zipfile.BadZipFile:
        raise EOFError from None  # Its table of contents stands at the end.
    members = [member for member in archive.infolist() if not member.is_dir()]
    if len(members) != 1:
        raise Unreadable(f"expected a zip archive with one file, got {len(members)}")
    try:
        return cast(Reader, archive.open(members[0]))
    except (RuntimeError, NotImplementedError):
        raise Unreadable("the zip archive is encrypted, or compressed in a way that is not known") from None
