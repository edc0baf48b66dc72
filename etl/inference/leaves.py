"""What was seen -> what becomes a column and what a child table, with no more columns than a table takes. Pure."""

from collections.abc import Iterator
from dataclasses import dataclass

from etl.inference.kinds import Kind, kind_of
from etl.inference.observing import Observation

MAX_COLUMNS = 1_200
"""PostgreSQL takes 1,600 columns; the rest is for lineage and for what is added later."""


@dataclass(frozen=True, kw_only=True)
class Leaf:
    """A place that becomes a column: the names that lead to it from the row's object, and what it becomes."""

    way: tuple[str, ...]
    place: Observation
    kind: Kind


@dataclass(frozen=True, kw_only=True)
class Array:
    """A place that becomes a child table: the names that lead to it, and what its elements hold."""

    way: tuple[str, ...]
    elements: Observation


def within(item: Observation) -> tuple[list[Leaf], list[Array]]:
    """Return the columns and child tables of what a row is made of: a record, or the element of an array.

    Objects whose members would make too many columns stay whole, the one with the most of them first.
    """
    while True:
        found = list(_below(item, ()))
        leaves = [each for each in found if isinstance(each, Leaf)]
        if sum(1 + leaf.kind.has_misfits for leaf in leaves) <= MAX_COLUMNS or not _fold_largest(item, leaves):
            return leaves, [each for each in found if isinstance(each, Array)]


def _below(place: Observation, way: tuple[str, ...]) -> Iterator[Leaf | Array]:
    if not place.members:
        yield Leaf(way=way, place=place, kind=Kind(remark="the whole object"))
    for name, member in place.members.items():
        kind = kind_of(member, name)
        if kind.shape == "members":
            yield from _below(member, (*way, name))
        elif kind.shape == "rows" and member.elements:
            yield Array(way=(*way, name), elements=member.elements)
        else:
            yield Leaf(way=(*way, name), place=member, kind=kind)


def _fold_largest(item: Observation, leaves: list[Leaf]) -> bool:
    """Let the member that makes the most columns stay whole; False when each member makes one."""
    counts: dict[str, int] = {}
    for leaf in leaves:
        if len(leaf.way) > 1:
            counts[leaf.way[0]] = counts.get(leaf.way[0], 0) + 1
    if not counts:
        return False
    item.members[max(counts, key=lambda name: counts[name])].is_whole = True
    return True
