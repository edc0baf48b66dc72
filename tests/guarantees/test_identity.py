"""To which run a source belongs: random sequences of loads against full knowledge of their contents.

Whatever came before, a load doubles no record and loses none. It stops only where the rule of decision 1 lets it.
The loads run in this process, and marks have a short distance, so that short sources have many of them.
"""

import gzip
import os
import random
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from io import BufferedReader, BytesIO
from types import SimpleNamespace
from unittest.mock import patch

import pytest
from psycopg import sql

from etl.database.connecting import Database
from etl.datasets import Dataset
from etl.errors import UsageError
from etl.ingestion import fingerprints
from etl.ingestion.failed_store.store import FailedStore
from etl.ingestion.framing import piece_builder
from etl.ingestion.pipeline import opening
from etl.ingestion.pipeline.job import Load, Stop, Unwatched
from etl.ingestion.pipeline.load import load
from etl.ingestion.pipeline.targets import Target
from etl.ingestion.recognition import choosing, comparison
from etl.ingestion.values import Source
from etl.settings import Limit, LoadSettings, RetrySettings
from tests.support.identity import Asked, Content, End, Sources, Truth
from tests.support.in_process import connections_closed
from tests.support.site import Site
from tests.support.web import Web, web_server

CELL_BYTES = 200
KEPT_BYTES = 600
MANY_RECORDS = 14
SEQUENCES = int(os.environ.get("ETL_TEST_SEQUENCES", "320"))
PART = 40

KEYED = """
name = "NAME"
mode = "append"
key = ["i"]
[[table]]
name = "logistics.NAME"
[table.columns]
i = { type = "integer", required = true }
x = "text"
"""
APPENDED = KEYED.replace('key = ["i"]\n', "")
NAMES = ("events", "visits")

MODES: dict[str, Sequence[str]] = {
    "append": ["append"],
    "merge": ["merge"],
    "replace": ["replace", "replace", "append"],
    "atomic": ["append"],
}
"""The modes of the loads of a sequence of each kind; merge needs a key, and with a key append would reject records."""

KINDS = ("file", "file", "file", "file", "gz", "standard input", "URL")


class Stopping(Unwatched):
    """Stops a load after some steps."""

    def __init__(self, stop: Stop, steps: int | None) -> None:
        self._stop = stop
        self._steps = steps

    def moved(self) -> None:
        """Count a step."""
        if self._steps is not None:
            self._steps -= 1
            if self._steps < 0 and not self._stop.signal_number:
                self._stop.note(15)


@pytest.fixture
def small() -> Iterator[None]:
    """Make cells, and what is kept of a source, so small that short sources have many."""
    with ExitStack() as stack:
        for module in (fingerprints, piece_builder):
            stack.enter_context(patch.object(module, "CELL_BYTES", CELL_BYTES))
        stack.enter_context(patch.object(opening, "KEPT_BYTES", KEPT_BYTES))
        stack.enter_context(patch.object(choosing, "FULL_EXPORT_RECORDS", MANY_RECORDS))
        yield


@pytest.fixture
def web() -> Iterator[Web]:
    """Serve a source on this machine."""
    with web_server() as web:
        yield web


