"""The results of the functions: frozen values, which a notebook shows as tables. Knows no database and no file."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from html import escape
from pathlib import Path
from typing import Any, Literal

from etl.datasets import Dataset
from etl.errors import ExitCode
from etl.inference.writing import Sample
from etl.ingestion.ledger.failures import State
from etl.ingestion.ledger.history import RunRow
from etl.ingestion.pipeline.replay import ReplayResult
from etl.ingestion.pipeline.undoing import UndoResult
from etl.ingestion.summary import Summary
from etl.precalculation.refresh import RefreshResult

_MOST_ROWS = 200
"""The rows of a table in a notebook; the value has all."""


class Precalculated(tuple[RefreshResult, ...]):
    """The refreshed aggregates."""

    __slots__ = ()

    def _repr_html_(self) -> str:
        rows = ((each.aggregate, each.buckets, each.rows, round(each.seconds, 3)) for each in self)
        return _table("aggregates", ("aggregate", "buckets", "rows", "seconds"), rows)


@dataclass(frozen=True, kw_only=True)
class Loaded:
    """The result of a load: the summary of each source and dataset (C4), and the refreshed aggregates."""

    exit_code: ExitCode
    sources: tuple[Summary, ...]
    precalculated: Precalculated

    def _repr_html_(self) -> str:
        headings = ("dataset", "source", "status", "read", "loaded", "rejected", "skipped", "waiting", "seconds", "run")
        rows = (
            (
                *(each.dataset, each.source, f"dry run: {each.status}" if each.dry_run else each.status),
                *(each.records.read, each.records.loaded, each.records.rejected, each.records.skipped),
                *(each.records.pending, round(each.seconds, 3), each.run),
            )
            for each in self.sources
        )
        return _table("loaded", headings, rows)


@dataclass(frozen=True, kw_only=True)
class Replays:
    """The results of a replay: one for each file of the failed store that was loaded, and the refreshed aggregates."""

    exit_code: ExitCode
    replayed: tuple[ReplayResult, ...]
    precalculated: Precalculated

    def _repr_html_(self) -> str:
        rows = ((each.id, each.dataset, each.loaded, each.rejected, each.failed) for each in self.replayed)
        return _table("replayed", ("id", "dataset", "loaded", "rejected", "failed"), rows)


@dataclass(frozen=True, kw_only=True)
class FailedRecord:
    """A record of the failed store: its number and byte in its source, and why it was refused.

    `key` and `text` are content of the record: they are None unless they were asked for.
    """

    record: int
    offset: int
    table: str | None
    column: str | None
    sqlstate: str
    reason: str
    key: str | None = None
    text: str | None = None


@dataclass(frozen=True, kw_only=True)
class FailedFile:
    """A file of the failed store: what it is of, its state, and its records.

    `path` is the file to correct. `records` is empty, and `missing` says why, where the file cannot be read; `count` is
    the number of records by the ledger.
    """

    id: str
    run: str
    dataset: str
    source: str
    kind: Literal["rejected", "failed"]
    state: State
    created_at: datetime
    attempts: int
    count: int
    path: Path | str
    records: tuple[FailedRecord, ...]
    missing: str | None = None


class Failures(tuple[FailedFile, ...]):
    """Files of the failed store, the oldest first."""

    __slots__ = ()

    def _repr_html_(self) -> str:
        headings = ("id", "dataset", "source", "state", "record", "at byte", "column", "sqlstate", "reason")
        has_text = any(record.text is not None for each in self for record in each.records)
        return _table("failed store", (*headings, "text") if has_text else headings, self._rows(has_text=has_text))

    def _rows(self, *, has_text: bool) -> Iterator[tuple[Any, ...]]:
        for each in self:
            of = (each.id, each.dataset, each.source, each.state)
            if each.missing is not None:
                yield (*of, None, None, None, None, each.missing, *([None] if has_text else []))
            for record in each.records:
                column = ".".join(filter(None, (record.table, record.column)))
                fault = (record.record, record.offset, column, record.sqlstate, record.reason)
                yield (*of, *fault, *([record.text] if has_text else []))


class Runs(tuple[RunRow, ...]):
    """Runs, the newest first."""

    __slots__ = ()

    def _repr_html_(self) -> str:
        headings = ("run", "started", "dataset", "source", "status", "records", "rejected", "waiting", "next")
        rows = (
            (
                *(each.run, f"{each.started_at:%Y-%m-%d %H:%M:%S %Z}", each.dataset, each.source, each.status),
                *(each.records, each.rejected, each.pending, each.next),
            )
            for each in self
        )
        return _table("runs", headings, rows)


@dataclass(frozen=True, kw_only=True)
class Undone:
    """A run that was taken back, or would be, and the refreshed aggregates."""

    result: UndoResult
    precalculated: Precalculated

    def _repr_html_(self) -> str:
        rows = ((each.table, each.rows_deleted, each.rows_before, each.rows_after) for each in self.result.tables)
        title = f"{self.result.run}: {self.result.status.replace('_', ' ')}"
        return _table(title, ("table", "deleted", "before", "after"), rows)


@dataclass(frozen=True, kw_only=True)
class Created:
    """A dataset whose tables are complete, by the names of these tables."""

    dataset: str
    tables: tuple[str, ...]

    def _repr_html_(self) -> str:
        return _table(f"tables of {self.dataset}", ("table",), ((name,) for name in self.tables))


@dataclass(frozen=True, kw_only=True)
class Proposed:
    """A proposed definition: as a value, as the text of its file, and the sample that it is based on.

    `path` is the file, if it was written.
    """

    dataset: Dataset
    text: str
    sample: Sample
    path: Path | None

    def _repr_html_(self) -> str:
        return f"<pre>{escape(self.text)}</pre>"


def _table(title: str, headings: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """Return a table as HTML; every text is escaped, because sources, reasons and records come from elsewhere."""
    lines = [
        f"<table><caption>{escape(title)}</caption>",
        f"<thead><tr>{''.join(f'<th>{escape(each)}</th>' for each in headings)}</tr></thead>",
        "<tbody>",
    ]
    count = 0
    for count, row in enumerate(rows, 1):
        if count <= _MOST_ROWS:
            lines.append(f"<tr>{''.join(f'<td>{_cell(each)}</td>' for each in row)}</tr>")
    lines.append("</tbody></table>")
    if count > _MOST_ROWS:
        lines.append(f"<p>{count - _MOST_ROWS:,} more rows</p>")
    return "\n".join(lines)


def _cell(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:,}" if isinstance(value, int | float) else escape(str(value))
