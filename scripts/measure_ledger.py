#!/usr/bin/env python3
"""Measure the ledger: its size, and how fast a source is known again.

    .venv/bin/python -m scripts.measure_ledger FOLDER [--small 2000] [--runs 100000] [--records 2000000]

Makes an embedded database in FOLDER and removes it at the end. The small sources and the large one are loaded by the
line. The other known runs are rows with marks of random hashes, as the line enters them: either no two runs begin
alike, or all of them share their first record.
"""

import argparse
import json
import random
import shutil
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any

import psycopg

from etl.database.connecting import Database, connect
from etl.database.tables import create_tables
from etl.datasets import Dataset, read
from etl.embedded import Server
from etl.ingestion.constants import BATCH_ROWS
from etl.ingestion.failed_store.store import FailedStore
from etl.ingestion.fingerprints import Fingerprint, Mark
from etl.ingestion.framing.pieces import CutOptions, cut
from etl.ingestion.ledger import marks, runs
from etl.ingestion.ledger.marks import Reader
from etl.ingestion.pipeline.job import Load, Stop
from etl.ingestion.pipeline.load import load
from etl.ingestion.pipeline.targets import Target
from etl.ingestion.recognition.comparison import Recognition
from etl.ingestion.values import Source
from etl.provisioning import migrate
from etl.settings import Limit, LoadSettings, RetrySettings

ROOT = Path(__file__).resolve().parent.parent
SMALL_RECORDS = 100
ROUNDS = 7

DEFINITION = """
name = "numbers"
mode = "append"
[[table]]
name = "logistics.numbers"
[table.columns]
i = { type = "bigint", required = true }
x = "text"
"""

Connection = psycopg.Connection[tuple[Any, ...]]

_RUNS = """
    insert into etl.runs (run, dataset, source, definition_hash, mode, is_atomic, is_forced, finished_at)
    select 'filled-' || {dataset} || n, {dataset}, 'filled', '', 'append', false, false, now()
    from generate_series(1, {runs}) as n
"""
# The marks after 1, 2, 4 ... 64 records and at the end.
_MARKS = """
    with filled as (
        select number, row_number() over (order by number) as place,
            array(
                select case when n = 1 and {shared} is not null then {shared}
                    else hashint8extended(n, number * 31 + length({dataset})) end
                from generate_series(1, 8) as n
            ) as hashes
        from etl.runs where run like 'filled-' || {dataset} || '%%'
    )
    insert into etl.separate_marks (run, last_record, anchor, parent, hashes, places)
    select number, 100, case when {shared} is null or place <= 64 then hashes[1] else hashes[2] end,
        case when {shared} is not null and place > 64 then hashes[1] end, hashes, decode({places}, 'hex')
    from filled
"""


def say(**measured: Any) -> None:
    """Print a measurement."""
    sys.stdout.write(json.dumps(measured) + "\n")
    sys.stdout.flush()


def sizes(connection: Connection) -> dict[str, int]:
    """Return the bytes of each table of the ledger with its indexes, as a vacuum leaves them."""
    connection.execute("vacuum")
    query = (
        "select relname, pg_total_relation_size(c.oid) from pg_class c"
        " where relnamespace = 'etl'::regnamespace and relkind = 'r'"
    )
    return dict(connection.execute(query).fetchall())


def seconds(of: Callable[[], object]) -> list[float]:
    """Return how long a function takes, in some rounds after the first."""
    found = []
    for _ in range(ROUNDS + 1):
        began = time.perf_counter()
        of()
        found.append(time.perf_counter() - began)
    return found[1:]


class Lines:
    """Lines of small records; those of different numbers differ from the first record on, or from the second."""

    def __init__(self, number: int, count: int, *, share_first: bool = False) -> None:
        self.first = 0 if share_first else number << 32
        self.number = number << 32
        self.count = count

    def data(self) -> bytes:
        """Return the lines."""
        places = iter(range(self.count))
        head = b'{"i":%d,"x":"%d"}\n' % (self.first, next(places))
        return head + b"".join(b'{"i":%d,"x":"%d"}\n' % (self.number + place, place) for place in places)


