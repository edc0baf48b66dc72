"""The history of runs: their status, their attempts, the faults of their records, and the next command.

This module only reads.
"""

import shlex
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import Literal

import psycopg

from etl import queries
from etl.errors import UsageError
from etl.ingestion.ledger.failures import State
from etl.queries import Conditions
from etl.quick_dataclasses import dataclass
from etl.settings import Mode

_SQL = queries.load("history")

RunStatus = Literal["running", "loaded", "loaded_with_rejects", "incomplete", "aborted", "busy", "died", "undone"]
"""The status of a run now. `died`: its process ended without closing the attempt, and holds the source no more.
`undone`: it was taken back."""


@dataclass(frozen=True, kw_only=True)
class RunFilter:
    """Which runs to return: the newest `limit` of those that match every given value."""

    run: str | None = None
    dataset: str | None = None
    status: RunStatus | None = None
    since: datetime | None = None
    before: int | None = None
    """Only runs whose number is smaller."""
    limit: int = 1


@dataclass(frozen=True, kw_only=True)
class RunRow:
    """A run with its newest attempt, its counts of records, batches and bytes, and the seconds of all its attempts.

    The columns of the attempt are None for a run without one. `deleted` are the loaded records that deleted their key,
    None where the dataset has no such records. `rows_undone` are the rows of all tables that an undo deleted; its
    columns are None for a run that was not taken back. `next` is the command that an operator runs next.
    """

    run: str
    dataset: str
    source: str
    status: RunStatus
    mode: Mode
    started_at: datetime
    finished_at: datetime | None
    ended_at: datetime | None
    attempts: int | None
    exit_code: int | None
    host: str | None
    os_user: str | None
    pid: int | None
    tool_version: str | None
    folder: str | None
    options: str | None
    records: int
    loaded: int
    unchanged: int
    rejected: int
    failed: int
    deleted: int | None
    rows_deleted: int
    rows_kept: int
    batches: int
    pending: int
    bytes: int
    seconds: float | None
    records_per_second: float | None
    last_batch_at: datetime | None
    undone_at: datetime | None
    undone_by: str | None
    rows_undone: int | None
    next: str | None = None


@dataclass(frozen=True, kw_only=True)
class AttemptRow:
    """A row of `etl.attempts`. Its end and its counts are None while it runs, and after its process died."""

    attempt: int
    started_at: datetime
    ended_at: datetime | None
    exit_code: int | None
    count_read: int | None
    count_retried: int | None
    bytes_read: int | None
    host: str
    os_user: str
    pid: int
    source: str | None
    folder: str | None
    options: str | None
    tool_version: str | None


@dataclass(frozen=True, kw_only=True)
class FaultCount:
    """A fault of refused records, and how many have it."""

    sqlstate: str | None
    table: str | None
    column: str | None
    reason: str | None
    count_records: int


@dataclass(frozen=True, kw_only=True)
class FaultRow:
    """A fault of refused records: how many have it, and the number and the byte of the first of them."""

    kind: Literal["rejected", "failed"]
    state: State
    sqlstate: str | None
    table: str | None
    column: str | None
    reason: str | None
    count_records: int
    first_record: int | None
    first_offset: int | None


def runs(connection: psycopg.Connection, run_filter: RunFilter, here: Path) -> list[RunRow]:
    """Return runs, the newest first. Their `next` is a command for a shell in the folder `here`, or None."""
    return [row for _, row in numbered_runs(connection, run_filter, Conditions(), here)]


def numbered_runs(
    connection: psycopg.Connection, run_filter: RunFilter, conditions: Conditions, here: Path
) -> list[tuple[int, RunRow]]:
    """Return runs as `runs` does, each with its number; `conditions` are on the columns of RunRow."""
    statement = _SQL["runs"].format(conditions=conditions.text)
    found = queries.rows(connection, statement, {**vars(run_filter), **conditions.values})
    numbered = [(row.pop("number"), RunRow(**row)) for row in found]
    return [(number, replace(row, next=_next_command(row, here))) for number, row in numbered]


def name_of(connection: psycopg.Connection, run: str, dataset: str | None = None) -> str:
    """Return the name of a run; `latest` is the run that began last, of a dataset if one is named.

    Raises UsageError when there is no run yet.
    """
    if run != "latest":
        return run
    for (newest,) in connection.execute(_SQL["newest_run"], {"dataset": dataset}):
        return str(newest)
    raise UsageError(f"there is no run{f' of {dataset}' if dataset else ''} yet", hint="etl runs list")


def attempts(connection: psycopg.Connection, run: str) -> list[AttemptRow]:
    """Return the attempts of a run in their order."""
    return queries.rows_as(AttemptRow, connection, _SQL["attempts"], {"run": run})


def faults(connection: psycopg.Connection, run: str) -> list[FaultRow]:
    """Count the refused records of a run by their fault, the most frequent fault first.

    An older version of this tool entered only the first fault of each file, without its place: the place is None.
    """
    return queries.rows_as(FaultRow, connection, _SQL["faults"], {"run": run})


def faults_of(connection: psycopg.Connection, ids: Sequence[str]) -> list[FaultCount]:
    """Count the refused records of some failures by their fault, the most frequent fault first."""
    return queries.rows_as(FaultCount, connection, _SQL["faults_of_failures"], {"ids": list(ids)})


def _next_command(row: RunRow, here: Path) -> str | None:
    """Return the command that an operator runs next, or None when nothing is left to do."""
    if row.status == "running":
        return f"etl runs show {row.run}"
    if row.status in {"loaded_with_rejects", "aborted"}:
        return _from(row, here, f"etl failed show --run {row.run}{_failed_dir(row)}")
    if row.status in {"loaded", "undone"}:
        return None
    return load_command(row, here)


def _failed_dir(row: RunRow) -> str:
    """Return the option with the failed store of a run, if its load named one."""
    words = shlex.split(row.options or "")
    named = [word for option, word in pairwise(words) if option == "--failed-dir"]
    return f" --failed-dir {shlex.quote(named[0])}" if named else ""


def _from(row: RunRow, here: Path, command: str) -> str:
    """Return a command for a shell in the folder `here` that acts in the folder of the run."""
    return command if not row.folder or row.folder == str(here) else f"cd {shlex.quote(row.folder)} && {command}"


def load_command(row: RunRow, here: Path) -> str:
    """Return the command that continues a run, quoted for a shell in the folder `here`."""
    source = row.source
    words = ["etl", "load", row.dataset, source if source == "-" or not source.startswith("-") else f"./{source}"]
    command = f"{shlex.join(words)} {row.options or ''}".rstrip()
    is_relative = source != "-" and not Path(source).is_absolute() and "://" not in source
    return _from(row, here, command) if is_relative else command
