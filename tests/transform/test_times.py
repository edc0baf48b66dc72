from decimal import Decimal
from typing import Any

import pytest

from etl.datasets import Column
from etl.ingestion.transform.types import converter
from etl.ingestion.values import Misfit


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
def test_a_format_reads_other_spellings_than_iso_8601(options: dict[str, Any], value: Any, text: str) -> None:
    """ISO 8601 is tried first, then the formats in order; a spelling that fits becomes ISO 8601."""
    assert converter(Column(**options))(value) == text


@pytest.mark.parametrize(
    "value", ["31.02.2026", "9/11/14", "now", "", True, 1e99, Decimal("1e30"), 10**30, [], "1" * 200]
)
def test_a_spelling_that_no_format_reads_is_a_misfit(value: Any) -> None:
    """A misfit of ISO 8601 and all formats names the formats, not the value."""
    with pytest.raises(Misfit) as caught:
        converter(Column(type="date", formats=("%d.%m.%Y", "epoch_ms")))(value)
    assert caught.value.sqlstate == "22007"
    assert caught.value.reason == "expected ISO 8601 or one of %d.%m.%Y, epoch_ms, got something else"


@pytest.mark.parametrize(
    ("value", "sqlstate"), [("9.01", "23514"), ("09:00:00.0000005", None), ("9:00 PM", "22007"), (True, "22007")]
)
def test_bounds_apply_to_times_read_by_a_format(value: Any, sqlstate: str | None) -> None:
    """A time of day outside its bounds is a violation in any spelling; half a microsecond rounds to even."""
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
    """A zone, which PostgreSQL would drop silently, is a misfit of a timestamp."""
    with pytest.raises(Misfit) as caught:
        converter(Column(type="timestamp"))(value)
    assert caught.value.sqlstate == sqlstate
