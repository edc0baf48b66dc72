"""A piece -> records, in order. A record that cannot be decoded is a fault in its place, never an exception.

ijson decodes a piece of an array, or of records that follow one another. Lines, which may be no JSON, and records that
ijson would alter are decoded one by one with Python's own decoder, which finds the faulty record and keeps the text
unchanged. So are records of many levels, for which ijson needs memory that grows with the square of the levels, and
large records: some of their values stay text until they are needed.
"""

import io
import re
from collections.abc import Iterator
from decimal import InvalidOperation
from itertools import islice
from typing import Any

import ijson

from etl.ingestion.constants import LAYER_LEVELS, MAX_NESTING, WHOLE_RECORD_BYTES
from etl.ingestion.framing import partial
from etl.ingestion.framing.boundaries import is_utf8, piece_spans
from etl.ingestion.framing.nesting import is_nested_deeper
from etl.ingestion.values import KEY, Fault, Piece, Span

# An escaped backslash, a pair of surrogates, or a lone surrogate, which ijson decodes to another character.
_ESCAPE = re.compile(rb"\\(?:\\|u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|(?P<alone>u[dD][89a-fA-F]))")

_DIGITS = b"0123456789"

_TOGETHER = 16
"""Records that ijson yields at a time. Few, because a decoded record takes many times its bytes."""

_decode = partial.decoder().decode


def decode(piece: Piece) -> Iterator[dict[str, Any] | Fault]:
    """Yield each record of the piece: integers as int, other numbers as Decimal with every digit."""
    done = 0
    if piece.shape in {"array", "values"} and not piece.is_heavy and _suits_ijson(piece.data):
        try:
            items = _items(piece)
            while records := list(islice(items, _TOGETHER)):
                yield from records if set(map(type, records)) == {dict} else map(_object_of, records)
                done += len(records)
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
    """Return whether an integer has more than partial.INTEGER_DIGITS; one that long covers one of the tested bytes."""
    for at in range(partial.INTEGER_DIGITS, len(data), partial.INTEGER_DIGITS):
        if data[at] in _DIGITS:
            before = data[at - partial.INTEGER_DIGITS : at]
            after = data[at : at + partial.INTEGER_DIGITS]
            digits = len(before) - len(before.rstrip(_DIGITS)) + len(after) - len(after.lstrip(_DIGITS))
            if digits > partial.INTEGER_DIGITS:
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
        if data.startswith(b'"'):
            record: Any = _object_of(_decode(text))
        elif len(data) > WHOLE_RECORD_BYTES or is_nested_deeper(data, LAYER_LEVELS):
            record = partial.decode(data, MAX_NESTING + is_keyed)
        else:
            record = _decode(text)
    except UnicodeDecodeError as error:
        return Fault(sqlstate="22021", reason=f"invalid UTF-8 at byte {error.start} of the record")
    except partial.TooDeep as error:
        return Fault(sqlstate="54001", reason=str(error))
    except ValueError:
        return Fault(sqlstate="22P02", reason="not JSON")
    if is_keyed:
        return _keyed(record)
    return record if isinstance(record, dict | Fault) else _no_object()


def _object_of(value: Any) -> dict[str, Any] | Fault:
    """Return the record that a value is, or that a text holds as JSON: exports of columns of JSON are written so."""
    if isinstance(value, str) and value.lstrip(" \t\r\n").startswith("{"):
        try:
            return decode_one(value.encode())
        except UnicodeEncodeError:
            return Fault(sqlstate="22021", reason="half a surrogate pair in the text that holds the record")
    return value if isinstance(value, dict) else _no_object()


def _keyed(record: Any) -> dict[str, Any] | Fault:
    if not isinstance(record, dict) or len(record) != 1:
        return Fault(sqlstate="22P02", reason="expected an object whose only member is the record with its key")
    [(key, value)] = record.items()
    if isinstance(value, partial.Undecoded):
        value = value.decoded()
    return {**value, KEY: key} if isinstance(value, dict) else _no_object()


def _no_object() -> Fault:
    return Fault(sqlstate="22P02", reason="expected an object, got another JSON value")
