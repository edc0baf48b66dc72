"""The process that loads what the buffer has: it is started by the collector, and ends with it."""

import multiprocessing
import os
import signal
import threading
import time
import traceback
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection as Pipe
from multiprocessing.context import SpawnProcess
from pathlib import Path

import structlog

from etl import datasets, standard_streams
from etl.collecting.buffers import Keep, Reader, Store, UnreadableError
from etl.collecting.loading import StreamLoader
from etl.database.connecting import Database
from etl.errors import BusyError, EtlError, ExitCode
from etl.ingestion.failed_store.store import FailedStore
from etl.ingestion.pipeline.freshening import Refresher
from etl.ingestion.pipeline.job import Load, Stop
from etl.ingestion.pipeline.targets import Target
from etl.logs import Logs, set_up
from etl.settings import LoadSettings

_POLL_SECONDS = 0.03
_NOTE_SECONDS = 0.5
_PAUSES = (0.1, 10.0)
"""How long a dataset waits after an error: the first time, and at most."""
DRAIN_SECONDS = 30.0
_AGAIN_SECONDS = (1.0, 30.0)

log = structlog.get_logger(__name__)


@dataclass(frozen=True, kw_only=True)
class Work:
    """What a loader process needs: a plain value.

    `refresh_seconds`: the aggregates are refreshed at most so often; 0: others refresh them.
    """

    database: Database
    config_dir: Path
    store: Store
    settings: LoadSettings
    keep: Keep
    refresh_seconds: float
    logs: Logs


class Lag:
    """What waits to be loaded, as the loader process counts it: events, their bytes, and the seconds of the oldest.

    It has no lock: a process that is killed would keep it.
    """

    def __init__(self) -> None:
        self._counts = multiprocessing.get_context("spawn").RawArray("d", 3)

    def note(self, waiting_bytes: int, seconds: float, events: int) -> None:
        """Note what waits."""
        self._counts[0], self._counts[1], self._counts[2] = waiting_bytes, seconds, events

    @property
    def events(self) -> int:
        """The durable events that are not loaded."""
        return int(self._counts[2])

    @property
    def bytes(self) -> int:
        """The bytes of the durable events that are not loaded."""
        return int(self._counts[0])

    @property
    def seconds(self) -> float:
        """The age of the oldest of them."""
        return float(self._counts[1])


class _Dataset:
    """The loader of one dataset, and how long it waits after an error."""

    def __init__(self, work: Work, name: str, reader: Reader, store: FailedStore) -> None:
        self._work = work
        self._name = name
        self._reader = reader
        self._store = store
        self._loader: StreamLoader | None = None
        self._read_at = 0.0
        self._not_before = 0.0
        self._pause = _PAUSES[0]
        self._reported = ""
        self._positions: dict[str, int] = {}

    def load_next(self) -> bool:
        """Load the next group; return whether there was one. An error is logged once, and the events wait."""
        if time.monotonic() < self._not_before:
            return False
        try:
            loaded = self._ready().load_next()
        except UnreadableError as error:
            self._wait(str(error), error.hint)
            return False
        except EtlError as error:
            self._wait(str(error), error.hint, is_brief=isinstance(error, BusyError))
            return False
        self._pause, self._reported = _PAUSES[0], ""
        if loaded is not None:
            log.debug("group_loaded", **vars(loaded))
        return loaded is not None

    @property
    def tables(self) -> list[str]:
        """The tables of the dataset."""
        return [] if self._loader is None else self._loader.tables

    def lag(self) -> tuple[int, float, int]:
        """Return the bytes that wait, for how many seconds the oldest of them has waited, and how many events they are.

        While the database is away its positions are those of before; without any, everything in the buffer counts.
        """
        if self._loader is not None:
            self._positions.update(self._loader.positions)
        size, age, events = 0, 0.0, 0
        with suppress(FileNotFoundError, UnreadableError):  # The next group reports it.
            for stream in self._reader.streams(self._name):
                position = self._positions.get(stream.name, 0)
                waits, seconds = stream.waiting(position)
                if waits:
                    size, age = size + waits, max(age, seconds)
                    events += stream.waiting_events(position)
        return size, age, events

    def _ready(self) -> StreamLoader:
        """Return the loader. A definition that could not be loaded is read again."""
        if self._loader is None:
            work = self._work
            target = Target.of(datasets.find(self._name, work.config_dir), None, work.settings)
            load = Load(database=work.database, settings=work.settings, targets=[target], stop=Stop(), logs=work.logs)
            self._loader = StreamLoader(load, target, self._reader, self._store, work.keep)
        return self._loader

    def _wait(self, reason: str, hint: str | None, *, is_brief: bool = False) -> None:
        """Wait before the next try; after an error that a person has to end, begin anew."""
        if reason != self._reported:
            self._reported = reason
            log.warning("loading_waits", dataset=self._name, reason=reason, hint=hint)
        self._pause = _PAUSES[0] if is_brief else min(2 * self._pause, _PAUSES[1])
        self._not_before = time.monotonic() + self._pause
        if not is_brief:
            self.close()

    def close(self) -> None:
        """Close the session."""
        if self._loader is not None:
            self._loader.close()
            self._loader = None


