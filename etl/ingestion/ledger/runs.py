"""The runs of the ledger and their attempts: started, resumed, finished, published."""

import getpass
import os
import secrets
import socket
from collections.abc import Sequence
from datetime import UTC, datetime

import psycopg

from etl import queries
from etl.errors import BusyError, InternalError
from etl.quick_dataclasses import dataclass
from etl.settings import Mode, OnDuplicate
from etl.version import __version__

_SQL = queries.load("ledger")


@dataclass(frozen=True, kw_only=True)
class NewRun:
    """A run to be opened: its source, and all that decides which rows the records become.

    `is_within`: the source may be a part of the source of another run. `supersedes` are the numbers of the runs whose
    place it takes.
    """

    dataset: str
    source: str
    source_bytes: int | None
    definition_hash: str
    mode: Mode
    is_atomic: bool
    is_forced: bool
    is_within: bool = False
    on_duplicate: OnDuplicate | None = None
    supersedes: Sequence[int] = ()


@dataclass(frozen=True, kw_only=True)
class AttemptRequest:
    """How an attempt was requested: the name of the source, the folder of the command, the options to repeat it."""

    source: str
    folder: str | None
    options: str


@dataclass(frozen=True, kw_only=True)
class Run:
    """A run with its current attempt."""

    run: str
    number: int
    attempt: int
    mode: Mode
    is_atomic: bool
    was_finished: bool


@dataclass(frozen=True, kw_only=True)
class Deletions:
    """The rows of each table that a replace deleted, and absent rows that it kept for rejected records."""

    rows_deleted: list[int]
    rows_kept: list[int]


@dataclass(frozen=True, kw_only=True)
class KnownRun:
    """An earlier run."""

    run: str
    number: int
    definition_hash: str
    mode: Mode
    is_atomic: bool
    is_forced: bool
    is_within: bool
    is_finished: bool


@dataclass(frozen=True, kw_only=True)
class CompleteRun:
    """A run whose source is loaded, with the number of its records and of those that wait in the failed store."""

    number: int
    run: str
    definition_hash: str
    records: int
    pending: int


@dataclass(frozen=True, kw_only=True)
class KnownSums:
    """How many sources a command found loaded already, with their records and bytes."""

    sources: int
    records: int
    bytes_read: int


@dataclass(frozen=True, kw_only=True)
class RunForReplay:
    """The run of a failure, as a replay needs it. `is_visible` is False before an atomic run is published."""

    run: str
    number: int
    dataset: str
    source: str
    mode: Mode
    on_duplicate: OnDuplicate | None
    is_atomic: bool
    is_visible: bool


def database_id(connection: psycopg.Connection) -> str:
    """Return the id of the database that holds the ledger: a restored or copied database has another."""
    row = connection.execute(_SQL["database_id"]).fetchone()
    return str(row[0]) if row else ""


def every(connection: psycopg.Connection) -> list[tuple[str, str]]:
    """Return the dataset and the name of all runs, the oldest first."""
    return connection.execute(_SQL["runs_of_ledger"]).fetchall()


def known(connection: psycopg.Connection, numbers: Sequence[int]) -> dict[int, KnownRun]:
    """Return runs by their numbers."""
    if not numbers:
        return {}
    found = queries.rows_as(KnownRun, connection, _SQL["known_runs"], {"numbers": list(numbers)})
    return {run.number: run for run in found}


def complete(connection: psycopg.Connection, numbers: Sequence[int]) -> dict[int, CompleteRun]:
    """Return the runs whose source is loaded and of which the ledger lacks nothing, by their numbers."""
    found = queries.rows_as(CompleteRun, connection, _SQL["complete_runs"], {"numbers": list(numbers)})
    return {run.number: run for run in found}


def enter_known(connection: psycopg.Connection, dataset: str, sums: KnownSums, request: AttemptRequest) -> None:
    """Enter that a command found sources loaded already."""
    connection.execute(_SQL["enter_known"], {"dataset": dataset} | vars(sums) | who() | vars(request))


def who() -> dict[str, object]:
    """Return the machine, the account and the process of this command, and the version of the tool."""
    return {"host": socket.gethostname(), "os_user": user(), "pid": os.getpid(), "tool_version": __version__}


def has_other_definition(connection: psycopg.Connection, dataset: str, hashes: Sequence[str]) -> bool:
    """Return whether a run of a dataset is unfinished that began under none of these definitions."""
    row = connection.execute(_SQL["has_other_definition"], {"dataset": dataset, "hashes": list(hashes)}).fetchone()
    return bool(row and row[0])


def is_newest_replace(connection: psycopg.Connection, number: int) -> bool:
    """Return whether nothing was loaded into the dataset of a published replace since."""
    row = connection.execute(_SQL["is_newest_replace"], {"number": number}).fetchone()
    return bool(row and row[0])


def start(connection: psycopg.Connection, new: NewRun, request: AttemptRequest) -> Run:
    """Enter a new run and its first attempt; the runs whose place it takes are superseded, with their failures."""
    run = f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}-{secrets.token_hex(3)}"
    with connection.transaction():
        row = connection.execute(_SQL["open_run"], vars(new) | {"run": run}).fetchone()
        if row is None:
            raise InternalError("the ledger gave no number to the run")
        if new.supersedes:
            connection.execute(_SQL["supersede_runs"], {"number": row[0], "numbers": list(new.supersedes)})
        attempt = _open_attempt(connection, run, request)
    return Run(
        run=run,
        number=row[0],
        attempt=attempt,
        mode=new.mode,
        is_atomic=new.is_atomic,
        was_finished=False,
    )


