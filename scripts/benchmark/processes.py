"""A program as its own process: how long it runs, and how much memory it and its children hold together.

Memory is PSS, of which a page that several processes share counts once, in parts (proc(5), smaps_rollup). It is read
every 50 ms, and more rarely where that would slow the program down.
"""

import ctypes
import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Event, Thread

_SUBREAPER = 36  # PR_SET_CHILD_SUBREAPER, prctl(2)
POLL_SECONDS = 0.05
_POLL_SHARE = 0.02  # of the time, at most


@dataclass(frozen=True, kw_only=True)
class Run:
    """One run of a program."""

    exit_code: int
    seconds: float
    peak_bytes: int
    cpu_seconds: float = 0.0
    """Processor time of the program and of all processes that it started."""


class Tree:
    """A process and all that descend from it."""

    def __init__(self, root: int) -> None:
        self._ours = {root}
        self._foreign: set[int] = set()

    def pss_bytes(self) -> int:
        """Return what the living processes of the tree hold now."""
        self._grow()
        return sum(map(_pss_bytes, self._ours))

    def end(self) -> float:
        """Wait for the processes that outlive the root, which has ended; return the processor time that they took."""
        seconds = 0.0
        for pid in self._ours:
            with suppress(ChildProcessError):  # The root, or another one of them, waited for it.
                usage = os.wait4(pid, 0)[2]
                seconds += usage.ru_utime + usage.ru_stime
        return seconds

    def _grow(self) -> None:
        # Each process is looked at once: to read all of /proc at each poll would take a share of what is measured.
        new = {int(name) for name in os.listdir("/proc") if name.isdigit()} - self._ours - self._foreign  # noqa: PTH208 - names
        parents = {pid: _parent(pid) for pid in new}
        while adopted := {pid for pid, parent in parents.items() if parent in self._ours} - self._ours:
            self._ours |= adopted
        self._foreign |= new - self._ours


def run(
    words: Sequence[str], *, environment: Mapping[str, str], folder: Path, output: Path, measure: bool = True
) -> Run:
    """Run a program in a folder to its end; `output` gets what it prints. Without `measure` memory is not looked at."""
    _adopt_orphans()
    with output.open("wb") as printed:
        begin = time.perf_counter()
        process = subprocess.Popen(  # noqa: S603 - the programs of the benchmark, no shell of ours
            words,
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=printed,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        watch = _Watch(process.pid) if measure else None
        try:
            # Not wait(timeout): that polls, and its steps would show in the figures.
            _, status, usage = os.wait4(process.pid, 0)
            process.returncode = exit_code = os.waitstatus_to_exitcode(status)
            seconds = time.perf_counter() - begin
        except BaseException:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            raise
        finally:
            peak_bytes, outlived = watch.end() if watch else (0, 0.0)
    return Run(
        exit_code=exit_code,
        seconds=seconds,
        peak_bytes=peak_bytes,
        cpu_seconds=usage.ru_utime + usage.ru_stime + outlived,
    )


def _adopt_orphans() -> None:
    """Become the parent of processes that outlive theirs, to wait for them: else the kernel forgets their time."""
    ctypes.CDLL(None).prctl(_SUBREAPER, 1, 0, 0, 0)


class _Watch:
    """A thread that notes the most that a tree held at once."""

    def __init__(self, root: int) -> None:
        self._tree = Tree(root)
        self._peak = 0
        self._ended = Event()
        self._thread = Thread(target=self._look, daemon=True)
        self._thread.start()

    def end(self) -> tuple[int, float]:
        """Return the most memory, and the processor time of processes that outlived the root."""
        self._ended.set()
        self._thread.join()
        return self._peak, self._tree.end()

    def _look(self) -> None:
        pause = POLL_SECONDS
        while not self._ended.wait(pause):
            begin = time.perf_counter()
            self._peak = max(self._peak, self._tree.pss_bytes())
            # The kernel walks every page while the program waits for its own: 5 ms for 600 MB, 0.2 ms for 30 MB.
            pause = max(POLL_SECONDS, (time.perf_counter() - begin) / _POLL_SHARE)


def _parent(pid: int) -> int:
    try:
        # The name of the program is in parentheses and may have any character; the parent is the second after it.
        return int(Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[1])
    except (OSError, IndexError):  # it has ended
        return 0


def _pss_bytes(pid: int) -> int:
    try:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_bytes().splitlines():
            if line.startswith(b"Pss:"):
                return int(line.split()[1]) * 1024
    except OSError:  # it has ended
        pass
    return 0


def cpu_seconds(pids: Sequence[int]) -> float:
    """Return the processor time of processes, and of the children that they waited for."""
    ticks = 0
    for pid in pids:
        # utime, stime, cutime and cstime are the 14th to the 17th field (proc(5)), and the name is the second.
        fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
        ticks += sum(map(int, fields[11:15]))
    return ticks / os.sysconf("SC_CLK_TCK")
