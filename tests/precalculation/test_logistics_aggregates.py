import json
from collections.abc import Mapping
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from itertools import count
from pathlib import Path
from typing import Any

from psycopg import sql

from tests.support.commands import RunEtl
from tests.support.facts import add, refreshed, rows_of
from tests.support.faults import Connection

MONTH = date(2026, 3, 1)
START = datetime(2026, 3, 2, tzinfo=UTC)
SECOND, HOUR = timedelta(seconds=1), timedelta(hours=1)
_numbers = count(1)


def ship(connection: Connection, **values: object) -> str:
    """Add a shipment, created at START by default, and return its name."""
    name = str(values.setdefault("shipment_id", f"S{next(_numbers)}"))
    add(connection, "shipments", **({"created_at": START} | values))
    return name


def happen(connection: Connection, shipment: str | None, code: str | None, at: datetime, **values: object) -> None:
    """Add a tracking event."""
    names = {"event_id": f"E{next(_numbers)}", "shipment_id": shipment, "event_code": code, "occurred_at": at}
    add(connection, "tracking_events", **names, **values)


def rows(connection: Connection, aggregate: str, columns: str) -> list[tuple[Any, ...]]:
    """Refresh an aggregate and return columns of its rows, sorted by these."""
    refreshed(connection, aggregate)
    return rows_of(connection, aggregate, columns)


# --- lane_reliability ---------------------------------------------------------------------------------------


def test_delays_of_a_lane_are_counted_by_the_promised_time(connection: Connection) -> None:
    """The promised instant is on time; a day and three days belong to the shorter delay."""
    promised = START + 100 * HOUR
    for delay in (-HOUR, 0 * HOUR, SECOND, 24 * HOUR, 24 * HOUR + SECOND, 72 * HOUR, 72 * HOUR + SECOND):
        ship(connection, origin_city="A", promised_at=promised, delivered_at=promised + delay)
    ship(connection, origin_city="A", promised_at=promised)
    ship(connection, origin_city="A", delivered_at=promised)
    columns = (
        "month origin_country origin_city count_shipments count_promised count_promised_open count_on_time count_late "
        "on_time_share count_late_to_24_h count_late_to_72_h count_late_over_72_h"
    )
    assert rows(connection, "lane_reliability", columns) == [
        (MONTH, "(none)", "A", 9, 8, 1, 2, 5, Decimal("0.2857"), 2, 2, 1)
    ]


def test_transits_of_a_lane_are_counted_by_their_length(connection: Connection) -> None:
    """Each transit is in one class, its upper bound included, and the classes add up to the transits."""
    for hours in (24, 48, 96, 168, 336):
        for more in (0 * SECOND, SECOND):
            ship(connection, picked_up_at=START, delivered_at=START + hours * HOUR + more)
    ship(connection, picked_up_at=START)
    columns = (
        "count_transits count_transits_to_24_h count_transits_to_48_h count_transits_to_96_h count_transits_to_168_h "
        "count_transits_to_336_h count_transits_over_336_h"
    )
    assert rows(connection, "lane_reliability", columns) == [(10, 1, 2, 2, 2, 2, 1)]


def test_the_spread_of_a_lane_is_between_its_percentiles(connection: Connection) -> None:
    """The spread is the ninetieth percentile less the tenth; without transits it is null."""
    for hours in [*range(0, 101, 10)] * 3:
        ship(connection, origin_city="A", picked_up_at=START, delivered_at=START + hours * HOUR)
    ship(connection, origin_city="B")
    columns = (
        "origin_city p10_transit_hours p50_transit_hours p90_transit_hours p95_transit_hours spread_transit_hours "
        "sum_transit_hours on_time_share p90_delay_hours"
    )
    assert rows(connection, "lane_reliability", columns) == [
        ("A", 10, 50, 90, 100, 80, 1650, None, None),
        ("B", None, None, None, None, None, 0, None, None),
    ]


# --- carrier_scorecard --------------------------------------------------------------------------------------


