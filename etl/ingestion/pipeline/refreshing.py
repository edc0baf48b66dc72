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
    DatabaseError when the database refuses or an aggregate cannot be computed, after the others, and
    InterruptedByUserError on a signal: the records are loaded, and the same command again refreshes the others.
    """
    refreshed: set[str] = set()
    try:
        aggregates = catalogue.aggregates_reading([*tables, "etl.batches"], config_dir)
        with Session(database, "etl:precalculate") as session:
            for attempt in retry_policy(retries, lambda: None, stop.wait, event="refresh_retried"):
                with attempt:
                    left = [aggregate for aggregate in aggregates if aggregate.name not in refreshed]
                    chosen = _until_stopped(left, stop)
                    for result in refresh_all(session.connection(), chosen, run=run, waiting=stop.waiting):
                        refreshed.add(result.aggregate)
                        yield result
    except UsageError as error:
        raise DatabaseError(str(error), hint=error.hint) from error
    except psycopg.Error as error:
        raise refusals.as_etl_error(error, database) from error


def _until_stopped(aggregates: Iterable[Aggregate], stop: Stop) -> Iterator[Aggregate]:
    """Yield the aggregates; the refresh resumes this generator before each of them, so a signal stops it in between."""
    for aggregate in aggregates:
        stop.check()
        yield aggregate
