"""The forms of texts: a number, a date, a word for no value. Pure; the loader's conversions decide what fits a type."""

import re
from datetime import datetime

from etl.datasets import Column
from etl.datasets.types import INFERRED_TIMES
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

_LONGEST = 40
"""No number, day or instant is longer."""

_INTEGER = re.compile(r"-?(?:0|[1-9][0-9]*)")
_PADDED = re.compile(r"0[0-9]+")
_DECIMAL = re.compile(r"-?(?:0|[1-9][0-9]*)\.[0-9]+")

_ISO = {name: converter(Column(type=name)) for name in INFERRED_TIMES}

_DAYS = (
    (re.compile(r"[0-9]{1,2}\.[0-9]{1,2}\.[0-9]{4}"), ("%d.%m.%Y",)),
    (re.compile(r"[0-9]{1,2}\.[0-9]{1,2}\.[0-9]{2}"), ("%d.%m.%y",)),
    (re.compile(r"[0-9]{1,2}/[0-9]{1,2}/[0-9]{4}"), ("%d/%m/%Y", "%m/%d/%Y")),
    (re.compile(r"[0-9]{1,2}/[0-9]{1,2}/[0-9]{2}"), ("%d/%m/%y", "%m/%d/%y")),
    (re.compile(r"[0-9]{1,2}-[0-9]{1,2}-[0-9]{4}"), ("%d-%m-%Y", "%m-%d-%Y")),
    (re.compile(r"[0-9]{4}/[0-9]{1,2}/[0-9]{1,2}"), ("%Y/%m/%d",)),
    (re.compile(r"[0-9]{1,2}-[A-Za-z]{3}-[0-9]{4}"), ("%d-%b-%Y",)),
    (re.compile(r"[0-9]{1,2}-[A-Za-z]{3}-[0-9]{2}"), ("%d-%b-%y",)),
    (re.compile(r"[0-9]{1,2} [A-Za-z]{3} [0-9]{4}"), ("%d %b %Y",)),
    (re.compile(r"[A-Za-z]{3} [0-9]{1,2}, [0-9]{4}"), ("%b %d, %Y",)),
)
_TIMES = (
    (re.compile(r"[0-9]{1,2}:[0-9]{2}"), "%H:%M"),
    (re.compile(r"[0-9]{1,2}:[0-9]{2}:[0-9]{2}"), "%H:%M:%S"),
    (re.compile(r"[0-9]{1,2}:[0-9]{2} [AaPp][Mm]"), "%I:%M %p"),
    (re.compile(r"[0-9]{1,2}:[0-9]{2}:[0-9]{2} [AaPp][Mm]"), "%I:%M:%S %p"),
)


def forms_of(text: str) -> tuple[str, ...]:
    """Return the form of a text: the name of a type, `none`, `padded` (digits after a 0), `other`, or formats of days.

    A day that can be read in two ways has two formats, such as %d/%m/%Y and %m/%d/%Y.
    """
    if text in NO_VALUE:
        return ("none",)
    if len(text) > _LONGEST or not text.isascii():
        return ("other",)
    if text[0] in "-0123456789":
        for name, pattern in (("integer", _INTEGER), ("padded", _PADDED), ("numeric", _DECIMAL)):
            if pattern.fullmatch(text):
                return (name,)
        for name, convert in _ISO.items():
            try:
                convert(text)
            except Misfit:
                continue
            return (name,)
    elif text in {"true", "false"}:
        return ("boolean",)
    return tuple(_formats(text)) or ("other",)


def is_format(form: str) -> bool:
    """Return whether a form is a format of days or instants."""
    return form.startswith("%")


def _formats(text: str) -> list[str]:
    for pattern, days in _DAYS:
        match = pattern.match(text)
        if match is None:
            continue
        rest = text[match.end() :]
        time = next((time for shape, time in _TIMES if shape.fullmatch(rest[1:]) and rest[0] in " T"), None)
        if rest and time is None:
            continue
        formats = [f"{day}{rest[0]}{time}" if time else day for day in days]
        return [form for form in formats if _is_of_format(text, form)]
    return []


def _is_of_format(text: str, format: str) -> bool:
    try:
        datetime.strptime(text, format)  # noqa: DTZ007 - only whether it can be read matters
    except ValueError:
        return False
    return True
