"""The rows of one table, or some of them, as one file of Parquet that may be a pipe: for reports. Needs pyarrow."""

from collections.abc import Mapping, Sequence
from typing import BinaryIO

import psycopg
from psycopg import sql

from etl import queries
from etl.exporting import subjects, tables
from etl.exporting.blocks import BlockReader
from etl.exporting.columns import guarded, schema_of
from etl.exporting.receiving import Copied
from etl.exporting.server_columns import TIMES
from etl.exporting.writing import columnar_writer

_SQL = queries.load("exporting")


def write_parquet(
    connection: psycopg.Connection,
    table: str,
    names: Sequence[str],
    rows: Mapping[str, sql.Composable],
    output: BinaryIO,
    about: Mapping[str, str],
) -> dict[str, int]:
    """Write columns of a table in the snapshot of a transaction; return the number of infinite times by column.

    These become null. `rows` are the `order` and the `limit`; `about` is the metadata of the file. What is written
    cannot be taken back, so the columns have their guarded form.
    """
    subject = subjects.of_columns(connection, table, names)
    digits = tables.digits(connection, subject, subject.columns, is_sampled=False)
    odd = tables.count_odd(connection, subject)
    carried = [guarded(column, digits.get(column.name), odd.get(column.name, 0)) for column in subject.columns]
    schema = schema_of(carried, about)
    reader = BlockReader(carried, schema)
    columns = sql.SQL(", ").join(column.select for column in carried)
    statement = _SQL["copy_ordered"].format(columns=columns, table=subject.identifier, **rows)
    with columnar_writer(output, schema, "parquet") as writer:
        for block in Copied(connection, statement):
            writer.write_table(reader.read(block.rows))
    return {column.name: odd[column.name] for column in subject.columns if column.kind in TIMES and odd[column.name]}
