"""Many small files in one folder: what each costs on the first night, and on the nights after it."""

import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from statistics import median

import psycopg
from psycopg import sql

from etl.generate.network import Sizes
from etl.generate.records import RECORDS
from scripts.benchmark import database
from scripts.benchmark.bench import Bench

_LEDGER = (
    "runs",
    "attempts",
    "group_attempts",
    "separate_batches",
    "separate_marks",
    "failures",
    "faults",
    "first_batches",
)
_COUNTED_FILES = 100
# The server logs the text of each statement that it gets by itself, or prepared before.
_STATEMENT = re.compile(rb"(?m)LOG:  (?:statement|execute [^:\n]*): ")


@dataclass(frozen=True, kw_only=True)
class Night:
    """One load of a folder; `statements` is of a smaller one, because counting them takes time."""

    what: str
    files: int
    seconds: float
    peak_bytes: int
    statements: float
    ledger_bytes: float
    log_bytes: float


@dataclass(frozen=True, kw_only=True)
class Folder:
    """A folder of files of shipments, `records` in each."""

    files: int
    records: int

    @property
    def words(self) -> str:
        """The folder in words."""
        files = "one file" if self.files == 1 else f"{self.files:,} files"
        return f"{files} of {'one record' if self.records == 1 else f'{self.records} records'}"

    def make(self, place: Path) -> Path:
        """Write the files into a folder; each is a source of its own."""
        folder = place / f"files-{self.files}-{self.records}"
        folder.mkdir(parents=True, exist_ok=True)
        shipments: Iterator[str] = RECORDS["shipments"](1, 1, Sizes())
        for number in range(self.files):
            texts = [text.rpartition(',"items":')[0] + "}" for text in islice(shipments, self.records)]
            (folder / f"{number:06}.ndjson").write_text("\n".join(texts) + "\n", encoding="utf-8")
        return folder


FOLDERS = (Folder(files=1, records=100), Folder(files=2_000, records=100), Folder(files=5_000, records=1))


def measure(bench: Bench, folder: Folder, rounds: int, say: Callable[[str], None]) -> list[Night]:
    """Load a folder into empty tables, and again; return the medians of both."""
    small = Folder(files=min(_COUNTED_FILES, folder.files), records=folder.records)
    counted = _nights(bench, small, is_counted=True)
    found = []
    for number in range(1, rounds + 1):
        found.append(_nights(bench, folder))
        for night in found[-1]:
            say(f"round {number} of {rounds} {night.seconds:8.2f} s  {night.what}")
    shutil.rmtree(bench.folder / f"files-{folder.files}-{folder.records}", ignore_errors=True)
    return [
        Night(
            what=nights[0].what,
            files=folder.files,
            seconds=median(night.seconds for night in nights),
            peak_bytes=max(night.peak_bytes for night in nights),
            statements=few.statements,
            ledger_bytes=nights[0].ledger_bytes,
            log_bytes=nights[0].log_bytes,
        )
        for few, *nights in zip(counted, *found, strict=True)
    ]


def _nights(bench: Bench, folder: Folder, *, is_counted: bool = False) -> list[Night]:
    database.empty(bench.connection)
    place = folder.make(bench.folder)
    before = 0
    nights = []
    for what in (folder.words, "the same, all known"):
        log_from = bench.server_log.stat().st_size
        with _logged(bench.connection, is_counted=is_counted):
            run = bench.load(["load", database.PLAIN, str(place), "--no-precalculate"])
        ledger = _ledger_bytes(bench.connection)
        logged = bench.server_log.read_bytes()[log_from:] if is_counted else b""
        nights.append(
            Night(
                what=what,
                files=folder.files,
                seconds=run.seconds,
                peak_bytes=run.peak_bytes,
                statements=len(_STATEMENT.findall(logged)) / folder.files,
                ledger_bytes=(ledger - before) / folder.files,
                log_bytes=(bench.folder / "output").stat().st_size / folder.files,
            )
        )
        before = ledger
    return nights


class _logged:  # noqa: N801 - used as a function
    """Lets the server log each statement of the sessions that begin meanwhile."""

    def __init__(self, connection: psycopg.Connection, *, is_counted: bool) -> None:
        self._connection = connection
        self._is_counted = is_counted

    def __enter__(self) -> None:
        self._set("all")

    def __exit__(self, *_: object) -> None:
        self._set("none")

    def _set(self, what: str) -> None:
        if self._is_counted:
            name = sql.Identifier(self._connection.info.dbname)
            self._connection.execute(
                sql.SQL("alter database {} set log_statement = {}").format(name, sql.Literal(what))
            )


def _ledger_bytes(connection: psycopg.Connection) -> int:
    """Return the size of the tables of the ledger and their indexes, after a vacuum."""
    total = 0
    for table in _LEDGER:
        name = sql.Identifier("etl", table)
        connection.execute(sql.SQL("vacuum {}").format(name))
        row = connection.execute("select pg_total_relation_size(%s::regclass)", [f"etl.{table}"]).fetchone()
        total += int(row[0]) if row else 0
    return total


def table(nights: list[Night]) -> Iterator[str]:
    """Yield the lines of a Markdown table."""
    yield (
        "| folder | ms a file | files/s | statements a file | ledger bytes a file | output bytes a file | peak memory |"
    )
    yield "| --- | ---: | ---: | ---: | ---: | ---: | ---: |"
    for night in nights:
        yield (
            f"| {night.what} | {1000 * night.seconds / night.files:.2f} | {night.files / night.seconds:,.0f} |"
            f" {night.statements:.1f} | {night.ledger_bytes:,.0f} | {night.log_bytes:,.0f} |"
            f" {night.peak_bytes / 1_000_000:,.0f} MB |"
        )
