"""One target's side of the load of a source: its session, its run, and the records that it counts.

Several targets share a source: each piece belongs to one of them, in the order of their records paths.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import field, replace
from functools import cached_property
from pathlib import Path

import psycopg
from tenacity import Retrying

from etl.database.connecting import Session
from etl.database.tables import with_digests
from etl.datasets import Dataset
from etl.errors import BusyError, EtlError, TooManyRejectedError, UsageError
from etl.ingestion.destination import refusals
from etl.ingestion.destination.copying import Copier
from etl.ingestion.destination.publication import Published
from etl.ingestion.destination.sending import Wire
from etl.ingestion.failed_store.store import FailedStore
from etl.ingestion.fingerprints import Mark
from etl.ingestion.framing.splitting import RecordRange
from etl.ingestion.ledger import runs
from etl.ingestion.pipeline.assembly import RunContext, worker
from etl.ingestion.pipeline.batches import LedgerWriter, Loader, retry_policy
from etl.ingestion.pipeline.job import Load, Progress
from etl.ingestion.pipeline.targets import Target
from etl.ingestion.recognition.comparison import Recognition
from etl.ingestion.sources.stream import Stream
from etl.ingestion.summary import Summary
from etl.ingestion.transform.paths import Paths
from etl.ingestion.values import Entry, Piece, Source
from etl.quick_dataclasses import dataclass
from etl.settings import Url


class ChangedMeanwhileError(BusyError):
    """Another load has opened or continued a run of this source since it was compared with the known runs."""


@dataclass(frozen=True, kw_only=True)
class Recorder:
    """All that a load asks of the ledger for a whole attempt. The recorder of a dry run writes nothing.

    - `failed_store` gives the store for the records of the source that do not load.
    - `begin` locks the datasets. It raises BusyError when another load holds one of them.
    - `recognition` gives what compares the source with the known runs of a target, or None.
    - `must_read_on` tells whether more of the source has to be read before a run is opened.
    - `open` enters an attempt: of the run that the source belongs to, or of a new run. It gets the marks of the source
      as far as it was read, and whether that is its end. It raises an EtlError when no attempt may begin; then none is
      entered.
    - `prepare` makes everything ready for the first new batch of an attempt.
    - `publish` finishes runs that become visible together. It raises TooManyRejectedError and DatabaseError when they
      may not be finished.
    - `report` closes an attempt, and returns its summary and the error that ended it, if one did.
    """

    application_name: str
    failed_store: Callable[[Path | Url], FailedStore]
    begin: Callable[["Sequence[Attempt]"], None]
    recognition: Callable[["Attempt"], Recognition | None]
    must_read_on: Callable[["Attempt", Recognition, int], bool]
    open: Callable[[Stream, "Attempt", Recognition | None, Sequence[Mark], bool], "OpenRun"]
    prepare: Callable[["OpenRun", FailedStore], None]
    publish: Callable[[Stream, "Sequence[OpenRun]"], None]
    report: Callable[[Source, "Attempt", float], tuple[Summary, EtlError | None]]


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """A target, the session that holds the source for it, and what was counted so far."""

    load: Load
    target: Target
    recorder: Recorder
    session: Session
    progress: Progress = field(default_factory=Progress)
    _resolved: list[Dataset] = field(default_factory=list)

    def dataset_of(self, stream: Stream) -> Dataset:
        """Return the definition for the source of the attempt, as `Load.dataset_of` does; it is made once."""
        if not self._resolved:
            dataset = self.load.dataset_of(self.target, stream)
            self._resolved.append(dataset.with_digests() if self.dataset.has_digests else dataset)
        return self._resolved[0]

    @property
    def again(self) -> Retrying:
        """The policy that calls a function again after another session held a lock, or after the connection was lost.

        The session takes its locks again when it is opened again.
        """
        settings, stop = self.load.settings, self.load.stop
        return retry_policy(settings.retries, lambda: None, stop.wait, event="start_retried")

    @cached_property
    def dataset(self) -> Dataset:
        """The definition of the dataset, as the tables in the database take its rows: with digests, or without."""
        dataset = self.target.dataset
        if not self.target.sends_digests:
            return dataset
        return self.again(lambda: with_digests(self.session.connection(), dataset))

    @cached_property
    def may_compare(self) -> bool:
        """Whether unchanged records may stay as they are. Only one process finds them in the order of the source."""
        settings, target = self.load.settings, self.target
        if settings.dry_run or settings.force or settings.workers not in {None, 1} or self.load.is_shared:
            return False
        if target.mode != "merge" or target.is_atomic or target.dataset.on_duplicate:
            return False
        table = self.dataset.digested_table
        if table is None or not table.has_digest:
            return False
        return self.again(lambda: runs.has_versions(self.session.connection(), table.name))

    @property
    def is_atomic(self) -> bool:
        """Whether all rows become visible at once; a run that began so continues so, also without the option."""
        run = self.progress.run
        return self.target.is_atomic if run is None else run.is_atomic

    def judge_rejected(self, rejected: int, read: int, *, at_end: bool) -> None:
        """Raise TooManyRejectedError when more records of the run are rejected than the settings allow."""
        limit = self.load.settings.max_rejected
        if not limit.is_exceeded(rejected, read, at_end=at_end, of_any_size=self.is_atomic):
            return
        raise TooManyRejectedError(
            f"{self.target.dataset.name}: {rejected:,} of {read:,} records {self._are} rejected,"
            f" --max-rejected allows {limit}",
            hint=f"{self._reasons}a higher --max-rejected continues",
        )

    def judge_publication(self, *, entered: int, loaded: int, rejected: int) -> None:
        """Raise TooManyRejectedError when the records that become visible at once must not take the place of others.

        The numbers are those of all attempts of the run.
        """
        dataset, settings = self.target.dataset, self.load.settings
        if not self.is_atomic:
            return
        if entered and not loaded:
            raise TooManyRejectedError(
                f"{dataset.name}: none of {entered:,} records can load, so nothing is published",
                hint=f"{self._reasons}the tables are unchanged",
            )
        if rejected and self.target.mode == "replace" and not dataset.key and settings.max_rejected.is_default:
            raise TooManyRejectedError(
                f"{dataset.name}: {rejected:,} records {self._are} rejected, and without a key nobody knows which rows"
                " of the tables they belong to: a replace would delete these rows",
                hint=f"{self._reasons}--max-rejected {rejected} publishes without these records",
            )

    def judge_deleted(self, published: Published) -> None:
        """Raise TooManyRejectedError when a replace deletes more rows of a table than the settings allow."""
        limit = self.load.settings.max_deleted
        if not published.rows_before or (self._asks_for_nothing and limit.is_default):
            return
        dataset = self.target.dataset
        for table, rows, deleted in zip(dataset.tables, published.rows_before, published.rows_deleted, strict=False):
            if limit.is_exceeded_by_deletion(deleted, rows):
                raise TooManyRejectedError(
                    f"{dataset.name}: the replace would delete {deleted:,} of {rows:,} rows of {table.name},"
                    f" --max-deleted allows {limit}; nothing is published",
                    hint="if the source is complete, a higher --max-deleted publishes it",
                )

    @property
    def _asks_for_nothing(self) -> bool:
        """Whether the user wants the tables to be empty."""
        return self.load.settings.allow_empty and not self.progress.read

    @property
    def _are(self) -> str:
        return "would be" if self.load.settings.dry_run else "are"

    @property
    def _reasons(self) -> str:
        """The beginning of a hint: the command that lists why records are rejected."""
        run = self.progress.run
        return "" if run is None else f"etl failed show --run {run.run} shows the reasons; "

    def require_records(self) -> None:
        """Raise TooManyRejectedError when a replace by a source without records would empty the dataset."""
        if self.target.mode == "replace" and not self.progress.read and not self.load.settings.allow_empty:
            raise TooManyRejectedError(
                f"the source holds no record, and replace would leave the dataset {self.target.dataset.name} empty",
                hint="--allow-empty does it all the same",
            )


@contextmanager
def ending(attempts: Sequence[Attempt]) -> Iterator[None]:
    """Record the error that ends this block as the end of these attempts only.

    Raises UsageError when no attempt has begun.
    """
    try:
        yield
    except UsageError as error:
        if all(attempt.progress.run is None for attempt in attempts):
            raise
        end: EtlError = error
    except EtlError as error:
        end = error
    except psycopg.Error as error:
        end = refusals.as_etl_error(error, attempts[0].load.database)
    else:
        return
    for attempt in attempts:
        attempt.progress.error = attempt.progress.error or end


@dataclass(kw_only=True)
class OpenRun:
    """The run into which an attempt loads.

    `copier` brings its rows into their tables, batch by batch and when it is published; `loaded` are the ranges of
    records that it holds already, in order. The ledger has its marks up to record `marked_to`.
    """

    attempt: Attempt
    ledger_writer: LedgerWriter
    stream: Stream
    context: RunContext
    copier: Copier
    loaded: Sequence[RecordRange] = ()
    marked_to: int = 0

    def worker(self, store: FailedStore) -> tuple[Paths, Loader]:
        """Return the paths that make the batches of the run in this process, and the loader of the batches."""
        return self.retrying(
            worker,
            self.context,
            Wire(self.attempt.session),
            store,
            self.copier,
            self.ledger_writer,
            self.retrying,
        )

    def prepare(self, store: FailedStore) -> None:
        """Make everything ready for the first new batch; a transient fault is tried again."""
        self.retrying(self.attempt.recorder.prepare, self, store)

    def lacks(self, first: int, last: int) -> bool:
        """Return whether one of these records is not loaded yet; none of no records."""
        return first <= last and not any(begin <= first and last <= end for begin, end in self.loaded)

    def note_skipped(self, count: int, end: int) -> None:
        """Count records that are loaded already, up to a byte of the source."""
        progress = self.attempt.progress
        progress.read += count
        progress.skipped += count
        progress.bytes_read = end
        self.attempt.load.watch.moved()

    def with_new_marks(self, piece: Piece) -> Piece:
        """Return a piece with those of its marks alone, from before it to its end, that the ledger does not have."""
        marks = {mark.records: mark for mark in (piece.before, *piece.marks, piece.end_mark) if mark is not None}
        new = [marks[place] for place in sorted(marks) if place >= self.marked_to]
        has_new = bool(new) and new[-1].records > self.marked_to
        return replace(piece, marks=tuple(new) if has_new else (), end_mark=None, start=None)

    def note(self, piece: Piece, entry: Entry) -> None:
        """Count a piece that was read, as it was entered.

        Raises TooManyRejectedError when more records are rejected by now than the settings allow.
        """
        progress = self.attempt.progress
        progress.entered += piece.count
        progress.loaded += entry.loaded
        progress.unchanged += entry.unchanged
        progress.failed += entry.failed
        progress.rejected += entry.rejected
        progress.bytes_read = piece.end
        self.attempt.load.watch.moved()
        self.attempt.judge_rejected(progress.rejected, progress.read, at_end=False)

    @property
    def id(self) -> str:
        """The run's id in the ledger."""
        return self.context.run.run

    @property
    def retrying(self) -> Retrying:
        """Calls a function, again after a transient fault of the database."""
        load, progress = self.attempt.load, self.attempt.progress
        return retry_policy(load.settings.retries, progress.note_retry, load.stop.wait)
