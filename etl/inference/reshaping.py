"""Records that are no JSON objects: rows as arrays, and columns as arrays or objects. Pure.

They are recognised, and refused with the command that makes objects of them, by the names that the document has.
"""

import json
import shlex
from collections.abc import Iterator
from dataclasses import dataclass

from etl.errors import SourceError
from etl.inference import vocabulary
from etl.inference.skeleton import Node

_FEWEST_ROWS = 2
_FEWEST_NUMBERED_ROWS = 10
_MANY_TIMES = 4
_NAMES_OF_COLUMNS = ("fieldName", "field_name", "name", "field", "key", "id", "label", "title")

_EACH = "\0"
"""In a path: each element of an array."""


class NotObjectsError(SourceError):
    """The records are no objects; `program` is the program of jq that makes objects of them."""

    def __init__(self, what: str, program: str) -> None:
        super().__init__(f"expected records that are JSON objects, got {what}")
        self.program = program

    def hint_for(self, source: str, name: str) -> str:
        """Return the commands that make records of a source, and propose a definition of them."""
        file = shlex.quote(source)
        made = f"{name}.ndjson"
        return f"jq -c {shlex.quote(self.program)} {file} > {made} && etl dataset infer {made}"


@dataclass(frozen=True, kw_only=True)
class _Rows:
    """A list of rows: its path, the list, and the path of the list with the names of its columns."""

    path: tuple[str, ...]
    node: Node
    names: str | None


def require_objects(root: Node, path: tuple[str, ...], *, is_cut: bool, largest: int = 0) -> None:
    """Raise NotObjectsError if the records of a source are rows or columns.

    `largest` is the size of its largest list of objects.
    """
    for rows in _rows(root, path, root):
        is_large = rows.node.size > _MANY_TIMES * largest
        if rows.names or (is_large and _are_records(rows.node)):
            raise _of_rows(rows)
    for where, node in _objects(root, path):
        if node.size <= _MANY_TIMES * largest or (node is not root and 2 * node.size < root.size):
            continue
        if program := _columns_program(where, node, is_cut=is_cut):
            raise NotObjectsError(*program)


def _objects(node: Node, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Node]]:
    """Yield an object and those in it, but none that describes the document."""
    if not node.is_object:
        return
    yield path, node
    for name, member in node.members.items():
        if not vocabulary.is_meta(name):
            yield from _objects(member, (*path, name))


def _rows(node: Node, path: tuple[str, ...], root: Node) -> Iterator[_Rows]:
    if node.is_list_of_rows and node.elements and node.elements.lengths:
        least, most = node.elements.lengths
        if node.elements.values >= _FEWEST_ROWS and most > 1:
            names = next(_lists_of_names(root, (), most), None) if path else None
            if names or least == most or not path:
                yield _Rows(path=path, node=node, names=names)
    if node.is_object:
        for name, member in node.members.items():
            if not vocabulary.is_meta(name):
                yield from _rows(member, (*path, name), root)
    elif node.is_list_of_objects and node.elements:
        # Lists of rows with names of their own, such as the series of a database of measurements.
        yield from (each for each in _rows(node.elements, (*path, _EACH), node.elements) if each.names)


def _are_records(node: Node) -> bool:
    """Return whether rows without names are records: they have texts, or are many, and no matrix of numbers."""
    row = (node.elements and node.elements.row) or []
    return any(isinstance(value, str) for value in row) or (node.elements or node).values >= _FEWEST_NUMBERED_ROWS


def _lists_of_names(node: Node, path: tuple[str, ...], count: int) -> Iterator[str]:
    """Yield the programs that list the names of so many columns, where a document has them."""
    for name, member in node.members.items():
        inner = (*path, name)
        if member.lengths == (count, count) and not vocabulary.COLUMN_LISTS.isdisjoint([name.lower()]):
            if member.is_list_of_scalars and all(isinstance(value, str) for value in member.row or ()):
                yield _at(inner)
            elif member.is_list_of_objects and member.elements:
                named = (each for each in _NAMES_OF_COLUMNS if each in member.elements.members)
                yield from (f"[{_at(inner)}[].{each}]" for each in named)
        if member.is_object:
            yield from _lists_of_names(member, inner, count)


