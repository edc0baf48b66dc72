"""The straight line: source -> pieces -> records -> rows -> batch -> COPY and ledger -> precalculation."""

import time
from collections.abc import Iterable
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path

import psycopg
import structlog

from etl import datasets
from etl.database import Database, Session, connect
from etl.datasets import Dataset
from etl.errors import EtlError, TooManyRejectedError, UsageError
from etl.ingestion import failures, ledger, outcome, records, retries
from etl.ingestion.copying import Copier
from etl.ingestion.failures import FailedStore, Origin
from etl.ingestion.job import Job, Progress
from etl.ingestion.pieces import Cut, cut
from etl.ingestion.projection import Projection
from etl.ingestion.resumption import begin, require_same
from etl.ingestion.source import Stream, opened
from etl.ingestion.values import Batch, Entry, Failure, Fault, Rejected, Source, Summary
from etl.precalculation import catalogue
from etl.precalculation.refresh import Refreshed, refresh, stale

log = structlog.get_logger(__name__)


@dataclass(frozen=True, kw_only=True)
class _Line:
    """What the batches of one attempt go through."""

    job: Job
    source: str
    run: ledger.Run
    session: Session
    store: FailedStore
    copier: Copier
    projection: Projection
    progress: Progress


def load(source: Source, job: Job) -> tuple[Summary, EtlError | None]:
    """Bring one source into its dataset; return how it ended, and the error that ended it early.

    Raises UsageError when nothing could begin; every other end is told by the summary (contract C3).
    """
    started = time.monotonic()
    progress = Progress()
    error: EtlError | None = None
    with Session(job.database, "etl") as control, Session(job.database, "etl") as session:
        try:
            with opened(source) as stream, FailedStore(job.settings.failed_dir) as store:
                _bring(stream, control.connection(), session, store, job, progress)
        except UsageError:
            raise
        except EtlError as ended:
            error = ended
        except psycopg.Error as ended:
            error = outcome.lost(ended, job.database)
        seconds = time.monotonic() - started
        return outcome.summary(_reached(control), source, job, progress, error, seconds)


def _bring(
    stream: Stream,
    control: psycopg.Connection,
    session: Session,
    store: FailedStore,
    job: Job,
    progress: Progress,
) -> None:
    """Load what of the stream is not in yet."""
    progress.run, known = begin(control, stream, job)
    copier = Copier(job.dataset, job.mode, staged_as=progress.run.run if progress.run.is_atomic else None)
    line = _Line(
        job=job,
        source=stream.source.name,
        run=progress.run,
        session=session,
        store=store,
        copier=copier,
        projection=Projection(job.dataset),
        progress=progress,
    )
    how = Cut(format=job.settings.format, records=job.records_path, batch_rows=job.settings.batch_rows, known=known)
    for piece in cut(stream, how):
        job.stop.check()
        progress.read += piece.count
        if piece.offset in known:
            require_same(stream, piece, known[piece.offset])
            progress.skipped += piece.count
            continue
        if not progress.entered:
            _open_for_rows(control, line)
        batch = line.projection.batch(piece, records.decode(piece), line.run.number)
        _load_batch(batch, line)
        progress.entered += piece.count
        progress.bytes_read = piece.end
    progress.bytes_read = stream.position
    _finish(control, line)


def _open_for_rows(control: psycopg.Connection, line: _Line) -> None:
    """Make ready for the first new batch of an attempt."""
    if line.run.was_finished:
        ledger.reopen(control, line.run)
    line.copier.prepare(control)


