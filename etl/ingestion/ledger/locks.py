"""The locks that let one load at a time hold a source: session advisory locks, which end with their connection."""

import hashlib
import time
from collections.abc import Callable

import psycopg
import structlog

from etl import queries
from etl.database.watching import IDLE_SECONDS, ServerConnection
from etl.errors import BusyError
from etl.ingestion.ledger.runs import Run, name_session, require_current
from etl.settings import Mode

_SQL = queries.load("ledger")

COLLECTOR = "etl:collect"
"""The name of the sessions that load events; they hold a dataset for the transaction of one group."""

_LOOK_SECONDS = 0.5

log = structlog.get_logger(__name__)


def await_lost(connection: ServerConnection, sleep: Callable[[float], None] = time.sleep) -> None:
    """Wait until the server has ended the sessions that this connection replaces: until then they hold their locks.

    After IDLE_SECONDS the wait ends, and whoever needs such a lock reports it as busy.
    """
    deadline = time.monotonic() + IDLE_SECONDS
    values = {"backends": list(connection.replaced)}
    has_waited = False
    while connection.replaced and time.monotonic() < deadline:
        if connection.execute(_SQL["locks_of_sessions"], values).fetchone() == (False,):
            return
        if not has_waited:
            log.warning("lost_session_awaited", at_most_seconds=IDLE_SECONDS)
        has_waited = True
        sleep(_LOOK_SECONDS)


def hold_dataset(connection: psycopg.Connection, dataset: str, mode: Mode) -> None:
    """Lock the dataset until the connection ends: shared, exclusively for a replace.

    Workers of another load also keep a replace away, although the session of their first process is lost. Raises
    BusyError at once when another session holds the dataset; the message names the session and when it began.
    """
    for lock in _dataset_locks(dataset, mode):
        _take(connection, *lock)


def hold_run(connection: psycopg.Connection, run: str) -> None:
    """Lock a run exclusively until the connection ends.

    Raises BusyError at once when another session holds it.
    """
    for lock in _run_locks(run):
        _take(connection, *lock)


def hold_run_in_transaction(connection: psycopg.Connection, run: str) -> bool:
    """Lock a run exclusively until the transaction ends; False when another session holds it."""
    statement = _SQL["try_lock_in_transaction"]
    return all(connection.execute(statement, {"key": key}).fetchone() == (True,) for key, _, _ in _run_locks(run))


def require_free(connection: psycopg.Connection, run: str) -> None:
    """Lock a run exclusively until the transaction ends.

    Raises BusyError at once when another session holds it.
    """
    for key, _, subject in _run_locks(run):
        if connection.execute(_SQL["try_lock_in_transaction"], {"key": key}).fetchone() != (True,):
            raise _busy(connection, key, subject)


def one_opening_at_a_time(connection: psycopg.Connection, dataset: str) -> None:
    """Let no other session open or continue a run of the dataset until the transaction ends; wait for one that does."""
    connection.execute(_SQL["lock_in_transaction"], {"key": _key(f"opening:{dataset}")})


def share_dataset_in_transaction(connection: psycopg.Connection, dataset: str) -> bool:
    """Lock the dataset until the transaction ends, shared; False when a replace holds it."""
    key = _key(f"dataset:{dataset}")
    return connection.execute(_SQL["try_lock_shared_in_transaction"], {"key": key}).fetchone() == (True,)


def _take(connection: psycopg.Connection, key: int, is_shared: bool, subject: str) -> None:
    row = connection.execute(_SQL["try_lock_shared" if is_shared else "try_lock"], {"key": key}).fetchone()
    if row and row[0]:
        return
    holder = connection.execute(_SQL["lock_holders"], {"key": key}).fetchone()
    if is_shared or holder is None or holder[0] != COLLECTOR:
        raise _busy(connection, key, subject)
    try:  # A collector holds it for one group only; while somebody waits, it does not get it again.
        connection.execute(_SQL["lock"], {"key": key})
    except (psycopg.errors.LockNotAvailable, psycopg.errors.QueryCanceled):
        raise _busy(connection, key, subject) from None


def reacquire(
    connection: psycopg.Connection, dataset: str, run: str | None, mode: Mode, *, has_workers: bool = False
) -> None:
    """Take the locks of a dataset and of a run, if there is one, again over a new connection: the old one was lost.

    Waits until the server has noticed the loss. With `has_workers` the workers keep their own locks. Raises BusyError
    when another session took a lock in between.
    """
    of_workers = {key for key, _ in _workers_locks(dataset, run)} if has_workers and run else set()
    for key, is_shared, subject in [*_dataset_locks(dataset, mode), *(_run_locks(run) if run else ())]:
        if key in of_workers:
            continue
        try:
            connection.execute(_SQL["lock_shared" if is_shared else "lock"], {"key": key})
        except (psycopg.errors.LockNotAvailable, psycopg.errors.QueryCanceled):
            raise _busy(connection, key, subject) from None


def _dataset_locks(dataset: str, mode: Mode) -> list[tuple[int, bool, str]]:
    """Return locks of a dataset: their keys, whether they are shared, and what they lock."""
    subject = f"the dataset {dataset}"
    held = [(_key(f"dataset:{dataset}"), mode != "replace", subject)]
    if mode == "replace":
        held.append((_dataset_workers_key(dataset), False, subject))
    return held


def _run_locks(run: str) -> list[tuple[int, bool, str]]:
    return [(_key(f"run:{run}"), False, "this source"), (_workers_key(run), False, "this source")]


def _workers_locks(dataset: str, run: str) -> list[tuple[int, str]]:
    """Return the locks that the workers of a load share: their keys, and what they lock."""
    return [(_dataset_workers_key(dataset), f"the dataset {dataset}"), (_workers_key(run), "this source")]


def _workers_key(run: str) -> int:
    return _key(f"workers:{run}")


def _dataset_workers_key(dataset: str) -> int:
    return _key(f"dataset workers:{dataset}")


def admit_workers(connection: psycopg.Connection, dataset: str, run: str, mode: Mode) -> None:
    """Let other sessions of this load join it: release the locks that each of them then shares.

    While the connection that holds the dataset and the run is lost, these shared locks keep other loads of the run, and
    each replace of the dataset, away.
    """
    connection.execute(_SQL["unlock"], {"key": _workers_key(run)})
    if mode == "replace":
        connection.execute(_SQL["unlock"], {"key": _dataset_workers_key(dataset)})


def join(connection: psycopg.Connection, dataset: str, run: Run) -> None:
    """Make this session a worker of the load that holds the run.

    Raises BusyError when another load holds the run, or a replace the dataset, now.
    """
    for key, subject in _workers_locks(dataset, run.run):
        try:
            connection.execute(_SQL["lock_shared"], {"key": key})
        except (psycopg.errors.LockNotAvailable, psycopg.errors.QueryCanceled):
            raise _busy(connection, key, subject) from None
    require_current(connection, run)
    name_session(connection, run.run)


def _key(name: str) -> int:
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big", signed=True)


def _busy(connection: psycopg.Connection, key: int, subject: str) -> BusyError:
    holder = connection.execute(_SQL["lock_holders"], {"key": key}).fetchone()
    who = f"{holder[0]} since {holder[1]:%Y-%m-%d %H:%M:%S} UTC" if holder else "another run"
    return BusyError(f"{subject} is held by {who}", hint="wait for its end and run the same command")
