"""A batch that the server refused -> the rows that load and the records that are rejected.

The rows go as text into temporary tables, and one generated block brings them in by subtransactions, in the
transaction that the caller holds. Exact for every kind of fault: CHECK, unique, foreign key, trigger, deferred.
"""

from collections.abc import Sequence
from typing import LiteralString, cast

import psycopg
from psycopg import sql

from etl import queries
from etl.datasets import LINEAGE, Dataset, Table
from etl.ingestion.destination import refusals
from etl.ingestion.destination.duplicates import Settle, count_kept
from etl.ingestion.destination.merging import WON, Applying, columns
from etl.ingestion.destination.sending import Exchange
from etl.ingestion.values import Batch, CopyResult, Fault

_SQL = queries.load("isolation")
_REFUSED = sql.Identifier("pg_temp", "etl_refused")


def isolate(exchange: Exchange, dataset: Dataset, batch: Batch, applying: Applying, settle: Settle) -> CopyResult:
    """Bring in what the server takes of a batch.

    `applying` gives the statements that bring rows from a source of rows in, and `settle` judges the duplicates among
    those that came in. Raises psycopg.Error for a fault that is not one of the data.
    """
    connection = exchange.connection
    texts = [_send(exchange, table, number, batch) for number, table in enumerate(dataset.tables)]
    connection.execute(_SQL["make_refused"].format(refused=_REFUSED))
    sources = [_range(connection, table, text) for table, text in zip(dataset.tables, texts, strict=True)]
    statements = applying(sources, _SQL["won_of_range"].format(won=WON))
    first = [
        sql.SQL("select etl_place from {}").format(text)
        for table, text in zip(dataset.tables, texts, strict=True)
        if not table.each
    ]
    places = sql.SQL("({}) as record").format(sql.SQL(" union all ").join(first))
    body = _SQL["body"].format(
        places=places,
        refused=_REFUSED,
        statements=sql.SQL(";\n").join(statements),
        data_refused=sql.Literal(f"^({'|'.join(refusals.DATA)})"),
    )
    connection.execute(_SQL["prefer_indexes"])
    connection.execute(_SQL["block"].format(body=sql.Literal(body.as_string(connection))))
    faults = {
        place: _fault(dataset, sqlstate, *names)
        for place, sqlstate, *names in connection.execute(_SQL["refused"].format(refused=_REFUSED))
    }
    settled, duplicates = settle(connection, texts, faults)
    rows = tuple(count_kept(connection, text, settled) for text in texts)
    return CopyResult(rows=rows, faults=settled, duplicates=duplicates)


def _send(exchange: Exchange, table: Table, number: int, batch: Batch) -> sql.Identifier:
    text = sql.Identifier("pg_temp", f"etl_text_{number}")
    typed = [sql.SQL("{} text").format(sql.Identifier(column.name)) for column in table.columns]
    typed += [sql.SQL("{} bigint").format(sql.Identifier(name)) for name in LINEAGE]
    exchange.connection.execute(_SQL["make_text"].format(text=text, columns=sql.SQL(", ").join(typed)))
    exchange.send(batch.tables[number], text, columns(table))
    exchange.connection.execute(_SQL["index_text"].format(text=text))
    exchange.connection.execute(_SQL["analyze_text"].format(text=text))
    return text


def _range(connection: psycopg.Connection, table: Table, text: sql.Identifier) -> sql.Composed:
    """Return the rows with the types that the table has now: a person may have made another of the definition's."""
    found = connection.execute(_SQL["types"], {"table": table.identifier.as_string(connection)}).fetchall()
    types = {name: sql.SQL(cast(LiteralString, spelled)) for name, spelled in found}
    casts: Sequence[sql.Composable] = [
        sql.SQL("{name}::{type} as {name}").format(name=sql.Identifier(column.name), type=types[column.name])
        for column in table.columns
    ]
    lineage = sql.SQL("etl_run, etl_batch, etl_place::integer as etl_place")
    return _SQL["range_of_text"].format(casts=sql.SQL(", ").join([*casts, lineage]), text=text)


def _fault(dataset: Dataset, sqlstate: str, constraint: str, schema: str, table: str, column: str) -> Fault:
    by = f" by the constraint {constraint}" if constraint else ""
    name = f"{schema}.{table}" if table else None
    if schema == "etl_staging" or schema.startswith(
        "pg_temp"
    ):  # Of an atomic run or a rehearsal the table ends with the number of the table it stands for.
        name = dataset.tables[int(table.rpartition("_")[2])].name
    return Fault(
        sqlstate=sqlstate,
        reason=f"the database refuses it{by}: {refusals.condition(sqlstate)}",
        table=name,
        column=column or None,
    )
