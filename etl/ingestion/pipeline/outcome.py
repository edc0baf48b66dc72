"""How a source ended: the balance, the status and the exit code, computed from the ledger (C3, C4, G1, G9)."""

from dataclasses import replace

import psycopg
import structlog

from etl.database.connecting import Database
from etl.datasets import Dataset
from etl.errors import (
    BusyError,
    DatabaseError,
    EtlError,
    ExitCode,
    InternalError,
    InterruptedByUserError,
    TooManyRejectedError,
)
from etl.ingestion.destination import refusals
from etl.ingestion.ledger import runs, sums
from etl.ingestion.pipeline.job import Job, Progress
from etl.ingestion.values import Balance, PolicyEffects, Source, Status, Summary, printable_path

log = structlog.get_logger(__name__)

# Such an end comes at any instant: what had committed may be lost, and what is taken for lost may have committed.
_ABRUPT = (BusyError, DatabaseError, InterruptedByUserError)


def lost(error: psycopg.Error, database: Database) -> EtlError:
    """Return the error that ends an attempt when the database refused to go on; it tells no value of the data."""
    code = error.sqlstate
    if refusals.meaning(error) == "unexpected" and code is None:
        return InternalError(f"unexpected {type(error).__name__} of the database driver")
    what = f"{type(error).__name__}, SQLSTATE {code}" if code else "the connection is lost"
    return DatabaseError(
        f"the database {database.name} does not go on: {what}",
        hint="run the same command to go on where the ledger stops",
    )


def not_begun(source: Source, dataset: Dataset, database: str, error: EtlError) -> Summary:
    """Return the summary of a source that could not even be looked for in the ledger."""
    return Summary(
        run=None,
        dataset=dataset.name,
        source=source.name,
        database=database,
        status="incomplete",
        exit_code=error.exit_code,
        records=_counted(Progress()),
        rows=dict.fromkeys((table.name for table in dataset.tables), 0),
        batches={"loaded": 0, "failed": 0, "retried": 0},
        bytes_read=0,
        seconds=0.0,
        failed_store=None,
    )


def summary(
    connection: psycopg.Connection | None,
    source: Source,
    job: Job,
    progress: Progress,
    error: EtlError | None,
    seconds: float,
) -> tuple[Summary, EtlError | None]:
    """Close the attempt and return its summary, with the error that it tells.

    `connection` is None when the database is away: then what is told is what was counted here, and exit code 4.
    """
    run = progress.run
    tables = [table.name for table in job.dataset.tables]
    rows = dict.fromkeys(tables, 0)
    batches = {"loaded": 0, "failed": 0, "retried": progress.retried}
    balance = _counted(progress)
    if connection is not None and run is not None:
        unentered = progress.read - progress.skipped - progress.entered
        balance = sums.balance(connection, run, read=progress.read, skipped=progress.skipped, unentered=unentered)
        if isinstance(error, _ABRUPT):
            balance = replace(balance, withheld=balance.withheld + balance.missing)
        batches |= sums.batch_counts(connection, run)
        if not balance.withheld or balance.loaded:
            rows |= dict(zip(tables, sums.rows(connection, run), strict=False))
        error = _unbalanced(run, balance) or error or (None if progress.is_cut else _unfinished(connection, run))
    elif connection is None and error is None:
        error = DatabaseError(
            f"the database {job.database.name} is away and does not tell how the run ended",
            hint="run the same command to learn it",
        )
    policies = sums.policy_effects(connection, run) if connection is not None and run is not None else PolicyEffects()
    if policies.document():
        log.warning("policies_applied", source=source.name, **policies.document())
    status, exit_code = _end(balance, progress, error)
    if connection is not None and run is not None:
        runs.close_attempt(
            connection,
            run,
            exit_code=exit_code,
            read=progress.read,
            retried=progress.retried,
            bytes_read=progress.bytes_read,
        )
    told = Summary(
        run=run.run if run else None,
        dataset=job.dataset.name,
        source=source.name,
        database=job.database.name,
        status=status,
        exit_code=exit_code,
        records=balance,
        rows=rows,
        batches=batches,
        bytes_read=progress.bytes_read,
        seconds=seconds,
        policies=policies,
        failed_store=printable_path(job.settings.failed_dir) if balance.pending else None,
    )
    return told, error


def _counted(progress: Progress) -> Balance:
    return Balance(
        read=progress.read,
        loaded=progress.loaded,
        rejected=progress.entered - progress.loaded - progress.failed,
        failed=progress.failed,
        skipped=progress.skipped,
        withheld=progress.read - progress.skipped - progress.entered,
        pending=0,
    )


def _unbalanced(run: runs.Run, balance: Balance) -> EtlError | None:
    """Return the error that the balance does not add up (G1)."""
    if balance.adds_up():
        return None
    return InternalError(
        f"the balance of run {run.run} does not add up: {balance}",
        hint=f"report it with the output of: etl runs show {run.run} --json",
    )


def _unfinished(connection: psycopg.Connection, run: runs.Run) -> EtlError | None:
    if runs.is_complete(connection, run.run):
        return None
    return InternalError(f"the source was read to its end and run {run.run} is not finished in the ledger")


def _end(balance: Balance, progress: Progress, error: EtlError | None) -> tuple[Status, ExitCode]:
    if error is None and progress.run is not None and progress.run.was_finished and not progress.entered:
        return "already_loaded", ExitCode.FINDINGS if balance.pending else ExitCode.SUCCESS
    return end_of(error, is_cut=progress.is_cut, refused=balance.pending)


def end_of(error: EtlError | None, *, is_cut: bool, refused: int) -> tuple[Status, ExitCode]:
    """Return status and exit code of a source of which all records but those refused are in, or what ended it."""
    if isinstance(error, BusyError):
        return "busy", error.exit_code
    if isinstance(error, TooManyRejectedError):
        return "aborted", error.exit_code
    if error is not None:
        return "incomplete", error.exit_code
    exit_code = ExitCode.FINDINGS if refused else ExitCode.SUCCESS
    if is_cut:  # by --limit, as it was asked for
        return "incomplete", exit_code
    return ("loaded_with_rejects" if refused else "loaded"), exit_code
