"""Facts that are divided into months or days: a load makes the partitions that it needs, and old ones are removed."""

import json
import random
import re
from itertools import groupby
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from etl.database.partitions import _follows_deletions, empty, older, rows_of
from etl.datasets import read
from etl.errors import DefinitionError
from etl.precalculation.catalogue import choose
from etl.precalculation.installation import divided, install
from etl.precalculation.refresh import refresh
from tests.support.site import Site

VISITS = """
name = "visits"
mode = "MODE"
key = ["id", "at"]
[[table]]
name = "logistics.visits"
partition_by = "at"
[table.columns]
id = { type = "bigint", required = true }
at = { type = "timestamptz", required = true }
weight = "integer"
[[table]]
name = "logistics.visit_lines"
each = "lines"
partition_by = "at"
[table.columns]
id = { path = "^.id", type = "bigint" }
at = { path = "^.at", type = "timestamptz", required = true }
line = { path = "#", type = "integer" }
"""
MONTHS = [f"{year}-{month:02}" for year in (2024, 2025) for month in range(1, 13)]
AGGREGATE = """-- One row per month.
-- table: analytics.visit_months
-- bucket: month
-- fact logistics.visits: (at at time zone 'UTC')::date
-- newest: logistics.visits.at
-- key: month
-- column month: month of the visits
-- column count_visits: visits
-- column sum_weight: weight
select date_trunc('month', at at time zone 'UTC')::date as month, count(*) as count_visits, sum(weight) as sum_weight
from logistics.visits
where at >= :from_utc and at < :until_utc
group by 1
"""


def _define(site: Site, mode: str = "append") -> None:
    site.define(VISITS.replace("MODE", mode))
    folder = site.folder / "config" / "aggregates"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "visit_months.sql").write_text(AGGREGATE)
    install(site.connection, choose(["visit_months"], site.folder / "config"), {})


def _visits(count: int = 480) -> list[dict[str, Any]]:
    """Return visits of all months in a random order, the first instants of the months among them."""
    days = [f"{month}-01T00:00:00Z" if n % 2 else f"{month}-28T23:30:00-02:00" for month in MONTHS for n in range(20)]
    random.Random(1).shuffle(days)
    return [{"id": n, "at": day, "weight": n % 7, "lines": [{}] * (n % 3)} for n, day in enumerate(days[:count])]


def _write(site: Site, records: list[dict[str, Any]], name: str = "visits.json") -> str:
    (site.folder / name).write_text(json.dumps(records))
    return name


def _partitions(site: Site, table: str = "logistics.visits") -> list[str]:
    query = "select relid::text from pg_partition_tree(%s) where isleaf order by 1"
    return [name.partition(".")[2] for name in site.column(query, [table])]


@pytest.mark.parametrize(
    "options",
    [
        pytest.param(["--mode", "append"], marks=pytest.mark.slow),
        pytest.param(["--mode", "merge", "--workers", "2", "--batch-rows", "50"], marks=pytest.mark.slow),
        pytest.param(["--mode", "merge", "--atomic"], marks=pytest.mark.slow),
        ["--mode", "replace"],
        ["--mode", "merge", "--decoder", "ijson", "--batch-rows", "100"],
    ],
    ids=["append", "workers", "atomic", "replace", "checked"],
)
def test_a_load_makes_the_months_that_it_needs(site: Site, options: list[str]) -> None:
    """All records are in the partitions of their UTC months, with their child rows, in each mode; aggregates follow."""
    _define(site)
    before = _partitions(site)
    assert len(before) == 4
    source = _write(site, _visits())
    done = site.run("load", "visits", source, "--json", *options)
    assert done.returncode == 0, done.stderr
    assert done.summary["records"]["loaded"] == 480
    made = [name for name in _partitions(site) if name not in before]
    assert made == sorted({f"visits_p{month.replace('-', '')}" for month in MONTHS})
    assert len(_partitions(site, "logistics.visit_lines")) == 28
    query = "select distinct tableoid::regclass::text, to_char(at at time zone 'UTC', 'YYYYMM') from logistics.visits"
    assert all(partition == f"logistics.visits_p{month}" for partition, month in site.ask(query))
    assert site.value("select count(*) from logistics.visit_lines") == 480
    assert site.value("select sum(count_visits) from analytics.visit_months") == 480
    assert site.run("precalculate", "visit_months", "--verify").returncode == 0
    assert site.run("load", "visits", source, *options).returncode == 0
    assert site.value("select count(*) from logistics.visits") == 480


