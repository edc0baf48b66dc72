"""What operators ask: runs, failures, datasets, and the record that a row came from. Never the content of a record.

These answers are read over connections of their own by the same functions as the commands use.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated
from urllib.parse import quote

import psycopg
from fastapi import APIRouter, Depends, Query, Request, Response

from etl import datasets, queries
from etl.database.connecting import Database, connect
from etl.errors import DatabaseError, UsageError
from etl.ingestion.ledger import failures, history
from etl.ingestion.ledger.failures import State, StoredFailure
from etl.ingestion.ledger.history import AttemptRow, FaultRow, RunFilter, RunRow, RunStatus
from etl.ingestion.pipeline import tracing
from etl.serving import problems
from etl.serving.identity import Identity
from etl.serving.problems import ProblemError
from etl.serving.replaying import Replays, ReplayState, require_known

# How many operators are answered at once, and how many seconds one of them waits.
_SESSIONS = 4
_WAIT_SECONDS = 2.0
_MAX = 1_000

_SQL = queries.load("serving")


@dataclass(frozen=True, kw_only=True)
class Runs:
    """Runs, the newest first. `more`: there are more that match; ask for fewer with `since`, `dataset` or `status`."""

    runs: list[RunRow]
    more: bool


@dataclass(frozen=True, kw_only=True)
class Run:
    """A run with its attempts, and with the faults of its refused records."""

    run: RunRow
    attempts: list[AttemptRow]
    faults: list[FaultRow]


@dataclass(frozen=True, kw_only=True)
class FailureList:
    """Files of the failed store, in the order of their creation. `more`: there are more that match."""

    failures: list[StoredFailure]
    more: bool


@dataclass(frozen=True, kw_only=True)
class FailureEntry:
    """A file of the failed store. `waiting` names pending files with the records that its replays were refused.

    `replay` is the newest replay that this process was asked for; what counts is the state of the file.
    """

    failure: StoredFailure
    waiting: list[str]
    replay: ReplayState | None


@dataclass(frozen=True, kw_only=True)
class ReplayBegun:
    """A replay that has begun; `result` is the address that says how it ends."""

    id: str
    result: str
    replay: ReplayState


@dataclass(frozen=True, kw_only=True)
class DatasetColumn:
    """A column of a table that a dataset fills."""

    name: str
    type: str
    comment: str | None


@dataclass(frozen=True, kw_only=True)
class DatasetTable:
    """A table that a dataset fills."""

    name: str
    comment: str | None
    columns: list[DatasetColumn]


@dataclass(frozen=True, kw_only=True)
class DatasetEntry:
    """A dataset: how its records become rows."""

    name: str
    mode: str
    key: list[str]
    newest_by: str | None
    tables: list[DatasetTable]


@dataclass(frozen=True, kw_only=True)
class Datasets:
    """The datasets of this installation."""

    datasets: list[DatasetEntry]


@dataclass(frozen=True, kw_only=True)
class TracedRecord:
    """Where the record of a row is: its source, its number and its first byte. `missing` says why one is not known."""

    run: str | None
    dataset: str | None
    source: str | None
    loaded_at: datetime | None
    record: int | None
    offset: int | None
    missing: str | None


@dataclass(frozen=True, kw_only=True)
class Traced:
    """The records that the rows with some values came from. `more`: there are more such rows."""

    table: str
    records: list[TracedRecord]
    more: bool


class Ledger:
    """Sessions in which the ledger is read."""

    def __init__(self, database: Database, config_dir: Path, statement_seconds: float) -> None:
        self.config_dir = config_dir
        self._database = database
        self._timeout = f"{round(statement_seconds * 1000)}ms"
        self._free = threading.BoundedSemaphore(_SESSIONS)

    @contextmanager
    def session(self) -> Iterator[psycopg.Connection]:
        """Give a read-only session.

        Raises ProblemError for errors of the database, and when too many ask.
        """
        if not self._free.acquire(timeout=_WAIT_SECONDS):
            raise problems.busy("too many ask for runs and failures now")
        try:
            with connect(self._database, "etl:serve:ledger", sees_all=False) as connection:
                connection.execute(_SQL["limit_session"], {"statement_timeout": self._timeout})
                yield connection
        except psycopg.Error as error:
            raise problems.of_database(error) from error
        except DatabaseError as error:
            raise problems.busy("the database cannot be reached now") from error
        finally:
            self._free.release()


def is_operator(request: Request) -> None:
    """Let only operators pass.

    Raises ProblemError.
    """
    identity: Identity = request.scope["etl.identity"]
    if not identity.may("operator"):
        raise ProblemError(403, f"this is for operators; your role is {identity.role}")


def router(ledger: Ledger, replays: Replays | None) -> APIRouter:
    """Return the routes for operators; without `replays` nothing can be replayed."""
    routes = APIRouter(prefix="/v1", dependencies=[Depends(is_operator)], tags=["operators"])
    _add_runs(routes, ledger)
    _add_failures(routes, ledger)
    _add_replay(routes, ledger, replays)
    _add_datasets(routes, ledger)
    return routes


def _add_runs(routes: APIRouter, ledger: Ledger) -> None:
    """Add the routes of what was loaded."""

    @routes.get("/runs")
    def runs(
        dataset: str | None = None,
        status: RunStatus | None = None,
        since: datetime | None = None,
        limit: Annotated[int, Query(ge=1, le=_MAX)] = 50,
    ) -> Runs:
        """List what was loaded, the newest run first."""
        start = since.replace(tzinfo=UTC) if since is not None and since.tzinfo is None else since
        with ledger.session() as connection:
            asked = RunFilter(dataset=_text(dataset), status=status, since=start, limit=limit + 1)
            found = history.runs(connection, asked, Path.cwd())
        return Runs(runs=found[:limit], more=len(found) > limit)

    @routes.get("/runs/{run}")
    def run(run: str) -> Run:
        """Show one run; `latest` is the newest."""
        with ledger.session() as connection:
            try:
                name = history.name_of(connection, _text(run) or "")
            except UsageError as error:
                raise ProblemError(404, str(error)) from error
            found = history.runs(connection, RunFilter(run=name), Path.cwd())
            if not found:
                raise ProblemError(404, "there is no such run")
            return Run(
                run=found[0], attempts=history.attempts(connection, name), faults=history.faults(connection, name)
            )


def _add_failures(routes: APIRouter, ledger: Ledger) -> None:
    """Add the route of what was refused."""

    @routes.get("/failures")
    def failure_list(
        run: str | None = None,
        dataset: str | None = None,
        state: State | None = None,
        limit: Annotated[int, Query(ge=1, le=_MAX)] = 200,
    ) -> FailureList:
        """List the files of refused records: what is wrong and where, and no record."""
        with ledger.session() as connection:
            found = failures.find(connection, run=_text(run), dataset=_text(dataset), state=state)
        return FailureList(failures=found[:limit], more=len(found) > limit)


def _add_replay(routes: APIRouter, ledger: Ledger, replays: Replays | None) -> None:
    """Add the routes of one file of the failed store."""

    @routes.get("/failures/{id}")
    def failure(id: str) -> FailureEntry:
        """Show one file of refused records: its state, and what became of its replay."""
        with ledger.session() as connection:
            found = require_known(connection, _text(id) or "")
            waiting = failures.rest_of(connection, id)
        return FailureEntry(failure=found, waiting=waiting, replay=replays.state_of(id) if replays else None)

    @routes.post("/failures/{id}/replay", status_code=202)
    async def begin_replay(id: str, request: Request, response: Response) -> ReplayBegun:
        """Load one file of the failed store again, as `etl failed replay` does; the answer comes while it runs."""
        if replays is None:
            raise ProblemError(403, "this service replays nothing; `etl serve --allow-replay` does")
        if await request.body():
            raise ProblemError(422, "expected no body: the address names the file")
        identity: Identity = request.scope["etl.identity"]
        state = await replays.begin(_text(id) or "", identity.name)
        response.headers["Location"] = address = f"/v1/failures/{quote(id, safe='')}"
        return ReplayBegun(id=id, result=address, replay=state)


def _add_datasets(routes: APIRouter, ledger: Ledger) -> None:
    """Add the routes of datasets and their rows."""

    @routes.get("/datasets")
    def dataset_list() -> Datasets:
        """List the datasets of this installation, with the tables that they fill."""
        return Datasets(datasets=[_entry(each) for each in datasets.readable(ledger.config_dir)])

    @routes.get("/trace/{table}")
    def trace(table: str, request: Request) -> Traced:
        """Say from which source, record and byte the rows with some values came: `?column=value&...`."""
        known = [each.name for dataset in datasets.readable(ledger.config_dir) for each in dataset.tables]
        if table not in known:
            raise ProblemError(404, "there is no such table of a dataset", tables=known)
        conditions = [(name, _text(value) or "") for name, value in request.query_params.multi_items()]
        if not conditions:
            raise ProblemError(422, "expected at least one COLUMN=VALUE, such as the key of a row")
        with ledger.session() as connection:
            try:
                found, has_more = tracing.trace(connection, table, conditions, config_dir=ledger.config_dir)
            except UsageError as error:
                raise ProblemError(404 if str(error).startswith("no row") else 422, str(error)) from error
        return Traced(table=table, records=[_record(each) for each in found], more=has_more)


def _text(value: str | None) -> str | None:
    if value is not None and "\x00" in value:
        raise ProblemError(422, "a parameter has a NUL character")
    return value


def _entry(dataset: datasets.Dataset) -> DatasetEntry:
    tables = [
        DatasetTable(
            name=table.name,
            comment=table.comment,
            columns=[DatasetColumn(name=each.name, type=each.type, comment=each.comment) for each in table.columns],
        )
        for table in dataset.tables
    ]
    return DatasetEntry(
        name=dataset.name, mode=dataset.mode, key=list(dataset.key), newest_by=dataset.newest_by, tables=tables
    )


def _record(trace: tracing.Trace) -> TracedRecord:
    """Return a trace without the text of the record."""
    return TracedRecord(
        run=trace.run,
        dataset=trace.dataset,
        source=trace.source,
        loaded_at=trace.loaded_at,
        record=trace.record,
        offset=trace.offset,
        missing=trace.missing,
    )
