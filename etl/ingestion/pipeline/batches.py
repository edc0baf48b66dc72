"""The fate of one batch: COPY with its ledger row, isolation of what the server refuses, the failed store for the rest.

Whatever happens, a batch and its entry in the ledger commit together, and only when what was refused of it is safe on
disk.
"""

import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from functools import partial
from typing import Protocol

import psycopg
import structlog
from tenacity import Retrying

from etl.database.connecting import Database
from etl.datasets import Dataset
from etl.errors import BusyError, InternalError
from etl.ingestion.destination import refusals
from etl.ingestion.destination.copying import Copier
from etl.ingestion.destination.isolation import isolate
from etl.ingestion.destination.sending import Exchange, Wire
from etl.ingestion.failed_store.failure import Kind, Origin, build_failure
from etl.ingestion.failed_store.locating import RecordLocation
from etl.ingestion.failed_store.store import FailedStore
from etl.ingestion.framing import decoding
from etl.ingestion.transform.projection import Projection
from etl.ingestion.values import Batch, CopyResult, Entry, Failure, Fault, Rejected

log = structlog.get_logger(__name__)


class LedgerWriter(Protocol):
    """Where a batch is claimed and entered: by a load as a batch of its run, by a replay as records of a failure."""

    def claim(self, connection: psycopg.Connection, batch: Batch) -> bool:
        """Claim the batch before its rows are sent; False when an earlier transaction did it already."""

    def enter(self, connection: psycopg.Connection, batch: Batch, entry: Entry, stored: Iterable[Failure]) -> None:
        """Enter what became of it."""

    def origin(self, batch: Batch) -> Origin:
        """Return where records of the batch come from, for the failed store."""

    def locate(self, batch: Batch, places: Collection[int]) -> Mapping[int, RecordLocation]:
        """Return where these records stand in the source, and their text."""


@dataclass(frozen=True, kw_only=True)
class _BatchOutcome:
    """What a try made of a batch: the rows kept of each table, and what goes to the failed store."""

    rows: tuple[int, ...]
    rejected: Sequence[Rejected]
    failed: Sequence[Rejected] = ()
    duplicates: int = 0


_Fill = Callable[[Exchange, Batch], _BatchOutcome]


@dataclass(frozen=True, kw_only=True)
class _Refusal:
    """Why a batch stays refused, and whether its data is at fault."""

    fault: Fault
    is_of_data: bool


