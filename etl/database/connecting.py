"""The database: which one, a connection with pinned settings, and the migration to what this installation needs."""

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
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from etl import queries
from etl.datasets import LINEAGE, Dataset, Table, additions, ddl, limits_ddl, quoted
from etl.errors import DatabaseError, UsageError
from etl.settings import shipped

EMBEDDED = "embedded:"
EMBEDDED_FOLDER = Path(".etl/postgres")

# libpq's own variables that say where a server is (C2); the others of its family only refine.
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

# The server's answer to a first connection carries no SQLSTATE through libpq, only its text.
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
        found = conninfo_to_dict(self.conninfo)
        host = found.get("host") or found.get("hostaddr") or os.environ.get("PGHOST") or "local"
        service = found.get("service") or os.environ.get("PGSERVICE")
        dbname = found.get("dbname") or os.environ.get("PGDATABASE") or (f"service {service}" if service else "")
        return f"{host}/{dbname or found.get('user') or os.environ.get('PGUSER') or 'default'}"


def choose(given: str | None, from_file: str | None, environ: Mapping[str, str]) -> str:
    """Return the database that is meant: an address, `embedded:[FOLDER]`, or "" for libpq's own variables.

    `given` is the flag or its environment twin, `from_file` the value of `etl.toml` (C2).

    Raises UsageError for an empty flag: what was meant for a server would come into another one.
    """
    if given == "":
        raise UsageError("the database has no address", hint="is a variable of the calling script empty?")
    if given:
        return given
    if any(environ.get(name) for name in _LIBPQ_VARIABLES):
        return ""
    return from_file or EMBEDDED


def embedded_folder(address: str) -> Path | None:
    """Return the data folder that an `embedded:` address names, or None when it is no such address."""
    if not address.startswith(EMBEDDED):
        return None
    return Path(address.removeprefix(EMBEDDED) or EMBEDDED_FOLDER)


@contextmanager
def serving(address: str) -> Iterator[Database]:
    """Yield the database behind an address, with the embedded server running for as long as it is used.

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
    # Of postgresql://me:p@ss@host libpq takes ss@host for the host, and every message would tell it.
    credentials = address.partition("://")[2].partition("?")[0].rpartition("@")[0]
    if "@" in credentials or "/" in credentials:
        raise UsageError(
            "the database address cannot be read: before its host stands an @ or a / too many",
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
    try:
        connection.execute(_SQL["pin_session"], {"lock_timeout": _LOCK_TIMEOUT})
    except BaseException:
        connection.close()
        raise
    return connection


def _first_line(error: psycopg.Error) -> str:
    """Return the first telling line of libpq's message, which names hosts and users but no password."""
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
    """One connection that is opened again after it was lost; what it had prepared is then gone too."""

    def __init__(self, database: Database, application_name: str) -> None:
        self._database = database
        self._application_name = application_name
        self._reopened: Callable[[psycopg.Connection], None] | None = None
        self._connection: psycopg.Connection | None = connect(database, application_name)

    def when_reopened(self, action: Callable[[psycopg.Connection], None]) -> None:
        """Do this with each connection that is opened in place of a lost one, such as taking its locks again."""
        self._reopened = action

    def connection(self) -> psycopg.Connection:
        """Return the connection, a new one when the last was lost.

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


def latest_migration() -> str:
    """Return the newest migration that this installation brings."""
    return max(path.stem.split("_")[0] for path in (shipped("sql") / "migrations").glob("[0-9]*.sql"))


def is_migrated(connection: psycopg.Connection) -> bool:
    """Tell whether the database was ever migrated.

    Raises UsageError when the user may not look at the ledger.
    """
    try:
        return bool(_one(connection, "schema_version_exists"))
    except psycopg.errors.InsufficientPrivilege as error:
        user = connection.info.user
        raise UsageError(f"the user {user} may not look at the ledger", hint=f"grant etl_loader to {user}") from error


def require_migrated(connection: psycopg.Connection) -> None:
    """Raise UsageError when the database is not at the newest migration of this installation."""
    found = _one(connection, "schema_version") if is_migrated(connection) else None
    if found != latest_migration():
        _refuse_newer(found)
        raise UsageError(
            f"the database is at migration {found or 'none'}, this installation needs {latest_migration()}",
            hint="etl db migrate",
        )


def _refuse_newer(found: str | None) -> None:
    if found is not None and found > latest_migration():
        raise UsageError(
            f"the database is at migration {found}, the newest that this installation knows is {latest_migration()}",
            hint="use the version of this tool that migrated it, or a later one",
        )


def require_tables(connection: psycopg.Connection, dataset: Dataset) -> None:
    """Raise UsageError when a table of the dataset, a column of it or the right to load it is missing."""
    for table in dataset.tables:
        try:
            found = {name for name, _, _ in connection.execute(_SQL["table_columns"], {"table": table.quoted})}
        except psycopg.errors.InsufficientPrivilege as error:
            raise denied(connection, dataset, f"look into the schema {table.schema}") from error
        if not found:
            raise UsageError(f"the table {table.name} is missing", hint=f"etl dataset create {dataset.name}")
        missing = [name for name in (*(column.name for column in table.columns), *LINEAGE) if name not in found]
        if missing:
            raise UsageError(
                f"the table {table.name} has no column {', '.join(missing)}, which the dataset {dataset.name} loads",
                hint=f"etl dataset create {dataset.name} adds it",
            )
        computed = {name for (name,) in connection.execute(_SQL["computed_columns"], {"table": table.quoted})}
        if named := [column.name for column in table.columns if column.name in computed]:
            raise UsageError(
                f"the column {', '.join(named)} of {table.name} is generated by the server, and takes no value",
                hint=f"leave it out of {dataset.path}: what is not named there stays as it is",
            )
        row = connection.execute(_SQL["may_load"], {"table": table.quoted}).fetchone()
        if not row or not row[0]:
            raise UsageError(
                f"the user {connection.info.user} may not load {table.name}",
                hint=f"grant etl_loader to {connection.info.user}",
            )


def denied(connection: psycopg.Connection, dataset: Dataset, what: str) -> UsageError:
    """Return the error of a user who may not do something with a dataset's tables, with the remedy of their owner."""
    user = connection.info.user
    return UsageError(
        f"the user {user} may not {what}",
        hint=f"as its owner: grant etl_loader to {user}, and etl dataset create {dataset.name}",
    )


