"""The ceiling: rows that were prepared as COPY text, each file by one COPY into its table.

Usage: python copy_prepared.py ADDRESS TABLE FILE [TABLE FILE]...
"""

import sys
from pathlib import Path

import psycopg
from psycopg import sql

CHUNK_BYTES = 128 * 1024


def main() -> None:
    """Send each file to its table; all commit together."""
    address, *pairs = sys.argv[1:]
    with psycopg.connect(address) as connection, connection.cursor() as cursor:
        for table, path in zip(pairs[::2], pairs[1::2], strict=True):
            statement = sql.SQL("copy {} from stdin").format(sql.Identifier(*table.split(".")))
            with cursor.copy(statement) as copy, Path(path).open("rb") as file:
                while chunk := file.read(CHUNK_BYTES):
                    copy.write(chunk)


if __name__ == "__main__":
    main()
