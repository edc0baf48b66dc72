"""The rows of a table by month, and each month in a file of its own. Needs pyarrow."""

import tempfile
from collections.abc import Callable, Iterator
from typing import IO, Any

import pyarrow as pa
from pyarrow import compute

from etl.exporting.manifest import File
from etl.exporting.server_columns import NO_MONTH
from etl.exporting.writing import GROUP_BYTES, ColumnarFile

HELD_BYTES = 8 << 20
"""Bytes of rows of all months in memory that are no row group yet; more wait on the disk."""

_WITHOUT = -(1 << 40)
_END = 294_247 * 12  # as in the statement `without_month`
_MOST_OPEN = 200
"""Files that are written at once: the limit of a process is often 1,024."""


class Months:
    """Splits rows by the month (UTC) of a column; without a column all rows are in one file.

    Rows of a month wait until they are a row group: in memory, or on the disk when all months together are many.
    """

    def __init__(self, column: str | None, opened: Callable[[str | None], ColumnarFile]) -> None:
        self._column = column
        self._opened = opened
        self._open: dict[str | None, _Month] = {}
        self._finished: list[File] = []

    def add(self, rows: pa.Table) -> None:
        """Take rows, and write those that are a row group."""
        for name, part in self._parts(rows):
            month = self._month(name)
            month.hold(part)
            if month.size >= GROUP_BYTES:
                month.write()
        while sum(month.held_bytes for month in self._open.values()) > HELD_BYTES:
            max(self._open.values(), key=lambda month: month.held_bytes).spill()

    def finish(self) -> list[File]:
        """Write what waits, close all files, and return their entries, in the order of their months."""
        if self._column is None:
            self._month(None)  # A table without rows has a file with its columns.
        for name in list(self._open):
            self._finished.append(self._open.pop(name).close())
        return sorted(self._finished, key=lambda file: (file.month or "", file.path))

    def abandon(self) -> None:
        """Remove the files that are not closed."""
        for month in self._open.values():
            month.abandon()

    def _month(self, name: str | None) -> "_Month":
        if name not in self._open:
            if len(self._open) >= _MOST_OPEN:
                oldest = next(iter(self._open))
                self._finished.append(self._open.pop(oldest).close())
            self._open[name] = _Month(self._opened(name))
        return self._open[name]

    def _parts(self, rows: pa.Table) -> Iterator[tuple[str | None, pa.Table]]:
        if self._column is None:
            yield None, rows
            return
        times = rows.column(self._column).combine_chunks()
        numbers = compute.add(compute.multiply(compute.year(times), 12), compute.subtract(compute.month(times), 1))
        numbers = compute.if_else(compute.less(numbers, _END), numbers, _WITHOUT)
        numbers = compute.fill_null(numbers, _WITHOUT)
        counts = compute.value_counts(numbers)
        if len(counts) == 1:
            yield month_name(counts[0]["values"].as_py()), rows
            return
        order = compute.sort_indices(numbers)
        begin = 0
        for number, count in sorted((each["values"].as_py(), each["counts"].as_py()) for each in counts):
            # A copy: a slice would keep the rows of all months in memory.
            yield month_name(number), rows.take(order.slice(begin, count))
            begin += count


class _Month:
    """The rows of one month on their way into its file."""

    def __init__(self, file: ColumnarFile) -> None:
        self._file = file
        self._held: list[Any] = []
        self._spilled: IO[bytes] | None = None
        self._spilled_bytes = 0
        self.held_bytes = 0

    @property
    def size(self) -> int:
        """The bytes of the rows that wait."""
        return self.held_bytes + self._spilled_bytes

    def hold(self, rows: pa.Table) -> None:
        """Keep rows in memory."""
        self._held.append(rows)
        self.held_bytes += rows.nbytes

    def spill(self) -> None:
        """Move the rows from memory to the disk, in a file without a name."""
        if self._spilled is None:
            self._spilled = tempfile.TemporaryFile(dir=self._file.folder)  # noqa: SIM115 - until the file is complete
        rows = pa.concat_tables(self._held)
        with pa.ipc.new_stream(self._spilled, rows.schema) as stream:
            stream.write_table(rows)
        self._spilled_bytes += self.held_bytes
        self._held, self.held_bytes = [], 0

    def write(self) -> None:
        """Write the rows that wait as a row group."""
        rows = [*self._from_disk(), *self._held]
        if rows:
            self._file.write(pa.concat_tables(rows))
        self._held, self.held_bytes = [], 0

    def close(self) -> File:
        """Write what waits, and return the entry of the file."""
        self.write()
        self._forget()
        return self._file.close()

    def abandon(self) -> None:
        """Remove the file."""
        self._forget()
        self._file.abandon()

    def _from_disk(self) -> list[Any]:
        if self._spilled is None or not self._spilled_bytes:
            return []
        end = self._spilled.tell()
        self._spilled.seek(0)
        found = []
        while self._spilled.tell() < end:
            with pa.ipc.open_stream(self._spilled) as stream:
                found.append(stream.read_all())
        self._spilled.seek(0)
        self._spilled.truncate()
        self._spilled_bytes = 0
        return found

    def _forget(self) -> None:
        if self._spilled is not None:
            self._spilled.close()
            self._spilled = None


def month_name(number: int) -> str:
    """Return a month as the name of a folder has it, from its number since the year 0."""
    if number == _WITHOUT:
        return NO_MONTH
    year, month = divmod(number, 12)
    return f"{year:04d}-{month + 1:02d}"
