"""A replay that an operator asks for: one file of the failed store is loaded again, as `etl failed replay ID` does.

One replay runs at a time, in a thread of its own, while the loop answers other requests. The ledger has its result.
"""

import asyncio
import threading
import traceback
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal, TypeAlias

import psycopg
import structlog

from etl.database.connecting import Database, connect
from etl.errors import BusyError, DatabaseError, EtlError, UsageError
from etl.ingestion.failed_store.store import FailedStore
from etl.ingestion.ledger import failures, locks
from etl.ingestion.ledger.failures import StoredFailure
from etl.ingestion.pipeline import replay
from etl.ingestion.pipeline.replay import NotPending, ReplayFilter, ReplayResult, Selection
from etl.serving import problems
from etl.serving.problems import ProblemError
from etl.settings import RetrySettings, Url

_MOST_KNOWN = 1_000
_SESSION = "etl:serve:replay"
_NOT_PENDING = "this file does not wait for a replay: it is {state}"

_Replayed: TypeAlias = tuple[ReplayResult, str | None]
"""The result of a replay, and why the aggregates were not refreshed after it."""

log = structlog.get_logger("etl.serving.audit")


@dataclass(frozen=True, kw_only=True)
class ReplayState:
    """A replay that this process was asked for. `stored` names the files with the records that were refused again.

    `problem` says why a replay failed, or why the aggregates were not refreshed after it.
    """

    state: Literal["running", "done", "failed"]
    asked_at: datetime
    asked_by: str
    ended_at: datetime | None = None
    loaded: int | None = None
    rejected: int | None = None
    failed: int | None = None
    stored: list[str] | None = None
    problem: str | None = None


class Replays:
    """Replays files of a failed store, one at a time."""

    def __init__(self, database: Database, config_dir: Path, failed_dir: Path | Url) -> None:
        self._database = database
        self._config_dir = config_dir
        self._failed_dir = failed_dir
        self._executor = ThreadPoolExecutor(1, "replay")
        self._running: str | None = None
        self._is_closing = threading.Event()
        self._known: OrderedDict[str, ReplayState] = OrderedDict()

    def state_of(self, id: str) -> ReplayState | None:
        """Return the newest replay of a file that this process was asked for."""
        return self._known.get(id)

    async def begin(self, id: str, who: str) -> ReplayState:
        """Begin the replay of a file and return while it runs.

        Raises ProblemError when there is no such file, when it does not wait or its source is held, when it cannot be
        replayed as it is, and when another replay runs.
        """
        if self._running is not None or self._is_closing.is_set():
            raise ProblemError(409, "another replay runs; ask again when it has ended", {"Retry-After": "5"})
        self._running = id
        self._known.pop(id, None)
        log.info("replay_asked", failure=id[:200], who=who)
        begun: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        state = ReplayState(state="running", asked_at=datetime.now(UTC), asked_by=who)
        work = asyncio.get_running_loop().run_in_executor(self._executor, self._replay, id, begun)
        work.add_done_callback(lambda done: self._end(id, state, done, begun))
        # A client that goes away ends no replay.
        await asyncio.shield(begun)
        return self._known.setdefault(id, state)

    async def close(self) -> None:
        """Wait for the file in hand; the aggregates that it changed may be left to the next refresh."""
        self._is_closing.set()
        await asyncio.to_thread(self._executor.shutdown)

    def _end(self, id: str, state: ReplayState, done: "asyncio.Future[_Replayed]", begun: asyncio.Future[None]) -> None:
        """Note the end of a replay. One that could not begin is the problem of the request."""
        self._running = None
        error = done.exception()
        if error is None:
            result, problem = done.result()
            state = replace(
                state,
                state="done",
                loaded=result.loaded,
                rejected=result.rejected,
                failed=result.failed,
                stored=list(result.stored),
                problem=problem,
            )
            refused = result.rejected + result.failed
            log.info("replay_ended", failure=id, who=state.asked_by, loaded=result.loaded, refused=refused)
        else:
            refusal = _problem_of(error)
            log.warning("replay_failed", failure=id[:200], who=state.asked_by, reason=refusal.detail)
            if not begun.done():
                begun.set_exception(refusal)
                return
            state = replace(state, state="failed", problem=refusal.detail)
        self._known[id] = replace(state, ended_at=datetime.now(UTC))
        if len(self._known) > _MOST_KNOWN:
            self._known.popitem(last=False)

    def _replay(self, id: str, begun: asyncio.Future[None]) -> _Replayed:
        """Replay a file in this thread, and then bring the aggregates up to date.

        Raises EtlError, ProblemError and psycopg.Error; none after the file is replayed.
        """
        with FailedStore(self._failed_dir) as store:
            with connect(self._database, _SESSION) as connection:
                require_known(connection, id)
            selection = replay.select(ReplayFilter(ids=(id,)), self._database, self._config_dir, store)
            self._require_free(selection)
            begun.get_loop().call_soon_threadsafe(_begin, begun)
            done: ReplayResult | None = None
            results = replay.replay_all(selection, self._database, self._config_dir, store, RetrySettings())
            try:
                for result in results:
                    if isinstance(result, EtlError):
                        raise result
                    if isinstance(result, NotPending):
                        raise BusyError(_NOT_PENDING.format(state=result.state))
                    if isinstance(result, ReplayResult):
                        done = result
                    if self._is_closing.is_set():
                        break
            except (EtlError, psycopg.Error):
                if done is None:
                    raise
                return done, "the aggregates could not be refreshed now; the next refresh does that"
        if done is None:
            raise BusyError("the service ends")
        return done, None

    def _require_free(self, selection: Selection) -> None:
        """Raise EtlError when a file does not wait, cannot be replayed, or when its source is held."""
        [failure] = selection.failures
        if failure.state != "pending":
            raise BusyError(_NOT_PENDING.format(state=failure.state))
        if failure.id in selection.obstacles:
            raise selection.obstacles[failure.id]
        with connect(self._database, _SESSION) as connection, connection.transaction():
            if not locks.share_dataset_in_transaction(connection, failure.dataset):
                raise BusyError("a load replaces the rows of this dataset now")
            if not locks.hold_run_in_transaction(connection, failure.run):
                raise BusyError("a load or another replay holds the source of this file now")


def _begin(begun: asyncio.Future[None]) -> None:
    if not begun.done():
        begun.set_result(None)


def _problem_of(error: BaseException) -> ProblemError:
    """Return the problem that an error of a replay is for a client."""
    if isinstance(error, ProblemError):
        return error
    if isinstance(error, BusyError | UsageError):
        return ProblemError(409 if isinstance(error, BusyError) else 422, str(error))
    if isinstance(error, psycopg.errors.InsufficientPrivilege):
        return ProblemError(403, "the user of the service may not load records: it needs the role etl_loader")
    if isinstance(error, psycopg.Error):
        return problems.of_database(error)
    if isinstance(error, DatabaseError):
        return problems.busy("the database cannot be reached now")
    frames = traceback.format_tb(error.__traceback__)
    log.error("unexpected_fault", fault=type(error).__name__, frames=frames)
    return ProblemError(500, "this is a fault of the service; it is logged")


def require_known(connection: psycopg.Connection, id: str) -> StoredFailure:
    """Return a file of the failed store by its id.

    Raises ProblemError when there is none.
    """
    for failure in failures.find(connection, id=id):
        return failure
    raise ProblemError(404, "there is no such file of the failed store")
