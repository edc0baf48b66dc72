"""A load that leaves nothing behind: the same lanes and the same server judge every record, and no row is kept.

The rows go into temporary tables with the columns and checks of the facts, which are emptied at the end of each batch.
Keys across batches, foreign keys and triggers stand on the facts alone and are not judged. No ledger, no failed
store, no lock.
"""

import re
import time
from collections.abc import Collection, Iterable, Mapping
from concurrent.futures import Future
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from typing import Any

import psycopg

from etl.database import Session
from etl.datasets import Dataset
from etl.errors import EtlError, TooManyRejectedError, UsageError
from etl.ingestion import failures, ledger, outcome
from etl.ingestion.copying import Copier
from etl.ingestion.failures import FailedStore, Located, Origin
from etl.ingestion.job import Job, Progress
from etl.ingestion.limit import Limited
from etl.ingestion.loading import Loader
from etl.ingestion.pieces import Cut, cutting
from etl.ingestion.projection import Projection
from etl.ingestion.source import Stream, opened
from etl.ingestion.values import Balance, Batch, Entry, Failure, Reason, Source, Summary
from etl.ingestion.workers import Work, lanes_of

_NUMBER = re.compile(r"\d+")


def rehearse(source: Source, job: Job) -> tuple[Summary, EtlError | None]:
    """Read a source to its end and judge every record; return how a load of all of it would end, and why early.

    Raises UsageError when nothing could begin.
    """
    started = time.monotonic()
    progress = Progress()
    books = _NoBooks()
    error: EtlError | None = None
    try:
        with ExitStack() as stack:
            session = stack.enter_context(Session(job.database, "etl:dry-run"))
            with job.stop.reading():
                stream = stack.enter_context(opened(source, job.settings.retries))
            stack.enter_context(job.watch.watching(stream, progress))
            _judge_all(stream, session, job, progress, books)
    except UsageError:
        raise
    except EtlError as ended:
        error = ended
    except psycopg.Error as ended:
        error = outcome.lost(ended, job.database)
    except KeyboardInterrupt:
        error = job.stop.at_once()
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
        seconds=time.monotonic() - started,
        failed_store=None,
        reasons=tuple(sorted(books.reasons.values(), key=lambda each: -each.count)),
    ), error


def _judge_all(stream: Stream, session: Session, job: Job, progress: Progress, books: "_NoBooks") -> None:
    dataset = job.policed.of_source(stream.source.name)
    copier = Copier(dataset, "append", staged_as=None, is_rehearsal=True)
    copier.prepare(session.connection())
    session.when_reopened(copier.prepare)
    lanes = lanes_of(session.connection(), Projection(dataset), _work(stream, dataset, job))
    loader = Loader(
        database=job.database,
        session=session,
        store=_NoStore(job.settings.failed_dir),
        copier=copier,
        projection=Projection(dataset),
        books=books,
        retries=job.settings.retries,
        before_retry=progress.note_retry,
        wait=job.stop.wait,
        again=lanes.again,
    )
    how = Cut(
        format=job.settings.format,
        records=job.records_path,
        batch_rows=min(job.settings.batch_rows, job.settings.limit or job.settings.batch_rows),
        known={},
        max_record_bytes=job.settings.max_record_bytes,
        prove=lanes.prove,
    )
    limited = Limited(job.settings.limit, ())
    found = limited.of(cutting(stream, how))
    while True:
        with job.stop.reading():  # The wait for the source ends with a signal, the batch in hand is judged.
            piece = next((each for each in found if each is not None), None)
        if piece is None:
            break
        for batch in lanes.batching(piece):
            if batch is not None:
                entry = loader.load(batch)
                progress.read += piece.count
                progress.entered += piece.count
                progress.rejected += entry.rejected
                progress.failed += entry.failed
                progress.bytes_read = piece.end
                job.watch.moved()
                _require_few(progress, job, at_end=False)
    progress.is_cut = limited.is_cut
    _require_few(progress, job, at_end=True)
    if job.mode == "replace" and not progress.read and not job.settings.allow_empty:
        raise TooManyRejectedError(
            "the source holds no record, and replace would leave the dataset empty",
            hint="--allow-empty does it all the same",
        )


def _require_few(progress: Progress, job: Job, *, at_end: bool) -> None:
    limit = job.settings.max_rejected
    if limit.is_exceeded(progress.rejected, progress.read, at_end=at_end):
        raise TooManyRejectedError(
            f"{progress.rejected:,} of {progress.read:,} records would be rejected, --max-rejected allows {limit}",
            hint="a higher --max-rejected goes on",
        )


def _work(stream: Stream, dataset: Dataset, job: Job) -> Work:
    """Return what the lanes have to know; the run is none of the ledger's."""
    run = ledger.Run(run="dry-run", number=0, attempt=0, mode="append", is_atomic=False, was_finished=False)
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
class _NoBooks:
    """Enters nothing, and gathers why records are refused; how many reasons there are depends on the definition."""

    reasons: dict[tuple[Any, ...], Reason] = field(default_factory=dict)

    def claim(self, _connection: psycopg.Connection, _batch: Batch) -> bool:
        return True

    def enter(self, _connection: psycopg.Connection, _batch: Batch, _entry: Entry, stored: Iterable[Failure]) -> None:
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

    def locate(self, batch: Batch, places: Collection[int]) -> Mapping[int, Located]:
        return failures.locate(batch.piece, places)
