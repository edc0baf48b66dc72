"""Numbers: their conversions, and the checks of their tokens. Pure.

Each converter looks first for what nearly every value is, and takes its time with the others.
"""

import math
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from decimal import Decimal, InvalidOperation
from functools import cached_property, partial
from typing import Any, assert_never

from etl.datasets import Column
from etl.datasets.types import NumberType
from etl.ingestion.transform.conversions import MAX_FRACTION_DIGITS, require_numeric_range
from etl.ingestion.transform.limits import Bounds, bounds_check
from etl.ingestion.transform.rules import (
    Accept,
    Accepted,
    Changed,
    Convert,
    ConvertAll,
    Group,
    Rules,
    Token,
    convert_none,
)
from etl.ingestion.transform.tokens import (
    FEW_ODD,
    LONGEST_NUMBER,
    MOST_ODD,
    NULL,
    ROW_SEPARATOR,
    SEPARATOR,
    are_few,
    by_rows,
    places,
    starts,
)
from etl.ingestion.values import Misfit
from etl.quick_dataclasses import dataclass

_SPACE = " \t\n\r\v\f"
"""White space that PostgreSQL skips around a number."""

_DECIMAL = re.compile(r"[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]+)?")

Keeps = Callable[[str], object]
"""A text -> whether a column stores it as it is written."""

_KEPT_WHOLE = r"0|-?[1-9][0-9]*+"
_KEPT_NUMERIC = r"(?:[1-9][0-9]*+|0|-(?!0(?:\.0++)?(?![0-9.]))(?:0|[1-9][0-9]*+))(?:\.[0-9]++)?"
_KEPT_DOUBLE = r"-?(?:0|[1-9][0-9]*+)(?:\.[0-9]++)?"
"""Texts that a column of numbers stores as they are written. A double has no digits of its own: "1.50" is its 1.5."""

_USUAL_WHOLE = "[1-9][0-9]*+"
_USUAL_NUMBER = rf"{_USUAL_WHOLE}(?:\.[0-9]++)?"

_WHOLE_BYTES = b"0123456789-\x1f"
_NUMBER_BYTES = b"0123456789-.eE+\x1f"
_PLAIN_BYTES = b"0123456789-.\x1f"
_ODD = b"x"
_REST = r"[0-9.]*+(?:[eE][+-]?[0-9]{1,3}+)?"
_NUMBER_TOKEN = re.compile(rb"-?[0-9]+(?:\.[0-9]+)?(?:[eE][+-]?[0-9]{1,3})?")
_WHOLE_TOKEN = re.compile(rb"(-?[0-9]+)(?:\.0+)?")
_ZEROS = re.compile(rb"\.0++(?=[\x1e\x1f])")


@dataclass(frozen=True, kw_only=True)
class _Form:
    """How a type writes its numbers: the tokens that are sent as they are, and the texts that are stored as written.

    `number` is such a token without quotes; JSON has no other one of these bytes. A token in quotes must be `kept`, and
    most are `usual`: a pattern of fewer choices, which is tried first.
    """

    kept: str
    usual: str
    number: str
    allowed: bytes
    is_whole: bool = False

    @cached_property
    def keeps(self) -> Keeps:
        """The function that returns whether a text is stored as it is written."""
        return re.compile(self.kept).fullmatch

    @cached_property
    def are_plain(self) -> Callable[[bytes], object]:
        """The function that returns whether all fields, each with its separator, are sent as they are."""
        return re.compile(rf'(?:(?:"{self.usual}"\x1f)++|(?:{self._plain})\x1f)*+'.encode()).fullmatch

    @cached_property
    def odd(self) -> Callable[[bytes], Iterator[re.Match[bytes]]]:
        """The function that finds the fields, each with the separator before it, that are not sent as they are."""
        return re.compile(rf"\x1f(?!(?:{self._plain})\x1f|\Z)".encode()).finditer

    @cached_property
    def changed(self) -> Callable[[bytes], Iterator[re.Match[bytes]]]:
        """The function that finds the texts that are not stored as they are written."""
        return re.compile(rf'\x1f"(?!(?:{self.kept})")'.encode()).finditer

    @property
    def _plain(self) -> str:
        return f'"(?:{self.kept})"|{self.number}|null'


_WHOLE = _Form(kept=_KEPT_WHOLE, usual=_USUAL_WHOLE, number="-?[0-9]++", allowed=_WHOLE_BYTES, is_whole=True)
_NUMERIC = _Form(kept=_KEPT_NUMERIC, usual=_USUAL_NUMBER, number=f"-?[0-9]{_REST}", allowed=_NUMBER_BYTES)
# A zero keeps its sign, which the checked path does not see of the integer -0.
_DOUBLE = _Form(
    kept=f'(?!-0"){_KEPT_DOUBLE}', usual=_USUAL_NUMBER, number=rf"(?!-0\x1f)-?[0-9]{_REST}", allowed=_NUMBER_BYTES
)


