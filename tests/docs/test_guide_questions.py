"""The questions of the analyst's guide, answered by its queries and directly from the same mean facts."""

import re
from collections.abc import Callable, Iterable
from datetime import UTC, date
from fractions import Fraction
from itertools import product
from typing import Any

from etl.precalculation.catalogue import read_all
from etl.precalculation.refresh import refresh
from scripts import update_answers
from tests.support import recomputed
from tests.support.faults import Connection
from tests.support.mean_facts import MeanFacts
from tests.support.recomputed import Row, World, grouped, hours, number, rounded, share, total, utc_day

ZERO = Fraction(0)
Answer = set[tuple[Any, ...]]

# The mean facts are of 2024, the questions of 2025.
A_YEAR_LATER = """
    update logistics.shipments set created_at = created_at + interval '365 days',
        picked_up_at = picked_up_at + interval '365 days', promised_at = promised_at + interval '365 days',
        delivered_at = delivered_at + interval '365 days', updated_at = updated_at + interval '365 days';
    update logistics.tracking_events set occurred_at = occurred_at + interval '365 days',
        recorded_at = recorded_at + interval '365 days';
    update logistics.vehicle_logs set trip_date = trip_date + 365;
    delete from analytics.first_promises;
"""


def ratio(part: Fraction | int, whole: Fraction | int, places: int = 1) -> Fraction | None:
    """Return a ratio that the queries round."""
    return share(Fraction(part), Fraction(whole), places)


def live(world: World, first: date, until: date) -> list[Row]:
    """Return the shipments created on these days that are not cancelled."""
    return [row for row in world.shipments if row["is_live"] and first <= utc_day(row["created_at"]) < until]


def carriers(world: World) -> Answer:
    """Answer the question on the promises of carriers, for all shipments of the quarter."""
    first, until = date(2025, 10, 1), date(2026, 1, 1)
    names = {row["carrier"] for row in world.shipments if first <= utc_day(row["created_at"]) < until}
    by_carrier = grouped(live(world, first, until), lambda row: (row["carrier"],))
    answer = set()
    for carrier in names:
        rows = by_carrier.get((carrier,), [])
        judged = [row for row in rows if row["is_on_time"] is not None]
        first_judged = [row for row in rows if row["is_first_on_time"] is not None]
        late = [row["late_hours"] for row in judged if not row["is_on_time"]]
        tracked = [world.events[row["shipment_id"]] for row in rows if world.events.get(row["shipment_id"])]
        damaged = sum(
            any((event["exception_code"] or "").strip(recomputed.BLANKS).upper() == "DAMAGED" for event in events)
            for events in tracked
        )
        answer.add(
            (
                carrier,
                len(rows),
                ratio(100 * number(judged, lambda row: row["is_on_time"]), len(judged)),
                ratio(100 * number(first_judged, lambda row: row["is_first_on_time"]), len(first_judged)),
                number(rows, lambda row: row["end"] == "open"),
                ratio(sum(late, ZERO), len(late)),
                rounded(sum(late, ZERO), 0),
                ratio(100 * damaged, len(tracked), 2),
            )
        )
    return answer


