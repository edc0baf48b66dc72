"""To which run a source belongs: random sequences of real commands, which are killed or run at the same time.

The truth is that of `test_identity.py`; the marks are as far from each other as they are for users.
"""

import copy
import gzip
import os
import random
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from psycopg import sql

from etl.datasets import Dataset
from tests.support.commands import Running
from tests.support.identity import Asked, Content, End, Sources, Truth
from tests.support.site import Site
from tests.support.web import Web, web_server

DEFINITION = """
name = "NAME"
mode = "append"
[[table]]
name = "logistics.NAME"
[table.columns]
i = { type = "integer", required = true }
x = "text"
"""
NAMES = ("events", "visits")
LONG = 90_000
SEQUENCES = int(os.environ.get("ETL_TEST_PROCESS_SEQUENCES", "40"))
PART = 5
KINDS = ("file", "file", "gz", "standard input", "URL")


@pytest.fixture
def web() -> Iterator[Web]:
    """Serve a source on this machine."""
    with web_server() as web:
        yield web


@dataclass(frozen=True, kw_only=True)
class Command:
    """A command that loads a content, and its input."""

    asked: Asked
    dataset: str
    words: tuple[str | Path, ...]
    stdin: bytes = b""


class Commands:
    """One sequence of commands that load into the tables of two datasets."""

    def __init__(self, site: Site, web: Web, seed: int) -> None:
        self.random = random.Random(seed)
        self.sources = Sources(self.random, long=LONG, many=self.random.choice([(3, 45), (100, 140)]))
        self.truths = {name: Truth() for name in NAMES}
        self.counts: Counter[str] = Counter()
        self._modes = self.random.choice([["append"], ["append"], ["replace", "append"]])
        self._site = site
        self._web = web
        self._files = 0

    def command(self, content: Content | None = None) -> Command:
        """Return a random command; it loads a random content unless one is given."""
        random_ = self.random
        content = content or self.sources.next()
        mode = random_.choice(self._modes)
        kind = random_.choice(KINDS)
        is_atomic = mode == "append" and random_.random() < 0.15
        words: list[str | Path] = ["--json", "--no-precalculate", "--max-rejected", "100%", "--mode", mode]
        words += ["--batch-rows", str(random_.choice([2, 5, 20, 1000])), "--max-deleted", "100%"]
        words += ["--records", content.path] if content.path else []
        words += ["--workers", "2"] if random_.random() < 0.1 else []
        words += ["--atomic"] if is_atomic else []
        force = mode == "append" and random_.random() < 0.05
        words += ["--force"] if force else []
        asked = Asked(
            content=content,
            count=len(content.records),
            mode=mode,
            is_atomic=is_atomic,
            force=force,
            is_once=kind == "standard input",
        )
        data = content.written(random_)
        dataset = NAMES[random_.random() < 0.2]
        source: str | Path = "-" if kind == "standard input" else self._source(data, kind)
        self.counts[kind] += 1
        stdin = data if kind == "standard input" else b""
        return Command(asked=asked, dataset=dataset, words=("load", dataset, source, *words), stdin=stdin)

    def _source(self, data: bytes, kind: str) -> str | Path:
        self._files += 1
        if kind == "URL":
            self._web.others[f"/{self._files}"] = data
            return f"{self._web.url}/{self._files}"
        path = self._site.folder / f"source-{self._files}.json"
        path.write_bytes(gzip.compress(data, 1) if kind == "gz" else data)
        return path

    def start(self, command: Command) -> Running:
        """Start a command, and give it its input."""
        running = self._site.start(*command.words)
        with suppress(BrokenPipeError):  # it may not read
            running.send(command.stdin)
            running.process.stdin.close()  # type: ignore[union-attr] # it has one
        return running

    def end(self, running: Running) -> End:
        """Wait for the end of a command."""
        ended = running.ended()
        [*summaries, _total] = ended.lines or [{}]
        if not summaries:
            return End(code=ended.returncode, message=ended.stderr[-500:])
        counts = summaries[0]["records"]
        new = counts["loaded"] + counts["rejected"]
        run = summaries[0]["run"]
        return End(code=ended.returncode, run=run, new=new, skipped=counts["skipped"], message=ended.stderr[-500:])

    def _note(self, command: Command, end: End) -> None:
        truth = self.truths[command.dataset]
        truth.note(command.asked, end)
        self.counts[f"exit {end.code}"] += 1
        if end.run is not None and end.code not in {0, 1}:
            self._look(truth, end.run)

    def _look(self, truth: Truth, name: str) -> None:
        """Note which records of a run are loaded, and how many it knows: of a killed command only the ledger tells."""
        run = truth.runs[name]
        query = "select max(last_record) from etl.marks m join etl.runs r on r.number = m.run where r.run = %s"
        known = self._site.value(query, [name]) or 0
        ranges = self._site.ask(
            "select first_record, count_records from etl.batches join etl.runs using (run)"
            " where run = %s and (not is_atomic or loaded_at <= published_at)",
            [name],
        )
        if run.is_live:
            run.loaded = {first + place - 1 for first, count in ranges for place in range(count)}
        run.known = max(known, run.known, max(run.loaded, default=-1) + 1)

    def load(self) -> None:
        """Run a command to its end."""
        command = self.command()
        self._note(command, self.end(self.start(command)))

    def kill(self) -> None:
        """Kill a command when its first batch is in the ledger; then mostly run the same command again."""
        command = self.command()
        query = "select run, max(attempt), max(published_at) from etl.attempts join etl.runs using (run) group by run"
        before = {row[0]: row for row in self._site.ask(query)}
        running = self.start(command)
        self._site.wait_for_batches(self._site.count_batches() + 1, running)
        was_killed = running.kill()
        self._site.wait_for_locks()
        self.counts["killed"] += was_killed
        truth = self.truths[command.dataset]
        for row in self._site.ask(query):
            name = row[0]
            was = before.get(name, (name, None, None))
            if was[1] == row[1]:
                continue
            truth.note(command.asked, End(code=137, run=name))
            if command.asked.mode == "replace" and was[2] != row[2]:
                truth.note(command.asked, End(code=0, run=name))
            self._look(truth, name)
        self.compare()
        if self.random.random() < 0.7:
            again = replace(command, words=tuple(word for word in command.words if word != "--force"))
            again = replace(again, asked=replace(command.asked, force=False)) if command.asked.force else command
            self._note(again, self.end(self.start(again)))

    def race(self) -> None:
        """Run two commands at once, mostly on sources that begin alike; each that was busy runs again."""
        first = self.command()
        content = first.asked.content
        changes = [self.sources.cut, self.sources.grown, self.sources.edited]
        other = content if self.random.random() < 0.25 else self.random.choice(changes)(content)
        self.sources.pool.append(other)
        second = self.command(other)
        commands = [first, second]
        runnings = [self.start(command) for command in commands]
        ended = list(zip(commands, [self.end(running) for running in runnings], strict=True))
        self._site.wait_for_locks()
        busy = [command for command, end in ended if end.code == 6]
        self.counts["busy"] += len(busy)
        self._note_in_some_order([(command, end) for command, end in ended if end.code != 6])
        self.compare()
        for command in busy:
            self._note(command, self.end(self.start(command)))

    def _note_in_some_order(self, ended: Sequence[tuple[Command, End]]) -> None:
        """Note commands that ran at once: they ended as if one had run after the other."""
        before = copy.deepcopy(self.truths), self.counts.copy()
        try:
            for command, end in ended:
                self._note(command, end)
            self.compare()
        except AssertionError:
            self.truths, self.counts = before
            for command, end in reversed(ended):
                self._note(command, end)

    def step(self) -> None:
        """Do something, and compare."""
        drawn = self.random.random()
        step = self.kill if drawn < 0.35 else self.race if drawn < 0.6 else self.load
        step()
        self.counts[step.__name__] += 1
        self.counts["steps"] += 1
        self.compare()

    def compare(self) -> None:
        """Compare the tables with the rows that they should have."""
        query = "select '{{\"i\":' || i || coalesce(',\"x\":\"' || x || '\"', '') || '}}' from {}"
        for name, truth in self.truths.items():
            rows = self._site.ask(sql.SQL(query).format(sql.Identifier("logistics", name)))
            assert Counter(row.encode() for (row,) in rows) == truth.rows(), name


