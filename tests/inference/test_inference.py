import gzip
import json
import random
import tomllib
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from etl.datasets import TYPES, Dataset, Type, find, read
from etl.errors import UsageError
from etl.inference import Proposal, infer, observing
from etl.inference.finding import find_records
from etl.inference.identifiers import RESERVED, Names, snake_case
from etl.ingestion.values import Source
from tests.support.checkout import REAL_DATA, needs_real_data
from tests.support.faults import Connection
from tests.support.proposals import assert_values_came_back
from tests.support.site import Site

Record = dict[str, Any]


@pytest.fixture
def alone(tmp_path: Path) -> Site:
    """Give a folder for commands that need no database."""
    return Site("postgresql://nobody@127.0.0.1:1/nowhere", tmp_path)


def proposed(folder: Path, content: str | list[Record], **how: Any) -> tuple[Dataset, Proposal]:
    """Return the proposed definition of this content, as read from its file, and the proposal."""
    path = folder / "feed.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    how = {"name": "feed", "records": None, "sample": None, "used_names": frozenset()} | how
    proposal = infer(Source(name=str(path), path=str(path)), **how)
    (folder / f"{how['name']}.toml").write_text(proposal.text, encoding="utf-8")
    return read(folder / f"{how['name']}.toml"), proposal


def line_of(folder: Path, values: list[Any], name: str = "x") -> Any:
    """Return the entry of the definition for a member with these values: its type, or a table of options."""
    _, proposal = proposed(folder, [{name: value} for value in values])
    [table] = tomllib.loads(proposal.text)["table"]
    return next(iter(table["columns"].values()))


@pytest.mark.parametrize("name", TYPES)
def test_the_table_of_types_decides_what_is_proposed(tmp_path: Path, name: Type) -> None:
    """Some example of an inferable type leads to it; a type that is not inferable is never proposed."""
    types = set()
    for example in TYPES[name].examples:
        dataset, _ = proposed(tmp_path, f'[{{"x": {example}}}]')
        types |= {column.type for column in dataset.tables[0].columns}
    assert (name in types) == TYPES[name].is_inferred


@pytest.mark.parametrize(
    ("content", "records"),
    [
        ('[{"a": 1}]', "item"),
        ('\ufeff  {"a": 1}\n{"a": 2}', "item"),
        ('{"a": 1}{"a": [{"b": 1}]}', "item"),
        ('{"a": 1, "b": {"c": 2}}', "item"),
        ('{"meta": {"page": 1}, "data": {"shipments": [{"id": 1, "w": 2}, {"id": 2, "w": 2}]}}', "data.shipments.item"),
        ('{"codes": [1, 2, 3], "shipments": [{"id": 1, "items": [{"a": 1}, {"a": 2}]}]}', "shipments.item"),
        ('{"few": [{"a": 1}], "many": [{"a": 1, "b": 2}, {"a": 1, "b": 2}]}', "many.item"),
        ('{"next": null, "shipments": [{"id": 1}, {"id": 2}, {"i', "shipments.item"),
        ('{"S1": {"id": 1, "w": 1}, "S2": {"id": 2, "w": 1}, "S3": {"id": 3, "w": 2, "lines": [{"a": 1}]}}', "*"),
        ('{"at": 1, "shipments": {"S1": {"w": 1}, "S2": {"w": 1}, "S3": {"w": 2}, "S4', "shipments.*"),
        ('{"id": 1, "from": {"city": "A"}, "to": {"city": "B"}}', "item"),
        ('{"": [{"a": 1}]}', "item"),
    ],
)
def test_the_records_of_a_source_are_found(content: str, records: str) -> None:
    """The path of the records is found by the beginning of the source, whole or cut."""
    assert find_records(content.encode()).path == records


def test_a_document_without_visible_records_needs_their_path() -> None:
    """If the beginning of a large document has no array of objects, the path has to be given."""
    with pytest.raises(UsageError, match="found none") as raised:
        find_records(b'{"numbers": [1, 2, 3')
    assert "--records" in (raised.value.hint or "")


