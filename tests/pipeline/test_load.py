import gzip
import json
import re
from pathlib import Path
from typing import Any

import psycopg
import pytest

from etl.database.tables import create_tables
from etl.datasets import read
from tests.support.faults import Connection
from tests.support.records import as_lines, vehicles
from tests.support.site import Site

SUMMARY = {
    "kind": str,
    "run": str,
    "dataset": str,
    "source": str,
    "database": str,
    "status": str,
    "exit_code": int,
    "dry_run": bool,
    "records": dict,
    "rows": dict,
    "batches": dict,
    "bytes_read": int,
    "seconds": float,
    "failed_store": str,
}
RECORDS = ["read", "loaded", "unchanged", "rejected", "failed", "skipped", "withheld", "pending"]

PARCELS = """
name = "parcels"
[[table]]
name = "logistics.parcels"
[table.columns]
parcel_id = { type = "text", required = true }
weight_kg = { type = "numeric", min = 0 }
"""

NESTED = """
name = "orders"
records = "export.orders.item"
mode = "append"
[[table]]
name = "logistics.orders"
[table.columns]
order_id = { type = "text", required = true }
[[table]]
name = "logistics.order_lines"
each = "lines"
[table.columns]
order_id = { path = "^.order_id", type = "text" }
line_no = { path = "#", type = "integer" }
sku = "text"
"""


def _array(path: Path, records: list[dict[str, Any]]) -> Path:
    path.write_text(json.dumps(records))
    return path


def _ids(site: Site) -> list[str]:
    return site.column("select vehicle_id from logistics.vehicles order by 1")


def _counts(summary: dict[str, Any]) -> tuple[str, int, int]:
    return summary["status"], summary["records"]["loaded"], summary["records"]["skipped"]


@pytest.mark.aggregates
def test_the_summary_has_its_shape(site: Site, tmp_path: Path) -> None:
    """Each source gets one line with all members of the contract in order and of their types; the total is last."""
    _array(tmp_path / "clean.json", vehicles(1, 5))
    _array(tmp_path / "spoiled.json", [*vehicles(6, 9), {"vehicle_id": "V010", "capacity_kg": -1}])
    done = site.run("load", "vehicles", "clean.json", "spoiled.json", "--json", "--batch-rows", "2")
    assert done.returncode == 1
    clean, spoiled = done.summaries
    for summary in (clean, spoiled):
        assert list(summary) == list(SUMMARY)
        assert list(summary["records"]) == RECORDS
        assert list(summary["batches"]) == ["loaded", "failed", "retried"]
        assert {type(count) for name in ("records", "rows", "batches") for count in summary[name].values()} == {int}
    assert {name: type(value) for name, value in spoiled.items()} == SUMMARY
    assert (clean["failed_store"], spoiled["failed_store"]) == (None, "failed")
    assert (clean["status"], spoiled["status"]) == ("loaded", "loaded_with_rejects")
    assert (clean["exit_code"], spoiled["exit_code"]) == (0, 1)
    assert clean["records"] == dict.fromkeys(RECORDS, 0) | {"read": 5, "loaded": 5}
    assert spoiled["records"] == dict.fromkeys(RECORDS, 0) | {"read": 5, "loaded": 4, "rejected": 1, "pending": 1}
    assert clean["rows"] == {"logistics.vehicles": 5}
    assert clean["batches"] == {"loaded": 3, "failed": 0, "retried": 0}
    assert clean["bytes_read"] == (tmp_path / "clean.json").stat().st_size
    assert clean["dry_run"] is False
    total = json.loads(done.stdout.splitlines()[-1])
    precalculated = total.pop("precalculated")
    assert [each["aggregate"] for each in precalculated] == ["data_quality", "lane_emissions", "vehicle_days"]
    assert total == {"kind": "total", "exit_code": 1, "sources": 2}


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("feed.json", json.dumps(vehicles(1, 9), indent=1).encode()),
        ("feed.ndjson", as_lines(*vehicles(1, 9)).encode()),
        ("crlf.ndjson", b"\xef\xbb\xbf" + as_lines(*vehicles(1, 9)).replace("\n", "\r\n").encode()),
        ("concatenated.json", "".join(json.dumps(each, indent=1) for each in vehicles(1, 9)).encode()),
        ("feed.json.gz", gzip.compress(json.dumps(vehicles(1, 9)).encode())),
        ("feed", gzip.compress(as_lines(*vehicles(1, 9)).encode())),
        ("document.json", json.dumps({"made": 1, "fleet": {"vehicles": vehicles(1, 9)}}).encode()),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_every_shape_loads(site: Site, connection: Connection, tmp_path: Path, name: str, content: bytes) -> None:
    """An array, lines, concatenated records and a document are loaded, also compressed and in small batches."""
    (tmp_path / name).write_bytes(content)
    records = ["--records", "fleet.vehicles.item"] if name == "document.json" else []
    done = site.run("load", "vehicles", name, "--json", "--batch-rows", "4", *records)
    assert done.returncode == 0
    summary = done.summary
    assert summary["records"] == dict.fromkeys(RECORDS, 0) | {"read": 9, "loaded": 9}
    assert summary["batches"]["loaded"] == 3
    rows = connection.execute("select vehicle_id, odometer_km from logistics.vehicles order by 1").fetchall()
    assert rows == [(each["vehicle_id"], each["odometer_km"]) for each in vehicles(1, 9)]
    assert connection.execute("select finished_at is not null, source from etl.runs").fetchall() == [(True, name)]


