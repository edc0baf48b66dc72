"""Which run a source belongs to: the run whose source agrees with it over most records (decision 1).

The records of a source are compared, while they are read, with the marks of the known runs. Nothing is written here,
and nothing is loaded before it is decided.
"""

from bisect import bisect_right
from collections import deque
from collections.abc import Collection, Mapping, Sequence
from dataclasses import field
from typing import TYPE_CHECKING, Literal, Protocol

from etl.ingestion.fingerprints import NOTHING, Fingerprint, Mark
from etl.ingestion.framing.spans import spans
from etl.ingestion.ledger import marks
from etl.ingestion.ledger.marks import Anchor, Anchored, Following, Reader
from etl.ingestion.values import Piece
from etl.quick_dataclasses import dataclass

if TYPE_CHECKING:
    from etl.ingestion.recognition.old_runs import OldRun, OldRuns

_FEW = 64
"""So many runs are anchored at a mark; then it is full, and runs that agree for longer are anchored after it.

After a full mark each record of a source is looked up, up to the next mark: a run may end there.
"""

_MOST_EXPECTED = 4
_ASKED_AGAIN = 2000

Kind = Literal["new", "within", "extends", "perhaps within"]
"""new: no run has these records; within: a run has all of them; extends: the source holds all that is known of a run,
and more; perhaps within: the source may be the beginning of the source of a run, cut off between two marks.
"""


@dataclass(frozen=True, kw_only=True)
class Recognised:
    """The run that a source belongs to, by its number.

    `within` are all runs that have all of its records, `whole` those of which it has all. `agrees` is the number of
    records that it shares with the run `departs_from`, the one that agrees longest.
    """

    kind: Kind
    run: int | None = None
    within: Sequence[int] = ()
    whole: Sequence[int] = ()
    departs_from: int | None = None
    agrees: int = 0


class Candidate(Protocol):
    """A run that agrees with a source up to the mark `hit`; `after` is its next mark."""

    run: int
    hit: Mark

    @property
    def after(self) -> Mark | None:
        """The next mark, or None when `hit` is the last one."""

    def read(self, piece: Piece) -> None:
        """Take the next piece of the source."""

    def agrees(self, mark: Mark, piece: Piece) -> bool:
        """Return whether the source has this mark; the piece holds its last record."""

    def step(self) -> None:
        """Continue with the next mark, which the source has."""

    @property
    def needs_own(self) -> bool:
        """Whether it has each mark that every reader of the source makes, up to the next one."""


@dataclass(kw_only=True, eq=False)
class _MarkedRun:
    """A run with marks."""

    run: int
    hit: Mark
    ledger: Reader
    dataset: str
    digests: "_Digests"
    _following: list[Following] = field(default_factory=list)
    _next: int = 0
    _is_all: bool = False

    @property
    def after(self) -> Mark | None:
        if self._next == len(self._following) and not self._is_all:
            self._following, self._is_all = self.ledger.read(marks.following, self.dataset, self.run, self.hit.records)
            self._next = 0
        return self._following[self._next].mark if self._next < len(self._following) else None

    @property
    def needs_own(self) -> bool:
        return not (self._next < len(self._following) and self._following[self._next].is_after_gap)

    def mark_after(self, records: int) -> Mark | None:
        """Return the next mark after so many records, if it is at hand."""
        place = bisect_right(self._following, records, self._next, key=lambda each: each.mark.records)
        return self._following[place].mark if place < len(self._following) else None

    def read(self, piece: Piece) -> None:
        pass

    def agrees(self, mark: Mark, piece: Piece) -> bool:
        return self.digests.at(mark.records, piece) == mark

    def step(self) -> None:
        self.hit = self._following[self._next].mark
        self._next += 1


def _old_runs(ledger: Reader, dataset: str) -> "OldRuns | None":
    firsts = ledger.read(marks.first_batches, dataset)
    if not firsts:
        return None
    from etl.ingestion.recognition.old_runs import OldRuns  # noqa: PLC0415 - few databases have such runs

    return OldRuns(ledger, dataset, firsts)


class _Digests:
    """The marks of a source at any of its records."""

    def __init__(self) -> None:
        self._piece: Piece | None = None
        self._known: dict[int, Mark] = {}

    def at(self, records: int, piece: Piece) -> Mark:
        """Return the mark after so many records; the last of them is in the piece."""
        if piece is not self._piece:
            self._piece = piece
            self._known = {mark.records: mark for mark in (*piece.marks, *filter(None, [piece.end_mark]))}
        if records not in self._known:
            self._known |= {mark.records: mark for mark in _marks_at([records], piece)}
        return self._known[records]


