"""What of a record a dataset reads, compiled: the type that decodes a record into tokens, and the columns' tokens.

Each leaf is the bare text of its JSON value; what the dataset does not name is passed over without being built. Pure:
the fast lane's view of a definition. What it cannot see so is left to the careful lane (`shape` tells why).
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import repeat
from keyword import iskeyword
from operator import attrgetter
from typing import Any, cast

import msgspec

from etl.datasets import Column, Dataset, Table, paths
from etl.ingestion.tokens import NULL, Token, Vouch, constant, field_of, voucher

Take = Callable[["Items"], Iterable[Token]]

_POSITIONS = [b"%d" % number for number in range(1, 1001)]


class NoShape(ValueError):
    """The fast lane cannot see a column of this dataset; the message tells which and why."""


@dataclass(frozen=True, kw_only=True)
class Items:
    """What becomes the rows of one table: records, or elements of an array in them, each with its record.

    `owners` are the places of the records in the block, from 0; None where each record is one row. `inner` are the
    objects in them that were looked for already, by the way that leads to them.
    """

    items: Sequence[Any]
    records: Sequence[Any]
    owners: Sequence[int] | None
    positions: Sequence[bytes]
    inner: dict[tuple[str, ...], Sequence[Any]] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Seen:
    """One column: how its tokens are taken, how they are vouched for, and a line that tells it to a person."""

    column: Column
    take: Take
    vouch: Vouch | None
    told: str


@dataclass(frozen=True, kw_only=True)
class Shape:
    """A dataset as the fast lane sees it: the type of a record, and for each table its rows and columns."""

    record: type[msgspec.Struct]
    tables: tuple[tuple[Table, Callable[[Sequence[Any]], Items], tuple[Seen, ...]], ...]

    def told(self) -> str:
        """Return the projection for a person to read: each column with where it comes from and what vouches for it."""
        lines = []
        for table, _, columns in self.tables:
            lines.append(f"{table.name}: one row per " + (f"element of {table.told_each}" if table.each else "record"))
            width = max(len(seen.column.name) for seen in columns)
            lines += [f"    {seen.column.name:{width}} <- {seen.told}" for seen in columns]
        return "\n".join(lines)


@dataclass
class _Node:
    """A member of a record: a leaf, an object with members, or an array whose elements have members."""

    members: dict[str, "_Node"] = field(default_factory=dict)
    is_leaf: bool = False
    is_array: bool = False
    type: Any = None
    none: Any = None

    def at(self, names: Sequence[str]) -> "_Node":
        node = self
        for name in names:
            if node.is_leaf:
                raise NoShape(f"{name} is looked for in a member that is a column itself")
            node = node.members.setdefault(name, _Node())
        return node


def shape(dataset: Dataset) -> Shape:
    """Compile a dataset.

    Raises NoShape when it has a column that tokens do not give.
    """
    root = _Node()
    for table in dataset.tables:
        if table.where:
            raise NoShape(f"{table.name} takes only what its `where` holds for")
        if table.each:
            if len(table.each) > 1:
                raise NoShape(f"{table.name} has a row for each element of an array in an array")
            array = root.at(_names(table.each[0]))
            array.is_array = True
        for column in table.columns:
            _note(root, table, column)
    _compile("record", root)
    return Shape(
        record=root.type,
        tables=tuple(
            (table, _items(root, table), tuple(_seen(root, table, column) for column in table.columns))
            for table in dataset.tables
        ),
    )


def _note(root: _Node, table: Table, column: Column) -> None:
    if column.default is not None and field_of(column, column.default) is None:
        raise NoShape(f"column {column.name} has a default that is to be converted")
    where, names = _place(table, column)
    if where in {"constant", "position"}:
        if where == "constant" and constant(column) is None:
            raise NoShape(f"column {column.name} has a constant that is to be converted")
        return
    if where == "whole":
        raise NoShape(f"column {column.name} takes the whole of an object")
    if where == "key":
        raise NoShape(f"column {column.name} takes the key of a record")
    base = root.at(_names(table.each[0])) if where == "element" else root
    leaf = base.at(names)
    if leaf.members or leaf.is_array:
        raise NoShape(f"column {column.name} takes a member whose own members are columns, too")
    leaf.is_leaf = True


def _place(table: Table, column: Column) -> tuple[str, list[str]]:
    """Tell where the value of a column stands: in the record, in the element, or nowhere."""
    if column.value is not None:
        return "constant", []
    way = column.way
    if way.sign:
        return {"#": "position", ".": "whole", "@": "key"}[way.sign], []
    names = [step for step in way.steps if isinstance(step, str)]
    if len(names) < len(way.steps):
        raise NoShape(f"column {column.name} takes an element of an array by its position")
    return ("record" if way.up or not table.each else "element"), names


def _names(each: str) -> list[str]:
    """Return the members that lead to an array."""
    found = [step for step in paths.steps(each) if isinstance(step, str)]
    if len(found) < len(paths.steps(each)):
        raise NoShape(f"{each} takes an element of an array by its position")
    return found


def _compile(name: str, node: _Node) -> None:
    """Make the types of a node and of what it holds."""
    fields: list[tuple[str, Any, Any]] = []
    rename: dict[str, str] = {}
    for number, (member, child) in enumerate(node.members.items()):
        attribute = _attribute(member, number)
        rename[attribute] = member
        if child.is_leaf:
            fields.append((attribute, msgspec.Raw, NULL))
            continue
        if child.is_array and any(held.is_array for held in child.members.values()):
            raise NoShape(f"{member} holds an array of arrays")
        _compile(f"{name}_{attribute}", child)
        fields.append((attribute, cast(Any, list)[child.type] | None if child.is_array else child.type | None, None))
    try:
        node.type = msgspec.defstruct(name, fields, rename=rename, gc=False, frozen=True)
    except ValueError as error:
        raise NoShape(f"a member has a name that only the careful lane finds: {error}") from None
    node.none = node.type()


def _attribute(member: str, number: int) -> str:
    is_name = member.isidentifier() and not iskeyword(member) and not member.startswith(("_", "member_"))
    return member if is_name else f"member_{number}"


def _attributes(root: _Node, names: Sequence[str]) -> Iterator[tuple[str, _Node]]:
    node = root
    for name in names:
        number = list(node.members).index(name)
        node = node.members[name]
        yield _attribute(name, number), node


def _objects(root: _Node, names: Sequence[str]) -> Callable[[Sequence[Any]], Sequence[Any]]:
    """Return what takes the inner object of each object; one that is missing is an empty one."""
    steps = [(attrgetter(attribute), node.none) for attribute, node in _attributes(root, names)]

    def take(objects: Sequence[Any]) -> Sequence[Any]:
        for step, none in steps:
            objects = [step(each) or none for each in objects]
        return objects

    return take


def _getter(root: _Node, names: Sequence[str], *, of_record: bool = False) -> Callable[[Items], Iterable[Any]]:
    """Return what takes a member of each item, or of its record."""
    *_, (last, _) = _attributes(root, names)
    get = attrgetter(last)
    objects = _objects(root, names[:-1])
    way = ("^" if of_record else ".", *names[:-1])

    def take(items: Items) -> Iterable[Any]:
        found = items.inner.get(way)
        if found is None:
            found = items.inner[way] = objects(items.records if of_record else items.items)
        return map(get, found)

    return take


def _items(root: _Node, table: Table) -> Callable[[Sequence[Any]], Items]:
    if not table.each:
        return lambda records: Items(items=records, records=records, owners=None, positions=())
    arrays_of = _getter(root, _names(table.each[0]))

    def items(records: Sequence[Any]) -> Items:
        whole = Items(items=records, records=records, owners=None, positions=())
        held: list[Any] = []
        holders: list[Any] = []
        owners: list[int] = []
        positions: list[bytes] = []
        for owner, (record, elements) in enumerate(zip(records, arrays_of(whole), strict=True)):
            if elements:
                size = len(elements)
                held += elements
                holders += repeat(record, size)
                owners += repeat(owner, size)
                positions += _POSITIONS[:size] if size <= len(_POSITIONS) else (b"%d" % n for n in range(1, size + 1))
        return Items(items=held, records=holders, owners=owners, positions=positions)

    return items


def _seen(root: _Node, table: Table, column: Column) -> Seen:
    where, names = _place(table, column)
    told = f"{column.type}, " + ", ".join(
        [
            *(["required"] if column.required else []),
            *(
                f"{word} {value}"
                for word in ("min", "above", "max", "max_length")
                if (value := getattr(column, word)) is not None
            ),
            *(["one of a list"] if column.one_of else []),
            *(["trimmed"] if column.trim else []),
            *(["null if in a list"] if column.null_if else []),
            *(["a default for null"] if column.default is not None else []),
            *([f"local time of {column.timezone}"] if column.timezone else []),
            *([f"or {', '.join(column.formats)}"] if column.formats else []),
        ]
    )
    told = told.rstrip(", ")
    if where == "constant":
        field_ = constant(column) or b""
        return Seen(
            column=column, take=lambda items: [field_] * len(items.items), vouch=None, told=f"a constant ({told})"
        )
    if where == "position":
        return Seen(column=column, take=lambda items: items.positions, vouch=None, told=f"position from 1 ({told})")
    base = root.at(_names(table.each[0])) if where == "element" else root
    from_record = where == "record" and bool(table.each)
    return Seen(
        column=column,
        take=_getter(base, names, of_record=from_record),
        vouch=voucher(column),
        told=f"{'the record: ' if from_record else ''}{'.'.join(names)} ({told})",
    )
