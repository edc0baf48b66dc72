"""The records of a failure as a batch: read from the failed store, claimed and entered in the ledger as a replay."""

import codecs
from collections.abc import Collection, Mapping, Sequence
from dataclasses import field

import psycopg

from etl.errors import UsageError
from etl.ingestion.failed_store.failure import Origin
from etl.ingestion.failed_store.locating import RecordLocation
from etl.ingestion.failed_store.store import FailedStore
from etl.ingestion.framing import decoding
from etl.ingestion.framing.boundaries import piece_spans
from etl.ingestion.ledger import failures
from etl.ingestion.ledger.failures import StoredFailure
from etl.ingestion.transform.projection import Projection
from etl.ingestion.values import Batch, Entry, Failure, Fault, Piece, Span, StoredRecord
from etl.quick_dataclasses import dataclass


def require_whole(failure: StoredFailure, store: FailedStore) -> None:
    """Raise UsageError when the file of a failure is missing, or does not hold its records, one per line."""
    _piece(failure, store, first_record=1)


def batch_of(
    failure: StoredFailure, store: FailedStore, projection: Projection, run_number: int, first_record: int
) -> tuple[Batch, dict[int, RecordLocation]]:
    """Return the records of a failure as a batch, with their locations in the source by their places in the piece.

    `first_record` is the number of the first record of the batch that they come from. Raises UsageError as
    `require_whole` does.
    """
    piece, records = _piece(failure, store, first_record)
    locations = {
        record.record - first_record + 1: RecordLocation(
            record=record.record, offset=record.offset, text=piece.text(span), is_keyed=piece.is_keyed
        )
        for record, span in records
    }
    return projection.batch(piece, decoding.decode(piece), run_number, list(locations)), locations


def _piece(
    failure: StoredFailure, store: FailedStore, first_record: int
) -> tuple[Piece, list[tuple[StoredRecord, Span]]]:
    """Return the records of a failure as a piece, and the description of each record with its span in the piece."""
    store.require_own(*failure.key)
    details = store.details(*failure.key)
    piece = Piece(
        offset=failure.batch,
        count=len(details.records),
        first_record=first_record,
        parts=(store.content(*failure.key).removeprefix(codecs.BOM_UTF8),),  # Some editors add a byte-order mark.
        shape="keyed" if details.is_keyed else "lines",
    )
    spans = list(piece_spans(piece))
    if len(spans) != len(details.records):
        raise UsageError(
            f"expected {len(details.records)} records in {store.path(*failure.key)}, one per line, got {len(spans)}",
            hint=f"to give records up: etl failed discard {failure.id} --reason WHY",
        )
    return piece, list(zip(details.records, spans, strict=True))


@dataclass(frozen=True, kw_only=True)
class ReplayLedgerWriter:
    """Claims a failure instead of a batch, and moves the counts of its batch from refused to loaded.

    `refused_again` receives the ids of the failures that keep what is refused again.
    """

    failure: StoredFailure
    locations: Mapping[int, RecordLocation]
    document: Mapping[str, str] = field(default_factory=dict)
    refused_again: list[str] = field(default_factory=list)

    def claim(self, connection: psycopg.Connection, _batch: Batch) -> bool:
        """Claim the failure; False when it is not pending any more."""
        return failures.claim_replay(connection, self.failure.id)

    def enter(self, connection: psycopg.Connection, _batch: Batch, entry: Entry, stored: Sequence[Failure]) -> None:
        """Enter the result of the replay, and the failures that keep what is refused again."""
        stored = list(stored)
        failures.enter_replay(connection, self.failure, entry, stored)
        self.refused_again[:] = [failure.id for failure in stored]

    def require_failable(self, connection: psycopg.Connection, batch: Batch, fault: Fault) -> None:
        """Let the records of a failure fail again: they wait in the failed store already."""

    def entered(self, _connection: psycopg.Connection, _batch: Batch) -> Entry | None:
        """Return None: no executor repeats a replay."""
        return None

    def origin(self, _batch: Batch) -> Origin:
        """Return the origin of what is refused again: the same batch, one attempt later."""
        return Origin(
            id_prefix=self.failure.id,
            run=self.failure.run,
            dataset=self.failure.dataset,
            source=self.failure.source,
            batch=self.failure.batch,
            attempts=self.failure.attempts + 1,
            parent=self.failure.id,
            document=self.document,
        )

    def locate(self, _batch: Batch, _places: Collection[int]) -> Mapping[int, RecordLocation]:
        """Return the locations of all records of the failure."""
        return self.locations
