"""The run that a source continues, and the mode by which its rest is loaded."""

from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from etl.ingestion.pipeline import load, opening
from etl.ingestion.sources import stream
from etl.ingestion.sources.stream import Stream
from etl.ingestion.values import Source
from etl.settings import RetrySettings
from tests.support.site import Site

SHIPS = """
name = "ships"
mode = "merge"
key = ["id"]
newest_by = "v"
[[table]]
name = "logistics.ships"
[table.columns]
id = { type = "text", required = true }
v = "integer"
"""


@pytest.fixture
def grown(site: Site) -> Path:
    """Return a source that was merged and has grown since by a newer version and a new record."""
    site.define(SHIPS)
    source = site.folder / "ships.ndjson"
    source.write_text('{"id":"a","v":1}\n{"id":"b","v":1}\n')
    assert site.load("ships", "ships.ndjson")["status"] == "loaded"
    source.write_text(source.read_text() + '{"id":"a","v":2}\n{"id":"c","v":1}\n')
    return source


@pytest.mark.parametrize("workers", ["1", "2"])
def test_the_rest_of_a_source_loads_by_the_mode_of_its_run(site: Site, grown: Path, workers: str) -> None:
    """Another mode is exit 2 with both remedies before anything is loaded; the mode of the run loads the rest."""
    ended = site.run("load", "ships", grown, "--mode", "append", "--workers", workers, "--json")
    assert ended.returncode == 2
    assert "was loaded by mode merge; the rest cannot load by mode append" in ended.stderr
    assert "--mode merge loads the rest; --force loads the whole source by mode append" in ended.stderr
    counts = ended.lines[0]["records"]
    assert (counts["loaded"], counts["skipped"], counts["rejected"]) == (0, 2, 0)
    assert site.ask("select id, v from logistics.ships order by id") == [("a", 1), ("b", 1)]
    assert site.column("select exit_code from etl.attempts order by attempt") == [0, 2]
    assert site.load("ships", grown, "--workers", workers)["records"]["loaded"] == 2
    assert site.ask("select id, v from logistics.ships order by id") == [("a", 2), ("b", 1), ("c", 1)]
    assert site.column("select mode from etl.runs") == ["merge"]


def test_a_complete_source_is_already_loaded_in_any_mode(site: Site, grown: Path) -> None:
    """If no record is missing, the mode of the command does not matter: exit 0, and no row changes."""
    site.load("ships", grown)
    before = site.ask("select * from logistics.ships order by id")
    summary = site.load("ships", grown, "--mode", "append")
    assert (summary["status"], summary["exit_code"]) == ("already_loaded", 0)
    assert site.ask("select * from logistics.ships order by id") == before


