"""The runs of a source, opened as soon as it is known to which run its records belong.

Until then the pieces of a target are kept, up to KEPT_BYTES. A piece that is needed and was not kept is read again.
"""

from collections import deque
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import field

from structlog.contextvars import bind_contextvars

from etl.errors import EtlError, InternalError, SourceError
from etl.ingestion.constants import KEPT_BYTES
from etl.ingestion.fingerprints import Mark
from etl.ingestion.framing.pieces import NoRecordsError
from etl.ingestion.framing.splitting import RecordLimit, divided, split
from etl.ingestion.pipeline.attempts import Attempt, ChangedMeanwhileError, OpenRun
from etl.ingestion.recognition.comparison import Recognition
from etl.ingestion.sources.stream import Stream, opened
from etl.ingestion.values import Piece
from etl.quick_dataclasses import dataclass

_COMPARISONS = 10
"""How often a source is compared again because other loads have opened runs; each time they were faster."""

Part = tuple[OpenRun, Piece, bool]
"""A run, some of the records of its source, and whether these are loaded already."""

Pieces = Callable[[Stream], Iterator[Piece | None]]
"""Cuts a source into the pieces of all targets; it yields None after each part of the work."""


@dataclass(kw_only=True)
class _Waiting:
    """The pieces of a target whose run is not decided yet: the last ones, and the end of those that were dropped."""

    recognition: Recognition | None
    marks: list[Mark] = field(default_factory=list)
    kept: deque[Piece] = field(default_factory=deque)
    dropped: Mark | None = None
    bytes_kept: int = 0

    def note(self, piece: Piece) -> None:
        """Keep a piece, and compare it with the known runs."""
        if self.recognition is not None:
            self.recognition.note(piece)
        self.marks += piece.marks
        self.kept.append(piece)
        self.bytes_kept += piece.length
        while self.bytes_kept > KEPT_BYTES and len(self.kept) > 1:
            oldest = self.kept.popleft()
            self.bytes_kept -= oldest.length
            self.dropped = oldest.end_mark

    def compare_again(self, recognition: Recognition | None) -> None:
        """Compare the kept pieces with the runs that are known now."""
        self.recognition = recognition
        if recognition is not None:
            for piece in self.kept:
                recognition.note(piece)


