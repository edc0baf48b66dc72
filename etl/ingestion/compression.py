"""Compressed bytes -> bytes, by what they begin with and whatever the name. Knows no source and no JSON."""

import bz2
import gzip
import lzma
import sys
import zipfile
import zlib
from collections.abc import Callable
from io import BufferedReader
from typing import Any, Protocol, cast

from etl.ingestion.recognition import Compression

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


DAMAGED = (zlib.error, lzma.LZMAError, zstd.ZstdError, gzip.BadGzipFile, zipfile.BadZipFile)
"""What readers raise for damaged data; EOFError tells that it ends too early. bz2 raises a bare OSError."""


def decompressed(raw: BufferedReader, compression: Compression) -> Reader:
    """Return what reads the content of compressed data; several gzip members or zstd frames are one content.

    Raises Unreadable for a zip archive that does not hold one file in the open.
    """
    openers: dict[Compression, Callable[[Any], Any]] = {
        "gzip": gzip.open,
        "bzip2": bz2.open,
        "xz": lzma.open,
        "zstd": zstd.open,
        "zip": _only_member,
    }
    return cast(Reader, openers[compression](raw))


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
