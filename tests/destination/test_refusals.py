import json
import time
from contextlib import AbstractContextManager

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import make_conninfo

from etl.database import sqlstates
from etl.ingestion.destination import refusals
from tests.support.faults import Gate, Moment
from tests.support.servers import quick_server
from tests.support.site import Site
from tests.support.waiting import until

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
def site(site: Site) -> Site:
    """Give a site with a dataset `parcels`, and a source of six."""
    site.define(PARCELS)
    (site.folder / "feed.json").write_text(json.dumps([{"parcel_id": f"P{number}"} for number in range(1, 7)]))
    return site


def _load(*more: str) -> list[str]:
    return ["load", "parcels", "feed.json", "--json", "--batch-rows", "2", *QUICK, *more]


def _ids(site: Site) -> list[str]:
    return site.column("select parcel_id from logistics.parcels order by 1")


def _on_p4(site: Site, body: str) -> None:
    """Run PL/pgSQL in the server for each insert of the fourth parcel."""
    site.ask("create sequence tries")
    site.on_insert("logistics.parcels", "new.parcel_id = 'P4'", body)


def _at_p4(site: Site, moment: Moment = "in COPY") -> AbstractContextManager[Gate]:
    return site.gate("logistics.parcels", moment, when="new.parcel_id = 'P4'")


@pytest.mark.parametrize("moment", ["in COPY", "in COMMIT"])
def test_a_connection_that_is_lost_is_opened_again(site: Site, moment: Moment) -> None:
    """A batch whose backend is killed in COPY or COMMIT is tried again: each record is loaded once."""
    with _at_p4(site, moment) as gate:
        load = site.start(*_load())
        site.terminate(gate.reached())
        gate.open()
        done = load.ended()
    assert done.returncode == 0
    summary = done.summary
    assert (summary["status"], summary["records"]["loaded"]) == ("loaded", 6)
    assert summary["batches"] == {"loaded": 3, "failed": 0, "retried": 1}
    [event] = done.events("batch_retried")
    assert (event["level"], event["try_number"], event["of"]) == ("warning", 1, 4)
    assert _ids(site) == ["P1", "P2", "P3", "P4", "P5", "P6"]
    assert site.ask("select count_retried, exit_code from etl.attempts") == [(1, 0)]
    again = site.run(*_load())
    assert (again.returncode, again.summary["status"]) == (0, "already_loaded")


def test_a_merge_that_lost_its_connection_is_done_again(site: Site) -> None:
    """A merge prepares its session again after a lost connection: each version and child row is right."""
    shipment = {"created_at": "2026-01-01T00:00:00Z", "items": [{"sku": "a"}, {"sku": "b"}]}
    (site.folder / "feed.json").write_text(json.dumps([shipment | {"shipment_id": f"S{n}"} for n in range(4)]))
    with site.gate("logistics.shipments", "in COPY", when="new.shipment_id = 'S2'") as gate:
        load = site.start("load", "shipments", "feed.json", "--json", "--batch-rows", "2", *QUICK)
        site.terminate(gate.reached())
        gate.open()
        done = load.ended()
    assert done.returncode == 0
    assert done.summary["batches"] == {"loaded": 2, "failed": 0, "retried": 1}
    items = site.ask("select shipment_id, array_agg(sku order by line_no) from logistics.shipment_items group by 1")
    assert sorted(items) == [(f"S{n}", ["a", "b"]) for n in range(4)]


def test_transient_faults_are_retried(site: Site) -> None:
    """A batch with a transient fault is tried again until it is loaded; each retry logs one event."""
    codes = ["40001", "40P01", "55P03", "57014", "53300", "57P03", "08006"]
    _on_p4(
        site,
        f"declare number bigint := nextval('tries'); begin if number <= {len(codes)} then"
        f" raise 'not now' using errcode = (array{codes})[number]; end if; end;",
    )
    done = site.run(*_load("--retry-attempts", str(len(codes) + 1)))
    assert done.returncode == 0
    assert done.summary["batches"] == {"loaded": 3, "failed": 0, "retried": len(codes)}
    events = done.events("batch_retried")
    assert [event["sqlstate"] for event in events] == codes
    assert [event["try_number"] for event in events] == list(range(1, len(codes) + 1))
    assert all(0 < event["wait_seconds"] <= 0.1 for event in events)
    assert _ids(site) == ["P1", "P2", "P3", "P4", "P5", "P6"]


