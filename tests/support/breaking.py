"""What the tests that break things share: sites where loads run beside the test, and what they leave behind.

A site is one fresh database and one folder. Whatever was done to a load there, `assert_sound` tells whether facts,
ledger and failed store agree, and `state` what they hold, to be compared with a clean load elsewhere.
"""

import fcntl
import hashlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import termios
import threading
import time
from array import array
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, LiteralString, TypeVar

import psycopg
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from etl.database.connecting import Database
from etl.database.tables import create_tables
from etl.datasets import read
from etl.embedded import Server
from etl.generate import generate
from etl.provisioning import migrate
from tests.support import command

ROOT = Path(__file__).resolve().parents[2]

Connection = psycopg.Connection[tuple[Any, ...]]
Found = TypeVar("Found")
Moment = Literal["in COPY", "in COMMIT", "in closing"]

# Short waits, but together longer than a server needs to start again.
PATIENT = ["--retry-attempts", "40", "--retry-base-seconds", "0.05", "--retry-cap-seconds", "0.5"]

# The shipments of the generator once more, but every record that comes is a row: what is loaded twice shows.
DELIVERIES = """
name = "deliveries"
mode = "append"
[[table]]
name = "logistics.deliveries"
[table.columns]
shipment_id = { type = "text", required = true, max_length = 50 }
carrier = { type = "text", max_length = 100 }
created_at = { type = "timestamptz", required = true }
promised_at = "timestamptz"
updated_at = "timestamptz"
origin_city = { path = "origin.city", type = "text", max_length = 100 }
destination_city = { path = "destination.city", type = "text", max_length = 100 }
weight_kg = { type = "numeric", above = 0 }
pieces = { type = "integer", min = 0 }
note = { type = "text", max_length = 500 }
[[table]]
name = "logistics.delivery_items"
each = "items"
[table.columns]
shipment_id = { path = "^.shipment_id", type = "text" }
line_no = { path = "#", type = "integer" }
sku = { type = "text", max_length = 50 }
description = { type = "text", max_length = 200 }
quantity = { type = "integer", min = 0 }
weight_kg = { type = "numeric", min = 0 }
"""

# What no definition tells of: only the server refuses these records, one in some hundreds.
_REFUSED_BY_THE_SERVER = """
alter table logistics.shipments add constraint no_dozen check (pieces <> 12);
alter table logistics.deliveries add constraint no_dozen check (pieces <> 12);
"""


def until(found: Callable[[], Found], what: str, seconds: float = 30) -> Found:
    """Return what `found` gives as soon as it is true."""
    deadline = time.monotonic() + seconds
    while not (value := found()):
        assert time.monotonic() < deadline, f"waited {seconds} s for {what}"
        time.sleep(0.01)
    return value


def write_shipments(path: Path, records: int, *, seed: int = 7, bad: float = 0.01) -> Path:
    """Write generated shipments as one array."""
    with path.open("wb") as file:
        generate("shipments", records=records, output=file, seed=seed, bad=bad)
    return path


@dataclass(frozen=True, kw_only=True)
class Ended:
    """A command that ended: its exit code, and what it printed."""

    returncode: int
    stdout: str
    stderr: str

    @property
    def lines(self) -> list[dict[str, Any]]:
        """The lines of `--json`."""
        return [json.loads(line) for line in self.stdout.splitlines()]

    @property
    def summary(self) -> dict[str, Any]:
        """The summary of its only source, whose balance adds up.

        Its exit code is the one of the command, unless what came after it was cut short.
        """
        [summary] = [line for line in self.lines if line["kind"] == "source"]
        counts = summary["records"]
        assert counts["read"] == sum(counts[name] for name in ("loaded", "rejected", "failed", "skipped", "withheld"))
        assert self.returncode in {summary["exit_code"], 4, 129, 130, 143}, self.stderr
        return summary

    def count_events(self, event: str) -> int:
        """Count the lines of the log that tell of this."""
        return self.stderr.count(f'"event": "{event}"')


