"""A batch that the server refused -> the rows that load and the records that are rejected.

The rows are copied as text into temporary tables, and one generated block writes them to the tables of the run by
subtransactions, in the transaction that the caller holds. Exact for every kind of fault: CHECK, unique, foreign key,
trigger, deferred.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import LiteralString, cast

import psycopg
from psycopg import sql

from etl import queries
from etl.database import sqlstates
from etl.database.tables import skipping_tables
from etl.datasets import DIGEST, Dataset, Table
from etl.datasets.types import ServerType
from etl.ingestion.destination import effects, refusals, staging
from etl.ingestion.destination.duplicates import JudgeDuplicates, count_kept
from etl.ingestion.destination.merging import WON, Statements, columns
from etl.ingestion.destination.sending import Exchange, Waiting
from etl.ingestion.values import Batch, CopyResult, Fault, Rows

_SQL = queries.load("isolation")
_REFUSED = sql.Identifier("pg_temp", "etl_refused")


def isolate(
    exchange: Exchange, dataset: Dataset, batch: Batch, statements: Statements, judge_duplicates: JudgeDuplicates
) -> Waiting[CopyResult]:
    """Write the records of a batch that the server accepts, and return the faults of the others.

    `statements` gives the statements that write the rows of some sources, `judge_duplicates` applies the duplicate
    policy to the written rows. Raises psycopg.Error for a fault that is not one of the data.
    """
    connection = exchange.connection
    texts = text_tables(dataset)
    for number, table in enumerate(dataset.tables):
        yield from _send(exchange, table, texts[number], batch.tables[number])
    staging.make_partitions(connection, dataset, texts)
    connection.execute(_SQL["make_refused"].format(refused=_REFUSED))
    skipping = skipping_tables(connection, dataset)
    block = _block(connection, dataset, texts, statements, skipping)
    connection.execute(_SQL["prefer_indexes"])
    connection.execute(_SQL["block"].format(body=sql.Literal(block.as_string(connection))))
    if skipping:
        effects.require_none_skipped(connection, dataset)
    refused = {
        place: _fault(dataset, sqlstate, *names)
        for place, sqlstate, *names in connection.execute(_SQL["refused"].format(refused=_REFUSED))
    }
    faults, duplicates = judge_duplicates(connection, texts, refused)
    rows = tuple(count_kept(connection, text, faults) for text in texts)
    return CopyResult(rows=rows, faults=faults, duplicates=duplicates)


def text_tables(dataset: Dataset) -> list[sql.Identifier]:
    """Return the temporary tables that hold an isolated batch as texts, one for each table of the dataset."""
    return [sql.Identifier("pg_temp", f"etl_text_{number}") for number in range(len(dataset.tables))]


def _send(exchange: Exchange, table: Table, text: sql.Identifier, rows: tuple[Rows, ...]) -> Waiting[None]:
    """Copy the rows of one table into a temporary table of texts."""
    typed = [sql.SQL("{} text").format(sql.Identifier(column.name)) for column in table.columns]
    typed += [sql.SQL("{} bigint").format(sql.Identifier(name)) for name in table.lineage]
    exchange.connection.execute(_SQL["make_text"].format(text=text, columns=sql.SQL(", ").join(typed)))
    yield from exchange.send(rows, text, columns(table))
    exchange.connection.execute(_SQL["index_text"].format(text=text))
    exchange.connection.execute(queries.load("tables")["analyze"].format(table=text))


def _block(
    connection: psycopg.Connection,
    dataset: Dataset,
    texts: Sequence[sql.Identifier],
    statements: Statements,
    skipping: Collection[int],
) -> sql.Composed:
    """Return the body of the block that writes the rows of the texts and notes the refused records."""
    pairs = list(zip(dataset.tables, texts, strict=True))
    types = [_types(connection, table) for table in dataset.tables]
    sources = [_range(table, text, own) for (table, text), own in zip(pairs, types, strict=True)]
    judgements = [
        _SQL["judgement"].format(
            names=sql.Literal([*table.name.split("."), column.name]),
            column=sql.Identifier(column.name),
            type=own[column.name],
            text=text,
        )
        for (table, text), own in zip(pairs, types, strict=True)
        for column in table.columns
        if isinstance(column.column_type, ServerType)
    ]
    records = [sql.SQL("select etl_place from {}").format(text) for table, text in pairs if not table.each]
    return _SQL["body"].format(
        places=sql.SQL("({}) as record").format(sql.SQL(" union all ").join(records)),
        refused=_REFUSED,
        judgements=sql.SQL("\n").join(judgement + sql.SQL(";") for judgement in judgements),
        statements=sql.SQL(";\n").join(
            effects.checked(statement) if statement.table in skipping else statement.text
            for statement in statements(sources, _SQL["won_of_range"].format(won=WON))
        ),
        not_of_data=sql.Literal(sqlstates.not_of_data()),
        of_value=sql.Literal(sqlstates.of_value()),
    )


def _types(connection: psycopg.Connection, table: Table) -> dict[str, sql.SQL]:
    """Return the types that the columns have in the database, which may differ from the definition's."""
    columns_of_table = connection.execute(_SQL["types"], {"table": table.identifier.as_string(connection)}).fetchall()
    return {name: sql.SQL(cast(LiteralString, type_name)) for name, type_name in columns_of_table}


def _range(table: Table, text: sql.Identifier, types: Mapping[str, sql.SQL]) -> sql.Composed:
    casts: Sequence[sql.Composable] = [
        sql.SQL("{name}::{type} as {name}").format(name=sql.Identifier(column.name), type=types[column.name])
        for column in table.columns
    ]
    lineage: list[sql.Composable] = [sql.SQL("etl_run, etl_batch, etl_place::integer as etl_place")]
    lineage += [sql.Identifier(DIGEST)] if table.has_digest else []
    return _SQL["range_of_text"].format(casts=sql.SQL(", ").join([*casts, *lineage]), text=text)


def _fault(dataset: Dataset, sqlstate: str, constraint: str, schema: str, table: str, column: str) -> Fault:
    by = f" by the constraint {constraint}" if constraint else ""
    name = f"{schema}.{table}" if table else None
    # The tables of an atomic run and of a dry run end with the number of the dataset's table.
    if schema == "etl_staging" or schema.startswith("pg_temp"):
        name = dataset.tables[int(table.rpartition("_")[2])].name
    reason = f"the database refuses it{by}: {sqlstates.condition(sqlstate)}"
    if refusals.is_without_partition(sqlstate, constraint):
        reason = f"no partition of {name} holds it"
    return Fault(
        sqlstate=sqlstate,
        reason=reason,
        table=name,
        column=column or None,
    )
