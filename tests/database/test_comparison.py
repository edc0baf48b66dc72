from pathlib import Path
from typing import LiteralString

import psycopg
import pytest

from etl.database.comparison import compare
from etl.database.obstacles import require_loadable
from etl.database.tables import create_tables, guarded_columns, require_key, require_tables
from etl.datasets import Dataset, read
from etl.errors import UsageError
from tests.support.faults import Connection
from tests.support.site import Site

PARCELS = """
name = "parcels"
mode = "merge"
key = ["id"]
[[table]]
name = "logistics.parcels"
index = [["b_c"], ["b", "c"], ["c", "b"]]
[table.columns]
id = { type = "text", required = true }
b = { type = "text", max_length = 5, comment = "Second" }
c = { type = "integer", min = 0, default = 1 }
b_c = "text"
at = "timestamp"
sent_at = "timestamptz"
tags = "text[]"
[[table]]
name = "logistics.parcel_items"
each = "items"
columns = { id = { path = "^.id", type = "text" }, weight = { type = "numeric", above = 0 } }
"""


def _read(tmp_path: Path, text: str) -> Dataset:
    path = tmp_path / "parcels.toml"
    path.write_text(text)
    return read(path)


def test_tables_are_made_completed_and_compared(connection: Connection, tmp_path: Path) -> None:
    """A created table has no difference; any other table is reported with the statement that corrects it."""
    dataset = _read(tmp_path, PARCELS)
    [missing, _] = compare(connection, dataset)
    assert (missing.table, missing.found, missing.remedy) == (
        "logistics.parcels",
        "the table is missing",
        "etl dataset create parcels",
    )
    for _ in range(2):
        create_tables(connection, dataset)
        assert compare(connection, dataset) == []
    connection.execute(
        "alter table logistics.parcels alter column c type bigint, drop constraint parcels_b_max_length,"
        " drop constraint parcels_pkey, alter column id drop not null, alter column b_c set not null,"
        " add column by_hand text, add column needed text not null, add column counted text not null default '';"
        " drop index logistics.parcel_items_id_idx; alter table logistics.parcel_items drop column weight"
    )
    found = {(each.column, each.found): each.remedy for each in compare(connection, dataset)}
    assert found == {
        ("id", "takes null, and is required"): 'alter table "logistics"."parcels" alter column "id" set not null;',
        ("b", "lacks the CHECK ((char_length(b) <= 5))"): (
            'alter table "logistics"."parcels" add CHECK ((char_length(b) <= 5));'
        ),
        ("c", "is bigint, and not integer"): 'alter table "logistics"."parcels" alter column "c" type integer;',
        ("b_c", "refuses null, and is not required"): (
            'alter table "logistics"."parcels" alter column "b_c" drop not null;'
        ),
        ("by_hand", "is not in the definition, and stays"): "",
        ("counted", "is not in the definition, and stays"): "",
        ("needed", "is not in the definition, refuses null and has no default: no record loads"): (
            'alter table "logistics"."parcels" alter column "needed" drop not null;'
        ),
        (None, "no unique index of the key (id)"): 'alter table "logistics"."parcels" add primary key ("id");',
        ("weight", "the column is missing"): "etl dataset create parcels",
        (None, "no index on (id)"): "etl dataset create parcels",
    }
    for remedy in found.values():
        if remedy.startswith("alter"):
            connection.execute(remedy.encode())
    create_tables(connection, dataset)
    assert [each for each in compare(connection, dataset) if each.remedy] == []


def test_a_column_is_added_with_its_options(connection: Connection, tmp_path: Path) -> None:
    """A new column of a definition is added with its check, comment and default; a dropped column stays."""
    create_tables(connection, _read(tmp_path, PARCELS))
    connection.execute(
        "insert into logistics.parcels (id, b, etl_run, etl_batch, etl_place) values ('A', 'old', 1, 0, 1)"
    )
    more = '\nlevel = { type = "text", one_of = ["a", "b"], default = "a", required = true, comment = "Of care" }'
    wider = PARCELS.replace('b_c = "text"', f'b_c = "text"{more}').replace('at = "timestamp"\n', "")
    create_tables(connection, _read(tmp_path, wider))
    assert [each.found for each in compare(connection, _read(tmp_path, wider))] == [
        "is not in the definition, and stays"
    ]
    assert connection.execute("select b, level, at from logistics.parcels").fetchall() == [("old", "a", None)]
    comment = connection.execute(
        "select col_description('logistics.parcels'::regclass, attnum) from pg_attribute"
        " where attrelid = 'logistics.parcels'::regclass and attname = 'level'"
    ).fetchone()
    assert comment == ("Of care",)
    with pytest.raises(psycopg.errors.CheckViolation):
        connection.execute("update logistics.parcels set level = 'c'")
    needed = PARCELS.replace('b_c = "text"', 'b_c = "text"\nnew = { type = "date", required = true }')
    with pytest.raises(UsageError, match="its new column new is required") as caught:
        create_tables(connection, _read(tmp_path, needed))
    assert caught.value.hint == "give the column a default in the definition"


