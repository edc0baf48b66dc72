"""Small files of one command are loaded in groups: the tables and the ledger are those of loads one after the other."""

import json
import threading
from pathlib import Path
from typing import Any

import pytest

from tests.support.site import Site
from tests.support.web import web_server

DEFINITION = """
name = "parcels"
mode = "append"
on_unknown = "warn"
[[table]]
name = "logistics.parcels"
[table.columns]
parcel_id = "text"
weight = { type = "integer", min = 0 }
at = { type = "timestamptz" }
feed = { value = "$source", type = "text" }
"""

MERGED = """
name = "orders"
mode = "merge"
key = ["order_id"]
newest_by = "at"
[[table]]
name = "logistics.orders"
[table.columns]
order_id = { type = "integer", required = true }
at = "timestamptz"
weight = "numeric"
[[table]]
name = "logistics.order_items"
each = "items"
[table.columns]
order_id = { path = "^.order_id", type = "integer" }
line_no = { path = "#", type = "integer" }
sku = "text"
"""

LEDGER = (
    (
        "select row_number() over (order by number), dataset, source, source_bytes, definition_hash, mode,"
        " on_duplicate, is_atomic, is_forced, is_within, superseded_by is null, finished_at is not null,"
        " rows_replaced from etl.runs"
    ),
    (
        "select coalesce(attempts.source, runs.source), attempt, exit_code, count_read,"
        " count_retried, bytes_read, host, os_user, folder, options,"
        " tool_version, rows_deleted, rows_kept, ended_at is not null"
        " from etl.all_attempts as attempts join etl.runs using (run)"
        " order by number, attempt"
    ),
    (
        'select source, "offset", bytes, first_record, count_records, hash, attempt, count_loaded, count_rejected,'
        " count_failed, rows, policies, batches.rows_replaced"
        " from etl.batches join etl.runs using (run) order by number"
    ),
    (
        "select source, last_record, anchor, parent, hashes, places from etl.marks join etl.runs on number = marks.run"
        " order by number, last_record"
    ),
)


def write(site: Site, name: str, records: list[dict[str, Any]]) -> Path:
    """Write a file of records."""
    path = site.folder / "in" / f"{name}.ndjson"
    path.parent.mkdir(exist_ok=True)
    path.write_text("".join(json.dumps(each) + "\n" for each in records))
    return path


def parcel(number: int, place: int = 0, **others: Any) -> dict[str, Any]:
    """Return a record of a parcel that no other file has."""
    return {"parcel_id": f"{number}-{place}", "weight": place, "at": "2026-01-02T03:04:05Z"} | others


def order(number: int, day: int | None, *items: str) -> dict[str, Any]:
    """Return a version of an order."""
    at = None if day is None else f"2026-01-{day:02}T00:00:00Z"
    return {"order_id": number, "at": at, "weight": 1.5, "items": [{"sku": sku} for sku in items]}


@pytest.fixture
def parcels(site: Site) -> Site:
    """Return a site with the dataset parcels, and a folder of six files."""
    site.define(DEFINITION)
    for number in range(6):
        write(site, str(number), [parcel(number, place) for place in range(number + 1)])
    return site


def load(site: Site, dataset: str, *options: str) -> dict[str, dict[str, Any]]:
    """Load the folder, and return the summary of each file by its name."""
    ended = site.run("load", dataset, "in", "--json", "--no-precalculate", *options)
    return {Path(each["source"]).stem: each for each in ended.summaries}


def in_one_transaction(site: Site) -> int:
    """Return how many transactions have entered batches."""
    return int(site.value("select count(distinct xact) from etl.batches"))


def compare_with_single_loads(site: Site, dataset: str, tables: list[str]) -> None:
    """Load the folder by one command, then each file by its own, and compare the tables and the ledger."""
    columns = "select to_jsonb(t) - 'etl_run' || jsonb_build_object('run', r.source) from logistics.{} t"
    queries = [
        *LEDGER,
        *(f"{columns.format(table)} join etl.runs r on r.number = etl_run order by 1" for table in tables),
    ]
    together = load(site, dataset)
    ledger = [site.ask(query) for query in queries]
    batches = in_one_transaction(site)
    assert batches < len(together)
    site.forget_loads(dataset)
    alone = {}
    for path in sorted((site.folder / "in").iterdir()):
        alone[path.stem] = site.load(dataset, f"in/{path.name}", "--no-precalculate")
    for query, expected in zip(queries, ledger, strict=True):
        assert site.ask(query) == expected
    for name, summary in together.items():
        assert summary | {"run": 0, "seconds": 0} == alone[name] | {"run": 0, "seconds": 0}


