"""The ledger: runs, attempts, batches, failures, and the locks that let one load at a time hold a source.

A batch is entered by the transaction that loads it; what an attempt did is added up from here and nowhere else.
"""

import getpass
import hashlib
import os
import secrets
import socket
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
from psycopg.types.json import Jsonb

from etl import queries
from etl.errors import BusyError, InternalError
from etl.ingestion.values import Balance, Entry, Failure, LoadedRange, Piece, PolicyEffects
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
    """What an attempt was asked: the source by its name, from which folder, and the options needed to ask it again."""

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


def lock_source(connection: psycopg.Connection, dataset: str, head_sha256: str, mode: Mode) -> None:
    """Hold the source, and the dataset against a replace, until the connection ends.

    Raises BusyError saying who holds it since when.
    """
    for key, is_shared, what in _locks(dataset, head_sha256, mode):
        row = connection.execute(_SQL["try_lock_shared" if is_shared else "try_lock"], {"key": key}).fetchone()
        if not row or not row[0]:
            raise _busy(connection, key, what)


def lock_source_again(
    connection: psycopg.Connection, dataset: str, head_sha256: str, mode: Mode, *, has_workers: bool = False
) -> None:
    """Hold the source again after the connection was lost; waits for the server to notice that the old one is gone.

    Raises BusyError when another run took it in between.
    """
    for key, is_shared, what in _locks(dataset, head_sha256, mode):
        if has_workers and key == _workers_key(dataset, head_sha256):
            continue
        try:
            connection.execute(_SQL["lock_shared" if is_shared else "lock"], {"key": key})
        except psycopg.errors.LockNotAvailable:
            raise _busy(connection, key, what) from None


def _locks(dataset: str, head_sha256: str, mode: Mode) -> list[tuple[int, bool, str]]:
    return [
        (_key(f"dataset:{dataset}"), mode != "replace", f"the dataset {dataset}"),
        (_key(f"source:{dataset}:{head_sha256}"), False, "this source"),
        (_workers_key(dataset, head_sha256), False, "this source"),
    ]


def _workers_key(dataset: str, head_sha256: str) -> int:
    return _key(f"workers:{dataset}:{head_sha256}")


def admit_workers(connection: psycopg.Connection, dataset: str, head_sha256: str) -> None:
    """Let other sessions of this load join it.

    Each holds a lock of its own: where the connection that holds the source is lost, they still keep others out.
    """
    connection.execute(_SQL["unlock"], {"key": _workers_key(dataset, head_sha256)})


def join_load(connection: psycopg.Connection, run: Run, dataset: str, head_sha256: str) -> None:
    """Make a session one of those that load a source.

    Raises BusyError when another load holds it now.
    """
    key = _workers_key(dataset, head_sha256)
    try:
        connection.execute(_SQL["lock_shared"], {"key": key})
    except psycopg.errors.LockNotAvailable:
        raise _busy(connection, key, "this source") from None
    require_current(connection, run)
    name_session(connection, run.run)


def _key(name: str) -> int:
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big", signed=True)


def _busy(connection: psycopg.Connection, key: int, what: str) -> BusyError:
    holder = connection.execute(_SQL["lock_holders"], {"key": key}).fetchone()
    who = f"{holder[0]} since {holder[1]:%Y-%m-%d %H:%M:%S} UTC" if holder else "another run"
    return BusyError(f"{what} is held by {who}", hint="wait for its end and run the same command")


def known_runs(connection: psycopg.Connection, dataset: str, head: bytes) -> list[KnownRun]:
    """Find the runs of the dataset whose source begins as `head` does, the newest first."""
    lengths = [length for (length,) in connection.execute(_SQL["runs_of_head_lengths"], {"dataset": dataset})]
    lengths = [length for length in lengths if length <= len(head)]
    digests = [hashlib.sha256(head[:length]).hexdigest() for length in lengths]
    rows = queries.rows(
        connection, _SQL["runs_of_source"], {"dataset": dataset, "lengths": lengths, "digests": digests}
    )
    return [KnownRun(**row) for row in rows]


