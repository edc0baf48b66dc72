"""The postmaster of a data folder, as its postmaster.pid tells of it."""

from dataclasses import dataclass
from pathlib import Path

import psutil

from etl.embedded.sockets import SOCKET_PORT, socket_folder


@dataclass(frozen=True, kw_only=True)
class Postmaster:
    """A living postmaster, as its postmaster.pid tells of it."""

    pid: int
    started: str
    port: int
    tcp_port: int | None
    socket_folder: Path
    ready: bool

    @property
    def identity(self) -> str:
        """A line that no other postmaster of the folder has, also where it gets the same process id."""
        return f"{self.pid} {self.started}\n"


def living(data: Path) -> Postmaster | None:
    """Return the postmaster if it lives; a process that got the number of a dead one is none."""
    try:
        text = (data / "postmaster.pid").read_text(encoding="utf-8", errors="surrogateescape")
        lines = [line.strip() for line in text.splitlines()] + [""] * 8
        arguments = psutil.Process(int(lines[0])).cmdline()
    except (FileNotFoundError, ValueError, psutil.Error):
        return None
    if arguments[1:3] != ["-D", str(data)]:
        return None
    port = int(lines[3] or SOCKET_PORT)
    return Postmaster(
        pid=int(lines[0]),
        started=lines[2],
        port=port,
        tcp_port=port if lines[5] else None,
        socket_folder=Path(lines[4]) if lines[4] else socket_folder(data),
        ready=lines[7] == "ready",
    )
