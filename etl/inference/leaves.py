"""Observations -> the columns and child tables that they become, with no more columns than a table can have. Pure."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from etl.inference.kinds import Kind, is_map, kind_of
from etl.inference.observing import Observation
from etl.inference.vocabulary import WRAPPERS

MAX_COLUMNS = 1_200
"""PostgreSQL allows 1,600 columns; the rest is for lineage and for columns that are added later."""

_WITHOUT_NONE = frozenset({"jsonb", "text[]"})
_WITH_OTHERS = "objects or arrays, and other values"


@dataclass(frozen=True, kw_only=True)
class Leaf:
    """A place that becomes a column: its path from the row's object, what was observed there, and its kind.

    `words` are the names of the path without those that say nothing.
    """

    path: tuple[str, ...]
    words: tuple[str, ...]
    place: Observation
    kind: Kind


@dataclass(frozen=True, kw_only=True)
class Array:
    """A place that becomes a child table: its path, the names that say something, and what is in its elements."""

    path: tuple[str, ...]
    words: tuple[str, ...]
    elements: Observation


def within(item: Observation) -> tuple[list[Leaf], list[Array]]:
    """Return the columns and child tables of the object of a row: a record, or an element of an array.

    If members would become too many columns, the object with the most of them stays whole, then the next one.
    """
    if is_map(item):
        kind = Kind(remark="an object whose names are data")
        return [Leaf(path=(), words=("content",), place=item, kind=kind)], []
    while True:
        parts = list(_below(item, (), (), ()))
        leaves = [part for part in parts if isinstance(part, Leaf)]
        if sum(1 + leaf.kind.has_misfits for leaf in leaves) <= MAX_COLUMNS or not _fold_largest(item, leaves):
            return leaves, [part for part in parts if isinstance(part, Array)]


def _below(
    place: Observation, path: tuple[str, ...], words: tuple[str, ...], none: tuple[Any, ...]
) -> Iterator[Leaf | Array]:
    """Yield the parts below an object; `none` are the values that mean none on the way to it."""
    if not place.members:
        yield Leaf(path=path, words=words, place=place, kind=Kind(remark="the whole object"))
    for name, member in place.members.items():
        kind = kind_of(member, name)
        inner_path, inner_words = (*path, name), (*words, name)
        rows = member.rows() if kind.shape == "rows" else None
        if kind.shape == "members":
            below = list(
                _below(member, inner_path, words if _says_nothing(place, name, path) else inner_words, none + kind.none)
            )
            if kind.none and not all(_allows(part, kind.none) for part in below):
                yield Leaf(path=inner_path, words=inner_words, place=member, kind=Kind(remark=_WITH_OTHERS))
            else:
                yield from below
        elif rows:
            says_nothing = _says_nothing(place, name, path)
            yield Array(path=inner_path, words=words if says_nothing else inner_words, elements=rows)
        else:
            if none and kind.type not in _WITHOUT_NONE:
                kind = replace(kind, null_if=(*dict.fromkeys(none + kind.null_if),))
            yield Leaf(path=inner_path, words=inner_words, place=member, kind=kind)


def _says_nothing(outer: Observation, name: str, path: tuple[str, ...]) -> bool:
    """Return whether the name of an object adds nothing to the names in it: the only one of a record, or `data`."""
    is_new_version = name == "after" and "before" in outer.members
    return is_new_version or (not path and len(outer.members) == 1) or name.lower() in WRAPPERS or name in {"M", "L"}


def _allows(part: Leaf | Array, none: tuple[Any, ...]) -> bool:
    """Return whether a column can take these values for none: it has a single value, and none of them itself."""
    if isinstance(part, Array) or part.kind.type in _WITHOUT_NONE:
        return False
    texts = part.place.texts
    has_own = any(isinstance(value, str) and (value in texts.none_words or value in texts.words) for value in none)
    return not has_own and not (part.place.booleans and False in none)


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