def test_a_batch_that_stays_refused_waits_in_the_failed_store(site: Site) -> None:
    """After its last try the whole batch goes to the failed store, the rest is loaded, and the exit code stays 1."""
    _on_p4(site, "perform nextval('tries'); raise 'never' using errcode = '57014';")
    done = site.run(*_load())
    assert done.returncode == 1
    summary = done.summary
    assert summary["status"] == "loaded_with_rejects"
    assert (summary["records"]["loaded"], summary["records"]["failed"], summary["records"]["pending"]) == (4, 2, 2)
    assert summary["batches"] == {"loaded": 2, "failed": 1, "retried": 3}
    assert _ids(site) == ["P1", "P2", "P5", "P6"]
    assert site.value("select last_value from tries") == 4
    [(failure, *rest)] = site.ask("select id, run, kind, state, count_records, sqlstate from etl.failures")
    assert rest == [summary["run"], "failed", "pending", 2, "57014"]
    assert site.failures.path(failure) == site.store / "parcels" / summary["run"] / f"{failure}.ndjson"
    assert site.failures.path(failure).read_text() == '{"parcel_id": "P3"}\n{"parcel_id": "P4"}\n'
    details = site.failures.details(failure)
    assert (details["kind"], details["error"]["sqlstate"]) == ("failed", "57014")
    assert [record["record"] for record in details["records"]] == [3, 4]
    site.ask("drop trigger fault on logistics.parcels")
    again = site.run(*_load())
    assert (again.returncode, again.summary["status"]) == (1, "already_loaded")
    assert _ids(site) == ["P1", "P2", "P5", "P6"]


@pytest.mark.parametrize(
    ("code", "exit_code", "tries"),
    [("53100", 4, 4), ("25006", 4, 1), ("0A000", 2, 1), ("42501", 2, 1), ("55000", 2, 1)],
)
def test_a_server_that_refuses_work_ends_the_load(site: Site, code: str, exit_code: int, tries: int) -> None:
    """What a person must change is 2 with the table, everything else 4 after all tries; the next load continues."""
    _on_p4(site, f"perform nextval('tries'); raise 'secret' using errcode = '{code}';")
    (site.folder / "later.json").write_text('[{"parcel_id": "P7"}]')
    done = site.run(*_load("later.json"))
    assert done.returncode == exit_code
    summary = done.lines[0]
    assert (summary["status"], summary["records"]["loaded"], summary["records"]["withheld"]) == ("incomplete", 2, 2)
    [error] = done.errors
    assert f"SQLSTATE {code}" in error
    assert exit_code == 4 or error.startswith("logistics.parcels cannot be loaded: ")
    assert "secret" not in done.stderr
    assert site.value("select last_value from tries") == tries
    # The other sources are loaded only where another try of the same command is of no use.
    assert _ids(site) == (["P1", "P2"] if exit_code == 4 else ["P1", "P2", "P7"])
    assert site.ask("select exit_code from etl.attempts order by exit_code desc")[0] == (exit_code,)
    assert site.value("select count(*) from etl.failures") == 0
    site.ask("drop trigger fault on logistics.parcels")
    again = site.run(*_load())
    assert again.returncode == 0
    assert (again.summary["records"]["skipped"], again.summary["records"]["loaded"]) == (2, 4)
    assert set(_ids(site)) >= {"P1", "P2", "P3", "P4", "P5", "P6"}


OWN_CODES = [
    *("LG001", "45000", "ZZ999", "P0001", "P0002", "P0003", "P0004", "02000", "20000", "21000", "27000", "2F005"),
    *("38000", "39004", "44000", "54001"),
]


