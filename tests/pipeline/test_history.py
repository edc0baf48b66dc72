"""Tables with history: each version that a change or a deletion ends is kept, with the time in which it was shown."""

import json
import random
import re
from collections.abc import Iterable, Iterator
from datetime import datetime
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any

import pytest

from tests.support.site import Site

DEFINITION = """
name = "parcels"
mode = "merge"
key = ["id"]
%s
on_unknown = "ignore"
[[table]]
name = "lab.parcels"
history = true
[table.columns]
id = { type = "integer", required = true }
version = "integer"
promised = { type = "date", comment = "day of the promise" }
carrier = { type = "text", required = true }
[[table]]
name = "lab.items"
each = "items"
[table.columns]
id = { path = "^.id", type = "integer" }
sku = "text"
[[table]]
name = "lab.notes"
each = "notes"
[table.columns]
id = { path = "^.id", type = "integer" }
note = { path = ".", type = "text" }
"""
BY_VERSION = DEFINITION % 'newest_by = "version"'

Record = dict[str, Any]
Shown = tuple[Any, datetime | None, datetime | None, int | None]
"""A version with its child rows, since when and until when the tables showed it, and the run that ended it."""


def _row(id: int, version: int | None = None, *, carrier: str = "A", items: int = 2, **more: Any) -> Record:
    children = [{"sku": f"{carrier}{number}"} for number in range(items)]
    return {"id": id, "version": version, "carrier": carrier, "items": children, "notes": ["n"]} | more


def _gone(id: int, version: int | None = None) -> Record:
    return {"id": id, "version": version, "op": "d"}


def _write(site: Site, name: str, records: Iterable[Record]) -> str:
    (site.folder / name).write_text("".join(json.dumps(record) + "\n" for record in records))
    return name


def _load(site: Site, name: str, records: Iterable[Record], *options: str) -> int:
    """Load records, and return the number of their run."""
    done = site.run("load", "parcels", _write(site, name, records), "--json", "--no-precalculate", *options)
    assert done.returncode in {0, 1, 5}, done.stderr
    return int(site.value("select number from etl.runs where run = %s", [done.summary["run"]]))


def _kept(site: Site) -> list[tuple[Any, ...]]:
    """Return the ended versions: key, version, carrier, items, the run that loaded and the one that ended them."""
    return site.ask(
        "select id, version, carrier, array(select sku from lab.items_history i where i.id = p.id"
        " and (i.valid_from, i.valid_to, i.ended_by) is not distinct from (p.valid_from, p.valid_to, p.ended_by)"
        " order by sku), etl_run, ended_by from lab.parcels_history p order by valid_to, id"
    )


def test_a_version_that_a_change_or_a_deletion_ends_is_kept(site: Site) -> None:
    """It is kept with its child rows; an unchanged record, and a version that loses, write nothing."""
    site.define(BY_VERSION.replace("on_unknown", 'delete_if = { op = "d" }\non_unknown'))
    first = _load(site, "1.ndjson", [_row(1, 1), _row(2, 1), _row(3, 1), _row(4, 1), _row(5, 1)])
    assert _kept(site) == []
    site.ask("update lab.parcels set etl_digest = null where id = 2")  # as an older load, or a person, leaves it
    changed = _row(1, 2, carrier="B"), _row(2, 1, items=1), _row(3, 1) | {"unknown": 1}, _gone(4, 2), _row(5, 0)
    second = _load(site, "2.ndjson", changed)
    third = _load(site, "3.ndjson", [_row(1, 1, carrier="late"), _row(4, 3), _row(5, 5, promised="2026-12-01")])
    assert _kept(site) == [
        (1, 1, "A", ["A0", "A1"], first, second),
        (2, 1, "A", ["A0", "A1"], first, second),
        (4, 1, "A", ["A0", "A1"], first, second),
        (5, 1, "A", ["A0", "A1"], first, third),
    ]
    assert site.value("select count(*) from lab.notes_history") == 4
    followed = (
        "select count(*) from lab.parcels_history h join lab.parcels p using (id)"
        " where h.valid_to = p.etl_valid_from and h.valid_from < h.valid_to"
    )
    assert site.value(followed) == 3
    site.run("load", "parcels", "3.ndjson", "--force", "--no-precalculate")
    assert len(_kept(site)) == 4


