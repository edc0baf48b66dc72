"""Unchanged records: loaded already in the same version, so that a merge leaves their rows as they are.

A row keeps the place of the record that wrote it, and the ledger has the later places at which its record was seen. Of
a batch that comes late, so that a later record may have been seen already, the records that are older than that are
left out: then the newer version wins as if each record had been written (decision 20). Everything here runs in the
transaction that loads the batch.
"""

from collections.abc import Sequence

import psycopg
from psycopg import sql

from etl import queries
from etl.datasets import LINEAGE, Dataset, listed, same_key
from etl.errors import InternalError
from etl.ingestion.destination import effects, merging
from etl.ingestion.destination.sending import Exchange, Waiting
from etl.ingestion.values import Piece, Rows

_SQL = queries.load("unchanged")
_UNCHANGED = sql.Identifier("pg_temp", "etl_unchanged")
_KEYS = sql.Identifier("pg_temp", "etl_keys")
_SEEN = sql.Identifier("pg_temp", "etl_seen")
_BEATEN = sql.Identifier("pg_temp", "etl_beaten")


class VersionOrder:
    """The order of the versions in the table of a dataset, for the batches of one run.

    `compares`: the run leaves unchanged records as they are, as it has entered in the ledger.
    """

    def __init__(self, dataset: Dataset, run_number: int, *, compares: bool) -> None:
        table = dataset.digested_table
        if table is None:
            raise InternalError(f"the dataset {dataset.name} has no table with digests")
        self._dataset = dataset
        self._table = table
        self._number = dataset.tables.index(table)
        self._run_number = run_number
        self._compares = compares

    def find_seen(self, connection: psycopg.Connection, batch: int, sources: merging.Sources = ()) -> None:
        """Note where records were seen after a late batch: records with the keys of these sources, or all records."""
        names = self._names(sources, batch)
        connection.execute(_SQL["make_seen"].format(**names))
        connection.execute(queries.load("staging")["make_places"].format(places=_BEATEN))
        connection.execute(_SQL["index_beaten"].format(**names))
        names["wanted"] = _SQL["of_keys"].format(**names) if sources else sql.SQL("true")
        connection.execute(_SQL["find_seen"].format(**names))

    def forget_seen(self, connection: psycopg.Connection) -> None:
        """Forget where records were seen, where no version that is still to come can be older."""
        if self._compares:
            values = {"table": self._table.name, "dataset": self._dataset.name}
            connection.execute(_SQL["forget_seen"], values)

    def find_beaten(self, sources: merging.Sources) -> merging.Statement:
        """Return the statement that notes the beaten records of a late batch: a newer one was seen after them."""
        return merging.Statement(text=_SQL["find_beaten"].format(**self._names(sources, 0)), table=self._number)

    def unbeaten_of_late(self, connection: psycopg.Connection, sources: merging.Sources) -> merging.Sources:
        """Return the rows that may be written of these sources, which are all rows of a run that comes late."""
        self.find_seen(connection, 0, sources)
        connection.execute(self.find_beaten(sources).text)
        return self.unbeaten(sources)

    def unbeaten(self, sources: merging.Sources) -> list[sql.Composed]:
        """Return the rows of these sources without those of the beaten records, once they are noted."""
        return [_SQL["without_beaten"].format(source=source, beaten=_BEATEN) for source in sources]

    def find_unchanged(self, exchange: Exchange, sources: merging.Sources, piece: Piece) -> Waiting[int]:
        """Note the unchanged records among the rows of a batch, and return their number."""
        if not self._compares:
            return 0
        return (yield from self._compare(exchange, sources[self._number], piece, self._deletions(sources)))

    def compare_keys(self, exchange: Exchange, piece: Piece, keys: Rows) -> Waiting[frozenset[int]]:
        """Return the places of the unchanged records of a batch; only keys and digests are sent to the server."""
        connection = exchange.connection
        if not self._compares:
            return frozenset()
        names = self._names((), piece.offset)
        connection.execute(_SQL["make_keys"].format(**names))
        yield from exchange.send([keys], _KEYS, sql.SQL(""))
        if not (yield from self._compare(exchange, _KEYS, piece)):
            return frozenset()
        row = connection.execute(_SQL["unchanged_places"].format(**names)).fetchone()
        return frozenset(map(int, row[0].split(","))) if row else frozenset()

    def _compare(
        self, exchange: Exchange, source: sql.Composable, piece: Piece, deletions: sql.Composable | None = None
    ) -> Waiting[int]:
        names = self._names((), piece.offset) | {"source": source, "count": sql.Literal(piece.count)}
        names["is_not_deleted"] = sql.SQL("true")
        if deletions is not None:
            names["is_not_deleted"] = _SQL["is_not_deleted"].format(**names, deletions=deletions)
        exchange.connection.execute(_SQL["make_unchanged"].format(**names))
        count = (yield from exchange.run(_SQL["find_unchanged"].format(**names))).command_tuples or 0
        if count:
            yield from exchange.run(_SQL["note_seen"].format(**names))
        return count

    def changed(self, sources: merging.Sources) -> list[sql.Composed]:
        """Return the rows of these sources without those of the unchanged records."""
        return [_SQL["without_unchanged"].format(source=source, unchanged=_UNCHANGED) for source in sources]

    def _deletions(self, sources: merging.Sources) -> sql.Composable | None:
        """Return the source of the keys that records delete; None: no record deletes."""
        return sources[self._dataset.deletions[0]] if self._dataset.deletions else None

    def _versions(self, sources: merging.Sources) -> sql.Composable:
        """Return the versions of these sources: those of records, and those of deletions."""
        records, deletions = sources[self._number], self._deletions(sources)
        if deletions is None:
            return records
        names = [*self._dataset.key, *([self._dataset.newest_by] if self._dataset.newest_by else []), *LINEAGE]
        return _SQL["versions"].format(versions=listed(names), records=records, deletions=deletions)

    def _names(self, sources: merging.Sources, batch: int) -> dict[str, sql.Composable]:
        key = self._dataset.key
        columns = [name for name in (*key, self._dataset.newest_by) if name is not None]
        names: dict[str, sql.Composable] = {
            "name": sql.Literal(self._table.name),
            "table": self._table.identifier,
            "unchanged": _UNCHANGED,
            "keys": _KEYS,
            "seen": _SEEN,
            "beaten": _BEATEN,
            "run": sql.Literal(self._run_number),
            "batch": sql.Literal(batch),
            "key": listed(merging.key_by_partition(self._dataset, self._table)),
            "columns_of_row": listed(columns, "row"),
            "is_key_of_batch": same_key(key, "old", "batch"),
            "is_key_of_gone": same_key(key, "gone", "batch"),
            "is_key_of_row": same_key(key, "row", "excluded"),
            "is_not_older": merging.is_not_older(self._dataset),
        }
        return names | ({"source": self._versions(sources)} if sources else {})


def count_rows(connection: psycopg.Connection, sources: Sequence[sql.Composable]) -> tuple[int, ...]:
    """Count the rows of sources."""
    return tuple(effects.count(connection, merging.count_all(source)) for source in sources)
