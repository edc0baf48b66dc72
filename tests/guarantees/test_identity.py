"""To which run a source belongs: random sequences of loads against full knowledge of their contents.

Whatever came before, a load doubles no record and loses none. It stops only where the rule of decision 1 lets it.
"""

import random
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from unittest.mock import patch

import pytest

from etl.database.connecting import Database
from etl.datasets import Dataset
from etl.errors import EtlError, UsageError
from etl.ingestion import fingerprints
from etl.ingestion.failed_store.store import FailedStore
from etl.ingestion.framing import pieces
from etl.ingestion.pipeline import opening, resumption
from etl.ingestion.pipeline.job import Load, Stop, Target, Unwatched
from etl.ingestion.pipeline.load import load
from etl.ingestion.recognition import comparison
from etl.ingestion.values import Source, Summary
from etl.settings import Limit, LoadSettings, Mode, RetrySettings
from tests.support.in_process import connections_closed
from tests.support.site import Site

CELL_BYTES = 200
KEPT_BYTES = 600
MANY_RECORDS = 14

EVENTS = """
name = "events"
mode = "append"
key = ["i"]
[[table]]
name = "logistics.events"
[table.columns]
i = { type = "integer", required = true }
x = "text"
"""
APPENDED = EVENTS.replace('key = ["i"]\n', "")

FRAMES = {
    "lines": (b"", b"\n", [b"\n", b"", b"\n\n "]),
    "CR LF": (b"", b"\r\n", [b"\r\n", b""]),
    "array": (b"[", b",", [b"]", b"]\n", b"\n]"]),
    "array of lines": (b"[\n", b",\n", [b"\n]", b"\n]\n"]),
    "in a document": (b'{"a": [1], "events": [', b", ", [b'], "b": {}}', b"]}"]),
}


@dataclass(frozen=True)
class Content:
    """Records, and how they are written."""

    records: tuple[bytes, ...]
    frame: str

    def written(self, random_: random.Random) -> bytes:
        """Return a file with these records; what is around them is no part of the content."""
        start, separator, ends = FRAMES[self.frame]
        return start + separator.join(self.records) + random_.choice(ends)

    def compared(self, count: int) -> bytes:
        """Return what the fingerprint covers of the first records."""
        return FRAMES[self.frame][1].replace(b"\r\n", b"\n").join(self.records[:count])


@dataclass
class KnownRun:
    """What a run has, as somebody knows who keeps every byte."""

    content: Content
    known: int = 0
    loaded: set[int] = field(default_factory=set)
    is_live: bool = True
    is_within: bool = False


def _common(content: Content, count: int, run: KnownRun) -> int:
    """Return how many of the first records of a content are those of the run."""
    if content.frame != run.content.frame and {content.frame, run.content.frame} != {"lines", "CR LF"}:
        # One record is written in the same way in each frame.
        most = min(1, count, run.known)
    else:
        most = min(count, run.known)
    pairs = zip(content.records[:most], run.content.records[:most], strict=True)
    return next((place for place, (one, other) in enumerate(pairs) if one != other), most)


class Sources:
    """Random contents, many of which begin alike."""

    def __init__(self, random_: random.Random) -> None:
        self.random = random_
        self.pool: list[Content] = []
        self._number = 100
        self._heads = [[self.record() for _ in range(random_.choice([1, 2, 5]))] for _ in range(2)]
        self._tiny = [b'{"i":%d}' % number for number in range(3)]

    def record(self) -> bytes:
        """Return a record: one in eight cannot be loaded, some are longer than a cell."""
        self._number += 1
        drawn = self.random.random()
        if drawn < 0.12:
            return b'{"i":"%d bad"}' % self._number
        if drawn < 0.6:
            return b'{"i":%d}' % self._number
        return b'{"i":%d,"x":"%b"}' % (self._number, b"x" * self.random.choice([3, 40, 90, 450]))

    def _fresh(self) -> Content:
        random_ = self.random
        head = random_.choice(self._heads) if random_.random() < 0.8 else []
        count = random_.choice([0, 1, 2, 3]) if random_.random() < 0.35 else random_.randint(3, 45)
        records = [*head, *(self.record() for _ in range(count))]
        if random_.random() < 0.1:
            records = random_.sample(self._tiny, random_.randint(1, 3))
        return Content(tuple(records or [self.record()]), random_.choice(["lines", "array", *FRAMES]))

    def _edited(self, content: Content) -> Content:
        records = list(content.records)
        place = self.random.choice([len(records) - 1, self.random.randrange(len(records))])
        match self.random.choice(["change", "insert", "delete"]):
            case "change":
                records[place] = self.record()
            case "insert":
                records.insert(place, self.record())
            case _ if len(records) > 1:
                del records[place]
        return replace(content, records=tuple(records))

    def next(self) -> Content:
        """Return a new content, a part of one, a grown, an edited one, one in another frame, or the same again."""
        random_ = self.random
        drawn = random_.random()
        if not self.pool or drawn < 0.2:
            content = self._fresh()
        else:
            content = random_.choice(self.pool[-3:] if random_.random() < 0.6 else self.pool)
            if drawn < 0.36:
                content = replace(content, records=content.records[: random_.randint(1, len(content.records))])
            elif drawn < 0.52:
                more = tuple(self.record() for _ in range(random_.choice([1, 1, 2, 5, 20])))
                content = replace(content, records=content.records + more)
            elif drawn < 0.66:
                content = self._edited(content)
            elif drawn < 0.7:
                content = replace(content, frame=random_.choice(list(FRAMES)))
        self.pool.append(content)
        return content


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


