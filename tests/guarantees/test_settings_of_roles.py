"""The settings of a role and its database: no value of theirs changes the rows of a load."""

import shutil
import signal
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from tests.support.cases import Case
from tests.support.site import Site
from tests.support.states import state
from tests.support.waiting import until

RECORDS = 400

# Values that end a session, refuse a statement, or change the meaning of a statement or a value.
ODD = {
    "statement_timeout": "5",
    "idle_in_transaction_session_timeout": "5",
    "idle_session_timeout": "5",
    "transaction_timeout": "5",
    "lock_timeout": "1",
    "default_transaction_isolation": "serializable",
    "default_transaction_read_only": "on",
    "default_transaction_deferrable": "on",
    "standard_conforming_strings": "off",
    "backslash_quote": "off",
    "bytea_output": "escape",
    "datestyle": "German, DMY",
    "timezone": "Asia/Kathmandu",
    "intervalstyle": "sql_standard",
    "extra_float_digits": "-15",
    "array_nulls": "off",
    "transform_null_equals": "on",
    "quote_all_identifiers": "on",
    "exit_on_error": "on",
    "temp_buffers": "1073741823",
    "plan_cache_mode": "force_generic_plan",
    "gin_fuzzy_search_limit": "1",
    "client_min_messages": "debug5",
    "xmloption": "document",
    "row_security": "off",
}

# Settings of the others that are texts, with odd values: those of a folder or a library of the server are left out.
_TEXTS = {
    "search_path": ["hostile, pg_catalog, public", "", "pg_catalog"],
    "DateStyle": ["SQL, DMY", "German"],
    "TimeZone": ["Asia/Kathmandu", "America/St_Johns"],
    "timezone_abbreviations": ["India"],
    "client_encoding": ["LATIN1", "SQL_ASCII"],
    "default_text_search_config": ["simple"],
    "restrict_nonsystem_relation_kind": ["view", "view, foreign-table"],
    "lc_messages": ["C"],
    "lc_numeric": ["C"],
}

_LISTS = ("search_path", "restrict_nonsystem_relation_kind")

_HOSTILE = """
create schema hostile;
create function hostile.now() returns timestamptz language sql as $$ select '1999-01-01'::timestamptz $$;
create function hostile.count(text) returns bigint language sql as $$ select 0::bigint $$;
create function hostile.equal(text, text) returns boolean language sql as $$ select false $$;
create operator hostile.= (leftarg = text, rightarg = text, function = hostile.equal);
create table hostile.shipments (id integer);
create table hostile.etl_fresh (id integer);
grant usage on schema hostile to public;
"""


@pytest.fixture
def nightly(site: Site) -> Iterator[str]:
    """Give the address of a user who may only load."""
    site.ask("create role nightly login in role etl_loader")
    yield make_conninfo(site.conninfo, user="nightly")
    site.ask("drop owned by nightly; drop role nightly")


@contextmanager
def _settings(site: Site, settings: Mapping[str, str]) -> Iterator[None]:
    """Set these settings for every new session of the database, as far as the server has them."""
    name = sql.Identifier(str(conninfo_to_dict(site.conninfo)["dbname"]))
    connection = site.connection
    known = {each.lower() for each in site.column("select name from pg_settings")}
    try:
        for setting, value in settings.items():
            if setting.lower() in known:
                words = [sql.Literal(word.strip()) for word in (value.split(",") if setting in _LISTS else [value])]
                statement = sql.SQL("alter database {} set {} = {}")
                connection.execute(statement.format(name, sql.Identifier(setting), sql.SQL(", ").join(words)))
        yield
    finally:
        connection.execute(sql.SQL("alter database {} reset all").format(name))


