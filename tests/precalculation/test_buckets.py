"""Kinds of buckets: the one table of them, weeks and hours as examples, and unknown kinds."""

import re
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from etl import datasets
from etl.database.connecting import connect
from etl.database.migrations import run_migrations
from etl.database.tables import create_tables
from etl.errors import DefinitionError, UsageError
from etl.precalculation.buckets import KINDS, BucketRange
from etl.precalculation.catalogue import Aggregate, choose, read_all
from etl.precalculation.installation import install
from etl.precalculation.pending import gather, take_due
from etl.precalculation.refresh import refresh
from etl.precalculation.verify import verify
from etl.provisioning import migrate
from tests.support.checkout import ROOT
from tests.support.commands import RunEtl
from tests.support.company import play, ship, trip
from tests.support.databases import database_at
from tests.support.facts import differences
from tests.support.faults import Connection

OWN = {
    "carrier_weeks": """\
-- One row per week and carrier.
-- table: analytics.carrier_weeks
-- bucket: week
-- fact logistics.shipments: (created_at at time zone 'UTC')::date
-- newest: logistics.shipments.created_at
-- key: week, carrier
-- column week: Monday of the ISO week (UTC) of creation
-- column carrier: carrier
-- column count_shipments: shipments
-- column sum_weight_kg: weight in kilograms
select
    date_trunc('week', created_at at time zone 'UTC')::date as week,
    coalesce(carrier, '(none)') as carrier,
    count(*) as count_shipments,
    sum(weight_kg) as sum_weight_kg
from logistics.shipments
where created_at >= :from_utc and created_at < :until_utc
group by 1, 2
""",
    "vehicle_weeks": """\
-- One row per week and vehicle.
-- table: analytics.vehicle_weeks
-- bucket: week
-- fact logistics.vehicle_logs: trip_date
-- fact logistics.shipments: log_id -> logistics.vehicle_logs.log_id
-- newest: logistics.vehicle_logs.trip_date
-- key: vehicle_id, week
-- column week: Monday of the ISO week of the trips
-- column vehicle_id: vehicle
-- column count_shipments: shipments
select
    date_trunc('week', trip_date)::date as week,
    coalesce(vehicle_id, '(none)') as vehicle_id,
    count(shipment_id) as count_shipments
from logistics.vehicle_logs
left join logistics.shipments using (log_id)
where trip_date >= :from and trip_date < :until
group by 1, 2
""",
    "carrier_hours": """\
-- One row per hour and carrier.
-- table: analytics.carrier_hours
-- bucket: hour
-- fact logistics.shipments: created_at at time zone 'UTC'
-- newest: logistics.shipments.created_at
-- key: hour, carrier
-- column hour: hour (UTC) of creation
-- column carrier: carrier
-- column count_shipments: shipments
-- column sum_weight_kg: weight in kilograms
select
    date_trunc('hour', created_at, 'UTC') as hour,
    coalesce(carrier, '(none)') as carrier,
    count(*) as count_shipments,
    sum(weight_kg) as sum_weight_kg
from logistics.shipments
where created_at >= :from_utc and created_at < :until_utc
group by 1, 2
""",
    "vehicle_hours": """\
-- One row per hour and vehicle.
-- table: analytics.vehicle_hours
-- bucket: hour
-- fact logistics.shipments: created_at at time zone 'UTC'
-- fact logistics.vehicle_logs: log_id -> logistics.shipments.log_id
-- newest: logistics.shipments.created_at
-- key: vehicle_id, hour
-- column hour: hour (UTC) of creation
-- column vehicle_id: vehicle of the trip
-- column count_shipments: shipments
select
    date_trunc('hour', created_at, 'UTC') as hour,
    coalesce(vehicle_id, '(none)') as vehicle_id,
    count(*) as count_shipments
from logistics.shipments
left join logistics.vehicle_logs using (log_id)
where created_at at time zone 'UTC' >= :from and created_at at time zone 'UTC' < :until
group by 1, 2
""",
}


def _write(config_dir: Path, name: str, *replacements: tuple[str, str]) -> Aggregate:
    text = OWN[name]
    for old, new in replacements:
        assert old in text
        text = text.replace(old, new)
    path = config_dir / "aggregates" / f"{name}.sql"
    path.parent.mkdir(exist_ok=True, parents=True)
    path.write_text(text, encoding="utf-8")
    (aggregate,) = choose([name], config_dir)
    return aggregate


