"""What comes before the routes: limits, who asks, and kept answers; and after them: headers, the log, the metrics.

It is plain ASGI, because a kept answer must cost no routing.
"""

import asyncio
import itertools
import re
import secrets
import time
import traceback
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Protocol, TypeAlias

import structlog

from etl.serving import events, problems
from etl.serving.access import AccessLog, Served
from etl.serving.identity import Identity
from etl.serving.kept import Answer, Headers, Kept, Key, matches, takes_gzip
from etl.serving.metrics import Metrics
from etl.serving.problems import ProblemError
from etl.serving.rows import PATH, fresh_headers
from etl.serving.versions import Versions
from etl.serving.watching import Watch

Message: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]
App: TypeAlias = Callable[[MutableMapping[str, Any], Receive, Send], Awaitable[None]]

MAX_ADDRESS_BYTES = 8_000
MAX_BODY_BYTES = 16_000
_PIECE_BYTES = 1 << 18

_SECURITY: Headers = [
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"permissions-policy", b"camera=(), geolocation=(), microphone=()"),
    (
        b"content-security-policy",
        # For every answer, because a browser obeys two policies together. Only the files of the page are scripts.
        (
            b"default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self';"
            b" base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
        ),
    ),
]
_SAME_ORIGIN = (b"cross-origin-resource-policy", b"same-origin")
_PREFLIGHT: Headers = [
    (b"access-control-allow-methods", b"GET, HEAD, POST"),
    (
        b"access-control-allow-headers",
        b"Authorization, X-Api-Key, If-None-Match, Content-Type, Content-Encoding, Idempotency-Key",
    ),
    (b"access-control-max-age", b"600"),
]
_EXPOSED: Headers = [
    (
        b"access-control-expose-headers",
        (
            b"ETag, Link, Location, Retry-After, X-Version, X-Facts-Through, X-Pending-Buckets, X-Rejected-Waiting,"
            b" X-Request-Id"
        ),
    ),
    (b"cross-origin-resource-policy", b"cross-origin"),
]
_READING = frozenset({"GET", "HEAD", "OPTIONS"})
_REQUEST_ID = re.compile(rb"[A-Za-z0-9._-]{1,64}")

log = structlog.get_logger(__name__)


class Gate(Protocol):
    """Finds out who asks."""

    async def identify(self, scope: MutableMapping[str, Any], headers: dict[bytes, bytes]) -> Identity:
        """Return who asks.

        Raises ProblemError for one who may not ask.
        """


@dataclass
class _Exchange:
    """A request and what becomes of it."""

    request_id: bytes
    started: float
    served: Served = field(default_factory=Served)
    has_begun: bool = False


@dataclass(frozen=True, kw_only=True)
class Parts:
    """What the outermost layer uses."""

    gate: Gate
    watch: Watch
    versions: Versions
    kept: Kept
    access: AccessLog
    metrics: Metrics
    origins: frozenset[bytes] = frozenset()
    """The origins whose pages may read answers in a browser."""


