"""One who loads pieces of a run over a connection and a failed-store writer of its own: this process or one of a crew.

A task is a plain value that any `concurrent.futures.Executor` can carry: where a piece is, or its bytes, and the work
that it belongs to. The ledger makes each piece exactly once, wherever it is loaded.
"""

import time
from collections.abc import Collection, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Self

import psycopg
import structlog
from tenacity import Retrying

from etl.database.connecting import Database, Session
from etl.database.tables import guarded_columns, other_types
from etl.datasets import Dataset
from etl.errors import EtlError, InternalError, InterruptedByUserError, SourceError, reason_of
from etl.ingestion.destination import refusals
from etl.ingestion.destination.copying import Copier, copier_of_run
from etl.ingestion.destination.sending import Wire, wait_for
from etl.ingestion.failed_store.failure import Origin
from etl.ingestion.failed_store.locating import RecordLocation, locate
from etl.ingestion.failed_store.store import FailedStore
from etl.ingestion.ledger import batches, locks, runs
from etl.ingestion.pipeline.batches import LedgerWriter, Loader
from etl.ingestion.transform.fastpath import FastPath
from etl.ingestion.transform.paths import CheckedPath, Paths, fast
from etl.ingestion.transform.projection import Projection
from etl.ingestion.values import Batch, Entry, Failure, Piece
from etl.settings import Decoder, Mode, RetrySettings

if TYPE_CHECKING:
    from multiprocessing.synchronize import Event

log = structlog.get_logger(__name__)


@dataclass(frozen=True, kw_only=True)
class Work:
    """What the pieces of one run have in common."""

    database: Database
    dataset: Dataset
    run: runs.Run
    source: str
    head_sha256: str
    mode: Mode
    failed_dir: Path
    decoder: Decoder
    retries: RetrySettings

    def copier(self) -> Copier:
        """Return a copier that writes the rows of the run into their tables."""
        return copier_of_run(self.dataset, self.mode, self.run.run, is_atomic=self.run.is_atomic)


@dataclass(frozen=True, kw_only=True)
class Task:
    """One piece to be loaded: with its bytes, or to be read at its offset from the plain file at `path`."""

    work: Work
    piece: Piece
    path: str | None
    length: int
    hash: bytes


@dataclass(frozen=True, kw_only=True)
class Done:
    """What became of a task: its entry in the ledger or the error that ended it, and the tries beyond the first."""

    entry: Entry | None
    error: EtlError | None
    retried: int


def worker(
    work: Work,
    wire: Wire,
    store: FailedStore,
    copier: Copier,
    ledger_writer: LedgerWriter,
    retrying: Retrying,
) -> tuple[Paths, Loader]:
    """Return what makes the batches of a run, and what loads them over a wire."""
    projection = Projection(work.dataset)
    paths = paths_of(wire.session.connection(), projection, work)
    loader = Loader(
        database=work.database,
        wire=wire,
        store=store,
        copier=copier,
        projection=projection,
        ledger_writer=ledger_writer,
        retrying=retrying,
        rebuild=paths.again,
    )
    return paths, loader


def paths_of(connection: psycopg.Connection, projection: Projection, work: Work) -> Paths:
    """Return the paths that the pieces of a run take; the tables of the database say which may be fast."""
    checked = CheckedPath(projection, work.run.number)
    if work.decoder == "ijson":
        return Paths(None, None, checked)
    seen = fast(work.dataset)
    reason = seen if isinstance(seen, str) else other_types(connection, work.dataset)
    if isinstance(seen, str) or reason:
        log.info("checked_path_only", dataset=work.dataset.name, reason=reason)
        return Paths(None, None, checked)
    strict = FastPath(seen, projection, work.run.number)
    guarded = guarded_columns(connection, work.dataset)
    return Paths(FastPath(seen, projection, work.run.number, guarded) if guarded else strict, strict, checked)


