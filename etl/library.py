"""The commands as functions, for programs in Python: the same line, no output, no signal handler, no exit code.

Log events go to the logger `etl` of the standard library, which is silent unless the program gives it a handler.
"""

import inspect
import logging
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, TypedDict, TypeVar, Unpack, get_type_hints

import msgspec
import psycopg
import structlog

from etl import provisioning
from etl.database import connecting
from etl.errors import DONE, BusyError, EtlError, ExitCode, UsageError, gravest, together
from etl.ingestion.destination import refusals
from etl.ingestion.failed_store.store import FailedStore
from etl.ingestion.pipeline.command import CommandResult, load_all, precalculate_all, require_all
from etl.ingestion.pipeline.job import Load, Stop, Target
from etl.ingestion.pipeline.replay import ReplayFilter, ReplayResult, replay_all, select
from etl.ingestion.pipeline.sharing import shares_of
from etl.ingestion.sources import encodings, naming
from etl.ingestion.values import Summary
from etl.logs import Logs
from etl.options import settings_of
from etl.precalculation import catalogue
from etl.precalculation.refresh import RefreshResult, refresh_all
from etl.settings import (
    Decoder,
    Format,
    LoadSettings,
    Mode,
    OnDuplicate,
    OnNul,
    OnUnknown,
    read_file_settings,
)

F = TypeVar("F", bound=Callable[..., Any])

# Several processes need `if __name__ == "__main__":` in a script, so a program must ask for them; so it must for waits.
_DEFAULTS: dict[str, Any] = {"workers": 1, "retry_for": 0.0}


class ReplayOptions(TypedDict, total=False):
    """The options of `replay` for type checkers; `LoadSettings` has their help texts, bounds and defaults."""

    precalculate: bool
    failed_dir: str | Path
    retry_attempts: int
    retry_base_seconds: float
    retry_cap_seconds: float
    retry_for: float


class LoadOptions(ReplayOptions, total=False):
    """The options of `load` for type checkers: all of `LoadSettings`."""

    mode: Mode | None
    format: Format
    encoding: str
    records: str | None
    workers: int | None
    decoder: Decoder
    batch_rows: int
    max_rejected: int | str
    max_deleted: int | str
    max_record_bytes: int
    atomic: bool
    allow_empty: bool
    limit: int | None
    dry_run: bool
    on_nul: OnNul | None
    on_duplicate: OnDuplicate | None
    on_unknown: OnUnknown | None
    force: bool


@dataclass(frozen=True, kw_only=True)
class Loaded:
    """The result of a load: the summary of each source and dataset (C4), and the refreshed aggregates."""

    exit_code: ExitCode
    sources: tuple[Summary, ...]
    precalculated: tuple[RefreshResult, ...]


def _with_options(typed: type) -> Callable[[F], F]:
    """Add the options and their defaults to the signature, so that `help` and notebooks show them."""
    kinds = get_type_hints(typed)
    options = [
        inspect.Parameter(
            setting.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=_DEFAULTS.get(setting.name, setting.default_written),
            annotation=kinds[setting.name],
        )
        for setting in settings_of(LoadSettings)
        if setting.name in kinds
    ]

    def decorate(function: F) -> F:
        signature = inspect.signature(function)
        *named, _ = signature.parameters.values()
        vars(function)["__signature__"] = signature.replace(parameters=[*named, *options])
        return function

    return decorate


@_with_options(LoadOptions)
def load(
    dataset: str,
    *sources: str | Path,
    database: str | None = None,
    config_dir: str | Path = "config",
    **options: Unpack[LoadOptions],
) -> Loaded:
    """Load sources into a dataset as `etl load` does; return their summaries with exit code 0 or 1.

    Commas separate several datasets, and their paths in `records`. The options are those of the command, but one
    process loads unless `workers` is given, and a database that is away is waited for only with `retry_for`. More
    workers are new processes: a script that asks for them needs `if __name__ == "__main__":`.

    Raises the EtlError of the source with the gravest exit code otherwise; the same call continues the load.
    """
    if not sources:
        raise UsageError("no source is named")
    _require_kinds(
        texts={"dataset": dataset, "database": database}, paths={"source": sources, "config_dir": config_dir}
    )
    _require_expected(given := _DEFAULTS | options)
    settings = LoadSettings.read(given)
    if settings.encoding != "auto":
        encodings.require_known(settings.encoding)
    folder = Path(config_dir)
    shares = shares_of(dataset, settings.records, settings.format, folder)
    named = [each for source in sources for each in naming.named(str(source), settings.encoding)]
    result = CommandResult()
    with _opened(database, folder, settings) as target:
        # The processes of several workers have no logger of this program.
        stop, logs = Stop(), Logs(level="critical")
        targets = [Target.of(share.dataset, share.records, settings) for share in shares]
        asked = Load(database=target, settings=settings, targets=targets, stop=stop, logs=logs)
        require_all(asked, named, folder)
        load_all(asked, named, result, lambda _summary, _error: None)
        precalculate_all(asked, folder, result, lambda _error: None)
    _require_done(result)
    return Loaded(
        exit_code=result.exit_code, sources=tuple(result.summaries), precalculated=tuple(result.precalculated)
    )


def _require_done(result: CommandResult) -> None:
    """Raise the error of the gravest exit code unless all sources are loaded."""
    if result.exit_code not in DONE:
        grave = [error for error in result.errors if error.exit_code == result.exit_code]
        raise (grave or result.errors)[0]


