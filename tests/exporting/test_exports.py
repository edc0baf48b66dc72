"""`etl export`: files that other programs read with the same rows, one instant, and a manifest that is written last."""

import csv
import hashlib
import io
import json
from pathlib import Path
from typing import Any

import duckdb
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from psycopg import sql
from pyarrow import parquet

from etl.exporting import receiving
from tests.support import hostile_table
from tests.support.hostile_table import ROWS, expected
from tests.support.site import Site


def manifest_of(folder: Path) -> dict[str, Any]:
    """Return the manifest of an export, whose files are all there with the bytes that it says, and no others."""
    manifest: dict[str, Any] = json.loads((folder / "manifest.json").read_text())
    files = {file["path"]: file for table in manifest["tables"] for file in table["files"]}
    found = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert found == {*files, "manifest.json", ".etl-export.lock"}
    for name, file in files.items():
        content = (folder / name).read_bytes()
        assert (len(content), hashlib.sha256(content).hexdigest()) == (file["bytes"], file["sha256"])
    return manifest


def paths_of(folder: Path, table: str) -> list[str]:
    """Return the paths of the files of a table."""
    entries = {entry["table"]: entry for entry in manifest_of(folder)["tables"]}
    return [str(folder / file["path"]) for file in entries[table]["files"]]


