"""A folder of an object store, by fsspec. A file is written on this machine first.

A store shows an upload only when it is complete.
"""

import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path, PurePosixPath

from etl.errors import EtlError, OutputError, UsageError
from etl.exporting.manifest import NAME
from etl.exporting.places import OWN, SPOOL
from etl.ingestion.sources.remote import printable, require_driver, scheme_of
from etl.ingestion.sources.transfers import StoreFault, object_store, store_faults


def is_url(argument: str) -> bool:
    """Return whether an argument is a URL, and no path."""
    return scheme_of(argument) is not None


def store_of(url: str) -> "Store":
    """Return the folder that a URL names.

    Raises UsageError when nothing can be written there, or the driver of the URL is not installed.
    """
    scheme = scheme_of(url)
    if scheme in {"http", "https"}:
        raise UsageError(f"an export cannot be written to {scheme}://", hint="use a folder, or s3://, gs:// or az://")
    require_driver(url)
    return Store(url)


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
            others = [path for path in found if OWN.fullmatch(PurePosixPath(path).name)]
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

    def _talking(self, done: str) -> AbstractContextManager[None]:
        return store_faults(lambda fault: self._error(fault, done))

    def _error(self, fault: StoreFault, done: str) -> EtlError:
        failed = f"{self.name} cannot be {done}"
        if fault.kind == "missing":
            return UsageError(f"{failed}: it is missing", hint="create the bucket first")
        if fault.kind == "right":
            return UsageError(f"{failed}: the right to is missing")
        if fault.kind == "credentials":
            return UsageError(f"{failed}: {fault.reason}")
        return OutputError(f"{failed}: {fault.reason}", hint="run the same command again")
