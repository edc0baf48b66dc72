"""`etl precalculate`: verification, full refreshes, the list and the SQL of the aggregates."""

import json
from typing import LiteralString

import pytest

from etl.precalculation.catalogue import choose
from etl.precalculation.refresh import refresh
from etl.precalculation.verify import KEYS_SHOWN, Verification, verify
from tests.support.commands import RunEtl
from tests.support.faults import Connection
from tests.support.site import Site


@pytest.fixture
def connection(connection: Connection) -> Connection:
    """Give a database with ten shipments and refreshed aggregates."""
    connection.execute(
        "insert into logistics.shipments "
        "(shipment_id, created_at, carrier, weight_kg, etl_run, etl_batch, etl_place) "
        "select 'S' || n, timestamptz '2026-03-01' + n * interval '1 day', 'A', n + 1, 1, 0, n "
        "from generate_series(0, 9) as n"
    )
    for aggregate in choose([]):
        refresh(connection, aggregate, run=None)
    return connection


def _verify(connection: Connection, name: str = "daily_shipments") -> Verification:
    (aggregate,) = choose([name])
    return verify(connection, aggregate)


ALTERED: dict[str, LiteralString] = {
    "different": "update analytics.daily_shipments set sum_weight_kg = sum_weight_kg + 1 where day = '2026-03-04'",
    "missing": "delete from analytics.daily_shipments where day = '2026-03-04'",
    "surplus": "insert into analytics.daily_shipments select (d).* from (select jsonb_populate_record(t, "
    """'{"carrier": "nobody"}') as d from analytics.daily_shipments as t where day = '2026-03-04') as copied""",
}


@pytest.mark.parametrize("difference", ALTERED)
def test_a_row_that_was_altered_by_hand_is_found(connection: Connection, difference: str) -> None:
    """The result has the key of the row and the difference; a full refresh repairs it."""
    connection.execute(ALTERED[difference])
    carrier = "nobody" if difference == "surplus" else "A"
    key = {"day": "2026-03-04", "carrier": carrier, "service_level": "(none)"}
    assert _verify(connection) == Verification(
        aggregate="daily_shipments", differences=1, pending=False, keys=((key, difference),)
    )
    refresh(connection, choose(["daily_shipments"])[0], run=None)
    assert _verify(connection).differences == 1
    refresh(connection, choose(["daily_shipments"])[0], run=None, full=True)
    assert _verify(connection).differences == 0


def test_a_fact_changed_without_a_trigger_is_found(connection: Connection) -> None:
    """After a change without a trigger the aggregate differs, and no bucket is pending."""
    connection.execute("set session_replication_role = replica")
    connection.execute("update logistics.shipments set weight_kg = 50 where shipment_id = 'S5'")
    found = _verify(connection)
    assert (found.differences, found.pending, found.keys[0][0]["day"]) == (1, False, "2026-03-06")


def test_pending_buckets_are_not_compared(connection: Connection) -> None:
    """Pending buckets are no difference; all others are compared, and nothing is changed."""
    connection.execute("update logistics.shipments set weight_kg = 50 where shipment_id = 'S5'")
    state = "select (select count(*) from etl.touched), (select count(*) from etl.pending)"
    before = connection.execute(state).fetchone()
    assert _verify(connection) == Verification(aggregate="daily_shipments", differences=0, pending=True, keys=())
    connection.execute("update analytics.daily_shipments set sum_weight_kg = 0")
    assert _verify(connection).differences == 9
    assert connection.execute(state).fetchone() == before
    assert _verify(connection, "vehicle_days") == Verification(
        aggregate="vehicle_days", differences=0, pending=False, keys=()
    )


def test_an_aggregate_without_a_refresh_is_pending(connection: Connection) -> None:
    """Before its first refresh an aggregate does not differ: all of it is pending."""
    connection.execute("delete from etl.refreshes")
    assert _verify(connection) == Verification(aggregate="daily_shipments", differences=0, pending=True, keys=())


