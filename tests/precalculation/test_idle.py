"""Aggregates with nothing to do are recorded as up to date by one statement, and only those."""

import threading
from datetime import datetime
from typing import Any

import pytest
from psycopg import sql

from etl.precalculation import idle
from etl.precalculation.catalogue import Aggregate, choose, read_all
from etl.precalculation.refresh import refresh, refresh_all
from tests.support.facts import add, another, wait_until_blocked
from tests.support.faults import Connection


def _times(connection: Connection) -> dict[str, tuple[datetime, datetime | None]]:
    rows = connection.execute("select aggregate, refreshed_at, facts_through from etl.refreshes").fetchall()
    return {name: (at, through) for name, at, through in rows}


def _recorded(connection: Connection) -> list[str]:
    return sorted(idle.record(connection, read_all()))


@pytest.fixture
def fresh(connection: Connection) -> Connection:
    """Return a connection to a database with all aggregates refreshed."""
    list(refresh_all(connection, read_all(), run=None))
    return connection


def test_all_aggregates_with_nothing_to_do_are_recorded_at_once(fresh: Connection) -> None:
    """Each is named whose newest event is noted, its time rises, and the work of its last refresh stays."""
    before, work = _times(fresh), "select aggregate, buckets, rows, mode, run from etl.refreshes order by 1"
    same = fresh.execute(work).fetchall()
    # The triggers do not note a shipment without a promise for it, which may be the newest event.
    others = [aggregate.name for aggregate in read_all() if aggregate.name != "promised_days"]
    assert _recorded(fresh) == others
    after = _times(fresh)
    assert all(after[name][0] > before[name][0] for name in others)
    assert fresh.execute(work).fetchall() == same


def test_a_refresh_of_all_does_not_visit_those_with_nothing_to_do(fresh: Connection) -> None:
    """A refresh of all aggregates does not touch the table of one that has nothing to do."""
    fresh.execute("set lock_timeout = '2s'")
    with another(fresh) as other, other.transaction():
        other.execute("lock table analytics.vehicle_days in access exclusive mode")
        results = {each.aggregate: each.buckets for each in refresh_all(fresh, read_all(), run=None)}
    assert results == {aggregate.name: 0 for aggregate in read_all()}


def test_what_is_noted_or_pending_or_unknown_is_left(connection: Connection) -> None:
    """A noted change, a pending bucket, another definition and no refresh before leave an aggregate to its refresh."""
    assert _recorded(connection) == []
    list(refresh_all(connection, read_all(), run=None))
    add(connection, "vehicle_logs", log_id="L1", trip_date="2026-03-01", vehicle_id="V1")
    assert {"vehicle_days", "data_quality"}.isdisjoint(_recorded(connection))
    assert "daily_shipments" in _recorded(connection)
    refresh(connection, choose(["data_quality"])[0], run=None)  # It makes the note of the other a pending bucket.
    assert "data_quality" in _recorded(connection)
    assert "vehicle_days" not in _recorded(connection)
    connection.execute("update etl.refreshes set definition_hash = 'other' where aggregate = 'daily_shipments'")
    assert "daily_shipments" not in _recorded(connection)


def test_a_newest_event_that_is_still_to_come_is_left(fresh: Connection) -> None:
    """Whether a time of the future has come by now is found by a refresh only."""
    fresh.execute("update etl.refreshes set future_event_at = now() where aggregate = 'vehicle_days'")
    assert "vehicle_days" not in _recorded(fresh)


def test_an_aggregate_whose_newest_event_can_change_without_a_note_is_left(fresh: Connection) -> None:
    """The triggers note no row without a value to note; the newest event must then be looked up."""
    (aggregate,) = choose(["vehicle_days"])
    values: dict[str, Any] = vars(aggregate) | {"newest": ("logistics.shipments", "created_at")}
    assert list(idle.record(fresh, [aggregate])) == ["vehicle_days"]
    assert list(idle.record(fresh, [Aggregate(**values)])) == []


@pytest.mark.parametrize("table", ["analytics.vehicle_days", "logistics.vehicles"])
def test_an_aggregate_without_a_table_is_left(fresh: Connection, table: str) -> None:
    """Its refresh says what is missing."""
    fresh.execute(sql.SQL("drop table {} cascade").format(sql.Identifier(*table.split("."))))
    assert "vehicle_days" not in _recorded(fresh)


def test_a_refresh_in_another_session_is_not_overtaken(fresh: Connection) -> None:
    """What another session refreshes now is left to it, and its refresh ends without a conflict."""
    (aggregate,) = choose(["vehicle_days"])
    with another(fresh) as other:
        with other.transaction():
            other.execute("lock table logistics.vehicles in access exclusive mode")
            waiting = threading.Thread(target=refresh, args=(fresh, aggregate), kwargs={"run": None})
            waiting.start()
            wait_until_blocked(other, fresh)
            assert list(idle.record(other, [aggregate])) == []
        waiting.join()
        assert list(idle.record(other, [aggregate])) == ["vehicle_days"]


def test_times_do_not_go_back(fresh: Connection) -> None:
    """A refresh that began later, and has ended, keeps its times."""
    fresh.execute("update etl.refreshes set refreshed_at = '9999-01-01', facts_through = '9000-01-01'")
    before = _times(fresh)
    assert _recorded(fresh)
    assert _times(fresh) == before
