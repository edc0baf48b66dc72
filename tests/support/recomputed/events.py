"""The aggregates on events, recomputed from the facts as their comments describe them."""

from collections import defaultdict
from datetime import datetime
from fractions import Fraction

from tests.support.recomputed.exactly import (
    BLANKS,
    NONE,
    Facts,
    Row,
    code_of,
    day_of,
    groups,
    hours,
    is_blank,
    key_of,
    known_text,
    month_of,
    percentile,
    quarter_of,
    ratio,
)
from tests.support.recomputed.judged import Names, ends, judged, late_hours, measures, punctuality
from tests.support.recomputed.shipments import LANE


def is_exception(event: Row) -> bool:
    """Return whether an event is an exception."""
    return not is_blank(event["exception_code"]) or code_of(event["event_code"]) == "EXCEPTION"


def carrier_scorecard(facts: Facts) -> list[Row]:
    """Recompute carrier_scorecard."""
    events = groups(facts["logistics.tracking_events"], lambda row: row["shipment_id"])
    result = []
    for (month, carrier), rows in groups(
        judged(facts), lambda row: (month_of(row["created_at"]), row["key_carrier"])
    ).items():
        live = [row for row in rows if row["end"] != "cancelled"]
        tracked = [events[row["shipment_id"]] for row in live if events.get(row["shipment_id"])]
        wrong = [[event for event in of_one if is_exception(event)] for of_one in tracked]
        damaged = sum(any(code_of(event["exception_code"]) == "DAMAGED" for event in of_one) for of_one in tracked)
        late = late_hours(rows)
        with_exception = sum(bool(of_one) for of_one in wrong)
        result.append(
            {"month": month, "carrier": carrier}
            | ends(rows)
            | punctuality(rows)
            | measures(rows)
            | {
                "sum_late_hours": sum(late, Fraction(0)),
                "avg_late_hours": ratio(sum(late), len(late), 3),
                "p50_late_hours": percentile(late, Fraction(1, 2)),
                "p90_late_hours": percentile(late, Fraction(9, 10)),
                "max_late_hours": max(late, default=None),
                "count_tracked": len(tracked),
                "tracked_share": ratio(len(tracked), len(live), 4),
                "count_with_exception": with_exception,
                "exception_rate": ratio(with_exception, len(tracked), 4),
                "count_exceptions": sum(
                    len({(code_of(event["exception_code"]), event["occurred_at"]) for event in of_one})
                    for of_one in wrong
                ),
                "count_damaged": damaged,
                "damage_rate": ratio(damaged, len(tracked), 4),
            }
        )
    return result


def exceptions_of(facts: Facts) -> list[Row]:
    """Return the exceptions, however often they were sent."""
    names = Names(facts)
    exceptions: list[Row] = []
    for (shipment, code, instant), events in groups(
        filter(is_exception, facts["logistics.tracking_events"]),
        lambda row: (known_text(row["shipment_id"]), code_of(row["exception_code"]), row["occurred_at"]),
    ).items():
        countries = [names.key("country", event["location_country"]) for event in events]
        countries = [country for country in countries if country != NONE]
        recorded = min((event["recorded_at"] for event in events if event["recorded_at"]), default=None)
        exceptions.append(
            {
                "shipment": shipment,
                "code": code,
                "day": day_of(instant),
                "quarter": quarter_of(instant),
                "country": min(countries, key=str.encode, default=NONE),
                "before": recorded is not None and recorded < instant,
                "hours": hours(instant, recorded) if recorded is not None and recorded >= instant else None,
            }
        )
    return exceptions


def exception_quarters(facts: Facts) -> list[Row]:
    """Recompute exception_quarters."""
    result = []
    for (quarter, code), rows in groups(exceptions_of(facts), lambda row: (row["quarter"], row["code"])).items():
        taken = [row["hours"] for row in rows if row["hours"] is not None]
        row = {"quarter": quarter, "exception_code": code, "count_exceptions": len(rows), "count_recorded": len(taken)}
        row |= {f"p{part}_recording_hours": percentile(taken, Fraction(part, 100)) for part in (50, 90)}
        result.append(row)
    return result


def daily_exceptions(facts: Facts) -> list[Row]:
    """Recompute daily_exceptions."""
    exceptions = exceptions_of(facts)
    result = []
    for (day, code, country), rows in groups(exceptions, lambda row: (row["day"], row["code"], row["country"])).items():
        taken = [row["hours"] for row in rows if row["hours"] is not None]
        result.append(
            {
                "day": day,
                "exception_code": code,
                "location_country": country,
                "count_exceptions": len(rows),
                "distinct_shipments": len({row["shipment"] for row in rows} - {None}),
                "count_recorded": len(taken),
                "count_out_of_order": sum(row["before"] for row in rows),
                "sum_recording_hours": sum(taken, Fraction(0)),
                "avg_recording_hours": ratio(sum(taken), len(taken), 3),
                "p90_recording_hours": percentile(taken, Fraction(9, 10)),
            }
        )
    return result


