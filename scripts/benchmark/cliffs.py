"""What a difference from a clean file costs the client: records of seven columns, one thing changed at a time.

Measured is the processor time of this process for cutting a source and making its batches, without a server. No two
records have the same values, so that no cache flatters. A file and its clean twin are measured in turn.
"""

import math
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from io import BytesIO
from pathlib import Path

from etl.datasets import Dataset, read
from etl.ingestion.constants import BATCH_ROWS, FIRST_BATCH_ROWS
from etl.ingestion.framing.pieces import CutOptions, cut
from etl.ingestion.transform.fastpath import FastPath
from etl.ingestion.transform.paths import CheckedPath, Paths, fast
from etl.ingestion.transform.projection import Projection
from etl.ingestion.values import Source

Value = Callable[[int], str | None]
"""The number of a record -> the text of a member; None leaves the member out."""

_PART = 60_000
"""So many records are one source."""

_TIMES = 3
"""Each source is measured so often, and the least counts: other work on the machine only adds to it."""

_EPOCH = datetime(2025, 1, 1, tzinfo=UTC)
_MOD = 1_000_003


def _scattered(number: int, by: int = 7919) -> int:
    return number * by % _MOD


def _instant(number: int) -> datetime:
    return _EPOCH + timedelta(seconds=number * 53)


def _strftime(form: str) -> Value:
    return lambda number: f'"{_instant(number).strftime(form)}"'


def _day(number: int) -> date:
    return date(1990, 1, 1) + timedelta(days=_scattered(number) % 20_000)


CLEAN_COLUMNS = {
    "shipment_id": '"text"',
    "customer": '"text"',
    "note": '"text"',
    "weight_kg": '"numeric"',
    "pieces": '"integer"',
    "created_at": '"timestamptz"',
    "due_on": '"date"',
}

CLEAN: dict[str, Value] = {
    "shipment_id": lambda number: f'"SHP-{number:09}"',
    "customer": lambda number: f'"Customer {_scattered(number)} GmbH"',
    "note": lambda number: f'"Deliver at gate {_scattered(number, 104_729)} and ring"',
    "weight_kg": lambda number: f"{_scattered(number) / 100:.2f}",
    "pieces": lambda number: f"{_scattered(number, 104_729)}",
    "created_at": lambda number: f'"{_instant(number):%Y-%m-%dT%H:%M:%S}Z"',
    "due_on": lambda number: f'"{_day(number)}"',
}


def _every(step: int, odd: str, name: str) -> Value:
    """Return a clean member that is `odd` in one of `step` records."""
    return lambda number: odd if number % step == step // 2 else CLEAN[name](number)


@dataclass(frozen=True, kw_only=True, eq=False)
class Cliff:
    """One difference from the clean file: in the columns of the definition, in the members of the records, or around.

    `must` and `aim` are shares of the speed of `base`; without them a row is only reported. `columns` and `values` come
    in addition to those of the clean file, or instead of them. `head` and `table` are further options of the dataset
    and of its first table, `tables` are further tables. `is_keyed`: the records are members of an object. `is_guarded`:
    the tables check the limits, not the client. `is_checked`: only the checked path is used.
    """

    what: str
    must: float | None = None
    aim: float | None = None
    columns: Mapping[str, str] = field(default_factory=dict)
    values: Mapping[str, Value] = field(default_factory=dict)
    head: str = ""
    table: str = ""
    tables: str = ""
    is_keyed: bool = False
    is_guarded: bool = False
    is_checked: bool = False
    base: str = "clean"


_LOCAL = '{ type = "timestamptz", timezone = "Europe/Berlin", formats = ["%s"] }'


def _local(form: str, *more: str) -> Mapping[str, str]:
    return {"created_at": _LOCAL % '", "'.join([form, *more])}


def _unpadded(number: int) -> str:
    at = _instant(number)
    return f'"{at.day}.{at.month}.{at.year} {at.hour}:{at:%M}"'


def _mixed(number: int) -> str | None:
    return _strftime("%d/%m/%Y %H:%M" if number % 3 else "%Y%m%d %H:%M:%S")(number)


_WITH_KIND = "a text column with three values"


def _kind(number: int) -> str:
    return ('"road"', '"rail"', '"sea"')[number % 3]


_WITH_NOTE = "a text column without values"


