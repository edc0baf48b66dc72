"""The database of a command: its address, its embedded server, and connections with pinned settings."""

import os
import re
from collections.abc import Callable, Hashable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import field
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg.pq import TransactionStatus

from etl import queries
from etl.database import sessions, watching
from etl.database.answers import answer_to, wrong_parameter
from etl.database.pooling import Pooling, SharedSessionError, pooling
from etl.database.sqlstates import code_of
from etl.database.watching import ServerConnection, Watch
from etl.errors import DatabaseError, UnreachableError, UsageError
from etl.quick_dataclasses import dataclass

EMBEDDED = "embedded:"

_PROGRAM = "etl"

EMBEDDED_FOLDER = Path(".etl/postgres")

# The variables of libpq that name a server (C2); its other variables only add details.
_LIBPQ_VARIABLES = ("PGHOST", "PGHOSTADDR", "PGSERVICE", "PGDATABASE")

# Ends a dead connection in half a minute; without it a cut cable holds a COPY for hours.
_CONNECTION = {
    "connect_timeout": "10",
    "keepalives": "1",
    "keepalives_idle": "10",
    "keepalives_interval": "5",
    "keepalives_count": "3",
    "tcp_user_timeout": "30000",
}

# The errors of a limit of time, of a statement, a session or a transaction: a session may end before it is lifted.
_TRANSACTION_LIMIT = "25P04"
_LIMITS = ("57014", "57P05")
# The last one is libpq's, which does not always read the reason before it sees the end.
_ENDED_BY_LIMIT = re.compile(r"due to (idle-session|statement) timeout|server closed the connection unexpectedly")
_NO_LIMITS = "-c statement_timeout=0 -c idle_session_timeout=0"
_NO_TRANSACTION_LIMIT = " -c transaction_timeout=0"  # since PostgreSQL 17


@dataclass(frozen=True, kw_only=True)
class Database:
    """A database that commands connect to: the libpq connection string and whether it is the embedded one."""

    conninfo: str
    embedded: bool = False
    folder: Path | None = None
    """The folder of the embedded server that this process uses."""
    files: tuple[int, int] | None = field(default=None, repr=False, compare=False)
    """The device and the number of its data folder, which another folder of this name does not have."""
    known_pooling: list[Pooling] = field(default_factory=list, repr=False, compare=False)
    """How the first connection reached the server, found once; empty before."""
    spare: list[ServerConnection] = field(default_factory=list, repr=False, compare=False)
    """The connection that looked at the database, until another one is asked for (see `hand_over`)."""

    @property
    def place(self) -> str:
        """The name, and for the embedded server its folder: there is one in each working folder."""
        return f"{self.name} in {self.folder}" if self.folder is not None else self.name

    @property
    def name(self) -> str:
        """`host/dbname` for logs and the summary; never a password."""
        if self.embedded:
            return "embedded/etl"
        parameters = conninfo_to_dict(self.conninfo)
        host = parameters.get("host") or parameters.get("hostaddr") or os.environ.get("PGHOST") or "local"
        service = parameters.get("service") or os.environ.get("PGSERVICE")
        dbname = parameters.get("dbname") or os.environ.get("PGDATABASE") or (f"service {service}" if service else "")
        return f"{host}/{dbname or parameters.get('user') or os.environ.get('PGUSER') or 'default'}"


def choose(given: str | None, from_file: str | None, environ: Mapping[str, str]) -> str:
    """Return the address of the database: a URL, `embedded:[FOLDER]`, or "" for the variables of libpq.

    `given` is the flag or its environment variable, `from_file` the value of `etl.toml` (C2).

    Raises UsageError for an empty flag, because records meant for one server would be loaded into another.
    """
    if given == "":
        raise UsageError("the database has no address", hint="is a variable of the calling script empty?")
    if given:
        return given
    if any(environ.get(name) for name in _LIBPQ_VARIABLES):
        return ""
    return from_file or EMBEDDED


def embedded_folder(address: str) -> Path | None:
    """Return the data folder of an `embedded:` address, or None for another address."""
    if not address.startswith(EMBEDDED):
        return None
    return Path(address.removeprefix(EMBEDDED) or EMBEDDED_FOLDER)


def require_existing(address: str) -> None:
    """Raise UsageError when the folder of an embedded address has no server: who only looks must not make one."""
    folder = embedded_folder(address)
    if folder is None:
        return
    from etl import embedded  # noqa: PLC0415 - costs the start of those who have a server

    if not embedded.Server(folder).exists():
        raise UsageError(
            f"there is no database yet: looked for the embedded server in {folder.absolute()}",
            hint="change to the folder of the loads, or name the database by --database or ETL_DATABASE_URL;"
            " etl db migrate makes a new one here",
        )


