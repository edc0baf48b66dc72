"""The page on scale has the figures of the simulation, and the simulation obeys the limits of its steps."""

import re
from dataclasses import replace

import pytest

from scripts.simulate_scale import (
    BASE,
    PLANS,
    SECOND,
    Constants,
    Measured,
    Plan,
    as_limits,
    constants_of,
    full_pages,
    limits,
    predicted,
    server_seconds,
    simulate,
)
from scripts.update_docs import ROOT

PAGE = (ROOT / "docs" / "scale.md").read_text(encoding="utf-8")

FAST = Constants(server_seconds=0.0, server_seconds_of_doubling=0.0, wal_bytes=0.0)
"""A server and a disk that limit nothing."""


def test_the_page_has_the_limits_that_the_simulation_prints() -> None:
    """A changed constant or plan changes the page, too."""
    assert "\n".join(as_limits(PLANS, Constants())) in PAGE


def test_the_page_has_the_constants_of_the_simulation() -> None:
    """The table of constants names the values with which the simulation reckons."""
    known = Constants()
    for figure in (
        f"{known.server_seconds * 1e6:.0f} µs of a core of the server for a record of a table of {BASE:,}",
        f"{known.server_seconds_of_doubling * 1e6:.1f} µs more for each doubling",
        f"{known.full_page_bytes:,.0f} bytes a page, of {known.random_index_bytes:.0f} bytes a record in indexes",
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
    """Figures grow with the records; the beginning of a command costs the same for any number."""
    base = Measured(
        records=100, seconds=2.0, command=1.5, server=1.0, refresh=3.0, source_bytes=10, wal_bytes=20, stored_bytes=30,
        ledger_bytes=4,
    )  # fmt: skip
    guess = predicted(base, replace(Constants(), server_seconds=0.01), 0.5, 1_000, 1e9)
    assert (guess.command, guess.server, guess.refresh, guess.wal_bytes) == (10.5, 10.0, 30.0, 200)


def test_each_doubling_makes_a_record_dearer_for_the_server() -> None:
    """Two runs give what it costs; a load of twice the records has it once more for its second half."""
    first = _measured(records=BASE, server=BASE * 25e-6)
    second = _measured(records=SECOND, server=SECOND * 28e-6)
    constants = constants_of(first, second)
    assert server_seconds(BASE, constants) == pytest.approx(first.server)
    assert server_seconds(SECOND, constants) == pytest.approx(second.server)
    of_last = (server_seconds(1e9 + 1e6, constants) - server_seconds(1e9, constants)) / 1e6
    of_double = (server_seconds(2e9 + 1e6, constants) - server_seconds(2e9, constants)) / 1e6
    assert of_double - of_last == pytest.approx(constants.server_seconds_of_doubling, rel=0.01)
    assert constants_of(first, _measured(records=SECOND, server=1.0)).server_seconds_of_doubling == 0


def test_pages_are_written_as_a_whole_after_each_checkpoint() -> None:
    """None before the first; then each page of an index with random keys once, or one for each of fewer entries."""
    constants = Constants(wal_bytes=1_000.0, random_index_bytes=30.0, full_page_bytes=0.0)
    assert full_pages(1_000_000, constants, 1e9) == 0
    pages = 1_000_000 * 30 / 8192
    assert full_pages(2_000_000, constants, 1e9) == pytest.approx(pages, rel=0.01)
    assert full_pages(3_000_000, constants, 1e9) == pytest.approx(pages * 3, rel=0.01)
    many = full_pages(1e10, constants, 1e9) - full_pages(1e10 - 1e6, constants, 1e9)
    assert many == pytest.approx(1e6, rel=0.05)


def _measured(*, records: int, server: float) -> Measured:
    return Measured(
        records=records, seconds=1.0, command=1.0, server=server, refresh=0.0, source_bytes=records, wal_bytes=records,
        stored_bytes=1, ledger_bytes=1,
    )  # fmt: skip


def test_the_measured_runs_are_near_their_predictions() -> None:
    """No figure in the table of the page is more than a tenth from what was predicted."""
    rows = re.findall(r"^\| ([\d,]+) \| (predicted|measured) \| (.*) \|$", PAGE, re.MULTILINE)
    assert rows
    for (records, _, guesses), (same, _, runs) in zip(rows[::2], rows[1::2], strict=True):
        assert records == same
        for guess, run in zip(guesses.split(" | "), runs.split(" | "), strict=True):
            if run != "-":
                assert float(run.replace(",", "")) == pytest.approx(float(guess.replace(",", "")), rel=0.1)
