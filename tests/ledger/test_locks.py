"""The locks of a source are held by one load and its workers, also while a connection of the load is lost."""

import getpass
import os
from collections.abc import Iterator

import pytest

from etl.errors import BusyError
from etl.ingestion.ledger import locks, runs
from etl.settings import Mode
from tests.support.faults import Connection
from tests.support.site import Site

DATASET = "vehicles"


def _session(site: Site, name: str) -> Connection:
    """Return a session of this name, which waits for a lock for a moment only."""
    session = site.connect()
    session.execute("select set_config('application_name', %s, false)", [name])
    session.execute("set lock_timeout = '100ms'")
    return session


def _end(site: Site, session: Connection) -> None:
    """End a session, and wait for the end of its backend, which releases its locks."""
    pid = session.info.backend_pid
    session.close()
    site.terminate(pid)


@pytest.fixture
def first(site: Site, run: runs.Run) -> Iterator[Connection]:
    """Give the session of a load that holds the run."""
    with _session(site, "etl:first") as session:
        _hold(session, run, "append")
        yield session


def _hold(session: Connection, run: runs.Run, mode: Mode) -> None:
    locks.hold_dataset(session, DATASET, mode)
    locks.hold_run(session, run.run)


def _hold_again(session: Connection, run: runs.Run, mode: Mode) -> None:
    locks.reacquire(session, DATASET, run.run, mode)


@pytest.fixture
def second(site: Site) -> Iterator[Connection]:
    """Give the session of another load."""
    with _session(site, "etl:second") as session:
        yield session


@pytest.fixture
def run(site: Site) -> runs.Run:
    """Return a new run of the source."""
    new = runs.NewRun(
        dataset=DATASET,
        source="fleet.json",
        source_bytes=9,
        definition_hash="",
        mode="append",
        is_atomic=False,
        is_forced=False,
    )
    return runs.start(site.connection, new, runs.AttemptRequest(source="fleet.json", folder=None, options=""))


@pytest.mark.parametrize(
    ("mode", "subject"), [("append", "this source"), ("merge", "this source"), ("replace", "the dataset vehicles")]
)
def test_a_lock_is_not_taken_from_another_load(
    site: Site, first: Connection, second: Connection, run: runs.Run, mode: Mode, subject: str
) -> None:
    """A held source is busy at once, and after a wait when a load takes its locks again; later it is free."""
    for take in (_hold, _hold_again):
        with pytest.raises(BusyError, match=f"^{subject} is held by etl:first since .* UTC$") as error:
            take(second, run, mode)
        assert error.value.hint == "wait for its end and run the same command"
        second.execute("select pg_advisory_unlock_all()")
    _end(site, first)
    _hold_again(second, run, mode)


def test_workers_hold_the_source_while_its_connection_is_lost(
    site: Site, first: Connection, second: Connection, run: runs.Run
) -> None:
    """A load whose connection is lost takes its locks again beside its workers; another load does not get them."""
    locks.admit_workers(first, DATASET, run.run, "append")
    with _session(site, "worker") as worker, _session(site, "etl:again") as again:
        locks.join(worker, DATASET, run)
        _end(site, first)
        with pytest.raises(BusyError, match=f"^this source is held by etl:{run.run} since "):
            _hold_again(second, run, "append")
        second.execute("select pg_advisory_unlock_all()")
        locks.reacquire(again, DATASET, run.run, "append", has_workers=True)
        with pytest.raises(BusyError, match=r"^this source is held by etl:again since "):
            _hold(second, run, "append")


def test_a_worker_does_not_join_another_load(first: Connection, second: Connection, run: runs.Run) -> None:
    """A worker waits until its load admits it, and is refused when the source is held by another one."""
    with pytest.raises(BusyError, match=r"^this source is held by etl:first since "):
        locks.join(second, DATASET, run)
    locks.admit_workers(first, DATASET, run.run, "append")
    locks.join(second, DATASET, run)


def test_an_account_without_a_name_is_entered_by_its_number(
    site: Site, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The ledger keeps who loads; in a container the user may have no name."""

    def nameless() -> str:
        raise KeyError("getpwuid(): uid not found")

    monkeypatch.setattr(getpass, "getuser", nameless)
    request.getfixturevalue("run")
    assert site.value("select os_user from etl.attempts") == str(os.getuid())
