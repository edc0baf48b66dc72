"""A piece as a task for another process: a plain value that any executor can carry, and how it is loaded there.

The ledger lets each piece load exactly once, wherever it is loaded and however often an executor repeats its task.
"""

import threading
import time
from contextlib import ExitStack, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Protocol

import psycopg
from structlog.contextvars import bind_contextvars

from etl.database.connecting import Session
from etl.errors import EtlError, InternalError, InterruptedByUserError, SourceError, reason_of
from etl.ingestion.destination import refusals
from etl.ingestion.destination.sending import Wire, wait_for
from etl.ingestion.failed_store.store import FailedStore
from etl.ingestion.ledger import locks, runs
from etl.ingestion.pipeline.assembly import RunContext, RunLedgerWriter, worker
from etl.ingestion.pipeline.batches import Loader, retry_policy
from etl.ingestion.pipeline.fetching import Range, RangesAhead
from etl.ingestion.transform.paths import Paths
from etl.ingestion.values import Entry, Piece
from etl.quick_dataclasses import dataclass
from etl.settings import RetrySettings

IDLE_SECONDS = 30.0
"""A worker that outlives its load gives up its sessions, and their locks, after so long without a task of it."""


@dataclass(frozen=True, kw_only=True)
class Task:
    """One piece to load: with its bytes, or with the place that has them at the piece's offset.

    A place is the path of a plain file or the URL of an object of a store, which the worker reads itself.

    `load` tells the loads apart that share a worker; it is empty where the worker ends with its load.
    """

    context: RunContext
    piece: Piece
    place: str | None
    length: int
    hash: bytes
    load: str = ""


@dataclass(frozen=True, kw_only=True)
class TaskResult:
    """The result of a task: its entry in the ledger or the error that ended it, and the number of further tries.

    `is_begun` is False for a task that its worker left alone, because the load had ended its submitting before. Of its
    `seconds`, a worker `waited` for the bytes of a URL.
    """

    entry: Entry | None
    error: EtlError | None
    retried: int
    is_begun: bool = True
    seconds: float = 0.0
    waited: float = 0.0


class StopEvent(Protocol):
    """The stop event of a load, as the event of a thread or of a process is."""

    def wait(self, timeout: float) -> bool:
        """Wait until the event is set, at most so long; return whether it is."""


