"""The column that identifies a record, and the one that orders its versions, by values and names. Pure."""

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from etl.datasets.types import INFERRED_TIMES
from etl.inference.identifiers import words, words_of
from etl.inference.leaves import Leaf
from etl.inference.vocabulary import CODES, IDS

_NEWER = words(
    """
    changed edited last lastmodified modified received recorded refreshed revised updated
    """
)
_OF_ANY = frozenset(["", "data", "edge", "feed", "hit", "item", "list", "record", "result", "row", "value"])
"""Words for records of any kind."""

_COUNTERS = frozenset(["revision", "sequence", "version"])
_FEWEST = 10
"""Fewer records say nothing: values that occur once in a handful of records may come again in the next file."""

_LONGEST_KEY = 100

_OWN, _OTHER_ID, _CODE, _ANY = range(4)
"""The ranks of names: that of the record itself, the id of something, a code, any other name."""


@dataclass(frozen=True, kw_only=True)
class Keys:
    """The column that identifies a record, or None; the other candidates; the columns that order versions.

    `own` is the candidate that is named like the record although there are too few records, or None.
    """

    key: str | None
    others: tuple[str, ...]
    newest: tuple[str, ...]
    own: str | None = None


def names_of_record(dataset: str, records: str, others: Collection[str]) -> frozenset[str]:
    """Return the words that name one record: those of the dataset, of the records path and others, in the singular."""
    named = [*words_of(dataset), *others]
    for name in records.split("."):
        named += words_of(name)
    return frozenset(_singular(word) for word in named if word) - _OF_ANY


def choose(leaves: Mapping[str, Leaf], record: Collection[str], records: int) -> Keys:
    """Choose among the columns of the first table by their names; `records` is the number of observed records.

    `record` are the words that name one record. Only a column that is named like the record becomes the key, because
    other values may be unique by accident.
    """
    unique = [name for name, leaf in leaves.items() if _identifies(leaf, records)]
    ranked = sorted(unique, key=lambda name: _rank(name, leaves[name], record))
    own = next((name for name in ranked if _rank(name, leaves[name], record) == _OWN), None)
    key = own if records >= _FEWEST else None
    return Keys(
        key=key,
        others=tuple(name for name in ranked if name != key and _rank(name, leaves[name], record) < _ANY),
        newest=tuple(name for name, leaf in leaves.items() if name != key and _is_newer(name, leaf)),
        own=own,
    )


def _singular(word: str) -> str:
    if word.endswith("ies"):
        return f"{word[:-3]}y"
    if re.search(r"(?:s|x|z|ch|sh)es$", word):
        return word[:-2]
    return word.removesuffix("s")


def _identifies(leaf: Leaf, records: int) -> bool:
    place, kind = leaf.place, leaf.kind
    if place.wrappings and place.wrappings == place.objects == place.values:
        place = next(iter(place.wrapped.values()))
    is_never_null = place.values == place.count == records > 0 and leaf.place.nulls == 0
    if not is_never_null or place.distinct is None or not place.distinct.is_unique or kind.has_misfits:
        return False
    is_short_text = kind.type == "text" and place.texts.longest <= _LONGEST_KEY and not place.booleans
    return (is_short_text and not place.texts.none_words) or (kind.type in {"bigint", "numeric"} and not kind.null_if)


def _rank(name: str, leaf: Leaf, record: Collection[str]) -> int:
    """Return how well a column is named for a key: `id`, or the words of the record with `id` or the like."""
    *owner, last = [word for word in words_of(leaf.path[-1] if leaf.path else name) if word] or [name]
    is_outermost = len(leaf.words) == 1
    if is_outermost and last in IDS and not owner:
        return _OWN
    is_own = bool(owner) and {_singular(word) for word in owner} <= set(record)
    if is_outermost and is_own and (last in IDS or last in CODES):
        return _OWN
    if is_outermost and not owner and _singular(last) in record:
        return _OWN
    return _OTHER_ID if last in IDS else _CODE if last in CODES else _ANY


def _is_newer(name: str, leaf: Leaf) -> bool:
    parts = set(name.split("_"))
    if leaf.kind.type in INFERRED_TIMES:
        return bool(parts & _NEWER)
    return leaf.kind.type == "bigint" and bool(parts & _COUNTERS)
