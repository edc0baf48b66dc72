"""The workers of a Dask cluster as a pool: one of this machine for one source, or an existing one on any hosts.

The ledger decides that each piece loads exactly once. The scheduler gives the task of a worker that died to another
one, which finds the batch in the ledger if the first had committed it.
"""

import asyncio
import logging
import os
import secrets
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple, cast

import cryptography  # noqa: F401 - Dask makes the keys of a cluster of this machine with it
import structlog

from etl.optional_modules import without

with without("numpy"), without("pandas"):
    import dask
    import distributed.utils
    from dask.typing import Key
    from distributed import Client, Future, LocalCluster, Worker
    from distributed.comm.core import CommClosedError
    from distributed.diagnostics.plugin import WorkerPlugin
    from distributed.scheduler import KilledWorker

from etl.errors import DatabaseError, UsageError, reason_of
from etl.ingestion.failed_store.store import FailedStore
from etl.ingestion.pipeline import fork_server, tasks
from etl.ingestion.pipeline.assembly import RunContext
from etl.ingestion.pipeline.executors import secret_environment, without_secrets
from etl.ingestion.pipeline.fetching import Range, Waiting
from etl.ingestion.pipeline.job import LOOK_SECONDS, Load, Stop
from etl.ingestion.pipeline.tasks import Task, TaskResult
from etl.ingestion.values import Piece
from etl.logs import Logs, set_up
from etl.settings import RetrySettings, Url
from etl.version import __version__

log = structlog.get_logger(__name__)

_AHEAD = 2
"""Tasks that each worker has: the one that it loads and the next."""

_CONNECT_SECONDS = 20
_WORKERS_SECONDS = 60.0
"""How long a load waits for a worker while the cluster has none."""
_LOOK_AT_WORKERS_SECONDS = 5.0

_DEATHS = 10
"""Workers that may die at one task; then the task itself ends them, as one that needs too much memory."""

_DIED = (KilledWorker, CancelledError, CommClosedError)

_CONFIG = {
    "distributed.scheduler.allowed-failures": _DEATHS,
    # A piece is sent with its task, so that no worker is needed to send it again.
    "distributed.admin.large-graph-warning-threshold": "1GB",
    "distributed.worker.daemon": True,
    # Workers are forked from a process that has imported what they need, and no other thing of the command.
    "distributed.worker.multiprocessing-method": "forkserver",
    # What watches a cluster for its pages takes a part of each core, and nobody looks at these pages.
    "distributed.worker.profile.enabled": False,
    "distributed.admin.tick.interval": "500ms",
    "distributed.admin.system-monitor.interval": "10s",
    "distributed.admin.system-monitor.gil.enabled": False,
    # Its default lets malloc give each large block back at once, and a piece is one: its pages would be made anew.
    "distributed.nanny.pre-spawn-environ": {},
    # A result is some numbers, and no task needs that of another one.
    "distributed.scheduler.active-memory-manager.start": False,
    # The pages of a cluster of this machine would need no key.
    "distributed.scheduler.http.routes": [],
    "distributed.worker.http.routes": [],
}


class _Access(NamedTuple):
    """What a worker can do in the failed store: `written` names a file that it wrote, `fault` says why it cannot."""

    sees: bool
    written: str | None
    fault: str = ""


class _Key(NamedTuple):
    """The key of a task, which a worker sees before it runs the task; `length` is 0 without a range to read."""

    load: str
    number: int
    offset: int
    length: int


def _is_url(place: str | None) -> bool:
    return place is not None and "://" in place


class _Setup(WorkerPlugin):
    """Sets up each worker for a load, also one that comes later, and gives up at the end what the load has there."""

    def __init__(self, load: str, logs: Logs, url: str | None, retries: RetrySettings, *, is_own: bool) -> None:
        self.name = load
        self._load = load
        self._logs = logs
        self._url = url
        self._retries = retries
        self._is_own = is_own

    def setup(self, worker: Worker) -> None:  # noqa: ARG002 - see WorkerPlugin
        """Let the worker log as this program does; one of this command leaves the signals to the command."""
        if self._is_own and threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM):
                signal.signal(number, signal.SIG_IGN)
        if self._is_own or not structlog.is_configured():
            set_up(self._logs)
        if self._is_own:
            _route_logs()

    def transition(self, key: Key, start: str, finish: str, **kwargs: object) -> None:  # noqa: ARG002 - see WorkerPlugin
        """Read the range of a task that this worker will run, while it runs the one before."""
        if self._url is None or not (isinstance(key, tuple) and key[0] == self._load):
            return
        _, _, offset, length = cast("_Key", key)
        if not length:
            return
        wanted = Range(self._url, offset, length)
        if finish == "ready":
            tasks.fetch_ahead(self._load, wanted, self._retries)
        elif finish in {"released", "cancelled", "forgotten"}:
            tasks.drop_ahead(self._load, wanted)

    def teardown(self, worker: Worker) -> None:  # noqa: ARG002 - see WorkerPlugin
        """Give up the sessions of the load, and their locks."""
        tasks.release(self._load)


