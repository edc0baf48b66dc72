"""The transfers of each protocol, from some byte of a URL on: HTTP by the standard library, object stores by fsspec.

Their faults hold no address: it may have a password.
"""

import base64
import http.client
import ssl
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, Literal, NamedTuple, Protocol
from urllib.parse import unquote, urlsplit

from etl.errors import EtlError
from etl.ingestion.constants import (
    NETWORK_SECONDS,
    PROGRESS_BYTES,
    RANGE_READ_BYTES,
    READ_BYTES,
    STORE_BLOCK_BYTES,
)
from etl.ingestion.sources import requests
from etl.version import __version__

_RETRIED_STATUSES = frozenset({408, 425, 429, 500, 502, 503, 504})
_REDIRECTS = range(300, 400)

_SIGNED_SECONDS = 900
"""How long a signed address is valid: it is requested at once, and the clocks of S3 and a client may differ so much."""

_not_signed: set[str] = set()
"""The buckets that did not take a signed address, as one that wants a key of encryption with each request."""

CHANGED = "the source changed while it was read"
MISSING = "there is no such file"


class NetworkError(Exception):
    """A fault of the network: another try may succeed. The message holds no address."""


class BusyServerError(NetworkError):
    """The server answers that it is busy."""


class PermanentError(Exception):
    """The source cannot be read, and another try changes nothing."""


class Transfer(Protocol):
    """The bytes of one URL from some byte on; `version` changes when the content changes."""

    size: int | None
    version: str | None

    def read(self, size: int) -> bytes:
        """Return some bytes, no bytes at the end; any exception is a fault of the transfer."""

    def close(self) -> None:
        """Close the connection."""


def described(error: BaseException) -> str:
    """Return a message for an exception of the network or a driver; its own message may hold an address or a secret."""
    if isinstance(error, FileNotFoundError):
        return MISSING
    if isinstance(error, PermissionError):
        return "the right to read it is missing"
    if isinstance(error, TimeoutError):
        return "no answer in time"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror.lower()
    return f"the connection failed ({type(error).__name__})"


class StoreFault(NamedTuple):
    """An error of the driver of an object store, each of which has its own, with a reason that names no secret."""

    kind: Literal["missing", "right", "credentials", "other"]
    reason: str
    error: Exception


def fault_of(error: Exception) -> StoreFault:
    """Return what an error of a driver means."""
    if isinstance(error, FileNotFoundError):
        return StoreFault("missing", described(error), error)
    if isinstance(error, PermissionError):
        return StoreFault("right", described(error), error)
    if "Credentials" in type(error).__name__:
        return StoreFault("credentials", "credentials are missing or incomplete", error)
    return StoreFault("other", described(error), error)


@contextmanager
def store_faults(as_error: Callable[[StoreFault], Exception]) -> Iterator[None]:
    """Raise another error in the place of one of a driver; an error of this program stays as it is."""
    try:
        yield
    except EtlError:
        raise
    except Exception as error:  # noqa: BLE001 - each driver has exceptions of its own
        raise as_error(fault_of(error)) from None


class _Body:
    """The body of an answer over HTTP."""

    def __init__(self, response: requests.Answer, size: int | None) -> None:
        headers = response.headers
        self.size = size
        self.version = headers.get("ETag") or headers.get("Last-Modified")
        length = headers.get("Content-Length", "")
        self.length = int(length) if length.isdecimal() else 0
        self._response = response

    def read(self, size: int) -> bytes:
        return self._response.read(min(size, PROGRESS_BYTES))

    def read_some(self, size: int) -> bytes:
        return self._response.read_some(min(size, PROGRESS_BYTES), min(size, RANGE_READ_BYTES))

    def close(self) -> None:
        self._response.close()


def http_transfer(url: str, at: int) -> Transfer:
    """Request a file from byte `at` on; of a server without ranges, skip the bytes before it.

    Raises NetworkError or PermanentError.
    """
    response = _answer(_request(url, at))
    length = response.headers.get("Content-Length", "")
    size = int(length) if length.isdecimal() else None
    if response.status == http.HTTPStatus.PARTIAL_CONTENT:
        begins, _, whole = response.headers.get("Content-Range", "").removeprefix("bytes ").partition("/")
        if begins.partition("-")[0] != str(at):
            response.close()
            raise PermanentError("the server sends another range than the requested one")
        return _Body(response, int(whole) if whole.isdecimal() else None)
    body = _Body(response, size)
    while at:
        skipped = len(body.read(min(at, READ_BYTES)))
        if not skipped:
            raise NetworkError("the connection was closed too early")
        at -= skipped
    return body


def http_range(url: str, at: int, length: int) -> bytes:
    """Request `length` bytes of a file from byte `at` on; fewer where it ends before.

    Raises NetworkError or PermanentError, which a server without ranges is.
    """
    body = _ranged(url, at, length)
    parts, missing = [], length
    try:
        while missing and (part := body.read_some(missing)):
            parts.append(part)
            missing -= len(part)
    except (OSError, http.client.HTTPException) as error:
        raise NetworkError(described(error)) from None
    finally:
        body.close()
    if length - missing < min(length, body.length):
        raise NetworkError("the connection was closed too early")
    return b"".join(parts)


def http_size_by_range(url: str) -> int | None:
    """Return the size of a file of a server that sends ranges; None where it does not, or does not report it.

    Raises NetworkError or PermanentError.
    """
    body = _ranged(url, 0, 1)
    body.close()
    return body.size


