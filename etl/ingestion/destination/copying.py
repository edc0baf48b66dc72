"""One batch -> COPY, into the facts or through a table beside them, and the publication of an atomic run.

Everything here runs in a transaction that the caller holds, so that it commits together with the ledger.
"""

from collections.abc import Iterable, Mapping, Sequence

import psycopg
from psycopg import sql

from etl import queries
from etl.datasets import Dataset
from etl.ingestion.destination import merging
from etl.ingestion.destination.duplicates import RunKeys, count_kept
from etl.ingestion.destination.sending import Exchange
from etl.ingestion.values import Batch, CopyResult, Fault
from etl.settings import Mode

_SQL = queries.load("copying")

_NOTEWORTHY_SHARE = 0.1
"""What autovacuum waits for, too, before it looks at a table again."""


class Copier:
    """How the batches of one run reach their tables: straight, merged, or gathered until they are published."""

    def __init__(
        self,
        dataset: Dataset,
        mode: Mode,
        *,
        staged_as: str | None,
        is_rehearsal: bool = False,
        keys: RunKeys | None = None,
    ) -> None:
        """`staged_as` names the run whose staging tables gather the rows; None: each batch is visible at once.

        The rows of a rehearsal go into temporary tables and are gone with the batch. `keys` are those that the records
        of a batch are compared with, where the policy asks for duplicates.
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
        self._appends_newest = mode == "append" and not is_rehearsal and dataset.on_duplicate == "newest"
        self._keys = keys
        self._is_gathered = self._merges or keys is not None or (self._appends_newest and not self._is_staged)
        self._are_new: bool | None = None

    def prepare(self, connection: psycopg.Connection) -> None:
        """Make what a run needs where it is missing: its keys, its staging tables, a rehearsal's temporary ones."""
        if self._keys is not None:
            self._keys.prepare(connection)
        if not self._is_staged:
            return
        with connection.transaction():
            connection.execute(queries.load("database")["hush_notices"])
            for staging, fact in zip(self._staging, self._facts, strict=True):
                connection.execute(
                    _SQL["make_rehearsal" if self._is_rehearsal else "make_staging"].format(staging=staging, table=fact)
                )

    def drop_given_up(self, connection: psycopg.Connection) -> None:
        """Let go of the keys of earlier runs of the dataset that never go on, and of what atomic ones gathered."""
        with connection.transaction():
            for (name,) in connection.execute(_SQL["staging_given_up"], {"dataset": self._dataset.name}).fetchall():
                connection.execute(_SQL["drop_staging"].format(staging=sql.Identifier("etl_staging", name)))

    def copy(self, exchange: Exchange, batch: Batch) -> CopyResult:
        """Send a batch and return how many rows COPY counted for each table.

        Raises psycopg.Error as the server refuses it, InternalError when COPY counted other rows than were sent.
        """
        connection = exchange.connection
        self.make_ready(connection)
        targets = self._temporary if self._is_gathered else self._staging if self._is_staged else self._facts
        counted = tuple(
            exchange.send(rows, target, merging.columns(table))
            for table, rows, target in zip(self._dataset.tables, batch.tables, targets, strict=True)
        )
        if not self._is_gathered:
            return CopyResult(rows=counted)
        if self._keys is not None:
            for statement in self._keys.noting(self._temporary):
                exchange.run(statement)
        faults, duplicates = self.settle(connection, self._temporary, {})
        sources = self._keys.staying(self._temporary) if self._keys and duplicates else self._temporary
        if self._merges:
            self._merge(exchange, sources)
        else:
            for statement in self._bringing(sources, merging.WON, are_firsts=self._keys is not None and not duplicates):
                exchange.run(statement)
        if faults:
            counted = tuple(count_kept(connection, temporary, faults) for temporary in self._temporary)
        return CopyResult(rows=counted, faults=faults, duplicates=duplicates)

    def settle(
        self, connection: psycopg.Connection, tables: Sequence[sql.Identifier], faults: Mapping[int, Fault]
    ) -> tuple[Mapping[int, Fault], int]:
        """Judge the duplicates among the rows of a batch that was isolated."""
        return (faults, 0) if self._keys is None else self._keys.settle(connection, tables, faults)

    def _merge(self, exchange: Exchange, sources: merging.Sources) -> None:
        """Merge the rows of a batch; into a table that was empty as if all keys were new, as long as they are."""
        if self._are_new is None:
            self._are_new = _is_empty(exchange.connection, self._facts)
        if self._are_new:
            try:
                with exchange.connection.transaction():
                    for statement in merging.merge(self._dataset, sources, merging.WON, against="none"):
                        exchange.run(statement)
            except psycopg.errors.UniqueViolation:
                self._are_new = False
            else:
                return
        for statement in merging.merge(self._dataset, sources, merging.WON):
            exchange.run(statement)

    def make_ready(self, connection: psycopg.Connection) -> None:
        """Make what a batch needs in its transaction: the temporary tables of a merge, once per connection."""
        is_in_order = self._keys is not None and self._keys.are_in_order
        connection.execute(_SQL["await_flush" if is_in_order else "defer_flush"])
        if self._is_gathered:
            self._make_temporary(connection)
        if self._keys is not None:
            self._keys.make_ready(connection)

    def applying(self, sources: merging.Sources, won: sql.Composable) -> list[sql.Composed]:
        """Return the statements that bring rows from other sources to where the batches of this run go."""
        if self._keys is None:
            return self._bringing(sources, won)
        return [*self._keys.noting(sources), *self._bringing(self._keys.staying(sources), won)]

    def _bringing(
        self, sources: merging.Sources, won: sql.Composable, *, are_firsts: bool = False
    ) -> list[sql.Composed]:
        if self._merges:
            return merging.merge(self._dataset, sources, won)
        if self._appends_newest and not self._is_staged and not are_firsts:
            return merging.append_newest(self._dataset, sources, won)
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
        elif self._appends_newest:
            _run(connection, merging.append_newest(self._dataset, self._staging, merging.WON))
        else:
            _run(connection, merging.append(self._dataset, self._facts, self._staging))
        for staging in self._staging:
            connection.execute(_SQL["drop_staging"].format(staging=staging))
        # Another dataset of the source may become visible by the same transaction.
        for temporary in (*self._temporary, merging.WON):
            connection.execute(_SQL["drop_temporary"].format(temporary=temporary))

    def forget_keys(self, connection: psycopg.Connection) -> None:
        """Let go of the keys of a run that is finished."""
        if self._keys is not None:
            self._keys.drop(connection)

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


def _run(connection: psycopg.Connection, statements: list[sql.Composed]) -> None:
    for statement in statements:
        connection.execute(statement)
