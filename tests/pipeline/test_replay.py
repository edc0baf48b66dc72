import hashlib
import json
import os
import random
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import psycopg
import pytest

from tests.support.commands import Ended
from tests.support.faults import Connection, Gate, Moment
from tests.support.records import as_lines
from tests.support.site import Site
from tests.support.waiting import until

# A share of few records is judged for --atomic and replace.
MANY = ("--max-rejected", "1")

ORDERS = """
name = "orders"
mode = "{mode}"
key = ["order_id"]
newest_by = "version"
[[table]]
name = "lab.orders"
[table.columns]
order_id = {{ type = "text", required = true }}
version = "integer"
amount = {{ type = "numeric", min = 0 }}
note = "text"
[[table]]
name = "lab.order_lines"
each = "lines"
[table.columns]
order_id = {{ path = "^.order_id", type = "text" }}
line_no = {{ path = "#", type = "integer" }}
sku = "text"
"""

BY_HAND = """
alter table lab.orders add constraint orders_by_hand check (note <> 'no');
alter table lab.order_lines add constraint order_lines_by_hand check (sku <> 'no');
"""


def _load(site: Site, name: str, records: Sequence[object] | None = None, *options: str) -> dict[str, Any]:
    """Load lines of orders, written first if there are any, and return the summary."""
    if records is not None:
        (site.folder / name).write_text(as_lines(*records))
    return site.load("orders", name, "--retry-attempts", "1", *options)


def _replay(site: Site, *arguments: str) -> Ended:
    """Replay, and check that the balance of every run adds up afterwards."""
    done = site.run("failed", "replay", *arguments)
    for run in site.column("select run from etl.runs order by number"):
        _balance(site, run)
    return done


def _balance(site: Site, run: str) -> dict[str, Any]:
    """Return the counts of a run from `runs show`; they add up and agree with the tables and the failed store."""
    [shown] = site.run("runs", "show", run, "--json").lines
    assert shown["records"] == shown["loaded"] + shown["rejected"] + shown["failed"]
    waiting = [each for each in shown["failures"] if each["state"] == "pending"]
    assert shown["pending"] == sum(each["count_records"] for each in waiting)
    given_up = [each for each in shown["failures"] if each["state"] in {"discarded", "superseded"}]
    refused = sum(each["count_records"] for each in waiting + given_up)
    assert shown["rejected"] + shown["failed"] == refused
    return dict(shown)


def _orders(site: Site) -> dict[str, tuple[Any, list[str]]]:
    """Return version and skus of each order; each order is there once, and every line has its order."""
    rows = site.ask(
        "select order_id, version, array(select sku from lab.order_lines l where l.order_id = o.order_id"
        " order by line_no) from lab.orders o"
    )
    found = {order_id: (version, skus) for order_id, version, skus in rows}
    assert len(found) == len(rows)
    assert site.value("select count(*) from lab.order_lines") == sum(len(skus) for _, skus in found.values())
    return found


@pytest.fixture
def mode(request: pytest.FixtureRequest) -> str:
    """Return the mode of the loads: merge, unless the test sets another."""
    return str(getattr(request, "param", "merge"))


@pytest.fixture
def site(site: Site, mode: str) -> Site:
    """Give a site with the tables of `orders`, and with constraints that are not in the definition."""
    site.define(ORDERS.format(mode=mode))
    site.ask(BY_HAND)
    return site


append = pytest.mark.parametrize("mode", ["append"], indirect=True)


def _order(number: int | str, *, version: int | None = 1, amount: object = 5, note: str = "") -> dict[str, Any]:
    lines = [{"sku": f"{number}a"}, {"sku": f"{number}b"}]
    return {"order_id": f"O{number}", "version": version, "amount": amount, "note": note, "lines": lines}


def _skus(number: int | str) -> list[str]:
    return [f"{number}a", f"{number}b"]


