"""How dates and times are written, and what of it fits. Pure.

ISO 8601 goes to PostgreSQL as it stands, which rounds to the nearest microsecond, half to even; a local time goes with
the name of its zone, so that PostgreSQL resolves what a clock change makes ambiguous. What another format reads is sent
as ISO 8601.
"""

import re
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from decimal import ROUND_HALF_EVEN, Decimal
from functools import lru_cache
from typing import Any

from etl.datasets import Column
from etl.ingestion.values import Misfit

_DATE = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")
_TIMESTAMP = re.compile(
    r"([0-9]{4}-[0-9]{2}-[0-9]{2})[T ]([0-9]{2}):([0-9]{2})(?::([0-9]{2})(?:\.([0-9]+))?)?"
    r" ?(?:(Z)|[+-]([0-9]{2})(?::?([0-9]{2}))?)?"
)

# Days that every year has; February 29 is looked up in the calendar.
_DAY = (
    r"(?!0000)[0-9]{4}-"
    r"(?:(?:0[1-9]|1[0-2])-(?:0[1-9]|1[0-9]|2[0-8])|(?:0[13-9]|1[0-2])-(?:29|30)|(?:0[13578]|1[02])-31)"
)
_TIME = r"[T ](?:[01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](?:\.[0-9]{1,6})?"
is_common_date = re.compile(_DAY).fullmatch
is_common_local = re.compile(_DAY + _TIME).fullmatch
is_common_timestamp = re.compile(_DAY + _TIME + r"(?:Z|[+-](?:0[0-9]|1[0-5]):?[0-5][0-9])").fullmatch

# PostgreSQL reads a fraction as a double, and no time that is longer than 128 characters.
_FRACTION_DIGITS = 15

_NUMBER = re.compile(r"[+-]?[0-9]{1,20}(\.[0-9]{1,20})?")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_EPOCHS = {"epoch": 1_000_000, "epoch_ms": 1_000}
_LARGEST_EXPONENT = 20
_REMEMBERED = 10_000


def moment(column: Column) -> Callable[[Any], str]:
    """Return the function from a JSON value to the COPY text of a date or a time; it raises Misfit."""
    iso = {"date": _date, "timestamp": _timestamp, "timestamptz": _timestamptz(column.timezone)}[column.type]
    return _of_formats(column, iso) if column.formats else iso


def _date(value: Any) -> str:
    if isinstance(value, str):
        if is_common_date(value):
            return value
        if _DATE.fullmatch(value):
            _require_day(value)
            return value
    raise Misfit("22007", "expected a date as YYYY-MM-DD, got something else")


def _timestamp(value: Any) -> str:
    if isinstance(value, str):
        if is_common_local(value):
            return value
        match = _TIMESTAMP.fullmatch(value)
        if match:
            if match[6] or match[7]:
                raise Misfit("22007", "the time has a zone, and a timestamp has none")
            return _checked(match)
        if _DATE.fullmatch(value):
            _require_day(value)
            return value
    raise Misfit("22007", "expected an ISO 8601 time such as 2026-11-21T08:15:00, got something else")


def _timestamptz(timezone: str | None) -> Callable[[Any], str]:
    def convert(value: Any) -> str:
        if isinstance(value, str):
            if is_common_timestamp(value):
                return value
            match = _TIMESTAMP.fullmatch(value)
            if match and (match[6] or match[7]):
                return _checked(match)
            if match and timezone is None:
                raise Misfit("22007", "the time has no zone")
            if match:
                return f"{_checked(match)} {timezone}"
            if timezone is not None and _DATE.fullmatch(value):
                _require_day(value)
                return f"{value} {timezone}"
        raise Misfit("22007", "expected an ISO 8601 time such as 2026-11-21T08:15:00Z, got something else")

    return convert


def _checked(match: re.Match[str]) -> str:
    day, hour, minute, second, fraction, _, zone_hour, zone_minute = match.groups(default="")
    _require_day(day)
    has_more = bool(fraction.strip("0"))
    is_end_of_day = (hour, minute, second or "00", has_more) == ("24", "00", "00", False)
    is_leap_second = second == "60" and not has_more
    if (hour > "23" and not is_end_of_day) or minute > "59" or (second > "59" and not is_leap_second):
        raise Misfit("22008", "the time of day does not exist")
    if zone_hour > "15" or zone_minute > "59":
        raise Misfit("22009", "the zone is 16 hours or more from UTC, or has 60 minutes or more")
    text = match.string
    if len(fraction) > _FRACTION_DIGITS:
        return text[: match.start(5) + _FRACTION_DIGITS] + text[match.end(5) :]
    return text


def _require_day(text: str) -> None:
    try:
        date.fromisoformat(text)
    except ValueError:
        raise Misfit("22008", "the day does not exist in the calendar") from None


def _of_formats(column: Column, iso: Callable[[Any], str]) -> Callable[[Any], str]:
    """Return what reads ISO 8601, else the first of the formats that fits."""
    told = f"expected ISO 8601 or one of {', '.join(column.formats)}, got something else"

    @lru_cache(_REMEMBERED, typed=True)
    def read(value: str | int | Decimal) -> str | None:
        for form in column.formats:
            found = _since_epoch(value, _EPOCHS[form]) if form in _EPOCHS else _written(value, form)
            if found is not None:
                return _sent(found, column)
        return None

    def convert(value: Any) -> str:
        try:
            return iso(value)
        except Misfit as misfit:
            # Longer ones are no times, and not to be remembered.
            is_read = type(value) in {str, int, Decimal} and (type(value) is not str or len(value) < 100)
            text = read(value) if is_read else None
            if text is None:
                raise misfit if misfit.sqlstate == "22008" else Misfit("22007", told) from None
            return text

    return convert


def _since_epoch(value: str | int | Decimal, microseconds: int) -> datetime | None:
    """Return the instant that a number tells, in UTC; None where there is none."""
    if isinstance(value, str):
        if not _NUMBER.fullmatch(value.strip()):
            return None
        value = Decimal(value.strip())
    if isinstance(value, Decimal) and value and value.adjusted() > _LARGEST_EXPONENT:
        return None
    try:
        count = int((Decimal(value) * microseconds).to_integral_value(ROUND_HALF_EVEN))
        return _EPOCH + timedelta(microseconds=count)
    except (ArithmeticError, OverflowError):
        return None


def _written(value: str | int | Decimal, form: str) -> datetime | None:
    if isinstance(value, Decimal):
        return None
    try:
        return datetime.strptime(str(value), form)  # noqa: DTZ007 # the zone is the column's
    except ValueError:
        return None


def _sent(found: datetime, column: Column) -> str:
    if column.type == "date":
        return found.date().isoformat()
    if column.type == "timestamp":
        return found.replace(tzinfo=None).isoformat()
    return found.isoformat() if found.tzinfo else f"{found.isoformat()} {column.timezone}"