def test_a_scorecard_counts_exceptions_of_tracked_shipments(connection: Connection) -> None:
    """An exception is a code or the event; a repeated one counts once, an untracked shipment does not count."""
    twice, damaged, clean = (ship(connection, carrier="A") for _ in range(3))
    ship(connection, carrier="A")
    ship(connection, carrier="B")
    for _ in range(2):
        happen(connection, twice, "EXCEPTION", START, exception_code="WEATHER")
    happen(connection, twice, "EXCEPTION", START + HOUR)
    happen(connection, damaged, "HUB_ARRIVED", START, exception_code="DAMAGED")
    happen(connection, damaged, "DELIVERED", START + HOUR)
    happen(connection, clean, "DELIVERED", START)
    happen(connection, "unknown", "EXCEPTION", START, exception_code="DAMAGED")
    columns = (
        "carrier count_shipments count_tracked count_with_exception exception_rate count_exceptions count_damaged "
        "damage_rate"
    )
    assert rows(connection, "carrier_scorecard", columns) == [
        ("A", 4, 3, 2, Decimal("0.6667"), 3, 1, Decimal("0.3333")),
        ("B", 1, 0, 0, None, 0, 0, None),
    ]


def test_a_scorecard_has_lateness_and_cost_of_a_carrier(connection: Connection) -> None:
    """Hours of lateness are of late shipments only; cost per kg is a ratio of sums over shipments with both."""
    for hours in (-5, 0, *[10, 20, 30] * 7):
        ship(connection, carrier="A", promised_at=START, delivered_at=START + hours * HOUR)
    ship(connection, carrier="A", weight_kg=10, freight_cost=30)
    ship(connection, carrier="A", weight_kg=30, freight_cost=20)
    ship(connection, carrier="A", weight_kg=50)
    columns = (
        "month carrier count_delivered count_on_time count_late on_time_share sum_late_hours avg_late_hours "
        "p50_late_hours p90_late_hours max_late_hours sum_costed_weight_kg sum_costed_freight_cost cost_per_kg"
    )
    assert rows(connection, "carrier_scorecard", columns) == [
        (MONTH, "A", 23, 2, 21, Decimal("0.087"), 420, 20, 20, 30, 30, 40, 50, Decimal("1.25"))
    ]


# --- daily_exceptions ---------------------------------------------------------------------------------------


def test_exceptions_are_counted_by_day_code_and_country(connection: Connection) -> None:
    """An exception counts on the UTC day of its occurrence, with all shipments that moved there then."""
    late = START + 24 * HOUR - SECOND
    happen(connection, "S1", "EXCEPTION", late, exception_code="WEATHER", location_country="DE")
    happen(connection, "S1", "EXCEPTION", late, exception_code="WEATHER", location_country="DE")
    happen(connection, "S1", "EXCEPTION", late - HOUR, exception_code="WEATHER", location_country="DE")
    happen(connection, "S2", "EXCEPTION", START + 24 * HOUR, location_country="DE")
    happen(connection, "S3", "DELIVERED", START, location_country="DE")
    happen(connection, "S4", "HUB_ARRIVED", START, exception_code="DAMAGED")
    columns = "day exception_code location_country count_exceptions distinct_shipments"
    assert rows(connection, "daily_exceptions", columns) == [
        (START.date(), "DAMAGED", "(none)", 1, 1),
        (START.date(), "WEATHER", "DE", 2, 1),
        (START.date() + timedelta(days=1), "(none)", "DE", 1, 1),
    ]
    columns = "day location_country count_events distinct_shipments distinct_exception_shipments exception_share"
    assert rows(connection, "daily_movements", columns) == [
        (START.date(), "(none)", 1, 1, 1, 1),
        (START.date(), "DE", 4, 2, 1, Decimal("0.5")),
        (START.date() + timedelta(days=1), "DE", 1, 1, 1, 1),
    ]


