import json
from pathlib import Path
from typing import Any

import pytest

from tests.support.commands import RunEtl
from tests.support.faults import Connection
from tests.support.site import Site

ORDERS = """
name = "orders"
mode = "merge"
key = ["order_id"]
newest_by = "version"
[[table]]
name = "logistics.orders"
[table.columns]
order_id = { type = "text", required = true }
version = "integer"
status = { type = "text", max_length = 20 }
[[table]]
name = "logistics.order_lines"
each = "lines"
[table.columns]
order_id = { path = "^.order_id", type = "text" }
line_no = { path = "#", type = "integer" }
sku = "text"
"""


@pytest.fixture
def site(site: Site) -> Site:
    """Give a site that has the tables of the dataset `orders`."""
    site.define(ORDERS)
    return site


def _order(order_id: str, version: int | None, status: str, *skus: str) -> dict[str, Any]:
    return {"order_id": order_id, "version": version, "status": status, "lines": [{"sku": sku} for sku in skus]}


def _write(folder: Path, name: str, orders: list[dict[str, Any]]) -> str:
    text = json.dumps(orders)
    (folder / name).write_text(text)
    return text


def _orders(connection: Connection) -> dict[str, tuple[str, list[str]]]:
    """Return the status of each order and the skus of its lines in order; each order is there once."""
    query = """
        select o.order_id, o.status, array_remove(array_agg(l.sku order by l.line_no), null)
        from logistics.orders o left join logistics.order_lines l using (order_id)
        group by o.order_id, o.status
    """
    rows = connection.execute(query).fetchall()
    found = {order_id: (status, skus) for order_id, status, skus in rows}
    assert len(found) == len(rows)
    return found


def _count(connection: Connection, table: str) -> int:
    row = connection.execute(f"select count(*) from {table}").fetchone()  # noqa: S608
    assert row is not None
    count: int = row[0]
    return count


def test_append_adds_each_record_once(run_etl: RunEtl, connection: Connection, tmp_path: Path) -> None:
    """Append adds every record of two sources, equal ones too; the same source again adds nothing.

    So does a source that is the beginning of a known one.
    """
    connection.execute("alter table logistics.orders drop constraint orders_pkey")
    twice = _order("A", 1, "same", "a1", "a2")
    _write(tmp_path, "one.json", [twice, _order("B", 1, "one")])
    _write(tmp_path, "two.json", [_order("C", 1, "two"), twice])
    _write(tmp_path, "begin.json", [twice])
    load = ["load", "orders", "--mode", "append", "--json", "--batch-rows", "1"]
    for sources in (["one.json", "two.json"], ["one.json", "two.json"], ["begin.json"]):
        assert run_etl(*load, *sources).returncode == 0
        assert _count(connection, "logistics.orders") == 4
        assert _count(connection, "logistics.order_lines") == 4
    lineage = connection.execute(
        "select o.etl_run, o.etl_batch, o.etl_place, r.source from logistics.orders o"
        " join etl.runs r on r.number = o.etl_run order by 1, 2"
    ).fetchall()
    second = json.dumps([twice]).__len__() - 2 + 3  # after `[`, the first record and `, `
    third = json.dumps([_order("C", 1, "two")]).__len__() - 2 + 3
    of_one = [(1, 1, 1, "one.json"), (1, second, 1, "one.json")]
    assert lineage == [*of_one, (2, 1, 1, "two.json"), (2, third, 1, "two.json")]


@pytest.mark.parametrize("apart", ["one batch", "two batches", "two sources"])
def test_the_newest_version_wins(run_etl: RunEtl, connection: Connection, tmp_path: Path, apart: str) -> None:
    """The larger version wins, null is the smallest, the later of equals wins; its child rows replace the others."""
    pairs: dict[str, tuple[int | None, int | None]] = {
        "newer later": (1, 2),
        "newer first": (2, 1),
        "null first": (None, 1),
        "null later": (1, None),
        "equal": (1, 1),
        "both null": (None, None),
    }
    first = [_order(name, version, "first", f"{name} 1", "gone") for name, (version, _) in pairs.items()]
    later = [_order(name, version, "later", f"{name} 2") for name, (_, version) in pairs.items()]
    if apart == "two sources":
        _write(tmp_path, "1.json", first)
        _write(tmp_path, "2.json", later)
        done = run_etl("load", "orders", "1.json", "2.json", "--json")
    else:
        _write(tmp_path, "1.json", first + later)
        done = run_etl(
            "load", "orders", "1.json", "--json", "--batch-rows", 100 if apart == "one batch" else len(first)
        )
    assert done.returncode == 0
    assert _orders(connection) == {
        "newer later": ("later", ["newer later 2"]),
        "newer first": ("first", ["newer first 1", "gone"]),
        "null first": ("later", ["null first 2"]),
        "null later": ("first", ["null later 1", "gone"]),
        "equal": ("later", ["equal 2"]),
        "both null": ("later", ["both null 2"]),
    }


