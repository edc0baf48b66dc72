"""The rows that the first records of a source become, and the faults of these records; needs no database."""

from collections.abc import Iterator

from etl.datasets import Dataset, Table
from etl.ingestion.failed_store.locating import locate
from etl.ingestion.framing.documents import require_path
from etl.ingestion.framing.pieces import CutOptions, cut
from etl.ingestion.framing.splitting import RecordLimit
from etl.ingestion.pipeline.document_members import resolved
from etl.ingestion.sources.stream import opened
from etl.ingestion.transform.paths import CheckedPath
from etl.ingestion.transform.projection import Projection
from etl.ingestion.values import Batch, Fault, Rows, Source
from etl.quick_dataclasses import dataclass
from etl.settings import Format

# The escapes of COPY's text format for characters that would end a field or a row.
_ESCAPES = {"b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v"}


@dataclass(frozen=True, kw_only=True)
class RecordPreview:
    """One record: its number (from 1), its byte (from 0), its rows as (table, values by column), and its fault."""

    record: int
    offset: int
    rows: tuple[tuple[str, dict[str, str | None]], ...]
    fault: Fault | None


def preview(source: Source, dataset: Dataset, format: Format, records: str, limit: int) -> Iterator[RecordPreview]:
    """Yield previews of the first `limit` records.

    Raises UsageError for a records path that names no array, SourceError when the source cannot be read that far.
    """
    require_path(records)
    with opened(source) as stream:
        how = CutOptions(format=format, records_path=records, batch_rows=limit)
        of_source = resolved(dataset.of_source(source.name), stream, how)
        path = CheckedPath(Projection(of_source), 0)
        within = RecordLimit(limit, 1)
        for piece in cut(stream, how):
            for batch in path.batching(within.within(piece) or piece):
                if batch is not None:
                    yield from _previews(batch, of_source)
            if within.is_reached:
                break


def _previews(batch: Batch, dataset: Dataset) -> Iterator[RecordPreview]:
    faults = {record.place: record.fault for record in batch.rejected}
    rows: dict[int, list[tuple[str, dict[str, str | None]]]] = {}
    for table, parts in zip(dataset.tables, batch.tables, strict=True):
        for part in parts:
            for place, values in _values(table, part):
                rows.setdefault(place, []).append((table.name, values))
    for place, location in locate(batch.piece, batch.places).items():
        yield RecordPreview(
            record=location.record,
            offset=location.offset,
            rows=tuple(rows.get(place, ())),
            fault=faults.get(place),
        )


def _values(table: Table, part: Rows) -> Iterator[tuple[int, dict[str, str | None]]]:
    """Yield each row in COPY's text format: the place of its record, and its values by column."""
    names = [column.name for column in table.columns]
    for line in b"".join(part.encoded()).decode().split("\n")[:-1]:
        *fields, _run, _batch, place = line.split("\t")
        yield int(place), dict(zip(names, map(_plain, fields), strict=True))


def _plain(field: str) -> str | None:
    if field == "\\N":
        return None
    first, *others = field.split("\\\\")
    return "\\".join(_unescaped(part) for part in (first, *others))


def _unescaped(part: str) -> str:
    first, *escaped = part.split("\\")
    return first + "".join(_ESCAPES.get(text[:1], text[:1]) + text[1:] for text in escaped)
