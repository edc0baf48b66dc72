"""Incremental refresh equals a full recomputation after any change of the facts, also by concurrent sessions."""

import random
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from datetime import timedelta
from typing import Any, LiteralString

import psycopg
import pytest

from etl.errors import UsageError
from etl.precalculation.buckets import EVERYTHING, BucketRange
from etl.precalculation.catalogue import choose
from etl.precalculation.pending import gather, take_due
from etl.precalculation.refresh import RefreshResult, refresh, refresh_all
from tests.support.company import START, Company, play, ship, trip
from tests.support.facts import another, differences, refreshed, wait_until_blocked
from tests.support.faults import Connection


def _refresh_all(connection: Connection) -> dict[str, RefreshResult]:
    return {aggregate.name: refresh(connection, aggregate, run=None) for aggregate in choose([])}


def _vehicle_days(connection: Connection) -> list[tuple[Any, ...]]:
    query = "select source_day::text, count_trips, count_shipments from analytics.vehicle_days"
    return connection.execute(query).fetchall()


def _pending(connection: Connection) -> dict[str, int]:
    return dict(connection.execute("select aggregate, pending_buckets from analytics.freshness").fetchall())


# --- recomputed buckets -------------------------------------------------------------------------------------


def test_only_touched_buckets_are_recomputed(connection: Connection) -> None:
    """A change of one day recomputes one bucket; a row of another day that was altered by hand stays."""
    for number in range(10):
        ship(connection, f"S{number}", f"2026-03-{number + 1:02}")
    assert refreshed(connection, "daily_shipments").buckets == 10
    connection.execute("update analytics.daily_shipments set sum_weight_kg = 99 where day = '2026-03-02'")
    ship(connection, "S5", "2026-03-06", weight=7)
    assert vars(refreshed(connection, "daily_shipments")) | {"seconds": 0} == {
        "aggregate": "daily_shipments",
        "buckets": 1,
        "rows": 1,
        "seconds": 0,
    }
    (aggregate,) = choose(["daily_shipments"])
    assert len(differences(connection, aggregate)) == 2
    assert refreshed(connection, "daily_shipments", full=True).rows == 1
    assert not differences(connection, aggregate)


INSERT = "insert into logistics.shipments (shipment_id, created_at, etl_run, etl_batch, etl_place) "
CHANGES: dict[str, tuple[LiteralString, int, int]] = {
    "an insertion": (
        INSERT + "values ('new', '2026-03-05T12:00Z', 1, 0, 1)",
        1,
        1,
    ),
    "a move to another day": (
        "update logistics.shipments set created_at = '2026-04-02' where shipment_id = 'S3'",
        2,
        2,
    ),
    "a deletion": ("delete from logistics.shipments where shipment_id in ('S1', 'S2', 'S9')", 3, 1),
    "a merge": (
        INSERT
        + "values ('S0', '2026-03-08', 1, 0, 1), ('new', '2026-03-20', 1, 0, 2) "
        + "on conflict (shipment_id) do update set created_at = excluded.created_at",
        3,
        1,
    ),
    "a COPY": ("copy logistics.shipments (shipment_id, created_at, etl_run, etl_batch, etl_place) from stdin", 2, 2),
    "a truncation": ("truncate logistics.shipments", 0, 0),
    "a statement that finds nothing": ("delete from logistics.shipments where shipment_id = 'none'", 0, 0),
}


@pytest.mark.parametrize("name", CHANGES)
def test_every_way_to_change_a_fact_is_noted(connection: Connection, name: str) -> None:
    """Days and months of old and new rows are recomputed after every kind of statement."""
    statement, days, months = CHANGES[name]
    for number in range(10):
        ship(connection, f"S{number}", f"2026-03-{number + 1:02}")
    _refresh_all(connection)
    if "stdin" in statement:
        with connection.cursor() as cursor, cursor.copy(statement) as copy:
            copy.write("a\t2026-01-31T23:59:59Z\t1\t0\t1\nb\t2026-02-01T00:00:00Z\t1\t0\t2\n")
    else:
        connection.execute(statement)
    done = _refresh_all(connection)
    assert (done["daily_shipments"].buckets, done["carrier_performance"].buckets) == (days, months)
    for aggregate in choose([]):
        assert not differences(connection, aggregate)


