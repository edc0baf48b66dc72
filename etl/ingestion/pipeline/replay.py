"""Replay: loading from the failed store again, into the same batch and ledger, the records as the store has them now.

A command replays several failures: `select` checks all of them before `replay_all` begins with the first.
"""

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

import psycopg
from msgspec.structs import replace
from psycopg import sql
from structlog.contextvars import bound_contextvars
from tenacity import Retrying

from etl import datasets
from etl.database.connecting import Database, Session, connect
from etl.database.sessions import require_usable
from etl.database.tables import with_digests
from etl.datasets import Dataset
from etl.errors import BusyError, ExitCode, UsageError
from etl.ingestion.destination import refusals
from etl.ingestion.destination.copying import copier_of_replay
from etl.ingestion.destination.sending import Wire, wait_for
from etl.ingestion.failed_store import leftovers
from etl.ingestion.failed_store.store import FailedStore
from etl.ingestion.ledger import batches, failures, history, locks, losses, runs
from etl.ingestion.ledger.failures import State, StoredFailure
from etl.ingestion.pipeline.batches import Loader, retry_policy
from etl.ingestion.pipeline.job import Stop
from etl.ingestion.pipeline.outcome import log_unknown
from etl.ingestion.pipeline.refreshing import APPLICATION_NAME, precalculate
from etl.ingestion.pipeline.replay_batch import ReplayLedgerWriter, batch_of, require_whole
from etl.ingestion.transform.document_members import with_stored
from etl.ingestion.transform.projection import Projection
from etl.ingestion.values import Entry
from etl.precalculation.refresh import RefreshResult
from etl.quick_dataclasses import dataclass
from etl.settings import Mode, RetrySettings


@dataclass(frozen=True, kw_only=True)
class ReplayFilter:
    """Which failures to replay: those with these ids, or all pending ones (of some runs, of a dataset).

    `allow_empty`: also into tables whose rows are gone.
    """

    ids: tuple[str, ...] = ()
    runs: tuple[str, ...] = ()
    dataset: str | None = None
    allow_empty: bool = False


@dataclass(frozen=True, kw_only=True)
class Selection:
    """The failures to replay, the definitions of their datasets, and the datasets to precalculate afterwards.

    `obstacles` are the errors that keep failures from being replayed, by their ids. `touched` also names datasets
    without a pending failure: an earlier replay may have been killed before its precalculation.
    """

    failures: tuple[StoredFailure, ...]
    definitions: Mapping[str, Dataset]
    obstacles: Mapping[str, UsageError]
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
    """A failure that was not replayed, because it is not pending any more.

    `waiting` are the pending failures that keep what an earlier replay of it was refused.
    """

    id: str
    state: State
    waiting: tuple[str, ...] = ()

    @property
    def exit_code(self) -> ExitCode:
        """The exit code for this failure."""
        return ExitCode.FINDINGS if self.waiting else ExitCode.SUCCESS


def select(replay_filter: ReplayFilter, database: Database, config_dir: Path, store: FailedStore) -> Selection:
    """Find the failures to replay, and those that cannot be: a definition or a file is missing, or not as it must be.

    Raises UsageError when an id is unknown, the failed store cannot be written, or a pooler shares the connection.
    """
    again = retry_policy(RetrySettings(), lambda: None, event="start_retried")
    matching = again(_matching, replay_filter, database, store)
    store.prepare()
    chosen = matching if replay_filter.ids else [failure for failure in matching if failure.state == "pending"]
    definitions: dict[str, Dataset] = {}
    obstacles: dict[str, UsageError] = {}
    for failure in chosen:
        try:
            if failure.dataset not in definitions:
                definitions[failure.dataset] = datasets.find(failure.dataset, config_dir)
            if failure.state == "pending":
                require_whole(failure, store)
        except UsageError as error:
            obstacles[failure.id] = error
    sound = [failure for failure in chosen if failure.state == "pending" and failure.id not in obstacles]
    obstacles |= again(_losses, sound, definitions, database, allow_empty=replay_filter.allow_empty)
    touched = frozenset(failure.dataset for failure in matching if failure.state in {"pending", "replayed"})
    return Selection(failures=tuple(chosen), definitions=definitions, obstacles=obstacles, touched=touched)


def _matching(replay_filter: ReplayFilter, database: Database, store: FailedStore) -> list[StoredFailure]:
    with connect(database) as connection:
        require_usable(connection)
        store.belong_to(runs.database_id(connection))
        if replay_filter.ids:
            return [failures.named(connection, failed_id) for failed_id in replay_filter.ids]
        dataset = replay_filter.dataset
        names = [history.name_of(connection, run, dataset) for run in replay_filter.runs]
        return list(failures.find(connection, runs=names, dataset=dataset))


def _losses(
    pending: Sequence[StoredFailure], definitions: Mapping[str, Dataset], database: Database, *, allow_empty: bool
) -> dict[str, UsageError]:
    """Return the errors of the failures whose dataset has lost its rows, or whose run has lost rows of the ledger."""
    with connect(database) as connection:

        def error_of(dataset: Dataset, run: str) -> UsageError | None:
            if not allow_empty and (missing := losses.look(connection, dataset)) is not None:
                return missing.refusal(dataset.mode)
            try:
                losses.require_run(connection, dataset, run)
            except UsageError as error:
                return error
            return None

        runs_of_failures = {(failure.dataset, failure.run) for failure in pending}
        errors = {(name, run): error_of(definitions[name], run) for name, run in sorted(runs_of_failures)}
    found = {failure.id: errors[failure.dataset, failure.run] for failure in pending}
    return {failure_id: error for failure_id, error in found.items() if error is not None}


