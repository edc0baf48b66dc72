"""Records of one source that have the same key: the record that is kept, and the report of the others."""

import itertools
import json
import os
import random
import signal
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from etl.datasets import read
from etl.errors import DefinitionError, TooManyRejectedError
from etl.ingestion.summary import Summary
from etl.settings import Mode, OnDuplicate
from tests.support.commands import PATIENT
from tests.support.databases import databases_of
from tests.support.servers import durable_server
from tests.support.site import Site
from tests.support.waiting import until

CRATES = """
name = "crates"
mode = "merge"
key = ["crate_no"]
newest_by = "version"
[[table]]
name = "logistics.crates"
[table.columns]
crate_no = { type = "text", required = true }
version = "integer"
weight = { type = "integer", min = 0 }
[[table]]
name = "logistics.crate_items"
each = "items"
columns = { crate_no = { path = "^.crate_no", type = "text" }, sku = "text" }
"""

NEGATIVE = -1
"""What a check of the definition refuses, and so the loader."""

DOZEN = 12
"""What no definition tells of: only the server refuses it."""


def _crate(name: str, version: int | None, weight: int, *items: str) -> dict[str, Any]:
    return {"crate_no": name, "version": version, "weight": weight, "items": [{"sku": sku} for sku in items]}


SERIAL = itertools.count()


@pytest.fixture
def site(site: Site) -> Site:
    """Give a site that has the tables of the dataset."""
    _define(site)
    return site


def _define(site: Site) -> None:
    site.define(CRATES)
    site.ask("alter table logistics.crates add constraint no_dozen check (weight <> 12)")


def _held(site: Site) -> dict[str, tuple[int | None, int, list[str]]]:
    """Return version, weight and items of each crate; every item has its crate."""
    rows = site.ask("select crate_no, version, weight from logistics.crates")
    found: dict[str, tuple[int | None, int, list[str]]] = {name: (*rest, []) for name, *rest in rows}
    assert len(found) == len(rows)
    for name, sku in site.ask("select crate_no, sku from logistics.crate_items order by sku"):
        found[name][2].append(sku)
    return found


def _staged(site: Site, run: str | None = None) -> list[str]:
    """Return the staging tables of a run, or of all runs."""
    query = "select relname from pg_class where relnamespace = 'etl_staging'::regnamespace and relkind = 'r'"
    return [name for name in site.column(query) if name.startswith(run or "")]


def _write(site: Site, name: str, records: Sequence[dict[str, Any]]) -> Path:
    """Write records as a source whose beginning is unique."""
    path = site.folder / name
    lines = [json.dumps({"serial": next(SERIAL)} | record) for record in records]
    path.write_text("\n".join([*lines, ""]) if path.suffix == ".ndjson" else f"[{', '.join(lines)}]")
    return path


def _bring(site: Site, path: Path, dataset: str = "crates", **settings: Any) -> Summary:
    """Load a source to its end."""
    summary, error = site.bring(path, dataset, **settings)
    assert error is None
    return summary


@dataclass(kw_only=True)
class Model:
    """The facts that a load of one record at a time would make."""

    policy: OnDuplicate
    mode: Mode
    facts: dict[str, dict[str, Any]]
    ours: set[str] = field(default_factory=set)
    seen: set[str] = field(default_factory=set)
    rejected: int = 0
    duplicates: int = 0

    def take(self, record: dict[str, Any]) -> None:
        """Load a record, or apply the policy to it."""
        name = record["crate_no"]
        if record["weight"] == NEGATIVE:
            self.rejected += 1
        elif name in self.seen and self.policy == "reject":
            self.rejected += 1
            self.duplicates += 1
        elif name in self.seen and self.policy == "first":
            self.duplicates += 1
        elif record["weight"] == DOZEN or (self.mode == "append" and name in self.facts and name not in self.ours):
            self.rejected += 1
        else:
            self.duplicates += name in self.seen
            self.seen.add(name)
            if name not in self.facts or self._is_not_older(record, self.facts[name]):
                self.facts[name] = record
                self.ours.add(name)

    def _is_not_older(self, new: dict[str, Any], old: dict[str, Any]) -> bool:
        return (new["version"] is not None, new["version"] or 0) >= (old["version"] is not None, old["version"] or 0)

    def held(self) -> dict[str, tuple[int | None, int, list[str]]]:
        """Return the facts in the form in which the database returns them."""
        return {
            name: (record["version"], record["weight"], sorted(item["sku"] for item in record["items"]))
            for name, record in self.facts.items()
        }


