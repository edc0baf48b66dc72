"""Generates the functions that extract the rows of a table from decoded records. Pure: the fast path.

All attributes are in one generated expression, because a call for each attribute takes twice as long. The text holds
nothing of a definition but numbers.
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import field
from typing import Any

from etl.datasets.paths import Step
from etl.ingestion.transform.rules import Token
from etl.ingestion.transform.tokens import NULL, SEPARATOR
from etl.quick_dataclasses import dataclass

Fields = tuple[Token, ...]

MEMBER, POSITION, WHOLE, KEY, CONSTANT = "member", "position", "whole", "key", "constant"
"""The kinds of places that a value comes from."""

_NAMES = {WHOLE: "w", KEY: "k"}
_LISTS = {WHOLE: "texts", KEY: "keys"}
"""The lists of the texts and of the keys of records, in the generated text."""


@dataclass()
class Node:
    """A member of a record: a leaf, an object with members, or an array.

    The elements of an array that become rows have the members; `element` is an element that is found by its position.
    """

    members: dict[str, "Node"] = field(default_factory=dict)
    element: "Node | None" = None
    is_leaf: bool = False
    is_array: bool = False
    empty: Any = None

    def attribute(self, name: str) -> str:
        """Return the name of a member in the type: a neutral one, because the member's own name may be any text."""
        return f"m{list(self.members).index(name)}"

    def child(self, step: Step) -> "Node":
        """Return the node that a step leads to.

        Raises KeyError where there is none.
        """
        if isinstance(step, str):
            return self.members[step]
        if self.element is None:
            raise KeyError(step)
        return self.element


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where a token comes from: the kind of the place, and for a member its path.

    `level` is the object from which the path leads to the token: 0 is the record, 1 an element of the first array of
    the table, and so on. `fixed` is the field of a constant.
    """

    kind: str
    level: int = 0
    path: tuple[Step, ...] = ()
    fixed: bytes | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the members on the path, without positions."""
        return tuple(step for step in self.path if isinstance(step, str))


@dataclass(frozen=True, kw_only=True)
class RowExtractor:
    """Extracts the rows of one table from decoded records.

    `fields(records, numbers, texts, keys)` returns for each row a tuple with one member for each group of columns: the
    tokens of the group, joined by SEPARATOR. `numbers` are the numbers of the elements of an array, from b"1", as many
    as the longest array has; `texts` are the records as they are written, if the table is `of_texts`, and `keys` the
    tokens of their keys, if it is `of_keys`. `sizes(records)` returns the number of rows of each record; it is None if
    each record becomes one row. `repeated(records)` returns how many bytes of each record are in each of its rows;
    None: a record has one row, or nothing of it is repeated. `conditions(records)` returns for each row the tokens of
    the conditions of the table; None: it has no condition.
    """

    fields: Callable[[Sequence[Any], Sequence[bytes], Sequence[Token], Sequence[Token]], list[Fields]]
    sizes: Callable[[Sequence[Any]], list[int]] | None
    repeated: Callable[[Sequence[Any]], list[int]] | None
    conditions: Callable[[Sequence[Any]], list[Fields]] | None
    of_texts: bool
    of_keys: bool


def compiled(
    root: Node, arrays: Sequence[tuple[Step, ...]], groups: Sequence[Sequence[Place]], conditions: Sequence[Place]
) -> RowExtractor:
    """Compile the extractor of a table: its arrays, each with its path, its columns in groups, and its conditions."""
    columns = [place for group in groups for place in group]
    kinds = {place.kind for place in columns}
    rows = _Expression(root, arrays, [*columns, *conditions], kinds=kinds)
    groups_of_tokens = [[rows.tokens[place] for place in group] for group in groups]
    texts = [group[0] if len(group) == 1 else f"join(({', '.join(group)}))" for group in groups_of_tokens]
    return RowExtractor(
        fields=rows.function(f"[({', '.join(texts)},){rows.loops}]"),
        sizes=_Expression(root, arrays, is_numbered=False).sizes() if arrays else None,
        repeated=_Expression(root, arrays, columns, is_numbered=False).repeated(columns) if arrays else None,
        conditions=_conditions(root, arrays, conditions) if conditions else None,
        of_texts=WHOLE in kinds,
        of_keys=KEY in kinds,
    )


def _conditions(
    root: Node, arrays: Sequence[tuple[Step, ...]], conditions: Sequence[Place]
) -> Callable[[Sequence[Any]], list[Fields]]:
    rows = _Expression(root, arrays, conditions, is_numbered=False)
    function: Callable[[Sequence[Any]], list[Fields]] = rows.function(
        f"[({', '.join(rows.tokens[place] for place in conditions)},){rows.loops}]"
    )
    return function


