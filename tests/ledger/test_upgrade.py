"""A database that an earlier version made is used on: its ledger, its unfinished runs and its failed store.

The folder `version_0008` was made by the version before the marks of sources; what it holds never changes.
"""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from unittest.mock import patch

import pytest
from psycopg import sql
from psycopg.conninfo import make_conninfo

from etl.database import migrations
from etl.database.connecting import Database
from etl.datasets import find
from etl.ingestion.ledger import marks
from etl.provisioning import create
from etl.settings import shipped
from tests.support.marked import marks_of, recognised
from tests.support.site import Site

VERSION = Path(__file__).parent / "version_0008"
TABLES = ("etl.runs", "etl.attempts", "etl.batches", "etl.failures", "etl.faults", "logistics.parcels")


def _sql_before(folder: Path, last: str = "0008") -> Path:
    """Return the SQL of a version before: without the migrations after its last."""
    shutil.copytree(shipped("sql"), folder)
    for path in (*folder.glob("migrations/[0-9]*.sql"), *folder.glob("migrations/versions/[0-9]*.py")):
        if path.name[:4] > last:
            path.unlink()
    return folder


@pytest.fixture
def empty_site(site: Site, tmp_path: Path) -> Iterator[Site]:
    """Give a database without any table."""
    name = f"{site.value('select current_database()')}_before"
    site.ask(sql.SQL("create database {}").format(sql.Identifier(name)))
    empty = Site(make_conninfo(site.conninfo, dbname=name), tmp_path)
    yield empty
    empty.close()
    site.ask(sql.SQL("drop database {} with (force)").format(sql.Identifier(name)))


@pytest.fixture
def before(empty_site: Site, tmp_path: Path) -> Site:
    """Give the database, the sources and the failed store of the version before, migrated to this one."""
    folder = _sql_before(tmp_path / "sql")
    with patch.object(migrations, "shipped", lambda _name: folder):
        migrations.run_migrations(empty_site.connection)
    for path in VERSION.glob("*.*json"):
        shutil.copy(path, empty_site.folder)
    shutil.copytree(VERSION / "failed", empty_site.store, dirs_exist_ok=True)
    empty_site.write_definition((VERSION / "parcels.toml").read_text())
    create(Database(conninfo=empty_site.conninfo), find("parcels", empty_site.folder / "config"))
    ledger = json.loads((VERSION / "ledger.json").read_text())
    for name in TABLES:
        rows = ledger[name.split(".")[1]]
        statement = sql.SQL(
            "insert into {table} ({columns}) overriding system value select {columns} from"
            " json_populate_recordset(null::{table}, %s)"
        ).format(table=sql.Identifier(*name.split(".")), columns=sql.SQL(", ").join(map(sql.Identifier, rows[0])))
        empty_site.ask(statement, [json.dumps(rows)])
    empty_site.ask("select setval(pg_get_serial_sequence('etl.runs', 'number'), 3)")
    assert empty_site.run("db", "migrate").returncode == 0
    return empty_site


def _count(before: Site) -> tuple[int, int]:
    [(count, distinct)] = before.ask("select count(*), count(distinct id) from logistics.parcels")
    return count, distinct


def test_the_sources_of_the_version_before_are_known(before: Site) -> None:
    """Each loaded source is known again, by its name or another; then its run has marks."""
    (before.folder / "array.json").rename(before.folder / "renamed.json")
    for name, skipped in (("finished.ndjson", 60), ("renamed.json", 30)):
        summary = before.load("parcels", name)
        assert (summary["status"], summary["records"]["skipped"]) == ("already_loaded", skipped)
    assert before.column("select distinct run from etl.marks order by run") == [1, 3]
    assert _count(before) == (127, 127)
    assert before.load("parcels", "finished.ndjson")["status"] == "already_loaded"


