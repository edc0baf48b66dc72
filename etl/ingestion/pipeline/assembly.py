"""Everything that loads the pieces of a run in one process: this process, or one of a worker pool.

A task is a plain value that any `concurrent.futures.Executor` can carry: the place of a piece or its bytes, and the
context of its run. The ledger lets each piece load exactly once, wherever it is loaded.
"""

import time
from collections.abc import Collection, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Self

import psycopg
import structlog
from structlog.contextvars import bind_contextvars
from tenacity import Retrying

from etl.database.connecting import Database, Session
from etl.database.tables import guarded_columns, other_types, version_of
from etl.datasets import Dataset
from etl.errors import DatabaseError, EtlError, InternalError, InterruptedByUserError, SourceError, reason_of
from etl.ingestion.constants import MAX_FAILED_IN_A_ROW
from etl.ingestion.destination import refusals
from etl.ingestion.destination.copying import Copier, copier_of_run
from etl.ingestion.destination.sending import Wire, wait_for
from etl.ingestion.failed_store.failure import Origin
from etl.ingestion.failed_store.locating import RecordLocation, locate
from etl.ingestion.failed_store.store import FailedStore
from etl.ingestion.ledger import batches, locks, marks, runs
from etl.ingestion.pipeline.batches import LedgerWriter, Loader, retry_policy
from etl.ingestion.transform.fastpath import FastPath
from etl.ingestion.transform.paths import CheckedPath, Comparing, Paths, fast
from etl.ingestion.transform.projection import Projection
from etl.ingestion.values import Batch, Entry, Failure, Fault, Piece
from etl.quick_dataclasses import dataclass
from etl.settings import Decoder, Mode, RetrySettings

if TYPE_CHECKING:
    from multiprocessing.synchronize import Event

log = structlog.get_logger(__name__)


@dataclass(frozen=True, kw_only=True)
class RunContext:
    """The settings that all pieces of one run share; a plain value that other processes can get.

    `compares`: the run leaves unchanged records as they are, batch after batch in one process; these may have unknown
    members if it `may_have_unknown`.
    """

    database: Database
    dataset: Dataset
    run: runs.Run
    source: str
    mode: Mode
    failed_dir: Path
    decoder: Decoder
    retries: RetrySettings
    compares: bool = False
    may_have_unknown: bool = False

    def copier(self) -> Copier:
        """Return a copier that writes the rows of the run into their tables."""
        return copier_of_run(
            self.dataset,
            self.mode,
            self.run.run,
            self.run.number,
            is_atomic=self.run.is_atomic,
            compares=self.compares,
        )


@dataclass(frozen=True, kw_only=True)
class Task:
    """One piece to load: with its bytes, or with the path of the plain file that has them at the piece's offset."""

    context: RunContext
    piece: Piece
    path: str | None
    length: int
    hash: bytes


@dataclass(frozen=True, kw_only=True)
class TaskResult:
    """The result of a task: its entry in the ledger or the error that ended it, and the number of further tries."""

    entry: Entry | None
    error: EtlError | None
    retried: int


def worker(
    context: RunContext,
    wire: Wire,
    store: FailedStore,
    copier: Copier,
    ledger_writer: LedgerWriter,
    retrying: Retrying,
) -> tuple[Paths, Loader]:
    """Return the paths that make the batches of a run, and the loader of these batches."""
    projection = Projection(context.dataset)
    comparing = None
    if context.compares:
        comparing = Comparing(is_examining=context.may_have_unknown and projection.warns_of_unknown)
    paths = paths_of(wire.session, projection, context.run.number, context.decoder, comparing)
    loader = Loader(
        database=context.database,
        wire=wire,
        store=store,
        copier=copier,
        projection=projection,
        ledger_writer=ledger_writer,
        retrying=retrying,
        rebuild=paths.again,
        is_all_or_nothing=context.run.is_atomic,
    )
    return paths, loader


def paths_of(
    session: Session,
    projection: Projection,
    run_number: int,
    decoder: Decoder,
    comparing: Comparing | None = None,
) -> Paths:
    """Return the paths for a run with a number; the tables in the database decide whether the fast path is possible."""
    dataset = projection.dataset
    checked = CheckedPath(projection, run_number)
    if decoder == "ijson":
        return Paths(None, None, checked)
    seen = fast(dataset)
    reason, guarded = (seen, frozenset()) if isinstance(seen, str) else _compared(session, dataset)
    if isinstance(seen, str) or reason:
        log.info("checked_path_only", dataset=dataset.name, reason=reason)
        return Paths(None, None, checked)
    strict = FastPath(seen, projection, run_number)
    fastest = FastPath(seen, projection, run_number, guarded) if guarded else strict
    return Paths(fastest, strict, checked, None if _has_other_keys(dataset) else comparing)


def _has_other_keys(dataset: Dataset) -> bool:
    """Return whether the keys of records that delete may be elsewhere in a record.

    A batch is then compared when its rows are sent, and not before they are made.
    """
    _, deletions = dataset.deletions or (0, None)
    return deletions is not None and any(column.other_path for column in deletions.columns)


def _compared(session: Session, dataset: Dataset) -> tuple[str | None, frozenset[tuple[str, str]]]:
    """Return the first column with another type than the definition's, and the columns that the tables check.

    They are compared again when the tables have changed since a run before this one.
    """
    connection = session.connection()
    key = "compared", dataset.hash
    version = version_of(connection, dataset)
    known = session.remembered.get(key)
    if known is None or known[0] != version:
        reason = other_types(connection, dataset)
        known = version, reason, frozenset() if reason else guarded_columns(connection, dataset)
        session.remembered[key] = known
    return known[1], known[2]


