"""Fresh databases of one server, in which every loaded record is a row, and the server refuses some records."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from unittest.mock import patch

import psycopg
from alembic import command
from psycopg import sql
from psycopg.conninfo import make_conninfo

from etl.database.connecting import Database, connect
from etl.database.migrations import run_migrations
from etl.database.tables import create_tables
from etl.datasets import read
from etl.embedded import Server
from etl.provisioning import migrate
from tests.support.checkout import ROOT
from tests.support.definitions import DELIVERIES
from tests.support.faults import Connection
from tests.support.site import Site

# Constraints that are in no definition: only the server refuses these records, one in some hundreds.
_REFUSED_BY_THE_SERVER = """
alter table logistics.shipments add constraint no_dozen check (pieces <> 12);
alter table logistics.deliveries add constraint no_dozen check (pieces <> 12);
"""


class Databases:
    """Fresh migrated databases of one server, with the tables of `deliveries`."""

    def __init__(self, server: Server, *, tcp: bool = False) -> None:
        self._address = server.url(tcp=tcp)
        self._count = 0
        self._make("breaking", "template1")
        template = self._conninfo("breaking")
        migrate(Database(conninfo=template), ROOT / "config")
        with tempfile.TemporaryDirectory() as folder, psycopg.connect(template, autocommit=True) as connection:
            definition = Path(folder) / "deliveries.toml"
            definition.write_text(DELIVERIES)
            create_tables(connection, read(definition))
            connection.execute(_REFUSED_BY_THE_SERVER)

    @contextmanager
    def site(self, folder: Path) -> Iterator[Site]:
        """Give a site that is deleted after its use, except for its folder."""
        self._count += 1
        name = f"breaking_{self._count}"
        self._make(name, "breaking")
        site = Site(self._conninfo(name), folder)
        site.write_definition(DELIVERIES)
        try:
            yield site
        finally:
            site.close()
            with self._maintenance() as connection:
                connection.execute(sql.SQL("drop database {} with (force)").format(sql.Identifier(name)))

    def _make(self, name: str, template: str) -> None:
        statement = sql.SQL("create database {} template {} strategy file_copy")
        with self._maintenance() as connection:
            connection.execute(statement.format(sql.Identifier(name), sql.Identifier(template)))

    def _conninfo(self, name: str) -> str:
        return make_conninfo(self._address, dbname=name)

    def _maintenance(self) -> Connection:
        return psycopg.connect(self._conninfo("postgres"), autocommit=True)


@cache
def databases_of(server: Server) -> Databases:
    """Return the fresh databases of a server; their template is created once."""
    return Databases(server)


@contextmanager
def database_at(conninfo: str, revision: str) -> Iterator[Database]:
    """Give another database of a server, with the migrations up to a revision; it is deleted after its use."""
    upgrade = command.upgrade
    with psycopg.connect(conninfo, autocommit=True) as connection:
        connection.execute("drop database if exists earlier with (force)")
        connection.execute("create database earlier")
        try:
            earlier = Database(conninfo=make_conninfo(conninfo, dbname="earlier"))
            with (
                patch.object(command, "upgrade", lambda config, _: upgrade(config, revision)),
                connect(earlier) as before,
            ):
                run_migrations(before)
            yield earlier
        finally:
            connection.execute("drop database if exists earlier with (force)")
