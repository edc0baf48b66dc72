"""The files in an archive, tar (also compressed) or zip: each is a source of its own, named `archive!member`."""

import os
import tarfile
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from io import BufferedReader, RawIOBase
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol, cast

from etl.errors import SourceError
from etl.ingestion.constants import MAGIC_BYTES, READ_BYTES
from etl.ingestion.sources.compression import DAMAGE_ERRORS, ArchiveError, decompressed
from etl.ingestion.sources.recognition import TAR_BLOCK_BYTES, compression_of, is_tar
from etl.ingestion.values import Member, Source

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

SEPARATOR: Final = "!"
"""Between the name of an archive and that of a file in it."""


class _Bytes(Protocol):
    def read1(self, size: int, /) -> bytes: ...


def members(source: Source) -> list[Source]:
    """Return the files in an archive as sources, in their order; none for a file that is no archive of several files.

    Raises SourceError for an archive that is cut off or damaged.
    """
    path = Path(source.path or "")  # A source without a path cannot be opened, and is no archive.
    try:
        with path.open("rb") as file:
            compression = compression_of(file.peek(MAGIC_BYTES))
            found = _of_zip(file) if compression == "zip" else _of_tar(path, file)
    except (EOFError, tarfile.TarError, *DAMAGE_ERRORS):
        raise SourceError(
            f"{source.name}: the archive is cut off or damaged", hint="get the file again and run the same command"
        ) from None
    except (ArchiveError, OSError):
        return []  # Opening it as a source reports why.
    return [replace(source, name=f"{source.name}{SEPARATOR}{each.name}", member=each) for each in found]


def member_of(source: Source) -> Source | None:
    """Return the file in an archive that a name such as `archive.zip!a.json` means; None if it means none."""
    name = source.path or ""
    at = name.find(SEPARATOR)
    while at >= 0:
        if os.path.isfile(name[:at]):  # noqa: PTH113 - False also for a name that is too long
            archive = replace(source, name=source.name[: source.name.find(SEPARATOR)], path=name[:at])
            found = {each.member.name: each for each in members(archive) if each.member}
            wanted = found.get(name[at + 1 :])
            return None if wanted is None else replace(wanted, name=source.name)
        at = name.find(SEPARATOR, at + 1)
    return None


def _of_zip(file: BufferedReader) -> list[Member]:
    try:
        archive = zipfile.ZipFile(file)
    except zipfile.BadZipFile:
        return []  # Opening it as a source reports that its end is missing.
    listed = [info for info in archive.infolist() if not info.is_dir()]
    found = [Member(name=info.filename, size=info.file_size) for info in listed]
    return found if len(found) > 1 else []


def _of_tar(path: Path, file: BufferedReader) -> list[Member]:
    compression = compression_of(file.peek(MAGIC_BYTES))
    content: _Bytes = file if compression is None else decompressed(file, compression)
    try:
        first = _read(content, TAR_BLOCK_BYTES)
    except (EOFError, *DAMAGE_ERRORS):
        return []  # Opening it as a source reports the damage; nothing says that it is an archive.
    if not is_tar(first):
        return []
    if compression is None:
        with tarfile.open(path, "r:") as archive:
            found = list(_regular(archive))
            file.seek(archive.offset)  # where the list ended
        if _read(file, TAR_BLOCK_BYTES) != bytes(TAR_BLOCK_BYTES):
            raise EOFError  # The list of a tar archive ends with a block of zeros.
        return found
    with tarfile.open(fileobj=_Whole(first, content), mode="r|") as archive:  # type: ignore[call-overload] # it reads
        return list(_regular(archive))


def _regular(archive: tarfile.TarFile) -> Iterator[Member]:
    for info in archive:
        if info.isreg():
            yield Member(name=info.name, size=info.size, offset=info.offset_data)


class _Whole:
    """Reads whole sizes of a content whose beginning was read."""

    def __init__(self, begin: bytes, content: _Bytes) -> None:
        self._begin = begin
        self._content = content

    def read(self, size: int) -> bytes:
        begin, self._begin = self._begin[:size], self._begin[size:]
        return begin + _read(self._content, size - len(begin))


def _read(content: _Bytes, size: int) -> bytes:
    """Return `size` bytes, fewer at the end."""
    parts = []
    while size > 0 and (data := content.read1(min(size, READ_BYTES))):
        parts.append(data)
        size -= len(data)
    return b"".join(parts)


def opened(file: BufferedReader, member: Member) -> BufferedReader:
    """Return the bytes of a file in an archive.

    Raises ArchiveError for a file that cannot be read, EOFError for an archive that is cut off.
    """
    if member.offset is None:
        return _of_zip_member(file, member)
    compression = compression_of(file.peek(MAGIC_BYTES))
    if compression is None:
        file.seek(member.offset)
        return BufferedReader(_Part(file, member.size))
    content = decompressed(file, compression)
    left = member.offset
    while left and (data := content.read1(min(left, READ_BYTES))):
        left -= len(data)
    return BufferedReader(_Part(content, member.size))


def _of_zip_member(file: BufferedReader, member: Member) -> BufferedReader:
    try:
        content = zipfile.ZipFile(file).open(member.name)  # noqa: SIM115 - it is read after this function
    except zipfile.BadZipFile:
        raise EOFError from None
    except (RuntimeError, NotImplementedError):
        raise ArchiveError("the zip archive is encrypted, or its compression method is unknown") from None
    except KeyError:
        raise ArchiveError("the archive does not hold the file any more") from None
    return BufferedReader(_Part(cast(_Bytes, content), member.size))


class _Part(RawIOBase):
    """So many of the next bytes of a content; the content must not end before."""

    def __init__(self, content: _Bytes, size: int) -> None:
        self._content = content
        self._left = size
        self._position = 0

    def readable(self) -> bool:
        """Return True."""
        return True

    def tell(self) -> int:
        """Return how many bytes were read."""
        return self._position

    def readinto(self, buffer: "WriteableBuffer") -> int:
        """Read some bytes.

        Raises EOFError when the content ends too early.
        """
        view = memoryview(buffer).cast("B")
        data = self._content.read1(min(len(view), self._left)) if self._left else b""
        if self._left and not data:
            raise EOFError
        view[: len(data)] = data
        self._left -= len(data)
        self._position += len(data)
        return len(data)