def test_an_old_run_that_continues_replaces_no_newer_record(
    run_etl: RunEtl, connection: Connection, tmp_path: Path
) -> None:
    """Of equal versions the later source wins, also if the earlier source is completed after it."""
    complete = _write(tmp_path, "one.json", [_order("A", 1, "one"), _order("B", 1, "one"), _order("C", 2, "one")])
    (tmp_path / "one.json").write_text(complete[: complete.index('{"order_id": "B"')])
    _write(tmp_path, "two.json", [_order("B", 1, "two"), _order("C", 1, "two")])
    assert run_etl("load", "orders", "one.json").returncode == 3
    assert run_etl("load", "orders", "two.json").returncode == 0
    (tmp_path / "one.json").write_text(complete)
    done = run_etl("load", "orders", "one.json", "--json")
    assert done.returncode == 0
    assert done.summary["records"]["loaded"] == 2
    assert {name: status for name, (status, _) in _orders(connection).items()} == {"A": "one", "B": "two", "C": "one"}


def test_without_a_column_of_versions_the_later_record_wins(
    run_etl: RunEtl, connection: Connection, tmp_path: Path
) -> None:
    """A merge without newest_by keeps the last record of a key: in a batch, across batches and across runs."""
    vehicles = [{"vehicle_id": name, "name": f"{name} {number}"} for number in range(3) for name in "XY"]
    (tmp_path / "one.json").write_text(json.dumps(vehicles))
    (tmp_path / "two.json").write_text(json.dumps([{"vehicle_id": "Y", "name": "Y last"}]))
    assert run_etl("load", "vehicles", "one.json", "two.json", "--batch-rows", "3").returncode == 0
    query = "select vehicle_id, name from logistics.vehicles order by 1"
    assert connection.execute(query).fetchall() == [("X", "X 2"), ("Y", "Y last")]
    assert run_etl("load", "vehicles", "one.json", "--force").returncode == 0
    assert connection.execute(query).fetchall() == [("X", "X 2"), ("Y", "Y 2")]


def test_a_merge_without_key_is_wrong_usage(run_etl: RunEtl, connection: Connection, tmp_path: Path) -> None:
    """A merge into a dataset without a key is exit 2 before anything is read."""
    path = tmp_path / "config" / "datasets" / "orders.toml"
    path.write_text(ORDERS.replace('mode = "merge"\nkey = ["order_id"]\nnewest_by = "version"\n', ""))
    _write(tmp_path, "one.json", [_order("A", 1, "one")])
    done = run_etl("load", "orders", "one.json", "--mode", "merge", "--json")
    assert (done.returncode, done.stdout) == (2, "")
    assert "mode merge expects a key, and config/datasets/orders.toml has none" in done.stderr
    assert _count(connection, "etl.runs") == 0


def test_replace_leaves_the_records_of_the_source(run_etl: RunEtl, connection: Connection, tmp_path: Path) -> None:
    """Replace deletes absent rows, writes rows that differ in a column or a child row, and touches no other row."""
    kept, newer = _order("kept", 1, "same", "k1", "k2"), _order("changed", 1, "new", "c1")
    lines = _order("lines", 1, "same", "l1", "l3")
    _write(tmp_path, "one.json", [kept, _order("changed", 9, "old", "c1"), _order("lines", 1, "same", "l1", "l2")])
    _write(tmp_path, "gone.json", [_order("gone", 1, "old", "g1")])
    _write(tmp_path, "two.json", [lines, _order("twice", 1, "old", "t1"), _order("twice", 2, "new"), newer, kept])
    assert run_etl("load", "orders", "one.json", "gone.json").returncode == 0
    untouched = """
        select o.xmin, o.ctid, l.xmin, l.ctid from logistics.orders o join logistics.order_lines l using (order_id)
        where order_id = 'kept' order by l.line_no
    """
    before = connection.execute(untouched).fetchall()
    for status, loaded in [("loaded", 5), ("already_loaded", 0)]:
        done = run_etl("load", "orders", "two.json", "--json", "--mode", "replace", "--batch-rows", "2")
        assert done.returncode == 0
        assert (done.summary["status"], done.summary["records"]["loaded"]) == (status, loaded)
        assert _orders(connection) == {
            "kept": ("same", ["k1", "k2"]),
            "changed": ("new", ["c1"]),
            "lines": ("same", ["l1", "l3"]),
            "twice": ("new", []),
        }
        assert connection.execute(untouched).fetchall() == before
    assert connection.execute(
        "select to_regnamespace('etl_staging') is null or not exists (select from pg_class"
        " where relnamespace = to_regnamespace('etl_staging'))"
    ).fetchone() == (True,)


