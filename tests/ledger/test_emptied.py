"""A load says that the rows which the ledger knows are gone: their table was made anew, or emptied by hand."""

import json
from pathlib import Path
from typing import LiteralString

import pytest

from tests.support.site import Site

VISITS = """
name = "visits"
mode = "MODE"
key = ["id"]
[[table]]
name = "logistics.visits"
[table.columns]
id = { type = "integer", required = true }
place = "text"
[[table]]
name = "logistics.visit_stops"
each = "stops"
[table.columns]
id = { path = "^.id", type = "integer" }
stop = { path = ".", type = "integer" }
"""
MODES = ["append", "merge"]
GONE: dict[str, LiteralString] = {
    "dropped": "drop table logistics.visits, logistics.visit_stops",
    "truncated": "truncate logistics.visits, logistics.visit_stops",
    "deleted": "delete from logistics.visits; delete from logistics.visit_stops",
}


def _source(site: Site, name: str, first: int) -> Path:
    path = site.folder / name
    path.write_text("".join(json.dumps({"id": first + n, "place": "x", "stops": [1, 2]}) + "\n" for n in range(5)))
    return path


def _counts(site: Site) -> list[int]:
    return [
        site.value("select count(*) from logistics.visits"),
        site.value("select count(*) from logistics.visit_stops"),
    ]


def _loaded(site: Site, mode: str) -> None:
    """Load two sources, of five records each."""
    site.write_definition(VISITS.replace("MODE", mode))
    assert site.run("dataset", "create", "visits").returncode == 0
    for name, first in (("a.ndjson", 0), ("b.ndjson", 5)):
        assert site.load("visits", _source(site, name, first))["exit_code"] == 0
    assert _counts(site) == [10, 20]


def _lose(site: Site, how: str) -> str:
    """Lose the rows, make the tables if they are missing, and return what `dataset create` reported."""
    site.ask(GONE[how])
    created = site.run("dataset", "create", "visits")
    assert created.returncode == 0
    return created.stderr


@pytest.mark.parametrize("mode", [MODES[0], *(pytest.param(mode, marks=pytest.mark.slow) for mode in MODES[1:])])
@pytest.mark.parametrize("how", GONE)
def test_no_source_counts_as_loaded_when_its_rows_are_gone(site: Site, how: str, mode: str) -> None:
    """Every load ends with 2 and both ways out; after a forced load the others load as new sources, each once."""
    _loaded(site, mode)
    reported = _lose(site, how)
    assert "logistics.visits and logistics.visit_stops hold none of the 10 rows that 2 runs loaded" in reported
    _source(site, "c.ndjson", 10)
    for name in ("a.ndjson", "c.ndjson"):
        ended = site.run("load", "visits", name)
        assert ended.returncode == 2
        assert "hold none of the 10 rows" in ended.stderr
        assert "restore the rows; or load all sources again with --force" in ended.stderr
    assert _counts(site) == [0, 0]
    assert site.load("visits", "a.ndjson", "--force")["status"] == "loaded"
    for name in ("b.ndjson", "c.ndjson"):
        assert site.load("visits", name)["status"] == "loaded"
    for name in ("a.ndjson", "b.ndjson", "c.ndjson"):
        assert site.load("visits", name)["status"] == "already_loaded"
    assert _counts(site) == [15, 30]
    assert "hold none" not in site.run("dataset", "create", "visits").stderr


def test_a_check_of_the_database_reports_lost_rows(site: Site) -> None:
    """`db check` ends with 2 and names the table and the remedy; `db migrate` warns when it makes the table anew."""
    (site.folder / "v.json").write_text(json.dumps([{"vehicle_id": "V1"}]))
    assert site.load("vehicles", "v.json")["exit_code"] == 0
    site.ask("drop table logistics.vehicles")
    assert "logistics.vehicles holds none of the 1 rows" in site.run("db", "migrate").stderr
    checked = site.run("db", "check", "--json")
    assert checked.returncode == 2
    [found] = [line for line in checked.lines if line["what"] == "dataset vehicles"]
    assert (found["state"], "--force" in found["remedy"]) == ("fail", True)


