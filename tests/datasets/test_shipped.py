import gzip
import io
import json
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import sql

from etl import generate
from etl.datasets import Dataset, default_names, find, names
from tests.support.checkout import REAL_DATA, needs_real_data
from tests.support.faults import Connection
from tests.support.parcels import batch_of, copy_rows

Record = dict[str, Any]

NO_CONFIG = Path("no-such-folder")


def _load(connection: Connection, dataset: Dataset, records: list[Record]) -> None:
    """Project the records and COPY their rows; assert that none is refused."""
    batch = batch_of(dataset, records)
    assert [rejected.fault for rejected in batch.rejected] == []
    for table, [rows] in zip(dataset.tables, batch.tables, strict=True):
        copy_rows(connection, table, b"".join(rows.encoded()))


def _stored(connection: Connection, table: str, order: str) -> list[Record]:
    query = sql.SQL("select * from {} order by {}").format(
        sql.Identifier("logistics", table), sql.SQL(", ").join(map(sql.Identifier, order.split()))
    )
    with connection.cursor(row_factory=psycopg.rows.dict_row) as cursor:
        rows = cursor.execute(query).fetchall()
    return [{name: value for name, value in row.items() if not name.startswith("etl_")} for row in rows]


def _generated(dataset: str, records: int) -> list[Record]:
    output = io.BytesIO()
    generate.generate(dataset, records=records, output=output, format="ndjson")
    return [json.loads(line, parse_float=Decimal) for line in output.getvalue().splitlines()]


def test_the_shipped_datasets_are_these() -> None:
    """A migrated database has the tables of six datasets; the others are only offered. All merge by their key."""
    expected = {
        "flight_legs": ("leg_id",),
        "scms_shipments": ("shipment_id",),
        "shipments": ("shipment_id",),
        "tracking_events": ("event_id",),
        "vehicle_logs": ("log_id",),
        "vehicles": ("vehicle_id",),
    }
    offered = {
        "aftership_tracking": ("tracking_id",),
        "dcsa_events": ("event_id",),
        "dcsa_events_v3": ("event_id",),
        "epcis_events": ("event_id",),
        "one_record_waybills": ("waybill_uri",),
        "parcel_tracking": ("tracker_id",),
        "sscc_units": ("sscc",),
        "un_locodes": ("country", "location"),
    }
    found = {name: find(name, NO_CONFIG) for name in names(NO_CONFIG)}
    assert {name: dataset.key for name, dataset in found.items()} == expected | offered
    assert set(default_names(NO_CONFIG)) == set(expected)
    assert {dataset.mode for dataset in found.values()} == {"merge"}


@pytest.mark.parametrize("name", names(NO_CONFIG))
def test_every_table_and_column_has_a_comment(name: str) -> None:
    """Each table and each column of a shipped dataset has a comment."""
    for table in find(name, NO_CONFIG).tables:
        assert table.comment
        assert [column.name for column in table.columns if not column.comment] == []


@pytest.mark.parametrize("name", generate.DATASETS)
def test_generated_records_fit_their_dataset(connection: Connection, name: str) -> None:
    """No generated record is refused, and every column gets a value from some of them."""
    dataset, records = find(name, NO_CONFIG), _generated(name, 2000)
    _load(connection, dataset, records)
    assert len(_stored(connection, name, dataset.key[0])) == len(records)
    for table in dataset.tables:
        counts = sql.SQL(", ").join(
            sql.SQL("count({})").format(sql.Identifier(column.name)) for column in table.columns
        )
        row = connection.execute(sql.SQL("select {} from {}").format(counts, table.identifier)).fetchone()
        assert row is not None
        filled = dict(zip([column.name for column in table.columns], row, strict=True))
        assert [column for column, number in filled.items() if not number] == []


def test_a_shipment_is_loaded_completely(connection: Connection) -> None:
    """Every member of a shipment and of its items is stored in a column with its value."""
    record: Record = {
        "shipment_id": "SHP-1",
        "order_id": "ORD-1",
        "log_id": "LOG-1",
        "carrier": "O'Malley & Sons",
        "service_level": "express",
        "status": "delivered",
        "origin": {"country": "PL", "city": "Łódź", "warehouse": "LDZ-1"},
        "destination": {"country": "JP", "city": "東京", "postal_code": "100-0001"},
        "created_at": "2026-03-01T10:00:00+01:00",
        "picked_up_at": "2026-03-01T12:00:00Z",
        "promised_at": "2026-03-05T18:00:00Z",
        "delivered_at": "2026-03-05T17:00:00Z",
        "updated_at": "2026-03-05T17:00:01Z",
        "weight_kg": Decimal("12.345"),
        "volume_m3": Decimal("0.0001"),
        "declared_value": {"amount": Decimal("99.90"), "currency": "PLN"},
        "freight_cost": Decimal("7.05"),
        "claim": {"amount": Decimal("9.5"), "claimed_at": "2026-03-09T10:00:00Z"},
        "pieces": 2,
        "ordered_quantity": Decimal("3.5"),
        "delivered_quantity": Decimal("3.25"),
        "note": 'tab\there, "quoted"\n',
        "items": [
            {"sku": "SKU-1", "description": "緑茶セット", "quantity": 3, "weight_kg": Decimal("1.5")},
            {"sku": "SKU-2"},
        ],
    }
    _load(connection, find("shipments", NO_CONFIG), [record])
    nested = ("origin", "destination", "declared_value", "claim", "items")
    expected = {name: value for name, value in record.items() if name not in nested}
    expected |= {name: datetime.fromisoformat(text) for name, text in expected.items() if name.endswith("_at")}
    expected |= {
        "origin_country": "PL",
        "origin_city": "Łódź",
        "origin_warehouse": "LDZ-1",
        "destination_country": "JP",
        "destination_city": "東京",
        "destination_postal_code": "100-0001",
        "declared_amount": Decimal("99.90"),
        "declared_currency": "PLN",
        "claimed_amount": Decimal("9.5"),
        "claimed_at": datetime(2026, 3, 9, 10, tzinfo=UTC),
    }
    assert _stored(connection, "shipments", "shipment_id") == [expected]
    assert _stored(connection, "shipment_items", "line_no") == [
        {"shipment_id": "SHP-1", "line_no": 1, **record["items"][0]},
        {
            "shipment_id": "SHP-1",
            "line_no": 2,
            "sku": "SKU-2",
            "description": None,
            "quantity": None,
            "weight_kg": None,
        },
    ]


