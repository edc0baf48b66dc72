"""Which run a source belongs to: a source is known by its content, whatever its name (design of the ledger)."""

import hashlib
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path

import psycopg
import structlog

from etl.database.connecting import Session
from etl.errors import SourceError, UsageError
from etl.ingestion.ledger import batches, locks, runs
from etl.ingestion.pipeline.assembly import Work
from etl.ingestion.pipeline.job import Job, Part
from etl.ingestion.sources.stream import Stream, opened
from etl.ingestion.values import LoadedRange, Piece, Source, hash_of
from etl.settings import RetrySettings

log = structlog.get_logger(__name__)

_Found = tuple[runs.KnownRun, dict[int, LoadedRange]] | None


def begin(stream: Stream, parts: Sequence[Part]) -> list[tuple[Work, dict[int, LoadedRange]]]:
    """Hold the source for each dataset, and enter an attempt: of the run that it belongs to, or of a new one.

    Returns for each what whoever loads a piece of it has to know, and the ranges that are in, by offset.

    Raises BusyError when another load holds the source, UsageError when a run began under another definition; no
    attempt is entered then for any of them.
    """
    head_sha256 = hashlib.sha256(stream.head).hexdigest()
    # In one order whatever the command's: of two loads that begin at once, one gets hold of all.
    for part in sorted(parts, key=lambda part: part.job.dataset.name):
        locks.acquire(part.session.connection(), part.job.dataset.name, head_sha256, part.job.mode)
    found = [_find(part.session.connection(), stream, part.job) for part in parts]
    return [_enter(stream, head_sha256, part, known) for part, known in zip(parts, found, strict=True)]


def _enter(stream: Stream, head_sha256: str, part: Part, found: _Found) -> tuple[Work, dict[int, LoadedRange]]:
    job, session = part.job, part.session
    run = part.progress.run = _open(session.connection(), stream, head_sha256, job, found)
    work = Work(
        database=job.database,
        dataset=job.policed.of_source(stream.source.name),
        run=run,
        source=stream.source.name,
        head_sha256=head_sha256,
        mode=job.mode,
        failed_dir=job.settings.failed_dir,
        decoder=job.settings.decoder,
        retries=job.settings.retries,
    )
    session.when_reopened(partial(_hold_again, work=work, has_workers=False))
    return work, found[1] if found else {}


def admit_workers(session: Session, work: Work) -> None:
    """Let other sessions load pieces of the source beside this one, which goes on to hold it."""
    locks.admit_workers(session.connection(), work.dataset.name, work.head_sha256)
    session.when_reopened(partial(_hold_again, work=work, has_workers=True))


def _hold_again(connection: psycopg.Connection, *, work: Work, has_workers: bool) -> None:
    locks.reacquire(connection, work.dataset.name, work.head_sha256, work.mode, has_workers=has_workers)
    runs.require_current(connection, work.run)
    runs.name_session(connection, work.run.run)


def judge(connection: psycopg.Connection, source: Source, job: Job) -> None:
    """Raise UsageError when the run that the source belongs to began under another definition.

    A stream that can be read once only, a URL, and what cannot be read, is judged when its turn comes.
    """
    with suppress(SourceError, OSError):
        if source.path is not None and Path(source.path).is_file():
            with opened(source) as stream:
                _find(connection, stream, job)


def _find(connection: psycopg.Connection, stream: Stream, job: Job) -> _Found:
    """Return the run that the stream belongs to, with its ranges.

    Raises UsageError when it began under another definition.
    """
    for known in runs.known(connection, job.dataset.name, stream.head):
        if job.settings.force and not _goes_on_by_force(known, stream, job):
            return None
        ranges = batches.ranges(connection, known.run)
        if _is_candidate(known, ranges, stream, job):
            _require_definition(known, stream, job)
            return known, ranges
    return None


def _goes_on_by_force(known: runs.KnownRun, stream: Stream, job: Job) -> bool:
    """Tell whether this --force is the one by which an unfinished run began, asked again."""
    return (
        known.is_forced
        and not known.is_finished
        and known.is_atomic == job.is_atomic
        and known.definition_hash == job.definition_hash(stream.source.encoding)
    )