@pytest.mark.parametrize(
    ("options", "batches"),
    [
        (["--mode", "append"], 1),
        (["--mode", "merge"], 1),
        (["--mode", "merge", "--batch-rows", "120"], 4),
        (["--mode", "merge", "--atomic"], 1),
    ],
    ids=["append", "merge", "batches", "atomic"],
)
def test_rows_are_written_one_partition_after_the_other(site: Site, options: list[str], batches: int) -> None:
    """Records of all months in random order change the partition as often as a batch has months; so do newer versions.

    Each change costs the server. Child rows change it more often where COPY sends them to their table.
    """
    _define(site)
    months = [f"{month}-15" for month in MONTHS]
    for table in ("logistics.visits", "logistics.visit_lines"):
        site.ask("select etl.make_partitions(%s, %s::timestamp[])", [table, months])
    site.ask("create table written (number bigserial, name text, partition text)")
    site.ask(
        "create function note_written() returns trigger language plpgsql as"
        " $$ begin insert into written (name, partition) values (tg_argv[0], tg_relid::regclass); return null; end $$"
    )
    for table in ("visits", "visit_lines"):
        site.ask(
            f"create trigger written after insert or update on logistics.{table}"
            f" for each row execute function note_written('{table}')"
        )
    records = [visit | {"at": visit["at"].replace("-02:00", "Z")} for visit in _visits()]
    newer = [record | {"weight": 9} for record in records]
    random.Random(2).shuffle(newer)
    sources = [_write(site, records), _write(site, newer, "newer.json")]
    for source in sources if "merge" in options else sources[:1]:
        site.ask("truncate written")
        done = site.run("load", "visits", source, "--json", "--no-precalculate", *options)
        assert (done.returncode, done.summary["records"]["loaded"]) == (0, 480), done.stderr
        for table in ("visits", "visit_lines"):
            written = site.column("select partition from written where name = %s order by number", [table])
            assert len(written) == 480
            if table == "visits" or "merge" in options:
                assert len(list(groupby(written))) <= len(MONTHS) * batches


def test_a_refused_record_takes_no_new_month_with_it(site: Site) -> None:
    """Records after a refused one are loaded, also those of new months; a year out of range is refused."""
    _define(site)
    site.on_insert(
        "logistics.visits", "new.id = 3", "raise check_violation using constraint = 'odd';", moment="in COPY"
    )
    records = _visits(60)
    records[7]["at"] = "1823-01-01T00:00:00Z"
    records[9]["at"] = None
    done = site.run("load", "visits", _write(site, records), "--json", "--max-rejected", "3")
    assert (done.returncode, done.summary["records"]["loaded"]) == (1, 57), done.stderr
    reasons = [line["reason"] for line in site.failures.records(done.summary["run"])]
    assert [("no partition of logistics.visits holds it" in reason) for reason in reasons] == [False, True, False]
    source = _write(site, records[4:], "others.json")
    for options in (["--dry-run"], ["--mode", "replace"]):
        done = site.run("load", "visits", source, "--json", "--max-rejected", "3", *options)
        assert (done.returncode, done.summary["records"]["rejected"]) == (1, 2), done.stderr