def test_a_change_by_hand_is_kept_without_a_run(site: Site) -> None:
    """A person who changes or deletes rows ends versions, too; a row that gets the same values is no other version."""
    site.define(BY_VERSION)
    run = _load(site, "1.ndjson", [_row(1, 1), _row(2, 1), _row(3, 1)])
    site.ask("update lab.parcels set carrier = 'A'")
    site.ask("update lab.parcels set carrier = 'hand' where id = 1; delete from lab.items where id = 2")
    site.ask("delete from lab.parcels where id = 3")
    items = ["A0", "A1"]
    assert _kept(site) == [(1, 1, "A", items, run, None), (3, 1, "A", items, run, None)]
    assert site.value("select count(*) from lab.items_history where id = 2 and ended_by is null") == 2


_LOG = """
create table lab.log (place bigserial, id integer, tx xid8, at timestamptz, run bigint, state jsonb);
create function lab.note() returns trigger language plpgsql as $$
declare
    ender bigint;
begin
    if tg_op = 'DELETE' then
        select etl_run into ender from lab.parcels_deleted where id = old.id;
    end if;
    insert into lab.log (id, tx, at, run, state)
    select key.id, pg_current_xact_id(), now(), coalesce(p.etl_run, ender), case when p.id is not null then
    jsonb_build_array(
        p.version, p.promised, p.carrier,
        array(select sku from lab.items i where i.id = p.id order by sku),
        array(select note from lab.notes i where i.id = p.id order by note)
    ) end
    from (values (coalesce(new.id, old.id))) as key (id) left join lab.parcels p on p.id = key.id;
    return null;
end $$;
create constraint trigger note after insert or update or delete on lab.parcels
deferrable initially deferred for each row execute function lab.note();
alter table lab.parcels add check (carrier <> 'F');
"""
"""Notes what the tables show of a key when a transaction commits that has changed it."""


def _states(site: Site) -> dict[int, list[Shown]]:
    """Return all that the tables have shown of each key, by what was noted at each commit."""
    found: dict[int, list[Shown]] = {}
    rows = site.ask("select id, tx, place, at, run, state from lab.log order by id, place")
    for key, notes in groupby(rows, itemgetter(0)):
        last = {tx: (at, run, state) for _, tx, _, at, run, state in notes}
        shown: list[Shown] = []
        for at, run, state in last.values():
            if shown and shown[-1][0] == state:
                continue
            if shown:
                before, since, *_ = shown[-1]
                shown[-1] = before, since, at, run
            shown.append((state, at, None, None))
        found[key] = [each for each in shown if each[0] is not None]
    return {key: shown for key, shown in found.items() if shown}


def _histories(site: Site) -> dict[int, list[Shown]]:
    """Return the versions of each key in the histories and in the tables.

    A transaction that changes a record and changes it back leaves two versions with the same values: they are one here.
    """
    rows = site.ask(
        "select id, jsonb_build_array(version, promised, carrier,"
        " array(select sku from lab.items_history i where i.id = p.id and i.valid_from = p.valid_from"
        "  and (i.valid_to, i.ended_by) is not distinct from (p.valid_to, p.ended_by) order by sku),"
        " array(select note from lab.notes_history i where i.id = p.id and i.valid_from = p.valid_from"
        "  and (i.valid_to, i.ended_by) is not distinct from (p.valid_to, p.ended_by) order by note)),"
        " valid_from, valid_to, ended_by from lab.parcels_history p"
        " union all select id, jsonb_build_array(version, promised, carrier,"
        " array(select sku from lab.items i where i.id = p.id order by sku),"
        " array(select note from lab.notes i where i.id = p.id order by note)), etl_valid_from, null, null"
        " from lab.parcels p order by 1, 3, 4"
    )
    found: dict[int, list[Shown]] = {}
    for key, *version in rows:
        state, since, until, ender = version
        shown = found.setdefault(key, [])
        if shown and (shown[-1][0], shown[-1][2]) == (state, since):
            since = shown.pop()[1]
        shown.append((state, since, until, ender))
    return found


