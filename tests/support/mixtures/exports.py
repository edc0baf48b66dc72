"""The exports of a mixture: random records whose result in the tables is known, and the definitions that load them."""

import json
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from tests.support.site import Site

Dataset = Literal["movements", "shipments", "stock"]
Fate = Literal["good", "bad", "dozen"]

MOVEMENTS = """
name = "movements"
mode = "append"
[[table]]
name = "logistics.movements"
index = [["moved_at"]]
[table.columns]
movement_id = { type = "text", required = true }
moved_at = { type = "timestamptz", required = true }
status = "text"
pieces = "integer"
freight_cost = "numeric"
[[table]]
name = "logistics.movement_items"
each = "items"
[table.columns]
movement_id = { path = "^.movement_id", type = "text" }
line_no = { path = "#", type = "integer" }
sku = "text"
"""

STOCK = """
name = "stock"
mode = "replace"
key = ["sku"]
[[table]]
name = "logistics.stock"
[table.columns]
sku = { type = "text", required = true }
counted_at = "timestamptz"
status = "text"
pieces = "integer"
freight_cost = "numeric"
"""

AGGREGATES = {
    "movement_days": """
-- One row per day of the movements.
-- table: analytics.movement_days
-- bucket: day
-- fact logistics.movements: (moved_at at time zone 'UTC')::date
-- newest: logistics.movements.moved_at
-- key: day
-- column day: day (UTC) of the movements
-- column count_movements: movements
-- column sum_freight_cost: freight cost, where known
select (moved_at at time zone 'UTC')::date as day, count(*) as count_movements, sum(freight_cost) as sum_freight_cost
from logistics.movements
where moved_at >= :from_utc and moved_at < :until_utc
group by 1
""",
    "stock_levels": """
-- One row per status of the stock.
-- table: analytics.stock_levels
-- bucket: all
-- fact logistics.stock
-- newest: logistics.stock.counted_at
-- key: status
-- column status: status of the count; (none) where the export names none
-- column count_skus: stock keeping units
-- column sum_pieces: pieces, where known
select coalesce(status, '(none)') as status, count(*) as count_skus, sum(pieces) as sum_pieces
from logistics.stock
group by 1
""",
}

# Only the server refuses records with a dozen pieces: after its end they can be replayed.
REFUSE_DOZENS = "alter table {table} add constraint no_dozen check (pieces <> 12)"
ACCEPT_DOZENS = "alter table {table} drop constraint if exists no_dozen"

FACTS: dict[Dataset, str] = {name: f"logistics.{name}" for name in ("movements", "shipments", "stock")}
KEYS: dict[Dataset, str] = {"movements": "movement_id", "shipments": "shipment_id", "stock": "sku"}
TIMES: dict[Dataset, str] = {"movements": "moved_at", "shipments": "updated_at", "stock": "counted_at"}


@dataclass(frozen=True, kw_only=True)
class Record:
    """A record: `version` orders the records of one key, `fate` is whether the loader or the server refuses it."""

    key: str
    version: int
    fate: Fate
    day: int
    count_items: int

    @property
    def status(self) -> str:
        """The text that identifies this version in its row."""
        return f"{self.key} v{self.version}"

    def text(self, dataset: Dataset) -> str:
        """Return the JSON of the record."""
        minutes, seconds = divmod(self.version, 60)
        values: dict[str, Any] = {
            KEYS[dataset]: self.key,
            "created_at": f"2026-01-{self.day:02}T08:00:00Z",
            TIMES[dataset]: f"2026-01-{self.day:02}T{minutes // 60:02}:{minutes % 60:02}:{seconds:02}Z",
            "status": self.status,
            "pieces": {"good": self.version % 7, "bad": "many", "dozen": 12}[self.fate],
            "freight_cost": self.version,
            "items": [{"sku": self.status, "line": number} for number in range(self.count_items)],
        }
        if dataset == "shipments":  # the newest version wins, whatever its day is
            days, rest = divmod(self.version, 86_400)
            values["updated_at"] = f"2026-02-{1 + days:02}T{rest // 3600:02}:{rest // 60 % 60:02}:{rest % 60:02}Z"
            values["origin"] = {"city": f"C{self.version % 5}", "warehouse": f"W{self.version % 3}"}
            values["picked_up_at"] = f"2026-01-{self.day:02}T12:00:00Z"
        return json.dumps(values)


