"""The commands as functions, for programs in Python: the same line, no output, no signal handler, no exit code.

What happens is told to the logger `etl` of the standard library, which is silent unless the program gives it a handler.
"""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import msgspec
import psycopg
import structlog

from etl import provisioning
from etl.database import connecting
from etl.errors import DONE, EtlError, ExitCode, UsageError
from etl.ingestion import constants
from etl.ingestion.pipeline import outcome
from etl.ingestion.pipeline.command import Course, load_all, precalculate_all, require_all
from etl.ingestion.pipeline.job import Job, Stop
from etl.ingestion.pipeline.sharing import shares_of
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
    course = Course()
    with _opened(database, folder) as target:
        # The processes of several workers have no logger of this program.
        stop, logs = Stop(), Logs(level="critical")
        jobs = [
            Job(
                dataset=share.dataset,
                database=target,
                settings=replace(settings, records=share.records),
                stop=stop,
                logs=logs,
            )
            for share in shares
        ]
        require_all(jobs, named, folder)
        load_all(named, jobs, course, lambda _summary, _error: None)
        precalculate_all(jobs, folder, course, lambda _error: None)
    if course.exit_code not in DONE:
        grave = [error for error in course.errors if error.exit_code == course.exit_code]
        raise (grave or course.errors)[0]
    return Loaded(
        exit_code=course.exit_code, sources=tuple(course.summaries), precalculated=tuple(course.precalculated)
    )


def _require_expected(settings: LoadSettings) -> None:
    for name, expected in _EXPECTED.items():
        try:
            msgspec.convert(getattr(settings, name), expected)
        except msgspec.ValidationError as error:
            raise UsageError(f"{name}: {error}") from error


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
            raise outcome.lost(error, target) from error


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


__all__ = ["EtlError", "Loaded", "load", "precalculate"]
