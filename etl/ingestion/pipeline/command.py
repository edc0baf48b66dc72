"""The sources of one command: judged before any starts, loaded one after the other, then the aggregates refreshed."""

from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import ExitStack, closing
from dataclasses import field, replace
from functools import cached_property
from itertools import permutations
from pathlib import Path

import psycopg
import structlog
from structlog.contextvars import bound_contextvars

from etl.database.obstacles import require_loadable
from etl.database.sessions import require_usable
from etl.database.tables import require_key, require_tables, require_visible
from etl.errors import SIGNALS, DatabaseError, EtlError, ExitCode, UsageError, gravest
from etl.ingestion.failed_store.store import FailedStore, first_stored
from etl.ingestion.framing import documents
from etl.ingestion.framing.pieces import EmptySourceError
from etl.ingestion.ledger import losses, runs
from etl.ingestion.pipeline import outcome
from etl.ingestion.pipeline.batches import retry_policy
from etl.ingestion.pipeline.job import Load
from etl.ingestion.pipeline.load import Sessions
from etl.ingestion.pipeline.load import load as load_source
from etl.ingestion.pipeline.refreshing import APPLICATION_NAME, precalculate
from etl.ingestion.pipeline.resumption import judge
from etl.ingestion.pipeline.targets import Target
from etl.ingestion.summary import Status, Summary
from etl.ingestion.transform.projection import Projection
from etl.ingestion.values import Source
from etl.precalculation import catalogue
from etl.precalculation.refresh import RefreshResult
from etl.quick_dataclasses import dataclass
from etl.settings import lineage_is_on

log = structlog.get_logger(__name__)

_LAST = {ExitCode.DATABASE_AWAY, ExitCode.INTERNAL_FAULT} | SIGNALS
"""After these exit codes no further source begins."""

Report = Callable[[Summary, EtlError | None], None]

_Ends = list[tuple[Summary, EtlError | None]]


@dataclass(kw_only=True)
class CommandResult:
    """The sources so far: their summaries and the errors that ended some; then the aggregates that were refreshed."""

    summaries: list[Summary] = field(default_factory=list)
    errors: list[EtlError] = field(default_factory=list)
    precalculated: list[RefreshResult] = field(default_factory=list)
    codes: set[int] = field(default_factory=set)

    @property
    def exit_code(self) -> ExitCode:
        """The gravest exit code that occurred."""
        return gravest(self.codes)

    @cached_property
    def _has_lineage(self) -> bool:
        """Whether the end of each source is an event of OpenLineage; asked once, because it reads the environment."""
        return lineage_is_on()

    @property
    def is_stopped(self) -> bool:
        """Whether the database is away, or a signal came: nothing else is asked of the database."""
        return bool(self.codes & {ExitCode.DATABASE_AWAY, *SIGNALS})

    def add(self, summary: Summary, error: EtlError | None, report: Report) -> None:
        """Add and report the end of a source; an error that ended it for several targets only once."""
        is_new = error is not None and not any(error is other for other in self.errors)
        self.summaries.append(summary)
        self.errors += [error] if error and is_new else []
        self.codes.add(summary.exit_code)
        if self._has_lineage:
            from etl import lineage  # noqa: PLC0415 - imports nothing unless it is configured

            lineage.run_ended(
                summary.run,
                rows=summary.rows,
                read=summary.records.read,
                size=summary.bytes_read,
                error=summary.error.message if summary.error else None,
            )
        report(summary, error if is_new else None)


def require_all(load: Load, sources: Sequence[Source], config_dir: Path, sessions: Sessions) -> None:
    """Judge for exit code 2 before anything starts (contract C3). The session of the checks stays for the first source.

    Raises UsageError.
    """
    for target in load.targets:
        _require_fitting(load, target, sources)
    _require_own_tables(load.targets)
    names = _aggregates_of(load.targets, config_dir) if load.settings.precalculate else ()
    paths = {source.path or source.url or "": source.name for source in sources}
    if (stored := first_stored(load.settings.failed_dir, paths)) is not None:
        raise UsageError(f"{paths[stored]} is a file of the failed store", hint="etl failed replay ID")
    if load.settings.executor != "local":
        from etl.ingestion.pipeline import executors  # noqa: PLC0415 - most loads do without it

        executors.require_usable(load)
        executors.begin_early(load)
    again = retry_policy(load.settings.retries, lambda: None, load.stop.wait, event="start_retried")
    with load.stop.reading():
        again(_require_database, load, sources, names, sessions)
    if not load.settings.dry_run:
        with FailedStore(load.settings.failed_dir) as store:
            store.prepare()


