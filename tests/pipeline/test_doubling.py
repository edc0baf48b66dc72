"""What `--force` doubles in an append dataset is counted, and the ways of the handbook double nothing."""

import json
from pathlib import Path

import pytest

from tests.support.site import Site

SCANS = """
name = "scans"
mode = "append"
[[table]]
name = "logistics.scans"
[table.columns]
id = { type = "integer", required = true }
kg = "KIND"
"""


def _define(site: Site, kind: str) -> None:
    site.write_definition(SCANS.replace("KIND", kind))
    assert site.run("dataset", "create", "scans").returncode == 0


@pytest.fixture
def source(site: Site) -> Path:
    """Return a source of 300 records, of which every second one does not fit the first definition."""
    _define(site, "integer")
    path = site.folder / "scans.ndjson"
    path.write_text("".join(json.dumps({"id": n, "kg": n if n % 2 else "none"}) + "\n" for n in range(300)))
    return path


def _loaded(site: Site) -> tuple[int, int]:
    [counts] = site.ask("select count(*)::integer, count(distinct id)::integer from logistics.scans")
    return counts[0], counts[1]


def test_a_forced_append_counts_what_it_doubles(site: Site, source: Path) -> None:
    """The log event comes before the first batch, and the summary and its line have the number."""
    assert site.load("scans", source, "--max-rejected", "100%")["records"]["loaded"] == 150
    ended = site.run("--log-format", "json", "load", "scans", source, "--force", "--max-rejected", "100%", "--json")
    [event] = ended.events("records_doubled")
    assert (event["records"], ended.summary["doubled"]) == (150, 150)
    assert _loaded(site) == (300, 150)
    line = site.run("load", "scans", source, "--force", "--max-rejected", "100%").stdout
    assert "150 of these records were loaded before, and --force added their rows again" in line
    assert "doubled" not in site.load("scans", source)


def test_a_longer_source_doubles_what_it_shares(site: Site, source: Path) -> None:
    """A source that another one begins like doubles the records that both have; a dataset with a key doubles none."""
    source.write_text("".join(json.dumps({"id": n}) + "\n" for n in range(3000)))
    assert site.load("scans", source)["records"]["loaded"] == 3000
    other = site.folder / "other.ndjson"
    other.write_text(source.read_text()[:-1].replace('"id": 2999', '"id": 9999') + "\n")
    assert site.run("load", "scans", other).returncode == 5
    assert site.load("scans", other, "--force")["doubled"] > 2000
    half = site.folder / "half.ndjson"
    half.write_text("".join(source.read_text().splitlines(keepends=True)[:2000]))
    assert site.load("scans", half, "--force")["doubled"] == 2000


def test_a_removed_run_is_not_doubled(site: Site, source: Path) -> None:
    """The command of the hint takes the run back: then nothing is doubled, and nothing is reported."""
    run = site.load("scans", source, "--max-rejected", "100%")["run"]
    site.ask("alter table logistics.scans alter column kg type text")
    _define(site, "text")
    ended = site.run("--log-format", "json", "load", "scans", source)
    [event] = ended.events("loaded_under_another_definition")
    command = event["hint"].partition("unless the run is taken back before: ")[2]
    assert command == f"etl runs undo {run}"
    other = site.folder / "more.ndjson"
    other.write_text('{"id": 1000}\n')
    assert site.load("scans", other)["exit_code"] == 0
    assert site.run(*command.split()[1:]).returncode == 0
    summary = site.load("scans", source, "--force")
    assert (summary["status"], "doubled" in summary) == ("loaded", False)
    assert _loaded(site) == (301, 301)
