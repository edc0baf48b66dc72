"""The sample data: reproducible, coherent, spoiled as requested, and generated in constant memory."""

import io
import itertools
import json
import re
import tomllib
import tracemalloc
from collections import Counter, defaultdict
from collections.abc import Iterator
from datetime import date, datetime, timedelta
from decimal import Decimal
from hashlib import sha256
from typing import Any, BinaryIO, cast

import pytest

from etl.errors import UsageError
from etl.generate import DATASETS, FAULTS, GenerateResult, Sizes, faults, generate
from etl.settings import shipped

Record = dict[str, Any]
KEYS = {
    "shipments": "shipment_id",
    "tracking_events": "event_id",
    "vehicle_logs": "log_id",
    "vehicles": "vehicle_id",
}
NOW = datetime.fromisoformat("2026-01-01T00:00:00Z")
CODES = {  # the status of a shipment after an event
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


def made(dataset: str, records: int, **options: Any) -> tuple[bytes, GenerateResult]:
    """Generate records in memory."""
    output = io.BytesIO()
    generated = generate(dataset, records=records, output=output, **options)
    return output.getvalue(), generated


def parsed(dataset: str, records: int, **options: Any) -> list[Record]:
    """Generate and decode records, with decimals as they are written."""
    written, _ = made(dataset, records, format="ndjson", **options)
    return [json.loads(line, parse_float=Decimal) for line in written.splitlines()]


@pytest.fixture(scope="module")
def shipments() -> list[Record]:
    """Give the first 20,000 shipments of seed 1."""
    return parsed("shipments", 20_000)


@pytest.mark.parametrize("dataset", DATASETS)
@pytest.mark.parametrize("records", [1, 1203])
def test_both_formats_hold_the_same_records(dataset: str, records: int) -> None:
    """An array and an NDJSON file are valid UTF-8 JSON with the same records, one in each line."""
    array, generated = made(dataset, records, format="array", bad=0.1)
    ndjson, _ = made(dataset, records, format="ndjson", bad=0.1)
    lines = ndjson.decode().splitlines()
    assert generated.records == len(lines) == records
    assert array.decode() == "[\n" + ",\n".join(lines) + "\n]\n"
    assert json.loads(array) == [json.loads(line) for line in lines]


def test_no_records() -> None:
    """Zero records are an empty array, or an empty NDJSON file."""
    assert made("shipments", 0, format="array")[0] == b"[]\n"
    assert made("shipments", 0, format="ndjson")[0] == b""


@pytest.mark.parametrize("dataset", DATASETS)
def test_a_seed_gives_the_same_bytes(dataset: str) -> None:
    """The same arguments give the same bytes, another seed gives others."""
    assert made(dataset, 700, seed=7, bad=0.2) == made(dataset, 700, seed=7, bad=0.2)
    assert made(dataset, 700, seed=7)[0] != made(dataset, 700, seed=8)[0]


@pytest.mark.parametrize(
    ("dataset", "digest"),
    [
        ("shipments", "d7109bf11cb8cd2a"),
        ("tracking_events", "e8eef1ce7a23864c"),
        ("vehicle_logs", "abc4eb0f0d248030"),
        ("vehicles", "022f28e8746b0154"),
    ],
)
def test_bytes_do_not_depend_on_the_machine(dataset: str, digest: str) -> None:
    """The bytes of seed 1 are fixed: a version of Python that generates others fails here."""
    assert sha256(made(dataset, 3000, seed=1, bad=0.1)[0]).hexdigest()[:16] == digest


@pytest.mark.parametrize("dataset", DATASETS)
def test_a_file_can_continue_after_another(dataset: str) -> None:
    """The records from number `first` on are the same as in one long file."""
    whole = made(dataset, 1500, format="ndjson")[0]
    parts = [made(dataset, 750, format="ndjson", first=first)[0] for first in (1, 751)]
    assert b"".join(parts) == whole


@pytest.mark.parametrize("dataset", DATASETS)
def test_keys_are_unique(dataset: str) -> None:
    """No two unspoiled records have the same key, also when the journeys of shipments are used again."""
    records = parsed(dataset, 2000, sizes=Sizes(shipments=100))
    assert len({record[KEYS[dataset]] for record in records}) == 2000


def test_dates_fit_each_other_and_the_status(shipments: list[Record]) -> None:
    """All dates are in order and not after the export, and a date is present exactly if the status requires it."""
    for record in shipments:
        at = {name: datetime.fromisoformat(record[name]) for name in record if name.endswith("_at") and record[name]}
        assert at["created_at"] < at["promised_at"]
        story = [at[name] for name in ("created_at", "picked_up_at", "delivered_at", "updated_at") if name in at]
        assert story == sorted(story), record
        assert story[-1] < NOW
        assert ("delivered_at" in at) == (record["status"] == "delivered")
        assert ("picked_up_at" not in at) == (record["status"] in ("created", "cancelled"))
        assert "picked_up_at" in at or record.get("log_id") is None
    counts = Counter(record["status"] for record in shipments)
    assert set(counts) == {*CODES.values(), "created", "cancelled"}
    assert counts["delivered"] > 0.9 * len(shipments)


def test_dates_cover_two_years(shipments: list[Record]) -> None:
    """Shipments are created on all but a few of 731 days, fewer of them on Sundays."""
    days = Counter(datetime.fromisoformat(record["created_at"]).date() for record in shipments)
    assert min(days) <= date(2024, 1, 3)
    assert max(days) >= date(2025, 12, 29)
    assert len(days) > 720
    weekdays = Counter[int]()
    for day, count in days.items():
        weekdays[day.weekday()] += count
    assert weekdays[6] * 3 < weekdays[0]


def test_some_deliveries_are_late_and_carriers_differ(shipments: list[Record]) -> None:
    """The carriers' shares of deliveries on time are between 70 and 99 %, with 15 points or more between them."""
    on_time = defaultdict[str, list[bool]](list)
    for record in shipments:
        if record["delivered_at"]:
            on_time[record["carrier"]].append(record["delivered_at"] <= record["promised_at"])
    shares = [sum(hits) / len(hits) for hits in on_time.values()]
    assert len(shares) == 6
    assert 0.7 < min(shares) < max(shares) - 0.15 < 0.84


def test_promises_follow_the_service_level(shipments: list[Record]) -> None:
    """Within one country express is promised soonest and economy latest, and express costs most per kg."""
    days, cents = defaultdict[str, list[float]](list), defaultdict[str, list[float]](list)
    for record in shipments:
        if record["origin"]["country"] == record["destination"]["country"]:
            created, promised = (datetime.fromisoformat(record[name]) for name in ("created_at", "promised_at"))
            days[record["service_level"]].append((promised - created).total_seconds() / 86_400)
            cents[record["service_level"]].append(float(record["freight_cost"] / record["weight_kg"]))
    assert max(days["express"]) < min(days["standard"])
    assert max(days["standard"]) < min(days["economy"])
    mean = {name: sum(values) / len(values) for name, values in cents.items()}
    assert mean["express"] > mean["standard"] > mean["economy"]


def test_shipments_have_the_shape_of_the_dataset(shipments: list[Record]) -> None:
    """A record has exactly the documented members, 1 to 5 items (3 on average), and weighs more than they."""
    members = {
        *("shipment_id", "order_id", "log_id", "carrier", "service_level", "status", "origin", "destination"),
        *(
            "created_at",
            "picked_up_at",
            "promised_at",
            "delivered_at",
            "updated_at",
            "weight_kg",
            "volume_m3",
        ),
        *("declared_value", "freight_cost", "pieces", "ordered_quantity", "delivered_quantity", "note", "items"),
    }
    for record in shipments:
        assert record.keys() | {"log_id"} == members | record.keys() & {"claim"}
        assert record["origin"].keys() == {"country", "city", "warehouse"}
        assert record["destination"].keys() == {"country", "city", "postal_code"}
        assert record["declared_value"] is None or record["declared_value"].keys() == {"amount", "currency"}
        assert {len(item) for item in record["items"]} == {4}
        assert sum(item["weight_kg"] for item in record["items"]) < record["weight_kg"]
        assert 1 <= record["pieces"] <= sum(item["quantity"] for item in record["items"])
    counts = Counter(len(record["items"]) for record in shipments)
    assert set(counts) == {1, 2, 3, 4, 5}
    assert 2.8 < sum(number * count for number, count in counts.items()) / len(shipments) < 3.2


def test_texts_have_difficult_characters(shipments: list[Record]) -> None:
    """Notes have quotes, tabs, line ends, backslashes, emoji or nothing; cities have letters of many scripts."""
    notes = [record["note"] for record in shipments]
    assert 0.5 < notes.count(None) / len(notes) < 0.75
    texts = "".join(note for note in notes if note)
    assert all(sign in texts for sign in ['"', "\t", "\n", "\r", "\\", "\\N", "🚚", "'"])
    assert "" in notes
    cities = {record["destination"]["city"] for record in shipments}
    assert {"São Paulo", "Łódź", "東京", "Zürich", "София", "دبي"} <= cities
    for record in shipments:
        assert re.fullmatch("[A-Z]{2}", record["destination"]["country"])
    log_ids = [record.get("log_id", "absent") for record in shipments]
    assert 0.05 < log_ids.count("absent") / len(log_ids) < 0.2
    assert 0.05 < log_ids.count(None) / len(log_ids) < 0.2


def test_a_shipment_is_about_950_bytes() -> None:
    """A shipment with its items is some 950 bytes on average, some 650 without them."""
    lines = made("shipments", 5000, format="ndjson")[0].splitlines()
    items = [line[line.index(b'"items":') :] for line in lines]
    size, size_items = (sum(map(len, texts)) / len(lines) for texts in (lines, items))
    assert 900 < size < 1000
    assert 610 < size - size_items < 690


def test_in_one_delivery_of_thirty_units_are_missing(shipments: list[Record]) -> None:
    """A delivery has at most what was ordered, of one in some thirty less; nothing else has a delivered quantity."""
    delivered = [record for record in shipments if record["status"] == "delivered"]
    short = [record for record in delivered if record["delivered_quantity"] < record["ordered_quantity"]]
    assert all(0 < record["delivered_quantity"] <= record["ordered_quantity"] for record in delivered)
    assert 0.02 < len(short) / len(delivered) < 0.05
    for record in shipments:
        assert record["ordered_quantity"] == sum(item["quantity"] for item in record["items"])
        assert (record["delivered_quantity"] is None) == (record["status"] != "delivered")


def test_shipments_name_existing_trips_of_their_day(shipments: list[Record]) -> None:
    """A log_id is one of the logs generated by default, and its trip is on the day of the pickup."""
    logs = {record["log_id"]: record for record in parsed("vehicle_logs", 50_000)}
    carried = [record for record in shipments if record.get("log_id")]
    assert len(carried) > 0.7 * len(shipments)
    for record in carried:
        assert logs[record["log_id"]]["trip_date"] == record["picked_up_at"][:10]


def test_trips_name_existing_vehicles() -> None:
    """Every trip names one of the vehicles, no vehicle has two trips a day, and no cargo bike burns fuel."""
    kinds = {record["vehicle_id"]: record["vehicle_type"] for record in parsed("vehicles", 500)}
    logs = parsed("vehicle_logs", 50_000)
    assert {record["vehicle_id"] for record in logs} == kinds.keys()
    assert len({(record["vehicle_id"], record["trip_date"]) for record in logs}) == len(logs)
    for record in logs:
        litres, bike = record["fuel_l"], kinds[record["vehicle_id"]] == "cargo_bike"
        assert litres is None or (litres == 0 if bike else litres > 0)


SMALL = Sizes(shipments=4000, vehicle_logs=1000, vehicles=50)  # in the proportions of the default


@pytest.mark.parametrize("seed", [1, 6])
def test_every_vehicle_is_well_filled_and_none_is_overloaded(seed: int) -> None:
    """The shipments of each trip weigh 40 to 95 % of what its vehicle carries, also in a second lap of numbers."""
    capacities = {record["vehicle_id"]: record["capacity_kg"] for record in parsed("vehicles", 50, sizes=SMALL)}
    trips = {record["log_id"]: record for record in parsed("vehicle_logs", 2000, seed=seed, sizes=SMALL)}
    loads = defaultdict[str, list[Decimal]](list)
    for record in parsed("shipments", 8000, seed=seed, sizes=SMALL):
        if record.get("log_id"):
            loads[record["log_id"]].append(record["weight_kg"])
            assert record["status"] != "cancelled"
    assert loads.keys() == trips.keys()
    for log, weights in loads.items():
        assert len(weights) == 3
        assert Decimal("0.4") < sum(weights) / capacities[trips[log]["vehicle_id"]] < Decimal("0.95")


def test_part_of_a_trip_is_empty() -> None:
    """A known distance has an empty part, which is shorter."""
    for record in parsed("vehicle_logs", 2000):
        whole, empty = record["distance_km"], record["empty_km"]
        assert (whole is None) == (empty is None)
        assert whole is None or 0 <= empty <= whole * Decimal("0.35")


def test_late_shipments_end_within_a_month() -> None:
    """Of the open shipments that are late at the export, 95 % are so for less than 30 days, and each exception ends."""
    late, excepted = list[float](), 0
    for record in parsed("shipments", 30_000):
        if record["status"] in ("delivered", "returned", "lost", "cancelled"):
            continue
        hours = (NOW - datetime.fromisoformat(record["promised_at"])).total_seconds() / 3600
        late += [hours / 24] if hours > 0 else []
        if record["status"] == "exception":
            excepted += 1
            assert NOW - datetime.fromisoformat(record["updated_at"]) < timedelta(days=30)
    assert len(late) > 10
    assert excepted > 5
    assert sum(days < 30 for days in late) >= 0.95 * len(late)


def test_lost_and_damaged_goods_are_claimed(shipments: list[Record]) -> None:
    """A claim is of a shipment that was given up, after that, and not above its declared value."""
    claims = [record for record in shipments if "claim" in record]
    assert 0.001 < len(claims) / len(shipments) < 0.02
    assert {record["status"] for record in claims} == {"returned", "lost"}
    for record in claims:
        assert record["claim"].keys() == {"amount", "claimed_at"}
        assert 0 < record["claim"]["amount"] <= record["declared_value"]["amount"]
        assert record["updated_at"] < record["claim"]["claimed_at"] < f"{NOW:%Y-%m-%dT%H:%M:%SZ}"


def test_a_smaller_network_fits_too() -> None:
    """With other sizes, no dataset names a record beyond them."""
    sizes = Sizes(shipments=300, vehicle_logs=40, vehicles=3)
    options = {"seed": 5, "sizes": sizes}
    vehicles = {record["vehicle_id"] for record in parsed("vehicles", 3, **options)}
    logs = parsed("vehicle_logs", 40, **options)
    journeys = parsed("shipments", 300, **options)
    events = parsed("tracking_events", 4000, **options)
    assert {record["vehicle_id"] for record in [*logs, *events] if record["vehicle_id"]} == vehicles
    named = {record.get("log_id") for record in journeys} - {None}
    assert named
    assert named <= {record["log_id"] for record in logs}
    assert {record["shipment_id"] for record in events} < {record["shipment_id"] for record in journeys}


def test_events_match_the_journey_of_their_shipment(shipments: list[Record]) -> None:
    """The events of a shipment are in order, and match its status, dates, places and trip."""
    vehicles = {record["log_id"]: record["vehicle_id"] for record in parsed("vehicle_logs", 50_000)}
    events = parsed("tracking_events", 20_000)
    journeys = {key: list(group) for key, group in itertools.groupby(events, lambda event: event["shipment_id"])}
    journeys.popitem()  # may be cut by the number of records
    compared = 0
    for shipment in shipments[: len(journeys)]:
        journey = journeys.get(shipment["shipment_id"], [])
        if not journey:
            assert shipment["status"] in ("created", "cancelled")
            continue
        compared += 1
        order = list(CODES)
        codes = [event["event_code"] for event in journey]
        assert [code for code in codes if code != "EXCEPTION"] == sorted(set(codes) - {"EXCEPTION"}, key=order.index)
        assert CODES[codes[-1]] == shipment["status"]
        assert journey[0]["occurred_at"] == shipment["picked_up_at"]
        assert shipment["delivered_at"] in (None, journey[-1]["occurred_at"])
        assert journey[-1]["occurred_at"] <= shipment["updated_at"]
        assert journey[0]["location"]["city"] == shipment["origin"]["city"]
        assert codes[-1] != "DELIVERED" or journey[-1]["location"]["city"] == shipment["destination"]["city"]
        assert journey[0]["vehicle_id"] == vehicles.get(shipment.get("log_id"))
        times = [event["occurred_at"] for event in journey]
        assert times == sorted(times)
        for event in journey:
            assert (event["exception_code"] is not None) == (event["event_code"] == "EXCEPTION")
            assert event["occurred_at"] < event["recorded_at"] or event["recorded_at"] == f"{NOW:%Y-%m-%dT%H:%M:%SZ}"
    assert compared > 3000
    assert {event["exception_code"] for event in events} == {
        *(None, "ADDRESS_UNKNOWN", "CUSTOMS_HOLD", "DAMAGED", "WEATHER")
    }


def columns(dataset: str) -> list[tuple[str | None, list[str], Record]]:
    """Give (array of the child table, path, options) of each column."""
    definition = tomllib.loads((shipped("config") / "datasets" / f"{dataset}.toml").read_text("utf-8"))
    found = []
    for table in definition["table"]:
        for name, options in table["columns"].items():
            column = {"type": options} if isinstance(options, str) else options
            path = column.get("path", name)
            if path[0] not in "^#":
                found.append((table.get("each"), path.split("."), column))
    return found


def values(record: Record, each: str | None, path: list[str]) -> Iterator[Any]:
    """Give the values of a column in a record and its child rows; ... for an absent member."""
    for holder in record[each] if each else [record]:
        value: Any = holder
        for step in path:
            value = value if value is ... else value.get(step, ...) if value else None
        yield value


def misfit(value: Any, column: Record) -> str | None:  # noqa: PLR0911 - one line a fault
    """Return the fault for which a column refuses a value."""
    kind = column["type"]
    if value is ... or value is None:
        if not column.get("required"):
            return None
        return "missing_required" if value is ... else "null_key"
    if kind == "text":
        if isinstance(value, list):
            return "array_for_text"
        if "\0" in value:
            return "nul_in_text"
        return "text_over_length" if len(value) > column["max_length"] else None
    if kind in ("date", "timestamptz"):
        pattern = r"\d{4}-(0\d|1[0-2])-\d\d" + ("" if kind == "date" else r"T\d\d:\d\d:\d\dZ")
        return None if re.fullmatch(pattern, value) else "bad_date"
    if isinstance(value, str):
        return "wrong_type"
    if value >= (2**31 if kind == "integer" else Decimal("1e131072")):
        return "number_too_large"
    negative = value < column.get("min", value) or ("above" in column and value <= column["above"])
    return "negative_weight" if negative else None


def found_faults(dataset: str, records: list[Record]) -> Counter[str]:
    """Judge records by the definition; a known key counts as a duplicate only in a newer version."""
    known, found = dict[str, Record](), Counter[str]()
    table = columns(dataset)
    newest = {"shipments": "updated_at", "tracking_events": "recorded_at"}.get(dataset)
    for record in records:
        misfits = [
            fault
            for each, path, column in table
            for value in values(record, each, path)
            if (fault := misfit(value, column))
        ]
        assert len(misfits) <= 1, (record, misfits)
        found.update(misfits)
        key = record.get(KEYS[dataset])
        if key in known:
            assert record != known[key]
            assert newest is None or record[newest] > known[key][newest]
            found["duplicate_key"] += 1
        if key and not misfits:
            known[key] = record
    assert len(known) == len(records) - sum(found.values())
    return found


@pytest.mark.parametrize("dataset", DATASETS)
def test_unspoiled_records_fit_the_definition(dataset: str) -> None:
    """Without `bad`, all records fit the shipped definition of their dataset."""
    assert not found_faults(dataset, parsed(dataset, 4000))


@pytest.mark.parametrize("dataset", DATASETS)
@pytest.mark.parametrize("bad", [0.02, 0.3])
def test_each_fault_spoils_as_its_name_says(dataset: str, bad: float) -> None:
    """The requested share is spoiled, in equal parts, so that the definition refuses each record as named.

    A duplicate is a later version of an earlier unspoiled record, so that a merge keeps all unspoiled keys.
    """
    written, generated = made(dataset, 8000, bad=bad, seed=3)
    found = found_faults(dataset, json.loads(written, parse_float=Decimal))
    assert found == generated.bad
    assert sum(found.values()) == pytest.approx(8000 * bad, rel=0.15)
    assert max(found.values()) - min(found.values()) <= 1
    assert tuple(generated.bad) == faults(dataset)


def test_faults_that_make_no_sense_are_left_out() -> None:
    """Shipments and trips can have every fault, events no fault of a number, vehicles no fault of a date."""
    assert len(FAULTS) == len(set(FAULTS)) == 10
    assert faults("shipments") == faults("vehicle_logs") == FAULTS
    in_numbers = {"wrong_type", "negative_weight", "number_too_large"}
    assert faults("tracking_events") == tuple(name for name in FAULTS if name not in in_numbers)
    assert faults("vehicles") == tuple(name for name in FAULTS if name != "bad_date")


def test_all_records_can_be_spoiled() -> None:
    """With `bad` 1 every record is spoiled; no record is a duplicate, because no good record precedes it."""
    _, generated = made("shipments", 900, bad=1.0)
    assert sum(generated.bad.values()) == 900
    assert generated.bad["duplicate_key"] == 0
    assert min(count for fault, count in generated.bad.items() if fault != "duplicate_key") == 100


class Sink(io.RawIOBase):
    """Counts the bytes of the largest write, and stores nothing."""

    largest = 0

    def write(self, data: Any) -> int:
        """Note the size."""
        self.largest = max(self.largest, len(data))
        return len(data)


def peak(dataset: str, records: int, bad: float) -> int:
    """Return the peak memory of a generation, in bytes."""
    tracemalloc.start()
    try:
        generate(dataset, records=records, output=cast("BinaryIO", Sink()), bad=bad)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("dataset", "records", "bad"),
    [
        ("shipments", 1000, 0.0),
        ("tracking_events", 1000, 0.0),
        pytest.param("vehicles", 9000, 0.05, marks=pytest.mark.slow),
    ],
)
def test_memory_is_constant(dataset: str, records: int, bad: float) -> None:
    """Three times the records, or more, need no more memory, also with records that are kept for duplicates."""
    assert peak(dataset, records * 3, bad) < peak(dataset, records, bad) * 1.15


