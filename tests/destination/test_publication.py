"""What `replace` and `--atomic` publish, and what stays as it was."""

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pytest

from tests.support.definitions import EVENTS, ITEMS
from tests.support.site import Site

KEYLESS = ITEMS.replace('name = "items"', 'name = "keyless"').replace('key = ["id"]\n', "").replace("lab.", "bare.")
ATOMIC = ("--mode", "merge", "--atomic")
REPLACE = ("--mode", "replace")


@pytest.fixture
def site(site: Site) -> Site:
    """Give a site that has the tables of `items`."""
    site.define(ITEMS)
    return site


def _item(id: Any, v: str = "old", n: Any = 1, parts: Sequence[int] = ()) -> dict[str, Any]:
    return {"id": id, "v": v, "n": n, "parts": list(parts)}


def _write(site: Site, name: str, items: Iterable[Mapping[str, Any]]) -> None:
    (site.folder / name).write_text("".join(json.dumps(item) + "\n" for item in items))


def _replace(site: Site, name: str, items: Iterable[Mapping[str, Any]], *options: str) -> dict[str, Any]:
    """Write a source, load it into `items`, and return its summary."""
    _write(site, name, items)
    return site.load("items", name, *options)


def _rows(site: Site) -> dict[int, str]:
    return {row[0]: row[1] for row in site.ask("select id, v from lab.items order by id")}


def _count(site: Site, schema: str) -> int:
    query = {"lab": "select count(*) from lab.items", "bare": "select count(*) from bare.items"}
    return int(site.value(query[schema]))


def _parts(site: Site) -> list[tuple[int, int]]:
    return [(row[0], row[1]) for row in site.ask("select id, part from lab.item_parts order by id, part")]


@pytest.mark.parametrize("options", [REPLACE, ATOMIC], ids=["replace", "atomic"])
def test_nothing_is_published_when_no_record_loads(site: Site, options: tuple[str, ...]) -> None:
    """A source whose records are all rejected ends with 5 and changes no table, with any limit and on each try."""
    _replace(site, "five.ndjson", [_item(n, parts=[n]) for n in range(5)])
    renamed = [{"ID": n, "v": "new"} for n in range(5)]
    summary: dict[str, Any] = {}
    for limit in ("10%", "100%"):
        summary = _replace(site, "renamed.ndjson", renamed, *options, "--max-rejected", limit)
        assert (summary["exit_code"], summary["status"]) == (5, "aborted")
        records = summary["records"]
        assert (records["loaded"], records["rejected"] + records["skipped"], records["pending"]) == (0, 5, 5)
        assert (len(_rows(site)), len(_parts(site))) == (5, 5)
    assert "next: etl failed show --run" in site.run("runs", "show", summary["run"]).stdout


def test_an_empty_source_that_is_atomic_has_nothing_to_publish(site: Site) -> None:
    """An array without records is loaded by --atomic: nothing takes the place of anything."""
    (site.folder / "empty.json").write_text("[]")
    assert site.load("items", "empty.json", *ATOMIC)["exit_code"] == 0


@pytest.mark.parametrize("options", [REPLACE, pytest.param(ATOMIC, marks=pytest.mark.slow)], ids=["replace", "atomic"])
@pytest.mark.parametrize(("bad", "exit_code"), [(1, 1), (2, 5)])
def test_the_share_of_a_small_source_is_judged(site: Site, options: tuple[str, ...], bad: int, exit_code: int) -> None:
    """With replace and --atomic, more than 10 % rejected of 10 records are too many; a higher limit publishes."""
    _replace(site, "five.ndjson", [_item(n) for n in range(100, 105)])
    items = [_item(n, "new", -1 if n < bad else 1) for n in range(10)]
    summary = _replace(site, "ten.ndjson", items, *options)
    assert summary["exit_code"] == exit_code
    assert ("new" in _rows(site).values()) == (exit_code == 1)
    assert site.load("items", "ten.ndjson", *options, "--max-rejected", "90%")["exit_code"] == 1
    assert list(_rows(site).values()).count("new") == 10 - bad
    # A load without them judges no share of ten records.
    _write(site, "twelve.ndjson", [_item(n, "merged", -1 if n < 11 else 1) for n in range(12)])
    assert site.load("items", "twelve.ndjson", "--mode", "merge")["exit_code"] == 1


