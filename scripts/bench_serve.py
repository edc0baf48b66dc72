#!/usr/bin/env python3
"""Measure `etl serve`: requests per second, the 99th percentile, and the processor time of each request.

The client (wrk), the service and PostgreSQL share the processors. Each has a session of its own, as under a service
manager and cron: Linux may share the time of a processor between sessions, and not between their processes (autogroup).
`make bench-serve` runs it; wrk must be installed.
The last column has what each measure must reach, and whether it does. The exit code is 1 when one does not.
"""

import argparse
import asyncio
import itertools
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil
import psycopg

RECORDS = 20_000
RECORDS_OF_A_LOAD = 150_000
SUBSCRIBERS = 500
REFRESHES = 20
ROUNDS = 3
ROWS = "/v1/aggregates/lane_performance/rows"

# Each request has another value, so no answer is kept for it; its keys take turns, so the role of the session changes.
_UNKEPT = """
local number = 0
local keys = {{ {keys} }}
request = function()
    number = number + 1
    if #keys > 0 then
        wrk.headers["Authorization"] = "Bearer " .. keys[number % #keys + 1]
    end
    return wrk.format("GET", "{path}&carrier=neq.none" .. number)
end
"""
_UNITS = {"us": 0.001, "ms": 1.0, "s": 1_000.0}


@dataclass(frozen=True, kw_only=True)
class Measure:
    """What is asked, over how many connections; `is_kept`: each request is the same. The rest is what it must reach."""

    name: str
    path: str
    connections: int
    is_kept: bool = True
    headers: tuple[str, ...] = ()
    keys: tuple[str, ...] = ()
    must_rate: float | None = None
    must_ms: float | None = None


@dataclass(frozen=True, kw_only=True)
class Measured:
    """The result of a measure: requests per second, milliseconds of the 99th percentile, microseconds of a request."""

    rate: float
    p99: float
    cost: float
    failed: int


@dataclass(frozen=True, kw_only=True)
class Service:
    """A service that runs: its process and its address."""

    process: psutil.Process
    address: str

    def memory(self) -> float:
        """Return its resident memory, in MB."""
        return float(self.process.memory_info().rss) / (1 << 20)


class Table:
    """Prints lines, and knows whether all of them reach what they must."""

    def __init__(self) -> None:
        self.is_reached = True
        _print("| measure | requests/s | p99 | processor time | must |")
        _print("| --- | --- | --- | --- | --- |")

    def add(self, measure: Measure, found: Measured) -> None:
        """Print the line of a measure with wrk."""
        wanted = []
        is_reached = not found.failed
        if measure.must_rate is not None:
            wanted.append(f"{measure.must_rate:,.0f}/s")
            is_reached &= found.rate >= measure.must_rate
        if measure.must_ms is not None:
            wanted.append(f"p99 {measure.must_ms:g} ms")
            is_reached &= found.p99 <= measure.must_ms
        failed = f", {found.failed} failed" if found.failed else ""
        self.print(
            (measure.name, f"{found.rate:,.0f}", f"{found.p99:.2f} ms", f"{found.cost:,.0f} µs"),
            ", ".join(wanted) + failed,
            is_reached=is_reached,
        )

    def print(self, cells: tuple[str, str, str, str], must: str, *, is_reached: bool) -> None:
        """Print a line."""
        self.is_reached &= is_reached
        verdict = f"{must}: {'reached' if is_reached else 'missed'}" if must else ""
        _print(f"| {' | '.join(cells)} | {verdict} |")


