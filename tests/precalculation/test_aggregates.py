import threading
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from itertools import count
from typing import Any

import pytest
from psycopg import sql

from etl.errors import InternalError, UsageError
from etl.precalculation.catalogue import Aggregate, choose
from etl.precalculation.refresh import RefreshResult, refresh
from tests.support.facts import add, another, differences, refreshed, rows_of, wait_until_blocked
from tests.support.faults import Connection

_numbers = count(1)


def _ship(connection: Connection, created_at: object, **values: object) -> None:
    values.setdefault("shipment_id", f"S{next(_numbers)}")
    add(connection, "shipments", created_at=created_at, **values)


def _versions(connection: Connection, table: str) -> dict[str, Any]:
    query = sql.SQL("select (t.*)::text, t.xmin::text from analytics.{} as t").format(sql.Identifier(table))
    return dict(connection.execute(query).fetchall())


def _at(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


# --- contents of the aggregates -----------------------------------------------------------------------------


def test_a_shipment_counts_on_the_utc_day_of_its_creation(connection: Connection) -> None:
    """A day begins at midnight UTC, whatever the zone of the source and of the session."""
    connection.execute("set timezone = 'Pacific/Auckland'")
    _ship(connection, "2026-03-01T01:30:00+02:00")
    _ship(connection, "2026-02-28T23:59:59.999999Z")
    _ship(connection, "2026-03-01T00:00:00Z")
    refreshed(connection, "daily_shipments")
    assert rows_of(connection, "daily_shipments", "day count_shipments") == [
        (date(2026, 2, 28), 2),
        (date(2026, 3, 1), 1),
    ]


@pytest.mark.parametrize("name", ["carrier_performance", "lane_performance"])
def test_a_shipment_counts_in_the_utc_month_of_its_creation(connection: Connection, name: str) -> None:
    """A month begins at midnight UTC of its first day and is named by that day."""
    _ship(connection, "2026-01-01T00:30:00+01:00")
    _ship(connection, "2025-12-31T23:00:00-05:00")
    _ship(connection, "2026-01-31T23:59:59.999999Z")
    refreshed(connection, name)
    assert rows_of(connection, name, "month count_shipments") == [(date(2025, 12, 1), 1), (date(2026, 1, 1), 2)]


def test_a_missing_name_is_a_row_of_its_own(connection: Connection) -> None:
    """Shipments without a carrier or service level are counted under (none), not dropped."""
    _ship(connection, "2026-03-01T00:00:00Z", carrier="A", service_level="express")
    _ship(connection, "2026-03-01T00:00:00Z", carrier="A")
    _ship(connection, "2026-03-01T00:00:00Z")
    for name in ("daily_shipments", "carrier_performance"):
        refreshed(connection, name)
        assert rows_of(connection, name, "carrier service_level count_shipments") == [
            ("(none)", "(none)", 1),
            ("A", "(none)", 1),
            ("A", "express", 1),
        ]


def test_sums_ignore_nulls(connection: Connection) -> None:
    """A null adds nothing, and the sum of nulls alone is 0."""
    day = "2026-03-01T00:00:00Z"
    _ship(connection, day, carrier="A", pieces=2, weight_kg="10.5", volume_m3="0.25", freight_cost="9.99")
    _ship(connection, day, carrier="A", pieces=3, weight_kg="0.125", freight_cost="0.01")
    _ship(connection, day, carrier="A")
    _ship(connection, day, carrier="B")
    refreshed(connection, "daily_shipments")
    columns = "carrier count_shipments sum_pieces sum_weight_kg sum_volume_m3 sum_freight_cost"
    assert rows_of(connection, "daily_shipments", columns) == [
        ("A", 3, 5, Decimal("10.625"), Decimal("0.25"), Decimal("10.00")),
        ("B", 1, 0, 0, 0, 0),
    ]


def test_on_time_is_delivered_at_or_before_the_promise(connection: Connection) -> None:
    """The promised instant is on time; without delivery or promise it is neither on time nor late."""
    day, promised = _at("2026-03-01T00:00:00"), _at("2026-03-05T18:00:00")
    second = timedelta(seconds=1)
    for delivered in (promised - second, promised, promised + timedelta(hours=1, minutes=30), None):
        _ship(connection, day, carrier="A", promised_at=promised, delivered_at=delivered)
    _ship(connection, day, carrier="A", delivered_at=promised)
    _ship(connection, day, carrier="B", promised_at=promised)
    columns = "carrier count_delivered count_on_time count_late on_time_share"
    for name in ("daily_shipments", "carrier_performance", "lane_performance"):
        refreshed(connection, name)
        assert rows_of(connection, name, columns) == [
            ("A", 4, 2, 1, Decimal("0.6667")),
            ("B", 0, 0, 0, None),
        ]
    assert rows_of(connection, "carrier_performance", "carrier sum_late_hours") == [
        ("A", Decimal("1.5")),
        ("B", 0),
    ]


def test_transit_hours_are_between_pick_up_and_delivery(connection: Connection) -> None:
    """Mean and sample deviation are of the shipments with both times; fewer than 20 transits have no percentiles."""
    picked = _at("2026-03-01T12:00:00")
    for hours in (10, 20, 40):
        for _ in range(7):
            delivered = picked + timedelta(hours=hours)
            _ship(connection, picked, carrier="A", picked_up_at=picked, delivered_at=delivered)
    _ship(connection, picked, carrier="A", picked_up_at=picked)
    _ship(connection, picked, carrier="A", delivered_at=picked)
    _ship(connection, picked, carrier="B", picked_up_at=picked, delivered_at=picked + timedelta(minutes=20))
    _ship(connection, picked, carrier="C")
    columns = (
        "carrier count_transits sum_transit_hours sum_squared_transit_hours avg_transit_hours "
        "stddev_transit_hours p50_transit_hours p90_transit_hours p95_transit_hours"
    )
    for name in ("daily_shipments", "carrier_performance", "lane_performance"):
        refreshed(connection, name)
        assert rows_of(connection, name, columns) == [
            ("A", 21, 490, 14_700, Decimal("23.333"), Decimal("12.780"), 20, 40, 40),
            ("B", 1, Decimal("0.333333"), Decimal("0.333333") ** 2, Decimal("0.333"), None, None, None, None),
            ("C", 0, 0, 0, None, None, None, None, None),
        ]


def test_cost_per_kg_is_a_ratio_of_sums(connection: Connection) -> None:
    """Only shipments with both a weight and a cost count, each by its weight."""
    day = "2026-03-01T00:00:00Z"
    for weight, cost in (("10", "30"), ("30", "20"), (None, "99"), ("5", None)):
        _ship(connection, day, carrier="A", weight_kg=weight, freight_cost=cost)
    _ship(connection, day, carrier="B", weight_kg="5")
    columns = "carrier sum_weight_kg sum_freight_cost sum_costed_weight_kg sum_costed_freight_cost cost_per_kg"
    for name in ("daily_shipments", "carrier_performance", "lane_performance"):
        refreshed(connection, name)
        assert rows_of(connection, name, columns) == [
            ("A", 45, 149, 40, 50, Decimal("1.25")),
            ("B", 5, 0, 0, 0, None),
        ]


def test_a_lane_is_countries_and_cities_of_both_ends(connection: Connection) -> None:
    """Cities of one name in two countries are two lanes; a missing end is (none); cancelled ones are not counted."""
    day = "2026-03-01T00:00:00Z"
    lodz = {"origin_country": "PL", "origin_city": "Łódź", "carrier": "A"}
    _ship(connection, day, **lodz, destination_country="US", destination_city="Paris")
    _ship(connection, day, **lodz, destination_country="FR", destination_city="Paris")
    _ship(connection, day, **lodz, destination_country="FR", destination_city="Paris", status="cancelled")
    _ship(connection, day)
    refreshed(connection, "lane_performance")
    columns = "origin_country origin_city destination_country destination_city carrier count_shipments"
    assert rows_of(connection, "lane_performance", columns) == [
        ("(none)", "(none)", "(none)", "(none)", "(none)", 1),
        ("PL", "Łódź", "FR", "Paris", "A", 1),
        ("PL", "Łódź", "US", "Paris", "A", 1),
    ]


def test_open_shipments_are_grouped_by_age_at_the_newest_event(connection: Connection) -> None:
    """Age counts whole days up to the newest time of any shipment, delivered ones included."""
    newest = _at("2026-03-31T12:00:00")
    second = timedelta(seconds=1)
    _ship(connection, newest - timedelta(days=400), carrier="A", delivered_at=newest, status="delivered")
    for days in (3, 8, 15, 31, 91):
        _ship(connection, newest - timedelta(days=days) + second, carrier="A")
        _ship(connection, newest - timedelta(days=days), carrier="A", picked_up_at=newest - second)
    refreshed(connection, "open_shipments")
    columns = "as_of age_bucket count_shipments count_picked_up"
    assert rows_of(connection, "open_shipments", columns) == [
        (newest, "0-2", 1, 0),
        (newest, "15-30", 2, 1),
        (newest, "3-7", 2, 1),
        (newest, "31-90", 2, 1),
        (newest, "8-14", 2, 1),
        (newest, "91+", 1, 1),
    ]


def test_an_open_shipment_is_overdue_after_its_promise(connection: Connection) -> None:
    """A promise that ends with the newest event is not overdue yet, and no promise is never overdue."""
    newest = _at("2026-03-31T12:00:00")
    created = newest - timedelta(hours=10)
    for promised in (newest, newest + timedelta(days=1), None, newest - timedelta(minutes=90)):
        _ship(connection, created, carrier="A", promised_at=promised, updated_at=newest, weight_kg="2")
    refreshed(connection, "open_shipments")
    columns = (
        "carrier age_bucket is_overdue count_shipments count_unpromised oldest_created_at "
        "sum_age_hours sum_overdue_hours sum_pieces sum_weight_kg sum_freight_cost"
    )
    assert rows_of(connection, "open_shipments", columns) == [
        ("A", "0-2", False, 3, 1, created, 30, 0, 0, 6, 0),
        ("A", "0-2", True, 1, 0, created, 10, Decimal("1.5"), 0, 2, 0),
    ]


def test_an_ended_shipment_is_not_open(connection: Connection) -> None:
    """A delivery time or a final status closes a shipment; an unknown status does not."""
    day = "2026-03-01T00:00:00Z"
    for status in ("delivered", "cancelled", "returned", "lost"):
        _ship(connection, day, carrier="ended", status=status)
    _ship(connection, day, carrier="ended", status="in_transit", delivered_at=day)
    _ship(connection, day, carrier="open", status="in_transit")
    _ship(connection, day)
    refreshed(connection, "open_shipments")
    assert rows_of(connection, "open_shipments", "carrier count_shipments") == [("(none)", 1), ("open", 1)]


def test_vehicle_days_add_up_trips_and_their_shipments(connection: Connection) -> None:
    """Distance and fuel of a trip count once, for any number of its shipments."""
    day, next_day = date(2026, 3, 1), date(2026, 3, 2)
    trips: list[tuple[object, ...]] = [
        ("L1", "V1", day, "100.5", "10"),
        ("L2", "V1", day, "99.5", "8"),
        ("L3", "V1", day, "7", None),
        ("L4", "V1", next_day, "0", "1"),
        ("L5", None, day, None, None),
    ]
    names = ("log_id", "vehicle_id", "trip_date", "distance_km", "fuel_l")
    for trip in trips:
        add(connection, "vehicle_logs", **dict(zip(names, trip, strict=True)))
    carried: list[tuple[object, ...]] = [
        ("L1", "1.5", 1),
        ("L1", "2", 2),
        ("L2", None, 4),
        ("L9", "50", 1),
        (None, "9", 1),
    ]
    for log_id, weight, pieces in carried:
        _ship(connection, "2026-02-27T00:00:00Z", log_id=log_id, weight_kg=weight, pieces=pieces)
    refreshed(connection, "vehicle_days")
    columns = "source_day vehicle_id count_trips sum_distance_km sum_fuel_l count_shipments sum_pieces sum_weight_kg"
    assert rows_of(connection, "vehicle_days", columns) == [
        (day, "(none)", 1, 0, 0, 0, 0, 0),
        (day, "V1", 3, 207, 18, 3, 7, Decimal("3.5")),
        (next_day, "V1", 1, 0, 1, 0, 0, 0),
    ]
    metered = "vehicle_id source_day sum_metered_distance_km sum_metered_fuel_l fuel_l_per_100_km"
    assert rows_of(connection, "vehicle_days", metered) == [
        ("(none)", day, 0, 0, None),
        ("V1", day, 200, 18, 9),
        ("V1", next_day, 0, 1, None),
    ]


def test_days_add_up_to_their_month(connection: Connection) -> None:
    """Counts and sums of the days of a month equal the month's, to the last digit."""
    start = _at("2026-03-01T00:00:00")
    for number in range(200):
        picked = start + timedelta(hours=number * 3)
        _ship(
            connection,
            picked,
            carrier="AB"[number % 2],
            service_level="express",
            picked_up_at=picked,
            delivered_at=picked + timedelta(seconds=number * 7919 % 300_007, microseconds=number),
            weight_kg=Decimal(number * 37 % 1000 + 1) / 7,
            freight_cost=Decimal(number) / 3,
        )
    refreshed(connection, "daily_shipments")
    refreshed(connection, "carrier_performance")
    added = """
        select carrier, sum(count_shipments), sum(sum_weight_kg), sum(sum_costed_freight_cost),
            sum(sum_transit_hours), sum(sum_squared_transit_hours)
        from analytics.daily_shipments group by carrier order by carrier"""
    columns = (
        "carrier count_shipments sum_weight_kg sum_costed_freight_cost sum_transit_hours sum_squared_transit_hours"
    )
    assert connection.execute(added).fetchall() == rows_of(connection, "carrier_performance", columns)
    assert len(rows_of(connection, "daily_shipments", "day")) > 40


# --- effects of a refresh -----------------------------------------------------------------------------------


def _fill(connection: Connection) -> None:
    """Add trips, shipments and events of a few days, some open, some late, and two loads in the ledger."""
    connection.execute("""
        insert into etl.runs (number, run, dataset, source, definition_hash, mode, is_atomic, is_forced)
        overriding system value
        values (1, 'R', 'shipments', 'S', '', 'merge', false, false)""")
    connection.execute("""
        insert into etl.separate_batches (run, "offset", bytes, first_record, count_records, hash, attempt, loaded_at)
        values ('R', 0, 9, 1, 9, '', 1, '2026-04-01'), ('R', 9, 9, 1, 9, '', 1, '2026-04-02')""")
    start = _at("2026-03-30T00:00:00")
    for number in range(20):
        add(
            connection,
            "vehicle_logs",
            log_id=f"L{number}",
            vehicle_id=f"V{number % 3}",
            trip_date=start.date() + timedelta(days=number % 4),
            distance_km=number,
        )
    for number in range(120):
        created = start + timedelta(hours=number)
        _ship(
            connection,
            created,
            shipment_id=f"F{number}",
            log_id=f"L{number % 23}",
            carrier="ABC"[number % 3],
            service_level="express" if number % 2 else None,
            origin_city=("Łódź", "København")[number % 2],
            picked_up_at=created + timedelta(hours=2),
            promised_at=created + timedelta(hours=30),
            delivered_at=created + timedelta(hours=20 + number % 17, minutes=number) if number % 5 else None,
            weight_kg=number + 1,
            freight_cost=number * 2,
        )
        for hours, code in enumerate(("PICKED_UP", "HUB_ARRIVED", "EXCEPTION", "DELIVERED")):
            add(
                connection,
                "tracking_events",
                event_id=f"{number}-{code}",
                shipment_id=f"F{number}",
                event_code=code,
                occurred_at=created + timedelta(hours=10 * hours, minutes=number),
            )


def _parts_first() -> list[Aggregate]:
    """Return all aggregates; one that others are computed from is refreshed with them."""
    return sorted(choose([]), key=lambda aggregate: bool(aggregate.parts))


def test_a_refresh_without_a_change_writes_no_row(connection: Connection) -> None:
    """A second refresh of any aggregate finds every row equal and writes none of them."""
    _fill(connection)
    for aggregate in _parts_first():
        first = refresh(connection, aggregate, run=None)
        before = _versions(connection, aggregate.name)
        second = refresh(connection, aggregate, run=None)
        assert first.rows == len(before) > 1, aggregate.name
        assert (second.rows, second.buckets) == (0, 0), aggregate.name
        assert first.buckets >= 1, aggregate.name
        assert _versions(connection, aggregate.name) == before, aggregate.name


def test_a_refresh_writes_only_the_rows_that_change(connection: Connection) -> None:
    """One corrected weight rewrites the one row that holds it."""
    _fill(connection)
    refreshed(connection, "daily_shipments")
    before = _versions(connection, "daily_shipments")
    connection.execute("update logistics.shipments set weight_kg = 1000.25 where shipment_id = 'F7'")
    assert refreshed(connection, "daily_shipments").rows == 1
    after = _versions(connection, "daily_shipments")
    assert len(before.items() - after.items()) == len(after.items() - before.items()) == 1


def test_an_aggregate_equals_its_facts_after_any_change(connection: Connection) -> None:
    """A refresh of any aggregate includes insertions, moves to another bucket, corrections to null and deletions."""
    _fill(connection)
    for aggregate in choose([]):
        refresh(connection, aggregate, run=None)
    changes = (
        "update logistics.shipments set created_at = '2026-07-01' where shipment_id like 'F1%'",
        "update logistics.shipments set carrier = null, weight_kg = null where shipment_id like 'F2%'",
        "delete from logistics.shipments where shipment_id like 'F3%'",
        "update logistics.vehicle_logs set trip_date = '2025-01-01', vehicle_id = 'V9' where log_id = 'L4'",
        "delete from logistics.vehicle_logs where log_id = 'L5'",
        "update logistics.tracking_events set occurred_at = '2026-08-01' where event_id like '4%'",
        "delete from logistics.tracking_events where event_id like '5%'",
    )
    for change in changes:
        connection.execute(change)
    for aggregate in _parts_first():
        assert differences(connection, aggregate), aggregate.name
        assert refresh(connection, aggregate, run=None).rows > 0, aggregate.name
        assert not differences(connection, aggregate), aggregate.name


def test_an_aggregate_of_no_facts_is_empty(connection: Connection) -> None:
    """Rows without any facts are deleted and counted."""
    _fill(connection)
    rows = refreshed(connection, "daily_shipments").rows
    connection.execute("delete from logistics.shipments")
    assert refreshed(connection, "daily_shipments").rows == rows
    assert rows_of(connection, "daily_shipments", "day") == []


def test_a_refresh_records_the_freshness(connection: Connection) -> None:
    """The view shows the run, the number of rows and the instant before which all facts are included."""
    _fill(connection)
    (aggregate,) = choose(["vehicle_days"])
    before = connection.execute("select clock_timestamp()").fetchone()
    refreshed = refresh(connection, aggregate, run="20260401T000000Z-abcdef")
    connection.execute("set role etl_analyst")
    query = """
        select aggregate, refreshed_at >= %s, run, rows, seconds::float8, mode from analytics.freshness
        where refreshed_at is not null
    """
    assert connection.execute(query, before).fetchall() == [
        ("vehicle_days", True, "20260401T000000Z-abcdef", refreshed.rows, refreshed.seconds, "full")
    ]


def test_a_reader_sees_the_old_rows_without_waiting_until_the_refresh_commits(connection: Connection) -> None:
    """A refresh that has written its rows but not committed shows no new row and blocks no reader."""
    _fill(connection)
    refreshed(connection, "daily_shipments")
    old = _versions(connection, "daily_shipments")
    connection.execute("update logistics.shipments set weight_kg = 5000, created_at = created_at + interval '1 day'")
    with another(connection) as holder, another(connection) as worker, another(connection) as reader:
        reader.execute("set lock_timeout = '1ms'")
        with holder.transaction():
            # A refresh records the freshness last: blocked there, it has done all but commit.
            holder.execute("select from etl.refreshes for update")
            thread = threading.Thread(target=refreshed, args=(worker, "daily_shipments"))
            thread.start()
            wait_until_blocked(connection, worker)
            assert _versions(reader, "daily_shipments") == old
        thread.join()
        new = _versions(reader, "daily_shipments")
    assert not new.keys() & old.keys()
    assert new
    assert not differences(connection, choose(["daily_shipments"])[0])


def test_readers_see_whole_states_during_refreshes(connection: Connection) -> None:
    """Every read during refreshes equals one state of the facts, and none waits for a lock."""
    _fill(connection)
    refreshed(connection, "daily_shipments")
    seen: set[Decimal] = set()
    done = threading.Event()

    def refresh_often() -> None:
        with another(connection) as worker:
            for weight in range(1, 21):
                worker.execute("update logistics.shipments set weight_kg = %s", [weight])
                refreshed(worker, "daily_shipments")
        done.set()

    thread = threading.Thread(target=refresh_often)
    with another(connection) as reader:
        reader.execute("set lock_timeout = '1ms'")
        query = "select sum(sum_weight_kg) from analytics.daily_shipments"
        seen.update(weight for (weight,) in reader.execute(query))
        thread.start()
        while not done.is_set() and thread.is_alive():
            seen.update(weight for (weight,) in reader.execute(query))
    thread.join()
    assert done.is_set()
    first = sum(range(1, 121))
    assert first in seen
    assert seen <= {Decimal(first)} | {Decimal(120 * weight) for weight in range(1, 21)}


def test_refreshes_of_one_aggregate_queue(connection: Connection) -> None:
    """The second refresh waits for the first, longer than the session's lock timeout, and loses no change."""
    _fill(connection)
    with another(connection) as holder, another(connection) as first, another(connection) as second:
        refreshed(connection, "daily_shipments")
        second.execute("set lock_timeout = '1ms'")
        with holder.transaction():
            holder.execute("select from etl.refreshes for update")
            results: dict[int, RefreshResult] = {}
            threads = [
                threading.Thread(
                    target=lambda number=number, worker=worker: results.update(
                        {number: refreshed(worker, "daily_shipments")}
                    )
                )
                for number, worker in enumerate((first, second))
            ]
            threads[0].start()
            wait_until_blocked(connection, first)
            # Committed after the snapshot of the first: the second has to include it.
            connection.execute("update logistics.shipments set weight_kg = 5000 where shipment_id = 'F7'")
            threads[1].start()
            wait_until_blocked(connection, second)
        for thread in threads:
            thread.join()
        assert (results[0].rows, results[1].rows) == (0, 1)
        assert second.execute("show lock_timeout").fetchone() == ("1ms",)
    assert not differences(connection, choose(["daily_shipments"])[0])


def test_a_refresh_that_fails_changes_nothing_and_lets_the_next_begin(connection: Connection) -> None:
    """After an error rows and freshness are unchanged, the connection is usable, and no lock is held."""
    _fill(connection)
    (aggregate,) = choose(["daily_shipments"])
    refresh(connection, aggregate, run="good")
    before = _versions(connection, aggregate.name)
    connection.execute("update logistics.shipments set weight_kg = 5000")
    with another(connection) as holder:
        holder.execute("alter table analytics.daily_shipments add check (sum_weight_kg < 5000) not valid")
    with pytest.raises(UsageError, match="CheckViolation"):
        refresh(connection, aggregate, run="bad")
    assert _versions(connection, aggregate.name) == before
    assert connection.execute("select run from etl.refreshes").fetchall() == [("good",)]
    held = "select count(*) from pg_locks where locktype = 'advisory' and pid = pg_backend_pid()"
    assert connection.execute(held).fetchone() == (0,)


def test_a_refresh_inside_a_transaction_is_refused(connection: Connection) -> None:
    """A refresh refuses an open transaction, because its lock must precede the transaction."""
    with connection.transaction(), pytest.raises(InternalError, match="outside a transaction"):
        refreshed(connection, "daily_shipments")


def test_a_missing_table_is_named_with_the_remedy(connection: Connection) -> None:
    """A refresh without its table names the table and the command that creates it."""
    connection.execute("drop table analytics.daily_shipments")
    with pytest.raises(UsageError, match=r"analytics\.daily_shipments") as caught:
        refreshed(connection, "daily_shipments")
    assert caught.value.hint == "etl db migrate"


def test_a_loader_may_refresh_and_an_analyst_may_only_read(connection: Connection) -> None:
    """The group roles have the rights for their work and no more."""
    _fill(connection)
    connection.execute("set role etl_loader")
    for aggregate in choose([]):
        refresh(connection, aggregate, run=None)
    connection.execute("set role etl_analyst")
    assert rows_of(connection, "daily_shipments", "day")
    with pytest.raises(UsageError, match="may not refresh daily_shipments"):
        refreshed(connection, "daily_shipments")