def test_a_source_that_a_replace_removed_can_be_loaded_again(
    run_etl: RunEtl, connection: Connection, tmp_path: Path
) -> None:
    """A source whose rows a replace removed is no longer loaded: every mode loads it again."""
    _write(tmp_path, "one.json", [_order("A", 1, "one")])
    _write(tmp_path, "two.json", [_order("B", 1, "two")])
    replace = ["load", "orders", "--json", "--mode", "replace"]
    for name, left in [("one.json", "A"), ("two.json", "B"), ("one.json", "A")]:
        done = run_etl(*replace, name)
        assert (done.returncode, done.summary["status"]) == (0, "loaded")
        assert list(_orders(connection)) == [left]
    done = run_etl("load", "orders", "--json", "two.json")
    assert (done.returncode, done.summary["status"]) == (0, "loaded")
    assert sorted(_orders(connection)) == ["A", "B"]


def test_an_empty_replace_has_to_be_allowed(run_etl: RunEtl, connection: Connection, tmp_path: Path) -> None:
    """A replace by an empty source is exit 5 and changes nothing; --allow-empty allows it."""
    _write(tmp_path, "one.json", [_order("A", 1, "one", "a1")])
    _write(tmp_path, "empty.json", [])
    assert run_etl("load", "orders", "one.json").returncode == 0
    refused = run_etl("load", "orders", "empty.json", "--json", "--mode", "replace")
    assert refused.returncode == 5
    assert refused.summary["status"] == "aborted"
    assert "hint: --allow-empty" in refused.stderr
    assert _orders(connection) == {"A": ("one", ["a1"])}
    done = run_etl("load", "orders", "empty.json", "--json", "--mode", "replace", "--allow-empty")
    assert (done.returncode, done.summary["status"]) == (0, "loaded")
    assert _orders(connection) == {}
    assert _count(connection, "logistics.order_lines") == 0


def test_readers_see_the_old_rows_until_a_replace_is_done(site: Site, connection: Connection, tmp_path: Path) -> None:
    """While a replace is published readers do not wait and see all old rows; afterwards they see all new rows."""
    _write(tmp_path, "one.json", [_order("A", 1, "old", "a1"), _order("B", 1, "old", "b1")])
    _write(tmp_path, "two.json", [_order("B", 2, "new", "b2"), _order("C", 1, "new", "c1")])
    assert site.run("load", "orders", "one.json").returncode == 0
    connection.execute("set statement_timeout = '5s'")
    with site.gate("logistics.order_lines", "in COPY", when="new.sku = 'c1'") as gate:
        load = site.start("load", "orders", "two.json", "--json", "--mode", "replace")
        gate.reached()
        assert _orders(connection) == {"A": ("old", ["a1"]), "B": ("old", ["b1"])}
        gate.open()
        assert load.ended().returncode == 0
    assert _orders(connection) == {"B": ("new", ["b2"]), "C": ("new", ["c1"])}


@pytest.mark.parametrize(
    "options", [["--atomic"], ["--atomic", "--mode", "append"], ["--mode", "replace"]], ids=" ".join
)
def test_all_or_nothing_is_visible(run_etl: RunEtl, connection: Connection, tmp_path: Path, options: list[str]) -> None:
    """Rows of a cut source are withheld and reported so; after the complete source all are visible at once."""
    _write(tmp_path, "before.json", [_order("A", 1, "old", "a1")])
    assert run_etl("load", "orders", "before.json").returncode == 0
    complete = _write(
        tmp_path,
        "feed.json",
        [_order(name, 2, "new", f"{name} 1", f"{name} 2") for name in "BCDE"] + [{"order_id": "F", "status": "x" * 30}],
    )
    (tmp_path / "feed.json").write_text(complete[: complete.index('{"order_id": "E"') + 9])
    load = ["load", "orders", "feed.json", "--json", "--batch-rows", "2", "--max-rejected", "1", *options]
    cut = run_etl(*load)
    assert cut.returncode == 3
    summary = cut.summary
    assert summary["status"] == "incomplete"
    assert (summary["records"]["read"], summary["records"]["withheld"], summary["records"]["loaded"]) == (3, 3, 0)
    assert _orders(connection) == {"A": ("old", ["a1"])}
    (tmp_path / "feed.json").write_text(complete)
    done = run_etl(*load)
    assert done.returncode == 1
    resumed = done.summary
    assert (resumed["run"], resumed["status"]) == (summary["run"], "loaded_with_rejects")
    assert (resumed["records"]["skipped"], resumed["records"]["loaded"], resumed["records"]["rejected"]) == (3, 1, 1)
    expected = {name: ("new", [f"{name} 1", f"{name} 2"]) for name in "BCDE"}
    assert _orders(connection) == (expected if "replace" in options else {"A": ("old", ["a1"])} | expected)
    row = connection.execute("select finished_at is not null, published_at is not null from etl.runs where is_atomic")
    assert row.fetchall() == [(True, True)]


