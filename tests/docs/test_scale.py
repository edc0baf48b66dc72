"""The page on scale has the figures of the simulation, and the simulation obeys the limits of its steps."""

import re
from dataclasses import replace

import pytest

from scripts.simulate_scale import PLANS, Constants, Measured, Plan, as_limits, limits, predicted, simulate
from scripts.update_docs import ROOT

PAGE = (ROOT / "docs" / "scale.md").read_text(encoding="utf-8")

FAST = Constants(server_seconds=0.0, wal_bytes=0.0)
"""A server and a disk that limit nothing."""


def test_the_page_has_the_limits_that_the_simulation_prints() -> None:
    """A changed constant or plan changes the page, too."""
    assert "\n".join(as_limits(PLANS, Constants())) in PAGE


def test_the_page_has_the_constants_of_the_simulation() -> None:
    """The table of constants names the values with which the simulation reckons."""
    known = Constants()
    for figure in (
        f"{known.server_seconds * 1e6:.0f} µs of a core",
        f"{known.wal_bytes:,.0f} bytes a record",
        f"{known.stored_bytes:,.0f} bytes a record",
        f"{known.refresh_seconds * 1e6:.0f} µs of one core",
        f"{known.ledger_bytes_of_batch:,.0f} bytes a batch",
        f"a shipment of {known.record_bytes:,.0f} bytes",
        f"{known.worker_mb_per_second:.0f} MB/s for one worker",
        f"{known.cut_mb_per_second:.0f} to 374 MB/s for one source",
    ):
        assert figure in PAGE, figure


@pytest.mark.parametrize("plan", PLANS)
def test_no_load_is_faster_than_its_slowest_step(plan: Plan) -> None:
    """The simulated time is that of the slowest step, or a little more: pieces wait for each other at the beginning."""
    seconds, shares = simulate(plan, Constants())
    alone = limits(plan, Constants())
    slowest = max(alone[name] for name in shares)
    assert slowest * 0.99 <= seconds <= slowest * 1.25
    assert max(shares, key=lambda name: shares[name]) == max(shares, key=lambda name: alone[name])


def test_one_source_feeds_about_eight_workers() -> None:
    """More workers than its cutter can feed make a load of one source no faster; fewer make it slower."""
    plan = Plan(records=1e8, cores=64)
    four, eight, sixteen = (simulate(replace(plan, workers=workers), FAST)[0] for workers in (4, 8, 16))
    assert four > 1.8 * eight
    assert eight < 1.1 * sixteen * 213 / (8 * 28)


def test_a_prediction_grows_with_the_records() -> None:
    """All figures are in proportion, but for the time that a command needs to begin."""
    base = Measured(
        records=100, seconds=2.0, command=1.5, server=1.0, refresh=3.0, source_bytes=10, wal_bytes=20, stored_bytes=30,
        ledger_bytes=4,
    )  # fmt: skip
    guess = predicted(base, 0.5, 1_000)
    assert (guess.command, guess.server, guess.refresh, guess.wal_bytes) == (10.5, 10.0, 30.0, 200)


def test_the_measured_runs_are_near_their_predictions() -> None:
    """No figure in the table of the page is more than a tenth from what was predicted."""
    rows = re.findall(r"^\| ([\d,]+) \| (predicted|measured) \| (.*) \|$", PAGE, re.MULTILINE)
    assert rows
    for (records, _, guesses), (same, _, runs) in zip(rows[::2], rows[1::2], strict=True):
        assert records == same
        for guess, run in zip(guesses.split(" | "), runs.split(" | "), strict=True):
            if run != "-":
                assert float(run.replace(",", "")) == pytest.approx(float(guess.replace(",", "")), rel=0.1)