def test_standard_input_loads_and_continues(site: Site, connection: Connection) -> None:
    """Standard input is a source like a file: a cut stream continues, a known stream is not loaded again."""
    text = json.dumps(vehicles(1, 9))
    arguments = ["load", "vehicles", "-", "--json", "--batch-rows", "2"]
    cut = site.run(*arguments, stdin=text[: text.index("V006")])
    assert cut.returncode == 3
    assert _counts(cut.summary) == ("incomplete", 5, 0)
    rest = site.run(*arguments, stdin=text)
    assert rest.returncode == 0
    assert _counts(rest.summary) == ("loaded", 4, 5)
    again = site.run(*arguments, stdin=text)
    assert again.returncode == 0
    assert _counts(again.summary) == ("already_loaded", 0, 9)
    assert len(_ids(site)) == 9


def test_several_sources_a_folder_and_a_pattern(site: Site, connection: Connection, tmp_path: Path) -> None:
    """Files, the finished files of a folder and the matches of a pattern are loaded in order, each as one run."""
    (tmp_path / "night").mkdir()
    _array(tmp_path / "one.json", vehicles(1, 1))
    for name, first in [("b.json", 3), ("a.json", 2), (".hidden.json", 4), ("c.json.part", 5)]:
        _array(tmp_path / "night" / name, vehicles(first, first))
    _array(tmp_path / "day-2.json", vehicles(7, 7))
    _array(tmp_path / "day-1.json", vehicles(6, 6))
    done = site.run("load", "vehicles", "one.json", "night", "day-*.json", "--json")
    assert done.returncode == 0
    summaries = done.summaries
    expected = ["one.json", "night/a.json", "night/b.json", "day-1.json", "day-2.json"]
    assert [summary["source"] for summary in summaries] == expected
    assert len({summary["run"] for summary in summaries}) == 5
    assert _ids(site) == ["V001", "V002", "V003", "V006", "V007"]
    (tmp_path / "empty").mkdir()
    done = site.run("load", "vehicles", "night-*.json", "empty", "--json")
    assert done.returncode == 3
    assert [summary["exit_code"] for summary in done.summaries] == [3, 3]
    assert "error: no file matches the pattern night-*.json" in done.stderr
    assert "error: the folder empty holds no file" in done.stderr


def test_a_folder_as_spark_writes_it(site: Site, connection: Connection, tmp_path: Path) -> None:
    """Markers and checksums are passed by, an empty part file is a warning; a source that is empty alone is code 3."""
    night = tmp_path / "night"
    night.mkdir()
    lines = [json.dumps(vehicle) + "\n" for vehicle in vehicles(1, 4)]
    (night / "part-00000.json.gz").write_bytes(gzip.compress("".join(lines[:2]).encode()))
    (night / "part-00001.json.gz").write_bytes(gzip.compress(b""))
    (night / "part-00002.json.gz").write_bytes(gzip.compress("".join(lines[2:]).encode()))
    (night / "part-00003.json.gz").touch()
    for name in ("_SUCCESS", ".part-00000.json.gz.crc", "part-00002.json.gz.crc"):
        (night / name).write_bytes(b"crc\x00")
    done = site.run("load", "vehicles", "night", "--json")
    assert done.returncode == 0, done.stderr
    assert [(each["source"][6:16], each["status"], each["records"]["loaded"]) for each in done.summaries] == [
        ("part-00000", "loaded", 2),
        ("part-00001", "loaded", 0),
        ("part-00002", "loaded", 2),
        ("part-00003", "loaded", 0),
    ]
    assert "source_empty" in done.stderr
    assert _ids(site) == ["V001", "V002", "V003", "V004"]
    (tmp_path / "no.json").touch()
    assert site.run("load", "vehicles", "no.json").returncode == 3
    none = site.run("load", "vehicles", "night/part-00001.json.gz", "no.json", "--json")
    assert [each["exit_code"] for each in none.summaries] == [0, 3]
    assert none.returncode == 3


