"""Concurrent loads: different sources run at the same time; one source, or a replace, runs one at a time."""

import json
import random
import re
import signal
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.support.cases import Case
from tests.support.commands import Running
from tests.support.records import write_shipments
from tests.support.site import Site
from tests.support.states import assert_sound
from tests.support.waiting import until

RECORDS = 600
# Without a key, a replace of a source with rejected records needs the limit.
REPLACE = ("--mode", "replace", "--max-rejected", "10%")
KEYS = 3_000

# White space after the records: enough of it for the load to read all of them.
BLANK = b" " * (3 << 20)
SHIPMENTS = ["load", "shipments", "--json", "--no-precalculate"]
HOLDER = re.compile(r"is held by etl:(\S+) since \d{4}-\d\d-\d\d \d\d:\d\d:\d\d UTC")


def _shipment(key: int, source: str, version: int) -> dict[str, Any]:
    """Return a version of a shipment; each of its values and items identifies the version."""
    return {
        "shipment_id": f"S{key:05}",
        "status": f"{source} {version}",
        "created_at": "2026-01-01T00:00:00Z",
        "updated_at": f"2026-02-{version:02}T00:00:00Z",
        "items": [{"sku": f"{source} {version}", "quantity": number} for number in range(1, 2 + key % 3)],
    }


def _write(path: Path, source: str, rng: random.Random) -> dict[int, int]:
    """Write a version of every shipment in random order, some of them twice; return the newest of each."""
    versions = {key: rng.randint(1, 9) for key in range(KEYS)}
    records = [_shipment(key, source, version) for key, version in versions.items()]
    records += [_shipment(key, source, versions[key] - 1) for key in range(0, KEYS, 10) if versions[key] > 1]
    rng.shuffle(records)
    path.write_text(json.dumps(records))
    return versions


@pytest.mark.parametrize("seed", [1, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(2, 24))])
def test_two_sources_with_the_same_keys(site: Site, seed: int) -> None:
    """Two loads that merge the same keys in different orders do not deadlock, and the newest version of each wins."""
    rng = random.Random(seed)
    versions = {name: _write(site.folder / f"{name}.json", name, rng) for name in ("one", "two")}
    with site.gate("logistics.shipments", "in COPY") as gate, site.connect() as connection:
        loads = [
            site.start(*SHIPMENTS, f"{name}.json", "--batch-rows", str(rng.randint(200, 900))) for name in versions
        ]
        # One load waits at the gate and already holds keys; the other waits at the gate, too, or for these keys.
        query = (
            "select count(*) = 2 from pg_stat_activity where wait_event_type = 'Lock' and application_name ~ '^etl:'"
        )
        until(lambda: connection.execute(query).fetchone() == (True,), "both loads")
        gate.open()
        ended = [load.ended() for load in loads]
    assert [each.returncode for each in ended] == [0, 0]
    assert [each.summary["batches"]["retried"] for each in ended] == [0, 0]
    assert site.value("select deadlocks from pg_stat_database where datname = current_database()") == 0
    order = [name.removesuffix(".json") for (name,) in site.ask("select source from etl.runs order by number")]
    for key, status, skus, quantities in site.ask(
        """
        select right(shipment_id, 5)::integer, status, array_agg(distinct sku), array_agg(quantity order by line_no)
        from logistics.shipments join logistics.shipment_items using (shipment_id) group by 1, 2
        """
    ):
        newest = max(order, key=lambda name: (versions[name][key], order.index(name)))
        assert status == f"{newest} {versions[newest][key]}"
        assert (skus, quantities) == ([status], list(range(1, 2 + key % 3)))
    assert site.value("select count(*) from logistics.shipments") == KEYS
    assert_sound(site)


def _assert_busy(site: Site, second: Running, what: str, holder: str) -> None:
    """Assert that the command ends at once with exit code 6, names the holder and the time, and changed nothing."""
    started = time.monotonic()
    ended = second.ended(20)
    assert time.monotonic() - started < 10
    assert ended.returncode == 6, ended.stderr
    assert f"error: {what} is held by" in ended.stderr
    held = HOLDER.search(ended.stderr)
    assert held, ended.stderr
    assert held.group(1) == holder
    assert "hint: wait for its end and run the same command" in ended.stderr
    for line in ended.stdout.splitlines():
        summary = json.loads(line)
        assert summary["exit_code"] == 6
        assert summary.get("status", "busy") == "busy"
        assert not any(summary.get("records", {}).values())


