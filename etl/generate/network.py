"""The sampled network: places, carriers, services, goods, vehicles, and its calendar.

Tables only, built once. Parts of a record that never change are kept as JSON text: to encode them again for each record
costs more than the rest of the record.
"""

import json
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import cycle, groupby
from typing import Any, NamedTuple

DAY = 86_400
DAYS = 731  # two years; instants are seconds from their start
SLOTS = 3  # shipments on a trip; each weighs 62 to 92 % of a third of the vehicle's capacity
PACKAGING = 350  # grams for each piece
UNITS_A_PIECE = 3
STRIDE = 2_147_483_647  # a prime beyond all numbers of logs and days: its multiples scatter over them
NOW = DAYS * DAY  # the instant at which the network's state is exported: the start of 2026
START = datetime(2024, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """The number of records of each dataset that other datasets may name; a file may have fewer or more.

    A file with more shipments names logs in the same proportion: of 400,000 shipments the logs up to 100,000.
    """

    shipments: int = 200_000
    vehicle_logs: int = 50_000
    vehicles: int = 500


# country, code, region, postal code (# is a digit), city
_CITIES = """
PL|LDZ|EU|90-###|Łódź
DE|BER|EU|10###|Berlin
DE|MUC|EU|80###|München
BR|SAO|SA|01###-###|São Paulo
US|CHI|NA|606##|Chicago
JP|TYO|AS|10#-00##|東京
CN|SHA|AS|2000##|上海
GB|MAN|EU|M# #AE|Manchester
ES|ZAZ|EU|500##|Zaragoza
FR|LYO|EU|6900#|Lyon
CH|ZRH|EU|80##|Zürich
NL|RTM|EU|30## XB|Rotterdam
PL|KRK|EU|30-###|Kraków
PL|GDN|EU|80-###|Gdańsk
DE|CGN|EU|50###|Köln
DE|DUS|EU|40###|Düsseldorf
FR|PAR|EU|750##|Paris
FR|SXB|EU|670##|Strasbourg
ES|MLG|EU|290##|Málaga
PT|LIS|EU|1###-###|Lisboa
IT|MIL|EU|201##|Milano
AT|VIE|EU|1##0|Wien
CZ|PLZ|EU|30# ##|Plzeň
HU|PEC|EU|76##|Pécs
DK|AAR|EU|8###|Århus
SE|MMA|EU|21# ##|Malmö
SE|GOT|EU|41# ##|Göteborg
NO|TOS|EU|90##|Tromsø
FI|JYV|EU|40###|Jyväskylä
IS|REK|EU|1##|Reykjavík
IE|DUB|EU|D0# X#K#|Dublin
GB|LON|EU|E#W #BH|London
RO|IAS|EU|70####|Iași
BG|SOF|EU|1###|София
GR|ATH|EU|10# ##|Αθήνα
UA|IEV|EU|01###|Київ
TR|IST|AS|34###|İstanbul
IL|TLV|AS|61#####|תל אביב
AE|DXB|AS||دبي
JP|OSA|AS|53#-00##|大阪
KR|SEL|AS|04###|서울
VN|SGN|AS|70####|Thành phố Hồ Chí Minh
CN|CAN|AS|5100##|广州
US|NYC|NA|100##|New York
US|SAF|NA|875##|Santa Fé
CA|YMQ|NA|H#B #Y#|Montréal
MX|MEX|NA|0####|Ciudad de México
BR|CWB|SA|80###-###|Curitiba
BR|FOR|SA|60###-###|Fortaleza
CO|BOG|SA|11####|Bogotá
CL|VAP|SA|23#####|Valparaíso
AR|COR|SA|50##|Córdoba
"""
_COUNT_WAREHOUSE_CITIES = 11  # the first of the table
_CURRENCIES = {"BR": "BRL", "US": "USD", "JP": "JPY", "CN": "CNY", "GB": "GBP", "PL": "PLN"}

_GOODS = [  # grams, cents, description
    (1450, 3900, "Kettle, 1.7 l, steel"),
    (320, 1290, "Café crème, ground, 250 g"),
    (4200, 15900, 'Monitor 24" IPS'),
    (90, 799, "USB-C cable, 2 m"),
    (780, 2450, "Brake pads (front) A/B"),
    (2600, 5400, "Jabłka suszone, 2 kg"),
    (15500, 22900, 'Bürostuhl "Ergo"'),
    (1100, 1890, "緑茶セット"),
    (540, 3300, "Hydraulic seal Ø 40 mm"),
    (6900, 8700, "Paint, white, 5 l"),
    (210, 4999, "Pressure sensor 0-10 bar"),
    (3100, 2750, "Printer paper, 5 × 500"),
    (8300, 39900, "Cordless drill \\ 2 batteries"),
    (60, 350, "Label roll 100/150"),
    (12400, 31900, "Kinderwagen, grün"),
    (1900, 6100, "Hiking boots, size 42"),
]

_NOTES = (
    "Leave at the gate",
    'Marked "FRAGILE" on all sides',
    "Ring twice;\tthen call",
    "Dock 4\nAsk for José\r\nNo delivery after 16:00",
    "Path on label: C:\\Labels\\out\\N",
    "Cold chain ❄️ keep below 8 °C 🚚",
    "地下駐車場へ",
    "\\N",
    "",
    "Customer's 2nd attempt, 50% prepaid, {see invoice}, [A-1]",
)


class Carrier(NamedTuple):
    """Who moves shipments, and how reliably."""

    name: str
    on_time: int  # share of deliveries before the promise, in 65536ths


class Service(NamedTuple):
    """What can be booked; promises and prices depend on the reach of the lane."""

    name: str
    pickup: int  # longest time from creation to pickup, in seconds
    waits: int  # how often a trip fetches it on a later working day, in 16ths
    days: tuple[int, int, int]  # promised, by reach: same country, same region, other region
    fee: tuple[int, int, int]  # in cents
    per_kg: tuple[int, int, int]  # in cents


class Site(NamedTuple):
    """A place, with the JSON text of each way in which records name it."""

    country: str
    region: str
    text: str  # as the origin or destination of a shipment
    location: str  # of an event
    currency: str


class Item(NamedTuple):
    """One line of a shipment as JSON text, with what the shipment adds up."""

    text: str
    quantity: int
    grams: int
    cents: int


def dumps(value: object) -> str:
    """Return a value as compact JSON text, with every character as itself."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def _spread(*weighted: tuple[int, Any]) -> list[Any]:
    return [value for weight, value in weighted for _ in range(weight)]


CARRIERS: list[Carrier] = _spread(
    (20, Carrier("Northway Freight", 62_900)),
    (14, Carrier("Blauhafen Logistik", 61_000)),
    (12, Carrier("Żubr Express", 58_300)),
    (8, Carrier("Transportes Ipê", 55_000)),
    (6, Carrier("Hayate 急便", 64_200)),
    (4, Carrier("O'Malley & Sons", 49_800)),
)
SERVICES: list[Service] = _spread(
    (8, Service("standard", 20 * 3600, 5, (4, 6, 12), (390, 890, 2900), (45, 90, 310))),
    (5, Service("economy", 40 * 3600, 12, (7, 10, 21), (250, 590, 1900), (30, 60, 190))),
    (3, Service("express", 6 * 3600, 0, (2, 3, 5), (990, 1900, 5900), (95, 190, 720))),
)
VEHICLE_TYPES: list[tuple[str, int, int]] = _spread(  # name, capacity in kg, fuel in litres per 1000 km
    (5, ("van", 1_200, 95)),
    (4, ("box_truck", 5_500, 180)),
    (5, ("semi_trailer", 24_000, 310)),
    (1, ("refrigerated_truck", 12_000, 290)),
    (1, ("cargo_bike", 150, 0)),
)


def _sites() -> tuple[list[Site], list[Site]]:
    origins, destinations = [], []
    for index, line in enumerate(_CITIES.strip().splitlines()):
        country, code, region, pattern, city = line.split("|")
        place = {"country": country, "city": city}
        location, currency = dumps({**place, "code": country + code}), _CURRENCIES.get(country, "EUR")
        for dock in (1, 2) if index < _COUNT_WAREHOUSE_CITIES else ():
            origin = dumps({**place, "warehouse": f"{code}-{dock}"})
            origins.append(Site(country, region, origin, location, currency))
        digits = cycle(str((7919 + index) ** 23))
        for _ in range(8):
            postal_code = "".join(next(digits) if sign == "#" else sign for sign in pattern)
            destination = dumps({**place, "postal_code": postal_code or None})
            destinations.append(Site(country, region, destination, location, currency))
    return origins, destinations


def _item(article: int, quantity: int) -> Item:
    grams, cents, description = _GOODS[article % len(_GOODS)]
    grams, cents = (grams + article) * quantity, (cents + article) * quantity
    text = (
        f'{{"sku":"SKU-{10_000 + article * 37}","description":{dumps(description)},'
        f'"quantity":{quantity},"weight_kg":{grams // 1000}.{grams % 1000:03d}}}'
    )
    return Item(text, quantity, grams, cents)


def _items() -> list[Item]:
    """Return 512 articles in eight quantities."""
    return [_item(number >> 3, (1, 1, 1, 2, 2, 3, 6, 12)[number & 7]) for number in range(4096)]


def _load(capacity: int, lines: int) -> list[Item]:
    """Return 128 lines for a shipment of so many, on a trip of a vehicle of so many kilograms.

    The shipment weighs 46 to 93 % of a third of the capacity with its packaging: an article is in it only if a line
    has at least four of them and not thousands of them.
    """
    line = capacity * 1000 // SLOTS // lines
    packed = [_GOODS[article % len(_GOODS)][0] + article + PACKAGING // UNITS_A_PIECE + 1 for article in range(512)]
    fitting = [article for article in range(512) if line * 62 // 300_000 < packed[article] < line * 62 // 400]
    chosen = [fitting[number * 37 % len(fitting)] for number in range(128)]
    return [
        _item(article, line * (62 + number * 29 % 31) // 100 // packed[article])
        for number, article in enumerate(chosen)
    ]


def _days() -> list[int]:
    """Return the days by their weights: quiet weekends, a busy end of the year, a larger second year."""
    days = []
    for day in range(DAYS):
        date = START + timedelta(days=day)
        weight = (10, 10, 10, 10, 9, 4, 2)[date.weekday()] + (3 if date.month > 10 else 0)
        days += [day] * (weight + (1 if day > DAYS // 2 else 0))
    return days


def _trips() -> tuple[list[tuple[int, int]], int]:
    """Return the day of each trip of a lap, and where its vehicle is in the fleet; and the most trips of a day.

    A lap has as many trips a day as the weight of the day, in scattered order. Vehicles of a day are different ones.
    """
    days = _days()
    trips = [(day, place) for day, places in groupby(days) for place, _ in enumerate(places)]
    scattered = [trips[number * STRIDE % len(trips)] for number in range(len(trips))]
    return [(day, place + 13 * day) for day, place in scattered], 1 + max(place for _, place in trips)


ORIGINS, DESTINATIONS = _sites()
HUBS = {site.region: site.location for site in ORIGINS}  # one a region
ITEMS = _items()
BUSY_DAYS = _days()
TRIPS, TRIPS_A_DAY = _trips()
# On the last day also what is fetched after the export, which no trip carries yet.
FREE_DAYS = BUSY_DAYS + [day for day in BUSY_DAYS if day == DAYS - 1]
WAITS = (3, 1, 1, 1, 1, 1, 2)  # days back to the working day before, by weekday; the first day is a Monday
_LOADS = {capacity: [_load(capacity, max(1, lines)) for lines in range(6)] for _, capacity, _ in set(VEHICLE_TYPES)}
LOADS = [_LOADS[capacity] for _, capacity, _ in VEHICLE_TYPES]  # by vehicle type and number of lines
ITEM_COUNTS = (1, 1, 2, 2, 2, 3, 3, 3, 3, 3, 4, 4, 4, 4, 5, 5)
NOTE_TEXTS = [dumps(note) for note in _NOTES] + [json.dumps(_NOTES[5]), json.dumps(_NOTES[6])] + ["null"] * 20
VEHICLE_NAMES = ("Żubr", "Ilse", "Bjørn", "はやて", "Señor Ruiz", "O'Hara", 'The "Mule"', "Göta")
