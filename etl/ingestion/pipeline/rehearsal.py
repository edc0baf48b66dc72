"""A load that leaves nothing behind: the same paths and the same server judge every record, and no row is kept.

The rows go into temporary tables with the columns and checks of the facts, which are emptied at the end of each batch.
The keys of a source are compared where a policy asks for duplicates; keys of other sources, foreign keys and triggers
stand on the facts alone and are not judged. No ledger, no failed store, no lock.
"""

import re
import time
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from concurrent.futures import Future
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from typing import Any

import psycopg

from etl.database.connecting import Session
from etl.datasets import Dataset
from etl.errors import EtlError, TooManyRejectedError, UsageError
from etl.ingestion.destination import refusals
from etl.ingestion.destination.copying import copier_of_dry_run
from etl.ingestion.destination.sending import Wire
from etl.ingestion.failed_store.failure import Origin
from etl.ingestion.failed_store.locating import RecordLocation, locate
from etl.ingestion.failed_store.store import FailedStore
from etl.ingestion.framing.limit import Limited
from etl.ingestion.framing.pieces import NoRecordsError, cutting
from etl.ingestion.ledger import runs
from etl.ingestion.pipeline import outcome
from etl.ingestion.pipeline.assembly import Work, paths_of
from etl.ingestion.pipeline.batches import Loader
from etl.ingestion.pipeline.job import Job, Progress
from etl.ingestion.sources.stream import Stream, opened
from etl.ingestion.transform.paths import Paths
from etl.ingestion.transform.projection import Projection
from etl.ingestion.values import Balance, Batch, Entry, Failure, Piece, PolicyEffects, Reason, Source, Summary

_NUMBER = re.compile(r"\d+")
_NAMES_TOLD = 100


def rehearse(source: Source, jobs: Sequence[Job]) -> list[tuple[Summary, EtlError | None]]:
    """Read a source to its end and judge every record; return how a load would end for each job, and why early.

    Raises UsageError when nothing could begin.
    """
    started = time.monotonic()
    shared = jobs[0]
    judged = [_Judged(job=job) for job in jobs]
    error: EtlError | None = None
    try:
        with ExitStack() as stack:
            sessions = [stack.enter_context(Session(job.database, "etl:dry-run")) for job in jobs]
            with shared.stop.reading():
                stream = stack.enter_context(opened(source, shared.settings.retries))
            stack.enter_context(shared.watch.watching(stream, [each.progress for each in judged]))
            _judge_all(stream, sessions, judged)
    except UsageError:
        raise
    except EtlError as ended:
        error = ended
    except psycopg.Error as ended:
        error = refusals.as_etl_error(ended, shared.database)
    except KeyboardInterrupt:
        error = shared.stop.at_once()
    return [_summary(source, each, each.progress.error or error, time.monotonic() - started) for each in judged]


def _judge_all(stream: Stream, sessions: Sequence[Session], judged: Sequence["_Judged"]) -> None:
    """Judge the records of each dataset; what one of them lacks at the end is noted with it."""
    shared = judged[0].job
    hands = [_hands(stream, session, each) for session, each in zip(sessions, judged, strict=True)]
    hows = [replace(each.job.how({}), prover=paths) for each, (paths, _) in zip(judged, hands, strict=True)]
    limited = Limited(shared.settings.limit, [() for _ in judged])
    found = limited.of(cutting(stream, *hows))
    try:
        while True:
            with shared.stop.reading():  # The wait for the source ends with a signal, the batch in hand is judged.
                piece = next((each for each in found if each is not None), None)
            if piece is None:
                break
            paths, loader = hands[piece.which]
            for batch in paths.batching(piece):
                if batch is not None:
                    judged[piece.which].note(piece, loader.load(batch))
    except NoRecordsError as none:
        for which, fault in none.faults.items():
            judged[which].progress.error = fault
    for which, each in enumerate(judged):
        each.progress.is_cut = which in limited.cut
        each.end()
    # Atomic runs of one source become visible together or not at all.
    together = [each.progress for each in judged if each.job.is_atomic]
    error = next((progress.error for progress in together if progress.error), None)
    for progress in together:
        progress.error = progress.error or error


def _hands(stream: Stream, session: Session, judged: "_Judged") -> tuple[Paths, Loader]:
    """Return the paths that make the batches of a dataset, and what lets the server judge them."""
    job = judged.job
    dataset = job.policed.of_source(stream.source.name)
    copier = copier_of_dry_run(dataset)
    copier.prepare(session.connection())
    session.when_reopened(copier.prepare)
    paths = paths_of(session.connection(), Projection(dataset), _work(stream, dataset, job))
    return paths, Loader(
        database=job.database,
        wire=Wire(session),
        store=_NoStore(job.settings.failed_dir),
        copier=copier,
        projection=Projection(dataset),
        ledger_writer=judged.ledger_writer,
        retries=job.settings.retries,
        before_retry=judged.progress.note_retry,
        wait=job.stop.wait,
        rebuild=paths.again,
    )


