"""Partitions of facts: made ahead and for the rows of a load, and removed when they are old."""

import time
from collections.abc import Callable, Sequence

import psycopg
from psycopg import sql

from etl import queries
from etl.datasets import Dataset, Table, divided_by, hash_partition_name, hash_partitions
from etl.datasets.partitions import hashed, partitioned
from etl.errors import BusyError, DatabaseError, InternalError, UsageError
from etl.quick_dataclasses import dataclass

_SQL = queries.load("partitions")
_TABLES = queries.load("tables")
_INSTALLATION = queries.load("installation")
_AHEAD = {"month": "3 months", "day": "14 days"}
"""The time for which partitions are made before a row needs them."""

MOMENTS = (sql.Literal("1900-01-01"), sql.Literal("2200-01-01"))
"""The days from and until which `etl.make_partitions` makes partitions."""

_PATIENCE = 600.0
"""Seconds for which a lock is tried again: a load that writes without a pause lasts that long."""
_PAUSE = 0.5
"""Seconds between two tries, in which those who waited for the table continue."""


@dataclass(frozen=True, kw_only=True)
class Partition:
    """A partition that is older than is kept; `state` is attached, detaching, detached or gone.

    `is_removed`: its removal has begun, and the deletion of its rows is noted. `exported_to` is the place of their
    export.
    """

    fact: str
    column: str
    first_day: str
    until_day: str
    name: str
    state: str
    bytes: int
    is_removed: bool
    exported_to: str | None

    @property
    def table(self) -> sql.Identifier:
        """The partitioned table."""
        return sql.Identifier(*self.fact.split("."))

    @property
    def identifier(self) -> sql.Identifier:
        """The partition."""
        return sql.Identifier(self.fact.split(".")[0], self.name)


def partitioned_tables(dataset: Dataset) -> list[Table]:
    """Return the tables of a dataset that have partitions. Raises UsageError if none has."""
    tables = list(partitioned(dataset))
    if not tables:
        raise UsageError(f"no table of {dataset.name} has partition_by", hint=f"see {dataset.path}")
    return tables


def require_carried_along(dataset: Dataset) -> None:
    """Raise UsageError when child rows would stay after the removal of the partition that has their record."""
    staying = [table for table in dataset.tables if table.each and table.partition_by is None]
    if staying and any(not table.each for table in partitioned(dataset)):
        names = " and ".join(table.name for table in staying)
        raise UsageError(
            f"the rows of {names} would stay without their records: the definition gives {names} no partition_by",
            hint=f"see {dataset.path}, then etl dataset partition {dataset.name}",
        )


def divided_tables(dataset: Dataset) -> list[Table]:
    """Return the tables of a dataset that are divided in any way. Raises UsageError if none is."""
    tables = [table for table in dataset.tables if divided_by(dataset, table)]
    if not tables:
        raise UsageError(f"no table of {dataset.name} has partition_by or partition_hash", hint=f"see {dataset.path}")
    return tables


def note_lost(connection: psycopg.Connection) -> None:
    """Forget the partitions that a person dropped or detached; the aggregates are recomputed as a whole."""
    connection.execute(queries.load("precalculation")["note_lost_partitions"])


def install(connection: psycopg.Connection, dataset: Dataset) -> None:
    """List the partitioned tables of a dataset, and make their partitions of the next time.

    Raises UsageError for a table that is there and is not partitioned in this way.
    """
    for table in hashed(dataset):
        _make_hash_partitions(connection, dataset, table)
    for table in partitioned(dataset):
        require_divided(connection, dataset, table)
        note_lost(connection)
        list_fact(connection, table)
        values = {"fact": table.name, "every": table.partition_every, "ahead": _AHEAD[table.partition_every]}
        connection.execute(_SQL["make_ahead"], values)
        if connection.execute(_SQL["may_notice_at_once"]).fetchone() == (True,):
            connection.execute(_SQL["notice_at_once"])


def _make_hash_partitions(connection: psycopg.Connection, dataset: Dataset, table: Table) -> None:
    """Make the partitions of a table that is divided by the hash of the key, and of one whose partition was dropped."""
    require_divided(connection, dataset, table)
    count = len(_parts_by_hash(connection, table.identifier))
    make_hash_partitions(connection, table, table.identifier)
    connection.execute(_INSTALLATION["watch_partitions"], {"fact": table.name})
    if 0 < count < (table.partition_hash or 0):  # Its rows are gone, and no trigger has noted it.
        connection.execute(_INSTALLATION["add_pending_all"], {"fact": table.name})


