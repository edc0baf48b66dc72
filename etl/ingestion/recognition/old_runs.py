"""Runs of versions that wrote no marks: a source is compared with the hashes of their batches.

A run whose batches all agree with a source gets marks then, and is known by them from now on.
"""

from collections import deque
from collections.abc import Iterable, Sequence
from operator import attrgetter

import xxhash

from etl.ingestion.fingerprints import Fingerprint, Mark
from etl.ingestion.framing.spans import spans
from etl.ingestion.ledger import batches, marks, runs
from etl.ingestion.ledger.marks import Reader
from etl.ingestion.values import LoadedRange, Piece

_NOTHING = Mark(0, 0, 0)


class _Hashes:
    """The hashes of ranges of bytes, computed while the bytes pass; those that begin together are computed together."""

    def __init__(self, ranges: Iterable[tuple[int, int]]) -> None:
        self.found: dict[tuple[int, int], bytes] = {}
        self._waiting = deque(sorted(set(ranges)))
        self._open: list[tuple[int, deque[int], xxhash.xxh3_128]] = []

    def feed(self, data: bytes, at: int) -> None:
        """Take the bytes that begin at `at`."""
        end = at + len(data)
        while self._waiting and self._waiting[0][0] < end:
            begin, last = self._waiting.popleft()
            if not self._open or self._open[-1][0] != begin:
                self._open.append((begin, deque(), xxhash.xxh3_128()))
            self._open[-1][1].append(last)
        for begin, ends, hashed in self._open:
            position = max(begin, at)
            while ends and position < end:
                stop = min(ends[0], end)
                hashed.update(memoryview(data)[position - at : stop - at])
                position = stop
                if stop == ends[0]:
                    self.found[begin, ends.popleft()] = hashed.digest()
        self._open = [each for each in self._open if each[1]]


class OldRun:
    """A run without marks whose first batch is that of the source; the end of each batch is as good as a mark.

    `end_mark` is the mark of the source at the end of the last batch that agreed.
    """

    needs_own = False

    def __init__(self, run: int, ranges: Iterable[LoadedRange]) -> None:
        self.run = run
        self.ranges = deque(sorted(ranges, key=attrgetter("first_record")))
        self.hit = _NOTHING
        self.end_mark: Mark | None = None
        self._hashes = _Hashes((each.offset, each.end) for each in self.ranges)

    def read(self, piece: Piece) -> None:
        """Take the bytes of the next piece."""
        self._hashes.feed(piece.gap + piece.stored, piece.offset - len(piece.gap))

    def know_first(self, digest: bytes) -> None:
        """Take the hash of the first batch, most of which may have passed before this run was found."""
        first = self.ranges[0]
        self._hashes.found[first.offset, first.end] = digest

    @property
    def after(self) -> Mark | None:
        """The end of the next batch, in bytes of the source."""
        return Mark(self.ranges[0].last_record, self.ranges[0].end, 0) if self.ranges else None

    def agrees(self, mark: Mark, piece: Piece) -> bool:
        """Return whether the source has the same bytes and records as the next batch."""
        loaded = self.ranges[0]
        place = mark.records - piece.first_record + 1
        [(_, span)] = spans(piece, [place])
        is_same = self._hashes.found.get((loaded.offset, loaded.end)) == loaded.hash
        if not is_same or piece.offset + span.end != loaded.end:
            return False
        fingerprint = piece.start.copy() if piece.start else Fingerprint()
        fingerprint.add(piece.hashed(0, span.end), place)
        self.end_mark = fingerprint.mark
        return True

    def step(self) -> None:
        """Continue with the next batch."""
        loaded = self.ranges.popleft()
        self.hit = Mark(loaded.last_record, loaded.end, 0)


class OldRuns:
    """The runs of a dataset without marks, found by their first batches while a source is read.

    `firsts` are the bytes at which the first batches begin and end; `runs` are the runs that were found, by number.
    """

    def __init__(self, ledger: Reader, dataset: str, firsts: Sequence[tuple[int, int]]) -> None:
        self.runs: dict[int, OldRun] = {}
        self._ledger = ledger
        self._dataset = dataset
        self._last = max(end for _, end in firsts)
        self._hashes = _Hashes(firsts)
        self._asked: set[bytes] = set()

    @property
    def is_searching(self) -> bool:
        """Whether the first batch of another run may still come."""
        return bool(self._last)

    def found(self, piece: Piece) -> list[OldRun]:
        """Take the bytes of the next piece; return the runs whose first batch ends in it."""
        if not self._last:
            return []
        self._hashes.feed(piece.gap + piece.stored, piece.offset - len(piece.gap))
        new = set(self._hashes.found.values()) - self._asked
        self._asked |= new
        if piece.end >= self._last:
            self._last = 0
        numbers = self._ledger.read(marks.runs_of_first_batches, self._dataset, list(new)) if new else {}
        known = self._ledger.read(runs.known, list(numbers))
        found = [OldRun(number, self._ledger.read(batches.ranges, run.run)) for number, run in known.items()]
        for run in found:
            run.know_first(numbers[run.run])
            self.runs[run.run] = run
        return found