def _staging(connection: Connection) -> set[str]:
    """Return the runs that have staging tables."""
    query = "select relname from pg_class where relnamespace = to_regnamespace('etl_staging') and relkind = 'r'"
    return {name.rpartition("_")[0] for (name,) in connection.execute(query)}


def test_the_staged_rows_of_an_abandoned_run_are_deleted(
    run_etl: RunEtl, connection: Connection, tmp_path: Path
) -> None:
    """--force and replace delete the staged rows of an unfinished atomic run, and no load continues it."""
    _write(
        tmp_path,
        "feed.json",
        [_order("B", 1, "new", "b1"), _order("C", 1, "much too long a status"), _order("D", 1, "")],
    )
    _write(tmp_path, "all.json", [_order("A", 1, "old")])
    load = ["load", "orders", "feed.json", "--json", "--batch-rows", "1", "--atomic"]
    allowed, refused = ["--max-rejected", "1"], ["--max-rejected", "0"]
    runs = []
    for force in ([], ["--force"]):
        done = run_etl(*load, *refused, *force)
        assert done.returncode == 5
        runs.append(done.summary["run"])
        assert _staging(connection) == {runs[-1]}
    assert len(set(runs)) == 2
    done = run_etl(*load, *allowed)
    assert (done.returncode, done.summary["run"]) == (1, runs[1])
    assert (set(_orders(connection)), _staging(connection)) == ({"B", "D"}, set())

    third = run_etl(*load, *refused, "--force").summary["run"]
    assert _staging(connection) == {third}
    assert run_etl("load", "orders", "all.json", "--mode", "replace").returncode == 0
    assert (set(_orders(connection)), _staging(connection)) == ({"A"}, set())

    fourth = run_etl(*load, *refused).summary["run"]
    assert fourth != third
    # Without a record the forced run takes the place of none: a load continues what was staged before.
    assert run_etl(*load, "--force", "--records", "nowhere.item").returncode == 3
    assert _staging(connection) == {fourth}
    done = run_etl(*load, *allowed)
    assert (done.returncode, done.summary["run"], done.summary["records"]["skipped"]) == (1, fourth, 2)
    assert (set(_orders(connection)), _staging(connection)) == ({"A", "B", "D"}, set())


@pytest.mark.parametrize(
    ("first", "batch_rows"),
    [([], 2), ([], 4), ([], 6), ([], 8), (["Z"], 2)],
    ids=[
        "into an empty table",
        "in the second batch",
        "in one batch and the next one",
        "in the only batch",
        "into a table with rows",
    ],
)
def test_keys_that_come_again_are_merged(
    run_etl: RunEtl, connection: Connection, tmp_path: Path, first: list[str], batch_rows: int
) -> None:
    """Known keys in a batch, or in one after batches with new keys alone: the newest record is kept, with its lines."""
    for order_id in first:
        connection.execute("insert into logistics.orders values (%s, 1, 'old', 0, 0, 1)", [order_id])
    orders = [_order(each, 1, "new", "x", "y") for each in "ABCD"]
    orders += [_order("B", 2, "sent", "z"), _order("E", 1, "new"), _order("C", 0, "late"), _order("F", 1, "new", "w")]
    _write(tmp_path, "orders.json", orders)
    summary = run_etl("load", "orders", "orders.json", "--json", "--batch-rows", str(batch_rows)).summary
    assert (summary["status"], summary["records"]["loaded"], summary["batches"]["retried"]) == ("loaded", 8, 0)
    assert _orders(connection) == {
        **{order_id: ("old", []) for order_id in first},
        "A": ("new", ["x", "y"]),
        "B": ("sent", ["z"]),
        "C": ("new", ["x", "y"]),
        "D": ("new", ["x", "y"]),
        "E": ("new", []),
        "F": ("new", ["w"]),
    }
