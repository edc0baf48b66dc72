"""The pool of worker processes, and the tasks that it gets."""

import os
import pickle
import signal
import subprocess
import time
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from threading import Event
from typing import Any, cast

import psycopg
import pytest

from etl.database.connecting import Database
from etl.datasets import find
from etl.errors import DatabaseError, InterruptedByUserError, SourceError
from etl.ingestion.ledger import runs
from etl.ingestion.pipeline.assembly import RunContext
from etl.ingestion.pipeline.job import Stop
from etl.ingestion.pipeline.pool import WorkerPool, worker_pool
from etl.ingestion.pipeline.tasks import Task, TaskResult, load_task
from etl.ingestion.values import Piece, hash_of
from etl.logs import Logs
from etl.settings import RetrySettings
from tests.support.site import Site
from tests.support.waiting import until


def _work(site: Site, run: runs.Run) -> RunContext:
    return RunContext(
        database=Database(conninfo=site.conninfo),
        dataset=find("vehicles", site.folder / "config"),
        run=run,
        source="vehicles.ndjson",
        mode="append",
        failed_dir=site.store,
        decoder="auto",
        retries=RetrySettings(attempts=1, base_seconds=0.001, cap_seconds=0.001),
    )


def _open_run(connection: psycopg.Connection[Any]) -> runs.Run:
    new = runs.NewRun(
        dataset="vehicles",
        source="vehicles.ndjson",
        source_bytes=0,
        definition_hash="0",
        mode="append",
        is_atomic=False,
        is_forced=False,
    )
    return runs.start(connection, new, runs.AttemptRequest(source="vehicles.ndjson", folder="/", options=""))


def test_any_executor_runs_a_task_of_plain_values(site: Site) -> None:
    """A task survives pickling, is small for a file that can be read again, and runs on any executor of Python."""
    path = site.folder / "vehicles.ndjson"
    path.write_bytes(b"".join(b'{"vehicle_id":"V%d"}\n' % number for number in range(100)))
    data = path.read_bytes().rstrip()
    with site.connect() as connection:
        run = _open_run(connection)
        piece = Piece(offset=0, count=100, first_record=1, parts=(data,), shape="lines", blocks=((0, len(data)),))
        with ThreadPoolExecutor(1) as executor:
            pool = WorkerPool(executor, 1, cast(Any, Event()))
            pool.submit(_work(site, run), piece, str(path), 0.0)
            [(_, future)] = pool._submitted
            assert pool.has_more
            found, done = pool.first(Stop())
        assert (found.offset, done.error, future.done()) == (0, None, True)
        assert done.entry is not None
        assert (done.entry.loaded, done.entry.rows) == (100, (100,))
        assert site.value("select count(*) from logistics.vehicles") == 100
    task = Task(context=_work(site, run), piece=piece, place=None, length=len(data), hash=hash_of(data))
    assert pickle.loads(pickle.dumps(task)) == task  # noqa: S301 - our own
    assert task.context.database.conninfo not in repr(piece)


def test_a_file_that_changes_under_its_workers_is_reported(site: Site) -> None:
    """A worker that reads other bytes than the checked ones loads none of them."""
    path = site.folder / "vehicles.ndjson"
    path.write_bytes(b'{"vehicle_id":"V1"}\n')
    with site.connect() as connection:
        work = _work(site, _open_run(connection))
    piece = Piece(offset=0, count=1, first_record=1, parts=(), shape="lines", blocks=((0, 19),))
    done = load_task(Task(context=work, piece=piece, place=str(path), length=19, hash=hash_of(b'{"vehicle_id":"V2"}')))
    assert isinstance(done.error, SourceError)
    assert "changed while it was read, at byte 0" in str(done.error)
    assert site.value("select count(*) from logistics.vehicles") == 0


@pytest.mark.parametrize(
    "error",
    [DatabaseError("away", hint="later"), InterruptedByUserError("stopped", signal_number=15, hint="again")],
)
def test_an_error_keeps_its_content_between_processes(error: DatabaseError | InterruptedByUserError) -> None:
    """The message, hint and exit code of an error are the same in the other process."""
    again = pickle.loads(pickle.dumps(error))  # noqa: S301 - our own
    assert (type(again), str(again), again.hint, again.exit_code) == (
        type(error),
        str(error),
        error.hint,
        error.exit_code,
    )


def _is_broken(executor: Executor) -> bool:
    try:
        executor.submit(os.getpid)
    except BrokenProcessPool:
        return True
    return False


def _lose_one(pool: WorkerPool, which: int) -> None:
    """Kill one of two idle processes, and wait for the task that was submitted."""
    assert isinstance(pool._executor, ProcessPoolExecutor)
    for each in [pool._executor.submit(time.sleep, 0.5) for _ in range(2)]:
        each.result()
    time.sleep(0.3)  # Both are idle after that time; no state shows it.
    os.kill(list(pool._executor._processes)[which], signal.SIGKILL)
    until(partial(_is_broken, pool._executor), "the executor to notice", pause=0.05)
    broken: Future[TaskResult] = Future()
    broken.set_exception(BrokenProcessPool())
    pool._submitted.append((Piece(offset=0, count=0, first_record=1, parts=(), shape="lines"), broken))
    pool.first(Stop())


@pytest.mark.parametrize("which", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_a_worker_killed_while_idle_blocks_no_other(which: int) -> None:
    """The first idle worker holds the lock of the queue: if one of them is killed, the others end, too."""
    began = time.monotonic()
    with pytest.raises(DatabaseError), worker_pool(2, Logs(level="warning")) as pool:
        _lose_one(pool, which)
    assert time.monotonic() - began < 30


def test_only_the_parent_can_terminate_a_worker() -> None:
    """A SIGTERM to all processes does not end the workers: the parent finishes their batches, its executor ends one."""
    with worker_pool(1, Logs(level="warning")) as pool:
        executor = pool._executor
        assert isinstance(executor, ProcessPoolExecutor)
        executor.submit(os.getpid).result()
        [(pid, process)] = executor._processes.items()
        for _ in range(2):
            subprocess.run(["kill", "-TERM", str(pid)], check=True)
            assert executor.submit(os.getpid).result() == pid
        # One that comes while another is not handled yet would be lost.
        subprocess.run(["kill", "-STOP", str(pid)], check=True)
        subprocess.run(["kill", "-TERM", str(pid)], check=True)
        process.terminate()
        until(lambda: process.exitcode is not None, "the worker to end")