@pytest.fixture
def own(tmp_path: Path) -> tuple[Aggregate, ...]:
    """Give aggregates by weeks and by hours, defined in the folder `config`."""
    return tuple(_write(tmp_path / "config", name) for name in OWN)


# --- the table of kinds -------------------------------------------------------------------------------------


def test_each_kind_is_documented() -> None:
    """The page on own aggregates names the kinds of the table, with their descriptions and types."""
    page = (ROOT / "docs" / "how-to" / "fresh-aggregates.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(hour|day|week|month|all|[a-z]+)` \| (.+) \| (.+) \| (.+) \|$", page, re.MULTILINE)
    expected = [
        (
            kind.name,
            kind.description,
            f"`{kind.name}`, {kind.noting.bucket_type}" if kind.noting else "none",
            f"{kind.noting.hint}, {kind.noting.type}" if kind.noting else "none",
        )
        for kind in KINDS.values()
    ]
    assert rows == expected


def _bucket(kind: str, at: datetime) -> datetime:
    day = datetime(at.year, at.month, at.day)  # noqa: DTZ001 - all of it is UTC without a zone, as in the database
    return {
        "hour": day + timedelta(hours=at.hour),
        "day": day,
        "week": datetime.combine(date.fromisocalendar(*day.isocalendar()[:2], 1), datetime.min.time()),
        "month": day.replace(day=1),
        "quarter": day.replace(month=(day.month - 1) // 3 * 3 + 1, day=1),
    }[kind]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=40)
@given(
    at=st.datetimes(datetime(1, 2, 1), datetime(9998, 1, 1))  # noqa: DTZ001 - as above
    | st.builds(
        lambda year, hours: datetime(year, 1, 1) + timedelta(hours=hours),  # noqa: DTZ001 - as above
        st.integers(1990, 2060),
        st.integers(-24 * 8, 24 * 8),
    )
)
def test_the_server_finds_the_bucket_of_each_time(connection: Connection, at: datetime) -> None:
    """The bucket of a time equals that of Python's calendar, also at the ends of years, and the next one follows it."""
    for kind in KINDS.values():
        if kind.noting is None:
            continue
        bucket = _bucket(kind.name, at)
        found = connection.execute("select etl.bucket_of(%s, %s::timestamp)", [kind.name, at]).fetchone()
        assert found == (bucket,)
        step = kind.step.as_string(connection)
        found = connection.execute(f"select timestamp '{bucket}' + {step}").fetchone()
        assert found
        assert at < found[0]
        assert _bucket(kind.name, found[0]) == found[0]
        assert _bucket(kind.name, found[0] - timedelta(microseconds=1)) == bucket


def test_weeks_that_cross_a_year_are_one_bucket(connection: Connection, own: tuple[Aggregate, ...]) -> None:
    """Days of two years are in one week, the 53rd of a long year, and the next week begins after them."""
    install(connection, own, {})
    (aggregate,) = (each for each in own if each.name == "carrier_weeks")
    refresh(connection, aggregate, run=None)
    for day in ("2026-12-27", "2026-12-28", "2026-12-31", "2027-01-01", "2027-01-03", "2027-01-04"):
        ship(connection, day, f"{day} 23:00Z")
    gather(connection)
    with connection.transaction(force_rollback=True):
        assert take_due(connection, aggregate) == ([BucketRange(first="2026-12-21", until="2027-01-11")], 3)
    assert refresh(connection, aggregate, run=None).buckets == 3
    rows = "select week::text, count_shipments from analytics.carrier_weeks order by week"
    assert connection.execute(rows).fetchall() == [("2026-12-21", 1), ("2026-12-28", 4), ("2027-01-04", 1)]
    ship(connection, "2026-12-28", "2027-01-02")
    assert vars(refresh(connection, aggregate, run=None)) | {"seconds": 0} == {
        "aggregate": "carrier_weeks",
        "buckets": 1,
        "rows": 0,
        "seconds": 0,
    }


