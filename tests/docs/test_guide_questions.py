"""The questions of the analyst's guide, answered by its queries and directly from the same hostile facts."""

import re
from collections import Counter
from collections.abc import Callable, Iterable
from datetime import date, timedelta
from fractions import Fraction
from typing import Any

from etl.precalculation.catalogue import read_all
from etl.precalculation.refresh import refresh
from scripts import update_answers
from tests.support.hostile_facts import HostileFacts
from tests.support.recomputed.events import is_exception
from tests.support.recomputed.exactly import (
    Facts,
    Row,
    code_of,
    day_of,
    groups,
    hours,
    key_of,
    rounded,
    total,
)
from tests.support.recomputed.exactly import ratio as rounded_ratio
from tests.support.recomputed.judged import judged
from tests.support.recomputed.risks import currency_of, emissions, value_at_risk
from tests.support.recomputed.shipments import LANE, newest_event, open_shipments
from tests.support.site import Site

ZERO = Fraction(0)
Answer = set[tuple[Any, ...]]

# The facts are of 2024, the questions of 2025.
A_YEAR_LATER = """
    update logistics.shipments set created_at = created_at + interval '365 days',
        picked_up_at = picked_up_at + interval '365 days', promised_at = promised_at + interval '365 days',
        delivered_at = delivered_at + interval '365 days', updated_at = updated_at + interval '365 days';
    update logistics.tracking_events set occurred_at = occurred_at + interval '365 days',
        recorded_at = recorded_at + interval '365 days';
    update logistics.vehicle_logs set trip_date = trip_date + 365;
    update logistics.shipments set etl_first_promised_at = etl_first_promised_at + interval '365 days'
        where etl_first_promised_at is not null;
"""


def ratio(part: Fraction | int, whole: Fraction | int, places: int = 1) -> Fraction | None:
    """Return a ratio that the queries round."""
    return rounded_ratio(part, whole, places)


class World:
    """The facts, their judged shipments, and their events by shipment."""

    def __init__(self, facts: Facts) -> None:
        self.facts = facts
        self.shipments = judged(facts)
        self.live = [row for row in self.shipments if row["end"] != "cancelled"]
        self.events = groups(facts["logistics.tracking_events"], lambda row: row["shipment_id"])


def created(rows: Iterable[Row], first: date, until: date) -> list[Row]:
    """Return the shipments created on these days."""
    return [row for row in rows if first <= day_of(row["created_at"]) < until]


def carriers(world: World) -> Answer:
    """Answer the question on the promises of carriers, for all shipments of the quarter."""
    quarter = date(2025, 10, 1), date(2026, 1, 1)
    answer = set()
    for carrier in {row["key_carrier"] for row in created(world.shipments, *quarter)}:
        rows = [row for row in created(world.live, *quarter) if row["key_carrier"] == carrier]
        promised = [row for row in rows if row["judged_promise"]]
        first_promised = [row for row in rows if row["ended_at"] and row["first_promise"]]
        late = [row["delay"] for row in promised if row["is_late"]]
        tracked = [world.events[row["shipment_id"]] for row in rows if world.events.get(row["shipment_id"])]
        damaged = sum(any(code_of(event["exception_code"]) == "DAMAGED" for event in events) for events in tracked)
        answer.add(
            (
                carrier,
                len(rows),
                ratio(100 * (len(promised) - len(late)), len(promised)),
                ratio(
                    100 * sum(row["ended_at"] <= row["first_promise"] for row in first_promised), len(first_promised)
                ),
                sum(row["end"] == "open" for row in rows),
                ratio(sum(late, ZERO), len(late)),
                rounded(sum(late, ZERO), 0),
                ratio(100 * damaged, len(tracked), 2),
            )
        )
    return answer


