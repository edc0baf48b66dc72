"""A merge leaves records that are loaded already in the same version as they are, and the newest version still wins."""

import json
import random
from collections.abc import Iterable, Sequence
from typing import Any

import pytest

from tests.support.records import as_lines
from tests.support.site import Site
from tests.support.waiting import until

ORDERS = """
name = "orders"
mode = "merge"
key = ["id"]
NEWEST
[[table]]
name = "lab.orders"
[table.columns]
id = { type = "integer", required = true }
amount = { type = "integer", min = 0 }
at = "integer"
feed = { value = "FEED", type = "text" }
[[table]]
name = "lab.order_lines"
each = "lines"
[table.columns]
id = { path = "^.id", type = "integer" }
sku = "text"
"""

Record = dict[str, Any]


def _define(site: Site, *, newest_by: bool = False, feed: str = "A") -> None:
    site.define(ORDERS.replace("NEWEST", 'newest_by = "at"' if newest_by else "").replace("FEED", feed))


@pytest.fixture
def site(site: Site) -> Site:
    """Give a site with a merge dataset of two tables."""
    _define(site)
    return site


def _order(number: int, amount: int = 1, at: int = 0) -> Record:
    return {"id": number, "amount": amount, "at": at, "lines": [{"sku": "a"}, {"sku": f"b{amount}"}]}


def _load(site: Site, name: str, records: Sequence[Record] = (), *options: str, code: int = 0) -> dict[str, Any]:
    if records:
        (site.folder / name).write_text(as_lines(*records))
    summary = site.load("orders", name, "--no-precalculate", *options)
    assert summary["exit_code"] == code, summary
    return summary


def _rows(site: Site) -> dict[int, tuple[int, list[str]]]:
    """Return the amount and the lines of each order."""
    return {
        number: (amount, skus)
        for number, amount, skus in site.ask(
            "select id, amount, array(select sku from lab.order_lines l where l.id = o.id order by 1) from lab.orders o"
        )
    }


def _expected(records: Iterable[Record]) -> dict[int, tuple[int, list[str]]]:
    """Return what the tables have to hold when these records came in this order."""
    return {each["id"]: (each["amount"], ["a", f"b{each['amount']}"]) for each in records}


@pytest.mark.parametrize("decoder", ["auto", "ijson"])
@pytest.mark.parametrize("form", ["ndjson", "array"])
def test_a_second_night_writes_what_changed(site: Site, decoder: str, form: str) -> None:
    """Of an export in another order only the changed and the new records are written, with their child rows."""
    first = [_order(number) for number in range(200)]
    _load(site, "first.ndjson", first, "--decoder", decoder)
    versions = dict(site.ask("select id, xmin::text from lab.orders"))
    lines = dict(site.ask("select ctid::text, xmin::text from lab.order_lines"))
    site.ask("delete from etl.touched")
    second = [_order(number, 2 if number < 4 else 1) for number in range(203)]
    random.Random(1).shuffle(second)
    path = site.folder / "second.json"
    path.write_text(as_lines(*second) if form == "ndjson" else json.dumps(second, indent=1))
    if form == "array":
        # Another spelling is another version: the records have to be written as before.
        path.write_text("[" + ",\n ".join(as_lines(*second).splitlines()) + "]")
    summary = _load(site, "second.json", (), "--decoder", decoder, "--batch-rows", "70")
    assert (summary["records"]["read"], summary["records"]["loaded"]) == (203, 203)
    assert summary["records"]["unchanged"] == 196
    assert summary["rows"] == {"lab.orders": 7, "lab.order_lines": 14}
    assert _rows(site) == _expected(second)
    now = dict(site.ask("select id, xmin::text from lab.orders"))
    assert {number for number, xmin in now.items() if versions.get(number) != xmin} == {0, 1, 2, 3, 200, 201, 202}
    kept = set(site.ask("select ctid::text, xmin::text from lab.order_lines")) & set(lines.items())
    assert len(kept) == 2 * 196
    [shown] = site.run("runs", "show", "latest", "--json").lines
    assert shown["unchanged"] == 196