@dataclass(frozen=True, kw_only=True)
class Loader:
    """Loads the batches of one run, one after the other, over one session.

    `rebuild` yields a batch that the server refused as each stricter path makes it.
    """

    database: Database
    wire: Wire
    store: FailedStore
    copier: Copier
    projection: Projection
    ledger_writer: LedgerWriter
    retrying: Retrying
    rebuild: Callable[[Batch], Iterable[Batch]] = lambda _batch: ()

    def load(self, batch: Batch) -> Entry:
        """Load a batch: what is transient is tried again, what the data refuses is isolated, the rest is stored.

        Returns what became of it.

        Raises DatabaseError when the database or the disk of the failed store is away for good.
        """
        started = time.monotonic()
        try:
            end = self._try(batch, self._copied)
            if isinstance(end, _Refusal) and end.is_of_data:
                for stricter in self.rebuild(batch):
                    batch, end = stricter, self._try(stricter, self._copied)
                    if not isinstance(end, _Refusal) or not end.is_of_data:
                        break
            if isinstance(end, _Refusal) and end.is_of_data:
                end = self._try(batch, self._isolated)
            if isinstance(end, _Refusal):
                if batch.path == "fast":  # which leaves to the server what can never load
                    batch = next(iter(self.rebuild(batch)), batch)
                log.warning("batch_failed", offset=batch.piece.offset, sqlstate=end.fault.sqlstate)
                end = self._commit(batch, partial(self._stored, fault=end.fault))
        except psycopg.Error as error:
            raise refusals.as_etl_error(error, self.database) from error
        log.debug(
            "batch_loaded",
            offset=batch.piece.offset,
            records=batch.piece.count,
            rejected=end.rejected,
            seconds=round(time.monotonic() - started, 3),
        )
        return end

    def _try(self, batch: Batch, fill: _Fill) -> Entry | _Refusal:
        """Commit a batch filled this way, or return why it stays refused."""
        try:
            return self._commit(batch, fill)
        except psycopg.Error as error:
            meaning = refusals.meaning(error)
            if meaning not in {"data", "contended"}:
                raise
            refusal = _Refusal(fault=refusals.fault(error), is_of_data=meaning == "data")
            log.debug("batch_refused", offset=batch.piece.offset, sqlstate=refusal.fault.sqlstate)
            return refusal

    def _copied(self, exchange: Exchange, batch: Batch) -> _BatchOutcome:
        return self._outcome(batch, self.copier.copy(exchange, batch))

    def _isolated(self, exchange: Exchange, batch: Batch) -> _BatchOutcome:
        self.copier.make_ready(exchange.connection)
        dataset = self.projection.dataset
        return self._outcome(batch, isolate(exchange, dataset, batch, self.copier.applying, self.copier.settle))

    def _outcome(self, batch: Batch, copied: CopyResult) -> _BatchOutcome:
        if not copied.faults:
            return _BatchOutcome(rows=copied.rows, rejected=batch.rejected, duplicates=copied.duplicates)
        refused = self._with_keys(batch, copied.faults)
        rejected = sorted([*batch.rejected, *refused], key=lambda record: record.place)
        return _BatchOutcome(rows=copied.rows, rejected=rejected, duplicates=copied.duplicates)

    def _stored(self, _exchange: Exchange, batch: Batch, *, fault: Fault) -> _BatchOutcome:
        """Leave the batch to the failed store as a whole, but for the records rejected already."""
        already = {record.place for record in batch.rejected}
        failed = self._with_keys(batch, {place: fault for place in batch.places if place not in already})
        return _BatchOutcome(rows=tuple(0 for _ in batch.rows), rejected=batch.rejected, failed=failed)

    def _with_keys(self, batch: Batch, faults: Mapping[int, Fault]) -> list[Rejected]:
        located = self.ledger_writer.locate(batch, faults)
        refused = []
        for place, fault in faults.items():
            record = decoding.decode_one(located[place].text, is_keyed=located[place].is_keyed)
            key = None if isinstance(record, Fault) else self.projection.key_of(record)
            refused.append(Rejected(place=place, key=key, fault=fault))
        return refused

    def _commit(self, batch: Batch, fill: _Fill) -> Entry:
        """Claim, fill and enter a batch in one transaction, which commits when its failures are safe on disk."""
        entries: list[Entry] = []

        def once() -> None:
            exchange = self.wire.exchange()
            connection = exchange.connection
            with connection.transaction():
                if not self.ledger_writer.claim(connection, batch):
                    return  # The try before this one committed although its connection was lost.
                # What the data checks reject is written while the rows are sent; nearly always that is all.
                stored = self._store(batch, "rejected", batch.rejected)
                filled = fill(exchange, batch)
                if len(filled.rejected) > len(batch.rejected):
                    stored = self._store(batch, "rejected", filled.rejected)
                stored += self._store(batch, "failed", filled.failed)
                for _, safe in stored:
                    safe.result()
                entries.append(_entry(batch, filled, self.projection.dataset))
                self.ledger_writer.enter(connection, batch, entries[-1], [failure for failure, _ in stored])

        self.retrying(once)
        if not entries:
            raise BusyError(f"the batch at byte {batch.piece.offset} was entered by another load")
        return entries[-1]

    def _store(self, batch: Batch, kind: Kind, kept: Sequence[Rejected]) -> list[tuple[Failure, Future[None]]]:
        if not kept:
            return []
        located = self.ledger_writer.locate(batch, {record.place for record in kept})
        failure = build_failure(self.ledger_writer.origin(batch), kind, kept, located)
        return [(failure, self.store.write(failure))]


def _entry(batch: Batch, filled: _BatchOutcome, dataset: Dataset) -> Entry:
    """Return what is entered of a batch: the records loaded are the rows of records that the server counted."""
    loaded = sum(count for table, count in zip(dataset.tables, filled.rows, strict=True) if not table.each)
    entry = Entry(
        loaded=loaded,
        rejected=len(filled.rejected),
        failed=len(filled.failed),
        rows=filled.rows,
        policy_effects=replace(batch.policy_effects, duplicates=filled.duplicates),
    )
    if entry.loaded + entry.rejected + entry.failed != batch.piece.count:
        raise InternalError(f"of {batch.piece.count} records at byte {batch.piece.offset} the server counted {entry}")
    return entry