def test_the_delay_of_recording_is_that_of_the_first_record(connection: Connection) -> None:
    """The earlier of two records of an exception counts, and an exception without a record has no delay."""
    for hours in (2, 50):
        happen(connection, "S1", "EXCEPTION", START, exception_code="X", recorded_at=START + hours * HOUR)
    happen(connection, "S2", "EXCEPTION", START, exception_code="X", recorded_at=START + 12 * HOUR)
    happen(connection, "S3", "EXCEPTION", START, exception_code="X")
    columns = "count_exceptions count_recorded sum_recording_hours avg_recording_hours"
    assert rows(connection, "daily_exceptions", columns) == [(3, 2, 14, 7)]


# --- milestone_durations ------------------------------------------------------------------------------------


def travel(connection: Connection, hours: dict[str, int], **values: object) -> None:
    """Add a shipment with events at these hours after START; a name may end with a number."""
    name = ship(connection, **values)
    for code, at in hours.items():
        happen(connection, name, code.rstrip("0123456789"), START + at * HOUR)


def test_legs_are_between_the_events_of_a_shipment(connection: Connection) -> None:
    """The first arrival at a hub and the last departure count; without customs a shipment has the direct leg."""
    through_customs = {"PICKED_UP": 0, "HUB_ARRIVED1": 10, "HUB_DEPARTED1": 12, "HUB_ARRIVED2": 20, "HUB_DEPARTED2": 30}
    travel(connection, through_customs | {"CUSTOMS_CLEARED": 60, "DELIVERED": 100}, origin_city="A")
    travel(connection, {"PICKED_UP": 0, "HUB_ARRIVED": 4, "HUB_DEPARTED": 5, "DELIVERED": 8}, origin_city="B")
    columns = "origin_city leg count_shipments count_durations sum_hours"
    assert rows(connection, "milestone_durations", columns) == [
        ("A", "all", 1, 1, 100),
        ("A", "at hubs", 1, 1, 20),
        ("A", "customs to delivery", 1, 1, 40),
        ("A", "hub to customs", 1, 1, 30),
        ("A", "pick-up to hub", 1, 1, 10),
        ("B", "all", 1, 1, 8),
        ("B", "at hubs", 1, 1, 1),
        ("B", "hub to delivery", 1, 1, 3),
        ("B", "pick-up to hub", 1, 1, 4),
    ]


def test_hours_of_a_leg_are_spread_over_the_shipments_of_lane_and_month(connection: Connection) -> None:
    """Percentiles are of the shipments created in the month; milestones in the wrong order are counted separately."""
    for hours in (10, 20, 30) * 7:
        travel(connection, {"PICKED_UP": 0, "DELIVERED": hours}, delivered_at=START + 30 * HOUR)
    travel(connection, {"PICKED_UP": 5, "DELIVERED": 4})
    travel(connection, {"PICKED_UP": 1, "DELIVERED": 3}, created_at=START - timedelta(days=2))
    travel(connection, {"PICKED_UP": 1})
    columns = (
        "month leg count_shipments count_out_of_order count_durations count_differing sum_hours avg_hours p50_hours "
        "p90_hours p95_hours max_hours"
    )
    assert rows(connection, "milestone_durations", columns) == [
        (date(2026, 2, 1), "all", 1, 0, 1, 1, 2, 2, None, None, None, 2),
        (MONTH, "all", 22, 1, 21, 15, 420, 20, 20, 30, 30, 30),
    ]


# --- vehicle_days and warehouse_departures ------------------------------------------------------------------