def test_an_infinite_instant_is_in_no_bucket(connection: Connection) -> None:
    """An infinite instant, or one outside Python's range, neither breaks a refresh nor enters a bucket."""
    _refresh_all(connection)
    ship(connection, "S1", "infinity")
    ship(connection, "S2", "20226-11-05")
    ship(connection, "S3", "0044-03-15 BC")
    ship(connection, "S4", "-infinity")
    assert refreshed(connection, "daily_shipments").buckets == 2
    refreshed(connection, "carrier_performance")
    for aggregate in choose(["daily_shipments", "carrier_performance"]):
        assert not differences(connection, aggregate)


def test_a_day_at_the_end_of_the_calendar_stops_no_refresh(connection: Connection) -> None:
    """The last day of the calendar is recomputed like any other."""
    _refresh_all(connection)
    ship(connection, "S1", "294276-12-31 23:00Z")
    trip(connection, "L1", "294276-12-31")
    for aggregate in choose(["daily_shipments", "carrier_performance", "vehicle_days"]):
        assert refresh(connection, aggregate, run=None).rows == 1
        assert not differences(connection, aggregate)


def test_ranges_leave_out_distant_days(connection: Connection) -> None:
    """Consecutive days are one range, days far from each other two if the facts are large, and near days are joined."""
    (aggregate,) = choose(["daily_shipments"])
    _refresh_all(connection)

    def ranges(*days: str) -> list[BucketRange]:
        for place, day in enumerate(days):
            ship(connection, f"{day}-{place}", day)
        gather(connection)
        with connection.transaction():
            return take_due(connection, aggregate)[0]

    assert ranges() == []
    assert ranges("2026-03-02", "2026-03-01", "2026-03-02") == [BucketRange(first="2026-03-01", until="2026-03-03")]
    # Small facts are read faster than a second range is planned.
    assert ranges("2026-02-28", "2026-12-31") == [BucketRange(first="2026-02-28", until="2027-01-01")]
    connection.execute(
        "insert into logistics.shipments (shipment_id, status, created_at, updated_at, etl_run, etl_batch, etl_place)"
        " select 'm' || n, 'new', '2026-06-01', '2026-06-01', 1, 0, n from generate_series(1, 8000) n"
    )
    ranges()
    assert ranges("2026-02-28", "2026-12-31") == [
        BucketRange(first="2026-02-28", until="2026-03-01"),
        BucketRange(first="2026-12-31", until="2027-01-01"),
    ]
    assert ranges("2026-03-01", "2026-03-03", "2026-03-04") == [BucketRange(first="2026-03-01", until="2026-03-05")]
    connection.execute("truncate logistics.shipments")
    assert ranges("2026-03-01") == [EVERYTHING]


def test_months_that_follow_each_other_are_one_range(connection: Connection) -> None:
    """The range of months ends at the first day after the last month, for all lengths of months."""
    (aggregate,) = choose(["carrier_performance"])
    _refresh_all(connection)
    for day in ("2026-02-10", "2026-01-31", "2026-03-01"):
        ship(connection, day, day)
    gather(connection)
    with connection.transaction():
        assert take_due(connection, aggregate) == ([BucketRange(first="2026-01-01", until="2026-04-01")], 3)