@pytest.mark.parametrize(("options", "workers"), [(REPLACE, "2"), (ATOMIC, "1")], ids=["replace", "atomic"])
def test_a_batch_that_cannot_load_is_tried_again(site: Site, options: tuple[str, ...], workers: str) -> None:
    """A batch whose retries are used up ends the run with 4, is not entered, and loads by the same command."""
    _replace(site, "old.ndjson", [_item(n) for n in range(4)])
    site.ask(
        "create function lab.busy() returns boolean language plpgsql as $$ begin"
        " raise 'busy' using errcode = '57014'; end $$;"
        " alter table lab.items add constraint busy check (v <> 'busy' or lab.busy())"
    )
    items = [_item(n, "busy" if n == 5 else "new") for n in range(8)]
    command = (*options, "--batch-rows", "2", "--retry-attempts", "1", "--workers", workers)
    summary = _replace(site, "new.ndjson", items, *command)
    assert (summary["exit_code"], summary["status"], summary["records"]["failed"]) == (4, "incomplete", 0)
    assert set(_rows(site).values()) == {"old"}
    assert site.value("select count(*) from etl.failures") == 0
    assert site.value("select count(*) from etl.batches where coalesce(count_failed, 1) > 0") == 0
    site.ask(
        "alter table lab.items drop constraint busy;"
        " do $$ declare t text; begin for t in select relname from pg_class"
        " where relnamespace = 'etl_staging'::regnamespace and relname ~ '_0$' and relname !~ 'refused' loop"
        " execute format('alter table etl_staging.%I drop constraint if exists busy', t); end loop; end $$"
    )
    done = site.load("items", "new.ndjson", *command)
    assert (done["run"], done["exit_code"], done["status"]) == (summary["run"], 0, "loaded")
    assert list(_rows(site).values()).count("new") == 7


def test_the_row_of_a_rejected_record_stays(site: Site) -> None:
    """Replace keeps the row of a rejected record with its child rows, and deletes the rows that no record names."""
    _replace(site, "one.ndjson", [_item(n, parts=[n, 10 * n]) for n in range(1, 31)])
    items = [_item(n, "new", parts=[n]) for n in range(4, 31)]
    bad = [_item(1, "bad", -1, [7]), _item(2, "bad", "many", [8]), _item(5, "bad", -5)]
    summary = _replace(site, "two.ndjson", items + bad, "--batch-rows", "4")
    assert (summary["exit_code"], summary["records"]["loaded"], summary["records"]["rejected"]) == (1, 27, 3)
    assert summary["rows_deleted"] == {"lab.items": 1, "lab.item_parts": 29}
    assert summary["rows_kept"] == {"lab.items": 2, "lab.item_parts": 0}
    assert _rows(site) == {1: "old", 2: "old"} | dict.fromkeys(range(4, 31), "new")
    assert _parts(site) == [(1, 1), (1, 10), (2, 2), (2, 20), *((n, n) for n in range(4, 31))]
    # The corrected records take their place.
    for path in site.store.rglob("*.ndjson"):
        path.write_text(path.read_text().replace('"many"', "1").replace("-", ""))
    assert site.run("failed", "replay", "--all").returncode == 0
    assert [_rows(site)[n] for n in (1, 2, 5)] == ["bad", "bad", "bad"]
    assert [part for part in _parts(site) if part[0] < 3] == [(1, 7), (2, 8)]


def test_the_row_of_a_record_that_the_server_rejects_stays(site: Site) -> None:
    """Replace keeps the row of a record that only a constraint of the table refuses."""
    site.ask("alter table lab.items add constraint by_hand check (v <> 'refused')")
    _replace(site, "one.ndjson", [_item(n) for n in range(20)])
    items = [_item(n, "refused" if n == 7 else "new") for n in range(1, 20)]
    summary = _replace(site, "two.ndjson", items)
    assert (summary["exit_code"], summary["rows_deleted"]["lab.items"], summary["rows_kept"]["lab.items"]) == (1, 1, 1)
    assert _rows(site) == dict.fromkeys(range(1, 20), "new") | {7: "old"}


