"""Rows and statements over a real connection, while other work is done."""

from collections.abc import Callable
from io import BytesIO, StringIO

import psycopg
import pytest
from psycopg import sql

from etl.ingestion.constants import COPY_BYTES
from etl.ingestion.destination.sending import Exchange, wait_for
from etl.ingestion.pipeline.ahead import interleave
from etl.ingestion.values import Rows
from tests.support.faults import Connection

NUMBERS = sql.Identifier("numbers")
COLUMN = sql.Identifier("n")


@pytest.fixture
def table(postgresql: Connection) -> Connection:
    """Return a connection to a database with a table of numbers, none of them twice or negative."""
    postgresql.autocommit = True
    postgresql.execute("create table numbers (n bigint unique check (n >= 0))")
    return postgresql


@pytest.fixture
def connect(postgresql: Connection) -> Callable[[], Connection]:
    """Return what opens another connection to the same database."""
    return lambda: psycopg.connect(postgresql.info.dsn)


def _rows(*numbers: int) -> list[Rows]:
    lines = BytesIO(b"".join(b"%d\n" % number for number in numbers))
    return [Rows(format="csv", buffers=(lines,), count=len(numbers))]


def _calls(most: int, then: Callable[[], object]) -> tuple[list[int], Callable[[], bool]]:
    """Return the calls that were made of a piece of other work, and that work: `then` comes after so many."""
    made: list[int] = []

    def work() -> bool:
        made.append(len(made))
        if len(made) == most:
            then()
        return len(made) < most

    return made, work


def test_rows_of_all_buffers_are_sent_in_order(table: Connection) -> None:
    """Buffers of text and of bytes, some larger than what is handed over at once, and empty ones: each row once."""
    first = range(10**12, 10**12 + COPY_BYTES // 5)
    parts = [
        Rows(
            format="csv",
            buffers=(BytesIO(b"".join(b"%d\n" % number for number in first)), BytesIO(), BytesIO(b"1\n2\n")),
            count=len(first) + 2,
        ),
        Rows(format="text", buffers=(StringIO("3\n"), StringIO("\\N\n")), count=2),
        Rows(format="text", buffers=(StringIO(),), count=0),
    ]
    assert wait_for(Exchange(table).send(parts, NUMBERS, COLUMN)) == len(first) + 4
    [(count, total)] = table.execute("select count(n), sum(n) from numbers").fetchall()
    assert (count, total) == (len(first) + 3, sum(first) + 6)


def test_other_work_continues_while_the_server_waits(table: Connection, connect: Callable[[], Connection]) -> None:
    """Another transaction holds the key: what is to be done meanwhile is done, and the rows go in when it is gone."""
    with connect() as other:
        other.execute("insert into numbers values (5)")
        made, work = _calls(50, other.rollback)
        assert interleave(Exchange(table).send(_rows(4, 5, 6), NUMBERS, COLUMN), work) == 3
    assert len(made) >= 50


@pytest.mark.parametrize("size", [3, COPY_BYTES])
def test_an_interruption_leaves_a_connection_that_continues(
    table: Connection, connect: Callable[[], Connection], size: int
) -> None:
    """A COPY that waits for a lock is cancelled, whether all was sent or not, and none of its rows is loaded."""

    def interrupt() -> None:
        raise KeyboardInterrupt

    with connect() as other:
        other.execute("insert into numbers values (5)")
        _, work = _calls(50, interrupt)
        with pytest.raises(KeyboardInterrupt), table.transaction():
            interleave(Exchange(table).send(_rows(*range(5, 5 + size)), NUMBERS, COLUMN), work)
        assert table.info.transaction_status == psycopg.pq.TransactionStatus.IDLE
        assert table.execute("select count(*) from numbers").fetchone() == (0,)


def test_an_interruption_ends_a_statement_too(table: Connection) -> None:
    """What the server runs is cancelled: nobody waits for its end."""

    def interrupt() -> None:
        raise KeyboardInterrupt

    _, work = _calls(50, interrupt)
    with pytest.raises(KeyboardInterrupt), table.transaction():
        interleave(Exchange(table).run(sql.SQL("select pg_sleep(600)").format()), work)
    assert table.execute("select 1").fetchone() == (1,)


def test_an_interruption_before_the_statement_begins_ends_it_too(
    table: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that is slow to begin a statement ignores the first request to cancel it: a further request follows."""
    requests: list[int] = []
    cancel = table.cancel_safe

    def cancel_late(*, timeout: float) -> None:
        requests.append(len(requests))
        if len(requests) > 1:
            cancel(timeout=timeout)

    def interrupt() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(table, "cancel_safe", cancel_late)
    _, work = _calls(50, interrupt)
    with pytest.raises(KeyboardInterrupt), table.transaction():
        interleave(Exchange(table).run(sql.SQL("select pg_sleep(600)").format()), work)
    assert len(requests) >= 2
    assert table.execute("select 1").fetchone() == (1,)


def test_what_the_server_refuses_is_reported_with_its_state(table: Connection) -> None:
    """The error is the one of the server, and the transaction can be rolled back."""
    with pytest.raises(psycopg.errors.CheckViolation), table.transaction():
        wait_for(Exchange(table).send(_rows(*range(COPY_BYTES), -1), NUMBERS, COLUMN))
    with pytest.raises(psycopg.errors.UndefinedTable), table.transaction():
        wait_for(Exchange(table).send(_rows(1), sql.Identifier("none"), COLUMN))
    assert wait_for(Exchange(table).send(_rows(1), NUMBERS, COLUMN)) == 1


def test_a_connection_that_is_lost_is_reported(table: Connection, connect: Callable[[], Connection]) -> None:
    """The backend is terminated while rows are sent: an OperationalError, and no endless wait."""
    with connect() as other:
        other.execute("insert into numbers values (5)")
        pid = table.info.backend_pid

        def end() -> None:
            with connect() as third:
                third.execute("select pg_terminate_backend(%s)", [pid])

        _, work = _calls(50, end)
        with pytest.raises(psycopg.OperationalError):
            interleave(Exchange(table).send(_rows(*range(5, 5 + COPY_BYTES)), NUMBERS, COLUMN), work)
    assert table.closed
