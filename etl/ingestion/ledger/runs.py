"""The runs of the ledger and their attempts: started, resumed, finished, published."""

import getpass
import hashlib
import os
import secrets
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import psycopg

from etl import queries
from etl.errors import BusyError, InternalError
from etl.settings import Mode, OnDuplicate
from etl.version import __version__

_SQL = queries.load("ledger")


@dataclass(frozen=True, kw_only=True)
class Identity:
    """What identifies a source: the digest of its first bytes, and all that decides which rows its records become."""

    dataset: str
    source: str
    head_sha256: str
    head_bytes: int
    source_bytes: int | None
    definition_hash: str
    mode: Mode
    is_atomic: bool
    is_forced: bool
    on_duplicate: OnDuplicate | None = None


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
    """An earlier run whose source begins with the same bytes."""

    run: str
    number: int
    definition_hash: str
    head_bytes: int
    source_bytes: int | None
    mode: Mode
    is_atomic: bool
    is_forced: bool
    is_finished: bool


@dataclass(frozen=True, kw_only=True)
class RunForReplay:
    """What a replay needs of the run of a failure. `is_visible` is False before an atomic run is published."""

    run: str
    number: int
    dataset: str
    source: str
    head_sha256: str
    mode: Mode
    on_duplicate: OnDuplicate | None
    is_atomic: bool
    is_visible: bool


def known(connection: psycopg.Connection, dataset: str, head: bytes) -> list[KnownRun]:
    """Return the runs of the dataset whose source begins with the bytes of `head`, the newest first."""
    lengths = [length for (length,) in connection.execute(_SQL["runs_of_head_lengths"], {"dataset": dataset})]
    lengths = [length for length in lengths if length <= len(head)]
    digests = [hashlib.sha256(head[:length]).hexdigest() for length in lengths]
    values = {"dataset": dataset, "lengths": lengths, "digests": digests}
    return queries.rows_as(KnownRun, connection, _SQL["runs_of_source"], values)


def start(connection: psycopg.Connection, identity: Identity, request: AttemptRequest) -> Run:
    """Enter a new run and its first attempt.

    A forced run supersedes the pending failures of the earlier runs of its source.
    """
    run = f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}-{secrets.token_hex(3)}"
    values = vars(identity) | {"run": run}
    with connection.transaction():
        row = connection.execute(_SQL["open_run"], values).fetchone()
        if row is None:
            raise InternalError("the ledger gave no number to the run")
        if identity.is_forced:
            connection.execute(_SQL["supersede_failures"], values | {"number": row[0]})
        attempt = _open_attempt(connection, run, request)
    return Run(
        run=run,
        number=row[0],
        attempt=attempt,
        mode=identity.mode,
        is_atomic=identity.is_atomic,
        was_finished=False,
    )


def resume(connection: psycopg.Connection, known: KnownRun, request: AttemptRequest) -> Run:
    """Enter a further attempt of a run."""
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
    by = {"host": socket.gethostname(), "os_user": _user(), "pid": os.getpid(), "tool_version": __version__}
    row = connection.execute(_SQL["open_attempt"], {"run": run} | by | vars(request)).fetchone()
    if row is None:
        raise InternalError("the ledger gave no number to the attempt")
    name_session(connection, run)
    return int(row[0])


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


def _user() -> str:
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


def finish(connection: psycopg.Connection, run: Run, source_bytes: int | None) -> None:
    """Note that every record of the source, which has `source_bytes` bytes now, is entered, and notify listeners."""
    connection.execute(_SQL["finish_run"], {"run": run.run, "source_bytes": source_bytes})


def reopen(connection: psycopg.Connection, run: Run) -> None:
    """Note that a finished run continues: its source grew."""
    connection.execute(_SQL["reopen_run"], {"run": run.run})


def publish(connection: psycopg.Connection, run: Run, rows_deleted: Sequence[int], rows_kept: Sequence[int]) -> None:
    """Note that the rows of an atomic run became visible.

    A replace also notes the rows of each table that it deleted and that it kept for rejected records, and supersedes
    the pending failures of all earlier runs of its dataset.
    """
    connection.execute(_SQL["publish_run"], {"run": run.run})
    if run.mode == "replace":
        deletions = {"rows_deleted": list(rows_deleted), "rows_kept": list(rows_kept)}
        connection.execute(_SQL["note_deletions"], {"run": run.run, "attempt": run.attempt} | deletions)
        connection.execute(_SQL["supersede_replaced"], {"run": run.run})


def deletions(connection: psycopg.Connection, run: Run) -> Deletions:
    """Return the rows of each table that an attempt deleted and kept; both are empty if it published no replace."""
    return queries.one_as(Deletions, connection, _SQL["deletions"], {"run": run.run, "attempt": run.attempt})


def is_complete(connection: psycopg.Connection, run: str) -> bool:
    """Return whether every record of the run is loaded or in the failed store, and the rows are visible."""
    row = connection.execute(_SQL["run_state"], {"run": run}).fetchone()
    return bool(row and row[0])


def for_replay(connection: psycopg.Connection, run: str) -> RunForReplay:
    """Return what a replay needs of the run of a failure.

    Raises InternalError when there is no such run.
    """
    return queries.one_as(RunForReplay, connection, _SQL["run_for_replay"], {"run": run})