# --- two facts ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("first", ["shipment", "trip"])
@pytest.mark.parametrize(
    "refreshes",
    [
        *(pytest.param(each, marks=pytest.mark.slow) for each in ((), ("begun",), ("first",))),
        ("begun", "first", "second"),
    ],
)
def test_facts_of_concurrent_loads_are_joined(connection: Connection, first: str, refreshes: tuple[str, ...]) -> None:
    """A shipment and its trip, loaded without seeing each other, are joined after the next refresh."""
    refreshed(connection, "vehicle_days")
    with another(connection) as one, another(connection) as other:
        one.autocommit = other.autocommit = False
        ship(one, "S1", "2026-02-27", "L1")
        trip(other, "L1", "2026-03-01")
        if "begun" in refreshes:
            refreshed(connection, "vehicle_days")
        ordered = [one, other] if first == "shipment" else [other, one]
        ordered[0].commit()
        if "first" in refreshes:
            refreshed(connection, "vehicle_days")
        ordered[1].commit()
    for _ in range(1 + ("second" in refreshes)):
        refreshed(connection, "vehicle_days")
    assert _vehicle_days(connection) == [("2026-03-01", 1, 1)]


def test_a_shipment_that_changes_its_trip_touches_the_days_of_both(connection: Connection) -> None:
    """The days of the old and the new trip are recomputed; a shipment without a trip marks no day."""
    for number in (1, 2, 3):
        trip(connection, f"L{number}", f"2026-03-0{number}")
    ship(connection, "S1", "2026-02-27", "L1")
    refreshed(connection, "vehicle_days")
    ship(connection, "S1", "2026-02-27", "L2")
    assert refreshed(connection, "vehicle_days").buckets == 2
    assert sorted(_vehicle_days(connection)) == [("2026-03-01", 1, 0), ("2026-03-02", 1, 1), ("2026-03-03", 1, 0)]
    ship(connection, "S2", "2026-02-27")
    ship(connection, "S3", "2026-02-27", "L9")
    assert refreshed(connection, "vehicle_days").buckets == 0
    trip(connection, "L9", "2026-03-09")
    assert refreshed(connection, "vehicle_days").buckets == 1
    assert ("2026-03-09", 1, 1) in _vehicle_days(connection)


# --- concurrent sessions ------------------------------------------------------------------------------------


@contextmanager
def _held_at(connection: Connection, statement: LiteralString) -> Iterator[Connection]:
    """Hold a lock that a refresh needs, until the block ends."""
    with another(connection) as holder, holder.transaction():
        holder.execute(statement)
        yield holder


def test_a_load_that_commits_during_a_refresh_stays_pending(connection: Connection) -> None:
    """A load that commits after the computation is not included, is shown as pending, and is in the next refresh."""
    ship(connection, "S1", "2026-03-01")
    refreshed(connection, "daily_shipments")
    ship(connection, "S1", "2026-03-01", weight=2)
    with another(connection) as worker:
        with _held_at(connection, "select from analytics.daily_shipments for update"):
            thread = threading.Thread(target=refreshed, args=(worker, "daily_shipments"))
            thread.start()
            wait_until_blocked(connection, worker)
            ship(connection, "S1", "2026-03-01", weight=3)
            ship(connection, "S2", "2026-03-02", weight=3)
        thread.join()
    weights = "select sum(sum_weight_kg) from analytics.daily_shipments"
    assert connection.execute(weights).fetchone() == (2,)
    assert _pending(connection)["daily_shipments"] == 2
    assert refreshed(connection, "daily_shipments").buckets == 2
    assert connection.execute(weights).fetchone() == (6,)
    assert _pending(connection)["daily_shipments"] == 0


