"""A table that is in use -> a partitioned one: a copy is filled beside it, and takes its place (decision 26).

Each step is a transaction that finds in the database what the steps before it have done, so that a division that was
cut off is continued by the same call. No statement keeps a writer waiting for more than a second.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import psycopg
import structlog
from psycopg import sql

from etl import queries
from etl.database import partitions
from etl.datasets import Dataset, Table, divided_by, partition_clause, short_name
from etl.errors import BusyError, UsageError
from etl.quick_dataclasses import dataclass

_SQL = queries.load("division")
_TABLES = queries.load("tables")
_SCHEMA = "etl_partitioning"
_ROWS = 20_000
"""Lineages that a step copies: a fifth of a second, so that an interruption loses little."""
_FEW = 5_000
"""So few changes are copied in a part of the half second for which the table is locked."""
_HELD = 0.6
"""Seconds for which the table is locked at most. Who came while the lock was awaited has waited a quarter more."""

log = structlog.get_logger(__name__)


@dataclass(frozen=True, kw_only=True)
class Division:
    """A table of a dataset that becomes a partitioned one; `sleep` waits between two tries to get a lock."""

    connection: psycopg.Connection
    dataset: Dataset
    table: Table
    sleep: Callable[[float], None] = time.sleep

    def run(self) -> int:
        """Divide the table, or continue where a division was cut off; return the rows that were copied.

        `connection` is in autocommit mode. Raises UsageError when the table has something that a copy cannot have,
        BusyError when another session divides it, and DatabaseError when other sessions hold it for ten minutes.
        """
        copied = 0
        with self._only():
            if not self._is_finished():
                if self._state() is None:
                    self._without_waiting(self._make_copy)
                self._watch()
                copied = self._fill()
                self._take_place()
            self._clear()
        return copied

    def give_up(self) -> bool:
        """Remove the copy of a division that was cut off; return whether there was one to remove."""
        with self._only():
            state = self._state()
            if state is None:
                return False
            if state:
                self._clear()  # The copy has taken the place of the table: nothing else is left to do.
                return False
            self._without_waiting(lambda: self.connection.execute(self._filled("drop_triggers")))
            self.connection.execute(self._filled("drop_index"))
            with self.connection.transaction():
                self.connection.execute(_TABLES["drop"].format(table=self._copy))
                for name in ("forget", "forget_partitions", "forget_fact"):
                    self._execute(name)
            self._drop_schema()
            return True

    @property
    def _copy(self) -> sql.Identifier:
        return sql.Identifier(_SCHEMA, self._name)

    @property
    def _name(self) -> str:
        return self.table.name.split(".")[1]

    @property
    def _index(self) -> str:
        return f"etl_division_{short_name(self._name)}"

    def _filled(self, name: str) -> sql.Composed:
        return _SQL[name].format(
            table=self.table.identifier,
            copy=self._copy,
            fact=sql.Literal(self.table.name),
            column=sql.Identifier(self.table.partition_by or ""),
            partition_by=partition_clause(self.dataset, self.table),
            name=sql.Identifier(self._index),
            index=sql.Identifier(self.table.schema, self._index),
            moment=partitions.moment_of(self.table) if self.table.partition_by else sql.NULL,
        )

    def _execute(self, name: str, **values: object) -> psycopg.Cursor[tuple[object, ...]]:
        names = {
            "fact": self.table.name,
            "table": self.table.quoted,
            "copy": self._copy.as_string(None),
            "columns": list(divided_by(self.dataset, self.table)),
            "key": [] if self.table.each else list(self.dataset.key),
            "index": sql.Identifier(self.table.schema, self._index).as_string(None),
        }
        return self.connection.execute(self._filled(name), {**names, **values})

    @contextmanager
    def _only(self) -> Iterator[None]:
        """Let no other session divide the table."""
        if self._execute("lock").fetchone() != (True,):
            raise BusyError(f"another session divides the table {self.table.name}")
        try:
            yield
        except psycopg.errors.InsufficientPrivilege as error:
            raise UsageError(
                f"the user {self.connection.info.user} may not divide {self.table.name}: {error.diag.message_primary}",
                hint="run the command as the owner of the tables and of the ledger",
            ) from error
        finally:
            if not self.connection.closed:
                self._execute("unlock")

    def _state(self) -> bool | None:
        """Return whether the copy has taken the place of the table; None: there is no copy."""
        row = self._execute("state").fetchone()
        return bool(row[0]) if row else None

    def _is_finished(self) -> bool:
        return partitions.is_divided(self.connection, self.dataset, self.table)

    def _make_copy(self) -> None:
        """Make the empty copy with all that the table has, and try whether it can have its rights and triggers."""
        reasons = [str(reason) for (reason,) in self._execute("obstacles")]
        if reasons:
            raise UsageError(
                f"the table {self.table.name} cannot be divided: {'; '.join(reasons)}",
                hint="drop these objects, and make them again afterwards",
            )
        for name in ("make_schema", "make_copy", "copy_indexes"):
            self._execute(name)
        self.connection.execute(_SQL["index_copy"].format(copy=self._copy, index=sql.Identifier(self._index)))
        with self.connection.transaction(force_rollback=True):
            self._execute("try_rights")
        if self.table.partition_by:
            partitions.list_fact(self.connection, self.table)
        partitions.make_hash_partitions(self.connection, self.table, self._copy)
        self._execute("watch_partitions")
        self._execute("enter")

    def _watch(self) -> None:
        """Have the changes of the table noted, and its rows found by their lineage, before the first row is copied."""
        if self._execute("has_triggers").fetchone() != (True,):
            self._without_waiting(lambda: self.connection.execute(self._filled("make_triggers")))
        state = self._execute("index_state").fetchone()
        if state != (True,):
            if state is not None:  # It was cut off.
                self.connection.execute(self._filled("drop_index"))
            self.connection.execute(self._filled("make_index"))

    def _fill(self) -> int:
        """Copy the rows until few of them are missing."""
        total = 0
        while True:
            copied, changed = self._step()
            total += copied
            log.debug("rows_copied", table=self.table.name, rows=total, changes=changed)
            if copied + changed < _FEW:
                return total

    def _step(self) -> tuple[int, int]:
        try:
            return self._copy_rows()
        except psycopg.errors.CheckViolation as error:
            if error.diag.constraint_name is not None or self.table.partition_by is None:
                raise
        self._make_partitions()
        try:
            return self._copy_rows()
        except psycopg.errors.CheckViolation as error:
            first, until = (literal.as_string(None) for literal in partitions.MOMENTS)
            raise UsageError(
                f"the table {self.table.name} holds rows that no partition takes: {self.table.partition_by} is before"
                f" {first} or from {until} on",
                hint="correct or delete these rows, and run the command again",
            ) from error

    def _make_partitions(self) -> None:
        days = [day for (day,) in self._execute("next_days")]
        with self.connection.transaction():
            self._execute("add_partitions", days=days)

    def _copy_rows(self) -> tuple[int, int]:
        with self.connection.transaction():
            self._execute("one_snapshot")
            [(copied, changed)] = self.connection.execute(
                _SQL["copy_rows"],
                {
                    "fact": self.table.name,
                    "table": self.table.quoted,
                    "copy": self._copy.as_string(None),
                    "most": _ROWS,
                },
            ).fetchall()
            return int(copied), int(changed)

    def _take_place(self) -> None:
        """Let the copy take the place of the table, in one short transaction that holds the table alone."""
        self.connection.execute(_TABLES["analyze"].format(table=self._copy))

        def swap() -> None:
            self.connection.execute(self._filled("hold_all"))
            until = time.monotonic() + _HELD

            def quickly() -> None:
                left = max(round((until - time.monotonic()) * 1000), 1)
                self._execute("be_quick", milliseconds=left)

            quickly()
            if self._execute("has_many_changes", most=_FEW * 4).fetchone() == (True,):
                raise psycopg.errors.LockNotAvailable
            self._execute("copy_rows", most=_FEW * 40)
            quickly()
            # A table with foreign keys that are checked later cannot be changed.
            self.connection.execute(queries.load("searching")["check_deferred"])
            quickly()
            self._execute("take_place")

        try:
            self._without_waiting(swap, between=self._step)
        except psycopg.errors.ObjectNotInPrerequisiteState as error:
            raise UsageError(
                f"columns, constraints or indexes of {self.table.name} have changed while it was copied",
                hint=f"etl dataset partition {self.dataset.name} --give-up, and then divide it again",
            ) from error

    def _without_waiting(self, change: Callable[[], object], between: Callable[[], object] | None = None) -> None:
        partitions.without_waiting(self.connection, self.table.name, change, between=between, sleep=self.sleep)

    def _clear(self) -> None:
        """Drop the table whose place the copy has taken."""
        if self._state() is None:
            return
        old = sql.Identifier("etl_staging", self._name)
        self._without_waiting(lambda: self.connection.execute(_TABLES["drop"].format(table=old)))
        self._execute("forget")
        self._drop_schema()

    def _drop_schema(self) -> None:
        """Drop the schema of the copies, unless another table is divided."""
        try:
            self.connection.execute(_SQL["drop_schema"])
        except (psycopg.errors.DependentObjectsStillExist, psycopg.errors.InvalidSchemaName):
            return