@pytest.mark.parametrize(
    ("words", "name"),
    [
        (["origin", "city"], "origin_city"),
        (["eventTimeZoneOffset"], "event_time_zone_offset"),
        (["EPCList"], "epc_list"),
        (["@context"], "context"),
        (["cbv:bizStep"], "cbv_biz_step"),
        (["Straße Nr."], "strasse_nr"),
        (["Größe"], "grosse"),
        (["Køretøj"], "koretoj"),
        (["Przesyłka", "Łódź"], "przesylka_lodz"),
        (["Дата"], "data"),
        (["childEPCs"], "child_epcs"),
        (["customerIDsOf"], "customer_ids_of"),
        (["№", "%"], "no_percent"),
        (["order"], "order_"),
        (["to"], "to_"),
        (["to", "city"], "to_city"),
        (["2026"], "n2026"),
        (["数量"], "数量"),
        (["हिन्दी नाम"], "हिन्दी_नाम"),
        ([""], "member"),
        (["transportPlan", "shipmentLocationAddress", "locationName"], "shipment_location_address_location_name"),
    ],
)
def test_a_column_has_a_short_name_in_small_letters(words: list[str], name: str) -> None:
    """Names are small letters, digits and _; words of SQL get a _ after them. The first words of a long name go."""
    assert snake_case(words) == name


def test_names_differ_and_fit(connection: Connection) -> None:
    """A used name gets a number, a long word is cut, and every reserved word of the server is known."""
    names = Names({"city"})
    assert [names.new(["city"]), names.new(["City"]), names.new(["etl_run"])] == ["city_2", "city_3", "etl_run_2"]
    long = [names.new([word * 40]) for word in ("ab", "ab", "abc", "重")]
    assert [len(name) for name in long] == [40, 40, 40, 21]
    assert len(set(long)) == 4
    reserved = connection.execute("select word from pg_get_keywords() where catcode in ('R', 'T')").fetchall()
    assert {word for (word,) in reserved} - RESERVED <= {"authorization"}


