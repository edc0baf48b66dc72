"""Facts that tests write by hand, and their aggregates."""

from typing import Any

import psycopg
from psycopg import sql

from etl.precalculation.catalogue import Aggregate, choose
from etl.precalculation.refresh import RefreshResult, refresh
from tests.support.faults import Connection
from tests.support.waiting import until


def another(connection: Connection) -> Connection:
    """Open a second connection to the same database."""
    return psycopg.connect(connection.info.dsn, password=connection.info.password, autocommit=True)


def add(connection: Connection, table: str, **values: object) -> None:
    """Add a row to a fact."""
    values |= {"etl_run": 1, "etl_batch": 0, "etl_place": 1}
    connection.execute(
        sql.SQL("insert into logistics.{} ({}) values ({})").format(
            sql.Identifier(table),
            sql.SQL(", ").join(map(sql.Identifier, values)),
            sql.SQL(", ").join(map(sql.Placeholder, values)),
        ),
        values,
    )


def refreshed(connection: Connection, name: str, *, full: bool = False) -> RefreshResult:
    """Refresh an aggregate, and return its result."""
    (aggregate,) = choose([name])
    return refresh(connection, aggregate, run=None, full=full)


def rows_of(connection: Connection, name: str, columns: str) -> list[tuple[Any, ...]]:
    """Return columns of an aggregate's rows, sorted by these."""
    names = sql.SQL(", ").join(sql.Identifier(column) for column in columns.split())
    query = sql.SQL("select {0} from analytics.{1} order by {0}").format(names, sql.Identifier(name))
    return connection.execute(query).fetchall()


def differences(connection: Connection, aggregate: Aggregate) -> list[tuple[Any, ...]]:
    """Return the rows in which an aggregate differs from the present result of its facts."""
    query = sql.SQL(
        "with fresh as ({select}) (select * from fresh except all table {table}) "
        "union all (table {table} except all select * from fresh)"
    )
    select = aggregate.computed_from_facts() if aggregate.parts else aggregate.computed()
    return connection.execute(query.format(select=select, table=aggregate.identifier)).fetchall()


def wait_until_blocked(connection: Connection, other: Connection) -> None:
    """Wait until the other connection waits for a lock."""
    query = "select coalesce(wait_event_type = 'Lock', false) from pg_stat_activity where pid = %s"
    until(
        lambda: connection.execute(query, [other.info.backend_pid]).fetchone() == (True,),
        "the session to wait for a lock",
    )
