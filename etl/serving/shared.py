"""Answers that several replicas share, in Redis or Valkey (`--cache`). While it is away each replica has its own only.

The version of an answer is compared as for the answers of this process, so an old one in there does no harm.
"""

import asyncio
import hashlib
import time
from typing import Any

import msgspec
import structlog
from redis.asyncio import Redis
from redis.exceptions import RedisError

from etl.errors import UsageError
from etl.serving.kept import KEPT_SECONDS, Answer, Headers, Key

# It must be faster than the database; after a failure it is left alone for a while.
_ANSWER_SECONDS = 0.1
_AWAY_SECONDS = 5.0
_MOST_BYTES = 4 << 20
_MOST_WAITING = 100

log = structlog.get_logger(__name__)


class _Stored(msgspec.Struct, array_like=True):
    aggregate: str
    version: int
    etag: bytes
    until: float
    headers: list[tuple[bytes, bytes]]
    body: bytes


class Shared:
    """The answers of all replicas of one database."""

    def __init__(self, url: str, database: str) -> None:
        try:
            self._redis = Redis.from_url(
                url, socket_timeout=_ANSWER_SECONDS, socket_connect_timeout=_ANSWER_SECONDS, retry=None
            )
        except ValueError as error:
            raise UsageError("--cache cannot be read", hint="expected redis://HOST:PORT/NUMBER") from error
        self._database = database
        self._away_until = 0.0
        self._tasks: set[asyncio.Task[None]] = set()

    async def find(self, key: Key) -> Answer | None:
        """Return the answer that a replica has kept for a key, None without one or while the cache is away."""
        if self._is_away():
            return None
        try:
            data: Any = await self._redis.get(self._name(key))
            stored = msgspec.msgpack.decode(data, type=_Stored) if data is not None else None
        # TypeError and ValueError: what answers is no Redis.
        except (RedisError, OSError, TimeoutError, TypeError, ValueError, msgspec.DecodeError) as error:
            self._leave(error)
            return None
        if stored is None:
            return None
        # The clock of the replica that kept it may be ahead of this one.
        seconds = min(stored.until - time.time(), KEPT_SECONDS)
        if not seconds > 0:
            return None
        headers: Headers = stored.headers
        return Answer(
            aggregate=stored.aggregate,
            version=stored.version,
            etag=stored.etag,
            until=asyncio.get_running_loop().time() + seconds,
            headers=headers,
            body=stored.body,
        )

    def keep(self, key: Key, answer: Answer) -> None:
        """Give an answer to the other replicas, a moment later."""
        if answer.body is None or len(answer.body) > _MOST_BYTES or self._is_away() or len(self._tasks) > _MOST_WAITING:
            return
        stored = _Stored(
            aggregate=answer.aggregate,
            version=answer.version,
            etag=answer.etag,
            until=time.time() + KEPT_SECONDS,
            headers=answer.headers,
            body=answer.body,
        )
        task = asyncio.create_task(self._keep(self._name(key), msgspec.msgpack.encode(stored)))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def close(self) -> None:
        """Close the connections."""
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._redis.aclose()

    async def _keep(self, name: bytes, data: bytes) -> None:
        try:
            await self._redis.set(name, data, ex=round(KEPT_SECONDS))
        except (RedisError, OSError, TimeoutError, TypeError, ValueError) as error:
            self._leave(error)

    def _is_away(self) -> bool:
        return asyncio.get_running_loop().time() < self._away_until

    def _leave(self, error: Exception) -> None:
        if not self._is_away():
            log.warning("cache_away", reason=type(error).__name__, seconds=_AWAY_SECONDS)
        self._away_until = asyncio.get_running_loop().time() + _AWAY_SECONDS

    def _name(self, key: Key) -> bytes:
        return b"etl:serve:" + hashlib.sha256(repr((self._database, key)).encode()).digest()