def rules(column: Column, type_: NumberType) -> Rules:
    """Return the rules of a column of numbers."""
    match type_.name:
        case "smallint" | "integer" | "bigint":
            assert type_.limits is not None  # noqa: S101 - the table gives each whole number its limits
            convert = _exact(column, _whole_converter(column, *type_.limits), _WHOLE.keeps)
            return Rules(
                convert=convert,
                convert_all=_convert_all(column, {int}, convert, digits=len(str(type_.limits[1])) - 1),
                accept=_whole_acceptor(column, *type_.limits),
                group=_WHOLE_NUMBERS,
                keeps=_WHOLE.keeps,
                changed=_changed(column, _WHOLE),
            )
        case "numeric":
            convert = _exact(column, _numeric_converter(column), _NUMERIC.keeps)
            return Rules(
                convert=convert,
                convert_all=_convert_all(column, {int, Decimal}, convert, digits=LONGEST_NUMBER),
                accept=_numeric_acceptor(column),
                group=_NUMBERS,
                keeps=_NUMERIC.keeps,
                changed=_changed(column, _NUMERIC),
            )
        case "double":
            keeps = re.compile(_KEPT_DOUBLE).fullmatch
            convert = _exact(column, _double_converter(column), keeps)
            return Rules(
                convert=convert,
                convert_all=convert_none,
                accept=_double_acceptor(column, keeps),
                keeps=keeps,
                changed=_changed(column, replace(_DOUBLE, kept=_KEPT_DOUBLE)),
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


def _convert_all(column: Column, expected: set[type], convert: Convert, *, digits: int) -> ConvertAll:
    """Return the conversion of a whole column: the limits of all values are those of the least and the largest.

    A number of more than so many `digits` may be too large in any case.
    """
    # A number without a sign is not below zero.
    is_bounded_below = column.above is not None or (column.min is not None and column.min != 0)
    is_bounded_above = column.max is not None

    def convert_all(values: Sequence[Any]) -> Sequence[str] | None:
        if not expected.issuperset(map(type, values)):
            return None
        texts = list(map(str, values))
        joined = "".join(texts)
        longest = max(map(len, texts)) if len(joined) > digits else 0
        if is_bounded_below or "-" in joined:
            convert(min(values))
        if is_bounded_above or longest > digits:
            convert(max(values))
        return None if "E" in joined or longest > LONGEST_NUMBER else texts

    return convert_all


def _are_numbers(joined: bytes, form: _Form) -> bool:
    """Return whether all tokens of columns are numbers without quotes, of the bytes of their form."""
    return not joined.translate(None, form.allowed).replace(b"null", b"")


def _without_zeros(joined: bytes) -> bytes:
    """Return fields, each with its separator, with `5` for each `5.0`: a number of JSON has one point."""
    if b".00" in joined:
        return _ZEROS.sub(b"", joined)
    return joined.replace(b".0\x1f", b"\x1f").replace(b".0\x1e", b"\x1e")


def _odd_places(joined: bytes, form: _Form) -> list[int]:
    """Return the places of the tokens of a column that are not sent as they are."""
    return list(places(starts(form.odd(SEPARATOR + joined + SEPARATOR)), SEPARATOR + joined))


def _whole_acceptor(column: Column, lowest: int, highest: int) -> Accept:
    bounds, is_strict = Bounds(column), _is_strict(column)
    # So many digits fit in any case.
    digits = len(str(highest)) - 1
    usual = rf"[1-9][0-9]{{0,{digits - 1}}}+"
    plain = replace(_WHOLE, kept=f"0|-?{usual}", usual=usual, number=rf"-?[0-9]{{1,{digits}}}+")

    def field(token: bytes) -> Token | None:
        number = _unquoted(token)
        whole = _WHOLE_TOKEN.fullmatch(number)
        if whole is None or len(number) > LONGEST_NUMBER or not lowest <= int(whole[1]) <= highest:
            return None
        if number is not token and is_strict and not _WHOLE.keeps(number.decode()):
            return None
        return token if len(whole[1]) == len(number) else whole[1]

    return _accept_within(bounds, plain, field, lambda number: bounds.hold(Decimal(number.decode())), digits=digits)


def _numeric_acceptor(column: Column) -> Accept:
    bounds, is_strict = Bounds(column), _is_strict(column)

    def field(token: bytes) -> Token | None:
        number = _unquoted(token)
        if len(number) > LONGEST_NUMBER or not _NUMBER_TOKEN.fullmatch(number):
            return None
        return None if number is not token and is_strict and not _NUMERIC.keeps(number.decode()) else token

    return _accept_within(bounds, _NUMERIC, field, lambda number: bounds.hold(Decimal(number.decode())))


def _double_acceptor(column: Column, keeps: Keeps) -> Accept:
    bounds, is_strict = Bounds(column), _is_strict(column)

    def field(token: bytes) -> Token | None:
        number = _unquoted(token)
        if len(number) > LONGEST_NUMBER or not _NUMBER_TOKEN.fullmatch(number) or number == b"-0":
            return None
        return None if number is not token and is_strict and not keeps(number.decode()) else token

    return _accept_within(bounds, _DOUBLE, field, bounds.surely_hold)


def _is_strict(column: Column) -> bool:
    """Return whether only the checked path can tell what becomes of a text that is not stored as it is written."""
    return bool(column.exact or column.null_if or column.trim or column.default is not None)


def _changed(column: Column, form: _Form) -> Changed | None:
    """Return the function that finds the texts of a column that it does not store as they are written.

    None: the fast path accepts no such text.
    """
    if _is_strict(column):
        return None

    def changed(tokens: Sequence[Token]) -> Sequence[int]:
        joined = SEPARATOR + SEPARATOR.join(tokens)
        return list(places(starts(form.changed(joined)), joined)) if b'"' in joined else ()

    return changed


def _unquoted(token: bytes) -> bytes:
    return token[1:-1] if token[:1] == b'"' else token


def _accept_within(
    bounds: Bounds,
    form: _Form,
    field: Callable[[bytes], Token | None],
    holds: Callable[[bytes], bool],
    *,
    digits: int | None = None,
) -> Accept:
    """Return the check of a column: of all of its tokens, then by `field` of each odd one, and by its limits.

    A number of more than so many `digits` may be odd.
    """

    def are_plain(tokens: Sequence[Token], joined: bytes) -> bool:
        rest = joined.translate(None, _PLAIN_BYTES)
        if not rest.replace(b"null", b"") and (digits is None or (b"." not in joined and _longest(tokens) <= digits)):
            return form is not _DOUBLE or b"-0" not in joined
        return form.are_plain(joined + SEPARATOR) is not None

    def accept(tokens: Sequence[Token], suspects: set[int]) -> Sequence[Token]:
        joined = SEPARATOR.join(tokens)
        if form.is_whole and b".0" in joined:
            joined = _without_zeros(joined + SEPARATOR)[:-1]
            tokens = joined.split(SEPARATOR)
        if not are_plain(tokens, joined):
            fields = list(tokens)
            for place in _odd_places(joined, form):
                own = field(bytes(fields[place]))
                if own is None:
                    suspects.add(place)
                fields[place] = NULL if own is None else own
            tokens = fields
            joined = SEPARATOR.join(tokens)
        if not bounds.are_none:
            numbers = ((place, _unquoted(bytes(tokens[place]))) for place in bounds.doubtful(joined))
            suspects.update(place for place, number in numbers if number != b"null" and not holds(number))
        return tokens

    return accept


def _longest(tokens: Sequence[Token]) -> int:
    return max(map(len, tokens))


def _accept_group(rows: Sequence[Token], width: int, *, form: _Form, marks: bytes) -> Accepted | None:
    joined = SEPARATOR.join(rows)
    if _are_numbers(joined, form):
        return rows, {}
    if form.is_whole and b".0" in joined:
        rows = _without_zeros(ROW_SEPARATOR.join(rows) + ROW_SEPARATOR)[:-1].split(ROW_SEPARATOR)
        joined = SEPARATOR.join(rows)
        if _are_numbers(joined, form):
            return rows, {}
    # Many texts are numbers in quotes, which may be sent as they are; of few texts each is looked at by itself.
    if joined.count(b'"') > max(FEW_ODD, len(rows) // MOST_ODD):
        if form.are_plain(joined + SEPARATOR):
            return rows, {}
        odd = by_rows(_odd_places(joined, form), width)
    else:
        odd = by_rows(_marked_places(joined, marks), width)
    return (rows, odd) if are_few(odd, rows) else None


def _marked_places(joined: bytes, marks: bytes) -> Iterator[int]:
    """Yield the places of the tokens that hold another byte than the numbers of a form."""
    marked = joined.replace(b"null", b"").translate(marks)
    place = searched = 0
    at = marked.find(_ODD)
    while at >= 0:
        place += marked.count(SEPARATOR, searched, at)
        yield place
        searched = marked.find(SEPARATOR, at)
        at = marked.find(_ODD, searched) if searched >= 0 else -1


def _group(name: str, form: _Form) -> Group:
    marks = bytes(byte if byte in form.allowed else ord(_ODD) for byte in range(256))
    return Group(
        name=name,
        accept=partial(_accept_group, form=form, marks=marks),
    )


_WHOLE_NUMBERS = _group("integer", _WHOLE)
_NUMBERS = _group("numeric", _NUMERIC)