def resume(connection: psycopg.Connection, known: KnownRun, request: AttemptRequest) -> Run:
    """Enter a further attempt of a run; it shares nothing with the runs of a group any more."""
    connection.execute(_SQL["separate_run"], {"run": known.run})
    attempt = _open_attempt(connection, known.run, request)
    return Run(
        run=known.run,
        number=known.number,
        attempt=attempt,
        mode=known.mode,
        is_atomic=known.is_atomic,
        was_finished=known.is_finished,
    )


def _open_attempt(connection: psycopg.Connection, run: str, request: AttemptRequest) -> int:
    row = connection.execute(_SQL["open_attempt"], {"run": run} | who() | vars(request)).fetchone()
    if row is None:
        raise InternalError("the ledger gave no number to the attempt")
    name_session(connection, run)
    return int(row[0])


def is_entered(connection: psycopg.Connection, run: Run) -> bool:
    """Return whether the ledger has this attempt of a run by this process."""
    row = connection.execute(_SQL["is_entered"], {"run": run.run, "attempt": run.attempt} | who()).fetchone()
    return bool(row and row[0])


def require_current(connection: psycopg.Connection, run: Run) -> None:
    """Raise BusyError when another load made this attempt obsolete, while no lock protected it."""
    row = connection.execute(_SQL["is_overtaken"], {"run": run.run, "attempt": run.attempt}).fetchone()
    if row and row[0]:
        raise BusyError(
            f"another load replaced run {run.run} while its connection was lost",
            hint="run the same command to see what is loaded",
        )


def name_session(connection: psycopg.Connection, run: str) -> None:
    """Name the session by its run: those who list the sessions and locks of the server see it."""
    connection.execute(queries.load("database")["name_session"], {"name": f"etl:{run}"})


def user() -> str:
    """Return the account of this process."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # An account without a name, as in containers.
        return str(os.getuid())


def close_attempt(
    connection: psycopg.Connection, run: Run, *, exit_code: int, read: int, retried: int, bytes_read: int
) -> None:
    """Enter the end of an attempt."""
    connection.execute(
        _SQL["close_attempt"],
        {
            "run": run.run,
            "attempt": run.attempt,
            "exit_code": exit_code,
            "read": read,
            "retried": retried,
            "bytes_read": bytes_read,
        },
    )


def finish(
    connection: psycopg.Connection, run: Run, definition: int, source_bytes: int | None, time_ns: int | None = None
) -> None:
    """Note that every record of the source, which has `source_bytes` bytes now, is entered, and notify listeners.

    `definition` is the number of the definition in the digests of its records. `time_ns` is the time of its file, if a
    later load may trust it.
    """
    values = {"run": run.run, "definition": definition, "source_bytes": source_bytes, "time": time_ns}
    connection.execute(_SQL["finish_run"], values)


def reopen(connection: psycopg.Connection, run: Run) -> None:
    """Note that a finished run continues: its source grew."""
    connection.execute(_SQL["reopen_run"], {"run": run.run})


def publish(
    connection: psycopg.Connection,
    run: Run,
    rows_deleted: Sequence[int],
    rows_kept: Sequence[int],
    rows_replaced: int | None,
) -> None:
    """Note that the rows of an atomic run became visible; a merge wrote over `rows_replaced` older versions, at most.

    A replace also notes the rows of each table that it deleted and that it kept for rejected records, and supersedes
    the pending failures of all earlier runs of its dataset.
    """
    connection.execute(_SQL["publish_run"], {"run": run.run, "rows_replaced": rows_replaced})
    if run.mode == "replace":
        deletions = {"rows_deleted": list(rows_deleted), "rows_kept": list(rows_kept)}
        connection.execute(_SQL["note_deletions"], {"run": run.run, "attempt": run.attempt} | deletions)
        connection.execute(_SQL["supersede_replaced"], {"run": run.run})


def deletions(connection: psycopg.Connection, run: Run) -> Deletions:
    """Return the rows of each table that an attempt deleted and kept; both are empty if it published no replace."""
    return queries.one_as(Deletions, connection, _SQL["deletions"], {"run": run.run, "attempt": run.attempt})


def has_versions(connection: psycopg.Connection, table: str) -> bool:
    """Return whether rows of a table may have digests with which records can be compared."""
    row = connection.execute(_SQL["has_versions"], {"table": table}).fetchone()
    return bool(row and row[0])


def may_have_unknown(connection: psycopg.Connection, table: str, definition: int) -> bool:
    """Return whether unchanged records of a table may have unknown members; False if no run found any.

    `definition` is the number of the definition in their digests.
    """
    row = connection.execute(_SQL["may_have_unknown"], {"table": table, "definition": definition}).fetchone()
    return bool(row and row[0])


def note_versions(connection: psycopg.Connection, run: str, table: str, *, compares: bool) -> None:
    """Enter that a run writes versions into a table, and whether it may leave unchanged records as they are.

    In the transaction that opens its attempt. If it compares records, this waits for the batches of the table that
    other loads have begun.
    """
    connection.execute(_SQL["note_comparing" if compares else "note_not_comparing"], {"run": run, "table": table})


def note_unexamined(connection: psycopg.Connection, run: str, definition: int) -> None:
    """Enter that unknown members of the records of a run are not counted, which have digests by this definition."""
    connection.execute(_SQL["note_unexamined"], {"run": run, "definition": definition})


def is_complete(connection: psycopg.Connection, run: str) -> bool:
    """Return whether every record of the run is loaded or in the failed store, and the rows are visible."""
    row = connection.execute(_SQL["run_state"], {"run": run}).fetchone()
    return bool(row and row[0])


def for_replay(connection: psycopg.Connection, run: str) -> RunForReplay:
    """Return the run of a failure.

    Raises InternalError when there is no such run.
    """
    return queries.one_as(RunForReplay, connection, _SQL["run_for_replay"], {"run": run})
