"""The run of a target is opened: the one that its source belongs to continues, or a new one begins (decision 1)."""

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import psycopg
import structlog

from etl.database.connecting import Session
from etl.datasets import Dataset
from etl.errors import InternalError, SourceError, TooManyRejectedError, UsageError
from etl.ingestion.failed_store.store import FailedStore
from etl.ingestion.fingerprints import NOTHING, Mark
from etl.ingestion.framing.pieces import cut
from etl.ingestion.ledger import batches, failures, locks, losses, marks, runs
from etl.ingestion.ledger.marks import Reader
from etl.ingestion.ledger.runs import KnownRun
from etl.ingestion.pipeline.assembly import RunContext, RunLedgerWriter
from etl.ingestion.pipeline.attempts import Attempt, ChangedMeanwhileError, OpenRun
from etl.ingestion.pipeline.job import Load
from etl.ingestion.pipeline.targets import Target
from etl.ingestion.recognition import choosing
from etl.ingestion.recognition.choosing import Chosen
from etl.ingestion.recognition.comparison import Recognised, Recognition
from etl.ingestion.sources.stream import Stream, opened
from etl.ingestion.values import Source
from etl.settings import Mode, lineage_is_on

log = structlog.get_logger(__name__)


def begin(attempts: Sequence[Attempt]) -> None:
    """Lock the dataset of each target.

    Raises BusyError when another load holds it for itself.
    """
    # In one order, whatever the command's: of two loads that begin at once, one gets all of the locks.
    for attempt in sorted(attempts, key=lambda attempt: attempt.target.dataset.name):
        dataset, mode = attempt.target.dataset.name, attempt.target.mode
        attempt.again(_hold_dataset, attempt, dataset, mode)
        attempt.session.when_reopened(partial(locks.reacquire, dataset=dataset, run=None, mode=mode))


def _hold_dataset(attempt: Attempt, dataset: str, mode: Mode) -> None:
    locks.hold_dataset(_connection(attempt), dataset, mode)


def _connection(attempt: Attempt) -> psycopg.Connection:
    """Return the connection of an attempt, after the locks of a lost connection before it have become free."""
    connection = attempt.session.connection()
    locks.await_lost(connection, attempt.load.stop.wait)
    return connection


def recognition(attempt: Attempt) -> Recognition:
    """Return a comparison of the records of the source with the known runs of the target's dataset."""
    ledger = Reader(connect=attempt.session.connection, again=attempt.again)
    return Recognition(ledger, attempt.target.dataset.name, attempt.load.settings.limit)


def must_read_on(attempt: Attempt, recognition: Recognition, records: int) -> bool:
    """Return whether more of the source has to be read to judge whether it may be loaded.

    Whether the records that it shares with a run are half of it shows only at twice their number. Whether it equals a
    run that a replace published shows only at its end, or at its next record.
    """
    if attempt.target.mode == "replace":
        return records <= recognition.records and bool(recognition.within)
    if attempt.target.mode != "append" or attempt.load.settings.force:
        return False
    decided = recognition.decide()
    shares_many = decided.departs_from is not None and decided.agrees >= choosing.FULL_EXPORT_RECORDS
    return shares_many and records <= 2 * decided.agrees


def open_run(
    stream: Stream, attempt: Attempt, recognition: Recognition | None, read: Sequence[Mark], is_at_end: bool
) -> OpenRun:
    """Enter an attempt of the run that the source belongs to, or of a new run, and lock the run.

    `read` are the marks of the source as far as it was read. Raises BusyError when another load holds the run, or has
    opened one of this source meanwhile; SourceError when the source may be a part of another one; TooManyRejectedError
    when it is another version of one; UsageError when the run began under another definition.
    """
    if recognition is None:
        raise InternalError("a run is opened before its source was compared")
    tried: list[_Entered] = []
    enter = partial(_enter, stream=stream, attempt=attempt, recognition=recognition, read=read, is_at_end=is_at_end)
    entered = attempt.again(_entered, attempt, enter, tried)
    run = _locked(stream, attempt, entered)
    _note_doubled(stream, attempt, entered.run, recognition)
    if lineage_is_on():
        from etl import lineage  # noqa: PLC0415 - imports nothing unless it is configured

        connection, dataset = attempt.session.connection(), attempt.dataset
        lineage.run_began(connection, stream.source.name, dataset, entered.run.run, entered.run.attempt)
    return attempt.again(_resumed, run)


