"""The aggregates that read the tables of a load or a replay, brought up to date."""

from collections.abc import Iterable, Iterator
from pathlib import Path

import psycopg

from etl.database.connecting import Database, Session
from etl.errors import DatabaseError, UsageError
from etl.ingestion.destination import refusals
from etl.ingestion.pipeline.batches import retry_policy
from etl.ingestion.pipeline.job import Stop
from etl.precalculation import catalogue
from etl.precalculation.catalogue import Aggregate
from etl.precalculation.refresh import RefreshResult, refresh_all
from etl.settings import RetrySettings


def precalculate(
    database: Database,
    config_dir: Path,
    tables: Iterable[str],
    run: str | None,
    stop: Stop,
    retries: RetrySettings,
) -> Iterator[RefreshResult]:
    """Bring the aggregates that read these fact tables, or the ledger, up to date; yield each when it is refreshed.

    After a lost connection, or a lock whose holder does nothing, the aggregates that are left are tried again. Raises
    UsageError when the server refuses the connection, DatabaseError when the database is away or an aggregate cannot be
    refreshed, after the others, and InterruptedByUserError on a signal: the records are loaded, and the same command
    again refreshes the others.
    """
    refreshed: set[str] = set()
    try:
        aggregates = catalogue.aggregates_reading([*tables, "etl.batches"], config_dir)
        with Session(database, "etl:precalculate") as session:
            again = retry_policy(
                retries, lambda: None, stop.wait, event="refresh_retried", is_transient=refusals.is_caused_by_transient
            )
            for attempt in again:
                with attempt:
                    left = [aggregate for aggregate in aggregates if aggregate.name not in refreshed]
                    for result in _refreshed(session, left, run, stop):
                        refreshed.add(result.aggregate)
                        yield result
    except psycopg.Error as error:
        raise refusals.as_etl_error(error, database) from error


def _refreshed(
    session: Session, aggregates: Iterable[Aggregate], run: str | None, stop: Stop
) -> Iterator[RefreshResult]:
    try:
        chosen = _until_stopped(aggregates, stop)
        yield from refresh_all(session.connection(), chosen, run=run, waiting=stop.waiting)
    except UsageError as error:
        raise DatabaseError(str(error), hint=error.hint) from error


def _until_stopped(aggregates: Iterable[Aggregate], stop: Stop) -> Iterator[Aggregate]:
    """Yield the aggregates; the refresh resumes this generator before each of them, so a signal stops it in between."""
    for aggregate in aggregates:
        stop.check()
        yield aggregate
