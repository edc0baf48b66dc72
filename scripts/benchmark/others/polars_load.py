"""Polars: read_ndjson, nested members made flat, write_csv, and COPY by psycopg.

Usage: python polars_load.py ADDRESS TABLE COLUMNS FILE. COLUMNS is a JSON file: the path of each column by its name.
"""

import io
import json
import sys
from pathlib import Path

import polars as pl
import psycopg
from psycopg import sql


def main() -> None:
    """Load one file."""
    address, table, columns_file, source = sys.argv[1:]
    columns: dict[str, str] = json.loads(Path(columns_file).read_text(encoding="utf-8"))
    frame = pl.read_ndjson(source)
    flat = frame.select(
        *(_member(path).alias(name) for name, path in columns.items()),
        *(pl.lit(0).alias(name) for name in ("etl_run", "etl_batch", "etl_place")),
    )
    text = io.BytesIO()
    flat.write_csv(text, include_header=False)
    statement = sql.SQL("copy {} ({}) from stdin (format csv)").format(
        sql.Identifier(*table.split(".")), sql.SQL(", ").join(map(sql.Identifier, flat.columns))
    )
    with psycopg.connect(address) as connection, connection.cursor().copy(statement) as copy:
        copy.write(text.getbuffer())


def _member(path: str) -> pl.Expr:
    first, *rest = path.split(".")
    member = pl.col(first)
    for name in rest:
        member = member.struct.field(name)
    return member


if __name__ == "__main__":
    main()
