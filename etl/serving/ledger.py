"""What operators ask: runs, failures, datasets, and the record that a row came from. Never the content of a record.

These answers are read over connections of their own by the same functions as the commands use.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

import psycopg
from fastapi import APIRouter, Depends, Request, Response

from etl import datasets, queries
from etl.database.connecting import Database, connect
from etl.errors import DatabaseError, UsageError
from etl.ingestion.ledger import failures, history, streams
from etl.ingestion.ledger.history import RunFilter
from etl.ingestion.ledger.streams import StreamRow
from etl.ingestion.pipeline import tracing
from etl.serving import filters, listing, problems, statements
from etl.serving.entries import (
    DatasetColumn,
    DatasetEntry,
    Datasets,
    DatasetTable,
    FailureEntry,
    FailureList,
    ReplayBegun,
    Run,
    Runs,
    StreamEntry,
    Streams,
    Traced,
    TracedRecord,
)
from etl.serving.events import Events, Waiting
from etl.serving.filters import wrong
from etl.serving.identity import Identity
from etl.serving.listing import FAILURES, RUNS, Asked, takes_no_parameter
from etl.serving.problems import ProblemError
from etl.serving.replaying import Replays, require_known
from etl.serving.rows import link_of

# How many operators are answered at once, and how many seconds one of them waits.
_SESSIONS = 4
_WAIT_SECONDS = 2.0
_STREAMS = 100
_NO_PARAMETERS = [Depends(takes_no_parameter)]

_TRACED = {
    "parameters": [
        {
            "name": "columns",
            "in": "query",
            "required": True,
            "style": "form",
            "explode": True,
            "description": "values of columns, such as those of the key",
            "schema": {"type": "object", "minProperties": 1, "additionalProperties": {"type": "string"}},
        }
    ]
}

_SQL = queries.load("serving")


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


def router(ledger: Ledger, replays: Replays | None, events: Events | None) -> APIRouter:
    """Return the routes for operators; without `replays` nothing can be replayed, without `events` none are taken."""
    routes = APIRouter(prefix="/v1", dependencies=[Depends(is_operator)], tags=["operators"])
    _add_runs(routes, ledger)
    _add_failures(routes, ledger)
    _add_replay(routes, ledger, replays)
    _add_streams(routes, ledger, events)
    _add_datasets(routes, ledger)
    return routes


def _add_runs(routes: APIRouter, ledger: Ledger) -> None:
    """Add the routes of what was loaded."""

    @routes.get("/runs", openapi_extra=listing.parameters(RUNS))
    def runs(request: Request, response: Response) -> Runs:
        """List what was loaded, the newest run first."""
        asked = listing.asked(RUNS, request.url.query)
        page = RunFilter(before=listing.number_after(asked), limit=asked.limit + 1)
        with ledger.session() as connection, _explained(connection, asked):
            found = history.numbered_runs(connection, page, statements.of_conditions(asked.conditions), Path.cwd())
        token = listing.token_of(RUNS, found[asked.limit - 1][:1]) if len(found) > asked.limit else None
        _link(request, response, token)
        return Runs(runs=[row for _, row in found[: asked.limit]], more=token is not None, next=token)

    @routes.get("/runs/{run}", dependencies=_NO_PARAMETERS)
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

    @routes.get("/failures", openapi_extra=listing.parameters(FAILURES))
    def failure_list(request: Request, response: Response) -> FailureList:
        """List the files of refused records: what is wrong and where, and no record."""
        asked = listing.asked(FAILURES, request.url.query)
        after = (asked.after[0], asked.after[1]) if asked.after else None
        with ledger.session() as connection, _explained(connection, asked):
            found = failures.page(connection, statements.of_conditions(asked.conditions), after, asked.limit + 1)
        has_more = len(found) > asked.limit
        token = listing.token_of(FAILURES, listing.key_of_failure(found[asked.limit - 1])) if has_more else None
        _link(request, response, token)
        return FailureList(failures=found[: asked.limit], more=has_more, next=token)


@contextmanager
def _explained(connection: psycopg.Connection, asked: Asked) -> Iterator[None]:
    """Raise ProblemError with the parameter whose value does not fit its type."""
    try:
        yield
    except psycopg.DataError as error:
        text, values = statements.unfitting([(value, column) for value, column, _ in asked.given])
        for (place,) in connection.execute(text, values).fetchall():
            _, column, name = asked.given[place]
            raise wrong(name, f"expected {column.type} as the value of {name}") from error
        raise wrong("after", "after is no token of a page") from error


def _link(request: Request, response: Response, token: str | None) -> None:
    if token is not None:
        response.headers["Link"] = link_of(request, token)


def _add_replay(routes: APIRouter, ledger: Ledger, replays: Replays | None) -> None:
    """Add the routes of one file of the failed store."""

    @routes.get("/failures/{id}", dependencies=_NO_PARAMETERS)
    def failure(id: str) -> FailureEntry:
        """Show one file of refused records: its state, and what became of its replay."""
        with ledger.session() as connection:
            found = require_known(connection, _text(id) or "")
            waiting = failures.rest_of(connection, id)
        return FailureEntry(failure=found, waiting=waiting, replay=replays.state_of(id) if replays else None)

    @routes.post("/failures/{id}/replay", status_code=202, dependencies=_NO_PARAMETERS)
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


def _add_streams(routes: APIRouter, ledger: Ledger, events: Events | None) -> None:
    """Add the route of streams of events."""

    @routes.get("/streams", dependencies=_NO_PARAMETERS)
    def stream_list() -> Streams:
        """List the streams of events, the newest first: what is loaded of each, and what waits."""
        with ledger.session() as connection:
            known = {each.stream: each for each in streams.newest(connection, _STREAMS)}
        positions = {name: position.loaded_to for name, position in known.items()}
        waiting = {each.stream: each for each in events.waiting(positions)} if events is not None else {}
        names = sorted({*known, *waiting}, key=_began, reverse=True)
        found = [_stream(name, known.get(name), waiting.get(name)) for name in names]
        return Streams(streams=found[:_STREAMS], is_taking=events is not None)


def _began(stream: str) -> tuple[str, str]:
    """Return when a stream began, which its name says, and its name."""
    return stream[-23:], stream


def _stream(name: str, known: StreamRow | None, waits: Waiting | None) -> StreamEntry:
    return StreamEntry(
        stream=name,
        dataset=known.dataset if known else waits.dataset if waits else "",
        loaded_events=known.count_events if known else 0,
        loaded_to=known.loaded_to if known else 0,
        loaded_at=known.loaded_at if known else None,
        run=known.run if known else None,
        refused_events=known.count_refused if known else 0,
        waiting_events=waits.events if waits else None,
        waiting_bytes=waits.bytes if waits else None,
        waiting_seconds=waits.seconds if waits else None,
    )


def _add_datasets(routes: APIRouter, ledger: Ledger) -> None:
    """Add the routes of datasets and their rows."""

    @routes.get("/datasets", dependencies=_NO_PARAMETERS)
    def dataset_list() -> Datasets:
        """List the datasets of this installation, with the tables that they fill."""
        return Datasets(datasets=[_entry(each) for each in datasets.readable(ledger.config_dir)])

    @routes.get("/trace/{table}", openapi_extra=_TRACED)
    def trace(table: str, request: Request) -> Traced:
        """Say from which source, record and byte the rows with some values came: `?column=value&...`."""
        known = [each.name for dataset in datasets.readable(ledger.config_dir) for each in dataset.tables]
        if table not in known:
            raise ProblemError(404, "there is no such table of a dataset", tables=known)
        conditions = filters.pairs_of(request.url.query)
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
