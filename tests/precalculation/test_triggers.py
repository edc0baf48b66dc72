"""The triggers of the facts: their presence, their effect, and what happens without them."""

import re
import threading
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import sql

from etl import datasets
from etl.database.connecting import Database, connect
from etl.database.tables import create_tables
from etl.errors import DefinitionError, UsageError
from etl.precalculation.catalogue import Aggregate, choose, read_all
from etl.precalculation.installation import install, unwatched
from etl.precalculation.refresh import refresh
from etl.provisioning import migrate
from tests.support.commands import RunEtl
from tests.support.databases import database_at
from tests.support.facts import another, wait_until_blocked
from tests.support.faults import Connection

OWN = """\
-- One row per day and warehouse.
-- table: analytics.own_days
-- bucket: day
-- fact logistics.shipments: {noted}
-- newest: logistics.shipments.created_at
-- key: day, warehouse
-- column day: day (UTC) of the promise
-- column warehouse: warehouse; (none) where the shipment names none
-- column count_shipments: shipments
select
    (promised_at at time zone 'UTC')::date as day,
    coalesce(origin_warehouse, '(none)') as warehouse,
    count(*) as count_shipments
from logistics.shipments
where promised_at >= :from_utc and promised_at < :until_utc and shipment_id not like '%{{s}}%'
group by 1, 2
"""
PROMISED = "(promised_at at time zone 'UTC')::date"


def _own(config_dir: Path, noted: str = PROMISED) -> Aggregate:
    path = config_dir / "aggregates" / "own_days.sql"
    path.parent.mkdir(exist_ok=True)
    path.write_text(OWN.format(noted=noted))
    (aggregate,) = choose(["own_days"], config_dir)
    return aggregate


def _promise(connection: Connection, shipment_id: str, day: str) -> None:
    connection.execute(
        "insert into logistics.shipments (shipment_id, created_at, promised_at, etl_run, etl_batch, etl_place) "
        "values (%s, '2026-01-01', %s, 1, 0, 1)",
        [shipment_id, day],
    )


def _triggers(connection: Connection) -> list[tuple[Any, ...]]:
    return connection.execute(
        "select tgrelid::regclass::text, tgname, pg_trigger.oid, tgenabled, prosrc from pg_trigger "
        "join pg_proc on pg_proc.oid = tgfoid where pronamespace = 'etl'::regnamespace order by 1, 2"
    ).fetchall()


def test_each_fact_has_four_triggers_and_no_other_table_any(connection: Connection) -> None:
    """Insert, update, delete and truncate are noted for the facts that an aggregate reads."""
    facts = {fact.table for aggregate in read_all() for fact in aggregate.facts}
    names = ["etl_note_delete", "etl_note_insert", "etl_note_truncate", "etl_note_update"]
    found = [(table, name) for table, name, *_ in _triggers(connection) if name in names]
    assert found == [(table, name) for table in sorted(facts) for name in names]


def test_migrating_again_changes_no_trigger(connection: Connection, tmp_path: Path) -> None:
    """Functions and triggers remain the same, and no aggregate becomes due."""
    for aggregate in read_all():
        refresh(connection, aggregate, run=None)
    before = _triggers(connection)
    migrate(Database(conninfo=connection.info.dsn), tmp_path)
    assert _triggers(connection) == before
    assert connection.execute("select count(*) from etl.pending").fetchone() == (0,)


def test_an_aggregate_of_the_user_is_installed_and_refreshed(
    connection: Connection, run_etl: RunEtl, tmp_path: Path
) -> None:
    """A file in `aggregates/` of the configuration folder is enough, percent signs and braces included."""
    config = tmp_path / "config"
    config.mkdir()
    _own(config)
    assert run_etl("db", "migrate").returncode == 0
    _promise(connection, "S1", "2026-03-01T23:00Z")
    done = run_etl("precalculate", "own_days")
    assert done.returncode == 0, done.stderr
    rows = "select day::text, warehouse, count_shipments from analytics.own_days order by day"
    assert connection.execute(rows).fetchall() == [("2026-03-01", "(none)", 1)]
    (config / "s.json").write_text('[{"shipment_id": "S2", "created_at": "2026-01-01", "promised_at": "2026-03-02"}]')
    connection.execute("update logistics.shipments set promised_at = '2026-03-05'")
    assert run_etl("load", "shipments", config / "s.json").returncode == 1  # no zone: rejected
    assert connection.execute(rows).fetchall() == [("2026-03-05", "(none)", 1)]
    assert "own_days" in run_etl("precalculate", "--list").stdout
    # An installation without the aggregate neither refreshes it nor removes its notes.
    _promise(connection, "S3", "2026-03-09")
    assert run_etl("precalculate", cwd=tmp_path / "config").returncode == 0
    assert run_etl("precalculate", "own_days").returncode == 0
    assert connection.execute(rows).fetchall() == [("2026-03-05", "(none)", 1), ("2026-03-09", "(none)", 1)]