def growth(world: World) -> Answer:
    """Answer the question on the volume of quarters."""
    days = [day_of(row["created_at"]) for row in created(world.shipments, date(2024, 1, 1), date(2026, 1, 1))]
    counts = Counter(
        (day.year, (day.month + 2) // 3)
        for day in (day_of(row["created_at"]) for row in created(world.live, date(2024, 1, 1), date(2026, 1, 1)))
    )
    answer = set()
    for quarter in {(day.month + 2) // 3 for day in days}:
        before, after = (
            counts[year, quarter] if any((day.year, (day.month + 2) // 3) == (year, quarter) for day in days) else None
            for year in (2024, 2025)
        )
        percent = None if before is None or after is None else ratio(100 * (after - before), before)
        answer.add((quarter, before, after, percent))
    return answer


def open_now(world: World) -> Answer:
    """Answer the question on open shipments."""
    rows = open_shipments(world.facts)
    as_of = rows[0]["as_of"]
    still_open = [row for row in world.shipments if row["end"] == "open"]
    answer = set()
    for age in {row["age_bucket"] for row in rows}:
        least, most = (int(part) for part in age.split("-")) if "-" in age else (91, 10**6)
        of_age = [row for row in still_open if least <= (as_of - row["created_at"]).days <= most]
        overdue = [row for row in of_age if row["promised_at"] is not None and row["promised_at"] < as_of]
        days = sum((hours(row["promised_at"], as_of) for row in overdue), ZERO) / 24
        answer.add((age, len(of_age), len(overdue), ratio(days, len(overdue)), as_of))
    return answer


def costs(world: World) -> Answer:
    """Answer the question on the cost of a kilogram."""
    answer = set()
    year = date(2025, 1, 1), date(2026, 1, 1)
    rows = [
        row for row in created(world.live, *year) if row["weight_kg"] is not None and row["freight_cost"] is not None
    ]
    for carrier in {row["key_carrier"] for row in created(world.shipments, *year)}:
        of_service = [
            [row for row in rows if (row["key_carrier"], row["key_service_level"]) == (carrier, service)]
            for service in ("economy", "standard", "express")
        ]
        answer.add((carrier, *(ratio(total(each, "freight_cost"), total(each, "weight_kg"), 2) for each in of_service)))
    return answer


def vehicles(world: World) -> Answer:
    """Answer the question on vehicles: all trips without a known vehicle are one row."""
    known = {row["vehicle_id"]: row for row in world.facts["logistics.vehicles"]}
    carried = groups(world.live, lambda row: row["log_id"])
    trips = [trip for trip in world.facts["logistics.vehicle_logs"] if trip["trip_date"].year == 2025]
    by_key = {key_of(name): row for name, row in known.items()}
    answer = set()
    for kind, rows in groups(
        trips, lambda trip: (by_key.get(key_of(trip["vehicle_id"])) or {}).get("vehicle_type")
    ).items():
        metered = [row for row in rows if row["distance_km"] is not None and row["fuel_l"] is not None]
        loads = [
            (Fraction(vehicle["capacity_kg"]), total(freight, "weight_kg"), row["distance_km"])
            for row in rows
            for vehicle in [known.get(row["vehicle_id"])]
            for freight in [carried.get(row["log_id"], [])]
            if vehicle and vehicle["capacity_kg"] is not None and all(each["weight_kg"] is not None for each in freight)
        ]
        far = [(most * Fraction(way), weight * Fraction(way)) for most, weight, way in loads if way is not None]
        answer.add(
            (
                kind,
                len({key_of(row["vehicle_id"]) for row in rows}),
                len(rows),
                ratio(100 * total(metered, "fuel_l"), total(metered, "distance_km")),
                ratio(100 * sum((load[1] for load in loads), ZERO), sum((load[0] for load in loads), ZERO)),
                ratio(100 * sum((load[1] for load in far), ZERO), sum((load[0] for load in far), ZERO)),
            )
        )
    return answer


def warehouses(world: World) -> Answer:
    """Answer the question on warehouses, whose days are in UTC where no time zone is known."""
    answer = set()

    def is_december(row: Row, name: str) -> bool:
        return row[name] is not None and (day_of(row[name]).year, day_of(row[name]).month) == (2025, 12)

    for warehouse, own in groups(world.live, lambda row: row["key_origin_warehouse"]).items():
        left = [row for row in own if is_december(row, "picked_up_at")]
        booked = [
            row for row in own if is_december(row, "created_at") and (row["picked_up_at"] or row["end"] == "open")
        ]
        if left or booked:
            days = groups(left, lambda row: day_of(row["picked_up_at"])).values()
            waited = [row for row in left if row["picked_up_at"] >= row["created_at"]]
            waits = [hours(row["created_at"], row["picked_up_at"]) for row in waited]
            waiting = [
                row
                for row in booked
                if row["picked_up_at"] is None or day_of(row["picked_up_at"]) > day_of(row["created_at"])
            ]
            answer.add(
                (
                    warehouse,
                    len(left),
                    rounded(total(left, "weight_kg") / 1000, 1),
                    rounded(max((total(day, "weight_kg") for day in days), default=ZERO) / 1000, 1),
                    len(waiting),
                    ratio(sum(waits, ZERO), len(waits)),
                )
            )
    return answer


def values(world: World) -> Answer:
    """Answer the question on the value at risk."""
    answer = set()
    for currency, rows in groups(value_at_risk(world.facts), lambda row: row["currency"]).items():
        answer.add(
            (
                currency,
                total(rows, "count_open"),
                total(rows, "count_valued"),
                rounded(total(rows, "sum_declared_value"), 0),
                total(rows, "count_late"),
                rounded(total(rows, "sum_late_declared_value"), 0),
                total(rows, "count_exception"),
                rounded(total(rows, "sum_exception_declared_value"), 0),
                rows[0]["as_of"],
            )
        )
    return answer


def claims(world: World) -> Answer:
    """Answer the question on claims, for shipments of three quarters."""
    answer = set()
    of_year = created(world.live, date(2025, 1, 1), date(2025, 10, 1))
    for carrier, rows in groups(of_year, lambda row: row["key_carrier"]).items():
        claimed = [row for row in rows if row["claimed_amount"] is not None or row["claimed_at"] is not None]
        timed = [row for row in claimed if row["claimed_at"] is not None and row["claimed_at"] >= row["created_at"]]
        days = sum((hours(row["created_at"], row["claimed_at"]) for row in timed), ZERO) / 24
        euros = [row for row in rows if currency_of(row) == "EUR"]
        share = ratio(100 * total(euros, "claimed_amount"), total(euros, "declared_amount"), 3)
        answer.add(
            (
                carrier,
                len(rows),
                sum(row["end"] == "lost" for row in rows),
                len(claimed),
                ratio(100 * len(claimed), len(rows), 2),
                ratio(days, len(timed)),
                share,
            )
        )
    return answer


def quarter(world: World) -> list[Row]:
    """Return the shipments with a promise in the last quarter of 2025."""
    return [
        row
        for row in world.live
        if row["promised_at"] is not None and date(2025, 10, 1) <= day_of(row["promised_at"]) < date(2026, 1, 1)
    ]


def weeks(world: World) -> Answer:
    """Answer the question on the weeks of carriers."""
    answer = set()
    rows = [row for row in quarter(world) if date(2025, 10, 6) <= day_of(row["promised_at"]) < date(2025, 12, 29)]
    for (week, carrier), due in groups(
        rows,
        lambda row: (
            day_of(row["promised_at"]) - timedelta(days=day_of(row["promised_at"]).weekday()),
            row["key_carrier"],
        ),
    ).items():
        late = sum(row["is_late"] for row in due)
        kept = sum(row["judged_promise"] for row in due) - late
        timed = [row for row in due if row["end"] != "delivered" or row["ended_at"]]
        still_open = sum(row["end"] == "open" for row in due)
        answer.add((week, carrier, len(due), ratio(100 * kept, len(timed)), late, still_open))
    return answer


def moves(world: World) -> Answer:
    """Answer the question on moved promises."""
    answer = set()
    for carrier, due in groups(quarter(world), lambda row: row["key_carrier"]).items():
        later = [row for row in due if row["promised_at"] > row["first_promise"]]
        way = [hours(row["first_promise"], row["promised_at"]) for row in later]
        saved = sum(bool(row["judged_promise"]) and row["first_promise"] < row["ended_at"] and not row["is_late"]
                    for row in later)  # fmt: skip
        answer.add(
            (
                carrier,
                len(due),
                ratio(100 * len(later), len(due)),
                ratio(sum(way, ZERO), len(way)),
                max(way, default=None),
                saved,
            )
        )
    return answer


def empty_kilometres(world: World) -> Answer:
    """Answer the question on empty kilometres."""
    types = {key_of(row["vehicle_id"]): row["vehicle_type"] for row in world.facts["logistics.vehicles"]}
    trips = [trip for trip in world.facts["logistics.vehicle_logs"] if trip["trip_date"].year == 2025]
    answer = set()
    for kind, rows in groups(trips, lambda trip: types.get(key_of(trip["vehicle_id"]))).items():
        split = [row for row in rows if row["distance_km"] is not None and row["empty_km"] is not None]
        way, empty = total(split, "distance_km"), total(split, "empty_km")
        answer.add((kind, len(split), rounded(way, 0), rounded(empty, 0), ratio(100 * empty, way)))
    return answer


def carbon(world: World) -> Answer:
    """Answer the question on emissions."""
    rows = [row for row in emissions(world.facts) if row["trip_date"].year == 2025]
    answer = set()
    for country, own in groups(rows, lambda row: row["key_origin_country"]).items():
        rated = [row for row in own if row["emitted"] is not None]
        emitted = total(rated, "emitted")
        answer.add(
            (
                country,
                len(own),
                len(rated),
                rounded(total(own, "activity"), 0),
                rounded(emitted, 0) if rated else None,
                ratio(1000 * emitted, total(rated, "activity")),
            )
        )
    return answer


def in_full(world: World) -> Answer:
    """Answer the question on deliveries on time and in full."""
    answer = set()
    for carrier, due in groups(quarter(world), lambda row: row["key_carrier"]).items():
        known = [
            row
            for row in due
            if row["judged_promise"] and None not in (row["ordered_quantity"], row["delivered_quantity"])
        ]
        full = [row for row in known if row["delivered_quantity"] >= row["ordered_quantity"]]
        units = sum(
            (min(Fraction(row["delivered_quantity"]), Fraction(row["ordered_quantity"])) for row in known), ZERO
        )
        answer.add(
            (
                carrier,
                len(known),
                ratio(100 * len(full), len(known)),
                ratio(100 * sum(not row["is_late"] for row in full), len(known)),
                ratio(100 * units, total(known, "ordered_quantity"), 2),
            )
        )
    return answer


def late_now(world: World) -> Answer:
    """Answer the question on late shipments."""
    as_of = newest_event(world.facts)
    return {
        (
            row["shipment_id"],
            row["key_carrier"],
            row["key_destination_city"],
            row["promised_at"],
            rounded(hours(row["promised_at"], as_of) / 24, 1),
        )
        for row in world.live
        if row["end"] == "open" and row["promised_at"] is not None and row["promised_at"] < as_of
    }


def excepted_lanes(world: World) -> Answer:
    """Answer the question on exceptions of lanes."""
    answer = set()
    year = date(2025, 1, 1), date(2026, 1, 1)
    for rows in groups(
        created(world.live, *year), lambda row: (*(row[name] for name in LANE), row["key_carrier"])
    ).values():
        wrong = {
            (row["shipment_id"], code_of(event["exception_code"]), event["occurred_at"])
            for row in rows
            for event in world.events.get(row["shipment_id"], [])
            if is_exception(event)
        }
        if wrong:
            weather = sum(code == "WEATHER" for _, code, _ in wrong)
            cities = rows[0]["key_origin_city"], rows[0]["key_destination_city"]
            answer.add((*cities, rows[0]["key_carrier"], len(wrong), weather, len(rows)))
    return answer


ANSWERS: dict[str, Callable[[World], Answer]] = {
    "Which carriers keep": carriers,
    "How does volume grow": growth,
    "What is still open": open_now,
    "What does a kilogram cost": costs,
    "Which vehicles burn": vehicles,
    "Which warehouses sent": warehouses,
    "What is the value of the goods": values,
    "How often are goods lost": claims,
    "How many kilometres are driven empty": empty_kilometres,
    "Which countries cause most transport": carbon,
    "In which weeks": weeks,
    "Who moves promises": moves,
    "Which carriers deliver on time": in_full,
    "Which shipments are late now": late_now,
    "On which lanes does each carrier": excepted_lanes,
}


def _exact(rows: Iterable[tuple[Any, ...]]) -> Answer:
    return {tuple(Fraction(value) if hasattr(value, "as_tuple") else value for value in row) for row in rows}


def test_the_questions_are_answered_as_from_the_facts(site: Site) -> None:
    """Most queries of the guide give what a plain computation over the facts gives, down to the last digit."""
    facts = HostileFacts(site, 3)
    with facts.connection as connection:
        facts.arrive(300, 300)
        connection.execute(A_YEAR_LATER)
        facts.rate()
        for aggregate in read_all():
            refresh(connection, aggregate, run=None)
        world = World(facts.read())
        text = update_answers.GUIDE.read_text(encoding="utf-8")
        for title, answer in ANSWERS.items():
            query = re.search(rf"### {title}.*?```sql\n(.*?)```", text, re.DOTALL)
            assert query, title
            rows = connection.execute(re.sub(r"\nlimit \d+;", ";", query[1]).encode()).fetchall()
            assert rows, title
            assert _exact(rows) == answer(world), title
