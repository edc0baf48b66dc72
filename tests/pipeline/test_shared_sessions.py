"""The sources of one command share a session of the server: no lock and no knowledge of one spoils the next."""

import json

import pytest

from tests.support.definitions import SMALL_PARCELS
from tests.support.site import Site
from tests.support.waiting import until


@pytest.fixture
def parcels(site: Site) -> Site:
    """Return a site with the dataset parcels, and a folder of five files; the last has a record that does not fit."""
    site.define(SMALL_PARCELS)
    (site.folder / "in").mkdir()
    for number in range(5):
        weight = -1 if number == 4 else number
        records = [{"parcel_id": str(number), "weight": 1}, {"parcel_id": f"{number}b", "weight": weight}]
        (site.folder / "in" / f"{number}.ndjson").write_text("".join(json.dumps(each) + "\n" for each in records))
    return site


def test_sources_share_a_session_and_leave_no_lock_in_it(parcels: Site) -> None:
    """One process of the server loads all sources of a command, and holds the locks of one run at a time."""
    parcels.ask("create table public.seen (pid integer, locks bigint, name text)")
    parcels.ask(
        """
        create function public.see() returns trigger language plpgsql as $$
        begin
            insert into public.seen
            select pg_backend_pid(), count(*), current_setting('application_name')
            from pg_locks where locktype = 'advisory' and pid = pg_backend_pid();
            return null;
        end $$
        """
    )
    parcels.ask("create trigger see after insert on logistics.parcels execute function public.see()")
    ended = parcels.run("load", "parcels", "in", "--json", "--no-precalculate", "--max-rejected", "100%", "--force")
    assert [each["records"]["loaded"] for each in ended.summaries if each["kind"] == "source"] == [2, 2, 2, 2, 1]
    assert parcels.value("select count(distinct pid) from public.seen") == 1
    assert parcels.value("select count(distinct name) from public.seen") == 5
    assert parcels.value("select count(distinct locks) from public.seen") == 1


def test_the_temporary_tables_of_a_run_are_gone_when_the_next_one_begins(parcels: Site) -> None:
    """They have the columns of its dataset. Those of the last run go with the session."""
    keyed = SMALL_PARCELS.replace('mode = "append"', 'mode = "merge"\nkey = ["parcel_id"]').replace("parcels", "keyed")
    parcels.define(keyed.replace('"text"', '{ type = "text", required = true }'))
    parcels.ask("create table public.seen (before bigint, after bigint)")
    parcels.ask(
        """
        create function public.see() returns trigger language plpgsql as $$
        declare
            tables bigint;
        begin
            select count(*) into tables from pg_class where relnamespace = pg_my_temp_schema() and relkind = 'r';
            if tg_table_name = 'runs' then
                insert into public.seen (before) values (tables);
            else
                update public.seen set after = tables where after is null;
            end if;
            return null;
        end $$
        """
    )
    parcels.ask("create trigger see after insert on etl.runs execute function public.see()")
    parcels.ask("create trigger see after insert on logistics.keyed execute function public.see()")
    parcels.run("load", "keyed", "in", "--max-rejected", "100%", "--force", "--no-precalculate")
    runs = parcels.ask("select before, after > 0 from public.seen")
    assert runs == [(0, True)] * 5


@pytest.mark.aggregates
def test_a_source_is_checked_loaded_and_followed_by_aggregates_over_one_connection(parcels: Site) -> None:
    """A command of one source connects once: a connection costs more than the load of a few records."""
    opened = "select sessions from pg_stat_database where datname = current_database()"
    parcels.load("parcels", "in/0.ndjson")
    before = parcels.value(opened)
    summary = parcels.load("parcels", "in/1.ndjson")
    assert summary["records"]["loaded"] == 2
    until(lambda: parcels.value(opened) > before, "the count of the connection")
    assert parcels.value(opened) == before + 1
    assert parcels.value("select count(*) from etl.refreshes where refreshed_at > now() - interval '1 minute'")


def test_a_table_that_changes_between_two_sources_is_compared_again(parcels: Site) -> None:
    """A check that is dropped while the sources load is made by the loader from the next source on."""
    parcels.ask(
        """
        create function public.drop_checks() returns trigger language plpgsql as $$
        declare
            name text;
        begin
            for name in
                select conname from pg_constraint where conrelid = 'logistics.parcels'::regclass and contype = 'c'
            loop
                execute format('alter table logistics.parcels drop constraint %I', name);
            end loop;
            return null;
        end $$
        """
    )
    parcels.ask(
        "create trigger drop_checks after insert on etl.runs for each row when (new.source like '%%3.ndjson')"
        " execute function public.drop_checks()"
    )
    ended = parcels.run("load", "parcels", "in", "--json", "--no-precalculate", "--max-rejected", "100%", "--force")
    last = ended.summaries[4]
    assert (last["records"]["loaded"], last["records"]["rejected"]) == (1, 1)
    assert parcels.value("select min(weight) from logistics.parcels") == 0
