"""A dataset as the fast path sees it: the type that decodes a record into tokens, and functions that form rows of them.

Leaves stay raw JSON text; members that the dataset does not name are skipped. A dataset that tokens cannot express is
left to the checked path, and NoShape says why. Pure.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import msgspec

from etl.datasets import Column, Dataset, Table, paths
from etl.ingestion.transform.acceptance import acceptor, constant, field_of, is_converted
from etl.ingestion.transform.rules import Accept, Changed, Token
from etl.ingestion.transform.tokens import NULL, SEPARATOR
from etl.ingestion.transform.types import rules_of

Fields = tuple[Token, ...]
Names = tuple[str, ...]

_ABSENT = msgspec.Raw(b"")
"""The token of an unknown member that a record does not have: no value is written without a character."""


class NoShape(ValueError):
    """The fast path cannot load this dataset; the message names the column or table, and the reason."""


@dataclass(frozen=True, kw_only=True)
class TokenColumn:
    """One column: where its token comes from, its check, and its description for a user.

    `names` lead to the token from the record, or from the element that is the row. A constant has no names; its field
    is `fixed`.
    """

    column: Column
    where: str
    names: tuple[str, ...]
    fixed: bytes | None
    accept: Accept | None
    changed: Changed | None
    description: str

    @property
    def name(self) -> str:
        """The name of the column."""
        return self.column.name


@dataclass(frozen=True, kw_only=True)
class RowExtractor:
    """Extracts the rows of one table from decoded records.

    `fields(records, numbers)` returns for each row a tuple with one member for each group of columns: the tokens of the
    group, joined by SEPARATOR. `numbers` are the numbers of the elements of an array, from b"1", as many as the longest
    array has. `sizes(records)` returns the number of rows of each record; it is None if each record becomes one row.
    `repeated(records)` returns how many bytes of each record are in each of its rows; None: a record has one row, or
    nothing of it is repeated.
    """

    fields: Callable[[Sequence[Any], Sequence[bytes]], list[Fields]]
    sizes: Callable[[Sequence[Any]], list[int]] | None
    repeated: Callable[[Sequence[Any]], list[int]] | None


@dataclass(frozen=True, kw_only=True)
class Extra:
    """A member that the dataset does not name, but a decoder does.

    `tokens(records)` are its values in decoded records, or an empty text for each object without it. `count(records)`
    is the number of records that have it.
    """

    tokens: Callable[[Sequence[Any]], list[Any]]
    count: Callable[[Sequence[Any]], int]


class Decoders:
    """Decoders of a type of record: of arrays, and of single records or lines."""

    def __init__(self, record: Any) -> None:
        # Where any value is taken, a number stays text: it may be too large, and nobody asks for it.
        self.array = msgspec.json.Decoder(cast(Any, list)[record], float_hook=str)
        self.one = msgspec.json.Decoder(record, float_hook=str)


@dataclass
class _Node:
    """A member of a record: a leaf, an object with members, or an array whose elements have members."""

    members: dict[str, "_Node"] = field(default_factory=dict)
    is_leaf: bool = False
    is_array: bool = False
    empty: Any = None

    def at(self, names: Sequence[str]) -> "_Node":
        node = self
        for name in names:
            if node.is_leaf:
                raise NoShape(f"a path leads to {name} in a member that is itself a column")
            node = node.members.setdefault(name, _Node())
        return node

    def attribute(self, name: str) -> str:
        """Return the name of a member in the type: a neutral one, because the member's own name may be any text."""
        return f"m{list(self.members).index(name)}"


@dataclass(frozen=True, kw_only=True)
class Shape:
    """A dataset as the fast path sees it: the type of a record, and the columns of each table.

    A record that decodes as `known` has no member that the dataset does not name.
    """

    record: type[msgspec.Struct]
    known: type[msgspec.Struct]
    tables: tuple[tuple[Table, tuple[TokenColumn, ...]], ...]
    root: _Node = field(repr=False)

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
        return _ExtractorCompiler(self.root, table).compiled(groups)

    def with_extras(self, paths: Sequence[Names]) -> tuple[type[msgspec.Struct], list[Extra]]:
        """Return a type of a record that has these unknown members, too, and no others; and how to look at them.

        Raises NoShape if the decoder refuses the name of one.
        """
        fields = {path: f"x{number}" for number, path in enumerate(paths)}
        record = _compiled(self.root, only_known=True, extras=fields)
        return record, [_extra(self.root, path, field) for path, field in fields.items()]


