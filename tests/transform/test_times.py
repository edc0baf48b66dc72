# ruff: noqa: DTZ001 - local times, which have no zone, are what is tested
import datetime as dt
from decimal import Decimal
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from etl.datasets import Column
from etl.ingestion.transform.types import converter
from etl.ingestion.values import Misfit
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


@pytest.fixture
def connection(postgresql: Connection) -> Connection:
    """Give a connection that reads and writes in UTC, as a load does."""
    postgresql.execute("set timezone = 'UTC'; set datestyle = 'ISO, YMD'")
    return postgresql


def _instant(connection: Connection, text: str) -> Any:
    row = connection.execute("select %s::timestamptz", [text]).fetchone()
    assert row is not None
    return row[0]


def test_a_local_time_is_read_as_postgresql_reads_it(connection: Connection) -> None:
    """A time in no hour of the zone has the offset before the change, one in two hours the offset after it."""

    @settings(against_database, max_examples=300)
    @given(st.sampled_from(ZONES), LOCAL)
    def check(zone: str, local: dt.datetime) -> None:
        found = _instant(connection, converter(Column(type="timestamptz", timezone=zone))(local.isoformat()))
        row = connection.execute("select %s::timestamp at time zone %s", [local, zone]).fetchone()
        assert row == (found,)
        # Both are the smaller of the two offsets that a clock change leaves to choose from.
        offsets = [local.replace(tzinfo=ZoneInfo(zone), fold=fold).utcoffset() for fold in (0, 1)]
        assert found == local.replace(tzinfo=dt.UTC) - min(each for each in offsets if each is not None)

    check()


def test_a_zone_that_is_written_comes_before_that_of_the_column(connection: Connection) -> None:
    """`timezone` is for the times without a zone alone; a day without a time begins at its midnight."""
    convert = converter(Column(type="timestamptz", timezone="Europe/Berlin"))
    told = {
        text: _instant(connection, convert(text)).isoformat()
        for text in (
            "2026-01-05T10:00:00Z",
            "2026-01-05T10:00:00",
            "2026-07-05 10:00",
            "2026-07-05",
            "2026-01-05T24:00:00",
        )
    }
    assert told == {
        "2026-01-05T10:00:00Z": "2026-01-05T10:00:00+00:00",
        "2026-01-05T10:00:00": "2026-01-05T09:00:00+00:00",
        "2026-07-05 10:00": "2026-07-05T08:00:00+00:00",
        "2026-07-05": "2026-07-04T22:00:00+00:00",
        "2026-01-05T24:00:00": "2026-01-05T23:00:00+00:00",
    }


@against_database
@given(st.integers(0, 10**9 - 1), st.integers(7, 9))
def test_fractions_round_to_the_nearest_microsecond(postgresql: Connection, number: int, digits: int) -> None:
    """More than six digits of a fraction are rounded, as PostgreSQL rounds the number that they are."""
    fraction = f"{number:09}"[:digits]
    text = converter(Column(type="timestamp"))(f"2026-01-05T10:00:00.{fraction}")
    row = postgresql.execute("select %s::timestamp", [text]).fetchone()
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


def test_odd_spellings_have_the_instant_that_postgresql_reads(connection: Connection) -> None:
    """Half a microsecond rounds to the even one; 24:00 and a leap second are the next midnight."""
    convert = converter(Column(type="timestamptz"))
    assert [(text, _instant(connection, convert(text)).isoformat()) for text, _ in ODD] == ODD
    assert [(text, _instant(connection, text).isoformat()) for text, _ in ODD] == ODD