class Opening:
    """The targets of one source: each gets its run when this is decided."""

    def __init__(self, stream: Stream, attempts: Sequence[Attempt]) -> None:
        self.attempts = attempts
        self.runs: list[OpenRun | None] = [None for _ in attempts]
        self._stream = stream
        load = attempts[0].load
        self._limit = None if load.settings.limit is None else RecordLimit(load.settings.limit, len(attempts))
        self._waiting = [_Waiting(recognition=attempt.recorder.recognition(attempt)) for attempt in attempts]

    @property
    def cut(self) -> set[int]:
        """The places of the targets that a limit cut off."""
        return set() if self._limit is None else self._limit.cut

    def expected(self, which: int, records: int) -> Sequence[Mark]:
        """Return marks that may come in the records of a target after so many of them."""
        recognition = self._waiting[which].recognition
        return recognition.expected(records) if recognition is not None and self.runs[which] is None else ()

    def opened(self, which: int) -> OpenRun:
        """Return the run of a target that has given records."""
        run = self.runs[which]
        if run is None:
            raise InternalError("records were loaded before their run was opened")
        return run

    def parts(self, pieces: Pieces) -> Iterator[Part | None]:
        """Yield the records of all targets in parts that are loaded, or are not, and None after other work.

        Raises UsageError, BusyError and SourceError when the run of a target may not be loaded.
        """
        try:
            for piece in pieces(self._stream):
                yield None
                yield from self._parts(piece, pieces) if piece is not None else ()
                if self._limit is not None and self._limit.is_reached:
                    break
        except SourceError as fault:
            missing = fault.faults if isinstance(fault, NoRecordsError) else {}
            for which, error in missing.items():
                self.attempts[which].progress.error = error
            yield from self._open_all(pieces, missing, fault)
            raise
        yield from self._open_all(pieces, (), None)

    def _parts(self, piece: Piece, pieces: Pieces) -> Iterator[Part | None]:
        which = piece.which
        run = self.runs[which]
        if run is not None:
            yield from self._divided(run, piece)
            return
        waiting = self._waiting[which]
        waiting.note(piece)
        if waiting.recognition is None or self._is_decided(which):
            yield from self._open(which, pieces)

    def _is_decided(self, which: int) -> bool:
        """Return whether the run of a target is known, and whether it may be loaded does not depend on what follows."""
        waiting, attempt = self._waiting[which], self.attempts[which]
        recognition = waiting.recognition
        if recognition is None or not recognition.is_decided:
            return recognition is None
        return not attempt.recorder.must_read_on(attempt, recognition, waiting.kept[-1].last_record)

    def _open_all(self, pieces: Pieces, missing: Collection[int], fault: SourceError | None) -> Iterator[Part | None]:
        """Open the runs of the targets that are still undecided at the end of the source."""
        for which, waiting in enumerate(self._waiting):
            if self.runs[which] is None and which not in missing and (waiting.kept or fault is None or missing):
                yield from self._open(which, pieces, is_at_end=fault is None or bool(missing), fault=fault)

    def _open(
        self, which: int, pieces: Pieces, *, is_at_end: bool = False, fault: SourceError | None = None
    ) -> Iterator[Part | None]:
        waiting = self._waiting[which]
        try:
            run = self._run_of(which, is_at_end=is_at_end)
        except EtlError:
            if fault is not None and not isinstance(fault, NoRecordsError):
                raise fault from None  # The fault of the source comes first.
            raise
        if run is None:
            return
        self.runs[which] = run
        if len(self.attempts) == 1:
            bind_contextvars(run=run.id)
        dropped = waiting.dropped.records if waiting.dropped else 0
        if run.lacks(1, dropped):
            yield from self._again(run, which, pieces)
        elif dropped:
            run.note_skipped(dropped, waiting.kept[0].offset)
        for piece in waiting.kept:
            yield from self._divided(run, piece)
        waiting.kept.clear()

    def _run_of(self, which: int, *, is_at_end: bool) -> OpenRun | None:
        """Open the run of a target; None where more of the source has to be read, because another load opened one."""
        waiting, attempt = self._waiting[which], self.attempts[which]
        for tries_left in reversed(range(_COMPARISONS)):
            try:
                return attempt.recorder.open(self._stream, attempt, waiting.recognition, waiting.marks, is_at_end)
            except ChangedMeanwhileError:
                if waiting.dropped is not None or not tries_left:
                    raise
            waiting.compare_again(attempt.recorder.recognition(attempt))
            if not is_at_end and not self._is_decided(which):
                break
        return None

    def _again(self, run: OpenRun, which: int, pieces: Pieces) -> Iterator[Part | None]:
        """Read the pieces again that were not kept.

        Raises SourceError when the source cannot be read again, or has other bytes now.
        """
        source = self._stream.source
        if not self._stream.is_repeatable:
            raise SourceError(
                f"{source.name}: records of run {run.id} are missing that were read before this was known,"
                " and the source can be read once only",
                hint="load the same content from a file",
            )
        with opened(source, run.attempt.load.settings.retries) as again:
            for piece in self._same(which, pieces(again)):
                yield from self._divided(run, piece) if piece is not None else (None,)

    def _same(self, which: int, pieces: Iterator[Piece | None]) -> Iterator[Piece | None]:
        """Yield the pieces that were dropped, and None after other work; each is proven to be the same as before.

        Raises SourceError when one differs.
        """
        waiting = self._waiting[which]
        if waiting.dropped is None:
            return
        end, marks = waiting.dropped, set(waiting.marks)
        unproven: list[Piece] = []
        for piece in pieces:
            if piece is None or piece.which != which:
                yield None
                continue
            part = split(piece, end.records - piece.first_record + 1)[0] if piece.last_record > end.records else piece
            unproven.append(part)
            is_last = part.last_record == end.records
            if not marks.issuperset(part.marks) or (is_last and part.end_mark != end):
                raise SourceError(
                    f"{self._stream.source.name}: the file changed while it was read, before byte {part.end}",
                    hint="get the file again and run the same command; loaded records are not loaded twice",
                )
            proven = part.last_record if is_last else max((mark.records for mark in part.marks), default=0)
            while unproven and unproven[0].last_record <= proven:
                yield unproven.pop(0)
            if is_last:
                return

    def _divided(self, run: OpenRun, piece: Piece) -> Iterator[Part]:
        within = piece if self._limit is None else self._limit.within(piece)
        for part, is_loaded in divided(within, run.loaded) if within is not None else ():
            yield run, part, is_loaded
