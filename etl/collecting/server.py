"""The process of the collector: its socket, its loop, its loader process, and its end by a signal."""

import asyncio
import logging
import signal
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

import structlog
import uvicorn
import uvloop

from etl.collecting import direct, stores
from etl.collecting.access import Gate, Keys, Loopback
from etl.collecting.buffers import Keep, Limits, Store
from etl.collecting.receiving import Place, Receiver
from etl.collecting.work import Loading, Work
from etl.database.connecting import Database
from etl.errors import ExitCode, UsageError
from etl.logs import Logs
from etl.serving.connections import MOST_CONNECTIONS, guarded
from etl.serving.server import DRAIN_SECONDS, DrainingServer, bound, require_loopback
from etl.settings import CollectSettings, LoadSettings

_BACKLOG = 2_048

log = structlog.get_logger(__name__)


def collect(database: Database, config_dir: Path, settings: CollectSettings, logs: Logs) -> int:
    """Accept and load events until a signal arrives; return the exit code: 0 after SIGTERM.

    Raises UsageError when the address is in use or not this machine's own, or the buffer may lose events; BusyError
    when another collector writes the buffer, DatabaseError when the buffer cannot be used.
    """
    require_loopback(settings.host, settings.auth)
    gate: Gate = Loopback() if settings.auth == "none" else Keys(database, settings.rate_limit)
    with (
        bound(settings.host, settings.port) as listener,
        receiving(database, config_dir, settings, logs, gate) as receiver,
    ):
        host, port = listener.getsockname()[:2]
        address = f"http://{f'[{host}]' if ':' in host else host}:{port}"
        logging.getLogger("uvicorn").setLevel("ERROR")  # Its warnings are one line for each wrong request.
        server = DrainingServer(
            _config(receiver),
            lambda: log.info("collecting", address=address, database=database.name, buffer=receiver.buffer),
        )
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(server.serve(sockets=[listener]))
    return ExitCode.SUCCESS if server.signal in {None, signal.SIGTERM} else ExitCode.SIGINT


@contextmanager
def receiving(
    database: Database, config_dir: Path, settings: CollectSettings, logs: Logs, gate: Gate
) -> Iterator[Receiver]:
    """Give what answers the requests of a collector; its loader process runs until the context ends.

    Raises UsageError when the buffer may lose events, BusyError when another collector writes it, DatabaseError when it
    cannot be used.
    """
    load_settings = LoadSettings(failed_dir=settings.failed_dir)
    keep = _keep(settings)
    limits = Limits(most_bytes=settings.backlog_mb << 20, key_seconds=settings.keep_seconds)
    with ExitStack() as stack:
        loading = None
        if settings.direct:
            store: Store = stack.enter_context(direct.running(database, config_dir, settings, load_settings))
        else:
            store = stack.enter_context(stores.running(settings))
        if settings.part != "accept" and not settings.direct:
            work = Work(
                database=database,
                config_dir=config_dir,
                store=store,
                settings=load_settings,
                keep=keep,
                refresh_seconds=settings.refresh_seconds,
                logs=logs,
            )
            loading = stack.enter_context(Loading(work).running())
        accepts = settings.part != "load"
        place = Place(config_dir=config_dir, store=store, settings=load_settings, limits=limits, accepts=accepts)
        receiver = Receiver(database, place, gate, loading, settings.body_mb << 20)
        stack.enter_context(closing(receiver.buffers)).open_all()
        yield receiver
    log.info("collector_ended", waiting_bytes=loading.lag.bytes if loading else None)


def _keep(settings: CollectSettings) -> Keep:
    """Return what stays in the buffer after it was loaded. Raises UsageError when that leaves no room for others."""
    kept = (settings.backlog_mb << 20) // 4 if settings.keep_mb is None else settings.keep_mb << 20
    if kept >= settings.backlog_mb << 20:
        raise UsageError("--keep-mb fills the buffer with loaded events", hint="less than --backlog-mb")
    return Keep(seconds=settings.keep_seconds, bytes=kept)


def _config(app: Receiver) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        http=guarded(),
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=DRAIN_SECONDS,
        timeout_keep_alive=30,
        limit_concurrency=MOST_CONNECTIONS + 1,
        backlog=_BACKLOG,
    )
