"""Several sources of one command: judged before any starts, brought in one after the other, then precalculated."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from etl.database import connect, require_key, require_tables
from etl.errors import EtlError, UsageError
from etl.ingestion import documents, failures
from etl.ingestion.job import Job
from etl.ingestion.pipeline import load, precalculate
from etl.ingestion.projection import Projection
from etl.ingestion.rehearsal import rehearse
from etl.ingestion.resumption import judge
from etl.ingestion.values import Source, Summary
from etl.pooling import require_own_session
from etl.precalculation.refresh import Refreshed

# The exit code of several sources: the first of these that occurred (contract C3).
GRAVEST_FIRST = (70, 129, 130, 143, 4, 5, 3, 6, 1, 0)

_SIGNALS = {129, 130, 143}

Tell = Callable[[Summary, EtlError | None], None]


@dataclass(kw_only=True)
class Course:
    """What became of the sources so far: their summaries, the errors that ended some, and the aggregates refreshed."""

    summaries: list[Summary] = field(default_factory=list)
    errors: list[EtlError] = field(default_factory=list)
    precalculated: list[Refreshed] = field(default_factory=list)
    codes: set[int] = field(default_factory=set)

    @property
    def exit_code(self) -> int:
        """The gravest exit code that occurred."""
        return next((code for code in GRAVEST_FIRST if code in self.codes), 0)


def require_all(job: Job, sources: Sequence[Source]) -> None:
    """Judge for exit code 2 before anything starts (contract C3).

    Raises UsageError.
    """
    if job.mode == "merge" and not job.dataset.key:
        raise UsageError(f"mode merge expects a key, and {job.dataset.path} has none")
    if job.mode == "replace" and len(sources) > 1:
        raise UsageError("replace takes one source: each would remove what the one before it loaded")
    if job.is_atomic and job.settings.limit and not job.settings.dry_run:
        raise UsageError("--limit brings in a part of a source, and --atomic or replace shows none but whole sources")
    documents.require_path(job.records_path)
    for each in sources:
        if each.path and failures.is_stored(job.settings.failed_dir, Path(each.path)):
            raise UsageError(f"{each.name} is a file of the failed store", hint="etl failed replay ID")
    Projection(job.dataset)  # raises where a value of the definition does not fit its column
    with connect(job.database) as connection:
        require_own_session(connection, job.database)
        require_tables(connection, job.dataset)
        if job.mode != "append" and job.dataset.key:
            require_key(connection, job.dataset)
        for each in sources if len(sources) > 1 else ():
            judge(connection, each, job)
    if job.settings.dry_run:
        return
    with failures.FailedStore(job.settings.failed_dir) as store:
        store.prepare()


def load_all(sources: Sequence[Source], job: Job, course: Course, told: Tell) -> None:
    """Load the sources one after the other, or judge them in a dry run; `told` gets each summary as it comes."""
    for each in sources:
        summary, error = (rehearse if job.settings.dry_run else load)(each, job)
        course.summaries.append(summary)
        course.codes.add(summary.exit_code)
        if error:
            course.errors.append(error)
        told(summary, error)
        if summary.exit_code in {4, 70} | _SIGNALS:
            break


def precalculate_all(job: Job, config_dir: Path, course: Course, told: Callable[[EtlError], None]) -> None:
    """Bring the aggregates of the dataset up to date, unless the database is away or a signal came."""
    if not job.settings.precalculate or course.codes & ({4} | _SIGNALS):
        return
    runs = [summary.run for summary in course.summaries if summary.run]
    tables = [table.name for table in job.dataset.tables]
    try:
        done = precalculate(job.database, config_dir, tables, runs[-1] if runs else None, job.stop)
        for refreshed in job.watch.refreshing(done):
            course.precalculated.append(refreshed)
    except KeyboardInterrupt:
        error: EtlError = job.stop.at_once()
        code = error.exit_code
    except EtlError as ended:
        # The records are in: what is wrong with an aggregate is put right, and the same command refreshes it.
        error, code = ended, 4 if isinstance(ended, UsageError) else ended.exit_code
    else:
        return
    course.errors.append(error)
    course.codes.add(code)
    told(error)
