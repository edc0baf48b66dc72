import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import sql

from etl.database.tables import create_tables
from etl.datasets import read
from etl.ingestion.destination import refusals
from etl.settings import RetrySettings

Connection = psycopg.Connection[tuple[Any, ...]]
Done = subprocess.CompletedProcess[str]
RunEtl = Callable[..., Done]

QUICK = ["--retry-attempts", "4", "--retry-base-seconds", "0.02", "--retry-cap-seconds", "0.05"]

PARCELS = """
name = "parcels"
mode = "append"
[[table]]
name = "logistics.parcels"
[table.columns]
parcel_id = { type = "text", required = true }
"""


@pytest.fixture
def connection(postgresql: Connection, tmp_path: Path) -> Connection:
    """Give an autocommit connection to a fresh database; there is a dataset `parcels`, and a source of six."""
    postgresql.autocommit = True
    path = tmp_path / "config" / "datasets" / "parcels.toml"
    path.parent.mkdir(parents=True)
    path.write_text(PARCELS)
    create_tables(postgresql, read(path))
    (tmp_path / "feed.json").write_text(json.dumps([{"parcel_id": f"P{number}"} for number in range(1, 7)]))
    return postgresql


@pytest.fixture
def in_background(run_etl: RunEtl, connection: Connection) -> Iterator[Callable[..., Future[Done]]]:
    """Return a function that runs `etl ARGUMENTS` beside the test."""
    with ThreadPoolExecutor() as pool:
        yield lambda *arguments: pool.submit(run_etl, *arguments)
        # Whatever the test found: what it still holds must not keep the command waiting.
        connection.execute("select pg_advisory_unlock_all()")


@pytest.fixture
def elsewhere(connection: Connection) -> Iterator[Connection]:
    """Give a connection to another database of the server."""
    with psycopg.connect(connection.info.dsn, dbname="postgres", autocommit=True) as other:
        yield other


def _load(*more: str) -> list[str]:
    return ["load", "parcels", "feed.json", "--json", "--batch-rows", "2", *QUICK, *more]


def _ids(connection: Connection) -> list[str]:
    return [parcel_id for (parcel_id,) in connection.execute("select parcel_id from logistics.parcels order by 1")]


def _summary(done: Done) -> dict[str, Any]:
    assert "Traceback" not in done.stderr
    summary: dict[str, Any] = json.loads(done.stdout.splitlines()[0])
    records = summary["records"]
    assert records["read"] == sum(records[name] for name in ("loaded", "rejected", "failed", "skipped", "withheld"))
    assert summary["exit_code"] == done.returncode
    return summary


def _retries(done: Done) -> list[dict[str, Any]]:
    return [json.loads(line) for line in done.stderr.splitlines() if '"batch_retried"' in line]


def _on_insert(connection: Connection, parcel_id: str, body: str, *, at_commit: bool = False) -> None:
    """Run PL/pgSQL in the server for each insert of this parcel, in the middle of its COPY or in its COMMIT."""
    when = "constraint trigger meddle after insert on logistics.parcels deferrable initially deferred"
    connection.execute(
        sql.SQL(
            """
            create sequence tries;
            create function meddle() returns trigger language plpgsql as {body};
            create {when} for each row when (new.parcel_id = {id}) execute function meddle()
            """
        ).format(
            body=f"begin {body} return new; end",
            when=sql.SQL(when if at_commit else "trigger meddle before insert on logistics.parcels"),
            id=parcel_id,
        )
    )


def _backend_that_waits(connection: Connection, statement: str) -> int:
    """Return the loading backend that waits in such a statement for the lock that the test holds."""
    query = """
        select pid from pg_locks join pg_stat_activity using (pid)
        where locktype = 'advisory' and objid = 42 and not granted and application_name ~ '^etl' and query ~* %s
    """
    deadline = time.monotonic() + 20
    while (row := connection.execute(query, [f"^(--.*\n)*{statement}"]).fetchone()) is None:
        assert time.monotonic() < deadline, f"no {statement} waits"
        time.sleep(0.02)
    pid: int = row[0]
    return pid


HOLD = "perform pg_advisory_xact_lock(42);"


