"""The folder of the server's socket: its data folder, or a private folder with a short name."""

import hashlib
import os
import re
import stat
import tempfile
from contextlib import suppress
from pathlib import Path

from etl.embedded.accounts import Account
from etl.embedded.files import ELSEWHERE
from etl.errors import UsageError

SOCKET_PORT = 5432  # without a TCP port only a part of the socket's name

_PLAIN_PATH = re.compile(r"[\w./+=-]+", re.ASCII)  # needs no quoting in server.conf or an address
_FOLDER_BYTES = 88  # the path of a socket has at most 103 bytes on macOS, 107 on Linux; the name needs 15


def socket_folder(data: Path) -> Path:
    """Return the data folder, or a folder with a short name when the path of the socket would be too long."""
    temporary = Path(tempfile.gettempdir())
    short = f"etl-{hashlib.sha256(os.fsencode(data)).hexdigest()[:16]}"
    for folder in (data, temporary / short):
        if _PLAIN_PATH.fullmatch(str(folder)) and len(os.fsencode(folder)) <= _FOLDER_BYTES:
            return folder
    return Path("/tmp") / short  # noqa: S108 - make_private refuses a folder of another user


def make_private(folder: Path, account: Account) -> None:
    """Make the folder for the account alone; refuse a folder of another user, who could intercept connections."""
    with suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    if folder.lstat().st_uid == os.geteuid():
        account.give(folder)
    status = folder.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != account.uid or status.st_mode & 0o077:
        raise UsageError(f"expected a private folder of our own at {folder}", hint=f"remove it, or {ELSEWHERE}")
