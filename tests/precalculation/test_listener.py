"""The listener in its own process, with real loads, kills and restarts at the same time."""

import json
import signal
from pathlib import Path

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from etl.database.connecting import Database, connect
from etl.embedded import Server
from etl.precalculation import listener
from etl.precalculation.catalogue import choose
from tests.support.commands import Running
from tests.support.databases import Databases
from tests.support.site import Site
from tests.support.waiting import until


def _load(site: Site, name: str, day: str, *options: str) -> None:
    path = site.folder / f"{name}.json"
    path.write_text(json.dumps([{"log_id": name, "vehicle_id": "V1", "trip_date": day}]))
    ended = site.run("load", "vehicle_logs", path, "--no-precalculate", *options)
    assert ended.returncode == 0, ended.stderr


def _days(site: Site) -> list[str]:
    return [day for (day,) in site.ask("select source_day::text from analytics.vehicle_days order by source_day")]


def _wait_for(site: Site, days: list[str]) -> None:
    until(lambda: _days(site) == days, f"the days {days}")


def _listening(site: Site, **variables: str) -> Running:
    running = site.start("listen", env=variables)
    until(lambda: running.events("listening"), "the listener")
    return running


def _is_idle(site: Site) -> bool:
    """Return whether a listener has caught up and waits for the next notification."""
    query = """
        select count(*) from pg_stat_activity
        where application_name = 'etl:listen' and state = 'idle' and query ~ 'listen' and wait_event = 'ClientRead'
    """
    return bool(site.value(query)) and not site.value(
        "select count(*) from analytics.freshness where refreshed_at is null"
    )


def test_a_finished_load_is_refreshed(site: Site) -> None:
    """After a load without precalculation the aggregate is soon refreshed, and the freshness names the run."""
    running = _listening(site, ETL_METRICS_FILE="etl.prom")
    _load(site, "first", "2026-03-01")
    _wait_for(site, ["2026-03-01"])
    until((site.folder / "etl.prom").exists, "the metrics of the first round")
    assert 'etl_last_exit_code{command="listen",dataset=""} 0.0' in (site.folder / "etl.prom").read_text()
    _load(site, "second", "2026-03-02")
    _wait_for(site, ["2026-03-01", "2026-03-02"])
    run = site.value("select run from etl.runs where source ~ 'second'")
    assert site.value("select run from analytics.freshness where aggregate = 'vehicle_days'") == run
    assert running.is_running()


def test_missed_runs_are_caught_up(site: Site) -> None:
    """A start refreshes runs that finished without a listener, and changes by hand, without a notification."""
    _load(site, "first", "2026-03-01")
    site.ask("update logistics.vehicle_logs set trip_date = '2026-03-05'")
    _listening(site)
    _wait_for(site, ["2026-03-05"])


def test_runs_that_end_together_are_one_refresh(site: Site) -> None:
    """Notifications that arrive during a refresh lead to one more refresh."""
    running = _listening(site)
    until(lambda: _is_idle(site), "the end of the first refresh")
    with site.connect() as connection, connection.transaction():
        # Blocked here, the listener gets the notifications of the second and third run first.
        connection.execute("lock table analytics.vehicle_days in share row exclusive mode")
        _load(site, "first", "2026-03-01")
        until(lambda: site.backend("wait_event_type = 'Lock'"), "a refresh that waits")
        for day in ("2026-03-02", "2026-03-03", "2026-03-04"):
            _load(site, day, day)
    until(lambda: len(_days(site)) == 4, "all four days")

    def buckets() -> list[int]:
        refreshes = running.events("aggregate_refreshed")
        return [event["buckets"] for event in refreshes if event["aggregate"] == "vehicle_days"]

    # The log line follows the commit a moment later.
    until(lambda: len(buckets()) >= 2, "both refreshes")
    assert buckets() == [1, 3]


def test_sigterm_ends_it_with_zero(site: Site) -> None:
    """An idle listener, and one in a refresh, end at once with 0; nothing is half done or lost."""
    waiting = _listening(site)
    until(lambda: _is_idle(site), "the end of the first refresh")
    waiting.signal(signal.SIGTERM)
    assert waiting.ended(10).returncode == 0
    _load(site, "first", "2026-03-01")
    with site.connect() as connection, connection.transaction():
        connection.execute("lock table analytics.vehicle_days in share row exclusive mode")
        working = _listening(site)
        until(lambda: site.backend("wait_event_type = 'Lock'"), "a refresh that waits")
        working.signal(signal.SIGTERM)
        assert working.ended(10).returncode == 0
    assert _days(site) == []
    interrupted = _listening(site)
    _wait_for(site, ["2026-03-01"])
    interrupted.signal(signal.SIGINT)
    assert interrupted.ended(10).returncode == 130


