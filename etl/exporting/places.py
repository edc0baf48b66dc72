"""Where an export is written: a folder, or a folder of an object store by fsspec. Each file is complete or absent.

Knows no table and no format. A file is written on this machine first. In a folder it gets its name when all files are
complete; an object store shows an upload only when it is complete.
"""

import fcntl
import os
import re
import shutil
import socket
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath
from typing import Any, Protocol

from etl.errors import BusyError, OutputError, UsageError, cannot_write, reason_of
from etl.exporting.manifest import NAME
from etl.ingestion.sources.remote import printable, require_driver, scheme_of
from etl.ingestion.sources.transfers import described, object_store

_UNFINISHED = ".unfinished"
_LOCK = ".etl-export.lock"
SPOOL = ".etl-export-"
"""The beginning of the names of folders for files that are not complete."""
_OWN = re.compile(
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
    scheme = scheme_of(argument)
    if scheme is None:
        return Folder(Path(argument))
    if scheme in {"http", "https"}:
        raise UsageError(f"an export cannot be written to {scheme}://", hint="use a folder, or s3://, gs:// or az://")
    require_driver(argument)
    return Store(argument)


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
            if name not in kept and _OWN.fullmatch(path.name):
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


class Store:
    """A folder of an object store. `filesystem` is its driver, by fsspec."""

    def __init__(self, url: str) -> None:
        self.name = printable(url).rstrip("/")
        self.identity = self.name
        self._url = url.rstrip("/")
        self._spool: Path | None = None
        with self._talking("reached"):
            self.filesystem, self._root = object_store(self._url)

    @contextmanager
    def held(self) -> Iterator[None]:
        """Have a folder on this machine for the files that are not complete; a store has no lock."""
        self._spool = Path(tempfile.mkdtemp(prefix=SPOOL))
        try:
            yield
        finally:
            shutil.rmtree(self._spool, ignore_errors=True)

    def manifest(self) -> bytes | None:
        """Return the manifest, or None without one."""
        with self._talking("read"):
            try:
                text: bytes = self.filesystem.cat_file(self._at(NAME))
            except FileNotFoundError:
                return None
        return text

    def begun(self, name: str) -> Path:
        """Return the path on this machine."""
        if self._spool is None:
            raise RuntimeError("expected a place that is held")
        return self._spool / name

    def completed(self, name: str) -> None:
        """Upload a file, and remove it from this machine."""
        with self._talking("written"):
            self.filesystem.put_file(str(self.begun(name)), self._at(name))
        self.begun(name).unlink()

    def published(self, names: Iterable[str]) -> None:
        """Do nothing: the uploads have their names."""

    def write_manifest(self, text: bytes) -> None:
        """Replace the manifest."""
        with self._talking("written"):
            self.filesystem.pipe_file(self._at(NAME), text)

    def remove_all_but(self, names: Iterable[str]) -> None:
        """Remove the files of exports that have other names."""
        kept = {self._at(name) for name in names}
        with self._talking("cleaned"):
            found = [path for path in self.filesystem.find(self._root) if path not in kept]
            others = [path for path in found if _OWN.fullmatch(PurePosixPath(path).name)]
            if others:
                self.filesystem.rm(others)

    def sizes(self) -> dict[str, int]:
        """Return the bytes of all files by name."""
        with self._talking("listed"):
            found = self.filesystem.find(self._root, detail=True)
        return {path.removeprefix(self._at("")): each["size"] for path, each in found.items()}

    def address(self, name: str) -> str:
        """Return the URL of a file."""
        return f"{self._url}/{name}"

    def _at(self, name: str) -> str:
        return f"{self._root.rstrip('/')}/{name}"

    @contextmanager
    def _talking(self, done: str) -> Iterator[None]:
        """Turn the errors of a driver, each of which has its own, into one that names no credential."""
        try:
            yield
        except FileNotFoundError:
            raise UsageError(f"{self.name} cannot be {done}: it is missing", hint="create the bucket first") from None
        except PermissionError:
            raise UsageError(f"{self.name} cannot be {done}: the right to is missing") from None
        except Exception as error:
            if "Credentials" in type(error).__name__:
                raise UsageError(f"{self.name} cannot be {done}: credentials are missing or incomplete") from None
            if isinstance(error, UsageError):
                raise
            raise OutputError(
                f"{self.name} cannot be {done}: {described(error)}", hint="run the same command again"
            ) from None


def _sync(folder: Path) -> None:
    """Write the names in a folder to the disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