class DaskPool:
    """The workers of a cluster; `first` returns the result of each submitted piece, in order.

    `begin` gives a connection to the cluster and the number of its workers; it is called for the first piece, because
    a source that is loaded already needs none.
    """

    def __init__(
        self, begin: Callable[[str | None], tuple[Client, int]], load: str, stop: Stop, *, is_own: bool
    ) -> None:
        self._begin = begin
        self._client: Client | None = None
        self._size = 1
        self._load = load
        self._stop = stop
        self._is_own = is_own
        self._submitted: deque[tuple[Piece, Future[TaskResult] | TaskResult]] = deque()
        self._seen: dict[str, bool] = {}
        self._waiting = Waiting()
        self._number = 0
        self._looked = time.monotonic()
        self._had_workers = self._looked

    @property
    def is_busy(self) -> bool:
        """Whether no further piece should be cut before one is done."""
        return len(self._submitted) >= _AHEAD * self._size

    @property
    def has_more(self) -> bool:
        """Whether a submitted piece is not returned yet."""
        return bool(self._submitted)

    def submit(self, context: RunContext, piece: Piece, place: str | None, waited: float) -> None:
        """Submit a piece; of a file or an object that all workers see only its place, of another source its bytes."""
        if self._client is None:
            self._client, self._size = self._begin(place)
            self._had_workers = time.monotonic()
        if place and not self._is_read_by_workers(place, waited):
            place = None
        elif place and not _is_url(place):
            place = os.path.realpath(place)
        task = Task(
            context=replace(
                context, database=without_secrets(context.database), failed_dir=_absolute(context.failed_dir)
            ),
            piece=replace(piece, parts=()) if place else piece,
            place=place,
            length=piece.length,
            hash=piece.hash,
            load=self._load,
        )
        self._number += 1
        with _explained():
            # The ledger and not the scheduler tries again; a key of its own lets no task share a result.
            key = _Key(self._load, self._number, piece.offset, piece.length if _is_url(place) else 0)
            future = self._client.submit(tasks.load_task, task, key=tuple(key), pure=False, retries=0)
        self._submitted.append((replace(piece, parts=()), future))

    def first(self, stop: Stop) -> tuple[Piece, TaskResult]:
        """Wait for the piece that was submitted first; return it without its bytes, and its result.

        The stop event ends the waits before further tries. Raises DatabaseError when workers died at it, or when the
        cluster cannot be reached.
        """
        piece, future = self._submitted.popleft()
        if isinstance(future, TaskResult):
            return piece, future
        done = self._result_of(future, stop)
        self._waiting.note(done.waited, done.seconds)
        return piece, done

    def cancel_unstarted(self) -> list[Piece]:
        """Take back the pieces that no worker has begun, and return them.

        Only a worker knows whether it has begun a task, so that its answer is waited for.
        """
        submitted, self._submitted = self._submitted, deque()
        cancelled = []
        self._tell(at_once=bool(self._stop.signal_number))
        for piece, future in submitted:
            try:
                done = future if isinstance(future, TaskResult) else self._result_of(future, self._stop)
            except DatabaseError as died:
                done = TaskResult(entry=None, error=died, retried=0)
            if done.is_begun:
                self._submitted.append((piece, done))
            else:
                cancelled.append(piece)
        return cancelled

    def _result_of(self, future: "Future[TaskResult]", stop: Stop) -> TaskResult:
        is_ending = False
        # The wait is never cut off by its own timeout: that would cancel a transfer that the next wait shares.
        waiting = asyncio.run_coroutine_threadsafe(_result_in_loop(future), future.client.loop.asyncio_loop)
        while True:
            with _explained():
                try:
                    return waiting.result(timeout=LOOK_SECONDS)
                except TimeoutError:
                    if waiting.done():  # It is the error of the task.
                        raise
                    self._require_workers()
            if stop.signal_number and not is_ending:
                is_ending = True
                self._tell(at_once=True)

    def _require_workers(self) -> None:
        """Raise DatabaseError when the cluster has had no worker for long."""
        now = time.monotonic()
        if now - self._looked < _LOOK_AT_WORKERS_SECONDS:
            return
        self._looked = now
        if self._client is not None and self._client.nthreads():
            self._had_workers = now
        elif now - self._had_workers > _WORKERS_SECONDS:
            raise _no_worker()

    def _tell(self, *, at_once: bool) -> None:
        """Let each worker begin no further task, beside its present one; nobody waits for those that are cut off."""
        if self._client is not None:
            with suppress(*_DIED, OSError, TimeoutError):
                self._client.run(_end_submitting, self._load, at_once=at_once, on_error="ignore", wait=False)

    def _is_read_by_workers(self, place: str, waited: float) -> bool:
        if not _is_url(place):
            return self._is_seen(os.path.realpath(place))
        if self._is_own:
            return False
        self._waiting.note_command(waited, time.monotonic(), self._size)
        # Workers are asked for the source only when they would read it: each makes a request for it.
        return self._waiting.is_short(self._size) and self._is_seen(place)

    def _is_seen(self, place: str) -> bool:
        """Return whether all workers see a file or an object of this size; the bytes are proven by each task.

        Workers of this machine read files only: an object would come twice over the same network.
        """
        if self._is_own or self._client is None:
            return "://" not in place
        if place not in self._seen:
            with _explained():
                found = self._client.run(_size_of, place, on_error="ignore")
            size = _size_of(place)
            self._seen[place] = size is not None and len(found) > 0 and all(each == size for each in found.values())
            log.info("source_seen_by_workers", workers=len(found), reads_itself=self._seen[place])
        return self._seen[place]