def test_a_second_night_reads_no_table_as_a_whole(site: Site) -> None:
    """Rows and child rows are looked up by their keys: a batch costs the same, however large the tables are."""
    _load(site, "first.ndjson", [_order(number) for number in range(6_000)])
    site.ask("analyze lab.orders, lab.order_lines")
    before = _reads(site)
    second = [_order(number, 2 if number % 100 == 0 else 1) for number in range(6_000)]
    random.Random(1).shuffle(second)
    summary = _load(site, "second.ndjson", second, "--batch-rows", "1000")
    assert summary["rows"] == {"lab.orders": 60, "lab.order_lines": 120}
    until(lambda: _reads(site)[1] > before[1] + 6_000, "the counts of the reads")
    assert _reads(site)[0] - before[0] < 1_000


def test_versions_that_lose_read_no_table_as_a_whole(site: Site) -> None:
    """The first values that they leave are kept in rows that are looked up."""
    site.define(ORDERS.replace("NEWEST", 'newest_by = "at"').replace("min = 0", "keep_first = true"))
    _load(site, "first.ndjson", [_order(number, at=5) for number in range(6_000)])
    site.ask("analyze lab.orders, lab.order_lines")
    before = _reads(site)
    older = [_order(number, 2, at=1) for number in range(0, 6_000, 100)]
    assert _load(site, "older.ndjson", older, "--batch-rows", "20")["rows"]["lab.orders"] == 60
    until(lambda: _reads(site)[1] > before[1] + 60, "the counts of the reads")
    assert _reads(site)[0] - before[0] < 1_000
    assert site.value("select count(*) from lab.orders where amount = 1 and etl_first_amount = 2") == 60


def _reads(site: Site) -> tuple[int, int]:
    """Return how many rows scans of whole tables have read, and how many rows were found by an index."""
    [reads] = site.ask(
        "select sum(seq_tup_read)::bigint, sum(idx_tup_fetch)::bigint from pg_stat_user_tables where schemaname = 'lab'"
    )
    return reads


@pytest.mark.parametrize(
    ("first_member", "options", "expected"),
    [
        (None, (), [{}, {"color": 2}]),
        ("color", (), [{"color": 20}, {"color": 20}]),
        ("color", ("--on-unknown", "ignore"), [{}, {"color": 20}]),
    ],
    ids=["none before", "counted before", "not counted before"],
)
def test_unknown_members_of_unchanged_records_are_counted(
    site: Site, first_member: str | None, options: tuple[str, ...], expected: list[dict[str, int]]
) -> None:
    """Each night counts all records with an unknown member, also where it decodes no more than the keys of most."""
    first: list[Record] = [_order(number) | ({first_member: "red"} if first_member else {}) for number in range(20)]
    counts = [_load(site, "first.ndjson", first, *options).get("unknown") or {}]
    second = [each | ({"amount": 7, "color": "red"} if each["id"] in {3, 9} else {}) for each in first]
    random.Random(1).shuffle(second)
    summary = _load(site, "second.ndjson", second)
    assert (summary["records"]["unchanged"], summary["rows"]["lab.orders"]) == (18, 2)
    assert [*counts, summary.get("unknown") or {}] == expected
    third = _load(site, "third.ndjson", second[::-1])
    assert (third["records"]["unchanged"], third.get("unknown") or {}) == (20, expected[1])


ODD = [
    b'{"id": 50, "amount": "\xff", "at": 0, "lines": []}',
    b'{"id": 51, "amount": 1, "at": 0, "note": "\xff", "lines": []}',
    b'{"id": "\xff", "amount": 1, "at": 0, "lines": []}',
    b'{"id": "five", "amount": 1, "at": 0, "lines": []}',
    b'{"amount": 1, "at": 0, "lines": []}',
    b'{"id": 52, "amount": 1, "at": 0, "lines": 7}',
    b'{"id": 53, "amount": -1, "at": 0, "lines": []}',
    b"[1]",
]
NO_JSON = b'{"id": 54, "amount": 1x, "at": 0, "lines": []}'


@pytest.mark.parametrize(
    ("form", "odd"), [("ndjson", [*ODD, NO_JSON]), ("array", ODD), ("array", [NO_JSON])], ids=["lines", "array", "cut"]
)
def test_odd_records_among_unchanged_ones(site: Site, form: str, odd: list[bytes]) -> None:
    """They are judged as in a first load: rejected, or the end of an array, and the other records stay as they are."""
    good = [json.dumps(_order(number)).encode() for number in range(10)]
    outcomes = []
    for night, records in enumerate((good, [*good[5:], *odd, *good[:5]])):
        text = b"\n".join(records) if form == "ndjson" else b"[" + b",".join(records) + b"]"
        (site.folder / f"{night}.json").write_bytes(text)
        outcomes.append(site.load("orders", f"{night}.json", "--no-precalculate", "--max-rejected", "100%"))
    site.ask("truncate lab.orders, lab.order_lines")
    fresh = site.load("orders", "1.json", "--no-precalculate", "--max-rejected", "100%", "--force")
    second = outcomes[1]
    assert second["exit_code"] == fresh["exit_code"] in {1, 3}
    for count in ("read", "loaded", "rejected"):
        assert second["records"][count] == fresh["records"][count], count
    assert second["records"]["unchanged"] == second["records"]["loaded"] >= 5