def test_appended_files_are_as_loaded_one_after_the_other(parcels: Site) -> None:
    """Columns of the source's name, unknown members, odd values and compressed files give the same rows and ledger."""
    write(parcels, "6", [parcel(6), parcel(6, 1, colour="red", weight="17", at="2026-01-02 03:04:05+01")])
    (parcels.folder / "in" / "7.json").write_text(json.dumps([parcel(7), parcel(7, 1)]))
    compare_with_single_loads(parcels, "parcels", ["parcels"])


def test_merged_files_are_as_loaded_one_after_the_other(site: Site) -> None:
    """Versions of one record in several files: the newest stays with its child rows, and overwritten ones count."""
    site.define(MERGED)
    write(site, "0", [order(1, 1, "a", "b"), order(2, 5, "c"), order(3, None, "d")])
    write(site, "1", [order(4, 1, "e"), order(1, 2, "f")])
    write(site, "2", [order(2, 4, "g"), order(3, None), order(5, 1, "h")])
    write(site, "3", [order(6, 1), order(1, 2, "i", "j"), order(1, 1, "k")])
    write(site, "4", [order(7, None, "l"), order(2, None, "m"), order(3, 1, "n")])
    compare_with_single_loads(site, "orders", ["orders", "order_items"])
    assert site.column("select sku from logistics.order_items where order_id = 1 order by 1") == ["i", "j"]
    assert site.column("select batches.rows_replaced from etl.batches join etl.runs using (run) order by number") == [
        *(0, 1, 1, 1, 1)
    ]


def test_an_odd_file_goes_its_own_way_at_its_place(parcels: Site) -> None:
    """A record that does not fit, a file that is cut, and one that agrees with another are as each alone is."""
    write(parcels, "2", [parcel(2), parcel(2, 1, weight=-1)])
    (parcels.folder / "in" / "3.ndjson").write_text(json.dumps(parcel(3)) + '\n{"parcel_id')
    write(parcels, "4a", [parcel(4, place) for place in range(5)])
    write(parcels, "4b", [parcel(4, place) for place in range(6)])
    found = load(parcels, "parcels", "--max-rejected", "100%")
    assert {name: (each["status"], each["exit_code"]) for name, each in found.items()} == {
        **dict.fromkeys("0145", ("loaded", 0)),
        "2": ("loaded_with_rejects", 1),
        "3": ("incomplete", 3),
        "4a": ("already_loaded", 0),
        "4b": ("loaded", 0),
    }
    assert found["4b"]["records"]["loaded"] == 1
    assert list(found) == sorted(found)
    assert parcels.value("select count(*) from logistics.parcels") == 1 + 2 + 1 + 1 + 6 + 6


def test_one_file_that_the_server_refuses_leaves_the_others_together(parcels: Site) -> None:
    """A refusal of the server says nothing about its file: the group is halved, and only that file loads alone."""
    parcels.ask("alter table logistics.parcels add check (parcel_id <> '3-1')")
    found = load(parcels, "parcels", "--max-rejected", "100%")
    assert {name for name, each in found.items() if each["exit_code"]} == {"3"}
    assert found["3"]["records"]["rejected"] == 1
    assert parcels.value("select count(*) from logistics.parcels") == 20
    assert 1 < in_one_transaction(parcels) < 6


def test_a_folder_of_the_same_beginning_is_loaded_exactly_once(parcels: Site) -> None:
    """Files that begin with the same record are not loaded by one transaction, because one may continue another."""
    for number in range(6):
        write(parcels, str(number), [parcel(100), *(parcel(number, place) for place in range(3))])
    write(parcels, "6", [parcel(100), *(parcel(3, place) for place in range(4))])
    found = load(parcels, "parcels")
    assert [each["records"]["loaded"] for each in found.values()] == [4, 4, 4, 4, 4, 4, 1]
    assert {each["status"] for each in load(parcels, "parcels").values()} == {"already_loaded"}


def test_files_of_an_unfinished_run_of_another_definition_stop_the_command_before_it_begins(parcels: Site) -> None:
    """Where a run began under another definition, the sources are judged before any of them is loaded."""
    load(parcels, "parcels")
    parcels.ask("update etl.runs set finished_at = null where source = 'in/5.ndjson'")
    write(parcels, "00", [parcel(50)])
    parcels.define(DEFINITION.replace("min = 0", "min = -5"))
    ended = parcels.run("load", "parcels", "in", "--no-precalculate")
    assert ended.returncode == 2
    assert "in/5.ndjson" in ended.stderr
    assert parcels.value("select count(*) from etl.runs") == 6


