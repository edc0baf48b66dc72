"""One batch -> COPY, into the facts or through tables beside them, and the publication of an atomic run.

Everything here runs in a transaction that the caller holds, so that it commits together with the ledger.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import NamedTuple

import psycopg
from psycopg import sql

from etl import queries
from etl.datasets import Dataset
from etl.ingestion.destination import effects, merging
from etl.ingestion.destination.duplicates import RunKeys, count_kept
from etl.ingestion.destination.isolation import isolate, text_tables
from etl.ingestion.destination.publication import Published
from etl.ingestion.destination.refused_keys import Keys, RefusedKeys
from etl.ingestion.destination.sending import Exchange, RowsSkippedError, Waiting
from etl.ingestion.destination.staging import make_schema
from etl.ingestion.destination.unchanged import VersionOrder, count_rows
from etl.ingestion.destination.write_modes import (
    DryRun,
    Staging,
    TemporaryTables,
    Updates,
    WriteMode,
    facts_of,
    run_statements,
    staging_tables,
    write_mode_of,
)
from etl.ingestion.values import Batch, CopyResult, Fault, Piece, Rows
from etl.settings import Mode

_SQL = queries.load("copying")

_NOTEWORTHY_SHARE = 0.1
"""The share of new rows after which autovacuum, too, analyzes a table again."""


class RunOrder(NamedTuple):
    """A run's part in the order of versions: its number, and whether it leaves unchanged records as they are."""

    run_number: int
    compares: bool


