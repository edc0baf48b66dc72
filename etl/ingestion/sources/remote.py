"""URLs -> bytes: HTTP by the standard library, object stores by the drivers of fsspec.

An interrupted transfer continues where it stopped, as long as the source is still the same version. Knows no JSON and
no ledger, and reports no credentials: neither the user before the host nor the query, which may be a signature.
"""

import base64
import http.client
import importlib
import io
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from contextlib import closing, suppress
from dataclasses import dataclass
from typing import Any, Protocol
from urllib.parse import SplitResult, unquote, urlsplit, urlunsplit

import structlog
from tenacity import RetryCallState

from etl import retrying
from etl.errors import SourceError, UsageError
from etl.ingestion.constants import NETWORK_SECONDS, PROGRESS_BYTES, READ_BYTES, STORE_BLOCK_BYTES
from etl.ingestion.sources import requests
from etl.settings import RetrySettings
from etl.version import __version__

log = structlog.get_logger(__name__)

_HTTP = ("http", "https")

# The module that fsspec needs for a scheme, and the extra of this package that installs it.
_DRIVERS = {
    "s3": "s3fs",
    "gs": "gcsfs",
    "az": "adlfs",
    "abfs": "adlfs",
    "abfss": "adlfs",
}
SCHEMES = (*_HTTP, *_DRIVERS)
"""The schemes of the URLs that can be read."""

_RETRIED_STATUSES = frozenset({408, 425, 429, 500, 502, 503, 504})
_REDIRECTS = range(300, 400)
_GLOB = frozenset("*?[")
_CHANGED = "the source changed while it was read"


class _NetworkError(Exception):
    """A fault of the network: another try may succeed. The message holds no address."""


class _BusyServerError(_NetworkError):
    """The server answers that it is busy."""


class _PermanentError(Exception):
    """The source cannot be read, and another try changes nothing."""


class Transfer(Protocol):
    """The bytes of one URL from some byte on; `version` changes when the content changes."""

    size: int | None
    version: str | None

    def read(self, size: int) -> bytes:
        """Return some bytes, no bytes at the end; any exception is a fault of the transfer."""

    def close(self) -> None:
        """Close the connection."""


def scheme_of(argument: str) -> str | None:
    """Return the scheme of a URL in lower case, or None for a path."""
    scheme, separator, _ = argument.partition("://")
    return scheme.lower() if separator and scheme.isalnum() else None


def require_driver(url: str) -> None:
    """Raise UsageError when a URL has an unknown scheme or no host, or needs a package that is not installed."""
    scheme = scheme_of(url)
    if scheme not in SCHEMES:
        raise UsageError(f"URLs with {scheme}:// cannot be read", hint=f"known: {', '.join(SCHEMES)}, and paths")
    try:
        parts = urlsplit(url)
        is_whole = bool(parts.hostname) and parts.port != 0
    except ValueError:
        is_whole = False
    if not is_whole:
        raise UsageError(f"expected {scheme}:// and a host or bucket after it, got a URL without one")
    if scheme in _DRIVERS:
        package = _DRIVERS[scheme]
        try:
            importlib.import_module(package)
        except ImportError:
            raise UsageError(f"{scheme}:// needs the package {package}", hint=f"pip install {package}") from None


def printable(url: str) -> str:
    """Return a URL for messages and the ledger: without a user, a password or a query."""
    parts = urlsplit(url)
    host = parts.netloc.rpartition("@")[2]
    return urlunsplit(SplitResult(parts.scheme, host, parts.path, "..." if parts.query else "", ""))


def expand(url: str) -> list[str]:
    """Return the URLs that a pattern or folder of an object store names, sorted; another URL names itself.

    Raises SourceError when the store cannot be listed.
    """
    scheme = scheme_of(url)
    if scheme in _HTTP or not (_GLOB & set(url) or url.endswith("/")):
        return [url]
    try:
        system, path = _object_store(url)
        names = system.glob(path if _GLOB & set(url) else f"{path.rstrip('/')}/*")
        files = [name for name in names if not system.isdir(name)]
    except Exception as error:  # noqa: BLE001 - each driver has exceptions of its own
        raise _unreadable(url, _describe(error)) from None
    return sorted(f"{scheme}://{name}" for name in files)


