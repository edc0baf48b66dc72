"""Records as JSON text: each record is computed from the seed and its number, by a hash and integers.

A shipment's journey is computed from its random words alone, so that its events describe the same journey without the
shipment. The choice of a word for a member is arbitrary, but two members with the same bits would depend on each other.
"""

from collections.abc import Callable, Iterator
from datetime import timedelta
from hashlib import blake2b
from itertools import count
from struct import Struct
from typing import Literal, NamedTuple

from etl.errors import UsageError
from etl.generate.network import (
    BUSY_DAYS,
    CARRIERS,
    DAY,
    DAYS,
    DESTINATIONS,
    HUBS,
    ITEM_COUNTS,
    ITEMS,
    NOTE_TEXTS,
    NOW,
    ORIGINS,
    SERVICES,
    START,
    VEHICLE_NAMES,
    VEHICLE_TYPES,
    Carrier,
    Service,
    Site,
    Sizes,
    dumps,
)

_DATES = [f"{START + timedelta(days=day):%Y-%m-%d}" for day in range(DAYS + 60)]
_MINUTES = [f"T{minute // 60:02d}:{minute % 60:02d}:" for minute in range(1440)]
_SECONDS = [f'{second:02d}Z"' for second in range(60)]
_STATUS_AFTER = {
    "PICKED_UP": "picked_up",
    "HUB_ARRIVED": "in_transit",
    "HUB_DEPARTED": "in_transit",
    "CUSTOMS_CLEARED": "in_transit",
    "EXCEPTION": "exception",
    "OUT_FOR_DELIVERY": "out_for_delivery",
    "DELIVERED": "delivered",
}

_unpack = Struct("<32H").unpack


def words_of(stream: str, seed: int, number: int) -> tuple[int, ...]:
    """Return the 32 random words of 16 bits of one record.

    They come from a hash and not from random.Random: its record N would depend on all records before it, and its
    methods may give another sequence in another version of Python.
    """
    return _unpack(blake2b(b"%d %d " % (seed, number) + stream.encode()).digest())


def _instant(seconds: int) -> str:
    return f'"{_DATES[seconds // DAY]}{_MINUTES[seconds // 60 % 1440]}{_SECONDS[seconds % 60]}'


def _tenths(value: int | None) -> str:
    return "null" if value is None else f"{value // 10}.{value % 10}"


class _Journey(NamedTuple):
    """One shipment's journey; instants are seconds from the start, and some of them are after the export."""

    carrier: Carrier
    service: Service
    origin: Site
    destination: Site
    reach: int
    outcome: Literal["delivered", "stuck", "cancelled"]
    created: int
    picked_up: int
    promised: int
    ended: int


def _journey(words: tuple[int, ...]) -> _Journey:
    day = BUSY_DAYS[words[0] * len(BUSY_DAYS) >> 16]
    created = day * DAY + 6 * 3600 + (words[1] * 16 * 3600 >> 16)
    carrier, service = CARRIERS[words[2] & 63], SERVICES[words[2] >> 6 & 15]
    origin = ORIGINS[words[3] * len(ORIGINS) >> 16]
    destination = DESTINATIONS[words[4] * len(DESTINATIONS) >> 16]
    reach = 0 if origin.country == destination.country else 1 if origin.region == destination.region else 2
    picked_up = created + 1800 + (words[5] * service.pickup >> 16)
    promised = (day + service.days[reach]) * DAY + 18 * 3600
    if words[6] < carrier.on_time:
        ended = picked_up + ((promised - picked_up) * (22_000 + (words[7] * 43_000 >> 16)) >> 16)
    else:  # short delays are the most common
        ended = promised + 600 + (words[7] * words[8] * (reach + 2) * DAY >> 32)
    outcome: Literal["delivered", "stuck", "cancelled"] = "delivered"
    if words[9] < 1900:
        outcome = "cancelled" if words[9] < 1000 else "stuck"
    return _Journey(carrier, service, origin, destination, reach, outcome, created, picked_up, promised, ended)


