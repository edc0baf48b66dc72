import gzip
import json
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from etl import library
from etl.embedded import Server
from etl.errors import UsageError
from etl.ingestion.pipeline.targets import targets_of
from etl.settings import Format, LoadSettings
from tests.support.databases import databases_of
from tests.support.exports import (
    BOTH,
    FILE,
    LOADED,
    TWO,
    delivery,
    document,
    ends_of,
    load_export,
    log,
    put,
    put_records,
    summaries_of,
)
from tests.support.site import Site
from tests.support.states import State, assert_sound, state

DELIVERIES, LOGS = 200, 80


@dataclass(frozen=True, kw_only=True)
class Export:
    """A document that holds the records of two datasets, and what a site holds where each was loaded by itself."""

    content: bytes
    clean: State


@pytest.fixture(scope="module")
def export(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Export:
    """Give a document, and what comes of it when each dataset is loaded by itself."""
    content = document(DELIVERIES, LOGS)
    with databases_of(server).site(tmp_path_factory.mktemp("clean")) as site:
        (site.folder / FILE).write_bytes(content)
        for dataset in BOTH.split(","):
            ended = load_export(site, "--records", f"{dataset}.item", datasets=dataset)
            assert ended.returncode == 1, ended.stderr
        assert_sound(site)
        return Export(content=content, clean=state(site))


@pytest.fixture
def site(server: Server, tmp_path: Path) -> Iterator[Site]:
    """Give a site to a test."""
    with databases_of(server).site(tmp_path) as site:
        yield site


@pytest.mark.parametrize(
    "how",
    ["plain", "two workers", *(pytest.param(each, marks=pytest.mark.slow) for each in ("gzip", "stdin", "ijson"))],
)
def test_each_array_of_a_document_comes_into_its_dataset(site: Site, export: Export, how: str) -> None:
    """One pass leaves the rows, rejected records, numbers and offsets that a load of each dataset by itself leaves."""
    put(site, gzip.compress(export.content) if how == "gzip" else export.content)
    options = {"two workers": ["--workers", "2"], "ijson": ["--decoder", "ijson"]}.get(how, [])
    stdin = export.content.decode() if how == "stdin" else ""
    ended = load_export(site, *options, source="-" if stdin else FILE, stdin=stdin)
    assert (ended.returncode, ends_of(ended)) == (1, LOADED), ended.stderr
    found = summaries_of(ended)
    assert list(found) == BOTH.split(",")
    assert (found["deliveries"]["records"]["read"], found["vehicle_logs"]["records"]["read"]) == (DELIVERIES, LOGS)
    assert found["vehicle_logs"]["rows"].keys() == {"logistics.vehicle_logs"}
    assert {each["bytes_read"] for each in found.values()} == {len(export.content)}
    assert len({each["run"] for each in found.values()}) == 2
    assert ended.lines[-1]["sources"] == 1
    assert_sound(site)
    assert state(site) == export.clean


def test_the_same_command_again_finds_all_loaded(site: Site, export: Export) -> None:
    """Loaded records are reported for each dataset; the aggregates of all datasets are computed once."""
    put(site, export.content)
    words = ["load", BOTH, FILE, "--json", "--batch-rows", "10", "--max-rejected", "50%"]
    first = site.run(*words)
    assert first.returncode == 1, first.stderr
    refreshed = [each["aggregate"] for each in first.lines[-1]["precalculated"]]
    assert len(refreshed) == len(set(refreshed))
    assert "vehicle_days" in refreshed
    again = load_export(site)
    assert set(ends_of(again).values()) == {("already_loaded", 1)}
    assert {each["records"]["skipped"] for each in summaries_of(again).values()} == {DELIVERIES, LOGS}
    alone = load_export(site, "--records", "vehicle_logs.item", datasets="vehicle_logs")
    assert ends_of(alone) == {"vehicle_logs": ("already_loaded", 1)}
    assert state(site).facts == export.clean.facts


@pytest.mark.parametrize("workers", ["1", pytest.param("2", marks=pytest.mark.slow)])
def test_a_document_that_was_cut_off_continues(site: Site, export: Export, workers: str) -> None:
    """A cut source ends all datasets with 3, reported once with its record; the whole source loads the rest."""
    content = export.content
    records = content.index(b'"deliveries"')
    put(site, content[: records + (len(content) - records) // 2])
    ended = load_export(site, "--workers", workers)
    assert (ended.returncode, set(ends_of(ended).values())) == (3, {("incomplete", 3)})
    [error] = ended.errors
    read = summaries_of(ended)["deliveries"]["records"]["read"]
    assert f"the source is cut off in this record, at record {read + 1} of deliveries.item, byte " in error
    assert summaries_of(ended)["vehicle_logs"]["records"]["read"] == LOGS
    assert_sound(site)
    put(site, content)
    again = load_export(site, "--workers", workers)
    assert ends_of(again) == LOADED
    counts = {name: each["records"] for name, each in summaries_of(again).items()}
    assert counts["vehicle_logs"]["skipped"] == LOGS
    assert counts["deliveries"]["skipped"] == read // 10 * 10 or counts["deliveries"]["skipped"] == read
    assert state(site) == export.clean


def test_one_dataset_continues_by_itself(site: Site, export: Export) -> None:
    """The command that `runs show` prints continues the run of one dataset alone, and leaves the other unchanged."""
    put(site, export.content[: len(export.content) * 3 // 4])
    site.store = site.folder / "kept"
    ended = load_export(site, "--failed-dir", "kept")
    run = summaries_of(ended)["deliveries"]["run"]
    [shown] = site.run("runs", "show", run, "--json").lines
    assert shown["status"] == "incomplete"
    words = shlex.split(shown["next"])
    assert words == ["etl", "load", "deliveries", FILE, "--records", "deliveries.item", "--failed-dir", "kept"]
    put(site, export.content)
    alone = site.run(*words[1:], "--json", "--no-precalculate", "--max-rejected", "50%")
    assert (alone.summary["run"], alone.summary["status"]) == (run, "loaded_with_rejects")
    unfinished = site.ask("select dataset from etl.runs where finished_at is null")
    assert unfinished == [("vehicle_logs",)]
    both = load_export(site, "--failed-dir", "kept")
    assert ends_of(both) == {"deliveries": ("already_loaded", 1), "vehicle_logs": ("loaded_with_rejects", 1)}
    assert state(site).facts == export.clean.facts


def test_a_path_that_names_nothing_ends_its_dataset_alone(site: Site, export: Export) -> None:
    """A dataset that a whole document does not hold ends with 3 and the paths there are; the others are loaded."""
    put(site, export.content)
    ended = load_export(site, "--records", "shipments.item,vehicle_logs.item")
    assert ended.returncode == 3
    assert ends_of(ended) == {"deliveries": ("incomplete", 3), "vehicle_logs": ("loaded_with_rejects", 1)}
    [error] = ended.errors
    assert "no array at the records path shipments.item" in error
    assert "arrays are at: meta.counts.item, vehicle_logs.item, deliveries.item" in ended.stderr
    assert state(site).facts["logistics.vehicle_logs"] == export.clean.facts["logistics.vehicle_logs"]
    nothing = load_export(site, "--records", "a.item,b.item", "--failed-dir", "other")
    assert set(ends_of(nothing).values()) == {("incomplete", 3)}
    assert len(nothing.errors) == 2


def test_empty_arrays_are_loaded(site: Site) -> None:
    """An array that is there and holds nothing is loaded, as `[]` is."""
    put(site, b'{"vehicle_logs": [], "deliveries": [ ]}')
    ended = load_export(site)
    assert set(ends_of(ended).values()) == {("loaded", 0)}, ended.stderr
    assert site.count_batches() == 0


def test_paths_may_alternate_and_hold_records_by_key(site: Site) -> None:
    """Arrays that come again and again, and objects by keys, are counted by the records of their own path."""
    pages = [
        {
            "logs": {str(2 * page + each): log(2 * page + each) for each in (0, 1)},
            "deliveries": [delivery(page), {"shipment_id": None}],
        }
        for page in range(4)
    ]
    put(site, json.dumps({"pages": pages}).encode())
    ended = load_export(site, "--batch-rows", "2", "--records", "pages.item.deliveries.item,pages.item.logs.*")
    assert ends_of(ended) == {"deliveries": ("loaded_with_rejects", 1), "vehicle_logs": ("loaded", 0)}, ended.stderr
    failures = [
        json.loads(path.read_text())["records"]
        for path in sorted(site.store.rglob("*.json"), key=lambda each: each.name)
    ]
    reported = sorted((record["record"], record["offset"]) for records in failures for record in records)
    text = json.dumps({"pages": pages})
    assert reported == [
        (2 * n + 2, match.start()) for n, match in enumerate(re.finditer(r'{"shipment_id": null', text))
    ]
    assert site.value("select count(*) from logistics.vehicle_logs") == 8


@pytest.mark.parametrize(
    ("datasets", "records", "format", "error"),
    [
        ("shipments,shipments", None, "auto", "the dataset shipments is named twice"),
        ("shipments,", None, "auto", "a dataset has no name in 'shipments,'"),
        ("shipments,nothing", None, "auto", "no dataset is called 'nothing'"),
        (TWO, "a.item", "auto", "--records expects 2 paths, one for each dataset, got 1"),
        (TWO, "a.item,b.item,c.item", "auto", "--records expects 2 paths, one for each dataset, got 3"),
        (TWO, "a.item,a.item", "auto", "are the same or within each other"),
        (TWO, "a.item,a.item.logs.item", "auto", "are the same or within each other"),
        (TWO, "a.logs.item,a.*", "auto", "are the same or within each other"),
        (TWO, ",a.item", "auto", "the records of shipments at '' and of vehicle_logs at a.item are the same"),
        (TWO, "a..item,b.item", "auto", "expected a records path such as"),
        (TWO, None, "ndjson", "--format ndjson has no paths"),
    ],
)
def test_what_cannot_share_a_source_is_refused(
    tmp_path: Path, datasets: str, records: str | None, format: Format, error: str
) -> None:
    """Datasets whose records cannot be distinguished in one source are wrong usage."""
    with pytest.raises(UsageError, match=re.escape(error)):
        targets_of(datasets, LoadSettings(records=records, format=format), tmp_path)


@pytest.mark.parametrize(
    ("options", "error"),
    [
        (["--records", "a.item,a.item"], "are the same or within each other"),
        (["--limit", "1", "--atomic"], "--limit brings in a part of a source"),
    ],
)
def test_what_is_refused_begins_nothing(site: Site, options: list[str], error: str) -> None:
    """Wrong usage of one dataset is exit code 2 for all, before anything starts."""
    ended = load_export(site, *options)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert error in ended.stderr
    assert site.value("select count(*) from etl.runs") == 0


def test_definitions_may_name_their_paths(site: Site) -> None:
    """Where a definition names a path of its own it is taken; `item` means the array at the dataset's name."""
    config = site.folder / "config"
    folder = config / "datasets"
    (folder / "a.toml").write_text(
        'name = "a"\nrecords = "x.item"\n[[table]]\nname = "lab.a"\n[table.columns]\nid = "text"'
    )
    targets = targets_of("a,vehicle_logs", LoadSettings(), config)
    assert [(target.records, target.records_path) for target in targets] == [
        (None, "x.item"),
        ("vehicle_logs.item", "vehicle_logs.item"),
    ]
    targets = targets_of("a,vehicle_logs", LoadSettings(records="a,b.*", format="document"), config)
    assert [target.records_path for target in targets] == ["a", "b.*"]
    [alone] = targets_of("a", LoadSettings(records="b,c.item", format="ndjson"), config)
    assert alone.records == "b,c.item"
    with pytest.raises(UsageError, match=r"the records of a at x\.item and of vehicle_logs at x\.item are the same"):
        targets_of("a,vehicle_logs", LoadSettings(records="x.item,x.item"), config)


def test_a_replace_does_not_remove_what_the_other_dataset_brings(site: Site) -> None:
    """Two datasets of one table cannot be loaded from one source where one of them replaces the other's rows."""
    folder = site.folder / "config" / "datasets"
    text = (folder / "deliveries.toml").read_text()
    (folder / "parcels.toml").write_text(text.replace('"deliveries"', '"parcels"').replace('"append"', '"replace"'))
    put(site, b'{"deliveries": [], "parcels": []}')
    ended = load_export(site, datasets="deliveries,parcels")
    assert ended.returncode == 2
    assert "replace of parcels would remove what deliveries brings into logistics.deliveries\n" in ended.stderr
    assert site.value("select count(*) from etl.runs") == 0


@pytest.mark.parametrize("options", [pytest.param(["--atomic"], marks=pytest.mark.slow), ["--mode", "replace"]])
def test_all_datasets_become_visible_together(site: Site, options: list[str]) -> None:
    """With --atomic and replace the rows of all datasets stay hidden until all can be shown, by one transaction."""
    put_records(site, 30, 20, bad=5)
    ended = load_export(site, *options, "--max-rejected", "4")
    assert (ended.returncode, set(ends_of(ended).values())) == (5, {("aborted", 5)})
    assert len(ended.errors) == 1
    assert {name: each["records"]["withheld"] for name, each in summaries_of(ended).items()} == {
        "deliveries": 25,
        "vehicle_logs": 20,
    }
    assert site.value("select count(*) from logistics.vehicle_logs") == 0
    again = load_export(site, *options)
    assert ends_of(again) == {"deliveries": ("loaded_with_rejects", 1), "vehicle_logs": ("loaded", 0)}, again.stderr
    assert site.value("select count(*) from logistics.vehicle_logs") == 20
    assert site.value("select count(distinct xmin::text) from etl.runs where published_at is not null") == 1
    assert site.value("select count(*) from etl.runs where published_at is not null") == 2
    assert site.value("select count(*) from pg_class where relnamespace = 'etl_staging'::regnamespace") == 0


def test_a_policy_holds_within_each_dataset(server: Server, site: Site, tmp_path: Path) -> None:
    """Duplicates are those of a dataset's own records, also where temporary tables of two datasets come together."""
    names, options = ["shipments", "vehicle_logs"], ["--on-duplicate", "first", "--atomic"]
    found = {name: [{**delivery(n // 2), **log(n // 2), "status": str(n)} for n in range(30)] for name in names}
    content = json.dumps(found).encode()
    put(site, content)
    ended = load_export(site, *options, datasets=",".join(names))
    assert set(ends_of(ended).values()) == {("loaded", 0)}, ended.stderr
    assert [each["policies"] for each in summaries_of(ended).values()] == [{"duplicates": 15}] * 2
    with databases_of(server).site(tmp_path / "clean") as clean:
        put(clean, content)
        for name in names:
            assert load_export(clean, *options, "--records", f"{name}.item", datasets=name).returncode == 0
        assert state(site) == state(clean)


def test_a_missing_path_keeps_an_atomic_load_from_being_seen(site: Site) -> None:
    """Where one dataset of an atomic load has no array in the document, none becomes visible."""
    put_records(site, 10, 10)
    ended = load_export(site, "--atomic", "--records", "deliveries.item,nothing.item")
    assert set(ends_of(ended).values()) == {("incomplete", 3)}
    assert len(ended.errors) == 1
    assert summaries_of(ended)["deliveries"]["records"]["withheld"] == 10
    assert site.value("select count(*) from logistics.deliveries") == 0
    rehearsed = load_export(site, "--atomic", "--records", "deliveries.item,nothing.item", "--dry-run")
    assert set(ends_of(rehearsed).values()) == {("incomplete", 3)}


def test_runs_that_began_atomic_become_visible_together(site: Site) -> None:
    """Runs of an --atomic load that are continued without the option are still published together or not at all."""
    put_records(site, 150, 20)
    whole = (site.folder / FILE).read_bytes()
    put(site, whole[: whole.index(b'"S100"')])
    assert load_export(site, "--atomic").returncode == 3
    put_records(site, 150, 20, bad=40)
    ended = load_export(site, "--max-rejected", "10%", "--batch-rows", "100")
    assert ends_of(ended) == {"deliveries": ("aborted", 5), "vehicle_logs": ("aborted", 5)}
    assert site.value("select count(*) from logistics.vehicle_logs") == 0
    assert ends_of(load_export(site)) == {"deliveries": ("loaded_with_rejects", 1), "vehicle_logs": ("loaded", 0)}
    assert site.value("select count(*) from logistics.vehicle_logs") == 20


@pytest.mark.parametrize("workers", ["1", pytest.param("2", marks=pytest.mark.slow)])
def test_too_many_rejected_of_one_dataset_end_all(site: Site, workers: str) -> None:
    """--max-rejected is judged for each dataset; one dataset can abort the source, and a higher limit continues."""
    put_records(site, 60, 20, bad=40)
    ended = load_export(site, "--max-rejected", "10", "--workers", workers)
    assert (ended.returncode, set(ends_of(ended).values())) == (5, {("aborted", 5)})
    [error] = ended.errors
    assert re.match(r"deliveries: \d+ of \d+ records are rejected, --max-rejected allows 10", error)
    assert_sound(site)
    again = load_export(site, "--max-rejected", "40", "--workers", workers)
    assert ends_of(again) == {"deliveries": ("loaded_with_rejects", 1), "vehicle_logs": ("loaded", 0)}
    assert site.value("select count(*) from logistics.deliveries") == 20


def test_a_share_that_is_exceeded_at_the_end_ends_its_dataset_alone(site: Site) -> None:
    """Where only the end tells that too many of one dataset are rejected, the others are loaded."""
    put_records(site, 150, 20, bad=40)
    ended = load_export(site, "--max-rejected", "10%", "--batch-rows", "100")
    assert ends_of(ended) == {"deliveries": ("aborted", 5), "vehicle_logs": ("loaded", 0)}
    assert (ended.returncode, len(ended.errors)) == (5, 1)
    rehearsed = load_export(site, "--max-rejected", "10%", "--dry-run")
    assert ends_of(rehearsed) == {"deliveries": ("aborted", 5), "vehicle_logs": ("checked", 0)}


@pytest.mark.parametrize(
    ("content", "exit_code"), [(None, 3), (b"", 3), (b"<html>", 3), (b'{"vehicle_logs": []} {}', 3)]
)
def test_a_source_that_is_none_is_reported_once(site: Site, content: bytes | None, exit_code: int) -> None:
    """What is missing, empty or no document ends all datasets with one error."""
    if content is not None:
        put(site, content)
    ended = load_export(site)
    assert (ended.returncode, set(ends_of(ended).values())) == (exit_code, {("incomplete", exit_code)})
    assert len(ended.errors) == 1


def test_a_database_that_is_away_is_reported_once(site: Site) -> None:
    """Each dataset has its line although no database can tell of it."""
    put_records(site, 1, 1)
    ended = load_export(site, conninfo="postgresql://nobody@127.0.0.1:1/nothing")
    assert (ended.returncode, set(ends_of(ended).values())) == (4, {("incomplete", 4)})
    assert len(ended.errors) == 1


def test_a_limit_holds_for_each_dataset(site: Site) -> None:
    """--limit brings in the first records of each dataset, all of one that has no more; then the rest is brought in."""
    put_records(site, 40, 15)
    ended = load_export(site, "--limit", "20")
    assert ends_of(ended) == {"deliveries": ("incomplete", 0), "vehicle_logs": ("loaded", 0)}, ended.stderr
    ended = load_export(site, "--limit", "7", datasets="vehicle_logs,deliveries", source=FILE)
    counts = {name: each["records"]["read"] for name, each in summaries_of(ended).items()}
    assert counts == {"vehicle_logs": 7, "deliveries": 7}
    assert ends_of(load_export(site)) == {"deliveries": ("loaded", 0), "vehicle_logs": ("already_loaded", 0)}
    assert site.value("select count(*) from logistics.deliveries") == 40


def test_a_dry_run_judges_all_datasets_in_one_pass(site: Site, export: Export) -> None:
    """A dry run tells for each dataset what a load would refuse of it, with its reasons, and keeps nothing."""
    put(site, export.content)
    ended = load_export(site, "--dry-run")
    assert ends_of(ended) == {name: ("checked", code) for name, (_, code) in LOADED.items()}
    refused = {name: each["records"]["rejected"] for name, each in summaries_of(ended).items()}
    expected = dict.fromkeys(refused, 0)
    for (dataset, *_), count in export.clean.refused.items():
        expected[dataset] += count
    assert refused == expected
    for each in summaries_of(ended).values():
        assert sum(reason["count"] for reason in each["reasons"]) == refused[each["dataset"]]
    assert site.value("select count(*) from etl.runs") == 0
    partly = load_export(site, "--dry-run", "--records", "nothing.item,vehicle_logs.item")
    assert ends_of(partly) == {"deliveries": ("incomplete", 3), "vehicle_logs": ("checked", 1)}


def test_a_source_that_is_held_for_one_dataset_is_busy_for_all(site: Site) -> None:
    """While a replace holds one of the datasets, none of them is begun."""
    put_records(site, 10, 10)
    name = "dataset:vehicle_logs"
    with site.connect() as connection:
        connection.execute(
            "select pg_advisory_lock(('x' || left(encode(sha256(%s::text::bytea), 'hex'), 16))::bit(64)::bigint)",
            [name],
        )
        ended = load_export(site)
    assert (ended.returncode, set(ends_of(ended).values())) == (6, {("busy", 6)})
    assert len(ended.errors) == 1
    assert site.value("select count(*) from etl.runs") == 0


def test_several_sources_and_a_person_who_reads(site: Site) -> None:
    """Each source has a line for each dataset; their total counts a source once, and the metrics tell of each."""
    put_records(site, 10, 5)
    put(site, (site.folder / FILE).read_bytes().replace(b"S", b"T").replace(b'"L', b'"M'), "next.json")
    words = ["load", BOTH, FILE, "next.json", "--no-precalculate", "--metrics-file", "etl.prom"]
    ended = site.run(*words)
    assert ended.returncode == 0, ended.stderr
    *lines, total = ended.stdout.splitlines()
    assert [line.split(":")[0] for line in lines] == [
        f"loaded {dataset} from {source}" for source in (FILE, "next.json") for dataset in BOTH.split(",")
    ]
    assert total.startswith("2 sources, 4 loaded: 30 read, 30 loaded in ")
    reported = (site.folder / "etl.prom").read_text()
    for dataset, count in (("deliveries", 20), ("vehicle_logs", 10)):
        assert f'etl_last_records{{command="load",dataset="{dataset}",outcome="loaded"}} {count}.0' in reported
        assert f'etl_last_exit_code{{command="load",dataset="{dataset}"}} 0.0' in reported
    assert BOTH not in reported
    assert site.run(*words[:3]).stdout.splitlines()[2].startswith("2 datasets, 2 already_loaded: 15 read")


def test_a_program_loads_several_datasets(site: Site) -> None:
    """The library takes the names as the command does, and returns a summary for each."""
    put_records(site, 10, 5)
    loaded = library.load(
        BOTH,
        site.folder / FILE,
        database=site.conninfo,
        config_dir=site.folder / "config",
        failed_dir=site.store,
        records="deliveries.item,vehicle_logs.item",
    )
    assert [(each.dataset, each.records.loaded) for each in loaded.sources] == [("deliveries", 10), ("vehicle_logs", 5)]
