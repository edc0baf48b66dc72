"""A site of a test: a database and a folder, in which `etl` runs as a scheduler would run it."""

import os
import re
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, LiteralString

import psycopg
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from etl.database.connecting import Database
from etl.database.tables import create_tables
from etl.datasets import Dataset, find, read
from etl.errors import EtlError
from etl.ingestion.failed_store.store import FailedStore
from etl.ingestion.summary import Summary
from etl.ingestion.values import Source
from tests.support import in_process, loading
from tests.support.checkout import MEASURED, ROOT
from tests.support.commands import Ended, Running
from tests.support.failures import Failures
from tests.support.faults import Connection, Gate, Moment, on_insert
from tests.support.waiting import until


class Site:
    """Runs commands, loads and faults in one database and one folder, and reads their results."""

    def __init__(self, conninfo: str, folder: Path, *, precalculates: bool = True) -> None:
        self.conninfo = conninfo
        self.folder = folder
        self._precalculates = precalculates
        self.store = folder / "failed"
        self._started: list[Running] = []
        self._connection: Connection | None = None

    def close(self) -> None:
        """End everything that still runs."""
        for running in self._started:
            running.close()
        if self._connection:
            self._connection.close()

    # Commands and loads

    def run(
        self,
        *arguments: str | Path,
        env: Mapping[str, str | None] | None = None,
        cwd: Path | None = None,
        stdin: str = "",
        conninfo: str | None = None,
        own_process: bool = False,
        may_be_faulty: bool = False,
        timeout: float = 60,
    ) -> Ended:
        """Run a command to its end: in this process, unless the test wants another or calls from another thread.

        `env` adds variables, or removes those with the value None; `stdin` is the input of the command; `conninfo`
        is another address of the database. A fault of the command itself fails the test, unless it may be faulty.
        """
        if own_process or threading.current_thread() is not threading.main_thread():
            running = self.start(*arguments, env=env, cwd=cwd, conninfo=conninfo)
            with suppress(BrokenPipeError):  # it may not read
                running.send(stdin.encode())
            return running.ended(timeout, may_be_faulty=may_be_faulty)
        words = [str(word) for word in arguments]
        ended = in_process.call(words, env=self.environment(env, conninfo), cwd=cwd or self.folder, stdin=stdin)
        if not may_be_faulty:
            ended.assert_sound()
        return ended

    def load(self, dataset: str, source: str | Path, *options: str) -> dict[str, Any]:
        """Load a source by the command, and return its summary."""
        return self.run("load", dataset, source, "--json", *options).summary

    def start(
        self,
        *arguments: str | Path,
        env: Mapping[str, str | None] | None = None,
        cwd: Path | None = None,
        conninfo: str | None = None,
    ) -> Running:
        """Run a command at the same time as the test."""
        words = [str(word) for word in arguments]
        running = Running(words, self.environment(env, conninfo), cwd or self.folder)
        self._started.append(running)
        return running

    def environment(self, env: Mapping[str, str | None] | None = None, conninfo: str | None = None) -> dict[str, str]:
        """Return the environment of a command: no settings of the user, only the address of the database."""
        variables = {name: os.environ.get(name) for name in ("PATH", "TMPDIR")}
        variables |= {"HOME": str(self.folder), "PYTHONPATH": str(ROOT), **MEASURED}
        # A test that needs a database that comes back asks for the wait.
        variables |= {"ETL_DATABASE_URL": conninfo or self.conninfo, "ETL_RETRY_FOR": "0"}
        if not self._precalculates:
            variables["ETL_NO_PRECALCULATE"] = "true"
        variables |= env or {}
        return {name: value for name, value in variables.items() if value is not None}

    def bring(self, source: Source | Path, dataset: str, **settings: Any) -> tuple[Summary, EtlError | None]:
        """Load a source in this process and without the command line; its balance adds up."""
        if isinstance(source, Path):
            source = Source(name=source.name, path=str(source))
        FailedStore(self.store).prepare()
        database = Database(conninfo=self.conninfo)
        definition = find(dataset, self.folder / "config")
        summary, error = loading.bring(source, definition, database, **{"failed_dir": self.store} | settings)
        assert summary.records.adds_up()
        return summary, error

    def write_definition(self, text: str) -> Path:
        """Write the definition of a dataset to the folder in which the commands look for it."""
        name = re.search(r'^name = "(.*)"$', text, re.MULTILINE)
        assert name
        path = self.folder / "config" / "datasets" / f"{name[1]}.toml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    def define(self, text: str) -> Dataset:
        """Write the definition of a dataset, and create its tables."""
        dataset = read(self.write_definition(text))
        create_tables(self.connection, dataset)
        return dataset

    # The database

    @property
    def connection(self) -> Connection:
        """The connection of the test, which is opened again if the server has ended it."""
        if self._connection:
            with suppress(psycopg.OperationalError):
                self._connection.execute("")
        if not self._connection or self._connection.closed:
            self._connection = self.connect()
        return self._connection

    def connect(self) -> Connection:
        """Open another connection."""
        return psycopg.connect(self.conninfo, autocommit=True, application_name="test")

    def ask(self, query: LiteralString | sql.Composed, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """Run a statement and return its rows, if it has any."""
        cursor = self.connection.execute(query, values or None)
        return cursor.fetchall() if cursor.description else []

    def value(self, query: LiteralString, values: Sequence[Any] = ()) -> Any:
        """Return the only value of a query."""
        [[value]] = self.ask(query, values)
        return value

    def column(self, query: LiteralString, values: Sequence[Any] = ()) -> list[Any]:
        """Return the values of a query, one in each row."""
        return [value for (value,) in self.ask(query, values)]

    def count_batches(self) -> int:
        """Count the batches in the ledger."""
        return int(self.value("select count(*) from etl.batches"))

    def wait_for_batches(self, batches: int, running: Running) -> None:
        """Wait until so many batches are in the ledger, or the command has ended."""
        until(lambda: self.count_batches() >= batches or not running.is_running(), f"{batches} batches")

    def wait_for_locks(self) -> None:
        """Wait until no load has the lock of a source: a backend notices the end of its client a moment later."""
        query = (
            "select 1 from pg_locks join pg_stat_activity using (pid)"
            " where locktype = 'advisory' and application_name ~ '^etl' and datname = current_database()"
        )
        until(lambda: not self.ask(query), "the locks of the loads")

    def forget_loads(self, dataset: str) -> None:
        """Empty the tables of a dataset, and the ledger."""
        for table in find(dataset, self.folder / "config").tables:
            self.ask(sql.SQL("delete from {}").format(sql.Identifier(*table.name.split("."))))
        self.ask(
            "delete from etl.faults; delete from etl.failures;"
            " delete from etl.separate_batches; delete from etl.attempts; delete from etl.runs"
        )

    @property
    def failures(self) -> Failures:
        """The failures in the failed store."""
        return Failures(self.store, self.ask)

    # Faults

    def on_insert(self, table: str, when: LiteralString, body: str, *, moment: Moment = "in COPY") -> None:
        """Run PL/pgSQL in the server for each row of a table that meets a condition, by a trigger named `fault`."""
        on_insert(self.connection, table, when, body, moment=moment)

    def backend(self, doing: LiteralString) -> int:
        """Wait until backends of a load meet this condition on pg_stat_activity, and return the process of one."""
        query = sql.SQL(
            "select pid from pg_stat_activity where application_name ~ '^etl' and datname = current_database() and ({})"
        ).format(sql.SQL(doing))
        [(pid, *_), *_] = until(lambda: self.ask(query), f"a backend with {doing}")
        return int(pid)

    def terminate(self, pid: int) -> None:
        """End a backend, and wait for its end."""
        with self._elsewhere() as connection:
            connection.execute("select pg_terminate_backend(%s, 10000)", [pid])

    def allow_connections(self, allowed: bool) -> None:
        """Let the server accept new connections to the database, or refuse them."""
        name = conninfo_to_dict(self.conninfo)["dbname"]
        with self._elsewhere() as connection:
            connection.execute(
                sql.SQL("alter database {} allow_connections {}").format(sql.Identifier(str(name)), allowed)
            )

    @contextmanager
    def copied(self) -> Iterator[str]:
        """Give the address of a copy of the database as it is now."""
        original = self.connection.info.dbname
        names = {"copy": sql.Identifier(f"{original}_copy"), "original": sql.Identifier(original)}
        with self._elsewhere() as connection:
            connection.execute(
                "select pg_terminate_backend(pid, 10000) from pg_stat_activity where datname = %s", [original]
            )
            connection.execute(sql.SQL("create database {copy} template {original}").format(**names))
            try:
                yield make_conninfo(self.conninfo, dbname=f"{original}_copy")
            finally:
                connection.execute(sql.SQL("drop database {copy} with (force)").format(**names))

    def _elsewhere(self) -> Connection:
        return psycopg.connect(self.conninfo, dbname="postgres", autocommit=True)

    @contextmanager
    def gate(self, table: str, moment: Moment, offset: int = 0, when: LiteralString = "") -> Iterator[Gate]:
        """Hold up a load in the server until the gate is opened.

        It is at some rows of the batches from this offset on, or at the rows that meet `when`; or at the end of the
        attempt.
        """
        with self.connect() as connection:
            gate = Gate(connection, moment, self.backend)
            some = "new.etl_batch >= {} and new.etl_place between 40 and 60" if moment != "in closing" else "true"
            gate.put(table, when or sql.SQL(some).format(offset))
            yield gate
