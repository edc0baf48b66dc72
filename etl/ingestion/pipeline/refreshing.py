"""The aggregates that read the tables of a load or a replay, brought up to date."""

from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, suppress
from pathlib import Path

import psycopg

from etl.database.connecting import Session
from etl.errors import DatabaseError, EtlError, UsageError
from etl.ingestion.destination import refusals
from etl.ingestion.pipeline.batches import retry_policy
from etl.ingestion.pipeline.job import Stop
from etl.precalculation import catalogue
from etl.precalculation.catalogue import Aggregate
from etl.precalculation.refresh import NotRefreshed, RefreshResult, refresh_each, require_all_refreshed
from etl.settings import RetrySettings

APPLICATION_NAME = "etl:precalculate"


def precalculate(
    opened: AbstractContextManager[Session],
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
    again refreshes the others. `opened` yields the session for it.
    """
    failed: dict[str, EtlError] = {}
    again = retry_policy(
        retries, lambda: None, stop.wait, event="refresh_retried", is_transient=refusals.may_be_refreshed
    )
    with opened as session:
        left = {each.name: each for each in catalogue.aggregates_reading([*tables, "etl.runs"], config_dir)}
        try:
            with suppress(_HeldUpError):
                for attempt in again:
                    with attempt:
                        yield from _refreshed(session, left, failed, run, stop)
        except psycopg.Error as error:
            raise refusals.as_etl_error(error, session.database) from error
    try:
        require_all_refreshed(failed)
    except UsageError as error:
        raise DatabaseError(str(error), hint=error.hint) from error


class _HeldUpError(Exception):
    """Aggregates are left that another try may refresh."""


def _refreshed(
    session: Session, left: dict[str, Aggregate], failed: dict[str, EtlError], run: str | None, stop: Stop
) -> Iterator[RefreshResult]:
    """Refresh the aggregates that are left, and leave those that another try may refresh."""
    chosen = list(left.values())
    done = refresh_each(session.connection(), chosen, run=run, waiting=stop.waiting, before_each=stop.check)
    for result in done:
        if isinstance(result, NotRefreshed):
            failed[result.aggregate] = result.error
            if not refusals.may_be_refreshed(result.error):
                del left[result.aggregate]
        else:
            failed.pop(result.aggregate, None)
            del left[result.aggregate]
            yield result
    if left:
        raise _HeldUpError from failed[next(iter(left))]
