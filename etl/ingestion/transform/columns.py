"""The values that many records have in one column -> their COPY texts, all at once. Pure: the checked path's short way.

Nearly all values of a column are of one kind, and are converted together; where one of them is not, each is converted
by itself.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from operator import itemgetter
from types import NoneType
from typing import Any

from etl.datasets import Column
from etl.ingestion.constants import NULL_TEXT
from etl.ingestion.transform.members import Getter
from etl.ingestion.transform.rules import Rules
from etl.ingestion.values import Misfit

Records = Sequence[dict[str, Any]]


class Columns:
    """The columns of rows that are records."""

    def __init__(self, columns: Sequence[tuple[Column, Getter, Rules]]) -> None:
        self._texts = [_texts_of(column, rules) for column, _, rules in columns]
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


def _texts_of(column: Column, rules: Rules) -> Callable[[Sequence[Any]], Sequence[str]]:
    convert, convert_all = rules.convert, rules.convert_all

    def give(values: Sequence[Any]) -> Sequence[str]:
        types = set(map(type, values))
        if NoneType not in types:
            return convert_all(values, types) or list(map(convert, values))
        if column.required:
            raise Misfit("23502", "expected a value, got none")
        types.remove(NoneType)
        given = [value for value in values if value is not None]
        texts = iter(convert_all(given, types) or list(map(convert, given)))
        return [NULL_TEXT if value is None else next(texts) for value in values]

    return give
