"""Aggregates with nothing to do: one statement records that all of them are up to date, without a refresh of each.

An aggregate has nothing to do when one snapshot shows that it was refreshed before by the same definition, and that no
change is noted and no bucket pending. Each change of a fact is noted by the transaction that makes it, and a refresh
removes its pending buckets in the transaction that writes their rows; so the aggregate equals its facts in this
snapshot. Every other aggregate, also one that another session refreshes now, is left to its refresh.
"""

from collections.abc import Sequence

import psycopg

from etl import queries
from etl.precalculation.catalogue import Aggregate

_SQL = queries.load("precalculation")


def record(connection: psycopg.Connection, aggregates: Sequence[Aggregate]) -> dict[str, float]:
    """Record that the aggregates with nothing to do are up to date; return their names, with the seconds of each.

    Those for which the server refuses it are left to their refreshes, which give the reason. Raises psycopg's errors
    when the connection is lost.
    """
    asked = [aggregate for aggregate in aggregates if _notes_newest(aggregate)]
    if not asked:
        return {}
    needed = [(each.name, table) for each in asked for table in each.tables]
    values = {
        "aggregates": [each.name for each in asked],
        "hashes": [each.hash for each in asked],
        "newest_tables": [each.newest[0] for each in asked],
        "newest_columns": [each.newest[1] for each in asked],
        "readers": [name for name, _ in needed],
        "tables": [table for _, table in needed],
    }
    try:
        rows = connection.execute(_SQL["record_idle"], values).fetchall()
    except psycopg.Error:
        if connection.closed:
            raise
        return {}
    return {name: float(seconds) / len(rows) for name, seconds in rows}


def _notes_newest(aggregate: Aggregate) -> bool:
    """Return whether each change of the newest event is noted: the triggers note no row whose noted value is null."""
    table, column = aggregate.newest
    of_column = {"", column, f"({column} at time zone 'UTC')::date", f"{column} at time zone 'UTC'"}
    return any(fact.table == table and fact.via is None and fact.noted in of_column for fact in aggregate.facts)