def growth(world: World) -> Answer:
    """Answer the question on the volume of quarters, of which the facts have one year."""
    months = {utc_day(row["created_at"]).month for row in world.shipments if utc_day(row["created_at"]).year == 2025}
    rows = live(world, date(2025, 1, 1), date(2026, 1, 1))
    quarters = [(utc_day(row["created_at"]).month + 2) // 3 for row in rows]
    return {(quarter, None, quarters.count(quarter), None) for quarter in {(month + 2) // 3 for month in months}}


def open_now(world: World) -> Answer:
    """Answer the question on open shipments."""
    rows = recomputed.open_shipments(world)
    as_of = rows[0]["as_of"]
    still_open = [row for row in world.shipments if row["end"] == "open"]
    answer = set()
    for age in {row["age_bucket"] for row in rows}:
        least, most = (
            int(part) for part in (f"{age}-{age}" if "-" not in age else age).replace("+", "").split("-")[:2]
        )
        most = 10**6 if "+" in age else most
        of_age = [row for row in still_open if least <= (as_of - row["created_at"]).days <= most]
        overdue = [row for row in of_age if row["promised_at"] is not None and row["promised_at"] < as_of]
        days = sum((hours(row["promised_at"], as_of) for row in overdue), ZERO) / 24
        answer.add((age, len(of_age), len(overdue), ratio(days, len(overdue)), as_of))
    return answer


def costs(world: World) -> Answer:
    """Answer the question on the cost of a kilogram."""
    answer = set()
    first, until = date(2025, 1, 1), date(2026, 1, 1)
    names = {row["carrier"] for row in world.shipments if first <= utc_day(row["created_at"]) < until}
    rows = [
        row for row in live(world, first, until) if row["weight_kg"] is not None and row["freight_cost"] is not None
    ]
    for carrier in names:
        of_service = [
            [row for row in rows if (row["carrier"], row["service_level"]) == key]
            for key in product([carrier], ("economy", "standard", "express"))
        ]
        answer.add((carrier, *(ratio(total(each, "freight_cost"), total(each, "weight_kg"), 2) for each in of_service)))
    return answer


def vehicles(world: World) -> Answer:
    """Answer the question on vehicles: all trips without a known vehicle are one row."""
    known = {row["vehicle_id"]: row for row in world.facts["vehicles"]}
    carried = grouped((row for row in world.shipments if row["is_live"]), lambda row: (row["log_id"],))
    trips = [trip for trip in world.facts["vehicle_logs"] if trip["trip_date"].year == 2025]
    answer = set()
    for (kind,), rows in grouped(
        trips, lambda trip: ((known.get(trip["vehicle_id"]) or {}).get("vehicle_type"),)
    ).items():
        metered = [row for row in rows if row["distance_km"] is not None and row["fuel_l"] is not None]
        loads = [
            (Fraction(vehicle["capacity_kg"]), total(freight, "weight_kg"), row["distance_km"])
            for row in rows
            for vehicle in [known.get(row["vehicle_id"])]
            for freight in [carried.get((row["log_id"],), [])]
            if vehicle and vehicle["capacity_kg"] is not None and all(each["weight_kg"] is not None for each in freight)
        ]
        far = [(most * Fraction(way), weight * Fraction(way)) for most, weight, way in loads if way is not None]
        answer.add(
            (
                kind,
                len({world.key("vehicle", row["vehicle_id"]) for row in rows}),
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
    rows = [row for row in world.shipments if row["is_live"]]

    def is_december(row: Row, name: str) -> bool:
        return row[name] is not None and (row[name].astimezone(UTC).year, row[name].astimezone(UTC).month) == (2025, 12)

    for warehouse in {row["warehouse"] for row in rows}:
        own = [row for row in rows if row["warehouse"] == warehouse]
        left = [row for row in own if is_december(row, "picked_up_at")]
        booked = [
            row for row in own if is_december(row, "created_at") and (row["picked_up_at"] or row["end"] == "open")
        ]
        if left or booked:
            days = grouped(left, lambda row: (utc_day(row["picked_up_at"]),)).values()
            waits = [hours(row["created_at"], row["picked_up_at"]) for row in left]
            waits = [wait for row, wait in zip(left, waits, strict=True) if row["picked_up_at"] >= row["created_at"]]
            waiting = [
                row
                for row in booked
                if row["picked_up_at"] is None or utc_day(row["picked_up_at"]) > utc_day(row["created_at"])
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


ANSWERS: dict[str, Callable[[World], Answer]] = {
    "Which carriers keep": carriers,
    "How does volume grow": growth,
    "What is still open": open_now,
    "What does a kilogram cost": costs,
    "Which vehicles burn": vehicles,
    "Which warehouses sent": warehouses,
}


def _exact(rows: Iterable[tuple[Any, ...]]) -> Answer:
    return {tuple(Fraction(value) if hasattr(value, "as_tuple") else value for value in row) for row in rows}


def test_the_questions_are_answered_as_from_the_facts(connection: Connection) -> None:
    """Each of six queries of the guide gives what a plain computation over the facts gives, down to the last digit."""
    facts = MeanFacts(connection, 3)
    facts.change(300)
    connection.execute(A_YEAR_LATER)
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
