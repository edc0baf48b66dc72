"""Columns of types that only the server knows: sent as text, judged by the server, each refusal one record."""

import json
from typing import Any

import pytest
from psycopg import sql

from tests.support.site import Site

DEFINITION = """
name = "odd"
mode = "merge"
key = ["id"]
[[table]]
name = "lab.odd"
[table.columns]
id = { type = "lab.code", required = true }
took = { type = "interval", default = "1 hour" }
host = { type = "INET", null_if = ["-", false], trim = true }
ids = { type = "uuid[]", null_if = [""] }
grid = "integer[]"
during = "tstzrange"
state = "lab.state"
query = "tsquery"
points = "box[]"
price = "numeric(10,2)"
flags = "bit(3)"
document = "json"
meaning = "vector(3)"
note = "varchar(5)"
odd = '"lab"."Odd Type"'
many = "jsonb[]"
"""
UUID = "0f8fad5b-d9cb-469f-a165-70867728950e"

FITS: dict[str, list[tuple[Any, str | None]]] = {
    "took": [("P1DT2H", "1 day 02:00:00"), ("90 min", "01:30:00"), (None, "01:00:00"), (30, "00:00:30")],
    "host": [(" 10.0.0.1 ", "10.0.0.1/32"), ("-", None), (False, None), ("::1/128", "::1/128")],
    "ids": [([UUID, None], f"{{{UUID},NULL}}"), (f"{{{UUID}}}", f"{{{UUID}}}"), ([], "{}"), ("", None)],
    "grid": [([[1, 2], [3, "4"]], "{{1,2},{3,4}}"), ([10], "{10}"), ("{7,8}", "{7,8}")],
    "during": [("[2026-01-01 00:00Z,)", '["2026-01-01 00:00:00+00",)'), ("empty", "empty")],
    "state": [("on its way", "on its way")],
    "query": [("fat & rat", "'fat' & 'rat'")],
    "points": [(["(1,1),(0,0)", "(2,2),(1,1)"], "{(1,1),(0,0);(2,2),(1,1)}")],
    "price": [(1.255, "1.26"), ("7", "7.00")],
    "flags": [("101", "101"), (101, "101")],
    "document": [({"a": [1, "x\ny"]}, '{"a":[1,"x\\ny"]}'), ("text", '"text"'), ([], "[]"), (True, "true")],
    "meaning": [([1, 2.5, 3], "[1,2.5,3]"), ("[1,2,3]", "[1,2,3]")],
    "note": [("abcde", "abcde"), (True, "true"), ("a\\\t", "a\\\t")],
    "odd": [("x", "x")],
    "many": [([{"a": '"\\'}, [1], "b", 2.5, None], r'{"{\"a\": \"\\\"\\\\\"}",[1],"\"b\"",2.5,NULL}'), ([], "{}")],
}
REFUSED: dict[str, list[tuple[Any, str]]] = {
    "took": [("soon", "22007"), ({"days": 1}, "22P02"), ("999999999 years", "22008")],
    "host": [("10.0.0.256", "22P02"), ([], "22P02"), ("a\u0000b", "22021")],
    "ids": [(["x"], "22P02"), ({"a": 1}, "22P02"), ("x", "22P02"), ([[[[[[[1]]]]]]], "54000"), ([UUID, "\0"], "22021")],
    "grid": [([1, [2]], "22P02"), ([2**31], "22003"), ([{"a": 1}], "22P02")],
    "during": [("[2,1)", "22007"), ("[2026-01-02,2026-01-01)", "22000")],
    "state": [("lost", "22P02")],
    "query": [("fat & & rat", "42601")],
    "points": [(["(1"], "22P02")],
    "price": [(1e9, "22003"), ("seven", "22P02")],
    "flags": [("1010", "22026"), ("2", "22P02")],
    "document": [("\0", "22P05")],
    "meaning": [([1, 2], "22000"), (["x"], "22P02"), ([1, 2, None], "22P02"), ("[1,2,NaN]", "22000"), ("x", "22P02")],
    "note": [("abcdef", "22001")],
    "odd": [("y", "23514")],
}


def _make_types(site: Site) -> None:
    site.ask("create schema lab")
    site.ask("create domain lab.code as text check (value ~ '^[0-9]+$')")
    site.ask("create type lab.state as enum ('on its way', 'there')")
    site.ask("""create domain lab."Odd Type" as text check (value <> 'y')""")
    site.ask("create extension vector")


def _records() -> tuple[list[dict[str, Any]], list[str | None]]:
    records: list[dict[str, Any]] = []
    states: list[str | None] = []
    for name, values in FITS.items():
        for value, _ in values:
            records.append({"id": len(records), name: value})
            states.append(None)
    for name, refused in REFUSED.items():
        for value, state in refused:
            records.append({"id": len(records), name: value})
            states.append(state)
    return records, states


