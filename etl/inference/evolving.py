"""A definition and a newer file -> the definition with a column for each member that it does not know, as a diff.

The text of the definition is kept: its comments and its order. Nothing is taken away, and no type is changed.
"""

import difflib
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from etl.datasets import Dataset, Table, paths
from etl.errors import UsageError
from etl.inference.identifiers import Names
from etl.inference.keys import Keys
from etl.inference.leaves import Array, Leaf, within
from etl.inference.observing import Observation
from etl.inference.tables import SCHEMA, Draft, DraftState, children, columns_of
from etl.inference.writing import column_line, table_lines

_TABLE = re.compile(r"\s*\[\[\s*table\s*\]\]")
_COLUMNS = re.compile(r"\s*\[\s*table\s*\.\s*columns\s*\]")
_HEADER = re.compile(r"\s*\[")

_ELEMENT = None
"""An element of an array, in a path."""

_Place = tuple[str | None, ...]


@dataclass(frozen=True, kw_only=True)
class Evolution:
    """The changed text of a definition, and the names of what is new: `TABLE.COLUMN` and tables."""

    text: str
    columns: tuple[str, ...]
    tables: tuple[str, ...]

    def diff(self, old: str, old_name: str, new_name: str) -> str:
        """Return the change as a unified diff, or the empty text."""
        lines = difflib.unified_diff(
            old.splitlines(keepends=True), self.text.splitlines(keepends=True), old_name, new_name
        )
        return "".join(line if line.endswith("\n") else f"{line}\n\\ No newline at end of file\n" for line in lines)


class _Addition(NamedTuple):
    """New columns of a table, by the number of the table, with the number of its observed rows."""

    number: int
    leaves: list[Leaf]
    rows: int


@dataclass(frozen=True, kw_only=True)
class _Search:
    """The places that the definition knows, and the columns and arrays that are found beside them."""

    dataset: Dataset
    known: frozenset[_Place]
    arrays: dict[_Place, int]
    additions: list[_Addition] = field(default_factory=list)
    new_arrays: list[tuple[tuple[tuple[str, ...], ...], Array]] = field(default_factory=list)

    def knows(self, place: _Place) -> bool:
        """Tell whether a column has the value at a place, or a part of it."""
        return any(place[: len(known)] == known or known[: len(place)] == place for known in self.known)


def evolved(dataset: Dataset, text: str, root: Observation, used_names: frozenset[str]) -> Evolution:
    """Return the text of a definition with what was observed and is unknown to it.

    `used_names` are those of the tables of other definitions. Raises UsageError if the text does not have each table as
    `[[table]]` with `[table.columns]`.
    """
    search = _Search(dataset=dataset, known=frozenset(_known(dataset)), arrays=_arrays(dataset))
    _look(search, root, (), ())
    names = frozenset(used_names | {table.name for table in dataset.tables})
    draft, new_tables = _new_tables(search, names)
    lines = text.splitlines()
    columns: list[str] = []
    # From the last table to the first one, so that the places of the others stay.
    for addition in sorted(search.additions, key=lambda each: -each.number):
        table = dataset.tables[addition.number]
        known = {column.name for column in table.columns} | set(dataset.key)
        new = list(columns_of(addition.leaves, Names(known)))
        at = _end_of_columns(lines, addition.number, dataset)
        lines[at:at] = [column_line(column, leaf, addition.rows) for column, leaf in new]
        columns[:0] = [f"{table.name}.{column.name}" for column, _ in new]
    for new_table in new_tables:
        lines += table_lines(draft, new_table)
    return Evolution(
        text="\n".join(lines) + "\n", columns=tuple(columns), tables=tuple(table.name for table in new_tables)
    )


def _known(dataset: Dataset) -> Iterator[_Place]:
    """Yield the places of all values that the definition takes from a record."""
    for table in dataset.tables:
        objects = _objects(table)
        values = [column.value_path for column in table.columns if column.value is None]
        for path in [*values, *(condition.value_path for condition in table.where)]:
            if path.sign not in {"", "."}:
                continue
            outer = objects[len(objects) - 1 - path.up]
            yield outer + tuple(_ELEMENT if isinstance(step, int) else step for step in path.steps)


def _objects(table: Table) -> list[_Place]:
    """Return the places of the objects around a row: the record, and an element of each array."""
    objects: list[_Place] = [()]
    for each in table.each:
        steps = tuple(_ELEMENT if isinstance(step, int) else step for step in paths.steps(each))
        objects.append((*objects[-1], *steps, _ELEMENT))
    return objects


def _arrays(dataset: Dataset) -> dict[_Place, int]:
    """Return the table of each place of rows; of several tables of records the last one, which takes all others."""
    return {_objects(table)[-1]: number for number, table in enumerate(dataset.tables)}


def _look(search: _Search, item: Observation, place: _Place, each: tuple[tuple[str, ...], ...]) -> None:
    """Find the unknown members of the objects at a place, and of the arrays in them."""
    leaves, arrays = within(item)
    number = search.arrays.get(place)
    new = [leaf for leaf in leaves if leaf.path and not search.knows(place + leaf.path)]
    if new and number is not None:
        search.additions.append(_Addition(number, new, item.count))
    for array in arrays:
        inner = (*place, *array.path, _ELEMENT)
        if inner in search.arrays:
            _look(search, array.elements, inner, (*each, array.path))
        elif not search.knows(inner):
            search.new_arrays.append((each, array))


def _new_tables(search: _Search, names: frozenset[str]) -> tuple[Draft, list[Table]]:
    dataset = search.dataset
    first = dataset.tables[0]
    schema = f"{first.schema}."
    state = DraftState(
        dataset=first.name.removeprefix(schema),
        names=Names({name.removeprefix(schema) for name in names if name.startswith(schema)}),
    )
    key = tuple(column for name in dataset.key if (column := first.column(name)))
    has_one_table = len(dataset.record_tables) == 1 or not dataset.key
    found = search.new_arrays if has_one_table else []
    tables = [
        table
        for each, array in found
        for table in children(state, each, tuple(name for path in each for name in path), [array], key)
    ]
    leaves = {(table.replace(f"{SCHEMA}.", schema, 1), column): leaf for (table, column), leaf in state.leaves.items()}
    rows = {table.replace(f"{SCHEMA}.", schema, 1): count for table, count in state.rows.items()}
    draft = Draft(dataset=dataset, leaves=leaves, rows=rows, keys=Keys(key=None, others=(), newest=()))
    return draft, [_in_schema(table, schema) for table in tables]


def _in_schema(table: Table, schema: str) -> Table:
    return Table(name=table.name.replace(f"{SCHEMA}.", schema, 1), each=table.each, columns=table.columns)


def _end_of_columns(lines: list[str], number: int, dataset: Dataset) -> int:
    """Return the place after the last column of the table of this number."""
    tables = [at for at, line in enumerate(lines) if _TABLE.match(line)]
    if len(tables) == len(dataset.tables):
        end = next((at for at in tables if at > tables[number]), len(lines))
        begin = next((at for at in range(tables[number], end) if _COLUMNS.match(lines[at])), None)
        if begin is not None:
            last = next((at for at in range(begin + 1, end) if _HEADER.match(lines[at])), end)
            while not lines[last - 1].strip() or lines[last - 1].lstrip().startswith("#"):
                last -= 1
            return last
    raise UsageError(
        f"{dataset.path}: expected each table as [[table]], with its columns below [table.columns]",
        hint="write the columns of a table below [table.columns], one on each line",
    )