def test_a_code_of_a_trigger_rejects_its_record(site: Site) -> None:
    """A record for which a trigger raises an error of its own is rejected with that SQLSTATE; the others load."""
    parcels = [{"parcel_id": name} for code in OWN_CODES for name in (f"good {code}", code)]
    (site.folder / "feed.json").write_text(json.dumps(parcels))
    body = "execute format('do $do$ begin raise ''secret'' using errcode = %L; end $do$', new.parcel_id);"
    site.on_insert("logistics.parcels", "new.parcel_id !~ 'good'", body)
    done = site.run(*_load("--batch-rows", "8"))
    assert (done.returncode, done.summary["status"]) == (1, "loaded_with_rejects")
    assert _ids(site) == sorted(f"good {code}" for code in OWN_CODES)
    assert sorted(site.column("select sqlstate from etl.faults")) == sorted(OWN_CODES)
    assert site.column("select distinct kind from etl.failures") == ["rejected"]
    assert "secret" not in done.stderr


def test_an_assertion_of_a_trigger_rejects_its_record(site: Site) -> None:
    """A failed `assert` of PL/pgSQL, which `when others` does not catch, rejects its record only."""
    _on_p4(site, "assert false, 'secret';")
    assert site.run(*_load()).returncode == 1
    assert _ids(site) == ["P1", "P2", "P3", "P5", "P6"]
    assert site.column("select sqlstate from etl.failures") == ["P0004"]


@pytest.mark.slow
def test_a_database_that_stays_away_is_4(site: Site) -> None:
    """Without a connection the run ends with exit 4 in bounded time, and the next load continues it."""
    with _at_p4(site) as gate:
        load = site.start(*_load())
        gate.reached()
        site.allow_connections(allowed=False)
        began = time.monotonic()
        killed = site.ask(
            "select pg_terminate_backend(pid) from pg_stat_activity"
            " where datname = current_database() and application_name ~ '^etl'"
        )
        assert len(killed) >= 1
        done = load.ended()
        assert time.monotonic() - began < 10
        site.allow_connections(allowed=True)
    assert done.returncode == 4
    summary = done.summary
    assert (summary["status"], summary["batches"]["retried"]) == ("incomplete", 3)
    assert done.lines[1:] == [{"kind": "total", "exit_code": 4, "sources": 1, "precalculated": []}]
    assert "hint: run the same command to continue" in done.stderr
    assert _ids(site) == ["P1", "P2"]
    again = site.run(*_load())
    assert again.returncode == 0
    assert again.summary["run"] == summary["run"]
    assert (again.summary["records"]["skipped"], again.summary["records"]["loaded"]) == (2, 4)
    assert _ids(site) == ["P1", "P2", "P3", "P4", "P5", "P6"]


def test_a_user_that_is_locked_out_is_2(site: Site) -> None:
    """If the server refuses a lost connection for good, the load ends with 2 and the reason; then it continues."""
    site.ask("create role nightly login; grant etl_loader to nightly")
    conninfo = make_conninfo(site.conninfo, user="nightly")
    try:
        with _at_p4(site) as gate:
            load = site.start(*_load(), conninfo=conninfo)
            pid = gate.reached()
            site.ask("alter role nightly nologin")
            site.terminate(pid)
            gate.open()
            done = load.ended()
        assert done.returncode == 2
        assert "refuses the connection" in done.stderr
        assert _ids(site) == ["P1", "P2"]
        site.ask("alter role nightly login")
        assert site.run(*_load(), conninfo=conninfo).returncode == 0
        assert _ids(site) == ["P1", "P2", "P3", "P4", "P5", "P6"]
    finally:
        site.ask("drop owned by nightly; drop role nightly")


@pytest.mark.slow
def test_a_standby_is_4(site: Site, tmp_path_factory: pytest.TempPathFactory) -> None:
    """A standby ends a load at once with 4 and names the way to the primary, and `db check` says that it is one."""
    with quick_server(tmp_path_factory.mktemp("standby")) as server:
        assert site.run("db", "migrate", conninfo=server.url()).returncode == 0
        server.stop()
        [data] = {path.parent for path in server.folder.rglob("global")}
        (data / "standby.signal").touch()
        server.start()
        done = site.run(*_load(), conninfo=server.url())
        assert done.returncode == 4
        assert "SQLSTATE 25006" in done.stderr
        assert "hint: name the primary server (target_session_attrs=read-write)" in done.stderr
        assert done.summary["batches"]["retried"] == 0
        checked = site.run("db", "check", conninfo=server.url())
        assert (checked.returncode, "the server is a standby" in checked.stdout) == (2, True)