def open_run(connection: psycopg.Connection, identity: Identity, asked: AttemptRequest) -> Run:
    """Enter a new run and its first attempt."""
    run = f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}-{secrets.token_hex(3)}"
    values = vars(identity) | {"run": run}
    with connection.transaction():
        row = connection.execute(_SQL["open_run"], values).fetchone()
        if row is None:
            raise InternalError("the ledger gave no number to the run")
        if identity.is_forced:
            connection.execute(_SQL["supersede_failures"], values | {"number": row[0]})
        attempt = _open_attempt(connection, run, asked)
    return Run(
        run=run,
        number=row[0],
        attempt=attempt,
        mode=identity.mode,
        is_atomic=identity.is_atomic,
        was_finished=False,
    )


def resume_run(connection: psycopg.Connection, known: KnownRun, asked: AttemptRequest) -> Run:
    """Enter a further attempt of a run."""
    attempt = _open_attempt(connection, known.run, asked)
    return Run(
        run=known.run,
        number=known.number,
        attempt=attempt,
        mode=known.mode,
        is_atomic=known.is_atomic,
        was_finished=known.is_finished,
    )


def _open_attempt(connection: psycopg.Connection, run: str, asked: AttemptRequest) -> int:
    by = {"host": socket.gethostname(), "os_user": _user(), "pid": os.getpid(), "tool_version": __version__}
    row = connection.execute(_SQL["open_attempt"], {"run": run} | by | vars(asked)).fetchone()
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


def ranges(connection: psycopg.Connection, run: str) -> dict[int, LoadedRange]:
    """List the batches that a run holds, by offset."""
    return {
        row[0]: LoadedRange(offset=row[0], length=row[1], count=row[2], first_record=row[3], hash=row[4])
        for row in connection.execute(_SQL["ranges"], {"run": run})
    }


def claim(connection: psycopg.Connection, run: Run, piece: Piece) -> bool:
    """Claim a batch before its rows are sent; False when a transaction before this one entered it.

    A connection that was lost while it committed leaves it open whether it did: claiming again waits for the old
    transaction to end and then knows.
    """
    claimed = connection.execute(
        _SQL["claim_batch"],
        {
            "run": run.run,
            "offset": piece.offset,
            "bytes": piece.length,
            "first_record": piece.first_record,
            "count": piece.count,
            "hash": piece.hash,
            "attempt": run.attempt,
        },
    )
    return claimed.rowcount == 1


def enter(connection: psycopg.Connection, run: Run, piece: Piece, entry: Entry, failures: Iterable[Failure]) -> None:
    """Enter what became of a claimed batch, and the files of the failed store that hold the rest of it."""
    effects = entry.policy_effects.document()
    values = vars(entry) | {
        "rows": list(entry.rows),
        "run": run.run,
        "offset": piece.offset,
        "policies": Jsonb(effects) if effects else None,
    }
    connection.execute(_SQL["enter_batch"], values)
    _enter_failures(connection, failures)


def _enter_failures(connection: psycopg.Connection, failures: Iterable[Failure]) -> None:
    for failure in failures:
        told = {key: value for key, value in vars(failure).items() if key not in {"records", "lines"}}
        connection.execute(_SQL["enter_failure"], told | {"count": len(failure.records)})
        connection.execute(_SQL["enter_faults"], {"id": failure.id} | _faults(failure))


def _faults(failure: Failure) -> dict[str, list[Any]]:
    """Return what is wrong with the records of a failure, counted by kind, as columns."""
    counts: Counter[tuple[Any, ...]] = Counter()
    first: dict[tuple[Any, ...], Mapping[str, Any]] = {}
    for record in failure.records:
        kind = (record["sqlstate"], record["table"], record["column"], record["reason"])
        counts[kind] += 1
        first.setdefault(kind, record)
    return {
        "sqlstates": [kind[0] for kind in counts],
        "tables": [kind[1] for kind in counts],
        "columns": [kind[2] for kind in counts],
        "reasons": [kind[3] for kind in counts],
        "counts": list(counts.values()),
        "first_records": [first[kind]["record"] for kind in counts],
        "first_offsets": [first[kind]["offset"] for kind in counts],
    }


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


def totals(connection: psycopg.Connection, run: str) -> tuple[int, int]:
    """Add up the records entered and the records rejected over all attempts of a run."""
    row = queries.one(connection, _SQL["totals"], {"run": run})
    return int(row["records"]), int(row["rejected"])


def named_failures(connection: psycopg.Connection, run: str) -> set[str]:
    """List the ids of the failures that the ledger knows of a run."""
    return {row["id"] for row in failures_list(connection, run=run)}


