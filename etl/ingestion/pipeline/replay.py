"""Loading from the failed store again: the same batch, the same ledger, the records as they are in the store now."""

import codecs
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import psycopg
from msgspec.structs import replace
from psycopg import sql

from etl.database.connecting import Database, Session
from etl.datasets import Dataset
from etl.errors import UsageError
from etl.ingestion.destination import refusals
from etl.ingestion.destination.copying import Copier
from etl.ingestion.destination.sending import Wire
from etl.ingestion.failed_store.failure import Origin
from etl.ingestion.failed_store.locating import RecordLocation
from etl.ingestion.failed_store.store import FailedStore
from etl.ingestion.framing import decoding
from etl.ingestion.framing.boundaries import piece_spans
from etl.ingestion.ledger import batches, failures, locks, runs
from etl.ingestion.pipeline.batches import Loader
from etl.ingestion.transform.projection import Projection
from etl.ingestion.values import Batch, Entry, Failure, Piece, Span
from etl.settings import Mode, RetrySettings


@dataclass(frozen=True, kw_only=True)
class ReplayResult:
    """What a replay made of one failure: records loaded, and what is refused again under a new id."""

    id: str
    dataset: str
    run: str
    loaded: int
    rejected: int
    failed: int
    stored: tuple[str, ...]


def replay(
    failure: Mapping[str, Any], dataset: Dataset, database: Database, store: FailedStore, settings: RetrySettings
) -> ReplayResult | None:
    """Load the records of a failure as its file holds them now; None when it waits no more.

    Raises UsageError when its file is gone or has other lines than records, BusyError when a load holds the source,
    DatabaseError when the database or the disk is away.
    """
    with Session(database, "etl:replay") as session:
        connection = session.connection()
        run = runs.for_replay(connection, failure["run"])
        if not run["is_visible"]:
            raise UsageError(
                f"{failure['id']} belongs to an atomic run that is not finished",
                hint=f"load {run['source']} again first",
            )
        mode = _mode(run["mode"], dataset)
        locks.acquire(connection, dataset.name, run["head_sha256"], mode)
        session.when_reopened(partial(_hold_again, dataset=dataset.name, head_sha256=run["head_sha256"], mode=mode))
        if not _waits(connection, failure["id"]):
            return None
        store.sweep_replay(failure["dataset"], failure["run"], failure["id"])
        first_record = batches.first_record(connection, failure["run"], failure["batch"])
        projection = Projection(dataset.of_source(run["source"]))
        batch, located = _batch(failure, store, projection, run["number"], first_record)
        ledger_writer = _ReplayLedgerWriter(failure=failure, located=located, stored=[])
        loader = Loader(
            database=database,
            wire=Wire(session),
            store=store,
            copier=Copier(replace(dataset, on_duplicate=run["on_duplicate"]), mode, staged_as=None),
            projection=projection,
            ledger_writer=ledger_writer,
            retrying=refusals.policy(settings, lambda: None),
        )
        entry = loader.load(batch)
        # The server notices late that a connection is closed, and the next failure may be of the same source.
        session.connection().execute(sql.SQL("select pg_advisory_unlock_all()"))
    store.note_state(failure["dataset"], failure["run"], failure["id"], "replayed", None)
    return ReplayResult(
        id=failure["id"],
        dataset=failure["dataset"],
        run=failure["run"],
        loaded=entry.loaded,
        rejected=entry.rejected,
        failed=entry.failed,
        stored=tuple(ledger_writer.stored),
    )


def _hold_again(connection: psycopg.Connection, *, dataset: str, head_sha256: str, mode: Mode) -> None:
    locks.reacquire(connection, dataset, head_sha256, mode)


def _waits(connection: psycopg.Connection, id: str) -> bool:
    """Tell whether a failure still waits; the lock of its source is held, so nobody changes that but us."""
    return any(row["state"] == "pending" for row in failures.find(connection, id=id))


def _mode(mode: Mode, dataset: Dataset) -> Mode:
    """Return how the records of a run come in afterwards: those of a replace are merged where there is a key."""
    if mode != "replace":
        return mode
    return "merge" if dataset.key else "append"


def require_whole(failure: Mapping[str, Any], store: FailedStore) -> None:
    """Raise UsageError when the file of a failure is gone or holds other than its records, one per line."""
    _piece(failure, store, first_record=1)


def _piece(
    failure: Mapping[str, Any], store: FailedStore, first_record: int
) -> tuple[Piece, list[tuple[Mapping[str, Any], Span]]]:
    """Return the records of a failure as a piece, and what is told of each with where it stands there."""
    where = (failure["dataset"], failure["run"], failure["id"])
    details = store.details(*where)
    told = details["records"]
    piece = Piece(
        offset=failure["batch"],
        count=len(told),
        first_record=first_record,
        parts=(store.content(*where).removeprefix(codecs.BOM_UTF8),),  # which some editors add
        shape="keyed" if details.get("keyed") else "lines",
    )
    spans = list(piece_spans(piece))
    if len(spans) != len(told):
        raise UsageError(
            f"expected {len(told)} records in {store.path(*where)}, one per line, got {len(spans)}",
            hint=f"to give records up: etl failed discard {failure['id']} --reason WHY",
        )
    return piece, list(zip(told, spans, strict=True))


def _batch(
    failure: Mapping[str, Any], store: FailedStore, projection: Projection, run_number: int, first_record: int
) -> tuple[Batch, dict[int, RecordLocation]]:
    piece, records_told = _piece(failure, store, first_record)
    located = {
        each["record"] - first_record + 1: RecordLocation(
            each["record"], each["offset"], piece.text(span), piece.is_keyed
        )
        for each, span in records_told
    }
    return projection.batch(piece, decoding.decode(piece), run_number, list(located)), located


@dataclass(frozen=True, kw_only=True)
class _ReplayLedgerWriter:
    """Claims a failure instead of a batch, and moves the counts of its batch. `stored` gathers the new ids."""

    failure: Mapping[str, Any]
    located: Mapping[int, RecordLocation]
    stored: list[str]

    def claim(self, connection: psycopg.Connection, _batch: Batch) -> bool:
        return failures.claim_replay(connection, self.failure["id"])

    def enter(self, connection: psycopg.Connection, _batch: Batch, entry: Entry, stored: Iterable[Failure]) -> None:
        stored = list(stored)
        failures.enter_replay(connection, self.failure, entry, stored)
        self.stored[:] = [failure.id for failure in stored]

    def origin(self, _batch: Batch) -> Origin:
        return Origin(
            id_prefix=self.failure["id"],
            run=self.failure["run"],
            dataset=self.failure["dataset"],
            source=self.failure["source"],
            batch=self.failure["batch"],
            attempts=self.failure["attempts"] + 1,
            parent=self.failure["id"],
        )

    def locate(self, _batch: Batch, _places: Collection[int]) -> Mapping[int, RecordLocation]:
        return self.located
