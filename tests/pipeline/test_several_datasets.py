import gzip
import io
import json
import random
import re
import shlex
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from click.shell_completion import ShellComplete
from hypothesis import given, settings
from hypothesis import strategies as st

from etl import library
from etl.cli import cli
from etl.embedded import Server
from etl.errors import SourceError, UsageError
from etl.generate import generate
from etl.ingestion.framing.pieces import CutOptions, NoRecordsError, cut
from etl.ingestion.pipeline.sharing import shares_of
from etl.ingestion.values import Piece
from etl.settings import Format
from tests.support.commands import PATIENT, Ended
from tests.support.databases import databases_of
from tests.support.site import Site
from tests.support.states import State, assert_sound, state
from tests.support.streams import Bytes, range_of
from tests.support.waiting import until

BOTH = "deliveries,vehicle_logs"
TWO = "shipments,vehicle_logs"
FILE = "export.json"
DELIVERIES, LOGS = 200, 80


def _records(dataset: str, records: int, bad: float) -> bytes:
    written = io.BytesIO()
    generate(dataset, records=records, output=written, seed=7, bad=bad)
    return written.getvalue().strip()


def _document(deliveries: int, logs: int, bad: float = 0.03) -> bytes:
    """Return an export: the array of the dataset that is named second comes first."""
    members = {
        "meta": b'{"made": "2026-11-21", "counts": [1, 2]}',
        "vehicle_logs": _records("vehicle_logs", logs, bad),
        "deliveries": _records("shipments", deliveries, bad),
        "end": b"[]",
    }
    return b"{%s}\n" % b",\n".join(b'"%s": %s' % (name.encode(), text) for name, text in members.items())


@dataclass(frozen=True, kw_only=True)
class Export:
    """A document that holds the records of two datasets, and what a site holds where each was loaded by itself."""

    content: bytes
    clean: State


