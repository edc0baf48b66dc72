"""The unknown members of a record: no column, array or condition of its definition leads to them. Pure."""

from collections.abc import Iterator
from typing import Any

from etl.datasets import Dataset, paths
from etl.ingestion.framing.partial import Undecoded
from etl.ingestion.values import KEY

Known = dict[str, "Known | None"]
"""The known members by name, each with the known members below it; None: everything below it is known."""


def known(dataset: Dataset) -> Known | None:
    """Return the members of a record that the definition names; None: a column takes the whole record."""
    root: Known | None = {}
    for table in dataset.tables:
        arrays = [paths.steps(each) for each in table.each]
        columns = [column.value_path for column in table.columns if column.value is None]
        for path in [*columns, *(condition.value_path for condition in table.where)]:
            if path.sign in {"", "."}:
                outer = sum(arrays[: len(arrays) - path.up], ())
                root = _with(root, (*outer, *path.steps))
        root = _with(root, sum(arrays, ()), is_array=True)
    return root


def unknown(value: Any, members: Known | None, path: tuple[str, ...] = ()) -> Iterator[str]:
    """Yield the path of each unknown member, as a definition would spell it."""
    if members is None:
        return
    if isinstance(value, Undecoded):
        value = value.elements() if value.is_array else value.decoded()
    if isinstance(value, list | Iterator):
        for element in value:
            yield from unknown(element, members, path)
    elif isinstance(value, dict):
        for name, inner in value.items():
            if name is KEY:
                continue
            if name not in members:
                yield paths.spelling((*path, name))
            elif isinstance(inner, dict | list | Undecoded):
                yield from unknown(inner, members[name], (*path, name))


def _with(members: Known | None, steps: tuple[paths.Step, ...], *, is_array: bool = False) -> Known | None:
    """Return the members with those on this path; the elements of an array count as one object."""
    if members is None or (not steps and is_array):
        return members
    if not steps:
        return None
    first, *rest = steps
    if isinstance(first, int):  # a position in an array, or a member of that name
        members = _with(members, tuple(rest), is_array=True) if rest else members
        first = str(first)
        if members is None:
            return None
    below = members.get(first, {}) if rest or is_array else None
    return members | {first: _with(below, tuple(rest), is_array=is_array) if below is not None else None}
