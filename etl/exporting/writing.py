"""The writers of the formats of columns, Parquet and Arrow, for exports, reports and answers. Needs pyarrow."""

import io
from contextlib import suppress
from typing import Any, BinaryIO

import pyarrow as pa
from pyarrow import parquet

from etl.exporting.files import HashedFile
from etl.exporting.manifest import File

_LEVEL = 1
"""Of zstd: level 3 takes longer, and its files are hardly smaller."""


class ColumnarFile:
    """A file of Parquet or Arrow that is written group by group."""

    def __init__(self, file: HashedFile, name: str, month: str | None, schema: pa.Schema, format: str) -> None:
        self._file = file
        self._name = name
        self._month = month
        self._rows = 0
        self._writer = columnar_writer(file, schema, format)

    def write(self, rows: pa.Table) -> None:
        """Write rows as one row group."""
        self._writer.write_table(rows)
        self._rows += len(rows)

    def close(self) -> File:
        """Complete the file on the disk, and return its entry in the manifest."""
        self._writer.close()
        self._file.close()
        return self._file.entry(self._name, self._month, self._rows)

    def abandon(self) -> None:
        """Remove the file."""
        with suppress(OSError):  # Else it is closed when it is forgotten, which fails then.
            self._writer.close()
        self._file.abandon()


def columnar_writer(output: BinaryIO | io.RawIOBase, schema: pa.Schema, format: str) -> Any:
    """Return the writer of a format: `write_table` takes the rows of one group, and `close` completes the file.

    `arrow` is a file, `arrow-stream` can be read from its beginning on before it is complete.
    """
    if format == "parquet":
        return parquet.ParquetWriter(
            output,
            schema,
            compression="zstd",
            compression_level=_LEVEL,
            store_decimal_as_integer=True,
            # Numbers and times are written faster without, and their files are smaller.
            use_dictionary=_paths_of_texts(schema),
        )
    if format == "arrow-stream":
        return pa.ipc.new_stream(output, schema)
    options = pa.ipc.IpcWriteOptions(compression=pa.Codec("zstd", compression_level=_LEVEL))
    return pa.ipc.new_file(output, schema, options=options)


def _paths_of_texts(schema: pa.Schema) -> list[str]:
    """Return the paths of the columns that hold texts, as Parquet spells them."""
    return [
        f"{field.name}.list.element" if pa.types.is_list(field.type) else field.name
        for field in schema
        if pa.types.is_string(field.type) or pa.types.is_list(field.type)
    ]
