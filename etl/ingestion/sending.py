"""Rows -> one COPY, in the transaction that the caller holds."""

from collections.abc import Callable, Iterable

import psycopg
from psycopg import sql

from etl import queries
from etl.errors import InternalError
from etl.ingestion.constants import COPY_BYTES
from etl.ingestion.values import Rows

_SQL = queries.load("sending")


def do_nothing() -> None:
    """Do nothing while rows are sent."""


def send(
    connection: psycopg.Connection,
    parts: Iterable[Rows],
    target: sql.Identifier,
    columns: sql.Composable,
    meanwhile: Callable[[], None] = do_nothing,
    at_once: int = COPY_BYTES,
) -> int:
    """COPY rows into these columns of a table; return how many the server counted.

    `meanwhile` is called each time `at_once` bytes were handed over: the server works on them while something else is
    done. Raises psycopg.Error as the server refuses them, InternalError when it counted other rows than were sent.
    """
    counted = 0
    with connection.cursor() as cursor:
        for rows in parts:
            if not rows.count:
                continue
            named = columns if rows.columns is None else sql.SQL(", ").join(map(sql.Identifier, rows.columns))
            with cursor.copy(_SQL[f"copy_{rows.format}"].format(table=target, columns=named)) as copy:
                rows.buffer.seek(0)
                while data := rows.buffer.read(at_once):
                    copy.write(data)
                    meanwhile()
            if cursor.rowcount != rows.count:
                raise InternalError(f"COPY counted {cursor.rowcount} rows of a table, {rows.count} were sent")
            counted += rows.count
    return counted
