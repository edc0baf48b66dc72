"""One file of an export on its way: its path under a temporary name, its rows, its size and its digest."""

import hashlib
import io
import os
from pathlib import Path
from typing import Any

from etl.exporting.manifest import File


class HashedFile(io.RawIOBase):
    """A file that is only written, and knows the digest and the number of its bytes."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        self.size = 0
        self._file = path.open("wb")
        self._digest = hashlib.sha256()

    def writable(self) -> bool:
        """Return True."""
        return True

    def write(self, data: Any) -> int:
        """Write and digest bytes."""
        with memoryview(data) as view:
            self._file.write(view)
            self._digest.update(view)
            self.size += view.nbytes
            return view.nbytes

    def tell(self) -> int:
        """Return the number of bytes so far."""
        return self.size

    def close(self) -> None:
        """Write everything to the disk, and close the file; it keeps its temporary name."""
        if not self._file.closed:
            self._file.flush()
            os.fsync(self._file.fileno())
            self._file.close()
        super().close()

    def abandon(self) -> None:
        """Remove the file."""
        self._file.close()
        self.path.unlink(missing_ok=True)

    def entry(self, name: str, month: str | None, rows: int) -> File:
        """Return the entry of the file in the manifest."""
        return File(path=name, month=month, rows=rows, bytes=self.size, sha256=self._digest.hexdigest())


class CsvFile:
    """A file of rows of CSV, as the server sends them. It begins with `header`, the names of the columns."""

    def __init__(self, file: HashedFile, name: str, month: str | None, header: bytes) -> None:
        self._file = file
        self._name = name
        self._month = month
        self._rows = 0
        file.write(header)

    def write(self, rows: bytes) -> None:
        """Write rows."""
        self._file.write(rows)
        # Every second part is between quotes, where the end of a line ends no row.
        self._rows += sum(part.count(b"\n") for part in rows.split(b'"')[::2])

    def close(self) -> File:
        """Complete the file on the disk, and return its entry in the manifest."""
        self._file.close()
        return self._file.entry(self._name, self._month, self._rows)

    def abandon(self) -> None:
        """Remove the file."""
        self._file.abandon()


def digested(path: Path) -> tuple[int, str]:
    """Write a file of another program to the disk; return the number of its bytes and their digest."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
        digest = hashlib.file_digest(file, "sha256")
    return path.stat().st_size, digest.hexdigest()
