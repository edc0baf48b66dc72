"""Loads by several processes: the same tables as by one, whatever number, and whichever of them dies."""

import gzip
import os
import pickle
import random
import signal
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from pathlib import Path
from threading import Event
from typing import Any, cast

import psutil
import psycopg
import pytest

from etl.database.connecting import Database
from etl.datasets import find
from etl.embedded import Server
from etl.errors import DatabaseError, InterruptedByUserError, SourceError
from etl.ingestion.ledger import runs
from etl.ingestion.pipeline.assembly import Done, Task, Work, load_task
from etl.ingestion.pipeline.pool import WorkerPool, worker_pool
from etl.ingestion.pipeline.stopping import Stop
from etl.ingestion.values import Piece, hash_of
from etl.logs import Logs
from etl.settings import RetrySettings
from tests.support.breaking import (
    PATIENT,
    Case,
    Databases,
    Running,
    Site,
    assert_sound,
    clean_case,
    databases_of,
    until,
)

RECORDS = 1_600


@pytest.fixture(scope="module")
def databases(server: Server) -> Databases:
    """Give fresh databases of the server."""
    return databases_of(server)


@pytest.fixture
def site(databases: Databases, tmp_path: Path) -> Iterator[Site]:
    """Give a site to a test."""
    with databases.site(tmp_path) as site:
        yield site


@pytest.fixture(scope="module")
def merged(databases: Databases, tmp_path_factory: pytest.TempPathFactory) -> Case:
    """Give a source that is merged."""
    return clean_case(databases, tmp_path_factory.mktemp("merged"), "shipments", RECORDS)


@pytest.fixture(scope="module")
def appended(databases: Databases, tmp_path_factory: pytest.TempPathFactory) -> Case:
    """Give a source that is appended."""
    return clean_case(databases, tmp_path_factory.mktemp("appended"), "deliveries", RECORDS)


def _start(site: Site, case: Case, *options: str) -> Running:
    return site.start(*case.command, "--batch-rows", "100", *PATIENT, *options)


def _workers(running: Running) -> list[psutil.Process]:
    """Return the processes that a load started and that hold a connection."""
    try:
        children = psutil.Process(running.process.pid).children(recursive=True)
        return [child for child in children if "spawn_main" in " ".join(child.cmdline())]
    except psutil.NoSuchProcess:  # It has just ended.
        return []


def _wait_for_batches(site: Site, running: Running, batches: int) -> None:
    """Wait until so many batches are in, or the load has ended."""
    until(lambda: site.count_batches() >= batches or not running.is_running(), f"{batches} batches")


@pytest.mark.parametrize(
    ("name", "workers"),
    [("merged", "2"), *(pytest.param(*each, marks=pytest.mark.slow) for each in (("merged", "5"), ("appended", "5")))],
)
def test_any_number_of_workers_gives_the_same(
    site: Site, name: str, workers: str, request: pytest.FixtureRequest
) -> None:
    """Rows, rejected records and summary do not depend on the number of processes."""
    case: Case = request.getfixturevalue(name)
    ended = _start(site, case, "--workers", workers, "--json").ended()
    assert ended.returncode == 1
    assert ended.summary["records"]["read"] == RECORDS
    case.assert_done(site)


@pytest.mark.parametrize("how", ["gz", *(pytest.param(each, marks=pytest.mark.slow) for each in ("stdin", "ijson"))])
def test_what_is_no_plain_file_is_carried_as_bytes(site: Site, appended: Case, how: str) -> None:
    """A compressed file, standard input and the checked path are loaded by several processes as well."""
    options = ["--workers", "2", "--batch-rows", "100", "--max-rejected", "100%"]
    if how == "stdin":
        running = site.start("load", "deliveries", "-", *options)
        assert running.process.stdin
        running.process.stdin.write(appended.source.read_bytes())
    elif how == "gz":
        path = site.folder / "shipments.json.gz"
        path.write_bytes(gzip.compress(appended.source.read_bytes()))
        running = site.start("load", "deliveries", path, *options)
    else:
        running = site.start("load", "deliveries", appended.source, *options, "--decoder", "ijson")
    assert running.ended().returncode == 1
    appended.assert_done(site)


