"""The removal of old files from the failed store: of settled failures, and those that the ledger does not name."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta

import psycopg

from etl.ingestion.failed_store import leftovers
from etl.ingestion.failed_store.store import FailedStore
from etl.ingestion.ledger import failures, locks, runs


@dataclass(frozen=True, kw_only=True)
class Removed:
    """What was removed from the failed store; `failure` is None for a file that a crash left."""

    name: str
    bytes: int
    failure: failures.SettledFailure | None = None


def purge(connection: psycopg.Connection, store: FailedStore, age: timedelta, dataset: str | None) -> Iterator[Removed]:
    """Remove the files of failures of this age that are not pending any more, and what crashes left; yield each.

    Raises UsageError when a file cannot be removed.
    """
    for failure in failures.settled(connection, age, dataset):
        size = store.remove(failure.dataset, failure.run, failure.id)
        if size is not None:
            yield Removed(name=failure.id, bytes=size, failure=failure)
    for owner, run in runs.every(connection):
        if dataset in {None, owner} and store.has_run(owner, run):
            _sweep(connection, store, owner, run)
    for name, size in leftovers.purge(store, age, dataset):
        yield Removed(name=name, bytes=size)


def _sweep(connection: psycopg.Connection, store: FailedStore, dataset: str, run: str) -> None:
    """Clear up after attempts of a run, unless one works now: it writes files before the ledger names them."""
    with connection.transaction():
        if locks.hold_run_in_transaction(connection, run):
            leftovers.sweep(store, dataset, run, failures.ids_of(connection, run))
