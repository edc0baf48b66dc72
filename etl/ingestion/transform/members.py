"""Getters: functions that return the value of a column from a record, by its path and its options. Pure."""

import re
from collections.abc import Callable, Iterable
from decimal import Decimal
from typing import Any, NamedTuple

from etl.datasets import Column, Table, paths
from etl.ingestion.framing.partial import Undecoded
from etl.ingestion.transform.wrappings import unwrapped
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
    is_null = _null_test(column.null_if)
    get = _path(column.value_path, is_null) if column.value is None else _constant(column.value)
    if column.other_path:
        get = _first_of(_path(paths.parse(column.other_path), is_null), get)
    if column.unwrap:
        get = _unwrapped(get, unwrapped(column.unwrap))
    if column.trim:
        get = _trimmed(get)
    if is_null:
        get = _null_if(get, is_null)
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


def _first_of(get: Getter, get_other: Getter) -> Getter:
    def get_first(item: Any, outer: Outer | None, position: int) -> Any:
        value = get(item, outer, position)
        return get_other(item, outer, position) if value is None else value

    return get_first


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


def _unwrapped(get: Getter, unwrap: Callable[[Any], Any]) -> Getter:
    return lambda item, outer, position: unwrap(get(item, outer, position))


def _null_test(values: Iterable[str | bool | float | tuple[()]]) -> Callable[[Any], bool] | None:
    """Return the test whether a value means null; None without such values."""
    # Texts are compared as they are written. The type is compared, too, because Python takes true for 1.
    texts, numbers = set(), set()
    for value in values:
        if isinstance(value, str | bool | tuple):
            texts.add((type(value), value))
        else:
            numbers.add(Decimal(str(value)))
    if not texts and not numbers:
        return None
    is_empty_null = (tuple, ()) in texts

    def is_null(value: Any) -> bool:
        if isinstance(value, str | bool):
            return (type(value), value) in texts
        if isinstance(value, list):
            return is_empty_null and not value
        return type(value) in {int, Decimal} and value in numbers

    return is_null


def _null_if(get: Getter, is_null: Callable[[Any], bool]) -> Getter:
    def get_or_none(item: Any, outer: Outer | None, position: int) -> Any:
        value = get(item, outer, position)
        return None if is_null(value) else value

    return get_or_none


def _required(get: Getter) -> Getter:
    def get_or_refuse(item: Any, outer: Outer | None, position: int) -> Any:
        value = get(item, outer, position)
        if value is None:
            raise Misfit("23502", "expected a value, got none")
        return value

    return get_or_refuse


def _path(path: paths.ValuePath, is_null: Callable[[Any], bool] | None = None) -> Getter:
    """Return the getter of a path; where `is_null` holds on the way, there is no value."""
    if path.sign == "#":
        get: Getter = lambda item, outer, position: position  # noqa: E731 # one of several; a name would say no more
    elif path.sign == "@":
        return _key
    elif path.sign == "!":
        return _action(path.steps)
    elif path.sign == "$":
        return lambda item, outer, position: None  # A constant takes its place where the document is known.
    elif path.sign == ".":
        get = _whole
    else:
        get = descending(path.steps) if is_null is None else _descending_to_null(path.steps, is_null)
    for _ in range(path.up):
        get = _from_outer(get)
    return get


def _key(item: Any, outer: Outer | None, _position: int) -> Any:
    while outer is not None:
        item, outer = outer.item, outer.outer
    return item.get(KEY)


def _action(steps: tuple[paths.Step, ...]) -> Getter:
    """Return the getter of the action of a record, or of a member of it."""
    get = descending(steps) if steps else None

    def get_of_action(item: Any, outer: Outer | None, position: int) -> Any:
        while outer is not None:
            item, outer = outer.item, outer.outer
        for name, action in paths.ACTIONS.items():
            if isinstance(item.get(name), dict):
                return get(item[name], None, position) if get else action
        return None

    return get_of_action


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


def _descending_to_null(steps: tuple[paths.Step, ...], is_null: Callable[[Any], bool]) -> Getter:
    """Return the getter that follows these steps, and ends where a value means null."""
    singles = [descending((step,)) for step in steps]
    whole = descending(steps)

    def descend(item: Any, outer: Outer | None, position: int) -> Any:
        value = item
        for get in singles[:-1]:
            if value is None or type(value) not in {dict, list}:
                break
            value = get(value, outer, position)
            if is_null(value):
                return None
        return whole(item, outer, position)

    return descend if len(steps) > 1 else whole


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
