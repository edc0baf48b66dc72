"""A lock of another session: waited for as long as its holder works, then tried again, and reported."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import psycopg
import pytest

from etl.database import watching
from tests.support.cases import Case
from tests.support.faults import Connection
from tests.support.site import Site
from tests.support.waiting import until

RECORDS = 400

REFRESH = "select pg_advisory_lock(hashtextextended('etl:refresh:daily_shipments', 0))"


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let an idle holder be waited for for a second only."""
    monkeypatch.setattr(watching, "LOOK_SECONDS", 0.3)
    monkeypatch.setattr(watching, "IDLE_SECONDS", 0.6)


@contextmanager
def _held(site: Site, statement: str) -> Iterator[Connection]:
    """Hold a lock in an open transaction of a session that does nothing."""
    with psycopg.connect(site.conninfo, application_name="holder") as holder:
        holder.execute(statement.encode())
        yield holder


def _is_waited_for(other: Connection, holder: int) -> bool:
    query = "select from pg_stat_activity where %s = any(pg_blocking_pids(pid))"
    return bool(other.execute(query, [holder]).fetchall())


@contextmanager
def _released(site: Site, holder: Connection, waits: int) -> Iterator[None]:
    """Release the lock after so many tries of the command were cancelled."""
    pid = holder.info.backend_pid

    def release() -> None:
        with site.connect() as other:
            for _ in range(waits):
                until(lambda: _is_waited_for(other, pid), "a wait")
                until(lambda: not _is_waited_for(other, pid), "the end of the wait")
        holder.close()

    thread = threading.Thread(target=release)
    thread.start()
    yield
    thread.join()


@pytest.mark.parametrize(
    "statement",
    [
        "lock table logistics.shipments in access exclusive mode",
        pytest.param(REFRESH, marks=pytest.mark.slow),
        *(
            pytest.param(statement, marks=pytest.mark.slow)
            for statement in (
                "lock table etl.runs in access exclusive mode",
                "lock table analytics.daily_shipments in access exclusive mode",
                "select from logistics.shipments for update",
                "lock table etl.separate_batches in access exclusive mode",
                "lock table etl.attempts in access exclusive mode",
                "lock table etl.separate_marks in access exclusive mode",
                "lock table etl.first_batches in access exclusive mode",
                "lock table etl.touched in access exclusive mode",
                "lock table etl.refreshes in access exclusive mode",
                "lock table etl.schema_version in access exclusive mode",
                "select pg_advisory_lock(hashtextextended('etl:gather', 0))",
            )
        ),
    ],
)
def test_a_lock_that_is_held_before_the_load(site: Site, merged: Case, statement: str) -> None:
    """Whatever is locked by a session that does nothing is tried again, and each wait names the session."""
    assert site.run(*merged.command).returncode == 1
    with _held(site, statement) as holder, _released(site, holder, 2):
        pid = holder.info.backend_pid
        ended = site.run(*merged.command, "--force")
    assert ended.returncode == 1, ended.stderr
    waits = ended.events("waiting_for_lock")
    assert {(each["pid"], each["application"]) for each in waits} == {(pid, "holder")}
    assert waits[0]["since"].endswith("Z")
    assert site.run("precalculate", "--verify").returncode == 0


def test_a_lock_that_is_never_released(site: Site, merged: Case) -> None:
    """The refresh of a load gives up after its tries: the records are loaded, and the exit code is 4."""
    with _held(site, REFRESH):
        ended = site.run(*merged.command, "--retry-attempts", "2")
        assert ended.returncode == 4
        assert [each["sqlstate"] for each in ended.events("refresh_retried")] == ["55P03"]
        assert "daily_shipments cannot be refreshed: lock not available, SQLSTATE 55P03" in ended.error
    assert site.run(*merged.command).returncode == 1
    merged.assert_done(site)


@pytest.mark.slow
def test_a_row_that_is_never_released(site: Site, merged: Case) -> None:
    """A batch that waits for a row whose session does nothing is a failed batch after its tries, with the reason."""
    assert site.run(*merged.command).returncode == 1
    with _held(site, "select from logistics.shipments for update"):
        ended = site.run(*merged.command, "--force", "--retry-attempts", "2", "--no-precalculate")
        assert ended.returncode == 1
        assert ended.summary["records"]["failed"] > 0
        assert [each["sqlstate"] for each in ended.events("batch_failed")] == ["55P03"]
    assert site.run("failed", "replay", "--all").returncode == 1


@pytest.mark.slow
def test_a_holder_that_works(site: Site, merged: Case) -> None:
    """A lock is waited for as long as its holder works, without a further try."""
    with _held(site, "lock table logistics.shipments in access exclusive mode") as holder:

        def work() -> None:
            holder.execute("select pg_sleep(3)")
            holder.close()

        working = threading.Thread(target=work)
        working.start()
        ended = site.run(*merged.command)
        working.join()
    assert ended.returncode == 1
    assert len(ended.events("waiting_for_lock")) >= 3
    assert not ended.events("start_retried") + ended.events("batch_retried")
    merged.assert_done(site)


@pytest.mark.parametrize(
    "statement", [pytest.param(REFRESH, marks=pytest.mark.slow), "lock table etl.runs in access exclusive mode"]
)
def test_a_signal_ends_the_wait_for_a_lock(site: Site, merged: Case, statement: str) -> None:
    """One SIGTERM ends a load that waits for a refresh, and one that waits for a table before it begins."""
    with _held(site, statement) as holder:
        running = site.start(*merged.command)
        with site.connect() as other:
            until(lambda: _is_waited_for(other, holder.info.backend_pid), "a wait")
        running.signal(15)
        assert running.ended(20).returncode == 143
    site.wait_for_locks()
    assert site.run(*merged.command).returncode == 1
    merged.assert_done(site)
