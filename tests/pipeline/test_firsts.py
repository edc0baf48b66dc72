"""First values (`keep_first`): the first one that is not null in the order of versions, whatever comes when."""

import json
import random
from typing import Any

import pytest

from tests.support.site import Site

DEFINITION = """
name = "parcels"
mode = "merge"
key = ["id", "part"]
%s
[[table]]
name = "lab.parcels"
[table.columns]
id = { type = "text", required = true }
part = { type = "integer", required = true }
version = "integer"
price = { type = "integer", keep_first = true }
carrier = { type = "text", one_of = ["A", "B"] }
"""

Version = tuple[int, int, int]
"""A version by its `newest_by` (null: -1), its run, and its place in the source."""


def _records(chance: random.Random, count: int) -> list[dict[str, Any]]:
    return [
        {
            "id": chance.choice([" a", "a", "A", "é"]),
            "part": chance.randrange(2),
            "version": chance.choice([None, *range(5)]),
            "price": chance.choice([None, chance.randrange(1000)]),
            "carrier": chance.choice("AAAAB") if chance.random() < 0.9 else "late",
        }
        for _ in range(count)
    ]


@pytest.mark.parametrize("seed", [1, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(2, 20))])
def test_the_first_value_is_kept_in_whatever_order_versions_come(site: Site, seed: int) -> None:
    """After loads, groups of small files, forced and atomic loads, workers and replays of refused records."""
    chance = random.Random(seed)
    is_newest = chance.random() < 0.7
    site.define(DEFINITION % ('newest_by = "version"' if is_newest else ""))
    sources: dict[str, list[dict[str, Any]]] = {}
    for number in range(3 if seed == 1 else 5):
        names = [f"{number}_{part}.ndjson" for part in range(chance.choice([1, 1, 3]))]
        for name in names:
            sources[name] = _records(chance, chance.choice([2, 8, 30]))
            (site.folder / name).write_text("".join(json.dumps(record) + "\n" for record in sources[name]))
        options = ["--batch-rows", str(chance.choice([2, 9, 5000]))] if chance.random() < 0.7 else []
        options += chance.choice([[], [], ["--atomic"], ["--decoder", "ijson"], ["--workers", "2"] if seed > 1 else []])
        options += ["--max-rejected", "100%", "--no-precalculate"]
        assert site.run("load", "parcels", *names, *options).returncode in {0, 1, 5}
        if chance.random() < 0.3:
            assert site.run("load", "parcels", *names, *options, "--force").returncode in {0, 1, 5}
    for failure in chance.sample(site.failures.waiting(), len(site.failures.waiting())):
        path = site.failures.path(failure)
        path.write_text(path.read_text().replace("late", "B"))
        # Of an atomic run that published nothing, nothing is replayed.
        assert site.run("failed", "replay", failure, "--no-precalculate").returncode in {0, 2}
    runs = site.ask("select number, source, run from etl.runs where not is_atomic or published_at is not null")
    loaded = {run for (run,) in site.ask("select distinct run from etl.failures where state = 'replayed'")}
    versions: dict[tuple[str, int], list[tuple[Version, int | None]]] = {}
    for number, source, run in runs:
        for place, record in enumerate(sources[source]):
            if record["carrier"] != "late" or run in loaded:
                order = (-1 if record["version"] is None else record["version"]) if is_newest else 0
                key = (record["id"], record["part"])
                versions.setdefault(key, []).append(((order, number, place), record["price"]))
    expected = {
        key: (
            max(each, key=lambda version: version[0])[1],
            next((price for _, price in sorted(each, key=lambda version: version[0]) if price is not None), None),
        )
        for key, each in versions.items()
    }
    shown = site.ask("select id, part, price, coalesce(etl_first_price, price) from lab.parcels")
    assert {(name, part): (price, first) for name, part, price, first in shown} == expected


def test_a_first_value_is_no_version_that_was_written_over(site: Site) -> None:
    """A run whose older records left only first values can be taken back without a loss."""
    site.define(DEFINITION % 'newest_by = "version"')
    records = [{"id": "a", "part": 0, "version": version, "price": version} for version in (2, 1, 3)]
    (site.folder / "1.ndjson").write_text("".join(json.dumps(record) + "\n" for record in records))
    done = site.load("parcels", "1.ndjson", "--no-precalculate")
    assert site.ask("select price, etl_first_price from lab.parcels") == [(3, 1)]
    assert site.run("runs", "undo", done["run"], "--no-precalculate").returncode == 0
