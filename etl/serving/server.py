"""The process of the service: its socket, its loop, and its end by a signal."""

import asyncio
import gc
import logging
import re
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path

import httptools
import psycopg
import structlog
import uvicorn
import uvloop
from psycopg.conninfo import conninfo_to_dict
from websockets.version import version as websockets_version

from etl import queries
from etl.database import connecting
from etl.database.connecting import Database
from etl.errors import ExitCode, UsageError, reason_of
from etl.ingestion.failed_store.store import FailedStore
from etl.serving import keys
from etl.serving.application import Extras, Limits, Service, application
from etl.serving.connections import MOST_CONNECTIONS, guarded
from etl.serving.events import OpenEvents
from etl.serving.front import Front, Gate
from etl.serving.gates import Keys, Loopback
from etl.serving.jwts import Jwts, Trust, roles_of
from etl.serving.kept import Shares
from etl.serving.limiting import Rate
from etl.serving.public_keys import require_keys
from etl.serving.replaying import Replays
from etl.serving.tokens import Tokens, secret_of
from etl.settings import ServeSettings

# How long requests in hand may take after SIGTERM, in seconds.
DRAIN_SECONDS = 10
_BACKLOG = 2_048
# A client that reads nothing for so long is cut off.
_UNREAD_SECONDS = 60

_SQL = queries.load("keys")

log = structlog.get_logger(__name__)


def serve(database: Database, config_dir: Path, settings: ServeSettings, open_events: OpenEvents | None = None) -> int:
    """Serve until a signal arrives; return the exit code: 0 after SIGTERM. With `open_events` events are taken, too.

    Raises UsageError when the address is in use or not this machine's own, or the database lacks what is read, and
    what `open_events` raises.
    """
    require_loopback(settings.host, settings.auth)
    require_served(database, needs_keys=settings.auth == "keys")
    limits = Limits(
        connections=settings.connections,
        statement_seconds=settings.statement_timeout,
        kept_bytes=settings.cache_mb << 20,
        subscribers=settings.subscribers,
    )
    origins = origins_of(settings)
    shared = _shared(database, settings.cache)
    with (
        bound(settings.host, settings.port) as listener,
        open_events() if open_events is not None else nullcontext() as events,
    ):
        service = Service(
            database,
            config_dir,
            limits,
            has_access_log=settings.access_log,
            extras=Extras(shared=shared, replays=_replays(database, config_dir, settings), events=events),
        )
        guard = _guard(service, database, settings)
        logging.getLogger("uvicorn").setLevel("ERROR")  # Its warnings are one line for each wrong request.
        server = DrainingServer(
            _config(application(service, guard.gate, guard.tokens, origins)),
            lambda: _log_begin(listener, database),
            service.stream.close,
        )
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(server.serve(sockets=[listener]))
    log.info("service_ended", signal=server.signal)
    return ExitCode.SUCCESS if server.signal in {None, signal.SIGTERM} else ExitCode.SIGINT


def _log_begin(listener: socket.socket, database: Database) -> None:
    host, port = listener.getsockname()[:2]
    address = f"http://{f'[{host}]' if ':' in host else host}:{port}"
    parsers = f"httptools {httptools.__version__}, websockets {websockets_version}"
    log.info("serving", address=address, database=database.name, parsers=parsers)


def _shared(database: Database, url: str | None) -> Shares | None:
    if url is None:
        return None
    from etl.serving.shared import Shared  # noqa: PLC0415 - 0.1 s for those who have a cache

    return Shared(url, f"{database.place} {conninfo_to_dict(database.conninfo).get('port', '')}")


def _replays(database: Database, config_dir: Path, settings: ServeSettings) -> Replays | None:
    """Return what replays files of the failed store, if operators may ask for that.

    Raises UsageError when the failed store cannot be written.
    """
    if not settings.allow_replay:
        return None
    with FailedStore(settings.failed_dir) as store:
        store.prepare()
    return Replays(database, config_dir, settings.failed_dir)


def _config(app: Front) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        http=guarded(),
        ws="websockets-sansio",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=DRAIN_SECONDS,
        timeout_keep_alive=30,
        limit_concurrency=MOST_CONNECTIONS + 1,
        backlog=_BACKLOG,
    )


@dataclass(frozen=True, kw_only=True)
class _Guard:
    """Who may ask, and what issues tokens for keys, if anything does."""

    gate: Gate
    tokens: Tokens | None = None


def _guard(service: Service, database: Database, settings: ServeSettings) -> _Guard:
    if settings.auth == "none":
        return _Guard(gate=Loopback())
    rate = Rate(settings.rate_limit)
    if settings.auth == "keys":
        tokens = Tokens(database, secret_of(settings.token_secret))
        return _Guard(gate=Keys(service.watch, service.sessions, tokens, rate), tokens=tokens)
    return _Guard(gate=Jwts(trust_of(database, settings), rate))