def by_id(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return rows in the order of their identifiers, without the column that names their file."""
    return sorted(({name: row[name] for name in expected({})} for row in rows), key=lambda row: row["id"])


def test_four_programs_read_every_value_back(site: Site) -> None:
    """DuckDB, pyarrow, pandas and Polars read the rows of PostgreSQL: each digit, instant, null and character."""
    hostile_table.make(site.connection)
    done = site.run("export", "hostile", "--to", "out", "--partition", "month", "--json")
    assert (done.returncode, [(line["rows"], line["files"]) for line in done.lines]) == (0, [(4, 4)])
    paths = paths_of(site.folder / "out", hostile_table.NAME)
    want = [expected(row) for row in ROWS]
    arrow = pa.concat_tables([parquet.ParquetFile(path).read() for path in paths])
    assert by_id(arrow.to_pylist()) == want
    assert by_id(pl.read_parquet(paths, hive_partitioning=False).to_dicts()) == want
    read = duckdb.read_parquet(paths, hive_partitioning=False)
    assert by_id(read.to_arrow_table().to_pylist()) == want
    frame = pd.concat([pd.read_parquet(path, dtype_backend="pyarrow", partitioning=None) for path in paths])
    assert by_id(pa.Table.from_pandas(frame, schema=arrow.schema.remove_metadata()).to_pylist()) == want
    sums = duckdb.read_parquet(paths).aggregate("sum(plain), sum(declared), count(*)").fetchall()
    assert sums == site.ask("select sum(plain), sum(declared), count(*) from logistics.hostile")


def test_the_months_of_a_table_are_folders(site: Site) -> None:
    """Each month (UTC) of a table of facts is a file; an aggregate, which has a column month, has other folders."""
    site.run("generate", "shipments", "--records", "50", "--output", "s.json", "--seed", "3")
    assert site.load("shipments", "s.json")["exit_code"] == 0
    assert site.run("export", "--to", "out", "--partition", "month").returncode == 0
    manifest = manifest_of(site.folder / "out")
    tables = {table["table"]: table for table in manifest["tables"]}
    assert {"logistics.shipments", "logistics.vehicles", "analytics.lane_performance", "analytics.freshness"} < set(
        tables
    )
    months = site.column("select distinct to_char(created_at at time zone 'UTC', 'YYYY-MM') from logistics.shipments")
    shipments = tables["logistics.shipments"]
    assert [file["month"] for file in shipments["files"]] == sorted(months)
    assert shipments["files"][0]["path"].startswith(f"logistics.shipments/month={min(months)}/")
    assert tables["analytics.lane_performance"]["files"][0]["path"].startswith("analytics.lane_performance/etl_month=")
    for name, table in tables.items():
        count = sql.SQL("select count(*) from {}").format(sql.Identifier(*name.split(".")))
        assert site.ask(count) == [(table["rows"],)]
    newest = site.ask("select run, finished_at from etl.runs")[0]
    assert (manifest["run"], shipments["run"]) == (newest[0], newest[0])
    assert tables["analytics.lane_performance"]["pending_buckets"] == 0
    # A second export replaces the first one; what is not its own stays.
    (site.folder / "out" / "notes.parquet").write_text("mine")
    assert site.run("export", "vehicles", "--to", "out").returncode == 0
    (site.folder / "out" / "notes.parquet").unlink()
    again = manifest_of(site.folder / "out")
    assert (again["previous"], [table["table"] for table in again["tables"]]) == (
        manifest["export"],
        ["logistics.vehicles"],
    )


def test_values_that_arrow_does_not_have_are_kept_or_counted(site: Site) -> None:
    """NaN makes a column text, 24:00 and arrays of arrays too; years after 9999 stay; infinite times are counted."""
    hostile_table.make(site.connection)
    site.ask("update logistics.hostile set no_number = 'NaN', of_day = '24:00', names = '{{a},{b}}' where id = 2")
    site.ask("update logistics.hostile set instant = 'infinity', local = '0044-03-15 12:00 BC' where id = 3")
    site.ask("update logistics.hostile set day = '12026-01-02' where id = 3")
    site.ask("update logistics.hostile set local = '294276-12-31 23:59:59', instant = '0044-03-15 BC' where id = 4")
    done = site.run("export", "hostile", "--to", "out", "--partition", "month")
    assert done.returncode == 0
    [entry] = manifest_of(site.folder / "out")["tables"]
    stored = {column["name"]: column for column in entry["columns"]}
    texts = {name for name, column in stored.items() if column["stored"] == "string"}
    assert texts == {"longer", "no_number", "name", "names", "document", "of_day", "one"}
    assert {name: column["infinite_as_null"] for name, column in stored.items() if column["infinite_as_null"]} == {
        "instant": 1,
        "local": 1,
    }
    assert "times_not_in_export" in done.stderr
    paths = paths_of(site.folder / "out", hostile_table.NAME)
    rows = duckdb.read_parquet(paths, hive_partitioning=False)
    chosen = rows.project("id, no_number, of_day, names, instant::varchar, local::varchar, day::varchar")
    values = {row[0]: row[1:] for row in chosen.fetchall()}
    assert values[2][:3] == ("NaN", "24:00:00", "{{a},{b}}")
    assert values[3][3:] == (None, "0044-03-15 (BC) 12:00:00", "12026-01-02")
    assert values[1][0] == "1.50"
    [without] = [path for path in paths if "month=__HIVE_DEFAULT_PARTITION__" in path]
    assert duckdb.read_parquet(without, hive_partitioning=False).project("id").order("id").fetchall() == [(3,), (4,)]


def test_a_value_beyond_the_sample_changes_the_digits(site: Site) -> None:
    """Digits come from a sample; a value with more digits elsewhere is exported, too, with the digits that it needs."""
    site.ask("create table logistics.long (n numeric, filler text)")
    site.ask("insert into logistics.long select 1.25, repeat('x', 2000) from generate_series(1, 4000)")
    site.ask("insert into logistics.long select 12345678901234567890.123456789, null")
    assert site.run("export", "logistics.long", "--to", "out").returncode == 0
    [path] = paths_of(site.folder / "out", "logistics.long")
    found = duckdb.read_parquet(path).aggregate("sum(n), count(*), typeof(any_value(n))").fetchall()
    assert found == [(site.value("select sum(n) from logistics.long"), 4001, "DECIMAL(38,9)")]


@pytest.mark.parametrize("format", ["csv", "parquet"])
def test_a_null_in_the_only_column_is_a_row(site: Site, format: str) -> None:
    """A row that is an empty line of CSV counts, and a line that ends between quotes does not."""
    site.ask("create table logistics.single (name text); insert into logistics.single values (null), (''), ('a\nb')")
    assert site.run("export", "logistics.single", "--to", "out", "--format", format).returncode == 0
    [path] = paths_of(site.folder / "out", "logistics.single")
    if format == "csv":
        assert Path(path).read_text() == 'name\n\n""\n"a\nb"\n'
    else:
        assert parquet.read_table(path).column("name").to_pylist() == [None, "", "a\nb"]
    assert manifest_of(site.folder / "out")["tables"][0]["rows"] == 3


@pytest.mark.parametrize("format", ["csv", "arrow"])
def test_csv_and_arrow_hold_the_same_rows(site: Site, format: str) -> None:
    """CSV has the texts of PostgreSQL, where a null is no empty text; Arrow has the values of Parquet."""
    hostile_table.make(site.connection)
    assert site.run("export", "hostile", "--to", "out", "--format", format, "--partition", "month").returncode == 0
    paths = paths_of(site.folder / "out", hostile_table.NAME)
    assert len(paths) == 4
    if format == "arrow":
        tables = [pa.ipc.open_file(path).read_all() for path in paths]
        assert by_id(pa.concat_tables(tables).to_pylist()) == [expected(row) for row in ROWS]
        return
    files = [io.StringIO(Path(path).read_bytes().decode(), newline="") for path in paths]
    rows = [row for file in files for row in csv.DictReader(file)]
    texts = site.ask(
        "select id::text, plain::text, name, names::text, instant::text from logistics.hostile order by id"
    )
    assert sorted((row["id"], row["plain"], row["name"], row["names"], row["instant"]) for row in rows) == [
        tuple(value or "" for value in row) for row in texts
    ]
    [line] = [line for file in files for line in file.getvalue().split("\n") if line.startswith("2,")]
    assert line == '2,,,,,"",{},,2026-06-30 23:59:59.999999+00,,,,,,,'


def test_wrong_names_rights_and_places_are_errors(site: Site, tmp_path: Path) -> None:
    """An unknown table, a folder that cannot be made and a protocol without writing end with 2 and say what to do."""
    done = site.run("export", "shipmets", "--to", "out")
    assert (done.returncode, "did you mean shipments?" in done.stderr) == (2, True)
    (tmp_path / "file").write_text("")
    assert site.run("export", "vehicles", "--to", tmp_path / "file").returncode == 2
    assert "cannot be written to http://" in site.run("export", "vehicles", "--to", "http://example.com/x").stderr
    assert not (site.folder / "out" / "manifest.json").exists()


def test_rows_of_many_months_are_few_row_groups(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows whose months alternate wait on the disk until they are a row group, and none is lost or doubled."""
    monkeypatch.setattr(receiving, "HELD_BYTES", 200_000)
    monkeypatch.setattr(receiving, "BLOCK_BYTES", 1_000_000)
    monkeypatch.setattr(receiving, "_LOOK_BYTES", 50_000)
    site.ask("create table logistics.stops (id integer, day date, filler text)")
    site.ask("create index on logistics.stops (day)")
    site.ask(
        "insert into logistics.stops select id, date '2026-01-01' + id * 31 % 365, repeat(md5(id::text), 4)"
        " from generate_series(1, 60000) id"
    )
    assert site.run("export", "stops", "--to", "out", "--partition", "month").returncode == 0
    paths = paths_of(site.folder / "out", "logistics.stops")
    groups = [parquet.ParquetFile(path).metadata.num_row_groups for path in paths]
    assert (len(groups), max(groups)) == (12, 1)
    rows = duckdb.read_parquet(paths, hive_partitioning=False).aggregate("count(*), sum(id), count(distinct id)")
    assert rows.fetchall() == [(60000, 60000 * 60001 // 2, 60000)]
