"""A copy of the database of a mixture: a dump of it that is restored beside it on the same server."""

import os
import subprocess
from pathlib import Path

import psycopg
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from etl.embedded import VERSION
from etl.embedded.binaries import binary


def name(conninfo: str) -> str:
    """Return the name of the copy of a database."""
    return f"{conninfo_to_dict(conninfo)['dbname']}_copy"


def address(conninfo: str) -> str:
    """Return the address of the copy of a database."""
    return make_conninfo(conninfo, dbname=name(conninfo))


def dump(conninfo: str, path: Path) -> str | None:
    """Write a dump of a database; return why it ended, if it did not succeed."""
    return _run("pg_dump", "-Fc", "-f", path, conninfo)


def restore(conninfo: str, path: Path) -> str | None:
    """Restore a dump as the copy of its database; return why it ended, if it did not succeed.

    Rights that the mixture had revoked for the moment of the dump are granted again.
    """
    with psycopg.connect(make_conninfo(conninfo, dbname="postgres"), autocommit=True) as connection:
        connection.execute(sql.SQL("create database {}").format(sql.Identifier(name(conninfo))))
    problem = _run("pg_restore", "-d", address(conninfo), path)
    with psycopg.connect(address(conninfo), autocommit=True) as connection:
        connection.execute("grant insert, update on all tables in schema logistics to etl_loader")
        connection.execute("grant update, delete on all tables in schema analytics to etl_loader")
    return problem


def _run(program: str, *words: str | Path) -> str | None:
    path = binary(program, int(os.environ.get("ETL_TEST_POSTGRES", VERSION)))
    ended = subprocess.run([path, *words], capture_output=True, text=True, check=False)
    return f"{program}: {ended.stderr[-500:]}" if ended.returncode else None
