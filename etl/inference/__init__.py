"""From a source to a proposed dataset definition: its first records are observed, and written down as TOML."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

from etl.datasets import Dataset
from etl.errors import SourceError
from etl.inference.finding import RecordPath, find_records
from etl.inference.observing import Budget, Observation
from etl.inference.tables import draft_of
from etl.inference.writing import Sample, toml
from etl.ingestion.framing.decoding import decode
from etl.ingestion.framing.documents import require_path
from etl.ingestion.framing.pieces import CutOptions, cut
from etl.ingestion.sources.stream import Stream, opened
from etl.ingestion.values import KEY, Fault, Source

SAMPLE = 10_000
"""The default number of records that are observed: in most exports they show every kind of value."""

_PIECE_RECORDS = 1_000


@dataclass(frozen=True, kw_only=True)
class Proposal:
    """A proposed definition: as a value, as the text of its file, and the sample that it is based on."""

    dataset: Dataset
    text: str
    sample: Sample


def infer(
    source: Source, *, name: str, records: str | None, sample: int | None, used_names: frozenset[str]
) -> Proposal:
    """Propose a definition called `name` from the first `sample` records of a source (None: from all of them).

    `records` is the path of one record; None: it is detected. No table gets one of the used names. Reads no more of the
    source than the sample, in constant memory.

    Raises SourceError if the source cannot be read so far or holds no record, UsageError if the path of a record cannot
    be detected.
    """
    with opened(source) as stream:
        path = _path(stream) if records is None else RecordPath(path=records, reason="the path given")
        require_path(path.path)
        root, faults, count = Observation(Budget()), 0, 0
        for count, record in enumerate(islice(_records(stream, path.path), sample), 1):  # noqa: B007 - the last one counts
            if isinstance(record, Fault):
                faults += 1
            else:
                record.pop(KEY, None)  # the key is no value of the record itself
                root.add(record)
        is_all = sample is None or count < sample
    if not root.count:
        raise SourceError(
            f"{source.name}: expected JSON objects at {path.path}, found none",
            hint="give a source that has records, or name their path by --records",
        )
    draft = draft_of(root, name, path.path, used_names)
    info = Sample(source=source.name, reason=path.reason, records=count, no_records=faults, is_all=is_all)
    return Proposal(dataset=draft.dataset, text=toml(draft, info), sample=info)


def _path(stream: Stream) -> RecordPath:
    """Return the path of one record: detected, unless each line is one."""
    if stream.source.is_lines:
        return RecordPath(path="item", reason="records of a program")
    return find_records(stream.head)


def _records(stream: Stream, path: str) -> Iterator[dict[str, Any] | Fault]:
    options = CutOptions(format="auto", records_path=path, batch_rows=_PIECE_RECORDS)
    return (record for piece in cut(stream, options) for record in decode(piece))
