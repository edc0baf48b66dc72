"""Make in a database what this installation needs: ledger, roles, the tables of the datasets, and the aggregates."""

import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import psycopg
import structlog
from tenacity import RetryCallState

from etl import datasets, retrying
from etl.database import connecting, inventory, migrations, sessions, tables
from etl.database.connecting import Database
from etl.database.inventory import Made
from etl.database.sqlstates import code_of, condition
from etl.database.watching import ServerConnection
from etl.datasets import Dataset, histories
from etl.errors import DefinitionError, EtlError, UnreachableError, UsageError, combined
from etl.ingestion.destination import refusals
from etl.ingestion.ledger import losses
from etl.precalculation import catalogue
from etl.settings import RetrySettings

log = structlog.get_logger(__name__)

T = TypeVar("T")

_LONGEST_PAUSE = 5.0
"""Seconds: a server that has started should not be idle for long."""


@dataclass(frozen=True, kw_only=True)
class Migrated:
    """The migration of a database before, None without one, and what was made in it."""

    before: str | None
    made: Made


class LeftOutError(DefinitionError):
    """Some definitions or aggregates could not be installed; everything else is, as `migrated` says."""

    migrated: Migrated | None = None


def migrate(target: Database, config_dir: Path) -> Migrated:
    """Run the migrations and make what is missing of all datasets and aggregates. Running it again changes nothing.

    Raises UsageError when the server is too old or denies a statement, and at the end LeftOutError when a definition or
    an aggregate is wrong: the others are installed.
    """
    from etl.precalculation import installation  # noqa: PLC0415 - each command imports this module

    errors: list[EtlError] = []
    valid, wrong = datasets.look(config_dir)
    aggregates, wrong_aggregates = catalogue.look(config_dir)
    errors += [*wrong, *wrong_aggregates.values()]
    names = set(datasets.default_names(config_dir))
    with connecting.connect(target, "etl:migrate") as connection, migrations.one_migration_at_a_time(connection):
        sessions.require_usable(connection)
        before = migrations.migration_of(connection)
        wanted = [name for dataset in valid if dataset.name in names for name in _tables_of(dataset)]
        wanted += [aggregate.table for aggregate in aggregates]
        present = inventory.look(connection, wanted)
        migrations.run_migrations(connection)
        migrations.make_staging_schema(connection)
        migrations.grant_ledger(connection)
        for dataset in valid:
            if dataset.name in names:
                with _by_itself(connection, dataset, errors):
                    require_fitting(dataset)
                    tables.create_tables(connection, dataset)
                    _warn_of_missing_rows(connection, dataset)
        owners = {table.name: dataset.name for dataset in valid for table in dataset.tables}
        with _by_itself(connection, None, errors):
            installation.install(connection, aggregates, owners)
        made = inventory.made_since(present, inventory.look(connection, wanted))
    migrated = Migrated(before=before, made=made)
    if errors:
        raise _left_out(errors, migrated)
    return migrated


def _left_out(errors: Sequence[EtlError], migrated: Migrated) -> LeftOutError:
    first = combined(errors)
    error = LeftOutError(f"{first}; everything else is installed", hint=first.hint)
    error.migrated = migrated
    return error


@contextmanager
def _by_itself(connection: psycopg.Connection, dataset: Dataset | None, errors: list[EtlError]) -> Iterator[None]:
    """Let an error in this block hinder nothing else, unless it is one of the whole database."""
    try:
        yield
    except UsageError as error:
        errors.append(error)
    except psycopg.Error as error:
        code = code_of(error)
        if dataset is None or connection.closed or code is None:
            raise
        if isinstance(error, psycopg.errors.InsufficientPrivilege):
            errors.append(migrations.denied(connection, error))
            return
        reason = f"{condition(code)}, SQLSTATE {code}"
        errors.append(UsageError(f"the tables of {dataset.name} cannot be made: {reason}, in {dataset.path}"))


def create(target: Database, dataset: Dataset) -> Made:
    """Make what is missing of the tables of one dataset, and the triggers of a table that was dropped and made again.

    Returns what was made.

    Raises UsageError when the server denies a statement, DefinitionError when a constant does not fit its column.
    """
    from etl.precalculation import installation  # noqa: PLC0415 - each command imports this module

    require_fitting(dataset)
    with connecting.connect(target, "etl:migrate") as connection:
        sessions.require_usable(connection)
        wanted = _tables_of(dataset)
        present = inventory.look(connection, wanted)
        tables.create_tables(connection, dataset)
        installation.watch_again(connection)
        _warn_of_missing_rows(connection, dataset)
        return inventory.made_since(present, inventory.look(connection, wanted))


def _tables_of(dataset: Dataset) -> list[str]:
    """Return the names of the tables of a dataset, with those that keep versions."""
    return [*(table.name for table in dataset.tables), *(histories.tables_of(dataset) if dataset.has_history else ())]


