import json
import socket
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from etl.database.connecting import Database, choose
from etl.database.migrations import latest_migration
from etl.embedded import Server, binary
from tests.support.commands import RunEtl
from tests.support.faults import Connection
from tests.support.site import Site

NOWHERE = "postgresql://nobody@127.0.0.1:1/nowhere"

no_database = pytest.mark.parametrize("database_url", [NOWHERE], ids=["no database"])
"""For commands that get another address, or none."""


@pytest.fixture(scope="module")
def another_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Run a server without migrations and without our roles, which listens on TCP, too."""
    server = Server(tmp_path_factory.mktemp("another") / "postgres")
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    server.start(port=port)
    yield server
    server.stop()


@pytest.fixture
def administrator(another_server: Server) -> Iterator[Connection]:
    """Give a connection of the other server's superuser."""
    with psycopg.connect(another_server.url(), autocommit=True) as connection:
        yield connection


def _one(connection: Connection, query: str) -> Any:
    row = connection.execute(query).fetchone()
    return row[0] if row else None


def _schema(connection: Connection) -> list[str]:
    """Return all definitions, comments and grants of the database, as pg_dump writes them."""
    info = connection.info
    address = make_conninfo("", host=info.host, port=info.port, user=info.user, dbname=info.dbname)
    done = subprocess.run(
        [binary("pg_dump"), "--schema-only", "-d", address], capture_output=True, check=True, text=True
    )
    return [line for line in done.stdout.splitlines() if not line.startswith(("\\restrict", "\\unrestrict"))]


@pytest.mark.parametrize(
    ("given", "from_file", "environ", "chosen"),
    [
        ("postgresql://given/x", "postgresql://file/x", {"PGHOST": "pg"}, "postgresql://given/x"),
        ("embedded:here", None, {"PGHOST": "pg"}, "embedded:here"),
        (None, "postgresql://file/x", {"PGHOST": "pg"}, ""),
        (None, "postgresql://file/x", {"PGHOSTADDR": "127.0.0.1"}, ""),
        (None, "postgresql://file/x", {"PGSERVICE": "facts"}, ""),
        (None, "postgresql://file/x", {"PGDATABASE": "facts"}, ""),
        (None, "postgresql://file/x", {"PGUSER": "me", "PGPORT": "1", "PGPASSWORD": "p"}, "postgresql://file/x"),
        (None, "postgresql://file/x", {"PGHOST": ""}, "postgresql://file/x"),
        (None, None, {"PGUSER": "me"}, "embedded:"),
    ],
)
def test_the_database_is_chosen_in_one_order(
    given: str | None, from_file: str | None, environ: dict[str, str], chosen: str
) -> None:
    """An argument beats libpq's variables with an address, which beat etl.toml, which beats the embedded server."""
    assert choose(given, from_file, environ) == chosen


@pytest.mark.parametrize(
    ("conninfo", "name"),
    [
        ("postgresql://me:secret@db.example:5433/facts?sslmode=require", "db.example/facts"),
        ("host=db.example user=me password=secret", "db.example/me"),
        ("hostaddr=10.0.0.1 dbname=facts", "10.0.0.1/facts"),
    ],
)
def test_a_database_is_named_without_password(conninfo: str, name: str) -> None:
    """Logs and summary show host and database, and nothing else of an address."""
    assert Database(conninfo=conninfo).name == name


def test_each_place_of_the_address_beats_the_next(run_etl: RunEtl, connection: Connection, tmp_path: Path) -> None:
    """The first of these is used: flag, ETL_DATABASE_URL, DATABASE_URL, libpq's variables and service, etl.toml."""
    info = connection.info
    here = make_conninfo("", host=info.host, port=info.port, user=info.user, dbname=info.dbname)
    variables = {"PGHOST": info.host, "PGPORT": str(info.port), "PGUSER": info.user, "PGDATABASE": info.dbname}
    wrong = {"PGHOST": "127.0.0.1", "PGPORT": "1"}
    (tmp_path / "services").write_text("[facts]\n" + here.replace(" ", "\n") + "\n")
    (tmp_path / "config").mkdir()
    settings = tmp_path / "config" / "etl.toml"
    settings.write_text(f'database = "{NOWHERE}"\n')
    unset: dict[str, str | None] = {"ETL_DATABASE_URL": None}
    for flag, env in [
        (["--database", here], {"ETL_DATABASE_URL": NOWHERE}),
        ([], {"ETL_DATABASE_URL": here, "DATABASE_URL": NOWHERE}),
        ([], unset | {"DATABASE_URL": here} | wrong),
        ([], unset | variables),
        ([], unset | {"PGSERVICE": "facts", "PGSERVICEFILE": str(tmp_path / "services")}),
    ]:
        done = run_etl(*flag, "db", "status", env=env)
        assert (env, done.returncode, done.stderr) == (env, 0, "")
        assert done.stdout.endswith(f": PostgreSQL {info.server_version // 10000}, running\n")
    settings.write_text(f'database = "{here}"\n')
    assert run_etl("db", "status", env=unset).returncode == 0
    assert run_etl("db", "status", env=unset | wrong).returncode == 4
    settings.unlink()
    done = run_etl("db", "status", env=unset)
    assert (done.returncode, done.stdout) == (2, "")
    assert f"looked for the embedded server in {tmp_path / '.etl' / 'postgres'}" in done.stderr


