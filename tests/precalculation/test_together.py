"""Quick refreshes share a transaction, and one that fails or waits spoils no other."""

import threading

import pytest
from psycopg import sql

from etl.precalculation import refresh
from etl.precalculation.catalogue import read_all
from etl.precalculation.refresh import NotRefreshed, RefreshResult, refresh_all, refresh_each
from etl.precalculation.verify import verify
from tests.support.facts import add, another, wait_until_blocked
from tests.support.faults import Connection

_TRANSACTIONS = "select count(distinct xmin::text) from etl.refreshes"


def _add_facts(connection: Connection) -> None:
    add(connection, "vehicle_logs", log_id="L1", trip_date="2026-03-01", vehicle_id="V1")
    add(connection, "shipments", shipment_id="S1", created_at="2026-03-01T10:00:00Z", carrier="C")


def _assert_right(connection: Connection) -> None:
    for aggregate in read_all():
        found = verify(connection, aggregate)
        assert (found.differences, found.pending) == (0, False), aggregate.name


def test_quick_refreshes_share_a_transaction(connection: Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    """All aggregates of small facts have the rows of one snapshot, and the disk is waited for once."""
    monkeypatch.setattr(refresh, "_TOGETHER_SECONDS", 60)
    _add_facts(connection)
    results = list(refresh_all(connection, read_all(), run=None))
    assert [each.aggregate for each in results] == [aggregate.name for aggregate in read_all()]
    assert sum(each.rows for each in results) > 2
    assert connection.execute(_TRANSACTIONS).fetchone() == (1,)
    _assert_right(connection)


def test_a_refresh_that_takes_longer_is_committed_at_once(
    connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No rows wait for the refreshes after it, and the results are the same."""
    monkeypatch.setattr(refresh, "_TOGETHER_SECONDS", 0)
    _add_facts(connection)
    assert len(list(refresh_all(connection, read_all(), run=None))) == len(read_all())
    parts = {part.name for aggregate in read_all() for part in aggregate.parts}
    assert connection.execute(_TRANSACTIONS).fetchone() == (len(read_all()) - len(parts),)
    _assert_right(connection)


@pytest.mark.parametrize(
    "fault",
    [
        "alter table analytics.vehicle_days rename to away",
        "create trigger stop before insert on analytics.vehicle_days execute function public.stop()",
    ],
    ids=["its table is missing", "the server refuses its rows"],
)
def test_one_that_cannot_be_refreshed_spoils_no_other(connection: Connection, fault: str) -> None:
    """The others are refreshed as if it were not there, and the error is its own."""
    connection.execute("create function public.stop() returns trigger language plpgsql as $$ begin raise 'no' ; end $$")
    connection.execute(sql.SQL(fault))
    _add_facts(connection)
    results = list(refresh_each(connection, read_all(), run=None))
    failed = [each.aggregate for each in results if isinstance(each, NotRefreshed)]
    assert failed == ["vehicle_days"]
    names = {each.aggregate for each in results if isinstance(each, RefreshResult)}
    assert names == {aggregate.name for aggregate in read_all()} - {"vehicle_days"}
    for aggregate in read_all():
        if aggregate.name != "vehicle_days":
            assert verify(connection, aggregate).differences == 0


def test_one_that_another_session_refreshes_is_refreshed_after_the_others(connection: Connection) -> None:
    """A session waits for one lock of a refresh at a time and holds no other meanwhile: two sessions never block."""
    _add_facts(connection)
    aggregates = read_all()
    lock = "select pg_advisory_lock(hashtextextended('etl:refresh:' || %s, 0))"
    with another(connection) as other:
        other.execute(lock, [aggregates[1].name])
        results: list[str] = []
        working = threading.Thread(
            target=lambda: results.extend(each.aggregate for each in refresh_all(connection, aggregates, run=None))
        )
        working.start()
        wait_until_blocked(other, connection)
        others = other.execute("select count(*) from etl.refreshes").fetchone()
        held = other.execute(
            "select count(*) from pg_locks where locktype = 'advisory' and granted and pid = %s",
            [connection.info.backend_pid],
        ).fetchone()
        other.execute("select pg_advisory_unlock_all()")
        working.join(60)
    assert others is not None
    assert others[0] >= 1
    assert held == (0,)
    assert results == [aggregate.name for aggregate in aggregates]
    _assert_right(connection)
