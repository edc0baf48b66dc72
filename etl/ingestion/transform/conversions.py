"""One JSON value -> the COPY text of one column, or a misfit. Pure.

Values come as the decoders give them: str, bool, int, Decimal, dict, list; None never comes here. Each converter
looks first for what nearly every value is, and takes its time with the rest.
"""

import math
import re
from collections.abc import Callable, Iterable
from decimal import Decimal, InvalidOperation
from typing import Any

import msgspec

from etl.datasets import TIMES, Column
from etl.ingestion.transform.times import moment
from etl.ingestion.values import Misfit

_NUMERIC_DIGITS_BEFORE = 131_072
_NUMERIC_DIGITS_AFTER = 16_383
_NUMERIC_EXPONENT = 1 << 29
"""PostgreSQL reads an exponent into an integer, even that of a zero."""

_SPACE = " \t\n\r\v\f"
"""What PostgreSQL passes over around a number."""

_INTEGERS = {
    "smallint": (-(1 << 15), (1 << 15) - 1),
    "integer": (-(1 << 31), (1 << 31) - 1),
    "bigint": (-(1 << 63), (1 << 63) - 1),
}

_DECIMAL = re.compile(r"[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]+)?")

_ESCAPED = re.compile(r"[\\\t\n\r]")
_ESCAPES = {"\\": "\\\\", "\t": "\\t", "\n": "\\n", "\r": "\\r"}
_UNSTORABLE = re.compile("[\x00\ud800-\udfff]")
_JSON_NUL = re.compile(r"(?<!\\)(?:\\\\)*\\u0000")

_encode_json = msgspec.json.Encoder(decimal_format="number").encode

Convert = Callable[[Any], str]


def converter(column: Column) -> Convert:
    """Return the function from a JSON value to the COPY text of the column; it raises Misfit."""
    if column.type in _INTEGERS:
        return _integer(column, *_INTEGERS[column.type])
    if column.type == "text":
        return _text(column)
    if column.type == "numeric":
        return _numeric(column)
    if column.type == "double":
        return _double(column)
    if column.type in TIMES:
        return moment(column)
    return {"boolean": _boolean, "jsonb": _jsonb, "text[]": _array}[column.type]


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


def is_storable(text: str) -> bool:
    """Tell whether PostgreSQL can hold a text: no NUL, no half of a surrogate pair."""
    return _UNSTORABLE.search(text) is None


def _escape(text: str) -> str:
    """Return text as COPY's text format wants it."""
    return _ESCAPED.sub(lambda match: _ESCAPES[match.group()], text)


def _text(column: Column) -> Convert:
    max_length = column.max_length
    one_of = frozenset(column.one_of)

    def convert(value: Any) -> str:
        text: str = value if type(value) is str else as_text(value)
        if max_length is not None and len(text) > max_length:
            raise Misfit("23514", f"expected at most {max_length} characters, got {len(text)}")
        if one_of and text not in one_of:
            raise Misfit("23514", f"expected one of {', '.join(column.one_of)}, got something else")
        if text.isprintable() and "\\" not in text:
            return text
        if not is_storable(text):
            what = "a NUL character" if "\x00" in text else "half a surrogate pair"
            raise Misfit("22021", f"{what} cannot be stored in text")
        return _escape(text)

    return convert


def _number(value: Any, wanted: str) -> Decimal:
    """Return a JSON number, or a string that holds a decimal number, exactly."""
    if isinstance(value, Decimal):
        return value
    if isinstance(value, int) and not isinstance(value, bool):
        return Decimal(value)
    if isinstance(value, str):
        text = value.strip(_SPACE)
        if not _DECIMAL.fullmatch(text):
            raise Misfit("22P02", f"expected {wanted}, got text that is none")
        try:
            return Decimal(text)
        except InvalidOperation:
            raise Misfit("22003", "the number is out of range") from None
    kinds = {bool: "true or false", dict: "an object", list: "an array"}
    raise Misfit("22P02", f"expected {wanted}, got {kinds.get(type(value), 'another value')}")


def _integer(column: Column, lowest: int, highest: int) -> Convert:
    check = _bounds(column, _int_where_whole)

    def convert(value: Any) -> str:
        number = value if type(value) is int else _whole(_number(value, "a whole number"))
        if not lowest <= number <= highest:
            raise Misfit("22003", f"the number is out of range for {column.type}")
        if check:
            check(number)
        return str(number)

    return convert


