"""An export as one database of DuckDB: the tables become files of Parquet, of which the database is made.

Needs duckdb, of the extra `duckdb`.
"""

from collections.abc import Sequence
from pathlib import Path

import duckdb

from etl import queries
from etl.exporting import duckdb_tables
from etl.exporting.files import digested
from etl.exporting.manifest import File, Table

_SQL = queries.load("duckdb")


def make(path: Path, name: str, tables: Sequence[Table], folder: Path) -> File:
    """Make a database of tables whose files of Parquet are in a folder; return its entry in the manifest."""
    path.unlink(missing_ok=True)
    with duckdb.connect(str(path)) as connection:
        connection.execute(_SQL["settings"].as_string(None))
        duckdb_tables.run(connection, _SQL["settings_of_writing"].format(folder=duckdb_tables.literal(folder)))
        duckdb_tables.make_schemas(connection, tables)
        for table in tables:
            duckdb_tables.make_table(connection, table, [str(folder / file.path) for file in table.files])
    size, sha256 = digested(path)
    return File(path=name, month=None, rows=sum(table.rows for table in tables), bytes=size, sha256=sha256)