class Stream:
    """Lines in memory, as a source."""

    is_idle = False

    def __init__(self, data: bytes) -> None:
        self.source = Source(name="memory", path=None)
        self._data = BytesIO(data)

    def read(self, size: int) -> bytes:
        """Return the next bytes."""
        return self._data.read(size)


def settings_of(folder: Path) -> LoadSettings:
    """Return the settings of the loads."""
    return LoadSettings(
        mode=None,
        format="auto",
        records=None,
        decoder="auto",
        workers=1,
        failed_dir=folder / "failed",
        max_rejected=Limit(percent=100),
        precalculate=False,
        retries=RetrySettings(attempts=1, base_seconds=0.001, cap_seconds=0.001),
    )


def bring(path: Path, dataset: Dataset, database: Database, folder: Path) -> None:
    """Load a file."""
    settings = settings_of(folder)
    asked = Load(database=database, settings=settings, targets=[Target.of(dataset, None, settings)], stop=Stop())
    [(summary, error)] = load(Source(name=path.name, path=str(path)), asked)
    if error is not None:
        raise error
    if not summary.records.loaded:
        raise SystemExit(f"{path} was known")


def small(connection: Connection, dataset: Dataset, database: Database, folder: Path, count: int) -> None:
    """Load small files, and print how many bytes the ledger grows by for each."""
    before = sizes(connection)
    path = folder / "small.ndjson"
    for number in range(1, count + 1):
        path.write_bytes(Lines(number, SMALL_RECORDS).data())
        bring(path, dataset, database, folder)
    grown = {name: round((size - before[name]) / count) for name, size in sizes(connection).items()}
    say(measure=f"bytes of the ledger for a file of {SMALL_RECORDS} records", total=sum(grown.values()), **grown)


def large(connection: Connection, dataset: Dataset, database: Database, folder: Path, records: int) -> None:
    """Load one large file, and print how much the ledger grows by."""
    before = sizes(connection)
    path = folder / "large.ndjson"
    with path.open("wb") as file:
        for first in range(0, records, 100_000):
            file.write(Lines(first + 7, min(100_000, records - first)).data())
    bring(path, dataset, database, folder)
    size = path.stat().st_size
    path.unlink()
    grown = {name: after - before[name] for name, after in sizes(connection).items() if after > before[name]}
    share = {name: f"{bytes_ / size:.4%}" for name, bytes_ in grown.items()}
    say(
        measure=f"bytes of the ledger for {records} records, {size} bytes",
        total=sum(grown.values()),
        for_10_million_records=round(sum(grown.values()) * 10_000_000 / records),
        **grown,
    )
    say(measure="shares of the source", **share)


def fill(connection: Connection, dataset: str, count: int, shared: Mark | None) -> None:
    """Enter known runs of a dataset, as if each was loaded."""
    salt = marks._salt(dataset)  # noqa: SLF001 - the rows are those that it makes
    places = bytes(marks._encoded([Mark(1 << n, 30 << n, 0) for n in range(7)] + [Mark(100, 3000, 0)])).hex()  # noqa: SLF001
    hash_ = "null" if shared is None else str(shared.hash ^ salt)
    words = {"runs": count, "dataset": f"'{dataset}'", "shared": f"{hash_}::bigint", "places": f"'{places}'"}
    for statement in (_RUNS, _MARKS):
        connection.execute(statement.format(**words).replace("%%", "%"))
    connection.execute("vacuum analyze etl.runs, etl.separate_marks")


def recognised(connection: Connection, dataset: str, data: bytes) -> str:
    """Return what is decided of a source in memory."""
    compared = Recognition(Reader(connect=lambda: connection), dataset)
    options = CutOptions(format="auto", records_path="item", batch_rows=BATCH_ROWS, expected=compared.expected)
    for piece in cut(Stream(data), options):
        compared.note(piece)
    return compared.decide().kind


