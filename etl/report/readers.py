"""Where the page on all aggregates is read: in the snapshot of a connection to PostgreSQL, or in an export.

Both answer the statements of `sql/queries/report.sql`.
"""

import datetime as dt
import re
from collections.abc import Sequence
from typing import Any, Protocol

import psycopg
from psycopg import sql

from etl import queries
from etl.errors import UsageError
from etl.exporting import querying
from etl.exporting.manifest import Manifest
from etl.precalculation import reading
from etl.precalculation.reading import Row
from etl.queries import Values

_SQL = queries.load("report")
_READING = queries.load("reading")
_DUCKDB = queries.load("duckdb")
_HAS_ROWS = queries.load("copying")["has_rows"]
_PARAMETER = re.compile(r"%\((\w+)\)s")
_FRESHNESS = "analytics.freshness"


class Reader(Protocol):
    """Answers statements at one instant. `has_facts`: whether also those that read the tables of facts."""

    has_facts: bool

    def read_at(self) -> dt.datetime:
        """Return the instant."""

    def rows(self, statement: sql.SQL, values: Values = None) -> list[dict[str, Any]]:
        """Return the rows of a statement, by column."""

    def freshness(self, columns: Sequence[str]) -> list[Row]:
        """Return these columns of the freshness of all aggregates."""

    def has_rows(self, table: str) -> bool:
        """Return whether a table of facts has rows."""


def one(reader: Reader, statement: sql.SQL, values: Values = None) -> dict[str, Any]:
    """Return the only row of a statement, by column."""
    [row] = reader.rows(statement, values)
    return row


class Snapshot:
    """Reads in the snapshot of a transaction."""

    has_facts = True

    def __init__(self, connection: psycopg.Connection) -> None:
        self._connection = connection

    def read_at(self) -> dt.datetime:
        """Return the instant of the snapshot."""
        return reading.read_at(self._connection)

    def rows(self, statement: sql.SQL, values: Values = None) -> list[dict[str, Any]]:
        """Return the rows of a statement, by column."""
        return queries.rows(self._connection, statement, values)

    def freshness(self, columns: Sequence[str]) -> list[Row]:
        """Return these columns of the freshness of all aggregates."""
        subject = reading.of_freshness(self._connection, columns)
        return [dict(zip(columns, row, strict=True)) for row in reading.read(self._connection, subject, None)]

    def has_rows(self, table: str) -> bool:
        """Return whether a table of facts has rows; it may be missing."""
        identifier = sql.Identifier(*table.split(".", 1))
        return bool(
            queries.one(self._connection, _SQL["is_made"], {"table": table})["is_made"]
            and queries.one(self._connection, _HAS_ROWS.format(table=identifier))["has_rows"]
        )


class Exported:
    """Reads the tables of an export by DuckDB."""

    has_facts = False

    def __init__(self, connection: Any, export: Manifest) -> None:
        self._connection = connection
        self._export = export
        for statement in (
            _DUCKDB["make_now"].format(read_at=sql.Literal(str(export.read_at))),
            _DUCKDB["make_to_char"],
        ):
            connection.execute(statement.as_string(None))

    def read_at(self) -> dt.datetime:
        """Return the instant of the export."""
        return self._export.read_at

    def rows(self, statement: sql.SQL | sql.Composed, values: Values = None) -> list[dict[str, Any]]:
        """Return the rows of a statement, by column."""
        text = statement.as_string(None)
        given = dict(values) if values else {}
        used = {name: given[name] for name in _PARAMETER.findall(text)}
        found = self._connection.execute(_PARAMETER.sub(r"$\1", text).replace("%%", "%"), used)
        names = [column[0] for column in found.description]
        return [dict(zip(names, row, strict=True)) for row in querying.values_of(found)]

    def freshness(self, columns: Sequence[str]) -> list[Row]:
        """Return these columns of the freshness of all aggregates."""
        return self.rows(
            _READING["rows"].format(
                columns=sql.SQL(", ").join(map(sql.Identifier, columns)),
                table=sql.Identifier(*_FRESHNESS.split(".")),
                order=sql.Identifier("aggregate"),
                limit=sql.NULL,
            )
        )

    def has_rows(self, table: str) -> bool:
        """Return whether a table of facts has rows in the export, which may not have it."""
        found = self._export.table(table)
        return found is not None and found.rows > 0


def require_tables(export: Manifest, aggregates: Sequence[str], place: str) -> None:
    """Raise UsageError when an export lacks a table that the page is read from."""
    names = [_FRESHNESS, *(f"analytics.{name}" for name in aggregates)]
    if lacking := [name for name in names if export.table(name) is None]:
        raise UsageError(
            f"the export in {place} lacks {', '.join(lacking)}",
            hint=f"export all tables: etl export --to {place}; or name all that the page needs: {' '.join(names)}",
        )
