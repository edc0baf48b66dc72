"""The body of a request -> its events: read up to a limit, in some time, decompressed and parsed.

Only small bodies are parsed in the event loop: one of 8 MB takes 0.15 s, for which all other requests would wait.
"""

import asyncio
import zlib
from collections.abc import Awaitable, Callable, Iterator, MutableMapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

from etl.collecting.answers import AnswerError
from etl.collecting.events import Events, NotEventsError, TooLargeError, events_of

BODY_SECONDS = 30.0
"""A body that takes longer is refused: a client that sends one byte now and then must not hold a connection."""
IN_HAND_BYTES = 256 << 20
"""All bodies in memory at most."""

MOST_MEMBERS = 10_000
"""Members of a gzip body at most: each costs time, however small it is."""
_PIECE_BYTES = 1 << 14
AT_ONCE_BYTES = 1 << 18
"""A body of at most so many bytes is parsed in the event loop: that takes some milliseconds."""

JSON_TYPES = {
    "application/json",
    "application/x-ndjson",
    "application/ndjson",
    "application/jsonl",
    "application/x-json-stream",
}

Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]


class Bodies:
    """Reads bodies of at most `most` bytes, compressed or not.

    One thread parses the large ones, one after the other: with several, the loop would get less of the processor.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._in_hand = 0
        self._parser = ThreadPoolExecutor(1, thread_name_prefix="etl-parser")

    async def events(self, headers: dict[bytes, bytes], receive: Receive) -> Events:
        """Return the events of the body of a request.

        Raises AnswerError: 415 for another type, 413 for a larger body, 408 for a slow one, 422 for what is not events,
        503 when too many are in hand.
        """
        encoding = _encoding_of(headers)
        expected = _length_of(headers)
        if expected > self._most:
            raise self._too_large()
        with self._holding() as hold:
            try:
                async with asyncio.timeout(BODY_SECONDS):
                    body = await self._received(receive, hold)
            except TimeoutError:
                raise AnswerError(408, f"the body did not come within {BODY_SECONDS:g} s", close=True) from None
            if expected >= 0 and len(body) != expected:
                raise AnswerError(400, "the body has not the length that was announced", close=True)
            if encoding == "identity" and len(body) <= AT_ONCE_BYTES:
                return self._parsed(body, encoding)
            return await asyncio.get_running_loop().run_in_executor(self._parser, self._parsed, body, encoding)

    @contextmanager
    def _holding(self) -> Iterator[Callable[[int], None]]:
        """Count the bytes of one body until it is parsed."""
        held = 0

        def hold(size: int) -> None:
            nonlocal held
            if self._in_hand + size > IN_HAND_BYTES:
                raise AnswerError(503, "too many requests are in hand", seconds=1, close=True)
            held += size
            self._in_hand += size

        try:
            yield hold
        finally:
            self._in_hand -= held

    async def _received(self, receive: Receive, hold: Callable[[int], None]) -> bytes:
        parts: list[bytes] = []
        size = 0
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise AnswerError(400, "the client left before the end of the body", close=True)
            if data := message.get("body", b""):
                size += len(data)
                if size > self._most:
                    raise self._too_large()
                hold(len(data))
                parts.append(data)
            if not message.get("more_body"):
                return b"".join(parts)

    def _too_large(self) -> AnswerError:
        return AnswerError(413, f"a request has at most {self._most:,} bytes of events: send several", close=True)

    def _parsed(self, body: bytes, encoding: str) -> Events:
        try:
            return events_of(self._decompressed(body) if encoding == "gzip" else body)
        except NotEventsError as error:
            raise AnswerError(422, str(error), members={"byte": error.byte}) from None
        except TooLargeError as error:
            raise AnswerError(413, str(error)) from None

    def _decompressed(self, body: bytes) -> bytes:
        """Return what gzip has compressed, perhaps in several members; never more than the limit is made."""
        parts: list[bytes] = []
        left, at, members = self._most, 0, 0
        try:
            while at < len(body):
                members += 1
                if members > MOST_MEMBERS:
                    raise AnswerError(413, f"the body has more than {MOST_MEMBERS:,} members of gzip", close=True)
                member = zlib.decompressobj(31)
                while not member.eof:
                    if at >= len(body):
                        raise AnswerError(422, "the compressed body ends too early")
                    data = member.decompress(body[at : at + _PIECE_BYTES], left + 1)
                    at = min(len(body), at + _PIECE_BYTES) - len(member.unused_data)
                    left -= len(data)
                    if left < 0:
                        raise self._too_large()
                    parts.append(data)
        except zlib.error:
            raise AnswerError(422, "the body is not gzip, although Content-Encoding says so") from None
        return b"".join(parts)


def _encoding_of(headers: dict[bytes, bytes]) -> str:
    """Return how a body is compressed; raise AnswerError for a type or an encoding that is not read."""
    media_type, _, parameters = headers.get(b"content-type", b"").decode("latin-1").lower().partition(";")
    if media_type.strip() not in JSON_TYPES:
        raise AnswerError(415, "expected Content-Type: application/json, or application/x-ndjson for lines", close=True)
    charset = parameters.partition("charset=")[2].strip(' "')
    if charset not in {"", "utf-8", "utf8"}:
        raise AnswerError(415, "expected UTF-8", close=True)
    encoding = headers.get(b"content-encoding", b"identity").decode("latin-1").strip().lower()
    if encoding not in {"identity", "gzip"}:
        raise AnswerError(415, "expected Content-Encoding: gzip, or none", close=True)
    return encoding


def _length_of(headers: dict[bytes, bytes]) -> int:
    """Return the announced length of a body; -1: none is."""
    text = headers.get(b"content-length", b"")
    return int(text) if text.isdigit() else -1
