"""Small files of one command that are loaded already: they are looked up together, before the others are loaded.

Only what needs no decision is settled here: a file with exactly the records of one run, which is complete and was
loaded by the same definition. Everything else goes its usual way.
"""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import psycopg
import structlog

from etl.database.connecting import connect
from etl.errors import BusyError, DatabaseError, ExitCode, SourceError
from etl.ingestion.constants import KNOWN_BYTES, KNOWN_SOURCES
from etl.ingestion.framing.pieces import cut
from etl.ingestion.ledger import locks, runs
from etl.ingestion.pipeline.job import Load, Target
from etl.ingestion.recognition import together
from etl.ingestion.recognition.comparison import Recognition
from etl.ingestion.sources.stream import opened
from etl.ingestion.values import Balance, Piece, Source, Summary, printable_path

log = structlog.get_logger(__name__)


@dataclass(frozen=True, kw_only=True)
class KnownSource:
    """A file as it was read, and the number of the run that has its records."""

    run: int
    records: int
    size: int
    time_ns: int


@dataclass(frozen=True, kw_only=True)
class Looked:
    """What is known of sources of a command, by their names: the run of some, None of those that begin a new run.

    For neither of them a definition of another run has to be compared.
    """

    runs: dict[str, KnownSource | None]


def look(connection: psycopg.Connection, load: Load, sources: Sequence[Source]) -> Looked:
    """Compare the small files of a command with the known runs, many of them at once."""
    found: dict[str, KnownSource | None] = {}
    settings = load.settings
    [target, *others] = load.targets
    if others or settings.force or settings.limit or target.mode == "replace":
        return Looked(runs=found)
    for group in _groups(load, target, sources):
        compared = together.compared(connection, target.dataset.name, [pieces for _, _, pieces in group])
        if compared is None:
            break
        candidates = {}
        for (source, file, _), recognition in zip(group, compared, strict=True):
            if (run := _run_of(recognition)) is not None:
                candidates[source] = KnownSource(run=run, records=recognition.records, size=file[0], time_ns=file[1])
            elif recognition.decide().kind == "new":
                found[source.name] = None
        complete = runs.complete(connection, [each.run for each in candidates.values()])
        for source, known in candidates.items():
            if _is_complete(complete.get(known.run), known, target, source):
                found[source.name] = known
    return Looked(runs=found)


def _run_of(recognition: Recognition) -> int | None:
    """Return the one run that has the records of a source, and no others."""
    decided = recognition.decide()
    if decided.kind != "within" or len(decided.within) != 1 or not recognition.records:
        return None
    [run] = decided.within
    return run if recognition.end_of(run) == recognition.records else None


def _is_complete(run: runs.CompleteRun | None, known: KnownSource, target: Target, source: Source) -> bool:
    return (
        run is not None and run.records == known.records and target.is_defined_by(run.definition_hash, source.encoding)
    )


_Read = tuple[Source, tuple[int, int], list[Piece]]


def _groups(load: Load, target: Target, sources: Sequence[Source]) -> Iterator[list[_Read]]:
    """Yield the small files in groups, each with its size, its time and its pieces."""
    group: list[_Read] = []
    size = 0
    names: set[str] = set()
    for source in sources:
        load.stop.check()
        if source.name in names or (read := _read(load, target, source)) is None:
            continue
        names.add(source.name)
        group.append(read)
        size += read[1][0]
        if len(group) == KNOWN_SOURCES or size > KNOWN_SOURCES * KNOWN_BYTES // 4:
            yield group
            group, size = [], 0
    if group:
        yield group


def _read(load: Load, target: Target, source: Source) -> _Read | None:
    """Read a small file; None for every other source, and for one that cannot be read as it should."""
    if source.path is None or (before := _file(source.path)) is None or before[0] > KNOWN_BYTES:
        return None
    pieces: list[Piece] = []
    try:
        with opened(source) as stream:
            for piece in cut(stream, load.cut_options(target)):
                pieces.append(piece)
                if stream.position > 4 * KNOWN_BYTES:  # it was compressed
                    return None
    except (SourceError, OSError):
        return None
    return (source, before, pieces) if pieces and _file(source.path) == before else None


def _file(path: str) -> tuple[int, int] | None:
    """Return the size and the time of a regular file."""
    try:
        if not Path(path).is_file():
            return None
        status = Path(path).stat()
    except OSError:
        return None
    return status.st_size, status.st_mtime_ns


def settle(load: Load, looked: Looked, sources: Sequence[Source]) -> dict[str, Summary]:
    """Return the ends of the sources that are loaded already, and enter them together.

    They are looked up again, because other commands may have changed the ledger since. What is not settled, such as
    while a replace holds the dataset, goes its usual way.
    """
    wanted = {source.name: known for source in sources if (known := looked.runs.get(source.name)) is not None}
    if not wanted or load.settings.dry_run:
        return {}
    started = time.monotonic()
    by_name = {source.name: source for source in sources}
    [target] = load.targets
    settled: dict[str, Summary] = {}
    try:
        with connect(load.database) as connection:
            locks.hold_dataset(connection, target.dataset.name, target.mode)
            complete: dict[int, runs.CompleteRun] = {}
            for _, numbers in groupby(enumerate(wanted.values()), key=lambda each: each[0] // KNOWN_SOURCES):
                complete |= runs.complete(connection, [known.run for _, known in numbers])
            for name, known in wanted.items():
                source, run = by_name[name], complete.get(known.run)
                is_same = source.path is not None and _file(source.path) == (known.size, known.time_ns)
                if run is not None and is_same and _is_complete(run, known, target, source):
                    settled[name] = _summary(load, target, source, known, run)
            if settled:
                _enter(connection, load, target, by_name[next(iter(settled))], [wanted[name] for name in settled])
    except (BusyError, DatabaseError, psycopg.Error):
        return {}
    if settled:
        log.info(
            "sources_known",
            dataset=target.dataset.name,
            sources=len(settled),
            records=sum(summary.records.read for summary in settled.values()),
            pending=sum(summary.records.pending for summary in settled.values()),
            seconds=round(time.monotonic() - started, 3),
        )
    return settled


def _enter(
    connection: psycopg.Connection, load: Load, target: Target, first: Source, found: Sequence[KnownSource]
) -> None:
    sums = runs.KnownSums(
        sources=len(found),
        records=sum(known.records for known in found),
        bytes_read=sum(known.size for known in found),
    )
    request = runs.AttemptRequest(source=first.name, folder=load.folder, options=load.options(first, target))
    runs.enter_known(connection, target.dataset.name, sums, request)


def _summary(load: Load, target: Target, source: Source, known: KnownSource, run: runs.CompleteRun) -> Summary:
    count = known.records
    return Summary(
        run=run.run,
        dataset=target.dataset.name,
        source=source.name,
        database=load.database.name,
        status="already_loaded",
        exit_code=ExitCode.FINDINGS if run.pending else ExitCode.SUCCESS,
        records=Balance(read=count, loaded=0, rejected=0, failed=0, skipped=count, withheld=0, pending=run.pending),
        rows=dict.fromkeys((table.name for table in target.dataset.tables), 0),
        batches={"loaded": 0, "failed": 0, "retried": 0},
        bytes_read=known.size,
        seconds=0.0,
        failed_store=printable_path(load.settings.failed_dir) if run.pending else None,
    )
