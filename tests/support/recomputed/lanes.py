"""The features of lanes, and which lanes are alike, recomputed from the facts as the comments describe them."""

from collections.abc import Callable, Sequence
from datetime import UTC
from fractions import Fraction
from math import floor, isqrt
from typing import Any

from tests.support.recomputed.exactly import Facts, Row, groups, hours, quarter_of, ratio
from tests.support.recomputed.judged import ends, judged, measures, punctuality, transits

LANE = ("origin_country", "origin_city", "destination_country", "destination_city")
SCALED: dict[str, tuple[str, Callable[[Row], bool]]] = {
    "scaled_transit_p50": ("p50_transit_hours", lambda row: row["count_transits"] >= 20),
    "scaled_transit_p90": ("p90_transit_hours", lambda row: row["count_transits"] >= 20),
    "scaled_on_time": ("on_time_share", lambda row: row["count_on_time"] + row["count_late"] >= 20),
    "scaled_cost": ("cost_per_kg", lambda row: row["cost_per_kg"] is not None),
    "scaled_promise": ("avg_promised_hours", lambda row: row["count_promised"] > 0),
    "scaled_volume": ("count_shipments", lambda _row: True),
    "scaled_season": ("season_lean", lambda row: row["count_shipments"] >= 20),
}


def lane_features(facts: Facts) -> list[Row]:
    """Recompute lane_features."""
    live = [row for row in judged(facts) if row["end"] != "cancelled"]
    by_lane = groups(live, lambda row: (quarter_of(row["created_at"]), *(row[f"key_{name}"] for name in LANE)))
    rows = [dict(zip(["quarter", *LANE], key, strict=True)) | _measured(found) for key, found in by_lane.items()]
    for lanes in groups(rows, lambda row: row["quarter"]).values():
        for name, (column, is_compared) in SCALED.items():
            among = [row[column] for row in lanes if is_compared(row)]
            for row in lanes:
                row[name] = _scaled(row[column], among) if is_compared(row) else None
    return rows


def _measured(rows: Sequence[Row]) -> Row:
    """Return the features of a lane that need no other lane."""
    places = [(row["created_at"].astimezone(UTC).month - 1) % 3 for row in rows]
    promised = [
        hours(row["created_at"], row["promised_at"])
        for row in rows
        if row["promised_at"] is not None and row["promised_at"] >= row["created_at"]
    ]
    first, third = places.count(0), places.count(2)
    return (
        ends(rows)
        | punctuality(rows)
        | measures(rows)
        | transits(rows)
        | {
            "count_first_month": first,
            "count_third_month": third,
            "season_lean": ratio(third - first, len(rows), 4),
            "count_promised": len(promised),
            "sum_promised_hours": sum(promised, Fraction(0)),
            "avg_promised_hours": ratio(sum(promised), len(promised), 3),
        }
    )


def _scaled(value: Any, among: Sequence[Any]) -> Fraction:
    """Return the share of the other values that are lower."""
    return ratio(sum(other < value for other in among), max(len(among) - 1, 1), 4) or Fraction(0)


def similar(rows: Sequence[Row], asked: Row) -> list[tuple[Fraction, int, tuple[str, ...]]]:
    """Return distance, number of compared features and names of all lanes like one of its quarter, nearest first."""
    found = []
    for row in rows:
        names = tuple(row[name] for name in LANE)
        if row["quarter"] != asked["quarter"] or row["count_transits"] < 20 or row is asked:
            continue
        pairs = [(row[name], asked[name]) for name in SCALED if None not in (row[name], asked[name])]
        squares = sum(((one - other) ** 2 for one, other in pairs), Fraction(0))
        distance = rounded_root(squares / len(pairs), 4)
        found.append((distance, -len(pairs), [name.encode() for name in names], names))
    return [(distance, -count, names) for distance, count, _, names in sorted(found)]


def rounded_root(value: Fraction, places: int) -> Fraction:
    """Return the square root, rounded."""
    return Fraction((isqrt(floor(4 * value * 100**places)) + 1) // 2, 10**places)
