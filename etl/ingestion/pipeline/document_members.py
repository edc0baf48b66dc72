"""The members of the document above the records that columns take (`$document.NAME`), read before the records are."""

import time
from contextlib import suppress
from dataclasses import replace
from typing import Any

import structlog

from etl.datasets import Dataset, paths
from etl.errors import SourceError, UsageError
from etl.ingestion.framing.document_members import DocumentMembers
from etl.ingestion.framing.documents import container
from etl.ingestion.framing.pieces import CutOptions, cutting
from etl.ingestion.sources.stream import Stream, opened
from etl.ingestion.transform.document_members import with_document
from etl.ingestion.values import ByteStream, Source
from etl.quick_dataclasses import dataclass

log = structlog.get_logger(__name__)


@dataclass()
class _Beginning:
    """The first bytes of a source, which were read already."""

    source: Source
    data: bytes
    is_idle: bool = False

    def read(self, size: int) -> bytes:
        """Return the next bytes."""
        data, self.data = self.data[:size], self.data[size:]
        return data


def resolved(dataset: Dataset, stream: Stream, how: CutOptions) -> Dataset:
    """Return the definition for a source: columns with `$document` get their value from its document.

    Members before the records are in the first bytes, which the stream has read. For others the source is read once
    more. Raises UsageError where that cannot be, and where there is no document, SourceError as reading does.
    """
    names = dataset.document_paths
    if not names:
        return dataset
    wanted = {name: tuple(map(str, paths.parse(name).steps)) for name in names}
    at_path = container(how.records_path)
    if stream.source.is_lines or how.format == "ndjson" or not (at_path.prefix or at_path.is_alone):
        raise UsageError(
            f"{dataset.path} takes {names[0]}, and there is no document above records at the path {how.records_path!r}",
            hint="--records names the array of records in the document, as in shipments.item",
        )
    found = _values(_Beginning(stream.source, stream.head), how, wanted, reads_on=False)
    if found is None and not stream.is_repeatable:
        raise UsageError(
            f"{stream.source.name}: {', '.join(names)}: not before the records, and this source can be read only once",
            hint="save it to a file: a file is read once more for what comes after the records",
        )
    if found is None:
        started = time.monotonic()
        with opened(stream.source) as again:
            found = _values(again, how, wanted, reads_on=True)
        log.warning(
            "source_read_twice",
            source=stream.source.name,
            reason=f"{', '.join(names)}: not before the records",
            seconds=round(time.monotonic() - started, 2),
        )
    return with_document(dataset, found or {})


def _values(
    stream: ByteStream, how: CutOptions, wanted: dict[str, tuple[str, ...]], *, reads_on: bool
) -> dict[str, Any] | None:
    """Return the members by their paths, null for a missing one; None if the rest of the document has to be read."""
    collected = DocumentMembers(wanted.values())
    how = replace(how, prover=None, expected=None, outside=collected)
    with suppress(SourceError):  # The load itself reports a fault, after the records before it.
        for _ in cutting(stream, how):
            if collected.has_all:
                break
            if not reads_on:
                return None
    if not reads_on and not collected.has_all:
        return None
    return {name: collected.values.get(path) for name, path in wanted.items()}
