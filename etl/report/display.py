"""Values as people read them. Pure.

A text of the data may contain control characters, which a terminal would obey: they are shown as codes.
"""

import datetime as dt
import re
from collections.abc import Iterable, Sequence
from decimal import Decimal
from typing import Any, Literal

Kind = Literal["text", "count", "decimal", "money", "percent"]
"""How a value is written: as it is, without places, with one, with two, or a share from 0 to 1 in percent."""

DECIMALS = 4  # shown at most; the files hold every digit

UNKNOWN = "–"

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")

_PLACES = {"count": 0, "decimal": 1, "money": 2}


def plain(text: str) -> str:
    """Return a text with control characters, and characters that change the writing direction, as codes."""
    return _CONTROL.sub(lambda match: f"\\x{ord(match[0]):02x}", text)


def is_number(value: object) -> bool:
    """Return whether a value is shown as a number."""
    return isinstance(value, int | float | Decimal) and not isinstance(value, bool)


def texts(values: Iterable[Any]) -> list[str]:
    """Return the values of a column as text, numbers with the same decimals."""
    values = list(values)
    decimals = max((_decimals(value) for value in values), default=0)
    return [_text(value, decimals) for value in values]


def by_column(rows: Sequence[Sequence[Any]], count_columns: int) -> list[list[str]]:
    """Return the texts of the rows by column."""
    return [texts(row[place] for row in rows) for place in range(count_columns)]


def numeric_columns(rows: Sequence[Sequence[Any]], count_columns: int) -> list[bool]:
    """Return for each column whether it holds numbers only."""
    columns = [[row[place] for row in rows if row[place] is not None] for place in range(count_columns)]
    return [bool(column) and all(map(is_number, column)) for column in columns]


def shown(value: Any, kind: Kind = "text") -> str:
    """Return a value of a known kind as text. A missing one is a dash, never 0."""
    if value is None or value == "":
        return UNKNOWN
    if kind == "percent":
        return percent(float(value))
    if kind == "text":
        return _text(value, DECIMALS)
    return f"{value:,.{_PLACES[kind]}f}"


def percent(share: float) -> str:
    """Return a share from 0 to 1 in percent. Only what is all or nothing is written 100 or 0."""
    if not 0 < share < 1:
        return f"{100 * share:,.1f} %"
    return f"{min(99.9, max(0.1, 100 * share)):.1f} %"


def change(now: Any, before: Any) -> str:
    """Return by how much a figure differs from an earlier one: `5.2 % more`; empty where that says nothing."""
    if now is None or not before:
        return ""
    by = 100 * (float(now) / float(before) - 1)
    return "the same" if abs(by) < 0.05 else f"{abs(by):,.1f} % {'more' if by > 0 else 'less'} now"


def period(first: dt.date, grain: str) -> str:
    """Return the name of a day, of a week by its Monday, or of a month."""
    return f"{first:%Y-%m}" if grain == "month" else f"{first}"


def age(seconds: float) -> str:
    """Return an age as people say it: minutes, hours up to three days, then days."""
    hours = seconds / 3600
    number, unit = (hours * 60, "minute") if hours < 1 else (hours, "hour") if hours < 72 else (hours / 24, "day")
    if number < 1:
        return "less than a minute"
    return f"{int(number):,} {unit}{'' if int(number) == 1 else 's'}"


def _decimals(value: object) -> int:
    if isinstance(value, Decimal) and value.is_finite():
        exponent = value.as_tuple().exponent
        return min(DECIMALS, -exponent) if isinstance(exponent, int) and exponent < 0 else 0
    return 1 if isinstance(value, float) else 0


def _text(value: object, decimals: int) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float | Decimal):
        return f"{value:,.{decimals}f}"
    if isinstance(value, dt.datetime):
        return f"{value:%Y-%m-%d %H:%M:%S}"
    return plain(str(value))
