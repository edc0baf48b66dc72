"""Rows -> one COPY, in the transaction that the caller holds."""

import select
from collections.abc import Callable, Iterable

import psycopg
from psycopg import sql

from etl import queries
from etl.errors import InternalError
from etl.ingestion.constants import COPY_BYTES
from etl.ingestion.values import Rows

_SQL = queries.load("sending")


Meanwhile = Callable[[], bool]
"""Does a part of other work; False when there is none."""


def do_nothing() -> bool:
    """Do nothing while the server works."""
    return False


def run(connection: psycopg.Connection, statement: sql.Composed, meanwhile: Meanwhile) -> None:
    """Run a statement that returns no rows; `meanwhile` is called until the server is done with it.

    Raises psycopg.Error as the server refuses it.
    """
    server = connection.pgconn
    server.send_query(statement.as_bytes(connection))
    answers, room = select.poll(), select.poll()
    answers.register(server.socket, select.POLLIN)
    room.register(server.socket, select.POLLIN | select.POLLOUT)
    while server.flush():
        room.poll()
        server.consume_input()
    while server.is_busy():
        if answers.poll(0) or not meanwhile():
            answers.poll()
            server.consume_input()
    refused = None
    while (result := server.get_result()) is not None:
        if result.status == psycopg.pq.ExecStatus.FATAL_ERROR:
            refused = psycopg.errors.error_from_result(result)
    if server.status == psycopg.pq.ConnStatus.BAD:
        raise psycopg.OperationalError("the connection was lost") from refused
    if refused is not None:
        raise refused


def send(
    connection: psycopg.Connection,
    parts: Iterable[Rows],
    target: sql.Identifier,
    columns: sql.Composable,
    meanwhile: Meanwhile = do_nothing,
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