@pytest.mark.parametrize("moment", ["in COPY", pytest.param("in COMMIT", marks=pytest.mark.slow)])
def test_a_worker_that_is_killed_ends_the_load_and_another_goes_on(site: Site, appended: Case, moment: Any) -> None:
    """A killed process is exit 4; the same command goes on, also with another number of workers and rows."""
    with site.gate("logistics.deliveries", moment, 100_000) as gate:
        running = _start(site, appended, "--workers", "2")
        gate.reached()
        until(lambda: site.count_batches() >= 2, "batches of the other process")
        [first, *_] = _workers(running)
        first.kill()
        gate.open()
        ended = running.ended()
    assert ended.returncode == 4
    assert "a worker process ended unexpectedly" in ended.stderr
    assert_sound(site)
    until(lambda: not site.ask("select from pg_locks where locktype = 'advisory' and objid <> 42"), "free locks")
    assert site.run(*appended.command, "--workers", "3", "--batch-rows", "70").returncode == 1
    appended.assert_done(site)


def test_workers_end_with_their_parent(site: Site, appended: Case) -> None:
    """After kill -9 of the load nothing of it goes on, and the next one brings in the rest."""
    with site.gate("logistics.deliveries", "in COPY", 100_000) as gate:
        running = _start(site, appended, "--workers", "2")
        gate.reached()
        workers = _workers(running)
        assert len(workers) == 2
        assert running.kill()
        psutil.wait_procs(workers, timeout=20)
        assert not any(worker.is_running() for worker in workers)
        gate.open()
    assert_sound(site)
    until(lambda: not site.ask("select from pg_locks where locktype = 'advisory' and objid <> 42"), "free locks")
    assert site.run(*appended.command, "--workers", "1", "--batch-rows", "250").returncode == 1
    appended.assert_done(site)


@pytest.mark.slow
def test_killed_again_and_again_and_resumed_by_other_numbers(site: Site, merged: Case) -> None:
    """Whichever process dies at whichever moment, and however many go on: the tables are those of a clean load."""
    rng = random.Random(5)
    for _ in range(8):
        running = _start(site, merged, "--workers", rng.choice(["2", "3"]), "--batch-rows", rng.choice(["40", "60"]))
        _wait_for_batches(site, running, site.count_batches() + rng.randint(1, 5))
        time.sleep(rng.random() * 0.02)
        workers = _workers(running)
        if rng.random() < 0.5 or not workers:
            running.kill()
        else:
            rng.choice(workers).kill()
            assert running.ended().returncode in {1, 4}
        psutil.wait_procs(workers, timeout=20)
        assert_sound(site)
        until(lambda: not site.ask("select from pg_locks where locktype = 'advisory'"), "free locks")
    assert site.run(*merged.command, "--workers", "2", "--batch-rows", "100").returncode == 1
    merged.assert_done(site)


def test_a_signal_ends_a_load_of_several_after_their_batches(site: Site, appended: Case) -> None:
    """SIGTERM lets each process bring its batch to its end; what was handed out and not begun is left."""
    with site.gate("logistics.deliveries", "in COPY", 100_000) as gate:
        running = _start(site, appended, "--workers", "2", "--json")
        gate.reached()
        running.signal(signal.SIGTERM)
        until(lambda: '"event": "stopping"' in running.stderr(), "the signal to be seen")
        gate.open()
        ended = running.ended()
    assert ended.returncode == 143
    assert ended.summary["status"] == "incomplete"
    assert_sound(site)
    assert site.run(*appended.command, "--workers", "2", "--batch-rows", "100").returncode == 1
    appended.assert_done(site)