def _random_records(chance: random.Random, count: int, keys: int, *, deletes: bool) -> Iterator[Record]:
    for _ in range(count):
        key, version = chance.randrange(keys), chance.choice([None, *range(6)])
        if deletes and chance.random() < 0.3:
            yield _gone(key, version)
        else:
            more = {"unknown": chance.randrange(3), "promised": chance.choice([None, "2026-12-01", "2026-12-24"])}
            yield _row(key, version, carrier=chance.choice("ABF"), items=chance.randrange(3), **more)


@pytest.mark.parametrize("seed", [4, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(5, 45))])
def test_a_history_has_all_that_the_tables_have_shown(site: Site, seed: int) -> None:
    """After any loads, deletions, isolated batches, forced and atomic loads and replays, it has all shown versions."""
    chance = random.Random(seed)
    deletes = chance.random() < 0.6
    definition = BY_VERSION if chance.random() < 0.5 else DEFINITION % ""
    site.define(definition.replace("on_unknown", 'delete_if = { op = "d" }\non_unknown') if deletes else definition)
    site.ask(_LOG)
    for number in range(3 if seed == 4 else 5):
        records = list(_random_records(chance, chance.choice([3, 12, 40]), chance.choice([3, 12]), deletes=deletes))
        sent = [each | {"id": f"{each['id']} late"} if chance.random() < 0.1 else each for each in records]
        options = ["--batch-rows", str(chance.choice([2, 9, 5000])), *chance.choice([[], [], ["--atomic"]])]
        options += chance.choice([[], ["--decoder", "ijson"]])
        _load(site, f"{number}.ndjson", sent, "--max-rejected", "100%", *options)
        if chance.random() < 0.3:
            _load(site, f"{number}.ndjson", sent, "--max-rejected", "100%", "--force")
    for failure in chance.sample(site.failures.waiting(), len(site.failures.waiting())):
        path = site.failures.path(failure)
        path.write_text(re.sub(r'"(\d+) late"', r"\1", path.read_text()).replace('"F"', '"G"'))
        # Of an atomic run that published nothing, nothing is replayed.
        assert site.run("failed", "replay", failure, "--no-precalculate").returncode in {0, 2}
    histories, states = _histories(site), _states(site)
    for key in histories.keys() | states.keys():
        assert histories.get(key) == states.get(key), key
    assert len(histories) > 2
    assert sum(map(len, histories.values())) > len(histories)
    with_versions = "select count(*) from lab.items_history join lab.parcels_history using (id, valid_from, valid_to)"
    assert site.value(with_versions) == site.value("select count(*) from lab.items_history")


def _undo(site: Site, number: int, *options: str) -> list[tuple[int, int]]:
    """Take a run back, and return how many rows of each table were deleted and restored."""
    name = site.value("select run from etl.runs where number = %s", [number])
    ended = site.run("runs", "undo", name, "--json", "--no-precalculate", *options)
    assert ended.returncode == 0, ended.stderr
    [line] = ended.lines
    return [(each["rows_deleted"], line["rows_restored"].get(each["table"], 0)) for each in line["tables"]]


def _all(site: Site) -> dict[str, list[tuple[Any, ...]]]:
    """Return all rows without their lineage, but with their times."""
    return {
        "parcels": site.ask("select id, version, carrier, etl_valid_from from lab.parcels order by 1"),
        "items": site.ask("select id, sku from lab.items order by 1, 2"),
        "parcels_history": site.ask(
            "select id, version, carrier, valid_from, valid_to, ended_by from lab.parcels_history order by 1, 5"
        ),
        "items_history": site.ask(
            "select id, sku, valid_from, valid_to, ended_by from lab.items_history order by 1, 4, 2"
        ),
    }


