"""The new pieces of a source into the database, by this process or by a crew; what became of each is noted in order."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass

from etl.database import Session
from etl.errors import EtlError, InterruptedByUserError, SourceError, TooManyRejectedError
from etl.ingestion import ledger
from etl.ingestion.ahead import Ahead, Made
from etl.ingestion.crew import Crew, crew
from etl.ingestion.failures import FailedStore
from etl.ingestion.job import Job, Progress, Stop
from etl.ingestion.lanes import Lanes
from etl.ingestion.resumption import admit_workers, require_same
from etl.ingestion.sending import do_nothing
from etl.ingestion.source import Stream
from etl.ingestion.values import Batch, Entry, Piece, Prove, Range, unproven
from etl.ingestion.workers import Work, worker


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """What an attempt brings in, what is in already, and how far it came; `before_rows` makes ready for the first.

    `pieces` cuts the source by the proofs of whoever makes the batches.
    """

    work: Work
    job: Job
    stream: Stream
    known: Mapping[int, Range]
    pieces: Callable[[Prove], Iterator[Piece | None]]
    progress: Progress
    before_rows: Callable[[], object]

    def note_known(self, piece: Piece) -> None:
        """Note a piece that is in already.

        Raises SourceError when it is another now.
        """
        require_same(self.stream, piece, self.known[piece.offset])
        self.progress.read += piece.count
        self.progress.skipped += piece.count
        self.progress.bytes_read = piece.end
        self.job.watch.moved()

    def note(self, piece: Piece, entry: Entry) -> None:
        """Note what became of a piece that was read.

        Raises TooManyRejectedError when more are rejected by now than the settings allow.
        """
        progress = self.progress
        progress.entered += piece.count
        progress.loaded += entry.loaded
        progress.failed += entry.failed
        progress.rejected += entry.rejected
        progress.bytes_read = piece.end
        self.job.watch.moved()
        judge_rejected(progress.rejected, progress.read, self.work.run, self.job, at_end=False)


def judge_rejected(rejected: int, read: int, run: ledger.Run, job: Job, *, at_end: bool) -> None:
    """Raise TooManyRejectedError when more records of the run are rejected than the settings allow."""
    limit = job.settings.max_rejected
    if limit.is_exceeded(rejected, read, at_end=at_end):
        raise TooManyRejectedError(
            f"{rejected:,} of {read:,} records are rejected, --max-rejected allows {limit}",
            hint=f"etl failed list --run {run.run} tells why; a higher --max-rejected goes on",
        )


def by_one(attempt: Attempt, session: Session, store: FailedStore) -> None:
    """Load the pieces one after the other; while the server takes a batch, the next one is made."""
    stream, job, progress = attempt.stream, attempt.job, attempt.progress
    ahead: Ahead[Piece | Batch]

    def meanwhile() -> bool:
        return ahead.go_on()

    lanes, loader = worker(
        attempt.work,
        session,
        store,
        progress.note_retry,
        wait=job.stop.wait,
        # To wait for a pipe or a network would hold the batch open.
        meanwhile=do_nothing if stream.waits else meanwhile,
    )
    ahead = Ahead(_batches(attempt.pieces(lanes.prove), attempt.known, lanes))
    for each in _read(ahead, job.stop):
        if isinstance(each, Piece):
            attempt.note_known(each)
            continue
        if not progress.entered:
            attempt.before_rows()
        progress.read += each.piece.count
        attempt.note(each.piece, loader.load(each))


def _batches(
    pieces: Iterable[Piece | None], known: Mapping[int, Range], lanes: Lanes
) -> Iterator[Piece | Batch | None]:
    """Yield the batch of each new piece, a known piece as it is, and None after each part of the work."""
    for piece in pieces:
        if piece is None or piece.offset in known:
            yield piece
        else:
            yield from lanes.batching(piece)


def _read(ahead: Ahead[Made], stop: Stop) -> Iterator[Made]:
    """Yield what is made as it comes, until a signal does."""
    while True:
        with stop.reading():
            made = ahead.next()
        if made is None:
            return
        yield made


def by_crew(attempt: Attempt, session: Session, size: int) -> None:
    """Hand the pieces in order to `size` processes; cut and prove the next ones while they load."""
    admit_workers(session, attempt.work)
    with crew(size, attempt.job.logs) as hands:
        try:
            fault = _hand_out(attempt, hands)
            while hands.has_more:
                _settle(attempt, hands)
            if fault is not None:
                raise fault
        except EtlError:
            # What is in the hands of others is brought to its end, and counts.
            attempt.progress.read -= sum(piece.count for piece in hands.call_back())
            while hands.has_more:
                with suppress(EtlError):
                    _settle(attempt, hands)
            raise


def _hand_out(attempt: Attempt, hands: Crew) -> SourceError | None:
    """Hand out the new pieces as they are cut; return the fault that ended the source, if one did.

    What was cut before it is loaded all the same.
    """
    path = attempt.stream.plain_path
    is_ready = False
    try:
        for piece in _read(Ahead(attempt.pieces(unproven)), attempt.job.stop):
            if piece.offset in attempt.known:
                attempt.note_known(piece)
                continue
            if not is_ready:
                attempt.before_rows()
                is_ready = True
            # From now on it may be loaded, whatever becomes of the one who loads it.
            attempt.progress.read += piece.count
            hands.hand(attempt.work, piece, path)
            while hands.is_busy:
                _settle(attempt, hands)
    except SourceError as error:
        return error
    return None


def _settle(attempt: Attempt, hands: Crew) -> None:
    """Wait for the piece that was handed first, and note what became of it.

    Raises the error that ended it.
    """
    piece, done = hands.first(attempt.job.stop)
    attempt.progress.retried += done.retried
    if done.entry is not None:
        attempt.note(piece, done.entry)
    if isinstance(done.error, InterruptedByUserError):
        attempt.job.stop.check()
    if done.error is not None:
        raise done.error
