"""The streams of events in the ledger: how far each is loaded, and the runs that take their stretches (decision 23)."""

import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import psycopg

from etl import queries
from etl.errors import InternalError
from etl.ingestion.ledger import runs
from etl.ingestion.ledger.runs import AttemptRequest, Run
from etl.ingestion.values import Entry, Piece
from etl.settings import Mode

_SQL = queries.load("streams")
_COPYING = queries.load("copying")


@dataclass(frozen=True, kw_only=True)
class Position:
    """How far a stream is loaded: up to a byte, and so many events."""

    stream: str
    dataset: str
    loaded_to: int
    count_events: int
    run: str | None
    loaded_at: datetime | None


@dataclass(frozen=True, kw_only=True)
class StreamRow(Position):
    """How far a stream is loaded; `count_refused` of its events wait in the failed store for a replay."""

    count_refused: int


@dataclass(frozen=True, kw_only=True)
class PlacedBatch:
    """The batch that has an event; `refused` of its records did not load at first."""

    run: str
    offset: int
    end: int
    refused: int
    loaded_at: datetime
    is_undone: bool


@dataclass(frozen=True, kw_only=True)
class KeptFailure:
    """A file of the failed store that keeps records of a batch."""

    id: str
    run: str
    dataset: str
    kind: str
    state: str


@dataclass(frozen=True)
class EventKey:
    """A request with an idempotency key: digests of key and events, the stream, its first byte, its events' lengths."""

    key: str
    body: str
    stream: str
    offset: int
    lengths: list[int]


class KeyTakenError(Exception):
    """Another transaction has loaded a request with the same idempotency key."""


@dataclass(frozen=True, kw_only=True)
class NewStretch:
    """A stretch of a stream that a run takes, and what decides which rows its events become.

    `versions_of` is the table with the digests of the records, None without one. `is_examined`: unknown members are
    counted or refused. `definition` is the number of the definition in the digests. `newest_by` is the column that says
    which version of a key is the newest.
    """

    stream: str
    dataset: str
    definition_hash: str
    mode: Mode
    versions_of: str | None
    definition: int
    is_examined: bool
    newest_by: str | None


def position(connection: psycopg.Connection, stream: str) -> Position | None:
    """Return how far a stream is loaded; None: nothing of it is known."""
    return next(iter(queries.rows_as(Position, connection, _SQL["position"], {"stream": stream})), None)


def positions(connection: psycopg.Connection, dataset: str | None = None) -> list[Position]:
    """Return how far each stream is loaded, the newest last."""
    return queries.rows_as(Position, connection, _SQL["positions"], {"dataset": dataset})


def newest(connection: psycopg.Connection, limit: int) -> list[StreamRow]:
    """Return the streams that began last, the newest first."""
    return queries.rows_as(StreamRow, connection, _SQL["newest_streams"], {"limit": limit})


def begin(connection: psycopg.Connection, stream: str, dataset: str) -> Position:
    """Return how far a stream is loaded, and enter it if it is new."""
    connection.execute(_SQL["begin_stream"], {"stream": stream, "dataset": dataset})
    found = position(connection, stream)
    if found is None:
        raise InternalError("the ledger does not have the stream that was entered")
    return found


def current_run(connection: psycopg.Connection, stretch: NewStretch) -> tuple[str, int] | None:
    """Return the name and the number of the run that takes the next group; None: a new one has to.

    In a merge the later run wins, so a new run begins after each run of others.
    """
    row = connection.execute(_SQL["run_of_stream"], vars(stretch)).fetchone()
    return (row[0], row[1]) if row else None


