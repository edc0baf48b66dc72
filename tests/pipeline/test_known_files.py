"""Small files of one command that are loaded already are looked up together, and only what needs no decision."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

import etl
from tests.support.definitions import SMALL_PARCELS
from tests.support.site import Site


@pytest.fixture
def parcels(site: Site) -> Site:
    """Return a site with the dataset parcels, and a folder of ten files of some records."""
    site.define(SMALL_PARCELS)
    for number in range(10):
        write(site, number, [(f"{number}-{place}", place) for place in range(number + 1)])
    return site


def write(site: Site, number: int, records: list[tuple[str, int]]) -> Path:
    """Write a file of parcels."""
    path = site.folder / "in" / f"{number}.ndjson"
    path.parent.mkdir(exist_ok=True)
    path.write_text("".join(json.dumps({"parcel_id": name, "weight": weight}) + "\n" for name, weight in records))
    return path


def load(site: Site, *options: str) -> tuple[dict[str, dict[str, Any]], int]:
    """Load the folder; return the summary of each file by its name, and the exit code."""
    ended = site.run("load", "parcels", "in", "--json", "--no-precalculate", *options)
    return {Path(each["source"]).stem: each for each in ended.summaries}, ended.returncode


def attempts(site: Site) -> list[tuple[int, int]]:
    """Return how many attempts there are, and the known sources that commands entered."""
    return site.ask(
        "select (select count(*) from etl.all_attempts), coalesce(sum(count_sources), 0) from etl.known_sources"
    )


def test_known_files_are_one_row_and_one_line(parcels: Site) -> None:
    """Each known file has its summary in JSON, with its own run; the ledger gets one row, people read one line."""
    first, _ = load(parcels)
    again, exit_code = load(parcels)
    assert exit_code == 0
    assert [each["run"] for each in again.values()] == [each["run"] for each in first.values()]
    assert {each["status"] for each in again.values()} == {"already_loaded"}
    assert [each["records"]["skipped"] for each in again.values()] == list(range(1, 11))
    assert attempts(parcels) == [(10, 10)]
    shown = parcels.run("load", "parcels", "in", "--no-precalculate", "--log-format", "json")
    assert shown.stdout.startswith("10 sources, 10 already_loaded: 55 read, 0 loaded, 55 skipped")
    assert len(shown.stdout.splitlines()) == 1
    assert len(shown.events("sources_known")) == 1
    assert not shown.events("source_ended")
    assert parcels.value("select count(*) from logistics.parcels") == 55


def test_files_that_changed_go_their_usual_way(parcels: Site) -> None:
    """A new file, one that grew, one that departs and one that is cut off are loaded or refused as each alone is."""
    load(parcels)
    write(parcels, 10, [("new", 1)])
    write(parcels, 1, [("1-0", 0), ("1-1", 1), ("1-2", 2)])
    write(parcels, 4, [("4-0", 0), ("other", 1)])
    write(parcels, 9, [(f"9-{place}", place) for place in range(3)])
    found, exit_code = load(parcels)
    assert exit_code == 3
    assert {name: each["status"] for name, each in found.items()} == dict.fromkeys("0235678", "already_loaded") | {
        "1": "loaded",
        "4": "loaded",
        "9": "incomplete",
        "10": "loaded",
    }
    assert [found[name]["records"]["loaded"] for name in ("1", "4", "10")] == [1, 2, 1]
    assert attempts(parcels) == [(13, 7)]


def test_records_that_wait_are_reported_for_each_file(parcels: Site) -> None:
    """The exit code of a known file with records in the failed store is 1, and people read its line."""
    write(parcels, 3, [("3-0", -1), ("3-1", 1)])
    load(parcels, "--max-rejected", "100%")
    found, exit_code = load(parcels)
    assert (exit_code, found["3"]["exit_code"], found["3"]["records"]["pending"]) == (1, 1, 1)
    assert found["3"]["failed_store"]
    shown = parcels.run("load", "parcels", "in", "--no-precalculate")
    assert "etl failed show --run" in shown.stdout
    assert len(shown.stdout.splitlines()) == 2


def test_a_run_that_is_not_complete_is_not_settled(parcels: Site) -> None:
    """An unfinished run, one that was undone, and one whose ledger lost rows are loaded by themselves."""
    runs = {name: each["run"] for name, each in load(parcels)[0].items()}
    parcels.ask("update etl.runs set finished_at = null where run = %s", [runs["2"]])
    assert parcels.run("runs", "undo", runs["5"]).returncode == 0
    found, _ = load(parcels)
    assert (found["2"]["status"], found["2"]["records"]["skipped"]) == ("loaded", 3)
    assert (found["5"]["status"], found["5"]["records"]["loaded"]) == ("loaded", 6)
    assert parcels.value("select count(*) from logistics.parcels") == 55
    # It has a batch of its own since it continued.
    parcels.ask("delete from etl.separate_batches where run = %s", [runs["2"]])
    broken = parcels.run("load", "parcels", "in", "--no-precalculate")
    assert broken.returncode == 2
    assert f"the ledger of run {runs['2']} is incomplete" in broken.stderr


def test_another_definition_is_reported_for_each_file(parcels: Site) -> None:
    """A file that was loaded under another definition is named in the log, as one alone is."""
    load(parcels)
    parcels.define(SMALL_PARCELS.replace("min = 0", "min = -5"))
    ended = parcels.run("load", "parcels", "in", "--no-precalculate")
    assert len({event["source"] for event in ended.events("loaded_under_another_definition")}) == 10
    assert attempts(parcels) == [(20, 0)]


def test_two_files_with_the_same_records_are_loaded_once(parcels: Site) -> None:
    """A copy within one command is known when its turn comes."""
    (parcels.folder / "in" / "copy.ndjson").write_bytes((parcels.folder / "in" / "9.ndjson").read_bytes())
    found, _ = load(parcels)
    assert found["copy"]["run"] == found["9"]["run"]
    assert parcels.value("select count(*) from logistics.parcels") == 55


def test_a_progress_function_is_called_for_known_files(parcels: Site) -> None:
    """A program gets the counts of each file, also of those that are loaded already."""
    load(parcels)
    seen: list[etl.Progress] = []
    loaded = etl.load(
        "parcels",
        parcels.folder / "in",
        database=parcels.conninfo,
        config_dir=parcels.folder / "config",
        failed_dir=parcels.store,
        precalculate=False,
        progress=seen.append,
    )
    assert {source.status for source in loaded.sources} == {"already_loaded"}
    assert [each.records for each in seen] == list(range(1, 11))


def test_a_trusted_file_is_not_read(parcels: Site) -> None:
    """With --trust-mtime a file of the same name, size and time is known; without it, and after a touch, it is read."""
    load(parcels, "--trust-mtime")
    path = write(parcels, 3, [(f"x-{place}", place) for place in range(4)])
    stat = (parcels.folder / "in" / "2.ndjson").stat()
    found = parcels.value("select source_time_ns from etl.runs where source = 'in/3.ndjson'")
    os.utime(path, ns=(found, found))
    again, exit_code = load(parcels, "--trust-mtime")
    assert exit_code == 0
    assert {each["status"] for each in again.values()} == {"already_loaded"}
    assert [each["records"]["read"] for each in again.values()] == list(range(1, 11))
    assert parcels.value("select max(bytes_read) from etl.known_sources") == 0
    assert load(parcels)[0]["3"]["status"] == "loaded"
    os.utime(path, ns=(stat.st_mtime_ns, stat.st_mtime_ns + 1))
    write(parcels, 4, [("other", 1)])
    moved, _ = load(parcels, "--trust-mtime")
    assert moved["3"]["status"] == "already_loaded"
    assert moved["4"]["status"] == "loaded"


def test_a_large_file_and_a_single_one_are_trusted(parcels: Site) -> None:
    """A file that is loaded by itself is noted at its end, also when a load without the option came before."""
    lines = [json.dumps({"parcel_id": f"big-{place:06}", "weight": place}) + "\n" for place in range(30_000)]
    path = parcels.folder / "big.ndjson"
    path.write_text("".join(lines))
    options = ("--no-precalculate", "--workers", "1")
    assert parcels.load("parcels", "big.ndjson", *options)["status"] == "loaded"
    assert parcels.load("parcels", "big.ndjson", *options, "--trust-mtime")["bytes_read"] == path.stat().st_size
    known = parcels.load("parcels", "big.ndjson", *options, "--trust-mtime")
    assert (known["status"], known["bytes_read"], known["records"]["skipped"]) == ("already_loaded", 0, 30_000)
    with path.open("a") as file:
        file.write(json.dumps({"parcel_id": "new", "weight": 1}) + "\n")
    assert parcels.load("parcels", "big.ndjson", *options, "--trust-mtime")["records"]["loaded"] == 1
