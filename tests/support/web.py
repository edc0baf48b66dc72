"""A server of the tests that sends contents."""

import hashlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Web:
    """The content that the server sends, or another at a path; and its address.

    `barrier`: so many requests have to wait before any of them gets an answer. `ranges` are those that were asked for;
    with `has_ranges` they are sent.
    """

    content: bytes = b""
    url: str = ""
    others: dict[str, bytes] = field(default_factory=dict)
    barrier: threading.Barrier | None = None
    has_ranges: bool = False
    ranges: list[str] = field(default_factory=list)


@contextmanager
def web_server() -> Iterator[Web]:
    """Serve a content on this machine; its version is known by its hash."""
    web = Web()

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, format: str, *args: Any) -> None:
            """Say nothing."""

        def do_GET(self) -> None:
            content = web.others.get(self.path, web.content)
            if web.barrier is not None:
                web.barrier.wait(30)
            asked = self.headers.get("Range")
            if asked is not None:
                web.ranges.append(asked)
            status, size, begins = 200, len(content), 0
            if web.has_ranges and asked is not None:
                begin, _, end = asked.removeprefix("bytes=").partition("-")
                status, begins = 206, int(begin)
                content = content[begins : int(end) + 1 if end else None]
            with suppress(BrokenPipeError, ConnectionResetError):  # The reader may have heard enough.
                self.send_response(status)
                if status == 206:
                    self.send_header("Content-Range", f"bytes {begins}-{begins + len(content) - 1}/{size}")
                self.send_header("Content-Length", str(len(content)))
                self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
                self.end_headers()
                self.wfile.write(content)

    with serving(Handler) as address:
        web.url = f"http://{address}"
        yield web


@contextmanager
def serving(handler: type[BaseHTTPRequestHandler]) -> Iterator[str]:
    """Answer requests on this machine by a handler; yield the host with the port."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
