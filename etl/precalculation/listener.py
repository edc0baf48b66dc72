"""The listener: aggregates follow each run that finishes, and within a minute what was changed by hand.

A notification only wakes it: what there is to do it finds in the database, so that none which is lost, or was sent
while nobody listened, is a refresh lost.
"""

import time
from collections.abc import Callable, Sequence
from typing import NoReturn

import psycopg
import structlog

from etl import queries
from etl.database.connecting import Database, connect
from etl.errors import DatabaseError, UsageError
from etl.precalculation.catalogue import Aggregate
from etl.precalculation.refresh import refresh

# Changes by hand notify nobody.
POLL_SECONDS = 60.0
# Runs that end together are one refresh.
SETTLE_SECONDS = 0.2
# To wait in the server for the lock would hold a snapshot for days, and vacuum could remove nothing.
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
    """Keep the aggregates up to date until KeyboardInterrupt, which rolls back the refresh in hand.

    One listener of a database works at a time, another stands by. A lost connection is opened again for as long as it
    takes. `after_round` is called when all of them were looked after. Raises UsageError when the server refuses the
    connection.
    """
    shortest, longest = RECONNECT_SECONDS
    pause = shortest
    while True:
        try:
            # What is heard must not wait for what is being done, and the lock goes with the ear.
            with connect(database, "etl:listen") as ear, connect(database, "etl:precalculate") as hand:
                pause = shortest
                _take_turn(ear)
                _follow(ear, hand, aggregates, poll_seconds, after_round)
        except (DatabaseError, psycopg.Error) as error:
            reason = (
                str(error) if isinstance(error, DatabaseError) else f"{type(error).__name__} {error.sqlstate or ''}"
            )
            log.warning("connection_lost", database=database.name, reason=reason.strip(), seconds=pause)
            time.sleep(pause)
            pause = min(2 * pause, longest)


def check(database: Database) -> int:
    """Return the number of the backend that serves the working listener of a database.

    Raises DatabaseError when there is none: no listener, only a standby, or one whose connection is lost.
    """
    with connect(database, "etl:check") as connection:
        row = connection.execute(_SQL["listener"]).fetchone()
    if row is None:
        raise DatabaseError(f"no listener works on {database.name}", hint="etl listen")
    return int(row[0])


def _take_turn(ear: psycopg.Connection) -> None:
    is_told = False
    while not _is_alone(ear):
        if not is_told:
            log.info("standing_by", because="another listener works")
            is_told = True
        time.sleep(STANDBY_SECONDS)


def _is_alone(ear: psycopg.Connection) -> bool:
    row = ear.execute(_SQL["try_listener_lock"]).fetchone()
    return bool(row and row[0])


def _follow(
    ear: psycopg.Connection,
    hand: psycopg.Connection,
    aggregates: Sequence[Aggregate],
    poll_seconds: float,
    after_round: Callable[[psycopg.Connection], None],
) -> NoReturn:
    ear.execute(_SQL["listen"])
    log.info("listening", aggregates=len(aggregates))
    while True:
        for aggregate in aggregates:
            _refresh(hand, aggregate)
        after_round(hand)
        if list(ear.notifies(timeout=poll_seconds, stop_after=1)):
            list(ear.notifies(timeout=SETTLE_SECONDS))


def _refresh(hand: psycopg.Connection, aggregate: Aggregate) -> None:
    """Refresh one aggregate; what is wrong with it alone is told and tried again at the next turn."""
    try:
        done = refresh(hand, aggregate, run=None)
    except UsageError as error:
        log.error("refresh_failed", aggregate=aggregate.name, reason=str(error), hint=error.hint)  # noqa: TRY400 - its trace tells nothing
    except psycopg.Error as error:
        if hand.closed:
            raise
        # Its message may quote a value.
        log.error("refresh_failed", aggregate=aggregate.name, sqlstate=error.sqlstate)  # noqa: TRY400
    else:
        if done.buckets:
            log.info("aggregate_refreshed", **vars(done))
