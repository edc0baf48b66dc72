"""The aggregates on shipments, recomputed from the facts as their comments describe them."""

from collections.abc import Callable, Sequence
from datetime import date, datetime, timedelta
from fractions import Fraction
from typing import Any

from tests.support.recomputed.exactly import Facts, Row, day_of, groups, hours, month_of, percentile, ratio, total
from tests.support.recomputed.judged import ends, judged, late_hours, measures, punctuality, transits

LANE = ("key_origin_country", "key_origin_city", "key_destination_country", "key_destination_city")


def of_shipments(facts: Facts, bucket: Callable[[datetime], date], name: str, *keys: str) -> list[Row]:
    """Return a table of created shipments by a bucket and keys."""
    columns = [key.removeprefix("key_") for key in keys]
    return [
        dict(zip([name, *columns], key, strict=True))
        | ends(rows)
        | punctuality(rows)
        | measures(rows)
        | transits(rows)
        | {"sum_late_hours": sum(late_hours(rows), Fraction(0))}
        for key, rows in groups(
            judged(facts), lambda row: (bucket(row["created_at"]), *(row[key] for key in keys))
        ).items()
    ]


def daily_shipments(facts: Facts) -> list[Row]:
    """Recompute daily_shipments."""
    return of_shipments(facts, day_of, "day", "key_carrier", "key_service_level")


def carrier_performance(facts: Facts) -> list[Row]:
    """Recompute carrier_performance."""
    return of_shipments(facts, month_of, "month", "key_carrier", "key_service_level")


def lane_performance(facts: Facts) -> list[Row]:
    """Recompute lane_performance."""
    return of_shipments(facts, month_of, "month", *LANE, "key_carrier")


def lane_reliability(facts: Facts) -> list[Row]:
    """Recompute lane_reliability."""
    result = []
    for key, rows in groups(
        judged(facts), lambda row: (month_of(row["created_at"]), *(row[key] for key in LANE))
    ).items():
        live = [row for row in rows if row["end"] != "cancelled"]
        promised = [row for row in live if row["promised_at"] is not None]
        late = late_hours(rows)
        delays = [row["delay"] for row in rows if row["delay"] is not None]
        spent = [row["transit"] for row in rows if row["transit"] is not None]
        classes = {"to_24": (-1, 24), "to_48": (24, 48), "to_96": (48, 96), "to_168": (96, 168)}
        classes |= {"to_336": (168, 336), "over_336": (336, 10**9)}
        row = dict(zip(["month", *(name.removeprefix("key_") for name in LANE)], key, strict=True))
        row |= ends(rows) | punctuality(rows) | measures(rows) | transits(rows)
        row |= {
            "count_promised": len(promised),
            "count_promised_open": sum(row["end"] == "open" for row in promised),
            "count_promised_failed": sum(row["end"] in ("returned", "lost") for row in promised),
            "count_promised_untimed": sum(row["end"] == "delivered" and not row["ended_at"] for row in promised),
            "count_late_to_24_h": sum(value <= 24 for value in late),
            "count_late_to_72_h": sum(24 < value <= 72 for value in late),
            "count_late_over_72_h": sum(value > 72 for value in late),
        }
        row |= {f"p{part}_delay_hours": percentile(delays, Fraction(part, 100)) for part in (50, 90, 95)}
        for name, (above, most) in classes.items():
            row[f"count_transits_{name}_h"] = sum(above < value <= most for value in spent)
        spread = row["p10_transit_hours"], row["p90_transit_hours"]
        row["spread_transit_hours"] = None if None in spread else spread[1] - spread[0]
        result.append(row)
    return result


def promised_days(facts: Facts) -> list[Row]:
    """Recompute promised_days."""
    result = []
    rows = [row for row in judged(facts) if row["promised_at"] is not None and row["end"] != "cancelled"]
    for (day, carrier), due in groups(rows, lambda row: (day_of(row["promised_at"]), row["key_carrier"])).items():
        row = {"day": day, "carrier": carrier, "month": day.replace(day=1), "count_due": len(due)}
        row |= {"week": day - timedelta(days=day.weekday())} | moves(due) | quantities(due)
        row |= {
            key: value for key, value in ends(due).items() if key in ("count_untimed", "count_failed", "count_open")
        }
        row |= punctuality(due)
        row["kept_share"] = ratio(row["count_on_time"], len(due) - row["count_untimed"], 4)
        result.append(row)
    return result


def moves(due: Sequence[Row]) -> Row:
    """Return how often and how far the promises of these shipments were moved."""
    later = [row for row in due if row["promised_at"] > row["first_promise"]]
    earlier = [row for row in due if row["promised_at"] < row["first_promise"]]
    way = [hours(row["first_promise"], row["promised_at"]) for row in later]
    back = [hours(row["promised_at"], row["first_promise"]) for row in earlier]
    return {
        "count_moved_later": len(later),
        "count_moved_earlier": len(earlier),
        "count_on_time_by_move": sum(
            row["ended_at"] is not None and row["first_promise"] < row["ended_at"] <= row["promised_at"]
            for row in later
        ),
        "count_moved_to_24_h": sum(value <= 24 for value in way),
        "count_moved_to_72_h": sum(24 < value <= 72 for value in way),
        "count_moved_over_72_h": sum(value > 72 for value in way),
        "sum_moved_later_hours": sum(way, Fraction(0)),
        "sum_moved_earlier_hours": sum(back, Fraction(0)),
        "max_moved_later_hours": max(way, default=None),
    }