def _moved(step: int) -> Cliff:
    return Cliff(
        what=f"`misfits_to`, {100 // step} % misfits",
        must=0.88 if step == 100 else 0.80,
        aim=0.95 if step == 100 else 0.90,
        base=_WITH_NOTE,
        columns={"weight_kg": '{ type = "numeric", misfits_to = "weight_note" }', "weight_note": '"text"'},
        values={"weight_kg": lambda n: f'"on request {n}"' if n % step == 7 else CLEAN["weight_kg"](n)},
    )


_PARCELS = """[[table]]
name = "bench.%s"
each = %s
[table.columns]
shipment_id = { path = "%s.shipment_id", type = "text" }
line_no = { path = "#", type = "integer" }
sku = "text"
quantity = "integer"
"""


def _parcels(number: int) -> str:
    return ",".join(f'{{"sku":"SKU-{number}-{line}","quantity":{number + line}}}' for line in range(3))


_SECOND = "\n".join(f"{name} = {options}" for name, options in CLEAN_COLUMNS.items())

CLIFFS: tuple[Cliff, ...] = (
    Cliff(what="clean"),
    Cliff(
        what="decimals in quotes",
        must=0.92,
        aim=0.97,
        values={"weight_kg": lambda number: f'"{CLEAN["weight_kg"](number)}"'},
    ),
    Cliff(
        what="integers in quotes",
        must=0.92,
        aim=0.97,
        values={"pieces": lambda number: f'"{CLEAN["pieces"](number)}"'},
    ),
    Cliff(
        what='decimals, 2 % `""` with `null_if`',
        must=0.88,
        aim=0.95,
        columns={"weight_kg": '{ type = "numeric", null_if = [""] }'},
        values={"weight_kg": _every(50, '""', "weight_kg")},
    ),
    Cliff(
        what='decimals in quotes, 2 % `""` with `null_if`',
        must=0.88,
        aim=0.95,
        columns={"weight_kg": '{ type = "numeric", null_if = [""] }'},
        values={"weight_kg": lambda number: '""' if number % 50 == 7 else f'"{CLEAN["weight_kg"](number)}"'},
    ),
    Cliff(
        what="integers written `5.0`",
        must=0.90,
        aim=0.95,
        values={"pieces": lambda number: f"{CLEAN['pieces'](number)}.0"},
    ),
    Cliff(what="numbers into a text column", must=0.85, aim=0.92, values={"customer": CLEAN["weight_kg"]}),
    Cliff(
        what="`epoch_ms`",
        must=0.80,
        aim=0.92,
        columns={"created_at": '{ type = "timestamptz", formats = ["epoch_ms"] }'},
        values={"created_at": lambda number: f"{int(_instant(number).timestamp())}{number % 1000:03}"},
    ),
    Cliff(
        what="`epoch`",
        must=0.80,
        aim=0.92,
        columns={"created_at": '{ type = "timestamptz", formats = ["epoch"] }'},
        values={"created_at": lambda number: f"{int(_instant(number).timestamp())}"},
    ),
    Cliff(
        what="`%d.%m.%Y %H:%M`",
        must=0.75,
        aim=0.90,
        columns=_local("%d.%m.%Y %H:%M"),
        values={"created_at": _strftime("%d.%m.%Y %H:%M")},
    ),
    Cliff(
        what="`%d.%m.%Y %H:%M`, 1 % impossible days",
        must=0.50,
        aim=0.70,
        columns=_local("%d.%m.%Y %H:%M"),
        values={
            "created_at": lambda number: (
                f'"31.02.2025 {number % 24:02}:{number % 60:02}"'
                if number % 100 == 7
                else _strftime("%d.%m.%Y %H:%M")(number)
            )
        },
    ),
    Cliff(
        what="`%d.%m.%Y` in a date",
        must=0.75,
        aim=0.90,
        columns={"due_on": '{ type = "date", formats = ["%d.%m.%Y"] }'},
        values={"due_on": lambda number: f'"{_day(number):%d.%m.%Y}"'},
    ),
    Cliff(
        what="unpadded days (`5.1.2026 7:05`)",
        must=0.40,
        aim=0.70,
        columns=_local("%d.%m.%Y %H:%M"),
        values={"created_at": _unpadded},
    ),
    Cliff(
        what="`%d-%b-%Y %H:%M`",
        must=0.40,
        aim=0.70,
        columns=_local("%d-%b-%Y %H:%M"),
        values={"created_at": _strftime("%d-%b-%Y %H:%M")},
    ),
    Cliff(
        what="`%d.%m.%y %H:%M`",
        must=0.40,
        aim=0.70,
        columns=_local("%d.%m.%y %H:%M"),
        values={"created_at": _strftime("%d.%m.%y %H:%M")},
    ),
    Cliff(
        what="`%Y%m%d %H:%M:%S.%f`",
        must=0.40,
        aim=0.70,
        columns=_local("%Y%m%d %H:%M:%S.%f"),
        values={"created_at": lambda number: f'"{_instant(number):%Y%m%d %H:%M:%S}.{number % 1_000_000:06}"'},
    ),
    Cliff(
        what="two formats mixed",
        must=0.40,
        aim=0.70,
        columns=_local("%d/%m/%Y %H:%M", "%Y%m%d %H:%M:%S"),
        values={"created_at": _mixed},
    ),
    Cliff(
        what="local times with `timezone`",
        must=0.85,
        aim=0.95,
        columns={"created_at": '{ type = "timestamptz", timezone = "Europe/Berlin" }'},
        values={"created_at": _strftime("%Y-%m-%dT%H:%M:%S")},
    ),
    Cliff(
        what="`null_if` without hits",
        must=0.90,
        aim=0.97,
        columns={"customer": '{ type = "text", null_if = ["N/A", "-"] }'},
    ),
    Cliff(
        what="`null_if`, 10 % hits",
        must=0.90,
        aim=0.97,
        columns={"customer": '{ type = "text", null_if = ["N/A", "-"] }'},
        values={"customer": _every(10, '"N/A"', "customer")},
    ),
    Cliff(
        what="`null_if` of numbers, 10 % hits",
        must=0.90,
        aim=0.97,
        columns={"weight_kg": '{ type = "numeric", null_if = [-1] }'},
        values={"weight_kg": _every(10, "-1", "weight_kg")},
    ),
    Cliff(what="`trim`, clean", must=0.80, aim=0.92, columns={"customer": '{ type = "text", trim = true }'}),
    Cliff(
        what="`trim`, padded",
        must=0.80,
        aim=0.92,
        columns={"customer": '{ type = "text", trim = true }'},
        values={"customer": lambda number: f'"  Customer {_scattered(number)} GmbH   "'},
    ),
    Cliff(
        what="`default`, 10 % null",
        must=0.90,
        aim=0.97,
        columns={"customer": '{ type = "text", default = "unknown" }'},
        values={"customer": _every(10, "null", "customer")},
    ),
    Cliff(what=_WITH_NOTE, columns={"weight_note": '"text"'}),
    _moved(100),
    _moved(10),
    Cliff(
        what="members that the dataset does not name",
        must=0.80,
        aim=0.88,
        values={
            "internal_code": lambda number: f'"X{_scattered(number, 31)}"',
            "internal_flags": lambda number: f'{{"a":{number},"b":"{number}"}}',
        },
    ),
    Cliff(
        what="`one_of`, `above` and `max_length` together",
        is_guarded=True,
        must=0.85,
        aim=0.95,
        columns={
            "customer": '{ type = "text", max_length = 40 }',
            "weight_kg": '{ type = "numeric", above = -1 }',
            "kind": '{ type = "text", one_of = ["road", "rail", "sea"] }',
        },
        values={"kind": lambda number: ('"road"', '"rail"', '"sea"')[number % 3]},
    ),
    Cliff(
        what="members missing in half of the records",
        must=0.95,
        aim=0.95,
        values={
            name: lambda number, name=name: CLEAN[name](number) if number % 2 else None  # type: ignore[misc] # bound now
            for name in ("customer", "note", "weight_kg", "due_on")
        },
    ),
    Cliff(
        what="escapes in every text",
        must=0.82,
        aim=0.95,
        values={
            "customer": lambda number: f'"Customer {_scattered(number)}\\nGmbH"',
            "note": lambda number: f'"Deliver at \\"gate\\" {_scattered(number, 104_729)}\\nand ring"',
        },
    ),
    Cliff(
        what="`\\uXXXX` in every text",
        must=0.88,
        aim=0.95,
        values={
            "customer": lambda number: f'"M\\u00fcller {_scattered(number)} GmbH"',
            "note": lambda number: f'"Abgabe an T\\u00fcr {_scattered(number, 104_729)}"',
        },
    ),
    Cliff(what="keyed records (`items.*`)", must=0.70, aim=0.85, head='records = "items.*"', is_keyed=True),
    Cliff(what=_WITH_KIND, columns={"kind": '"text"'}, values={"kind": _kind}),
    Cliff(
        what="`where`, two tables from one stream",
        must=0.65,
        aim=0.85,
        base=_WITH_KIND,
        table='where = { kind = "road" }',
        tables=f'[[table]]\nname = "bench.others"\nwhere = {{ kind = ["rail", "sea"] }}\n[table.columns]\n{_SECOND}\n',
        values={"kind": _kind},
    ),
    Cliff(
        what="positions in paths",
        must=0.65,
        aim=0.85,
        columns={"weight_kg": '{ path = "parts.0.weight_kg", type = "numeric" }'},
        values={
            "weight_kg": lambda number: None,
            "parts": lambda number: f'[{{"weight_kg":{CLEAN["weight_kg"](number)}}}]',
        },
    ),
    Cliff(
        what="`each`",
        tables=_PARCELS % ("parcels", '"parcels"', "^"),
        values={"parcels": lambda number: f"[{_parcels(number)}]"},
    ),
    Cliff(
        what="`each` in `each`, against `each`",
        must=0.65,
        aim=0.85,
        base="`each`",
        tables=_PARCELS % ("parcels", '["legs", "parcels"]', "^^"),
        values={"legs": lambda number: f'[{{"parcels":[{_parcels(number)}]}}]'},
    ),
    Cliff(what="whole record as jsonb beside", columns={"raw": '{ path = ".", type = "jsonb" }'}),
    Cliff(
        what="1 % bad by a limit that the client checks",
        columns={"pieces": '{ type = "integer", min = 0, max = 2000000000 }'},
        values={"pieces": _every(100, "-5", "pieces")},
    ),
    Cliff(what="1 % bad by type", values={"pieces": _every(100, '"many"', "pieces")}),
    Cliff(what="1 % bad by NUL", values={"note": _every(100, '"a\\u0000b"', "note")}),
    Cliff(what="`--decoder ijson`", is_checked=True),
)


