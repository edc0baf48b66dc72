"""The line: source -> pieces -> records -> rows -> batch -> COPY and ledger.

`load` reads as the line does. How one process loads the batches is below it; several processes are in `workers`.
"""

import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from functools import partial

import structlog
from structlog.contextvars import bind_contextvars, bound_contextvars, unbind_contextvars

from etl.database.connecting import Database, Session
from etl.errors import EtlError
from etl.ingestion.constants import PARTS_BEYOND
from etl.ingestion.destination.sending import wait_for
from etl.ingestion.failed_store.store import FailedStore
from etl.ingestion.framing.pieces import NoRecordsError, cutting
from etl.ingestion.pipeline import finishing, outcome, resumption
from etl.ingestion.pipeline.ahead import Ahead, interleave
from etl.ingestion.pipeline.attempts import Attempt, OpenRun, Recorder, ending
from etl.ingestion.pipeline.batches import Loader
from etl.ingestion.pipeline.job import Load
from etl.ingestion.pipeline.opening import Opening, Part, Pieces
from etl.ingestion.sources.stream import Stream, opened
from etl.ingestion.summary import Summary
from etl.ingestion.transform.paths import LateProver
from etl.ingestion.values import Batch, Entry, Piece, Source

log = structlog.get_logger(__name__)

Entered = tuple[OpenRun, Piece, Entry]

_Item = tuple[OpenRun, Piece | Batch]


class Sessions:
    """The sessions of a command, one for each target: what ends without an error leaves its session to the next work.

    So a command that loads one source checks, loads and refreshes over one connection.
    """

    def __init__(self) -> None:
        self._free: list[Session] = []

    @contextmanager
    def one(self, database: Database, application_name: str) -> Iterator[Session]:
        """Yield a session for work that leaves no lock in it, and no table that a run makes."""
        session = self._taken(database, application_name, is_run=False)
        try:
            yield session
        except BaseException:
            session.close()
            raise
        self._free.append(session)

    @contextmanager
    def of(self, load: Load, recorder: Recorder) -> Iterator[list[Attempt]]:
        """Yield the attempts of a source, each with a session of its own."""
        with ExitStack() as stack:
            attempts = [
                Attempt(
                    load=load,
                    target=target,
                    recorder=recorder,
                    session=stack.enter_context(self._taken(load.database, recorder.application_name, is_run=True)),
                )
                for target in load.targets
            ]
            yield attempts
            if not load.settings.dry_run and all(attempt.progress.error is None for attempt in attempts):
                sessions = [attempt.session for attempt in attempts]
                if all(session.release() for session in sessions):
                    self._free += sessions
                    stack.pop_all()

    def _taken(self, database: Database, application_name: str, *, is_run: bool) -> Session:
        while self._free:
            session = self._free.pop()
            if session.serve(application_name, is_run=is_run):
                return session
            session.close()
        return Session(database, application_name)

    def close(self) -> None:
        """Close the sessions that no source uses."""
        for session in self._free:
            session.close()
        self._free.clear()


def load(source: Source, load: Load, sessions: Sessions | None = None) -> list[tuple[Summary, EtlError | None]]:
    """Load one source into its targets in one pass; return the summary of each, and the error that ended it.

    A dry run is the same line: its ledger and its failed store keep nothing. `sessions` are those of the command.

    Raises UsageError when no attempt could begin, DatabaseError when the database cannot be reached. Every other end
    is in the summaries (contract C3).
    """
    started = time.monotonic()
    recorder = _recorder(load)
    with ExitStack() as own:
        own.callback(unbind_contextvars, "run")
        if sessions is None:
            sessions = own.enter_context(closing(Sessions()))
        attempts = own.enter_context(sessions.of(load, recorder))
        with ending(attempts), load.stop.interrupting(), ExitStack() as stack:
            stream = stack.enter_context(_opened(source, load))
            store = stack.enter_context(recorder.failed_store(load.settings.failed_dir))
            stack.enter_context(load.watch.watching(stream, [attempt.progress for attempt in attempts]))
            with load.stop.reading():
                for attempt in attempts:
                    attempt.dataset_of(stream)
                recorder.begin(attempts)
            opening = Opening(stream, attempts)
            with _loading(load, stream, opening, store) as batches:
                for run, piece, entry in batches:  # each one a COPY and its ledger entry, committed together
                    run.note(piece, entry)
            finishing.finish(stream, opening)
        return [_report(source, attempt, time.monotonic() - started) for attempt in attempts]


