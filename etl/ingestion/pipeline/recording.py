"""How the ledger records an attempt: begun, made ready for rows, published, and summed up at its end."""

from collections.abc import Sequence

import psycopg
import structlog

from etl.errors import BusyError, DatabaseError, EtlError
from etl.ingestion.destination import refusals
from etl.ingestion.failed_store.store import FailedStore
from etl.ingestion.ledger import failures, runs, sums
from etl.ingestion.pipeline import outcome, resumption
from etl.ingestion.pipeline.assembly import RunLedgerWriter
from etl.ingestion.pipeline.attempts import Attempt, OpenRun
from etl.ingestion.pipeline.job import Load
from etl.ingestion.sources.stream import Stream
from etl.ingestion.values import Source, Summary

log = structlog.get_logger(__name__)


class LedgerRecorder:
    """Records attempts in the ledger of the database (`attempts.Recorder`)."""

    application_name = "etl"

    def failed_store(self, load: Load) -> FailedStore:
        """Return the failed store of the command."""
        return FailedStore(load.settings.failed_dir)

    def begin(self, stream: Stream, attempts: Sequence[Attempt]) -> list[OpenRun]:
        """Enter an attempt for each target, of a known run or of a new one."""
        open_runs = []
        for attempt, (work, known) in zip(attempts, resumption.begin(stream, attempts), strict=True):
            attempt.progress.rejected = sums.totals(attempt.session.connection(), work.run.run)[1]
            open_runs.append(
                OpenRun(
                    attempt=attempt,
                    recorder=self,
                    ledger_writer=RunLedgerWriter.of(work),
                    stream=stream,
                    work=work,
                    copier=work.copier(),
                    known=known,
                )
            )
        return open_runs

    def prepare(self, run: OpenRun, store: FailedStore) -> None:
        """Make everything ready for the first new batch of an attempt, and remove the leftovers of a crash."""
        connection, work = run.attempt.session.connection(), run.work
        resumption.require_mode(work.run, run.attempt.target, run.stream.source)
        if work.run.was_finished:
            runs.reopen(connection, work.run)
        store.sweep(work.dataset.name, work.run.run, failures.ids_of(connection, work.run.run))
        run.copier.drop_abandoned(connection)
        run.copier.prepare(connection)

    def publish(self, stream: Stream, group: Sequence[OpenRun]) -> None:
        """Publish atomic runs, note the end of the source and notify the listeners, all in one transaction.

        Raises TooManyRejectedError when a replace would leave nothing, DatabaseError when the server lost batches.
        """
        # Each session holds the source for its run still, or takes its locks again.
        connection, *_ = [run.attempt.session.connection() for run in group]
        # No record came after those of earlier attempts, or the try before this one committed without an answer.
        unfinished = [run for run in group if not runs.is_complete(connection, run.work.run.run)]
        for run in unfinished:
            _require_whole(connection, run)
            run.copier.prepare(connection)
        try:
            with connection.transaction():
                for run in unfinished:
                    _publish_one(connection, run, stream.size)
        except psycopg.Error as error:
            if refusals.meaning(error) != "data":
                raise
            names = " and ".join(run.work.run.run for run in unfinished)
            raise DatabaseError(
                f"the rows of run {names} cannot become visible together: {refusals.fault(error).reason}",
                hint="--force without --atomic or replace rejects the records at fault one by one",
            ) from error
        for run in group:
            _analyze(run)

    def report(self, source: Source, attempt: Attempt, seconds: float) -> tuple[Summary, EtlError | None]:
        """Close the attempt; return its summary from the ledger, and the error that ended it.

        The ledger is read over a new connection where the last is lost; without one the attempt's own counts remain.
        """
        error = attempt.progress.error
        for _ in range(2):  # That an idle connection is lost shows only when it is used.
            try:
                if not isinstance(error, BusyError):  # Another load has the run now.
                    connection = attempt.session.connection()
                    return outcome.summary(connection, source, attempt, error, seconds)
            except BusyError as busy:
                error = error or busy
            except psycopg.OperationalError:
                continue
        return outcome.summary(None, source, attempt, error, seconds)


def _publish_one(connection: psycopg.Connection, run: OpenRun, source_bytes: int | None) -> None:
    if run.work.run.is_atomic:
        run.copier.publish(connection)
        runs.publish(connection, run.work.run)
        run.copier.drop_abandoned(connection)
    run.copier.drop_keys(connection)
    runs.finish(connection, run.work.run, source_bytes)


def _require_whole(connection: psycopg.Connection, run: OpenRun) -> None:
    """Raise what keeps a run from being finished although its source was read to its end."""
    attempt = run.attempt
    attempt.require_records()
    entered, rejected = sums.totals(connection, run.work.run.run)
    attempt.judge_rejected(rejected, entered, at_end=True)
    if entered < attempt.progress.read:
        # A batch commits before it is on the server's disk: what a crash of the server took is loaded again.
        raise DatabaseError(
            f"the database {attempt.load.database.name} crashed and lost batches of run {run.work.run.run}",
            hint="run the same command to load them again",
        )


def _analyze(run: OpenRun) -> None:
    attempt = run.attempt
    if not (attempt.load.settings.precalculate and attempt.progress.loaded):
        return
    try:
        connection = attempt.session.connection()
        run.copier.analyze(connection, sums.rows(connection, run.work.run))
    except psycopg.Error as error:  # The records are loaded; the server's own analyze comes later.
        log.warning("not_analyzed", run=run.work.run.run, sqlstate=error.sqlstate)
