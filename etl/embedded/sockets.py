"""Where the server's socket is: in its data folder, or in a private folder of a short name."""

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

SOCKET_PORT = 5432  # only part of the socket's name, as long as no TCP port is asked for

_PLAIN_PATH = re.compile(r"[\w./+=-]+", re.ASCII)  # needs no quoting in server.conf or an address
_FOLDER_BYTES = 88  # a socket's path may have 103 bytes on macOS, 107 on Linux: leave 15 for the name


def socket_folder(data: Path) -> Path:
    """Return the data folder, or one of a short name where the path of the socket would get too long."""
    temporary = Path(tempfile.gettempdir())
    short = f"etl-{hashlib.sha256(os.fsencode(data)).hexdigest()[:16]}"
    for folder in (data, temporary / short):
        if _PLAIN_PATH.fullmatch(str(folder)) and len(os.fsencode(folder)) <= _FOLDER_BYTES:
            return folder
    return Path("/tmp") / short  # noqa: S108 - make_private refuses what another user put there


def make_private(folder: Path, account: Account) -> None:
    """Make the folder for the account alone; refuse one that another user made to catch our connections."""
    with suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    if folder.lstat().st_uid == os.geteuid():
        account.give(folder)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != account.uid or found.st_mode & 0o077:
        raise UsageError(f"expected a private folder of ours at {folder}", hint=f"remove it, or {ELSEWHERE}")