class Loads:
    """One sequence of loads into the tables of two datasets."""

    def __init__(
        self, site: Site, web: Web, datasets: Sequence[Dataset], seed: int, kind: str, *, workers: int = 1
    ) -> None:
        self.random = random.Random(seed)
        self.sources = Sources(self.random)
        self.truths = {dataset.name: Truth(merges=kind == "merge", many=MANY_RECORDS) for dataset in datasets}
        self.steps = 0
        self._datasets = datasets
        self._modes = MODES[kind]
        self._is_atomic = kind == "atomic"
        self._workers = workers
        self._site = site
        self._web = web

    @property
    def counts(self) -> Counter[str]:
        """What happened so far."""
        return sum((truth.counts for truth in self.truths.values()), Counter())

    def load(self, asked: Asked, dataset: Dataset, kind: str = "file", steps: int | None = None) -> End:
        """Load a content from a source of some kind, perhaps until a signal."""
        stop = Stop()
        settings = LoadSettings(
            mode=asked.mode,  # type: ignore[arg-type] # one of the modes
            format="auto",
            records=asked.content.path,
            decoder="auto",
            workers=self.random.choice([1, self._workers]),
            batch_rows=self.random.choice([1, 2, 3, 8, 40]),
            failed_dir=self._site.store,
            max_rejected=Limit(percent=100),
            precalculate=False,
            retries=RetrySettings(attempts=1, base_seconds=0.001, cap_seconds=0.001),
            limit=asked.count if asked.is_limited else None,
            force=asked.force,
            atomic=asked.is_atomic,
        )
        job = Load(
            database=Database(conninfo=self._site.conninfo),
            settings=settings,
            targets=[Target.of(dataset, asked.content.path, settings)],
            stop=stop,
            watch=Stopping(stop, steps),
        )
        with ExitStack() as stack:
            source = self._source(asked.content, kind, stack)
            stack.enter_context(connections_closed())
            try:
                [end] = load(source, job)
            except UsageError as error:  # No attempt has begun.
                return End.of(None, error)
        return End.of(*end)

    def _source(self, content: Content, kind: str, stack: ExitStack) -> Source:
        data = content.written(self.random)
        if kind == "standard input":
            stdin = SimpleNamespace(buffer=BufferedReader(BytesIO(data)))
            stack.enter_context(patch("sys.stdin", stdin))
            return Source(name="-", path=None)
        if kind == "URL":
            self._web.content = data
            return Source(name="a.json", path=None, url=f"{self._web.url}/a.json")
        path = self._site.folder / "source.json"
        path.write_bytes(gzip.compress(data, 1) if kind == "gz" else data)
        return Source(name=path.name, path=str(path))

    def lose_a_batch(self, dataset: Dataset) -> None:
        """Take a batch out of an unfinished run: with several workers, one before the last may be missing."""
        found = self._site.ask(
            'select run, "offset", first_record, count_records from etl.batches join etl.runs using (run)'
            " where finished_at is null and superseded_by is null and not is_atomic and dataset = %s"
            " order by loaded_at desc limit 4",
            [dataset.name],
        )
        if not found or self.random.random() > 0.5:
            return
        run, offset, first, count = self.random.choice(found)
        self._site.ask("delete from etl.faults where failure in (select id from etl.failures where run = %s)", [run])
        self._site.ask("delete from etl.failures where run = %s and batch = %s", [run, offset])
        self._site.ask(
            sql.SQL("delete from {} using etl.runs where runs.run = %s and etl_run = number and etl_batch = %s").format(
                dataset.tables[0].identifier
            ),
            [run, offset],
        )
        self._site.ask('delete from etl.separate_batches where run = %s and "offset" = %s', [run, offset])
        truth = self.truths[dataset.name]
        truth.runs[run].loaded -= set(range(first - 1, first + count - 1))
        truth.counts["batches lost"] += 1

    def step(self) -> None:
        """Load something, and compare."""
        random_ = self.random
        content = self.sources.next()
        mode = random_.choice(self._modes)
        is_replace = mode == "replace"
        limit = random_.randint(1, len(content.records)) if random_.random() < 0.1 and not is_replace else None
        steps = random_.randint(0, 6) if random_.random() < 0.3 else None
        dataset = self._datasets[random_.random() < 0.2]
        kind = random_.choice(KINDS)
        asked = Asked(
            content=content,
            count=limit or len(content.records),
            mode=mode,
            is_atomic=self._is_atomic,
            force=random_.random() < 0.06 and not is_replace,
            is_limited=limit is not None,
            is_once=kind == "standard input",
        )
        end = self.load(asked, dataset, kind, steps)
        truth = self.truths[dataset.name]
        truth.note(asked, end)
        truth.counts[kind] += 1
        if end.run is not None and (end.code not in {0, 1} or asked.is_limited):
            # The marks of a run may reach further than its batches.
            query = "select max(last_record) from etl.marks m join etl.runs r on r.number = m.run where r.run = %s"
            run = truth.runs[end.run]
            run.known = max(run.known, self._site.value(query, [end.run]) or 0)
        self.steps += 1
        if steps is not None and not truth.merges:  # A row of a merge may be that of several runs.
            self.lose_a_batch(dataset)
        self.compare()

    def compare(self) -> None:
        """Compare the tables with the rows that they should have."""
        query = "select '{{\"i\":' || i || coalesce(',\"x\":\"' || x || '\"', '') || '}}' from {}"
        for dataset in self._datasets:
            rows = self._site.ask(sql.SQL(query).format(dataset.tables[0].identifier))
            assert Counter(row.encode() for (row,) in rows) == self.truths[dataset.name].rows(), dataset.name


