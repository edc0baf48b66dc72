"""A refresh of one bucket reads the facts of that bucket by an index, never those of all years."""

from collections.abc import Iterator
from typing import Any

import pytest
from psycopg import sql

from etl import queries
from etl.precalculation.buckets import BucketRange
from etl.precalculation.catalogue import choose, read_all
from tests.support.faults import Connection


@pytest.fixture
def connection(connection: Connection) -> Connection:
    """Give a database with facts of four thousand days."""
    connection.execute(
        """
        set session_replication_role = replica;
        insert into logistics.vehicle_logs (log_id, vehicle_id, trip_date, etl_run, etl_batch, etl_place)
        select 'L' || n, 'V' || n % 50, date '2015-01-01' + n / 10, 1, 0, n from generate_series(0, 39999) as n;
        insert into logistics.vehicles (vehicle_id, capacity_kg, etl_run, etl_batch, etl_place)
        select 'V' || n, 1000, 1, 0, n from generate_series(0, 39999) as n;
        insert into logistics.shipments
            (shipment_id, log_id, carrier, origin_warehouse, created_at, etl_run, etl_batch, etl_place)
        select 'S' || n, 'L' || n, 'C' || n % 9, 'W' || n % 9,
            timestamptz '2015-01-01' + n / 10.0 * interval '1 day', 1, 0, n
        from generate_series(0, 39999) as n;
        insert into logistics.tracking_events
            (event_id, shipment_id, event_code, exception_code, occurred_at, etl_run, etl_batch, etl_place)
        select 'E' || n, 'S' || n / 2, 'PICKED_UP', 'DAMAGED',
            timestamptz '2015-01-01' + n / 20.0 * interval '1 day', 1, 0, n
        from generate_series(0, 79999) as n;
        analyze;
        """
    )
    return connection


# Small tables that users fill; a scan is their best plan.
REFERENCES = {"shipment_states", "name_spellings", "warehouse_timezones", "vehicle_transports", "emission_factors"}


def _scans(plan: dict[str, Any]) -> Iterator[tuple[str, str]]:
    if "Relation Name" in plan and plan["Relation Name"] not in REFERENCES:
        yield plan["Node Type"], plan["Relation Name"]
    for below in plan.get("Plans", ()):
        yield from _scans(below)


def test_a_bucket_is_recomputed_from_its_own_facts(connection: Connection) -> None:
    """The plan of one day or month of any aggregate scans no whole fact table; a quarter is a large part of them."""
    until = {"day": "2025-07-02", "month": "2025-08-01"}
    with connection.transaction():
        connection.execute(queries.load("precalculation")["plan_for_readers"])
        for aggregate in (each for each in read_all() if each.bucket in until):
            select = aggregate.computed(BucketRange(first="2025-07-01", until=until[aggregate.bucket]))
            row = connection.execute(sql.SQL("explain (format json) ") + select).fetchone()
            assert row
            scans = list(_scans(row[0][0]["Plan"]))
            assert scans, aggregate.name
            assert [table for node, table in scans if node == "Seq Scan"] == [], aggregate.name


def test_all_buckets_are_not_looked_up_one_by_one(connection: Connection) -> None:
    """A full refresh scans the facts once, from end to end."""
    (aggregate,) = choose(["daily_shipments"])
    row = connection.execute(sql.SQL("explain (format json) ") + aggregate.computed()).fetchone()
    assert row
    assert list(_scans(row[0][0]["Plan"])) == [("Seq Scan", "shipments")]
