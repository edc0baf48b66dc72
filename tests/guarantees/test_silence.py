"""A connection that stays open and passes nothing on is lost: nothing hangs, no record is lost or loaded twice."""

import signal
from collections.abc import Iterator

import pytest

from etl.database import watching
from etl.database.connecting import Database
from etl.precalculation import catalogue, listener
from tests.support.cases import Case
from tests.support.relays import Relay, Side
from tests.support.site import Site
from tests.support.states import assert_sound, state
from tests.support.waiting import until

RECORDS = 600


@pytest.fixture
def relay(site: Site) -> Iterator[Relay]:
    """Give a relay in front of the server of the site."""
    relay = Relay(site.conninfo)
    yield relay
    relay.close()


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a connection be silent for a second only."""
    monkeypatch.setattr(watching, "LOOK_SECONDS", 0.6)
    monkeypatch.setattr(watching, "IDLE_SECONDS", 1.2)
    monkeypatch.setattr(watching, "ANSWER_SECONDS", 0.5)


def _bytes(site: Site, *command: str) -> dict[Side, int]:
    """Return the bytes that a command sends and gets, without any silence."""
    relay = Relay(site.conninfo)
    assert site.run(*command, conninfo=relay.conninfo).returncode in {0, 1}
    relay.close()
    return relay.passed


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("side", ["to the server", pytest.param("to the loader", marks=pytest.mark.slow)])
@pytest.mark.parametrize("share", [0.5, *(pytest.param(s, marks=pytest.mark.slow) for s in (0.05, 0.2, 0.7, 0.9))])
def test_a_load_over_a_connection_that_falls_silent(
    site: Site, relay: Relay, merged: Case, side: Side, share: float
) -> None:
    """The load notices that the server waits for it, and tries again like after a lost connection."""
    relay.swallow_at = (side, int(_bytes(site, *merged.command, "--dry-run")[side] * share))
    ended = site.run(*merged.command, "--batch-rows", "100", "--no-precalculate", conninfo=relay.conninfo)
    if ended.returncode != 1:
        assert ended.returncode == 4  # The first connection is not tried again.
        site.wait_for_locks()
        assert site.run(*merged.command, "--no-precalculate").returncode == 1
    else:
        assert ended.events("connection_silent") or not relay.has_swallowed
    assert relay.has_swallowed or share > 0.5
    site.run("precalculate")
    merged.assert_done(site)


@pytest.mark.slow
@pytest.mark.usefixtures("impatient")
def test_a_load_of_which_every_connection_falls_silent(site: Site, relay: Relay, merged: Case) -> None:
    """Where a second connection gets no answer either, a load is exit code 4, and the next one completes it."""
    relay.swallow_at = ("to the server", _bytes(site, *merged.command, "--dry-run")["to the server"] // 2)
    relay.swallows_new_at = True
    address = f"{relay.conninfo} connect_timeout=2"
    ended = site.run(*merged.command, "--batch-rows", "100", "--retry-attempts", "1", conninfo=address)
    assert (ended.returncode, bool(ended.events("connection_silent"))) == (4, True), ended.stderr
    site.wait_for_locks()
    assert site.run(*merged.command).returncode == 1
    merged.assert_done(site)


@pytest.mark.slow
@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("side", ["to the server", pytest.param("to the loader", marks=pytest.mark.slow)])
def test_a_replay_over_a_connection_that_falls_silent(site: Site, relay: Relay, merged: Case, side: Side) -> None:
    """A replay tries again, and its records are refused once more: they are neither lost nor doubled."""
    assert site.run(*merged.command).returncode == 1
    command = ["failed", "replay", "--all", "--no-precalculate"]
    relay.swallow_at = (side, int(_bytes(site, *command)[side] * 0.8))
    ended = site.run(*command, conninfo=relay.conninfo)
    assert ended.events("connection_silent"), ended.stderr
    assert ended.returncode in {1, 4}
    site.run(*command)
    found = state(site)
    assert (found.facts, found.refused.total()) == (merged.clean.facts, merged.clean.refused.total())
    assert_sound(site)


@pytest.mark.slow
@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("side", ["to the server", pytest.param("to the loader", marks=pytest.mark.slow)])
def test_a_refresh_over_a_connection_that_falls_silent(site: Site, relay: Relay, merged: Case, side: Side) -> None:
    """The refresh after a load tries again, and that of `etl precalculate` ends with exit code 4."""
    assert site.run(*merged.command).returncode == 1
    relay.swallow_at = (side, _bytes(site, "precalculate", "--full")[side] // 2)
    site.ask("update logistics.shipments set pieces = pieces")
    ended = site.run("precalculate", "--full", conninfo=relay.conninfo)
    assert (ended.returncode, len(ended.events("connection_silent"))) == (4, 1), ended.stderr
    relay.swallow_at = (side, relay.passed[side] + _bytes(site, *merged.command)[side] * 3 // 4)
    site.ask("update logistics.shipments set pieces = pieces")
    ended = site.run(*merged.command, conninfo=relay.conninfo)
    assert (ended.returncode, len(ended.events("connection_silent"))) == (1, 1), ended.stderr
    merged.assert_done(site)
    assert site.run("precalculate", "--verify").returncode == 0


@pytest.mark.slow
@pytest.mark.usefixtures("impatient")
def test_a_listener_whose_connections_fall_silent(
    site: Site, relay: Relay, merged: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The listener notices by its next poll, connects again, and refreshes what was loaded in between."""
    monkeypatch.setattr(listener, "RECONNECT_SECONDS", (0.1, 0.1))
    rounds: list[int] = []

    class Done(Exception):
        """The end of the test."""

    def after_round(_connection: object) -> None:
        rounds.append(1)
        if len(rounds) == 1:
            relay.swallow()
            assert site.run(*merged.command, "--no-precalculate").returncode == 1
        elif site.value("select count(*) from analytics.daily_shipments"):
            raise Done

    database = Database(conninfo=relay.conninfo)
    with pytest.raises(Done):
        listener.listen(database, catalogue.read_all(), poll_seconds=0.5, after_round=after_round)
    merged.assert_done(site)


@pytest.mark.slow
def test_real_seconds(site: Site, relay: Relay, merged: Case) -> None:
    """Without lowered limits a load continues a minute after its connection fell silent."""
    relay.swallow_at = ("to the server", _bytes(site, *merged.command, "--dry-run")["to the server"] // 2)
    ended = site.run(*merged.command, "--batch-rows", "100", "--workers", "2", conninfo=relay.conninfo)
    assert ended.returncode == 1, ended.stderr
    merged.assert_done(site)


@pytest.mark.slow
def test_a_signal_while_the_connection_is_silent(site: Site, relay: Relay, merged: Case) -> None:
    """One signal ends the batch in hand after half a minute, whatever the connection does."""
    relay.swallow_at = ("to the server", _bytes(site, *merged.command, "--dry-run")["to the server"] // 2)
    running = site.start(*merged.command, "--batch-rows", "100", conninfo=relay.conninfo)
    until(lambda: relay.swallow_at is None, "the silence")
    running.signal(signal.SIGTERM)
    ended = running.ended(75)
    assert ended.returncode == 143, ended.stderr
    site.wait_for_locks()
    assert site.run(*merged.command).returncode == 1
    merged.assert_done(site)
