"""Replay: loading from the failed store again, into the same batch and ledger, the records as the store has them now.

A command replays several failures: `select` checks all of them before `replay_all` begins with the first.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import psycopg
from msgspec.structs import replace
from psycopg import sql

from etl import datasets
from etl.database.connecting import Database, Session, connect
from etl.database.sessions import require_usable
from etl.datasets import Dataset
from etl.errors import BusyError, ExitCode, UsageError
from etl.ingestion.destination import refusals
from etl.ingestion.destination.copying import copier_of_replay
from etl.ingestion.destination.sending import Wire, wait_for
from etl.ingestion.failed_store.store import FailedStore
from etl.ingestion.ledger import batches, failures, locks, losses, runs
from etl.ingestion.ledger.failures import State, StoredFailure
from etl.ingestion.pipeline.batches import Loader, retry_policy
from etl.ingestion.pipeline.job import Stop
from etl.ingestion.pipeline.refreshing import precalculate
from etl.ingestion.pipeline.replay_batch import ReplayLedgerWriter, batch_of, require_whole
from etl.ingestion.transform.projection import Projection
from etl.precalculation.refresh import RefreshResult
from etl.settings import Mode, RetrySettings


@dataclass(frozen=True, kw_only=True)
class ReplayFilter:
    """Which failures to replay: those with these ids, or all pending ones (of a run, of a dataset).

    `allow_empty`: also into tables whose rows are gone.
    """

    ids: tuple[str, ...] = ()
    run: str | None = None
    dataset: str | None = None
    allow_empty: bool = False


@dataclass(frozen=True, kw_only=True)
class Selection:
    """The failures to replay, the definitions of their datasets, and the datasets to precalculate afterwards.

    `touched` also names datasets without a pending failure: an earlier replay may have been killed before its
    precalculation.
    """

    failures: tuple[StoredFailure, ...]
    definitions: Mapping[str, Dataset]
    touched: frozenset[str]


@dataclass(frozen=True, kw_only=True)
class ReplayResult:
    """The result of one replay: records loaded, and records refused again, which are `stored` under new ids."""

    id: str
    dataset: str
    run: str
    loaded: int
    rejected: int
    failed: int
    stored: tuple[str, ...]

    @property
    def exit_code(self) -> ExitCode:
        """The exit code for this failure."""
        return ExitCode.FINDINGS if self.stored else ExitCode.SUCCESS


@dataclass(frozen=True, kw_only=True)
class NotPending:
    """A failure that was not replayed, because it is not pending any more."""

    id: str
    state: State


def select(replay_filter: ReplayFilter, database: Database, config_dir: Path, store: FailedStore) -> Selection:
    """Find the failures to replay, and check before any replay what would end with exit code 2.

    Raises UsageError when an id is unknown, a definition is missing, a file of the failed store does not hold its
    records, the failed store cannot be written, a pooler shares the connection, or the rows of a dataset are gone.
    """
    again = retry_policy(RetrySettings(), lambda: None, event="start_retried")
    matching = again(_matching, replay_filter, database)
    store.prepare()
    pending = [failure for failure in matching if failure.state == "pending"]
    chosen = matching if replay_filter.ids else pending
    definitions = {name: datasets.find(name, config_dir) for name in {failure.dataset for failure in chosen}}
    for failure in pending:
        require_whole(failure, store)
    again(_require_ledger, pending, definitions, database, allow_empty=replay_filter.allow_empty)
    touched = frozenset(failure.dataset for failure in matching if failure.state in {"pending", "replayed"})
    return Selection(failures=tuple(chosen), definitions=definitions, touched=touched)


def _matching(replay_filter: ReplayFilter, database: Database) -> list[StoredFailure]:
    with connect(database) as connection:
        require_usable(connection)
        if replay_filter.ids:
            return [failures.named(connection, failed_id) for failed_id in replay_filter.ids]
        return list(failures.find(connection, run=replay_filter.run, dataset=replay_filter.dataset))


def _require_ledger(
    pending: Sequence[StoredFailure], definitions: Mapping[str, Dataset], database: Database, *, allow_empty: bool
) -> None:
    """Raise UsageError when rows of a dataset are gone, or rows of the ledger of a run."""
    with connect(database) as connection:
        for name in sorted({failure.dataset for failure in pending}) if not allow_empty else ():
            if (missing := losses.look(connection, definitions[name])) is not None:
                raise missing.refusal(definitions[name].mode)
        for name, run in sorted({(failure.dataset, failure.run) for failure in pending}):
            losses.require_run(connection, definitions[name], run)


def replay_all(
    selection: Selection,
    database: Database,
    config_dir: Path,
    store: FailedStore,
    settings: RetrySettings,
    *,
    precalculates: bool = True,
) -> Iterator[ReplayResult | NotPending | BusyError | RefreshResult]:
    """Replay the failures one after the other, then precalculate; yield each result when it is there.

    A BusyError is yielded when a load holds the source of a failure, and the others are still replayed. Raises
    UsageError and DatabaseError as `replay` does, and DatabaseError when an aggregate cannot be refreshed.
    """
    run = None
    for failure in selection.failures:
        try:
            result = replay(failure, selection.definitions[failure.dataset], database, store, settings)
        except BusyError as error:
            yield error
            continue
        if result is None:
            with connect(database) as connection:
                yield NotPending(id=failure.id, state=failures.named(connection, failure.id).state)
            continue
        run = result.run
        yield result
    if precalculates:
        readable = [dataset for dataset in datasets.readable(config_dir) if dataset.name in selection.touched]
        tables = {table.name for dataset in readable for table in dataset.tables}
        yield from precalculate(database, config_dir, tables, run, Stop(), settings)


def replay(
    failure: StoredFailure, dataset: Dataset, database: Database, store: FailedStore, settings: RetrySettings
) -> ReplayResult | None:
    """Load the records of a failure as its file holds them now; None when it is not pending any more.

    Raises UsageError when its file is missing or does not hold its records, one per line, BusyError when a load holds
    the source, DatabaseError when the database or the disk is away.
    """
    # A new connection would not have the locks, so only a lock of another session is waited for again.
    again = retry_policy(settings, lambda: None, event="start_retried", is_transient=refusals.is_contended)
    with Session(database, "etl:replay") as session:
        connection = session.connection()
        run = again(runs.for_replay, connection, failure.run)
        if not run.is_visible:
            raise UsageError(
                f"{failure.id} belongs to an atomic run that is not finished", hint=f"load {run.source} again first"
            )
        mode = _mode(run.mode, dataset)
        locks.hold_dataset(connection, dataset.name, mode)
        locks.hold_run(connection, run.run)
        session.when_reopened(partial(locks.reacquire, dataset=dataset.name, run=run.run, mode=mode))
        if not again(_is_pending, connection, failure.id):
            return None
        store.sweep_replay(*failure.key)
        first_record = again(batches.first_record, connection, failure.run, failure.batch)
        projection = Projection(dataset.of_source(run.source))
        batch, locations = batch_of(failure, store, projection, run.number, first_record)
        writer = ReplayLedgerWriter(failure=failure, locations=locations)
        loader = Loader(
            database=database,
            wire=Wire(session),
            store=store,
            copier=copier_of_replay(replace(dataset, on_duplicate=run.on_duplicate), mode),
            projection=projection,
            ledger_writer=writer,
            retrying=retry_policy(settings, lambda: None),
        )
        entry = wait_for(loader.load(batch))
        # The server notices late that a connection is closed, and the next failure may be of the same source.
        session.connection().execute(sql.SQL("select pg_advisory_unlock_all()"))
    store.note_state(*failure.key, "replayed", None)
    return ReplayResult(
        id=failure.id,
        dataset=failure.dataset,
        run=failure.run,
        loaded=entry.loaded,
        rejected=entry.rejected,
        failed=entry.failed,
        stored=tuple(writer.refused_again),
    )


def _is_pending(connection: psycopg.Connection, id: str) -> bool:
    """Return whether a failure is still pending; nobody else can change that while this session locks its source."""
    return any(failure.state == "pending" for failure in failures.find(connection, id=id))


def _mode(mode: Mode, dataset: Dataset) -> Mode:
    """Return the mode in which records of a run are replayed: those of a replace are merged if there is a key."""
    if mode != "replace":
        return mode
    return "merge" if dataset.key else "append"
