"""The aggregates that read the tables of a load or a replay, brought up to date."""

from collections.abc import Iterable, Iterator
from pathlib import Path

import psycopg

from etl.database.connecting import Database, connect
from etl.errors import DatabaseError, UsageError
from etl.ingestion.destination import refusals
from etl.ingestion.pipeline.job import Stop
from etl.precalculation import catalogue
from etl.precalculation.catalogue import Aggregate
from etl.precalculation.refresh import RefreshResult, refresh_all


def precalculate(
    database: Database, config_dir: Path, tables: Iterable[str], run: str | None, stop: Stop
) -> Iterator[RefreshResult]:
    """Bring the aggregates that read these fact tables, or the ledger, up to date; yield each when it is refreshed.

    Raises UsageError when the server refuses the connection, DatabaseError when the database is away or an aggregate
    cannot be refreshed, after the others, and InterruptedByUserError on a signal: the records are loaded, and the same
    command again refreshes the others.
    """
    try:
        with connect(database, "etl:precalculate") as connection:
            aggregates = catalogue.aggregates_reading([*tables, "etl.batches"], config_dir)
            try:
                yield from refresh_all(connection, _until_stopped(aggregates, stop), run=run)
            except UsageError as error:
                raise DatabaseError(str(error), hint=error.hint) from error
    except psycopg.Error as error:
        raise refusals.as_etl_error(error, database) from error


def _until_stopped(aggregates: Iterable[Aggregate], stop: Stop) -> Iterator[Aggregate]:
    """Yield the aggregates; the refresh resumes this generator before each of them, so a signal stops it in between."""
    for aggregate in aggregates:
        stop.check()
        yield aggregate
