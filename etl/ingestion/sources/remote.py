"""URLs -> bytes, by the transfers of their protocols.

An interrupted transfer continues where it stopped, as long as the source is still the same version. Knows no JSON and
no ledger, and reports no credentials: neither the user before the host nor the query, which may be a signature.
"""

import importlib
import io
import time
from collections.abc import Callable
from contextlib import closing, suppress
from typing import Any
from urllib.parse import SplitResult, urlsplit, urlunsplit

import structlog
from tenacity import RetryCallState

from etl import retrying
from etl.errors import SourceError, UsageError
from etl.ingestion.constants import READ_BYTES
from etl.ingestion.sources.transfers import (
    CHANGED,
    MISSING,
    BusyServerError,
    NetworkError,
    PermanentError,
    Transfer,
    described,
    http_range,
    http_size_by_range,
    http_transfer,
    object_range,
    object_store,
    object_transfer,
)
from etl.quick_dataclasses import dataclass
from etl.settings import RetrySettings

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

OBJECT_SCHEMES = tuple(_DRIVERS)
"""The schemes of object stores: what is written there is complete or absent."""

_GLOB = frozenset("*?[")


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
        system, path = object_store(url)
        names = system.glob(path if _GLOB & set(url) else f"{path.rstrip('/')}/*")
        files = [name for name in names if not system.isdir(name)]
    except Exception as error:  # noqa: BLE001 - each driver has exceptions of its own
        raise _unreadable(url, described(error)) from None
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


def read_range(url: str, offset: int, length: int, retries: RetrySettings) -> bytes:
    """Read a range of an object of a store, or of a file of a server; it may be shorter when the content changed.

    Raises SourceError.
    """

    def read() -> bytes:
        return (http_range if scheme_of(url) in _HTTP else object_range)(url, offset, length)

    policy = retrying.policy(retries, lambda error: isinstance(error, NetworkError), lambda _state: None, time.sleep)
    try:
        return policy(read)
    except (NetworkError, PermanentError) as error:
        raise _unreadable(url, str(error)) from None


def size_by_range(url: str) -> int | None:
    """Return the size of what can be read by ranges; None where this process cannot, or the server sends none."""
    try:
        if scheme_of(url) in _HTTP:
            return http_size_by_range(url)
        system, path = object_store(url)
        return int(system.info(path)["size"])
    except Exception:  # noqa: BLE001 - no driver, no credentials, no network, no object: each is a no
        return None


class _ResumableReader(io.RawIOBase):
    """The bytes of a URL; an interrupted transfer begins again at the byte where it stopped."""

    def __init__(self, url: str, retries: RetrySettings, sleep: Callable[[float], None]) -> None:
        self._url = url
        self._begin: Callable[[str, int], Transfer] = http_transfer if scheme_of(url) in _HTTP else object_transfer
        self._position = 0
        self._retries = retries
        self._sleep = sleep
        self._transfer: Transfer | None = None
        # Only a busy server is retried here: a wrong host looks like a lost connection, and is reported at once.
        first = self._retrying(lambda: self._begin(url, 0), BusyServerError)
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
        except (NetworkError, PermanentError, SourceError):
            raise
        except Exception as error:  # noqa: BLE001 - each driver has exceptions of its own
            raise NetworkError(described(error)) from None
        if not data and self.size is not None and self._position < self.size:
            raise NetworkError("the connection was closed too early")
        return data

    def _resume(self) -> Transfer:
        if self._version is None:
            raise PermanentError("the transfer was interrupted, and the server reports no version to continue with")
        transfer = self._begin(self._url, self._position)
        self._require_same(transfer)
        log.info("transfer_resumed", source=printable(self._url), position=self._position)
        return transfer

    def _require_same(self, transfer: Transfer) -> None:
        sizes = {self.size, transfer.size} - {None}
        if transfer.version != self._version or len(sizes) > 1:
            transfer.close()
            raise _unreadable(self._url, CHANGED)

    def _retrying(self, attempt: Callable[[], Any], transient: type[NetworkError] = NetworkError) -> Any:
        """Return the result of an attempt, which is retried after faults of the network.

        Raises SourceError.
        """
        policy = retrying.policy(
            self._retries, lambda error: isinstance(error, transient), self._log_retry, self._sleep
        )
        try:
            return policy(attempt)
        except (NetworkError, PermanentError) as error:
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


def _unreadable(url: str, why: str) -> SourceError:
    if why == MISSING and _GLOB & set(url) and scheme_of(url) not in _HTTP:
        return SourceError(
            f"no file matches the pattern {printable(url)}", hint="list the folder, and run the same command again"
        )
    return SourceError(
        f"cannot read {printable(url)}: {why}",
        hint="check the address and its access rights, and run the same command; loaded records are not loaded twice",
    )
