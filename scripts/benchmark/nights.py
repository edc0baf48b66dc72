"""Nights of full exports: what a second export costs of which little has changed, and what that costs the first one."""

import json
import mmap
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from statistics import median
from typing import Any

import psycopg
from psycopg import sql

from etl.generate.network import Sizes
from etl.generate.records import RECORDS
from scripts.benchmark.bench import Bench

DATASET = "shipments"
_TABLES = ("logistics.shipments", "logistics.shipment_items")
_LEDGER = ("etl.runs", "etl.attempts", "etl.separate_batches", "etl.failures", "etl.seen", "etl.touched", "etl.pending")
_CHANGED, _NEW, _DAYS = 0.02, 0.01, 30
_LOOKED_UP = 14_000


@dataclass(frozen=True, kw_only=True)
class Exports:
    """The files of the nights; each has its records in an order of its own."""

    folder: Path
    records: int

    @property
    def first(self) -> Path:
        """The export of the first night."""
        return self.folder / f"night-{self.records}-first.ndjson"

    def make_first(self) -> None:
        """Write the export of the first night, if it is missing."""
        if not self.first.exists():
            part = self.first.with_suffix(".part")
            with part.open("w", encoding="utf-8") as file:
                file.writelines(f"{text}\n" for text in islice(RECORDS[DATASET](1, 1, Sizes()), self.records))
            part.rename(self.first)

    def later(self, name: str, seed: int, *, changed: float = 0.0, new: float = 0.0, recent: float = 0.0) -> Path:
        """Write an export of a later night: some records changed, all of some days, some are new; return its path.

        `recent` is the part of the records that changed too, on the newest days. The seed decides to what records
        change, and the name their order.
        """
        path = self.folder / f"night-{self.records}-{name}.ndjson"
        chance = random.Random(name)  # noqa: S311 - no secret
        with self.first.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            begins, at = [0], 0
            while (at := data.find(b"\n", at) + 1) and at < len(data):
                begins.append(at)
            every = _days(data, begins)
            days, newest = frozenset(every[:: max(1, len(every) // _DAYS)]), frozenset(every[-_DAYS:])
            at_days = (begin for begin in begins if changed == 1 or _day(data[begin : begin + 2000]) in days)
            changing = dict.fromkeys(islice(at_days, round(changed * len(begins))), seed % 9 + 1)
            at_newest = (begin for begin in begins if recent and _day(data[begin : begin + 2000]) in newest)
            changing |= dict.fromkeys(islice(at_newest, round(recent * len(begins))), (seed + 4) % 9 + 1)
            chance.shuffle(begins)
            with path.open("wb") as out:
                for begin in begins:
                    line = data[begin : data.find(b"\n", begin) + 1]
                    if begin in changing:
                        line = line.replace(b'"pieces":', b'"pieces":%d' % changing[begin], 1)
                    out.write(line)
                others = (f"{text}\n".encode() for text in RECORDS[DATASET](1, self.records + 1, Sizes()))
                out.writelines(islice((line for line in others if _day(line) in days), round(new * len(begins))))
        return path


def _day(line: bytes) -> bytes:
    at = line.find(b'"created_at":"')
    return line[at + 14 : at + 24]


def _days(data: mmap.mmap, begins: list[int]) -> list[bytes]:
    """Return the days of the records, in order."""
    step = max(1, len(begins) // 20_000)
    return sorted({_day(data[begin : begin + 2000]) for begin in begins[::step]})


@dataclass(frozen=True, kw_only=True)
class Night:
    """What one load did."""

    seconds: float
    records: int
    unchanged: int
    written: int
    bytes_before: int
    bytes_after: int
    wal_bytes: int

    @property
    def rate(self) -> float:
        """Records a second."""
        return self.records / self.seconds


def measure(bench: Bench, records: int, rounds: int, say: Callable[[str], None]) -> list[dict[str, float]]:
    """Play the nights, once a round, and return the figures of each round by name."""
    exports = Exports(folder=bench.folder, records=records)
    exports.make_first()
    found = []
    for number in range(1, rounds + 1):
        found.append(_round(bench, exports, number))
        say(f"round {number} of {rounds}: {json.dumps({name: round(value, 3) for name, value in found[-1].items()})}")
    return found


def _round(bench: Bench, exports: Exports, number: int) -> dict[str, float]:
    connection = bench.connection
    _empty(connection)
    connection.execute("alter table logistics.shipments drop column etl_digest")
    plain = _load(bench, exports.first)
    full = _load(bench, exports.later("plain", 10 * number + 1, changed=1.0))
    _empty(connection)
    bench.load(["dataset", "create", DATASET])
    first = _load(bench, exports.first)
    refresh_first = bench.load(["precalculate"]).seconds
    refresh_full = bench.load(["precalculate", "--full"]).seconds
    second = _load(bench, exports.later("second", 10 * number + 2, changed=_CHANGED, new=_NEW))
    refresh = bench.load(["precalculate"]).seconds
    third = _load(bench, exports.later("third", 10 * number + 2, changed=_CHANGED, new=_NEW))
    _load(bench, exports.later("recent", 10 * number + 2, changed=_CHANGED, new=_NEW, recent=_CHANGED))
    refresh_recent = bench.load(["precalculate"]).seconds
    fourth = _load(bench, exports.later("fourth", 10 * number + 3, changed=1.0))
    changed = second.records - second.unchanged
    return {
        "plain": plain.rate,
        "first": first.rate,
        "second": second.rate,
        "first / plain": first.rate / plain.rate,
        "second / first": second.rate / first.rate,
        "all changed / without digests": fourth.rate / full.rate,
        "written / changed": second.written / max(1, changed),
        "growth": (third.bytes_after - third.bytes_before) / third.bytes_before,
        "wal": third.wal_bytes / third.records,
        "lookup": _lookup(connection),
        "refresh of newest days / full": refresh_recent / refresh_full,
        "refresh of all months / full": refresh / refresh_full,
        "refresh of all": refresh_first,
    }


def _empty(connection: psycopg.Connection[tuple[Any, ...]]) -> None:
    names = sql.SQL(", ").join(sql.Identifier(*name.split(".")) for name in (*_TABLES, *_LEDGER))
    connection.execute(sql.SQL("truncate {} cascade").format(names))
    connection.execute("checkpoint")


def _load(bench: Bench, path: Path) -> Night:
    connection = bench.connection
    before, bytes_before, at = _written(connection), _size(connection), _wal(connection)
    run = bench.load(["load", DATASET, str(path), "--no-precalculate", "--json"])
    lines = (bench.folder / "output").read_text(encoding="utf-8", errors="replace").splitlines()
    [summary] = [json.loads(line) for line in lines if line.startswith('{"kind":"source"')]
    connection.execute("vacuum logistics.shipments, logistics.shipment_items")
    night = Night(
        seconds=run.seconds,
        records=summary["records"]["loaded"],
        unchanged=summary["records"]["unchanged"],
        written=_written(connection) - before,
        bytes_before=bytes_before,
        bytes_after=_size(connection),
        wal_bytes=_wal(connection, since=at),
    )
    if path.name.partition("first")[1] != "first":
        path.unlink()
    return night


def _written(connection: psycopg.Connection[tuple[Any, ...]]) -> int:
    connection.execute("select pg_stat_force_next_flush()")
    [[count]] = connection.execute(
        "select n_tup_ins + n_tup_upd from pg_stat_all_tables where relid = 'logistics.shipments'::regclass"
    ).fetchall()
    return int(count)


def _size(connection: psycopg.Connection[tuple[Any, ...]]) -> int:
    [[size]] = connection.execute(
        "select sum(pg_total_relation_size(name::regclass)) from unnest(%s::text[]) as t (name)",
        [[*_TABLES, "etl.seen"]],
    ).fetchall()
    return int(size)


def _wal(connection: psycopg.Connection[tuple[Any, ...]], *, since: int = 0) -> int:
    [[at]] = connection.execute("select pg_current_wal_lsn() - '0/0'::pg_lsn").fetchall()
    return int(at) - since


def _lookup(connection: psycopg.Connection[tuple[Any, ...]]) -> float:
    """Return the microseconds in which the server looks a record of a shuffled batch up."""
    connection.execute("analyze logistics.shipments")
    connection.execute(
        sql.SQL(
            "create temporary table looked_up as select shipment_id, etl_digest from"
            " (select shipment_id, etl_digest from logistics.shipments tablesample system (20)) as some_rows"
            " order by random() limit {}"
        ).format(sql.Literal(_LOOKED_UP))
    )
    [[plan]] = connection.execute(
        "explain (analyze, timing off, format json) select count(*) from looked_up as batch cross join lateral ("
        " select old.etl_digest from logistics.shipments as old where old.shipment_id = batch.shipment_id offset 0"
        ") as old where old.etl_digest = batch.etl_digest"
    ).fetchall()
    [[count]] = connection.execute("select count(*) from looked_up").fetchall()
    connection.execute("drop table looked_up")
    return float(plan[0]["Execution Time"]) * 1000 / max(1, int(count))


_ROWS = (
    ("second load / first load, records a second", "second / first", 2.0, 1, ".2f"),
    ("everything changed / the same without digests", "all changed / without digests", 0.95, 1, ".2f"),
    ("first load / the same without digests", "first / plain", 0.97, 1, ".2f"),
    ("rows of the first table written for each changed record", "written / changed", 1.0, -1, ".2f"),
    ("growth of the tables where nothing changed", "growth", 0.05, -1, ".1%"),
    ("WAL for each record where nothing changed, in bytes", "wal", 15.0, -1, ".1f"),
    ("looking a record up, in microseconds of the server", "lookup", 5.0, -1, ".1f"),
    ("refresh after changes on the newest 30 days / full refresh", "refresh of newest days / full", 0.15, -1, ".2f"),
    (
        "refresh after changes on 30 days of all months / full refresh",
        "refresh of all months / full",
        0.15,
        -1,
        ".2f",
    ),
)


def table(found: list[dict[str, float]]) -> Iterator[str]:
    """Yield the lines of a Markdown table."""
    yield "| what | median | least to most | must | |"
    yield "| --- | ---: | ---: | ---: | --- |"
    for what, name, must, sign, form in _ROWS:
        values = [figures[name] for figures in found]
        reached = "reached" if sign * round(median(values), 2) >= sign * must else "**not reached**"
        yield (
            f"| {what} | {median(values):{form}} | {min(values):{form}} to {max(values):{form}} | {must:{form}}"
            f" | {reached} |"
        )
    for what in ("first", "second"):
        rates = [figures[what] for figures in found]
        yield f"| {what} load, records a second | {median(rates):,.0f} | {min(rates):,.0f} to {max(rates):,.0f} | | |"
