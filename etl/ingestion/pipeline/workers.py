"""The pieces of a source loaded by several processes: submitted in order, and noted in order."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress

from etl.errors import EtlError, InternalError, InterruptedByUserError, SourceError
from etl.ingestion.failed_store.store import FailedStore
from etl.ingestion.pipeline.ahead import Ahead
from etl.ingestion.pipeline.attempts import OpenRun
from etl.ingestion.pipeline.job import Load
from etl.ingestion.pipeline.pool import WorkerPool, worker_pool
from etl.ingestion.pipeline.resumption import admit_workers
from etl.ingestion.sources.stream import Stream
from etl.ingestion.values import Entry, Piece, Prover

Pieces = Callable[[Sequence[Prover | None]], Iterator[Piece | None]]
"""Cuts the source: given one prover for each target, yields its pieces in order, and None after a part of the work."""


@contextmanager
def load_by_pool(
    load: Load, stream: Stream, open_runs: Sequence[OpenRun], pieces: Pieces, size: int, store: FailedStore
) -> Iterator[Iterator[tuple[OpenRun, Piece, Entry]]]:
    """Yield the new batches as `size` processes load them, while this one cuts and proves the next pieces.

    An error, also one of the caller, ends the submitting; the pieces that a process has begun are finished and noted.
    """
    for run in open_runs:
        admit_workers(run.attempt.session, run.context)
    with worker_pool(size, load.logs) as pool:
        try:
            yield _submit_all(load, stream, open_runs, pieces, store, pool)
        except EtlError:
            for piece in pool.cancel_unstarted():
                open_runs[piece.which].attempt.progress.read -= piece.count
            while pool.has_more:
                with suppress(EtlError):
                    run, piece, entry = _first_done(load, open_runs, pool)
                    run.note(piece, entry)
            raise


def _submit_all(
    load: Load,
    stream: Stream,
    open_runs: Sequence[OpenRun],
    pieces: Pieces,
    store: FailedStore,
    pool: WorkerPool,
) -> Iterator[tuple[OpenRun, Piece, Entry]]:
    """Submit the new pieces as they are cut, and yield them in the same order when they are loaded.

    Raises SourceError at a fault of the source, after the pieces before it are loaded.
    """
    prepared = set()
    fault: SourceError | None = None
    try:
        for piece in Ahead(pieces([None] * len(open_runs))).until(load.stop):
            run = open_runs[piece.which]
            if piece.offset in run.known:
                run.note_known(piece)
                continue
            if piece.which not in prepared:
                run.prepare(store)
                prepared.add(piece.which)
            # From now on the piece may be loaded, whatever happens to its process.
            run.attempt.progress.read += piece.count
            pool.submit(run.context, piece, stream.plain_path)
            while pool.is_busy:
                yield _first_done(load, open_runs, pool)
    except SourceError as error:
        fault = error
    while pool.has_more:
        yield _first_done(load, open_runs, pool)
    if fault is not None:
        raise fault


def _first_done(load: Load, open_runs: Sequence[OpenRun], pool: WorkerPool) -> tuple[OpenRun, Piece, Entry]:
    """Wait for the piece that was submitted first; return it with its entry in the ledger.

    Raises the error that ended it.
    """
    piece, done = pool.first(load.stop)
    run = open_runs[piece.which]
    run.attempt.progress.retried += done.retried
    if isinstance(done.error, InterruptedByUserError):
        load.stop.check()
    if done.error is not None:
        raise done.error
    if done.entry is None:
        raise InternalError("a worker process returned neither an entry nor an error")
    return run, piece, done.entry
