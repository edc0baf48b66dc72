"""A dataset as the fast path sees it: the type that decodes a record into tokens, and functions that form rows of them.

Leaves stay raw JSON text; members that the dataset does not name are skipped. A dataset that tokens cannot express is
left to the checked path, and NoShape says why. Pure.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import field
from functools import cached_property
from itertools import chain, repeat
from typing import Any, cast

import msgspec

from etl.datasets import Column, Dataset, Table, paths
from etl.datasets.definition import Condition
from etl.ingestion.transform import collecting
from etl.ingestion.transform.acceptance import acceptor, constant, field_of, is_converted
from etl.ingestion.transform.collecting import Names
from etl.ingestion.transform.extraction import (
    CONSTANT,
    KEY,
    MEMBER,
    POSITION,
    WHOLE,
    Node,
    Place,
    RowExtractor,
    compiled,
)
from etl.ingestion.transform.rules import Accept, Changed
from etl.ingestion.transform.tokens import NULL
from etl.ingestion.transform.types import rules_of
from etl.quick_dataclasses import dataclass


class NoShape(ValueError):
    """The fast path cannot load this dataset; the message names the column or table, and the reason."""


@dataclass(frozen=True, kw_only=True)
class TokenColumn:
    """One column: where its token comes from, its check, and its description for a user."""

    column: Column
    place: Place
    accept: Accept | None
    changed: Changed | None
    description: str

    @property
    def name(self) -> str:
        """The name of the column."""
        return self.column.name


@dataclass(frozen=True, kw_only=True)
class Shape:
    """A dataset as the fast path sees it: the type of a record, and the columns of each table.

    A record that decodes as `known` has no unknown member.
    """

    record: type[msgspec.Struct]
    known: type[msgspec.Struct]
    tables: tuple[tuple[Table, tuple[TokenColumn, ...]], ...]
    root: Node = field(repr=False)

    @cached_property
    def left_out(self) -> list[collecting.Tokens]:
        """Functions that return the values of members which the dataset names, but perhaps no row of a record takes."""
        # If the array of a record is empty, no row takes the members of the record that only rows of elements take.
        if not (any(table.where or table.each for table, _ in self.tables) or _has_positions(self.root)):
            return []
        return collecting.left_out(
            self.root,
            [
                (table, [column.place for column in columns], [_condition_place(table, each) for each in table.where])
                for table, columns in self.tables
            ],
        )

    def description(self) -> str:
        """Return the projection for a user: each column with its path and its checks."""
        lines = []
        for table, columns in self.tables:
            lines.append(
                f"{table.name}: one row per " + (f"element of {table.arrays_text}" if table.each else "record")
            )
            width = max(len(column.name) for column in columns)
            lines += [f"    {column.name:{width}} <- {column.description}" for column in columns]
        return "\n".join(lines)

    def extractor(self, table: Table, groups: Sequence[Sequence[TokenColumn]]) -> RowExtractor:
        """Compile the extractor of the rows of a table, with its columns in groups."""
        return compiled(
            self.root,
            [paths.steps(each) for each in table.each],
            [[column.place for column in group] for group in groups],
            [_condition_place(table, condition) for condition in table.where],
        )

    def with_extras(self, paths: Sequence[Names]) -> tuple[type[msgspec.Struct], list[collecting.Extra]]:
        """Return a type of a record that has these unknown members, too, and no others; and how to look at them.

        Raises NoShape if the decoder refuses the name of one.
        """
        fields = {path: f"x{number}" for number, path in enumerate(paths)}
        record = _compiled(self.root, only_known=True, extras=fields)
        try:
            return record, [collecting.extra_of(self.root, path, field) for path, field in fields.items()]
        except KeyError as name:
            raise NoShape(f"{name} is no member that the dataset names here") from None


def shape(dataset: Dataset) -> Shape:
    """Compile a dataset.

    Raises NoShape if tokens cannot express a table or a column of it.
    """
    root = Node()
    for table in dataset.tables:
        for level in range(1, len(table.each) + 1):
            _node_at(root, table, level).is_array = True
        for column in table.columns:
            _add(root, table, column)
        for condition in table.where:
            _add_leaf(root, table, _condition_place(table, condition), f"the `where` of {table.name}")
    for table in dataset.tables:
        _add_before(root, table)
    if root.element:
        raise NoShape("a path begins with a number, which is a name in a record")
    for table in dataset.tables:
        _require_paths(root, table)
    _require_types(root)
    columns = []
    for table in dataset.tables:
        of_table = tuple(map(_token_column, repeat(table), table.columns))
        columns.append((table, of_table))
    has_unknown = all(_place(table, column).kind != WHOLE for table in dataset.tables for column in table.columns)
    return Shape(
        known=_compiled(root, only_known=has_unknown),
        record=_compiled(root, only_known=has_unknown and dataset.on_unknown == "reject"),
        tables=tuple(columns),
        root=root,
    )


def _add(root: Node, table: Table, column: Column) -> None:
    if column.default is not None and field_of(column, column.default) is None:
        raise NoShape(f"column {column.name} has a default that needs a conversion")
    place = _place(table, column)
    if place.kind == CONSTANT and place.fixed is None:
        raise NoShape(f"column {column.name} has a constant that needs a conversion")
    if place.kind == MEMBER:
        _add_leaf(root, table, place, f"column {column.name}")


def _add_before(root: Node, table: Table) -> None:
    """Add the object with a row before its change, which no row takes, unless a column leads into it."""
    for path in {paths.before(column.value_path).steps for column in table.columns if column.other_path}:
        node = _node_at(root, table, 0, path)
        node.is_leaf = not (node.members or node.is_array or node.element)


def _add_leaf(root: Node, table: Table, place: Place, what: str) -> None:
    leaf = _node_at(root, table, place.level, place.path)
    if leaf.members or leaf.is_array or leaf.element:
        raise NoShape(f"{what} takes a member whose own members are also columns")
    leaf.is_leaf = True


def _node_at(root: Node, table: Table, level: int, path: Sequence[paths.Step] = ()) -> Node:
    """Return the node at a path from the record or from an element of an array, made where it is missing."""
    node = root
    for step in chain.from_iterable([*map(paths.steps, table.each[:level]), path]):
        if node.is_leaf:
            raise NoShape(f"a path leads to {step} in a member that is itself a column")
        if isinstance(step, int):
            node.element = node.element or Node()
            node = node.element
        else:
            node = node.members.setdefault(step, Node())
    return node


def _place(table: Table, column: Column) -> Place:
    """Return where the value of a column comes from; the checked path takes the keys of the records that delete."""
    if table.deletes:
        return Place(kind=CONSTANT, fixed=b"null")
    if column.value is not None:
        return Place(kind=CONSTANT, fixed=constant(column))
    path = column.value_path
    if path.sign == "$":
        raise NoShape(f"column {column.name} takes a member of the document, which only a source has")
    if path.sign == "!":
        raise NoShape(f"column {column.name} takes the action of a record")
    level = len(table.each) - path.up
    if path.sign == "@":
        return Place(kind=KEY)
    if path.sign == "#" and path.up:
        raise NoShape(f"column {column.name} takes the position of an outer element")
    if path.sign == "#":
        return Place(kind=POSITION)
    if path.sign:
        is_changed = column.null_if or column.trim or column.default is not None
        if table.each or column.type != "jsonb" or is_changed:
            raise NoShape(f"column {column.name} takes a whole object")
        return Place(kind=WHOLE)
    return Place(kind=MEMBER, level=level, path=path.steps)


def _condition_place(table: Table, condition: Condition) -> Place:
    path = condition.value_path
    if path.sign:
        raise NoShape(f"the `where` of {table.name} takes more than a member")
    return Place(kind=MEMBER, level=len(table.each) - path.up, path=path.steps)


def _require_paths(root: Node, table: Table) -> None:
    """Raise NoShape where a path of a table leads through the elements of an array as if the array were an object."""
    arrays = [paths.steps(each) for each in table.each]
    places = [_place(table, column) for column in table.columns]
    places += [_condition_place(table, condition) for condition in table.where]
    for level, path in [*enumerate(arrays), *((place.level, place.path) for place in places if place.kind == MEMBER)]:
        node = _node_at(root, table, level)
        for step in path[:-1]:
            node = node.child(step)
            if node.is_array:
                raise NoShape(f"{step} holds an array of arrays")


def _has_positions(node: Node) -> bool:
    return node.element is not None or any(map(_has_positions, node.members.values()))


def _require_types(node: Node) -> None:
    """Raise NoShape for a member that would have to be of two types at once."""
    for name, child in [*node.members.items(), *([("", node.element)] if node.element else [])]:
        if child.element and (child.members or child.is_array):
            raise NoShape(f"{name or 'an element'} is taken by its members and by the positions of its elements")
        if child.is_leaf and (child.members or child.is_array or child.element):
            raise NoShape(f"a path leads into {name or 'an element'}, which is itself a column")
        _require_types(child)


def _compiled(
    node: Node,
    path: Names = (),
    *,
    only_known: bool = False,
    extras: Mapping[Names, str] | None = None,
) -> Any:
    """Return the type of a node at a path; each node keeps an empty object of its type without extras.

    `extras` are the attributes of further members, by their paths; the elements of an array have the path of the array.
    """
    extras = extras or {}
    rename = {attribute: extra[-1] for extra, attribute in extras.items() if extra[:-1] == path}
    others = [(attribute, msgspec.Raw, collecting.ABSENT) for attribute in rename]
    fields: list[tuple[str, Any, Any]] = []
    for member, child in node.members.items():
        attribute = node.attribute(member)
        rename[attribute] = member
        if child.is_leaf:
            fields.append((attribute, msgspec.Raw, NULL))
        else:
            type_ = _type_of(child, (*path, member), only_known=only_known, extras=extras)
            fields.append((attribute, type_, None))
    try:
        type_ = msgspec.defstruct(
            "record", fields + others, rename=rename, gc=False, frozen=True, forbid_unknown_fields=only_known
        )
    except ValueError as error:
        raise NoShape(f"the decoder of the fast path refuses the name of a member: {error}") from None
    if not extras:
        node.empty = type_()
    return type_


def _type_of(node: Node, path: Names, *, only_known: bool, extras: Mapping[Names, str]) -> Any:
    """Return the type of a member that is no leaf; null is the same as a member that is missing."""
    if node.element:
        node.empty = ()
        inner = node.element
        element = msgspec.Raw if inner.is_leaf else _type_of(inner, path, only_known=only_known, extras=extras)
        return cast(Any, list)[element] | None
    type_ = _compiled(node, path, only_known=only_known, extras=extras)
    return cast(Any, list)[type_] | None if node.is_array else type_ | None


def _token_column(table: Table, column: Column) -> TokenColumn:
    place = _place(table, column)
    options = ", ".join(_options(column))
    if place.kind == MEMBER:
        outer = "" if place.level == len(table.each) else "an outer element: " if place.level else "the record: "
        description = f"{outer}{paths.spelling(place.path)} ({options})"
    else:
        words = {
            CONSTANT: "a constant",
            POSITION: "position from 1",
            WHOLE: "the whole record",
            KEY: "the key of the record",
        }
        description = f"{words[place.kind]} ({options})"
    is_checked = place.kind in {MEMBER, WHOLE, KEY}
    return TokenColumn(
        column=column,
        place=place,
        accept=acceptor(column) if is_checked else None,
        changed=rules_of(column).changed if is_checked and not is_converted(column) else None,
        description=description,
    )


def _options(column: Column) -> Iterator[str]:
    yield column.type
    if column.required:
        yield "required"
    for word in ("min", "above", "max", "max_length"):
        if (value := getattr(column, word)) is not None:
            yield f"{word} {value}"
    if column.one_of:
        yield "one of a list"
    if column.exact:
        yield "exact"
    if column.trim:
        yield "trimmed"
    if column.null_if:
        yield "null if in a list"
    if column.default is not None:
        yield "a default for null"
    if column.timezone:
        yield f"local time of {column.timezone}"
    if column.formats:
        yield f"or {', '.join(column.formats)}"
    yield from _writing(column)


def _writing(column: Column) -> Iterator[str]:
    if column.unwrap:
        yield f"of {column.unwrap}"
    if column.json:
        yield "JSON in a text"
    if column.decimal:
        yield f"decimals after {column.decimal}"
    if column.true or column.false:
        yield "words for true and false"