def _note_doubled(stream: Stream, attempt: Attempt, run: runs.Run, recognition: Recognition) -> None:
    """Count and log the records that a forced append loads once more, beside the rows of an earlier run."""
    dataset = attempt.target.dataset
    if not attempt.load.settings.force or attempt.target.mode != "append" or dataset.key:
        return
    decided = recognition.decide()
    others = [number for number in (*decided.within, decided.run, decided.departs_from) if number is not None]
    agrees = decided.agrees or recognition.read
    count = attempt.again(
        lambda: losses.doubled(attempt.session.connection(), dataset, run.number, others, agrees),
    )
    attempt.progress.doubled = count
    if count:
        log.warning("records_doubled", source=stream.source.name, run=run.run, dataset=dataset.name, records=count)


class _Entered(NamedTuple):
    """The run of an attempt that was entered.

    `marked_to` is the record up to which the ledger has marks. `compares`: unchanged records stay as they are;
    `may_have_unknown`: these may have unknown members, which have to be counted.
    """

    run: runs.Run
    marked_to: int
    compares: bool
    may_have_unknown: bool


def _entered(attempt: Attempt, enter: Callable[[psycopg.Connection], _Entered], tried: list[_Entered]) -> _Entered:
    """Enter the attempt, and lock its run.

    `tried` is what was entered before: the commit may have succeeded although its connection was lost.
    """
    connection = _connection(attempt)
    if tried and runs.is_entered(connection, tried[-1].run):
        locks.hold_run(connection, tried[-1].run.run)
        runs.require_current(connection, tried[-1].run)
        runs.name_session(connection, tried[-1].run.run)
        return tried[-1]
    with connection.transaction():
        tried.append(enter(connection))
    return tried[-1]


def _enter(
    connection: psycopg.Connection,
    *,
    stream: Stream,
    attempt: Attempt,
    recognition: Recognition,
    read: Sequence[Mark],
    is_at_end: bool,
) -> _Entered:
    target = attempt.target
    locks.one_opening_at_a_time(connection, target.dataset.name)
    if recognition.has_changed():
        raise _changed(stream)
    chosen = _choose(connection, stream, attempt, recognition)
    _require_ledger(connection, attempt, chosen.run)
    end = recognition.end or (NOTHING if is_at_end else None)
    known_to = choosing.last_mark(connection, target.dataset.name, chosen, recognition)
    ended = recognition.end_of(chosen.run.number) if chosen.run is not None else None
    if ended is not None and known_to is not None and known_to.records != ended:
        raise _changed(stream)
    if chosen.run is None:
        run = _start(connection, stream, attempt, chosen.decided, known_to)
        known = choosing.opening_marks(chosen.decided, read, end, recognition, is_at_end=is_at_end)
        marks.add(connection, target.dataset.name, run.number, known, recognition.anchor(known))
        marked_to = known[-1].records if known else 0
    else:
        run = runs.resume(connection, chosen.run, attempt.load.request(stream.source, target))
        marked_to = choosing.marked_to(connection, target.dataset.name, chosen.run, recognition, read, known_to)
        attempt.progress.is_shorter = bool(known_to and recognition.records < known_to.records)
        _require_visible(stream, chosen.run, attempt)
    # Ask first: the next statement may wait for a batch of the load that holds the run.
    locks.require_free(connection, run.run)
    is_forced = chosen.run is not None and chosen.run.is_forced
    compares = attempt.may_compare and not run.is_atomic and not is_forced
    may_have_unknown = _note_versions(connection, attempt.dataset_of(stream), run.run, compares=compares)
    # This comes last, because the lock stays when the transaction is rolled back and tried again.
    locks.hold_run(connection, run.run)
    return _Entered(run, marked_to, compares, may_have_unknown)


def _note_versions(connection: psycopg.Connection, dataset: Dataset, run: str, *, compares: bool) -> bool:
    """Enter that a run writes versions, and whether it compares; return whether unknown members may be in them."""
    table = dataset.digested_table
    if not dataset.has_digests or table is None:
        return False
    runs.note_versions(connection, run, table.name, compares=compares)
    if dataset.on_unknown == "ignore":
        runs.note_unexamined(connection, run, dataset.digest_definition)
    return compares and runs.may_have_unknown(connection, table.name, dataset.digest_definition)


def _require_ledger(connection: psycopg.Connection, attempt: Attempt, run: KnownRun | None) -> None:
    """Raise UsageError when rows of the ledger were deleted, and the source would be loaded twice."""
    if run is not None:
        losses.require_run(connection, attempt.target.dataset, run.run)
    elif not attempt.load.settings.force and attempt.target.mode != "replace":
        # Once for all sources of a command: both look at all runs or at many rows.
        if attempt.session.remembered.setdefault(("ledger", attempt.target.dataset.name), attempt) is not attempt:
            return
        losses.require_marks(connection, attempt.target.dataset)
        if attempt.target.mode == "append" and (reason := losses.unknown_rows(connection, attempt.target.dataset)):
            log.warning("unknown_rows", dataset=attempt.target.dataset.name, reason=reason, next="etl db check")