def test_an_aggregate_without_its_table_is_not_verified(connection: Connection, run_etl: RunEtl) -> None:
    """--verify and --list name an aggregate that was not migrated, and the remedy."""
    connection.execute("drop table analytics.daily_shipments")
    connection.execute("delete from etl.refreshes")
    connection.execute("delete from etl.aggregates where aggregate = 'daily_shipments'")
    done = run_etl("precalculate", "daily_shipments", "--verify")
    assert (done.returncode, "hint: etl db migrate" in done.stderr) == (2, True)
    done = run_etl("precalculate", "daily_shipments", "--list", "--json")
    assert (done.stdout, done.stderr) == ("", "not in the database yet: daily_shipments; etl db migrate\n")


def test_many_differences_are_counted_and_some_shown(connection: Connection) -> None:
    """The number is exact, and only a readable number of keys is shown."""
    connection.execute(
        "insert into analytics.daily_shipments select (d).* from (select jsonb_populate_record(t, "
        "jsonb_build_object('carrier', n)) as d from analytics.daily_shipments as t, generate_series(1, 50) as n "
        "where day < '2026-03-06') as copied"
    )
    found = _verify(connection)
    assert (found.differences, len(found.keys)) == (250, KEYS_SHOWN)


def test_the_command_verifies(connection: Connection, run_etl: RunEtl) -> None:
    """Exit code 0 if all is equal, 1 with the keys if something differs, as a table or as JSON."""
    done = run_etl("precalculate", "--verify")
    assert (done.returncode, "differences" in done.stdout) == (0, True)
    connection.execute(ALTERED["different"])
    done = run_etl("precalculate", "--verify")
    assert done.returncode == 1
    assert "day=2026-03-04, carrier=A, service_level=(none)" in done.stdout
    done = run_etl("precalculate", "daily_shipments", "--verify", "--json")
    assert done.returncode == 1
    assert json.loads(done.stdout) == {
        "aggregate": "daily_shipments",
        "differences": 1,
        "pending": False,
        "keys": [{"key": {"day": "2026-03-04", "carrier": "A", "service_level": "(none)"}, "difference": "different"}],
    }
    assert run_etl("precalculate", "vehicle_days", "--verify").returncode == 0
    done = run_etl("precalculate", "daily_shipments", "--full", "--json")
    assert {**json.loads(done.stdout), "seconds": 0} == {
        "aggregate": "daily_shipments",
        "buckets": 10,
        "rows": 1,
        "seconds": 0,
    }
    assert run_etl("precalculate", "--verify").returncode == 0
    done = run_etl("precalculate", "--verify", "--full")
    assert (done.returncode, "exclude each other" in done.stderr) == (2, True)


def test_the_list_shows_pending_buckets(connection: Connection, run_etl: RunEtl) -> None:
    """The list has name, grain, bucket, last refresh and pending buckets of each, before and after a refresh."""
    connection.execute("update logistics.shipments set created_at = '2026-05-01' where shipment_id = 'S5'")
    done = run_etl("precalculate", "--list", "--json")
    listed = {each["aggregate"]: each for each in map(json.loads, done.stdout.splitlines())}
    assert {name: each["pending_buckets"] for name, each in listed.items()} == {
        "carrier_performance": 2,
        "carrier_scorecard": 2,
        "claim_months": 2,
        "daily_exceptions": 0,
        "daily_movements": 0,
        "daily_shipments": 2,
        "data_quality": 1,
        "exception_quarters": 0,
        "hub_stays": 2,
        "lane_emissions": 0,
        "lane_exceptions": 2,
        "lane_features": 2,
        "lane_performance": 2,
        "lane_reliability": 2,
        "late_shipments": 1,
        "milestone_durations": 2,
        "open_shipments": 1,
        "promised_days": 0,
        "shipment_batches": 2,
        "shipment_names": 2,
        "shipment_orphans": 2,
        "undelivered_shipments": 2,
        "value_at_risk": 1,
        "vehicle_days": 0,
        "warehouse_departures": 2,
        "warehouse_hours": 0,
    }
    assert listed["vehicle_days"]["grain"] == "One row per day of the source and vehicle with a trip."
    assert listed["vehicle_days"]["bucket"] == "day"
    assert run_etl("precalculate").returncode == 0
    done = run_etl("precalculate", "daily_shipments", "--list", "--json")
    (listed,) = map(json.loads, done.stdout.splitlines())
    assert (listed["aggregate"], listed["pending_buckets"]) == ("daily_shipments", 0)
    assert "daily_shipments" in run_etl("precalculate", "--list").stdout