@dataclass(frozen=True, kw_only=True)
class Export:
    """A source of a dataset. `tail` is the number of its last records, which a step may append later."""

    name: str
    dataset: Dataset
    is_atomic: bool
    records: tuple[Record, ...]
    tail: int = 0

    @property
    def options(self) -> list[str]:
        """The options with which each load of it is run."""
        return ["--atomic"] if self.is_atomic else []

    def write(self, folder: Path) -> None:
        """Write it without its tail."""
        texts = [record.text(self.dataset) for record in self.records[: len(self.records) - self.tail]]
        is_lines = self.name.endswith(".ndjson")
        separator = "\n" if is_lines else ",\n"
        content = separator.join(texts)
        (folder / self.name).write_text(f"{content}\n" if is_lines else f"[{content}]\n")

    def grow(self, folder: Path) -> None:
        """Append the tail, by one write."""
        tail = self.records[len(self.records) - self.tail :]
        with (folder / self.name).open("ab", buffering=0) as file:
            file.write("".join(f"{record.text(self.dataset)}\n" for record in tail).encode())


def draw_exports(rng: random.Random, records: int, *, grows: bool) -> tuple[Export, ...]:
    """Draw the exports of a mixture; the first, of the stock, is loaded before the mixture."""
    drawn = [("stock", "json", False, 0)]
    drawn += [("stock", rng.choice(("json", "ndjson")), False, 0) for _ in range(rng.randint(1, 2))]
    drawn += [("movements", "ndjson", False, rng.randint(1, 300) if grows else 0), ("movements", "json", True, 0)]
    drawn += [("shipments", "json", False, 0), ("shipments", "ndjson", False, 0)]
    drawn += [("shipments", "json", True, 0)] * rng.randint(0, 1)
    return tuple(
        Export(
            name=f"{dataset}_{number}.{ending}",
            dataset=dataset,  # type: ignore[arg-type]
            is_atomic=is_atomic,
            records=tuple(_records(rng, dataset, number, rng.randint(records // 2, records))),
            tail=tail,
        )
        for number, (dataset, ending, is_atomic, tail) in enumerate(drawn)
    )


def _records(rng: random.Random, dataset: str, number: int, records: int) -> Iterator[Record]:
    """Yield records: keys of `movements` are those of one export; others are in several, `shipments` also twice."""
    keys = list(range(records))
    if dataset == "shipments":
        keys += rng.sample(keys, records // 10)
    rng.shuffle(keys)
    versions: set[tuple[int, int]] = set()
    share = rng.choice((0.0, 0.01, 0.04))
    for key in keys:
        while (key, version := rng.randrange(1_000) * 16 + number) in versions:
            pass
        versions.add((key, version))
        chance = rng.random()
        yield Record(
            key=f"{dataset[:2].upper()}{number if dataset == 'movements' else ''}-{key:05}",
            version=version,
            fate="bad" if chance < share / 2 else "dozen" if chance < share else "good",
            day=rng.randint(1, 28),
            count_items=rng.randint(0, 2),
        )


def write_configuration(site: Site) -> None:
    """Write the definitions and the aggregates of a mixture to the folder of a site."""
    site.write_definition(MOVEMENTS)
    site.write_definition(STOCK)
    folder = site.folder / "config" / "aggregates"
    folder.mkdir(exist_ok=True)
    for name, text in AGGREGATES.items():
        (folder / f"{name}.sql").write_text(text.lstrip())
