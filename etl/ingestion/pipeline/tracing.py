"""From a row back to its record: the source, the number, byte and text of the record, as long as the source exists.

The lineage columns of the row name its batch and the place of the record in it; the ledger knows the batch. The text
is shown only when the bytes of the batch are still those that were loaded.
"""

import re
import shlex
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import get_args

import psycopg
from psycopg import sql

from etl import datasets, queries
from etl.errors import DefinitionError, SourceError, UsageError
from etl.ingestion.failed_store.locating import RecordLocation, locate
from etl.ingestion.framing.boundaries import NotJSON
from etl.ingestion.framing.pieces import CutOptions, cut
from etl.ingestion.ledger import history, packing
from etl.ingestion.sources import archives
from etl.ingestion.sources.stream import Stream, opened
from etl.ingestion.values import Piece, PieceShape, Source, hash_of
from etl.quick_dataclasses import dataclass

MAX_ROWS = 20

_SQL = queries.load("history")
_ENCODING = re.compile(r"--encoding (\S+)")
_RECORDS = re.compile(r"--records ('[^']*'|\S+)")


@dataclass(frozen=True, kw_only=True)
class Trace:
    """The record that a row came from. `text` is the record, or None with the reason in `missing`.

    Without a run of this ledger all other fields are None.
    """

    run: str | None
    dataset: str | None
    source: str | None
    loaded_at: datetime | None
    record: int | None = None
    offset: int | None = None
    text: str | None = None
    missing: str | None = None


@dataclass(frozen=True, kw_only=True)
class _Lineage:
    """The batch of a row, and the place of its record there (from 1).

    Where the ledger has no such run, `run` is None, and so are all other columns but `place`. Where the run has no such
    batch, `hash` is None.
    """

    run: str | None
    dataset: str
    source: str
    folder: str | None
    options: str | None
    loaded_at: datetime
    offset: int
    length: int
    first_record: int
    count_records: int
    hash: bytes | None
    place: int
    batch: int
    part_offsets: list[int] | None
    parts: bytes | None

    @property
    def own(self) -> "_Lineage":
        """The same with the batch alone, where the row of the ledger holds several batches."""
        if self.part_offsets is None or self.parts is None:
            return self
        for part in packing.parts_of(self.first_record, self.part_offsets, self.parts):
            if part.offset == self.batch:
                return replace(
                    self,
                    offset=part.offset,
                    length=part.length,
                    first_record=part.first_record,
                    count_records=part.count,
                    hash=part.hash,
                )
        return self


def trace(
    connection: psycopg.Connection,
    table: str,
    conditions: Sequence[tuple[str, str]],
    run: str | None = None,
    config_dir: Path | None = None,
) -> tuple[list[Trace], bool]:
    """Return the records of the rows that hold these values, and whether there are more than MAX_ROWS.

    `conditions` are pairs of column and value; `run` is the name of a run, or `latest`. The definitions in `config_dir`
    say where the records of pages are. Raises UsageError when there is no such table, column, value or run.
    """
    comparisons: list[sql.Composable] = [sql.SQL("r.{} = %s").format(_identifier(column)) for column, _ in conditions]
    values = [value for _, value in conditions]
    if run is not None:
        comparisons.append(sql.SQL("r.etl_run = (select number from etl.runs where run = %s)"))
        values.append(history.name_of(connection, run))
    statement = _SQL["trace"].format(
        table=_identifier(*table.split(".")), conditions=sql.SQL(" and ").join(comparisons), limit=MAX_ROWS + 1
    )
    try:
        rows = queries.rows_as(_Lineage, connection, statement, values)
    except psycopg.errors.UndefinedTable:
        raise UsageError(f"there is no table {table}", hint="name it with its schema, as logistics.shipments") from None
    except (psycopg.errors.UndefinedColumn, psycopg.errors.UndefinedFunction, psycopg.errors.SyntaxError) as error:
        # No such column, one whose type has no equality, or an empty name.
        raise UsageError(f"{table}: {error.diag.message_primary}", hint="only tables of a dataset are traced") from None
    except psycopg.errors.DataError:
        raise UsageError(f"{table}: a value does not fit the type of its column") from None
    if not rows:
        raise UsageError(f"no row of {table} holds these values")
    return [_trace(row.own, config_dir) for row in rows[:MAX_ROWS]], len(rows) > MAX_ROWS


