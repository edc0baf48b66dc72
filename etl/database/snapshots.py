"""One snapshot for several statements, taken only when the tables that they read are locked.

A snapshot that is older than an ALTER TABLE which rewrites a table, or than a TRUNCATE, sees this table empty. So the
locks come first: BEGIN, SET and LOCK TABLE take no snapshot.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import psycopg
from psycopg import sql

from etl import queries

# A table that nobody named is rewritten once in a while, not at each try.
_TRIES = 3

_SQL = queries.load("database")


class _MadeAnewError(psycopg.errors.SerializationFailure):
    """A table was made or rewritten after the snapshot of the transaction that read it."""


@contextmanager
def one_snapshot(
    connection: psycopg.Connection, tables: Iterable[str], *, force_rollback: bool = False
) -> Iterator[None]:
    """Let all statements of a transaction see the database as it is when these tables are locked against DDL.

    `tables` are tables and views; the partitions of a table and the tables of a view are locked, too. Readers and
    writers of rows do not wait.
    """
    identifiers = [sql.Identifier(*name.split(".", 1)) for name in sorted(set(tables))]
    with connection.transaction(force_rollback=force_rollback):
        locked = _SQL["lock_against_ddl"].format(tables=sql.SQL(", ").join(identifiers))
        connection.execute(queries.together(_SQL["see_one_snapshot"], locked))
        yield


class Snapshots:
    """Snapshots for the same work, one after the other, until no table was rewritten beside it.

    A function or a view may read further tables than those that were locked. When one of them was rewritten after the
    snapshot, the transaction is rolled back, and the caller does the work again: until `is_whole`.
    """

    def __init__(self, connection: psycopg.Connection, tables: Iterable[str], *, force_rollback: bool = False) -> None:
        self._connection = connection
        self._tables = tuple(tables)
        self._force_rollback = force_rollback
        self._tries_left = _TRIES
        self.is_whole = False

    @contextmanager
    def next(self) -> Iterator[None]:
        """Let the work see one snapshot.

        Raises psycopg.errors.SerializationFailure when a table was rewritten each time.
        """
        self._tries_left -= 1
        try:
            with one_snapshot(self._connection, self._tables, force_rollback=self._force_rollback):
                yield
                if anew := [name for (name,) in self._connection.execute(_SQL["made_anew"])]:
                    raise _MadeAnewError(f"made or rewritten after the snapshot: {', '.join(anew)}")
            self.is_whole = True
        except _MadeAnewError:
            if not self._tries_left:
                raise