def _int_where_whole(bound: str) -> int | Decimal:
    """Return a bound as the type that an int is compared with soonest."""
    number = Decimal(bound)
    return int(number) if number == number.to_integral_value() else number


def _whole(number: Decimal) -> int:
    if number and number.adjusted() > 20:
        raise Misfit("22003", "the number is out of range")
    if number != number.to_integral_value():
        raise Misfit("22P02", "expected a whole number, got a fraction")
    return int(number)


def _numeric(column: Column) -> Convert:
    check = _bounds(column, Decimal)

    def convert(value: Any) -> str:
        number = value if type(value) is Decimal or type(value) is int else _number(value, "a number")
        text = str(number)
        if "E" in text or len(text) > _NUMERIC_DIGITS_AFTER:
            _require_numeric_range(Decimal(number))
        if check:
            check(number)
        return text

    return convert


def _require_numeric_range(number: Decimal) -> None:
    exponent = int(number.as_tuple().exponent)
    is_too_large = number and number.adjusted() >= _NUMERIC_DIGITS_BEFORE
    if is_too_large or not -_NUMERIC_DIGITS_AFTER <= exponent < _NUMERIC_EXPONENT:
        raise Misfit("22003", "the number has more digits than numeric can hold")


def _double(column: Column) -> Convert:
    check = _bounds(column, float)

    def convert(value: Any) -> str:
        number = _number(value, "a number")
        nearest = float(number)
        if math.isinf(nearest) or (nearest == 0 and number):
            raise Misfit("22003", "the number is out of range for double")
        if check:
            check(nearest)
        return repr(nearest)

    return convert


def _bounds(column: Column, exact: Callable[[str], Any]) -> Callable[[Any], None] | None:
    """Return the check of min, above and max, or None; `exact` makes of a bound what the column compares with."""
    least, above, most = (
        None if bound is None else exact(str(bound)) for bound in (column.min, column.above, column.max)
    )
    if least is None and above is None and most is None:
        return None

    def check(number: Any) -> None:
        if least is not None and number < least:
            raise Misfit("23514", f"expected {column.min} or more")
        if above is not None and number <= above:
            raise Misfit("23514", f"expected more than {column.above}")
        if most is not None and number > most:
            raise Misfit("23514", f"expected {column.max} or less")

    return check


def _boolean(value: Any) -> str:
    if value is True or value == "true":
        return "t"
    if value is False or value == "false":
        return "f"
    raise Misfit("22P02", "expected true or false, got something else")


def _array(value: Any) -> str:
    if not isinstance(value, list):
        raise Misfit(
            "22P02", f"expected an array of texts, got {'an object' if isinstance(value, dict) else 'a scalar'}"
        )
    return _escape(array_text([None if element is None else as_text(element) for element in value]))


def array_text(elements: Iterable[str | None]) -> str:
    """Return texts as PostgreSQL writes an array of them.

    Raises Misfit when one holds what no text can.
    """
    texts = list(elements)
    if not all(text is None or is_storable(text) for text in texts):
        raise Misfit("22021", "a NUL character or half a surrogate pair cannot be stored in text")
    quoted = ("NULL" if text is None else '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"' for text in texts)
    return "{" + ",".join(quoted) + "}"


def _jsonb(value: Any) -> str:
    return _escape(_encode(value))


def _encode(value: Any) -> str:
    try:
        text = _encode_json(value).decode()
    except UnicodeEncodeError:
        raise Misfit("22P02", "half a surrogate pair cannot be stored in JSON") from None
    if "\\u0000" in text and _JSON_NUL.search(text):
        raise Misfit("22P05", "a NUL character cannot be stored in JSON")
    # An exponent is always written with its sign; without one, a number too large makes the text long.
    if "E+" in text or "E-" in text or len(text) > _NUMERIC_DIGITS_AFTER:
        _require_numbers_in_range(value)
    return text


def _require_numbers_in_range(value: Any) -> None:
    if isinstance(value, Decimal):
        _require_numeric_range(value)
    elif isinstance(value, dict | list):
        for each in value.values() if isinstance(value, dict) else value:
            _require_numbers_in_range(each)