def test_a_change_after_the_gathering_is_included_and_stays_noted(
    connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A change between gathering and snapshot is recomputed at once, and again by the next refresh."""
    trip(connection, "L1", "2026-03-01")
    for name in ("daily_shipments", "vehicle_days"):
        refreshed(connection, name)
    with monkeypatch.context() as patched:
        patched.setattr("etl.precalculation.refresh.gather", lambda _: None)
        ship(connection, "S1", "2026-03-02", "L1")
        for name in ("daily_shipments", "vehicle_days"):
            assert refreshed(connection, name).rows == 1
    for name in ("daily_shipments", "vehicle_days"):
        assert _pending(connection)[name] == 1
        done = refreshed(connection, name)
        assert (done.buckets, done.rows) == (1, 0)


def test_all_ranges_are_of_one_snapshot(connection: Connection) -> None:
    """A record that moves between two days during their refresh is counted once."""
    (aggregate,) = choose(["daily_shipments"])
    gated = replace(aggregate, select=f"{aggregate.select.rstrip()}, pg_advisory_xact_lock_shared(42)::text")
    refresh(connection, gated, run=None)
    ship(connection, "S1", "2026-03-01")
    ship(connection, "S2", "2026-12-01")
    with another(connection) as worker:
        with _held_at(connection, "select pg_advisory_xact_lock(42)"):
            thread = threading.Thread(target=refresh, args=(worker, gated), kwargs={"run": None})
            thread.start()
            wait_until_blocked(connection, worker)
            ship(connection, "S1", "2026-12-01")
        thread.join()
    days = "select day::text, count_shipments from analytics.daily_shipments order by day"
    assert connection.execute(days).fetchall() == [("2026-03-01", 1), ("2026-12-01", 1)]
    refresh(connection, gated, run=None)
    assert connection.execute(days).fetchall() == [("2026-12-01", 2)]


def test_an_open_transaction_is_not_lost(connection: Connection) -> None:
    """Changes of a transaction that began before a refresh and commits after it are in the next refresh."""
    refreshed(connection, "daily_shipments")
    with another(connection) as loader:
        with loader.transaction():
            ship(loader, "S1", "2026-03-01")
            ship(connection, "S2", "2026-03-01")
            assert refreshed(connection, "daily_shipments").buckets == 1
        assert refreshed(connection, "daily_shipments").buckets == 1
    assert not differences(connection, choose(["daily_shipments"])[0])


def test_noting_does_not_wait(connection: Connection) -> None:
    """Two loads of the same days, a refresh and the holder of its buckets do not wait for each other."""
    refreshed(connection, "daily_shipments")
    with ExitStack() as stack:
        for number in range(3):
            loader = stack.enter_context(another(connection))
            loader.execute("set lock_timeout = '1ms'")
            stack.enter_context(loader.transaction())
            ship(loader, f"S{number}", "2026-03-01")
        connection.execute("set lock_timeout = '1ms'")
        _refresh_all(connection)


def test_a_refresh_waits_for_a_locked_fact_no_longer_than_its_timeout(connection: Connection) -> None:
    """During the truncation of a fact a refresh ends after the session's lock timeout, and others continue."""
    ship(connection, "S1", "2026-03-01", "L1")
    with _held_at(connection, "truncate logistics.vehicle_logs"), another(connection) as worker:
        worker.execute("set lock_timeout = '1ms'")
        with pytest.raises(psycopg.errors.LockNotAvailable):
            refreshed(worker, "vehicle_days")
        held = "select count(*) from pg_locks where locktype = 'advisory'"
        assert connection.execute(held).fetchone() == (0,)
    _refresh_all(connection)
    assert set(_pending(connection).values()) == {0}


def test_a_refresh_that_fails_leaves_its_buckets_pending(connection: Connection) -> None:
    """Buckets that could not be stored are recomputed by the next refresh."""
    refreshed(connection, "daily_shipments")
    connection.execute("alter table analytics.daily_shipments add constraint small check (sum_weight_kg < 5)")
    ship(connection, "S1", "2026-03-01", weight=9)
    with pytest.raises(UsageError, match=r"CheckViolation of small, SQLSTATE 23514"):
        refreshed(connection, "daily_shipments")
    assert _pending(connection)["daily_shipments"] == 1
    connection.execute("alter table analytics.daily_shipments drop constraint small")
    assert refreshed(connection, "daily_shipments").rows == 1


def test_readers_see_whole_states_and_meet_no_exclusive_lock(connection: Connection) -> None:
    """Each read during refreshes equals one state, no reader waits, and no table is locked exclusively."""
    for number in range(50):
        ship(connection, f"S{number}", str(START + timedelta(days=number % 25)))
    refreshed(connection, "daily_shipments")
    done = threading.Event()

    def change_and_refresh() -> None:
        with another(connection) as worker:
            for weight in range(2, 22):
                # Each moves all shipments by a day: rows come, go and change.
                worker.execute(
                    "update logistics.shipments set weight_kg = %s, created_at = created_at + interval '1 day'",
                    [weight],
                )
                refreshed(worker, "daily_shipments", full=weight % 2 == 0)
        done.set()

    thread = threading.Thread(target=change_and_refresh)
    sums: set[Any] = set()
    modes: set[str] = set()
    with another(connection) as reader, another(connection) as monitor:
        reader.execute("set lock_timeout = '1ms'")
        thread.start()
        while thread.is_alive() or not sums:
            row = reader.execute("select sum(sum_weight_kg), sum(count_shipments) from analytics.daily_shipments")
            weight, count = row.fetchall()[0]
            assert count == 50
            sums.add(weight)
            modes.update(
                mode
                for (mode,) in monitor.execute(
                    "select mode from pg_locks join pg_class on pg_class.oid = relation "
                    "where locktype = 'relation' and relnamespace::regnamespace::text in ('analytics', 'logistics')"
                )
            )
    thread.join()
    assert done.is_set()
    assert sums <= {50 * weight for weight in range(1, 22)}
    assert len(sums) > 2
    assert not modes & {"AccessExclusiveLock", "ExclusiveLock", "ShareRowExclusiveLock"}


# --- random changes -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", [0, 1, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(2, 5))])
def test_an_incremental_aggregate_equals_a_full_one(connection: Connection, seed: int) -> None:
    """After any sequence of changes, committed in any order, each refreshed aggregate equals its facts row for row."""
    play(connection, seed, choose([]), steps=60)


@pytest.mark.slow
def test_an_incremental_aggregate_equals_a_full_one_at_length(connection: Connection) -> None:
    """The same over two hundred sequences."""
    for seed in range(1000, 1200):
        connection.execute("truncate logistics.shipments, logistics.vehicle_logs")
        play(connection, seed, choose([]), steps=120)


def _storm(connection: Connection, seconds: float) -> int:
    """Let four sessions change the facts while three refresh; return the number of refreshes."""
    stop = threading.Event()
    refreshes: list[RefreshResult] = []
    faults: list[BaseException] = []

    def run(act: Callable[[Connection], None]) -> None:
        try:
            with another(connection) as mine:
                while not stop.is_set():
                    act(mine)
        except BaseException as fault:  # noqa: BLE001 - raised by the test's own thread
            faults.append(fault)
            stop.set()

    def changing(seed: int) -> Callable[[Connection], None]:
        company = Company(seed)

        def change(mine: Connection) -> None:
            try:
                with mine.transaction():
                    for _ in range(company.random.randrange(1, 4)):
                        company.work(mine)
            except (psycopg.errors.DeadlockDetected, psycopg.errors.UniqueViolation):
                pass  # Rolled back: nothing was noted, and nothing changed.

        return change

    def refreshing(seed: int) -> Callable[[Connection], None]:
        chance = random.Random(seed)
        return lambda mine: refreshes.extend(refresh_all(mine, chance.sample(choose([]), 2), run=None))

    acts = [*map(changing, range(4)), *map(refreshing, range(3))]
    threads = [threading.Thread(target=run, args=(act,)) for act in acts]
    for thread in threads:
        thread.start()
    stop.wait(seconds)
    stop.set()
    for thread in threads:
        thread.join()
    assert not faults, faults
    for aggregate in choose([]):
        refresh(connection, aggregate, run=None)
        assert not differences(connection, aggregate)
    return len(refreshes)


def test_concurrent_loads_and_refreshes_lose_nothing(connection: Connection) -> None:
    """Sessions that change the same facts while others refresh the same aggregates leave every bucket right."""
    assert _storm(connection, seconds=1.5) > 1


@pytest.mark.slow
def test_concurrent_loads_and_refreshes_lose_nothing_for_minutes(connection: Connection) -> None:
    """The same for three minutes."""
    assert _storm(connection, seconds=180) > 100