def work_on(work: Work, stopping: threading.Event, lag: Lag) -> None:
    """Load what the buffer has until the event is set, and then what is left, for some seconds at most."""
    loaders: dict[str, _Dataset] = {}
    deadline = float("inf")
    noted_at = 0.0
    refresher = Refresher(work.database, work.config_dir, work.settings.retries, work.refresh_seconds)
    with FailedStore(work.settings.failed_dir) as store, refresher, closing(work.store.reader()) as reader:
        store.prepare()
        known = _Known(reader)
        while time.monotonic() < deadline:
            has_loaded = False
            for name in known.all():
                each = loaders.setdefault(name, _Dataset(work, name, reader, store))
                if each.load_next():
                    has_loaded = True
                    refresher.note(each.tables)
            if time.monotonic() - noted_at >= _NOTE_SECONDS:
                _note(lag, loaders.values())
                noted_at = time.monotonic()
            if stopping.is_set():
                if not has_loaded:
                    break
                deadline = min(deadline, time.monotonic() + DRAIN_SECONDS)
            elif not has_loaded:
                stopping.wait(_POLL_SECONDS)
        _note(lag, loaders.values())
        for each in loaders.values():
            each.close()


class _Known:
    """The datasets that a buffer has; while it cannot be read, those that were known last."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader
        self._names: list[str] = []
        self._reported = ""

    def all(self) -> list[str]:
        """Return the names of the datasets."""
        try:
            self._names, self._reported = self._reader.datasets(), ""
        except UnreadableError as error:
            if str(error) != self._reported:
                self._reported = str(error)
                log.warning("loading_waits", reason=str(error), hint=error.hint)
        return self._names


def _note(lag: Lag, loaders: Iterable[_Dataset]) -> None:
    """Note what waits in all datasets."""
    waiting = [each.lag() for each in loaders]
    lag.note(
        sum(size for size, _, _ in waiting),
        max((age for _, age, _ in waiting), default=0.0),
        sum(events for _, _, events in waiting),
    )


def _run(work: Work, parent: Pipe, lag: Lag) -> None:
    """Be the process: its parent takes the signals, and it ends with its parent."""
    standard_streams.install()
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    set_up(work.logs)
    stopping = threading.Event()
    threading.Thread(target=_listen, args=(parent, stopping), daemon=True).start()
    try:
        work_on(work, stopping, lag)
    except Exception as error:  # noqa: BLE001 - the collector starts another process; the text may quote an event
        frames = traceback.format_tb(error.__traceback__)
        log.error("unexpected_fault", fault=type(error).__name__, frames=frames)  # noqa: TRY400 - without the text
        raise SystemExit(ExitCode.INTERNAL_FAULT) from None


def _listen(parent: Pipe, stopping: threading.Event) -> None:
    """Set the event when the parent says so; end this process when its parent has ended.

    The server rolls back the open transaction then.
    """
    try:
        parent.recv_bytes()
        stopping.set()
        parent.recv_bytes()
    except (EOFError, OSError):
        os._exit(1)


class Loading:
    """The loader process of a collector, which is started again when it ends by itself."""

    def __init__(self, work: Work) -> None:
        self._work = work
        self._context = multiprocessing.get_context("spawn")
        self._process: SpawnProcess | None = None
        self._pipe: Pipe | None = None
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self.lag = Lag()
        self._watcher = threading.Thread(target=self._watch, name="etl-loading", daemon=True)

    @property
    def is_alive(self) -> bool:
        """Whether the process runs."""
        return self._process is not None and self._process.is_alive()

    def _start(self) -> SpawnProcess:
        theirs, ours = self._context.Pipe(duplex=False)
        process = self._context.Process(target=_run, args=(self._work, theirs, self.lag), name="etl-loading")
        with self._lock:
            process.start()
            theirs.close()
            if self._pipe is not None:
                self._pipe.close()
            self._process, self._pipe = process, ours
            if self._ended.is_set():
                self._tell()
        return process

    def _tell(self) -> None:
        """Let the process load what is left, and end."""
        with suppress(OSError):
            if self._pipe is not None:
                self._pipe.send_bytes(b"end")

    def _watch(self) -> None:
        """Start the process again when it died, after a pause that grows."""
        pause = _AGAIN_SECONDS[0]
        while not self._ended.is_set():
            begun = time.monotonic()
            process = self._start()
            process.join()
            if self._ended.is_set():
                return
            pause = _AGAIN_SECONDS[0] if time.monotonic() - begun > _AGAIN_SECONDS[1] else pause
            log.error("loading_died", exit_code=process.exitcode, seconds=pause, then="it is started again")
            self._ended.wait(pause)
            pause = min(2 * pause, _AGAIN_SECONDS[1])

    @contextmanager
    def running(self) -> Iterator["Loading"]:
        """Run the process until the context ends; then it loads what is left, for some seconds at most."""
        self._watcher.start()
        try:
            yield self
        finally:
            with self._lock:
                self._ended.set()
                self._tell()
            self._watcher.join(DRAIN_SECONDS + 10)
            if self.is_alive and self._process is not None:
                self._process.kill()
