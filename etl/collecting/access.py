"""Who may send events: everyone on this machine, or who has a key of an operator (`--auth`)."""

import asyncio
import math
import re
import threading
import time
from typing import Protocol

import psycopg

from etl import queries
from etl.collecting.answers import AnswerError
from etl.database.connecting import Database, Session
from etl.errors import EtlError
from etl.serving.identity import ROLES
from etl.serving.keys import digest_of, looks_like_key
from etl.serving.limiting import Rate

_OWN_NAMES = re.compile(rb"(localhost|127\.\d{1,3}\.\d{1,3}\.\d{1,3}|\[::1\])(:\d{1,5})?", re.IGNORECASE)
_KNOWN_SECONDS = 30.0
_MOST_KNOWN = 10_000

_SQL = queries.load("keys")


class Gate(Protocol):
    """Finds out who sends a request."""

    async def require(self, headers: dict[bytes, bytes]) -> str:
        """Return the name of the sender, which is no secret. Raises AnswerError for one who may not send."""


class Loopback:
    """`--auth none`: everyone on this machine, but no page of elsewhere that a browser here shows."""

    async def require(self, headers: dict[bytes, bytes]) -> str:
        """Return that anyone sends. Raises AnswerError when a page of another host does."""
        origin = headers.get(b"origin", b"http://localhost").partition(b"://")[2]
        if not _OWN_NAMES.fullmatch(headers.get(b"host", b"localhost")) or not _OWN_NAMES.fullmatch(origin):
            raise AnswerError(403, "without keys the collector is for this machine only", close=True)
        return "anyone"


class Asked:
    """In a service that has asked already who sends (`etl serve --collect`)."""

    async def require(self, headers: dict[bytes, bytes]) -> str:  # noqa: ARG002 - others read them
        """Return that somebody sends who may."""
        return "asked"


class Keys:
    """`--auth keys`: who has a valid key of an operator or an administrator (`etl key create`)."""

    def __init__(self, database: Database, per_second: float) -> None:
        self._database = database
        self._rate = Rate(per_second)
        self._known: dict[bytes, tuple[str | None, float]] = {}
        self._lock = threading.Lock()
        self._session: Session | None = None

    async def require(self, headers: dict[bytes, bytes]) -> str:
        """Return the name of the key. Raises AnswerError without a valid key, and when it asks too often."""
        scheme, _, value = headers.get(b"authorization", b"").partition(b" ")
        key = (value if scheme.lower() == b"bearer" else headers.get(b"x-api-key", b"")).strip().decode("latin-1")
        if not looks_like_key(key):
            raise AnswerError(401, "expected a key: Authorization: Bearer KEY", close=True)
        name = await self._name_of(digest_of(key))
        wait = self._rate.wait_of(name, time.monotonic())
        if wait:
            raise AnswerError(429, "this key asks too often", seconds=math.ceil(wait))
        return name

    async def _name_of(self, digest: bytes) -> str:
        name, until = self._known.get(digest, (None, 0.0))
        if until <= time.monotonic():
            try:
                name, role, seconds = await asyncio.to_thread(self._find, digest)
            except (EtlError, psycopg.Error):
                raise AnswerError(503, "the database that knows the keys cannot be reached now", seconds=5) from None
            if name is not None and ROLES.index(role) < ROLES.index("operator"):
                raise AnswerError(403, "a key of an operator may send events: etl key create --role operator")
            if len(self._known) >= _MOST_KNOWN:
                self._known.clear()
            self._known[digest] = (name, time.monotonic() + min(seconds, _KNOWN_SECONDS))
        if name is None:
            raise AnswerError(401, "this key is not valid", close=True)
        return name

    def _find(self, digest: bytes) -> tuple[str | None, str, float]:
        """Return the name of a key, its role, and for how many seconds it is valid."""
        with self._lock:
            if self._session is None:
                self._session = Session(self._database, "etl:collect")
            row = self._session.connection().execute(_SQL["find_key"], {"digest": digest}).fetchone()
        if row is None:
            return None, "", _KNOWN_SECONDS
        return f"key {row[0]}", row[1], _KNOWN_SECONDS if row[2] is None else float(row[2])