@contextmanager
def serving(address: str) -> Iterator[Database]:
    """Yield the database of an address; an embedded server runs until the context ends.

    Raises UsageError for an address that cannot be read.
    """
    folder = embedded_folder(address)
    if folder is not None:
        from etl import embedded  # noqa: PLC0415 - costs the start of those who have a server

        with embedded.serving(folder) as url:
            yield Database(conninfo=url, embedded=True, folder=folder.absolute(), files=_files_of(folder))
        return
    _require_readable(address)
    yield Database(conninfo=address)


def _require_readable(address: str) -> None:
    try:
        make_conninfo(address)
    except psycopg.Error as error:
        raise UsageError(
            "the database address cannot be read",
            hint="expected postgresql://USER@HOST:PORT/NAME, libpq keywords, or embedded:[FOLDER]",
        ) from error
    # In postgresql://me:p@ss@host, libpq takes ss@host for the host, and every message would show it.
    credentials = address.partition("://")[2].partition("?")[0].rpartition("@")[0]
    if "@" in credentials or "/" in credentials:
        raise UsageError(
            "the database address cannot be read: its user or password contains @ or /",
            hint="write @ as %40 and / as %2F, or give the password by ~/.pgpass, PGPASSWORD or a service file",
        )


def connect(database: Database, application_name: str = _PROGRAM, *, sees_all: bool = True) -> ServerConnection:
    """Open an autocommit connection with pinned session settings.

    With `sees_all` the server refuses a statement where a policy of a table would hide rows from it.

    Raises UsageError when the server refuses this user or database, or a pooler shares the session with others;
    DatabaseError when the server cannot be reached.
    """
    if database.spare and sees_all and application_name == _PROGRAM:
        return database.spare.pop()
    with _explained(database, application_name):
        return _open(database, application_name, sees_all=sees_all)


@contextmanager
def hand_over(database: Database, connection: ServerConnection) -> Iterator[None]:
    """Leave a connection of `connect` to the next call of it in this context: to make another one takes some 10 ms."""
    database.spare.append(connection)
    try:
        yield
    finally:
        while database.spare:
            database.spare.pop().close()


def connect_to_inspect(database: Database) -> tuple[ServerConnection, Pooling]:
    """Open a connection for checks, and return how it reaches the server. A shared session is left as it is.

    Raises UsageError and DatabaseError as `connect` does.
    """
    with _explained(database, "etl:check"):
        try:
            return _open(database, "etl:check"), (database.known_pooling or ["none"])[0]
        except SharedSessionError:
            return _connect(database, "etl:check"), "transaction"


@contextmanager
def _explained(database: Database, application_name: str) -> Iterator[None]:
    try:
        yield
    except psycopg.ProgrammingError as error:
        if code_of(error) is not None:
            raise
        remedy = wrong_parameter().remedy
        raise UsageError(f"the address of {database.name} is wrong: {_first_line(error)}", hint=remedy) from error
    except psycopg.OperationalError as error:
        text, answer = _first_line(error), answer_to(_conninfo(database, application_name), error)
        if answer.is_refusal:
            raise UsageError(f"{database.name} refuses the connection: {text}", hint=answer.remedy) from error
        away = UnreachableError if answer.is_brief else DatabaseError
        raise away(f"cannot reach the database {database.name}: {text}", hint=answer.remedy) from error


def _conninfo(database: Database, application_name: str, limits: str = "") -> str:
    written = conninfo_to_dict(database.conninfo)
    options: dict[str, Any] = {name: value for name, value in _CONNECTION.items() if name not in written}
    if limits:
        options["options"] = f"{written.get('options') or os.environ.get('PGOPTIONS', '')} {limits}"
    return make_conninfo(database.conninfo, application_name=application_name, client_encoding="utf8", **options)


def conninfo_of(database: Database, application_name: str) -> str:
    """Return the connection string of a database for a pool, with the limits that notice a dead connection."""
    return _conninfo(database, application_name)


def _open(
    database: Database, application_name: str, *, sees_all: bool = True, is_watched: bool = True
) -> ServerConnection:
    """Open a session that is this connection's own, without time limits and with pinned settings.

    A limit of milliseconds can end a session before it is lifted. Then the session is asked for without limits; this is
    not the first way, because poolers refuse such options.
    """
    limits = ""
    while True:
        try:
            connection = _connect(database, application_name, limits)
            connection.backend = _pinned(connection, database, sees_all=sees_all)
        except psycopg.Error as error:
            further = _further_limits(error, limits)
            if further == limits:
                raise
            limits = further
        else:
            if is_watched:
                another = partial(_open, database, "etl:look", is_watched=False)
                connection.watch = Watch(connection, another)
                connection.answers_within = None
            return connection


def _further_limits(error: psycopg.Error, limits: str) -> str:
    """Return the options with which a session begins without the limit that ended it: the same ones without any."""
    text = str(error)
    if code_of(error) == _TRANSACTION_LIMIT or "due to transaction timeout" in text:
        return _NO_LIMITS + _NO_TRANSACTION_LIMIT
    if code_of(error) in _LIMITS or _ENDED_BY_LIMIT.search(text):
        return limits or _NO_LIMITS
    return limits


