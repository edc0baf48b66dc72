"""Network faults between loader and server (cuts, delays, lost packets): no record is lost or loaded twice."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from etl.embedded import Server
from tests.support.cases import Case
from tests.support.databases import Databases
from tests.support.relays import Relay, Side
from tests.support.servers import free_port
from tests.support.site import Site
from tests.support.states import assert_sound
from tests.support.waiting import until

RECORDS = 600
BATCHES = 6

# The places of the cuts in the slow tests, as shares of all the bytes of a load.
SHARES = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99, 0.999)


@pytest.fixture
def relay(site: Site) -> Iterator[Relay]:
    """Give a relay in front of the server of the site."""
    relay = Relay(site.conninfo)
    yield relay
    relay.close()


@pytest.fixture(scope="module")
def traffic(databases: Databases, merged: Case, tmp_path_factory: pytest.TempPathFactory) -> dict[Side, int]:
    """Return the number of bytes that each side sends in a load without faults."""
    with databases.site(tmp_path_factory.mktemp("traffic")) as site:
        relay = Relay(site.conninfo)
        ended = site.run(*merged.command, "--batch-rows", "100", conninfo=relay.conninfo)
        relay.close()
        assert ended.returncode == 1, ended.stderr
        assert relay.commits >= BATCHES + 1
        merged.assert_done(site)
    return relay.passed


@pytest.mark.parametrize(
    ("side", "share"),
    [
        ("to the server", 0.3),
        ("to the loader", 0.65),
        *(pytest.param("to the server", share, marks=pytest.mark.slow) for share in (0.0, 0.97, *SHARES)),
        *(pytest.param("to the loader", share, marks=pytest.mark.slow) for share in (0.25, *SHARES)),
    ],
)
def test_a_connection_that_is_cut(
    site: Site, relay: Relay, merged: Case, traffic: dict[Side, int], side: Side, share: float
) -> None:
    """When a connection is cut at any byte, the load continues, or it is exit code 4 and the next load completes it."""
    relay.cut_at = (side, int(traffic[side] * share) + 1)
    ended = site.run(*merged.command, "--batch-rows", "100", conninfo=relay.conninfo)
    assert relay.cuts == 1
    assert ended.returncode in {1, 4}, ended.stderr
    assert_sound(site)
    if ended.returncode == 4:
        assert site.run(*merged.command, "--batch-rows", "70", conninfo=relay.conninfo).returncode == 1
    merged.assert_done(site)


@pytest.mark.parametrize(
    ("number", "retried"),
    [
        pytest.param(1, 0, id="of the check of the tables", marks=pytest.mark.slow),
        pytest.param(2, 0, id="of the run's beginning"),
        pytest.param(3, 1, id="of the preparation", marks=pytest.mark.slow),
        pytest.param(5, 1, id="of a batch", marks=pytest.mark.slow),
        pytest.param(BATCHES + 3, 1, id="of the last batch"),
        pytest.param(BATCHES + 4, 1, id="of the run's end"),
    ],
)
def test_an_answer_to_commit_that_is_lost(site: Site, relay: Relay, appended: Case, number: int, retried: int) -> None:
    """A batch whose commit was not confirmed is not loaded twice: the ledger shows that it was committed."""
    relay.swallow_answer_to_commit = number
    ended = site.run(*appended.command, "--batch-rows", "100", conninfo=relay.conninfo)
    assert relay.cuts == 1
    assert_sound(site)
    assert (ended.returncode, ended.summary["batches"]["retried"]) == (1, retried)
    assert site.value("select count(*) from etl.runs") == 1
    appended.assert_done(site)


def test_a_load_waits_for_its_own_lost_session(site: Site, relay: Relay, appended: Case) -> None:
    """The commit of the run's beginning is lost, and the server keeps the old session: it is nobody else's."""
    relay.swallow_answer_to_commit, relay.keeps_server = 2, True
    running = site.start(*appended.command, "--log-level", "warning", conninfo=relay.conninfo)
    looked = (
        "select count(*) from pg_stat_activity"
        " where query like '%locktype%' and state like 'idle%' and pid <> pg_backend_pid()"
    )
    until(lambda: site.value(looked), "the load to have found its old session")
    relay.end_kept()
    ended = running.ended()
    assert ended.returncode == 1
    assert "lost_session_awaited" in ended.stderr
    assert site.ask("select count(*), max(attempt) from etl.attempts") == [(1, 1)]
    appended.assert_done(site)


@pytest.mark.slow
@pytest.mark.parametrize("seconds", [0.005, pytest.param(0.05, marks=pytest.mark.slow)])
def test_a_slow_network(site: Site, relay: Relay, appended: Case, seconds: float) -> None:
    """A delay of milliseconds in each direction makes a load slower; its result is the same."""
    relay.delay_seconds = seconds
    ended = site.run(*appended.command, "--batch-rows", "300", conninfo=relay.conninfo)
    assert ended.returncode == 1
    assert ended.summary["batches"]["retried"] == 0
    appended.assert_done(site)


@pytest.mark.parametrize("seconds", [2, pytest.param(20, marks=pytest.mark.slow)])
def test_a_network_that_is_gone_for_a_while(site: Site, relay: Relay, appended: Case, seconds: float) -> None:
    """When all packets are lost for some seconds, the load waits and continues over the same connection."""
    running = site.start(*appended.command, "--batch-rows", "100", conninfo=relay.conninfo)
    until(lambda: site.count_batches() >= 2, "two batches")
    with relay.black_hole():
        time.sleep(seconds)  # the duration of the outage
        before = site.count_batches()
        assert before < BATCHES
    ended = running.ended()
    assert ended.returncode == 1
    assert ended.summary["batches"]["retried"] == 0
    assert ended.summary["seconds"] > seconds
    appended.assert_done(site)


@pytest.fixture(scope="module")
def tcp_databases(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Databases]:
    """Give fresh databases of a server with TCP connections, so that the server notices a dead one."""
    server = Server(tmp_path_factory.mktemp("tcp") / "postgres")
    server.start(port=free_port())
    yield Databases(server, tcp=True)
    server.stop()


@pytest.mark.slow
@pytest.mark.parametrize("gone", ["the connection", "all for 45 s"])
def test_a_connection_that_both_sides_have_to_give_up(
    tcp_databases: Databases, appended: Case, tmp_path: Path, gone: str
) -> None:
    """When no packet reports the loss, the load continues: its old backend gives up and releases the lock."""
    with tcp_databases.site(tmp_path) as site, site.gate("logistics.deliveries", "in COPY", 100_000) as gate:
        relay = Relay(site.conninfo)
        running = site.start(*appended.command, "--batch-rows", "100", conninfo=relay.conninfo)
        gate.reached()
        started = time.monotonic()
        if gone == "the connection":
            relay.forget_connections()
            gate.open()
        else:
            with relay.black_hole():
                gate.open()
                time.sleep(45)  # longer than both sides wait for an answer
        ended = running.ended(240)
        seconds = time.monotonic() - started
        relay.close()
        assert ended.returncode == 1
        assert ended.summary["batches"]["retried"] >= 1
        assert seconds < 120
        appended.assert_done(site)