def claim_replay(connection: psycopg.Connection, id: str) -> bool:
    """Claim a failure before its records are sent; False when it waits no more."""
    return connection.execute(_SQL["claim_replay"], {"id": id}).rowcount == 1


def enter_replay(
    connection: psycopg.Connection, replayed: Mapping[str, Any], entry: Entry, failures: Iterable[Failure]
) -> None:
    """Enter what became of the records of a failure: the batch's counts move from refused to loaded."""
    was = {"rejected": 0, "failed": 0} | {replayed["kind"]: replayed["count_records"]}
    values = vars(entry) | {"rows": list(entry.rows), "run": replayed["run"], "offset": replayed["batch"]}
    connection.execute(_SQL["enter_replay"], values | {"was_rejected": was["rejected"], "was_failed": was["failed"]})
    _enter_failures(connection, failures)


def discard(connection: psycopg.Connection, id: str, reason: str) -> bool:
    """Note that a failure will never be replayed, and why; False when it does not wait."""
    return connection.execute(_SQL["discard"], {"id": id, "note": reason}).rowcount == 1


def settled_failures(connection: psycopg.Connection, age: timedelta, dataset: str | None) -> list[dict[str, Any]]:
    """List the failures of at least this age that wait no more, the oldest first."""
    return queries.rows(connection, _SQL["settled_failures"], {"age": age, "dataset": dataset})


def run_of_failure(connection: psycopg.Connection, run: str) -> dict[str, Any]:
    """Return what a replay must know of the run of a failure."""
    return queries.one(connection, _SQL["run_for_replay"], {"run": run})


def first_record(connection: psycopg.Connection, run: str, offset: int) -> int:
    """Return the number of the first record of a batch."""
    return int(queries.one(connection, _SQL["first_record"], {"run": run, "offset": offset})["first_record"])


def is_complete(connection: psycopg.Connection, run: str) -> bool:
    """Tell whether every record of the run is in, or waits in the failed store, for all to see."""
    row = connection.execute(_SQL["run_state"], {"run": run}).fetchone()
    return bool(row and row[0])


def balance(connection: psycopg.Connection, run: Run, *, read: int, skipped: int, unentered: int) -> Balance:
    """Add up an attempt from the ledger.

    `read` and `skipped` are records as they were cut from the source; `unentered` of them were read and never
    entered, because the attempt stopped.
    """
    row = queries.one(connection, _SQL["balance"], {"run": run.run, "attempt": run.attempt})
    is_hidden = run.is_atomic and not is_complete(connection, run.run)
    loaded = int(row["loaded"])
    return Balance(
        read=read,
        loaded=0 if is_hidden else loaded,
        rejected=int(row["rejected"]),
        failed=int(row["failed"]),
        skipped=skipped,
        withheld=unentered + (loaded if is_hidden else 0),
        pending=int(queries.one(connection, _SQL["pending_of_run"], {"run": run.run})["pending"]),
    )


def batches(connection: psycopg.Connection, run: Run) -> dict[str, int]:
    """Count the batches that an attempt entered: loaded (with or without rejects) and failed."""
    row = queries.one(connection, _SQL["balance"], {"run": run.run, "attempt": run.attempt})
    return {"loaded": int(row["batches_loaded"]), "failed": int(row["batches_failed"])}


def rows(connection: psycopg.Connection, run: Run) -> list[int]:
    """Add up the rows that COPY counted in an attempt, for each table of the dataset in its order."""
    values = {"run": run.run, "attempt": run.attempt}
    return [int(count) for _, count in connection.execute(_SQL["rows_of_attempt"], values)]


def policies(connection: psycopg.Connection, run: Run) -> PolicyEffects:
    """Add up what policies did with the records of an attempt."""
    row = queries.one(connection, _SQL["policies_of_attempt"], {"run": run.run, "attempt": run.attempt})
    return PolicyEffects(nul_stripped=row["nul_stripped"], duplicates=row["duplicates"], unknown=tuple(row["unknown"]))


def failures_list(
    connection: psycopg.Connection,
    *,
    id: str | None = None,
    run: str | None = None,
    dataset: str | None = None,
    state: str | None = None,
) -> list[dict[str, Any]]:
    """List the files of the failed store that match, the newest last."""
    return queries.rows(connection, _SQL["failures_list"], {"id": id, "run": run, "dataset": dataset, "state": state})