WAYS: tuple[tuple[Mode, bool], ...] = (
    ("merge", False),
    ("append", False),
    ("merge", True),
    ("append", True),
    ("replace", True),
)
POLICIES: tuple[OnDuplicate, ...] = ("newest", "first", "reject")


def _odd(policy: OnDuplicate) -> tuple[int, ...]:
    """Return odd weights: of records that a newer version replaces in the same batch, the server checks only some."""
    return (NEGATIVE,) if policy == "newest" else (NEGATIVE, DOZEN)


@dataclass(frozen=True, kw_only=True)
class Trial:
    """A source and how it is loaded: an attempt up to `limit`, where there is one, and the last, each with its batches.

    `old` are the versions of crates that another run brought in before.
    """

    policy: OnDuplicate
    way: tuple[Mode, bool]
    records: list[dict[str, Any]]
    old: dict[str, int | None]
    limit: int
    batch_rows: tuple[int, int]
    decoder: str

    def judge(self, site: Site) -> None:
        """Compare the result of a load with the model."""
        mode, is_atomic = self.way
        site.ask("truncate logistics.crates, logistics.crate_items")
        model = Model(policy=self.policy, mode=mode, facts={})
        # Rows that the table refuses at the end of an atomic append cannot become visible.
        for number, (name, version) in enumerate(self.old.items() if self.way != ("append", True) else ()):
            model.facts[name] = _crate(name, version, number)
            insert = "insert into logistics.crates values (%s, %s, %s, 0, 0, %s)"
            site.ask(insert, [name, version, number, number])
        before = dict(model.facts)
        if mode == "replace":
            model.facts.clear()
        for record in self.records:
            model.take(record)
        if mode == "replace":  # The rows of rejected records stay.
            rejected = {record["crate_no"] for record in self.records} & before.keys() - model.facts.keys()
            model.facts |= {name: before[name] for name in rejected}
        path = _write(site, "crates.json", self.records)
        asked: dict[str, Any] = {
            "mode": mode,
            "atomic": is_atomic,
            "on_duplicate": self.policy,
            "decoder": self.decoder,
        }
        first, last = self.batch_rows
        if is_atomic and model.rejected == len(self.records):
            _, error = site.bring(path, "crates", batch_rows=last, **asked)
            assert isinstance(error, TooManyRejectedError)
            assert _held(site) == replace(model, facts=before).held()
            return
        summaries = [_bring(site, path, limit=self.limit, batch_rows=first, **asked)] if self.limit else []
        summaries.append(_bring(site, path, batch_rows=last, **asked))
        assert _held(site) == model.held()
        assert sum(summary.records.rejected for summary in summaries) == model.rejected
        assert sum(summary.policies.duplicates for summary in summaries) == model.duplicates
        assert len(site.failures.records(summaries[-1].run)) == model.rejected
        assert _staged(site, summaries[-1].run) == []


@pytest.mark.parametrize(
    "policy", [POLICIES[0], *(pytest.param(each, marks=pytest.mark.slow) for each in POLICIES[1:])]
)
def test_each_policy_equals_a_plain_loop(site: Site, policy: OnDuplicate) -> None:
    """In every mode a policy equals a plain loop: in a batch, across batches and attempts, beside another run."""
    dice = random.Random(5)
    for number, way in enumerate(WAYS * 2):
        records = [
            _crate(dice.choice("ABCDE"), dice.choice([None, 1, 2, 3]), 100 + each, *(f"{each}",) * dice.randrange(3))
            for each in range(14)
        ]
        records[dice.randrange(14)]["weight"] = dice.choice(_odd(policy))
        old: dict[str, int | None] = {"A": 2, "B": None}
        limit, batch_rows = ((0, (0, 100)), (6, (3, 2)))[number % 2]
        decoder = "ijson" if number == 1 else "auto"
        Trial(
            policy=policy, way=way, records=records, old=old, limit=limit, batch_rows=batch_rows, decoder=decoder
        ).judge(site)


