"""One embedded server per test process, and for each test a fresh database, in which commands run."""

import gc
import signal
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock
from urllib.parse import quote

import coverage
import psycopg
import pytest
import structlog
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from pytest_postgresql import factories
from pytest_postgresql.executors import NoopExecutor

from etl.database.connecting import Database, connect
from etl.datasets import Dataset, read
from etl.embedded import Server
from etl.provisioning import migrate
from tests.support.checkout import MEASURED, ROOT
from tests.support.commands import RunEtl
from tests.support.definitions import Define
from tests.support.faults import Connection
from tests.support.fresh_databases import FreshDatabases
from tests.support.servers import quick_folder, quick_server
from tests.support.site import Site

# The rooms whose tests look at facts and ledger only.
WITHOUT_AGGREGATES = {"destination", "failed_store", "framing", "ledger", "pipeline", "sources", "transform"}


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


def pytest_collection_finish() -> None:
    """Leave what was imported and collected out of the search for cycles, which takes a part of each test."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)


def pytest_sessionfinish() -> None:
    """Save what `make coverage` measured in this process: xdist kills a process that takes ten seconds to end."""
    if MEASURED and (measurement := coverage.Coverage.current()):
        measurement.save()


@pytest.fixture(scope="session", autouse=True)
def _sighup_is_not_ignored() -> None:
    """Let SIGHUP have its effect in programs that tests start: under nohup they would inherit that it is ignored."""
    if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
        signal.signal(signal.SIGHUP, lambda *_: None)  # this process still ignores it; an exec forgets a handler


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
    """Run an embedded server for all tests of this process."""
    with quick_folder(tmp_path_factory) as folder, quick_server(folder / "postgres") as server:
        yield server


@pytest.fixture(scope="session")
def server_address(server: Server) -> Address:
    """Return where the server is; the address is known only once it runs."""
    address = conninfo_to_dict(server.url())
    return Address(host=str(address["host"]), port=str(address["port"]), user=str(address["user"]))


# Creates the template once.
postgresql_template = factories.postgresql_noproc(depends_on="server_address", dbname="test", load=TEMPLATE)


@pytest.fixture(scope="session")
def postgresql_maintenance(postgresql_template: NoopExecutor) -> Iterator[Connection]:
    """Give the session that creates and drops the databases of all tests."""
    address = make_conninfo(
        host=postgresql_template.host,
        port=postgresql_template.port,
        user=postgresql_template.user,
        dbname=postgresql_template.maintenance_dbname,
    )
    with psycopg.connect(address, autocommit=True) as connection:
        yield connection


@pytest.fixture(scope="session")
def fresh_databases(postgresql_maintenance: Connection, postgresql_template: NoopExecutor) -> Iterator[FreshDatabases]:
    """Give the databases of all tests, one after the other."""
    databases = FreshDatabases(postgresql_maintenance, postgresql_template.dbname, postgresql_template.template_dbname)
    yield databases
    databases.delete()


@pytest.fixture
def postgresql(fresh_databases: FreshDatabases, postgresql_maintenance: Connection) -> Iterator[Connection]:
    """Give a connection to a database of the test's own.

    The fixture of pytest-postgresql connects four times, lets each page of the database be logged, and deletes it also
    when the test wrote nothing: this one costs less than half.
    """
    with (
        fresh_databases.one() as name,
        closing(psycopg.connect(make_conninfo(postgresql_maintenance.info.dsn, dbname=name))) as connection,
    ):
        yield connection


@pytest.fixture
def connection(postgresql: Connection) -> Connection:
    """Give an autocommit connection to the test's database, which is fresh and migrated."""
    postgresql.autocommit = True
    return postgresql


@pytest.fixture
def database_url(postgresql: Connection) -> str:
    """Return the address of the test's database."""
    info = postgresql.info
    return f"postgresql://{info.user}@/{info.dbname}?host={quote(info.host, safe='')}&port={info.port}"


@pytest.fixture
def loader_session(database_url: str) -> Iterator[Connection]:
    """Give a connection with the session settings of the loader."""
    with connect(Database(conninfo=database_url)) as connection:
        yield connection


@pytest.fixture
def define(tmp_path: Path) -> Define:
    """Return a function that reads the text of a definition, called `parcels` unless it is said."""

    def define(text: str, name: str = "parcels") -> Dataset:
        path = tmp_path / f"{name}.toml"
        path.write_text(text, encoding="utf-8")
        return read(path)

    return define


@pytest.fixture
def site(request: pytest.FixtureRequest, database_url: str, tmp_path: Path) -> Iterator[Site]:
    """Give the test's database and its folder, in which commands run without anyone's settings.

    The loads of the rooms of `etl.ingestion` leave the aggregates alone, except in tests that are marked `aggregates`:
    a refresh takes a third of the time of a small load.
    """
    looks = request.path.parent.name not in WITHOUT_AGGREGATES or request.node.get_closest_marker("aggregates")
    site = Site(database_url, tmp_path, precalculates=bool(looks))
    yield site
    site.close()


@pytest.fixture
def run_etl(site: Site) -> RunEtl:
    """Return a function that runs `etl ARGUMENTS` in the test's folder and database (`Site.run`)."""
    return site.run
