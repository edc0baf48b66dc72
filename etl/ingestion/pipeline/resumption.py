"""Which run a source belongs to: a source is known by its content, whatever its name (design of the ledger)."""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path

import psycopg
import structlog
from tenacity import Retrying

from etl.database.connecting import Session
from etl.errors import SourceError, UsageError
from etl.ingestion.destination import refusals
from etl.ingestion.failed_store.store import FailedStore
from etl.ingestion.ledger import batches, failures, locks, runs
from etl.ingestion.pipeline.assembly import RunContext, RunLedgerWriter
from etl.ingestion.pipeline.attempts import Attempt, OpenRun
from etl.ingestion.pipeline.batches import retry_policy
from etl.ingestion.pipeline.job import Load, Target
from etl.ingestion.sources.stream import Stream, opened
from etl.ingestion.values import LoadedRange, Source, hash_of

log = structlog.get_logger(__name__)

_Match = tuple[runs.KnownRun, dict[int, LoadedRange]] | None


def begin(stream: Stream, attempts: Sequence[Attempt]) -> list[OpenRun]:
    """Lock the source for each target, and enter an attempt: of the run that the source belongs to, or of a new one.

    Raises BusyError when another load holds the source, UsageError when a run began under another definition; no
    attempt is entered then for any of them.
    """
    head_sha256 = hashlib.sha256(stream.head).hexdigest()
    # In one order, whatever the command's: of two loads that begin at once, one gets all of the locks.
    for attempt in sorted(attempts, key=lambda attempt: attempt.target.dataset.name):
        target = attempt.target
        locks.acquire(attempt.session.connection(), target.dataset.name, head_sha256, target.mode)
    # A new connection would not have the locks, so only a lock of another session is waited for again.
    again = retry_policy(
        attempts[0].load.settings.retries,
        lambda: None,
        attempts[0].load.stop.wait,
        event="start_retried",
        is_transient=refusals.is_contended,
    )
    matches = [again(_find, attempt.session.connection(), stream, attempt.load, attempt.target) for attempt in attempts]
    return [
        _enter(stream, head_sha256, attempt, match, again) for attempt, match in zip(attempts, matches, strict=True)
    ]


def _enter(stream: Stream, head_sha256: str, attempt: Attempt, match: _Match, again: Retrying) -> OpenRun:
    load, target, session = attempt.load, attempt.target, attempt.session
    run = attempt.progress.run = again(_open, session.connection(), stream, head_sha256, attempt, match)
    context = RunContext(
        database=load.database,
        dataset=target.dataset.of_source(stream.source.name),
        run=run,
        source=stream.source.name,
        head_sha256=head_sha256,
        mode=target.mode,
        failed_dir=load.settings.failed_dir,
        decoder=load.settings.decoder,
        retries=load.settings.retries,
    )
    session.when_reopened(partial(_hold_again, context=context, has_workers=False))
    attempt.progress.rejected = again(batches.totals, session.connection(), run.run).rejected
    return OpenRun(
        attempt=attempt,
        ledger_writer=RunLedgerWriter.of(context),
        stream=stream,
        context=context,
        copier=context.copier(),
        known=match[1] if match else {},
    )


def prepare(run: OpenRun, store: FailedStore) -> None:
    """Make everything ready for the first new batch of an attempt, and remove the leftovers of a crash."""
    connection, context = run.attempt.session.connection(), run.context
    _require_mode(context.run, run.attempt.target, run.stream.source)
    if context.run.was_finished:
        runs.reopen(connection, context.run)
    if context.run.attempt > 1:
        store.sweep(context.dataset.name, context.run.run, failures.ids_of(connection, context.run.run))
    run.copier.drop_abandoned(connection)
    run.copier.prepare(connection)


def admit_workers(session: Session, context: RunContext) -> None:
    """Let other sessions load pieces of the source; this session keeps its locks."""
    locks.admit_workers(session.connection(), context.dataset.name, context.head_sha256)
    session.when_reopened(partial(_hold_again, context=context, has_workers=True))


def _hold_again(connection: psycopg.Connection, *, context: RunContext, has_workers: bool) -> None:
    locks.reacquire(connection, context.dataset.name, context.head_sha256, context.mode, has_workers=has_workers)
    runs.require_current(connection, context.run)
    runs.name_session(connection, context.run.run)


def judge(connection: psycopg.Connection, source: Source, load: Load, target: Target) -> None:
    """Raise UsageError when the run that the source belongs to began under another definition.

    A stream that can be read once only, a URL, and what cannot be read, is judged when its turn comes.
    """
    with suppress(SourceError, OSError):
        if source.path is not None and Path(source.path).is_file():
            with opened(source) as stream:
                _find(connection, stream, load, target)


def _find(connection: psycopg.Connection, stream: Stream, load: Load, target: Target) -> _Match:
    """Return the run that the stream belongs to, with its ranges.

    Raises UsageError when it began under another definition.
    """
    for known in runs.known(connection, target.dataset.name, stream.head):
        if load.settings.force and not _is_same_forced_run(known, stream, target):
            return None
        ranges = batches.ranges(connection, known.run)
        if _is_candidate(known, ranges, stream, load, target):
            _require_definition(known, stream, target)
            return known, ranges
    return None