def test_a_key_in_another_writing_comes_twice_in_its_batch(site: Site) -> None:
    """A record is not left unchanged if the batch has its key in another writing, too: the later of both wins."""
    _load(site, "1.ndjson", [_order(1), _order(2)])
    lines = as_lines(_order(1), _order(2))
    (site.folder / "2.ndjson").write_text('{"id": 1e0, "amount": 7, "at": 0, "lines": []}\n' + lines)
    summary = _load(site, "2.ndjson")
    assert (summary["records"]["loaded"], summary["records"]["unchanged"]) == (3, 1)
    assert _rows(site) == _expected([_order(1), _order(2)])


def test_an_empty_night_writes_nothing(site: Site) -> None:
    """Where nothing changed, no row of a table is written and nothing is noted for the aggregates."""
    records = [_order(number) for number in range(50)]
    _load(site, "first.ndjson", records)
    before = site.ask("select t.*, xmin::text from lab.orders t order by id")
    summary = _load(site, "second.ndjson", records[::-1])
    assert (summary["records"]["unchanged"], sum(summary["rows"].values())) == (50, 0)
    assert site.ask("select t.*, xmin::text from lab.orders t order by id") == before
    assert "50 loaded (50 of them unchanged)" in site.run("runs", "show", "latest").stdout


@pytest.mark.parametrize("change", ["definition", "force", "workers", "duplicates", "no digests"])
def test_all_records_are_written(site: Site, change: str) -> None:
    """Another definition, --force, several workers, a policy for duplicates and tables without digests write all."""
    records = [_order(number) for number in range(30)]
    _load(site, "first.ndjson", records)
    site.ask("update lab.orders set amount = 7 where id = 3")
    options = {"force": ["--force"], "workers": ["--workers", "2"], "duplicates": ["--on-duplicate", "newest"]}
    if change == "definition":
        _define(site, feed="B")
    if change == "no digests":
        site.ask("alter table lab.orders drop column etl_digest")
    summary = _load(site, "second.ndjson", records[::-1], *options.get(change, []))
    assert (summary["records"]["loaded"], summary["records"]["unchanged"]) == (30, 0)
    assert _rows(site) == _expected(records)
    _define(site, feed="B" if change == "definition" else "A")  # adds the column again
    third = _load(site, "third.ndjson", [*records[5:], *records[:5]])
    assert third["records"]["unchanged"] == (0 if change == "no digests" else 30)
    assert _load(site, "fourth.ndjson", [*records[7:], *records[:7]])["records"]["unchanged"] == 30


@pytest.mark.parametrize("batch_rows", ["100", "1"])
def test_a_replay_does_not_win_over_a_record_seen_after_it(site: Site, batch_rows: str) -> None:
    """A rejected version that is corrected is older than the unchanged record that follows it in its source."""
    _load(site, "first.ndjson", [_order(1), _order(2), _order(3)])
    bad = [_order(1, -5), _order(2, -5), _order(3), _order(1), _order(2, 8)]
    summary = _load(site, "second.ndjson", bad, "--batch-rows", batch_rows, code=1)
    # In one batch the record comes twice, but only one of these loads.
    assert summary["records"]["unchanged"] == 2
    for path in site.store.glob("orders/*/*.ndjson"):
        path.write_text(path.read_text().replace("-5", "6"))
    assert site.run("failed", "replay", "--all").returncode == 0
    assert {number: amount for number, (amount, _) in _rows(site).items()} == {1: 1, 2: 8, 3: 1}


