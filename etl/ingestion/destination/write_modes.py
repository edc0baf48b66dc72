"""The write modes: which tables the rows of a run go to, by which statements, and when they become visible.

Everything here runs in a transaction that the caller holds.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import partial
from typing import Literal, Protocol

import psycopg
from psycopg import sql

from etl import queries
from etl.database.tables import skipping_tables
from etl.datasets import Dataset
from etl.errors import InternalError
from etl.ingestion.destination import effects, merging
from etl.ingestion.destination.merging import Against
from etl.ingestion.destination.publication import Published
from etl.ingestion.destination.refused_keys import RefusedKeys
from etl.ingestion.destination.replacing import Replacement
from etl.ingestion.destination.sending import Exchange, Waiting, wait_for
from etl.ingestion.destination.staging import check_partitions, make_logged, make_partitions, make_temporary
from etl.ingestion.destination.unchanged import VersionOrder
from etl.quick_dataclasses import dataclass
from etl.settings import Mode

_SQL = queries.load("copying")
_TABLES = queries.load("tables")


class TemporaryTables:
    """The temporary tables that the rows of a batch go through, one for each table of the dataset."""

    def __init__(self, dataset: Dataset) -> None:
        self.identifiers = [sql.Identifier("pg_temp", f"etl_batch_{number}") for number in range(len(dataset.tables))]
        self._dataset = dataset

    def make(self, connection: psycopg.Connection) -> None:
        """Make the tables that the connection does not have yet, and set the counters of a merge to 0."""
        make_temporary(connection, self._dataset, self.identifiers)
        won = merging.make_won(self._dataset) if len(self.identifiers) > 1 else []
        connection.execute(queries.together(merging.make_counters(), *won))

    def drop(self, connection: psycopg.Connection) -> None:
        """Drop the tables."""
        for temporary in (*self.identifiers, merging.WON):
            connection.execute(_TABLES["drop"].format(table=temporary))


@dataclass(frozen=True, kw_only=True)
class Updates:
    """Counts the older versions of records that a transaction writes over, from its construction on."""

    connection: psycopg.Connection
    dataset: Dataset
    before: int | None

    @classmethod
    def begin(cls, connection: psycopg.Connection, dataset: Dataset) -> "Updates":
        """Begin to count."""
        return cls(connection=connection, dataset=dataset, before=_updates(connection, dataset))

    @property
    def rows(self) -> int | None:
        """The rows that were updated since, child rows aside; a version that was updated twice counts twice.

        None if the server does not count.
        """
        after = _updates(self.connection, self.dataset)
        return None if self.before is None or after is None else after - self.before


def _updates(connection: psycopg.Connection, dataset: Dataset) -> int | None:
    tables = [table.quoted for table in dataset.tables if not (table.each or table.deletes)]
    counts = [connection.execute(_SQL["updates"], {"table": table}).fetchone() for table in tables]
    known = [row[0] for row in counts if row is not None and row[0] is not None]
    return sum(known) if len(known) == len(tables) else None


class WriteMode(Protocol):
    """How the rows of a run reach the facts.

    `copy_targets` are the tables that COPY fills without a detour, one for each table of the dataset; None: the rows of
    each batch go through temporary tables.
    """

    copy_targets: Sequence[sql.Identifier] | None
    written: int = 0
    """The rows of records that the last batch wrote: fewer than its records, if a version lost."""
    _dataset: Dataset

    def statements(self, sources: merging.Sources, won: sql.Composable) -> list[merging.Statement]:
        """Return the statements that write the rows of these sources, one source for each table of the dataset.

        `won` are the records whose version won.
        """

    def keep_firsts(self, _sources: merging.Sources) -> list[merging.Statement]:
        """Return the statements that keep first values of those versions in the sources that lost."""
        return []

    def prepare(self, _connection: psycopg.Connection) -> None:
        """Make the tables of the mode that are missing."""
        return

    def updates(self, _connection: psycopg.Connection) -> Updates | None:
        """Begin to count the older versions that a batch writes over; None where a mode writes over none."""
        return None

    def write(self, exchange: Exchange, sources: merging.Sources, *, are_first: bool) -> Waiting[int | None]:  # noqa: ARG002 - see AppendNewest
        """Write the rows of a batch; `are_first`: no earlier record of the run has one of their keys.

        Returns how many keys its records have that no earlier record of the run had; None where nothing counts them.
        Raises psycopg.Error as the server refuses them.
        """
        written = yield from run_statements(exchange, self._dataset, self.statements(sources, merging.WON))
        self.written = sum(written.values())
        return None

    def publish(self, _connection: psycopg.Connection, _order: VersionOrder | None = None) -> Published:
        """Make the rows of the run visible that are not visible yet."""
        return Published()


class Append(WriteMode):
    """Inserts every row; a batch is visible when it commits."""

    def __init__(self, dataset: Dataset) -> None:
        self._dataset = dataset
        self.copy_targets = self._facts = facts_of(dataset)

    def statements(self, sources: merging.Sources, _won: sql.Composable) -> list[merging.Statement]:
        """Return the statements that insert the rows."""
        return merging.append(self._dataset, self._facts, sources)


class AppendNewest(WriteMode):
    """Inserts the newest version of each key of a run; a row of another run refuses the record."""

    def __init__(self, dataset: Dataset) -> None:
        self._dataset = dataset
        self.copy_targets = None

    def statements(self, sources: merging.Sources, won: sql.Composable) -> list[merging.Statement]:
        """Return the statements that insert the rows, and replace older versions of the same run."""
        return merging.append_newest(self._dataset, sources, won)

    def keep_firsts(self, sources: merging.Sources) -> list[merging.Statement]:
        """Return the statements that keep first values of those versions in the sources that lost."""
        return merging.keep_firsts(self._dataset, sources)

    def write(self, exchange: Exchange, sources: merging.Sources, *, are_first: bool) -> Waiting[int | None]:
        """Write the rows of a batch; records that are the first of their keys replace no version."""
        if are_first:
            statements = merging.append(self._dataset, facts_of(self._dataset), sources)
            written = yield from run_statements(exchange, self._dataset, statements)
            self.written = sum(written.values())
        else:
            yield from super().write(exchange, sources, are_first=are_first)
        return None


_Way = Literal["insert", "insert_newest", "merge"]
"""How a merge writes a batch: all keys are new and differ, some come again in the batch, or the table has some."""


class Merge(WriteMode):
    """Keeps the newest version of each key, whichever run loaded it."""

    def __init__(self, dataset: Dataset) -> None:
        self._dataset = dataset
        self.copy_targets = None
        self._way: _Way | None = None

    def statements(self, sources: merging.Sources, won: sql.Composable) -> list[merging.Statement]:
        """Return the statements that insert new keys and update older versions, and delete keys."""
        return self._merge(sources, won)

    def keep_firsts(self, sources: merging.Sources) -> list[merging.Statement]:
        """Return the statements that keep first values of those versions in the sources that lost."""
        return merging.keep_firsts(self._dataset, sources)

    def _merge(
        self,
        sources: merging.Sources,
        won: sql.Composable,
        *,
        against: Against = "all",
        waits: bool = True,
        is_batch: bool = False,
    ) -> list[merging.Statement]:
        """Return the statements; `waits`: a record of the sources may delete its key. `is_batch` is as in `merging`."""
        if self._dataset.deletions is None:
            return merging.merge(self._dataset, sources, won, against=against, is_batch=is_batch)
        from etl.ingestion.destination import deleting  # noqa: PLC0415 - the records of most datasets delete nothing

        lock: deleting.Lock = "exclusive" if waits else "shared"
        return deleting.merge(self._dataset, sources, won, against=against, lock=lock, is_batch=is_batch)

    def updates(self, connection: psycopg.Connection) -> Updates | None:
        """Begin to count the older versions that a batch writes over."""
        return Updates.begin(connection, self._dataset)

    def write(self, exchange: Exchange, sources: merging.Sources, *, are_first: bool) -> Waiting[int | None]:  # noqa: ARG002 - see AppendNewest
        """Write the rows of a batch, and return how many keys its records have that no earlier one of the run had.

        If the tables were empty before the first batch, the rows are only inserted until a key comes twice: being ready
        for that costs more.
        """
        merge = partial(
            self._merge, sources, merging.WON, waits=self._has_deletions(exchange.connection, sources), is_batch=True
        )
        if self._way is None:
            self._way = self._first_way(exchange.connection)
        while self._way != "merge":
            try:
                with exchange.connection.transaction():
                    if self._way == "insert":
                        statements = merging.insert_new(self._dataset, sources)
                    else:
                        statements = merge(against="none")
                    written = yield from run_statements(exchange, self._dataset, statements)
                    self.written = sum(written.values())
                    return self._new_keys(self.written)
            except psycopg.errors.UniqueViolation:
                self._way = "insert_newest" if self._way == "insert" else "merge"
        written = yield from run_statements(exchange, self._dataset, merge())
        self.written = sum(written.values())
        row = exchange.connection.execute(merging.read_counters()).fetchone()
        lost, repeated = row or (0, 0)
        return self._new_keys(self.written + int(lost) - int(repeated))

    def _first_way(self, connection: psycopg.Connection) -> "_Way":
        if not _are_empty(connection, facts_of(self._dataset)):
            return "merge"
        return "insert" if self._dataset.deletions is None else "insert_newest"

    def _new_keys(self, count: int) -> int | None:
        """Return a number of keys; None where records delete keys: their rows are in another table."""
        return count if self._dataset.deletions is None else None

    def _has_deletions(self, connection: psycopg.Connection, sources: merging.Sources) -> bool:
        """Return whether a record of a batch deletes its key."""
        if self._dataset.deletions is None:
            return False
        number, _ = self._dataset.deletions
        row = connection.execute(_SQL["has_rows"].format(table=sources[number])).fetchone()
        return row is None or bool(row[0])


class Staging(WriteMode):
    """Gathers the rows of an atomic run in staging tables, and writes them by another mode when they are published.

    `publication` is that mode, or the replacement of all other rows.
    """

    def __init__(self, dataset: Dataset, run: str, publication: WriteMode | Replacement) -> None:
        self._dataset = dataset
        self._publication = publication
        self._staging = staging_tables(dataset, run)
        self.copy_targets = self._staging

    def statements(self, sources: merging.Sources, _won: sql.Composable) -> list[merging.Statement]:
        """Return the statements that insert the rows into the staging tables."""
        return merging.append(self._dataset, self._staging, sources)

    def prepare(self, connection: psycopg.Connection) -> None:
        """Make the staging tables that are missing."""
        with connection.transaction():
            make_logged(connection, self._dataset, self._staging)
            check_partitions(connection, self._dataset, self._staging)

    def updates(self, connection: psycopg.Connection) -> Updates | None:
        """Begin to count what a batch writes over: nothing, if a merge publishes it."""
        return Updates.begin(connection, self._dataset) if isinstance(self._publication, Merge) else None

    def publish(self, connection: psycopg.Connection, order: VersionOrder | None = None) -> Published:
        """Make the rows of the run visible, all at once, and drop its staging tables."""
        updates = self.updates(connection)
        exchange = Exchange(connection)
        for staging in self._staging:
            connection.execute(_TABLES["analyze"].format(table=staging))
        make_partitions(connection, self._dataset, self._staging)
        temporary = TemporaryTables(self._dataset)
        if self._dataset.key:
            temporary.make(connection)
        published, rows_replaced = Published(), None
        rows = tuple(effects.count(connection, merging.count_all(staging)) for staging in self._staging)
        if isinstance(self._publication, Replacement):
            published = wait_for(self._publication.publish(exchange, self._staging))
            wait_for(run_statements(exchange, self._dataset, merging.keep_firsts(self._dataset, self._staging)))
        else:
            sources = order.unbeaten_of_late(connection, self._staging) if order else self._staging
            statements = self._publication.statements(sources, merging.WON)
            written = wait_for(run_statements(exchange, self._dataset, statements))
            rows_replaced = updates.rows if updates else None
            if sum(written.values()) < sum(rows[number] for number in written):
                statements = self._publication.keep_firsts(self._staging)
                wait_for(run_statements(exchange, self._dataset, statements))
        for staging in self._staging:
            connection.execute(_TABLES["drop"].format(table=staging))
        # Another dataset of the source may become visible by the same transaction.
        temporary.drop(connection)
        return replace(published, rows=rows, rows_replaced=rows_replaced)

    def staged_batches(self, connection: psycopg.Connection) -> dict[int, tuple[int, ...]]:
        """Count the staged rows of each batch, given by its offset, in each table of the dataset."""
        counts: dict[int, list[int]] = defaultdict(lambda: [0 for _ in self._staging])
        for number, staging in enumerate(self._staging):
            for batch, count in connection.execute(_SQL["count_batches"].format(table=staging)):
                counts[batch][number] = count
        return {batch: tuple(rows) for batch, rows in counts.items()}

    def withdraw(self, connection: psycopg.Connection, batches: Sequence[int]) -> None:
        """Remove the staged rows of these batches, given by their offsets."""
        for staging in self._staging:
            connection.execute(_TABLES["delete_batches"].format(table=staging), {"batches": list(batches)})


class DryRun(WriteMode):
    """Lets the server check the rows in temporary tables with the columns and checks of the facts, and keeps none."""

    def __init__(self, dataset: Dataset) -> None:
        self._dataset = dataset
        self._checking = [sql.Identifier("pg_temp", f"etl_dry_run_{number}") for number in range(len(dataset.tables))]
        self.copy_targets = self._checking

    def statements(self, sources: merging.Sources, _won: sql.Composable) -> list[merging.Statement]:
        """Return the statements that insert the rows into the temporary tables."""
        return merging.append(self._dataset, self._checking, sources)

    def prepare(self, connection: psycopg.Connection) -> None:
        """Make the temporary tables that the connection does not have yet."""
        with connection.transaction():
            make_temporary(connection, self._dataset, self._checking)
            check_partitions(connection, self._dataset, self._checking)


def write_mode_of(
    dataset: Dataset, mode: Mode, *, staged_as: str | None, refused: RefusedKeys | None = None
) -> WriteMode:
    """Return how a run of this mode is written; `staged_as` is its name when all of it becomes visible at once.

    `refused` are the keys of the records that a replace rejects. Raises InternalError for a replace that is not staged.
    """
    if mode == "replace":
        if staged_as is None:
            raise InternalError("a replace writes its rows all at once")
        return Staging(dataset, staged_as, Replacement(dataset, refused))
    direct = _direct(dataset, mode)
    return direct if staged_as is None else Staging(dataset, staged_as, direct)


def _direct(dataset: Dataset, mode: Mode) -> WriteMode:
    if mode == "merge":
        return Merge(dataset)
    return AppendNewest(dataset) if dataset.on_duplicate == "newest" else Append(dataset)


def staging_tables(dataset: Dataset, run: str) -> list[sql.Identifier]:
    """Return the tables that gather the rows of an atomic run, one for each table of the dataset."""
    return [sql.Identifier("etl_staging", f"{run}_{number}") for number in range(len(dataset.tables))]


def facts_of(dataset: Dataset) -> list[sql.Identifier]:
    """Return the tables that a dataset fills."""
    return [table.identifier for table in dataset.tables]


def _are_empty(connection: psycopg.Connection, tables: Iterable[sql.Identifier]) -> bool:
    rows = (connection.execute(_SQL["has_rows"].format(table=table)).fetchone() for table in tables)
    return not any(row is not None and row[0] for row in rows)


def run_statements(
    exchange: Exchange, dataset: Dataset, statements: Iterable[merging.Statement]
) -> Waiting[dict[int, int]]:
    """Run statements, and hold what they did against what they had to do where rows may be skipped.

    Returns how many rows they wrote to each table of records, by its number. Raises psycopg.Error as the server refuses
    them, UsageError when rows were skipped.
    """
    skipping = skipping_tables(exchange.connection, dataset)
    written: int = 0
    totals: dict[int, int] = {}
    for statement in statements:
        written = (yield from exchange.run(statement.text)).command_tuples or 0
        if statement.table in skipping:
            effects.require_whole(exchange.connection, dataset, statement, written)
        if not dataset.tables[statement.table].each:
            totals[statement.table] = totals.get(statement.table, 0) + written
    return totals


def _execute(connection: psycopg.Connection, statements: Iterable[sql.Composed]) -> None:
    for statement in statements:
        connection.execute(statement)
