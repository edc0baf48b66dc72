"""What the service knows of the database at each moment: the aggregates, their versions, and how fresh they are.

One connection receives the notifications of refreshes, for subscribers. Whether a kept answer is the newest is asked
for each request (`versions`), because a notification comes a moment after the commit.
"""

import asyncio
import json
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import psycopg
import structlog
from psycopg.rows import class_row

from etl import datasets, queries
from etl.database.connecting import Database, connect, conninfo_of
from etl.database.sqlstates import code_of
from etl.datasets import Dataset
from etl.errors import EtlError
from etl.precalculation import catalogue
from etl.precalculation.catalogue import Aggregate
from etl.serving.deadlines import Deadline
from etl.serving.pool import Connection, Sessions, configure
from etl.serving.problems import ProblemError
from etl.serving.tables import Table, read_facts, read_tables

# How often the freshness is read, because notes of changed facts and rejected records send no notification.
POLL_SECONDS = 2.0
# Subscribers hear of loads at most so often: a stream of events loads some groups each second.
LOADS_SECONDS = 0.5
# A connection that has not answered for so long is taken for dead.
LIVE_SECONDS = 5.0
# So old may be what an answer says of pending buckets and rejected records.
KNOWN_SECONDS = 10.0
_PAUSES = (0.2, 5.0)
_STATEMENT_TIMEOUT = "4s"

_SQL = queries.load("serving")

log = structlog.get_logger(__name__)


@dataclass(frozen=True, kw_only=True)
class Freshness:
    """How far an aggregate follows its facts; times are texts of the server. `version` is None: never computed."""

    aggregate: str
    version: int | None
    refreshed_at: str | None
    facts_through: str | None
    newest_event_at: str | None
    future_event_at: str | None
    rows: int | None
    pending_buckets: int
    rejected_pending: int


Changed = Callable[[Freshness], None]
Loaded = Callable[[], None]