def test_a_second_signal_ends_all_at_once(site: Site, appended: Case) -> None:
    """Who does not want to wait for the batches ends every process; what they held is rolled back."""
    with site.gate("logistics.deliveries", "in COPY", 100_000) as gate:
        running = _start(site, appended, "--workers", "2")
        gate.reached()
        running.signal(signal.SIGTERM)
        until(lambda: '"event": "stopping"' in running.stderr(), "the signal to be seen")
        running.signal(signal.SIGTERM)
        assert running.ended(20).returncode == 143
        gate.open()
    assert_sound(site)


def test_backends_that_end_cost_their_batches_a_retry(site: Site, appended: Case) -> None:
    """A process whose connection is terminated opens another and goes on with the same batch."""
    with site.gate("logistics.deliveries", "in COPY", 100_000) as gate:
        running = _start(site, appended, "--workers", "2", "--json")
        site.terminate(gate.reached())
        gate.open()
        ended = running.ended()
    assert ended.returncode == 1
    assert ended.summary["batches"]["retried"] >= 1
    appended.assert_done(site)


def test_the_source_stays_held_where_only_workers_are_connected(site: Site, appended: Case) -> None:
    """When the connection that holds the source is lost, a second load still finds it busy while workers load it."""
    with site.gate("logistics.deliveries", "in COPY", 100_000) as gate:
        running = _start(site, appended, "--workers", "2")
        gate.reached()
        holder = site.backend(
            "exists (select from pg_locks l where l.pid = pg_stat_activity.pid and l.mode = 'ExclusiveLock'"
            " and locktype = 'advisory')"
        )
        site.terminate(holder)
        second = site.run(*appended.command, "--batch-rows", "70")
        assert second.returncode == 6
        gate.open()
        assert running.ended().returncode == 1
    appended.assert_done(site)


def test_a_database_that_is_away_ends_all_of_them(site: Site, appended: Case) -> None:
    """When the database refuses connections for good, the load is exit 4, and the same command goes on later."""
    with site.gate("logistics.deliveries", "in COPY", 100_000) as gate:
        running = _start(site, appended, "--workers", "2", "--retry-attempts", "2")
        backend = gate.reached()
        site.allow_connections(allowed=False)
        site.terminate(backend)
        gate.open()
        ended = running.ended()
        site.allow_connections(allowed=True)
    assert ended.returncode == 4
    assert_sound(site)
    assert site.run(*appended.command, "--batch-rows", "70").returncode == 1
    appended.assert_done(site)


def _work(site: Site, run: runs.Run) -> Work:
    return Work(
        database=Database(conninfo=site.conninfo),
        dataset=find("vehicles", site.folder / "config"),
        run=run,
        source="vehicles.ndjson",
        head_sha256="0" * 64,
        mode="append",
        failed_dir=site.store,
        decoder="auto",
        retries=RetrySettings(attempts=1, base_seconds=0.001, cap_seconds=0.001),
    )


def _open_run(connection: psycopg.Connection[Any]) -> runs.Run:
    identity = runs.Identity(
        dataset="vehicles",
        source="vehicles.ndjson",
        head_sha256="0" * 64,
        head_bytes=0,
        source_bytes=0,
        definition_hash="0",
        mode="append",
        is_atomic=False,
        is_forced=False,
    )
    return runs.start(connection, identity, runs.AttemptRequest(source="vehicles.ndjson", folder="/", options=""))