def test_a_known_source_is_read_once(site: Site, grown: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The bytes of a source that grew are read once: they are compared and loaded in one pass."""
    read: list[str] = []

    def opened_again(
        source: Source, retries: RetrySettings, linger: float | None = None
    ) -> AbstractContextManager[Stream]:
        read.append(source.name)
        return stream.opened(source, retries, linger)

    monkeypatch.setattr(opening, "opened", opened_again)
    monkeypatch.setattr(load, "opened", opened_again)
    assert site.load("ships", grown.name)["records"]["loaded"] == 2
    assert read == [grown.name]


def test_a_replace_is_a_run_of_its_own(site: Site, grown: Path) -> None:
    """A replace of a merged source loads all of it again, and records its own mode."""
    assert site.load("ships", grown, "--mode", "replace")["records"]["loaded"] == 4
    assert site.column("select mode from etl.runs order by number") == ["merge", "replace"]


def test_other_sources_load_after_one_that_needs_another_mode(site: Site, grown: Path) -> None:
    """The exit code 2 of a source ends that source alone; it counts for the command."""
    (site.folder / "other.ndjson").write_text('{"id":"x","v":1}\n')
    ended = site.run("load", "ships", grown, "other.ndjson", "--mode", "append", "--json")
    statuses = [(line["status"], line["exit_code"]) for line in ended.lines if line["kind"] == "source"]
    assert (ended.returncode, statuses) == (2, [("incomplete", 2), ("loaded", 0)])


@pytest.mark.parametrize(("shared", "others", "code"), [(1500, 5000, 0), (1500, 548, 5), (900, 2000, 0)])
def test_a_source_that_shares_many_records_is_a_full_export(site: Site, shared: int, others: int, code: int) -> None:
    """It is refused if a thousand of its records, and half of it, are those of a run; else it is another source."""
    lines = [f'{{"id":"S{number}","v":1}}\n' for number in range(20_000)]
    site.define(SHIPS)
    source = site.folder / "ships.ndjson"
    source.write_text("".join(lines))
    assert site.load("ships", source, "--mode", "append")["records"]["loaded"] == 20_000
    site.ask("alter table logistics.ships drop constraint ships_pkey")
    source.write_text("".join([*lines[:shared], *(f'{{"id":"T{number}","v":1}}\n' for number in range(others))]))
    ended = site.run("load", "ships", source, "--json", "--mode", "append", "--batch-rows", "512")
    assert (ended.returncode, ended.summary["records"]["loaded"]) == (code, 0 if code else shared + others)


def _kill(site: Site, source: Path, *options: str) -> None:
    """Kill a load in the batch that has the record 90."""
    with site.gate("logistics.ships", "in COPY", when="new.id = '90'") as gate:
        running = site.start("load", "ships", source, "--batch-rows", "10", *options)
        gate.reached()
        assert running.kill()
        gate.open()
    site.wait_for_locks()
    site.ask("drop trigger etl_gate on logistics.ships")


@pytest.mark.parametrize("rows", ["2", pytest.param("20000", marks=pytest.mark.slow)])
def test_a_replace_by_a_source_that_grew_holds_all_of_it(site: Site, rows: str) -> None:
    """What a published replace loaded is loaded again with the rest, wherever its source ended within the batches."""
    site.define(SHIPS)
    source = site.folder / "ships.ndjson"
    text = ""
    for number in range(1, 6):
        text += f'{{"id":"{number}"}}\n'
        source.write_text(text)
        options = ("--mode", "replace", "--batch-rows", rows, "--max-deleted", "0")
        assert site.load("ships", source, *options)["records"]["loaded"] == number
        assert site.load("ships", source, *options)["status"] == "already_loaded"
    assert site.column("select id from logistics.ships order by id") == list("12345")


def test_a_source_whose_rows_a_replace_deleted_loads_again(site: Site) -> None:
    """A replace that was interrupted, and is published after a later load, takes the place of that load, too."""
    site.define(SHIPS)
    first, second = (site.folder / f"{name}.ndjson" for name in ("first", "second"))
    first.write_text("".join(f'{{"id":"{number}"}}\n' for number in range(100)))
    second.write_text('{"id":"x"}\n')
    _kill(site, first, "--mode", "replace")
    assert site.load("ships", second)["records"]["loaded"] == 1
    resumed = site.load("ships", first, "--mode", "replace", "--max-deleted", "100%")
    assert (resumed["records"]["skipped"] > 0, site.value("select count(*) from logistics.ships")) == (True, 100)
    assert site.load("ships", second)["records"]["loaded"] == 1
    assert site.value("select count(*) from logistics.ships") == 101


def test_a_run_continues_wherever_its_records_are(site: Site) -> None:
    """The same records at another path of another document are the same source, also of an interrupted run."""
    site.define(SHIPS)
    records = ",".join(f'{{"id":"{number}"}}' for number in range(100))
    first, second = (site.folder / f"{name}.json" for name in ("first", "second"))
    first.write_text(f'{{"data":[{records}]}}')
    second.write_text(f'{{"page":1,"items":[{records}]}}')
    _kill(site, first, "--records", "data.item")
    counts = site.load("ships", second, "--records", "items.item")["records"]
    assert counts["skipped"] > 0
    assert counts["loaded"] + counts["skipped"] == 100
    assert site.value("select count(*) from etl.runs") == 1


def test_an_interrupted_replace_continues_where_another_run_agrees_for_longer(site: Site) -> None:
    """The run that a replace continues may know less of the source than a run of another mode does."""
    site.define(SHIPS)
    lines = [f'{{"id":"{number}"}}\n' for number in range(200)]
    whole, part, grown = (site.folder / f"{name}.ndjson" for name in ("whole", "part", "grown"))
    whole.write_text("".join(lines[:150]))
    part.write_text("".join(lines[:100]))
    grown.write_text("".join(lines))
    assert site.load("ships", whole, "--mode", "merge")["records"]["loaded"] == 150
    site.ask("delete from logistics.ships where id = '90'")
    _kill(site, part, "--mode", "replace")
    assert site.load("ships", grown, "--mode", "replace")["exit_code"] == 0
    assert site.value("select count(*) from logistics.ships") == 200