@pytest.mark.parametrize("decoder", ["auto", "ijson"])
def test_the_server_judges_values_of_its_types(site: Site, decoder: str) -> None:
    """Both paths store what the server reads, and reject each other record with the SQLSTATE of the server."""
    _make_types(site)
    site.define(DEFINITION)
    assert site.run("dataset", "check", "odd").returncode == 0
    records, states = _records()
    (site.folder / "odd.json").write_text(json.dumps(records))
    done = site.run("load", "odd", "odd.json", "--decoder", decoder, "--max-rejected", "100%", "--json")
    assert done.returncode == 1, done.stderr
    found = {line["record"] - 1: line for line in site.failures.records(done.summary["run"])}
    assert {number: line["sqlstate"] for number, line in found.items()} == {
        number: state for number, state in enumerate(states) if state
    }
    assert {list(records[number])[1] for number, line in found.items() if line["column"]} == {*REFUSED} - {
        "odd",
        "note",
    }
    number = 0
    for name, values in FITS.items():
        query = sql.SQL("select id::integer, {}::text from lab.odd").format(sql.Identifier(name))
        stored = dict(site.ask(query))
        for value, text in values:
            assert (name, value, stored[number]) == (name, value, text)
            number += 1
    assert site.value("select count(*) from lab.odd") == number


@pytest.mark.parametrize(
    "options", [["--dry-run"], pytest.param(["--atomic"], marks=pytest.mark.slow), ["--mode", "replace"]]
)
def test_a_refused_value_is_one_record_in_each_mode(site: Site, options: list[str]) -> None:
    """A type that reports a syntax error for a text rejects that record, whatever the mode; so does a child row."""
    site.define(
        'name = "routes"\nmode = "append"\nkey = ["id"]\n[[table]]\nname = "lab.routes"\n[table.columns]\n'
        'id = { type = "integer", required = true }\nfilter = "tsquery"\n'
        '[[table]]\nname = "lab.stops"\neach = "stops"\n[table.columns]\n'
        'id = { path = "^.id", type = "integer" }\npath = { type = "jsonpath" }\n'
    )
    records: list[dict[str, Any]] = [{"id": n, "filter": "a & b", "stops": [{"path": "$.a"}]} for n in range(150)]
    records[7]["filter"] = "a & & b"
    records[120]["stops"].append({"path": "$.["})
    (site.folder / "routes.json").write_text(json.dumps(records))
    done = site.run("load", "routes", "routes.json", "--json", "--max-rejected", "2", *options)
    assert (done.returncode, done.summary["records"]["rejected"]) == (1, 2), done.stderr
    if "--dry-run" in options:
        reasons = {(reason["sqlstate"], reason["table"], reason["column"]) for reason in done.summary["reasons"]}
        assert reasons == {("42601", "lab.routes", "filter"), ("42601", "lab.stops", "path")}
    else:
        assert site.value("select count(*) from lab.stops") == 148


def test_a_missing_right_is_no_fault_of_a_value(site: Site) -> None:
    """A function that a trigger may not call ends the load with exit code 2: no record is rejected for it."""
    site.define('name = "odd"\n[[table]]\nname = "lab.odd"\n[table.columns]\nhost = "inet"\n')
    site.on_insert("lab.odd", "true", "raise insufficient_privilege;")
    (site.folder / "odd.ndjson").write_text('{"host": "10.0.0.1"}\n')
    done = site.run("load", "odd", "odd.ndjson", "--json")
    assert done.returncode == 2
    assert "42501" in done.stderr
    assert done.summary["records"]["rejected"] == 0


@pytest.mark.parametrize(
    ("options", "problem", "hint"),
    [
        ('type = "intervall"', "column c: the server knows no type intervall", "did you mean interval?"),
        ('type = "geometry(Point,4326)"', "knows no type geometry(Point,4326)", "'create extension postgis'"),
        ('type = "vector(384)"', "knows no type vector(384)", "etl db psql -- -c 'create extension vector'"),
        ('type = "halfvec(384)"', "knows no type halfvec(384)", "etl db psql -- -c 'create extension vector'"),
        ('type = "nowhere.code"', "the server knows no type nowhere.code", "an extension may be missing"),
        ('type = "numeric(0)"', "the server refuses the type numeric(0): invalid parameter value, SQLSTATE 22023", ""),
        ('type = "inet", default = "ten"', "column c: the default does not fit: invalid text representation", ""),
        ('type = "interval", value = "soon"', "column c: the value does not fit: invalid datetime format", ""),
        ('type = "point", required = true', "a key column cannot be point: the server has no order", ""),
        ('type = "inet[]", required = true', "a key column cannot be inet[]", ""),
        ('type = "inet", misfits_to = "d"', "misfits_to expects a type that the loader judges", ""),
        ('type = "inet", max = 5', "max expects type smallint", ""),
        ('type = "inet); drop table x; --"', "expected the name of a type, such as inet", ""),
        ('type = "text not null"', "expected the name of a type", ""),
    ],
)
def test_a_wrong_type_is_reported_with_its_column(site: Site, options: str, problem: str, hint: str) -> None:
    """A type that the server does not know, and an option that does not fit it, is exit code 2 with the place."""
    key = 'key = ["c"]\n' if "required" in options else ""
    text = f'name = "odd"\n{key}[[table]]\nname = "lab.odd"\n[table.columns]\nc = {{ {options} }}\nd = "text"\n'
    path = site.write_definition(text)
    made = site.run("dataset", "create", "odd")
    assert made.returncode == 2
    assert str(path.name) in made.stderr
    assert "table lab.odd, column c: " in made.stderr
    assert problem in made.stderr
    assert hint in made.stderr


