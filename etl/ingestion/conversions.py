"""One JSON value -> the COPY text of one column, or a misfit. Pure.

Values come as the decoders give them: str, bool, int, Decimal, dict, list; None never comes here.
"""

import re
from collections.abc import Callable
from datetime import date, datetime
from decimal import Decimal
from typing import Any

import msgspec

from etl.datasets import Column

# Exponents beyond these cannot be a number of PostgreSQL; writing their digits out would fill the memory.
_NUMERIC_DIGITS_BEFORE = 131_072
_NUMERIC_DIGITS_AFTER = 16_383

_SPACE = " \t\n\r\v\f"
"""What PostgreSQL passes over around a number."""

_INTEGERS = {
    "smallint": (-(1 << 15), (1 << 15) - 1),
    "integer": (-(1 << 31), (1 << 31) - 1),
    "bigint": (-(1 << 63), (1 << 63) - 1),
}

_PLAIN_INTEGER = re.compile(r"[+-]?[0-9]+")
_DECIMAL = re.compile(r"[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]{1,9})?")
_DATE = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")
_TIMESTAMP = re.compile(
    r"([0-9]{4}-[0-9]{2}-[0-9]{2})[T ]([0-9]{2}:[0-9]{2}(?::[0-9]{2})?)(?:\.[0-9]+)?"
    r" ?(Z|[+-](?:0[0-9]|1[0-5])(?::?[0-5][0-9])?)?"
)
_ESCAPED = re.compile(r"[\\\t\n\r]")
_ESCAPES = {"\\": "\\\\", "\t": "\\t", "\n": "\\n", "\r": "\\r"}
_UNSTORABLE = re.compile("[\x00\ud800-\udfff]")
_JSON_NUL = re.compile(r"(?<!\\)(?:\\\\)*\\u0000")

_encode_json = msgspec.json.Encoder(decimal_format="number").encode


class Misfit(Exception):
    """The value does not fit its column: the SQLSTATE PostgreSQL would give and a sentence without the value.

    `is_violation` tells a check or a missing value from a value of the wrong type or form.
    """

    def __init__(self, sqlstate: str, reason: str) -> None:
        super().__init__(reason)
        self.sqlstate = sqlstate
        self.reason = reason

    @property
    def is_violation(self) -> bool:
        """True for the class of integrity violations."""
        return self.sqlstate.startswith("23")


def converter(column: Column) -> Callable[[Any], str]:
    """Return the function from a JSON value to the COPY text of the column; it raises Misfit."""
    if column.type in _INTEGERS:
        return _integer(column, *_INTEGERS[column.type])
    if column.type == "text":
        return _text(column)
    return {
        "numeric": lambda value: _checked_number(column, _numeric(value)),
        "double": lambda value: _checked_number(column, _double(value)),
        "boolean": _boolean,
        "date": _date,
        "timestamptz": _timestamptz,
        "jsonb": _jsonb,
    }[column.type]


def as_text(value: Any) -> str:
    """Return a scalar as text: numbers in plain digits as written, true and false as those words.

    Raises Misfit for an object, an array and a number whose digits would not end.
    """
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    if isinstance(value, Decimal):
        _require_numeric_range(value)
        return f"{value:f}"
    raise Misfit("22P02", f"expected text, got an {'object' if isinstance(value, dict) else 'array'}")


def json_text(value: Any) -> str:
    """Return any value as text: a scalar as `as_text`, an object or array as JSON.

    Raises Misfit when it holds what no text can.
    """
    if isinstance(value, dict | list):
        return _encode(value)
    return as_text(value)


def _escape(text: str) -> str:
    """Return text as COPY's text format wants it."""
    if _ESCAPED.search(text) is None:
        return text
    return _ESCAPED.sub(lambda match: _ESCAPES[match.group()], text)


def _text(column: Column) -> Callable[[Any], str]:
    max_length = column.max_length
    one_of = frozenset(column.one_of)

    def convert(value: Any) -> str:
        text = value if type(value) is str else as_text(value)
        if max_length is not None and len(text) > max_length:
            raise Misfit("23514", f"expected at most {max_length} characters, got {len(text)}")
        if not text.isalnum():
            bad = _UNSTORABLE.search(text)
            if bad is not None:
                raise _unstorable(bad.group())
        if one_of and text not in one_of:
            raise Misfit("23514", f"expected one of {', '.join(column.one_of)}, got something else")
        return _escape(text)

    return convert


def _unstorable(character: str) -> Misfit:
    if character == "\x00":
        return Misfit("22021", "a NUL character cannot be stored in text")
    return Misfit("22P05", "half a surrogate pair is not a character")


