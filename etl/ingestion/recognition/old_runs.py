"""Runs of versions that wrote no marks: a source is compared with the hashes of their batches.

A run whose batches all agree with a source gets marks then, and is known by them from now on.
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from operator import attrgetter

import psycopg
import xxhash

from etl.ingestion.fingerprints import Fingerprint, Mark, as_hashed
from etl.ingestion.framing.spans import spans
from etl.ingestion.ledger import batches, runs
from etl.ingestion.sources.stream import Stream
from etl.ingestion.values import LoadedRange, Piece

_NOTHING = Mark(0, 0, 0)


class _RangeHashes:
    """The hashes of ranges of bytes, computed while the bytes pass."""

    def __init__(self, ranges: Sequence[LoadedRange]) -> None:
        self.found: dict[tuple[int, int], bytes] = {}
        self._waiting = deque(sorted({(each.offset, each.end) for each in ranges}))
        self._open: list[tuple[int, int, xxhash.xxh3_128]] = []
        self._position = 0

    def feed(self, data: bytes) -> None:
        """Take the next bytes."""
        begin, end = self._position, self._position + len(data)
        while self._waiting and self._waiting[0][0] < end:
            self._open.append((*self._waiting.popleft(), xxhash.xxh3_128()))
        for first, last, hashed in self._open:
            hashed.update(memoryview(data)[max(0, first - begin) : last - begin])
            if last <= end:
                self.found[first, last] = hashed.digest()
        self._open = [each for each in self._open if each[1] > end]
        self._position = end


@dataclass(kw_only=True)
class OldRun:
    """A run without marks that may be that of a source; the end of each of its batches is as good as a mark.

    `end_mark` is the mark of the source at the end of the last batch that agreed.
    """

    run: int
    hashes: _RangeHashes = field(repr=False)
    ranges: deque[LoadedRange]
    hit: Mark = _NOTHING
    end_mark: Mark | None = None
    needs_own: bool = False

    @property
    def after(self) -> Mark | None:
        """The end of the next batch, in bytes of the source."""
        return Mark(self.ranges[0].last_record, self.ranges[0].end, 0) if self.ranges else None

    def agrees(self, mark: Mark, piece: Piece) -> bool:
        """Return whether the source has the same bytes and records as the next batch."""
        loaded = self.ranges[0]
        place = mark.records - piece.first_record + 1
        [(_, span)] = spans(piece, [place])
        if self.hashes.found.get((loaded.offset, loaded.end)) != loaded.hash or piece.offset + span.end != loaded.end:
            return False
        fingerprint = piece.start.copy() if piece.start else Fingerprint()
        fingerprint.add(as_hashed(piece.between(0, span.end)), place)
        self.end_mark = fingerprint.mark
        return True

    def step(self) -> None:
        """Go on to the next batch."""
        loaded = self.ranges.popleft()
        self.hit = Mark(loaded.last_record, loaded.end, 0)


def old_runs(connection: psycopg.Connection, dataset: str, stream: Stream) -> list[OldRun]:
    """Return the runs without marks whose source begins as this one, which is not read yet."""
    numbers = runs.without_marks(connection, dataset, stream.head)
    known = runs.known(connection, numbers)
    ranges = {number: batches.ranges(connection, run.run) for number, run in known.items()}
    hashes = _RangeHashes([loaded for each in ranges.values() for loaded in each])
    found = [
        OldRun(run=number, hashes=hashes, ranges=deque(sorted(each, key=attrgetter("first_record"))))
        for number, each in ranges.items()
        if each
    ]
    if found:
        stream.taps.append(hashes.feed)
    return found