def test_an_edit_is_picked_up(site: Site) -> None:
    """A replay loads the edited records of the file with their original places; the files remain, as replayed."""
    records = [_order(1), _order(2, amount=-2), '{"order_id" "O3"}', _order(4), _order(5, note="no"), _order(6)]
    summary = _load(site, "orders.ndjson", records, "--batch-rows", "5")
    assert (summary["exit_code"], summary["records"]["rejected"]) == (1, 3)
    [failed_id] = site.failures.waiting()
    sha256 = site.failures.details(failed_id)["sha256"]
    site.failures.edit(failed_id, ("-2", "2"), ('{"order_id" "O3"}', json.dumps(_order(3))), ('"no"', '"yes"'))
    edited = site.failures.path(failed_id).read_bytes()
    done = _replay(site, failed_id)
    assert (done.returncode, done.stdout) == (0, f"replayed {failed_id}: 3 loaded, 0 refused again\n")
    assert _orders(site) == {f"O{number}": (1, _skus(number)) for number in range(1, 7)}
    places = site.ask(
        "select order_id, etl_batch, etl_place from lab.orders union all"
        " select sku, etl_batch, etl_place from lab.order_lines where line_no = 1 order by 1"
    )
    second = (site.folder / "orders.ndjson").read_bytes().index(b'{"order_id": "O6"')
    assert {name: (batch, place) for name, batch, place in places} == {
        **{f"O{number}": (0, number) for number in range(1, 6)},
        **{f"{number}a": (0, number) for number in range(1, 6)},
        "O6": (second, 1),
        "6a": (second, 1),
    }
    assert site.column("select distinct etl_run from lab.orders") == site.column("select number from etl.runs")
    assert site.failures.states() == {failed_id: "replayed"}
    assert site.failures.path(failed_id).read_bytes() == edited
    assert site.failures.details(failed_id)["sha256"] == sha256 != hashlib.sha256(edited).hexdigest()
    balance = _balance(site, summary["run"])
    assert (balance["loaded"], balance["rejected"], balance["pending"]) == (6, 0, 0)
    assert site.column("select rows from etl.batches order by 1") == [[1, 2], [5, 10]]
    again = _load(site, "orders.ndjson")
    assert (again["exit_code"], again["status"], again["records"]["skipped"]) == (0, "already_loaded", 6)


def test_only_the_named_failures_are_replayed(site: Site) -> None:
    """Ids, --run, --dataset and --all choose the failures; no choice is exit 2."""
    vehicles = site.folder / "vehicles.ndjson"
    vehicles.write_text(as_lines({"vehicle_id": "V1", "odometer_km": -1}))
    _load(site, "one.ndjson", [_order(1, amount=-1), _order(2), _order(3, amount=-3)], "--batch-rows", "1")
    two = _load(site, "two.ndjson", [_order(4, amount=-4), _order(5), _order(6, amount=-6)], "--batch-rows", "1")
    assert site.run("load", "vehicles", vehicles).returncode == 1
    waiting = site.failures.waiting()
    assert len(waiting) == 5
    for failed_id in waiting:
        site.failures.edit(failed_id, (": -", ": "))
    nothing = _replay(site)
    assert (nothing.returncode, site.failures.waiting()) == (2, waiting)
    assert "hint: name ids, --run, --dataset or --all" in nothing.stderr
    unknown = _replay(site, waiting[0], "no-such-id")
    assert (unknown.returncode, site.failures.waiting()) == (2, waiting)
    assert _replay(site, waiting[1], waiting[0]).returncode == 0
    assert site.failures.waiting() == waiting[2:]
    assert set(_orders(site)) == {"O1", "O2", "O3", "O5"}
    done = _replay(site, "--run", two["run"], "--json")
    assert [(each["id"], each["loaded"]) for each in done.lines] == [(waiting[2], 1), (waiting[3], 1)]
    assert set(done.lines[0]) == {"id", "dataset", "run", "loaded", "rejected", "failed", "stored"}
    assert site.failures.waiting() == waiting[4:]
    none = _replay(site, "--dataset", "orders")
    assert (none.returncode, none.stdout) == (0, "")
    assert none.stderr.splitlines()[-1].startswith("nothing waits of orders in ")
    assert _replay(site, "--all").stdout == f"replayed {waiting[4]}: 1 loaded, 0 refused again\n"
    assert site.failures.waiting() == []
    assert site.column("select odometer_km from logistics.vehicles") == [1]
    assert len(_orders(site)) == 6


def test_a_record_refused_again_waits_under_a_new_id(site: Site) -> None:
    """Records refused again get a new id with its parent, one attempt more and the present reason."""
    records = [_order(1), _order(2, amount=-2), _order(3, amount="x"), _order(4, amount=-4)]
    summary = _load(site, "orders.ndjson", records)
    [first] = site.failures.waiting()
    site.failures.edit(first, ('"x", "note": ""', '7, "note": "no"'), ("-4", "4"))
    edited = site.failures.path(first).read_text().splitlines()
    done = _replay(site, first)
    second = f"{first}r"
    assert done.returncode == 1
    assert done.stdout.startswith(f"replayed {first}: 1 loaded, 2 refused again; waits as {second}; next: ")
    assert f"etl failed show {second}" in done.stdout
    assert site.failures.states() == {first: "replayed", second: "pending"}
    assert site.failures.path(second).read_text().splitlines() == edited[:2]
    details = site.failures.details(second)
    assert (details["parent"], details["attempts"], details["kind"], details["batch"]) == (first, 2, "rejected", 0)
    before = {each["record"]: each for each in site.failures.details(first)["records"]}
    assert [(each["record"], each["offset"], each["key"]) for each in details["records"]] == [
        (number, before[number]["offset"], f"O{number}") for number in (2, 3)
    ]
    assert [each["reason"] for each in details["records"]] == [
        "expected 0 or more",
        "the database refuses it by the constraint orders_by_hand: check violation",
    ]
    row = site.ask("select parent, attempts from etl.failures where id = %s", [second])[0]
    assert row == (first, 2)
    assert set(_orders(site)) == {"O1", "O4"}
    again = _load(site, "orders.ndjson")
    assert (again["exit_code"], again["status"], again["records"]["pending"]) == (1, "already_loaded", 2)
    assert _replay(site, second).returncode == 1
    third = f"{second}r"
    assert (site.failures.details(third)["attempts"], site.failures.details(third)["parent"]) == (3, second)
    site.failures.edit(third, ("-2", "2"), ('"no"', '"yes"'))
    assert _replay(site, "--run", summary["run"]).returncode == 0
    assert site.failures.states() == {first: "replayed", second: "replayed", third: "replayed"}
    assert _orders(site) == {f"O{number}": (1, _skus(number)) for number in range(1, 5)}
    assert _load(site, "orders.ndjson")["exit_code"] == 0


