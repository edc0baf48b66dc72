"""Whole columns of times -> ISO 8601, by copying digits. Pure: the fast path.

The form of a token is its text with 0 for each digit. The tokens of one form have each digit at the same place, so
that the digits of all of them are copied at once. A token whose form is not known, and a day or a time that does not
exist, are left to the conversion of single values.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import field
from datetime import date, datetime
from functools import lru_cache

import msgspec

from etl.datasets import Column
from etl.ingestion.transform.rules import Token
from etl.ingestion.transform.tokens import NULL_FIELD, SEPARATOR, UNDECODABLE
from etl.quick_dataclasses import dataclass

EPOCHS = {"epoch": 1_000_000, "epoch_s": 1_000_000, "epoch_ms": 1_000}
"""The formats that are numbers, with the microseconds of their unit."""
_READ_ALONE = frozenset({"excel", "aspnet"})
"""The formats of which each value is converted by itself."""

Fields = tuple[list[bytes], set[int]]
"""Fields of CSV, and the places of those that must be made of single tokens instead."""

_DIGITS_AS_0 = bytes.maketrans(b"123456789", b"000000000")
_MOST_FORMS = 64
_KEPT_FORMS = 1000

# The digits of ISO 8601 by the directive of a format, as places in _MOMENT.
_MOMENT = b'"0000-00-00T00:00:00'
_PLACES = {"%Y": 1, "%m": 6, "%d": 9, "%H": 12, "%M": 15, "%S": 18, "%f": 21}
_WIDTHS = {"%Y": 4, "%y": 2, "%m": 2, "%d": 2, "%H": 2, "%M": 2, "%S": 2, "%f": 6}
_TIME_PARTS = frozenset({"%H", "%M", "%S", "%f"})
_MONTH_NAMES = frozenset({"%b", "%B"})
_TENS = (b"012", b"012345", b"012345")
"""The possible first digits of hours, minutes and seconds."""
_DAY = slice(1, 11)
_existing_days: set[bytes] = set()
"""Days that were found in the calendar: a file has few different ones."""
_MOST_DAYS = 100_000
_TIME_AT = 12

_YEAR_TENS = 3
_MILLENNIUM = bytes.maketrans(b"0123456789", b"2222222111")
_CENTURY = bytes.maketrans(b"0123456789", b"0000000999")
_TURN = ord("6")
"""Years from 69 to 99 are of the last century: the tens of 60 to 69 do not show the century."""

_DIRECTIVE = re.compile(r"%.|\s+|[^%\s]+", re.DOTALL)
# The texts that a directive may match at all: a text that has another form is not of the format.
_RELAXED = {"%Y": r"\d{4}", "%y": r"\d\d", "%f": r"\d{1,6}", "%j": r"\d{1,3}", "%%": "%"}
_RELAXED |= dict.fromkeys(["%d", "%m", "%H", "%M", "%S", "%I"], r" ?\d{1,2}")

_NUMBER_FORM = re.compile(rb'"?(0+)(?:\.(0{1,6}))?"?')
_MAY_BE_NUMBER = re.compile(r"\s*[+-]?0{1,20}(?:\.0{1,20})?\s*").fullmatch
_MOST_SECONDS = 11
"""Seconds of so many digits are before the year 9999."""
_MILLI_DIGITS = 3
_END_OF_WRITTEN = b'Z",'
_LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
_moments = msgspec.json.Decoder(list[datetime], strict=False).decode

Way = Callable[[bytes, int], Fields]
"""The tokens of one form, each with a separator after it, and their number -> their fields."""


@dataclass(frozen=True, kw_only=True)
class IsoForms:
    """How a type recognises the form of ISO 8601: as it is sent unchanged, as a local time, and in all its variants."""

    common: re.Pattern[bytes]
    local: re.Pattern[bytes] | None
    is_any: Callable[[str], object]


@dataclass(frozen=True, kw_only=True)
class Reformatter:
    """Makes the fields of a column of times."""

    column: Column
    iso: IsoForms
    _ways: dict[bytes, Way | None] = field(default_factory=dict)

    def fields(self, tokens: Sequence[Token]) -> Fields | None:
        """Return the field of each token, or None where each must be converted by itself."""
        joined = SEPARATOR.join(tokens) + SEPARATOR
        forms = joined.translate(_DIGITS_AS_0)
        first = forms[: forms.index(SEPARATOR) + 1]
        if forms == first * len(tokens):
            way = self._way(first[:-1])
            return None if way is None else way(joined, len(tokens))
        return self._fields_of_forms(joined[:-1].split(SEPARATOR), forms[:-1].split(SEPARATOR))

    def _fields_of_forms(self, tokens: list[bytes], forms: list[bytes]) -> Fields | None:
        places: dict[bytes, list[int]] = {}
        for place, form in enumerate(forms):
            places.setdefault(form, []).append(place)
        if len(places) > _MOST_FORMS:
            return None
        fields, bad = tokens, set[int]()
        for form, own in places.items():
            way = self._way(form)
            if way is None:
                bad.update(own)
            elif way is not _unchanged:
                part = SEPARATOR.join([*map(tokens.__getitem__, own), b""])
                made, bad_of_form = way(part, len(own))
                for place, each in zip(own, made, strict=True):
                    fields[place] = each
                bad.update(map(own.__getitem__, bad_of_form))
        return fields, bad

    def _way(self, form: bytes) -> Way | None:
        if form not in self._ways:
            if len(self._ways) > _KEPT_FORMS:
                self._ways.clear()
            self._ways[form] = self._found_way(form)
        return self._ways[form]

    def _found_way(self, form: bytes) -> Way | None:
        if form == b"null":
            return _unchanged
        is_text = form[:1] == b'"'
        if b"\\" in form or not (is_text or _NUMBER_FORM.fullmatch(form)):
            return None
        text = form.strip(b'"').decode(errors="replace")
        if is_text and self.iso.is_any(text):
            return self._iso_way(form)
        # The first format that may fit decides: it reads the digits, or single values show that it does not fit.
        for name in self.column.formats:
            if name in _READ_ALONE:
                break
            if name in EPOCHS and _MAY_BE_NUMBER(text):
                return _epoch_way(self.column, form, milliseconds=name == "epoch_ms")
            # A number with a fraction is of no other format.
            if name not in EPOCHS and (is_text or form.isdigit()) and _may_be_of(name, text):
                return _format_way(self.column, form, text, name)
        return None

    def _iso_way(self, form: bytes) -> Way | None:
        if self.iso.common.fullmatch(form):
            zone = b""
        elif self.iso.local and self.column.timezone and self.iso.local.fullmatch(form):
            zone = f" {self.column.timezone}".encode()
        else:
            return None
        has_day = self.column.type != "time"
        check = _time_check(form + SEPARATOR, _TIME_AT if has_day else 1)

        def iso(joined: bytes, _number: int) -> Fields:
            sent = joined.replace(b'"\x1f', zone + b'"\x1f') if zone else joined
            fields = sent[:-1].split(SEPARATOR)
            bad = check(joined)
            return fields, bad | _impossible_days(fields) if has_day else bad

        return iso


def _unchanged(joined: bytes, _number: int) -> Fields:
    return joined[:-1].split(SEPARATOR), set()


def _time_check(form: bytes, at: int) -> Callable[[bytes | bytearray], set[int]]:
    """Return the function that finds fields of a form whose time of day, at the byte `at`, needs a closer look."""
    size = len(form)
    tens = [(place, allowed) for place, allowed in zip((at, at + 3, at + 6), _TENS, strict=True) if place < size - 2]
    late = re.compile(re.escape(form[at - 1 : at]) + b"2[4-9]")

    def check(fields: bytes | bytearray) -> set[int]:
        bad: set[int] = set()
        for place, allowed in tens:
            own = fields[place::size]
            if own.translate(None, allowed):
                bad.update(number for number, byte in enumerate(own) if byte not in allowed)
        if tens and late.search(fields):
            bad.update(match.start() // size for match in late.finditer(fields) if match.start() % size == at - 1)
        return bad

    return check


def _impossible_days(fields: Sequence[bytes]) -> set[int]:
    """Return the places of the fields that begin with a day which does not exist."""
    if len(_existing_days) > _MOST_DAYS:
        _existing_days.clear()
    new = {each[_DAY] for each in fields} - _existing_days
    odd = {day for day in new if not _is_day(day)}
    _existing_days.update(new - odd)
    return {place for place, each in enumerate(fields) if each[_DAY] in odd} if odd else set()


def _is_day(text: bytes) -> bool:
    try:
        date.fromisoformat(text.decode())
    except ValueError:
        return False
    return True


def _may_be_of(name: str, text: str) -> bool:
    """Return whether texts of a form may be of a format of strptime."""
    return re.fullmatch(_relaxed(name), text, re.IGNORECASE) is not None


@lru_cache
def _relaxed(name: str) -> str:
    """Return a pattern of the forms that texts of a format may have, and perhaps of others."""
    parts = []
    for part in _DIRECTIVE.findall(name):
        if part.isspace():
            parts.append(r"\s+")
        elif part[0] == "%":
            parts.append(_RELAXED.get(part, ".*"))
        else:
            parts.append(re.sub(r"\d", r"\\d", re.escape(part)))
    return "".join(parts)


@dataclass(kw_only=True)
class _Moves:
    """How the digits of a form become those of a moment: pairs of places, in the moment and in the form."""

    moment: bytearray
    pairs: list[tuple[int, int]] = field(default_factory=list)
    year_at: int | None = None
    """The place of a year of two digits in the form."""
    has_day: bool = False
    has_time: bool = False

    def add(self, directive: str, at: int, size: int) -> None:
        """Note the digits of a directive, which begin at a place of the form."""
        if directive == "%y":
            self.year_at = at
        to = _PLACES.get(directive, _YEAR_TENS)
        if directive == "%f":
            self.moment += b"." + b"0" * size
            to = len(self.moment) - size
        elif size < _WIDTHS[directive]:
            to += 1
        self.pairs += [(to + each, at + each) for each in range(size)]


def _format_way(column: Column, form: bytes, text: str, name: str) -> Way | None:
    """Return the way of a form that may be of a format of strptime, or None where single values must show it."""
    moves = _moves(text, name)
    if moves is None or not form.isascii() or (column.type == "timestamptz" and not column.timezone):
        return None
    shift = form.index(text.encode()) if text else 0
    zone = f" {column.timezone}".encode() if column.type == "timestamptz" else b""
    is_day = column.type == "date" and not moves.has_time
    template = (_MOMENT[: _DAY.stop] if is_day else bytes(moves.moment) + zone) + b'"' + SEPARATOR
    size, wide = len(template), len(form) + 1
    check = _time_check(template, _TIME_AT)

    def moved(joined: bytes, number: int) -> Fields:
        out = bytearray(template * number)
        for to, at in moves.pairs:
            out[to::size] = joined[at + shift :: wide]
        bad: set[int] = set()
        if moves.year_at is not None:
            tens = joined[moves.year_at + shift :: wide]
            out[1::size], out[2::size] = tens.translate(_MILLENNIUM), tens.translate(_CENTURY)
            bad = {place for place, byte in enumerate(tens) if byte == _TURN} if b"6" in tens else bad
        bad |= check(out)
        fields = bytes(out).split(SEPARATOR)
        fields.pop()
        if moves.has_day or column.type != "time":
            bad |= _impossible_days(fields)
        return fields if is_day else _of_type(column, fields), bad

    return moved


def _of_type(column: Column, moments: list[bytes]) -> list[bytes]:
    """Return moments as the type of a column writes them."""
    if column.type == "date":
        return [each[: _DAY.stop] + b'"' for each in moments]
    if column.type == "time":
        return [b'"' + each[_TIME_AT:] for each in moments]
    return moments


def _moves(text: str, name: str) -> _Moves | None:
    """Return the moves from the form of a text to a moment, or None where its digits may be read in several ways."""
    parts = _DIRECTIVE.findall(name)
    moves = _Moves(moment=bytearray(_MOMENT))
    found: set[str] = set()
    at = 0
    for place, part in enumerate(parts):
        if part in _WIDTHS:
            is_beside = any(other in _WIDTHS for other in (parts[place - 1 : place] + parts[place + 1 : place + 2]))
            size = len(text[at:]) - len(text[at:].lstrip("0"))
            size = min(size, _WIDTHS[part]) if is_beside else size
            if not size or size > _WIDTHS[part] or (size < _WIDTHS[part] and (is_beside or part in {"%Y", "%y"})):
                return None
            moves.add(part, at, size)
            moves.has_time |= part in _TIME_PARTS
            found.add(part)
        elif part in _MONTH_NAMES:
            size = len(text[at:]) - len(text[at:].lstrip(_LETTERS))
            month = _month(text[at : at + size], part)
            if month is None:
                return None
            moves.moment[6:8] = month
            found.add("%m")
        else:
            size = len(part)
            if text[at : at + size] != part or part[0] == "%" or (part.isspace() and part != " ") or "0" in part:
                return None
        at += size
    is_whole = at == len(text) and len(found) == sum(part[0] == "%" for part in parts)
    has_day = bool(found & {"%Y", "%y"}) and {"%m", "%d"} <= found and not {"%Y", "%y"} <= found
    has_no_day = not found & {"%Y", "%y", "%m", "%d"}
    moves.has_day = has_day
    return moves if is_whole and (has_day or has_no_day) else None


def _month(word: str, directive: str) -> bytes | None:
    """Return the number of the month with this name, as the conversion of single values reads it."""
    try:
        return b"%02d" % datetime.strptime(word, directive).month  # noqa: DTZ007 # a name has no zone
    except ValueError:
        return None


def _epoch_way(column: Column, form: bytes, *, milliseconds: bool) -> Way | None:
    """Return the way of a form that is a number of seconds, or of milliseconds, since 1970."""
    match = _NUMBER_FORM.fullmatch(form)
    if match is None or form.count(b'"') == 1:
        return None
    start, end = match.span(1)
    digits = list(range(start, end))
    cut = len(digits) - (_MILLI_DIGITS if milliseconds else 0)
    fraction = digits[cut:] + list(range(*match.span(2)))
    if not 1 <= cut <= _MOST_SECONDS or len(fraction) > _WIDTHS["%f"]:
        return None
    wide = len(form) + 1
    is_plain = not fraction and column.type == "timestamptz"
    tail = b"." + b"0" * len(fraction) if fraction else b""
    tail += (b'Z"' if column.type == "timestamptz" else b'"') + SEPARATOR

    def moved(joined: bytes, number: int) -> Fields:
        seconds = bytearray((b"0" * cut + b",") * number)
        for place, at in enumerate(digits[:cut]):
            seconds[place :: cut + 1] = joined[at::wide]
        try:
            written = msgspec.json.encode(_moments(b"[%b]" % bytes(seconds[:-1])))
        except UNDECODABLE:
            return [NULL_FIELD] * number, set(range(number))  # A leading zero.
        if is_plain:
            return written[1:-1].split(b","), set()
        out = bytearray((written[1:-1] + b",").replace(_END_OF_WRITTEN, tail))
        for place, at in enumerate(fraction, len(_MOMENT) + 1):
            out[place :: len(_MOMENT) + len(tail)] = joined[at::wide]
        fields = bytes(out).split(SEPARATOR)
        fields.pop()
        return _of_type(column, fields), set()

    return moved
