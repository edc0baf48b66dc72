"""The counts of a load are those of the server: a trigger or a rule that skips rows ends it."""

import json
from collections.abc import Iterable, Mapping
from typing import Any

import pytest

from tests.support.site import Site

ITEMS = """
name = "items"
mode = "append"
key = ["id"]
newest_by = "version"
[[table]]
name = "lab.items"
[table.columns]
id = { type = "integer", required = true }
version = "integer"
v = "text"
[[table]]
name = "lab.parts"
each = "parts"
[table.columns]
id = { path = "^.id", type = "integer" }
part = { path = ".", type = "integer" }
"""
MODES = {
    "append": ("--mode", "append"),
    "append newest": ("--mode", "append", "--on-duplicate", "newest"),
    "merge": ("--mode", "merge"),
    "replace": ("--mode", "replace"),
    "atomic append": ("--mode", "append", "--atomic"),
    "atomic merge": ("--mode", "merge", "--atomic"),
}
SKIP = """
create function lab.skip() returns trigger language plpgsql as $$ begin
    if tg_op = 'DELETE' then return null; end if;
    if new.id = 3 then return null; end if;
    return new;
end $$
"""


@pytest.fixture
def site(site: Site) -> Site:
    """Give a site that has the tables of `items`, and a function that skips the rows of item 3."""
    site.define(ITEMS)
    site.ask(SKIP)
    return site


def _write(site: Site, name: str, items: Iterable[Mapping[str, Any]]) -> None:
    (site.folder / name).write_text("".join(json.dumps(item) + "\n" for item in items))


def _item(id: int, v: str = "new", version: int = 2, parts: Iterable[int] = (1, 2)) -> dict[str, Any]:
    return {"id": id, "version": version, "v": v, "parts": list(parts)}


def _counts(site: Site) -> tuple[int, int]:
    return site.value("select count(*) from lab.items"), site.value("select count(*) from lab.parts")


def _assert_skipped(site: Site, table: str, guard: str, *options: str) -> None:
    """Load `five.ndjson`, which ends with 2 and names the table and the trigger or rule; nothing of it is loaded."""
    before = _counts(site)
    done = site.run("load", "items", "five.ndjson", "--json", *options)
    assert (done.returncode, done.summary["records"]["loaded"]) == (2, 0)
    assert f"of {table} without an error: {guard} can skip rows" in done.stderr
    assert "hint: let the trigger raise an exception" in done.stderr
    assert _counts(site) == before


@pytest.mark.parametrize("table", ["lab.items", pytest.param("lab.parts", marks=pytest.mark.slow)])
@pytest.mark.parametrize("mode", MODES)
def test_a_trigger_that_skips_an_insert_ends_the_load(site: Site, mode: str, table: str) -> None:
    """In every mode a skipped row of any table is exit 2; without the trigger the same command loads all."""
    site.ask("create trigger s before insert on " + table + " for each row execute function lab.skip()")
    _write(site, "five.ndjson", [_item(n) for n in range(1, 6)])
    _assert_skipped(site, table, "the trigger s", *MODES[mode])
    site.ask("drop trigger s on " + table)
    assert site.load("items", "five.ndjson", *MODES[mode])["exit_code"] == 0
    assert _counts(site) == (5, 10)


@pytest.mark.parametrize("event", ["update on lab.items", "delete on lab.parts"])
@pytest.mark.parametrize("mode", ["merge", "replace", pytest.param("atomic merge", marks=pytest.mark.slow)])
def test_a_trigger_that_skips_an_update_or_a_deletion_ends_the_load(site: Site, mode: str, event: str) -> None:
    """A row that is not updated, or child rows that are not deleted, are exit 2."""
    _write(site, "old.ndjson", [_item(n, "old", 1, [7]) for n in range(1, 6)])
    assert site.load("items", "old.ndjson", "--mode", "merge")["exit_code"] == 0
    site.ask("create trigger s before " + event + " for each row execute function lab.skip()")
    _write(site, "five.ndjson", [_item(n) for n in range(1, 6)])
    _assert_skipped(site, event.rsplit(maxsplit=1)[-1], "the trigger s", *MODES[mode])


def test_a_trigger_that_keeps_absent_rows_ends_a_replace(site: Site) -> None:
    """Absent rows that a trigger does not let a replace delete are exit 2."""
    _write(site, "old.ndjson", [_item(n, "old", 1) for n in range(1, 9)])
    assert site.load("items", "old.ndjson")["exit_code"] == 0
    site.ask("create trigger s before delete on lab.items for each row execute function lab.skip()")
    _write(site, "five.ndjson", [_item(n) for n in range(1, 6)])
    _assert_skipped(site, "lab.items", "the trigger s", "--mode", "replace")


def test_a_rule_that_discards_rows_ends_the_publication(site: Site) -> None:
    """Rows that a rule discards when an atomic run is published are exit 2."""
    site.ask("create rule r as on insert to lab.parts where new.id = 3 do instead nothing")
    _write(site, "five.ndjson", [_item(n) for n in range(1, 6)])
    _assert_skipped(site, "lab.parts", "the rule r", *MODES["atomic append"])


