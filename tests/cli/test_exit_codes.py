import gzip
import json
import os
import re
import signal
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from psycopg.conninfo import make_conninfo

from etl import cli
from etl.embedded import Server
from etl.errors import EtlError, ExitCode, InterruptedByUserError, gravest
from etl.ingestion.ledger import locks
from etl.ingestion.pipeline.command import CommandResult
from tests.support.commands import RunEtl
from tests.support.faults import Connection
from tests.support.records import vehicles
from tests.support.servers import free_port
from tests.support.site import Site
from tests.support.waiting import until

no_database = pytest.mark.parametrize("database_url", ["postgresql://nobody@127.0.0.1:1/nowhere"], ids=["no database"])
"""An address for commands that end before they need a database."""

PARCELS = """
name = "parcels"
mode = "append"
[[table]]
name = "logistics.parcels"
[table.columns]
parcel_id = { type = "text", required = true }
weight_kg = { type = "numeric", min = 0 }
"""


@pytest.fixture(scope="module")
def tcp_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Run a server that asks for a password, as servers over TCP do."""
    server = Server(tmp_path_factory.mktemp("tcp") / "postgres")
    server.start(port=free_port())
    yield server
    server.stop()


@pytest.fixture
def stranger(connection: Connection) -> Iterator[str]:
    """Give the address of the test's database for a user without privileges."""
    connection.execute("create role stranger login")
    yield make_conninfo(connection.info.dsn, user="stranger")
    connection.execute("drop owned by stranger")
    connection.execute("drop role stranger")


def _ids(site: Site) -> list[str]:
    return site.column("select vehicle_id from logistics.vehicles order by 1")


UNREADABLE = {
    "missing.json": (None, "cannot read missing.json: no such file or directory"),
    "page.html": (b"<!doctype html><p>502</p>", "page.html: expected JSON that begins with [ or {"),
    "null.json": (b"null", "null.json: expected JSON that begins with [ or {"),
    "bracket.json": (b"[", "bracket.json: the array is cut off before its ], at record 1, byte 1"),
    "comma.json": (b'[{"vehicle_id": "V1"} 5]', "comma.json: expected , or ] after a record"),
    "cut.json.gz": (gzip.compress(b"[{}]")[:-9], "cut.json.gz: the compressed data ends too early"),
}


def test_a_source_that_cannot_be_read_is_3(site: Site) -> None:
    """A source that cannot be read to its end is exit code 3 with one sentence that names file and place."""
    for name, (content, _) in UNREADABLE.items():
        if content is not None:
            (site.folder / name).write_bytes(content)
    done = site.run("load", "vehicles", *UNREADABLE, "--json")
    assert done.returncode == 3
    assert "Traceback" not in done.stderr
    errors = [line.removeprefix("error: ") for line in done.stderr.splitlines() if line.startswith("error: ")]
    for error, (_, sentence) in zip(errors, UNREADABLE.values(), strict=True):
        assert error.startswith(sentence)
    *summaries, total = done.lines
    assert [summary["source"] for summary in summaries] == list(UNREADABLE)
    assert {(summary["status"], summary["exit_code"]) for summary in summaries} == {("incomplete", 3)}
    assert (total["exit_code"], total["sources"]) == (3, len(UNREADABLE))
    assert site.value("select count(*) from etl.runs where finished_at is not null") == 0
    for content in (b"", b" \n"):
        (site.folder / "empty.json").write_bytes(content)
        empty = site.run("load", "vehicles", "empty.json")
        assert empty.returncode == 3
        assert empty.error.startswith("error: empty.json: expected JSON, the source is empty")
    alone = site.run("load", "vehicles", "missing.json", "--json")
    assert (alone.returncode, alone.summary["run"]) == (3, None)
    assert alone.error == (
        "error: cannot read missing.json: no such file or directory hint: check the path and the right to read it"
    )


