"""The end of a source that was read to its end: its runs become visible and are finished, or the reason why not.

The error of one target is recorded as that target's; the others are finished all the same. Atomic runs are the
exception: those of one source become visible together or not at all.
"""

from collections.abc import Sequence
from contextlib import suppress

import psycopg
import structlog
from structlog.contextvars import bound_contextvars

from etl.database.sqlstates import code_of
from etl.errors import DatabaseError, EtlError
from etl.ingestion.destination import refusals, searching
from etl.ingestion.ledger import batches, runs
from etl.ingestion.pipeline.attempts import OpenRun, ending
from etl.ingestion.pipeline.opening import Opening
from etl.ingestion.sources.stream import Stream

log = structlog.get_logger(__name__)


def finish(stream: Stream, opening: Opening) -> None:
    """Finish the runs of a source: the atomic ones together, each other by itself.

    A run that a limit cut off is judged, and stays open. So does one of which the source is a part only.
    """
    open_runs = [run for run in opening.runs if run is not None]
    for run in open_runs:
        if not run.attempt.progress.is_cut:
            run.attempt.progress.bytes_read = stream.position
    unopened = [attempt for attempt, run in zip(opening.attempts, opening.runs, strict=True) if run is None]
    error = next((attempt.progress.error for attempt in unopened if attempt.target.is_atomic), None)
    atomic = [run for run in open_runs if run.context.run.is_atomic]
    alone = [[run] for run in open_runs if not run.context.run.is_atomic and not run.attempt.progress.is_shorter]
    for group in [atomic, *alone] if atomic else alone:
        with ending([run.attempt for run in group]):
            _finish_group(stream, group, error if group is atomic else None)


def _finish_group(stream: Stream, group: Sequence[OpenRun], error: EtlError | None) -> None:
    """Finish runs that become visible together.

    Raises the error that ended one of them, or of those that were to become visible with them, before.
    """
    error = error or next((run.attempt.progress.error for run in group if run.attempt.progress.error), None)
    if error is not None:
        raise error
    if all(run.attempt.progress.is_shorter for run in group):
        return
    if any(run.attempt.progress.is_cut for run in group):
        for run in group:
            progress = run.attempt.progress
            progress.is_cut = True
            run.attempt.judge_rejected(progress.rejected, progress.read, at_end=True)
        return
    group[0].retrying(group[0].attempt.recorder.publish, stream, group)


def publish(stream: Stream, group: Sequence[OpenRun]) -> None:
    """Publish atomic runs, note the end of the source and notify the listeners, all in one transaction.

    Raises TooManyRejectedError when too few records loaded or a replace would delete too many rows, UsageError when a
    trigger skips rows or the server refuses them for a cause that a person must change, DatabaseError when the server
    lost batches.
    """
    # Each session holds the source for its run still, or takes its locks again.
    connection, *_ = [run.attempt.session.connection() for run in group]
    # No record came after those of earlier attempts, or the try before this one committed without an answer.
    unfinished = [run for run in group if not runs.is_complete(connection, run.id)]
    for run in unfinished:
        _require_whole(connection, run)
        if not run.attempt.progress.entered:
            run.copier.prepare(connection)
    try:
        with connection.transaction():
            for run in unfinished:
                with bound_contextvars(run=run.id):
                    _publish_one(connection, run, stream)
            for run in group:
                if run not in unfinished and run.attempt.load.settings.trust_mtime:
                    _note_time(connection, run, stream)
    except psycopg.Error as error:
        raise _refused(connection, unfinished, error) from error
    for run in group:
        _analyze(run)


def _refused(connection: psycopg.Connection, group: Sequence[OpenRun], error: psycopg.Error) -> Exception:
    """Return the error that ends the publication: for a person to change something, or the server's to try again."""
    meaning = refusals.meaning(error)
    if meaning == "data":
        names = " and ".join(run.id for run in group)
        for run in group:
            with suppress(psycopg.Error):  # The refusal itself is reported.
                dataset, mode = run.context.dataset, run.context.mode
                if (refused := searching.first_refused(connection, dataset, mode, run.id)) is not None:
                    record = batches.first_record(connection, run.id, refused.batch) + refused.place - 1
                    return refusals.not_published(refused.error, names, record)
        return refusals.not_published(error, names)
    if meaning != "fix":
        return error
    tables = [table for run in group for table in run.context.dataset.tables]
    return refusals.explained(error, group[0].attempt.load.database, connection, tables)


def _publish_one(connection: psycopg.Connection, run: OpenRun, stream: Stream) -> None:
    if run.context.run.is_atomic:
        published = run.copier.publish(connection)
        _require_staged(connection, run, published.rows)
        run.attempt.judge_deleted(published)
        of_run = run.context.run
        runs.publish(connection, of_run, published.rows_deleted, published.rows_kept, published.rows_replaced)
        run.copier.drop_abandoned(connection)
    run.copier.drop_keys(connection)
    time_ns = stream.time_ns if run.attempt.load.settings.trust_mtime else None
    runs.finish(connection, run.context.run, run.context.dataset.digest_definition, stream.size, time_ns)
    run.copier.forget_seen(connection)


def _note_time(connection: psycopg.Connection, run: OpenRun, stream: Stream) -> None:
    """Note the time of a file that was loaded before, so that a later load need not read it."""
    from etl.ingestion.ledger import file_times  # noqa: PLC0415 - few loads trust times

    if stream.size is not None and stream.time_ns is not None and not run.attempt.progress.is_shorter:
        state = file_times.FileState(stream.source.name, stream.size, stream.time_ns)
        file_times.note_times(connection, {run.context.run.number: state})


def _require_staged(connection: psycopg.Connection, run: OpenRun, published: Sequence[int]) -> None:
    """Raise DatabaseError when fewer rows were published of a table than the ledger counts: somebody deleted some."""
    tables = run.context.dataset.tables
    entered = [rows for rows in batches.staged(connection, run.id).values() if rows is not None]
    staged = [sum(rows) for rows in zip(*entered, strict=True)] or [0 for _ in tables]
    for table, count, expected in zip(tables, published, staged, strict=True):
        if count < expected:
            raise DatabaseError(
                f"staged rows of run {run.id} are gone: {count:,} of {expected:,} for {table.name}, so nothing is"
                " published",
                hint="run the same command: it loads their batches again",
            )


def _require_whole(connection: psycopg.Connection, run: OpenRun) -> None:
    """Raise the error that keeps a run open although its source was read to its end."""
    attempt = run.attempt
    attempt.require_records()
    entered, rejected = batches.totals(connection, run.id)
    attempt.judge_publication(entered=entered, loaded=batches.loaded(connection, run.id), rejected=rejected)
    attempt.judge_rejected(rejected, entered, at_end=True)
    if entered < attempt.progress.read:
        # A batch commits before it is on the server's disk: what a crash of the server took is loaded again.
        raise DatabaseError(
            f"the database {attempt.load.database.name} crashed and lost batches of run {run.id}",
            hint="run the same command to load them again",
        )


def _analyze(run: OpenRun) -> None:
    attempt = run.attempt
    if not (attempt.load.settings.precalculate and attempt.progress.loaded):
        return
    try:
        connection = attempt.session.connection()
        run.copier.analyze(connection, batches.rows(connection, run.context.run))
    except psycopg.Error as error:  # The records are loaded; the server's own analyze comes later.
        log.warning("not_analyzed", run=run.id, sqlstate=code_of(error))