def _day_or_note(text: str) -> tuple[date | None, str | None]:
    return (None, text) if text.strip("0123456789-") else (date.fromisoformat(text), None)


def _number_or_note(value: Any) -> tuple[Any, str | None]:
    return (None, value) if isinstance(value, str) else (value, None)


def _expected_scms_line(shipment_id: str, line_no: int, line: Record) -> Record:
    expected = {"shipment_id": shipment_id, "line_no": line_no}
    expected |= {name: line[name] for name in ("line_id", "po_so", "quantity", "value_usd", "insurance_usd")}
    expected |= {"pack_price_usd": line["pack_price"], "unit_price_usd": line["unit_price"]}
    expected |= {"is_first_line": line["first_line"]}
    for name in ("pq_sent", "po_sent", "scheduled", "delivered", "recorded"):
        expected[f"{name}_on"], expected[f"{name}_note"] = _day_or_note(line["dates"][name])
    expected["weight_kg"], expected["weight_note"] = _number_or_note(line["weight_kg"])
    expected["freight_usd"], expected["freight_note"] = _number_or_note(line["freight_usd"])
    product = line["product"]
    expected |= {f"product_{name}": product[name] for name in ("group", "class", "description")}
    expected |= {name: product[name] for name in ("molecule", "brand", "dosage", "units_per_pack")}
    return expected | {"dosage_form": product["form"], "manufacturing_site": product["site"]}


@needs_real_data
def test_the_scms_shipments_are_loaded_completely(connection: Connection) -> None:
    """Each number and date is stored as one, a text in its place is stored in the note column; nothing is refused."""
    with gzip.open(REAL_DATA / "scms_shipments.json.gz") as file:
        records: list[Record] = json.loads(file.read(), parse_float=Decimal)
    _load(connection, find("scms_shipments", NO_CONFIG), records)
    records.sort(key=lambda record: str(record["shipment_id"]))
    stored = _stored(connection, "scms_shipments", "shipment_id")
    expected = [
        {name: value for name, value in record.items() if name not in ("vendor", "lines")}
        | {f"vendor_{name}": value for name, value in record["vendor"].items()}
        for record in records
    ]
    assert len(stored) == 7030
    assert stored == sorted(expected, key=lambda record: str(record["shipment_id"]))
    lines = [
        _expected_scms_line(record["shipment_id"], line_no, line)
        for record in records
        for line_no, line in enumerate(record["lines"], 1)
    ]
    assert len(lines) == 10_324
    assert _stored(connection, "scms_lines", "shipment_id line_no") == lines


@needs_real_data
def test_the_flight_legs_are_loaded_completely(connection: Connection) -> None:
    """Each leg is stored with its instants across both clock changes, also without vehicle or arrival."""
    with gzip.open(REAL_DATA / "flight_legs.ndjson.gz") as file:
        records: list[Record] = [json.loads(line, parse_float=Decimal) for line in file]
    _load(connection, find("flight_legs", NO_CONFIG), records)
    expected = []
    for record in records:
        vehicle = record["vehicle"] or dict.fromkeys(("tail", "maker", "model", "year", "seats"))
        left, delays = record["departed_at"], record["delays_min"]
        names_kept = ("leg_id", "carrier", "origin", "destination", "scheduled_arrival_hhmm", "arrival_hhmm")
        expected.append(
            {name: record[name] for name in (*names_kept, "air_time_min", "distance_miles")}
            | {f"vehicle_{name}": value for name, value in vehicle.items()}
            | {
                "flight_number": record["number"],
                "scheduled_departure_at": datetime.fromisoformat(record["scheduled_departure"]),
                "departed_at": left and datetime.fromisoformat(left),
                "departure_delay_min": delays["departure"],
                "arrival_delay_min": delays["arrival"],
            }
        )
    assert len(expected) == 60_000
    assert _stored(connection, "flight_legs", "leg_id") == expected