def test_a_wrong_records_path_is_3(site: Site) -> None:
    """Without an array at the path, exit code 3 names the existing arrays; a document cut off is reported as such."""
    (site.folder / "fleet.json").write_text('{"made": [1], "fleet": {"vehicles": [{"vehicle_id": "V1"}]}}')
    done = site.run("load", "vehicles", "fleet.json", "--json", "--records", "cars.item")
    assert done.returncode == 3
    assert "fleet.json: no array at the records path cars.item" in done.error
    assert "made.item, fleet.vehicles.item (--records)" in done.error
    assert done.summary["status"] == "incomplete"
    (site.folder / "fleet.json").write_text('{"vehicles": [{"vehicle_id": "V1"}], "made')
    done = site.run("load", "vehicles", "fleet.json", "--json", "--records", "vehicles.item")
    assert done.returncode == 3
    assert "fleet.json: the source is cut off" in done.error
    assert done.summary["records"]["loaded"] == 1
    assert _ids(site) == ["V1"]


def test_an_empty_array_is_loaded(site: Site) -> None:
    """A source with an empty array is loaded completely: exit code 0 and a finished run."""
    (site.folder / "feed.json").write_text("[]")
    for options in ([], ["--atomic", "--force"]):
        done = site.run("load", "vehicles", "feed.json", "--json", *options)
        assert done.returncode == 0
        summary = done.summary
        assert (summary["status"], summary["records"]["read"]) == ("loaded", 0)
    assert site.value("select count(*) from etl.runs where finished_at is not null") == 2


def test_a_record_without_its_key_is_rejected(site: Site, connection: Connection) -> None:
    """A record without a required value is kept in the failed store with its place and reason: exit code 1."""
    (site.folder / "feed.ndjson").write_text('{"vehicle_id": "V001"}\n{}\n')
    done = site.run("load", "vehicles", "feed.ndjson", "--json")
    assert done.returncode == 1
    summary = done.summary
    assert summary["status"] == "loaded_with_rejects"
    assert summary["records"] == {
        "read": 2,
        "loaded": 1,
        "unchanged": 0,
        "rejected": 1,
        "failed": 0,
        "skipped": 0,
        "withheld": 0,
        "pending": 1,
    }
    assert summary["failed_store"] == "failed"
    assert _ids(site) == ["V001"]
    row = connection.execute("select id, run, kind, state, count_records, sqlstate from etl.failures").fetchone()
    assert row is not None
    failure, run, *rest = row
    assert rest == ["rejected", "pending", 1, "23502"]
    stored = site.store / "vehicles" / run / f"{failure}.ndjson"
    assert stored.read_text() == "{}\n"
    [record] = json.loads(stored.with_suffix(".json").read_text())["records"]
    assert (record["record"], record["offset"], record["column"]) == (2, 23, "vehicle_id")
    assert {path.stat().st_mode & 0o777 for path in (site.store, stored.parent)} == {0o700}
    assert {path.stat().st_mode & 0o777 for path in stored.parent.iterdir()} == {0o600}


def test_an_array_that_is_cut_loads_up_to_the_cut(site: Site, connection: Connection) -> None:
    """The complete records before the cut are loaded: exit code 3. The complete file then loads only the rest."""
    feed = site.folder / "feed.json"
    complete = json.dumps(vehicles(1, 9))
    feed.write_text(complete[: complete.index("V008") + 2])
    done = site.run("load", "vehicles", "feed.json", "--json", "--batch-rows", "2")
    assert done.returncode == 3
    assert "feed.json: the source is cut off in this record, at record 8, byte " in done.error
    summary = done.summary
    assert (summary["status"], summary["records"]["loaded"]) == ("incomplete", 7)
    assert len(_ids(site)) == 7
    assert site.value("select finished_at from etl.runs") is None
    before = connection.execute("select vehicle_id, xmin from logistics.vehicles order by 1").fetchall()

    feed.write_text(complete)
    done = site.run("load", "vehicles", "feed.json", "--json", "--batch-rows", "2")
    assert done.returncode == 0
    resumed = done.summary
    assert (resumed["run"], resumed["status"]) == (summary["run"], "loaded")
    assert (resumed["records"]["skipped"], resumed["records"]["loaded"]) == (7, 2)
    after = connection.execute("select vehicle_id, xmin from logistics.vehicles order by 1").fetchall()
    assert after[:7] == before
    assert len(after) == 9


