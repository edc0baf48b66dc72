"""Every column of every shipped aggregate is what its comment says, recomputed in fractions over hostile facts."""

import re
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

from etl import datasets
from etl.database.tables import create_tables
from etl.precalculation.catalogue import Aggregate, choose, read_all
from etl.precalculation.installation import install
from etl.precalculation.refresh import refresh
from tests.support.checkout import ROOT
from tests.support.hostile_facts import HostileFacts
from tests.support.recomputed import AGGREGATES, INDUSTRY
from tests.support.recomputed.exactly import Facts, Row, exact
from tests.support.site import Site


def _differences(facts: HostileFacts, aggregate: Aggregate, expected: Iterable[Row]) -> list[str]:
    """Return what differs between a table and its recomputation; no value has a tolerance."""
    wanted = {tuple(exact(row[name]) for name in aggregate.key): row for row in expected}
    found = {tuple(exact(row[name]) for name in aggregate.key): row for row in facts.rows(aggregate.table)}
    result = [f"{aggregate.name}: extra {key}" for key in found.keys() - wanted.keys()]
    result += [f"{aggregate.name}: missing {key}" for key in wanted.keys() - found.keys()]
    for key in wanted.keys() & found.keys():
        for name, _ in aggregate.columns:
            if exact(found[key][name]) != exact(wanted[key][name]):
                result.append(f"{aggregate.name}.{name} {key}: {found[key][name]}, not {wanted[key][name]}")
    return result


def _refresh(
    facts: HostileFacts,
    aggregates: Iterable[Aggregate],
    recomputed: dict[str, Callable[[Facts], list[Row]]],
    *others: str,
    full: bool = False,
) -> list[str]:
    """Refresh aggregates, and return what differs from their recomputation."""
    given = facts.read(*others)
    result = []
    for aggregate in aggregates:
        refresh(facts.connection, aggregate, run=None, full=full)
        result += _differences(facts, aggregate, recomputed[aggregate.name](given))
    return result


def _play(site: Site, seed: int, rounds: int, size: int) -> None:
    facts, aggregates = HostileFacts(site, seed), read_all()
    with facts.connection:
        facts.arrive(size, size * 9 // 10)
        facts.edit()
        assert _refresh(facts, aggregates, AGGREGATES, full=True) == []
        for number in range(rounds):
            if number % 3 == 0:
                facts.replay_and_undo()
            else:
                facts.arrive(size, size // 5)
            if number == rounds - 1:
                facts.name()
            facts.edit()
            assert _refresh(facts, aggregates, AGGREGATES) == [], (seed, number)


def test_every_column_is_what_its_comment_says(site: Site) -> None:
    """Rows and values are equal to the last digit, after a full refresh and after incremental ones."""
    _play(site, seed=1, rounds=2, size=300)


def test_the_aggregates_of_the_industry_are_what_their_comments_say(site: Site, tmp_path: Path) -> None:
    """The aggregates that are offered beside the shipped ones are recomputed in the same way."""
    shutil.copytree(ROOT / "sql" / "aggregates" / "industry", tmp_path / "aggregates")
    for name in ("dcsa_events", "parcel_tracking"):
        create_tables(site.connection, datasets.find(name, tmp_path))
    aggregates = choose(sorted(INDUSTRY), tmp_path)
    install(site.connection, aggregates, {})
    facts = HostileFacts(site, 1)
    with facts.connection:
        for size in (200, 40):
            facts.load("dcsa_events", facts.some(facts.container_event, 250, size))
            facts.load("parcel_tracking", facts.some(facts.parcel, 250, size), "--records", "item")
            others = ("logistics.dcsa_events", "logistics.parcel_trackers")
            assert _refresh(facts, aggregates, INDUSTRY, *others) == []


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
            exceptional = (aggregate.name, name) in {
                ("data_quality", "count_runs"),
                ("shipment_names", "count_shipments"),
            }
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
def test_every_column_is_what_its_comment_says_often(site: Site, seed: int) -> None:
    """Other facts, and more rounds, show the same."""
    _play(site, seed, rounds=6, size=500)
