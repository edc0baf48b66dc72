"""A source, and the result of its load without any fault."""

import time
from dataclasses import dataclass
from pathlib import Path

from tests.support.commands import PATIENT
from tests.support.databases import Databases
from tests.support.records import write_shipments
from tests.support.site import Site
from tests.support.states import State, assert_complete, state


@dataclass(frozen=True, kw_only=True)
class Case:
    """A source, the command that loads it (but for --batch-rows), the result of a clean load, and its duration."""

    dataset: str
    source: Path
    records: int
    command: list[str]
    clean: State
    seconds: float

    def assert_done(self, site: Site) -> None:
        """The site has the result of a clean load: nothing is lost, nothing is doubled."""
        assert_complete(site, self.dataset, self.source, self.records)
        found = state(site)
        lost, doubled = found.lost(self.clean), found.doubled(self.clean)
        assert (lost, doubled) == (0, 0), f"{lost} rows are lost, {doubled} doubled"
        assert found.aggregates == self.clean.aggregates, "the aggregates are not those of a clean load"


def clean_case(databases: Databases, folder: Path, dataset: str, records: int, *options: str) -> Case:
    """Load a new source of generated shipments without any fault."""
    folder.mkdir(parents=True, exist_ok=True)
    source = write_shipments(folder / "shipments.json", records)
    words = ["load", dataset, str(source), "--json", *options, *PATIENT]
    with databases.site(folder) as site:
        started = time.monotonic()
        ended = site.start(*words, "--batch-rows", "100").ended()  # like the command that is killed
        seconds = time.monotonic() - started
        assert ended.returncode == 1, ended.stderr
        assert_complete(site, dataset, source, records)
        clean = state(site)
    return Case(dataset=dataset, source=source, records=records, command=words, clean=clean, seconds=seconds)