def test_a_second_listener_waits_and_takes_over(site: Site) -> None:
    """One listener works at a time; after its kill -9 the other works within seconds."""
    first = _listening(site)
    second = site.start("listen")
    until(lambda: second.events("listener_waiting"), "the second to wait")
    _load(site, "first", "2026-03-01")
    _wait_for(site, ["2026-03-01"])
    assert not second.events("listening")
    first.kill()
    _load(site, "second", "2026-03-02")
    _wait_for(site, ["2026-03-01", "2026-03-02"])
    assert second.events("listening")
    second.signal(signal.SIGTERM)
    assert second.ended(10).returncode == 0


def test_a_check_reports_whether_a_listener_works(site: Site) -> None:
    """`listen --check` is exit 0 while a listener works, else exit 4 with the command that starts one."""
    missing = site.run("listen", "--check")
    assert missing.returncode == 4
    assert "no listener works on" in missing.stderr
    assert "hint: etl listen" in missing.stderr
    running = _listening(site)
    found = site.run("listen", "--check")
    assert (found.returncode, found.stderr) == (0, "")
    assert found.stdout.startswith("a listener runs on ")
    running.kill()
    alive = "select count(*) from pg_stat_activity where application_name = 'etl:listen'"
    until(lambda: site.value(alive) == 0, "the end of its connection")
    assert site.run("listen", "--check").returncode == 4