@pytest.mark.parametrize("where", ["copy", "commit"])
def test_a_connection_that_is_lost_is_opened_again(
    run_etl: RunEtl, in_background: Callable[..., Future[Done]], connection: Connection, where: str
) -> None:
    """A batch whose backend is killed in the middle of its COPY or COMMIT is tried again: each record is in, once."""
    connection.execute("select pg_advisory_lock(42)")
    _on_insert(connection, "P4", HOLD, at_commit=where == "commit")
    load = in_background(*_load())
    connection.execute("select pg_terminate_backend(%s)", [_backend_that_waits(connection, where)])
    connection.execute("select pg_advisory_unlock(42)")
    done = load.result()
    assert done.returncode == 0
    summary = _summary(done)
    assert (summary["status"], summary["records"]["loaded"]) == ("loaded", 6)
    assert summary["batches"] == {"loaded": 3, "failed": 0, "retried": 1}
    [event] = _retries(done)
    assert (event["level"], event["try_number"], event["of"]) == ("warning", 1, 4)
    assert _ids(connection) == ["P1", "P2", "P3", "P4", "P5", "P6"]
    assert connection.execute("select count_retried, exit_code from etl.attempts").fetchall() == [(1, 0)]
    again = run_etl(*_load())
    assert (again.returncode, _summary(again)["status"]) == (0, "already_loaded")


def test_a_merge_that_lost_its_connection_is_done_again(
    in_background: Callable[..., Future[Done]], connection: Connection, tmp_path: Path
) -> None:
    """What a merge had prepared in its session is prepared anew in the next: each version and child row is right."""
    shipment = {"created_at": "2026-01-01T00:00:00Z", "items": [{"sku": "a"}, {"sku": "b"}]}
    (tmp_path / "feed.json").write_text(json.dumps([shipment | {"shipment_id": f"S{n}"} for n in range(4)]))
    connection.execute(
        """
        create function meddle() returns trigger language plpgsql as
        'begin perform pg_advisory_xact_lock(42); return new; end';
        create trigger meddle before insert on logistics.shipments
        for each row when (new.shipment_id = 'S2') execute function meddle();
        select pg_advisory_lock(42)
        """
    )
    load = in_background("load", "shipments", "feed.json", "--json", "--batch-rows", "2", *QUICK)
    connection.execute("select pg_terminate_backend(%s)", [_backend_that_waits(connection, "")])
    connection.execute("select pg_advisory_unlock(42)")
    done = load.result()
    assert done.returncode == 0
    assert _summary(done)["batches"] == {"loaded": 2, "failed": 0, "retried": 1}
    items = connection.execute(
        "select shipment_id, array_agg(sku order by line_no) from logistics.shipment_items group by 1"
    )
    assert sorted(items) == [(f"S{n}", ["a", "b"]) for n in range(4)]


def test_passing_faults_are_retried(run_etl: RunEtl, connection: Connection) -> None:
    """What the server refuses for the moment is tried again, each time with one event, until it is in."""
    codes = ["40001", "40P01", "55P03", "57014", "53300", "57P03", "08006"]
    _on_insert(
        connection,
        "P4",
        f"declare number bigint := nextval('tries'); begin if number <= {len(codes)} then"
        f" raise 'not now' using errcode = (array{codes})[number]; end if; end;",
    )
    done = run_etl(*_load("--retry-attempts", str(len(codes) + 1)))
    assert done.returncode == 0
    assert _summary(done)["batches"] == {"loaded": 3, "failed": 0, "retried": len(codes)}
    events = _retries(done)
    assert [event["sqlstate"] for event in events] == codes
    assert [event["try_number"] for event in events] == list(range(1, len(codes) + 1))
    assert all(0 < event["wait_seconds"] <= 0.1 for event in events)
    assert _ids(connection) == ["P1", "P2", "P3", "P4", "P5", "P6"]


def test_a_batch_that_stays_refused_waits_in_the_failed_store(
    run_etl: RunEtl, connection: Connection, tmp_path: Path
) -> None:
    """When its tries are used up a batch goes whole to the failed store, the rest loads, and exit 1 stays."""
    _on_insert(connection, "P4", "perform nextval('tries'); raise 'never' using errcode = '57014';")
    done = run_etl(*_load())
    assert done.returncode == 1
    summary = _summary(done)
    assert summary["status"] == "loaded_with_rejects"
    assert (summary["records"]["loaded"], summary["records"]["failed"], summary["records"]["pending"]) == (4, 2, 2)
    assert summary["batches"] == {"loaded": 2, "failed": 1, "retried": 3}
    assert _ids(connection) == ["P1", "P2", "P5", "P6"]
    assert connection.execute("select last_value from tries").fetchone() == (4,)
    row = connection.execute("select id, run, kind, state, count_records, sqlstate from etl.failures").fetchone()
    assert row is not None
    failure, run, *rest = row
    assert rest == ["failed", "pending", 2, "57014"]
    stored = tmp_path / "failed" / "parcels" / run / f"{failure}.ndjson"
    assert stored.read_text() == '{"parcel_id": "P3"}\n{"parcel_id": "P4"}\n'
    told = json.loads(stored.with_suffix(".json").read_text())
    assert (told["kind"], told["error"]["sqlstate"]) == ("failed", "57014")
    assert [record["record"] for record in told["records"]] == [3, 4]
    connection.execute("drop trigger meddle on logistics.parcels")
    again = run_etl(*_load())
    assert (again.returncode, _summary(again)["status"]) == (1, "already_loaded")
    assert _ids(connection) == ["P1", "P2", "P5", "P6"]


