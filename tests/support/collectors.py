"""A collector of OpenLineage events that takes them, or misbehaves."""

import json
import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal

Manner = Literal["takes", "hangs", "resets", "refuses", "fails"]


class Collector:
    """Where events go: `events` are those that it took, `asked` counts the requests."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.events: list[dict[str, Any]] = []
        self.asked = 0
        self.released = threading.Event()

    def of(self, job: str) -> list[dict[str, Any]]:
        """Return the events of a job in their order."""
        return [event for event in self.events if event["job"]["name"] == job]


@contextmanager
def collector(manner: Manner = "takes") -> Iterator[Collector]:
    """Run a collector on a free port of this machine."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            found.asked += 1
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if manner == "hangs":
                found.released.wait()
            elif manner == "resets":
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                self.connection.close()
                self.close_connection = True
                return
            if manner == "takes":
                found.events.append(json.loads(body))
            self.send_response(500 if manner == "fails" else 200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def handle(self) -> None:
            try:
                super().handle()
            except OSError:  # the client is gone
                return

        def finish(self) -> None:
            try:
                super().finish()
            except (OSError, ValueError):  # the connection was reset
                return

        def log_message(self, format: str, *args: object) -> None:
            """Print nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    found = Collector(f"http://127.0.0.1:{server.server_port}")
    if manner == "refuses":
        server.server_close()
        yield found
        return
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield found
    finally:
        found.released.set()
        server.shutdown()
        server.server_close()
