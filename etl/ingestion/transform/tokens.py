"""JSON tokens of a column -> fields of CSV that PostgreSQL reads as contract C5 says. Pure: the fast path's checks.

A token is the text of a JSON value as it stands in the record. Tokens are looked at a column at a time, and most
columns are accepted by a few searches through all of them; a token that none accepts makes its record suspect,
and the checked path decides.
"""

import math
import re
from collections.abc import Callable, Iterable, Sequence
from decimal import Decimal, InvalidOperation
from functools import lru_cache

import msgspec

from etl.datasets import Column
from etl.ingestion.constants import MAX_NESTING
from etl.ingestion.framing.boundaries import is_nested_deeper
from etl.ingestion.transform.conversions import array_text, converter
from etl.ingestion.transform.times import is_common_date, is_common_local, is_common_timestamp
from etl.ingestion.values import Misfit

Token = msgspec.Raw | bytes

NULL = msgspec.Raw(b"null")

SEPARATOR = b"\x1f"
"""Between the fields of CSV: no JSON token holds a control character, so it stands nowhere else."""

_ROW_SEPARATOR = b"\x1e"
_NULL_FIELD = b"null" + SEPARATOR

Accept = Callable[[Sequence[Token], set[int]], Sequence[Token]]
"""(the tokens of a column, the suspects) -> the fields; adds the places of the tokens that it cannot accept."""

_INTEGER_DIGITS = {"smallint": 4, "integer": 9, "bigint": 18}
"""So many digits fit in any case."""

_PLAIN_NUMBER = re.compile(rb"(?!-0\Z)-?[0-9]+(?:\.[0-9]+)?")
_INTEGER = re.compile(rb"-?[0-9]+")
_NUMBER = re.compile(rb"-?[0-9]+(?:\.[0-9]+)?(?:[eE][+-]?[0-9]{1,3})?")
_LONGEST_NUMBER = 1000
_SURELY_SHALLOW = MAX_NESTING
"""A value of so many bytes is not nested as deep as half as many objects or arrays."""
_NAME_LENGTH = 120

_IS_NO_TEXT = re.compile(rb'\x1f[^"n]').search
_IS_NO_FIRST_TEXT = re.compile(rb'\x1e[^"n]').search
_INTEGER_PARTS = b"0123456789-\x1f"
_NUMBER_PARTS = b"0123456789-.eE+\x1f"
_ODD = b"x"
_INTEGER_MARKS, _NUMBER_MARKS = (
    bytes(byte if byte in parts else ord(_ODD) for byte in range(256)) for parts in (_INTEGER_PARTS, _NUMBER_PARTS)
)
_DIGITS_AS_0 = bytes.maketrans(b"123456789", b"000000000")
_TIME_FORM = re.compile(rb'"0000-00-00[T ]00:00:00(?:\.0{1,6})?(?:Z|[+-]00:?00)"')
_DATE_FORM = re.compile(rb'"0000-00-00"')
_LOCAL_FORM = re.compile(rb'"0000-00-00[T ]00:00:00(?:\.0{1,6})?"')
_FORM_OF = {"date": _DATE_FORM, "timestamp": _LOCAL_FORM, "timestamptz": _TIME_FORM}
_FORMS = 8

_OTHER_ESCAPE = re.compile(rb'\\[^"\\]').search
_ESCAPE_AT_END = re.compile(rb"\\(?:u[0-9a-fA-F]{4}|.)\Z").search
_texts = msgspec.json.Decoder(list[str | None]).decode
_UNESCAPABLE = (msgspec.MsgspecError, ValueError)
_ESCAPE = re.compile(rb'\\(?:u[0-9a-fA-F]{4}(?:\\u[0-9a-fA-F]{4})*|[^"u])')  # numbered ones: two may be one character
_ESCAPED = {
    b"\\/": b"/",
    b"\\b": b"\b",
    b"\\f": b"\f",
    b"\\n": b"\n",
    b"\\r": b"\r",
    b"\\t": b"\t",
}