async def _result_in_loop(future: "Future[TaskResult]") -> TaskResult:
    result: TaskResult = await future
    return result


async def _end_submitting(load: str, *, at_once: bool) -> None:
    """Call `tasks.end_submitting`; Dask waits for the end of functions that are no coroutines."""
    tasks.end_submitting(load, at_once=at_once)


def _size_of(place: str) -> int | None:
    if "://" in place:
        from etl.ingestion.sources import remote  # noqa: PLC0415 - few sources are in a store

        return remote.size_by_range(place)
    try:
        return Path(place).stat().st_size
    except OSError:
        return None


@contextmanager
def _explained() -> Iterator[None]:
    try:
        yield
    except _DIED as error:
        hint = "run the same command to continue; the logs of the workers and of the scheduler say more"
        if isinstance(error, KilledWorker):
            raise DatabaseError("too many worker processes ended unexpectedly at one piece", hint=hint) from error
        raise DatabaseError("the Dask scheduler cannot be reached any more", hint=hint) from error


def _no_worker() -> DatabaseError:
    return DatabaseError(
        f"the Dask cluster has had no worker for {_WORKERS_SECONDS:.0f} seconds",
        hint="start one: dask worker ADDRESS --nthreads 1; run the same command to continue",
    )


@contextmanager
def dask_pool(load: Load, size: int, address: str | None) -> Iterator[DaskPool]:
    """Yield the workers of the scheduler at an address, or `size` workers of this machine, for one source.

    The first piece raises UsageError when the workers cannot load for this command, DatabaseError when there is none.
    """
    name = f"etl-{secrets.token_hex(4)}"
    with ExitStack() as stack:
        stack.enter_context(dask.config.set(_CONFIG))
        _route_logs()

        def begin(place: str | None) -> tuple[Client, int]:
            client = stack.enter_context(_cluster(load, size) if address is None else _connected(address))
            setup = _Setup(
                name, load.logs, place if _is_url(place) else None, load.settings.retries, is_own=address is None
            )
            count = size if address is None else _require_fitting(client, load)
            client.register_plugin(setup)
            stack.callback(_without_faults, client.unregister_worker_plugin, setup.name)
            return client, min(count, load.settings.workers or count)

        yield DaskPool(begin, name, load.stop, is_own=address is None)


def _without_faults(function: Callable[..., object], *arguments: object) -> None:
    with suppress(Exception):  # The cluster may be gone; its workers then give up their sessions themselves.
        function(*arguments)


def _route_logs() -> None:
    """Let no logger of Dask write: the results of tasks tell what happened, and some of its lines are tracebacks."""
    # asyncio reports an exception of a task of Dask that nobody waits for any more.
    libraries = ("asyncio", "distributed", "tornado")
    for name in [*libraries, *logging.root.manager.loggerDict]:
        if name.partition(".")[0] in libraries:
            logging.getLogger(name).setLevel(logging.CRITICAL + 1)


