"""The keys of the service: made and revoked by commands, and known to the database by their digest only.

This module needs no package of the extra `serve`: an administrator can make keys anywhere.
"""

import hashlib
import re
import secrets
from dataclasses import dataclass
from datetime import datetime, timedelta

import psycopg

from etl import queries
from etl.errors import UsageError
from etl.serving.identity import Role

_SQL = queries.load("keys")

_PREFIX = "etlk"
"""Begins each key, so that a program that looks for secrets in files can find it."""
_KEY = re.compile(rf"{_PREFIX}_[0-9a-f]{{8}}_[A-Za-z0-9_-]{{43}}")


@dataclass(frozen=True, kw_only=True)
class KeyRow:
    """A key, without the key itself."""

    id: str
    label: str
    role: Role
    created_at: datetime
    created_by: str
    expires_at: datetime | None
    revoked_at: datetime | None


def create(connection: psycopg.Connection, label: str, role: Role, age: timedelta | None) -> tuple[KeyRow, str]:
    """Make a key that is valid for some time, or until it is revoked; return it with the text that its user sends.

    The text cannot be found again.
    """
    name = secrets.token_hex(4)
    key = f"{_PREFIX}_{name}_{secrets.token_urlsafe(32)}"
    values = {"id": name, "digest": digest_of(key), "label": label, "role": role, "age": age}
    return queries.one_as(KeyRow, connection, _SQL["create_key"], values), key


def listed(connection: psycopg.Connection) -> list[KeyRow]:
    """Return all keys, the newest first."""
    return queries.rows_as(KeyRow, connection, _SQL["list_keys"], None)


def revoke(connection: psycopg.Connection, id: str) -> str:
    """Revoke a key, also in the services that run; return its label.

    Raises UsageError when there is no such key.
    """
    row = connection.execute(_SQL["revoke_key"], {"id": id}).fetchone()
    if row is None:
        raise UsageError(f"there is no key {id!r}", hint="etl key list")
    return str(row[0])


def digest_of(key: str) -> bytes:
    """Return what the database knows of a key. It has 256 random bits, so no slower digest is needed."""
    return hashlib.sha256(key.encode()).digest()


def looks_like_key(text: str) -> bool:
    """Return whether a text has the form of a key."""
    return _KEY.fullmatch(text) is not None