@no_database
def test_an_unknown_dataset_is_2(run_etl: RunEtl) -> None:
    """An unknown dataset is exit code 2 with the most similar name."""
    done = run_etl("load", "shipmets", "feed.json", "--json")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.error == "error: no dataset is called 'shipmets' hint: did you mean shipments?"
    done = run_etl("load", "boats", "feed.json")
    assert done.returncode == 2
    assert "hint: known datasets: aftership_tracking, dcsa_events, " in done.error


@no_database
@pytest.mark.parametrize(
    ("written", "wrong", "sentence"),
    [
        ("min = 0", "mn = 0", "table logistics.parcels, column weight_kg: "),
        ('"numeric"', '"numeric("', "table logistics.parcels, column weight_kg: "),
        ('mode = "append"', 'mode = "append"\nkind = "x"', "Object contains unknown field `kind`"),
        ("[table.columns]", 'indx = [["weight_kg"]]\n[table.columns]', "table 1: "),
        ('mode = "append"', 'mode = "append', "Illegal character"),
    ],
    ids=["option", "type", "key", "table key", "no toml"],
)
def test_a_wrong_definition_is_2(site: Site, written: str, wrong: str, sentence: str) -> None:
    """A definition with an unknown key, option or type is exit code 2 with its file, table and column."""
    site.write_definition(PARCELS.replace(written, wrong))
    (site.folder / "feed.json").write_text("[]")
    done = site.run("load", "parcels", "feed.json")
    assert (done.returncode, done.stdout) == (2, "")
    assert f"config/datasets/parcels.toml: {sentence}" in done.error


def test_a_missing_table_is_2(site: Site, connection: Connection) -> None:
    """A load creates no table: exit code 2 with the command that creates it; after that command the load succeeds."""
    site.write_definition(PARCELS)
    (site.folder / "feed.json").write_text('[{"parcel_id": "P1"}]')
    done = site.run("load", "parcels", "feed.json", "--json")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.error == "error: the table logistics.parcels is missing hint: etl dataset create parcels"
    assert site.run("dataset", "create", "parcels").returncode == 0
    assert site.run("load", "parcels", "feed.json").returncode == 0
    connection.execute("alter table logistics.parcels drop column weight_kg")
    done = site.run("load", "parcels", "feed.json", "--force")
    assert done.returncode == 2
    assert "the table logistics.parcels has no column weight_kg" in done.error


def test_a_missing_privilege_is_2(site: Site, stranger: str, connection: Connection) -> None:
    """A user without privileges gets exit code 2 with the missing grants, for all tables or for one."""
    (site.folder / "feed.json").write_text('[{"vehicle_id": "V001"}]')
    done = site.run("--database", stranger, "load", "vehicles", "feed.json", "--json")
    assert (done.returncode, done.stdout) == (2, "")
    assert "grant etl_loader to stranger" in done.error
    connection.execute("grant etl_loader to stranger; revoke insert on logistics.vehicles from etl_loader")
    done = site.run("--database", stranger, "load", "vehicles", "feed.json", "--json")
    assert (done.returncode, done.stdout) == (2, "")
    assert "the user stranger may not load logistics.vehicles" in done.error
    assert site.value("select count(*) from etl.runs") == 0


