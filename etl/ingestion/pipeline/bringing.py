"""The new pieces of a source into the database, by this process or by a crew; what became of each is noted in order.

Each piece belongs to one of the attempts that share the source: one for each dataset, in the order of their paths.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from etl.errors import EtlError, InterruptedByUserError, SourceError, TooManyRejectedError
from etl.ingestion.constants import PARTS_BEYOND
from etl.ingestion.destination.copying import Copier
from etl.ingestion.destination.sending import Wire, do_nothing
from etl.ingestion.failed_store.store import FailedStore
from etl.ingestion.pipeline.ahead import Ahead, Made
from etl.ingestion.pipeline.assembly import Work, worker
from etl.ingestion.pipeline.job import Part, Stop
from etl.ingestion.pipeline.resumption import admit_workers, require_same
from etl.ingestion.sources.stream import Stream
from etl.ingestion.transform.paths import Paths
from etl.ingestion.values import Batch, Entry, LoadedRange, Piece, Prover

if TYPE_CHECKING:
    from etl.ingestion.pipeline.pool import Crew


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """What an attempt brings into its dataset, and what is in already; `before_rows` makes ready for the first."""

    part: Part
    work: Work
    stream: Stream
    known: Mapping[int, LoadedRange]
    copier: Copier
    before_rows: Callable[[], object]

    def note_known(self, piece: Piece) -> None:
        """Note a piece that is in already.

        Raises SourceError when it is another now.
        """
        require_same(self.stream, piece, self.known[piece.offset])
        progress = self.part.progress
        progress.read += piece.count
        progress.skipped += piece.count
        progress.bytes_read = piece.end
        self.part.job.watch.moved()

    def note(self, piece: Piece, entry: Entry) -> None:
        """Note what became of a piece that was read.

        Raises TooManyRejectedError when more are rejected by now than the settings allow.
        """
        progress = self.part.progress
        progress.entered += piece.count
        progress.loaded += entry.loaded
        progress.failed += entry.failed
        progress.rejected += entry.rejected
        progress.bytes_read = piece.end
        self.part.job.watch.moved()
        self.judge_rejected(progress.rejected, progress.read, at_end=False)

    def judge_rejected(self, rejected: int, read: int, *, at_end: bool) -> None:
        """Raise TooManyRejectedError when more records of the run are rejected than the settings allow."""
        job = self.part.job
        limit = job.settings.max_rejected
        if limit.is_exceeded(rejected, read, at_end=at_end):
            raise TooManyRejectedError(
                f"{job.dataset.name}: {rejected:,} of {read:,} records are rejected, --max-rejected allows {limit}",
                hint=f"etl failed list --run {self.work.run.run} tells why; a higher --max-rejected goes on",
            )


Pieces = Callable[[Sequence[Prover | None]], Iterator[Piece | None]]
"""Cuts the source by the proofs of whoever makes the batches, one for each attempt."""


def by_one(attempts: Sequence[Attempt], pieces: Pieces, store: FailedStore) -> None:
    """Load the pieces one after the other; while the server takes a batch, the next one is made."""
    stream, stop = attempts[0].stream, attempts[0].part.job.stop
    ahead: Ahead[Piece | Batch]

    def meanwhile() -> bool:
        return ahead.go_on()

    hands = [
        worker(
            each.work,
            # To wait for a pipe or a network would hold the batch open.
            Wire(each.part.session, do_nothing if stream.waits else meanwhile),
            store,
            each.part.progress.note_retry,
            wait=stop.wait,
        )
        for each in attempts
    ]
    paths = [each for each, _ in hands]
    ahead = Ahead(_batches(pieces(paths), attempts, paths), PARTS_BEYOND)
    for made in _read(ahead, stop):
        if isinstance(made, Piece):
            attempts[made.which].note_known(made)
            continue
        attempt, (_, loader) = attempts[made.piece.which], hands[made.piece.which]
        if not attempt.part.progress.entered:
            attempt.before_rows()
        attempt.part.progress.read += made.piece.count
        attempt.note(made.piece, loader.load(made))


def _batches(
    pieces: Iterable[Piece | None], attempts: Sequence[Attempt], paths: Sequence[Paths]
) -> Iterator[Piece | Batch | None]:
    """Yield the batch of each new piece, a known piece as it is, and None after each part of the work."""
    for piece in pieces:
        if piece is None or piece.offset in attempts[piece.which].known:
            yield piece
        else:
            piece.hash  # noqa: B018 - made here and not between two batches, where the server waits for it
            yield from paths[piece.which].batching(piece)


def _read(ahead: Ahead[Made], stop: Stop) -> Iterator[Made]:
    """Yield what is made as it comes, until a signal does."""
    while True:
        with stop.reading():
            made = ahead.next()
        if made is None:
            return
        yield made


def by_crew(attempts: Sequence[Attempt], pieces: Pieces, size: int) -> None:
    """Hand the pieces in order to `size` processes; cut and prove the next ones while they load."""
    from etl.ingestion.pipeline.pool import crew  # noqa: PLC0415 - what processes need costs one that is alone its start

    for each in attempts:
        admit_workers(each.part.session, each.work)
    with crew(size, attempts[0].part.job.logs) as hands:
        try:
            fault = _hand_out(attempts, pieces, hands)
            while hands.has_more:
                _settle(attempts, hands)
            if fault is not None:
                raise fault
        except EtlError:
            # What is in the hands of others is brought to its end, and counts.
            for piece in hands.call_back():
                attempts[piece.which].part.progress.read -= piece.count
            while hands.has_more:
                with suppress(EtlError):
                    _settle(attempts, hands)
            raise


def _hand_out(attempts: Sequence[Attempt], pieces: Pieces, hands: "Crew") -> SourceError | None:
    """Hand out the new pieces as they are cut; return the fault that ended the source, if one did.

    What was cut before it is loaded all the same.
    """
    path = attempts[0].stream.plain_path
    ready = set()
    try:
        for piece in _read(Ahead(pieces([None] * len(attempts))), attempts[0].part.job.stop):
            attempt = attempts[piece.which]
            if piece.offset in attempt.known:
                attempt.note_known(piece)
                continue
            if piece.which not in ready:
                attempt.before_rows()
                ready.add(piece.which)
            # From now on it may be loaded, whatever becomes of the one who loads it.
            attempt.part.progress.read += piece.count
            hands.hand(attempt.work, piece, path)
            while hands.is_busy:
                _settle(attempts, hands)
    except SourceError as error:
        return error
    return None


def _settle(attempts: Sequence[Attempt], hands: "Crew") -> None:
    """Wait for the piece that was handed first, and note what became of it.

    Raises the error that ended it.
    """
    stop = attempts[0].part.job.stop
    piece, done = hands.first(stop)
    attempt = attempts[piece.which]
    attempt.part.progress.retried += done.retried
    if done.entry is not None:
        attempt.note(piece, done.entry)
    if isinstance(done.error, InterruptedByUserError):
        stop.check()
    if done.error is not None:
        raise done.error
