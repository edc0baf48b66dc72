#!/usr/bin/env python3
"""Measure `etl collect`: acknowledged requests, the loader after them, and the time until an event is visible.

The client (wrk), the collector and PostgreSQL share the processors. `make bench-collect` runs it, and needs wrk.
The last column has what each measure must reach, and whether it does. The exit code is 1 when one does not.
"""

import argparse
import http.client
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psutil
import psycopg

PATH = "/v1/events/tracking_events"
LINES = 1_000
LOADED = 300_000
STORED = 250_000
SEEN = 200
REFRESHED = 30
_LONGEST_SECONDS = 60.0
_UNITS = {"us": 0.001, "ms": 1.0, "s": 1_000.0}

# Each event has an id of its own: the thread, the connection and the number of the request are in it.
_REQUESTS = """
local number = 0
local stamp = tostring({{}}):sub(8)
wrk.method = "POST"
wrk.headers["Content-Type"] = "application/x-ndjson"
request = function()
    number = number + 1
    local lines = {{}}
    for line = 1, {lines} do
        lines[line] = '{{"event_id": "{name}-' .. number .. "-" .. line .. '", "shipment_id": "SHP-' .. line
            .. '", "event_code": "HUB_ARRIVED", "occurred_at": "2026-11-30T09:00:00Z", '
            .. '"location": {{"country": "DE", "city": "Berlin"}}}}'
    end
    return wrk.format(nil, "{path}", nil, table.concat(lines, "\\n"))
end
"""


@dataclass(frozen=True, kw_only=True)
class Must:
    """What a measure must reach: a rate at least, milliseconds of a share of the requests at most."""

    rate: float | None = None
    p50: float | None = None
    p99: float | None = None


@dataclass(frozen=True, kw_only=True)
class Found:
    """The result of a measure: events per second, milliseconds of the half and of the 99th percentile."""

    rate: float | None = None
    p50: float | None = None
    p99: float | None = None
    failed: int = 0


class Collector:
    """A collector that runs."""

    def __init__(self, process: psutil.Popen, address: str) -> None:
        self.process = process
        parts = urlsplit(address)
        self.address = address
        self._connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=30)

    def post(self, body: bytes) -> None:
        """Send events, and wait until they are acknowledged."""
        while True:
            try:
                self._connection.request("POST", PATH, body, {"Content-Type": "application/x-ndjson"})
                answer = self._connection.getresponse()
                answer.read()
            except (ConnectionError, http.client.HTTPException):  # It was idle for too long.
                self._connection.close()
                continue
            if answer.status == 202:
                return
            if answer.status != 503:
                raise SystemExit(f"the collector answered with {answer.status}")
            time.sleep(0.01)

    def close(self) -> None:
        """End the connection."""
        self._connection.close()


class Table:
    """Prints lines, and knows whether all of them reach what they must."""

    def __init__(self) -> None:
        self.is_reached = True
        _print("| measure | events/s | p50 | p99 | must |")
        _print("| --- | --- | --- | --- | --- |")

    def add(self, name: str, found: Found, must: Must) -> None:
        """Print a line."""
        pairs = [(found.rate, must.rate, "{:,.0f}/s"), (found.p50, must.p50, "p50 {:g} ms")]
        pairs.append((found.p99, must.p99, "p99 {:g} ms"))
        wanted = [text.format(least) for _, least, text in pairs if least is not None]
        is_reached = not found.failed and (must.rate is None or (found.rate or 0) >= must.rate)
        for has, most in ((found.p50, must.p50), (found.p99, must.p99)):
            is_reached &= most is None or (has is not None and has <= most)
        self.is_reached &= is_reached
        failed = f", {found.failed} failed" if found.failed else ""
        cells = [name, "" if found.rate is None else f"{found.rate:,.0f}"]
        cells += ["" if value is None else f"{value:.1f} ms" for value in (found.p50, found.p99)]
        _print(f"| {' | '.join(cells)} | {', '.join(wanted)}{failed}: {'reached' if is_reached else 'missed'} |")


