"""A thread that sends events in their order, and gives up what a collector does not take."""

import atexit
import logging
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import cache
from queue import SimpleQueue
from typing import Any

import psycopg
import structlog

from etl.datasets import Dataset
from etl.errors import EtlError
from etl.lineage.facts import Event, Field, Place, Work, source_of, tables_of

log = structlog.get_logger(__name__)

PATIENCE_SECONDS = 2.0
"""How long events may keep a command from its end. A collector that hangs for longer already is not waited for."""

_MOST_WAITING = 10_000


class Sender:
    """Sends events by the official client. A work that is open at the end of the process is reported as failed."""

    def __init__(self, client: Any, made: Callable[[Event], Any]) -> None:
        self._client, self._made = client, made
        self._queue: SimpleQueue[Event | None] = SimpleQueue()
        self._open: dict[str, Work] = {}
        self._lost = 0
        self._since: float | None = None
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._send_all, name="etl-lineage", daemon=True)
        self._thread.start()
        atexit.register(self.close)

    def begin(self, work: Work) -> None:
        """Report the begin of a work."""
        self._open[work.key] = work
        self._put(Event(work=work, state="START", at=work.began_at))

    def work(self, key: str) -> Work | None:
        """Return the work that began with this key and has not ended."""
        return self._open.get(key)

    def end(self, event: Event) -> None:
        """Report the end of a work."""
        self._open.pop(event.work.key, None)
        self._put(event)

    def close(self) -> None:
        """Report what is open as failed, and wait a moment until all is sent."""
        for work in list(self._open.values()):
            self.end(Event(work=work, state="FAIL", at=_now(), error="the command ended before it"))
        self._queue.put(None)
        end = time.monotonic() + PATIENCE_SECONDS
        while not self._done.is_set() and self._thread.is_alive():
            left = min(end, (self._since or end) + PATIENCE_SECONDS) - time.monotonic()
            if left <= 0:
                break
            self._done.wait(min(left, 0.05))
        if lost := self._lost + (0 if self._done.is_set() else self._queue.qsize()):
            log.warning("lineage_lost", events=lost)

    def _put(self, event: Event) -> None:
        if self._queue.qsize() < _MOST_WAITING:
            self._queue.put(event)
        else:
            self._lost += 1

    def _send_all(self) -> None:
        """Send what comes, one after the other."""
        while (event := self._queue.get()) is not None:
            self._since = time.monotonic()
            self._lost += not self._is_sent(event)
            self._since = None
        self._since = time.monotonic()
        self._client.close(PATIENCE_SECONDS)
        self._done.set()

    def _is_sent(self, event: Event) -> bool:
        try:
            self._client.emit(self._made(event))
        except Exception as error:  # noqa: BLE001 - no fault of the lineage may end a load
            if not self._lost:
                log.warning("lineage_not_sent", state=event.state, job=event.work.job, reason=_reason(error))
            return False
        return True


def _reason(error: Exception) -> str:
    """Return the kind of an error; its text may hold the address of the collector, with a key."""
    response = getattr(error, "response", None)
    status = getattr(response, "status_code", None)
    return f"{type(error).__name__}{f' {status}' if status else ''}"


@cache
def _sender() -> Sender | None:
    """Return the sender of this process; None without the extra, or with a configuration that the client refuses.

    The client is made here: a thread can import nothing any more while the process ends.
    """
    try:
        from openlineage.client import OpenLineageClient  # noqa: PLC0415 - the extra

        from etl.lineage.events import made  # noqa: PLC0415 - imports the client

        client = OpenLineageClient()
    except ModuleNotFoundError as error:
        log.warning(
            "lineage_off", reason=f"{error.name} is missing", hint="install the wheel with its extra `openlineage`"
        )
        return None
    except Exception as error:  # noqa: BLE001 - no fault of the lineage may end a load
        log.warning("lineage_off", reason=_reason(error), hint="see the configuration of OpenLineage's client")
        return None
    # It would log each of its tries, with the address of the collector.
    logging.getLogger("urllib3.connectionpool").setLevel("ERROR")
    return Sender(client, made)


def run_began(connection: psycopg.Connection, source: str, dataset: Dataset, run: str, attempt: int) -> None:
    """Report that an attempt of a run began."""
    if (sender := _sender()) is not None:
        sender.begin(_load(connection, source, dataset, run, attempt))


def _load(connection: psycopg.Connection, source: str, dataset: Dataset, run: str, attempt: int) -> Work:
    return Work(
        key=run,
        job=f"load.{dataset.name}",
        kind="LOAD",
        description=f"Loads sources into the dataset {dataset.name}",
        tags={"etl_run": run, "etl_attempt": str(attempt)},
        began_at=_now(),
        inputs=[source_of(source, dataset)],
        outputs=tables_of(dataset, _namespace(connection), connection.info.dbname),
    )


def run_ended(run: str | None, *, rows: Mapping[str, int], read: int, size: int, error: str | None) -> None:
    """Report the end of a run that began here: rows by table, records and bytes read, and the error that ended it."""
    sender = _sender()
    if sender is None or run is None or (work := sender.work(run)) is None:
        return
    names = {place.name.partition(".")[2]: place.name for place in work.outputs}
    sender.end(
        Event(
            work=work,
            state="COMPLETE" if error is None else "FAIL",
            at=_now(),
            rows={names[table]: count for table, count in rows.items() if table in names},
            read=read,
            size=size,
            error=error,
        )
    )


@contextmanager
def refreshing(
    connection: psycopg.Connection,
    name: str,
    columns: Sequence[tuple[str, str]],
    *,
    table: str,
    facts: Sequence[str],
    run: str | None,
) -> Iterator[dict[str, int]]:
    """Report the begin of the refresh of a table and its end: the caller notes the rows that changed."""
    changed: dict[str, int] = {}
    if (sender := _sender()) is None:
        yield changed
        return
    fields = [Field(name=column, comment=comment) for column, comment in columns]
    work = _refresh(connection, name, [table, *dict.fromkeys(facts)], fields, run)
    sender.begin(work)
    try:
        yield changed
    except BaseException as error:
        # The server's text may quote a value.
        text = str(error) if isinstance(error, EtlError) else type(error).__name__
        sender.end(Event(work=work, state="FAIL", at=_now(), error=text))
        raise
    rows = {work.outputs[0].name: changed.get("rows", 0)}
    sender.end(Event(work=work, state="COMPLETE", at=_now(), rows=rows))


def _refresh(
    connection: psycopg.Connection, name: str, tables: Sequence[str], fields: Sequence[Field], run: str | None
) -> Work:
    """Return the refresh of the first of these tables from the others."""
    namespace, began = _namespace(connection), _now()
    written, *read = (f"{connection.info.dbname}.{table}" for table in tables)
    return Work(
        key=f"{written} {began.isoformat()} {threading.get_ident()}",
        job=f"precalculate.{name}",
        kind="REFRESH",
        description=f"Brings the aggregate {name} up to date",
        tags={"etl_run": run} if run else {},
        began_at=began,
        inputs=[Place(namespace=namespace, name=fact) for fact in read],
        outputs=[Place(namespace=namespace, name=written, fields=fields)],
    )


def _namespace(connection: psycopg.Connection) -> str:
    """Return the name of the server: the naming of OpenLineage asks for its host and port."""
    host = connection.info.host
    return f"postgres://{socket.gethostname() if not host or host.startswith('/') else host}:{connection.info.port}"


def _now() -> datetime:
    return datetime.now(UTC)