def test_an_undo_of_a_merge_shows_the_versions_before(site: Site) -> None:
    """Changed, deleted and new keys are as before; a dry run says how many; rows that a later run has seen stay."""
    site.define(BY_VERSION.replace("on_unknown", 'delete_if = { op = "d" }\non_unknown'))
    _load(site, "1.ndjson", [_row(number, 1) for number in range(1, 6)])
    _load(site, "2.ndjson", [_row(1, 2, carrier="B")])
    before = _all(site)
    changed = [_row(1, 3, carrier="C"), _row(2, 2, items=1), _gone(3, 2), _row(6, 1), _row(5, 1, unknown=1)]
    run = _load(site, "3.ndjson", changed)
    counts = _undo(site, run, "--dry-run")
    assert _undo(site, run) == counts
    assert counts == [(3, 3), (5, 6), (3, 3), (1, 0)]
    assert _all(site) == before
    again = _load(site, "3.ndjson", changed)
    later = _load(site, "4.ndjson", [_row(1, 4, carrier="D"), _row(3, 4, carrier="D"), _row(2, 2, items=1)])
    _undo(site, again)
    assert [row[1:] for row in _all(site)["parcels"]][:3] == [
        (4, "D", site.value("select etl_valid_from from lab.parcels where id = 1")),
        (2, "A", site.value("select etl_valid_from from lab.parcels where id = 2")),
        (4, "D", site.value("select etl_valid_from from lab.parcels where id = 3")),
    ]
    assert {row[:3] + row[5:] for row in _all(site)["parcels_history"]} == {
        (1, 1, "A", 2),
        (1, 2, "B", later),
        (2, 1, "A", later),
        (3, 1, "A", later),
    }
    _undo(site, later)
    assert [row[:3] for row in _all(site)["parcels"]] == [row[:3] for row in before["parcels"]]


@pytest.mark.parametrize("seed", [1, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(2, 30))])
def test_an_undone_merge_leaves_what_the_others_have_loaded(site: Site, seed: int) -> None:
    """The versions are those of a table into which only the other runs were loaded, whichever is undone first."""
    chance = random.Random(seed)
    deletes = chance.random() < 0.7
    definition = DEFINITION % ('delete_if = { op = "d" }' if deletes else "")
    site.define(definition)
    loads = [
        list(_random_records(chance, chance.choice([4, 15]), 5, deletes=deletes)) for _ in range(3 if seed == 1 else 5)
    ]
    last, runs = len(loads) - 1, []
    options = [["--batch-rows", str(chance.choice([4, 5000])), *chance.choice([[], ["--force"]])] for _ in loads]
    for number, records in enumerate(loads):
        runs.append(_load(site, f"{number}.ndjson", records, *options[number]))
    undone = chance.choice([chance.sample(range(last + 1), chance.choice([1, 2, 3])), [last], [last, last - 1]])
    for each in undone:
        _undo(site, runs[each])
    left = _histories(site)
    for each in reversed(range(last + 1)):
        if each not in undone:
            _undo(site, runs[each])
    if undone[0] == last and undone[-1] > last - 2:  # Of runs that are undone in another order, equal rows may stay.
        assert _histories(site) == {}
    else:
        site.ask(
            "delete from lab.parcels; delete from lab.items; delete from lab.notes; delete from lab.parcels_history"
        )
        site.ask("delete from lab.items_history; delete from lab.notes_history; delete from lab.parcels_history")
    for number, records in enumerate(loads):
        if number not in undone:
            _load(site, f"{number}.ndjson", records, *options[number])
    states = {key: [state for state, *_ in shown] for key, shown in _histories(site).items()}
    assert {key: [state for state, *_ in shown] for key, shown in left.items()} == states


