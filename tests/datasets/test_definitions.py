import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from psycopg import sql

from etl.datasets import TYPES, Column, Dataset, Table, ddl, find, names, read, readable
from etl.errors import DefinitionError
from tests.support.definitions import Define
from tests.support.faults import Connection

PARCELS = """
name = "parcels"
records = "export.parcels.item"
mode = "merge"
key = ["parcel_id"]
newest_by = "sent_at"
comment = "What is sent"

[[table]]
name = "logistics.parcels"
index = [["sent_at"], ["carrier", "sent_at"]]
comment = "One row per parcel"
[table.columns]
parcel_id = { path = "id", type = "text", required = true, max_length = 20, comment = "Identifies 'it'" }
carrier = "text"
sent_at = "timestamptz"
weight_kg = { type = "numeric", above = 0, max = "99.50", misfits_to = "note", null_if = ["N/A", -1] }
pieces = { type = "smallint", min = 1 }
level = { type = "text", one_of = ["a", "it's", "%s"] }
note = { path = "remarks.note", type = "text" }
feed = { value = "x", type = "text" }
raw = { path = ".", type = "jsonb" }

[[table]]
name = "logistics.parcel_items"
each = "items"
[table.columns]
parcel_id = { path = "^.id", type = "text" }
line_no = { path = "#", type = "integer" }
sku = { type = "text" }
"""


def test_a_definition_is_a_value(define: Define) -> None:
    """Every word of a definition is in the value; the path of a column is its name by default."""
    dataset = define(PARCELS)
    assert (dataset.name, dataset.records, dataset.mode) == ("parcels", "export.parcels.item", "merge")
    assert (dataset.key, dataset.newest_by) == (("parcel_id",), "sent_at")
    first, items = dataset.tables
    assert (first.name, first.each, first.index) == ("logistics.parcels", (), (("sent_at",), ("carrier", "sent_at")))
    assert (items.name, items.each, items.index) == ("logistics.parcel_items", ("items",), ())
    assert first.column("carrier") == Column(name="carrier", path="carrier", type="text")
    assert first.column("weight_kg") == Column(
        name="weight_kg", path="weight_kg", type="numeric", above=0, max="99.50", misfits_to="note", null_if=("N/A", -1)
    )
    assert first.column("none") is None


def test_options_have_defaults(define: Define) -> None:
    """The shortest definition appends the elements of a top-level array."""
    dataset = define('name = "parcels"\n[[table]]\nname = "a.b"\ncolumns = { c = "text" }')
    assert (dataset.records, dataset.mode, dataset.key, dataset.newest_by) == ("item", "append", (), None)


def _with(old: str, new: str) -> str:
    assert old in PARCELS
    return PARCELS.replace(old, new, 1)


WEIGHT = '{ type = "numeric", above = 0, max = "99.50", misfits_to = "note", null_if = ["N/A", -1] }'

