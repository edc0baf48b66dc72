"""One batch: COPY with its ledger row, isolation when the server refuses it, the failed store for what does not load.

A batch and its entry in the ledger always commit together, and only when the refused records are safe on disk.
"""

import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import replace
from functools import partial
from typing import Protocol

import psycopg
import structlog
from tenacity import RetryCallState, Retrying

from etl import retrying
from etl.database.connecting import Database, connect
from etl.database.sqlstates import code_of
from etl.datasets import Dataset
from etl.errors import BusyError, DatabaseError, EtlError, InternalError, UsageError
from etl.ingestion.destination import refusals
from etl.ingestion.destination.copying import Copier
from etl.ingestion.destination.sending import Exchange, Waiting, Wire
from etl.ingestion.failed_store.failure import Kind, Origin, build_failure
from etl.ingestion.failed_store.locating import RecordLocation
from etl.ingestion.failed_store.store import FailedStore
from etl.ingestion.framing import decoding
from etl.ingestion.transform.projection import Projection
from etl.ingestion.values import Batch, CopyResult, Entry, Failure, Fault, PolicyEffects, Rejected
from etl.quick_dataclasses import dataclass
from etl.settings import RetrySettings

log = structlog.get_logger(__name__)


class LedgerWriter(Protocol):
    """Claims and enters a batch in the ledger: a load as a batch of its run, a replay as records of a failure."""

    def claim(self, connection: psycopg.Connection, batch: Batch) -> bool:
        """Claim the batch before its rows are sent; False when an earlier transaction did it already."""

    def enter(self, connection: psycopg.Connection, batch: Batch, entry: Entry, stored: Sequence[Failure]) -> None:
        """Enter the counts of a batch and its failures."""

    def require_failable(self, connection: psycopg.Connection, batch: Batch, fault: Fault) -> None:
        """Raise DatabaseError when the load must stop instead of leaving this batch to the failed store."""

    def entered(self, connection: psycopg.Connection, batch: Batch) -> Entry | None:
        """Return the result of a batch that was claimed before, if that was for the same task; None otherwise."""

    def origin(self, batch: Batch) -> Origin:
        """Return the origin of the records of a batch, for the failed store."""

    def locate(self, batch: Batch, places: Collection[int]) -> Mapping[int, RecordLocation]:
        """Return the location of these records in the source, and their text."""


@dataclass(frozen=True, kw_only=True)
class _BatchOutcome:
    """The outcome of one try: the rows kept of each table, and the records for the failed store."""

    rows: tuple[int, ...]
    rejected: Sequence[Rejected]
    policy_effects: PolicyEffects
    failed: Sequence[Rejected] = ()
    duplicates: int = 0
    kept_rows: tuple[int, ...] = ()
    unchanged: int = 0
    firsts: int = 0


_Write = Callable[[Exchange, Batch], Waiting[_BatchOutcome]]


@dataclass(frozen=True, kw_only=True)
class _Refusal:
    """Why a batch stays refused, and whether the fault is in its data."""

    fault: Fault
    is_of_data: bool


def retry_policy(
    settings: RetrySettings,
    before_retry: Callable[[], None],
    sleep: Callable[[float], None] = time.sleep,
    *,
    event: str = "batch_retried",
    is_transient: Callable[[BaseException], bool] = refusals.is_transient,
) -> Retrying:
    """Return the policy for a batch: only transient errors of the database are tried again.

    `before_retry` is called once for each retry, before its wait; `event` is logged.
    """

    def note(state: RetryCallState) -> None:
        before_retry()
        error = refusals.cause_of(state.outcome.exception() if state.outcome else None)
        log.warning(
            event,
            try_number=state.attempt_number,
            of=settings.attempts,
            sqlstate=None if error is None else code_of(error),
            wait_seconds=round(state.upcoming_sleep, 2),
        )

    return retrying.policy(settings, is_transient, note, sleep)