@append
def test_replaying_twice_doubles_nothing(site: Site) -> None:
    """A replayed failure waits no more: a second replay reports this and loads nothing."""
    _load(site, "orders.ndjson", [_order(1, amount=-1), _order(2)])
    [failed_id] = site.failures.waiting()
    site.failures.edit(failed_id, ("-1", "1"))
    assert _replay(site, failed_id, failed_id).stdout.count("replayed") == 1
    site.failures.path(failed_id).unlink()  # An operator deletes the files.
    done = _replay(site, failed_id)
    assert (done.returncode, done.stdout) == (0, "")
    assert f"{failed_id} does not wait: replayed" in done.stderr
    assert _replay(site, "--all").stdout == ""
    assert _orders(site) == {"O1": (1, _skus(1)), "O2": (1, _skus(2))}


def _gate(site: Site, moment: Moment = "in COPY") -> AbstractContextManager[Gate]:
    """Hold up every batch of orders before its rows are inserted, or in its commit."""
    return site.gate("lab.orders", moment, when="true")


@append
def test_two_replays_at_once_double_nothing(site: Site) -> None:
    """A second replay at the same time is exit 6 and names the first; afterwards each record is loaded once."""
    _load(site, "orders.ndjson", [_order(number, amount=-1) for number in range(1, 5)], "--max-rejected", "100%")
    [failed_id] = site.failures.waiting()
    site.failures.edit(failed_id, ("-1", "1"))
    with _gate(site) as gate:
        first = site.start("failed", "replay", failed_id)
        gate.reached()
        second = site.run("failed", "replay", "--all")
        assert (second.returncode, second.stdout) == (6, "")
        assert "this source is held by etl:replay since" in second.stderr
        assert site.run("load", "orders", "orders.ndjson").returncode == 6
        assert site.failures.waiting() == [failed_id]
        gate.open()
        assert first.ended().returncode == 0
    assert _orders(site) == {f"O{number}": (1, _skus(number)) for number in range(1, 5)}
    assert _replay(site, "--all").returncode == 0
    assert len(_orders(site)) == 4


@append
def test_many_replays_at_once_double_nothing(site: Site) -> None:
    """Many replays of the same files at the same time load each record once."""
    records = [_order(number, amount=-1) for number in range(1, 25)]
    _load(site, "orders.ndjson", records, "--max-rejected", "100%", "--batch-rows", "4")
    for failed_id in site.failures.waiting():
        site.failures.edit(failed_id, ("-1", "1"))
    replays = [site.start("failed", "replay", "--all", "--no-precalculate") for _ in range(3)]
    assert {replay.ended().returncode for replay in replays} <= {0, 6}
    assert _replay(site, "--all").returncode == 0
    assert _orders(site) == {f"O{number}": (1, _skus(number)) for number in range(1, 25)}
    assert set(site.failures.states().values()) == {"replayed"}


def _wait_for_no_one(site: Site) -> None:
    others = (
        "select count(*) from pg_stat_activity where application_name like 'etl:%' and datname = current_database()"
    )
    until(lambda: not site.value(others), "the end of the backends")


KILLED = [_order(1, amount=-1), _order(2, amount=-2), _order(3)]


def _prepare_to_kill(site: Site) -> str:
    """Load orders of which two are rejected, correct one of them, and return the id of the failure."""
    _load(site, "orders.ndjson", KILLED, "--max-rejected", "100%")
    [failed_id] = site.failures.waiting()
    site.failures.edit(failed_id, ("-1", "1"))
    return failed_id


