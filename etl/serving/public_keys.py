"""The public keys of an identity provider, from a file or an address (JWKS, RFC 7517)."""

import asyncio
import json
import math
import time
import urllib.request
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlsplit

import jwt
import structlog

from etl.errors import UsageError, reason_of

ALGORITHMS = ("RS256", "ES256")

# How long keys are known, and how soon they are read again for an unknown one.
_KEYS_SECONDS = 600.0
_AGAIN_SECONDS = 30.0
# How long a request waits for a provider, and how long the provider may take.
_WAIT_SECONDS = 5.0
_MOST_BYTES = 1 << 20
_BLOCK_BYTES = 1 << 16

log = structlog.get_logger("etl.serving.audit")


class PublicKeys:
    """The keys of a provider as they were read last; while it is away they stay."""

    def __init__(self, place: str) -> None:
        self._place = place
        self._keys: dict[str | None, jwt.PyJWK] = {}
        self._begun_at = -math.inf
        self._reading: asyncio.Task[None] | None = None
        self._are_old = True

    async def named(self, kid: str | None) -> jwt.PyJWK:
        """Return the key that a token names; new keys of the provider are read when one is unknown.

        A request whose key is known does not wait for a key that is asked for by another one.
        Raises InvalidTokenError for an unknown key.
        """
        now = asyncio.get_running_loop().time()
        age = now - self._begun_at
        if self._reading is None and (age > _KEYS_SECONDS or (kid not in self._keys and age > _AGAIN_SECONDS)):
            self._are_old = age > _KEYS_SECONDS
            self._begun_at = now
            self._reading = asyncio.create_task(self._read())
        if self._reading is not None and (self._are_old or kid not in self._keys):
            await asyncio.wait({self._reading}, timeout=max(0.0, self._begun_at + _WAIT_SECONDS - now))
        if kid is None and len(self._keys) == 1:
            return next(iter(self._keys.values()))
        if kid not in self._keys:
            raise jwt.InvalidTokenError("unknown key")
        return self._keys[kid]

    async def _read(self) -> None:
        try:
            self._keys = keys_in(await asyncio.to_thread(read_keys, self._place))
        except (OSError, ValueError) as error:
            log.warning("keys_not_read", reason=type(error).__name__)
        finally:
            self._reading = None


def keys_in(text: bytes) -> dict[str | None, jwt.PyJWK]:
    """Return the public keys of a JWKS document for RS256 and ES256, by their name.

    Other keys beside them are left out: a provider also publishes those for encryption.
    Raises ValueError for another document.
    """
    try:
        document = json.loads(text)
    except RecursionError as error:
        raise ValueError("expected a JWKS document") from error
    listed = document.get("keys") if isinstance(document, dict) else None
    if not isinstance(listed, list):
        raise ValueError("expected a JWKS document")  # noqa: TRY004 - a wrong text, and no wrong call
    found: dict[str | None, jwt.PyJWK] = {}
    for each in listed:
        if not isinstance(each, dict) or each.get("kty") not in {"RSA", "EC"} or each.get("use", "sig") != "sig":
            continue
        with suppress(jwt.PyJWTError, ValueError, TypeError, KeyError, AttributeError):
            key = jwt.PyJWK.from_dict(each)
            if key.algorithm_name in ALGORITHMS:
                found[key.key_id] = key
    return found


def read_keys(place: str) -> bytes:
    """Read a JWKS document from a file or an address.

    Raises OSError, also for an address that leads to an open connection, or takes too long.
    """
    if "://" not in place:
        return Path(place).read_bytes()
    end = time.monotonic() + _WAIT_SECONDS
    read = b""
    with urllib.request.urlopen(place, timeout=_WAIT_SECONDS) as answer:  # noqa: S310 - of http and https only
        if urlsplit(answer.url).scheme != urlsplit(place).scheme:
            raise OSError(0, "the address leads to another protocol")
        while block := answer.read1(_BLOCK_BYTES):
            read += block
            if len(read) > _MOST_BYTES:
                raise OSError(0, "the document is too large")
            if time.monotonic() > end:
                raise TimeoutError(0, "the document takes too long")
    return read


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
    except ValueError as error:
        raise UsageError("the public keys cannot be read: expected a JWKS document") from error
