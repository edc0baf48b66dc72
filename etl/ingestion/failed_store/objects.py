"""Objects of a store such as S3, with what the failed store uses of a path.

An upload shows only when it is complete, and is durable when it is acknowledged. Folders are parts of names: there is
nothing to make and nothing to remove. Each error of a driver is an OSError without an address and a credential.
"""

import errno
from collections.abc import Iterator
from contextlib import AbstractContextManager
from fnmatch import fnmatchcase
from typing import Any, NamedTuple, Self

from etl.errors import UsageError
from etl.ingestion.sources.remote import OBJECT_SCHEMES, printable, require_driver, scheme_of
from etl.ingestion.sources.transfers import StoreFault, object_store, store_faults
from etl.settings import Url

_MAGIC = frozenset("*?[")


class StoreError(OSError):
    """An object store that does not answer, or refuses; an object that is missing is a FileNotFoundError."""

    def __init__(self, reason: str) -> None:
        super().__init__(errno.EIO, reason)


class ObjectStat(NamedTuple):
    """The size of an object in bytes, and when it was written, in seconds since 1970."""

    st_size: int
    st_mtime: float


class ObjectPath:
    """A name in an object store: of an object, or of a folder."""

    def __init__(self, system: Any, scheme: str, path: str) -> None:
        self._system = system
        self._scheme = scheme
        self._path = path

    @classmethod
    def of(cls, url: Url) -> Self:
        """Return the folder of a URL.

        Raises UsageError when the URL cannot be one of a failed store, or its driver is not installed.
        """
        scheme = scheme_of(url)
        if scheme not in OBJECT_SCHEMES:
            raise UsageError(
                f"the failed store cannot be at {scheme}://, where a file may be seen before it is complete",
                hint=f"name a folder, or one of {', '.join(f'{each}://' for each in OBJECT_SCHEMES)}",
            )
        require_driver(url)
        if printable(url) != url:
            raise UsageError(
                f"the address of the failed store, {printable(url)}, has a user or a query",
                hint="give credentials as the driver looks for them: by the environment, a file or a role",
            )
        with _as_os_error():
            system, path = object_store(url)
        return cls(system, scheme, path.rstrip("/"))

    def __truediv__(self, name: str) -> "ObjectPath":
        return ObjectPath(self._system, self._scheme, f"{self._path}/{name}")

    def __str__(self) -> str:
        return f"{self._scheme}://{self._path}"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ObjectPath) and str(self) == str(other)

    def __hash__(self) -> int:
        return hash(str(self))

    def __lt__(self, other: "ObjectPath") -> bool:
        return str(self) < str(other)

    @property
    def name(self) -> str:
        """The last part of the name."""
        return self._path.rpartition("/")[2]

    @property
    def suffix(self) -> str:
        """The ending of the last part, with its dot."""
        return self.name.removeprefix(self.stem)

    @property
    def stem(self) -> str:
        """The last part without its ending."""
        return self.name.rpartition(".")[0] or self.name

    @property
    def parent(self) -> "ObjectPath":
        """The folder."""
        return ObjectPath(self._system, self._scheme, self._path.rpartition("/")[0])

    def with_name(self, name: str) -> "ObjectPath":
        """Return another name in the same folder."""
        return self.parent / name

    def with_suffix(self, suffix: str) -> "ObjectPath":
        """Return the name with another ending."""
        return self.with_name(self.stem + suffix)

    def exists(self) -> bool:
        """Return whether there is an object of this name, or a folder. Raises StoreError."""
        return self._kind() is not None

    def is_file(self) -> bool:
        """Return whether there is an object of this name. Raises StoreError."""
        return self._kind() == "file"

    def is_dir(self) -> bool:
        """Return whether there is an object in this folder. Raises StoreError."""
        return self._kind() == "directory"

    def stat(self) -> ObjectStat:
        """Return the size and the time of an object."""
        with _as_os_error():
            return ObjectStat(int(self._system.info(self._path)["size"]), self._system.modified(self._path).timestamp())

    def read_bytes(self) -> bytes:
        """Read an object."""
        with _as_os_error():
            data: bytes = self._system.cat_file(self._path)
        return data

    def beginning(self, size: int) -> bytes:
        """Read the first bytes of an object."""
        with _as_os_error():
            data: bytes = self._system.cat_file(self._path, start=0, end=size)
        return data

    def write_bytes(self, data: bytes) -> None:
        """Write an object, complete or not at all; it is durable when this returns."""
        try:
            with _as_os_error("write"):
                self._system.pipe_file(self._path, data)
        except FileNotFoundError:
            raise StoreError("there is no such bucket") from None

    def unlink(self, *, missing_ok: bool = False) -> None:
        """Remove an object."""
        try:
            with _as_os_error("remove"):
                self._system.rm_file(self._path)
        except FileNotFoundError:
            if not missing_ok:
                raise

    def replace(self, target: "ObjectPath") -> None:
        """Give an object another name: it is copied, and then removed. A crash between the two leaves both."""
        with _as_os_error("write"):
            self._system.cp_file(self._path, target._path)  # noqa: SLF001 - it is of this class
        self.unlink()

    def iterdir(self) -> Iterator["ObjectPath"]:
        """Return what is in the folder."""
        try:
            with _as_os_error():
                found = self._system.ls(self._path, detail=False)
        except FileNotFoundError:
            return iter(())
        names = {path.rstrip("/").rpartition("/")[2] for path in found if path.rstrip("/") != self._path}
        return iter(sorted(self / name for name in names))

    def glob(self, pattern: str) -> Iterator["ObjectPath"]:
        """Return what fits a pattern of names with `/` between them."""
        first, _, rest = pattern.partition("/")
        if not _MAGIC & set(first):
            found = [self / first] if rest or (self / first).exists() else []
        else:
            found = [each for each in self.iterdir() if fnmatchcase(each.name, first)]
        for each in found:
            yield from each.glob(rest) if rest else [each]

    def _kind(self) -> str | None:
        try:
            with _as_os_error():
                kind: str = self._system.info(self._path)["type"]
        except FileNotFoundError:
            return None
        return kind


def _as_os_error(right: str = "read") -> AbstractContextManager[None]:
    return store_faults(lambda fault: _error(fault, right))


def _error(fault: StoreFault, right: str) -> Exception:
    if fault.kind == "missing" or isinstance(fault.error, StoreError):
        return fault.error
    return StoreError(f"the right to {right} it is missing" if fault.kind == "right" else fault.reason)