def _aggregates_of(targets: Sequence[Target], config_dir: Path) -> list[str]:
    """Return the tables of the aggregates that the load will refresh, which logs the wrong files."""
    facts = [table.name for target in targets for table in target.dataset.tables]
    return [each.table for each in catalogue.reading([*facts, "etl.runs"], catalogue.look(config_dir)[0])]


def _require_database(load: Load, sources: Sequence[Source], aggregates: Sequence[str], sessions: Sessions) -> None:
    """Raise UsageError when the database cannot take the sources, or cannot refresh the tables of the aggregates."""
    with sessions.one(load.database, "etl") as session:
        connection = session.connection()
        require_usable(connection)
        require_visible(connection, aggregates)
        for target in load.targets:
            require_tables(connection, target.dataset)
            require_loadable(connection, target.dataset, target.mode)
            if target.dataset.key and (target.mode != "append" or target.dataset.on_duplicate == "newest"):
                require_key(connection, target.dataset)
        forgotten = losses.require_rows(
            connection,
            [(target.dataset, target.mode) for target in load.targets],
            force=load.settings.force,
            allow_empty=load.settings.allow_empty,
        )
        for target in load.targets if len(sources) > 1 else ():
            _require_definitions(connection, load, target, sources)
        for each in forgotten if not load.settings.dry_run else ():
            losses.forget(connection, each)


def _require_definitions(connection: psycopg.Connection, load: Load, target: Target, sources: Sequence[Source]) -> None:
    """Raise UsageError when a source belongs to an unfinished run that began under another definition.

    Mostly there is no such run, and then no source is read for it.
    """
    encodings = {source.encoding for source in sources}
    hashes = [each for encoding in encodings for each in target.definition_hashes(encoding)]
    if runs.has_other_definition(connection, target.dataset.name, hashes):
        for source in sources:
            judge(connection, source, load, target)


def _require_fitting(load: Load, target: Target, sources: Sequence[Source]) -> None:
    """Raise UsageError when a dataset cannot be loaded with these options."""
    dataset = target.dataset
    if target.mode == "merge" and not dataset.key:
        raise UsageError(f"mode merge expects a key, and {dataset.path} has none")
    if dataset.deletions and target.mode != "merge":
        raise UsageError(
            f"mode {target.mode} deletes no keys, and {dataset.path} has delete_if, which expects mode merge",
            hint="load by --mode merge; a definition without delete_if takes such records as rows",
        )
    if dataset.has_history and target.mode == "replace":
        raise UsageError(
            f"mode replace keeps no versions, and {dataset.path} has history, which expects mode merge",
            hint="load by --mode merge; delete_if deletes the keys that the records name",
        )
    _require_policy(load, target)
    if target.mode == "replace" and len(sources) > 1:
        raise UsageError("replace takes one source: each would remove what the one before it loaded")
    if target.is_atomic and load.settings.limit and not load.settings.dry_run:
        raise UsageError("--limit brings in a part of a source, and --atomic or replace shows none but whole sources")
    documents.require_path(target.records_path)
    Projection(dataset)  # raises where a value of the definition does not fit its column


def _require_own_tables(targets: Sequence[Target]) -> None:
    """Raise UsageError when a replace would remove the rows that another target loads from the same source."""
    for one, other in permutations(targets, 2):
        names = {table.name for table in one.dataset.tables} & {table.name for table in other.dataset.tables}
        if one.mode == "replace" and names:
            raise UsageError(
                f"replace of {one.dataset.name} would remove what {other.dataset.name} brings into {min(names)}",
                hint="load them one after the other, or give each dataset tables of its own",
            )


def _require_policy(load: Load, target: Target) -> None:
    """Raise UsageError when duplicates cannot be recognised, or the order of the records would be lost."""
    policy = target.dataset.on_duplicate
    if target.is_in_order and target.dataset.deletions:
        raise UsageError(f"--on-duplicate {policy} and delete_if exclude each other: a key has several records")
    if policy and not target.dataset.key:
        raise UsageError(f"--on-duplicate {policy} expects a key, and {target.dataset.path} has none")
    if target.is_in_order and (load.settings.workers or 1) > 1:
        raise UsageError(
            f"--on-duplicate {policy} takes one worker: which record is the first is their order", hint="--workers 1"
        )