KINDS: dict[str, tuple[list[Any], Any]] = {
    "whole numbers": ([1, -2, 3], "bigint"),
    "beyond 64 bits": ([1, 2**63], "numeric"),
    "fractions": ([1, 2.5], "numeric"),
    "texts": (["a", "", "1"], "text"),
    "leading zeros": (["007", "12"], "text"),
    "numbers and leading zeros": ([7, "007"], "text"),
    "numbers in quotes": (["7", "12", None], "bigint"),
    "fractions in quotes": (["7.50", 12], "numeric"),
    "a long code": (["123456789012345678", "223456789012345678"], "text"),
    "no value for a number": ([1, 2, "N/A", ""], {"type": "bigint", "null_if": ["", "N/A"]}),
    "NA stays where texts are": (["DE", "NA"], "text"),
    "notes among numbers": ([1, 2, "see DN-3"], {"type": "numeric", "misfits_to": "x_note"}),
    "numbers among notes": ([1, *(f"note {n}" for n in range(20))], "text"),
    "codes with letters": (["12", "A1"], "text"),
    "true and false": ([True, False, None], "boolean"),
    "true in quotes": (["true", "false", "N/A"], {"type": "boolean", "null_if": ["N/A"]}),
    "true and numbers": ([True, 2], "text"),
    "true and 0": ([True, 0, 1], {"type": "boolean", "true": [1], "false": [0]}),
    "words for true and false": (["Y", "N"], {"type": "boolean", "true": ["Y"], "false": ["N"]}),
    "words of two kinds": (
        ["TRUE", "nein", ""],
        {"type": "boolean", "null_if": [""], "true": ["TRUE"], "false": ["nein"]},
    ),
    "one word only": (["Y", "Y"], "text"),
    "false for no number": ([12.5, False], {"type": "numeric", "null_if": [False]}),
    "false for no text": (["a", False], {"type": "text", "null_if": [False]}),
    "an empty array for no number": ([12.5, []], {"type": "numeric", "null_if": [[]]}),
    "decimal commas": (["12,5", "1.234,50"], {"type": "numeric", "decimal": ","}),
    "groups of digits": (["1,234.50", "7"], {"type": "numeric", "decimal": "."}),
    "commas of either kind": (["1,234"], "text"),
    "JSON in text": (['{"a": 1}', "[2]"], {"type": "jsonb", "json": True}),
    "instants after their weekday": (
        ["Thu, 01 Jan 2026 10:00:00 GMT"],
        {"type": "timestamptz", "formats": ["%a, %d %b %Y %H:%M:%S GMT"], "timezone": "UTC"},
    ),
    "instants without signs": (["20260101T101500Z"], {"type": "timestamptz", "formats": ["%Y%m%dT%H%M%S%z"]}),
    "days without signs": (["20260101", "20260131"], {"type": "date", "formats": ["%Y%m%d"]}),
    "days with slashes": (["2026/01/31 06:55"], {"type": "timestamp", "formats": ["%Y/%m/%d %H:%M"]}),
    "milliseconds of ASP.NET": (["/Date(1351534600660+0000)/"], {"type": "timestamptz", "formats": ["aspnet"]}),
    "MongoDB's numbers": ([{"$numberDecimal": "1.50"}, {"$numberInt": "7"}, 2], {"type": "numeric", "unwrap": "mongo"}),
    "MongoDB's instants": (
        [{"$date": {"$numberLong": "1427144809506"}}, {"$date": "2015-03-23T21:06:49.506Z"}],
        {"type": "timestamptz", "unwrap": "mongo"},
    ),
    "DynamoDB's texts": ([{"S": "a"}, {"NULL": True}], {"type": "text", "unwrap": "dynamodb"}),
    "days": (["2026-11-21", "2024-02-29"], "date"),
    "no days": (["2026-11-21", "2026-02-30x"], {"type": "date", "misfits_to": "x_note"}),
    "days that are mostly one word": (
        ["2026-11-21", "2026-11-22", *["Pre-PQ Process"] * 9],
        {"type": "date", "misfits_to": "x_note"},
    ),
    "instants": (["2026-11-21T08:15:00Z", "2026-11-21 08:15+0530"], "timestamptz"),
    "local times": (["2026-11-21T08:15:00", "2026-11-21 08:15"], "timestamp"),
    "instants and local times": (
        ["2026-11-21T08:15:00Z", "2026-11-21T08:15:00"],
        {"type": "timestamptz", "timezone": "UTC"},
    ),
    "days of one format": (["21.11.2026", "1.2.2026"], {"type": "date", "formats": ["%d.%m.%Y"]}),
    "days first": (["21/11/2026", "1/2/2026"], {"type": "date", "formats": ["%d/%m/%Y"]}),
    "months first": (["11/21/2026", "1/2/2026"], {"type": "date", "formats": ["%m/%d/%Y"]}),
    "days or months first": (["11/10/2026", "1/2/2026"], "text"),
    "two digits of a year": (["2-Jun-06", "14-Nov-06"], {"type": "date", "formats": ["%d-%b-%y"]}),
    "a time behind the day": (["11/21/2026 8:15"], {"type": "timestamp", "formats": ["%m/%d/%Y %H:%M"]}),
    "texts in arrays": ([["a", None], [], None], "text[]"),
    "numbers in arrays": ([[1, 2]], "jsonb"),
    "arrays in arrays": ([[[1]], [["a"]]], "jsonb"),
    "empty arrays": ([[]], "jsonb"),
    "empty objects": ([{}], "jsonb"),
    "objects or texts": ([{"a": 1}, "a"], "jsonb"),
    "objects and numbers in arrays": ([[{"a": 1}, 2]], "jsonb"),
    "nulls": ([None, None], "text"),
}


@pytest.mark.parametrize("name", KINDS)
def test_values_become_a_column(tmp_path: Path, name: str) -> None:
    """The type of a column fits all its values; uncertain columns are text or jsonb."""
    values, expected = KINDS[name]
    assert line_of(tmp_path, values) == expected


