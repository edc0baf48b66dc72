"""Observations -> the columns and child tables that they become, with no more columns than a table can have. Pure."""

from collections.abc import Iterator
from dataclasses import dataclass

from etl.inference.kinds import Kind, kind_of
from etl.inference.observing import Observation

MAX_COLUMNS = 1_200
"""PostgreSQL allows 1,600 columns; the rest is for lineage and for columns that are added later."""


@dataclass(frozen=True, kw_only=True)
class Leaf:
    """A place that becomes a column: its path from the row's object, what was observed there, and its kind."""

    path: tuple[str, ...]
    place: Observation
    kind: Kind


@dataclass(frozen=True, kw_only=True)
class Array:
    """A place that becomes a child table: its path, and what was observed of its elements."""

    path: tuple[str, ...]
    elements: Observation


def within(item: Observation) -> tuple[list[Leaf], list[Array]]:
    """Return the columns and child tables of the object of a row: a record, or an element of an array.

    If members would become too many columns, the object with the most of them stays whole, then the next one.
    """
    while True:
        parts = list(_below(item, ()))
        leaves = [part for part in parts if isinstance(part, Leaf)]
        if sum(1 + leaf.kind.has_misfits for leaf in leaves) <= MAX_COLUMNS or not _fold_largest(item, leaves):
            return leaves, [part for part in parts if isinstance(part, Array)]


def _below(place: Observation, path: tuple[str, ...]) -> Iterator[Leaf | Array]:
    if not place.members:
        yield Leaf(path=path, place=place, kind=Kind(remark="the whole object"))
    for name, member in place.members.items():
        kind = kind_of(member, name)
        if kind.shape == "members":
            yield from _below(member, (*path, name))
        elif kind.shape == "rows" and member.elements:
            yield Array(path=(*path, name), elements=member.elements)
        else:
            yield Leaf(path=(*path, name), place=member, kind=kind)


def _fold_largest(item: Observation, leaves: list[Leaf]) -> bool:
    """Keep the member that becomes the most columns whole; return False if each member becomes one column."""
    counts: dict[str, int] = {}
    for leaf in leaves:
        if len(leaf.path) > 1:
            counts[leaf.path[0]] = counts.get(leaf.path[0], 0) + 1
    if not counts:
        return False
    item.members[max(counts, key=lambda name: counts[name])].is_whole = True
    return True
