"""The execution of a plan: its commands as processes, its statements in sessions of their own, all at once."""

import json
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any, LiteralString

import psycopg
from psycopg import sql
from psycopg.conninfo import make_conninfo

from tests.support.commands import Running
from tests.support.faults import Connection
from tests.support.mixtures import copies, statements
from tests.support.mixtures.exports import FACTS, KEYS, Dataset
from tests.support.mixtures.plan import Act, Command, Edit, Grow, Kill, OnFailures, Plan, Restore, Statement, Step
from tests.support.site import Site

# The user as which commands run; only some of its rights are those of an owner.
LOADER = "mixture_loader"

# Short waits for the database, together some seconds; many rejected records are no reason to stop.
SETTINGS = {
    "ETL_RETRY_ATTEMPTS": "8",
    "ETL_RETRY_BASE_SECONDS": "0.02",
    "ETL_RETRY_CAP_SECONDS": "0.5",
    "ETL_MAX_REJECTED": "50%",
    "ETL_MAX_DELETED": "100%",
}

# A command that runs for longer hangs.
SECONDS = 90

# The administrator gives way: a statement that waits for long, or in a circle, is ended and not tried again.
_LIMITS = "set statement_timeout = '15s'; set lock_timeout = '5s'; set deadlock_timeout = '300ms'"


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How a command ended. `signal` is the signal that it was sent before its end, if any.

    `may_be_refused`: it uses the failed store of another database.
    """

    act: str
    words: Sequence[str]
    returncode: int
    stdout: str
    stderr: str
    signal: int | None = None
    may_be_refused: bool = False


@dataclass(kw_only=True)
class Record:
    """What happened: the ends of the commands, and what persons changed.

    `edits` has kind, dataset, key and status of each row that a person changed; `discards` the status of each record of
    a failure that was to be discarded, by its id. `times` has the begin and the end of each act, `hung` the commands
    that did not end, and `notes` what the server ended of what the administrator did.
    """

    outcomes: list[Outcome] = field(default_factory=list)
    edits: list[tuple[str, Dataset, str, str]] = field(default_factory=list)
    discards: dict[str, list[str]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    times: list[str] = field(default_factory=list)
    hung: list[str] = field(default_factory=list)
    errors: list[BaseException] = field(default_factory=list)
    has_copy: bool = False

    def __str__(self) -> str:
        ends = [f"{outcome.returncode} {outcome.act}" for outcome in self.outcomes]
        return "\n".join(
            ["what happened, with its begin and its end in seconds:", *sorted(self.times), *self.notes, *ends]
        )


def as_loader(conninfo: str) -> str:
    """Return the address for the user as which commands run."""
    return make_conninfo(conninfo, user=LOADER)


class Execution:
    """Runs the plan in a site, in which the tables are, and keeps what happened."""

    def __init__(self, site: Site, plan: Plan) -> None:
        self._site = site
        self._plan = plan
        self._exports = {export.name: export for export in plan.exports}
        self._begun = 0.0
        self._before = site.count_batches()
        self._threads = [(lane, threading.Thread(target=self._run_lane, args=[lane])) for lane in plan.lanes]
        # A table that is written anew while a dump begins is empty in the dump: PostgreSQL says so of each snapshot.
        self._writing_anew = threading.Lock()
        self.record = Record()

    def run(self) -> Record:
        """Run all lanes to their ends, beside the listeners; end the listeners by SIGTERM."""
        self._begun = time.monotonic()
        listeners = [self._start(["listen"]) for _ in range(self._plan.listeners)]
        for _, thread in self._threads:
            thread.start()
        for _, thread in self._threads:
            thread.join()
        for listener in listeners:
            if listener.is_running():
                listener.signal(15)
            self._end(listener, ["listen"], "listen", 15)
        return self.record

    def _run_lane(self, lane: Sequence[Step]) -> None:
        try:
            with self._site.connect() as connection:
                connection.execute(_LIMITS)
                for step in lane:
                    self._reach(connection, step.batches)
                    time.sleep(step.pause)
                    begun = time.monotonic() - self._begun
                    self._do(step.act, connection)
                    self.record.times.append(f"{begun:6.2f} {time.monotonic() - self._begun:6.2f} {step.act}")
        except BaseException as error:  # noqa: BLE001 - the main thread raises it
            self.record.errors.append(error)

    def _reach(self, connection: Connection, batches: int) -> None:
        """Wait until the ledger has so many batches more than at the beginning, or all commands have ended."""
        if batches:
            _wait(lambda: self._rests() or _batches(connection) >= self._before + batches, SECONDS)

    def _rests(self) -> bool:
        """Return whether no lane with commands runs any more."""
        commands = [thread for lane, thread in self._threads if not any(step.batches for step in lane)]
        return not any(thread.is_alive() for thread in commands)

    def _do(self, act: Act, connection: Connection) -> None:
        match act:
            case Command():
                self._run_command(act.words, str(act), connection, act.kill, as_owner=act.as_owner)
            case OnFailures():
                self._on_failures(act, connection)
            case Statement():
                self._run_statements(act, connection)
            case Edit():
                self._edit(act, connection)
            case Grow():
                self._exports[act.export].grow(self._site.folder)
            case Restore():
                self._restore(act)

    # Commands

    def _start(self, words: Sequence[str], conninfo: str | None = None, *, as_owner: bool = False) -> Running:
        conninfo = conninfo or self._site.conninfo
        return self._site.start(*words, env=SETTINGS, conninfo=conninfo if as_owner else as_loader(conninfo))

    def _end(self, running: Running, words: Sequence[str], act: str, sent: int | None = None, **more: bool) -> None:
        try:
            ended = running.ended(SECONDS, may_be_faulty=True)
        except subprocess.TimeoutExpired:
            running.kill()
            self.record.hung.append(f"{act} did not end in {SECONDS} s: {running.stderr()[-2000:]}")
            return
        self.record.outcomes.append(
            Outcome(
                act=act,
                words=words,
                returncode=128 - ended.returncode if ended.returncode < 0 else ended.returncode,
                stdout=ended.stdout,
                stderr=ended.stderr,
                signal=sent,
                **more,
            )
        )

    def _run_command(
        self,
        words: Sequence[str],
        act: str,
        connection: Connection,
        kill: Kill | None = None,
        *,
        as_owner: bool = False,
    ) -> None:
        running = self._start(words, as_owner=as_owner)
        sent = None
        if kill and kill.batches is not None:
            # Another load of the same source may enter batches while this process starts.
            limit, pid = kill.batches, running.process.pid
            _wait(lambda: not running.is_running() or _batches(connection, pid) >= limit, SECONDS)
            time.sleep(kill.seconds)
        elif kill:
            _wait(lambda: not running.is_running(), kill.seconds)
        if kill and running.is_running():
            running.signal(kill.number)
            sent = kill.number
        self._end(running, words, act, sent)

    def _on_failures(self, act: OnFailures, connection: Connection) -> None:
        """Replay or discard pending failures of runs that are visible, after a look at their files."""
        query = """
            select f.id, f.dataset, f.run from etl.failures f join etl.runs using (run)
            where f.state = 'pending' and (not is_atomic or published_at is not null)
            order by md5(f.id) limit %s
        """
        found = connection.execute(query, [act.picks]).fetchall()
        if not found:
            return
        if act.what == "discard":
            for failure, dataset, run in found:
                try:
                    lines = (self._site.store / dataset / run / f"{failure}.ndjson").read_text().splitlines()
                except FileNotFoundError:  # replayed and purged since; a pending failure without a file shows later
                    lines = []
                self.record.discards[failure] = [json.loads(line)["status"] for line in lines]
        ids = [failure for failure, *_ in found]
        more = ["--reason", "a mixture"] if act.what == "discard" else []
        self._run_command(["failed", act.what, *ids, *more], str(act), connection, act.kill)

    # What persons do

    def _run_statements(self, act: Statement, connection: Connection) -> None:
        table, schema = FACTS[act.dataset], "analytics"
        names = {
            "table": sql.Identifier(*table.split(".")),
            "aggregate": sql.Identifier(schema, act.aggregate),
            "name": sql.Identifier(f"{act.name}_{act.dataset}"),
            "key": sql.Identifier(KEYS[act.dataset]),
            "index": sql.Identifier(_an_index(connection, table)),
            "seconds": sql.Literal(act.seconds),
        }
        with self._writing_anew if act.kind in statements.REWRITES else nullcontext():
            for text in statements.ALL[act.kind]:
                self._execute(connection, sql.SQL(text).format(**names), act.kind)
        self._execute(connection, sql.SQL("rollback"), act.kind)

    def _execute(self, connection: Connection, statement: sql.SQL | sql.Composed, kind: str) -> list[tuple[Any, ...]]:
        """Run a statement. What the server ends because of the mixture is noted: the administrator gives way."""
        try:
            cursor = connection.execute(statement)
            return cursor.fetchall() if cursor.description else []
        except (
            psycopg.errors.OperationalError,
            psycopg.errors.InternalError_,
            psycopg.errors.InFailedSqlTransaction,
            psycopg.errors.UniqueViolation,
            psycopg.errors.UndefinedTable,
            psycopg.errors.UndefinedObject,
            psycopg.errors.DuplicateTable,
        ) as error:
            self.record.notes.append(f"{kind}: {type(error).__name__} {error.sqlstate}")
            return []

    def _edit(self, act: Edit, connection: Connection) -> None:
        query: LiteralString = statements.EDITS[act.kind]
        statement = sql.SQL(query).format(
            table=sql.Identifier(*FACTS[act.dataset].split(".")),
            key=sql.Identifier(KEYS[act.dataset]),
            salt=sql.Literal(act.salt),
        )
        rows = self._execute(connection, statement, act.kind)
        self.record.edits += [(act.kind, act.dataset, key, status) for key, status in rows]

    def _restore(self, act: Restore) -> None:
        """Restore a dump as a second database, and load into it. A dump that a dropped table ends is given up."""
        dump, conninfo = self._site.folder / "dump", self._site.conninfo
        with self._writing_anew:
            problem = copies.dump(conninfo, dump)
        if problem:
            self.record.notes.append(problem)
            return
        self.record.has_copy = True
        if problem := copies.restore(conninfo, dump):
            raise AssertionError(problem)
        export = self._exports[act.export]
        words = ["load", export.dataset, export.name, *export.options, "--json", "--batch-rows", "90"]
        words += [] if act.shares_store else ["--failed-dir", "failed_copy"]
        running = self._start(words, copies.address(conninfo))
        self._end(running, words, str(act), may_be_refused=act.shares_store)


def _batches(connection: Connection, pid: int | None = None) -> int:
    """Count the batches in the ledger, those of one process if it is given."""
    query = """
        select count(*) from etl.batches join etl.attempts using (run, attempt)
        where pid = coalesce(%s::integer, pid)
    """
    row = connection.execute(query, [pid]).fetchone()
    assert row
    return int(row[0])


def _an_index(connection: Connection, table: str) -> str:
    query = """
        select relname from pg_index join pg_class on pg_class.oid = indexrelid
        where indrelid = %s::regclass and indisvalid order by relname !~ 'pkey' limit 1
    """
    row = connection.execute(query, [table]).fetchone()
    return str(row[0]) if row else "none"


def _wait(condition: Callable[[], bool], seconds: float) -> None:
    """Wait for a condition, at most so long."""
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.005)
