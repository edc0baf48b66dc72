import json
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from etl.datasets import LINEAGE, Dataset, Table
from etl.errors import DefinitionError
from etl.ingestion.framing import decoding
from etl.ingestion.transform import table_rows
from etl.ingestion.transform.paths import fast
from etl.ingestion.transform.projection import Projection
from etl.ingestion.values import KEY, Batch, Fault, Piece
from tests.support.definitions import Define
from tests.support.parcels import PARCELS, RECORDS, batch_of, column_names

GOOD: dict[str, Any] = {"id": "P1", "to": {"address": {"city": "Łódź"}}, "box": {"items": [{"sku": "S"}]}}


def _rows(dataset: Dataset, batch: Batch, number: int = 0) -> list[dict[str, str]]:
    """Return the rows of a table as COPY gets them, by column; nulls are left out."""
    lines = b"".join(batch.tables[number][0].encoded()).decode().split("\n")[:-1]
    assert len(lines) == batch.rows[number]
    rows = [zip(column_names(dataset.tables[number]), line.split("\t"), strict=True) for line in lines]
    return [{name: text for name, text in row if text != "\\N"} for row in rows]


def _one(define: Define, column: str, record: dict[str, Any]) -> Any:
    """Project a record on one column; return its text, None for null, or the fault."""
    dataset = define(f'name = "parcels"\n[[table]]\nname = "a.b"\ncolumns = {{ c = {column} }}')
    batch = batch_of(dataset, [record])
    return batch.rejected[0].fault if batch.rejected else _rows(dataset, batch)[0].get("c")


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("a", "1"),
        ("b.c", "2"),
        ("b.d.e", "3"),
        ("none", None),
        ("null", None),
        ("b.none", None),
        ("none.at.all", None),
        ("null.a", None),
        ("b.d.none", None),
        ("", "c"),
        ("A", "4"),
        ("with space.ü", "5"),
        ("#hash", "6"),
    ],
)
def test_a_path_finds_a_member(define: Define, path: str, text: str | None) -> None:
    """A path goes through objects by the names of members; if one is missing or null, the value is null."""
    record = {"a": 1, "b": {"c": 2, "d": {"e": 3}}, "null": None, "c": "c", "A": 4, "with space": {"ü": 5}, "#hash": 6}
    assert _one(define, f'{{ path = "{path}", type = "text" }}', record) == text


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ('"@context".x', "1"),
        ('"a.b"', "2"),
        ('o."c.d"."#"', "3"),
        ("a:b", "4"),
        ('"a\\"b"', "5"),
        ("legs.0.code", "A"),
        ("legs.1.code", "B"),
        ("legs.2.code", None),
        ("grid.1.0", "y"),
        ("o.7", "8"),
        ('o."7"', "8"),
        ("@context.x", "1"),
        ("@", "key"),
    ],
)
def test_a_path_finds_odd_names_positions_and_the_key(define: Define, path: str, text: str | None) -> None:
    """A quoted name may have any letter, a number is a position in an array, and @ is the key of the record."""
    record = {
        "@context": {"x": 1},
        "a.b": 2,
        "o": {"c.d": {"#": 3}, "7": 8},
        "a:b": 4,
        'a"b': 5,
        "legs": [{"code": "A"}, {"code": "B"}],
        "grid": [["x"], ["y"]],
        KEY: "key",
    }
    assert _one(define, f"{{ path = '{path}', type = \"text\" }}", record) == text


@pytest.mark.parametrize("path", ["legs.0", "legs.x", 'grid."0"', "a.0"])
def test_a_position_outside_an_array_is_a_misfit(define: Define, path: str) -> None:
    """A path that needs a name of an array, or a position of a text, is a misfit."""
    fault = _one(define, f"{{ path = '{path}.code', type = \"text\" }}", {"legs": ["x"], "grid": [["x"]], "a": "b"})
    assert isinstance(fault, Fault)
    assert fault.sqlstate == "22P02"


def test_the_key_of_a_record_is_no_member_of_it(define: Define) -> None:
    """The whole record of a keyed object is its value in the source, without the key."""
    assert _one(define, '{ path = ".", type = "jsonb" }', {"a": 1, KEY: "key"}) == '{"a":1}'


