"""The version of an aggregate: readers that keep its rows learn by it, and by a notification, that rows changed."""

import json
from typing import Any

from etl.precalculation.catalogue import choose
from etl.precalculation.installation import install
from etl.precalculation.refresh import refresh_all
from tests.support.facts import add, another, refreshed
from tests.support.faults import Connection


def _version(connection: Connection) -> int | None:
    row = connection.execute("select version from analytics.freshness where aggregate = 'vehicle_days'").fetchone()
    return row[0] if row else None


def _heard(listener: Connection) -> list[tuple[str, Any]]:
    """Return what the channel of versions has announced: the server sends it before it confirms a commit."""
    listener.execute("select")
    notes = [json.loads(note.payload) for note in listener.notifies(timeout=0)]
    return [(note["aggregate"], note["version"]) for note in notes]


def test_the_version_rises_only_when_rows_changed(connection: Connection) -> None:
    """A refresh with nothing to do, or one that computes equal rows, leaves the version and announces nothing."""
    with another(connection) as listener:
        listener.execute("listen etl_versions")
        add(connection, "vehicle_logs", log_id="L1", trip_date="2026-03-01", vehicle_id="V1")
        refreshed(connection, "vehicle_days")
        first = _version(connection)
        assert first is not None
        assert _heard(listener) == [("vehicle_days", first)]
        refreshed(connection, "vehicle_days")
        list(refresh_all(connection, choose(["vehicle_days"]), run=None))
        assert refreshed(connection, "vehicle_days", full=True).rows == 0
        connection.execute("update logistics.vehicle_logs set etl_place = 2")
        assert refreshed(connection, "vehicle_days").buckets == 1
        assert (_version(connection), _heard(listener)) == (first, [])
        add(connection, "vehicle_logs", log_id="L2", trip_date="2026-03-01", vehicle_id="V1")
        refreshed(connection, "vehicle_days")
        second = _version(connection)
        assert second is not None
        assert second > first
        assert _heard(listener) == [("vehicle_days", second)]


def test_a_version_is_announced_by_the_transaction_that_writes_the_rows(connection: Connection) -> None:
    """What is rolled back is not announced, and after the clock was set back a version still rises."""
    add(connection, "vehicle_logs", log_id="L1", trip_date="2026-03-01", vehicle_id="V1")
    refreshed(connection, "vehicle_days")
    connection.execute("update etl.refreshes set version = 9000000000000")
    with another(connection) as listener:
        listener.execute("listen etl_versions")
        with connection.transaction(force_rollback=True):
            connection.execute("update etl.refreshes set version = version + 1")
        assert _heard(listener) == []
        add(connection, "vehicle_logs", log_id="L2", trip_date="2026-03-01", vehicle_id="V1")
        refreshed(connection, "vehicle_days")
        assert _heard(listener) == [("vehicle_days", 9000000000001)]


def test_a_table_that_is_made_again_never_has_an_old_version(connection: Connection) -> None:
    """While the new table is empty its version is null, which is announced; then it has a version that is new."""
    add(connection, "vehicle_logs", log_id="L1", trip_date="2026-03-01", vehicle_id="V1")
    refreshed(connection, "vehicle_days")
    first = _version(connection)
    assert first is not None
    with another(connection) as listener:
        listener.execute("listen etl_versions")
        connection.execute("alter table analytics.vehicle_days drop column count_trips")
        assert install(connection, choose(["vehicle_days"]), {}) == ["analytics.vehicle_days"]
        assert (_version(connection), _heard(listener)) == (None, [("vehicle_days", None)])
        refreshed(connection, "vehicle_days")
    second = _version(connection)
    assert second is not None
    assert second > first