@pytest.mark.parametrize("mode", MODES)
def test_a_lost_child_table_is_reported(site: Site, mode: str) -> None:
    """When only the child rows are gone, a forced load in append is refused, because it would double the records."""
    _loaded(site, mode)
    site.ask("drop table logistics.visit_stops")
    assert "logistics.visit_stops holds none of the 20 rows" in site.run("dataset", "create", "visits").stderr
    assert site.run("load", "visits", "a.ndjson").returncode == 2
    forced = site.run("load", "visits", "a.ndjson", "--force")
    if mode == "append":
        assert forced.returncode == 2
        assert 'truncate "logistics"."visits", "logistics"."visit_stops", then load all' in forced.stderr
        site.ask("truncate logistics.visits, logistics.visit_stops")
        assert site.load("visits", "a.ndjson", "--force")["status"] == "loaded"
    assert site.load("visits", "b.ndjson")["status"] == "loaded"
    assert _counts(site) == [10, 20]


def test_child_rows_may_go_with_a_later_version_of_their_record(site: Site) -> None:
    """In merge, versions without child rows leave the child table empty, and nothing is missing."""
    _loaded(site, "merge")
    later = site.folder / "later.ndjson"
    later.write_text("".join(json.dumps({"id": n, "place": "y"}) + "\n" for n in range(10)))
    assert site.load("visits", later)["exit_code"] == 0
    assert _counts(site) == [10, 0]
    assert site.load("visits", "a.ndjson")["status"] == "already_loaded"


def test_rows_that_come_back_are_recognised(site: Site) -> None:
    """A table that was made anew and got its rows back, as by a restore, is loaded into as before."""
    _loaded(site, "append")
    site.ask("create table public.a as table logistics.visits; create table public.b as table logistics.visit_stops")
    _lose(site, "dropped")
    site.ask("insert into logistics.visits table public.a; insert into logistics.visit_stops table public.b")
    assert site.load("visits", "a.ndjson")["status"] == "already_loaded"
    assert site.load("visits", _source(site, "c.ndjson", 10))["status"] == "loaded"
    assert _counts(site) == [15, 30]


def test_rows_of_other_origin_do_not_hide_that_rows_are_gone(site: Site) -> None:
    """A table made anew in which somebody wrote some rows has none of those that the ledger knows."""
    _loaded(site, "append")
    _lose(site, "dropped")
    site.ask("insert into logistics.visits select n, 'hand', -1, 0, 1 from generate_series(100, 120) as n")
    ended = site.run("load", "visits", "a.ndjson")
    assert ended.returncode == 2
    assert "logistics.visits and logistics.visit_stops hold none of the 10 rows" in ended.stderr


def test_rows_that_were_removed_on_purpose_are_not_missed(site: Site) -> None:
    """With `--allow-empty` new sources are loaded and known sources are not loaded again."""
    _loaded(site, "append")
    _lose(site, "truncated")
    assert site.load("visits", "a.ndjson", "--allow-empty")["status"] == "already_loaded"
    assert site.load("visits", _source(site, "c.ndjson", 10), "--allow-empty")["status"] == "loaded"
    assert _counts(site) == [5, 10]


def test_a_replace_brings_all_rows_by_itself(site: Site) -> None:
    """A replace by the source that it loaded last publishes all of its rows again when they are gone."""
    _loaded(site, "merge")
    assert site.load("visits", "a.ndjson", "--mode", "replace")["status"] == "loaded"
    assert site.load("visits", "a.ndjson", "--mode", "replace")["status"] == "already_loaded"
    _lose(site, "truncated")
    assert site.load("visits", "a.ndjson", "--mode", "replace")["status"] == "loaded"
    assert _counts(site) == [5, 10]


def test_a_replay_does_not_hide_that_rows_are_gone(site: Site) -> None:
    """A replay into emptied tables ends with 2; `--allow-empty` replays, and a forced load supersedes the failure."""
    _loaded(site, "append")
    path = site.folder / "d.ndjson"
    path.write_text(json.dumps({"id": "x", "place": "x"}) + "\n" + json.dumps({"id": 50, "place": "x"}) + "\n")
    assert site.load("visits", path)["exit_code"] == 1
    [(failure, run)] = site.ask("select id, run from etl.failures")
    (site.store / "visits" / run / f"{failure}.ndjson").write_text('{"id": 51, "place": "x"}\n')
    _lose(site, "truncated")
    ended = site.run("failed", "replay", "--all")
    assert ended.returncode == 2
    assert "hold none of the 11 rows" in ended.stderr
    assert site.run("failed", "replay", "--all", "--allow-empty").returncode == 0
    assert _counts(site) == [1, 0]
