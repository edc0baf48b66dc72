"""What keeps a table from being loaded is found before a load, by `load` and by `db check`."""

import json

import pytest
from psycopg import sql
from psycopg.conninfo import make_conninfo

from etl import datasets
from etl.database.connecting import connect
from etl.database.tables import create_tables
from etl.settings import Mode
from tests.support.databases import database_at
from tests.support.site import Site
from tests.support.waiting import until

PARCELS = """
name = "parcels"
mode = "{mode}"
{key}
[[table]]
name = "logistics.parcels"
[table.columns]
id = {{ type = "integer", required = true }}
note = "text"
[[table]]
name = "logistics.parcel_steps"
each = "steps"
[table.columns]
id = {{ path = "^.id", type = "integer" }}
step = {{ path = ".", type = "integer" }}
"""
BARE = """
select c.oid::regclass::text
from pg_class c
join pg_namespace n on n.oid = c.relnamespace
where n.nspname in ('etl', 'logistics', 'etl_staging', 'analytics') and c.relkind = 'r'
    and c.relreplident <> 'f' and not exists (select from pg_index where indrelid = c.oid and indisprimary)
"""
RECORDS = [{"id": number, "note": f"n{number}", "steps": [1, number]} for number in range(1, 6)]


def _define(site: Site, mode: Mode) -> None:
    site.define(PARCELS.format(mode=mode, key="" if mode == "append" else 'key = ["id"]'))
    (site.folder / "feed.json").write_text(json.dumps(RECORDS))


def _check(site: Site, what: str, conninfo: str | None = None) -> list[dict[str, str]]:
    done = site.run("db", "check", "--json", conninfo=conninfo)
    return [found for found in map(json.loads, done.stdout.splitlines()) if found["what"] == what]


@pytest.mark.parametrize(
    "publication",
    [
        "all tables",
        *(
            pytest.param(f"tables in schema {each}", marks=pytest.mark.slow)
            for each in ("logistics", "etl", "etl_staging")
        ),
    ],
)
@pytest.mark.parametrize("mode", ["append", "merge", "replace"])
def test_a_publication_hinders_no_load(site: Site, publication: str, mode: Mode) -> None:
    """Tables without a key have a replica identity, so that loads and refreshes of published tables work."""
    _define(site, mode)
    site.ask(sql.SQL("create publication cdc for {}").format(sql.SQL(publication)))
    options = [[], ["--force"], ["--force", "--atomic", "--on-duplicate", "newest"]]
    for more in options[: 2 if mode == "append" else 3]:
        assert site.run("load", "parcels", "feed.json", *more).returncode == 0
    site.ask("update logistics.parcels set note = 'by hand'")
    site.ask("delete from logistics.parcel_steps where ctid = (select min(ctid) from logistics.parcel_steps)")
    assert site.run("precalculate").returncode == 0
    assert [each["state"] for each in _check(site, "dataset parcels")] == ["ok"]


def test_a_table_without_replica_identity_is_named(site: Site) -> None:
    """A published table that lost its identity ends a load with 2 before anything is loaded, with the statement."""
    _define(site, "merge")
    site.ask("alter table logistics.parcel_steps replica identity nothing; create publication cdc for all tables")
    done = site.run("load", "parcels", "feed.json")
    assert done.returncode == 2
    assert "logistics.parcel_steps cannot be loaded: the publication cdc publishes" in done.stderr
    assert "alter table logistics.parcel_steps replica identity full" in done.stderr
    assert site.value("select count(*) from etl.runs") == 0
    [found] = _check(site, "dataset parcels")
    assert (found["state"], found["remedy"]) == ("fail", "alter table logistics.parcel_steps replica identity full")
    # An append changes no row.
    _define(site, "append")
    assert site.run("load", "parcels", "feed.json").returncode == 0


def test_a_migration_gives_older_tables_their_identity(site: Site) -> None:
    """`db migrate` gives the tables that an older version made a replica identity: of datasets, ledger and runs."""
    _define(site, "merge")
    with database_at(site.conninfo, "0010") as earlier:
        with connect(earlier) as before:
            create_tables(before, datasets.find("parcels", site.folder / "config"))
            before.execute("alter table logistics.parcel_steps replica identity default")
            before.execute("create table etl_staging.of_a_run (id integer)")
            assert set(before.execute(BARE)) >= {
                (name,) for name in ("logistics.parcel_steps", "etl.touched", "etl_staging.of_a_run")
            }
        assert site.run("db", "migrate", conninfo=earlier.conninfo).returncode == 0
        with connect(earlier) as migrated:
            assert migrated.execute(BARE).fetchall() == []


