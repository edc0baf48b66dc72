"""From a source to a proposed dataset definition: its records are looked at, and what they hold is written as TOML."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

from etl.datasets import Dataset
from etl.errors import SourceError
from etl.inference.finding import Found, find_records
from etl.inference.observing import Budget, Observation
from etl.inference.tables import draft
from etl.inference.writing import Sample, toml
from etl.ingestion.framing.decoding import decode
from etl.ingestion.framing.documents import require_path
from etl.ingestion.framing.pieces import CutOptions, cut
from etl.ingestion.sources.stream import Stream, opened
from etl.ingestion.values import KEY, Fault, Source

SAMPLE = 10_000
"""Records that are looked at unless it is said: most exports show by then what they hold."""

_PIECE_RECORDS = 1_000


@dataclass(frozen=True, kw_only=True)
class Proposal:
    """A definition as it is proposed: as a value, as the text of its file, and what it was made of."""

    dataset: Dataset
    text: str
    sample: Sample


def infer(source: Source, *, name: str, records: str | None, sample: int | None, taken: frozenset[str]) -> Proposal:
    """Propose a definition called `name` by the first `sample` records of a source (None: by all of them).

    `records` is the path of one record, None where it is to be found; no table is proposed under a name of `taken`.
    Reads no more than it looks at, in constant memory.

    Raises SourceError when the source cannot be read so far or holds no record, UsageError when the path of a record
    cannot be told.
    """
    with opened(source) as stream:
        found = find_records(stream.head) if records is None else Found(records=records, reason="the path given")
        require_path(found.records)
        root, faults, count = Observation(Budget()), 0, 0
        for count, record in enumerate(islice(_records(stream, found.records), sample), 1):  # noqa: B007 - kept
            if isinstance(record, Fault):
                faults += 1
            else:
                record.pop(KEY, None)  # a name that JSON does not have; the key itself is no value of the record
                root.see(record)
        is_all = sample is None or count < sample
    if not root.count:
        raise SourceError(
            f"{source.name}: expected JSON objects at {found.records}, found none",
            hint="give a source that has records, or name their path by --records",
        )
    made = draft(root, name, found.records, taken)
    told = Sample(source=source.name, reason=found.reason, records=count, no_records=faults, is_all=is_all)
    return Proposal(dataset=made.dataset, text=toml(made, told), sample=told)


def _records(stream: Stream, path: str) -> Iterator[dict[str, Any] | Fault]:
    how = CutOptions(format="auto", records_path=path, batch_rows=_PIECE_RECORDS, known={})
    return (record for piece in cut(stream, how) for record in decode(piece))
