"""Dates and times: their conversions, and the checks of their tokens. Pure.

ISO 8601 goes to PostgreSQL as it is written; PostgreSQL rounds it to the nearest microsecond, half to even. A local
time goes with the name of its zone, so that PostgreSQL resolves what a clock change makes ambiguous. A value in another
format is sent as ISO 8601.
"""

import re
from collections import deque
from collections.abc import Callable, Collection, Sequence
from datetime import date, datetime, time
from decimal import InvalidOperation
from itertools import repeat
from typing import Any, assert_never

from etl.datasets import Column
from etl.datasets.types import TimeType
from etl.ingestion.transform.limits import bounds_check
from etl.ingestion.transform.reformatting import IsoForms, Reformatter
from etl.ingestion.transform.rules import Accept, Accepted, Convert, ConvertAll, Group, Rules, Token, convert_none
from etl.ingestion.transform.time_formats import with_formats
from etl.ingestion.transform.tokens import (
    NULL,
    NULL_FIELD,
    SEPARATOR,
    are_few,
    columns_of_rows,
    each_accepted,
    known,
    number_or_text,
    starts,
)
from etl.ingestion.values import Misfit
from etl.quick_dataclasses import dataclass

_DATE = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")
_TIMESTAMP = re.compile(
    r"([0-9]{4}-[0-9]{2}-[0-9]{2})[T ]([0-9]{2}):([0-9]{2})(?::([0-9]{2})(?:\.([0-9]+))?)?"
    r" ?(?:(Z)|[+-]([0-9]{2})(?::?([0-9]{2}))?)?"
)
_CLOCK = re.compile(r"([0-9]{2}):([0-9]{2})(?::([0-9]{2})(?:\.([0-9]+))?)?( ?(?:Z|[+-][0-9]{2}(?::?[0-9]{2})?))?")

# Days that every year has; February 29 is looked up in the calendar.
_DAY = (
    r"(?!0000)[0-9]{4}-"
    r"(?:(?:0[1-9]|1[0-2])-(?:0[1-9]|1[0-9]|2[0-8])|(?:0[13-9]|1[0-2])-(?:29|30)|(?:0[13578]|1[02])-31)"
)
_TIME = r"[T ](?:[01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](?:\.[0-9]{1,6})?"
_is_common_clock = re.compile(r"(?:[01][0-9]|2[0-3]):[0-5][0-9](?::[0-5][0-9](?:\.[0-9]{1,6})?)?").fullmatch
_is_common_date = re.compile(_DAY).fullmatch
_is_common_local = re.compile(_DAY + _TIME).fullmatch
_is_common_instant = re.compile(_DAY + _TIME + r"(?:Z|[+-](?:0[0-9]|1[0-5]):?[0-5][0-9])").fullmatch

# The forms of common values, with 0 for each digit.
_DIGITS_AS_0 = str.maketrans("123456789", "000000000")
_DATE_FORM = re.compile(r"0000-00-00").fullmatch
_CLOCK_FORM = re.compile(r"00:00(?::00(?:\.0{1,6})?)?").fullmatch
_LOCAL_FORM = re.compile(r"0000-00-00[T ]00:00:00(?:\.0{1,6})?").fullmatch
_UTC_FORM = re.compile(r"0000-00-00[T ]00:00:00(?:\.0{1,6})?Z").fullmatch
_TOKEN_DIGITS_AS_0 = bytes.maketrans(b"123456789", b"000000000")
_DATE_TOKEN_FORM = re.compile(rb'"0000-00-00"')
_CLOCK_TOKEN_FORM = re.compile(rb'"00:00(?::00(?:\.0{1,6})?)?"')
_LOCAL_TOKEN_FORM = re.compile(rb'"0000-00-00[T ]00:00:00(?:\.0{1,6})?"')
_INSTANT_TOKEN_FORM = re.compile(rb'"0000-00-00[T ]00:00:00(?:\.0{1,6})?(?:Z|[+-]00:?00)"')
# PostgreSQL accepts a fraction of a leap second; the conversion does not.
_LEAP_FRACTION = b":60."
_FRACTIONS_OF_LEAP_SECONDS = re.compile(_LEAP_FRACTION.replace(b".", rb"\.")).finditer
_FORMS = 8
"""A column with more different forms is checked value by value."""

