"""The smallest examples of numbers that would mislead whoever decides by them, and what the aggregates say."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest
from psycopg.errors import CheckViolation
from psycopg.sql import SQL, Identifier

from etl.database.connecting import connect
from etl.database.migrations import run_migrations
from etl.precalculation.catalogue import choose
from tests.support.databases import database_at
from tests.support.facts import add, refreshed, rows_of
from tests.support.faults import Connection

START = datetime(2026, 3, 2, tzinfo=UTC)
HOUR = timedelta(hours=1)


def test_an_exception_that_was_sent_with_and_without_a_country_counts_once(connection: Connection) -> None:
    """The daily table and the scorecard agree, also on a code that is null, empty or written in small letters."""
    add(connection, "shipments", shipment_id="S1", created_at=START, carrier="A")
    sent = [("DE", "DAMAGED"), (None, "DAMAGED"), ("DE", "damaged "), ("DE", None), (None, "")]
    for number, (country, code) in enumerate(sent):
        names = {"event_code": "EXCEPTION", "location_country": country, "exception_code": code}
        add(connection, "tracking_events", event_id=f"E{number}", shipment_id="S1", occurred_at=START, **names)
    refreshed(connection, "daily_exceptions")
    columns = "exception_code location_country count_exceptions"
    assert rows_of(connection, "daily_exceptions", columns) == [("(none)", "DE", 1), ("DAMAGED", "DE", 1)]
    refreshed(connection, "carrier_scorecard")
    assert rows_of(connection, "carrier_scorecard", "count_exceptions count_damaged tracked_share") == [(2, 1, 1)]


def test_a_vehicle_called_none_is_not_a_missing_one(connection: Connection) -> None:
    """Its key is in quotes, so that its trips and those without a vehicle stay apart."""
    for number, vehicle in enumerate(("(none)", None, "")):
        add(connection, "vehicle_logs", log_id=f"L{number}", vehicle_id=vehicle, trip_date=START.date())
    refreshed(connection, "vehicle_days")
    assert rows_of(connection, "vehicle_days", "vehicle_id count_trips") == [('"(none)"', 1), ("(none)", 2)]


def test_hours_in_the_wrong_order_are_no_mean(connection: Connection) -> None:
    """A hundred hours back and a hundred forth are one transit of a hundred hours, and one out of order."""
    for number, hours in enumerate((-100, 100)):
        names = {"picked_up_at": START, "delivered_at": START + hours * HOUR}
        add(connection, "shipments", shipment_id=f"S{number}", created_at=START, **names)
    refreshed(connection, "carrier_performance")
    columns = "count_transits count_out_of_order avg_transit_hours"
    assert rows_of(connection, "carrier_performance", columns) == [(1, 1, 100)]


@pytest.mark.parametrize(
    ("status", "is_delivered", "expected"),
    [
        ("Cancelled", True, (0, 1, 0, 0, 0, 0)),
        ("canceled ", False, (0, 1, 0, 0, 0, 0)),
        ("RETURNED", True, (1, 0, 0, 0, 1, 0)),
        ("lost", True, (1, 0, 0, 0, 1, 0)),
        ("Delivered", False, (1, 0, 1, 1, 0, 0)),
        ("\tdelivered ", True, (1, 0, 1, 0, 0, 1)),
        ("storniert", False, (1, 0, 0, 0, 0, 0)),
    ],
)
def test_one_rule_decides_the_end_of_a_shipment(
    connection: Connection, status: str, is_delivered: bool, expected: tuple[int, ...]
) -> None:
    """A status is compared without case and blanks, and a cancelled, returned or lost one beats a delivery time."""
    times = {"promised_at": START + HOUR, "delivered_at": START if is_delivered else None}
    add(connection, "shipments", shipment_id="S1", created_at=START, status=status, freight_cost=5, **times)
    refreshed(connection, "carrier_scorecard")
    columns = "count_shipments count_cancelled count_delivered count_untimed count_failed count_on_time"
    assert rows_of(connection, "carrier_scorecard", columns) == [expected]


def test_a_status_that_the_user_adds_closes_its_shipments(connection: Connection) -> None:
    """An unknown status is open and counted; a row in the table of states makes the aggregates pending."""
    add(connection, "shipments", shipment_id="S1", created_at=START, status="Storniert")
    refreshed(connection, "open_shipments")
    assert rows_of(connection, "open_shipments", "count_shipments count_unknown_status") == [(1, 1)]
    connection.execute("insert into analytics.shipment_states values ('storniert', 'cancelled')")
    refreshed(connection, "open_shipments")
    assert rows_of(connection, "open_shipments", "count_shipments") == []


def test_an_unknown_value_is_not_zero(connection: Connection) -> None:
    """The number of known costs is beside their sum, and a trip with an unknown weight has no load factor."""
    add(connection, "vehicles", vehicle_id="V1", capacity_kg=1000)
    for log, way in (("L1", 10), ("L2", 990)):
        add(connection, "vehicle_logs", log_id=log, vehicle_id="V1", trip_date=START.date(), distance_km=way)
    loads = {"S1": ("L1", None, 100), "S2": ("L2", 10, None)}
    for name, (log, weight, cost) in loads.items():
        names = {"log_id": log, "weight_kg": weight, "freight_cost": cost}
        add(connection, "shipments", shipment_id=name, created_at=START, **names)
    refreshed(connection, "daily_shipments")
    assert rows_of(connection, "daily_shipments", "count_shipments count_costed sum_freight_cost") == [(2, 1, 100)]
    refreshed(connection, "vehicle_days")
    columns = "count_trips count_unweighed count_rated_trips load_factor sum_tonne_km tonne_km_load_factor"
    factor = Decimal("0.01")
    assert rows_of(connection, "vehicle_days", columns) == [(2, 1, 1, factor, Decimal("9.9"), factor)]


def test_emissions_are_unknown_without_a_factor_of_a_named_source(connection: Connection) -> None:
    """No factor is shipped, and none without a source is taken; with one, shipment and lane agree."""
    add(connection, "vehicles", vehicle_id="V1", vehicle_type="van")
    add(connection, "vehicle_logs", log_id="L1", vehicle_id="V1", trip_date=START.date(), distance_km=200)
    for name, state in (("S1", "delivered"), ("S2", "Cancelled ")):
        add(connection, "shipments", shipment_id=name, log_id="L1", created_at=START, weight_kg=500, status=state)
    columns = "count_shipments sum_tonne_km count_rated sum_co2e_kg co2e_g_per_tonne_km"
    refreshed(connection, "lane_emissions")
    assert rows_of(connection, "lane_emissions", columns) == [(1, 100, 0, None, None)]
    connection.execute("insert into analytics.vehicle_transports values ('van', 'road', 'diesel')")
    with pytest.raises(CheckViolation):
        connection.execute("insert into analytics.emission_factors values ('road', 'diesel', 0.25, ' ')")
    connection.execute("insert into analytics.emission_factors values ('road', 'diesel', 0.25, 'a test')")
    refreshed(connection, "lane_emissions")
    assert rows_of(connection, "lane_emissions", columns) == [(1, 100, 1, 25, 250)]
    query = "select shipment_id, mode, fuel, tonne_km, co2e_kg from analytics.shipment_emissions()"
    assert connection.execute(query).fetchall() == [("S1", "road", "diesel", 100, 25)]


def test_a_missing_column_leaves_its_sums_unknown(connection: Connection) -> None:
    """A definition of the user without a column stops no aggregate."""
    for column in ("volume_m3", "declared_amount", "declared_currency", "claimed_amount", "claimed_at", "origin_city"):
        connection.execute(SQL("alter table logistics.shipments drop column {}").format(Identifier(column)))
    connection.execute("alter table logistics.vehicle_logs drop column empty_km")
    add(connection, "shipments", shipment_id="S1", created_at=START, pieces=3, log_id="L1")
    add(connection, "vehicle_logs", log_id="L1", trip_date=START.date())
    for aggregate in choose([]):
        refreshed(connection, aggregate.name)
    assert rows_of(connection, "value_at_risk", "currency count_open count_valued") == [("(none)", 1, 0)]
    assert rows_of(connection, "claim_months", "currency count_shipments count_claims") == [("(none)", 1, 0)]
    assert rows_of(connection, "vehicle_days", "count_trips count_split_trips") == [(1, 0)]
    assert rows_of(connection, "lane_emissions", "origin_city count_shipments") == [("(none)", 1)]
    refreshed(connection, "daily_shipments")
    assert rows_of(connection, "daily_shipments", "sum_pieces count_measured sum_volume_m3") == [(3, 0, 0)]


@pytest.mark.parametrize("is_needed", [False, True])
def test_the_table_of_the_old_throughput_goes_unless_a_view_needs_it(connection: Connection, is_needed: bool) -> None:
    """A migration of the version before drops it; what other objects need stays, and is not registered any more."""
    with database_at(connection.info.dsn, "0020") as earlier, connect(earlier) as before:
        before.execute(
            "create table analytics.warehouse_throughput (day date); insert into etl.aggregates values "
            "('warehouse_throughput', 'One row per day and warehouse.', 'day', '{}')"
        )
        if is_needed:
            before.execute("create view analytics.mine as select * from analytics.warehouse_throughput")
        run_migrations(before)
        found = before.execute("select to_regclass('analytics.warehouse_throughput') is not null").fetchone()
        assert found == (is_needed,)
        assert before.execute("select count(*) from etl.aggregates").fetchone() == (0,)
