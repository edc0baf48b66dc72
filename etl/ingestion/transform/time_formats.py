"""Times in other formats than ISO 8601: of an epoch, serial days of Excel, of ASP.NET, or of strptime. Pure."""

import re
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from decimal import ROUND_HALF_EVEN, Decimal
from functools import lru_cache
from typing import Any

from etl.ingestion.transform.reformatting import EPOCHS
from etl.ingestion.transform.rules import Convert
from etl.ingestion.values import Misfit

_NUMBER = re.compile(r"[+-]?[0-9]{1,20}(\.[0-9]{1,20})?")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_EXCEL_BEGIN = datetime(1899, 12, 30)  # noqa: DTZ001 # the zone is the column's
_EXCEL_FIRST = 61
"""Serial days count a February 29 of 1900; the days before it mean others in each program."""
_DAY_MILLISECONDS = 86_400_000
_ASPNET = re.compile(r"/Date\((-?[0-9]{1,18})(?:[+-][0-9]{4})?\)/")
_LARGEST_EXPONENT = 20
_REMEMBERED = 10_000
_LONGEST_REMEMBERED = 100
"""A longer text is no time in any format."""


def with_formats(formats: Sequence[str], iso: Convert, write: Callable[[datetime], str]) -> Convert:
    """Return the conversion by `iso`, else by the first of the formats that fits, whose moments `write` writes."""
    expected = f"expected ISO 8601 or one of {', '.join(formats)}, got something else"

    @lru_cache(_REMEMBERED, typed=True)
    def read(value: str | int | Decimal) -> str | None:
        for form in formats:
            moment = _read(value, form)
            if moment is not None:
                return write(moment)
        return None

    def convert(value: Any) -> str:
        try:
            return iso(value)
        except Misfit as misfit:
            is_text = type(value) is str and len(value) < _LONGEST_REMEMBERED
            text = read(value) if is_text or type(value) in {int, Decimal} else None
            if text is None:
                raise misfit if misfit.sqlstate == "22008" else Misfit("22007", expected) from None
            return text

    return convert


def _read(value: str | int | Decimal, form: str) -> datetime | None:
    if form in EPOCHS:
        return _since_epoch(value, EPOCHS[form])
    if form == "excel":
        return _of_excel(value)
    if form == "aspnet":
        match = _ASPNET.fullmatch(value) if isinstance(value, str) else None
        return None if match is None else _since_epoch(match[1], EPOCHS["epoch_ms"])
    return _parsed(value, form)


def _of_excel(value: str | int | Decimal) -> datetime | None:
    """Return the local time of a serial day, to the millisecond; None where it means none."""
    number = _number(value)
    if number is None or number < _EXCEL_FIRST:
        return None
    return _after(_EXCEL_BEGIN, number * _DAY_MILLISECONDS, timedelta(milliseconds=1))


def _since_epoch(value: str | int | Decimal, microseconds: int) -> datetime | None:
    """Return the instant that a number of seconds or milliseconds means, in UTC; None where it means none."""
    number = _number(value)
    return None if number is None else _after(_EPOCH, number * microseconds, timedelta(microseconds=1))


def _number(value: str | int | Decimal) -> Decimal | None:
    """Return a number, or the one that a text holds; None where it is too large for any time."""
    if isinstance(value, str):
        value = value.strip()
        if not _NUMBER.fullmatch(value):
            return None
    number = Decimal(value)
    return None if number and number.adjusted() > _LARGEST_EXPONENT else number


def _after(begin: datetime, count: Decimal, unit: timedelta) -> datetime | None:
    """Return the time so many units after another, rounded half to even; None beyond the calendar."""
    try:
        return begin + int(count.to_integral_value(ROUND_HALF_EVEN)) * unit
    except (ArithmeticError, OverflowError):
        return None


def _parsed(value: str | int | Decimal, form: str) -> datetime | None:
    if isinstance(value, Decimal):
        return None
    try:
        return datetime.strptime(str(value), form)  # noqa: DTZ007 # the zone is the column's
    except ValueError:
        return None