@dataclass(frozen=True, kw_only=True)
class Loader:
    """Loads the batches of one run, one after the other, over one session.

    `rebuild` yields a batch that the server refused as each stricter path makes it. `is_all_or_nothing`: a batch that
    does not load ends the run, instead of going to the failed store.
    """

    database: Database
    wire: Wire
    store: FailedStore
    copier: Copier
    projection: Projection
    ledger_writer: LedgerWriter
    retrying: Retrying
    rebuild: Callable[[Batch], Iterable[Batch]] = lambda _batch: ()
    is_all_or_nothing: bool = False

    def load(self, batch: Batch) -> Waiting[Entry]:
        """Load a batch and return its entry in the ledger.

        Transient errors are retried, faults of the data are isolated, and a batch that still does not load is stored.
        Raises DatabaseError when the database or the disk of the failed store is away for good.
        """
        started = time.monotonic()
        try:
            result = yield from self._try(batch, self._copy)
            if isinstance(result, _Refusal) and result.is_of_data:
                for stricter in self.rebuild(batch):
                    batch, result = stricter, (yield from self._try(stricter, self._copy))
                    if not isinstance(result, _Refusal) or not result.is_of_data:
                        break
            if isinstance(result, _Refusal) and result.is_of_data:
                result = yield from self._try(batch, self._isolate)
            if isinstance(result, _Refusal):
                if self.is_all_or_nothing:
                    raise _not_loaded(batch, result.fault)
                if batch.path == "fast":  # The fast path leaves faults of the data to the server.
                    batch = next(iter(self.rebuild(batch)), batch)
                log.warning("batch_failed", offset=batch.piece.offset, sqlstate=result.fault.sqlstate)
                result = yield from self._commit(batch, partial(self._leave_to_store, fault=result.fault))
        except psycopg.Error as error:
            raise self._explained(error) from error
        log.debug(
            "batch_loaded",
            offset=batch.piece.offset,
            records=batch.piece.count,
            rejected=result.rejected,
            seconds=round(time.monotonic() - started, 3),
        )
        return result

    def _explained(self, error: psycopg.Error) -> EtlError:
        """Return the error that ends the load, with its remedy; the transaction of the batch is rolled back."""
        if code_of(error) is None:  # The connection is lost; perhaps the server refuses a new one for good.
            try:
                connect(self.database).close()
            except UsageError as refused:
                return refused
            except (DatabaseError, psycopg.Error):
                pass
        if refusals.meaning(error) != "fix":
            return refusals.as_etl_error(error, self.database)
        try:
            connection = self.wire.session.connection()
        except psycopg.Error:
            return refusals.as_etl_error(error, self.database)
        return refusals.explained(error, self.database, connection, self.projection.dataset.tables)

    def _try(self, batch: Batch, write: _Write) -> Waiting[Entry | _Refusal]:
        """Commit a batch that is written this way, or return why it stays refused."""
        try:
            return (yield from self._commit(batch, write))
        except psycopg.Error as error:
            meaning = refusals.meaning(error)
            if write == self._copy and self.projection.dataset.has_server_types and refusals.may_be_of_value(error):
                meaning = "data"  # Isolation tells whether a value is refused; else it raises the error again.
            if meaning not in {"data", "contended"}:
                raise
            refusal = _Refusal(fault=refusals.fault(error), is_of_data=meaning == "data")
            log.debug("batch_refused", offset=batch.piece.offset, sqlstate=refusal.fault.sqlstate)
            return refusal

    def _copy(self, exchange: Exchange, batch: Batch) -> Waiting[_BatchOutcome]:
        if batch.unmade is None:
            return self._outcome(batch, (yield from self.copier.copy(exchange, batch)))
        unchanged = yield from self.copier.compare(exchange, batch.piece, batch.unmade.keys)
        made = batch.unmade.make(unchanged or ())
        copied = yield from self.copier.copy(exchange, made, is_compared=unchanged is not None)
        return self._outcome(made, replace(copied, unchanged=copied.unchanged + len(unchanged or ())))

    def _isolate(self, exchange: Exchange, batch: Batch) -> Waiting[_BatchOutcome]:
        batch = batch.made
        return self._outcome(batch, (yield from self.copier.isolate(exchange, batch)))

    def _outcome(self, batch: Batch, copied: CopyResult) -> _BatchOutcome:
        rejected: Sequence[Rejected] = batch.rejected
        if copied.faults:
            refused = self._with_keys(batch, copied.faults)
            rejected = sorted([*rejected, *refused], key=lambda record: record.place)
        return _BatchOutcome(
            rows=copied.rows,
            rejected=rejected,
            duplicates=copied.duplicates,
            kept_rows=copied.kept_rows,
            unchanged=copied.unchanged,
            firsts=copied.firsts,
            policy_effects=batch.policy_effects,
        )

    def _leave_to_store(self, exchange: Exchange, batch: Batch, *, fault: Fault) -> Waiting[_BatchOutcome]:
        """Leave all records of the batch to the failed store, except those that are rejected already."""
        batch = batch.made
        self.ledger_writer.require_failable(exchange.connection, batch, fault)
        already = {record.place for record in batch.rejected}
        failed = self._with_keys(batch, {place: fault for place in batch.places if place not in already})
        yield from ()  # No row is sent.
        return _BatchOutcome(
            rows=tuple(0 for _ in batch.rows),
            rejected=batch.rejected,
            failed=failed,
            policy_effects=batch.policy_effects,
        )

    def _with_keys(self, batch: Batch, faults: Mapping[int, Fault]) -> list[Rejected]:
        locations = self.ledger_writer.locate(batch, faults)
        refused = []
        for place, fault in faults.items():
            record = decoding.decode_one(locations[place].text, is_keyed=locations[place].is_keyed)
            key = None if isinstance(record, Fault) else self.projection.key_of(record)
            refused.append(Rejected(place=place, key=key, fault=fault))
        return refused

    def _commit(self, batch: Batch, write: _Write) -> Waiting[Entry]:
        """Commit a batch that is written this way; a transient error is tried again."""
        entries: list[Entry] = []
        for attempt in self.retrying:
            with attempt:
                yield from self._commit_once(batch, write, entries)
        if entries:
            return entries[-1]
        # An executor gives the task of a worker that died to another one, also when it had committed.
        entered = self.ledger_writer.entered(self.wire.session.connection(), batch)
        if entered is None:
            raise BusyError(f"the batch at byte {batch.piece.offset} was entered by another load")
        return entered

    def _commit_once(self, batch: Batch, write: _Write, entries: list[Entry]) -> Waiting[None]:
        """Claim, write and enter a batch in one transaction, which commits when its failures are safe on disk.

        The entry is added to `entries` before the commit: the commit may succeed although its connection is lost.
        """
        exchange = self.wire.exchange()
        connection = exchange.connection
        with connection.transaction():
            if not self.ledger_writer.claim(connection, batch):
                return  # The previous try committed although its connection was lost.
            # The records that the data checks reject are written while the rows are sent; there are rarely others.
            stored = self._store(batch, "rejected", batch.rejected)
            updates = self.copier.updates(connection)
            outcome = yield from write(exchange, batch)
            if len(outcome.rejected) > len(batch.rejected):
                stored = self._store(batch, "rejected", outcome.rejected)
            stored += self._store(batch, "failed", outcome.failed)
            if outcome.rejected and self.copier.keeps_refused:
                yield from self.copier.note_refused(exchange, self._keys_of(batch, outcome.rejected))
            for _, write_to_disk in stored:
                write_to_disk.result()
            entry = _entry(batch, outcome, self.projection.dataset)
            rows = updates.rows if updates else None
            entries.append(replace(entry, rows_replaced=None if rows is None else rows - outcome.firsts))
            self.ledger_writer.enter(connection, batch, entries[-1], [failure for failure, _ in stored])

    def _keys_of(self, batch: Batch, rejected: Sequence[Rejected]) -> list[Mapping[int, str | None]]:
        """Return the key of each rejected record for each table that may have a row of it."""
        locations = self.ledger_writer.locate(batch, {record.place for record in rejected})
        texts = [locations[record.place] for record in rejected]
        return [self.projection.keys_of(decoding.decode_one(at.text, is_keyed=at.is_keyed)) for at in texts]

    def _store(self, batch: Batch, kind: Kind, records: Sequence[Rejected]) -> list[tuple[Failure, Future[None]]]:
        if not records:
            return []
        locations = self.ledger_writer.locate(batch, {record.place for record in records})
        failure = build_failure(self.ledger_writer.origin(batch), kind, records, locations)
        return [(failure, self.store.write(failure))]


