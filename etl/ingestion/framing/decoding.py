"""A piece -> records, in order. What cannot be decoded is a fault in its place, never an exception.

ijson decodes a piece of an array, or of records that follow one another. Lines, which may be no JSON, and what ijson
would alter are decoded record by record with Python's own decoder, which tells the record at fault and keeps the text
as it is.
"""

import io
import json
import re
from collections.abc import Iterator
from dataclasses import replace
from decimal import Decimal, InvalidOperation
from itertools import islice
from typing import Any

import ijson

from etl.ingestion.framing.boundaries import is_utf8, piece_spans
from etl.ingestion.values import KEY, Fault, Piece, Span

# An escaped backslash, two surrogates that are one character, or one that stands alone, of which ijson makes another.
_ESCAPE = re.compile(rb"\\(?:\\|u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|(?P<alone>u[dD][89a-fA-F]))")

_INTEGER_DIGITS = 4_300
"""Longer ones become Decimal: int() takes quadratic time, and ijson dies where Python limits it."""

_DIGITS = b"0123456789"

_FIRST = 10
_FIRST_BYTES = 1 << 16

_FARTHEST = 10**17
"""An exponent that no type of PostgreSQL holds, and that Decimal still does."""


def _integer(digits: str) -> int | Decimal:
    return int(digits) if len(digits.removeprefix("-")) <= _INTEGER_DIGITS else Decimal(digits)


def _decimal(text: str) -> Decimal:
    """Return a JSON number exactly; an exponent beyond Decimal's own becomes one that is out of range as well."""
    try:
        return Decimal(text)
    except InvalidOperation:
        digits, _, exponent = text.lower().partition("e")
        return Decimal(f"{digits}e{'-' if exponent.startswith('-') else ''}{_FARTHEST}")


def _refuse(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


_decode = json.JSONDecoder(parse_int=_integer, parse_float=_decimal, parse_constant=_refuse).decode


def decode(piece: Piece) -> Iterator[dict[str, Any] | Fault]:
    """Yield each record of the piece: integers as int, other numbers as Decimal with every digit."""
    done = 0
    if piece.shape in {"array", "values"} and _suits_ijson(piece.data):
        try:
            for record in _items(piece):
                yield record if isinstance(record, dict) else _no_object()
                done += 1
            return
        except (ijson.JSONError, InvalidOperation):
            pass  # The records before this one were given out; go on from here, one by one.
    for number, text in enumerate(texts(piece)):
        if number >= done:
            yield decode_one(text, is_keyed=piece.is_keyed)


def texts(piece: Piece) -> Iterator[bytes | Fault]:
    """Yield each record of the piece as it is written, or why it is none; a member as an object of its own."""
    for span in piece_spans(piece):
        yield text(piece, span)


def first(piece: Piece) -> Iterator[dict[str, Any] | Fault]:
    """Yield the first records of a piece, those within _FIRST_BYTES: what is new in an export is seen in them."""
    parts: list[bytes] = []
    while len(parts) < len(piece.parts) and sum(map(len, parts)) < _FIRST_BYTES:
        parts.append(piece.parts[len(parts)])  # Each ends with a record, or with what stands before the next.
    return map(decode_one, islice(texts(replace(piece, parts=tuple(parts))), _FIRST))


def text(piece: Piece, span: Span) -> bytes | Fault:
    """Return the record at a span of the piece as it is written, or why it is none."""
    return Fault(sqlstate="22P02", reason=span.fault) if span.fault else piece.text(span)


def _items(piece: Piece) -> Iterator[Any]:
    if piece.shape == "array":
        return iter(ijson.items(io.BytesIO(b"[" + piece.data + b"]"), "item"))
    return iter(ijson.items(io.BytesIO(piece.data), "", multiple_values=True))


def _suits_ijson(data: bytes) -> bool:
    if any(escape["alone"] for escape in _ESCAPE.finditer(data)):
        return False
    return not _has_long_integer(data) and is_utf8(data)


def _has_long_integer(data: bytes) -> bool:
    """Tell whether more digits follow one another than an integer may have; so many reach one of these places."""
    for at in range(_INTEGER_DIGITS, len(data), _INTEGER_DIGITS):
        if data[at] in _DIGITS:
            before = data[at - _INTEGER_DIGITS : at]
            behind = data[at : at + _INTEGER_DIGITS]
            digits = len(before) - len(before.rstrip(_DIGITS)) + len(behind) - len(behind.lstrip(_DIGITS))
            if digits > _INTEGER_DIGITS:
                return True
    return False


def decode_one(data: bytes | Fault, *, is_keyed: bool = False) -> dict[str, Any] | Fault:
    """Return the record that is the whole of these bytes, or why they are none.

    Keyed, it is the only member of an object, and holds its key under KEY.
    """
    if isinstance(data, Fault):
        return data
    try:
        record = _decode(data.decode("utf-8"))
    except UnicodeDecodeError as error:
        return Fault(sqlstate="22021", reason=f"invalid UTF-8 at byte {error.start} of the record")
    except RecursionError:
        return Fault(sqlstate="54001", reason="objects or arrays are nested too deep")
    except ValueError:
        return Fault(sqlstate="22P02", reason="not JSON")
    if is_keyed:
        return _keyed(record)
    return record if isinstance(record, dict) else _no_object()


def _keyed(record: Any) -> dict[str, Any] | Fault:
    if not isinstance(record, dict) or len(record) != 1:
        return Fault(sqlstate="22P02", reason="expected an object whose only member is the record with its key")
    [(key, value)] = record.items()
    return {**value, KEY: key} if isinstance(value, dict) else _no_object()


def _no_object() -> Fault:
    return Fault(sqlstate="22P02", reason="expected an object, got another JSON value")
