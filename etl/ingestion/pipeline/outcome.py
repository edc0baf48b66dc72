"""How a source ended: the balance, the status and the exit code, computed from the ledger (C3, C4, G1, G9)."""

from collections.abc import Mapping
from dataclasses import field, replace

import psycopg
import structlog

from etl.database.narrowing import narrower_columns
from etl.datasets import Dataset
from etl.errors import (
    BusyError,
    DatabaseError,
    EtlError,
    ExitCode,
    InternalError,
    InterruptedByUserError,
    TooManyRejectedError,
    sqlstate_of,
)
from etl.ingestion.ledger import batches, runs
from etl.ingestion.pipeline.attempts import Attempt
from etl.ingestion.pipeline.job import Progress
from etl.ingestion.summary import Balance, EndReason, Status, Summary
from etl.ingestion.values import PolicyEffects, Source, printable_path
from etl.quick_dataclasses import dataclass

log = structlog.get_logger(__name__)

_MOST_LOGGED = 20
_UNKNOWN_HINT = 'nothing of them is loaded: name them in the definition, or set on_unknown = "ignore" there'

# After these errors the last commit is in doubt.
_COMMIT_IN_DOUBT = (BusyError, DatabaseError, InterruptedByUserError)


@dataclass(frozen=True, kw_only=True)
class _Counts:
    """The counts of an attempt at its end: records, rows by table, batches, and the effects of policies."""

    balance: Balance
    rows: Mapping[str, int]
    batches: Mapping[str, int]
    policies: PolicyEffects = field(default_factory=PolicyEffects)
    rows_deleted: Mapping[str, int] = field(default_factory=dict)
    rows_kept: Mapping[str, int] = field(default_factory=dict)
    narrowed: Mapping[str, str] = field(default_factory=dict)


def not_begun(source: Source, dataset: Dataset, database: str, error: EtlError) -> Summary:
    """Return the summary of a source that ended before it was looked up in the ledger."""
    progress = Progress()
    return Summary(
        run=None,
        dataset=dataset.name,
        source=source.name,
        database=database,
        status="incomplete",
        exit_code=error.exit_code,
        records=_counted(progress),
        rows=_no_rows(dataset),
        batches=_no_batches(progress),
        bytes_read=0,
        seconds=0.0,
        failed_store=None,
        error=reason_of_end(error, None),
    )


def reason_of_end(error: EtlError | None, run: str | None) -> EndReason | None:
    """Return the error that ended a source as the summary has it; the next command is known once a run is open."""
    if error is None:
        return None
    look = f"etl runs show {run}" if run else None
    return EndReason(sqlstate=sqlstate_of(error), message=str(error), hint=error.hint, next=look)


def report(source: Source, attempt: Attempt, seconds: float) -> tuple[Summary, EtlError | None]:
    """Close the attempt; return its summary from the ledger, and the error that ended it.

    The ledger is read over a new connection where the last is lost; without one the attempt's own counts remain.
    """
    error = attempt.progress.error
    for _ in range(2):  # That an idle connection is lost shows only when it is used.
        try:
            if not isinstance(error, BusyError):  # Another load has the run now.
                connection = attempt.session.connection()
                return _close(connection, source, attempt, error, seconds)
        except BusyError as busy:
            error = error or busy
        except psycopg.OperationalError:
            continue
    return _close(None, source, attempt, error, seconds)


def _close(
    connection: psycopg.Connection | None,
    source: Source,
    attempt: Attempt,
    error: EtlError | None,
    seconds: float,
) -> tuple[Summary, EtlError | None]:
    """Close the attempt and return its summary, and the error that ended it.

    `connection` is None when the database is away: then the counts are those of this process, and the exit code is 4.
    """
    dataset, database, progress = attempt.target.dataset, attempt.load.database, attempt.progress
    run = progress.run
    if connection is not None and run is not None:
        counts = _counts_of_ledger(connection, run, dataset, progress, error)
        error = _unbalanced(run, counts.balance) or error
        error = error or (None if progress.is_cut or progress.is_shorter else _unfinished(connection, run))
    else:
        counts = _counts_of_process(dataset, progress)
        error = error or (_end_unknown(database.name) if connection is None else None)
    log_changes(source, counts.policies, counts.narrowed)
    status, exit_code = _end(counts.balance, progress, error)
    if connection is not None and run is not None:
        runs.close_attempt(
            connection,
            run,
            exit_code=exit_code,
            read=progress.read,
            retried=progress.retried,
            bytes_read=progress.bytes_read,
        )
    return _summary(source, attempt, counts, (status, exit_code), seconds, error), error


def log_changes(source: Source, policies: PolicyEffects, narrowed: Mapping[str, str]) -> None:
    """Log what policies did with records, and the columns that changed their values or may have changed them."""
    effects = policies.document()
    coerced = effects.pop("coerced", None)
    effects.pop("unknown", None)
    effects.pop("unknown_others", None)
    if effects:
        log.warning("policies_applied", source=source.name, **effects)
    if coerced:
        log.warning("texts_coerced", source=source.name, texts=coerced)
    log_unknown(source.name, policies)
    if narrowed:
        log.warning("columns_narrower", source=source.name, columns=dict(narrowed))


