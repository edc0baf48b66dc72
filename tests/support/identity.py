"""Random sources that begin alike, and the truth about the runs that loaded them: that of somebody who keeps all bytes.

The truth judges each load by the rule of decision 1 alone: it knows no marks, no ledger and no batches.
"""

import random
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

from etl.errors import EtlError
from etl.ingestion.summary import Summary

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

    @property
    def path(self) -> str | None:
        """The path of its records, where it is not that of the definition."""
        return "events.item" if self.frame == "in a document" else None


@dataclass
class KnownRun:
    """What a run has, as somebody knows who keeps every byte."""

    content: Content
    mode: str
    is_atomic: bool
    known: int = 0
    loaded: set[int] = field(default_factory=set)
    is_live: bool = True
    is_within: bool = False


@dataclass(frozen=True, kw_only=True)
class Asked:
    """A load: what it was asked for. `count` are the first records that are wanted; `is_once`: read once only."""

    content: Content
    count: int
    mode: str = "append"
    is_atomic: bool = False
    force: bool = False
    is_limited: bool = False
    is_once: bool = False


@dataclass(frozen=True, kw_only=True)
class End:
    """How a load ended: `new` are the records that it loaded or rejected, `run` is None where it began no attempt."""

    code: int
    run: str | None = None
    new: int = 0
    skipped: int = 0
    message: str = ""

    @classmethod
    def of(cls, summary: Summary | None, error: EtlError | None) -> "End":
        """Return the end of a load in this process."""
        code = int(error.exit_code) if error else 0
        if summary is None:
            return cls(code=code, message=str(error))
        counts = summary.records
        new = counts.loaded + counts.rejected
        return cls(code=code, run=summary.run, new=new, skipped=counts.skipped, message=str(error))


def common(content: Content, count: int, run: KnownRun) -> int:
    """Return how many of the first records of a content are those of the run."""
    if content.frame != run.content.frame and {content.frame, run.content.frame} != {"lines", "CR LF"}:
        # One record is written in the same way in each frame.
        most = min(1, count, run.known)
    else:
        most = min(count, run.known)
    pairs = zip(content.records[:most], run.content.records[:most], strict=True)
    return next((place for place, (one, other) in enumerate(pairs) if one != other), most)


def good(records: Iterable[bytes]) -> Counter[bytes]:
    """Return the records that load."""
    return Counter(record for record in records if b"bad" not in record)


class Sources:
    """Random contents, many of which begin alike; `long` is the length of the text of some records."""

    def __init__(self, random_: random.Random, *, long: int = 450, many: Sequence[int] = (3, 45)) -> None:
        self.random = random_
        self.pool: list[Content] = []
        self._number = 100
        self._long = long
        self._many = many
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
        return b'{"i":%d,"x":"%b"}' % (self._number, b"x" * self.random.choice([3, 40, 90, self._long]))

    def _fresh(self) -> Content:
        random_ = self.random
        head = random_.choice(self._heads) if random_.random() < 0.8 else []
        count = random_.choice([0, 1, 2, 3]) if random_.random() < 0.35 else random_.randint(*self._many)
        records = [*head, *(self.record() for _ in range(count))]
        if random_.random() < 0.1:
            records = random_.sample(self._tiny, random_.randint(1, 3))
        return Content(tuple(records or [self.record()]), random_.choice(["lines", "array", *FRAMES]))

    def edited(self, content: Content) -> Content:
        """Return a content with one record changed, inserted or deleted."""
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

    def cut(self, content: Content) -> Content:
        """Return some of the first records of a content."""
        return replace(content, records=content.records[: self.random.randint(1, len(content.records))])

    def grown(self, content: Content) -> Content:
        """Return a content with further records."""
        more = tuple(self.record() for _ in range(self.random.choice([1, 1, 2, 5, 20])))
        return replace(content, records=content.records + more)

    def next(self) -> Content:
        """Return a new content, a part of one, a grown, an edited one, one in another frame, or the same again."""
        random_ = self.random
        drawn = random_.random()
        if not self.pool or drawn < 0.2:
            content = self._fresh()
        else:
            content = random_.choice(self.pool[-3:] if random_.random() < 0.6 else self.pool)
            if drawn < 0.36:
                content = self.cut(content)
            elif drawn < 0.52:
                content = self.grown(content)
            elif drawn < 0.66:
                content = self.edited(content)
            elif drawn < 0.7:
                content = replace(content, frame=random_.choice(list(FRAMES)))
        self.pool.append(content)
        return content


