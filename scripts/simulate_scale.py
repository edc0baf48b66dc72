#!/usr/bin/env python3
"""How a load grows past one machine: a simulation with measured constants, and its predictions beside measured runs.

    .venv/bin/python -m scripts.simulate_scale                                    # what limits 100 billion records
    .venv/bin/python -m scripts.simulate_scale --check FOLDER --records 1000000 10000000

The first form simulates the pieces of the sources on their way through cutter, worker, server and disk. The second one
loads 200,000 and then a million shipments with their items into an embedded server in FOLDER, takes the constants of a
record from these runs, and prints what they predict for larger runs beside those runs. It compares bytes and the time
of the processors, which other programs on the machine hardly change.

Two costs of a record grow with the tables. Larger indexes are slower to search, and fewer of their pages are in the
buffers: each time that the records double, a record costs the server the same time more. And after each checkpoint, the
first change of a page writes the whole page to the WAL. If keys come in random order, that is soon each page of their
indexes.
"""

import argparse
import math
import os
import resource
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import cycle
from pathlib import Path

import psutil
import psycopg

from etl.embedded import Server
from etl.ingestion.constants import BATCH_ROWS, PIECE_BYTES

BASE = 200_000
SECOND = 1_000_000
"""Records of the runs that give the constants; larger sources are copies of the first with other keys."""
_PIECES = 20_000
"""Pieces that are simulated; a longer load continues as these do."""
_MEGABYTE = 1_000_000
_PAGE = 8_192
_INDEX_ENTRY = 30
"""Bytes of an entry of an index, with the free space of a page that random keys have split."""
_ROUNDS = 20