def daily_movements(facts: Facts) -> list[Row]:
    """Recompute daily_movements."""
    names = Names(facts)
    result = []
    for (day, country), rows in groups(
        facts["logistics.tracking_events"],
        lambda row: (day_of(row["occurred_at"]), names.key("country", row["location_country"])),
    ).items():
        moved = {known_text(row["shipment_id"]) for row in rows} - {None}
        wrong = {known_text(row["shipment_id"]) for row in rows if is_exception(row)} - {None}
        result.append(
            {
                "day": day,
                "location_country": country,
                "count_events": len(rows),
                "distinct_shipments": len(moved),
                "distinct_exception_shipments": len(wrong),
                "exception_share": ratio(len(wrong), len(moved), 4),
            }
        )
    return result


LEGS = {
    "pick-up to hub": (("PICKED_UP", min), ("HUB_ARRIVED", min)),
    "at hubs": (("HUB_ARRIVED", min), ("HUB_DEPARTED", max)),
    "hub to customs": (("HUB_DEPARTED", max), ("CUSTOMS_CLEARED", max)),
    "customs to delivery": (("CUSTOMS_CLEARED", max), ("DELIVERED", min)),
    "hub to delivery": (("HUB_DEPARTED", max), ("DELIVERED", min)),
    "all": (("PICKED_UP", min), ("DELIVERED", min)),
}


def legs_of(facts: Facts) -> list[Row]:
    """Return the legs of shipments that are not cancelled, each with its hours."""
    events = groups(facts["logistics.tracking_events"], lambda row: row["shipment_id"])
    legs = []
    for row in judged(facts):
        if row["end"] == "cancelled":
            continue
        instants = groups(events.get(row["shipment_id"], []), lambda event: code_of(event["event_code"]))
        for leg, milestones in LEGS.items():
            if not all(instants.get(code) for code, _ in milestones):
                continue
            if leg == "hub to delivery" and instants.get("CUSTOMS_CLEARED"):
                continue
            first, last = (choice(event["occurred_at"] for event in instants[code]) for code, choice in milestones)
            legs.append(
                row
                | {
                    "leg": leg,
                    "hours": hours(first, last) if last >= first else None,
                    "differs": milestones[1][0] == "DELIVERED" and row["delivered_at"] != last,
                }
            )
    return legs


def milestone_durations(facts: Facts) -> list[Row]:
    """Recompute milestone_durations."""
    result = []
    for key, rows in groups(
        legs_of(facts), lambda row: (month_of(row["created_at"]), *(row[key] for key in LANE), row["leg"])
    ).items():
        taken = [row["hours"] for row in rows if row["hours"] is not None]
        ends_with_delivery = LEGS[key[-1]][1][0] == "DELIVERED"
        result.append(
            dict(zip(["month", *(name.removeprefix("key_") for name in LANE), "leg"], key, strict=True))
            | {
                "count_shipments": len(rows),
                "count_out_of_order": len(rows) - len(taken),
                "count_durations": len(taken),
                "count_differing": sum(row["differs"] for row in rows) if ends_with_delivery else None,
                "sum_hours": sum(taken, Fraction(0)),
                "avg_hours": ratio(sum(taken), len(taken), 3),
                "p50_hours": percentile(taken, Fraction(1, 2)),
                "p90_hours": percentile(taken, Fraction(9, 10)),
                "p95_hours": percentile(taken, Fraction(95, 100)),
                "max_hours": max(taken, default=None),
            }
        )
    return result


def lane_exceptions(facts: Facts) -> list[Row]:
    """Recompute lane_exceptions."""
    live = {row["shipment_id"]: row for row in judged(facts) if row["end"] != "cancelled"}
    wrong: dict[tuple[str, str], set[datetime]] = defaultdict(set)
    for event in filter(is_exception, facts["logistics.tracking_events"]):
        if event["shipment_id"] in live:
            wrong[event["shipment_id"], code_of(event["exception_code"])].add(event["occurred_at"])
    rows = [live[shipment] | {"code": code, "instants": instants} for (shipment, code), instants in wrong.items()]
    names = ("month", *(name.removeprefix("key_") for name in LANE), "carrier", "exception_code")
    result = []
    for key, group in groups(
        rows,
        lambda row: (month_of(row["created_at"]), *(row[name] for name in LANE), row["key_carrier"], row["code"]),
    ).items():
        late = late_hours(group)
        result.append(
            dict(zip(names, key, strict=True))
            | {
                "count_exceptions": sum(len(row["instants"]) for row in group),
                "distinct_shipments": len(group),
                "distinct_late_shipments": len(late),
                "distinct_failed_shipments": sum(row["end"] in ("returned", "lost") for row in group),
                "distinct_open_shipments": sum(row["end"] == "open" for row in group),
                "avg_late_hours": ratio(sum(late), len(late), 3),
            }
        )
    return result


