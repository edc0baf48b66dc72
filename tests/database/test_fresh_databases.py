from collections.abc import Callable, Iterator
from typing import LiteralString

import psycopg
import pytest
from psycopg.conninfo import make_conninfo
from pytest_postgresql.executors import NoopExecutor

from tests.support.faults import Connection
from tests.support.fresh_databases import FreshDatabases


@pytest.fixture
def fresh(postgresql_maintenance: Connection, postgresql_template: NoopExecutor) -> Iterator[FreshDatabases]:
    """Give databases beside those of other tests."""
    databases = FreshDatabases(
        postgresql_maintenance, f"{postgresql_template.dbname}_fresh", postgresql_template.template_dbname
    )
    yield databases
    databases.delete()


@pytest.fixture
def number(fresh: FreshDatabases, postgresql_maintenance: Connection) -> Callable[[LiteralString], int]:
    """Return a function that lets a test run statements, and returns the number of its database in the server."""

    def number(statements: LiteralString) -> int:
        with (
            fresh.one() as name,
            psycopg.connect(make_conninfo(postgresql_maintenance.info.dsn, dbname=name), autocommit=True) as connection,
        ):
            [(number,)] = connection.execute("select oid from pg_database where datname = current_database()")
            connection.execute(statements)
            return int(number)

    return number


def test_an_untouched_database_is_used_again(number: Callable[[LiteralString], int]) -> None:
    """A test that only reads leaves its database to the next test."""
    read = "select count(*) from logistics.shipments"
    assert number(read) == number(f"begin; {read}; rollback") == number("select")


@pytest.mark.parametrize(
    "statements",
    [
        "delete from etl.runs; create table written ()",
        "begin; create table written (); rollback",
        "alter database current_name set work_mem = '1MB'",
        "create sequence numbers; select nextval('numbers')",
        "create temp table written ()",
        "select lo_create(0)",
        "create unlogged table written ()",
    ],
)
def test_a_database_that_was_written_to_is_deleted(
    number: Callable[[LiteralString], int], fresh: FreshDatabases, statements: LiteralString
) -> None:
    """After a write of any kind, also one that was rolled back, the next test has another database."""
    first = number("select")
    assert number(statements.replace("current_name", f'"{fresh.name}"')) == first
    assert number("select") != first


def test_a_database_that_is_in_use_is_deleted(
    number: Callable[[LiteralString], int], fresh: FreshDatabases, postgresql_maintenance: Connection
) -> None:
    """A session that a test left ends with its database, before it can write."""
    first = number("select")
    with fresh.one() as name:
        left = psycopg.connect(make_conninfo(postgresql_maintenance.info.dsn, dbname=name), autocommit=True)
    with left, pytest.raises(psycopg.errors.AdminShutdown):
        left.execute("create table written ()")
    assert number("select") != first
