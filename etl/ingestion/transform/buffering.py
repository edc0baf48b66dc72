"""The rows of a table that the checked path makes, in memory or on disk: they may be many times their records.

The columns of a record repeat in the row of each child, so that a small record can become gigabytes of rows.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from io import BytesIO
from shutil import copyfileobj
from tempfile import TemporaryFile
from typing import IO
from weakref import finalize

from etl.errors import DatabaseError, reason_of
from etl.ingestion.constants import ROWS_BYTES

_TOGETHER = 1 << 20
"""Rows are joined and read this many bytes at a time."""


class RowBuffer:
    """Rows of one table as UTF-8, in order; beyond ROWS_BYTES in a temporary file, so that memory is bounded.

    Each method raises DatabaseError when the disk is full.
    """

    def __init__(self) -> None:
        self._file: IO[bytes] = BytesIO()
        self._is_on_disk = False
        self.size = 0

    def add(self, rows: Iterable[str]) -> int:
        """Add rows at the end, and return how many they are."""
        if isinstance(rows, list):
            self._write("".join(rows))
            return len(rows)
        count = length = 0
        waiting: list[str] = []
        for row in rows:
            waiting.append(row)
            count += 1
            length += len(row)
            if length > _TOGETHER:
                self._write("".join(waiting))
                waiting.clear()
                length = 0
        self._write("".join(waiting))
        return count

    def cut(self, size: int) -> None:
        """Remove all rows after the first `size` bytes."""
        with self._reporting():
            self._file.seek(size)
            self._file.truncate()
        self.size = size

    def parts(self) -> Iterator[bytes]:
        """Yield the bytes of the rows, some at a time."""
        at = 0
        while at < self.size:
            with self._reporting():
                self._file.seek(at)
                part = self._file.read(_TOGETHER)
                self._file.seek(self.size)
            at += len(part)
            yield part

    def _write(self, text: str) -> None:
        data = text.encode()
        with self._reporting():
            if not self._is_on_disk and self.size + len(data) > ROWS_BYTES:
                self._is_on_disk = True
                self._file, before = TemporaryFile(), self._file  # noqa: SIM115 - it lives as long as the rows
                finalize(self, self._file.close)
                before.seek(0)
                copyfileobj(before, self._file)
            self._file.write(data)
        self.size += len(data)

    @contextmanager
    def _reporting(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise DatabaseError(
                f"cannot keep the rows of a batch in a temporary file: {reason_of(error)}",
                hint="make room in the folder for temporary files, or name another by TMPDIR; then load again",
            ) from error
