"""A source that grows, loaded as it grows (`--follow`): each file at its path is a source, until a signal comes."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, closing
from dataclasses import replace
from pathlib import Path

from etl.errors import EtlError, UsageError
from etl.ingestion.framing.pieces import EmptySourceError
from etl.ingestion.pipeline.command import CommandResult, Report, ends_of, passed_by, precalculate_all, require_all
from etl.ingestion.pipeline.freshening import Refresher
from etl.ingestion.pipeline.job import Load, Progress, Watch
from etl.ingestion.pipeline.load import Sessions
from etl.ingestion.sources.following import Ending, followed
from etl.ingestion.sources.stream import Stream
from etl.ingestion.summary import Summary
from etl.ingestion.values import Source
from etl.precalculation.refresh import RefreshResult

REFRESH_SECONDS = 1.0
"""The aggregates are refreshed at most so often while a source is followed."""


class _Refreshing:
    """Displays a load as another watch does, and lets the aggregates be refreshed after each batch."""

    def __init__(self, watch: Watch, refresher: Refresher, tables: Sequence[str]) -> None:
        self._watch = watch
        self._refresher = refresher
        self._tables = tables

    def watching(self, stream: Stream, progress: Sequence[Progress]) -> AbstractContextManager[None]:
        """Watch a source."""
        return self._watch.watching(stream, progress)

    def passed(self, summary: Summary) -> None:
        """Count a source that is loaded already."""
        self._watch.passed(summary)

    def moved(self) -> None:
        """Look at the counts, and note that rows changed."""
        self._watch.moved()
        self._refresher.note(self._tables)

    def refreshing(self, done: Iterable[RefreshResult]) -> Iterator[RefreshResult]:
        """Yield the aggregates when each is refreshed."""
        return self._watch.refreshing(done)


def follow(
    load: Load,
    sources: Sequence[Source],
    config_dir: Path,
    result: CommandResult,
    report: Report,
    report_error: Callable[[EtlError], None],
) -> None:
    """Load what is written to the only source, until a signal comes; then the aggregates are refreshed once more.

    An error of a source ends the command. `report` and `report_error` are as for a load.

    Raises UsageError before anything starts, DatabaseError when the database cannot be reached.
    """
    _require_followable(load, sources)
    with closing(Sessions()) as sessions:
        require_all(load, sources, config_dir, sessions)
        ending = load.stop.ending = Ending()
        settings = load.settings
        tables = [table.name for target in load.targets for table in target.dataset.tables]
        seconds = REFRESH_SECONDS if settings.precalculate else 0.0
        name = sources[0].path or "-"
        with (
            Refresher(load.database, config_dir, settings.retries, seconds) as refresher,
            closing(followed(name, ending, settings.linger)) as files,
        ):
            watch = _Refreshing(load.watch, refresher, tables)
            following = replace(load, settings=replace(settings, workers=1), watch=watch)
            for source in files:
                [(summary, error)] = ends_of(following, source, sessions)
                if isinstance(error, EmptySourceError):
                    summary, error = passed_by(summary)
                result.add(summary, error, report)
                if error is not None:
                    break
        precalculate_all(load, config_dir, result, report_error, sessions)


def _require_followable(load: Load, sources: Sequence[Source]) -> None:
    """Raise UsageError when a source has an end that must be known, or cannot grow."""
    settings = load.settings
    [target, *others] = load.targets
    if others or len(sources) != 1:
        raise UsageError("--follow takes one dataset and one source", hint="one command for each")
    if sources[0].url is not None or sources[0].member is not None:
        raise UsageError(f"--follow takes a file, a named pipe or -, and {sources[0].name} cannot grow")
    if target.is_atomic:
        raise UsageError(f"--follow never ends, and mode {target.mode} or --atomic shows a whole source at once")
    if settings.limit or settings.dry_run or settings.format not in {"auto", "ndjson"}:
        raise UsageError("--follow reads one record per line, without --limit, --dry-run and --format array")
    if target.dataset.document_paths:
        raise UsageError(f"{target.dataset.name}: columns take members of the document around the records")
