"""Where an export is written: a folder of this machine, or of an object store. Each file is complete or absent.

Knows no table and no format. A file in a folder gets its name when all files are complete.
"""

import fcntl
import os
import re
import shutil
import socket
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Protocol

from etl.errors import BusyError, UsageError, cannot_write, reason_of
from etl.exporting.manifest import NAME

_UNFINISHED = ".unfinished"
_LOCK = ".etl-export.lock"
SPOOL = ".etl-export-"
"""The beginning of the names of folders for files that are not complete."""
OWN = re.compile(
    r"\d{8}T\d{6}Z-[0-9a-f]{6}(-\d+)?\.(parquet|arrow|csv|duckdb)(\.unfinished)?|manifest\.json\.unfinished"
)
"""The names of files that exports write: nothing else is ever removed."""


class Place(Protocol):
    """A place of exports: its name in messages, and one that differs from those of all other places."""

    name: str
    identity: str
    filesystem: Any

    def held(self) -> Any:
        """Give the context in which no other export writes to the place."""

    def manifest(self) -> bytes | None:
        """Return the manifest, or None without one."""

    def begun(self, name: str) -> Path:
        """Return the path on this machine at which a file is to be written."""

    def completed(self, name: str) -> None:
        """Take a file that is complete."""

    def published(self, names: Iterable[str]) -> None:
        """Let all completed files have their names."""

    def write_manifest(self, text: bytes) -> None:
        """Replace the manifest."""

    def remove_all_but(self, names: Iterable[str]) -> None:
        """Remove the files of exports that have other names."""

    def sizes(self) -> Mapping[str, int]:
        """Return the bytes of all files by name."""

    def address(self, name: str) -> str:
        """Return the address of a file, as DuckDB opens it."""


def place_of(argument: str) -> Place:
    """Return the place that an argument names: a folder, or the URL of a folder in an object store.

    Raises UsageError when the driver of the URL is not installed.
    """
    if not argument:
        raise UsageError("expected a folder or a URL, got an empty name")
    if "://" in argument:
        from etl.exporting import stores  # noqa: PLC0415 - it imports the protocols, which takes as long as psycopg

        if stores.is_url(argument):
            return stores.store_of(argument)
    return Folder(Path(argument))


class Folder:
    """A folder of this machine."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.name = str(path)
        self.filesystem = None
        self.identity = f"{socket.gethostname()}:{path.resolve()}"

    @contextmanager
    def held(self) -> Iterator[None]:
        """Hold the lock of the folder, which is made where it is missing.

        Raises BusyError when another export holds it, UsageError or OutputError when it cannot be written.
        """
        with self._writing():
            self.path.mkdir(parents=True, exist_ok=True)
            lock = os.open(self.path / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise BusyError(f"another export writes to {self.name}", hint="wait for its end") from None
            for left in self.path.glob(f"{SPOOL}*/"):  # by a killed export
                shutil.rmtree(left, ignore_errors=True)
            yield
        finally:
            os.close(lock)

    def manifest(self) -> bytes | None:
        """Return the manifest, or None without one."""
        try:
            return (self.path / NAME).read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise UsageError(f"cannot read {self.path / NAME}: {reason_of(error)}") from error

    def begun(self, name: str) -> Path:
        """Return the path under the temporary name."""
        return self.path / (name + _UNFINISHED)

    def completed(self, name: str) -> None:
        """Keep the file under its temporary name."""

    def published(self, names: Iterable[str]) -> None:
        """Give all files their names."""
        folders = {self.path}
        with self._writing():
            for name in names:
                path = self.path / name
                self.begun(name).replace(path)
                folders |= {parent for parent in path.parents if parent.is_relative_to(self.path)}
            for folder in folders:
                _sync(folder)

    def write_manifest(self, text: bytes) -> None:
        """Replace the manifest."""
        unfinished = self.begun(NAME)
        with self._writing():
            with unfinished.open("wb") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            unfinished.replace(self.path / NAME)
            _sync(self.path)

    def remove_all_but(self, names: Iterable[str]) -> None:
        """Remove the files of exports that have other names, and the folders that are empty then."""
        kept = set(names)
        for path in [*self.path.glob("*"), *self.path.glob("*/*"), *self.path.glob("*/*/*")]:
            name = path.relative_to(self.path).as_posix()
            if name not in kept and OWN.fullmatch(path.name):
                with self._writing():
                    path.unlink(missing_ok=True)
                for folder in (path.parent, path.parent.parent):
                    if folder != self.path and folder.is_relative_to(self.path):
                        with suppress(OSError):  # it holds other files
                            folder.rmdir()

    def sizes(self) -> dict[str, int]:
        """Return the bytes of all files by name."""
        files = [path for path in self.path.rglob("*") if path.is_file()]
        return {path.relative_to(self.path).as_posix(): path.stat().st_size for path in files}

    def address(self, name: str) -> str:
        """Return the path of a file."""
        return str(self.path / name)

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise cannot_write(self.name, error) from error


def _sync(folder: Path) -> None:
    """Write the names in a folder to the disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