class Running:
    """A command that runs beside the test; what it prints goes to files, so that it never waits for a reader."""

    def __init__(self, arguments: Sequence[str], env: Mapping[str, str], folder: Path) -> None:
        self._out, self._err = (tempfile.TemporaryFile(dir=folder) for _ in range(2))  # noqa: SIM115 - see close
        self.process = subprocess.Popen(
            [sys.executable, "-m", "etl", *arguments],
            cwd=folder,
            env=env,
            stdin=subprocess.PIPE,
            stdout=self._out,
            stderr=self._err,
        )

    def send(self, data: bytes) -> None:
        """Give the command bytes to read on its standard input."""
        assert self.process.stdin
        self.process.stdin.write(data)
        self.process.stdin.flush()

    def has_read(self) -> bool:
        """Tell whether it has read all that was sent."""
        assert self.process.stdin
        unread = array("i", [1])
        fcntl.ioctl(self.process.stdin, termios.FIONREAD, unread)
        return unread[0] == 0

    def is_running(self) -> bool:
        """Tell whether it runs."""
        return self.process.poll() is None

    def kill(self) -> bool:
        """End it by SIGKILL; False when it had ended before."""
        self.process.kill()
        return self.process.wait() == -signal.SIGKILL

    def signal(self, number: int) -> None:
        """Send it a signal."""
        self.process.send_signal(number)

    def stderr(self) -> str:
        """Return what it wrote to stderr until now."""
        return _read(self._err)

    def ended(self, timeout: float = 120) -> Ended:
        """Wait for its end; one that ended by a fault of its own fails the test."""
        assert self.process.stdin
        self.process.stdin.close()
        returncode = self.process.wait(timeout)
        return _sound(Ended(returncode=returncode, stdout=_read(self._out), stderr=_read(self._err)))

    def close(self) -> None:
        """End it, whatever it does."""
        self.process.kill()
        self.process.wait()
        assert self.process.stdin
        self.process.stdin.close()
        self._out.close()
        self._err.close()


def _sound(ended: Ended) -> Ended:
    assert "Traceback" not in ended.stderr, ended.stderr
    assert ended.returncode != 70, ended.stderr
    return ended


def _read(file: Any) -> str:
    # By the descriptor: the command shares the position of the file.
    return os.pread(file.fileno(), os.fstat(file.fileno()).st_size, 0).decode()


@dataclass(frozen=True, kw_only=True)
class State:
    """What a database and its failed store hold, how often each: rows without lineage, and records refused."""

    facts: Mapping[str, Counter[str]]
    refused: Counter[tuple[Any, ...]]
    aggregates: Mapping[str, Counter[str]]

    def lost(self, clean: "State") -> int:
        """Count the rows and refused records of a clean load that are not here."""
        return sum((one - other).total() for one, other in _pairs(clean, self))

    def doubled(self, clean: "State") -> int:
        """Count the rows and refused records that are here and in no clean load, or more often than there."""
        return sum((other - one).total() for one, other in _pairs(clean, self))


def _pairs(one: State, other: State) -> list[tuple[Counter[Any], Counter[Any]]]:
    return [*((one.facts[name], other.facts[name]) for name in one.facts), (one.refused, other.refused)]