def test_an_own_aggregate_replaces_the_shipped_one_of_its_name(tmp_path: Path) -> None:
    """If the user has a file of a shipped name, it is used."""
    _own(tmp_path).path.startswith(str(tmp_path))
    text = (tmp_path / "aggregates" / "own_days.sql").read_text().replace("own_days", "daily_shipments")
    (tmp_path / "aggregates" / "daily_shipments.sql").write_text(text)
    found = {aggregate.name: aggregate for aggregate in read_all(tmp_path)}
    assert found["daily_shipments"].grain == "One row per day and warehouse."
    assert len(found) == len(read_all()) + 1


@pytest.mark.parametrize(
    ("noted", "message"),
    [
        ("created_at::date", "IMMUTABLE"),
        ("created_at", "expected a date"),
        ("no_such_column", "no_such_column"),
        ("(created_at at time zone 'UTC'", "syntax"),
    ],
)
def test_a_day_that_cannot_be_noted_is_refused(
    connection: Connection, tmp_path: Path, noted: str, message: str
) -> None:
    """An expression that depends on the session, is no date or fails ends the installation, with the file."""
    before = _triggers(connection)
    with pytest.raises(DefinitionError, match=rf"{message}.*own_days\.sql"):
        install(connection, [_own(tmp_path, noted)], {})
    assert _triggers(connection) == before
    assert connection.execute("select to_regclass('analytics.own_days')").fetchone() == (None,)


def test_a_new_aggregate_includes_loads_that_began_before_it(connection: Connection, tmp_path: Path) -> None:
    """A load that began before the installation of the aggregate is in its first or its second refresh."""
    aggregate = _own(tmp_path, f"{PROMISED} + 0")  # No other aggregate notes it, so the triggers are made anew.
    with another(connection) as loader, another(connection) as installer:
        with loader.transaction():
            _promise(loader, "S1", "2026-03-01")
            thread = threading.Thread(target=install, args=(installer, [aggregate], {}))
            thread.start()
            wait_until_blocked(connection, installer)
            assert thread.is_alive()
        thread.join()
    refresh(connection, aggregate, run=None)
    assert connection.execute("select sum(count_shipments) from analytics.own_days").fetchone() == (1,)


def test_an_aggregate_that_nobody_refreshed_is_all_pending(connection: Connection, tmp_path: Path) -> None:
    """An aggregate without a refresh, or removed and installed again, does not look fresh."""
    for shipped in read_all():
        refresh(connection, shipped, run=None)
    aggregate = _own(tmp_path)
    pending = "select pending_buckets from analytics.freshness where aggregate = 'own_days'"
    for _ in range(2):
        install(connection, [aggregate], {})
        assert connection.execute(pending).fetchone() == (1,)
    refresh(connection, aggregate, run=None)
    assert connection.execute(pending).fetchone() == (0,)
    connection.execute("delete from etl.aggregates where aggregate = 'own_days'")
    _promise(connection, "S1", "2026-03-01")
    for shipped in read_all():
        refresh(connection, shipped, run=None)
    install(connection, [aggregate], {})
    assert connection.execute(pending).fetchone() == (1,)
    assert refresh(connection, aggregate, run=None).rows == 1


UNFIT = {
    r"several rows have the same key \(day, warehouse\)": ("group by 1, 2", "group by 1, 2, shipment_id"),
    "warehouse of the key is null in a row": ("coalesce(origin_warehouse, '(none)')", "origin_warehouse"),
    "DivisionByZero, SQLSTATE 22012": ("count(*)", "count(*) / (count(*) - 2)"),
}


@pytest.mark.parametrize("message", UNFIT)
def test_an_aggregate_that_does_not_fit_is_named_and_stops_no_other(
    connection: Connection, run_etl: RunEtl, tmp_path: Path, message: str
) -> None:
    """The error has its name, file and fault; the others are refreshed; a load does not report the database."""
    (tmp_path / "config").mkdir()
    _own(tmp_path / "config")
    path = tmp_path / "config" / "aggregates" / "own_days.sql"
    path.write_text(path.read_text().replace(*UNFIT[message]))
    install(connection, [*read_all(), *choose(["own_days"], tmp_path / "config")], {})
    _promise(connection, "S1", "2026-03-01")
    _promise(connection, "S2", "2026-03-01")
    done = run_etl("precalculate")
    assert (done.returncode, "vehicle_days" in done.stdout) == (2, True)
    assert re.search(rf"own_days cannot be computed: {message}, in \S+own_days\.sql", done.stderr), done.stderr
    (tmp_path / "s.json").write_text('[{"shipment_id": "S3", "created_at": "2026-01-01T00:00Z"}]')
    done = run_etl("load", "shipments", tmp_path / "s.json")
    assert (done.returncode, "own_days cannot be computed" in done.stderr) == (4, True)
    pending = "select aggregate from analytics.freshness where pending_buckets > 0"
    assert connection.execute(pending).fetchall() == [("own_days",)]


