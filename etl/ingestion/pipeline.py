"""The straight line: source -> pieces -> records -> rows -> batch -> COPY and ledger -> precalculation."""

import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import psycopg
import structlog

from etl.database import Database, Session, connect
from etl.errors import BusyError, DatabaseError, EtlError, TooManyRejectedError, UsageError
from etl.ingestion import ledger, outcome, retries
from etl.ingestion.bringing import Attempt, by_crew, by_one, judge_rejected
from etl.ingestion.copying import Copier
from etl.ingestion.failures import FailedStore
from etl.ingestion.job import Job, Progress, Stop
from etl.ingestion.limit import Limited
from etl.ingestion.pieces import Cut, cutting
from etl.ingestion.resumption import begin
from etl.ingestion.source import Stream, opened
from etl.ingestion.values import Source, Summary
from etl.precalculation import catalogue
from etl.precalculation.refresh import Refreshed, refresh

log = structlog.get_logger(__name__)


def load(source: Source, job: Job) -> tuple[Summary, EtlError | None]:
    """Bring one source into its dataset; return how it ended, and the error that ended it early.

    Raises UsageError when nothing could begin; every other end is told by the summary (contract C3).
    """
    started = time.monotonic()
    progress = Progress()
    error: EtlError | None = None
    try:
        session = Session(job.database, "etl")
    except DatabaseError as away:
        return outcome.not_begun(source, job.dataset, job.database.name, away), away
    with session:
        try:
            with ExitStack() as stack:
                with job.stop.reading():
                    stream = stack.enter_context(opened(source, job.settings.retries))
                if stream.encoding != "utf-8":
                    log.info("source_decoded", source=source.name, encoding=stream.encoding, offsets="in UTF-8")
                store = stack.enter_context(FailedStore(job.settings.failed_dir))
                stack.enter_context(job.watch.watching(stream, progress))
                _bring(stream, session, store, job, progress)
        except UsageError:
            raise
        except EtlError as ended:
            error = ended
        except psycopg.Error as ended:
            error = outcome.lost(ended, job.database)
        except KeyboardInterrupt:
            error = job.stop.at_once()
        summary, error = _told(session, source, job, progress, error, time.monotonic() - started)
    log.info(
        "source_ended",
        run=summary.run,
        dataset=summary.dataset,
        source=summary.source,
        status=summary.status,
        exit_code=summary.exit_code,
        **vars(summary.records),
        seconds=round(summary.seconds, 3),
    )
    return summary, error


def _bring(stream: Stream, session: Session, store: FailedStore, job: Job, progress: Progress) -> None:
    """Load what of the stream is not in yet."""
    run, known, work = begin(session, stream, job)
    progress.run = run
    progress.rejected = ledger.totals(session.connection(), run.run)[1]
    how = Cut(
        format=job.settings.format,
        records=job.records_path,
        batch_rows=min(job.settings.batch_rows, job.settings.limit or job.settings.batch_rows),
        known=known,
        max_record_bytes=job.settings.max_record_bytes,
    )
    again = retries.policy(job.settings.retries, progress.note_retry, job.stop.wait)
    copier = Copier(job.dataset, job.mode, staged_as=run.run if run.is_atomic else None)
    limited = Limited(job.settings.limit, known)
    attempt = Attempt(
        work=work,
        job=job,
        stream=stream,
        known=known,
        pieces=lambda prove: limited.of(cutting(stream, replace(how, prove=prove))),
        progress=progress,
        before_rows=lambda: again(_open_for_rows, session, run, copier, store, job),
    )
    crew_size = job.crew_size(stream.size)
    if crew_size == 1:
        by_one(attempt, session, store)
    else:
        by_crew(attempt, session, crew_size)
    if limited.is_cut:
        progress.is_cut = True
        judge_rejected(progress.rejected, progress.read, run, job, at_end=True)
        return
    progress.bytes_read = stream.position
    again(_finish, session, run, stream, copier, job, progress)
    if job.settings.precalculate and progress.loaded:
        _analyze(session.connection(), copier, run)


def _open_for_rows(session: Session, run: ledger.Run, copier: Copier, store: FailedStore, job: Job) -> None:
    """Make ready for the first new batch of an attempt, and remove what a crash left half done."""
    connection = session.connection()
    if run.was_finished:
        ledger.reopen(connection, run)
    store.sweep(job.dataset.name, run.run, ledger.named_failures(connection, run.run))
    copier.drop_given_up(connection)
    copier.prepare(connection)


def _finish(session: Session, run: ledger.Run, stream: Stream, copier: Copier, job: Job, progress: Progress) -> None:
    """Publish an atomic run, note the end of the source and tell the listeners, all in one transaction.

    Raises TooManyRejectedError when a replace would leave nothing, DatabaseError when the server lost batches.
    """
    connection = session.connection()
    if ledger.is_complete(connection, run.run):
        return  # No record came beyond those that were in, or the try before this one committed without an answer.
    if run.mode == "replace" and not progress.read and not job.settings.allow_empty:
        raise TooManyRejectedError(
            "the source holds no record, and replace would leave the dataset empty",
            hint="--allow-empty does it all the same",
        )
    entered, rejected = ledger.totals(connection, run.run)
    judge_rejected(rejected, entered, run, job, at_end=True)
    if entered < progress.read:
        # A batch commits before it is on the server's disk: what a crash of the server took is loaded again.
        raise DatabaseError(
            f"the database {job.database.name} crashed and lost batches of run {run.run}",
            hint="run the same command to load them again",
        )
    try:
        copier.prepare(connection)
        with connection.transaction():
            if run.is_atomic:
                copier.publish(connection)
                ledger.publish(connection, run)
                copier.drop_given_up(connection)
            ledger.finish(connection, run, stream.size)
    except psycopg.Error as error:
        if retries.meaning(error) != "data":
            raise
        raise DatabaseError(
            f"the rows of run {run.run} cannot become visible together: {retries.fault(error).reason}",
            hint="without --atomic the records at fault are rejected one by one",
        ) from error


def _analyze(connection: psycopg.Connection, copier: Copier, run: ledger.Run) -> None:
    try:
        copier.analyze(connection, ledger.rows(connection, run))
    except psycopg.Error as error:  # The records are in; the server's own analyze comes later.
        log.warning("not_analyzed", run=run.run, sqlstate=error.sqlstate)


def _told(
    session: Session, source: Source, job: Job, progress: Progress, error: EtlError | None, seconds: float
) -> tuple[Summary, EtlError | None]:
    """Return the summary from the ledger, over a new connection where the last is lost, or without it."""
    for _ in range(2):  # That an idle connection is lost shows only when it is used.
        try:
            if not isinstance(error, BusyError):  # The run is another's now.
                return outcome.summary(session.connection(), source, job, progress, error, seconds)
        except BusyError as busy:
            error = error or busy
        except psycopg.OperationalError:
            continue
    return outcome.summary(None, source, job, progress, error, seconds)


def precalculate(
    database: Database, config_dir: Path, tables: Iterable[str], run: str | None, stop: Stop
) -> Iterator[Refreshed]:
    """Bring the aggregates that read these fact tables, or the ledger, up to date; yield each when it is done.

    Raises DatabaseError when the database refuses and InterruptedByUserError on a signal; running the same command
    again goes on with the others.
    """
    try:
        with connect(database, "etl:precalculate") as connection:
            for aggregate in catalogue.aggregates_reading([*tables, "etl.batches"], config_dir):
                stop.check()
                yield refresh(connection, aggregate, run=run)
    except psycopg.Error as error:
        raise outcome.lost(error, database) from error