def test_replay_trace_undo_and_checks_work_on_partitions(site: Site) -> None:
    """A corrected record is replayed into a new month and traced; the run is taken back; the checks are content."""
    _define(site, "merge")
    records = _visits(20)
    records[5] |= {"at": "soon"}
    done = site.run("load", "visits", _write(site, records), "--json", "--max-rejected", "1")
    assert done.returncode == 1, done.stderr
    run = done.summary["run"]
    [path] = site.failures.folder.glob(f"*/{run}/*.ndjson")
    path.write_text(path.read_text().replace("soon", "2021-11-05T00:00:00Z"))
    assert site.run("failed", "replay", "--run", run).returncode == 0
    assert "visits_p202111" in _partitions(site)
    traced = site.run("runs", "trace", "logistics.visits", "id=5", "--json")
    assert (traced.returncode, json.loads(traced.stdout.splitlines()[0])["record"]) == (0, 6), traced.stderr
    for words in (("dataset", "check", "visits"), ("db", "check"), ("precalculate", "visit_months", "--verify")):
        checked = site.run(*words)
        assert checked.returncode == 0, checked.stdout + checked.stderr
    assert site.run("runs", "undo", run).returncode == 0
    assert site.value("select count(*) from logistics.visits") == 0
    assert site.value("select count(*) from analytics.visit_months") == 0


def test_a_loader_makes_partitions_and_no_table(site: Site) -> None:
    """The role etl_loader is enough; the function makes partitions of listed tables only."""
    _define(site)
    site.ask("drop role if exists partition_loader")
    site.ask("create role partition_loader login in role etl_loader")
    try:
        conninfo = make_conninfo(site.conninfo, user="partition_loader")
        done = site.run("load", "visits", _write(site, _visits()), "--no-precalculate", conninfo=conninfo)
        assert done.returncode == 0, done.stderr
        assert len(_partitions(site)) == 28
        with psycopg.connect(conninfo) as loader:
            query = "select etl.make_partitions('logistics.shipments', array['2020-01-01'::timestamp])"
            assert loader.execute(query).fetchone() == (0,)
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                loader.execute("create table logistics.own (a int)")
    finally:
        site.ask("drop owned by partition_loader")
        site.ask("drop role partition_loader")


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (('key = ["id", "at"]', 'key = ["id"]'), "PostgreSQL keeps a key unique within a partition only"),
        (('partition_by = "at"', 'partition_by = "weight"'), "of type date, timestamp, timestamptz, got 'weight'"),
        (('partition_by = "at"', 'partition_by = "when"'), "got 'when'"),
        (('path = "^.at", type = "timestamptz", required = true', 'path = "^.at", type = "timestamptz"'), "holds null"),
        (('partition_by = "at"', 'history = true\npartition_by = "at"'), "exclude each other"),
        (('partition_by = "at"', 'partition_by = "at"\npartition_every = "week"'), "week"),
        (('partition_by = "at"', 'partition_by = "at"\npartition_hash = 8'), "exclude each other"),
        (('partition_by = "at"', "partition_hash = 1"), "partition_hash"),
        (('partition_by = "at"', "history = true\npartition_hash = 8"), "exclude each other"),
    ],
)
def test_an_impossible_partition_is_refused_with_the_reason(
    tmp_path: Path, change: tuple[str, str], problem: str
) -> None:
    """The definition is wrong, with table and reason."""
    path = tmp_path / "visits.toml"
    path.write_text(VISITS.replace("MODE", "merge").replace(*change, 1))
    with pytest.raises(DefinitionError, match=re.escape(problem)):
        read(path)


def test_a_table_that_is_there_is_not_divided(site: Site) -> None:
    """A plain table stays as it is, and the error names the command that divides it."""
    site.define(VISITS.replace("MODE", "append").replace('partition_by = "at"\n', ""))
    site.write_definition(VISITS.replace("MODE", "append"))
    done = site.run("dataset", "create", "visits")
    assert (done.returncode, "logistics.visits is not partitioned by at" in done.stderr) == (2, True), done.stderr
    assert "etl dataset partition visits" in done.stderr


