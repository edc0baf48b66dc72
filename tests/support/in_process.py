"""The command line in the process of the tests: it starts at once, a process of its own takes 0.4 s.

The command has an environment, a folder and standard files of its own, like a process. After its end its
connections have ended, too.
"""

import logging
import os
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, chdir, contextmanager
from pathlib import Path
from typing import IO, Any
from unittest import mock

import psutil
import psycopg

from etl import cli
from etl.database.watching import ServerConnection
from tests.support.commands import Ended


def call(arguments: Sequence[str], *, env: Mapping[str, str], cwd: Path, stdin: str = "") -> Ended:
    """Run `etl ARGUMENTS` to its end."""
    with tempfile.TemporaryFile() as given, tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        given.write(stdin.encode())
        given.seek(0)
        with (
            _standard_files(given, out, err),
            logs_of_its_own(),
            mock.patch.dict(os.environ, env, clear=True),
            chdir(cwd),
            connections_closed(),
        ):
            code = cli.run(list(arguments))
        out.seek(0)
        err.seek(0)
        return Ended(returncode=code, stdout=out.read().decode(), stderr=err.read().decode())


@contextmanager
def _standard_files(*files: IO[bytes]) -> Iterator[None]:
    """Use these files as standard input, output and error, also for programs that the command starts."""
    with ExitStack() as stack:
        for number, (name, file) in enumerate(zip(("stdin", "stdout", "stderr"), files, strict=True)):
            kept = os.dup(number)
            stack.callback(os.close, kept)
            stack.callback(os.dup2, kept, number)
            os.dup2(file.fileno(), number)
            text = open(number, "w" if number else "r", encoding="utf-8", closefd=False)  # noqa: SIM115
            stack.enter_context(text)
            stack.enter_context(mock.patch.object(sys, name, text))
        yield


@contextmanager
def logs_of_its_own() -> Iterator[None]:
    """Keep the handlers and the level of the root logger."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    try:
        yield
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)


@contextmanager
def connections_closed() -> Iterator[None]:
    """Wait for the end of the backends: they keep their locks for a moment after their connections.

    Those of a pooler stay; no other backend takes a second.
    """
    backends: list[int] = []

    connect = ServerConnection.connect

    def noted(*arguments: Any, **keywords: Any) -> psycopg.Connection:
        connection = connect(*arguments, **keywords)
        backends.append(connection.info.backend_pid)
        return connection

    with mock.patch.object(ServerConnection, "connect", noted):
        yield
    deadline = time.monotonic() + 1
    while any(map(psutil.pid_exists, backends)) and time.monotonic() < deadline:
        time.sleep(0.002)