@pytest.mark.parametrize(
    ("column", "value", "text"),
    [
        ('{ type = "text", trim = true }', " a b\u3000", "a b"),
        ('{ type = "text", trim = true }', "  ", ""),
        ('{ type = "text", trim = true, null_if = ["N/A"] }', " N/A ", None),
        ('{ type = "text", null_if = ["N/A"] }', " N/A ", " N/A "),
        ('{ type = "date", trim = true }', " 2026-01-05\n", "2026-01-05"),
        ('{ type = "text", trim = true, null_if = [""], default = "none" }', " ", "none"),
        ('{ type = "text", default = "none" }', None, "none"),
        ('{ type = "text", default = "none" }', "", ""),
        ('{ type = "integer", default = 0, required = true }', None, "0"),
        ('{ type = "numeric", default = 0.1 }', None, "0.1"),
        ('{ type = "boolean", default = false }', None, "f"),
        ('{ type = "text[]" }', ["a", 1.5, True, None, ""], '{"a","1.5","true",NULL,""}'),
        ('{ type = "text[]" }', ['q"', "b\\", "c,}", "null", "t\t"], r'{"q\\"","b\\\\","c,}","null","t\t"}'),
        ('{ type = "text[]" }', [], "{}"),
        ('{ type = "text[]", required = true }', [], "{}"),
        ('{ type = "timestamp" }', "2026-01-05 10:00", "2026-01-05 10:00"),
    ],
)
def test_an_option_changes_the_value(define: Define, column: str, value: Any, text: str | None) -> None:
    """White space is removed first, then null_if applies, then the default; an array keeps its elements."""
    value = json.loads(json.dumps(value), parse_float=Decimal)
    assert _one(define, column.replace("{", '{ path = "x",', 1), {"x": value}) == text


@pytest.mark.parametrize("value", ["a", {"a": "b"}, [["a"]], [{}], ["\x00"], 5])
def test_another_value_than_an_array_of_texts_is_a_misfit(define: Define, value: Any) -> None:
    """A scalar, an array in the array, and a character that no text can have are misfits of an array of texts."""
    assert isinstance(_one(define, '{ path = "x", type = "text[]" }', {"x": value}), Fault)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ('type = "integer", default = "x"', "the default does not fit: expected a whole number"),
        ('type = "text", default = "abc", max_length = 2', "the default does not fit: expected at most 2"),
        ('type = "date", value = "today"', "the value does not fit: expected a date"),
        ('type = "timestamptz", default = "2026-01-01T00:00:00"', "the default does not fit: the time has no zone"),
    ],
)
def test_a_value_of_the_definition_must_fit(define: Define, options: str, reason: str) -> None:
    """A constant or a default that does not fit its column is reported before anything is loaded."""
    with pytest.raises(DefinitionError, match=f"table a.b, column c: {reason}"):
        _one(define, f"{{ {options} }}", {})


NESTED = """
name = "parcels"
[[table]]
name = "logistics.trips"
columns = { trip = "text" }
[[table]]
name = "logistics.calls"
each = ["legs", "at.stops"]
[table.columns]
trip = { path = "^.^.trip", type = "text" }
leg = { path = "^.no", type = "integer" }
leg_no = { path = "^.#", type = "integer" }
call_no = { path = "#", type = "integer" }
port = "text"
record_key = { path = "@", type = "text" }
around = { path = "^", type = "jsonb" }
"""


def test_each_within_each_gives_a_row_for_each_inner_element(define: Define) -> None:
    """Each inner element of nested arrays is a row, with members of the outer elements and of the record."""
    dataset = define(NESTED)
    legs = [{"no": 7, "at": {"stops": [{"port": "BR"}, {"port": "DE"}]}}, {"no": 8}, {"at": {"stops": [{}]}}]
    rows = _rows(dataset, batch_of(dataset, [{"trip": "T", "legs": legs, KEY: "k"}, {"trip": "U"}]), 1)
    shown = [[row.get(name) for name in ("trip", "leg", "leg_no", "call_no", "port", "record_key")] for row in rows]
    assert shown == [
        ["T", "7", "1", "1", "BR", "k"],
        ["T", "7", "1", "2", "DE", "k"],
        ["T", None, "3", "1", None, "k"],
    ]
    assert [json.loads(row["around"]) for row in rows] == [legs[0], legs[0], legs[2]]


@pytest.mark.parametrize(("legs", "path"), [(5, "legs"), ([{"at": {"stops": 5}}], "at.stops")])
def test_another_value_than_a_nested_array_rejects_the_record(define: Define, legs: Any, path: str) -> None:
    """A value on the path to the inner elements that is no array rejects the record, and the reason names it."""
    (rejected,) = batch_of(define(NESTED), [{"trip": "T", "legs": legs}]).rejected
    assert rejected.fault.reason == f"expected an array at {path}, got a number"


