"""The aggregates of records that are loaded as they come, refreshed soon after them, at most so often."""

import threading
import time
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import Self

import structlog

from etl.database.connecting import Database, Session
from etl.errors import EtlError
from etl.ingestion.pipeline.job import Stop
from etl.ingestion.pipeline.refreshing import APPLICATION_NAME, precalculate
from etl.settings import RetrySettings

log = structlog.get_logger(__name__)


class Refresher:
    """Refreshes in a thread: the next records are loaded meanwhile, and wait for no refresh.

    `seconds` is the time from the start of one refresh to the next at least; 0: others refresh. After a refresh that
    takes longer than half of it, the thread rests for as long as the refresh took: the database is never busy with
    refreshes alone.
    """

    def __init__(self, database: Database, config_dir: Path, retries: RetrySettings, seconds: float) -> None:
        self._database = database
        self._config_dir = config_dir
        self._retries = retries
        self._seconds = seconds
        self._news = threading.Condition()
        self._tables: set[str] = set()
        self._is_ended = False
        self._stop = Stop()
        self._thread = threading.Thread(target=self._refresh_all, name="etl-refresh", daemon=True)

    def __enter__(self) -> Self:
        if self._seconds:
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Refresh what was noted, and end."""
        with self._news:
            self._is_ended = True
            self._news.notify()
        if self._thread.is_alive():
            self._thread.join()

    def note(self, tables: Iterable[str]) -> None:
        """Note that rows of these tables changed."""
        with self._news:
            self._tables.update(tables)
            self._news.notify()

    def _refresh_all(self) -> None:
        while (tables := self._next()) is not None:
            begun = time.monotonic()
            self._refresh(tables)
            took = time.monotonic() - begun
            with self._news:
                self._news.wait_for(lambda: self._is_ended, max(self._seconds - took, took))

    def _next(self) -> set[str] | None:
        with self._news:
            self._news.wait_for(lambda: self._is_ended or self._tables)
            tables, self._tables = self._tables, set()
            return tables or None

    def _refresh(self, tables: set[str]) -> None:
        try:
            session = Session(self._database, APPLICATION_NAME)
            for _ in precalculate(session, self._config_dir, sorted(tables), None, self._stop, self._retries):
                pass
        except EtlError as error:
            log.warning("refresh_waits", reason=str(error), hint=error.hint)
            with self._news:
                if not self._is_ended:
                    self._tables |= tables
                    self._news.wait_for(lambda: self._is_ended, 10 * self._seconds)
