"""The pieces of a source loaded by several processes: submitted in order, and noted in order."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress

from etl.errors import EtlError, InternalError, InterruptedByUserError, SourceError
from etl.ingestion.failed_store.store import FailedStore
from etl.ingestion.pipeline.ahead import Ahead
from etl.ingestion.pipeline.attempts import OpenRun
from etl.ingestion.pipeline.executors import Pool, pool_of
from etl.ingestion.pipeline.job import Load
from etl.ingestion.pipeline.opening import Opening, Pieces
from etl.ingestion.pipeline.resumption import admit_workers
from etl.ingestion.sources.stream import Stream
from etl.ingestion.values import Entry, Piece


@contextmanager
def load_by_pool(
    load: Load, stream: Stream, opening: Opening, pieces: Pieces, size: int, store: FailedStore
) -> Iterator[Iterator[tuple[OpenRun, Piece, Entry]]]:
    """Yield the new batches as `size` processes load them, while this one cuts and proves the next pieces.

    An error, also one of the caller, ends the submitting; the pieces that a process has begun are finished and noted.
    """
    with pool_of(load, size) as pool:
        try:
            yield _submit_all(load, stream, opening, pieces, store, pool)
        except EtlError:
            for piece in pool.cancel_unstarted():
                opening.attempts[piece.which].progress.read -= piece.count
            while pool.has_more:
                with suppress(EtlError):
                    run, piece, entry = _first_done(load, opening, pool)
                    run.note(piece, entry)
            raise


def _submit_all(
    load: Load,
    stream: Stream,
    opening: Opening,
    pieces: Pieces,
    store: FailedStore,
    pool: Pool,
) -> Iterator[tuple[OpenRun, Piece, Entry]]:
    """Submit the new pieces as they are cut, and yield them in the same order when they are loaded.

    Raises SourceError at a fault of the source, after the pieces before it are loaded.
    """
    prepared = set()
    fault: SourceError | None = None
    try:
        for run, piece, is_loaded in Ahead(opening.parts(pieces)).until(load.stop):
            if is_loaded:
                run.note_skipped(piece.count, piece.end)
                continue
            if piece.which not in prepared:
                run.prepare(store)
                admit_workers(run.attempt.session, run.context)
                prepared.add(piece.which)
            # From now on the piece may be loaded, whatever happens to its process.
            run.attempt.progress.read += piece.count
            place = stream.plain_path or stream.public_url
            pool.submit(run.context, run.with_new_marks(piece), place, stream.waited)
            while pool.is_busy:
                yield _first_done(load, opening, pool)
    except SourceError as error:
        fault = error
    while pool.has_more:
        yield _first_done(load, opening, pool)
    if fault is not None:
        raise fault


def _first_done(load: Load, opening: Opening, pool: Pool) -> tuple[OpenRun, Piece, Entry]:
    """Wait for the piece that was submitted first; return it with its entry in the ledger.

    Raises the error that ended it.
    """
    piece, done = pool.first(load.stop)
    run = opening.opened(piece.which)
    run.attempt.progress.retried += done.retried
    if isinstance(done.error, InterruptedByUserError):
        load.stop.check()
    if done.error is not None:
        raise done.error
    if done.entry is None:
        raise InternalError("a worker process returned neither an entry nor an error")
    return run, piece, done.entry
