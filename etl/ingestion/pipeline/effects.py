"""The sum of the effects of policies on several batches, where the ledger does not add them up."""

from collections import Counter

from etl.ingestion.transform.unknown import UnknownCounts
from etl.ingestion.values import PolicyEffects


class EffectsSum:
    """Adds up the effects of policies, with at most as many unknown members by name as a batch has."""

    def __init__(self) -> None:
        self._counts = Counter[str]()
        self._unknown = UnknownCounts()
        self._coerced = Counter[str]()

    def add(self, effects: PolicyEffects) -> None:
        """Add the effects on the records of a batch."""
        self._counts.update(nul_stripped=effects.nul_stripped, duplicates=effects.duplicates)
        self._unknown.add(effects.unknown, effects.unknown_others)
        self._coerced.update(effects.coerced)

    @property
    def sum(self) -> PolicyEffects:
        """The effects on all records so far."""
        return PolicyEffects(
            nul_stripped=self._counts["nul_stripped"],
            duplicates=self._counts["duplicates"],
            unknown=self._unknown.kept(),
            unknown_others=self._unknown.others,
            coerced=dict(self._coerced),
        )