def _summary(
    source: Source, judged: "_Judged", error: EtlError | None, seconds: float
) -> tuple[Summary, EtlError | None]:
    job, progress = judged.job, judged.progress
    counts = Balance(
        read=progress.read,
        loaded=0,
        rejected=progress.rejected,
        failed=progress.failed,
        skipped=0,
        withheld=progress.read - progress.rejected - progress.failed,
        pending=0,
    )
    refused = progress.rejected + progress.failed
    status, exit_code = outcome.end_of(error, is_cut=progress.is_cut, refused=refused)
    return Summary(
        run=None,
        dataset=job.dataset.name,
        source=source.name,
        database=job.database.name,
        status=status,
        exit_code=exit_code,
        dry_run=True,
        records=counts,
        rows=dict.fromkeys((table.name for table in job.dataset.tables), 0),
        batches={"loaded": 0, "failed": 0, "retried": progress.retried},
        bytes_read=progress.bytes_read,
        seconds=seconds,
        failed_store=None,
        reasons=tuple(sorted(judged.ledger_writer.reasons.values(), key=lambda each: -each.count)),
        policies=judged.ledger_writer.policies,
    ), error


def _work(stream: Stream, dataset: Dataset, job: Job) -> Work:
    """Return what the paths have to know; the run is none of the ledger's."""
    run = runs.Run(run="dry-run", number=0, attempt=0, mode="append", is_atomic=False, was_finished=False)
    return Work(
        database=job.database,
        dataset=dataset,
        run=run,
        source=stream.source.name,
        head_sha256="",
        mode="append",
        failed_dir=job.settings.failed_dir,
        decoder=job.settings.decoder,
        retries=job.settings.retries,
    )


class _NoStore(FailedStore):
    """A failed store that writes nothing."""

    def write(self, failure: Failure) -> Future[None]:  # noqa: ARG002 - as the store itself
        done: Future[None] = Future()
        done.set_result(None)
        return done


@dataclass(frozen=True, kw_only=True)
class _DryRunLedgerWriter:
    """Enters nothing, and gathers why records are refused; how many reasons there are depends on the definition."""

    reasons: dict[tuple[Any, ...], Reason] = field(default_factory=dict)
    counts: Counter[str] = field(default_factory=Counter)
    unknown: set[str] = field(default_factory=set)

    @property
    def policies(self) -> PolicyEffects:
        """What policies would do with the records."""
        return PolicyEffects(unknown=tuple(sorted(self.unknown)[:_NAMES_TOLD]), **self.counts)

    def claim(self, _connection: psycopg.Connection, _batch: Batch) -> bool:
        return True

    def enter(self, _connection: psycopg.Connection, _batch: Batch, entry: Entry, stored: Iterable[Failure]) -> None:
        self.counts.update(nul_stripped=entry.policy_effects.nul_stripped, duplicates=entry.policy_effects.duplicates)
        self.unknown.update(entry.policy_effects.unknown)
        for failure in stored:
            for told in failure.records:
                # "got 2500" and "element 3 of items" are of one kind whatever the number.
                where = (failure.kind, told["sqlstate"], told["table"], told["column"], _NUMBER.sub("", told["reason"]))
                known = self.reasons.get(where)
                self.reasons[where] = (
                    replace(known, count=known.count + 1)
                    if known
                    else Reason(
                        kind=failure.kind,
                        sqlstate=told["sqlstate"],
                        table=told["table"],
                        column=told["column"],
                        reason=told["reason"],
                        count=1,
                        first_record=told["record"],
                        first_offset=told["offset"],
                    )
                )

    def origin(self, batch: Batch) -> Origin:
        return Origin(id_prefix="", run="dry-run", dataset="", source="", batch=batch.piece.offset)

    def locate(self, batch: Batch, places: Collection[int]) -> Mapping[int, RecordLocation]:
        return locate(batch.piece, places, batch.spans)


@dataclass(frozen=True, kw_only=True)
class _Judged:
    """What was found of the records of one dataset."""

    job: Job
    progress: Progress = field(default_factory=Progress)
    ledger_writer: _DryRunLedgerWriter = field(default_factory=_DryRunLedgerWriter)

    def note(self, piece: Piece, entry: Entry) -> None:
        """Note what became of a piece.

        Raises TooManyRejectedError when more would be rejected by now than the settings allow.
        """
        progress = self.progress
        progress.read += piece.count
        progress.entered += piece.count
        progress.rejected += entry.rejected
        progress.failed += entry.failed
        progress.bytes_read = piece.end
        self.job.watch.moved()
        self._require_few(at_end=False)

    def end(self) -> None:
        """Note what would end the dataset although all of the source was judged."""
        try:
            self._require_few(at_end=True)
            if self.job.mode == "replace" and not self.progress.read and not self.job.settings.allow_empty:
                raise TooManyRejectedError(
                    f"the source holds no record, and replace would leave the dataset {self.job.dataset.name} empty",
                    hint="--allow-empty does it all the same",
                )
        except TooManyRejectedError as error:
            self.progress.error = self.progress.error or error

    def _require_few(self, *, at_end: bool) -> None:
        limit, progress = self.job.settings.max_rejected, self.progress
        if limit.is_exceeded(progress.rejected, progress.read, at_end=at_end):
            raise TooManyRejectedError(
                f"{self.job.dataset.name}: {progress.rejected:,} of {progress.read:,} records would be rejected,"
                f" --max-rejected allows {limit}",
                hint="a higher --max-rejected goes on",
            )
