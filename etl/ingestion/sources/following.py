"""Sources that grow while they are loaded: a file, as `tail -F` reads it, a named pipe, and standard input.

Only whole lines are given out, so that a record that is half written never ends a load.
"""

import os
import select
import stat
import sys
import time
from collections.abc import Callable, Generator
from pathlib import Path
from typing import TYPE_CHECKING

import structlog

from etl.errors import SourceError, UsageError, reason_of
from etl.ingestion.constants import MAGIC_BYTES, MAX_RECORD_BYTES, READ_BYTES
from etl.ingestion.sources.recognition import compression_of
from etl.ingestion.sources.stream import Pausing
from etl.ingestion.values import Source

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

LOOK_SECONDS = 0.05
"""A file that does not grow is looked at so often."""

log = structlog.get_logger(__name__)


class Ending:
    """Tells the sources of a command that they end, because a signal came."""

    def __init__(self) -> None:
        self.has_come = False

    def come(self) -> None:
        """Let each source end after its last whole line."""
        self.has_come = True


class Growing(Pausing):
    """The whole lines of a descriptor, as they are written.

    `read` returns bytes, none where there are none now, and None at the end. A read that gets no line for `linger`
    seconds gives nothing, and `take_lingered` says so: it is not the end. At the end, bytes without a line feed are
    given out only if nobody can write the rest of their line.
    """

    def __init__(self, read: Callable[[int], bytes | None], ending: Ending, linger: float) -> None:
        super().__init__()
        self._read_some = read
        self._ending = ending
        self._linger = linger
        self._lines = b""
        self._rest = b""
        self._is_at_end = False

    def readinto(self, buffer: "WriteableBuffer") -> int | None:
        """Read whole lines; 0: the end, None: no line came for long."""
        view = memoryview(buffer).cast("B")
        deadline = time.monotonic() + self._linger
        while not self._lines:
            if self._is_at_end or self._ending.has_come:
                return 0
            if self._take():
                continue
            if self._may_linger and time.monotonic() >= deadline:
                self._has_lingered = True
                return None
        data, self._lines = self._lines[: len(view)], self._lines[len(view) :]
        view[: len(data)] = data
        return len(data)

    def _take(self) -> bool:
        """Read what there is; return whether lines may have come."""
        data = self._read_some(READ_BYTES)
        if data is None:
            self._is_at_end = True
            if not self._ending.has_come:
                self._lines, self._rest = self._rest, b""
            return True
        end = data.rfind(b"\n") + 1
        if not end and len(self._rest) <= MAX_RECORD_BYTES:
            self._rest += data
            return False
        self._lines, self._rest = self._rest + data[:end], data[end:]
        return True


def followed(name: str, ending: Ending, linger: float) -> Generator[Source]:
    """Yield what is at a path as sources: a file, and each file that takes its place; `-` is standard input.

    Raises UsageError for a folder, and SourceError when a file cannot be read.
    """
    if name == "-":
        yield _source("-", _Pipe(sys.stdin.fileno(), ends=True), ending, linger)
        return
    path = Path(name)
    if path.is_dir():
        raise UsageError(f"--follow takes a file, a named pipe or -, and {name} is a folder")
    if path.is_fifo():
        # A descriptor that could write, too, so that the pipe has no end when its writers leave.
        descriptor = os.open(path, os.O_RDWR)
        try:
            yield _source(name, _Pipe(descriptor, ends=False), ending, linger)
        finally:
            os.close(descriptor)
        return
    yield from _files(path, ending, linger)


def _files(path: Path, ending: Ending, linger: float) -> Generator[Source]:
    """Yield the files that are at a path, one after the other; each is awaited until it has a line."""
    is_awaited = False
    while not ending.has_come:
        try:
            descriptor = os.open(path, os.O_RDONLY)
        except FileNotFoundError:
            if not is_awaited:
                log.info("source_awaited", source=str(path), reason="there is no file of this name")
            is_awaited = True
            time.sleep(LOOK_SECONDS)
            continue
        except OSError as error:
            raise SourceError(f"cannot read {path}: {reason_of(error)}", hint="check its rights") from error
        is_awaited = False
        try:
            file = _File(path, descriptor)
            growing = Growing(file.read, ending, linger)
            if file.awaits_line(ending):
                yield Source(name=str(path), path=None, given=growing, is_lines=True)
        finally:
            os.close(descriptor)


def _source(name: str, pipe: "_Pipe", ending: Ending, linger: float) -> Source:
    return Source(name=name, path=None, given=Growing(pipe.read, ending, linger), is_lines=True)


class _Pipe:
    """The bytes of a pipe; one that does not end is open for this process to write, too."""

    def __init__(self, descriptor: int, *, ends: bool) -> None:
        self._descriptor = descriptor
        self._ends = ends
        self._waiting = select.poll()
        self._waiting.register(descriptor, select.POLLIN)

    def read(self, size: int) -> bytes | None:
        """Return the bytes that are there, none after a moment without any, None at the end."""
        if not self._waiting.poll(1000 * LOOK_SECONDS):
            return b""
        return os.read(self._descriptor, size) or (None if self._ends else b"")


class _File:
    """A file that grows. It ends when another file has its name, or when it was cut off."""

    def __init__(self, path: Path, descriptor: int) -> None:
        self._path = path
        self._descriptor = descriptor
        self._position = 0
        self._is_left = False

    def read(self, size: int) -> bytes | None:
        """Return further bytes, none after a moment without any, None at the end."""
        if data := os.pread(self._descriptor, size, self._position):
            self._position += len(data)
            self._is_left = False
            return data
        if os.fstat(self._descriptor).st_size < self._position:
            log.info("source_cut_off", source=str(self._path), then="it is read from its beginning")
            return None
        if self._is_left:
            return None
        # Bytes may have been written between the last read and the change of the name: one more read.
        self._is_left = self._is_replaced()
        if not self._is_left:
            time.sleep(LOOK_SECONDS)
        return b""

    def awaits_line(self, ending: Ending) -> bool:
        """Wait for the first line; return whether there is one before the file is replaced, or a signal came."""
        while not ending.has_come:
            if head := os.pread(self._descriptor, MAGIC_BYTES, 0):
                if compression_of(head):
                    raise SourceError(
                        f"{self._path}: --follow reads no compressed file", hint="load it without --follow"
                    )
                return True
            if self._is_replaced():
                return False
            time.sleep(LOOK_SECONDS)
        return False

    def _is_replaced(self) -> bool:
        mine = os.fstat(self._descriptor)
        try:
            there = self._path.stat()
        except FileNotFoundError:
            return False  # Between two names: the next file is awaited, and this one may grow still.
        except OSError:
            return False
        return (there.st_dev, there.st_ino) != (mine.st_dev, mine.st_ino) and stat.S_ISREG(there.st_mode)
