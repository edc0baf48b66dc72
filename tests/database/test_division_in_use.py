"""A table becomes a partitioned one under loads, writers and readers, while the command is killed again and again."""

import os
import random
import signal
import threading
import time
from collections.abc import Callable
from typing import Any

import psycopg
import pytest

from etl.datasets import read
from tests.database.test_division import DIVIDED, PLAIN
from tests.database.test_partitions import MONTHS, _define, _partitions, _write
from tests.support.collected import load_all, loader_of, send
from tests.support.site import Site
from tests.support.waiting import until

ROWS = int(os.environ.get("ETL_DIVISION_ROWS", "100000"))
KILLS = 8
FILL = """
insert into logistics.visits (id, at, weight, etl_run, etl_batch, etl_place)
select n, timestamptz '2024-01-01Z' + n %% 730 * interval '1 day', n %% 7, 1, n / 20000 * 1000000, n %% 20000 + 1
from generate_series(1, %s) as n;
"""


class Beside(threading.Thread):
    """Does something again and again until it is stopped, each time by a new number; keeps the longest time of one."""

    def __init__(self, site: Site, act: Callable[[psycopg.Connection[Any], int], object]) -> None:
        super().__init__(daemon=True)
        self._site = site
        self._act = act
        self._stop_it = threading.Event()
        self.longest = 0.0
        self.count = 0
        self.error: Exception | None = None
        self.start()

    def run(self) -> None:
        """Act until the end."""
        with self._site.connect() as connection:
            while not self._stop_it.is_set():
                began = time.monotonic()
                try:
                    self._act(connection, self.count)
                except Exception as error:  # noqa: BLE001 - the test reports it
                    self.error = error
                    return
                self.longest = max(self.longest, time.monotonic() - began)
                self.count += 1

    def stop(self) -> None:
        """Stop, and report an error."""
        self._stop_it.set()
        self.join()
        if self.error:
            raise self.error


class Writer(Beside):
    """Inserts, changes and deletes rows of its own, and knows which rows there must be."""

    def __init__(self, site: Site, number: int) -> None:
        self.rows: dict[int, int] = {}
        self._first = 10**9 * number
        self._random = random.Random(number)
        super().__init__(site, self._write)

    def _write(self, connection: psycopg.Connection[Any], turn: int) -> None:
        if turn % 3 == 0 or not self.rows:
            at = f"{self._random.choice(MONTHS)}-05Z"
            values = [self._first + turn, at, turn % 7, 2, self._first, turn]
            columns = "(id, at, weight, etl_run, etl_batch, etl_place)"
            connection.execute(f"insert into logistics.visits {columns} values (%s, %s, %s, %s, %s, %s)", values)  # noqa: S608 - a constant
            self.rows[self._first + turn] = turn % 7
            return
        number = self._random.choice(list(self.rows))
        if turn % 9 == 1:
            connection.execute("delete from logistics.visits where id = %s", [number])
            del self.rows[number]
        else:
            connection.execute("update logistics.visits set weight = %s where id = %s", [turn % 50, number])
            self.rows[number] = turn % 50


def _read(connection: psycopg.Connection[Any], _: int) -> None:
    """Look at rows that nobody changes: all of them are there at each instant."""
    query = "select count(*), sum(weight) from logistics.visits where id <= %s"
    [(count, total)] = connection.execute(query, [ROWS]).fetchall()
    assert (count, total) == (ROWS, sum(n % 7 for n in range(1, ROWS + 1)))


def _fill_plain_tables(site: Site, plain: str, rows: int) -> None:
    """Make the aggregate, and the tables as they are before a division, with rows."""
    _define(site, "merge")
    site.ask("drop table logistics.visits, logistics.visit_lines")
    site.ask("delete from etl.partitions; delete from etl.partitioned_facts")
    site.define(plain)
    assert site.run("db", "migrate").returncode == 0
    site.ask(FILL, [rows])