def test_the_load_factor_is_of_the_trips_whose_vehicle_has_a_capacity(connection: Connection) -> None:
    """Each trip, also an empty one, counts its vehicle's capacity once; without a capacity there is no factor."""
    add(connection, "vehicles", vehicle_id="V1", capacity_kg=1000)
    add(connection, "vehicles", vehicle_id="V2")
    add(connection, "vehicles", vehicle_id="V3", capacity_kg=0)
    for log, vehicle in (("L1", "V1"), ("L2", "V1"), ("L3", "V2"), ("L4", "V3"), ("L5", "V4")):
        add(connection, "vehicle_logs", log_id=log, vehicle_id=vehicle, trip_date=MONTH)
    for log, weight in (("L1", 300), ("L1", 500), ("L3", 70), ("L4", 5)):
        ship(connection, log_id=log, weight_kg=weight)
    columns = (
        "vehicle_id count_trips sum_weight_kg count_rated_trips sum_rated_weight_kg sum_rated_capacity_kg load_factor"
    )
    assert rows(connection, "vehicle_days", columns) == [
        ("V1", 2, 800, 2, 800, 2000, Decimal("0.4")),
        ("V2", 1, 70, 0, 0, 0, None),
        ("V3", 1, 5, 1, 5, 0, None),
        ("V4", 1, 0, 0, 0, 0, None),
    ]


def test_a_shipment_leaves_its_warehouse_when_it_is_picked_up(connection: Connection) -> None:
    """Departures are of the UTC day of the pick-up; the day of booking has the shipments that wait at its end."""
    picked = START + 30 * HOUR
    ship(connection, origin_warehouse="W1", picked_up_at=picked, pieces=2, weight_kg=10, volume_m3=1, order_id="O1")
    ship(connection, origin_warehouse="W1", picked_up_at=picked - 20 * HOUR, pieces=3, order_id="O1", carrier="A")
    ship(connection, origin_warehouse="W1", picked_up_at=picked - 10 * HOUR, weight_kg=5, order_id="O1", carrier="A")
    ship(connection, origin_warehouse="W1")
    ship(connection, picked_up_at=picked)
    columns = (
        "day warehouse count_booked count_booked_waiting count_departed distinct_orders distinct_carriers sum_pieces "
        "count_weighed sum_weight_kg sum_volume_m3 sum_waiting_hours avg_waiting_hours"
    )
    day, next_day = START.date(), START.date() + timedelta(days=1)
    assert rows(connection, "warehouse_departures", columns) == [
        (day, "(none)", 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, None),
        (day, "W1", 4, 2, 2, 1, 1, 3, 1, 5, 0, 30, 15),
        (next_day, "(none)", 0, 0, 1, 0, 0, 0, 0, 0, 0, 30, 30),
        (next_day, "W1", 0, 0, 1, 1, 0, 2, 1, 10, 1, 30, 30),
    ]


# --- data_quality -------------------------------------------------------------------------------------------


def load(run_etl: RunEtl, tmp_path: Path, dataset: str, *records: Mapping[str, object], exit_code: int = 0) -> None:
    """Load records as a scheduler does."""
    path = tmp_path / f"{dataset}{next(_numbers)}.ndjson"
    path.write_text("".join(f"{json.dumps(record)}\n" for record in records), encoding="utf-8")
    done = run_etl("load", dataset, path)
    assert done.returncode == exit_code, done.stderr


def quality(connection: Connection, columns: str) -> dict[str, tuple[Any, ...]]:
    """Return columns of data_quality by dataset, as the loads left them."""
    names = sql.SQL(", ").join(sql.Identifier(name) for name in columns.split())
    found = connection.execute(sql.SQL("select dataset, {} from analytics.data_quality").format(names)).fetchall()
    return {dataset: tuple(values) for dataset, *values in found}


def test_quality_has_loaded_and_rejected_counts(run_etl: RunEtl, connection: Connection, tmp_path: Path) -> None:
    """The counts are those of the ledger; a replay moves its records from rejected to loaded."""
    good = {"vehicle_id": "V1", "capacity_kg": 5}
    load(run_etl, tmp_path, "vehicles", good, {"vehicle_id": "V2", "capacity_kg": "a lot"}, exit_code=1)
    load(run_etl, tmp_path, "vehicles", {"vehicle_id": "V3"})
    columns = (
        "count_runs count_records count_loaded count_rejected count_failed rejected_share count_pending count_kept"
    )
    share = Decimal("0.333333")
    assert quality(connection, columns) == {"vehicles": (2, 3, 2, 1, 0, share, 1, 2)}
    (stored,) = (tmp_path / "failed").rglob("*.ndjson")
    stored.write_text(stored.read_text().replace('"a lot"', "7"))
    assert run_etl("failed", "replay", stored.stem).returncode == 0
    assert quality(connection, columns) == {"vehicles": (2, 3, 3, 0, 0, 0, 0, 3)}
    loaded_at = connection.execute("select (min(loaded_at) at time zone 'UTC')::date from etl.batches").fetchall()
    assert connection.execute("select day from analytics.data_quality").fetchall() == loaded_at


