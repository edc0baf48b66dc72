"""The migrations of a database: the ledger, its roles and its schemas, as this installation needs them."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
import structlog
from psycopg import sql

from etl import queries
from etl.errors import UsageError
from etl.settings import shipped

_SQL = queries.load("database")

log = structlog.get_logger(__name__)


def latest_migration() -> str:
    """Return the newest migration of this installation."""
    return max(path.stem.split("_")[0] for path in (shipped("sql") / "migrations").glob("[0-9]*.sql"))


def is_migrated(connection: psycopg.Connection) -> bool:
    """Return whether the database was ever migrated.

    Raises UsageError when the user may not read the ledger.
    """
    try:
        return bool(_value(connection, "schema_version_exists"))
    except psycopg.errors.InsufficientPrivilege as error:
        user = connection.info.user
        raise UsageError(f"the user {user} may not read the ledger", hint=f"grant etl_loader to {user}") from error


def migration_of(connection: psycopg.Connection) -> str | None:
    """Return the migration of the database, None when it was never migrated.

    Raises UsageError when the user may not read the ledger.
    """
    version = _value(connection, "schema_version") if is_migrated(connection) else None
    return None if version is None else str(version)


def require_migrated(connection: psycopg.Connection) -> None:
    """Raise UsageError when the database is not at the newest migration of this installation."""
    version = migration_of(connection)
    if version != latest_migration():
        _refuse_newer(version)
        raise UsageError(
            f"the database is at migration {version or 'none'}, this installation needs {latest_migration()}",
            hint="etl db migrate",
        )


def _refuse_newer(version: str | None) -> None:
    if version is not None and version > latest_migration():
        raise UsageError(
            f"the database is at migration {version}, the newest that this installation knows is {latest_migration()}",
            hint="use the version of this tool that migrated it, or a later one",
        )


def make_staging_schema(connection: psycopg.Connection) -> None:
    """Make the schema of the tables of unfinished runs where a dump left it out."""
    connection.execute(_SQL["hush_notices"])
    connection.execute(_SQL["make_staging_schema"])


def grant_ledger(connection: psycopg.Connection) -> None:
    """Grant the ledger and the schemas to the existing group roles; a role may be newer than the migration."""
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


@contextmanager
def one_migration_at_a_time(connection: psycopg.Connection) -> Iterator[None]:
    """Hold the lock of migrations.

    Raises UsageError when the server is older than PostgreSQL 16 or denies a statement of the migration.
    """
    version = int(_value(connection, "server_version"))
    if version < 160000:
        raise UsageError(f"expected PostgreSQL 16 or later, got {version // 10000}")
    connection.execute(_SQL["migrate_lock"])
    try:
        yield
    except psycopg.errors.InsufficientPrivilege as error:
        raise denied(connection, error) from error
    finally:
        if not connection.closed:
            connection.execute(_SQL["migrate_unlock"])


def denied(connection: psycopg.Connection, error: psycopg.errors.InsufficientPrivilege) -> UsageError:
    """Return the error for a user who lacks the right to a statement of a migration."""
    return UsageError(
        f"the user {connection.info.user} may not migrate: {error.diag.message_primary}",
        hint="run etl db migrate as the owner of the database",
    )


def run_migrations(connection: psycopg.Connection) -> None:
    """Run the migrations that the database does not have yet, in one transaction.

    Raises UsageError when a later version of this tool migrated the database.
    """
    version = migration_of(connection)
    if version == latest_migration():
        return
    _refuse_newer(version)
    # Imported here: only a migration needs them, and they would cost every other command a third of a second.
    import sqlalchemy  # noqa: PLC0415 - as the comment says
    from alembic import command  # noqa: PLC0415 - as the comment says
    from alembic.config import Config  # noqa: PLC0415 - as the comment says

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


def _value(connection: psycopg.Connection, name: str) -> Any:
    row = connection.execute(_SQL[name]).fetchone()
    return row[0] if row else None