def test_capitals_are_kept(connection: Connection, tmp_path: Path) -> None:
    """A table and a key with capitals are created, found again, and corrected by the reported statement."""
    dataset = _read(
        tmp_path,
        'name = "parcels"\nmode = "merge"\nkey = ["Id"]\n[[table]]\nname = "logistics.Parcels"\n'
        'columns = { Id = { type = "text", required = true, max_length = 5 } }',
    )
    for _ in range(2):
        create_tables(connection, dataset)
    require_tables(connection, dataset)
    require_key(connection, dataset)
    assert guarded_columns(connection, dataset) == {("logistics.Parcels", "Id")}
    connection.execute(
        'alter table logistics."Parcels" drop constraint "Parcels_pkey", drop constraint "Parcels_Id_max_length"'
    )
    with pytest.raises(UsageError) as caught:
        require_key(connection, dataset)
    remedies = [each.remedy for each in compare(connection, dataset)]
    assert [f"{caught.value.hint};"] == remedies[1:]
    for remedy in remedies:
        connection.execute(remedy.encode())
    assert compare(connection, dataset) == []


def test_a_table_that_this_tool_did_not_make_is_completed_or_refused(connection: Connection, tmp_path: Path) -> None:
    """An empty table gets the lineage columns; a table with rows, and a view, are refused with the remedy."""
    dataset = _read(tmp_path, PARCELS)
    connection.execute("create table logistics.parcels (id text primary key)")
    connection.execute("insert into logistics.parcels values ('A')")
    with pytest.raises(UsageError, match="holds rows") as caught:
        create_tables(connection, dataset)
    assert "a table of its own" in (caught.value.hint or "")
    connection.execute("truncate logistics.parcels")
    create_tables(connection, dataset)
    assert [each for each in compare(connection, dataset) if each.remedy] == []
    connection.execute("alter table logistics.parcels drop column etl_place")
    with pytest.raises(UsageError, match="no column etl_place"):
        require_tables(connection, dataset)
    assert [each.column for each in compare(connection, dataset)] == ["etl_place"]
    connection.execute(
        "alter table logistics.parcels add etl_place integer not null, drop column b,"
        " add b text generated always as (id) stored"
    )
    with pytest.raises(UsageError, match="is generated by the server"):
        require_tables(connection, dataset)
    connection.execute("drop table logistics.parcel_items; create view logistics.parcel_items as select 'A' as id")
    with pytest.raises(UsageError, match="is no table"):
        create_tables(connection, dataset)


def test_no_two_indexes_have_one_name(connection: Connection, tmp_path: Path) -> None:
    """Indexes whose columns spell the same name are all created, in a table and in two tables of a schema."""
    text = (
        PARCELS.replace('"logistics.parcels"', '"logistics.parcels"')
        .replace('name = "logistics.parcel_items"', 'name = "logistics.parcels_b"\nindex = [["c"]]')
        .replace("columns = { id", 'columns = { c = "text", id')
    )
    create_tables(connection, _read(tmp_path, text))
    made = connection.execute(
        "select indrelid::regclass::text, count(*) from pg_index"
        " where indrelid::regclass::text like '%parcels%' group by 1"
    ).fetchall()
    assert dict(made) == {"logistics.parcels": 4, "logistics.parcels_b": 2}


