"""Each type of the table has its conversion and its token check, and both come to the same."""

import json
from collections.abc import Iterator
from decimal import Decimal
from typing import get_args

import psycopg
import pytest
from psycopg import sql

from etl.database.connecting import Database, connect
from etl.datasets import TYPES, Column, Type, sql_type
from etl.ingestion.transform.acceptance import acceptor, group_of
from etl.ingestion.transform.rules import Token
from etl.ingestion.transform.tokens import SEPARATOR
from etl.ingestion.transform.types import converter, rules_of
from etl.ingestion.values import Misfit
from tests.support.faults import Connection

_COPY_TEXT = "copy stored from stdin"
_COPY_FIELDS = "copy stored from stdin (format csv, null 'null', escape '\\')"

NAMES: tuple[Type, ...] = get_args(Type)

# Values of every kind: each type must decide about each of them, by both paths alike.
TOKENS = list(
    dict.fromkeys(
        [example for entry in TYPES.values() for example in entry.examples]
        + ["true", "false", "0", "-0", "-1.50", "1e2", "{}", "[]", "[[1]]", '"0"', '" 1 "', '"a"', '"now"', '"NaN"']
    )
)


@pytest.fixture
def connection(postgresql: Connection) -> Iterator[Connection]:
    """Give a connection with the session settings of the loader."""
    with connect(Database(conninfo=postgresql.info.dsn)) as connection:
        yield connection


def _text(column: Column, token: str) -> str | None:
    """Return what the checked path sends for a value, or None where it is a misfit."""
    try:
        return converter(column)(json.loads(token, parse_float=Decimal))
    except Misfit:
        return None


def _field(column: Column, token: str) -> Token | None:
    """Return what the fast path sends for a token, or None where it leaves the record to the checked path."""
    suspects: set[int] = set()
    [field] = acceptor(column)([token.encode()], suspects)
    return None if suspects else field


@pytest.mark.parametrize("name", NAMES)
def test_each_type_converts_some_of_its_examples_and_refuses_others(name: Type) -> None:
    """The examples of the table show both: what fits, and what is a misfit."""
    texts = [_text(Column(type=name), example) for example in TYPES[name].examples]
    assert None in texts
    assert set(texts) != {None}


@pytest.mark.parametrize("name", NAMES)
def test_both_paths_send_the_same_value(connection: Connection, name: Type) -> None:
    """What the fast path accepts, PostgreSQL stores as the value of the checked path, or refuses like it."""
    column = Column(name="value", path="value", type=name)
    connection.execute(sql.SQL("create temporary table stored (value {})").format(sql_type(name)))
    accepted = []
    for token in TOKENS:
        field = _field(column, token)
        if field is not None:
            copied = _copied(connection, bytes(field) + b"\n", _COPY_FIELDS)
            text = _text(column, token)
            expected = None if text is None else _copied(connection, f"{text}\n".encode(), _COPY_TEXT)
            assert (token, copied) == (token, expected)
            accepted.append(token)
    assert set(accepted) & set(TYPES[name].examples)


def _copied(connection: Connection, line: bytes, statement: str) -> str | None:
    """Return what PostgreSQL stores of a line, or None where it refuses it."""
    try:
        with connection.transaction(force_rollback=True):
            with connection.cursor() as cursor, cursor.copy(statement.encode()) as copy:
                copy.write(line)
            row = connection.execute("select value::text from stored").fetchone()
            assert row is not None
            return str(row[0])
    except psycopg.DataError:
        return None


@pytest.mark.parametrize("name", NAMES)
def test_a_group_accepts_what_a_column_alone_accepts(name: Type) -> None:
    """Where a group and the column alone both accept a token, they send the same field."""
    column = Column(name="value", path="value", type=name)
    group = group_of(column, is_guarded=True)
    if group is None:
        return
    for token in TOKENS:
        rows = [SEPARATOR.join([token.encode(), b"null"]), SEPARATOR.join([b"null", token.encode()])]
        together = group.accept(rows)
        alone = _field(column, token)
        if together is not None and alone is not None:
            assert [bytes(row) for row in together] == [
                SEPARATOR.join([bytes(alone), b"null"]),
                SEPARATOR.join([b"null", bytes(alone)]),
            ]
    good = [token.encode() for token in TOKENS if _field(column, token) is not None]
    assert any(group.accept([token]) is not None for token in good)


@pytest.mark.parametrize("name", NAMES)
def test_a_whole_column_is_converted_like_each_of_its_values(name: Type) -> None:
    """The conversion of many values at once gives the texts of the single ones, or leaves them to it."""
    rules = rules_of(Column(type=name))
    for token in TOKENS:
        values = [json.loads(token, parse_float=Decimal)] * 3
        text = _text(Column(type=name), token)
        try:
            texts = rules.convert_all(values, set(map(type, values)))
        except Misfit:
            texts = None
        assert texts is None or list(texts) == [text] * 3
