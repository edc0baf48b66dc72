"""Values as people read them. Pure.

A text of the data may contain control characters, which a terminal would obey: they are shown as codes.
"""

import datetime as dt
import re
from collections.abc import Iterable, Sequence
from decimal import Decimal
from typing import Any

DECIMALS = 4  # shown at most; the files hold every digit

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")


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