def test_only_touched_hours_are_recomputed(connection: Connection, own: tuple[Aggregate, ...]) -> None:
    """A change marks its old and new hour in UTC, and consecutive hours are one range."""
    install(connection, own, {})
    (aggregate,) = (each for each in own if each.name == "carrier_hours")
    for hour in range(6):
        ship(connection, f"S{hour}", f"2026-03-01 0{hour}:30Z")
    assert refresh(connection, aggregate, run=None).buckets == 6
    connection.execute("update analytics.carrier_hours set sum_weight_kg = 99 where hour = '2026-03-01 01:00Z'")
    ship(connection, "S2", "2026-03-01 02:59:59.999999Z", weight=7)
    ship(connection, "S3", "2026-03-01 09:30+05:30")  # 04:00 in UTC
    gather(connection)
    assert connection.execute(
        "select pending_buckets from analytics.freshness where aggregate = 'carrier_hours'"
    ).fetchone() == (3,)
    with connection.transaction(force_rollback=True):
        assert take_due(connection, aggregate) == (
            [BucketRange(first="2026-03-01 02:00:00", until="2026-03-01 05:00:00")],
            3,
        )
    done = refresh(connection, aggregate, run=None)
    assert (done.buckets, done.rows) == (3, 3)  # 2 and 4 changed, 3 is gone
    assert len(differences(connection, aggregate)) == 2
    assert refresh(connection, aggregate, run=None, full=True).rows == 1
    assert not differences(connection, aggregate)


def test_a_statement_notes_each_hour_once(connection: Connection, own: tuple[Aggregate, ...]) -> None:
    """The notes grow with the hours that a statement changes, not with its rows."""
    install(connection, own, {})
    connection.execute(
        "insert into logistics.shipments (shipment_id, created_at, etl_run, etl_batch, etl_place) "
        "select 'S' || n, timestamptz '2026-03-01' + n * interval '1 minute', 1, 0, n from generate_series(0, 179) as n"
    )
    found = connection.execute("select hours::text[] from etl.touched where hours is not null").fetchall()
    assert [sorted(hours) for (hours,) in found] == [[f"2026-03-01 0{hour}:00:00" for hour in range(3)]]


def test_hours_without_end_and_at_the_end_of_the_calendar(connection: Connection, own: tuple[Aggregate, ...]) -> None:
    """An infinite instant is in no bucket, and the last instant of the calendar stops no refresh."""
    install(connection, own, {})
    for aggregate in own:
        refresh(connection, aggregate, run=None)
    for number, time in enumerate(["infinity", "-infinity", "20226-11-05 05:30Z", "0044-03-15 07:00Z BC"]):
        ship(connection, f"S{number}", time)
    assert [refresh(connection, each, run=None).buckets for each in own] == [2, 0, 2, 2]
    ship(connection, "S5", "294276-12-31 23:30Z", "L1")
    trip(connection, "L1", "294276-12-31")
    for aggregate in own:
        refresh(connection, aggregate, run=None)
        assert not differences(connection, aggregate)


@pytest.mark.parametrize("start", [date(2025, 12, 15), date(2026, 12, 10)], ids=["2025", "2026: 53 weeks"])
@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in (1, 2))])
def test_weeks_and_hours_equal_a_full_computation(
    connection: Connection, own: tuple[Aggregate, ...], seed: int, start: date
) -> None:
    """After any sequence of changes around the end of a year each refreshed aggregate equals its facts row for row."""
    install(connection, own, {})
    play(connection, seed, own, steps=60, start=start)
    for aggregate in own:
        assert (verify(connection, aggregate).differences, verify(connection, aggregate).pending) == (0, False)


@pytest.mark.slow
def test_weeks_and_hours_equal_a_full_computation_at_length(connection: Connection, own: tuple[Aggregate, ...]) -> None:
    """The same over a hundred sequences."""
    install(connection, own, {})
    for seed in range(2000, 2100):
        connection.execute("truncate logistics.shipments, logistics.vehicle_logs")
        play(connection, seed, own, steps=120, start=date(2026, 12, 10))


def test_the_commands_know_weeks_and_hours(connection: Connection, own: tuple[Aggregate, ...], run_etl: RunEtl) -> None:
    """Migration, refresh, verification, list and report accept them like days."""
    assert run_etl("db", "migrate").returncode == 0
    names = [aggregate.name for aggregate in own]
    ship(connection, "S1", "2026-12-31 23:30Z", "L1")
    ship(connection, "S2", "2027-01-01 01:30Z")
    trip(connection, "L1", "2027-01-01")
    assert run_etl("precalculate", *names).returncode == 0
    assert run_etl("precalculate", *names, "--verify").returncode == 0
    connection.execute("update analytics.carrier_hours set count_shipments = 7 where hour = '2027-01-01 01:00Z'")
    done = run_etl("precalculate", *names, "--verify")
    assert done.returncode == 1
    assert "hour=2027-01-01T01:00:00+00:00, carrier=A" in " ".join(done.stdout.split())
    assert "vehicle_weeks" in run_etl("precalculate", *names, "--list").stdout
    done = run_etl("report", "carrier_hours", "--format", "csv", "--columns", "hour,count_shipments")
    assert done.stdout == "hour,count_shipments\n2027-01-01 01:00:00+00,7\n2026-12-31 23:00:00+00,1\n"
    done = run_etl("report", "vehicle_weeks", "--format", "csv")
    assert done.stdout == "week,vehicle_id,count_shipments\n2026-12-28,V1,1\n"


