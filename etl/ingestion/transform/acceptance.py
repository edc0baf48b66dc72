"""The check of the tokens of a column, with its `null_if`, default and limits. Pure: the fast path."""

import re
from collections.abc import Sequence
from contextlib import suppress
from decimal import Decimal, InvalidOperation
from functools import lru_cache
from typing import Any

import msgspec
from msgspec.structs import replace

from etl.datasets import Column
from etl.datasets.types import ServerType
from etl.ingestion.constants import NULL_TEXT, VALUE_BYTES
from etl.ingestion.framing import partial
from etl.ingestion.transform.members import getter
from etl.ingestion.transform.rules import Accept, Group, Token
from etl.ingestion.transform.tokens import NULL, SEPARATOR, UNDECODABLE, each_accepted, known, suspect
from etl.ingestion.transform.types import converter, rules_of
from etl.ingestion.values import Misfit

_VALUE = "value"
_REMEMBERED = 1 << 12
_LONGEST_REMEMBERED = 1 << 8

_decode = partial.decoder().decode

_NULL_TOKEN = b"\x1fnull\x1f"
_HAS_EXPONENT = re.compile(rb"\x1f-?[0-9][0-9.]*+[eE]").search

_ESCAPE_AT_END = re.compile(rb"\\(?:u[0-9a-fA-F]{4}|.)\Z").search
_BLANK = (
    rb"\xc2[\x85\xa0]|\xe1\x9a\x80|\xe2(?:\x80[\x80-\x8a\xa8\xa9\xaf]|\x81\x9f)|\xe3\x80\x80"  # as str.strip has it
)
_ODD_FIRST = re.compile(rb'\x1f"(?:\\|' + _BLANK + b")").search
_ODD_LAST = re.compile(rb"(?:" + _BLANK + rb'|\\(?:u[0-9a-fA-F]{4}|.))"\x1f').search
_OF_OTHER_QUOTES = (b"\\", b"{", b"[")
"""Without these, each quote begins or ends a token."""
_WIDTHS = (32, 8, 2, 1)
"""Texts are often padded to a fixed width: many spaces are removed at a time."""


def acceptor(column: Column) -> Accept:
    """Return the check of a column alone."""
    if is_converted(column):
        return _by_the_checked_path(column)
    check = rules_of(column).accept
    if column.default is not None:
        check = _or_default(check, field_of(column, column.default) or NULL)
    elif column.required:
        check = _required(check)
    if column.null_if:
        check = _null_if(check, column.null_if)
    return _trimmed(check) if column.trim else check


def group_of(column: Column, *, is_guarded: bool) -> Group | None:
    """Return the group of columns that this one is checked with, or None where it is checked alone.

    `is_guarded`: the table itself refuses the values that the limits of the column refuse.
    """
    limits = (column.min, column.above, column.max, column.max_length)
    has_limits = column.required or column.one_of or any(limit is not None for limit in limits)
    is_changed = column.null_if or column.trim or column.default is not None or column.formats or column.timezone
    if is_converted(column):
        return None
    if column.value is not None or column.path == "#" or is_changed or (has_limits and not is_guarded):
        return None
    return rules_of(column).group


def constant(column: Column) -> bytes | None:
    """Return the field of a column that has the same value in each row, or None where the checked path must make it."""
    if column.value is None:
        return None
    if column.value in column.null_if:
        return None if column.required else b"null"
    if any(not isinstance(value, str) for value in column.null_if):
        return None
    return field_of(column, column.value)


def field_of(column: Column, value: str | bool | float) -> bytes | None:
    """Return the field of a value that the definition gives a column, or None where the checked path must make it."""
    try:
        text = converter(column)(Decimal(str(value)) if isinstance(value, float) else value)
    except Misfit:
        return None
    return None if "\\" in text else b'"%b"' % text.replace('"', '\\"').encode()


def is_converted(column: Column) -> bool:
    """Return whether each token of a column is converted by itself, as the checked path does it."""
    type_ = column.column_type
    is_composed = isinstance(type_, ServerType) and not type_.is_single
    is_rewritten = column.is_wrapped or any(isinstance(value, bool | tuple) for value in column.null_if)
    return is_composed or is_rewritten


def _by_the_checked_path(column: Column) -> Accept:
    """Return the check that makes each field as the checked path does; a token that does not fit is suspect."""
    get, rules = getter(replace(column, path=_VALUE)), rules_of(column)

    @lru_cache(_REMEMBERED)
    def field(text: bytes) -> bytes | None:
        try:
            value = get({_VALUE: _decode(text.decode())}, None, 1)
            if rules.keeps is not None and isinstance(value, str) and not rules.keeps(value):
                return None  # The checked path counts it.
            written = NULL_TEXT if value is None else rules.convert(value)
        except (Misfit, ValueError, RecursionError):
            return None
        if written == NULL_TEXT:
            return b"null"
        return None if "\\" in written else b'"%b"' % written.replace('"', '\\"').encode()

    def accept_one(token: Token) -> Token | None:
        text = bytes(token)
        if len(text) > _LONGEST_REMEMBERED:
            return None if len(text) > VALUE_BYTES else field.__wrapped__(text)
        return field(text)

    return each_accepted(accept_one)


def _joined(tokens: Sequence[Token]) -> bytes:
    """Return the tokens, each after a separator, with another one at the end."""
    return b"%b%b%b" % (SEPARATOR, SEPARATOR.join(tokens), SEPARATOR)


def _split(joined: bytes) -> list[bytes]:
    return joined[1:-1].split(SEPARATOR)


