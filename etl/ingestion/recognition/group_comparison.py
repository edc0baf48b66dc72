"""Many small sources are compared with the known runs at once: one question to the ledger for the marks of all."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import field
from typing import Any

import psycopg

from etl.ingestion.fingerprints import Mark
from etl.ingestion.ledger import marks
from etl.ingestion.ledger.marks import Anchored, Reader
from etl.ingestion.recognition.comparison import Recognition
from etl.ingestion.values import Piece
from etl.quick_dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class _Remembering(Reader):
    """Knows the answers for the marks of some sources; it asks the ledger for everything else."""

    known: Mapping[Mark, Sequence[Anchored]] = field(default_factory=dict)

    def read(self, what: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Return the result of a function that reads the ledger."""
        if what is marks.first_batches:
            return []
        if what is marks.anchored and all(mark in self.known for mark in args[1]):
            return [self.known[mark] for mark in args[1]]
        return super().read(what, *args, **kwargs)


def compared(
    connection: psycopg.Connection, dataset: str, sources: Sequence[Sequence[Piece]]
) -> list[Recognition] | None:
    """Compare whole sources with the runs of a dataset; None where it has runs without marks.

    Each source is given by its pieces.
    """
    if marks.first_batches(connection, dataset):
        return None
    asked = list(dict.fromkeys(mark for pieces in sources for mark in pieces[0].marks))
    ledger = _Remembering(
        connect=lambda: connection, known=dict(zip(asked, marks.anchored(connection, dataset, asked), strict=True))
    )
    found = []
    for pieces in sources:
        recognition = Recognition(ledger, dataset)
        for piece in pieces:
            recognition.note(piece)
        found.append(recognition)
    return found


def run_of(recognition: Recognition) -> int | None:
    """Return the one run that has the records of a source, and no others."""
    decided = recognition.decide()
    if decided.kind != "within" or len(decided.within) != 1 or not recognition.records:
        return None
    [run] = decided.within
    return run if recognition.end_of(run) == recognition.records else None