def _recorder(load: Load) -> Recorder:
    if load.settings.dry_run:
        from etl.ingestion.pipeline import dry_run  # noqa: PLC0415 - a load does without it

        return dry_run.recorder()
    return Recorder(
        application_name="etl",
        failed_store=FailedStore,
        begin=resumption.begin,
        recognition=resumption.recognition,
        must_read_on=resumption.must_read_on,
        open=resumption.open_run,
        prepare=resumption.prepare,
        publish=finishing.publish,
        report=outcome.report,
    )


@contextmanager
def _opened(source: Source, load: Load) -> Iterator[Stream]:
    with ExitStack() as stack:
        with load.stop.reading():
            stream = stack.enter_context(opened(source, load.settings.retries, load.settings.linger or None))
        if stream.encoding != "utf-8":
            log.info("source_decoded", source=source.name, encoding=stream.encoding, offsets="in UTF-8")
        yield stream


@contextmanager
def _loading(load: Load, stream: Stream, opening: Opening, store: FailedStore) -> Iterator[Iterator[Entered]]:
    """Yield the new batches of a source as each is loaded, by this process or by several.

    At the end it notes the targets that a limit cut off.
    """
    is_comparing = any(attempt.may_compare for attempt in opening.attempts)
    count = 1 if is_comparing else load.worker_count(stream.size)
    provers = [LateProver() for _ in opening.attempts]

    def pieces(stream: Stream) -> Iterator[Piece | None]:
        options = [
            load.cut_options(attempt.target, prover, partial(opening.expected, which))
            for which, (attempt, prover) in enumerate(zip(opening.attempts, provers, strict=True))
        ]
        return cutting(stream, *options)

    with suppress(NoRecordsError):  # noted as the end of its targets
        if count == 1 and not load.is_shared:
            yield _load_here(load, stream, opening, pieces, provers, store)
        else:
            from etl.ingestion.pipeline.workers import load_by_pool  # noqa: PLC0415 - costs a single process its start

            with load_by_pool(load, stream, opening, pieces, count, store) as batches:
                yield batches
    for which in opening.cut:
        opening.attempts[which].progress.is_cut = True


def _load_here(
    load: Load,
    stream: Stream,
    opening: Opening,
    pieces: Pieces,
    provers: Sequence[LateProver],
    store: FailedStore,
) -> Iterator[Entered]:
    """Load the batches one after the other; while the server takes a batch, the next one is made."""
    loaders: dict[int, Loader] = {}
    ahead: Ahead[_Item] = Ahead(_batches(opening.parts(pieces), provers, loaders, store), PARTS_BEYOND)
    for run, item in ahead.until(load.stop):
        if isinstance(item, Piece):
            run.note_skipped(item.count, item.end)
            continue
        if not run.attempt.progress.entered:
            run.prepare(store)
        run.attempt.progress.read += item.piece.count
        bind_contextvars(run=run.id)
        loader = loaders[item.piece.which]
        # To wait for a pipe or a network would hold the batch's transaction open.
        entry = wait_for(loader.load(item)) if stream.waits else interleave(loader.load(item), ahead.work)
        yield run, item.piece, entry


def _batches(
    parts: Iterable[Part | None], provers: Sequence[LateProver], loaders: dict[int, Loader], store: FailedStore
) -> Iterator[_Item | None]:
    """Yield the batch of each new piece, a loaded piece as it is, and None after each part of the work."""
    for part in parts:
        if part is None:
            yield None
            continue
        run, piece, is_loaded = part
        if is_loaded:
            yield run, piece
            continue
        prover = provers[piece.which]
        if prover.paths is None:
            prover.paths, loaders[piece.which] = run.worker(store)
        new = run.with_new_marks(piece)
        new.hash  # noqa: B018 - computed here and not between two batches, where the server waits for it
        for batch in prover.paths.batching(new):
            yield None if batch is None else (run, batch)


def _report(source: Source, attempt: Attempt, seconds: float) -> tuple[Summary, EtlError | None]:
    """Return the summary of an attempt and the error that ended it, and log the end of a load."""
    run = attempt.progress.run
    with bound_contextvars(**({"run": run.run} if run else {})):
        summary, error = attempt.recorder.report(source, attempt, seconds)
    if not summary.dry_run:
        end = summary.error
        log.info(
            "source_ended",
            run=summary.run,
            dataset=summary.dataset,
            source=summary.source,
            status=summary.status,
            exit_code=summary.exit_code,
            **vars(summary.records),
            rows_deleted=sum(summary.rows_deleted.values()),
            seconds=round(summary.seconds, 3),
            **({"reason": end.message, "sqlstate": end.sqlstate, "hint": end.hint} if end else {}),
        )
    return summary, error