def _replaced(joined: bytes, old: bytes, new: bytes) -> bytes:
    """Replace fields, each given with the separators around it: of two adjacent ones the first needs another step."""
    # Faster than to replace where texts differ in length.
    joined = new.join(joined.rsplit(old))
    return new.join(joined.rsplit(old)) if old in joined else joined


def _is_null(token: bytes) -> bool:
    return token == b"null"


def _required(check: Accept) -> Accept:
    def accept(tokens: Sequence[Token], suspects: set[int]) -> Sequence[Token]:
        if _NULL_TOKEN in _joined(tokens):
            suspect(tokens, suspects, lambda token: not _is_null(token))
        return check(tokens, suspects)

    return accept


def _null_if(check: Accept, values: Sequence[Any]) -> Accept:
    texts = frozenset(value for value in values if isinstance(value, str))
    numbers = frozenset(Decimal(str(value)) for value in values if not isinstance(value, str))
    spelled = [msgspec.json.encode(text) for text in texts]
    spelled_as: dict[type[Token], Sequence[Token]] = {bytes: spelled, msgspec.Raw: list(map(msgspec.Raw, spelled))}
    numbers_found = re.compile(b"|".join(map(_number_pattern, numbers))) if numbers else None

    def with_null(token: bytes) -> bytes:
        if token[:1] == b'"':
            return b"null" if _text(token) in texts else token
        if not numbers or token[:1] not in b"-0123456789":
            return token
        try:
            return b"null" if Decimal(token.decode()) in numbers else token
        except InvalidOperation:
            return token  # An exponent beyond all numbers that a definition can name.

    def accept(tokens: Sequence[Token], suspects: set[int]) -> Sequence[Token]:
        fields = _with_null_for(tokens, spelled_as[_type_of(tokens)]) if texts else tokens
        joined = given = _joined(fields)
        if numbers_found:
            joined = numbers_found.sub(b"\x1fnull", joined)
        fields = fields if joined is given else _split(joined)
        # The same text may be spelled with other escapes, and the same number with an exponent.
        if (texts and b"\\" in joined) or (numbers and _HAS_EXPONENT(joined)):
            fields = [with_null(token) for token in _split(joined)]
        return check(fields, suspects)

    return accept


def _type_of(tokens: Sequence[Token]) -> type[Token]:
    """Return the type of the tokens of a column: all are of one, but a missing value is NULL."""
    return next((type(token) for token in tokens if token is not NULL), bytes)


def _with_null_for(tokens: Sequence[Token], texts: Sequence[Token]) -> Sequence[Token]:
    """Return the tokens with null for each that is one of these texts, which have the type of the tokens."""
    fields = list(tokens)
    for text in texts:
        place = -1
        with suppress(ValueError):
            while True:  # To compare the tokens costs less than to make each of them again.
                place = fields.index(text, place + 1)
                fields[place] = NULL
    return fields


def _number_pattern(number: Decimal) -> bytes:
    """Return the pattern of the tokens without an exponent that are this number, with the separator before them."""
    if not number:
        return rb"\x1f-?0(?:\.0++)?(?=\x1f)"
    whole, _, fraction = f"{number:f}".partition(".")
    fraction = fraction.rstrip("0")
    rest = rf"\.{fraction}0*+" if fraction else r"(?:\.0++)?"
    return rf"\x1f{whole}{rest}(?=\x1f)".encode()


def _text(token: bytes) -> str | None:
    """Return the text that a token is, or None where it is none."""
    try:
        return msgspec.json.decode(token, type=str)
    except UNDECODABLE:
        return None


def _or_default(check: Accept, field: Token) -> Accept:
    own = SEPARATOR + bytes(field) + SEPARATOR

    def accept(tokens: Sequence[Token], suspects: set[int]) -> Sequence[Token]:
        fields = check(tokens, suspects)
        joined = _joined(fields)
        if _NULL_TOKEN not in joined:
            return fields
        # An escape may have meant the separator: then a text may hold what looks like a field.
        if SEPARATOR in bytes(field) or joined.count(SEPARATOR) != len(fields) + 1:
            return [field if _is_null(bytes(token)) else token for token in fields]
        return _split(_replaced(joined, _NULL_TOKEN, own))

    return accept


def _trimmed(check: Accept) -> Accept:
    def trimmed(token: bytes) -> Token | None:
        if token[:1] != b'"':
            return token
        inner = token[1:-1]
        inner = inner.strip(b" ") if inner.isascii() else inner.decode().strip().encode()
        # An escape may mean white space, too.
        return None if inner[:1] == b"\\" or _ESCAPE_AT_END(inner) else b'"%b"' % inner

    def accept(tokens: Sequence[Token], suspects: set[int]) -> Sequence[Token]:
        joined = _joined(tokens)
        if b'\x1f" ' in joined or b' "\x1f' in joined:
            joined = _stripped(joined)
            tokens = _split(joined)
        if (b"\\" in joined or not joined.isascii()) and (_ODD_FIRST(joined) or _ODD_LAST(joined)):
            tokens = known(map(trimmed, _split(joined)), suspects)
        return check(tokens, suspects)

    return accept


def _stripped(joined: bytes) -> bytes:
    """Return tokens without the spaces at the beginning and the end of texts."""
    if not any(byte in joined for byte in _OF_OTHER_QUOTES):
        parts = joined.split(b'"')
        parts[1::2] = map(bytes.strip, parts[1::2])
        return b'"'.join(parts)
    for width in _WIDTHS:
        before, after = b'\x1f"' + b" " * width, b" " * width + b'"\x1f'
        while before in joined:
            joined = joined.replace(before, b'\x1f"')
        while after in joined:
            joined = joined.replace(after, b'"\x1f')
    return joined
