"""The column that identifies a record, and the one that orders its versions, by values and names. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass

from etl.datasets.types import INFERRED_TIMES
from etl.inference.identifiers import words
from etl.inference.leaves import Leaf

_IDS = frozenset({"id", "uuid", "guid"})
_CODES = words(
    """
    code imo key mawb awb no nr number ref reference sscc tracking vin
    """
)
_NEWER = words(
    """
    changed edited last lastmodified modified received recorded refreshed revised updated
    """
)
_COUNTERS = frozenset(["revision", "sequence", "version"])
_FEWEST_FOR_CODES = 20
_FEWEST_FOR_ANY = 100
_LONGEST_KEY = 100


@dataclass(frozen=True, kw_only=True)
class Keys:
    """The column that identifies a record, or None; the other candidates; the columns that order versions."""

    key: str | None
    others: tuple[str, ...]
    newest: tuple[str, ...]


def choose(leaves: Mapping[str, Leaf], dataset: str, records: int) -> Keys:
    """Choose among the columns of the first table, by name; `records` is the number of observed records."""
    unique = [name for name, leaf in leaves.items() if _identifies(leaf, records)]
    ranked = sorted(unique, key=lambda name: _rank(name, dataset))
    fewest = {0: 1, 1: 1, 2: _FEWEST_FOR_CODES, 3: _FEWEST_FOR_ANY}
    key = next((name for name in ranked if records >= fewest[_rank(name, dataset)]), None)
    return Keys(
        key=key,
        others=tuple(name for name in ranked if name != key),
        newest=tuple(name for name, leaf in leaves.items() if name != key and _is_newer(name, leaf)),
    )


def _identifies(leaf: Leaf, records: int) -> bool:
    place, kind = leaf.place, leaf.kind
    is_never_null = place.values == place.count == records > 0
    if not is_never_null or place.distinct is None or not place.distinct.is_unique or kind.has_misfits:
        return False
    is_short_text = kind.type == "text" and place.texts.longest <= _LONGEST_KEY and not place.booleans
    return (is_short_text and not place.texts.none_words) or (kind.type in {"bigint", "numeric"} and not kind.null_if)


def _rank(name: str, dataset: str) -> int:
    *owner, last = name.split("_")
    if name in _IDS or (last in _IDS and dataset.startswith("_".join(owner))):
        return 0
    return 1 if last in _IDS else 2 if last in _CODES else 3


def _is_newer(name: str, leaf: Leaf) -> bool:
    parts = set(name.split("_"))
    if leaf.kind.type in INFERRED_TIMES:
        return bool(parts & _NEWER)
    return leaf.kind.type == "bigint" and bool(parts & _COUNTERS)
