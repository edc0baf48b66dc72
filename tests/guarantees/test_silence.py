"""A connection that stays open and passes nothing on is lost: nothing hangs, no record is lost or loaded twice."""

from collections.abc import Iterator

import pytest

from etl.database import watching
from tests.support.cases import Case
from tests.support.relays import Relay, Side
from tests.support.site import Site

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


def _bytes(site: Site, case: Case) -> dict[Side, int]:
    relay = Relay(site.conninfo)
    assert site.run(*case.command, "--dry-run", conninfo=relay.conninfo).returncode == 1
    relay.close()
    return relay.passed


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("side", ["to the server", "to the loader"])
@pytest.mark.parametrize("share", [0.5, *(pytest.param(s, marks=pytest.mark.slow) for s in (0.05, 0.2, 0.7, 0.9))])
def test_a_load_over_a_connection_that_falls_silent(
    site: Site, relay: Relay, merged: Case, side: Side, share: float
) -> None:
    """The load notices that the server waits for it, and tries again like after a lost connection."""
    relay.swallow_at = (side, int(_bytes(site, merged)[side] * share))
    ended = site.run(*merged.command, "--batch-rows", "100", "--no-precalculate", conninfo=relay.conninfo)
    assert ended.events("connection_silent"), ended.stderr
    if ended.returncode != 1:
        assert ended.returncode == 4
        assert site.run(*merged.command, "--no-precalculate").returncode == 1
    site.run("precalculate")
    merged.assert_done(site)