def _require_kinds(*, texts: Mapping[str, Any], paths: Mapping[str, Any]) -> None:
    """Raise UsageError for an argument of another type: a record in its place must not get into a message."""
    for expected, kinds, arguments in (("a text", str, texts), ("a path", str | os.PathLike, paths)):
        for name, argument in arguments.items():
            for each in argument if isinstance(argument, tuple) else [argument]:
                if each is not None and not isinstance(each, kinds):
                    raise UsageError(f"{name}: expected {expected}, got a value of type {type(each).__name__}")


def _require_expected(given: Mapping[str, Any]) -> None:
    """Raise UsageError for a word or number that the command line refuses: not every caller uses a type checker."""
    texts = [setting.name for setting in settings_of(LoadSettings) if setting.kind is str]
    _require_kinds(
        texts={name: given[name] for name in texts if name in given}, paths={"failed_dir": given.get("failed_dir")}
    )
    for setting in settings_of(LoadSettings):
        if setting.name not in given or not (setting.choices or setting.kind in {int, float}):
            continue
        bounds = msgspec.Meta(ge=setting.option.least, le=setting.option.most)
        expected: Any = setting.kind if setting.choices else Annotated[setting.kind, bounds]
        try:
            msgspec.convert(given[setting.name], expected | None if setting.is_optional else expected)
        except msgspec.ValidationError as error:
            raise UsageError(f"{setting.name}: {error}") from error


@dataclass(frozen=True, kw_only=True)
class Replays:
    """The results of a replay: one for each file of the failed store that was loaded, and the refreshed aggregates."""

    exit_code: ExitCode
    replayed: tuple[ReplayResult, ...]
    precalculated: tuple[RefreshResult, ...]


@_with_options(ReplayOptions)
def replay(
    *ids: str,
    run: str | None = None,
    dataset: str | None = None,
    all: bool = False,
    allow_empty: bool = False,
    database: str | None = None,
    config_dir: str | Path = "config",
    **options: Unpack[ReplayOptions],
) -> Replays:
    """Load records of the failed store again as `etl failed replay` does; return the results, with exit code 0 or 1.

    Name ids, or all pending files of a run or a dataset, or `all`. An id that is not pending any more is skipped. With
    `allow_empty` the rows of earlier loads may be gone from the tables.
    Raises EtlError otherwise. A BusyError is raised after the other files are replayed; call again to replay the rest.
    """
    if not (ids or run or dataset or all):
        raise UsageError("nothing is named to replay", hint="give ids, run, dataset or all=True")
    if unknown := sorted(options.keys() - get_type_hints(ReplayOptions).keys()):
        raise TypeError(f"unexpected option {unknown[0]!r}")
    texts = {"id": ids, "run": run, "dataset": dataset, "database": database}
    _require_kinds(texts=texts, paths={"config_dir": config_dir})
    _require_expected(options)
    settings = LoadSettings.read({"retry_for": 0.0, **options})
    folder = Path(config_dir)
    with _opened(database, folder, settings) as target, FailedStore(settings.failed_dir) as store:
        wanted = ReplayFilter(ids=ids, runs=(run,) if run else (), dataset=dataset, allow_empty=allow_empty)
        selection = select(wanted, target, folder, store)
        results = list(
            replay_all(selection, target, folder, store, settings.retries, precalculates=settings.precalculate)
        )
    for result in results:
        if isinstance(result, BusyError | UsageError):
            raise result
    replayed = tuple(result for result in results if isinstance(result, ReplayResult))
    return Replays(
        exit_code=gravest(result.exit_code for result in replayed),
        replayed=replayed,
        precalculated=tuple(result for result in results if isinstance(result, RefreshResult)),
    )


def precalculate(
    *aggregates: str, database: str | None = None, config_dir: str | Path = "config", full: bool = False
) -> tuple[RefreshResult, ...]:
    """Bring all aggregates, or the named ones, up to date with the facts as `etl precalculate` does.

    Raises EtlError.
    """
    _require_kinds(texts={"aggregate": aggregates, "database": database}, paths={"config_dir": config_dir})
    folder = Path(config_dir)
    chosen = catalogue.choose(aggregates, folder)
    with _opened(database, folder) as target, connecting.connect(target, "etl:precalculate") as connection:
        done = tuple(refresh_all(connection, chosen, run=None, full=full))
    wrong = () if aggregates else tuple(catalogue.look(folder)[1].values())
    if wrong:
        raise together(wrong)
    return done


@contextmanager
def _opened(
    address: str | None, config_dir: Path, settings: LoadSettings | None = None
) -> Iterator[connecting.Database]:
    """Yield the database, found as the commands find it (contract C2)."""
    _be_quiet()
    given = address or os.environ.get("ETL_DATABASE_URL") or os.environ.get("DATABASE_URL")
    chosen = connecting.choose(given, read_file_settings(config_dir).database, os.environ)
    patience = None
    if settings is not None:
        patience = provisioning.Patience(
            settings=settings.retries, seconds=settings.retry_for, tell=lambda _error: None
        )
    with provisioning.opened(chosen, config_dir, patience) as target:
        try:
            yield target
        except psycopg.errors.InsufficientPrivilege as error:
            raise UsageError(
                f"{target.name} denies access: {error.diag.message_primary}", hint="etl db check"
            ) from error
        except psycopg.Error as error:
            raise refusals.as_etl_error(error, target) from error


def _be_quiet() -> None:
    """Send log events to the logging of the program; structlog would print them."""
    if structlog.is_configured():
        return
    logging.getLogger("etl").addHandler(logging.NullHandler())
    structlog.configure(
        processors=[structlog.stdlib.filter_by_level, structlog.stdlib.render_to_log_kwargs],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
    )


__all__ = ["EtlError", "Loaded", "Replays", "load", "precalculate", "replay"]
