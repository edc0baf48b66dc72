"""Records that say that their key is gone: `delete_if` deletes the row and its children, by the order of versions."""

import json
import random
import re
from collections.abc import Iterable
from typing import Any

import pytest

from tests.support.site import Site

DEFINITION = """
name = "parcels"
mode = "merge"
key = ["id"]
%s
delete_if = { op = ["d", "r"] }
on_unknown = "ignore"
[[table]]
name = "lab.parcels"
[table.columns]
id = { type = "integer", required = true }
version = "integer"
carrier = { type = "text", required = true, max_length = 5 }
[[table]]
name = "lab.items"
each = "items"
[table.columns]
id = { path = "^.id", type = "integer" }
sku = "text"
"""
BY_VERSION = DEFINITION % 'newest_by = "version"'

Record = dict[str, Any]


def _row(id: int, version: int | None = None, *, carrier: str = "A", op: str = "c", items: int = 2) -> Record:
    children = [{"sku": f"{carrier}{number}"} for number in range(items)]
    return {"id": id, "version": version, "carrier": carrier, "op": op, "items": children}


def _gone(id: int, version: int | None = None, **more: Any) -> Record:
    return {"id": id, "version": version, "op": "d"} | more


def _write(site: Site, name: str, records: Iterable[Record]) -> str:
    (site.folder / name).write_text("".join(json.dumps(record) + "\n" for record in records))
    return name


def _rows(site: Site) -> dict[int, tuple[Any, ...]]:
    rows = site.ask(
        "select p.id, p.version, p.carrier, array(select sku from lab.items i where i.id = p.id order by sku)"
        " from lab.parcels p order by id"
    )
    assert site.value("select count(*) from lab.items where id not in (select id from lab.parcels)") == 0
    return {number: tuple(values) for number, *values in rows}


@pytest.mark.parametrize("decoder", ["auto", "ijson"])
def test_a_record_deletes_its_key(site: Site, decoder: str) -> None:
    """The row and its child rows go; the record needs no other column; it counts as loaded and as deleted."""
    site.define(BY_VERSION)
    first = [_row(number, 1) for number in range(1, 9)]
    load = ("--json", "--decoder", decoder, "--max-rejected", "100%")
    site.run("load", "parcels", _write(site, "1.ndjson", first), *load)
    second = [
        *[_gone(1, 2), _gone(2, 0), _gone(3, 2, items=[{"sku": 5}], carrier="too long"), _gone(9, 5), _row(9, 4)],
        *[_row(4, 2, carrier="B"), _gone(4, 3), _row(5, 5, carrier="B"), _gone(5, 4), _gone(6), _row(9, 6, op="u")],
        *[{"op": "d", "version": 7}, {"op": "d", "id": "x", "version": 7}, _row(7, 2, op="r")],
    ]
    done = site.run("load", "parcels", _write(site, "2.ndjson", second), *load)
    assert done.returncode == 1, done.stderr
    counts = done.summary["records"]
    assert (counts["read"], counts["loaded"], counts["rejected"], counts["deleted"]) == (14, 12, 2, 8)
    assert _rows(site) == {
        2: (1, "A", ["A0", "A1"]),
        5: (5, "B", ["B0", "B1"]),
        6: (1, "A", ["A0", "A1"]),
        8: (1, "A", ["A0", "A1"]),
        9: (6, "A", ["A0", "A1"]),
    }
    again = site.run("load", "parcels", _write(site, "3.ndjson", [_row(1, 1), _row(3, 3, carrier="C")]), *load)
    assert again.summary["records"]["deleted"] == 0
    assert set(_rows(site)) == {2, 3, 5, 6, 8, 9}
    [row] = site.run("runs", "show", done.summary["run"], "--json").lines
    assert row["deleted"] == 8
    assert "12 loaded (8 of them deleted their key)" in site.run("runs", "show", done.summary["run"]).stdout
    known = site.run("load", "parcels", "2.ndjson", "--json").summary
    assert (known["status"], known["records"]["skipped"]) == ("already_loaded", 14)


