"""The journey of a shipment: from its random words and its number alone, so that its events describe the same journey.

The choice of a word for a member is arbitrary, but two members with the same bits would depend on each other.
"""

from typing import Literal, NamedTuple

from etl.generate.network import (
    CARRIERS,
    DAY,
    DESTINATIONS,
    FREE_DAYS,
    NOW,
    ORIGINS,
    SERVICES,
    SLOTS,
    STRIDE,
    TRIPS,
    TRIPS_A_DAY,
    WAITS,
    Carrier,
    Service,
    Site,
    Sizes,
)

_STATUS_AFTER = {
    "PICKED_UP": "picked_up",
    "HUB_ARRIVED": "in_transit",
    "HUB_DEPARTED": "in_transit",
    "CUSTOMS_CLEARED": "in_transit",
    "EXCEPTION": "exception",
    "OUT_FOR_DELIVERY": "out_for_delivery",
    "DELIVERED": "delivered",
    "RETURNED": "returned",
    "LOST": "lost",
}


class Journey(NamedTuple):
    """One shipment's journey; instants are seconds from the start, and some of them are after the export."""

    carrier: Carrier
    service: Service
    origin: Site
    destination: Site
    reach: int
    log: int  # the trip that fetches it; 0: none of our own
    vehicle: int  # of that trip
    outcome: Literal["delivered", "returned", "lost", "cancelled"]
    created: int
    picked_up: int
    promised: int
    ended: int  # where nothing goes wrong


def trip_of(log: int, sizes: Sizes) -> tuple[int, int]:
    """Return the day of a log, and the vehicle."""
    lap, place = divmod(log - 1, len(TRIPS))
    day, shift = TRIPS[place]
    return day, 1 + (lap * TRIPS_A_DAY + shift) % sizes.vehicles


def _log(number: int, sizes: Sizes) -> int:
    """Return the log of the trip that carries a shipment; 0: none.

    No shipment knows the others of its trip. So its number alone says which of the slots of which trip it has.
    """
    lap, place = divmod(number - 1, sizes.shipments)
    slot, log = divmod(place - (place >> 2), sizes.vehicle_logs)
    if place & 3 == 3 or slot >= SLOTS:
        return 0
    return 1 + sizes.vehicle_logs * lap + log * STRIDE % sizes.vehicle_logs


def journey_of(words: tuple[int, ...], number: int, sizes: Sizes) -> Journey:
    """Return the journey of a shipment; the instants of a trip are on the day of its log."""
    log, vehicle = _log(number, sizes), 0
    carrier, service = CARRIERS[words[2] & 63], SERVICES[words[2] >> 6 & 15]
    origin = ORIGINS[words[3] * len(ORIGINS) >> 16]
    destination = DESTINATIONS[words[4] * len(DESTINATIONS) >> 16]
    reach = 0 if origin.country == destination.country else 1 if origin.region == destination.region else 2
    if log:
        day, vehicle = trip_of(log, sizes)
        picked_up = day * DAY + 10 * 3600 + (words[1] * 12 * 3600 >> 16)
        span = picked_up - day * DAY - 6 * 3600 - 1800
        if words[5] & 15 < service.waits and day > 2:
            day, span = day - WAITS[day % 7], 16 * 3600
        created = day * DAY + 6 * 3600 + (words[0] * span >> 16)
    else:
        day = FREE_DAYS[words[0] * len(FREE_DAYS) >> 16]
        created = day * DAY + 6 * 3600 + (words[1] * 16 * 3600 >> 16)
        picked_up = created + 1800 + (words[5] * service.pickup >> 16)
    promised = (day + service.days[reach]) * DAY + 18 * 3600
    if words[6] < carrier.on_time:
        ended = picked_up + ((promised - picked_up) * (22_000 + (words[7] * 43_000 >> 16)) >> 16)
    else:  # short delays are the most common
        ended = promised + 600 + (words[7] * words[8] * (reach + 2) * DAY >> 32)
    outcome: Literal["delivered", "returned", "lost", "cancelled"] = "delivered"
    if words[9] < 900:
        outcome = "lost" if words[9] < 200 else "returned"
    elif words[9] > 61_500 and not log:
        outcome = "cancelled"
    return Journey(
        carrier, service, origin, destination, reach, log, vehicle, outcome, created, picked_up, promised, ended
    )


def given_up_at(words: tuple[int, ...], journey: Journey) -> int:
    """Return when a shipment that is not delivered comes back or is given up: within three weeks."""
    return journey.ended + DAY + (words[21] * 20 * DAY >> 16)


def steps_of(words: tuple[int, ...], journey: Journey) -> list[tuple[int, str]]:
    """Return the events until the export, oldest first, as (instant, event code)."""
    if journey.outcome == "cancelled":
        return []
    start, span = journey.picked_up, journey.ended - journey.picked_up
    steps = [(start, "PICKED_UP"), (start + span // 8, "HUB_ARRIVED"), (start + span // 4, "HUB_DEPARTED")]
    if journey.reach == 2:
        steps.append((start + span * 5 // 8, "CUSTOMS_CLEARED"))
    if journey.outcome != "delivered":
        steps += [(journey.ended, "EXCEPTION"), (given_up_at(words, journey), journey.outcome.upper())]
    else:
        if journey.ended > journey.promised:
            steps.append((start + span * 3 // 4, "EXCEPTION"))
        steps += [(journey.ended - span // 16, "OUT_FOR_DELIVERY"), (journey.ended, "DELIVERED")]
    return [step for step in steps if step[0] < NOW]


def state_of(words: tuple[int, ...], journey: Journey) -> tuple[str, int]:
    """Return the status at the export, and the instant of the last change."""
    if journey.outcome == "delivered" and journey.ended < NOW:
        return "delivered", journey.ended  # by far the most common: no need to go through the steps
    if steps := steps_of(words, journey):
        last, code = steps[-1]
        return _STATUS_AFTER[code], last
    if journey.outcome == "cancelled":
        return "cancelled", min(journey.picked_up, NOW - 1)
    return "created", journey.created
