"""Facts that are made to mislead: nulls, ties, wrong orders, spellings, limits; loaded by commands, changed by hand."""

import json
import random
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from typing import LiteralString, TypeVar

from psycopg import sql

from tests.support.facts import another
from tests.support.recomputed.exactly import Row
from tests.support.site import Site

T = TypeVar("T")
NAMES = [None, "", " ", "DHL", "dhl", "DHL ", "D\u00dcL", "Du\u0308l", "(none)", '"(none)"', '"', "(none) x", "\tDHL"]
NAMES += ["\u3000", "\u0141\u00f3d\u017a", "LODZ", "\ufeff"]
NAMES += [
    "\u00a0",
    "A, B",
    "\u00e9t\u00e9",
    "\u00c9T\u00c9",
    "ete",
    "\u010dau",
    "Z\u00fcrich\u3000",
    "0",
    "New York",
    "NEWYORK",
]
STATUSES = [
    None,
    "",
    "created",
    "in_transit",
    "exception",
    "delivered",
    "DELIVERED",
    "delivered ",
    "\tdelivered",
    "returned",
]
STATUSES += [" ", "Lost\u3000", "lost", "cancelled", " Canceled", "storniert", "ZUR\u00dcCK", "zur\u00fcck"]
CODES = [None, None, "", " ", "DAMAGED", "damaged", " Damaged\t", "WEATHER", "weather", "(none)", "\u00dc", "\u00fc"]
EVENTS: list[str | None] = [
    "PICKED_UP",
    "picked_up ",
    "HUB_ARRIVED",
    "HUB_DEPARTED",
    "CUSTOMS_CLEARED",
    "DELIVERED",
    "delivered",
    "EXCEPTION",
]
EVENTS += [" exception", None, ""]
COUNTRIES = [None, "", "DE", "de", "DE ", "\u00c9", "(none)", "JP", "a", "B"]
ANCHORS = [
    "2023-12-31T23:59:59.999999+00:00",
    "2024-01-01T00:00:00+00:00",
    "2024-02-29T23:30:00+00:00",
    "2024-02-29T12:00:00+00:00",
    "2024-03-31T00:59:59+00:00",
    "2024-10-27T00:30:00+00:00",
    "2025-02-28T23:59:59.999999+00:00",
    "2024-12-31T22:30:00-03:00",
]
FUTURE = "2062-03-01T12:00:00+00:00"
STEPS = [timedelta(0), timedelta(microseconds=1), timedelta(microseconds=1800), timedelta(microseconds=5400)]
STEPS += [timedelta(hours=hours) for hours in (1, 24, 48, 72, 96, 100, 168, 336, 700)]
STEPS += [timedelta(hours=hours, microseconds=1800) for hours in (24, 48, 72, 168)]
STEPS += [timedelta(hours=hours, microseconds=1) for hours in (24, 72)]
NUMBERS = [None, "0.1", "1", "1000", "0.000000001", "1234567890.123", "2.5", "33.333"]