def test_a_vector_in_another_schema_is_named_with_it(site: Site) -> None:
    """The hint names the schema of the extension; with it `db migrate` makes the table and `db check` is content."""
    site.ask("create schema extensions")
    site.ask("create extension vector schema extensions")
    text = 'name = "odd"\n[[table]]\nname = "lab.odd"\n[table.columns]\nc = "vector(2)"\n'
    site.write_definition(text)
    checked = site.run("db", "check")
    assert (checked.returncode, "as in extensions.vector" in checked.stdout) == (2, True), checked.stdout
    site.write_definition(text.replace("vector(2)", "extensions.vector(2)"))
    assert site.run("db", "migrate").returncode == 0
    assert site.run("db", "check").returncode == 0
    (site.folder / "odd.ndjson").write_text('{"c": [1, 2]}\n{"c": [1]}\n')
    done = site.run("load", "odd", "odd.ndjson", "--max-rejected", "1", "--json")
    assert done.returncode == 1, done.stderr
    assert site.value("select c::text from lab.odd") == "[1,2]"
    [line] = site.failures.records(done.summary["run"])
    assert "expected an array of 2 numbers, got 1" in line.values()


def test_a_type_that_is_gone_ends_a_load_before_it_begins(site: Site) -> None:
    """The check of `dataset create` is also that of `load`, and `dataset check` reports another type in the table."""
    site.ask("create domain public.code as text")
    text = 'name = "odd"\n[[table]]\nname = "lab.odd"\n[table.columns]\nc = "code"\nd = "numeric( 10, 2 )"\n'
    site.define(text)
    assert site.run("dataset", "check", "odd").returncode == 0
    site.ask("alter table lab.odd alter d type numeric(12, 2)")
    assert "is numeric(12,2), and not numeric( 10, 2 )" in site.run("dataset", "check", "odd").stdout
    site.ask("alter table lab.odd alter c type text")
    site.ask("drop domain public.code")
    (site.folder / "odd.ndjson").write_text('{"c": "x"}\n')
    done = site.run("load", "odd", "odd.ndjson")
    assert done.returncode == 2
    assert "table lab.odd, column c: the server knows no type code" in done.stderr


def test_a_replace_writes_values_that_their_type_takes_for_equal(site: Site) -> None:
    """A box of the same area, and a type without an equality, are compared as texts; an equal row stays."""
    site.define(
        'name = "areas"\nmode = "replace"\nkey = ["id"]\n[[table]]\nname = "lab.areas"\n[table.columns]\n'
        'id = { type = "inet", required = true }\narea = "box"\nat = "point"\n'
        '[[table]]\nname = "lab.spots"\neach = "spots"\n[table.columns]\n'
        'id = { path = "^.id", type = "inet" }\nspot = { path = ".", type = "json" }\n'
    )
    first = [
        {"id": "10.0.0.1", "area": "(2,2),(0,0)", "at": "(1,1)", "spots": [1, {"a": 1}]},
        {"id": "10.0.0.2", "area": "(1,1),(0,0)", "at": "(1,1)", "spots": [1]},
    ]
    second = [first[0] | {"area": "(4,1),(0,0)"}, first[1] | {"spots": [2]}]
    for number, records in enumerate((first, second)):
        (site.folder / f"{number}.json").write_text(json.dumps(records))
        assert site.run("load", "areas", f"{number}.json", "--json").returncode == 0
    assert site.ask("select id::text, area::text from lab.areas order by id") == [
        ("10.0.0.1/32", "(4,1),(0,0)"),
        ("10.0.0.2/32", "(1,1),(0,0)"),
    ]
    assert site.ask("select host(id), spot::text from lab.spots order by 1, 2") == [
        ("10.0.0.1", "1"),
        ("10.0.0.1", '{"a":1}'),
        ("10.0.0.2", "2"),
    ]