@dataclass
class Truth:
    """All runs of a dataset with their whole bytes, and the rows of its table.

    With `merges` a source that is perhaps known is loaded again, because its keys are compared.
    """

    merges: bool = False
    many: int = 1000
    runs: dict[str, KnownRun] = field(default_factory=dict)
    counts: Counter[str] = field(default_factory=Counter)

    def rows(self) -> Counter[bytes]:
        """Return the good records of all runs."""
        rows = Counter(
            row
            for run in self.runs.values()
            for row in good(run.content.records[place] for place in run.loaded).elements()
        )
        return Counter(set(rows)) if self.merges else rows

    def note(self, asked: Asked, end: End) -> None:
        """Judge the end of a load, and note what it has loaded."""
        self.counts[f"exit {end.code}"] += 1
        if end.run is None:
            self._judge_stop(asked, end)
            return
        if asked.mode == "replace":
            self._note_replace(asked, end)
            return
        run = self.assign(asked, end.run)
        self._judge_end(asked, run, end)
        self._note_loaded(asked, run, end)

    def assign(self, asked: Asked, name: str) -> KnownRun:
        """Judge that a load was one of this run, and return it."""
        content, count = asked.content, asked.count
        live = self._live()
        agrees = {other: common(content, count, run) for other, run in live.items()}
        within = [other for other, same in agrees.items() if same == count]
        whole = [other for other, same in agrees.items() if same == live[other].known]
        if name not in self.runs:
            if asked.force:
                for other in whole:
                    live[other].is_live = False
            elif not self.merges and asked.mode != "replace":
                assert not within, "a source that is known got a new run"
                assert not [other for other in whole if not live[other].is_within], "the source belongs to another run"
            longer = [live[other] for other in within if live[other].known > count or live[other].is_within]
            is_within = (bool(longer) or asked.force) and asked.mode != "replace"
            is_atomic = asked.is_atomic or asked.mode == "replace"
            self.runs[name] = KnownRun(content, asked.mode, is_atomic, is_within=is_within)
        run = self.runs[name]
        if name in agrees:
            assert agrees[name] in {count, run.known}, "a source was loaded into the run of another one"
        if run.known < count:
            run.content = content
        return run

    def _live(self) -> dict[str, KnownRun]:
        return {name: run for name, run in self.runs.items() if run.is_live and run.known}

    def _judge_end(self, asked: Asked, run: KnownRun, end: End) -> None:
        """Judge why an attempt ended early."""
        if end.code == 2:
            assert self._other_modes(asked), end.message
        elif end.code == 3:
            assert asked.is_once or run.is_atomic, end.message
        elif end.code == 5:
            assert run.is_atomic, end.message
            assert not good(asked.content.records[: asked.count]), end.message
        else:
            assert end.code in {0, 1, 137, 143}, end.message

    def _note_loaded(self, asked: Asked, run: KnownRun, end: End) -> None:
        is_whole = end.code in {0, 1}
        if run.is_atomic and len(run.loaded) < run.known:
            if is_whole and not asked.is_limited:
                run.known = max(run.known, asked.count)
                run.loaded = set(range(run.known))
            return
        if run.is_atomic:
            assert run.loaded == set(range(run.known))
        missing = [place for place in range(asked.count) if place not in run.loaded]
        if run.is_atomic and missing:
            if is_whole and not asked.is_limited:
                run.known = max(run.known, asked.count)
                run.loaded = set(range(run.known))
            return
        if is_whole:
            assert end.new == len(missing), "a load doubles or loses records"
            assert end.skipped == asked.count - len(missing)
            run.known = max(run.known, asked.count)
        run.loaded.update(missing[: end.new])
        run.known = max(run.known, max(run.loaded, default=-1) + 1)
        self.counts["loaded" if end.new else "known already"] += 1

    def _note_replace(self, asked: Asked, end: End) -> None:
        """Judge a replace: what it publishes takes the place of all rows."""
        assert end.run is not None
        run = self.assign(asked, end.run)
        self._judge_end(asked, run, end)
        if end.code not in {0, 1}:
            return
        is_published = run.loaded == set(range(asked.count))
        for other in self.runs.values():
            if is_published:
                assert other is run or not other.loaded, "rows of other runs are kept by a replace"
            elif other is not run:
                other.is_live = False
                other.loaded = set()
        run.known = asked.count
        run.content = asked.content
        run.loaded = set(range(asked.count))
        self.counts["replaced" if end.new else "known already"] += 1

    def _other_modes(self, asked: Asked) -> bool:
        """Return whether a run that begins alike began by another mode."""
        return any(
            run.mode != asked.mode
            for run in self.runs.values()
            if run.is_live and common(asked.content, asked.count, replace(run, known=len(run.content.records)))
        )

    def _judge_stop(self, asked: Asked, end: End) -> None:
        """Judge a load that was not begun."""
        content, count = asked.content, asked.count
        # A run may know more of its source than it has loaded.
        whole = [replace(run, known=len(run.content.records)) for run in self.runs.values() if run.is_live]
        if end.code == 3:
            assert not self.merges
            agrees = [run for run in whole if run.known > count and common(content, count, run)]
            assert agrees, f"no longer run begins alike: {end.message}"
            assert not asked.force
            assert asked.mode != "replace"
        elif end.code == 5:
            assert not self.merges
            assert asked.mode != "replace"
            assert not [run for run in self._live().values() if common(content, count, run) == count]
            assert max(common(content, count, run) for run in whole) >= self.many
        elif end.code == 2:
            assert self._other_modes(asked), end.message
        else:
            assert end.code in {143, 137}, end.message
