"""DuckDB: read_json, its types found by itself, into the table of the attached PostgreSQL.

Usage: python duckdb_load.py ADDRESS TABLE COLUMNS FILE. COLUMNS is a JSON file: the path of each column by its name.
"""

import json
import sys
from pathlib import Path

import duckdb
import duckdb_extension_postgres_scanner


def main() -> None:
    """Load one file."""
    address, table, columns_file, source = sys.argv[1:]
    columns: dict[str, str] = json.loads(Path(columns_file).read_text(encoding="utf-8"))
    (extension,) = Path(duckdb_extension_postgres_scanner.__file__).parent.rglob("*.duckdb_extension")
    connection = duckdb.connect()
    connection.execute(f"load '{extension}'")
    connection.execute("set TimeZone = 'UTC'")
    connection.execute(f"attach '{address}' as pg (type postgres)")
    connection.execute(
        f"insert into pg.{table} ({', '.join(columns)}, etl_run, etl_batch, etl_place) "  # noqa: S608 - our own names
        f"select {', '.join(columns.values())}, 0, 0, 0 from read_json('{source}')"
    )


if __name__ == "__main__":
    main()
