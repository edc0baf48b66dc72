"""`etl runs purge`: the batches and attempts of old runs become one row each, and all other commands work as before."""

import json
from typing import Any

import pytest
from psycopg import sql

from tests.support.definitions import SMALL_PARCELS
from tests.support.site import Site

DEFINITION = 'on_unknown = "warn"' + SMALL_PARCELS

RECORDS = 50


@pytest.fixture
def loaded(site: Site) -> tuple[Site, str]:
    """Return a site with a run of three attempts and many batches; two of its records are discarded."""
    site.define(DEFINITION)
    records = [{"parcel_id": f"P{number}", "weight": number, "extra": 1} for number in range(RECORDS)]
    records[7]["weight"] = records[8]["weight"] = -1
    lines = [json.dumps(record) + "\n" for record in records]
    (site.folder / "parcels.ndjson").write_text("".join(lines))
    options = ("--batch-rows", "4", "--max-rejected", "100%", "--no-precalculate")
    for limit in ("11", "30"):
        site.run("load", "parcels", "parcels.ndjson", "--limit", limit, *options)
    run = site.load("parcels", "parcels.ndjson", *options)["run"]
    assert site.run("failed", "discard", "--run", run, "--reason", "a test").returncode == 0
    return site, run


def purge(site: Site, *options: str) -> list[dict[str, Any]]:
    """Purge the runs of any age, and return the lines of `--json`."""
    ended = site.run("runs", "purge", "--older-than", "0h", "--json", *options)
    assert ended.returncode == 0, ended.stderr
    return ended.lines


def shown(site: Site, run: str) -> dict[str, Any]:
    """Return what `runs show` says, without the attempts."""
    [line] = site.run("runs", "show", run, "--json").lines
    seconds = round(line.pop("seconds"), 6)
    for name in ("attempts", "records_per_second", "last_batch_at"):
        line.pop(name)
    return line | {"seconds": seconds}


def trace(site: Site, parcel: str) -> dict[str, Any]:
    """Return the record of a parcel."""
    [line] = site.run("runs", "trace", "logistics.parcels", f"parcel_id={parcel}", "--json").lines
    return dict(line)


def test_an_old_run_becomes_one_row_and_is_shown_and_traced_as_before(loaded: tuple[Site, str]) -> None:
    """The sums, the seconds of all attempts, and the place and text of each record stay; again changes nothing."""
    site, run = loaded
    before, traces = shown(site, run), [trace(site, parcel) for parcel in ("P0", "P12", "P49")]
    quality = site.run("precalculate", "data_quality", "--full", "--json").returncode
    count = site.count_batches()
    assert count > 8
    planned = purge(site, "--dry-run")
    assert (site.count_batches(), site.value("select count(*) from etl.attempts")) == (count, 3)
    assert purge(site, "--dataset", "vehicles") == []
    assert purge(site) == planned == [{"run": run, "batches": count, "rows": 1, "attempts_removed": 2}]
    assert (site.count_batches(), site.value("select count(*) from etl.attempts")) == (1, 1)
    assert shown(site, run) == before
    after = [trace(site, parcel) for parcel in ("P0", "P12", "P49")]
    assert [line | {"loaded_at": 0} for line in after] == [line | {"loaded_at": 0} for line in traces]
    assert all(line["text"] for line in after)
    assert purge(site) == []
    assert quality == 0


def test_a_purged_source_is_known_grows_and_is_taken_back(loaded: tuple[Site, str]) -> None:
    """The marks stay: the source loads no second time, its tail loads alone, and an undo deletes all rows."""
    site, run = loaded
    purge(site)
    again = site.load("parcels", "parcels.ndjson", "--no-precalculate")
    assert (again["run"], again["status"], again["records"]["skipped"]) == (run, "already_loaded", RECORDS)
    assert site.run("db", "check").returncode == 0
    with (site.folder / "parcels.ndjson").open("a") as file:
        file.write(json.dumps({"parcel_id": "new", "weight": 1}) + "\n")
    grown = site.load("parcels", "parcels.ndjson", "--no-precalculate")
    assert (grown["run"], grown["records"]["loaded"]) == (run, 1)
    assert len(purge(site)) == 1
    assert trace(site, "new")["record"] == RECORDS + 1
    undone = site.run("runs", "undo", run, "--no-precalculate", "--json").lines[0]
    assert undone["tables"][0]["rows_deleted"] == RECORDS - 2 + 1


def test_what_waits_and_what_is_not_finished_is_left_alone(site: Site) -> None:
    """A run with pending records or without an end keeps its batches; its records can be replayed after a purge."""
    site.define(DEFINITION)
    for name, weight in (("waits", -1), ("stays", 1)):
        lines = [json.dumps({"parcel_id": f"{name}{number}", "weight": weight}) + "\n" for number in range(9)]
        (site.folder / f"{name}.ndjson").write_text("".join(lines))
    options = ("--batch-rows", "2", "--max-rejected", "100%", "--no-precalculate")
    run = site.load("parcels", "waits.ndjson", *options)["run"]
    site.run("load", "parcels", "stays.ndjson", "--limit", "5", *options)
    assert purge(site) == []
    name = site.value(
        "select conname from pg_constraint where conrelid = 'logistics.parcels'::regclass and contype = 'c'"
    )
    site.ask(sql.SQL("alter table logistics.parcels drop constraint {}").format(sql.Identifier(name)))
    site.define(DEFINITION.replace(", min = 0", ""))
    assert site.run("failed", "replay", "--run", run, "--no-precalculate").returncode == 0
    assert [each["run"] for each in purge(site)] == [run]
    assert site.value("select count(*) from logistics.parcels") == 14


@pytest.mark.aggregates
def test_the_quality_of_a_day_is_the_same_after_a_purge(site: Site) -> None:
    """Rows of a table are counted for the day of their batch, although the ledger has one row for many batches."""
    site.run("generate", "vehicles", "--records", "40", "--output", "vehicles.ndjson")
    site.run("load", "vehicles", "vehicles.ndjson", "--batch-rows", "7")
    query = "select * from analytics.data_quality"
    before = site.ask(query)
    [purged] = purge(site)
    assert purged["rows"] == 1 < purged["batches"]
    assert site.run("precalculate", "data_quality", "--full").returncode == 0
    assert site.ask(query) == before != []