def acceptor(column: Column) -> Accept:
    """Return the check of a column, with its limits and what counts as none."""
    check = _CHECKS[column.type](column)
    if column.timezone or column.formats:
        check = _converted(column)
    if column.default is not None:
        check = _or_default(check, field_of(column, column.default) or NULL)
    elif column.required:
        check = _required(check)
    if column.null_if:
        check = _null_if(check, column.null_if)
    return _trimmed(check) if column.trim else check


def kind_together(column: Column, *, is_guarded: bool) -> str | None:
    """Return which columns this one is looked at with, all at once, or None where it is looked at by itself.

    `is_guarded`: the table itself refuses what the limits of the column do.
    """
    limits = (column.min, column.above, column.max, column.max_length)
    has_limits = column.required or column.one_of or any(limit is not None for limit in limits)
    is_changed = column.null_if or column.trim or column.default is not None or column.formats or column.timezone
    if column.value is not None or column.path == "#" or is_changed or (has_limits and not is_guarded):
        return None
    if column.type in _INTEGER_DIGITS:
        return "integer"
    if column.type == "text" and (column.max_length is None or column.max_length > _NAME_LENGTH):
        return "free text"  # in which escapes are common, and all that are looked at together pay for them
    return column.type if column.type in {"text", "numeric", *_FORM_OF} else None


def accept_together(kind: str, rows: Sequence[Token]) -> Sequence[Token] | None:
    """Return the fields of columns of one kind, joined for each row, as CSV writes them, or None: nothing accepts."""
    if kind in {"text", "free text"}:
        return _texts_together(rows)
    joined = SEPARATOR.join(rows)
    if kind in _FORM_OF:
        return rows if _are_of_form(_FORM_OF[kind], joined) else None
    return rows if _are_numbers(joined, is_integer=kind == "integer") else None