@pytest.mark.parametrize(
    ("bad", "workers"),
    [
        ('{"ID": 3}', "2"),
        ('{"id": null} "no object"', "1"),
        *(pytest.param(text, "1", marks=pytest.mark.slow) for text in ('{"id": "x"}', '{"id": 9876543210}')),
    ],
)
def test_no_row_is_deleted_when_a_key_cannot_be_read(site: Site, bad: str, workers: str) -> None:
    """If the key of a rejected record cannot be read, replace deletes no absent row and says so."""
    _replace(site, "one.ndjson", [_item(n, parts=[n]) for n in range(30)])
    _write(site, "two.ndjson", [_item(n, "new") for n in range(20)])
    with (site.folder / "two.ndjson").open("a") as file:
        file.write(bad.replace("} ", "}\n") + "\n")
    done = site.run("load", "items", "two.ndjson", "--workers", workers, "--batch-rows", "6")
    assert done.returncode == 1
    assert "absent_rows_kept" in done.stderr
    assert "rows kept that may belong to rejected records: 10" in done.stdout
    rows = _rows(site)
    assert [rows[n] for n in (0, 2, 19, 20, 29)] == ["new", "new", "new", "old", "old"]
    assert _parts(site) == [(n, n) for n in range(20, 30)]


def test_a_replace_without_a_key_publishes_only_clean_sources(site: Site) -> None:
    """Without a key a rejected record ends a replace with 5; --max-rejected by flag or environment publishes."""
    site.define(KEYLESS)
    _write(site, "one.ndjson", [_item(n) for n in range(30)])
    assert site.load("keyless", "one.ndjson")["exit_code"] == 0
    _write(site, "two.ndjson", [_item(n, "new", -1 if n == 3 else 1) for n in range(30)])
    assert site.load("keyless", "two.ndjson")["exit_code"] == 5
    assert site.value("select count(*) from bare.items where v = 'old'") == 30
    assert site.run("load", "keyless", "two.ndjson", "--dry-run").returncode == 5
    summary = site.load("keyless", "two.ndjson", "--max-rejected", "10%")
    assert (summary["exit_code"], summary["rows_deleted"]["bare.items"]) == (1, 1)
    assert site.value("select count(*) from bare.items where v = 'new'") == 29
    _write(site, "three.ndjson", [_item(n, "newer", -1 if n == 3 else 1) for n in range(30)])
    assert site.run("load", "keyless", "three.ndjson", env={"ETL_MAX_REJECTED": "1"}).returncode == 1


@pytest.mark.parametrize("dataset", ["items", "keyless"])
def test_a_short_source_deletes_only_what_it_may(site: Site, dataset: str) -> None:
    """A replace that would delete more than half of 1,000 rows ends with 5; --max-deleted publishes, and all count."""
    site.define(KEYLESS)
    schema = "lab" if dataset == "items" else "bare"
    _write(site, "all.ndjson", [_item(n) for n in range(1_000)])
    _write(site, "short.ndjson", [_item(n) for n in range(20)])
    assert site.load(dataset, "all.ndjson")["exit_code"] == 0
    stopped = site.run("load", dataset, "short.ndjson", "--json")
    assert (stopped.returncode, stopped.summary["status"], stopped.summary["records"]["withheld"]) == (5, "aborted", 20)
    assert f"would delete 980 of 1,000 rows of {schema}.items, --max-deleted allows 50%" in stopped.stderr
    assert _count(site, schema) == 1_000
    assert site.load(dataset, "short.ndjson", "--max-deleted", "979")["exit_code"] == 5
    done = site.run("load", dataset, "short.ndjson", "--max-deleted", "98%")
    assert done.returncode == 0
    assert f"rows deleted: {schema}.items 980" in done.stdout
    assert '"rows_deleted": 980' in done.stderr or "rows_deleted=980" in done.stderr
    assert _count(site, schema) == 20
    run = stopped.summary["run"]
    assert "rows deleted by the replace: 980" in site.run("runs", "show", run).stdout
    assert site.run("runs", "show", run, "--json").lines[0]["rows_deleted"] == 980
    again = site.load(dataset, "short.ndjson")
    assert (again["status"], "rows_deleted" in again) == ("already_loaded", False)