def _run(
    site: Site, web: Web, seeds: range, steps: int, kinds: Sequence[str] = tuple(MODES), *, workers: int = 1
) -> Counter[str]:
    """Run sequences of loads, each of one kind; in every other one few runs may begin alike before a mark is full."""
    counts: Counter[str] = Counter()
    FailedStore(site.store).prepare()
    for seed in seeds:
        kind = kinds[seed % len(kinds)]
        text = KEYED if kind == "merge" else APPENDED
        for name in NAMES:
            site.ask(sql.SQL("drop table if exists {} cascade").format(sql.Identifier("logistics", name)))
        datasets = [site.define(text.replace("NAME", name)) for name in NAMES]
        loads = Loads(site, web, datasets, seed, kind, workers=workers)
        try:
            with patch.object(comparison, "_FEW", 2 if seed // len(kinds) % 2 else 64):
                for _ in range(steps):
                    loads.step()
        except AssertionError as error:
            error.add_note(f"seed {seed}, {kind}, step {loads.steps + 1}: {loads.counts}")
            raise
        counts += loads.counts
        counts["steps"] += loads.steps
        counts["sequences"] += 1
        site.forget_loads(NAMES[0])
    return counts


@pytest.mark.usefixtures("small")
def test_no_sequence_of_loads_doubles_or_loses_a_record(site: Site, web: Web) -> None:
    """After each of many loads the tables have the rows of all runs, each once."""
    assert _run(site, web, range(4), 10)["steps"] == 40


@pytest.mark.slow
@pytest.mark.usefixtures("small")
def test_no_sequence_of_loads_by_two_workers_doubles_or_loses_a_record(site: Site, web: Web) -> None:
    """Two processes load batches out of order, and a killed load leaves holes: these are loaded, each once."""
    assert _run(site, web, range(700, 708), 12, workers=2)["steps"] == 96


@pytest.mark.slow
@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("first", range(0, SEQUENCES, PART))
def test_no_long_sequence_of_loads_doubles_or_loses_a_record(site: Site, web: Web, first: int) -> None:
    """After each of thousands of loads the tables have the rows of all runs, each once."""
    counts = _run(site, web, range(1000 + first, 1000 + first + PART), 20, ("append", "append", *MODES))
    print(sorted(counts.items()))  # noqa: T201 - shown by pytest -s, and when it fails
    assert counts["steps"] == 20 * PART
    few = [name for name in ("loaded", "known already", "replaced", "exit 3", "batches lost") if counts[name] < 3]
    assert few == [], counts


def test_a_beginning_that_many_runs_share(site: Site, web: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where more runs begin alike than are followed one by one, a source is known, extended or refused all the same."""
    monkeypatch.setattr(comparison, "_FEW", 4)
    datasets = [site.define(APPENDED.replace("NAME", name)) for name in NAMES]
    FailedStore(site.store).prepare()
    loads = Loads(site, web, datasets, 0, "append")

    def load(content: Content) -> End:
        return loads.load(Asked(content=content, count=len(content.records)), datasets[0])

    head = tuple(b'{"i":%d}' % number for number in range(2))
    for number in range(8):
        content = Content((*head, *(b'{"i":%d,"x":"%d"}' % (number, place) for place in range(2))), "lines")
        assert load(content).code == 0
    known = Content((*head, b'{"i":5,"x":"0"}', b'{"i":5,"x":"1"}'), "lines")
    for content, code, loaded in (
        (known, 0, 0),
        (Content((*known.records, b'{"i":1000}'), "lines"), 0, 1),
        (Content(known.records[:3], "lines"), 3, 0),
        (Content((*head, b'{"i":2000}'), "lines"), 3, 0),
        (Content((*head, b'{"i":2000}', b'{"i":2001}'), "lines"), 0, 4),
    ):
        end = load(content)
        assert (end.code, end.new) == (code, loaded), content
