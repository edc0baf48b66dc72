"""Values that have parts, jsonb and arrays of texts: their conversions, and the checks of their tokens. Pure."""

import re
from collections.abc import Iterable, Sequence
from decimal import Decimal
from typing import Any, assert_never

import msgspec

from etl.datasets import Column
from etl.datasets.types import StructureType
from etl.ingestion.constants import LAYER_LEVELS
from etl.ingestion.framing.nesting import is_nested_deeper
from etl.ingestion.framing.partial import Undecoded
from etl.ingestion.transform.conversions import (
    MAX_FRACTION_DIGITS,
    as_text,
    escape,
    is_storable,
    require_numeric_range,
)
from etl.ingestion.transform.rules import Rules, Token, convert_none
from etl.ingestion.transform.tokens import SEPARATOR, UNDECODABLE, each_accepted, suspect
from etl.ingestion.values import Misfit

_JSON_NUL = re.compile(r"(?<!\\)(?:\\\\)*\\u0000")
_SURELY_SHALLOW = LAYER_LEVELS
"""A value of so many bytes is not nested as deep as half as many objects or arrays."""


def _as_written(value: Any) -> msgspec.Raw:
    """Return a value that was not decoded as it is written; the server checks its numbers."""
    if isinstance(value, Undecoded):
        return msgspec.Raw(value.text)
    raise TypeError(f"expected a value of JSON, got {type(value).__name__}")


_encode_json = msgspec.json.Encoder(decimal_format="number", enc_hook=_as_written).encode
_texts = msgspec.json.Decoder(list[str | None]).decode


def rules(_column: Column, type_: StructureType) -> Rules:
    """Return the rules of a column of jsonb or of arrays."""
    match type_.name:
        case "jsonb":
            return Rules(convert=converted_json, convert_all=convert_none, accept=_accept_jsonb)
        case "text[]":
            return Rules(convert=_array, convert_all=convert_none, accept=each_accepted(_array_field))
        case _:
            assert_never(type_.name)


def json_text(value: Any) -> str:
    """Return any value as text: a scalar as `as_text`, an object or array as JSON.

    Raises Misfit for a value that no text can hold.
    """
    if isinstance(value, dict | list | Undecoded):
        return encoded(value)
    return as_text(value)


def converted_json(value: Any) -> str:
    """Return the COPY text of any value as JSON.

    Raises Misfit for a value that jsonb cannot hold.
    """
    return escape(encoded(value))


def encoded(value: Any) -> str:
    """Return any value as JSON.

    Raises Misfit for a value that jsonb cannot hold.
    """
    try:
        text = _encode_json(value).decode()
    except UnicodeEncodeError:
        raise Misfit("22P02", "half a surrogate pair cannot be stored in JSON") from None
    if "\\u0000" in text and _JSON_NUL.search(text):
        raise Misfit("22P05", "a NUL character cannot be stored in JSON")
    # An exponent is always written with its sign; without one, a number too large makes the text long.
    if "E+" in text or "E-" in text or len(text) > MAX_FRACTION_DIGITS:
        _require_numbers_in_range(value)
    return text


def _require_numbers_in_range(value: Any) -> None:
    if isinstance(value, Decimal):
        require_numeric_range(value)
    elif isinstance(value, dict | list):
        for inner in value.values() if isinstance(value, dict) else value:
            _require_numbers_in_range(inner)


def _accept_jsonb(tokens: Sequence[Token], suspects: set[int]) -> Sequence[Token]:
    if max(map(len, tokens)) > _SURELY_SHALLOW:
        suspect(tokens, suspects, lambda token: not is_nested_deeper(token, LAYER_LEVELS // 2))
    # A separator is in no token, and a token that begins with null is nothing else.
    joined = b"\x1f%b\x1f" % SEPARATOR.join(tokens).replace(b"\\", b"\\\\").replace(b'"', b'\\"')
    fields = joined.replace(SEPARATOR, b'"\x1f"')[2:-2]
    if b"null" in fields:
        fields = (b"\x1f%b\x1f" % fields).replace(b'\x1f"null"\x1f', b"\x1fnull\x1f")
        fields = fields.replace(b'\x1f"null"\x1f', b"\x1fnull\x1f")[1:-1]
    return fields.split(SEPARATOR)


def _quoted(token: Token) -> Token:
    text = bytes(token)
    if text == b"null":
        return token
    return b'"%b"' % text.replace(b"\\", b"\\\\").replace(b'"', b'\\"')


def _array(value: Any) -> str:
    if isinstance(value, Undecoded):
        value = value.decoded()
    if not isinstance(value, list):
        kind = "an object" if isinstance(value, dict) else "a scalar"
        raise Misfit("22P02", f"expected an array of texts, got {kind}")
    return escape(_array_text([None if element is None else as_text(element) for element in value]))


def _array_text(elements: Iterable[str | None]) -> str:
    """Return texts as PostgreSQL writes an array of them.

    Raises Misfit when one of them cannot be stored.
    """
    return "{" + ",".join("NULL" if text is None else quoted_element(text) for text in elements) + "}"


def quoted_element(text: str) -> str:
    """Return a text as an element of an array.

    Raises Misfit when it cannot be stored.
    """
    if not is_storable(text):
        raise Misfit("22021", "a NUL character or half a surrogate pair cannot be stored in text")
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _array_field(token: Token) -> Token | None:
    text = bytes(token)
    if text == b"null":
        return token
    try:
        array = _array_text(_texts(text))
    except (Misfit, *UNDECODABLE):
        return None
    return _quoted(array.encode())
