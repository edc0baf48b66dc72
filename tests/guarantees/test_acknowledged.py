"""Whatever is killed, an event that was answered with 202 is in a table or in the failed store in the end, once."""

import json
import random
import signal
import threading
import time
from contextlib import suppress

import httpx
import psutil
import pytest

from tests.support.commands import Running
from tests.support.definitions import SMALL_PARCELS
from tests.support.servers import free_port
from tests.support.site import Site
from tests.support.waiting import until

ROUNDS = 25
SENDERS = 3


class Senders:
    """Threads that send numbered events, each number once, and note which of them were answered with 202."""

    def __init__(self, port: int) -> None:
        self._url = f"http://127.0.0.1:{port}/v1/events/parcels"
        self._lock = threading.Lock()
        self._next = 0
        self._is_ended = False
        self.acknowledged: set[str] = set()
        self._threads = [threading.Thread(target=self._send_all) for _ in range(SENDERS)]
        for thread in self._threads:
            thread.start()

    def _send_all(self) -> None:
        headers = {"Content-Type": "application/json"}
        with httpx.Client(trust_env=False, timeout=10) as client:
            while not self._is_ended:
                with self._lock:
                    first, self._next = self._next, self._next + 5
                names = [str(number) for number in range(first, first + 5)]
                # One of the five is refused, and waits in the failed store.
                events = [{"parcel_id": name, "weight": "x" if int(name) % 5 == 4 else 1} for name in names]
                try:
                    answer = client.post(self._url, content=json.dumps(events), headers=headers)
                except httpx.TransportError:
                    time.sleep(0.05)
                    continue
                if answer.status_code == 202:
                    with self._lock:
                        self.acknowledged.update(names)
                else:
                    time.sleep(0.05)

    def end(self) -> None:
        """Send no more."""
        self._is_ended = True
        for thread in self._threads:
            thread.join()


def _collect(site: Site, port: int) -> Running:
    return site.start("--log-format", "json", "collect", "--port", str(port), "--refresh-seconds", "0")


def _await(running: Running) -> None:
    until(lambda: running.events("collecting") or not running.is_running(), "the collector")


def _disturb(site: Site, running: Running, chance: random.Random) -> bool:
    """Kill one of the processes; return whether it was the collector."""
    which = chance.choice(["collector", "loader", "backend"])
    if which == "backend":
        site.ask("select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'etl:collect'")
    elif which == "loader":
        with suppress(psutil.NoSuchProcess):
            for child in psutil.Process(running.process.pid).children():
                if "spawn_main" in " ".join(child.cmdline()):
                    child.send_signal(signal.SIGKILL)
    else:
        running.process.send_signal(signal.SIGKILL)
        running.process.wait()
    return which == "collector"


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2])
def test_nothing_that_was_acknowledged_is_lost(site: Site, seed: int) -> None:
    """After random kills of collector, loader and server processes, each acknowledged event is there once."""
    site.define(SMALL_PARCELS)
    chance = random.Random(seed)
    port = free_port()
    running = _collect(site, port)
    senders = Senders(port)
    try:
        for _ in range(ROUNDS):
            _await(running)
            time.sleep(chance.random())
            if _disturb(site, running, chance):
                running = _collect(site, port)
    finally:
        senders.end()
    running.process.send_signal(signal.SIGTERM)
    assert running.ended(120).returncode == 0
    last = _collect(site, port)
    _await(last)
    last.process.send_signal(signal.SIGTERM)
    assert last.ended(120).returncode == 0

    rows = site.column("select parcel_id from logistics.parcels")
    stored = [line for path in site.store.glob("parcels/*/*.ndjson") for line in path.read_bytes().splitlines()]
    refused = [json.loads(line)["parcel_id"] for line in stored]
    assert len(senders.acknowledged) > 500
    assert len(rows) == len(set(rows))
    assert len(refused) == len(set(refused))
    assert not set(rows) & set(refused)
    assert senders.acknowledged <= set(rows) | set(refused)
    query = "select sum(count_loaded), sum(count_rejected), sum(count_records) from etl.batches"
    [(loaded, rejected, read)] = site.ask(query)
    assert (loaded, rejected, read) == (len(rows), len(refused), len(rows) + len(refused))
    assert site.value("select sum(count_events) from etl.streams") == read