def _not_loaded(batch: Batch, fault: Fault) -> DatabaseError:
    """Return the error that a batch of an atomic run cannot load. It is not entered, so it is tried again."""
    return DatabaseError(
        f"the batch at byte {batch.piece.offset:,} cannot load ({fault.reason}, SQLSTATE {fault.sqlstate}), and"
        " --atomic and replace publish a whole source or nothing",
        hint="run the same command to try this batch again; a load that is neither --atomic nor replace keeps its"
        " records in the failed store instead",
    )


def _entry(batch: Batch, outcome: _BatchOutcome, dataset: Dataset) -> Entry:
    """Return the entry of a batch; its loaded records are the rows, child rows aside, that the server counted.

    Those whose rows stayed as they were are loaded, too.
    """
    loaded = outcome.unchanged + sum(
        count for table, count in zip(dataset.tables, outcome.rows, strict=True) if not table.each
    )
    entry = Entry(
        loaded=loaded,
        rejected=len(outcome.rejected),
        failed=len(outcome.failed),
        rows=outcome.rows,
        unchanged=outcome.unchanged,
        policy_effects=replace(outcome.policy_effects, duplicates=outcome.duplicates, kept_rows=outcome.kept_rows),
        deleted=outcome.rows[dataset.deletions[0]] if dataset.deletions else None,
    )
    if entry.loaded + entry.rejected + entry.failed != batch.piece.count:
        raise InternalError(f"of {batch.piece.count} records at byte {batch.piece.offset} the server counted {entry}")
    return entry