def make_hash_partitions(connection: psycopg.Connection, table: Table, parent: sql.Identifier) -> None:
    """Make the partitions of a table, or of a copy of it, that is divided by a hash, where they are missing.

    Raises UsageError when another table has the name of one.
    """
    there = {remainder for _, remainder in _parts_by_hash(connection, parent)}
    for remainder, statement in enumerate(hash_partitions(table, parent)):
        if remainder not in there:
            connection.execute(statement)
    missing = set(range(table.partition_hash or 0)) - {number for _, number in _parts_by_hash(connection, parent)}
    if missing:
        name = hash_partition_name(table, min(missing)).as_string(None)
        raise UsageError(
            f"a partition of {table.name} cannot be made: there is another table {name}",
            hint="rename that table, and run the same command again",
        )


def _parts_by_hash(connection: psycopg.Connection, table: sql.Identifier) -> list[tuple[int, int]]:
    return connection.execute(_SQL["parts_by_hash"], {"table": table.as_string(None)}).fetchall()


def require_divided(connection: psycopg.Connection, dataset: Dataset, table: Table) -> None:
    """Raise UsageError for a table that is not partitioned as its definition says."""
    if not is_divided(connection, dataset, table):
        raise UsageError(
            f"the table {table.name} is not partitioned by {_way(dataset, table)}",
            hint=f"etl dataset partition {dataset.name}",
        )


def is_divided(connection: psycopg.Connection, dataset: Dataset, table: Table) -> bool:
    """Return whether a table is partitioned as its definition says.

    Raises UsageError for a table that is partitioned in another way, or is missing.
    """
    row = connection.execute(_SQL["kind"], {"table": table.quoted}).fetchone()
    if row is None:
        raise UsageError(f"the table {table.name} is missing", hint="etl db migrate")
    if row[0] != "p":
        return False
    has_other_number = table.partition_hash is not None and {
        modulus for modulus, _ in _parts_by_hash(connection, table.identifier)
    } - {table.partition_hash}
    if row[1] != list(divided_by(dataset, table)) or row[2] != (table.partition_hash is not None) or has_other_number:
        raise UsageError(
            f"the table {table.name} is partitioned, but not by {_way(dataset, table)}",
            hint=f"load into a table of another name, or change how {dataset.path} divides it",
        )
    return True


def _way(dataset: Dataset, table: Table) -> str:
    columns = ", ".join(divided_by(dataset, table))
    return columns if table.partition_hash is None else f"the hash of {columns} into {table.partition_hash}"


def list_fact(connection: psycopg.Connection, table: Table) -> None:
    """List a table as one that is partitioned."""
    names = {"fact": table.name, "column": table.partition_by, "every": table.partition_every}
    connection.execute(_SQL["list_fact"], names)


def moment_of(table: Table) -> sql.Composed:
    """Return the time (UTC) by which a row of a table has its partition."""
    column = table.column(table.partition_by or "")
    if column is None:
        raise InternalError(f"expected a column of {table.name} by which it is divided")
    typed = sql.SQL("{}::{}").format(sql.Identifier(column.name), sql.SQL(column.column_type.server_name))
    return typed + sql.SQL(" at time zone 'UTC'" if column.type == "timestamptz" else "::timestamp")


def make_for_rows(connection: psycopg.Connection, dataset: Dataset, sources: Sequence[sql.Composable]) -> None:
    """Make the partitions that rows need which wait in other tables, one for each table of the dataset."""
    for table, source in zip(dataset.tables, sources, strict=True):
        if table.partition_by is not None:
            names = {"moment": moment_of(table), "source": source, "column": sql.Identifier(table.partition_by)}
            connection.execute(_SQL["make_for_rows"].format(**names), {"fact": table.name})


def can_be_made(table: Table) -> sql.Composed:
    """Return the condition that a partition can be made for a row."""
    first, until = MOMENTS
    name = sql.Identifier(table.partition_by or "")
    return sql.SQL("{0} >= {1} and {0} < {2}").format(name, first, until)


def lock_removals(connection: psycopg.Connection, dataset: Dataset) -> None:
    """Let no other session remove partitions of a dataset while this connection lives. Raises BusyError if one does."""
    facts = [table.name for table in partitioned(dataset)]
    if connection.execute(_SQL["lock_removals"], {"facts": facts}).fetchone() != (True,):
        raise BusyError(f"another session removes partitions of {dataset.name}")


def older(connection: psycopg.Connection, dataset: Dataset, keep: str) -> list[Partition]:
    """Return the partitions of a dataset that end before an age, an SQL interval; the oldest first."""
    facts = [table.name for table in partitioned(dataset)]
    names = ("fact", "column", "first_day", "until_day", "name", "state", "bytes", "is_removed", "exported_to")
    found = connection.execute(_SQL["older"], {"facts": facts, "keep": keep}).fetchall()
    return [Partition(**dict(zip(names, row, strict=True))) for row in found]


def rows_of(connection: psycopg.Connection, partition: Partition) -> int:
    """Count the rows of a partition."""
    if partition.state == "gone":
        return 0
    [(count,)] = connection.execute(queries.load("reading")["count_rows"].format(table=partition.identifier)).fetchall()
    return int(count)


