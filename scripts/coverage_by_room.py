#!/usr/bin/env python3
"""Print how much of each room of `etl/` the tests run through, and end with 1 where that is less than it must be.

`python -m scripts.coverage_by_room` reads what `make coverage` measured, and prints a table in Markdown. A room is
covered by the statements and branches that a test ran through, in % of all that it has.
"""

import json
import sys
import tempfile
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePath

import coverage

ALL = "all of etl/"
BOUNDS = {ALL: 90, "ingestion/framing": 95, "ingestion/transform": 95, "ingestion/ledger": 95}
"""The least coverage, in %."""

_COUNTS = ("num_statements", "covered_lines", "num_branches", "covered_branches")


def room(path: str) -> str:
    """Return the room of a file of `etl/`: its folder, and the folder below it in the ingestion."""
    folder = PurePath(path).parent.relative_to("etl").as_posix()
    return "etl itself" if folder == "." else folder


def by_room(measured: Mapping[str, Mapping[str, int]]) -> dict[str, Counter[str]]:
    """Add up the counts of files, by their paths from the folder of the project, to the counts of rooms and of all."""
    rooms: dict[str, Counter[str]] = defaultdict(Counter)
    for path, counts in sorted(measured.items()):
        for name in (room(path), ALL):
            rooms[name].update({count: counts[count] for count in _COUNTS})
    return rooms


def percent(counts: Mapping[str, int]) -> float:
    """Return how much is covered; an empty room is covered."""
    whole = counts["num_statements"] + counts["num_branches"]
    return 100 * (counts["covered_lines"] + counts["covered_branches"]) / whole if whole else 100.0


def too_low(rooms: Mapping[str, Mapping[str, int]]) -> list[str]:
    """Return the bounded rooms that are covered less than they must be, or of which nothing was measured."""
    return [name for name, bound in BOUNDS.items() if name not in rooms or percent(rooms[name]) < bound]


def table(rooms: Mapping[str, Mapping[str, int]]) -> Iterator[str]:
    """Yield the lines of the table: a line for each room, the last one for all of them."""
    yield "| room | statements | branches | covered | at least |"
    yield "| --- | ---: | ---: | ---: | ---: |"
    for name in [*sorted(set(rooms) - {ALL}), ALL]:
        counts = rooms[name]
        bound = f"{BOUNDS[name]} %" if name in BOUNDS else ""
        # Rounded down: what is below its bound must not look as if it were not.
        covered = int(10 * percent(counts)) / 10
        yield f"| {name} | {counts['num_statements']} | {counts['num_branches']} | {covered:.1f} % | {bound} |"


def measured_files() -> dict[str, dict[str, int]]:
    """Return the counts of each file that was measured; raises CoverageException when nothing was."""
    measurement = coverage.Coverage()
    measurement.load()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "coverage.json"
        measurement.json_report(outfile=str(path))
        files = json.loads(path.read_text(encoding="utf-8"))["files"]
    return {path: file["summary"] for path, file in files.items()}


def main() -> int:
    """Print the table and the rooms that are covered too little; return the exit code."""
    try:
        rooms = by_room(measured_files())
    except coverage.CoverageException as error:
        sys.stderr.write(f"nothing was measured: {error}; run `make coverage`\n")
        return 1
    sys.stdout.writelines(f"{line}\n" for line in table(rooms))
    for name in (below := too_low(rooms)):
        sys.stderr.write(f"covered too little: {name}; `.venv/bin/coverage report -m` lists the lines\n")
    return 1 if below else 0


if __name__ == "__main__":
    sys.exit(main())
