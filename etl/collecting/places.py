"""What became of an event: it waits, is loaded, or is rejected, with the reason."""

from dataclasses import dataclass
from pathlib import Path

import psycopg

from etl.collecting import segments
from etl.collecting.buffers import Reader
from etl.errors import EtlError
from etl.ingestion.failed_store.store import FailedStore
from etl.ingestion.ledger import runs, streams
from etl.ingestion.ledger.streams import PlacedBatch
from etl.settings import Url


@dataclass(frozen=True, kw_only=True)
class Fate:
    """What became of an event. `run` and the columns after it are None while it waits.

    `status` is waiting, loaded, rejected, failed, discarded, superseded, undone, or unknown.
    """

    status: str
    run: str | None = None
    loaded_at: str | None = None
    failure: str | None = None
    table: str | None = None
    column: str | None = None
    sqlstate: str | None = None
    reason: str | None = None


def fate_of(
    connection: psycopg.Connection, reader: Reader, failed_dir: Path | Url, stream: str, offset: int
) -> Fate | None:
    """Return what became of the event at a place; None: no event is known there.

    Raises UnreadableError when the buffer cannot be read.
    """
    dataset = segments.dataset_of(stream)
    if dataset is None:
        return None
    position = streams.position(connection, stream)
    if position is None or offset >= position.loaded_to:
        is_there = any(each.name == stream and each.has(offset) for each in reader.streams(dataset))
        return Fate(status="waiting") if is_there else None
    batch = streams.batch_of_place(connection, stream, offset)
    if batch is None:
        return None
    at = f"{batch.loaded_at:%Y-%m-%dT%H:%M:%SZ}"
    if batch.is_undone:
        return Fate(status="undone", run=batch.run, loaded_at=at)
    refused = _refused(connection, failed_dir, batch, offset, at) if batch.refused else None
    return refused or Fate(status="loaded", run=batch.run, loaded_at=at)


def _refused(
    connection: psycopg.Connection, failed_dir: Path | Url, batch: PlacedBatch, offset: int, at: str
) -> Fate | None:
    """Return the fault of an event by the failed store; None: it is in no file that was not replayed."""
    store = FailedStore(failed_dir)
    store.belong_to(runs.database_id(connection))
    for failure in streams.failures_of_batch(connection, batch):
        if failure.state == "replayed":
            continue
        try:
            details = store.details(failure.dataset, failure.run, failure.id)
        except (EtlError, OSError):
            return Fate(status="unknown", run=batch.run, loaded_at=at, reason="the failed store cannot be read here")
        for record in details.records:
            if record.offset == offset:
                return Fate(
                    status=failure.kind if failure.state == "pending" else failure.state,
                    run=batch.run,
                    loaded_at=at,
                    failure=failure.id,
                    table=record.table,
                    column=record.column,
                    sqlstate=record.sqlstate,
                    reason=record.reason,
                )
    return None
