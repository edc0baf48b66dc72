"""Answers that are kept as bytes, each with the version of the rows in it. Knows no database and no request."""

import re
from collections import OrderedDict
from dataclasses import dataclass
from typing import Protocol, TypeAlias

Key: TypeAlias = tuple[bytes, bytes, bytes, bool, str]
"""Path, query string, header Accept, whether compressed, and role."""

Headers: TypeAlias = list[tuple[bytes, bytes]]

_ROOM_OF_AN_ENTRY = 1_000

_NO_GZIP = re.compile(rb"gzip\s*;\s*q=0(\.0*)?\s*(,|$)")

KEPT_SECONDS = 30.0
"""How long an answer is kept at most; a right that was revoked counts after this time."""


@dataclass(frozen=True, kw_only=True)
class Answer:
    """An answer of 200 as bytes. `etag` names its rows, `headers` are those that do not change with the freshness.

    Without a body only its tag is known: of an address that was asked for with this tag. After the time `until` it is
    read again, because a right may have been revoked.
    """

    aggregate: str
    version: int
    etag: bytes
    until: float
    headers: Headers
    body: bytes | None


class Shares(Protocol):
    """Answers that are kept outside of this process, too."""

    async def find(self, key: Key) -> Answer | None:
        """Return the answer that is kept for a key."""

    def keep(self, key: Key, answer: Answer) -> None:
        """Keep an answer."""

    async def close(self) -> None:
        """Close the connections."""


class Kept:
    """The answers that were asked for last, up to some bytes."""

    def __init__(self, limit: int, shared: Shares | None = None) -> None:
        self.shared = shared
        self._answers: OrderedDict[Key, Answer] = OrderedDict()
        self._limit = limit
        self.bytes = 0

    def __len__(self) -> int:
        return len(self._answers)

    def find(self, key: Key) -> Answer | None:
        """Return the answer that is kept for a key."""
        answer = self._answers.get(key)
        if answer is not None:
            self._answers.move_to_end(key)
        return answer

    async def find_shared(self, key: Key) -> Answer | None:
        """Return the answer that another process has kept for a key, and keep it here."""
        answer = await self.shared.find(key) if self.shared is not None else None
        if answer is not None:
            self._put(key, answer)
        return answer

    def put(self, key: Key, answer: Answer) -> None:
        """Keep an answer; those that were not asked for longest make room. One that is too large is not kept."""
        if self.shared is not None:
            self.shared.keep(key, answer)
        self._put(key, answer)

    def _put(self, key: Key, answer: Answer) -> None:
        self.drop(key)
        room = _room(key, answer)
        if room > self._limit // 4:
            return
        self._answers[key] = answer
        self.bytes += room
        while self.bytes > self._limit:
            oldest, dropped = self._answers.popitem(last=False)
            self.bytes -= _room(oldest, dropped)

    def drop(self, key: Key) -> None:
        """Forget the answer of a key."""
        answer = self._answers.pop(key, None)
        if answer is not None:
            self.bytes -= _room(key, answer)


def _room(key: Key, answer: Answer) -> int:
    return len(answer.body or b"") + len(key[0]) + len(key[1]) + len(key[2]) + _ROOM_OF_AN_ENTRY


def matches(if_none_match: bytes, etag: bytes) -> bool:
    """Return whether a client names the answer with this tag; the comparison is the weak one of RFC 9110."""
    if if_none_match.strip() == b"*":
        return True
    return etag.removeprefix(b"W/") in {tag.strip().removeprefix(b"W/") for tag in if_none_match[:4_000].split(b",")}


def takes_gzip(accept_encoding: bytes) -> bool:
    """Return whether a client takes compressed bodies; `gzip;q=0` says that it does not."""
    return b"gzip" in accept_encoding and not _NO_GZIP.search(accept_encoding)