def _integer(column: Column, lowest: int, highest: int) -> Callable[[Any], str]:
    has_bounds = _has_bounds(column)

    def convert(value: Any) -> str:
        number = value if type(value) is int else _whole(value)
        if not lowest <= number <= highest:
            raise Misfit("22003", f"the number is out of range for {column.type}")
        if has_bounds:
            _check_bounds(column, Decimal(number))
        return str(number)

    return convert


def _whole(value: Any) -> int:
    if isinstance(value, str):
        text = value.strip(_SPACE)
        if _PLAIN_INTEGER.fullmatch(text) and len(text) < 30:
            return int(text)
    number = _number(value, "a whole number")
    if number.adjusted() > 20:
        raise Misfit("22003", "the number is out of range")
    if number != number.to_integral_value():
        raise Misfit("22P02", "expected a whole number, got a fraction")
    return int(number)


def _number(value: Any, wanted: str) -> Decimal:
    """Return a JSON number, or a string that holds a decimal number, exactly."""
    if isinstance(value, Decimal):
        return value
    if isinstance(value, str):
        text = value.strip(_SPACE)
        if _DECIMAL.fullmatch(text):
            return Decimal(text)
        raise Misfit("22P02", f"expected {wanted}, got text that is none")
    if isinstance(value, int) and not isinstance(value, bool):
        return Decimal(value)
    kinds = {bool: "true or false", dict: "an object", list: "an array"}
    raise Misfit("22P02", f"expected {wanted}, got {kinds.get(type(value), 'another value')}")


def _numeric(value: Any) -> Decimal:
    number = _number(value, "a number")
    _require_numeric_range(number)
    return number


def _require_numeric_range(number: Decimal) -> None:
    exponent = number.as_tuple().exponent
    if number.adjusted() >= _NUMERIC_DIGITS_BEFORE or int(exponent) < -_NUMERIC_DIGITS_AFTER:
        raise Misfit("22003", "the number has more digits than numeric can hold")


def _double(value: Any) -> Decimal:
    number = _number(value, "a number")
    as_double = float(number)
    if as_double in (float("inf"), float("-inf")) or (as_double == 0 and number != 0):
        raise Misfit("22003", "the number is out of range for double")
    return number


def _has_bounds(column: Column) -> bool:
    return any(bound is not None for bound in (column.min, column.above, column.max))


def _checked_number(column: Column, number: Decimal) -> str:
    if _has_bounds(column):
        _check_bounds(column, number)
    return str(number)


def _check_bounds(column: Column, number: Decimal) -> None:
    if column.min is not None and number < Decimal(str(column.min)):
        raise Misfit("23514", f"expected {column.min} or more")
    if column.above is not None and number <= Decimal(str(column.above)):
        raise Misfit("23514", f"expected more than {column.above}")
    if column.max is not None and number > Decimal(str(column.max)):
        raise Misfit("23514", f"expected {column.max} or less")


def _boolean(value: Any) -> str:
    if value is True or value == "true":
        return "t"
    if value is False or value == "false":
        return "f"
    raise Misfit("22P02", "expected true or false, got something else")


def _date(value: Any) -> str:
    if not isinstance(value, str) or not _DATE.fullmatch(value):
        raise Misfit("22007", "expected a date as YYYY-MM-DD, got something else")
    _require_day(value)
    return value


def _timestamptz(value: Any) -> str:
    match = _TIMESTAMP.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        raise Misfit("22007", "expected an ISO 8601 time such as 2026-11-21T08:15:00Z, got something else")
    day, clock, zone = match.groups()
    if zone is None:
        raise Misfit("22007", "the time has no zone")
    try:
        datetime.fromisoformat(f"{day}T{clock}")
    except ValueError:
        _require_day(day)
        # What ISO 8601 and PostgreSQL know and Python does not: the end of a day and a leap second.
        is_end_of_day = re.fullmatch(r"24:00(:00)?(\.0+)?", value[11:].split(zone)[0].strip())
        is_leap_second = re.fullmatch(r"([01][0-9]|2[0-3]):[0-5][0-9]:60", clock)
        if not is_end_of_day and not is_leap_second:
            raise Misfit("22008", "the time of day does not exist") from None
    return str(value)


def _require_day(text: str) -> None:
    try:
        date.fromisoformat(text)
    except ValueError:
        raise Misfit("22008", "the day does not exist in the calendar") from None


def _jsonb(value: Any) -> str:
    return _escape(_encode(value))


def _encode(value: Any) -> str:
    try:
        text = _encode_json(value).decode()
    except UnicodeEncodeError:
        raise _unstorable("\ud800") from None
    if "\\u0000" in text and _JSON_NUL.search(text):
        raise Misfit("22P05", "a NUL character cannot be stored in JSON text")
    return text
