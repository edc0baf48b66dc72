#!/usr/bin/env python3
"""Compare exports with COPY to a file in the same run, and DuckDB over an export with PostgreSQL over the facts.

It makes sample data in a server of its own: `make bench-export`, or for less `.venv/bin/python scripts/bench_export.py
--records 100000`. The figures are ratios: absolute times move with the machine.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import click
import psycopg

from etl.database.connecting import connect
from etl.exporting import places, querying
from etl.provisioning import opened

ROOT = Path(__file__).resolve().parent.parent
ETL = Path(sys.executable).with_name("etl")
EXPORT = ("export", "shipments", "--to", "exports", "--partition", "month")

# Questions over the facts, in the SQL that both know.
QUESTIONS = (
    "select carrier, count(*), sum(weight_kg), sum(freight_cost) from logistics.shipments group by carrier",
    """
    select date_trunc('month', created_at) as month, service_level, count(*), sum(declared_amount)
    from logistics.shipments where created_at >= '2025-01-01' group by month, service_level
    """,
    """
    select origin_city, destination_city, count(*), count(*) filter (where delivered_at > promised_at)
    from logistics.shipments group by origin_city, destination_city order by count(*) desc limit 20
    """,
    """
    select count(*), max(weight_kg) from logistics.shipments
    where created_at >= '2025-06-01' and created_at < '2025-07-01'
    """,
)

# The sample has 24 months; of 48 one is the 2 % that are measured.
OLDER_HALF = """
    update logistics.shipments set created_at = created_at - interval '24 months'
    where abs(hashtext(shipment_id)::bigint) % 2 = 0
"""

CHANGE = """
    update logistics.shipments set note = 'changed' where created_at >= '2025-06-10' and created_at < '2025-06-12'
"""


def seconds_of(work: Callable[[], object]) -> float:
    """Return how long some work takes."""
    begun = time.monotonic()
    work()
    return time.monotonic() - begun


def run(folder: Path, address: str, *words: str) -> tuple[float, float]:
    """Run a command; return its seconds and the MB of its memory at most."""
    begun = time.monotonic()
    environment = {"PATH": os.environ["PATH"], "HOME": str(folder), "ETL_DATABASE_URL": address}
    with (folder / "output").open("wb") as output:
        process = subprocess.Popen([ETL, "-q", *words], cwd=folder, env=environment, stdout=output)  # noqa: S603
        _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"etl {' '.join(words)} failed")
    return time.monotonic() - begun, usage.ru_maxrss * 1024 / 1_000_000


def copy(connection: psycopg.Connection, path: Path) -> None:
    """Copy the shipments to a file."""
    with path.open("wb") as file, connection.cursor() as cursor:
        with cursor.copy("copy logistics.shipments to stdout (format csv)") as rows:
            for row in rows:
                file.write(row)
        file.flush()
        os.fsync(file.fileno())


def rows_of(connection: psycopg.Connection, query: bytes) -> list[Any]:
    """Return the rows of a query."""
    return connection.execute(query).fetchall()


def measure(folder: Path, address: str, connection: psycopg.Connection, rounds: int) -> None:
    """Print the figures."""
    ratios, memory = [], []
    full = 0.0
    for _ in range(rounds):
        copied = seconds_of(lambda: copy(connection, folder / "shipments.csv"))
        full, peak = run(folder, address, *EXPORT)
        ratios.append(full / copied)
        memory.append(peak)
        click.echo(f"copy {copied:.2f} s, export {full:.2f} s, {peak:.0f} MB", err=True)
    run(folder, address, *EXPORT, "--since-last")
    shares = []
    for _ in range(rounds):
        connection.execute(CHANGE)
        changed, _ = run(folder, address, *EXPORT, "--since-last")
        shares.append(changed / full)
    place = places.place_of(str(folder / "exports"))
    connection.execute("set timezone = 'UTC'")
    answers = []
    for question in QUESTIONS:
        server = min(seconds_of(partial(rows_of, connection, question.encode())) for _ in range(rounds))
        own = min(seconds_of(partial(querying.answer, place, question)) for _ in range(rounds))
        answers.append(own / server)
        click.echo(f"PostgreSQL {server:.3f} s, DuckDB {own:.3f} s", err=True)
    click.echo("| measure | here | must | aim |\n| --- | ---: | ---: | ---: |")
    click.echo(f"| export by month / COPY to a file | {median(ratios):.2f} | 2.7 | 1.8 |")
    click.echo(f"| memory of an export, MB | {max(memory):.0f} | 300 | 150 |")
    click.echo(f"| export after one of 48 months changed / full | {median(shares):.3f} | 0.10 | 0.05 |")
    click.echo(f"| questions over facts: DuckDB / PostgreSQL | {median(answers):.2f} | 0.7 | 0.4 |")


def main() -> None:
    """Make the data, and measure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--records", type=int, default=1_000_000, help="shipments")
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name, opened(f"embedded:{name}/postgres", ROOT / "config") as server:
        folder = Path(name)
        records = str(given.records)
        run(
            folder,
            server.conninfo,
            "generate",
            "shipments",
            "--records",
            records,
            "--output",
            "s.ndjson",
            "--format",
            "ndjson",
        )
        run(folder, server.conninfo, "load", "shipments", "s.ndjson", "--no-precalculate")
        (folder / "s.ndjson").unlink()
        with connect(server) as connection:
            connection.execute(OLDER_HALF)
            connection.execute("vacuum (full, analyze) logistics.shipments")
            measure(folder, server.conninfo, connection, given.rounds)


if __name__ == "__main__":
    main()
