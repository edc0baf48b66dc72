"""The types and formats of days and instants, by the forms of all values at a place. Pure.

A format is proposed where all values agree, or most of them; what can be read in two ways stays text.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from etl.datasets import Type
from etl.datasets.types import INFERRED_TIMES
from etl.inference import vocabulary
from etl.inference.forms import is_format
from etl.inference.observing import Numbers, Texts

_YEARS = (946_684_800, 4_102_444_799)
_EPOCHS = (("epoch", 1), ("epoch_ms", 1_000))
"""Seconds and milliseconds of the years 2000 to 2099."""

_OTHERS = (
    (re.compile(r"[0-9]{4}-?W[0-9]{2}(?:-?[1-7])?"), "weeks of the calendar of ISO 8601"),
    (re.compile(r"-?P(?=.)(?:[0-9.]+[YMWD])*(?:T(?:[0-9.]+[HMS])+)?"), "durations of ISO 8601: type interval"),
)
"""Texts about times that no type has which is proposed."""

_DAYS = (19_000_101, 20_991_231)


@dataclass(frozen=True, kw_only=True)
class Moment:
    """The type of days or instants, with the options of a column."""

    type: Type
    formats: tuple[str, ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict)
    remark: str = ""


def of_numbers(numbers: Numbers, name: str) -> Moment | None:
    """Return the type of numbers that count seconds or milliseconds, or that spell a day, or None."""
    if not vocabulary.is_time(name):
        return None
    for form, factor in _EPOCHS:
        if _YEARS[0] * factor <= numbers.least and numbers.most <= _YEARS[1] * factor:
            return Moment(type="timestamptz", formats=(form,))
    if numbers.whole == numbers.count and _DAYS[0] <= numbers.least and numbers.most <= _DAYS[1]:
        parts = [(number // 100 % 100, number % 100) for number in (int(numbers.least), int(numbers.most))]
        if all(1 <= month <= 12 and 1 <= day <= 31 for month, day in parts):
            return Moment(type="date", formats=("%Y%m%d",))
    return None


def of_texts(texts: Texts, name: str) -> Moment | None:
    """Return the type that all texts of a place have, or None."""
    forms, values = texts.forms, texts.values
    for type_ in INFERRED_TIMES:
        if forms[type_] == values:
            return Moment(type=type_)
    if forms["timestamptz"] and sum(forms[type_] for type_ in INFERRED_TIMES) == values:
        local = values - forms["timestamptz"]
        remark = f"{local:,} of {values:,} have no zone: `timezone` decides which one is meant"
        return Moment(type="timestamptz", options={"timezone": "UTC"}, remark=remark)
    if forms["timestamp"] and forms["timestamp"] + forms["date"] == values:
        return Moment(type="timestamp", remark="some without a time of day")
    if forms["aspnet"] == values:
        return Moment(type="timestamptz", formats=("aspnet",))
    if forms["integer"] == values:
        return _of_digits(texts, name)
    fitting = [form for form in forms if is_format(form) and forms[form] == values]
    return _of_format(fitting[0]) if len(fitting) == 1 and "integer" not in forms else None


def _of_digits(texts: Texts, name: str) -> Moment | None:
    """Return the type of texts of digits: a compact day, or seconds or milliseconds in quotes."""
    compact = [form for form in texts.forms if is_format(form) and texts.forms[form] == texts.values]
    if compact and not vocabulary.is_code(name):
        return _of_format(compact[0])
    if not vocabulary.is_time(name) or texts.shortest != texts.longest:
        return None
    for form, factor in _EPOCHS:
        least, most = (str(bound * factor) for bound in _YEARS)
        if (
            len(least) <= texts.shortest <= len(most)
            and least.rjust(len(most), "0")
            <= texts.least.rjust(len(most), "0")
            <= texts.most.rjust(len(most), "0")
            <= most
        ):
            return Moment(type="timestamptz", formats=(form,), remark="in quotes")
    return None


def mostly(texts: Texts, is_enough: Callable[[int], bool]) -> Moment:
    """Return the type that enough texts of a place have, or text with a remark."""
    forms = texts.forms
    for type_ in INFERRED_TIMES:
        # A column of one of these types cannot hold the others: a day has no time, an instant needs a zone.
        others = [other for other in INFERRED_TIMES if other != type_]
        if is_enough(forms[type_]) and not any(forms[other] for other in others):
            return Moment(type=type_)
    formats = sorted((form for form in forms if is_format(form)), key=lambda form: (-forms[form], form))
    if not formats or not is_enough(forms[formats[0]]) or forms["integer"]:
        return Moment(type="text", remark=_remark(texts))
    best = formats[0]
    if len(formats) > 1 and forms[formats[1]] == forms[best]:
        moment = _of_format(best)
        return Moment(type="text", remark=f"may be {best} or {formats[1]}: give formats, and type {moment.type}")
    return _of_format(best)


def _remark(texts: Texts) -> str:
    if sum(texts.forms[form] > 0 for form in INFERRED_TIMES) > 1:
        return "days or instants written in several ways"
    if texts.forms["clock"] == texts.values:
        return "times of day or durations: type time, if times of day"
    for pattern, remark in _OTHERS:
        if sum(texts.words.values()) == texts.values and all(map(pattern.fullmatch, texts.words)):
            return remark
    return ""


def _of_format(form: str) -> Moment:
    if "%H" not in form and "%I" not in form:
        return Moment(type="date", formats=(form,))
    if "%z" in form:
        return Moment(type="timestamptz", formats=(form,))
    if form.endswith(("GMT", "UTC")):
        return Moment(type="timestamptz", formats=(form,), options={"timezone": "UTC"})
    return Moment(type="timestamp", formats=(form,))
