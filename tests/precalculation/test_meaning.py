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


def test_a_status_is_found_however_it_is_written(connection: Connection) -> None:
    """Capitals, blanks and letters beyond ASCII change no meaning, and a name is mapped before it becomes a key."""
    connection.execute("insert into analytics.shipment_states values ('zurück an lager', 'returned')")
    connection.execute(
        "insert into analytics.name_spellings values ('carrier', 'dhl', 'DHL'), ('carrier', '', '(none) of them')"
    )
    returned = (
        "zurück an lager",
        "ZURÜCK AN LAGER",
        "Zurück An Lager",
        " zurÜck an Lager ",
        "RETURNED",
        "Returned",
        "reTurned",
    )
    for number, status in enumerate((*returned, "zurueck", " ", None)):
        carrier = (None, "dhl", "", "(none)")[number % 4]
        add(connection, "shipments", shipment_id=f"S{number}", created_at=START, status=status, carrier=carrier)
    query = "select carrier, end_state, is_unknown_status from analytics.judged_shipments() order by shipment_id"
    carriers = ("(none)", "DHL", '"(none) of them"', '"(none)"')
    ends = [*[("returned", False)] * len(returned), ("open", True), ("open", False), ("open", False)]
    expected = [(carriers[number % 4], *end) for number, end in enumerate(ends)]
    assert connection.execute(query).fetchall() == expected


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


def test_a_definition_without_quantities_still_has_its_promised_days(connection: Connection) -> None:
    """Shipments whose definition names no quantities are counted by their promise; in full is unknown."""
    connection.execute("alter table logistics.shipments drop column ordered_quantity, drop column delivered_quantity")
    times = {"promised_at": START + HOUR, "delivered_at": START}
    add(connection, "shipments", shipment_id="S1", created_at=START, **times)
    refreshed(connection, "promised_days")
    columns = "count_due count_on_time count_quantified in_full_share"
    assert rows_of(connection, "promised_days", columns) == [(1, 1, 0, None)]


def test_who_moves_a_promise_is_seen(connection: Connection) -> None:
    """A shipment that is on time only by its last promise is counted, with the hours by which the promise moved."""
    for number, (moved, delivered) in enumerate(((24, 20), (72, 90), (-5, -6), (0, 0))):
        add(
            connection,
            "shipments",
            shipment_id=f"S{number}",
            created_at=START,
            promised_at=START + moved * HOUR,
            etl_first_promised_at=START,
            delivered_at=START + delivered * HOUR,
        )
    refreshed(connection, "promised_days")
    columns = (
        "count_moved_later count_moved_earlier count_on_time_by_move count_moved_to_24_h count_moved_to_72_h "
        "sum_moved_later_hours sum_moved_earlier_hours max_moved_later_hours week"
    )
    monday = START.date()
    assert rows_of(connection, "promised_days", columns) == [
        (0, 0, 0, 0, 0, 0, 0, None, monday),
        (0, 1, 0, 0, 0, 0, 5, None, monday - timedelta(days=7)),
        (1, 0, 0, 0, 1, 72, 0, 72, monday),
        (1, 0, 1, 1, 0, 24, 0, 24, monday),
    ]


def test_in_full_is_every_unit_that_was_ordered(connection: Connection) -> None:
    """Too many units are in full, one missing is not, an unknown quantity is neither, and open is not kept."""
    quantities = [(10, 10), (10, 12), (10, 9), (10, None), (None, 5)]
    for number, (ordered, delivered) in enumerate(quantities):
        values = {"ordered_quantity": ordered, "delivered_quantity": delivered}
        late = START + (2 if number == 1 else 0) * HOUR
        add(
            connection,
            "shipments",
            shipment_id=f"S{number}",
            created_at=START,
            promised_at=START + HOUR,
            delivered_at=late,
            **values,
        )
    add(connection, "shipments", shipment_id="open", created_at=START, promised_at=START, ordered_quantity=10)
    refreshed(connection, "promised_days")
    columns = (
        "count_due count_quantified count_in_full count_on_time_in_full on_time_in_full_share kept_in_full_share "
        "sum_ordered_quantity sum_delivered_quantity sum_missing_quantity fill_rate"
    )
    assert rows_of(connection, "promised_days", columns) == [
        (6, 3, 2, 1, Decimal("0.3333"), Decimal("0.25"), 30, 31, 1, Decimal("0.9667"))
    ]


