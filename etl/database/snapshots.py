"""One snapshot for several statements, taken only when the tables that they read are locked.

A snapshot that is older than an ALTER TABLE which rewrites a table, or than a TRUNCATE, sees this table empty. So the
locks come first: BEGIN, SET and LOCK TABLE take no snapshot.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import TypeVar

import psycopg
from psycopg import sql

from etl import queries

# A table that nobody named is rewritten once in a while, not at each try.
_TRIES = 3

_SQL = queries.load("database")

Result = TypeVar("Result")


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
        connection.execute(_SQL["see_one_snapshot"])
        connection.execute(_SQL["lock_against_ddl"].format(tables=sql.SQL(", ").join(identifiers)))
        yield


def in_one_snapshot(
    connection: psycopg.Connection,
    tables: Iterable[str],
    work: Callable[[], Result],
    *,
    force_rollback: bool = False,
) -> Result:
    """Return the result of `work`, whose statements are those of `one_snapshot` of these tables.

    A function or a view may read further tables. When one of them was rewritten after the snapshot, all is rolled back
    and `work` is called again.

    Raises psycopg.errors.SerializationFailure when this happens each time.
    """
    names = tuple(tables)

    def tried() -> Result:
        with one_snapshot(connection, names, force_rollback=force_rollback):
            result = work()
            if anew := [name for (name,) in connection.execute(_SQL["made_anew"])]:
                raise _MadeAnewError(f"made or rewritten after the snapshot: {', '.join(anew)}")
            return result

    for _ in range(_TRIES - 1):
        with suppress(_MadeAnewError):
            return tried()
    return tried()