def _marks_at(numbers: Sequence[int], piece: Piece) -> list[Mark]:
    """Return the marks after these records of a piece, in order."""
    found = []
    begin = 0
    fingerprint = piece.start.copy() if piece.start else Fingerprint()
    for place, span in spans(piece, [number - piece.first_record + 1 for number in numbers]):
        fingerprint.add(piece.hashed(begin, span.end), piece.first_record + place - 1 - fingerprint.records)
        begin = span.end
        found.append(fingerprint.mark)
    return found


class Recognition:
    """Compares the records of one target, a piece after the other, until the run is decided.

    `limit` is the number of records that are wanted, `records` how many were compared, `read` how many were read.
    """

    def __init__(self, ledger: Reader, dataset: str, limit: int | None = None) -> None:
        self.is_decided = False
        self._ledger = ledger
        self._dataset = dataset
        self._limit = limit
        self._digests = _Digests()
        self._asked: dict[Mark, int] = {}
        self._looked_up: deque[Mark] = deque(maxlen=_ASKED_AGAIN)
        self._full: Mark | None = None
        self._active: list[Candidate] = []
        self._old = _old_runs(ledger, dataset)
        self._departed: dict[Candidate, int] = {}
        self._ended: list[Candidate] = []
        self.records = 0
        self.read = 0
        self.end: Mark | None = None
        self._limit_end: Mark | None = None
        self._seen: set[int] = set()

    def note(self, piece: Piece) -> None:
        """Compare the records of a piece; after the decision they are only counted."""
        self.read = piece.last_record
        if self.is_decided:
            return
        if not self._asked or self._full is not None:
            self._ask(piece)
        self.records = piece.last_record
        self.end = piece.end_mark
        if self._limit is not None and piece.first_record <= self._limit <= piece.last_record:
            self._limit_end = self._digests.at(self._limit, piece)
        self._active += self._old.found(piece) if self._old else []
        for candidate in list(self._active):
            candidate.read(piece)
            self._follow(candidate, piece)
        n = self._limit or self.records + 1
        has_all = any(candidate.hit.records >= n for candidate in self._all)
        is_searching = self._full is not None or (self._old is not None and self._old.is_searching)
        self.is_decided = has_all or not (self._active or is_searching)

    def expected(self, records: int) -> list[Mark]:
        """Return the next marks of the runs that agree so far, after so many records: those that are at hand."""
        if self.is_decided or len(self._active) > _MOST_EXPECTED:
            return []
        found = (each.mark_after(records) for each in self._active if isinstance(each, _MarkedRun))
        return [mark for mark in found if mark is not None]

    @property
    def _all(self) -> list[Candidate]:
        return [*self._active, *self._departed, *self._ended]

    def _ask(self, piece: Piece) -> None:
        """Find the runs that are anchored at the marks of a piece, as long as these are full."""
        own = list(piece.marks)
        found = self._ledger.read(marks.anchored, self._dataset, own)
        is_first = not self._asked
        for mark, runs in zip(own, found, strict=True):
            self._add(mark, runs)
            if self._full is not None:
                self._look_up_each(self._full, mark, piece)
            elif not is_first:
                continue
            is_first = False
            self._asked[mark] = len(runs)
            self._full = mark if len(runs) >= _FEW else None
        if self._full is not None and piece.end_mark is not None:
            self._look_up_each(self._full, piece.end_mark, piece, through=True)
            self._full = piece.end_mark

    def _look_up_each(self, after: Mark, before: Mark, piece: Piece, *, through: bool = False) -> None:
        """Find the runs that are anchored at one of the records between two marks."""
        first = max(after.records + 1, piece.first_record)
        numbers = range(first, before.records + through)
        found = _marks_at(numbers, piece) if numbers else []
        self._looked_up += found
        for mark, runs in zip(found, self._ledger.read(marks.anchored, self._dataset, found), strict=True):
            self._add(mark, runs)

    def _add(self, mark: Mark, runs: Collection[Anchored]) -> None:
        for each in runs:
            if each.is_live and each.run not in self._seen:
                self._seen.add(each.run)
                self._active.append(
                    _MarkedRun(
                        run=each.run,
                        hit=mark,
                        ledger=self._ledger,
                        dataset=self._dataset,
                        digests=self._digests,
                        _following=[Following(mark, is_after_gap=False) for mark in each.after],
                        _is_all=each.is_all,
                    )
                )

    def _follow(self, candidate: Candidate, piece: Piece) -> None:
        """Compare the marks of a run with the records of a piece."""
        while True:
            after = candidate.after
            if after is None:
                self._active.remove(candidate)
                self._ended.append(candidate)
                return
            if after.records > piece.last_record:
                own = (mark.records for mark in piece.marks if candidate.hit.records < mark.records < after.records)
                missed = next(own, None) if candidate.needs_own else None
                if missed is not None:
                    self._depart(candidate, missed)
                return
            if not candidate.agrees(after, piece):
                self._depart(candidate, after.records)
                return
            candidate.step()

    def _depart(self, candidate: Candidate, at: int) -> None:
        """Note that a run differs from the source within its first `at` records."""
        self._active.remove(candidate)
        self._departed[candidate] = at

    def decide(self, covered: Mapping[int, int] | None = None, flagged: Collection[int] = ()) -> Recognised:
        """Return the decision by all that was read: the source ends there, if it was not decided before.

        `flagged` are the runs whose source may itself be within a longer one.
        """
        n = self._wanted
        hits = [candidate for candidate in self._all if candidate.hit.records]
        within = self.within
        whole = [candidate for candidate in self._ended if candidate.hit.records and candidate.hit.records <= n]
        names = sorted(candidate.run for candidate in whole)
        if within:
            ends = {candidate.run for candidate in self._ended if candidate.hit.records == n} or set(within[:1])
            run = min(within, key=lambda run: (run not in ends, -(covered or {}).get(run, 0), run))
            return Recognised(kind="within", run=run, within=within, whole=names, agrees=n)
        departed = [candidate for candidate, at in self._departed.items() if at > n]
        open_ = [candidate for candidate in (*self._active, *departed) if self._continues_after(candidate, n)]
        longest = max(whole, key=lambda candidate: (candidate.hit.records, -candidate.run), default=None)
        if longest is not None and not (open_ and longest.run in flagged):
            return Recognised(kind="extends", run=longest.run, whole=names, agrees=longest.hit.records)
        if open_:
            run = max(open_, key=lambda candidate: (candidate.hit.records, -candidate.run)).run
            return Recognised(kind="perhaps within", run=run, whole=names)
        longer = self._longer(n)
        if longer is not None:
            return Recognised(kind="perhaps within", run=longer, whole=names)
        deepest = max(hits, key=lambda candidate: (candidate.hit.records, -candidate.run), default=None)
        if deepest is None:
            return Recognised(kind="new", whole=names)
        return Recognised(kind="new", whole=names, departs_from=deepest.run, agrees=deepest.hit.records)

    def _longer(self, n: int) -> int | None:
        """Return a run that may have the wanted records, and was not found: it is anchored after them."""
        mark, runs = next((each for each in reversed(self._asked.items()) if each[0].records <= n), (NOTHING, 0))
        return self._ledger.read(marks.run_after, self._dataset, mark, n) if runs >= _FEW else None

    @property
    def _wanted(self) -> int:
        return min(self._limit or self.records, self.records)

    @property
    def within(self) -> list[int]:
        """The numbers of the runs that have all wanted records."""
        if not self.records:
            [found] = self._ledger.read(marks.anchored, self._dataset, [NOTHING])
            return [each.run for each in found if each.is_live]
        return sorted(candidate.run for candidate in self._all if candidate.hit.records >= self._wanted)

    def end_of(self, run: int) -> int | None:
        """Return the number of records that a run knew, if the source has all of them."""
        return next((candidate.hit.records for candidate in self._ended if candidate.run == run), None)

    def old(self, run: int) -> "OldRun | None":
        """Return a run without marks that agrees with the source."""
        return self._old.runs.get(run) if self._old else None

    def _continues_after(self, candidate: Candidate, n: int) -> bool:
        """Return whether the next mark of a run is after the end of the wanted records, in records and in bytes."""
        after = candidate.after
        end = self._limit_end or self.end
        return after is not None and after.records > n and (end is None or after.end > end.end)

    def has_changed(self) -> bool:
        """Return whether another load has opened a run of this source since it was read.

        The answer holds while nothing else can open a run of the dataset.
        """
        asked = [*self._asked, *self._looked_up]
        found = self._ledger.read(marks.anchored, self._dataset, asked)
        self._asked = {mark: len(runs) for mark, runs in zip(self._asked, found, strict=False)}
        return any(each.is_live and each.run not in self._seen for runs in found for each in runs)

    def anchor(self, known: Collection[Mark]) -> Anchor:
        """Return the anchor of a run with these marks: the first mark that is not full, else its last one."""
        parent = None
        for mark, runs in self._asked.items():
            if runs < _FEW and mark in known:
                return Anchor(mark, parent)
            parent = mark if mark in known else parent
        return Anchor(max(known), parent)

    @property
    def runs(self) -> list[int]:
        """The numbers of the runs that agree with the beginning of the source."""
        longer = self._longer(self._wanted)
        found = {candidate.run for candidate in self._all} | set(self.within)
        return sorted(found if longer is None else found | {longer})
