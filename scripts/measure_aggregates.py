#!/usr/bin/env python3
"""Measure how dear it is to keep the aggregates fresh, as ratios within one run on one machine.

    .venv/bin/python -m scripts.measure_aggregates FOLDER [--shipments 5000000] [--events 0]

Fills an embedded database in FOLDER with shipments of two years (and events, four per shipment), or continues with the
database that is there. Each ratio is of medians, of runs that take turns. Aggregates in `FOLDER/config/aggregates` are
measured too.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import psycopg
from psycopg import conninfo, sql

from etl.database.connecting import Database, connect
from etl.datasets import find
from etl.embedded import Server
from etl.ingestion.constants import BATCH_ROWS
from etl.precalculation.catalogue import Aggregate, read_all
from etl.precalculation.refresh import refresh
from etl.provisioning import migrate

ROOT = Path(__file__).resolve().parent.parent
DAYS = 731
ROUNDS = 3
# The part of the facts that a refresh reads when one instant was touched.
_SHARES = {"hour": 1 / (24 * DAYS), "day": 1 / DAYS, "week": 7 / DAYS, "month": 1 / 24, "all": 1.0}

Connection = psycopg.Connection[tuple[Any, ...]]

_FILL = (
    """
    insert into logistics.vehicle_logs
        (log_id, vehicle_id, trip_date, distance_km, fuel_l, etl_run, etl_batch, etl_place)
    select 'LOG-' || n, 'VEH-' || n %% 500, date '2024-01-01' + (n * {days} / {logs})::integer, 100 + n %% 400,
        20 + n %% 50, 1, 0, n
    from generate_series(0, {logs} - 1) as n
    """,
    """
    insert into logistics.shipments (
        shipment_id, order_id, log_id, carrier, service_level, status, origin_country, origin_city, origin_warehouse,
        destination_country, destination_city, created_at, picked_up_at, promised_at, delivered_at, updated_at,
        weight_kg, volume_m3, freight_cost, pieces, etl_run, etl_batch, etl_place
    )
    select
        'SHP-' || n, 'ORD-' || n, case when n %% 10 < 7 then 'LOG-' || n::bigint * {logs} / {shipments} end,
        'Carrier ' || h %% 12, (array['express', 'standard', 'economy'])[1 + h / 12 %% 3],
        case when h %% 50 = 0 then 'in_transit' else 'delivered' end,
        'Country ' || h / 100 %% 4, 'City ' || h / 100 %% 24, 'WH ' || h / 100 %% 24, 'Country ' || h / 3000 %% 4,
        'City ' || h / 3000 %% 24, created, created + interval '3 hours', created + interval '72 hours',
        case when h %% 50 > 0 then created + (h %% 96 + 10) * interval '1 hour' end, created + interval '5 days',
        1 + h %% 1000 / 10.0, h %% 100 / 100.0, 5 + h %% 5000 / 100.0, 1 + h %% 5, 1, n / 5000, n %% 5000
    from (
        select n, abs(hashint8(n))::bigint as h,
            timestamptz '2024-01-01Z' + (n::float8 * {days} / {shipments} + (hashint8(n) %% 1000) / 1000.0)
                * interval '1 day' as created
        from generate_series(0, {shipments} - 1) as n
    ) as numbered
    """,
    """
    insert into logistics.tracking_events (
        event_id, shipment_id, event_code, occurred_at, location_country, location_city, exception_code, recorded_at,
        etl_run, etl_batch, etl_place
    )
    select 'EVT-' || n, 'SHP-' || n / 4, (array['PICKED_UP', 'HUB_ARRIVED', 'HUB_DEPARTED', 'DELIVERED'])[1 + n %% 4],
        at, 'Country ' || n %% 4, 'City ' || n %% 24, case when n %% 40 = 0 then 'DAMAGED' end, at, 1,
        n / 5000, n %% 5000
    from generate_series(0, {events} - 1) as n
    cross join lateral (
        select timestamptz '2024-01-01Z' + (n::float8 / 4 * {days} / {shipments} + n %% 4) * interval '1 day' as at
    ) as happened
    """,
)

_BY_CARRIER = """
    select carrier, sum(count_shipments), sum(count_on_time)::numeric / nullif(sum(count_on_time + count_late), 0)
    from analytics.daily_shipments where day >= '2025-06-01' and day < '2025-09-01' group by carrier