@pytest.mark.slow
def test_odd_settings_change_no_command(site: Site, nightly: str, merged: Case) -> None:
    """With hostile settings of the database every command does what it does without them, also in worker processes."""
    site.ask(_HOSTILE)
    with _settings(site, ODD | {"search_path": "hostile, pg_catalog, public"}):
        for command, code in (
            ([*merged.command, "--dry-run"], 1),
            ([*merged.command, "--batch-rows", "50", "--workers", "2"], 1),
            (["precalculate", "--full"], 0),
            (["precalculate", "--verify"], 0),
            (["report", "daily_shipments"], 0),
            (["db", "check"], 0),
        ):
            ended = site.run(*command, conninfo=nightly)
            assert (command, ended.returncode) == (command, code), ended.stderr + ended.stdout
            assert not ended.events("batch_retried")
    merged.assert_done(site)
    with _settings(site, ODD):
        assert site.run("failed", "replay", "--all", conninfo=nightly).returncode == 1
        listener = site.start("listen", conninfo=nightly)
        until(lambda: listener.events("listening"), "the listener")
        assert site.run("listen", "--check", conninfo=nightly).returncode == 0
        listener.signal(signal.SIGTERM)
        assert listener.ended().returncode == 0


@pytest.mark.parametrize("options", [["--decoder", "ijson"], ["--atomic"]], ids=["checked path", "atomic"])
def test_odd_settings_change_no_path(site: Site, nightly: str, appended: Case, options: list[str]) -> None:
    """Each way from a record to its row gives the same rows with odd settings."""
    with _settings(site, ODD):
        ended = site.run(*appended.command, *options, conninfo=nightly)
    assert ended.returncode == 1, ended.stderr
    assert state(site).facts == appended.clean.facts


def test_a_new_database_with_odd_settings(site: Site, appended: Case) -> None:
    """A migration under odd settings makes the tables, and the sessions of it end with its own ends."""
    site.ask("drop table logistics.shipments cascade; drop table logistics.vehicles")
    with _settings(site, ODD):
        assert site.run("db", "migrate").returncode == 0
        assert site.run("dataset", "check", "shipments").returncode == 0
        assert site.run(*appended.command).returncode == 1
    appended.assert_done(site)


def _values(setting: tuple[Any, ...]) -> list[str]:
    """Return the odd values of a setting: each other value, or the least, the largest and one in between."""
    name, kind, least, most, words, now = setting
    if kind == "bool":
        return ["off" if now == "on" else "on"]
    if kind == "enum":
        return [word for word in words if word != now]
    if kind in {"integer", "real"}:
        number = int if kind == "integer" else float
        between = min(number(least) + 7, number(most))
        return list(dict.fromkeys([least, str(between), most]))
    return _TEXTS.get(name, [])


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["bool", "enum", "integer", "real", "string"])
@pytest.mark.parametrize("half", [0, 1])
def test_each_setting_at_each_odd_value(site: Site, nightly: str, merged: Case, kind: str, half: int) -> None:
    """A load has the usual rows, or is exit 2, under each setting that a database can have."""
    site.ask(_HOSTILE)
    query = """
        select name, vartype, min_val, max_val, enumvals, setting from pg_settings
        where context in ('user', 'superuser') and vartype = %s order by name
    """
    settings, values = 0, 0
    for setting in site.ask(query, [kind])[half::2]:
        tried = 0
        for value in _values(setting):
            try:
                with _settings(site, {setting[0]: value}):
                    ended = site.run(*merged.command, conninfo=nightly)
            except psycopg.Error:
                continue  # No database can have this value.
            tried += 1
            if (setting[0], value) == ("session_replication_role", "replica"):
                assert ended.returncode == 2
                continue
            assert (setting[0], value, ended.returncode) == (setting[0], value, 1), ended.stderr
            assert not ended.events("batch_retried")
            merged.assert_done(site)
            site.forget_loads("shipments")
            shutil.rmtree(site.store)
        settings, values = settings + bool(tried), values + tried
    print(f"{kind}: {settings} settings, {values} values")  # noqa: T201 - the result of this test, shown by `-rP`
    assert values


