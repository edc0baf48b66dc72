"""One embedded server per test process, a fresh database per test, and the command as a scheduler runs it."""

import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from shutil import disk_usage, rmtree
from typing import Any
from unittest import mock
from urllib.parse import quote

import psutil
import psycopg
import pytest
import structlog
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from pytest_postgresql import factories

from etl.database.connecting import Database
from etl.embedded import VERSION, Server
from etl.provisioning import migrate
from tests.support import command

ROOT = Path(__file__).resolve().parent.parent


# What every test's database holds: paths of .sql files, or callables that take host, port, user, dbname,
# password and autocommit.
def _migrate(*, host: str, port: str, user: str, dbname: str, **_: object) -> None:
    conninfo = make_conninfo("", host=host, port=port, user=user, dbname=dbname)
    migrate(Database(conninfo=conninfo), ROOT / "config")


TEMPLATE: list[Callable[..., None] | str | Path] = [_migrate]


@dataclass(frozen=True, kw_only=True)
class Address:
    """Where the embedded server is, in the words of pytest-postgresql."""

    host: str
    port: str
    user: str
    password: str | None = None
    options: str = ""
    maintenance_dbname: str = "postgres"
    template_dbname: str = "template1"


@pytest.fixture(scope="session", autouse=True)
def _loggers_look_again() -> Iterator[None]:
    """Let each log event look for the configuration of now: many commands run in this process, one after the other."""
    configure = structlog.configure

    def configure_anew(**settings: Any) -> None:
        configure(**settings | {"cache_logger_on_first_use": False})

    with mock.patch.object(structlog, "configure", configure_anew):
        yield


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Run an embedded server for all tests of this process, of the version that ETL_TEST_POSTGRES names."""
    with _quick_folder(tmp_path_factory) as folder:
        yield from _served(folder / "postgres")


@contextmanager
def _quick_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Give a folder in memory where there is room: to make and drop a database there costs a third."""
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


def _served(folder: Path) -> Iterator[Server]:
    server = Server(folder, version=int(os.environ.get("ETL_TEST_POSTGRES", VERSION)))
    server.start()
    try:
        with psycopg.connect(server.url(), autocommit=True) as connection:
            # No test pulls the plug: what a killed process leaves is safe without waiting for the disk.
            connection.execute("alter system set fsync = off")
            connection.execute("alter system set full_page_writes = off")
            # Each page of a new database is logged: to compress them took three quarters of making one.
            connection.execute("alter system set wal_compression = off")
            connection.execute("alter system set max_wal_size = '256MB'")
            connection.execute("select pg_reload_conf()")
        yield server
    finally:
        server.stop()


@pytest.fixture(scope="session")
def server_address(server: Server) -> Address:
    """Tell pytest-postgresql where the server is; the address is known only once it runs."""
    found = conninfo_to_dict(server.url())
    return Address(host=str(found["host"]), port=str(found["port"]), user=str(found["user"]))


# The first makes the template once, the second a database from it, and a connection to that, for each test.
postgresql_template = factories.postgresql_noproc(depends_on="server_address", dbname="test", load=TEMPLATE)
postgresql = factories.postgresql("postgresql_template")


@pytest.fixture
def database_url(postgresql: psycopg.Connection[tuple[Any, ...]]) -> str:
    """Return the address of the test's database."""
    info = postgresql.info
    return f"postgresql://{info.user}@/{info.dbname}?host={quote(info.host, safe='')}&port={info.port}"


@pytest.fixture
def run_etl(database_url: str, tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Return a function that runs `etl ARGUMENTS` in an empty folder and without anyone's settings.

    `env` adds variables, or removes those that it maps to None; `stdin` is what the command can read. It is a process
    of its own where the test asks for one, or does something else meanwhile: calls it from another thread.
    """

    def run(
        *arguments: str | Path,
        env: Mapping[str, str | None] | None = None,
        cwd: Path = tmp_path,
        timeout: float = 60,
        stdin: str = "",
        own_process: bool = False,
    ) -> subprocess.CompletedProcess[str]:
        words = [str(argument) for argument in arguments]
        clean: dict[str, str | None] = {name: os.environ.get(name) for name in ("PATH", "TMPDIR")}
        clean |= {"HOME": str(tmp_path), "PYTHONPATH": str(ROOT), "ETL_DATABASE_URL": database_url}
        clean |= env or {}
        variables = {name: value for name, value in clean.items() if value is not None}
        if not own_process and threading.current_thread() is threading.main_thread():
            return command.call(words, env=variables, cwd=cwd, stdin=stdin)
        return subprocess.run(
            [sys.executable, "-m", "etl", *words],
            cwd=cwd,
            env=variables,
            input=stdin,
            capture_output=True,
            encoding="utf-8",
            timeout=timeout,
            check=False,
        )

    return run
