"""Runs and their attempts in the ledger: opened, resumed, finished, published."""

import getpass
import hashlib
import os
import secrets
import socket
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import psycopg

from etl import queries
from etl.errors import BusyError, InternalError
from etl.settings import Mode, OnDuplicate
from etl.version import __version__

_SQL = queries.load("ledger")


@dataclass(frozen=True, kw_only=True)
class Identity:
    """What a source is known by: the digest of its first bytes, and what decides which rows it becomes."""

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
    """A run and the attempt that is going on."""

    run: str
    number: int
    attempt: int
    mode: Mode
    is_atomic: bool
    was_finished: bool


@dataclass(frozen=True, kw_only=True)
class KnownRun:
    """An earlier run of a source that begins alike."""

    run: str
    number: int
    definition_hash: str
    head_bytes: int
    source_bytes: int | None
    mode: Mode
    is_atomic: bool
    is_forced: bool
    is_finished: bool


def known(connection: psycopg.Connection, dataset: str, head: bytes) -> list[KnownRun]:
    """Find the runs of the dataset whose source begins as `head` does, the newest first."""
    lengths = [length for (length,) in connection.execute(_SQL["runs_of_head_lengths"], {"dataset": dataset})]
    lengths = [length for length in lengths if length <= len(head)]
    digests = [hashlib.sha256(head[:length]).hexdigest() for length in lengths]
    rows = queries.rows(
        connection, _SQL["runs_of_source"], {"dataset": dataset, "lengths": lengths, "digests": digests}
    )
    return [KnownRun(**row) for row in rows]


def start(connection: psycopg.Connection, identity: Identity, request: AttemptRequest) -> Run:
    """Enter a new run and its first attempt."""
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
    """Raise BusyError when the source was not held for a while, and another load made this attempt out of date."""
    row = connection.execute(_SQL["is_overtaken"], {"run": run.run, "attempt": run.attempt}).fetchone()
    if row and row[0]:
        raise BusyError(
            f"another load took the place of run {run.run} while its connection was lost",
            hint="run the same command to see what is in",
        )


def name_session(connection: psycopg.Connection, run: str) -> None:
    """Tell the server which run this connection works on, for whoever looks at its sessions and locks."""
    connection.execute(queries.load("database")["name_session"], {"name": f"etl:{run}"})


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # An account without a name, as containers have.
        return str(os.getuid())


def close_attempt(
    connection: psycopg.Connection, run: Run, *, exit_code: int, read: int, retried: int, bytes_read: int
) -> None:
    """Note how an attempt ended."""
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
    """Note that every record of the source, as large as it is now, is entered, and tell the listeners."""
    connection.execute(_SQL["finish_run"], {"run": run.run, "source_bytes": source_bytes})


def reopen(connection: psycopg.Connection, run: Run) -> None:
    """Note that a finished run goes on: its source grew."""
    connection.execute(_SQL["reopen_run"], {"run": run.run})


def publish(connection: psycopg.Connection, run: Run) -> None:
    """Note that the rows of an atomic run became visible; what waited of runs before a replace is out of date."""
    connection.execute(_SQL["publish_run"], {"run": run.run})
    if run.mode == "replace":
        connection.execute(_SQL["supersede_replaced"], {"run": run.run})


def is_complete(connection: psycopg.Connection, run: str) -> bool:
    """Tell whether every record of the run is in, or waits in the failed store, for all to see."""
    row = connection.execute(_SQL["run_state"], {"run": run}).fetchone()
    return bool(row and row[0])


def for_replay(connection: psycopg.Connection, run: str) -> dict[str, Any]:
    """Return what a replay must know of the run of a failure."""
    return queries.one(connection, _SQL["run_for_replay"], {"run": run})
