"""A database that is away when a command starts: who waits for it, and for how long; and the end of a long load."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from tests.support.site import Site
from tests.support.waiting import until


@pytest.fixture
def sockets() -> Iterator[Path]:
    """Give a name for the folder of a server's socket, which does not exist; a path of a socket is short."""
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder) / "sockets"


def test_a_load_waits_for_a_database_that_comes(parcels: Site, sockets: Path) -> None:
    """A load says at once that it waits, and loads when the server can be reached; so does a replay."""
    real = str(conninfo_to_dict(parcels.conninfo)["host"])
    late = make_conninfo(parcels.conninfo, host=str(sockets))
    load = parcels.start("load", "parcels", "feed.json", "--json", conninfo=late, env={"ETL_RETRY_FOR": "50"})
    replay = parcels.start("failed", "replay", "--all", "--retry-for", "50", conninfo=late)
    until(lambda: all("waiting for the database" in each.stderr() for each in (load, replay)), "both commands to wait")
    sockets.symlink_to(real)
    ended = load.ended(60)
    assert ended.summary["records"]["loaded"] == 6
    assert ended.stderr.count("waiting for the database") == 1
    assert replay.ended(60).returncode == 0


def test_a_signal_ends_the_wait(parcels: Site, sockets: Path) -> None:
    """A load that waits ends by SIGTERM with its code, and by --timeout."""
    late = make_conninfo(parcels.conninfo, host=str(sockets))
    words = ["load", "parcels", "feed.json", "--retry-for", "50", "--timeout", "2"]
    assert parcels.start(*words, conninfo=late).ended(40).returncode == 143


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"host": "no-such-host.invalid"}, 4),
        ({"dbname": "nowhere"}, 2),
        pytest.param({"user": "nobody"}, 2, marks=pytest.mark.slow),
    ],
)
def test_what_no_wait_mends_ends_the_load_at_once(parcels: Site, change: dict[str, str], code: int) -> None:
    """A host without an address, a wrong database and a wrong user end a load without a wait."""
    wrong = make_conninfo(parcels.conninfo, **change)
    done = parcels.run("load", "parcels", "feed.json", "--retry-for", "50", conninfo=wrong)
    assert done.returncode == code, done.stderr
    assert "waiting for the database" not in done.stderr


@pytest.mark.parametrize("options", [["--retry-for", "0"], ["--retry-attempts", "1", "--retry-for", "50"]])
def test_a_load_that_should_not_wait_ends_at_once(parcels: Site, sockets: Path, options: list[str]) -> None:
    """With no time or one attempt a load ends at once with exit code 4."""
    late = make_conninfo(parcels.conninfo, host=str(sockets))
    done = parcels.run("load", "parcels", "feed.json", *options, conninfo=late)
    assert done.returncode == 4
    assert "waiting" not in done.stderr


def test_commands_that_look_do_not_wait(parcels: Site, sockets: Path) -> None:
    """Commands that only look answer at once, whatever the settings of a load say."""
    late = make_conninfo(parcels.conninfo, host=str(sockets))
    for words in (["runs", "list"], ["failed", "list"], ["report"], ["dataset", "check", "parcels"]):
        done = parcels.run(*words, conninfo=late, env={"ETL_RETRY_FOR": "50"})
        assert done.returncode == 4, words
        assert "waiting" not in done.stderr


def test_a_load_ends_after_its_timeout(parcels: Site) -> None:
    """A load that takes longer than --timeout ends as by SIGTERM: what is loaded counts, and it says why."""
    running = parcels.start("load", "parcels", "-", "--json", "--timeout", "2")
    running.send(b'[{"parcel_id": "P1"},')
    assert running.process.wait(60) == 143
    assert running.events("timed_out")
    assert running.ended(60).summary["status"] == "incomplete"
    assert parcels.run("load", "parcels", "feed.json", "--json", "--timeout", "600").summary["status"] == "loaded"
