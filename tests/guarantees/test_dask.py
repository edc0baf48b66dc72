"""Loads by the workers of a Dask cluster give the same tables as by one process, whichever worker dies."""

import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path

import psutil
import pytest

from tests.support.cases import Case
from tests.support.commands import Running
from tests.support.site import Site
from tests.support.states import assert_sound, state
from tests.support.stores import s3_replaced
from tests.support.waiting import until
from tests.support.web import web_server

RECORDS = 1_600

_LOCAL = ("--executor", "dask:local", "--workers", "2")


def _workers(running: Running) -> list[psutil.Process]:
    try:
        children = psutil.Process(running.process.pid).children(recursive=True)
        # They are forked from a child of the command.
        return [child for child in children if child.ppid() != running.process.pid and _is_forked(child)]
    except psutil.NoSuchProcess:  # It has just ended.
        return []


def _is_forked(process: psutil.Process) -> bool:
    return "multiprocessing.forkserver" in " ".join(process.cmdline())


@pytest.mark.slow
def test_a_cluster_of_this_machine_gives_the_same(site: Site, appended: Case) -> None:
    """Rows, rejected records and summary are those of one process; nothing of the cluster is left."""
    running = site.start(*appended.command, *_LOCAL, "--batch-rows", "100")
    ended = running.ended()
    assert ended.returncode == 1, ended.stderr
    assert ended.summary["records"]["read"] == RECORDS
    appended.assert_done(site)
    site.wait_for_locks()


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(10))
def test_a_load_continues_while_its_workers_are_killed(site: Site, appended: Case, seed: int) -> None:
    """Five random SIGKILLs of workers leave the exit code and the tables as they are without any."""
    rng = random.Random(seed)
    running = site.start(*appended.command, *_LOCAL, "--batch-rows", "4")
    site.wait_for_batches(2, running)
    killed = 0
    while killed < 5 and running.is_running():
        workers = _workers(running)
        if workers:
            rng.choice(workers).kill()
            killed += 1
        time.sleep(rng.random() * 0.5)
    ended = running.ended()
    assert (ended.returncode, killed) == (1, 5), ended.stderr
    appended.assert_done(site)


@pytest.mark.slow
def test_a_signal_ends_a_load_after_the_batches_in_hand(site: Site, appended: Case) -> None:
    """SIGTERM lets each worker finish its batch, leaves the other pieces alone, and the next load continues."""
    with site.gate("logistics.deliveries", "in COPY", 100_000) as gate:
        running = site.start(*appended.command, *_LOCAL, "--batch-rows", "100")
        gate.reached()
        running.signal(signal.SIGTERM)
        until(lambda: '"event": "stopping"' in running.stderr(), "the signal to be seen")
        gate.open()
        ended = running.ended()
    assert ended.returncode == 143, ended.stderr
    assert ended.summary["status"] == "incomplete"
    assert_sound(site)
    assert site.run(*appended.command).returncode == 1
    appended.assert_done(site)


@pytest.mark.slow
def test_workers_end_with_their_command(site: Site, appended: Case) -> None:
    """After kill -9 of the load its workers end, and the next load loads the rest."""
    with site.gate("logistics.deliveries", "in COPY", 100_000) as gate:
        running = site.start(*appended.command, *_LOCAL, "--batch-rows", "100")
        gate.reached()
        workers = _workers(running)
        assert len(workers) == 2
        assert running.kill()
        psutil.wait_procs(workers, timeout=20)
        assert not any(worker.is_running() for worker in workers)
        gate.open()
    site.wait_for_locks()
    assert site.run(*appended.command).returncode == 1
    appended.assert_done(site)


class Cluster:
    """A Dask scheduler and its workers, as somebody runs them beside the loads."""

    def __init__(self, folder: Path, site: Site) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.address = f"tcp://127.0.0.1:{free.getsockname()[1]}"
        self._site = site
        self._folder = folder
        self._processes: list[subprocess.Popen[bytes]] = []
        self._start("scheduler", "--host", self.address, "--no-dashboard")

    def worker(self, *options: str, env: Mapping[str, str] | None = None) -> subprocess.Popen[bytes]:
        """Start a worker."""
        return self._start("worker", self.address, "--no-nanny", "--no-dashboard", *options, env=env)

    def _start(self, *words: str, env: Mapping[str, str] | None = None) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "distributed.cli.dask_" + words[0], *words[1:]]
        variables = self._site.environment({"ETL_DATABASE_URL": None, **(env or {})})
        with (self._folder / f"{words[0]}-{len(self._processes)}.log").open("wb") as output:
            started = subprocess.Popen(command, env=variables, cwd=self._folder, stdout=output, stderr=output)
        self._processes.append(started)
        return started

    def close(self) -> None:
        """End all of it."""
        for each in reversed(self._processes):
            each.kill()
            each.wait()


