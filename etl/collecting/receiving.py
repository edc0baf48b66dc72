"""The requests of the collector: events are answered with 202 when they are durable, each with its place.

Plain ASGI: a request of one event must cost little beside the buffer.
"""

import asyncio
import math
import re
import threading
from collections import Counter
from collections.abc import Iterable, Mapping, MutableMapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import psycopg
import structlog

from etl import datasets
from etl.collecting.access import Gate
from etl.collecting.answers import AnswerError, Send, answer, refuse
from etl.collecting.bodies import Bodies, Receive
from etl.collecting.buffers import (
    Accepted,
    Buffer,
    Limits,
    OtherBodyError,
    Reader,
    RefusedError,
    Store,
    UnreadableError,
)
from etl.collecting.events import Events
from etl.collecting.loading import require_collectable
from etl.collecting.places import Fate, fate_of
from etl.collecting.status import waiting_in
from etl.collecting.work import Loading
from etl.database.connecting import Database, Session
from etl.errors import BusyError, DatabaseError, EtlError, UsageError
from etl.ingestion.pipeline.targets import Target
from etl.serving.events import Waiting
from etl.settings import LoadSettings

_MOST_KEY = 200
_EVENTS = "/v1/events/"
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,62}")

log = structlog.get_logger(__name__)


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where the buffers are, and what their datasets need; `accepts`: events may be sent to this process."""

    config_dir: Path
    store: Store
    settings: LoadSettings
    limits: Limits
    accepts: bool = True


class Buffers:
    """The buffers of the datasets, each opened when its first event comes."""

    def __init__(self, place: Place) -> None:
        self._place = place
        self._open: dict[str, Buffer] = {}
        self._lock = threading.Lock()
        self._is_closed = False

    @property
    def broken(self) -> list[str]:
        """The datasets whose buffer takes no events until the next start."""
        return [name for name, buffer in self._open.items() if buffer.is_broken]

    @property
    def bytes(self) -> dict[str, int]:
        """The bytes of each buffer."""
        return {name: buffer.bytes for name, buffer in self._open.items()}

    def known(self, dataset: str) -> Buffer | None:
        """Return the buffer of a dataset, if it is open."""
        return self._open.get(dataset)

    def opened(self, dataset: str) -> Buffer:
        """Return the buffer of a dataset.

        Raises UsageError when there is no such dataset, or its events cannot be loaded; BusyError when another process
        writes its buffer, DatabaseError when the buffer cannot be used.
        """
        with self._lock:
            if self._is_closed:
                raise DatabaseError("the collector ends")
            if not self._place.accepts or not _NAME.fullmatch(dataset):
                raise UsageError("there is no dataset of this name")
            if dataset not in self._open:
                place = self._place
                require_collectable(Target.of(datasets.find(dataset, place.config_dir), None, place.settings))
                self._open[dataset] = place.store.opened(dataset, place.limits)
            return self._open[dataset]

    def open_all(self) -> None:
        """Open the buffers that a crash may have left open: what they have can be loaded then."""
        for dataset in self._place.store.left_open():
            try:
                self.opened(dataset)
            except UsageError as error:
                store = self._place.store.name
                log.warning("events_without_dataset", buffer=store, dataset=dataset, reason=str(error), hint=error.hint)

    def close(self) -> None:
        """Write what was accepted, and end."""
        with self._lock:
            self._is_closed = True
            for buffer in self._open.values():
                buffer.close()


class Receiver:
    """Answers the requests of the collector."""

    def __init__(self, database: Database, place: Place, gate: Gate, loading: Loading | None, most_bytes: int) -> None:
        self._database = database
        self._place = place
        self._gate = gate
        self._loading = loading
        self._bodies = Bodies(most_bytes)
        self.buffers = Buffers(place)
        self._answers: Counter[int] = Counter()
        self._events: Counter[str] = Counter()
        self._session: Session | None = None
        self._reader: Reader | None = None
        self._session_lock = threading.Lock()

    @property
    def buffer(self) -> str:
        """Where events wait, without a password."""
        return self._place.store.name

    @property
    def broken(self) -> list[str]:
        """The datasets whose buffer takes no events until the next start."""
        return self.buffers.broken

    def waiting(self, loaded_to: Mapping[str, int]) -> Iterable[Waiting]:
        """Return what waits in each stream, by the byte up to which each is loaded; none while that cannot be read."""
        try:
            with closing(self._place.store.reader()) as reader:
                return list(waiting_in(reader, loaded_to))
        except (FileNotFoundError, UnreadableError):
            return []

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        """Answer a request, and the questions of the server at its begin and end."""
        if scope["type"] == "lifespan":
            await _live(receive, send)
        elif scope["type"] == "http":
            await self._answer(scope, receive, send)

    async def _answer(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        headers = dict(scope["headers"])
        path, method = scope["path"], scope["method"]
        try:
            status = await self._route(path, method, headers, receive, send)
        except AnswerError as error:
            status = error.status
            await refuse(send, error)
        except Exception as error:  # noqa: BLE001 - a fault of the collector never ends it, and its text may quote an event
            log.error("request_failed", method=method, error=type(error).__name__)  # noqa: TRY400 - without the text
            status = 500
            await refuse(send, AnswerError(500, "the collector has a fault; nothing was acknowledged", close=True))
        self._answers[status] += 1

    async def _route(self, path: str, method: str, headers: dict[bytes, bytes], receive: Receive, send: Send) -> int:
        if path == "/healthz":
            return await self._healthz(send)
        await self._gate.require(headers)
        if path == "/metrics":
            await answer(send, 200, self.metrics().encode(), media_type="text/plain; version=0.0.4")
            return 200
        if not path.startswith(_EVENTS):
            raise AnswerError(404, "send events to /v1/events/DATASET")
        name = path.removeprefix(_EVENTS)
        if method == "POST":
            return await self._accept(name, headers, receive, send)
        if method in {"GET", "HEAD"}:
            return await self._tell(name, send)
        raise AnswerError(405, "POST sends events, GET asks for one by its place")

    # Events

    async def _accept(self, dataset: str, headers: dict[bytes, bytes], receive: Receive, send: Send) -> int:
        buffer = self.buffers.known(dataset)
        if buffer is None:
            buffer = await asyncio.to_thread(self._opened, dataset)
        key = headers.get(b"idempotency-key")
        if key is not None and not 0 < len(key) <= _MOST_KEY:
            raise AnswerError(400, f"expected an Idempotency-Key of 1 to {_MOST_KEY} bytes", close=True)
        events = await self._bodies.events(headers, receive)
        accepted = Accepted(stream="", offsets=[])
        if events.lengths:
            accepted = await _written(buffer, events, key)
        if not accepted.is_repeat:
            self._events[dataset] += len(accepted.offsets)
        document = {
            "stream": accepted.stream or None,
            "events": len(accepted.offsets),
            "offsets": accepted.offsets,
            "is_repeat": accepted.is_repeat,
        }
        await answer(send, 202, msgspec.json.encode(document))
        return 202

    def _opened(self, dataset: str) -> Buffer:
        try:
            return self.buffers.opened(dataset)
        except BusyError as error:
            raise AnswerError(503, str(error), seconds=30) from None
        except UsageError as error:
            if not self._place.accepts:
                raise AnswerError(404, "this process loads events, and others accept them", close=True) from None
            is_known = dataset in datasets.names(self._place.config_dir)
            status, detail = (422, str(error)) if is_known else (404, "there is no dataset of this name")
            raise AnswerError(status, detail, close=True) from None
        except DatabaseError as error:
            log.error("buffer_not_usable", reason=str(error), hint=error.hint)  # noqa: TRY400 - the reason says all
            raise AnswerError(503, "the buffer cannot be used now", seconds=5) from None

    # What became of them

    async def _tell(self, name: str, send: Send) -> int:
        stream, _, text = name.rpartition(":")
        if not stream or not text.isascii() or not text.isdigit() or len(text) > 18:
            raise AnswerError(404, "expected a place: /v1/events/STREAM:OFFSET")
        try:
            fate = await asyncio.to_thread(self._fate, stream, int(text))
        except (EtlError, psycopg.Error, UnreadableError):
            raise AnswerError(503, "the database or the buffer cannot be reached now", seconds=1) from None
        if fate is None:
            raise AnswerError(404, "no event is known at this place")
        known = {member: value for member, value in vars(fate).items() if value is not None}
        await answer(send, 200, msgspec.json.encode({"stream": stream, "offset": int(text)} | known))
        return 200

    def _fate(self, stream: str, offset: int) -> Fate | None:
        with self._session_lock:
            if self._session is None:
                self._session = Session(self._database, "etl:collect")
            failed_dir = self._place.settings.failed_dir
            if self._reader is None:
                self._reader = self._place.store.reader()
            return fate_of(self._session.connection(), self._reader, failed_dir, stream, offset)

    # Operation

    async def _healthz(self, send: Send) -> int:
        broken = self.broken
        state: dict[str, Any] = {"status": "broken" if broken else "ok"}
        if self._loading is not None:
            state["is_loading"] = self._loading.is_alive
            state["waiting_events"] = self._loading.lag.events
            state["waiting_bytes"] = self._loading.lag.bytes
            state["waiting_seconds"] = math.floor(self._loading.lag.seconds)
        status = 503 if broken else 200
        await answer(send, status, msgspec.json.encode(state))
        return status

    def metrics(self) -> str:
        """Return the metrics for Prometheus in the text format."""
        families: list[tuple[str, str, str, dict[str, float]]] = [
            ("events_accepted_total", "counter", "Events that were acknowledged", _by("dataset", self._events)),
            ("requests_total", "counter", "Requests by the status of their answer", _by("status", self._answers)),
            ("spool_bytes", "gauge", "Bytes of the buffer", _by("dataset", self.buffers.bytes)),
            (
                "spool_limit_bytes",
                "gauge",
                "Bytes of the buffer of one dataset at most",
                {"": self._place.limits.most_bytes},
            ),
            (
                "spool_broken",
                "gauge",
                "Buffers that take nothing until the next start",
                {"": len(self.broken)},
            ),
        ]
        if self._loading is not None:
            lag, is_alive = self._loading.lag, self._loading.is_alive
            families += [
                ("waiting_events", "gauge", "Events that are not loaded yet", {"": lag.events}),
                ("waiting_bytes", "gauge", "Bytes of events that are not loaded yet", {"": lag.bytes}),
                ("waiting_seconds", "gauge", "Age of the oldest event that is not loaded yet", {"": lag.seconds}),
                ("loading_up", "gauge", "1 while the loader process runs", {"": int(is_alive)}),
            ]
        lines: list[str] = []
        for name, kind, text, values in families:
            lines += [f"# HELP etl_collect_{name} {text}", f"# TYPE etl_collect_{name} {kind}"]
            lines += [f"etl_collect_{name}{label} {value:g}" for label, value in sorted(values.items())]
        return "\n".join([*lines, ""])


def _by(label: str, values: "Counter[Any] | dict[str, int]") -> dict[str, float]:
    return {f'{{{label}="{name}"}}': count for name, count in values.items()}


async def _written(buffer: Buffer, events: Events, key: bytes | None) -> Accepted:
    """Return the places of events when they are durable. A client that leaves does not end the wait."""
    try:
        future = buffer.submit(events, None if key is None else key.decode("latin-1"))
        return await asyncio.shield(asyncio.wrap_future(future))
    except RefusedError as error:
        raise AnswerError(503, str(error), seconds=error.seconds) from None
    except OtherBodyError:
        raise AnswerError(409, "this Idempotency-Key was used before with other events") from None


async def _live(receive: Receive, send: Send) -> None:
    while True:
        message = await receive()
        await send({"type": f"{message['type']}.complete"})
        if message["type"] == "lifespan.shutdown":
            return