def test_a_file_of_a_group_that_the_version_before_loaded_is_known(empty_site: Site, tmp_path: Path) -> None:
    """After the migration the attempts of each run are those that it had, and a file that grew continues."""
    folder = _sql_before(tmp_path / "sql", "0032")
    with patch.object(migrations, "shipped", lambda _name: folder):
        migrations.run_migrations(empty_site.connection)
    empty_site.write_definition((VERSION / "parcels.toml").read_text())
    create(Database(conninfo=empty_site.conninfo), find("parcels", empty_site.folder / "config"))
    empty_site.ask(
        "insert into etl.runs (run, dataset, source, definition_hash, mode, is_atomic, is_forced)"
        " values ('r', 'parcels', 'a.ndjson', '', 'append', false, false);"
        " insert into etl.attempts (run, attempt, ended_at, exit_code, count_read, count_retried, bytes_read, host,"
        " os_user, pid, options, tool_version) values ('r', 1, now(), 3, 7, 0, 70, 'h', 'u', 1, '', '0')"
    )
    assert empty_site.run("db", "migrate").returncode == 0
    [shown] = empty_site.run("runs", "show", "r", "--json").lines
    assert [(each["count_read"], each["host"]) for each in shown["attempts"]] == [(7, "h")]
    path = empty_site.folder / "b.ndjson"
    for number in (1, 2):
        path.write_text("".join(f'{{"id":"Q{place}","kg":1}}\n' for place in range(number)))
        assert empty_site.load("parcels", "b.ndjson")["records"]["loaded"] == 1
    assert empty_site.column("select attempt from etl.all_attempts order by run, attempt") == [1, 2, 1]


def test_a_batch_that_the_version_before_stored_beside_its_run_is_known(empty_site: Site, tmp_path: Path) -> None:
    """The rows of a group of before stay, whoever read the tables reads the views, and old and new files are known."""
    folder = _sql_before(tmp_path / "sql", "0048")
    with patch.object(migrations, "shipped", lambda _name: folder):
        migrations.run_migrations(empty_site.connection)
    empty_site.write_definition((VERSION / "parcels.toml").read_text())
    dataset = find("parcels", empty_site.folder / "config")
    create(Database(conninfo=empty_site.conninfo), dataset)
    files = empty_site.folder / "in"
    files.mkdir()
    old = b'{"id":"a0","kg":1}\n{"id":"a1","kg":1}\n'
    (files / "a.ndjson").write_bytes(old)
    known = marks_of(old)
    hashes = [mark.hash ^ marks._salt("parcels") for mark in known]
    empty_site.ask(
        "insert into etl.group_attempts (ended_at, host, os_user, pid, options, tool_version)"
        " values (now(), 'h', 'u', 1, '', '0');"
        " insert into etl.runs (run, dataset, source, definition_hash, mode, is_atomic, is_forced, finished_at,"
        " group_attempt, bytes_after) values ('r', 'parcels', 'in/a.ndjson', '', 'append', false, false, now(), 1, 1);"
        ' insert into etl.batches (run, "offset", bytes, first_record, count_records, hash, attempt, count_loaded,'
        " count_rejected, count_failed, rows) values ('r', 0, 37, 1, 2, '', 1, 2, 0, 0, '{2}');"
        " insert into logistics.parcels (id, kg, etl_run, etl_batch, etl_place)"
        " values ('a0', 1, 1, 0, 1), ('a1', 1, 1, 0, 2);"
        " grant select on etl.batches to public"
    )
    empty_site.ask(
        "insert into etl.marks (run, last_record, anchor, hashes, places) values (1, 2, %s, %s, %s)",
        [hashes[0], hashes, bytes(marks._encoded(known))],
    )
    before = empty_site.ask("select * from etl.batches"), empty_site.ask("select * from etl.all_attempts")
    assert empty_site.run("db", "migrate").returncode == 0
    assert (empty_site.ask("select * from etl.batches"), empty_site.ask("select * from etl.all_attempts")) == before
    assert empty_site.value("select relacl::text ~ '[{,]=r' from pg_class where oid = 'etl.batches'::regclass")
    for name in ("b", "c"):
        (files / f"{name}.ndjson").write_text(f'{{"id":"{name}","kg":1}}\n')
    statuses = [each["status"] for each in empty_site.run("load", "parcels", "in", "--json").summaries]
    assert statuses == ["already_loaded", "loaded", "loaded"]
    assert _count(empty_site) == (4, 4)
    (files / "a.ndjson").write_bytes(old + b'{"id":"a2","kg":1}\n')
    assert [each["records"]["loaded"] for each in empty_site.run("load", "parcels", "in", "--json").summaries] == [
        1,
        0,
        0,
    ]
    assert _count(empty_site) == (5, 5)