class Copier:
    """Writes the batches of one run into its tables; each run has one copier."""

    def __init__(
        self,
        dataset: Dataset,
        write_mode: WriteMode,
        keys: RunKeys | None,
        refused: RefusedKeys | None = None,
        order: RunOrder | None = None,
    ) -> None:
        """`order` is the run's part in the order of versions; None: none of its rows has a digest.

        `keys` are those that the records of a batch are compared with; None: duplicates are not counted.

        `refused` receives the keys of the rejected records of a replace; None: nobody needs them.
        """
        self._dataset = dataset
        self._write_mode = write_mode
        self._refused = refused
        self._keys = keys
        self._order = order
        self._temporary = TemporaryTables(dataset)
        # Keys are compared before the rows are written.
        self._copy_targets = None if keys else write_mode.copy_targets

    def prepare(self, connection: psycopg.Connection) -> None:
        """Make the tables of a run that are missing: those of its write mode, its keys, refused keys.

        Raises UsageError when their schema is missing and may not be made.
        """
        self.prepare_rows(connection)
        if self._refused is not None:
            self._refused.prepare(connection)

    def prepare_rows(self, connection: psycopg.Connection) -> None:
        """Make the tables that are missing, without those of refused keys. Raises UsageError as `prepare` does."""
        if self._keys is not None or isinstance(self._write_mode, Staging):
            make_schema(connection)
        self._write_mode.prepare(connection)
        if self._keys is not None:
            self._keys.prepare(connection)

    def lacks_refused(self, connection: psycopg.Connection) -> bool:
        """Return whether keys of rejected records are gone that a replace needs."""
        return self._refused is not None and self._refused.lacks_keys(connection)

    def forget_refused(self, connection: psycopg.Connection) -> None:
        """Drop the keys of rejected records: the batches that noted them load again."""
        if self._refused is not None:
            self._refused.drop(connection)

    def staged_batches(self, connection: psycopg.Connection) -> dict[int, tuple[int, ...]]:
        """Count the rows of an atomic run that wait for its publication: of each batch, in each table.

        Batches are given by their offsets, tables in the order of the dataset.
        """
        return self._write_mode.staged_batches(connection) if isinstance(self._write_mode, Staging) else {}

    def withdraw(self, connection: psycopg.Connection, batches: Sequence[int]) -> None:
        """Remove what is left of these batches of an atomic run, so that their records can load again."""
        if isinstance(self._write_mode, Staging):
            self._write_mode.withdraw(connection, batches)
        if self._keys is not None:
            self._keys.withdraw(connection, batches)

    def drop_abandoned(self, connection: psycopg.Connection) -> None:
        """Drop the keys and the staging tables of earlier runs of the dataset that never continue."""
        with connection.transaction():
            for (name,) in connection.execute(_SQL["staging_abandoned"], {"dataset": self._dataset.name}).fetchall():
                connection.execute(queries.load("tables")["drop"].format(table=sql.Identifier("etl_staging", name)))

    def compare(self, exchange: Exchange, piece: Piece, keys: Rows) -> Waiting[frozenset[int] | None]:
        """Return the places of the unchanged records of a batch; None where all records must be written."""
        if self._order is None or self._comes_late(exchange.connection, piece.offset):
            return None
        self._make_batch_tables(exchange.connection)
        return (yield from self._versions.compare_keys(exchange, piece, keys))

    def copy(self, exchange: Exchange, batch: Batch, *, is_compared: bool = False) -> Waiting[CopyResult]:
        """Write a batch and return how many rows COPY counted for each table.

        `is_compared`: it is without its unchanged records, which this transaction has found.

        Raises psycopg.Error as the server refuses it, UsageError when a trigger skips rows.
        """
        connection = exchange.connection
        if not is_compared:  # The comparison has made them, in the same transaction.
            self._make_batch_tables(connection)
        if self._copy_targets is not None:
            return CopyResult(rows=(yield from self._send(exchange, batch, self._copy_targets)))
        temporary = self._temporary.identifiers
        counts = yield from self._send(exchange, batch, temporary)
        if self._keys is not None:
            for statement in self._keys.note(temporary):
                yield from exchange.run(statement)
        faults, duplicates = self._judge_duplicates(connection, temporary, {})
        sources = self._keys.filter_duplicates(temporary) if self._keys and duplicates else temporary
        changed, unchanged = (sources, 0) if is_compared else (yield from self._in_order(exchange, sources, batch))
        is_whole = changed is sources or unchanged > 0
        if unchanged:
            counts = count_rows(connection, changed)
        firsts = 0
        if any(counts):
            are_first = self._keys is not None and not duplicates
            new_keys = yield from self._write_mode.write(exchange, changed, are_first=are_first)
            if self._write_mode.written < self._count_records(counts):
                firsts = yield from self._keep_firsts(exchange, sources)
            # A late batch is written without its beaten records, so its duplicates are not known.
            if new_keys is not None and self._keys is None and is_whole:
                duplicates = self._count_records(counts) - new_keys
        if faults:
            counts = tuple(count_kept(connection, table, faults) for table in temporary)
        result = CopyResult(rows=counts, faults=faults, duplicates=duplicates, unchanged=unchanged, firsts=firsts)
        return replace(result, kept_rows=self._kept(connection, temporary, duplicates))

    def _keep_firsts(self, exchange: Exchange, sources: merging.Sources) -> Waiting[int]:
        """Keep first values of versions that lost, and return how many rows got one."""
        kept = yield from run_statements(exchange, self._dataset, self._write_mode.keep_firsts(sources))
        return sum(kept.values())

    def _in_order(
        self, exchange: Exchange, sources: merging.Sources, batch: Batch
    ) -> Waiting[tuple[merging.Sources, int]]:
        """Return the rows of a batch that must be written, and the number of its unchanged records."""
        if self._comes_late(exchange.connection, batch.piece.offset):
            self._versions.find_seen(exchange.connection, batch.piece.offset, sources)
            yield from exchange.run(self._versions.find_beaten(sources).text)
            return self._versions.unbeaten(sources), 0
        if self._order is None or not self._order.compares or not batch.compares:
            return sources, 0
        unchanged = yield from self._versions.find_unchanged(exchange, sources, batch.piece)
        return (self._versions.changed(sources) if unchanged else sources), unchanged

    def _comes_late(self, connection: psycopg.Connection, batch: int) -> bool:
        return self._order is not None and comes_late(connection, self._dataset, self._order.run_number, batch)

    @cached_property
    def _versions(self) -> VersionOrder:
        number, compares = self._order or (0, False)
        return VersionOrder(self._dataset, number, compares=compares)

    def isolate(self, exchange: Exchange, batch: Batch) -> Waiting[CopyResult]:
        """Write the records of a batch that the server accepts, and return the faults of the others.

        Raises psycopg.Error for a fault that is not one of the data.
        """
        self._make_batch_tables(exchange.connection)
        order = self._versions if self._comes_late(exchange.connection, batch.piece.offset) else None
        if order is not None:
            order.find_seen(exchange.connection, batch.piece.offset)

        def statements(sources: merging.Sources, won: sql.Composable) -> list[merging.Statement]:
            firsts = self._write_mode.keep_firsts(self._kept_of(sources))
            if order is None:
                return [*self._statements(sources, won), *firsts]
            return [order.find_beaten(sources), *self._statements(order.unbeaten(sources), won), *firsts]

        result = yield from isolate(exchange, self._dataset, batch, statements, self._judge_duplicates)
        kept = self._kept(exchange.connection, text_tables(self._dataset), result.duplicates)
        return replace(result, kept_rows=kept)

    def note_refused(self, exchange: Exchange, keys: Sequence[Keys]) -> Waiting[None]:
        """Note the keys of the rejected records of a batch, in the transaction that enters it."""
        if self._refused is not None:
            yield from self._refused.note(exchange, keys)

    def updates(self, connection: psycopg.Connection) -> Updates | None:
        """Begin to count the older versions that a batch writes over; None: the mode writes over none."""
        return self._write_mode.updates(connection)

    @property
    def keeps_refused(self) -> bool:
        """Whether the run needs the keys of its rejected records."""
        return self._refused is not None

    def publish(self, connection: psycopg.Connection) -> Published:
        """Make the rows of an atomic run visible, all at once, and drop its staging tables."""
        order = self._versions if self._comes_late(connection, 0) else None
        published = self._write_mode.publish(connection, order)
        if self._refused is not None:
            self._refused.drop(connection)
        return published

    def forget_seen(self, connection: psycopg.Connection) -> None:
        """Forget what the order of versions needs no more, in the transaction that has finished the run."""
        if self._order is not None and self._order.compares:
            self._versions.forget_seen(connection)

    def drop_keys(self, connection: psycopg.Connection) -> None:
        """Drop the keys of a run, in the transaction that finishes it."""
        if self._keys is not None:
            self._keys.drop(connection)

    def analyze(self, connection: psycopg.Connection, rows: Iterable[int]) -> None:
        """Update the planner's statistics of the facts that an attempt enlarged by more than a tenth.

        `rows` are the new rows of each table. The server would do it later by itself, but the aggregates that are
        refreshed next need it now.
        """
        for fact, count in zip(facts_of(self._dataset), rows, strict=False):
            known = connection.execute(_SQL["rows_known"], {"table": fact.as_string(connection)}).fetchone()
            if known is not None and count > max(0, known[0]) * _NOTEWORTHY_SHARE:
                connection.execute(_SQL["analyze"].format(table=fact))

    def _make_batch_tables(self, connection: psycopg.Connection) -> None:
        """Make the tables that a batch goes through, once per connection, and choose how its commit is flushed."""
        is_in_order = self._keys is not None and self._keys.are_in_order
        connection.execute(_SQL["await_flush"] if is_in_order else queries.load("database")["defer_flush"])
        if self._copy_targets is None:
            self._temporary.make(connection)
        if self._keys is not None:
            self._keys.make_batch_tables(connection)

    def _send(self, exchange: Exchange, batch: Batch, targets: Sequence[sql.Identifier]) -> Waiting[tuple[int, ...]]:
        counts = []
        for table, rows, target in zip(self._dataset.tables, batch.tables, targets, strict=True):
            try:
                counts.append((yield from exchange.send(rows, target, merging.columns(table))))
            except RowsSkippedError as error:
                raise effects.skipped(exchange.connection, table.name, "some") from error
        return tuple(counts)

    def _count_records(self, counts: Sequence[int]) -> int:
        """Return the records among the rows of each table."""
        return sum(count for table, count in zip(self._dataset.tables, counts, strict=True) if not table.each)

    def _kept(
        self, connection: psycopg.Connection, tables: Sequence[sql.Identifier], duplicates: int
    ) -> tuple[int, ...]:
        """Count the rows of a batch without those of its duplicates, if the policy keeps these out of the tables."""
        if self._keys is None or not duplicates or not self._keys.keep_first:
            return ()
        sources = self._keys.filter_duplicates(tables)
        return tuple(effects.count(connection, merging.count_all(source)) for source in sources)

    def _statements(self, sources: merging.Sources, won: sql.Composable) -> list[merging.Statement]:
        """Return the statements that write the rows of these sources, and note their keys before."""
        if self._keys is None:
            return self._write_mode.statements(sources, won)
        notes = [merging.Statement(text=text, table=0) for text in self._keys.note(sources)]
        return [*notes, *self._write_mode.statements(self._kept_of(sources), won)]

    def _kept_of(self, sources: merging.Sources) -> merging.Sources:
        """Return the rows of these sources without those of duplicates that a policy keeps out of the tables."""
        return sources if self._keys is None else self._keys.filter_duplicates(sources)

    def _judge_duplicates(
        self, connection: psycopg.Connection, tables: Sequence[sql.Identifier], faults: Mapping[int, Fault]
    ) -> tuple[Mapping[int, Fault], int]:
        """Apply the duplicate policy to the rows of a batch; return all faults, and the number of duplicates."""
        return (faults, 0) if self._keys is None else self._keys.judge(connection, tables, faults)