def shape(dataset: Dataset) -> Shape:
    """Compile a dataset.

    Raises NoShape if tokens cannot express a table or a column of it.
    """
    root = _Node()
    for table in dataset.tables:
        if table.where:
            raise NoShape(f"{table.name} has a `where`")
        if table.each:
            if len(table.each) > 1:
                raise NoShape(f"{table.name} has a row for each element of an array in an array")
            array = root.at(_names(table.each[0]))
            array.is_array = True
        for column in table.columns:
            _add(root, table, column)
    return Shape(
        known=_compiled(root, only_known=True),
        record=_compiled(root, only_known=dataset.on_unknown == "reject"),
        tables=tuple(
            (table, tuple(_token_column(table, column) for column in table.columns)) for table in dataset.tables
        ),
        root=root,
    )


def _add(root: _Node, table: Table, column: Column) -> None:
    if column.default is not None and field_of(column, column.default) is None:
        raise NoShape(f"column {column.name} has a default that needs a conversion")
    where, names = _place(table, column)
    if where in {"constant", "position"}:
        if where == "constant" and constant(column) is None:
            raise NoShape(f"column {column.name} has a constant that needs a conversion")
        return
    if where == "whole":
        raise NoShape(f"column {column.name} takes a whole object")
    if where == "key":
        raise NoShape(f"column {column.name} takes the key of a record")
    base = root.at(_names(table.each[0])) if where == "element" else root
    leaf = base.at(names)
    if leaf.members or leaf.is_array:
        raise NoShape(f"column {column.name} takes a member whose own members are also columns")
    leaf.is_leaf = True


def _place(table: Table, column: Column) -> tuple[str, tuple[str, ...]]:
    """Return where the value of a column comes from, with the members that lead to it in a record or an element."""
    if column.value is not None:
        return "constant", ()
    path = column.value_path
    if path.sign:
        return {"#": "position", ".": "whole", "@": "key"}[path.sign], ()
    names = tuple(step for step in path.steps if isinstance(step, str))
    if len(names) < len(path.steps):
        raise NoShape(f"column {column.name} takes an element of an array by its position")
    return ("record" if path.up or not table.each else "element"), names


def _names(each: str) -> list[str]:
    """Return the members that lead to an array."""
    names = [step for step in paths.steps(each) if isinstance(step, str)]
    if len(names) < len(paths.steps(each)):
        raise NoShape(f"{each} takes an element of an array by its position")
    return names


def _compiled(
    node: _Node,
    path: Names = (),
    *,
    only_known: bool = False,
    extras: Mapping[Names, str] | None = None,
) -> Any:
    """Return the type of a node at a path; each node keeps an empty object of its type without extras.

    `extras` are the attributes of further members, by their paths.
    """
    extras = extras or {}
    rename = {attribute: extra[-1] for extra, attribute in extras.items() if extra[:-1] == path}
    others = [(attribute, msgspec.Raw, _ABSENT) for attribute in rename]
    fields: list[tuple[str, Any, Any]] = []
    for member, child in node.members.items():
        attribute = node.attribute(member)
        rename[attribute] = member
        if child.is_leaf:
            fields.append((attribute, msgspec.Raw, NULL))
            continue
        if child.is_array and any(member.is_array for member in child.members.values()):
            raise NoShape(f"{member} holds an array of arrays")
        type_ = _compiled(child, (*path, member), only_known=only_known, extras=extras)
        fields.append((attribute, cast(Any, list)[type_] | None if child.is_array else type_ | None, None))
    try:
        type_ = msgspec.defstruct(
            "record", fields + others, rename=rename, gc=False, frozen=True, forbid_unknown_fields=only_known
        )
    except ValueError as error:
        raise NoShape(f"the decoder of the fast path refuses the name of a member: {error}") from None
    if not extras:
        node.empty = type_()
    return type_


