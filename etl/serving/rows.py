"""`GET /v1/aggregates/{name}/rows`: a page of an aggregate, from one snapshot, in the format that is asked for."""

import asyncio
import re
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from email.utils import format_datetime
from functools import lru_cache
from typing import Any
from urllib.parse import parse_qsl, quote, urlencode

import msgspec
from fastapi import Request, Response
from psycopg.rows import class_row
from zlib_ng import zlib_ng

from etl import queries
from etl.serving import columnar, filters, problems, statements
from etl.serving.filters import COLUMNAR, FORMATS, Format, PageRequest
from etl.serving.identity import Identity
from etl.serving.kept import KEPT_SECONDS, Answer, Headers, Kept, Key, matches
from etl.serving.pool import Connection, Sessions
from etl.serving.problems import ProblemError
from etl.serving.statements import Statement
from etl.serving.tables import Column, Table
from etl.serving.versions import Versions
from etl.serving.watching import Freshness, Watch

PATH = "/v1/aggregates/{name}/rows"
FACTS_PATH = "/v1/facts/{table}"

# Smaller bodies do not gain by compression.
_LEAST_COMPRESSED = 1_000
_GZIP = 31

_SQL = queries.load("serving")


_NO_FRESHNESS = Freshness(
    aggregate="",
    version=0,
    refreshed_at=None,
    facts_through=None,
    newest_event_at=None,
    future_event_at=None,
    rows=None,
    pending_buckets=0,
    rejected_pending=0,
)


@dataclass(frozen=True, kw_only=True)
class _Page:
    """The text of the rows of a page, and the key of the last one where there are more."""

    freshness: Freshness
    body: bytes
    last_key: str | None


class Rows:
    """Answers requests for rows, and keeps the answers."""

    def __init__(self, watch: Watch, versions: Versions, sessions: Sessions, kept: Kept) -> None:
        self._watch = watch
        self._versions = versions
        self._sessions = sessions
        self._kept = kept

    async def answer(self, request: Request) -> Response:
        """Answer a request.

        Raises ProblemError.
        """
        request.scope["etl.route"] = PATH
        return await self._answer_for(request, table_named(self._watch, request.path_params["name"]))

    async def answer_facts(self, request: Request) -> Response:
        """Answer a request for facts, which are read each time.

        Raises ProblemError.
        """
        request.scope["etl.route"] = FACTS_PATH
        table = self._watch.facts.get(request.path_params["table"])
        if table is None:
            raise ProblemError(404, "there is no such table with a key", tables=list(self._watch.facts))
        return await self._answer_for(request, table)

    async def _answer_for(self, request: Request, table: Table) -> Response:
        identity: Identity = request.scope["etl.identity"]
        page_request = filters.parse(table, request.url.query, request.headers.get("accept", ""))
        if page_request.format in COLUMNAR and not columnar.is_installed():
            raise ProblemError(406, f"{page_request.format} needs pyarrow, which the service does not have")
        if_none_match = request.headers.get("if-none-match", "").encode("latin-1")
        if if_none_match and table.is_kept and self._watch.is_known:
            version = (await self._versions.now()).get(table.name) or 0
            etag = etag_of(table, version, identity, page_request.format)
            if matches(if_none_match, etag):
                # One row shows that the role may still read the table, and that the values fit their columns.
                one = await self._read(replace(page_request, limit=1, format="json"), identity)
                if one.freshness.version == version:
                    tag = Answer(
                        aggregate=table.name, version=version, etag=etag, until=_until(), headers=[], body=None
                    )
                    self._kept.put(request.scope["etl.key"], tag)
                    return Response(status_code=304, headers=_of_freshness(one.freshness, etag))
        page = await self._read(page_request, identity)
        return self._answer(request, page_request, page, if_none_match)

    async def _read(self, request: PageRequest, identity: Identity) -> _Page:
        statement = statements.of_page(request)

        async def read(connection: Connection) -> list[tuple[Any, ...]]:
            return await (await connection.execute(statement.text, statement.values, binary=True)).fetchall()

        try:
            found = await self._sessions.read(identity.database_role, read)
        except ProblemError as problem:
            if problem.status != 422:
                raise
            raise await self._explained(statement, identity, problem) from problem
        if not found or found[0][0] is None:
            raise ProblemError(
                503, f"{request.table.name} was never computed: `etl precalculate`", {"Retry-After": "10"}
            )
        known = self._watch.freshness.get(request.table.name) if self._watch.is_known else None
        if request.table.is_fact:
            known = _NO_FRESHNESS
        if known is None:
            known = await self._freshness(request.table, identity)
        version, facts_through, *rest = found[0]
        freshness = replace(known, version=version, facts_through=facts_through)
        if request.format not in COLUMNAR:
            body, last_key = rest
            return _Page(freshness=freshness, body=body or b"", last_key=last_key)
        rows = [row for row in found if row[2] is not None]
        lines = [row[4:] for row in rows[: request.limit]]
        body = await asyncio.to_thread(columnar.body_of, request.columns, lines, request.format)
        last_key = rows[request.limit - 1][3] if len(rows) > request.limit else None
        return _Page(freshness=freshness, body=body, last_key=last_key)

    async def _freshness(self, table: Table, identity: Identity) -> Freshness:
        """Read how fresh an aggregate is, where the watch does not know it now."""

        async def read(connection: Connection) -> Freshness | None:
            async with connection.cursor(row_factory=class_row(Freshness)) as cursor:
                await cursor.execute(_SQL["freshness"], {"aggregate": table.name})
                return await cursor.fetchone()

        found = await self._sessions.read(identity.database_role, read)
        if found is None:
            raise problems.busy("the aggregate is being made again")
        return found

    async def _explained(self, statement: Statement, identity: Identity, problem: ProblemError) -> ProblemError:
        """Return the problem of values that do not fit their types, with the columns of these."""
        text, values = statements.unfitting(statement.given)

        async def find(connection: Connection) -> list[tuple[Any, ...]]:
            return await (await connection.execute(text, values)).fetchall()

        wrong = [statement.given[place][1] for (place,) in await self._sessions.read(identity.database_role, find)]
        if not wrong:
            return problem
        return ProblemError(
            422,
            f"expected {wrong[0].type} as the value of {wrong[0].name}",
            columns={column.name: column.type for column in wrong},
        )

    def _answer(self, request: Request, asked: PageRequest, page: _Page, if_none_match: bytes) -> Response:
        table, identity = asked.table, request.scope["etl.identity"]
        version = page.freshness.version or 0
        etag = etag_of(table, version, identity, asked.format)
        fresh = {} if table.is_fact else _of_freshness(page.freshness, etag)
        if if_none_match and table.is_kept and matches(if_none_match, etag):
            return Response(status_code=304, headers=fresh)
        token = None
        if page.last_key is not None:
            token = filters.token_of(table.name, msgspec.json.decode(page.last_key), descending=asked.descending)
        body = _body(asked, page, token)
        headers = {"Content-Type": FORMATS[asked.format]}
        if token:
            headers["Link"] = link_of(request, token)
        key: Key = request.scope["etl.key"]
        if key[3] and asked.format not in COLUMNAR and len(body) >= _LEAST_COMPRESSED:
            body = zlib_ng.compress(body, 2, _GZIP)
            headers["Content-Encoding"] = "gzip"
        if table.is_kept:
            raw: Headers = [(name.lower().encode(), value.encode("latin-1")) for name, value in headers.items()]
            self._kept.put(
                key, Answer(aggregate=table.name, version=version, etag=etag, until=_until(), headers=raw, body=body)
            )
        return Response(body, headers=headers | fresh)


