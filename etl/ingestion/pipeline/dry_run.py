"""A dry run: a load whose ledger and failed store keep nothing.

The line is that of a load: the same paths and the same server judge every record. The rows go into temporary tables
with the columns and checks of the facts, which are emptied at the end of each batch. The keys of a source are compared
where a policy asks for duplicates; keys of other sources, foreign keys and triggers belong to the facts alone and are
not judged. No lock is taken.
"""

import re
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import field, replace
from typing import Any, Final

import psycopg

from etl.database.narrowing import narrower_columns
from etl.errors import EtlError
from etl.ingestion.destination.copying import copier_of_dry_run
from etl.ingestion.destination.publication import Published
from etl.ingestion.destination.replacing import count_rows
from etl.ingestion.failed_store.failure import Kind, Origin
from etl.ingestion.failed_store.locating import RecordLocation, locate
from etl.ingestion.failed_store.store import FailedStore
from etl.ingestion.fingerprints import Mark
from etl.ingestion.ledger import runs
from etl.ingestion.pipeline import outcome
from etl.ingestion.pipeline.assembly import RunContext
from etl.ingestion.pipeline.attempts import Attempt, OpenRun, Recorder
from etl.ingestion.pipeline.effects import EffectsSum
from etl.ingestion.recognition.comparison import Recognition
from etl.ingestion.sources.stream import Stream
from etl.ingestion.summary import Balance, Reason, Summary
from etl.ingestion.values import Batch, Entry, Failure, Fault, Source, StoredRecord
from etl.quick_dataclasses import dataclass

_RUN: Final = runs.Run(run="dry-run", number=0, attempt=0, mode="append", is_atomic=False, was_finished=False)
_NUMBER = re.compile(r"\d+")


def recorder() -> Recorder:
    """Return a recorder that keeps nothing."""
    dry_run = _DryRun()
    return Recorder(
        application_name="etl:dry-run",
        failed_store=_NoStore,
        begin=lambda _attempts: None,
        recognition=lambda _attempt: None,
        must_read_on=lambda _attempt, _recognition, _records: False,
        open=dry_run.open,
        prepare=_prepare,
        publish=_judge,
        report=dry_run.report,
    )


class _DryRun:
    """The reasons for which the records of each dataset would be refused."""

    def __init__(self) -> None:
        self._writers: dict[str, _DryRunLedgerWriter] = {}

    def open(
        self,
        stream: Stream,
        attempt: Attempt,
        _recognition: Recognition | None,
        _read: Sequence[Mark],
        _is_at_end: bool,
    ) -> OpenRun:
        """Begin with nothing loaded, in a run that is not in the ledger."""
        settings = attempt.load.settings
        dataset = attempt.dataset_of(stream)
        writer = self._writers[dataset.name] = _DryRunLedgerWriter()
        context = RunContext(
            database=attempt.load.database,
            dataset=dataset,
            run=replace(_RUN, is_atomic=attempt.target.is_atomic),
            source=stream.source.name,
            mode=_RUN.mode,
            failed_dir=settings.failed_dir,
            decoder=settings.decoder,
            retries=settings.retries,
        )
        return OpenRun(
            attempt=attempt,
            ledger_writer=writer,
            stream=stream,
            context=context,
            copier=copier_of_dry_run(dataset),
        )

    def report(self, source: Source, attempt: Attempt, seconds: float) -> tuple[Summary, EtlError | None]:
        """Return the summary of what was judged, with the reasons of the refusals, and the error that ended it."""
        progress, dataset = attempt.progress, attempt.target.dataset
        writer = self._writers.get(dataset.name, _DryRunLedgerWriter())
        policies = writer.effects.sum
        refused = progress.rejected + progress.failed
        status, exit_code = outcome.end_of(progress.error, is_cut=progress.is_cut, refused=refused)
        status = status if progress.error else "checked"
        narrowed = _narrowed(attempt) if progress.read else {}
        outcome.log_changes(source, policies, narrowed)
        balance = Balance(
            read=progress.read,
            loaded=0,
            rejected=progress.rejected,
            failed=progress.failed,
            skipped=0,
            withheld=progress.read - refused,
            pending=0,
        )
        return Summary(
            run=None,
            dataset=dataset.name,
            source=source.name,
            database=attempt.load.database.name,
            status=status,
            exit_code=exit_code,
            dry_run=True,
            records=balance,
            rows=dict.fromkeys((table.name for table in dataset.tables), 0),
            batches={"loaded": 0, "failed": 0, "retried": progress.retried},
            bytes_read=progress.bytes_read,
            seconds=seconds,
            failed_store=None,
            reasons=tuple(sorted(writer.reasons.values(), key=lambda reason: -reason.count)),
            policies=policies,
            narrowed=narrowed,
            error=outcome.reason_of_end(progress.error, None),
        ), progress.error