@pytest.fixture(scope="module")
def export(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Export:
    """Give a document, and what comes of it when each dataset is loaded by itself."""
    content = _document(DELIVERIES, LOGS)
    with databases_of(server).site(tmp_path_factory.mktemp("clean")) as site:
        (site.folder / FILE).write_bytes(content)
        for dataset in BOTH.split(","):
            ended = _load(site, "--records", f"{dataset}.item", datasets=dataset)
            assert ended.returncode == 1, ended.stderr
        assert_sound(site)
        return Export(content=content, clean=state(site))


@pytest.fixture
def site(server: Server, tmp_path: Path) -> Iterator[Site]:
    """Give a site to a test."""
    with databases_of(server).site(tmp_path) as site:
        yield site


def _load(
    site: Site,
    *options: str,
    datasets: str = BOTH,
    source: str = FILE,
    stdin: str = "",
    conninfo: str | None = None,
) -> Ended:
    """Load from the folder of the site, in batches of ten and without its aggregates unless options say otherwise."""
    words = ["load", datasets, source, "--json", "--batch-rows", "10", "--no-precalculate"]
    env = {"ETL_WORKERS": "1", "ETL_MAX_REJECTED": "50%"}
    return site.run(*words, *options, env=env, stdin=stdin, conninfo=conninfo)


def _summaries(ended: Ended) -> dict[str, dict[str, Any]]:
    """Return the summaries of a source by their datasets; each balance adds up."""
    found = {line["dataset"]: line for line in ended.lines if line["kind"] == "source"}
    for summary in found.values():
        counts = summary["records"]
        assert counts["read"] == sum(counts[name] for name in ("loaded", "rejected", "failed", "skipped", "withheld"))
    return found


def _ends(ended: Ended) -> dict[str, tuple[str, int]]:
    return {name: (each["status"], each["exit_code"]) for name, each in _summaries(ended).items()}


def _errors(ended: Ended) -> list[str]:
    return re.findall(r"^error: (.*)$", ended.stderr, re.MULTILINE)


def _put(site: Site, content: bytes, name: str = FILE) -> None:
    (site.folder / name).write_bytes(content)


LOADED = {"deliveries": ("loaded_with_rejects", 1), "vehicle_logs": ("loaded_with_rejects", 1)}


@pytest.mark.parametrize("how", ["plain", "two workers", "gzip", "stdin", "ijson"])
def test_each_array_of_a_document_comes_into_its_dataset(site: Site, export: Export, how: str) -> None:
    """One pass leaves the rows, rejected records, numbers and offsets that a load of each dataset by itself leaves."""
    _put(site, gzip.compress(export.content) if how == "gzip" else export.content)
    options = {"two workers": ["--workers", "2"], "ijson": ["--decoder", "ijson"]}.get(how, [])
    stdin = export.content.decode() if how == "stdin" else ""
    ended = _load(site, *options, source="-" if stdin else FILE, stdin=stdin)
    assert (ended.returncode, _ends(ended)) == (1, LOADED), ended.stderr
    found = _summaries(ended)
    assert list(found) == BOTH.split(",")
    assert (found["deliveries"]["records"]["read"], found["vehicle_logs"]["records"]["read"]) == (DELIVERIES, LOGS)
    assert found["vehicle_logs"]["rows"].keys() == {"logistics.vehicle_logs"}
    assert {each["bytes_read"] for each in found.values()} == {len(export.content)}
    assert len({each["run"] for each in found.values()}) == 2
    assert ended.lines[-1]["sources"] == 1
    assert_sound(site)
    assert state(site) == export.clean


def test_the_same_command_again_finds_all_loaded(site: Site, export: Export) -> None:
    """What is in is told for each dataset, and by itself too; the aggregates of all datasets are computed once."""
    _put(site, export.content)
    words = ["load", BOTH, FILE, "--json", "--batch-rows", "10", "--max-rejected", "50%"]
    first = site.run(*words)
    assert first.returncode == 1, first.stderr
    refreshed = [each["aggregate"] for each in first.lines[-1]["precalculated"]]
    assert len(refreshed) == len(set(refreshed))
    assert "vehicle_days" in refreshed
    again = _load(site)
    assert set(_ends(again).values()) == {("already_loaded", 1)}
    assert {each["records"]["skipped"] for each in _summaries(again).values()} == {DELIVERIES, LOGS}
    alone = _load(site, "--records", "vehicle_logs.item", datasets="vehicle_logs")
    assert _ends(alone) == {"vehicle_logs": ("already_loaded", 1)}
    assert state(site).facts == export.clean.facts


@pytest.mark.parametrize("workers", ["1", pytest.param("2", marks=pytest.mark.slow)])
def test_a_document_that_was_cut_off_goes_on(site: Site, export: Export, workers: str) -> None:
    """A cut source ends all datasets with 3, told once with the record of the path; the whole one brings the rest."""
    content = export.content
    records = content.index(b'"deliveries"')
    _put(site, content[: records + (len(content) - records) // 2])
    ended = _load(site, "--workers", workers)
    assert (ended.returncode, set(_ends(ended).values())) == (3, {("incomplete", 3)})
    [error] = _errors(ended)
    read = _summaries(ended)["deliveries"]["records"]["read"]
    assert f"the source is cut off in this record, at record {read + 1} of deliveries.item, byte " in error
    assert _summaries(ended)["vehicle_logs"]["records"]["read"] == LOGS
    assert_sound(site)
    _put(site, content)
    again = _load(site, "--workers", workers)
    assert _ends(again) == LOADED
    counts = {name: each["records"] for name, each in _summaries(again).items()}
    assert counts["vehicle_logs"]["skipped"] == LOGS
    assert counts["deliveries"]["skipped"] == read // 10 * 10 or counts["deliveries"]["skipped"] == read
    assert state(site) == export.clean


def test_one_dataset_goes_on_by_itself(site: Site, export: Export) -> None:
    """The command that `runs show` gives goes on with the run of one dataset alone, and leaves the other as it is."""
    _put(site, export.content[: len(export.content) * 3 // 4])
    site.store = site.folder / "kept"
    ended = _load(site, "--failed-dir", "kept")
    run = _summaries(ended)["deliveries"]["run"]
    [shown] = site.run("runs", "show", run, "--json").lines
    assert shown["status"] == "incomplete"
    words = shlex.split(shown["next"])
    assert words == ["etl", "load", "deliveries", FILE, "--records", "deliveries.item", "--failed-dir", "kept"]
    _put(site, export.content)
    alone = site.run(*words[1:], "--json", "--no-precalculate", "--max-rejected", "50%")
    assert (alone.summary["run"], alone.summary["status"]) == (run, "loaded_with_rejects")
    unfinished = site.ask("select dataset from etl.runs where finished_at is null")
    assert unfinished == [("vehicle_logs",)]
    both = _load(site, "--failed-dir", "kept")
    assert _ends(both) == {"deliveries": ("already_loaded", 1), "vehicle_logs": ("loaded_with_rejects", 1)}
    assert state(site).facts == export.clean.facts


def test_a_path_that_names_nothing_ends_its_dataset_alone(site: Site, export: Export) -> None:
    """A dataset that a whole document does not hold ends with 3 and the paths there are; the others are loaded."""
    _put(site, export.content)
    ended = _load(site, "--records", "shipments.item,vehicle_logs.item")
    assert ended.returncode == 3
    assert _ends(ended) == {"deliveries": ("incomplete", 3), "vehicle_logs": ("loaded_with_rejects", 1)}
    [error] = _errors(ended)
    assert "no array at the records path shipments.item" in error
    assert "arrays are at: meta.counts.item, vehicle_logs.item, deliveries.item" in ended.stderr
    assert state(site).facts["logistics.vehicle_logs"] == export.clean.facts["logistics.vehicle_logs"]
    nothing = _load(site, "--records", "a.item,b.item", "--failed-dir", "other")
    assert set(_ends(nothing).values()) == {("incomplete", 3)}
    assert len(_errors(nothing)) == 2


def test_empty_arrays_are_loaded(site: Site) -> None:
    """An array that is there and holds nothing is loaded, as `[]` is."""
    _put(site, b'{"vehicle_logs": [], "deliveries": [ ]}')
    ended = _load(site)
    assert set(_ends(ended).values()) == {("loaded", 0)}, ended.stderr
    assert site.count_batches() == 0


def test_paths_may_alternate_and_hold_records_by_key(site: Site) -> None:
    """Arrays that come again and again, and objects by keys, are counted by the records of their own path."""
    pages = [
        {
            "logs": {str(2 * page + each): _log(2 * page + each) for each in (0, 1)},
            "deliveries": [_delivery(page), {"shipment_id": None}],
        }
        for page in range(4)
    ]
    _put(site, json.dumps({"pages": pages}).encode())
    ended = _load(site, "--batch-rows", "2", "--records", "pages.item.deliveries.item,pages.item.logs.*")
    assert _ends(ended) == {"deliveries": ("loaded_with_rejects", 1), "vehicle_logs": ("loaded", 0)}, ended.stderr
    failures = [
        json.loads(path.read_text())["records"]
        for path in sorted(site.store.rglob("*.json"), key=lambda each: each.name)
    ]
    told = sorted((record["record"], record["offset"]) for records in failures for record in records)
    text = json.dumps({"pages": pages})
    assert told == [(2 * n + 2, match.start()) for n, match in enumerate(re.finditer(r'{"shipment_id": null', text))]
    assert site.value("select count(*) from logistics.vehicle_logs") == 8


def _delivery(number: int) -> dict[str, Any]:
    return {"shipment_id": f"S{number}", "created_at": "2026-01-01T00:00:00Z"}


def _log(number: int) -> dict[str, Any]:
    return {"log_id": f"L{number}", "trip_date": "2026-01-01"}


def _site_of(site: Site, deliveries: int, logs: int, bad: int = 0) -> None:
    """Put an export there whose last deliveries can never load."""
    records = [_delivery(number) for number in range(deliveries - bad)] + [{"shipment_id": None}] * bad
    _put(site, json.dumps({"vehicle_logs": [*map(_log, range(logs))], "deliveries": records}).encode())


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
    """Datasets whose records cannot be told apart in one source are wrong usage."""
    with pytest.raises(UsageError, match=re.escape(error)):
        shares_of(datasets, records, format, tmp_path)


@pytest.mark.parametrize(
    ("options", "error"),
    [
        (["--records", "a.item,a.item"], "are the same or within each other"),
        (["--limit", "1", "--atomic"], "--limit brings in a part of a source"),
    ],
)
def test_what_is_refused_begins_nothing(site: Site, options: list[str], error: str) -> None:
    """Wrong usage of one dataset is exit code 2 for all, before anything starts."""
    ended = _load(site, *options)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert error in ended.stderr
    assert site.value("select count(*) from etl.runs") == 0


def test_definitions_may_name_their_paths(site: Site) -> None:
    """Where a definition names a path of its own it is taken; `item` stands for the array at the dataset's name."""
    config = site.folder / "config"
    folder = config / "datasets"
    (folder / "a.toml").write_text(
        'name = "a"\nrecords = "x.item"\n[[table]]\nname = "lab.a"\n[table.columns]\nid = "text"'
    )
    assert [(share.records, share.path) for share in shares_of("a,vehicle_logs", None, "auto", config)] == [
        (None, "x.item"),
        ("vehicle_logs.item", "vehicle_logs.item"),
    ]
    assert [share.path for share in shares_of("a,vehicle_logs", "a,b.*", "document", config)] == ["a", "b.*"]
    [alone] = shares_of("a", "b,c.item", "ndjson", config)
    assert alone.records == "b,c.item"
    with pytest.raises(UsageError, match=r"the records of a at x\.item and of vehicle_logs at x\.item are the same"):
        shares_of("a,vehicle_logs", "x.item,x.item", "auto", config)


def test_a_replace_does_not_remove_what_the_other_dataset_brings(site: Site) -> None:
    """Two datasets of one table cannot be loaded from one source where one of them replaces the other's rows."""
    folder = site.folder / "config" / "datasets"
    text = (folder / "deliveries.toml").read_text()
    (folder / "parcels.toml").write_text(text.replace('"deliveries"', '"parcels"').replace('"append"', '"replace"'))
    _put(site, b'{"deliveries": [], "parcels": []}')
    ended = _load(site, datasets="deliveries,parcels")
    assert ended.returncode == 2
    assert "replace of parcels would remove what deliveries brings into logistics.deliveries\n" in ended.stderr
    assert site.value("select count(*) from etl.runs") == 0


@pytest.mark.parametrize("options", [["--atomic"], ["--mode", "replace"]])
def test_all_datasets_become_visible_together(site: Site, options: list[str]) -> None:
    """With --atomic and replace the rows of all datasets stay hidden until all can be shown, by one transaction."""
    _site_of(site, 30, 20, bad=5)
    ended = _load(site, *options, "--max-rejected", "4")
    assert (ended.returncode, set(_ends(ended).values())) == (5, {("aborted", 5)})
    assert len(_errors(ended)) == 1
    assert {name: each["records"]["withheld"] for name, each in _summaries(ended).items()} == {
        "deliveries": 25,
        "vehicle_logs": 20,
    }
    assert site.value("select count(*) from logistics.vehicle_logs") == 0
    again = _load(site, *options)
    assert _ends(again) == {"deliveries": ("loaded_with_rejects", 1), "vehicle_logs": ("loaded", 0)}, again.stderr
    assert site.value("select count(*) from logistics.vehicle_logs") == 20
    assert site.value("select count(distinct xmin::text) from etl.runs where published_at is not null") == 1
    assert site.value("select count(*) from etl.runs where published_at is not null") == 2
    assert site.value("select count(*) from pg_class where relnamespace = 'etl_staging'::regnamespace") == 0


def test_a_policy_holds_within_each_dataset(server: Server, site: Site, tmp_path: Path) -> None:
    """Duplicates are those of a dataset's own records, also where temporary tables of two datasets come together."""
    names, options = ["shipments", "vehicle_logs"], ["--on-duplicate", "first", "--atomic"]
    found = {name: [{**_delivery(n // 2), **_log(n // 2), "status": str(n)} for n in range(30)] for name in names}
    content = json.dumps(found).encode()
    _put(site, content)
    ended = _load(site, *options, datasets=",".join(names))
    assert set(_ends(ended).values()) == {("loaded", 0)}, ended.stderr
    assert [each["policies"] for each in _summaries(ended).values()] == [{"duplicates": 15}] * 2
    with databases_of(server).site(tmp_path / "clean") as clean:
        _put(clean, content)
        for name in names:
            assert _load(clean, *options, "--records", f"{name}.item", datasets=name).returncode == 0
        assert state(site) == state(clean)


def test_a_missing_path_keeps_an_atomic_load_from_being_seen(site: Site) -> None:
    """Where one dataset of an atomic load has no array in the document, none becomes visible."""
    _site_of(site, 10, 10)
    ended = _load(site, "--atomic", "--records", "deliveries.item,nothing.item")
    assert set(_ends(ended).values()) == {("incomplete", 3)}
    assert len(_errors(ended)) == 1
    assert _summaries(ended)["deliveries"]["records"]["withheld"] == 10
    assert site.value("select count(*) from logistics.deliveries") == 0
    rehearsed = _load(site, "--atomic", "--records", "deliveries.item,nothing.item", "--dry-run")
    assert set(_ends(rehearsed).values()) == {("incomplete", 3)}


@pytest.mark.parametrize("workers", ["1", pytest.param("2", marks=pytest.mark.slow)])
def test_too_many_rejected_of_one_dataset_end_all(site: Site, workers: str) -> None:
    """--max-rejected is judged for each dataset; one that exceeds it aborts the source, and a higher limit goes on."""
    _site_of(site, 60, 20, bad=40)
    ended = _load(site, "--max-rejected", "10", "--workers", workers)
    assert (ended.returncode, set(_ends(ended).values())) == (5, {("aborted", 5)})
    [error] = _errors(ended)
    assert re.match(r"deliveries: \d+ of \d+ records are rejected, --max-rejected allows 10", error)
    assert_sound(site)
    again = _load(site, "--max-rejected", "40", "--workers", workers)
    assert _ends(again) == {"deliveries": ("loaded_with_rejects", 1), "vehicle_logs": ("loaded", 0)}
    assert site.value("select count(*) from logistics.deliveries") == 20


def test_a_share_that_is_exceeded_at_the_end_ends_its_dataset_alone(site: Site) -> None:
    """Where only the end tells that too many of one dataset are rejected, the others are loaded."""
    _site_of(site, 150, 20, bad=40)
    ended = _load(site, "--max-rejected", "10%", "--batch-rows", "100")
    assert _ends(ended) == {"deliveries": ("aborted", 5), "vehicle_logs": ("loaded", 0)}
    assert (ended.returncode, len(_errors(ended))) == (5, 1)
    rehearsed = _load(site, "--max-rejected", "10%", "--dry-run")
    assert _ends(rehearsed) == _ends(ended)


@pytest.mark.parametrize(
    ("content", "exit_code"), [(None, 3), (b"", 3), (b"<html>", 3), (b'{"vehicle_logs": []} {}', 3)]
)
def test_a_source_that_is_none_is_told_once(site: Site, content: bytes | None, exit_code: int) -> None:
    """What is missing, empty or no document ends all datasets with one error."""
    if content is not None:
        _put(site, content)
    ended = _load(site)
    assert (ended.returncode, set(_ends(ended).values())) == (exit_code, {("incomplete", exit_code)})
    assert len(_errors(ended)) == 1


def test_a_database_that_is_away_is_told_once(site: Site) -> None:
    """Each dataset has its line although no database can tell of it."""
    _site_of(site, 1, 1)
    ended = _load(site, conninfo="postgresql://nobody@127.0.0.1:1/nothing")
    assert (ended.returncode, set(_ends(ended).values())) == (4, {("incomplete", 4)})
    assert len(_errors(ended)) == 1


def test_a_limit_holds_for_each_dataset(site: Site) -> None:
    """--limit brings in the first records of each dataset, all of one that has no more; then the rest is brought in."""
    _site_of(site, 40, 15)
    ended = _load(site, "--limit", "20")
    assert _ends(ended) == {"deliveries": ("incomplete", 0), "vehicle_logs": ("loaded", 0)}, ended.stderr
    ended = _load(site, "--limit", "7", datasets="vehicle_logs,deliveries", source=FILE)
    counts = {name: each["records"]["read"] for name, each in _summaries(ended).items()}
    assert counts == {"vehicle_logs": 10, "deliveries": 10}
    assert _ends(_load(site)) == {"deliveries": ("loaded", 0), "vehicle_logs": ("already_loaded", 0)}
    assert site.value("select count(*) from logistics.deliveries") == 40


def test_a_dry_run_judges_all_datasets_in_one_pass(site: Site, export: Export) -> None:
    """A dry run tells for each dataset what a load would refuse of it, with its reasons, and keeps nothing."""
    _put(site, export.content)
    ended = _load(site, "--dry-run")
    assert _ends(ended) == LOADED
    refused = {name: each["records"]["rejected"] for name, each in _summaries(ended).items()}
    expected = dict.fromkeys(refused, 0)
    for (dataset, *_), count in export.clean.refused.items():
        expected[dataset] += count
    assert refused == expected
    for each in _summaries(ended).values():
        assert sum(reason["count"] for reason in each["reasons"]) == refused[each["dataset"]]
    assert site.value("select count(*) from etl.runs") == 0
    partly = _load(site, "--dry-run", "--records", "nothing.item,vehicle_logs.item")
    assert _ends(partly) == {"deliveries": ("incomplete", 3), "vehicle_logs": ("loaded_with_rejects", 1)}


def test_a_source_that_is_held_for_one_dataset_is_busy_for_all(site: Site) -> None:
    """While another load holds the source for one dataset, none of them is begun."""
    _site_of(site, 10, 10)
    head = "select encode(sha256(pg_read_binary_file(%s)), 'hex')"
    name = f"source:vehicle_logs:{site.value(head, [str(site.folder / FILE)])}"
    with site.connect() as connection:
        connection.execute(
            "select pg_advisory_lock(('x' || left(encode(sha256(%s::text::bytea), 'hex'), 16))::bit(64)::bigint)",
            [name],
        )
        ended = _load(site)
    assert (ended.returncode, set(_ends(ended).values())) == (6, {("busy", 6)})
    assert len(_errors(ended)) == 1
    assert site.value("select count(*) from etl.runs") == 0


def test_several_sources_and_a_person_who_reads(site: Site) -> None:
    """Each source has a line for each dataset; their total counts a source once, and the metrics tell of each."""
    _site_of(site, 10, 5)
    _put(site, (site.folder / FILE).read_bytes().replace(b"S", b"T").replace(b'"L', b'"M'), "next.json")
    words = ["load", BOTH, FILE, "next.json", "--no-precalculate", "--metrics-file", "etl.prom"]
    ended = site.run(*words)
    assert ended.returncode == 0, ended.stderr
    *lines, total = ended.stdout.splitlines()
    assert [line.split(":")[0] for line in lines] == [
        f"loaded {dataset} from {source}" for source in (FILE, "next.json") for dataset in BOTH.split(",")
    ]
    assert total.startswith("2 sources, 4 loaded: 30 read, 30 loaded in ")
    told = (site.folder / "etl.prom").read_text()
    for dataset, count in (("deliveries", 20), ("vehicle_logs", 10)):
        assert f'etl_last_records{{command="load",dataset="{dataset}",outcome="loaded"}} {count}.0' in told
        assert f'etl_last_exit_code{{command="load",dataset="{dataset}"}} 0.0' in told
    assert BOTH not in told
    assert site.run(*words[:3]).stdout.splitlines()[2].startswith("2 datasets, 2 already_loaded: 15 read")


def test_a_program_loads_several_datasets(site: Site) -> None:
    """The library takes the names as the command does, and returns a summary for each."""
    _site_of(site, 10, 5)
    loaded = library.load(
        BOTH,
        site.folder / FILE,
        database=site.conninfo,
        config_dir=site.folder / "config",
        failed_dir=site.store,
        records="deliveries.item,vehicle_logs.item",
    )
    assert [(each.dataset, each.records.loaded) for each in loaded.sources] == [("deliveries", 10), ("vehicle_logs", 5)]


def test_the_last_of_several_names_is_completed() -> None:
    """Behind a comma a shell offers the names that do not stand before it."""
    offered = ShellComplete(cli, {}, "etl", "_ETL_COMPLETE").get_completions(["load"], "vehicle_logs,veh")
    assert [each.value for each in offered] == ["vehicle_logs,vehicles"]


RECORD = st.dictionaries(st.sampled_from("abc"), st.none() | st.integers() | st.text(max_size=3), max_size=2)
ARRAYS = st.lists(RECORD, max_size=6)
DOCUMENTS = st.lists(
    st.tuples(st.sampled_from("abc"), ARRAYS)
    | st.tuples(st.sampled_from("dk"), st.dictionaries(st.text(max_size=2), RECORD, max_size=3)),
    max_size=6,
    unique_by=lambda member: member[0],
)
PATHS = ["a.item", "b.item", "c.item", "d.*", "k"]


def _cut(data: bytes, *hows: CutOptions) -> tuple[list[Piece], SourceError | None]:
    found: list[Piece] = []
    try:
        for piece in cut(Bytes(data), *hows):
            found.append(piece)  # noqa: PERF402 - what came before the fault is wanted
    except SourceError as error:
        return found, error
    return found, None


@settings(deadline=None, derandomize=True, max_examples=80)
@given(
    members=DOCUMENTS,
    paths=st.lists(st.sampled_from(PATHS), min_size=1, max_size=4, unique=True),
    batch_rows=st.integers(1, 3),
    kept=st.sets(st.integers(0, 12)),
    cut_off=st.none() | st.integers(1, 200),
)
def test_a_document_is_cut_for_each_path_as_for_it_alone(
    members: list[tuple[str, Any]], paths: list[str], batch_rows: int, kept: set[int], cut_off: int | None
) -> None:
    """Several paths give the pieces that each of them gives alone, also of ranges known and of a source cut off."""
    data = json.dumps(dict(members)).encode()
    data = data if cut_off is None else data[:-cut_off]
    alone = [
        _cut(data, CutOptions(format="document", records_path=path, batch_rows=batch_rows, known={})) for path in paths
    ]
    known = [{each.offset: range_of(each) for number, each in enumerate(found) if number in kept} for found, _ in alone]
    alone = [
        _cut(data, CutOptions(format="document", records_path=path, batch_rows=batch_rows, known=ranges))
        for path, ranges in zip(paths, known, strict=True)
    ]
    found, fault = _cut(
        data,
        *(
            CutOptions(format="document", records_path=path, batch_rows=batch_rows, known=ranges)
            for path, ranges in zip(paths, known, strict=True)
        ),
    )
    assert [each.offset for each in found] == sorted(each.offset for each in found)
    if isinstance(fault, NoRecordsError):
        assert {which: str(each) for which, each in fault.faults.items()} == {
            which: str(each) for which, (_, each) in enumerate(alone) if each is not None
        }
    else:
        assert (fault is None) == all(error is None for _, error in alone)
    for which, (pieces, error) in enumerate(alone):
        shared = [each for each in found if each.which == which]
        told = [(each.offset, each.count, each.first_record, each.data, each.shape) for each in shared]
        expected = [(each.offset, each.count, each.first_record, each.data, each.shape) for each in pieces]
        if fault is None or isinstance(fault, NoRecordsError) or error is None:
            assert told == expected
        else:  # A record of another path may be cut off before what comes behind it is looked at.
            assert told == expected[: len(told)]


@pytest.mark.slow
@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_killed_load_of_several_datasets_goes_on(server: Server, site: Site, tmp_path: Path, workers: str) -> None:
    """Killed again and again, and resumed in other batches, all datasets end with the tables of loads by themselves."""
    content = _document(4_000, 2_500)
    with databases_of(server).site(tmp_path / "clean") as clean:
        (clean.folder / FILE).write_bytes(content)
        for dataset in BOTH.split(","):
            _load(clean, "--records", f"{dataset}.item", "--batch-rows", "1000", datasets=dataset)
        expected = state(clean)
    _put(site, content)
    rng = random.Random(5)
    words = ["load", BOTH, FILE, "--json", "--no-precalculate", "--workers", workers]
    for _ in range(6):
        running = site.start(*words, "--batch-rows", rng.choice(("40", "60", "90")))
        site.wait_for_batches(site.count_batches() + rng.randint(2, 12), running)
        time.sleep(rng.random() * 0.02)  # a moment of chance within a batch
        running.kill()
        assert_sound(site)
    until(lambda: _load(site, "--batch-rows", "250", "--workers", workers).returncode != 6, "the source")
    assert _ends(_load(site)) == dict.fromkeys(BOTH.split(","), ("already_loaded", 1))
    assert state(site) == expected


@pytest.mark.slow
def test_connections_that_are_lost_are_taken_up_again(server: Server, site: Site, tmp_path: Path) -> None:
    """A load whose backends are terminated, busy or idle, goes on by itself with all its datasets."""
    content = _document(6_000, 4_000)
    with databases_of(server).site(tmp_path / "clean") as clean:
        (clean.folder / FILE).write_bytes(content)
        assert _load(clean, "--batch-rows", "1000").returncode == 1
        expected = state(clean)
    _put(site, content)
    words = ["load", BOTH, FILE, "--json", "--no-precalculate", "--workers", "1", "--batch-rows", "50", *PATIENT]
    running = site.start(*words)
    rng = random.Random(3)
    query = "select pid from pg_stat_activity where application_name ~ '^etl' and datname = current_database()"
    count_lost = 0
    for _ in range(12):
        pids = site.ask(query)
        if pids and running.is_running():
            site.terminate(int(rng.choice(pids)[0]))
            count_lost += 1
        site.wait_for_batches(site.count_batches() + rng.randint(2, 8), running)
    ended = running.ended()
    assert (ended.returncode, _ends(ended)) == (1, LOADED), ended.stderr
    assert count_lost > 5
    assert_sound(site)
    assert state(site) == expected


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_signal_ends_all_datasets(site: Site, number: signal.Signals, workers: str) -> None:
    """A signal ends the pass behind the batch in hand, is told once, and the same command goes on."""
    _put(site, _document(4_000, 2_000, bad=0))
    words = ["load", BOTH, FILE, "--json", "--no-precalculate", "--workers", workers, "--batch-rows", "50"]
    running = site.start(*words)
    site.wait_for_batches(10, running)
    running.signal(number)
    ended = running.ended()
    code = 128 + number
    assert (ended.returncode, set(_ends(ended).values())) == (code, {("incomplete", code)})
    assert len(_errors(ended)) == 1
    assert_sound(site)
    assert set(_ends(_load(site, "--batch-rows", "1000")).values()) <= {("loaded", 0), ("loaded_with_rejects", 1)}
    assert site.value("select count(*) from logistics.vehicle_logs") == 2_000


@pytest.mark.slow
def test_a_publication_that_is_killed_shows_all_or_nothing(site: Site) -> None:
    """An atomic load that is killed while it publishes shows the rows of all datasets or of none."""
    _site_of(site, 100, 100)
    words = ["load", BOTH, FILE, "--json", "--no-precalculate", "--workers", "1", "--atomic", "--batch-rows", "50"]
    with site.gate("logistics.vehicle_logs", "in COPY") as gate:
        running = site.start(*words)
        gate.reached()
        assert running.kill()
        gate.open()
    until(lambda: site.value("select count(*) from pg_stat_activity where application_name ~ '^etl'") == 0, "the end")
    counts = [
        site.value("select count(*) from logistics.deliveries"),
        site.value("select count(*) from logistics.vehicle_logs"),
    ]
    assert counts in ([0, 0], [100, 100])
    again = _load(site, "--atomic")
    assert {status for status, _ in _ends(again).values()} <= {"loaded", "already_loaded"}, again.stderr
    assert site.value("select count(*) from logistics.deliveries") == 100
    assert site.value("select count(*) from logistics.vehicle_logs") == 100
    assert_sound(site)
