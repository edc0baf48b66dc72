"""The CSV of COPY -> tables of Arrow, in blocks of whole rows. Needs pyarrow."""

from collections.abc import Sequence

import pyarrow as pa
from pyarrow import csv

from etl.exporting.columns import CarriedColumn


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
        # An empty line is a null of a table with one column.
        self._parse = csv.ParseOptions(newlines_in_values=True, ignore_empty_lines=False)
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