def test_a_role_that_is_read_only_by_default_loads(site: Site) -> None:
    """A setting of the role or database for other programs does not stop a load; `db check` warns of it."""
    name = sql.Identifier(site.connection.info.dbname)
    site.ask(sql.SQL("alter database {} set default_transaction_read_only = on").format(name))
    assert site.run(*_load()).returncode == 0
    checked = site.run("db", "check")
    assert (checked.returncode, "on, and loads write all the same" in checked.stdout) == (0, True)


def test_a_database_that_comes_back_is_waited_for(site: Site) -> None:
    """A restart of the server that is shorter than all tries only delays the load."""
    with _at_p4(site) as gate:
        load = site.start(*_load("--retry-attempts", "100"))
        pid = gate.reached()
        site.allow_connections(allowed=False)
        site.terminate(pid)
        gate.open()
        until(lambda: len(load.events("batch_retried")) > 1, "tries to connect")
        site.allow_connections(allowed=True)
        done = load.ended()
    assert done.returncode == 0
    assert done.summary["batches"]["retried"] == len(done.events("batch_retried")) > 1
    assert _ids(site) == ["P1", "P2", "P3", "P4", "P5", "P6"]


def test_a_load_that_lost_its_source_to_another_is_6(site: Site) -> None:
    """If another load takes the source of a disconnected load, it loads the rest; the first stops; nothing doubles."""
    with _at_p4(site) as gate:
        load = site.start(*_load("--retry-base-seconds", "2", "--retry-cap-seconds", "2"))
        site.terminate(gate.reached())
        gate.open()
        other = site.run(*_load())
        assert other.returncode == 0
        assert (other.summary["records"]["skipped"], other.summary["records"]["loaded"]) == (2, 4)
        done = load.ended()
    assert done.returncode == 6
    assert done.summary["status"] == "busy"
    assert _ids(site) == ["P1", "P2", "P3", "P4", "P5", "P6"]


def test_a_killed_loader_leaves_nothing_half_done(site: Site) -> None:
    """After kill -9 only the committed batches are loaded; the same command continues at once."""
    with _at_p4(site) as gate:
        load = site.start(*_load())
        gate.reached()
        assert site.value("select pid from etl.attempts") == load.process.pid
        assert load.kill()
    assert _ids(site) == ["P1", "P2"]
    done = site.run(*_load())
    assert done.returncode == 0
    assert (done.summary["records"]["skipped"], done.summary["records"]["loaded"]) == (2, 4)
    assert _ids(site) == ["P1", "P2", "P3", "P4", "P5", "P6"]
    assert site.ask("select attempt, exit_code from etl.attempts order by 1") == [(1, None), (2, 0)]


def _error(sqlstate: str | None) -> psycopg.Error:
    if sqlstate is None:
        return psycopg.OperationalError("the connection is lost")
    return psycopg.errors.lookup(sqlstate)()


@pytest.mark.parametrize(
    ("meaning", "codes"),
    [
        ("away", [None, "08000", "08006", "57P01", "57P02", "57P03", "53100", "53200", "53300", "25P03", "57P05"]),
        ("contended", ["40001", "40P01", "55P03", "57014"]),
        ("data", ["22P02", "22003", "22021", "23502", "23505", "23514", "54000", "P0001", "P0004"]),
        ("fix", ["28P01", "3D000", "42501", "42P01", "0A000", "55000", "428C9", "55P02"]),
        ("stop", ["XX000", "25006", "58030"]),
    ],
)
def test_each_sqlstate_has_one_meaning(meaning: sqlstates.Meaning, codes: list[str | None]) -> None:
    """The SQLSTATE alone decides whether to try again, to keep the records or to stop; the exception class does not."""
    assert {code: refusals.meaning(_error(code)) for code in codes} == dict.fromkeys(codes, meaning)
    assert {refusals.is_transient(_error(code)) for code in codes} == {meaning in {"away", "contended"}}