@append
@pytest.mark.parametrize("moment", [pytest.param("in COPY", marks=pytest.mark.slow), "in COMMIT"])
def test_a_replay_that_is_killed_completes_when_run_again(site: Site, moment: Moment) -> None:
    """Killed in COPY a replay did nothing, in its commit it did all; run again, each record is loaded once."""
    failed_id = _prepare_to_kill(site)
    with _gate(site, moment) as gate:
        replay = site.start("failed", "replay", failed_id)
        gate.reached()
        assert replay.kill()
        assert site.failures.waiting() == [failed_id]
        assert site.failures.details(failed_id)["state"] == "pending"
    _wait_for_no_one(site)
    assert site.failures.waiting() == ([f"{failed_id}r"] if moment == "in COMMIT" else [failed_id])
    assert set(_orders(site)) == ({"O1", "O3"} if moment == "in COMMIT" else {"O3"})
    site.failures.edit(site.failures.waiting()[0], ("-2", "2"))
    assert _replay(site, "--all").returncode == 0
    assert _orders(site) == {f"O{number}": (1, _skus(number)) for number in range(1, 4)}
    assert site.failures.waiting() == []
    # The files of the killed replay for loaded records are not among the others.
    ids = set(site.column("select id from etl.failures"))
    assert {path.stem for path in site.failures.path(failed_id).parent.iterdir()} - {"aside"} == ids


@append
def test_a_replay_that_is_killed_after_its_commit_is_done(site: Site) -> None:
    """A replay killed before it wrote the state file is done all the same, because the ledger decides."""
    failed_id = _prepare_to_kill(site)
    # An open for writing waits until somebody reads.
    os.mkfifo(site.failures.path(failed_id).with_name(f".{failed_id}.json{site.failures.temporary_ending()}"))
    replay = site.start("failed", "replay", failed_id)
    until(lambda: site.failures.waiting() == [f"{failed_id}r"], "its commit")
    assert replay.kill()
    _wait_for_no_one(site)
    assert site.failures.details(failed_id)["state"] == "pending"
    assert f"{failed_id}: 2 rejected records of orders.ndjson, replayed" in site.run("failed", "show", failed_id).stdout
    done = _replay(site, failed_id)
    assert (done.returncode, done.stdout) == (1, "")
    assert f"{failed_id} does not wait: replayed; what was refused again waits as {failed_id}r" in done.stderr
    assert set(_orders(site)) == {"O1", "O3"}
    site.failures.edit(f"{failed_id}r", ("-2", "2"))
    assert _replay(site, "--all").returncode == 0
    assert _orders(site) == {f"O{number}": (1, _skus(number)) for number in range(1, 4)}


@pytest.mark.slow
@append
def test_replays_killed_at_any_moment(site: Site) -> None:
    """A replay that is killed at random moments again and again, then completed, loads each record once."""
    records = [_order(number, amount=-1 if number % 3 else "x") for number in range(1, 1201)]
    _load(site, "orders.ndjson", records, "--max-rejected", "100%", "--batch-rows", "20")
    for failed_id in site.failures.waiting():
        site.failures.edit(failed_id, ('"x"', "7"))

    def put_right() -> None:
        for failed_id in site.failures.waiting():
            if failed_id.endswith("-rr"):  # refused again
                site.failures.path(failed_id).write_text(
                    site.failures.path(failed_id).read_text().replace(": -1", ": 1")
                )

    moments = random.Random(8)
    at_work = "select 1 from pg_stat_activity where application_name = 'etl:replay' and datname = current_database()"
    kills = 0
    while kills < 25 and site.failures.waiting():
        replay = site.start("failed", "replay", "--all", "--no-precalculate")
        until(lambda: site.ask(at_work), "the replay to connect")
        time.sleep(moments.random() * 0.15)  # a random moment within the replay
        assert replay.kill()
        kills += 1
        _wait_for_no_one(site)
        put_right()
        for run in site.column("select run from etl.runs"):
            _balance(site, run)
    assert kills > 10
    while site.failures.waiting():
        assert _replay(site, "--all").returncode in {0, 1}
        put_right()
    assert _orders(site) == {f"O{number}": (1, _skus(number)) for number in range(1, 1201)}
    ids = set(site.column("select id from etl.failures"))
    assert {path.stem for path in site.store.glob("*/*/*") if path.suffix == ".json"} == ids


def test_another_number_of_records_is_refused(site: Site) -> None:
    """A file with more or fewer records than before, or a missing file, is exit 2 and changes nothing of it."""
    _load(site, "orders.ndjson", [_order(number, amount=-number) for number in range(1, 5)], "--max-rejected", "4")
    _load(site, "other.ndjson", [_order(9, amount=-9)])
    broken, whole = site.failures.waiting()
    site.failures.edit(whole, ("-9", "9"))
    lines = site.failures.path(broken).read_text().splitlines(keepends=True)
    edits = {
        "".join(lines[:-1]): 3,
        "".join([*lines, lines[0]]): 5,
        "".join([*lines[:2], "\n", lines[3]]): 3,
        "": 0,
        "".join([lines[0].strip() + lines[1], *lines[2:], "{}\n"]): 5,
        json.dumps(json.loads(lines[0]), indent=1) + "\n" + "".join(lines[1:]): None,
    }
    for text, count in edits.items():
        site.failures.path(broken).write_text(text)
        done = _replay(site, broken)
        assert (done.returncode, done.stdout) == (2, "")
        assert "error: expected 4 records in failed/orders/" in done.stderr
        assert f"one per line, got {count if count is not None else ''}" in done.stderr
        assert f"hint: to give records up: etl failed discard {broken} --reason WHY" in done.stderr
    site.failures.path(broken).unlink()
    assert site.run("failed", "replay", whole, "--failed-dir", "elsewhere").returncode == 2
    assert (site.failures.waiting(), _orders(site)) == ([broken, whole], {})
    done = _replay(site, "--all")
    assert (done.returncode, done.stdout) == (2, f"replayed {whole}: 1 loaded, 0 refused again\n")
    assert "cannot read failed/orders/" in done.stderr
    assert site.failures.waiting() == [broken]
    assert site.run("failed", "discard", broken, "--reason", "lost").returncode == 0
    assert _replay(site, "--all").returncode == 0
    assert set(_orders(site)) == {"O9"}


