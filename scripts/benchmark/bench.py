"""The bench: a folder with samples, definitions and a server of its own, on which one variant runs at a time."""

import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import psycopg
from psycopg import sql

from etl.embedded import Server
from scripts.benchmark import database, processes, samples
from scripts.benchmark.report import MB, Outcome
from scripts.benchmark.variants import Programs, Variant


class RunFailedError(Exception):
    """A program failed, or its tables do not hold what they must."""


class Bench:
    """Runs variants: each begins with empty tables and a ledger that knows nothing."""

    def __init__(
        self, folder: Path, connection: database.Connection, environment: Mapping[str, str], words: Mapping[str, str]
    ) -> None:
        self.folder = folder
        self.connection = connection
        self._environment = environment
        self._words = words
        self.samples: dict[tuple[str, int], samples.Sample] = {}

    @property
    def server_version(self) -> str:
        """The version of the server."""
        return database.server_version(self.connection)

    def sample(self, variant: Variant, records: int) -> samples.Sample:
        """Return the sample of a variant, made when it is missing; `records` is the number that was asked for."""
        key = variant.sample, variant.records(records)
        if key not in self.samples:
            self.samples[key] = samples.make(*key, self.folder)
        return self.samples[key]

    def measure(self, variant: Variant, records: int) -> Outcome:
        """Run a variant once and see that its tables hold what they must.

        Raises RunFailedError.
        """
        sample = self.sample(variant, records)
        database.empty(self.connection)
        shutil.rmtree(self.folder / "failed", ignore_errors=True)
        run = self._run(self._filled(variant, sample), variant.exit_code)
        rows, grams = database.found(self.connection, variant.tables)
        if (rows, grams) != (sample.rows, sample.grams):
            raise RunFailedError(f"expected {sample.rows} rows and {sample.grams} g, got {rows} and {grams} g")
        return Outcome(records=sample.records, seconds=run.seconds, peak_bytes=run.peak_bytes)

    def start(self, words: Sequence[str]) -> Outcome:
        """Run a program that starts and ends, and loads nothing."""
        run = self._run([word.format(**self._words) for word in words], 0, measure=False)
        return Outcome(records=1, seconds=run.seconds)

    @property
    def server_log(self) -> Path:
        """The log of the server."""
        return self.folder / "postgres" / "server.log"

    def load(self, words: Sequence[str], environment: Mapping[str, str] | None = None) -> processes.Run:
        """Run a command of etl that succeeds, with further variables; `output` in the folder gets what it prints.

        Raises RunFailedError.
        """
        return self._run([self._words["etl"], *words], 0, environment=environment)

    @property
    def environment(self) -> Mapping[str, str]:
        """The environment of the programs that are measured."""
        return self._environment

    def output(self) -> str:
        """Return what the last program printed."""
        return (self.folder / "output").read_text(encoding="utf-8", errors="replace")

    def prepare(self, variant: Variant, records: int) -> None:
        """Make what a variant reads: its sample and, for a ceiling, the rows of the tables that its loader fills.

        Raises RunFailedError.
        """
        sample = self.sample(variant, records)
        if variant.prepared_by is None:
            return
        files = {table: Path(self._words["folder"]) / f"{table}-{sample.records}.copy" for table in variant.tables}
        if all(path.exists() for path in files.values()):
            return
        self.measure(variant.prepared_by, records)
        for table, path in files.items():
            part = path.with_suffix(".part")
            database.prepare(self.connection, table, part)
            part.rename(path)

    def holdings(self) -> str:
        """Return in words which samples there are."""
        text = [
            f"{name} {made.records:,} records ({made.bytes / MB:,.1f} MB)" for (name, _), made in self.samples.items()
        ]
        return ", ".join(text)

    def _filled(self, variant: Variant, sample: samples.Sample) -> list[str]:
        words = {"source": sample.path, "records": str(sample.records), **self._words}
        return [word.format(**words) for word in variant.words]

    def _run(
        self,
        words: Sequence[str],
        exit_code: int,
        *,
        measure: bool = True,
        environment: Mapping[str, str] | None = None,
    ) -> processes.Run:
        output = self.folder / "output"
        variables = {**self._environment, **(environment or {})}
        run = processes.run(words, environment=variables, folder=self.folder, output=output, measure=measure)
        if run.exit_code != exit_code:
            text = output.read_text(encoding="utf-8", errors="replace")[-2000:]
            raise RunFailedError(f"expected exit code {exit_code}, got {run.exit_code}:\n{text}")
        return run


@contextmanager
def opened(folder: Path, programs: Programs) -> Iterator[Bench]:
    """Yield a bench in a folder, its server running and migrated.

    Raises RunFailedError.
    """
    config_dir = folder / "config"
    database.write_definitions(config_dir)
    columns = database.paths(config_dir)
    columns_file = folder / "columns.json"
    columns_file.write_text(json.dumps(columns), encoding="utf-8")
    with Server(folder / "postgres").serving() as address, psycopg.connect(address, autocommit=True) as connection:
        # A folder that is taken again may hold the tables of an older definition.
        connection.execute(sql.SQL("drop schema if exists bench cascade"))
        places = {"folder": folder, "failed": folder / "failed", "columns": columns_file, "address": address}
        words = {name: str(place) for name, place in places.items()} | programs.words(columns)
        bench = Bench(folder, connection, database.environment(address, config_dir), words)
        bench.start(("{etl}", "db", "migrate"))
        yield bench
