"""`etl runs undo`: the rows of a run are deleted, and its source loads again as a new run."""

import json
from collections.abc import Sequence
from typing import Any, LiteralString

import pytest
from psycopg import sql
from psycopg.conninfo import make_conninfo

from etl.ingestion.recognition import comparison
from tests.support.commands import Ended
from tests.support.records import as_lines
from tests.support.site import Site

ORDERS = """
name = "orders"
mode = "MODE"
KEY
[[table]]
name = "lab.orders"
[table.columns]
id = { type = "integer", required = true }
amount = { type = "integer", min = 0 }
[[table]]
name = "lab.order_lines"
each = "lines"
[table.columns]
id = { path = "^.id", type = "integer" }
sku = "text"
"""

TABLES = ("lab.orders", "lab.order_lines")


@pytest.fixture
def site(site: Site) -> Site:
    """Give a site with an append dataset of two tables."""
    _define(site)
    return site


def _define(site: Site, mode: str = "append") -> None:
    site.ask("drop table if exists lab.orders, lab.order_lines")
    site.define(ORDERS.replace("MODE", mode).replace("KEY", 'key = ["id"]' if mode == "merge" else ""))


def _orders(numbers: Sequence[int], amount: int = 1) -> list[dict[str, Any]]:
    return [{"id": n, "amount": amount, "lines": [{"sku": "a"}, {"sku": f"b{n}"}]} for n in numbers]


def _load(site: Site, name: str, records: Sequence[object] = (), *options: str, code: int = 0) -> str:
    """Load lines of orders, written first if there are any, and return the name of the run."""
    if records:
        (site.folder / name).write_text(as_lines(*records))
    summary = site.load("orders", name, *options)
    assert summary["exit_code"] == code, summary
    return str(summary["run"])


def _undo(site: Site, run: str, *options: str) -> dict[str, Any]:
    """Take a run back, and return the line of `--json`."""
    ended = site.run("runs", "undo", run, "--json", *options)
    assert ended.returncode == 0, ended.stderr
    [line] = ended.lines
    return line


def _refused(site: Site, run: str, *options: str) -> Ended:
    """Let an undo be refused with exit code 2, and check that it changed nothing."""
    before = _tables(site)
    ended = site.run("runs", "undo", run, *options)
    assert ended.returncode == 2, ended.stderr
    assert _tables(site) == before
    assert site.value("select count(*) from etl.runs where run = %s and undone_at is not null", [run]) == 0
    return ended


def _tables(site: Site) -> dict[str, list[tuple[Any, ...]]]:
    queries: dict[str, LiteralString] = {
        "lab.orders": "select * from lab.orders order by 1, 2, 3, 4, 5",
        "lab.order_lines": "select * from lab.order_lines order by 1, 2, 3, 4, 5",
        "runs": "select run, superseded_by, undone_at from etl.runs order by number",
        "failures": "select id, state from etl.failures order by id",
    }
    return {name: site.ask(query) for name, query in queries.items()}


def _ids(site: Site) -> list[int]:
    return site.column("select id from lab.orders order by 1")


def _skus(site: Site) -> int:
    return int(site.value("select count(*) from lab.order_lines"))


def test_the_rows_of_a_run_are_deleted_and_its_source_loads_again(site: Site) -> None:
    """The rows of the run go with their child rows, also one that somebody changed; those of another run stay."""
    right = _load(site, "right.ndjson", _orders(range(10)))
    wrong = _load(site, "wrong.ndjson", _orders(range(20, 25)))
    site.ask("update lab.orders set amount = 7 where id = 21")
    undone = _undo(site, wrong)
    assert undone["tables"] == [
        {"table": "lab.orders", "rows_deleted": 5, "rows_before": 15, "rows_after": 10},
        {"table": "lab.order_lines", "rows_deleted": 10, "rows_before": 30, "rows_after": 20},
    ]
    assert (undone["status"], undone["rows_loaded"], undone["rows_written_over"]) == ("undone", 5, 0)
    assert (_ids(site), _skus(site)) == (list(range(10)), 20)
    again = _load(site, "wrong.ndjson")
    assert again not in {right, wrong}
    assert (len(_ids(site)), _skus(site)) == (15, 30)
    assert site.load("orders", "right.ndjson")["status"] == "already_loaded"
    assert site.load("orders", "wrong.ndjson")["run"] == again


