"""The access log: one JSON line for each request, written together some times a second. No line has a query string."""

import sys
import threading
from collections.abc import MutableMapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import msgspec

FLUSH_SECONDS = 0.5
_MOST_LINES = 1_000


@dataclass
class Served:
    """What became of a request. `route` is the pattern of its address, `who` the name of the one who asked."""

    status: int = 0
    bytes: int = 0
    seconds: float = 0.0
    route: str = ""
    who: str = ""
    is_kept: bool = False


class AccessLog:
    """Lines that wait to be written to stderr."""

    def __init__(self, *, is_on: bool) -> None:
        self._is_on = is_on
        self._lines: list[bytes] = []
        self._lock = threading.Lock()

    def note(self, scope: MutableMapping[str, Any], request_id: bytes, served: Served) -> None:
        """Take the line of one request."""
        if not self._is_on:
            return
        client = scope.get("client")
        line = {
            "event": "request_served",
            "level": "info",
            "timestamp": datetime.now(UTC).isoformat(),
            "request_id": request_id.decode(),
            "method": scope["method"],
            "path": scope["path"][:200],
            "status": served.status,
            "bytes": served.bytes,
            "seconds": round(served.seconds, 6),
            "kept": served.is_kept,
            "who": served.who,
            "client": client[0] if client else None,
        }
        self._lines.append(msgspec.json.encode(line))
        if len(self._lines) >= _MOST_LINES:
            self.flush()

    def flush(self) -> None:
        """Write the lines that wait."""
        with self._lock:
            lines, self._lines = self._lines, []
            if lines:
                try:
                    sys.stderr.write("".join(f"{line.decode()}\n" for line in lines))
                    sys.stderr.flush()
                except OSError:
                    return  # No log line ends the service.
