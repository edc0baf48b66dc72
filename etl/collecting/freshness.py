"""The aggregates of what was loaded, refreshed soon after it, at most so often."""

import threading
import time
from collections.abc import Iterable
from types import TracebackType
from typing import TYPE_CHECKING, Self

import structlog

from etl.errors import EtlError
from etl.ingestion.pipeline.job import Stop
from etl.ingestion.pipeline.refreshing import precalculate

if TYPE_CHECKING:
    from etl.collecting.work import Work

log = structlog.get_logger(__name__)


class Refresher:
    """Refreshes in a thread: the next groups are loaded meanwhile, and wait for no refresh."""

    def __init__(self, work: "Work") -> None:
        self._work = work
        self._news = threading.Condition()
        self._tables: set[str] = set()
        self._is_ended = False
        self._stop = Stop()
        self._thread = threading.Thread(target=self._refresh_all, name="etl-refresh", daemon=True)

    def __enter__(self) -> Self:
        if self._work.refresh_seconds:
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
            with self._news:
                left = begun + self._work.refresh_seconds - time.monotonic()
                self._news.wait_for(lambda: self._is_ended, max(0.0, left))

    def _next(self) -> set[str] | None:
        with self._news:
            self._news.wait_for(lambda: self._is_ended or self._tables)
            tables, self._tables = self._tables, set()
            return tables or None

    def _refresh(self, tables: set[str]) -> None:
        work = self._work
        try:
            for _ in precalculate(
                work.database, work.config_dir, sorted(tables), None, self._stop, work.settings.retries
            ):
                pass
        except EtlError as error:
            log.warning("refresh_waits", reason=str(error), hint=error.hint)
            with self._news:
                if not self._is_ended:
                    self._tables |= tables
                    self._news.wait_for(lambda: self._is_ended, 10 * work.refresh_seconds)