class Front:
    """The outermost layer of the service."""

    def __init__(self, app: App, parts: Parts) -> None:
        self._app = app
        self._gate = parts.gate
        self._watch = parts.watch
        self._versions = parts.versions
        self._kept = parts.kept
        self._access = parts.access
        self._metrics = parts.metrics
        self._origins = parts.origins
        self._numbers = itertools.count(1)
        self._prefix = secrets.token_hex(4)

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        headers: dict[bytes, bytes] = dict(scope["headers"])
        if scope["type"] == "websocket":
            await self._connect(scope, headers, receive, send)
            return
        exchange = _Exchange(request_id=self._id_of(headers), started=time.perf_counter())
        sender = self._sender(exchange, self._cors(headers.get(b"origin", b"")), send)
        try:
            await self._serve(scope, headers, receive, sender, exchange.served)
        except ProblemError as problem:
            await _send_problem(sender, problem, exchange)
        except Exception as error:  # noqa: BLE001 - any other error is a fault of this service, and never ends it
            _log_fault(error, exchange.request_id)
            await _send_problem(sender, ProblemError(500, "this is a fault of the service; it is logged"), exchange)
        finally:
            self._note(scope, exchange)

    async def _connect(
        self, scope: MutableMapping[str, Any], headers: dict[bytes, bytes], receive: Receive, send: Send
    ) -> None:
        """Let a WebSocket begin, unless a page of another origin opens it, or one who may not ask."""
        try:
            self._require_origin(headers)
            scope["etl.identity"] = await self._gate.identify(scope, headers)
            scope["etl.may_still"] = partial(self._may_still, scope, headers)
        except ProblemError as problem:
            await receive()
            await send({"type": "websocket.close", "code": 1008, "reason": problem.detail})
            return
        await self._app(scope, receive, send)

    async def _may_still(self, scope: MutableMapping[str, Any], headers: dict[bytes, bytes]) -> bool:
        """Return whether the one who asked may ask now: a stream lasts longer than a key or a token may."""
        try:
            await self._gate.identify(scope, headers)
        except ProblemError as problem:
            return problem.status not in {401, 403}
        return True

    def _require_origin(self, headers: dict[bytes, bytes]) -> None:
        """Raise ProblemError when a browser says that a page of elsewhere asks, which is not in the list.

        A browser sends simple requests of any page, and only hides the answer from it.
        """
        origin, host = headers.get(b"origin"), headers.get(b"host", b"")
        if origin is not None and origin not in {b"http://" + host, b"https://" + host, *self._origins}:
            raise ProblemError(403, "pages of this origin may not ask")

    def _id_of(self, headers: dict[bytes, bytes]) -> bytes:
        given = headers.get(b"x-request-id", b"")
        if given and _REQUEST_ID.fullmatch(given):
            return given
        return f"{self._prefix}-{next(self._numbers):x}".encode()

    async def _serve(
        self, scope: MutableMapping[str, Any], headers: dict[bytes, bytes], receive: Receive, send: Send, served: Served
    ) -> None:
        path: bytes = scope["raw_path"]
        query: bytes = scope["query_string"]
        if len(path) + len(query) > MAX_ADDRESS_BYTES:
            raise ProblemError(414, f"expected an address of at most {MAX_ADDRESS_BYTES} bytes")
        if _is_large(headers) and not scope["path"].startswith(events.PREFIX):  # Events have limits of their own.
            raise ProblemError(413, f"expected a body of at most {MAX_BODY_BYTES} bytes", {"Connection": "close"})
        if self._origins and scope["method"] == "OPTIONS" and b"access-control-request-method" in headers:
            await send({"type": "http.response.start", "status": 204, "headers": list(_PREFLIGHT)})
            await send({"type": "http.response.body", "body": b""})
            return
        if scope["method"] not in _READING:
            self._require_origin(headers)
        identity = await self._gate.identify(scope, headers)
        served.who = identity.name
        accept, encoding = headers.get(b"accept", b""), headers.get(b"accept-encoding", b"")
        key: Key = (path, query, accept[:200], takes_gzip(encoding), identity.view)
        if scope["method"] in {"GET", "HEAD"}:
            answer = self._kept.find(key)
            if answer is not None and await self._send_kept(key, answer, scope, headers, send):
                served.route, served.is_kept = PATH, True
                return
            if self._kept.shared is not None and path.endswith(b"/rows"):
                answer = await self._kept.find_shared(key)
                if answer is not None and await self._send_kept(key, answer, scope, headers, send):
                    served.route, served.is_kept = PATH, True
                    return
        scope["etl.identity"], scope["etl.key"] = identity, key
        scope["etl.may_still"] = partial(self._may_still, scope, headers)
        await self._app(scope, receive, send)
        served.route = _route_of(scope)

    async def _send_kept(
        self, key: Key, answer: Answer, scope: MutableMapping[str, Any], headers: dict[bytes, bytes], send: Send
    ) -> bool:
        """Send a kept answer if its version is the newest; return whether it is."""
        if asyncio.get_running_loop().time() >= answer.until:
            self._kept.drop(key)
            return False
        freshness = self._watch.freshness.get(answer.aggregate)
        if not self._watch.is_known or freshness is None or answer.aggregate not in self._watch.tables:
            return False
        if (await self._versions.now()).get(answer.aggregate) != answer.version:
            self._kept.drop(key)
            return False
        if freshness.version != answer.version:  # A look has not seen it yet.
            freshness = replace(freshness, version=answer.version)
        fresh = fresh_headers(freshness, answer.etag)
        if_none_match = headers.get(b"if-none-match")
        if if_none_match is not None and matches(if_none_match, answer.etag):
            await send({"type": "http.response.start", "status": 304, "headers": fresh})
            await send({"type": "http.response.body", "body": b""})
            return True
        if answer.body is None:
            return False
        length = (b"content-length", str(len(answer.body)).encode())
        await send({"type": "http.response.start", "status": 200, "headers": [*answer.headers, length, *fresh]})
        body = b"" if scope["method"] == "HEAD" else answer.body
        await send({"type": "http.response.body", "body": body})
        return True

    def _cors(self, origin: bytes) -> Headers:
        """Return the headers that let a page of a listed origin read the answer."""
        if not self._origins:
            return [_SAME_ORIGIN]
        vary = (b"vary", b"Origin")
        if origin in self._origins:
            return [(b"access-control-allow-origin", origin), *_EXPOSED, vary]
        return [vary, _SAME_ORIGIN]

    def _sender(self, exchange: _Exchange, cors: Headers, send: Send) -> Send:
        """Return a function that sends messages with the headers of every answer, and counts them."""
        served = exchange.served

        async def sender(message: Message) -> None:
            if message["type"] == "http.response.start":
                exchange.has_begun = True
                served.status = message["status"]
                own = [*message.get("headers", ()), (b"x-request-id", exchange.request_id), *_SECURITY, *cors]
                if not any(name == b"cache-control" for name, _ in own):
                    own.append((b"cache-control", b"no-store"))
                message["headers"] = own
            else:
                body = message.get("body", b"")
                served.bytes += len(body)
                if len(body) > _PIECE_BYTES:
                    await _send_pieces(send, body, has_more=message.get("more_body", False))
                    return
            await send(message)

        return sender

    def _note(self, scope: MutableMapping[str, Any], exchange: _Exchange) -> None:
        served = exchange.served
        served.seconds = time.perf_counter() - exchange.started
        self._metrics.note(scope["method"], served)
        self._access.note(scope, exchange.request_id, served)