"""


def say(**what: object) -> None:
    """Print one result."""
    sys.stdout.write(f"{json.dumps(what, default=str)}\n")
    sys.stdout.flush()


def timed(action: Callable[[], object]) -> float:
    """Return how many seconds an action takes."""
    began = time.perf_counter()
    action()
    return time.perf_counter() - began


def refreshed(connection: Connection, aggregate: Aggregate, *, full: bool) -> float:
    """Return how many seconds a refresh takes."""
    return timed(lambda: refresh(connection, aggregate, run=None, full=full))


def computed(connection: Connection, aggregate: Aggregate) -> float:
    """Return how many seconds the bare select takes."""
    explain = sql.SQL("explain (analyze, timing off) ") + aggregate.computed()
    return timed(lambda: connection.execute(explain))


def fill(connection: Connection, shipments: int, events: int) -> None:
    """Make the facts, past the triggers."""
    sizes = {"days": DAYS, "shipments": shipments, "logs": max(1, shipments // 20), "events": events}
    connection.execute("set session_replication_role = replica")
    for statement in _FILL:
        text = sql.SQL(statement).format(**{name: sql.Literal(size) for name, size in sizes.items()})
        connection.execute(text, [])
    connection.execute("set session_replication_role = origin")
    for table in ("shipments", "vehicle_logs", "tracking_events"):
        connection.execute(sql.SQL("vacuum (analyze) logistics.{}").format(sql.Identifier(table)))


def full_against_bare(connection: Connection, aggregates: Sequence[Aggregate], rounds: int) -> None:
    """Compare a full refresh of each aggregate with its select alone."""
    refreshes: dict[str, list[float]] = {aggregate.name: [] for aggregate in aggregates}
    bare: dict[str, list[float]] = {aggregate.name: [] for aggregate in aggregates}
    for aggregate in aggregates:
        say(first_refresh=aggregate.name, seconds=refreshed(connection, aggregate, full=True))
    for _ in range(rounds):
        for aggregate in aggregates:
            bare[aggregate.name].append(computed(connection, aggregate))
            refreshes[aggregate.name].append(refreshed(connection, aggregate, full=True))
    medians = {name: statistics.median(seconds) for name, seconds in refreshes.items()}
    alone = {name: statistics.median(seconds) for name, seconds in bare.items()}
    for name, seconds in medians.items():
        say(full=name, seconds=seconds, bare=alone[name], ratio=seconds / alone[name])
    say(measure="full refresh of all / sum of the bare selects", ratio=sum(medians.values()) / sum(alone.values()))


def touch(connection: Connection, days: range, round_: int) -> None:
    """Add one shipment with its events, and one trip, on each of these days."""
    words = {"days": list(days), "name": f"NEW-{round_}-{time.time_ns()}"}
    for statement in (
        """
        insert into logistics.vehicle_logs (log_id, vehicle_id, trip_date, distance_km, etl_run, etl_batch, etl_place)
        select format('%%s-%%s', %(name)s::text, d), 'VEH-1', date '2024-01-01' + d, 100, 1, 0, d
        from unnest(%(days)s::integer[]) as d
        """,
        """
        insert into logistics.shipments (
            shipment_id, log_id, carrier, created_at, picked_up_at, promised_at, delivered_at, origin_country,
            origin_city, origin_warehouse, destination_country, destination_city, etl_run, etl_batch, etl_place
        )
        select
            format('%%s-%%s', %(name)s::text, d), format('%%s-%%s', %(name)s::text, d), 'Carrier 1', at,
            at + interval '1 hour', at + interval '9 hours', at + interval '8 hours', 'Country 1', 'City 1', 'WH 1',
            'Country 2', 'City 2', 1, 0, d
        from unnest(%(days)s::integer[]) as d
        cross join lateral (select timestamptz '2024-01-01 12:00Z' + d * interval '1 day') as created (at)
        """,
        """
        insert into logistics.tracking_events (
            event_id, shipment_id, event_code, occurred_at, location_country, location_city, exception_code,
            recorded_at, etl_run, etl_batch, etl_place
        )
        select
            format('%%s-%%s', %(name)s::text, d), format('%%s-%%s', %(name)s::text, d), 'DELIVERED', at, 'Country 2',
            'City 2', 'DAMAGED', at, 1, 0, d
        from unnest(%(days)s::integer[]) as d
        cross join lateral (select timestamptz '2024-01-01 20:00Z' + d * interval '1 day') as happened (at)
        """,
    ):
        connection.execute(statement, words)


def one_day_against_full(connection: Connection, aggregates: Sequence[Aggregate], rounds: int) -> None:
    """Compare refreshes of what one day touched with the full one just before."""
    for aggregate in aggregates:
        ratios = []
        for round_ in range(rounds):
            full = refreshed(connection, aggregate, full=True)
            touch(connection, range(400 + round_, 401 + round_), round_)
            one = refreshed(connection, aggregate, full=False)
            share = _SHARES[aggregate.bucket]
            ratios.append((max(0.0, one - 0.2) / (full * share), one, full))
        ratio, one, full = sorted(ratios)[len(ratios) // 2]
        say(one_day=aggregate.name, bucket=aggregate.bucket, seconds=one, full=full, ratio_beyond_200_ms=ratio)


def every_day_against_full(connection: Connection, aggregates: Sequence[Aggregate], rounds: int) -> None:
    """Compare refreshes of what every day touched with full ones."""
    every: list[float] = []
    full: list[float] = []
    for round_ in range(rounds):
        touch(connection, range(DAYS), round_)
        every.append(timed(lambda: [refresh(connection, each, run=None) for each in aggregates]))
        full.append(timed(lambda: [refresh(connection, each, run=None, full=True) for each in aggregates]))
        say(every_day=every[-1], full=full[-1])
    ratio = statistics.median(every) / statistics.median(full)
    say(measure="every day touched / full", seconds=every, full=full, ratio=ratio)


_CHANGE = """
    update logistics.shipments set pieces = coalesce(pieces, 0) + 1
    where shipment_id in (
        select shipment_id from logistics.shipments where {days}
        order by hashtext(shipment_id || {round}) limit {changed}
    )
