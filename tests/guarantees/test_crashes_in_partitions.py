"""A server that crashes while a table is divided, or while old partitions are removed: the same command continues."""

import csv
import datetime as dt
import json
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import psycopg
import pytest

from etl.embedded import Server
from tests.database.test_division import BY_HASH, DIVIDED, _contents, _plain
from tests.database.test_partitions import MONTHS, _define, _write
from tests.support.commands import PATIENT, Ended, Running
from tests.support.databases import Databases, databases_of
from tests.support.servers import durable_server, restart_immediately
from tests.support.site import Site
from tests.support.waiting import until

ROWS = 300_000
CRASHES = 6
FILL = """
insert into logistics.visits (id, at, weight, etl_run, etl_batch, etl_place)
select n, timestamptz '2024-01-01Z' + n %% 730 * interval '1 day', n %% 7, 1, n / 20000 * 1000000, n %% 20000 + 1
from generate_series(1, %s) as n;
"""


@pytest.fixture(scope="module")
def durable(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Run a server for these tests alone; it waits for the disk as in production."""
    with durable_server(tmp_path_factory.mktemp("durable")) as server:
        yield server


@pytest.fixture(scope="module")
def databases(durable: Server) -> Databases:
    """Give fresh databases of that server."""
    return databases_of(durable)


class Crash:
    """Restarts a server before a statement of a command, whose sessions have this name."""

    def __init__(
        self, monkeypatch: pytest.MonkeyPatch, session: str, act: Callable[[psycopg.Connection], None]
    ) -> None:
        self.at = self.number = 0
        execute = psycopg.Connection.execute

        def counted(connection: psycopg.Connection[Any], *arguments: Any, **options: Any) -> psycopg.Cursor[Any]:
            # The statements that begin a session are not counted: it is opened again when it ends at once.
            if f"application_name={session}" in connection.info.dsn and getattr(connection, "watch", None):
                self.number += 1
                if self.number == self.at:
                    act(connection)
            return execute(connection, *arguments, **options)

        monkeypatch.setattr(psycopg.Connection, "execute", counted)

    def run(self, site: Site, at: int, *words: str | Path) -> bool:
        """Run a command whose server crashes before this statement; return whether it came to its end before."""
        self.at, self.number = at, 0
        ended = site.run(*words)
        if self.number < at:
            assert ended.returncode == 0, ended.stderr
            return True
        _assert_says_so(ended)
        return False


def _assert_says_so(ended: Ended) -> None:
    """The command says in one sentence that it lost the database, and what to do."""
    assert (ended.returncode, ended.stdout) == (4, ""), ended.stderr
    assert len(ended.errors) == 1, ended.stderr
    assert ("cannot continue" in ended.error and "run the same command" in ended.error) or (
        "cannot reach the database" in ended.error and "start the server" in ended.error
    ), ended.stderr


def _assert_nothing_is_left(site: Site) -> None:
    """No trigger, index, table or lock of a division is there, and the aggregate equals the facts."""
    assert site.value("select count(*) from pg_trigger where tgname ~ 'etl_division'") == 0
    assert site.value("select count(*) from pg_class where relname ~ '^etl_division_(visit|changes_copy)'") == 0
    assert site.value("select to_regnamespace('etl_partitioning') is null")
    assert site.column("select relname from pg_class where relnamespace = 'etl_staging'::regnamespace") == []
    assert site.value("select count(*) from etl.divisions") == 0
    assert site.value("select count(*) from etl.division_changes") == 0
    locks = (
        "select count(*) from pg_locks join pg_database on pg_database.oid = database"
        " where locktype = 'advisory' and datname = current_database()"
    )
    assert site.value(locks) == 0
    assert site.run("precalculate", "visit_months").returncode == 0
    checked = site.run("precalculate", "visit_months", "--verify")
    assert checked.returncode == 0, checked.stdout


@pytest.mark.slow
@pytest.mark.parametrize("divided", [DIVIDED, BY_HASH], ids=["months", "hash"])
def test_a_division_continues_after_a_crash_before_any_statement(
    site: Site, durable: Server, monkeypatch: pytest.MonkeyPatch, divided: str
) -> None:
    """Rows that change between the crashes are in the partitions; none is lost or doubled, and nothing is left."""
    monkeypatch.setattr("etl.database.division._ROWS", 100)
    monkeypatch.setattr("etl.database.division._FEW", 30)
    _plain(site, divided)
    expected = _contents(site)
    crash = Crash(monkeypatch, "etl:partition", lambda _: restart_immediately(durable))
    for number in count(1):
        is_finished = crash.run(site, number, "dataset", "partition", "visits")
        assert _contents(site) == expected
        if is_finished:
            break
        site.ask("update logistics.visits set weight = %s where id %% 9 = %s", [number, number % 9])
        site.ask("delete from logistics.visits where id = %s", [number * 3])
        site.ask("delete from logistics.visit_lines where id = %s and line = 1", [number * 5])
        expected = _contents(site)
    assert number > 20
    assert site.value("select count(*) from pg_class where relkind = 'p' and relname ~ '^visit(s|_lines)$'") == 2
    _assert_nothing_is_left(site)


def _exported(folder: Path) -> Counter[int]:
    """Return the ids in the complete exports of partitions of visits, each as often as it is there."""
    found: Counter[int] = Counter()
    for path in folder.glob("visits_p*/manifest.json"):
        for table in json.loads(path.read_text())["tables"]:
            for file in table["files"]:
                with (path.parent / file["path"]).open() as lines:
                    found.update(int(line["id"]) for line in csv.DictReader(lines))
    return found


@pytest.mark.slow
def test_a_retention_continues_after_a_crash_before_any_statement(
    site: Site, durable: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each record is in the table or in one complete export; the aggregate agrees, and no partition is left."""
    _define(site, "merge")
    old = [{"id": n, "at": f"{MONTHS[n % 3]}-05T00:00Z", "weight": 1, "lines": [{}]} for n in range(60)]
    new = {"id": 999, "at": f"{dt.datetime.now(dt.UTC):%Y-%m-%d}T00:00Z", "weight": 1, "lines": []}
    assert site.run("load", "visits", _write(site, [*old, new])).returncode == 0
    crash = Crash(monkeypatch, "etl:retention", lambda _: restart_immediately(durable))
    command = ("retention", "visits", "--keep", "1d", "--export", site.folder / "old", "--format", "csv")
    ids = {record["id"] for record in old}
    for number in count(1):
        if crash.run(site, number, *command):
            break
        if number % 4 == 0:  # A record that comes late, in a month that goes.
            late = {"id": 1000 + number, "at": f"{MONTHS[number % 3]}-05T00:00Z", "weight": 2, "lines": []}
            loaded = site.run("load", "visits", _write(site, [late], f"late{number}.json"), *PATIENT)
            assert loaded.returncode == 0, loaded.stderr
            ids.add(late["id"])
        there = Counter(site.column("select id::integer from logistics.visits"))
        assert set(there + _exported(site.folder / "old")) == ids | {999}
    assert number > 20
    assert _exported(site.folder / "old") == Counter(ids)
    assert site.column("select id from logistics.visits") == [999]
    assert site.value("select count(*) from logistics.visit_lines") == 0
    assert site.value("select count(*) from etl.partitions where until_day < now()") == 0
    assert site.value("select count(*) from analytics.visit_months") == 1
    _assert_nothing_is_left(site)


class Writer(threading.Thread):
    """Inserts, changes and deletes rows of its own, also across crashes, and knows which rows there must be."""

    def __init__(self, site: Site) -> None:
        super().__init__(daemon=True)
        self.rows: dict[int, int] = {}
        self._site = site
        self._stop_it = threading.Event()
        self._random = random.Random(ROWS)
        self._error: BaseException | None = None
        self.start()

    def run(self) -> None:
        """Write until the end."""
        try:
            for turn in count(1):
                if self._stop_it.is_set():
                    return
                number = 10**9 + (turn if turn % 3 == 1 else self._random.randrange(turn))
                while not self._write(turn, number):
                    time.sleep(0.05)
        except BaseException as error:  # noqa: BLE001 - the test reports it
            self._error = error

    def _write(self, turn: int, number: int) -> bool:
        """Write a row, or a row again whose writing may have committed before a crash; return whether it is written."""
        row = {"id": number, "at": f"{MONTHS[number % 24]}-05Z", "weight": turn % 50, "turn": turn}
        try:
            with self._site.connect() as connection:
                connection.execute("delete from logistics.visits where id = %(id)s", row)
                self.rows.pop(number, None)
                if turn % 9 != 2:
                    connection.execute(
                        "insert into logistics.visits (id, at, weight, etl_run, etl_batch, etl_place)"
                        " values (%(id)s, %(at)s, %(weight)s, 2, 0, %(turn)s)",
                        row,
                    )
                    self.rows[number] = turn % 50
        except psycopg.OperationalError:
            return False
        return True

    def stop(self) -> None:
        """Stop, and report an error."""
        self._stop_it.set()
        self.join()
        if self._error:
            raise self._error


class Loader(threading.Thread):
    """Loads one source after the other; each command is run again after one that a crash has ended."""

    def __init__(self, site: Site, records: Callable[[int], list[dict[str, Any]]]) -> None:
        super().__init__(daemon=True)
        self.loaded: list[dict[str, Any]] = []
        self.codes: Counter[int] = Counter()
        self._site = site
        self._records = records
        self._stop_it = threading.Event()
        self._error: BaseException | None = None
        self.start()

    def run(self) -> None:
        """Load until the end."""
        try:
            for turn in count():
                if self._stop_it.is_set():
                    return
                records = self._records(turn)
                source = _write(self._site, records, f"loaded{turn}.json")
                while True:
                    ended = self._site.start("load", "visits", source, "--batch-rows", "500", *PATIENT).ended()
                    self.codes[ended.returncode] += 1
                    assert ended.returncode in {0, 4, 6}, ended.stderr
                    if ended.returncode == 0:
                        break
                    time.sleep(0.1)
                self.loaded += records
        except BaseException as error:  # noqa: BLE001 - the test reports it
            self._error = error

    def stop(self) -> None:
        """Stop after the source in hand, and report an error."""
        self._stop_it.set()
        self.join()
        if self._error:
            raise self._error


def _is_at_work(site: Site, running: Running, session: str) -> bool:
    query = "select 1 from pg_stat_activity where application_name = %s and datname = current_database()"
    return bool(site.ask(query, [session])) or not running.is_running()


def _run_through_crashes(site: Site, durable: Server, session: str, *words: str | Path) -> int:
    """Run a command again and again while the server crashes at random moments; return how many crashes it met."""
    times = random.Random(ROWS)
    met = 0
    for _ in range(CRASHES):
        running = site.start(*words)
        until(partial(_is_at_work, site, running, session), "the command")
        time.sleep(times.uniform(0.1, 0.7))
        restart_immediately(durable)
        ended = running.ended(300)
        if ended.returncode != 0:
            met += 1
            _assert_says_so(ended)
    done = site.run(*words)
    assert done.returncode == 0, done.stderr
    return met


@pytest.mark.slow
@pytest.mark.parametrize("divided", [DIVIDED, BY_HASH], ids=["months", "hash"])
def test_a_division_and_loads_survive_crashes_at_any_moment(site: Site, durable: Server, divided: str) -> None:
    """Commands that a crash ends say so and continue; all rows of loads and writers are there once."""
    _plain(site, divided)
    site.ask("truncate logistics.visits, logistics.visit_lines")
    site.ask("update etl.runs set superseded_by = number")
    site.ask(FILL, [ROWS])

    def records(turn: int) -> list[dict[str, Any]]:
        first = 10**8 + turn * 2000
        return [
            {"id": n, "at": f"{MONTHS[n % 24]}-07T00:00Z", "weight": 1, "lines": [{}] * 2}
            for n in range(first, first + 2000)
        ]

    writer, loader = Writer(site), Loader(site, records)
    met = _run_through_crashes(site, durable, "etl:partition", "dataset", "partition", "visits")
    for each in (writer, loader):
        each.stop()
    assert met >= 2
    assert dict(site.ask("select id, weight from logistics.visits where id >= 10^9")) == writer.rows
    query = "select count(*), count(distinct id), sum(weight) from logistics.visits where id between 10^8 and 10^9 - 1"
    assert site.ask(query) == [(len(loader.loaded),) * 3]
    assert site.value("select count(*) from logistics.visit_lines") == 2 * len(loader.loaded)
    query = "select count(*), count(distinct id), sum(weight) from logistics.visits where id <= %s"
    assert site.ask(query, [ROWS]) == [(ROWS, ROWS, sum(n % 7 for n in range(1, ROWS + 1)))]
    assert site.value("select count(*) from pg_class where relkind = 'p' and relname ~ '^visit(s|_lines)$'") == 2
    _assert_nothing_is_left(site)


@pytest.mark.slow
def test_a_retention_and_loads_survive_crashes_at_any_moment(site: Site, durable: Server) -> None:
    """Each loaded record is in the table or in one complete export, and the aggregate agrees."""
    _define(site, "merge")
    today = f"{dt.datetime.now(dt.UTC):%Y-%m-%d}"

    def records(turn: int) -> list[dict[str, Any]]:
        """Return records of today, and some that come late in months that go."""
        first = turn * 100
        days = [f"{MONTHS[n % 24]}-07" if n % 2 else today for n in range(first, first + 100)]
        return [{"id": first + n, "at": f"{day}T00:00Z", "weight": 1, "lines": [{}]} for n, day in enumerate(days)]

    assert site.run("load", "visits", _write(site, records(10**4))).returncode == 0
    loader = Loader(site, records)
    command = ("retention", "visits", "--keep", "1d", "--export", site.folder / "old", "--format", "csv")
    met = _run_through_crashes(site, durable, "etl:retention", *command)
    loader.stop()
    assert met >= 2
    assert site.run(*command).returncode == 0
    there = Counter(site.column("select id::integer from logistics.visits"))
    old = _exported(site.folder / "old")
    ids = [record["id"] for record in [*records(10**4), *loader.loaded]]
    assert there == Counter(n for n in ids if n % 2 == 0)
    assert set(old) == {n for n in ids if n % 2}
    _assert_nothing_is_left(site)
