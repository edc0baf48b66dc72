"""Servers of the tests: one that is fast, one that is as safe as in production, and a free port for one."""

import os
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from shutil import disk_usage, rmtree

import psutil
import psycopg
import pytest

from etl.embedded import VERSION, Server
from tests.support.waiting import until


def _version() -> int:
    """Return the version of PostgreSQL that the tests run on."""
    return int(os.environ.get("ETL_TEST_POSTGRES", VERSION))


@contextmanager
def quick_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Give a folder in memory if there is room: creating and dropping a database there takes a third of the time."""
    memory = Path("/dev/shm")  # noqa: S108 - the folder made there is private
    if not memory.is_dir() or not os.access(memory, os.W_OK) or disk_usage(memory).free < 4 << 30:
        yield tmp_path_factory.mktemp("server")
        return
    for left in memory.glob("etl-test-*"):
        if not psutil.pid_exists(int(left.name.rpartition("-")[2])):
            rmtree(left, ignore_errors=True)  # of tests that were killed
    folder = memory / f"etl-test-{os.getpid()}"
    folder.mkdir(mode=0o700)
    try:
        yield folder
    finally:
        rmtree(folder)


@contextmanager
def quick_server(folder: Path) -> Iterator[Server]:
    """Run a server of the version that ETL_TEST_POSTGRES names, which does not wait for the disk."""
    server = Server(folder, version=_version())
    server.start()
    try:
        with psycopg.connect(server.url(), autocommit=True) as connection:
            # No test cuts the power: data of a killed process is safe without waiting for the disk.
            connection.execute("alter system set fsync = off")
            connection.execute("alter system set full_page_writes = off")
            # Each page of a new database is logged: compression took three quarters of the time to create one.
            connection.execute("alter system set wal_compression = off")
            connection.execute("alter system set max_wal_size = '256MB'")
            # Each creation and each deletion of a database searches all buffers several times: in an eighth of the
            # memory this takes 5 ms longer than in 128 MB, which have room for the facts of a test.
            connection.execute("alter system set shared_buffers = '128MB'")
        server.stop()  # The number of buffers is read at the start.
        server.start()
        yield server
    finally:
        server.stop()


@contextmanager
def durable_server(folder: Path) -> Iterator[Server]:
    """Run a server in a folder which waits for the disk as in production, and which can lose much in a crash."""
    server = Server(folder / "postgres", version=_version())
    server.start()
    try:
        with psycopg.connect(server.url(), autocommit=True) as connection:
            # Other flushes of the server's log would hide the data that a crash can lose.
            connection.execute("alter system set autovacuum = off")
            connection.execute("alter system set bgwriter_lru_maxpages = 0")
            connection.execute("select pg_reload_conf()")
        yield server
    finally:
        server.stop()


def restart_immediately(server: Server) -> None:
    """End a server as `pg_ctl stop -m immediate` does, without a checkpoint, and start it: it recovers from its log."""
    pid = server.status().pid
    assert pid is not None
    os.kill(pid, signal.SIGQUIT)
    until(lambda: not server.status().running, "the end of the server")
    server.start()


def free_port() -> int:
    """Return a free port of this machine."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port
