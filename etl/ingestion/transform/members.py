"""Getters: functions that return the value of a column from a record, by its path and its options. Pure."""

import re
from collections.abc import Callable, Iterable
from decimal import Decimal
from typing import Any, NamedTuple

from etl.datasets import Column, Table, paths
from etl.ingestion.framing.partial import Undecoded
from etl.ingestion.values import KEY, Misfit

# The escape of a NUL, after pairs of backslashes, each of which is a character of its own.
_NUL = re.compile(rb"(?<!\\)((?:\\\\)*)\\u0000")


class Outer(NamedTuple):
    """The object that encloses an element: it has the array of the element, a position, and may be enclosed itself."""

    item: Any
    outer: "Outer | None"
    position: int


Getter = Callable[[Any, Outer | None, int], Any]
"""(object of the row, the object that encloses it, position from 1) -> the value, or None. Raises Misfit."""


Condition = Callable[[Any, Outer | None, int], bool]
"""(object of the row, the object that encloses it, position from 1) -> whether it becomes a row of the table."""


def getter(column: Column) -> Getter:
    """Return the getter of a column."""
    get = _path(column.value_path) if column.value is None else _constant(column.value)
    if column.trim:
        get = _trimmed(get)
    if column.null_if:
        get = _null_if(get, column.null_if)
    if column.default is not None:
        get = _or_default(get, column.default)
    return _required(get) if column.required else get


def condition(table: Table) -> Condition:
    """Return the condition of a table: whether all parts of its `where` hold for an object."""
    parts = [(_path(part.value_path), _comparable(part.values)) for part in table.where]

    def holds(item: Any, outer: Outer | None, position: int) -> bool:
        try:
            return all(_is_among(get(item, outer, position), *values) for get, values in parts)
        except Misfit:
            return False

    return holds


def _comparable(values: Iterable[str | bool | float]) -> tuple[frozenset[tuple[type, str | bool]], frozenset[Decimal]]:
    """Return texts and booleans with their types, because Python takes true for 1, and numbers by their values."""
    others = frozenset((type(value), value) for value in values if isinstance(value, str | bool))
    return others, frozenset(Decimal(str(value)) for value in values if not isinstance(value, str | bool))


def _is_among(value: Any, others: frozenset[Any], numbers: frozenset[Decimal]) -> bool:
    if isinstance(value, str | bool):
        return (type(value), value) in others
    return isinstance(value, int | Decimal) and value in numbers


def _constant(value: str) -> Getter:
    return lambda item, outer, position: value


def _trimmed(get: Getter) -> Getter:
    def get_trimmed(item: Any, outer: Outer | None, position: int) -> Any:
        value = get(item, outer, position)
        return value.strip() if isinstance(value, str) else value

    return get_trimmed


def _or_default(get: Getter, default: str | bool | float) -> Getter:
    value = Decimal(str(default)) if isinstance(default, float) else default

    def get_or_default(item: Any, outer: Outer | None, position: int) -> Any:
        own = get(item, outer, position)
        return value if own is None else own

    return get_or_default


def _null_if(get: Getter, values: Iterable[str | int | float]) -> Getter:
    # Texts are compared as they are written. The type is compared, too, because Python takes true for 1.
    texts = frozenset(value for value in values if isinstance(value, str))
    numbers = frozenset(Decimal(str(value)) for value in values if not isinstance(value, str))

    def get_or_none(item: Any, outer: Outer | None, position: int) -> Any:
        value = get(item, outer, position)
        if isinstance(value, str):
            return None if value in texts else value
        return None if type(value) in {int, Decimal} and value in numbers else value

    return get_or_none


def _required(get: Getter) -> Getter:
    def get_or_refuse(item: Any, outer: Outer | None, position: int) -> Any:
        value = get(item, outer, position)
        if value is None:
            raise Misfit("23502", "expected a value, got none")
        return value

    return get_or_refuse


def _path(path: paths.ValuePath) -> Getter:
    """Return the getter of a path."""
    if path.sign == "#":
        get: Getter = lambda item, outer, position: position  # noqa: E731 # one of several; a name would say no more
    elif path.sign == "@":
        return _key
    elif path.sign == ".":
        get = _whole
    else:
        get = descending(path.steps)
    for _ in range(path.up):
        get = _from_outer(get)
    return get


def _key(item: Any, outer: Outer | None, _position: int) -> Any:
    while outer is not None:
        item, outer = outer.item, outer.outer
    return item.get(KEY)


def _whole(item: Any, _outer: Outer | None, _position: int) -> Any:
    if type(item) is dict and KEY in item:
        return {name: value for name, value in item.items() if name is not KEY}
    return item


def _from_outer(get: Getter) -> Getter:
    def get_outside(_item: Any, outer: Outer | None, _position: int) -> Any:
        assert outer is not None  # noqa: S101 # no path of a definition leads beyond the record
        return get(*outer)

    return get_outside


def descending(steps: tuple[paths.Step, ...]) -> Getter:
    """Return the getter that follows these steps from an object."""
    if len(steps) == 1 and isinstance(steps[0], str):
        name = steps[0]
        return lambda item, outer, position: item.get(name) if type(item) is dict else _no_object(item, "the element")
    first, second = steps if len(steps) == 2 else ("", "")
    is_pair = isinstance(first, str) and isinstance(second, str) and len(steps) == 2

    def descend(item: Any, _outer: Outer | None, _position: int) -> Any:
        if is_pair and type(item) is dict and type(inner := item.get(first)) is dict:
            return inner.get(second)
        for depth, step in enumerate(steps):
            if type(item) is dict:
                item = item.get(step if isinstance(step, str) else str(step))
            elif type(item) is list and isinstance(step, int):
                item = item[step] if step < len(item) else None
            elif item is None:
                return None
            elif type(item) is Undecoded and (isinstance(step, int) or not item.is_array):
                item = item.at(step)
            else:
                _no_object(item, paths.spelling(steps[:depth]) or "the element")
        return item

    return descend


def _no_object(value: Any, where: str) -> None:
    if value is not None or where == "the element":
        raise Misfit("22P02", f"expected an object at {where}, got {kind(value)}")


def kind(value: Any) -> str:
    """Return the kind of a JSON value, as a message names it."""
    if isinstance(value, Undecoded):
        return "an array" if value.is_array else "an object"
    if isinstance(value, dict):
        return "an object"
    if isinstance(value, list):
        return "an array"
    if isinstance(value, bool):
        return "true or false"
    return "text" if isinstance(value, str) else "a number" if value is not None else "null"


def without_nul(value: Any) -> Any:
    """Return a JSON value without the NUL characters in its texts and names."""
    if isinstance(value, str):
        return value.replace("\0", "")
    if isinstance(value, list):
        return [without_nul(element) for element in value]
    if isinstance(value, dict):
        return {without_nul(name): without_nul(inner) for name, inner in value.items()}
    if isinstance(value, Undecoded) and _NUL.search(value.text):
        return Undecoded(_NUL.sub(rb"\1", value.text))
    return value
