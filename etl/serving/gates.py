"""Who may ask: the ways to find out (`--auth`)."""

import asyncio
import math
import re
from collections import OrderedDict
from collections.abc import MutableMapping
from dataclasses import dataclass
from typing import Any

import structlog
from psycopg.rows import dict_row

from etl import queries
from etl.serving import page
from etl.serving.identity import ANYONE, Identity, Role
from etl.serving.keys import digest_of, looks_like_key
from etl.serving.limiting import Rate
from etl.serving.pool import Connection, Sessions
from etl.serving.problems import ProblemError
from etl.serving.tokens import Tokens, asks_for_refresh, is_token
from etl.serving.watching import Watch

_OWN_NAMES = re.compile(rb"(localhost|127\.\d{1,3}\.\d{1,3}\.\d{1,3}|\[::1\])(:\d{1,5})?", re.IGNORECASE)
# Addresses that say nothing of the data.
OPEN = frozenset({"/healthz", "/readyz", *page.ADDRESSES})
NOBODY = Identity(name="nobody", role="analyst")

# The role of the database by which the rows of a role of the service are read, if the user may act as it.
_DATABASE_ROLES: dict[Role, str] = {"analyst": "etl_analyst"}

# So long a key is known without asking the database, unless a change of keys is announced.
_KNOWN_SECONDS = 30.0
_MOST_KNOWN = 10_000

_SQL = queries.load("keys")

log = structlog.get_logger("etl.serving.audit")


class Loopback:
    """`--auth none`: everyone on this machine. A page of elsewhere that a browser here shows is not of this machine."""

    async def identify(self, _scope: MutableMapping[str, Any], headers: dict[bytes, bytes]) -> Identity:
        """Return that anyone asks.

        Raises ProblemError when the request names another host, as a page does whose name was turned to this machine.
        """
        if not _OWN_NAMES.fullmatch(headers.get(b"host", b"localhost")):
            raise ProblemError(403, "without keys the service is for this machine only: ask localhost or 127.0.0.1")
        return ANYONE


@dataclass(frozen=True, kw_only=True)
class _Known:
    """Whom a key belongs to, None for no valid key, and until when that is known."""

    identity: Identity | None
    until: float


class Keys:
    """`--auth keys`: who has a key that is valid now. A change of keys counts from its notification on."""

    def __init__(self, watch: Watch, sessions: Sessions, tokens: Tokens, rate: Rate) -> None:
        self._tokens = tokens
        self._watch = watch
        self._sessions = sessions
        self._rate = rate
        self._known: OrderedDict[bytes, _Known] = OrderedDict()
        self._changes = -1

    async def identify(self, scope: MutableMapping[str, Any], headers: dict[bytes, bytes]) -> Identity:
        """Return whom the key of a request belongs to.

        Raises ProblemError without a valid key, and when its user asks too often.
        """
        if scope["path"] in OPEN or asks_for_refresh(scope, headers):
            return NOBODY
        key = key_of(headers)
        if key is None:
            raise refused(scope, "no key", "expected a key: Authorization: Bearer KEY")
        identity = await self._owner(key)
        if identity is None:
            raise refused(scope, "unknown, expired or revoked key", "this key is not valid")
        wait = self._rate.wait_of(identity.name, asyncio.get_running_loop().time())
        if wait:
            raise ProblemError(429, "this key asks too often", {"Retry-After": str(math.ceil(wait))})
        return identity

    async def _owner(self, key: str) -> Identity | None:
        now = asyncio.get_running_loop().time()
        if self._changes != self._watch.key_changes or not self._watch.is_live:
            self._known.clear()
            self._changes = self._watch.key_changes
        if looks_like_key(key):
            name, statement = digest_of(key), "find_key"
            value: dict[str, Any] = {"digest": name}
        elif is_token(key) and (of := self._tokens.key_of(key)) is not None:
            name, statement, value = of.encode(), "key_of_id", {"id": of}
        else:
            return None
        found = self._known.get(name)
        if found is None or found.until <= now:
            changes = self._changes
            found = await self._find(statement, value, now)
            if changes == self._watch.key_changes:
                self._known[name] = found
                if len(self._known) > _MOST_KNOWN:
                    self._known.popitem(last=False)
        return found.identity

    async def _find(self, statement: str, value: dict[str, Any], now: float) -> _Known:
        async def find(connection: Connection) -> tuple[dict[str, Any] | None, bool]:
            async with connection.cursor(row_factory=dict_row) as cursor:
                await cursor.execute(_SQL[statement], value)
                row = await cursor.fetchone()
            role = _DATABASE_ROLES.get(row["role"]) if row else None
            answer = await (await connection.execute(_SQL["has_role"], {"role": role})).fetchone()
            return row, bool(answer and answer[0])

        row, has_role = await self._sessions.read(None, find)
        if row is None:
            return _Known(identity=None, until=now + _KNOWN_SECONDS)
        role: Role = row["role"]
        database_role = _DATABASE_ROLES.get(role) if has_role else None
        identity = Identity(name=f"key {row['id']}", role=role, database_role=database_role, key=row["id"])
        seconds = _KNOWN_SECONDS if row["seconds"] is None else min(_KNOWN_SECONDS, row["seconds"])
        return _Known(identity=identity, until=now + seconds)


def key_of(headers: dict[bytes, bytes]) -> str | None:
    """Return the key or token that a request names, if it names one."""
    scheme, _, value = headers.get(b"authorization", b"").partition(b" ")
    if scheme.lower() == b"bearer" and value:
        return value.strip().decode("latin-1")
    given = headers.get(b"x-api-key")
    return given.strip().decode("latin-1") if given else None


def refused(scope: MutableMapping[str, Any], reason: str, detail: str) -> ProblemError:
    """Return the problem of one who may not ask, and enter it in the log, without the key."""
    client = scope.get("client")
    log.warning("access_refused", reason=reason, path=scope["path"][:200], client=client[0] if client else None)
    return ProblemError(401, detail, {"WWW-Authenticate": 'Bearer realm="logistics-etl"'})
