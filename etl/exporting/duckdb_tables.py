"""The tables of an export in DuckDB, by their names in PostgreSQL. Needs duckdb, of the extra `duckdb`."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import duckdb
from psycopg import sql

from etl import queries
from etl.exporting.manifest import Table

_SQL = queries.load("duckdb")
_COMMA = sql.SQL(", ")
_SCHEMAS = ("analytics", "logistics")

# Those of analytics.trimmed() in PostgreSQL.
_BLANKS = (
    " \t\n\r\f\v\u0085\u00a0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a\u200b"
    "\u2028\u2029\u202f\u205f\u2060\u3000\ufeff"
)

_TYPES = {
    "string": "varchar",
    "list<element: string>": "varchar[]",
    "list<item: string>": "varchar[]",
    "int16": "smallint",
    "int32": "integer",
    "int64": "bigint",
    "float": "real",
    "double": "double",
    "bool": "boolean",
    "date32[day]": "date",
    "time64[us]": "time",
    "timestamp[us]": "timestamp",
    "timestamp[us, tz=UTC]": "timestamptz",
}


def make_schemas(connection: duckdb.DuckDBPyConnection, tables: Iterable[Table]) -> None:
    """Make the schemas of tables, and the functions of PostgreSQL that questions use."""
    schemas = {*_SCHEMAS, *(table.table.split(".", 1)[0] for table in tables)}
    for schema in sorted(schemas):
        run(connection, _SQL["make_schema"].format(schema=sql.Identifier(schema)))
    run(connection, _SQL["make_trimmed"].format(blanks=sql.Literal(_BLANKS)))
    run(connection, _SQL["make_key_of"])
    run(connection, _SQL["make_hours_between"])


def make_view(connection: duckdb.DuckDBPyConnection, table: Table, paths: Sequence[str]) -> None:
    """Make a view of the files of a table."""
    run(connection, _selected("make_view", table, paths))


def make_table(connection: duckdb.DuckDBPyConnection, table: Table, paths: Sequence[str]) -> None:
    """Store the rows of files in a table, with the comments of PostgreSQL."""
    run(connection, _selected("make_table", table, paths))
    columns = [(sql.Identifier(*table.table.split(".", 1), column.name), column.comment) for column in table.columns]
    comments = [("table", identifier(table), table.comment), *(("column", *each) for each in columns)]
    for kind, name, comment in comments:
        if comment:
            run(connection, _SQL["comment"].format(kind=sql.SQL(kind), name=name, comment=sql.Literal(comment)))


def make_view_of(connection: duckdb.DuckDBPyConnection, table: Table, rows: Any) -> None:
    """Make a view of a data set of pyarrow."""
    name = f"rows of {table.table}"
    connection.register(name, rows)
    columns = _COMMA.join(sql.Identifier(column.name) for column in table.columns)
    rows_of = sql.Identifier(name)
    run(connection, _SQL["make_view"].format(table=identifier(table), columns=columns, rows=rows_of))


def identifier(table: Table) -> sql.Identifier:
    """Return the qualified name of a table, quoted."""
    return sql.Identifier(*table.table.split(".", 1))


def run(connection: duckdb.DuckDBPyConnection, statement: sql.Composable) -> None:
    """Run a statement."""
    connection.execute(statement.as_string(None))


def literal(text: str | Path) -> sql.Literal:
    """Return a text as a value of a statement."""
    return sql.Literal(str(text))


def _selected(statement: str, table: Table, paths: Sequence[str]) -> sql.Composed:
    columns: list[sql.Composable] = [sql.Identifier(column.name) for column in table.columns]
    rows: sql.Composable = _SQL["parquet_files"].format(paths=_COMMA.join(map(literal, paths)))
    if not paths:
        rows = _SQL["no_file"]
        columns = [
            _SQL["no_value"].format(type=_type(column.stored), column=sql.Identifier(column.name))
            for column in table.columns
        ]
    return _SQL[statement].format(table=identifier(table), columns=_COMMA.join(columns), rows=rows)


def _type(stored: str) -> sql.SQL:
    name = stored.replace("decimal128", "decimal") if stored.startswith("decimal128") else _TYPES[stored]
    return sql.SQL(name)