HASHED = VISITS.replace('partition_by = "at"', "partition_hash = 3").replace('"id", "at"', '"id"')


def test_a_table_is_divided_by_the_hash_of_the_key(site: Site) -> None:
    """Records are in the partition of their key, with child rows; changes by the name of a partition are noted."""
    site.write_definition(HASHED.replace("MODE", "merge"))
    folder = site.folder / "config" / "aggregates"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "visit_months.sql").write_text(AGGREGATE)
    assert site.run("db", "migrate").returncode == 0
    assert _partitions(site) == ["visits_h0", "visits_h1", "visits_h2"]
    assert len(_partitions(site, "logistics.visit_lines")) == 3
    source = _write(site, _visits())
    assert site.run("load", "visits", source).returncode == 0
    counts = [site.value(f"select count(*) from logistics.visits_h{n}") for n in range(3)]  # noqa: S608
    assert (sum(counts), min(counts) > 100) == (480, True)
    newer = [{**record, "weight": 50} for record in _visits(100)]
    assert site.run("load", "visits", _write(site, newer, "newer.json")).returncode == 0
    assert site.value("select count(*) from logistics.visits where weight = 50") == 100
    assert site.run("load", "visits", _write(site, newer, "all.json"), "--mode", "replace").returncode == 0
    assert site.value("select count(*) from logistics.visits") == 100
    assert divided(site.connection) == []
    site.ask("update logistics.visits_h1 set weight = 1000")
    assert _is_right_after_a_refresh(site)
    for words in (("dataset", "check", "visits"), ("db", "migrate"), ("db", "check")):
        checked = site.run(*words)
        assert checked.returncode == 0, checked.stdout + checked.stderr
    refused = site.run("retention", "visits", "--keep", "1d")
    assert (refused.returncode, "no table of visits has partition_by" in refused.stderr) == (2, True)
    site.ask("truncate logistics.visits_h0")
    site.ask("drop table logistics.visits_h2")
    assert site.run("db", "migrate").returncode == 0
    assert _is_right_after_a_refresh(site)


def test_a_plain_table_is_not_divided_by_a_hash(site: Site) -> None:
    """It stays as it is, and so does a table with another number of partitions; exit code 2 says what to do."""
    plain = HASHED.replace("MODE", "merge").replace("partition_hash = 3\n", "")
    site.define(plain)
    for before in (plain, HASHED.replace("MODE", "merge").replace("= 3", "= 2")):
        site.ask("drop table logistics.visits, logistics.visit_lines")
        site.define(before)
        site.write_definition(HASHED.replace("MODE", "merge"))
        done = site.run("dataset", "create", "visits")
        assert (done.returncode, "partitioned" in done.stderr) == (2, True)
        assert "by the hash of id into 3\n" in done.stderr


def _old_months(site: Site) -> list[str]:
    return [name for name in _partitions(site) if name < "visits_p202507"]


def test_old_months_go_with_their_child_rows(site: Site) -> None:
    """A dry run shows them; then they are gone, the aggregates agree at once, and a second command finds nothing."""
    _define(site)
    assert site.run("load", "visits", _write(site, _visits())).returncode == 0
    [(months,)] = site.ask(
        "select (extract(year from age) * 12 + extract(month from age))::integer"
        " from age(date_trunc('month', now() at time zone 'UTC'), '2025-07-01') as age"
    )
    command = ("retention", "visits", "--keep", f"{months}m", "--json")
    shown = site.run(*command, "--dry-run")
    listed = [json.loads(line) for line in shown.stdout.splitlines()]
    assert len(listed) == 36
    old = [record for record in _visits() if record["at"] < "2025-07"]
    assert sum(each["rows"] for each in listed) == sum(1 + len(record["lines"]) for record in old)
    assert len(_old_months(site)) == 18
    # A partition that is added by hand, and one of another table, stay.
    site.ask(
        "create table logistics.oldest partition of logistics.visits for values from ('1990-01-01') to ('1991-01-01')"
    )
    done = site.run(*command)
    assert done.returncode == 0, done.stderr
    assert [json.loads(line) | {"dry_run": True} for line in done.stdout.splitlines()] == listed
    assert _partitions(site)[0] == "oldest"
    assert _old_months(site) == ["oldest"]
    assert site.value("select count(*) from logistics.visits") == 120
    orphans = "select count(*) from logistics.visit_lines where id not in (select id from logistics.visits)"
    assert site.value(orphans) == 0
    assert site.value("select min(month)::text from analytics.visit_months") == "2025-07-01"
    assert site.value("select pending_buckets from analytics.freshness where aggregate = 'visit_months'") == 0
    assert site.run("precalculate", "visit_months", "--verify").returncode == 0
    assert site.run(*command).stdout == ""
    # An old record that comes later makes its month again.
    late = site.run("load", "visits", _write(site, [{"id": 1, "at": "2024-05-05T00:00Z", "lines": []}], "late.json"))
    assert late.returncode == 0, late.stderr
    assert "visits_p202405" in _partitions(site)


