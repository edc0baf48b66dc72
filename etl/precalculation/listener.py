"""The listener: it refreshes the aggregates after each run that finishes, and within a minute after changes by hand.

A notification only wakes it. It finds its work in the database, so a notification that is lost, or sent while no
listener works, loses no refresh.
"""

import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NoReturn

import psycopg
import structlog

from etl import queries
from etl.database.connecting import Database, connect
from etl.database.sqlstates import code_of
from etl.database.watching import ServerConnection
from etl.errors import DatabaseError, UsageError
from etl.precalculation import idle
from etl.precalculation.catalogue import Aggregate
from etl.precalculation.refresh import own_error, refresh

# A change by hand sends no notification.
POLL_SECONDS = 60.0
# Runs that end within this time share one refresh.
SETTLE_SECONDS = 0.2
# Waiting for the lock in the server would hold a snapshot for days, and vacuum could not remove any row.
STANDBY_SECONDS = 1.0
RECONNECT_SECONDS = (0.5, 15.0)
# A waiting listener logs this often who holds the lock.
LOG_SECONDS = 30.0
# A listener that neither answers within this time nor refreshes an aggregate does not work.
CHECK_SECONDS = 10.0
# An aggregate that reads the ledger is refreshed at most this often: each load changes the ledger.
LEDGER_SECONDS = 10.0
_ANSWER_STEP = 0.5
_CHECK = "etl_listener_check"

_SQL = queries.load("precalculation")

log = structlog.get_logger(__name__)


def listen(
    database: Database,
    aggregates: Sequence[Aggregate],
    *,
    poll_seconds: float = POLL_SECONDS,
    after_round: Callable[[psycopg.Connection], None] = lambda _connection: None,
) -> NoReturn:
    """Keep the aggregates up to date until KeyboardInterrupt, which rolls back the current refresh.

    One listener of a database works at a time; others wait. A lost connection is opened again, however long that takes.
    `after_round` is called with the connection after each refresh of all aggregates.

    Raises UsageError when the server refuses the connection.
    """
    shortest, longest = RECONNECT_SECONDS
    pause = shortest
    while True:
        try:
            # Notifications must arrive during a refresh. The connection that receives them holds the listener's lock.
            with connect(database, "etl:listen") as receiver, connect(database, "etl:precalculate") as worker:
                _take_lock(receiver)
                for _ in _rounds(receiver, worker, aggregates, poll_seconds):
                    after_round(worker)
                    pause = shortest  # A server that takes connections may still refuse to work, as a standby does.
        except (DatabaseError, psycopg.Error) as error:
            reason = (
                str(error) if isinstance(error, DatabaseError) else f"{type(error).__name__} {error.sqlstate or ''}"
            )
            log.warning("connection_lost", database=database.name, reason=reason.strip(), seconds=pause)
            time.sleep(pause)
            pause = min(2 * pause, longest)


def check(database: Database) -> int:
    """Return the process id of the server process that serves the working listener of a database.

    A listener answers, or refreshes an aggregate now: the lock alone proves nothing.

    Raises DatabaseError when no listener works: there is none, or only a waiting one, or it does not answer.
    """
    token = secrets.token_hex(8)
    with connect(database, "etl:check") as connection:
        connection.execute(_SQL["await_answer"])
        connection.execute(_SQL["ask_listener"], {"token": token})
        deadline = time.monotonic() + CHECK_SECONDS
        while holder := _holder(connection):
            pid = int(holder["pid"])
            if holder["is_refreshing"] or (pid, token) in _answers(connection):
                return pid
            if time.monotonic() > deadline:
                raise DatabaseError(
                    f"no listener works on {database.name}: process {pid} ({holder['application']}) holds its lock"
                    f" since {holder['since']} and does not answer",
                    hint=f"if it is a listener, restart it; else end the process: select pg_terminate_backend({pid})",
                )
    raise DatabaseError(f"no listener works on {database.name}", hint="etl listen")


def _holder(connection: psycopg.Connection) -> dict[str, Any] | None:
    """Return the session that holds the lock of the listener."""
    return next(iter(queries.rows(connection, _SQL["listener"])), None)


def _answers(connection: psycopg.Connection) -> set[tuple[int, str]]:
    return {(note.pid, note.payload) for note in connection.notifies(timeout=_ANSWER_STEP, stop_after=1)}


def _take_lock(receiver: psycopg.Connection) -> None:
    logged = -LOG_SECONDS
    while not _try_lock(receiver):
        if time.monotonic() - logged >= LOG_SECONDS and (holder := _holder(receiver)):
            names = {name: holder[name] for name in ("pid", "application", "since")}
            log.info("listener_waiting", reason="another listener works", **names)
            logged = time.monotonic()
        time.sleep(STANDBY_SECONDS)


def _try_lock(receiver: psycopg.Connection) -> bool:
    row = receiver.execute(_SQL["try_listener_lock"]).fetchone()
    return bool(row and row[0])


def _rounds(
    receiver: ServerConnection,
    worker: psycopg.Connection,
    aggregates: Sequence[Aggregate],
    poll_seconds: float,
) -> Iterator[None]:
    """Refresh the aggregates that have something to do, again and again; yield after each round, which never ends."""
    receiver.execute(_SQL["listen"])
    worker.execute(_SQL["mark_worker"], {"listener": receiver.backend})
    log.info("listening", aggregates=len(aggregates))
    refreshed: dict[str, float] = {}
    while True:
        recorded = idle.record(worker, aggregates)
        has_news, pause = _hear(receiver, 0), poll_seconds
        for aggregate in aggregates:
            if aggregate.name in recorded:
                continue
            early = refreshed.get(aggregate.name, -LEDGER_SECONDS) + LEDGER_SECONDS - time.monotonic()
            if early > 0:
                pause = min(pause, early)
                continue
            _refresh(worker, aggregate)
            if aggregate.reads_ledger:
                refreshed[aggregate.name] = time.monotonic()
            has_news |= _hear(receiver, 0)
        yield
        if has_news or _has_news(receiver, pause):
            _hear(receiver, SETTLE_SECONDS)
        receiver.execute(_SQL["listen"])  # A connection that fell silent shows only when it is used.


def _has_news(receiver: psycopg.Connection, seconds: float) -> bool:
    """Wait for a run that finishes; return whether one did within these seconds."""
    deadline = time.monotonic() + seconds
    while (left := deadline - time.monotonic()) > 0:
        if _hear(receiver, left, stop_after=1):
            return True
    return False


def _hear(receiver: psycopg.Connection, seconds: float, stop_after: int | None = None) -> bool:
    """Take the notifications that come within some seconds and answer the checks; return whether a run finished."""
    notes = list(receiver.notifies(timeout=seconds, stop_after=stop_after))
    for note in notes:
        if note.channel == _CHECK:
            receiver.execute(_SQL["answer_check"], {"token": note.payload})
    return any(note.channel != _CHECK for note in notes)


def _refresh(worker: psycopg.Connection, aggregate: Aggregate) -> None:
    """Refresh one aggregate. An error of this aggregate is logged, and the next round tries again."""
    try:
        result = refresh(worker, aggregate, run=None)
    except UsageError as error:
        log.error("refresh_failed", aggregate=aggregate.name, reason=str(error), hint=error.hint)  # noqa: TRY400 - the reason says all
    except psycopg.Error as error:
        reason = own_error(worker, aggregate, error)
        log.error("refresh_failed", aggregate=aggregate.name, reason=str(reason), sqlstate=code_of(error))  # noqa: TRY400 - no traceback for it
    else:
        if result.buckets:
            log.info("aggregate_refreshed", **vars(result))