def test_the_share_of_deleted_rows_is_judged_from_a_thousand_rows(site: Site) -> None:
    """Half of the rows may go, and of fewer than 1,000 rows all but one."""
    for before, now, exit_code in ((999, 1, 0), (1_000, 499, 5), (1_000, 500, 0)):
        assert _replace(site, f"{before}-{now}.ndjson", [_item(n) for n in range(before)])["exit_code"] == 0
        summary = _replace(site, f"{now}.ndjson", [_item(n) for n in range(now)])
        assert (summary["exit_code"], len(_rows(site))) == (exit_code, before if exit_code else now)


def test_rows_of_other_records_are_deleted_rows(site: Site) -> None:
    """A source with other keys deletes all rows, although it brings as many; child rows that vanish count, too."""
    _replace(site, "all.ndjson", [_item(n, parts=[1]) for n in range(1_000)])
    summary = _replace(site, "others.ndjson", [_item(n, parts=[1]) for n in range(5_000, 6_000)])
    assert (summary["exit_code"], set(_rows(site))) == (5, set(range(1_000)))
    summary = _replace(site, "childless.ndjson", [_item(n) | {"parts": None, "Parts": [1]} for n in range(1_000)])
    assert (summary["exit_code"], len(_parts(site))) == (5, 1_000)
    same = [_item(n, parts=[2]) for n in range(1_000)]
    summary = _replace(site, "changed.ndjson", same)
    assert (summary["exit_code"], summary["rows_deleted"]) == (0, {"lab.items": 0, "lab.item_parts": 0})


def test_an_empty_source_that_is_allowed_may_delete_all(site: Site) -> None:
    """--allow-empty deletes every row of a large table, unless --max-deleted is given."""
    _replace(site, "all.ndjson", [_item(n) for n in range(1_500)])
    (site.folder / "empty.json").write_text("[]")
    assert site.load("items", "empty.json", "--allow-empty", "--max-deleted", "10")["exit_code"] == 5
    summary = site.load("items", "empty.json", "--allow-empty")
    assert (summary["exit_code"], summary["rows_deleted"]["lab.items"]) == (0, 1_500)


@pytest.mark.parametrize("bad", [_item(1, "D", -1), {"ID": 1, "v": "D", "n": -1}], ids=["key", "unreadable key"])
@pytest.mark.parametrize(("is_first", "last"), [(True, "C"), (False, "D")], ids=["before", "after"])
def test_of_an_equal_row_and_a_replayed_record_the_later_wins(
    site: Site, bad: dict[str, Any], is_first: bool, last: str
) -> None:
    """A record that replace found equal counts as seen by it: an earlier version that is replayed does not win."""
    _replace(site, "one.ndjson", [_item(1, "C"), *(_item(n) for n in range(2, 20))])
    others = [_item(n) for n in range(2, 20)]
    two = [bad, _item(1, "C"), *others] if is_first else [_item(1, "C"), *others, bad]
    assert _replace(site, "two.ndjson", two)["exit_code"] == 1
    [path] = site.store.rglob("*.ndjson")
    path.write_text(path.read_text().replace("-1", "1").replace("ID", "id"))
    assert site.run("failed", "replay", "--all").returncode == 0
    assert _rows(site)[1] == last


def test_a_source_without_rejects_touches_no_equal_row(site: Site) -> None:
    """Replace rewrites equal rows only for keys of rejected records."""
    _replace(site, "one.ndjson", [_item(n) for n in range(20)])
    before = dict(site.ask("select id, xmin::text from lab.items"))
    _replace(site, "two.ndjson", [_item(3, "bad", -1), *(_item(n) for n in range(20))])
    after = dict(site.ask("select id, xmin::text from lab.items"))
    assert {n for n in before if before[n] != after[n]} == {3}