# Types whose values the server makes from a JSON token as the careful lane does from the value; of the others both send
# the same text, whatever the column is.
_READ_FROM_TOKENS = {
    "smallint": "smallint",
    "integer": "integer",
    "bigint": "bigint",
    "numeric": "numeric",
    "double": "double precision",
    "boolean": "boolean",
    "jsonb": "jsonb",
}


def other_types(connection: psycopg.Connection, dataset: Dataset) -> str | None:
    """Return a sentence on the first column whose type in the database is not the definition's, or None."""
    for table in dataset.tables:
        found = {name: type_ for name, type_, _ in connection.execute(_SQL["table_columns"], {"table": table.quoted})}
        for column in table.columns:
            wanted = _READ_FROM_TOKENS.get(column.type)
            type_ = found.get(column.name, "").partition("(")[0]
            if wanted and type_ != wanted:
                return f"column {column.name} of {table.name} is {type_ or 'missing'} and not {wanted}"
    return None


def guarded_columns(connection: psycopg.Connection, dataset: Dataset) -> frozenset[tuple[str, str]]:
    """Return the columns, by table and name, whose limits their tables check as the definition's own DDL would.

    None where the user may make no temporary table to compare with.
    """
    guarded = set()
    try:
        with connection.transaction(force_rollback=True):
            connection.execute(_SQL["hush_notices"])
            for table in dataset.tables:
                connection.execute(limits_ddl(table, sql.Identifier("pg_temp", "etl_expected")))
                expected = _limits(connection, "pg_temp.etl_expected")
                found = _limits(connection, table.quoted)
                guarded |= {(table.name, name) for name, limits in expected.items() if limits <= found.get(name, set())}
                connection.execute(_SQL["drop_expected"])
    except psycopg.errors.InsufficientPrivilege:
        return frozenset()
    return frozenset(guarded)


def _limits(connection: psycopg.Connection, table: str) -> dict[str, set[str]]:
    return {name: set(limits) for name, limits in connection.execute(_SQL["limits"], {"table": table})}


def require_key(connection: psycopg.Connection, dataset: Dataset) -> None:
    """Raise UsageError when a table of records has no unique index of the key, which a merge needs."""
    for table in dataset.record_tables:
        row = connection.execute(_SQL["has_key"], {"table": table.quoted, "key": list(dataset.key)}).fetchone()
        if not row or not row[0]:
            raise UsageError(
                f"the table {table.name} has no unique index of its key ({', '.join(dataset.key)})",
                hint=f"alter table {table.quoted} add primary key ({quoted(dataset.key)})",
            )