def test_an_aggregate_with_an_invalid_constant_is_named(connection: Connection, tmp_path: Path) -> None:
    """A constant of another type is a fault of the file, not of the database."""
    (tmp_path / "config").mkdir()
    _own(tmp_path / "config")
    path = tmp_path / "config" / "aggregates" / "own_days.sql"
    path.write_text(path.read_text().replace("count(*)", "'many'::int"))
    with pytest.raises(DefinitionError, match=r"own_days cannot be computed: InvalidTextRep.* 22P02, in .*own_days"):
        install(connection, choose(["own_days"], tmp_path / "config"), {})


RATES = """\
-- One row per day.
-- table: analytics.rate_days
-- bucket: day
-- fact logistics.rates: day
-- fact logistics.shipments: {noted} -> logistics.rates.pieces
-- newest: logistics.rates.day
-- key: day
-- column day: day of the rate
-- column count_shipments: shipments with so many pieces
select rates.day, count(shipment_id) as count_shipments
from logistics.rates
left join logistics.shipments on shipments.pieces = rates.pieces
where rates.day >= :from and rates.day < :until
group by 1
"""


def _rates(connection: Connection, config_dir: Path, noted: str = "pieces") -> Aggregate:
    connection.execute("create table logistics.rates (day date, pieces integer)")
    (config_dir / "aggregates").mkdir()
    (config_dir / "aggregates" / "rate_days.sql").write_text(RATES.format(noted=noted))
    (aggregate,) = choose(["rate_days"], config_dir)
    return aggregate


def test_a_table_that_is_gone_stops_its_own_aggregate_alone(connection: Connection, tmp_path: Path) -> None:
    """Other aggregates are still refreshed, and no change is lost if the table is created again."""
    aggregate = _rates(connection, tmp_path)
    install(connection, [aggregate], {})
    refresh(connection, aggregate, run=None)
    connection.execute("alter table logistics.rates rename to old_rates")
    _promise(connection, "S1", "2026-03-01")
    connection.execute("update logistics.shipments set pieces = 3")
    assert refresh(connection, *choose(["daily_shipments"]), run=None).rows == 1
    with pytest.raises(UsageError, match=r"rate_days cannot be computed: .*logistics\.rates"):
        refresh(connection, aggregate, run=None)
    connection.execute("insert into logistics.old_rates values ('2026-01-01', 3)")
    connection.execute("alter table logistics.old_rates rename to rates")
    refresh(connection, aggregate, run=None)
    assert connection.execute("select count_shipments from analytics.rate_days").fetchall() == [(1,)]


def test_a_key_is_noted_in_one_style(connection: Connection, tmp_path: Path) -> None:
    """A session with its own style of dates hides no change, and stops no refresh."""
    connection.execute("alter table logistics.shipments add ordered_on date")
    _rates(connection, tmp_path, "ordered_on")
    path = tmp_path / "aggregates" / "rate_days.sql"
    path.write_text(path.read_text().replace("rates.pieces", "rates.day").replace("shipments.pieces", "ordered_on"))
    (aggregate,) = choose(["rate_days"], tmp_path)
    install(connection, [aggregate], {})
    connection.execute("insert into logistics.rates values ('2026-03-25', 3)")
    refresh(connection, aggregate, run=None)
    with another(connection) as german:
        german.execute("set datestyle to 'German'")
        _promise(german, "S1", "2026-03-01")
        german.execute("update logistics.shipments set ordered_on = '25.03.2026'")
    assert refresh(connection, aggregate, run=None).rows == 1


def test_a_key_of_another_type_is_refused(connection: Connection, tmp_path: Path) -> None:
    """A text that is no number would be compared with a column of numbers."""
    with pytest.raises(DefinitionError, match=r"expected carrier .* got text and int4, in .*rate_days\.sql"):
        install(connection, [_rates(connection, tmp_path, "carrier")], {})