def _warn_of_missing_rows(connection: psycopg.Connection, dataset: Dataset) -> None:
    """Log a warning when rows that the ledger knows are missing in the tables, because a table was made anew."""
    # The owner of the tables may not be allowed to read the ledger, or the ledger is older than this version.
    errors = psycopg.errors
    with suppress(errors.InsufficientPrivilege, errors.UndefinedColumn, errors.UndefinedTable):
        found = losses.look(connection, dataset)
        if found is not None:
            log.warning("rows_missing", dataset=dataset.name, reason=found.reason, hint=found.remedy(dataset.mode))


def require_fitting(dataset: Dataset) -> None:
    """Raise DefinitionError when a value or a default of the definition does not fit its column."""
    from etl.ingestion.transform.projection import Projection  # noqa: PLC0415 - 14 ms of each start, for the few that make tables

    Projection(dataset)


@dataclass(frozen=True, kw_only=True)
class DividedTable:
    """A table that was turned into a partitioned one, or whose copy was given up."""

    table: str
    rows_copied: int
    given_up: bool


def divide(target: Database, dataset: Dataset, *, gives_up: bool) -> list[DividedTable]:
    """Turn the tables of a dataset into partitioned ones while they are in use; a cut off division is continued.

    With `gives_up` remove what a cut off division has left. Returns the tables that this has changed.

    Raises UsageError if no table of the dataset has partitions, or one cannot be divided.
    """
    from etl.database import partitions  # noqa: PLC0415 - few commands need it
    from etl.database.division import Division  # noqa: PLC0415 - few commands need it

    wanted = partitions.divided_tables(dataset)
    divided = []
    with connecting.connect(target, "etl:partition") as connection:
        for table in wanted:
            division = Division(connection=connection, dataset=dataset, table=table)
            if gives_up:
                if division.give_up():
                    divided.append(DividedTable(table=table.name, rows_copied=0, given_up=True))
                continue
            was_plain = not partitions.is_divided(connection, dataset, table)
            rows = division.run()
            if was_plain:
                divided.append(DividedTable(table=table.name, rows_copied=rows, given_up=False))
        if not gives_up:
            tables.create_tables(connection, dataset)
    return divided


@dataclass(frozen=True, kw_only=True)
class Patience:
    """For how many seconds a database that cannot be reached at the start is tried again, and with which pauses.

    `tell` gets the error of the first try. One attempt at most means no other try.
    """

    settings: RetrySettings
    seconds: float
    tell: Callable[[EtlError], None]


@contextmanager
def opened(
    address: str, config_dir: Path, patience: Patience | None = None, *, creates: bool = True, connects: bool = False
) -> Iterator[Database]:
    """Yield the database of an address, with its embedded server running; a new embedded database is migrated.

    With `creates=False` nothing is made. With `connects` the caller connects at once, and gets the connection that
    looked at the migration. Raises UsageError when the database is not at the migration that this
    installation needs, or there is none and none may be made.
    """
    if not creates:
        connecting.require_existing(address)
    with connecting.serving(address) as target:
        try:
            again = retrying.policy(RetrySettings(), refusals.is_transient, _note_retry)
            connection, is_new = _patiently(lambda: again(_look, target, creates=creates), patience)
        except psycopg.Error as error:
            raise refusals.as_etl_error(error, target) from error
        if is_new or not connects:
            connection.close()
        if is_new:
            try:
                migrate(target, config_dir)
            except LeftOutError as error:
                log.warning("definitions_ignored", reason=str(error), hint=error.hint)
        with nullcontext() if connection.closed else connecting.hand_over(target, connection):
            yield target


def _look(target: Database, *, creates: bool) -> tuple[ServerConnection, bool]:
    """Return a connection to the database, and whether it is new and may be migrated."""
    connection = connecting.connect(target)
    try:
        is_new = creates and target.embedded and not migrations.is_migrated(connection)
        if not is_new:
            migrations.require_migrated(connection)
    except BaseException:
        connection.close()
        raise
    return connection, is_new


def _patiently(look: Callable[[], T], patience: Patience | None) -> T:
    """Look at a database; while it cannot be reached, look again until patience ends."""
    started = time.monotonic()
    for number in itertools.count():
        try:
            return look()
        except UnreachableError as error:
            if patience is None or patience.settings.attempts == 1:
                raise
            left = started + patience.seconds - time.monotonic()
            if left <= 0:
                raise
            if not number:
                patience.tell(error)
            pause = min(
                _LONGEST_PAUSE, patience.settings.cap_seconds, patience.settings.base_seconds * 2 ** min(number, 20)
            )
            time.sleep(min(pause, left))  # A signal ends it: the command has no batch yet.
    raise AssertionError  # The loop has no end.


def _note_retry(state: RetryCallState) -> None:
    log.warning("start_retried", try_number=state.attempt_number, wait_seconds=round(state.upcoming_sleep, 2))