@st.composite
def _trials(draw: st.DrawFn) -> Trial:
    policy = draw(st.sampled_from(POLICIES))
    weights = st.sampled_from([None] * 8 + list(_odd(policy)))
    records = []
    for number in range(draw(st.integers(1, 9))):
        weight = draw(weights)
        items = [f"{number} {item}" for item in range(draw(st.integers(0, 2)))]
        name, version = draw(st.sampled_from("ABCD")), draw(st.sampled_from([None, 1, 2, 3]))
        records.append(_crate(name, version, 100 + number if weight is None else weight, *items))
    return Trial(
        policy=policy,
        way=draw(st.sampled_from(WAYS)),
        records=records,
        old=draw(st.dictionaries(st.sampled_from("ABC"), st.sampled_from([None, 1, 2]), max_size=2)),
        limit=draw(st.integers(0, 6)),
        batch_rows=(draw(st.sampled_from([1, 2, 3, 100])), draw(st.sampled_from([1, 2, 100]))),
        decoder=draw(st.sampled_from(["auto", "ijson"])),
    )


@settings(deadline=None, derandomize=True, max_examples=8, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(_trials())
def test_any_source_equals_a_plain_loop(site: Site, trial: Trial) -> None:
    """For any policy, mode and batches, and an end between two attempts, facts and counts are those of the model."""
    trial.judge(site)


@pytest.mark.slow
@settings(deadline=None, max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(_trials())
def test_many_sources_equal_a_plain_loop(site: Site, trial: Trial) -> None:
    """The same for hundreds of sources, other sources in each run of the test."""
    trial.judge(site)


def _load(site: Site, *words: str | Path, code: int) -> dict[str, Any]:
    log_options = ("--log-level", "debug", "--log-format", "json")
    done = site.run(*log_options, "load", "crates", *words, "--json", "--no-precalculate", "--max-rejected", "100%")
    assert done.returncode == code, done.stderr
    return done.summary | {"refused_at": {event["offset"] for event in done.events("batch_refused")}}


def test_a_refused_duplicate_is_reported_and_can_be_replayed(site: Site) -> None:
    """A duplicate is a rejected record with place and reason, and is counted; its replay makes no duplicate."""
    records = [
        _crate("A", 1, 10, "a1"),
        _crate("B", 1, 11),
        _crate("A", 2, 13, "a2"),
        _crate("C", 1, DOZEN),
        _crate("C", 1, 14),
        _crate("A", None, 15),
    ]
    path = _write(site, "feed.json", records)
    rehearsed = _load(site, path, "--on-duplicate", "reject", "--batch-rows", "2", "--dry-run", code=1)
    assert (rehearsed["records"]["rejected"], rehearsed["policies"]) == (3, {"duplicates": 2})
    assert _held(site) == {}
    (site.folder / "config" / "datasets" / "crates.toml").write_text('on_duplicate = "reject"\n' + CRATES)
    summary = _load(site, path, "--batch-rows", "2", code=1)
    assert (summary["records"]["loaded"], summary["records"]["rejected"]) == (3, 3)
    assert summary["policies"] == {"duplicates": 2}
    assert summary["rows"] == {"logistics.crates": 3, "logistics.crate_items": 1}
    assert len(summary["refused_at"]) == 1, "only for the dozen the server had to refuse a batch"
    assert _held(site) == {"A": (1, 10, ["a1"]), "B": (1, 11, []), "C": (1, 14, [])}
    places = {"record", "offset", "table", "column", "sqlstate", "reason"}
    first, _, last = ({name: record[name] for name in places} for record in site.failures.records(summary["run"]))
    assert (first["record"], last["record"]) == (3, 6)
    text = path.read_text()
    assert json.JSONDecoder().raw_decode(text, last["offset"])[0] == json.loads(text)[5]
    assert (first["sqlstate"], first["table"], first["column"]) == ("23505", "logistics.crates", "crate_no")
    assert first["reason"] == "an earlier record of this source has the same key (crate_no)"
    counted = "select on_duplicate, sum((policies ->> 'duplicates')::int) from etl.runs join etl.batches using (run)"
    assert site.ask(f"{counted} group by 1") == [("reject", 2)]
    assert _staged(site) == []
    assert site.run("failed", "replay", "--all").returncode == 1  # the server still refuses a dozen
    assert _held(site)["A"] == (2, 13, ["a2"])


def test_a_replayed_record_keeps_its_place_among_equal_keys(site: Site) -> None:
    """Whether a replayed record is the first of its key depends on its place in the source."""
    records = [_crate("A", 1, NEGATIVE, "a1"), _crate("A", 2, 10, "a2"), _crate("B", 1, 11), _crate("B", 2, NEGATIVE)]
    records += [_crate("C", 1, 777, "c1"), _crate("C", 2, 13, "c2")]
    path = _write(site, "feed.json", records)
    site.ask(
        """
        create function busy() returns trigger language plpgsql as
        'begin raise exception using errcode = ''40001''; end';
        create trigger busy before insert on logistics.crates for each row
        when (new.weight = 777) execute function busy()
        """
    )
    words = ("--on-duplicate", "first", "--batch-rows", "1", "--retry-attempts", "1", "--max-rejected", "100%")
    done = site.run("load", "crates", path, *words, "--no-precalculate")
    assert "2 rejected, 1 failed" in done.stdout
    assert _held(site) == {"A": (2, 10, ["a2"]), "B": (1, 11, []), "C": (2, 13, ["c2"])}
    site.ask("drop trigger busy on logistics.crates")
    for stored in (site.folder / "failed").rglob("*.ndjson"):
        stored.write_text(stored.read_text().replace(f'"weight": {NEGATIVE}', '"weight": 7'))
    assert site.run("failed", "replay", "--all").returncode == 0
    assert _held(site) == {"A": (1, 7, ["a1"]), "B": (1, 11, []), "C": (1, 777, ["c1"])}


def test_the_keys_of_a_run_are_kept_as_long_as_it_can_continue(site: Site) -> None:
    """A later attempt knows the keys, a source that grew knows its rows, and --force deletes the keys."""
    records = [_crate("A", 1, 10), _crate("A", 2, 11), _crate("B", 1, 13), _crate("A", 3, 14), _crate("C", 1, 15)]
    path = _write(site, "feed.ndjson", records)
    first = ["--on-duplicate", "first", "--batch-rows", "1"]
    cut = _load(site, path, *first, "--limit", "2", code=0)
    assert cut["policies"] == {"duplicates": 1}
    assert _staged(site) == [f"{cut['run']}_keys_0"]
    other = site.run("load", "crates", path, "--batch-rows", "1", "--limit", "3", "--no-precalculate")
    assert (other.returncode, "began under another definition" in other.stderr) == (2, True)
    shown = site.run("runs", "show", cut["run"]).stdout
    assert "--on-duplicate first" in shown
    forced = _load(site, path, *first, "--limit", "3", "--force", code=0)
    assert _staged(site) == [f"{forced['run']}_keys_0"]
    done = site.run("load", "crates", path, *first, "--no-precalculate")
    assert "2 loaded, 3 skipped" in done.stdout
    assert "; 1 of 5 records had a key that came again" in done.stdout
    assert _staged(site) == []
    tail = _write(site, "tail.ndjson", [_crate("B", 9, 16), _crate("D", 1, 17)])
    path.write_text(path.read_text() + tail.read_text())
    again = _load(site, path, *first, code=0)
    assert (again["run"], again["records"]["skipped"], again["policies"]) == (forced["run"], 5, {"duplicates": 1})
    assert _held(site) == {name: (1, weight, []) for name, weight in zip("ABCD", (10, 13, 15, 17), strict=True)}
    assert _staged(site) == []


def test_a_record_that_the_server_refuses_is_no_duplicate(site: Site) -> None:
    """The newest version, refused by a constraint, is no duplicate; nor is a record of another kind."""
    records = [_crate("A", 2, 10, "a1"), _crate("A", 3, DOZEN), _crate("B", 1, 11), _crate("B", 2, 13, "b2")]
    summary = _bring(site, _write(site, "feed.json", records), on_duplicate="newest", mode="append")
    assert (summary.records.rejected, summary.policies.duplicates) == (1, 1)
    assert _held(site) == {"A": (2, 10, ["a1"]), "B": (2, 13, ["b2"])}
    site.define(
        'name = "kinds"\nkey = ["no"]\n'
        + "".join(
            f'[[table]]\nname = "logistics.kind_{kind}"\nwhere = {{ kind = "{kind}" }}\n'
            'columns = { no = { type = "text", required = true } }\n'
            for kind in "xy"
        )
    )
    path = _write(site, "kinds.json", [{"no": no, "kind": kind} for no, kind in ("1x", "1y", "2x", "1x", "2x")])
    for policy, loaded in (("reject", 3), ("newest", 5)):
        site.ask("truncate logistics.kind_x, logistics.kind_y")
        summary = _bring(site, path, "kinds", on_duplicate=policy, batch_rows=2, force=True)
        assert (summary.records.loaded, summary.policies.duplicates) == (loaded, 2)
        rows = site.ask("select no, 'x' from logistics.kind_x union select no, 'y' from logistics.kind_y")
        assert sorted(rows) == [("1", "x"), ("1", "y"), ("2", "x")]


@pytest.mark.parametrize("mode", ["merge", pytest.param("append", marks=pytest.mark.slow)])
def test_several_workers_keep_the_newest(site: Site, mode: Mode) -> None:
    """With several workers the newest version is kept, and the counts are those of one worker."""
    records = [_crate(f"C{number * 7 % 20}", number * 13 % 50, 100 + number, f"{number}") for number in range(120)]
    model = Model(policy="newest", mode=mode, facts={})
    for record in records:
        model.take(record)
    path = _write(site, "feed.json", records)
    summary = _bring(site, path, mode=mode, on_duplicate="newest", workers=2, batch_rows=7)
    assert (summary.records.loaded, summary.policies.duplicates) == (120, 100)
    assert _held(site) == model.held()


def test_an_impossible_policy_is_refused(site: Site) -> None:
    """Without a key there are no duplicates, and with two workers no first record: exit 2, in the definition too."""
    path = _write(site, "feed.json", [_crate("A", 1, 10)])
    done = site.run("load", "crates", path, "--on-duplicate", "first", "--workers", "2")
    assert (done.returncode, "takes one worker" in done.stderr, "hint: --workers 1" in done.stderr) == (2, True, True)
    folder = site.folder / "config" / "datasets"
    keyless = CRATES.replace('key = ["crate_no"]\nnewest_by = "version"\n', "").replace("merge", "append")
    (folder / "keyless.toml").write_text(keyless.replace('"crates"', '"keyless"'))
    done = site.run("load", "keyless", path, env={"ETL_ON_DUPLICATE": "newest"})
    assert (done.returncode, "on-duplicate newest expects a key" in done.stderr) == (2, True)
    (folder / "keyless.toml").write_text('on_duplicate = "first"\n' + keyless.replace('"crates"', '"keyless"'))
    with pytest.raises(DefinitionError, match="on_duplicate expects `key`"):
        read(folder / "keyless.toml")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("policy", "mode", "options"),
    [
        ("first", "append", ()),
        ("reject", "merge", ()),
        ("newest", "append", ("--workers", "2")),
        ("newest", "merge", ("--workers", "2")),
        ("reject", "append", ("--atomic",)),
        ("first", "replace", ()),
    ],
)
def test_a_killed_load_forgets_no_key(site: Site, policy: OnDuplicate, mode: Mode, options: tuple[str, ...]) -> None:
    """After any number of kills the last attempt ends with the facts and counts of one plain loop."""
    records = [
        _crate(f"C{number * 733 % 1_500}", number * 389 % 50, DOZEN if number % 97 == 5 else 100 + number, f"{number}")
        for number in range(4_000)
        if policy != "newest" or number % 97 != 5
    ]
    model = Model(policy=policy, mode=mode, facts={})
    for record in records:
        model.take(record)
    source = str(_write(site, "feed.json", records))
    words = ["load", "crates", source, "--mode", mode, "--on-duplicate", policy, *options, *PATIENT]
    words += ["--json", "--max-rejected", "100%", "--batch-rows", "50"]
    kills = 0
    for share in (1, 3, 7, 12, 20, 30, 45, 60):
        running = site.start(*words)
        site.wait_for_batches(share, running)
        kills += running.kill()
    ended = site.start(*words).ended()
    assert kills >= 4
    assert ended.returncode in {0, 1}, ended.stderr
    assert _held(site) == model.held()
    counted = "select sum((policies ->> 'duplicates')::int), sum(count_rejected) from etl.batches"
    assert site.ask(counted) == [(model.duplicates, model.rejected)]
    assert len(site.failures.records(ended.summary["run"])) == model.rejected
    assert _staged(site) == []


@pytest.mark.slow
@pytest.mark.parametrize(("policy", "mode"), [("first", "append"), ("reject", "merge"), ("newest", "append")])
def test_a_server_that_crashes_changes_no_order(
    tmp_path_factory: pytest.TempPathFactory, tmp_path: Path, policy: OnDuplicate, mode: Mode
) -> None:
    """A batch that the server had committed is not loaded again after batches that took its keys."""
    with durable_server(tmp_path_factory.mktemp("durable")) as server:
        records = [
            _crate(f"C{number * 733 % 1_500}", number * 389 % 50, 100 + number, f"{number}") for number in range(4_000)
        ]
        model = Model(policy=policy, mode=mode, facts={})
        for record in records:
            model.take(record)
        with databases_of(server).site(tmp_path) as site:
            _define(site)
            source = _write(site, "feed.json", records)
            words = ["load", "crates", str(source), "--mode", mode, "--on-duplicate", policy, *PATIENT]
            words += ["--json", "--max-rejected", "100%", "--batch-rows", "20"]
            for share in (5, 40, 90):
                running = site.start(*words)
                site.wait_for_batches(share, running)
                pid = server.status().pid
                assert pid is not None
                os.kill(pid, signal.SIGQUIT)
                until(lambda: not server.status().running, "the end of the server")
                server.start()
                running.ended()
            assert site.start(*words).ended().returncode in {0, 1}
            assert _held(site) == model.held()
            assert site.ask("select sum((policies ->> 'duplicates')::int) from etl.batches") == [(model.duplicates,)]
            assert _staged(site) == []


@given(data=st.data())
@settings(max_examples=3, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_merge_counts_the_records_whose_key_came_again(site: Site, data: st.DataObject) -> None:
    """Without a policy a merge counts them, too, over all batches: also those that lost, and none of other sources."""
    example = next(SERIAL)
    names = st.sampled_from([f"{letter}{example}" for letter in "ABCD"])
    earlier, later = st.one_of(st.none(), st.integers(0, 3)), st.integers(4, 7)
    for name, versions in (("first.ndjson", earlier), ("second.ndjson", later)):
        crates = st.builds(_crate, names, versions, st.integers(0, 5))
        records = data.draw(st.lists(crates, min_size=1, max_size=12))
        rows, workers = data.draw(st.sampled_from([1, 3, 100])), data.draw(st.sampled_from([1, 1, 2]))
        summary = _bring(site, _write(site, name, records), batch_rows=rows, workers=workers)
        assert summary.policies.duplicates == len(records) - len({record["crate_no"] for record in records})


def test_the_line_of_a_load_says_how_many_keys_came_again(site: Site) -> None:
    """A wrong key is seen at once: most records of the source have a key that came again."""
    path = _write(site, "feed.ndjson", [_crate("A", 1, 10), _crate("A", 2, 11), _crate("B", 1, 13), _crate("A", 3, 14)])
    done = site.run("load", "crates", path, "--no-precalculate")
    assert "; 2 of 4 records had a key that came again" in done.stdout
