"""The creation of a server: the data folder gets its name last, so it is complete or absent."""

import os
import pwd
import shutil
import tempfile
from pathlib import Path

import structlog
from psycopg import sql

from etl.embedded.accounts import Account
from etl.embedded.binaries import binary
from etl.embedded.files import opened
from etl.errors import DatabaseError, UsageError

DATABASE = "etl"
SUPERUSER = "postgres"

_log = structlog.get_logger(__name__)


def create(folder: Path, version: int, account: Account, processes: int) -> None:
    """Make the data folder of a new server. `processes` is the descriptor of the lock of its processes.

    Raises UsageError when the account has no name, DatabaseError when a program fails.
    """
    for unfinished in folder.glob("data.partial-*"):
        shutil.rmtree(unfinished, ignore_errors=True)
    try:
        pwd.getpwuid(account.uid)
    except KeyError:
        raise UsageError(
            f"initdb needs a user with a name, got the user id {account.uid}",
            hint="give the user a name in /etc/passwd, or name a server by ETL_DATABASE_URL",
        ) from None
    partial = Path(tempfile.mkdtemp(prefix="data.partial-", dir=folder))
    account.give(partial)

    def run(program: str, *arguments: str | Path, text: str = "") -> None:
        # The program shares the lock: if this process is killed, the next command waits until the program ends too.
        path = binary(program, version)
        refused = account.run(path, *arguments, text=text, pass_fds=(processes,))
        if refused is not None:
            raise DatabaseError(f"{program} could not create the embedded server: {refused}")

    # The builtin provider sorts in the same way on every machine and needs no locale of the operating system. Servers
    # before 17 have none: they fold letters beyond ASCII by this locale.
    unicode = ["--locale-provider=builtin", "--builtin-locale=C.UTF-8"] if version >= 17 else ["--lc-ctype=C.UTF-8"]
    access = [f"--username={SUPERUSER}", "--auth-local=trust", "--auth-host=scram-sha-256"]
    run("initdb", "-D", partial, "--no-sync", "--encoding=UTF8", "--locale=C", *unicode, *access)
    with (partial / "postgresql.conf").open("a") as settings:
        settings.write("include_if_exists = '../server.conf'\n")
    statement = sql.SQL("create database {}\n").format(sql.Identifier(DATABASE)).as_string()
    run("postgres", "--single", "-D", partial, "-F", "-c", "exit_on_error=on", SUPERUSER, text=statement)
    run("initdb", "-D", partial, "--sync-only")
    partial.rename(folder / "data")
    with opened(folder, os.O_RDONLY) as descriptor:
        os.fsync(descriptor)
    _log.info("embedded_server_created", folder=str(folder), version=version)
