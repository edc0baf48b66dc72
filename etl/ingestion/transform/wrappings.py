"""Values in another writing: extended JSON of databases, JSON in a text, numbers and words of a country. Pure.

`unwrapped` is a part of the way to a value; the others change a value before its conversion.
"""

import re
from base64 import b64decode
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from decimal import Decimal, InvalidOperation
from typing import Any, Final
from uuid import UUID

from etl.datasets import Column
from etl.ingestion.constants import NULL_TEXT
from etl.ingestion.framing import partial
from etl.ingestion.framing.partial import Undecoded
from etl.ingestion.transform.rules import Convert
from etl.ingestion.values import Misfit

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_NUMBER = re.compile(r"[+-]?[0-9]{1,40}(\.[0-9]{1,40})?([eE][+-]?[0-9]{1,4})?")
_UUID_SUBTYPE = "04"

# Between groups of three digits: one sign throughout, never the decimal one.
_WHOLE = r"([+-]?)([0-9]{1,3}(?:([%s' \u00a0\u2009\u202f\u2019])[0-9]{3})(?:\3[0-9]{3})*|[0-9]+)"
_DECIMALS: Final = {
    ",": re.compile(_WHOLE % "." + r"(?:,([0-9]+))?"),
    ".": re.compile(_WHOLE % "," + r"(?:\.([0-9]+))?"),
}

_decode = partial.decoder().decode


_LONGEST_WHOLE = 40
"""Digits."""


def rewriting(column: Column, convert: Convert) -> Convert:
    """Return the conversion of a column whose values are rewritten before."""
    if column.decimal:
        convert = _with_decimal(convert, _DECIMALS[column.decimal], column.decimal)
    if column.true or column.false:
        convert = _with_words(convert, column)
    if column.json:
        convert = _of_json(convert, column)
    return convert


def _with_decimal(convert: Convert, written: re.Pattern[str], sign: str) -> Convert:
    def convert_number(value: Any) -> str:
        if not isinstance(value, str):
            return convert(value)
        match = written.fullmatch(value)
        if match is None:
            raise Misfit("22P02", f"expected a number whose decimals begin with {sign!r}, got other text")
        minus, whole, separator, fraction = match.groups()
        digits = whole.replace(separator, "") if separator else whole
        return convert(f"{minus.removeprefix('+')}{digits}{f'.{fraction}' if fraction else ''}")

    return convert_number


def _with_words(convert: Convert, column: Column) -> Convert:
    words = {(type(word), word): flag for flag, own in ((True, column.true), (False, column.false)) for word in own}

    def convert_word(value: Any) -> str:
        if isinstance(value, Decimal) and _is_short(value) and value == value.to_integral_value():
            value = int(value)
        kind = type(value)
        return convert(words.get((kind, value), value) if kind in {str, int, bool} else value)

    return convert_word


def _of_json(convert: Convert, column: Column) -> Convert:
    def convert_text(value: Any) -> str:
        if isinstance(value, str):
            try:
                value = _decode(value)
            except (ValueError, RecursionError):
                raise Misfit("22P02", "the text is not JSON") from None
            if value is None and column.required:
                raise Misfit("23502", "expected a value, got none")
        return NULL_TEXT if value is None else convert(value)

    return convert_text


def unwrapped(name: str) -> Callable[[Any], Any]:
    """Return the function that takes a value out of the extended JSON of a database."""
    return _of_mongo if name == "mongo" else _of_dynamodb


def _of_mongo(value: Any) -> Any:
    value = value.decoded() if isinstance(value, Undecoded) else value
    if isinstance(value, list):
        return [_of_mongo(element) for element in value]
    if not isinstance(value, dict):
        return value
    names = frozenset(name for name in value if isinstance(name, str))
    if names in _PAIRS_OF_MONGO:
        return _PAIRS_OF_MONGO[names](value)
    if len(names) == 1 == len(value):
        [(name, inner)] = value.items()
        if name in _OF_MONGO:
            return _OF_MONGO[name](inner)
    return {name: _of_mongo(inner) for name, inner in value.items()}


def _number(value: Any) -> Any:
    if isinstance(value, str) and _NUMBER.fullmatch(value):
        return int(value) if value.lstrip("+-").isdigit() and len(value) < _LONGEST_WHOLE else _decimal(value)
    return value


