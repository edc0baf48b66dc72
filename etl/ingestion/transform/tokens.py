"""Parts that the token checks of several types share. Pure: the fast path.

Tokens are checked a column at a time: a few searches through all of them pass most columns. A token that does not pass
makes its record suspect, and the checked path decides about it.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Sized
from decimal import Decimal

import msgspec

from etl.ingestion.transform.rules import Accept, Token

NULL = msgspec.Raw(b"null")

SEPARATOR = b"\x1f"
"""Between the fields of CSV: no JSON token holds a control character, so no field contains it."""

ROW_SEPARATOR = b"\x1e"
"""Between rows whose fields are joined by SEPARATOR."""

NULL_FIELD = b"null" + SEPARATOR

FEW_ODD = 16
MOST_ODD = 4
"""If more than FEW_ODD rows, and more than one of MOST_ODD, have an odd token, each column is checked by itself."""

LONGEST_NUMBER = 1000
"""Longer numbers are converted value by value."""

UNDECODABLE = (msgspec.MsgspecError, ValueError)
"""The errors of msgspec for text that is no JSON, or holds half a surrogate pair."""

_INTEGER = re.compile(rb"-?[0-9]+")


def starts(found: Iterable[re.Match[bytes]]) -> Iterator[int]:
    """Return the positions of matches."""
    return map(re.Match.start, found)


def places(positions: Iterable[int], text: bytes) -> Iterator[int]:
    """Yield the places of the fields at these positions of a text in which a separator is before each field."""
    place, at = -1, 0
    for position in positions:
        place += text.count(SEPARATOR, at, position + 1)
        at = position + 1
        yield place


def columns_of_rows(positions: Iterable[int], text: bytes, width: int) -> dict[int, list[int]]:
    """Return the fields at these positions by rows, each of `width` fields: their columns. See `places`."""
    return by_rows(places(positions, text), width)


def by_rows(odd: Iterable[int], width: int) -> dict[int, list[int]]:
    """Return fields, each given by its place among all, by rows, each of `width` fields: their columns."""
    found: dict[int, list[int]] = {}
    for place in odd:
        row, column = divmod(place, width)
        found.setdefault(row, []).append(column)
    return found


def are_few(odd: Sized, rows: Sized) -> bool:
    """Return whether so few rows are odd that only these need a closer look."""
    return len(odd) <= max(FEW_ODD, len(rows) // MOST_ODD)


def suspect(tokens: Iterable[Token], suspects: set[int], is_fit: Callable[[bytes], object]) -> None:
    """Add the places of the tokens that are not fit to the suspects."""
    suspects.update(place for place, token in enumerate(tokens) if not is_fit(bytes(token)))


def known(fields: Iterable[Token | None], suspects: set[int]) -> list[Token]:
    """Return the fields with null for each None, whose place becomes a suspect."""
    fields = list(fields)
    suspects.update(place for place, field in enumerate(fields) if field is None)
    return [NULL if field is None else field for field in fields]


def each_accepted(accept_one: Callable[[Token], Token | None]) -> Accept:
    """Return the check that makes the field of each token by itself; None makes it suspect."""
    return lambda tokens, suspects: known(map(accept_one, tokens), suspects)


def number_or_text(token: bytes) -> str | int | Decimal:
    """Return the value of a token that is a number or a text without escapes.

    Raises decimal.InvalidOperation for another token.
    """
    if token[:1] == b'"':
        return token[1:-1].decode()
    return int(token) if _INTEGER.fullmatch(token) and len(token) < LONGEST_NUMBER else Decimal(token.decode())