def test_a_database_that_was_not_migrated_is_2(run_etl: RunEtl, connection: Connection, tmp_path: Path) -> None:
    """A database without the ledger is exit code 2 with the command that creates it."""
    connection.execute("create database bare")
    try:
        address = make_conninfo(connection.info.dsn, dbname="bare")
        (tmp_path / "feed.json").write_text("[]")
        done = run_etl("--database", address, "load", "vehicles", "feed.json", "--json")
        assert (done.returncode, done.stdout) == (2, "")
        assert "the database is at migration none" in done.error
        assert re.search("hint: etl --database .*dbname=bare.* db migrate", done.error)
    finally:
        connection.execute("drop database bare")


def test_a_server_that_is_not_there_is_4(run_etl: RunEtl, tmp_path: Path) -> None:
    """When no server listens, the exit code is 4 and the message names the server."""
    (tmp_path / "feed.json").write_text("[]")
    address = f"postgresql://loader@127.0.0.1:{free_port()}/facts"
    done = run_etl("--database", address, "load", "vehicles", "feed.json")
    assert done.returncode == 4
    assert "cannot reach the database 127.0.0.1/facts: " in done.error


def test_a_database_that_is_not_there_is_2(run_etl: RunEtl, connection: Connection, tmp_path: Path) -> None:
    """A server without the database of that name is exit code 2, and the message names the database."""
    (tmp_path / "feed.json").write_text("[]")
    address = make_conninfo(connection.info.dsn, dbname="nowhere")
    done = run_etl("--database", address, "load", "vehicles", "feed.json", "--json")
    assert (done.returncode, done.stdout) == (2, "")
    assert 'database "nowhere" does not exist' in done.error


def test_a_wrong_password_is_2(run_etl: RunEtl, tcp_server: Server, tmp_path: Path) -> None:
    """A refused password is exit code 2 with the places for a password; the output never contains the password."""
    (tmp_path / "feed.json").write_text("[]")
    right = tcp_server.url(tcp=True)
    address = right.replace(str(urlsplit(right).password), "0pen-sesame")
    for command in (["load", "vehicles", "feed.json"], ["db", "check"], ["runs", "list"]):
        done = run_etl("--database", address, *command)
        assert (done.returncode, done.stdout) == (2, "")
        assert "password authentication failed" in done.error
        assert "~/.pgpass" in done.error
        assert "0pen-sesame" not in done.stderr


def test_a_failed_store_that_cannot_be_written_is_2(site: Site) -> None:
    """When the failed store cannot be written, nothing is loaded, because a refused record would be lost."""
    (site.folder / "taken").touch()
    (site.folder / "feed.json").write_text('[{"vehicle_id": "V001"}]')
    for folder in ("taken", "taken/below", "/proc/failed"):
        done = site.run("load", "vehicles", "feed.json", "--json", "--failed-dir", folder)
        assert (done.returncode, done.stdout) == (2, "")
        assert f"the failed store {folder} cannot be written: " in done.error
        assert "--failed-dir" in done.error
    assert _ids(site) == []


def test_a_failed_store_that_takes_no_more_is_4(site: Site) -> None:
    """A batch commits only after its refused records are stored; otherwise exit code 4, and a later load loads it."""
    site.store.mkdir()
    (site.store / "vehicles").touch()
    (site.folder / "feed.json").write_text(json.dumps([*vehicles(1, 3), {}]))
    load = ["load", "vehicles", "feed.json", "--json", "--batch-rows", "2"]
    done = site.run(*load)
    assert done.returncode == 4
    assert "error: the failed store failed cannot take a file: " in done.error
    assert done.summary["records"]["loaded"] == 2
    assert _ids(site) == ["V001", "V002"]
    assert site.value("select count(*) from etl.failures") == 0
    (site.store / "vehicles").unlink()
    done = site.run(*load)
    assert done.returncode == 1
    assert _ids(site) == ["V001", "V002", "V003"]
    assert len(list(site.store.rglob("*.ndjson"))) == 1


