"""Network faults between loader and server (cuts, delays, lost packets): no record is lost or loaded twice."""

import ctypes
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Literal

import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from etl.embedded import Server
from tests.support.cases import Case
from tests.support.databases import Databases
from tests.support.servers import free_port
from tests.support.site import Site
from tests.support.states import assert_sound
from tests.support.waiting import until

RECORDS = 600
BATCHES = 6

# The places of the cuts in the slow tests, as shares of all the bytes of a load.
SHARES = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99, 0.999)

Side = Literal["to the server", "to the loader"]

# From <asm-generic/socket.h>: attaches a filter that the kernel runs on each segment before TCP receives it.
_SO_ATTACH_FILTER = 26
_SO_DETACH_FILTER = 27


class _Instruction(ctypes.Structure):
    _fields_ = (("code", ctypes.c_ushort), ("jt", ctypes.c_ubyte), ("jf", ctypes.c_ubyte), ("k", ctypes.c_uint32))


# One instruction: return 0, the number of bytes to keep.
_DROP_ALL = (_Instruction * 1)(_Instruction(6, 0, 0, 0))


class Relay:
    """A TCP relay in front of a server; a test tells it when to cut, delay or drop the traffic."""

    def __init__(self, conninfo: str) -> None:
        self._server = conninfo_to_dict(conninfo)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._open: list[socket.socket] = []
        self._forgotten: list[socket.socket] = []
        self._threads: list[threading.Thread] = []
        self._lock = threading.Lock()
        self._passing = threading.Event()
        self._passing.set()
        self._swallows: set[socket.socket] = set()
        self.passed: dict[Side, int] = {"to the server": 0, "to the loader": 0}
        self.cut_at: tuple[Side, int] | None = None
        self.swallow_answer_to_commit: int | None = None
        self.delay_seconds = 0.0
        self.commits = 0
        self.cuts = 0
        self._begin(self._accept)

    @property
    def conninfo(self) -> str:
        """Return the connection string of the database through this relay."""
        return make_conninfo(
            **self._server
            | {
                "host": "127.0.0.1",
                "port": self._listener.getsockname()[1],
                "sslmode": "disable",
                "gssencmode": "disable",
            }
        )

    @contextmanager
    def black_hole(self) -> Iterator[None]:
        """Drop all packets of both sides: neither side is notified, and nothing is acknowledged."""
        self._passing.clear()
        with self._lock:
            for each in (self._listener, *self._open):
                _drop_all(each)
        yield
        with self._lock:
            for each in (self._listener, *self._open):
                if each.family == socket.AF_INET:
                    each.setsockopt(socket.SOL_SOCKET, _SO_DETACH_FILTER, 0)
        self._passing.set()

    def forget_connections(self) -> None:
        """Drop all packets of the present connections for good; new connections work."""
        with self._lock:
            for each in self._open:
                _drop_all(each)
            self._forgotten += self._open
            self._open = []

    def close(self) -> None:
        """End all connections."""
        self._passing.set()
        self._listener.shutdown(socket.SHUT_RDWR)
        with self._lock:
            _end(*self._open, *self._forgotten)
        for thread in self._threads:
            thread.join(10)
        for each in (self._listener, *self._open, *self._forgotten):
            each.close()

    def _begin(self, target: Callable[..., None], *arguments: object) -> None:
        thread = threading.Thread(target=target, args=arguments, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                loader, _ = self._listener.accept()
                server = self._reach()
                with self._lock:
                    self._open += [loader, server]
                self._begin(self._pump, "to the server", loader, server)
                self._begin(self._pump, "to the loader", server, loader)

    def _reach(self) -> socket.socket:
        host, port = str(self._server["host"]), int(str(self._server["port"]))
        if not host.startswith("/"):
            return socket.create_connection((host, port))
        server = socket.socket(socket.AF_UNIX)
        server.connect(f"{host}/.s.PGSQL.{port}")
        return server

    def _pump(self, side: Side, source: socket.socket, target: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(1 << 16):
                if self.delay_seconds:
                    time.sleep(self.delay_seconds)  # simulates a slow network
                self._passing.wait()
                if not self._pass(side, data, source, target):
                    return
        _end(source, target)

    def _pass(self, side: Side, data: bytes, source: socket.socket, target: socket.socket) -> bool:
        """Send bytes to the other side; return False when the connection was cut instead."""
        if side == "to the loader" and source in self._swallows and b"COMMIT\0" in data:
            self._cut()
            return False
        if side == "to the server" and b"COMMIT\0" in data:
            self.commits += 1
            if self.commits == self.swallow_answer_to_commit:
                self._swallows.add(target)
        if self.cut_at and self.cut_at[0] == side and self.passed[side] + len(data) >= self.cut_at[1]:
            target.sendall(data[: self.cut_at[1] - self.passed[side]])
            self.cut_at = None
            self._cut()
            return False
        self.passed[side] += len(data)
        target.sendall(data)
        return True

    def _cut(self) -> None:
        """Cut all connections so that both sides are notified."""
        with self._lock:
            self.cuts += 1
            _end(*self._open)


def _end(*ends: socket.socket) -> None:
    for each in ends:
        with suppress(OSError):
            each.shutdown(socket.SHUT_RDWR)


def _drop_all(each: socket.socket) -> None:
    if each.family == socket.AF_INET:
        program = struct.pack("HP", 1, ctypes.addressof(_DROP_ALL))
        each.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, program)


@pytest.fixture
def relay(site: Site) -> Iterator[Relay]:
    """Give a relay in front of the server of the site."""
    relay = Relay(site.conninfo)
    yield relay
    relay.close()


@pytest.fixture(scope="module")
def traffic(databases: Databases, merged: Case, tmp_path_factory: pytest.TempPathFactory) -> dict[Side, int]:
    """Return the number of bytes that each side sends in a load without faults."""
    with databases.site(tmp_path_factory.mktemp("traffic")) as site:
        relay = Relay(site.conninfo)
        ended = site.run(*merged.command, "--batch-rows", "100", conninfo=relay.conninfo)
        relay.close()
        assert ended.returncode == 1, ended.stderr
        assert relay.commits >= BATCHES + 1
        merged.assert_done(site)
    return relay.passed


@pytest.mark.parametrize(
    ("side", "share"),
    [
        *(("to the server", share) for share in (0.0, 0.3, 0.97)),
        *(("to the loader", share) for share in (0.25, 0.65)),
        *(pytest.param("to the server", share, marks=pytest.mark.slow) for share in SHARES),
        *(pytest.param("to the loader", share, marks=pytest.mark.slow) for share in SHARES),
    ],
)
def test_a_connection_that_is_cut(
    site: Site, relay: Relay, merged: Case, traffic: dict[Side, int], side: Side, share: float
) -> None:
    """When a connection is cut at any byte, the load continues, or it is exit code 4 and the next load completes it."""
    relay.cut_at = (side, int(traffic[side] * share) + 1)
    ended = site.run(*merged.command, "--batch-rows", "100", conninfo=relay.conninfo)
    assert relay.cuts == 1
    assert ended.returncode in {1, 4}, ended.stderr
    assert_sound(site)
    if ended.returncode == 4:
        assert site.run(*merged.command, "--batch-rows", "70", conninfo=relay.conninfo).returncode == 1
    merged.assert_done(site)


# The first commit records the run, the last one its end; those between are of the batches.
@pytest.mark.parametrize("number", [1, 2, 4, BATCHES + 1, BATCHES + 2])
def test_an_answer_to_commit_that_is_lost(site: Site, relay: Relay, appended: Case, number: int) -> None:
    """A batch whose commit was not confirmed is not loaded twice: the ledger shows that it was committed."""
    relay.swallow_answer_to_commit = number
    ended = site.run(*appended.command, "--batch-rows", "100", conninfo=relay.conninfo)
    assert relay.cuts == 1
    assert_sound(site)
    if number == 1:
        assert ended.returncode == 4
        ended = site.run(*appended.command, "--batch-rows", "100", conninfo=relay.conninfo)
    else:
        assert ended.summary["batches"]["retried"] == 1
    assert ended.returncode == 1
    assert site.value("select count(*) from etl.runs") == 1
    appended.assert_done(site)


@pytest.mark.parametrize("seconds", [0.005, pytest.param(0.05, marks=pytest.mark.slow)])
def test_a_slow_network(site: Site, relay: Relay, appended: Case, seconds: float) -> None:
    """A delay of milliseconds in each direction makes a load slower; its result is the same."""
    relay.delay_seconds = seconds
    ended = site.run(*appended.command, "--batch-rows", "300", conninfo=relay.conninfo)
    assert ended.returncode == 1
    assert ended.summary["batches"]["retried"] == 0
    appended.assert_done(site)


@pytest.mark.parametrize("seconds", [2, pytest.param(20, marks=pytest.mark.slow)])
def test_a_network_that_is_gone_for_a_while(site: Site, relay: Relay, appended: Case, seconds: float) -> None:
    """When all packets are lost for some seconds, the load waits and continues over the same connection."""
    running = site.start(*appended.command, "--batch-rows", "100", conninfo=relay.conninfo)
    until(lambda: site.count_batches() >= 2, "two batches")
    with relay.black_hole():
        time.sleep(seconds)  # the duration of the outage
        before = site.count_batches()
        assert before < BATCHES
    ended = running.ended()
    assert ended.returncode == 1
    assert ended.summary["batches"]["retried"] == 0
    assert ended.summary["seconds"] > seconds
    appended.assert_done(site)


@pytest.fixture(scope="module")
def tcp_databases(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Databases]:
    """Give fresh databases of a server with TCP connections, so that the server notices a dead one."""
    server = Server(tmp_path_factory.mktemp("tcp") / "postgres")
    server.start(port=free_port())
    yield Databases(server, tcp=True)
    server.stop()


@pytest.mark.slow
@pytest.mark.parametrize("gone", ["the connection", "all for 45 s"])
def test_a_connection_that_both_sides_have_to_give_up(
    tcp_databases: Databases, appended: Case, tmp_path: Path, gone: str
) -> None:
    """When no packet reports the loss, the load continues: its old backend gives up and releases the lock."""
    with tcp_databases.site(tmp_path) as site, site.gate("logistics.deliveries", "in COPY", 100_000) as gate:
        relay = Relay(site.conninfo)
        running = site.start(*appended.command, "--batch-rows", "100", conninfo=relay.conninfo)
        gate.reached()
        started = time.monotonic()
        if gone == "the connection":
            relay.forget_connections()
            gate.open()
        else:
            with relay.black_hole():
                gate.open()
                time.sleep(45)  # longer than both sides wait for an answer
        ended = running.ended(240)
        seconds = time.monotonic() - started
        relay.close()
        assert ended.returncode == 1
        assert ended.summary["batches"]["retried"] >= 1
        assert seconds < 120
        appended.assert_done(site)