def _changed(stream: Stream) -> ChangedMeanwhileError:
    return ChangedMeanwhileError(
        f"{stream.source.name}: another load opened or continued a run of this source meanwhile",
        hint="wait for its end and run the same command",
    )


def _locked(stream: Stream, attempt: Attempt, entered: _Entered) -> OpenRun:
    """Return the run, whose locks its session takes again from now on when it is opened again."""
    load, target = attempt.load, attempt.target
    attempt.progress.run = entered.run
    context = RunContext(
        database=load.database,
        dataset=attempt.dataset_of(stream),
        run=entered.run,
        source=stream.source.name,
        mode=target.mode,
        failed_dir=load.settings.failed_dir,
        decoder=load.settings.decoder,
        retries=load.settings.retries,
        compares=entered.compares,
        may_have_unknown=entered.may_have_unknown,
    )
    attempt.session.when_reopened(partial(_hold_again, context=context, has_workers=False))
    return OpenRun(
        attempt=attempt,
        ledger_writer=RunLedgerWriter.of(context),
        stream=stream,
        context=context,
        copier=context.copier(),
        marked_to=entered.marked_to,
    )


def _resumed(run: OpenRun) -> OpenRun:
    """Return a run with what the ledger has of it: nothing of a new one."""
    of_run, attempt = run.context.run, run.attempt
    if of_run.attempt == 1:
        return run
    if of_run.is_atomic and not of_run.was_finished:
        from etl.ingestion.pipeline import restaging  # noqa: PLC0415 - most loads do without it

        restaging.withdraw_lost(run)
    attempt.progress.rejected = batches.totals(attempt.session.connection(), of_run.run).rejected
    return replace(run, loaded=batches.record_ranges(attempt.session.connection(), of_run.run))


def prepare(run: OpenRun, store: FailedStore) -> None:
    """Make everything ready for the first new batch of an attempt, and remove the leftovers of a crash."""
    connection, context = run.attempt.session.connection(), run.context
    _require_mode(context.run, run.attempt.target, run.stream.source)
    if context.run.was_finished:
        runs.reopen(connection, context.run)
    store.belong_to(runs.database_id(connection))
    if context.run.attempt > 1:
        from etl.ingestion.failed_store import leftovers  # noqa: PLC0415 - a first attempt does without it

        leftovers.sweep(store, context.dataset.name, context.run.run, failures.ids_of(connection, context.run.run))
    run.copier.drop_abandoned(connection)
    run.copier.prepare(connection)


def admit_workers(session: Session, context: RunContext) -> None:
    """Let other sessions load pieces of the source; this session keeps its locks."""
    locks.admit_workers(session.connection(), context.dataset.name, context.run.run, context.mode)
    session.when_reopened(partial(_hold_again, context=context, has_workers=True))


def _hold_again(connection: psycopg.Connection, *, context: RunContext, has_workers: bool) -> None:
    locks.reacquire(connection, context.dataset.name, context.run.run, context.mode, has_workers=has_workers)
    runs.require_current(connection, context.run)
    runs.name_session(connection, context.run.run)


def judge(connection: psycopg.Connection, source: Source, load: Load, target: Target) -> None:
    """Raise UsageError when the run that the source belongs to began under another definition.

    A stream that can be read once only, a URL, and what cannot be read, is judged when its turn comes.
    """
    with suppress(SourceError, OSError):
        if source.path is None or not Path(source.path).is_file():
            return
        with opened(source) as stream:
            compared = Recognition(Reader(connect=lambda: connection), target.dataset.name, load.settings.limit)
            for piece in cut(stream, load.cut_options(target, expected=compared.expected)):
                compared.note(piece)
                if compared.is_decided:
                    break
            _run_to_continue(connection, stream, load, target, compared)


def _choose(connection: psycopg.Connection, stream: Stream, attempt: Attempt, compared: Recognition) -> Chosen:
    """Return the run that continues.

    Raises SourceError, TooManyRejectedError and UsageError when the source may not be loaded.
    """
    load, target = attempt.load, attempt.target
    run, decided = _run_to_continue(connection, stream, load, target, compared)
    if run is None and not load.settings.force and target.mode != "replace":
        _require_new(connection, stream, target, decided, compared)
    return Chosen(run, decided)


def _run_to_continue(
    connection: psycopg.Connection, stream: Stream, load: Load, target: Target, compared: Recognition
) -> Chosen:
    """Return the run that the source belongs to, if this command may continue it.

    Raises UsageError when it began under another definition.
    """
    known = runs.known(connection, compared.runs)
    decided = compared.decide(
        choosing.covered(connection, known, compared), {run.number for run in known.values() if run.is_within}
    )
    if target.mode == "replace":
        run = choosing.replace_to_continue(connection, target.dataset.name, decided, known, compared.read)
    else:
        run = known.get(decided.run) if decided.run is not None and decided.kind != "perhaps within" else None
    if load.settings.force:
        is_defined_by = partial(target.is_defined_by, encoding=stream.source.encoding)
        run = choosing.forced(decided, known, is_atomic=target.is_atomic, is_defined_by=is_defined_by)
    if run is not None:
        _require_definition(run, stream, target)
    return Chosen(run, decided)