@pytest.mark.parametrize("code", ["53100", "42501"])
def test_a_server_that_refuses_work_is_4(run_etl: RunEtl, connection: Connection, tmp_path: Path, code: str) -> None:
    """A full disk, after its tries, and a right lost on the way end all with exit 4; it goes on afterwards."""
    _on_insert(connection, "P4", f"perform nextval('tries'); raise 'secret' using errcode = '{code}';")
    (tmp_path / "later.json").write_text('[{"parcel_id": "P7"}]')
    done = run_etl(*_load("later.json"))
    assert done.returncode == 4
    summary = _summary(done)
    assert (summary["status"], summary["records"]["loaded"], summary["records"]["withheld"]) == ("incomplete", 2, 2)
    assert json.loads(done.stdout.splitlines()[1])["kind"] == "total"
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert f"SQLSTATE {code}" in errors[0]
    assert "secret" not in done.stderr
    assert connection.execute("select last_value from tries").fetchone() == (4 if code == "53100" else 1,)
    assert _ids(connection) == ["P1", "P2"]
    assert connection.execute("select exit_code from etl.attempts").fetchall() == [(4,)]
    assert connection.execute("select count(*) from etl.failures").fetchone() == (0,)
    connection.execute("drop trigger meddle on logistics.parcels")
    again = run_etl(*_load())
    assert again.returncode == 0
    assert (_summary(again)["records"]["skipped"], _summary(again)["records"]["loaded"]) == (2, 4)
    assert _ids(connection) == ["P1", "P2", "P3", "P4", "P5", "P6"]


def test_a_database_that_stays_away_is_4(
    run_etl: RunEtl, in_background: Callable[..., Future[Done]], connection: Connection, elsewhere: Connection
) -> None:
    """When no connection is to be had any more the run ends with exit 4 in bounded time, and goes on afterwards."""
    allow = sql.SQL("alter database {} allow_connections {}")
    name = sql.Identifier(connection.info.dbname)
    connection.execute("select pg_advisory_lock(42)")
    _on_insert(connection, "P4", HOLD)
    load = in_background(*_load())
    _backend_that_waits(connection, "copy")
    elsewhere.execute(allow.format(name, sql.SQL("false")))
    began = time.monotonic()
    killed = "select pg_terminate_backend(pid) from pg_stat_activity where datname = %s and application_name ~ '^etl'"
    assert len(elsewhere.execute(killed, [connection.info.dbname]).fetchall()) >= 1
    done = load.result()
    assert time.monotonic() - began < 10
    elsewhere.execute(allow.format(name, sql.SQL("true")))
    connection.execute("select pg_advisory_unlock(42)")
    assert done.returncode == 4
    summary, total = (json.loads(line) for line in done.stdout.splitlines())
    assert (summary["status"], summary["batches"]["retried"]) == ("incomplete", 3)
    assert total == {"kind": "total", "exit_code": 4, "sources": 1, "precalculated": []}
    assert "hint: run the same command to continue" in done.stderr
    assert _ids(connection) == ["P1", "P2"]
    again = run_etl(*_load())
    assert again.returncode == 0
    assert _summary(again)["run"] == summary["run"]
    assert (_summary(again)["records"]["skipped"], _summary(again)["records"]["loaded"]) == (2, 4)
    assert _ids(connection) == ["P1", "P2", "P3", "P4", "P5", "P6"]


def test_a_database_that_comes_back_is_waited_for(
    in_background: Callable[..., Future[Done]], connection: Connection, elsewhere: Connection
) -> None:
    """A restart of the server that is shorter than the tries costs time and nothing else."""
    allow = sql.SQL("alter database {} allow_connections {}")
    name = sql.Identifier(connection.info.dbname)
    connection.execute("select pg_advisory_lock(42)")
    _on_insert(connection, "P4", HOLD)
    load = in_background(*_load("--retry-attempts", "100"))
    pid = _backend_that_waits(connection, "copy")
    elsewhere.execute(allow.format(name, sql.SQL("false")))
    elsewhere.execute("select pg_terminate_backend(%s)", [pid])
    connection.execute("select pg_advisory_unlock(42)")
    time.sleep(0.5)
    elsewhere.execute(allow.format(name, sql.SQL("true")))
    done = load.result()
    assert done.returncode == 0
    assert _summary(done)["batches"]["retried"] == len(_retries(done)) > 1
    assert _ids(connection) == ["P1", "P2", "P3", "P4", "P5", "P6"]