def test_nested_records_and_their_children_load(site: Site, connection: Connection, tmp_path: Path) -> None:
    """The records path and the child table of the definition are used; --records names another path."""
    definition = tmp_path / "config" / "datasets" / "orders.toml"
    definition.parent.mkdir(parents=True)
    definition.write_text(NESTED)
    create_tables(connection, read(definition))
    orders = [{"order_id": f"O{n}", "lines": [{"sku": f"S{n}-{m}"} for m in range(n)]} for n in range(3)]
    (tmp_path / "own.json").write_text(json.dumps({"made": "today", "export": {"orders": orders, "n": 3}}))
    (tmp_path / "other.json").write_text(json.dumps([{"order_id": "O9", "lines": None}]))
    done = site.run("load", "orders", "own.json", "--json")
    assert done.returncode == 0
    summary = done.summary
    assert summary["records"]["loaded"] == 3
    assert summary["rows"] == {"logistics.orders": 3, "logistics.order_lines": 3}
    lines = connection.execute("select order_id, line_no, sku from logistics.order_lines order by 1, 2").fetchall()
    assert lines == [("O1", 1, "S1-0"), ("O2", 1, "S2-0"), ("O2", 2, "S2-1")]
    right = site.run("load", "orders", "other.json", "--json", "--records", "item")
    assert _counts(right.summary) == ("loaded", 1, 0)


def test_a_loaded_source_is_known_by_its_content(site: Site, connection: Connection, tmp_path: Path) -> None:
    """With another name, other batches or by standard input a loaded source is already loaded: exit 0, no change."""
    feed = _array(tmp_path / "feed.json", vehicles(1, 9))
    assert site.run("load", "vehicles", "feed.json", "--batch-rows", "4").returncode == 0
    before = connection.execute("select vehicle_id, xmin, ctid from logistics.vehicles order by 1").fetchall()
    run = connection.execute("select run from etl.runs").fetchone()
    (tmp_path / "copy.json").write_bytes(feed.read_bytes())
    for arguments, stdin in [
        (["feed.json"], ""),
        (["copy.json", "--batch-rows", "2"], ""),
        (["-", "--batch-rows", "7"], feed.read_text()),
    ]:
        done = site.run("load", "vehicles", *arguments, "--json", stdin=stdin)
        assert done.returncode == 0
        summary = done.summary
        assert _counts(summary) == ("already_loaded", 0, 9)
        assert (summary["run"],) == run
        assert summary["rows"] == {"logistics.vehicles": 0}
    after = connection.execute("select vehicle_id, xmin, ctid from logistics.vehicles order by 1").fetchall()
    assert after == before
    assert connection.execute("select count(*) from etl.runs").fetchone() == (1,)


def test_the_same_content_compressed_is_known(site: Site, connection: Connection, tmp_path: Path) -> None:
    """A source is identified by its decompressed content: another compression of it is already loaded."""
    feed = _array(tmp_path / "feed.json", vehicles(1, 9))
    assert site.run("load", "vehicles", "feed.json").returncode == 0
    for level in (1, 9):
        (tmp_path / "feed.json.gz").write_bytes(gzip.compress(feed.read_bytes(), level, mtime=level))
        done = site.run("load", "vehicles", "feed.json.gz", "--json")
        assert done.returncode == 0
        assert _counts(done.summary) == ("already_loaded", 0, 9)
    assert connection.execute("select count(*) from etl.runs").fetchone() == (1,)