@pytest.mark.parametrize(
    ("options", "source", "text"),
    [
        ('value = "$source", type = "text"', "in/2026-11-21.json", "in/2026-11-21.json"),
        (r"""value = "$source", match = '\d{4}-\d\d-\d\d', type = "date" """, "in/2026-11-21.json", "2026-11-21"),
        (r"""value = "$source", match = 'week-(\d+)', type = "integer" """, "week-47.json", "47"),
        (r"""value = "$source", match = 'week-(\d+)', type = "integer" """, "month-11.json", None),
        (r"""value = "$source", match = '(?:week-(\d+))?', type = "integer" """, "month-11.json", None),
    ],
)
def test_a_column_takes_the_name_of_the_source(define: Define, options: str, source: str, text: str | None) -> None:
    """$source is the name of the source, or the part of it that `match` finds; null if it finds none."""
    dataset = define(f'name = "parcels"\n[[table]]\nname = "a.b"\ncolumns = {{ c = {{ {options} }} }}')
    dataset = dataset.of_source(source)
    assert _rows(dataset, batch_of(dataset, [{}]))[0].get("c") == text
    assert not isinstance(fast(dataset), str)


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        ({"a": "x"}, "expected an object at a, got text"),
        ({"a": 5}, "expected an object at a, got a number"),
        ({"a": [{"b": {"c": 1}}]}, "expected an object at a, got an array"),
        ({"a": {"b": True}}, "expected an object at a.b, got true or false"),
    ],
)
def test_a_path_through_a_scalar_or_an_array_is_a_misfit(define: Define, record: dict[str, Any], reason: str) -> None:
    """If a path would continue in a scalar or an array, the record is refused and the fault has the place."""
    fault = Fault(sqlstate="22P02", reason=reason, table="a.b", column="c")
    assert _one(define, '{ path = "a.b.c", type = "text" }', record) == fault


def test_the_whole_record_and_a_constant(define: Define) -> None:
    """The path `.` is the whole record, and a constant is the value of every row."""
    assert _one(define, '{ path = ".", type = "jsonb" }', {"a": [1, None]}) == '{"a":[1,null]}'
    assert _one(define, '{ value = "x\\ty", type = "text" }', {}) == "x\\ty"
    assert _one(define, '{ value = "5", type = "integer" }', {}) == "5"


@pytest.mark.parametrize(
    ("values", "value", "text"),
    [
        ('["N/A", ""]', "N/A", None),
        ('["N/A", ""]', "", None),
        ('["N/A"]', "n/a", "n/a"),
        ('["1"]', 1, "1"),
        ("[1]", "1", "1"),
        ("[1]", 1, None),
        ("[1]", Decimal("1.0"), None),
        ("[1]", True, "true"),
        ("[0]", False, "false"),
        ("[-999.9]", Decimal("-999.9"), None),
        ("[-999.9]", Decimal("-999.90"), None),
        ("[0.1]", Decimal("0.1000000000000000055511151231257827"), "0.1000000000000000055511151231257827"),
    ],
)
def test_null_if_compares_the_written_values(define: Define, values: str, value: Any, text: str | None) -> None:
    """A text equals a text, and a number a number, digit by digit; true does not equal 1."""
    assert _one(define, f'{{ type = "text", null_if = {values} }}', {"c": value}) == text


@pytest.mark.parametrize("value", [None, "N/A"])
def test_a_missing_required_value_is_refused(define: Define, value: str | None) -> None:
    """A missing value, a null and a value of null_if are refused in a required column, as by PostgreSQL."""
    fault = _one(define, '{ type = "text", required = true, null_if = ["N/A"] }', {"c": value})
    assert fault == Fault(sqlstate="23502", reason="expected a value, got none", table="a.b", column="c")


def _notes(define: Define, record: dict[str, Any]) -> tuple[str | None, str | None] | Fault:
    """Return weight_kg and weight_note of a parcel."""
    dataset = define(PARCELS)
    batch = batch_of(dataset, [GOOD | record])
    if batch.rejected:
        return batch.rejected[0].fault
    [row] = _rows(dataset, batch)
    return row.get("weight_kg"), row.get("weight_note")


