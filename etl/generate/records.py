"""Records as JSON text: each record is computed from the seed and its number, by a hash and integers.

The choice of a word for a member is arbitrary, but two members with the same bits would depend on each other.
"""

from collections.abc import Callable, Iterator
from datetime import timedelta
from hashlib import blake2b
from itertools import count
from struct import Struct

from etl.generate.journeys import Journey, given_up_at, journey_of, state_of, steps_of, trip_of
from etl.generate.network import (
    DAY,
    DAYS,
    HUBS,
    ITEM_COUNTS,
    ITEMS,
    LOADS,
    NOTE_TEXTS,
    NOW,
    PACKAGING,
    START,
    UNITS_A_PIECE,
    VEHICLE_NAMES,
    VEHICLE_TYPES,
    Sizes,
    dumps,
)

_DATES = [f"{START + timedelta(days=day):%Y-%m-%d}" for day in range(DAYS + 60)]
_MINUTES = [f"T{minute // 60:02d}:{minute % 60:02d}:" for minute in range(1440)]
_SECONDS = [f'{second:02d}Z"' for second in range(60)]

_unpack = Struct("<32H").unpack
_unpack_first = Struct("<5H").unpack_from


def words_of(stream: str, seed: int, number: int) -> tuple[int, ...]:
    """Return the 32 random words of 16 bits of one record.

    They come from a hash and not from random.Random: its record N would depend on all records before it, and its
    methods may give another sequence in another version of Python.
    """
    return _unpack(blake2b(f"{seed} {number} {stream}".encode()).digest())


def _instant(seconds: int) -> str:
    return f'"{_DATES[seconds // DAY]}{_MINUTES[seconds // 60 % 1440]}{_SECONDS[seconds % 60]}'


def _tenths(value: int | None) -> str:
    return "null" if value is None else f"{value // 10}.{value % 10}"


def _claim(words: tuple[int, ...], journey: Journey, cents: int) -> str:
    """Return the claim for a lost or damaged shipment, which is made some days after it was given up."""
    claimed = given_up_at(words, journey) + DAY + words[22] * 8
    is_damaged = _exception_code(journey, words[24]) == "DAMAGED"
    if claimed >= NOW or not (journey.outcome == "lost" or (journey.outcome == "returned" and is_damaged)):
        return ""
    amount = cents if journey.outcome == "lost" else cents * (words[23] + 8192) // 73_728
    return f'"claim":{{"amount":{amount // 100}.{amount % 100:02d},"claimed_at":{_instant(claimed)}}},'


def _items(words: tuple[int, ...], vehicle: int | None) -> list[tuple[str, int, int, int]]:
    """Return the items of a shipment; those on a vehicle fill it."""
    lines = ITEM_COUNTS[words[12] & 15]
    if vehicle is None:
        return [ITEMS[word & 4095] for word in words[16 : 16 + lines]]
    load = LOADS[vehicle * 7 & 15][lines]
    return [load[word & 127] for word in words[16 : 16 + lines]]