def _define(site: Site) -> list[Dataset]:
    return [site.define(DEFINITION.replace("NAME", name)) for name in NAMES]


def _run(site: Site, web: Web, seeds: range, steps: int) -> Counter[str]:
    counts: Counter[str] = Counter()
    _define(site)
    for seed in seeds:
        commands = Commands(site, web, seed)
        try:
            for _ in range(steps):
                commands.step()
        except AssertionError as error:
            error.add_note(f"seed {seed}, step {commands.counts['steps'] + 1}: {commands.counts}")
            raise
        counts += commands.counts
        counts["sequences"] += 1
        for name in NAMES:
            site.ask(sql.SQL("truncate {}").format(sql.Identifier("logistics", name)))
        site.forget_loads(NAMES[0])
    return counts


def test_commands_that_are_killed_or_run_at_once_double_and_lose_no_record(site: Site, web: Web) -> None:
    """After each of some commands the tables have the rows of all runs, each once."""
    assert _run(site, web, range(1), 3)["steps"] == 3


@pytest.mark.slow
@pytest.mark.parametrize("first", range(0, SEQUENCES, PART))
def test_many_commands_that_are_killed_or_run_at_once_double_and_lose_no_record(
    site: Site, web: Web, first: int
) -> None:
    """After each of hundreds of commands the tables have the rows of all runs, each once."""
    counts = _run(site, web, range(100 + first, 100 + first + PART), 8)
    print(sorted(counts.items()))  # noqa: T201 - shown by pytest -s, and when it fails
    assert counts["steps"] == 8 * PART
