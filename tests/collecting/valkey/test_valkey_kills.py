"""Collectors without a disk, a worker and a Valkey server, each killed at random: each event is loaded once."""

import itertools
import json
import logging
import os
import random
import signal
import threading
import time
from contextlib import ExitStack
from pathlib import Path

import httpx
import psutil
import pytest

from tests.collecting.test_collector import Collector, collecting
from tests.support.definitions import SMALL_PARCELS
from tests.support.redis_servers import redis_server
from tests.support.servers import free_port
from tests.support.site import Site
from tests.support.waiting import until

KILLS = int(os.environ.get("ETL_TEST_KILLS", "6"))
"""How many processes are killed: ETL_TEST_KILLS=200 for a long run, with --log-cli-level=INFO to see counts."""

log = logging.getLogger(__name__)


class Sender:
    """A client that sends numbered events, each with a key, again and again until they are acknowledged."""

    def __init__(self, name: str, ports: list[int]) -> None:
        self._name = name
        self.addresses = itertools.cycle(f"http://127.0.0.1:{port}/v1/events/parcels" for port in ports)
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._send_all, daemon=True)
        self.count = 0
        self.rejected = 0
        self.refused = 0

    def start(self) -> None:
        """Begin to send."""
        self._thread.start()

    def end(self) -> None:
        """Send the last events until they are acknowledged, and end."""
        self._ended.set()
        self._thread.join(60)
        assert not self._thread.is_alive()

    def _send_all(self) -> None:
        with httpx.Client(timeout=10, trust_env=False) as client:
            for request in itertools.count():
                if self._ended.is_set():
                    return
                weights = [
                    1,
                    2,
                    "many" if request % 5 == 0 else 3,
                ]  # A fifth of the requests has an event that is refused.
                events = [
                    {"parcel_id": f"{self._name}-{request}-{at}", "weight": each} for at, each in enumerate(weights)
                ]
                headers = {"Content-Type": "application/json", "Idempotency-Key": f"{self._name}-{request}"}
                while not self._is_acknowledged(client, json.dumps(events), headers):
                    self.refused += 1
                    time.sleep(0.02)
                self.count += len(events)
                self.rejected += request % 5 == 0

    def _is_acknowledged(self, client: httpx.Client, body: str, headers: dict[str, str]) -> bool:
        try:
            answer = client.post(next(self.addresses), content=body, headers=headers)
        except httpx.TransportError:
            return False
        assert answer.status_code in {202, 503}, answer.text
        return answer.status_code == 202


class Kept:
    """Collectors on ports that stay, each started again after it was killed."""

    def __init__(self, site: Site, stack: ExitStack, *options: str) -> None:
        self._site = site
        self._stack = stack
        self._options = (*options, "--port")
        self.ports = [free_port() for _ in range(2)]
        self._running = [self._start(port) for port in self.ports]

    def _start(self, port: int) -> Collector:
        return self._stack.enter_context(collecting(self._site, *self._options, str(port)))

    def kill(self, number: int) -> None:
        """Kill a collector with its processes, and start it again."""
        process = psutil.Process(self._running[number].running.process.pid)
        process.kill()
        self._running[number].running.process.wait()
        self._running[number] = self._start(self.ports[number])


@pytest.fixture
def chance() -> random.Random:
    """Return what decides, with its seed in the output."""
    seed = int(os.environ.get("ETL_TEST_SEED", str(time.time_ns())))
    log.info("ETL_TEST_SEED=%s", seed)
    return random.Random(seed)


@pytest.mark.slow
def test_random_kills(site: Site, tmp_path: Path, chance: random.Random) -> None:
    """After random kills of collectors, worker and server, each acknowledged event is one row, or is rejected once."""
    site.define(SMALL_PARCELS)
    with redis_server(tmp_path / "valkey") as valkey, ExitStack() as stack:
        buffer = ("--buffer", valkey.url, "--refresh-seconds", "0")
        collectors = Kept(site, stack, *buffer, "--part", "accept")
        workers = Kept(site, stack, *buffer, "--part", "load", "--keep-seconds", "1")
        with httpx.Client(trust_env=False) as client:
            assert client.post(next(Sender("none", workers.ports).addresses), json={}).status_code == 404
            [accepting, loading] = [f"http://127.0.0.1:{each.ports[0]}/metrics" for each in (collectors, workers)]
            assert "loading_up" not in client.get(accepting).text
            assert "etl_collect_loading_up 1" in client.get(loading).text
        senders = [Sender(name, collectors.ports) for name in "ABC"]
        for sender in senders:
            sender.start()
        for _ in range(KILLS):
            time.sleep(0.5 * chance.random())
            victim = chance.choice(["collector", "worker", "server"])
            log.info("kill %s", victim)
            if victim == "server":
                valkey.kill(signal.SIGKILL)
                valkey.start()
            else:
                (collectors if victim == "collector" else workers).kill(chance.randrange(2))
        for sender in senders:
            sender.end()
        sent = sum(sender.count for sender in senders)
        refused = sum(sender.refused for sender in senders)
        log.info("%s kills: %s events were acknowledged, %s requests were refused", KILLS, sent, refused)
        until(lambda: site.value("select coalesce(sum(count_events), 0) from etl.streams") >= sent, "all events")
    rejected = sum(sender.rejected for sender in senders)
    rows = sent - rejected
    assert site.ask("select count(*), count(distinct parcel_id) from logistics.parcels") == [(rows, rows)]
    assert site.ask("select sum(count_loaded), sum(count_rejected) from etl.batches") == [(rows, rejected)]
    assert site.value("select sum(count_events) from etl.streams") == sent
