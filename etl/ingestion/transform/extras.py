"""The unknown members of records on the fast path: its decoder refuses them, so that records without any cost nothing.

A refused block is examined. Each unknown member that is found becomes a field of the decoder, which is counted and
left undecoded; so an unknown member of many records costs little. Pure.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from etl.ingestion.constants import LAYER_LEVELS, UNKNOWN_NAME_LENGTH
from etl.ingestion.framing.blocks import Decoders
from etl.ingestion.transform.collecting import Extra, Tokens, are_sound
from etl.ingestion.transform.shapes import NoShape, Shape
from etl.ingestion.transform.unknown import Known, Path, UnknownCounts, distinct, name_of, unknown
from etl.ingestion.values import Fault

_MOST_FIELDS = 16
_MOST_REFUSED = 16
"""So many unknown members become fields, because each field costs a little for every record; the decoder refuses some
names. Others are counted by examining each block that has them."""


class Measured(NamedTuple):
    """What is known of the unknown members in decoded records.

    `counts` are the records that have them; `large` collect those that may be nested deeper than LAYER_LEVELS.
    """

    counts: UnknownCounts
    is_any: bool
    large: Sequence[Tokens]

    def are_sound(self, data: bytes, records: Sequence[Any]) -> bool:
        """Return whether the members are UTF-8 and nested no deeper than LAYER_LEVELS."""
        return not self.is_any or are_sound(data, self.large, records)


class Extras:
    """Decoders that refuse the unknown members that were not met yet, and count the others."""

    def __init__(self, shape: Shape, members: Known | None, decoders: Decoders) -> None:
        self.decoders = decoders
        self._shape = shape
        self._members = members
        self._paths: list[Path] = []
        self._refused: set[Path] = set()
        self._extras: list[tuple[str, Extra]] = []

    @property
    def can_learn(self) -> bool:
        """Whether another unknown member can become a field."""
        return len(self._paths) < _MOST_FIELDS and len(self._refused) < _MOST_REFUSED

    def measured(self, records: Sequence[Any]) -> "Measured":
        """Return what is known of the unknown members in records that `decoders` has decoded."""
        counts, large = UnknownCounts(), []
        found = {}
        for name, extra in self._extras:
            count, longest = extra.measure(records)
            if count:
                found[name] = count
            if longest > LAYER_LEVELS:
                large.append(extra.tokens)
        counts.add(found)
        return Measured(counts, is_any=bool(found), large=large)

    def examine(self, records: Iterable[Any], counts: UnknownCounts | None = None) -> bool:
        """Make fields of some unknown members of whole records, and count them; return whether there are new fields."""
        met: Counter[Path] = Counter()
        for record in records:
            if not isinstance(record, Fault):
                paths, others = distinct(unknown(record, self._members))
                if counts is not None:
                    counts.note(paths, others)
                met.update(paths)
        new = [path for path, _ in met.most_common() if path not in self._paths and path not in self._refused]
        if len(new) > _MOST_FIELDS:  # Names that are data: others follow in the next block.
            new = [path for path in new if met[path] > 1]
        learned = [self._learn(path) for path in new[: _MOST_REFUSED + _MOST_FIELDS]]
        return any(learned)

    def _learn(self, path: Path) -> bool:
        """Make a field of an unknown member; return whether the decoder takes it."""
        if not self.can_learn:
            return False
        try:
            if len(name_of(path)) >= UNKNOWN_NAME_LENGTH:
                raise NoShape("members with long names may count as one")
            record, extras = self._shape.with_extras([*self._paths, path])
        except NoShape:
            self._refused.add(path)
            return False
        self._paths.append(path)
        self._extras = list(zip(map(name_of, self._paths), extras, strict=True))
        self.decoders = Decoders(record)
        return True
