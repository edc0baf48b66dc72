"""The failure that keeps refused records: its lines, and for each record its place, its key and its fault."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from etl.ingestion.failed_store.locating import RecordLocation
from etl.ingestion.values import LINE_ENDS, Failure, Rejected

Kind = Literal["rejected", "failed"]


@dataclass(frozen=True, kw_only=True)
class Origin:
    """Where the records of a failure come from; its id is the prefix and the first letter of its kind.

    The prefix is made of run and offset, or is the id of the failure that was replayed: a batch that is tried again
    writes the same file again.
    """

    id_prefix: str
    run: str
    dataset: str
    source: str
    batch: int
    attempts: int = 1
    parent: str | None = None


def build_failure(
    origin: Origin, kind: Kind, kept: Sequence[Rejected], located: Mapping[int, RecordLocation]
) -> Failure:
    """Build the Failure for these records (at least one). Its message is the fault of the first record."""
    lines = b"".join(located[record.place].text.translate(LINE_ENDS) + b"\n" for record in kept)
    return Failure(
        id=f"{origin.id_prefix}{kind[0]}",
        run=origin.run,
        dataset=origin.dataset,
        source=origin.source,
        batch=origin.batch,
        kind=kind,
        sqlstate=kept[0].fault.sqlstate,
        message=kept[0].fault.reason,
        records=tuple(
            {
                "record": located[record.place].record,
                "offset": located[record.place].offset,
                "key": _printable(record.key),
                "table": record.fault.table,
                "column": record.fault.column,
                "sqlstate": record.fault.sqlstate,
                "reason": record.fault.reason,
            }
            for record in kept
        ),
        lines=lines,
        sha256=hashlib.sha256(lines).hexdigest(),
        attempts=origin.attempts,
        parent=origin.parent,
        is_keyed=located[kept[0].place].is_keyed,
    )


def _printable(key: str | None) -> str | None:
    """Return a key that JSON can hold: half of a surrogate pair is not a character and is written as an escape."""
    return None if key is None else key.encode(errors="backslashreplace").decode()