def test_a_rejected_record_keeps_exit_code_1(site: Site, connection: Connection, tmp_path: Path) -> None:
    """A source with waiting records ends with exit 1 on every load, and none of these records is loaded."""
    _array(tmp_path / "feed.json", [*vehicles(1, 3), {"vehicle_id": "V004", "capacity_kg": -1}])
    assert site.run("load", "vehicles", "feed.json").returncode == 1
    done = site.run("load", "vehicles", "feed.json", "--json")
    assert done.returncode == 1
    summary = done.summary
    assert (summary["status"], summary["records"]["pending"]) == ("already_loaded", 1)
    assert summary["failed_store"] == "failed"
    assert _ids(site) == ["V001", "V002", "V003"]
    assert connection.execute("select count(*) from etl.failures").fetchone() == (1,)


def test_only_added_lines_are_loaded(site: Site, connection: Connection, tmp_path: Path) -> None:
    """A file of lines that grew continues its run: only the new lines are loaded."""
    feed = tmp_path / "feed.ndjson"
    feed.write_text(as_lines(*vehicles(1, 5)))
    first = site.run("load", "vehicles", "feed.ndjson", "--json", "--batch-rows", "2").summary
    before = connection.execute("select vehicle_id, xmin from logistics.vehicles order by 1").fetchall()
    with feed.open("a") as file:
        file.write(as_lines(*vehicles(6, 8)))
    done = site.run("load", "vehicles", "feed.ndjson", "--json", "--batch-rows", "2")
    assert done.returncode == 0
    grown = done.summary
    assert grown["run"] == first["run"]
    assert _counts(grown) == ("loaded", 3, 5)
    after = connection.execute("select vehicle_id, xmin from logistics.vehicles order by 1").fetchall()
    assert after[:5] == before
    assert len(after) == 8
    assert _counts(site.run("load", "vehicles", "feed.ndjson", "--json").summary) == ("already_loaded", 0, 8)


def test_a_changed_source_is_a_new_source(site: Site, connection: Connection, tmp_path: Path) -> None:
    """A file that differs from the loaded one gets its own run, and the log reports after which record it differs."""
    # Longer than the first cell of a source: both begin alike, up to one of the last marks before the change.
    records = [{"vehicle_id": f"V{number:05}", "name": "x" * 200} for number in range(6000)]
    feed = _array(tmp_path / "feed.json", records)
    first = site.run("load", "vehicles", "feed.json", "--json").summary
    records[5500]["name"] = "y" * 200
    _array(feed, records)
    done = site.run("load", "vehicles", "feed.json", "--json")
    assert done.returncode == 0
    second = done.summary
    assert second["run"] != first["run"]
    assert _counts(second) == ("loaded", 6000, 0)
    [event] = [json.loads(line) for line in done.stderr.splitlines() if "source_departed" in line]
    assert (event["source"], event["run"]) == ("feed.json", first["run"])
    assert 4000 < event["after_records"] <= 5500
    changed = connection.execute("select count(*) from logistics.vehicles where name ~ '^y'").fetchone()
    assert changed == (1,)


def test_a_resume_may_have_other_batches(site: Site, connection: Connection, tmp_path: Path) -> None:
    """A run that was interrupted continues with another --batch-rows and doubles nothing, in append mode too."""
    site.define(PARCELS)
    parcels = json.dumps([{"parcel_id": f"P{number}"} for number in range(20)])
    for end, batch_rows, (loaded, skipped) in [("P7", 3, (7, 0)), ("P15", 2, (8, 7)), (None, 100, (5, 15))]:
        (tmp_path / "feed.json").write_text(parcels[: parcels.index(end)] if end else parcels)
        done = site.run("load", "parcels", "feed.json", "--json", "--batch-rows", str(batch_rows))
        assert done.returncode == (3 if end else 0)
        summary = done.summary
        assert (summary["records"]["loaded"], summary["records"]["skipped"]) == (loaded, skipped)
    assert connection.execute("select count(*), count(distinct parcel_id) from logistics.parcels").fetchone() == (
        20,
        20,
    )
    assert connection.execute("select count(*) from etl.runs").fetchone() == (1,)
    assert connection.execute("select sum(count_records), sum(count_loaded) from etl.batches").fetchone() == (20, 20)
    numbers = connection.execute('select first_record, count_records from etl.batches order by "offset"').fetchall()
    assert [first for first, _ in numbers] == [1 + sum(count for _, count in numbers[:n]) for n in range(len(numbers))]


