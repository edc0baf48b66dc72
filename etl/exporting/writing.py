"""The writers of the formats of columns, Parquet and Arrow, for exports, reports and answers. Needs pyarrow."""

import io
from pathlib import Path
from typing import Any, BinaryIO, Self

import pyarrow as pa
from pyarrow import parquet

from etl.exporting.files import HashedFile
from etl.exporting.manifest import File

GROUP_BYTES = 12 << 20
"""Bytes of a row group. The description of each group stays in memory until its file is complete."""

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

    @property
    def folder(self) -> Path:
        """The folder on this machine in which the file is written."""
        return self._file.path.parent

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
        self._file.abandon()


class GroupedWriter:
    """Writes Parquet to any output, in row groups of one size."""

    def __init__(self, output: BinaryIO, schema: pa.Schema) -> None:
        self._writer = columnar_writer(output, schema, "parquet")
        self._held: list[Any] = []
        self._bytes = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is None:
            self._write()
        self._writer.close()

    def add(self, rows: pa.Table) -> None:
        """Take rows, and write those that are a row group."""
        self._held.append(rows)
        self._bytes += rows.nbytes
        if self._bytes >= GROUP_BYTES:
            self._write()

    def _write(self) -> None:
        if self._held:
            self._writer.write_table(pa.concat_tables(self._held))
        self._held, self._bytes = [], 0


def columnar_writer(output: BinaryIO | io.RawIOBase, schema: pa.Schema, format: str) -> Any:
    """Return the writer of a format: `write_table` takes the rows of one group, and `close` completes the file.

    `arrow` is a file, `arrow-stream` can be read from its beginning on before it is complete.
    """
    if format == "parquet":
        return parquet.ParquetWriter(
            output, schema, compression="zstd", compression_level=_LEVEL, store_decimal_as_integer=True
        )
    if format == "arrow-stream":
        return pa.ipc.new_stream(output, schema)
    options = pa.ipc.IpcWriteOptions(compression=pa.Codec("zstd", compression_level=_LEVEL))
    return pa.ipc.new_file(output, schema, options=options)