WRONG_USAGE = [
    ("load vehicles feed.json --batch-rows 0", "'--batch-rows'"),
    ("load vehicles feed.json --batch-rows many", "'--batch-rows'"),
    ("load vehicles feed.json --mode upsert", "'--mode'"),
    ("load vehicles feed.json --format xml", "'--format'"),
    ("load vehicles feed.json --retry-attempts 0", "'--retry-attempts'"),
    ("load vehicles feed.json --btach-rows 5", "--batch-rows"),
    ("load vehicles", "'SOURCE...'"),
    ("--log-level loud db status", "'--log-level'"),
    ("laod", "'laod'"),
    ("precalculate daily_shipmets", "daily_shipments"),
    ("generate vehicles --records 1 --bad half", "--bad"),
    ("generate boats --records 1", "known: shipments"),
    ("--database nonsense db status", "postgresql://USER@HOST:PORT/NAME"),
    ("--database nonsense db stop", "--database embedded:"),
    ("db start --port 80", "'--port'"),
]


@no_database
def test_wrong_usage_is_2(run_etl: RunEtl) -> None:
    """Wrong usage of any command is exit code 2 with the option or name at fault, and nothing on stdout."""
    for line, named in WRONG_USAGE:
        done = run_etl(*line.split())
        assert (line, done.returncode, done.stdout) == (line, 2, "")
        assert "Traceback" not in done.stderr
        assert named in done.stderr


@no_database
def test_an_address_of_nothing_is_2(run_etl: RunEtl) -> None:
    """An empty address does not mean the embedded server, and an impossible port is not retried."""
    for address, words in [
        ("", "the database has no address"),
        ("postgresql://127.0.0.1:99999/d", "invalid port number"),
    ]:
        done = run_etl("--database", address, "runs", "list")
        assert (address, done.returncode, done.stdout) == (address, 2, "")
        assert words in done.stderr


def test_a_failed_store_of_no_name_is_2(run_etl: RunEtl, tmp_path: Path) -> None:
    """An empty name, such as that of an unset variable, does not make the working folder the failed store."""
    before = tmp_path.stat().st_mode
    done = run_etl("load", "vehicles", "-", "--failed-dir", "", stdin="[]")
    assert (done.returncode, done.stdout) == (2, "")
    assert "expected a folder, got an empty name" in done.stderr
    assert tmp_path.stat().st_mode == before


def test_words_that_are_not_utf8_are_2(run_etl: RunEtl) -> None:
    """A name or value that is not UTF-8, and that no database can store, is wrong usage and not a fault of the tool."""
    for line in ("runs list --dataset X", "failed show X", "runs trace logistics.vehicles vehicle_id=X"):
        done = run_etl(*line.replace("X", os.fsdecode(b"f\xe9")).split())
        assert (line, done.returncode, done.stdout) == (line, 2, "")
        assert done.stderr.startswith("error: expected UTF-8 in argument ")


def test_wrong_usage_of_the_database_is_2(site: Site) -> None:
    """Wrong usage that only the source or the ledger reveals is exit code 2, too, and nothing is loaded."""
    (site.folder / "feed.json").write_text('{"vehicles": [{}]}')
    for line, named in [
        ("load vehicles feed.json --records a..b", "such as item, shipments.item, shipments.* or *.item"),
        ("load vehicles a.json b.json --mode replace", "replace takes one source"),
        ("runs show nothing", "no run is called nothing"),
        ("failed show nothing", "nothing in the failed store is called nothing"),
    ]:
        done = site.run(*line.split())
        assert (line, done.returncode, done.stdout) == (line, 2, "")
        assert named in done.error
    assert site.value("select count(*) from etl.batches") == 0


