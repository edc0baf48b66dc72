"""Aggregates that are computed from the buckets of others: each change is in both."""

import json
import threading
from collections.abc import Sequence
from pathlib import Path

import pytest

from etl.errors import DefinitionError
from etl.precalculation.catalogue import Aggregate, choose, look, read_all
from etl.precalculation.installation import install
from etl.precalculation.refresh import refresh, refresh_all
from etl.precalculation.verify import verify
from tests.support.facts import add, another, differences, wait_until_blocked
from tests.support.faults import Connection
from tests.support.site import Site

BY_MONTH = """\
-- One row per month.
-- table: analytics.created_months
-- bucket: month
-- fact logistics.shipments: (created_at at time zone 'UTC')::date
-- newest: logistics.shipments.created_at
-- key: month
-- column month: first day of the month
-- column count_shipments: shipments
select date_trunc('month', created_at at time zone 'UTC')::date as month, count(*) as count_shipments
from logistics.shipments
where created_at >= :from_utc and created_at < :until_utc
group by month
"""
IN_ALL = """\
-- One row per table.
-- table: analytics.created_in_all
-- bucket: all
-- fact logistics.shipments
-- part analytics.created_months
-- newest: logistics.shipments.created_at
-- key: name
-- column name: table
-- column count_shipments: shipments
select 'shipments' as name, coalesce(sum(count_shipments), 0)::bigint as count_shipments
from analytics.created_months as months
"""


def _write(folder: Path, **texts: str) -> Path:
    (folder / "aggregates").mkdir(exist_ok=True)
    for name, text in texts.items():
        (folder / "aggregates" / f"{name}.sql").write_text(text)
    return folder


@pytest.fixture
def both(tmp_path: Path, connection: Connection) -> Sequence[Aggregate]:
    """Install an aggregate with its part; return both, the aggregate first."""
    _write(tmp_path, created_months=BY_MONTH, created_in_all=IN_ALL)
    chosen = choose(["created_in_all", "created_months"], tmp_path)
    install(connection, chosen, {})
    return chosen


def _ship(connection: Connection, *days: str) -> None:
    for number, day in enumerate(days):
        add(connection, "shipments", shipment_id=f"{day}-{number}", created_at=f"{day}T10:00:00Z")


def _count(connection: Connection) -> list[tuple[int]]:
    return connection.execute("select count_shipments from analytics.created_in_all").fetchall()


def test_a_refresh_refreshes_the_parts_in_its_transaction(connection: Connection, both: Sequence[Aggregate]) -> None:
    """Only the changed bucket of the part is computed, both have one snapshot; a full refresh computes all."""
    whole, _ = both
    _ship(connection, "2026-01-05", "2026-02-05", "2026-03-05")
    refresh(connection, whole, run=None)
    assert _count(connection) == [(3,)]
    _ship(connection, "2026-03-06")
    refresh(connection, whole, run=None)
    assert _count(connection) == [(4,)]
    query = "select mode, buckets from etl.refreshes where aggregate = 'created_months'"
    assert connection.execute(query).fetchone() == ("incremental", 1)
    shared = "select count(distinct xmin::text) from etl.refreshes where aggregate like 'created%'"
    assert connection.execute(shared).fetchone() == (1,)
    assert (
        connection.execute("select pending_buckets from analytics.freshness where aggregate like 'created%'").fetchall()
        == [(0,)] * 2
    )
    refresh(connection, whole, run=None, full=True)
    assert connection.execute(query).fetchone() == ("full", 3)


def test_a_full_refresh_of_all_computes_a_part_once(connection: Connection) -> None:
    """Several aggregates have the same part; a part that is asked for, too, is reported with what was done."""
    _ship(connection, "2026-01-05", "2026-02-05")
    results = {each.aggregate: each for each in refresh_all(connection, read_all(), run=None, full=True)}
    assert [*results] == [aggregate.name for aggregate in read_all()]
    assert results["shipment_batches"].buckets == results["undelivered_shipments"].rows == 2
    history = "select count(distinct xmin::text) from analytics.shipment_batches"
    assert connection.execute(history).fetchone() == (1,)


def test_a_part_that_is_refreshed_alone_leaves_the_aggregate_pending(
    connection: Connection, both: Sequence[Aggregate]
) -> None:
    """What was computed from older rows of the part is due until its own refresh."""
    whole, part = both
    _ship(connection, "2026-01-05")
    refresh(connection, whole, run=None)
    _ship(connection, "2026-01-06")
    refresh(connection, part, run=None)
    pending = "select pending_buckets from analytics.freshness where aggregate = 'created_in_all'"
    assert connection.execute(pending).fetchone() == (1,)
    refresh(connection, whole, run=None)
    assert _count(connection) == [(2,)]


def test_a_verification_reads_the_facts_and_not_the_parts(connection: Connection, both: Sequence[Aggregate]) -> None:
    """A wrong row of a part is found in the part, and what was computed from it in the aggregate."""
    whole, part = both
    _ship(connection, "2026-01-05", "2026-02-05")
    refresh(connection, whole, run=None)
    assert (verify(connection, whole).differences, verify(connection, part).differences) == (0, 0)
    connection.execute("update analytics.created_months set count_shipments = 7 where month = '2026-01-01'")
    assert (verify(connection, whole).differences, verify(connection, part).differences) == (0, 1)
    connection.execute("insert into etl.pending (aggregate) values ('created_in_all')")
    refresh(connection, whole, run=None)
    assert _count(connection) == [(8,)]
    assert (verify(connection, whole).differences, verify(connection, part).differences) == (1, 1)
    refresh(connection, whole, run=None, full=True)
    assert (verify(connection, whole).differences, verify(connection, part).differences) == (0, 0)


