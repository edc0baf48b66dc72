"""The publication of a replace: afterwards the facts have the rows of one run, and the rows of its rejected records.

Rows that are equal stay as they are. Everything here runs in the transaction of the caller.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import psycopg
import structlog
from psycopg import sql

from etl import queries
from etl.database.tables import skipping_tables
from etl.datasets import Dataset, Table, listed, same_key
from etl.ingestion.destination import effects, merging
from etl.ingestion.destination.merging import WON, Placeholders, Statement
from etl.ingestion.destination.publication import Published
from etl.ingestion.destination.refused_keys import RefusedKeys
from etl.ingestion.destination.sending import Exchange, Waiting

log = structlog.get_logger(__name__)

_SQL = queries.load("replacing")
_TABLES = queries.load("tables")


class _Part(NamedTuple):
    """A table of the dataset with its number and the placeholders of its statements."""

    number: int
    table: Table
    names: Placeholders


class Replacement:
    """Publishes the rows of one run in the place of all others; `refused` are None for a dataset without a key."""

    def __init__(self, dataset: Dataset, refused: RefusedKeys | None) -> None:
        self._dataset = dataset
        self._refused = refused

    def publish(self, exchange: Exchange, sources: merging.Sources) -> Waiting[Published]:
        """Delete absent rows, insert new rows and update rows that differ; return what was deleted and kept.

        Raises psycopg.Error as the server refuses it, UsageError when a trigger skips rows.
        """
        skipping = skipping_tables(exchange.connection, self._dataset)
        before = tuple(count_rows(exchange.connection, table) for table in self._dataset.tables)
        if self._refused is None:
            return (yield from self._publish_all(exchange, sources, skipping, before))
        return (yield from self._publish_by_key(exchange, sources, skipping, before, self._refused))

    def _publish_all(
        self, exchange: Exchange, sources: merging.Sources, skipping: frozenset[int], before: tuple[int, ...]
    ) -> Waiting[Published]:
        """Delete all rows and insert those of the run; as many as it has fewer count as deleted."""
        facts = [table.identifier for table in self._dataset.tables]
        for number, fact in reversed(list(enumerate(facts))):
            left = merging.count_all(fact)
            statement = Statement(text=_TABLES["delete_all"].format(table=fact), table=number, left=left)
            yield from self._carry_out(exchange, statement, skipping)
        deleted = list(before)
        for statement in merging.append(self._dataset, facts, sources):
            written = yield from self._carry_out(exchange, statement, skipping)
            deleted[statement.table] = max(0, before[statement.table] - written)
        return Published(rows_before=before, rows_deleted=tuple(deleted), rows_kept=tuple(0 for _ in before))

    def _publish_by_key(
        self,
        exchange: Exchange,
        sources: merging.Sources,
        skipping: frozenset[int],
        before: tuple[int, ...],
        refused: RefusedKeys,
    ) -> Waiting[Published]:
        """Replace the records key by key. Child rows are deleted before their records and inserted after them."""
        connection = exchange.connection
        refused.analyze(connection)
        parts = list(self._parts(connection, sources, refused))
        records, children = [part for part in parts if not part.table.each], [part for part in parts if part.table.each]
        deleted, kept = [0 for _ in parts], [0 for _ in parts]
        if children:
            yield from exchange.run(_SQL["keep_newest"].format(**records[0].names))
        for part in children:
            yield from exchange.run(_SQL["delete_losers"].format(**part.names))
            yield from exchange.run(_SQL["make_changed"].format(**part.names))
            deleted[part.number] = effects.count(connection, _SQL["count_gone"].format(**part.names))
            yield from self._carry_out(exchange, _delete_changed(part), skipping)
        for part in records:
            delete = Statement(text=_SQL["delete_absent"].format(**part.names), table=part.number)
            deleted[part.number] = yield from self._carry_out(exchange, delete, skipping)
            kept[part.number] = self._kept(connection, part, refused, may_skip=part.number in skipping)
        for part in records:
            text = _SQL["replace_records"].format(**part.names)
            write = Statement(text=text, table=part.number, expected=merging.count_writes(part.names))
            yield from self._carry_out(exchange, write, skipping)
        for part in children:
            yield from self._carry_out(exchange, _insert_changed(part), skipping)
            # Another dataset of the source may become visible by the same transaction.
            connection.execute(_TABLES["drop"].format(table=part.names["changed"]))
        return Published(rows_before=before, rows_deleted=tuple(deleted), rows_kept=tuple(kept))

    def _carry_out(self, exchange: Exchange, statement: Statement, skipping: frozenset[int]) -> Waiting[int]:
        """Run a statement and return the number of rows that the server wrote."""
        written = (yield from exchange.run(statement.text)).command_tuples or 0
        if statement.table in skipping:
            effects.require_whole(exchange.connection, self._dataset, statement, written)
        return written

    def _kept(self, connection: psycopg.Connection, part: _Part, refused: RefusedKeys, *, may_skip: bool) -> int:
        """Count the absent rows that stay because they may belong to rejected records.

        Raises UsageError when other absent rows are left, because a trigger skips their deletion.
        """
        state = refused.state(connection, part.number)
        if not state.has_keys and not may_skip:
            return 0
        absent, undeleted = connection.execute(_SQL["count_absent"].format(**part.names)).fetchone() or (0, 0)
        if undeleted:
            raise effects.skipped(connection, part.table.name, f"the deletion of {undeleted:,}")
        if absent and state.has_unreadable:
            log.warning(
                "absent_rows_kept",
                table=part.table.name,
                rows=absent,
                reason="the keys of some rejected records cannot be read, so any absent row may be theirs",
            )
        return int(absent)

    def _parts(
        self, connection: psycopg.Connection, sources: Sequence[sql.Composable], refused: RefusedKeys
    ) -> Iterator[_Part]:
        """Yield each table with the placeholders of its statements.

        A row may be deleted when no rejected record can have its key. A rejected record may be corrected and replayed:
        to be beaten by it only if it came earlier, an equal row gets the lineage of this run.
        """
        for number, (table, source) in enumerate(zip(self._dataset.tables, sources, strict=True)):
            # The child tables of a dataset belong to its only table of records.
            of_records = 0 if table.each else number
            keys, state = refused.identifiers[of_records], refused.state(connection, of_records)
            names = merging.placeholders(self._dataset, table, source, WON, child=bool(table.each))
            names |= {
                "changed": sql.Identifier("pg_temp", f"etl_changed_{number}"),
                "is_key_of_new": same_key(self._dataset.key, "old", "new"),
                "is_key_of_refused": same_key(self._dataset.key, "old", "refused"),
                "key_of_excluded": listed(self._dataset.key, "excluded"),
                "refused": keys,
            }
            if state.has_unreadable:
                is_refused: sql.Composable = sql.SQL("true")
                is_deletable: sql.Composable = sql.SQL("false")
            elif state.has_keys:
                is_refused = _SQL["is_refused"].format(**names)
                is_deletable = _SQL["is_deletable"].format(**names)
            else:
                is_refused, is_deletable = sql.SQL("false"), sql.SQL("true")
            names |= {"is_refused": is_refused, "is_deletable": is_deletable}
            yield _Part(number=number, table=table, names=names | {"condition": _SQL["is_written"].format(**names)})


def count_rows(connection: psycopg.Connection, table: Table) -> int:
    """Return how many rows a table of a dataset has."""
    return effects.count(connection, merging.count_all(table.identifier))


def _delete_changed(part: _Part) -> Statement:
    changed = part.names["changed"]
    return merging.delete_children(part.number, part.names | {"won": changed, "winners": changed})


def _insert_changed(part: _Part) -> Statement:
    of_source = {"table": part.names["source"], "won": part.names["changed"]}
    return Statement(
        text=_SQL["insert_changed"].format(**part.names),
        table=part.number,
        expected=merging.count_children(part.names | of_source),
    )
