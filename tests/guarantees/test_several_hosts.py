"""A load by workers on several hosts, each with a network and an address of its own; one is cut off, one is killed."""

import os
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, suppress
from pathlib import Path

import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from tests.support.cases import Case
from tests.support.site import Site

RECORDS = 1_600

_NETWORK = "10.213.77"

_CAN_MAKE_HOSTS = os.geteuid() == 0 and shutil.which("ip") is not None


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)


class Hosts:
    """Network namespaces at one bridge, which is the address of this host: 10.213.77.1."""

    def __init__(self) -> None:
        self.address = f"{_NETWORK}.1"
        self._bridge = f"etlb{os.getpid() % 10_000}"
        self._made: list[tuple[str, str]] = []
        _ip("link", "add", self._bridge, "type", "bridge")
        _ip("addr", "add", f"{self.address}/24", "dev", self._bridge)
        _ip("link", "set", self._bridge, "up")

    def make(self, number: int) -> str:
        """Make a host, and return the name of its namespace."""
        name = f"etl{number}-{os.getpid()}"
        outside = f"etlv{number}x{os.getpid() % 10_000}"
        _ip("netns", "add", name)
        self._made.append((name, outside))
        _ip("link", "add", outside, "type", "veth", "peer", "name", "eth0", "netns", name)
        _ip("link", "set", outside, "master", self._bridge, "up")
        _ip("-n", name, "addr", "add", f"{_NETWORK}.{number}/24", "dev", "eth0")
        _ip("-n", name, "link", "set", "eth0", "up")
        _ip("-n", name, "link", "set", "lo", "up")
        return name

    def cut_off(self, name: str) -> None:
        """Let no packet reach a host, nor leave it; nobody is notified."""
        _ip("-n", name, "link", "set", "eth0", "down")

    def close(self) -> None:
        """Remove all of it."""
        for name, outside in self._made:
            for words in (("link", "del", outside), ("netns", "del", name)):
                with suppress(subprocess.CalledProcessError):
                    _ip(*words)
        with suppress(subprocess.CalledProcessError):
            _ip("link", "del", self._bridge)


class Door:
    """Lets the hosts reach a server that listens on this host only, by the address that they see."""

    def __init__(self, address: str, conninfo: str) -> None:
        self._server = conninfo_to_dict(conninfo)
        self._listener = socket.create_server((address, 0))
        self._open = [self._listener]
        self._threads: list[threading.Thread] = []
        self._begin(self._accept)

    @property
    def conninfo(self) -> str:
        """The connection string of the database through the door."""
        host, port = self._listener.getsockname()
        return make_conninfo(
            **self._server | {"host": host, "port": port, "sslmode": "disable", "gssencmode": "disable"}
        )

    def _begin(self, function: Callable[..., None], *arguments: socket.socket) -> None:
        thread = threading.Thread(target=function, args=arguments)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                # As the sessions of the program ask the server: a host that is cut off is noticed.
                client.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
                for name, value in (("KEEPIDLE", 5), ("KEEPINTVL", 2), ("KEEPCNT", 3), ("USER_TIMEOUT", 10_000)):
                    client.setsockopt(socket.IPPROTO_TCP, getattr(socket, f"TCP_{name}"), value)
                server = self._connected()
                self._open += [client, server]
                self._begin(self._copy, client, server)
                self._begin(self._copy, server, client)

    def _connected(self) -> socket.socket:
        host, port = str(self._server["host"]), int(str(self._server["port"]))
        if not host.startswith("/"):
            return socket.create_connection((host, port))
        server = socket.socket(socket.AF_UNIX)
        server.connect(f"{host}/.s.PGSQL.{port}")
        return server

    def _copy(self, one: socket.socket, other: socket.socket) -> None:
        with suppress(OSError):
            while data := one.recv(1 << 16):
                other.sendall(data)
        # Whichever side ended, also by giving no answer: the other one is notified.
        with suppress(OSError):
            other.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """End all connections."""
        for each in self._open:
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()
        for each in self._open:
            each.close()


@pytest.fixture
def hosts() -> Iterator[Hosts]:
    """Give hosts to be made."""
    with ExitStack() as stack:
        try:
            made = Hosts()
        except subprocess.CalledProcessError as error:
            pytest.skip(f"this machine lets nobody make networks: {error.stderr.decode().strip()}")
        stack.callback(made.close)
        yield made


class Cluster:
    """A scheduler on this host, and workers on the others."""

    def __init__(self, hosts: Hosts, site: Site, folder: Path) -> None:
        with socket.socket() as free:
            free.bind((hosts.address, 0))
            self.address = f"tcp://{hosts.address}:{free.getsockname()[1]}"
        self._env = site.environment(
            {
                "ETL_DATABASE_URL": None,
                "DASK_DISTRIBUTED__SCHEDULER__WORKER_TTL": "10s",
                "DASK_DISTRIBUTED__COMM__TIMEOUTS__TCP": "15s",
                "DASK_DISTRIBUTED__COMM__TIMEOUTS__CONNECT": "5s",
            }
        )
        self._folder = folder
        self._processes: list[subprocess.Popen[bytes]] = []
        self._start([], "scheduler", "--host", self.address, "--no-dashboard")

    def worker(self, host: str) -> subprocess.Popen[bytes]:
        """Start a worker on a host."""
        words = ("worker", self.address, "--no-nanny", "--no-dashboard", "--nthreads", "1", "--name", host)
        return self._start(["ip", "netns", "exec", host], *words)

    def _start(self, before: list[str], *words: str) -> subprocess.Popen[bytes]:
        command = [*before, sys.executable, "-m", f"distributed.cli.dask_{words[0]}", *words[1:]]
        with (self._folder / f"{words[0]}-{len(self._processes)}.log").open("wb") as output:
            started = subprocess.Popen(command, env=self._env, cwd=self._folder, stdout=output, stderr=output)
        self._processes.append(started)
        return started

    def close(self) -> None:
        """End all of it."""
        for each in reversed(self._processes):
            each.kill()
            each.wait()


@pytest.mark.slow
@pytest.mark.skipif(not _CAN_MAKE_HOSTS, reason="only the superuser makes network namespaces, by the program ip")
def test_hosts_are_cut_off_and_killed_while_a_source_loads(
    site: Site, appended: Case, hosts: Hosts, tmp_path: Path
) -> None:
    """Of three hosts one is cut off in the midst and one is killed: the third loads the rest, nothing twice."""
    with (
        closing(Cluster(hosts, site, tmp_path)) as cluster,
        closing(Door(hosts.address, site.conninfo)) as door,
    ):
        names = [hosts.make(number) for number in (2, 3, 4)]
        workers = [cluster.worker(name) for name in names]
        options = ("--executor", f"dask:{cluster.address}", "--batch-rows", "4", "--workers", "3")
        running = site.start(*appended.command, *options, conninfo=door.conninfo)
        site.wait_for_batches(20, running)
        hosts.cut_off(names[0])
        site.wait_for_batches(60, running)
        workers[1].kill()
        ended = running.ended(240)
    assert ended.returncode == 1, ended.stderr
    appended.assert_done(site)