def _require_new(
    connection: psycopg.Connection, stream: Stream, target: Target, decided: Recognised, compared: Recognition
) -> None:
    """Judge whether a source that belongs to no run may begin one.

    Raises SourceError when it may be the beginning of the source of a run, TooManyRejectedError when it is another
    version of one.
    """
    name = stream.source.name
    number = decided.run if decided.kind == "perhaps within" else decided.departs_from
    if number is None:
        return
    run = runs.known(connection, [number])[number]
    if decided.kind == "perhaps within":
        if target.mode == "append":
            raise SourceError(
                f"{name}: all of its {compared.records:,} records may be the first records of run {run.run},"
                " which has more: perhaps a copy that was cut off",
                hint="get the whole file; --force loads all of it as a source of its own",
            )
        log.warning("perhaps_cut_off", source=name, run=run.run, records=compared.records)
        return
    log.warning("source_departed", source=name, run=run.run, after_records=decided.agrees)
    last = marks.last(connection, target.dataset.name, run.number)
    half = min(compared.read, last.records if last else compared.read) / 2
    if target.mode == "append" and decided.agrees >= choosing.FULL_EXPORT_RECORDS and decided.agrees >= half:
        raise TooManyRejectedError(
            f"{name}: the first {decided.agrees:,} records are those of run {run.run}, and others follow:"
            " append would load them twice",
            hint="load a full export by --mode merge or replace; --force appends all of it and doubles these records"
            + (
                ""
                if run.mode == "replace"
                else f"; if it takes the place of that source, first etl runs undo {run.run}"
            ),
        )


def _start(
    connection: psycopg.Connection, stream: Stream, attempt: Attempt, decided: Recognised, known_to: Mark | None
) -> runs.Run:
    load, target, source = attempt.load, attempt.target, stream.source
    is_within = decided.kind == "perhaps within" or (decided.kind == "within" and known_to is not None)
    is_within = is_within or any(run.is_within for run in runs.known(connection, decided.within).values())
    new = runs.NewRun(
        dataset=target.dataset.name,
        source=source.name,
        source_bytes=stream.size,
        definition_hash=target.definition_hash(source.encoding),
        mode=target.mode,
        on_duplicate=target.dataset.on_duplicate,
        is_atomic=target.is_atomic,
        is_forced=load.settings.force,
        is_within=is_within and target.mode != "replace",
        supersedes=decided.whole if load.settings.force else (),
    )
    return runs.start(connection, new, load.request(source, target))


def _require_visible(stream: Stream, run: KnownRun, attempt: Attempt) -> None:
    """Raise SourceError when the source is a part of that of an unfinished atomic run, whose rows nobody sees yet."""
    if attempt.progress.is_shorter and run.is_atomic and not run.is_finished:
        raise SourceError(
            f"{stream.source.name}: its records are the first records of run {run.run}, which is not published",
            hint="continue that run with its whole source; --force loads this source as one of its own",
        )


def _require_definition(known: KnownRun, stream: Stream, target: Target) -> None:
    if target.is_defined_by(known.definition_hash, stream.source.encoding):
        return
    if not known.is_finished:
        raise UsageError(
            f"{stream.source.name}: run {known.run} began under another definition or mode of {target.dataset.name}",
            hint="the definition and mode of that run continue it; --force loads all of it again by the present ones"
            f"{_doubling(target, known)}",
        )
    log.warning(
        "loaded_under_another_definition",
        source=stream.source.name,
        run=known.run,
        hint=f"--force loads all of it by the present definition and mode{_doubling(target, known)}",
    )


def _doubling(target: Target, run: KnownRun | runs.Run) -> str:
    """Return the end of a hint to use --force: how an append does not double the rows that the run has loaded."""
    if target.mode != "append" or target.dataset.key:
        return ""
    way = "" if run.mode == "replace" else f", unless the run is taken back before: etl runs undo {run.run}"
    return f"; in append it doubles the loaded records{way}"


def _require_mode(run: runs.Run, target: Target, source: Source) -> None:
    """Raise UsageError when the rest of a source that grew would load by another mode than its run did."""
    if run.was_finished and run.mode != target.mode:
        raise UsageError(
            f"{source.name}: its beginning is run {run.run}, which was loaded by mode {run.mode};"
            f" the rest cannot load by mode {target.mode}",
            hint=f"--mode {run.mode} loads the rest; --force loads the whole source by mode {target.mode}"
            f"{_doubling(target, run)}",
        )