def test_the_rest_of_a_source_that_grew_does_not_win_over_later_sources(site: Site) -> None:
    """Records that are added to an older source lose to the records that a newer source has shown since."""
    grown = [_order(1), _order(2)]
    _load(site, "first.ndjson", grown)
    _load(site, "second.ndjson", [_order(2), _order(3)])
    summary = _load(site, "first.ndjson", [*grown, _order(1, 5), _order(2, 5), _order(3, 5)])
    assert (summary["records"]["skipped"], summary["records"]["loaded"]) == (2, 3)
    assert {number: amount for number, (amount, _) in _rows(site).items()} == {1: 5, 2: 1, 3: 1}


def test_a_late_batch_is_isolated_without_its_beaten_records(site: Site) -> None:
    """Where the server refuses a record of a late batch, its other records lose to those that were seen since."""
    grown = [_order(1), _order(2)]
    _load(site, "first.ndjson", grown)
    _load(site, "second.ndjson", grown[::-1])
    site.ask("alter table lab.orders add constraint small check (amount < 100)")
    summary = _load(site, "first.ndjson", [*grown, _order(1, 5), _order(4, 500), _order(5, 5)], code=1)
    assert summary["records"]["rejected"] == 1
    assert _rows(site) == _expected([_order(1), _order(2), _order(5, 5)])


def test_a_newer_version_wins_although_it_comes_late(site: Site) -> None:
    """By newest_by, a version of an older source wins over a record that was seen since, and an older one loses."""
    _define(site, newest_by=True)
    grown = [_order(1, at=3), _order(2, at=3)]
    _load(site, "first.ndjson", grown)
    _load(site, "second.ndjson", grown[::-1])
    assert _load(site, "first.ndjson", [*grown, _order(1, 5, at=4), _order(2, 5, at=3)])["exit_code"] == 0
    assert _rows(site) == _expected([_order(1, 5), _order(2)])


def test_an_atomic_run_of_before_does_not_win(site: Site) -> None:
    """A run that is published after later records were seen replaces none of these."""
    _load(site, "first.ndjson", [_order(number) for number in range(5)])
    (site.folder / "atomic.json").write_text(json.dumps([_order(1, 5), _order(9, 5)])[:-1])
    assert site.load("orders", "atomic.json", "--atomic")["exit_code"] == 3
    (site.folder / "atomic.json").write_text(json.dumps([_order(1, 5), _order(9, 5)]))
    assert _load(site, "second.ndjson", [_order(2), _order(1)])["records"]["unchanged"] == 2
    _load(site, "atomic.json", (), "--atomic")
    assert _rows(site)[1][0] == 1
    assert _rows(site)[9][0] == 5


def test_two_loads_at_once_keep_the_newest_version(site: Site) -> None:
    """A load that is opened while an older one writes compares its records with what that one has written."""
    _load(site, "first.ndjson", [_order(1), _order(2)])
    with site.gate("lab.orders", "in COPY", when="new.amount = 5") as gate:
        (site.folder / "older.ndjson").write_text(as_lines(_order(1, 5)))
        (site.folder / "newer.ndjson").write_text(as_lines(_order(2), _order(1)))
        older = site.start("load", "orders", "older.ndjson", "--no-precalculate")
        gate.reached()
        newer = site.start("load", "orders", "newer.ndjson", "--no-precalculate", "--json")
        until(
            lambda: (
                not newer.is_running()
                or site.ask("select 1 from pg_stat_activity where wait_event = 'advisory' and query ~ 'note_comparing'")
            ),
            "the newer load",
        )
        gate.open()
        assert older.ended().returncode == newer.ended().returncode == 0
    site.ask("drop trigger etl_gate on lab.orders")
    assert _rows(site) == _expected([_order(1), _order(2)])


def test_an_undone_run_leaves_the_rows_that_later_runs_have_seen(site: Site) -> None:
    """The rows of a run that a later run found unchanged stay; what only the undone run has seen stays, too."""
    _load(site, "first.ndjson", [_order(1), _order(2), _order(3)])
    _load(site, "second.ndjson", [_order(2), _order(1)])
    last = _load(site, "third.ndjson", [_order(3), _order(2), _order(4)])
    first = site.column("select run from etl.runs order by number")[0]
    dry_run = site.run("runs", "undo", first, "--dry-run", "--json")
    assert dry_run.returncode == 0, dry_run.stderr
    [dry] = dry_run.lines
    assert [table["rows_deleted"] for table in dry["tables"]] == [0, 0]
    assert site.run("runs", "undo", first).returncode == 0
    assert _rows(site) == _expected([_order(1), _order(2), _order(3), _order(4)])
    [undone] = site.run("runs", "undo", last["run"], "--json").lines
    assert [table["rows_deleted"] for table in undone["tables"]] == [2, 4]
    assert _rows(site) == _expected([_order(1), _order(2)])


