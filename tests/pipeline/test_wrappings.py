"""Values in another writing: extended JSON, JSON in texts, decimal commas, words for true and false, serial days."""

import json
from collections.abc import Sequence
from typing import Any

import pytest

from tests.support.site import Site

DEFINITION = """
name = "odd"
[[table]]
name = "lab.odd"
[table.columns]
id = { type = "integer", required = true }
value = { %s }
"""

CASES: list[tuple[str, str, Sequence[tuple[Any, str | None]]]] = [
    (
        'type = "numeric", decimal = ","',
        "comma",
        [
            *[("1.234,50", "1234.50"), ("1 234 567", "1234567"), ("-0,5", "-0.5"), ("1'000,25", "1000.25")],
            *[(12.5, "12.5"), ("1.234", "1234"), ("12.5", "?"), ("1.23,4", "?"), ("1.234 567", "?"), ("1,5,5", "?")],
            *[("", "?"), ("abc", "?"), (None, None), ("+7", "7"), ("1\u00a0234,5", "1234.5")],
        ],
    ),
    (
        'type = "integer", decimal = ".", max = 5000',
        "point",
        [("1,234", "1234"), ("12,34", "?"), ("1,234.0", "1234"), ("1,234.5", "?"), ("9,999", "?"), (7, "7")],
    ),
    (
        'type = "boolean", true = ["Y", "ja", 1], false = ["N", "nein", 0, ""]',
        "words",
        [
            *[("Y", "true"), ("nein", "false"), (1, "true"), (0, "false"), ("", "false"), (True, "true")],
            *[("false", "false"), ("y", "?"), (2, "?"), (1.0, "true"), ([], "?"), (None, None)],
        ],
    ),
    (
        'type = "numeric", null_if = [false, [], "", -1]',
        "nulls",
        [
            (False, None),
            ([], None),
            ("", None),
            (-1, None),
            (0, "0"),
            ("007", "7"),
            (True, "?"),
            ([1], "?"),
            ("2.5", "2.5"),
        ],
    ),
    ('type = "text", null_if = [0]', "zero", [(False, "false"), (0, None), (0.0, None), ("0", "0")]),
    (
        'type = "jsonb", json = true',
        "json",
        [
            *[('{"a": [1, 2.50]}', '{"a": [1, 2.50]}'), ("null", None), ("{", "?"), ({"a": 1}, '{"a": 1}')],
            *[('"x"', '"x"'), ("", "?"), ('{"a": "\\u00e9\\n"}', '{"a": "é\\n"}')],
        ],
    ),
    ('type = "bigint", json = true', "json number", [('"7"', "7"), ("7", "7"), ("7.5", "?"), ("x", "?"), ("[7]", "?")]),
    (
        'type = "timestamptz", unwrap = "mongo"',
        "mongo times",
        [
            *[({"$date": "2015-03-23T21:06:49.506Z"}, "2015-03-23 21:06:49.506+00")],
            *[({"$date": {"$numberLong": "1427144809506"}}, "2015-03-23 21:06:49.506+00")],
            *[({"$date": {"$numberLong": "-62135596800000"}}, "0001-01-01 00:00:00+00")],
            *[({"$date": 1427144809506}, "2015-03-23 21:06:49.506+00")],
            *[({"$timestamp": {"t": 1427144809, "i": 1}}, "2015-03-23 21:06:49+00")],
            *[({"$date": {"$numberLong": "x"}}, "?"), ({"$oid": "65aa"}, "?"), (None, None)],
        ],
    ),
    (
        'type = "numeric", unwrap = "mongo"',
        "mongo numbers",
        [
            *[({"$numberDecimal": "12.50"}, "12.50"), ({"$numberInt": "7"}, "7"), ({"$numberDouble": "7.25"}, "7.25")],
            *[(7, "7"), ({"$numberDouble": "NaN"}, "?"), ({"$numberLong": "9007199254740993"}, "9007199254740993")],
            *[({"$undefined": True}, None), ({"a": 1}, "?"), ({"$numberDecimal": "1.5E+3"}, "1500")],
            ({"$numberDecimal": "1.234567890123456789012345678901234"}, "1.234567890123456789012345678901234"),
            *[
                ({"$numberDecimal": "NaN"}, "?"),
                ({"$numberDecimal": "-Infinity"}, "?"),
                ({"$numberDouble": "1E-7"}, "0.0000001"),
            ],
        ],
    ),
    (
        'type = "jsonb", unwrap = "mongo"',
        "mongo documents",
        [({"a": [{"$numberLong": "5"}], "b": {"$oid": "65"}}, '{"a": [5], "b": "65"}'), ([], "[]")],
    ),
    (
        'type = "text", unwrap = "mongo"',
        "mongo texts",
        [
            *[({"$oid": "65aa"}, "65aa"), ("65aa", "65aa"), ({"$x": 1}, "?"), ({"$symbol": "a"}, "a")],
            *[({"$code": "f()"}, "f()"), ({"$code": "f()", "$scope": {}}, "?"), ({"$minKey": 1}, "?")],
            *[({"$regularExpression": {"pattern": "^a", "options": "i"}}, "/^a/i"), ({"$maxKey": 1}, "?")],
            *[({"$regex": "^a", "$options": ""}, "/^a/"), ({"$binary": {"base64": "AQI=", "subType": "00"}}, "AQI=")],
            *[({"$binary": "AQI=", "$type": "00"}, "AQI="), ({"$numberDouble": "-0.0"}, "-0.0")],
            *[({"$numberDouble": "Infinity"}, "Infinity"), ({"$numberInt": "-7"}, "-7"), ({"$undefined": True}, None)],
            *[
                ({"$ref": "a", "$id": {"$oid": "65"}}, "?"),
                ({"$numberLong": "9223372036854775807"}, "9223372036854775807"),
            ],
        ],
    ),
    (
        'type = "uuid", unwrap = "mongo"',
        "mongo uuids",
        [
            ({"$uuid": "73ffd264-44b3-4c69-90e8-e7d1dfc035d4"}, "73ffd264-44b3-4c69-90e8-e7d1dfc035d4"),
            *[
                (written, "73ffd264-44b3-4c69-90e8-e7d1dfc035d4")
                for written in (
                    {"$binary": {"base64": "c//SZESzTGmQ6OfR38A11A==", "subType": "04"}},
                    {"$binary": {"base64": "c//SZESzTGmQ6OfR38A11A==", "subType": "4"}},
                    {"$binary": "c//SZESzTGmQ6OfR38A11A==", "$type": "04"},
                )
            ],
            ({"$binary": {"base64": "c//S", "subType": "04"}}, "?"),
        ],
    ),
    (
        'type = "jsonb", null_if = [false, "", [], "N/A"]',
        "no documents",
        [(False, None), ("", None), ([], None), ("N/A", None), ({}, "{}"), ([False], "[false]"), (True, "true")],
    ),
    (
        'type = "text[]", null_if = [false, "", "none"]',
        "no arrays",
        [(False, None), ("", None), ("none", None), ([], "{}"), ([""], '{""}'), (True, "?")],
    ),
    (
        'type = "numeric", unwrap = "dynamodb"',
        "dynamodb",
        [({"N": "1.25"}, "1.25"), ({"NULL": True}, None), ({"S": "x"}, "?"), (1.5, "1.5"), ({"N": "1e3"}, "1000")],
    ),
    (
        'type = "jsonb", unwrap = "dynamodb"',
        "dynamodb documents",
        [({"L": [{"M": {"code": {"S": "HAM"}, "n": {"NS": ["1", "2"]}}}]}, '[{"n": [1, 2], "code": "HAM"}]')],
    ),
    (
        'type = "text[]", unwrap = "dynamodb", ',
        "dynamodb sets",
        [({"SS": ["a", "b"]}, "{a,b}"), ({"NULL": True}, None)],
    ),
    (
        'type = "timestamptz", formats = ["aspnet", "epoch_s"]',
        "aspnet",
        [
            *[
                ("/Date(1351534600660+0000)/", "2012-10-29 18:16:40.66+00"),
                ("/Date(-1)/", "1969-12-31 23:59:59.999+00"),
            ],
            *[
                ("/Date(1351534600660+0200)/", "2012-10-29 18:16:40.66+00"),
                ("/Date(x)/", "?"),
                (5, "1970-01-01 00:00:05+00"),
            ],
        ],
    ),
    (
        'type = "timestamp", formats = ["excel"]',
        "excel",
        [
            *[
                (45292, "2024-01-01 00:00:00"),
                (45292.333333333336, "2024-01-01 08:00:00"),
                ("45292.5", "2024-01-01 12:00:00"),
            ],
            *[(60, "?"), (61, "1900-03-01 00:00:00"), (1e30, "?"), (True, "?")],
        ],
    ),
]