"""
_NIGHTS = {
    "newest": "created_at >= (select max(created_at) from logistics.shipments) - interval '30 days'",
    "spread": "floor(extract(epoch from created_at) / 86400) % 24 = 3",
}


def nights_against_full(connection: Connection, aggregates: Sequence[Aggregate], rounds: int) -> None:
    """Compare refreshes after a night that changed 2 % of the shipments with full ones, each by its aggregates.

    They changed on the newest 30 days, or on one day of 24. In processor seconds of the backend, the least of the
    rounds: another program on the machine only adds to them.
    """
    backend = psutil.Process(connection.info.backend_pid)
    seconds: dict[str, dict[str, list[float]]] = {kind: {} for kind in ("full", *_NIGHTS)}

    def work(kind: str) -> None:
        for aggregate in aggregates:
            before = sum(backend.cpu_times()[:2])
            refresh(connection, aggregate, run=None, full=kind == "full")
            seconds[kind].setdefault(aggregate.name, []).append(sum(backend.cpu_times()[:2]) - before)

    [(count,)] = connection.execute("select count(*) from logistics.shipments").fetchall()
    for round_ in range(rounds):
        work("full")
        for kind, days in _NIGHTS.items():
            words = {"round": sql.Literal(str(round_)), "changed": sql.Literal(count // 50)}
            connection.execute(sql.SQL(_CHANGE).format(days=sql.SQL(days), **words))
            work(kind)
    least = {kind: {name: min(found) for name, found in names.items()} for kind, names in seconds.items()}
    for aggregate in aggregates:
        say(nights=aggregate.name, **{kind: round(least[kind][aggregate.name], 2) for kind in least})
    total = {kind: sum(names.values()) for kind, names in least.items()}
    for kind in _NIGHTS:
        say(measure=f"refresh after 2 % changed, {kind} / full", total=total, ratio=total[kind] / total["full"])


def noting(connection: Connection, table: str, mode: str) -> None:
    """Compare what the server works to bring rows into an empty table with the triggers and without, in batches.

    In processor seconds of the backend: another program on the machine does not count. A whole load works more.
    """
    name = sql.Identifier("logistics", table)
    rows = sql.SQL("select * from (table {} limit 100000) as rows order by etl_batch, etl_place").format(name)
    with connection.cursor() as cursor, cursor.copy(sql.SQL("copy ({}) to stdout").format(rows)) as copy:
        lines = b"".join(copy).splitlines(keepends=True)
    batches = [b"".join(lines[place : place + BATCH_ROWS]) for place in range(0, len(lines), BATCH_ROWS)]
    copied = sql.SQL("create table logistics.kept as table {0}; truncate {0}").format(name)
    into = name if mode == "append" else sql.SQL("pg_temp.batch")
    key = {"shipments": "shipment_id", "tracking_events": "event_id", "vehicle_logs": "log_id"}[table]
    merge = sql.SQL(
        "insert into {0} select * from pg_temp.batch order by {1} "
        "on conflict ({1}) do update set etl_run = excluded.etl_run"
    ).format(name, sql.Identifier(key))
    backend = psutil.Process(connection.info.backend_pid)
    seconds: dict[str, list[float]] = {"enable": [], "disable": []}
    connection.execute(sql.SQL("create temporary table batch (like {}) on commit delete rows").format(name))
    with connection.transaction(force_rollback=True):
        connection.execute(copied)
        for round_ in range(4 * ROUNDS):
            for state in ("enable", "disable") if round_ % 2 else ("disable", "enable"):
                connection.execute(sql.SQL("truncate {}, etl.touched").format(name))
                connection.execute(sql.SQL("alter table {} {} trigger user").format(name, sql.SQL(state)))
                before = sum(backend.cpu_times()[:2])
                for batch in batches:
                    with connection.cursor() as cursor, cursor.copy(sql.SQL("copy {} from stdin").format(into)) as copy:
                        copy.write(batch)
                    if mode == "merge":
                        connection.execute(merge)
                        connection.execute("truncate pg_temp.batch")
                seconds[state].append(round(sum(backend.cpu_times()[:2]) - before, 2))
    connection.execute("drop table pg_temp.batch")
    ratio = statistics.median(seconds["enable"]) / statistics.median(seconds["disable"])
    say(measure=f"noting, {table}, {mode}, batches of {BATCH_ROWS}", seconds=seconds, ratio=ratio)


def loading(address: str, folder: Path, records: int) -> None:
    """Compare whole loads into an empty table with the triggers and without, each by a process of its own, in turn.

    In the database `loading` of the same server: the facts that are there stay.
    """
    with psycopg.connect(address, autocommit=True) as connection:
        connection.execute("drop database if exists loading")
        connection.execute("create database loading")
    target = conninfo.make_conninfo(address, dbname="loading")
    migrate(Database(conninfo=target, embedded=True), folder / "config")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PG", "ETL_"))}
    environment |= {"ETL_DATABASE_URL": target, "ETL_CONFIG_DIR": str(folder / "config")}

    def etl(*words: str) -> None:
        subprocess.run(  # noqa: S603 - this program
            [sys.executable, "-m", "etl", *words], env=environment, cwd=folder, check=True, capture_output=True
        )

    for dataset in ("shipments", "tracking_events"):
        source = folder / f"{dataset}.ndjson"
        if not source.exists():
            etl("generate", dataset, "--records", str(records), "--format", "ndjson", "--output", str(source))
        for mode in ("append", "merge"):
            seconds: dict[str, list[float]] = {"enable": [], "disable": []}
            for round_ in range(2 * ROUNDS + 1):
                for state in ("enable", "disable") if round_ % 2 else ("disable", "enable"):
                    with psycopg.connect(target, autocommit=True) as connection:
                        tables = find(dataset, folder / "config").tables
                        names = sql.SQL(", ").join(table.identifier for table in tables)
                        connection.execute(sql.SQL("truncate {}, etl.touched, etl.runs cascade").format(names))
                        for table in tables:
                            change = sql.SQL("alter table {} {} trigger user")
                            connection.execute(change.format(table.identifier, sql.SQL(state)))
                        connection.execute("checkpoint")
                    load = ("load", dataset, str(source), "--mode", mode, "--no-precalculate")
                    took = timed(partial(etl, *load))
                    if round_:  # The first round reads the source from the disk.
                        seconds[state].append(round(took, 2))
            ratios = sorted(a / b for a, b in zip(seconds["enable"], seconds["disable"], strict=True))
            ratio = statistics.median(seconds["enable"]) / statistics.median(seconds["disable"])
            say(measure=f"loading, {dataset}, {mode}", seconds=seconds, least=ratios[0], most=ratios[-1], ratio=ratio)


def reading(connection: Connection, target: Database, aggregates: Sequence[Aggregate]) -> None:
    """Compare the slowest hundredth of an analyst's reads during refreshes with that without."""

    def reads(seconds: float) -> Iterator[float]:
        end = time.perf_counter() + seconds
        while time.perf_counter() < end:
            yield timed(lambda: connection.execute(_BY_CARRIER).fetchall())
            time.sleep(0.005)

    def p99(found: list[float]) -> float:
        return sorted(found)[int(len(found) * 0.99)]

    alone, during = [], []
    for round_ in range(ROUNDS):
        alone.append(p99(list(reads(15))))
        stop = threading.Event()
        first = round_ * len(aggregates) // ROUNDS  # others each time, because a refresh may take longer than a round
        with connect(target) as theirs:

            def work(mine: Connection = theirs, stop: threading.Event = stop, first: int = first) -> None:
                with suppress(psycopg.errors.QueryCanceled):
                    while not stop.is_set():
                        touch(mine, range(0, DAYS, 40), 0)
                        for aggregate in (*aggregates[first:], *aggregates[:first]):
                            refresh(mine, aggregate, run=None)

            thread = threading.Thread(target=work)
            thread.start()
            during.append(p99(list(reads(15))))
            stop.set()
            while thread.is_alive():
                theirs.cancel_safe()
                thread.join(1)
    say(
        measure="p99 during refreshes / without",
        alone=alone,
        during=during,
        ratio=statistics.median(during) / statistics.median(alone),
    )


