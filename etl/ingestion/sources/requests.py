"""One request over HTTP: redirects to HTTP only, credentials for one host only, and an end to waiting.

A timeout of a socket ends a silent server only. One that sends a byte a minute is ended by the time in which an
answer must begin, and a part of its content must come.
"""

import http.client
import socket
import ssl
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from typing import Any
from urllib.parse import SplitResult, urlsplit, urlunsplit

_PORTS = {"http": 80, "https": 443}
_LOOKS = 10
"""How often the time is looked at before it is over."""


class RedirectError(Exception):
    """The server redirects to an address that is not read."""


def without_user(url: str) -> str:
    """Return a URL without its user and its fragment."""
    parts = urlsplit(url)
    return urlunsplit(SplitResult(parts.scheme, parts.netloc.rpartition("@")[2], parts.path, parts.query, ""))


class Answer:
    """The answer to a request; each read of its content has an end."""

    def __init__(self, response: http.client.HTTPResponse, watch: "_Watch") -> None:
        self.status = response.status
        self.headers = response.headers
        self._response = response
        self._watch = watch

    def read(self, size: int) -> bytes:
        """Return so many bytes, fewer at the end.

        Raises TimeoutError when they do not come in time, OSError and HTTPException as the connection does.
        """
        with self._watch.waiting():
            return self._response.read(size)

    def read_some(self, least: int, most: int) -> bytes:
        """Return at least so many bytes, as many as have come; fewer at the end.

        So a thread beside a busy one asks for the interpreter seldom. Raises as `read`.
        """
        parts, missing = [], least
        with self._watch.waiting():
            while missing > 0 and (part := self._response.read1(most)):
                parts.append(part)
                most -= len(part)
                missing -= len(part)
        return b"".join(parts)

    def close(self) -> None:
        """Close the connection."""
        self._watch.end()
        self._response.close()


def answer(request: urllib.request.Request, seconds: float) -> Answer:
    """Send a request, follow its redirects, and return the answer, whose beginning must come in this time.

    Raises TimeoutError when it does not, RedirectError, and the errors of `urllib.request`.
    """
    watch = _Watch(seconds)
    opener = urllib.request.build_opener(_Redirects, _HttpHandler(watch), _HttpsHandler(watch))
    with ExitStack() as broken:
        broken.callback(watch.end)
        with watch.waiting():
            # A head that is cut by the watch looks like a complete one.
            response = broken.enter_context(opener.open(request, timeout=seconds))
        broken.pop_all()
    return Answer(response, watch)


class _Watch:
    """Ends the connection of a request when it waits too long; the time between two waits does not count."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._until: float | None = None
        self._is_over = False
        self._ended = threading.Event()
        self._connections: list[http.client.HTTPConnection] = []
        self._sockets: list[socket.socket] = []
        threading.Thread(target=self._look, name="transfer-watch", daemon=True).start()

    def connection(self, connection: http.client.HTTPConnection) -> http.client.HTTPConnection:
        """Watch a connection, which does not exist yet; its socket outlives it in the answer."""
        connect = connection.connect

        def connecting() -> None:
            connect()
            self._sockets.append(connection.sock)

        connection.connect = connecting  # type: ignore[method-assign] # the only place that knows the socket
        self._connections.append(connection)
        return connection

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Wait at most the time of the watch; then TimeoutError is raised, whatever the connection raised."""
        self._until = time.monotonic() + self._seconds
        try:
            yield
        except (OSError, http.client.HTTPException):
            if self._is_over:
                raise TimeoutError from None
            raise
        finally:
            self._until = None
        if self._is_over:
            raise TimeoutError

    def end(self) -> None:
        """End the watch."""
        self._ended.set()

    def _look(self) -> None:
        while not self._ended.wait(self._seconds / _LOOKS):
            until = self._until
            if until is not None and time.monotonic() > until:
                self._is_over = True
                self._break()
                return

    def _break(self) -> None:
        """Let every wait for the connection end: the socket of TLS needs the call of its class of origin."""
        connecting = [connection.sock for connection in self._connections if connection.sock is not None]
        for each in [*self._sockets, *connecting]:
            with suppress(OSError):
                socket.socket.shutdown(each, socket.SHUT_RDWR)


class _HttpHandler(urllib.request.HTTPHandler):
    def __init__(self, watch: _Watch) -> None:
        super().__init__()
        self._watch = watch

    def http_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
        def connection(host: str, **options: Any) -> http.client.HTTPConnection:
            return self._watch.connection(http.client.HTTPConnection(host, **options))

        return self.do_open(connection, req)


class _HttpsHandler(urllib.request.HTTPSHandler):
    def __init__(self, watch: _Watch) -> None:
        super().__init__()
        self._watch = watch

    def https_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
        def connection(host: str, **options: Any) -> http.client.HTTPConnection:
            return self._watch.connection(http.client.HTTPSConnection(host, **options))

        return self.do_open(connection, req, context=ssl.create_default_context())


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows redirects to HTTP and HTTPS; credentials go to the same scheme, host and port only."""

    def redirect_request(
        self,
        req: urllib.request.Request,
        fp: Any,
        code: int,
        msg: str,
        headers: http.client.HTTPMessage,
        newurl: str,
    ) -> urllib.request.Request | None:
        try:
            origin, target = _origin(req.full_url), _origin(newurl)
        except ValueError:
            origin, target = None, None
        if target is None or target[0] not in _PORTS or not target[1]:
            fp.close()
            raise RedirectError("the server redirects to an address that is not http or https")
        # The user of a target is one that the server names, and not one that was given to this program.
        request = super().redirect_request(req, fp, code, msg, headers, without_user(newurl))
        if request is not None and origin == target:
            for name, value in _credentials(req).items():
                request.add_unredirected_header(name, value)
        return request


def _origin(url: str) -> tuple[str, str | None, int | None]:
    """Return scheme, host and port of a URL."""
    parts = urlsplit(url)
    return parts.scheme, parts.hostname, parts.port or _PORTS.get(parts.scheme)


def _credentials(request: urllib.request.Request) -> Mapping[str, str]:
    return {name: value for name, value in request.unredirected_hdrs.items() if name == "Authorization"}