def comes_late(connection: psycopg.Connection, dataset: Dataset, run_number: int, batch: int) -> bool:
    """Keep the order of versions until the end of the transaction; return whether a batch of a run comes late.

    A late batch is loaded alone, and without the records that are older than those that were seen since.
    """
    table = dataset.digested_table
    if table is None:
        return False
    values = {"table": table.name, "run": run_number, "batch": batch}
    row = connection.execute(_SQL["take_order"], values).fetchone()
    return bool(row and row[0])


def copier_of_run(
    dataset: Dataset, mode: Mode, run: str, number: int, *, is_atomic: bool, compares: bool = False
) -> Copier:
    """Return the copier of a run; the rows of an atomic run become visible at once.

    `compares`: it leaves unchanged records as they are.
    """
    staging = staging_tables(dataset, run) if is_atomic else ()
    keys = RunKeys(dataset, run, staging) if dataset.on_duplicate else None
    refused = RefusedKeys(dataset, run) if mode == "replace" and dataset.key else None
    staged_as = run if is_atomic else None
    write_mode = write_mode_of(dataset, mode, staged_as=staged_as, refused=refused)
    return Copier(dataset, write_mode, keys, refused, _order(dataset, mode, number, compares=compares))


def copier_of_replay(dataset: Dataset, mode: Mode, number: int) -> Copier:
    """Return the copier of a replay, which compares its records with the facts alone."""
    write_mode = write_mode_of(dataset, mode, staged_as=None)
    return Copier(dataset, write_mode, None, order=_order(dataset, mode, number, compares=False))


def _order(dataset: Dataset, mode: Mode, number: int, *, compares: bool) -> RunOrder | None:
    return RunOrder(number, compares) if dataset.has_digests and mode != "replace" else None


def copier_of_dry_run(dataset: Dataset) -> Copier:
    """Return the copier of a dry run, which keeps no row."""
    keys = RunKeys(dataset, "etl_dry_run", is_dry_run=True) if dataset.on_duplicate else None
    return Copier(dataset, DryRun(dataset), keys)
