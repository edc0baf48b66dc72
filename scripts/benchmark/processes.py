"""A program as its own process: how long it runs, and how much memory it and its children hold together.

Memory is PSS, of which a page that several processes share counts once, in parts (proc(5), smaps_rollup). It is read
every 50 ms, and more rarely where that would slow the program down.
"""

import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Event, Thread

POLL_SECONDS = 0.05
_POLL_SHARE = 0.02  # of the time, at most


@dataclass(frozen=True, kw_only=True)
class Run:
    """One run of a program."""

    exit_code: int
    seconds: float
    peak_bytes: int


class Tree:
    """A process and all that descend from it."""

    def __init__(self, root: int) -> None:
        self._ours = {root}
        self._foreign: set[int] = set()

    def pss_bytes(self) -> int:
        """Return what the living processes of the tree hold now."""
        self._grow()
        return sum(map(_pss_bytes, self._ours))

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
            exit_code = process.wait()
            seconds = time.perf_counter() - begin
        except BaseException:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            raise
        finally:
            peak_bytes = watch.end() if watch else 0
    return Run(exit_code=exit_code, seconds=seconds, peak_bytes=peak_bytes)


class _Watch:
    """A thread that notes the most that a tree held at once."""

    def __init__(self, root: int) -> None:
        self._tree = Tree(root)
        self._peak = 0
        self._ended = Event()
        self._thread = Thread(target=self._look, daemon=True)
        self._thread.start()

    def end(self) -> int:
        self._ended.set()
        self._thread.join()
        return self._peak

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