class _Work:
    """What a worker process has of one load: sessions of its runs, and how the load ends its waits.

    One task at a time uses it. `is_closed`: the load begins no further tasks.
    """

    def __init__(self, stopping: StopEvent | None) -> None:
        self.stopping = stopping
        self.is_closed = False
        self.is_released = False
        self.in_use = threading.Lock()
        self.sessions = ExitStack()
        self.runs: dict[str, tuple[Paths, Loader]] = {}
        self.ahead = RangesAhead()
        self.retried = 0
        self._timer: threading.Timer | None = None

    def loader(self, context: RunContext) -> tuple[Paths, Loader]:
        """Return the paths that make the batches of a run, and their loader over a session of this process."""
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
        """Count one further try."""
        self.retried += 1

    def wait(self, seconds: float) -> None:
        """Wait before a further try; the parent reports the signal that ended it."""
        if self.stopping is None:
            time.sleep(seconds)  # no event was shared: another executor ends its workers itself
        elif self.stopping.wait(seconds):
            raise InterruptedByUserError("stopped", signal_number=0, hint="run the same command to continue")

    def start_timer(self) -> None:
        """Give up the sessions later, unless another task comes."""
        self._timer = threading.Timer(IDLE_SECONDS, _release_when_idle, [self])
        self._timer.daemon = True
        self._timer.start()

    def cancel_timer(self) -> None:
        """Keep the sessions."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def release(self) -> None:
        """Give up the sessions and their locks; the caller has the lock of this work."""
        self.cancel_timer()
        self.ahead.clear()
        self.runs.clear()
        with suppress(Exception):  # A lost connection may fail to close.
            self.sessions.close()


_works: dict[str, _Work] = {}
_changing = threading.Lock()


def set_stop_event(stopping: StopEvent) -> None:
    """Let this event of the parent end the waits of this process."""
    _works[""] = _Work(stopping)


def _work_of(load: str) -> _Work:
    with _changing:
        if load not in _works:
            _works[load] = _Work(threading.Event() if load else None)
        return _works[load]


def end_submitting(load: str, *, at_once: bool) -> None:
    """Let this process begin no further task of a load, and end its waits if the rest has to end `at_once`."""
    work = _work_of(load)
    work.is_closed = True
    if at_once and isinstance(work.stopping, threading.Event):
        work.stopping.set()


def fetch_ahead(load: str, wanted: Range, retries: RetrySettings) -> None:
    """Begin to read the range of a task of a load that this process will get."""
    work = _work_of(load)
    if not work.is_closed:
        work.ahead.begin(wanted, retries)


def drop_ahead(load: str, wanted: Range) -> None:
    """Keep a range no longer that was read for a task of a load."""
    with _changing:
        work = _works.get(load)
    if work is not None:
        work.ahead.drop(wanted)


def release(load: str) -> None:
    """Give up what this process has of a load, after the task that it is at."""
    with _changing:
        work = _works.pop(load, None)
    if work is None:
        return
    work.is_closed = work.is_released = True
    if work.in_use.acquire(blocking=False):
        try:
            work.release()
        finally:
            work.in_use.release()


def _release_when_idle(work: _Work) -> None:
    """Give up the sessions of a load that is at no task; its next task opens new ones.

    Its command may have ended without a word to this process, whose locks would keep the next one away.
    """
    if work.in_use.acquire(blocking=False):
        try:
            work.release()
        finally:
            work.in_use.release()


def load_task(task: Task) -> TaskResult:
    """Load one piece and return its result; an error of this tool is a value of it."""
    work = _work_of(task.load)
    with work.in_use:
        work.cancel_timer()
        if work.is_closed:
            return TaskResult(entry=None, error=None, retried=0, is_begun=False)
        try:
            return _loaded(task, work)
        finally:
            if work.is_released:
                work.release()
            elif task.load:
                work.start_timer()


def _loaded(task: Task, work: _Work) -> TaskResult:
    bind_contextvars(run=task.context.run.run)
    before = work.retried
    begun = time.monotonic()
    waited = 0.0
    entry: Entry | None = None
    error: EtlError | None = None
    try:
        paths, loader = work.loader(task.context)
        waiting = time.monotonic()
        piece = _whole(task, work)
        if task.place and "://" in task.place:
            waited = time.monotonic() - waiting
        for batch in paths.batching(piece):
            if batch is not None:
                entry = wait_for(loader.load(batch))
        if entry is None:
            raise InternalError("a piece ended without its batch")
    except EtlError as ended:
        error = ended
    except psycopg.Error as ended:
        error = refusals.as_etl_error(ended, task.context.database)
    seconds = time.monotonic() - begun
    return TaskResult(entry=entry, error=error, retried=work.retried - before, seconds=seconds, waited=waited)


def _whole(task: Task, work: _Work) -> Piece:
    """Return the piece with its bytes.

    Raises SourceError when its place has others now.
    """
    if task.place is None:
        return task.piece
    piece = replace(task.piece, parts=(_read(task, task.place, work),))
    if piece.hash != task.hash:
        raise SourceError(
            f"{task.context.source}: the file changed while it was read, at byte {task.piece.offset}",
            hint="get the file again and run the same command; loaded records are not loaded twice",
        )
    return piece


def _read(task: Task, place: str, work: _Work) -> bytes:
    if "://" in place:
        return work.ahead.take(Range(place, task.piece.offset, task.length), task.context.retries)
    try:
        with Path(place).open("rb") as file:
            file.seek(task.piece.offset)
            return file.read(task.length)
    except OSError as error:
        raise SourceError(f"cannot read {task.context.source}: {reason_of(error)}") from error
