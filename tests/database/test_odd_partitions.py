"""Partitions that a person made or detaches, names that the server cuts, and removals that leave nothing."""

import datetime as dt
import json
import re
from collections.abc import Callable
from typing import Any

import psycopg
import pytest
from psycopg import sql

from etl.database import partitions
from etl.database.partitions import Partition
from tests.database.test_partitions import VISITS, _begin_to_detach, _define, _partitions, _rows_of_exports, _write
from tests.support.commands import PATIENT
from tests.support.site import Site
from tests.support.waiting import until

TODAY = f"{dt.datetime.now(dt.UTC):%Y-%m-%d}"


def _visit(number: int, day: str) -> dict[str, Any]:
    return {"id": number, "at": f"{day}T00:00Z", "weight": 1, "lines": [{}]}


def _load(site: Site, *days: str, first: int = 0) -> None:
    records = [_visit(number, day) for number, day in enumerate(days, first)]
    done = site.run("load", "visits", _write(site, records, f"from{first}.json"))
    assert done.returncode == 0, done.stderr


def _is_right(site: Site) -> bool:
    return site.run("precalculate", "visit_months", "--verify").returncode == 0


@pytest.mark.slow
def test_a_default_partition_hinders_no_load_and_no_removal(site: Site) -> None:
    """Its rows stay there, `etl db migrate` makes the other months, retention removes old ones with a short lock."""
    _define(site, "merge")
    _load(site, "2024-01-05", TODAY)
    site.ask("create table logistics.others partition of logistics.visits default")
    columns = "(id, at, weight, etl_run, etl_batch, etl_place)"
    site.ask(f"insert into logistics.visits {columns} values (9, '2024-02-07Z', 1, 1, 0, 9)")  # noqa: S608 - a constant
    _load(site, "2024-02-05", "2024-03-05", first=10)
    assert site.column("select id from logistics.others order by id") == [9, 10]
    migrated = site.run("db", "migrate")
    assert migrated.returncode == 0, migrated.stderr
    with site.connect() as reader:
        reader.execute("begin")
        reader.execute("select count(*) from logistics.visits")
        removing = site.start("retention", "visits", "--keep", "1d")
        site.backend("application_name = 'etl:retention' and wait_event_type = 'Lock'")
        reader.execute("rollback")
    done = removing.ended()
    assert done.returncode == 0, done.stderr
    assert sorted(site.column("select id from logistics.visits")) == [1, 9, 10]
    assert "visits_p202401" not in _partitions(site)
    assert _is_right(site)


def test_what_a_person_detaches_is_not_removed(site: Site) -> None:
    """A detached partition stays as a table, and one that is being detached is named until that has ended."""
    _define(site, "merge")
    _load(site, "2024-01-05", "2024-02-05", "2024-03-05")
    site.ask("drop event trigger etl_partition_dropped")
    site.ask("drop event trigger etl_partition_detached")
    site.ask("alter table logistics.visits detach partition logistics.visits_p202402")
    _begin_to_detach(site)
    shown = site.run("retention", "visits", "--keep", "1d", "--dry-run", "--json")
    assert sorted(line["name"] for line in shown.lines if line["fact"] == "logistics.visits") == ["visits_p202403"]
    refused = site.run("retention", "visits", "--keep", "1d")
    assert (refused.returncode, "has not finished to detach logistics.visits_p202401" in refused.stderr) == (2, True)
    site.ask("alter table logistics.visits detach partition logistics.visits_p202401 finalize")
    done = site.run("retention", "visits", "--keep", "1d")
    assert done.returncode == 0, done.stderr
    assert site.value("select count(*) from logistics.visits_p202401") == 1
    assert site.value("select count(*) from logistics.visits_p202402") == 1
    assert site.value("select to_regclass('logistics.visits_p202403') is null")
    assert _is_right(site)


@pytest.mark.slow
def test_a_removal_that_was_cut_off_comes_before_others(site: Site) -> None:
    """The server detaches one partition at a time: that of an earlier command is finished first."""
    _define(site, "merge")
    _load(site, "2024-01-05", TODAY)
    site.ask("update etl.partitions set is_removed = true where name = 'visits_p202401'")
    _begin_to_detach(site)
    _load(site, "2023-05-05", first=10)
    done = site.run("retention", "visits", "--keep", "1d")
    assert done.returncode == 0, done.stderr
    assert site.column("select id from logistics.visits") == [1]
    assert _is_right(site)