class _Memory:
    """A source in memory."""

    is_idle = False

    def __init__(self, content: bytes) -> None:
        self.source = Source(name="memory", path=None)
        self._content = BytesIO(content)

    def read(self, size: int) -> bytes:
        return self._content.read(size)


class Cliffs:
    """Measures the cliffs in a folder of definitions."""

    def __init__(self, folder: Path, records: int) -> None:
        self._folder = folder
        self._numbers = [range(start, min(start + _PART, records)) for start in range(0, records, _PART)]
        self._clean = [
            {name: [value(number) for number in numbers] for name, value in CLEAN.items()} for numbers in self._numbers
        ]
        self._by_name = {cliff.what: cliff for cliff in CLIFFS}

    def shares(self, wanted: Sequence[Cliff], rounds: int, say: Callable[[str], None]) -> dict[str, list[float]]:
        """Return the speed of each of these cliffs as a share of its base, once for each round.

        The share of a round is the median of its parts: what disturbs the machine for a second falls on few of them.
        """
        sources: dict[str, tuple[Dataset, list[bytes]]] = {}
        shares: dict[str, list[float]] = {}
        for cliff in wanted:
            base = self._by_name[cliff.base]
            for each in (base, cliff):
                if each.what not in sources:
                    sources[each.what] = self._dataset(each), self._parts(each)
            least = math.inf
            for _ in range(rounds):
                of_parts = []
                for place in range(len(self._numbers)):
                    pair = [base, cliff] if place % 2 else [cliff, base]
                    seconds = {each.what: math.inf for each in pair}
                    for each in pair * _TIMES:
                        own = self._seconds(each, *sources[each.what], place)
                        seconds[each.what] = min(seconds[each.what], own)
                    of_parts.append(seconds[base.what] / seconds[cliff.what])
                    least = min(least, seconds[cliff.what] / len(self._numbers[place]))
                shares.setdefault(cliff.what, []).append(statistics.median(of_parts))
            say(f"{statistics.median(shares[cliff.what]):5.2f}  {least * 1e6:6.2f} us a record  {cliff.what}")
            for what in set(sources) - {each.base for each in wanted}:
                del sources[what]
        return shares

    def _dataset(self, cliff: Cliff) -> Dataset:
        columns = "\n".join(f"{name} = {options}" for name, options in (CLEAN_COLUMNS | dict(cliff.columns)).items())
        text = f'name = "cliff"\n{cliff.head}\n[[table]]\nname = "bench.cliff"\n{cliff.table}\n[table.columns]\n'
        path = self._folder / "cliff.toml"
        path.write_text(f"{text}{columns}\n{cliff.tables}", encoding="utf-8")
        return read(path)

    def _parts(self, cliff: Cliff) -> list[bytes]:
        return [self._content(cliff, place) for place in range(len(self._numbers))]

    def _content(self, cliff: Cliff, place: int) -> bytes:
        members = self._clean[place] | {
            name: [value(number) for number in self._numbers[place]] for name, value in cliff.values.items()
        }
        records = (
            ",".join(f'"{name}":{value}' for name, value in zip(members, values, strict=True) if value is not None)
            for values in zip(*members.values(), strict=True)
        )
        if cliff.is_keyed:
            keyed = (f'"K{number}":{{{record}}}' for number, record in zip(self._numbers[place], records, strict=True))
            return f'{{"items":{{{",".join(keyed)}}}}}'.encode()
        return f"[{','.join(f'{{{record}}}' for record in records)}]".encode()

    def _seconds(self, cliff: Cliff, dataset: Dataset, parts: Sequence[bytes], place: int) -> float:
        """Return the processor time in which the batches of a part are made."""
        begin = time.process_time()
        paths = _paths(cliff, dataset)
        stream = _Memory(parts[place])
        options = CutOptions(
            format="auto",
            records_path=dataset.records,
            batch_rows=BATCH_ROWS,
            first_rows=FIRST_BATCH_ROWS,
            prover=paths,
        )
        read_records = 0
        for piece in cut(stream, options):
            for batch in paths.batching(piece):
                if batch is not None:
                    read_records += len(batch.places)
        seconds = time.process_time() - begin
        if read_records != len(self._numbers[place]):
            raise ValueError(f"{cliff.what}: expected {len(self._numbers[place])} records, got {read_records}")
        return seconds