def test_writes_are_bounded() -> None:
    """No write is larger than a block of records, for any number of records."""
    sinks = [Sink(), Sink()]
    for sink, records in zip(sinks, (5000, 40_000), strict=True):
        generate("shipments", records=records, output=cast("BinaryIO", sink))
    assert sinks[1].largest < 1.1 * sinks[0].largest < 600_000


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dataset": "ships"}, "shipments, tracking_events, vehicle_logs, vehicles, got ships"),
        ({"format": "csv"}, "array or ndjson, got csv"),
        ({"bad": 1.5}, "from 0 to 1, got 1.5"),
        ({"bad": -0.1}, "from 0 to 1, got -0.1"),
        ({"bad": float("nan")}, "from 0 to 1, got nan"),
        ({"records": -1}, "records >= 0"),
        ({"first": 0}, "first and sizes >= 1"),
        ({"sizes": Sizes(vehicles=0)}, "vehicles=0"),
    ],
)
def test_wrong_arguments_are_wrong_usage(options: dict[str, Any], message: str) -> None:
    """An argument out of its range is a UsageError with the expected range, and nothing is written."""
    output = io.BytesIO()
    with pytest.raises(UsageError, match=re.escape(message)):
        generate(**{"dataset": "shipments", "records": 10, "output": output, **options})
    assert not output.getvalue()