def test_an_undo_fills_columns_that_a_version_has_not(site: Site) -> None:
    """A version from before a column gets the value of its row, else the default; else the undo names the column."""
    site.define(BY_VERSION.replace("on_unknown", 'delete_if = { op = "d" }\non_unknown'))
    _load(site, "1.ndjson", [_row(number, 1) for number in (1, 2, 3)])
    first, second, third = (
        _load(site, f"{number}.ndjson", [_row(1, number, carrier="B"), *gone])
        for number, gone in ((2, [_gone(3, 2)]), (3, []), (4, [_gone(2, 4)]))
    )
    site.ask(
        "alter table lab.parcels add number bigint generated always as identity, add serial bigserial,"
        " add changed date not null default '2026-01-01'; alter table lab.items add kind text not null default 'box'"
    )
    assert site.run("dataset", "create", "parcels").returncode == 0
    [row] = site.ask("select number, serial, changed from lab.parcels where id = 1")
    _undo(site, third)
    assert site.ask("select number, serial, changed from lab.parcels where id = 1") == [row]
    assert len(site.ask("select id from lab.parcels where number is not null and serial is not null")) == 2
    assert set(site.column("select kind from lab.items")) == {"box"}
    site.ask("alter table lab.parcels alter changed drop default")
    _undo(site, second)  # The row of the key has a value.
    name = site.value("select run from etl.runs where number = %s", [first])
    ended = site.run("runs", "undo", name, "--no-precalculate")
    assert ended.returncode == 2
    assert "no value for the column changed of lab.parcels, which refuses null" in ended.stderr


def test_a_trigger_of_a_user_makes_versions(site: Site) -> None:
    """What it changes in a row begins a version, like every other change, whatever its name is."""
    site.define(BY_VERSION)
    site.ask(
        "alter table lab.parcels add changed timestamptz default clock_timestamp();"
        " create function lab.stamp() returns trigger language plpgsql as"
        " 'begin new.changed := clock_timestamp(); return new; end';"
        " create trigger zz_stamp before update on lab.parcels for each row execute function lab.stamp()"
    )
    assert site.run("dataset", "create", "parcels").returncode == 0
    _load(site, "1.ndjson", [_row(1, 1)])
    site.ask("update lab.parcels set carrier = carrier")
    times = "select h.valid_from < h.valid_to, h.valid_to = p.etl_valid_from"
    assert site.ask(f"{times} from lab.parcels_history h join lab.parcels p using (id)") == [(True, True)]


def test_an_undo_keeps_a_row_that_an_older_transaction_has_inserted(site: Site) -> None:
    """The row came after the deletion, although its transaction began before: the undo shows no older version."""
    site.define(BY_VERSION.replace("on_unknown", 'delete_if = { op = "d" }\non_unknown'))
    _load(site, "1.ndjson", [_row(1, 1)])
    with site.connect() as older, older.transaction():
        older.execute("select now()")
        gone = _load(site, "2.ndjson", [_gone(1, 2)])
        older.execute("insert into lab.parcels values (1, 3, null, 'late', 99, 0, 1)")
    assert _undo(site, gone)[0] == (0, 0)
    assert site.ask("select version, carrier from lab.parcels") == [(3, "late")]
    assert site.ask("select version, ended_by from lab.parcels_history") == [(1, 99)]


_CODES = """
create type public.code;
create function public.code_in(cstring) returns public.code language internal immutable strict as 'textin';
create function public.code_out(public.code) returns cstring language internal immutable strict as 'textout';
create type public.code (input = public.code_in, output = public.code_out, like = text);
create cast (public.code as text) without function as implicit;
create cast (text as public.code) without function as assignment;
create function public.code_cmp(public.code, public.code) returns integer language sql immutable strict
as 'select case when lower($1::text) < lower($2::text) then -1 else (lower($1::text) > lower($2::text))::integer end';
""" + "".join(
    f"create function public.code_{word}(public.code, public.code) returns boolean language sql immutable strict as"
    f" 'select public.code_cmp($1, $2) {sign} 0'; create operator public.{sign}"
    f" (leftarg = public.code, rightarg = public.code, function = public.code_{word});"
    for word, sign in (("lt", "<"), ("le", "<="), ("eq", "="), ("ge", ">="), ("gt", ">"))
)


