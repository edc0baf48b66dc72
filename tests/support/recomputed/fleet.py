"""The aggregates on vehicles and warehouses, recomputed from the facts as their comments describe them."""

from datetime import UTC, datetime, timedelta
from fractions import Fraction
from typing import Any
from zoneinfo import ZoneInfo

from tests.support.recomputed.exactly import (
    NONE,
    Facts,
    Row,
    day_of,
    groups,
    hours,
    is_blank,
    key_of,
    known,
    month_of,
    percentile,
    ratio,
    total,
)
from tests.support.recomputed.judged import judged, measures


def vehicle_days(facts: Facts) -> list[Row]:
    """Recompute vehicle_days."""
    carried = groups((row for row in judged(facts) if row["end"] != "cancelled"), lambda row: row["log_id"])
    capacities = {row["vehicle_id"]: row["capacity_kg"] for row in facts["logistics.vehicles"]}
    result = []
    for (day, vehicle), trips in groups(
        facts["logistics.vehicle_logs"], lambda row: (row["trip_date"], key_of(row["vehicle_id"]))
    ).items():
        load = [row for trip in trips for row in carried.get(trip["log_id"], [])]
        metered = [trip for trip in trips if trip["distance_km"] is not None and trip["fuel_l"] is not None]
        split = [trip for trip in trips if trip["distance_km"] is not None and trip["empty_km"] is not None]
        rated = [
            trip
            | {"capacity": capacities[trip["vehicle_id"]], "load": total(carried.get(trip["log_id"], []), "weight_kg")}
            for trip in trips
            if capacities.get(trip["vehicle_id"]) is not None
            and all(row["weight_kg"] is not None for row in carried.get(trip["log_id"], []))
        ]
        far = [trip for trip in rated if trip["distance_km"] is not None]
        tonne_km = sum((trip["load"] * Fraction(trip["distance_km"]) / 1000 for trip in far), Fraction(0))
        able = sum((Fraction(trip["capacity"]) * Fraction(trip["distance_km"]) / 1000 for trip in far), Fraction(0))
        result.append(
            {
                "source_day": day,
                "vehicle_id": vehicle,
                "count_trips": len(trips),
                "count_distance_known": known(trips, "distance_km"),
                "sum_distance_km": total(trips, "distance_km"),
                "count_fuel_known": known(trips, "fuel_l"),
                "sum_fuel_l": total(trips, "fuel_l"),
                "sum_metered_distance_km": total(metered, "distance_km"),
                "sum_metered_fuel_l": total(metered, "fuel_l"),
                "fuel_l_per_100_km": ratio(100 * total(metered, "fuel_l"), total(metered, "distance_km"), 3),
                "count_split_trips": len(split),
                "sum_split_distance_km": total(split, "distance_km"),
                "sum_empty_km": total(split, "empty_km"),
                "empty_km_share": ratio(total(split, "empty_km"), total(split, "distance_km"), 4),
                "count_shipments": len(load),
                "count_unweighed": sum(row["weight_kg"] is None for row in load),
                "count_rated_trips": len(rated),
                "sum_rated_weight_kg": total(rated, "load"),
                "sum_rated_capacity_kg": total(rated, "capacity"),
                "load_factor": ratio(total(rated, "load"), total(rated, "capacity"), 4),
                "sum_tonne_km": tonne_km,
                "sum_capacity_tonne_km": able,
                "tonne_km_load_factor": ratio(tonne_km, able, 4),
            }
            | {
                name: value
                for name, value in measures(load).items()
                if name.split("_")[1] in ("pieces", "weight", "weighed")
            }
        )
    return result


def warehouse_departures(facts: Facts) -> list[Row]:
    """Recompute warehouse_departures."""
    zones = {row["warehouse"]: ZoneInfo(row["timezone"]) for row in facts["analytics.warehouse_timezones"]}

    def key(row: Row, name: str) -> tuple[Any, ...]:
        warehouse = row["key_origin_warehouse"]
        return day_of(row[name]), warehouse, row[name].astimezone(zones.get(warehouse, UTC)).date()

    live = [row for row in judged(facts) if row["end"] != "cancelled"]
    booked = groups(
        (row for row in live if row["picked_up_at"] is not None or row["end"] == "open"),
        lambda row: key(row, "created_at"),
    )
    departed = groups((row for row in live if row["picked_up_at"] is not None), lambda row: key(row, "picked_up_at"))
    result = []
    for group in booked.keys() | departed.keys():
        begun, gone = booked.get(group, []), departed.get(group, [])
        end = datetime.combine(group[0] + timedelta(days=1), datetime.min.time(), UTC)
        waits = [
            hours(row["created_at"], row["picked_up_at"]) for row in gone if row["picked_up_at"] >= row["created_at"]
        ]
        row = dict(zip(("day", "warehouse", "local_day"), group, strict=True))
        row |= measures(gone)
        row |= {
            "count_booked": len(begun),
            "count_booked_waiting": sum(not row["picked_up_at"] or row["picked_up_at"] >= end for row in begun),
            "count_departed": len(gone),
            "distinct_orders": len({row["order_id"] for row in gone if not is_blank(row["order_id"])}),
            "distinct_carriers": len({row["key_carrier"] for row in gone} - {NONE}),
            "count_waited": len(waits),
            "count_out_of_order": len(gone) - len(waits),
            "sum_waiting_hours": sum(waits, Fraction(0)),
            "avg_waiting_hours": ratio(sum(waits), len(waits), 3),
            "p50_waiting_hours": percentile(waits, Fraction(1, 2)),
            "p90_waiting_hours": percentile(waits, Fraction(9, 10)),
        }
        result.append(row)
    return result


def warehouse_hours(facts: Facts) -> list[Row]:
    """Recompute warehouse_hours."""
    zones = {row["warehouse"]: ZoneInfo(row["timezone"]) for row in facts["analytics.warehouse_timezones"]}
    departed = [
        row | {"local": row["picked_up_at"].astimezone(zones.get(row["key_origin_warehouse"], UTC))}
        for row in judged(facts)
        if row["end"] != "cancelled" and row["picked_up_at"] is not None
    ]
    return [
        dict(zip(("month", "warehouse", "local_hour"), key, strict=True))
        | measures(group)
        | {"count_departed": len(group), "count_weekend": sum(row["local"].weekday() in (5, 6) for row in group)}
        for key, group in groups(
            departed, lambda row: (month_of(row["picked_up_at"]), row["key_origin_warehouse"], row["local"].hour)
        ).items()
    ]