# (the fault, the definition, the message after the name of the file)
WRONG: list[tuple[str, str, str]] = [
    ("no TOML", "name = ", "invalid value"),
    ("control character", "name = '\x01'", "invalid character|illegal character"),
    ("empty", "", "missing required field `name`"),
    ("no table", 'name = "parcels"\ntable = []', r"expected at least one \[\[table\]\]"),
    ("table is one", 'name = "parcels"\n[table]\nname = "a.b"', r"expected `array`, got `object`"),
    ("unknown key", _with('mode = "merge"', 'modus = "merge"'), "unknown field `modus`"),
    ("unknown mode", _with('"merge"', '"upsert"'), "invalid enum value 'upsert'"),
    ("another name", _with('"parcels"', '"packets"'), "expected name = 'parcels', as the file is named, got 'packets'"),
    ("records without a name", _with("export.parcels", "export..parcels"), "records: expected a path"),
    ("key of a wrong type", _with('["parcel_id"]', '"parcel_id"'), "expected `array`, got `str`"),
    ("key without a column", _with('key = ["parcel_id"]', 'key = ["id"]'), "key names 'id', which is not a column"),
    ("key twice", _with('["parcel_id"]', '["parcel_id", "parcel_id"]'), "key names a column twice"),
    ("merge without a key", _with('key = ["parcel_id"]', ""), "mode merge expects `key`"),
    (
        "key may be null",
        _with("required = true, ", ""),
        "table logistics.parcels, column parcel_id: a key column expects required",
    ),
    (
        "key is jsonb",
        _with('"text", required = true, max_length = 20', '"jsonb", required = true'),
        "column parcel_id: a key column cannot be jsonb",
    ),
    (
        "child without the key",
        _with('parcel_id = { path = "^.id", type = "text" }', ""),
        "table logistics.parcel_items: expected the key column parcel_id of type text",
    ),
    (
        "child with another key",
        _with('"^.id", type = "text"', '"^.id", type = "bigint"'),
        "table logistics.parcel_items: expected the key column parcel_id of type text",
    ),
    (
        "newest_by no column",
        _with('newest_by = "sent_at"', 'newest_by = "sent"'),
        "newest_by names 'sent', which is not a comparable column",
    ),
    (
        "newest_by is jsonb",
        _with('newest_by = "sent_at"', 'newest_by = "raw"'),
        "newest_by names 'raw', which is not a comparable column",
    ),
    (
        "keep_first of the key",
        _with("parcel_id = {", "parcel_id = { keep_first = true,"),
        "column parcel_id: keep_first expects a column that is neither in the key nor newest_by",
    ),
    (
        "keep_first of the order",
        _with('sent_at = "timestamptz"', 'sent_at = { type = "timestamptz", keep_first = true }'),
        "column sent_at: keep_first expects a column that is neither in the key nor newest_by",
    ),
    (
        "newest_by without a key",
        'name = "parcels"\nnewest_by = "c"\n[[table]]\nname = "a.b"\ncolumns = { c = "date" }',
        "newest_by expects `key`",
    ),
    ("table without a name", _with('name = "logistics.parcels"', ""), "table 1: .*missing required field `name`"),
    (
        "table without a schema",
        _with('"logistics.parcels"', '"parcels"'),
        "table 1: expected a name such as logistics.shipments, got 'parcels'",
    ),
    (
        "table with a quote",
        _with('"logistics.parcels"', "'logistics.\"; drop'"),
        "table 1: expected a name such as logistics.shipments",
    ),
    (
        "table with a long name",
        _with('"logistics.parcels"', f'"logistics.{"x" * 64}"'),
        "table 1: expected a name such as",
    ),
    ("two tables with one name", _with('"logistics.parcel_items"', '"logistics.parcels"'), "two tables have one name"),
    ("table with an unknown key", _with("index =", "indexes ="), "table 1: .*unknown field `indexes`"),
    (
        "first table with each",
        _with('index = [["sent_at"], ["carrier", "sent_at"]]', 'each = "items"'),
        "table logistics.parcels: only later tables have `each`",
    ),
    (
        "later table without each",
        _with('each = "items"', ""),
        "table logistics.parcels: expected `where`: without it a later table without `each` gets no record",
    ),
    (
        "where of nothing",
        _with('each = "items"', 'each = "items"\nwhere = { sku = [] }'),
        "where expects values of sku",
    ),
    ("where of no path", _with('each = "items"', 'each = "items"\nwhere = { "a..b" = 1 }'), "where: expected a path"),
    ("where of a day", _with('each = "items"', 'each = "items"\nwhere = { a = 2026-01-01 }'), "table 2: expected"),
    (
        "where beyond the record",
        _with('each = "items"', 'each = "items"\nwhere = { "^.^.a" = 1 }'),
        r"table logistics.parcel_items: where: path .* leads beyond the record",
    ),
    (
        "each without a name",
        _with('each = "items"', 'each = "box..items"'),
        "table logistics.parcel_items: each expects a path such as items",
    ),
    ("no column", 'name = "parcels"\n[[table]]\nname = "a.b"\ncolumns = {}', "table a.b: expected at least one column"),
    (
        "index without a column",
        _with('[["sent_at"], ', '[["sent"], '),
        "table logistics.parcels: index names 'sent', which is not a column",
    ),
    (
        "empty index",
        _with('[["sent_at"], ', "[[], "),
        "table logistics.parcels: index expects lists of different columns",
    ),
    (
        "index twice on one",
        _with('[["sent_at"], ', '[["pieces", "pieces"], '),
        "table logistics.parcels: index expects lists of different columns",
    ),
    (
        "unknown type",
        _with('carrier = "text"', 'carrier = "string"'),
        "table logistics.parcels, column carrier: no type is called 'string'",
    ),
    (
        "no type",
        _with('carrier = "text"', 'carrier = { path = "c" }'),
        "column carrier: .*missing required field `type`",
    ),
    (
        "unknown option",
        _with('carrier = "text"', 'carrier = { type = "text", length = 5 }'),
        "table logistics.parcels, column carrier: .*unknown field `length`",
    ),
    (
        "name as option",
        _with('carrier = "text"', 'carrier = { type = "text", name = "x" }'),
        "table logistics.parcels, column carrier: unknown option `name`",
    ),
    ("column is a number", _with('carrier = "text"', "carrier = 5"), "table 1: expected `str | object`, got `int`"),
    ("required is text", _with("required = true", 'required = "yes"'), "column parcel_id: expected `bool`, got `str`"),
    (
        "column with a quote",
        _with('carrier = "text"', '\'a" text; --\' = "text"'),
        "expected a name of letters, digits and _, at most 63 long",
    ),
    ("column with a long name", _with("carrier =", f"{'x' * 64} ="), "expected a name of letters"),
    (
        "column named as lineage",
        _with("carrier =", "etl_run ="),
        "column etl_run: the name is used by the lineage of each row",
    ),
    ("column named as PostgreSQL's", _with("carrier =", "xmin ="), "column xmin: the name is used by PostgreSQL"),
    (
        "path without a name",
        _with('"remarks.note"', '"remarks..note"'),
        "column note: expected a path such as origin.city, got 'remarks..note'",
    ),
    (
        "position outside each",
        _with('"remarks.note"', '"#"'),
        "column note: path '#' has a meaning only in a table with `each`",
    ),
    (
        "enclosing outside each",
        _with('"remarks.note"', '"^.note"'),
        "column note: path '\\^.note' has a meaning only in a table with `each`",
    ),
    *(
        (f"{options}", _with('carrier = "text"', f"carrier = {{ {options} }}"), f"column carrier: {message}")
        for options, message in (
            ('type = "text", timezone = "UTC"', "timezone expects type timestamptz, not text"),
            (
                'type = "timestamptz", timezone = "Europe/Berln"',
                "timezone expects a name .*, got 'Europe/Berln'; did you mean Europe/Berlin\\?",
            ),
            ('type = "timestamptz", timezone = "CET"', "timezone expects a name"),
            ('type = "text", formats = ["%Y"]', "formats expects type date, time, timestamp or timestamptz, not text"),
            ('type = "date", formats = ["%Y-%m-%e"]', "format '%Y-%m-%e' has %e, expected only"),
            ('type = "date", formats = ["%d.%m."]', "format '%d.%m.' names no year: expected %Y or %y"),
            ('type = "date", formats = ["%m/%Y"]', "format '%m/%Y' names no day"),
            ('type = "date", formats = ["iso"]', "format 'iso' names no year"),
            ('type = "timestamp", formats = ["%Y-%m-%d %z"]', "format .* has a zone, %z, and a timestamp has none"),
            ('type = "timestamptz", formats = ["%d.%m.%Y"]', "format '%d.%m.%Y' has no zone: expected %z"),
            ('type = "time", formats = ["%M:%S"]', "format '%M:%S' names no hour: expected %H or %I"),
            ('type = "time", formats = ["%H:%M %z"]', "format .* has a zone, %z, and a time has none"),
            ('type = "time", timezone = "UTC"', "timezone expects type timestamptz, not time"),
            ('type = "time", min = "8:15"', "min expects a time of day such as 08:15, got '8:15'"),
            ('type = "time", max = 24', "max expects a time of day such as 08:15, got 24"),
            ('type = "time", min = "22:00", max = "06:00"', "no value is at least 22:00 and at most 06:00"),
            ('type = "time", above = "24:00", max = "24:00:00"', "no value is more than 24:00 and at most 24:00:00"),
            ('type = "jsonb", trim = true', "trim expects a type of single values, not jsonb"),
            ('type = "text[]", trim = true', r"trim expects a type of single values, not text\[\]"),
            ('type = "text[]", default = "x"', r"default expects a type of single values, not text\[\]"),
            ('type = "text[]", max_length = 5', r"max_length expects type text, not text\[\]"),
        )
    ),
    (
        "quote without its end",
        _with('path = "remarks.note"', "path = '\"remarks.note'"),
        "column note: expected a path such as origin.city, got '\"remarks.note'",
    ),
    (
        "no JSON in quotes",
        _with('path = "remarks.note"', "path = '\"a\\q\"'"),
        "column note: expected a name in quotes as JSON writes it",
    ),
    (
        "match of a constant",
        _with('value = "x"', 'value = "x", match = "y"'),
        "column feed: match expects value = '\\$source'",
    ),
    (
        "match is none",
        _with('value = "x"', 'value = "$source", match = "("'),
        "column feed: match expects a regular expression",
    ),
    (
        "match of two",
        _with('value = "x"', 'value = "$source", match = "(a)(b)"'),
        "column feed: match expects at most one group",
    ),
    (
        "enclosing of nothing",
        _with('"^.id"', '"^."'),
        "column parcel_id: expected a path such as origin.city, got '\\^.'",
    ),
    (
        "enclosing twice",
        _with('"^.id"', '"^.^.id"'),
        "column parcel_id: path '\\^.\\^.id' leads beyond the record",
    ),
    (
        "path and value",
        _with('{ value = "x",', '{ value = "x", path = "y",'),
        "column feed: path and value exclude each other",
    ),
    (
        "bound on text",
        _with('carrier = "text"', 'carrier = { type = "text", min = 0 }'),
        "column carrier: min expects type smallint, integer, bigint, numeric, double or time, not text",
    ),
    (
        "bound is no number",
        _with('max = "99.50"', 'max = "lots"'),
        "column weight_kg: max expects a plain number, got 'lots'",
    ),
    (
        "bounds that exclude each other",
        _with("above = 0", 'above = "99.50"'),
        "column weight_kg: no value is more than 99.50 and at most 99.50",
    ),
    (
        "NUL in a value",
        _with('{ value = "x",', '{ value = "a\\u0000b",'),
        "column feed: PostgreSQL holds no NUL character",
    ),
    ("schema of the ledger", _with('"logistics.parcels"', '"etl.runs"'), "table etl.runs: the schema is not for facts"),
    ("bound is infinite", _with("above = 0", "above = inf"), "column weight_kg: above expects a plain number, got inf"),
    (
        "bound is true",
        _with("above = 0", "above = true"),
        "column weight_kg: expected `int | float | str | null`, got `bool`",
    ),
    ("bound with other digits", _with('max = "99.50"', 'max = "٩"'), "column weight_kg: max expects a plain number"),
    (
        "length of a number",
        _with("min = 1", "max_length = 1"),
        "column pieces: max_length expects type text, not smallint",
    ),
    (
        "length of nothing",
        _with("max_length = 20", "max_length = 0"),
        "column parcel_id: max_length expects 1 or more, got 0",
    ),
    (
        "length is true",
        _with("max_length = 20", "max_length = true"),
        "column parcel_id: expected `int | null`, got `bool`",
    ),
    (
        "choice of numbers",
        _with('one_of = ["a", "it\'s", "%s"]', "one_of = [1, 2]"),
        "column level: expected `str`, got `int`",
    ),
    ("null_if of a list", _with('"N/A", -1', "[1]"), "column weight_kg: Expected `array` of length 0"),
    (
        "misfits to no column",
        _with('misfits_to = "note"', 'misfits_to = "notes"'),
        "column weight_kg: misfits_to names 'notes', which is not another text column",
    ),
    (
        "misfits to a number",
        _with('misfits_to = "note"', 'misfits_to = "pieces"'),
        "column weight_kg: misfits_to names 'pieces', which is not another text column",
    ),
    (
        "misfits to itself",
        _with('carrier = "text"', 'carrier = { type = "text", misfits_to = "carrier" }'),
        "column carrier: misfits_to names 'carrier'",
    ),
    (
        "misfits of two",
        _with("min = 1", 'misfits_to = "note"'),
        "table logistics.parcels: two columns send their misfits to one column",
    ),
    (
        "misfits of a required",
        _with("above = 0", "required = true"),
        "column weight_kg: a required column cannot send its misfits elsewhere",
    ),
]


