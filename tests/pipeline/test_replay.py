import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, LiteralString

import psycopg
import pytest
from psycopg import sql

from etl import cli
from etl.database.tables import create_tables
from etl.datasets import read
from tests.support.checkout import ROOT
from tests.support.commands import Ended, RunEtl
from tests.support.faults import Connection

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

HELD = 42
"""The advisory lock by which a test keeps a replay from going on."""


@dataclass(frozen=True, kw_only=True)
class Done:
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def documents(self) -> list[Any]:
        """What it printed as JSON, line by line."""
        return [json.loads(line) for line in self.out.splitlines()]


@dataclass(frozen=True, kw_only=True)
class Desk:
    """A folder in which an operator works, and the database behind it."""

    folder: Path
    connection: Connection
    capture: pytest.CaptureFixture[str]

    def etl(self, *arguments: str | Path) -> Done:
        """Run a command in this process."""
        # The server may notice a moment later that the connection of the command before is closed.
        _wait_for(lambda: not self.one("select count(*) from pg_locks where locktype = 'advisory' and granted"))
        self.capture.readouterr()
        code = cli.run([str(argument) for argument in arguments])
        out, err = self.capture.readouterr()
        assert "unexpected_fault" not in err
        return Done(code=code, out=out, err=err)

    def load(self, name: str, records: Sequence[object] | None = None, *arguments: str) -> dict[str, Any]:
        """Load lines of orders, written first if there are any, and return the summary."""
        if records is not None:
            (self.folder / name).write_text(_lines(*records))
        done = self.etl("load", "orders", name, "--json", "--retry-attempts", "1", *arguments)
        summary: dict[str, Any] = done.documents[0]
        assert summary["exit_code"] == done.code
        return summary

    def replay(self, *arguments: str) -> Done:
        """Replay, and check that every run's balance adds up afterwards."""
        done = self.etl("failed", "replay", *arguments)
        for run in self.column("select run from etl.runs order by number"):
            self.balance(run)
        return done

    def balance(self, run: str) -> dict[str, Any]:
        """Return what `runs show` tells of a run, which adds up and is what the tables and the store hold."""
        [shown] = self.etl("runs", "show", run, "--json").documents
        assert shown["records"] == shown["loaded"] + shown["rejected"] + shown["failed"]
        waiting = [each for each in shown["failures"] if each["state"] == "pending"]
        assert shown["pending"] == sum(each["count_records"] for each in waiting)
        given_up = [each for each in shown["failures"] if each["state"] in {"discarded", "superseded"}]
        refused = sum(each["count_records"] for each in waiting + given_up)
        assert shown["rejected"] + shown["failed"] == refused
        return dict(shown)

    def one(self, query: LiteralString) -> Any:
        """Return the only value of a query."""
        row = self.connection.execute(query).fetchone()
        assert row is not None
        return row[0]

    def column(self, query: LiteralString) -> list[Any]:
        """Return the first column of a query."""
        return [row[0] for row in self.connection.execute(query)]

    def waiting(self) -> list[str]:
        """List what waits in the failed store."""
        return self.column("select id from etl.failures where state = 'pending' order by created_at, id")

    def states(self) -> dict[str, str]:
        """Return the state of each failure, which its ID.json tells as well."""
        states: dict[str, str] = dict(self.connection.execute("select id, state from etl.failures").fetchall())
        for failed_id, state in states.items():
            assert self.told(failed_id)["state"] == state or state == "superseded"
        return states

    def path(self, failed_id: str) -> Path:
        """Return the file of a failure's records."""
        [path] = (self.folder / "failed").glob(f"*/*/{failed_id}.ndjson")
        return path

    def told(self, failed_id: str) -> dict[str, Any]:
        """Return the ID.json of a failure."""
        document: dict[str, Any] = json.loads(self.path(failed_id).with_suffix(".json").read_bytes())
        return document

    def edit(self, failed_id: str, *changes: tuple[str, str]) -> None:
        """Change texts in the file of a failure."""
        text = self.path(failed_id).read_text()
        for old, new in changes:
            assert old in text
            text = text.replace(old, new)
        self.path(failed_id).write_text(text)

    def orders(self) -> dict[str, tuple[Any, list[str]]]:
        """Return version and skus of each order; each stands there once, and no line without its order."""
        rows = self.connection.execute(
            "select order_id, version, array(select sku from lab.order_lines l where l.order_id = o.order_id"
            " order by line_no) from lab.orders o"
        ).fetchall()
        found = {order_id: (version, skus) for order_id, version, skus in rows}
        assert len(found) == len(rows)
        assert self.one("select count(*) from lab.order_lines") == sum(len(skus) for _, skus in found.values())
        return found


@pytest.fixture
def mode(request: pytest.FixtureRequest) -> str:
    """Tell how orders are loaded: merge, unless the test says otherwise."""
    return str(getattr(request, "param", "merge"))


