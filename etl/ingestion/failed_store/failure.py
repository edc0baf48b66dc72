"""The failure that keeps refused records: their lines, and for each record its place, its key and its fault."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import field
from typing import Literal

from etl.ingestion.failed_store.locating import RecordLocation
from etl.ingestion.values import LINE_ENDS, Failure, Rejected, StoredRecord
from etl.quick_dataclasses import dataclass

Kind = Literal["rejected", "failed"]


@dataclass(frozen=True, kw_only=True)
class Origin:
    """Where the records of a failure come from. The id of the failure is the prefix and the first letter of its kind.

    The prefix is the run and the offset of the batch, or the id of the failure that was replayed: a batch that is
    tried again writes the same file again. `batch` is the offset. `document` are the members of the document above the
    records that their columns take, as JSON.
    """

    id_prefix: str
    run: str
    dataset: str
    source: str
    batch: int
    attempts: int = 1
    parent: str | None = None
    document: Mapping[str, str] = field(default_factory=dict)


def build_failure(
    origin: Origin, kind: Kind, refused: Sequence[Rejected], locations: Mapping[int, RecordLocation]
) -> Failure:
    """Build the Failure for these records (at least one). Its message is the fault of the first record.

    `locations` holds the location of each record by its place in the piece.
    """
    lines = b"".join(locations[record.place].text.translate(LINE_ENDS) + b"\n" for record in refused)
    return Failure(
        id=f"{origin.id_prefix}{kind[0]}",
        run=origin.run,
        dataset=origin.dataset,
        source=origin.source,
        batch=origin.batch,
        kind=kind,
        sqlstate=refused[0].fault.sqlstate,
        message=refused[0].fault.reason,
        records=tuple(_stored_record(record, locations[record.place]) for record in refused),
        lines=lines,
        sha256=hashlib.sha256(lines).hexdigest(),
        attempts=origin.attempts,
        parent=origin.parent,
        document=origin.document,
        is_keyed=locations[refused[0].place].is_keyed,
    )


def _stored_record(record: Rejected, location: RecordLocation) -> StoredRecord:
    return StoredRecord(
        record=location.record,
        offset=location.offset,
        key=_printable(record.key),
        table=record.fault.table,
        column=record.fault.column,
        sqlstate=record.fault.sqlstate,
        reason=record.fault.reason,
    )


def _printable(key: str | None) -> str | None:
    """Return a key that JSON can hold: half of a surrogate pair is not a character and is written as an escape."""
    return None if key is None else key.encode(errors="backslashreplace").decode()