@dataclass
class Truth:
    """All runs with all their bytes, and the rows that are in the table.

    With `merges` a source that is perhaps known is loaded again, because its keys are compared. With `is_atomic` the
    rows of a run are visible when all of its source is loaded.
    """

    merges: bool = False
    is_atomic: bool = False
    runs: dict[str, KnownRun] = field(default_factory=dict)
    counts: Counter[str] = field(default_factory=Counter)

    def rows(self) -> Counter[bytes]:
        """Return the good records of all runs."""
        return Counter(
            run.content.records[place]
            for run in self.runs.values()
            for place in run.loaded
            if b"bad" not in run.content.records[place]
        )

    def note(
        self,
        content: Content,
        count: int,
        end: tuple[Summary | None, EtlError | None],
        *,
        force: bool,
        is_limited: bool,
    ) -> None:
        """Judge the end of a load of the first `count` records, and note what it has loaded."""
        summary, error = end
        live = {name: run for name, run in self.runs.items() if run.is_live and run.known}
        common = {name: _common(content, count, run) for name, run in live.items()}
        within = [name for name, same in common.items() if same == count]
        whole = [name for name, same in common.items() if same == live[name].known]
        if summary is None or summary.run is None:
            self._judge_stop(content, count, error, within, common, force=force)
            return
        name = summary.run
        if force and name not in self.runs:
            for other in whole:
                live[other].is_live = False
        if not force and not self.merges and name not in self.runs:
            assert not within, "a source that is known got a new run"
            assert not [other for other in whole if not live[other].is_within], "a run goes on as another one"
        if name not in self.runs:
            longer = [live[other] for other in within if live[other].known > count or live[other].is_within]
            self.runs[name] = KnownRun(content, is_within=bool(longer) or force)
        run = self.runs[name]
        if name in common:
            assert common[name] in {count, run.known}, "a source was loaded into the run of another one"
        if run.known < count:
            run.content = replace(content, records=content.records)
        self._note_loaded(run, count, summary, error, is_limited=is_limited)

    def _note_loaded(
        self, run: KnownRun, count: int, summary: Summary, error: EtlError | None, *, is_limited: bool
    ) -> None:
        if self.is_atomic:
            if error is None and not is_limited:
                run.known = max(run.known, count)
                run.loaded = set(range(run.known))
            return
        missing = [place for place in range(count) if place not in run.loaded]
        new = summary.records.loaded + summary.records.rejected
        if error is None:
            assert new == len(missing), "a load doubles or loses records"
            assert summary.records.skipped == count - len(missing)
            run.known = max(run.known, count)
        run.loaded.update(missing[:new])
        run.known = max(run.known, max(run.loaded, default=-1) + 1)
        self.counts["loaded" if new else "known already"] += 1
        self.counts["stopped by a signal"] += error is not None

    def _judge_stop(
        self,
        content: Content,
        count: int,
        error: EtlError | None,
        within: list[str],
        common: dict[str, int],
        *,
        force: bool,
    ) -> None:
        """Judge a load that was not begun."""
        assert error is not None
        code = int(error.exit_code)
        self.counts[f"exit {code}"] += 1
        # A run may know more of its source than it has loaded.
        whole = [replace(run, known=len(run.content.records)) for run in self.runs.values() if run.is_live]
        assert code == 143 or not self.merges
        if code == 3:
            agrees = [run for run in whole if run.known > count and _common(content, count, run)]
            assert agrees, f"no longer run begins alike: {error}"
            assert not force
        elif code == 5:
            assert not within
            assert max(_common(content, count, run) for run in whole) >= MANY_RECORDS
        elif code == 2:  # The path of the records is a part of the definition by which a run began.
            frames = {run.content.frame == "in a document" for name, run in self.runs.items() if common.get(name)}
            assert content.frame == "in a document" or True in frames
        else:
            assert code == 143, str(error)


