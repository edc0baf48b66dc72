"""Folders of small files that are loaded in groups: each record is loaded once, whatever is killed or runs beside."""

import json
import signal
from collections import Counter

import pytest

from tests.support.definitions import SMALL_PARCELS
from tests.support.site import Site

FILES = 400
COMMAND = ("load", "parcels", "in", "--json", "--no-precalculate")


@pytest.fixture
def parcels(site: Site) -> Site:
    """Return a site with a folder of files of one record."""
    site.define(SMALL_PARCELS)
    (site.folder / "in").mkdir()
    for number in range(FILES):
        text = json.dumps({"parcel_id": f"{number:03}", "weight": number}) + "\n"
        (site.folder / "in" / f"{number:03}.ndjson").write_text(text)
    return site


def assert_each_once(site: Site) -> None:
    """See that each record has one row, and that each file has one complete run."""
    assert site.ask("select count(*), count(distinct parcel_id) from logistics.parcels") == [(FILES, FILES)]
    query = (
        "select count(*), count(distinct source), bool_and(finished_at is not null),"
        " (select sum(count_loaded) from etl.batches), (select count(distinct run) from etl.marks) from etl.runs"
    )
    assert site.ask(query) == [(FILES, FILES, True, FILES, FILES)]


def test_a_folder_whose_load_is_killed_is_loaded_exactly_once(parcels: Site) -> None:
    """A kill amid a group leaves each file loaded or not; the same command loads the files that are missing."""
    with parcels.gate("etl.runs", "in COPY", when="new.source like '%%300.ndjson'") as gate:
        running = parcels.start(*COMMAND)
        gate.reached()
        assert running.kill()
    parcels.wait_for_locks()
    rows = parcels.value("select count(*) from logistics.parcels")
    assert rows == 200 == parcels.value("select count(*) from etl.runs")
    ended = parcels.run(*COMMAND)
    assert Counter(each["status"] for each in ended.summaries) == {"already_loaded": 200, "loaded": 200}
    assert_each_once(parcels)


@pytest.mark.slow
def test_a_signal_lets_the_group_in_hand_be_loaded(parcels: Site) -> None:
    """A group is loaded whole before SIGTERM ends the command; the next file says so, and the rest is loaded later."""
    with parcels.gate("etl.runs", "in COPY", when="new.source like '%%100.ndjson'") as gate:
        running = parcels.start(*COMMAND)
        gate.reached()
        running.signal(signal.SIGTERM)
        gate.open()
        ended = running.ended()
    assert ended.returncode == 143
    assert Counter(each["status"] for each in ended.summaries) == {"loaded": 200, "incomplete": 1}
    assert parcels.run(*COMMAND).returncode == 0
    assert_each_once(parcels)


def test_two_commands_that_load_the_same_folder_at_once_load_it_once(parcels: Site) -> None:
    """Of two commands that begin together, each loads the groups that the other has not loaded."""
    commands = [parcels.start(*COMMAND) for _ in range(2)]
    ended = [command.ended() for command in commands]
    assert [each.returncode for each in ended] == [0, 0]
    assert sum(summary["records"]["loaded"] for each in ended for summary in each.summaries) == FILES
    assert_each_once(parcels)