def test_quality_counts_a_load_of_rejects_alone(run_etl: RunEtl, connection: Connection, tmp_path: Path) -> None:
    """A load whose records are all rejected is counted, too; so are discarded records."""
    load(run_etl, tmp_path, "vehicles", {"vehicle_id": None}, exit_code=1)
    columns = "count_records count_loaded count_rejected count_pending"
    assert quality(connection, columns) == {"vehicles": (1, 0, 1, 1)}
    (stored,) = (tmp_path / "failed").rglob("*.ndjson")
    assert run_etl("failed", "discard", stored.stem, "--reason", "of a test").returncode == 0
    assert run_etl("precalculate").returncode == 0
    assert quality(connection, columns) == {"vehicles": (1, 0, 1, 0)}


def test_an_orphan_ends_with_the_load_of_its_parent(run_etl: RunEtl, connection: Connection, tmp_path: Path) -> None:
    """A shipment without its trip, an event without its shipment and a trip without its vehicle are orphans."""
    when = "2026-03-02T00:00:00Z"
    shipments = [
        {"shipment_id": "S1", "created_at": when, "log_id": "L1"},
        {"shipment_id": "S2", "created_at": when, "log_id": "L2"},
        {"shipment_id": "S3", "created_at": when},
    ]
    load(run_etl, tmp_path, "shipments", *shipments)
    load(run_etl, tmp_path, "tracking_events", {"event_id": "E1", "occurred_at": when, "shipment_id": "S9"})
    load(run_etl, tmp_path, "vehicle_logs", {"log_id": "L1", "trip_date": "2026-03-02", "vehicle_id": "V1"})
    columns = "count_kept count_references count_orphans orphan_share"
    assert quality(connection, columns) == {
        "shipments": (3, 2, 1, Decimal("0.5")),
        "tracking_events": (1, 1, 1, 1),
        "vehicle_logs": (1, 1, 1, 1),
    }
    load(run_etl, tmp_path, "vehicles", {"vehicle_id": "V1"})
    load(run_etl, tmp_path, "shipments", {"shipment_id": "S9", "created_at": when})
    load(run_etl, tmp_path, "vehicle_logs", {"log_id": "L2", "trip_date": "2026-03-02"})
    assert quality(connection, columns) == {
        "shipments": (4, 2, 0, 0),
        "tracking_events": (1, 1, 0, 0),
        "vehicle_logs": (2, 1, 0, 0),
        "vehicles": (1, 0, 0, None),
    }


def test_a_delivery_before_its_pick_up_is_counted_until_it_is_corrected(
    run_etl: RunEtl, connection: Connection, tmp_path: Path
) -> None:
    """The version in the facts counts: a fault that a newer version corrects is no fault any more."""
    early, late = "2026-03-02T00:00:00Z", "2026-03-03T00:00:00Z"
    wrong = {"shipment_id": "S1", "created_at": early, "picked_up_at": late, "delivered_at": early, "updated_at": early}
    load(run_etl, tmp_path, "shipments", wrong)
    assert quality(connection, "count_kept count_delivered_before_picked_up") == {"shipments": (1, 1)}
    load(run_etl, tmp_path, "shipments", wrong | {"delivered_at": late, "updated_at": late})
    assert quality(connection, "count_records count_kept count_delivered_before_picked_up") == {"shipments": (2, 1, 0)}
