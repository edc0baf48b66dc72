"""Shipments with their ends, and what all aggregates say of a group of them."""

from collections.abc import Sequence
from fractions import Fraction

from tests.support.recomputed.exactly import (
    BLANKS,
    Facts,
    Row,
    deviation,
    hours,
    is_blank,
    key_of,
    known,
    percentile,
    ratio,
    total,
)

KINDS = {
    "carrier": "carrier",
    "service_level": "service_level",
    "origin_country": "country",
    "origin_city": "city",
    "destination_country": "country",
    "destination_city": "city",
    "origin_warehouse": "warehouse",
}


class Names:
    """The names under which spellings are counted."""

    def __init__(self, facts: Facts) -> None:
        self._names = {(row["kind"], row["spelling"]): row["name"] for row in facts["analytics.name_spellings"]}

    def mapped(self, kind: str, name: str | None) -> str | None:
        """Return the name of a spelling."""
        return name if name is None else self._names.get((kind, name), name)

    def key(self, kind: str, name: str | None) -> str:
        """Return the key of a spelling."""
        return key_of(self.mapped(kind, name))


def judged(facts: Facts) -> list[Row]:
    """Return the shipments with their ends, keys and hours, as the guide says."""
    names = Names(facts)
    meanings = {row["status"]: row["meaning"] for row in facts["analytics.shipment_states"]}
    result = []
    for fact in facts["logistics.shipments"]:
        row = dict(fact)
        status = None if is_blank(row["status"]) else row["status"].strip(BLANKS).lower()
        meaning = meanings.get(status)
        row["has_unknown_status"] = status is not None and meaning is None
        row["meaning"] = meaning
        delivered_at = row["delivered_at"]
        if meaning in ("cancelled", "returned", "lost"):
            end, delivered_at = meaning, None
        elif delivered_at is not None or meaning == "delivered":
            end = "delivered"
        else:
            end = "open"
        row |= {
            "end": end,
            "ended_at": delivered_at,
            "first_promise": row["etl_first_promised_at"] or row["promised_at"],
        }
        row |= {f"key_{name}": names.key(kind, row[name]) for name, kind in KINDS.items()}
        picked = row["picked_up_at"]
        row["has_both"] = picked is not None and delivered_at is not None
        row["in_order"] = row["has_both"] and delivered_at >= picked
        row["transit"] = hours(picked, delivered_at) if row["in_order"] else None
        promised = row["promised_at"]
        row["judged_promise"] = delivered_at is not None and promised is not None
        row["delay"] = hours(promised, delivered_at) if row["judged_promise"] else None
        row["is_late"] = row["judged_promise"] and delivered_at > promised
        result.append(row)
    return result


def ends(rows: Sequence[Row]) -> Row:
    """Count shipments by their end."""
    live = [row for row in rows if row["end"] != "cancelled"]
    delivered = [row for row in live if row["end"] == "delivered"]
    return {
        "count_shipments": len(live),
        "count_cancelled": len(rows) - len(live),
        "count_picked_up": known(live, "picked_up_at"),
        "count_delivered": len(delivered),
        "count_untimed": sum(row["delivered_at"] is None for row in delivered),
        "count_failed": sum(row["end"] in ("returned", "lost") for row in live),
        "count_open": sum(row["end"] == "open" for row in live),
        "count_in_transit": sum(row["end"] == "open" and row["picked_up_at"] is not None for row in live),
    }


def punctuality(rows: Sequence[Row]) -> Row:
    """Count shipments on time and late, by the last and by the first promise."""
    result: Row = {}
    for prefix, promise in (("", "promised_at"), ("first_", "first_promise")):
        both = [row for row in rows if row["end"] == "delivered" and row["ended_at"] and row[promise]]
        on_time = sum(row["ended_at"] <= row[promise] for row in both)
        result[f"count_{prefix}on_time"] = on_time
        result[f"count_{prefix}late"] = len(both) - on_time
        result[f"{prefix}on_time_share"] = ratio(on_time, len(both), 4)
    return result


def late_hours(rows: Sequence[Row]) -> list[Fraction]:
    """Return the hours of delay of the late shipments."""
    return [row["delay"] for row in rows if row["is_late"]]


def measures(rows: Sequence[Row]) -> Row:
    """Return the sums of pieces, weight, volume and cost, with the numbers of known values."""
    live = [row for row in rows if row["end"] != "cancelled"]
    priced = [row for row in live if row["freight_cost"] is not None and row["weight_kg"] is not None]
    return {
        "count_pieces_known": known(live, "pieces"),
        "sum_pieces": total(live, "pieces"),
        "count_weighed": known(live, "weight_kg"),
        "sum_weight_kg": total(live, "weight_kg"),
        "count_measured": known(live, "volume_m3"),
        "sum_volume_m3": total(live, "volume_m3"),
        "count_costed": known(live, "freight_cost"),
        "sum_freight_cost": total(live, "freight_cost"),
        "count_costed_weighed": len(priced),
        "sum_costed_weight_kg": total(priced, "weight_kg"),
        "sum_costed_freight_cost": total(priced, "freight_cost"),
        "cost_per_kg": ratio(total(priced, "freight_cost"), total(priced, "weight_kg"), 4),
    }


def transits(rows: Sequence[Row]) -> Row:
    """Return what the tables say of transit hours."""
    values = [row["transit"] for row in rows if row["transit"] is not None]
    return {
        "count_transits": len(values),
        "count_out_of_order": sum(row["has_both"] and not row["in_order"] for row in rows),
        "sum_transit_hours": sum(values, Fraction(0)),
        "sum_squared_transit_hours": sum((value * value for value in values), Fraction(0)),
        "avg_transit_hours": ratio(sum(values), len(values), 3),
        "stddev_transit_hours": deviation(values),
        "p10_transit_hours": percentile(values, Fraction(1, 10)),
        "p50_transit_hours": percentile(values, Fraction(1, 2)),
        "p90_transit_hours": percentile(values, Fraction(9, 10)),
        "p95_transit_hours": percentile(values, Fraction(95, 100)),
    }