def test_whoever_follows_deletions_sees_those_of_old_months(site: Site) -> None:
    """Rows of child tables that nobody follows go with their partition; a trigger of a user gets each of them."""
    _define(site)
    assert site.run("load", "visits", _write(site, _visits())).returncode == 0
    site.ask("create table public.gone (id bigint, line integer)")
    site.ask(
        "create function public.note_gone() returns trigger language plpgsql as $$"
        " begin insert into public.gone values (old.id, old.line); return null; end $$"
    )
    site.ask(
        "create trigger note_gone after delete on logistics.visit_lines"
        " for each row execute function public.note_gone()"
    )
    lines = site.value("select count(*) from logistics.visit_lines")
    assert site.run("retention", "visits", "--keep", "1d").returncode == 0
    assert site.value("select count(distinct (id, line)) from public.gone") == lines == 480
    assert site.value("select count(*) from logistics.visit_lines") == 0


@pytest.mark.parametrize(("follower", "follows"), [(None, False), ("trigger", True), ("publication", True)])
def test_deletions_are_made_for_those_who_follow_them(site: Site, follower: str | None, *, follows: bool) -> None:
    """A table without triggers and subscribers keeps its rows until its partition is dropped."""
    _define(site)
    assert site.run("load", "visits", _write(site, _visits())).returncode == 0
    if follower == "trigger":
        site.ask(
            "create trigger own before delete on logistics.visit_lines for each statement"
            " execute function suppress_redundant_updates_trigger()"
        )
    elif follower:
        site.ask("alter table logistics.visit_lines_p202401 replica identity full")
        site.ask("create publication own for table logistics.visit_lines")
    dataset = read(site.folder / "config" / "datasets" / "visits.toml")
    line, *_ = [each for each in older(site.connection, dataset, "1 day") if each.fact == "logistics.visit_lines"]
    before = rows_of(site.connection, line)
    with site.connection.transaction(force_rollback=True):
        if follower != "trigger":
            assert empty(site.connection, line, None)
            assert rows_of(site.connection, line) == (0 if follows else before)
        assert _follows_deletions(site.connection, line) is follows


SLOW = [pytest.param(state, marks=pytest.mark.slow) for state in ("emptied", "detached", "dropped")]


@pytest.mark.parametrize("state", ["detaching", *SLOW])
def test_a_removal_that_was_cut_off_is_continued(site: Site, state: str) -> None:
    """Whichever step was the last one, the same command ends the removal, and the aggregates agree."""
    _define(site)
    assert site.run("load", "visits", _write(site, _visits())).returncode == 0
    site.ask("delete from logistics.visits where at < '2024-02-01'")
    site.ask("update etl.partitions set is_removed = true where name = 'visits_p202401'")
    if state == "detaching":
        _begin_to_detach(site)
    elif state != "emptied":
        site.ask("alter table logistics.visits detach partition logistics.visits_p202401")
    if state == "dropped":
        site.ask("drop table logistics.visits_p202401")
    done = site.run("retention", "visits", "--keep", "1d")
    assert done.returncode == 0, done.stderr
    assert site.value("select count(*) from logistics.visits") == 0
    assert site.value("select count(*) from etl.partitions where until_day <= now()::date") == 0
    assert site.value("select count(*) from analytics.visit_months") == 0


