"""The rows of a COPY as text, in blocks of whole rows, each of one month. Knows no format of files.

Rows of a month wait until they are a block: in memory, or on the disk when all months together are many. They are
divided as text, before anything reads them: to take rows out of tables of Arrow takes as long as to read them.
"""

import tempfile
from collections.abc import Generator
from contextlib import closing
from pathlib import Path
from typing import IO, NamedTuple, TypeAlias, TypeVar

import psycopg
from psycopg import generators, sql, waiting
from psycopg.pq import ExecStatus

from etl.exporting.server_columns import NO_MONTH

BLOCK_BYTES = 6 << 20
"""Bytes of a block, which becomes a row group. A file keeps a description of each in memory until it is complete."""

HELD_BYTES = 8 << 20
"""Bytes of rows of all months in memory that are no block yet."""

_LOOK_BYTES = 1 << 20
_MOST_FILES = 200
"""Months that wait on the disk at once: the limit of a process is often 1,024 files."""

_DAY = len("2026-06-01,")
_END_YEAR = 294_247  # as in the statement `without_month`


Result = TypeVar("Result")
Conversation: TypeAlias = Generator[waiting.Wait, waiting.Ready | int, Result]
"""Yields when it must wait for the server, as `psycopg.Connection.wait` expects it."""


class Block(NamedTuple):
    """Whole rows as CSV, and their month: None where rows are not divided."""

    month: str | None
    rows: bytes


class Copied:
    """The rows that COPY sends; at the end `rows` is how many the server has counted.

    With a folder for those that wait, the first value of each row is a day, which is taken away: it says the month.
    """

    def __init__(self, connection: psycopg.Connection, statement: sql.Composed, folder: Path | None = None) -> None:
        self._connection = connection
        self._statement = statement
        self._waiting = _Waiting(folder)
        self._width = 0 if folder is None else _DAY
        self.rows = 0

    def __iter__(self) -> Generator[Block]:
        """Yield the blocks.

        Raises psycopg.Error as the server refuses the statement.
        """
        with self._connection.cursor() as cursor, closing(self._waiting) as months, cursor.copy(self._statement):
            while self._connection.wait(self._receive()):
                yield from months.full()
            yield from months.rest()

    def _receive(self) -> Conversation[bool]:
        """Take rows for some time; return whether there may be more.

        Uses libpq's own calls (decision 17): a cursor waits for each row by itself, which takes as long as the rest.
        """
        server, width, buffers = self._connection.pgconn, self._width, self._waiting.by_day
        get = server.get_copy_data
        came = 0
        while came < _LOOK_BYTES:
            size, row = get(1)
            if size > 0:
                came += size
                text = bytes(row)
                buffer = buffers.get(text[:width])
                if buffer is None:
                    buffer, text = self._waiting.of_new_day(text)
                    buffer += text
                else:
                    buffer += text[width:]
            elif size == 0:
                while not (yield waiting.Wait.R):
                    pass
                server.consume_input()
            else:
                yield from self._end()
                return False
        return True

    def _end(self) -> Conversation[None]:
        results = yield from generators.fetch_many(self._connection.pgconn)
        if results[0].status != ExecStatus.COMMAND_OK:
            raise psycopg.errors.error_from_result(results[0])
        self.rows = results[0].command_tuples or 0


class _Waiting:
    """The rows that are no block yet. `by_day` leads from the first bytes of a row to the rows of its month."""

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder
        self._months: dict[str | None, bytearray] = {}
        self._spilled: dict[str | None, IO[bytes]] = {}
        self.by_day: dict[bytes, bytearray] = {}
        if folder is None:
            self.by_day[b""] = self._buffer(None)

    def of_new_day(self, row: bytes) -> tuple[bytearray, bytes]:
        """Return the rows of the month of a row, and the row without its day."""
        day, _, rest = row.partition(b",")
        buffer = self._buffer(_month_of(day.decode()))
        if len(day) + 1 == _DAY:
            self.by_day[row[:_DAY]] = buffer
        return buffer, rest

    def full(self) -> Generator[Block]:
        """Yield the blocks that are complete, and let the disk have what is too much for the memory."""
        for month, rows in self._months.items():
            if self._size(month) + len(rows) >= BLOCK_BYTES:
                yield self._block(month)
        while self._folder is not None and sum(map(len, self._months.values())) > HELD_BYTES:
            month = max(self._months, key=lambda each: len(self._months[each]))
            if month not in self._spilled and len(self._spilled) >= _MOST_FILES:
                yield self._block(month)
            else:
                self._spill(month, self._folder)

    def rest(self) -> Generator[Block]:
        """Yield what is left."""
        for month, rows in self._months.items():
            if rows or self._size(month):
                yield self._block(month)

    def close(self) -> None:
        """Remove what waits on the disk."""
        for file in self._spilled.values():
            file.close()

    def _buffer(self, month: str | None) -> bytearray:
        return self._months.setdefault(month, bytearray())

    def _size(self, month: str | None) -> int:
        return self._spilled[month].tell() if month in self._spilled else 0

    def _spill(self, month: str | None, folder: Path) -> None:
        """Move the rows of a month to the disk, into a file without a name."""
        if month not in self._spilled:
            self._spilled[month] = tempfile.TemporaryFile(dir=folder, buffering=0)  # noqa: SIM115 - until the block is complete
        self._spilled[month].write(self._months[month])
        self._months[month].clear()

    def _block(self, month: str | None) -> Block:
        held = self._months[month]
        file = self._spilled.pop(month, None)
        if file is None:
            rows = bytes(held)
        else:
            with file:
                file.seek(0)
                rows = b"".join((file.read(), held))
        held.clear()
        return Block(month, rows)


def _month_of(day: str) -> str:
    """Return the name of the month of a day as PostgreSQL writes it; the same rows have none as in `without_month`."""
    is_known = day[:1].isdigit() and not day.endswith("BC") and int(day.partition("-")[0]) < _END_YEAR
    return day[: -len("-01")] if is_known else NO_MONTH
