"""`GET /v1/stream`: each refresh that changed rows, to all subscribers, as server-sent events."""

import asyncio
from collections.abc import AsyncIterator

import msgspec
from fastapi import Request, Response
from fastapi.responses import StreamingResponse

from etl.serving import problems
from etl.serving.watching import Freshness, Watch

PATH = "/v1/stream"

# A comment tells proxies that the connection lives.
_ALIVE_SECONDS = 15.0
# A subscriber with more events before it than this does not read; it connects again and gets the state of then.
_MOST_WAITING = 100


class Stream:
    """The subscribers, each with the events that wait for it."""

    def __init__(self, watch: Watch, limit: int) -> None:
        self._watch = watch
        self._limit = limit
        self._waiting: set[asyncio.Queue[bytes | None]] = set()
        self._is_closing = False
        watch.when_changed(self._send)

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
        """Send the freshness of all aggregates at once, then that of each aggregate whose rows changed."""
        request.scope["etl.route"] = PATH
        if self._is_closing or len(self._waiting) >= self._limit:
            raise problems.busy(f"there are {len(self._waiting)} subscribers already")
        return StreamingResponse(
            self._events(),
            media_type="text/event-stream",
            headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"},
        )

    async def _events(self) -> AsyncIterator[bytes]:
        queue: asyncio.Queue[bytes | None] = asyncio.Queue(_MOST_WAITING + 1)
        self._waiting.add(queue)
        try:
            yield b"retry: 2000\n\n"
            for row in list(self._watch.freshness.values()):
                yield _event("state", row)
            while True:
                try:
                    async with asyncio.timeout(_ALIVE_SECONDS):
                        event = await queue.get()
                except TimeoutError:
                    event = b": still here\n\n"
                if event is None:
                    return
                yield event
        finally:
            self._waiting.discard(queue)

    def _send(self, row: Freshness) -> None:
        event = _event("refresh", row)
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


def _event(name: str, row: Freshness) -> bytes:
    data = {"aggregate": row.aggregate, "version": row.version, "facts_through": row.facts_through}
    data |= {"pending_buckets": row.pending_buckets, "rejected_pending": row.rejected_pending}
    return f"event: {name}\nid: {row.aggregate}:{row.version}\ndata: {msgspec.json.encode(data).decode()}\n\n".encode()