@no_database
def test_no_output_has_a_password(run_etl: RunEtl, another_server: Server, tmp_path: Path) -> None:
    """A password in an address is used and never shown: by no command, summary, log, error or db url."""
    address = another_server.url(tcp=True)
    password = str(urlsplit(address).password)
    (tmp_path / "feed.json").write_text('[{"vehicle_id": "V1"}, {}]')
    for command, code in [
        ("db migrate", 0),
        ("load vehicles feed.json --json", 1),
        ("db status", 0),
        ("db check", 0),
        ("db url", 0),
        ("db psql -- -Atc 'select 6 * 7'", 0),
        ("runs list --json", 0),
    ]:
        words = command.replace("'select 6 * 7'", "QUERY").split()
        done = run_etl(
            "--log-level",
            "debug",
            *("select 6 * 7" if word == "QUERY" else word for word in words),
            env={"ETL_DATABASE_URL": address},
        )
        assert (command, done.returncode) == (command, code)
        assert password not in done.stdout + done.stderr
        if command.startswith("load"):
            assert json.loads(done.stdout.splitlines()[0])["database"] == "127.0.0.1/etl"
        if command.startswith("db psql"):
            assert done.stdout == "42\n"
        if command == "db url":
            assert "host=127.0.0.1" in done.stdout
    written = tmp_path / "passwords"
    written.write_text(f"127.0.0.1:*:etl:postgres:{password}\n")
    written.chmod(0o600)
    without = address.replace(f":{password}", "")
    assert run_etl("--database", without, "db", "status", env={"PGPASSFILE": str(written)}).returncode == 0
    done = run_etl("--database", without, "db", "status")
    assert done.returncode == 2
    assert "no password supplied" in done.stderr


@no_database
@pytest.mark.parametrize(
    "address",
    [
        "postgresql://me:half@secret@127.0.0.1:1/facts",
        "postgresql://me:half/secret@127.0.0.1:1/facts",
        "postgresql://me:h@lf?secret@127.0.0.1:1/facts",
        "postgresql://me:secret%zz@127.0.0.1:1/facts",
        "host=127.0.0.1 pasword=secret",
    ],
)
def test_a_password_that_breaks_its_address_is_not_shown(run_etl: RunEtl, address: str) -> None:
    """An address that libpq would misread is exit 2, and no part of its password is shown as a host or an option."""
    done = run_etl("--database", address, "db", "status")
    assert (done.returncode, done.stdout) == (2, "")
    assert "error: the database address cannot be read" in done.stderr
    assert "secret" not in done.stderr


def test_a_migration_says_what_it_made(site: Site) -> None:
    """Tables, columns and triggers that were missing are named, as text and as JSON; also beside a wrong definition."""
    site.ask("drop table logistics.vehicles; alter table logistics.shipments drop column carrier cascade")
    site.ask("drop table analytics.vehicle_days; drop trigger etl_note_insert on logistics.vehicle_logs")
    site.write_definition('name = "wrong"')
    done = site.run("db", "migrate")
    assert done.returncode == 2
    assert "made the tables: analytics.vehicle_days, logistics.vehicles\n" in done.stdout
    assert "made the columns: logistics.shipments.carrier\n" in done.stdout
    assert "made the triggers: etl_note_insert on logistics.vehicle_logs\n" in done.stdout
    site.ask("drop table logistics.vehicles")
    [made] = site.run("db", "migrate", "--json").lines
    assert made["migration"] == made["migration_before"] == latest_migration()
    assert (made["tables"], made["columns"], made["triggers"]) == (["logistics.vehicles"], [], [])
    site.ask("drop table logistics.vehicles")
    assert site.run("dataset", "create", "vehicles").stdout == (
        "made the tables: logistics.vehicles\ntables are complete: logistics.vehicles\n"
    )


def test_migrating_again_changes_nothing(run_etl: RunEtl, connection: Connection) -> None:
    """A second migration leaves every definition, comment, grant and row unchanged."""
    before = _schema(connection)
    stamped = connection.execute("select xmin, version_num from etl.schema_version").fetchall()
    assert len(before) > 500
    done = run_etl("db", "migrate")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.endswith(f" is at migration {latest_migration()}; nothing was missing\n")
    assert _schema(connection) == before
    assert connection.execute("select xmin, version_num from etl.schema_version").fetchall() == stamped