def _rows_of_exports(folder: Path) -> dict[str, int]:
    """Return the rows of the complete exports in a folder, by their place; each file has the rows of the manifest."""
    found = {}
    for path in sorted(folder.glob("*/manifest.json")):
        manifest = json.loads(path.read_text())
        [table] = manifest["tables"]
        assert all((path.parent / file["path"]).stat().st_size == file["bytes"] for file in table["files"])
        found[path.parent.name] = table["rows"]
    return found


def test_removed_months_are_exported_before(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each row is in one complete export, whichever statement was the last before a kill, also rows that come late."""
    _define(site)
    assert site.run("load", "visits", _write(site, _visits())).returncode == 0
    command = ("retention", "visits", "--keep", "1d", "--export", site.folder / "old", "--format", "csv")
    execute = psycopg.Connection.execute
    left = 0

    def killed(connection: Any, *arguments: Any, **options: Any) -> Any:
        nonlocal left
        left -= 1
        if left == 0 and connection is not site.connection:
            connection.close()
        return execute(connection, *arguments, **options)

    monkeypatch.setattr(psycopg.Connection, "execute", killed)
    for number in range(14, 80, 11):
        left = number
        ended = site.run(*command, may_be_faulty=True)
        assert ended.returncode != 0 or left > 0
    left = 0
    late = {"id": 7777, "at": "2025-12-05T00:00Z", "lines": []}
    assert site.run("load", "visits", _write(site, [late], "late.json")).returncode == 0
    done = site.run(*command)
    assert done.returncode == 0, done.stderr
    exported = _rows_of_exports(site.folder / "old")
    assert len(exported) == 48 + ("visits_p202512-2" in exported)
    assert sum(rows for name, rows in exported.items() if name.startswith("visits_p")) == 481
    assert sum(rows for name, rows in exported.items() if name.startswith("visit_lines_p")) == 480
    assert site.value("select count(*) from analytics.visit_months") == 0
    # The same month comes again: its export is beside the first one.
    late["at"] = "2024-03-05T00:00Z"
    assert site.run("load", "visits", _write(site, [late], "again.json"), "--allow-empty").returncode == 0
    assert site.run(*command).returncode == 0
    assert _rows_of_exports(site.folder / "old").items() >= {("visits_p202403", 20), ("visits_p202403-2", 1)}


def _begin_to_detach(site: Site) -> None:
    """Cut off the detaching of a partition while a reader keeps it from its second step."""
    with site.connect() as reader, site.connect() as other:
        reader.execute("begin")
        reader.execute("select count(*) from logistics.visits")
        other.execute("set statement_timeout = '300ms'")
        with pytest.raises(psycopg.errors.QueryCanceled):
            other.execute("alter table logistics.visits detach partition logistics.visits_p202401 concurrently")
        reader.execute("rollback")
    assert site.value("select count(*) from pg_inherits where inhdetachpending") == 1


def _is_right_after_a_refresh(site: Site) -> bool:
    refresh(site.connection, choose(["visit_months"], site.folder / "config")[0], run=None)
    return site.run("precalculate", "visit_months", "--verify").returncode == 0


def test_changes_by_the_name_of_a_partition_are_noted(site: Site) -> None:
    """Rows that are written, changed or removed there, and a partition that is emptied, are in the next refresh."""
    _define(site)
    assert divided(site.connection) == []
    assert site.run("load", "visits", _write(site, _visits())).returncode == 0
    for statement in (
        (
            "insert into logistics.visits_p202405 (id, at, weight, etl_run, etl_batch, etl_place)"
            " values (9999, '2024-05-05Z', 3, 1, 0, 1)"
        ),
        "update logistics.visits_p202406 set weight = 100",
        "delete from logistics.visits_p202407 where weight < 3",
        "truncate logistics.visits_p202408",
    ):
        site.connection.execute(statement.encode())
        assert site.value("select count(*) from etl.touched") == 1, statement
        assert _is_right_after_a_refresh(site), statement


@pytest.mark.parametrize("statement", ["drop table {}", "alter table logistics.visits detach partition {}"])
def test_a_partition_that_a_person_removes_is_noticed(site: Site, statement: str) -> None:
    """The next refresh, also that of the listener, recomputes the aggregates; a load can make the month again.

    It is noticed at once by event triggers, and without them by the refresh.
    """
    _define(site)
    assert site.run("load", "visits", _write(site, _visits())).returncode == 0
    pending = "select count(*) from etl.pending where aggregate = 'visit_months'"
    site.ask("create temporary table other (a integer)")
    site.ask("drop table other")
    assert site.value(pending) == 0
    site.connection.execute(statement.format("logistics.visits_p202407").encode())
    assert site.value(pending) == 1
    assert _is_right_after_a_refresh(site)
    site.ask("drop event trigger etl_partition_dropped")
    site.ask("drop event trigger etl_partition_detached")
    site.connection.execute(statement.format("logistics.visits_p202408").encode())
    assert site.value(pending) == 0
    assert site.run("precalculate", "visit_months").returncode == 0
    assert site.value("select count(*) from analytics.visit_months where month = '2024-08-01'") == 0
    assert site.run("precalculate", "visit_months", "--verify").returncode == 0
    site.connection.execute(statement.format("logistics.visits_p202409").encode())
    late = [{"id": 1, "at": f"2024-{month}-05T00:00Z", "lines": []} for month in ("08", "09")]
    done = site.run("load", "visits", _write(site, late, "late.json"))
    assert done.returncode == 0, done.stderr
    suffix = "_2" if "detach" in statement else ""
    assert {f"visits_p20240{month}{suffix}" for month in (8, 9)} <= set(_partitions(site))
    assert site.run("precalculate", "visit_months", "--verify").returncode == 0


def test_a_table_that_is_dropped_is_made_again_with_its_partitions(site: Site) -> None:
    """`dataset create` forgets the partitions of the table before, so that the next load makes them."""
    _define(site)
    source = _write(site, _visits(50))
    assert site.run("load", "visits", source, "--no-precalculate").returncode == 0
    site.ask("drop table logistics.visits, logistics.visit_lines")
    assert site.run("dataset", "create", "visits").returncode == 0
    assert site.run("load", "visits", source, "--force").returncode == 0
    assert site.value("select count(*) from logistics.visits") == 50
    assert site.run("precalculate", "visit_months", "--verify").returncode == 0


def test_partitions_of_a_person_stay_beside_those_of_loads(site: Site) -> None:
    """A partition of several months holds its rows, and a load makes none in its place."""
    _define(site)
    year = "for values from ('2024-01-01') to ('2025-01-01')"
    site.connection.execute(f"create table logistics.year_2024 partition of logistics.visits {year}".encode())
    assert site.run("load", "visits", _write(site, _visits())).returncode == 0
    assert site.value("select count(*) from logistics.year_2024") == 240
    assert divided(site.connection) == [("logistics.visits", ["visit_months"])]
    assert not [name for name in _partitions(site) if name.startswith("visits_p2024")]


def test_retention_names_what_it_cannot_do(site: Site) -> None:
    """A dataset without partitions, and an age that is none, are exit code 2."""
    for words, problem in (
        (("shipments", "--keep", "36m"), "no table of shipments has partition_by"),
        (("shipments", "--keep", "36"), "expected an age such as 36m"),
    ):
        done = site.run("retention", *words)
        assert (done.returncode, problem in done.stderr) == (2, True), done.stderr
