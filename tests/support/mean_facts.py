"""Facts that are made to mislead: nulls, ties, times in the wrong order, spellings, ends of months, clock changes."""

import random
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

from psycopg import sql

from tests.support.faults import Connection
from tests.support.recomputed import Row

_INSTANTS = (
    datetime(2024, 2, 28, 23, 59, 59, 999999, UTC),
    datetime(2024, 2, 29, 12, tzinfo=UTC),
    datetime(2024, 3, 1, tzinfo=UTC),
    datetime(2024, 3, 31, 0, 59, 59, tzinfo=UTC),
    datetime(2024, 3, 31, 1, tzinfo=UTC),
    datetime(2024, 10, 27, 0, 30, tzinfo=UTC),
    datetime(2024, 12, 31, 23, 30, tzinfo=UTC),
    datetime(2025, 1, 1, tzinfo=UTC),
)
_NAMES = (None, "", " ", "(none)", '"(none)"', "Köln", "KÖLN", "Köln ", "Koln", "München", "x (none)", "C1", "c1", "C2")
_STATUSES = (
    None,
    "",
    "created",
    "in_transit",
    "In_Transit",
    "delivered",
    "DELIVERED",
    "delivered ",
    "\tDelivered",
    "returned",
    "Lost",
    "Cancelled",
    "canceled",
    "CANCELLED\u00a0",
    "storniert",
    "teleported",
)
_EVENTS = (
    None,
    "PICKED_UP",
    "picked_up",
    "HUB_ARRIVED",
    "HUB_DEPARTED",
    "Hub_Departed ",
    "CUSTOMS_CLEARED",
    "DELIVERED",
    "DELIVERED",
    "EXCEPTION",
    "exception",
    "SCANNED",
)
_CODES = (None, None, None, "", " ", "DAMAGED", "damaged", "Damaged ", "WEATHER", "(none)")
_GAPS = (
    timedelta(0),
    timedelta(microseconds=1),
    timedelta(microseconds=1800),
    timedelta(seconds=1),
    timedelta(hours=24),
    timedelta(hours=24, seconds=1),
    timedelta(hours=72),
    timedelta(hours=336, microseconds=3),
    timedelta(days=31),
)
_NUMBERS = (None, Decimal(0), Decimal("0.001"), Decimal("12.345"), Decimal(7), Decimal("99999.99"))
_TABLES = ("shipments", "tracking_events", "vehicle_logs", "vehicles", "dcsa_events", "parcel_trackers")
_REFERENCES = ("shipment_states", "name_spellings", "warehouse_timezones", "first_promises")
_RUNS = {"shipments": 1, "tracking_events": 2, "vehicle_logs": 3, "vehicles": 4}


