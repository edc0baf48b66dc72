"""A wrong year in a file is the fault of one record, and changes nothing that is computed from the others."""

import json
from datetime import UTC, datetime, timedelta
from typing import Any

from etl.precalculation.catalogue import choose
from etl.precalculation.refresh import refresh
from etl.precalculation.verify import verify
from tests.support.facts import add, refreshed, rows_of
from tests.support.faults import Connection
from tests.support.site import Site

START = datetime(2026, 3, 2, tzinfo=UTC)
DAY = timedelta(days=1)
TIMES = ("created_at", "picked_up_at", "delivered_at", "updated_at")


def _shipment(number: int, **others: Any) -> dict[str, Any]:
    record = {"shipment_id": f"S{number}", "carrier": "A", "status": "in_transit", "created_at": START + number * DAY}
    record |= {"promised_at": START + number * DAY + DAY, "updated_at": START + number * DAY} | others
    return {name: value.isoformat() if isinstance(value, datetime) else value for name, value in record.items()}


def _load(site: Site, name: str, *records: dict[str, Any], dataset: str = "shipments") -> None:
    (site.folder / name).write_text("".join(f"{json.dumps(record)}\n" for record in records), encoding="utf-8")
    ended = site.run("load", dataset, name)
    assert ended.returncode == 0, ended.stderr


def _open(connection: Connection) -> list[tuple[Any, ...]]:
    columns = "carrier age_bucket is_overdue as_of count_shipments sum_age_hours sum_overdue_hours"
    return [row for row in rows_of(connection, "open_shipments", columns) if row[0] == "A"]


def test_a_record_of_a_wrong_year_makes_no_other_overdue(site: Site) -> None:
    """Whichever time has the wrong year, the rows of all others stay, and data_quality counts the record."""
    _load(site, "right.ndjson", *(_shipment(number) for number in range(3)))
    before = _open(site.connection)
    assert {row[3] for row in before} == {START + 2 * DAY}
    wrong = {name: datetime(2062, 3, 1, tzinfo=UTC) for name in TIMES}
    usual = {"carrier": "B", "created_at": START, "promised_at": START, "updated_at": START}
    records = [_shipment(10 + number, **usual | {name: wrong[name]}) for number, name in enumerate(TIMES)]
    _load(site, "wrong.ndjson", *records)
    assert _open(site.connection) == before
    mine = rows_of(site.connection, "open_shipments", "carrier age_bucket count_shipments sum_age_hours")
    assert [row for row in mine if row[0] == "B"] != []
    assert min(row[3] for row in mine) >= 0
    found = rows_of(site.connection, "data_quality", "dataset count_future_times")
    assert ("shipments", 4) in found
    assert not any(verify(site.connection, aggregate).differences for aggregate in choose(["open_shipments"]))


def test_wrong_years_of_events_and_trips_are_counted(site: Site) -> None:
    """A time of an event, and a day of a trip, that no load can have known."""
    events = [
        {"event_id": "E1", "occurred_at": "2062-01-01T00:00:00Z"},
        {"event_id": "E2", "occurred_at": "2026-01-01T00:00:00Z", "recorded_at": "2062-01-01T00:00:00Z"},
        {"event_id": "E3", "occurred_at": "2026-01-01T00:00:00Z"},
    ]
    _load(site, "events.ndjson", *events, dataset="tracking_events")
    trips = [{"log_id": f"L{number}", "trip_date": day} for number, day in enumerate(("2062-01-01", "2026-01-01"))]
    _load(site, "trips.ndjson", *trips, dataset="vehicle_logs")
    found = rows_of(site.connection, "data_quality", "dataset count_kept count_future_times")
    assert found == [("tracking_events", 3, 2), ("vehicle_logs", 2, 1)]


def test_the_future_begins_at_the_newest_load_of_a_shipment(site: Site) -> None:
    """Neither time nor a load of others changes the newest event; the next load of a shipment does."""
    connection = site.connection
    _load(site, "some.ndjson", _shipment(1), _shipment(2))
    later = datetime(2026, 3, 20, tzinfo=UTC)
    connection.execute("update etl.separate_batches set loaded_at = %s", [later - DAY])
    add(connection, "shipments", shipment_id="S9", carrier="A", created_at=START, updated_at=later)
    refreshed(connection, "open_shipments")
    assert {row[3] for row in _open(connection)} == {START + 2 * DAY}
    _load(site, "other.ndjson", {"vehicle_id": "V1"}, dataset="vehicles")
    assert refreshed(connection, "open_shipments").buckets == 0
    assert not verify(connection, *choose(["open_shipments"])).differences
    _load(site, "more.ndjson", _shipment(3))
    assert {row[3] for row in _open(connection)} == {later}
    connection.execute("set role etl_analyst")
    assert connection.execute("select as_of from analytics.as_of()").fetchone() == (later,)
    connection.execute("reset role")
    # Also when that load has no new shipment, and so not the shipment that was created last.
    connection.execute("update etl.separate_batches set loaded_at = %s", [later - DAY])
    _load(site, "changed.ndjson", _shipment(1, updated_at=later + DAY))
    assert {row[3] for row in _open(connection)} == {later + DAY}


def test_facts_of_the_future_only_are_of_age_0(connection: Connection) -> None:
    """Without any time that can have happened there is no newest event, and nothing is overdue."""
    add(connection, "shipments", shipment_id="S1", created_at=datetime(2062, 3, 1, tzinfo=UTC), promised_at=START)
    for aggregate in choose([]):
        refresh(connection, aggregate, run=None)
    columns = "age_bucket is_overdue as_of count_shipments sum_age_hours sum_overdue_hours"
    assert rows_of(connection, "open_shipments", columns) == [("0-2", False, None, 1, 0, 0)]
