"""The first record of an atomic run that the server refuses when the run becomes visible. Keeps nothing.

The rows are written batch by batch as the publication would write them, in a transaction that is rolled back; the
refused batch is halved until one record is left.
"""

from collections.abc import Sequence

import psycopg
from psycopg import sql

from etl import queries
from etl.database.sqlstates import meaning
from etl.datasets import Dataset
from etl.ingestion.destination import merging
from etl.ingestion.destination.write_modes import TemporaryTables, WriteMode, staging_tables, write_mode_of
from etl.quick_dataclasses import dataclass
from etl.settings import Mode

_SQL = queries.load("searching")
_TABLES = queries.load("tables")


@dataclass(frozen=True, kw_only=True)
class RefusedRecord:
    """A record by its batch and its place in it, and the error of the server for it."""

    batch: int
    place: int
    error: psycopg.Error


def first_refused(connection: psycopg.Connection, dataset: Dataset, mode: Mode, run: str) -> RefusedRecord | None:
    """Return the first record in the staging tables of a run that the server refuses, None when each one loads alone.

    `connection` is outside a transaction. Raises psycopg.Error for an error that is not one of the data.
    """
    staging = staging_tables(dataset, run)
    with connection.transaction(force_rollback=True):
        if dataset.key:
            TemporaryTables(dataset).make(connection)
        for statement in _clear(dataset, staging) if mode == "replace" else ():
            connection.execute(statement)
        for number, table in enumerate(staging):
            connection.execute(_SQL["index"].format(table=table, name=sql.Identifier(f"etl_search_{number}")))
        # What a replace leaves is then written as a merge or an append would write it.
        written_as = ("merge" if dataset.key else "append") if mode == "replace" else mode
        write_mode = write_mode_of(dataset, written_as, staged_as=None)
        batches = connection.execute(_SQL["batches"], {"run": run}).fetchall()
        for batch, records in batches:
            refused = _search(connection, write_mode, staging, batch, (1, records))
            if refused is not None:
                return refused
    return None


def _clear(dataset: Dataset, staging: Sequence[sql.Identifier]) -> list[sql.Composed]:
    """Return the statements that delete what the staging tables do not hold."""
    if not dataset.key:
        return [_TABLES["delete_all"].format(table=table.identifier) for table in reversed(dataset.tables)]
    return [
        _SQL["delete_absent"].format(**merging.placeholders(dataset, table, rows, merging.WON))
        for table, rows in zip(dataset.tables, staging, strict=True)
        if not table.each
    ]


def _search(
    connection: psycopg.Connection,
    write_mode: WriteMode,
    staging: Sequence[sql.Identifier],
    batch: int,
    places: tuple[int, int],
) -> RefusedRecord | None:
    """Write the records of these places; return the first that is refused."""
    lowest, highest = places
    error = _write(connection, write_mode, staging, batch, places)
    if error is None:
        return None
    if lowest == highest:
        return RefusedRecord(batch=batch, place=lowest, error=error)
    middle = (lowest + highest) // 2
    halves = ((lowest, middle), (middle + 1, highest))
    found = (_search(connection, write_mode, staging, batch, half) for half in halves)
    return next((refused for refused in found if refused is not None), None)


def _write(
    connection: psycopg.Connection,
    write_mode: WriteMode,
    staging: Sequence[sql.Identifier],
    batch: int,
    places: tuple[int, int],
) -> psycopg.Error | None:
    limits = {"batch": sql.Literal(batch), "lowest": sql.Literal(places[0]), "highest": sql.Literal(places[1])}
    sources = [_SQL["range"].format(table=table, **limits) for table in staging]
    try:
        with connection.transaction():
            for statement in write_mode.statements(sources, _SQL["range"].format(table=merging.WON, **limits)):
                connection.execute(statement.text)
            connection.execute(_SQL["check_deferred"])
            connection.execute(_SQL["defer_again"])
    except psycopg.Error as error:
        if meaning(error) != "data":
            raise
        return error
    return None
