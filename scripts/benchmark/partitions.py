"""Loads into a table of monthly partitions, compared with the same loads into a plain table."""

import json
import os
import resource
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from statistics import median
from typing import Literal

from psycopg import sql

from etl.generate.network import Sizes
from etl.generate.records import RECORDS
from etl.settings import shipped
from scripts.benchmark.bench import Bench

Order = Literal["random", "ordered"]
Mode = Literal["append", "merge"]

MUST = 0.92
_PAUSE_SECONDS = 0.05
_OTHERS = "select count(*) from pg_stat_activity where backend_type = 'client backend' and pid <> pg_backend_pid()"
_TICKS = os.sysconf("SC_CLK_TCK")
_LEDGER = ("etl.runs", "etl.attempts", "etl.separate_batches", "etl.failures", "etl.seen", "etl.touched", "etl.pending")
_ORDERS: dict[Order, str] = {"random": "months in random order", "ordered": "records in the order of time"}
_MODES: tuple[Mode, ...] = ("append", "merge")
_MONTHS = [f"{year}-{month:02}-01" for year in (2024, 2025) for month in range(1, 13)]
"""The months of the generated shipments."""
_HEAD = 'key = ["shipment_id"]\n'
_KEY = 'key = ["shipment_id", "created_at"]\n'
_CREATED = 'created_at = { path = "^.created_at", type = "timestamptz", required = true }\n'
_AGGREGATE = """-- One row per month.
-- table: analytics.{name}
-- bucket: month
-- fact {fact}: (created_at at time zone 'UTC')::date
-- newest: {fact}.created_at
-- key: month
-- column month: month of the shipments
-- column count_shipments: shipments
select date_trunc('month', created_at at time zone 'UTC')::date as month, count(*) as count_shipments
from {fact}
where created_at >= :from_utc and created_at < :until_utc
group by 1
"""


@dataclass(frozen=True, kw_only=True)
class Tables:
    """The tables of a dataset: shipments alone or with their items, divided into months or plain."""

    has_items: bool
    is_divided: bool

    @property
    def dataset(self) -> str:
        """The name of the dataset."""
        return f"months_{'divided' if self.is_divided else 'plain'}{'_items' if self.has_items else ''}"

    @property
    def names(self) -> list[str]:
        """The names of the tables."""
        return [f"bench.{self.dataset}", *([f"bench.{self.dataset}_lines"] if self.has_items else [])]

    def write(self, config_dir: Path) -> None:
        """Write the definition, and the definition of an aggregate: its triggers note each change of the shipments."""
        text = (shipped("config") / "datasets" / "shipments.toml").read_text(encoding="utf-8")
        head, *parts = text.replace(_HEAD, _KEY).split("[[table]]\n")
        words = [head.replace('name = "shipments"', f'name = "{self.dataset}"')]
        for name, old, part in zip(self.names, ("shipments", "shipment_items"), parts, strict=False):
            divided = '\npartition_by = "created_at"' if self.is_divided else ""
            words.append(part.replace(f'name = "logistics.{old}"', f'name = "{name}"{divided}'))
        if self.has_items:
            words[-1] = words[-1].replace("[table.columns]\n", f"[table.columns]\n{_CREATED}")
        (config_dir / "aggregates").mkdir(parents=True, exist_ok=True)
        (config_dir / "datasets" / f"{self.dataset}.toml").write_text("[[table]]\n".join(words), encoding="utf-8")
        aggregate = _AGGREGATE.format(name=f"bench_{self.dataset}", fact=self.names[0])
        (config_dir / "aggregates" / f"bench_{self.dataset}.sql").write_text(aggregate, encoding="utf-8")


ALL = [Tables(has_items=items, is_divided=divided) for items in (False, True) for divided in (False, True)]


@dataclass(frozen=True, kw_only=True)
class Load:
    """What a load took; `cpu` are the seconds of all cores, of the load and of the server's sessions."""

    seconds: float
    cpu: float


@dataclass(frozen=True, kw_only=True)
class Share:
    """The rate of loads into partitions, in parts of the rate of the same loads into a plain table, of each round."""

    what: str
    rates: list[float]
    shares: list[float]
    cpu: list[float]


