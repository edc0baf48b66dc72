"""The postmaster of a data folder, from its postmaster.pid."""

from dataclasses import dataclass
from pathlib import Path

import psutil

from etl.embedded.sockets import SOCKET_PORT, socket_folder


@dataclass(frozen=True, kw_only=True)
class Postmaster:
    """A running postmaster, from its postmaster.pid."""

    pid: int
    started: str
    port: int
    tcp_port: int | None
    socket_folder: Path
    ready: bool

    @property
    def identity(self) -> str:
        """A line that is different for every postmaster of the folder, even with the same process id."""
        return f"{self.pid} {self.started}\n"


def living(data: Path) -> Postmaster | None:
    """Return the running postmaster, or None. Another process with its old id is not taken for it."""
    postmaster = last(data)
    try:
        arguments = psutil.Process(postmaster.pid).cmdline() if postmaster else []
    except (ValueError, psutil.Error):
        return None
    return postmaster if arguments[1:3] == ["-D", str(data)] else None


def last(data: Path) -> Postmaster | None:
    """Return the running postmaster, or one that was killed; None after an orderly stop."""
    try:
        text = (data / "postmaster.pid").read_text(encoding="utf-8", errors="surrogateescape")
        lines = [line.strip() for line in text.splitlines()] + [""] * 8
        pid, port = int(lines[0]), int(lines[3] or SOCKET_PORT)
    except (FileNotFoundError, ValueError):
        return None
    return Postmaster(
        pid=pid,
        started=lines[2],
        port=port,
        tcp_port=port if lines[5] else None,
        socket_folder=Path(lines[4]) if lines[4] else socket_folder(data),
        ready=lines[7] == "ready",
    )
