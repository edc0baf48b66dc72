"""`analytics.freshness`: what a dashboard may show of an aggregate."""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from psycopg.rows import dict_row

from etl.precalculation.catalogue import read_all
from etl.precalculation.refresh import refresh
from tests.support.commands import RunEtl
from tests.support.facts import refreshed
from tests.support.faults import Connection


def _freshness(connection: Connection, name: str = "vehicle_days") -> dict[str, Any]:
    with connection.cursor(row_factory=dict_row) as cursor:
        cursor.execute("select * from analytics.freshness where aggregate = %s", [name])
        (row,) = cursor.fetchall()
    return row


def _load(run_etl: RunEtl, folder: Path, name: str, *trips: tuple[str, str | None], options: str = "") -> str:
    records = [{"log_id": log_id, "vehicle_id": "V1", "trip_date": day} for log_id, day in trips]
    (folder / name).write_text(json.dumps(records))
    done = run_etl("load", "vehicle_logs", name, "--json", "--max-rejected", "100%", *options.split())
    run: str = json.loads(done.stdout.splitlines()[0])["run"]
    return run


def test_every_aggregate_has_a_row_before_its_first_refresh(connection: Connection) -> None:
    """An aggregate that was never refreshed has a row with all columns, and is pending as a whole."""
    found = connection.execute("select aggregate, pending_buckets from analytics.freshness order by 1").fetchall()
    assert found == [(aggregate.name, 1) for aggregate in read_all()]
    assert _freshness(connection) == {
        "aggregate": "vehicle_days",
        "refreshed_at": None,
        "run": None,
        "facts_through": None,
        "newest_event_at": None,
        "buckets": None,
        "rows": None,
        "seconds": None,
        "mode": None,
        "pending_buckets": 1,
        "rejected_pending": 0,
        "future_event_at": None,
        "version": None,
    }


def test_a_load_records_the_freshness_of_the_aggregate(connection: Connection, run_etl: RunEtl, tmp_path: Path) -> None:
    """The row has run, end of the run, newest event, buckets, rows and mode, and pending and rejected counts."""
    first = _load(run_etl, tmp_path, "a.json", ("L1", "2026-03-01"), ("L2", "2026-03-02"), ("L3", None))
    found = _freshness(connection)
    ended = connection.execute("select finished_at from etl.runs").fetchone()
    assert (found["facts_through"],) == ended
    assert found["refreshed_at"] > found["facts_through"]
    assert found["version"] > 0
    assert {**found, "refreshed_at": None, "facts_through": None, "seconds": None, "version": None} == {
        "aggregate": "vehicle_days",
        "refreshed_at": None,
        "run": first,
        "facts_through": None,
        "newest_event_at": datetime(2026, 3, 2, tzinfo=UTC),
        "buckets": 2,
        "rows": 2,
        "seconds": None,
        "mode": "full",
        "pending_buckets": 0,
        "rejected_pending": 1,
        "future_event_at": None,
        "version": None,
    }
    second = _load(run_etl, tmp_path, "b.json", ("L4", "2026-03-09"), ("L5", None))
    found = _freshness(connection)
    assert (found["run"], found["mode"], found["buckets"], found["rows"]) == (second, "incremental", 1, 3)
    assert (found["newest_event_at"], found["rejected_pending"]) == (datetime(2026, 3, 9, tzinfo=UTC), 2)
    assert _freshness(connection, "daily_shipments")["rejected_pending"] == 0
    third = _load(run_etl, tmp_path, "c.json", ("L6", "2026-03-10"), options="--no-precalculate")
    found = _freshness(connection)
    assert (found["run"], found["pending_buckets"]) == (second, 1)
    refreshed(connection, "vehicle_days")
    assert _freshness(connection)["run"] == third


def test_a_refresh_without_work_is_recorded(connection: Connection, run_etl: RunEtl, tmp_path: Path) -> None:
    """The view has the time of this refresh and the work of the one before; a run without a row counts too."""
    _load(run_etl, tmp_path, "a.json", ("L1", "2026-03-01"))
    before = _freshness(connection)
    _load(run_etl, tmp_path, "b.json", ("L2", None))
    after = _freshness(connection)
    assert after["refreshed_at"] > before["refreshed_at"]
    assert after["facts_through"] > before["facts_through"]
    same = ("run", "buckets", "rows", "seconds", "mode", "newest_event_at")
    assert [after[name] for name in same] == [before[name] for name in same]


def test_pending_buckets_are_counted_before_and_after_they_are_gathered(connection: Connection) -> None:
    """Days count as days, months and quarters as such, all as one, and a noted key of an unknown day as one."""
    for aggregate in read_all():
        refresh(connection, aggregate, run=None)

    def pending() -> dict[str, int]:
        rows = connection.execute(
            "select aggregate, pending_buckets from analytics.freshness where pending_buckets > 0"
        )
        return dict(rows.fetchall())

    insert = "insert into logistics.shipments (shipment_id, created_at, log_id, etl_run, etl_batch, etl_place) "
    connection.execute(insert + "values ('S1', '2026-03-01', null, 1, 0, 1), ('S2', '2026-03-31', null, 1, 0, 2)")
    connection.execute(insert + "values ('S3', '2026-03-31', 'L1', 1, 0, 1)")
    months = ("carrier_performance", "carrier_scorecard", "lane_performance", "lane_reliability", "milestone_durations")
    parts = ("shipment_batches", "shipment_names", "shipment_orphans", "undelivered_shipments")
    wholes = ("data_quality", "late_shipments", "open_shipments", "value_at_risk")
    others = ("claim_months", "hub_stays", "lane_exceptions", "lane_features")
    expected = dict.fromkeys([*months, *others, *wholes, *parts], 1) | {
        "daily_shipments": 2,
        "warehouse_departures": 2,
    }
    assert pending() == expected | {"vehicle_days": 1, "lane_emissions": 1}
    refreshed(connection, "daily_shipments")
    del expected["daily_shipments"]
    assert pending() == expected
    connection.execute("truncate logistics.vehicle_logs")
    # The month of the new shipments, and all of it, since no trip is left.
    assert pending() == expected | {"vehicle_days": 1, "lane_emissions": 1, "shipment_orphans": 2}
    for aggregate in read_all():
        refresh(connection, aggregate, run=None)
    assert pending() == {}


def test_a_time_in_the_future_does_not_make_an_aggregate_look_fresh(
    connection: Connection, run_etl: RunEtl, tmp_path: Path
) -> None:
    """The newest event is the newest up to the refresh; a later time is shown by itself, and the report warns of it."""
    _load(run_etl, tmp_path, "a.json", ("L1", "2026-03-01"), ("L2", "9999-12-31"))
    found = _freshness(connection)
    assert found["newest_event_at"] == datetime(2026, 3, 1, tzinfo=UTC)
    assert found["future_event_at"] == datetime(9999, 12, 31, tzinfo=UTC)
    assert "its facts have times in the future, up to 9999-12-31" in run_etl("report", "vehicle_days").stdout
    connection.execute("delete from logistics.vehicle_logs where log_id = 'L2'")
    refreshed(connection, "vehicle_days")
    assert _freshness(connection)["future_event_at"] is None