def _extra(root: _Node, path: Names, field: str) -> Extra:
    """Compile how to look at a further member. The text holds nothing of a record but numbers."""
    node, object_, loops, is_repeated = root, "r", "", False
    for depth, name in enumerate(path[:-1]):
        inner = f"{object_}.{node.attribute(name)}"
        node, object_ = node.members[name], f"o{depth}"
        loops += f" for {object_} in " + (f"{inner} or ()" if node.is_array else f"({inner},) if {object_}")
        is_repeated |= node.is_array
    tokens = f"[{object_}.{field} for r in records{loops}]"
    values = {"ABSENT": _ABSENT}
    count = f"sum(any(t is not ABSENT for t in [{object_}.{field}{loops}]) for r in records)"
    if not is_repeated:
        count = f"(lambda tokens: len(tokens) - tokens.count(ABSENT))({tokens})"
    return Extra(
        tokens=eval(f"lambda records: {tokens}", values),  # noqa: S307 - this function generates the text
        count=eval(f"lambda records: {count}", values),  # noqa: S307 - this function generates the text
    )


class _ExtractorCompiler:
    """Generates the functions that extract the rows of one table, and the values that their text names.

    All attributes are in one generated expression, because a call for each attribute takes twice as long. The text
    holds nothing of a definition but numbers.
    """

    def __init__(self, root: _Node, table: Table) -> None:
        self._root = root
        self._table = table
        self._values: dict[str, Any] = {"join": SEPARATOR.join}
        self._objects: dict[tuple[str, tuple[str, ...]], str] = {}
        self._loops: list[str] = []

    def compiled(self, groups: Sequence[Sequence[TokenColumn]]) -> RowExtractor:
        each = _names(self._table.each[0]) if self._table.each else []
        element = self._root.at(each)
        array = self._member("r", self._root, each) if each else ""
        sizes = f"[len({array} or ()) for r in records{''.join(self._loops)}]"
        columns = [column for group in groups for column in group]
        # A value of the record is looked up once for all elements of the record.
        tokens = {column.name: self._token(column, self._root) for column in columns if column.where != "element"}
        lengths = [f"len({tokens[column.name]})" for column in columns if column.where == "record"]
        repeated = f"[{' + '.join(lengths)} for r in records{''.join(self._loops)}]"
        if each:
            self._loops.append(f" for n, e in zip(numbers, {array} or ())")
        tokens |= {column.name: self._token(column, element) for column in columns if column.where == "element"}
        names = [[tokens[column.name] for column in group] for group in groups]
        texts = [group[0] if len(group) == 1 else f"join(({', '.join(group)}))" for group in names]
        fields = f"[({', '.join(texts)},) for r in records{''.join(self._loops)}]"
        return RowExtractor(
            fields=self._function(fields),
            sizes=self._function(sizes) if each else None,
            repeated=self._function(repeated) if each and lengths else None,
        )

    def _token(self, column: TokenColumn, base: _Node) -> str:
        if column.fixed is not None:
            return self._named("fixed", column.fixed)
        if column.where == "position":
            return "n"
        return self._member("e" if column.where == "element" else "r", base, column.names)

    def _member(self, base: str, node: _Node, names: Sequence[str]) -> str:
        """Return the text that gets a member; an object that is missing on the way is an empty one."""
        object_ = base
        for depth, name in enumerate(names[:-1], 1):
            path = (base, tuple(names[:depth]))
            inner = node.members[name]
            if path not in self._objects:
                self._objects[path] = f"o{len(self._objects)}"
                empty = self._named("empty", inner.empty)
                self._loops.append(f" for {self._objects[path]} in ({object_}.{node.attribute(name)} or {empty},)")
            object_, node = self._objects[path], inner
        return f"{object_}.{node.attribute(names[-1])}"

    def _named(self, prefix: str, value: Any) -> str:
        name = f"{prefix}{len(self._values)}"
        self._values[name] = value
        return name

    def _function(self, expression: str) -> Any:
        return eval(f"lambda records, numbers=(): {expression}", self._values)  # noqa: S307 - this class generates the text


def _token_column(table: Table, column: Column) -> TokenColumn:
    where, names = _place(table, column)
    options = ", ".join(_options(column))
    if where == "constant":
        description = f"a constant ({options})"
    elif where == "position":
        description = f"position from 1 ({options})"
    else:
        description = f"{'the record: ' if where == 'record' and table.each else ''}{'.'.join(names)} ({options})"
    return TokenColumn(
        column=column,
        where=where,
        names=names,
        fixed=constant(column) if where == "constant" else None,
        accept=None if where in {"constant", "position"} else acceptor(column),
        changed=None if where in {"constant", "position"} or is_converted(column) else rules_of(column).changed,
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
