"""The benchmark's own server and tables: empty them, prepare the ceiling, and see what a run brought in."""

import os
import re
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psycopg
from psycopg import sql

from etl.settings import shipped

PLAIN = "bench_shipments"
ITEMS = "bench_shipments_items"
CHILDREN = "bench_shipments_children"
WHOLE = "bench_shipments_whole"
TABLES = {
    PLAIN: ("bench.shipments",),
    ITEMS: ("bench.shipments_of_items", "bench.items"),
    CHILDREN: ("bench.shipments_of_children", "bench.items_of_children", "bench.stops"),
    WHOLE: ("bench.shipments_with_whole",),
}
DLT_SCHEMA = "bench_dlt"

_STOPS = """name = "stops"
comment = "One row per stop of a shipment"
each = "stops"
[table.columns]
shipment_id = { path = "^.shipment_id", type = "text", comment = "Shipment that stops here" }
stop_no = { path = "#", type = "integer", comment = "Number of the stop, from 1" }
place = { type = "text", max_length = 50, comment = "Where it stops" }
at = { type = "timestamptz", comment = "Instant of its arrival" }
"""

_RAW = """[table.columns]
raw = { path = ".", type = "jsonb", comment = "The whole record" }
"""

Connection = psycopg.Connection[tuple[Any, ...]]


def environment(address: str, config_dir: Path) -> dict[str, str]:
    """Return the environment of every program that is measured: nobody's settings, and no telemetry."""
    theirs = re.compile(r"(PG|ETL_|DLT_|RUNTIME__)|DATABASE_URL$")
    return {name: value for name, value in os.environ.items() if not theirs.match(name)} | {
        "ETL_DATABASE_URL": address,
        "ETL_CONFIG_DIR": str(config_dir),
        "RUNTIME__DLTHUB_TELEMETRY": "false",
    }


def write_definitions(config_dir: Path) -> None:
    """Write the datasets: the shipped shipments in append mode without its index; with children; with whole records."""
    text = (shipped("config") / "datasets" / "shipments.toml").read_text(encoding="utf-8")
    text = _changed(text, 'mode = "merge"', 'mode = "append"')
    text = _changed(text, 'index = [["created_at"], ["log_id"], ["picked_up_at"], ["promised_at"]]\n', "")
    head, first, items = text.split("[[table]]\n")
    (config_dir / "datasets").mkdir(parents=True, exist_ok=True)
    whole = _changed(first, "[table.columns]\n", _RAW)
    for name, parts in (
        (PLAIN, [first]),
        (ITEMS, [first, items]),
        (CHILDREN, [first, items, _STOPS]),
        (WHOLE, [whole]),
    ):
        words = [_changed(head, 'name = "shipments"', f'name = "{name}"')]
        for part, table in zip(parts, TABLES[name], strict=True):
            words.append(re.sub(r'^name = ".*"', f'name = "{table}"', part, count=1))
        (config_dir / "datasets" / f"{name}.toml").write_text("[[table]]\n".join(words), encoding="utf-8")


def _changed(text: str, old: str, new: str) -> str:
    if text.count(old) != 1:
        raise ValueError(f"expected {old!r} once in the shipped definition of shipments")
    return text.replace(old, new)


def paths(config_dir: Path) -> dict[str, str]:
    """Return the path of each column of the plain table by its name, as the other tools need them."""
    document = tomllib.loads((config_dir / "datasets" / f"{PLAIN}.toml").read_text(encoding="utf-8"))
    return {name: column.get("path", name) for name, column in document["table"][0]["columns"].items()}


def empty(connection: Connection) -> None:
    """Empty the tables, let the ledger forget every run, and write out what waits to be written."""
    tables = [name for names in TABLES.values() for name in names]
    tables += ["etl.runs", "etl.attempts", "etl.group_attempts", "etl.separate_batches", "etl.failures"]
    names = sql.SQL(", ").join(sql.Identifier(*name.split(".")) for name in tables)
    connection.execute(sql.SQL("truncate {} cascade").format(names))
    for name in (DLT_SCHEMA, f"{DLT_SCHEMA}_staging"):
        connection.execute(sql.SQL("drop schema if exists {} cascade").format(sql.Identifier(name)))
    connection.execute("checkpoint")


def found(connection: Connection, tables: Sequence[str]) -> tuple[tuple[int, ...], int]:
    """Return the number of rows in each table, and the grams of all shipments in the first."""
    counts = []
    for table in tables:
        name = sql.Identifier(*table.split("."))
        counts.append(int(_one(connection, sql.SQL("select count(*) from {}").format(name))))
    first = sql.Identifier(*tables[0].split("."))
    # numeric first: dlt keeps weights as double precision, whose sum is not the sum.
    statement = sql.SQL("select (coalesce(sum(weight_kg::numeric), 0) * 1000)::bigint from {}").format(first)
    return tuple(counts), int(_one(connection, statement))


def prepare(connection: Connection, table: str, path: Path) -> None:
    """Write the rows of a table, lineage too, as the text that COPY takes."""
    statement = sql.SQL("copy {} to stdout").format(sql.Identifier(*table.split(".")))
    with connection.cursor().copy(statement) as copy, path.open("wb") as file:
        for block in copy:
            file.write(block)


def server_version(connection: Connection) -> str:
    """Return the version of the server."""
    return str(_one(connection, sql.SQL("show server_version"))).split()[0]


def _one(connection: Connection, statement: sql.SQL | sql.Composed) -> Any:
    row = connection.execute(statement).fetchone()
    if row is None:
        raise ValueError("expected one row")
    return row[0]
