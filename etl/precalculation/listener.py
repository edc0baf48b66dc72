"""The listener: it refreshes the aggregates after each run that finishes, and within a minute after changes by hand.

A notification only wakes it. It finds its work in the database, so a notification that is lost, or sent while no
listener works, loses no refresh.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from typing import NoReturn

import psycopg
import structlog

from etl import queries
from etl.database.connecting import Database, connect
from etl.database.sqlstates import code_of
from etl.errors import DatabaseError, UsageError
from etl.precalculation.catalogue import Aggregate
from etl.precalculation.refresh import own_error, refresh

# A change by hand sends no notification.
POLL_SECONDS = 60.0
# Runs that end within this time share one refresh.
SETTLE_SECONDS = 0.2
# Waiting for the lock in the server would hold a snapshot for days, and vacuum could not remove any row.
STANDBY_SECONDS = 1.0
RECONNECT_SECONDS = (0.5, 15.0)

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

    Raises DatabaseError when no listener works: there is none, or only a waiting one, or its connection is lost.
    """
    with connect(database, "etl:check") as connection:
        row = connection.execute(_SQL["listener"]).fetchone()
    if row is None:
        raise DatabaseError(f"no listener works on {database.name}", hint="etl listen")
    return int(row[0])


def _take_lock(receiver: psycopg.Connection) -> None:
    is_logged = False
    while not _try_lock(receiver):
        if not is_logged:
            log.info("listener_waiting", reason="another listener works")
            is_logged = True
        time.sleep(STANDBY_SECONDS)


def _try_lock(receiver: psycopg.Connection) -> bool:
    row = receiver.execute(_SQL["try_listener_lock"]).fetchone()
    return bool(row and row[0])


def _rounds(
    receiver: psycopg.Connection, worker: psycopg.Connection, aggregates: Sequence[Aggregate], poll_seconds: float
) -> Iterator[None]:
    """Refresh all aggregates, again and again; yield after each round, which never ends."""
    receiver.execute(_SQL["listen"])
    log.info("listening", aggregates=len(aggregates))
    while True:
        for aggregate in aggregates:
            _refresh(worker, aggregate)
        yield
        if list(receiver.notifies(timeout=poll_seconds, stop_after=1)):
            list(receiver.notifies(timeout=SETTLE_SECONDS))


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