@dataclass(frozen=True, kw_only=True)
class Constants:
    """What one record costs. The rates are those of `docs/performance.md` and of measurements of the design.

    The bytes of a record and of its rows are those of shipments with three items on average. The seconds of the server
    are those of a table of BASE records, and what each doubling adds. `random_index_bytes` is the size of the indexes
    with keys in random order; a page of them takes `full_page_bytes` in the WAL, where it is compressed.
    """

    record_bytes: float = 961.0
    cut_mb_per_second: float = 213.0
    worker_mb_per_second: float = 28.0
    server_seconds: float = 28e-6
    server_seconds_of_doubling: float = 3.5e-6
    wal_bytes: float = 1_386.0
    random_index_bytes: float = 54.0
    full_page_bytes: float = 4_100.0
    stored_bytes: float = 821.0
    ledger_bytes_of_batch: float = 1_010.0
    refresh_seconds: float = 53e-6


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a load has at its disposal.

    The records come in the order of the partitions, so that one of them is loaded at a time. A checkpoint begins after
    so many bytes of WAL: about half of `max_wal_size`.
    """

    records: float
    sources: int = 1
    workers: int = 8
    cores: int = 16
    servers: int = 1
    disk_mb_per_second: float = 1_000.0
    partitions: int = 120
    checkpoint_bytes: float = 1e11


@dataclass
class _Station:
    """A place at which pieces wait for one of several equal hands."""

    hands: int
    free_at: list[float] = field(default_factory=list)
    busy: float = 0.0

    def __post_init__(self) -> None:
        self.free_at = [0.0] * self.hands

    def take(self, ready: float, seconds: float, hand: int | None = None) -> float:
        """Return when a piece is done that is ready at a time; it waits for its own hand, or for the first free one."""
        chosen = self.free_at.index(min(self.free_at)) if hand is None else hand
        self.free_at[chosen] = max(ready, self.free_at[chosen]) + seconds
        self.busy += seconds
        return self.free_at[chosen]


def simulate(plan: Plan, constants: Constants) -> tuple[float, dict[str, float]]:
    """Return the seconds of a load, and the share of that time for which each station is busy; the limit has most.

    A piece is cut by the process of its source, then made into rows by a worker, taken in by a core of a server, and
    written to the disk of its WAL. A source is cut two pieces for each worker ahead, as the command does.
    """
    of_piece = _records_of_piece(constants.record_bytes)
    pieces = plan.records / of_piece
    server_seconds, wal_bytes = costs(plan, constants)
    simulated = max(1, min(_PIECES, round(pieces)))
    megabytes = of_piece * constants.record_bytes / _MEGABYTE
    stations = {
        "cutting": _Station(plan.sources),
        "workers": _Station(plan.workers),
        "server": _Station(plan.cores * plan.servers),
        "WAL": _Station(plan.servers),
    }
    ends: list[float] = []
    for number, source in zip(range(simulated), cycle(range(plan.sources))):
        ahead = number - 2 * plan.workers
        ready = ends[ahead] if ahead >= 0 else 0.0
        cut = stations["cutting"].take(ready, megabytes / constants.cut_mb_per_second, source)
        made = stations["workers"].take(cut, megabytes / constants.worker_mb_per_second)
        taken = stations["server"].take(made, of_piece * server_seconds)
        written = of_piece * wal_bytes / _MEGABYTE / plan.disk_mb_per_second
        ends.append(stations["WAL"].take(taken, written))
    last = max(ends)
    shares = {name: each.busy / each.hands / last for name, each in stations.items()}
    return last * pieces / simulated, shares


def costs(plan: Plan, constants: Constants) -> tuple[float, float]:
    """Return the seconds of a core of the server and the bytes of WAL for a record, in the mean of a partition."""
    records = max(1.0, plan.records / plan.partitions / plan.servers)
    pages = full_pages(records, constants, plan.checkpoint_bytes) * constants.full_page_bytes
    return server_seconds(records, constants) / records, constants.wal_bytes + pages / records


def server_seconds(records: float, constants: Constants) -> float:
    """Return the seconds of the server for a load of so many records into an empty table.

    Each record costs as much as in a table of the size that the table has then; below BASE it is not cheaper.
    """
    doublings = max(0.0, math.log2(records / BASE)) - (1 - BASE / records) / math.log(2) if records > BASE else 0.0
    return records * (constants.server_seconds + constants.server_seconds_of_doubling * max(0.0, doublings))


def full_pages(records: float, constants: Constants, checkpoint_bytes: float) -> float:
    """Return how many pages of indexes with random keys a load of so many records writes to the WAL as a whole.

    Between two checkpoints the first change of each page does it; the changes fall on the pages at random.
    """
    if not constants.wal_bytes:
        return 0.0

    def touched(pages: float, added: float) -> float:
        return pages * -math.expm1(-added * constants.random_index_bytes / _INDEX_ENTRY / pages)

    # Without pages until the first checkpoint: those that are new are written as a whole in no case.
    loaded, written = checkpoint_bytes / constants.wal_bytes, 0.0
    while loaded < records:
        pages = loaded * constants.random_index_bytes / _PAGE
        added = checkpoint_bytes / constants.wal_bytes
        for _ in range(_ROUNDS):  # These pages take WAL away from the records before the same checkpoint.
            wal_bytes = added * constants.wal_bytes + touched(pages, added) * constants.full_page_bytes
            added *= checkpoint_bytes / wal_bytes
        added = min(added, records - loaded)
        loaded, written = loaded + added, written + touched(pages, added)
    return written


def _records_of_piece(record_bytes: float) -> float:
    return min(BATCH_ROWS, PIECE_BYTES / record_bytes)


def limits(plan: Plan, constants: Constants) -> dict[str, float]:
    """Return the seconds that each step alone needs for a load, with all that the plan has."""
    megabytes = plan.records * constants.record_bytes / _MEGABYTE
    disks = plan.disk_mb_per_second * plan.servers
    batches = plan.records / _records_of_piece(constants.record_bytes)
    of_server, of_wal = costs(plan, constants)
    return {
        "cutting": megabytes / constants.cut_mb_per_second / plan.sources,
        "workers": megabytes / constants.worker_mb_per_second / plan.workers,
        "server": plan.records * of_server / plan.cores / plan.servers,
        "WAL": plan.records * of_wal / _MEGABYTE / disks,
        "tables": plan.records * constants.stored_bytes / _MEGABYTE / disks,
        "aggregates": plan.records * constants.refresh_seconds / plan.servers,
        "ledger": batches * constants.ledger_bytes_of_batch / _MEGABYTE / plan.disk_mb_per_second,
    }


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What a run used: processor seconds of the command and of the server, and bytes."""

    records: int
    seconds: float
    command: float
    server: float
    refresh: float
    source_bytes: int
    wal_bytes: int
    stored_bytes: int
    ledger_bytes: int
    random_index_bytes: int = 0


def predicted(
    base: Measured, constants: Constants, start_seconds: float, records: int, checkpoint_bytes: float
) -> Measured:
    """Return what the smaller runs predict for more records; `start_seconds` is what a command needs to begin.

    The ledger has some pages for any run, and then the bytes of each further batch.
    """
    pages = full_pages(records, constants, checkpoint_bytes) * constants.full_page_bytes
    factor = records / base.records
    further = (records - base.records) / _records_of_piece(base.source_bytes / base.records)
    return Measured(
        records=records,
        seconds=base.seconds * factor,
        command=(base.command - start_seconds) * factor + start_seconds,
        server=server_seconds(records, constants),
        refresh=base.refresh * factor,
        source_bytes=round(base.source_bytes * factor),
        wal_bytes=round(base.wal_bytes * factor + pages),
        stored_bytes=round(base.stored_bytes * factor),
        ledger_bytes=round(base.ledger_bytes + further * Constants.ledger_bytes_of_batch),
    )