@pytest.mark.slow
def test_changes_of_white_space_by_editors_are_no_edit(site: Site) -> None:
    """Other line ends, blank lines, spaces, a byte-order mark or a missing last line end do not change a record."""
    ways: list[Callable[[str], str]] = [
        lambda text: text.replace("\n", "\r\n"),
        lambda text: "\ufeff" + text,
        lambda text: "\n\n" + text.replace("\n", "\n \n"),
        lambda text: text.removesuffix("\n"),
        lambda text: "  " + text.replace("\n", "   \n\t"),
    ]
    for number, way in enumerate(ways):
        _load(site, f"{number}.ndjson", [_order(f"{number}-{each}", amount=-1) for each in range(3)])
        [failed_id] = site.failures.waiting()
        site.failures.path(failed_id).write_text(
            way(site.failures.path(failed_id).read_text().replace("-1,", "1,")), newline=""
        )
        assert _replay(site, failed_id).returncode == 0
    assert site.failures.waiting() == []
    assert len(_orders(site)) == 3 * len(ways)


def test_a_failed_batch_is_replayed_when_its_cause_is_gone(site: Site) -> None:
    """A failed batch is replayed unchanged, its rejected records wait beside it, and both change the balance."""
    site.on_insert("lab.orders", "true", "raise 'busy' using errcode = '40P01';")
    records = [_order(1), _order(2, amount=-2), _order(3), _order(4, note="no")]
    summary = _load(site, "orders.ndjson", records)
    rejected, failed = sorted(site.failures.waiting(), reverse=True)
    assert (summary["records"]["rejected"], summary["records"]["failed"], summary["exit_code"]) == (1, 3, 1)
    again = _replay(site, failed, "--retry-attempts", "2", "--retry-base-seconds", "0.001")
    assert again.returncode == 1
    assert "batch_retried" in again.stderr
    waiting = f"{failed}f"
    assert site.failures.states() == {rejected: "pending", failed: "replayed", waiting: "pending"}
    assert (site.failures.details(waiting)["kind"], site.failures.details(waiting)["attempts"]) == ("failed", 2)
    balance = _balance(site, summary["run"])
    assert (balance["loaded"], balance["rejected"], balance["failed"]) == (0, 1, 3)
    site.ask("drop trigger fault on lab.orders")
    assert _replay(site, waiting).returncode == 1
    assert _orders(site) == {"O1": (1, _skus(1)), "O3": (1, _skus(3))}
    assert site.failures.details(f"{waiting}r")["kind"] == "rejected"
    balance = _balance(site, summary["run"])
    assert (balance["loaded"], balance["rejected"], balance["failed"], balance["pending"]) == (2, 2, 0, 2)
    site.failures.edit(rejected, ("-2", "2"))
    site.failures.edit(f"{waiting}r", ('"no"', '"yes"'))
    assert _replay(site, "--all").returncode == 0
    assert _orders(site) == {f"O{number}": (1, _skus(number)) for number in range(1, 5)}
    assert _load(site, "orders.ndjson")["exit_code"] == 0


def test_an_old_record_never_replaces_a_newer_one(site: Site) -> None:
    """A replayed record has the age of its source: the larger version wins, then the later source."""
    old = [_order(1, amount=-1), _order(2, amount=-1), _order(3, amount=-1, version=None), _order(4, amount=-1)]
    _load(site, "old.ndjson", [*old, _order(5, version=7, amount=-1)], "--max-rejected", "100%")
    new = [_order(1, version=2), _order(2), _order(3, version=None), _order(5, version=6)]
    for order in new:
        order["lines"] = [{"sku": "new"}]
    _load(site, "new.ndjson", new)
    [failed_id] = site.failures.waiting()
    site.failures.edit(failed_id, ('"amount": -1', '"amount": 1'))
    assert _replay(site, "--all").returncode == 0
    assert _orders(site) == {
        "O1": (2, ["new"]),
        "O2": (1, ["new"]),
        "O3": (None, ["new"]),
        "O4": (1, _skus(4)),
        "O5": (7, _skus(5)),
    }
    assert _load(site, "old.ndjson")["status"] == "already_loaded"