def digest_of(connection: psycopg.Connection, partition: Partition) -> str:
    """Return a text that differs when the rows of a partition differ; their order does not count."""
    [(digest,)] = connection.execute(_SQL["digest"].format(partition=partition.identifier)).fetchall()
    return str(digest)


def noted_place(connection: psycopg.Connection, partition: Partition) -> str | None:
    """Return the place that an export of a partition has begun to write to."""
    row = connection.execute(_SQL["noted_place"], {"fact": partition.fact, "name": partition.name}).fetchone()
    return row[0] if row else None


def note_place(connection: psycopg.Connection, partition: Partition, place: str) -> None:
    """Note the place of an export of a partition before it is written."""
    connection.execute(_SQL["note_place"], {"fact": partition.fact, "name": partition.name, "place": place})


def empty(connection: psycopg.Connection, partition: Partition, digest: str | None) -> bool:
    """Delete the rows of a partition and note that it is removed; triggers note which buckets change.

    Where nobody follows it and no digest is given, the rows stay until the partition is dropped with them. Return
    False, and change nothing, when its rows are no longer those of a digest.
    """
    limits = {"first": sql.Literal(partition.first_day), "until": sql.Literal(partition.until_day)}
    with connection.transaction():
        if digest is not None:
            connection.execute(_TABLES["hold_writers"].format(table=partition.identifier))
            if digest_of(connection, partition) != digest:
                return False
        connection.execute(_SQL["begin_removal"], {"fact": partition.fact, "name": partition.name})
        if digest is not None or _follows_deletions(connection, partition):
            column = sql.Identifier(partition.column)
            connection.execute(_SQL["empty"].format(table=partition.table, column=column, **limits))
    return True


def _follows_deletions(connection: psycopg.Connection, partition: Partition) -> bool:
    names = {"table": partition.table.as_string(None), "partition": partition.identifier.as_string(None)}
    return connection.execute(_SQL["follows_deletions"], names).fetchone() == (True,)


def detach(connection: psycopg.Connection, partition: Partition, sleep: Callable[[float], None] = time.sleep) -> None:
    """Detach a partition, or finish a detaching that was cut off. `connection` is in autocommit mode.

    Writers and readers continue; with a default partition, which the server allows only with a lock, they wait for less
    than a second. Raises UsageError when another partition of the table is being detached.
    """
    names = {"table": partition.table, "partition": partition.identifier}
    if partition.state == "detaching":
        connection.execute(_SQL["finish_detaching"].format(**names))
    if partition.state != "attached":
        return
    values = {"table": partition.table.as_string(None)}
    obstacles = connection.execute(_SQL["obstacles_to_detaching"], values).fetchall()
    for name, is_default in obstacles:
        if not is_default:
            raise UsageError(
                f"{partition.name} cannot be detached: the server has not finished to detach {name}",
                hint=f"alter table {values['table']} detach partition {name} finalize; then run the same command again",
            )
    if obstacles:
        at_once = _SQL["detach_at_once"].format(**names)
        without_waiting(connection, partition.fact, lambda: connection.execute(at_once), sleep=sleep)
    else:
        connection.execute(_SQL["detach"].format(**names))


def drop(connection: psycopg.Connection, partition: Partition) -> None:
    """Drop a detached partition, and forget it.

    Rows that came while it was detached are deleted before, so that triggers note which buckets change.
    """
    with connection.transaction():
        if partition.state != "gone" and _follows_deletions(connection, partition):
            connection.execute(_TABLES["delete_all"].format(table=partition.identifier))
        connection.execute(_TABLES["drop"].format(table=partition.identifier))
        connection.execute(_SQL["forget"], {"fact": partition.fact, "name": partition.name})
        connection.execute(_SQL["note_emptied"].format(table=partition.table), {"fact": partition.fact})


def without_waiting(
    connection: psycopg.Connection,
    table: str,
    change: Callable[[], object],
    *,
    between: Callable[[], object] | None = None,
    sleep: Callable[[float], None] = time.sleep,
) -> None:
    """Make a change of a table in a transaction that waits for no lock for long, until it succeeds.

    Those who come to the table while the change waits for it wait for the change. `between` runs before each try but
    the first, and `sleep` waits before it. Raises DatabaseError when other sessions hold the table for ten minutes.
    """
    began = time.monotonic()
    while True:
        try:
            with connection.transaction():
                connection.execute(_SQL["be_patient_for_locks"])
                change()
        except (
            psycopg.errors.LockNotAvailable,
            psycopg.errors.QueryCanceled,
            psycopg.errors.DeadlockDetected,
            psycopg.errors.CheckViolation,
        ) as error:
            if time.monotonic() > began + _PATIENCE:
                raise DatabaseError(
                    f"other sessions hold the table {table} all the time",
                    hint="run the command again when no load runs: it continues where it ended",
                ) from error
            sleep(_PAUSE)
            if between:
                between()
        else:
            return