def _of_rows(rows: _Rows) -> NotObjectsError:
    row = (rows.node.elements and rows.node.elements.row) or []
    at = _at(rows.path)
    if rows.names:
        where = ".".join(name for name in rows.path if name != _EACH)
        what = f"arrays of values at {where}; the document has the names of the columns"
        around = _at(rows.path[: -rows.path[::-1].index(_EACH)]) + " | " if _EACH in rows.path else ""
        inner = _at(rows.path[-rows.path[::-1].index(_EACH) :]) if around else at
        return NotObjectsError(what, f"{around}{rows.names} as $names | {inner}[] | {_OBJECT}")
    is_header = all(isinstance(value, str) for value in row) and len(set(row)) == len(row) > 0
    if is_header and not rows.path:
        return NotObjectsError(
            "arrays of values; the first one has the names of the columns", f".[0] as $names | .[1:][] | {_OBJECT}"
        )
    where = f" at {'.'.join(rows.path)}" if rows.path else ""
    return NotObjectsError(f"arrays of values without names{where}", f"{at}[] | {_NUMBERED}")


_OBJECT = "[$names, .] | transpose | map({key: (.[0] | tostring), value: .[1]}) | from_entries"
_OF_INDEX = "{index: $row} + ($columns | map_values(.[$row]))"
_NUMBERED = 'to_entries | map({key: "c\\(.key + 1)", value}) | from_entries'


def _columns_program(path: tuple[str, ...], node: Node, *, is_cut: bool) -> tuple[str, str] | None:
    """Describe the columns of an object, with the program that makes records of them; None: it has no columns."""
    members = {name: member for name, member in node.members.items() if member.values > member.nulls}
    lists = {name: member for name, member in members.items() if member.is_list_of_scalars}
    at, where = _at(path), f" at {'.'.join(path)}" if path else ""
    lengths = {member.lengths for member in lists.values()}
    is_same = len(lengths) == 1 and all(most >= _FEWEST_ROWS for _, most in filter(None, lengths))
    if len(lists) >= _FEWEST_ROWS and is_same and vocabulary.are_data(list(lists)):
        program = f'{at} | to_entries[] | select(.value | type == "array") | {{key}} + (.value | {_NUMBERED})'
        return f"an array of values under each key{where}", program
    if node.objects > 1:
        return None
    if is_same and len(lists) >= _FEWEST_ROWS and len(lists) == len(members):
        first = _at((next(iter(lists)),))
        return (
            f"an array of values for each column{where}",
            f"{at} as $columns | range($columns{first} | length) as $row | $columns | map_values(.[$row]?)",
        )
    if is_cut or not _are_columns(members):
        return None
    first = _at((next(iter(members)),))
    return (
        f"an object of values for each column{where}",
        f"{at} as $columns | $columns{first} | keys_unsorted[] as $row | {_OF_INDEX}",
    )


def _are_columns(members: dict[str, Node]) -> bool:
    """Return whether members are objects of scalars with the same names, which are data."""
    names = [list(member.members) for member in members.values()]
    return (
        bool(names)
        and not vocabulary.are_data(list(members))
        and all(member.is_object and member.size == member.values + len(member.members) for member in members.values())
        and all(each == names[0] for each in names)
        and (vocabulary.are_data(names[0]) or names[0] == [str(number) for number in range(len(names[0]))])
    )


def _at(path: tuple[str, ...]) -> str:
    """Return the expression of jq that leads along names."""
    steps = []
    for name in path:
        plain = f".{name}" if name.isidentifier() and name.isascii() else f".[{json.dumps(name)}]"
        steps.append("[]" if name == _EACH else plain)
    return "".join(steps) or "."
