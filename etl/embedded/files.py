"""Files of the server's folder: opened without following links, locked by flock(2), and refusals told as sentences."""

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
    """Turn what the operating system refuses into a sentence with the path: mostly the folder is to blame."""
    try:
        yield
    except OSError as error:
        place = f" {os.fsdecode(error.filename)}" if isinstance(error.filename, str | bytes) else ""
        said = f"the embedded server cannot use its files{place}: {error.strerror}"
        if error.errno in _EXHAUSTED:
            raise DatabaseError(said, hint="free what is used up, then run again") from error
        raise UsageError(said, hint=ELSEWHERE) from error


@contextmanager
def opened(path: Path, flags: int = os.O_RDWR | os.O_CREAT) -> Iterator[int]:
    """Open a file and give its descriptor, until the context ends."""
    # Root must not follow a link that the owner of the folder put there.
    descriptor = os.open(path, flags | os.O_NOFOLLOW, 0o600)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def take(descriptor: int) -> bool:
    """Take the lock alone if nobody else holds it."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def write(path: Path, text: str, *, mode: int = 0o600) -> None:
    """Write a file anew, with this mode whatever the umask."""
    with opened(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC) as descriptor:
        os.fchmod(descriptor, mode)
        os.write(descriptor, text.encode())