def test_force_loads_again(site: Site, connection: Connection, tmp_path: Path) -> None:
    """--force starts a new run of all records and supersedes the waiting records of the earlier run."""
    site.define(PARCELS)
    (tmp_path / "feed.json").write_text('[{"parcel_id": "P1"}, {"parcel_id": "P2", "weight_kg": -1}]')
    (tmp_path / "other.json").write_text('[{"parcel_id": "P3", "weight_kg": -1}]')
    first = site.run("load", "parcels", "feed.json", "--json").summary
    assert site.run("load", "parcels", "other.json").returncode == 1
    done = site.run("load", "parcels", "feed.json", "--json", "--force")
    assert done.returncode == 1
    forced = done.summary
    assert forced["run"] != first["run"]
    assert (forced["status"], forced["records"]["loaded"], forced["records"]["rejected"]) == (
        "loaded_with_rejects",
        1,
        1,
    )
    assert connection.execute("select count(*) from logistics.parcels").fetchone() == (2,)
    states = connection.execute("select source, state from etl.failures order by created_at, id").fetchall()
    assert states == [("feed.json", "superseded"), ("other.json", "pending"), ("feed.json", "pending")]
    again = site.run("load", "parcels", "feed.json", "--json").summary
    assert (again["run"], again["status"]) == (forced["run"], "already_loaded")


def test_an_interrupted_forced_run_continues(site: Site, connection: Connection, tmp_path: Path) -> None:
    """The same --force again continues the unfinished forced run instead of starting a third."""
    site.define(PARCELS)
    text = json.dumps([{"parcel_id": f"P{number}"} for number in range(4)])
    feed = tmp_path / "feed.json"
    feed.write_text(text)
    assert site.run("load", "parcels", "feed.json", "--batch-rows", "1").returncode == 0
    feed.write_text(text[: text.index("P3")])
    cut = site.run("load", "parcels", "feed.json", "--batch-rows", "1", "--force", "--json")
    assert cut.returncode == 3
    feed.write_text(text)
    done = site.run("load", "parcels", "feed.json", "--batch-rows", "1", "--force", "--json")
    assert done.returncode == 0
    assert done.summary["run"] == cut.summary["run"]
    assert _counts(done.summary) == ("loaded", 1, 3)
    assert connection.execute("select count(*) from logistics.parcels").fetchone() == (8,)


def test_a_changed_definition_is_reported(site: Site, connection: Connection, tmp_path: Path) -> None:
    """A source loaded by another definition is not loaded again, and the log names the command that does it."""
    site.define(PARCELS)
    (tmp_path / "feed.json").write_text('[{"parcel_id": "P1", "weight_kg": 5}]')
    assert site.run("load", "parcels", "feed.json").returncode == 0
    path = tmp_path / "config" / "datasets" / "parcels.toml"
    path.write_text(path.read_text().replace("min = 0", "min = 1"))
    done = site.run("load", "parcels", "feed.json", "--json")
    assert done.returncode == 0
    assert done.summary["status"] == "already_loaded"
    assert "loaded_under_another_definition" in done.stderr
    assert "--force" in done.stderr


def test_a_corrected_records_path_doubles_nothing(site: Site, connection: Connection, tmp_path: Path) -> None:
    """A document refused as one record, then loaded by its elements, is already loaded the third time."""
    site.define(PARCELS)
    (tmp_path / "feed.json").write_text('{"day": 1, "parcels": [{"parcel_id": "P1"}, {"parcel_id": "P2"}]}')
    assert site.run("load", "parcels", "feed.json").returncode == 1
    load = ("load", "parcels", "feed.json", "--records", "parcels.item", "--batch-rows", "1", "--json")
    assert _counts(site.run(*load).summary) == ("loaded", 2, 0)
    assert _counts(site.run(*load).summary) == ("already_loaded", 0, 2)
    assert connection.execute("select count(*) from logistics.parcels").fetchone() == (2,)


