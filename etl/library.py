"""The commands as functions, for programs in Python: the same line, no output, no signal handler, no exit code.

What happens is told to the logger `etl` of the standard library, which is silent unless the program gives it a handler.
"""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import msgspec
import psycopg
import structlog

from etl import provisioning
from etl.database import connecting
from etl.errors import DONE, BusyError, EtlError, ExitCode, UsageError, gravest
from etl.ingestion import constants
from etl.ingestion.constants import RETRY_ATTEMPTS, RETRY_BASE_SECONDS, RETRY_CAP_SECONDS
from etl.ingestion.destination import refusals
from etl.ingestion.failed_store.store import FailedStore
from etl.ingestion.pipeline.command import CommandResult, load_all, precalculate_all, require_all
from etl.ingestion.pipeline.job import Load, Target
from etl.ingestion.pipeline.replay import ReplayFilter, ReplayResult, replay_all, select
from etl.ingestion.pipeline.sharing import shares_of
from etl.ingestion.pipeline.stopping import Stop
from etl.ingestion.sources import encodings, naming
from etl.ingestion.values import Summary
from etl.logs import Logs
from etl.precalculation import catalogue
from etl.precalculation.refresh import Refreshed, refresh_all
from etl.settings import (
    Decoder,
    Format,
    Limit,
    LoadSettings,
    Mode,
    OnDuplicate,
    OnNul,
    OnUnknown,
    RetrySettings,
    read_file_settings,
)

# What the command line lets through: a type checker may not have looked at the program that calls.
_EXPECTED: dict[str, Any] = {
    "mode": Mode | None,
    "format": Format,
    "decoder": Decoder,
    "on_nul": OnNul | None,
    "on_duplicate": OnDuplicate | None,
    "on_unknown": OnUnknown | None,
    "workers": Annotated[int, msgspec.Meta(ge=1, le=64)],
    "batch_rows": Annotated[int, msgspec.Meta(ge=1, le=1_000_000)],
    "max_record_bytes": Annotated[int, msgspec.Meta(ge=1 << 20, le=1 << 30)],
    "limit": Annotated[int, msgspec.Meta(ge=1)] | None,
}


@dataclass(frozen=True, kw_only=True)
class Loaded:
    """What a load did: the summary of each source and dataset (C4), and the aggregates that it refreshed."""

    exit_code: ExitCode
    sources: tuple[Summary, ...]
    precalculated: tuple[Refreshed, ...]


def load(  # noqa: PLR0913 - as many as the command has options
    dataset: str,
    *sources: str | Path,
    database: str | None = None,
    config_dir: str | Path = "config",
    failed_dir: str | Path = "failed",
    mode: Mode | None = None,
    format: Format = "auto",
    records: str | None = None,
    encoding: str = "auto",
    decoder: Decoder = "auto",
    workers: int = 1,
    batch_rows: int = constants.BATCH_ROWS,
    max_record_bytes: int = constants.MAX_RECORD_BYTES,
    max_rejected: int | str = "10%",
    limit: int | None = None,
    atomic: bool = False,
    allow_empty: bool = False,
    on_nul: OnNul | None = None,
    on_duplicate: OnDuplicate | None = None,
    on_unknown: OnUnknown | None = None,
    dry_run: bool = False,
    force: bool = False,
    precalculate: bool = True,
) -> Loaded:
    """Load sources into a dataset as `etl load` does, and return what became of them: exit code 0 or 1.

    Several datasets and their paths in `records` are separated by commas, as there.

    Raises the EtlError of the gravest end of a source otherwise; calling again goes on where the ledger stops. With
    more than one worker processes are started anew, which needs `if __name__ == "__main__":` in a script.
    """
    if not sources:
        raise UsageError("no source is named")
    settings = LoadSettings(
        mode=mode,
        format=format,
        records=records,
        decoder=decoder,
        workers=workers,
        batch_rows=batch_rows,
        failed_dir=Path(failed_dir),
        atomic=atomic,
        allow_empty=allow_empty,
        max_rejected=Limit.read(str(max_rejected)),
        force=force,
        precalculate=precalculate and not dry_run,
        retries=RetrySettings(
            attempts=constants.RETRY_ATTEMPTS,
            base_seconds=constants.RETRY_BASE_SECONDS,
            cap_seconds=constants.RETRY_CAP_SECONDS,
        ),
        max_record_bytes=max_record_bytes,
        limit=limit,
        dry_run=dry_run,
        on_nul=on_nul,
        on_duplicate=on_duplicate,
        on_unknown=on_unknown,
    )
    _require_expected(settings)
    if encoding != "auto":
        encodings.require_known(encoding)
    folder = Path(config_dir)
    shares = shares_of(dataset, records, format, folder)
    named = [each for source in sources for each in naming.named(str(source), encoding)]
    result = CommandResult()
    with _opened(database, folder) as target:
        # The processes of several workers have no logger of this program.
        stop, logs = Stop(), Logs(level="critical")
        targets = [Target.of(share.dataset, share.records, settings) for share in shares]
        asked = Load(database=target, settings=settings, targets=targets, stop=stop, logs=logs)
        require_all(asked, named, folder)
        load_all(asked, named, result, lambda _summary, _error: None)
        precalculate_all(asked, folder, result, lambda _error: None)
    if result.exit_code not in DONE:
        grave = [error for error in result.errors if error.exit_code == result.exit_code]
        raise (grave or result.errors)[0]
    return Loaded(
        exit_code=result.exit_code, sources=tuple(result.summaries), precalculated=tuple(result.precalculated)
    )