def visits_of(facts: Facts) -> list[Row]:
    """Return the visits of shipments at hubs, each with the instants of its arrivals and departures."""
    names = Names(facts)
    live = {row["shipment_id"]: row for row in judged(facts) if row["end"] != "cancelled"}
    visits: dict[tuple[str, str], Row] = {}
    for event in facts["logistics.tracking_events"]:
        kind, shipment = code_of(event["event_code"]), event["shipment_id"]
        if shipment in live and kind in ("HUB_ARRIVED", "HUB_DEPARTED"):
            city, country = (names.key(name, event[f"location_{name}"]) for name in ("city", "country"))
            hub = f"{city}, {country}" if is_blank(event["location_code"]) else key_of(event["location_code"])
            visit = live[shipment] | {"hub": hub, "HUB_ARRIVED": [], "HUB_DEPARTED": []}
            visits.setdefault((shipment, hub), visit)[kind].append(event["occurred_at"])
    return list(visits.values())


def hub_stays(facts: Facts) -> list[Row]:
    """Recompute hub_stays."""
    result = []
    for (month, hub), rows in groups(visits_of(facts), lambda row: (month_of(row["created_at"]), row["hub"])).items():
        whole = [row for row in rows if row["HUB_ARRIVED"] and row["HUB_DEPARTED"]]
        ordered = [row for row in whole if max(row["HUB_ARRIVED"]) <= min(row["HUB_DEPARTED"])]
        there = [row for row in rows if not row["HUB_DEPARTED"]]
        spent = [hours(min(row["HUB_ARRIVED"]), min(row["HUB_DEPARTED"])) for row in ordered]
        result.append(
            {
                "month": month,
                "hub": hub,
                "count_visits": len(rows),
                "count_not_departed": len(there),
                "count_waiting": sum(row["end"] == "open" for row in there),
                "count_not_arrived": sum(not row["HUB_ARRIVED"] for row in rows),
                "count_out_of_order": len(whole) - len(ordered),
                "count_stays": len(spent),
                "count_stays_to_6_h": sum(value <= 6 for value in spent),
                "count_stays_to_24_h": sum(6 < value <= 24 for value in spent),
                "count_stays_to_72_h": sum(24 < value <= 72 for value in spent),
                "count_stays_over_72_h": sum(value > 72 for value in spent),
                "sum_hours": sum(spent, Fraction(0)),
                "avg_hours": ratio(sum(spent), len(spent), 3),
                "p50_hours": percentile(spent, Fraction(1, 2)),
                "p90_hours": percentile(spent, Fraction(9, 10)),
                "max_hours": max(spent, default=None),
            }
        )
    return result


def container_days(facts: Facts) -> list[Row]:
    """Recompute container_days."""
    rows = [
        row
        for row in facts["logistics.dcsa_events"]
        if code_of(row["equipment_event"]) != NONE and code_of(row["classifier"]) == "ACT"
    ]
    return [
        {
            "day": day,
            "un_location": place,
            "equipment_event": event,
            "count_events": len(group),
            "distinct_containers": len({known_text(row["equipment_reference"]) for row in group} - {None}),
        }
        for (day, place, event), group in groups(
            rows,
            lambda row: (
                day_of(row["occurred_at"]),
                key_of(known_text(row["event_un_location"]) or row["un_location"]),
                code_of(row["equipment_event"]),
            ),
        ).items()
    ]


def parcel_days(facts: Facts) -> list[Row]:
    """Recompute parcel_days."""
    rows = [row for row in facts["logistics.parcel_trackers"] if row["created_at"] is not None]
    return [
        {
            "day": day,
            "carrier": carrier,
            "count_parcels": len(group),
            "count_delivered": sum((row["status"] or "").strip(BLANKS).lower() == "delivered" for row in group),
            "count_returns": sum(row["is_return"] is True for row in group),
        }
        for (day, carrier), group in groups(
            rows, lambda row: (day_of(row["created_at"]), key_of(row["carrier"]))
        ).items()
    ]