@pytest.fixture
def cluster(site: Site, tmp_path: Path) -> Iterator[Cluster]:
    """Give a scheduler."""
    with ExitStack() as stack:
        cluster = Cluster(tmp_path, site)
        stack.callback(cluster.close)
        yield cluster


@pytest.mark.slow
def test_workers_of_a_scheduler_outlive_their_loads(site: Site, appended: Case, cluster: Cluster) -> None:
    """Two loads of a source, one after the other: the workers keep neither a session nor a lock of the first."""
    workers = [cluster.worker("--nthreads", "1") for _ in range(2)]
    command = (*appended.command, "--executor", f"dask:{cluster.address}", "--batch-rows", "100")
    for _ in range(2):
        ended = site.run(*command, own_process=True)
        assert ended.returncode == 1, ended.stderr
        appended.assert_done(site)
        site.wait_for_locks()
    assert [each.poll() for each in workers] == [None, None]


@pytest.mark.slow
def test_a_worker_that_ends_for_good_leaves_its_task_to_another(site: Site, appended: Case, cluster: Cluster) -> None:
    """Nobody starts it again: the other one loads the rest."""
    first, _ = [cluster.worker("--nthreads", "1") for _ in range(2)]
    running = site.start(*appended.command, "--executor", f"dask:{cluster.address}", "--batch-rows", "10")
    site.wait_for_batches(3, running)
    first.kill()
    ended = running.ended()
    assert ended.returncode == 1, ended.stderr
    appended.assert_done(site)


@pytest.mark.slow
def test_workers_that_do_not_fit_are_refused(site: Site, appended: Case, cluster: Cluster) -> None:
    """A worker with several threads is refused before anything is loaded."""
    cluster.worker("--nthreads", "2")
    ended = site.run(*appended.command, "--executor", f"dask:{cluster.address}", own_process=True)
    assert ended.returncode == 2
    assert "has 2 threads" in ended.stderr
    assert site.count_batches() == 0


@pytest.mark.slow
@pytest.mark.parametrize("sees", [True, False])
def test_workers_fetch_their_own_ranges_of_an_object(
    site: Site, appended: Case, cluster: Cluster, *, sees: bool
) -> None:
    """Workers that can read the store get places, and others get bytes; the tables are the same."""
    with s3_replaced("exports") as s3:
        s3.put_object(Bucket="exports", Key="shipments.json", Body=appended.source.read_bytes())
        access = {name: value for name, value in os.environ.items() if name.startswith("AWS_")}
        for _ in range(2):
            cluster.worker("--nthreads", "1", env=access if sees else {})
        command = [*appended.command[:2], "s3://exports/shipments.json", *appended.command[3:]]
        options = ("--executor", f"dask:{cluster.address}", "--batch-rows", "100")
        ended = site.run(*command, *options, env=access, own_process=True)
    assert ended.returncode == 1, ended.stderr
    assert [event["reads_itself"] for event in ended.events("source_seen_by_workers")] == [sees]
    found = state(site)
    assert (found.lost(appended.clean), found.doubled(appended.clean)) == (0, 0)


@pytest.mark.slow
@pytest.mark.parametrize("has_ranges", [True, False])
def test_workers_fetch_their_own_ranges_over_http(
    site: Site, appended: Case, cluster: Cluster, *, has_ranges: bool
) -> None:
    """Of a server that sends ranges workers get places, of another one bytes; the tables are the same."""
    with web_server() as web:
        web.content, web.has_ranges = appended.source.read_bytes(), has_ranges
        for _ in range(2):
            cluster.worker("--nthreads", "1")
        command = [*appended.command[:2], f"{web.url}/shipments.json", *appended.command[3:]]
        options = ("--executor", f"dask:{cluster.address}", "--batch-rows", "100")
        ended = site.run(*command, *options, own_process=True)
    assert ended.returncode == 1, ended.stderr
    assert [event["reads_itself"] for event in ended.events("source_seen_by_workers")] == [has_ranges]
    # All processes ask for the first byte; workers that wait for their ranges get bytes after some pieces.
    assert (len(web.ranges) > 6) == has_ranges
    found = state(site)
    assert (found.lost(appended.clean), found.doubled(appended.clean)) == (0, 0)