def test_unchanged_records_stay_as_they_are(site: Site) -> None:
    """Where records delete, the others are compared, too; but not those whose key the same batch deletes."""
    site.define(BY_VERSION)
    first = [_row(number, 1) for number in range(1, 6)]
    site.load("parcels", _write(site, "1.ndjson", first), "--no-precalculate")
    second = [*first[:3], _gone(4, 1), _row(4, 1), _gone(5, 2), _row(6, 1)]
    counts = site.load("parcels", _write(site, "2.ndjson", second), "--no-precalculate")["records"]
    assert (counts["loaded"], counts["unchanged"], counts["deleted"]) == (7, 3, 2)
    assert site.column("select etl_run from lab.parcels order by id") == [1, 1, 1, 2, 2]
    third = site.load("parcels", _write(site, "3.ndjson", [_row(4, 1), _gone(5, 2)]), "--no-precalculate")["records"]
    assert (third["unchanged"], third["deleted"]) == (1, 1)
    assert set(_rows(site)) == {1, 2, 3, 4, 6}


def test_a_late_deletion_loses_against_what_was_shown_since(site: Site) -> None:
    """A deletion of an older run that is replayed late deletes no row that a later run has found unchanged."""
    site.define(DEFINITION % "")
    site.load("parcels", _write(site, "1.ndjson", [_row(1), _row(2)]), "--no-precalculate")
    site.run("load", "parcels", _write(site, "2.ndjson", [_gone(1) | {"id": "1 late"}, _row(2)]), "--no-precalculate")
    counts = site.load("parcels", _write(site, "3.ndjson", [_row(2), _row(1)]), "--no-precalculate")["records"]
    assert counts["unchanged"] == 2
    [failure] = site.failures.waiting()
    path = site.failures.path(failure)
    path.write_text(path.read_text().replace('"1 late"', "1"))
    assert site.run("failed", "replay", failure, "--no-precalculate").returncode == 0
    assert set(_rows(site)) == {1, 2}


class Model:
    """The rows that a merge leaves: of each key the newest record counts."""

    def __init__(self, *, by_version: bool) -> None:
        self._by_version = by_version
        self._newest: dict[int, tuple[tuple[Any, ...], Record]] = {}

    def load(self, run: int, place: int, record: Record) -> None:
        """Load a record; its run and its place are a part of its order, whenever it comes."""
        version = record.get("version") if self._by_version else None
        order = (version is not None, version or 0, run, place)
        if record["id"] not in self._newest or order > self._newest[record["id"]][0]:
            self._newest[record["id"]] = (order, record)

    @property
    def rows(self) -> dict[int, tuple[Any, ...]]:
        """The rows with their child rows."""
        return {
            key: (record.get("version"), record["carrier"], sorted(item["sku"] for item in record["items"]))
            for key, (_, record) in sorted(self._newest.items())
            if record["op"] not in {"d", "r"}
        }


def _random_records(chance: random.Random, count: int, keys: int) -> list[Record]:
    records = []
    for _ in range(count):
        key, version = chance.randrange(keys), chance.choice([None, *range(6)])
        if chance.random() < 0.4:
            records.append(_gone(key, version))
        else:
            records.append(_row(key, version, carrier=chance.choice("ABCDE"), items=chance.randrange(3)))
    return records