def load_all(
    load: Load,
    sources: Sequence[Source],
    config_dir: Path,
    result: CommandResult,
    report: Report,
    report_error: Callable[[EtlError], None],
) -> None:
    """Load the sources in their order, or judge them in a dry run; then bring the aggregates up to date.

    Small files of a command are loaded in groups. `report` gets each summary as it comes; an error that ended a source
    for several targets comes with the first of them. An empty source is a warning among others, unless all of them are
    empty. `report_error` gets the error that ended a refresh.

    Raises UsageError before anything starts (contract C3), DatabaseError when the database cannot be reached.
    """
    if load.settings.follow:
        from etl.ingestion.pipeline.following import follow  # noqa: PLC0415 - a load of whole sources does without it

        follow(load, sources, config_dir, result, report, report_error)
        return
    are_empty = True
    with closing(Sessions()) as sessions, ExitStack() as stack:
        require_all(load, sources, config_dir, sessions)
        if len(sources) == 1 and not load.settings.trust_mtime:
            all_ends: Iterable[_Ends] = [ends_of(load, sources[0], sessions)]
        else:
            all_ends = stack.enter_context(closing(_ends_of_several(load, sources, sessions)))
        for number, found in enumerate(all_ends, 1):
            ends = found
            is_empty = any(isinstance(error, EmptySourceError) for _, error in found)
            are_empty &= is_empty
            if is_empty and not (are_empty and number == len(sources)):
                ends = [passed_by(summary) for summary, _ in found]
            for summary, error in ends:
                result.add(summary, error, report)
            if {summary.exit_code for summary, _ in ends} & _LAST:
                break
        stack.close()
        precalculate_all(load, config_dir, result, report_error, sessions)


def _ends_of_several(load: Load, sources: Sequence[Source], sessions: Sessions) -> Generator[_Ends]:
    """Load the sources in their order, and yield the end of each for each target."""
    from etl.ingestion.pipeline import file_groups  # noqa: PLC0415 - a load of one source does without it

    if not file_groups.is_possible(load):
        for source in sources:
            yield ends_of(load, source, sessions)
        return
    sessions.close()  # The groups have a session of their own.
    with file_groups.FileGroups(load) as groups:
        for source, summary in groups.ends(sources):
            yield ends_of(load, source, sessions) if summary is None else [(summary, None)]


def ends_of(load: Load, source: Source, sessions: Sessions) -> _Ends:
    """Load a source, and return its end for each target."""
    try:
        return load_source(source, load, sessions)
    except DatabaseError as away:
        name = load.database.name
        return [(outcome.not_begun(source, target.dataset, name, away), away) for target in load.targets]


def passed_by(summary: Summary) -> tuple[Summary, None]:
    """Return the summary of an empty source as that of a source without records, and log it.

    Programs that write many files write empty ones, too.
    """
    log.warning("source_empty", source=summary.source, dataset=summary.dataset)
    status: Status = "checked" if summary.dry_run else "loaded"
    return replace(summary, status=status, exit_code=ExitCode.SUCCESS, error=None), None


def _may_have_changed(summary: Summary) -> bool:
    """Return whether aggregates may have to follow: records were loaded, or an earlier command may have left them."""
    return summary.error is None or summary.records.loaded > 0


def precalculate_all(
    load: Load,
    config_dir: Path,
    result: CommandResult,
    report_error: Callable[[EtlError], None],
    sessions: Sessions,
) -> None:
    """Bring the aggregates of the targets up to date, unless the database is away, a signal came or nothing loaded.

    It uses a session of the command. `report_error` gets the error that ended the refresh.
    """
    if not load.settings.precalculate or result.is_stopped:
        return
    if not any(_may_have_changed(summary) for summary in result.summaries):
        return
    names = [summary.run for summary in result.summaries if summary.run]
    tables = [table.name for target in load.targets for table in target.dataset.tables]
    try:
        with load.stop.interrupting(), bound_contextvars(**({"run": names[-1]} if names else {})):
            opened = sessions.one(load.database, APPLICATION_NAME)
            refreshed = precalculate(
                opened, config_dir, tables, names[-1] if names else None, load.stop, load.settings.retries
            )
            result.precalculated.extend(load.watch.refreshing(refreshed))
    except EtlError as error:
        result.errors.append(error)
        result.codes.add(error.exit_code)
        report_error(error)