def test_a_partition_without_replica_identity_is_named(site: Site) -> None:
    """A partition that is published with its table needs an identity of its own; `dataset create` gives it one."""
    _define(site, "merge")
    site.ask(
        "alter table logistics.parcel_steps rename to old_steps;"
        " create table logistics.parcel_steps (like logistics.old_steps) partition by range (id);"
        " create table logistics.steps_1 partition of logistics.parcel_steps for values from (0) to (1000);"
        " create publication cdc for table logistics.parcel_steps"
    )
    done = site.run("load", "parcels", "feed.json")
    assert done.returncode == 2
    assert "hint: alter table logistics.steps_1 replica identity full" in done.stderr
    assert site.run("dataset", "create", "parcels").returncode == 0
    assert site.run("load", "parcels", "feed.json").returncode == 0
    assert site.run("load", "parcels", "feed.json", "--force").returncode == 0


def test_a_filter_of_a_publication_is_named(site: Site) -> None:
    """A publication whose filter does not fit the key refuses updates (42P10): the load is 2 and names it."""
    _define(site, "merge")
    assert site.run("load", "parcels", "feed.json").returncode == 0
    site.ask("create publication cdc for table logistics.parcels where (note <> 'x')")
    done = site.run("load", "parcels", "feed.json", "--force")
    assert done.returncode == 2
    assert "logistics.parcels cannot be loaded: the publication cdc publishes it by columns" in done.stderr
    assert "SQLSTATE 42P10" in done.stderr


@pytest.mark.parametrize("mode", ["merge", "replace"])
def test_an_identity_that_is_always_made_is_named(site: Site, mode: Mode) -> None:
    """A column that a record updates and that is generated always as identity ends a load with 2 and the statement.

    The key of a record is never updated, so it may be such a column.
    """
    _define(site, mode)
    site.define(PARCELS.format(mode=mode, key='key = ["id"]').replace('note = "text"', 'note = "text"\nat = "integer"'))
    site.ask(
        "alter table logistics.parcels alter column id add generated always as identity,"
        " alter column at set not null, alter column at add generated always as identity"
    )
    (site.folder / "feed.json").write_text(json.dumps([record | {"at": 7} for record in RECORDS]))
    done = site.run("load", "parcels", "feed.json")
    assert done.returncode == 2
    statement = 'alter table logistics.parcels alter column "at" set generated by default'
    assert f"hint: {statement}\n" in done.stderr
    [found] = _check(site, "dataset parcels")
    assert (found["state"], found["remedy"]) == ("fail", statement)
    site.ask(sql.Composed([sql.SQL(statement)]))
    assert [each["state"] for each in _check(site, "dataset parcels")] == ["ok"]
    assert site.run("load", "parcels", "feed.json").returncode == 0
    assert site.run("load", "parcels", "feed.json", "--force").returncode == 0
    assert site.ask("select id, at from logistics.parcels order by 1") == [(number, 7) for number in range(1, 6)]


def test_an_append_gives_an_identity_its_values(site: Site) -> None:
    """An append loads such a column as COPY does, also with a refused record and with --atomic."""
    _define(site, "append")
    site.ask("alter table logistics.parcels alter column id add generated always as identity, add check (note <> 'n3')")
    assert site.run("load", "parcels", "feed.json").returncode == 1
    (site.folder / "more.json").write_text(json.dumps([{"id": 77, "note": "x"}]))
    assert site.run("load", "parcels", "more.json", "--atomic").returncode == 0
    assert site.column("select id from logistics.parcels order by 1") == [1, 2, 4, 5, 77]
    assert [each["state"] for each in _check(site, "dataset parcels")] == ["ok"]


@pytest.mark.parametrize("kind", ["view", "materialized view"])
def test_a_view_is_no_table(site: Site, kind: str) -> None:
    """A view that takes no rows ends a load with 2 before anything is loaded; `db check` names it."""
    _define(site, "append")
    site.ask("alter table logistics.parcels rename to base")
    site.ask(sql.SQL("create {} logistics.parcels as select * from logistics.base").format(sql.SQL(kind)))
    done = site.run("load", "parcels", "feed.json")
    assert done.returncode == 2
    assert f"logistics.parcels cannot be loaded: it is a {kind}" in done.stderr
    [found] = _check(site, "dataset parcels")
    assert (found["state"], found["found"]) == ("fail", f"logistics.parcels: it is a {kind}")


def test_a_view_with_a_trigger_is_loaded(site: Site) -> None:
    """A view that takes rows by an `instead of insert` trigger is loaded as a table."""
    _define(site, "append")
    site.ask(
        "alter table logistics.parcels rename to base; create view logistics.parcels as select * from logistics.base;"
        " create function lay() returns trigger language plpgsql as $$ begin"
        " insert into logistics.base select new.*; return new; end $$;"
        " create trigger lay instead of insert on logistics.parcels for each row execute function lay()"
    )
    assert site.run("load", "parcels", "feed.json").returncode == 0
    assert site.value("select count(*) from logistics.base") == 5