def test_a_run_that_lost_its_refused_keys_notes_them_again(site: Site) -> None:
    """When the keys of rejected records are lost before the publication, their batches load again."""
    _replace(site, "one.ndjson", [_item(n) for n in range(20)])
    _write(site, "two.ndjson", [_item(1, "bad", -1), *(_item(n, "new") for n in range(5, 20))])
    assert site.load("items", "two.ndjson", "--max-rejected", "0")["exit_code"] == 5
    [name] = [row[0] for row in site.ask("select relname from pg_class where relname like '%\\_refused\\_0'")]
    site.ask(f'drop table etl_staging."{name}"')
    summary = site.load("items", "two.ndjson", "--max-rejected", "1")
    assert (summary["exit_code"], summary["rows_kept"]["lab.items"]) == (1, 1)
    assert _rows(site) == {1: "old"} | dict.fromkeys(range(5, 20), "new")


def test_a_dry_run_judges_what_a_load_would_publish(site: Site) -> None:
    """A dry run ends with 5 where a replace or an atomic load would: nothing loads, or the share is too high."""
    _write(site, "renamed.ndjson", [{"ID": n} for n in range(5)])
    _write(site, "ten.ndjson", [_item(n, "new", -1 if n < 2 else 1) for n in range(10)])
    for options in (REPLACE, ATOMIC):
        for name in ("renamed.ndjson", "ten.ndjson"):
            assert site.run("load", "items", name, "--dry-run", *options).returncode == 5
    assert site.run("load", "items", "ten.ndjson", "--dry-run", "--mode", "merge").returncode == 1


@pytest.mark.parametrize(
    ("rows", "dataset"), [(20, "items"), pytest.param(20, "keyless", marks=pytest.mark.slow), (500, "items")]
)
def test_a_dry_run_judges_a_short_source(site: Site, rows: int, dataset: str) -> None:
    """A dry run of a replace ends with 5 if the source has so few records that too many rows would be deleted."""
    site.define(KEYLESS)
    _write(site, "all.ndjson", [_item(n) for n in range(1_000)])
    assert site.load(dataset, "all.ndjson")["exit_code"] == 0
    _write(site, "short.ndjson", [_item(n) for n in range(rows)])
    done = site.run("load", dataset, "short.ndjson", "--dry-run")
    assert done.returncode == (5 if rows == 20 else 0)
    assert ("would delete 980 of 1,000 rows" in done.stderr) == (rows == 20)
    assert site.run("load", dataset, "short.ndjson", "--dry-run", "--max-deleted", "98%").returncode == 0
    assert site.run("load", dataset, "short.ndjson", "--dry-run", "--mode", "append").returncode == 0


def test_a_replace_that_was_killed_while_it_published_keeps_the_rows_of_rejected_records(site: Site) -> None:
    """The keys of rejected records outlive kill -9: the next attempt publishes, and keeps their rows."""
    _replace(site, "one.ndjson", [_item(n, parts=[n]) for n in range(20)])
    _write(site, "two.ndjson", [_item(1, "bad", -1), *(_item(n, "new") for n in range(3, 20))])
    with site.gate("lab.items", "in COPY", when="new.v = 'new' and new.id = 10") as gate:
        load = site.start("load", "items", "two.ndjson", "--batch-rows", "5")
        gate.reached()
        assert load.kill()
        assert dict.fromkeys(range(20), "old") == _rows(site)
    site.wait_for_locks()
    summary = site.load("items", "two.ndjson", "--batch-rows", "5")
    assert (summary["exit_code"], summary["records"]["skipped"], summary["records"]["pending"]) == (1, 18, 1)
    assert (summary["rows_deleted"]["lab.items"], summary["rows_kept"]["lab.items"]) == (2, 1)
    assert _rows(site) == {1: "old"} | dict.fromkeys(range(3, 20), "new")
    assert _parts(site) == [(1, 1)]
    assert site.value("select count(*) from pg_class where relnamespace = 'etl_staging'::regnamespace") == 0