def constants_of(run: Measured, second: Measured) -> Constants:
    """Return the constants of the simulation that two runs show; the rates of machines stay those that it has."""
    constants = replace(
        Constants(),
        record_bytes=run.source_bytes / run.records,
        server_seconds=run.server / run.records,
        server_seconds_of_doubling=0.0,
        wal_bytes=run.wal_bytes / run.records,
        random_index_bytes=second.random_index_bytes / second.records,
        stored_bytes=run.stored_bytes / run.records,
        refresh_seconds=run.refresh / run.records,
    )
    one = server_seconds(second.records, replace(constants, server_seconds=0.0, server_seconds_of_doubling=1.0))
    further = second.server - server_seconds(second.records, constants)
    return replace(constants, server_seconds_of_doubling=max(0.0, further / one))


_RANDOM_INDEXES = """
    select coalesce(sum(pg_relation_size(indexes.indexrelid)), 0)::bigint
    from pg_index as indexes
    join pg_attribute on attrelid = indexes.indrelid and attnum = indexes.indkey[0]
    join pg_class on pg_class.oid = indexes.indrelid
    join pg_stats on schemaname = 'logistics' and tablename = relname and pg_stats.attname = pg_attribute.attname
    where indrelid in ('logistics.shipments'::regclass, 'logistics.shipment_items'::regclass) and abs(correlation) < 0.5
"""


