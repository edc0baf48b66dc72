"""Numbers: their conversions, and the checks of their tokens. Pure.

Each converter looks first for what nearly every value is, and takes its time with the others.
"""

import math
import re
from collections.abc import Callable, Sequence
from decimal import Decimal, InvalidOperation
from functools import partial
from typing import Any, assert_never

from etl.datasets import Column
from etl.datasets.types import NumberType
from etl.ingestion.transform.conversions import MAX_FRACTION_DIGITS, bounds_check, require_numeric_range
from etl.ingestion.transform.rules import Accept, Changed, Convert, ConvertAll, Group, Rules, Token, convert_none
from etl.ingestion.transform.tokens import LONGEST_NUMBER, SEPARATOR, suspect
from etl.ingestion.values import Misfit

_SPACE = " \t\n\r\v\f"
"""White space that PostgreSQL skips around a number."""

_DECIMAL = re.compile(r"[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]+)?")

Keeps = Callable[[str], object]
"""A text -> whether a column stores it as it is written."""

_WHOLE_TOKEN = re.compile(rb"-?[0-9]+")
_NUMBER_TOKEN = re.compile(rb"-?[0-9]+(?:\.[0-9]+)?(?:[eE][+-]?[0-9]{1,3})?")
_WHOLE_BYTES = b"0123456789-\x1f"
_NUMBER_BYTES = b"0123456789-.eE+\x1f"
_ODD = b"x"

_KEPT_WHOLE = re.compile(r"0|-?[1-9][0-9]*").fullmatch
_KEPT_NUMERIC = re.compile(r"(?!-0(?:\.0+)?\Z)-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?").fullmatch
_KEPT_DOUBLE = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?").fullmatch
"""Texts that a column of numbers stores as they are written. A double has no digits of its own: "1.50" is its 1.5."""


def rules(column: Column, type_: NumberType) -> Rules:
    """Return the rules of a column of numbers."""
    match type_.name:
        case "smallint" | "integer" | "bigint":
            assert type_.limits is not None  # noqa: S101 - the table gives each whole number its limits
            convert = _exact(column, _whole_converter(column, *type_.limits), _KEPT_WHOLE)
            # So many digits fit in any case.
            digits = len(str(type_.limits[1])) - 1
            return Rules(
                convert=convert,
                convert_all=_convert_all({int}, convert, has_limits=True),
                accept=_acceptor(column, _WHOLE_TOKEN, _WHOLE_BYTES, _KEPT_WHOLE, digits=digits),
                group=_WHOLE_NUMBERS,
                keeps=_KEPT_WHOLE,
                changed=_changed(_KEPT_WHOLE),
            )
        case "numeric":
            convert = _exact(column, _numeric_converter(column), _KEPT_NUMERIC)
            has_limits = column.above is not None or column.max is not None
            has_limits = has_limits or (column.min is not None and column.min != 0)
            return Rules(
                convert=convert,
                convert_all=_convert_all({int, Decimal}, convert, has_limits=has_limits),
                accept=_acceptor(column, _NUMBER_TOKEN, _NUMBER_BYTES, _KEPT_NUMERIC),
                group=_NUMBERS,
                keeps=_KEPT_NUMERIC,
                changed=_changed(_KEPT_NUMERIC),
            )
        case "double":
            convert = _exact(column, _double_converter(column), _KEPT_DOUBLE)
            accept = _double_acceptor(column)
            return Rules(
                convert=convert,
                convert_all=convert_none,
                accept=accept,
                keeps=_KEPT_DOUBLE,
                changed=_changed(_KEPT_DOUBLE),
            )
        case _:
            assert_never(type_.name)


def _exact(column: Column, convert: Convert, keeps: Keeps) -> Convert:
    """Return the conversion, which takes only texts that are stored as they are written if the column is exact."""
    if not column.exact:
        return convert

    def convert_exactly(value: Any) -> str:
        text = convert(value)
        if type(value) is str and not keeps(value):
            raise Misfit(
                "22P02", "expected a number without leading zeros, signs or spaces, because the column is exact"
            )
        return text

    return convert_exactly


