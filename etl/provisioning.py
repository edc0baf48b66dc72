"""Bring a database to what this installation needs: ledger, roles, the tables of the datasets, the aggregates."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from etl import database, datasets
from etl.database import Database
from etl.datasets import Dataset
from etl.errors import UsageError
from etl.precalculation import catalogue, installation


def migrate(target: Database, config_dir: Path) -> None:
    """Run the migrations and make what is missing of every dataset and aggregate found; again, it changes nothing.

    Raises UsageError when the server is too old or denies it, DefinitionError when a definition is wrong.
    """
    found = [datasets.find(name, config_dir) for name in datasets.names(config_dir)]
    with database.connect(target, "etl:migrate") as connection, database.one_migration_at_a_time(connection):
        database.run_migrations(connection)
        database.grant_ledger(connection)
        for dataset in found:
            database.create_tables(connection, dataset)
        owners = {table.name: dataset.name for dataset in found for table in dataset.tables}
        installation.install(connection, catalogue.read_all(config_dir), owners)


def create(target: Database, dataset: Dataset) -> None:
    """Make what is missing of one dataset's tables, and the triggers that a table lost when it was made anew.

    Raises UsageError when the server denies it.
    """
    with database.connect(target, "etl:migrate") as connection:
        database.create_tables(connection, dataset)
        installation.watch_again(connection)


@dataclass(frozen=True, kw_only=True)
class Check:
    """One thing that was looked at; `remedy` is empty when it is right."""

    what: str
    found: str
    remedy: str = ""


def inspect(target: Database, config_dir: Path) -> list[Check]:
    """Look at what loads need of a database: version, migrations, tables and rights.

    Raises UsageError or DatabaseError when it cannot be reached.
    """
    with database.connect(target) as connection:
        major = connection.info.server_version // 10000
        checks = [
            Check(
                what="server",
                found=f"{target.name}, PostgreSQL {major}",
                remedy="" if major >= 16 else "use 16 or later",
            )
        ]
        try:
            database.require_migrated(connection)
        except UsageError as error:
            return [*checks, Check(what="migrations", found=str(error), remedy=error.hint or "")]
        checks.append(Check(what="migrations", found=f"at {database.latest_migration()}"))
        for dataset in datasets.readable(config_dir):
            try:
                database.require_tables(connection, dataset)
            except UsageError as error:
                checks.append(Check(what=f"dataset {dataset.name}", found=str(error), remedy=error.hint or ""))
            else:
                checks.append(Check(what=f"dataset {dataset.name}", found="its tables are there and may be loaded"))
        checks += [
            Check(
                what=f"triggers of {fact}",
                found="its changes are not noted for the aggregates",
                remedy="etl db migrate",
            )
            for fact in installation.unwatched(connection)
        ]
    return checks


@contextmanager
def opened(address: str, config_dir: Path) -> Iterator[Database]:
    """Yield the database behind an address, served for as long as it is used; a new embedded one is migrated.

    Raises UsageError when another database was not migrated to what this installation needs.
    """
    with database.serving(address) as target:
        with database.connect(target) as connection:
            is_new = target.embedded and not database.is_migrated(connection)
            if not is_new:
                database.require_migrated(connection)
        if is_new:
            migrate(target, config_dir)
        yield target
