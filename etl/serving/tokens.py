"""Tokens for a key: one that is valid for minutes and needs no look at the database, and one that gets the next two."""

import asyncio
import secrets
from collections.abc import MutableMapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import jwt
import msgspec
import psycopg
import structlog
from fastapi import Request, Response

from etl import queries
from etl.database.connecting import Database, connect
from etl.errors import DatabaseError, UsageError, reason_of
from etl.serving import problems
from etl.serving.identity import Identity
from etl.serving.keys import digest_of
from etl.serving.problems import ProblemError

PATH = "/v1/token"

SECONDS = 900
"""How long a token is valid."""
REFRESH_SECONDS = 30 * 24 * 3600
"""How long a refresh token is valid."""

_PREFIX = "etlr_"
_ISSUER = "etl serve"
_LEAST_SECRET = 32

WRONG = (jwt.PyJWTError, ValueError, TypeError, OverflowError, RecursionError)
"""What reading a token raises that does not count. Its parts are JSON of any depth, with numbers of any size."""

_SQL = queries.load("keys")

log = structlog.get_logger("etl.serving.audit")


class _Asked(msgspec.Struct, forbid_unknown_fields=True):
    refresh_token: str


@dataclass(frozen=True, kw_only=True)
class _Issued:
    """The key that tokens are issued for, and the refresh token."""

    key: str
    refresh_token: str


class Tokens:
    """Issues and verifies tokens. They are signed by a secret that all replicas share, or by one of this process."""

    def __init__(self, database: Database, secret: bytes | None) -> None:
        self._database = database
        self._secret = secret or secrets.token_bytes(_LEAST_SECRET)
        self._free = asyncio.Semaphore(2)

    def key_of(self, token: str) -> str | None:
        """Return the key that a token was issued for, None for a token that is not valid."""
        try:
            claims = jwt.decode(
                token,
                self._secret,
                algorithms=["HS256"],
                issuer=_ISSUER,
                options={"require": ["exp", "sub", "iss"]},
            )
        except WRONG:
            return None
        return str(claims["sub"])

    async def answer(self, request: Request) -> Response:
        """Issue a token and a refresh token: for a key, or for a refresh token, which is used up by that.

        Raises ProblemError for a refresh token that is unknown, expired or used, and for a key that is not valid.
        """
        request.scope["etl.route"] = PATH
        identity: Identity = request.scope["etl.identity"]
        body = await request.body()
        given = None
        if body:
            kind = request.headers.get("content-type", "application/json").partition(";")[0].strip().lower()
            if kind != "application/json":
                raise ProblemError(415, "expected a body of application/json")
            try:
                given = msgspec.json.decode(body, type=_Asked).refresh_token
            except msgspec.DecodeError:
                raise ProblemError(422, 'expected {"refresh_token": "..."}, or no body with a key') from None
        elif identity.key is None:
            raise ProblemError(401, "expected a key: Authorization: Bearer KEY", {"WWW-Authenticate": "Bearer"})
        async with self._free:
            issued = await asyncio.to_thread(self._issue, identity.key, given)
        if issued is None:
            raise ProblemError(401, "this refresh token is not valid", {"WWW-Authenticate": "Bearer"})
        now = datetime.now(UTC)
        claims = {"iss": _ISSUER, "sub": issued.key, "iat": now, "exp": now + timedelta(seconds=SECONDS)}
        answer = {
            "access_token": jwt.encode(claims, self._secret, algorithm="HS256"),
            "token_type": "Bearer",
            "expires_in": SECONDS,
            "refresh_token": issued.refresh_token,
        }
        log.info("token_issued", key=issued.key, is_refreshed=given is not None)
        return Response(msgspec.json.encode(answer), media_type="application/json")

    def _issue(self, key: str | None, given: str | None) -> _Issued | None:
        """Enter a refresh token; return None when there is no valid key for it.

        Raises ProblemError for errors of the database.
        """
        try:
            with connect(self._database, "etl:serve:token", sees_all=False) as connection, connection.transaction():
                if given is not None:
                    key = _used(connection, given)
                if key is None:
                    return None
                token = f"{_PREFIX}{secrets.token_urlsafe(32)}"
                values = {"digest": digest_of(token), "id": key, "seconds": REFRESH_SECONDS}
                is_entered = connection.execute(_SQL["enter_token"], values).fetchone() is not None
                return _Issued(key=key, refresh_token=token) if is_entered else None
        except psycopg.errors.InsufficientPrivilege as error:
            raise ProblemError(503, "the user of the service may not write etl.api_tokens") from error
        except psycopg.Error as error:
            raise problems.of_database(error) from error
        except DatabaseError as error:
            raise problems.busy("the database cannot be reached now") from error


def _used(connection: psycopg.Connection, token: str) -> str | None:
    """Use up a refresh token; return its key. If it was used before, no token of the key is valid any more."""
    row = connection.execute(_SQL["use_token"], {"digest": digest_of(token)}).fetchone()
    if row is not None:
        return str(row[0])
    for (key,) in connection.execute(_SQL["end_tokens"], {"digest": digest_of(token)}).fetchmany(1):
        log.warning("token_reused", key=key)
    return None


def secret_of(path: Path | None) -> bytes | None:
    """Return the secret in a file, without white space around it.

    Raises UsageError when it cannot be read, or is too short to be one.
    """
    if path is None:
        return None
    try:
        secret = path.read_bytes().strip()
    except OSError as error:
        raise UsageError(f"cannot read {path}: {reason_of(error)}") from error
    if len(secret) < _LEAST_SECRET:
        raise UsageError(
            f"expected a secret of at least {_LEAST_SECRET} bytes in {path}",
            hint="python3 -c 'import secrets; print(secrets.token_urlsafe(48))'",
        )
    return secret


def is_token(text: str) -> bool:
    """Return whether a text has the form of a token."""
    return text.count(".") == 2


def asks_for_refresh(scope: MutableMapping[str, Any], headers: dict[bytes, bytes]) -> bool:
    """Return whether a request brings a refresh token, which says itself who asks."""
    return scope["path"] == PATH and headers.get(b"content-length", b"0") != b"0"
