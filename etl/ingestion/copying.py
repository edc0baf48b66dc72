"""One batch -> COPY, into the facts or through a table beside them, and the publication of an atomic run.

Everything here runs in a transaction that the caller holds, so that it commits together with the ledger.
"""

import os
from collections.abc import Iterable

import psycopg
from psycopg import sql

from etl import queries
from etl.datasets import Dataset
from etl.ingestion import merging
from etl.ingestion.constants import COPY_BYTES
from etl.ingestion.sending import Meanwhile, do_nothing, run, send
from etl.ingestion.values import Batch
from etl.settings import Mode

_SQL = queries.load("copying")

_LEAST_COPY_BYTES = 1 << 13

_NOTEWORTHY_SHARE = 0.1
"""What autovacuum waits for, too, before it looks at a table again."""


class Copier:
    """How the batches of one run reach their tables: straight, merged, or gathered until they are published."""

    def __init__(self, dataset: Dataset, mode: Mode, *, staged_as: str | None, is_rehearsal: bool = False) -> None:
        """`staged_as` names the run whose staging tables gather the rows; None: each batch is visible at once.

        The rows of a rehearsal go into temporary tables and are gone with the batch.
        """
        self._dataset = dataset
        self._mode = mode
        self._is_staged = staged_as is not None or is_rehearsal
        self._is_rehearsal = is_rehearsal
        self._facts = [table.identifier for table in dataset.tables]
        self._staging = [
            sql.Identifier("pg_temp" if is_rehearsal else "etl_staging", f"{staged_as or 'etl_rehearsal'}_{number}")
            for number in range(len(dataset.tables))
        ]
        self._temporary = [sql.Identifier("pg_temp", f"etl_batch_{number}") for number in range(len(dataset.tables))]
        self._merges = mode == "merge" and not self._is_staged
        self._are_new: bool | None = None

    def prepare(self, connection: psycopg.Connection) -> None:
        """Make the staging tables of an atomic run, or the temporary ones of a rehearsal, where they are missing."""
        if not self._is_staged:
            return
        with connection.transaction():
            connection.execute(queries.load("database")["hush_notices"])
            for staging, fact in zip(self._staging, self._facts, strict=True):
                connection.execute(
                    _SQL["make_rehearsal" if self._is_rehearsal else "make_staging"].format(staging=staging, table=fact)
                )

    def drop_given_up(self, connection: psycopg.Connection) -> None:
        """Let go of what earlier atomic runs of the dataset gathered that never becomes visible."""
        with connection.transaction():
            for (name,) in connection.execute(_SQL["staging_given_up"], {"dataset": self._dataset.name}).fetchall():
                connection.execute(_SQL["drop_staging"].format(staging=sql.Identifier("etl_staging", name)))

    def copy(self, connection: psycopg.Connection, batch: Batch, meanwhile: Meanwhile = do_nothing) -> tuple[int, ...]:
        """Send a batch and return how many rows COPY counted for each table; `meanwhile` is called while it goes.

        Raises psycopg.Error as the server refuses it, InternalError when COPY counted other rows than were sent.
        """
        self.make_ready(connection)
        targets = self._temporary if self._merges else self._staging if self._is_staged else self._facts
        at_once = _paced(batch, 2 if self._merges else 1)
        counted = tuple(
            send(connection, rows, target, merging.columns(table), meanwhile, at_once)
            for table, rows, target in zip(self._dataset.tables, batch.tables, targets, strict=True)
        )
        if self._merges:
            self._merge(connection, meanwhile)
        return counted

    def _merge(self, connection: psycopg.Connection, meanwhile: Meanwhile) -> None:
        """Merge the rows of a batch; into a table that was empty as if all keys were new, as long as they are."""
        if self._are_new is None:
            self._are_new = _is_empty(connection, self._facts)
        if self._are_new:
            try:
                with connection.transaction():
                    for statement in merging.merge(self._dataset, self._temporary, merging.WON, are_new=True):
                        run(connection, statement, meanwhile)
            except psycopg.errors.UniqueViolation:
                self._are_new = False
            else:
                return
        for statement in merging.merge(self._dataset, self._temporary, merging.WON):
            run(connection, statement, meanwhile)

    def make_ready(self, connection: psycopg.Connection) -> None:
        """Make what a batch needs in its transaction: the temporary tables of a merge, once per connection."""
        connection.execute(_SQL["defer_flush"])
        if self._merges:
            self._make_temporary(connection)

    def applying(self, sources: merging.Sources, won: sql.Composable) -> list[sql.Composed]:
        """Return the statements that bring rows from other sources to where the batches of this run go."""
        if self._merges:
            return merging.merge(self._dataset, sources, won)
        return merging.append(self._dataset, self._staging if self._is_staged else self._facts, sources)

    def publish(self, connection: psycopg.Connection) -> None:
        """Make the rows of an atomic run visible, all at once, and let go of its staging tables."""
        for staging in self._staging:
            connection.execute(_SQL["analyze_staging"].format(staging=staging))
        if self._dataset.key:
            self._make_temporary(connection)
        if self._mode == "replace":
            _run(connection, merging.replace(self._dataset, self._staging))
        elif self._mode == "merge":
            _run(connection, merging.merge(self._dataset, self._staging, merging.WON))
        else:
            _run(connection, merging.append(self._dataset, self._facts, self._staging))
        for staging in self._staging:
            connection.execute(_SQL["drop_staging"].format(staging=staging))
        # Another dataset of the source may become visible by the same transaction.
        for temporary in (*self._temporary, merging.WON):
            connection.execute(_SQL["drop_temporary"].format(temporary=temporary))

    def analyze(self, connection: psycopg.Connection, rows: Iterable[int]) -> None:
        """Let the planner know the facts that an attempt made more than a tenth larger, by so many rows each.

        The server would do it by itself, but the aggregates that are refreshed next need it now.
        """
        for fact, count in zip(self._facts, rows, strict=False):
            known = connection.execute(_SQL["rows_known"], {"table": fact.as_string(connection)}).fetchone()
            if known is not None and count > max(0, known[0]) * _NOTEWORTHY_SHARE:
                connection.execute(_SQL["analyze"].format(table=fact))

    def _make_temporary(self, connection: psycopg.Connection) -> None:
        connection.execute(queries.load("database")["hush_notices"])
        for temporary, fact in zip(self._temporary, self._facts, strict=True):
            connection.execute(_SQL["make_temporary"].format(temporary=temporary, table=fact))
        if len(self._facts) > 1:
            _run(connection, merging.make_won(self._dataset))


def _is_empty(connection: psycopg.Connection, tables: Iterable[sql.Identifier]) -> bool:
    found = (connection.execute(_SQL["has_rows"].format(table=table)).fetchone() for table in tables)
    return not any(row is not None and row[0] for row in found)


def _paced(batch: Batch, phases: int) -> int:
    """Return how much of a batch is sent at once for the next one to be made just as long as this one is taken in.

    A merge takes as long again as the sending: then half of the next one is made in the first of two phases. To make it
    takes a step for each block of this one's size to cut it, and one more where its proof does not make its rows.
    """
    size = sum(rows.buffer.seek(0, os.SEEK_END) for parts in batch.tables for rows in parts)
    steps = len(batch.piece.blocks) + sum(made is None for made in batch.piece.made)
    return min(COPY_BYTES, max(_LEAST_COPY_BYTES, size * phases // (steps + 1)))


def _run(connection: psycopg.Connection, statements: list[sql.Composed]) -> None:
    for statement in statements:
        connection.execute(statement)