@pytest.mark.slow
def test_two_migrations_at_once(run_etl: RunEtl, connection: Connection) -> None:
    """Of two migrations of a new database one waits for the other: both succeed with the usual result."""
    connection.execute("create database young")
    try:
        address = make_conninfo(connection.info.dsn, dbname="young")
        with ThreadPoolExecutor() as pool:
            both = [pool.submit(run_etl, "--database", address, "db", "migrate") for _ in range(2)]
        assert [(done.result().returncode, done.result().stderr) for done in both] == [(0, ""), (0, "")]
        with psycopg.connect(address) as young:
            assert _schema(young) == _schema(connection)
    finally:
        connection.execute("drop database young")


@no_database
def test_an_owner_who_may_not_make_roles_can_migrate(
    run_etl: RunEtl, another_server: Server, administrator: Connection, tmp_path: Path
) -> None:
    """Without CREATEROLE a migration omits the group roles and reports it; the next migration grants to them."""
    administrator.execute("drop database if exists plain")
    for role in ("etl_loader", "etl_analyst"):
        if _one(administrator, f"select to_regrole('{role}') is not null"):
            administrator.execute(f"drop owned by {role}; drop role {role}")
    administrator.execute("create role plain login; create role loader login")
    administrator.execute("create database plain owner plain")
    address = make_conninfo(another_server.url(), user="plain", dbname="plain")
    done = run_etl("--database", address, "db", "migrate")
    assert done.returncode == 0
    events = [json.loads(line) for line in done.stderr.splitlines()]
    assert [(event["event"], event["role"]) for event in events] == [
        ("role_missing", "etl_loader"),
        ("role_missing", "etl_analyst"),
    ]
    assert "create role etl_loader nologin" in events[0]["hint"]
    (tmp_path / "feed.json").write_text('[{"vehicle_id": "V1"}]')
    assert run_etl("--database", address, "load", "vehicles", "feed.json").returncode == 0
    administrator.execute("create role etl_loader nologin; create role etl_analyst nologin; grant etl_loader to loader")
    done = run_etl("--database", address, "db", "migrate")
    assert (done.returncode, done.stderr) == (0, "")
    (tmp_path / "more.json").write_text('[{"vehicle_id": "V2"}]')
    loader = make_conninfo(address, user="loader")
    done = run_etl("--database", loader, "--log-level", "warning", "load", "vehicles", "more.json")
    assert (done.returncode, done.stderr) == (0, "")


@pytest.fixture
def logins(connection: Connection) -> Iterator[dict[str, str]]:
    """Give addresses of users, each a member of one group role."""
    names = ("loader", "analyst")
    for name in names:
        connection.execute(f"create role test_{name} login in role etl_{name}")
    yield {name: make_conninfo(connection.info.dsn, user=f"test_{name}") for name in names}
    for name in names:
        connection.execute(f"drop owned by test_{name}; drop role test_{name}")


def test_a_loader_needs_no_more_than_its_role(run_etl: RunEtl, logins: dict[str, str], tmp_path: Path) -> None:
    """With etl_loader alone every mode loads, aggregates are refreshed, and runs and failures are shown."""
    shipment = {"shipment_id": "S1", "created_at": "2026-01-01T00:00:00Z", "carrier": "c", "items": [{"sku": "a"}]}
    for name in ("merge", "first", "atomic", "replace"):
        (tmp_path / f"{name}.json").write_text(json.dumps([shipment | {"note": name}, {"shipment_id": "S2"}]))
    for command, code in [
        ("load shipments merge.json", 1),
        ("load shipments first.json --on-duplicate first", 1),
        ("load shipments atomic.json --atomic --max-rejected 1", 1),
        ("load shipments replace.json --mode replace --max-rejected 1", 1),
        ("precalculate", 0),
        ("runs list", 0),
        ("failed list", 0),
        ("dataset check shipments", 0),
        ("db check", 0),
    ]:
        done = run_etl("--database", logins["loader"], "--log-level", "warning", *command.split())
        assert (command, done.returncode, done.stderr) == (command, code, "")
    denied = run_etl("--database", logins["loader"], "db", "migrate")
    assert denied.returncode == 2
    assert "the user test_loader may not migrate" in denied.stderr


