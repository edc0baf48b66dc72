"""The line: source -> pieces -> records -> rows -> batch -> COPY and ledger.

`load` reads as the line does. How one process loads the batches is below it; several processes are in `workers`.
"""

import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

import structlog

from etl.database.connecting import Session
from etl.errors import EtlError
from etl.ingestion.constants import PARTS_BEYOND
from etl.ingestion.destination.sending import wait_for
from etl.ingestion.failed_store.store import FailedStore
from etl.ingestion.framing.limit import RecordLimit
from etl.ingestion.framing.pieces import NoRecordsError, cutting
from etl.ingestion.pipeline import finishing, outcome, resumption
from etl.ingestion.pipeline.ahead import Ahead, interleave
from etl.ingestion.pipeline.attempts import Attempt, OpenRun, Recorder, ending
from etl.ingestion.pipeline.job import Load
from etl.ingestion.sources.stream import Stream, opened
from etl.ingestion.transform.paths import Paths
from etl.ingestion.values import Batch, Entry, Piece, Prover, Source, Summary

if TYPE_CHECKING:
    from etl.ingestion.pipeline.workers import Pieces

log = structlog.get_logger(__name__)

Entered = tuple[OpenRun, Piece, Entry]


def load(source: Source, load: Load) -> list[tuple[Summary, EtlError | None]]:
    """Load one source into its targets in one pass; return the summary of each, and the error that ended it.

    A dry run is the same line: its ledger and its failed store keep nothing.

    Raises UsageError when no attempt could begin, DatabaseError when the database cannot be reached. Every other end
    is in the summaries (contract C3).
    """
    started = time.monotonic()
    recorder = _recorder(load)
    with ExitStack() as sessions:
        attempts = [
            Attempt(
                load=load,
                target=target,
                recorder=recorder,
                session=sessions.enter_context(Session(load.database, recorder.application_name)),
            )
            for target in load.targets
        ]
        with ending(attempts), load.stop.interrupting(), ExitStack() as stack:
            stream = stack.enter_context(_opened(source, load))
            store = stack.enter_context(recorder.failed_store(load.settings.failed_dir))
            stack.enter_context(load.watch.watching(stream, [attempt.progress for attempt in attempts]))
            with load.stop.reading():
                open_runs = recorder.begin(stream, attempts)
            with _loading(load, stream, open_runs, store) as batches:
                for run, piece, entry in batches:  # each one a COPY and its ledger entry, committed together
                    run.note(piece, entry)
            finishing.finish(stream, open_runs)
        return [_report(source, attempt, time.monotonic() - started) for attempt in attempts]


def _recorder(load: Load) -> Recorder:
    if load.settings.dry_run:
        from etl.ingestion.pipeline import dry_run  # noqa: PLC0415 - a load does without it

        return dry_run.recorder()
    return Recorder(
        application_name="etl",
        failed_store=FailedStore,
        begin=resumption.begin,
        prepare=resumption.prepare,
        publish=finishing.publish,
        report=outcome.report,
    )


@contextmanager
def _opened(source: Source, load: Load) -> Iterator[Stream]:
    with ExitStack() as stack:
        with load.stop.reading():
            stream = stack.enter_context(opened(source, load.settings.retries))
        if stream.encoding != "utf-8":
            log.info("source_decoded", source=source.name, encoding=stream.encoding, offsets="in UTF-8")
        yield stream


@contextmanager
def _loading(
    load: Load, stream: Stream, open_runs: Sequence[OpenRun], store: FailedStore
) -> Iterator[Iterator[Entered]]:
    """Yield the new batches of a source as each is loaded, by this process or by several.

    At the end it notes the targets of which the source holds no records, and those that a limit cut off.
    """
    limit = load.settings.limit
    limited = None if limit is None else RecordLimit(limit, [run.known for run in open_runs])

    def pieces(provers: Sequence[Prover | None]) -> Iterator[Piece | None]:
        options = [
            load.cut_options(run.attempt.target, run.known, prover)
            for run, prover in zip(open_runs, provers, strict=True)
        ]
        pieces = cutting(stream, *options)
        return pieces if limited is None else limited.of(pieces)

    count = load.worker_count(stream.size)
    try:
        if count == 1:
            yield _load_here(load, stream, open_runs, pieces, store)
        else:
            from etl.ingestion.pipeline.workers import load_by_pool  # noqa: PLC0415 - costs a single process its start

            with load_by_pool(load, stream, open_runs, pieces, count, store) as batches:
                yield batches
    except NoRecordsError as none:
        for which, fault in none.faults.items():
            open_runs[which].attempt.progress.error = fault
    for which in limited.cut if limited else ():
        open_runs[which].attempt.progress.is_cut = True


def _load_here(
    load: Load, stream: Stream, open_runs: Sequence[OpenRun], pieces: "Pieces", store: FailedStore
) -> Iterator[Entered]:
    """Load the batches one after the other; while the server takes a batch, the next one is made."""
    workers = [run.worker(store) for run in open_runs]
    paths = [paths for paths, _ in workers]
    ahead: Ahead[Piece | Batch] = Ahead(_batches(pieces(paths), open_runs, paths), PARTS_BEYOND)
    for item in ahead.until(load.stop):
        if isinstance(item, Piece):
            open_runs[item.which].note_known(item)
            continue
        run, (_, loader) = open_runs[item.piece.which], workers[item.piece.which]
        if not run.attempt.progress.entered:
            run.prepare(store)
        run.attempt.progress.read += item.piece.count
        # To wait for a pipe or a network would hold the batch's transaction open.
        entry = wait_for(loader.load(item)) if stream.waits else interleave(loader.load(item), ahead.work)
        yield run, item.piece, entry


def _batches(
    pieces: Iterable[Piece | None], open_runs: Sequence[OpenRun], paths: Sequence[Paths]
) -> Iterator[Piece | Batch | None]:
    """Yield the batch of each new piece, a known piece as it is, and None after each part of the work."""
    for piece in pieces:
        if piece is None or piece.offset in open_runs[piece.which].known:
            yield piece
        else:
            piece.hash  # noqa: B018 - computed here and not between two batches, where the server waits for it
            yield from paths[piece.which].batching(piece)


def _report(source: Source, attempt: Attempt, seconds: float) -> tuple[Summary, EtlError | None]:
    """Return the summary of an attempt and the error that ended it, and log the end of a load."""
    summary, error = attempt.recorder.report(source, attempt, seconds)
    if not summary.dry_run:
        log.info(
            "source_ended",
            run=summary.run,
            dataset=summary.dataset,
            source=summary.source,
            status=summary.status,
            exit_code=summary.exit_code,
            **vars(summary.records),
            seconds=round(summary.seconds, 3),
        )
    return summary, error
