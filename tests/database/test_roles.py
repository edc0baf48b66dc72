"""The group roles: each login can do its work with its role alone, and nothing else."""

from collections.abc import Iterator
from pathlib import Path
from typing import LiteralString

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from etl.database.tables import create_tables, require_tables
from etl.datasets import read
from etl.errors import UsageError
from etl.precalculation.catalogue import read_all
from etl.precalculation.refresh import refresh
from etl.precalculation.verify import verify
from tests.support.faults import Connection


@pytest.fixture
def logins(postgresql: Connection) -> Iterator[dict[str, Connection]]:
    """Connect two users to a fresh, migrated database, each a member of one group role alone."""
    names = ("loader", "analyst")
    info = postgresql.info
    with psycopg.connect(info.dsn, password=info.password, autocommit=True) as owner:
        for name in names:
            owner.execute(f"create role role_{name} login in role etl_{name}")
        try:
            found = {
                name: psycopg.connect(make_conninfo(info.dsn, user=f"role_{name}"), autocommit=True) for name in names
            }
            try:
                yield found
            finally:
                for connection in found.values():
                    connection.close()
        finally:
            for name in names:
                owner.execute(f"drop owned by role_{name}; drop role role_{name}")


def test_a_loader_loads_refreshes_and_verifies(logins: dict[str, Connection]) -> None:
    """With the role alone facts and ledger are written, and aggregates are refreshed in part and whole."""
    loader = logins["loader"]
    for day in ("2026-03-01", "2026-03-02"):
        loader.execute(
            "insert into logistics.vehicle_logs (log_id, trip_date, etl_run, etl_batch, etl_place) "
            "values (%s, %s, 1, 0, 1)",
            [day, day],
        )
        loader.execute(
            "insert into logistics.shipments "
            "(shipment_id, log_id, created_at, picked_up_at, promised_at, etl_run, etl_batch, etl_place) "
            "values (%s, %s, %s, %s, '2026-02-28', 1, 0, 1)",
            [day] * 4,
        )
        for code in ("PICKED_UP", "HUB_ARRIVED", "EXCEPTION", "DELIVERED"):
            loader.execute(
                "insert into logistics.tracking_events "
                "(event_id, shipment_id, event_code, occurred_at, etl_run, etl_batch, etl_place) "
                "values (%s, %s, %s, %s, 1, 0, 1)",
                [day + code, day, code, day],
            )
        loader.execute(
            "insert into etl.runs "
            "(run, dataset, source, definition_hash, mode, is_atomic, is_forced) "
            "values (%(day)s, %(day)s, '', '', 'merge', false, false)",
            {"day": day},
        )
        loader.execute(
            'insert into etl.separate_batches (run, "offset", bytes, first_record, count_records, hash, attempt) '
            "values (%s, 0, 1, 1, 1, '', 1)",
            [day],
        )
        for aggregate in sorted(read_all(), key=lambda each: bool(each.parts)):  # parts first
            # No shipment is without its trip.
            assert refresh(loader, aggregate, run=None).rows or aggregate.name == "shipment_orphans"
    for aggregate in read_all():
        refresh(loader, aggregate, run=None, full=True)
        assert verify(loader, aggregate).differences == 0
    assert loader.execute("select sum(pending_buckets) from analytics.freshness").fetchone() == (0,)


def test_the_schema_of_an_own_dataset_is_reached(
    logins: dict[str, Connection], postgresql: Connection, tmp_path: Path
) -> None:
    """The roles load and read tables of another schema; a user without a role gets the remedy."""
    path = tmp_path / "orders.toml"
    path.write_text('name = "orders"\n[[table]]\nname = "shop.orders"\n[table.columns]\norder_id = "text"\n')
    orders = read(path)
    create_tables(postgresql, orders)
    postgresql.commit()
    require_tables(logins["loader"], orders)
    assert logins["analyst"].execute("select count(*) from shop.orders").fetchone() == (0,)
    postgresql.execute("revoke usage on schema shop from etl_loader")
    postgresql.commit()
    with pytest.raises(UsageError, match="role_loader may not look into the schema shop"):
        require_tables(logins["loader"], orders)


DENIED_TO_LOADERS: tuple[LiteralString, ...] = (
    # The watched expressions are SQL, which others run.
    "insert into etl.watches (aggregate, fact, noted) values ('vehicle_days', 'logistics.shipments', 'pg_sleep(1)')",
    "update etl.watches set via_day = 'pg_sleep(1)'",
    "update etl.aggregates set bucket = 'all'",
    "insert into etl.aggregates values ('mine', 'One row.', 'all', '{}')",
    "delete from etl.aggregates",
    # Only the triggers note changes.
    "insert into etl.touched (fact) values ('logistics.shipments')",
    "update etl.touched set fact = 'logistics.vehicles'",
    "update etl.pending set bucket = null",
    "truncate etl.pending",
    # Only the owner of the ledger deletes from it and migrates it.
    "delete from etl.runs",
    "delete from etl.separate_batches",
    "delete from etl.failures",
    "delete from etl.faults",
    "delete from etl.refreshes",
    "update etl.schema_version set version_num = '9999'",
    "truncate logistics.shipments",
    "alter table logistics.shipments disable trigger user",
    "drop trigger etl_note_insert on logistics.shipments",
    "create table logistics.mine (a integer)",
    "create table analytics.mine (a integer)",
    "create table etl.mine (a integer)",
    "create function etl.mine() returns integer language sql as 'select 1'",
    "truncate analytics.daily_shipments",
    "drop table analytics.daily_shipments",
    "alter table analytics.daily_shipments drop column day",
    "select etl.note_logistics_shipments()",
    "set session_replication_role = replica",
    "create role mine",
)


@pytest.mark.parametrize("statement", DENIED_TO_LOADERS)
def test_a_loader_has_no_other_rights(logins: dict[str, Connection], statement: LiteralString) -> None:
    """A loader changes no table's shape, no trigger, no right, and nothing that others would run."""
    with pytest.raises((psycopg.errors.InsufficientPrivilege, psycopg.errors.FeatureNotSupported)):
        logins["loader"].execute(statement)


def test_an_analyst_reads_and_nothing_else(logins: dict[str, Connection]) -> None:
    """Facts, aggregates and freshness are readable, the ledger and the staged rows are not, nothing is writable."""
    analyst = logins["analyst"]
    readable = analyst.execute(
        "select nspname, relname, has_table_privilege(pg_class.oid, 'select'), "
        "has_table_privilege(pg_class.oid, 'insert, update, delete, truncate, trigger') "
        "from pg_class join pg_namespace on pg_namespace.oid = relnamespace "
        "where relkind in ('r', 'v') and nspname in ('logistics', 'analytics', 'etl', 'etl_staging')"
    ).fetchall()
    assert len(readable) > 15
    for schema, table, may_read, may_write in readable:
        assert (schema, table, may_read, may_write) == (schema, table, schema in {"logistics", "analytics"}, False)
    analyst.execute("table analytics.freshness")
    for schema in ("logistics", "analytics", "etl", "etl_staging", "public"):
        row = analyst.execute("select has_schema_privilege(%s, 'create')", [schema]).fetchone()
        assert row == (False,)
    for schema in ("etl", "etl_staging"):
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            analyst.execute(f"table {schema}.runs")