def _nights_with_entries(site: Site) -> list[int]:
    return site.column("select distinct run from etl.seen order by run")


def test_places_are_forgotten_when_no_version_can_come_before_them(site: Site) -> None:
    """The ledger keeps the places of the last two runs, and those after a run with records in the failed store."""
    records = [_order(number) for number in range(10)]
    first = _load(site, "0.ndjson", records)["run"]
    for night in range(1, 5):
        _load(site, f"{night}.ndjson", [*records[night:], *records[:night]])
    assert _nights_with_entries(site) == [4, 5]
    refused = site.run("runs", "undo", first)
    assert refused.returncode == 2
    assert "have found rows of it unchanged" in refused.error
    _load(site, "5.ndjson", [*records[5:], _order(90, -1), *records[:5]], code=1)
    for night in range(6, 10):
        _load(site, f"{night}.ndjson", [*records[night:], *records[:night]])
    assert _nights_with_entries(site) == [6, 7, 8, 9, 10]
    assert site.run("failed", "discard", "--all", "--reason", "no").returncode == 0
    _load(site, "10.ndjson", records[::-1])
    assert _nights_with_entries(site) == [10, 11]
    assert site.run("runs", "undo", first, "--delete-rows").returncode == 0
    assert _rows(site) == _expected(records)


def test_a_replace_and_a_merge_see_the_same_digests(site: Site) -> None:
    """A merge after a replace of the same records writes nothing, and one after other records writes them again."""
    records = [_order(number) for number in range(20)]
    _load(site, "first.ndjson", records, "--mode", "replace")
    assert _load(site, "second.ndjson", records[::-1])["records"]["unchanged"] == 20
    _load(site, "third.ndjson", [_order(number, 3) for number in range(20)], "--mode", "replace")
    assert _load(site, "fourth.ndjson", [*records[9:], *records[:9]])["records"]["unchanged"] == 0
    assert _rows(site) == _expected(records)


def test_a_killed_night_continues(site: Site) -> None:
    """After kill -9 in the middle of a night the same command ends with the same tables, and counts every record."""
    records = [_order(number) for number in range(400)]
    _load(site, "first.ndjson", records)
    second = [_order(number, 9 if number % 40 == 0 else 1) for number in range(399, -1, -1)]
    (site.folder / "second.ndjson").write_text(as_lines(*second))
    with site.gate("lab.orders", "in COPY", when="new.id = 160 and new.amount = 9") as gate:
        command = ("load", "orders", "second.ndjson", "--no-precalculate", "--batch-rows", "50")
        running = site.start(*command)
        gate.reached()
        running.kill()
        gate.open()
    site.ask("drop trigger etl_gate on lab.orders")
    site.wait_for_locks()
    entered = site.value("select sum(count_unchanged) from etl.batches where count_unchanged is not null")
    summary = site.load("orders", "second.ndjson", "--no-precalculate", "--batch-rows", "80")
    assert summary["records"]["skipped"] > 0
    assert entered + summary["records"]["unchanged"] == 390
    assert _rows(site) == _expected(second)


def _night(site: Site, number: int, chance: random.Random) -> list[Record]:
    records = [_order(key, *chance.choice([(1, 1), (1, 1), (2, 1), (3, 0)])) for key in range(12)]
    records += [_order(chance.randrange(12), chance.randrange(3), chance.randrange(2)) for _ in range(3)]
    records.append(_order(90 + number))
    chance.shuffle(records)
    decoder = chance.choice(["auto", "ijson"])
    _load(site, f"{number}.ndjson", records, "--decoder", decoder, "--batch-rows", str(chance.choice([2, 3, 100])))
    return records


@pytest.mark.parametrize("newest_by", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_nights_end_with_the_newest_versions(site: Site, newest_by: bool) -> None:
    """After random nights, with keys that come twice, the tables hold what a merge of all records makes them."""
    _define(site, newest_by=newest_by)
    chance, came = random.Random(7), list[Record]()
    for number in range(12):
        came += _night(site, number, chance)
    if newest_by:
        came = sorted(came, key=lambda record: record["at"])
    assert _rows(site) == _expected(came)
    assert site.value("select sum(count_unchanged) from etl.batches") > 10
