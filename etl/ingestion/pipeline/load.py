"""The straight line: source -> pieces -> records -> rows -> batch -> COPY and ledger -> precalculation."""

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import psycopg
import structlog

from etl.database.connecting import Database, Session, connect
from etl.errors import BusyError, DatabaseError, EtlError, UsageError
from etl.ingestion.destination import refusals
from etl.ingestion.destination.copying import Copier
from etl.ingestion.failed_store.store import FailedStore
from etl.ingestion.framing.limit import Limited
from etl.ingestion.framing.pieces import NoRecordsError, cutting
from etl.ingestion.ledger import failures, runs, sums
from etl.ingestion.pipeline import outcome
from etl.ingestion.pipeline.assembly import Work, copier_of
from etl.ingestion.pipeline.bringing import Attempt, by_crew, by_one
from etl.ingestion.pipeline.finishing import finish_all
from etl.ingestion.pipeline.job import Job, Part, Stop
from etl.ingestion.pipeline.resumption import begin
from etl.ingestion.sources.stream import Stream, opened
from etl.ingestion.values import LoadedRange, Piece, Prover, Source, Summary
from etl.precalculation import catalogue
from etl.precalculation.catalogue import Aggregate
from etl.precalculation.refresh import Refreshed, refresh_all

log = structlog.get_logger(__name__)


def load(source: Source, jobs: Sequence[Job]) -> list[tuple[Summary, EtlError | None]]:
    """Bring one source into its datasets, a job for each, in one pass; return how each ended, and what ended it early.

    What ends the pass is the same error for all. Raises UsageError when nothing could begin; every other end is told by
    the summaries (contract C3).
    """
    started = time.monotonic()
    shared = jobs[0]
    error: EtlError | None = None
    with ExitStack() as sessions:
        try:
            parts = [Part(job=job, session=sessions.enter_context(Session(job.database, "etl"))) for job in jobs]
        except DatabaseError as away:
            return [(outcome.not_begun(source, job.dataset, job.database.name, away), away) for job in jobs]
        try:
            with ExitStack() as stack:
                with shared.stop.reading():
                    stream = stack.enter_context(opened(source, shared.settings.retries))
                if stream.encoding != "utf-8":
                    log.info("source_decoded", source=source.name, encoding=stream.encoding, offsets="in UTF-8")
                store = stack.enter_context(FailedStore(shared.settings.failed_dir))
                stack.enter_context(shared.watch.watching(stream, [part.progress for part in parts]))
                _bring(stream, store, parts)
        except UsageError:
            raise
        except EtlError as ended:
            error = ended
        except psycopg.Error as ended:
            error = refusals.as_etl_error(ended, shared.database)
        except KeyboardInterrupt:
            error = shared.stop.at_once()
        return [_told(source, part, part.progress.error or error, time.monotonic() - started) for part in parts]


def _bring(stream: Stream, store: FailedStore, parts: Sequence[Part]) -> None:
    """Load what of the stream is not in yet."""
    attempts = [
        _attempt(stream, store, part, work, known)
        for part, (work, known) in zip(parts, begin(stream, parts), strict=True)
    ]
    limited = Limited(parts[0].job.settings.limit, [each.known for each in attempts])

    def pieces(provers: Sequence[Prover | None]) -> Iterator[Piece | None]:
        hows = [
            replace(each.part.job.how(each.known), prover=prover)
            for each, prover in zip(attempts, provers, strict=True)
        ]
        return limited.of(cutting(stream, *hows))

    crew_size = min(part.job.crew_size(stream.size) for part in parts)
    try:
        if crew_size == 1:
            by_one(attempts, pieces, store)
        else:
            by_crew(attempts, pieces, crew_size)
    except NoRecordsError as none:
        for which, fault in none.faults.items():
            parts[which].progress.error = fault
    for which in limited.cut:
        parts[which].progress.is_cut = True
    finish_all(stream, attempts)


def _attempt(stream: Stream, store: FailedStore, part: Part, work: Work, known: Mapping[int, LoadedRange]) -> Attempt:
    job, run = part.job, work.run
    part.progress.rejected = sums.totals(part.session.connection(), run.run)[1]
    again = refusals.policy(job.settings.retries, part.progress.note_retry, job.stop.wait)
    copier = copier_of(work)
    return Attempt(
        part=part,
        work=work,
        stream=stream,
        known=known,
        copier=copier,
        before_rows=lambda: again(_open_for_rows, part.session, run, copier, store, job),
    )


def _open_for_rows(session: Session, run: runs.Run, copier: Copier, store: FailedStore, job: Job) -> None:
    """Make ready for the first new batch of an attempt, and remove what a crash left half done."""
    connection = session.connection()
    if run.was_finished:
        runs.reopen(connection, run)
    store.sweep(job.dataset.name, run.run, failures.ids_of(connection, run.run))
    copier.drop_abandoned(connection)
    copier.prepare(connection)


def _told(source: Source, part: Part, error: EtlError | None, seconds: float) -> tuple[Summary, EtlError | None]:
    """Log and return the summary, with the error that it tells."""
    summary, error = _summary(source, part, error, seconds)
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


def _summary(source: Source, part: Part, error: EtlError | None, seconds: float) -> tuple[Summary, EtlError | None]:
    """Return the summary from the ledger, over a new connection where the last is lost, or without it."""
    job, progress = part.job, part.progress
    for _ in range(2):  # That an idle connection is lost shows only when it is used.
        try:
            if not isinstance(error, BusyError):  # The run is another's now.
                return outcome.summary(part.session.connection(), source, job, progress, error, seconds)
        except BusyError as busy:
            error = error or busy
        except psycopg.OperationalError:
            continue
    return outcome.summary(None, source, job, progress, error, seconds)


def precalculate(
    database: Database, config_dir: Path, tables: Iterable[str], run: str | None, stop: Stop
) -> Iterator[Refreshed]:
    """Bring the aggregates that read these fact tables, or the ledger, up to date; yield each when it is done.

    Raises DatabaseError when the database refuses or an aggregate cannot be computed, after the others, and
    InterruptedByUserError on a signal: the records are in, and running the same command again refreshes the others.
    """
    try:
        with connect(database, "etl:precalculate") as connection:
            chosen = catalogue.aggregates_reading([*tables, "etl.batches"], config_dir)
            yield from refresh_all(connection, _until_stopped(chosen, stop), run=run)
    except UsageError as error:
        raise DatabaseError(str(error), hint=error.hint) from error
    except psycopg.Error as error:
        raise refusals.as_etl_error(error, database) from error


def _until_stopped(aggregates: Iterable[Aggregate], stop: Stop) -> Iterator[Aggregate]:
    for aggregate in aggregates:
        stop.check()
        yield aggregate
