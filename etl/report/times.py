"""Dates and times that may be texts, as the server writes those that the calendar of Python lacks. Pure."""

import datetime as dt
import re
from collections.abc import Iterable

_DATE = re.compile(r"(\d{4,})-(\d\d)-(\d\d)")
_CLOCK = re.compile(r" (\d\d):(\d\d):(\d\d)(?:\.(\d+))?")
_EPOCH = dt.date(1970, 1, 1).toordinal()
_DAYS_OF_A_CYCLE = 146_097


def newest(values: Iterable[dt.datetime | str | None]) -> dt.datetime | str | None:
    """Return the newest of times that may be texts or missing; a text only where there is nothing else."""
    known = [value for value in values if value is not None]
    instants = [value for value in known if not isinstance(value, str)]
    return max(instants, default=known[0] if known else None)


def days(text: str) -> int | None:
    """Return the days of a date, or of the date of a time, from 1970-01-01; None for an infinite one."""
    match = _DATE.match(text)
    if match is None:
        return None
    year, month, day = (int(part) for part in match.groups())
    if text.endswith(" BC"):
        year = 1 - year
    # The Gregorian calendar repeats after 400 years; PostgreSQL uses it for all times.
    cycles, year_of_cycle = divmod(year - 1, 400)
    return dt.date(year_of_cycle + 1, month, day).toordinal() - _EPOCH + cycles * _DAYS_OF_A_CYCLE


def microseconds(text: str) -> int | None:
    """Return the microseconds of a time in UTC from 1970-01-01; None for an infinite one, or one beyond 64 bits."""
    date, clock = days(text), _CLOCK.search(text)
    if date is None or clock is None:
        return None
    hour, minute, second, fraction = clock.groups(default="0")
    seconds = ((date * 24 + int(hour)) * 60 + int(minute)) * 60 + int(second)
    value = seconds * 1_000_000 + int(fraction.ljust(6, "0"))
    return value if -(1 << 63) <= value < 1 << 63 else None
