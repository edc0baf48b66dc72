"""The database of a call, found as the commands find it, and the log events of a call."""

import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import structlog

from etl import provisioning
from etl.database import connecting
from etl.errors import UsageError
from etl.ingestion.destination import refusals
from etl.settings import LoadSettings, read_file_settings


def address_of(given: str | None, config_dir: Path) -> str:
    """Return the address of the database (contract C2)."""
    if given is None:
        given = os.environ.get("ETL_DATABASE_URL") or os.environ.get("DATABASE_URL")
    return connecting.choose(given, read_file_settings(config_dir).database, os.environ)


@contextmanager
def opened(
    address: str | None,
    config_dir: Path,
    settings: LoadSettings | None = None,
    *,
    creates: bool = True,
    connects: bool = False,
) -> Iterator[connecting.Database]:
    """Yield the database; an error of the server is an EtlError. With `creates=False` no embedded server is made.

    `connects`: the caller connects at once.
    """
    be_quiet()
    patience = None
    if settings is not None:
        patience = provisioning.Patience(
            settings=settings.retries, seconds=settings.retry_for, tell=lambda _error: None
        )
    chosen = address_of(address, config_dir)
    with provisioning.opened(chosen, config_dir, patience, creates=creates, connects=connects) as target:
        try:
            yield target
        except psycopg.errors.InsufficientPrivilege as error:
            raise UsageError(
                f"{target.name} denies access: {error.diag.message_primary}", hint="etl db check"
            ) from error
        except psycopg.Error as error:
            raise refusals.as_etl_error(error, target) from error


def be_quiet() -> None:
    """Send log events of this package to the logger `etl`; structlog would print them.

    A program that has configured structlog gets them there. To the loggers of other packages nothing changes.
    """
    if structlog.is_configured():
        return
    logging.getLogger("etl").addHandler(logging.NullHandler())
    before = structlog.get_config()
    others = before["logger_factory"]

    def logger_of(*names: Any) -> Any:
        is_own = bool(names) and str(names[0]).partition(".")[0] == "etl"
        return logging.getLogger(names[0]) if is_own else others(*names)

    structlog.configure(
        processors=[_processed_as(before["processors"])],
        logger_factory=logger_of,
    )


def _processed_as(before: list[Any]) -> Callable[[Any, str, Any], Any]:
    """Return the processor that sends events of this package to the standard library, and others through `before`."""

    def process(logger: Any, method: str, event: Any) -> Any:
        processors = before
        if isinstance(logger, logging.Logger):
            processors = [
                structlog.stdlib.filter_by_level,
                structlog.contextvars.merge_contextvars,
                structlog.stdlib.render_to_log_kwargs,
            ]
        for each in processors:
            event = each(logger, method, event)
        return event

    return process