def _pinned(connection: psycopg.Connection, database: Database, *, sees_all: bool) -> int:
    """Pin the settings of a session, and return the process that serves it."""
    try:
        if not sessions.lift_limits(connection):
            sessions.require_own(pooling_of(connection, database), database.name)
            sessions.lift_limits(connection, is_own=True)
        return sessions.pin(connection, sees_all=sees_all)
    except BaseException:
        connection.close()
        raise


def pooling_of(connection: psycopg.Connection, database: Database) -> Pooling:
    """Return how a connection reaches the server of a database: directly, or by a pooler."""
    if database.known_pooling:
        return database.known_pooling[0]
    way = pooling(connection, partial(_connect, database, "etl:check"))
    database.known_pooling.append(way)
    return way


def _files_of(folder: Path) -> tuple[int, int] | None:
    try:
        status = (folder / "data").stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _require_same_files(database: Database) -> None:
    """Raise DatabaseError when the folder of the embedded server was moved away, deleted or replaced meanwhile."""
    if database.folder is not None and database.files is not None and _files_of(database.folder) != database.files:
        raise DatabaseError(
            f"the folder of the embedded server {database.folder} was moved or deleted while this command uses it",
            hint="move it back, or name its new place by --database embedded:FOLDER; the same command continues there",
        )


def _connect(database: Database, application_name: str, limits: str = "") -> ServerConnection:
    _require_same_files(database)
    conninfo = _conninfo(database, application_name, limits)
    try:
        connection = ServerConnection.connect(conninfo, autocommit=True)
    except psycopg.OperationalError:
        if not _is_revived(database):
            raise
        connection = ServerConnection.connect(conninfo, autocommit=True)
    sessions.read_all_times(connection)
    connection.answers_within = watching.ANSWER_SECONDS
    return connection


def _is_revived(database: Database) -> bool:
    """Start the embedded server again if it was killed while this process uses it; return whether it was."""
    if database.folder is None:
        return False
    from etl import embedded  # noqa: PLC0415 - costs the start of those who have a server

    return embedded.Server(database.folder).revive()


def _first_line(error: psycopg.Error) -> str:
    """Return the first line of libpq's message; it names hosts and users, but no password."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = lines[0] if lines else "no reason given"
    return text.removeprefix("connection failed: ").removeprefix("FATAL: ").strip()


class Session:
    """One connection that is opened again after it was lost, without what the lost one had prepared.

    `remembered` is what its users found out over the connection, for the next run that it serves.
    """

    def __init__(self, database: Database, application_name: str) -> None:
        self.remembered: dict[Hashable, Any] = {}
        self.database = database
        self._application_name = application_name
        self._reopened: Callable[[psycopg.Connection], None] | None = None
        self._lost: tuple[int, ...] = ()
        self._keeps_tables = False
        self._connection: ServerConnection | None = connect(database, application_name)

    def when_reopened(self, action: Callable[[psycopg.Connection], None]) -> None:
        """Run an action with each connection that replaces a lost one, such as taking its locks again."""
        self._reopened = action

    def connection(self) -> ServerConnection:
        """Return the connection, or a new one after it was lost.

        Raises psycopg.OperationalError when the server cannot be reached now, and what `when_reopened` raises.
        """
        if self._connection is not None and not self._connection.closed:
            return self._connection
        if self._connection is not None:
            self._lost += (self._connection.backend,)
        self._connection = None
        self.remembered.clear()
        connection = _open(self.database, self._application_name)
        connection.replaced = self._lost
        try:
            if self._reopened is not None:
                self._reopened(connection)
        except BaseException:
            connection.close()
            raise
        self._connection = connection
        return connection

    def release(self) -> bool:
        """Give up the locks of a run, and return whether other work can have the session.

        The temporary tables go when the session serves another run: mostly none follows, and the server drops them
        after the command has ended.
        """
        self._reopened = None
        self._keeps_tables = True
        connection = self._connection
        if connection is None or connection.info.transaction_status != TransactionStatus.IDLE:
            return False
        try:
            connection.execute(queries.load("database")["release_locks"])
            self._name(connection)
        except psycopg.Error:
            return False
        return True

    def serve(self, application_name: str, *, is_run: bool) -> bool:
        """Give the session to other work, which has this name. Return whether it can be used."""
        connection = self._connection
        if connection is None or connection.closed:
            return False
        is_named = application_name == self._application_name
        self._application_name = application_name
        try:
            if is_run and self._keeps_tables:
                self._keeps_tables = False
                connection.execute(queries.load("database")["drop_temporary_tables"])
            if not is_named:
                self._name(connection)
        except psycopg.Error:
            return False
        return True

    def _name(self, connection: psycopg.Connection) -> None:
        connection.execute(queries.load("database")["name_session"], {"name": self._application_name})

    def close(self) -> None:
        """Close the connection."""
        if self._connection is not None:
            self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