@pytest.mark.aggregates
def test_aggregates_are_refreshed_unless_disabled(site: Site, connection: Connection, tmp_path: Path) -> None:
    """A load refreshes its aggregates; with --no-precalculate it refreshes none, and `etl precalculate` does later."""
    log = {"log_id": "L1", "vehicle_id": "V1", "trip_date": "2026-01-01", "distance_km": 10, "fuel_l": 1}
    _array(tmp_path / "first.json", [log])
    _array(tmp_path / "second.json", [log | {"log_id": "L2"}])
    _array(tmp_path / "third.json", [log | {"log_id": "L3"}])
    query = "select count_trips from analytics.vehicle_days"
    done = site.run("load", "vehicle_logs", "first.json", "--json")
    *_, refreshed = json.loads(done.stdout.splitlines()[-1])["precalculated"]
    assert {name: type(value) for name, value in refreshed.items()} == {
        "aggregate": str,
        "buckets": int,
        "rows": int,
        "seconds": float,
    }
    assert (refreshed["aggregate"], refreshed["buckets"], refreshed["rows"]) == ("vehicle_days", 1, 1)
    assert connection.execute(query).fetchall() == [(1,)]
    done = site.run("load", "vehicle_logs", "second.json", "--json", "--no-precalculate")
    assert json.loads(done.stdout.splitlines()[-1])["precalculated"] == []
    assert connection.execute(query).fetchall() == [(1,)]
    done = site.run("precalculate", "vehicle_days", "--json")
    assert (done.returncode, json.loads(done.stdout)["rows"]) == (0, 1)
    assert connection.execute(query).fetchall() == [(2,)]
    assert site.run("load", "vehicle_logs", "third.json", "--no-precalculate").returncode == 0
    done = site.run("load", "vehicle_logs", "third.json")
    assert done.returncode == 0
    assert (
        "precalculated 4 aggregates in " in done.stdout
    )  # data_quality, lane_emissions, shipment_orphans, vehicle_days
    assert connection.execute(query).fetchall() == [(3,)]


def test_a_file_of_the_failed_store_is_not_loaded(site: Site, connection: Connection, tmp_path: Path) -> None:
    """A file of the failed store is replayed, not loaded: exit 2 names the command, also for a moved store."""
    _array(tmp_path / "feed.json", [*vehicles(1, 1), {"vehicle_id": "V002", "capacity_kg": -1}])
    assert site.run("load", "vehicles", "feed.json").returncode == 1
    [stored] = (tmp_path / "failed").rglob("*.ndjson")
    for arguments in ([stored], ["feed.json", stored], [stored, "--failed-dir", "elsewhere"]):
        done = site.run("load", "vehicles", "--json", *arguments)
        assert (done.returncode, done.stdout) == (2, "")
        assert f"error: {stored} is a file of the failed store" in done.stderr
        assert "hint: etl failed replay" in done.stderr
    assert connection.execute("select count(*) from etl.attempts").fetchone() == (1,)


@pytest.mark.aggregates
def test_a_person_reads_a_sentence(site: Site, tmp_path: Path) -> None:
    """Without --json each source gets one line: the counts of its records, and the place of the rejected ones."""
    _array(tmp_path / "feed.json", [*vehicles(1, 1500), {"vehicle_id": "V002", "capacity_kg": -1}])
    done = site.run("load", "vehicles", "feed.json")
    line, precalculated = done.stdout.splitlines()
    assert re.fullmatch(r"precalculated data_quality, lane_emissions, vehicle_days in \d+\.\d s", precalculated)
    assert line.startswith("loaded_with_rejects vehicles from feed.json: 1,501 read, 1,500 loaded, 1 rejected in ")
    [run] = re.findall(r"1 wait in the failed store: cd \S+ && etl failed show --run (\S+)", line)
    listed = site.run("failed", "list", "--run", run, "--json")
    assert json.loads(listed.stdout)["sqlstate"] == "23514"


@pytest.mark.aggregates
def test_a_grown_table_is_analyzed(site: Site, database_url: str, tmp_path: Path) -> None:
    """A table that grew by more than a tenth is analyzed before its aggregates are refreshed; others are not."""

    def vehicles(first: int, count: int) -> Path:
        path = tmp_path / f"{first}.ndjson"
        path.write_text("".join(f'{{"vehicle_id":"V{number}"}}\n' for number in range(first, first + count)))
        return path

    with psycopg.connect(database_url, autocommit=True) as connection:
        known = "select reltuples from pg_class where oid = 'logistics.vehicles'::regclass"
        connection.execute("alter table logistics.vehicles set (autovacuum_enabled = off)")
        for first, count, options, expected in (
            (0, 1000, ["--no-precalculate"], -1),
            (1000, 1000, [], 2000),
            (2000, 100, [], 2000),
            (3000, 500, [], 2600),
        ):
            assert site.run("load", "vehicles", vehicles(first, count), *options).returncode == 0
            assert connection.execute(known).fetchall() == [(expected,)]