@pytest.fixture
def small() -> Iterator[None]:
    """Make cells, and what is kept of a source, so small that short sources have many."""
    with ExitStack() as stack:
        for module in (fingerprints, pieces):
            stack.enter_context(patch.object(module, "CELL_BYTES", CELL_BYTES))
        stack.enter_context(patch.object(opening, "KEPT_BYTES", KEPT_BYTES))
        stack.enter_context(patch.object(resumption, "_FULL_EXPORT_RECORDS", MANY_RECORDS))
        yield


class Sequence:
    """One sequence of loads into one table."""

    def __init__(self, site: Site, dataset: Dataset, seed: int, **settings: bool | int | Mode) -> None:
        self.random = random.Random(seed)
        self.sources = Sources(self.random)
        self.truth = Truth(merges=settings.get("mode") == "merge", is_atomic=bool(settings.get("atomic")))
        self._site = site
        self._dataset = dataset
        self._settings = settings

    def load(self, content: Content, **options: int | bool | None) -> tuple[Summary | None, EtlError | None]:
        """Load a content from a file, perhaps only its first records, perhaps until a signal."""
        stop = Stop()
        path = self._site.folder / "source.json"
        path.write_bytes(content.written(self.random))
        records = "events.item" if content.frame == "in a document" else None
        settings = LoadSettings(
            mode=None,
            format="auto",
            records=records,
            decoder="auto",
            workers=1,
            batch_rows=self.random.choice([1, 2, 3, 8, 40]),
            failed_dir=self._site.store,
            max_rejected=Limit(percent=100),
            precalculate=False,
            retries=RetrySettings(attempts=1, base_seconds=0.001, cap_seconds=0.001),
        )
        settings = replace(settings, limit=options.get("limit"), force=bool(options.get("force")), **self._settings)  # type: ignore[arg-type] # each is of its type
        asked = Load(
            database=Database(conninfo=self._site.conninfo),
            settings=settings,
            targets=[Target.of(self._dataset, records, settings)],
            stop=stop,
            watch=Stopping(stop, options.get("steps")),
        )
        try:
            with connections_closed():
                [end] = load(Source(name=path.name, path=str(path)), asked)
        except UsageError as error:  # No attempt has begun.
            return None, error
        return end

    def lose_a_batch(self) -> None:
        """Take a batch out of an unfinished run: with several workers, one before the last may be missing."""
        found = self._site.ask(
            'select run, "offset", first_record, count_records from etl.batches join etl.runs using (run)'
            " where finished_at is null and superseded_by is null order by loaded_at desc limit 4"
        )
        if not found or self.random.random() > 0.5:
            return
        run, offset, first, count = self.random.choice(found)
        self._site.ask("delete from etl.faults where failure in (select id from etl.failures where run = %s)", [run])
        self._site.ask("delete from etl.failures where run = %s and batch = %s", [run, offset])
        self._site.ask(
            "delete from logistics.events using etl.runs where runs.run = %s and etl_run = number and etl_batch = %s",
            [run, offset],
        )
        self._site.ask('delete from etl.batches where run = %s and "offset" = %s', [run, offset])
        self.truth.runs[run].loaded -= set(range(first - 1, first + count - 1))
        self.truth.counts["batches lost"] += 1

    def step(self) -> None:
        """Load something, and compare."""
        content = self.sources.next()
        limit = self.random.randint(1, len(content.records)) if self.random.random() < 0.1 else None
        steps = self.random.randint(0, 6) if self.random.random() < 0.3 else None
        force = self.random.random() < 0.06
        count = min(len(content.records), limit or len(content.records))
        end = self.load(content, limit=limit, steps=steps, force=force)
        self.truth.note(content, count, end, force=force, is_limited=limit is not None)
        is_open = end[1] is not None or limit is not None
        if end[0] is not None and end[0].run is not None and is_open:
            # The first mark that no other run has is known, although its records may not be loaded.
            query = "select max(last_record) from etl.marks m join etl.runs r on r.number = m.run where r.run = %s"
            run = self.truth.runs[end[0].run]
            run.known = max(run.known, self._site.value(query, [end[0].run]) or 0)
        self.truth.counts["steps"] += 1
        if steps is not None and not self.truth.is_atomic:
            self.lose_a_batch()
        self.compare()

    def compare(self) -> None:
        """Compare the table with the rows that it should have."""
        query = "select '{\"i\":' || i || coalesce(',\"x\":\"' || x || '\"', '') || '}' from logistics.events"
        rows = Counter(row.encode() for row in self._site.column(query))
        assert rows == (Counter(set(self.truth.rows())) if self.truth.merges else self.truth.rows())


