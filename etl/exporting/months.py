"""The rows of a table by month, and each month in a file of its own. Needs pyarrow."""

from collections.abc import Callable, Iterator
from typing import Any

import pyarrow as pa
from pyarrow import compute

from etl.exporting.manifest import File
from etl.exporting.server_columns import NO_MONTH
from etl.exporting.writing import ColumnarFile

HELD_BYTES = 24 << 20
"""Bytes of rows that wait for a row group, over all months."""

_WITHOUT = -(1 << 40)
_MOST_OPEN = 200
"""Files that are written at once: the limit of a process is often 1,024."""


class Months:
    """Splits rows by the month (UTC) of a column; without a column all rows are in one file.

    Rows of a month wait until they are a row group, or all months together hold too much.
    """

    def __init__(self, column: str | None, opened: Callable[[str | None], ColumnarFile]) -> None:
        self._column = column
        self._opened = opened
        self._writers: dict[str | None, ColumnarFile] = {}
        self._held: dict[str | None, list[Any]] = {}
        self._bytes: dict[str | None, int] = {}
        self._finished: list[File] = []

    def add(self, rows: pa.Table) -> None:
        """Take rows, and write those that are enough for a row group."""
        for month, part in self._parts(rows):
            self._held.setdefault(month, []).append(part)
            self._bytes[month] = self._bytes.get(month, 0) + rows.nbytes * len(part) // len(rows)
        while sum(self._bytes.values()) > HELD_BYTES:
            self._write(max(self._bytes, key=lambda month: self._bytes[month]))

    def finish(self) -> list[File]:
        """Write what waits, close all files, and return their entries, in the order of their months."""
        for month in list(self._held):
            self._write(month)
        for month in list(self._writers):
            self._close(month)
        if self._column is None and not self._finished:
            self._finished.append(self._opened(None).close())  # It has the columns.
        return sorted(self._finished, key=lambda file: (file.month or "", file.path))

    def abandon(self) -> None:
        """Remove the files that are not closed."""
        for writer in self._writers.values():
            writer.abandon()

    def _parts(self, rows: pa.Table) -> Iterator[tuple[str | None, pa.Table]]:
        if self._column is None:
            yield None, rows
            return
        times = rows.column(self._column).combine_chunks()
        numbers = compute.add(compute.multiply(compute.year(times), 12), compute.subtract(compute.month(times), 1))
        numbers = compute.fill_null(numbers, _WITHOUT)
        counts = compute.value_counts(numbers)
        if len(counts) > 1:
            rows = rows.take(compute.sort_indices(numbers))
        begin = 0
        for number, count in sorted((each["values"].as_py(), each["counts"].as_py()) for each in counts):
            yield month_name(number), rows.slice(begin, count)
            begin += count

    def _write(self, month: str | None) -> None:
        rows = pa.concat_tables(self._held.pop(month))
        del self._bytes[month]
        if month not in self._writers:
            if len(self._writers) >= _MOST_OPEN:
                self._close(next(iter(self._writers)))
            self._writers[month] = self._opened(month)
        self._writers[month].write(rows)

    def _close(self, month: str | None) -> None:
        self._finished.append(self._writers.pop(month).close())


def month_name(number: int) -> str:
    """Return a month as the name of a folder has it, from its number since the year 0."""
    if number == _WITHOUT:
        return NO_MONTH
    year, month = divmod(number, 12)
    return f"{year:04d}-{month + 1:02d}"
