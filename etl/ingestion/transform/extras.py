"""The unknown members of records on the fast path: its decoder refuses them, so that records without any cost nothing.

A refused block is examined. Each unknown member that is found becomes a field of the decoder, which is counted and
left undecoded; so an unknown member of many records costs little. Pure.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from etl.ingestion.constants import UNKNOWN_NAME_LENGTH
from etl.ingestion.framing.blocks import Decoders
from etl.ingestion.transform.collecting import Extra, are_sound
from etl.ingestion.transform.shapes import NoShape, Shape
from etl.ingestion.transform.unknown import Known, Path, UnknownCounts, distinct, name_of, unknown
from etl.ingestion.values import Fault

_MOST_FIELDS = 16
_MOST_REFUSED = 16
"""So many unknown members become fields, because each field costs a little for every record; the decoder refuses some
names. Others are counted by examining each block that has them."""


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

    def counted(self, records: Sequence[Any]) -> UnknownCounts:
        """Return the counts of the unknown members in records that `decoders` has decoded."""
        counts = UnknownCounts()
        counts.add({name: count for name, extra in self._extras if (count := extra.count(records))})
        return counts

    def are_sound(self, data: bytes, records: Sequence[Any]) -> bool:
        """Return whether the unknown members of decoded records are UTF-8 and nested no deeper than LAYER_LEVELS."""
        return not self._extras or are_sound(data, [extra.tokens for _, extra in self._extras], records)

    def examine(self, records: Iterable[Any], counts: UnknownCounts) -> bool:
        """Count the unknown members of whole records, and make fields of some; return whether there are new fields."""
        met: Counter[Path] = Counter()
        for record in records:
            if not isinstance(record, Fault):
                paths, others = distinct(unknown(record, self._members))
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