def trust_of(database: Database, settings: ServeSettings) -> Trust:
    """Return which tokens count.

    Raises UsageError when an option is missing or wrong, or the user of the service may not act as a role.
    """
    roles = roles_of(settings.jwt_roles)
    if (settings.jwt_secret is None) == (settings.jwt_keys is None):
        raise UsageError("--auth jwt needs one of --jwt-secret and --jwt-keys")
    if not settings.jwt_issuer or not settings.jwt_audience:
        raise UsageError("--auth jwt needs --jwt-issuer and --jwt-audience: tokens for others must not count here")
    if settings.jwt_keys is not None:
        require_keys(settings.jwt_keys)
    with connecting.connect(database, "etl:serve", sees_all=False) as connection:
        user = connection.info.user
        for role in sorted({of for _, of in roles.values() if of is not None}):
            if connection.execute(_SQL["has_role"], {"role": role}).fetchone() != (True,):
                raise UsageError(f"the user {user} may not act as {role}", hint=f"grant {role} to {user}")
    return Trust(
        secret=secret_of(settings.jwt_secret),
        keys=settings.jwt_keys,
        issuer=settings.jwt_issuer,
        audience=settings.jwt_audience,
        claim=settings.jwt_claim,
        roles=roles,
    )


def origins_of(settings: ServeSettings) -> frozenset[bytes]:
    """Return the origins whose pages may ask.

    Raises UsageError for what is no origin.
    """
    origins = [text.strip() for text in (settings.cors_origins or "").split(",") if text.strip()]
    for origin in origins:
        if not re.fullmatch(r"https?://[^/\s*]+", origin):
            raise UsageError(f"expected an origin such as https://bi.example.com, got {origin!r}")
    return frozenset(origin.encode() for origin in origins)


class DrainingServer(uvicorn.Server):
    """A server that drains at the first signal, and does not send it again afterwards: the exit code says it.

    `begun` is called when it takes requests and signals; `close` is called at each signal, and ends what would last
    longer than requests.
    """

    def __init__(
        self, config: uvicorn.Config, begun: Callable[[], None], close: Callable[[], None] = lambda: None
    ) -> None:
        super().__init__(config)
        self.signal: int | None = None
        self._begun = begun
        self._close = close

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to serve. A collection of cycles then looks at what requests leave, and not at each module."""
        await super().startup(sockets=sockets)
        gc.collect()
        gc.freeze()
        if not self.should_exit:
            self._begun()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Take SIGINT and SIGTERM by the loop while the server runs."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._end, number)
        yield

    def _end(self, number: int) -> None:
        self.force_exit = self.should_exit and number == signal.SIGINT
        self.should_exit = True
        if self.signal is None:
            self.signal = number
            log.info("draining", signal=number, seconds=DRAIN_SECONDS)
        self._close()


@contextmanager
def bound(host: str, port: int) -> Iterator[socket.socket]:
    """Give a socket that listens on an address.

    Raises UsageError when that is impossible.
    """
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0][0]
        listener = socket.create_server((host, port), family=family, backlog=_BACKLOG)
    except OSError as error:
        raise UsageError(
            f"cannot listen on {host}:{port}: {reason_of(error)}", hint="give another one by --host and --port"
        ) from error
    with listener:
        if hasattr(socket, "TCP_USER_TIMEOUT"):  # Each connection inherits it.
            listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _UNREAD_SECONDS * 1000)
        yield listener


def require_loopback(host: str, auth: str) -> None:
    """Raise UsageError when others could reach a service that asks nobody for a key."""
    is_loopback = host == "localhost"
    with suppress(ValueError):
        is_loopback = is_loopback or ip_address(host).is_loopback
    if auth == "none" and not is_loopback:
        raise UsageError(
            f"without keys the service is for this machine only, and {host} is open to others",
            hint="--host 127.0.0.1, or --auth keys",
        )


def require_served(database: Database, *, needs_keys: bool) -> None:
    """Raise UsageError when the database is not migrated, or the user may not read the aggregates, or the keys."""
    from etl.precalculation import reading  # noqa: PLC0415 - its words for what is missing are those of the reports

    with (
        connecting.connect(database, "etl:serve", sees_all=False) as connection,
        reading.snapshot(connection, ()),
    ):
        reading.of_freshness(connection, ("aggregate", "version"))
        if needs_keys:
            try:
                keys.listed(connection)
            except psycopg.errors.InsufficientPrivilege as error:
                user = connection.info.user
                raise UsageError(
                    f"the user {user} may not read the keys",
                    hint=f"grant usage on schema etl to {user}; grant select on etl.api_keys to {user}",
                ) from error