def test_any_executor_loads_what_is_plain_values(site: Site) -> None:
    """A task survives pickling, is small where the file can be read again, and any executor of Python brings it in."""
    path = site.folder / "vehicles.ndjson"
    path.write_bytes(b"".join(b'{"vehicle_id":"V%d"}\n' % number for number in range(100)))
    data = path.read_bytes().rstrip()
    with site.connect() as connection:
        run = _open_run(connection)
        piece = Piece(offset=0, count=100, first_record=1, parts=(data,), shape="lines", blocks=((0, len(data)),))
        with ThreadPoolExecutor(1) as executor:
            pool = WorkerPool(executor, 1, cast(Any, Event()))
            pool.submit(_work(site, run), piece, str(path))
            [(_, future)] = pool._submitted
            assert pool.has_more
            found, done = pool.first(Stop())
        assert (found.offset, done.error, future.done()) == (0, None, True)
        assert done.entry is not None
        assert (done.entry.loaded, done.entry.rows) == (100, (100,))
        assert site.value("select count(*) from logistics.vehicles") == 100
    task = Task(work=_work(site, run), piece=piece, path=None, length=len(data), hash=hash_of(data))
    assert pickle.loads(pickle.dumps(task)) == task  # noqa: S301 - our own
    assert task.work.database.conninfo not in repr(piece)


def test_a_file_that_changes_under_its_workers_is_told(site: Site) -> None:
    """A worker that finds other bytes than the ones that were proven loads none of them."""
    path = site.folder / "vehicles.ndjson"
    path.write_bytes(b'{"vehicle_id":"V1"}\n')
    with site.connect() as connection:
        work = _work(site, _open_run(connection))
    piece = Piece(offset=0, count=1, first_record=1, parts=(), shape="lines", blocks=((0, 19),))
    done = load_task(Task(work=work, piece=piece, path=str(path), length=19, hash=hash_of(b'{"vehicle_id":"V2"}')))
    assert isinstance(done.error, SourceError)
    assert "changed while it was read, at byte 0" in str(done.error)
    assert site.value("select count(*) from logistics.vehicles") == 0


@pytest.mark.parametrize(
    "error",
    [DatabaseError("away", hint="later"), InterruptedByUserError("stopped", signal_number=15, hint="again")],
)
def test_an_error_travels_with_all_that_it_tells(error: DatabaseError | InterruptedByUserError) -> None:
    """Message, hint and exit code of an error are the same on the other side of a process."""
    again = pickle.loads(pickle.dumps(error))  # noqa: S301 - our own
    assert (type(again), str(again), again.hint, again.exit_code) == (
        type(error),
        str(error),
        error.hint,
        error.exit_code,
    )


def _lose_one(pool: WorkerPool, which: int) -> None:
    """Kill one of two processes that wait for work, and wait for what was handed to it."""
    assert isinstance(pool._executor, ProcessPoolExecutor)
    for each in [pool._executor.submit(time.sleep, 0.5) for _ in range(2)]:
        each.result()
    time.sleep(0.3)
    os.kill(list(pool._executor._processes)[which], signal.SIGKILL)
    with suppress(BrokenProcessPool):
        for _ in range(100):
            time.sleep(0.05)
            pool._executor.submit(os.getpid)
    broken: Future[Done] = Future()
    broken.set_exception(BrokenProcessPool())
    pool._submitted.append((Piece(offset=0, count=0, first_record=1, parts=(), shape="lines"), broken))
    pool.first(Stop())


@pytest.mark.parametrize("which", [0, 1])
def test_a_worker_that_dies_while_it_waits_for_work_keeps_nobody(which: int) -> None:
    """The one that waits first holds the lock of the queue: whichever of them is killed, the others end, too."""
    began = time.monotonic()
    with pytest.raises(DatabaseError), worker_pool(2, Logs(level="warning")) as pool:
        _lose_one(pool, which)
    assert time.monotonic() - began < 30


def test_only_the_parent_can_terminate_a_worker() -> None:
    """A SIGTERM to all processes leaves the batches in their pool to the parent; the executor's own ends one."""
    with worker_pool(1, Logs(level="warning")) as pool:
        executor = pool._executor
        assert isinstance(executor, ProcessPoolExecutor)
        executor.submit(os.getpid).result()
        [(pid, process)] = executor._processes.items()
        for _ in range(2):
            subprocess.run(["kill", "-TERM", str(pid)], check=True)
            assert executor.submit(os.getpid).result() == pid
        process.terminate()
        process.join(10)
        assert process.exitcode == 1
