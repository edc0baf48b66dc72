"""The files of a table: one for each month, or one for all rows."""

from collections.abc import Callable
from typing import Generic, Protocol, TypeVar

from etl.exporting.manifest import File

Rows = TypeVar("Rows")
Rows_contra = TypeVar("Rows_contra", contravariant=True)

_MOST_OPEN = 200
"""Files that are written at once: the limit of a process is often 1,024."""


class RowsFile(Protocol[Rows_contra]):
    """A file to which rows are written in some form."""

    def write(self, rows: Rows_contra) -> None:
        """Write rows."""

    def close(self) -> File:
        """Complete the file on the disk, and return its entry in the manifest."""

    def abandon(self) -> None:
        """Remove the file."""


class Months(Generic[Rows]):
    """Writes the rows of each month to a file of its own. A month has several files where too many months alternate."""

    def __init__(self, opened: Callable[[str | None], RowsFile[Rows]], *, is_divided: bool) -> None:
        self._opened = opened
        self._open: dict[str | None, RowsFile[Rows]] = {}
        self._finished: list[File] = []
        if not is_divided:
            self._open[None] = opened(None)  # A table without rows has a file with its columns.

    def write(self, month: str | None, rows: Rows) -> None:
        """Write rows of a month."""
        if month not in self._open:
            if len(self._open) >= _MOST_OPEN:
                self._close(next(iter(self._open)))
            self._open[month] = self._opened(month)
        self._open[month].write(rows)

    def finish(self) -> list[File]:
        """Close all files, and return their entries, in the order of their months."""
        for month in list(self._open):
            self._close(month)
        return sorted(self._finished, key=lambda file: (file.month or "", file.path))

    def abandon(self) -> None:
        """Remove the files that are not closed."""
        for file in self._open.values():
            file.abandon()

    def _close(self, month: str | None) -> None:
        self._finished.append(self._open.pop(month).close())