def table_named(watch: Watch, name: str) -> Table:
    """Return a served aggregate.

    Raises ProblemError with the names that there are.
    """
    table = watch.tables.get(name)
    if table is None:
        raise ProblemError(404, "there is no such aggregate", aggregates=list(watch.tables))
    return table


def etag_of(table: Table, version: int, identity: Identity, format: Format) -> bytes:
    """Return the tag of the answers on a version of an aggregate; it is compared for one address only."""
    return f'W/"{version:x}-{table.mark}-{identity.view}-{format}"'.encode()


def _of_freshness(freshness: Freshness, etag: bytes) -> dict[str, str]:
    """Return the headers that say which rows an answer has, how far they reach, and what waits."""
    return {name.decode(): value.decode("latin-1") for name, value in fresh_headers(freshness, etag)}


@lru_cache(maxsize=1_000)
def fresh_headers(freshness: Freshness, etag: bytes) -> Headers:
    """Return the headers of the freshness of an answer."""
    version = freshness.version or 0
    changed = format_datetime(datetime.fromtimestamp(version // 1000, UTC), usegmt=True)
    return [
        (b"etag", etag),
        (b"last-modified", changed.encode()),
        (b"cache-control", b"private, no-cache"),
        (b"vary", b"Accept, Accept-Encoding, Authorization, X-Api-Key"),
        (b"x-version", str(version).encode()),
        (b"x-facts-through", (freshness.facts_through or "").encode()),
        (b"x-pending-buckets", str(freshness.pending_buckets).encode()),
        (b"x-rejected-waiting", str(freshness.rejected_pending).encode()),
    ]


def _until() -> float:
    return asyncio.get_running_loop().time() + KEPT_SECONDS


def link_of(request: Request, token: str) -> str:
    """Return the header that leads to the next page of a request."""
    pairs = [(name, value) for name, value in parse_qsl(request.url.query, keep_blank_values=True) if name != "after"]
    query = urlencode([*pairs, ("after", token)], safe=".,()*:", quote_via=quote)
    return f'<{request.url.path}?{query}>; rel="next"'


def _body(asked: PageRequest, page: _Page, token: str | None) -> bytes:
    end = b"" if not page.body else b"\r\n" if asked.format == "csv" else b"\n"
    if asked.format == "csv":
        return b"".join((",".join(map(_header, asked.columns)).encode(), b"\r\n", page.body, end))
    if asked.format in COLUMNAR:
        return page.body
    if asked.format == "ndjson":
        return page.body + end
    head: dict[str, Any] = (
        {"table": asked.table.name, "next": token}
        if asked.table.is_fact
        else {
            "aggregate": asked.table.name,
            "version": page.freshness.version,
            "facts_through": page.freshness.facts_through,
            "pending_buckets": page.freshness.pending_buckets,
            "rejected_pending": page.freshness.rejected_pending,
            "next": token,
        }
    )
    if asked.format == "columns":
        head["columns"] = [column.name for column in asked.columns]
    return b"".join((msgspec.json.encode(head)[:-1], b',"rows":[', page.body, b"]}\n"))


def _header(column: Column) -> str:
    """Return the name of a column as a field of CSV."""
    name = column.name
    return name if re.fullmatch(r"[^\",\r\n]+", name) else '"' + name.replace('"', '""') + '"'