class Watch:
    """The state of the database as the last notification and the last look left it."""

    def __init__(self, database: Database, sessions: Sessions, config_dir: Path) -> None:
        self.tables: Mapping[str, Table] = {}
        self.facts: Mapping[str, Table] = {}
        self.freshness: dict[str, Freshness] = {}
        self.key_changes = 0
        """Rises when a key was made, changed or removed, and when that may have been missed."""
        self.has_looked = asyncio.Event()
        self._database = database
        self._sessions = sessions
        self._config_dir = config_dir
        self._aggregates: tuple[Aggregate, ...] = ()
        self._datasets: list[Dataset] = []
        self._files: object = None
        self._heard_at: float | None = None
        self._looked_at: float | None = None
        self._noted: set[str] = set()
        self._listeners: list[Changed] = []
        self._of_loads: list[Loaded] = []
        self._of_keys: list[Loaded] = []
        self._reported_at = -LOADS_SECONDS
        self._reporting: asyncio.TimerHandle | None = None

    @property
    def is_live(self) -> bool:
        """Whether new versions are heard of when they commit, and what is pending was looked at."""
        return self.is_known and self._heard_at is not None and _now() < self._heard_at + LIVE_SECONDS

    @property
    def is_known(self) -> bool:
        """Whether it was looked at lately which aggregates there are, and what is pending."""
        return self._looked_at is not None and _now() < self._looked_at + KNOWN_SECONDS

    def when_changed(self, listener: Changed) -> None:
        """Call a function with the freshness of each aggregate whose rows changed."""
        self._listeners.append(listener)

    def when_loaded(self, listener: Loaded) -> None:
        """Call a function when runs have ended, or groups of events are loaded: at most some times a second."""
        self._of_loads.append(listener)

    def when_keys_changed(self, listener: Loaded) -> None:
        """Call a function when a key was made, changed or removed."""
        self._of_keys.append(listener)

    async def run(self) -> None:
        """Watch until the task is cancelled; a lost connection is opened again."""
        pause = _PAUSES[0]
        while True:
            try:
                async with await psycopg.AsyncConnection.connect(
                    conninfo_of(self._database, "etl:serve:listen"), autocommit=True
                ) as connection:
                    await configure(connection, _STATEMENT_TIMEOUT)
                    await connection.execute(_SQL["listen"])
                    self.key_changes += 1
                    await self._follow(connection)
            except (psycopg.Error, ProblemError, OSError, TimeoutError) as error:
                code = code_of(error) if isinstance(error, psycopg.Error) else None
                log.warning("watch_lost", reason=type(error).__name__, sqlstate=code, seconds=pause)
                await asyncio.to_thread(self._revive)
            pause = _PAUSES[0] if self._heard_at is not None else min(2 * pause, _PAUSES[1])
            self._heard_at = None
            await asyncio.sleep(pause)

    def _revive(self) -> None:
        """Start the embedded server again if it was killed; another server comes back by itself."""
        if self._database.embedded:
            with suppress(EtlError, psycopg.Error):
                connect(self._database, "etl:serve", sees_all=False).close()

    async def _follow(self, connection: Connection) -> None:
        """Take the notifications of a connection, and look at the rest in between, until it is lost."""
        await self.look()
        self._heard_at = _now()
        looking = asyncio.create_task(self._keep_looking())
        try:
            while True:
                async for note in connection.notifies(timeout=POLL_SECONDS):
                    self._hear(note)
                with Deadline(connection, LIVE_SECONDS - POLL_SECONDS):
                    await connection.execute(_SQL["alive"])
                self._heard_at = _now()
        finally:
            looking.cancel()

    async def _keep_looking(self) -> None:
        while True:
            await asyncio.sleep(POLL_SECONDS)
            try:
                await self.look()
            except ProblemError as error:
                log.warning("look_failed", reason=error.detail)

    async def look(self) -> None:
        """Read which aggregates there are, and how fresh each of them is.

        Raises ProblemError when the database does not answer.
        """
        files = _stamp(self._config_dir)
        if files != self._files:
            self._aggregates = await asyncio.to_thread(catalogue.readable, self._config_dir)
            self._datasets = await asyncio.to_thread(datasets.readable, self._config_dir)
            self._files = files
        self._noted.clear()

        async def read(connection: Connection) -> tuple[dict[str, Table], dict[str, Table], list[Freshness]]:
            async with connection.cursor(row_factory=class_row(Freshness)) as cursor:
                await cursor.execute(_SQL["freshness"], {"aggregate": None})
                rows = await cursor.fetchall()
            tables = await read_tables(connection, self._aggregates)
            return tables, await read_facts(connection, self._datasets), rows

        tables, self.facts, rows = await self._sessions.read(None, read)
        if tables != self.tables:
            self.tables = tables
        self._take(rows)
        self._looked_at = _now()
        self.has_looked.set()

    def _take(self, rows: Iterable[Freshness]) -> None:
        """Take what a look has read; a version that was announced since its begin is newer."""
        known, self.freshness = self.freshness, {}
        for row in rows:
            before = known.get(row.aggregate)
            is_newer = row.aggregate in self._noted and before is not None
            self.freshness[row.aggregate] = replace(row, version=before.version) if is_newer and before else row
            if before is not None and row.version is not None and not is_newer and before.version != row.version:
                self._announce(row)

    def _announce(self, row: Freshness) -> None:
        for listener in self._listeners:
            listener(row)

    def _hear(self, note: psycopg.Notify) -> None:
        """Take a notification; the next look reads the rest."""
        if note.channel == "etl_api_keys":
            self.key_changes += 1
            for listener in self._of_keys:
                listener()
            return
        if note.channel == "etl_runs":
            self._hear_load()
            return
        try:
            read: dict[str, Any] = json.loads(note.payload)
            name, version = str(read["aggregate"]), read["version"]
        except (ValueError, KeyError, TypeError):
            return
        known = self.freshness.get(name)
        if known is not None and version != known.version:
            self._noted.add(name)
            self.freshness[name] = replace(known, version=version)
            if version is not None:
                self._announce(self.freshness[name])

    def _hear_load(self) -> None:
        """Let the listeners know of a load: at once, or after those of the last moment."""
        if self._reporting is None:
            loop = asyncio.get_running_loop()
            self._reporting = loop.call_at(max(loop.time(), self._reported_at + LOADS_SECONDS), self._report_loads)

    def _report_loads(self) -> None:
        self._reporting, self._reported_at = None, _now()
        for listener in self._of_loads:
            listener()


def _now() -> float:
    return asyncio.get_running_loop().time()


def _stamp(config_dir: Path) -> object:
    """Return what changes when a file of an aggregate or a dataset of the user is added, removed or written."""
    paths = [path for name in ("aggregates", "datasets") for path in (config_dir / name).glob("*")]
    return tuple(sorted((str(path), path.stat().st_mtime_ns) for path in paths))