@pytest.mark.slow
def test_rows_that_come_while_a_partition_goes_are_in_no_aggregate(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """A load and its refresh run between the deletion and the detaching: these rows are exported, and not counted."""
    _define(site, "merge")
    _load(site, "2024-01-05", TODAY)
    detach = partitions.detach
    late: list[int] = []

    def detach_later(connection: psycopg.Connection, partition: Partition) -> None:
        if partition.fact == "logistics.visits" and not late:
            late.append(77)
            records = [_visit(77, "2024-01-06") | {"lines": []}]
            assert site.run("load", "visits", _write(site, records, "late.json")).returncode == 0
            assert site.value("select count_visits from analytics.visit_months where month = '2024-01-01'") == 1
        detach(connection, partition)

    monkeypatch.setattr(partitions, "detach", detach_later)
    done = site.run("retention", "visits", "--keep", "1d", "--export", site.folder / "old", "--format", "csv")
    assert done.returncode == 0, done.stderr
    assert _rows_of_exports(site.folder / "old")["visits_p202401-late"] == 1
    assert site.column("select month = date_trunc('month', now() at time zone 'UTC') from analytics.visit_months") == [
        True
    ]
    assert _is_right(site)


@pytest.mark.slow
def test_a_load_waits_while_a_partition_is_detached(site: Site) -> None:
    """Its record gets a partition when the detaching has ended; one that was cut off is ended by the load."""
    _define(site, "merge")
    _load(site, "2024-01-05", TODAY)
    with site.connect() as reader:
        reader.execute("begin")
        reader.execute("select count(*) from logistics.visits")
        removing = site.start("retention", "visits", "--keep", "1d")
        until(lambda: site.value("select count(*) from pg_inherits where inhdetachpending"), "the detaching")
        busy = site.run("retention", "visits", "--keep", "1d")
        assert (busy.returncode, "another session removes partitions of visits" in busy.stderr) == (6, True), (
            busy.stderr
        )
        loading = site.start(
            "load", "visits", _write(site, [_visit(5, "2024-01-06") | {"lines": []}], "late.json"), *PATIENT
        )
        until(lambda: loading.events("batch_retried"), "a retry of the load")
        reader.execute("rollback")
    assert loading.ended().returncode == 0
    assert removing.ended().returncode == 0
    assert sorted(site.column("select id from logistics.visits")) == [1, 5]
    site.ask("update etl.partitions set is_removed = true where name = 'visits_p202401'")
    _begin_to_detach(site)
    _load(site, "2024-01-08", first=7)
    assert "visits_p202401_2" in _partitions(site)
    assert site.run("retention", "visits", "--keep", "1d").returncode == 0
    assert site.column("select id from logistics.visits") == [1]
    assert site.value("select count(*) from pg_class where relname ~ '^visits_p202401'") == 0
    assert _is_right(site)


def test_loads_continue_after_a_removal_of_all_rows(site: Site) -> None:
    """The next load does not take them for lost; rows that are lost after it are noticed."""
    _define(site, "merge")
    _load(site, "2024-01-05", "2024-02-05")
    assert site.run("retention", "visits", "--keep", "1d").returncode == 0
    assert site.value("select count(*) from logistics.visits") == 0
    _load(site, TODAY, first=10)
    site.ask("truncate logistics.visits, logistics.visit_lines")
    done = site.run("load", "visits", _write(site, [_visit(20, TODAY)], "more.json"))
    assert (done.returncode, "none of the 1 rows that 1 run loaded" in done.stderr) == (2, True), done.stderr


def test_child_rows_are_not_left_without_their_records(site: Site) -> None:
    """Without partition_by of the child table, retention removes nothing, with exit code 2."""
    definition = 'each = "lines"\npartition_by = "at"'
    assert definition in VISITS
    site.define(VISITS.replace("MODE", "merge").replace(definition, 'each = "lines"'))
    _load(site, "2024-01-05")
    done = site.run("retention", "visits", "--keep", "1d")
    assert (done.returncode, "rows of logistics.visit_lines would stay without" in done.stderr) == (2, True), (
        done.stderr
    )
    assert site.value("select count(*) from logistics.visits") == 1


LONG = [f"logistics.{'v' * 50}_{of}" for of in ("of_hubs", "of_depots", "of_stops")]


@pytest.mark.slow
@pytest.mark.parametrize("way", ['partition_by = "at"', "partition_hash = 3"], ids=["days", "hash"])
def test_long_names_of_tables_share_no_partition(site: Site, way: str) -> None:
    """Tables whose long names begin alike have partitions of their own."""
    for number, table in enumerate(LONG):
        head, _, columns = VISITS.replace("MODE", "merge").partition("[[table]]")
        columns = columns.partition("[[table]]")[0].replace('partition_by = "at"', f'{way}\npartition_every = "day"')
        columns = columns.replace("logistics.visits", table)
        if "hash" in way:
            columns = columns.replace('partition_every = "day"\n', "")
        site.define(head.replace("visits", f"visits{number}") + "[[table]]" + columns)
        records = [_visit(n, f"2024-01-{n + 1:02}") for n in range(20)]
        done = site.run("load", f"visits{number}", _write(site, records, f"{number}.json"), "--no-precalculate")
        assert done.returncode == 0, done.stderr
    assert [len(_partitions(site, table)) for table in LONG] == ([3] * 3 if "hash" in way else [35] * 3)
    assert site.value("select count(*) from etl.partitions where octet_length(name) > 63") == 0
    assert site.value("select etl.note_lost_partitions()") == 0


@pytest.mark.slow
def test_a_hash_partition_has_no_name_of_another_table(site: Site) -> None:
    """The table of a person with that name is named, with exit code 2."""
    site.ask("create table logistics.visits_h1 (a integer)")
    site.write_definition(
        VISITS.replace("MODE", "merge")
        .replace('partition_by = "at"', "partition_hash = 3")
        .replace('"id", "at"', '"id"')
    )
    done = site.run("dataset", "create", "visits")
    assert (done.returncode, 'there is another table "logistics"."visits_h1"' in done.stderr) == (2, True), done.stderr


@pytest.mark.parametrize("session", [pytest.param("etl:partition", marks=pytest.mark.slow), "etl:retention"])
def test_a_command_whose_connection_is_lost_says_so(site: Site, monkeypatch: pytest.MonkeyPatch, session: str) -> None:
    """Exit code 4, one sentence, and the command that continues; the same command then comes to its end."""
    _define(site, "merge")
    _load(site, "2024-01-05", "2024-02-05", TODAY)
    if session == "etl:partition":
        site.ask("drop table logistics.visits, logistics.visit_lines")
        site.ask("delete from etl.partitions; delete from etl.partitioned_facts")
        site.define(VISITS.replace("MODE", "merge").replace('partition_by = "at"\n', ""))
        site.write_definition(VISITS.replace("MODE", "merge"))
        words = ["dataset", "partition", "visits"]
    else:
        words = ["retention", "visits", "--keep", "1d"]
    execute: Callable[..., psycopg.Cursor[Any]] = psycopg.Connection.execute
    left = 12

    def ended(connection: psycopg.Connection, *arguments: Any, **options: Any) -> psycopg.Cursor[Any]:
        nonlocal left
        if f"application_name={session}" in connection.info.dsn and getattr(connection, "watch", None):
            left -= 1
            if left == 0:
                site.terminate(connection.info.backend_pid)
        return execute(connection, *arguments, **options)

    monkeypatch.setattr(psycopg.Connection, "execute", ended)
    lost = site.run(*words)
    assert (lost.returncode, lost.stdout, len(lost.errors)) == (4, "", 1), lost.stderr
    assert "run the same command" in lost.error
    done = site.run(*words)
    assert done.returncode == 0, done.stderr
    assert site.value("select count(*) from logistics.visits where at < '2025-01-01'") == 0


@pytest.mark.slow
@pytest.mark.parametrize("is_divided_later", [False, True], ids=["new", "in use"])
def test_days_are_those_of_utc_whatever_the_time_zone_of_the_database(site: Site, is_divided_later: bool) -> None:
    """A partition holds a day in UTC, and retention removes whole days; an export of the table has all other rows."""
    name = site.connection.info.dbname
    site.ask(sql.SQL("alter database {} set timezone = 'Asia/Tokyo'").format(sql.Identifier(name)))
    _define(site, "merge")
    site.ask("drop table logistics.visits, logistics.visit_lines")
    site.ask("delete from etl.partitions; delete from etl.partitioned_facts")
    daily = VISITS.replace("MODE", "merge").replace(
        'partition_by = "at"', 'partition_by = "at"\npartition_every = "day"'
    )
    site.define(re.sub("partition_.*\n", "", daily) if is_divided_later else daily)
    assert site.run("db", "migrate").returncode == 0
    now = dt.datetime.now(dt.UTC)
    old = [{"id": n, "at": f"2024-02-{n + 1:02}T23:30:00-02:00", "weight": 1, "lines": [{}]} for n in range(29)]
    new = [{"id": 100 + n, "at": (now - dt.timedelta(hours=n)).isoformat(), "lines": []} for n in range(24)]
    assert site.run("load", "visits", _write(site, old + new)).returncode == 0
    if is_divided_later:
        site.write_definition(daily)
        done = site.run("dataset", "partition", "visits")
        assert done.returncode == 0, done.stderr
    query = "select distinct tableoid::regclass::text, to_char(at at time zone 'UTC', 'YYYYMMDD') from logistics.visits"
    days = site.ask(query)
    assert len(days) >= 30
    assert all(partition == f"logistics.visits_p{day}" for partition, day in days)
    assert ("logistics.visits_p20240301", "20240301") in days
    done = site.run("retention", "visits", "--keep", "30d")
    assert done.returncode == 0, done.stderr
    assert site.value("select count(*) from logistics.visits") == 24
    assert site.value("select count(*) from logistics.visit_lines") == 0
    exported = site.run("export", "visits", "--to", site.folder / "all", "--format", "csv")
    assert exported.returncode == 0, exported.stderr
    manifest = json.loads((site.folder / "all" / "manifest.json").read_text())
    assert {table["table"]: table["rows"] for table in manifest["tables"]}["logistics.visits"] == 24
    assert _is_right(site)