def test_a_wrong_head_stops_no_load(connection: Connection, run_etl: RunEtl, tmp_path: Path) -> None:
    """The wrong file of an aggregate is reported by a load that refreshes aggregates, and hinders none."""
    (tmp_path / "config" / "aggregates").mkdir(parents=True)
    (tmp_path / "config" / "aggregates" / "own_days.sql").write_text("select 1")
    (tmp_path / "s.json").write_text('[{"shipment_id": "S3", "created_at": "2026-01-01T00:00Z"}]')
    done = run_etl("load", "shipments", tmp_path / "s.json")
    assert (done.returncode, "own_days.sql at line 1" in done.stderr) == (0, True)
    assert connection.execute("select count(*) from logistics.shipments").fetchone() == (1,)
    assert connection.execute("select sum(count_shipments) from analytics.daily_shipments").fetchone() == (1,)
    done = run_etl("load", "shipments", tmp_path / "s.json", "--no-precalculate", "--force")
    assert (done.returncode, "own_days" in done.stderr) == (0, False)


def test_a_fact_that_was_made_anew_is_watched_again(connection: Connection, run_etl: RunEtl) -> None:
    """`dataset create` makes the triggers with the table, and its aggregates are recomputed as a whole."""
    _promise(connection, "S1", "2026-03-01")
    for aggregate in read_all():
        refresh(connection, aggregate, run=None)
    connection.execute("drop table logistics.shipments")
    assert run_etl("dataset", "create", "shipments").returncode == 0
    assert run_etl("db", "check").returncode == 0
    for shipment in ("S2", "S3"):
        _promise(connection, shipment, "2026-03-02")
    for name in ("daily_shipments", "open_shipments"):
        refresh(connection, choose([name])[0], run=None)
        query = sql.SQL("select sum(count_shipments) from analytics.{}").format(sql.Identifier(name))
        assert connection.execute(query).fetchone() == (2,)


def test_a_disabled_trigger_is_reported_and_repaired(connection: Connection, run_etl: RunEtl) -> None:
    """The check names the fact; a migration enables the trigger and lets everything be recomputed."""
    (aggregate,) = choose(["daily_shipments"])
    refresh(connection, aggregate, run=None)
    connection.execute("alter table logistics.shipments disable trigger etl_note_insert")
    _promise(connection, "S1", "2026-03-01")
    done = run_etl("db", "check")
    assert (done.returncode, "triggers of logistics.shipments" in done.stdout) == (2, True)
    assert run_etl("db", "migrate").returncode == 0
    assert unwatched(connection) == []
    assert refresh(connection, aggregate, run=None).rows == 1


def test_a_user_with_a_right_on_one_fact_needs_no_other_right(connection: Connection) -> None:
    """Changes of a user with the right to update one table are noted, and the user cannot write the notes."""
    _promise(connection, "S1", "2026-03-01")
    (aggregate,) = choose(["daily_shipments"])
    refresh(connection, aggregate, run=None)
    connection.execute(
        "create role test_clerk; grant usage on schema logistics to test_clerk; "
        "grant select, update on logistics.shipments to test_clerk; set role test_clerk"
    )
    try:
        connection.execute("update logistics.shipments set weight_kg = 7")
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            connection.execute("select etl.note_logistics_shipments()")
    finally:
        connection.execute("reset role; drop owned by test_clerk; drop role test_clerk")
    assert refresh(connection, aggregate, run=None).rows == 1


COLUMNS = """
    select attname, format_type(atttypid, atttypmod) from pg_attribute
    where attrelid = %s::regclass and attnum > 0 order by attnum
"""


def test_a_database_of_an_earlier_version_is_migrated(connection: Connection, tmp_path: Path) -> None:
    """Aggregates refreshed before keep their freshness, and the next refresh recomputes them as a whole."""
    (aggregate,) = choose(["daily_shipments"])
    with database_at(connection.info.dsn, "0002") as earlier:
        with connect(earlier) as before:
            for name in datasets.names(tmp_path):
                create_tables(before, datasets.find(name, tmp_path))
            columns = ", ".join(f"{name} {kind}" for name, kind in connection.execute(COLUMNS, [aggregate.table]))
            before.execute(f"create table {aggregate.table} ({columns}, primary key ({', '.join(aggregate.key)}))")
            _promise(before, "S1", "2026-03-01")
            before.execute(
                "insert into etl.refreshes (aggregate, definition_hash, refreshed_at, mode, rows, seconds, snapshot) "
                "values ('daily_shipments', 'x', '2026-01-01', 'full', 0, 1, pg_current_snapshot())"
            )
        migrate(earlier, tmp_path)
        with connect(earlier) as after:
            query = "select refreshed_at::date::text, pending_buckets from analytics.freshness where rows is not null"
            assert after.execute(query).fetchall() == [("2026-01-01", 1)]
            assert refresh(after, aggregate, run=None).rows == 1
            assert after.execute(query).fetchall()[0][1] == 0
