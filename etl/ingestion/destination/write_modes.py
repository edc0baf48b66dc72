"""The write modes: which tables the rows of a run go to, by which statements, and when they become visible.

Everything here runs in a transaction that the caller holds.
"""

from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import LiteralString, Protocol, cast

import psycopg
from psycopg import sql

from etl import queries
from etl.datasets import LINEAGE, Dataset
from etl.errors import InternalError
from etl.ingestion.destination import merging, refusals
from etl.ingestion.destination.sending import Exchange, Waiting
from etl.settings import Mode

_SQL = queries.load("copying")
_STAGING = queries.load("staging")
_TABLES = queries.load("tables")


class TemporaryTables:
    """The temporary tables that the rows of a batch go through, one for each table of the dataset."""

    def __init__(self, dataset: Dataset) -> None:
        self.identifiers = [sql.Identifier("pg_temp", f"etl_batch_{number}") for number in range(len(dataset.tables))]
        self._dataset = dataset

    def make(self, connection: psycopg.Connection) -> None:
        """Make the tables that the connection does not have yet."""
        _make_like_facts(connection, "make_temporary", self._dataset, self.identifiers)
        if len(self.identifiers) > 1:
            _execute(connection, merging.make_won(self._dataset))

    def drop(self, connection: psycopg.Connection) -> None:
        """Drop the tables."""
        for temporary in (*self.identifiers, merging.WON):
            connection.execute(_TABLES["drop"].format(table=temporary))


class WriteMode(Protocol):
    """How the rows of a run reach the facts.

    `copy_targets` are the tables that COPY fills without a detour, one for each table of the dataset; None: the rows of
    each batch go through temporary tables.
    """

    copy_targets: Sequence[sql.Identifier] | None

    def statements(self, sources: merging.Sources, won: sql.Composable) -> list[sql.Composed]:
        """Return the statements that write the rows of these sources, one source for each table of the dataset.

        `won` are the records whose version won.
        """

    def prepare(self, _connection: psycopg.Connection) -> None:
        """Make the tables of the mode that are missing."""
        return

    def write(self, exchange: Exchange, sources: merging.Sources, *, are_first: bool) -> Waiting[None]:  # noqa: ARG002 - see AppendNewest
        """Write the rows of a batch; `are_first`: no earlier record of the run has one of their keys.

        Raises psycopg.Error as the server refuses them.
        """
        yield from _run(exchange, self.statements(sources, merging.WON))

    def publish(self, _connection: psycopg.Connection) -> None:
        """Make the rows of the run visible that are not visible yet."""
        return


class Append(WriteMode):
    """Inserts every row; a batch is visible when it commits."""

    def __init__(self, dataset: Dataset) -> None:
        self._dataset = dataset
        self.copy_targets = self._facts = facts_of(dataset)

    def statements(self, sources: merging.Sources, _won: sql.Composable) -> list[sql.Composed]:
        """Return the statements that insert the rows."""
        return merging.append(self._dataset, self._facts, sources)


class AppendNewest(WriteMode):
    """Inserts the newest version of each key of a run; a row of another run refuses the record."""

    def __init__(self, dataset: Dataset) -> None:
        self._dataset = dataset
        self.copy_targets = None

    def statements(self, sources: merging.Sources, won: sql.Composable) -> list[sql.Composed]:
        """Return the statements that insert the rows, and replace older versions of the same run."""
        return merging.append_newest(self._dataset, sources, won)

    def write(self, exchange: Exchange, sources: merging.Sources, *, are_first: bool) -> Waiting[None]:
        """Write the rows of a batch; records that are the first of their keys replace no version."""
        if are_first:
            yield from _run(exchange, merging.append(self._dataset, facts_of(self._dataset), sources))
        else:
            yield from super().write(exchange, sources, are_first=are_first)


class Merge(WriteMode):
    """Keeps the newest version of each key, whichever run loaded it."""

    def __init__(self, dataset: Dataset) -> None:
        self._dataset = dataset
        self.copy_targets = None
        self._are_new: bool | None = None

    def statements(self, sources: merging.Sources, won: sql.Composable) -> list[sql.Composed]:
        """Return the statements that insert new keys and update older versions."""
        return merging.merge(self._dataset, sources, won)

    def write(self, exchange: Exchange, sources: merging.Sources, *, are_first: bool) -> Waiting[None]:
        """Write the rows of a batch.

        If the tables were empty before the first batch, the rows are only inserted until a key comes twice: being ready
        for a conflict costs a third more.
        """
        if self._are_new is None:
            self._are_new = _are_empty(exchange.connection, facts_of(self._dataset))
        if self._are_new:
            try:
                with exchange.connection.transaction():
                    yield from _run(exchange, merging.merge(self._dataset, sources, merging.WON, against="none"))
            except psycopg.errors.UniqueViolation:
                self._are_new = False
            else:
                return
        yield from super().write(exchange, sources, are_first=are_first)


class Replace(WriteMode):
    """Leaves the rows of one run and no others; only a `Staging` run is written so, at its end."""

    def __init__(self, dataset: Dataset) -> None:
        self._dataset = dataset
        self.copy_targets = None

    def statements(self, sources: merging.Sources, _won: sql.Composable) -> list[sql.Composed]:
        """Return the statements that delete absent rows, insert new rows and update rows that differ."""
        return merging.replace(self._dataset, sources)