@pytest.mark.parametrize("decoder", ["auto", pytest.param("ijson", marks=pytest.mark.slow)])
@pytest.mark.parametrize(("options", "values"), [case[::2] for case in CASES], ids=[case[1] for case in CASES])
def test_a_value_in_another_writing_is_a_value(
    site: Site, options: str, values: Sequence[tuple[Any, str | None]], decoder: str
) -> None:
    """Both paths read the values, and reject what only looks like one; `?` is a rejected record."""
    site.define(DEFINITION % options.rstrip(", "))
    records = [{"id": number, "value": value} for number, (value, _) in enumerate(values)]
    (site.folder / "odd.ndjson").write_text("".join(json.dumps(record) + "\n" for record in records))
    done = site.run("load", "odd", "odd.ndjson", "--decoder", decoder, "--max-rejected", "100%", "--json")
    loaded = dict(site.ask("select id, value::text from lab.odd"))
    expected = {number: text for number, (_, text) in enumerate(values) if text != "?"}
    assert loaded == expected
    assert done.summary["records"]["rejected"] == len(values) - len(expected)
    coerced = {"lab.odd.value": 1} if any(value == "007" for value, _ in values) else None
    assert done.summary.get("coerced") == coerced


@pytest.mark.parametrize("decoder", ["auto", "ijson"])
def test_one_object_where_others_have_an_array(site: Site, decoder: str) -> None:
    """`each` takes an array and a single object; an empty object, false and an empty text are no elements."""
    site.define(
        DEFINITION
        % 'type = "text", path = "driver.name", null_if = [false, "", []]'
        + '[[table]]\nname = "lab.odd_items"\neach = "item"\n[table.columns]\n'
        'id = { path = "^.id", type = "integer" }\n'
        'line = { path = "#", type = "integer" }\nsku = "text"\n'
    )
    items = [{"sku": "a"}, [{"sku": "b"}, {"sku": "c"}], {}, False, "", None, [], 5]
    drivers = [{"name": "x"}, False, "", [], None, {"name": ""}, {}, {"name": "y"}]
    records = [{"id": n, "item": item, "driver": drivers[n]} for n, item in enumerate(items)]
    (site.folder / "odd.json").write_text(json.dumps(records))
    done = site.run("load", "odd", "odd.json", "--decoder", decoder, "--max-rejected", "100%", "--json")
    assert site.ask("select id, line, sku from lab.odd_items order by 1, 2") == [(0, 1, "a"), (1, 1, "b"), (1, 2, "c")]
    assert site.ask("select id from lab.odd where value is not null") == [(0,)]
    assert done.summary["records"]["rejected"] == 1
    assert "unknown" not in done.summary


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ('type = "text", decimal = ","', "decimal expects type smallint"),
        ('type = "text", true = ["Y"]', "true expects type boolean"),
        ('type = "boolean", true = ["Y"], false = ["Y"]', "true and false name one value"),
        ('type = "text", unwrap = "couch"', "Invalid enum value 'couch'"),
        ('type = "timestamptz", formats = ["excel"]', "has no zone: expected `timezone`"),
        ('type = "text", null_if = [["a"]]', "Expected `array` of length 0"),
    ],
)
def test_a_misused_option_is_reported(site: Site, options: str, problem: str) -> None:
    """An option that means nothing for a column is exit code 2 with the column."""
    site.write_definition(DEFINITION % options)
    done = site.run("dataset", "show", "odd")
    assert done.returncode == 2
    assert problem in done.stderr
