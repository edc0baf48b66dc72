"""Values at risk, claims and emissions, recomputed from the facts as their comments describe them."""

from fractions import Fraction

from tests.support.recomputed.exactly import (
    BLANKS,
    Facts,
    Row,
    groups,
    hours,
    key_of,
    known,
    month_of,
    ratio,
    total,
)
from tests.support.recomputed.judged import judged
from tests.support.recomputed.shipments import newest_event


def currency_of(row: Row) -> str:
    """Return the currency of a shipment as a key."""
    currency = row["declared_currency"]
    return key_of(currency and currency.strip(BLANKS).upper())


def value_at_risk(facts: Facts) -> list[Row]:
    """Recompute value_at_risk."""
    as_of = newest_event(facts)
    rows = [row for row in judged(facts) if row["end"] == "open"]
    result = []
    for (carrier, country, currency), still_open in groups(
        rows, lambda row: (row["key_carrier"], row["key_destination_country"], currency_of(row))
    ).items():
        late = [row for row in still_open if row["promised_at"] is not None and row["promised_at"] < as_of]
        excepted = [row for row in still_open if (row["status"] or "").strip(BLANKS).lower() == "exception"]
        values = [row["declared_amount"] for row in still_open if row["declared_amount"] is not None]
        result.append(
            {
                "carrier": carrier,
                "destination_country": country,
                "currency": currency,
                "as_of": as_of,
                "count_open": len(still_open),
                "count_valued": len(values),
                "sum_declared_value": total(still_open, "declared_amount"),
                "max_declared_value": max(values, default=None),
                "count_late": len(late),
                "count_late_valued": known(late, "declared_amount"),
                "sum_late_declared_value": total(late, "declared_amount"),
                "count_exception": len(excepted),
                "count_exception_valued": known(excepted, "declared_amount"),
                "sum_exception_declared_value": total(excepted, "declared_amount"),
            }
        )
    return result


def claim_months(facts: Facts) -> list[Row]:
    """Recompute claim_months."""
    live = [row for row in judged(facts) if row["end"] != "cancelled"]
    result = []
    for (month, carrier, currency), rows in groups(
        live, lambda row: (month_of(row["created_at"]), row["key_carrier"], currency_of(row))
    ).items():
        claims = [row for row in rows if row["claimed_amount"] is not None or row["claimed_at"] is not None]
        waits = [
            hours(row["created_at"], row["claimed_at"])
            for row in claims
            if row["claimed_at"] is not None and row["claimed_at"] >= row["created_at"]
        ]
        claimed, declared = total(claims, "claimed_amount"), total(rows, "declared_amount")
        amounts = known(claims, "claimed_amount")
        result.append(
            {
                "month": month,
                "carrier": carrier,
                "currency": currency,
                "count_shipments": len(rows),
                "count_valued": known(rows, "declared_amount"),
                "sum_declared_value": declared,
                "count_lost": sum(row["end"] == "lost" for row in rows),
                "count_claims": len(claims),
                "count_lost_claims": sum(row["end"] == "lost" for row in claims),
                "count_claimed_amounts": amounts,
                "sum_claimed_amount": claimed,
                "claims_share": ratio(len(claims), len(rows), 6),
                "claimed_value_share": ratio(claimed, declared, 6) if amounts else None,
                "count_timed_claims": len(waits),
                "sum_claim_hours": sum(waits, Fraction(0)),
                "avg_claim_hours": ratio(sum(waits, Fraction(0)), len(waits), 3),
            }
        )
    return result


def emissions(facts: Facts) -> list[Row]:
    """Return the shipments on trips, with their transport activity and emissions."""
    types = {row["vehicle_id"]: row["vehicle_type"] for row in facts["logistics.vehicles"]}
    transports = {row["vehicle_type"]: row for row in facts["analytics.vehicle_transports"]}
    factors = {
        (row["mode"], row["fuel"]): Fraction(row["kg_co2e_per_tonne_km"]) for row in facts["analytics.emission_factors"]
    }
    trips = {row["log_id"]: row for row in facts["logistics.vehicle_logs"]}
    result = []
    for row in judged(facts):
        trip = trips.get(row["log_id"])
        if trip is None or row["end"] == "cancelled":
            continue
        transport = transports.get(types.get(trip["vehicle_id"]))
        factor = None if transport is None else factors.get((transport["mode"], transport["fuel"]))
        activity = emitted = None
        if row["weight_kg"] is not None and trip["distance_km"] is not None:
            activity = Fraction(row["weight_kg"]) * Fraction(trip["distance_km"]) / 1000
            emitted = None if factor is None else activity * factor
        result.append(row | {"trip_date": trip["trip_date"], "activity": activity, "emitted": emitted})
    return result


def lane_emissions(facts: Facts) -> list[Row]:
    """Recompute lane_emissions."""
    lane = ("origin_country", "origin_city", "destination_country", "destination_city")
    result = []
    for (month, *names), rows in groups(
        emissions(facts), lambda row: (row["trip_date"].replace(day=1), *(row[f"key_{name}"] for name in lane))
    ).items():
        rated = [row for row in rows if row["emitted"] is not None]
        emitted, activity = total(rated, "emitted"), total(rated, "activity")
        result.append(
            {"month": month}
            | dict(zip(lane, names, strict=True))
            | {
                "count_shipments": len(rows),
                "count_tonne_km_known": known(rows, "activity"),
                "sum_tonne_km": total(rows, "activity"),
                "count_rated": len(rated),
                "sum_rated_tonne_km": activity,
                "sum_co2e_kg": emitted if rated else None,
                "co2e_kg_per_shipment": ratio(emitted, len(rated), 3),
                "co2e_g_per_tonne_km": ratio(1000 * emitted, activity, 3),
            }
        )
    return result