@pytest.mark.parametrize(
    ("record", "found"),
    [
        ({"weight": 5}, ("5", None)),
        ({"weight": "about 5"}, (None, "about 5")),
        ({"weight": [1, {"a": None}]}, (None, '[1,{"a":null}]')),
        ({"weight": True}, (None, "true")),
        ({"weight": ""}, (None, "")),
        ({"weight": "\\N"}, (None, "\\\\N")),
        ({"weight": 5, "weight_text": "net"}, ("5", "net")),
        ({"weight": Decimal("-999.9")}, (None, None)),
    ],
)
def test_a_misfit_goes_to_its_column(
    define: Define, record: dict[str, Any], found: tuple[str | None, str | None]
) -> None:
    """A value that does not fit becomes null, and its text is kept in the column for misfits."""
    assert _notes(define, record) == found


@pytest.mark.parametrize(
    ("record", "sqlstate", "column"),
    [
        ({"weight": -1}, "23514", "weight_kg"),
        ({"weight": "about 5", "weight_text": "net"}, "22P02", "weight_kg"),
        ({"weight": "a\x00b"}, "22021", "weight_kg"),
        ({"weight": ["\ud83d"]}, "22P02", "weight_kg"),
        ({"weight": "much too long for the note"}, "23514", "weight_kg"),
        ({"weight": Decimal("1e200000")}, "22003", "weight_kg"),
    ],
)
def test_a_misfit_that_cannot_be_kept_refuses_the_record(
    define: Define, record: dict[str, Any], sqlstate: str, column: str
) -> None:
    """A violated check, a used misfit column, and a value that no text can have refuse the record."""
    fault = _notes(define, record)
    assert isinstance(fault, Fault)
    assert (fault.sqlstate, fault.column) == (sqlstate, column)


def test_child_rows_know_their_record_and_their_place(define: Define) -> None:
    """Each element of the array becomes a row, with members of its record and its position from 1."""
    items = [{"sku": "A", "mass": {"grams": 5}}, {}, {"sku": None, "mass": None}]
    dataset = define(PARCELS)
    batch = batch_of(dataset, [GOOD | {"box": {"items": items}}, GOOD])
    assert batch.rows == (2, 4)
    names = ["parcel_id", "line_no", "city", "sku", "grams", *LINEAGE]
    assert [[row.get(name) for name in names] for row in _rows(dataset, batch, 1)] == [
        ["P1", "1", "Łódź", "A", "5", "9", "70", "1"],
        ["P1", "2", "Łódź", None, None, "9", "70", "1"],
        ["P1", "3", "Łódź", None, None, "9", "70", "1"],
        ["P1", "1", "Łódź", "S", None, "9", "70", "2"],
    ]


@pytest.mark.parametrize("record", [{}, {"box": None}, {"box": {}}, {"box": {"items": None}}, {"box": {"items": []}}])
def test_no_array_is_no_child_row(define: Define, record: dict[str, Any]) -> None:
    """A record without the array, or with an empty array, is accepted and has no child rows."""
    batch = batch_of(define(PARCELS), [{"id": "P1"} | record])
    assert (batch.rows, batch.rejected) == ((1, 0), ())


@pytest.mark.parametrize(
    ("box", "sqlstate", "column", "reason"),
    [
        ({"items": 5}, "22P02", None, "expected an array at box.items, got a number"),
        ({"items": "x"}, "22P02", None, "expected an array at box.items, got text"),
        ([], "22P02", None, "expected an object at box, got an array"),
        (
            {"items": [{}, 5]},
            "22P02",
            "sku",
            "expected an object at the element, got a number (element 2 of box.items)",
        ),
        ({"items": [None]}, "22P02", "sku", "expected an object at the element, got null (element 1 of box.items)"),
        (
            {"items": [{}, {"mass": []}]},
            "22P02",
            "grams",
            "expected an object at mass, got an array (element 2 of box.items)",
        ),
        ({"items": [{"mass": {"grams": -1}}]}, "23514", "grams", "expected 0 or more (element 1 of box.items)"),
        (
            {"items": [{"sku": "\x00"}]},
            "22021",
            "sku",
            "a NUL character cannot be stored in text (element 1 of box.items)",
        ),
    ],
)
def test_a_record_and_its_child_rows_are_refused_together(
    define: Define, box: Any, sqlstate: str, column: str | None, reason: str
) -> None:
    """A fault in a child row names its element, leaves no row of its record behind, and changes no other record."""
    dataset = define(PARCELS)
    batch = batch_of(dataset, [GOOD, GOOD | {"box": box}, GOOD])
    assert batch.rows == (2, 2)
    for number in (0, 1):
        assert [row["etl_place"] for row in _rows(dataset, batch, number)] == ["1", "3"]
    [rejected] = batch.rejected
    assert (rejected.place, rejected.key) == (2, "DHL\t1, P1")
    assert rejected.fault == Fault(sqlstate=sqlstate, reason=reason, table="logistics.parcel_items", column=column)


