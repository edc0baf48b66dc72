"""`etl collect`: an event that is answered with 202 is on the disk and is loaded once; others are refused."""

import gzip
import json
import os
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import httpx
import psutil
import pytest

from tests.support.commands import Running
from tests.support.definitions import SMALL_PARCELS
from tests.support.site import Site
from tests.support.waiting import until

JSON = {"Content-Type": "application/json"}
LINES = {"Content-Type": "application/x-ndjson"}


@dataclass(frozen=True, kw_only=True)
class Collector:
    """A collector that runs, and a client of it."""

    running: Running
    client: httpx.Client

    def send(self, events: object, dataset: str = "parcels", **headers: str) -> dict[str, Any]:
        """Send events, and return the answer."""
        answer = self.client.post(f"/v1/events/{dataset}", content=json.dumps(events), headers=JSON | headers)
        assert answer.status_code == 202, answer.text
        found: dict[str, Any] = answer.json()
        return found

    def refused(self, content: bytes | Iterator[bytes], status: int, **headers: str) -> dict[str, Any]:
        """Send what is no request, and return the problem."""
        answer = self.client.post("/v1/events/parcels", content=content, headers=JSON | headers)
        assert (answer.status_code, answer.headers["content-type"]) == (status, "application/problem+json"), answer.text
        found: dict[str, Any] = answer.json()
        return found

    def fate(self, stream: str, offset: int) -> dict[str, Any]:
        """Ask what became of an event."""
        found: dict[str, Any] = self.client.get(f"/v1/events/{stream}:{offset}").json()
        return found


@contextmanager
def collecting(site: Site, *options: str, headers: dict[str, str] | None = None) -> Iterator[Collector]:
    """Run a collector of a site until the context ends."""
    running = site.start("--log-format", "json", "collect", "--port", "0", *options)

    def begun() -> list[dict[str, Any]]:
        assert running.is_running(), running.stderr()
        return running.events("collecting")

    [begin] = until(begun, "the collector")
    with httpx.Client(base_url=begin["address"], timeout=20, trust_env=False, headers=headers) as client:
        try:
            yield Collector(running=running, client=client)
        finally:
            running.close()


@pytest.fixture
def collector(site: Site) -> Iterator[Collector]:
    """Run a collector of small parcels."""
    site.define(SMALL_PARCELS)
    with collecting(site) as collector:
        yield collector


def _count(site: Site) -> int:
    return int(site.value("select count(*) from logistics.parcels"))


def test_events_become_rows(site: Site, collector: Collector) -> None:
    """Events are rows soon, each with a fate at its place; SIGTERM loads what was accepted, and the exit code is 0."""
    first = collector.send([{"parcel_id": "A", "weight": 1}, {"parcel_id": "B", "weight": "many"}])
    stream, [at_a, at_b] = first["stream"], first["offsets"]
    until(lambda: collector.fate(stream, at_a)["status"] == "loaded", "the first event")
    fate = collector.fate(stream, at_b)
    assert (fate["status"], fate["column"]) == ("rejected", "weight")
    assert "many" not in json.dumps(fate)
    assert collector.client.get(f"/v1/events/{stream}:{10**9}").status_code == 404
    assert collector.client.get("/v1/events/parcels-20260101T000000Z-000000:0").status_code == 404

    key = {"Idempotency-Key": "9f1"}
    once = collector.send({"parcel_id": "C"}, **key)
    assert collector.send({"parcel_id": "C"}, **key) == once | {"is_repeat": True}
    assert collector.refused(b'{"parcel_id": "D"}', 409, **key)["title"] == "key used before"
    body = b'{"parcel_id": "E"}\n{"parcel_id": "F"}\n'
    for content, headers in ((body, LINES), (gzip.compress(body), LINES | {"Content-Encoding": "gzip"})):
        answer = collector.client.post("/v1/events/parcels", content=content, headers=headers)
        assert (answer.status_code, answer.json()["events"]) == (202, 2)
    assert collector.send([]) == {"stream": None, "events": 0, "offsets": [], "is_repeat": False}

    metrics = collector.client.get("/metrics").text
    assert 'etl_collect_events_accepted_total{dataset="parcels"} 7' in metrics
    assert collector.client.get("/healthz").json()["is_loading"]
    collector.running.process.send_signal(signal.SIGTERM)
    ended = collector.running.ended()
    assert ended.returncode == 0, ended.stderr
    assert site.column("select parcel_id from logistics.parcels order by 1") == ["A", "C", "E", "E", "F", "F"]
    [state] = site.run("collect", "--status", "--json").lines
    assert (state["stream"], state["loaded_events"], state["waiting_bytes"]) == (stream, 7, 0)
    assert "7 events loaded, none waits" in site.run("collect", "--status").stdout