def test_a_source_that_another_run_holds_is_6(site: Site) -> None:
    """A second load of a source during its load is exit code 6 and names the run that holds it; other sources load."""
    (site.folder / "feed.json").write_text(json.dumps(vehicles(1, 2)))
    (site.folder / "other.json").write_text(json.dumps(vehicles(3, 3)))
    (site.folder / "copy.json").write_text(json.dumps(vehicles(1, 2)))
    with site.gate("logistics.vehicles", "in COPY", when="new.vehicle_id = 'V002'") as gate:
        load = site.start("load", "vehicles", "feed.json", "--json")
        gate.reached()
        second = site.run("load", "vehicles", "copy.json", "--json")
        # A load that leaves unchanged records as they are would wait for the batch that is held here.
        other = site.run("load", "vehicles", "other.json", "--json", "--workers", "2")
        replace = site.run("load", "vehicles", "other.json", "--json", "--mode", "replace")
        gate.open()
        first = load.ended()
    run = site.value("select run from etl.runs order by number limit 1")
    assert second.returncode == 6
    assert f"this source is held by etl:{run} since " in second.error
    assert second.summary["status"] == "busy"
    assert other.returncode == 0
    assert replace.returncode == 6
    assert "the dataset vehicles is held by etl:" in replace.error
    assert first.returncode == 0
    assert _ids(site) == ["V001", "V002", "V003"]


def test_too_many_rejected_records_are_5(site: Site) -> None:
    """More rejected records than --max-rejected allows end the load with exit code 5; a higher limit continues it."""
    bad = [{"vehicle_id": f"B{number}", "capacity_kg": -1} for number in range(3)]
    (site.folder / "feed.json").write_text(json.dumps([*vehicles(1, 2), *bad, *vehicles(3, 4)]))
    load = ["load", "vehicles", "feed.json", "--json", "--batch-rows", "2"]
    done = site.run(*load, "--max-rejected", "2")
    assert done.returncode == 5
    assert "3 of 6 records are rejected, --max-rejected allows 2" in done.error
    summary = done.summary
    assert (summary["status"], summary["records"]["rejected"]) == ("aborted", 3)
    assert _ids(site) == ["V001", "V002", "V003"]
    done = site.run(*load, "--max-rejected", "3")
    assert done.returncode == 1
    resumed = done.summary
    assert (resumed["run"], resumed["records"]["loaded"], resumed["records"]["pending"]) == (summary["run"], 1, 3)
    assert _ids(site) == ["V001", "V002", "V003", "V004"]


@pytest.mark.parametrize(
    ("number", "code"), [pytest.param(signal.SIGINT, 130, marks=pytest.mark.slow), (signal.SIGTERM, 143)]
)
def test_a_signal_stops_after_the_current_batch(site: Site, number: signal.Signals, code: int) -> None:
    """A load that gets a signal finishes its batch, ends with 128 + the signal, and continues when it is run again."""
    (site.folder / "feed.json").write_text(json.dumps(vehicles(1, 6)))
    (site.folder / "later.json").write_text(json.dumps(vehicles(7, 8)))
    arguments = ["load", "vehicles", "feed.json", "later.json", "--json", "--batch-rows", "2"]
    with site.gate("logistics.vehicles", "in COPY", when="new.vehicle_id = 'V003'") as gate:
        load = site.start(*arguments)
        gate.reached()
        load.signal(number)
        until(lambda: load.events("stopping"), "the signal to be seen")
        gate.open()
        done = load.ended()
    assert done.returncode == code
    assert f"stopped by signal {int(number)}" in done.error
    assert "run the same command to continue" in done.error
    summary, total = done.lines
    assert (summary["source"], summary["status"], summary["exit_code"]) == ("feed.json", "incomplete", code)
    assert summary["records"]["loaded"] == 4
    assert total["exit_code"] == code
    assert _ids(site) == ["V001", "V002", "V003", "V004"]
    assert site.value("select exit_code from etl.attempts") == code
    again = site.run(*arguments)
    assert again.returncode == 0
    first, second = again.summaries
    assert (first["run"], first["records"]["skipped"], first["records"]["loaded"]) == (summary["run"], 4, 2)
    assert second["records"]["loaded"] == 2
    assert len(_ids(site)) == 8


