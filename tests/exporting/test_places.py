"""Where exports are written: complete or absent, in a folder and in an object store, whatever ends the export."""

import hashlib
import json
import os
import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, LiteralString

import duckdb
import pytest

from tests.exporting.test_exports import manifest_of, paths_of
from tests.support.site import Site
from tests.support.stores import s3_replaced
from tests.support.waiting import until

AT_GATE: LiteralString = (
    "select 1 from pg_stat_activity where wait_event = 'advisory' and application_name = 'etl:export'"
    " and datname = current_database()"
)
GATE: LiteralString = (
    "create view logistics.gate as select id, pg_advisory_xact_lock_shared(42)::text as gate from logistics.first"
)


@pytest.fixture(scope="module")
def s3() -> Iterator[Any]:
    """Let moto replace S3, with a bucket `lake`; give a client of it."""
    with s3_replaced("lake") as client:
        yield client


def test_an_object_store_holds_an_export(site: Site, s3: Any) -> None:
    """Files and manifest are as in a folder; a second export writes what changed, and removes the old file after it."""
    environment = {name: value for name, value in os.environ.items() if name.startswith("AWS_")}
    site.ask("create table logistics.stops (id integer, at timestamptz not null)")
    site.ask("create index on logistics.stops (at)")
    site.ask(
        "insert into logistics.stops"
        " select id, timestamptz '2026-01-01' + id * interval '20 days' from generate_series(0, 5) id"
    )
    arguments = ("export", "stops", "--to", "s3://lake/daily", "--partition", "month", "--since-last")
    listings: list[dict[str, Any]] = []
    for month in ("", "2026-03"):
        if month:
            site.ask("update logistics.stops set id = 100 where id = 3")
        done = site.run(*arguments, env=environment)
        assert done.returncode == 0, done.stderr
        objects = {each["Key"] for each in s3.list_objects_v2(Bucket="lake")["Contents"]}
        manifest = json.loads(s3.get_object(Bucket="lake", Key="daily/manifest.json")["Body"].read())
        files = {file["month"]: file for table in manifest["tables"] for file in table["files"]}
        assert objects == {"daily/manifest.json", *(f"daily/{file['path']}" for file in files.values())}
        for file in files.values():
            content = s3.get_object(Bucket="lake", Key=f"daily/{file['path']}")["Body"].read()
            assert hashlib.sha256(content).hexdigest() == file["sha256"]
        listings.append(files)
    assert {month for month, file in listings[1].items() if file != listings[0][month]} == {"2026-03"}
    query = "select sum(id) as n from logistics.stops"
    done = site.run("sql", query, "--from", "s3://lake/daily", "--json", env=environment)
    assert [line["rows"] for line in done.lines] == [[[112]]]
    done = site.run("export", "stops", "--to", "s3://nowhere/daily", env=environment)
    assert (done.returncode, "s3://nowhere/daily cannot be" in done.stderr) == (2, True)


def test_all_tables_are_of_one_instant(site: Site) -> None:
    """What commits while an export reads its first table is in none of its tables; neither side waits."""
    site.ask("create table logistics.first (id integer); create table logistics.second (id integer)")
    site.ask("insert into logistics.first values (1); insert into logistics.second values (1)")
    site.ask(GATE)
    site.ask("select pg_advisory_lock(42)")
    running = site.start("export", "first", "logistics.gate", "second", "--to", "out")
    until(lambda: site.ask(AT_GATE), "the export at the gate")
    site.ask("insert into logistics.first values (2); insert into logistics.second values (2)")
    site.ask("select pg_advisory_unlock(42)")
    assert running.ended().returncode == 0
    tables = {table["table"]: table["rows"] for table in manifest_of(site.folder / "out")["tables"]}
    assert tables == {"logistics.first": 1, "logistics.gate": 1, "logistics.second": 1}


def test_a_second_export_to_a_folder_is_busy(site: Site) -> None:
    """Of two exports to one folder the second ends with 6 and changes nothing."""
    site.ask("create table logistics.first (id integer)")
    site.ask(GATE)
    site.ask("insert into logistics.first values (1)")
    site.ask("select pg_advisory_lock(42)")
    running = site.start("export", "logistics.gate", "--to", "out")
    until(lambda: site.ask(AT_GATE), "the export at the gate")
    assert site.run("export", "first", "--to", "out").returncode == 6
    site.ask("select pg_advisory_unlock(42)")
    assert running.ended().returncode == 0
    assert [table["table"] for table in manifest_of(site.folder / "out")["tables"]] == ["logistics.gate"]


def complete(folder: Path) -> None:
    """Assert that the files of the manifest are there with their bytes, and each file with a final name is whole."""
    if not (folder / "manifest.json").exists():
        return
    manifest = json.loads((folder / "manifest.json").read_text())
    for file in (file for table in manifest["tables"] for file in table["files"]):
        assert hashlib.sha256((folder / file["path"]).read_bytes()).hexdigest() == file["sha256"]
    for path in folder.rglob("*.parquet"):
        duckdb.read_parquet(str(path)).aggregate("count(*)").fetchall()


@pytest.mark.slow
def test_an_export_that_is_killed_leaves_complete_files(site: Site) -> None:
    """Killed at 30 random moments, full or not, an export leaves complete files; the next one is right."""
    site.ask("create table logistics.stops (id integer, at timestamptz not null, filler text)")
    site.ask("create index on logistics.stops (at)")
    site.ask(
        "insert into logistics.stops select id, timestamptz '2026-01-01' + id * interval '1 minute', md5(id::text)"
        " from generate_series(1, 100000) id"
    )
    draw = random.Random(7)
    folder = site.folder / "out"
    arguments = ("export", "stops", "--to", "out", "--partition", "month")
    begun = time.monotonic()
    assert site.run(*arguments, "--since-last", own_process=True).returncode == 0
    seconds = time.monotonic() - begun
    for attempt in range(30):
        site.ask("update logistics.stops set filler = %s where id %% 50000 = %s", [str(attempt), attempt])
        running = site.start(*arguments, *(["--since-last"] if draw.random() < 0.7 else []))
        time.sleep(draw.uniform(0.2, 1.1) * seconds)  # the moment of the fault
        running.kill()
        complete(folder)
    site.run("precalculate", "daily_shipments")
    assert site.run(*arguments, "--since-last").returncode == 0
    rows = duckdb.read_parquet(paths_of(folder, "logistics.stops")).project('id, epoch_us("at"), filler')
    query: LiteralString = "select id, (extract(epoch from at) * 1000000)::bigint, filler from logistics.stops"
    assert sorted(rows.fetchall()) == sorted(site.ask(query))
