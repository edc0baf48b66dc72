"""One embedded server per test process, a fresh database per test, and the command as a scheduler runs it."""

import logging
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import psycopg
import pytest
import structlog
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from pytest_postgresql import factories

from etl.database import Database
from etl.embedded import VERSION, Server
from etl.provisioning import migrate

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


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Run an embedded server for all tests of this process, of the version that ETL_TEST_POSTGRES names."""
    version = int(os.environ.get("ETL_TEST_POSTGRES", VERSION))
    server = Server(tmp_path_factory.mktemp("server") / "postgres", version=version)
    server.start()
    try:
        with psycopg.connect(server.url(), autocommit=True) as connection:
            # No test pulls the plug: what a killed process leaves is safe without waiting for the disk.
            connection.execute("alter system set fsync = off")
            connection.execute("alter system set full_page_writes = off")
            # Each page of a new database is logged: to compress them took three quarters of making one.
            connection.execute("alter system set wal_compression = off")
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

    `env` adds variables, or removes those that it maps to None; `stdin` is what the command can read.
    """

    def run(
        *arguments: str | Path,
        env: Mapping[str, str | None] | None = None,
        cwd: Path = tmp_path,
        timeout: float = 60,
        stdin: str = "",
    ) -> subprocess.CompletedProcess[str]:
        clean: dict[str, str | None] = {name: os.environ.get(name) for name in ("PATH", "TMPDIR")}
        clean |= {"HOME": str(tmp_path), "PYTHONPATH": str(ROOT), "ETL_DATABASE_URL": database_url}
        clean |= env or {}
        return subprocess.run(
            [sys.executable, "-m", "etl", *map(str, arguments)],
            cwd=cwd,
            env={name: value for name, value in clean.items() if value is not None},
            input=stdin,
            capture_output=True,
            encoding="utf-8",
            timeout=timeout,
            check=False,
        )

    return run


@pytest.fixture
def run_here(
    database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Iterator[Callable[..., subprocess.CompletedProcess[str]]]:
    """Return a function as `run_etl` that runs the command in this process, which takes a tenth of the time."""
    from etl.cli import run  # noqa: PLC0415 - few tests need it

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ETL_DATABASE_URL", database_url)
    root = logging.getLogger()
    before = root.level, root.handlers[:]

    def run_here(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
        words = [str(word) for word in arguments]
        capfd.readouterr()
        code = run(words)
        told = capfd.readouterr()
        return subprocess.CompletedProcess(words, code, told.out, told.err)

    yield run_here
    root.level, root.handlers[:] = before
    structlog.reset_defaults()