@pytest.fixture
def desk(
    postgresql: Connection,
    database_url: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    mode: str,
) -> Desk:
    """Give a folder with the definition of `orders` and their tables, as the working folder."""
    postgresql.autocommit = True
    path = tmp_path / "config" / "datasets" / "orders.toml"
    path.parent.mkdir(parents=True)
    path.write_text(ORDERS.format(mode=mode))
    create_tables(postgresql, read(path))
    postgresql.execute(BY_HAND)
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith(("ETL_", "PG"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("ETL_DATABASE_URL", database_url)
    return Desk(folder=tmp_path, connection=postgresql, capture=capsys)


@pytest.fixture
def in_background(desk: Desk, run_etl: RunEtl) -> Iterator[Callable[..., Future[Ended]]]:
    """Return a function that runs `etl ARGUMENTS` as a process beside the test."""
    with ThreadPoolExecutor() as pool:
        yield lambda *arguments: pool.submit(run_etl, *arguments)
        # Whatever the test found: what it still holds must not keep the command waiting.
        desk.connection.execute("select pg_advisory_unlock_all()")


append = pytest.mark.parametrize("mode", ["append"], indirect=True)


def _order(number: int | str, *, version: int | None = 1, amount: object = 5, note: str = "") -> dict[str, Any]:
    lines = [{"sku": f"{number}a"}, {"sku": f"{number}b"}]
    return {"order_id": f"O{number}", "version": version, "amount": amount, "note": note, "lines": lines}


def _lines(*records: object) -> str:
    return "".join(f"{record if isinstance(record, str) else json.dumps(record)}\n" for record in records)


def _skus(number: int | str) -> list[str]:
    return [f"{number}a", f"{number}b"]


def _wait_for(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.005)


def test_an_edit_is_picked_up(desk: Desk) -> None:
    """Records are loaded as the file holds them now, in the place of the originals; the files stay, as replayed."""
    records = [_order(1), _order(2, amount=-2), '{"order_id" "O3"}', _order(4), _order(5, note="no"), _order(6)]
    summary = desk.load("orders.ndjson", records, "--batch-rows", "5")
    assert (summary["exit_code"], summary["records"]["rejected"]) == (1, 3)
    [failed_id] = desk.waiting()
    sha256 = desk.told(failed_id)["sha256"]
    desk.edit(failed_id, ("-2", "2"), ('{"order_id" "O3"}', json.dumps(_order(3))), ('"no"', '"yes"'))
    edited = desk.path(failed_id).read_bytes()
    done = desk.replay(failed_id)
    assert (done.code, done.out) == (0, f"replayed {failed_id}: 3 loaded, 0 refused again\n")
    assert desk.orders() == {f"O{number}": (1, _skus(number)) for number in range(1, 7)}
    places = desk.connection.execute(
        "select order_id, etl_batch, etl_place from lab.orders union all"
        " select sku, etl_batch, etl_place from lab.order_lines where line_no = 1 order by 1"
    ).fetchall()
    second = (desk.folder / "orders.ndjson").read_bytes().index(b'{"order_id": "O6"')
    assert {name: (batch, place) for name, batch, place in places} == {
        **{f"O{number}": (0, number) for number in range(1, 6)},
        **{f"{number}a": (0, number) for number in range(1, 6)},
        "O6": (second, 1),
        "6a": (second, 1),
    }
    assert desk.column("select distinct etl_run from lab.orders") == desk.column("select number from etl.runs")
    assert desk.states() == {failed_id: "replayed"}
    assert desk.path(failed_id).read_bytes() == edited
    assert desk.told(failed_id)["sha256"] == sha256 != hashlib.sha256(edited).hexdigest()
    balance = desk.balance(summary["run"])
    assert (balance["loaded"], balance["rejected"], balance["pending"]) == (6, 0, 0)
    assert desk.column("select rows from etl.batches order by 1") == [[1, 2], [5, 10]]
    again = desk.load("orders.ndjson")
    assert (again["exit_code"], again["status"], again["records"]["skipped"]) == (0, "already_loaded", 6)


def test_what_is_named_is_replayed_and_nothing_else(desk: Desk) -> None:
    """Ids, --run, --dataset and --all choose what is replayed; naming nothing is exit 2."""
    vehicles = desk.folder / "vehicles.ndjson"
    vehicles.write_text(_lines({"vehicle_id": "V1", "odometer_km": -1}))
    desk.load("one.ndjson", [_order(1, amount=-1), _order(2), _order(3, amount=-3)], "--batch-rows", "1")
    two = desk.load("two.ndjson", [_order(4, amount=-4), _order(5), _order(6, amount=-6)], "--batch-rows", "1")
    assert desk.etl("load", "vehicles", vehicles).code == 1
    waiting = desk.waiting()
    assert len(waiting) == 5
    for failed_id in waiting:
        desk.edit(failed_id, (": -", ": "))
    nothing = desk.replay()
    assert (nothing.code, desk.waiting()) == (2, waiting)
    assert "hint: name ids, --run, --dataset or --all" in nothing.err
    unknown = desk.replay(waiting[0], "no-such-id")
    assert (unknown.code, desk.waiting()) == (2, waiting)
    assert desk.replay(waiting[1], waiting[0]).code == 0
    assert desk.waiting() == waiting[2:]
    assert set(desk.orders()) == {"O1", "O2", "O3", "O5"}
    done = desk.replay("--run", two["run"], "--json")
    assert [(each["id"], each["loaded"]) for each in done.documents] == [(waiting[2], 1), (waiting[3], 1)]
    assert set(done.documents[0]) == {"id", "dataset", "run", "loaded", "rejected", "failed", "stored"}
    assert desk.waiting() == waiting[4:]
    none = desk.replay("--dataset", "orders")
    assert (none.code, none.out, none.err.splitlines()[-1:]) == (0, "", ["nothing waits of orders"])
    assert desk.replay("--all").out == f"replayed {waiting[4]}: 1 loaded, 0 refused again\n"
    assert desk.waiting() == []
    assert desk.column("select odometer_km from logistics.vehicles") == [1]
    assert len(desk.orders()) == 6


def test_what_is_refused_again_waits_under_a_new_id(desk: Desk) -> None:
    """What stays at fault is split off: a new id with its parent, one attempt more and its reason of now."""
    records = [_order(1), _order(2, amount=-2), _order(3, amount="x"), _order(4, amount=-4)]
    summary = desk.load("orders.ndjson", records)
    [first] = desk.waiting()
    desk.edit(first, ('"x", "note": ""', '7, "note": "no"'), ("-4", "4"))
    edited = desk.path(first).read_text().splitlines()
    done = desk.replay(first)
    second = f"{first}r"
    assert (done.code, done.out) == (1, f"replayed {first}: 1 loaded, 2 refused again; waits as {second}\n")
    assert desk.states() == {first: "replayed", second: "pending"}
    assert desk.path(second).read_text().splitlines() == edited[:2]
    told = desk.told(second)
    assert (told["parent"], told["attempts"], told["kind"], told["batch"]) == (first, 2, "rejected", 0)
    before = {each["record"]: each for each in desk.told(first)["records"]}
    assert [(each["record"], each["offset"], each["key"]) for each in told["records"]] == [
        (number, before[number]["offset"], f"O{number}") for number in (2, 3)
    ]
    assert [each["reason"] for each in told["records"]] == [
        "expected 0 or more",
        "the database refuses it by the constraint orders_by_hand: check violation",
    ]
    row = desk.connection.execute("select parent, attempts from etl.failures where id = %s", [second]).fetchone()
    assert row == (first, 2)
    assert set(desk.orders()) == {"O1", "O4"}
    again = desk.load("orders.ndjson")
    assert (again["exit_code"], again["status"], again["records"]["pending"]) == (1, "already_loaded", 2)
    assert desk.replay(second).code == 1
    third = f"{second}r"
    assert (desk.told(third)["attempts"], desk.told(third)["parent"]) == (3, second)
    desk.edit(third, ("-2", "2"), ('"no"', '"yes"'))
    assert desk.replay("--run", summary["run"]).code == 0
    assert desk.states() == {first: "replayed", second: "replayed", third: "replayed"}
    assert desk.orders() == {f"O{number}": (1, _skus(number)) for number in range(1, 5)}
    assert desk.load("orders.ndjson")["exit_code"] == 0


@append
def test_replaying_twice_doubles_nothing(desk: Desk) -> None:
    """What was replayed waits no more: naming it again tells so, and loads nothing."""
    desk.load("orders.ndjson", [_order(1, amount=-1), _order(2)])
    [failed_id] = desk.waiting()
    desk.edit(failed_id, ("-1", "1"))
    assert desk.replay(failed_id, failed_id).out.count("replayed") == 1
    desk.path(failed_id).unlink()  # An operator who tidies up.
    done = desk.replay(failed_id)
    assert (done.code, done.out) == (0, "")
    assert f"{failed_id} does not wait: replayed" in done.err
    assert desk.replay("--all").out == ""
    assert desk.orders() == {"O1": (1, _skus(1)), "O2": (1, _skus(2))}


def _hold(desk: Desk, *, at_commit: bool = False) -> None:
    """Let every batch of orders wait until `_release`: before its rows are in, or in its commit."""
    desk.connection.execute("select pg_advisory_lock(%s)", [HELD])
    desk.connection.execute(
        sql.SQL(
            "create function lab.held() returns trigger language plpgsql as"
            " 'begin perform pg_advisory_xact_lock_shared({held}); return new; end';"
        ).format(held=HELD)
    )
    if at_commit:
        desk.connection.execute(
            "create constraint trigger held after insert on lab.orders deferrable initially deferred"
            " for each row execute function lab.held()"
        )
    else:
        desk.connection.execute(
            "create trigger held before insert on lab.orders for each row execute function lab.held()"
        )


def _wait_until_held(desk: Desk) -> None:
    _wait_for(lambda: desk.one("select count(*) from pg_locks where locktype = 'advisory' and not granted"))


def _release(desk: Desk) -> None:
    desk.connection.execute("select pg_advisory_unlock(%s)", [HELD])
    desk.connection.execute("drop trigger held on lab.orders")
    desk.connection.execute("drop function lab.held")


@append
def test_two_replays_at_once_double_nothing(desk: Desk, in_background: Callable[..., Future[Ended]]) -> None:
    """A second replay beside the first is exit 6 and tells who is at it; afterwards all is in once."""
    desk.load("orders.ndjson", [_order(number, amount=-1) for number in range(1, 5)], "--max-rejected", "100%")
    [failed_id] = desk.waiting()
    desk.edit(failed_id, ("-1", "1"))
    _hold(desk)
    first = in_background("failed", "replay", failed_id)
    _wait_until_held(desk)
    second = in_background("failed", "replay", "--all").result()
    assert (second.returncode, second.stdout) == (6, "")
    assert "this source is held by etl:replay since" in second.stderr
    loading = in_background("load", "orders", "orders.ndjson").result()
    assert loading.returncode == 6
    assert desk.waiting() == [failed_id]
    _release(desk)
    assert first.result().returncode == 0
    assert desk.orders() == {f"O{number}": (1, _skus(number)) for number in range(1, 5)}
    assert desk.replay("--all").code == 0
    assert len(desk.orders()) == 4


@append
def test_many_replays_at_once_double_nothing(desk: Desk, in_background: Callable[..., Future[Ended]]) -> None:
    """However many replays of the same files run beside each other, each record comes in once."""
    records = [_order(number, amount=-1) for number in range(1, 25)]
    desk.load("orders.ndjson", records, "--max-rejected", "100%", "--batch-rows", "4")
    for failed_id in desk.waiting():
        desk.edit(failed_id, ("-1", "1"))
    ends = [in_background("failed", "replay", "--all", "--no-precalculate") for _ in range(3)]
    assert {end.result().returncode for end in ends} <= {0, 6}
    assert not any("Traceback" in end.result().stderr for end in ends)
    assert desk.replay("--all").code == 0
    assert desk.orders() == {f"O{number}": (1, _skus(number)) for number in range(1, 25)}
    assert set(desk.states().values()) == {"replayed"}


def _start(desk: Desk, database_url: str, *arguments: str) -> subprocess.Popen[bytes]:
    environment = {"PATH": os.environ["PATH"], "HOME": str(desk.folder), "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        [sys.executable, "-m", "etl", *arguments],
        cwd=desk.folder,
        env=environment | {"ETL_DATABASE_URL": database_url},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def _kill(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    assert process.wait(20) == -signal.SIGKILL


def _wait_for_no_one(desk: Desk) -> None:
    others = "select count(*) from pg_stat_activity where application_name like 'etl:%'"
    _wait_for(lambda: not desk.one(others))


KILLED = [_order(1, amount=-1), _order(2, amount=-2), _order(3)]


def _prepare_to_kill(desk: Desk) -> str:
    """Load orders of which two wait, one of them put right, and return what waits."""
    desk.load("orders.ndjson", KILLED, "--max-rejected", "100%")
    [failed_id] = desk.waiting()
    desk.edit(failed_id, ("-1", "1"))
    return failed_id


@append
@pytest.mark.parametrize("at_commit", [False, True], ids=["before its rows are in", "in its commit"])
def test_a_replay_that_is_killed_completes_when_run_again(desk: Desk, database_url: str, at_commit: bool) -> None:
    """Killed while its batch is sent it did nothing, in its commit it did all: run again all is in once."""
    failed_id = _prepare_to_kill(desk)
    _hold(desk, at_commit=at_commit)
    with _start(desk, database_url, "failed", "replay", failed_id) as process:
        _wait_until_held(desk)
        _kill(process)
    assert desk.waiting() == [failed_id]
    assert desk.told(failed_id)["state"] == "pending"
    _release(desk)
    _wait_for_no_one(desk)
    assert desk.waiting() == ([f"{failed_id}r"] if at_commit else [failed_id])
    assert set(desk.orders()) == ({"O1", "O3"} if at_commit else {"O3"})
    desk.edit(desk.waiting()[0], ("-2", "2"))
    assert desk.replay("--all").code == 0
    assert desk.orders() == {f"O{number}": (1, _skus(number)) for number in range(1, 4)}
    assert desk.waiting() == []
    # What the killed one left of records that then came in is gone.
    ids = set(desk.column("select id from etl.failures"))
    assert {path.stem for path in desk.path(failed_id).parent.iterdir()} == ids


@append
def test_a_replay_that_is_killed_after_its_commit_is_done(desk: Desk, database_url: str) -> None:
    """Killed before it told the state beside the records it is in all the same: the ledger's word is the truth."""
    failed_id = _prepare_to_kill(desk)
    # Whoever opens this to write waits until somebody reads.
    os.mkfifo(desk.path(failed_id).with_name(f".{failed_id}.json.tmp"))
    with _start(desk, database_url, "failed", "replay", failed_id) as process:
        _wait_for(lambda: desk.waiting() == [f"{failed_id}r"])
        _kill(process)
    _wait_for_no_one(desk)
    assert desk.told(failed_id)["state"] == "pending"
    assert f"{failed_id}: 2 rejected records of orders.ndjson, replayed" in desk.etl("failed", "show", failed_id).out
    done = desk.replay(failed_id)
    assert (done.code, done.out) == (0, "")
    assert set(desk.orders()) == {"O1", "O3"}
    desk.edit(f"{failed_id}r", ("-2", "2"))
    assert desk.replay("--all").code == 0
    assert desk.orders() == {f"O{number}": (1, _skus(number)) for number in range(1, 4)}


@pytest.mark.slow
@append
def test_replays_killed_at_any_moment(desk: Desk, database_url: str) -> None:
    """Killed again and again at random moments and run to the end, a replay brings each record in once."""
    records = [_order(number, amount=-1 if number % 3 else "x") for number in range(1, 1201)]
    desk.load("orders.ndjson", records, "--max-rejected", "100%", "--batch-rows", "20")
    for failed_id in desk.waiting():
        desk.edit(failed_id, ('"x"', "7"))

    def put_right() -> None:
        for failed_id in desk.waiting():
            if failed_id.endswith("-rr"):  # refused again
                desk.path(failed_id).write_text(desk.path(failed_id).read_text().replace(": -1", ": 1"))

    moments = random.Random(8)
    replaying = "select count(*) from pg_stat_activity where application_name = 'etl:replay'"
    kills = 0
    while kills < 25 and desk.waiting():
        with _start(desk, database_url, "failed", "replay", "--all", "--no-precalculate") as process:
            _wait_for(lambda: desk.one(replaying))
            time.sleep(moments.random() * 0.15)
            _kill(process)
        kills += 1
        _wait_for_no_one(desk)
        put_right()
        for run in desk.column("select run from etl.runs"):
            desk.balance(run)
    assert kills > 10
    while desk.waiting():
        assert desk.replay("--all").code in {0, 1}
        put_right()
    assert desk.orders() == {f"O{number}": (1, _skus(number)) for number in range(1, 1201)}
    ids = set(desk.column("select id from etl.failures"))
    assert {path.stem for path in (desk.folder / "failed").glob("*/*/*") if path.suffix == ".json"} == ids


def test_another_number_of_records_is_refused(desk: Desk) -> None:
    """More or fewer records than there were, or a file that is gone, is exit 2 before anything of all is replayed."""
    desk.load("orders.ndjson", [_order(number, amount=-number) for number in range(1, 5)], "--max-rejected", "4")
    desk.load("other.ndjson", [_order(9, amount=-9)])
    broken, whole = desk.waiting()
    desk.edit(whole, ("-9", "9"))
    lines = desk.path(broken).read_text().splitlines(keepends=True)
    edits = {
        "".join(lines[:-1]): 3,
        "".join([*lines, lines[0]]): 5,
        "".join([*lines[:2], "\n", lines[3]]): 3,
        "": 0,
        "".join([lines[0].strip() + lines[1], *lines[2:], "{}\n"]): 5,
        json.dumps(json.loads(lines[0]), indent=1) + "\n" + "".join(lines[1:]): None,
    }
    for text, count in edits.items():
        desk.path(broken).write_text(text)
        for arguments in ((broken,), ("--all",), (whole, broken)):
            done = desk.replay(*arguments)
            assert (done.code, done.out) == (2, "")
            assert "error: expected 4 records in failed/orders/" in done.err
            assert f"one per line, got {count if count is not None else ''}" in done.err
            assert f"hint: to give records up: etl failed discard {broken} --reason WHY" in done.err
    desk.path(broken).unlink()
    done = desk.replay("--all")
    assert (done.code, done.out) == (2, "")
    assert "cannot read failed/orders/" in done.err
    assert (desk.waiting(), desk.orders()) == ([broken, whole], {})
    assert desk.etl("failed", "replay", whole, "--failed-dir", "elsewhere").code == 2
    assert desk.etl("failed", "discard", broken, "--reason", "lost").code == 0
    assert desk.replay("--all").code == 0
    assert set(desk.orders()) == {"O9"}


def test_what_editors_do_to_lines_does_no_harm(desk: Desk) -> None:
    """Other line ends, blank lines between, spaces around, a byte-order mark or a missing last line end are no edit."""
    ways: list[Callable[[str], str]] = [
        lambda text: text.replace("\n", "\r\n"),
        lambda text: "\ufeff" + text,
        lambda text: "\n\n" + text.replace("\n", "\n \n"),
        lambda text: text.removesuffix("\n"),
        lambda text: "  " + text.replace("\n", "   \n\t"),
    ]
    for number, way in enumerate(ways):
        desk.load(f"{number}.ndjson", [_order(f"{number}-{each}", amount=-1) for each in range(3)])
        [failed_id] = desk.waiting()
        desk.path(failed_id).write_text(way(desk.path(failed_id).read_text().replace("-1,", "1,")), newline="")
        assert desk.replay(failed_id).code == 0
    assert desk.waiting() == []
    assert len(desk.orders()) == 3 * len(ways)


def test_a_failed_batch_comes_in_when_its_cause_is_gone(desk: Desk) -> None:
    """A failed batch is replayed as it is; its rejected records wait beside it, and the balance moves with each."""
    desk.connection.execute(
        "create function lab.stop() returns trigger language plpgsql as"
        " 'begin raise exception $$busy$$ using errcode = $$40P01$$; end'"
    )
    desk.connection.execute("create trigger stop before insert on lab.orders execute function lab.stop()")
    records = [_order(1), _order(2, amount=-2), _order(3), _order(4, note="no")]
    summary = desk.load("orders.ndjson", records)
    rejected, failed = sorted(desk.waiting(), reverse=True)
    assert (summary["records"]["rejected"], summary["records"]["failed"], summary["exit_code"]) == (1, 3, 1)
    again = desk.replay(failed, "--retry-attempts", "2", "--retry-base-seconds", "0.001")
    assert again.code == 1
    assert "batch_retried" in again.err
    waiting = f"{failed}f"
    assert desk.states() == {rejected: "pending", failed: "replayed", waiting: "pending"}
    assert (desk.told(waiting)["kind"], desk.told(waiting)["attempts"]) == ("failed", 2)
    balance = desk.balance(summary["run"])
    assert (balance["loaded"], balance["rejected"], balance["failed"]) == (0, 1, 3)
    desk.connection.execute("drop trigger stop on lab.orders")
    assert desk.replay(waiting).code == 1
    assert desk.orders() == {"O1": (1, _skus(1)), "O3": (1, _skus(3))}
    assert desk.told(f"{waiting}r")["kind"] == "rejected"
    balance = desk.balance(summary["run"])
    assert (balance["loaded"], balance["rejected"], balance["failed"], balance["pending"]) == (2, 2, 0, 2)
    desk.edit(rejected, ("-2", "2"))
    desk.edit(f"{waiting}r", ('"no"', '"yes"'))
    assert desk.replay("--all").code == 0
    assert desk.orders() == {f"O{number}": (1, _skus(number)) for number in range(1, 5)}
    assert desk.load("orders.ndjson")["exit_code"] == 0


def test_an_old_record_never_beats_a_newer_one(desk: Desk) -> None:
    """A replayed record has the age of its source: a larger version wins, of equals the one of the later source."""
    old = [_order(1, amount=-1), _order(2, amount=-1), _order(3, amount=-1, version=None), _order(4, amount=-1)]
    desk.load("old.ndjson", [*old, _order(5, version=7, amount=-1)], "--max-rejected", "100%")
    new = [_order(1, version=2), _order(2), _order(3, version=None), _order(5, version=6)]
    for order in new:
        order["lines"] = [{"sku": "new"}]
    desk.load("new.ndjson", new)
    [failed_id] = desk.waiting()
    desk.edit(failed_id, ('"amount": -1', '"amount": 1'))
    assert desk.replay("--all").code == 0
    assert desk.orders() == {
        "O1": (2, ["new"]),
        "O2": (1, ["new"]),
        "O3": (None, ["new"]),
        "O4": (1, _skus(4)),
        "O5": (7, _skus(5)),
    }
    assert desk.load("old.ndjson")["status"] == "already_loaded"


@append
def test_a_key_that_came_meanwhile_is_refused_in_append(desk: Desk) -> None:
    """A record whose key is there by now is refused again, as it would be by a load."""
    desk.load("orders.ndjson", [_order(1, amount=-1), _order(2, amount=-1)], "--max-rejected", "100%")
    desk.load("other.ndjson", [_order(1)])
    [failed_id] = desk.waiting()
    desk.edit(failed_id, ("-1", "1"))
    assert desk.replay(failed_id).code == 1
    assert set(desk.orders()) == {"O1", "O2"}
    assert [each["sqlstate"] for each in desk.told(f"{failed_id}r")["records"]] == ["23505"]


def test_what_a_replay_touched_is_precalculated(desk: Desk) -> None:
    """The aggregates of replayed facts follow, with --no-precalculate not, and then with the next replay."""
    (desk.folder / "logs.ndjson").write_text(
        _lines(
            *(
                {"log_id": f"L{number}", "vehicle_id": "V1", "trip_date": "2026-03-05", "distance_km": distance}
                for number, distance in enumerate((10, -20, -40))
            )
        )
    )
    distance = "select sum(sum_distance_km) from analytics.vehicle_days"
    assert desk.etl("load", "vehicle_logs", "logs.ndjson", "--batch-rows", "1", "--max-rejected", "9").code == 1
    assert desk.one(distance) == 10
    first, second = desk.waiting()
    desk.edit(first, ("-20", "20"))
    desk.edit(second, ("-40", "40"))
    assert desk.replay(first).code == 0
    assert desk.one(distance) == 30
    assert desk.replay(second, "--no-precalculate").code == 0
    assert desk.one(distance) == 30
    # As when it was killed between its commit and the precalculation.
    assert desk.replay("--dataset", "vehicle_logs").out == ""
    assert desk.one(distance) == 70


def test_what_is_discarded_is_given_up_for_a_reason(desk: Desk) -> None:
    """Discarding asks for a reason and keeps it; the records stay out, and the load of their source ends with 0."""
    desk.load("orders.ndjson", [_order(1), _order(2, amount=-2)])
    [failed_id] = desk.waiting()
    assert desk.etl("failed", "discard", failed_id).code == 2
    assert desk.etl("failed", "discard", failed_id, "--reason", " ").code == 2
    assert desk.etl("failed", "discard", failed_id, "no-such-id", "--reason", "x").code == 2
    assert desk.states() == {failed_id: "pending"}
    done = desk.etl("failed", "discard", failed_id, "--reason", "a test order, says Łucja")
    assert (done.code, done.out) == (0, f"discarded {failed_id}: 1 records\n")
    assert desk.states() == {failed_id: "discarded"}
    assert desk.one("select note from etl.failures") == desk.told(failed_id)["note"] == "a test order, says Łucja"
    assert desk.path(failed_id).exists()
    again = desk.etl("failed", "discard", failed_id, "--reason", "once more")
    assert again.code == 2
    assert f"{failed_id} does not wait: discarded" in again.err
    replayed = desk.replay(failed_id)
    assert (replayed.code, replayed.out) == (0, "")
    assert f"{failed_id} does not wait: discarded" in replayed.err
    assert desk.replay("--all").out == ""
    assert set(desk.orders()) == {"O1"}
    summary = desk.load("orders.ndjson")
    assert (summary["exit_code"], summary["status"], summary["records"]["pending"]) == (0, "already_loaded", 0)
    assert desk.one("select note from etl.failures") == "a test order, says Łucja"


@append
def test_a_load_run_again_leaves_alone_what_waits(desk: Desk) -> None:
    """However often and in whatever batches a source is loaded again, what waits is not loaded and is told."""
    desk.load("orders.ndjson", [_order(1), _order(2, amount=-2), _order(3)])
    [failed_id] = desk.waiting()
    desk.edit(failed_id, ("-2", "2"))
    for arguments in ((), ("--batch-rows", "1"), ("--batch-rows", "9")):
        summary = desk.load("orders.ndjson", None, *arguments)
        assert (summary["exit_code"], summary["status"], summary["records"]["pending"]) == (1, "already_loaded", 1)
    grown = desk.load("orders.ndjson", [_order(1), _order(2, amount=-2), _order(3), _order(4)])
    assert (grown["exit_code"], grown["records"]["loaded"], grown["records"]["skipped"]) == (1, 1, 3)
    assert desk.waiting() == [failed_id]
    assert desk.path(failed_id).exists()
    assert set(desk.orders()) == {"O1", "O3", "O4"}
    assert desk.replay(failed_id).code == 0
    assert desk.load("orders.ndjson")["exit_code"] == 0
    assert set(desk.orders()) == {"O1", "O2", "O3", "O4"}


def test_force_and_replace_supersede_what_waits(desk: Desk) -> None:
    """Where all of a source came again, or a replace removed what it had loaded, the old records are not replayed."""
    records = [_order(1), _order(2, amount=-2)]
    first = desk.load("orders.ndjson", records)
    [old] = desk.waiting()
    second = desk.load("orders.ndjson", None, "--force")
    [new] = desk.waiting()
    assert old != new
    assert desk.states() == {old: "superseded", new: "pending"}
    replayed = desk.replay(old)
    assert (replayed.code, replayed.out) == (0, "")
    assert f"{old} does not wait: superseded" in replayed.err
    other = desk.load("all.ndjson", [_order(7), _order(8, amount=-8)], "--mode", "replace")
    assert other["exit_code"] == 1
    assert desk.states() == {old: "superseded", new: "superseded", f"{other['run']}-0-r": "pending"}
    assert set(desk.orders()) == {"O7"}
    desk.edit(f"{other['run']}-0-r", ("-8", "8"))
    assert [each["id"] for each in desk.replay("--all", "--json").documents] == [f"{other['run']}-0-r"]
    assert set(desk.orders()) == {"O7", "O8"}
    for run in (first, second, other):
        desk.balance(run["run"])


def test_an_atomic_run_is_replayed_only_when_it_is_visible(desk: Desk) -> None:
    """What waits of a run whose rows are withheld is exit 2 with the hint to complete it, and replayed afterwards."""
    (desk.folder / "orders.json").write_text(json.dumps([_order(1), _order(2, amount=-2), _order(3)])[:-40])
    cut = desk.load("orders.json", None, "--atomic", "--batch-rows", "1")
    assert (cut["exit_code"], cut["records"]["withheld"]) == (3, 1)
    [failed_id] = desk.waiting()
    desk.edit(failed_id, ("-2", "2"))
    early = desk.replay(failed_id)
    assert early.code == 2
    assert "belongs to an atomic run that is not finished" in early.err
    assert "hint: load orders.json again first" in early.err
    assert desk.states() == {failed_id: "pending"}
    (desk.folder / "orders.json").write_text(json.dumps([_order(1), _order(2, amount=-2), _order(3)]))
    assert desk.load("orders.json", None, "--atomic")["exit_code"] == 1
    assert desk.replay(failed_id).code == 0
    assert desk.orders() == {f"O{number}": (1, _skus(number)) for number in range(1, 4)}


def test_a_replay_tells_the_listeners(desk: Desk) -> None:
    """What a replay brings is told as a load tells it, so that aggregates follow that are not refreshed by itself."""
    desk.load("orders.ndjson", [_order(1), _order(2, amount=-2)])
    desk.edit(desk.waiting()[0], ("-2", "2"))
    desk.connection.execute("listen etl_runs")
    assert desk.replay("--all", "--no-precalculate").code == 0
    told = desk.connection.notifies(timeout=5, stop_after=1)
    assert [notify.payload for notify in told] == ["orders"]


def test_a_replay_follows_the_definition_of_now(desk: Desk) -> None:
    """A definition that was put right takes the records as they are; one that is gone is exit 2."""
    desk.load("orders.ndjson", [_order(1), _order(2, amount=-2)])
    [failed_id] = desk.waiting()
    path = desk.folder / "config" / "datasets" / "orders.toml"
    text = path.read_text()
    path.unlink()
    gone = desk.replay(failed_id)
    assert gone.code == 2
    assert "no dataset is called 'orders'" in gone.err
    path.write_text(text.replace(", min = 0", ""))
    assert desk.replay(failed_id).code == 1  # the table has its check still
    desk.connection.execute("alter table lab.orders drop constraint orders_amount_min")
    assert desk.replay("--all").code == 0
    assert set(desk.orders()) == {"O1", "O2"}


def _lose_the_connection(desk: Desk, *, once: bool) -> None:
    desk.connection.execute("create sequence lab.tries")
    desk.connection.execute(
        sql.SQL(
            """
            create function lab.lose() returns trigger language plpgsql as $$
            begin
                if nextval('lab.tries') = 1 or not {once} then
                    perform pg_terminate_backend(pg_backend_pid());
                end if;
                return new;
            end
            $$;
            create constraint trigger lose after insert on lab.orders deferrable initially deferred
            for each row execute function lab.lose()
            """
        ).format(once=once)
    )


def test_a_connection_lost_in_a_replay_is_opened_again(desk: Desk) -> None:
    """A replay whose connection is lost tries again on a new one, holds its source again, and doubles nothing."""
    desk.load("orders.ndjson", [_order(1, amount=-1), _order(2, amount=-2), _order(3)], "--max-rejected", "100%")
    [failed_id] = desk.waiting()
    desk.edit(failed_id, ("-1", "1"))
    _lose_the_connection(desk, once=True)
    done = desk.replay(failed_id, "--retry-base-seconds", "0.01")
    assert "batch_retried" in done.err
    assert (done.code, done.out) == (
        1,
        f"replayed {failed_id}: 1 loaded, 1 refused again; waits as {failed_id}r\n",
    )
    assert desk.states() == {failed_id: "replayed", f"{failed_id}r": "pending"}
    assert set(desk.orders()) == {"O1", "O3"}


@append
def test_a_commit_that_was_not_answered_is_not_done_again(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection that is lost after the server committed is resolved by claiming again: nothing is loaded twice."""
    desk.connection.execute("alter table lab.orders drop constraint orders_pkey")  # it would hide what came twice
    desk.load("orders.ndjson", [_order(1, amount=-1), _order(2)])
    [failed_id] = desk.waiting()
    desk.edit(failed_id, ("-1", "1"))
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
    done = desk.replay(failed_id, "--no-precalculate", "--retry-base-seconds", "0.01")
    assert (done.code, done.out) == (0, f"replayed {failed_id}: 1 loaded, 0 refused again\n")
    assert lost
    assert "batch_retried" in done.err
    assert desk.orders() == {"O1": (1, _skus(1)), "O2": (1, _skus(2))}


def test_a_replay_while_the_server_is_away_changes_nothing(
    desk: Desk, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a server, or when it goes for good, a replay is exit 4 in one sentence, and what waits still waits."""
    desk.load("orders.ndjson", [_order(1, amount=-1), _order(2)])
    [failed_id] = desk.waiting()
    desk.edit(failed_id, ("-1", "1"))
    monkeypatch.setenv("ETL_DATABASE_URL", "postgresql://nobody@127.0.0.1:1/nowhere")
    for command in (("replay", failed_id), ("replay", "--all"), ("list",), ("discard", failed_id, "--reason", "x")):
        done = desk.etl("failed", *command)
        assert (done.code, done.out) == (4, "")
        assert done.err.count("error: ") == 1
    monkeypatch.setenv("ETL_DATABASE_URL", database_url)
    _lose_the_connection(desk, once=False)
    done = desk.replay(failed_id, "--retry-attempts", "2", "--retry-base-seconds", "0.01")
    assert (done.code, done.out) == (4, "")
    assert done.err.count("error: ") == 1
    assert desk.states() == {failed_id: "pending"}
    assert set(desk.orders()) == {"O2"}
    desk.connection.execute("drop trigger lose on lab.orders")
    assert desk.replay(failed_id).code == 0
    assert desk.states() == {failed_id: "replayed"}
    assert set(desk.orders()) == {"O1", "O2"}


@pytest.mark.parametrize("seed", range(3))
def test_after_any_sequence_of_steps_each_record_is_in_one_place(desk: Desk, seed: int) -> None:
    """Loads, edits, replays and discards in any order: each record is in the tables once or in one file that counts."""
    dice = random.Random(seed)
    brought = 0
    for _ in range(14):
        waiting = desk.waiting()
        step = dice.choice(["load", "load again", "replay", "replay", "edit", "edit", "discard"])
        if step == "load" or not waiting:
            numbers = range(brought + 1, brought + dice.randrange(2, 9))
            brought = numbers[-1]
            records = [
                _order(number, amount=dice.choice([1, -1, "x"]), note=dice.choice(["", "no"])) for number in numbers
            ]
            desk.load(f"{brought}.ndjson", records, "--max-rejected", "100%", "--batch-rows", str(dice.randrange(1, 6)))
        elif step == "load again":
            name = dice.choice(sorted(path.name for path in desk.folder.glob("*.ndjson")))
            assert desk.load(name)["status"] == "already_loaded"
        elif step == "edit":
            failed_id = dice.choice(waiting)
            lines = desk.path(failed_id).read_text().splitlines()
            place = dice.randrange(len(lines))
            lines[place] = lines[place].replace(*dice.choice([(": -1", ": 1"), ('"x"', "2"), ('"no"', '"yes"')]))
            desk.path(failed_id).write_text(_lines(*lines))
        elif step == "discard":
            assert desk.etl("failed", "discard", dice.choice(waiting), "--reason", "dice").code == 0
        else:
            assert desk.replay(*dice.choice([("--all",), (dice.choice(waiting),)])).code in {0, 1}
        kept = [
            json.loads(line)["order_id"]
            for failed_id in desk.column("select id from etl.failures where state <> 'replayed'")
            for line in desk.path(failed_id).read_text().splitlines()
        ]
        assert sorted([*desk.orders(), *kept]) == sorted(f"O{number}" for number in range(1, brought + 1))
        for run in desk.column("select run from etl.runs"):
            desk.balance(run)
    assert brought > 5
