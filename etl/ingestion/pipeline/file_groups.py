"""Small files in groups: one transaction looks a group up, and loads the new files of it, each as a run of its own.

Only a file that needs no decision is loaded here: its records are those of no run, all of them fit the definition, and
the server takes them. Every other file is loaded by itself, at its place in the order of the sources.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from functools import cache, cached_property
from typing import Self

import psycopg
import structlog

from etl.database.connecting import Session
from etl.database.narrowing import narrower_columns
from etl.database.tables import with_digests
from etl.datasets import Dataset
from etl.datasets.definition import SOURCE
from etl.errors import BusyError, EtlError, InternalError, InterruptedByUserError
from etl.ingestion.destination import refusals
from etl.ingestion.destination.copying import copier_of_run
from etl.ingestion.destination.group_writer import GroupWriter, LateRunsError, OlderVersionsError, Written
from etl.ingestion.destination.sending import Wire
from etl.ingestion.ledger import file_times, locks, losses, run_groups, runs
from etl.ingestion.ledger.file_times import FileState
from etl.ingestion.ledger.run_groups import LoadedRun, Names, NewRuns, WholeSource
from etl.ingestion.pipeline.assembly import paths_of
from etl.ingestion.pipeline.file_ends import FileEnds
from etl.ingestion.pipeline.job import Load
from etl.ingestion.pipeline.small_files import SmallFile, grouped
from etl.ingestion.recognition import group_comparison
from etl.ingestion.recognition.comparison import Recognition
from etl.ingestion.summary import Summary
from etl.ingestion.transform.paths import Paths
from etl.ingestion.transform.projection import Projection
from etl.ingestion.values import Batch, Entry, Source
from etl.quick_dataclasses import dataclass
from etl.settings import Decoder, lineage_is_on

log = structlog.get_logger(__name__)


def is_possible(load: Load) -> bool:
    """Return whether the sources of a command may be loaded in groups: each one becomes visible by itself."""
    settings = load.settings
    [target, *others] = load.targets
    return not (
        others
        or target.mode == "replace"
        or target.is_atomic
        or target.dataset.on_duplicate
        or target.dataset.document_paths
        or target.dataset.deletions
        or target.dataset.has_history  # A version of the same transaction is never shown.
        or settings.force
        or settings.limit
        or settings.dry_run
    )


class _OddFileError(Exception):
    """A file of a group has to be loaded by itself; the files before it may be loaded together."""

    def __init__(self, place: int) -> None:
        super().__init__(place)
        self.place = place


@dataclass(frozen=True, kw_only=True)
class _New:
    """A file whose records no run has loaded, and its place in the group."""

    place: int
    file: SmallFile
    recognition: Recognition


@dataclass(frozen=True, kw_only=True)
class _Judged:
    """The files of a group before the first one that is neither known nor new. `is_odd`: there is such a file."""

    known: dict[int, runs.CompleteRun]
    new: list[_New]
    count: int
    is_odd: bool


class FileGroups:
    """Loads the small files of one command; its session takes the locks of each group, and holds none between them."""

    def __init__(self, load: Load) -> None:
        self._load = load
        [self._target] = load.targets
        self._definition_hashes = cache(self._target.definition_hashes)
        self._started = time.monotonic()
        self._ends = FileEnds(load, self._target)
        self._names = Names()
        self._has_lineage = lineage_is_on()  # asked once: it reads the whole environment
        self._wire: Wire | None = None
        self._is_ledger_whole = False
        self._is_off = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Enter and log the ends of the files, and close the session."""
        self._ends.sum_up(self._connection, time.monotonic() - self._started)
        if self._wire is not None:
            self._wire.session.close()

    @cached_property
    def _dataset(self) -> Dataset:
        """The definition of the dataset, as the tables in the database take its rows: with digests, or without."""
        dataset = self._target.dataset
        return with_digests(self._opened().session.connection(), dataset) if self._target.sends_digests else dataset

    @cached_property
    def _batches(self) -> "_Batches":
        return _Batches(self._dataset, self._load.settings.decoder)

    @cached_property
    def _writer(self) -> GroupWriter:
        return GroupWriter(self._dataset, self._target.mode)

    def ends(self, sources: Sequence[Source]) -> Iterator[tuple[Source, Summary | None]]:
        """Yield each source in its order with its end; None: it has to be loaded by itself before the next one."""
        for group in self._groups(sources):
            rest = list(group)
            while rest:
                files = list(_first_files(rest))
                ended, is_next_odd = self._ended(files) if self._may_load else ([], True)
                for file, summary in zip(files, ended, strict=False):
                    self._load.watch.passed(summary)
                    self._report(file.source, summary)
                    yield file.source, summary
                del rest[: len(ended)]
                if rest and (is_next_odd or not isinstance(rest[0], SmallFile)):
                    first = rest.pop(0)
                    yield (first.source if isinstance(first, SmallFile) else first), None

    def _report(self, source: Source, summary: Summary) -> None:
        """Report the begin of the run of a file, which is loaded already; the command reports its end."""
        if self._has_lineage and summary.run is not None and summary.status != "already_loaded":
            from etl import lineage  # noqa: PLC0415 - imports nothing unless it is configured

            lineage.run_began(self._connection(), source.name, self._dataset, summary.run, 1)

    def _groups(self, sources: Sequence[Source]) -> Iterator[list[SmallFile | Source]]:
        """Yield the sources in groups; a second signal raises InterruptedByUserError while files are read."""
        groups = grouped(self._load, self._target, sources, self._trusted)
        with closing(groups):
            while True:
                with self._load.stop.interrupting():
                    group = next(groups, None)
                if group is None:
                    return
                yield group

    def _trusted(self, files: Sequence[FileState]) -> Mapping[int, int]:
        """Return the runs that have read these files before, if the command believes their times."""
        if not self._load.settings.trust_mtime or not self._may_load:
            return {}
        try:
            return file_times.trusted(self._connection(), self._target.dataset.name, files)
        except (EtlError, psycopg.Error):  # The load of the first file reports it.
            return {}

    def _opened(self) -> Wire:
        """Return the wire to the server, over which all groups are loaded."""
        if self._wire is None:
            self._wire = Wire(Session(self._load.database, "etl"))
        return self._wire

    def _connection(self) -> psycopg.Connection:
        return self._opened().session.connection()

    @property
    def _may_load(self) -> bool:
        return not self._is_off and not self._load.stop.signal_number

    def _ended(self, files: Sequence[SmallFile]) -> tuple[list[Summary], bool]:
        """Load some of the first files together; return their ends, and whether the next one is loaded by itself.

        A refusal of the server says nothing about the file that it is about, so half of the files are tried again.
        """
        while files:
            try:
                return self._committed(files)
            except _OddFileError as odd:
                files = files[: odd.place]
            except OlderVersionsError:  # Counted by the next try, and in each further group.
                continue
            except psycopg.Error as error:
                log.debug("group_refused", files=len(files), sqlstate=error.sqlstate)
                files = files[: len(files) // 2] if refusals.meaning(error) == "data" else ()
            except (BusyError, InternalError, InterruptedByUserError, LateRunsError) as error:
                log.debug("group_left", reason=type(error).__name__)
                files = files[: len(files) // 2] if isinstance(error, InternalError) else ()
            except EtlError:  # The load of each file reports it.
                self._is_off = True
                files = ()
        return [], True

    def _committed(self, files: Sequence[SmallFile]) -> tuple[list[Summary], bool]:
        """Look files up, load the new ones and commit them; return as `_ended` does.

        Raises _OddFileError when a file may not be loaded here, and every error that ends the transaction.
        """
        started = time.monotonic()
        connection = self._connection()
        dataset = self._target.dataset.name
        with self._load.stop.interrupting(), connection.transaction():
            if not locks.share_dataset_in_transaction(connection, dataset):
                raise BusyError(f"a replace holds the dataset {dataset}")
            locks.one_opening_at_a_time(connection, dataset)
            judged = self._judged(connection, files)
            if self._load.settings.trust_mtime:
                states = ((run.number, files[place].state) for place, run in judged.known.items())
                file_times.note_times(connection, {number: state for number, state in states if state is not None})
            loaded = self._load_new(judged.new) if judged.new else []
        seconds = (time.monotonic() - started) / max(1, len(loaded))
        summaries = {place: self._ends.known(files[place], run) for place, run in judged.known.items()}
        for new, (name, _, source, entry) in zip(judged.new, loaded, strict=True):
            summaries[new.place] = self._ends.loaded(name, source, entry, seconds)
        if loaded and self._load.settings.precalculate:
            self._analyze(connection, [entry for *_, entry in loaded])
        return [summaries[place] for place in range(judged.count)], judged.is_odd

    def _judged(self, connection: psycopg.Connection, files: Sequence[SmallFile]) -> _Judged:
        """Judge files in their order, up to the first that is neither known nor new.

        No other load opens a run of the dataset before the end of the transaction. A file that begins as a new one
        before it may have its records, and is looked up again after it.
        """
        read = [file for file in files if file.trusted is None]
        found = group_comparison.compared(connection, self._target.dataset.name, [file.pieces for file in read])
        if found is None:  # There are runs without marks.
            raise _OddFileError(0)
        each_found = iter(found)
        compared = [next(each_found) if file.trusted is None else None for file in files]
        numbers = [
            file.trusted if recognition is None else group_comparison.run_of(recognition)
            for file, recognition in zip(files, compared, strict=True)
        ]
        complete = runs.complete(connection, [number for number in numbers if number is not None])
        judged = _Judged(known={}, new=[], count=len(files), is_odd=False)
        begun = set()
        for place, (file, recognition, number) in enumerate(zip(files, compared, numbers, strict=True)):
            run = complete.get(number) if number is not None else None
            first = file.pieces[0].marks[0] if file.pieces else None
            if run is not None and _has_all(run, file, self._definition_hashes):
                judged.known[place] = run
            elif recognition is not None and number is None and _is_new(file, recognition) and first not in begun:
                begun.add(first)
                judged.new.append(_New(place=place, file=file, recognition=recognition))
            else:
                return replace(judged, count=place, is_odd=first not in begun)
        return judged

    def _load_new(self, new: Sequence[_New]) -> list[LoadedRun]:
        """Load new files as a run each; return the name and number of the run, the source and the entry of each."""
        wire, target = self._opened(), self._target
        connection = wire.session.connection()
        self._require_ledger(connection)
        encoding = new[0].file.source.encoding
        table = self._dataset.digested_table if self._dataset.has_digests else None
        common = NewRuns(
            dataset=target.dataset.name,
            definition_hash=target.definition_hash(encoding),
            mode=target.mode,
            versions_of=None if table is None else table.name,
            definition=self._dataset.digest_definition,
            is_examined=self._dataset.on_unknown != "ignore",
        )
        sources = [_whole(each, self._load.settings.trust_mtime) for each in new]
        names = list(self._names.take(len(new)))
        begun = run_groups.begin(connection, len(new), self._load.request(new[0].file.source, target))
        batches = []
        for each, number in zip(new, begun.runs, strict=True):
            batch = self._batches.of(wire.session, each.file, number)
            if batch.rejected or _loaded(batch, target.dataset) != batch.piece.count:
                raise _OddFileError(each.place)
            batches.append(batch)
        written = self._writer.write(wire.exchange(), batches, begun.runs)
        loaded = [
            LoadedRun(name, number, source, _entry(batch, target.dataset, met))
            for name, number, source, batch, met in zip(names, begun.runs, sources, batches, written, strict=True)
        ]
        run_groups.enter(connection, common, loaded, begun.attempt)
        counted = run_groups.records_loaded(connection, begun.runs)
        if any(counted.get(name) != source.piece.count for name, _, source, _ in loaded):
            raise InternalError("the ledger has other records of a group of files than were read")
        return loaded

    def _require_ledger(self, connection: psycopg.Connection) -> None:
        """Raise UsageError when rows of the ledger were deleted. This is checked once for all files of a command."""
        if self._is_ledger_whole:
            return
        dataset = self._target.dataset
        losses.require_marks(connection, dataset)
        if self._target.mode == "append" and (reason := losses.unknown_rows(connection, dataset)):
            log.warning("unknown_rows", dataset=dataset.name, reason=reason, next="etl db check")
        copier_of_run(dataset, self._target.mode, "", 0, is_atomic=False).drop_abandoned(connection)
        self._ends.narrowed = narrower_columns(connection, dataset)
        self._is_ledger_whole = True

    def _analyze(self, connection: psycopg.Connection, entries: Sequence[Entry]) -> None:
        """Update the planner's statistics for the aggregates that are refreshed."""
        rows = [sum(counts) for counts in zip(*(entry.rows for entry in entries), strict=True)]
        copier = copier_of_run(self._target.dataset, self._target.mode, "", 0, is_atomic=False)
        try:
            copier.analyze(connection, rows)
        except psycopg.Error as error:  # The server's own analyze comes later.
            log.warning("not_analyzed", dataset=self._target.dataset.name, sqlstate=error.sqlstate)


def _first_files(group: Sequence[SmallFile | Source]) -> Iterator[SmallFile]:
    """Yield the small files at the beginning of a group."""
    for each in group:
        if not isinstance(each, SmallFile):
            return
        yield each


def _has_all(run: runs.CompleteRun, file: SmallFile, definition_hashes: Callable[[str], set[str]]) -> bool:
    """Return whether a complete run has loaded all records of a file by the present definition."""
    return (
        (file.trusted is not None or run.records == file.pieces[-1].last_record)
        and run.definition_hash in definition_hashes(file.source.encoding)
        and file.is_as_read
    )


def _is_new(file: SmallFile, recognition: Recognition) -> bool:
    """Return whether a file has one piece, and no run has its first record."""
    decided = recognition.decide()
    return len(file.pieces) == 1 and decided.kind == "new" and decided.departs_from is None and not recognition.runs


def _whole(new: _New, is_trusted: bool) -> WholeSource:
    file = new.file
    [piece] = file.pieces
    known = sorted({mark for mark in (*piece.marks, piece.end_mark) if mark is not None})
    return WholeSource(
        name=file.source.name,
        stored_bytes=file.size,
        time_ns=file.time_ns if is_trusted and file.state is not None else None,
        bytes_read=file.bytes_read,
        piece=piece,
        marks=known,
        anchor=new.recognition.anchor(known),
    )


def _loaded(batch: Batch, dataset: Dataset) -> int:
    """Return the number of records by the rows of a batch: a record has one row, child rows aside."""
    return sum(count for table, count in zip(dataset.tables, batch.rows, strict=True) if not table.each)


def _entry(batch: Batch, dataset: Dataset, written: Written) -> Entry:
    return Entry(
        loaded=_loaded(batch, dataset),
        rejected=0,
        failed=0,
        rows=batch.rows,
        policy_effects=replace(batch.policy_effects, duplicates=written.duplicates),
        rows_replaced=written.replaced,
    )


class _Batches:
    """Makes the batches of whole files; definitions are compiled once, and again where the tables have changed."""

    def __init__(self, dataset: Dataset, decoder: Decoder) -> None:
        self._decoder = decoder
        self._dataset = dataset
        self._names_source = any(column.value == SOURCE for table in dataset.tables for column in table.columns)
        self._last: tuple[Dataset, Paths] | None = None

    def of(self, session: Session, file: SmallFile, number: int) -> Batch:
        """Return the rows of a file for the run with this number."""
        dataset = self._dataset.of_source(file.source.name) if self._names_source else self._dataset
        if self._last is None or self._last[0] != dataset:
            self._last = dataset, paths_of(session, Projection(dataset), number, self._decoder)
        return self._last[1].whole(file.pieces[0], number)
