"""One target's side of the load of a source: its session, its run, and the records that it counts.

Several targets share a source: each piece belongs to one of them, in the order of their records paths.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psycopg
from tenacity import Retrying

from etl.database.connecting import Session
from etl.errors import EtlError, SourceError, TooManyRejectedError, UsageError
from etl.ingestion.destination import refusals
from etl.ingestion.destination.copying import Copier
from etl.ingestion.destination.sending import Wire
from etl.ingestion.failed_store.store import FailedStore
from etl.ingestion.pipeline.assembly import RunContext, worker
from etl.ingestion.pipeline.batches import LedgerWriter, Loader, retry_policy
from etl.ingestion.pipeline.job import Load, Progress, Target
from etl.ingestion.sources.stream import Stream
from etl.ingestion.transform.paths import Paths
from etl.ingestion.values import Entry, LoadedRange, Piece, Source, Summary


@dataclass(frozen=True, kw_only=True)
class Recorder:
    """What the line asks of the ledger about a whole attempt; that of a dry run keeps nothing.

    - `failed_store` gives the store for the records of the source that do not load.
    - `begin` enters an attempt for each target: of the run that the source belongs to, or of a new run. It raises
      BusyError and UsageError when no attempt may begin; then none is entered.
    - `prepare` makes everything ready for the first new batch of an attempt.
    - `publish` finishes runs that become visible together. It raises TooManyRejectedError and DatabaseError when they
      may not be finished.
    - `report` closes an attempt, and returns its summary and the error that ended it, if one did.
    """

    application_name: str
    failed_store: Callable[[Path], FailedStore]
    begin: Callable[[Stream, "Sequence[Attempt]"], "list[OpenRun]"]
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

    def judge_rejected(self, rejected: int, read: int, *, at_end: bool) -> None:
        """Raise TooManyRejectedError when more records of the run are rejected than the settings allow."""
        limit, run = self.load.settings.max_rejected, self.progress.run
        if not limit.is_exceeded(rejected, read, at_end=at_end):
            return
        state = "would be" if self.load.settings.dry_run else "are"
        reasons = f"etl failed list --run {run.run} lists the reasons; " if run is not None else ""
        raise TooManyRejectedError(
            f"{self.target.dataset.name}: {rejected:,} of {read:,} records {state} rejected,"
            f" --max-rejected allows {limit}",
            hint=f"{reasons}a higher --max-rejected continues",
        )

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


@dataclass(frozen=True, kw_only=True)
class OpenRun:
    """The run into which an attempt loads.

    `copier` brings its rows into their tables, batch by batch and when it is published; `known` are the ranges of the
    source that it holds already, by offset.
    """

    attempt: Attempt
    ledger_writer: LedgerWriter
    stream: Stream
    context: RunContext
    copier: Copier
    known: Mapping[int, LoadedRange]

    def worker(self, store: FailedStore) -> tuple[Paths, Loader]:
        """Return what makes the batches of the run in this process, and what loads them."""
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

    def note_known(self, piece: Piece) -> None:
        """Count a piece that is loaded already.

        Raises SourceError when its bytes differ from those of the earlier attempt.
        """
        if piece.hash != self.known[piece.offset].hash:
            raise SourceError(
                f"{self.stream.source.name}: departs from what an earlier attempt read, at byte {piece.offset}",
                hint="--force loads it as a source of its own",
            )
        progress = self.attempt.progress
        progress.read += piece.count
        progress.skipped += piece.count
        progress.bytes_read = piece.end
        self.attempt.load.watch.moved()

    def note(self, piece: Piece, entry: Entry) -> None:
        """Count a piece that was read, as it was entered.

        Raises TooManyRejectedError when more records are rejected by now than the settings allow.
        """
        progress = self.attempt.progress
        progress.entered += piece.count
        progress.loaded += entry.loaded
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