def test_a_lock_alone_is_no_listener(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """A check is exit 4 where an idle session, or a stopped listener, holds the lock: it names the session."""
    monkeypatch.setattr(listener, "CHECK_SECONDS", 1.0)
    with site.connect() as leaked:
        leaked.execute("select pg_advisory_lock(hashtextextended('etl:listen', 0))")
        found = site.run("listen", "--check")
        assert found.returncode == 4
        assert f"process {leaked.info.backend_pid} (test) holds its lock" in found.stderr
        standby = site.start("listen")
        until(lambda: standby.events("listener_waiting"), "the standby")
        assert standby.events("listener_waiting")[0]["pid"] == leaked.info.backend_pid
        standby.kill()
    running = _listening(site)
    assert site.run("listen", "--check").returncode == 0
    running.signal(signal.SIGSTOP)
    assert site.run("listen", "--check").returncode == 4
    running.signal(signal.SIGCONT)
    assert site.run("listen", "--check").returncode == 0


def test_a_check_during_a_long_refresh(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """A listener that refreshes an aggregate works, although it answers only afterwards."""
    monkeypatch.setattr(listener, "CHECK_SECONDS", 1.0)
    running = _listening(site)
    until(lambda: _is_idle(site), "the end of the first round")
    with site.connect() as reader, reader.transaction():
        reader.execute("lock table analytics.vehicle_days in access exclusive mode")
        _load(site, "first", "2026-03-01")
        site.backend("application_name = 'etl:precalculate' and wait_event_type = 'Lock'")
        assert site.run("listen", "--check").returncode == 0
    _wait_for(site, ["2026-03-01"])
    assert running.is_running()


def test_a_standby_ends_with_zero(site: Site) -> None:
    """SIGTERM ends a listener that has never worked with 0, too."""
    _listening(site)
    second = site.start("listen")
    until(lambda: second.events("listener_waiting"), "the second to wait")
    second.signal(signal.SIGTERM)
    assert second.ended(10).returncode == 0


@pytest.mark.slow
def test_a_server_restart_is_survived(tmp_path: Path) -> None:
    """The listener connects again, and refreshes what was loaded before it was back."""
    server = Server(tmp_path / "own" / "postgres")
    server.start()
    try:
        with Databases(server).site(tmp_path) as site:
            running = _listening(site)
            _load(site, "first", "2026-03-01")
            _wait_for(site, ["2026-03-01"])
            days = ["2026-03-01"]
            for name, day in (("second", "2026-03-02"), ("third", "2026-03-03")):
                days.append(day)
                before = len(running.events("listening"))
                server.stop()
                until(lambda: running.events("connection_lost"), "the loss of the connection")
                server.start()
                _load(site, name, day)
                _wait_for(site, days)
                assert len(running.events("listening")) > before
            running.signal(signal.SIGTERM)
            assert running.ended(10).returncode == 0
    finally:
        server.stop()


def test_a_backend_that_is_ended_is_replaced(site: Site) -> None:
    """A listener continues over new connections after one of its connections is cut."""
    running = _listening(site)
    for number, name in enumerate(("etl:listen", "etl:precalculate"), 1):
        until(lambda: _is_idle(site), "the end of the refresh")
        site.ask("select pg_terminate_backend(pid) from pg_stat_activity where application_name = %s", [name])
        _load(site, f"after {number}", f"2026-03-0{number}")
        _wait_for(site, [f"2026-03-0{done}" for done in range(1, number + 1)])
    assert len(running.events("listening")) == 3


def test_one_aggregate_that_fails_does_not_stop_the_others(site: Site) -> None:
    """The error of an aggregate is logged without values, the others are refreshed, and it is tried again."""
    site.ask("alter table analytics.daily_shipments add constraint no_one check (carrier <> 'secret')")
    site.ask(
        "insert into logistics.shipments (shipment_id, created_at, carrier, etl_run, etl_batch, etl_place) "
        "values ('S1', '2026-03-01', 'secret', 1, 0, 1)"
    )
    site.ask("drop table analytics.carrier_performance")
    running = _listening(site)
    until(lambda: site.value("select count(*) from analytics.lane_performance") == 1, "another aggregate")
    failed = running.events("refresh_failed")
    assert {each["aggregate"]: each["reason"].partition("computed: ")[2].partition(",")[0] for each in failed} == {
        "carrier_performance": 'relation "analytics.carrier_performance" does not exist',
        "daily_shipments": "CheckViolation of no_one",
    }
    assert "secret" not in running.stderr()
    site.ask("alter table analytics.daily_shipments drop constraint no_one")
    _load(site, "next", "2026-03-01")
    until(lambda: site.value("select count(*) from analytics.daily_shipments") == 1, "the aggregate that failed")


def test_a_server_that_refuses_the_work_is_asked_less_often(site: Site) -> None:
    """A server that takes the connection and refuses the work is waited for twice as long each time."""
    site.ask("create role nightly login; grant etl_loader to nightly")
    site.ask("revoke execute on function pg_try_advisory_lock(bigint) from public")
    try:
        listener = site.start("listen", conninfo=make_conninfo(site.conninfo, user="nightly"))
        until(lambda: len(listener.events("connection_lost")) >= 3, "three tries")
        assert [event["seconds"] for event in listener.events("connection_lost")[:3]] == [0.5, 1.0, 2.0]
        listener.kill()
    finally:
        site.ask("grant execute on function pg_try_advisory_lock(bigint) to public")
        site.ask("drop owned by nightly; drop role nightly")


def test_a_change_by_hand_is_found_by_polling(site: Site) -> None:
    """A change by hand sends no notification: the listener polls, every minute by default."""
    assert listener.POLL_SECONDS == 60
    rounds = 0

    def change(_connection: psycopg.Connection) -> None:
        nonlocal rounds
        rounds += 1
        if rounds == 1:
            site.ask(
                "insert into logistics.vehicle_logs (log_id, trip_date, etl_run, etl_batch, etl_place) "
                "values ('L1', '2026-03-01', 1, 0, 1)"
            )
        if rounds == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        listener.listen(
            Database(conninfo=site.conninfo), choose(["vehicle_days"]), poll_seconds=0.01, after_round=change
        )
    assert _days(site) == ["2026-03-01"]


def test_an_aggregate_of_the_ledger_is_not_refreshed_in_each_round(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """A round refreshes what is pending; what reads the ledger waits until its time has come."""
    assert listener.LEDGER_SECONDS == 10
    monkeypatch.setattr(listener, "LEDGER_SECONDS", 1000.0)
    monkeypatch.setattr(listener, "SETTLE_SECONDS", 0.0)

    def pending() -> list[str]:
        return [name for (name,) in site.ask("select distinct aggregate from etl.pending order by 1")]

    database = Database(conninfo=site.conninfo)
    with connect(database) as receiver, connect(database) as worker:
        rounds = listener._rounds(receiver, worker, choose([]), 0.01)
        next(rounds)
        _load(site, "first", "2026-03-01")
        next(rounds)
        assert (_days(site), pending()) == (["2026-03-01"], ["data_quality"])
        monkeypatch.setattr(listener, "LEDGER_SECONDS", 0.0)
        next(rounds)
        assert pending() == []