def known_again(connection: Connection, count: int) -> None:
    """Print how long it takes to ask for marks, and to know a small source, among many runs."""
    known = Lines(1, SMALL_RECORDS, share_first=True).data()
    first = Fingerprint()
    first.add(known[: known.index(b"\n")], 1)
    for dataset, shared in (("apart", None), ("alike", first.mark)):
        fill(connection, dataset, count, shared)
        unknown = [Mark(1 << n, 30 << n, random.Random(n).getrandbits(62)) for n in range(40)]  # noqa: S311 - no secret
        asked = unknown if shared is None else [shared, *unknown[1:]]
        took = seconds(partial(marks.anchored, connection, dataset, asked))
        say(measure=f"40 marks asked among {count} runs {dataset}", milliseconds=milliseconds(took))
        took = seconds(partial(recognised, connection, dataset, known))
        say(measure=f"a new source of {SMALL_RECORDS} records among them", milliseconds=milliseconds(took))
        enter(connection, dataset, known)
        took = seconds(partial(recognised, connection, dataset, known))
        kind = recognised(connection, dataset, known)
        say(measure=f"the same source, known ({kind})", milliseconds=milliseconds(took))


def enter(connection: Connection, dataset: str, data: bytes) -> None:
    """Enter a run with the marks of a source."""
    compared = Recognition(Reader(connect=lambda: connection), dataset)
    own: set[Mark] = set()
    for piece in cut(Stream(data), CutOptions(format="auto", records_path="item", batch_rows=BATCH_ROWS)):
        compared.note(piece)
        own |= {*piece.marks, *([piece.end_mark] if piece.end_mark else [])}
    new = runs.NewRun(
        dataset=dataset,
        source="memory",
        source_bytes=None,
        definition_hash="",
        mode="append",
        is_atomic=False,
        is_forced=False,
    )
    run = runs.start(connection, new, runs.AttemptRequest(source="memory", folder=None, options=""))
    marks.add(connection, dataset, run.number, sorted(own), compared.anchor(own))


def milliseconds(took: list[float]) -> dict[str, float]:
    """Return the least, the middle and the most of durations."""
    return {
        name: round(of(took) * 1000, 2) for name, of in (("least", min), ("median", statistics.median), ("most", max))
    }


def reading(connection: Connection, megabytes: int) -> None:
    """Print what the comparison costs for each megabyte of a source, beside reading."""
    data = Lines(3, megabytes * 25_000).data()
    size = len(data) / 1e6

    def cut_only() -> None:
        for _ in cut(Stream(data), CutOptions(format="auto", records_path="item", batch_rows=BATCH_ROWS)):
            pass

    alone = seconds(cut_only)
    new = seconds(lambda: recognised(connection, "reading", data))
    enter(connection, "reading", data)
    known = seconds(lambda: recognised(connection, "reading", data))
    base = min(alone)
    say(
        measure="milliseconds for each MB of a source: cutting, and the comparison beside it",
        cutting=round(base * 1000 / size, 3),
        new=round((min(new) - base) * 1000 / size, 3),
        known=round((min(known) - base) * 1000 / size, 3),
    )


@contextmanager
def server(folder: Path) -> Iterator[str]:
    """Run a server of its own, and remove its folder at the end."""
    folder.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        stack.callback(shutil.rmtree, folder / "ledger", ignore_errors=True)
        own = Server(folder / "ledger" / "postgres")
        own.start()
        stack.callback(own.stop)
        yield own.url()


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--small", type=int, default=2000, help="small files to load")
    parser.add_argument("--runs", type=int, default=100_000, help="known runs")
    parser.add_argument("--records", type=int, default=2_000_000, help="records of the large file")
    parser.add_argument("--megabytes", type=int, default=64, help="size of the source that is compared")
    given = parser.parse_args()
    folder = given.folder.resolve()
    with server(folder) as url:
        database = Database(conninfo=url)
        migrate(database, ROOT / "config")
        definition = folder / "numbers.toml"
        definition.write_text(DEFINITION)
        dataset = read(definition)
        FailedStore(folder / "failed").prepare()
        with connect(database) as connection:
            create_tables(connection, dataset)
            reading(connection, given.megabytes)
            small(connection, dataset, database, folder, given.small)
            large(connection, dataset, database, folder, given.records)
            known_again(connection, given.runs)


if __name__ == "__main__":
    main()
