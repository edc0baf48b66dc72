"""The locks that let one load at a time hold a source: session advisory locks, which end with their connection."""

import hashlib

import psycopg

from etl import queries
from etl.errors import BusyError
from etl.ingestion.ledger.runs import Run, name_session, require_current
from etl.settings import Mode

_SQL = queries.load("ledger")


def acquire(connection: psycopg.Connection, dataset: str, head_sha256: str, mode: Mode) -> None:
    """Lock the source exclusively, and the dataset (shared; exclusively for a replace), until the connection ends.

    Raises BusyError at once when another session holds one of them; the message names it and when it began.
    """
    for key, is_shared, subject in _locks(dataset, head_sha256, mode):
        row = connection.execute(_SQL["try_lock_shared" if is_shared else "try_lock"], {"key": key}).fetchone()
        if not row or not row[0]:
            raise _busy(connection, key, subject)


def reacquire(
    connection: psycopg.Connection, dataset: str, head_sha256: str, mode: Mode, *, has_workers: bool = False
) -> None:
    """Take the locks again over a new connection, after the old one was lost.

    Waits until the server has noticed the loss. With `has_workers` the workers keep their own lock. Raises BusyError
    when another run took a lock in between.
    """
    for key, is_shared, subject in _locks(dataset, head_sha256, mode):
        if has_workers and key == _workers_key(dataset, head_sha256):
            continue
        try:
            connection.execute(_SQL["lock_shared" if is_shared else "lock"], {"key": key})
        except (psycopg.errors.LockNotAvailable, psycopg.errors.QueryCanceled):
            raise _busy(connection, key, subject) from None


def _locks(dataset: str, head_sha256: str, mode: Mode) -> list[tuple[int, bool, str]]:
    """Return the key of each lock, whether it is shared, and what it locks."""
    return [
        (_key(f"dataset:{dataset}"), mode != "replace", f"the dataset {dataset}"),
        (_key(f"source:{dataset}:{head_sha256}"), False, "this source"),
        (_workers_key(dataset, head_sha256), False, "this source"),
    ]


def _workers_key(dataset: str, head_sha256: str) -> int:
    return _key(f"workers:{dataset}:{head_sha256}")


def admit_workers(connection: psycopg.Connection, dataset: str, head_sha256: str) -> None:
    """Let other sessions of this load join it: release the lock that each of them then shares.

    While the connection that holds the source is lost, this shared lock keeps other loads away.
    """
    connection.execute(_SQL["unlock"], {"key": _workers_key(dataset, head_sha256)})


def join(connection: psycopg.Connection, run: Run, dataset: str, head_sha256: str) -> None:
    """Make this session a worker of the load that holds the source.

    Raises BusyError when another load holds the source now.
    """
    key = _workers_key(dataset, head_sha256)
    try:
        connection.execute(_SQL["lock_shared"], {"key": key})
    except (psycopg.errors.LockNotAvailable, psycopg.errors.QueryCanceled):
        raise _busy(connection, key, "this source") from None
    require_current(connection, run)
    name_session(connection, run.run)


def _key(name: str) -> int:
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big", signed=True)


def _busy(connection: psycopg.Connection, key: int, subject: str) -> BusyError:
    holder = connection.execute(_SQL["lock_holders"], {"key": key}).fetchone()
    who = f"{holder[0]} since {holder[1]:%Y-%m-%d %H:%M:%S} UTC" if holder else "another run"
    return BusyError(f"{subject} is held by {who}", hint="wait for its end and run the same command")