def test_a_load_that_lost_its_source_to_another_is_6(
    run_etl: RunEtl, in_background: Callable[..., Future[Done]], connection: Connection
) -> None:
    """Whoever takes over the source while a load has no connection loads the rest; the first stops, nothing doubles."""
    connection.execute("select pg_advisory_lock(42)")
    _on_insert(connection, "P4", HOLD)
    load = in_background(*_load("--retry-base-seconds", "2", "--retry-cap-seconds", "2"))
    connection.execute("select pg_terminate_backend(%s)", [_backend_that_waits(connection, "copy")])
    connection.execute("select pg_advisory_unlock(42)")
    other = run_etl(*_load())
    assert other.returncode == 0
    assert (_summary(other)["records"]["skipped"], _summary(other)["records"]["loaded"]) == (2, 4)
    done = load.result()
    assert done.returncode == 6
    assert _summary(done)["status"] == "busy"
    assert _ids(connection) == ["P1", "P2", "P3", "P4", "P5", "P6"]


def test_a_killed_loader_leaves_nothing_half_done(
    run_etl: RunEtl, in_background: Callable[..., Future[Done]], connection: Connection
) -> None:
    """After kill -9 the batches that were committed are in and no other; the same command goes on at once."""
    connection.execute("select pg_advisory_lock(42)")
    _on_insert(connection, "P4", HOLD)
    load = in_background(*_load())
    _backend_that_waits(connection, "copy")
    row = connection.execute("select pid from etl.attempts").fetchone()
    assert row is not None
    os.kill(row[0], signal.SIGKILL)
    assert load.result().returncode == -signal.SIGKILL
    connection.execute("select pg_advisory_unlock(42)")
    assert _ids(connection) == ["P1", "P2"]
    done = run_etl(*_load())
    assert done.returncode == 0
    assert (_summary(done)["records"]["skipped"], _summary(done)["records"]["loaded"]) == (2, 4)
    assert _ids(connection) == ["P1", "P2", "P3", "P4", "P5", "P6"]
    attempts = connection.execute("select attempt, exit_code from etl.attempts order by 1").fetchall()
    assert attempts == [(1, None), (2, 0)]


def _error(sqlstate: str | None) -> psycopg.Error:
    if sqlstate is None:
        return psycopg.OperationalError("the connection is lost")
    return psycopg.errors.lookup(sqlstate)()


@pytest.mark.parametrize(
    ("meaning", "codes"),
    [
        ("away", [None, "08000", "08006", "57P01", "57P02", "57P03", "53100", "53200", "53300"]),
        ("contended", ["40001", "40P01", "55P03", "57014"]),
        ("data", ["22P02", "22003", "22021", "23502", "23505", "23514", "54000", "P0001"]),
        ("denied", ["28P01", "3D000", "42501", "42P01"]),
        ("unexpected", ["XX000", "25006", "0A000"]),
    ],
)
def test_each_sqlstate_has_one_meaning(meaning: refusals.Meaning, codes: list[str | None]) -> None:
    """The code alone tells whether to try again, to keep the records, or to stop; no class of exceptions does."""
    assert {code: refusals.meaning(_error(code)) for code in codes} == dict.fromkeys(codes, meaning)
    assert {refusals.is_transient(_error(code)) for code in codes} == {meaning in {"away", "contended"}}


def test_waits_double_up_to_the_cap() -> None:
    """The waits begin at the base, double, stay below the cap, and differ by at most the base of jitter."""
    waits: list[float] = []
    noted: list[int] = []

    def fails() -> None:
        raise _error("40001")

    policy = refusals.policy(
        RetrySettings(attempts=6, base_seconds=1.0, cap_seconds=6.0), lambda: noted.append(1), waits.append
    )
    with pytest.raises(psycopg.errors.SerializationFailure):
        policy(fails)
    assert len(waits) == len(noted) == 5
    for wait, least in zip(waits, [1.0, 2.0, 4.0, 6.0, 6.0], strict=True):
        assert least <= wait <= min(least + 1.0, 6.0)


@pytest.mark.parametrize("code", ["22P02", "42501", "XX000"])
def test_nothing_else_is_tried_again(code: str) -> None:
    """An error that trying again cannot help is raised at once, as it is."""
    tries: list[int] = []

    def fails() -> None:
        tries.append(1)
        raise _error(code)

    def never(_seconds: float) -> None:
        pytest.fail("it waited")

    policy = refusals.policy(RetrySettings(attempts=6, base_seconds=1.0, cap_seconds=6.0), lambda: None, never)
    with pytest.raises(psycopg.errors.lookup(code)):
        policy(fails)
    assert len(tries) == 1
