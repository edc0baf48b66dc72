"""Slow, broken and malicious clients: each is ended or bounded, and the others are served meanwhile."""

import gzip
import json
import resource
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress

import httpx
import psutil
import pytest

from etl.serving import connections
from tests.support.definitions import SMALL_PARCELS
from tests.support.services import RunningService, serving
from tests.support.site import Site
from tests.support.waiting import until

HEAD = b"POST /v1/events/parcels HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
PARCELS = "/v1/events/parcels"
MEMORY_BYTES = 300 << 20

pytestmark = pytest.mark.slow


@pytest.fixture
def service(site: Site) -> Iterator[RunningService]:
    """Run a service that takes events; this process may open many connections to it."""
    site.define(SMALL_PARCELS)
    site.run("precalculate")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    try:
        with serving(site, "--collect", "--no-access-log") as service:
            yield service
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def _open(service: RunningService, sent: bytes = b"") -> socket.socket:
    url = service.client.base_url
    connection = socket.create_connection((url.host, url.port or 0), timeout=60)
    connection.sendall(sent)
    return connection


def _answer(connection: socket.socket) -> bytes:
    """Return what comes until the connection ends; nothing, if it was reset."""
    parts = []
    with suppress(ConnectionError):
        while part := connection.recv(1 << 16):
            parts.append(part)
    return b"".join(parts)


def _status(service: RunningService, content: bytes) -> int:
    """Send bytes, and return the status of the answer; 0: the connection was ended without one."""
    with _open(service) as connection:
        with suppress(OSError):
            connection.sendall(content)
            connection.shutdown(socket.SHUT_WR)
        answer = _answer(connection)
    return int(answer.split()[1]) if answer else 0


@contextmanager
def _still_served(service: RunningService) -> Iterator[None]:
    """Assert that a new client is served at the end, and that the process is bounded and has logged no fault."""
    process = psutil.Process(service.running.process.pid)
    before = process.memory_info().rss
    yield
    with httpx.Client(base_url=service.client.base_url, trust_env=False, timeout=20) as client:
        assert client.get("/v1/freshness").status_code == 200
        assert client.post(PARCELS, json={"parcel_id": "good"}).status_code == 202
    assert process.memory_info().rss - before < MEMORY_BYTES
    assert process.num_fds() < connections.MOST_CONNECTIONS + 300
    assert [event["frames"][-3:] for event in service.running.events("unexpected_fault")] == []
    assert not service.running.events("request_failed")


def test_wrong_and_large_requests(service: RunningService, site: Site) -> None:
    """Each is refused with a status, or its connection is ended; nothing of it is loaded."""
    body = b'{"parcel_id": "wrong"}'
    chunked = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"
    large = b'{"parcel_id": "' + b"x" * (64 << 20) + b'"}'
    bomb = gzip.compress(b'{"a": "' + b" " * (200 << 20) + b'"}')
    tiny = gzip.compress(b"", mtime=0) * 300_000
    wrong = {
        "a length that is too long": (HEAD + b"Content-Length: 100\r\n\r\n" + body, {0, 400}),
        "two lengths": (HEAD + b"Content-Length: 1\r\nContent-Length: 22\r\n\r\n" + body, {400}),
        "a length with 5,000 digits": (HEAD + b"Content-Length: " + b"9" * 5_000 + b"\r\n\r\n", {400}),
        "a length below 0": (HEAD + b"Content-Length: -1\r\n\r\n" + body, {400}),
        "a length and chunks": (HEAD + b"Content-Length: 22\r\nTransfer-Encoding: chunked\r\n\r\n" + body, {400}),
        "chunks of garbage": (chunked + b"zz\r\n" + body, {0, 400}),
        "a chunk of 2^64": (chunked + b"ffffffffffffffff1\r\n" + body, {0, 400}),
        "a chunk with an extension without end": (chunked + b"5;" + b"x" * (1 << 20), {0, 400}),
        "headers after the body without end": (chunked + b"0\r\n" + b"a: b\r\n" * 100_000, {0, 400}),
        "an event of 64 MB": (HEAD + b"Content-Length: %d\r\n\r\n" % len(large) + large, {0, 413}),
        "a bomb": (HEAD + b"Content-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(bomb) + bomb, {413}),
        "300,000 members": (HEAD + b"Content-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(tiny) + tiny, {413}),
        "brackets": (HEAD + b"Content-Length: 8000000\r\n\r\n" + b"[" * 8_000_000, {413, 422}),
        "smallest events": (HEAD + b"Content-Length: 6000000\r\n\r\n" + b"{}\n" * 2_000_000, {413}),
        "no HTTP": (bytes(range(256)) * 100, {0, 400}),
        "a header without end": (HEAD + b"X: " + b"x" * (4 << 20), {0, 400}),
        "headers without end": (HEAD + b"x: y\r\n" * 100_000, {400, 0}),
        "an address without end": (b"GET /" + b"x" * (4 << 20), {0, 400}),
        "requests before their answers": (
            b"GET /v1/freshness HTTP/1.1\r\nHost: localhost\r\n\r\n" * 10_000,
            {0, 200, 400},
        ),
    }
    for name, (content, statuses) in wrong.items():
        with _still_served(service):
            assert _status(service, content) in statuses, name
    until(lambda: site.value("select count(*) from logistics.parcels") == len(wrong), "the good events")
    assert site.column("select distinct parcel_id from logistics.parcels") == ["good"]
    assert len(service.running.stderr()) < 100_000


def test_slow_clients_are_ended(service: RunningService) -> None:
    """Who sends the head or the body of a request too slowly is ended, also with a byte now and then."""
    begun = time.monotonic()
    silent, partial = _open(service), _open(service, HEAD)
    dripping = _open(service, HEAD + b"Content-Length: 1000000\r\n\r\n")
    answered = _open(service, b"GET /v1/freshness HTTP/1.1\r\nHost: localhost\r\n\r\n")
    with silent, partial, dripping, answered, _still_served(service):
        assert answered.recv(12) == b"HTTP/1.1 200"
        ended: dict[str, bytes] = {}

        def drip() -> bool:
            for name, connection in (("partial", partial), ("dripping", dripping), ("answered", answered)):
                if name not in ended:
                    with suppress(ConnectionError):
                        connection.send(b"\r\n" if name == "answered" else b"x")
                    connection.settimeout(0.01)
                    with suppress(TimeoutError):
                        ended[name] = _answer(connection)
            return len(ended) == 3

        until(drip, "the ends of the slow clients", 90, pause=0.5)
        assert b" 408 " in ended["dripping"]
        assert _answer(silent) == b""
    assert time.monotonic() - begun < 90


def test_ten_thousand_connections(service: RunningService) -> None:
    """Ten thousand clients that say nothing, or half of a request, are bounded and take nobody's place."""
    with ExitStack() as stack, _still_served(service):
        for number in range(10_000):
            stack.enter_context(_open(service, HEAD if number % 2 else b""))
            if number % 1_000 == 999:
                fresh = httpx.Client(base_url=service.client.base_url, trust_env=False, timeout=20)
                with fresh as client:
                    assert client.get("/v1/freshness").status_code == 200, number
                    assert client.post(PARCELS, content=json.dumps({"parcel_id": f"{number}"})).status_code == 415
    process = psutil.Process(service.running.process.pid)
    until(lambda: process.num_fds() < 100, "the ends of all connections")