def _is_same_forced_run(known: runs.KnownRun, stream: Stream, target: Target) -> bool:
    """Tell whether the run is unfinished and began by the same command with --force."""
    return (
        known.is_forced
        and not known.is_finished
        and known.is_atomic == target.is_atomic
        and known.definition_hash == target.definition_hash(stream.source.encoding)
    )


def _open(
    connection: psycopg.Connection, stream: Stream, head_sha256: str, attempt: Attempt, match: _Match
) -> runs.Run:
    load, target, source = attempt.load, attempt.target, stream.source
    request = runs.AttemptRequest(source=source.name, folder=load.folder, options=load.options(source, target))
    if match is not None:
        return runs.resume(connection, match[0], request)
    identity = runs.Identity(
        dataset=target.dataset.name,
        source=source.name,
        head_sha256=head_sha256,
        head_bytes=len(stream.head),
        source_bytes=stream.size,
        definition_hash=target.definition_hash(source.encoding),
        mode=target.mode,
        on_duplicate=target.dataset.on_duplicate,
        is_atomic=target.is_atomic,
        is_forced=load.settings.force,
    )
    return runs.start(connection, identity, request)


def _is_candidate(
    known: runs.KnownRun, ranges: Mapping[int, LoadedRange], stream: Stream, load: Load, target: Target
) -> bool:
    if not ranges and known.head_bytes != len(stream.head):
        return False  # Too little was read to recognise it.
    if not ranges and not known.is_finished and known.definition_hash != target.definition_hash(stream.source.encoding):
        return False  # It has loaded nothing yet.
    if known.is_finished and "replace" in (known.mode, target.mode) and known.source_bytes != stream.size:
        return False  # It may have grown, and the rest alone replaces nothing.
    if target.mode == "replace" and known.mode != "replace":
        return False  # A replace removes the rows of other runs, too, so it is a run of its own.
    departs_at = _departure(stream, ranges, load)
    if departs_at is not None:
        log.warning("source_departed", source=stream.source.name, run=known.run, offset=departs_at)
    return departs_at is None


def _require_definition(known: runs.KnownRun, stream: Stream, target: Target) -> None:
    if known.definition_hash == target.definition_hash(stream.source.encoding):
        return
    if not known.is_finished:
        raise UsageError(
            f"{stream.source.name}: run {known.run} began under another definition or mode of {target.dataset.name}",
            hint="the definition and mode of that run continue it; --force loads all of it again by the present ones",
        )
    log.warning(
        "loaded_under_another_definition",
        source=stream.source.name,
        run=known.run,
        hint="--force loads all of it by the present definition and mode",
    )


def _require_mode(run: runs.Run, target: Target, source: Source) -> None:
    """Raise UsageError when the rest of a source that grew would load by another mode than its run did."""
    if run.was_finished and run.mode != target.mode:
        raise UsageError(
            f"{source.name}: its beginning is run {run.run}, which was loaded by mode {run.mode};"
            f" the rest cannot load by mode {target.mode}",
            hint=f"--mode {run.mode} loads the rest; --force loads the whole source by mode {target.mode}",
        )


def _departure(stream: Stream, ranges: Mapping[int, LoadedRange], load: Load) -> int | None:
    """Return the offset of a range whose bytes differ now, or None.

    A source is read once for this, however often a command asks. What can be read once only, such as standard input,
    is compared while it is loaded (`OpenRun.note_known`).
    """
    if not stream.is_repeatable:
        return None
    hashes = load.hashes_of(stream)
    unread = [loaded for loaded in ranges.values() if (loaded.offset, loaded.length) not in hashes]
    for ranges_in_order in _side_by_side(unread):
        with opened(stream.source, load.settings.retries) as again:
            for loaded in ranges_in_order:
                _exactly(again, loaded.offset - again.position)
                found = hashes[loaded.offset, loaded.length] = hash_of(_exactly(again, loaded.length))
                if found != loaded.hash:
                    return loaded.offset
    differing = (loaded for loaded in ranges.values() if hashes[loaded.offset, loaded.length] != loaded.hash)
    return next((loaded.offset for loaded in differing), None)


def _side_by_side(ranges: Iterable[LoadedRange]) -> list[list[LoadedRange]]:
    """Part ranges into lists that can each be read in one pass.

    The ranges of one records path follow one another. Those of another path may be within them, as the elements of an
    array that a record of the first path holds.
    """
    lists: list[list[LoadedRange]] = []
    for loaded in sorted(ranges, key=lambda loaded: loaded.offset):
        for earlier in lists:
            if earlier[-1].end <= loaded.offset:
                earlier.append(loaded)
                break
        else:
            lists.append([loaded])
    return lists


def _exactly(stream: Stream, size: int) -> bytes:
    parts = []
    while size > 0 and (data := stream.read(size)):
        parts.append(data)
        size -= len(data)
    return b"".join(parts)
