"""A stretch of a stream -> the tables: the same batches, ledger and failed store as for a file.

Between two groups no lock is held and no transaction is open. Each group's transaction takes the locks that it needs,
and moves the position of the stream, so that each event is loaded once, whatever dies and however many loaders work.
"""

import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import psycopg
import structlog
from structlog.contextvars import bound_contextvars
from tenacity import Retrying

from etl.collecting.buffers import Buffered, Keep, Reader
from etl.collecting.stretches import Stretch
from etl.database.connecting import Session
from etl.database.obstacles import require_loadable
from etl.database.sessions import require_usable
from etl.database.tables import require_key, require_tables, with_digests
from etl.datasets import Dataset
from etl.errors import BusyError, InternalError, UsageError
from etl.ingestion.constants import BATCH_ROWS, PIECE_BYTES
from etl.ingestion.destination import refusals
from etl.ingestion.destination.sending import Wire, wait_for
from etl.ingestion.failed_store import leftovers
from etl.ingestion.failed_store.failure import Origin
from etl.ingestion.failed_store.locating import RecordLocation
from etl.ingestion.failed_store.store import FailedStore
from etl.ingestion.ledger import failures, locks, losses, runs, streams
from etl.ingestion.ledger.streams import EventKey, NewStretch
from etl.ingestion.pipeline import purging
from etl.ingestion.pipeline.assembly import RunContext, RunLedgerWriter, worker
from etl.ingestion.pipeline.batches import Loader, retry_policy
from etl.ingestion.pipeline.job import Load
from etl.ingestion.pipeline.targets import Target
from etl.ingestion.transform.paths import Paths
from etl.ingestion.transform.projection import Projection
from etl.ingestion.values import Batch, Entry, Failure, Fault, Source

_CLEAN_SECONDS = 5.0

log = structlog.get_logger(__name__)


class LaterRunError(Exception):
    """Another run was opened after the run of the stream, so the next group begins a new run."""


class MovedError(BusyError):
    """Another loader has loaded a group of the stream."""


def require_collectable(target: Target) -> None:
    """Raise UsageError when the events of a dataset cannot be loaded as they come."""
    dataset = target.dataset
    name = dataset.name
    if target.is_atomic:
        raise UsageError(
            f"{name}: events are added one after the other, and mode {target.mode} shows a whole source at once",
            hint="append or merge: --mode, or the mode of the definition",
        )
    if target.mode == "merge" and not dataset.key:
        raise UsageError(f"mode merge expects a key, and {dataset.path} has none")
    if dataset.on_duplicate:
        raise UsageError(
            f"{name}: on_duplicate compares the records of one source, and a stream has no end",
            hint="mode merge keeps the newest version of each key",
        )
    if dataset.document_paths:
        raise UsageError(f"{name}: columns take members of the document around the records, and events have none")
    if dataset.deletions and target.mode != "merge":
        raise UsageError(f"mode {target.mode} deletes no keys, and {dataset.path} has delete_if, which expects merge")
    Projection(dataset)


@dataclass(frozen=True, kw_only=True)
class StreamLedgerWriter:
    """Claims and enters the groups of a stream; everything but the position is as for the batches of a file.

    `keys` are the requests with idempotency keys whose events are loaded without a buffer.
    """

    stretch: NewStretch
    batches: RunLedgerWriter
    loaded_to: int
    keys: Sequence[EventKey] = ()

    def claim(self, connection: psycopg.Connection, batch: Batch) -> bool:
        """Claim a group, if the stream is loaded up to it and no other run was opened since.

        Raises BusyError when a replace holds the dataset, LaterRunError when another run has to take the group.
        """
        dataset, run = self.stretch.dataset, self.batches.run
        if not locks.share_dataset_in_transaction(connection, dataset):
            raise BusyError(f"a replace holds the dataset {dataset}")
        if self.stretch.mode == "merge":
            locks.one_opening_at_a_time(connection, dataset)
        if not locks.hold_run_in_transaction(connection, run.run):
            raise BusyError(f"another command holds run {run.run}")
        if streams.lock_position(connection, self.stretch.stream) != self.loaded_to:
            return False
        if streams.current_run(connection, self.stretch) != (run.run, run.number):
            raise LaterRunError
        return self.batches.claim(connection, batch)

    def enter(self, connection: psycopg.Connection, batch: Batch, entry: Entry, stored: Sequence[Failure]) -> None:
        """Enter a group, and how far the stream is loaded with it. Raises KeyTakenError."""
        streams.enter_keys(connection, self.stretch.dataset, self.keys)
        self.batches.enter(connection, batch, entry, stored)
        streams.enter_group(connection, self.stretch, self.batches.run, batch.piece, entry)

    def require_failable(self, connection: psycopg.Connection, batch: Batch, fault: Fault) -> None:
        """Raise DatabaseError when too many groups fail one after the other: the next ones wait in the spool."""
        self.batches.require_failable(connection, batch, fault)

    def entered(self, _connection: psycopg.Connection, _batch: Batch) -> Entry | None:
        """Return None: a group that was claimed before is another collector's."""
        return None

    def origin(self, batch: Batch) -> Origin:
        """Return the run and the group of a failure."""
        return self.batches.origin(batch)

    def locate(self, batch: Batch, places: Collection[int]) -> Mapping[int, RecordLocation]:
        """Return the places of events in their stream, and their text."""
        return self.batches.locate(batch, places)


