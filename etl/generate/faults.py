"""Faults: ten named ways to spoil a record, and the places of each in the records of a dataset."""

import json
from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any

from etl.errors import UsageError
from etl.generate.network import dumps
from etl.generate.records import words_of

FAULTS = (
    "wrong_type",
    "missing_required",
    "bad_date",
    "negative_weight",
    "number_too_large",
    "nul_in_text",
    "text_over_length",
    "duplicate_key",
    "null_key",
    "array_for_text",
)

_HUGE = "1e200000"  # beyond numeric and double; written without its quotes
_LONG = "Łódź " * 500
_NUL = "Łó\0dź"

# The places of a fault, and its value there, if it has one. tracking_events have no numbers, and so no wrong_type,
# negative_weight and number_too_large; vehicles have no dates, and so no bad_date.
_PLACES: dict[str, dict[str, tuple[tuple[str, Any], ...]]] = {
    "shipments": {
        "wrong_type": (("weight_kg", "heavy"), ("pieces", "a few"), ("items.0.quantity", "two")),
        "missing_required": (("created_at", None), ("shipment_id", None)),
        "bad_date": (
            ("created_at", "2025-13-01"),
            ("promised_at", "2025-13-01"),
            ("updated_at", "2025-13-01"),
        ),
        "negative_weight": (("weight_kg", -12.5), ("items.0.weight_kg", -0.25)),
        "number_too_large": (("pieces", 99_999_999_999), ("items.0.quantity", 99_999_999_999)),
        "nul_in_text": (("note", _NUL), ("destination.city", _NUL), ("items.0.description", _NUL)),
        "text_over_length": (("destination.city", _LONG), ("note", _LONG), ("origin.city", _LONG)),
        "duplicate_key": (("updated_at", None),),
        "null_key": (("shipment_id", None),),
        "array_for_text": (
            ("carrier", ["Northway", "Freight"]),
            ("origin.city", []),
            ("items.0.sku", ["SKU"]),
        ),
    },
    "tracking_events": {
        "missing_required": (("occurred_at", None), ("event_id", None)),
        "bad_date": (("occurred_at", "2025-13-01"), ("recorded_at", "2025-13-01")),
        "nul_in_text": (("location.city", _NUL), ("exception_code", _NUL)),
        "text_over_length": (("location.city", _LONG),),
        "duplicate_key": (("recorded_at", None),),
        "null_key": (("event_id", None),),
        "array_for_text": (("event_code", ["DELIVERED"]), ("location.code", [])),
    },
    "vehicle_logs": {
        "wrong_type": (("distance_km", "far"), ("fuel_l", "full tank")),
        "missing_required": (("trip_date", None), ("log_id", None)),
        "bad_date": (("trip_date", "2025-13-01"),),
        "negative_weight": (("distance_km", -12.5), ("fuel_l", -0.25)),
        "number_too_large": (("distance_km", _HUGE), ("fuel_l", _HUGE)),
        "nul_in_text": (("vehicle_id", _NUL),),
        "text_over_length": (("vehicle_id", _LONG),),
        "duplicate_key": (("distance_km", None),),
        "null_key": (("log_id", None),),
        "array_for_text": (("vehicle_id", ["VEH-00001"]),),
    },
    "vehicles": {
        "wrong_type": (("capacity_kg", "heavy"), ("odometer_km", "new")),
        "missing_required": (("vehicle_id", None),),
        "negative_weight": (("capacity_kg", -1200), ("odometer_km", -0.1)),
        "number_too_large": (("capacity_kg", _HUGE), ("odometer_km", _HUGE)),
        "nul_in_text": (("name", _NUL), ("vehicle_type", _NUL)),
        "text_over_length": (("name", _LONG), ("vehicle_type", _LONG)),
        "duplicate_key": (("odometer_km", None),),
        "null_key": (("vehicle_id", None),),
        "array_for_text": (("name", ["Ilse", "001"]), ("vehicle_type", [])),
    },
}


def faults(dataset: str) -> tuple[str, ...]:
    """Return the faults that make sense in a dataset, in the order of FAULTS.

    Raises UsageError for a dataset that cannot be generated.
    """
    if dataset not in _PLACES:
        raise UsageError(f"expected one of {', '.join(_PLACES)}, got {dataset}")
    return tuple(_PLACES[dataset])


def _spoil(text: str, fault: str, path: str, value: Any) -> str:
    record = json.loads(text)
    *parents, name = (int(step) if step.isdigit() else step for step in path.split("."))
    holder = record
    for step in parents:
        holder = holder[step]
    if fault == "missing_required":
        del holder[name]
    elif fault != "duplicate_key":
        holder[name] = value
    elif isinstance(holder[name], str):
        later = datetime.fromisoformat(holder[name]) + timedelta(hours=1)
        holder[name] = f"{later:%Y-%m-%dT%H:%M:%SZ}"
    else:
        holder[name] = round((holder[name] or 0) + 1, 1)
    return dumps(record).replace(f'"{_HUGE}"', _HUGE)


def spoiled(
    texts: Iterator[str], dataset: str, *, seed: int, first: int, bad: float, counts: dict[str, int]
) -> Iterator[str]:
    """Spoil a share of the records, one fault after the other, and count them by fault.

    A duplicate is a newer version of one of 256 unspoiled records out of the last 8,000: its original is in the same
    batch, or in an earlier one. The shipped definition refuses every other fault. A merge of all records therefore ends
    with exactly the keys of the unspoiled records.
    """
    limit = int(bad * 2**32)
    names, kept, turn = faults(dataset), list[str](), 0
    for number, text in enumerate(texts, first):
        high, low, *_ = words_of("bad " + dataset, seed, number)
        if high << 16 | low >= limit:
            if not kept or (number % 31 == 0 and len(kept) < 256):
                kept.append(text)
            elif number % 31 == 0:
                kept[number // 31 % 256] = text
            yield text
            continue
        if names[turn % len(names)] == "duplicate_key" and not kept:
            turn += 1
        lap, place = divmod(turn, len(names))
        fault = names[place]
        path, value = _PLACES[dataset][fault][lap % len(_PLACES[dataset][fault])]
        turn += 1
        counts[fault] += 1
        slot = high % len(kept) if fault == "duplicate_key" else None
        spoiled = _spoil(text if slot is None else kept[slot], fault, path, value)
        if slot is not None:
            kept[slot] = spoiled  # the next of this key is newer again
        yield spoiled