async def _send_pieces(send: Send, body: bytes, *, has_more: bool) -> None:
    """Send a body in pieces: a client that reads slowly then holds a piece in the buffers, and no copy of the body."""
    view = memoryview(body)
    for start in range(0, len(body), _PIECE_BYTES):
        end = start + _PIECE_BYTES
        is_last = end >= len(body)
        await send({"type": "http.response.body", "body": bytes(view[start:end]), "more_body": has_more or not is_last})


def _is_large(headers: dict[bytes, bytes]) -> bool:
    if b"transfer-encoding" in headers:
        return True
    length = headers.get(b"content-length", b"0")
    return not length.isdigit() or int(length[:20]) > MAX_BODY_BYTES


def _route_of(scope: MutableMapping[str, Any]) -> str:
    """Return the pattern of the address, which has no value of a request; empty for an unknown address."""
    route = scope.get("route")
    path = getattr(route, "path", None)
    return str(path) if path else str(scope.get("etl.route", ""))


async def _send_problem(send: Send, problem: ProblemError, exchange: _Exchange) -> None:
    if exchange.has_begun:
        return  # The client sees that the body ends too early.
    problem.members.setdefault("request_id", exchange.request_id.decode())
    body = problems.document(problem)
    headers: Headers = [
        (b"content-type", problems.MEDIA_TYPE.encode()),
        (b"content-length", str(len(body)).encode()),
        *((name.lower().encode(), value.encode()) for name, value in problem.headers.items()),
    ]
    await send({"type": "http.response.start", "status": problem.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def _log_fault(error: BaseException, request_id: bytes) -> None:
    """Log the type and the frames of an unexpected error, never its text, which may quote a value."""
    frames = traceback.format_tb(error.__traceback__)
    log.error("unexpected_fault", fault=type(error).__name__, frames=frames, request_id=request_id.decode())
