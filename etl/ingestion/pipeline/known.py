"""Small files of one command that are loaded already, looked up together.

Only a file that needs no decision is settled here: it has exactly the records of one run, which is complete and was
loaded by the same definition. Every other file is left to the caller.
"""

from collections.abc import Callable, Mapping

import psycopg
import structlog

from etl.errors import EtlError, ExitCode
from etl.ingestion.ledger import runs
from etl.ingestion.pipeline.job import Load
from etl.ingestion.pipeline.small_files import SmallFile
from etl.ingestion.pipeline.targets import Target
from etl.ingestion.recognition.comparison import Recognition
from etl.ingestion.summary import Balance, Summary
from etl.ingestion.values import Source, printable_path

log = structlog.get_logger(__name__)


def run_of(recognition: Recognition) -> int | None:
    """Return the one run that has the records of a source, and no others."""
    decided = recognition.decide()
    if decided.kind != "within" or len(decided.within) != 1 or not recognition.records:
        return None
    [run] = decided.within
    return run if recognition.end_of(run) == recognition.records else None


def is_complete(run: runs.CompleteRun, file: SmallFile, target: Target) -> bool:
    """Return whether a complete run has the records of a file, by the present definition."""
    return (
        (file.trusted is not None or run.records == file.pieces[-1].last_record)
        and target.is_defined_by(run.definition_hash, file.source.encoding)
        and file.is_as_read
    )


class Known:
    """The sources that were settled: the end of each, and their sums, which are entered together at the end."""

    def __init__(self, load: Load, target: Target) -> None:
        self._load = load
        self._target = target
        self._first: Source | None = None
        self._sums = runs.KnownSums(sources=0, records=0, bytes_read=0)
        self._pending = 0
        # Thousands of summaries share them.
        self._rows: Mapping[str, int] = dict.fromkeys((table.name for table in target.dataset.tables), 0)
        self._batches: Mapping[str, int] = {"loaded": 0, "failed": 0, "retried": 0}

    def settle(self, file: SmallFile, run: runs.CompleteRun) -> Summary:
        """Return the end of a file that a complete run has loaded."""
        self._first = self._first or file.source
        self._sums = runs.KnownSums(
            sources=self._sums.sources + 1,
            records=self._sums.records + run.records,
            bytes_read=self._sums.bytes_read + (0 if file.trusted else file.size or file.bytes_read),
        )
        self._pending += run.pending
        load, count = self._load, run.records
        return Summary(
            run=run.run,
            dataset=self._target.dataset.name,
            source=file.source.name,
            database=load.database.name,
            status="already_loaded",
            exit_code=ExitCode.FINDINGS if run.pending else ExitCode.SUCCESS,
            records=Balance(read=count, loaded=0, rejected=0, failed=0, skipped=count, withheld=0, pending=run.pending),
            rows=self._rows,
            batches=self._batches,
            bytes_read=file.bytes_read,
            seconds=0.0,
            failed_store=printable_path(load.settings.failed_dir) if run.pending else None,
        )

    def enter(self, connected: Callable[[], psycopg.Connection], seconds: float) -> None:
        """Enter the settled sources as one row of the ledger, and log them as one event, if there are some.

        `connected` gives the connection over which they were looked up, or a new one.
        """
        if self._first is None:
            return
        load, target = self._load, self._target
        log.info(
            "sources_known",
            dataset=target.dataset.name,
            **vars(self._sums),
            pending=self._pending,
            seconds=round(seconds, 3),
        )
        try:
            runs.enter_known(connected(), target.dataset.name, self._sums, load.request(self._first, target))
        except (EtlError, psycopg.Error) as error:  # Each of them is loaded, whatever the ledger says of this command.
            log.warning("sources_known_not_entered", dataset=target.dataset.name, reason=type(error).__name__)
