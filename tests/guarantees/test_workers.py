"""Loads by several processes give the same tables as by one, for any number and whichever process dies."""

import gzip
import random
import signal
import time
from typing import Any, LiteralString

import psutil
import pytest

from tests.support.cases import Case
from tests.support.commands import PATIENT, Running
from tests.support.records import write_shipments
from tests.support.site import Site
from tests.support.states import assert_sound
from tests.support.waiting import until

RECORDS = 1_600

_REPLACE = ("--mode", "replace", "--max-rejected", "10%")

# The session of the first process of a load with workers.
_HOLDS: LiteralString = (
    "exists (select from pg_locks l where l.pid = pg_stat_activity.pid and l.mode = 'ExclusiveLock'"
    " and locktype = 'advisory')"
)


def _start(site: Site, case: Case, *options: str) -> Running:
    return site.start(*case.command, "--batch-rows", "100", *PATIENT, *options)


def _workers(running: Running) -> list[psutil.Process]:
    """Return the processes that a load started and that hold a connection."""
    try:
        children = psutil.Process(running.process.pid).children(recursive=True)
        return [child for child in children if "spawn_main" in " ".join(child.cmdline())]
    except psutil.NoSuchProcess:  # It has just ended.
        return []


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
def test_sources_that_are_not_plain_files_are_sent_as_bytes(site: Site, appended: Case, how: str) -> None:
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
def test_a_killed_worker_ends_the_load_and_the_next_load_continues(site: Site, appended: Case, moment: Any) -> None:
    """A killed worker is exit code 4; the same command continues, also with another number of workers and rows."""
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
    site.wait_for_locks()
    assert site.run(*appended.command, "--workers", "3", "--batch-rows", "70").returncode == 1
    appended.assert_done(site)


@pytest.mark.slow
def test_workers_end_with_their_parent(site: Site, appended: Case) -> None:
    """After kill -9 of the load its workers end, and the next load loads the rest."""
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
    site.wait_for_locks()
    assert site.run(*appended.command, "--workers", "1", "--batch-rows", "250").returncode == 1
    appended.assert_done(site)


@pytest.mark.slow
def test_a_load_is_killed_repeatedly_and_resumed_with_other_numbers(site: Site, merged: Case) -> None:
    """Whichever process dies, and however many workers the next load has, the tables are those of a clean load."""
    rng = random.Random(5)
    for _ in range(8):
        running = _start(site, merged, "--workers", rng.choice(["2", "3"]), "--batch-rows", rng.choice(["40", "60"]))
        site.wait_for_batches(site.count_batches() + rng.randint(1, 5), running)
        time.sleep(rng.random() * 0.02)  # a random moment within a batch
        workers = _workers(running)
        if rng.random() < 0.5 or not workers:
            running.kill()
        else:
            rng.choice(workers).kill()
            assert running.ended().returncode in {1, 4}
        psutil.wait_procs(workers, timeout=20)
        assert_sound(site)
        site.wait_for_locks()
    assert site.run(*merged.command, "--workers", "2", "--batch-rows", "100").returncode == 1
    merged.assert_done(site)


@pytest.mark.slow
def test_a_signal_ends_a_load_of_several_after_their_batches(site: Site, appended: Case) -> None:
    """SIGTERM lets each process finish its batch; batches that were not begun are left for the next load."""
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
    """A second signal ends every process at once; their batches are rolled back."""
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
    """A worker whose connection is terminated opens another and retries the same batch."""
    with site.gate("logistics.deliveries", "in COPY", 100_000) as gate:
        running = _start(site, appended, "--workers", "2", "--json")
        site.terminate(gate.reached())
        gate.open()
        ended = running.ended()
    assert ended.returncode == 1
    assert ended.summary["batches"]["retried"] >= 1
    appended.assert_done(site)


def test_the_source_stays_held_where_only_workers_are_connected(site: Site, appended: Case) -> None:
    """When the connection that holds the source is lost, a second load finds it busy while workers load it."""
    with site.gate("logistics.deliveries", "in COPY", 100_000) as gate:
        running = _start(site, appended, "--workers", "2")
        gate.reached()
        site.terminate(site.backend(_HOLDS))
        second = site.run(*appended.command, "--batch-rows", "70")
        assert second.returncode == 6
        gate.open()
        assert running.ended().returncode == 1
    appended.assert_done(site)


@pytest.mark.parametrize("first", [(), pytest.param(_REPLACE, marks=pytest.mark.slow)], ids=["append", "replace"])
def test_a_replace_waits_for_workers_whose_first_process_lost_its_session(
    site: Site, appended: Case, first: tuple[str, ...]
) -> None:
    """While workers load, a replace of their dataset is busy although no session holds the dataset for them."""
    other = write_shipments(site.folder / "other.json", 300, seed=5)
    with site.gate("etl.separate_batches", "in COPY", when='new."offset" > 100000') as gate:
        running = _start(site, appended, "--workers", "2", *first)
        gate.reached()
        site.terminate(site.backend(_HOLDS))
        second = site.run("load", "deliveries", other, *_REPLACE)
        assert second.returncode == 6, second.stderr
        gate.open()
        assert running.ended().returncode == 1
    appended.assert_done(site)


def test_a_database_that_is_away_ends_all_of_them(site: Site, appended: Case) -> None:
    """When the database refuses connections for good, the exit code is 4, and the same command continues later."""
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