# PostgreSQL reads a fraction as a double, and no time that is longer than 128 characters.
_FRACTION_DIGITS = 15


@dataclass(frozen=True, kw_only=True)
class _Kind:
    """How one type of times is written.

    `iso` converts ISO 8601, and `is_common` recognises the spellings of it that need no closer look. `write` gives the
    text of what a format has read.
    """

    iso: Convert
    is_common: Callable[[str], object]
    convert_all: ConvertAll
    group: Group
    iso_forms: IsoForms
    write: Callable[[datetime], str]


def rules(column: Column, type_: TimeType) -> Rules:
    """Return the rules of a column of dates or times."""
    kind = _kind(column, type_)
    convert = with_formats(column.formats, kind.iso, kind.write) if column.formats else kind.iso
    if check := bounds_check(column, _microseconds):
        convert = _within_bounds(convert, check)
        accept = each_accepted(_field(convert, lambda text: None, is_rewritten=True))
        return Rules(convert=convert, convert_all=convert_none, accept=accept, group=kind.group)
    accept = _acceptor(column, kind, convert)
    return Rules(convert=convert, convert_all=kind.convert_all, accept=accept, group=kind.group)


def _kind(column: Column, type_: TimeType) -> _Kind:
    match type_.name:
        case "date":
            return _Kind(
                iso=_date,
                is_common=_is_common_date,
                convert_all=_convert_all(_DATE_FORM, date.fromisoformat),
                group=_DATES,
                iso_forms=IsoForms(common=_DATE_TOKEN_FORM, local=None, is_any=_DATE.fullmatch),
                write=lambda moment: moment.date().isoformat(),
            )
        case "time":
            return _Kind(
                iso=_clock,
                is_common=_is_common_clock,
                convert_all=_convert_all(_CLOCK_FORM, time.fromisoformat),
                group=_CLOCKS,
                iso_forms=IsoForms(common=_CLOCK_TOKEN_FORM, local=None, is_any=_CLOCK.fullmatch),
                write=lambda moment: moment.time().isoformat(),
            )
        case "timestamp":
            return _Kind(
                iso=_timestamp,
                is_common=_is_common_local,
                convert_all=_convert_all(_LOCAL_FORM, datetime.fromisoformat),
                group=_LOCAL_TIMES,
                iso_forms=IsoForms(common=_LOCAL_TOKEN_FORM, local=None, is_any=_is_any_moment),
                write=lambda moment: moment.replace(tzinfo=None).isoformat(),
            )
        case "timestamptz":
            return _Kind(
                iso=_timestamptz(column.timezone),
                is_common=_is_common_instant,
                convert_all=_convert_all(_UTC_FORM, datetime.fromisoformat),
                group=_INSTANTS,
                iso_forms=IsoForms(common=_INSTANT_TOKEN_FORM, local=_LOCAL_TOKEN_FORM, is_any=_is_any_moment),
                write=lambda moment: moment.isoformat() if moment.tzinfo else f"{moment.isoformat()} {column.timezone}",
            )
        case _:
            assert_never(type_.name)


def _is_any_moment(text: str) -> bool:
    return bool(_TIMESTAMP.fullmatch(text) or _DATE.fullmatch(text))


def _date(value: Any) -> str:
    if isinstance(value, str):
        if _is_common_date(value):
            return value
        if _DATE.fullmatch(value):
            _require_day(value)
            return value
    raise Misfit("22007", "expected a date as YYYY-MM-DD, got something else")


def _clock(value: Any) -> str:
    if isinstance(value, str):
        if _is_common_clock(value):
            return value
        match = _CLOCK.fullmatch(value)
        if match:
            *clock, zone = match.groups(default="")
            if zone:
                raise Misfit("22007", "the time has a zone, and a time of day has none")
            _require_clock(*clock)
            return _shortened(match, 4)
    raise Misfit("22007", "expected an ISO 8601 time of day such as 08:15:00, got something else")