@append
def test_a_key_loaded_meanwhile_is_refused_in_append(site: Site) -> None:
    """In append mode a record whose key was loaded since is refused again, as in a load."""
    _load(site, "orders.ndjson", [_order(1, amount=-1), _order(2, amount=-1)], "--max-rejected", "100%")
    _load(site, "other.ndjson", [_order(1)])
    [failed_id] = site.failures.waiting()
    site.failures.edit(failed_id, ("-1", "1"))
    assert _replay(site, failed_id).returncode == 1
    assert set(_orders(site)) == {"O1", "O2"}
    assert [each["sqlstate"] for each in site.failures.details(f"{failed_id}r")["records"]] == ["23505"]


@pytest.mark.aggregates
def test_a_replay_refreshes_its_aggregates(site: Site) -> None:
    """A replay refreshes its aggregates; after --no-precalculate the next replay does."""
    (site.folder / "logs.ndjson").write_text(
        as_lines(
            *(
                {"log_id": f"L{number}", "vehicle_id": "V1", "trip_date": "2026-03-05", "distance_km": distance}
                for number, distance in enumerate((10, -20, -40))
            )
        )
    )
    distance = "select sum(sum_distance_km) from analytics.vehicle_days"
    assert site.run("load", "vehicle_logs", "logs.ndjson", "--batch-rows", "1", "--max-rejected", "9").returncode == 1
    assert site.value(distance) == 10
    first, second = site.failures.waiting()
    site.failures.edit(first, ("-20", "20"))
    site.failures.edit(second, ("-40", "40"))
    assert _replay(site, first).returncode == 0
    assert site.value(distance) == 30
    assert _replay(site, second, "--no-precalculate").returncode == 0
    assert site.value(distance) == 30
    # The same state as after a kill between the commit and the precalculation.
    assert _replay(site, "--dataset", "vehicle_logs").stdout == ""
    assert site.value(distance) == 70


def test_discarding_needs_a_reason(site: Site) -> None:
    """Discarding needs a reason and stores it; the records stay out, and a load of their source ends with 0."""
    _load(site, "orders.ndjson", [_order(1), _order(2, amount=-2)])
    [failed_id] = site.failures.waiting()
    assert site.run("failed", "discard", failed_id).returncode == 2
    assert site.run("failed", "discard", failed_id, "--reason", " ").returncode == 2
    assert site.run("failed", "discard", failed_id, "no-such-id", "--reason", "x").returncode == 2
    assert site.failures.states() == {failed_id: "pending"}
    done = site.run("failed", "discard", failed_id, "--reason", "a test order, says Łucja")
    assert (done.returncode, done.stdout) == (0, f"discarded {failed_id}: 1 records\n")
    assert site.failures.states() == {failed_id: "discarded"}
    assert (
        site.value("select note from etl.failures")
        == site.failures.details(failed_id)["note"]
        == "a test order, says Łucja"
    )
    assert site.failures.path(failed_id).exists()
    again = site.run("failed", "discard", failed_id, "--reason", "once more")
    assert again.returncode == 2
    assert f"{failed_id} does not wait: discarded" in again.stderr
    replayed = _replay(site, failed_id)
    assert (replayed.returncode, replayed.stdout) == (0, "")
    assert f"{failed_id} does not wait: discarded" in replayed.stderr
    assert _replay(site, "--all").stdout == ""
    assert set(_orders(site)) == {"O1"}
    summary = _load(site, "orders.ndjson")
    assert (summary["exit_code"], summary["status"], summary["records"]["pending"]) == (0, "already_loaded", 0)
    assert site.value("select note from etl.failures") == "a test order, says Łucja"


@append
def test_a_repeated_load_does_not_load_waiting_records(site: Site) -> None:
    """Loads of the same source, in any batches, do not load its waiting records but report them."""
    _load(site, "orders.ndjson", [_order(1), _order(2, amount=-2), _order(3)])
    [failed_id] = site.failures.waiting()
    site.failures.edit(failed_id, ("-2", "2"))
    for arguments in ((), ("--batch-rows", "1"), ("--batch-rows", "9")):
        summary = _load(site, "orders.ndjson", None, *arguments)
        assert (summary["exit_code"], summary["status"], summary["records"]["pending"]) == (1, "already_loaded", 1)
    grown = _load(site, "orders.ndjson", [_order(1), _order(2, amount=-2), _order(3), _order(4)])
    assert (grown["exit_code"], grown["records"]["loaded"], grown["records"]["skipped"]) == (1, 1, 3)
    assert site.failures.waiting() == [failed_id]
    assert site.failures.path(failed_id).exists()
    assert set(_orders(site)) == {"O1", "O3", "O4"}
    assert _replay(site, failed_id).returncode == 0
    assert _load(site, "orders.ndjson")["exit_code"] == 0
    assert set(_orders(site)) == {"O1", "O2", "O3", "O4"}


