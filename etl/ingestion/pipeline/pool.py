"""Several processes that load the pieces of a run as these are submitted, and end with this process."""

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import replace
from multiprocessing.connection import Connection as Pipe
from multiprocessing.connection import wait
from multiprocessing.context import SpawnContext, SpawnProcess
from multiprocessing.synchronize import Event

from etl import standard_streams
from etl.errors import DatabaseError
from etl.ingestion.pipeline.assembly import RunContext
from etl.ingestion.pipeline.job import LOOK_SECONDS, Stop
from etl.ingestion.pipeline.tasks import Task, TaskResult, load_task, set_stop_event
from etl.ingestion.values import Piece
from etl.logs import Logs, set_up

_AHEAD = 2
"""Tasks that each process has: the one that it loads and the next."""


class WorkerPool:
    """Processes that load the submitted pieces; `first` returns the result of each, in order."""

    def __init__(self, executor: Executor, size: int, stopping: Event) -> None:
        self._executor = executor
        self._size = size
        self._stopping = stopping
        self._submitted: deque[tuple[Piece, Future[TaskResult]]] = deque()
        self.is_broken = False

    @property
    def is_busy(self) -> bool:
        """Whether no further piece should be cut before one is done."""
        return len(self._submitted) >= _AHEAD * self._size

    @property
    def has_more(self) -> bool:
        """Whether a submitted piece is not returned yet."""
        return bool(self._submitted)

    def submit(self, context: RunContext, piece: Piece, place: str | None, waited: float) -> None:  # noqa: ARG002 - see Pool
        """Submit a piece; of a plain file only its place, which the process reads itself."""
        path = None if place is None or "://" in place else place
        carried = replace(piece, parts=()) if path else piece  # no fingerprint: no process could take it
        task = Task(context=context, piece=carried, place=path, length=piece.length, hash=piece.hash)
        try:
            future = self._executor.submit(load_task, task)
        except BrokenProcessPool as error:
            raise self._died() from error
        # Its counts are needed later, its bytes are not.
        self._submitted.append((replace(piece, parts=()), future))

    def first(self, stop: Stop) -> tuple[Piece, TaskResult]:
        """Wait for the piece that was submitted first; return it without its bytes, and its result.

        The stop event ends the waits before further tries. Raises DatabaseError when its process died.
        """
        piece, future = self._submitted.popleft()
        while True:
            try:
                return piece, future.result(timeout=LOOK_SECONDS)
            except BrokenProcessPool as error:
                raise self._died() from error
            except TimeoutError:
                if stop.signal_number:
                    self._stopping.set()

    def cancel_unstarted(self) -> list[Piece]:
        """Take back the pieces that no process has begun, and return them."""
        submitted, self._submitted = self._submitted, deque()
        cancelled = []
        for piece, future in submitted:
            if future.cancel():
                cancelled.append(piece)
            else:
                self._submitted.append((piece, future))
        return cancelled

    def _died(self) -> DatabaseError:
        self.is_broken = True
        return DatabaseError("a worker process ended unexpectedly", hint="run the same command to continue")


class _Process(SpawnProcess):
    """A worker process, which ignores SIGTERM.

    The executor terminates it when another process died, and waits for it with a lock held that handing out needs: the
    lock of the queue, for which this one may wait, died with the other.
    """

    def terminate(self) -> None:
        """End the process at once: the server rolls back open transactions."""
        self.kill()


class _Context(SpawnContext):
    """Starts processes of their own: a fork would share the connection of this process."""

    Process = _Process


@contextmanager
def worker_pool(size: int, logs: Logs) -> Iterator[WorkerPool]:
    """Start processes and end them: after the pieces that they have begun, at once after an interruption."""
    with _ignoring_broken_pipes():
        yield from _worker_pool(size, logs)


@contextmanager
def _ignoring_broken_pipes() -> Iterator[None]:
    """Ignore SIGPIPE: the broken pipe of a dead process would end this process, too; the executor reports its death."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGPIPE, before)


def _worker_pool(size: int, logs: Logs) -> Iterator[WorkerPool]:
    context = _Context()
    theirs, ours = context.Pipe(duplex=False)
    stopping = context.Event()
    executor = ProcessPoolExecutor(size, mp_context=context, initializer=_begin, initargs=(theirs, stopping, logs))
    pool = WorkerPool(executor, size, stopping)
    try:
        yield pool
        executor.shutdown(wait=True)
    except BaseException as error:
        # The closed pipe ends them: the one that died may have held the lock of the queue that carries the request.
        if pool.is_broken or not isinstance(error, Exception):
            ours.close()
        executor.shutdown(wait=True, cancel_futures=True)
        raise
    finally:
        ours.close()
        theirs.close()


def _begin(parent: Pipe, stopping: Event, logs: Logs) -> None:
    """Set up a worker process: its parent takes the signals, and it ends with its parent."""
    set_stop_event(stopping)
    standard_streams.install()
    # They are for all processes of the load: the parent finishes the batches in hand.
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    set_up(logs)
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()


def _end_with(parent: Pipe) -> None:
    """End this process when its parent ends or closes the pipe: the server rolls back open transactions."""
    process = multiprocessing.parent_process()
    wait([parent, *([process.sentinel] if process else [])])
    os._exit(1)