def test_a_trigger_of_a_partition_ends_the_load(site: Site) -> None:
    """The trigger may be that of a partition."""
    site.ask(
        "drop table lab.items;"
        " create table lab.items (id integer not null primary key, version integer, v text, etl_run bigint not null,"
        " etl_batch bigint not null, etl_place integer not null) partition by range (id);"
        " create table lab.items_low partition of lab.items for values from (0) to (100);"
        " create trigger p before insert on lab.items_low for each row execute function lab.skip()"
    )
    _write(site, "five.ndjson", [_item(n) for n in range(1, 6)])
    for mode in ("append", "merge"):
        _assert_skipped(site, "lab.items", "the trigger p", *MODES[mode], "--force")


@pytest.mark.parametrize("workers", ["1", "2"])
def test_the_batches_before_a_skipped_row_are_loaded(site: Site, workers: str) -> None:
    """In append and merge the batches before the skipped row stay loaded, also those of several workers."""
    site.ask("create trigger s before insert on lab.items for each row execute function lab.skip()")
    _write(site, "six.ndjson", [_item(n) for n in (1, 2, 4, 5, 3, 6)])
    options = ("--mode", "merge", "--batch-rows", "2", "--workers", workers)
    done = site.run("load", "items", "six.ndjson", "--json", *options)
    assert (done.returncode, done.summary["records"]["loaded"]) == (2, 4)
    assert _counts(site) == (4, 8)
    site.ask("drop trigger s on lab.items")
    assert site.load("items", "six.ndjson", *options)["exit_code"] == 0
    assert _counts(site) == (6, 12)


@pytest.mark.parametrize("mode", ["append", "append newest", "merge"])
def test_a_skipped_row_among_rejected_ones_ends_the_load(site: Site, mode: str) -> None:
    """Records that are written a few at a time, because the server refused their batch, are counted, too."""
    site.ask("alter table lab.items add constraint by_hand check (v <> 'refused')")
    site.ask("create trigger s before insert on lab.items for each row execute function lab.skip()")
    _write(site, "five.ndjson", [_item(n, "refused" if n == 4 else "new") for n in range(1, 6)])
    _assert_skipped(site, "lab.items", "the trigger s", *MODES[mode])


@pytest.mark.parametrize("mode", ["append", "merge", "replace"])
def test_a_skipped_row_ends_a_replay(site: Site, mode: str) -> None:
    """A replay whose record a trigger skips ends with 2; the record still waits."""
    _write(site, "six.ndjson", [*(_item(n) for n in (1, 2, 4, 5, 6)), _item(3) | {"version": "x"}])
    assert site.load("items", "six.ndjson", *MODES[mode], "--max-rejected", "1")["exit_code"] == 1
    [path] = site.store.rglob("*.ndjson")
    path.write_text(path.read_text().replace('"x"', "2"))
    site.ask("create trigger s before insert on lab.items for each row execute function lab.skip()")
    done = site.run("failed", "replay", "--all")
    assert done.returncode == 2
    assert "of lab.items without an error: the trigger s can skip rows" in done.stderr
    assert site.value("select state from etl.failures") == "pending"
    site.ask("drop trigger s on lab.items")
    assert site.run("failed", "replay", "--all").returncode == 0
    assert _counts(site) == (6, 12)


@pytest.mark.parametrize("mode", MODES)
def test_a_trigger_that_changes_rows_skips_none(site: Site, mode: str) -> None:
    """Versions that lose, equal rows, and rows that a trigger changes are no skipped rows."""
    site.ask(
        "create function lab.touch() returns trigger language plpgsql as"
        " $$ begin new.v := upper(new.v); new.version := new.version + 10; return new; end $$;"
        " create trigger t before insert or update on lab.items for each row execute function lab.touch();"
        " create trigger t before insert or update on lab.parts for each row execute function lab.skip()"
    )
    first = [_item(n, "a", 1) for n in (1, 2, 4)]
    if "merge" in mode or mode == "replace":
        first += [_item(n, "b", 0) for n in (1, 2, 4)]
    _write(site, "one.ndjson", first)
    assert site.load("items", "one.ndjson", *MODES[mode])["exit_code"] == 0
    ids = (5, 6) if "append" in mode else (1, 2, 5, 6)
    _write(site, "two.ndjson", [_item(n, "c", 40) for n in ids])
    assert site.load("items", "two.ndjson", *MODES[mode])["exit_code"] == 0
    _write(site, "older.ndjson", [_item(n, "d", 3) for n in ids])
    if "append" not in mode:
        assert site.load("items", "older.ndjson", *MODES[mode])["exit_code"] == 0
    assert _counts(site) == ((4, 8) if mode == "replace" else (5, 10))
    assert site.value("select v from lab.items where id = 5") == ("D" if mode == "replace" else "C")