def test_a_second_signal_ends_at_once(site: Site) -> None:
    """At a second signal the load rolls back the current batch; it continues when it is run again."""
    (site.folder / "feed.json").write_text(json.dumps(vehicles(1, 6)))
    with site.gate("logistics.vehicles", "in COPY", when="new.vehicle_id = 'V003'") as gate:
        load = site.start("load", "vehicles", "feed.json", "--json", "--batch-rows", "2")
        gate.reached()
        load.signal(signal.SIGINT)
        load.signal(
            signal.SIGTERM
        )  # A different signal, because of two equal signals at the same instant only one arrives.
        done = load.ended()
        # The system decides which of the two comes first: each may reach another thread.
        assert done.returncode in {130, 143}
        assert "stopped at once" in done.error
        assert done.summary["records"]["loaded"] == 2
    until(
        lambda: site.value("select count(*) = 0 from pg_stat_activity where application_name ~ '^etl'"),
        "the end of its backends",
    )
    assert _ids(site) == ["V001", "V002"]
    assert site.run("load", "vehicles", "feed.json").returncode == 0
    assert len(_ids(site)) == 6


def test_several_sources_have_the_gravest_code(site: Site) -> None:
    """An unreadable source does not stop the others; the exit code is that of the gravest end."""
    for number in (1, 2):
        (site.folder / f"good-{number}.json").write_text(json.dumps(vehicles(number, number)))
        (site.folder / f"bad-{number}.json").write_text(json.dumps([{"vehicle_id": f"B{number}"}, {}]))
    for sources, code in [(["bad-1.json", "good-1.json"], 1), (["bad-2.json", "missing.json", "good-2.json"], 3)]:
        done = site.run("load", "vehicles", *sources, "--json")
        assert done.returncode == code
        *each, total = done.lines
        assert [summary["source"] for summary in each] == sources
        assert (total["exit_code"], total["sources"]) == (code, len(sources))
    assert _ids(site) == ["B1", "B2", "V001", "V002"]


def test_names_that_cannot_be_opened_are_3(run_etl: RunEtl, connection: Connection, tmp_path: Path) -> None:
    """An unreadable folder, a long name and a loop of links are exit code 3 with the reason of the system."""
    (tmp_path / "loop").symlink_to("loop")
    closed = tmp_path / "closed"
    closed.mkdir()
    (closed / "a.json").write_text("[]")
    long = "a" * 3000
    done = run_etl("load", "vehicles", "loop", long, "--no-precalculate")
    assert done.returncode == 3
    assert "error: cannot read loop: too many levels of symbolic links" in done.stderr
    assert f"error: cannot read {long}: file name too long" in done.stderr
    assert "unexpected_fault" not in done.stderr
    closed.chmod(0)
    if os.geteuid() == 0:  # root may read all files
        pytest.skip("the superuser may read every folder")
    for name in ("closed", "closed/a.json"):
        assert f"cannot read {name}: permission denied" in run_etl("load", "vehicles", name).stderr
    closed.chmod(0o700)


WAITING = b'[{"vehicle_id": "V1"}' + b" " * (2 << 20)
"""The beginning of a source that does not end: more bytes than the format detection needs."""


def _stopped(site: Site, number: int) -> int:
    """Return the exit code of a load that waits for its source and gets a signal."""
    load = site.start("load", "vehicles", "-", "--no-precalculate")
    load.send(WAITING)
    at_work = (
        "select count(*) from pg_stat_activity where application_name ~ '^etl($|:2)' and datname = current_database()"
    )
    until(lambda: site.value(at_work), "the load to begin")
    load.signal(number)
    done = load.ended()
    assert "hint: run the same command to continue" in done.stderr
    until(lambda: not site.value(at_work), "the end of its backends")
    return done.returncode


