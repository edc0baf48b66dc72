from pathlib import Path

import psycopg
import pytest

from etl.database.comparison import compare
from etl.database.tables import create_tables, guarded_columns, require_key, require_tables
from etl.datasets import Dataset, read
from etl.errors import UsageError
from tests.support.faults import Connection

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
