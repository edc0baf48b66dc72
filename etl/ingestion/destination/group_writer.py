"""Batches of several runs -> the tables of their dataset, by one COPY for each table.

Everything here runs in a transaction that the caller holds. The rows are the same as when the batches come one after
the other, because each row has the number of its run, and a later run has a larger number.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from itertools import chain
from typing import NamedTuple

import psycopg
from psycopg import sql

from etl.datasets import Dataset
from etl.ingestion.destination import merging
from etl.ingestion.destination.copying import comes_late
from etl.ingestion.destination.sending import Exchange, wait_for
from etl.ingestion.destination.write_modes import TemporaryTables, Updates, facts_of, run_statements
from etl.ingestion.values import Batch, Rows
from etl.settings import Mode


class OlderVersionsError(Exception):
    """The batches write over older versions, which another try counts."""


class LateRunsError(Exception):
    """A load of the same table by another dataset may have seen records after those of these batches (decision 20)."""


class Written(NamedTuple):
    """The counts of one batch: the older versions that its records wrote over, and the records whose key came again.

    `replaced` is None where the mode writes over none.
    """

    replaced: int | None
    duplicates: int = 0


class GroupWriter:
    """Writes the batches of several runs of one dataset, by append or merge."""

    def __init__(self, dataset: Dataset, mode: Mode) -> None:
        self._dataset = dataset
        self._mode = mode
        self._temporary = TemporaryTables(dataset)
        # Most folders have only new records. Once a group has written over older versions, all groups count them.
        self._counts_replaced = False

    def write(self, exchange: Exchange, batches: Sequence[Batch], numbers: Sequence[int]) -> list[Written]:
        """Write batches, and return the counts of each.

        `numbers` are those of their runs. Raises psycopg.Error as the server refuses them, UsageError or InternalError
        when rows were skipped, OlderVersionsError when another try has to count the older versions first, LateRunsError
        when the batches have to be loaded one by one.
        """
        if self._dataset.has_digests and comes_late(exchange.connection, self._dataset, min(numbers), 0):
            raise LateRunsError
        if self._mode == "append":
            self._send(exchange, batches, facts_of(self._dataset))
            return [Written(None) for _ in batches]
        connection = exchange.connection
        self._temporary.make(connection)
        sent = self._send(exchange, batches, self._temporary.identifiers)
        duplicates = self._sums(connection, merging.count_duplicates)
        replaced = self._sums(connection, merging.count_replaced) if self._counts_replaced else {}
        updates = Updates.begin(connection, self._dataset)
        statements = merging.merge(self._dataset, self._temporary.identifiers, merging.WON, is_batch=True)
        written = wait_for(run_statements(exchange, self._dataset, statements))
        rows = updates.rows
        meets_older = bool(rows) or any(written[number] < sent[number] for number in written)
        if meets_older and rows is not None and not self._counts_replaced:
            self._counts_replaced = True
            raise OlderVersionsError
        if any(written[number] < sent[number] for number in written):
            statements = merging.keep_firsts(self._dataset, self._temporary.identifiers)
            wait_for(run_statements(exchange, self._dataset, statements))
        return [
            Written(None if rows is None else replaced.get(number, 0), duplicates.get(number, 0)) for number in numbers
        ]

    def _send(self, exchange: Exchange, batches: Sequence[Batch], targets: Sequence[sql.Identifier]) -> list[int]:
        """Send the rows of all batches, and return how many the server counted for each table."""
        counts = []
        for number, (table, target) in enumerate(zip(self._dataset.tables, targets, strict=True)):
            parts = _combined([rows for batch in batches for rows in batch.tables[number]])
            counts.append(wait_for(exchange.send(parts, target, merging.columns(table))))
        return counts

    def _sums(
        self, connection: psycopg.Connection, query: Callable[[Dataset, int, sql.Composable], sql.Composed]
    ) -> dict[int, int]:
        """Return the counts of a query by run, added up over the tables of records."""
        found = Counter[int]()
        for number, (table, rows) in enumerate(zip(self._dataset.tables, self._temporary.identifiers, strict=True)):
            if not table.each:
                found.update(dict(connection.execute(query(self._dataset, number, rows)).fetchall()))
        return found


def _combined(rows: Sequence[Rows]) -> list[Rows]:
    """Return rows joined by their format and the order of their columns."""
    alike: dict[tuple[str, tuple[str, ...] | None], list[Rows]] = {}
    for each in rows:
        if each.count:
            alike.setdefault((each.format, each.columns), []).append(each)
    return [
        Rows(
            format=parts[0].format,
            buffers=tuple(chain.from_iterable(each.buffers for each in parts)),
            count=sum(each.count for each in parts),
            columns=parts[0].columns,
        )
        for parts in alike.values()
    ]
