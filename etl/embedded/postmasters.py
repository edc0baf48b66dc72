"""The postmaster of a data folder, from its postmaster.pid."""

from contextlib import suppress
from pathlib import Path

import psutil

from etl.embedded.sockets import SOCKET_PORT, socket_folder
from etl.quick_dataclasses import dataclass


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
        process = psutil.Process(postmaster.pid) if postmaster else None
        if process is None or not (process.cmdline()[1:3] == ["-D", str(data)] or _works_in(process, data)):
            return None
    except (ValueError, psutil.Error):
        return None
    return postmaster


def _works_in(process: psutil.Process, data: Path) -> bool:
    """Return whether a process is a postmaster of this folder that was moved since it started."""
    if process.cmdline()[1:2] != ["-D"]:
        return False
    with suppress(OSError):
        return Path(process.cwd()).samefile(data)
    return False


@dataclass(frozen=True, kw_only=True)
class Astray:
    """A postmaster that was started on a folder and works in another one: `now`, or None when its files are gone."""

    pid: int
    now: Path | None


def astray(data: Path) -> Astray | None:
    """Return the postmaster that was started on this data folder before the folder was moved away or deleted."""
    for process in psutil.process_iter(["cmdline"]):
        if (process.info["cmdline"] or [])[1:3] != ["-D", str(data)]:
            continue
        with suppress(psutil.Error):
            place = Path(process.cwd())
            if place.is_dir() and (place / "postmaster.pid").exists():
                return Astray(pid=process.pid, now=place) if place != data else None
            return Astray(pid=process.pid, now=None)
    return None


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
        # The socket in the data folder moves with it.
        socket_folder=Path(lines[4]) if lines[4] not in {"", lines[1]} else data if lines[4] else socket_folder(data),
        ready=lines[7] == "ready",
    )