def measure(bench: Bench, records: int, rounds: int, say: Callable[[str], None]) -> list[Share]:
    """Load each file into a plain table and into a divided one, in turn, and return the shares."""
    for tables in ALL:
        tables.write(bench.folder / "config")
    bench.load(["db", "migrate"])
    for name in (name for tables in ALL if tables.is_divided for name in tables.names):
        bench.connection.execute("select etl.make_partitions(%s, %s::timestamp[])", [name, _MONTHS])
    found: dict[tuple[bool, Order, Mode], list[tuple[float, Load, Load]]] = {}
    for number in range(rounds):
        for has_items in (False, True):
            for order in _ORDERS:
                path = _file(bench.folder, records, order, has_items=has_items)
                loads: dict[bool, dict[Mode, Load]] = {}
                for is_divided in (False, True) if number % 2 == 0 else (True, False):
                    tables = Tables(has_items=has_items, is_divided=is_divided)
                    loads[is_divided] = _loads(bench, tables, path, records)
                for mode, plain in loads[False].items():
                    divided = loads[True][mode]
                    found.setdefault((has_items, order, mode), []).append((records / divided.seconds, divided, plain))
                    say(
                        f"round {number + 1} of {rounds}: {_what(has_items, order, mode)}:"
                        f" {plain.seconds / divided.seconds:.2f}, CPU {divided.cpu / plain.cpu:.2f}"
                    )
    return [
        Share(
            what=_what(*key),
            rates=[rate for rate, _, _ in rows],
            shares=[plain.seconds / divided.seconds for _, divided, plain in rows],
            cpu=[divided.cpu / plain.cpu for _, divided, plain in rows],
        )
        for key, rows in found.items()
    ]


def _what(has_items: bool, order: Order, mode: Mode) -> str:
    return f"{mode}, {'shipments with items' if has_items else 'shipments alone'}, {_ORDERS[order]}"


def _loads(bench: Bench, tables: Tables, path: Path, records: int) -> dict[Mode, Load]:
    loads: dict[Mode, Load] = {}
    for mode in _MODES:
        _empty(bench)
        loads[mode] = _load(bench, tables, path, mode, records)
    return loads


def _load(bench: Bench, tables: Tables, path: Path, mode: Mode, records: int) -> Load:
    before = _cpu(bench)
    run = bench.load(["load", tables.dataset, str(path), "--mode", mode, "--no-precalculate", "--json"])
    lines = (bench.folder / "output").read_text(encoding="utf-8", errors="replace").splitlines()
    [summary] = [json.loads(line) for line in lines if line.startswith('{"kind":"source"')]
    if summary["records"]["loaded"] != records:
        raise ValueError(f"expected {records} loaded records, got {summary['records']['loaded']}")
    return Load(seconds=run.seconds, cpu=_cpu(bench) - before)


def _cpu(bench: Bench) -> float:
    """Return the seconds of the processes of the benchmark that have ended, and of the sessions of its server."""
    while bench.connection.execute(_OTHERS).fetchall() != [(0,)]:  # The session of a load ends a little later.
        time.sleep(_PAUSE_SECONDS)
    time.sleep(_PAUSE_SECONDS)
    [[name]] = bench.connection.execute("show data_directory").fetchall()
    server = int((Path(name) / "postmaster.pid").read_text(encoding="ascii").split()[0])
    ticks = Path(f"/proc/{server}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[13:15]
    own = resource.getrusage(resource.RUSAGE_CHILDREN)
    return own.ru_utime + own.ru_stime + sum(map(int, ticks)) / _TICKS


def _empty(bench: Bench) -> None:
    names = [name for tables in ALL for name in tables.names]
    listed = sql.SQL(", ").join(sql.Identifier(*name.split(".")) for name in (*names, *_LEDGER))
    bench.connection.execute(sql.SQL("truncate {} cascade").format(listed))
    bench.connection.execute("checkpoint")


def _file(folder: Path, records: int, order: Order, *, has_items: bool) -> Path:
    """Return the file of these records, written if it is missing."""
    path = folder / f"months-{records}-{order}{'-items' if has_items else ''}.ndjson"
    if not path.exists():
        texts = list(islice(RECORDS["shipments"](1, 1, Sizes()), records))
        if order == "ordered":
            texts.sort(key=_created)
        if not has_items:
            texts = [text.rpartition(',"items":')[0] + "}" for text in texts]
        part = path.with_suffix(".part")
        part.write_text("".join(f"{text}\n" for text in texts), encoding="utf-8")
        part.rename(path)
    return path


def _created(text: str) -> str:
    return text.partition('"created_at":"')[2][:20]


def table(found: list[Share]) -> Iterator[str]:
    """Yield the lines of a Markdown table."""
    yield "| load into 24 partitions | records/s | / plain table | least to most | must | CPU / plain table | |"
    yield "| --- | ---: | ---: | ---: | ---: | ---: | --- |"
    for share in found:
        value = median(share.shares)
        verdict = "reached" if round(value, 2) >= MUST else "**not reached**"
        yield (
            f"| {share.what} | {median(share.rates):,.0f} | {value:.2f} | {min(share.shares):.2f} to"
            f" {max(share.shares):.2f} | {MUST:.2f} | {median(share.cpu):.2f} | {verdict} |"
        )