def log_unknown(source: str, policies: PolicyEffects) -> None:
    """Log the members that the definition does not know, if records have any: those that most records have."""
    members, others = policies.frequent_unknown(_MOST_LOGGED)
    if members:
        log.warning("unknown_members", source=source, members=members, others=others, hint=_UNKNOWN_HINT)


def _counts_of_ledger(
    connection: psycopg.Connection, run: runs.Run, dataset: Dataset, progress: Progress, error: EtlError | None
) -> _Counts:
    """Return the counts of the ledger; records whose commit is in doubt are withheld."""
    unentered = progress.read - progress.skipped - progress.entered
    attempt = batches.of_attempt(connection, run)
    balance = batches.balance(
        connection, run, attempt, read=progress.read, skipped=progress.skipped, unentered=unentered
    )
    if isinstance(error, _COMMIT_IN_DOUBT):
        balance = replace(balance, withheld=balance.withheld + balance.missing)
    rows = _no_rows(dataset)
    if not balance.withheld or balance.loaded:
        rows |= dict(zip(rows, batches.rows(connection, run), strict=False))
    policies = batches.policy_effects(connection, run)
    if run.was_finished and not progress.entered:  # An earlier command has said it.
        policies = replace(policies, unknown={}, unknown_others=0)
    deletions = runs.deletions(connection, run)
    return _Counts(
        balance=balance,
        rows=rows,
        rows_deleted=dict(zip(rows, deletions.rows_deleted, strict=False)),
        rows_kept=dict(zip(rows, deletions.rows_kept, strict=False)),
        batches=_no_batches(progress) | {"loaded": attempt.batches_loaded, "failed": attempt.batches_failed},
        policies=policies,
        narrowed=narrower_columns(connection, dataset) if attempt.loaded else {},
    )


def _counts_of_process(dataset: Dataset, progress: Progress) -> _Counts:
    """Return the counts of this process, when the run is not in the ledger or the ledger cannot be read."""
    return _Counts(balance=_counted(progress), rows=_no_rows(dataset), batches=_no_batches(progress))


def _no_rows(dataset: Dataset) -> dict[str, int]:
    return dict.fromkeys((table.name for table in dataset.tables), 0)


def _no_batches(progress: Progress) -> dict[str, int]:
    return {"loaded": 0, "failed": 0, "retried": progress.retried}


def _summary(
    source: Source,
    attempt: Attempt,
    counts: _Counts,
    end: tuple[Status, ExitCode],
    seconds: float,
    error: EtlError | None,
) -> Summary:
    load, progress = attempt.load, attempt.progress
    run = progress.run.run if progress.run else None
    status, exit_code = end
    return Summary(
        run=run,
        dataset=attempt.target.dataset.name,
        source=source.name,
        database=load.database.name,
        status=status,
        exit_code=exit_code,
        records=counts.balance,
        rows=counts.rows,
        rows_deleted=counts.rows_deleted,
        rows_kept=counts.rows_kept,
        batches=counts.batches,
        bytes_read=progress.bytes_read,
        seconds=seconds,
        policies=counts.policies,
        narrowed=counts.narrowed,
        doubled=progress.doubled,
        failed_store=printable_path(load.settings.failed_dir) if counts.balance.pending else None,
        error=reason_of_end(error, run),
    )


def _end_unknown(database: str) -> EtlError:
    """Return the error that the ledger cannot be read at the end of an attempt."""
    return DatabaseError(
        f"the database {database} is away: how the run ended is unknown",
        hint="run the same command to find out",
    )


def _counted(progress: Progress) -> Balance:
    """Return the balance as this process counted it."""
    return Balance(
        read=progress.read,
        loaded=progress.loaded,
        unchanged=progress.unchanged,
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
    """Return the error that the ledger does not hold the end of a source that was read to its end."""
    if runs.is_complete(connection, run.run):
        return None
    return InternalError(f"the source was read to its end and run {run.run} is not finished in the ledger")


def _end(balance: Balance, progress: Progress, error: EtlError | None) -> tuple[Status, ExitCode]:
    is_part = progress.is_shorter and not progress.is_cut
    is_known = progress.run is not None and (progress.run.was_finished or is_part)
    if error is None and is_known and not progress.entered:
        return "already_loaded", ExitCode.FINDINGS if balance.pending else ExitCode.SUCCESS
    return end_of(error, is_cut=progress.is_cut, refused=balance.pending)


def end_of(error: EtlError | None, *, is_cut: bool, refused: int) -> tuple[Status, ExitCode]:
    """Return the status and the exit code of a source by the error that ended it.

    Without an error all of its records are loaded, but the `refused` ones. `is_cut`: --limit left the rest unread.
    """
    if isinstance(error, BusyError):
        return "busy", error.exit_code
    if isinstance(error, TooManyRejectedError):
        return "aborted", error.exit_code
    if error is not None:
        return "incomplete", error.exit_code
    exit_code = ExitCode.FINDINGS if refused else ExitCode.SUCCESS
    if is_cut:
        return "incomplete", exit_code
    return ("loaded_with_rejects" if refused else "loaded"), exit_code
