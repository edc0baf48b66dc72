"""The values of many records in one column -> their COPY texts, all at once. Pure: a shortcut of the checked path.

Nearly all values of a column are of one kind, and are converted together; if one of them is not, each value is
converted by itself.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import repeat
from operator import itemgetter
from types import NoneType
from typing import Any

from etl.datasets import Column
from etl.datasets.paths import parse
from etl.ingestion.constants import NULL_TEXT
from etl.ingestion.transform.members import Getter, Outer
from etl.ingestion.transform.rules import Rules, convert_none
from etl.ingestion.values import Misfit

Records = Sequence[dict[str, Any]]

_NO_OUTERS: Iterable[Outer | None] = repeat(None)
_NO_POSITIONS: Iterable[int] = repeat(1)

_LONGEST_REPEATED = 1 << 10
"""A longer text that the rows of several elements repeat is converted for one row at a time, to bound memory."""


class Columns:
    """The columns of a table."""

    def __init__(self, columns: Sequence[tuple[Column, Getter, Rules]]) -> None:
        self._converters = [_converter(column, rules) for column, _, rules in columns]
        self._computed: list[tuple[int, Getter]] = []
        self._repeated = [place for place, (column, _, _) in enumerate(columns) if _is_repeated(column)]
        self.can_repeat = all(columns[place][2].convert_all is not convert_none for place in self._repeated)
        self._members: dict[str, dict[str, list[int]]] = {}
        self._rare: set[tuple[str, str]] = set()
        for place, (column, get, _) in enumerate(columns):
            names = _names(column)
            if names is None:
                self._computed.append((place, get))
            else:
                outer = "" if len(names) == 1 else names[0]
                self._members.setdefault(outer, {}).setdefault(names[-1], []).append(place)

    def texts(
        self, records: Records, outers: Iterable[Outer | None] = _NO_OUTERS, positions: Iterable[int] = _NO_POSITIONS
    ) -> list[Sequence[str]]:
        """Return the texts of each column of rows, which are records, or elements of arrays with these objects around.

        Raises Misfit if a value does not fit, or many rows repeat a long one.
        """
        values = dict(self._values(records, outers, positions))
        for place in self._repeated:
            if any(type(value) is str and len(value) > _LONGEST_REPEATED for value in values[place]):
                raise Misfit("54000", "a long text is converted for each row by itself")
        return [convert(values[place]) for place, convert in enumerate(self._converters)]

    def _values(
        self, records: Records, outers: Iterable[Outer | None], positions: Iterable[int]
    ) -> Iterator[tuple[int, Sequence[Any]]]:
        """Yield the values of each column, with the place of the column."""
        for place, get in self._computed:
            yield place, list(map(get, records, outers, positions))
        for outer, members in self._members.items():
            objects = _objects(records, outer, list(members)) if outer else records
            for name, values in self._member_values(objects, outer, members):
                for place in members[name]:
                    yield place, values

    def _member_values(self, objects: Records, outer: str, names: Iterable[str]) -> Iterator[tuple[str, Sequence[Any]]]:
        """Yield the values of each member; one call gets those of all members that no object lacks."""
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
                yield name, [item.get(name) for item in objects]


def _is_repeated(column: Column) -> bool:
    """Return whether the rows of one record may have the same value of a column, which may be long."""
    paths_of = (column.value_path, parse(column.other_path)) if column.other_path else (column.value_path,)
    return any(path.up or path.sign not in {"", ".", "#"} for path in paths_of)


def _names(column: Column) -> list[str] | None:
    """Return the one or two members that lead to the value of a column, or None where its getter must compute it."""
    path = column.value_path
    names = [step for step in path.steps if isinstance(step, str)]
    is_changed = column.value is not None or column.trim or column.null_if or column.default is not None
    is_changed = is_changed or column.unwrap is not None or column.other_path != ""
    is_plain = not (is_changed or path.sign or path.up) and len(names) == len(path.steps) <= 2
    return names if is_plain else None


def _objects(records: Records, outer: str, names: Sequence[str]) -> Records:
    """Return the objects under a member of the records; the names, all null, replace one that is null."""
    objects = [record.get(outer) for record in records]
    types = set(map(type, objects))
    if not types <= {dict, NoneType}:
        raise Misfit("22P02", "expected an object")
    empty = dict.fromkeys(names)
    return objects if NoneType not in types else [empty if item is None else item for item in objects]  # type: ignore[return-value] # checked above


def _converter(column: Column, rules: Rules) -> Callable[[Sequence[Any]], Sequence[str]]:
    """Return the function from the values of a column to their texts."""
    convert, convert_all = rules.convert, rules.convert_all

    def convert_column(values: Sequence[Any]) -> Sequence[str]:
        if (texts := convert_all(values)) is not None:
            return texts
        not_null = [value for value in values if value is not None]
        if len(not_null) == len(values):
            return list(map(convert, values))
        if column.required:
            raise Misfit("23502", "expected a value, got none")
        if not not_null:
            return [NULL_TEXT] * len(values)
        texts = convert_all(not_null) or list(map(convert, not_null))
        if texts is not_null:
            return [NULL_TEXT if value is None else value for value in values]
        following = iter(texts)
        return [NULL_TEXT if value is None else next(following) for value in values]

    return convert_column
