"""The CSV of COPY -> tables of Arrow, in blocks of whole rows.

Another thread reads and stores a block while the next one comes from the server. Needs pyarrow.
"""

from collections import deque
from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import psycopg
import pyarrow as pa
from psycopg import sql
from pyarrow import csv

from etl.exporting.columns import CarriedColumn

BLOCK_BYTES = 4 << 20
_WAITING = 1


class UnfitError(Exception):
    """A value has no text that the type of its column is read from. The message of pyarrow would quote the value."""


class BlockReader:
    """Reads blocks of CSV as tables of Arrow."""

    def __init__(self, columns: Sequence[CarriedColumn], schema: pa.Schema) -> None:
        self._columns = columns
        self._schema = schema
        # Names of columns repeat in no table; but one may be empty for a reader that knows them by number.
        names = [f"c{place}" for place, _ in enumerate(columns)]
        self._read = csv.ReadOptions(column_names=names, use_threads=False, block_size=1 << 30)
        self._parse = csv.ParseOptions(newlines_in_values=True)
        self._convert = csv.ConvertOptions(
            column_types={name: column.read for name, column in zip(names, columns, strict=True)},
            null_values=[""],
            strings_can_be_null=True,
            quoted_strings_can_be_null=False,
            true_values=["t"],
            false_values=["f"],
        )

    def read(self, block: bytes) -> pa.Table:
        """Return the rows of a block.

        Raises UnfitError.
        """
        try:
            table = csv.read_csv(pa.BufferReader(block), self._read, self._parse, self._convert)
            arrays = [
                values if column.convert is None else column.convert(values)
                for column, values in zip(self._columns, table.columns, strict=True)
            ]
        except (pa.ArrowException, ValueError):  # msgspec's errors are ValueErrors.
            raise UnfitError from None
        return pa.Table.from_arrays(arrays, schema=self._schema)


class Copied:
    """What COPY sends, in blocks of whole rows; at the end `rows` is how many the server has counted."""

    def __init__(self, connection: psycopg.Connection, statement: sql.Composed) -> None:
        self._connection = connection
        self._statement = statement
        self.rows = 0

    def __iter__(self) -> Generator[bytes]:
        """Yield the blocks."""
        with self._connection.cursor() as cursor:
            with cursor.copy(self._statement) as rows:
                held: list[bytes] = []
                size = 0
                for row in rows:
                    held.append(bytes(row))
                    size += len(row)
                    if size >= BLOCK_BYTES:
                        yield b"".join(held)
                        held, size = [], 0
                if held:
                    yield b"".join(held)
            self.rows = cursor.rowcount


def each_beside(source: Iterable[bytes], take: Callable[[bytes], None]) -> None:
    """Call a function with each block, in another thread and in their order; at most some blocks wait for it."""
    waiting: deque[Future[None]] = deque()
    with ThreadPoolExecutor(1, thread_name_prefix="export") as beside:
        for block in source:
            waiting.append(beside.submit(take, block))
            if len(waiting) > _WAITING:
                waiting.popleft().result()
        for future in waiting:
            future.result()