def _is_short(value: int | Decimal) -> bool:
    """Return whether a number has so few digits before its point that an integer of them takes no time or memory."""
    return not isinstance(value, Decimal) or (value.is_finite() and value.adjusted() < _LONGEST_WHOLE)


def _decimal(value: Any) -> Any:
    try:
        return Decimal(value) if isinstance(value, str) and _NUMBER.fullmatch(value) else value
    except InvalidOperation:
        return value


def _instant(value: Any) -> Any:
    """Return the time of a $date: text as it is, else milliseconds since 1970 as ISO 8601."""
    value = _of_mongo(value)
    if not isinstance(value, int | Decimal) or isinstance(value, bool) or not _is_short(value):
        return value
    try:
        moment = _EPOCH + timedelta(milliseconds=int(value))
    except OverflowError:
        return value
    return moment.isoformat().replace("+00:00", "Z")


def _binary(value: Any) -> Any:
    """Return binary data as base64, and the UUID that such data of subtype 4 is, as the text of a UUID."""
    if not isinstance(value, dict):
        return value
    text, subtype = value.get("base64"), value.get("subType")
    if str(subtype).rjust(2, "0") != _UUID_SUBTYPE or not isinstance(text, str):
        return text
    try:
        return str(UUID(bytes=b64decode(text, validate=True)))
    except ValueError:
        return text


def _regular_expression(value: Any) -> Any:
    if isinstance(value, dict) and isinstance(value.get("pattern"), str) and isinstance(value.get("options"), str):
        return f"/{value['pattern']}/{value['options']}"
    return value


def _timestamp(value: Any) -> Any:
    seconds = _of_mongo(value.get("t")) if isinstance(value, dict) else None
    return _instant(seconds * 1000) if isinstance(seconds, int) else value


_OF_MONGO: Final[Mapping[str, Callable[[Any], Any]]] = {
    "$oid": lambda value: value,
    "$date": _instant,
    "$numberInt": _number,
    "$numberLong": _number,
    "$numberDouble": _number,
    "$numberDecimal": _decimal,
    "$uuid": lambda value: value,
    "$symbol": lambda value: value,
    "$timestamp": _timestamp,
    "$undefined": lambda value: None,
    "$binary": _binary,
    "$code": lambda value: value,
    "$regularExpression": _regular_expression,
    "$dbPointer": _of_mongo,
}
"""The readers of the extended JSON of MongoDB, canonical and relaxed, by the name of its only member."""

_PAIRS_OF_MONGO: Final[Mapping[frozenset[str], Callable[[Any], Any]]] = {
    frozenset({"$binary", "$type"}): lambda value: _binary({"base64": value["$binary"], "subType": value["$type"]}),
    frozenset({"$regex", "$options"}): lambda value: _regular_expression(
        {"pattern": value["$regex"], "options": value["$options"]}
    ),
}
"""The same of values with two members, as older versions write them."""


def _of_dynamodb(value: Any) -> Any:
    value = value.decoded() if isinstance(value, Undecoded) else value
    if not isinstance(value, dict) or len(value) != 1:
        return value
    [(kind, inner)] = value.items()
    inner = inner.decoded() if isinstance(inner, Undecoded) else inner
    expected, read = _OF_DYNAMODB.get(kind, (object, lambda _: value))
    return read(inner) if isinstance(inner, expected) else value


_OF_DYNAMODB: Final[Mapping[str, tuple[type, Callable[[Any], Any]]]] = {
    "S": (str, lambda text: text),
    "B": (str, lambda text: text),
    "N": (str, _number),
    "BOOL": (bool, lambda flag: flag),
    "NULL": (bool, lambda _: None),
    "SS": (list, lambda texts: texts),
    "BS": (list, lambda texts: texts),
    "NS": (list, lambda texts: list(map(_number, texts))),
    "L": (list, lambda elements: list(map(_of_dynamodb, elements))),
    "M": (dict, lambda members: {name: _of_dynamodb(inner) for name, inner in members.items()}),
}
"""The readers of the JSON of DynamoDB, by the name of its only member, with the type of the member's value."""
