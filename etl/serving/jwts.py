"""`--auth jwt`: tokens of an identity provider. A claim of a token names roles, and a list says which of them count."""

import asyncio
import hashlib
import math
import time
from collections import OrderedDict
from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass
from typing import Any

import jwt

from etl.errors import UsageError
from etl.serving.gates import NOBODY, OPEN, key_of, refused
from etl.serving.identity import ROLES, Identity, Role
from etl.serving.limiting import Rate
from etl.serving.problems import ProblemError
from etl.serving.public_keys import ALGORITHMS, PublicKeys
from etl.serving.tokens import WRONG

# How long a verified token is known.
_KNOWN_SECONDS = 30.0
_LEEWAY_SECONDS = 10
_MOST_KNOWN = 10_000
_MOST_TOKEN = 8_000


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
        self._keys = PublicKeys(trust.keys) if trust.keys is not None else None

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
            except WRONG as error:
                raise refused(scope, type(error).__name__, "this token does not count here") from error
            self._known[digest] = (identity, now + min(seconds, _KNOWN_SECONDS))
            if len(self._known) > _MOST_KNOWN:
                self._known.popitem(last=False)
        if wait := self._rate.wait_of(identity.name, now):
            raise ProblemError(429, "this user asks too often", {"Retry-After": str(math.ceil(wait))})
        return identity

    async def _verified(self, token: str) -> tuple[Identity, float]:
        """Return whom a token names, and for how many seconds it is valid.

        Raises one of WRONG for a token that does not count.
        """
        trust = self._trust
        key: Any = trust.secret
        algorithms = ["HS256"]
        if self._keys is not None:
            key, algorithms = await self._keys.named(jwt.get_unverified_header(token).get("kid")), [*ALGORITHMS]
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
