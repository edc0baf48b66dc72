"""A piece -> records, in order. A record that cannot be decoded is a fault in its place, never an exception.

ijson decodes a piece of an array, or of records that follow one another. Lines, which may be no JSON, and records that
ijson would alter are decoded one by one with Python's own decoder, which finds the faulty record and keeps the text
unchanged. So are records of many levels, for which ijson needs memory that grows with the square of the levels; their
deepest values stay text.
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

from etl.ingestion.constants import LAYER_LEVELS, MAX_NESTING
from etl.ingestion.framing.boundaries import is_utf8, piece_spans, skip_blank, value_end
from etl.ingestion.framing.nesting import first_deeper, is_nested_deeper, layers
from etl.ingestion.values import KEY, DeepValue, Fault, Piece, Span

# An escaped backslash, a pair of surrogates, or a lone surrogate, which ijson decodes to another character.
_ESCAPE = re.compile(rb"\\(?:\\|u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|(?P<alone>u[dD][89a-fA-F]))")

_INTEGER_DIGITS = 4_300
"""Longer integers become Decimal: int() takes quadratic time, and ijson crashes at Python's limit."""

_DIGITS = b"0123456789"

_FIRST = 10
_FIRST_BYTES = 1 << 16

_FARTHEST = 10**17
"""An exponent out of the range of every type of PostgreSQL, and within that of Decimal."""


def _integer(digits: str) -> int | Decimal:
    return int(digits) if len(digits.removeprefix("-")) <= _INTEGER_DIGITS else Decimal(digits)


def _decimal(text: str) -> Decimal:
    """Return a JSON number exactly; an exponent that Decimal cannot hold becomes another that is out of range, too."""
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
    if piece.shape in {"array", "values"} and not piece.is_deep and _suits_ijson(piece.data):
        try:
            for record in _items(piece):
                yield record if isinstance(record, dict) else _no_object()
                done += 1
            return
        except (ijson.JSONError, InvalidOperation):
            pass  # The records before this one were given out; continue here, one by one.
    for number, text in enumerate(texts(piece)):
        if number >= done:
            yield decode_one(text, is_keyed=piece.is_keyed)


def texts(piece: Piece) -> Iterator[bytes | Fault]:
    """Yield the text of each record of the piece, or its fault; a member is an object of its own."""
    for span in piece_spans(piece):
        yield text(piece, span)


def first(piece: Piece) -> Iterator[dict[str, Any] | Fault]:
    """Yield the first records of a piece, within _FIRST_BYTES; they show what is new in an export."""
    parts: list[bytes] = []
    while len(parts) < len(piece.parts) and sum(map(len, parts)) < _FIRST_BYTES:
        parts.append(piece.parts[len(parts)])  # Each part ends with a record, or with the separator after it.
    return map(decode_one, islice(texts(replace(piece, parts=tuple(parts))), _FIRST))


def text(piece: Piece, span: Span) -> bytes | Fault:
    """Return the text of the record at a span of the piece, or its fault."""
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
    """Return whether an integer has more than _INTEGER_DIGITS; one that long covers one of the tested bytes."""
    for at in range(_INTEGER_DIGITS, len(data), _INTEGER_DIGITS):
        if data[at] in _DIGITS:
            before = data[at - _INTEGER_DIGITS : at]
            after = data[at : at + _INTEGER_DIGITS]
            digits = len(before) - len(before.rstrip(_DIGITS)) + len(after) - len(after.lstrip(_DIGITS))
            if digits > _INTEGER_DIGITS:
                return True
    return False


def decode_one(data: bytes | Fault, *, is_keyed: bool = False) -> dict[str, Any] | Fault:
    """Return the record that these bytes are, or their fault.

    `is_keyed`: the record is the only member of an object, and the result holds its key under KEY.
    """
    if isinstance(data, Fault):
        return data
    try:
        text = data.decode("utf-8")
        record = _decode_deep(text, MAX_NESTING + is_keyed) if is_nested_deeper(data, LAYER_LEVELS) else _decode(text)
    except UnicodeDecodeError as error:
        return Fault(sqlstate="22021", reason=f"invalid UTF-8 at byte {error.start} of the record")
    except _TooDeep as error:
        return Fault(sqlstate="54001", reason=str(error))
    except ValueError:
        return Fault(sqlstate="22P02", reason="not JSON")
    if is_keyed:
        return _keyed(record)
    return record if isinstance(record, dict) else _no_object()


class _TooDeep(Exception):
    """A record is nested deeper than MAX_NESTING."""


_WORD = "NaN"
"""It replaces a value that stays text: Python's decoder asks for its value, and no JSON has it."""


def _decode_deep(text: str, most: int) -> Any:
    """Return the value of a text; a value in it that is nested deeper than LAYER_LEVELS is a DeepValue.

    Raises _TooDeep for more than `most` levels, ValueError for a text that is not JSON.
    """
    deeper = first_deeper(text, most)
    if deeper is not None:
        byte = len(text[:deeper].encode())
        raise _TooDeep(f"objects or arrays are nested deeper than {MAX_NESTING:,}, from byte {byte} of the record on")
    start = skip_blank(text, 0)
    if skip_blank(text, value_end(text, start)) < len(text):
        raise ValueError("more than one value")
    *_, outermost = layers(text, start, LAYER_LEVELS)
    values = (DeepValue(text[begin:end]) for begin, end in outermost.inner)
    decoder = json.JSONDecoder(parse_int=_integer, parse_float=_decimal, parse_constant=lambda _: next(values))
    return decoder.decode(outermost.text(text, _WORD))


def _keyed(record: Any) -> dict[str, Any] | Fault:
    if not isinstance(record, dict) or len(record) != 1:
        return Fault(sqlstate="22P02", reason="expected an object whose only member is the record with its key")
    [(key, value)] = record.items()
    return {**value, KEY: key} if isinstance(value, dict) else _no_object()


def _no_object() -> Fault:
    return Fault(sqlstate="22P02", reason="expected an object, got another JSON value")
