"""A run that is taken back, in the ledger and in the tables: what it loaded, the deletion of its rows, and its end.

The caller holds the dataset and the run, and commits all of it together.
"""

import socket
from collections.abc import Sequence
from datetime import datetime

import psycopg
from psycopg import sql

from etl import queries
from etl.datasets import LINEAGE, Dataset, Table, listed, same_key
from etl.errors import UsageError
from etl.ingestion.ledger import losses, runs
from etl.quick_dataclasses import dataclass
from etl.settings import Mode

_SQL = queries.load("undoing")


@dataclass(frozen=True, kw_only=True)
class RunToUndo:
    """A run as an undo finds it.

    `is_visible` is False before an atomic run is published; `replaced_by` is the replace that was published over its
    rows. `tables` is the number of tables for which its batches have counts, `rows_loaded` what it sent to the first.
    `unchanged` are records whose rows earlier runs sent: they become rows of this run when those are taken back.
    `rows_replaced` are the older versions that it has written over as a merge, at most; `rows_uncounted` are rows of
    batches for which nobody counted them. `keys_deleted` are its records that deleted their key.
    """

    run: str
    number: int
    dataset: str
    source: str
    mode: Mode
    started_at: datetime
    undone_at: datetime | None
    rows_undone: list[int] | None
    is_visible: bool
    replaced_by: str | None
    tables: int
    rows_loaded: int
    unchanged: int
    rows_replaced: int
    rows_uncounted: int
    keys_deleted: int


@dataclass(frozen=True, kw_only=True)
class TableRows:
    """The rows of a table, and those of one run."""

    all_rows: int
    own_rows: int


@dataclass(frozen=True, kw_only=True)
class Waiting:
    """The files of the failed store that wait of a run, and their records."""

    files: int
    records: int


def look(connection: psycopg.Connection) -> None:
    """Let a transaction see one state of the database, and change nothing."""
    connection.execute(_SQL["look"])


def named(connection: psycopg.Connection, run: str) -> RunToUndo:
    """Return the run with this name.

    Raises UsageError when there is none.
    """
    found = queries.rows_as(RunToUndo, connection, _SQL["run"], {"run": run})
    if not found:
        raise UsageError(f"no run is called {run}", hint="etl runs list")
    return found[0]


def replace_before(connection: psycopg.Connection, run: str) -> str | None:
    """Return the replace that was published before a run of its dataset; None if there was none."""
    row = connection.execute(_SQL["replace_before"], {"run": run}).fetchone()
    return row[0] if row else None


def count_rows(connection: psycopg.Connection, table: Table, number: int) -> TableRows:
    """Count the rows of a table, and those of the run with this number."""
    return queries.one_as(TableRows, connection, _SQL["count_rows"].format(**_names(table, number)), None)


def keep_seen(connection: psycopg.Connection, dataset: Dataset, number: int) -> None:
    """Give the rows of a run that later runs have found unchanged to the first of these runs."""
    table = dataset.digested_table
    if table is None or not table.has_digest:
        return
    connection.execute(_SQL["lock_order"], {"table": table.name})
    names = _names_of_seen(dataset, table, number)
    if connection.execute(_SQL["keep_seen"].format(**names)).rowcount:
        for child in dataset.tables:
            if child.each:
                connection.execute(_SQL["keep_children"].format(**names, child=child.identifier))
    connection.execute(_SQL["forget_seen"], {"number": number})


def lacks_seen(connection: psycopg.Connection, dataset: Dataset, number: int) -> bool:
    """Return whether the ledger has forgotten which rows of a run later runs found unchanged."""
    table = dataset.digested_table
    if table is None or not table.has_digest:
        return False
    row = connection.execute(_SQL["lacks_seen"], {"table": table.name, "number": number}).fetchone()
    return bool(row and row[0])


def count_seen(connection: psycopg.Connection, dataset: Dataset, number: int) -> list[int]:
    """Count the rows of a run in each table that `keep_seen` would give to later runs."""
    table = dataset.digested_table
    if table is None or not table.has_digest:
        return [0 for _ in dataset.tables]
    names = _names_of_seen(dataset, table, number)
    counts = []
    for each in dataset.tables:
        statement = _SQL["count_seen_children" if each.each else "count_seen"]
        row = connection.execute(statement.format(**names, child=each.identifier)).fetchone()
        counts.append(int(row[0]) if row else 0)
    return counts


def seen_later(table: Table, number: int) -> sql.Composed:
    """Return the query of the first places at which later runs have found records unchanged."""
    return _SQL["seen_later"].format(name=sql.Literal(table.name), number=sql.Literal(number))


