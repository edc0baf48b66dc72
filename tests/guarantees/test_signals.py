"""Signals: the current batch is finished, the summary shows the progress, and the same command continues later."""

import os
import signal
import time
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest

from tests.support.cases import Case, clean_case
from tests.support.commands import Ended, Running
from tests.support.databases import Databases
from tests.support.faults import Moment
from tests.support.site import Site
from tests.support.states import assert_sound
from tests.support.waiting import until

RECORDS = 800

# A batch in the middle of the source without a record that the server refuses.
MIDDLE = 150_000

TERM, INT, HUP = signal.SIGTERM, signal.SIGINT, signal.SIGHUP


def _load(site: Site, case: Case, *more: str) -> Running:
    return site.start(*case.command, "--batch-rows", "100", *more)


def _signal(running: Running, number: int) -> None:
    """Send a first signal, and wait until the command logs it."""
    running.signal(number)
    until(lambda: '"stopping"' in running.stderr(), "the log to tell of the signal")


def _assert_stopped(site: Site, ended: Ended, number: int, batches: int) -> None:
    assert ended.returncode == 128 + number, ended.stderr
    assert ended.summary["status"] == "incomplete"
    assert ended.lines[-1]["exit_code"] == 128 + number
    assert "hint: run the same command to continue" in ended.stderr
    assert site.count_batches() == batches
    [counts] = site.ask("select sum(count_loaded)::int, sum(count_rejected)::int from etl.batches")
    assert (ended.summary["records"]["loaded"], ended.summary["records"]["rejected"]) == counts
    assert site.value("select exit_code from etl.attempts") == 128 + number
    assert_sound(site)


def _complete(site: Site, case: Case) -> None:
    ended = _load(site, case).ended()
    assert ended.returncode == 1
    case.assert_done(site)
    assert site.value("select count(*) from etl.runs") == 1


@pytest.mark.parametrize(
    ("number", "moment"),
    [
        (TERM, "in COPY"),
        *(pytest.param(*each, marks=pytest.mark.slow) for each in ((INT, "in COMMIT"), (HUP, "in COPY"))),
    ],
)
def test_the_current_batch_is_finished(site: Site, appended: Case, number: int, moment: Moment) -> None:
    """A first signal ends the load after the current batch, during its COPY as well as its COMMIT."""
    with site.gate("logistics.deliveries", moment, MIDDLE) as gate:
        running = _load(site, appended)
        gate.reached()
        before = site.count_batches()
        _signal(running, number)
        gate.open()
        ended = running.ended()
    _assert_stopped(site, ended, number, before + 1)
    _complete(site, appended)


def test_a_hangup_that_nohup_ignores_stays_ignored(site: Site, appended: Case) -> None:
    """A load that was started with SIGHUP ignored continues to its end after one."""
    before = signal.signal(HUP, signal.SIG_IGN)
    try:
        with site.gate("logistics.deliveries", "in COPY", MIDDLE) as gate:
            running = _load(site, appended)
            gate.reached()
            running.signal(HUP)
            gate.open()
            ended = running.ended()
    finally:
        signal.signal(HUP, before)
    assert ended.returncode == 1
    assert '"stopping"' not in ended.stderr
    appended.assert_done(site)


@pytest.mark.parametrize(
    ("first", "second", "moment"),
    [(INT, INT, "in COMMIT"), *(pytest.param(TERM, each, "in COPY", marks=pytest.mark.slow) for each in (TERM, INT))],
)
def test_a_second_signal_ends_at_once(site: Site, appended: Case, first: int, second: int, moment: Moment) -> None:
    """A second signal ends the load at once: the current batch is rolled back, and the next load loads it."""
    with site.gate("logistics.deliveries", moment, MIDDLE) as gate:
        running = _load(site, appended)
        gate.reached()
        before = site.count_batches()
        _signal(running, first)
        started = time.monotonic()
        running.signal(second)
        ended = running.ended()
        assert time.monotonic() - started < 5
        until(lambda: not site.ask("select 1 from pg_stat_activity where wait_event = 'advisory'"), "the roll-back")
    _assert_stopped(site, ended, first, before)
    _complete(site, appended)


def test_a_signal_ends_the_wait_for_a_database(site: Site, appended: Case) -> None:
    """A load that waits before a retry ends soon after a signal, before the wait is over."""
    with site.gate("logistics.deliveries", "in COPY", MIDDLE) as gate:
        running = _load(site, appended, "--retry-base-seconds", "60", "--retry-cap-seconds", "60")
        backend = gate.reached()
        before = site.count_batches()
        site.terminate(backend)
        until(lambda: '"batch_retried"' in running.stderr(), "the wait")
        started = time.monotonic()
        running.signal(TERM)
        ended = running.ended()
        assert time.monotonic() - started < 3
        gate.open()
    _assert_stopped(site, ended, TERM, before)
    _complete(site, appended)