def test_a_column_that_nothing_fills_is_reported(site: Site) -> None:
    """A column that refuses null and gets no value ends a load with exit code 2, and each check reports it."""
    site.define(PARCELS)
    alter = "alter table logistics.parcels "
    (site.folder / "one.ndjson").write_text('{"id": "A"}')
    fillings: dict[LiteralString, LiteralString] = {
        "add x int not null": "alter x set default 1",
        "add x lab_d": "alter x set default 1",
        "add x int not null check (x > 0)": "alter x add generated by default as identity",
    }
    site.ask("create domain lab_b as int not null; create domain lab_d as lab_b")
    for column, filling in fillings.items():
        site.ask(alter + column)
        done = site.run("load", "parcels", "one.ndjson", "--force")
        assert done.returncode == 2
        assert "the column x of logistics.parcels refuses null" in done.error
        assert "no record loads" in site.run("dataset", "check", "parcels").stdout
        [line] = [line for line in site.run("db", "check").stdout.splitlines() if "dataset parcels" in line]
        assert "refuses null" in line
        site.ask(alter + filling)
        assert "no record loads" not in site.run("dataset", "check", "parcels").stdout
        assert site.run("load", "parcels", "one.ndjson", "--force").returncode == 0
        site.ask(alter + "drop x")
        site.ask("delete from logistics.parcels")
    site.ask(
        "alter table logistics.parcels add x int not null; create function fill() returns trigger language plpgsql"
        " as 'begin new.x := 1; return new; end';"
        "create trigger fill before insert on logistics.parcels for each row execute function fill()"
    )
    assert site.run("load", "parcels", "one.ndjson", "--force").returncode == 0


def test_remedies_for_the_key_of_a_partitioned_table(connection: Connection, tmp_path: Path) -> None:
    """The remedy for a missing key holds the columns by which the table is partitioned; PostgreSQL accepts it."""
    dataset = _read(tmp_path, PARCELS)
    create_tables(connection, dataset)
    connection.execute(
        "create table logistics.whole (like logistics.parcels) partition by list (b);"
        "create table logistics.part partition of logistics.whole for values in ('x') partition by hash (c);"
        "drop table logistics.parcels; alter table logistics.whole rename to parcels"
    )
    with pytest.raises(UsageError, match="is partitioned and has no partition"):
        require_tables(connection, dataset)
    connection.execute("create table logistics.p0 partition of logistics.part for values with (modulus 1, remainder 0)")
    require_tables(connection, dataset)
    with pytest.raises(UsageError, match="no unique index") as caught:
        require_key(connection, dataset)
    [remedy] = [each.remedy for each in compare(connection, dataset) if "unique" in each.found]
    before, alter = remedy.split(", and: ")
    assert before == f"add b, c, by which logistics.parcels is partitioned, to key in {dataset.path}"
    assert caught.value.hint == remedy.removesuffix(";")
    connection.execute(alter)
    [remedy] = [each.remedy for each in compare(connection, dataset) if "unique" in each.found]
    assert remedy == before


def test_the_remedy_for_a_key_spares_another_primary_key(connection: Connection, tmp_path: Path) -> None:
    """A table with another primary key gets a unique index of the key, because it can have one primary key only."""
    dataset = _read(tmp_path, PARCELS)
    create_tables(connection, dataset)
    connection.execute(
        "alter table logistics.parcels drop constraint parcels_pkey,"
        " add n bigint generated always as identity primary key"
    )
    [remedy] = [each.remedy for each in compare(connection, dataset) if "unique" in each.found]
    assert remedy == 'alter table "logistics"."parcels" add unique ("id");'
    connection.execute(remedy.encode())
    require_key(connection, dataset)


def test_generated_columns_of_a_definition_are_reported(connection: Connection, tmp_path: Path) -> None:
    """A column that the server computes, or whose identity is generated always, is a difference with its remedy."""
    dataset = _read(tmp_path, PARCELS)
    create_tables(connection, dataset)
    connection.execute(
        "alter table logistics.parcels drop b_c, add b_c text generated always as (b) stored,"
        " alter c drop default, alter c set not null, alter c add generated always as identity"
    )
    found = {
        each.column: each.remedy for each in compare(connection, dataset) if "generated" in each.found + each.remedy
    }
    computed = [each for each in compare(connection, dataset) if "computed" in each.found]
    assert [each.column for each in computed] == ["b_c"]
    with pytest.raises(UsageError, match="generated always"):
        require_loadable(connection, dataset, "merge")
    connection.execute(found["c"])
    require_loadable(connection, dataset, "merge")
