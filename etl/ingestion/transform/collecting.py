"""Generates the functions that collect the tokens of one member from decoded records. Pure: the fast path.

They are those of members that the dataset does not name, and those that it names, but that perhaps no row takes. The
text of a function holds nothing of a definition or record but numbers.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain
from typing import Any

import msgspec

from etl.datasets import Table, paths
from etl.ingestion.constants import LAYER_LEVELS
from etl.ingestion.framing.boundaries import is_utf8
from etl.ingestion.framing.nesting import is_nested_deeper
from etl.ingestion.transform.extraction import MEMBER, Node, Place
from etl.quick_dataclasses import dataclass

Names = tuple[str, ...]

Tokens = Callable[[Sequence[Any]], list[Any]]
"""Decoded records -> the values of one member in them."""

ABSENT = msgspec.Raw(b"")
"""The token of an unknown member that a record does not have: no value is written without a character."""


@dataclass(frozen=True, kw_only=True)
class Extra:
    """A member that the dataset does not name, but a decoder does.

    `tokens(records)` are its values in decoded records, or an empty text for each object without it. `measure(records)`
    is the number of records that have it, and the length of its longest value.
    """

    tokens: Tokens
    measure: Callable[[Sequence[Any]], tuple[int, int]]


def extra_of(root: Node, path: Names, field: str) -> Extra:
    """Compile how to look at a further member, which is the attribute `field`.

    Raises KeyError if no object that the dataset names has it.
    """
    loops, object_, is_repeated = _loops(root, path[:-1])
    tokens_of: Tokens = _function(f"[{object_}.{field} for r in records{loops}]")
    count_of = _function(f"sum(any(t is not ABSENT for t in [{object_}.{field}{loops}]) for r in records)")

    def measure(records: Sequence[Any]) -> tuple[int, int]:
        tokens = tokens_of(records)
        sizes = set(map(len, tokens))  # Few different ones: their largest is found sooner than that of all.
        if is_repeated:
            count: int = count_of(records)
        else:
            count = len(tokens) - (tokens.count(ABSENT) if 0 in sizes else 0)  # ABSENT alone has no length.
        return count, max(sizes, default=0)

    return Extra(tokens=tokens_of, measure=measure)


def left_out(root: Node, tables: Sequence[tuple[Table, Sequence[Place], Sequence[Place]]]) -> list[Tokens]:
    """Compile how to look at the members that the dataset names, but that perhaps no row of a record takes.

    Each table comes with the places of its columns, and with those of its conditions.
    """
    found = {path for path, is_positioned in _leaves(root) if is_positioned}
    named = {place.names for _, *groups in tables for place in chain(*groups) if _is_of_record(place)}
    of_rows = [{place.names for place in columns} for table, columns, _ in tables if not table.each]
    found |= named - of_rows[0].intersection(*of_rows[1:]) if of_rows else named
    for table, _, _ in tables:
        # Some elements have no row: the condition does not hold, or the inner array is empty.
        if table.each and (table.where or table.each[1:]):
            array = tuple(step for step in paths.steps(table.each[0]) if isinstance(step, str))
            found |= {path for path, _ in _leaves(root) if path[: len(array)] == array}
    return [_tokens(root, path) for path in sorted(found)]


def are_sound(data: bytes, collect: Iterable[Tokens], records: Sequence[Any]) -> bool:
    """Return whether the members of the records of a block are UTF-8 and nested no deeper than LAYER_LEVELS."""
    if not is_utf8(data):
        return False
    for tokens_of in collect:
        tokens = tokens_of(records)
        # Nearly always all are short.
        if max(map(len, tokens), default=0) > LAYER_LEVELS and any(
            is_nested_deeper(bytes(token), LAYER_LEVELS) for token in tokens if len(token) > LAYER_LEVELS
        ):
            return False
    return True


def _is_of_record(place: Place) -> bool:
    return place.kind == MEMBER and place.level == 0


def _leaves(node: Node, path: Names = (), *, is_positioned: bool = False) -> Iterator[tuple[Names, bool]]:
    """Yield the path of each leaf, and whether it is in an element that is found by its position."""
    while node.element:
        node, is_positioned = node.element, True
    if node.is_leaf:
        yield path, is_positioned
    for name, child in node.members.items():
        yield from _leaves(child, (*path, name), is_positioned=is_positioned)


def _tokens(root: Node, path: Names) -> Tokens:
    loops, token, _ = _loops(root, path)
    tokens: Tokens = _function(f"[{token} for r in records{loops}]")
    return tokens


def _loops(root: Node, path: Names) -> tuple[str, str, bool]:
    """Return the loops that lead to a member, its name in them, and whether a record may have several of it.

    Raises KeyError where there is no such member.
    """
    node, object_, loops, is_repeated = root, "r", "", False
    for depth, name in enumerate(path):
        child = node.members[name]
        inner = f"{object_}.{node.attribute(name)}"
        node, object_ = child, f"o{depth}"
        while node.element:
            loops += f" for {object_} in {inner} or ()"
            node, inner, is_repeated = node.element, object_, True
        if node.is_array:
            loops += f" for {object_} in {inner} or ()"
        else:
            loops += f" for {object_} in ({inner},)" + ("" if node.is_leaf else f" if {object_}")
        is_repeated |= node.is_array
    return loops, object_, is_repeated


def _function(expression: str) -> Any:
    return eval(f"lambda records: {expression}", {"ABSENT": ABSENT})  # noqa: S307 - this module generates the text