def quantities(due: Sequence[Row]) -> Row:
    """Return how many of these shipments were delivered in full, and on time, too."""
    known = [
        row
        for row in due
        if row["judged_promise"] and row["ordered_quantity"] is not None and row["delivered_quantity"] is not None
    ]
    full = [row for row in known if row["delivered_quantity"] >= row["ordered_quantity"]]
    both = [row for row in full if not row["is_late"]]
    others = sum(row["end"] in ("open", "returned", "lost") for row in due)
    ordered = total(known, "ordered_quantity")
    missing = sum(
        (Fraction(row["ordered_quantity"] - row["delivered_quantity"]) for row in known if row not in full), Fraction(0)
    )
    return {
        "count_quantified": len(known),
        "count_in_full": len(full),
        "count_on_time_in_full": len(both),
        "in_full_share": ratio(len(full), len(known), 4),
        "on_time_in_full_share": ratio(len(both), len(known), 4),
        "kept_in_full_share": ratio(len(both), len(known) + others, 4) if known else None,
        "sum_ordered_quantity": ordered,
        "sum_delivered_quantity": total(known, "delivered_quantity"),
        "sum_missing_quantity": missing,
        "fill_rate": ratio(ordered - missing, ordered, 4),
    }


AGES = [(2, "0-2"), (7, "3-7"), (14, "8-14"), (30, "15-30"), (90, "31-90"), (10**9, "91+")]


INSTANTS = ("created_at", "picked_up_at", "delivered_at", "updated_at")


def newest_event(facts: Facts) -> Any:
    """Return the newest time of a shipment that is not after the newest load of a shipment."""
    numbers = {row["run"]: row["number"] for row in facts["etl.runs"]}
    loads = {
        (numbers[batch["run"]], offset): batch["loaded_at"]
        for batch in facts["etl.batches"]
        for offset in batch["part_offsets"] or [batch["offset"]]
    }
    rows = facts["logistics.shipments"]
    places = {(row["etl_run"], row["etl_batch"]) for row in rows}
    newest_load = max(loads[place] for place in places & loads.keys())
    times = (row[name] for row in rows for name in INSTANTS if row[name] is not None)
    return max((time for time in times if time <= newest_load), default=None)


def open_shipments(facts: Facts) -> list[Row]:
    """Recompute open_shipments."""
    rows = judged(facts)
    as_of = newest_event(facts)

    def bucket(row: Row) -> str:
        days = (as_of - row["created_at"]) // timedelta(days=1)
        return next(name for most, name in AGES if days <= most)

    def is_overdue(row: Row) -> bool:
        return row["promised_at"] is not None and row["promised_at"] < as_of

    def age(row: Row) -> Fraction:
        return max(hours(row["created_at"], as_of), Fraction(0))

    result = []
    for (carrier, ages, overdue), group in groups(
        (row for row in rows if row["end"] == "open"), lambda row: (row["key_carrier"], bucket(row), is_overdue(row))
    ).items():
        row = {"carrier": carrier, "age_bucket": ages, "is_overdue": overdue, "as_of": as_of}
        row |= ends(group) | measures(group)
        row |= {
            "count_unpromised": sum(row["promised_at"] is None for row in group),
            "count_unknown_status": sum(row["has_unknown_status"] for row in group),
            "oldest_created_at": min(row["created_at"] for row in group),
            "sum_age_hours": sum((age(row) for row in group), Fraction(0)),
            "sum_overdue_hours": sum((hours(row["promised_at"], as_of) for row in group if overdue), Fraction(0)),
        }
        result.append(row)
    return result


def late_shipments(facts: Facts) -> list[Row]:
    """Recompute late_shipments."""
    rows = judged(facts)
    as_of = newest_event(facts)
    return [
        row
        | {name: row[f"key_{name}"] for name in ("carrier", "service_level")}
        | {key.removeprefix("key_"): row[key] for key in LANE}
        | {
            "late_hours": hours(row["promised_at"], as_of),
            "as_of": as_of,
            "first_promised_at": row["first_promise"],
        }
        for row in rows
        if row["end"] == "open" and row["promised_at"] is not None and row["promised_at"] < as_of
    ]


def undelivered_shipments(facts: Facts) -> list[Row]:
    """Recompute undelivered_shipments."""
    return [
        row
        | {name: row[f"key_{name}"] for name in ("carrier", "service_level")}
        | {key.removeprefix("key_"): row[key] for key in LANE}
        | {
            "month": month_of(row["created_at"]),
            "first_promised_at": row["first_promise"],
            "is_unknown_status": row["has_unknown_status"],
        }
        for row in judged(facts)
        if row["end"] == "open"
    ]
