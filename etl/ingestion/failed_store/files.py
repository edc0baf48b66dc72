"""The files of the failed store: private to their owner, and each complete or absent, whatever ends the process.

They are in a folder, or in an object store.
"""

import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Union

from etl.settings import Url

if TYPE_CHECKING:
    from etl.ingestion.failed_store.objects import ObjectPath

File = Union[Path, "ObjectPath"]
"""A file or a folder of the store."""


def place_of(place: Path | Url) -> File:
    """Return the folder that a failed store was given.

    Raises UsageError for a URL that cannot be one of a failed store.
    """
    if isinstance(place, Path):
        return place
    from etl.ingestion.failed_store.objects import ObjectPath  # noqa: PLC0415 - few stores are there

    return ObjectPath.of(place)


def found(folder: File, pattern: str) -> list[File]:
    """Return the files of a folder that fit a pattern of names, in their order.

    Raises OSError.
    """
    files: Iterator[File] = folder.glob(pattern)
    return sorted(files, key=str)


def beginning(path: File, size: int) -> bytes:
    """Read the first bytes of a file.

    Raises OSError.
    """
    if not isinstance(path, Path):
        return path.beginning(size)
    with path.open("rb") as file:
        return file.read(size)


def write_file(path: File, parts: Iterable[bytes], ending: str) -> None:
    """Write a file: after a crash it is complete or absent, and when this returns it is durable.

    In a folder a temporary file, whose name has the `ending`, is renamed; the folder is not flushed.
    """
    if not isinstance(path, Path):
        path.write_bytes(b"".join(parts))
        return
    temporary = path.with_name(f".{path.name}{ending}")
    with open(temporary, "wb", opener=open_private) as file:
        file.writelines(parts)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def move(path: File, folder: File) -> None:
    """Move a file into a folder, which is made where it is missing."""
    if isinstance(path, Path) and isinstance(folder, Path):
        folder.mkdir(mode=0o700, exist_ok=True)
        path.replace(folder / path.name)
    elif not isinstance(path, Path) and not isinstance(folder, Path):
        path.replace(folder / path.name)


def make_folder(folder: File) -> None:
    """Make a folder if there is none: private to its owner whatever the umask, and flushed to the disk."""
    if not isinstance(folder, Path):
        return
    try:
        folder.mkdir(mode=0o700)
    except FileExistsError:
        return
    folder.chmod(0o700)
    flush_folder(folder.parent)


def remove_if_empty(folder: File) -> None:
    """Remove a folder without files; an object store has none."""
    if isinstance(folder, Path) and not any(folder.iterdir()):
        folder.rmdir()


def open_private(path: str, flags: int) -> int:
    """Open a file that only its owner may read and write; an opener for `open`."""
    descriptor = os.open(path, flags, 0o600)
    os.fchmod(descriptor, 0o600)  # The umask may be stricter; a file that a crash left may be wider.
    return descriptor


def flush_folder(folder: File) -> None:
    """Flush the entries of a folder to the disk."""
    if not isinstance(folder, Path):
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
