"""Files of the failed store on disk: complete or absent, and private to their owner."""

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import msgspec


def write_json(path: Path, document: Mapping[str, Any]) -> None:
    """Write a JSON document that people can read; it is complete or absent."""
    write_file(path, [msgspec.json.format(msgspec.json.encode(document)), b"\n"])


def write_file(path: Path, parts: Iterable[bytes]) -> None:
    """Write a file by renaming a temporary one: after a crash it is complete or absent."""
    temporary = path.with_name(f".{path.name}.tmp")
    with open(temporary, "wb", opener=open_private) as file:
        file.writelines(parts)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def make_folder(folder: Path) -> None:
    """Make a folder if there is none: private to its owner whatever the umask, and flushed to the disk."""
    try:
        folder.mkdir(mode=0o700)
    except FileExistsError:
        return
    folder.chmod(0o700)
    flush_folder(folder.parent)


def open_private(path: str, flags: int) -> int:
    """Open a file that only its owner may read and write; an opener for `open`."""
    descriptor = os.open(path, flags, 0o600)
    os.fchmod(descriptor, 0o600)  # The umask may be stricter; a file that a crash left may be wider.
    return descriptor


def flush_folder(folder: Path) -> None:
    """Flush the entries of a folder to the disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