class Bench:
    """Loads sources into an embedded server, and reads what that took."""

    def __init__(self, folder: Path, server: Server, address: str, *, refreshes: bool) -> None:
        self._folder = folder
        self._postmaster = psutil.Process(server.status().pid)
        self._connection = psycopg.connect(address, autocommit=True)
        self._address = address
        self._refreshes = refreshes

    def load(self, records: int) -> Measured:
        """Load so many records into empty tables, and refresh the aggregates."""
        path = self._source(records)
        self._connection.execute("truncate logistics.shipments, logistics.shipment_items cascade")
        self._connection.execute("truncate etl.runs, etl.touched cascade")
        self._connection.execute("checkpoint")
        begun = self._number("select (pg_current_wal_insert_lsn() - '0/0')::bigint")
        seconds, command, server = self._timed("load", "shipments", str(path), "--no-precalculate", "--workers", "1")
        ended = self._number("select (pg_current_wal_insert_lsn() - '0/0')::bigint")
        stored = "pg_total_relation_size('logistics.shipments') + pg_total_relation_size('logistics.shipment_items')"
        self._connection.execute("analyze logistics.shipments, logistics.shipment_items")
        ledger = "pg_total_relation_size('etl.separate_batches') + pg_total_relation_size('etl.separate_marks')"
        refresh = self._timed("precalculate")[2] if self._refreshes else 0.0
        return Measured(
            records=records,
            seconds=seconds,
            command=command,
            server=server,
            refresh=refresh,
            source_bytes=path.stat().st_size,
            wal_bytes=ended - begun,
            stored_bytes=self._number(f"select {stored}"),
            ledger_bytes=self._number(f"select {ledger}"),
            random_index_bytes=self._number(_RANDOM_INDEXES),
        )

    def checkpoint_bytes(self) -> float:
        """Return after how many bytes of WAL a checkpoint begins (PostgreSQL documentation, "WAL Configuration")."""
        row = self._connection.execute(
            "select pg_size_bytes(current_setting('max_wal_size')),"
            " current_setting('checkpoint_completion_target')::float8"
        ).fetchone()
        return float(row[0] / (1 + row[1])) if row else 0.0

    def start_seconds(self) -> float:
        """Return the processor seconds of a command that has next to nothing to load."""
        path = self._folder / "few.ndjson"
        with self._source(BASE).open("rb") as file:
            path.write_bytes(b"".join(next(file) for _ in range(100)))
        return self._timed("load", "shipments", str(path), "--no-precalculate", "--workers", "1")[1]

    def _timed(self, *words: str) -> tuple[float, float, float]:
        before, server = resource.getrusage(resource.RUSAGE_CHILDREN), self._server_seconds()
        began = time.monotonic()
        environment = os.environ | {"ETL_DATABASE_URL": self._address}
        command = [sys.executable, "-m", "etl", "--log-level", "warning", *words]
        # Exit code 1: some records have a fault.
        subprocess.run(command, check=False, env=environment, stdout=subprocess.DEVNULL)  # noqa: S603 - our own program
        seconds = time.monotonic() - began
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        time.sleep(2)  # The server counts the time of a session when it has taken leave of its process.
        used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        return seconds, used, self._server_seconds() - server

    def _server_seconds(self) -> float:
        """Return the processor seconds of the server, also of its processes that have ended."""
        own = self._postmaster.cpu_times()
        total = own.user + own.system + own.children_user + own.children_system
        for child in self._postmaster.children():
            times = child.cpu_times()
            total += times.user + times.system
        return total

    def _number(self, query: str) -> int:
        [number] = self._connection.execute(query.encode()).fetchone() or [0]
        return int(number)

    def _source(self, records: int) -> Path:
        base, path = self._folder / f"shipments-{BASE}.ndjson", self._folder / f"shipments-{records}.ndjson"
        if not base.exists():
            words = ["generate", "shipments", "--records", str(BASE), "--format", "ndjson", "--output", str(base)]
            subprocess.run([sys.executable, "-m", "etl", *words], check=True)  # noqa: S603 - our own program
        if not path.exists():
            content = base.read_bytes()
            with path.open("wb") as file:
                for copy in range(records // BASE):
                    file.write(content.replace(b'"shipment_id":"SHP-', b'"shipment_id":"S%02d-' % copy))
        return path


def as_table(pairs: Sequence[tuple[Measured, Measured]]) -> Iterator[str]:
    """Yield the lines of the table of predicted and measured runs."""
    names = ("command, s", "server, s", "refresh, s", "WAL, MB", "tables, MB", "ledger, kB")
    yield f"| records | | {' | '.join(names)} |"
    yield f"| ---: | --- | {' | '.join('---:' for _ in names)} |"
    for guess, run in pairs:
        for name, each in (("predicted", guess), ("measured", run)):
            figures = (each.command, each.server, each.refresh if run.refresh else None)
            shown = ["-" if figure is None else f"{figure:,.1f}" for figure in figures]
            sizes = (each.wal_bytes / _MEGABYTE, each.stored_bytes / _MEGABYTE, each.ledger_bytes / 1000)
            yield f"| {each.records:,} | {name} | {' | '.join([*shown, *(f'{size:,.0f}' for size in sizes)])} |"


def as_limits(plans: Sequence[Plan], constants: Constants) -> Iterator[str]:
    """Yield the lines of the table of limits: hours of each step alone, and of the simulated load."""
    names = list(limits(plans[0], constants))
    headings = [f"{name}, h" for name in [*names, "simulated"]]
    yield f"| sources | workers | servers x cores | {' | '.join(headings)} | limit |"
    yield f"| ---: | ---: | ---: | {' | '.join('---:' for _ in names)} | ---: | --- |"
    for plan in plans:
        seconds, shares = simulate(plan, constants)
        alone = limits(plan, constants)
        cells = [f"{alone[name] / 3600:,.1f}" for name in names]
        limit = max(shares, key=lambda name: shares[name])
        yield (
            f"| {plan.sources} | {plan.workers} | {plan.servers} x {plan.cores} | {' | '.join(cells)} |"
            f" {seconds / 3600:,.1f} | {limit} |"
        )


PLANS = (
    Plan(records=1e11, workers=16),
    Plan(records=1e11, sources=4, workers=32),
    Plan(records=1e11, sources=16, workers=128, cores=64, disk_mb_per_second=2_000),
    Plan(records=1e11, sources=64, workers=512, cores=64, servers=8, disk_mb_per_second=2_000),
)


def say(*lines: str) -> None:
    """Print lines at once."""
    sys.stdout.write("".join(f"{line}\n" for line in lines))
    sys.stdout.flush()


def main() -> None:
    """Simulate, or check the constants by runs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", type=Path, metavar="FOLDER", help="load into an embedded server in this folder")
    parser.add_argument("--records", type=int, nargs="+", default=[], help="sizes of further runs to predict")
    parser.add_argument("--no-refresh", action="store_true", help="without the refresh of the aggregates")
    asked = parser.parse_args()
    if asked.check is None:
        say(*as_limits(PLANS, Constants()))
        return
    asked.check.mkdir(parents=True, exist_ok=True)
    server = Server(asked.check / "postgres")
    with server.serving() as address:
        subprocess.run(
            [sys.executable, "-m", "etl", "db", "migrate"], check=True, env=os.environ | {"ETL_DATABASE_URL": address}
        )
        bench = Bench(asked.check, server, address, refreshes=not asked.no_refresh)
        start, base, second = bench.start_seconds(), bench.load(BASE), bench.load(SECOND)
        constants = constants_of(base, second)
        say(f"base: {base}", f"second: {second}", f"start: {start}", f"constants: {constants}")
        pairs = [(predicted(base, constants, start, SECOND, bench.checkpoint_bytes()), second)]
        for records in asked.records:
            pairs.append((predicted(base, constants, start, records, bench.checkpoint_bytes()), bench.load(records)))
            say(str(pairs[-1][1]))
        say(*as_table(pairs))


if __name__ == "__main__":
    main()