def grant_ledger(connection: psycopg.Connection) -> None:
    """Grant the ledger and the schemas to the group roles that there are; one may have come after the migration."""
    present = {role for (role,) in connection.execute(_SQL["roles_present"])}
    for role in ("etl_loader", "etl_analyst"):
        if role in present:
            connection.execute(_SQL[f"grant_ledger_to_{role}"])
        else:
            log.warning(
                "role_missing",
                role=role,
                hint=f"let an administrator run `create role {role} nologin`, and then run etl db migrate again",
            )


def create_tables(connection: psycopg.Connection, dataset: Dataset) -> None:
    """Make the tables of a dataset and grant them to the group roles; one that is there gets the columns it lacks.

    Raises UsageError when a new column is required, has no default, and the table holds rows.
    """
    roles = {name for (name,) in connection.execute(_SQL["roles_present"])}
    with connection.transaction():
        connection.execute(_SQL["hush_notices"])
        try:
            for table in dataset.tables:
                _add_columns(connection, table)
            for statement in ddl(dataset):
                connection.execute(statement)
        except psycopg.errors.WrongObjectType as error:
            raise UsageError(
                f"what a table of {dataset.name} is called is no table: {error.diag.message_primary}",
                hint=f"give the table another name in {dataset.path}",
            ) from error
        for role, name in (("etl_loader", "grant_fact"), ("etl_analyst", "grant_read")):
            if role in roles:
                _grant(connection, dataset, role, name)


def _grant(connection: psycopg.Connection, dataset: Dataset, role: str, name: str) -> None:
    for schema in sorted({table.schema for table in dataset.tables}):
        row = connection.execute(_SQL["reaches_schema"], {"role": role, "schema": schema}).fetchone()
        if row == (False,):
            names = {"schema": sql.Identifier(schema), "role": sql.Identifier(role)}
            connection.execute(_SQL["grant_schema"].format(**names))
    for table in dataset.tables:
        connection.execute(_SQL[name].format(table=table.identifier, role=sql.Identifier(role)))


def _add_columns(connection: psycopg.Connection, table: Table) -> None:
    held = {name for name, _, _ in connection.execute(_SQL["table_columns"], {"table": table.quoted})}
    try:
        for statement in additions(table, held) if held else ():
            connection.execute(statement)
    except psycopg.errors.NotNullViolation as error:
        is_lineage = error.diag.column_name in LINEAGE
        raise UsageError(
            f"the table {table.name} holds rows, and its new column {error.diag.column_name} is required",
            hint="give the column a default in the definition"
            if not is_lineage
            else "the table is none that this tool made: give the dataset one of its own",
        ) from error


@contextmanager
def one_migration_at_a_time(connection: psycopg.Connection) -> Iterator[None]:
    """Hold the right to migrate.

    Raises UsageError when the server is older than PostgreSQL 16 or denies a statement of the migration.
    """
    version = int(_one(connection, "server_version"))
    if version < 160000:
        raise UsageError(f"expected PostgreSQL 16 or later, got {version // 10000}")
    connection.execute(_SQL["migrate_lock"])
    try:
        yield
    except psycopg.errors.InsufficientPrivilege as error:
        raise UsageError(
            f"the user {connection.info.user} may not migrate: {error.diag.message_primary}",
            hint="run etl db migrate as the owner of the database",
        ) from error
    finally:
        if not connection.closed:
            connection.execute(_SQL["migrate_unlock"])


def run_migrations(connection: psycopg.Connection) -> None:
    """Run the migrations that the database has not seen, in one transaction.

    Raises UsageError when a later version of this tool migrated it.
    """
    found = _one(connection, "schema_version") if is_migrated(connection) else None
    if found == latest_migration():
        return
    _refuse_newer(found)
    # Imported here: only a migration needs them, and they cost every other command a third of a second.
    import sqlalchemy  # noqa: PLC0415
    from alembic import command  # noqa: PLC0415
    from alembic.config import Config  # noqa: PLC0415

    folder = shipped("sql") / "migrations"

    def run_file(name: str) -> None:
        connection.execute(sql.SQL((folder / name).read_text(encoding="utf-8")))

    connection.execute(_SQL["create_ledger_schema"])
    connection.autocommit = False
    try:
        engine = sqlalchemy.create_engine(
            "postgresql+psycopg://", creator=lambda: connection, poolclass=sqlalchemy.pool.StaticPool
        )
        with engine.begin() as bound:
            config = Config()
            config.set_main_option("script_location", str(folder).replace("%", "%%"))
            config.attributes.update(connection=bound, run_file=run_file)
            command.upgrade(config, "head")
    finally:
        if not connection.closed:
            connection.rollback()
            connection.autocommit = True


def _one(connection: psycopg.Connection, name: str) -> Any:
    row = connection.execute(_SQL[name]).fetchone()
    return row[0] if row else None
