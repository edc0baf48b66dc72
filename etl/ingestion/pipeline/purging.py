"""The removal of what is old: settled files of the failed store, and single batches of runs in the ledger."""

from collections.abc import Iterator
from datetime import timedelta

import psycopg

from etl.errors import UsageError
from etl.ingestion.failed_store import leftovers
from etl.ingestion.failed_store.store import FailedStore
from etl.ingestion.ledger import failures, locks, packing, runs
from etl.quick_dataclasses import dataclass

_NEWEST_RUNS = 10
"""So many runs are looked at: a crash has changed the folder of its run last. `purge` looks at all."""


@dataclass(frozen=True, kw_only=True)
class Removed:
    """A file that was removed from the failed store; `failure` is None for a file that a crash left."""

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


def sweep_crashed(connection: psycopg.Connection, store: FailedStore, dataset: str) -> None:
    """Clear up after the last runs of a dataset, unless one works now: a crash may have ended one that never continues.

    Raises UsageError when a folder cannot be read or changed.
    """
    newest = leftovers.newest_runs(store, dataset, _NEWEST_RUNS)
    if not newest:
        return
    known = {failure.id for failure in failures.find(connection, runs=newest)}
    if suspects := leftovers.runs_with_unknown(store, dataset, newest, known):
        for owner, run in runs.every(connection):
            if owner == dataset and run in suspects:
                _sweep(connection, store, dataset, run)


def _sweep(connection: psycopg.Connection, store: FailedStore, dataset: str, run: str) -> None:
    """Clear up after attempts of a run, unless one works now: it writes files before the ledger names them."""
    with connection.transaction():
        if locks.hold_run_in_transaction(connection, run):
            leftovers.sweep(store, dataset, run, failures.ids_of(connection, run))


@dataclass(frozen=True, kw_only=True)
class PurgedRun:
    """A run whose batches became fewer rows of the ledger, and how many of its attempts were removed."""

    run: str
    batches: int
    rows: int
    attempts_removed: int


def purge_runs(
    connection: psycopg.Connection, age: timedelta, dataset: str | None, *, is_dry_run: bool
) -> Iterator[PurgedRun]:
    """Make one row of the batches of each run that was finished so long ago, and one of its attempts; yield each.

    Batches of different days, and those with the publication of a replace between them, stay apart. Each run is a
    transaction of its own. A run that a load holds is left alone. Raises UsageError when the user may not delete rows
    of the ledger.
    """
    for run in packing.runs_of_age(connection, age, dataset):
        try:
            with connection.transaction(force_rollback=is_dry_run):
                if not (locks.hold_run_in_transaction(connection, run) and packing.is_packable(connection, run)):
                    continue
                batches, rows, removed = packing.pack(connection, run)
        except psycopg.errors.InsufficientPrivilege as error:
            raise UsageError(
                f"the user {connection.info.user} may not delete rows of the ledger",
                hint="run etl runs purge as the owner of the database",
            ) from error
        if rows < batches or removed:
            yield PurgedRun(run=run, batches=batches, rows=rows, attempts_removed=removed)
