"""The service put together: what it watches, its routes, and the layer before them."""

import asyncio
import re
from collections.abc import AsyncIterator, MutableMapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
from fastapi import FastAPI, HTTPException, Request, Response
from fastapi.exceptions import RequestValidationError

from etl import queries
from etl.database.connecting import Database
from etl.precalculation import catalogue
from etl.serving import aggregates, lanes, ledger, page, pages, problems, rows
from etl.serving.access import FLUSH_SECONDS, AccessLog
from etl.serving.events import PREFIX, ROUTE, Events
from etl.serving.front import Front, Gate, Parts, Receive, Send
from etl.serving.kept import Kept, Shares
from etl.serving.ledger import Ledger
from etl.serving.metrics import Metrics
from etl.serving.openapi import Description, describe
from etl.serving.pool import Connection, Sessions
from etl.serving.problems import ProblemError
from etl.serving.replaying import Replays
from etl.serving.stream import PATH as STREAM_PATH
from etl.serving.stream import Stream
from etl.serving.tables import read_tables
from etl.serving.tokens import PATH as TOKEN_PATH
from etl.serving.tokens import Tokens
from etl.serving.versions import Versions
from etl.serving.watching import Watch
from etl.version import __version__

_READY_SECONDS = 2.0
_FIRST_LOOK_SECONDS = 10.0

_ROWS = re.compile("/v1/aggregates/([^/]+)/rows")

_SQL = queries.load("serving")


@dataclass(frozen=True, kw_only=True)
class Limits:
    """How much the service takes: connections, seconds of a statement, bytes of kept answers, subscribers."""

    connections: int
    statement_seconds: float
    kept_bytes: int
    subscribers: int


@dataclass(frozen=True, kw_only=True)
class Extras:
    """What a service has by its options: answers that replicas share, replays of failures, and events."""

    shared: Shares | None = None
    replays: Replays | None = None
    events: Events | None = None


