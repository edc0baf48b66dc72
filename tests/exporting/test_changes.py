"""`etl export --since-last`: only what changed is written, and nothing that changed is left out."""

import json
from pathlib import Path
from typing import Any, LiteralString

import duckdb
import pytest

from tests.exporting.test_exports import manifest_of
from tests.support.site import Site

EXPORT = ("export", "shipments", "vehicles", "carrier_scorecard", "--to", "out", "--partition", "month", "--since-last")
SHIP: LiteralString = """
    insert into logistics.shipments (shipment_id, created_at, weight_kg, etl_run, etl_batch, etl_place)
    select 'S' || day, timestamptz '2026-01-01 12:00+00' + day * interval '1 day', 1.5, 1, 0, day
    from generate_series(0, 119) as days (day)
"""

LONG: LiteralString = """
    insert into logistics.shipments (shipment_id, created_at, weight_kg, etl_run, etl_batch, etl_place)
    values ('S900', '2026-02-28 23:59+00', 12345678901234567890.123456789, 1, 0, 1)
"""


@pytest.fixture
def shipped(site: Site) -> Site:
    """Give a site with four months of shipments, which are exported."""
    site.ask(SHIP)
    assert site.run("precalculate", "carrier_scorecard").returncode == 0
    assert site.run(*EXPORT).returncode == 0
    return site


def exported(site: Site, *arguments: str) -> dict[str, dict[str | None, str]]:
    """Export again; return the paths of the files by table and month, after a comparison of all rows."""
    assert site.run(*(arguments or EXPORT)).returncode == 0
    folder = site.folder / "out"
    tables = {table["table"]: table for table in manifest_of(folder)["tables"]}
    paths = [str(folder / file["path"]) for file in tables["logistics.shipments"]["files"]]
    rows = duckdb.read_parquet(paths, hive_partitioning=False).project("shipment_id, epoch_us(created_at), weight_kg")
    query: LiteralString = (
        "select shipment_id, (extract(epoch from created_at) * 1000000)::bigint, weight_kg from logistics.shipments"
    )
    assert sorted(rows.fetchall()) == sorted(site.ask(query))
    return {name: {file["month"]: file["path"] for file in table["files"]} for name, table in tables.items()}


def changed(before: dict[str, dict[str | None, str]], after: dict[str, dict[str | None, str]]) -> set[tuple[str, Any]]:
    """Return the tables and months whose files are not the same."""
    return {
        (name, month)
        for name in after
        for month in {*before[name], *after[name]}
        if before[name].get(month) != after[name].get(month)
    }


def test_only_the_months_that_changed_are_written(shipped: Site) -> None:
    """After each kind of change exactly its months have new files, and without a change none."""
    first = exported(shipped)
    assert len(first["logistics.shipments"]) == 4
    changes: list[tuple[LiteralString, set[tuple[str, Any]]]] = [
        (
            "update logistics.shipments set weight_kg = 2 where shipment_id = 'S40'",
            {("logistics.shipments", "2026-02")},
        ),
        (
            "update logistics.shipments set created_at = '2026-07-01' where shipment_id = 'S1'",
            {("logistics.shipments", "2026-01"), ("logistics.shipments", "2026-07")},
        ),
        (
            "delete from logistics.shipments where created_at < '2026-02-01'",
            {("logistics.shipments", "2026-01")},
        ),
        (
            "insert into logistics.vehicles (vehicle_id, etl_run, etl_batch, etl_place) values ('V1', 1, 0, 1)",
            {("logistics.vehicles", None)},
        ),
        (
            LONG,
            {("logistics.shipments", month) for month in ("2026-02", "2026-03", "2026-04", "2026-07")},
        ),
    ]
    for statement, months in changes:
        shipped.ask(statement)
        after = exported(shipped)
        assert changed(first, after) == months
        first = after
    assert (
        shipped.run("precalculate", "carrier_scorecard").returncode == 0
    )  # It takes the notes, and leaves the export's.
    after = exported(shipped)
    assert {name for name, _ in changed(first, after)} == {"analytics.carrier_scorecard"}
    assert shipped.ask("select 1 from analytics.freshness where aggregate like 'export%'") == []