def main() -> None:
    """Measure it all, or what is named."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--shipments", type=int, default=5_000_000)
    parser.add_argument("--events", type=int, default=0)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--only", choices=["full", "one-day", "every-day", "nights", "noting", "loading", "reading"])
    asked = parser.parse_args()
    config = asked.folder / "config"
    config.mkdir(parents=True, exist_ok=True)
    aggregates = read_all(config)
    server = Server(asked.folder / "postgres")
    with server.serving() as address:
        target = Database(conninfo=address, embedded=True)
        migrate(target, config)
        with connect(target) as connection:
            if connection.execute("select from logistics.shipments limit 1").fetchone() is None:
                say(filling=asked.shipments, seconds=timed(lambda: fill(connection, asked.shipments, asked.events)))
            if asked.only in {None, "full"}:
                full_against_bare(connection, aggregates, asked.rounds)
            if asked.only in {None, "one-day"}:
                one_day_against_full(connection, aggregates, asked.rounds)
            if asked.only in {None, "every-day"}:
                every_day_against_full(connection, aggregates, asked.rounds)
            if asked.only in {None, "nights"}:
                nights_against_full(connection, aggregates, asked.rounds)
            if asked.only in {None, "reading"}:
                reading(connection, target, aggregates)
            if asked.only in {None, "loading"}:
                loading(address, asked.folder, 400_000)
            if asked.only in {None, "noting"}:
                for table in ("shipments", "tracking_events"):
                    for mode in ("append", "merge"):
                        noting(connection, table, mode)


if __name__ == "__main__":
    main()