def _require_expected(settings: LoadSettings) -> None:
    for name, expected in _EXPECTED.items():
        try:
            msgspec.convert(getattr(settings, name), expected)
        except msgspec.ValidationError as error:
            raise UsageError(f"{name}: {error}") from error


@dataclass(frozen=True, kw_only=True)
class Replays:
    """The results of a replay: one for each file of the failed store that was loaded, and the refreshed aggregates."""

    exit_code: ExitCode
    replayed: tuple[ReplayResult, ...]
    precalculated: tuple[Refreshed, ...]


def replay(  # noqa: PLR0913 - the options of the command
    *ids: str,
    run: str | None = None,
    dataset: str | None = None,
    all: bool = False,
    database: str | None = None,
    config_dir: str | Path = "config",
    failed_dir: str | Path = "failed",
    precalculate: bool = True,
    retry_attempts: int = RETRY_ATTEMPTS,
    retry_base_seconds: float = RETRY_BASE_SECONDS,
    retry_cap_seconds: float = RETRY_CAP_SECONDS,
) -> Replays:
    """Load records of the failed store again as `etl failed replay` does; return the results, with exit code 0 or 1.

    Name ids, or all pending files of a run or a dataset, or `all`. An id that is not pending any more is skipped.
    Raises EtlError otherwise. A BusyError is raised after the other files are replayed; call again to replay the rest.
    """
    if not (ids or run or dataset or all):
        raise UsageError("nothing is named to replay", hint="give ids, run, dataset or all=True")
    folder = Path(config_dir)
    settings = RetrySettings(attempts=retry_attempts, base_seconds=retry_base_seconds, cap_seconds=retry_cap_seconds)
    with _opened(database, folder) as target, FailedStore(Path(failed_dir)) as store:
        selection = select(ReplayFilter(ids=ids, run=run, dataset=dataset), target, folder, store)
        results = list(replay_all(selection, target, folder, store, settings, precalculates=precalculate))
    for result in results:
        if isinstance(result, BusyError):
            raise result
    replayed = tuple(result for result in results if isinstance(result, ReplayResult))
    return Replays(
        exit_code=gravest(result.exit_code for result in replayed),
        replayed=replayed,
        precalculated=tuple(result for result in results if isinstance(result, Refreshed)),
    )


def precalculate(
    *aggregates: str, database: str | None = None, config_dir: str | Path = "config", full: bool = False
) -> tuple[Refreshed, ...]:
    """Bring aggregates up to date with the facts, those named or all, as `etl precalculate` does.

    Raises EtlError.
    """
    folder = Path(config_dir)
    chosen = catalogue.choose(aggregates, folder)
    with _opened(database, folder) as target, connecting.connect(target, "etl:precalculate") as connection:
        return tuple(refresh_all(connection, chosen, run=None, full=full))


@contextmanager
def _opened(address: str | None, config_dir: Path) -> Iterator[connecting.Database]:
    """Yield the database that is meant, as the commands find it (contract C2)."""
    _be_quiet()
    given = address or os.environ.get("ETL_DATABASE_URL") or os.environ.get("DATABASE_URL")
    chosen = connecting.choose(given, read_file_settings(config_dir).database, os.environ)
    with provisioning.opened(chosen, config_dir) as target:
        try:
            yield target
        except psycopg.errors.InsufficientPrivilege as error:
            raise UsageError(f"{target.name} denies it: {error.diag.message_primary}", hint="etl db check") from error
        except psycopg.Error as error:
            raise refusals.as_etl_error(error, target) from error


def _be_quiet() -> None:
    """Send the story to the program's own logging, where structlog would print it."""
    if structlog.is_configured():
        return
    logging.getLogger("etl").addHandler(logging.NullHandler())
    structlog.configure(
        processors=[structlog.stdlib.filter_by_level, structlog.stdlib.render_to_log_kwargs],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
    )


__all__ = ["EtlError", "Loaded", "Replays", "load", "precalculate", "replay"]
