"""The end of a source that was read to its end: its runs become visible and are finished, or why they are not.

What ends one dataset of several is noted with it; the others are finished all the same, but for atomic runs: those of
one source become visible together or not at all.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import psycopg
import structlog

from etl.errors import DatabaseError, EtlError, TooManyRejectedError, UsageError
from etl.ingestion.destination import refusals
from etl.ingestion.ledger import runs, sums
from etl.ingestion.pipeline.bringing import Attempt
from etl.ingestion.sources.stream import Stream

log = structlog.get_logger(__name__)


def finish_all(stream: Stream, attempts: Sequence[Attempt]) -> None:
    """Finish the attempts of a source: the atomic ones together, each other by itself.

    One that a limit cut off is judged, and stays open.
    """
    for each in attempts:
        if not each.part.progress.is_cut:
            each.part.progress.bytes_read = stream.position
    together = [each for each in attempts if each.work.run.is_atomic]
    for group in [together] * bool(together) + [[each] for each in attempts if not each.work.run.is_atomic]:
        with _ending(group):
            _finish_group(stream, group)
        for each in group:
            with _ending([each]):
                _analyze(each)


@contextmanager
def _ending(group: Sequence[Attempt]) -> Iterator[None]:
    """Let an error be what ended these attempts, and no others."""
    try:
        yield
    except UsageError:
        raise
    except EtlError as ended:
        error = ended
    except psycopg.Error as ended:
        error = refusals.as_etl_error(ended, group[0].part.job.database)
    else:
        return
    for each in group:
        each.part.progress.error = each.part.progress.error or error


def _finish_group(stream: Stream, group: Sequence[Attempt]) -> None:
    """Finish runs that become visible together.

    Raises the error that ended one of them before.
    """
    error = next((each.part.progress.error for each in group if each.part.progress.error), None)
    if error is not None:
        raise error
    if any(each.part.progress.is_cut for each in group):
        for each in group:
            progress = each.part.progress
            progress.is_cut = True
            each.judge_rejected(progress.rejected, progress.read, at_end=True)
        return
    part = group[0].part
    again = refusals.policy(part.job.settings.retries, part.progress.note_retry, part.job.stop.wait)
    again(_finish, stream, group)


def _finish(stream: Stream, group: Sequence[Attempt]) -> None:
    """Publish atomic runs, note the end of the source and tell the listeners, all in one transaction.

    Raises TooManyRejectedError when a replace would leave nothing, DatabaseError when the server lost batches.
    """
    # Each session holds the source for its run still, or takes hold of it again.
    connection, *_ = [each.part.session.connection() for each in group]
    # No record came beyond those that were in, or the try before this one committed without an answer.
    left = [each for each in group if not runs.is_complete(connection, each.work.run.run)]
    for each in left:
        _require_whole(connection, each)
        each.copier.prepare(connection)
    try:
        with connection.transaction():
            for each in left:
                if each.work.run.is_atomic:
                    each.copier.publish(connection)
                    runs.publish(connection, each.work.run)
                    each.copier.drop_abandoned(connection)
                each.copier.drop_keys(connection)
                runs.finish(connection, each.work.run, stream.size)
    except psycopg.Error as error:
        if refusals.meaning(error) != "data":
            raise
        raise DatabaseError(
            f"the rows of run {' and '.join(each.work.run.run for each in left)} cannot become visible together:"
            f" {refusals.fault(error).reason}",
            hint="--force without --atomic or replace rejects the records at fault one by one",
        ) from error


def _require_whole(connection: psycopg.Connection, attempt: Attempt) -> None:
    """Raise what keeps a run from being finished although its source was read to its end."""
    job, run, progress = attempt.part.job, attempt.work.run, attempt.part.progress
    if run.mode == "replace" and not progress.read and not job.settings.allow_empty:
        raise TooManyRejectedError(
            f"the source holds no record, and replace would leave the dataset {job.dataset.name} empty",
            hint="--allow-empty does it all the same",
        )
    entered, rejected = sums.totals(connection, run.run)
    attempt.judge_rejected(rejected, entered, at_end=True)
    if entered < progress.read:
        # A batch commits before it is on the server's disk: what a crash of the server took is loaded again.
        raise DatabaseError(
            f"the database {job.database.name} crashed and lost batches of run {run.run}",
            hint="run the same command to load them again",
        )


def _analyze(attempt: Attempt) -> None:
    job, run, progress = attempt.part.job, attempt.work.run, attempt.part.progress
    if progress.error or progress.is_cut or not (job.settings.precalculate and progress.loaded):
        return
    connection = attempt.part.session.connection()
    try:
        attempt.copier.analyze(connection, sums.rows(connection, run))
    except psycopg.Error as error:  # The records are in; the server's own analyze comes later.
        log.warning("not_analyzed", run=run.run, sqlstate=error.sqlstate)