def test_what_is_not_known_is_written_as_a_whole(shipped: Site) -> None:
    """A manifest of another time, a file that is missing, a new column and disabled triggers cost a whole export."""
    folder = shipped.folder / "out"
    old = (folder / "manifest.json").read_bytes()
    shipped.ask("update logistics.shipments set weight_kg = 3 where shipment_id = 'S40'")
    first = exported(shipped)
    everything = {("logistics.shipments", month) for month in first["logistics.shipments"]}

    # A copy of the folder of an earlier time: its changes were taken since.
    shipped.ask("update logistics.shipments set weight_kg = 4 where shipment_id = 'S70'")
    exported(shipped)
    copied = json.loads(old)
    (folder / "manifest.json").write_text(json.dumps(copied | {"previous": None}))
    third = exported(shipped)
    assert changed(first, third) >= everything - {
        ("logistics.shipments", "2026-01"),
        ("logistics.shipments", "2026-04"),
    }

    (folder / third["logistics.shipments"]["2026-01"]).unlink()
    fourth = exported(shipped)
    assert fourth["logistics.shipments"]["2026-01"] != third["logistics.shipments"]["2026-01"]

    shipped.ask("alter table logistics.shipments add column colour text")
    fifth = exported(shipped)
    assert changed(fourth, fifth) >= everything

    shipped.ask("alter table logistics.shipments disable trigger etl_note_update")
    shipped.ask("update logistics.shipments set weight_kg = 5, colour = 'red' where shipment_id = 'S100'")
    exported(shipped)


def test_an_export_that_ends_before_its_commit_leaves_its_changes_pending(shipped: Site) -> None:
    """Where the manifest cannot be written, the next export has the changes."""
    shipped.ask("update logistics.shipments set weight_kg = 7 where shipment_id = 'S40'")
    blocked: Path = shipped.folder / "out" / "manifest.json.unfinished"
    blocked.mkdir()
    assert shipped.run(*EXPORT).returncode == 2
    blocked.rmdir()
    shipped.run("precalculate", "carrier_scorecard")
    exported(shipped)


def test_a_place_that_is_forgotten_keeps_nothing_pending(shipped: Site) -> None:
    """After --forget no change is noted for the place; its files stay, and the next --since-last writes all of it."""
    first = exported(shipped)
    done = shipped.run("export", "--to", "out", "--forget")
    assert (done.returncode, "are noted no more" in done.stdout) == (0, True)
    assert shipped.ask("select 1 from etl.aggregates where is_export union all select 1 from etl.exports") == []
    assert (shipped.folder / "out" / first["logistics.shipments"]["2026-01"]).exists()
    assert "were not noted" in shipped.run("export", "--to", "out", "--forget").stdout
    assert shipped.run("export", "vehicles", "--to", "out", "--forget").returncode == 2
    shipped.ask("update logistics.shipments set weight_kg = 9 where shipment_id = 'S40'")
    assert changed(first, exported(shipped)) >= {("logistics.shipments", "2026-02")}


def test_an_analyst_may_not_have_changes_noted(shipped: Site) -> None:
    """A role that only reads exports everything, and hears who must make the first export of what changed."""
    shipped.ask("do $$ begin create role reader login in role etl_analyst; exception when duplicate_object then end $$")
    reader = shipped.conninfo.replace("postgres@", "reader@")
    done = shipped.run("export", "vehicles", "--to", "other", conninfo=reader)
    assert done.returncode == 0, done.stderr
    done = shipped.run("export", "vehicles", "--to", "other", "--since-last", conninfo=reader)
    assert (done.returncode, "owner of the tables" in done.stderr) == (2, True)