def test_the_notes_of_other_programs(site: Site, merged: Case) -> None:
    """Changes by a program with odd settings reach the aggregates: the functions of the triggers have their own."""
    assert site.run(*merged.command).returncode == 1
    site.ask(_HOSTILE)
    odd = {name: value for name, value in ODD.items() if "timeout" not in name and "default" not in name}
    with _settings(site, odd | {"search_path": "hostile, pg_catalog"}), site.connect() as other:
        other.execute("update logistics.shipments set note = 'moved', created_at = created_at + interval '1 day'")
        other.execute("delete from logistics.shipments where pieces > 5")
    assert site.run("precalculate").returncode == 0
    assert site.run("precalculate", "--verify").returncode == 0
    known = site.column("select proconfig from pg_proc where pronamespace = 'etl'::regnamespace and prosecdef")
    assert all("standard_conforming_strings=on" in settings for settings in known)


def test_triggers_that_the_role_disables(site: Site, nightly: str, merged: Case) -> None:
    """With session_replication_role = replica no change is noted: a load is exit 2, and the check reports it."""
    with _settings(site, {"session_replication_role": "replica"}):
        ended = site.run(*merged.command, conninfo=nightly)
        assert ended.returncode == 2
        assert "session_replication_role is replica for nightly" in ended.stderr
        checked = site.run("db", "check", conninfo=nightly)
        assert checked.returncode == 2
        assert "session_replication_role" in checked.stdout
        assert site.run(*merged.command).returncode == 1  # A superuser may set it back.
    merged.assert_done(site)


def test_a_database_of_another_encoding(site: Site, merged: Case) -> None:
    """In a database that is not UTF8 a migration, a check, a load and a new table are exit 2 at the start."""
    site.ask("drop database if exists latin")
    site.ask("create database latin encoding 'LATIN1' locale_provider libc locale 'C' template template0")
    address = make_conninfo(site.conninfo, dbname="latin")
    try:
        for command in (["db", "migrate"], ["db", "check"], merged.command, ["dataset", "create", "shipments"]):
            ended = site.run(*command, conninfo=address)
            assert (command, ended.returncode) == (command, 2)
        assert "expected a database with the encoding UTF8" in site.run("db", "migrate", conninfo=address).stderr
        assert "LATIN1" in site.run("db", "check", conninfo=address).stdout
    finally:
        site.ask("drop database latin")


POLICY = """
alter table logistics.shipments enable row level security;
create policy visible on logistics.shipments to etl_loader using (pieces <> 3) with check (true);
"""


def test_rows_that_a_policy_hides(site: Site, nightly: str, merged: Case) -> None:
    """A load and a refresh by a user from whom a policy hides rows are exit 2, with the remedy, and change nothing."""
    assert site.run(*merged.command).returncode == 1
    site.ask(POLICY)
    site.ask("update logistics.shipments set weight_kg = weight_kg")
    before = state(site).aggregates
    for command in (
        [*merged.command, "--force"],
        [*merged.command, "--force", "--mode", "replace"],
        ["precalculate", "daily_shipments"],
        ["precalculate", "--full", "daily_shipments"],
        ["precalculate", "--verify", "daily_shipments"],
        ["db", "check"],
    ):
        ended = site.run(*command, conninfo=nightly)
        assert (command, ended.returncode) == (command, 2)
        assert "alter role nightly bypassrls" in ended.stderr + ended.stdout
    assert state(site).aggregates == before
    site.ask("alter role nightly bypassrls")
    assert site.run("precalculate", conninfo=nightly).returncode == 0
    assert site.run("precalculate", "--verify", conninfo=nightly).returncode == 0
    merged.assert_done(site)


def test_an_aggregate_of_which_a_policy_hides_rows(site: Site, nightly: str, merged: Case) -> None:
    """A policy of an aggregate for analysts does not let a load refresh only some of its rows; a report shows those."""
    assert site.run(*merged.command).returncode == 1
    site.ask(
        "alter table analytics.daily_shipments enable row level security;"
        " create policy visible on analytics.daily_shipments using (carrier > 'M')"
    )
    ended = site.run(*merged.command, conninfo=nightly)
    assert ended.returncode == 2
    assert "hides rows of analytics.daily_shipments" in ended.stderr
    assert site.run("report", "daily_shipments", conninfo=nightly).returncode == 0