@pytest.mark.parametrize("has_begun", [True, False], ids=["in the midst", "at the start"])
def test_a_signal_ends_the_wait_for_the_source(site: Site, appended: Case, has_begun: bool) -> None:
    """A load that waits for input from another program ends soon after a signal, because it has no current batch."""
    source = site.folder / "source.json"
    # White space after the records: enough of it for the load to read all of them.
    source.write_bytes(appended.source.read_bytes() + b" " * (3 << 20))
    running = site.start("load", "deliveries", "-", "--json", "--batch-rows", "100")
    if has_begun:
        running.send(source.read_bytes())
        until(lambda: site.count_batches() == RECORDS // 100, "the batches")
    else:
        running.send(b"[")
        until(running.has_read, "the load to read")
    started = time.monotonic()
    _signal(running, TERM)
    assert running.process.wait(20) == 143
    assert time.monotonic() - started < 3
    ended = running.ended()
    assert ended.summary["status"] == "incomplete"
    if has_begun:
        _assert_stopped(site, ended, TERM, RECORDS // 100)
    again = site.run("load", "deliveries", source, "--json", "--batch-rows", "100")
    assert again.returncode == 1
    assert again.summary["records"]["skipped"] == (RECORDS if has_begun else 0)
    replace(appended, source=source).assert_done(site)


def test_a_signal_ends_the_wait_for_a_writer(site: Site) -> None:
    """A load of a named pipe without a writer says that it waits, and ends on the first signal."""
    os.mkfifo(site.folder / "pipe")
    running = site.start("load", "deliveries", "pipe")
    until(lambda: running.events("source_awaited"), "the line")
    assert running.events("source_awaited")[0]["source"] == "pipe"
    running.signal(TERM)
    assert running.ended(20).returncode == 143


def test_a_signal_while_the_database_is_away(site: Site, appended: Case) -> None:
    """When the ledger cannot be reached, the exit code is still that of the signal."""
    with site.gate("logistics.deliveries", "in COPY", MIDDLE) as gate:
        running = _load(site, appended, "--retry-base-seconds", "60", "--retry-cap-seconds", "60")
        backend = gate.reached()
        site.allow_connections(False)
        site.terminate(backend)
        until(lambda: '"batch_retried"' in running.stderr(), "the wait")
        running.signal(TERM)
        ended = running.ended()
        site.allow_connections(True)
        gate.open()
    assert ended.returncode == 143
    assert ended.summary["status"] == "incomplete"
    assert_sound(site)
    _complete(site, appended)


@pytest.mark.parametrize(
    "numbers",
    [(TERM,), *(pytest.param(each, marks=pytest.mark.slow) for each in ((TERM, TERM), (INT, INT)))],
    ids=["TERM", "TERM twice", "INT twice"],
)
def test_a_signal_while_aggregates_are_brought_up_to_date(site: Site, merged: Case, numbers: tuple[int, ...]) -> None:
    """The current aggregate is finished, or a second signal aborts it; the next load brings all up to date."""
    with ExitStack() as held:
        holder, other = (held.enter_context(site.connect()) for _ in range(2))
        holder.execute("select pg_advisory_lock(hashtextextended('etl:refresh:daily_shipments', 0))")
        other.execute("select pg_advisory_lock(hashtextextended('etl:refresh:lane_emissions', 0))")
        running = _load(site, merged)
        site.backend("wait_event = 'advisory'")
        for number in numbers:
            _signal(running, number)
        if len(numbers) == 1:
            holder.execute("select pg_advisory_unlock_all()")
        ended = running.ended()
    assert ended.returncode == 128 + numbers[0], ended.stderr
    [summary] = ended.summaries
    assert (summary["status"], summary["exit_code"]) == ("loaded_with_rejects", 1)
    done = [each["aggregate"] for each in ended.lines[-1]["precalculated"]]
    assert done[:3] == ["carrier_performance", "carrier_scorecard", "claim_months"]
    assert ("daily_shipments" in done) == (len(numbers) == 1)
    assert max(done) < ("lane_emissions" if len(numbers) == 1 else "daily_shipments")
    assert ended.lines[-1]["exit_code"] == 128 + numbers[0]
    assert_sound(site)
    again = _load(site, merged).ended()
    assert (again.returncode, again.summary["status"]) == (1, "already_loaded")
    merged.assert_done(site)


def test_a_command_is_ended_in_order(site: Site) -> None:
    """SIGTERM ends a command without its own stop handling as Ctrl-C does, but with its own exit code."""
    site.ask("update etl.refreshes set definition_hash = 'another'")
    with site.connect() as holder:
        holder.execute("select pg_advisory_lock(hashtextextended('etl:refresh:daily_shipments', 0))")
        running = site.start("precalculate")
        site.backend("wait_event = 'advisory'")
        running.signal(TERM)
        ended = running.ended()
    assert (ended.returncode, "carrier_scorecard" in ended.stdout, "error" in ended.stderr) == (143, True, False)


@pytest.mark.parametrize(
    "options", [("--atomic",), pytest.param(("--mode", "replace", "--max-rejected", "10%"), marks=pytest.mark.slow)]
)
def test_a_signal_publishes_no_rows(databases: Databases, tmp_path: Path, options: tuple[str, ...]) -> None:
    """An atomic load that a signal ends publishes no rows, and the next load continues where it stopped."""
    case = clean_case(databases, tmp_path / "clean", "deliveries", RECORDS, *options)
    with databases.site(tmp_path / "site") as site:
        running = _load(site, case, "--batch-rows", "10")
        until(lambda: site.count_batches() >= 5, "five batches")
        running.signal(TERM)
        ended = running.ended()
        assert ended.returncode == 143
        counts = ended.summary["records"]
        assert (counts["loaded"], counts["withheld"] > 0) == (0, True)
        assert site.value("select count(*) from logistics.deliveries") == 0
        assert_sound(site)
        again = _load(site, case, "--batch-rows", "100").ended()
        assert again.summary["records"]["skipped"] >= 50
        case.assert_done(site)