EDITS: tuple[LiteralString, ...] = (
    "update logistics.shipments set created_at = created_at + interval '1 month' where hashtext(shipment_id) % 11 = 0",
    "update logistics.shipments set promised_at = promised_at - interval '1 day' where hashtext(shipment_id) % 7 = 1",
    "update logistics.shipments set weight_kg = 0 where hashtext(shipment_id) % 5 = 2",
    "update logistics.shipments set picked_up_at = null where hashtext(shipment_id) % 13 = 3",
    "delete from logistics.shipments where hashtext(shipment_id) % 17 = 4",
    "update logistics.tracking_events set shipment_id = 'S1' where hashtext(event_id) % 19 = 5",
    (
        "update logistics.tracking_events set occurred_at = occurred_at - interval '26 hours'"
        " where hashtext(event_id) % 9 = 1"
    ),
    "delete from logistics.tracking_events where hashtext(event_id) % 23 = 6",
    "update logistics.vehicle_logs set trip_date = trip_date + 1 where hashtext(log_id) % 7 = 3",
    "delete from logistics.vehicle_logs where hashtext(log_id) % 11 = 2",
    "update logistics.vehicles set capacity_kg = capacity_kg * 2 where vehicle_id = 'V1'",
    "update logistics.vehicles set vehicle_type = 'lorry' where vehicle_id = 'V1'",
    "delete from logistics.vehicles where vehicle_id = 'V2'",
    """update etl.separate_batches set loaded_at = loaded_at - interval '1 day' where "offset" > 0""",
)
EMISSIONS: LiteralString = """
insert into analytics.vehicle_transports values ('van', 'road', 'electricity'), ('lorry', 'road', 'diesel'),
    ('ship', 'sea', 'methanol') on conflict do nothing;
insert into analytics.emission_factors values ('road', 'diesel', 0.0907, 'a test'), ('sea', 'methanol', 0.1, 'a test')
    on conflict do nothing;
"""
MEANINGS: LiteralString = """
insert into analytics.name_spellings values ('carrier', 'dhl', 'DHL'), ('carrier', '', 'Nameless'),
    ('city', 'Köln', 'Cologne'), ('city', 'DHL', ' '), ('country', 'de', 'DE'), ('warehouse', 'w1', 'W1'),
    ('service_level', 'EXPRESS', 'express') on conflict do nothing;
insert into analytics.shipment_states values ('storniert', 'cancelled'), ('zurück', 'returned')
    on conflict do nothing;
insert into analytics.warehouse_timezones values ('W1', 'Europe/Berlin'), ('W2', 'America/Sao_Paulo'),
    ('(none)', 'Asia/Kathmandu') on conflict do nothing;
"""
TABLES = (
    *(f"logistics.{name}" for name in ("shipments", "tracking_events", "vehicle_logs", "vehicles")),
    *(f"analytics.{name}" for name in ("shipment_states", "name_spellings", "warehouse_timezones")),
    *(f"analytics.{name}" for name in ("vehicle_transports", "emission_factors")),
    *(f"etl.{name}" for name in ("runs", "batches", "failures")),
)


