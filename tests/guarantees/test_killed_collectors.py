"""Collectors, loaders and servers are killed, and the disk of the spool is full: each acknowledged event is there once.

`ETL_TEST_KILLS` is the number of faults; each is chosen at random. With `ETL_TEST_REPORT` the counts go to this file.
"""

import itertools
import json
import os
import random
import signal
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, LiteralString

import httpx
import psutil
import psycopg
import pytest

from etl.embedded import Server
from tests.support.commands import Running
from tests.support.definitions import SMALL_PARCELS
from tests.support.servers import free_port
from tests.support.site import Site
from tests.support.waiting import until

KILLS = int(os.environ.get("ETL_TEST_KILLS", "24"))
REPORT = os.environ.get("ETL_TEST_REPORT")
SENDERS = 3
# The failed store keeps two small files for each group that has a refused event.
DISK = f"{24 + 2 * KILLS}m"
# How long a sender repeats a request that has an Idempotency-Key.
TRIES = 200

pytestmark = pytest.mark.slow


@dataclass
class Senders:
    """Threads that send numbered events, and note which were answered with 202, and which were sent at all.

    Half of the requests have an Idempotency-Key and are repeated until they are acknowledged; the others are sent once.
    """

    port: int
    acknowledged: dict[str, set[str]] = field(default_factory=lambda: {"parcels": set(), "tracking_events": set()})
    answers: Counter[str] = field(default_factory=Counter)
    unsure: set[str] = field(default_factory=set)
    is_ended: bool = False

    def __post_init__(self) -> None:
        """Begin to send."""
        self._numbers = itertools.count()
        self._lock = threading.Lock()
        self._threads = [threading.Thread(target=self._send_all) for _ in range(SENDERS)]
        for thread in self._threads:
            thread.start()

    def _send_all(self) -> None:
        with httpx.Client(base_url=f"http://127.0.0.1:{self.port}", trust_env=False, timeout=20) as client:
            while not self.is_ended:
                with self._lock:
                    number = next(self._numbers)
                dataset = "parcels" if number % 2 else "tracking_events"
                names = [f"E{5 * number + place}" for place in range(5)]
                time.sleep(0.02)
                if not self._send(client, dataset, names, has_key=number % 4 < 2):
                    self.unsure.update(names)

    def _send(self, client: httpx.Client, dataset: str, names: list[str], *, has_key: bool) -> bool:
        """Send a request; return whether it was acknowledged."""
        event = _parcel if dataset == "parcels" else _tracking_event
        headers = {"Content-Type": "application/json"} | ({"Idempotency-Key": names[0]} if has_key else {})
        body = json.dumps([event(name, is_bad=place == 4) for place, name in enumerate(names)])
        for _ in range(TRIES if has_key else 1):
            try:
                answer = client.post(f"/v1/events/{dataset}", content=body, headers=headers)
            except httpx.TransportError:
                self.answers["none"] += 1
                time.sleep(0.05)
                continue
            self.answers[str(answer.status_code)] += 1
            if answer.status_code == 202:
                self.acknowledged[dataset].update(names)
                return True
            time.sleep(0.05)
        return False

    def end(self) -> None:
        """Send no more."""
        self.is_ended = True
        for thread in self._threads:
            thread.join()


def _parcel(name: str, *, is_bad: bool) -> dict[str, Any]:
    return {"parcel_id": name, "weight": "x" if is_bad else 1}


def _tracking_event(name: str, *, is_bad: bool) -> dict[str, Any]:
    number = int(name[1:])
    return {
        "event_id": name,
        "shipment_id": f"S{number % 1000}",
        "event_code": "EXCEPTION",
        "exception_code": ("DAMAGED", "WEATHER", "CUSTOMS")[number % 3],
        "occurred_at": "never" if is_bad else f"2026-11-{1 + number % 28:02}T09:00:00Z",
    }