def test_an_unfinished_run_and_a_grown_source_continue(before: Site) -> None:
    """The rest of a source that was cut off is loaded by its run, and so is the tail of one that grew."""
    whole = (before.folder / "cut.ndjson").read_bytes()
    whole = whole[: whole.rindex(b"\n") + 1]
    (before.folder / "cut.ndjson").write_bytes(whole + b'{"id":"P140","kg":1}\n{"id":"P141","kg":1}\n')
    summary = before.load("parcels", "cut.ndjson")
    assert (summary["status"], summary["records"]["loaded"], summary["records"]["skipped"]) == (
        "loaded_with_rejects",
        2,
        40,
    )
    grown = before.folder / "finished.ndjson"
    grown.write_bytes(grown.read_bytes() + b'{"id":"P60","kg":1}\n')
    assert before.load("parcels", "finished.ndjson")["records"]["loaded"] == 1
    assert before.value("select count(*) from etl.runs") == 3
    assert _count(before) == (130, 130)


def test_a_part_of_a_source_of_the_version_before_is_not_loaded_again(before: Site) -> None:
    """A copy that was cut off within a batch is exit 3; one that ends with a batch is known. Then the whole is, too."""
    lines = (before.folder / "finished.ndjson").read_bytes().splitlines(keepends=True)
    part = before.folder / "part.ndjson"
    part.write_bytes(b"".join(lines[:20]))
    assert before.run("load", "parcels", "part.ndjson").returncode == 3
    part.write_bytes(b"".join(lines[:16]))
    assert before.load("parcels", "part.ndjson")["records"]["skipped"] == 16
    assert before.load("parcels", "finished.ndjson")["records"]["skipped"] == 60
    assert _count(before) == (127, 127)


def test_failures_of_the_version_before_are_replayed(before: Site) -> None:
    """A record that waits in the failed store is corrected and replayed into its run."""
    for path in before.store.glob("parcels/*/*.ndjson"):
        path.write_bytes(path.read_bytes().replace(b'"heavy"', b"1"))
    assert before.run("failed", "replay", "--all").returncode == 0
    assert _count(before) == (130, 130)
    assert before.load("parcels", "finished.ndjson")["exit_code"] == 0


