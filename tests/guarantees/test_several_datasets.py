"""Loads of several datasets that are killed, cut off or stopped: each dataset is complete or can be completed."""

import random
import signal
import time
from pathlib import Path

import pytest

from tests.support.commands import PATIENT
from tests.support.databases import Databases
from tests.support.exports import BOTH, FILE, LOADED, document, ends_of, load_export, put, put_records
from tests.support.site import Site
from tests.support.states import assert_sound, state
from tests.support.waiting import until


@pytest.mark.slow
@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_killed_load_of_several_datasets_is_resumed(
    databases: Databases, site: Site, tmp_path: Path, workers: str
) -> None:
    """A load that is killed repeatedly, and resumed with other batch sizes, gives the tables of single loads."""
    content = document(4_000, 2_500)
    with databases.site(tmp_path / "clean") as clean:
        (clean.folder / FILE).write_bytes(content)
        for dataset in BOTH.split(","):
            load_export(clean, "--records", f"{dataset}.item", "--batch-rows", "1000", datasets=dataset)
        expected = state(clean)
    put(site, content)
    rng = random.Random(5)
    words = ["load", BOTH, FILE, "--json", "--no-precalculate", "--workers", workers]
    for _ in range(6):
        running = site.start(*words, "--batch-rows", rng.choice(("40", "60", "90")))
        site.wait_for_batches(site.count_batches() + rng.randint(2, 12), running)
        time.sleep(rng.random() * 0.02)  # a random moment within a batch
        running.kill()
        assert_sound(site)
    until(lambda: load_export(site, "--batch-rows", "250", "--workers", workers).returncode != 6, "the source")
    assert ends_of(load_export(site)) == dict.fromkeys(BOTH.split(","), ("already_loaded", 1))
    assert state(site) == expected


def test_a_session_that_is_lost_while_it_waits_is_opened_again(site: Site) -> None:
    """A firewall ends the idle session of a dataset whose records come last: it is opened again, with its lock."""
    put(site, document(400, 3_000, bad=0))  # one delivery can never load
    words = ["load", BOTH, FILE, "--json", "--no-precalculate", "--workers", "1", "--batch-rows", "50", *PATIENT]
    with site.gate("logistics.vehicle_logs", "in COPY") as gate:
        running = site.start(*words)
        gate.reached()
        site.terminate(site.backend("state = 'idle' and application_name = 'etl'"))
        gate.open()
        ended = running.ended()
    assert (ended.returncode, ends_of(ended)) == (1, LOADED | {"vehicle_logs": ("loaded", 0)}), ended.stderr
    assert_sound(site)
    assert site.value("select count(*) from logistics.deliveries") == 399


@pytest.mark.slow
def test_lost_connections_are_opened_again(databases: Databases, site: Site, tmp_path: Path) -> None:
    """A load whose busy or idle backends are terminated retries, and loads all its datasets."""
    content = document(6_000, 4_000)
    with databases.site(tmp_path / "clean") as clean:
        (clean.folder / FILE).write_bytes(content)
        assert load_export(clean, "--batch-rows", "1000").returncode == 1
        expected = state(clean)
    put(site, content)
    words = ["load", BOTH, FILE, "--json", "--no-precalculate", "--workers", "1", "--batch-rows", "50", *PATIENT]
    running = site.start(*words)
    rng = random.Random(3)
    query = "select pid from pg_stat_activity where application_name ~ '^etl' and datname = current_database()"
    count_lost = 0
    for _ in range(12):
        pids = site.ask(query)
        if pids and running.is_running():
            site.terminate(int(rng.choice(pids)[0]))
            count_lost += 1
        site.wait_for_batches(site.count_batches() + rng.randint(2, 8), running)
    ended = running.ended()
    assert (ended.returncode, ends_of(ended)) == (1, LOADED), ended.stderr
    assert count_lost > 5
    assert_sound(site)
    assert state(site) == expected


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_signal_ends_all_datasets(site: Site, number: signal.Signals, workers: str) -> None:
    """A signal ends the load after the current batch and is reported once; the same command continues later."""
    put(site, document(4_000, 2_000, bad=0))
    words = ["load", BOTH, FILE, "--json", "--no-precalculate", "--workers", workers, "--batch-rows", "50"]
    running = site.start(*words)
    site.wait_for_batches(10, running)
    running.signal(number)
    ended = running.ended()
    code = 128 + number
    assert (ended.returncode, set(ends_of(ended).values())) == (code, {("incomplete", code)})
    assert len(ended.errors) == 1
    assert_sound(site)
    assert set(ends_of(load_export(site, "--batch-rows", "1000")).values()) <= {
        ("loaded", 0),
        ("loaded_with_rejects", 1),
    }
    assert site.value("select count(*) from logistics.vehicle_logs") == 2_000


@pytest.mark.slow
def test_a_publication_that_is_killed_shows_all_or_nothing(site: Site) -> None:
    """An atomic load that is killed during its publication shows the rows of all datasets or of none."""
    put_records(site, 100, 100)
    words = ["load", BOTH, FILE, "--json", "--no-precalculate", "--workers", "1", "--atomic", "--batch-rows", "50"]
    with site.gate("logistics.vehicle_logs", "in COPY") as gate:
        running = site.start(*words)
        gate.reached()
        assert running.kill()
        gate.open()
    until(lambda: site.value("select count(*) from pg_stat_activity where application_name ~ '^etl'") == 0, "the end")
    counts = [
        site.value("select count(*) from logistics.deliveries"),
        site.value("select count(*) from logistics.vehicle_logs"),
    ]
    assert counts in ([0, 0], [100, 100])
    again = load_export(site, "--atomic")
    assert {status for status, _ in ends_of(again).values()} <= {"loaded", "already_loaded"}, again.stderr
    assert site.value("select count(*) from logistics.deliveries") == 100
    assert site.value("select count(*) from logistics.vehicle_logs") == 100
    assert_sound(site)