class Service:
    """The parts of a running service."""

    def __init__(
        self,
        database: Database,
        config_dir: Path,
        limits: Limits,
        *,
        has_access_log: bool,
        extras: Extras | None = None,
    ) -> None:
        extras = extras or Extras()
        self.sessions = Sessions(database, size=limits.connections, statement_seconds=limits.statement_seconds)
        # Busy readers must not keep the watch from looking.
        self._looking = Sessions(database, size=1, statement_seconds=limits.statement_seconds)
        self.watch = Watch(database, self._looking, config_dir)
        self.versions = Versions(database)
        self.kept = Kept(limits.kept_bytes, extras.shared)
        self.rows = rows.Rows(self.watch, self.versions, self.sessions, self.kept)
        self.access = AccessLog(is_on=has_access_log)
        self.metrics = Metrics()
        self.stream = Stream(self.watch, limits.subscribers)
        self.ledger = Ledger(database, config_dir, limits.statement_seconds)
        self.replays = extras.replays
        self.events = extras.events

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Watch the database and write the access log while the context lasts."""
        await self._looking.open()
        await self.sessions.open()
        tasks = [asyncio.create_task(self.watch.run()), asyncio.create_task(self._flush())]
        try:
            with suppress(TimeoutError):
                async with asyncio.timeout(_FIRST_LOOK_SECONDS):
                    await self.watch.has_looked.wait()
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            if self.replays is not None:
                await self.replays.close()
            if self.kept.shared is not None:
                await self.kept.shared.close()
            await self.versions.close()
            await self.sessions.close()
            await self._looking.close()
            self.access.flush()

    async def _flush(self) -> None:
        while True:
            await asyncio.sleep(FLUSH_SECONDS)
            self.access.flush()

    async def is_ready(self) -> bool:
        """Return whether the database answers, and has what the service reads."""

        async def look(connection: Connection) -> bool:
            row = await (await connection.execute(_SQL["ready"])).fetchone()
            return bool(row and row[0])

        try:
            async with asyncio.timeout(_READY_SECONDS):
                return await self.sessions.read(None, look)
        except (ProblemError, TimeoutError):
            return False

    def state(self) -> dict[str, float]:
        """Return the values of now for the metrics."""
        counts = self.sessions.counts
        return {
            "connections": counts.get("pool_size", 0),
            "connections_free": counts.get("pool_available", 0),
            "requests_waiting": counts.get("requests_waiting", 0),
            "kept_bytes": self.kept.bytes,
            "kept_entries": len(self.kept),
            "subscribers": self.stream.count,
            "is_watching": float(self.watch.is_live),
        }


def application(
    service: Service, gate: Gate, tokens: Tokens | None = None, origins: frozenset[bytes] = frozenset()
) -> Front:
    """Return the ASGI application of a service."""
    parts = Parts(
        gate=gate,
        watch=service.watch,
        versions=service.versions,
        kept=service.kept,
        access=service.access,
        metrics=service.metrics,
        origins=origins,
    )
    return Front(_Direct(routed(service, tokens), service), parts)


class _Direct:
    """Answers requests for rows, and events, without the layers of FastAPI, which cost as much; it gets the others."""

    def __init__(self, app: FastAPI, service: Service) -> None:
        self._app = app
        self._rows = service.rows
        self._events = service.events

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        found = None
        if scope["type"] == "http" and scope["path"].startswith(PREFIX):
            await self._take(scope, receive, send)
            return
        if scope["type"] == "http" and scope["method"] in {"GET", "HEAD"}:
            found = _ROWS.fullmatch(scope["path"])
        if found is None:
            await self._route(scope, receive, send)
            return
        scope["path_params"] = {"name": found[1]}
        response = await self._rows.answer(Request(scope, receive))
        await response(scope, receive, send)

    async def _route(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        """Let FastAPI answer. It knows no HEAD, whose answer is that of GET; the server leaves out the body."""
        if scope["type"] != "http" or scope["method"] != "HEAD" or scope["path"] == STREAM_PATH:
            await self._app(scope, receive, send)
            return
        asked = {**scope, "method": "GET"}
        await self._app(asked, receive, send)
        scope.update({name: asked[name] for name in ("route", "etl.route") if name in asked})

    async def _take(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        """Let events of operators be taken."""
        scope["etl.route"] = ROUTE
        ledger.is_operator(Request(scope))
        if scope["method"] not in {"GET", "HEAD", "POST"}:
            raise ProblemError(405, "POST sends events, GET asks for one by its place", {"Allow": "GET, HEAD, POST"})
        if self._events is None:
            raise ProblemError(404, "this service takes no events; `etl serve --collect` does", {"Connection": "close"})
        await self._events(scope, receive, send)


def routed(service: Service, tokens: Tokens | None = None) -> FastAPI:
    """Return the routes of a service."""

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        async with service.running():
            yield

    app = FastAPI(
        title="logistics-etl",
        version=__version__,
        lifespan=lifespan,
        openapi_url=None,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
    )
    description = Description(app, service.watch)
    app.include_router(aggregates.router(service.watch, service.sessions, replays=service.replays is not None))
    app.include_router(lanes.router(service.sessions))
    app.include_router(ledger.router(service.ledger, service.replays, service.events))
    app.add_route(rows.PATH, service.rows.answer, methods=["GET"])
    app.add_route(rows.FACTS_PATH, service.rows.answer_facts, methods=["GET"])
    app.add_route("/v1/stream", service.stream.answer, methods=["GET"])
    app.add_api_websocket_route("/v1/stream", service.stream.serve_socket)
    app.add_route("/v1/openapi.json", description.answer, methods=["GET"])
    if tokens is not None:
        app.add_route(TOKEN_PATH, tokens.answer, methods=["POST"])
    _add_state(app, service)
    page.add(app)
    pages.add(app, description)
    _add_problems(app)
    return app


async def description(database: Database, config_dir: Path) -> dict[str, Any]:
    """Return the description (OpenAPI) of a service on a database, without running one."""
    limits = Limits(connections=1, statement_seconds=10, kept_bytes=0, subscribers=0)
    service = Service(database, config_dir, limits, has_access_log=False)
    async with await psycopg.AsyncConnection.connect(database.conninfo, autocommit=True) as connection:
        tables = await read_tables(connection, catalogue.readable(config_dir))
    return describe(routed(service), list(tables.values()))


def _add_state(app: FastAPI, service: Service) -> None:
    """Add the routes for those who watch the service."""

    async def healthz(_request: Request) -> Response:
        if service.events is not None and service.events.broken:
            body = b'{"status":"events are refused: the disk of the spool has lost a write; start the service again"}'
            return Response(body, status_code=503, media_type="application/json")
        return Response(b'{"status":"running"}', media_type="application/json")

    async def readyz(_request: Request) -> Response:
        is_ready = await service.is_ready()
        body = b'{"status":"ready"}' if is_ready else b'{"status":"the database does not answer"}'
        return Response(body, status_code=200 if is_ready else 503, media_type="application/json")

    async def metrics(request: Request) -> Response:
        ledger.is_operator(request)
        text = service.metrics.text(service.state())
        if service.events is not None:
            text += service.events.metrics().encode()
        return Response(text, media_type="text/plain; version=0.0.4; charset=utf-8")

    for path, endpoint in (("/healthz", healthz), ("/readyz", readyz), ("/metrics", metrics)):
        app.add_route(path, endpoint, methods=["GET"])


def _add_problems(app: FastAPI) -> None:
    """Answer each error with a problem document."""

    async def of_problem(_request: Request, error: Any) -> Response:
        return problems.answer(error)

    async def of_http(_request: Request, error: Any) -> Response:
        detail = "there is no such address; /docs has all" if error.status_code == 404 else str(error.detail)
        headers = dict(error.headers or {})
        if headers.get("Allow") == "GET":  # FastAPI does not know that HEAD is answered, too.
            headers["Allow"] = "GET, HEAD"
        return problems.answer(ProblemError(error.status_code, detail, headers))

    async def of_validation(_request: Request, error: Any) -> Response:
        wrong = [{"parameter": str(each["loc"][-1]), "reason": str(each["msg"])} for each in error.errors()]
        return problems.answer(ProblemError(422, "a parameter is wrong", parameters=wrong))

    async def of_fault(_request: Request, _error: Exception) -> Response:
        return problems.answer(ProblemError(500, "this is a fault of the service; it is logged"))

    app.add_exception_handler(ProblemError, of_problem)
    app.add_exception_handler(HTTPException.__mro__[1], of_http)
    app.add_exception_handler(RequestValidationError, of_validation)
    app.add_exception_handler(Exception, of_fault)