def test_refused_requests(site: Site, collector: Collector) -> None:
    """A request that has no events, is too large or comes from elsewhere is refused, and leaves nothing."""
    assert collector.refused(b'{"a": 1}\n{"b": }', 422)["byte"] == 15
    assert collector.refused(b"17", 422)["detail"] == "expected an object, and value 1 is none, at byte 0"
    assert collector.refused(b"x", 422, **{"Content-Encoding": "gzip"})["status"] == 422
    bomb = gzip.compress(b'{"a": "' + b" " * (20 << 20) + b'"}')
    assert collector.refused(bomb, 413, **{"Content-Encoding": "gzip"})["status"] == 413
    assert collector.refused(iter([b"[", *[b" " * (1 << 20)] * 9]), 413)["status"] == 413
    assert collector.refused(b'{"a": "' + b"x" * (1 << 20) + b'"}', 413)["detail"].startswith("event 1 has more")
    assert collector.refused(b"{}", 415, **{"Content-Type": "text/plain"})["status"] == 415
    assert collector.refused(b"{}", 415, **{"Content-Encoding": "br"})["status"] == 415
    assert collector.refused(b"{}", 403, Host="attacker.example.com")["status"] == 403
    assert collector.refused(b"{}", 403, Origin="https://attacker.example.com")["status"] == 403
    assert collector.client.post("/v1/events/nothing", content="{}", headers=JSON).status_code == 404
    assert collector.client.post("/v1/events/..%2f..%2fetc", content="{}", headers=JSON).status_code == 404
    assert collector.client.delete("/v1/events/parcels").status_code == 405
    url = collector.client.base_url
    with socket.create_connection((url.host, url.port or 0)) as short:  # Announces more than it sends.
        short.sendall(b"POST /v1/events/parcels HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n")
        short.sendall(b"Content-Length: 100\r\n\r\n" + b'{"parcel_id": "short"}')
    collector.send({"parcel_id": "good"})
    until(lambda: _count(site) == 1, "the good event")
    assert site.column("select parcel_id from logistics.parcels") == ["good"]
    assert "attacker" not in collector.running.stderr()


@pytest.mark.slow
def test_a_killed_collector(site: Site) -> None:
    """What was acknowledged before a kill -9, of the collector or of its loader, is loaded once by the next one."""
    site.define(SMALL_PARCELS)
    sent = 0
    for _ in range(2):
        with collecting(site) as collector:
            for _ in range(20):
                collector.send([{"parcel_id": f"P{sent}"}, {"parcel_id": f"P{sent + 1}"}])
                sent += 2
            children = psutil.Process(collector.running.process.pid).children(recursive=True)
            [loader] = [child for child in children if "spawn_main" in " ".join(child.cmdline())]
            loader.send_signal(signal.SIGKILL)
            collector.send([{"parcel_id": f"P{sent}"}])
            sent += 1
            os.kill(collector.running.process.pid, signal.SIGKILL)
            collector.running.process.wait()
    with collecting(site) as collector:
        until(lambda: _count(site) == sent, "all events")
        assert site.value("select count(distinct parcel_id) from logistics.parcels") == sent
        assert site.value("select sum(count_events) from etl.streams") == sent


@pytest.mark.slow
def test_keys(site: Site) -> None:
    """With `--auth keys` a valid key of an operator may send, as often as the limit allows."""
    site.define(SMALL_PARCELS)
    keys = {
        role: site.run("key", "create", role, "--role", role, "--json").lines[0]["key"]
        for role in ("operator", "analyst")
    }
    with collecting(site, "--auth", "keys", "--rate-limit", "1") as collector:
        assert collector.refused(b"{}", 401)["status"] == 401
        assert collector.refused(b"{}", 401, **{"X-API-Key": keys["operator"][:-1] + "?"})["status"] == 401
        assert collector.refused(b"{}", 403, Authorization=f"Bearer {keys['analyst']}")["status"] == 403
        owner = {"Authorization": f"Bearer {keys['operator']}"}
        collector.send({"parcel_id": "A"}, **owner)
        until(
            lambda: collector.client.post("/v1/events/parcels", content="{}", headers=JSON | owner).status_code == 429,
            "429",
        )
        until(lambda: _count(site) >= 1, "the event")


@pytest.mark.slow
def test_a_database_that_is_away(site: Site) -> None:
    """While the tables are missing or locked, events are accepted and wait; they are loaded when it is over."""
    definition = site.write_definition(SMALL_PARCELS)
    with collecting(site, "--refresh-seconds", "0") as collector:
        first = collector.send({"parcel_id": "A"})
        until(lambda: collector.running.events("loading_waits"), "the reason in the log")
        assert "logistics.parcels" in collector.running.events("loading_waits")[0]["reason"]
        assert collector.fate(first["stream"], 0)["status"] == "waiting"
        until(lambda: collector.client.get("/healthz").json()["waiting_events"] == 1, "the count of what waits")
        assert "etl_collect_waiting_events 1\n" in collector.client.get("/metrics").text
        site.define(definition.read_text())
        until(lambda: _count(site) == 1, "the first event")
        site.ask("select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'etl:collect'")
        collector.send({"parcel_id": "B"})
        until(lambda: _count(site) == 2, "the second event")


@pytest.mark.slow
def test_fresh_aggregates(site: Site) -> None:
    """An aggregate has the event soon after it was accepted."""
    with collecting(site) as collector:
        event: dict[str, object] = {
            "event_id": "E1",
            "shipment_id": "S1",
            "event_code": "DAMAGED",
            "occurred_at": "2026-11-30T09:00:00Z",
        }
        event |= {"exception_code": "DAMAGED", "location": {"country": "DE"}}
        collector.send(event, "tracking_events")
        until(lambda: site.ask("select 1 from analytics.daily_exceptions"), "the aggregate")
