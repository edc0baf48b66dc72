"""One batch -> COPY, into the facts or through a table beside them, and the publication of an atomic run.

Everything here runs in a transaction that the caller holds, so that it commits together with the ledger.
"""

import psycopg
from psycopg import sql

from etl import queries
from etl.datasets import LINEAGE, Dataset, Table
from etl.errors import InternalError
from etl.ingestion.values import Batch
from etl.settings import Mode

_SQL = queries.load("copying")
_WON = sql.Identifier("pg_temp", "etl_won")


class Copier:
    """How the batches of one run reach their tables: straight, merged, or gathered until they are published."""

    def __init__(self, dataset: Dataset, mode: Mode, *, staged_as: str | None) -> None:
        """`staged_as` names the run whose staging tables gather the rows; None: each batch is visible at once."""
        self._dataset = dataset
        self._mode = mode
        self._staged_as = staged_as

    def prepare(self, connection: psycopg.Connection) -> None:
        """Make the staging tables of an atomic run where they are missing."""
        if self._staged_as is None:
            return
        with connection.transaction():
            connection.execute(_SQL["make_staging_schema"])
            for number, table in enumerate(self._dataset.tables):
                connection.execute(_SQL["make_staging"].format(staging=self._staging(number), table=table.identifier))

    def copy(self, connection: psycopg.Connection, batch: Batch) -> tuple[int, ...]:
        """Send a batch and return how many rows COPY counted for each table.

        Raises psycopg.Error as the server refuses it, InternalError when COPY counted other rows than were sent.
        """
        connection.execute(_SQL["defer_flush"])
        merges = self._mode == "merge" and self._staged_as is None
        if merges:
            self._make_temporary(connection)
        counted = tuple(self._send(connection, batch, number, merges=merges) for number in range(len(batch.rows)))
        if merges:
            self._merge(connection)
        return counted

    def publish(self, connection: psycopg.Connection) -> None:
        """Make the rows of an atomic run visible, all at once, and let go of its staging tables."""
        dataset = self._dataset
        for number in range(len(dataset.tables)):
            connection.execute(_SQL["analyze_staging"].format(staging=self._staging(number)))
        if self._mode == "merge":
            self._make_temporary(connection)
            self._merge(connection)
        elif self._mode == "replace" and dataset.key:
            self._replace(connection)
        else:
            for number, table in enumerate(dataset.tables):
                if self._mode == "replace":
                    connection.execute(_SQL["delete_all"].format(table=table.identifier))
                connection.execute(
                    _SQL["insert_all"].format(
                        table=table.identifier, columns=_columns(table), source=self._staging(number)
                    )
                )
        self.drop_staging(connection)

    def drop_staging(self, connection: psycopg.Connection) -> None:
        """Drop the staging tables of the run."""
        for number in range(len(self._dataset.tables)):
            connection.execute(_SQL["drop_staging"].format(staging=self._staging(number)))

    def _staging(self, number: int) -> sql.Identifier:
        return sql.Identifier("etl_staging", f"{self._staged_as}_{number}")

    def _target(self, number: int, *, merges: bool) -> sql.Identifier:
        if self._staged_as is not None:
            return self._staging(number)
        return _temporary(number) if merges else self._dataset.tables[number].identifier

    def _send(self, connection: psycopg.Connection, batch: Batch, number: int, *, merges: bool) -> int:
        table = self._dataset.tables[number]
        target = self._target(number, merges=merges)
        statement = _SQL["copy_rows"].format(table=target, columns=_columns(table))
        with connection.cursor() as cursor:
            with cursor.copy(statement) as copy:
                copy.write(batch.buffers[number].getvalue())
            if cursor.rowcount != batch.rows[number]:
                raise InternalError(
                    f"COPY counted {cursor.rowcount} rows of {table.name}, {batch.rows[number]} were sent"
                )
            return cursor.rowcount

    def _make_temporary(self, connection: psycopg.Connection) -> None:
        connection.execute(queries.load("database")["hush_notices"])
        first = self._dataset.tables[0]
        if self._staged_as is None:
            for number, table in enumerate(self._dataset.tables):
                connection.execute(_SQL["make_temporary"].format(temporary=_temporary(number), table=table.identifier))
        if len(self._dataset.tables) > 1:
            connection.execute(_SQL["make_won"].format(won=_WON, table=first.identifier, key=_list(self._dataset.key)))

    def _merge(self, connection: psycopg.Connection) -> None:
        first, *children = self._dataset.tables
        words = self._words(first, 0)
        if not children:
            connection.execute(_SQL["merge_records"].format(**words))
            return
        connection.execute(_SQL["merge_records_returning"].format(**words))
        for number, child in enumerate(children, 1):
            words = self._words(child, number)
            connection.execute(_SQL["delete_children"].format(**words))
            connection.execute(_SQL["insert_children"].format(**words))

    def _replace(self, connection: psycopg.Connection) -> None:
        first, *children = self._dataset.tables
        words = self._words(first, 0)
        connection.execute(_SQL["delete_absent"].format(**words))
        connection.execute(_SQL["replace_records"].format(**words))
        if children:
            self._make_temporary(connection)
            connection.execute(_SQL["keep_newest"].format(**words))
        for number, child in enumerate(children, 1):
            words = self._words(child, number)
            connection.execute(_SQL["delete_losers"].format(**words))
            connection.execute(_SQL["replace_children"].format(**words))

    def _words(self, table: Table, number: int) -> dict[str, sql.Composable]:
        """Return what the merging statements name."""
        dataset = self._dataset
        key = dataset.key
        newest = (
            [sql.SQL("{} desc nulls last, ").format(sql.Identifier(dataset.newest_by))] if dataset.newest_by else []
        )
        return {
            "table": table.identifier,
            "source": self._target(number, merges=self._staged_as is None),
            "won": _WON,
            "columns": _columns(table),
            "columns_of_child": _columns(table, "child"),
            "data": _columns(table, lineage=False),
            "data_of_old": _columns(table, "old", lineage=False),
            "data_of_excluded": _columns(table, "excluded", lineage=False),
            "key": _list(key),
            "key_of_old": _list(key, "old"),
            "newest": sql.Composed(newest),
            "assignments": sql.SQL(", ").join(
                sql.SQL("{name} = excluded.{name}").format(name=sql.Identifier(name))
                for name in (*(column.name for column in table.columns), *LINEAGE)
                if name not in key
            ),
            "is_not_older": self._is_not_older(),
            "same_key": _same_key(key, "child" if number else "old", "won" if number else "new"),
        }

    def _is_not_older(self) -> sql.Composed:
        """Compare two versions of a record: the newer wins (null is oldest), then the later in order of loading."""
        later = sql.SQL("({}) >= ({})").format(_list(LINEAGE, "excluded"), _list(LINEAGE, "old"))
        if self._dataset.newest_by is None:
            return later
        names = {
            "new": sql.Identifier("excluded", self._dataset.newest_by),
            "old": sql.Identifier("old", self._dataset.newest_by),
        }
        return sql.SQL(
            "({new} > {old} or ({old} is null and {new} is not null) or ({new} is not distinct from {old} and {later}))"
        ).format(**names, later=later)


def _temporary(number: int) -> sql.Identifier:
    return sql.Identifier("pg_temp", f"etl_batch_{number}")


def _columns(table: Table, alias: str | None = None, *, lineage: bool = True) -> sql.Composed:
    names = tuple(column.name for column in table.columns)
    return _list(names + (LINEAGE if lineage else ()), alias)


def _list(names: tuple[str, ...], alias: str | None = None) -> sql.Composed:
    return sql.SQL(", ").join(sql.Identifier(alias, name) if alias else sql.Identifier(name) for name in names)


def _same_key(key: tuple[str, ...], left: str, right: str) -> sql.Composed:
    return sql.SQL(" and ").join(
        sql.SQL("{} = {}").format(sql.Identifier(left, name), sql.Identifier(right, name)) for name in key
    )