def _ranged(url: str, at: int, length: int) -> _Body:
    response = _answer(_request(url, at, length))
    if response.status != http.HTTPStatus.PARTIAL_CONTENT:
        response.close()
        raise PermanentError("the server sends no ranges")
    begins, _, whole = response.headers.get("Content-Range", "").removeprefix("bytes ").partition("/")
    if begins.partition("-")[0] != str(at):
        response.close()
        raise PermanentError("the server sends another range than the requested one")
    return _Body(response, int(whole) if whole.isdecimal() else None)


def _request(url: str, at: int, length: int | None = None) -> urllib.request.Request:
    parts = urlsplit(url)
    # Without content encoding, because a range counts the bytes as sent.
    headers = {"Accept-Encoding": "identity", "User-Agent": f"logistics-etl/{__version__}"}
    if at or length is not None:
        headers["Range"] = f"bytes={at}-" if length is None else f"bytes={at}-{at + length - 1}"
    request = urllib.request.Request(requests.without_user(url), headers=headers)  # noqa: S310 - http and https only
    if parts.username is not None:
        user = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
        # A redirect to another host does not get the credentials.
        request.add_unredirected_header("Authorization", f"Basic {base64.b64encode(user.encode()).decode()}")
    return request


def _answer(request: urllib.request.Request) -> requests.Answer:
    try:
        return requests.answer(request, NETWORK_SECONDS)
    except requests.RedirectError as error:
        raise PermanentError(str(error)) from None
    except urllib.error.HTTPError as error:
        error.close()
        if error.code in _REDIRECTS:
            raise PermanentError(
                "the server redirects in a circle, or to an address that is not http or https"
            ) from None
        reason = http.client.responses.get(error.code, "").lower()
        fault = f"the server answers {error.code} {reason}".rstrip()
        if error.code == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            raise PermanentError(CHANGED) from None
        raise (BusyServerError if error.code in _RETRIED_STATUSES else PermanentError)(fault) from None
    except urllib.error.URLError as error:
        if isinstance(error.reason, ssl.SSLCertVerificationError):
            raise PermanentError("the server's certificate cannot be verified") from None
        raise NetworkError(described(error.reason) if isinstance(error.reason, OSError) else "no connection") from None
    except (http.client.InvalidURL, UnicodeError):
        raise PermanentError("the address has characters that must be written as %XX") from None
    except (OSError, http.client.HTTPException) as error:
        raise NetworkError(described(error)) from None


class _Object:
    """An object of a store, read block by block."""

    def __init__(self, url: str, at: int) -> None:
        system, path = object_store(url)
        details = system.info(path)
        if details.get("type") == "directory":
            raise FileNotFoundError
        self.size: int | None = details.get("size")
        names = ("ETag", "etag", "generation", "LastModified", "last_modified", "mtime")
        self.version = next((str(details[name]) for name in names if details.get(name)), None)
        self._file = system.open(path, "rb", block_size=STORE_BLOCK_BYTES, cache_type="readahead")
        self._file.seek(at)

    def read(self, size: int) -> bytes:
        data: bytes = self._file.read(size)
        return data

    def close(self) -> None:
        self._file.close()


def object_transfer(url: str, at: int) -> Transfer:
    """Open an object of a store at byte `at`.

    Raises NetworkError or PermanentError.
    """
    try:
        return _Object(url, at)
    except Exception as error:  # noqa: BLE001 - each driver has exceptions of its own
        fault = fault_of(error)
        raise (NetworkError if fault.kind == "other" else PermanentError)(fault.reason) from None


def object_range(url: str, at: int, length: int) -> bytes:
    """Read `length` bytes of an object from byte `at` on; fewer where it ends before.

    Where the store takes a signed address, the standard library reads it: the loop of the driver takes seven times as
    much of a processor, and waits for the interpreter at each 64 kB. Raises NetworkError or PermanentError.
    """
    try:
        system, path = object_store(url)
        address = _signed(system, path, url)
        if address is not None:
            # The driver knows more ways, as a proxy of its own; its error is the one that is reported.
            with suppress(NetworkError, PermanentError):
                return http_range(address, at, length)
        data: bytes = system.cat_file(path, start=at, end=at + length)
        if address is not None:
            _not_signed.add(urlsplit(url).netloc)
    except (FileNotFoundError, PermissionError) as error:
        raise PermanentError(described(error)) from None
    except Exception as error:  # noqa: BLE001 - each driver has exceptions of its own
        raise NetworkError(described(error)) from None
    return data


def _signed(system: Any, path: str, url: str) -> str | None:
    """Return the address of an object of S3 with a signature, which any client of HTTP can read for some time."""
    store = urlsplit(url)
    if store.scheme != "s3" or store.netloc in _not_signed:
        return None
    with suppress(Exception):  # Without credentials, for example, the driver reports it.
        # Else the driver would sign as servers of some regions alone still allow.
        system.s3.meta.events.register_first("choose-signer.s3.GetObject", _newer_signature, unique_id="logistics-etl")
        return str(system.sign(path, expiration=_SIGNED_SECONDS))
    return None


def _newer_signature(signature_version: object, **_: object) -> str | None:
    return "s3v4-query" if signature_version in {"s3v4-query", "v4-query"} else None


def object_store(url: str) -> tuple[Any, str]:
    """Return the fsspec file system of a URL, without its cache of listings, and the path in it."""
    import fsspec  # noqa: PLC0415 - an extra installs it

    system, path = fsspec.core.url_to_fs(url, use_listings_cache=False)
    return system, path
