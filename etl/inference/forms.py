"""The forms of texts: a number, a date, a word for no value. Pure; the loader's conversions decide what fits a type."""

import json
import re
from collections.abc import Sequence
from datetime import datetime
from functools import lru_cache

from etl.datasets import Column
from etl.datasets.types import INFERRED_TIMES
from etl.inference.identifiers import words
from etl.ingestion.transform.types import converter
from etl.ingestion.values import Misfit

NO_VALUE = frozenset(
    {
        "",
        "N/A",
        "n/a",
        "NA",
        "#N/A",
        "N.A.",
        "NULL",
        "Null",
        "null",
        "None",
        "none",
        "NaN",
        "nan",
        "nil",
        "-",
        "--",
        "?",
    }
)
"""Words that mean no value where a number, a day or an instant is expected; elsewhere they may be texts."""

FLAGS = {
    **dict.fromkeys(("y", "yes", "true", "t", "on", "ja", "oui", "si", "sí", "sim", "да"), True),
    **dict.fromkeys(("n", "no", "false", "f", "off", "nein", "non", "não", "нет"), False),
}
"""Words that mean true or false, in small letters."""

SHORT = _LONGEST = 40
"""No number, day or instant is longer."""

_LONGEST_JSON = 100_000

_NUMBER_LIKE = re.compile(r"-?[0-9][0-9.,' ]*")
_INTEGER = re.compile(r"-?(?:0|[1-9][0-9]*)")
_PADDED = re.compile(r"-?0[0-9]+(?:\.[0-9]+)?")
_DECIMAL = re.compile(r"-?(?:0|[1-9][0-9]*)\.[0-9]+")
_COMMA = re.compile(r"-?(?:[1-9][0-9]{0,2}(?:[. '][0-9]{3})+|0|[1-9][0-9]*),[0-9]+")
_COMMA_GROUPS = re.compile(r"-?[1-9][0-9]{0,2}(?:,[0-9]{3})+(?:\.[0-9]+)?")
_POINT_GROUPS = re.compile(r"-?[1-9][0-9]{0,2}(?:\.[0-9]{3})+")

_ISO = {name: converter(Column(type=name)) for name in INFERRED_TIMES}

_Day = tuple[re.Pattern[str], tuple[str, ...]]

_DAYS: Sequence[_Day] = (
    (re.compile(r"[0-9]{1,2}\.[0-9]{1,2}\.[0-9]{4}"), ("%d.%m.%Y",)),
    (re.compile(r"[0-9]{1,2}\.[0-9]{1,2}\.[0-9]{2}"), ("%d.%m.%y",)),
    (re.compile(r"[0-9]{1,2}/[0-9]{1,2}/[0-9]{4}"), ("%d/%m/%Y", "%m/%d/%Y")),
    (re.compile(r"[0-9]{1,2}/[0-9]{1,2}/[0-9]{2}"), ("%d/%m/%y", "%m/%d/%y")),
    (re.compile(r"[0-9]{1,2}-[0-9]{1,2}-[0-9]{4}"), ("%d-%m-%Y", "%m-%d-%Y")),
    (re.compile(r"[0-9]{4}/[0-9]{1,2}/[0-9]{1,2}"), ("%Y/%m/%d",)),
    (re.compile(r"[0-9]{4}\.[0-9]{1,2}\.[0-9]{1,2}"), ("%Y.%m.%d",)),
    (re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}"), ("%Y-%m-%d",)),
    (re.compile(r"[0-9]{8}"), ("%Y%m%d",)),
    (re.compile(r"[0-9]{1,2}-[A-Za-z]{3}-[0-9]{4}"), ("%d-%b-%Y",)),
    (re.compile(r"[0-9]{1,2}-[A-Za-z]{3}-[0-9]{2}"), ("%d-%b-%y",)),
    (re.compile(r"[0-9]{1,2} [A-Za-z]{3} [0-9]{4}"), ("%d %b %Y",)),
    (re.compile(r"[0-9]{1,2} [A-Za-z]{4,9} [0-9]{4}"), ("%d %B %Y",)),
)
_DAYS_AFTER_WORDS: Sequence[_Day] = (
    (re.compile(r"[A-Za-z]{3} [0-9]{1,2}, [0-9]{4}"), ("%b %d, %Y",)),
    (re.compile(r"[A-Za-z]{4,9} [0-9]{1,2}, [0-9]{4}"), ("%B %d, %Y",)),
    (re.compile(r"[A-Za-z]{3} [0-9]{1,2} [0-9]{4}"), ("%b %d %Y",)),
    (re.compile(r"[A-Za-z]{4,9} [0-9]{1,2} [0-9]{4}"), ("%B %d %Y",)),
    (re.compile(r"[A-Za-z]{3}, [0-9]{1,2} [A-Za-z]{3} [0-9]{4}"), ("%a, %d %b %Y",)),
    (re.compile(r"[A-Za-z]{3} [A-Za-z]{3} [0-9]{1,2} [0-9]{4}"), ("%a %b %d %Y",)),
)
_WORDS = words("jan feb mar apr may jun jul aug sep oct nov dec mon tue wed thu fri sat sun")
"""How the names of months and weekdays begin."""

