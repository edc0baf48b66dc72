#!/usr/bin/env python3
"""Measure `etl serve`: requests per second, the 99th percentile, and the processor time of each request.

The client (wrk), the service and PostgreSQL share the processors. `make bench-serve` runs it; wrk must be installed.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

RECORDS = 20_000
SECONDS = 5
ROWS = "/v1/aggregates/lane_performance/rows"

# Each request has another value, so no answer is kept for it.
_UNKEPT = """
local number = 0
request = function()
    number = number + 1
    return wrk.format("GET", "{path}&carrier=neq.none" .. number)
end
"""


@dataclass(frozen=True, kw_only=True)
class Measure:
    """What is asked, over how many connections; `is_kept`: each request is the same."""

    name: str
    path: str
    connections: int
    is_kept: bool = True
    headers: tuple[str, ...] = ()


def main() -> int:
    """Load sample data into a database of its own, serve it, and print a table."""
    if shutil.which("wrk") is None:
        sys.stderr.write("wrk is not installed; on Debian: apt-get install wrk\n")
        return 2
    with tempfile.TemporaryDirectory() as name, _service(Path(name)) as (process, address):
        tag = _tag(f"{address}{ROWS}?limit=1")
        measures = (
            Measure(name="304", path=f"{ROWS}?limit=1", connections=32, headers=(f"If-None-Match: {tag}",)),
            Measure(name="a kept row", path=f"{ROWS}?limit=1", connections=32),
            Measure(name="a row, not kept", path=f"{ROWS}?limit=1", connections=16, is_kept=False),
            Measure(name="a kept page of 1,000 rows", path=f"{ROWS}?limit=1000", connections=8),
            Measure(name="a page of 1,000 rows, not kept", path=f"{ROWS}?limit=1000", connections=8, is_kept=False),
        )
        _print("| measure | requests/s | p99 | processor time |")
        _print("| --- | --- | --- | --- |")
        for measure in measures:
            _print(_measured(measure, process, address, Path(name)))
        _print(f"memory of the service: {process.memory_info().rss >> 20} MB")
    return 0


@contextmanager
def _service(folder: Path) -> Iterator[tuple[psutil.Process, str]]:
    """Give the process of a service on sample data, and its address."""
    etl = [sys.executable, "-m", "etl", "--log-format", "json"]
    environment = {**os.environ, "ETL_DATABASE_URL": "embedded:", "PYTHONPATH": str(Path(__file__).parent.parent)}
    for words in (
        ["generate", "shipments", "--records", str(RECORDS), "--seed", "1", "--output", "shipments.json"],
        ["load", "shipments", "shipments.json"],
    ):
        subprocess.run([*etl, *words], cwd=folder, env=environment, check=True, capture_output=True)  # noqa: S603 - our own program
    log = folder / "serve.log"
    with log.open("wb") as file:
        process = psutil.Popen([*etl, "serve", "--port", "0"], cwd=folder, env=environment, stderr=file)
    try:
        yield process, _address(log)
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


def _tag(address: str) -> str:
    with urllib.request.urlopen(address) as answer:  # noqa: S310 - our own service
        return str(answer.headers["ETag"])


def _measured(measure: Measure, process: psutil.Process, address: str, folder: Path) -> str:
    words = ["wrk", "-t1", f"-c{measure.connections}", f"-d{SECONDS}", "--latency"]
    words += [word for header in measure.headers for word in ("-H", header)]
    if not measure.is_kept:
        script = folder / "unkept.lua"
        script.write_text(_UNKEPT.format(path=measure.path))
        words += ["-s", str(script)]
    before = sum(process.cpu_times()[:2])
    command = [*words, f"{address}{measure.path}"]
    done = subprocess.run(command, capture_output=True, text=True, check=True).stdout  # noqa: S603 - no shell
    spent = sum(process.cpu_times()[:2]) - before
    requests = int(re.search(r"(\d+) requests in", done)[1])
    rate = re.search(r"Requests/sec: +([\d.]+)", done)
    slowest = re.search(r"99% +(\S+)", done)
    failed = re.search(r"Non-2xx or 3xx responses: (\d+)", done)
    cells = (
        measure.name,
        f"{float(rate[1]):,.0f}" if rate else "-",
        slowest[1] if slowest else "-",
        f"{1e6 * spent / max(requests, 1):,.0f} µs",
    )
    return f"| {' | '.join(cells)} |" + (f" {failed[1]} failed" if failed else "")


def _print(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