@pytest.mark.parametrize(
    ("identifier", "key"),
    [
        ("P1", "DHL\t1, P1"),
        (17, "DHL\t1, 17"),
        (Decimal("1.50"), "DHL\t1, 1.50"),
        (None, None),
        ("N/A", None),
        ({}, None),
        ([1], None),
        (Decimal("1e99999999"), None),
    ],
)
def test_the_key_of_a_record_is_returned_if_there_is_one(define: Define, identifier: Any, key: str | None) -> None:
    """A key is returned as text in the order of the definition; a missing key and one too long are None."""
    record = {"id": identifier, "sent_at": "never"}
    projection = Projection(define(PARCELS))
    assert projection.key_of(record) == key
    [rejected] = batch_of(projection.dataset, [record]).rejected
    assert rejected.key == key


def test_a_dataset_without_a_key_has_no_keys(define: Define) -> None:
    """If the definition names no key, no record has a key."""
    dataset = define('name = "parcels"\n[[table]]\nname = "a.b"\ncolumns = { c = "integer" }')
    [rejected] = batch_of(dataset, [{"c": "x"}]).rejected
    assert rejected.key is None


def test_faults_and_places_are_passed_on(define: Define) -> None:
    """A text that is no record is rejected with its place, and each row has the place of its record."""
    fault = Fault(sqlstate="22P02", reason="not JSON")
    dataset = define(PARCELS)
    batch = batch_of(dataset, [GOOD, fault, GOOD, {}], places=[3, 5, 8, 9])
    assert [row["etl_place"] for row in _rows(dataset, batch)] == ["3", "8"]
    assert [(each.place, each.fault.sqlstate) for each in batch.rejected] == [(5, "22P02"), (9, "23502")]
    with pytest.raises(ValueError, match="longer"):
        batch_of(dataset, [GOOD, GOOD], places=[1])


def test_each_record_is_projected_or_rejected(define: Define) -> None:
    """Each random record is either rejected or becomes one line of the first table, with its child rows."""
    dataset = define(PARCELS)
    seen = [0, 0]

    @settings(deadline=None, derandomize=True, max_examples=150)
    @given(st.lists(RECORDS, min_size=1, max_size=12))
    def check(records: list[dict[str, Any]]) -> None:
        batch = batch_of(dataset, records)
        rejected = {each.place for each in batch.rejected}
        kept = [(place, record) for place, record in enumerate(records, 1) if place not in rejected]
        assert [row["etl_place"] for row in _rows(dataset, batch)] == [str(place) for place, _ in kept]
        children = [place for place, record in kept for _ in (record.get("box") or {}).get("items") or []]
        assert [row["etl_place"] for row in _rows(dataset, batch, 1)] == [str(place) for place in children]
        seen[0] += len(kept)
        seen[1] += len(rejected)

    check()
    assert min(seen) > 50


def test_only_texts_and_names_lose_their_nul(define: Define) -> None:
    """With on_nul = "strip" a record with a NUL keeps its other values as they are: digits, true, null and nesting."""
    dataset = define(
        'name = "parcels"\non_nul = "strip"\n[[table]]\nname = "a.b"\n'
        'columns = { id = "text", n = "numeric", x = "jsonb" }'
    )
    record = {"id": "P\0", "n": Decimal("1.50"), "x": {"a\0": [12345678901234567890, True, None, {"b": "\0c"}]}}
    batch = batch_of(dataset, [record])
    assert batch.rejected == ()
    [row] = _rows(dataset, batch)
    assert (row["id"], row["n"]) == ("P", "1.50")
    assert json.loads(row["x"]) == {"a": [12345678901234567890, True, None, {"b": "c"}]}
    assert batch.policy_effects.nul_stripped == 1


def test_half_a_surrogate_pair_is_refused(define: Define) -> None:
    """on_nul = "strip" changes nothing in a record without a NUL: half a surrogate pair stays its fault."""
    dataset = define('name = "parcels"\non_nul = "strip"\n[[table]]\nname = "a.b"\ncolumns = { id = "text" }')
    batch = batch_of(dataset, [{"id": "\ud800"}])
    assert [rejected.fault.sqlstate for rejected in batch.rejected] == ["22021"]


