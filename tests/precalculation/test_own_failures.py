"""The failure of one aggregate, or of one file, is its own: it is named, and hinders nothing else."""

import json

import pytest
from psycopg import sql

from tests.support.site import Site

BROKEN = """-- One row per carrier.
-- table: analytics.a_broken
-- bucket: all
-- fact logistics.shipments
-- newest: logistics.shipments.created_at
-- key: carrier
-- column carrier: carrier
-- column count_shipments: shipments
select coalesce(carrier, '(none)') as carrier, count(*) as count_shipments
from logistics.shipments
where public.boom(weight_kg)
group by 1
"""
SHIPMENT = {"shipment_id": "S1", "created_at": "2026-03-04T10:00:00Z", "carrier": "DHL", "weight_kg": 5}


def _aggregate(site: Site, text: str, name: str = "a_broken") -> None:
    folder = site.folder / "config" / "aggregates"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.sql").write_text(text)


def _boom(site: Site, body: str) -> None:
    _function(site, "boom", body)


def _function(site: Site, name: str, body: str) -> None:
    site.ask(
        sql.SQL("create or replace function public.{}(numeric) returns boolean language plpgsql as {}").format(
            sql.Identifier(name), sql.Literal(f"begin {body} return true; end")
        )
    )


@pytest.fixture
def site(site: Site) -> Site:
    """Give a site with a shipment to load, and an aggregate, the first by name, that can be made to fail."""
    (site.folder / "feed.json").write_text(json.dumps([SHIPMENT]))
    _boom(site, "")
    _aggregate(site, BROKEN)
    assert site.run("db", "migrate").returncode == 0
    return site


CODES = {"LG001": 2, "55000": 2, "42501": 2, "53200": 4, "55P03": 4, "57P01": 4}


def test_an_error_of_one_aggregate_is_its_own(site: Site) -> None:
    """Whatever the server refuses, a load and `precalculate` name the aggregate and refresh all others."""
    _boom(site, "raise 'secret' using errcode = 'P0002';")
    done = site.run("load", "shipments", "feed.json")
    assert done.returncode == 4
    assert "error: a_broken cannot be refreshed: no data found, SQLSTATE P0002" in done.stderr
    assert site.value("select sum(count_shipments) from analytics.daily_shipments") == 1
    for number, (code, exit_code) in enumerate(CODES.items(), 2):
        _boom(site, f"raise 'secret' using errcode = '{code}';")
        site.ask(
            "insert into logistics.shipments"
            " select (jsonb_populate_record(old, %s)).* from logistics.shipments as old limit 1",
            [json.dumps({"shipment_id": f"S{number}"})],
        )
        done = site.run("precalculate")
        assert (code, done.returncode) == (code, exit_code)
        assert "a_broken" in done.errors[0]
        assert "secret" not in done.stderr
        assert site.value("select sum(count_shipments) from analytics.daily_shipments") == number


@pytest.mark.slow
def test_a_timeout_of_one_aggregate_is_its_own(site: Site) -> None:
    """A time limit of the database cancels no aggregate; one that is cancelled is named, and the others are refreshed.

    It is tried once only: the next try would take as long.
    """
    assert site.run("load", "shipments", "feed.json").returncode == 0
    _boom(site, "perform pg_sleep(1);")
    site.ask("update logistics.shipments set pieces = 9")
    name = sql.Identifier(site.connection.info.dbname)
    site.ask(sql.SQL("alter database {} set statement_timeout = '700ms'").format(name))
    assert site.run("precalculate").returncode == 0
    _boom(site, "perform pg_sleep(30);")
    for command in (["precalculate"], ["load", "shipments", "feed.json", "--force"]):
        site.ask("update logistics.shipments set pieces = pieces + 1")
        running = site.start(*command)
        site.ask("select pg_cancel_backend(%s)", [site.backend("wait_event = 'PgSleep'")])
        done = running.ended()
        assert done.returncode == 4
        assert "a_broken cannot be refreshed: query canceled, SQLSTATE 57014" in done.stderr
        assert not done.events("refresh_retried")
        pending = "select pending_buckets from analytics.freshness where aggregate = 'daily_shipments'"
        assert site.value(pending) == 0


def test_a_load_tries_only_what_another_try_may_refresh(site: Site) -> None:
    """Beside an aggregate that fails for good, one that met a lock is refreshed by the next try."""
    site.ask("create sequence broken; create sequence busy")
    _aggregate(site, BROKEN.replace("a_broken", "z_busy").replace("boom(", "busy("), "z_busy")
    _function(site, "busy", "if nextval('busy') < 2 then raise 'held' using errcode = '55P03'; end if;")
    assert site.run("db", "migrate").returncode == 0
    _boom(site, "perform nextval('broken'); raise 'never' using errcode = 'P0002';")
    done = site.run("load", "shipments", "feed.json", "--retry-base-seconds", "0.01")
    assert done.returncode == 4
    assert "a_broken cannot be refreshed: no data found, SQLSTATE P0002" in done.stderr
    assert [each["sqlstate"] for each in done.events("refresh_retried")] == ["55P03"]
    assert site.value("select sum(count_shipments) from analytics.z_busy") == 1
    assert site.value("select last_value from broken") == 1