@pytest.mark.parametrize("definition", [KEYLESS, KEYLESS.replace("mode", 'key = ["id"]\nmode')], ids=["no key", "key"])
def test_datasets_of_one_source_are_published_together_or_not(site: Site, definition: str) -> None:
    """If one dataset of a source cannot be published, none of those that become visible together is."""
    site.define(definition)
    items = [_item(n, parts=[n]) for n in range(3)]
    one = {"items": items, "keyless": items}
    two = {"items": [_item(n, "new") for n in range(3)], "keyless": [{"ID": 1, "n": -1}]}
    three = {"items": [_item(n, "new", parts=[7]) for n in range(3)], "keyless": [_item(1, "new", parts=[7])]}
    for name, document, exit_code in (("one.json", one, 0), ("two.json", two, 5), ("three.json", three, 0)):
        (site.folder / name).write_text(json.dumps(document))
        done = site.run("load", "items,keyless", name, "--json")
        assert done.returncode == exit_code
        assert [line["exit_code"] for line in done.lines if line["kind"] == "source"] == [exit_code, exit_code]
        assert set(_rows(site).values()) == {"new" if name == "three.json" else "old"}
        assert _count(site, "bare") == (1 if name == "three.json" else 3)
    assert _parts(site) == [(n, 7) for n in range(3)]
    assert site.ask("select id, part from bare.item_parts") == [(1, 7)]


LEGS = """
name = "legs"
mode = "replace"
key = ["code", "leg", "day"]
[[table]]
name = "lab.legs"
[table.columns]
code = { type = "text", required = true, trim = true }
leg = { path = "n.leg", type = "numeric", required = true }
day = { type = "date", required = true, formats = ["%d.%m.%Y"] }
kg = { type = "integer", min = 0 }
"""


def test_the_key_of_a_rejected_record_is_read_as_its_columns_are(site: Site) -> None:
    """A key of several columns, with odd characters and values to convert, protects the row of its record."""
    site.define(LEGS)

    def leg(code: str, number: Any, kg: int) -> dict[str, Any]:
        return {"code": code, "n": {"leg": number}, "day": "24.12.2026", "kg": kg}

    codes = ["a\tb", "c\\N", '"q"', "é\n", "\\N", "", "急便"]
    _write(site, "one.ndjson", [leg(code, 1.50, 1) for code in [*codes, "gone"]])
    assert site.load("legs", "one.ndjson")["exit_code"] == 0
    _write(site, "two.ndjson", [leg(f" {code.strip()} ", "1.5", -1) for code in codes] + [leg("new", 2, 2)])
    summary = site.load("legs", "two.ndjson", "--max-rejected", "90%")
    assert (summary["exit_code"], summary["records"]["rejected"]) == (1, 7)
    assert (summary["rows_deleted"], summary["rows_kept"]) == ({"lab.legs": 1}, {"lab.legs": 7})
    assert site.value("select count(*) from lab.legs") == 8


def test_a_rejected_record_protects_the_table_that_takes_it(site: Site) -> None:
    """Of a dataset with several tables of records, a rejected record keeps rows of the table that it belongs to."""
    site.define(EVENTS)

    def event(id: str, type: str, port: str | None = None) -> dict[str, Any]:
        return {"id": id, "type": type, "port": port, "box": {"code": "B", "sealed": True}}

    ports, boxes = [event(f"P{n}", "TRANSPORT", "BR") for n in range(3)], [event(f"B{n}", "BOX") for n in range(3)]
    _write(site, "one.ndjson", ports + boxes)
    assert site.load("events", "one.ndjson", "--mode", "replace")["exit_code"] == 0
    _write(site, "two.ndjson", [event("P0", "TRANSPORT"), ports[1], boxes[0]])
    summary = site.load("events", "two.ndjson", "--mode", "replace", "--max-rejected", "1")
    names = ("logistics.transport_events", "logistics.equipment_events")
    assert [summary["rows_deleted"][name] for name in names] == [1, 2]
    assert [summary["rows_kept"][name] for name in names] == [1, 0]
    assert site.column("select id from logistics.transport_events order by 1") == ["P0", "P1"]
    assert site.column("select id from logistics.equipment_events") == ["B0"]
    # A record that no table takes may have been one of either.
    _write(site, "three.ndjson", [boxes[0], {"id": "P0", "type": "?"}])
    summary = site.load("events", "three.ndjson", "--mode", "replace", "--max-rejected", "1")
    assert [summary["rows_kept"][name] for name in names] == [1, 0]
    assert site.column("select id from logistics.transport_events") == ["P0"]