def test_runs_that_were_found_by_each_of_their_marks_are_found_by_one(empty_site: Site, tmp_path: Path) -> None:
    """After the migration each run is known again, also where more of them share their beginning than one mark has."""
    folder = _sql_before(tmp_path / "sql", "0013")
    with patch.object(migrations, "shipped", lambda _name: folder):
        migrations.run_migrations(empty_site.connection)
    sources = [b'{"i":1}\n{"i":2}\n{"i":%d}\n{"i":%d}\n' % (number // 50, number) for number in range(150)]
    for number, source in enumerate(sources):
        [(run,)] = empty_site.ask(
            "insert into etl.runs (run, dataset, source, definition_hash, mode, is_atomic, is_forced)"
            " values (%s, 'events', '', '', 'append', false, false) returning number",
            [str(number)],
        )
        found = marks_of(source)
        # The marks of the beginning of a run, and then those of its first batch.
        for row in (found[:2], found[1:]):
            hashes = [mark.hash ^ marks._salt("events") for mark in row]
            empty_site.ask(
                "insert into etl.marks (run, last_record, hashes, places) values (%s, %s, %s, %s)",
                [run, row[-1].records, hashes, bytes(marks._encoded(row))],
            )
    migrations.run_migrations(empty_site.connection)
    at_each = empty_site.column("select count(*) from etl.marks where anchor is not null group by anchor order by 1")
    assert sum(at_each) == 150
    assert at_each[-2:] == [64, 64]
    for number, source in list(enumerate(sources))[::9]:
        decided = recognised(empty_site.connection, "events", source)
        assert (decided.kind, decided.run) == ("within", number + 1)
    assert recognised(empty_site.connection, "events", sources[0] + b'{"i":9}\n').kind == "extends"
    assert recognised(empty_site.connection, "events", b'{"i":1}\n{"i":2}\n{"i":7}\n').kind == "perhaps within"
    assert recognised(empty_site.connection, "events", b'{"i":1}\n{"i":9}\n').kind == "new"


def test_a_run_of_the_version_before_undone_runs_is_undone(empty_site: Site, tmp_path: Path) -> None:
    """After the migration a run that an earlier version loaded is taken back, and its source loads again."""
    folder = _sql_before(tmp_path / "sql", "0017")
    with patch.object(migrations, "shipped", lambda _name: folder):
        migrations.run_migrations(empty_site.connection)
    empty_site.define('name = "events"\n[[table]]\nname = "logistics.events"\n[table.columns]\ni = "integer"\n')
    (empty_site.folder / "a.ndjson").write_bytes(b'{"i":1}\n{"i":2}\n')
    empty_site.ask(
        "insert into etl.runs (run, dataset, source, definition_hash, mode, is_atomic, is_forced, finished_at)"
        " values ('r', 'events', 'a.ndjson', '', 'append', false, false, now())"
    )
    empty_site.ask(
        'insert into etl.batches (run, "offset", bytes, first_record, count_records, hash, attempt, count_loaded,'
        " count_rejected, count_failed, rows) values ('r', 0, 16, 1, 2, '', 1, 2, 0, 0, '{2}')"
    )
    empty_site.ask("insert into logistics.events (i, etl_run, etl_batch, etl_place) values (1, 1, 0, 1), (2, 1, 0, 2)")
    assert empty_site.run("db", "migrate").returncode == 0
    assert empty_site.run("runs", "show", "r", "--json").lines[0]["status"] == "loaded"
    assert empty_site.run("runs", "undo", "r").returncode == 0
    assert empty_site.load("events", "a.ndjson")["records"]["loaded"] == 2
    assert empty_site.value("select count(*) from logistics.events") == 2


def test_unknown_members_that_were_only_named_do_not_count(site: Site) -> None:
    """An unfinished run of a version that only named unknown members of some records continues, and counts its rest."""
    site.define('name = "p"\n[[table]]\nname = "lab.p"\ncolumns = { id = "integer" }')
    lines = [f'{{"id": {n}, "old": 1, "new": 2}}\n' for n in range(6)]
    (site.folder / "p.ndjson").write_text("".join(lines))
    site.load("p", "p.ndjson", "--limit", "2", "--no-precalculate", "--on-unknown", "ignore")
    site.ask("""update etl.separate_batches set policies = '{"unknown": ["old"]}'""")
    [shown] = site.run("runs", "show", "latest", "--json").lines
    assert (shown["unknown"], shown["unknown_others"]) == ({}, 0)
    summary = site.load("p", "p.ndjson")
    assert (summary["records"]["loaded"], summary["records"]["skipped"]) == (4, 2)
    assert summary["unknown"] == {"old": 4, "new": 4}


def test_aggregates_of_the_version_before_versions_have_one(empty_site: Site, tmp_path: Path) -> None:
    """An aggregate that was refreshed before the migration has a version after it; another one has none."""
    folder = _sql_before(tmp_path / "sql", "0028")
    with patch.object(migrations, "shipped", lambda _name: folder):
        migrations.run_migrations(empty_site.connection)
    empty_site.ask(
        "insert into etl.aggregates (aggregate, grain, bucket, datasets)"
        " values ('lanes', 'One row per lane.', 'all', '{}'), ('hubs', 'One row per hub.', 'all', '{}');"
        " insert into etl.refreshes (aggregate, definition_hash, refreshed_at, mode, buckets, rows, seconds)"
        " values ('lanes', 'x', now(), 'full', 1, 1, 1)"
    )
    migrations.run_migrations(empty_site.connection)
    versions = empty_site.ask("select aggregate, version > 0 from analytics.freshness order by 1")
    assert versions == [("hubs", None), ("lanes", True)]