def test_another_definition_of_a_part_makes_the_aggregate_due(
    tmp_path: Path, connection: Connection, both: Sequence[Aggregate]
) -> None:
    """The rows of an aggregate follow from the selects of its parts, too."""
    _ship(connection, "2026-01-05")
    refresh(connection, both[0], run=None)
    _write(tmp_path, created_months=BY_MONTH.replace("count(*)", "2 * count(*)"))
    (whole,) = choose(["created_in_all"], tmp_path)
    refresh(connection, whole, run=None)
    assert _count(connection) == [(2,)]
    assert not differences(connection, whole)


def test_a_refresh_waits_for_one_of_its_part(connection: Connection, both: Sequence[Aggregate]) -> None:
    """Its snapshot is newer than the rows that the other session writes."""
    whole, _ = both
    _ship(connection, "2026-01-05")
    with another(connection) as other:
        other.execute("select pg_advisory_lock(hashtextextended('etl:refresh:created_months', 0))")
        working = threading.Thread(target=lambda: refresh(connection, whole, run=None))
        working.start()
        wait_until_blocked(other, connection)
        _ship(other, "2026-01-06")
        other.execute("select pg_advisory_unlock_all()")
        working.join(60)
    assert _count(connection) == [(2,)]


def test_parts_and_wholes_are_refreshed_by_many_sessions_at_once(
    connection: Connection, both: Sequence[Aggregate]
) -> None:
    """Sessions that refresh in other orders, beside a writer, end without a deadlock, and all rows are right."""
    errors: list[Exception] = []

    def work(aggregates: Sequence[Aggregate]) -> None:
        try:
            with another(connection) as own:
                for _ in range(12):
                    for aggregate in aggregates:
                        refresh(own, aggregate, run=None)
        except Exception as error:  # noqa: BLE001 - the test reports it
            errors.append(error)

    everything = [*read_all(), *both]
    orders = (everything, everything[::-1], both, both[::-1])
    sessions = [threading.Thread(target=work, args=[order]) for order in orders]
    for session in sessions:
        session.start()
    for number in range(30):
        add(connection, "shipments", shipment_id=f"S{number}", created_at=f"2026-{number % 9 + 1:02}-05T10:00:00Z")
    for session in sessions:
        session.join(120)
    assert errors == []
    for aggregate in everything:
        refresh(connection, aggregate, run=None)
        assert not differences(connection, aggregate), aggregate.name
    assert _count(connection) == [(30,)]


@pytest.mark.parametrize(
    ("in_all", "by_month", "message"),
    [
        (IN_ALL.replace("part analytics.created_months", "part analytics.nothing"), BY_MONTH, "expected a select that"),
        (IN_ALL.replace("created_months", "nothing"), BY_MONTH, "no aggregate is called nothing, which is a part"),
        (IN_ALL.replace("as months", ""), BY_MONTH, r"reads 'analytics.created_months as \.\.\.', its part"),
        (IN_ALL, BY_MONTH.replace("newest", "part analytics.x\n-- newest"), "no aggregate is called created_months"),
        (
            IN_ALL,
            BY_MONTH.replace("-- newest", "-- fact logistics.vehicle_logs: trip_date\n-- newest"),
            "expected a line '-- fact logistics.vehicle_logs', which its part created_months reads",
        ),
        (IN_ALL.replace("created_months", "late_shipments"), BY_MONTH, "a part with buckets and without parts"),
        (IN_ALL.replace("part analytics", "part other"), BY_MONTH, "expected '-- part analytics.NAME'"),
    ],
)
def test_a_part_that_cannot_be_one_is_refused(tmp_path: Path, in_all: str, by_month: str, message: str) -> None:
    """The error names the file; other aggregates are there."""
    _write(tmp_path, created_months=by_month, created_in_all=in_all)
    aggregates, wrong = look(tmp_path)
    with pytest.raises(DefinitionError, match=message):
        raise wrong["created_in_all"]
    assert "created_in_all.sql" in str(wrong["created_in_all"])
    assert {"late_shipments", "data_quality"} <= {aggregate.name for aggregate in aggregates}


def test_shipments_without_a_month_are_counted(site: Site) -> None:
    """No part has them, and the aggregates that are computed from parts count them."""
    records = [
        {"shipment_id": f"S{number}", "created_at": "2026-03-01T10:00:00Z", "carrier": carrier, "log_id": "L1"}
        for number, carrier in enumerate(["Blue Line", "BLUE  LINE", "Other"])
    ]
    (site.folder / "shipments.json").write_text(json.dumps(records))
    assert site.run("load", "shipments", "shipments.json").returncode == 0
    quality = (
        "select jsonb_build_array(count_kept, count_references, count_orphans, count_name_variants, count_future_times)"
        " from analytics.data_quality"
    )
    counts = "select jsonb_build_array(sum(count_shipments), bool_and(isfinite(as_of))) from analytics.open_shipments"
    assert (site.value(quality), site.value(counts)) == ([3, 3, 3, 2, 0], [3, True])
    site.ask("update logistics.shipments set created_at = 'infinity' where shipment_id = 'S1'")
    assert site.run("precalculate").returncode == 0
    assert site.value("select sum(count_shipments) from analytics.shipment_batches") == 2
    assert (site.value(quality), site.value(counts)) == ([3, 3, 3, 2, 1], [3, True])
    assert site.value("select sum(count_open) from analytics.value_at_risk") == 3