def test_force_and_replace_supersede_waiting_records(site: Site) -> None:
    """After a forced load or a replace the waiting records of the earlier run are not replayed."""
    records = [_order(1), _order(2, amount=-2)]
    first = _load(site, "orders.ndjson", records)
    [old] = site.failures.waiting()
    second = _load(site, "orders.ndjson", None, "--force")
    [new] = site.failures.waiting()
    assert old != new
    assert site.failures.states() == {old: "superseded", new: "pending"}
    replayed = _replay(site, old)
    assert (replayed.returncode, replayed.stdout) == (0, "")
    assert f"{old} does not wait: superseded" in replayed.stderr
    other = _load(site, "all.ndjson", [_order(7), _order(8, amount=-8)], "--mode", "replace", *MANY)
    assert other["exit_code"] == 1
    assert site.failures.states() == {old: "superseded", new: "superseded", f"{other['run']}-0-r": "pending"}
    assert set(_orders(site)) == {"O7"}
    site.failures.edit(f"{other['run']}-0-r", ("-8", "8"))
    assert [each["id"] for each in _replay(site, "--all", "--json").lines] == [f"{other['run']}-0-r"]
    assert set(_orders(site)) == {"O7", "O8"}
    for run in (first, second, other):
        _balance(site, run["run"])


def test_an_atomic_run_is_replayed_only_when_it_is_visible(site: Site) -> None:
    """While the rows of a run are withheld, its replay is exit 2 with a hint; afterwards it is replayed."""
    (site.folder / "orders.json").write_text(json.dumps([_order(1), _order(2, amount=-2), _order(3)])[:-40])
    cut = _load(site, "orders.json", None, "--atomic", "--batch-rows", "1")
    assert (cut["exit_code"], cut["records"]["withheld"]) == (3, 1)
    [failed_id] = site.failures.waiting()
    site.failures.edit(failed_id, ("-2", "2"))
    early = _replay(site, failed_id)
    assert early.returncode == 2
    assert "belongs to an atomic run that is not finished" in early.stderr
    assert "hint: load orders.json again first" in early.stderr
    assert site.failures.states() == {failed_id: "pending"}
    (site.folder / "orders.json").write_text(json.dumps([_order(1), _order(2, amount=-2), _order(3)]))
    assert _load(site, "orders.json", None, "--atomic", *MANY)["exit_code"] == 1
    assert _replay(site, failed_id).returncode == 0
    assert _orders(site) == {f"O{number}": (1, _skus(number)) for number in range(1, 4)}


def test_a_replay_notifies_the_listeners(site: Site) -> None:
    """A replay notifies like a load, so that a listener refreshes the aggregates."""
    _load(site, "orders.ndjson", [_order(1), _order(2, amount=-2)])
    site.failures.edit(site.failures.waiting()[0], ("-2", "2"))
    site.ask("listen etl_runs")
    assert _replay(site, "--all", "--no-precalculate").returncode == 0
    notifications = site.connection.notifies(timeout=5, stop_after=1)
    assert [notify.payload for notify in notifications] == ["orders"]


def test_a_replay_uses_the_present_definition(site: Site) -> None:
    """A corrected definition accepts the unchanged records; a missing definition is exit 2."""
    _load(site, "orders.ndjson", [_order(1), _order(2, amount=-2)])
    [failed_id] = site.failures.waiting()
    path = site.folder / "config" / "datasets" / "orders.toml"
    text = path.read_text()
    path.unlink()
    gone = _replay(site, failed_id)
    assert gone.returncode == 2
    assert "no dataset is called 'orders'" in gone.stderr
    path.write_text(text.replace(", min = 0", ""))
    assert _replay(site, failed_id).returncode == 1  # the table has its check still
    site.ask("alter table lab.orders drop constraint orders_amount_min")
    assert _replay(site, "--all").returncode == 0
    assert set(_orders(site)) == {"O1", "O2"}


def _lose_the_connection(site: Site, *, once: bool) -> None:
    """End the backend in its commit, the first time or every time."""
    site.ask("create sequence lab.tries")
    lose = "perform pg_terminate_backend(pg_backend_pid());"
    body = f"if nextval('lab.tries') = 1 then {lose} end if;" if once else lose
    site.on_insert("lab.orders", "true", body, moment="in COMMIT")


def test_a_connection_lost_in_a_replay_is_opened_again(site: Site) -> None:
    """A replay that loses its connection opens a new one, locks its source again, and doubles nothing."""
    _load(site, "orders.ndjson", [_order(1, amount=-1), _order(2, amount=-2), _order(3)], "--max-rejected", "100%")
    [failed_id] = site.failures.waiting()
    site.failures.edit(failed_id, ("-1", "1"))
    _lose_the_connection(site, once=True)
    done = _replay(site, failed_id, "--retry-base-seconds", "0.01")
    assert "batch_retried" in done.stderr
    assert done.returncode == 1
    assert done.stdout.startswith(f"replayed {failed_id}: 1 loaded, 1 refused again; waits as {failed_id}r; next: ")
    assert site.failures.states() == {failed_id: "replayed", f"{failed_id}r": "pending"}
    assert set(_orders(site)) == {"O1", "O3"}