def _number(value: Any, expected: str) -> Decimal:
    """Return a JSON number, or a text that holds a decimal number, exactly."""
    if isinstance(value, Decimal):
        return value
    if isinstance(value, int) and not isinstance(value, bool):
        return Decimal(value)
    if isinstance(value, str):
        text = value.strip(_SPACE)
        if not _DECIMAL.fullmatch(text):
            raise Misfit("22P02", f"expected {expected}, got text that is none")
        try:
            return Decimal(text)
        except InvalidOperation:
            raise Misfit("22003", "the number is out of range") from None
    kinds = {bool: "true or false", dict: "an object", list: "an array"}
    raise Misfit("22P02", f"expected {expected}, got {kinds.get(type(value), 'another value')}")


def _whole_converter(column: Column, lowest: int, highest: int) -> Convert:
    check = bounds_check(column, _int_where_whole)

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


def _numeric_converter(column: Column) -> Convert:
    check = bounds_check(column, Decimal)

    def convert(value: Any) -> str:
        number = value if type(value) is Decimal or type(value) is int else _number(value, "a number")
        text = str(number)
        if "E" in text or len(text) > MAX_FRACTION_DIGITS:
            require_numeric_range(Decimal(number))
        if check:
            check(number)
        return text

    return convert


def _double_converter(column: Column) -> Convert:
    check = bounds_check(column, float)

    def convert(value: Any) -> str:
        number = _number(value, "a number")
        nearest = float(number)
        if math.isinf(nearest) or (nearest == 0 and number):
            raise Misfit("22003", "the number is out of range for double")
        if check:
            check(nearest)
        return repr(nearest)

    return convert


def _convert_all(expected: set[type], convert: Convert, *, has_limits: bool) -> ConvertAll:
    """Return the conversion of a whole column: the limits of all values are those of the least and the largest."""

    def convert_all(values: Sequence[Any], types: set[type]) -> Sequence[str] | None:
        if not types or not types <= expected:
            return None
        texts = list(map(str, values))
        joined = "".join(texts)
        if has_limits or "-" in joined:
            convert(min(values))
            convert(max(values))
        return None if "E" in joined or max(map(len, texts)) > LONGEST_NUMBER else texts

    return convert_all


class _Bounds:
    """The limits of a column of numbers."""

    def __init__(self, column: Column) -> None:
        self._least, self._above, self._most = (
            None if bound is None else Decimal(str(bound)) for bound in (column.min, column.above, column.max)
        )
        self.are_none = self._least is self._above is self._most is None
        self._are_no_minus = self._least == 0 and self._above is self._most is None
        lower = [float(bound) for bound in (self._least, self._above) if bound is not None]
        self._below = below = max(lower, default=-math.inf)
        self._under = under = math.inf if self._most is None else float(self._most)
        inside = (below + under) / 2 if math.isfinite(below + under) else under - 1 if below == -math.inf else below + 1
        self._inside = str(inside).encode() if below < inside < under else None

    def hold(self, number: Decimal) -> bool:
        """Return whether a number is within the limits."""
        return (
            (self._least is None or number >= self._least)
            and (self._above is None or number > self._above)
            and (self._most is None or number <= self._most)
        )

    def surely_hold(self, joined: bytes) -> bool:
        """Return whether all numbers of a column are within the limits; False also where one may be at a limit."""
        return not self.doubtful(joined)

    def doubtful(self, joined: bytes) -> Sequence[int]:
        """Return the places of the numbers of a column that may be outside of the limits.

        Rounding to a float keeps the order: what is beyond the float of a limit is beyond the limit.
        """
        if self._are_no_minus and b"-" not in joined:
            return ()
        numbers = self._numbers(joined)
        if numbers is None:
            return range(joined.count(SEPARATOR) + 1)
        if min(numbers) > self._below and max(numbers) < self._under:
            return ()
        return [place for place, number in enumerate(numbers) if not self._below < number < self._under]

    def _numbers(self, joined: bytes) -> list[float] | None:
        """Return the numbers of a column as floats, with one within the limits for null; None if no float is within."""
        if self._inside is None:
            return None
        return list(map(float, joined.replace(b"null", self._inside).split(SEPARATOR)))


def _are_numbers(joined: bytes, allowed: bytes) -> bool:
    return not joined.translate(None, allowed).replace(b"null", b"")