@pytest.mark.slow
def test_a_table_becomes_a_partitioned_one_under_loads(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    """No row is lost or doubled, no reader sees a part, and no writer waits for more than a second."""
    _fill_plain_tables(site, PLAIN, ROWS)
    site.ask("analyze logistics.visits")
    site.write_definition(DIVIDED)
    writers = [Writer(site, number) for number in (1, 2)]
    reader = Beside(site, _read)
    loaded: list[int] = []

    def load(_: psycopg.Connection[Any], turn: int) -> None:
        first = 10**8 + turn * 5000
        records = [
            {"id": n, "at": f"{MONTHS[n % 24]}-07T00:00Z", "weight": 1, "lines": [{}] * 2}
            for n in range(first, first + 5000)
        ]
        done = site.run("load", "visits", _write(site, records, f"{turn}.json"), "--no-precalculate")
        assert done.returncode == 0, done.stderr
        loaded.append(turn)

    loader = Beside(site, load)
    times = random.Random(ROWS)
    began = time.monotonic()
    kills = 0
    while True:
        dividing = site.start("dataset", "partition", "visits")
        if kills < KILLS:
            time.sleep(times.uniform(0.8, 0.8 + ROWS / 250_000))
            if dividing.is_running():
                dividing.process.send_signal(signal.SIGKILL)
                dividing.process.wait()
                kills += 1
                continue
        done = dividing.ended(900)
        assert done.returncode == 0, done.stderr
        break
    took = time.monotonic() - began
    for each in (*writers, reader, loader):
        each.stop()
    longest = [round(each.longest, 3) for each in (*writers, reader)]
    with capsys.disabled():
        print(f"{ROWS} rows, {kills} kills, {took:.1f} s, longest write, write, read: {longest}")  # noqa: T201 - the figures
        print(f"writes {[each.count for each in writers]}, reads {reader.count}, loads {len(loaded)}")  # noqa: T201 - the figures
    expected = {key: weight for writer in writers for key, weight in writer.rows.items()}
    assert dict(site.ask("select id, weight from logistics.visits where id >= 10^9")) == expected
    assert site.value("select count(*) from logistics.visits where id between 10^8 and 10^9 - 1") == 5000 * len(loaded)
    assert site.value("select count(*) from logistics.visit_lines") == 10_000 * len(loaded)
    assert site.value("select count(*) from logistics.visits") == ROWS + len(expected) + 5000 * len(loaded)
    assert len(_partitions(site)) >= 24
    assert max(each.longest for each in writers) < 1
    assert site.run("precalculate", "visit_months").returncode == 0
    assert site.run("precalculate", "visit_months", "--verify").returncode == 0


WAITS = """
select coalesce(max(extract(epoch from clock_timestamp() - waitstart)), 0)::float
from pg_locks as waiting
join pg_stat_activity on pg_stat_activity.pid = waiting.pid
where not granted and application_name <> 'etl:partition' and pg_blocking_pids(waiting.pid) && array(
    select pid from pg_stat_activity where application_name = 'etl:partition' and datname = current_database()
)
"""


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["append", "merge", "merge --atomic", "replace", "collect"])
def test_nobody_waits_long_for_the_exchange(site: Site, mode: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Loads of each mode, a collector and refreshes wait for less than a second, do not fail, and lose nothing."""
    plain, divided = (
        text.replace("merge", mode.split(maxsplit=1)[0]) if mode != "collect" else text for text in (PLAIN, DIVIDED)
    )
    _fill_plain_tables(site, plain, ROWS // 5)
    dataset = read(site.write_definition(divided))
    loaded: list[int] = []
    loader = loader_of(site.conninfo, site.folder, dataset) if mode == "collect" else None

    def load(_: psycopg.Connection[Any], turn: int) -> None:
        first = 10**8 + turn * 3000
        records = [
            {"id": n, "at": f"{MONTHS[n % 24]}-07T00:00Z", "weight": 1, "lines": [{}] * 2}
            for n in range(first, first + 3000)
        ]
        if loader:
            send(site, "visits", *(records[n : n + 500] for n in range(0, 3000, 500)))
            assert load_all(loader) > 0
        else:
            options = ["--mode", *mode.split(), "--batch-rows", "500", "--max-deleted", "100%"]
            done = site.run("load", "visits", _write(site, records, f"{turn}.json"), *options)
            assert done.returncode == 0, done.stderr
        loaded.append(turn)

    def refresh(_: psycopg.Connection[Any], __: int) -> None:
        done = site.run("precalculate", "visit_months")
        assert done.returncode == 0, done.stderr

    waits: list[float] = [0]

    def look(connection: psycopg.Connection[Any], _: int) -> None:
        waits.extend(connection.execute(WAITS).fetchone() or ())
        time.sleep(0.01)  # Between two samples, the processor is for those that are looked at.

    def see(connection: psycopg.Connection[Any], _: int) -> None:
        connection.execute("select exists (select from logistics.visits)")

    beside = [Beside(site, load), Beside(site, refresh), Beside(site, look), Beside(site, see)]
    until(lambda: loaded or beside[0].error, "the first load", 60)
    done = site.run("dataset", "partition", "visits")
    assert done.returncode == 0, done.stderr
    loads = len(loaded)
    until(lambda: len(loaded) >= loads + 2 or beside[0].error, "loads into the partitions", 60)
    for each in beside:
        each.stop()
    if loader:
        loader.close()
    waits.append(beside[-1].longest)
    with capsys.disabled():
        print(f"{mode}: {loads} of {len(loaded)} loads before the end; longest wait {max(waits):.3f} s")  # noqa: T201 - the figures
    assert max(waits) < 1
    others = 0 if mode == "replace" else ROWS // 5
    count = 3000 if mode == "replace" else 3000 * len(loaded)
    query = "select count(*), count(distinct id) from logistics.visits where id {} 10^8"
    assert site.ask(query.replace("{}", ">=")) == [(count, count)]
    assert site.ask(query.replace("{}", "<")) == [(others, others)]
    assert site.value("select count(*) from logistics.visit_lines") == 2 * count
    assert len(_partitions(site)) >= 24
    assert site.run("precalculate", "visit_months").returncode == 0
    assert site.run("precalculate", "visit_months", "--verify").returncode == 0
