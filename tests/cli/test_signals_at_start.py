"""A signal while a command starts, also in the middle of an import: the exit code of the signal, and no fault."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

# Sends a signal to itself while a module is imported, from where Python wraps what the handler raises.
_SIGNALLED = """
import os, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # A command in the background of a shell ignores it.
number, module, *sys.argv[1:] = sys.argv[1:]

class _Sender:
    def __set_name__(self, owner, name):
        os.kill(os.getpid(), int(number))
        for _ in range(1000):
            pass

class _Finalised:
    def __del__(self):
        _Sender().__set_name__(None, None)

class _Finder:
    @staticmethod
    def find_spec(name, path=None, target=None):
        if name == module:
            type("_Owner", (), {"sender": _Sender()})

sys.meta_path.insert(0, _Finder)
from etl.cli import main
main()
"""


@pytest.fixture
def silent(tmp_path: Path) -> Iterator[dict[str, str]]:
    """Give the environment of a command whose database never answers."""
    (tmp_path / "vehicles.json").write_text("[]")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = f"postgresql://127.0.0.1:{listener.getsockname()[1]}/none?sslmode=disable&connect_timeout=30"
        yield os.environ | {"HOME": str(tmp_path), "ETL_DATABASE_URL": address}


_COMMANDS = [
    ("etl.logs", "runs", "list"),
    ("etl.settings", "runs", "list"),
    ("psycopg", "failed", "list"),
    ("etl.cli.load", "load", "vehicles", "vehicles.json"),
    ("etl.ingestion.pipeline.command", "load", "vehicles", "vehicles.json"),
]


# Sends a signal to itself while Python executes a text, as dataclasses do.
_IN_EXEC = _SIGNALLED.replace('type("_Owner", (), {"sender": _Sender()})', 'exec("_Sender().__set_name__(None, None)")')

# Sends a signal to itself while an object is finalised: Python drops what the handler raises there.
_DROPPED = _SIGNALLED.replace('type("_Owner", (), {"sender": _Sender()})', "_Finalised()")


@pytest.mark.parametrize(
    ("script", "number", "command"),
    [
        *((_SIGNALLED, signal.SIGTERM, command) for command in _COMMANDS),
        *(pytest.param(_SIGNALLED, signal.SIGINT, command, marks=pytest.mark.slow) for command in _COMMANDS[2:]),
        (_IN_EXEC, signal.SIGTERM, _COMMANDS[3]),
        (_IN_EXEC, signal.SIGTERM, _COMMANDS[4]),
        (_DROPPED, signal.SIGTERM, _COMMANDS[3]),
        (_DROPPED, signal.SIGTERM, _COMMANDS[4]),
    ],
)
def test_a_signal_in_an_import_has_its_own_exit_code(
    tmp_path: Path, silent: dict[str, str], script: str, number: signal.Signals, command: tuple[str, ...]
) -> None:
    """A command that a signal ends in an import exits with 128 and the number, and reports no fault."""
    done = subprocess.run(
        [sys.executable, "-c", script, str(int(number)), *command],
        env=silent,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    # Before the command line is there, the signal itself ends the process: a shell reports 143, too.
    assert done.returncode in {128 + number, -number}, done.stderr
    assert "Traceback" not in done.stderr
    assert "unexpected_fault" not in done.stderr


@pytest.mark.slow
def test_a_signal_at_any_instant_of_the_start_is_143(tmp_path: Path, silent: dict[str, str]) -> None:
    """However soon after the start SIGTERM comes, it ends the command with 143, without a traceback or a fault."""
    ends = set()
    for step in range(200):
        with subprocess.Popen(
            [sys.executable, "-m", "etl", "load", "vehicles", "vehicles.json"],
            env=silent,
            cwd=tmp_path,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        ) as process:
            time.sleep(step * 0.005)
            process.terminate()
            stderr = process.communicate(timeout=60)[1]
        assert process.returncode in {143, -signal.SIGTERM}, stderr
        assert "Traceback" not in stderr
        assert "unexpected_fault" not in stderr
        ends.add(process.returncode)
    assert ends == {143, -signal.SIGTERM}


@pytest.mark.parametrize("module", ["click", "etl.settings", "etl.cli.options"])
def test_an_interrupt_before_the_command_line_is_there_ends_silently(tmp_path: Path, module: str) -> None:
    """The process ends by the signal, as a program without a handler, and prints no traceback."""
    program = _SIGNALLED.replace("from etl.cli import main", "from etl.__main__ import main")
    done = subprocess.run(
        [sys.executable, "-c", program, str(int(signal.SIGINT)), module, "--version"],
        cwd=tmp_path,
        capture_output=True,
        encoding="utf-8",
        timeout=30,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (-signal.SIGINT, "", "")
