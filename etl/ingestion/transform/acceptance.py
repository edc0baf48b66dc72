"""The check of the tokens of a column, with its `null_if`, default and limits. Pure: the fast path."""

import re
from collections.abc import Iterable, Sequence
from decimal import Decimal, InvalidOperation
from functools import lru_cache
from typing import Any

import msgspec
from msgspec.structs import replace

from etl.datasets import Column
from etl.ingestion.constants import NULL_TEXT, VALUE_BYTES
from etl.ingestion.framing import partial
from etl.ingestion.transform import wrappings
from etl.ingestion.transform.members import getter
from etl.ingestion.transform.rules import Accept, Group, Token
from etl.ingestion.transform.tokens import NULL, SEPARATOR, each_accepted, known, suspect
from etl.ingestion.transform.types import converter, rules_of
from etl.ingestion.values import Misfit

_VALUE = "value"
_REMEMBERED = 1 << 12
_LONGEST_REMEMBERED = 1 << 8

_decode = partial.decoder().decode

_ESCAPE_AT_END = re.compile(rb"\\(?:u[0-9a-fA-F]{4}|.)\Z").search


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
    return wrappings.is_wrapped(column) or any(isinstance(value, bool | tuple) for value in column.null_if)


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


def _is_null(token: bytes) -> bool:
    return token == b"null"


def _required(check: Accept) -> Accept:
    def accept(tokens: Sequence[Token], suspects: set[int]) -> Sequence[Token]:
        if b"null" in SEPARATOR.join(tokens):
            suspect(tokens, suspects, lambda token: not _is_null(token))
        return check(tokens, suspects)

    return accept


def _null_if(check: Accept, values: Iterable[Any]) -> Accept:
    texts = frozenset(msgspec.json.encode(value) for value in values if isinstance(value, str))
    numbers = frozenset(Decimal(str(value)) for value in values if not isinstance(value, str))

    def with_null(token: Token) -> Token:
        text = bytes(token)
        if text[:1] == b'"':
            return NULL if text in texts else token
        if not numbers or text[:1] not in b"-0123456789":
            return token
        try:
            return NULL if Decimal(text.decode()) in numbers else token
        except InvalidOperation:
            return token  # An exponent beyond all numbers that a definition can name.

    def accept(tokens: Sequence[Token], suspects: set[int]) -> Sequence[Token]:
        if texts:
            # The same text may be spelled with other escapes.
            suspect(tokens, suspects, lambda token: b"\\" not in token)
        return check([with_null(token) for token in tokens], suspects)

    return accept


def _or_default(check: Accept, field: Token) -> Accept:
    def accept(tokens: Sequence[Token], suspects: set[int]) -> Sequence[Token]:
        fields = check(tokens, suspects)
        return [field if _is_null(bytes(token)) else token for token in fields]

    return accept


def _trimmed(check: Accept) -> Accept:
    def trimmed(token: Token) -> Token | None:
        text = bytes(token)
        if text[:1] != b'"':
            return token
        inner = text[1:-1]
        inner = inner.strip(b" ") if inner.isascii() else inner.decode().strip().encode()
        # An escape may mean white space, too.
        return None if inner[:1] == b"\\" or _ESCAPE_AT_END(inner) else b'"%b"' % inner

    return lambda tokens, suspects: check(known(map(trimmed, tokens), suspects), suspects)