@append
def test_a_commit_without_an_answer_is_not_repeated(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a connection is lost in a commit that succeeded, a new claim finds the result: nothing is doubled."""
    site.ask("alter table lab.orders drop constraint orders_pkey")  # it would hide doubled rows
    _load(site, "orders.ndjson", [_order(1, amount=-1), _order(2)])
    [failed_id] = site.failures.waiting()
    site.failures.edit(failed_id, ("-1", "1"))
    transaction = psycopg.Connection.transaction
    lost: list[Connection] = []

    @contextmanager
    def unanswered(connection: Connection) -> Iterator[None]:
        with transaction(connection):
            yield
        if not lost:
            lost.append(connection)
            connection.close()
            raise psycopg.OperationalError("the server closed the connection unexpectedly")

    monkeypatch.setattr(psycopg.Connection, "transaction", unanswered)
    done = _replay(site, failed_id, "--no-precalculate", "--retry-base-seconds", "0.01")
    assert (done.returncode, done.stdout) == (0, f"replayed {failed_id}: 1 loaded, 0 refused again\n")
    assert lost
    assert "batch_retried" in done.stderr
    assert _orders(site) == {"O1": (1, _skus(1)), "O2": (1, _skus(2))}


def test_a_replay_while_the_server_is_away_changes_nothing(site: Site) -> None:
    """Without a server a replay is exit 4 with a one-sentence reason, and all failures still wait."""
    _load(site, "orders.ndjson", [_order(1, amount=-1), _order(2)])
    [failed_id] = site.failures.waiting()
    site.failures.edit(failed_id, ("-1", "1"))
    for command in (("replay", failed_id), ("replay", "--all"), ("list",), ("discard", failed_id, "--reason", "x")):
        done = site.run("failed", *command, conninfo="postgresql://nobody@127.0.0.1:1/nowhere")
        assert (done.returncode, done.stdout) == (4, "")
        assert done.stderr.count("error: ") == 1
    _lose_the_connection(site, once=False)
    done = _replay(site, failed_id, "--retry-attempts", "2", "--retry-base-seconds", "0.01")
    assert (done.returncode, done.stdout) == (4, "")
    assert done.stderr.count("error: ") == 1
    assert site.failures.states() == {failed_id: "pending"}
    assert set(_orders(site)) == {"O2"}
    site.ask("drop trigger fault on lab.orders")
    assert _replay(site, failed_id).returncode == 0
    assert site.failures.states() == {failed_id: "replayed"}
    assert set(_orders(site)) == {"O1", "O2"}


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in (1, 2))])
def test_after_any_sequence_of_steps_each_record_is_in_one_place(site: Site, seed: int) -> None:
    """After loads, edits, replays and discards in any order each record is in the tables once or in one valid file."""
    dice = random.Random(seed)
    brought = 0
    for _ in range(14):
        waiting = site.failures.waiting()
        step = dice.choice(["load", "load again", "replay", "replay", "edit", "edit", "discard"])
        if step == "load" or not waiting:
            numbers = range(brought + 1, brought + dice.randrange(2, 9))
            brought = numbers[-1]
            records = [
                _order(number, amount=dice.choice([1, -1, "x"]), note=dice.choice(["", "no"])) for number in numbers
            ]
            _load(
                site, f"{brought}.ndjson", records, "--max-rejected", "100%", "--batch-rows", str(dice.randrange(1, 6))
            )
        elif step == "load again":
            name = dice.choice(sorted(path.name for path in site.folder.glob("*.ndjson")))
            assert _load(site, name)["status"] == "already_loaded"
        elif step == "edit":
            failed_id = dice.choice(waiting)
            lines = site.failures.path(failed_id).read_text().splitlines()
            place = dice.randrange(len(lines))
            lines[place] = lines[place].replace(*dice.choice([(": -1", ": 1"), ('"x"', "2"), ('"no"', '"yes"')]))
            site.failures.path(failed_id).write_text(as_lines(*lines))
        elif step == "discard":
            assert site.run("failed", "discard", dice.choice(waiting), "--reason", "dice").returncode == 0
        else:
            assert _replay(site, *dice.choice([("--all",), (dice.choice(waiting),)])).returncode in {0, 1}
        kept = [
            json.loads(line)["order_id"]
            for failed_id in site.column("select id from etl.failures where state <> 'replayed'")
            for line in site.failures.path(failed_id).read_text().splitlines()
        ]
        assert sorted([*_orders(site), *kept]) == sorted(f"O{number}" for number in range(1, brought + 1))
        for run in site.column("select run from etl.runs"):
            _balance(site, run)
    assert brought > 5
