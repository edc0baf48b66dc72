"""A table that is rewritten while an aggregate is computed, compared or shown never looks empty to it."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import LiteralString

import pytest

from etl.precalculation.catalogue import Aggregate, choose
from etl.precalculation.refresh import refresh
from etl.precalculation.verify import verify
from etl.report import ReportRequest, draw
from tests.support.company import ship
from tests.support.facts import another, differences, refreshed, wait_until_blocked
from tests.support.faults import Connection
from tests.support.waiting import until

REWRITES: dict[str, LiteralString] = {
    "another type": "alter table logistics.shipments alter column pieces type bigint",
    "a column with a volatile default": "alter table logistics.shipments add column token float default random()",
    "a table made anew": (
        "create table logistics.anew (like logistics.shipments including all);"
        " insert into logistics.anew select * from logistics.shipments;"
        " alter table logistics.shipments rename to old; alter table logistics.anew rename to shipments"
    ),
}


@contextmanager
def _rewritten_beside(
    connection: Connection, statement: LiteralString, work: Callable[[Connection], object]
) -> Iterator[None]:
    """Run `work` over another connection, hold it up where it reads etl.refreshes, and then rewrite a table.

    The statement waits for the work, or the work sees the tables as the statement leaves them.
    """
    rewritten = threading.Event()
    with another(connection) as worker, another(connection) as holder, another(connection) as changer:

        def change() -> None:
            with changer.transaction():
                changer.execute(statement)
            rewritten.set()

        threads = [threading.Thread(target=work, args=(worker,)), threading.Thread(target=change)]
        with holder.transaction():
            holder.execute("lock table etl.refreshes in access exclusive mode")
            threads[0].start()
            wait_until_blocked(connection, worker)
            threads[1].start()
            until(lambda: rewritten.is_set() or _is_blocked(connection, changer), "the statement")
        for thread in threads:
            thread.join()
    yield


def _is_blocked(connection: Connection, other: Connection) -> bool:
    query = "select wait_event_type = 'Lock' from pg_stat_activity where pid = %s"
    return connection.execute(query, [other.info.backend_pid]).fetchone() == (True,)


@pytest.fixture
def connection(connection: Connection) -> Connection:
    """Give a database with ten shipments of ten days and their refreshed aggregate."""
    for number in range(10):
        ship(connection, f"S{number}", f"2026-03-{number + 1:02}")
    refreshed(connection, "daily_shipments")
    return connection


@pytest.mark.parametrize("rewrite", REWRITES)
def test_a_fact_rewritten_during_a_refresh_does_not_look_empty(connection: Connection, rewrite: str) -> None:
    """The refresh locks its facts before its snapshot, so it computes its buckets over all rows."""
    connection.execute("update logistics.shipments set weight_kg = 7 where shipment_id < 'S5'")
    with _rewritten_beside(connection, REWRITES[rewrite], lambda worker: refreshed(worker, "daily_shipments")):
        assert connection.execute("select sum(count_shipments) from analytics.daily_shipments").fetchone() == (10,)
        assert not differences(connection, choose(["daily_shipments"])[0])


def _of_a_view() -> Aggregate:
    """Return an aggregate that reads a fact only through a view, which its head does not name."""
    (aggregate,) = choose(["daily_shipments"])
    return replace(aggregate, select=aggregate.select.replace("logistics.shipments", "public.seen"))


@pytest.mark.parametrize("is_full", [False, True])
def test_a_table_that_the_head_does_not_name_is_looked_at_after_the_work(connection: Connection, is_full: bool) -> None:
    """A table of a view is locked when it is read; rewritten before that, the refresh begins again."""
    connection.execute("create table public.copied as table logistics.shipments")
    connection.execute("create view public.seen as table public.copied")
    refresh(connection, _of_a_view(), run=None)
    ship(connection, "S3", "2026-03-04", weight=7)
    statement: LiteralString = "alter table public.copied add column token uuid default gen_random_uuid()"
    with _rewritten_beside(connection, statement, lambda worker: refresh(worker, _of_a_view(), run=None, full=is_full)):
        assert connection.execute("select sum(count_shipments) from analytics.daily_shipments").fetchone() == (10,)
        pending = "select pending_buckets from analytics.freshness where aggregate = 'daily_shipments'"
        assert connection.execute(pending).fetchone() == (0,)


def test_a_fact_rewritten_during_a_verification_does_not_look_empty(connection: Connection) -> None:
    """A comparison finds no difference that is not there."""
    (aggregate,) = choose(["daily_shipments"])
    found: list[int] = []

    def compare(worker: Connection) -> None:
        found.append(verify(worker, aggregate).differences)

    with _rewritten_beside(connection, REWRITES["another type"], compare):
        assert found == [0]


def test_an_aggregate_rewritten_during_a_report_does_not_look_empty(connection: Connection) -> None:
    """A report on an aggregate shows all of its rows."""
    (aggregate,) = choose(["daily_shipments"])
    rows: list[int] = []

    def show(worker: Connection) -> None:
        rows.append(draw(worker, ReportRequest(aggregate=aggregate)).count_all)

    statement: LiteralString = "alter table analytics.daily_shipments alter column count_shipments type numeric"
    with _rewritten_beside(connection, statement, show):
        assert rows == [10]