class HostileFacts:
    """Writes such facts into the database of a site, changes them, and reads them again."""

    def __init__(self, site: Site, seed: int) -> None:
        self.site = site
        self.connection = another(site.connection)
        self.chance = random.Random(seed)
        self.files = 0
        # A weight of 0 breaks the definition, and a definition of a user may allow it.
        self.connection.execute("alter table logistics.shipments drop constraint shipments_weight_kg_above")

    def one(self, values: Sequence[T], often: T | None = None) -> T:
        """Choose a value, in half of all cases the one that is to come often."""
        if often is not None and self.chance.random() < 0.5:
            return often
        return self.chance.choice(values)

    def instant(self) -> datetime:
        """Return an instant at a limit, or a step from one."""
        instant = datetime.fromisoformat(self.one(ANCHORS, ANCHORS[3]))
        if self.chance.random() < 0.3:
            instant += self.chance.choice((-1, 1)) * self.one(STEPS)
        return instant

    def near(self, instant: datetime) -> datetime | None:
        """Return an instant after this one, seldom before it, or none."""
        kind = self.chance.random()
        if kind < 0.12:
            return None
        if kind < 0.3:
            return instant - self.one(STEPS)
        return instant + self.one(STEPS) + timedelta(seconds=self.chance.randrange(3) * 1234)

    def shipment(self, number: int) -> Row:
        """Return a record of a shipment."""
        created = self.instant()
        picked = self.near(created)
        promised = self.near(picked or created)
        delivered = self.near(self.one([value for value in (picked, promised, created) if value]))
        if self.chance.random() < 0.3:
            delivered = None
        wrong = datetime.fromisoformat(FUTURE)
        if self.chance.random() < 0.05:
            created, picked, delivered = self.one([created, wrong]), self.one([picked, wrong]), wrong
        times = {"created_at": created, "picked_up_at": picked, "promised_at": promised, "delivered_at": delivered}
        return {
            "shipment_id": f"S{number}",
            "order_id": self.one([None, "", " ", "O1", "O2", "o1"]),
            "log_id": self.one([None, "", "nowhere", *(f"T{trip}" for trip in range(30))]),
            "carrier": self.one(NAMES, "DHL"),
            "service_level": self.one([None, "express", "EXPRESS", "economy", ""], "express"),
            "status": self.one(STATUSES, "delivered"),
            "origin": {
                "country": self.one(COUNTRIES, "DE"),
                "city": self.one(NAMES, "Köln"),
                "warehouse": self.one([None, "", "W1", "w1", "W2", "W3"], "W1"),
            },
            "destination": {"country": self.one(COUNTRIES, "JP"), "city": self.one(NAMES, "Köln")},
            **{name: value and value.isoformat() for name, value in times.items()},
            "updated_at": self.one([None, *(f"2024-05-0{day}T00:00:00Z" for day in range(1, 6))]),
            "weight_kg": self.one(NUMBERS, "2.5"),
            "volume_m3": self.one([*NUMBERS, "0"]),
            "freight_cost": self.one([*NUMBERS, "0"], "10"),
            "pieces": self.one([None, 0, 1, 2_000_000_000]),
            "declared_value": {
                "amount": self.one([*NUMBERS, "0"], "1000"),
                "currency": self.one([None, "", " ", "EUR", "eur", " EU", "USD"], "EUR"),
            },
            "claim": self.one(
                [
                    {"amount": self.one([*NUMBERS, "0"]), "claimed_at": self.instant().isoformat()},
                    {"amount": "5", "claimed_at": None},
                    {"claimed_at": FUTURE},
                ],
                {},
            ),
            "ordered_quantity": self.one(["0", "3", "2.5", None, "7"], "3"),
            "delivered_quantity": self.one(["0", "2.999", "2.5", None, "8"], "3"),
        }

    def event(self, number: int, shipments: int) -> Row:
        """Return a record of an event of one of so many shipments, or of another one."""
        occurred = datetime.fromisoformat(FUTURE) if self.chance.random() < 0.03 else self.instant()
        recorded = self.near(occurred)
        return {
            "event_id": f"E{number}",
            "shipment_id": self.one(
                [None, "", " ", "nobody", *(f"S{self.chance.randrange(shipments)}" for _ in range(9))]
            ),
            "event_code": self.one(EVENTS),
            "occurred_at": occurred.isoformat(),
            "location": {
                "country": self.one(COUNTRIES, "DE"),
                "city": self.one(NAMES, "Köln"),
                "code": self.one([*NAMES, "LDZ"], "DECGN"),
            },
            "exception_code": self.one(CODES),
            "recorded_at": recorded and recorded.isoformat(),
        }

    def stay(self, number: int, shipments: int) -> list[Row]:
        """Return the events of a shipment at one hub, of which some are missing, repeated or in the wrong order."""
        event = self.event(number, shipments)
        arrived = datetime.fromisoformat(event["occurred_at"])
        departed = arrived + self.one([*STEPS, timedelta(hours=6), timedelta(hours=6, microseconds=1800)])
        scans = [("HUB_ARRIVED", arrived), ("hub_departed ", departed)]
        scans += [(kind, self.near(instant) or instant) for kind, instant in scans if self.chance.random() < 0.2]
        return [
            event | {"event_id": f"H{number}-{place}", "event_code": kind, "occurred_at": instant.isoformat()}
            for place, (kind, instant) in enumerate(scans)
        ]

    def trip(self, number: int) -> Row:
        """Return a record of a trip."""
        return {
            "log_id": f"T{number}",
            "vehicle_id": self.one([None, "", "(none)", "V1", "v1", "V2", "V3", "V9"], "V1"),
            "trip_date": self.one(["2024-02-29", "2024-12-31", "2025-01-01", FUTURE[:10]], "2024-02-29"),
            "distance_km": self.one([*NUMBERS, "0"]),
            "empty_km": self.one([*NUMBERS, "0"]),
            "fuel_l": self.one([*NUMBERS, "0"]),
        }

    def vehicle(self, number: int) -> Row:
        """Return a record of a vehicle."""
        return {
            "vehicle_id": ("", "(none)", "V1", "v1", "V2", "V3")[number],
            "vehicle_type": self.one([None, "van", "lorry"]),
            "capacity_kg": self.one([None, "0", "1", "24000", "1000.5"]),
        }

    def container_event(self, number: int) -> Row:
        """Return a record of an event of a container, as the industry sends it."""
        return {
            "eventID": f"D{number}",
            "eventType": "EQUIPMENT",
            "eventClassifierCode": self.one(["ACT", "act", "EST", None], "ACT"),
            "eventDateTime": self.instant().isoformat(),
            "equipmentEventTypeCode": self.one(["LOAD", "load ", "DISC", "", None]),
            "equipmentReference": self.one([None, "", " ", "C1", "C2", "c2"]),
            "eventLocation": {"UNLocationCode": self.one([None, "", "DEHAM", "(none)"])},
            "transportCall": {"UNLocationCode": self.one([None, "", "NLRTM"])},
        }

    def parcel(self, number: int) -> Row:
        """Return a record of a tracked parcel."""
        return {
            "id": f"P{number}",
            "carrier": self.one(NAMES, "DHL"),
            "status": self.one([None, "delivered", "Delivered ", "in_transit"]),
            "carrier_detail": None,
            "is_return": self.one([None, True, False]),
            "created_at": self.one([None, self.instant().isoformat()]),
        }

    def load(self, dataset: str, rows: Sequence[Row], *options: str, refused: str = "") -> None:
        """Load records by a command, with one that is refused where its text is given."""
        self.files += 1
        name = f"{dataset}-{self.files}.ndjson"
        lines = [json.dumps(row, ensure_ascii=False) for row in rows] + [refused] * bool(refused)
        (self.site.folder / name).write_text("\n".join(lines) + "\n", encoding="utf-8")
        ended = self.site.run("load", dataset, name, "--no-precalculate", "--batch-rows", "100", *options)
        assert ended.returncode == (1 if refused else 0), ended.stderr

    def some(self, make: Callable[[int], T], of: int, size: int) -> list[T]:
        """Return records with different numbers."""
        return [make(number) for number in self.chance.sample(range(of), size)]

    def arrive(self, shipments: int, size: int) -> None:
        """Load records of all four datasets, many of them newer or older versions of what is loaded already."""
        self.load("shipments", self.some(self.shipment, shipments, size), refused='{"shipment_id": "bad"}')
        rows = self.some(lambda number: self.event(number, shipments), 3 * shipments, 2 * size)
        twins = [{**row, "event_id": f"{row['event_id']}-again", "location": None} for row in rows[::4]]
        stays = self.some(lambda number: self.stay(number, shipments), shipments, size // 2)
        self.load("tracking_events", rows + twins + [event for events in stays for event in events])
        self.load("vehicle_logs", self.some(self.trip, 30, min(30, size // 10)))
        self.load("vehicles", self.some(self.vehicle, 6, min(6, 1 + size // 50)))

    def replay_and_undo(self) -> None:
        """Replay a refused record as it should have been, load a file, and take it back."""
        for path in (self.site.folder / "failed" / "shipments").glob("*/*.ndjson"):
            path.write_text(json.dumps(self.shipment(10_000)) + "\n", encoding="utf-8")
        replayed = self.site.run("failed", "replay", "--run", "latest", "--no-precalculate")
        assert replayed.returncode == 0, replayed.stderr
        self.load("vehicles", self.some(self.vehicle, 6, 2))
        undone = self.site.run("runs", "undo", "latest", "--delete-rows", "--no-precalculate")
        assert undone.returncode == 0, undone.stderr

    def edit(self) -> None:
        """Change rows by hand: buckets, keys, values that no definition allows, and rows that go."""
        for statement in self.chance.sample(EDITS, 8):
            self.connection.execute(statement)

    def name(self) -> None:
        """Fill the tables that say what names and states mean, which makes all buckets pending."""
        self.connection.execute(MEANINGS)
        self.rate()

    def rate(self) -> None:
        """Fill the tables that say what a vehicle emits."""
        self.connection.execute(EMISSIONS)

    def read(self, *others: str) -> dict[str, list[Row]]:
        """Return the rows of all tables that the aggregates may be computed from."""
        return {table: self.rows(table) for table in (*TABLES, *others)}

    def rows(self, table: str) -> list[Row]:
        """Return the rows of a table."""
        cursor = self.connection.execute(sql.SQL("select * from {}").format(sql.Identifier(*table.split("."))))
        names = [column.name for column in cursor.description or ()]
        return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]
