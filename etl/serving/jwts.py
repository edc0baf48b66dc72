"""`--auth jwt`: tokens of an identity provider. A claim of a token names roles, and a list says which of them count."""

import asyncio
import hashlib
import json
import math
import time
import urllib.request
from collections import OrderedDict
from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import jwt
import structlog

from etl.errors import UsageError, reason_of
from etl.serving.gates import NOBODY, OPEN, key_of, refused
from etl.serving.identity import ROLES, Identity, Role
from etl.serving.limiting import Rate
from etl.serving.problems import ProblemError

# How long a verified token is known, the keys of an address are, and how soon they are read again for an unknown one.
_KNOWN_SECONDS = 30.0
_KEYS_SECONDS = 600.0
_AGAIN_SECONDS = 30.0
_LEEWAY_SECONDS = 10
_MOST_KNOWN = 10_000
_MOST_BYTES = 1 << 20
_MOST_TOKEN = 8_000
_OF_PUBLIC_KEYS = ["RS256", "ES256"]

log = structlog.get_logger("etl.serving.audit")


@dataclass(frozen=True, kw_only=True)
class Trust:
    """Which tokens count: their issuer, their audience, the claim with the roles, and what each role may.

    `secret` verifies HS256; `keys` is a file or an address with the public keys for RS256 and ES256. One is given.
    """

    secret: bytes | None
    keys: str | None
    issuer: str
    audience: str
    claim: str
    roles: Mapping[str, tuple[Role, str | None]]


def roles_of(text: str | None) -> dict[str, tuple[Role, str | None]]:
    """Return the roles that a list names: `planner=analyst:etl_planner,ops=operator`.

    Raises UsageError.
    """
    roles: dict[str, tuple[Role, str | None]] = {}
    for part in filter(None, (each.strip() for each in (text or "").split(","))):
        name, sign, of = part.partition("=")
        role, _, database_role = of.partition(":")
        found = next((each for each in ROLES if each == role), None)
        if not name or not sign or found is None:
            raise UsageError(
                f"expected CLAIM=ROLE or CLAIM=ROLE:DATABASE_ROLE in --jwt-roles, got {part!r}",
                hint=f"roles: {', '.join(ROLES)}; for example planner=analyst:etl_planner",
            )
        roles[name] = (found, database_role or None)
    if not roles:
        raise UsageError("--auth jwt needs --jwt-roles: without it no token may do anything")
    return roles


class Jwts:
    """Who has a token that counts."""

    def __init__(self, trust: Trust, rate: Rate) -> None:
        self._trust = trust
        self._rate = rate
        self._known: OrderedDict[bytes, tuple[Identity, float]] = OrderedDict()
        self._keys: dict[str | None, jwt.PyJWK] = {}
        self._read_at: float | None = None
        self._lock = asyncio.Lock()

    async def identify(self, scope: MutableMapping[str, Any], headers: dict[bytes, bytes]) -> Identity:
        """Return whom the token of a request names.

        Raises ProblemError without a token that counts, and when its user asks too often.
        """
        if scope["path"] in OPEN:
            return NOBODY
        token = key_of(headers)
        if token is None or len(token) > _MOST_TOKEN:
            raise refused(scope, "no token", "expected a token: Authorization: Bearer TOKEN")
        now = asyncio.get_running_loop().time()
        digest = hashlib.sha256(token.encode()).digest()
        identity, until = self._known.get(digest, (None, 0.0))
        if identity is None or until <= now:
            try:
                identity, seconds = await self._verified(token)
            except (jwt.PyJWTError, ValueError, TypeError) as error:
                raise refused(scope, type(error).__name__, "this token does not count here") from error
            self._known[digest] = (identity, now + min(seconds, _KNOWN_SECONDS))
            if len(self._known) > _MOST_KNOWN:
                self._known.popitem(last=False)
        if wait := self._rate.wait_of(identity.name, now):
            raise ProblemError(429, "this user asks too often", {"Retry-After": str(math.ceil(wait))})
        return identity

    async def _verified(self, token: str) -> tuple[Identity, float]:
        """Return whom a token names, and for how many seconds it is valid.

        Raises PyJWTError for a token that does not count.
        """
        trust = self._trust
        key: Any = trust.secret
        algorithms = ["HS256"]
        if key is None:
            key, algorithms = await self._key(jwt.get_unverified_header(token).get("kid")), _OF_PUBLIC_KEYS
        claims: dict[str, Any] = jwt.decode(
            token,
            key,
            algorithms=algorithms,
            issuer=trust.issuer,
            audience=trust.audience,
            leeway=_LEEWAY_SECONDS,
            options={"require": ["exp", "iss", "aud"]},
        )
        named = claims.get(trust.claim)
        names = [named] if isinstance(named, str) else named if isinstance(named, list) else []
        found = [trust.roles[name] for name in names if isinstance(name, str) and name in trust.roles]
        if not found:
            raise jwt.InvalidTokenError("no role")
        role, database_role = max(found, key=lambda pair: ROLES.index(pair[0]))
        name = f"user {str(claims.get('sub', ''))[:100]}"
        seconds = float(claims["exp"]) + _LEEWAY_SECONDS - time.time()
        return Identity(name=name, role=role, database_role=database_role), seconds

    async def _key(self, kid: str | None) -> jwt.PyJWK:
        """Return the public key that a token names; new keys of the provider are read when one is unknown."""
        async with self._lock:
            now = asyncio.get_running_loop().time()
            age = math.inf if self._read_at is None else now - self._read_at
            if age > _KEYS_SECONDS or (kid not in self._keys and age > _AGAIN_SECONDS):
                self._read_at = now
                try:
                    self._keys = keys_in(await asyncio.to_thread(read_keys, str(self._trust.keys)))
                except (OSError, ValueError, jwt.PyJWTError) as error:
                    log.warning("keys_not_read", reason=type(error).__name__)
        if kid is None and len(self._keys) == 1:
            return next(iter(self._keys.values()))
        if kid not in self._keys:
            raise jwt.InvalidTokenError("unknown key")
        return self._keys[kid]


def keys_in(text: bytes) -> dict[str | None, jwt.PyJWK]:
    """Return the public keys of a JWKS document for RS256 and ES256, by their name.

    Raises ValueError and PyJWTError for another document.
    """
    found = [jwt.PyJWK.from_dict(each) for each in json.loads(text)["keys"] if each.get("kty") in {"RSA", "EC"}]
    return {key.key_id: key for key in found}


def read_keys(place: str) -> bytes:
    """Read a JWKS document from a file or an address.

    Raises OSError.
    """
    if "://" not in place:
        return Path(place).read_bytes()
    with urllib.request.urlopen(place, timeout=5) as answer:  # noqa: S310 - `require_keys` lets only http and https pass
        return bytes(answer.read(_MOST_BYTES))


def require_keys(place: str) -> None:
    """Raise UsageError when the public keys cannot be read at the start, or would come over an open connection."""
    parts = urlsplit(place)
    if "://" in place and parts.scheme != "https" and parts.hostname not in {"localhost", "127.0.0.1", "::1"}:
        raise UsageError(f"expected an https address or a file with public keys, got {parts.scheme}://...")
    try:
        if not keys_in(read_keys(place)):
            raise UsageError("the document has no public key for RS256 or ES256")
    except OSError as error:
        raise UsageError(f"cannot read the public keys: {reason_of(error)}") from error
    except (ValueError, KeyError, TypeError, jwt.PyJWTError) as error:
        raise UsageError("the public keys cannot be read: expected a JWKS document") from error