HOLIDAYS = """\
-- One row per holiday.
-- table: analytics.holidays
-- bucket: day
-- fact logistics.holidays: day
-- fact logistics.vehicle_logs: trip_date -> logistics.holidays.day
-- newest: logistics.holidays.day
-- key: day
-- column day: holiday
-- column count_trips: trips
select day, count(log_id) as count_trips
from logistics.holidays
left join logistics.vehicle_logs on trip_date = day
where day >= :from and day < :until
group by 1
"""


def test_a_column_is_noted_as_a_day_and_as_a_key(connection: Connection, tmp_path: Path) -> None:
    """Two aggregates that watch one column in two ways are both refreshed."""
    connection.execute("create table logistics.holidays (day date, name text)")
    weeks = _write(tmp_path, "vehicle_weeks")
    (tmp_path / "aggregates" / "holidays.sql").write_text(HOLIDAYS, encoding="utf-8")
    (holidays,) = choose(["holidays"], tmp_path)
    install(connection, [weeks, holidays], {})
    connection.execute("insert into logistics.holidays values ('2026-12-25', 'Christmas')")
    for aggregate in (weeks, holidays):
        refresh(connection, aggregate, run=None)
    trip(connection, "L1", "2026-12-25")
    for aggregate in (weeks, holidays):
        assert refresh(connection, aggregate, run=None).rows == 1
        assert not differences(connection, aggregate)


# --- refused definitions ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "old", "new", "message"),
    [
        (
            "carrier_hours",
            "shipments: created_at at time zone 'UTC'",
            "shipments: (created_at at time zone 'UTC')::date",
            "expected a timestamp from .* got date",
        ),
        ("carrier_hours", "shipments: created_at at time zone 'UTC'", "shipments: created_at", "got timestamptz"),
        (
            "carrier_weeks",
            "shipments: (created_at at time zone 'UTC')::date",
            "shipments: created_at at time zone 'UTC'",
            "expected a date from .* got timestamp",
        ),
        (
            "carrier_hours",
            "date_trunc('hour', created_at, 'UTC') as hour",
            "date_trunc('hour', created_at at time zone 'UTC') as hour",
            "expected a column hour of type timestamptz, got timestamp",
        ),
        (
            "carrier_weeks",
            "date_trunc('week', created_at at time zone 'UTC')::date as week",
            "date_trunc('week', created_at at time zone 'UTC') as week",
            "expected a column week of type date, got timestamp",
        ),
    ],
)
def test_a_definition_of_another_type_is_refused(
    connection: Connection, tmp_path: Path, name: str, old: str, new: str, message: str
) -> None:
    """An expression or column coarser or finer than its kind would hide changes: exit 2 with the file."""
    with pytest.raises(DefinitionError, match=rf"{message}.*{name}\.sql"):
        install(connection, [_write(tmp_path, name, (old, new))], {})


def test_an_unknown_kind_is_named_with_the_file(connection: Connection, run_etl: RunEtl, tmp_path: Path) -> None:
    """The command ends with exit code 2, the line, the file and the known kinds."""
    with pytest.raises(DefinitionError):
        _write(tmp_path / "config", "carrier_weeks", ("-- bucket: week", "-- bucket: fortnight"))
    done = run_etl("precalculate")
    assert done.returncode == 2
    assert "'-- bucket: hour | day | week | month | quarter | all', got '-- bucket: fortnight', in " in done.stderr
    assert "carrier_weeks.sql at line 3" in done.stderr


