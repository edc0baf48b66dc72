"""Rows of the ledger that somebody deleted end a load or a replay with a sentence, and never double a record."""

import json
from typing import LiteralString

import pytest
from psycopg import sql

from tests.support.site import Site

CALLS = """
name = "calls"
mode = "append"
[[table]]
name = "logistics.calls"
[table.columns]
id = { type = "integer", required = true }
"""
DELETIONS: dict[str, LiteralString] = {
    "all batches": "delete from etl.separate_batches",
    "some batches": "delete from etl.separate_batches where first_record > 10",
    "failures": "delete from etl.faults; delete from etl.failures",
    "some failures": "delete from etl.faults; delete from etl.failures where batch = 0",
}


@pytest.fixture
def site(site: Site) -> Site:
    """Give a site with a loaded source of 30 records in batches of ten, each with a rejected record."""
    site.define(CALLS)
    records = [{"id": n if n % 10 else "bad"} for n in range(30)]
    (site.folder / "calls.ndjson").write_text("".join(json.dumps(record) + "\n" for record in records))
    summary = site.load("calls", "calls.ndjson", "--batch-rows", "10", "--max-rejected", "50%")
    assert (summary["exit_code"], summary["records"]["loaded"]) == (1, 27)
    return site


@pytest.mark.parametrize("what", DELETIONS)
@pytest.mark.parametrize("grows", [False, True])
def test_a_run_with_deleted_rows_is_not_continued(site: Site, what: str, grows: bool) -> None:
    """The same source, and the grown one, end with 2; the command of the hint lets the source load again, once."""
    site.ask(DELETIONS[what])
    if grows:
        with (site.folder / "calls.ndjson").open("a") as file:
            file.write('{"id": 99}\n')
    ended = site.run("load", "calls", "calls.ndjson", "--max-rejected", "50%")
    assert ended.returncode == 2
    assert "is incomplete, rows of it were deleted: " in ended.stderr
    assert site.value("select count(*) from logistics.calls") == 27
    [hint] = [line for line in ended.stderr.splitlines() if line.startswith("hint: ")]
    assert site.run(*hint.partition("load its source again: etl ")[2].split()).returncode == 0
    assert site.load("calls", "calls.ndjson", "--max-rejected", "50%")["exit_code"] == 1
    assert site.value("select count(*) from logistics.calls") == 27 + grows
    assert site.load("calls", "calls.ndjson", "--max-rejected", "50%")["records"]["loaded"] == 0


def test_a_source_without_marks_is_not_taken_for_a_new_one(site: Site) -> None:
    """When the marks of a run are gone, a source that may be its own ends with 2 and doubles no row."""
    site.ask("delete from etl.separate_marks")
    ended = site.run("load", "calls", "calls.ndjson", "--max-rejected", "50%")
    assert ended.returncode == 2
    assert "etl.marks has no row of it" in ended.stderr
    assert site.value("select count(*) from logistics.calls") == 27
    assert site.load("calls", "calls.ndjson", "--max-rejected", "50%", "--force")["records"]["loaded"] == 27


def test_a_run_without_attempts_continues(site: Site) -> None:
    """Deleted attempts are no loss: the next attempt gets a number that no batch has, and the balance adds up."""
    site.ask("delete from etl.attempts")
    summary = site.load("calls", "calls.ndjson", "--max-rejected", "50%")
    assert (summary["status"], summary["records"]["skipped"]) == ("already_loaded", 30)
    assert site.column("select attempt from etl.attempts") == [2]


@pytest.mark.parametrize("what", ["all batches", "some batches", "some failures"])
def test_a_replay_into_a_run_with_deleted_rows_is_refused(site: Site, what: str) -> None:
    """A replay ends with 2 and the same sentence, before it loads the first failure."""
    site.ask(DELETIONS[what])
    ended = site.run("failed", "replay", "--all")
    assert ended.returncode == 2
    assert "is incomplete, rows of it were deleted: " in ended.stderr
    assert site.value("select count(*) from logistics.calls") == 27


@pytest.mark.parametrize("order", ["the only run", "the newest run"])
def test_rows_of_a_deleted_run_are_named(site: Site, order: str) -> None:
    """When a whole run is gone from the ledger, an append and `db check` name its rows."""
    if order == "the newest run":
        (site.folder / "more.ndjson").write_text("".join(f'{{"id": {n}}}\n' for n in range(100, 30_100)))
        assert site.load("calls", "more.ndjson")["records"]["loaded"] == 30_000
        assert "unknown_rows" not in site.run("load", "calls", "calls.ndjson", "--max-rejected", "50%").stderr
    site.ask("create temporary table gone as select run, number from etl.runs order by number desc limit 1")
    for table in (
        "faults where failure in (select id from etl.failures where run in (select run from gone))",
        "failures where run in (select run from gone)",
        "separate_batches where run in (select run from gone)",
        "attempts where run in (select run from gone)",
        "runs where run in (select run from gone)",
    ):
        site.ask(sql.SQL("delete from etl.") + sql.SQL(table))
    number = site.value("select number from gone")
    source = "calls.ndjson" if order == "the only run" else "more.ndjson"
    ended = site.run("load", "calls", source, "--max-rejected", "50%")
    assert f"rows of run number {number}, which the ledger does not know" in ended.stderr
    assert f"rows of run number {number}" in site.run("db", "check").stdout