def test_a_stay_at_a_hub_is_from_the_first_arrival_to_the_first_departure(connection: Connection) -> None:
    """Repeated events change nothing; a shipment that comes back, or never left, has no stay there."""
    add(connection, "shipments", shipment_id="S1", created_at=START)
    add(connection, "shipments", shipment_id="S2", created_at=START)
    happened = [
        ("S1", "HUB_ARRIVED", 0, "A"),
        ("S1", "hub_arrived ", 1, "A"),
        ("S1", "HUB_DEPARTED", 6, "A"),
        ("S1", "HUB_DEPARTED", 7, "A"),
        ("S1", "HUB_ARRIVED", 20, "B"),
        ("S2", "HUB_ARRIVED", 0, "B"),
        ("S2", "HUB_DEPARTED", 2, "B"),
        ("S2", "HUB_ARRIVED", 9, "B"),
        ("S2", "HUB_DEPARTED", 9, None),
        ("nobody", "HUB_ARRIVED", 0, "A"),
    ]
    for number, (shipment, event, hour, code) in enumerate(happened):
        place = {"location_code": code, "location_city": "Lyon", "location_country": "FR"}
        names = {"shipment_id": shipment, "event_code": event, "occurred_at": START + hour * HOUR}
        add(connection, "tracking_events", event_id=f"E{number}", **names, **place)
    refreshed(connection, "hub_stays")
    columns = (
        "hub count_visits count_stays count_not_departed count_waiting count_not_arrived count_out_of_order sum_hours"
    )
    assert rows_of(connection, "hub_stays", columns) == [
        ("A", 1, 1, 0, 0, 0, 0, 6),
        ("B", 2, 0, 1, 1, 0, 1, 0),
        ("Lyon, FR", 1, 0, 0, 0, 1, 0, 0),
    ]


def test_the_list_of_late_shipments_follows_the_newest_event(connection: Connection) -> None:
    """An open shipment is late once an event is after its promise; a delivery takes it off the list."""
    for name, promised in (("S1", 1), ("S2", 5)):
        add(connection, "shipments", shipment_id=name, created_at=START, promised_at=START + promised * HOUR)
    add(connection, "shipments", shipment_id="S3", created_at=START + 4 * HOUR)
    refreshed(connection, "late_shipments")
    assert rows_of(connection, "late_shipments", "shipment_id late_hours") == [("S1", 3)]
    connection.execute("update logistics.shipments set updated_at = created_at + interval '9 hours'")
    refreshed(connection, "late_shipments")
    assert rows_of(connection, "late_shipments", "shipment_id late_hours") == [("S1", 12), ("S2", 8)]
    connection.execute("update logistics.shipments set status = 'lost' where shipment_id = 'S1'")
    refreshed(connection, "late_shipments")
    assert rows_of(connection, "late_shipments", "shipment_id carrier late_hours") == [("S2", "(none)", 8)]


def test_the_hour_of_a_warehouse_is_its_own(connection: Connection) -> None:
    """The change to summer time and a time zone of half an hour move the hours; other warehouses are in UTC."""
    connection.execute(
        "insert into analytics.warehouse_timezones values ('BER', 'Europe/Berlin'), ('DEL', 'Asia/Kolkata')"
    )
    saturday = datetime(2026, 3, 28, 22, 30, tzinfo=UTC)
    for warehouse in ("BER", "DEL", "LON"):
        for later in (0, 24):
            values = {"picked_up_at": saturday + later * HOUR, "origin_warehouse": warehouse, "created_at": START}
            add(connection, "shipments", shipment_id=f"{warehouse}{later}", **values)
    refreshed(connection, "warehouse_hours")
    columns = "warehouse local_hour count_departed count_weekend"
    assert rows_of(connection, "warehouse_hours", columns) == [
        ("BER", 0, 1, 0),
        ("BER", 23, 1, 1),
        ("DEL", 4, 2, 1),
        ("LON", 22, 2, 2),
    ]


def test_exceptions_of_a_lane_are_counted_by_code(connection: Connection) -> None:
    """A shipment with two codes is in two rows; a cancelled one, and one that nobody knows, are in none."""
    for name, status in (("S1", None), ("S2", "cancelled")):
        times = {"promised_at": START, "delivered_at": START + 3 * HOUR} if status is None else {}
        add(connection, "shipments", shipment_id=name, created_at=START, carrier="A", status=status, **times)
    sent = [
        ("S1", "WEATHER", 0),
        ("S1", "weather ", 0),
        ("S1", "WEATHER", 1),
        ("S1", None, 2),
        ("S2", "X", 0),
        ("?", "X", 0),
    ]
    for number, (shipment, code, hour) in enumerate(sent):
        names = {"shipment_id": shipment, "event_code": "EXCEPTION", "exception_code": code}
        add(connection, "tracking_events", event_id=f"E{number}", occurred_at=START + hour * HOUR, **names)
    refreshed(connection, "lane_exceptions")
    columns = "carrier exception_code count_exceptions distinct_shipments distinct_late_shipments avg_late_hours"
    assert rows_of(connection, "lane_exceptions", columns) == [
        ("A", "(none)", 1, 1, 1, 3),
        ("A", "WEATHER", 2, 1, 1, 3),
    ]


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
