"""The end of a command, and a command that runs at the same time as the test."""

import fcntl
import json
import os
import re
import select
import signal
import subprocess
import sys
import tempfile
import termios
from array import array
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# Short waits, together longer than a restart of the server.
PATIENT = ["--retry-attempts", "40", "--retry-base-seconds", "0.05", "--retry-cap-seconds", "0.5"]


@dataclass(frozen=True, kw_only=True)
class Ended:
    """A command that ended: its exit code and its output."""

    returncode: int
    stdout: str
    stderr: str

    @property
    def lines(self) -> list[dict[str, Any]]:
        """The lines of `--json`."""
        return [json.loads(line) for line in self.stdout.splitlines()]

    @property
    def summaries(self) -> list[dict[str, Any]]:
        """The summaries of a load, each with a balance that adds up; the total after them has the exit code.

        There is one for each source, unless an error stopped the command before the last.
        """
        *summaries, total = self.lines
        assert (total["kind"], total["exit_code"]) == ("total", self.returncode), self.stderr
        begun = len({summary["source"] for summary in summaries})
        assert total["sources"] == begun or self.returncode in {4, 129, 130, 143}
        for summary in summaries:
            counts = summary["records"]
            assert summary["kind"] == "source"
            assert counts["read"] == sum(
                counts[name] for name in ("loaded", "rejected", "failed", "skipped", "withheld")
            )
        return summaries

    @property
    def summary(self) -> dict[str, Any]:
        """The summary of the only source; its exit code is that of the command."""
        [summary] = self.summaries
        assert summary["exit_code"] == self.returncode, self.stderr
        return summary

    @property
    def errors(self) -> list[str]:
        """The errors on stderr, each a sentence."""
        return re.findall(r"^error: (.*)$", self.stderr, re.MULTILINE)

    @property
    def error(self) -> str:
        """The line of the only error, and the line of its hint."""
        assert len(self.errors) == 1, self.stderr
        return " ".join(line for line in self.stderr.splitlines() if line.startswith(("error: ", "hint: ")))

    def events(self, name: str) -> list[dict[str, Any]]:
        """Return the events of this name in the log on stderr."""
        return _events(self.stderr, name)

    def assert_sound(self) -> None:
        """The command did not end by a fault of its own."""
        assert "Traceback" not in self.stderr, self.stderr
        assert self.returncode != 70, self.stderr


RunEtl = Callable[..., Ended]


def _events(log: str, name: str) -> list[dict[str, Any]]:
    # The last line may be half written.
    lines = [json.loads(line) for line in log.splitlines() if line.startswith("{") and line.endswith("}")]
    return [line for line in lines if line["event"] == name]


class Running:
    """A command that runs beside the test; its output goes to files, so that it never waits for a reader."""

    def __init__(self, arguments: Sequence[str], env: Mapping[str, str], folder: Path) -> None:
        self._out, self._err = (tempfile.TemporaryFile(dir=folder) for _ in range(2))  # noqa: SIM115 - see close
        self.process = subprocess.Popen(
            [sys.executable, "-m", "etl", *arguments],
            cwd=folder,
            env=env,
            stdin=subprocess.PIPE,
            stdout=self._out,
            stderr=self._err,
        )

    def send(self, data: bytes) -> None:
        """Give the command bytes to read on its standard input."""
        assert self.process.stdin
        self.process.stdin.write(data)
        self.process.stdin.flush()

    def has_read(self) -> bool:
        """Return whether it has read all that was sent."""
        assert self.process.stdin
        unread = array("i", [1])
        fcntl.ioctl(self.process.stdin, termios.FIONREAD, unread)
        return unread[0] == 0

    def is_running(self) -> bool:
        """Return whether it runs."""
        return self.process.poll() is None

    def kill(self) -> bool:
        """End it by SIGKILL; return False if it had already ended."""
        self.process.kill()
        return self.process.wait() == -signal.SIGKILL

    def signal(self, number: int) -> None:
        """Send it a signal."""
        self.process.send_signal(number)

    def stderr(self) -> str:
        """Return its stderr until now."""
        return _read(self._err)

    def events(self, name: str) -> list[dict[str, Any]]:
        """Return the events of this name that it logged until now."""
        return _events(self.stderr(), name)

    def ended(self, timeout: float = 120, *, may_be_faulty: bool = False) -> Ended:
        """Wait for its end; a fault of its own fails the test, unless the test expects one."""
        assert self.process.stdin
        with suppress(BrokenPipeError):  # it did not read all
            self.process.stdin.close()
        _wait_for_end(self.process, timeout)
        returncode = self.process.wait(0 if hasattr(os, "pidfd_open") else timeout)
        ended = Ended(returncode=returncode, stdout=_read(self._out), stderr=_read(self._err))
        if not may_be_faulty:
            ended.assert_sound()
        return ended

    def close(self) -> None:
        """End it in any state."""
        self.process.kill()
        self.process.wait()
        assert self.process.stdin
        self.process.stdin.close()
        self._out.close()
        self._err.close()


def _wait_for_end(process: subprocess.Popen[bytes], timeout: float) -> None:
    """Wait for the end of a process; `Popen.wait` with a timeout notices it up to 50 ms later."""
    if hasattr(os, "pidfd_open") and process.poll() is None:
        descriptor = os.pidfd_open(process.pid)
        try:
            ends = select.poll()
            ends.register(descriptor, select.POLLIN)
            ends.poll(timeout * 1000)
        finally:
            os.close(descriptor)


def _read(file: Any) -> str:
    # By the descriptor: the command shares the position of the file.
    return os.pread(file.fileno(), os.fstat(file.fileno()).st_size, 0).decode()