def odd_numbers(kind: str, rows: Sequence[Token], width: int) -> list[int] | None:
    """Return the places of the rows, each of `width` columns, that hold what no number holds; None for other kinds."""
    if kind not in {"integer", "numeric"}:
        return None
    marked = (
        SEPARATOR.join(rows).replace(b"null", b"").translate(_INTEGER_MARKS if kind == "integer" else _NUMBER_MARKS)
    )
    places: dict[int, None] = {}
    token = searched = 0
    at = marked.find(_ODD)
    while at >= 0:
        token += marked.count(SEPARATOR, searched, at)
        places[token // width] = None
        searched, at = at, marked.find(_ODD, at + 1)
    return list(places)


def _texts_together(rows: Sequence[Token]) -> Sequence[Token] | None:
    joined = _ROW_SEPARATOR.join(rows)
    if _IS_NO_TEXT(SEPARATOR + joined) or _IS_NO_FIRST_TEXT(joined):
        return None
    if not _OTHER_ESCAPE(joined):
        return rows
    try:
        fields = _without_escapes(joined).split(_ROW_SEPARATOR)
    except _UNESCAPABLE:
        return None
    return fields if len(fields) == len(rows) else None


def _are_numbers(joined: bytes, *, is_integer: bool) -> bool:
    return not joined.translate(None, _INTEGER_PARTS if is_integer else _NUMBER_PARTS).replace(b"null", b"")


def _are_of_form(form: re.Pattern[bytes], joined: bytes) -> bool:
    """Tell whether all dates or times are of a known form; what their digits mean is the server's to judge."""
    rest = joined.translate(_DIGITS_AS_0) + SEPARATOR
    first = _first_but_null(rest)
    # Neither overlaps the other: where both are together as long as the whole, there is nothing else.
    size = len(first) * rest.count(first) + len(_NULL_FIELD) * rest.count(_NULL_FIELD)
    if size == len(rest) and b"." not in first and form.fullmatch(first[:-1]):
        return True
    rest = rest.replace(_NULL_FIELD, b"")
    for _ in range(_FORMS):
        if not rest:
            # PostgreSQL takes a part of a leap second, which C5 does not.
            return b":60." not in joined
        found = rest[: rest.index(SEPARATOR) + 1]
        if not form.fullmatch(found[:-1]):
            return False
        rest = rest.replace(found, b"")
    return False


def _first_but_null(fields: bytes) -> bytes:
    """Return the first field with its separator that is not null, or the last one."""
    at = 0
    while fields.startswith(_NULL_FIELD, at) and at + len(_NULL_FIELD) < len(fields):
        at += len(_NULL_FIELD)
    return fields[at : fields.index(SEPARATOR, at) + 1]


def constant(column: Column) -> bytes | None:
    """Return the field of a column that has the same value in each row, or None where it is not to be told so."""
    if column.value is None:
        return None
    if column.value in column.null_if:
        return None if column.required else b"null"
    if any(not isinstance(value, str) for value in column.null_if):
        return None
    return field_of(column, column.value)


def field_of(column: Column, value: str | bool | float) -> bytes | None:
    """Return the field of a value that the definition gives a column, or None where it is no simple one."""
    try:
        text = converter(column)(Decimal(str(value)) if isinstance(value, float) else value)
    except Misfit:
        return None
    return None if "\\" in text else b'"%b"' % text.replace('"', '\\"').encode()


def _suspect(tokens: Iterable[Token], suspects: set[int], is_fit: Callable[[bytes], object]) -> None:
    suspects.update(place for place, token in enumerate(tokens) if not is_fit(bytes(token)))


def _is_null(token: bytes) -> bool:
    return token == b"null"


def _required(check: Accept) -> Accept:
    def accept(tokens: Sequence[Token], suspects: set[int]) -> Sequence[Token]:
        if b"null" in SEPARATOR.join(tokens):
            _suspect(tokens, suspects, lambda token: not _is_null(token))
        return check(tokens, suspects)

    return accept


def _null_if(check: Accept, values: Iterable[str | int | float]) -> Accept:
    texts = frozenset(msgspec.json.encode(value) for value in values if isinstance(value, str))
    numbers = frozenset(Decimal(str(value)) for value in values if not isinstance(value, str))

    def nulled(token: Token) -> Token:
        written = bytes(token)
        if written[:1] == b'"':
            return NULL if written in texts else token
        if not numbers or written[:1] not in b"-0123456789":
            return token
        try:
            return NULL if Decimal(written.decode()) in numbers else token
        except InvalidOperation:
            return token  # An exponent beyond all numbers that a definition can name.

    def accept(tokens: Sequence[Token], suspects: set[int]) -> Sequence[Token]:
        if texts:
            # The same text may be written in another way.
            _suspect(tokens, suspects, lambda token: b"\\" not in token)
        return check([nulled(token) for token in tokens], suspects)

    return accept


def _or_default(check: Accept, field: Token) -> Accept:
    def accept(tokens: Sequence[Token], suspects: set[int]) -> Sequence[Token]:
        fields = check(tokens, suspects)
        return [field if _is_null(bytes(token)) else token for token in fields]

    return accept


def _trimmed(check: Accept) -> Accept:
    def trimmed(token: Token) -> Token | None:
        written = bytes(token)
        if written[:1] != b'"':
            return token
        inner = written[1:-1]
        inner = inner.strip(b" ") if inner.isascii() else inner.decode().strip().encode()
        # What an escape stands for may be white space, too.
        return None if inner[:1] == b"\\" or _ESCAPE_AT_END(inner) else b'"%b"' % inner

    return lambda tokens, suspects: check(_known(map(trimmed, tokens), suspects), suspects)


def _known(fields: Iterable[Token | None], suspects: set[int]) -> list[Token]:
    """Return the fields with null for those that are not known, whose places become suspects."""
    found = list(fields)
    suspects.update(place for place, field in enumerate(found) if field is None)
    return [NULL if field is None else field for field in found]


def _converted(column: Column) -> Accept:
    """Return the check of dates or times that are to be written anew, where they are not as the type wants them."""
    convert = converter(column)
    is_common = _COMMON[column.type]

    def field(token: Token) -> Token | None:
        written = bytes(token)
        if written == b"null" or (written[:1] == b'"' and is_common(written[1:-1].decode())):
            return token
        if b"\\" in written or written[:1] not in b'"-0123456789':
            return None
        try:
            return b'"%b"' % convert(_number_or_text(written)).encode()
        except (Misfit, InvalidOperation):
            return None

    return lambda tokens, suspects: _known(map(field, tokens), suspects)


def _number_or_text(written: bytes) -> str | int | Decimal:
    if written[:1] == b'"':
        return written[1:-1].decode()
    return int(written) if _INTEGER.fullmatch(written) and len(written) < _LONGEST_NUMBER else Decimal(written.decode())


def _array(_column: Column) -> Accept:
    def field(token: Token) -> Token | None:
        written = bytes(token)
        if written == b"null":
            return token
        try:
            text = array_text(_texts(written))
        except (Misfit, *_UNESCAPABLE):
            return None
        return b'"%b"' % text.encode().replace(b"\\", b"\\\\").replace(b'"', b'\\"')

    return lambda tokens, suspects: _known(map(field, tokens), suspects)


def _text(column: Column) -> Accept:
    max_length = column.max_length
    allowed = frozenset([b"null", *(msgspec.json.encode(value) for value in column.one_of)])

    def is_fit(token: bytes) -> bool:
        if token[:1] == b'"':
            if max_length is None or len(token) - 2 <= max_length:
                return True
            return b"\\" not in token and len(token.decode()) - 2 <= max_length
        if token in {b"null", b"true", b"false"}:
            return max_length is None or token == b"null" or len(token) <= max_length
        most = _LONGEST_NUMBER if max_length is None else min(max_length, _LONGEST_NUMBER)
        return len(token) <= most and _PLAIN_NUMBER.fullmatch(token) is not None

    def accept(tokens: Sequence[Token], suspects: set[int]) -> Sequence[Token]:
        joined = SEPARATOR.join(tokens)
        has_long = max_length is not None and max(map(len, tokens)) > max_length + 2
        are_texts = len(tokens) > 1 and joined.count(b'"\x1f"') == len(tokens) - 1
        if has_long or not (are_texts or _IS_NO_TEXT(SEPARATOR + joined) is None):
            _suspect(tokens, suspects, is_fit)
        if column.one_of:
            _suspect(tokens, suspects, allowed.__contains__)
        return _unescaped(tokens, joined, suspects) if b"\\" in joined else tokens

    return accept


def _unescaped(tokens: Sequence[Token], joined: bytes, suspects: set[int]) -> Sequence[Token]:
    """Return the tokens as CSV writes them, where only a quote and a backslash are escaped."""
    if not _OTHER_ESCAPE(joined):
        return tokens
    try:
        fields = _without_escapes(joined).split(SEPARATOR)
    except _UNESCAPABLE:
        fields = []
    # An escape may stand for the separator.
    return fields if len(fields) == len(tokens) else _unescaped_singly(tokens, suspects)


def _unescaped_singly(tokens: Sequence[Token], suspects: set[int]) -> list[Token]:
    fields: list[Token] = []
    for place, token in enumerate(tokens):
        try:
            fields.append(_without_escapes(bytes(token)))
        except _UNESCAPABLE:
            suspects.add(place)
            fields.append(NULL)
    return fields


def _without_escapes(tokens: bytes) -> bytes:
    """Put the characters for which escapes stand, but for a quote and a backslash.

    Raises one of _UNESCAPABLE for a NUL and for half a surrogate pair.
    """
    if b"\\" not in tokens:
        return tokens
    # A NUL, which no token holds, stands for a backslash meanwhile: what is left of them begins an escape.
    alone = tokens.replace(b"\\\\", b"\0")
    return _ESCAPE.sub(_characters, alone).replace(b"\0", b"\\\\")


def _characters(match: re.Match[bytes]) -> bytes:
    return _characters_of(match[0])


@lru_cache(maxsize=10_000)
def _characters_of(escapes: bytes) -> bytes:
    if escapes in _ESCAPED:
        return _ESCAPED[escapes]
    characters: str = msgspec.json.decode(b'"%b"' % escapes, type=str)
    if "\0" in characters:
        raise ValueError("a NUL character")
    return characters.replace("\\", "\\\\").replace('"', '\\"').encode()


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
        """Tell whether a number is within the limits."""
        return (
            (self._least is None or number >= self._least)
            and (self._above is None or number > self._above)
            and (self._most is None or number <= self._most)
        )

    def surely_hold(self, joined: bytes) -> bool:
        """Tell whether all numbers of a column are within the limits; no, also where they may be at one of them."""
        return not self.doubtful(joined)

    def doubtful(self, joined: bytes) -> Sequence[int]:
        """Return the places of the numbers of a column that do not surely hold.

        Rounding to a float passes over no other float, so what is beyond the float of a limit is beyond the limit.
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
        """Return the numbers of a column as floats, one within the limits for null; None where there is none such."""
        if self._inside is None:
            return None
        return list(map(float, joined.replace(b"null", self._inside).split(SEPARATOR)))


def _number(column: Column) -> Accept:
    digits = _INTEGER_DIGITS.get(column.type)
    number = _INTEGER if digits else _NUMBER
    bounds = _Bounds(column)

    def is_fit(token: bytes) -> bool:
        if token == b"null":
            return True
        if token[:1] == b'"':
            token = token[1:-1]
        if len(token) > _LONGEST_NUMBER or not number.fullmatch(token) or (column.type == "double" and token == b"-0"):
            return False
        if digits and len(token) > digits:
            return False
        if bounds.are_none or column.type == "double":
            return bounds.are_none or bounds.surely_hold(token)
        return bounds.hold(Decimal(token.decode()))

    def accept(tokens: Sequence[Token], suspects: set[int]) -> Sequence[Token]:
        joined = SEPARATOR.join(tokens)
        # The zero of a double keeps the sign that an integer does not have.
        is_signed_zero = column.type == "double" and b"-0" in joined
        are_numbers = not is_signed_zero and _are_numbers(joined, is_integer=bool(digits))
        are_short = not digits or max(map(len, tokens)) <= digits
        if not (are_numbers and are_short):
            _suspect(tokens, suspects, is_fit)
        elif not bounds.are_none:
            suspects.update(place for place in bounds.doubtful(joined) if not is_fit(bytes(tokens[place])))
        return tokens

    return accept


def _boolean(_column: Column) -> Accept:
    words = frozenset([b"null", b"true", b"false", b'"true"', b'"false"'])

    def accept(tokens: Sequence[Token], suspects: set[int]) -> Sequence[Token]:
        _suspect(tokens, suspects, words.__contains__)
        return tokens

    return accept


def _moment(form: re.Pattern[bytes], is_common: Callable[[str], object]) -> Callable[[Column], Accept]:
    """Return the check of dates or times of a form."""

    def is_fit(token: bytes) -> bool:
        return token == b"null" or is_common(token[1:-1].decode()) is not None

    def accept(tokens: Sequence[Token], suspects: set[int]) -> Sequence[Token]:
        if not _are_of_form(form, SEPARATOR.join(tokens)):
            _suspect(tokens, suspects, is_fit)
        return tokens

    return lambda _column: accept


def _jsonb(_column: Column) -> Accept:
    def quoted(token: Token) -> Token:
        written = bytes(token)
        if written == b"null":
            return token
        return b'"%b"' % written.replace(b"\\", b"\\\\").replace(b'"', b'\\"')

    def accept(tokens: Sequence[Token], suspects: set[int]) -> Sequence[Token]:
        if max(map(len, tokens)) > _SURELY_SHALLOW:
            _suspect(tokens, suspects, lambda token: not is_nested_deeper(token, MAX_NESTING // 2))
        return [quoted(token) for token in tokens]

    return accept


_COMMON = {"date": is_common_date, "timestamp": is_common_local, "timestamptz": is_common_timestamp}

_CHECKS: dict[str, Callable[[Column], Accept]] = {
    "text": _text,
    "smallint": _number,
    "integer": _number,
    "bigint": _number,
    "numeric": _number,
    "double": _number,
    "boolean": _boolean,
    "date": _moment(_DATE_FORM, is_common_date),
    "timestamp": _moment(_LOCAL_FORM, is_common_local),
    "timestamptz": _moment(_TIME_FORM, is_common_timestamp),
    "jsonb": _jsonb,
    "text[]": _array,
}
