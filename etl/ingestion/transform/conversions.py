"""Parts that the conversions of several types share: values as text, escapes. Pure: the checked path.

Values come as the decoders give them: str, bool, int, Decimal, dict, list, Undecoded; never None.
"""

from decimal import Decimal
from typing import Any

from etl.ingestion.framing.partial import Undecoded
from etl.ingestion.values import Misfit

MAX_FRACTION_DIGITS = 16_383
"""Digits of a numeric after the point."""

_MAX_WHOLE_DIGITS = 131_072
_MAX_EXPONENT = 1 << 29
"""PostgreSQL reads an exponent into an integer, even that of a zero."""

_ESCAPES = {"\\": "\\\\", "\t": "\\t", "\n": "\\n", "\r": "\\r"}


def as_text(value: Any) -> str:
    """Return a scalar as text: numbers in plain digits as written, true and false as those words.

    Raises Misfit for an object, an array and a number with more digits than PostgreSQL can hold.
    """
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    if isinstance(value, Decimal):
        require_numeric_range(value)
        return f"{value:f}"
    is_array = value.is_array if isinstance(value, Undecoded) else isinstance(value, list)
    raise Misfit("22P02", f"expected text, got an {'array' if is_array else 'object'}")


def is_storable(text: str) -> bool:
    """Return whether PostgreSQL can hold a text: no NUL, no half of a surrogate pair."""
    if "\0" in text:
        return False
    try:
        return text.isascii() or text.encode() is not None  # Faster than to search for half a pair.
    except UnicodeEncodeError:
        return False


def escape(text: str) -> str:
    """Return text as COPY's text format wants it; the same object if nothing is escaped."""
    for character, escaped in _ESCAPES.items():  # The backslash first: it begins the other escapes.
        if character in text:
            text = text.replace(character, escaped)
    return text


def require_numeric_range(number: Decimal) -> None:
    """Raise Misfit for a number with more digits than PostgreSQL's numeric can hold."""
    exponent = int(number.as_tuple().exponent)
    is_too_large = number and number.adjusted() >= _MAX_WHOLE_DIGITS
    if is_too_large or not -MAX_FRACTION_DIGITS <= exponent < _MAX_EXPONENT:
        raise Misfit("22003", "the number has more digits than numeric can hold")