def _run(site: Site, seeds: range, steps: int, **settings: bool | int | Mode) -> Counter[str]:
    dataset = site.define(EVENTS if settings.get("mode") == "merge" else APPENDED)
    FailedStore(site.store).prepare()
    counts: Counter[str] = Counter()
    for seed in seeds:
        sequence = Sequence(site, dataset, seed, **settings)
        try:
            for _ in range(steps):
                sequence.step()
        except AssertionError as error:
            error.add_note(f"seed {seed}, step {sequence.truth.counts['steps'] + 1}: {sequence.truth.counts}")
            raise
        counts += sequence.truth.counts
        site.forget_loads("events")
    return counts


@pytest.mark.usefixtures("small")
def test_no_sequence_of_loads_doubles_or_loses_a_record(site: Site) -> None:
    """After each of many loads the table has the rows of all runs, each once."""
    counts = _run(site, range(8), 12)
    assert counts["steps"] == 96


@pytest.mark.usefixtures("small")
def test_no_sequence_of_merges_loses_a_record(site: Site) -> None:
    """A merge never stops: it loads again what may be known, and each key has one row."""
    counts = _run(site, range(500, 504), 12, mode="merge")
    assert counts["steps"] == 48


@pytest.mark.slow
@pytest.mark.usefixtures("small")
def test_no_sequence_of_loads_by_two_workers_doubles_or_loses_a_record(site: Site) -> None:
    """Two processes load batches out of order, and a killed load leaves holes: these are loaded, each once."""
    assert _run(site, range(700, 712), 12, workers=2)["steps"] == 144


@pytest.mark.slow
@pytest.mark.usefixtures("small")
def test_no_sequence_of_atomic_loads_doubles_or_loses_a_record(site: Site) -> None:
    """What is published by --atomic are whole sources, each record once."""
    assert _run(site, range(800, 820), 12, atomic=True)["steps"] == 240


@pytest.mark.slow
@pytest.mark.usefixtures("small")
def test_no_long_sequence_of_loads_doubles_or_loses_a_record(site: Site) -> None:
    """After each of thousands of loads the table has the rows of all runs, each once."""
    counts = _run(site, range(1000, 1150), 20)
    assert counts["steps"] == 3000
    few = [name for name in ("loaded", "known already", "exit 3", "exit 5", "batches lost") if counts[name] < 20]
    assert few == [], counts


def test_a_beginning_that_many_runs_share(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where more runs begin alike than are followed one by one, a source is known, extended or refused all the same."""
    monkeypatch.setattr(comparison, "_FEW", 4)
    dataset = site.define(APPENDED)
    FailedStore(site.store).prepare()
    sequence = Sequence(site, dataset, 0)
    head = tuple(b'{"i":%d}' % number for number in range(2))
    for number in range(8):
        content = Content((*head, *(b'{"i":%d,"x":"%d"}' % (number, place) for place in range(2))), "lines")
        assert sequence.load(content)[1] is None
    known = Content((*head, b'{"i":5,"x":"0"}', b'{"i":5,"x":"1"}'), "lines")
    for content, code, loaded in (
        (known, 0, 0),
        (Content((*known.records, b'{"i":1000}'), "lines"), 0, 1),
        (Content(known.records[:3], "lines"), 3, 0),
        (Content((*head, b'{"i":2000}'), "lines"), 3, 0),
        (Content((*head, b'{"i":2000}', b'{"i":2001}'), "lines"), 0, 4),
    ):
        summary, error = sequence.load(content)
        assert summary is not None
        found = 0 if error is None else int(error.exit_code)
        assert (found, summary.records.loaded) == (code, loaded), content
