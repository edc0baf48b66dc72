"""Text: its conversion, and the check of its tokens. Pure.

A text of JSON goes to PostgreSQL as it is written: CSV with a backslash as its escape reads an escaped quote and an
escaped backslash as JSON does. Any other escape is replaced by its character first.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any, assert_never

import msgspec

from etl.datasets import Column
from etl.datasets.types import TextType
from etl.ingestion.transform.conversions import as_text, escape, is_storable
from etl.ingestion.transform.rules import Accept, Accepted, Convert, ConvertAll, Group, Rules, Token
from etl.ingestion.transform.tokens import (
    LONGEST_NUMBER,
    NULL,
    SEPARATOR,
    UNDECODABLE,
    are_few,
    by_rows,
    places,
    starts,
    suspect,
)
from etl.ingestion.values import Misfit

_NAME_LENGTH = 120

_PLAIN_NUMBER = re.compile(rb"(?!-0\Z)-?[0-9]+(?:\.[0-9]+)?")
_IS_NO_TEXT = re.compile(rb'\x1f[^"n]').search
_UNQUOTED = re.compile(rb'\x1f([^"n][^\x1f]*+)').findall
# Only null begins with an n, and so do true and false. A number is stored in digits, as it is written.
_ODD = re.compile(rb'\x1f(?!["n]|(?!-0[\x1e\x1f])-?[0-9]{1,500}+(?:\.[0-9]{1,490}+)?[\x1e\x1f]|[tf]|\Z)')
_BETWEEN_ROWS = b"\x1e\x1f"
"""Between rows that are joined: so a separator is before each field."""

_BETWEEN_TEXTS = "\x1f"
"""No escape of COPY holds it."""

_BY_NUMBER = b"\\u"
_NUL = _BY_NUMBER + b"0000"
# A search for one byte is faster than one for two: what follows is looked at only there.
_UNSTORABLE = re.compile(rb"\\(?=u(?:0000|[dD][89a-fA-F]))")
_CLOSER = re.compile(rb"\\u(?:0000|001[fF]|[dD][89a-fA-F])")
_OTHER_ESCAPE = re.compile(rb'\\[^"\\]').search
_NO_QUOTE_ESCAPE = re.compile(rb'\\[^"]', re.DOTALL).search
_DIFFERENT_ESCAPES = 6
_NUMBERED = re.compile(rb"(?:\\u[0-9a-fA-F]{4})+")  # together: two of them may be one character
_ESCAPE_SIZE = len(b"\\u0000")
_FEW_ESCAPES = 24
_IS_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]").match
_CHARACTERS = {
    b"\\/": b"/",
    b"\\b": b"\b",
    b"\\f": b"\f",
    b"\\n": b"\n",
    b"\\r": b"\r",
    b"\\t": b"\t",
}


def rules(column: Column, type_: TextType) -> Rules:
    """Return the rules of a column of text."""
    match type_.name:
        case "text":
            # Escapes are common in long texts, and slow down the check of all columns of a group.
            is_free = column.max_length is None or column.max_length > _NAME_LENGTH
            return Rules(
                convert=_converter(column),
                convert_all=_convert_all(column),
                accept=_acceptor(column),
                group=_FREE_TEXTS if is_free else _TEXTS,
            )
        case _:
            assert_never(type_.name)


def _converter(column: Column) -> Convert:
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
        return escape(text)

    return convert


def _convert_all(column: Column) -> ConvertAll:
    one_of = frozenset(column.one_of)

    def convert_all(values: Sequence[Any]) -> Sequence[str] | None:
        try:
            joined = _BETWEEN_TEXTS.join(values)
        except TypeError:  # One is no text: to join them costs less than to look at their types.
            return None
        if column.max_length is not None and max(map(len, values)) > column.max_length:
            return None
        if one_of and not one_of.issuperset(values):
            return None
        if not is_storable(joined):
            return None
        escaped = escape(joined)
        if escaped is joined:
            return values
        texts = escaped.split(_BETWEEN_TEXTS)
        return texts if len(texts) == len(values) else None

    return convert_all


def _acceptor(column: Column) -> Accept:
    max_length = column.max_length
    allowed = frozenset([b"null", *(msgspec.json.encode(value) for value in column.one_of)])

    def is_fit(token: bytes) -> bool:
        if token[:1] == b'"':
            if max_length is None or len(token) - 2 <= max_length:
                return True
            return b"\\" not in token and len(token.decode()) - 2 <= max_length
        if token in {b"null", b"true", b"false"}:
            return max_length is None or token == b"null" or len(token) <= max_length
        most = LONGEST_NUMBER if max_length is None else min(max_length, LONGEST_NUMBER)
        return len(token) <= most and _PLAIN_NUMBER.fullmatch(token) is not None

    def accept(tokens: Sequence[Token], suspects: set[int]) -> Sequence[Token]:
        joined = SEPARATOR.join(tokens)
        is_long = max_length is not None and max(map(len, tokens)) > max_length + 2
        if is_long or not _are_plain(joined, max_length):
            suspect(tokens, suspects, is_fit)
        if column.one_of and not allowed.issuperset(joined.split(SEPARATOR)):
            suspect(tokens, suspects, allowed.__contains__)
        return _unescaped(tokens, joined, suspects) if b"\\" in joined else tokens

    return accept


def _are_plain(joined: bytes, max_length: int | None) -> bool:
    """Return whether all tokens of a column are texts, or numbers and booleans that are short enough."""
    fields = SEPARATOR + joined
    if _IS_NO_TEXT(fields) is None:
        return True
    if _ODD.search(fields + SEPARATOR):
        return False
    return max_length is None or max(map(len, _UNQUOTED(fields))) <= max_length


def _accept_group(rows: Sequence[Token], width: int) -> Accepted | None:
    joined = _BETWEEN_ROWS.join(rows)
    odd: set[int] = set()
    if _IS_NO_TEXT(joined) or joined[:1] not in {b'"', b"n"}:
        fields = _fields(joined)
        odd.update(places(starts(_ODD.finditer(fields)), fields))
    accepted = _accepted_without(odd, rows, joined, width)
    if accepted is not None:
        return accepted
    fields = _fields(joined)
    if _NUL in joined:
        odd.update(places(_nuls(fields), fields))
        accepted = _accepted_without(odd, rows, joined, width)
    if accepted is None:
        odd.update(places(starts(_UNSTORABLE.finditer(fields)), fields))
        accepted = _accepted_without(odd, rows, joined, width)
    return accepted


def _accepted_without(odd_places: set[int], rows: Sequence[Token], joined: bytes, width: int) -> Accepted | None:
    """Return the fields of rows with null for some odd ones; None: many rows have any, or have other odd tokens."""
    odd: Mapping[int, Sequence[int]] = {}
    if odd_places:
        odd = by_rows(sorted(odd_places), width)
        if not are_few(odd, rows):
            return None
        rows = list(rows)
        for row, columns in odd.items():
            tokens = bytes(rows[row]).split(SEPARATOR)
            for column in columns:
                tokens[column] = b"null"
            rows[row] = SEPARATOR.join(tokens)
        joined = _BETWEEN_ROWS.join(rows)
    fields = _unescaped_rows(rows, joined)
    return None if fields is None else (fields, odd)


def _nuls(fields: bytes) -> Iterator[int]:
    """Yield the positions of the escapes that seem to be a NUL."""
    at = fields.find(_NUL)
    while at >= 0:
        yield at
        at = fields.find(_NUL, at + 1)


def _fields(joined: bytes) -> bytes:
    """Return joined rows with a separator before each field, and another one at the end."""
    return b"%b%b%b" % (SEPARATOR, joined, _BETWEEN_ROWS)


def _unescaped_rows(rows: Sequence[Token], joined: bytes) -> Sequence[Token] | None:
    """Return the fields of rows that are joined, or None where one of them cannot be unescaped with the others."""
    # To search for one byte takes a tenth of the time of a pattern.
    if b"\\" not in joined or not _OTHER_ESCAPE(joined):
        return rows
    unescaped = _with_few_escapes(joined)
    if unescaped is None:
        if _NUL in joined:
            return None  # The rows with a NUL are found sooner than by replacing all escapes before it.
        try:
            unescaped = _without_escapes(joined)
        except UNDECODABLE:
            return None
    fields = unescaped.rsplit(_BETWEEN_ROWS)
    # Escapes may mean the separators.
    return fields if len(fields) == len(rows) else None


_TEXTS = Group(name="text", accept=_accept_group)
_FREE_TEXTS = Group(name="free text", accept=_accept_group)


def _unescaped(tokens: Sequence[Token], joined: bytes, suspects: set[int]) -> Sequence[Token]:
    """Return the tokens as CSV writes them: only quotes and backslashes stay escaped."""
    if not _OTHER_ESCAPE(joined):
        return tokens
    try:
        fields = (_with_few_escapes(joined) or _without_escapes(joined)).split(SEPARATOR)
    except UNDECODABLE:
        fields = []
    # An escape may mean the separator itself.
    return fields if len(fields) == len(tokens) else _unescaped_closely(tokens, joined, suspects)


def _unescaped_closely(tokens: Sequence[Token], joined: bytes, suspects: set[int]) -> Sequence[Token]:
    """Return the tokens as CSV writes them: each that cannot be replaced with the others is replaced alone."""
    fields = list(tokens)
    odd = dict.fromkeys(places(starts(_CLOSER.finditer(SEPARATOR + joined)), SEPARATOR + joined))
    for place in odd:
        fields[place] = NULL
    fields = list(_without_escapes(SEPARATOR.join(fields)).split(SEPARATOR))
    for place in odd:
        try:
            fields[place] = _without_escapes(bytes(tokens[place]))
        except UNDECODABLE:
            suspects.add(place)
    return fields


def _without_escapes(tokens: bytes) -> bytes:
    """Replace each escape by its character; quotes and backslashes stay escaped.

    Raises one of UNDECODABLE for a NUL and for half a surrogate pair.
    """
    if b"\\" not in tokens:
        return tokens
    # No token holds a NUL, so it can replace each escaped backslash meanwhile: every backslash left begins an escape.
    alone = tokens.replace(b"\\\\", b"\0")
    # To search for the next escape is faster than to search for each of them.
    while match := _OTHER_ESCAPE(alone):
        character = _CHARACTERS.get(match[0])
        alone = _without_numbered(alone) if character is None else alone.replace(match[0], character)
    return alone.replace(b"\0", b"\\\\")


def _with_few_escapes(tokens: bytes) -> bytes | None:
    """Replace each escape by its character, or return None: there are many different ones, or an escaped backslash.

    The last backslash of an escaped one may be taken for the beginning of an escape. Then its first one stays before a
    character that is none of an escape, and this shows it.
    """
    for _ in range(_DIFFERENT_ESCAPES):
        match = _NO_QUOTE_ESCAPE(tokens) if b"\\" in tokens else None
        if match is None:
            return tokens
        escaped = match[0]
        character = _CHARACTERS.get(escaped)
        if escaped == b"\\u":
            escaped = tokens[match.start() : match.start() + _ESCAPE_SIZE]
            character = None if _UNSTORABLE.match(escaped) else _characters_of(escaped)
            if character and character.isascii():
                return None  # It may be one of an escape.
        if character is None or character == b"/":
            return None
        tokens = character.join(tokens.rsplit(escaped))  # faster than `split`, and than to replace by a shorter text
    return None


def _without_numbered(alone: bytes) -> bytes:
    """Replace each escape by number: texts of one language hold few different ones."""
    for _ in range(_FEW_ESCAPES):
        at = alone.find(_BY_NUMBER)
        if at < 0:
            return alone
        escaped = alone[at : at + _ESCAPE_SIZE]
        if _IS_SURROGATE(escaped):
            break  # Two of them are one character.
        alone = alone.replace(escaped, _characters_of(escaped).replace(b"\\\\", b"\0"))
    return _NUMBERED.sub(_characters, alone)


def _characters(match: re.Match[bytes]) -> bytes:
    return _characters_of(match[0]).replace(b"\\\\", b"\0")


@lru_cache(maxsize=10_000)
def _characters_of(escapes: bytes) -> bytes:
    characters: str = msgspec.json.decode(b'"%b"' % escapes, type=str)
    if "\0" in characters:
        raise ValueError("a NUL character")
    return characters.replace("\\", "\\\\").replace('"', '\\"').encode()