class Staging(WriteMode):
    """Gathers the rows of an atomic run in staging tables, and writes them by another mode when they are published."""

    def __init__(self, dataset: Dataset, run: str, publication: WriteMode) -> None:
        self._dataset = dataset
        self._publication = publication
        self._staging = [sql.Identifier("etl_staging", f"{run}_{number}") for number in range(len(dataset.tables))]
        self.copy_targets = self._staging

    def statements(self, sources: merging.Sources, _won: sql.Composable) -> list[sql.Composed]:
        """Return the statements that insert the rows into the staging tables."""
        return merging.append(self._dataset, self._staging, sources)

    def prepare(self, connection: psycopg.Connection) -> None:
        """Make the staging tables that are missing."""
        with connection.transaction():
            _make_like_facts(connection, "make_staging", self._dataset, self._staging)
            _check_partitions(connection, self._dataset, self._staging)

    def publish(self, connection: psycopg.Connection) -> None:
        """Make the rows of the run visible, all at once, and drop its staging tables."""
        for staging in self._staging:
            connection.execute(_TABLES["analyze"].format(table=staging))
        temporary = TemporaryTables(self._dataset)
        if self._dataset.key:
            temporary.make(connection)
        _execute(connection, self._publication.statements(self._staging, merging.WON))
        for staging in self._staging:
            connection.execute(_TABLES["drop"].format(table=staging))
        # Another dataset of the source may become visible by the same transaction.
        temporary.drop(connection)


class DryRun(WriteMode):
    """Lets the server check the rows in temporary tables with the columns and checks of the facts, and keeps none."""

    def __init__(self, dataset: Dataset) -> None:
        self._dataset = dataset
        self._checking = [sql.Identifier("pg_temp", f"etl_dry_run_{number}") for number in range(len(dataset.tables))]
        self.copy_targets = self._checking

    def statements(self, sources: merging.Sources, _won: sql.Composable) -> list[sql.Composed]:
        """Return the statements that insert the rows into the temporary tables."""
        return merging.append(self._dataset, self._checking, sources)

    def prepare(self, connection: psycopg.Connection) -> None:
        """Make the temporary tables that the connection does not have yet."""
        with connection.transaction():
            _make_like_facts(connection, "make_temporary", self._dataset, self._checking)
            _check_partitions(connection, self._dataset, self._checking)


def write_mode_of(dataset: Dataset, mode: Mode, *, staged_as: str | None) -> WriteMode:
    """Return how a run of this mode is written; `staged_as` is its name when all of it becomes visible at once.

    Raises InternalError for a replace that is not staged.
    """
    if staged_as is None and mode == "replace":
        raise InternalError("a replace writes its rows all at once")
    direct = _direct(dataset, mode)
    return direct if staged_as is None else Staging(dataset, staged_as, direct)


def _direct(dataset: Dataset, mode: Mode) -> WriteMode:
    if mode == "replace":
        return Replace(dataset)
    if mode == "merge":
        return Merge(dataset)
    return AppendNewest(dataset) if dataset.on_duplicate == "newest" else Append(dataset)


def facts_of(dataset: Dataset) -> list[sql.Identifier]:
    """Return the tables that a dataset fills."""
    return [table.identifier for table in dataset.tables]


def _are_empty(connection: psycopg.Connection, tables: Iterable[sql.Identifier]) -> bool:
    rows = (connection.execute(_SQL["has_rows"].format(table=table)).fetchone() for table in tables)
    return not any(row is not None and row[0] for row in rows)


def _run(exchange: Exchange, statements: Iterable[sql.Composed]) -> Waiting[None]:
    for statement in statements:
        yield from exchange.run(statement)


def _execute(connection: psycopg.Connection, statements: Iterable[sql.Composed]) -> None:
    for statement in statements:
        connection.execute(statement)


def _check_partitions(connection: psycopg.Connection, dataset: Dataset, tables: Sequence[sql.Identifier]) -> None:
    """Let tables refuse a row that no partition of its fact holds now, for rows that reach the fact later or never."""
    for new, fact in zip(tables, dataset.tables, strict=True):
        row = connection.execute(_STAGING["partitions"], {"table": fact.quoted}).fetchone()
        if row and row[0]:
            condition = sql.SQL(cast(LiteralString, row[0]))
            names = {"new": new, "name": sql.Identifier(refusals.PARTITION_CHECK), "condition": condition}
            connection.execute(_STAGING["drop_partition_check"].format(**names))
            # A fact that is partitioned by a column which no record fills decides itself.
            with suppress(psycopg.errors.UndefinedColumn), connection.transaction():
                connection.execute(_STAGING["add_partition_check"].format(**names))


def _make_like_facts(
    connection: psycopg.Connection, statement: str, dataset: Dataset, tables: Sequence[sql.Identifier]
) -> None:
    """Make the missing tables like the facts, which refuse a row where the fact itself would refuse it.

    A column that no record fills gets its value in the fact, by a default, an identity or a trigger: here it may be
    empty. It keeps its default only where a check or a generated column reads it: most defaults take effect each time.
    """
    connection.execute(queries.load("database")["hush_notices"])
    for new, fact in zip(tables, dataset.tables, strict=True):
        connection.execute(_STAGING[statement].format(new=new, table=fact.identifier))
        sent = [*(column.name for column in fact.columns), *LINEAGE]
        values = {"new": new.as_string(connection), "table": fact.quoted, "sent": sent}
        for name, is_read, default in connection.execute(_STAGING["columns_not_sent"], values).fetchall():
            names: dict[str, sql.Composable] = {"new": new, "column": sql.Identifier(name)}
            connection.execute(_STAGING["take_null" if is_read else "drop_column"].format(**names))
            if is_read and default:
                names["default"] = sql.SQL(cast(LiteralString, default))
                connection.execute(_STAGING["set_default"].format(**names))