_CLOCK = r"[0-9]{1,2}:[0-9]{2}"
_TIMES = (
    (re.compile(_CLOCK), "%H:%M"),
    (re.compile(rf"{_CLOCK}:[0-9]{{2}}"), "%H:%M:%S"),
    (re.compile(rf"{_CLOCK}:[0-9]{{2}}\.[0-9]{{1,6}}"), "%H:%M:%S.%f"),
    (re.compile(rf"{_CLOCK} [AaPp][Mm]"), "%I:%M %p"),
    (re.compile(rf"{_CLOCK}:[0-9]{{2}} [AaPp][Mm]"), "%I:%M:%S %p"),
    (re.compile(rf"{_CLOCK}[AaPp][Mm]"), "%I:%M%p"),
    (re.compile(r"[0-9]{6}"), "%H%M%S"),
    (re.compile(r"[0-9]{4}"), "%H%M"),
)
_ZONE = re.compile(r"(?P<blank> ?)(?P<zone>Z|[+-][0-9]{2}:?[0-9]{2}|GMT|UTC)")
_ASPNET = re.compile(r"/Date\(-?[0-9]{1,18}(?:[+-][0-9]{4})?\)/")
_TIME_OF_DAY = re.compile(rf"{_CLOCK}(?::[0-9]{{2}}(?:\.[0-9]+)?)?")

_COMPACT_BEGINNINGS = frozenset({"19", "20"})
_COMPACT_LENGTHS = frozenset({8, 12, 14})


@lru_cache(10_000)
def forms_of_short(text: str) -> tuple[str, ...]:
    """Return the forms of a text of at most SHORT characters; they are remembered, because many texts come again."""
    return forms_of(text)


def forms_of(text: str) -> tuple[str, ...]:  # noqa: PLR0911 - one for each family of forms
    """Return the forms of a text: the name of a type, `none`, `padded` (digits after a 0), `other`, or formats of days.

    Others are `json` (an object or array), `comma` and `comma_groups` (12,5 and 1,234), `point_groups` (1.234) and
    `clock`. A day that can be read in two ways has two formats, such as %d/%m/%Y and %m/%d/%Y.
    """
    if text in NO_VALUE:
        return ("none",)
    if text[0] in "{[" and _is_json(text):
        return ("json",)
    if len(text) > _LONGEST or not text.isascii():
        return ("other",)
    if text[0] in "-0123456789":
        if forms := _numbers(text) or _iso(text):
            return forms
    elif text in {"true", "false"}:
        return ("boolean",)
    elif text[0] == "/" and _ASPNET.fullmatch(text):
        return ("aspnet",)
    if _TIME_OF_DAY.fullmatch(text):
        return ("clock",)
    return tuple(_formats(text)) or ("other",)


def is_format(form: str) -> bool:
    """Return whether a form is a format of days or instants."""
    return form.startswith("%")


def _is_json(text: str) -> bool:
    if len(text) > _LONGEST_JSON or text[-1] not in "}]":
        return False
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


def _iso(text: str) -> tuple[str, ...]:
    for name, convert in _ISO.items() if text[4:5] == "-" else ():
        try:
            convert(text)
        except Misfit:
            continue
        return (name,)
    return ()


def _numbers(text: str) -> tuple[str, ...]:
    if not _NUMBER_LIKE.fullmatch(text):
        return ()
    if _INTEGER.fullmatch(text):
        is_compact = text[:2] in _COMPACT_BEGINNINGS and len(text) in _COMPACT_LENGTHS
        return ("integer", *(_formats(text) if is_compact else ()))
    if _PADDED.fullmatch(text):
        return ("padded",)
    if _DECIMAL.fullmatch(text):
        return ("numeric", "point_groups") if _POINT_GROUPS.fullmatch(text) else ("numeric",)
    if _POINT_GROUPS.fullmatch(text):
        return ("point_groups",)
    forms = []
    if _COMMA.fullmatch(text):
        forms.append("comma")
    if _COMMA_GROUPS.fullmatch(text):
        forms.append("comma_groups")
    return tuple(forms)


def _formats(text: str) -> list[str]:
    if not text[0].isdigit() and text[:3].lower() not in _WORDS:
        return []
    for pattern, days in _DAYS if text[0].isdigit() else _DAYS_AFTER_WORDS:
        match = pattern.match(text)
        if match is None:
            continue
        rest = _rest(text[match.end() :])
        if rest is None:
            continue
        formats = [f"{day}{rest}" for day in days]
        return [form for form in formats if _is_of_format(text, form)]
    return []


def _rest(text: str) -> str | None:
    """Return the format of what follows a day: a time of day, and perhaps a zone; None: it is something else."""
    if not text:
        return ""
    before = next((sign for sign in (" at ", ", ", " ", "T", "") if text.startswith(sign)), "")
    text = text[len(before) :]
    zone = next((match for match in _ZONE.finditer(text) if match.end() == len(text)), None)
    time = text[: zone.start()] if zone else text
    form = next((form for shape, form in _TIMES if shape.fullmatch(time)), None)
    if form is None or (not before and ":" in form):
        return None
    if zone is None:
        return f"{before}{form}"
    name = zone["zone"]
    return f"{before}{form}{zone['blank']}{name if name in {'GMT', 'UTC'} else '%z'}"


def _is_of_format(text: str, format: str) -> bool:
    try:
        datetime.strptime(text, format)  # noqa: DTZ007 - only whether it can be read matters
    except ValueError:
        return False
    return True