def _paths(cliff: Cliff, dataset: Dataset) -> Paths:
    """Return the paths of a load into tables that check the limits of the definition."""
    projection = Projection(dataset)
    checked = CheckedPath(projection, 1)
    shape = fast(dataset)
    if cliff.is_checked or isinstance(shape, str):
        return Paths(None, None, checked)
    strict = FastPath(shape, projection, 1)
    guarded = {(table.name, column.name) for table in dataset.tables for column in table.columns}
    quick = FastPath(shape, projection, 1, frozenset(guarded)) if cliff.is_guarded else strict
    return Paths(quick, strict, checked)


def table(shares: Mapping[str, Sequence[float]]) -> Iterator[str]:
    """Yield the share of each cliff beside what was asked for, as the lines of a table."""
    yield "| what differs from the clean file | must reach | aim | measured | least to most | |"
    yield "| --- | ---: | ---: | ---: | ---: | --- |"
    for cliff in CLIFFS:
        if cliff.what in shares and cliff.what not in {each.base for each in CLIFFS}:
            own = shares[cliff.what]
            spread = f"{min(own):.2f} to {max(own):.2f}"
            asked = " | ".join("" if share is None else f"{share:.2f}" for share in (cliff.must, cliff.aim))
            figures = f"{asked} | {statistics.median(own):.2f} | {spread}"
            yield f"| {cliff.what} | {figures} | {verdict(cliff, own)} |"


def verdict(cliff: Cliff, shares: Sequence[float]) -> str:
    """Return in words whether a cliff is as small as it must be."""
    if cliff.must is None or cliff.aim is None:
        return "see `make bench`"
    share = statistics.median(shares)
    return "**not reached**" if share < cliff.must else "reached" if share < cliff.aim else "aim reached"


def failing(shares: Mapping[str, Sequence[float]]) -> list[str]:
    """Return the rows that are slower than they must be."""
    own = {cliff: statistics.median(shares[cliff.what]) for cliff in CLIFFS if cliff.what in shares}
    return [cliff.what for cliff, share in own.items() if cliff.must is not None and share < cliff.must]