@pytest.mark.parametrize(("text", "message"), [wrong[1:] for wrong in WRONG], ids=[wrong[0] for wrong in WRONG])
def test_a_wrong_definition_names_file_table_and_column(
    tmp_path: Path, define: Define, text: str, message: str
) -> None:
    """A fault of a definition is reported with its file, table and column."""
    with pytest.raises(DefinitionError) as caught:
        define(text)
    error = str(caught.value)
    assert error.startswith(f"{tmp_path / 'parcels.toml'}: ")
    assert re.search(message.lower(), error.lower()), error
    assert "\n" not in error


def test_a_file_that_cannot_be_read_is_reported(tmp_path: Path) -> None:
    """A definition that is a folder, is missing or is not UTF-8 is a DefinitionError, too."""
    (tmp_path / "binary.toml").write_bytes(b'name = "\xff"')
    (tmp_path / "folder.toml").mkdir()
    for name in ("binary", "folder", "missing"):
        with pytest.raises(DefinitionError, match=f"{name}.toml"):
            read(tmp_path / f"{name}.toml")


def test_a_definition_of_ones_own_comes_first(tmp_path: Path) -> None:
    """A definition in the folder of the user overrides the shipped one of that name, and names of both are found."""
    own = tmp_path / "datasets"
    own.mkdir()
    (own / "vehicles.toml").write_text('name = "vehicles"\n[[table]]\nname = "a.b"\ncolumns = { c = "text" }')
    (own / "wrong.toml").write_text("name =")
    assert find("vehicles", tmp_path).path == str(own / "vehicles.toml")
    assert find("shipments", tmp_path).path != str(own / "shipments.toml")
    assert {"vehicles", "wrong", "shipments"} <= set(names(tmp_path))
    assert "wrong" not in {dataset.name for dataset in readable(tmp_path)}


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("shipment", "did you mean shipments?"),
        ("nonsense", "known datasets: "),
        ("../datasets/shipments", ""),
        ("x" * 5000, ""),
    ],
)
def test_an_unknown_name_is_reported(tmp_path: Path, name: str, hint: str) -> None:
    """An unknown dataset is reported with one of a similar name, or with all datasets."""
    with pytest.raises(DefinitionError, match="no dataset is called") as caught:
        find(name, tmp_path)
    assert caught.value.hint is not None
    assert caught.value.hint.startswith(hint)


