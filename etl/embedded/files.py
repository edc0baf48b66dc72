"""The files of the server's folder: opened without following links, locked by flock(2), with errors as sentences."""

import errno
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from etl.errors import DatabaseError, UsageError

ELSEWHERE = "name a folder by --database embedded:FOLDER or a server by ETL_DATABASE_URL"

_EXHAUSTED = {errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.ENOMEM, errno.EMFILE, errno.ENFILE}


@contextmanager
def own_files() -> Iterator[None]:
    """Turn an error of the operating system into a sentence with the path; mostly the folder is the cause."""
    try:
        yield
    except OSError as error:
        place = f" {os.fsdecode(error.filename)}" if isinstance(error.filename, str | bytes) else ""
        message = f"the embedded server cannot use its files{place}: {error.strerror}"
        if error.errno in _EXHAUSTED:
            raise DatabaseError(message, hint="free disk space, memory or file handles, then run again") from error
        raise UsageError(message, hint=ELSEWHERE) from error


@contextmanager
def opened(path: Path, flags: int = os.O_RDWR | os.O_CREAT) -> Iterator[int]:
    """Open a file and yield its descriptor until the context ends."""
    # Root must not follow a link that the owner of the folder put there.
    descriptor = os.open(path, flags | os.O_NOFOLLOW, 0o600)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def take(descriptor: int) -> bool:
    """Take the exclusive lock if no other process holds a lock; return whether it is taken."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def write(path: Path, text: str, *, mode: int = 0o600) -> None:
    """Replace the content of a file; it gets this mode, whatever the umask."""
    with opened(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC) as descriptor:
        os.fchmod(descriptor, mode)
        os.write(descriptor, text.encode())