def test_a_note_that_cannot_be_followed_is_one_aggregates_own(site: Site) -> None:
    """A noted key that does not fit its column any more makes one aggregate pending as a whole, and stops no other."""
    assert site.run("load", "shipments", "feed.json").returncode == 0
    site.ask(
        "insert into etl.aggregates values ('a_joined', 'One row per x.', 'day', '{}');"
        " insert into etl.watches values ('a_joined', 'logistics.shipments', 'carrier', 'logistics.vehicle_logs',"
        " 'log_id', 'integer', 'trip_date')"
    )
    site.ask("insert into etl.touched (fact, noted, keys) values ('logistics.shipments', 'carrier', '{DHL}')")
    site.ask("update logistics.shipments set pieces = 9")
    assert site.run("precalculate").returncode == 0
    assert site.value("select pending_buckets from analytics.freshness where aggregate = 'daily_shipments'") == 0
    assert site.ask("select aggregate, bucket from etl.pending") == [("a_joined", None)]
    assert site.value("select count(*) from etl.touched") == 0


def test_a_wrong_file_of_an_aggregate_hinders_nothing_else(site: Site) -> None:
    """A file with an error is reported; only what is asked of that aggregate, or of all, ends with exit code 2."""
    _aggregate(site, "-- nonsense", "a_wrong")
    for code, *command in (
        (0, "load", "shipments", "feed.json"),
        (0, "precalculate", "daily_shipments"),
        (0, "report", "daily_shipments"),
        (0, "dataset", "create", "vehicles"),
        (0, "failed", "list"),
        (0, "db", "check"),
        (2, "precalculate", "a_wrong"),
        (2, "precalculate"),
        (2, "precalculate", "--verify"),
        (2, "db", "migrate"),
    ):
        done = site.run(*map(str, command))
        assert (command, done.returncode) == (command, code)
        assert code == 0 or "a_wrong.sql at line 1" in done.stderr
    assert site.value("select sum(count_shipments) from analytics.daily_shipments") == 1
    [warning] = site.run("load", "shipments", "feed.json", "--force").events("aggregate_ignored")
    assert (warning["level"], warning["aggregate"]) == ("warning", "a_wrong")


def test_a_migration_installs_everything_else(site: Site) -> None:
    """`db migrate` installs all other datasets and aggregates, then ends with 2 and names each wrong file."""
    _aggregate(site, BROKEN.replace("a_broken", "a_missing").replace("from logistics", "from nowhere"), "a_missing")
    _aggregate(site, BROKEN.replace("a_broken", "z_right"), "z_right")
    _aggregate(site, "-- nonsense", "a_wrong")
    folder = site.folder / "config" / "datasets"
    folder.mkdir(parents=True)
    (folder / "aaa.toml").write_text('name = "aaa"\nmode = "nonsense"\n')
    (folder / "zzz.toml").write_text('name = "zzz"\n[[table]]\nname = "logistics.zzz"\n[table.columns]\na = "text"\n')
    done = site.run("db", "migrate")
    assert done.returncode == 2
    for name in ("aaa.toml", "a_wrong.sql", "a_missing.sql"):
        assert name in done.stderr
    assert "everything else is installed" in done.stderr
    assert site.column("select to_regclass(t)::text from unnest(array['logistics.zzz', 'analytics.z_right']) as t") == [
        "logistics.zzz",
        "analytics.z_right",
    ]
    assert site.run("dataset", "list").returncode == 0
    assert "warning: config/datasets/aaa.toml" in site.run("dataset", "list").stderr
    (site.folder / "z.json").write_text('[{"a": "b"}]')
    assert site.run("load", "zzz", "z.json").returncode == 0
    assert site.run("load", "aaa", "z.json").returncode == 2
    found = [json.loads(line) for line in site.run("db", "check", "--json").stdout.splitlines()]
    assert {(each["what"], each["state"]) for each in found} >= {("definition", "fail"), ("aggregate", "warn")}


@pytest.mark.slow
def test_a_new_database_is_usable_beside_a_wrong_file(site: Site) -> None:
    """The first command on a new embedded database reports a wrong definition, and works."""
    folder = site.folder / "config" / "datasets"
    folder.mkdir(parents=True)
    (folder / "aaa.toml").write_text("nonsense")
    (site.folder / "config" / "aggregates" / "a_broken.sql").unlink()
    done = site.run("load", "shipments", "feed.json", conninfo="embedded:new")
    assert done.returncode == 0
    [warning] = done.events("definitions_ignored")
    assert "aaa.toml" in warning["reason"]