def _names_of_seen(dataset: Dataset, table: Table, number: int) -> dict[str, sql.Composable]:
    names = _names(table, number) | {"name": sql.Literal(table.name)}
    return names | {"seen": seen_later(table, number), "is_key_of_child": same_key(dataset.key, "child", "old")}


def missing_of_others(connection: psycopg.Connection, dataset: Dataset, number: int) -> int:
    """Count the rows that other runs of a dataset loaded, child rows aside, and that are not theirs any more."""
    missing = 0
    for place, table in enumerate(dataset.tables, 1):
        if not table.each:
            names = _names(table, number) | {"dataset": sql.Literal(dataset.name), "place": sql.Literal(place)}
            row = connection.execute(_SQL["missing_of_others"].format(**names)).fetchone()
            missing += int(row[0]) if row else 0
    return missing


def delete_rows(connection: psycopg.Connection, table: Table, number: int) -> int:
    """Delete the rows of a run from a table, and return how many the server deleted."""
    return connection.execute(_SQL["delete_rows"].format(**_names(table, number))).rowcount


def forget_firsts(connection: psycopg.Connection, dataset: Dataset, number: int) -> None:
    """Forget the first values that a run sent. Then the value of the row counts as the first one."""
    for table in dataset.tables:
        for column in table.columns:
            if column.keep_first:
                first, version, place = map(sql.Identifier, column.names_of_first)
                names = _names(table, number) | {"first": first, "place": place}
                names["set_version"] = sql.SQL("{} = null,").format(version) if dataset.newest_by else sql.SQL("")
                connection.execute(_SQL["forget_firsts"].format(**names))


def note_firsts(connection: psycopg.Connection, dataset: Dataset, table: Table, number: int) -> sql.Identifier:
    """Note the first values that the rows of a run know from other runs, and return the table that has them."""
    firsts = sql.Identifier("pg_temp", f"etl_known_firsts_{dataset.tables.index(table)}")
    newest = [dataset.newest_by] if dataset.newest_by else []
    kept = [column for column in table.columns if column.keep_first]
    names = _names(table, number) | {"firsts": firsts, "key": listed(dataset.key)}
    columns = [*dataset.key, *(column.name for column in kept), *newest, *LINEAGE]
    connection.execute(_SQL["make_firsts"].format(**names, columns=listed(columns)))
    for column in kept:
        first, version, place = map(sql.Identifier, column.names_of_first)
        connection.execute(
            _SQL["note_firsts"].format(
                **names,
                columns=listed([*dataset.key, column.name, *newest, *LINEAGE]),
                first=first,
                version=sql.SQL("{},").format(version) if newest else sql.SQL(""),
                place=place,
            )
        )
    return firsts


def drop_staging(connection: psycopg.Connection, run: str) -> None:
    """Drop the tables that gather the rows and the keys of a run."""
    for (name,) in connection.execute(_SQL["staging_of_run"], {"run": run}).fetchall():
        connection.execute(queries.load("tables")["drop"].format(table=sql.Identifier("etl_staging", name)))


def waiting(connection: psycopg.Connection, run: str) -> Waiting:
    """Count the records of a run that wait in the failed store."""
    return queries.one_as(Waiting, connection, _SQL["count_pending"], {"run": run})


def supersede_failures(connection: psycopg.Connection, run: str) -> Waiting:
    """Note that the records of a run in the failed store must not be replayed, and count them."""
    return queries.one_as(Waiting, connection, _SQL["supersede_failures"], {"run": run})


def restore_earlier(connection: psycopg.Connection, dataset: Dataset, run: str) -> list[str]:
    """Let the runs whose place a run had taken count again, if the tables still have their rows; return their names.

    A person may have deleted these rows before the forced load: then their sources load again, too.
    """
    earlier = connection.execute(_SQL["superseded_by"], {"run": run}).fetchall()
    held = [
        number for number, is_visible in earlier if not is_visible or losses.has_rows_of(connection, dataset, number)
    ]
    return [name for (name,) in connection.execute(_SQL["restore_runs"], {"run": run, "numbers": held})]


def note(connection: psycopg.Connection, run: str, rows: Sequence[int]) -> datetime:
    """Note that a run was taken back, and how many rows of each table were deleted; return when."""
    values = {"run": run, "rows": list(rows), "by": f"{runs.user()}@{socket.gethostname()}"}
    undone_at: datetime = queries.one(connection, _SQL["note_undone"], values)["undone_at"]
    return undone_at


def _names(table: Table, number: int) -> dict[str, sql.Composable]:
    return {"table": table.identifier, "number": sql.Literal(number)}
