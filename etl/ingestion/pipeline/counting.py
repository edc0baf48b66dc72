"""The counts of a source while it is loaded, as a display shows them. This module only reads."""

from collections.abc import Sequence

from etl.ingestion.pipeline.job import Progress
from etl.ingestion.sources.stream import Stream


def sums(progress: Sequence[Progress]) -> Progress:
    """Return the sums of the counters of all datasets of a source; they share its bytes."""
    names = ("entered", "skipped", "rejected")
    counts = {name: sum(getattr(each, name) for each in progress) for name in names}
    return Progress(**counts, bytes_read=max(each.bytes_read for each in progress))


def position(stream: Stream, progress: Progress) -> int:
    """Return how many bytes of the stored source are finished: those that are read, without those of open batches."""
    return stream.stored_position * progress.bytes_read // max(stream.position, progress.bytes_read, 1)