def test_an_analyst_only_reads_facts_and_aggregates(run_etl: RunEtl, logins: dict[str, str]) -> None:
    """etl_analyst reads facts, aggregates and freshness; it changes nothing and does not see the ledger."""
    with psycopg.connect(logins["analyst"], autocommit=True) as analyst:
        for schema in ("logistics", "analytics"):
            tables = analyst.execute(
                "select format('%%I.%%I', schemaname, tablename) from pg_tables where schemaname = %s", [schema]
            ).fetchall()
            assert len(tables) >= 5
            for (table,) in tables:
                analyst.execute(f"select count(*) from {table}")  # noqa: S608
                for change in (f"delete from {table}", f"insert into {table} default values", f"truncate {table}"):  # noqa: S608
                    with pytest.raises(psycopg.errors.InsufficientPrivilege):
                        analyst.execute(change)
        analyst.execute("select * from analytics.freshness")
        with pytest.raises(psycopg.errors.InsufficientPrivilege, match="schema etl"):
            analyst.execute("select * from etl.runs")
    for command in (["runs", "list"], ["precalculate"], ["dataset", "create", "vehicles"]):
        done = run_etl("--database", logins["analyst"], *command)
        assert (command, done.returncode, done.stdout) == (command, 2, "")
        assert "hint: grant etl_loader to test_analyst" in done.stderr


def test_a_check_reports_what_to_do(run_etl: RunEtl, connection: Connection, tmp_path: Path) -> None:
    """The check covers the needs of a load: exit 0 if all are met, else 2 with the command for each."""
    done = run_etl("db", "check")
    assert (done.returncode, done.stderr) == (0, "")
    assert f"at {latest_migration()}" in done.stdout
    connection.execute("drop table logistics.vehicles; alter table logistics.shipments drop column note")
    done = run_etl("db", "check")
    assert done.returncode == 2
    assert "etl dataset create vehicles" in done.stdout
    assert "has no column note" in done.stdout
    connection.execute("update etl.schema_version set version_num = '0001'")
    done = run_etl("db", "check")
    assert done.returncode == 2
    assert "etl db migrate" in done.stdout


def test_a_database_of_a_later_version_is_not_changed(run_etl: RunEtl, connection: Connection, tmp_path: Path) -> None:
    """A database with newer migrations than this version is exit 2 for every command, and none migrates it."""
    connection.execute("update etl.schema_version set version_num = '9999'")
    (tmp_path / "feed.json").write_text("[]")
    before = _schema(connection)
    for command in (["load", "vehicles", "feed.json"], ["db", "migrate"]):
        done = run_etl(*command)
        assert (done.returncode, done.stdout) == (2, "")
        assert "error: the database is at migration 9999, the newest that this installation knows is " in done.stderr
    assert _schema(connection) == before


def test_psql_gets_its_arguments_and_gives_its_code(run_etl: RunEtl) -> None:
    """The arguments after -- go to psql on the chosen database, and the exit code is that of psql."""
    done = run_etl("db", "psql", "--", "-Atc", "select count(*) from logistics.vehicles")
    assert (done.returncode, done.stdout, done.stderr) == (0, "0\n", "")
    failed = run_etl("db", "psql", "--", "-v", "ON_ERROR_STOP=1", "-f", "-", stdin="select nothing;")
    assert failed.returncode == 3


@no_database
def test_commands_control_the_embedded_server(run_etl: RunEtl, tmp_path: Path) -> None:
    """Commands create, migrate, start and stop the embedded server; after db start it runs until db stop."""
    env: dict[str, str | None] = {"ETL_DATABASE_URL": None}
    (tmp_path / "feed.json").write_text('[{"vehicle_id": "V1"}]')
    try:
        done = run_etl("load", "vehicles", "feed.json", "--json", env=env)
        assert (done.returncode, json.loads(done.stdout.splitlines()[0])["database"]) == (0, "embedded/etl")
        stopped = "embedded PostgreSQL 18 in .etl/postgres: stopped; any command starts it\n"
        assert run_etl("db", "status", env=env).stdout == stopped
        nobody = run_etl("db", "url", env=env)
        assert (nobody.returncode, nobody.stdout) == (4, "")
        assert "nobody answers" in nobody.stderr
        done = run_etl("db", "start", env=env)
        assert (done.returncode, done.stdout.startswith("running: postgresql://")) == (0, True)
        assert run_etl("db", "status", env=env).stdout == "embedded/etl: PostgreSQL 18, running\n"
        address = run_etl("db", "url", env=env).stdout.strip()
        with psycopg.connect(address) as embedded:
            assert _one(embedded, "select vehicle_id from logistics.vehicles") == "V1"
        refused = run_etl("db", "url", "--tcp", env=env)
        assert refused.returncode == 2
        assert "etl db start --port" in refused.stderr
        assert run_etl("db", "stop", env=env).stdout == "stopped\n"
        assert run_etl("db", "stop", env=env).stdout == "was not running\n"
    finally:
        Server(tmp_path / ".etl" / "postgres").stop()