class Site:
    """A fresh database and a folder, in which `etl` runs as a scheduler would run it."""

    def __init__(self, conninfo: str, folder: Path) -> None:
        self.conninfo = conninfo
        self.folder = folder
        self.store = folder / "failed"
        self._started: list[Running] = []
        definition = folder / "config" / "datasets" / "deliveries.toml"
        definition.parent.mkdir(parents=True, exist_ok=True)
        definition.write_text(DELIVERIES)

    def start(self, *arguments: str | Path, conninfo: str | None = None, **variables: str) -> Running:
        """Run a command beside the test, over another way to the database when `conninfo` names one."""
        running = Running([str(word) for word in arguments], self._variables(conninfo) | variables, self.folder)
        self._started.append(running)
        return running

    def run(self, *arguments: str | Path, conninfo: str | None = None) -> Ended:
        """Run a command to its end, in this process unless another thread asks for it."""
        if threading.current_thread() is not threading.main_thread():
            return self.start(*arguments, conninfo=conninfo).ended()
        words = [str(word) for word in arguments]
        done = command.call(words, env=self._variables(conninfo), cwd=self.folder)
        return _sound(Ended(returncode=done.returncode, stdout=done.stdout, stderr=done.stderr))

    def _variables(self, conninfo: str | None) -> dict[str, str]:
        env = {name: os.environ[name] for name in ("PATH", "TMPDIR") if name in os.environ}
        return env | {"HOME": str(self.folder), "PYTHONPATH": str(ROOT), "ETL_DATABASE_URL": conninfo or self.conninfo}

    def close(self) -> None:
        """End what still runs."""
        for running in self._started:
            running.close()

    def connect(self) -> Connection:
        """Open a connection of the test's own."""
        return psycopg.connect(self.conninfo, autocommit=True, application_name="test")

    def ask(self, query: LiteralString | sql.Composed, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """Run a statement and return its rows, if it has any."""
        with self.connect() as connection:
            cursor = connection.execute(query, values)
            return cursor.fetchall() if cursor.description else []

    def value(self, query: LiteralString, values: Sequence[Any] = ()) -> Any:
        """Return the one value that a query gives."""
        [[value]] = self.ask(query, values)
        return value

    def count_batches(self) -> int:
        """Count the batches in the ledger."""
        return int(self.value("select count(*) from etl.batches"))

    def backend(self, doing: LiteralString) -> int:
        """Wait until backends of a load meet this condition on pg_stat_activity, and return the process of one."""
        query = sql.SQL(
            "select pid from pg_stat_activity where application_name ~ '^etl' and datname = current_database() and ({})"
        ).format(sql.SQL(doing))
        with self.connect() as connection:
            [(pid, *_), *_] = until(lambda: connection.execute(query).fetchall(), f"a backend with {doing}")
        return int(pid)

    def terminate(self, pid: int) -> None:
        """End a backend, and wait until it is gone."""
        with self._elsewhere() as connection:
            connection.execute("select pg_terminate_backend(%s, 10000)", [pid])

    def allow_connections(self, allowed: bool) -> None:
        """Let the server take new connections to the database, or refuse them."""
        name = conninfo_to_dict(self.conninfo)["dbname"]
        with self._elsewhere() as connection:
            connection.execute(
                sql.SQL("alter database {} allow_connections {}").format(sql.Identifier(str(name)), allowed)
            )

    def _elsewhere(self) -> Connection:
        return psycopg.connect(self.conninfo, dbname="postgres", autocommit=True)

    @contextmanager
    def gate(self, table: str, moment: Moment, offset: int = 0) -> Iterator["Gate"]:
        """Hold up a load in the server until the gate is opened.

        It stands at rows of the batches from this offset on, or where the attempt is closed.
        """
        with self.connect() as connection:
            connection.execute("select pg_advisory_lock(42)")
            connection.execute(_GATE_FUNCTION)
            connection.execute(_GATES[moment].format(table=sql.Identifier(*table.split(".")), offset=offset))
            yield Gate(self, connection, moment)


class Gate:
    """An advisory lock of the test, for which loads wait in a trigger."""

    def __init__(self, site: Site, connection: Connection, moment: Moment) -> None:
        self._site = site
        self._connection = connection
        self._moment = moment

    def reached(self) -> int:
        """Wait until a load stands before the gate, and return the process of its backend."""
        return self._site.backend(_AT_GATE[self._moment])

    def open(self) -> None:
        """Let the loads go on; one that comes later finds it open."""
        self._connection.execute("select pg_advisory_unlock_all()")


_AT_GATE: dict[Moment, LiteralString] = {
    "in COPY": "wait_event = 'advisory' and query !~* '^commit'",
    "in COMMIT": "wait_event = 'advisory' and query ~* '^commit'",
    "in closing": "wait_event = 'advisory' and query ~* '^ *update'",
}

_GATE_FUNCTION = sql.SQL("""
    create or replace function etl_gate() returns trigger language plpgsql as $$
    begin
        perform pg_advisory_xact_lock_shared(42);
        return new;
    end;
    $$
""")
_GATES = {
    "in COPY": sql.SQL("""
        create trigger gate before insert on {table} for each row
        when (new.etl_batch >= {offset} and new.etl_place between 40 and 60) execute function etl_gate()
    """),
    "in COMMIT": sql.SQL("""
        create constraint trigger gate after insert on {table} deferrable initially deferred for each row
        when (new.etl_batch >= {offset} and new.etl_place between 40 and 60) execute function etl_gate()
    """),
    "in closing": sql.SQL("""
        create trigger gate before update on {table} for each row execute function etl_gate()
    """),
}


class Databases:
    """Fresh migrated databases of one server, with the tables of `deliveries`."""

    def __init__(self, server: Server, *, tcp: bool = False) -> None:
        self._address = server.url(tcp=tcp)
        self._count = 0
        self._make("breaking", "template1")
        template = self._conninfo("breaking")
        migrate(Database(conninfo=template), ROOT / "config")
        with tempfile.TemporaryDirectory() as folder, psycopg.connect(template, autocommit=True) as connection:
            definition = Path(folder) / "deliveries.toml"
            definition.write_text(DELIVERIES)
            create_tables(connection, read(definition))
            connection.execute(_REFUSED_BY_THE_SERVER)

    @contextmanager
    def site(self, folder: Path) -> Iterator[Site]:
        """Give a site that is gone afterwards, but for its folder."""
        self._count += 1
        name = f"breaking_{self._count}"
        self._make(name, "breaking")
        site = Site(self._conninfo(name), folder)
        try:
            yield site
        finally:
            site.close()
            with self._maintenance() as connection:
                connection.execute(sql.SQL("drop database {} with (force)").format(sql.Identifier(name)))

    def _make(self, name: str, template: str) -> None:
        statement = sql.SQL("create database {} template {}")
        with self._maintenance() as connection:
            connection.execute(statement.format(sql.Identifier(name), sql.Identifier(template)))

    def _conninfo(self, name: str) -> str:
        return make_conninfo(self._address, dbname=name)

    def _maintenance(self) -> Connection:
        return psycopg.connect(self._conninfo("postgres"), autocommit=True)


def state(site: Site) -> State:
    """Tell what a site holds."""
    with site.connect() as connection:
        facts = {name: _rows(connection, name) for name in _tables(connection, "logistics")}
        aggregates = {name: _rows(connection, name) for name in _tables(connection, "analytics")}
        return State(facts=facts, refused=Counter(_refused(site, connection)), aggregates=aggregates)


def _tables(connection: Connection, schema: str) -> list[str]:
    query = "select table_name from information_schema.tables where table_schema = %s and table_type = 'BASE TABLE'"
    return [f"{schema}.{name}" for (name,) in connection.execute(query, [schema])]


def _rows(connection: Connection, table: str) -> Counter[str]:
    query = """
        select column_name from information_schema.columns
        where table_schema || '.' || table_name = %s and column_name !~ '^etl_' order by ordinal_position
    """
    names = sql.SQL(", ").join(sql.Identifier(name) for (name,) in connection.execute(query, [table]))
    rows = sql.SQL("select row({})::text from {}").format(names, sql.Identifier(*table.split(".")))
    return Counter(row for (row,) in connection.execute(rows))


def _refused(site: Site, connection: Connection) -> Iterator[tuple[Any, ...]]:
    """Yield each record that waits in the failed store; each file that the ledger names is whole."""
    query = "select dataset, run, id, kind, count_records, sha256 from etl.failures where state = 'pending'"
    for dataset, run, failure, kind, count, sha256 in connection.execute(query).fetchall():
        path = site.store / dataset / run / f"{failure}.ndjson"
        lines = path.read_bytes()
        told = json.loads(path.with_suffix(".json").read_bytes())
        assert hashlib.sha256(lines).hexdigest() == sha256 == told["sha256"]
        assert (told["id"], told["run"], told["kind"]) == (failure, run, kind)
        assert len(lines.splitlines()) == len(told["records"]) == count
        for text, place in zip(lines.splitlines(), told["records"], strict=True):
            yield dataset, kind, *place.values(), text


def assert_sound(site: Site) -> None:
    """The ledger, the facts and the failed store agree, however far the load came.

    A file that the ledger does not name may be there: its batch was not entered.
    """
    with site.connect() as connection, connection.transaction():
        # One snapshot: the backend of a load that was killed may still commit.
        connection.execute("set transaction isolation level repeatable read")
        balances = (
            "select count(*) from etl.batches where count_records <> count_loaded + count_rejected + count_failed"
        )
        assert connection.execute(balances).fetchone() == (0,)
        query = """
            select run, dataset, mode, is_atomic and published_at is null,
                coalesce(sum(count_loaded), 0)::integer, coalesce(sum(count_rejected + count_failed), 0)::integer,
                (
                    select coalesce(sum(count_records), 0)::integer from etl.failures f
                    where f.run = r.run and state <> 'replayed'
                )
            from etl.runs r left join etl.batches b using (run) group by run, dataset, mode
        """
        appended = Counter[str]()
        for run, dataset, mode, is_hidden, loaded, refused, stored in connection.execute(query).fetchall():
            assert refused == stored, f"the ledger counts {refused} refused records of {run} and its failures {stored}"
            appended[dataset] += 0 if mode == "merge" or is_hidden else loaded
        for (rows,) in connection.execute("select count(*) from logistics.deliveries"):
            assert rows == appended["deliveries"]
        for _ in _refused(site, connection):
            pass


def assert_complete(site: Site, dataset: str, source: Path, records: int) -> None:
    """The site is sound, the ledger covers the source without gap or overlap, and the store holds no other file."""
    assert_sound(site)
    content = source.read_bytes()
    query = """
        select "offset", bytes, first_record, count_records from etl.batches join etl.runs using (run)
        where dataset = %s and finished_at is not null order by "offset"
    """
    batches = site.ask(query, [dataset])
    assert sum(count for *_, count in batches) == records
    ends = [(0, 0, 1, 0), *batches, (len(content), 0, records + 1, 0)]
    for (offset, length, first, count), (next_offset, _, next_first, _) in pairwise(ends):
        assert next_first == first + count
        assert next_offset >= offset + length
        assert not content[offset + length : next_offset].strip(b"[], \n"), "the ledger leaves records out"
    named = [name for (name,) in site.ask("select id from etl.failures")]
    found = sorted(path.name for path in site.store.rglob("*") if path.is_file())
    assert found == sorted(f"{name}.{ending}" for name in named for ending in ("json", "ndjson"))


@contextmanager
def durable_server(folder: Path) -> Iterator[Server]:
    """Run a server in a folder which waits for the disk as in service, and from which a crash can take much."""
    server = Server(folder / "postgres")
    server.start()
    try:
        with psycopg.connect(server.url(), autocommit=True) as connection:
            # Whatever flushes the log of the server beside the loads would hide what a crash can take.
            connection.execute("alter system set autovacuum = off")
            connection.execute("alter system set bgwriter_lru_maxpages = 0")
            connection.execute("select pg_reload_conf()")
        yield server
    finally:
        server.stop()


@cache
def databases_of(server: Server) -> Databases:
    """Return the fresh databases of a server; their template is made once."""
    return Databases(server)


@dataclass(frozen=True, kw_only=True)
class Case:
    """A source, the command that loads it (but for --batch-rows), what a clean load leaves, and how long it takes."""

    dataset: str
    source: Path
    records: int
    command: list[str]
    clean: State
    seconds: float

    def assert_done(self, site: Site) -> None:
        """The site is as a clean load left another: nothing is lost, nothing doubled."""
        assert_complete(site, self.dataset, self.source, self.records)
        found = state(site)
        lost, doubled = found.lost(self.clean), found.doubled(self.clean)
        assert (lost, doubled) == (0, 0), f"{lost} rows are lost, {doubled} doubled"
        assert found.aggregates == self.clean.aggregates, "the aggregates are not those of a clean load"


def clean_case(databases: Databases, folder: Path, dataset: str, records: int, *options: str) -> Case:
    """Load a new source of generated shipments where nothing is broken."""
    folder.mkdir(parents=True, exist_ok=True)
    source = write_shipments(folder / "shipments.json", records)
    words = ["load", dataset, str(source), "--json", *options, *PATIENT]
    with databases.site(folder) as site:
        started = time.monotonic()
        ended = site.start(*words, "--batch-rows", "100").ended()  # as it is started to be killed
        seconds = time.monotonic() - started
        assert ended.returncode == 1, ended.stderr
        assert_complete(site, dataset, source, records)
        clean = state(site)
    return Case(dataset=dataset, source=source, records=records, command=words, clean=clean, seconds=seconds)
