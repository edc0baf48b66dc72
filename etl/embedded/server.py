"""A server: start it, share it between commands, stop it."""

import fcntl
import os
import secrets
import stat
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from urllib.parse import quote

import psycopg
import structlog
from psycopg import sql

from etl.embedded.accounts import Account, account_of
from etl.embedded.binaries import VERSION, binary
from etl.embedded.configuration import server_conf
from etl.embedded.creation import DATABASE, SUPERUSER, create
from etl.embedded.files import ELSEWHERE, opened, own_files, take, write
from etl.embedded.postmasters import astray, last, living
from etl.embedded.sockets import SOCKET_PORT, make_private, socket_folder
from etl.errors import BusyError, DatabaseError, UsageError
from etl.quick_dataclasses import dataclass

_WAIT_SECONDS = 600  # recovery after a crash replays up to max_wal_size
_DYING_SECONDS = 60  # the processes of a killed server end on their own, but not at once
_LOG_BYTES = 20 * 1024**2

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, kw_only=True)
class Status:
    """The state of a server: `port` is its TCP port; `keep` says that `etl db start` left it running."""

    running: bool
    pid: int | None
    port: int | None
    socket_folder: Path
    version: int
    keep: bool


@dataclass(frozen=True)
class Server:
    """The server whose files are in `folder`; a new one is PostgreSQL `version`, 16 or 18."""

    folder: Path
    version: int = VERSION

    def __post_init__(self) -> None:
        # Two spellings of one folder must lead to the same locks and the same postmaster.
        object.__setattr__(self, "folder", Path(os.path.realpath(self.folder)))

    @property
    def socket_folder(self) -> Path:
        """The folder of the unix socket, mode 0700."""
        return self.status().socket_folder

    def start(self, *, port: int | None = None, keep: bool = False) -> None:
        """Create the server if it is new, and start it if it does not run.

        With `port` it listens on 127.0.0.1 too, where the superuser needs the password of `url(tcp=True)`; a server
        that runs without this port is restarted. With `keep` it continues after the last command that uses it.

        Raises UsageError for an unusable folder, BusyError when a restart would interrupt another command,
        DatabaseError when the server does not start.
        """
        with own_files():
            self._prepare()
            with self._changing():
                self._start(port)
                postmaster = living(self._data)
                if keep and postmaster is not None:
                    write(self.folder / "server.keep", postmaster.identity)

    def revive(self) -> bool:
        """Start the server again if it was killed; return False, and do nothing, if it runs or was stopped in order.

        Raises DatabaseError when the server does not start.
        """
        with own_files(), self._changing():
            killed = last(self._data)
            if killed is None or living(self._data) is not None:
                return False
            was_kept = self._kept() == killed.identity
            self._start(killed.tcp_port)
            postmaster = living(self._data)
            if was_kept and postmaster is not None:
                write(self.folder / "server.keep", postmaster.identity)
            _log.warning("embedded_server_restarted", folder=str(self.folder))
            return True

    def stop(self) -> bool:
        """Stop the server, even while a command uses it, and return whether it ran."""
        with own_files():
            if not (self.folder / "change.lock").exists():
                self._require_not_astray()
                return False
            with self._changing():
                return self._stop()

    @contextmanager
    def serving(self) -> Iterator[str]:
        """Yield the address of the server; see the function `serving`."""
        with own_files():
            self._prepare()
        with opened(self.folder / "users.lock") as users:
            try:
                with own_files(), self._changing():
                    fcntl.flock(users, fcntl.LOCK_SH)
                    self._start(None)
                yield self.url()
            finally:
                with own_files():
                    present = self._found_again(users)
                    if present is not None:
                        present.leave(users)

    def leave(self, users: int) -> None:
        """Stop the server if no other command uses it; `users` is the descriptor of its users.lock."""
        with self._changing():
            if take(users) and not self.status().keep:
                self._stop()
            # A worker process that is still ending shares the descriptor; it must not keep the lock.
            fcntl.flock(users, fcntl.LOCK_UN)

    def _found_again(self, users: int) -> "Server | None":
        """Return this server, or that of the folder to which it was moved while it was used; None if it was deleted."""
        with suppress(OSError):
            if os.path.samestat(os.fstat(users), (self.folder / "users.lock").stat()):
                return self
        found = astray(self._data)
        now = found.now.parent if found and found.now else None
        _log.warning("embedded_folder_gone", folder=str(self.folder), now=str(now) if now else None)
        return Server(now, self.version) if now else None

    def _require_not_astray(self) -> None:
        """Raise UsageError when a server that was started in this folder runs still, and its files are elsewhere."""
        found = None if self._data.exists() else astray(self._data)
        if found is None:
            return
        if found.now is None:
            raise UsageError(
                f"the files of the server in {self.folder} were deleted while it runs, as process {found.pid}",
                hint="it notices that within a minute, and ends; the next command makes a new server without data",
            )
        now = found.now.parent
        raise UsageError(
            f"the server of {self.folder} runs still, as process {found.pid}, and its folder was moved to {now}",
            hint=f"move the folder back, or name it by --database embedded:{now}, also for etl db stop",
        )

    def exists(self) -> bool:
        """Return whether there is a server in the folder. Changes nothing.

        Raises UsageError when its folder was moved or deleted while it runs.
        """
        with own_files():
            self._require_not_astray()
            return self._data.exists()

    def status(self) -> Status:
        """Return whether the server runs, and where. Changes nothing."""
        with own_files():
            postmaster = living(self._data)
            version = self._version()
            if postmaster is None:
                folder = socket_folder(self._data)
                return Status(running=False, pid=None, port=None, socket_folder=folder, version=version, keep=False)
            return Status(
                running=True,
                pid=postmaster.pid,
                port=postmaster.tcp_port,
                socket_folder=postmaster.socket_folder,
                version=version,
                keep=self._kept() == postmaster.identity,
            )

    def url(self, *, tcp: bool = False) -> str:
        """Return the superuser's address of the database `etl`, over the unix socket and without a password.

        `tcp=True` returns the address for other programs. It contains the password: print it only on request.

        Raises UsageError for `tcp` when the server has no TCP port.
        """
        with own_files():
            postmaster = living(self._data)
            if not tcp:
                folder = postmaster.socket_folder if postmaster else socket_folder(self._data)
                port = postmaster.port if postmaster else SOCKET_PORT
                host = quote(os.fsencode(folder), safe="")
                return f"postgresql://{SUPERUSER}@/{DATABASE}?host={host}&port={port}"
            if postmaster is None or postmaster.tcp_port is None:
                raise UsageError("the embedded server has no TCP port", hint="etl db start --port 5433")
            return f"postgresql://{SUPERUSER}:{self._password()}@127.0.0.1:{postmaster.tcp_port}/{DATABASE}"

    @property
    def _data(self) -> Path:
        return self.folder / "data"

    @contextmanager
    def _changing(self) -> Iterator[None]:
        with opened(self.folder / "change.lock") as descriptor:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield

    def _prepare(self) -> None:
        """Make the folder. Refuse a folder that contains other files or that every user can write to."""
        self._require_not_astray()
        if set('"$`\\\n') & set(str(self.folder)):  # pg_ctl hands the name to a shell, in double quotes
            raise UsageError(f"the folder {self.folder} has a name that pg_ctl cannot use", hint=ELSEWHERE)
        try:
            # Started by root, the account of the server must reach its data and write nothing else in the folder.
            self.folder.mkdir(mode=0o711 if os.geteuid() == 0 else 0o700, parents=True)
        except FileExistsError:
            names = os.listdir(self.folder)  # noqa: PTH208 - only names are needed
            if names and "change.lock" not in names:
                raise UsageError(f"expected a server or an empty folder in {self.folder}", hint=ELSEWHERE) from None
            if self.folder.stat().st_mode & stat.S_IWOTH:
                raise UsageError(f"every user can write to {self.folder}", hint=ELSEWHERE) from None
        with opened(self.folder / "change.lock"):  # the first file: it marks the folder as ours
            pass

    def _version(self) -> int:
        """Return the major version of the existing data, or of a new server."""
        try:
            return int((self._data / "PG_VERSION").read_text())
        except FileNotFoundError:
            return self.version

    def _kept(self) -> str:
        try:
            return (self.folder / "server.keep").read_text()
        except FileNotFoundError:
            return ""

    def _start(self, port: int | None) -> None:
        """Start the server, or wait until it is ready. The caller holds change.lock."""
        postmaster = living(self._data)
        if postmaster is not None and port not in {None, postmaster.tcp_port}:
            with opened(self.folder / "users.lock") as users:
                if not take(users):
                    raise BusyError(
                        f"another command uses the embedded server, which does not listen on port {port}",
                        hint="wait for it, then start again",
                    )
                self._stop()
        account = account_of(self.folder, self._data, self._version())
        began = time.monotonic()
        with opened(self.folder / "processes.lock") as processes:
            while (postmaster := living(self._data)) is None or not postmaster.ready:
                if postmaster is None and take(processes):
                    if not self._data.exists():
                        create(self.folder, self.version, account, processes)
                    self._launch(account, port, processes)
                    return
                if time.monotonic() - began > (_WAIT_SECONDS if postmaster else _DYING_SECONDS):
                    raise DatabaseError(
                        f"another process holds the data of the embedded server in {self.folder}",
                        hint="end the PostgreSQL that runs on it, perhaps in another container",
                    )
                time.sleep(0.02)

    def _launch(self, account: Account, port: int | None, processes: int) -> None:
        sockets = socket_folder(self._data)
        if sockets != self._data:
            make_private(sockets, account)
        # The processes of the last server have ended, because their lock is free. But another process may have the
        # id in these files, and PostgreSQL would take it for a running server.
        for stale in [self._data / "postmaster.pid", *sockets.glob(".s.PGSQL.*")]:
            stale.unlink(missing_ok=True)
        write(self.folder / "server.conf", server_conf(port, sockets), mode=0o644)
        log = self.folder / "server.log"
        if not log.exists() or log.stat().st_size > _LOG_BYTES:
            write(log, "")
            account.give(log)
        size, began = log.stat().st_size, time.monotonic()
        refused = self._pg_ctl(account, "start", "-l", log, pass_fds=(processes,))
        if refused is not None:
            lines = log.read_bytes()[size:].decode(errors="replace").splitlines()[-3:]
            reason = "; ".join(line.split("] ", 1)[-1] for line in lines)  # without time and process
            raise DatabaseError(f"the embedded server did not start: {reason or refused}", hint=f"read {log}")
        if port is not None:
            self._set_password()
        seconds = round(time.monotonic() - began, 2)
        _log.debug("embedded_server_started", folder=str(self.folder), seconds=seconds)

    def _stop(self) -> bool:
        """Stop the server if it runs. The caller holds change.lock."""
        (self.folder / "server.keep").unlink(missing_ok=True)
        postmaster = living(self._data)
        if postmaster is None:
            return False
        refused = self._pg_ctl(account_of(self.folder, self._data, self._version()), "stop", "--mode=fast")
        if refused is not None and living(self._data) is not None:
            log = self.folder / "server.log"
            raise DatabaseError(f"the embedded server did not stop: {refused}", hint=f"read {log}")
        with opened(self.folder / "processes.lock") as processes:
            for _ in range(250):  # pg_ctl returns a moment before the last process has ended
                if take(processes):
                    break
                time.sleep(0.02)
        if postmaster.socket_folder != self._data:
            with suppress(OSError):
                postmaster.socket_folder.rmdir()
        _log.debug("embedded_server_stopped", folder=str(self.folder))
        return True

    def _pg_ctl(self, account: Account, action: str, *more: str | Path, pass_fds: tuple[int, ...] = ()) -> str | None:
        program = binary("pg_ctl", self._version())
        wait = ["--silent", "--wait", f"--timeout={_WAIT_SECONDS}"]
        return account.run(program, action, *wait, "-D", self._data, *more, pass_fds=pass_fds)

    def _password(self) -> str:
        return (self.folder / "password").read_text()

    def _set_password(self) -> None:
        if not (self.folder / "password").exists():
            write(self.folder / "password", secrets.token_urlsafe(24))
        statement = sql.SQL("alter role {} password {}").format(
            sql.Identifier(SUPERUSER), sql.Literal(self._password())
        )
        try:
            with psycopg.connect(self.url(), autocommit=True) as connection:
                connection.execute(statement)
        except psycopg.Error as error:
            raise DatabaseError("the embedded server accepts no password for TCP") from error


def serving(folder: Path) -> AbstractContextManager[str]:
    """Return a context with the address of the server in `folder`, which runs at least until the context ends.

    The server is started if it does not run. The last command that uses it stops it, except after
    `Server.start(keep=True)`. A killed command no longer counts as a user.

    Raises UsageError for an unusable folder, DatabaseError when the server does not start.
    """
    return Server(folder).serving()
