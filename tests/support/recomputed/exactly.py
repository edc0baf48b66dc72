"""Exact fractions, rounded as the comments of the aggregates say, and texts as they are compared."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from math import floor, isqrt
from typing import Any, TypeVar

Row = dict[str, Any]


Facts = Mapping[str, Sequence[Row]]


K = TypeVar("K")


NONE = "(none)"


BLANKS = "".join(
    map(chr, (*range(9, 14), 32, 0x85, 0xA0, 0x1680, *range(0x2000, 0x200C), 0x2028, 0x2029, 0x202F, 0x205F))
)

BLANKS += "\u2060\u3000\ufeff"


def rounded(value: Fraction, places: int) -> Fraction:
    """Round half away from zero."""
    scaled = abs(value) * 10**places
    whole = floor(scaled + Fraction(1, 2))
    return Fraction(whole if value >= 0 else -whole, 10**places)


def hours(first: datetime, last: datetime) -> Fraction:
    """Return the hours between two instants, rounded to 6 places."""
    return rounded(Fraction((last - first) // timedelta(microseconds=1), 3_600_000_000), 6)


def ratio(part: Any, whole: Any, places: int) -> Fraction | None:
    """Return a ratio, rounded; None where the whole is 0."""
    return rounded(Fraction(part) / Fraction(whole), places) if whole else None


def percentile(values: Sequence[Fraction], part: Fraction) -> Fraction | None:
    """Return a percentile by interpolation, rounded to 3 places; None for fewer than 20 values."""
    if len(values) < 20:
        return None
    ordered = sorted(values)
    place = part * (len(ordered) - 1)
    below = floor(place)
    above = min(below + 1, len(ordered) - 1)
    return rounded(ordered[below] + (ordered[above] - ordered[below]) * (place - below), 3)


def deviation(values: Sequence[Fraction]) -> Fraction | None:
    """Return the sample standard deviation, rounded to 3 places; None for fewer than two values."""
    if len(values) < 2:
        return None
    mean = sum(values, Fraction(0)) / len(values)
    variance = sum(((value - mean) ** 2 for value in values), Fraction(0)) / (len(values) - 1)
    return Fraction((isqrt(floor(4 * variance * 10**6)) + 1) // 2, 1000)


def day_of(instant: datetime) -> date:
    """Return the UTC day of an instant."""
    return instant.astimezone(UTC).date()


def month_of(instant: datetime) -> date:
    """Return the first day of the UTC month of an instant."""
    return day_of(instant).replace(day=1)


def quarter_of(instant: datetime) -> date:
    """Return the first day of the UTC quarter of an instant."""
    day = day_of(instant)
    return date(day.year, (day.month - 1) // 3 * 3 + 1, 1)


def is_blank(text: str | None) -> bool:
    """Return whether a text is missing or has only blanks."""
    return text is None or not text.strip(BLANKS)


def known_text(text: str | None) -> str | None:
    """Return a text; None where it is blank."""
    return None if is_blank(text) else text


def key_of(name: str | None) -> str:
    """Return a name as the key of an aggregate."""
    if name is None or is_blank(name):
        return NONE
    return f'"{name}"' if name.startswith((NONE, '"')) else name


def code_of(code: str | None) -> str:
    """Return a code in capitals without outer blanks; (none) where there is none."""
    return NONE if code is None or is_blank(code) else code.strip(BLANKS).upper()


def total(rows: Iterable[Row], name: str) -> Fraction:
    """Add up the known values of a column."""
    return sum((Fraction(row[name]) for row in rows if row[name] is not None), Fraction(0))


def known(rows: Sequence[Row], name: str) -> int:
    """Count the known values of a column."""
    return sum(row[name] is not None for row in rows)


def groups(rows: Iterable[Row], key: Callable[[Row], K]) -> dict[K, list[Row]]:
    """Divide rows by a key."""
    result: dict[K, list[Row]] = defaultdict(list)
    for row in rows:
        result[key(row)].append(row)
    return result


def exact(value: Any) -> Any:
    """Return a value of the database as one that is compared: numbers as fractions."""
    return Fraction(value) if isinstance(value, int | Decimal) and not isinstance(value, bool) else value
