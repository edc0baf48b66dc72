"""The postmaster of a data folder, from its postmaster.pid."""

import os
from contextlib import suppress
from pathlib import Path

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
    if postmaster is None:
        return None
    arguments = _arguments(postmaster.pid)
    if arguments[1:3] == ["-D", str(data)] or (arguments[1:2] == ["-D"] and _works_in(postmaster.pid, data)):
        return postmaster
    return None


def _arguments(pid: int) -> list[str]:
    """Return the command line of a process, empty for one that has ended or is not ours to see.

    Each command asks: on Linux it does without psutil, whose import takes longer than the answer.
    """
    if Path("/proc/self").exists():
        try:
            return os.fsdecode(Path(f"/proc/{pid}/cmdline").read_bytes()).split("\0")
        except OSError:
            return []
    import psutil  # noqa: PLC0415 - as above

    try:
        return psutil.Process(pid).cmdline()
    except (ValueError, psutil.Error):
        return []


def _works_in(pid: int, data: Path) -> bool:
    """Return whether a postmaster works in this folder: the folder was moved since it started."""
    import psutil  # noqa: PLC0415 - few folders are moved

    with suppress(OSError, ValueError, psutil.Error):
        return Path(psutil.Process(pid).cwd()).samefile(data)
    return False


@dataclass(frozen=True, kw_only=True)
class Astray:
    """A postmaster that was started on a folder and works in another one: `now`, or None when its files are gone."""

    pid: int
    now: Path | None


def astray(data: Path) -> Astray | None:
    """Return the postmaster that was started on this data folder before the folder was moved away or deleted."""
    import psutil  # noqa: PLC0415 - few commands look for one

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
