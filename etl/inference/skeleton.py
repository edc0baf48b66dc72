"""The beginning of a source as a tree: the members and elements at each place, and how many there are. Pure."""

import io
from dataclasses import dataclass, field
from typing import Any

import ijson

_MOST_MEMBERS = 1_000
_MOST_NODES = 50_000
_LONGEST_ROW = 1_000
_MOST_LEVELS = 50
"""Deeper values, and members beyond these numbers, are counted in the place around them."""


@dataclass(eq=False, slots=True)
class Node:
    """The values at one place.

    `members` are the members of all its objects, `elements` all elements of its arrays. `row` are the scalars of its
    first array, `lengths` the least and the largest length of its arrays, `size` the values within it and itself.
    `others` are the members beyond the number that is kept.
    """

    values: int = 0
    objects: int = 0
    arrays: int = 0
    nulls: int = 0
    size: int = 0
    members: dict[str, "Node"] = field(default_factory=dict)
    elements: "Node | None" = None
    row: list[Any] | None = None
    lengths: tuple[int, int] | None = None
    others: "Node | None" = None

    @property
    def scalars(self) -> int:
        """The number of texts, numbers, and words that are not null."""
        return self.values - self.objects - self.arrays - self.nulls

    @property
    def is_object(self) -> bool:
        """Whether all values but nulls are objects with members."""
        return bool(self.members) and self.objects == self.values - self.nulls

    @property
    def is_array(self) -> bool:
        """Whether all values but nulls are arrays."""
        return self.arrays > 0 and self.arrays == self.values - self.nulls

    @property
    def is_list_of_objects(self) -> bool:
        """Whether all values but nulls are arrays, and all their elements objects."""
        return self.is_array and self.elements is not None and self.elements.is_object

    @property
    def is_list_of_rows(self) -> bool:
        """Whether all values are arrays, and all their elements are arrays of scalars."""
        return (
            self.is_array
            and self.elements is not None
            and self.elements.is_array
            and self.elements.elements is not None
            and not self.elements.elements.arrays
            and not self.elements.elements.objects
        )

    @property
    def is_list_of_scalars(self) -> bool:
        """Whether all values are arrays, and their elements are neither objects nor arrays."""
        elements = self.elements
        return self.is_array and elements is not None and not elements.objects and not elements.arrays


@dataclass(frozen=True, kw_only=True)
class Skeleton:
    """The tree of a beginning: `root` has all its documents as values. `is_cut`: the last document continues."""

    root: Node
    is_cut: bool


def skeleton_of(data: bytes) -> Skeleton:
    """Return the tree of the beginning of a source. JSON ends where it is cut off, or at its first fault."""
    builder = _Builder()
    try:
        for event, value in ijson.basic_parse(io.BytesIO(data), use_float=True, multiple_values=True):
            builder.add(event, value)
    except ijson.JSONError:
        pass  # the data ends here, or the cutter reports the fault
    is_cut = bool(builder.open)
    while builder.open:
        builder.end()
    return Skeleton(root=builder.root, is_cut=is_cut)


class _Builder:
    """Builds the tree event by event; `open` are the places of the values that have begun."""

    def __init__(self) -> None:
        self.root = Node()
        self.open: list[_Open] = []
        self._nodes = 0

    def add(self, event: str, value: Any) -> None:
        """Add the next event."""
        if event == "map_key":
            self.open[-1].name = value
            return
        if event in {"end_map", "end_array"}:
            self.end()
            return
        node = self._place()
        node.values += 1
        node.size += 1
        if event in {"start_map", "start_array"}:
            is_array = event == "start_array"
            node.objects += not is_array
            node.arrays += is_array
            self.open.append(_Open(node=node, is_array=is_array))
            return
        node.nulls += value is None
        if self.open and self.open[-1].is_array and len(self.open[-1].row) < _LONGEST_ROW:
            self.open[-1].row.append(value)

    def end(self) -> None:
        """End the innermost object or array, and add its size to the place around it."""
        ended = self.open.pop()
        node = ended.node
        if ended.is_array:
            least, most = node.lengths or (ended.count, ended.count)
            node.lengths = min(least, ended.count), max(most, ended.count)
            if node.row is None:
                node.row = ended.row
        if self.open:
            self.open[-1].node.size += ended.inner
            self.open[-1].inner += ended.inner

    def _place(self) -> Node:
        """Return the place of the next value, and count the value in the places around it."""
        if not self.open:
            return self.root
        outer = self.open[-1]
        outer.count += 1
        outer.inner += 1
        outer.node.size += 1
        if outer.is_array or len(self.open) > _MOST_LEVELS:
            return outer.node.elements or self._new_elements(outer.node)
        return outer.node.members.get(outer.name) or self._new_member(outer.node, outer.name)

    def _new_elements(self, node: Node) -> Node:
        node.elements = Node()
        return node.elements

    def _new_member(self, node: Node, name: str) -> Node:
        if len(node.members) < _MOST_MEMBERS and self._nodes < _MOST_NODES:
            self._nodes += 1
            node.members[name] = Node()
            return node.members[name]
        if node.others is None:
            node.others = Node()
        return node.others


@dataclass(eq=False, slots=True)
class _Open:
    """A value that has begun: its place, the name of its member that comes, and what it has so far."""

    node: Node
    is_array: bool
    name: str = ""
    count: int = 0
    inner: int = 0
    row: list[Any] = field(default_factory=list)