def test_a_file_with_an_invalid_name_is_reported(tmp_path: Path) -> None:
    """A definition in a file whose name cannot be that of a dataset is found and reported as wrong."""
    (tmp_path / "datasets").mkdir()
    (tmp_path / "datasets/my-data.toml").write_text(
        'name = "my-data"\n[[table]]\nname = "a.b"\ncolumns = { c = "text" }'
    )
    with pytest.raises(
        DefinitionError, match="expected a name of letters, digits and _, at most 63 long, got 'my-data'"
    ):
        find("my-data", tmp_path)


SAME = [
    _with("What is sent", "Something else"),
    _with('comment = "One row per parcel"', ""),
    _with("Identifies 'it'", "Its name"),
    _with('index = [["sent_at"], ["carrier", "sent_at"]]', ""),
    _with('carrier = "text"\nsent_at = "timestamptz"', 'sent_at = "timestamptz"\ncarrier = { type = "text" }'),
]
OTHER = [
    _with('"export.parcels.item"', '"parcels.item"'),
    _with('newest_by = "sent_at"', ""),
    _with('key = ["parcel_id"]', 'key = ["parcel_id", "carrier"]')
    .replace('carrier = "text"', 'carrier = { type = "text", required = true }')
    .replace('sku = { type = "text" }', 'carrier = "text"'),
    _with("above = 0", "above = 1"),
    _with('"N/A", -1', '"N/A"'),
    _with("max_length = 20", "max_length = 21"),
    _with('path = "id"', 'path = "ID"'),
    _with('value = "x"', 'value = "y"'),
    _with('each = "items"', 'each = "lines"'),
    _with('misfits_to = "note", ', ""),
    _with('sku = { type = "text" }', ""),
    _with('"logistics.parcel_items"', '"logistics.items"'),
    _with("min = 1", "min = 1, required = true"),
    _with('carrier = "text"', 'carrier = "jsonb"'),
]


