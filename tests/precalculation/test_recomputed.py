"""Every column of every shipped aggregate equals an independent computation in exact fractions over mean facts."""

import re
import shutil
from collections.abc import Callable, Iterable
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

from etl import datasets
from etl.database.tables import create_tables
from etl.precalculation.catalogue import Aggregate, choose, read_all
from etl.precalculation.installation import install
from etl.precalculation.refresh import refresh
from tests.support import recomputed
from tests.support.checkout import ROOT
from tests.support.facts import rows_of
from tests.support.faults import Connection
from tests.support.mean_facts import MeanFacts
from tests.support.recomputed import Row, World

# The server interpolates in binary numbers: an exact tie in the fourth place may go either way.
_TIE = Fraction(1, 1000)
_INTERPOLATED = ("p10_", "p50_", "p90_", "p95_", "spread_")


def _is_same(name: str, got: Any, expected: Any) -> bool:
    if got is None or expected is None or isinstance(got, str | bool):
        return bool(got == expected)
    if not isinstance(got, int | Fraction) and not hasattr(got, "as_tuple"):
        return bool(got == expected)
    difference = abs(Fraction(got) - expected)
    return not difference or (name.startswith(_INTERPOLATED) and difference <= _TIE)


def _compared(connection: Connection, aggregate: Aggregate, expected: Iterable[Row]) -> None:
    """Compare all rows and columns of an aggregate."""
    names = [name for name, _ in aggregate.columns]
    wanted = {tuple(row[name] for name in aggregate.key): row for row in expected}
    rows = [dict(zip(names, row, strict=True)) for row in rows_of(connection, aggregate.name, " ".join(names))]
    got = {tuple(row[name] for name in aggregate.key): row for row in rows}
    assert got.keys() == wanted.keys(), (aggregate.name, got.keys() ^ wanted.keys())
    for key, row in got.items():
        for name in names:
            assert _is_same(name, row[name], wanted[key][name]), (
                aggregate.name,
                key,
                name,
                row[name],
                wanted[key][name],
            )


def _require_equal(connection: Connection, facts: MeanFacts, *, full: bool) -> None:
    world = World(facts.read())
    for aggregate in read_all():
        refresh(connection, aggregate, run=None, full=full)
        compute: Callable[[World], list[Row]] = getattr(recomputed, aggregate.name)
        _compared(connection, aggregate, compute(world))


def _play(connection: Connection, seed: int, rounds: int) -> None:
    facts = MeanFacts(connection, seed)
    facts.change(400)
    _require_equal(connection, facts, full=True)
    for number in range(rounds):
        if number == 1:
            facts.refer()
        facts.change(6)
        _require_equal(connection, facts, full=False)


def test_all_aggregates_equal_an_independent_computation(connection: Connection) -> None:
    """Rows and values are equal to the digit, after a full refresh and after incremental ones."""
    _play(connection, seed=1, rounds=2)


def test_the_aggregates_of_the_industry_equal_an_independent_computation(
    connection: Connection, tmp_path: Path
) -> None:
    """The aggregates that are offered beside the shipped ones are recomputed in the same way."""
    shutil.copytree(ROOT / "sql" / "aggregates" / "industry", tmp_path / "aggregates")
    for name in ("dcsa_events", "parcel_tracking"):
        create_tables(connection, datasets.find(name, tmp_path))
    aggregates = choose(["container_days", "parcel_days"], tmp_path)
    install(connection, aggregates, {})
    facts = MeanFacts(connection, 1)
    for size in (200, 9, 9):
        facts.put("dcsa_events", "event_id", [facts.container_event() for _ in range(size)])
        facts.put("parcel_trackers", "tracker_id", [facts.parcel() for _ in range(size)])
        world = World(facts.read_industry())
        for aggregate in aggregates:
            refresh(connection, aggregate, run=None)
            _compared(connection, aggregate, getattr(recomputed, aggregate.name)(world))


FORM = re.compile(
    r"(?P<meaning>.+)\. Unit: (?P<unit>.+)\. Of: (?P<of>.+)\. Null: (?P<null>.+)\. Adds up: (?P<adds>yes|no|no, .+)\."
)
FRACTIONS = ("avg_", "stddev_", "p10_", "p50_", "p90_", "p95_", "spread_")


def _read_with_industry(tmp_path: Path) -> tuple[Aggregate, ...]:
    shutil.copytree(ROOT / "sql" / "aggregates" / "industry", tmp_path / "aggregates")
    return read_all(tmp_path)


def test_each_comment_says_what_a_number_means(tmp_path: Path) -> None:
    """A comment names meaning, unit with its places, the rows that it is of, what null is, and whether it adds up."""
    for aggregate in _read_with_industry(tmp_path):
        for name, comment in aggregate.columns:
            said = FORM.fullmatch(comment)
            assert said, (aggregate.name, name, comment)
            is_addable = name.startswith(("count_", "sum_")) and said["adds"] == "yes"
            exceptional = (aggregate.name, name) == ("data_quality", "count_runs")
            assert is_addable or exceptional or said["adds"].startswith("no"), (aggregate.name, name)
            assert not name.startswith(("count_", "sum_")) or said["adds"] == "yes" or exceptional, name
            assert said["adds"].startswith("no, it is a key") == (name in aggregate.key), (aggregate.name, name)
            if name.startswith(FRACTIONS) or name.endswith(("_share", "_rate", "_factor", "per_kg", "per_100_km")):
                assert re.search(r"rounded to \d places", said["unit"]), (aggregate.name, name)
                assert said["null"] != "never", (aggregate.name, name)
            if name.endswith("_hours"):
                assert re.search(r"hours.*\d+ places", said["unit"]), (aggregate.name, name)
            if name.startswith("distinct_"):
                assert "several rows" in said["adds"], (aggregate.name, name)


def test_no_percentile_is_without_the_number_of_its_values(tmp_path: Path) -> None:
    """Each percentile names the count below which it is null, and that count is a column."""
    for aggregate in _read_with_industry(tmp_path):
        names = {name for name, _ in aggregate.columns}
        for name, comment in aggregate.columns:
            if re.match(r"p\d\d_", name):
                counts = re.search(r"Null: (count_\w+)(?: \+ (count_\w+))? is below 20\.", comment)
                assert counts, (aggregate.name, name)
                assert {count for count in counts.groups() if count} <= names


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2, 12))
def test_all_aggregates_equal_an_independent_computation_often(connection: Connection, seed: int) -> None:
    """Other facts, and more rounds, show the same."""
    _play(connection, seed, rounds=6)