def _acceptor(
    column: Column, form: re.Pattern[bytes], allowed: bytes, keeps: Keeps, *, digits: int | None = None
) -> Accept:
    """Return the check of numbers of a form, which is made of the allowed bytes, with at most so many digits."""
    bounds, is_strict = _Bounds(column), _is_strict(column)

    def is_fit(token: bytes) -> bool:
        number = _unquoted(token)
        if len(number) > (digits or LONGEST_NUMBER) or not form.fullmatch(number):
            return token == b"null"
        if is_strict and number is not token and not keeps(number.decode()):
            return False
        return bounds.are_none or bounds.hold(Decimal(number.decode()))

    def are_fit(tokens: Sequence[Token], joined: bytes) -> bool:
        return (not digits or max(map(len, tokens)) <= digits) and _are_numbers(joined, allowed)

    return _accept_within(bounds, is_fit, are_fit)


def _double_acceptor(column: Column) -> Accept:
    """Return the check of doubles: a zero keeps its sign, which the checked path does not see of the integer -0."""
    bounds, is_strict = _Bounds(column), _is_strict(column)

    def is_fit(token: bytes) -> bool:
        number = _unquoted(token)
        if len(number) > LONGEST_NUMBER or not _NUMBER_TOKEN.fullmatch(number) or number == b"-0":
            return token == b"null"
        if is_strict and number is not token and not _KEPT_DOUBLE(number.decode()):
            return False
        return bounds.are_none or bounds.surely_hold(number)

    def are_fit(_tokens: Sequence[Token], joined: bytes) -> bool:
        return b"-0" not in joined and _are_numbers(joined, _NUMBER_BYTES)

    return _accept_within(bounds, is_fit, are_fit)


def _is_strict(column: Column) -> bool:
    """Return whether only the checked path can tell what becomes of a text that is not stored as it is written."""
    return bool(column.exact or column.null_if or column.trim or column.default is not None)


def _changed(keeps: Keeps) -> Changed:
    """Return the function that finds the texts of a column that it does not store as they are written."""

    def changed(tokens: Sequence[Token]) -> Sequence[int]:
        if b'"' not in SEPARATOR.join(tokens):
            return ()
        texts = ((place, bytes(token)) for place, token in enumerate(tokens))
        return [place for place, text in texts if text[:1] == b'"' and not keeps(text[1:-1].decode())]

    return changed


def _unquoted(token: bytes) -> bytes:
    return token[1:-1] if token[:1] == b'"' else token


def _accept_within(
    bounds: _Bounds, is_fit: Callable[[bytes], bool], are_fit: Callable[[Sequence[Token], bytes], bool]
) -> Accept:
    """Return the check of a column by that of all of its tokens, then of one token, and by its limits."""

    def accept(tokens: Sequence[Token], suspects: set[int]) -> Sequence[Token]:
        joined = SEPARATOR.join(tokens)
        if not are_fit(tokens, joined):
            suspect(tokens, suspects, is_fit)
        elif not bounds.are_none:
            suspects.update(place for place in bounds.doubtful(joined) if not is_fit(bytes(tokens[place])))
        return tokens

    return accept


def _accept_group(rows: Sequence[Token], *, allowed: bytes) -> Sequence[Token] | None:
    return rows if _are_numbers(SEPARATOR.join(rows), allowed) else None


def _odd_rows(rows: Sequence[Token], width: int, *, marks: bytes) -> list[int]:
    """Return the places of the rows, each of `width` columns, that hold a byte which no number holds."""
    marked = SEPARATOR.join(rows).replace(b"null", b"").translate(marks)
    places: dict[int, None] = {}
    token = searched = 0
    at = marked.find(_ODD)
    while at >= 0:
        token += marked.count(SEPARATOR, searched, at)
        places[token // width] = None
        searched, at = at, marked.find(_ODD, at + 1)
    return list(places)


def _group(name: str, allowed: bytes) -> Group:
    marks = bytes(byte if byte in allowed else ord(_ODD) for byte in range(256))
    return Group(
        name=name,
        accept=partial(_accept_group, allowed=allowed),
        odd_rows=partial(_odd_rows, marks=marks),
    )


_WHOLE_NUMBERS = _group("integer", _WHOLE_BYTES)
_NUMBERS = _group("numeric", _NUMBER_BYTES)
