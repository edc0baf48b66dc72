"""A command whose standard output and standard error are one terminal."""

import fcntl
import os
import struct
import subprocess
import sys
import termios
import threading
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, chdir
from pathlib import Path
from unittest import mock

from etl import cli
from etl.standard_streams import StandardStream
from tests.support.in_process import connections_closed, logs_of_its_own


def on_terminal(
    arguments: Sequence[str], *, env: Mapping[str, str], cwd: Path, columns: int = 200, lines: int = 50
) -> tuple[int, str]:
    """Run `etl ARGUMENTS` on a terminal of this size; return the exit code and the text that the terminal got."""
    size = {"COLUMNS": str(columns), "LINES": str(lines)}
    ours, theirs = os.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
    output: list[bytes] = []
    reader = threading.Thread(target=_read, args=(ours, output))
    reader.start()
    with ExitStack() as stack:
        stack.callback(os.close, ours)
        stack.callback(reader.join)
        for number, name in ((1, "stdout"), (2, "stderr")):
            kept = os.dup(number)
            stack.callback(os.close, kept)
            stack.callback(os.dup2, kept, number)
            os.dup2(theirs, number)
            stack.enter_context(mock.patch.object(sys, name, stack.enter_context(StandardStream(number, "utf-8"))))
        os.close(theirs)
        stack.enter_context(logs_of_its_own())
        stack.enter_context(mock.patch.dict(os.environ, {**env, "TERM": "xterm", **size}, clear=True))
        stack.enter_context(chdir(cwd))
        stack.enter_context(connections_closed())
        code = cli.run(list(arguments))
    return code, b"".join(output).decode()


def shell_on_terminal(script: str, *, env: Mapping[str, str], cwd: Path, columns: int, lines: int) -> str:
    """Run a script of the shell whose standard files are a terminal of this size; return the text that it got."""
    ours, theirs = os.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
    output: list[bytes] = []
    reader = threading.Thread(target=_read, args=(ours, output))
    reader.start()
    try:
        subprocess.run(
            ["/bin/sh", "-c", script], stdin=theirs, stdout=theirs, stderr=theirs, env=env, cwd=cwd, check=False
        )
    finally:
        os.close(theirs)
        reader.join()
        os.close(ours)
    return b"".join(output).decode()


def rows_of(output: str, columns: int) -> list[str]:
    """Return the rows of a terminal that a text of plain lines takes."""
    lines = output.replace("\r\n", "\n").removesuffix("\n").split("\n")
    return [line[place : place + columns] for line in lines for place in range(0, max(1, len(line)), columns)]


def _read(terminal: int, output: list[bytes]) -> None:
    try:
        while data := os.read(terminal, 65536):
            output.append(data)
    except OSError:  # Linux reports so that no process has the terminal open.
        pass
