"""Several sources of one command: judged before any starts, brought in one after the other, then precalculated."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import permutations
from pathlib import Path

from etl.database.connecting import connect
from etl.database.pooling import require_own_session
from etl.database.tables import require_key, require_tables
from etl.errors import SIGNALS, EtlError, ExitCode, UsageError, gravest
from etl.ingestion.failed_store.store import FailedStore, is_stored
from etl.ingestion.framing import documents
from etl.ingestion.pipeline.job import Job
from etl.ingestion.pipeline.load import load, precalculate
from etl.ingestion.pipeline.rehearsal import rehearse
from etl.ingestion.pipeline.resumption import judge
from etl.ingestion.transform.projection import Projection
from etl.ingestion.values import Source, Summary
from etl.precalculation import catalogue
from etl.precalculation.refresh import Refreshed

Tell = Callable[[Summary, EtlError | None], None]


@dataclass(kw_only=True)
class Course:
    """What became of the sources so far: their summaries, the errors that ended some, and the aggregates refreshed."""

    summaries: list[Summary] = field(default_factory=list)
    errors: list[EtlError] = field(default_factory=list)
    precalculated: list[Refreshed] = field(default_factory=list)
    codes: set[int] = field(default_factory=set)

    @property
    def exit_code(self) -> ExitCode:
        """The gravest exit code that occurred."""
        return gravest(self.codes)


def require_all(jobs: Sequence[Job], sources: Sequence[Source], config_dir: Path) -> None:
    """Judge for exit code 2 before anything starts (contract C3).

    Raises UsageError.
    """
    shared = jobs[0]
    for job in jobs:
        _require_fitting(job, sources)
    _require_own_tables(jobs)
    if shared.settings.precalculate:
        catalogue.read_all(config_dir)  # raises where a file of an aggregate is not as it must be
    for each in sources:
        if each.path and is_stored(shared.settings.failed_dir, Path(each.path)):
            raise UsageError(f"{each.name} is a file of the failed store", hint="etl failed replay ID")
    with connect(shared.database) as connection:
        require_own_session(connection, shared.database)
        for job in jobs:
            require_tables(connection, job.dataset)
            if job.dataset.key and (job.mode != "append" or job.policed.on_duplicate == "newest"):
                require_key(connection, job.dataset)
            for each in sources if len(sources) > 1 else ():
                judge(connection, each, job)
    if shared.settings.dry_run:
        return
    with FailedStore(shared.settings.failed_dir) as store:
        store.prepare()


def _require_fitting(job: Job, sources: Sequence[Source]) -> None:
    """Raise UsageError when a dataset cannot be loaded as it is asked for."""
    if job.mode == "merge" and not job.dataset.key:
        raise UsageError(f"mode merge expects a key, and {job.dataset.path} has none")
    _require_policy(job)
    if job.mode == "replace" and len(sources) > 1:
        raise UsageError("replace takes one source: each would remove what the one before it loaded")
    if job.is_atomic and job.settings.limit and not job.settings.dry_run:
        raise UsageError("--limit brings in a part of a source, and --atomic or replace shows none but whole sources")
    documents.require_path(job.records_path)
    Projection(job.dataset)  # raises where a value of the definition does not fit its column


def _require_own_tables(jobs: Sequence[Job]) -> None:
    """Raise UsageError when a replace would remove what another dataset brings in from the same source."""
    for one, other in permutations(jobs, 2):
        names = {table.name for table in one.dataset.tables} & {table.name for table in other.dataset.tables}
        if one.mode == "replace" and names:
            raise UsageError(
                f"replace of {one.dataset.name} would remove what {other.dataset.name} brings into {min(names)}",
                hint="load them one after the other, or give each dataset tables of its own",
            )


def _require_policy(job: Job) -> None:
    """Raise UsageError when the duplicates of a source cannot be told, or their order would be lost."""
    policy = job.policed.on_duplicate
    if policy and not job.dataset.key:
        raise UsageError(f"--on-duplicate {policy} expects a key, and {job.dataset.path} has none")
    if job.is_in_order and (job.settings.workers or 1) > 1:
        raise UsageError(
            f"--on-duplicate {policy} takes one worker: which record is the first is their order", hint="--workers 1"
        )


def load_all(sources: Sequence[Source], jobs: Sequence[Job], course: Course, told: Tell) -> None:
    """Load the sources one after the other, or judge them in a dry run; `told` gets each summary as it comes.

    An error that ended a source for several datasets is told with the first of them.
    """
    for each in sources:
        codes = set()
        for summary, error in (rehearse if jobs[0].settings.dry_run else load)(each, jobs):
            is_new = error is not None and not any(error is known for known in course.errors)
            course.summaries.append(summary)
            course.errors += [error] if error and is_new else []
            codes.add(summary.exit_code)
            told(summary, error if is_new else None)
        course.codes |= codes
        if codes & {ExitCode.DATABASE_AWAY, ExitCode.INTERNAL_FAULT, *SIGNALS}:
            break


def precalculate_all(jobs: Sequence[Job], config_dir: Path, course: Course, told: Callable[[EtlError], None]) -> None:
    """Bring the aggregates of the datasets up to date, unless the database is away or a signal came."""
    shared = jobs[0]
    if not shared.settings.precalculate or course.codes & {ExitCode.DATABASE_AWAY, *SIGNALS}:
        return
    runs = [summary.run for summary in course.summaries if summary.run]
    tables = [table.name for job in jobs for table in job.dataset.tables]
    try:
        done = precalculate(shared.database, config_dir, tables, runs[-1] if runs else None, shared.stop)
        for refreshed in shared.watch.refreshing(done):
            course.precalculated.append(refreshed)
    except KeyboardInterrupt:
        error: EtlError = shared.stop.at_once()
        code = error.exit_code
    except EtlError as ended:
        error, code = ended, ended.exit_code
    else:
        return
    course.errors.append(error)
    course.codes.add(code)
    told(error)