@pytest.mark.parametrize(
    ("first", "second", "what"),
    [
        ((), (), "this source"),
        pytest.param((), ("--batch-rows", "7"), "this source", marks=pytest.mark.slow),
        ((), REPLACE, "the dataset deliveries"),
        pytest.param(REPLACE, (), "the dataset deliveries", marks=pytest.mark.slow),
        pytest.param(REPLACE, REPLACE, "the dataset deliveries", marks=pytest.mark.slow),
    ],
    ids=[
        "load beside load",
        "in other batches",
        "replace beside load",
        "load beside replace",
        "replace beside replace",
    ],
)
def test_one_at_a_time(site: Site, appended: Case, first: tuple[str, ...], second: tuple[str, ...], what: str) -> None:
    """A command that would change the same rows is refused at once with the holder, and runs when they are free."""
    if first:
        running = _load_that_waits(site, appended, *first)  # A replace has its rows elsewhere until it ends.
        [[run]] = site.ask("select run from etl.runs")
        _assert_busy(site, site.start(*appended.command, *second), what, run)
        ended = running.ended()
    else:
        with site.gate("logistics.deliveries", "in COPY", 150_000) as gate:
            running = site.start(*appended.command, "--batch-rows", "100")
            gate.reached()
            [[run]] = site.ask("select run from etl.runs")
            _assert_busy(site, site.start(*appended.command, *second), what, run)
            gate.open()
            ended = running.ended()
    assert ended.returncode == 1
    assert site.value("select count(*) from etl.runs") == 1
    appended.assert_done(site)


def _load_that_waits(site: Site, case: Case, *more: str) -> Running:
    """Start a load that has committed all its batches and waits for the end of its source."""
    words = ["-" if word == str(case.source) else word for word in case.command]
    running = site.start(*words, "--batch-rows", "100", *more)
    running.send(case.source.read_bytes() + BLANK)
    until(lambda: site.count_batches() == RECORDS // 100, "the batches")
    return running


def test_a_replay_beside_a_load_of_its_source(site: Site, appended: Case) -> None:
    """Records of a source are not replayed while the source is loaded; afterwards they are replayed once."""
    with site.gate("logistics.deliveries", "in COPY", 450_000) as gate:
        running = site.start(*appended.command, "--batch-rows", "100")
        gate.reached()
        [[run]] = site.ask("select run from etl.runs")
        waiting = site.ask("select id from etl.failures where state = 'pending'")
        assert waiting
        _assert_busy(site, site.start("failed", "replay", "--all", "--json"), "this source", run)
        assert site.ask("select id from etl.failures where state = 'pending'") == waiting
        gate.open()
        assert running.ended().returncode == 1
    appended.assert_done(site)
    site.ask("alter table logistics.deliveries drop constraint no_dozen")
    dozens = site.value("select sum(count_records)::integer from etl.failures where sqlstate = '23514'")
    assert dozens
    before = site.value("select count(*) from logistics.deliveries")
    site.run("failed", "replay", "--all", "--json")
    assert site.value("select count(*) from logistics.deliveries") > before
    assert_sound(site)


def test_a_killed_load_holds_nothing(site: Site, appended: Case) -> None:
    """After kill -9, the next load of the source can start at once."""
    source = site.folder / "source.json"
    source.write_bytes(appended.source.read_bytes() + BLANK)
    running = _load_that_waits(site, appended)
    [[run]] = site.ask("select run from etl.runs")
    load = ["load", appended.dataset, str(source), "--json"]
    _assert_busy(site, site.start(*load), "this source", run)
    assert running.kill()
    ended = site.run(*load)
    assert ended.returncode == 1
    assert (ended.summary["run"], ended.summary["records"]["skipped"]) == (run, RECORDS)
    replace(appended, source=source).assert_done(site)


@pytest.mark.slow
def test_a_killed_load_whose_backend_is_at_work(site: Site, appended: Case) -> None:
    """The backend of a killed load notices within seconds that its client is gone; then the source is free."""
    with site.gate("logistics.deliveries", "in COPY", 150_000) as gate:
        running = site.start(*appended.command, "--batch-rows", "100")
        gate.reached()
        assert running.kill()
        started = time.monotonic()
        until(lambda: not site.ask("select 1 from pg_stat_activity where application_name ~ '^etl:'"), "its end")
        assert time.monotonic() - started < 5
        gate.open()
    assert site.run(*appended.command, "--batch-rows", "100").returncode == 1
    appended.assert_done(site)


@pytest.mark.parametrize("by", ["a resume", "a replace"])
def test_a_load_that_was_overtaken(site: Site, appended: Case, by: str) -> None:
    """A load that lost its connection, and so the source, does not continue when another load has taken the source."""
    with site.gate("logistics.deliveries", "in COPY", 150_000) as gate:
        running = site.start(*appended.command, "--batch-rows", "100")
        backend = gate.reached()
        running.signal(signal.SIGSTOP)
        site.terminate(backend)
        gate.open()
        other = write_shipments(site.folder / "other.json", 50, seed=99)
        options = ["--batch-rows", "37"] if by == "a resume" else [str(other), *REPLACE]
        command = [word for word in appended.command if by == "a resume" or word != str(appended.source)]
        assert site.run(*command, *options).returncode in {0, 1}
        before = site.ask("select * from logistics.deliveries")
        running.signal(signal.SIGCONT)
        ended = running.ended()
    assert site.ask("select * from logistics.deliveries") == before
    assert ended.returncode == 6, ended.stderr
    assert ended.summary["status"] == "busy"
    # The overtaken load may have written a file after the other one had cleared up.
    assert site.run("failed", "purge", "--older-than", "36500d").returncode == 0
    if by == "a resume":
        appended.assert_done(site)