def test_an_undone_run_is_shown_as_undone(site: Site) -> None:
    """`runs list`, its filter, `runs show` and a second undo say so."""
    run = _load(site, "wrong.ndjson", _orders(range(5)))
    [shown] = site.run("runs", "show", "latest", "--json").lines
    assert (shown["run"], shown["status"], shown["undone_at"], shown["rows_undone"]) == (run, "loaded", None, None)
    ended = site.run("runs", "undo", "latest")
    assert (ended.returncode, f"run {run}, append of wrong.ndjson into orders: undone" in ended.stdout) == (0, True)
    [listed] = site.run("runs", "list", "--status", "undone", "--json").lines
    assert (listed["run"], listed["status"], listed["rows_undone"], listed["next"]) == (run, "undone", 15, None)
    assert listed["undone_by"]
    assert f"run {run}: undone at " in site.run("runs", "show", run).stdout
    assert site.run("runs", "list", "--status", "loaded", "--json").lines == []
    again = _undo(site, run)
    assert (again["status"], again["undone_at"]) == ("already_undone", listed["undone_at"])
    assert f"run {run} is undone already, since " in site.run("runs", "undo", run).stdout


def test_a_dry_run_changes_nothing(site: Site) -> None:
    """A dry run prints the same numbers, also while a load holds the dataset."""
    _load(site, "right.ndjson", _orders(range(3)))
    run = _load(site, "wrong.ndjson", [*_orders(range(20, 25)), {"id": "bad"}], "--max-rejected", "50%", code=1)
    before = _tables(site)
    planned = _undo(site, run, "--dry-run")
    assert _tables(site) == before
    undone = _undo(site, run)
    assert (planned["status"], planned["undone_at"]) == ("would_be_undone", None)
    assert planned["tables"] == undone["tables"]
    assert planned["superseded"] == undone["superseded"] == 1
    assert "nothing was changed" not in json.dumps(undone)


def test_what_waits_of_the_run_is_superseded_and_what_was_replayed_goes(site: Site) -> None:
    """A replayed record is deleted with the run; what still waits is not replayed any more."""
    records = [*_orders(range(5)), {"id": 90, "amount": -1}, {"id": "bad"}]
    run = _load(site, "wrong.ndjson", records, "--max-rejected", "50%", code=1)
    [(waits,)] = site.ask("select id from etl.failures")
    path = site.store / "orders" / run / f"{waits}.ndjson"
    path.write_text(path.read_text().replace("-1", "1"))
    assert site.run("failed", "replay", waits).returncode == 1
    assert 90 in _ids(site)
    undone = _undo(site, run)
    assert (undone["tables"][0]["rows_deleted"], undone["superseded"]) == (6, 1)
    assert sorted(site.failures.states().values()) == ["replayed", "superseded"]
    assert site.run("failed", "list", "--json").lines == []
    assert site.run("failed", "replay", "--run", run).returncode == 0
    assert _ids(site) == []
    _load(site, "wrong.ndjson", (), "--max-rejected", "50%", code=1)
    assert _ids(site) == list(range(5))


@pytest.mark.slow
def test_a_grown_source_of_an_undone_run_loads_as_a_whole(site: Site) -> None:
    """After the undo a file with the same beginning is a new source; of two runs only the undone one is forgotten."""
    first = _load(site, "first.ndjson", _orders(range(2000)))
    second = _load(site, "second.ndjson", _orders(range(5000, 5010)))
    _undo(site, first)
    with (site.folder / "first.ndjson").open("a") as file:
        file.write(as_lines(*_orders([2000])))
    summary = site.load("orders", "first.ndjson")
    assert (summary["records"]["loaded"], summary["records"]["skipped"], summary["exit_code"]) == (2001, 0, 0)
    assert site.load("orders", "second.ndjson")["run"] == second
    assert len(_ids(site)) == 2011
    assert site.run("db", "check").returncode == 0