def _open(connection: psycopg.Connection, stream: Stream, head_sha256: str, job: Job, found: _Found) -> runs.Run:
    asked = runs.AttemptRequest(source=stream.source.name, folder=job.folder, options=_options(stream.source, job))
    if found is not None:
        return runs.resume(connection, found[0], asked)
    identity = runs.Identity(
        dataset=job.dataset.name,
        source=stream.source.name,
        head_sha256=head_sha256,
        head_bytes=len(stream.head),
        source_bytes=stream.size,
        definition_hash=job.definition_hash(stream.source.encoding),
        mode=job.mode,
        on_duplicate=job.policed.on_duplicate,
        is_atomic=job.is_atomic,
        is_forced=job.settings.force,
    )
    return runs.start(connection, identity, asked)


def _options(source: Source, job: Job) -> str:
    return job.options if source.encoding == "auto" else f"{job.options} --encoding {source.encoding}".lstrip()


def require_same(stream: Stream, piece: Piece, known: LoadedRange) -> None:
    """Raise SourceError when a piece is not what an earlier attempt read in its place."""
    if piece.hash != known.hash:
        raise SourceError(
            f"{stream.source.name}: departs from what an earlier attempt read, at byte {piece.offset}",
            hint="--force loads it as a source of its own",
        )


def _is_candidate(known: runs.KnownRun, ranges: Mapping[int, LoadedRange], stream: Stream, job: Job) -> bool:
    if not ranges and known.head_bytes != len(stream.head):
        return False  # Too little was read to know it by.
    if not ranges and not known.is_finished and known.definition_hash != job.definition_hash(stream.source.encoding):
        return False  # Nothing of it is in yet that binds it.
    if known.is_finished and "replace" in (known.mode, job.mode) and known.source_bytes != stream.size:
        return False  # It may have grown, and a tail alone replaces nothing.
    if job.mode == "replace" and known.mode != "replace":
        return False  # Its rows are in, and so may be others that a replace removes.
    departs_at = _departure(stream, ranges, job.settings.retries)
    if departs_at is not None:
        log.warning("source_departed", source=stream.source.name, run=known.run, offset=departs_at)
    return departs_at is None


def _require_definition(known: runs.KnownRun, stream: Stream, job: Job) -> None:
    if known.definition_hash == job.definition_hash(stream.source.encoding):
        return
    if not known.is_finished:
        raise UsageError(
            f"{stream.source.name}: run {known.run} began under another definition or mode of {job.dataset.name}",
            hint="those of then go on where it stopped; --force loads all of it again under those of now",
        )
    log.warning(
        "loaded_under_another_definition",
        source=stream.source.name,
        run=known.run,
        hint="--force loads all of it under the definition and mode of now",
    )


def _departure(stream: Stream, ranges: Mapping[int, LoadedRange], retries: RetrySettings) -> int | None:
    """Return the offset of the first range whose bytes are others now, or None.

    What can be read once only, such as standard input, is compared while it is loaded (`require_same`).
    """
    if not stream.is_repeatable:
        return None
    for offsets in _side_by_side(ranges):
        with opened(stream.source, retries) as again:
            for offset in offsets:
                _exactly(again, offset - again.position)
                if hash_of(_exactly(again, ranges[offset].length)) != ranges[offset].hash:
                    return offset
    return None


def _side_by_side(ranges: Mapping[int, LoadedRange]) -> list[list[int]]:
    """Part ranges into lists that can each be read in one go.

    Those of one records path lie side by side; those of another may lie within them, as the elements of an array that
    a record of the first path holds.
    """
    lists: list[list[int]] = []
    for offset in sorted(ranges):
        for offsets in lists:
            if offsets[-1] + ranges[offsets[-1]].length <= offset:
                offsets.append(offset)
                break
        else:
            lists.append([offset])
    return lists


def _exactly(stream: Stream, size: int) -> bytes:
    parts = []
    while size > 0 and (data := stream.read(size)):
        parts.append(data)
        size -= len(data)
    return b"".join(parts)