class MeanFacts:
    """Writes mean facts into a database, changes them, and reads them again."""

    def __init__(self, connection: Connection, seed: int) -> None:
        self.connection = connection
        self.random = random.Random(seed)
        self.place = 0
        for dataset, number in _RUNS.items():
            connection.execute(
                "insert into etl.runs (number, run, dataset, source, definition_hash, mode, is_atomic, is_forced)"
                " overriding system value values (%s, %s, %s, '-', '', 'merge', false, false)",
                [number, f"run-{number}", dataset],
            )
            for offset, day in ((0, "2026-01-01T23:59:59Z"), (1, "2026-01-02")):
                connection.execute(
                    'insert into etl.batches (run, "offset", first_record, count_records, bytes, hash, attempt,'
                    " loaded_at, count_loaded, count_rejected, count_failed)"
                    " values (%s, %s, 1, 7, 70, '', 1, %s, 4, 2, 1)",
                    [f"run-{number}", offset, day],
                )

    # --- values ---

    def instant(self, after: datetime | None = None) -> datetime:
        """Return an instant at a limit, or a gap after (sometimes before) another one."""
        gap = self.random.choice(_GAPS) * self.random.choice((1, 1, 1, -1))
        return (self.random.choice(_INSTANTS) if after is None else after) + gap

    def maybe_instant(self, after: datetime) -> datetime | None:
        """Return an instant after another one, or None."""
        return self.instant(after) if self.random.random() < 0.75 else None

    def some(self, letter: str, among: int) -> str:
        """Return one of several names."""
        return f"{letter}{self.random.randrange(among)}"

    def maybe(self, value: Any) -> Any:
        """Return the value, or None."""
        return value if self.random.random() < 0.8 else None

    # --- rows ---

    def shipment(self) -> Row:
        """Return a shipment that may be there already."""
        choose, created = self.random.choice, self.instant()
        # Many are alike, so that some groups are large enough for percentiles.
        is_plain = self.random.random() < 0.6
        return {
            "shipment_id": self.some("S", 300),
            "order_id": self.maybe(self.some("O", 50)),
            "log_id": self.maybe(self.some("L", 40)),
            "carrier": "C1" if is_plain else choose(_NAMES),
            "service_level": "express" if is_plain else choose(("express", None, "Express")),
            "status": choose(_STATUSES),
            "origin_country": "DE" if is_plain else choose(("de", None, "DE")),
            "origin_city": "Köln" if is_plain else choose(_NAMES),
            "origin_warehouse": "W1" if is_plain else choose(("W1", "w1", None, "W2", "(none)")),
            "destination_country": "JP",
            "destination_city": "東京" if is_plain else choose(_NAMES),
            "created_at": choose(_INSTANTS[:4]) if is_plain else created,
            "picked_up_at": self.maybe_instant(created),
            "promised_at": self.maybe_instant(created),
            "delivered_at": self.maybe_instant(created),
            "updated_at": self.maybe_instant(created),
            "weight_kg": self.random.choice(_NUMBERS[:1] + _NUMBERS[2:]),
            "volume_m3": choose(_NUMBERS),
            "freight_cost": choose(_NUMBERS),
            "pieces": choose((None, 0, 1, 17)),
        }

    def event(self) -> Row:
        """Return an event of a shipment that may be unknown."""
        at = self.random.choice(_INSTANTS) if self.random.random() < 0.5 else self.instant()
        return {
            "event_id": self.some("E", 900),
            "shipment_id": self.maybe(self.some("S", 320)),
            "event_code": self.random.choice(_EVENTS),
            "occurred_at": at,
            "location_country": self.random.choice((None, "", "DE", "de", "FR", "(none)")),
            "exception_code": self.random.choice(_CODES),
            "recorded_at": self.maybe_instant(at),
        }

    def trip(self) -> Row:
        """Return a trip of a vehicle that may be unknown."""
        return {
            "log_id": self.some("L", 45),
            "vehicle_id": self.random.choice((None, "", "(none)", "V1", "V2", "V9")),
            "trip_date": self.random.choice(_INSTANTS).date(),
            "distance_km": self.random.choice(_NUMBERS),
            "fuel_l": self.random.choice(_NUMBERS),
        }

    def vehicle(self) -> Row:
        """Return a vehicle."""
        names = ("(none)", "V1", "V2", "V3")
        return {"vehicle_id": self.random.choice(names), "capacity_kg": self.random.choice(_NUMBERS)}

    def container_event(self) -> Row:
        """Return an event of a container."""
        choose = self.random.choice
        return {
            "event_id": self.some("D", 500),
            "classifier": choose(("ACT", "ACT", "EST", None)),
            "occurred_at": self.instant(),
            "equipment_event": choose(("LOAD", "DISC", None)),
            "equipment_reference": self.maybe(self.some("C", 9)),
            "event_un_location": choose((None, "DEHAM", "")),
            "un_location": choose((None, "NLRTM", "(none)")),
        }

    def parcel(self) -> Row:
        """Return a tracked parcel."""
        choose = self.random.choice
        return {
            "tracker_id": self.some("T", 500),
            "carrier": choose(_NAMES),
            "status": choose((None, "delivered", "in_transit")),
            "is_return": choose((None, True, False)),
            "created_at": self.instant(),
        }

    # --- changes ---

    def put(self, table: str, key: str, rows: Sequence[Row]) -> None:
        """Insert rows, or replace the rows with their keys."""
        for row in rows:
            self.place += 1
            values = row | {"etl_run": _RUNS.get(table, 1), "etl_batch": self.place % 2, "etl_place": self.place}
            self.connection.execute(
                sql.SQL("insert into logistics.{} ({}) values ({}) on conflict ({}) do update set {}").format(
                    sql.Identifier(table),
                    sql.SQL(", ").join(map(sql.Identifier, values)),
                    sql.SQL(", ").join(map(sql.Placeholder, values)),
                    sql.Identifier(key),
                    sql.SQL(", ").join(sql.SQL("{0} = excluded.{0}").format(sql.Identifier(name)) for name in values),
                ),
                values,
            )

    def change(self, size: int) -> None:
        """Insert and replace facts, delete some, and sometimes change a table of reference."""
        with self.connection.transaction():
            self.put("vehicles", "vehicle_id", [self.vehicle() for _ in range(size // 40)])
            self.put("vehicle_logs", "log_id", [self.trip() for _ in range(size // 8)])
            self.put("shipments", "shipment_id", [self.shipment() for _ in range(size)])
            self.put("tracking_events", "event_id", [self.event() for _ in range(2 * size)])
            for table, key, name in (
                ("shipments", "shipment_id", self.some("S", 300)),
                ("tracking_events", "event_id", self.some("E", 900)),
                ("vehicle_logs", "log_id", self.some("L", 45)),
            ):
                self.connection.execute(
                    sql.SQL("delete from logistics.{} where {} = %s").format(
                        sql.Identifier(table), sql.Identifier(key)
                    ),
                    [name],
                )

    def refer(self) -> None:
        """Fill the tables of reference, which makes all buckets pending."""
        self.connection.execute(
            """
            insert into analytics.shipment_states values ('storniert', 'cancelled') on conflict do nothing;
            insert into analytics.name_spellings values ('city', 'KÖLN', 'Köln'), ('carrier', 'c1', 'C1'),
                ('country', 'de', 'DE'), ('warehouse', 'w1', 'W1') on conflict do nothing;
            insert into analytics.warehouse_timezones values ('W1', 'Europe/Berlin'), ('W2', 'America/Sao_Paulo')
                on conflict do nothing;
            """
        )

    def read(self) -> dict[str, list[Row]]:
        """Return all facts and tables of reference."""
        return {
            **{table: self._rows("logistics", table) for table in _TABLES[:4]},
            **{table: self._rows("analytics", table) for table in _REFERENCES},
            "batches": self._batches(),
        }

    def read_industry(self) -> dict[str, list[Row]]:
        """Return the facts of the industry's aggregates, without the others."""
        nothing: dict[str, list[Row]] = {table: [] for table in (*_TABLES[:4], *_REFERENCES, "batches")}
        return nothing | {table: self._rows("logistics", table) for table in _TABLES[4:]}

    def _batches(self) -> list[Row]:
        query = 'select number, dataset, "offset", loaded_at from etl.batches join etl.runs using (run)'
        names = ("number", "dataset", "offset", "loaded_at")
        return [dict(zip(names, row, strict=True)) for row in self.connection.execute(query)]

    def _rows(self, schema: str, table: str) -> list[Row]:
        cursor = self.connection.execute(sql.SQL("select * from {}").format(sql.Identifier(schema, table)))
        names = [column.name for column in cursor.description or ()]
        return [dict(zip(names, row, strict=True)) for row in cursor]