def main() -> int:
    """Load sample data into a database of its own, serve it, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=int, default=5, help="how long each measure takes")
    seconds = parser.parse_args().seconds
    if shutil.which("wrk") is None:
        sys.stderr.write("wrk is not installed; on Debian: apt-get install wrk\n")
        return 2
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        _etl(folder, "generate", "shipments", "--records", str(RECORDS), "--seed", "1", "--output", "shipments.json")
        _etl(folder, "load", "shipments", "shipments.json")
        with _service(folder) as open_to_all:
            table = Table()
            _measure_rows(table, open_to_all, folder, seconds)
            _measure_roles(table, folder, seconds)
            _measure_stream(table, open_to_all, folder)
            _measure_beside_a_load(table, open_to_all, folder, seconds)
    return 0 if table.is_reached else 1


def _measure_rows(table: Table, service: Service, folder: Path, seconds: int) -> None:
    tag = _tag(f"{service.address}{ROWS}?limit=1")
    one, page = f"{ROWS}?limit=1", f"{ROWS}?limit=1000"
    for measure in (
        Measure(
            name="304",
            path=one,
            connections=32,
            headers=(f"If-None-Match: {tag}",),
            must_rate=10_000,
            must_ms=10,
        ),
        Measure(name="a kept row", path=one, connections=32, must_rate=6_000, must_ms=10),
        Measure(name="a row, not kept", path=one, connections=16, is_kept=False),
        Measure(name="a kept page of 1,000 rows", path=page, connections=8, must_rate=1_000),
        Measure(name="a page of 1,000 rows, not kept", path=page, connections=8, is_kept=False, must_rate=90),
    ):
        table.add(measure, _measured(measure, service, folder, seconds))
    # The last measure has filled the memory for answers.
    kept = float(_metric(service, "etl_serve_kept_bytes")) / (1 << 20)
    memory = service.memory()
    cells = (f"memory with {kept:.0f} MB of kept answers", "", "", f"{memory:.0f} MB")
    table.print(cells, "200 MB", is_reached=memory <= 200)


def _measure_roles(table: Table, folder: Path, seconds: int) -> None:
    """Measure a row by its whole key, for keys whose roles of the database differ."""
    keys = [json.loads(_etl(folder, "key", "create", "bench", "--role", role, "--json"))["key"] for role in _ROLES]
    with _service(folder, "--auth", "keys", "--rate-limit", "0") as guarded:
        head = {"Authorization": f"Bearer {keys[0]}"}
        [row] = json.loads(_read(f"{guarded.address}{ROWS}?limit=1", head))["rows"]
        key = ("month", "origin_country", "origin_city", "destination_country", "destination_city")
        query = "&".join(f"{name}=eq.{urllib.parse.quote(str(row[name]))}" for name in key)
        measure = Measure(
            name="a row by key with a role, not kept",
            path=f"{ROWS}?{query}&limit=1",
            connections=16,
            is_kept=False,
            keys=tuple(keys),
            must_rate=1_200,
            must_ms=30,
        )
        table.add(measure, _measured(measure, guarded, folder, seconds))


_ROLES = ("analyst", "operator")


def _measure_stream(table: Table, service: Service, folder: Path) -> None:
    address = _etl(folder, "db", "url").strip()
    late = sorted(asyncio.run(_notified(service.address, address)))
    p99 = 1_000 * late[int(0.99 * len(late))]
    cells = (f"{SUBSCRIBERS} subscribers hear of a refresh", "", f"{p99:.0f} ms", "")
    table.print(cells, "p99 150 ms", is_reached=p99 <= 150)


async def _notified(address: str, database: str) -> list[float]:
    """Return for each subscriber and refresh the seconds from the notification of the server to the event."""
    host, _, port = address.removeprefix("http://").rpartition(":")
    heard: asyncio.Queue[tuple[int, float]] = asyncio.Queue()

    async def subscribe() -> None:
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(f"GET /v1/stream HTTP/1.1\r\nHost: {host}:{port}\r\n\r\n".encode())
        await heard.put((0, 0.0))
        while line := await reader.readline():
            if line.startswith(b"data: ") and b'"refresh"' in line:
                await heard.put((int(json.loads(line[6:])["version"]), time.perf_counter()))

    tasks = [asyncio.create_task(subscribe()) for _ in range(SUBSCRIBERS)]
    for _ in tasks:
        await heard.get()
    await asyncio.sleep(1)  # until all have the state of then
    late: list[float] = []
    async with await psycopg.AsyncConnection.connect(database, autocommit=True) as connection:
        for version in range(1, REFRESHES + 1):
            note = json.dumps({"aggregate": "lane_performance", "version": version})
            begun = time.perf_counter()
            await connection.execute("select pg_notify('etl_versions', %s)", [note])
            count = 0
            while count < SUBSCRIBERS:
                of, at = await asyncio.wait_for(heard.get(), 30)
                if of == version:
                    count += 1
                    late.append(at - begun)
            await asyncio.sleep(0.1)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    return late


def _measure_beside_a_load(table: Table, service: Service, folder: Path, seconds: int) -> None:
    """Compare the 99th percentile of a kept row without and with a load and its refresh, in turn: medians of ROUNDS.

    Few clients leave the service time to sleep, so that each of its turns may wait for a turn of the load.
    """
    for clients, must in ((32, 2.0), (4, None)):
        measure = Measure(name=f"a kept row, {clients} clients", path=f"{ROWS}?limit=1", connections=clients)
        pairs = [_beside_a_load(measure, service, folder, seconds) for _ in range(ROUNDS)]
        idle, beside = (statistics.median(each.p99 for each in of) for of in zip(*pairs, strict=True))
        ratios = sorted(each.p99 / max(alone.p99, 0.001) for alone, each in pairs)
        ratio = statistics.median(ratios)
        rate = statistics.median(each.rate for _, each in pairs)
        cost = statistics.median(each.cost for _, each in pairs)
        name = f"{measure.name}, during a load: {ratio:.1f} x idle ({ratios[0]:.1f} to {ratios[-1]:.1f}, {idle:.1f} ms)"
        cells = (name, f"{rate:,.0f}", f"{beside:.2f} ms", f"{cost:,.0f} µs")
        table.print(cells, f"p99 {must:g} x idle" if must else "", is_reached=must is None or ratio <= must)


def _beside_a_load(measure: Measure, service: Service, folder: Path, seconds: int) -> tuple[Measured, Measured]:
    """Return what is measured alone, and during a load of other records that lasts longer than the measure."""
    seed = next(_SEEDS)
    name = f"more{seed}.json"
    words = ("--records", str(RECORDS_OF_A_LOAD), "--seed", str(seed), "--output", name)
    _etl(folder, "generate", "shipments", *words)
    idle = _measured(measure, service, folder, seconds)
    load = subprocess.Popen(  # noqa: S603 - our own program
        [*_ETL, "load", "shipments", name], cwd=folder, env=_environment(), stderr=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    try:
        beside = _measured(measure, service, folder, seconds)
        if load.poll() is not None:
            raise SystemExit(f"the load of {RECORDS_OF_A_LOAD:,} records was shorter than {seconds} s: measure less")
    finally:
        load.wait(300)
    return idle, beside


_SEEDS = itertools.count(2)
_ETL = (sys.executable, "-m", "etl", "--log-format", "json")


def _environment() -> dict[str, str]:
    return {**os.environ, "ETL_DATABASE_URL": "embedded:", "PYTHONPATH": str(Path(__file__).parent.parent)}


def _etl(folder: Path, *words: str) -> str:
    """Run a command to its end, and return what it printed."""
    done = subprocess.run([*_ETL, *words], cwd=folder, env=_environment(), check=True, capture_output=True, text=True)  # noqa: S603 - our own program
    return done.stdout


@contextmanager
def _service(folder: Path, *options: str) -> Iterator[Service]:
    """Give a service on the sample data."""
    log = folder / f"serve{len(options)}.log"
    with log.open("wb") as file:
        words = [*_ETL, "serve", "--port", "0", *options]
        process = psutil.Popen(words, cwd=folder, env=_environment(), stderr=file, start_new_session=True)
    try:
        yield Service(process=process, address=_address(log))
    finally:
        process.terminate()
        process.wait(30)


def _address(log: Path) -> str:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        for line in log.read_text().splitlines():
            if line.startswith("{") and (event := json.loads(line))["event"] == "serving":
                time.sleep(2)  # until it has looked at the database
                return str(event["address"])
        time.sleep(0.1)
    raise SystemExit(log.read_text())


def _read(address: str, headers: dict[str, str]) -> bytes:
    with urllib.request.urlopen(urllib.request.Request(address, headers=headers)) as answer:  # noqa: S310 - our own service
        return bytes(answer.read())


def _tag(address: str) -> str:
    with urllib.request.urlopen(address) as answer:  # noqa: S310 - our own service
        return str(answer.headers["ETag"])


def _metric(service: Service, name: str) -> str:
    text = _read(f"{service.address}/metrics", {}).decode()
    return next(line.split()[-1] for line in text.splitlines() if line.startswith(f"{name} "))


def _measured(measure: Measure, service: Service, folder: Path, seconds: int) -> Measured:
    words = ["wrk", "-t1", f"-c{measure.connections}", f"-d{seconds}", "--latency"]
    words += [word for header in measure.headers for word in ("-H", header)]
    if not measure.is_kept:
        script = folder / "unkept.lua"
        keys = ", ".join(f'"{key}"' for key in measure.keys)
        script.write_text(_UNKEPT.format(path=measure.path, keys=keys))
        words += ["-s", str(script)]
    before = sum(service.process.cpu_times()[:2])
    command = [*words, f"{service.address}{measure.path}"]
    done = subprocess.run(  # noqa: S603 - no shell
        command, capture_output=True, text=True, check=True, start_new_session=True
    ).stdout
    spent = sum(service.process.cpu_times()[:2]) - before
    rate, slowest = re.search(r"Requests/sec: +([\d.]+)", done), re.search(r"99% +([\d.]+)(us|ms|s)", done)
    requests, failed = re.search(r"(\d+) requests in", done), re.search(r"Non-2xx or 3xx responses: (\d+)", done)
    if not (rate and slowest and requests):
        raise SystemExit(done)
    return Measured(
        rate=float(rate[1]),
        p99=float(slowest[1]) * _UNITS[slowest[2]],
        cost=1e6 * spent / max(int(requests[1]), 1),
        failed=int(failed[1]) if failed else 0,
    )


def _print(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