def test_deep_values_pass_through_each_policy(define: Define) -> None:
    """A member of thousands of levels is unknown as one member, and loses its NUL characters with on_nul = "strip"."""
    deep = "[" * 5_000 + r'"\u0000\\u0000"' + "]" * 5_000
    record = decoding.decode_one(f'{{"id": "1", "doc": {deep}, "other": {deep}, "kids": {deep}}}'.encode())
    dataset = define(
        'name = "parcels"\non_nul = "strip"\non_unknown = "warn"\n[[table]]\nname = "a.b"\n'
        'columns = { id = "text", doc = "jsonb" }'
    )
    builder = Projection(dataset).builder(Piece(offset=0, count=1, first_record=1, parts=(), shape="array"), 1)
    builder.note_unknown([record])
    builder.add(1, record)
    assert builder.policy_effects.document() == {"nul_stripped": 1, "unknown": {"kids": 1, "other": 1}}
    [[rows]] = builder.tables()
    [text] = rows.encoded()
    assert text.split(b"\t")[1] == b"[" * 5_000 + rb'"\\\\u0000"' + b"]" * 5_000


_KIDS = """
name = "parcels"
[[table]]
name = "a.b"
columns = { id = "text" }
[[table]]
name = "a.kids"
each = "kids"
where = { sort = ["x", "y"] }
[table.columns]
id = { path = "^.id", type = "text" }
line = { path = "#", type = "integer" }
sort = "text"
city = { path = "to.city", type = "text" }
weight = { type = "numeric", min = 0, misfits_to = "note" }
note = "text"
"""

_KID_RECORDS: dict[str, list[dict[str, Any]]] = {
    "good": [
        {"id": f"P{number}", "kids": [{"sort": sort, "to": {"city": "Łódź\n"}, "weight": Decimal("1.50")}] * number}
        for number, sort in enumerate("xyzxy" * 3)
    ],
    "missing": [{"id": "1", "kids": [{"sort": "x"}, {"sort": "y", "to": None, "weight": None}]}, {"id": "2"}],
    "no objects": [{"id": "1", "kids": [{"sort": "x"}, 5]}, {"id": "2", "kids": {"sort": "x"}}],
    "refused": [{"id": "1", "kids": [{"sort": "x"}]}, {"id": "2", "kids": [{"sort": "x", "to": 5}]}],
    "moved": [{"id": "1", "kids": [{"sort": "x", "weight": "heavy"}, {"sort": "y", "weight": "007"}]}] * 2,
    "long": [{"id": "P" * 5_000, "kids": [{"sort": "x", "weight": "007"}] * 3}, {"id": "2", "kids": []}],
}


@pytest.mark.parametrize("name", _KID_RECORDS)
def test_elements_become_the_same_rows_together(define: Define, name: str) -> None:
    """The elements of many records become the rows, faults and effects that they become record by record."""
    records = _KID_RECORDS[name]
    projection = Projection(define(_KIDS))
    piece = Piece(offset=0, count=len(records), first_record=1, parts=(), shape="array")
    places = range(1, len(records) + 1)
    together, single = projection.builder(piece, 1), projection.builder(piece, 1)
    together.add_all(places, records)
    for place, record in zip(places, records, strict=True):
        single.add(place, record)
    made, expected = together.batch(piece, places), single.batch(piece, places)
    assert [b"".join(rows.encoded()) for [rows] in made.tables] == [
        b"".join(rows.encoded()) for [rows] in expected.tables
    ]
    assert (made.rejected, made.rows, made.policy_effects) == (
        expected.rejected,
        expected.rows,
        expected.policy_effects,
    )


def _ends(records: list[dict[str, Any]]) -> Callable[[Table], list[str]]:
    return lambda table: ["1\n"] * len(records)


def test_the_rows_of_elements_are_converted_together(define: Define) -> None:
    """Elements without a misfit are converted by columns, but not where their rows repeat a long text of the record."""
    projection = Projection(define(_KIDS))
    by_name = {name: projection.rows_together(records, _ends(records)) for name, records in _KID_RECORDS.items()}
    kids = {name: texts[1] for name, texts in by_name.items() if texts is not None}
    assert len(list(kids["missing"])) == 2
    assert len(list(kids["good"])) == sum(n for n, sort in enumerate("xyzxy" * 3) if sort != "z")
    for name in ("long", "moved"):
        with pytest.raises(table_rows.RecordRefusal):
            list(kids[name])
