"""A TCP relay in front of a server, which cuts, delays, drops or swallows the traffic."""

import ctypes
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Literal

from psycopg.conninfo import conninfo_to_dict, make_conninfo

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
        self._silent: set[socket.socket] = set()
        self.swallows_new = False
        self.has_swallowed = False
        self.passed: dict[Side, int] = {"to the server": 0, "to the loader": 0}
        self.cut_at: tuple[Side, int] | None = None
        self.swallow_at: tuple[Side, int] | None = None
        self.swallows_new_at = False
        self.swallow_answer_to_commit: int | None = None
        self.keeps_server = False
        self._kept: list[socket.socket] = []
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

    @contextmanager
    def away(self) -> Iterator[None]:
        """Cut all connections and refuse new ones, like a host whose server is down."""
        address = self._listener.getsockname()
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._cut()
        yield
        with self._lock:
            for each in self._open:
                each.close()
            self._open = []
        self._listener = socket.create_server(address)
        self._begin(self._accept)

    def forget_connections(self) -> None:
        """Drop all packets of the present connections for good; new connections work."""
        with self._lock:
            for each in self._open:
                _drop_all(each)
            self._forgotten += self._open
            self._open = []

    def swallow(self, *, new: bool = False) -> None:
        """Take all bytes of the present connections, and of new ones, and pass none on; nobody is notified."""
        self.swallows_new = new
        self.has_swallowed = True
        with self._lock:
            self._silent.update(self._open)

    def close(self) -> None:
        """End all connections."""
        self._passing.set()
        self._listener.shutdown(socket.SHUT_RDWR)
        with self._lock:
            _end(*self._open, *self._forgotten, *self._kept)
        for thread in self._threads:
            thread.join(10)
        for each in (self._listener, *self._open, *self._forgotten, *self._kept):
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
                    self._silent.update([loader, server] if self.swallows_new else [])
                self._begin(self._pump, "to the server", loader, server)
                self._begin(self._pump, "to the loader", server, loader)

    def _reach(self) -> socket.socket:
        host, port = str(self._server["host"]), int(str(self._server.get("port", 5432)))
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
        _end(*(each for each in (source, target) if each not in self._kept))

    def _pass(self, side: Side, data: bytes, source: socket.socket, target: socket.socket) -> bool:
        """Send bytes to the other side; return False when the connection was cut instead."""
        if source in self._silent:
            return True
        if self.swallow_at and self.swallow_at[0] == side and self.passed[side] + len(data) >= self.swallow_at[1]:
            self.swallow_at = None
            self.swallow(new=self.swallows_new_at)
            return True
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
        """Cut all connections so that both sides are notified; the server's only later, if it keeps its sessions."""
        with self._lock:
            self.cuts += 1
            if self.keeps_server:
                self._kept = self._open[1::2]
                self._open = self._open[::2]
            _end(*self._open)

    def end_kept(self) -> None:
        """Notify the server of the connections that were cut for the loader."""
        _end(*self._kept)


def _end(*ends: socket.socket) -> None:
    for each in ends:
        with suppress(OSError):
            each.shutdown(socket.SHUT_RDWR)


def _drop_all(each: socket.socket) -> None:
    if each.family == socket.AF_INET:
        program = struct.pack("HP", 1, ctypes.addressof(_DROP_ALL))
        each.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, program)