def _microseconds(text: str) -> int:
    """Return the microseconds of a time of day since midnight, as PostgreSQL rounds them."""
    hour, minute, second = f"{text}:00".split(":")[:3]
    whole, _, fraction = second.partition(".")
    seconds = (int(hour) * 60 + int(minute)) * 60 + int(whole)
    return seconds * 1_000_000 + round(float(f"0.{fraction or 0}") * 1_000_000)


def _within_bounds(convert: Convert, check: Callable[[int], None]) -> Convert:
    def convert_within(value: Any) -> str:
        text = convert(value)
        check(_microseconds(text))
        return text

    return convert_within


def _timestamp(value: Any) -> str:
    if isinstance(value, str):
        if _is_common_local(value):
            return value
        match = _TIMESTAMP.fullmatch(value)
        if match:
            if match[6] or match[7]:
                raise Misfit("22007", "the time has a zone, and a timestamp has none")
            return _checked(match)
        if _DATE.fullmatch(value):
            _require_day(value)
            return value
    raise Misfit("22007", "expected an ISO 8601 time such as 2026-11-21T08:15:00, got something else")


def _timestamptz(timezone: str | None) -> Callable[[Any], str]:
    def convert(value: Any) -> str:
        if isinstance(value, str):
            if _is_common_instant(value):
                return value
            match = _TIMESTAMP.fullmatch(value)
            if match and (match[6] or match[7]):
                return _checked(match)
            if match and timezone is None:
                raise Misfit("22007", "the time has no zone")
            if match:
                return f"{_checked(match)} {timezone}"
            if timezone is not None and _DATE.fullmatch(value):
                _require_day(value)
                return f"{value} {timezone}"
        raise Misfit("22007", "expected an ISO 8601 time such as 2026-11-21T08:15:00Z, got something else")

    return convert


def _checked(match: re.Match[str]) -> str:
    day, *clock, _, zone_hour, zone_minute = match.groups(default="")
    _require_day(day)
    _require_clock(*clock)
    if zone_hour > "15" or zone_minute > "59":
        raise Misfit("22009", "the zone is 16 hours or more from UTC, or has 60 minutes or more")
    return _shortened(match, 5)


def _require_clock(hour: str, minute: str, second: str, fraction: str) -> None:
    has_more = bool(fraction.strip("0"))
    is_end_of_day = (hour, minute, second or "00", has_more) == ("24", "00", "00", False)
    is_leap_second = second == "60" and not has_more
    if (hour > "23" and not is_end_of_day) or minute > "59" or (second > "59" and not is_leap_second):
        raise Misfit("22008", "the time of day does not exist")


def _shortened(match: re.Match[str], fraction: int) -> str:
    """Return the text of a time with no more digits in the group of its fraction than PostgreSQL reads."""
    start, end = match.span(fraction)
    text = match.string
    return text if end - start <= _FRACTION_DIGITS else text[: start + _FRACTION_DIGITS] + text[end:]


def _require_day(text: str) -> None:
    try:
        date.fromisoformat(text)
    except ValueError:
        raise Misfit("22008", "the day does not exist in the calendar") from None


def _convert_all(is_of_form: Callable[[str], object], read: Callable[[str], object]) -> ConvertAll:
    """Return the conversion of a whole column of common spellings, each of which Python reads."""

    def convert_all(values: Sequence[Any]) -> Sequence[str] | None:
        try:
            joined = "\n".join(values)
        except TypeError:  # One is no text.
            return None
        if not all(map(is_of_form, _forms(joined, len(values)))):
            return None
        try:
            deque(map(read, values), maxlen=0)
        except ValueError:
            return None
        return values

    return convert_all