def _identifier(*names: str) -> sql.Identifier:
    """Return a name for a statement with values, in which a percent sign begins a placeholder."""
    return sql.Identifier(*(name.replace("%", "%%") for name in names))


def _trace(row: _Lineage, config_dir: Path | None) -> Trace:
    if row.run is None or row.hash is None:
        missing = "the row was not loaded by a run that this ledger knows"
        return Trace(run=None, dataset=None, source=None, loaded_at=None, missing=missing)
    record = row.first_record + row.place - 1
    result = Trace(run=row.run, dataset=row.dataset, source=row.source, loaded_at=row.loaded_at, record=record)
    try:
        location = _locate(row, config_dir)
    except SourceError as error:
        return replace(result, missing=str(error))
    return replace(result, offset=location.offset, text=location.text.decode("utf-8", errors="replace"))


def _locate(row: _Lineage, config_dir: Path | None) -> RecordLocation:
    """Return the record of a row in its source.

    Raises SourceError when the source does not exist any more, or has changed.
    """
    with opened(_source(row)) as stream:
        data = _range(stream, row.offset, row.length)
    if hash_of(data) != row.hash:
        raise SourceError(f"{row.source} has other content now")
    for shape in get_args(PieceShape):
        piece = Piece(
            offset=row.offset, count=row.count_records, first_record=row.first_record, parts=(data,), shape=shape
        )
        # The ledger does not hold the shape of the piece: the right shape gives the right number of records.
        with suppress(NotJSON, ValueError):
            locations = locate(piece, range(1, row.count_records + 2))
            if len(locations) == row.count_records:
                return locations[row.place]
    return _in_pages(row, config_dir)


def _in_pages(row: _Lineage, config_dir: Path | None) -> RecordLocation:
    """Return the record of a row whose batch has records of several arrays: the source is cut again up to it.

    Raises SourceError when the records are not at the path at which they were loaded.
    """
    option = _RECORDS.search(row.options or "")
    path = shlex.split(option[1])[0] if option else "item"
    if not option and config_dir is not None and row.dataset is not None:
        with suppress(DefinitionError):
            path = datasets.find(row.dataset, config_dir).records
    number = row.first_record + row.place - 1
    how = CutOptions(format="auto", records_path=path, batch_rows=row.count_records)
    with opened(_source(row)) as stream:
        for piece in cut(stream, how):
            if piece.last_record >= number:
                place = number - piece.first_record + 1
                return locate(piece, [place])[place]
    raise SourceError(f"the records of {row.source} cannot be separated")


def _source(row: _Lineage) -> Source:
    """Return the source of a row.

    Raises SourceError when it is no file, or does not exist any more.
    """
    path = Path(row.folder or "", row.source)
    option = _ENCODING.search(row.options or "")
    encoding = shlex.split(option[1])[0] if option else "auto"
    source = Source(name=row.source, path=str(path), encoding=encoding)
    if row.source != "-" and "://" not in row.source:
        if path.is_file():
            return source
        if archives.SEPARATOR in row.source and (member := archives.member_of(source)):
            return member
    raise SourceError(f"{row.source} is not a file that exists now")


def _range(stream: Stream, offset: int, length: int) -> bytes:
    """Return bytes of the decompressed source: by a seek in a plain file, else by reading up to them."""
    if stream.plain_path:
        with Path(stream.plain_path).open("rb") as file:
            file.seek(offset)
            return file.read(length)
    while stream.position < offset and stream.read(min(1 << 20, offset - stream.position)):
        pass
    parts = []
    while length > 0 and (data := stream.read(length)):
        parts.append(data)
        length -= len(data)
    return b"".join(parts)