def _narrowed(attempt: Attempt) -> Mapping[str, str]:
    """Return the columns that would change values; none where the database is away."""
    try:
        return narrower_columns(attempt.session.connection(), attempt.target.dataset)
    except psycopg.OperationalError:
        return {}


def _prepare(run: OpenRun, _store: FailedStore) -> None:
    """Make the temporary tables, and make them again on a connection that replaces a lost one."""
    run.copier.prepare(run.attempt.session.connection())
    run.attempt.session.when_reopened(run.copier.prepare)


def _judge(_stream: Stream, group: Sequence[OpenRun]) -> None:
    """Judge the records of the source as a load does before it finishes.

    Raises TooManyRejectedError.
    """
    for run in group:
        progress = run.attempt.progress
        run.attempt.require_records()
        run.attempt.judge_publication(entered=progress.entered, loaded=progress.loaded, rejected=progress.rejected)
        run.attempt.judge_rejected(progress.rejected, progress.read, at_end=True)
        run.attempt.judge_deleted(_least_deleted(run))


def _least_deleted(run: OpenRun) -> Published:
    """Return how many rows a replace would delete at least: as many as the source has fewer records.

    Nothing is known where records are rejected, because their rows stay, or where the records belong to several tables.
    """
    attempt = run.attempt
    first, *others = attempt.target.dataset.record_tables
    if attempt.target.mode != "replace" or attempt.progress.rejected or others:
        return Published()
    rows = count_rows(attempt.session.connection(), first)
    return Published(rows_before=(rows,), rows_deleted=(max(0, rows - attempt.progress.loaded),))


class _NoStore(FailedStore):
    """A failed store that writes nothing."""

    def write(self, failure: Failure) -> Future[None]:  # noqa: ARG002 - as the store itself
        done: Future[None] = Future()
        done.set_result(None)
        return done


@dataclass(frozen=True, kw_only=True)
class _DryRunLedgerWriter:
    """Enters nothing, and collects the reasons of refusals; how many there are depends on the definition."""

    reasons: dict[tuple[Any, ...], Reason] = field(default_factory=dict)
    effects: EffectsSum = field(default_factory=EffectsSum)

    def claim(self, _connection: psycopg.Connection, _batch: Batch) -> bool:
        return True

    def enter(self, _connection: psycopg.Connection, _batch: Batch, entry: Entry, stored: Sequence[Failure]) -> None:
        self.effects.add(entry.policy_effects)
        for failure in stored:
            for record in failure.records:
                self._count(failure.kind, record)

    def _count(self, kind: Kind, record: StoredRecord) -> None:
        # "got 2500" and "element 3 of items" are of one kind whatever the number.
        place = (kind, record.sqlstate, record.table, record.column, _NUMBER.sub("", record.reason))
        known = self.reasons.get(place)
        self.reasons[place] = (
            replace(known, count=known.count + 1)
            if known
            else Reason(
                kind=kind,
                sqlstate=record.sqlstate,
                table=record.table,
                column=record.column,
                reason=record.reason,
                count=1,
                first_record=record.record,
                first_offset=record.offset,
            )
        )

    def require_failable(self, connection: psycopg.Connection, batch: Batch, fault: Fault) -> None:
        """Let every batch fail: a dry run judges the whole source."""

    def entered(self, _connection: psycopg.Connection, _batch: Batch) -> Entry | None:
        return None

    def origin(self, batch: Batch) -> Origin:
        return Origin(id_prefix="", run="dry-run", dataset="", source="", batch=batch.piece.offset)

    def locate(self, batch: Batch, places: Collection[int]) -> Mapping[int, RecordLocation]:
        return locate(batch.piece, places, batch.spans)