def test_a_corrected_file_takes_the_place_of_the_wrong_one(site: Site) -> None:
    """A file that begins like a loaded one and then differs is refused, and loads when that run is undone."""
    run = _load(site, "wrong.ndjson", _orders(range(1500)))
    (site.folder / "right.ndjson").write_text(as_lines(*_orders(range(1400)), *_orders(range(1400, 1500), amount=2)))
    refused = site.run("load", "orders", "right.ndjson")
    command = refused.error.partition("first etl ")[2]
    assert (refused.returncode, command) == (5, f"runs undo {run}")
    assert site.run(*command.split()).returncode == 0
    assert site.load("orders", "right.ndjson")["records"]["loaded"] == 1500
    assert _ids(site) == list(range(1500))


@pytest.mark.slow
def test_the_other_runs_are_known_where_many_share_their_beginning(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that is found by a later mark is still found when runs that are found by the earlier ones are undone."""
    monkeypatch.setattr(comparison, "_FEW", 2)
    runs = {f"{n}.ndjson": _load(site, f"{n}.ndjson", _orders([1, 2, 3, 100 + n])) for n in range(7)}
    for name in ("0.ndjson", "3.ndjson"):
        _undo(site, runs.pop(name))
    for name, run in runs.items():
        assert site.load("orders", name)["run"] == run
    assert site.load("orders", "3.ndjson")["records"]["loaded"] == 4
    assert len(_ids(site)) == 24


def test_the_only_run_of_a_table_is_undone(site: Site) -> None:
    """An empty table after an undo is no lost table: the next load needs no --force."""
    _undo(site, _load(site, "wrong.ndjson", _orders(range(5))))
    assert "hold none of the" not in site.run("db", "check").stdout
    _load(site, "other.ndjson", _orders(range(3)))
    assert _ids(site) == [0, 1, 2]


def test_an_undo_waits_for_no_load(site: Site) -> None:
    """While a load of the dataset works, an undo ends with 6; so does a load while an undo works."""
    run = _load(site, "wrong.ndjson", _orders(range(5)))
    (site.folder / "other.ndjson").write_text(as_lines(*_orders(range(100, 200))))
    with site.gate("lab.orders", "in COPY") as gate:
        loading = site.start("load", "orders", "other.ndjson")
        gate.reached()
        ended = site.run("runs", "undo", run)
        assert (ended.returncode, "orders is held by" in ended.stderr) == (6, True)
        planned = _undo(site, run, "--dry-run")
        assert planned["tables"][0]["rows_deleted"] == 5
        gate.open()
    assert loading.ended().returncode == 0
    assert _undo(site, run)["tables"][0] == {
        "table": "lab.orders",
        "rows_deleted": 5,
        "rows_before": 105,
        "rows_after": 100,
    }


def test_a_killed_undo_changes_nothing_and_is_repeated(site: Site) -> None:
    """An undo that is killed before its commit leaves all rows; the same command again deletes them."""
    run = _load(site, "wrong.ndjson", _orders(range(5)))
    before = _tables(site)
    with site.gate("etl.runs", "in closing") as gate:
        undoing = site.start("runs", "undo", run)
        backend = gate.reached()
        assert site.run("load", "orders", "wrong.ndjson").returncode == 6
        assert undoing.kill()
        site.terminate(backend)
        gate.open()
    site.ask("drop trigger etl_gate on etl.runs")
    assert _tables(site) == before
    site.wait_for_locks()
    assert _undo(site, run)["tables"][0]["rows_deleted"] == 5
    assert _ids(site) == []


@pytest.mark.parametrize("options", [(), ("--atomic",), pytest.param(("--mode", "replace"), marks=pytest.mark.slow)])
def test_an_unfinished_run_is_undone(site: Site, options: tuple[str, ...]) -> None:
    """A killed load is taken back with its rows so far, and with its staging tables."""
    (site.folder / "wrong.ndjson").write_text(as_lines(*_orders(range(300))))
    with site.gate("etl.separate_batches", "in COPY", when='new."offset" > 3000') as gate:
        loading = site.start("load", "orders", "wrong.ndjson", "--batch-rows", "50", *options)
        site.wait_for_batches(1, loading)
        backend = gate.reached()
        loading.kill()
        site.terminate(backend)
        gate.open()
    site.ask("drop trigger etl_gate on etl.separate_batches")
    site.wait_for_locks()
    run = site.value("select run from etl.runs")
    undone = _undo(site, run)
    assert (undone["tables"][0]["rows_deleted"] > 0) is not bool(options)
    assert site.ask("select from pg_tables where schemaname = 'etl_staging'") == []
    assert _ids(site) == []
    again = _load(site, "wrong.ndjson", (), *options)
    assert (again != run, _ids(site)) == (True, list(range(300)))


def test_rows_that_a_later_merge_wrote_over_stay(site: Site) -> None:
    """An append is undone after a merge: its rows that are now rows of the merge stay, with their child rows."""
    _define(site, "merge")
    run = _load(site, "wrong.ndjson", _orders(range(10)), "--mode", "append")
    _load(site, "right.ndjson", _orders(range(4), amount=9))
    undone = _undo(site, run)
    assert [table["rows_deleted"] for table in undone["tables"]] == [6, 12]
    assert site.ask("select id, amount from lab.orders order by 1") == [(n, 9) for n in range(4)]
    assert _skus(site) == 8


@pytest.mark.parametrize("options", [(), pytest.param(("--atomic",), marks=pytest.mark.slow)])
@pytest.mark.parametrize("has_rejected", [pytest.param(False, marks=pytest.mark.slow), True])
def test_a_merge_of_new_keys_is_undone(site: Site, options: tuple[str, ...], has_rejected: bool) -> None:
    """A merge that wrote over no row is taken back, although other merges wrote over rows of each other."""
    _define(site, "merge")
    _load(site, "monday.ndjson", _orders(range(10)))
    _load(site, "tuesday.ndjson", _orders(range(5)))
    site.ask("alter table lab.orders add check (amount <> 77)")
    wrong = _orders(range(20, 25)) + (_orders([30], amount=77) if has_rejected else [])
    run = _load(site, "wrong.ndjson", wrong, "--max-rejected", "50%", *options, code=int(has_rejected))
    _load(site, "wednesday.ndjson", _orders([0, 24]))
    undone = _undo(site, run)
    assert (undone["tables"][0]["rows_deleted"], undone["rows_written_over"]) == (4, 0)
    assert _ids(site) == [*range(10), 24]


@pytest.mark.slow
def test_a_merge_whose_replay_wrote_over_a_row_is_refused(site: Site) -> None:
    """What a replay into the run wrote over counts, too; where nothing is counted, all of its rows may have."""
    _define(site, "merge")
    _load(site, "right.ndjson", _orders(range(10)))
    wrong = [*_orders(range(20, 25)), {"id": 3, "amount": -1}]
    run = _load(site, "wrong.ndjson", wrong, "--max-rejected", "50%", code=1)
    assert _undo(site, run, "--dry-run")["rows_written_over"] == 0
    [(waits,)] = site.ask("select id from etl.failures")
    path = site.store / "orders" / run / f"{waits}.ndjson"
    path.write_text(path.read_text().replace("-1", "1"))
    assert site.run("failed", "replay", waits).returncode == 0
    assert "up to 1 older versions" in _refused(site, run).error
    site.ask("update lab.orders set etl_run = 0 where id = 9")
    assert "up to 1 older versions" in _refused(site, _load(site, "over_others.ndjson", _orders([9], amount=2))).error
    # As in a database that an earlier version has filled.
    _load(site, "tuesday.ndjson", _orders(range(5), amount=3))
    site.ask("update etl.separate_batches set rows_replaced = null")
    assert "up to 6 older versions" in _refused(site, run).error


def test_a_merge_that_wrote_over_rows_is_refused(site: Site) -> None:
    """Nobody can restore the older versions; --delete-rows deletes the rows that the run wrote last."""
    _define(site, "merge")
    _load(site, "right.ndjson", _orders(range(10)))
    run = _load(site, "wrong.ndjson", _orders(range(7, 12), amount=2))
    for options in ((), ("--dry-run",)):
        refused = _refused(site, run, *options)
        assert "has merged 5 rows into lab.orders, and has written over up to 3 older versions" in refused.error
        assert "--delete-rows deletes the 5 rows that this run wrote last" in refused.error
    undone = _undo(site, run, "--delete-rows")
    assert (undone["tables"][0]["rows_deleted"], undone["rows_written_over"]) == (5, 3)
    assert (_ids(site), _skus(site)) == (list(range(7)), 14)
    assert site.load("orders", "right.ndjson", "--force")["records"]["loaded"] == 10
    assert _ids(site) == list(range(10))


def test_a_replace_is_refused_and_the_way_is_named(site: Site) -> None:
    """The hint of a published replace is the command that loads the export before it again, and it works."""
    _define(site, "merge")
    before = _load(site, "monday.ndjson", _orders(range(10)), "--mode", "replace")
    assert "etl load orders FILE --mode replace" in _refused(site, before).error
    run = _load(site, "tuesday.ndjson", _orders(range(8), amount=5), "--mode", "replace")
    refused = _refused(site, run)
    hint = refused.error.partition("load the export before again: ")[2]
    assert hint == "etl load orders monday.ndjson --mode replace"
    # Rows that both exports have alike are rows of the first run, and belong to the second, too.
    assert f"run {run} has replaced the rows of run {before}" in _refused(site, before).error
    assert site.run(*hint.split()[1:]).returncode == 0
    assert site.ask("select id, amount from lab.orders order by 1") == [(n, 1) for n in range(10)]


def test_an_undone_forced_run_gives_the_earlier_run_its_place_again(site: Site) -> None:
    """After the undo of a doubling, the source is known by its first run; unless the rows of that one are gone."""
    first = _load(site, "feed.ndjson", [*_orders(range(5)), {"id": "bad"}], "--max-rejected", "50%", code=1)
    second = _load(site, "feed.ndjson", (), "--force", "--max-rejected", "50%", code=1)
    assert len(_ids(site)) == 10
    assert _undo(site, second)["restored"] == [first]
    assert _ids(site) == list(range(5))
    assert site.load("orders", "feed.ndjson")["run"] == first
    assert sorted(site.failures.states().values()) == ["pending", "superseded"]
    third = _load(site, "feed.ndjson", (), "--force", "--max-rejected", "50%", code=1)
    site.ask("delete from lab.orders where id < 5 and etl_run = 1; delete from lab.order_lines where etl_run = 1")
    assert _undo(site, third)["restored"] == []
    assert _ids(site) == []
    assert site.load("orders", "feed.ndjson", "--max-rejected", "50%")["records"]["loaded"] == 5


def test_a_superseded_run_is_undone(site: Site) -> None:
    """The first of two loads of one source is taken back; the forced one stays and is the run of the source."""
    first = _load(site, "feed.ndjson", _orders(range(5)))
    second = _load(site, "feed.ndjson", (), "--force")
    _undo(site, first)
    assert _ids(site) == list(range(5))
    assert site.load("orders", "feed.ndjson")["run"] == second


def test_what_cannot_be_undone_is_said(site: Site) -> None:
    """A run, a definition or one of its tables is missing; a foreign key or a trigger keeps rows."""
    assert "no run is called nothing" in _refused(site, "nothing").error
    run = _load(site, "wrong.ndjson", _orders(range(5)))
    path = site.folder / "config" / "datasets" / "orders.toml"
    text = path.read_text()
    path.unlink()
    assert "no dataset is called 'orders'" in _refused(site, run).error
    path.write_text(text.partition('[[table]]\nname = "lab.order_lines"')[0])
    assert f"run {run} has loaded 2 tables, and" in _refused(site, run).error
    path.write_text(text)
    site.ask("alter table lab.orders add unique (id); create table lab.bills (id integer references lab.orders (id))")
    site.ask("insert into lab.bills values (3)")
    assert f"rows of lab.bills refer to rows of run {run}" in _refused(site, run).error
    site.ask("drop table lab.bills")
    site.ask("create function lab.keep() returns trigger language plpgsql as 'begin return null; end'")
    site.ask(
        "create trigger keep before delete on lab.orders for each row when (old.id = 2) execute function lab.keep()"
    )
    assert f"the server kept 1 rows of run {run} in lab.orders" in _refused(site, run).error
    site.ask("drop trigger keep on lab.orders")
    assert _undo(site, run)["status"] == "undone"


@pytest.mark.aggregates
def test_the_aggregates_follow_an_undo(site: Site) -> None:
    """After an undo the aggregates are refreshed, and equal the facts; with --no-precalculate they wait."""
    assert site.run("generate", "shipments", "--records", "50", "--seed", "1", "--output", "right.json").returncode == 0
    records = [
        record | {"shipment_id": f"W{n}"}
        for n, record in enumerate(json.loads((site.folder / "right.json").read_text()))
    ]
    (site.folder / "wrong.ndjson").write_text(as_lines(*records))
    right = site.load("shipments", "right.json")
    wrong = site.load("shipments", "wrong.ndjson")
    assert site.value("select sum(count_shipments + count_cancelled) from analytics.daily_shipments") == 100
    _undo(site, wrong["run"], "--no-precalculate")
    assert site.value("select sum(count_shipments + count_cancelled) from analytics.daily_shipments") == 100
    assert _undo(site, wrong["run"])["status"] == "already_undone"
    assert site.value("select sum(count_shipments + count_cancelled) from analytics.daily_shipments") == 50
    assert site.run("precalculate", "--verify").returncode == 0
    assert site.ask("select count_runs, count_loaded, count_kept from analytics.data_quality") == [(1, 50, 50)]
    assert site.value("select run from analytics.freshness where aggregate = 'daily_shipments'") == wrong["run"]
    assert site.value(
        "select facts_through = finished_at from analytics.freshness, etl.runs r"
        " where aggregate = 'daily_shipments' and r.run = %s",
        [right["run"]],
    )


def test_a_loader_takes_a_run_back(site: Site) -> None:
    """The role that loads has the rights that an undo needs, also to drop its own staging tables."""
    site.run("db", "migrate")
    role = sql.Identifier(f"{site.connection.info.dbname}_loader")
    site.ask(sql.SQL("create role {} login in role etl_loader").format(role))
    try:
        as_loader = make_conninfo(site.conninfo, user=role.as_string(None).strip('"'))
        (site.folder / "wrong.ndjson").write_text(as_lines(*_orders(range(5)), {"id": "bad"}))
        words = ("load", "orders", "wrong.ndjson", "--max-rejected", "50%")
        assert site.run(*words, conninfo=as_loader).returncode == 1
        assert site.run("runs", "undo", "latest", conninfo=as_loader).returncode == 0
        assert site.run(*words, "--atomic", "--max-rejected", "1", conninfo=as_loader).returncode == 1
        assert site.run("runs", "undo", "latest", conninfo=as_loader).returncode == 0
        assert _ids(site) == []
    finally:
        site.ask(sql.SQL("drop owned by {role}; drop role {role}").format(role=role))
