"""What of a record a dataset reads, compiled: the type that decodes a record into tokens, and what takes them in rows.

Each leaf is the bare text of its JSON value; what the dataset does not name is passed over without being built. Pure:
the fast path's view of a definition. What it cannot see so is left to the checked path (`shape` tells why).
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import msgspec

from etl.datasets import Column, Dataset, Table, paths
from etl.ingestion.transform.acceptance import acceptor, constant, field_of
from etl.ingestion.transform.rules import Accept, Token
from etl.ingestion.transform.tokens import NULL, SEPARATOR

Fields = tuple[Token, ...]


class NoShape(ValueError):
    """The fast path cannot see a column of this dataset; the message tells which and why."""


@dataclass(frozen=True, kw_only=True)
class Seen:
    """One column: where its token stands, how it is accepted, and a line that tells it to a person.

    `names` lead to it from the record, or from the element that is the row; of a constant they are empty, and `fixed`
    is its field.
    """

    column: Column
    where: str
    names: tuple[str, ...]
    fixed: bytes | None
    accept: Accept | None
    told: str


@dataclass(frozen=True, kw_only=True)
class Taken:
    """What takes the rows of one table out of decoded records.

    `fields(records, numbers)` gives for each row a tuple with one member for each group of columns: the tokens of the
    group, joined by SEPARATOR; `numbers` are those of the elements of an array, from b"1", as many as the longest has.
    `sizes(records)` gives how many rows each record becomes; it is None where each becomes one.
    """

    fields: Callable[[Sequence[Any], Sequence[bytes]], list[Fields]]
    sizes: Callable[[Sequence[Any]], list[int]] | None


@dataclass
class _Node:
    """A member of a record: a leaf, an object with members, or an array whose elements have members."""

    members: dict[str, "_Node"] = field(default_factory=dict)
    is_leaf: bool = False
    is_array: bool = False
    none: Any = None

    def at(self, names: Sequence[str]) -> "_Node":
        node = self
        for name in names:
            if node.is_leaf:
                raise NoShape(f"{name} is looked for in a member that is a column itself")
            node = node.members.setdefault(name, _Node())
        return node

    def attribute(self, name: str) -> str:
        """Return the name of a member in the type, which says nothing: that of a member may be anything."""
        return f"m{list(self.members).index(name)}"


@dataclass(frozen=True, kw_only=True)
class Shape:
    """A dataset as the fast path sees it: the type of a record, and for each table its columns.

    A record that decodes as `known` holds no member that the dataset does not name.
    """

    record: type[msgspec.Struct]
    known: type[msgspec.Struct]
    tables: tuple[tuple[Table, tuple[Seen, ...]], ...]
    root: _Node = field(repr=False)

    def told(self) -> str:
        """Return the projection for a person to read: each column with where it comes from and what accepts it."""
        lines = []
        for table, columns in self.tables:
            lines.append(f"{table.name}: one row per " + (f"element of {table.told_each}" if table.each else "record"))
            width = max(len(seen.column.name) for seen in columns)
            lines += [f"    {seen.column.name:{width}} <- {seen.told}" for seen in columns]
        return "\n".join(lines)

    def taking(self, table: Table, groups: Sequence[Sequence[Seen]]) -> Taken:
        """Compile what takes the rows of a table, its columns in groups."""
        return _Taking(self.root, table).compiled(groups)


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
    return Shape(
        known=_compiled(root, only_known=True),
        record=_compiled(root, only_known=dataset.on_unknown == "reject"),
        tables=tuple((table, tuple(_seen(table, column) for column in table.columns)) for table in dataset.tables),
        root=root,
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


def _place(table: Table, column: Column) -> tuple[str, tuple[str, ...]]:
    """Tell where the value of a column stands: in the record, in the element, or nowhere."""
    if column.value is not None:
        return "constant", ()
    way = column.way
    if way.sign:
        return {"#": "position", ".": "whole", "@": "key"}[way.sign], ()
    names = tuple(step for step in way.steps if isinstance(step, str))
    if len(names) < len(way.steps):
        raise NoShape(f"column {column.name} takes an element of an array by its position")
    return ("record" if way.up or not table.each else "element"), names


def _names(each: str) -> list[str]:
    """Return the members that lead to an array."""
    found = [step for step in paths.steps(each) if isinstance(step, str)]
    if len(found) < len(paths.steps(each)):
        raise NoShape(f"{each} takes an element of an array by its position")
    return found


def _compiled(node: _Node, name: str = "record", *, only_known: bool = False) -> Any:
    """Return the type of a node; an empty object of it, and of each that it holds, stays at the nodes."""
    fields: list[tuple[str, Any, Any]] = []
    rename: dict[str, str] = {}
    for member, child in node.members.items():
        attribute = node.attribute(member)
        rename[attribute] = member
        if child.is_leaf:
            fields.append((attribute, msgspec.Raw, NULL))
            continue
        if child.is_array and any(held.is_array for held in child.members.values()):
            raise NoShape(f"{member} holds an array of arrays")
        type_ = _compiled(child, f"{name}_{attribute}", only_known=only_known)
        fields.append((attribute, cast(Any, list)[type_] | None if child.is_array else type_ | None, None))
    try:
        type_ = msgspec.defstruct(name, fields, rename=rename, gc=False, frozen=True, forbid_unknown_fields=only_known)
    except ValueError as error:
        raise NoShape(f"a member has a name that only the checked path finds: {error}") from None
    node.none = type_()
    return type_


class _Taking:
    """The text of the functions that take the rows of one table, and the values that it names.

    Attribute by attribute in one generated expression: a call for each of them takes twice as long. Nothing of a
    definition gets into the text but numbers.
    """

    def __init__(self, root: _Node, table: Table) -> None:
        self._root = root
        self._table = table
        self._values: dict[str, Any] = {"join": SEPARATOR.join}
        self._ways: dict[tuple[str, tuple[str, ...]], str] = {}
        self._loops: list[str] = []

    def compiled(self, groups: Sequence[Sequence[Seen]]) -> Taken:
        each = _names(self._table.each[0]) if self._table.each else []
        element = self._root.at(each)
        array = self._member("r", self._root, each) if each else ""
        sizes = f"[len({array} or ()) for r in records{''.join(self._loops)}]"
        columns = [seen for group in groups for seen in group]
        # What stands in the record is looked for once for all of its elements.
        tokens = {seen.column.name: self._token(seen, self._root) for seen in columns if seen.where != "element"}
        if each:
            self._loops.append(f" for n, e in zip(numbers, {array} or ())")
        tokens |= {seen.column.name: self._token(seen, element) for seen in columns if seen.where == "element"}
        taken = [[tokens[seen.column.name] for seen in group] for group in groups]
        texts = [group[0] if len(group) == 1 else f"join(({', '.join(group)}))" for group in taken]
        fields = f"[({', '.join(texts)},) for r in records{''.join(self._loops)}]"
        return Taken(fields=self._function(fields), sizes=self._function(sizes) if each else None)

    def _token(self, seen: Seen, base: _Node) -> str:
        if seen.fixed is not None:
            return self._named("fixed", seen.fixed)
        if seen.where == "position":
            return "n"
        return self._member("e" if seen.where == "element" else "r", base, seen.names)

    def _member(self, base: str, node: _Node, names: Sequence[str]) -> str:
        """Return the text that takes a member; what is missing on the way to it is an empty object."""
        found = base
        for depth, name in enumerate(names[:-1], 1):
            way = (base, tuple(names[:depth]))
            inner = node.members[name]
            if way not in self._ways:
                self._ways[way] = f"o{len(self._ways)}"
                none = self._named("none", inner.none)
                self._loops.append(f" for {self._ways[way]} in ({found}.{node.attribute(name)} or {none},)")
            found, node = self._ways[way], inner
        return f"{found}.{node.attribute(names[-1])}"

    def _named(self, what: str, value: Any) -> str:
        name = f"{what}{len(self._values)}"
        self._values[name] = value
        return name

    def _function(self, expression: str) -> Any:
        return eval(f"lambda records, numbers=(): {expression}", self._values)  # noqa: S307 - the text is made here


def _seen(table: Table, column: Column) -> Seen:
    where, names = _place(table, column)
    told = ", ".join(_options(column))
    if where == "constant":
        told = f"a constant ({told})"
    elif where == "position":
        told = f"position from 1 ({told})"
    else:
        told = f"{'the record: ' if where == 'record' and table.each else ''}{'.'.join(names)} ({told})"
    return Seen(
        column=column,
        where=where,
        names=names,
        fixed=constant(column) if where == "constant" else None,
        accept=None if where in {"constant", "position"} else acceptor(column),
        told=told,
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