def test_a_kind_that_the_server_does_not_know_hinders_no_other_aggregate(
    connection: Connection, own: tuple[Aggregate, ...], run_etl: RunEtl
) -> None:
    """An aggregate with an unknown kind from another installation is pending as a whole; the others are refreshed."""
    install(connection, own, {})
    for aggregate in own:
        refresh(connection, aggregate, run=None)
    connection.execute("update etl.aggregates set bucket = 'fortnight' where aggregate = 'carrier_weeks'")
    ship(connection, "S1", "2026-03-04")
    assert run_etl("precalculate", "daily_shipments").returncode == 0
    assert not differences(connection, choose(["daily_shipments"])[0])
    assert connection.execute("select count(*) from etl.touched").fetchone() == (0,)
    pending = "select pending_buckets from analytics.freshness where aggregate = %s"
    assert connection.execute(pending, ["carrier_weeks"]).fetchone() == (1,)
    assert connection.execute("select bucket from etl.pending where aggregate = 'carrier_weeks'").fetchall() == [
        (None,)
    ]
    connection.execute("update etl.aggregates set bucket = 'week' where aggregate = 'carrier_weeks'")
    for aggregate in own:
        refresh(connection, aggregate, run=None)
        assert not differences(connection, aggregate)


def test_triggers_for_an_unknown_kind_are_not_guessed(connection: Connection, own: tuple[Aggregate, ...]) -> None:
    """An installation that cannot note the changes of a fact leaves its triggers unchanged."""
    install(connection, own, {})
    connection.execute("update etl.aggregates set bucket = 'fortnight' where bucket = 'hour'")
    with pytest.raises(
        UsageError, match=r"expected a bucket kind \(hour, day, week, month, quarter, all\), got 'fortnight'"
    ):
        install(connection, read_all(), {})


# --- databases that are in use ------------------------------------------------------------------------------


def test_a_database_without_weeks_and_hours_is_migrated(
    connection: Connection, own: tuple[Aggregate, ...], tmp_path: Path
) -> None:
    """Notes, pending buckets, views and grants on the freshness are kept, and no aggregate becomes due."""
    with database_at(connection.info.dsn, "0006") as earlier:
        with connect(earlier) as before:
            for name in datasets.default_names(tmp_path):
                create_tables(before, datasets.find(name, tmp_path))
            before.execute(
                """
                create view analytics.late as
                select aggregate, pending_buckets from analytics.freshness where pending_buckets > 0;
                insert into etl.aggregates (aggregate, grain, bucket, datasets) values
                    ('daily_shipments', 'One row per day.', 'day', '{shipments}'),
                    ('carrier_performance', 'One row per month.', 'month', '{shipments}');
                insert into etl.watches (aggregate, fact, noted)
                select aggregate, 'logistics.shipments', '(created_at at time zone ''UTC'')::date' from etl.aggregates;
                insert into etl.pending (aggregate, bucket) values
                    ('daily_shipments', '2026-03-01'), ('carrier_performance', '2026-03-01');
                insert into etl.touched (fact, noted, days)
                select 'logistics.shipments', noted, array[date '2026-03-02', date '2026-02-28']
                from etl.watches
                where aggregate = 'daily_shipments';
                grant select on analytics.freshness to public;
                grant select (aggregate) on analytics.late to public;
                """
            )
            grants = (
                "select relname, relacl::text, attacl::text from pg_class join pg_attribute on attrelid = pg_class.oid "
                "where relnamespace = 'analytics'::regnamespace and relname in ('freshness', 'late')"
                " and attname not in ('future_event_at', 'version')"
                " order by relname, attnum"
            )
            granted = before.execute(grants).fetchall()
            pending = "select * from analytics.late order by 1"
            assert before.execute(pending).fetchall() == [("carrier_performance", 2), ("daily_shipments", 3)]
            run_migrations(before)
            assert before.execute(pending).fetchall() == [("carrier_performance", 2), ("daily_shipments", 3)]
            assert before.execute(grants).fetchall() == granted
            # A date outside the range of timestamps counts as all buckets; it was an error of the view.
            before.execute("update etl.touched set days = days || date '5000000-01-01'")
            assert before.execute(pending).fetchall() == [("carrier_performance", 3), ("daily_shipments", 4)]
        migrate(earlier, tmp_path / "config")
        with connect(earlier) as after:
            for aggregate in (*own, *choose([])):
                refresh(after, aggregate, run=None)
            assert after.execute("select * from analytics.late").fetchall() == []
            ship(after, "S1", "2026-03-01 05:30Z")
            for aggregate in (*own, *choose([])):
                refresh(after, aggregate, run=None)
                assert not differences(after, aggregate)
            assert after.execute("select hour from analytics.carrier_hours").fetchall() == [
                (datetime(2026, 3, 1, 5, tzinfo=UTC),)
            ]