def test_the_hash_changes_when_rows_change(define: Define) -> None:
    """The hash of a definition changes exactly when a record would become different rows."""
    digest = define(PARCELS).hash
    assert re.fullmatch("[0-9a-f]{16}", digest)
    assert [text for text in SAME if define(text).hash != digest] == []
    assert len({define(text).hash for text in OTHER} | {digest}) == len(OTHER) + 1


def _make(connection: Connection, dataset: Dataset) -> None:
    for statement in ddl(dataset):
        connection.execute(statement)


def _catalogue(connection: Connection) -> list[tuple[Any, ...]]:
    """Return all that PostgreSQL knows about the tables, except internal numbers."""
    columns = connection.execute(
        "select c.relname, a.attname, format_type(a.atttypid, a.atttypmod), a.attnotnull,"
        " col_description(c.oid, a.attnum), obj_description(c.oid)"
        " from pg_class c join pg_attribute a on a.attrelid = c.oid"
        " where c.relnamespace = 'logistics'::regnamespace and a.attnum > 0 order by c.relname, a.attnum"
    ).fetchall()
    constraints = connection.execute(
        "select conrelid::regclass::text, conname, pg_get_constraintdef(oid)"
        " from pg_constraint where connamespace = 'logistics'::regnamespace order by 1, 2"
    ).fetchall()
    return columns + constraints