class _Expression:
    """The loops over the rows of a table, and the texts that get its tokens within them."""

    def __init__(
        self,
        root: Node,
        arrays: Sequence[tuple[Step, ...]],
        places: Sequence[Place] = (),
        *,
        is_numbered: bool = True,
        kinds: Collection[str] = (),
    ) -> None:
        self.tokens: dict[Place, str] = {}
        self._values: dict[str, Any] = {"join": SEPARATOR.join, "NULL": NULL}
        self._objects: dict[tuple[str, tuple[Step, ...]], str] = {}
        # The loops of the record, then those of the elements of each array: a value is looked up once for all rows.
        lists = {"r": "records"} | {name: _LISTS[kind] for kind, name in _NAMES.items() if kind in kinds}
        zipped = f"zip({', '.join(lists.values())})" if len(lists) > 1 else "records"
        self._loops: list[list[str]] = [[f" for {', '.join(lists)} in {zipped}"]]
        self._level = 0
        self._array = ""
        self._bases = ["r"]
        node = root
        self._take(places, node)
        for level, path in enumerate(arrays, 1):
            array = self._array = self._member(self._bases[-1], node, path)
            for step in path:
                node = node.child(step)
            self._level = level
            self._bases.append(f"e{level}")
            is_last = is_numbered and level == len(arrays)
            loop = f" for n, e{level} in zip(numbers, {array} or ())" if is_last else f" for e{level} in {array} or ()"
            self._loops.append([loop])
            self._take(places, node)

    @property
    def loops(self) -> str:
        """The text of all loops."""
        return "".join(loop for loops in self._loops for loop in loops)

    def sizes(self) -> Callable[[Sequence[Any]], list[int]]:
        """Return the function that counts the rows of each record."""
        record, *outer = ("".join(loops) for loops in self._loops[:-1])
        inner = f"len({self._array} or ())"
        text = f"sum([{inner}{''.join(outer)}])" if outer else inner
        function: Callable[[Sequence[Any]], list[int]] = self.function(f"[{text}{record}]")
        return function

    def repeated(self, places: Sequence[Place]) -> Callable[[Sequence[Any]], list[int]] | None:
        """Return the function that counts the bytes that the rows of each record repeat, or None where there are none.

        Of an inner array these are the bytes of the element that has most of them.
        """
        outer = [place for place in places if place.kind == MEMBER and place.level < self._level]
        if not outer:
            return None
        loops = ["".join(loops) for loops in self._loops]
        sums = [
            " + ".join(f"len({self.tokens[place]})" for place in outer if place.level == level) or "0"
            for level in range(self._level)
        ]
        text = sums[0]
        if self._level > 1:
            text += f" + max([{' + '.join(sums[1:])}{''.join(loops[1:-1])}], default=0)"
        function: Callable[[Sequence[Any]], list[int]] = self.function(f"[{text}{loops[0]}]")
        return function

    def function(self, expression: str) -> Any:
        """Return the function that an expression over records is."""
        return eval(f"lambda records, numbers=(), texts=(), keys=(): {expression}", self._values)  # noqa: S307 - this class generates the text

    def _take(self, places: Sequence[Place], node: Node) -> None:
        """Note the texts of the tokens that the object of this level has."""
        for place in places:
            if place in self.tokens:
                continue
            if place.fixed is not None:
                self.tokens[place] = self._named("fixed", place.fixed)
            elif place.kind == POSITION:
                self.tokens[place] = "n"
            elif place.kind in _NAMES:
                self.tokens[place] = _NAMES[place.kind]
            elif place.level == self._level:
                self.tokens[place] = self._member(self._bases[-1], node, place.path)

    def _member(self, base: str, node: Node, path: Sequence[Step]) -> str:
        """Return the text that gets a member; an object that is missing on the way is an empty one."""
        object_ = base
        for depth, step in enumerate(path[:-1], 1):
            inner = node.child(step)
            key = (base, tuple(path[:depth]))
            if key not in self._objects:
                name = self._objects[key] = f"o{len(self._objects)}"
                empty = self._named("empty", inner.empty)
                self._loops[-1].append(f" for {name} in ({self._step(object_, node, step, 'None')} or {empty},)")
            object_, node = self._objects[key], inner
        return self._step(object_, node, path[-1], "NULL" if node.child(path[-1]).is_leaf else "None")

    def _step(self, object_: str, node: Node, step: Step, missing: str) -> str:
        if isinstance(step, str):
            return f"{object_}.{node.attribute(step)}"
        return f"({object_}[{step}] if len({object_}) > {step} else {missing})"

    def _named(self, prefix: str, value: Any) -> str:
        name = f"{prefix}{len(self._values)}"
        self._values[name] = value
        return name