def test_keys_are_compared_as_their_type_compares_them(site: Site) -> None:
    """A type of an extension has its own equality, as that of texts without case: versions keep their child rows."""
    site.ask(_CODES)
    site.ask(
        "create operator class public.code_ops default for type public.code using btree as operator 1 public.<,"
        " operator 2 public.<=, operator 3 public.=, operator 4 public.>=, operator 5 public.>,"
        " function 1 public.code_cmp(public.code, public.code)"
    )
    site.define(
        BY_VERSION.replace('id = { type = "integer"', 'id = { type = "code"').replace(
            'path = "^.id", type = "integer"', 'path = "^.id", type = "code"'
        )
    )
    first = _load(site, "1.ndjson", [_row(1, 1) | {"id": "ab"}])
    second = _load(site, "2.ndjson", [_row(1, 2, items=1) | {"id": "AB"}])
    third = _load(site, "3.ndjson", [_row(1, 3) | {"id": "Ab"}])
    assert site.ask("select etl_run, ended_by from lab.items_history order by 1") == [
        *[(first, second)] * 2,
        (second, third),
    ]
    _undo(site, third)
    assert site.ask("select count(*) from lab.items") == [(1,)]


def test_an_undo_of_a_run_before_the_history_is_refused(site: Site) -> None:
    """What a run has written over before the history began, nobody can restore."""
    site.define(BY_VERSION.replace("history = true", ""))
    _load(site, "1.ndjson", [_row(1, 1)])
    run = _load(site, "2.ndjson", [_row(1, 2)])
    site.define(BY_VERSION)
    name = site.value("select run from etl.runs where number = %s", [run])
    ended = site.run("runs", "undo", name)
    assert ended.returncode == 2
    assert "nobody can restore" in ended.stderr


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_workers_and_killed_loads_keep_all_that_was_shown(site: Site, seed: int) -> None:
    """Two workers bring batches in any order, a load is killed and run again: each shown version is kept."""
    chance = random.Random(seed)
    site.define(BY_VERSION.replace("on_unknown", 'delete_if = { op = "d" }\non_unknown'))
    site.ask(_LOG)
    for number in range(3):
        records = list(_random_records(chance, 400, 60, deletes=True))
        words = ["load", "parcels", _write(site, f"{number}.ndjson", records), "--no-precalculate"]
        words += ["--max-rejected", "100%", "--batch-rows", "20", "--workers", str(chance.choice([1, 2]))]
        running = site.start(*words)
        site.wait_for_batches(site.count_batches() + chance.randrange(1, 15), running)
        running.kill()
        site.wait_for_locks()
        assert site.run(*words).returncode in {0, 1}
    histories, states = _histories(site), _states(site)
    for key in histories.keys() | states.keys():
        kept, shown = histories.get(key, []), states.get(key, [])
        assert [state for state, *_ in kept] == [state for state, *_ in shown]
        assert [ender for *_, ender in kept] == [ender for *_, ender in shown]
        # A transaction that waits for one that began later ends its version when that began.
        assert all(since <= until for _, since, until, _ in kept if since and until)


def test_an_undo_keeps_the_first_promised_time_of_a_shipment(site: Site) -> None:
    """The version before takes the place of the one that goes, so that what other triggers keep of its key stays."""
    shipped = (Path(__file__).parents[2] / "config" / "datasets" / "shipments.toml").read_text()
    named = 'name = "logistics.shipments"\n'
    site.define(shipped.replace(named, f"{named}history = true\n", 1))

    def load(day: int) -> int:
        shipment = {
            "shipment_id": "S1",
            "created_at": "2026-11-01T00:00:00Z",
            "promised_at": f"2026-12-0{day}T00:00:00Z",
            "updated_at": f"2026-11-0{day}T00:00:00Z",
        }
        (site.folder / f"{day}.ndjson").write_text(json.dumps(shipment))
        run = site.load("shipments", f"{day}.ndjson", "--no-precalculate")["run"]
        return int(site.value("select number from etl.runs where run = %s", [run]))

    *_, last = [load(1), load(2), load(3)]
    _undo(site, last)
    assert str(site.value("select promised_at from logistics.shipments"))[:10] == "2026-12-02"
    assert str(site.value("select etl_first_promised_at from logistics.shipments"))[:10] == "2026-12-01"