@dataclass(frozen=True, kw_only=True)
class Download:
    """The bytes of a URL, and their number if the server reports it."""

    raw: io.BufferedReader
    size: int | None
    check_unchanged: Callable[[], None]


def open_url(url: str, retries: RetrySettings, sleep: Callable[[float], None] = time.sleep) -> Download:
    """Open a URL for one pass.

    Raises SourceError when it cannot be read; reading raises it, too.
    """
    reader = _ResumableReader(url, retries, sleep)
    return Download(raw=io.BufferedReader(reader, READ_BYTES), size=reader.size, check_unchanged=reader.check_unchanged)


class _ResumableReader(io.RawIOBase):
    """The bytes of a URL; an interrupted transfer begins again at the byte where it stopped."""

    def __init__(self, url: str, retries: RetrySettings, sleep: Callable[[float], None]) -> None:
        self._url = url
        self._begin: Callable[[str, int], Transfer] = _http if scheme_of(url) in _HTTP else _object
        self._position = 0
        self._retries = retries
        self._sleep = sleep
        self._transfer: Transfer | None = None
        # Only a busy server is retried here: a wrong host looks like a lost connection, and is reported at once.
        first = self._retrying(lambda: self._begin(url, 0), _BusyServerError)
        self.size, self._version = first.size, first.version
        self._transfer = first

    def readable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer).cast("B")
        data = self._retrying(lambda: self._read(len(view)))
        view[: len(data)] = data
        self._position += len(data)
        return len(data)

    def close(self) -> None:
        self._drop_transfer()
        super().close()

    def check_unchanged(self) -> None:
        """Raise SourceError when an object changed while it was read; one answer over HTTP is always one version."""
        if scheme_of(self._url) not in _HTTP:
            with closing(self._retrying(lambda: self._begin(self._url, 0))) as now:
                self._require_same(now)

    def _read(self, size: int) -> bytes:
        try:
            if self._transfer is None:
                self._transfer = self._resume()
            data = self._transfer.read(size)
        except (_NetworkError, _PermanentError, SourceError):
            raise
        except Exception as error:  # noqa: BLE001 - each driver has exceptions of its own
            raise _NetworkError(_describe(error)) from None
        if not data and self.size is not None and self._position < self.size:
            raise _NetworkError("the connection was closed too early")
        return data

    def _resume(self) -> Transfer:
        if self._version is None:
            raise _PermanentError("the transfer was interrupted, and the server reports no version to continue with")
        transfer = self._begin(self._url, self._position)
        self._require_same(transfer)
        log.info("transfer_resumed", source=printable(self._url), position=self._position)
        return transfer

    def _require_same(self, transfer: Transfer) -> None:
        sizes = {self.size, transfer.size} - {None}
        if transfer.version != self._version or len(sizes) > 1:
            transfer.close()
            raise _unreadable(self._url, _CHANGED)

    def _retrying(self, attempt: Callable[[], Any], transient: type[_NetworkError] = _NetworkError) -> Any:
        """Return the result of an attempt, which is retried after faults of the network.

        Raises SourceError.
        """
        policy = retrying.policy(
            self._retries, lambda error: isinstance(error, transient), self._log_retry, self._sleep
        )
        try:
            return policy(attempt)
        except (_NetworkError, _PermanentError) as error:
            raise _unreadable(self._url, str(error)) from None

    def _log_retry(self, state: RetryCallState) -> None:
        self._drop_transfer()
        log.warning(
            "transfer_broken",
            source=printable(self._url),
            position=self._position,
            reason=str(state.outcome.exception()) if state.outcome else "",
            try_number=state.attempt_number,
            of=self._retries.attempts,
            wait_seconds=round(state.upcoming_sleep, 2),
        )

    def _drop_transfer(self) -> None:
        if self._transfer is not None:
            with suppress(Exception):  # A broken connection may fail to close.
                self._transfer.close()
            self._transfer = None


_MISSING = "there is no such file"


