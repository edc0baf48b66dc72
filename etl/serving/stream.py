"""`/v1/stream`: refreshes that changed rows, and word of loads, as server-sent events or over a WebSocket."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import lru_cache
from typing import TypeAlias

import msgspec
from fastapi import Request, Response, WebSocket
from fastapi.responses import StreamingResponse

from etl.serving import problems
from etl.serving.watching import Freshness, Watch

PATH = "/v1/stream"

_MEDIA_TYPE = "text/event-stream"
# A comment tells proxies that the connection lives.
_ALIVE_SECONDS = 15.0
# A subscriber with more events before it than this does not read; it connects again and gets the state of then.
_MOST_WAITING = 100
# So often it is asked whether a subscriber may still ask, beside at each change of keys.
_CHECK_SECONDS = 15.0
_CHECK = b"check"
_SILENCE = b"silence"
# It names no dataset: who may not see runs learns only that there was one.
_LOADED = b'{"event":"loaded"}'


MayStill: TypeAlias = Callable[[], Awaitable[bool]]
"""Whether the one who opened a stream may ask now."""


class Stream:
    """The subscribers, each with the events that wait for it."""

    def __init__(self, watch: Watch, limit: int) -> None:
        self._watch = watch
        self._limit = limit
        self._waiting: set[asyncio.Queue[bytes | None]] = set()
        self._is_closing = False
        watch.when_changed(lambda row: self._send(_text("refresh", row)))
        watch.when_loaded(lambda: self._send(_LOADED))
        watch.when_keys_changed(lambda: self._send(_CHECK))

    @property
    def count(self) -> int:
        """How many subscribers there are."""
        return len(self._waiting)

    def close(self) -> None:
        """End all streams; those who connect again reach another service, or this one after its restart."""
        self._is_closing = True
        for queue in list(self._waiting):
            self._end(queue)

    async def answer(self, request: Request) -> Response:
        """Send the freshness of all aggregates at once, then that of each one whose rows changed, and word of loads."""
        request.scope["etl.route"] = PATH
        if self._is_closing or len(self._waiting) >= self._limit:
            raise problems.busy(f"there are {len(self._waiting)} subscribers already")
        headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        if request.method == "HEAD":
            return Response(headers=headers, media_type=_MEDIA_TYPE)
        return StreamingResponse(self._events(request.scope["etl.may_still"]), headers=headers, media_type=_MEDIA_TYPE)

    async def serve_socket(self, socket: WebSocket) -> None:
        """Send the same events over a WebSocket, one JSON text each. What the client sends is not read."""
        if self._is_closing or len(self._waiting) >= self._limit:
            await socket.close(1013, "too many subscribers")
            return
        await socket.accept()
        sending = asyncio.create_task(self._send_all(socket))
        receiving = asyncio.create_task(_until_gone(socket))
        try:
            await asyncio.wait((sending, receiving), return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (sending, receiving):
                task.cancel()
            await asyncio.gather(sending, receiving, return_exceptions=True)

    async def _send_all(self, socket: WebSocket) -> None:
        async for event in self._texts(socket.scope["etl.may_still"]):
            if event is not None:
                await socket.send_text(event.decode())
        await socket.close(1012, "the service or the key ends, or events were not read")

    async def _events(self, may_still: MayStill) -> AsyncIterator[bytes]:
        yield b"retry: 2000\n\n"
        async for event in self._texts(may_still):
            yield _as_event(event) if event is not None else b": still here\n\n"

    async def _texts(self, may_still: MayStill) -> AsyncIterator[bytes | None]:
        """Yield events as JSON: the state of each aggregate, then refreshes; None after a time without any.

        They end when the subscriber may not ask any more.
        """
        queue: asyncio.Queue[bytes | None] = asyncio.Queue(_MOST_WAITING + 1)
        self._waiting.add(queue)
        try:
            for row in list(self._watch.freshness.values()):
                yield _text("state", row)
            checked_at = _now()
            while True:
                event = await _next(queue)
                if event is None:
                    return
                if event == _CHECK or _now() > checked_at + _CHECK_SECONDS:
                    if not await may_still():
                        return
                    checked_at = _now()
                if event != _CHECK:
                    yield event if event != _SILENCE else None
        finally:
            self._waiting.discard(queue)

    def _send(self, event: bytes) -> None:
        for queue in list(self._waiting):
            if queue.qsize() >= _MOST_WAITING:
                self._end(queue)
            else:
                queue.put_nowait(event)

    def _end(self, queue: asyncio.Queue[bytes | None]) -> None:
        self._waiting.discard(queue)
        while not queue.empty():
            queue.get_nowait()
        queue.put_nowait(None)


async def _next(queue: asyncio.Queue[bytes | None]) -> bytes | None:
    """Return the next event, or the word for a time without any; None is the end."""
    try:
        async with asyncio.timeout(_ALIVE_SECONDS):
            return await queue.get()
    except TimeoutError:
        return _SILENCE


def _now() -> float:
    return asyncio.get_running_loop().time()


def _text(name: str, row: Freshness) -> bytes:
    """Return an event as JSON, its name first."""
    data = {"event": name, "aggregate": row.aggregate, "version": row.version, "facts_through": row.facts_through}
    data |= {"pending_buckets": row.pending_buckets, "rejected_pending": row.rejected_pending}
    return msgspec.json.encode(data)


@lru_cache(maxsize=100)
def _as_event(text: bytes) -> bytes:
    """Return an event as it is sent to all subscribers."""
    if text == _LOADED:
        return b"event: loaded\ndata: %s\n\n" % text
    data = msgspec.json.decode(text)
    return b"event: %s\nid: %s:%s\ndata: %s\n\n" % (
        data["event"].encode(),
        data["aggregate"].encode(),
        str(data["version"]).encode(),
        text,
    )


async def _until_gone(socket: WebSocket) -> None:
    """Wait until the client has closed the connection."""
    while (await socket.receive())["type"] != "websocket.disconnect":
        pass