def test_people_read_the_problems_of_many_files(site: Site) -> None:
    """With many files a terminal gets the first files with a problem and the total; the log has one event for all."""
    site.define(DEFINITION)
    for number in range(24):
        write(site, f"{number:02}", [parcel(number, -(number // 22))])
    ended = site.run("load", "parcels", "in", "--no-precalculate", "--max-rejected", "100%", "--log-format", "json")
    assert ended.returncode == 1
    lines = ended.stdout.splitlines()
    assert [line.split(":")[0] for line in lines] == [
        "loaded_with_rejects parcels from in/22.ndjson",
        "loaded_with_rejects parcels from in/23.ndjson",
        "24 sources, 22 loaded, 2 loaded_with_rejects",
    ]
    [loaded] = ended.events("sources_loaded")
    assert (loaded["sources"], loaded["records"]) == (22, 22)


def test_a_later_load_leaves_the_records_of_a_group_as_they_are(site: Site) -> None:
    """The rows of a group have the digests of their records, so an export with the same records is unchanged."""
    site.define(MERGED)
    for number in range(4):
        write(site, f"f{number}", [order(10 * number + place, 1, "a") for place in range(5)])
    assert site.run("load", "orders", "in").returncode == 0
    same = [order(10 * number + place, 1, "a") for number in range(4) for place in range(5)]
    all_of_them = write(site, "export", [*same[1:], order(0, 2, "b")])
    records = site.load("orders", all_of_them)["records"]
    assert (records["loaded"], records["unchanged"]) == (20, 19)


def test_the_runs_of_a_group_share_one_attempt(parcels: Site) -> None:
    """One row for the attempt of all files, and one for each file; a file that grows gets rows of its own."""
    load(parcels, "parcels")
    separate = "select (select count(*) from etl.separate_batches), (select count(*) from etl.separate_marks)"
    assert parcels.ask(separate) == [(0, 0)]
    # A file of a hundred records has five marks more.
    assert parcels.value("select max(pg_column_size(runs.*)) from etl.runs") <= 320
    assert parcels.value("select count(*) from etl.group_attempts") == 1
    assert parcels.value("select count(*) from etl.attempts") == 0
    run = parcels.value("select run from etl.runs where source = 'in/3.ndjson'")
    [first] = parcels.run("runs", "show", run, "--json").lines
    size = (parcels.folder / "in" / "3.ndjson").stat().st_size
    [attempt] = first["attempts"]
    assert (attempt["attempt"], attempt["exit_code"], attempt["count_read"], attempt["bytes_read"]) == (1, 0, 4, size)
    assert attempt["started_at"] < attempt["ended_at"]
    assert (first["status"], first["records"], attempt["source"]) == ("loaded", 4, "in/3.ndjson")
    traced = parcels.run("runs", "trace", "logistics.parcels", "parcel_id=3-2", "--json").lines
    assert [each["run"] for each in traced] == [run]
    write(parcels, "3", [parcel(3, place) for place in range(6)])
    assert load(parcels, "parcels")["3"]["records"]["loaded"] == 2
    [grown] = parcels.run("runs", "show", run, "--json").lines
    assert grown["attempts"][0] == attempt
    assert [each["count_read"] for each in grown["attempts"]] == [4, 6]
    assert parcels.ask("select attempt from etl.attempts where run = %s order by 1", [run]) == [(1,), (2,)]
    assert parcels.value("select count(*) from etl.all_attempts") == 7
    assert parcels.ask(f"{separate} from etl.runs where batch_records is null and run = %s", [run]) == [(2, 2)]
    parts = "select first_record, count_records, hash <> '' from etl.batches where run = %s order by \"offset\""
    assert parcels.ask(parts, [run]) == [(1, 4, True), (5, 2, True)]
    assert parcels.run("runs", "purge", "--older-than", "0d").returncode == 0
    [packed] = parcels.run("runs", "show", run, "--json").lines
    assert [each["attempt"] for each in packed["attempts"]] == [2]
    listed = {each["run"]: each["attempts"] for each in parcels.run("runs", "list", "--json").lines}
    assert sorted(listed.values()) == [1, 1, 1, 1, 1, 2]


def test_small_files_of_a_network_are_read_ahead(parcels: Site) -> None:
    """Several requests wait at once, and the files are loaded in one transaction, in their order, and known again."""
    with web_server() as web:
        web.barrier = threading.Barrier(4)
        for number in range(8):
            web.others[f"/{number}.ndjson"] = json.dumps(parcel(number)).encode() + b"\n"
        urls = [f"{web.url}/{number}.ndjson" for number in range(8)]
        first = parcels.run("load", "parcels", *urls, "--json", "--no-precalculate")
        assert first.returncode == 0
        assert [each["source"] for each in first.summaries] == urls
        assert in_one_transaction(parcels) == 1
        again = parcels.run("load", "parcels", *urls, "--json", "--no-precalculate")
        assert {each["status"] for each in again.summaries} == {"already_loaded"}
    assert parcels.column("select parcel_id from logistics.parcels order by etl_run") == [f"{n}-0" for n in range(8)]
