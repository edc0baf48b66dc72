"""The database of a command: its address, its embedded server, and connections with pinned settings."""

import os
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import psycopg
import structlog
from psycopg.abc import Buffer
from psycopg.adapt import Loader
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg.types import datetime as python

from etl import queries
from etl.errors import DatabaseError, UsageError

EMBEDDED = "embedded:"

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

_LOCK_TIMEOUT = "60s"

# libpq passes on the text of the server's answer to a first connection, but not its SQLSTATE.
_REFUSALS = re.compile(
    r"password authentication failed|no password supplied|does not exist|no pg_hba\.conf entry"
    r"|not permitted to log in|authentication failed|invalid connection option|invalid .*value|invalid port number"
    r"|definition of service .* not found|certificate|permission denied for database"
    r"|does not support SSL|SSL is required|no encryption"
)

_SQL = queries.load("database")

log = structlog.get_logger(__name__)


@dataclass(frozen=True, kw_only=True)
class Database:
    """A database that commands connect to: the libpq connection string and whether it is the embedded one."""

    conninfo: str
    embedded: bool = False

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


@contextmanager
def serving(address: str) -> Iterator[Database]:
    """Yield the database of an address; an embedded server runs until the context ends.

    Raises UsageError for an address that cannot be read.
    """
    folder = embedded_folder(address)
    if folder is not None:
        from etl import embedded  # noqa: PLC0415 - costs the start of those who have a server

        with embedded.serving(folder) as url:
            yield Database(conninfo=url, embedded=True)
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


def connect(database: Database, application_name: str = "etl") -> psycopg.Connection:
    """Open an autocommit connection with pinned session settings.

    Raises UsageError when the server refuses this user or database, DatabaseError when it cannot be reached.
    """
    try:
        return _open(database, application_name)
    except psycopg.OperationalError as error:
        text = _first_line(error)
        if _REFUSALS.search(text):
            raise UsageError(f"{database.name} refuses the connection: {text}", hint=_remedy(text)) from error
        raise DatabaseError(
            f"cannot reach the database {database.name}: {text}",
            hint="start the server, or name another by --database or ETL_DATABASE_URL",
        ) from error


def _open(database: Database, application_name: str) -> psycopg.Connection:
    written = conninfo_to_dict(database.conninfo)
    options: dict[str, Any] = {name: value for name, value in _CONNECTION.items() if name not in written}
    connection = psycopg.connect(
        database.conninfo,
        autocommit=True,
        application_name=application_name,
        client_encoding="utf8",
        **options,
    )
    for name, loader in _TIME_LOADERS.items():
        connection.adapters.register_loader(name, loader)
    try:
        connection.execute(_SQL["pin_session"], {"lock_timeout": _LOCK_TIMEOUT})
    except BaseException:
        connection.close()
        raise
    return connection


def _or_text(loader: type[Loader]) -> type[Loader]:
    """Return a loader of dates or times that returns the server's text where Python cannot hold the value."""

    class OrText(loader):  # type: ignore[valid-type,misc] # a class of psycopg that is chosen at run time
        def load(self, data: Buffer) -> object:
            try:
                return super().load(data)
            except psycopg.DataError:
                return bytes(data).decode()

    return OrText


# PostgreSQL holds times before the year 1 and after the year 9999, and `infinity`; a report on them must not end.
_TIME_LOADERS = {
    "date": _or_text(python.DateLoader),
    "time": _or_text(python.TimeLoader),
    "timetz": _or_text(python.TimetzLoader),
    "timestamp": _or_text(python.TimestampLoader),
    "timestamptz": _or_text(python.TimestamptzLoader),
    "interval": _or_text(python.IntervalLoader),
}


def _first_line(error: psycopg.Error) -> str:
    """Return the first line of libpq's message; it names hosts and users, but no password."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = lines[0] if lines else "no reason given"
    return text.removeprefix("connection failed: ").removeprefix("FATAL: ").strip()


def _remedy(text: str) -> str:
    if "password" in text or "authentication" in text:
        return "give the password by ~/.pgpass, PGPASSWORD or a service file, never on the command line"
    if "database" in text and "does not exist" in text:
        return "create the database, or name another by --database or ETL_DATABASE_URL"
    if "SSL" in text or "certificate" in text:
        return "sslrootcert names the authority of the server's certificate; see docs/security.md"
    return "check user, database and address"


class Session:
    """One connection that is opened again after it was lost, without what the lost one had prepared."""

    def __init__(self, database: Database, application_name: str) -> None:
        self._database = database
        self._application_name = application_name
        self._reopened: Callable[[psycopg.Connection], None] | None = None
        self._connection: psycopg.Connection | None = connect(database, application_name)

    def when_reopened(self, action: Callable[[psycopg.Connection], None]) -> None:
        """Run an action with each connection that replaces a lost one, such as taking its locks again."""
        self._reopened = action

    def connection(self) -> psycopg.Connection:
        """Return the connection, or a new one after it was lost.

        Raises psycopg.OperationalError when the server cannot be reached now, and what `when_reopened` raises.
        """
        if self._connection is not None and not self._connection.closed:
            return self._connection
        self._connection = None
        connection = _open(self._database, self._application_name)
        try:
            if self._reopened is not None:
                self._reopened(connection)
        except BaseException:
            connection.close()
            raise
        self._connection = connection
        return connection

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