def open_run(connection: psycopg.Connection, stretch: NewStretch, loaded_to: int) -> tuple[str, int]:
    """Enter a new run for the next groups of a stream; return its name and number."""
    run = f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}-{secrets.token_hex(3)}"
    unknown_of = 0 if stretch.is_examined else stretch.definition
    values = vars(stretch) | {"run": run, "loaded_to": loaded_to, "unknown_of": unknown_of}
    row = connection.execute(_SQL["open_run"], values).fetchone()
    if row is None:
        raise InternalError("the ledger gave no number to the run")
    if stretch.versions_of is not None:
        runs.note_versions(connection, run, stretch.versions_of, compares=False)
    return run, int(row[0])


def open_attempt(connection: psycopg.Connection, run: str, number: int, mode: Mode, request: AttemptRequest) -> Run:
    """Enter an attempt of a run of a stream: the work of one process on it."""
    row = connection.execute(_SQL["open_attempt"], {"run": run} | runs.who() | vars(request)).fetchone()
    if row is None:
        raise InternalError("the ledger gave no number to the attempt")
    return Run(run=run, number=number, attempt=int(row[0]), mode=mode, is_atomic=False, was_finished=True)


def lock_position(connection: psycopg.Connection, stream: str) -> int | None:
    """Return how far a stream is loaded, and let nobody else move that until the transaction ends."""
    row = connection.execute(_SQL["lock_position"], {"stream": stream}).fetchone()
    return int(row[0]) if row else None


def enter_group(connection: psycopg.Connection, stretch: NewStretch, run: Run, piece: Piece, entry: Entry) -> None:
    """Note that a group is loaded, in the transaction that loads it, which then waits for the disk of the server."""
    connection.execute(_COPYING["await_flush"])
    end = piece.offset + piece.length
    connection.execute(_SQL["move_position"], {"stream": stretch.stream, "end": end, "count": piece.count})
    has_refused = entry.rejected + entry.failed > 0
    values = {"run": run.run, "attempt": run.attempt, "count": piece.count, "bytes": piece.length}
    connection.execute(_SQL["note_group"], values | {"exit_code": int(has_refused)})
    has_unknown = bool(entry.policy_effects.unknown) or not stretch.is_examined
    of_run = {"run": run.run, "end": end, "has_unknown": has_unknown, "definition": stretch.definition}
    connection.execute(_SQL["finish_group"], of_run)


def known_keys(connection: psycopg.Connection, dataset: str, keys: Sequence[str]) -> dict[str, EventKey]:
    """Return the requests with these keys whose events were loaded at once, by their keys."""
    found = queries.rows_as(EventKey, connection, _SQL["known_keys"], {"dataset": dataset, "keys": list(keys)})
    return {each.key: each for each in found}


def enter_keys(connection: psycopg.Connection, dataset: str, keys: Sequence[EventKey]) -> None:
    """Note requests whose events are loaded in this transaction.

    Raises KeyTakenError when another transaction has noted one of the keys.
    """
    if keys:
        with connection.cursor() as cursor:
            cursor.executemany(_SQL["enter_key"], [vars(key) | {"dataset": dataset} for key in keys])
            if cursor.rowcount != len(keys):
                raise KeyTakenError


def forget_keys(connection: psycopg.Connection, dataset: str, seconds: float) -> None:
    """Remove the requests that are older than so many seconds."""
    connection.execute(_SQL["forget_keys"], {"dataset": dataset, "seconds": seconds})


def batch_of_place(connection: psycopg.Connection, stream: str, offset: int) -> PlacedBatch | None:
    """Return the batch that has the event at a place; None: no batch has it, or runs were taken out of the ledger."""
    values = {"stream": stream, "offset": offset}
    return next(iter(queries.rows_as(PlacedBatch, connection, _SQL["batch_of_place"], values)), None)


def failures_of_batch(connection: psycopg.Connection, batch: PlacedBatch) -> list[KeptFailure]:
    """Return the files of the failed store that keep records of a batch, the newest first."""
    values = {"run": batch.run, "offset": batch.offset, "end": batch.end}
    return queries.rows_as(KeptFailure, connection, _SQL["failures_of_batch"], values)