def test_the_sql_of_an_aggregate_can_be_read_and_run(connection: Connection, run_etl: RunEtl) -> None:
    """The printed SQL creates the table and the triggers if they are missing."""
    done = run_etl("precalculate", "vehicle_days", "--ddl")
    assert done.returncode == 0
    connection.execute("drop table analytics.vehicle_days")
    connection.execute("drop function etl.note_logistics_vehicle_logs cascade")
    connection.execute(done.stdout.encode())
    assert run_etl("db", "check").returncode == 0
    refresh(connection, choose(["vehicle_days"])[0], run=None, full=True)


PARTS = """
name = "parts"
mode = "merge"
key = ["id", "at"]
[[table]]
name = "lab.parts"
[table.columns]
id = { type = "integer", required = true }
at = { type = "timestamptz", required = true }
"""

PART_DAYS = """-- One row per day.
-- table: analytics.part_days
-- bucket: day
-- fact lab.parts: (at at time zone 'UTC')::date
-- newest: lab.parts.at
-- key: day
-- column day: day (UTC)
-- column n: rows
select (at at time zone 'UTC')::date as day, count(*) as n
from lab.parts where at >= :from_utc and at < :until_utc group by 1
"""

PAST_THE_NOTES: dict[str, LiteralString] = {
    "written by its name": "insert into lab.parts_26 values (50, '2026-03-03', 0, 0, 0)",
    "attached": "create table lab.parts_25 (like lab.parts_26 including all);"
    "insert into lab.parts_25 values (50, '2025-03-03', 0, 0, 0);"
    "alter table lab.parts attach partition lab.parts_25 for values from ('2025-01-01') to ('2026-01-01')",
    "detached": "alter table lab.parts detach partition lab.parts_26",
    "dropped": "drop table lab.parts_26",
    "truncated": "truncate lab.parts_26",
}


@pytest.mark.parametrize(
    "how", [how if how == "detached" else pytest.param(how, marks=pytest.mark.slow) for how in PAST_THE_NOTES]
)
def test_rows_that_came_past_the_notes_of_a_partitioned_fact_are_reported(site: Site, how: str) -> None:
    """`--verify` and `db check` report an aggregate whose facts changed by the name of a partition, and the remedy."""
    site.define(PARTS)
    site.ask(
        "create table lab.whole (like lab.parts including all) partition by range (at);"
        "create table lab.parts_26 partition of lab.whole for values from ('2026-01-01') to ('2027-01-01');"
        "create table lab.parts_27 partition of lab.whole for values from ('2027-01-01') to ('2028-01-01');"
        "drop table lab.parts; alter table lab.whole rename to parts"
    )
    (site.folder / "config" / "aggregates").mkdir()
    (site.folder / "config" / "aggregates" / "part_days.sql").write_text(PART_DAYS)
    assert site.run("db", "migrate").returncode == 0
    (site.folder / "p.ndjson").write_text('{"id": 1, "at": "2026-05-01T00:00:00Z"}')
    assert site.run("load", "parts", "p.ndjson").returncode == 0
    assert site.run("precalculate", "--verify", "part_days").returncode == 0
    assert _check(site) == {"ok"}
    site.ask(PAST_THE_NOTES[how])
    assert site.run("precalculate", "part_days").returncode == 0
    verified = site.run("precalculate", "--verify", "part_days")
    assert verified.returncode == 1
    assert "lab.parts is partitioned" in verified.stderr
    assert _check(site) == {"warn"}
    assert site.run("precalculate", "--full", "part_days").returncode == 0
    assert _check(site) == {"ok"}


def _check(site: Site) -> set[str]:
    """Return the state of the aggregate of the test in `db check`."""
    return {line["state"] for line in site.run("db", "check", "--json").lines if line["what"] == "aggregate part_days"}