@pytest.mark.parametrize(
    ("options", "value", "text"),
    [
        ({"type": "date", "formats": ("%d.%m.%Y",)}, "5.1.2026", "2026-01-05"),
        ({"type": "date", "formats": ("%d.%m.%Y",)}, "2026-01-05", "2026-01-05"),
        ({"type": "date", "formats": ("%d-%b-%y",)}, "2-Jun-06", "2006-06-02"),
        ({"type": "date", "formats": ("%d/%m/%y", "%m/%d/%y")}, "03/04/14", "2014-04-03"),
        ({"type": "date", "formats": ("%d/%m/%y", "%m/%d/%y")}, "03/14/14", "2014-03-14"),
        ({"type": "date", "formats": ("%m/%d/%y",)}, "1/1/68", "2068-01-01"),
        ({"type": "date", "formats": ("%m/%d/%y",)}, "1/1/69", "1969-01-01"),
        ({"type": "date", "formats": ("%Y%m%d",)}, 20260105, "2026-01-05"),
        ({"type": "date", "formats": ("%Y%m%d", "epoch")}, "20260105", "2026-01-05"),
        ({"type": "date", "formats": ("epoch", "%Y%m%d")}, "20260105", "1970-08-23"),
        ({"type": "date", "formats": ("%Y-%m-%d %H:%M",)}, "2026-01-05 23:59", "2026-01-05"),
        ({"type": "time", "formats": ("%H.%M",)}, "8.15", "08:15:00"),
        ({"type": "time", "formats": ("%H.%M",)}, "08:15:00.1234567", "08:15:00.1234567"),
        ({"type": "time", "formats": ("%I:%M %p",)}, "8:15 PM", "20:15:00"),
        ({"type": "time", "formats": ("%d.%m.%Y %H:%M",)}, "5.1.2026 08:15", "08:15:00"),
        ({"type": "time", "formats": ("%H%M",)}, 1830, "18:30:00"),
        ({"type": "time", "formats": ("epoch",)}, Decimal("30600.5"), "08:30:00.500000"),
        ({"type": "time", "formats": ("epoch_ms",)}, 1767607200123, "10:00:00.123000"),
        ({"type": "time", "formats": ("%H.%M",), "max": "09:00"}, "9.00", "09:00:00"),
        ({"type": "timestamp", "formats": ("epoch",)}, Decimal("0.5"), "1970-01-01T00:00:00.500000"),
        ({"type": "timestamp", "formats": ("%m/%d/%Y %I:%M %p",)}, "1/5/2026 12:30 am", "2026-01-05T00:30:00"),
        ({"type": "timestamptz", "formats": ("epoch",)}, 1767607200, "2026-01-05T10:00:00+00:00"),
        ({"type": "timestamptz", "formats": ("epoch_ms",)}, 1767607200123, "2026-01-05T10:00:00.123000+00:00"),
        ({"type": "timestamptz", "formats": ("epoch_ms",)}, "1767607200123", "2026-01-05T10:00:00.123000+00:00"),
        ({"type": "timestamptz", "formats": ("epoch",)}, Decimal("-0.0000005"), "1970-01-01T00:00:00+00:00"),
        ({"type": "timestamptz", "formats": ("epoch",)}, Decimal("0.0000015"), "1970-01-01T00:00:00.000002+00:00"),
        (
            {"type": "timestamptz", "formats": ("%d.%m.%Y %H:%M %z",)},
            "5.1.2026 9:30 +0530",
            "2026-01-05T09:30:00+05:30",
        ),
        (
            {"type": "timestamptz", "formats": ("%d.%m.%Y %H:%M",), "timezone": "Europe/Berlin"},
            "05.01.2026 09:30",
            "2026-01-05T09:30:00 Europe/Berlin",
        ),
    ],
)
def test_a_format_reads_what_is_not_iso_8601(options: dict[str, Any], value: Any, text: str) -> None:
    """ISO 8601 is tried first, then the formats in their order; what fits becomes ISO 8601."""
    assert converter(Column(**options))(value) == text


@pytest.mark.parametrize(
    "value", ["31.02.2026", "9/11/14", "now", "", True, 1e99, Decimal("1e30"), 10**30, [], "1" * 200]
)
def test_what_no_format_reads_is_a_misfit(value: Any) -> None:
    """What fits neither ISO 8601 nor a format is a misfit, which tells the formats and not the value."""
    with pytest.raises(Misfit) as caught:
        converter(Column(type="date", formats=("%d.%m.%Y", "epoch_ms")))(value)
    assert caught.value.sqlstate == "22007"
    assert caught.value.reason == "expected ISO 8601 or one of %d.%m.%Y, epoch_ms, got something else"


@pytest.mark.parametrize(
    ("value", "sqlstate"), [("9.01", "23514"), ("09:00:00.0000005", None), ("9:00 PM", "22007"), (True, "22007")]
)
def test_bounds_hold_for_what_a_format_reads(value: Any, sqlstate: str | None) -> None:
    """A time of day beyond its bounds is a violation, however it is written; half a microsecond rounds to the even."""
    convert = converter(Column(type="time", formats=("%H.%M",), max="09:00"))
    if sqlstate is None:
        assert convert(value) == value
    else:
        with pytest.raises(Misfit) as caught:
            convert(value)
        assert caught.value.sqlstate == sqlstate


@pytest.mark.parametrize(
    ("value", "sqlstate"),
    [("2026-01-05T10:00:00Z", "22007"), ("2026-02-30T10:00:00", "22008"), ("now", "22007"), (5, "22007")],
)
def test_a_timestamp_has_no_zone(value: Any, sqlstate: str) -> None:
    """A zone, which PostgreSQL would drop without a word, is a misfit of a timestamp."""
    with pytest.raises(Misfit) as caught:
        converter(Column(type="timestamp"))(value)
    assert caught.value.sqlstate == sqlstate