@contextmanager
def _cluster(load: Load, size: int) -> Iterator[Client]:
    """Start workers on this machine; only who has the keys of this cluster, this process, may give them tasks."""
    # Else Dask would import all that its tests need, here and there.
    distributed.utils._forkserver_preload_set = True  # noqa: SLF001 - there is no public switch
    fork_server.begin()
    try:
        started = LocalCluster(
            n_workers=size,
            threads_per_worker=1,
            processes=True,
            memory_limit=0,
            host="127.0.0.1",
            dashboard_address="127.0.0.1:0",
            security=True,
            silence_logs=logging.CRITICAL,
            # The process that they are forked from may have begun with other variables, for a load before this one.
            env={**os.environ, **secret_environment(load.database)},
        )
    except (RuntimeError, OSError, TimeoutError) as error:
        raise DatabaseError(
            "the Dask workers of this machine did not start", hint="run the same command to continue"
        ) from error
    with (
        started as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        yield client


@contextmanager
def _connected(address: str) -> Iterator[Client]:
    try:
        client = Client(address, timeout=_CONNECT_SECONDS, set_as_default=False)
    except (OSError, TimeoutError, ValueError) as error:
        raise DatabaseError(
            f"cannot reach the Dask scheduler at {address}",
            hint="start it (`dask scheduler`), and run the same command",
        ) from error
    with client:
        yield client


def _require_fitting(client: Client, load: Load) -> int:
    """Return how many workers a scheduler has, when each can load for this command.

    Raises UsageError and DatabaseError.
    """
    try:
        client.wait_for_workers(1, timeout=_WORKERS_SECONDS)
    except TimeoutError:
        raise _no_worker() from None
    _require_version(client)
    for worker, threads in client.nthreads().items():
        if threads != 1:
            raise UsageError(
                f"the worker {worker} has {threads} threads, and one loads at a time",
                hint="start it with --nthreads 1, and --nworkers N for several processes",
            )
    return _require_shared(client, load.settings.failed_dir)


def _require_version(client: Client) -> None:
    for worker, version in client.run(_version, on_error="return").items():
        if version != __version__:
            # A version without the function returns the exception of the search for it.
            got = f"it has {version}" if isinstance(version, str) else f"it has none or an old one ({_kind(version)})"
            raise UsageError(
                f"the worker {worker} does not have this version of the program, {__version__}: {got}",
                hint="install the same wheel and its extra `dask` for the scheduler and each worker",
            )


def _version() -> str:
    """Return the version of the program that a worker has. Other versions call it: it keeps its name."""
    return __version__


def _kind(error: object) -> str:
    return type(error).__name__


def _require_shared(client: Client, failed_dir: Path | Url) -> int:
    """Return the number of workers, when each sees what this process writes to the failed store, and the reverse.

    Raises UsageError.
    """
    store = FailedStore(_absolute(failed_dir))
    probe = store.probe()
    try:
        found = client.run(_try_store, _absolute(failed_dir), probe.name, on_error="return")
    finally:
        probe.unlink(missing_ok=True)
    for worker, access in found.items():
        if not isinstance(access, _Access):
            raise UsageError(f"the worker {worker} cannot use the failed store {store.folder}: {_kind(access)}")
        written = None if access.written is None else store.folder / access.written
        is_written = written is not None and written.exists()
        if written is not None:
            written.unlink(missing_ok=True)
        if not (access.sees and is_written):
            fault = "see" if not access.sees else "write to"
            why = f": {access.fault}" if access.fault else ""
            raise UsageError(
                f"the worker {worker} does not {fault} the failed store {store.folder}, where refused records must be"
                f" safe before a batch commits{why}",
                hint="name a place that this machine and all workers can write by --failed-dir or ETL_FAILED_DIR: a"
                " shared folder, or s3://BUCKET/FOLDER with credentials on each worker",
            )
    return len(found)


def _try_store(folder: Path | Url, probe: str) -> _Access:
    """Look for a file in the failed store, and write one, which the caller removes."""
    try:
        store = FailedStore(folder)
        if not (store.folder / probe).exists():
            return _Access(sees=False, written=None)
        return _Access(sees=True, written=store.probe().name)
    except OSError as error:
        return _Access(sees=isinstance(folder, Path), written=None, fault=reason_of(error))
    except UsageError as error:
        return _Access(sees=False, written=None, fault=str(error))


def _absolute(failed_dir: Path | Url) -> Path | Url:
    return failed_dir.resolve() if isinstance(failed_dir, Path) else failed_dir
