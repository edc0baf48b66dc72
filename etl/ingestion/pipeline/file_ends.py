"""The ends of the small files of one command: a summary of each, and sums that are entered and logged at the end."""

from collections import Counter
from collections.abc import Callable, Mapping

import psycopg
import structlog

from etl.errors import EtlError, ExitCode
from etl.ingestion.ledger import runs
from etl.ingestion.ledger.run_groups import WholeSource
from etl.ingestion.pipeline import outcome
from etl.ingestion.pipeline.effects import EffectsSum
from etl.ingestion.pipeline.job import Load
from etl.ingestion.pipeline.small_files import SmallFile
from etl.ingestion.pipeline.targets import Target
from etl.ingestion.summary import Balance, Summary
from etl.ingestion.values import Entry, Source, printable_path

log = structlog.get_logger(__name__)

_NO_BATCH = {"loaded": 0, "failed": 0, "retried": 0}
_ONE_BATCH = {"loaded": 1, "failed": 0, "retried": 0}


class FileEnds:
    """The files that were loaded already, and those that were loaded by the groups of a command.

    `narrowed` are the columns of the tables that may change values, by table and name.
    """

    def __init__(self, load: Load, target: Target) -> None:
        self.narrowed: Mapping[str, str] = {}
        self._load = load
        self._target = target
        self._first_known: Source | None = None
        self._known = runs.KnownSums(sources=0, records=0, bytes_read=0)
        self._pending = 0
        self._loaded = Counter[str]()
        self._effects = EffectsSum()
        # Thousands of summaries share these: to read a name from a connection string takes as long as to read a file.
        self._database = load.database.name
        self._rows: dict[tuple[int, ...], dict[str, int]] = {}
        self._no_rows = tuple(0 for _ in target.dataset.tables)

    def known(self, file: SmallFile, run: runs.CompleteRun) -> Summary:
        """Return the end of a file that a complete run has loaded."""
        self._first_known = self._first_known or file.source
        self._known = runs.KnownSums(
            sources=self._known.sources + 1,
            records=self._known.records + run.records,
            bytes_read=self._known.bytes_read + (0 if file.trusted else file.size or file.bytes_read),
        )
        self._pending += run.pending
        count = run.records
        return Summary(
            run=run.run,
            dataset=self._target.dataset.name,
            source=file.source.name,
            database=self._database,
            status="already_loaded",
            exit_code=ExitCode.FINDINGS if run.pending else ExitCode.SUCCESS,
            records=Balance(read=count, loaded=0, rejected=0, failed=0, skipped=count, withheld=0, pending=run.pending),
            rows=self._by_table(self._no_rows),
            batches=_NO_BATCH,
            bytes_read=file.bytes_read,
            seconds=0.0,
            failed_store=printable_path(self._load.settings.failed_dir) if run.pending else None,
        )

    def loaded(self, run: str, source: WholeSource, entry: Entry, seconds: float) -> Summary:
        """Return the end of a file that was loaded as the run with this name."""
        self._loaded += Counter(sources=1, records=entry.loaded)
        self._effects.add(entry.policy_effects)
        count = source.piece.count
        return Summary(
            run=run,
            dataset=self._target.dataset.name,
            source=source.name,
            database=self._database,
            status="loaded",
            exit_code=ExitCode.SUCCESS,
            records=Balance(read=count, loaded=count, rejected=0, failed=0, skipped=0, withheld=0, pending=0),
            rows=self._by_table(entry.rows),
            batches=_ONE_BATCH,
            bytes_read=source.bytes_read,
            seconds=seconds,
            policies=entry.policy_effects,
            narrowed=self.narrowed,
            failed_store=None,
        )

    def sum_up(self, connected: Callable[[], psycopg.Connection], seconds: float) -> None:
        """Enter the files that were loaded already as one row of the ledger; log them as one event, the others as one.

        `connected` gives the connection over which the files were looked up, or a new one.
        """
        dataset = self._target.dataset.name
        if self._first_known is not None:
            known = vars(self._known) | {"pending": self._pending}
            log.info("sources_known", dataset=dataset, **known, seconds=round(seconds, 3))
            request = self._load.request(self._first_known, self._target)
            try:
                runs.enter_known(connected(), dataset, self._known, request)
            except (EtlError, psycopg.Error) as error:  # Each file is loaded, whatever the ledger says of this command.
                log.warning("sources_known_not_entered", dataset=dataset, reason=type(error).__name__)
        if self._loaded:
            log.info("sources_loaded", dataset=dataset, **self._loaded, seconds=round(seconds, 3))
            about = Source(name=f"{self._loaded['sources']} files", path=None)
            outcome.log_changes(about, self._effects.sum, self.narrowed)

    def _by_table(self, rows: tuple[int, ...]) -> Mapping[str, int]:
        names = (table.name for table in self._target.dataset.tables)
        return self._rows.setdefault(rows, dict(zip(names, rows, strict=True)))