@dataclass(frozen=True, kw_only=True)
class RunLedgerWriter:
    """Claims and enters the batches of a run."""

    run: runs.Run
    dataset: str
    source: str

    @classmethod
    def of(cls, work: Work) -> Self:
        """Return the ledger writer of a run."""
        return cls(run=work.run, dataset=work.dataset.name, source=work.source)

    def claim(self, connection: psycopg.Connection, batch: Batch) -> bool:
        """Claim the batch for its run."""
        return batches.claim(connection, self.run, batch.piece)

    def enter(self, connection: psycopg.Connection, batch: Batch, entry: Entry, stored: Sequence[Failure]) -> None:
        """Enter the outcome of the batch."""
        batches.enter(connection, self.run, batch.piece, entry, stored)

    def origin(self, batch: Batch) -> Origin:
        """Return the run and the batch of a failure."""
        return Origin(
            id_prefix=f"{self.run.run}-{batch.piece.offset}-",
            run=self.run.run,
            dataset=self.dataset,
            source=self.source,
            batch=batch.piece.offset,
        )

    def locate(self, batch: Batch, places: Collection[int]) -> Mapping[int, RecordLocation]:
        """Return the places of records in the source, and their text."""
        return locate(batch.piece, places, batch.spans)


class _Here:
    """The runs of one source in the hands of this process, each with its paths and its connection; `stopping` is its
    parent's wish.
    """

    def __init__(self) -> None:
        self.stopping: Event | None = None
        self.head_sha256: str | None = None
        self.sessions = ExitStack()
        self.runs: dict[str, tuple[Paths, Loader]] = {}
        self.retried = 0

    def loader(self, work: Work) -> tuple[Paths, Loader]:
        if self.head_sha256 != work.head_sha256:
            self.runs.clear()
            self.sessions.close()
            self.head_sha256 = work.head_sha256
        if work.run.run not in self.runs:
            session = self.sessions.enter_context(Session(work.database, f"etl:{work.run.run}"))
            join = partial(locks.join, run=work.run, dataset=work.dataset.name, head_sha256=work.head_sha256)
            join(session.connection())
            session.when_reopened(join)
            store = FailedStore(work.failed_dir)
            self.runs[work.run.run] = worker(
                work,
                Wire(session),
                store,
                work.copier(),
                RunLedgerWriter.of(work),
                refusals.policy(work.retries, self.note_retry, self.wait),
            )
        return self.runs[work.run.run]

    def note_retry(self) -> None:
        self.retried += 1

    def wait(self, seconds: float) -> None:
        """Wait before a further try; the parent reports the signal that ended it."""
        if self.stopping is None:
            time.sleep(seconds)
        elif self.stopping.wait(seconds):
            raise InterruptedByUserError("stopped", signal_number=0, hint="run the same command to continue")


_here = _Here()


def set_stop_event(stopping: "Event") -> None:
    """Let this event of the parent end the waits of this process."""
    _here.stopping = stopping


def load_task(task: Task) -> Done:
    """Load one piece and return its result; an error of this tool is a value of it."""
    before = _here.retried
    entry: Entry | None = None
    error: EtlError | None = None
    try:
        paths, loader = _here.loader(task.work)
        for batch in paths.batching(_whole(task)):
            if batch is not None:
                entry = wait_for(loader.load(batch))
        if entry is None:
            raise InternalError("a piece ended without its batch")
    except EtlError as ended:
        error = ended
    except psycopg.Error as ended:
        error = refusals.as_etl_error(ended, task.work.database)
    return Done(entry=entry, error=error, retried=_here.retried - before)


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
        raise SourceError(f"cannot read {task.work.source}: {reason_of(error)}") from error
    piece = replace(task.piece, parts=(data,))
    if piece.hash != task.hash:
        raise SourceError(
            f"{task.work.source}: the file changed while it was read, at byte {task.piece.offset}",
            hint="get the file again and run the same command; loaded records are not loaded twice",
        )
    return piece