@pytest.mark.parametrize(
    ("name", "values", "expected"),
    [
        ("weight_kg", [1, 2], "numeric"),
        ("zipCode", ["12345", "23456"], {"path": "zipCode", "type": "text"}),
        ("created_at", [1795248900, 1795248901], {"type": "timestamptz", "formats": ["epoch"]}),
        ("created_at", [1795248900000], {"type": "timestamptz", "formats": ["epoch_ms"]}),
        ("created_by", [1795248900], "bigint"),
        ("updated", ["1795248900", "1795248901"], {"type": "timestamptz", "formats": ["epoch"]}),
        ("lastSeen", ["1795248900000"], {"path": "lastSeen", "type": "timestamptz", "formats": ["epoch_ms"]}),
        ("due", [20260131], {"type": "date", "formats": ["%Y%m%d"]}),
        ("specVersion", ["1.0"], {"path": "specVersion", "type": "text"}),
        ("a.b", ["x"], {"path": '"a.b"', "type": "text"}),
        ("@type", ["x"], {"path": "@type", "type": "text"}),
        ("@", ["x"], {"path": '"@"', "type": "text"}),
        ("", ["x"], {"path": '""', "type": "text"}),
        ("7", ["x"], {"path": '"7"', "type": "text"}),
        ('say "hi"\n\x7f', ["x"], {"path": r'"say \"hi\"\n\u007f"', "type": "text"}),
    ],
)
def test_a_name_decides_between_possible_types(tmp_path: Path, name: str, values: list[Any], expected: Any) -> None:
    """Measures are numeric, digits of codes are text, seconds are instants only under a name of a time."""
    assert line_of(tmp_path, values, name) == expected


def test_nested_records_become_tables(tmp_path: Path) -> None:
    """Objects become columns, arrays of objects nested child tables, with the key and their positions."""
    records = [
        {
            "shipmentId": f"S{number}",
            "shipment_id": number,
            "from": {"city": "A", "geo": {"lat": 1}},
            "items": [{"sku": "A", "shipmentId": "X", "line_no": 5, "serials": [{"no": 1}]}],
            "stops": {"list": [{"at": "B"}]},
        }
        for number in range(10)
    ]
    used = frozenset({"logistics.shipments_items", "other.shipments"})
    dataset, proposal = proposed(tmp_path, records, name="shipments", used_names=used)
    assert (dataset.mode, dataset.key) == ("merge", ("shipment_id",))
    assert "also unique and never null: shipment_id_2" in proposal.text
    shape = [(t.name, t.each, [(c.name, c.path, c.type) for c in t.columns]) for t in dataset.tables]
    key = ("shipment_id", "text")
    assert shape == [
        (
            "logistics.shipments",
            (),
            [
                ("shipment_id", "shipmentId", "text"),
                ("shipment_id_2", "shipment_id", "bigint"),
                ("from_city", "from.city", "text"),
                ("from_geo_lat", "from.geo.lat", "numeric"),
            ],
        ),
        (
            "logistics.shipments_items_2",
            ("items",),
            [
                (key[0], "^.shipmentId", key[1]),
                ("line_no", "#", "integer"),
                ("sku", "sku", "text"),
                ("shipment_id_2", "shipmentId", "text"),
                ("line_no_2", "line_no", "bigint"),
            ],
        ),
        (
            "logistics.shipments_items_serials",
            ("items", "serials"),
            [
                (key[0], "^.^.shipmentId", key[1]),
                ("items_line_no", "^.#", "integer"),
                ("line_no", "#", "integer"),
                ("no", "no", "bigint"),
            ],
        ),
        (
            "logistics.shipments_stops_list",
            ("stops.list",),
            [(key[0], "^.shipmentId", key[1]), ("line_no", "#", "integer"), ("at", "at", "text")],
        ),
    ]


