"""The values that many records have in one column -> their COPY texts, all at once. Pure: the checked path's short way.

Nearly every value is of one kind, and is then converted by what takes them all; where one is not, `conversions` looks
at each of them.
"""

import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import date, datetime
from decimal import Decimal
from operator import itemgetter
from types import NoneType
from typing import Any

from etl.datasets import Column
from etl.ingestion.constants import NULL_TEXT
from etl.ingestion.transform.conversions import Convert
from etl.ingestion.transform.members import Getter
from etl.ingestion.values import Misfit

Records = Sequence[dict[str, Any]]

_Known = Callable[[Sequence[Any], set[type]], Sequence[str] | None]
"""(values but null, their types) -> their texts, or None where each is to be looked at."""

_LONGEST_NUMBER = 1000
_DIGITS_AS_0 = str.maketrans("123456789", "000000000")
_UTC_FORM = re.compile(r"0000-00-00[T ]00:00:00(?:\.0{1,6})?Z").fullmatch
_LOCAL_FORM = re.compile(r"0000-00-00[T ]00:00:00(?:\.0{1,6})?").fullmatch
_DATE_FORM = re.compile(r"0000-00-00").fullmatch


class Columns:
    """The columns of rows that are records."""

    def __init__(self, columns: Sequence[tuple[Column, Getter, Convert]]) -> None:
        self._texts = [_texts_of(column, convert) for column, _, convert in columns]
        self._odd: list[tuple[int, Getter]] = []
        self._members: dict[str, dict[str, list[int]]] = {}
        self._rare: set[tuple[str, str]] = set()
        for place, (column, get, _) in enumerate(columns):
            names = _names(column)
            if names is None:
                self._odd.append((place, get))
            else:
                self._members.setdefault("" if len(names) == 1 else names[0], {}).setdefault(names[-1], []).append(
                    place
                )

    def texts(self, records: Records) -> list[Sequence[str]]:
        """Return the texts of each column.

        Raises Misfit where a value does not fit.
        """
        values = dict(self._values(records))
        return [give(values[place]) for place, give in enumerate(self._texts)]

    def _values(self, records: Records) -> Iterator[tuple[int, Sequence[Any]]]:
        for place, get in self._odd:
            yield place, [get(record, None, 1) for record in records]
        for outer, members in self._members.items():
            objects = _objects(records, outer, list(members)) if outer else records
            for name, taken in self._taken(objects, outer, members):
                for place in members[name]:
                    yield place, taken

    def _taken(self, objects: Records, outer: str, names: Iterable[str]) -> Iterator[tuple[str, Sequence[Any]]]:
        """Yield the values of each member; those that all objects have are asked for at once."""
        usual = [name for name in names if (outer, name) not in self._rare]
        while len(usual) > 1:
            try:
                rows = list(map(itemgetter(*usual), objects))
            except KeyError as missing:
                usual.remove(missing.args[0])
                self._rare.add((outer, missing.args[0]))
            else:
                yield from zip(usual, zip(*rows, strict=True), strict=True)
                break
        else:
            usual = []
        for name in names:
            if name not in usual:
                yield name, [each.get(name) for each in objects]


def _names(column: Column) -> list[str] | None:
    """Return the one or two members that lead to the value as it stands, or None where it is got in another way."""
    way = column.way
    names = [step for step in way.steps if isinstance(step, str)]
    is_changed = column.value is not None or column.trim or column.null_if or column.default is not None
    is_plain = not (is_changed or way.sign or way.up) and len(names) == len(way.steps) <= 2
    return names if is_plain else None


def _objects(records: Records, outer: str, names: Sequence[str]) -> Records:
    objects = [record.get(outer) for record in records]
    types = set(map(type, objects))
    if not types <= {dict, NoneType}:
        raise Misfit("22P02", "expected an object")
    none = dict.fromkeys(names)
    return objects if NoneType not in types else [none if each is None else each for each in objects]  # type: ignore[return-value]


def _texts_of(column: Column, convert: Convert) -> Callable[[Sequence[Any]], Sequence[str]]:
    known = _known(column, convert)

    def give(values: Sequence[Any]) -> Sequence[str]:
        types = set(map(type, values))
        if NoneType not in types:
            return known(values, types) or list(map(convert, values))
        if column.required:
            raise Misfit("23502", "expected a value, got none")
        types.remove(NoneType)
        given = [value for value in values if value is not None]
        made = iter(known(given, types) or list(map(convert, given)))
        return [NULL_TEXT if value is None else next(made) for value in values]

    return give


def _known(column: Column, convert: Convert) -> _Known:
    if column.type == "text":
        return _texts(column)
    if column.type in {"smallint", "integer", "bigint"}:
        return _numbers(column, {int}, convert)
    if column.type == "numeric":
        return _numbers(column, {int, Decimal}, convert)
    if column.type == "timestamptz":
        return _moments(_UTC_FORM, datetime.fromisoformat)
    if column.type == "timestamp":
        return _moments(_LOCAL_FORM, datetime.fromisoformat)
    return _moments(_DATE_FORM, date.fromisoformat) if column.type == "date" else lambda values, types: None


def _texts(column: Column) -> _Known:
    one_of = frozenset(column.one_of)

    def known(values: Sequence[Any], types: set[type]) -> Sequence[str] | None:
        if types != {str} or (column.max_length is not None and max(map(len, values)) > column.max_length):
            return None
        if one_of and not one_of.issuperset(values):
            return None
        joined = "".join(values)
        return values if joined.isprintable() and "\\" not in joined else None

    return known


def _numbers(column: Column, wanted: set[type], convert: Convert) -> _Known:
    has_range = column.type != "numeric" or column.above is not None or column.max is not None
    has_range = has_range or (column.min is not None and column.min != 0)

    def known(values: Sequence[Any], types: set[type]) -> Sequence[str] | None:
        if not types or not types <= wanted:
            return None
        made = list(map(str, values))
        joined = "".join(made)
        if has_range or "-" in joined:
            # Those between the least and the largest are within the limits, too.
            convert(min(values))
            convert(max(values))
        return None if "E" in joined or max(map(len, made)) > _LONGEST_NUMBER else made

    return known


def _moments(is_of_form: Callable[[str], object], read: Callable[[str], object]) -> _Known:
    def known(values: Sequence[Any], types: set[type]) -> Sequence[str] | None:
        if types != {str} or not all(map(is_of_form, set("\n".join(values).translate(_DIGITS_AS_0).split("\n")))):
            return None
        try:
            deque(map(read, values), maxlen=0)
        except ValueError:
            return None
        return values

    return known