@dataclass(frozen=True, kw_only=True)
class _OpenRun:
    """The run that takes the next groups, as this process has opened it."""

    stretch: NewStretch
    context: RunContext
    paths: Paths
    loader: Loader
    wire: Wire


@dataclass(frozen=True, kw_only=True)
class Loaded:
    """A group that was loaded: its run, and its events by what became of them."""

    stream: str
    run: str
    loaded: int
    refused: int


class StreamLoader:
    """Loads the streams of one dataset from a buffer, over one session."""

    def __init__(self, load: Load, target: Target, reader: Reader, store: FailedStore, keep: Keep) -> None:
        require_collectable(target)
        self._load = load
        self._target = target
        self._reader = reader
        self._store = store
        self._keep = keep
        self._run: _OpenRun | None = None
        self._missing: set[str] = set()
        self._positions: dict[str, int] = {}
        self._read_to: dict[str, str] = {}
        self._cleaned_at: dict[str, float] = {}
        self._clean_seconds = min(_CLEAN_SECONDS, keep.seconds)

    def close(self) -> None:
        """Close the session."""
        if "_session" in self.__dict__:
            self._session.close()

    @cached_property
    def _session(self) -> Session:
        """The session, once the database is known to take the events.

        Raises UsageError when it does not.
        """
        session = Session(self._load.database, locks.COLLECTOR)
        try:
            self._require_ready(session.connection())
        except BaseException:
            session.close()
            raise
        return session

    def _require_ready(self, connection: psycopg.Connection) -> None:
        target = self._target
        require_usable(connection)
        require_tables(connection, target.dataset)
        require_loadable(connection, target.dataset, target.mode)
        if target.mode == "merge":
            require_key(connection, target.dataset)
        losses.require_rows(connection, [(target.dataset, target.mode)], force=False, allow_empty=False)
        self._store.belong_to(runs.database_id(connection))
        purging.sweep_crashed(connection, self._store, target.dataset.name)

    @cached_property
    def _dataset(self) -> Dataset:
        """The definition of the dataset, as the tables in the database take its rows: with digests, or without."""
        dataset = self._target.dataset
        return with_digests(self._session.connection(), dataset) if self._target.sends_digests else dataset

    @property
    def tables(self) -> list[str]:
        """The tables of the dataset."""
        return [table.name for table in self._target.dataset.tables]

    @property
    def positions(self) -> Mapping[str, int]:
        """Up to which byte each stream is loaded, as far as that is known."""
        return self._positions

    def load_next(self) -> Loaded | None:
        """Load the next group of the oldest stream that has one; None: there is none now.

        Raises BusyError when another command is at work, UnreadableError when the buffer cannot be read, and every
        other error that ends a load.
        """
        try:
            return self._load_next()
        except FileNotFoundError:  # Another loader has removed a segment that is loaded.
            return None
        except psycopg.Error as error:
            raise refusals.as_etl_error(error, self._load.database) from error

    def _load_next(self) -> Loaded | None:
        found = self._reader.streams(self._target.dataset.name)
        for stream in found:
            newest = stream.newest
            if self._read_to.get(stream.name) == newest:
                self._clean(stream, self._positions[stream.name], is_last=stream == found[-1])
                continue
            loaded_to, count = self._position(stream.name)
            self._positions[stream.name] = loaded_to
            self._clean(stream, loaded_to, is_last=stream == found[-1])
            stretch = stream.next_stretch(loaded_to, BATCH_ROWS, PIECE_BYTES)
            if stretch is None:
                self._read_to[stream.name] = newest
                continue
            if stretch.offset > loaded_to and stream.name not in self._missing:
                self._missing.add(stream.name)
                hint = "the database was restored from a backup, or events were deleted from the buffer"
                log.error("events_missing", stream=stream.name, after=loaded_to, before=stretch.offset, hint=hint)
            return self._load_group(stream.name, stretch, loaded_to, count)
        return None

    def _clean(self, stream: Buffered, loaded_to: int, *, is_last: bool) -> None:
        """Remove what is loaded, now and then: the segments of a busy stream are many."""
        now = time.monotonic()
        if now - self._cleaned_at.get(stream.name, now - self._clean_seconds) >= self._clean_seconds:
            self._cleaned_at[stream.name] = now
            stream.remove_loaded(loaded_to, self._keep, is_last=is_last)

    def _position(self, stream: str) -> tuple[int, int]:
        connection = self._session.connection()
        known = streams.position(connection, stream) or streams.begin(connection, stream, self._target.dataset.name)
        return known.loaded_to, known.count_events

    # Without a buffer

    def load_now(self, stream: str, lines: bytes, keys: Sequence[EventKey]) -> int:
        """Load events at the end of a stream, with the keys of their requests; return the byte at which they begin.

        The offsets of the keys are those in the lines. Raises KeyTakenError, and every error that ends a load.
        """
        try:
            loaded_to, count = self._position(stream)
            placed = [replace(key, stream=stream, offset=loaded_to + key.offset) for key in keys]
            self._load_group(stream, Stretch(offset=loaded_to, lines=lines), loaded_to, count, placed)
        except psycopg.Error as error:
            raise refusals.as_etl_error(error, self._load.database) from error
        return loaded_to

    def known_keys(self, keys: Sequence[str]) -> dict[str, EventKey]:
        """Return the requests with these keys whose events were loaded without a buffer.

        Raises DatabaseError.
        """
        try:
            return streams.known_keys(self._session.connection(), self._target.dataset.name, keys)
        except psycopg.Error as error:
            raise refusals.as_etl_error(error, self._load.database) from error

    def forget_keys(self, seconds: float) -> None:
        """Remove the keys of requests that are older than so many seconds. Raises DatabaseError."""
        try:
            streams.forget_keys(self._session.connection(), self._target.dataset.name, seconds)
        except psycopg.Error as error:
            raise refusals.as_etl_error(error, self._load.database) from error

    # A group

    def _load_group(
        self, stream: str, stretch: Stretch, loaded_to: int, count: int, keys: Sequence[EventKey] = ()
    ) -> Loaded:
        piece = stretch.piece(count + 1)
        while True:
            run = self._open_run(stream, loaded_to)
            loader = self._loader(run, loaded_to, keys)
            with bound_contextvars(run=run.context.run.run):
                for batch in run.paths.batching(piece):
                    if batch is None:
                        continue
                    try:
                        entry = wait_for(loader.load(batch))
                    except LaterRunError:
                        self._run = None
                        break
                    refused = entry.rejected + entry.failed
                    return Loaded(stream=stream, run=run.context.run.run, loaded=entry.loaded, refused=refused)
                else:
                    raise InternalError("a piece ended without its batch")

    def _loader(self, run: _OpenRun, loaded_to: int, keys: Sequence[EventKey]) -> Loader:
        batches = RunLedgerWriter.of(run.context)
        writer = StreamLedgerWriter(stretch=run.stretch, batches=batches, loaded_to=loaded_to, keys=keys)
        return Loader(
            database=run.loader.database,
            wire=run.wire,
            store=self._store,
            copier=run.loader.copier,
            projection=run.loader.projection,
            ledger_writer=writer,
            retrying=run.loader.retrying,
            rebuild=run.paths.again,
        )

    # The run of a stream

    def _stretch(self, stream: str) -> NewStretch:
        dataset, target = self._dataset, self._target
        table = dataset.digested_table if dataset.has_digests else None
        return NewStretch(
            stream=stream,
            dataset=dataset.name,
            definition_hash=target.definition_hash("auto"),
            mode=target.mode,
            versions_of=None if table is None else table.name,
            definition=dataset.digest_definition,
            is_examined=dataset.on_unknown != "ignore",
            newest_by=dataset.newest_by,
        )

    def _open_run(self, stream: str, loaded_to: int) -> _OpenRun:
        """Return the run that takes the next group: the one that this process has opened, or another."""
        if self._run is not None and self._run.stretch.stream == stream:
            return self._run
        stretch = self._stretch(stream)
        self._run = self._retrying(self._opened, stretch, loaded_to)
        return self._run

    def _opened(self, stretch: NewStretch, loaded_to: int) -> _OpenRun:
        connection, target = self._session.connection(), self._target
        source = Source(name=stretch.stream, path=None)
        with connection.transaction():
            if not locks.share_dataset_in_transaction(connection, stretch.dataset):
                raise BusyError(f"a replace holds the dataset {stretch.dataset}")
            locks.one_opening_at_a_time(connection, stretch.dataset)
            streams.lock_position(connection, stretch.stream)
            losses.require_marks(connection, self._target.dataset)
            name, number = streams.current_run(connection, stretch) or streams.open_run(connection, stretch, loaded_to)
            if not locks.hold_run_in_transaction(connection, name):
                raise BusyError(f"another command holds run {name}")
            losses.require_run(connection, target.dataset, name)
            run = streams.open_attempt(connection, name, number, target.mode, self._load.request(source, target))
            if run.attempt > 1:
                leftovers.sweep(self._store, stretch.dataset, name, failures.ids_of(connection, name))
        context = RunContext(
            database=self._load.database,
            dataset=self._dataset.of_source(stretch.stream),
            run=run,
            source=stretch.stream,
            mode=target.mode,
            failed_dir=self._load.settings.failed_dir,
            decoder=self._load.settings.decoder,
            retries=self._load.settings.retries,
        )
        copier = context.copier()
        copier.drop_abandoned(connection)
        copier.prepare(connection)
        wire = Wire(self._session)
        batches = RunLedgerWriter.of(context)
        paths, loader = worker(context, wire, self._store, copier, batches, self._retrying)
        return _OpenRun(stretch=stretch, context=context, paths=paths, loader=loader, wire=wire)

    @cached_property
    def _retrying(self) -> Retrying:
        return retry_policy(self._load.settings.retries, lambda: None, self._load.stop.wait)