@contextmanager
def _small_disk(folder: Path) -> Iterator[Path]:
    """Give a folder with a file system of its own, which is small."""
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={DISK},mode=0700", "etl-test", str(folder)]
    done = subprocess.run(mount, capture_output=True, encoding="utf-8", check=False) if os.geteuid() == 0 else None
    if done is None or done.returncode:
        pytest.skip(f"may not mount a small file system: {done.stderr.strip() if done else 'not root'}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


@dataclass
class Place:
    """A site with an embedded server of its own, whose spool and failed store are on a small disk, and a collector."""

    site: Site
    server: Server
    disk: Path
    port: int = field(default_factory=free_port)

    def begin(self) -> Running:
        """Start a collector, and again while the server that was killed cannot be reached."""
        options = ("--port", f"{self.port}", "--spool", self.disk / "spool", "--failed-dir", self.disk / "failed")
        for _ in range(20):
            running = self.site.start("--log-format", "json", "collect", *options, "--refresh-seconds", "0.5")
            _await(running)
            if running.is_running():
                return running
            assert running.ended().returncode in {4, 6}, running.stderr()
        raise AssertionError("the collector does not start")

    def ask(self, query: LiteralString) -> list[tuple[Any, ...]]:
        """Ask the server."""
        with psycopg.connect(self.server.url(), autocommit=True) as connection:
            return connection.execute(query).fetchall()

    # The faults

    def kill_loader(self, running: Running) -> None:
        """End the loader process."""
        with suppress(psutil.NoSuchProcess):
            for child in psutil.Process(running.process.pid).children():
                if "spawn_main" in " ".join(child.cmdline()):
                    child.kill()

    def kill_backends(self, _running: Running) -> None:
        """End the backends of the collector."""
        with suppress(psycopg.Error):
            self.ask("select pg_terminate_backend(pid) from pg_stat_activity where application_name ~ '^etl'")

    def kill_server(self, _running: Running) -> None:
        """End the postmaster; its backends end by themselves, and the next one who connects starts another."""
        pid = self.server.status().pid
        if pid is not None:
            os.kill(pid, signal.SIGKILL)
            until(lambda: not psutil.pid_exists(pid), "the end of the server")

    def fill_disk(self, _running: Running) -> None:
        """Leave no room for spool and failed store for a while."""
        filler = self.disk / "filler"
        with filler.open("wb", buffering=0) as file:
            for size in (1 << 20, 1 << 12):
                with suppress(OSError):
                    while file.write(bytes(size)) == size:
                        pass
        time.sleep(1)
        filler.unlink()

    def kill_collector(self, running: Running) -> None:
        """End the collector."""
        running.process.send_signal(signal.SIGKILL)
        running.process.wait()

    def kill_both(self, running: Running) -> None:
        """End the collector and the server at the same time."""
        self.kill_server(running)
        self.kill_collector(running)


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    """Give a place of two datasets: one appends, one merges and has aggregates."""
    with _small_disk(tmp_path / "disk") as disk:
        server = Server(tmp_path / "postgres")
        site = Site(f"embedded:{server.folder}", tmp_path)
        try:
            server.start(keep=True)
            site.write_definition(SMALL_PARCELS)
            site.run("db", "migrate", own_process=True, timeout=120)
            site.run("dataset", "create", "parcels", own_process=True)
            yield Place(site=site, server=server, disk=disk)
        finally:
            site.close()
            server.stop()


def _await(running: Running) -> None:
    until(lambda: running.events("collecting") or not running.is_running(), "the collector", 120)


def _disturb(place: Place, chance: random.Random) -> tuple[Counter[str], Senders]:
    """Send events while faults happen, and return what happened."""
    faults: list[Callable[[Running], None]] = [
        place.kill_collector,
        place.kill_loader,
        place.kill_backends,
        place.kill_server,
        place.fill_disk,
        place.kill_both,
    ]
    done: Counter[str] = Counter()
    running = place.begin()
    senders = Senders(place.port)
    try:
        while done.total() < KILLS:
            time.sleep(chance.uniform(0.05, 1.5))
            fault = chance.choice(faults)
            fault(running)
            done[fault.__name__] += 1
            if not running.is_running():
                running = place.begin()
            if REPORT:
                Path(REPORT).write_text(json.dumps({"faults": done, "answers": senders.answers}) + "\n")
    finally:
        senders.end()
    for _ in range(2):  # The second one loads what the first one may have left.
        running.process.send_signal(signal.SIGTERM)
        assert running.ended(120).returncode == 0, running.stderr()
        running = place.begin()
    until(lambda: _waiting(place) == 0, "the end of the backlog", 120)
    running.process.send_signal(signal.SIGTERM)
    assert running.ended(120).returncode == 0, running.stderr()
    return done, senders


def _waiting(place: Place) -> int:
    with httpx.Client(trust_env=False, timeout=20) as client:
        health = client.get(f"http://127.0.0.1:{place.port}/healthz").json()
    return int(health["waiting_events"])


def _refused(place: Place, dataset: str, key: str) -> list[str]:
    paths = (place.disk / "failed" / dataset).glob("*/*.ndjson")
    return [json.loads(line)[key] for path in paths for line in path.read_bytes().splitlines()]


def test_each_acknowledged_event_is_there_once(place: Place) -> None:
    """Acknowledged events are loaded or refused, each once; ledger, streams and aggregates agree with the tables."""
    seed = random.SystemRandom().randrange(1 << 30)
    done, senders = _disturb(place, random.Random(seed))
    place.server.start()  # The last collector may have stopped one that was started in the meantime.
    counts: dict[str, Any] = {"seed": seed, "faults": done, "answers": senders.answers}
    ledger = (
        "select r.dataset, sum(b.count_records), sum(b.count_loaded), sum(b.count_rejected),"
        " sum(coalesce(b.count_failed, 0)) from etl.batches b join etl.runs r using (run) group by 1"
    )
    entered = {row[0]: tuple(map(int, row[1:])) for row in place.ask(ledger)}
    streams = dict(place.ask("select dataset, sum(count_events)::bigint from etl.streams group by 1"))
    tables: dict[str, tuple[LiteralString, str]] = {
        "parcels": ("select parcel_id from logistics.parcels", "parcel_id"),
        "tracking_events": ("select event_id from logistics.tracking_events", "event_id"),
    }
    for dataset, (query, key) in tables.items():
        rows = [name for (name,) in place.ask(query)]
        refused = _refused(place, dataset, key)
        acknowledged = senders.acknowledged[dataset]
        lost = acknowledged - set(rows) - set(refused)
        counts[dataset] = {"acknowledged": len(acknowledged), "loaded": len(rows), "refused": len(refused)}
        counts[dataset] |= {"lost": len(lost), "not acknowledged": len({*rows, *refused} - acknowledged)}
        if REPORT:
            Path(REPORT).write_text(json.dumps(counts) + "\n")
        assert not lost, counts
        assert len(rows) == len(set(rows)), counts
        assert len(refused) == len(set(refused)), counts
        assert not set(rows) & set(refused), counts
        # What was not acknowledged may be there, and then it was sent.
        assert {*rows, *refused} - acknowledged <= senders.unsure, counts
        read, loaded, rejected, failed = entered[dataset]
        assert (read, loaded, rejected + failed) == (len(rows) + len(refused), len(rows), len(refused)), counts
        assert streams[dataset] == read, counts
    assert place.site.run("precalculate", own_process=True, timeout=120).returncode == 0
    verified = place.site.run("precalculate", "--verify", own_process=True, timeout=120)
    assert verified.returncode == 0, verified.stdout + verified.stderr
