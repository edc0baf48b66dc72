"""The shipped aggregates once more, in plain Python with exact fractions, written from the comments of their columns.

Nothing here reads the SQL of an aggregate. Facts are dictionaries by table; an aggregate is a list of dictionaries.
"""

import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal, localcontext
from fractions import Fraction
from itertools import chain, pairwise
from typing import Any
from zoneinfo import ZoneInfo

Row = dict[str, Any]
Facts = Mapping[str, Sequence[Row]]

BLANKS = " \t\n\r\f\v\u00a0"
LEAST = 20
_LANE = ("origin_country", "origin_city", "destination_country", "destination_city")
_KIND = {"location_country": "country", "origin_warehouse": "warehouse"} | {
    name: name.rpartition("_")[2] for name in _LANE
}
_VARIANT_COLUMNS = ("carrier", "origin_city", "destination_city", "origin_warehouse")


# --- values -------------------------------------------------------------------------------------------------


def rounded(value: Fraction, places: int) -> Fraction:
    """Round half away from zero."""
    scaled = abs(value) * 10**places
    whole = (2 * scaled.numerator + scaled.denominator) // (2 * scaled.denominator)
    return Fraction(whole if value >= 0 else -whole, 10**places)


def hours(first: Any, last: Any) -> Fraction:
    """Return the hours from one instant to another, to 6 places."""
    return rounded(Fraction((last - first) // timedelta(microseconds=1), 3_600_000_000), 6)


def folded(text: str | None) -> str | None:
    """Return a text without case and outer blanks."""
    return None if text is None else text.strip(BLANKS).lower()


def share(part: Fraction | int, whole: Fraction | int, places: int = 4) -> Fraction | None:
    """Return a ratio, or None where the whole is 0."""
    return rounded(Fraction(part) / Fraction(whole), places) if whole else None


def percentile(values: Sequence[Fraction], percent: int, least: int = LEAST) -> Fraction | None:
    """Return the interpolated percentile to 3 places, or None for fewer than `least` values."""
    if len(values) < least:
        return None
    ordered = sorted(values)
    place = Fraction(percent, 100) * (len(ordered) - 1)
    below = place.numerator // place.denominator
    above = min(below + 1, len(ordered) - 1)
    return rounded(ordered[below] + (place - below) * (ordered[above] - ordered[below]), 3)


def deviation(values: Sequence[Fraction]) -> Fraction | None:
    """Return the sample standard deviation to 3 places, or None below two values."""
    if len(values) < 2:
        return None
    mean = sum(values, Fraction(0)) / len(values)
    variance = sum(((value - mean) ** 2 for value in values), Fraction(0)) / (len(values) - 1)
    with localcontext() as context:
        context.prec = 60
        return rounded(Fraction((Decimal(variance.numerator) / Decimal(variance.denominator)).sqrt()), 3)


def total(rows: Iterable[Row], name: str) -> Fraction:
    """Return the sum of the known values."""
    return sum((Fraction(row[name]) for row in rows if row[name] is not None), Fraction(0))


def utc_day(instant: datetime) -> date:
    """Return the day in UTC."""
    return instant.astimezone(UTC).date()


# --- what the comments say of names, ends and promises -------------------------------------------------------


class World:
    """The facts, with names mapped and each shipment judged."""

    def __init__(self, facts: Facts) -> None:
        self.facts = facts
        self.spelled = {(row["kind"], row["spelling"]): row["name"] for row in facts["name_spellings"]}
        self.states = {row["status"]: row["meaning"] for row in facts["shipment_states"]}
        self.zones = {row["warehouse"]: ZoneInfo(row["timezone"]) for row in facts["warehouse_timezones"]}
        self.first = {row["shipment_id"]: row["promised_at"] for row in facts["first_promises"]}
        self.shipments = [self._judged(row) for row in facts["shipments"]]
        self.events = defaultdict(list)
        for event in facts["tracking_events"]:
            self.events[event["shipment_id"]].append(event)

    def mapped(self, kind: str, name: str | None) -> str | None:
        """Return the name under which a spelling is counted."""
        return name if name is None else self.spelled.get((kind, name), name)

    def key(self, kind: str, name: str | None) -> str:
        """Return a name as a key: a name that begins like (none) or with a quotation mark is quoted."""
        name = self.mapped(kind, name)
        if name is None or not name.strip(BLANKS):
            return "(none)"
        return f'"{name}"' if name.startswith(("(none)", '"')) else name

    def _judged(self, row: Row) -> Row:
        meaning = self.states.get(folded(row["status"]) or "")
        if meaning in ("cancelled", "returned", "lost"):
            end = meaning
        elif row["delivered_at"] is not None or meaning == "delivered":
            end = "delivered"
        else:
            end = "open"
        delivered = row["delivered_at"] if end == "delivered" else None
        picked, promised = row["picked_up_at"], row["promised_at"]
        first = self.first.get(row["shipment_id"], promised)
        is_timed = delivered is not None and picked is not None
        return row | {
            "carrier": self.key("carrier", row["carrier"]),
            "service_level": self.key("service_level", row["service_level"]),
            **{name: self.key(_KIND[name], row[name]) for name in _LANE},
            "warehouse": self.key("warehouse", row["origin_warehouse"]),
            "end": end,
            "is_live": end != "cancelled",
            "is_unknown": row["status"] is not None and folded(row["status"]) not in self.states,
            "delivered": delivered,
            "late_hours": hours(promised, delivered) if delivered and promised else None,
            "is_on_time": delivered <= promised if delivered and promised else None,
            "is_first_on_time": delivered <= first if delivered and first else None,
            "is_out_of_order": is_timed and delivered < picked,
            "transit_hours": hours(picked, delivered) if is_timed and delivered >= picked else None,
        }


def grouped(rows: Iterable[Row], key: Callable[[Row], tuple[Any, ...]]) -> dict[tuple[Any, ...], list[Row]]:
    """Return the rows by their key."""
    groups: dict[tuple[Any, ...], list[Row]] = defaultdict(list)
    for row in rows:
        groups[key(row)].append(row)
    return groups


def number(rows: Iterable[Row], condition: Callable[[Row], bool]) -> int:
    """Return how many rows meet a condition."""
    return sum(1 for row in rows if condition(row))


def _has(name: str) -> Callable[[Row], bool]:
    return lambda row: row[name] is not None


# --- columns that several aggregates have --------------------------------------------------------------------


def _ends(rows: list[Row]) -> Row:
    ends = Counter(row["end"] for row in rows)
    return {
        "count_shipments": len(rows) - ends["cancelled"],
        "count_cancelled": ends["cancelled"],
        "count_delivered": ends["delivered"],
        "count_untimed": number(rows, lambda row: row["end"] == "delivered" and row["delivered"] is None),
        "count_failed": ends["returned"] + ends["lost"],
        "count_open": ends["open"],
        "count_picked_up": number(rows, lambda row: row["is_live"] and row["picked_up_at"] is not None),
        "count_in_transit": number(rows, lambda row: row["end"] == "open" and row["picked_up_at"] is not None),
    }


def _both(rows: list[Row], name: str) -> tuple[int, int]:
    """Return how many rows say yes, and how many say no."""
    said = Counter(row[name] for row in rows)
    return said[True], said[False]


def _punctuality(rows: list[Row]) -> Row:
    on_time, late = _both(rows, "is_on_time")
    first, first_late = _both(rows, "is_first_on_time")
    return {
        "count_on_time": on_time,
        "count_late": late,
        "on_time_share": share(on_time, on_time + late),
        "count_first_on_time": first,
        "count_first_late": first_late,
        "first_on_time_share": share(first, first + first_late),
        "sum_late_hours": total([row for row in rows if row["is_on_time"] is False], "late_hours"),
    }


def _known(rows: list[Row]) -> Row:
    """Return sums and the number of known values of rows that count."""
    return {
        "count_pieces_known": number(rows, _has("pieces")),
        "sum_pieces": total(rows, "pieces"),
        "count_weighed": number(rows, _has("weight_kg")),
        "sum_weight_kg": total(rows, "weight_kg"),
        "count_measured": number(rows, _has("volume_m3")),
        "sum_volume_m3": total(rows, "volume_m3"),
        "count_costed": number(rows, _has("freight_cost")),
        "sum_freight_cost": total(rows, "freight_cost"),
    }


def _costed(rows: list[Row]) -> Row:
    both = [row for row in rows if row["freight_cost"] is not None and row["weight_kg"] is not None]
    return {
        "count_costed_weighed": len(both),
        "sum_costed_weight_kg": total(both, "weight_kg"),
        "sum_costed_freight_cost": total(both, "freight_cost"),
        "cost_per_kg": share(total(both, "freight_cost"), total(both, "weight_kg")),
    }


def _transits(rows: list[Row]) -> Row:
    values = [row["transit_hours"] for row in rows if row["transit_hours"] is not None]
    return {
        "count_transits": len(values),
        "count_out_of_order": number(rows, lambda row: row["is_out_of_order"]),
        "sum_transit_hours": sum(values, Fraction(0)),
        "sum_squared_transit_hours": sum((value**2 for value in values), Fraction(0)),
        "avg_transit_hours": share(sum(values, Fraction(0)), len(values), 3),
        "stddev_transit_hours": deviation(values),
        **{f"p{percent}_transit_hours": percentile(values, percent) for percent in (10, 50, 90, 95)},
    }


def _volume(world: World, bucket: str, *names: str) -> list[Row]:
    """Return the columns that the aggregates by creation have in common."""
    keys = (bucket, *names)

    def key(row: Row) -> tuple[Any, ...]:
        day = utc_day(row["created_at"])
        return (day.replace(day=1) if bucket == "month" else day, *(row[name] for name in names))

    result = []
    for group, rows in grouped(world.shipments, key).items():
        live = [row for row in rows if row["is_live"]]
        columns = (_ends(rows), _punctuality(rows), _known(live), _costed(live), _transits(rows))
        result.append(dict(zip(keys, group, strict=True)) | dict(chain.from_iterable(c.items() for c in columns)))
        result[-1]["_rows"] = rows
    return result


# --- aggregates ---------------------------------------------------------------------------------------------


def daily_shipments(world: World) -> list[Row]:
    """Compute daily_shipments."""
    return _volume(world, "day", "carrier", "service_level")


def carrier_performance(world: World) -> list[Row]:
    """Compute carrier_performance."""
    return _volume(world, "month", "carrier", "service_level")


def lane_performance(world: World) -> list[Row]:
    """Compute lane_performance."""
    return _volume(world, "month", *_LANE, "carrier")


def lane_reliability(world: World) -> list[Row]:
    """Compute lane_reliability."""
    result = _volume(world, "month", *_LANE)
    for row in result:
        members = row["_rows"]
        promised = [each for each in members if each["is_live"] and each["promised_at"] is not None]
        late = [each["late_hours"] for each in members if each["is_on_time"] is False]
        delays = [each["late_hours"] for each in members if each["late_hours"] is not None]
        transits = [each["transit_hours"] for each in members if each["transit_hours"] is not None]
        row |= {
            "count_promised": len(promised),
            "count_promised_open": number(promised, lambda each: each["end"] == "open"),
            "count_promised_failed": number(promised, lambda each: each["end"] in ("returned", "lost")),
            "count_promised_untimed": number(
                promised, lambda each: each["end"] == "delivered" and each["delivered"] is None
            ),
            "count_late_to_24_h": sum(value <= 24 for value in late),
            "count_late_to_72_h": sum(24 < value <= 72 for value in late),
            "count_late_over_72_h": sum(value > 72 for value in late),
            **{f"p{percent}_delay_hours": percentile(delays, percent) for percent in (50, 90, 95)},
        }
        limits: tuple[Any, ...] = (None, 24, 48, 96, 168, 336, None)
        for over, most in pairwise(limits):
            name = f"count_transits_to_{most}_h" if most else f"count_transits_over_{over}_h"
            row[name] = sum((over is None or value > over) and (most is None or value <= most) for value in transits)
        p10, p90 = row["p10_transit_hours"], row["p90_transit_hours"]
        row["spread_transit_hours"] = None if p10 is None else p90 - p10
    return result


def _is_exception(event: Row) -> bool:
    return bool(_code(event["exception_code"])) or _code(event["event_code"]) == "EXCEPTION"


def _code(text: str | None) -> str:
    return (folded(text) or "").upper()


def carrier_scorecard(world: World) -> list[Row]:
    """Compute carrier_scorecard."""
    result = _volume(world, "month", "carrier")
    for row in result:
        late = [each["late_hours"] for each in row["_rows"] if each["is_on_time"] is False]
        live = [each for each in row["_rows"] if each["is_live"]]
        events = [world.events[each["shipment_id"]] for each in live if world.events.get(each["shipment_id"])]
        exceptions = [
            {(_code(event["exception_code"]), event["occurred_at"]) for event in each if _is_exception(event)}
            for each in events
        ]
        damaged = sum(any(code == "DAMAGED" for code, _ in each) for each in exceptions)
        with_exception = sum(map(bool, exceptions))
        row |= {
            "avg_late_hours": share(sum(late, Fraction(0)), len(late), 3),
            "p50_late_hours": percentile(late, 50),
            "p90_late_hours": percentile(late, 90),
            "max_late_hours": max(late, default=None),
            "count_tracked": len(events),
            "tracked_share": share(len(events), len(live)),
            "count_with_exception": with_exception,
            "exception_rate": share(with_exception, len(events)),
            "count_exceptions": sum(map(len, exceptions)),
            "count_damaged": damaged,
            "damage_rate": share(damaged, len(events)),
        }
    return result


def daily_exceptions(world: World) -> list[Row]:
    """Compute daily_exceptions."""
    exceptions = grouped(
        filter(_is_exception, world.facts["tracking_events"]),
        lambda event: (event["shipment_id"], _code(event["exception_code"]), event["occurred_at"]),
    )
    single = []
    for (shipment, code, at), events in exceptions.items():
        countries = {world.key("country", event["location_country"]) for event in events} - {"(none)"}
        single.append(
            {
                "day": utc_day(at),
                "exception_code": world.key("code", code),
                "location_country": min(countries, default="(none)", key=str.encode),
                "shipment_id": shipment,
                "at": at,
                "recorded_at": min((e["recorded_at"] for e in events if e["recorded_at"] is not None), default=None),
            }
        )
    keys = ("day", "exception_code", "location_country")
    result = []
    for group, rows in grouped(single, lambda row: tuple(row[name] for name in keys)).items():
        recorded = [row for row in rows if row["recorded_at"] is not None]
        values = [hours(row["at"], row["recorded_at"]) for row in recorded if row["recorded_at"] >= row["at"]]
        result.append(
            dict(zip(keys, group, strict=True))
            | {
                "count_exceptions": len(rows),
                "distinct_shipments": len({row["shipment_id"] for row in rows} - {None}),
                "count_recorded": len(values),
                "count_out_of_order": len(recorded) - len(values),
                "sum_recording_hours": sum(values, Fraction(0)),
                "avg_recording_hours": share(sum(values, Fraction(0)), len(values), 3),
                "p90_recording_hours": percentile(values, 90),
            }
        )
    return result


def daily_movements(world: World) -> list[Row]:
    """Compute daily_movements."""
    result = []
    groups = grouped(
        world.facts["tracking_events"],
        lambda event: (utc_day(event["occurred_at"]), world.key("country", event["location_country"])),
    )
    for (day, country), events in groups.items():
        moving = {event["shipment_id"] for event in events} - {None}
        exceptional = {event["shipment_id"] for event in events if _is_exception(event)} - {None}
        result.append(
            {
                "day": day,
                "location_country": country,
                "count_events": len(events),
                "distinct_shipments": len(moving),
                "distinct_exception_shipments": len(exceptional),
                "exception_share": share(len(exceptional), len(moving)),
            }
        )
    return result


def promised_days(world: World) -> list[Row]:
    """Compute promised_days."""
    promised = [row for row in world.shipments if row["is_live"] and row["promised_at"] is not None]
    result = []
    for (day, carrier), rows in grouped(promised, lambda row: (utc_day(row["promised_at"]), row["carrier"])).items():
        columns = _ends(rows) | _punctuality(rows)
        judged = len(rows) - columns["count_untimed"]
        result.append(
            columns
            | {
                "day": day,
                "carrier": carrier,
                "month": day.replace(day=1),
                "count_due": len(rows),
                "kept_share": share(columns["count_on_time"], judged),
            }
        )
    return result


_LEGS = {
    "pick-up to hub": ("picked", "arrived"),
    "at hubs": ("arrived", "departed"),
    "hub to customs": ("departed", "cleared"),
    "customs to delivery": ("cleared", "delivered"),
    "hub to delivery": ("departed", "delivered"),
    "all": ("picked", "delivered"),
}


def _milestones(events: Sequence[Row]) -> dict[str, datetime]:
    at = defaultdict(list)
    for event in events:
        at[_code(event["event_code"])].append(event["occurred_at"])
    firsts = {"picked": "PICKED_UP", "arrived": "HUB_ARRIVED", "delivered": "DELIVERED"}
    lasts = {"departed": "HUB_DEPARTED", "cleared": "CUSTOMS_CLEARED"}
    return {name: min(at[code]) for name, code in firsts.items() if at[code]} | {
        name: max(at[code]) for name, code in lasts.items() if at[code]
    }


def milestone_durations(world: World) -> list[Row]:
    """Compute milestone_durations."""
    legs = []
    for row in world.shipments:
        at = _milestones(world.events.get(row["shipment_id"], ())) if row["is_live"] else {}
        for leg, (first, last) in _LEGS.items():
            if first in at and last in at and not (leg == "hub to delivery" and "cleared" in at):
                names = {name: row[name] for name in _LANE}
                month = utc_day(row["created_at"]).replace(day=1)
                differs = last == "delivered" and at[last] != row["delivered_at"]
                legs.append(names | {"month": month, "leg": leg, "at": (at[first], at[last]), "differs": differs})
    keys = ("month", *_LANE, "leg")
    result = []
    for group, rows in grouped(legs, lambda row: tuple(row[name] for name in keys)).items():
        values = [hours(*row["at"]) for row in rows if row["at"][1] >= row["at"][0]]
        is_to_delivery = _LEGS[group[-1]][1] == "delivered"
        result.append(
            dict(zip(keys, group, strict=True))
            | {
                "count_shipments": len(rows),
                "count_out_of_order": len(rows) - len(values),
                "count_durations": len(values),
                "count_differing": number(rows, lambda row: row["differs"]) if is_to_delivery else None,
                "sum_hours": sum(values, Fraction(0)),
                "avg_hours": share(sum(values, Fraction(0)), len(values), 3),
                **{f"p{percent}_hours": percentile(values, percent) for percent in (50, 90, 95)},
                "max_hours": max(values, default=None),
            }
        )
    return result


def _age(days: int) -> str:
    return next(
        (name for most, name in ((2, "0-2"), (7, "3-7"), (14, "8-14"), (30, "15-30"), (90, "31-90")) if days <= most),
        "91+",
    )


def open_shipments(world: World) -> list[Row]:
    """Compute open_shipments."""
    names = ("created_at", "picked_up_at", "delivered_at", "updated_at")
    as_of = max((row[name] for row in world.shipments for name in names if row[name] is not None), default=None)
    live = [row for row in world.shipments if row["end"] == "open"]

    def is_overdue(row: Row) -> bool:
        return row["promised_at"] is not None and row["promised_at"] < as_of

    def key(row: Row) -> tuple[Any, ...]:
        return row["carrier"], _age((as_of - row["created_at"]) // timedelta(days=1)), is_overdue(row)

    return [
        dict(zip(("carrier", "age_bucket", "is_overdue"), group, strict=True))
        | _known(rows)
        | {
            "as_of": as_of,
            "count_shipments": len(rows),
            "count_picked_up": number(rows, _has("picked_up_at")),
            "count_unpromised": number(rows, lambda row: row["promised_at"] is None),
            "count_unknown_status": number(rows, lambda row: row["is_unknown"]),
            "oldest_created_at": min(row["created_at"] for row in rows),
            "sum_age_hours": sum((hours(row["created_at"], as_of) for row in rows), Fraction(0)),
            "sum_overdue_hours": sum((hours(row["promised_at"], as_of) for row in rows if group[2]), Fraction(0)),
        }
        for group, rows in grouped(live, key).items()
    ]


def vehicle_days(world: World) -> list[Row]:
    """Compute vehicle_days."""
    capacity = {row["vehicle_id"]: row["capacity_kg"] for row in world.facts["vehicles"]}
    carried = grouped((row for row in world.shipments if row["is_live"]), lambda row: (row["log_id"],))
    trips = [
        trip
        | {
            "vehicle": world.key("vehicle", trip["vehicle_id"]),
            "capacity": capacity.get(trip["vehicle_id"]),
            "shipments": carried.get((trip["log_id"],), []) if trip["log_id"] is not None else [],
        }
        for trip in world.facts["vehicle_logs"]
    ]
    groups = grouped(trips, lambda trip: (trip["trip_date"], trip["vehicle"]))
    return [_vehicle_day(day, vehicle, rows) for (day, vehicle), rows in groups.items()]


def _vehicle_day(day: date, vehicle: str, trips: list[Row]) -> Row:
    shipments = [row for trip in trips for row in trip["shipments"]]
    metered = [trip for trip in trips if trip["distance_km"] is not None and trip["fuel_l"] is not None]
    rated = [
        trip
        for trip in trips
        if trip["capacity"] is not None and all(row["weight_kg"] is not None for row in trip["shipments"])
    ]
    far = [trip for trip in rated if trip["distance_km"] is not None]
    weight = total((row for trip in rated for row in trip["shipments"]), "weight_kg")
    tonne_km = sum((total(t["shipments"], "weight_kg") / 1000 * Fraction(t["distance_km"]) for t in far), Fraction(0))
    most = sum((Fraction(trip["capacity"]) / 1000 * Fraction(trip["distance_km"]) for trip in far), Fraction(0))
    return _known(shipments) | {
        "day": day,
        "vehicle_id": vehicle,
        "count_trips": len(trips),
        "count_distance_known": number(trips, _has("distance_km")),
        "sum_distance_km": total(trips, "distance_km"),
        "count_fuel_known": number(trips, _has("fuel_l")),
        "sum_fuel_l": total(trips, "fuel_l"),
        "sum_metered_distance_km": total(metered, "distance_km"),
        "sum_metered_fuel_l": total(metered, "fuel_l"),
        "fuel_l_per_100_km": share(100 * total(metered, "fuel_l"), total(metered, "distance_km"), 3),
        "count_shipments": len(shipments),
        "count_unweighed": number(shipments, lambda row: row["weight_kg"] is None),
        "count_rated_trips": len(rated),
        "sum_rated_weight_kg": weight,
        "sum_rated_capacity_kg": total(rated, "capacity"),
        "load_factor": share(weight, total(rated, "capacity")),
        "sum_tonne_km": tonne_km,
        "sum_capacity_tonne_km": most,
        "tonne_km_load_factor": share(tonne_km, most),
    }


def warehouse_departures(world: World) -> list[Row]:
    """Compute warehouse_departures."""
    moments = []
    for row in world.shipments:
        if not row["is_live"]:
            continue
        for name in ("created_at", "picked_up_at"):
            at = row[name]
            if at is None or (name == "created_at" and row["picked_up_at"] is None and row["end"] != "open"):
                continue
            local = at.astimezone(world.zones.get(row["warehouse"], UTC)).date()
            moments.append(row | {"moment": name, "key": (utc_day(at), row["warehouse"], local)})
    return [_warehouse_day(group, rows) for group, rows in grouped(moments, lambda row: row["key"]).items()]


def _warehouse_day(group: tuple[Any, ...], rows: list[Row]) -> Row:
    booked = [row for row in rows if row["moment"] == "created_at"]
    left = [row for row in rows if row["moment"] == "picked_up_at"]
    end = datetime.combine(group[0] + timedelta(days=1), datetime.min.time(), UTC)
    values = [hours(row["created_at"], row["picked_up_at"]) for row in left if row["picked_up_at"] >= row["created_at"]]
    return (
        dict(zip(("day", "warehouse", "local_day"), group, strict=True))
        | _known(left)
        | {
            "count_booked": len(booked),
            "count_booked_waiting": number(
                booked, lambda row: row["picked_up_at"] is None or row["picked_up_at"] >= end
            ),
            "count_departed": len(left),
            "distinct_orders": len({row["order_id"] for row in left} - {None}),
            "distinct_carriers": len({row["carrier"] for row in left} - {"(none)"}),
            "count_waited": len(values),
            "count_out_of_order": len(left) - len(values),
            "sum_waiting_hours": sum(values, Fraction(0)),
            "avg_waiting_hours": share(sum(values, Fraction(0)), len(values), 3),
            "p50_waiting_hours": percentile(values, 50),
            "p90_waiting_hours": percentile(values, 90),
        }
    )


def _bare(name: str) -> str:
    plain = "".join(mark for mark in unicodedata.normalize("NFD", name) if not "\u0300" <= mark <= "\u036f")
    return folded(plain) or ""


def data_quality(world: World) -> list[Row]:
    """Compute the aggregate for batches of one day each, as the mean facts have them."""
    spellings: dict[tuple[str, str], set[str]] = defaultdict(set)
    for row in world.facts["shipments"]:
        for column in _VARIANT_COLUMNS:
            name = world.mapped(_KIND.get(column, column), row[column])
            if name is not None and name.strip(BLANKS):
                spellings[column, _bare(name)].add(name)

    def has_variant(row: Row) -> bool:
        names = ((column, world.mapped(_KIND.get(column, column), row[column])) for column in _VARIANT_COLUMNS)
        return any(name is not None and len(spellings[column, _bare(name)]) > 1 for column, name in names)

    parents = {
        "shipments": ("log_id", {row["log_id"] for row in world.facts["vehicle_logs"]}),
        "tracking_events": ("shipment_id", {row["shipment_id"] for row in world.facts["shipments"]}),
        "vehicle_logs": ("vehicle_id", {row["vehicle_id"] for row in world.facts["vehicles"]}),
    }
    result = []
    for batch in world.facts["batches"]:
        dataset = batch["dataset"]

        def is_kept(row: Row, batch: Row = batch) -> bool:
            return (row["etl_run"], row["etl_batch"]) == (batch["number"], batch["offset"])

        rows = list(filter(is_kept, world.facts[dataset]))
        column, present = parents.get(dataset, ("vehicle_id", set()))
        references = [row[column] for row in rows if row[column] is not None] if dataset in parents else []
        orphans = sum(name not in present for name in references)
        ships = list(filter(is_kept, world.shipments)) if dataset == "shipments" else []
        result.append(
            {
                "day": utc_day(batch["loaded_at"]),
                "dataset": dataset,
                "count_runs": 1,
                "count_records": 7,
                "count_loaded": 4,
                "count_rejected": 2,
                "count_failed": 1,
                "rejected_share": share(2, 7, 6),
                "count_pending": 0,
                "count_kept": len(rows),
                "count_references": len(references),
                "count_orphans": orphans,
                "orphan_share": share(orphans, len(references), 6),
                "count_delivered_before_picked_up": number(ships, _is_delivered_first),
                "count_unknown_status": number(ships, lambda row: row["is_unknown"]),
                "count_closed_without_delivery_time": number(
                    ships, lambda row: row["end"] == "delivered" and row["delivered"] is None
                ),
                "count_contradicting_status": number(
                    ships,
                    lambda row: row["delivered_at"] is not None and row["end"] in ("returned", "lost", "cancelled"),
                ),
                "count_name_variants": number(rows if ships else [], has_variant),
            }
        )
    return result


def _is_delivered_first(row: Row) -> bool:
    delivered, picked = row["delivered_at"], row["picked_up_at"]
    return delivered is not None and picked is not None and bool(delivered < picked)


def container_days(world: World) -> list[Row]:
    """Compute container_days."""
    happened = [
        row for row in world.facts["dcsa_events"] if row["classifier"] == "ACT" and row["equipment_event"] is not None
    ]

    def key(row: Row) -> tuple[Any, ...]:
        place = row["event_un_location"] if row["event_un_location"] is not None else row["un_location"]
        return utc_day(row["occurred_at"]), world.key("place", place), row["equipment_event"]

    return [
        dict(zip(("day", "un_location", "equipment_event"), group, strict=True))
        | {"count_events": len(rows), "distinct_containers": len({row["equipment_reference"] for row in rows} - {None})}
        for group, rows in grouped(happened, key).items()
    ]


def parcel_days(world: World) -> list[Row]:
    """Compute parcel_days."""
    groups = grouped(
        world.facts["parcel_trackers"], lambda row: (utc_day(row["created_at"]), world.key("parcel", row["carrier"]))
    )
    return [
        {
            "day": day,
            "carrier": carrier,
            "count_parcels": len(rows),
            "count_delivered": number(rows, lambda row: row["status"] == "delivered"),
            "count_returns": number(rows, lambda row: row["is_return"] is True),
        }
        for (day, carrier), rows in groups.items()
    ]