def test_the_tables_are_what_the_definition_says(postgresql: Connection, define: Define) -> None:
    """The statements create types, keys, checks, indexes and comments as the definition says."""
    postgresql.execute("drop schema logistics cascade")
    _make(postgresql, define(PARCELS))
    found = _catalogue(postgresql)
    text = "One row per parcel"
    assert ("parcels", "parcel_id", "text", True, "Identifies 'it'", text) in found
    assert ("parcels", "weight_kg", "numeric", False, None, text) in found
    assert ("parcels", "pieces", "smallint", False, None, text) in found
    assert ("parcel_items", "line_no", "integer", False, None, None) in found
    checks = {row[1]: row[2] for row in found if len(row) == 3 and row[2].startswith("CHECK")}
    assert checks == {
        "parcels_parcel_id_max_length": "CHECK ((char_length(parcel_id) <= 20))",
        "parcels_weight_kg_above": "CHECK ((weight_kg > (0)::numeric))",
        "parcels_weight_kg_max": "CHECK ((weight_kg <= 99.50))",
        "parcels_pieces_min": "CHECK ((pieces >= 1))",
        "parcels_level_one_of": "CHECK ((level = ANY (ARRAY['a'::text, 'it''s'::text, '%s'::text])))",
    }
    indexes = postgresql.execute(
        "select indexname from pg_indexes where schemaname = 'logistics' order by 1"
    ).fetchall()
    assert [name for (name,) in indexes] == [
        "parcel_items_parcel_id_idx",
        "parcels_carrier_sent_at_idx",
        "parcels_pkey",
        "parcels_sent_at_idx",
    ]


def test_making_the_tables_again_changes_nothing(postgresql: Connection, define: Define) -> None:
    """The statements of a definition can be run again without effect."""
    dataset = define(PARCELS)
    _make(postgresql, dataset)
    before = _catalogue(postgresql)
    postgresql.execute("set client_min_messages = warning")
    _make(postgresql, dataset)
    assert _catalogue(postgresql) == before


