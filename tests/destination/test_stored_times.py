"""The times that are sent are the instants that the server reads."""
# ruff: noqa: DTZ001 - local times, which have no zone, are what is tested

import datetime as dt
from decimal import Decimal
from typing import Any
from zoneinfo import ZoneInfo

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from etl.datasets import Column
from etl.ingestion.transform.types import converter
from tests.support.faults import Connection

against_database = settings(
    deadline=None, max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
ZONES = ["Europe/Berlin", "America/Sao_Paulo", "Australia/Lord_Howe", "Africa/Casablanca", "Asia/Kolkata", "UTC"]

# Around the changes of the clocks in 2025, and the last one of São Paulo, more often than elsewhere.
CHANGES = [
    dt.datetime(2025, 3, 30, 2),
    dt.datetime(2025, 10, 26, 2),
    dt.datetime(2025, 4, 6, 1),
    dt.datetime(2019, 2, 17),
]
LOCAL = st.builds(
    lambda day, minutes: day + dt.timedelta(minutes=minutes), st.sampled_from(CHANGES), st.integers(-200, 200)
) | st.datetimes(dt.datetime(1975, 1, 1), dt.datetime(2035, 1, 1))


def _instant(connection: Connection, text: str) -> Any:
    row = connection.execute("select %s::timestamptz", [text]).fetchone()
    assert row is not None
    return row[0]


def test_a_local_time_is_read_as_postgresql_reads_it(loader_session: Connection) -> None:
    """A time in a gap of the zone has the offset before the change, a time that occurs twice the offset after it."""

    @settings(against_database, max_examples=300)
    @given(st.sampled_from(ZONES), LOCAL)
    def check(zone: str, local: dt.datetime) -> None:
        found = _instant(loader_session, converter(Column(type="timestamptz", timezone=zone))(local.isoformat()))
        row = loader_session.execute("select %s::timestamp at time zone %s", [local, zone]).fetchone()
        assert row == (found,)
        # Both are the smaller of the two offsets that a clock change leaves to choose from.
        offsets = [local.replace(tzinfo=ZoneInfo(zone), fold=fold).utcoffset() for fold in (0, 1)]
        assert found == local.replace(tzinfo=dt.UTC) - min(each for each in offsets if each is not None)

    check()


def test_a_zone_that_is_written_comes_before_that_of_the_column(loader_session: Connection) -> None:
    """`timezone` applies only to times without a zone; a day without a time begins at its midnight."""
    convert = converter(Column(type="timestamptz", timezone="Europe/Berlin"))
    instants = {
        text: _instant(loader_session, convert(text)).isoformat()
        for text in (
            "2026-01-05T10:00:00Z",
            "2026-01-05T10:00:00",
            "2026-07-05 10:00",
            "2026-07-05",
            "2026-01-05T24:00:00",
        )
    }
    assert instants == {
        "2026-01-05T10:00:00Z": "2026-01-05T10:00:00+00:00",
        "2026-01-05T10:00:00": "2026-01-05T09:00:00+00:00",
        "2026-07-05 10:00": "2026-07-05T08:00:00+00:00",
        "2026-07-05": "2026-07-04T22:00:00+00:00",
        "2026-01-05T24:00:00": "2026-01-05T23:00:00+00:00",
    }


@against_database
@given(st.integers(0, 10**9 - 1), st.integers(7, 9))
def test_fractions_round_to_the_nearest_microsecond(loader_session: Connection, number: int, digits: int) -> None:
    """A fraction of more than six digits is rounded as PostgreSQL rounds it."""
    fraction = f"{number:09}"[:digits]
    text = converter(Column(type="timestamp"))(f"2026-01-05T10:00:00.{fraction}")
    row = loader_session.execute("select %s::timestamp", [text]).fetchone()
    assert row is not None
    exact = Decimal(f"0.{fraction}") * 1_000_000
    counted = (row[0] - dt.datetime(2026, 1, 5, 10)) // dt.timedelta(microseconds=1)
    assert abs(counted - exact) <= Decimal("0.5")


ODD = [
    ("2026-01-05T10:00:00.0000005Z", "2026-01-05T10:00:00+00:00"),
    ("2026-01-05T10:00:00.0000015Z", "2026-01-05T10:00:00.000002+00:00"),
    ("2026-01-05T10:00:00.9999995Z", "2026-01-05T10:00:01+00:00"),
    ("2026-01-05T24:00:00Z", "2026-01-06T00:00:00+00:00"),
    ("2016-12-31T23:59:60Z", "2017-01-01T00:00:00+00:00"),
    ("2026-01-05 10:00+0530", "2026-01-05T04:30:00+00:00"),
    ("2026-01-05 10:00:00 -03", "2026-01-05T13:00:00+00:00"),
]


def test_odd_spellings_have_the_instant_that_postgresql_reads(loader_session: Connection) -> None:
    """Half a microsecond rounds to even; 24:00 and a leap second are the next midnight."""
    convert = converter(Column(type="timestamptz"))
    assert [(text, _instant(loader_session, convert(text)).isoformat()) for text, _ in ODD] == ODD
    assert [(text, _instant(loader_session, text).isoformat()) for text, _ in ODD] == ODD