def main() -> int:
    """Collect events into a database of its own, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=int, default=5, help="how long each measure of requests takes")
    parser.add_argument("--only", default="", help="measure only what has this word in its name")
    given = parser.parse_args()
    if shutil.which("wrk") is None:
        sys.stderr.write("wrk is not installed; on Debian: apt-get install wrk\n")
        return 2
    table = Table()
    for name, measure in _MEASURES.items():
        if given.only in name:
            # On a disk; each measure has a database of its own: what one has left to do must not cost the next one.
            with tempfile.TemporaryDirectory(dir="/var/tmp") as folder:
                measure(table, Bench(Path(folder), given.seconds))
    return 0 if table.is_reached else 1


@dataclass(frozen=True)
class Bench:
    """A folder with a database of its own, and how long a measure takes."""

    folder: Path
    seconds: int

    @contextmanager
    def collecting(self, *options: str, stops_loader: bool = False) -> Iterator[tuple[Collector, psycopg.Connection]]:
        """Run a collector, and give a connection to its database."""
        self.etl("db", "start")
        log = self.folder / "collect.log"
        with log.open("wb") as file:
            command = [*_ETL, "collect", "--port", "0", *options]
            process = psutil.Popen(command, cwd=self.folder, env=_environment(), stderr=file)
        try:
            collector = Collector(process, _address(log))
            loaders = [each for each in process.children() if "spawn_main" in " ".join(each.cmdline())]
            for each in loaders if stops_loader else ():
                each.suspend()
            with psycopg.connect(self.etl("db", "url").strip(), autocommit=True) as connection:
                yield collector, connection
            collector.close()
            for each in loaders if stops_loader else ():
                each.kill()
        finally:
            process.kill()
            process.wait(30)
            self.etl("db", "stop")

    def etl(self, *words: str) -> str:
        """Run a command to its end, and return what it printed."""
        done = subprocess.run(  # noqa: S603 - our own program
            [*_ETL, *words], cwd=self.folder, env=_environment(), check=True, capture_output=True, text=True
        )
        return done.stdout

    def sent(self, collector: Collector, name: str, lines: int, connections: int) -> Found:
        """Send requests of so many events each, as many as are answered."""
        script = self.folder / "requests.lua"
        script.write_text(_REQUESTS.format(lines=lines, path=PATH, name=name))
        words = ["wrk", "-t1", f"-c{connections}", f"-d{self.seconds}", "--latency", "-s", str(script)]
        done = subprocess.run([*words, collector.address], capture_output=True, text=True, check=True).stdout  # noqa: S603 - no shell
        rate = re.search(r"Requests/sec: +([\d.]+)", done)
        shares = {found[1]: float(found[2]) * _UNITS[found[3]] for found in _SHARE.finditer(done)}
        failed = re.search(r"Non-2xx or 3xx responses: (\d+)", done)
        if not rate or "99" not in shares:
            raise SystemExit(done)
        return Found(
            rate=lines * float(rate[1]), p50=shares["50"], p99=shares["99"], failed=int(failed[1]) if failed else 0
        )


_SHARE = re.compile(r"(50|99)% +([\d.]+)(us|ms|s)")
_ETL = (sys.executable, "-m", "etl", "--log-format", "json")


def _measure_acknowledged(
    name: str, options: Sequence[str], single: Must, bulk: Must
) -> Callable[[Table, Bench], None]:
    """Measure how many events are acknowledged, while the loader is stopped: one a request, then many."""

    def measure(table: Table, bench: Bench) -> None:
        with bench.collecting(*options, "--backlog-mb", "8192", stops_loader=True) as (collector, _):
            table.add(f"{name}: one event a request", bench.sent(collector, "one", 1, 32), single)
            table.add(f"{name}: {LINES:,} events a request", bench.sent(collector, "many", LINES, 4), bulk)

    return measure


def _measure_loader(table: Table, bench: Bench) -> None:
    """Measure the loader: the events are in the spool before it begins."""
    options = ("--backlog-mb", "8192", "--refresh-seconds", "0")
    with bench.collecting(*options, stops_loader=True) as (collector, _):
        for number in range(0, LOADED, LINES):
            collector.post(_lines(f"L{number}", LINES))
    with bench.collecting(*options) as (_, connection):
        begun, first = time.perf_counter(), 0
        while (count := _count(connection)) < LOADED:
            if not count:
                begun = time.perf_counter()
            first = first or count
            time.sleep(0.02)
        rate = (LOADED - first) / (time.perf_counter() - begun)
    table.add("loader, with ledger and merge", Found(rate=rate), Must(rate=40_000))


def _measure_visible(name: str, options: Sequence[str], must: Must) -> Callable[[Table, Bench], None]:
    """Measure the time from a request to its row, one request after the other."""

    def measure(table: Table, bench: Bench) -> None:
        with bench.collecting(*options) as (collector, connection):
            query = "select 1 from logistics.tracking_events where event_id = %s"
            times = []
            for number in range(SEEN + 5):
                begun = time.perf_counter()
                collector.post(_lines(f"V{number}", 1))
                while not connection.execute(query, [f"V{number}-0"]).fetchone():
                    time.sleep(0.001)
                times.append(time.perf_counter() - begun)
        table.add(f"{name}: request to visible row", _shares(times[5:]), must)

    return measure


def _measure_fresh(table: Table, bench: Bench) -> None:
    """Measure the time from a request to the aggregate that counts its event, over many events."""
    with bench.collecting("--backlog-mb", "8192") as (collector, connection):
        for number in range(0, STORED, LINES):
            collector.post(_lines(f"S{number}", LINES, day=number // LINES % 28 + 1))
        query = "select coalesce(sum(count_exceptions), 0) from analytics.daily_exceptions"
        while _count(connection) < STORED:
            time.sleep(0.1)
        time.sleep(5)
        times = []
        for number in range(REFRESHED):
            before = _value(connection, query)
            begun = time.perf_counter()
            collector.post(_lines(f"F{number}", 1, day=number % 28 + 1, exception="DAMAGED"))
            while _value(connection, query) == before:
                if time.perf_counter() - begun > _LONGEST_SECONDS:
                    raise SystemExit("the aggregate does not get the event")
                time.sleep(0.005)
            times.append(time.perf_counter() - begun)
    table.add("request to fresh aggregate", _shares(times), Must(p50=1_000, p99=3_000))


def _count(connection: psycopg.Connection) -> int:
    return _value(connection, "select coalesce(sum(count_events), 0) from etl.streams")


def _value(connection: psycopg.Connection, query: Any) -> int:
    row = connection.execute(query).fetchone()
    return int(row[0]) if row else 0


def _shares(seconds: Sequence[float]) -> Found:
    ordered = sorted(1_000 * each for each in seconds)
    return Found(p50=ordered[len(ordered) // 2], p99=ordered[int(0.99 * (len(ordered) - 1))])


def _lines(name: str, count: int, *, day: int = 30, exception: str | None = None) -> bytes:
    events = (
        {
            "event_id": f"{name}-{number}",
            "shipment_id": f"SHP-{number}" if exception is None else f"SHP-{name}",
            "event_code": "HUB_ARRIVED" if exception is None else exception,
            "exception_code": exception,
            "occurred_at": f"2026-11-{day:02d}T09:00:00Z",
            "location": {"country": "DE", "city": "Berlin"},
        }
        for number in range(count)
    )
    return "\n".join(map(json.dumps, events)).encode()


_VALKEY = ("--buffer", "embedded")
_MEASURES: dict[str, Callable[[Table, Bench], None]] = {
    "acknowledged, spool": _measure_acknowledged("spool", (), Must(rate=3_500, p99=50), Must(rate=150_000)),
    "acknowledged, valkey": _measure_acknowledged("Valkey", _VALKEY, Must(rate=3_000), Must(rate=100_000)),
    "loader": _measure_loader,
    "visible, spool": _measure_visible("spool", (), Must(p99=500)),
    "visible, valkey": _measure_visible("Valkey", _VALKEY, Must(p99=500)),
    "visible, direct": _measure_visible("direct", ("--direct",), Must(p99=50)),
    "fresh": _measure_fresh,
}


def _environment() -> dict[str, str]:
    return {**os.environ, "ETL_DATABASE_URL": "embedded:", "PYTHONPATH": str(Path(__file__).parent.parent)}


def _address(log: Path) -> str:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        for line in log.read_text().splitlines():
            if line.startswith("{") and (event := json.loads(line))["event"] == "collecting":
                return str(event["address"])
        time.sleep(0.1)
    raise SystemExit(log.read_text())


def _print(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
