"""Several processes that load the pieces of a run as they are handed to them, and end with this one."""

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
from multiprocessing.synchronize import Event

from etl.errors import DatabaseError
from etl.ingestion.pipeline.assembly import Done, Task, Work, bring, heed
from etl.ingestion.pipeline.job import LOOK_SECONDS, Stop
from etl.ingestion.values import Piece
from etl.logs import Logs, set_up

_AHEAD = 2
"""Tasks that each process has: the one in its hands and the next."""


class Crew:
    """Processes that load the pieces handed to them; `first` gives back what became of each, in order."""

    def __init__(self, executor: Executor, size: int, stopping: Event) -> None:
        self._executor = executor
        self._size = size
        self._stopping = stopping
        self._handed: deque[tuple[Piece, Future[Done]]] = deque()
        self.is_broken = False

    @property
    def is_busy(self) -> bool:
        """Whether no further piece should be cut before one is done."""
        return len(self._handed) >= _AHEAD * self._size

    @property
    def has_more(self) -> bool:
        """Whether a piece is still to be given back."""
        return bool(self._handed)

    def hand(self, work: Work, piece: Piece, path: str | None) -> None:
        """Hand a piece to whoever is free; of a plain file at `path` only where it stands."""
        carried = replace(piece, parts=()) if path else piece
        task = Task(work=work, piece=carried, path=path, length=piece.length, hash=piece.hash)
        try:
            future = self._executor.submit(bring, task)
        except BrokenProcessPool as error:
            raise self._died() from error
        # What is told of the piece later needs no bytes.
        self._handed.append((replace(piece, parts=()), future))

    def first(self, stop: Stop) -> tuple[Piece, Done]:
        """Wait for the piece that was handed first; return it without its bytes, and what became of it.

        The wish to stop ends the waits before further tries. Raises DatabaseError when its process died.
        """
        piece, future = self._handed.popleft()
        while True:
            try:
                return piece, future.result(timeout=LOOK_SECONDS)
            except BrokenProcessPool as error:
                raise self._died() from error
            except TimeoutError:
                if stop.signal_number:
                    self._stopping.set()

    def call_back(self) -> list[Piece]:
        """Take back the pieces that nobody has begun with."""
        handed, self._handed = self._handed, deque()
        called_back = []
        for piece, future in handed:
            if future.cancel():
                called_back.append(piece)
            else:
                self._handed.append((piece, future))
        return called_back

    def _died(self) -> DatabaseError:
        self.is_broken = True
        return DatabaseError("a worker process ended unexpectedly", hint="run the same command to go on")


@contextmanager
def crew(size: int, logs: Logs) -> Iterator[Crew]:
    """Start processes and end them: after the pieces in their hands, at once where an interruption ends this one."""
    with _deaf_to_broken_pipes():
        yield from _crew(size, logs)


@contextmanager
def _deaf_to_broken_pipes() -> Iterator[None]:
    """Let the death of a process be an error of the executor: its pipe would end this process, too."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGPIPE, before)


def _crew(size: int, logs: Logs) -> Iterator[Crew]:
    context = multiprocessing.get_context("spawn")  # A fork would share the connection of this process.
    theirs, ours = context.Pipe(duplex=False)
    stopping = context.Event()
    executor = ProcessPoolExecutor(size, mp_context=context, initializer=_begin, initargs=(theirs, stopping, logs))
    hands = Crew(executor, size, stopping)
    try:
        yield hands
        executor.shutdown(wait=True)
    except BaseException as error:
        # Whereupon they end: the one that died may have held the lock of the queue by which they are told to.
        if hands.is_broken or not isinstance(error, Exception):
            ours.close()
        executor.shutdown(wait=True, cancel_futures=True)
        raise
    finally:
        ours.close()
        theirs.close()


def _begin(parent: Pipe, stopping: Event, logs: Logs) -> None:
    """Begin a process: signals are its parent's business, and it ends with it."""
    heed(stopping)
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
    set_up(logs)
    for target, arguments in ((_end_with, (parent,)), (_end_as_told, ())):
        threading.Thread(target=target, args=arguments, daemon=True).start()


def _end_with(parent: Pipe) -> None:
    """End this process when its parent does or lets go: the server rolls back what is not committed."""
    process = multiprocessing.parent_process()
    wait([parent, *([process.sentinel] if process else [])])
    os._exit(1)


def _end_as_told() -> None:
    """End this process when its parent terminates it; a SIGTERM of anybody else is meant for all of them.

    The executor does so when another process died, and waits for it with a lock held that handing out needs: the lock
    of the queue, for which this one may wait, died with the other.
    """
    while signal.sigwaitinfo([signal.SIGTERM]).si_pid != os.getppid():
        pass
    os._exit(1)