@dataclass(frozen=True, kw_only=True)
class RunLedgerWriter:
    """Claims and enters the batches of a run."""

    run: runs.Run
    dataset: str
    source: str
    document: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, context: RunContext) -> Self:
        """Return the ledger writer of a run."""
        dataset = context.dataset
        return cls(run=context.run, dataset=dataset.name, source=context.source, document=dict(dataset.document))

    def claim(self, connection: psycopg.Connection, batch: Batch) -> bool:
        """Claim the batch for its run."""
        return batches.claim(connection, self.run, batch.piece)

    def enter(self, connection: psycopg.Connection, batch: Batch, entry: Entry, stored: Sequence[Failure]) -> None:
        """Enter the outcome of the batch, and the marks of its records."""
        marks.add(connection, self.dataset, self.run.number, batch.piece.marks)
        batches.enter(connection, self.run, batch.piece, entry, stored)

    def require_failable(self, connection: psycopg.Connection, batch: Batch, fault: Fault) -> None:
        """Raise DatabaseError when too many batches fail one after the other.

        The batch is not entered then: the same command begins with it. The ledger counts over all attempts and
        processes, so that a fault that stays does not move the source into the failed store, a few batches each time.
        """
        refused = f"the batch at byte {batch.piece.offset} could not load: {fault.reason}, SQLSTATE {fault.sqlstate}"
        if batches.are_failing(connection, self.run, batch.piece, MAX_FAILED_IN_A_ROW - 1):
            raise DatabaseError(
                f"{refused}; {MAX_FAILED_IN_A_ROW} batches in a row did not load",
                hint="the server's log has the statement; run the same command to continue with this batch,"
                f" and etl failed replay --run {self.run.run} for those before it",
            )

    def origin(self, batch: Batch) -> Origin:
        """Return the run and the batch of a failure."""
        return Origin(
            id_prefix=f"{self.run.run}-{batch.piece.offset}-",
            run=self.run.run,
            dataset=self.dataset,
            source=self.source,
            batch=batch.piece.offset,
            document=self.document,
        )

    def locate(self, batch: Batch, places: Collection[int]) -> Mapping[int, RecordLocation]:
        """Return the places of records in the source, and their text."""
        return locate(batch.piece, places, batch.spans)


class _Process:
    """The state of a worker process: the runs that it loads, and the stop event of its parent."""

    def __init__(self) -> None:
        self.stopping: Event | None = None
        self.sessions = ExitStack()
        self.runs: dict[str, tuple[Paths, Loader]] = {}
        self.retried = 0

    def loader(self, context: RunContext) -> tuple[Paths, Loader]:
        if context.run.run not in self.runs:
            session = self.sessions.enter_context(Session(context.database, f"etl:{context.run.run}"))
            join = partial(locks.join, dataset=context.dataset.name, run=context.run)
            join(session.connection())
            session.when_reopened(join)
            store = FailedStore(context.failed_dir)
            store.belong_to(runs.database_id(session.connection()))
            retrying = retry_policy(context.retries, self.note_retry, self.wait)
            ledger_writer = RunLedgerWriter.of(context)
            self.runs[context.run.run] = retrying(
                worker, context, Wire(session), store, context.copier(), ledger_writer, retrying
            )
        return self.runs[context.run.run]

    def note_retry(self) -> None:
        self.retried += 1

    def wait(self, seconds: float) -> None:
        """Wait before a further try; the parent reports the signal that ended it."""
        if self.stopping is None:
            time.sleep(seconds)  # no event was shared: another executor ends its workers itself
        elif self.stopping.wait(seconds):
            raise InterruptedByUserError("stopped", signal_number=0, hint="run the same command to continue")


_process = _Process()


def set_stop_event(stopping: "Event") -> None:
    """Let this event of the parent end the waits of this process."""
    _process.stopping = stopping


def load_task(task: Task) -> TaskResult:
    """Load one piece and return its result; an error of this tool is a value of it."""
    bind_contextvars(run=task.context.run.run)
    before = _process.retried
    entry: Entry | None = None
    error: EtlError | None = None
    try:
        paths, loader = _process.loader(task.context)
        for batch in paths.batching(_whole(task)):
            if batch is not None:
                entry = wait_for(loader.load(batch))
        if entry is None:
            raise InternalError("a piece ended without its batch")
    except EtlError as ended:
        error = ended
    except psycopg.Error as ended:
        error = refusals.as_etl_error(ended, task.context.database)
    return TaskResult(entry=entry, error=error, retried=_process.retried - before)


def _whole(task: Task) -> Piece:
    """Return the piece with its bytes.

    Raises SourceError when the file has others now.
    """
    if task.path is None:
        return task.piece
    try:
        with Path(task.path).open("rb") as file:
            file.seek(task.piece.offset)
            data = file.read(task.length)
    except OSError as error:
        raise SourceError(f"cannot read {task.context.source}: {reason_of(error)}") from error
    piece = replace(task.piece, parts=(data,))
    if piece.hash != task.hash:
        raise SourceError(
            f"{task.context.source}: the file changed while it was read, at byte {task.piece.offset}",
            hint="get the file again and run the same command; loaded records are not loaded twice",
        )
    return piece