@pytest.mark.parametrize("seed", [2, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(3, 30))])
def test_any_order_of_loads_and_replays_leaves_the_newest_version(site: Site, seed: int) -> None:
    """Rows and child rows are those of a model, after loads in small batches, in one transaction, and late replays."""
    chance = random.Random(seed)
    by_version = chance.random() < 0.6
    site.define(BY_VERSION if by_version else DEFINITION % "")
    model, late = Model(by_version=by_version), []
    before: list[Record] = []
    for number in range(4):
        records = _random_records(chance, chance.choice([8, 40]), chance.choice([4, 30]))
        # The next export has most of the records of this one.
        records = chance.sample(before, len(before) // 2) + records
        chance.shuffle(records)
        before = records
        spoiled = [chance.random() < 0.1 for _ in records]
        sent = [
            each | {"id": f"{each['id']} late"} if odd else each for each, odd in zip(records, spoiled, strict=True)
        ]
        options = ["--batch-rows", str(chance.choice([2, 9, 5000])), *chance.choice([[], ["--atomic"]])]
        options += chance.choice([[], ["--decoder", "ijson"]])
        name = _write(site, f"{number}.ndjson", sent)
        done = site.run("load", "parcels", name, "--json", "--max-rejected", "100%", "--no-precalculate", *options)
        assert done.returncode in {0, 1}, done.stderr
        run = site.value("select number from etl.runs where run = %s", [done.summary["run"]])
        for place, (record, odd) in enumerate(zip(records, spoiled, strict=True)):
            if odd:
                late.append((run, place, record))
            else:
                model.load(run, place, record)
    assert _rows(site) == model.rows
    for failure in chance.sample(site.failures.waiting(), len(site.failures.waiting())):
        path = site.failures.path(failure)
        path.write_text(re.sub(r'"(\d+) late"', r"\1", path.read_text()))
        assert site.run("failed", "replay", failure, "--no-precalculate").returncode == 0
    for run, place, record in late:
        model.load(run, place, record)
    assert _rows(site) == model.rows
    deleting = sum(record["op"] == "d" for record in map(json.loads, _lines(site)))
    assert site.value("select sum(count_deleted) from etl.batches") == deleting
    assert site.value("select count(*) from etl.batches where count_loaded <> count_records") == 0


def _lines(site: Site) -> list[str]:
    return [line for path in site.folder.glob("?.ndjson") for line in path.read_text().splitlines()]


@pytest.mark.slow
def test_loads_at_the_same_time_leave_the_newest_version(site: Site) -> None:
    """Commands with workers that delete and write the same keys at once leave the rows of a model."""
    site.define(DEFINITION % "")
    chance = random.Random(7)
    sources = [_random_records(chance, 600, 100) for _ in range(2)]
    names = [_write(site, f"{number}.ndjson", records) for number, records in enumerate(sources)]
    options = ("--json", "--no-precalculate", "--batch-rows", "100", "--workers", "2")
    started = [site.start("load", "parcels", name, *options) for name in names]
    done = [running.ended() for running in started]
    assert [each.returncode for each in done] == [0, 0], [each.stderr for each in done]
    model = Model(by_version=False)
    for each, records in zip(done, sources, strict=True):
        run = site.value("select number from etl.runs where run = %s", [each.summary["run"]])
        for place, record in enumerate(records):
            model.load(run, place, record)
    assert _rows(site) == model.rows


def test_a_deletion_waits_for_a_batch_that_writes(site: Site) -> None:
    """A batch with deletions begins to write when the batches before it are visible, and deletes their rows."""
    site.define(DEFINITION % "")
    records = [_row(number, carrier="A") for number in range(200)] + [_gone(number) for number in range(100)]
    name = _write(site, "1.ndjson", records)
    with site.gate("lab.parcels", "in COPY", when="new.id = 50") as gate:
        running = site.start("load", "parcels", name, "--json", "--batch-rows", "100", "--workers", "2")
        gate.reached()
        site.backend("wait_event_type = 'Lock' and wait_event = 'relation' and query ~ '^lock table'")
        gate.open()
        assert running.ended().returncode == 0
    assert set(_rows(site)) == set(range(100, 200))


def test_an_undo_says_what_stays_lost(site: Site) -> None:
    """A run that deleted rows of other runs is taken back by --delete-rows only; then its deletions count no more."""
    site.define(DEFINITION % "")
    site.run("load", "parcels", _write(site, "1.ndjson", [_row(1), _row(2)]))
    done = site.run("load", "parcels", _write(site, "2.ndjson", [_gone(1), _row(3)]), "--json")
    refused = site.run("runs", "undo", "latest")
    assert refused.returncode == 2
    assert "its records have deleted up to 1 rows, which nobody can restore" in refused.stderr
    undone = site.run("runs", "undo", done.summary["run"], "--delete-rows")
    assert "up to 1 rows that records of this run have deleted stay lost" in undone.stdout
    assert set(_rows(site)) == {2}
    site.run("load", "parcels", "1.ndjson", "--force")
    assert set(_rows(site)) == {1, 2}


def test_aggregates_follow_and_an_emptied_table_is_no_loss(site: Site) -> None:
    """Triggers note the deleted rows, and a table that records emptied takes the next load."""
    site.define(DEFINITION % "")
    site.ask("create table lab.gone (id integer)")
    site.ask(
        "create function lab.note() returns trigger language plpgsql as"
        " 'begin insert into lab.gone select id from old_rows; return null; end'"
    )
    site.ask(
        "create trigger note after delete on lab.parcels referencing old table as old_rows"
        " for each statement execute function lab.note()"
    )
    site.run("load", "parcels", _write(site, "1.ndjson", [_row(1), _row(2)]))
    site.run("load", "parcels", _write(site, "2.ndjson", [_gone(1), _gone(2), _gone(3)]), "--atomic")
    assert site.column("select id from lab.gone order by id") == [1, 2]
    assert _rows(site) == {}
    assert site.run("load", "parcels", _write(site, "3.ndjson", [_row(4)])).returncode == 0
    assert set(_rows(site)) == {4}


def test_a_change_event_has_its_key_before_the_change(site: Site) -> None:
    """Of an event the row is in `after`; a deletion has its key in `before`, whose other members are known."""
    site.define(
        'name = "shipments"\nmode = "merge"\nkey = ["id"]\nnewest_by = "pos"\ndelete_if = { "payload.op" = "d" }\n'
        '[[table]]\nname = "lab.shipments"\n[table.columns]\n'
        'id = { path = "payload.after.id", type = "integer", required = true }\n'
        'status = { path = "payload.after.status", type = "text" }\n'
        'pos = { path = "payload.source.pos", type = "bigint" }\n'
    )

    def event(op: str, pos: int, before: Record | None, after: Record | None) -> Record:
        return {"payload": {"before": before, "after": after, "source": {"pos": pos}, "op": op}}

    rows: list[Record] = [{"id": number, "status": "IN"} for number in range(5)]
    events = [
        *[event("c", 10 + row["id"], None, row) for row in rows],
        *[event("u", 20, rows[1], rows[1] | {"status": "OUT"}), event("d", 21, rows[2], None)],
        *[event("d", 22, {"id": 3}, None), event("u", 19, rows[3], rows[3]), event("d", 9, rows[4], None)],
    ]
    for decoder in ("auto", "ijson"):
        done = site.run(
            "load", "shipments", _write(site, "1.ndjson", events), "--json", "--decoder", decoder, "--force"
        )
        assert done.returncode == 0, done.stderr
        assert done.summary["records"]["deleted"] == 3
        assert "unknown" not in done.summary
        assert site.ask("select id, status from lab.shipments order by id") == [(0, "IN"), (1, "OUT"), (4, "IN")]
    assert "is_fast" in site.run("dataset", "show", "shipments", "--projection", "--json").stdout


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ('mode = "merge"', 'mode = "append"', "delete_if expects mode merge: append has no row"),
        ('mode = "merge"', 'mode = "replace"', "delete_if expects mode merge: replace has no row"),
        ('op = ["d", "r"]', "op = []", "delete_if expects values of op, got none"),
        ('op = ["d", "r"]', '"a..b" = 1', "delete_if: expected a path"),
        ('on_unknown = "ignore"', 'on_duplicate = "first"', "delete_if and on_duplicate = 'first' exclude each other"),
        ('"lab.items"', '"lab.parcels_deleted"', "the definition has one of this name"),
        ('"lab.parcels"', f'"lab.{"p" * 60}"', "whose name is longer than 63 letters"),
    ],
)
def test_a_wrong_delete_if_is_reported(site: Site, old: str, new: str, problem: str) -> None:
    """A condition that cannot delete is exit code 2 with the reason."""
    site.write_definition((DEFINITION % "").replace(old, new))
    done = site.run("dataset", "show", "parcels")
    assert done.returncode == 2
    assert problem in done.stderr


def test_another_mode_deletes_nothing(site: Site) -> None:
    """A load by another mode is exit code 2 with the reason, and a missing table names its command."""
    site.write_definition(DEFINITION % "")
    name = _write(site, "1.ndjson", [_gone(1)])
    for mode in ("append", "replace"):
        done = site.run("load", "parcels", name, "--mode", mode)
        assert done.returncode == 2
        assert f"mode {mode} deletes no keys" in done.stderr
    done = site.run("load", "parcels", name)
    assert done.returncode == 2
    assert "etl dataset create parcels" in done.stderr
    assert site.run("dataset", "create", "parcels").returncode == 0
    assert site.run("dataset", "check", "parcels").returncode == 0
    site.ask("drop table lab.parcels_deleted")
    assert "lab.parcels_deleted is missing" in site.run("load", "parcels", name).stderr
    site.run("dataset", "create", "parcels")
    assert site.run("load", "parcels", name, "--dry-run", "--json").summary["status"] == "checked"
    assert site.run("load", "parcels", name, "--json").summary["records"]["deleted"] == 1