@pytest.mark.slow
def test_workers_share_a_failed_store_by_its_url(site: Site, appended: Case, cluster: Cluster) -> None:
    """Refused records are in the object store; a worker without access to it is refused before anything is loaded."""
    with s3_replaced("failures") as s3:
        access = {name: value for name, value in os.environ.items() if name.startswith("AWS_")}
        stranger = cluster.worker("--nthreads", "1", env={"AWS_ENDPOINT_URL": "http://127.0.0.1:9"})
        command = (*appended.command, "--failed-dir", "s3://failures/night", "--batch-rows", "100")
        options = ("--executor", f"dask:{cluster.address}")
        refused = site.run(*command, *options, env=access, own_process=True)
        assert refused.returncode == 2, refused.stderr
        assert "does not see the failed store s3://failures/night" in refused.stderr
        assert "with credentials on each worker" in refused.stderr
        assert "Contents" not in s3.list_objects_v2(Bucket="failures")
        assert site.count_batches() == 0
        stranger.terminate()
        stranger.wait()
        for _ in range(2):
            cluster.worker("--nthreads", "1", env=access)
        ended = site.run(*command, *options, env=access, own_process=True)
        assert ended.returncode == 1, ended.stderr
        keys = [each["Key"] for each in s3.list_objects_v2(Bucket="failures")["Contents"]]
        assert sorted(Path(key).stem for key in keys if key.endswith(".ndjson")) == sorted(site.failures.ids())
        assert len(keys) == 2 * len(site.failures.ids())


_OTHER_VERSION = "import etl.version; etl.version.__version__ = '0.0.1'"
_OTHER_DISK = (
    "import pathlib; real = pathlib.Path.exists; "
    "pathlib.Path.exists = lambda path, **given: 'probe' not in path.name and real(path, **given)"
)
_FULL_DISK = (
    "import errno; from etl.ingestion.failed_store import store; "
    "store.FailedStore.probe = lambda self: (_ for _ in ()).throw(OSError(errno.ENOSPC, 'No space left on device'))"
)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("preload", "message", "hint"),
    [
        (_FULL_DISK, "does not write to the failed store", "name a place that this machine and all workers can write"),
        (_OTHER_VERSION, "does not have this version of the program", "install the same wheel"),
        ("import sys; sys.modules['etl'] = None", "it has none or an old one", "install the same wheel"),
        (_OTHER_DISK, "does not see the failed store", "name a place that this machine and all workers can write"),
    ],
)
def test_a_worker_of_another_kind_is_refused(
    site: Site, appended: Case, cluster: Cluster, preload: str, message: str, hint: str
) -> None:
    """Another version of the program, none, or another disk: exit code 2 with what to do, and nothing is loaded."""
    cluster.worker("--nthreads", "1", "--preload", preload)
    ended = site.run(*appended.command, "--executor", f"dask:{cluster.address}", own_process=True)
    assert ended.returncode == 2, ended.stderr
    assert message in ended.stderr
    assert hint in ended.stderr
    assert "Traceback" not in ended.stderr
    assert site.count_batches() == 0


@pytest.mark.slow
def test_a_cluster_that_is_not_there_ends_a_load(site: Site, appended: Case, cluster: Cluster) -> None:
    """Without a scheduler at the address: exit code 4 with the command that starts one, and nothing is loaded."""
    cluster.close()
    ended = site.run(*appended.command, "--executor", f"dask:{cluster.address}", own_process=True)
    assert ended.returncode == 4, ended.stderr
    assert f"cannot reach the Dask scheduler at {cluster.address}" in ended.stderr
    assert "dask scheduler" in ended.stderr
    assert site.count_batches() == 0


@pytest.mark.slow
def test_a_cluster_that_dies_as_a_whole_ends_a_load(site: Site, appended: Case, cluster: Cluster) -> None:
    """When scheduler and workers are killed in the midst: exit code 4, and the same command continues without them."""
    for _ in range(2):
        cluster.worker("--nthreads", "1")
    running = site.start(*appended.command, "--executor", f"dask:{cluster.address}", "--batch-rows", "10")
    site.wait_for_batches(3, running)
    cluster.close()
    ended = running.ended()
    assert ended.returncode == 4, ended.stderr
    assert "the Dask scheduler cannot be reached any more" in ended.stderr
    assert "run the same command to continue" in ended.stderr
    assert ended.summary["status"] == "incomplete"
    assert_sound(site)
    site.wait_for_locks()
    assert site.run(*appended.command).returncode == 1
    appended.assert_done(site)


@pytest.mark.slow
def test_a_cluster_whose_workers_all_die_ends_a_load(site: Site, appended: Case, cluster: Cluster) -> None:
    """A scheduler without workers is waited for a minute; then exit code 4 says how to start one."""
    worker = cluster.worker("--nthreads", "1")
    running = site.start(*appended.command, "--executor", f"dask:{cluster.address}", "--batch-rows", "10")
    site.wait_for_batches(3, running)
    worker.kill()
    ended = running.ended(150)
    assert ended.returncode == 4, ended.stderr
    assert "has had no worker for 60 seconds" in ended.stderr
    assert "dask worker" in ended.stderr
    assert_sound(site)
    site.wait_for_locks()
    assert site.run(*appended.command).returncode == 1
    appended.assert_done(site)