def _steps(journey: _Journey) -> list[tuple[int, str]]:
    """Return the events until the export, oldest first, as (instant, event code)."""
    if journey.outcome == "cancelled":
        return []
    start, span = journey.picked_up, journey.ended - journey.picked_up
    steps = [(start, "PICKED_UP"), (start + span // 8, "HUB_ARRIVED"), (start + span // 4, "HUB_DEPARTED")]
    if journey.reach == 2:
        steps.append((start + span * 5 // 8, "CUSTOMS_CLEARED"))
    if journey.outcome == "stuck":
        steps.append((journey.ended, "EXCEPTION"))
    else:
        if journey.ended > journey.promised:
            steps.append((start + span * 3 // 4, "EXCEPTION"))
        steps += [(journey.ended - span // 16, "OUT_FOR_DELIVERY"), (journey.ended, "DELIVERED")]
    return [step for step in steps if step[0] < NOW]


def _log(words: tuple[int, ...], picked_up: int, sizes: Sizes) -> int:
    """Return the log of a trip on the day of pickup (0: there is none); log N is of day (N - 1) % 731."""
    day = picked_up // DAY
    count_logs = (sizes.vehicle_logs - day + DAYS - 1) // DAYS
    if count_logs <= 0 or words[10] < 13_000:
        return 0
    return 1 + day + DAYS * (words[11] * count_logs >> 16)


def _vehicle(log: int, sizes: Sizes) -> int:
    trip, day = divmod(log - 1, DAYS)
    return 1 + (trip + 13 * day) % sizes.vehicles


def _state(journey: _Journey) -> tuple[str, int]:
    """Return the status at the export, and the instant of the last change."""
    if journey.outcome == "delivered" and journey.ended < NOW:
        return "delivered", journey.ended  # by far the most common: no need to go through the steps
    if steps := _steps(journey):
        last, code = steps[-1]
        return _STATUS_AFTER[code], last
    if journey.outcome == "cancelled":
        return "cancelled", min(journey.picked_up, NOW - 1)
    return "created", journey.created


def _shipment(number: int, seed: int, sizes: Sizes) -> str:
    words = words_of("shipments", seed, number)
    journey = _journey(words)
    service, reach = journey.service, journey.reach
    status, last = _state(journey)
    log, picked_up = 0, "null"
    if status not in ("created", "cancelled"):
        log, picked_up = _log(words, journey.picked_up, sizes), _instant(journey.picked_up)
    log_id = f'"log_id":"LOG-{log:07d}",' if log else '"log_id":null,' if words[10] & 1 else ""
    items = [ITEMS[word & 4095] for word in words[16 : 16 + ITEM_COUNTS[words[12] & 15]]]
    quantity = grams = cents = 0
    for item in items:
        quantity += item.quantity
        grams += item.grams
        cents += item.cents
    pieces = (quantity + 2) // 3
    missing = words[21] % quantity if words[21] < 3000 else 0  # in about one delivery of 30
    grams += 350 * pieces  # packaging
    freight = (service.fee[reach] + grams * service.per_kg[reach] // 1000) * (85 + (words[13] & 31)) // 100
    volume = grams * (40 + (words[13] >> 10)) // 1000 + 1  # in 100 ml
    declared = f'{{"amount":{cents // 100}.{cents % 100:02d},"currency":"{journey.origin.currency}"}}'
    return (
        f'{{"shipment_id":"SHP-{number:09d}","order_id":"ORD-{number * 2 // 3 + 1:09d}",{log_id}'
        f'"carrier":"{journey.carrier.name}","service_level":"{service.name}","status":"{status}",'
        f'"origin":{journey.origin.text},"destination":{journey.destination.text},'
        f'"created_at":{_instant(journey.created)},"picked_up_at":{picked_up},'
        f'"promised_at":{_instant(journey.promised)},'
        f'"delivered_at":{_instant(last) if status == "delivered" else "null"},'
        f'"updated_at":{_instant(min(last + (words[15] >> 5), NOW - 1))},'
        f'"weight_kg":{grams // 1000}.{grams % 1000:03d},'
        f'"volume_m3":{f"{volume // 10_000}.{volume % 10_000:04d}" if words[13] & 992 else "null"},'
        f'"declared_value":{declared if words[14] > 1300 else "null"},'
        f'"freight_cost":{freight // 100}.{freight % 100:02d},"pieces":{pieces},'
        f'"ordered_quantity":{quantity},'
        f'"delivered_quantity":{quantity - missing if status == "delivered" else "null"},'
        f'"note":{NOTE_TEXTS[words[12] >> 11]},"items":[{",".join([item.text for item in items])}]}}'
    )


def _shipments(seed: int, first: int, sizes: Sizes) -> Iterator[str]:
    return (_shipment(number, seed, sizes) for number in count(first))


def _exception_code(journey: _Journey, word: int) -> str:
    last = "WEATHER" if journey.outcome == "delivered" else "DAMAGED"
    codes = ("ADDRESS_UNKNOWN", last, "CUSTOMS_HOLD")
    return codes[word % (3 if journey.reach == 2 else 2)]


def _events_of(shipment: int, seed: int, sizes: Sizes) -> Iterator[str]:
    """Yield the events of one shipment's journey, without the braces and the event_id."""
    words = words_of("shipments", seed, shipment)
    journey = _journey(words)
    log = _log(words, journey.picked_up, sizes)
    for word, (occurred, code) in zip(words[25:], _steps(journey), strict=False):
        location, vehicle, exception = journey.destination.location, 0, "null"
        if code == "PICKED_UP":
            location, vehicle = journey.origin.location, _vehicle(log, sizes) if log else 0
        elif code in ("HUB_ARRIVED", "HUB_DEPARTED"):
            location = HUBS.get(journey.origin.region, location)
        elif code == "EXCEPTION":
            exception = f'"{_exception_code(journey, words[24])}"'
        elif code != "CUSTOMS_CLEARED":
            vehicle = 1 + words[24] % sizes.vehicles
        vehicle_id = f'"VEH-{vehicle:05d}"' if vehicle else "null"
        late = 30 * 3600 if word < 800 else 0  # a scanner without a network
        recorded = min(occurred + 3 + late + (word >> 7), NOW)
        yield (
            f'"shipment_id":"SHP-{shipment:09d}","event_code":"{code}","occurred_at":{_instant(occurred)},'
            f'"location":{location},"vehicle_id":{vehicle_id},'
            f'"exception_code":{exception},"recorded_at":{_instant(recorded)}'
        )


def _tracking_events(seed: int, first: int, sizes: Sizes) -> Iterator[str]:
    """Yield the journeys of all shipments; then again with new event ids, like a feed that is sent twice."""
    number = 0  # counted, because only its journey shows how many events a shipment has
    while True:
        for shipment in range(1, sizes.shipments + 1):
            for event in _events_of(shipment, seed, sizes):
                number += 1
                if number >= first:
                    yield f'{{"event_id":"EVT-{number:010d}",{event}}}'
        if not number:
            raise UsageError(f"expected shipments with events, got none among {sizes.shipments}")


def _vehicle_logs(seed: int, first: int, sizes: Sizes) -> Iterator[str]:
    for number in count(first):
        words = words_of("vehicle_logs", seed, number)
        vehicle = _vehicle(number, sizes)
        fuel_rate = VEHICLE_TYPES[vehicle * 7 % 16][2]
        distance = (200 + (words[0] * (fuel_rate + 20) >> 11)) if words[1] > 600 else None  # in 100 m
        fuel = None  # in 100 ml
        if distance and words[3] > 900:
            fuel = distance * fuel_rate * (85 + (words[2] & 31)) // 100_000
        yield (
            f'{{"log_id":"LOG-{number:07d}","vehicle_id":"VEH-{vehicle:05d}",'
            f'"trip_date":"{_DATES[(number - 1) % DAYS]}",'
            f'"distance_km":{_tenths(distance)},"fuel_l":{_tenths(fuel)}}}'
        )


def _vehicles(seed: int, first: int, _sizes: Sizes) -> Iterator[str]:
    for number in count(first):
        words = words_of("vehicles", seed, number)
        kind, capacity, fuel_rate = VEHICLE_TYPES[number * 7 % 16]
        name = dumps(f"{VEHICLE_NAMES[words[0] & 7]} {number:03d}") if words[1] > 2000 else "null"
        yield (
            f'{{"vehicle_id":"VEH-{number:05d}","name":{name},"vehicle_type":"{kind}",'
            f'"capacity_kg":{capacity},"odometer_km":{_tenths(words[2] * (fuel_rate + 10) // 2)}}}'
        )


RECORDS: dict[str, Callable[[int, int, Sizes], Iterator[str]]] = {
    "shipments": _shipments,
    "tracking_events": _tracking_events,
    "vehicle_logs": _vehicle_logs,
    "vehicles": _vehicles,
}