@pytest.mark.parametrize(
    ("record", "key"),
    [
        (lambda n: {"id": n, "parcel_id": -n}, ("id",)),
        (lambda n: {"other_id": f"a{n}", "parcel_id": f"b{n}"}, ("parcel_id",)),
        (lambda n: {"parcelNo": f"b{n}"}, ("parcel_no",)),
        (lambda n: {"parcel": f"b{n}"}, ("parcel",)),
        (lambda n: {"parcel_id": n // 2}, ()),
        (lambda n: {"parcel_id": n or None}, ()),
        (lambda n: {"parcel_id": n} if n else {}, ()),
        (lambda n: {"parcel_id": n + 0.5}, ()),
        (lambda n: {"order_id": n, "feed_id": n}, ()),
        (lambda n: {"header": {"id": n}, "other": 1}, ()),
        (lambda n: {"trackingNo": f"T{n}"}, ()),
        (lambda n: {"name": f"T{n}"}, ()),
    ],
)
def test_a_unique_column_that_is_named_like_the_record_is_the_key(
    tmp_path: Path, record: Callable[[int], Record], key: tuple[str, ...]
) -> None:
    """The key is `id`, or the id or number of what the dataset is called; without a key rows are appended."""
    dataset, _ = proposed(tmp_path, [record(n) for n in range(200)], name="parcels")
    assert (dataset.key, dataset.mode) == (key, "merge" if key else "append")
    assert [column.name for column in dataset.tables[0].columns if column.required] == list(key)


def test_a_handful_of_records_has_no_key(tmp_path: Path) -> None:
    """What is unique in a few records may come again in the next file; the definition names the candidates."""
    dataset, proposal = proposed(tmp_path, [{"id": n, "shipment_id": n} for n in range(9)])
    assert dataset.key == ()
    assert "Unique and never null: id, shipment_id" in proposal.text


def test_a_comment_after_each_column_has_its_statistics(tmp_path: Path) -> None:
    """The text is reproducible; each comment is one line: counts, ranges, doubtful words and some examples."""
    records: list[Record] = [{"id": -n, "w": 1, "c": None} for n in range(1, 6)]
    records += [
        {"id": n, "w": n / 2, "c": None if n else "N/A", "updated_at": "2026-11-21T08:15:00Z"} for n in range(4)
    ]
    records += [{"id": 5, "w": "see\n\u202e" + "x" * 60, "c": "DE"}]
    _, proposal = proposed(tmp_path, records)
    assert proposed(tmp_path, records)[1].text == proposal.text
    assert "# Proposed from all 10 records" in proposal.text
    assert '# newest_by = "updated_at"' in proposal.text
    assert 'c = "text"  # in 2 of 10; 2 to 3 characters; perhaps null_if = ["N/A"]' in proposal.text
    assert f'others such as "see\\u000a\\u202e{"x" * 35}..."' in proposal.text
    assert "id = " in proposal.text
    assert "# always; -5 to 5" in proposal.text


def test_a_comment_says_what_no_type_has(tmp_path: Path) -> None:
    """Weeks, durations and times of day stay text; the comment says what they are, and what decides a missing zone."""
    records: list[Record] = [
        {"week": f"2026-W0{n}", "lasts": f"PT{n}H", "opens": f"0{n}:30", "at": "2026-01-01T10:00:00" + "Z" * (n % 2)}
        for n in range(1, 5)
    ]
    dataset, proposal = proposed(tmp_path, records)
    assert [column.type for column in dataset.tables[0].columns] == ["text", "text", "text", "timestamptz"]
    for remark in ("weeks of the calendar", "durations of ISO 8601", "times of day", "2 of 4 have no zone"):
        assert remark in proposal.text


def test_changes_of_a_database_are_recognised(tmp_path: Path) -> None:
    """The row of `after` gives the names; a comment says how deleted rows are deleted."""
    records: list[Record] = [
        {"payload": {"before": None, "after": {"id": n}, "op": "c", "ts_ms": 1_700_000_000_000 + n}} for n in range(3)
    ]
    dataset, proposal = proposed(tmp_path, [*records, {"payload": {"before": {"id": 1}, "after": None, "op": "d"}}])
    assert [(c.name, c.path) for c in dataset.tables[0].columns][:2] == [
        ("before_id", "payload.before.id"),
        ("id", "payload.after.id"),
    ]
    assert '`delete_if = { "payload.op" = "d" }`' in proposal.text


def test_memory_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An object with too many members, levels or places stays whole, and the compared values are limited."""
    monkeypatch.setattr(observing, "MAX_MEMBERS", 50)
    monkeypatch.setattr(observing, "MAX_COMPARED", 3)
    deep: Any = 1
    for _ in range(30):
        deep = {"d": deep}
    records = [{"id": n, "deep": deep, "map": {f"k{n}_{m}": 1 for m in range(9)}} for n in range(10)]
    dataset, _ = proposed(tmp_path, records)
    columns = {column.name: column for column in dataset.tables[0].columns}
    assert columns["map"].type == "jsonb"
    assert [c.type for name, c in columns.items() if name.startswith("deep")] == ["jsonb"]
    assert dataset.key == ("id",)  # unique among the compared values
    whole, _ = proposed(tmp_path, [{f"m{n}": n for n in range(60)}])
    assert [(c.name, c.path, c.type) for c in whole.tables[0].columns] == [("record", ".", "jsonb")]


def test_a_map_of_data_stays_whole(tmp_path: Path) -> None:
    """An object with other members in each record becomes one jsonb column, not a wide table."""
    dataset, _ = proposed(tmp_path, [{"id": n, "by_day": {f"2026-01-{n:02}": n}} for n in range(1, 31)])
    assert [(c.name, c.type) for c in dataset.tables[0].columns] == [("id", "bigint"), ("by_day", "jsonb")]


def test_a_table_has_no_more_columns_than_postgresql_takes(tmp_path: Path) -> None:
    """If there would be too many columns, the object with the most columns stays whole."""
    letters = "abcdefghij"
    names = [a + b + c for a in letters for b in letters for c in letters]
    record = {"id": 1, "big": dict.fromkeys(names[:900], 1), "small": dict.fromkeys(names[:500], 1)}
    dataset, _ = proposed(tmp_path, [record] * 20)
    columns = {column.name: column.type for column in dataset.tables[0].columns}
    assert (len(columns), columns["big"], columns["small_eij"]) == (502, "jsonb", "bigint")


def test_the_command_writes_a_definition_and_shows_the_next_steps(alone: Site) -> None:
    """The definition goes to stdout or a new file; the findings and the next commands go to stderr."""
    (alone.folder / "My Parcels.2026.ndjson").write_text('{"id": 1}\n{"id": 2}\nno json\n')
    done = alone.run("--log-level", "error", "dataset", "infer", "My Parcels.2026.ndjson")
    assert (done.returncode, 'name = "my_parcels_2026"' in done.stdout, done.stderr) == (0, True, "")
    assert "# 1 of them are not JSON objects" in done.stdout
    words = ("dataset", "infer", "My Parcels.2026.ndjson", "--output", "config/datasets/parcels.toml")
    done = alone.run(*words, "--sample", "1")
    assert (done.returncode, done.stdout) == (0, "")
    assert "parcels.toml: 1 records, records that follow one another; no key; logistics.parcels" in done.stderr
    assert "etl dataset create parcels && etl load parcels 'My Parcels.2026.ndjson'" in done.stderr
    assert find("parcels", alone.folder / "config").key == ()
    path = alone.folder / "config" / "datasets" / "parcels.toml"
    before = path.read_text()
    done = alone.run(*words)
    assert done.returncode == 2
    assert "exists already" in done.stderr
    assert path.read_text() == before


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["missing.json"], 3, "no such file"),
        (["empty.json"], 3, "the source is empty"),
        (["none.json"], 3, "expected JSON objects at item, found none"),
        (["cut.json"], 3, "cut off in this record"),
        (["text.json"], 3, "expected JSON"),
        (["one.json", "--records", "nowhere.item"], 3, "nowhere"),
        (["one.json", "--records", "nowhere"], 3, "no object at the records path nowhere"),
        (["one.json", "--name", "no name"], 2, "--name no_name"),
        (["one.json", "--name", "a", "--output", "b.toml"], 2, "a.toml"),
        (["-"], 2, "--name"),
        (["*.json"], 2, "name one of the files, such as"),
        (["one.json", "--output", "one.json/a.toml"], 2, "cannot write"),
    ],
)
def test_a_source_without_a_proposal_is_reported(alone: Site, words: list[str], code: int, message: str) -> None:
    """A source without records is exit 3, wrong usage is exit 2, both with a sentence."""
    for name, text in (
        ("one", '[{"a": 1}]'),
        ("empty", ""),
        ("none", "[]"),
        ("cut", '[{"a": 1}, {"a'),
        ("text", "a,b"),
    ):
        (alone.folder / f"{name}.json").write_text(text)
    done = alone.run("dataset", "infer", *words)
    assert done.returncode == code
    assert message in done.stderr


def test_only_the_sample_is_read(alone: Site) -> None:
    """A fault after the sample is not found; with --all it is."""
    (alone.folder / "feed.ndjson").write_text('{"id": 1, "text": "' + "x" * 990 + '"}\n' * 1)
    with (alone.folder / "feed.ndjson").open("a") as file:
        file.writelines(f'{{"id": {n}, "text": "{"x" * 990}"}}\n' for n in range(2, 4000))
        file.write('{"id": ')
    done = alone.run("dataset", "infer", "feed.ndjson", "--sample", "10")
    assert done.returncode == 0
    assert "the first 10 records" in done.stdout
    assert alone.run("dataset", "infer", "feed.ndjson", "--all").returncode == 3


@needs_real_data
@pytest.mark.parametrize(
    ("file", "rows"),
    [
        ("scms_shipments.json.gz", {"logistics.scms_shipments_2": 7030, "logistics.scms_shipments_2_lines": 10_324}),
        pytest.param("flight_legs.ndjson.gz", {"logistics.flight_legs_2": 60_000}, marks=pytest.mark.slow),
    ],
)
def test_real_sources_load_as_proposed(site: Site, file: str, rows: Any) -> None:
    """The proposal for a real export loads every record of it, without an edit, beside the shipped definition."""
    name = file.partition(".")[0] + "_2"
    assert site.run("dataset", "infer", REAL_DATA / file, "--output", f"config/datasets/{name}.toml").returncode == 0
    assert site.run("dataset", "create", name).returncode == 0
    summary = site.load(name, REAL_DATA / file, "--no-precalculate")
    assert (summary["exit_code"], summary["rows"]) == (0, rows)


def _random_value(chance: random.Random, depth: int) -> Any:
    """Return a JSON value of some kind; the kinds of one place are mostly the same (see _random_records)."""
    kind = chance.randrange(12 if depth < 4 else 9)
    made: list[Callable[[], Any]] = [
        lambda: chance.choice(["", "a", "é\t\\N", "N/A", "007", "12", "see DN-304 (ID#:10589)", "\U0001f69a", "-"]),
        lambda: chance.randrange(-5, 5),
        lambda: chance.randrange(-(10**30), 10**30),
        lambda: Decimal(chance.randrange(-(10**9), 10**9)) / 1000,
        lambda: chance.random() < 0.5,
        lambda: None,
        lambda: f"20{chance.randrange(10, 30)}-0{chance.randrange(1, 10)}-1{chance.randrange(10)}",
        lambda: f"2026-11-21T0{chance.randrange(10)}:15:00.{chance.randrange(1000):03}Z",
        lambda: f"{chance.randrange(1, 29)}.{chance.randrange(1, 13)}.2026",
        lambda: {name: _random_value(chance, depth + 1) for name in _random_names(chance)},
        lambda: [_random_value(chance, depth + 1) for _ in range(chance.randrange(4))],
        lambda: [
            {name: _random_value(chance, 9) for name in _random_names(chance)} for _ in range(chance.randrange(4))
        ],
    ]
    return made[kind]()


def _random_names(chance: random.Random) -> list[str]:
    names = ["id", "shipment_id", "order", "Order", "a.b", "@type", "#", "^", "größe", "", "0", "x:y", "line_no", 'q"t']
    return chance.sample(names, chance.randrange(1, 7))


def _random_records(seed: int) -> list[Record]:
    """Return records like a first one: each value is that of the first, or another of any kind, or missing."""
    chance = random.Random(seed)
    first = {name: _random_value(chance, 0) for name in _random_names(chance)} | {"id": 0}
    records = [first]
    for number in range(1, chance.randrange(2, 40)):
        record = {name: value if chance.random() < 0.6 else _random_value(chance, 0) for name, value in first.items()}
        if chance.random() < 0.2:
            record.pop(chance.choice(list(record)))
        records.append(record | ({"id": number} if chance.random() < 0.99 else {}))
    return records


def _check(site: Site, seed: int) -> None:
    records = _random_records(seed)
    name = f"random_{seed}"
    text = json.dumps(records, default=float)
    records = json.loads(text, parse_float=Decimal)
    (site.folder / f"{name}.json").write_text(text, encoding="utf-8")
    assert (
        site.run("dataset", "infer", f"{name}.json", "--output", f"config/datasets/{name}.toml", "--all").returncode
        == 0
    )
    assert site.run("dataset", "create", name).returncode == 0
    assert site.run("load", name, f"{name}.json", "--no-precalculate").returncode == 0, seed
    assert_values_came_back(site.connection, find(name, site.folder / "config"), records)


@pytest.mark.parametrize("seeds", [range(4), pytest.param(range(4, 400), marks=pytest.mark.slow)], ids=["few", "many"])
def test_a_proposal_for_random_records_loads_them(site: Site, seeds: range) -> None:
    """The proposal for records of any shape loads all of them, and every value is stored."""
    for seed in seeds:
        _check(site, seed)


def test_keyed_records_are_loaded_with_their_keys(site: Site) -> None:
    """Similar members of an object are records; the name of each is its key, in its child rows too."""
    shipments = {f"S{n}": {"w": n, "items": [{"sku": "A"}, {"sku": "B"}]} for n in range(3)}
    (site.folder / "keyed.json").write_text(json.dumps({"at": "2026-11-21", "shipments": shipments}))
    assert site.run("dataset", "infer", "keyed.json", "--output", "config/datasets/keyed.toml").returncode == 0
    assert site.run("dataset", "create", "keyed").returncode == 0
    assert site.run("load", "keyed", "keyed.json", "--no-precalculate").returncode == 0
    rows = site.ask("select record_key, line_no, sku from logistics.keyed_items order by 1, 2")
    assert rows == [(f"S{n}", place, sku) for n in range(3) for place, sku in ((1, "A"), (2, "B"))]


def test_a_compressed_source_is_named_without_its_endings(alone: Site) -> None:
    """The name of the dataset is that of the file without .json, .gz and the like; a used name gets a number."""
    (alone.folder / "shipments.json.gz").write_bytes(gzip.compress(b'[{"shipment_id": 1}]'))
    done = alone.run("dataset", "infer", "shipments.json.gz")
    assert done.returncode == 0
    assert 'name = "shipments_2"' in done.stdout
    assert 'name = "logistics.shipments_2"' in done.stdout


@pytest.mark.parametrize("ending", ["ndjson", "json", "json.gz"])
def test_a_number_in_quotes_that_begins_with_0_is_found_anywhere(tmp_path: Path, ending: str) -> None:
    """A column of digits is text if one of them begins with 0, in the middle or at the end of the file."""
    records: list[Record] = [
        {"id": n, "code": f"{n + 100}", "qty": f"{n + 1}", "kg": 7, "price": "1.5"} for n in range(3000)
    ]
    records[1717]["code"], records[-1]["qty"], records[2000]["kg"] = "0012", "007", "08"
    lines = [json.dumps(record) for record in records]
    text = "\n".join(lines) if ending == "ndjson" else f"[{','.join(lines)}]"
    path = tmp_path / f"feed.{ending}"
    path.write_bytes(gzip.compress(text.encode()) if ending.endswith("gz") else text.encode())
    source = Source(name=path.name, path=str(path))
    proposal = infer(source, name="feed", records=None, sample=100, used_names=frozenset())
    types = {column.name: column.type for column in proposal.dataset.tables[0].columns}
    assert types == {"id": "bigint", "code": "text", "qty": "text", "kg": "text", "price": "numeric"}
    assert proposal.sample.records == 100
    assert proposal.sample.further > 100


@pytest.mark.parametrize("kg", [7, "heavy"])
def test_records_of_the_middle_and_the_end_count(tmp_path: Path, kg: int | str) -> None:
    """A value that comes again and a new member further on are seen; no record is looked at twice."""
    records: list[Record] = [{"id": f"a{n}", "feed_no": f"b{n}", "kg": kg} for n in range(30_000)]
    records[-1] |= {"feed_no": "b1", "note": "new"}
    path = tmp_path / "feeds.json"
    path.write_text(json.dumps(records))
    source = Source(name=path.name, path=str(path))
    proposal = infer(source, name="feed", records=None, sample=100, used_names=frozenset())
    assert proposal.dataset.key == ("id",)
    assert "also unique" not in proposal.text
    assert [(c.name, c.type) for c in proposal.dataset.tables[0].columns][3:] == [("note", "text")]