def _shipment(number: int, seed: int, sizes: Sizes) -> str:
    words = words_of("shipments", seed, number)
    journey = journey_of(words, number, sizes)
    carrier, service, origin, destination, reach, log, vehicle, _, created, *_ = journey
    status, last = state_of(words, journey)
    picked_up = "null" if status in ("created", "cancelled") else _instant(journey.picked_up)
    log_id = f'"log_id":"LOG-{log:07d}",' if log else '"log_id":null,' if words[10] & 1 else ""
    items = _items(words, vehicle if log else None)
    quantity = grams = cents = 0
    texts = []
    for text, units, weight, price in items:
        texts.append(text)
        quantity += units
        grams += weight
        cents += price
    pieces = (quantity + UNITS_A_PIECE - 1) // UNITS_A_PIECE
    missing = words[21] % quantity if words[21] < 3000 else 0  # in about one delivery of 30
    grams += PACKAGING * pieces
    freight = (service.fee[reach] + grams * service.per_kg[reach] // 1000) * (85 + (words[13] & 31)) // 100
    volume = grams * (40 + (words[13] >> 10)) // 1000 + 1  # in 100 ml
    declared = f'{{"amount":{cents // 100}.{cents % 100:02d},"currency":"{origin.currency}"}}'
    claim = _claim(words, journey, cents) if words[9] < 900 and words[14] > 1300 else ""
    return (
        f'{{"shipment_id":"SHP-{number:09d}","order_id":"ORD-{number * 2 // 3 + 1:09d}",{log_id}'
        f'"carrier":"{carrier.name}","service_level":"{service.name}","status":"{status}",'
        f'"origin":{origin.text},"destination":{destination.text},'
        f'"created_at":{_instant(created)},"picked_up_at":{picked_up},'
        f'"promised_at":{_instant(journey.promised)},'
        f'"delivered_at":{_instant(last) if status == "delivered" else "null"},'
        f'"updated_at":{_instant(min(last + (words[15] >> 5), NOW - 1))},'
        f'"weight_kg":{grams // 1000}.{grams % 1000:03d},'
        f'"volume_m3":{f"{volume // 10_000}.{volume % 10_000:04d}" if words[13] & 992 else "null"},'
        f'"declared_value":{declared if words[14] > 1300 else "null"},'
        f'"freight_cost":{freight // 100}.{freight % 100:02d},{claim}"pieces":{pieces},'
        f'"ordered_quantity":{quantity},'
        f'"delivered_quantity":{quantity - missing if status == "delivered" else "null"},'
        f'"note":{NOTE_TEXTS[words[12] >> 11]},"items":[{",".join(texts)}]}}'
    )


def _shipments(seed: int, first: int, sizes: Sizes) -> Iterator[str]:
    return (_shipment(number, seed, sizes) for number in count(first))


def _exception_code(journey: Journey, word: int) -> str:
    last = "WEATHER" if journey.outcome == "delivered" else "DAMAGED"
    codes = ("ADDRESS_UNKNOWN", last, "CUSTOMS_HOLD")
    return codes[word % (3 if journey.reach == 2 else 2)]


def _events_of(shipment: int, seed: int, sizes: Sizes) -> Iterator[str]:
    """Yield the events of one shipment's journey, without the braces and the event_id."""
    words = words_of("shipments", seed, shipment)
    journey = journey_of(words, shipment, sizes)
    for word, (occurred, code) in zip(words[25:], steps_of(words, journey), strict=False):
        location, vehicle, exception = journey.destination.location, 0, "null"
        if code == "PICKED_UP":
            location, vehicle = journey.origin.location, journey.vehicle
        elif code in ("HUB_ARRIVED", "HUB_DEPARTED"):
            location = HUBS.get(journey.origin.region, location)
        elif code == "EXCEPTION":
            exception = f'"{_exception_code(journey, words[24])}"'
        elif code == "RETURNED":
            location = journey.origin.location
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
    """Yield the journeys of all shipments; then again with new event ids, like a feed that is sent twice.

    It ends never, because a trip carries the first shipment, which has events then.
    """
    number = 0  # counted, because only its journey shows how many events a shipment has
    while True:
        for shipment in range(1, sizes.shipments + 1):
            for event in _events_of(shipment, seed, sizes):
                number += 1
                if number >= first:
                    yield f'{{"event_id":"EVT-{number:010d}",{event}}}'


def _vehicle_logs(seed: int, first: int, sizes: Sizes) -> Iterator[str]:
    for number in count(first):
        words = _unpack_first(blake2b(f"{seed} {number} vehicle_logs".encode()).digest())
        day, vehicle = trip_of(number, sizes)
        fuel_rate = VEHICLE_TYPES[vehicle * 7 & 15][2]
        distance = (200 + (words[0] * (fuel_rate + 20) >> 11)) if words[1] > 600 else None  # in 100 m
        fuel = None  # in 100 ml
        if distance and words[3] > 900:
            fuel = distance * fuel_rate * (85 + (words[2] & 31)) // 100_000
        empty = None if distance is None else distance * (3000 + (words[4] >> 2)) >> 16  # 5 to 30 %
        yield (
            f'{{"log_id":"LOG-{number:07d}","vehicle_id":"VEH-{vehicle:05d}",'
            f'"trip_date":"{_DATES[day]}",'
            f'"distance_km":{_tenths(distance)},"empty_km":{_tenths(empty)},"fuel_l":{_tenths(fuel)}}}'
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