def test_long_names_stay_different(postgresql: Connection, define: Define) -> None:
    """Names of checks and indexes that PostgreSQL would truncate to the same name stay different, and do not change."""
    name = "c" * 62
    text = f"""
    name = "parcels"
    [[table]]
    name = "logistics.{"t" * 63}"
    index = [["{name}a"], ["{name}b"]]
    [table.columns]
    {name}a = {{ type = "integer", min = 0, max = 5, above = -1 }}
    {name}b = {{ type = "text", max_length = 5, one_of = ["a"] }}
    """
    dataset = define("\n".join(line.strip() for line in text.splitlines()))
    for _ in range(2):
        _make(postgresql, dataset)
    checks = postgresql.execute(
        "select conname from pg_constraint where conrelid = %s::regclass and contype = 'c'", [dataset.tables[0].name]
    )
    assert len(checks.fetchall()) == 5
    indexes = postgresql.execute("select indexname from pg_indexes where tablename = %s", ["t" * 63])
    assert len(indexes.fetchall()) == 2


HOSTILE = st.text(
    st.sampled_from("\"'\\;%{}$-\n é") | st.characters(codec="utf-8", exclude_characters="\x00."),
    min_size=1,
    max_size=12,
)


def test_no_name_and_no_text_becomes_sql(postgresql: Connection) -> None:
    """The text of a name, a comment or a choice is stored unchanged and never executed."""

    @settings(deadline=None, derandomize=True, max_examples=60)
    @given(HOSTILE, HOSTILE, HOSTILE, HOSTILE, HOSTILE)
    def check(schema: str, name: str, column: str, choice: str, comment: str) -> None:
        columns = (Column(name=column, path="a", type="text", one_of=(choice,), comment=comment, max_length=99),)
        table = Table(name=f"{schema}.{name}", columns=columns, comment=comment, index=((column,),))
        dataset = Dataset(
            name="x", records="item", mode="merge", key=(column,), newest_by=None, tables=(table,), path=""
        )
        with postgresql.transaction(force_rollback=True):
            _make(postgresql, dataset)
            insert = sql.SQL("insert into {} values ({}, 1, 1, 1) returning {}").format(
                table.identifier, sql.Literal(choice), sql.Identifier(column)
            )
            assert postgresql.execute(insert).fetchone() == (choice,)
            stored = postgresql.execute(
                "select obj_description(%s::regclass)", [table.identifier.as_string(None)]
            ).fetchone()
            assert stored == (comment,)

    check()


def test_every_type_has_its_sql(postgresql: Connection, define: Define) -> None:
    """A column of each type of the definition can be created."""
    columns = "\n".join(f'c_{name.rstrip("[]")} = "{name}"' for name in TYPES if name != "text")
    _make(postgresql, define(f'name = "parcels"\n[[table]]\nname = "logistics.x"\n[table.columns]\n{columns}'))
    made = postgresql.execute("select * from logistics.x").description
    assert made is not None
    assert [column.name for column in made][: len(TYPES) - 1] == [
        f"c_{name.rstrip('[]')}" for name in TYPES if name != "text"
    ]


@pytest.mark.parametrize(
    ("old", "new", "hint"),
    [
        ('mode = "merge"', 'modus = "merge"', "mode"),
        ("index =", "indexes =", "index"),
        ('carrier = "text"', 'carrier = { type = "text", max_lenght = 5 }', "max_length"),
        ('carrier = "text"', 'carrier = "string"', "text"),
        ('carrier = "text"', 'carrier = "guid"', "uuid"),
        ('carrier = "text"', 'carrier = "big-int"', "bigint"),
    ],
)
def test_a_wrong_word_is_reported_with_the_intended_one(define: Define, old: str, new: str, hint: str) -> None:
    """An unknown key, option or type is reported with a similar one; a type also by its name in other systems."""
    with pytest.raises(DefinitionError) as caught:
        define(_with(old, new))
    assert caught.value.hint == f"did you mean {hint}?"