def replay_all(
    selection: Selection,
    database: Database,
    config_dir: Path,
    store: FailedStore,
    settings: RetrySettings,
    *,
    precalculates: bool = True,
) -> Iterator[ReplayResult | NotPending | BusyError | UsageError | RefreshResult]:
    """Replay the failures one after the other, then precalculate; yield each result when it is there.

    A BusyError is yielded when a load holds the source of a failure, a UsageError when a failure cannot be replayed;
    the others are still replayed. Raises DatabaseError as `replay` does, and when an aggregate cannot be refreshed.
    """
    run = None
    for failure in selection.failures:
        try:
            if failure.id in selection.obstacles:
                raise selection.obstacles[failure.id]
            result = replay(failure, selection.definitions[failure.dataset], database, store, settings)
        except (BusyError, UsageError) as error:
            yield error
            continue
        if result is None:
            with connect(database) as connection:
                state = failures.named(connection, failure.id).state
                yield NotPending(id=failure.id, state=state, waiting=tuple(failures.rest_of(connection, failure.id)))
            continue
        run = result.run
        yield result
    if precalculates:
        readable = [dataset for dataset in datasets.readable(config_dir) if dataset.name in selection.touched]
        tables = {table.name for dataset in readable for table in dataset.tables}
        yield from precalculate(Session(database, APPLICATION_NAME), config_dir, tables, run, Stop(), settings)


def replay(
    failure: StoredFailure, dataset: Dataset, database: Database, store: FailedStore, settings: RetrySettings
) -> ReplayResult | None:
    """Load the records of a failure as its file holds them now; None when it is not pending any more.

    Raises UsageError when its file is missing or does not hold its records, one per line, BusyError when a load holds
    the source, DatabaseError when the database or the disk is away.
    """
    # A new connection would not have the locks, so only a lock of another session is waited for again.
    again = retry_policy(settings, lambda: None, event="start_retried", is_transient=refusals.is_contended)
    with bound_contextvars(run=failure.run), Session(database, "etl:replay") as session:
        held = _held(failure, dataset, session, again)
        if held is None:
            return None
        run, dataset, mode = held
        leftovers.sweep_replay(store, *failure.key)
        first_record = again(batches.first_record, session.connection(), failure.run, failure.batch)
        store.require_own(*failure.key)
        document = store.details(*failure.key).document
        dataset = with_stored(dataset.of_source(run.source), document)
        projection = Projection(dataset)
        batch, locations = batch_of(failure, store, projection, run.number, first_record)
        writer = ReplayLedgerWriter(failure=failure, locations=locations, document=document)
        loader = Loader(
            database=database,
            wire=Wire(session),
            store=store,
            copier=copier_of_replay(replace(dataset, on_duplicate=run.on_duplicate), mode, run.number),
            projection=projection,
            ledger_writer=writer,
            retrying=retry_policy(settings, lambda: None),
        )
        entry = wait_for(loader.load(batch))
        log_unknown(run.source, entry.policy_effects)  # Not in the ledger: its batch has counted these records.
        # The server notices late that a connection is closed, and the next failure may be of the same source.
        session.connection().execute(sql.SQL("select pg_advisory_unlock_all()"))
    store.note_state(*failure.key, "replayed", None)
    return _result(failure, entry, writer.refused_again)


def _held(
    failure: StoredFailure, dataset: Dataset, session: Session, again: Retrying
) -> tuple[runs.RunForReplay, Dataset, Mode] | None:
    """Hold the source of a failure; return its run, the definition as the tables take its rows, and the mode.

    None: the failure is not pending any more. Raises BusyError when a load holds the source.
    """
    run = again(lambda: runs.for_replay(session.connection(), failure.run))
    if not run.is_visible:
        raise UsageError(
            f"{failure.id} belongs to an atomic run that is not finished", hint=f"load {run.source} again first"
        )
    mode = _mode(run.mode, dataset)
    dataset = again(lambda: with_digests(session.connection(), dataset))
    again(_hold, session, dataset.name, mode, run.run)
    session.when_reopened(partial(locks.reacquire, dataset=dataset.name, run=run.run, mode=mode))
    is_pending = again(lambda: _is_pending(session.connection(), failure.id))
    return (run, dataset, mode) if is_pending else None


def _hold(session: Session, dataset: str, mode: Mode, run: str) -> None:
    connection = session.connection()
    locks.await_lost(connection)
    locks.hold_dataset(connection, dataset, mode)
    locks.hold_run(connection, run)


def _result(failure: StoredFailure, entry: Entry, refused_again: Sequence[str]) -> ReplayResult:
    return ReplayResult(
        id=failure.id,
        dataset=failure.dataset,
        run=failure.run,
        loaded=entry.loaded,
        rejected=entry.rejected,
        failed=entry.failed,
        stored=tuple(refused_again),
    )


def _is_pending(connection: psycopg.Connection, id: str) -> bool:
    """Return whether a failure is still pending; nobody else can change that while this session locks its source."""
    return any(failure.state == "pending" for failure in failures.find(connection, id=id))


def _mode(mode: Mode, dataset: Dataset) -> Mode:
    """Return the mode in which records of a run are replayed: those of a replace are merged if there is a key."""
    if mode != "replace":
        return mode
    return "merge" if dataset.key else "append"