def _load_batch(batch: Batch, line: _Line) -> None:
    """Load a batch, trying again what is transient; what the server refuses for good goes to the failed store.

    Raises DatabaseError when the database or the disk of the failed store is away.
    """
    started = time.monotonic()
    rejected = _describe(batch, batch.rejected, None, line) if batch.rejected else None
    try:
        _commit(batch, line, [rejected] if rejected else [], is_refused=False)
    except psycopg.Error as error:
        if retries.meaning(error) not in {"data", "contended"}:
            raise outcome.lost(error, line.job.database) from error
        fault = retries.fault(error)
        failed = _describe(batch, _remaining(batch, fault, line), fault, line)
        log.warning("batch_failed", run=line.run.run, offset=batch.piece.offset, sqlstate=fault.sqlstate)
        _commit(batch, line, [failure for failure in (rejected, failed) if failure], is_refused=True)
    log.debug(
        "batch_loaded",
        run=line.run.run,
        offset=batch.piece.offset,
        records=batch.piece.count,
        rejected=len(batch.rejected),
        seconds=round(time.monotonic() - started, 3),
    )


def _commit(batch: Batch, line: _Line, stored: list[Failure], *, is_refused: bool) -> None:
    """Claim, COPY and enter a batch in one transaction, which commits only when its failures are safe on disk."""
    safe = [line.store.write(failure) for failure in stored]
    count_rejected = len(batch.rejected)
    count_others = batch.piece.count - count_rejected

    def once() -> None:
        connection = line.session.connection()
        with connection.transaction():
            if not ledger.claim(connection, line.run, batch.piece):
                return  # An earlier try committed although its connection was lost.
            rows = tuple(0 for _ in batch.rows) if is_refused else line.copier.copy(connection, batch)
            _wait_for(safe)
            entry = Entry(
                loaded=0 if is_refused else rows[0],
                rejected=count_rejected,
                failed=count_others if is_refused else 0,
                rows=rows,
            )
            ledger.enter(connection, line.run, batch.piece, entry, stored)

    retries.policy(line.job.settings.retries, line.progress.note_retry)(once)


def _wait_for(safe: Iterable[Future[None]]) -> None:
    for future in safe:
        future.result()


def _remaining(batch: Batch, fault: Fault, line: _Line) -> list[Rejected]:
    """Return the records of a refused batch that the data checks had let pass."""
    gone = {rejected.place for rejected in batch.rejected}
    return [
        Rejected(place=place, key=line.projection.key_of(record), fault=fault)
        for place, record in enumerate(records.decode(batch.piece), 1)
        if place not in gone and not isinstance(record, Fault)
    ]


def _describe(batch: Batch, kept: Iterable[Rejected], error: Fault | None, line: _Line) -> Failure:
    """Return the failure that keeps these records; without an error of the batch, the first record's fault tells."""
    kept = tuple(kept)
    origin = Origin(run=line.run.run, dataset=line.job.dataset.name, source=line.source)
    return failures.describe(batch.piece, kept, "failed" if error else "rejected", error or kept[0].fault, origin)


def _finish(control: psycopg.Connection, line: _Line) -> None:
    """Publish an atomic run, note the end of the source and tell the listeners, all in one transaction.

    Raises TooManyRejectedError when a replace would leave nothing.
    """
    if line.run.was_finished and not line.progress.entered:
        return
    if line.job.mode == "replace" and not line.progress.read and not line.job.settings.allow_empty:
        raise TooManyRejectedError(
            "the source holds no record, and replace would leave the dataset empty",
            hint="--allow-empty does it all the same",
        )
    with control.transaction():
        if line.run.is_atomic:
            line.copier.publish(control)
            ledger.publish(control, line.run)
        ledger.finish(control, line.run)


def _reached(control: Session) -> psycopg.Connection | None:
    """Return the connection, opened again where it was lost, or None when the server is away."""
    try:
        return control.connection()
    except psycopg.OperationalError:
        return None


def precalculate(database: Database, config_dir: Path, dataset: Dataset, run: str | None) -> list[Refreshed]:
    """Bring the aggregates that read the tables of a dataset up to date, where they are behind.

    Raises DatabaseError when the database refuses; running the same command again goes on with them.
    """
    owners = {table.name: each.name for each in datasets.readable(config_dir) for table in each.tables}
    aggregates = catalogue.aggregates_reading(table.name for table in dataset.tables)
    try:
        with connect(database, "etl:precalculate") as connection:
            return [refresh(connection, each, run=run) for each in stale(connection, aggregates, owners)]
    except psycopg.Error as error:
        raise outcome.lost(error, database) from error