def _miscount(connection: Connection) -> None:
    """Make the ledger count one record more for each batch than the server: a fault of the tool itself."""
    connection.execute(
        """
        create function miscount() returns trigger language plpgsql as
        'begin new.count_loaded := new.count_loaded + 1; return new; end';
        create trigger miscount before update on etl.separate_batches for each row execute function miscount()
        """
    )


def test_every_code_can_be_provoked(site: Site, connection: Connection) -> None:
    """The command line ends with each exit code of the contract, without a traceback."""
    good, bad = {"vehicle_id": "V1"}, {"vehicle_id": None}
    for name, records in {
        "good": [good],
        "rejects": [good, bad],
        "held": [{"vehicle_id": "H"}],
        "lost": [good, good],
    }.items():
        (site.folder / f"{name}.json").write_text(json.dumps(records))
    (site.folder / "cut.json").write_text('[{"vehicle_id": "V1"}')
    load = ["load", "vehicles", "--no-precalculate"]
    locks.hold_run(connection, site.run(*load, "held.json", "--json").summary["run"])
    away = ["--database", "postgresql://nobody@127.0.0.1:1/nowhere"]
    run = partial(site.run, own_process=True)  # the exit codes as a shell gets them
    provoked = {
        0: run(*load, "good.json"),
        1: run(*load, "rejects.json"),
        2: run("load", "vehicle", "good.json"),
        3: run(*load, "cut.json"),
        4: run(*away, *load, "good.json"),
        5: run(*load, "rejects.json", "--max-rejected", "0", "--force"),
        6: run(*load, "held.json"),
    }
    _miscount(connection)
    provoked[70] = run(*load, "lost.json", may_be_faulty=True)
    assert {code: done.returncode for code, done in provoked.items()} == {code: code for code in provoked}
    assert [code for code, done in provoked.items() if "Traceback" in done.stderr] == []
    stopped = {number: _stopped(site, number) for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM)}
    assert stopped == {signal.SIGHUP: 129, signal.SIGINT: 130, signal.SIGTERM: 143}
    assert {*provoked, *stopped.values()} == set(ExitCode)


ORDER = (70, 129, 130, 143, 4, 5, 2, 3, 6, 1, 0)
"""The exit codes of the contract with schedulers, the gravest first."""


def test_every_code_has_its_place_in_the_order() -> None:
    """The graver of two exit codes wins in any order; the order names every code once."""
    assert sorted(ORDER) == sorted(ExitCode)
    for place, code in enumerate(ORDER):
        for lighter in ORDER[place:]:
            assert gravest([code, lighter]) is gravest([lighter, code]) is ExitCode(code)
    assert gravest([]) is ExitCode.SUCCESS


@pytest.mark.parametrize("codes", [{7}, {0, 7}, {4, 7}, {-1}, {128}, {255, 130}])
def test_a_code_without_a_place_is_70(codes: set[int]) -> None:
    """A number that is not an exit code of the contract ends the command with 70, whatever the other codes are."""
    assert gravest(codes) is ExitCode.INTERNAL_FAULT
    assert CommandResult(codes=codes).exit_code == 70


def test_an_error_without_an_ordered_code_ends_with_70(monkeypatch: pytest.MonkeyPatch) -> None:
    """An error class whose code is not in the order ends the command line with 70."""

    class UnorderedError(EtlError):
        exit_code = 7  # type: ignore[assignment] # what mypy refuses, and a caller without mypy may write

    def fail(**_: object) -> None:
        raise UnorderedError("no such code")

    monkeypatch.setattr(cli.cli, "main", fail)
    assert cli.run([]) == 70


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGHUP, 129), (signal.SIGINT, 130), (signal.SIGTERM, 143), (0, 130), (99, 70)]
)
def test_a_signal_has_its_code(number: int, code: int) -> None:
    """The code of a signal is 128 + its number; 0 is an interrupt by Python itself, any other number is a fault."""
    assert InterruptedByUserError("stopped", signal_number=number).exit_code is ExitCode(code)
