"""`etl.load`."""

import signal
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple, Unpack

from etl import metrics
from etl.errors import DONE, EtlError, ExitCode, InterruptedByUserError, UsageError
from etl.ingestion.pipeline.command import CommandResult, load_all
from etl.ingestion.pipeline.job import Load, Stop, Unwatched
from etl.ingestion.pipeline.targets import Target, targets_of
from etl.ingestion.sources.given import ProgramError
from etl.ingestion.values import Source
from etl.library.arguments import (
    AnySource,
    LoadOptions,
    require_kinds,
    require_positive,
    settings_from,
    sources_of,
    with_options,
)
from etl.library.opening import opened
from etl.library.progress import Calls, Progress
from etl.library.results import Loaded, Precalculated
from etl.logs import Logs
from etl.settings import LoadSettings


@with_options(LoadOptions)
def load(
    dataset: str,
    *sources: AnySource,
    source_name: str | None = None,
    progress: Callable[[Progress], object] | None = None,
    timeout: float | None = None,
    metrics_file: str | Path | None = None,
    database: str | None = None,
    config_dir: str | Path = "config",
    **options: Unpack[LoadOptions],
) -> Loaded:
    """Load sources into a dataset as `etl load` does; return their summaries with exit code 0 or 1.

    A source is a path (or a pattern, a folder, a URL), an open file, or an iterable of records (dicts). An open file is
    read from where it is, and not closed; `source_name` is its name in the ledger, or that of records. `progress` is
    called with a Progress, a few times a second at most. After `timeout` seconds the load ends with the batch in hand,
    and exit code 143; a read of a source that waits is not ended.

    Commas separate several datasets, and their paths in `records`. The options are those of the command, but one
    process loads unless `workers` is given, and a database that is away is waited for only with `retry_for`. More
    workers are new processes: a script that asks for them needs `if __name__ == "__main__":`.

    Raises the EtlError of the source with the gravest exit code otherwise; the same call continues the load. What the
    program's own iterable, file object or `progress` raises is raised again, and so is KeyboardInterrupt; the batches
    before it are loaded.
    """
    paths = {"config_dir": config_dir, "metrics_file": metrics_file}
    require_kinds(texts={"dataset": dataset, "database": database}, paths=paths)
    calls, settings = _calls_of(progress), settings_from(options)
    found = sources_of(sources, settings, source_name)
    asked = _Asked(dataset, found, database, Path(config_dir), settings, require_positive("timeout", timeout))
    measured = None if metrics_file is None or settings.dry_run else Path(metrics_file)
    return _loaded(_load(asked, calls, measured), calls)


def _calls_of(progress: Callable[[Progress], object] | None) -> Calls | None:
    if progress is not None and not callable(progress):
        raise UsageError(f"progress: expected a function, got a value of type {type(progress).__name__}")
    return Calls(progress) if progress is not None else None


class _Asked(NamedTuple):
    """The checked arguments of a load."""

    dataset: str
    sources: Sequence[Source]
    database: str | None
    folder: Path
    settings: LoadSettings
    timeout: float | None


def _load(asked: _Asked, calls: Calls | None, metrics_file: Path | None) -> CommandResult:
    """Load all sources and refresh the aggregates, as the command does."""
    result, settings, folder = CommandResult(), asked.settings, asked.folder
    with metrics.Report(metrics_file, "load", asked.dataset) as report:
        targets = targets_of(asked.dataset, settings, folder)
        _require_separable(targets, asked.sources)
        with opened(asked.database, folder, settings, connects=True) as database, _ending_after(asked.timeout) as stop:
            load = Load(
                database=database,
                settings=settings,
                targets=targets,
                stop=stop,
                logs=Logs(level="critical"),  # The processes of several workers have no logger of this program.
                watch=calls or Unwatched(),
            )
            load_all(load, asked.sources, folder, result, lambda *_: None, report.note_error)
            if not result.is_stopped:
                report.look_at(database)
        report.count_sources(result.summaries)
        report.exit_code = result.exit_code
    return result


@contextmanager
def _ending_after(seconds: float | None) -> Iterator[Stop]:
    """Yield a stop event that is set after some seconds, as by SIGTERM."""
    stop = Stop()

    def end() -> None:
        stop.signal_number = signal.SIGTERM

    timer = threading.Timer(seconds or 0, end)
    timer.daemon = True
    if seconds is not None:
        timer.start()
    try:
        yield stop
    finally:
        timer.cancel()


def _require_separable(targets: Iterable[Target], sources: Iterable[Source]) -> None:
    """Raise UsageError when records of a program would have to be shared by several datasets."""
    names = [target.dataset.name for target in targets]
    if len(names) > 1 and any(source.is_lines for source in sources):
        raise UsageError(
            f"records of a program belong to one dataset, got {', '.join(names)}", hint="load each dataset by itself"
        )


def _loaded(result: CommandResult, calls: Calls | None) -> Loaded:
    """Return the result of a load that is done.

    Raises what ended it: an exception of the program as itself, else the error of the gravest exit code.
    """
    error: EtlError | None = None
    if result.exit_code not in DONE:
        grave = [each for each in result.errors if each.exit_code == result.exit_code]
        error = (grave or result.errors)[0]
    if calls is not None and calls.error is not None and (error is None or isinstance(error, InterruptedByUserError)):
        raise calls.error
    if isinstance(error, InterruptedByUserError) and error.exit_code == ExitCode.SIGINT:
        raise KeyboardInterrupt(f"{error}; the same call continues") from error
    if isinstance(error, ProgramError):
        raise error.original
    if error is not None:
        raise error
    return Loaded(
        exit_code=result.exit_code, sources=tuple(result.summaries), precalculated=Precalculated(result.precalculated)
    )
