"""The answers for operators as values: runs, failures, datasets and traces. None has the content of a record."""

from dataclasses import dataclass
from datetime import datetime

from etl.ingestion.ledger.failures import StoredFailure
from etl.ingestion.ledger.history import AttemptRow, FaultRow, RunRow
from etl.serving.replaying import ReplayState


@dataclass(frozen=True, kw_only=True)
class Runs:
    """Runs, the newest first. `more`: there are more that match; `next` is the token `after` of their page."""

    runs: list[RunRow]
    more: bool
    next: str | None


@dataclass(frozen=True, kw_only=True)
class Run:
    """A run with its attempts, and with the faults of its refused records."""

    run: RunRow
    attempts: list[AttemptRow]
    faults: list[FaultRow]


@dataclass(frozen=True, kw_only=True)
class FailureList:
    """Files of the failed store, in the order of their creation.

    `more`: there are more that match; `next` is the token `after` of their page.
    """

    failures: list[StoredFailure]
    more: bool
    next: str | None


@dataclass(frozen=True, kw_only=True)
class FailureEntry:
    """A file of the failed store. `waiting` names pending files with the records that its replays were refused.

    `replay` is the newest replay that this process was asked for; what counts is the state of the file.
    """

    failure: StoredFailure
    waiting: list[str]
    replay: ReplayState | None


@dataclass(frozen=True, kw_only=True)
class ReplayBegun:
    """A replay that has begun; `result` is the address that says how it ends."""

    id: str
    result: str
    replay: ReplayState


@dataclass(frozen=True, kw_only=True)
class StreamEntry:
    """The events of one dataset and day: those that are loaded, up to a byte of the stream, and those that wait.

    What waits is known to a service that takes the events; `waiting_seconds` is the age of the oldest of them.
    `refused_events` of the loaded ones wait in the failed store.
    """

    stream: str
    dataset: str
    loaded_events: int
    loaded_to: int
    loaded_at: datetime | None
    run: str | None
    refused_events: int
    waiting_events: int | None
    waiting_bytes: int | None
    waiting_seconds: float | None


@dataclass(frozen=True, kw_only=True)
class Streams:
    """The newest streams; `is_taking`: this service takes events."""

    streams: list[StreamEntry]
    is_taking: bool


@dataclass(frozen=True, kw_only=True)
class DatasetColumn:
    """A column of a table that a dataset fills."""

    name: str
    type: str
    comment: str | None


@dataclass(frozen=True, kw_only=True)
class DatasetTable:
    """A table that a dataset fills."""

    name: str
    comment: str | None
    columns: list[DatasetColumn]


@dataclass(frozen=True, kw_only=True)
class DatasetEntry:
    """A dataset: how its records become rows."""

    name: str
    mode: str
    key: list[str]
    newest_by: str | None
    tables: list[DatasetTable]


@dataclass(frozen=True, kw_only=True)
class Datasets:
    """The datasets of this installation."""

    datasets: list[DatasetEntry]


@dataclass(frozen=True, kw_only=True)
class TracedRecord:
    """Where the record of a row is: its source, its number and its first byte. `missing` says why one is not known."""

    run: str | None
    dataset: str | None
    source: str | None
    loaded_at: datetime | None
    record: int | None
    offset: int | None
    missing: str | None


@dataclass(frozen=True, kw_only=True)
class Traced:
    """The records that the rows with some values came from. `more`: there are more such rows."""

    table: str
    records: list[TracedRecord]
    more: bool
