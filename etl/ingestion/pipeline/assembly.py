"""Everything that loads the pieces of a run in one process: this process, or one of a worker pool."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import field
from pathlib import Path
from typing import TYPE_CHECKING, Self

import psycopg
import structlog
from tenacity import Retrying

from etl.database.connecting import Database, Session
from etl.database.tables import guarded_columns, other_types, version_of
from etl.datasets import Dataset
from etl.errors import DatabaseError
from etl.ingestion.constants import MAX_FAILED_IN_A_ROW
from etl.ingestion.destination.copying import Copier, copier_of_run
from etl.ingestion.destination.sending import Wire
from etl.ingestion.failed_store.failure import Origin
from etl.ingestion.failed_store.locating import RecordLocation, locate
from etl.ingestion.failed_store.store import FailedStore
from etl.ingestion.ledger import batches, marks, runs
from etl.ingestion.pipeline.batches import LedgerWriter, Loader
from etl.ingestion.transform.fastpath import FastPath
from etl.ingestion.transform.paths import CheckedPath, Comparing, Paths, fast
from etl.ingestion.transform.projection import Projection
from etl.ingestion.values import Batch, Entry, Failure, Fault
from etl.quick_dataclasses import dataclass
from etl.settings import Decoder, Mode, RetrySettings, Url

if TYPE_CHECKING:
    pass

log = structlog.get_logger(__name__)


@dataclass(frozen=True, kw_only=True)
class RunContext:
    """The settings that all pieces of one run share; a plain value that other processes can get.

    `compares`: the run leaves unchanged records as they are, batch after batch in one process; these may have unknown
    members if it `may_have_unknown`.
    """

    database: Database
    dataset: Dataset
    run: runs.Run
    source: str
    mode: Mode
    failed_dir: Path | Url
    decoder: Decoder
    retries: RetrySettings
    compares: bool = False
    may_have_unknown: bool = False

    def copier(self) -> Copier:
        """Return a copier that writes the rows of the run into their tables."""
        return copier_of_run(
            self.dataset,
            self.mode,
            self.run.run,
            self.run.number,
            is_atomic=self.run.is_atomic,
            compares=self.compares,
        )


def worker(
    context: RunContext,
    wire: Wire,
    store: FailedStore,
    copier: Copier,
    ledger_writer: LedgerWriter,
    retrying: Retrying,
) -> tuple[Paths, Loader]:
    """Return the paths that make the batches of a run, and the loader of these batches."""
    projection = Projection(context.dataset)
    comparing = None
    if context.compares:
        comparing = Comparing(is_examining=context.may_have_unknown and projection.warns_of_unknown)
    paths = paths_of(wire.session, projection, context.run.number, context.decoder, comparing)
    loader = Loader(
        database=context.database,
        wire=wire,
        store=store,
        copier=copier,
        projection=projection,
        ledger_writer=ledger_writer,
        retrying=retrying,
        rebuild=paths.again,
        is_all_or_nothing=context.run.is_atomic,
    )
    return paths, loader


def paths_of(
    session: Session,
    projection: Projection,
    run_number: int,
    decoder: Decoder,
    comparing: Comparing | None = None,
) -> Paths:
    """Return the paths for a run with a number; the tables in the database decide whether the fast path is possible."""
    dataset = projection.dataset
    checked = CheckedPath(projection, run_number)
    if decoder == "ijson":
        return Paths(None, None, checked)
    seen = fast(dataset)
    reason, guarded = (seen, frozenset()) if isinstance(seen, str) else _compared(session, dataset)
    if isinstance(seen, str) or reason:
        log.info("checked_path_only", dataset=dataset.name, reason=reason)
        return Paths(None, None, checked)
    strict = FastPath(seen, projection, run_number)
    fastest = FastPath(seen, projection, run_number, guarded) if guarded else strict
    return Paths(fastest, strict, checked, None if _has_other_keys(dataset) else comparing)


def _has_other_keys(dataset: Dataset) -> bool:
    """Return whether the keys of records that delete may be elsewhere in a record.

    A batch is then compared when its rows are sent, and not before they are made.
    """
    _, deletions = dataset.deletions or (0, None)
    return deletions is not None and any(column.other_path for column in deletions.columns)


def _compared(session: Session, dataset: Dataset) -> tuple[str | None, frozenset[tuple[str, str]]]:
    """Return the first column with another type than the definition's, and the columns that the tables check.

    The second run over the session compares again, each later one when the tables have changed since a run before: the
    only source of a command does not ask for their version.
    """
    connection = session.connection()
    key = "compared", dataset.hash
    known = session.remembered.get(key)
    version = None if known is None else version_of(connection, dataset)
    if known is None or known[0] is None or known[0] != version:
        reason = other_types(connection, dataset)
        known = version, reason, frozenset() if reason else guarded_columns(connection, dataset)
        session.remembered[key] = known
    return known[1], known[2]


@dataclass(frozen=True, kw_only=True)
class RunLedgerWriter:
    """Claims and enters the batches of a run."""

    run: runs.Run
    dataset: str
    source: str
    document: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, context: RunContext) -> Self:
        """Return the ledger writer of a run."""
        dataset = context.dataset
        return cls(run=context.run, dataset=dataset.name, source=context.source, document=dict(dataset.document))

    def claim(self, connection: psycopg.Connection, batch: Batch) -> bool:
        """Claim the batch for its run."""
        return batches.claim(connection, self.run, batch.piece)

    def enter(self, connection: psycopg.Connection, batch: Batch, entry: Entry, stored: Sequence[Failure]) -> None:
        """Enter the outcome of the batch, and the marks of its records."""
        marks.add(connection, self.dataset, self.run.number, batch.piece.marks)
        batches.enter(connection, self.run, batch.piece, entry, stored)

    def require_failable(self, connection: psycopg.Connection, batch: Batch, fault: Fault) -> None:
        """Raise DatabaseError when too many batches fail one after the other.

        The batch is not entered then: the same command begins with it. The ledger counts over all attempts and
        processes, so that a fault that stays does not move the source into the failed store, a few batches each time.
        """
        refused = f"the batch at byte {batch.piece.offset} could not load: {fault.reason}, SQLSTATE {fault.sqlstate}"
        if batches.are_failing(connection, self.run, batch.piece, MAX_FAILED_IN_A_ROW - 1):
            raise DatabaseError(
                f"{refused}; {MAX_FAILED_IN_A_ROW} batches in a row did not load",
                hint="the server's log has the statement; run the same command to continue with this batch,"
                f" and etl failed replay --run {self.run.run} for those before it",
            )

    def entered(self, connection: psycopg.Connection, batch: Batch) -> Entry | None:
        """Return the result of the batch if this attempt entered it with the same bytes: a repeated task."""
        return batches.entered(connection, self.run, batch.piece)

    def origin(self, batch: Batch) -> Origin:
        """Return the run and the batch of a failure."""
        return Origin(
            id_prefix=f"{self.run.run}-{batch.piece.offset}-",
            run=self.run.run,
            dataset=self.dataset,
            source=self.source,
            batch=batch.piece.offset,
            document=self.document,
        )

    def locate(self, batch: Batch, places: Collection[int]) -> Mapping[int, RecordLocation]:
        """Return the places of records in the source, and their text."""
        return locate(batch.piece, places, batch.spans)