@pytest.mark.parametrize("mode", ["append", "merge", "replace"])
def test_policies_of_a_table_are_named(site: Site, mode: Mode) -> None:
    """Row-level security ends a load with 2 before it begins, also when its policies would let the rows pass."""
    _define(site, mode)
    site.ask(
        "create role nightly login; grant etl_loader to nightly;"
        " alter table logistics.parcels enable row level security;"
        " create policy all_rows on logistics.parcels using (true)"
    )
    conninfo = make_conninfo(site.conninfo, user="nightly")
    try:
        done = site.run("load", "parcels", "feed.json", conninfo=conninfo)
        assert done.returncode == 2
        assert 'row-level security hides rows of "logistics"."parcels" from the user nightly' in done.stderr
        assert "alter role nightly bypassrls" in done.stderr
        assert site.value("select count(*) from etl.runs") == 0
        assert [each["state"] for each in _check(site, "dataset parcels", conninfo)] == ["fail"]
        site.ask("alter role nightly bypassrls")
        assert [each["state"] for each in _check(site, "dataset parcels", conninfo)] == ["ok"]
        assert site.run("load", "parcels", "feed.json", conninfo=conninfo).returncode == 0
        assert site.column("select id from logistics.parcels order by 1") == [1, 2, 3, 4, 5]
    finally:
        site.ask("drop owned by nightly; drop role nightly")


@pytest.mark.parametrize("mode", ["append", "merge"])
def test_policies_that_come_during_a_load_are_named(site: Site, mode: Mode) -> None:
    """Row-level security that begins in the middle of a load ends it with 2; the same command continues later."""
    _define(site, mode)
    site.ask("create role nightly login; grant etl_loader to nightly")
    conninfo = make_conninfo(site.conninfo, user="nightly")
    load_command = ["load", "parcels", "feed.json", "--batch-rows", "2", "--workers", "1", "--no-precalculate"]
    try:
        # The batch waits where its transaction has not locked the table yet.
        with site.gate("etl.separate_batches", "in COPY", when="new.first_record = 3") as gate:
            load = site.start(*load_command, conninfo=conninfo)
            gate.reached()
            site.ask(
                "alter table logistics.parcels enable row level security;"
                " create policy not_n3 on logistics.parcels using (true) with check (note <> 'n3')"
            )
            gate.open()
            done = load.ended()
        assert done.returncode == 2
        assert "logistics.parcels cannot be loaded: row-level security hides rows of it" in done.stderr
        assert "SQLSTATE 42501" in done.stderr
        assert site.column("select id from logistics.parcels order by 1") == [1, 2]
        site.ask("alter role nightly bypassrls")
        assert site.run(*load_command, conninfo=conninfo).returncode == 0
        assert site.column("select id from logistics.parcels order by 1") == [1, 2, 3, 4, 5]
    finally:
        site.ask("drop owned by nightly; drop role nightly")


@pytest.mark.parametrize("workers", ["1", "2"])
def test_an_obstacle_that_comes_during_a_load_is_named(site: Site, workers: str) -> None:
    """A publication that appears in the middle of a load ends it with 2, the table and the statement."""
    _define(site, "merge")
    lines = [json.dumps(RECORDS[0] | {"id": number}) + "\n" for number in range(400)]
    (site.folder / "feed.ndjson").write_text("".join(lines))
    # A load into empty tables deletes nothing, which is what the publication would refuse.
    (site.folder / "earlier.ndjson").write_text(json.dumps(RECORDS[0] | {"id": 999}))
    assert site.run("load", "parcels", "earlier.ndjson").returncode == 0
    site.ask("alter table logistics.parcel_steps replica identity nothing")
    load_command = ["load", "parcels", "feed.ndjson", "--batch-rows", "50", "--workers", workers, "--json"]
    with site.gate("logistics.parcels", "in COPY", when="new.id = 375") as gate:
        load = site.start(*load_command)
        gate.reached()
        until(lambda: site.value("select count(*) from logistics.parcels") == 351, "the batches before the gate")
        site.ask("create publication cdc for table logistics.parcel_steps")
        gate.open()
        done = load.ended()
    assert done.returncode == 2
    assert "logistics.parcel_steps cannot be loaded: the publication cdc publishes" in done.stderr
    assert "SQLSTATE 55000" in done.stderr
    assert (done.summary["status"], done.summary["records"]["loaded"]) == ("incomplete", 350)
    site.ask("alter table logistics.parcel_steps replica identity full")
    again = site.run(*load_command)
    assert (again.returncode, again.summary["records"]["loaded"]) == (0, 50)
    assert site.value("select count(*) from logistics.parcels") == 401
