"""The user of the operating system that runs the server: never root, and able to reach its files."""

import os
import pwd
import subprocess
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from etl.embedded.binaries import binary
from etl.embedded.files import ELSEWHERE
from etl.errors import UsageError
from etl.quick_dataclasses import dataclass

_KEEP_CAPABILITY = [
    "--inh-caps=+dac_override",
    "--ambient-caps=+dac_override",
    "--securebits=+no_setuid_fixup",  # without it access(2), by which PostgreSQL finds its programs, ignores the rest
]


@dataclass(frozen=True, kw_only=True)
class Account:
    """The user of the operating system that runs the server: the caller, except root."""

    uid: int
    gid: int
    overrides: bool = False

    def run(self, *command: str | Path, text: str = "", pass_fds: tuple[int, ...] = ()) -> str | None:
        """Run a program as this account; return None on success, else the line with its error.

        It gets a session of its own, so that Ctrl-C at the terminal reaches only the caller.
        """
        words = [str(word) for word in command]
        switches = os.geteuid() == 0 and not self.overrides
        if self.overrides:
            ids = [f"--reuid={self.uid}", f"--regid={self.gid}", "--clear-groups"]
            words = ["setpriv", *ids, *_KEEP_CAPABILITY, *words]
        process = subprocess.run(  # noqa: S603 - our own binaries, no shell
            words,
            input=text,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
            errors="replace",
            check=False,
            cwd="/",
            # PG* variables would name another server, and the program does not need the secrets of the caller.
            env={name: os.environ[name] for name in ("PATH", "LD_LIBRARY_PATH") if name in os.environ},
            umask=0o077,
            start_new_session=True,
            pass_fds=pass_fds,
            user=self.uid if switches else None,
            group=self.gid if switches else None,
            extra_groups=[] if switches else None,
        )
        lines = process.stdout.strip().splitlines() or [f"exit code {process.returncode}"]
        errors = [line for line in lines if "FATAL" in line or "error" in line]
        return None if process.returncode == 0 else (errors or lines)[0]

    def give(self, path: Path) -> None:
        """Make the account the owner of a file or folder."""
        if os.geteuid() == 0:
            os.chown(path, self.uid, self.gid, follow_symlinks=False)


def account_of(folder: Path, data: Path, version: int) -> Account:
    """Return the account that owns the server's files and can reach them.

    Raises UsageError when there is none.
    """
    uid, gid = os.geteuid(), os.getegid()
    owner = data.stat() if data.exists() else None
    if uid != 0:
        if owner is not None and owner.st_uid != uid:
            raise UsageError(f"{data} belongs to another user", hint=ELSEWHERE)
        return Account(uid=uid, gid=gid)
    account = Account(uid=owner.st_uid, gid=owner.st_gid) if owner and owner.st_uid else _unprivileged()
    # Our files or the binaries may be below a folder that only root can enter. Opening that folder would expose its
    # other contents. So the server keeps the one capability of root that ignores permissions; containers have it too.
    for candidate in (account, replace(account, overrides=True)):
        with suppress(OSError, subprocess.SubprocessError):
            probe = 'cd "$1" && exec "$2" --bindir'  # pg_config searches its own files as the server does
            program = binary("pg_config", version)
            if candidate.run("/bin/sh", "-c", probe, "sh", folder, program) is None:
                return candidate
    raise UsageError(
        f"PostgreSQL refuses to run as root, and another user cannot reach {folder} or its binaries",
        hint="run as an ordinary user, or name a server by ETL_DATABASE_URL",
    )


def _unprivileged() -> Account:
    for name in ("postgres", "nobody"):
        with suppress(KeyError):
            entry = pwd.getpwnam(name)
            return Account(uid=entry.pw_uid, gid=entry.pw_gid)
    raise UsageError(
        "PostgreSQL refuses to run as root, and there is no user postgres or nobody",
        hint="run as an ordinary user, or name a server by ETL_DATABASE_URL",
    )
