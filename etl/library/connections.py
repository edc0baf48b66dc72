"""`etl.connect`: a database, and the functions that work with it."""

import weakref
from collections.abc import Callable
from contextlib import ExitStack
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Self, Unpack

from etl.errors import UsageError
from etl.ingestion.ledger.history import RunStatus
from etl.library import defining, loading, looking, replaying, restoring
from etl.library.arguments import AnySource, LoadOptions, ReplayOptions, require_kinds, with_options
from etl.library.opening import address_of, opened
from etl.library.progress import Progress
from etl.library.results import Created, Failures, Loaded, Precalculated, Replays, Runs, Undone


def connect(database: str | None = None, *, config_dir: str | Path = "config") -> "Connection":
    """Return a handle whose methods are the functions of this package for one database.

    The database is found once, as the commands find it, and looked at: a wrong address raises EtlError here. An
    embedded server runs until the handle is closed; without the handle each call would start and stop it.
    """
    require_kinds(texts={"database": database}, paths={"config_dir": config_dir})
    return Connection(database, Path(config_dir))


class Connection:
    """A database, and the functions that work with it; a context that closes it.

    `name` is `host/dbname`, never a password. `conninfo` is the address for psycopg and other clients of libpq, which
    may have the password that was given.
    """

    def __init__(self, database: str | None, config_dir: Path) -> None:
        self.config_dir = config_dir
        # Without an address libpq has its variables, which each call finds again.
        self._address = address_of(database, config_dir) or None
        with ExitStack() as stack:
            target = stack.enter_context(opened(self._address, config_dir))
            self._close = weakref.finalize(self, stack.pop_all().close)
        if target.folder is not None:
            self._address = f"embedded:{target.folder}"  # Also after the program changed its working folder.
        self.name = target.name
        self.conninfo = target.conninfo

    def __repr__(self) -> str:
        return f"<etl.Connection {self.name}{'' if self._close.alive else ', closed'}>"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Stop an embedded server, unless others use it. Closing again does nothing."""
        self._close()

    @with_options(LoadOptions)
    def load(
        self,
        dataset: str,
        *sources: AnySource,
        source_name: str | None = None,
        progress: Callable[[Progress], object] | None = None,
        timeout: float | None = None,
        metrics_file: str | Path | None = None,
        **options: Unpack[LoadOptions],
    ) -> Loaded:
        """Load sources into a dataset: see `etl.load`."""
        return loading.load(
            dataset,
            *sources,
            source_name=source_name,
            progress=progress,
            timeout=timeout,
            metrics_file=metrics_file,
            database=self._open_address,
            config_dir=self.config_dir,
            **options,
        )

    @with_options(ReplayOptions)
    def replay(
        self,
        *ids: str,
        run: str | None = None,
        dataset: str | None = None,
        all: bool = False,
        allow_empty: bool = False,
        metrics_file: str | Path | None = None,
        **options: Unpack[ReplayOptions],
    ) -> Replays:
        """Load records of the failed store again: see `etl.replay`."""
        return replaying.replay(
            *ids,
            run=run,
            dataset=dataset,
            all=all,
            allow_empty=allow_empty,
            metrics_file=metrics_file,
            database=self._open_address,
            config_dir=self.config_dir,
            **options,
        )

    def precalculate(self, *aggregates: str, full: bool = False) -> Precalculated:
        """Bring aggregates up to date: see `etl.precalculate`."""
        return restoring.precalculate(*aggregates, full=full, database=self._open_address, config_dir=self.config_dir)

    def create(self, dataset: str) -> Created:
        """Make the tables of a dataset: see `etl.create`."""
        return defining.create(dataset, database=self._open_address, config_dir=self.config_dir)

    def failed(
        self,
        *,
        run: str | None = None,
        dataset: str | None = None,
        all: bool = False,
        content: bool = False,
        failed_dir: str | Path = "failed",
    ) -> Failures:
        """Return the pending files of the failed store: see `etl.failed`."""
        return looking.failed(
            run=run,
            dataset=dataset,
            all=all,
            content=content,
            failed_dir=failed_dir,
            database=self._open_address,
            config_dir=self.config_dir,
        )

    def runs(
        self,
        *,
        run: str | None = None,
        dataset: str | None = None,
        status: RunStatus | None = None,
        since: datetime | None = None,
        limit: int = 20,
    ) -> Runs:
        """Return the newest runs: see `etl.runs`."""
        return looking.runs(
            run=run,
            dataset=dataset,
            status=status,
            since=since,
            limit=limit,
            database=self._open_address,
            config_dir=self.config_dir,
        )

    def undo(self, run: str, *, dry_run: bool = False, delete_rows: bool = False, precalculate: bool = True) -> Undone:
        """Take a run back: see `etl.undo`."""
        return restoring.undo(
            run,
            dry_run=dry_run,
            delete_rows=delete_rows,
            precalculate=precalculate,
            database=self._open_address,
            config_dir=self.config_dir,
        )

    @property
    def _open_address(self) -> str | None:
        if not self._close.alive:
            raise UsageError("the connection is closed", hint="etl.connect() opens another one")
        return self._address