def _forms(joined: str, count: int) -> Collection[str]:
    """Return the different forms, with 0 for each digit, of so many values, each on a line."""
    forms = joined.translate(_DIGITS_AS_0)
    first = forms.partition("\n")[0]
    if forms == "\n".join(repeat(first, count)):  # Mostly all are alike.
        return (first,)
    return set(forms.split("\n"))


def _are_of_form(form: re.Pattern[bytes], joined: bytes) -> bool:
    """Return whether all tokens are of a known form; the server decides what their digits mean."""
    rest = joined.translate(_TOKEN_DIGITS_AS_0) + SEPARATOR
    first = _first_not_null(rest)
    # They do not overlap: if all copies of both are as long as the whole, there is nothing else.
    size = len(first) * rest.count(first) + len(NULL_FIELD) * rest.count(NULL_FIELD)
    if size == len(rest) and b"." not in first and form.fullmatch(first[:-1]):
        return True
    rest = rest.replace(NULL_FIELD, b"")
    for _ in range(_FORMS):
        if not rest:
            return _LEAP_FRACTION not in joined
        field = rest[: rest.index(SEPARATOR) + 1]
        if not form.fullmatch(field[:-1]):
            return False
        rest = rest.replace(field, b"")
    return False


def _first_not_null(fields: bytes) -> bytes:
    """Return the first field, with its separator, that is not null; the last one if all are null."""
    start = 0
    while fields.startswith(NULL_FIELD, start) and start + len(NULL_FIELD) < len(fields):
        start += len(NULL_FIELD)
    return fields[start : fields.index(SEPARATOR, start) + 1]


def _group(name: str, form: re.Pattern[bytes]) -> Group:
    others = re.compile(rb"\x1f(?!(?:%b|null)\x1f|\Z)" % form.pattern).finditer

    def accept(rows: Sequence[Token], width: int) -> Accepted | None:
        joined = SEPARATOR.join(rows)
        if _are_of_form(form, joined):
            return rows, {}
        fields = SEPARATOR + joined + SEPARATOR
        positions = {*starts(others(fields.translate(_TOKEN_DIGITS_AS_0)))}
        positions.update(starts(_FRACTIONS_OF_LEAP_SECONDS(fields)))
        odd = columns_of_rows(sorted(positions), fields, width)
        return (rows, odd) if are_few(odd, rows) else None

    return Group(name=name, accept=accept)


_DATES = _group("date", _DATE_TOKEN_FORM)
_CLOCKS = _group("time", _CLOCK_TOKEN_FORM)
_LOCAL_TIMES = _group("timestamp", _LOCAL_TOKEN_FORM)
_INSTANTS = _group("timestamptz", _INSTANT_TOKEN_FORM)


def _acceptor(column: Column, kind: _Kind, convert: Convert) -> Accept:
    """Return the check of a column alone: its values are sent as they are, or converted to ISO 8601."""
    is_rewritten = bool(column.formats or column.timezone)
    field = _field(convert, kind.is_common, is_rewritten=is_rewritten)
    reformatter = Reformatter(column=column, iso=kind.iso_forms)

    def accept(tokens: Sequence[Token], suspects: set[int]) -> Sequence[Token]:
        made = reformatter.fields(tokens)
        if made is None:
            return known(map(field, tokens), suspects)
        fields: list[Token] = list(made[0])
        for place in made[1]:
            own = field(tokens[place])
            if own is None:
                suspects.add(place)
            fields[place] = NULL if own is None else own
        return fields

    return accept


def _field(
    convert: Convert, is_common: Callable[[str], object], *, is_rewritten: bool
) -> Callable[[Token], Token | None]:
    """Return the function that makes the field of one token, or None where only the checked path can."""

    def field(token: Token) -> Token | None:
        text = bytes(token).replace(b"\\/", b"/")
        if text == b"null" or (text[:1] == b'"' and is_common(text[1:-1].decode())):
            return token
        if not is_rewritten or b"\\" in text or text[:1] not in b'"-0123456789':
            return None
        try:
            return b'"%b"' % convert(number_or_text(text)).encode()
        except (Misfit, InvalidOperation):
            return None

    return field
