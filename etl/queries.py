"""Named SQL: each statement of `sql/queries/NAME.sql` under its own name.

A file is a sequence of `-- name: snake_name`, one line `-- what it does`, and the statement. Values are
`%(name)s`; identifiers that vary are `{name}` placeholders, filled by the caller with `psycopg.sql.Identifier`.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any, TypeVar

import psycopg
from psycopg import sql
from psycopg.rows import class_row, dict_row

from etl.errors import InternalError
from etl.settings import shipped

Row = TypeVar("Row")
Values = Mapping[str, Any] | Sequence[Any] | None


@dataclass(frozen=True, kw_only=True)
class Conditions:
    """A condition on the columns of a list, with its values by name. Without one every row matches."""

    text: sql.Composable = field(default_factory=lambda: sql.SQL("true"))
    values: Mapping[str, Any] = field(default_factory=dict)


_HEAD = re.compile(r"^-- name: ([a-z_]+)\n-- .+\n", re.MULTILINE)


class Queries(Mapping[str, sql.SQL]):
    """The statements of one file, by name."""

    def __init__(self, name: str) -> None:
        text = (shipped("sql") / "queries" / f"{name}.sql").read_text(encoding="utf-8")
        parts = _HEAD.split(text)[1:]
        pairs = zip(parts[::2], parts[1::2], strict=True)
        self._statements = {key: sql.SQL(body.strip().rstrip(";")) for key, body in pairs}

    def __getitem__(self, name: str) -> sql.SQL:
        return self._statements[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._statements)

    def __len__(self) -> int:
        return len(self._statements)


@cache
def load(name: str) -> Queries:
    """Return the statements of `sql/queries/NAME.sql`, read once a process."""
    return Queries(name)


def together(*statements: sql.Composable) -> sql.Composed:
    """Return statements without values as one text: the server runs one after the other, and answers once."""
    return sql.SQL(";\n").join(statements)


def one(connection: psycopg.Connection, statement: sql.SQL | sql.Composed, values: Values = None) -> dict[str, Any]:
    """Return the only row of a statement, by column.

    Raises InternalError when it gives none.
    """
    with connection.cursor(row_factory=dict_row) as cursor:
        row = cursor.execute(statement, values).fetchone()
    if row is None:
        raise InternalError("expected a row of a statement, got none")
    return row


def rows(
    connection: psycopg.Connection, statement: sql.SQL | sql.Composed, values: Values = None
) -> list[dict[str, Any]]:
    """Return the rows of a statement, by column."""
    with connection.cursor(row_factory=dict_row) as cursor:
        return cursor.execute(statement, values).fetchall()


def one_as(kind: type[Row], connection: psycopg.Connection, statement: sql.SQL | sql.Composed, values: Values) -> Row:
    """Return the only row of a statement as a value of a class that has its columns as fields.

    Raises InternalError when there is none.
    """
    with connection.cursor(row_factory=class_row(kind)) as cursor:
        row = cursor.execute(statement, values).fetchone()
    if row is None:
        raise InternalError("expected a row of a statement, got none")
    return row


def rows_as(
    kind: type[Row], connection: psycopg.Connection, statement: sql.SQL | sql.Composed, values: Values
) -> list[Row]:
    """Return the rows of a statement as values of a class that has its columns as fields."""
    with connection.cursor(row_factory=class_row(kind)) as cursor:
        return cursor.execute(statement, values).fetchall()