def _unreadable(url: str, why: str) -> SourceError:
    if why == _MISSING and _GLOB & set(url) and scheme_of(url) not in _HTTP:
        return SourceError(
            f"no file matches the pattern {printable(url)}", hint="list the folder, and run the same command again"
        )
    return SourceError(
        f"cannot read {printable(url)}: {why}",
        hint="check the address and its access rights, and run the same command; loaded records are not loaded twice",
    )


def _describe(error: BaseException) -> str:
    """Return a message for an exception of the network or a driver; its own message may hold an address or a secret."""
    if isinstance(error, FileNotFoundError):
        return _MISSING
    if isinstance(error, PermissionError):
        return "the right to read it is missing"
    if isinstance(error, TimeoutError):
        return "no answer in time"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror.lower()
    return f"the connection failed ({type(error).__name__})"


class _Body:
    """The body of an answer over HTTP."""

    def __init__(self, response: requests.Answer, size: int | None) -> None:
        headers = response.headers
        self.size = size
        self.version = headers.get("ETag") or headers.get("Last-Modified")
        self._response = response

    def read(self, size: int) -> bytes:
        return self._response.read(min(size, PROGRESS_BYTES))

    def close(self) -> None:
        self._response.close()


def _http(url: str, at: int) -> Transfer:
    """Request a file from byte `at` on; of a server without ranges, skip the bytes before it."""
    response = _answer(_request(url, at))
    length = response.headers.get("Content-Length", "")
    size = int(length) if length.isdecimal() else None
    if response.status == http.HTTPStatus.PARTIAL_CONTENT:
        begins, _, whole = response.headers.get("Content-Range", "").removeprefix("bytes ").partition("/")
        if begins.partition("-")[0] != str(at):
            response.close()
            raise _PermanentError("the server sends another range than the requested one")
        return _Body(response, int(whole) if whole.isdecimal() else None)
    body = _Body(response, size)
    while at:
        skipped = len(body.read(min(at, READ_BYTES)))
        if not skipped:
            raise _NetworkError("the connection was closed too early")
        at -= skipped
    return body


def _request(url: str, at: int) -> urllib.request.Request:
    parts = urlsplit(url)
    # Without content encoding, because a range counts the bytes as sent.
    headers = {"Accept-Encoding": "identity", "User-Agent": f"logistics-etl/{__version__}"}
    if at:
        headers["Range"] = f"bytes={at}-"
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
        raise _PermanentError(str(error)) from None
    except urllib.error.HTTPError as error:
        error.close()
        if error.code in _REDIRECTS:
            raise _PermanentError(
                "the server redirects in a circle, or to an address that is not http or https"
            ) from None
        reason = http.client.responses.get(error.code, "").lower()
        fault = f"the server answers {error.code} {reason}".rstrip()
        if error.code == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            raise _PermanentError(_CHANGED) from None
        raise (_BusyServerError if error.code in _RETRIED_STATUSES else _PermanentError)(fault) from None
    except urllib.error.URLError as error:
        if isinstance(error.reason, ssl.SSLCertVerificationError):
            raise _PermanentError("the server's certificate cannot be verified") from None
        raise _NetworkError(_describe(error.reason) if isinstance(error.reason, OSError) else "no connection") from None
    except (http.client.InvalidURL, UnicodeError):
        raise _PermanentError("the address has characters that must be written as %XX") from None
    except (OSError, http.client.HTTPException) as error:
        raise _NetworkError(_describe(error)) from None


class _Object:
    """An object of a store, read block by block."""

    def __init__(self, url: str, at: int) -> None:
        system, path = _object_store(url)
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


def _object(url: str, at: int) -> Transfer:
    try:
        return _Object(url, at)
    except (FileNotFoundError, PermissionError) as error:
        raise _PermanentError(_describe(error)) from None
    except Exception as error:  # noqa: BLE001 - each driver has exceptions of its own
        if "Credentials" in type(error).__name__:
            raise _PermanentError("credentials are missing or incomplete") from None
        raise _NetworkError(_describe(error)) from None


def _object_store(url: str) -> tuple[Any, str]:
    """Return the fsspec file system of a URL, without its cache of listings, and the path in it."""
    import fsspec  # noqa: PLC0415 - an extra installs it

    system, path = fsspec.core.url_to_fs(url, use_listings_cache=False)
    return system, path
