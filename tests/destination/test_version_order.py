"""A model of the rule for unchanged records: whatever overlaps, the newest version of each key is in the table.

The model runs transactions step by step in a random order, as the server may, and knows locks and what a statement
sees. It proves the rule (decision 20), and that each part of the rule is needed.
"""

import random
from collections import defaultdict
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple

import pytest

Place = tuple[int, int, int]
"""The number of a run, a batch, a place in the batch."""


class Version(NamedTuple):
    """The content of a record, and the place that its row has; `newest_by` of a content is the content halved."""

    content: int
    place: Place

    @property
    def order(self) -> tuple[int, Place]:
        """What is compared: the larger version wins."""
        return self.content % DELETES // 2, self.place

    @property
    def deletes(self) -> bool:
        """Whether the record deletes its key."""
        return self.content >= DELETES


DELETES = 100
"""What the content of a record that deletes its key has more."""


@dataclass(frozen=True)
class Rule:
    """The parts of the rule; a rule without one of them keeps a wrong version."""

    looks_for_places: bool = True
    locks: bool = True
    looks_again: bool = True
    enters_places: bool = True
    compares_single_keys_only: bool = True
    opens_alone: bool = True
    keeps_seen_rows: bool = True
    keeps_needed_places: bool = True
    compares_deletions_with_places: bool = True
    compares_no_deleted_key: bool = True


@dataclass
class Run:
    """A source: its batches of (key, content, is rejected), and how they are loaded."""

    number: int
    compares: bool
    is_in_order: bool
    batches: list[list[tuple[str, int, bool]]]
    is_open: bool = False
    is_undone: bool = False
    is_finished: bool = False
    begun: int = 0
    ended: set[int] = field(default_factory=set)
    rejected: list[tuple[Place, str, int]] = field(default_factory=list)


Step = Callable[[], bool] | None
Steps = Generator[Step, None, None]
"""A transaction: each step waits for a condition, or for nothing."""


class World:
    """The table, the places at which records were seen, the locks, and what should be in the table."""

    def __init__(self, rule: Rule) -> None:
        self.rule = rule
        self.rows: dict[str, Version] = {}
        self.deleted: dict[str, Version] = {}
        self.writers: set[int] = set()
        self.deleter: int | None = None
        self.seen: dict[tuple[int, int], dict[int, tuple[str, int]]] = defaultdict(dict)
        self.flags: set[int] = set()
        self.shared: set[int] = set()
        self.exclusive: int | None = None
        self.held: dict[str, int] = {}
        self.expected: dict[str, tuple[int, set[Place]]] = {}
        self.skipped = 0
        self.forgotten = 0

    def is_late(self, run: int, batch: int) -> bool:
        """What the server's function of this name answers."""
        return any(flag > run for flag in self.flags) or any(at >= (run, batch) for at in self.seen)

    def may_lock(self, me: int, *, exclusively: bool) -> bool:
        """Return whether a lock of the table is free for a transaction."""
        if self.exclusive not in {None, me}:
            return False
        return not exclusively or not self.shared - {me}

    def may_delete(self, me: int) -> bool:
        """Return whether no other transaction writes records or deletions."""
        return self.deleter is None and not self.writers - {me}

    def may_write(self, me: int, key: str) -> bool:
        """Return whether no other transaction has written the row of a key."""
        return self.held.get(key, me) == me

    def release(self, me: int) -> None:
        """End a transaction."""
        self.shared.discard(me)
        self.writers.discard(me)
        self.deleter = None if self.deleter == me else self.deleter
        self.exclusive = None if self.exclusive == me else self.exclusive
        self.held = {key: holder for key, holder in self.held.items() if holder != me}

    def expect(self, key: str, version: Version, *, is_seen: bool) -> None:
        """Note a committed version: the table must have the newest one, with the places where it was seen."""
        content, places = self.expected.get(key, (version.content, set[Place]()))
        if places and version.order < Version(content, max(places)).order:
            return
        # Undone runs have deleted rows of records that other runs saw, too: a row of the same content is theirs again.
        also = {
            (*at, place)
            for at, seen in self.seen.items()
            for place, entry in seen.items()
            if entry == (key, version.content)
        }
        later = {place for place in also if place > version.place}
        self.expected[key] = version.content, (places if is_seen else set()) | {version.place} | later

    def late_places(self, key: str, run: int, batch: int) -> Iterator[Place]:
        """Yield the places since a batch at which the row of a key was seen."""
        for at, places in self.seen.items():
            for place, (seen_key, content) in places.items():
                if at >= (run, batch) and (seen_key, content) == (key, self.rows[key].content):
                    yield (*at, place)


Records = list[tuple[int, str, int]]
"""Records by place, key and content."""


def order_of(world: World, me: int, run: Run, batch: int) -> Generator[Step, None, bool]:
    """Lock the order of the versions, and return whether a batch is late, as the server's function does."""
    late = world.is_late(run.number, batch)
    yield None
    if not world.rule.locks:
        return late
    if not late:
        yield lambda: world.may_lock(me, exclusively=False)
        world.shared.add(me)
        yield None
        late = world.rule.looks_again and world.is_late(run.number, batch)
    if late:
        yield lambda: world.may_lock(me, exclusively=True)
        world.exclusive = me
        yield None
    return late


def unchanged_of(world: World, records: Records) -> dict[int, tuple[str, int]]:
    """Return the unchanged records of a batch by their places."""
    keys = [key for _, key, content in records if content < DELETES or world.rule.compares_no_deleted_key]
    return {
        place: (key, content)
        for place, key, content in records
        if key in world.rows and world.rows[key].content == content
        if keys.count(key) == 1 or not world.rule.compares_single_keys_only
    }


def shown(world: World, key: str, run: int, batch: int) -> Version | None:
    """Return the row of a key with the last place at which it was seen since a late batch."""
    row = world.rows.get(key)
    if row is None or not world.rule.looks_for_places:
        return row
    return Version(row.content, max([row.place, *world.late_places(key, run, batch)]))


def delete(world: World, me: int, *, late: bool, run: int, batch: int, deletions: dict[str, Version]) -> Steps:
    """Delete keys; batches with deletions run one at a time, and alone."""
    if deletions:
        yield lambda: world.may_delete(me)
        world.deleter = me
    else:
        yield lambda: world.deleter in {None, me}
    world.writers.add(me)
    for key, version in sorted(deletions.items()):
        looks = late and world.rule.compares_deletions_with_places
        row = shown(world, key, run, batch) if looks else world.rows.get(key)
        if row and version.order < row.order:
            if not looks or row.place == world.rows[key].place:
                world.deleted[key] = max(version, world.deleted.get(key, version), key=lambda each: each.order)
            continue
        world.deleted[key] = max(version, world.deleted.get(key, version), key=lambda each: each.order)
        world.rows.pop(key, None)
        yield None


def batch_of(world: World, me: int, run: Run, batch: int, records: Records) -> Steps:
    """Load records in one transaction."""
    late = yield from order_of(world, me, run, batch)
    skipped = unchanged_of(world, records) if run.compares and not late else {}
    yield None
    versions: dict[str, Version] = {}
    deletions: dict[str, Version] = {}
    for place, key, content in records:
        version = Version(content, (run.number, batch, place))
        newest = deletions if version.deletes else versions
        if place not in skipped and (key not in newest or version.order >= newest[key].order):
            newest[key] = version
    yield from delete(world, me, late=late, run=run.number, batch=batch, deletions=deletions)
    written: dict[str, Version] = {}
    for key in sorted(versions):
        yield partial(world.may_write, me, key)
        world.held[key] = me
        row = shown(world, key, run.number, batch) if late else world.rows.get(key)
        is_deleted = key in world.deleted and world.deleted[key].order >= versions[key].order
        if not is_deleted and (row is None or versions[key].order >= row.order):
            written[key] = versions[key]
        yield None
    world.rows |= written
    if skipped and world.rule.enters_places:
        world.seen[run.number, batch] = skipped
    for place, (key, content) in skipped.items():
        world.expect(key, Version(content, (run.number, batch, place)), is_seen=True)
    for key, version in (*versions.items(), *deletions.items()):
        world.expect(key, version, is_seen=False)
    world.skipped += len(skipped)
    run.ended.add(batch)


def opening_of(world: World, me: int, run: Run) -> Steps:
    """Open a run, or let it continue."""
    yield None
    if run.compares:
        if world.rule.locks and world.rule.opens_alone:
            yield lambda: world.may_lock(me, exclusively=True)
            world.exclusive = me
        yield None
        world.flags.add(run.number)
    run.is_open = True


def undo_of(world: World, me: int, run: Run) -> Steps:
    """Take a run back."""
    yield lambda: world.may_lock(me, exclusively=True)
    world.exclusive = me
    keys = [key for key, row in world.rows.items() if row.place[0] == run.number]
    for key in keys:
        later = [place for place in world.late_places(key, run.number + 1, 0) if world.rule.keeps_seen_rows]
        if later:
            world.rows[key] = Version(world.rows[key].content, min(later))
        else:
            del world.rows[key]
    world.seen = defaultdict(dict, {at: seen for at, seen in world.seen.items() if at[0] != run.number})
    run.is_undone = True
    for key, (content, places) in list(world.expected.items()):
        left = {place for place in places if place[0] != run.number}
        world.expected[key] = content, left
        if not left:
            del world.expected[key]


class Sequence:
    """A random sequence of loads, replays, growing sources and undone runs, whose transactions overlap."""

    def __init__(self, seed: int, rule: Rule, *, deletes: bool = False) -> None:
        self.random = random.Random(seed)
        self.deletes = deletes
        self.kept = self.random.randint(0, 2)
        self.most = self.random.randint(2, 6)
        self.contents = self.random.randint(1, 4)
        self.world = World(rule)
        self.runs: list[Run] = []
        self.active: dict[int, tuple[Run, Steps, Step, Callable[[], Steps]]] = {}
        self.transactions = 0

    def play(self) -> None:
        """Play until nothing is left to do."""
        overlap = self.random.randint(1, 12)
        for _ in range(self.random.randint(30, 120)):
            self._begin()
            for _ in range(self.random.randint(0, 2 * overlap)):
                self._step()
        for _ in range(2000):
            if not self.active:
                return
            self._step()
        raise AssertionError("transactions wait for each other without an end")

    def _records(self) -> list[tuple[str, int, bool]]:
        chance = self.random.random
        return [(self.random.choice("ab"), self._content(), chance() < 0.1) for _ in range(self._few())]

    def _content(self) -> int:
        content = self.random.randint(0, self.contents)
        return content + DELETES if self.deletes and self.random.random() < 0.3 else content

    def _few(self) -> int:
        return self.random.randint(1, 3)

    def _begin(self) -> None:
        kinds = [self._open, self._batch, self._batch, self._batch, self._replay, self._finish, self._grow, self._undo]
        self.random.choice(kinds)()

    def _start(self, run: Run, make: Callable[[int], Steps]) -> None:
        self.transactions += 1
        me = self.transactions
        self.active[me] = run, make(me), None, lambda: make(me)

    def _busy(self) -> set[int]:
        return {run.number for run, *_ in self.active.values()}

    def _open(self) -> None:
        if len(self.runs) < self.most:
            compares = self.random.random() < 0.7
            is_in_order = compares or self.random.random() < 0.5
            run = Run(len(self.runs) + 1, compares, is_in_order, [self._records() for _ in range(self._few())])
            self.runs.append(run)
            self._start(run, lambda me: opening_of(self.world, me, run))

    def _batch(self) -> None:
        busy = self._busy()
        ready = [run for run in self.runs if run.is_open and not run.is_undone and run.begun < len(run.batches)]
        ready = [run for run in ready if not run.is_in_order or run.number not in busy]
        if ready:
            run = self.random.choice(ready)
            batch = run.begun
            if not run.is_in_order and batch + 1 < len(run.batches) and self.random.random() < 0.5:
                # A worker brings the later batch first.
                run.batches[batch], run.batches[batch + 1] = run.batches[batch + 1], run.batches[batch]
                self._load(run, batch, batch + 1)
                self._load(run, batch + 1, batch)
                run.begun += 2
            else:
                self._load(run, batch, batch)
                run.begun += 1

    def _load(self, run: Run, which: int, batch: int) -> None:
        placed = list(enumerate(run.batches[which], 1))
        run.rejected += [((run.number, batch, place), key, content) for place, (key, content, bad) in placed if bad]
        good = [(place, key, content) for place, (key, content, bad) in placed if not bad]
        self._start(run, lambda me: batch_of(self.world, me, run, batch, good))

    def _replay(self) -> None:
        busy = self._busy()
        waiting = [run for run in self.runs if run.rejected and run.number not in busy and not run.is_undone]
        waiting = [run for run in waiting if run.rejected[0][0][1] in run.ended]
        if waiting:
            run = self.random.choice(waiting)
            (_, batch, place), key, content = run.rejected.pop(0)
            content = content if self.random.random() < 0.5 else self._content()
            replayed = Run(run.number, False, True, [])
            self._start(run, lambda me: batch_of(self.world, me, replayed, batch, [(place, key, content)]))

    def _idle(self) -> list[Run]:
        idle = [run for run in self.runs if run.is_open and not run.is_undone and run.begun == len(run.batches)]
        return [run for run in idle if run.number not in self._busy()]

    def _finish(self) -> None:
        if idle := self._idle():
            run = self.random.choice(idle)
            run.is_finished = True
            self.world.flags.discard(run.number)
            self._forget_places()

    def _forget_places(self) -> None:
        """Forget the places that no version can come before any more, but for those of the last runs."""
        busy = self._busy()
        open_runs = [run for run in self.runs if not run.is_finished or run.rejected or run.number in busy]
        open_runs = [run for run in open_runs if not run.is_undone]
        first_open = min((run.number for run in open_runs), default=99)
        places = sorted({run for run, _ in self.world.seen})
        kept = places[max(0, len(places) - self.kept) :]
        for at in list(self.world.seen):
            if at[0] not in kept and (at[0] < first_open or not self.world.rule.keeps_needed_places):
                del self.world.seen[at]
                self.world.forgotten = max(self.world.forgotten, at[0])

    def _grow(self) -> None:
        # After places are forgotten, what is added to an older source meets the rows alone.
        if idle := [run for run in self._idle() if run.number >= self.world.forgotten]:
            run = self.random.choice(idle)
            run.is_finished = False
            self.world.flags.discard(run.number)
            if len(run.batches) < 5:
                run.is_open = False
                run.batches.append(self._records())
                self._start(run, lambda me: opening_of(self.world, me, run))

    def _undo(self) -> None:
        # An undo holds the dataset alone.
        idle = [run for run in self.runs if run.is_open and not run.is_undone and run.number >= self.world.forgotten]
        # What a deletion has taken away, no undo gives back.
        if idle and not self.active and not self.deletes and self.random.random() < 0.2:
            run = self.random.choice(idle)
            self.world.flags.discard(run.number)
            self._start(run, lambda me: undo_of(self.world, me, run))

    def _step(self) -> None:
        ready = [me for me, (_, _, condition, _) in self.active.items() if condition is None or condition()]
        if self.active and (not ready or self.random.random() < 0.02):
            # A deadlock, or a lost connection: a transaction is rolled back and tried again.
            me = self.random.choice(list(self.active))
            run, _, _, again = self.active[me]
            self.world.release(me)
            self.active[me] = run, again(), None, again
        elif ready:
            me = self.random.choice(ready)
            run, steps, _, again = self.active[me]
            try:
                self.active[me] = run, steps, next(steps), again
            except StopIteration:
                self.world.release(me)
                del self.active[me]


def _is_wrong(seed: int, rule: Rule, *, deletes: bool = False) -> bool:
    sequence = Sequence(seed, rule, deletes=deletes)
    sequence.play()
    expected = {key: content for key, (content, _) in sequence.world.expected.items() if content < DELETES}
    return expected != {key: row.content for key, row in sequence.world.rows.items()}


@pytest.mark.parametrize("deletes", [False, True])
def test_the_newest_version_stays(deletes: bool) -> None:
    """In random sequences the table has the newest version of each key in the end, also where records delete keys."""
    assert not [seed for seed in range(400) if _is_wrong(seed, Rule(), deletes=deletes)]


@pytest.mark.slow
@pytest.mark.parametrize("deletes", [False, True])
def test_the_newest_version_stays_in_many_sequences(deletes: bool) -> None:
    """In 40,000 random sequences the table has the newest version of each key in the end."""
    assert not [seed for seed in range(40_000) if _is_wrong(seed, Rule(), deletes=deletes)]


@pytest.mark.slow
@pytest.mark.parametrize(
    "rule",
    [
        Rule(looks_for_places=False),
        Rule(locks=False),
        Rule(looks_again=False),
        Rule(enters_places=False),
        Rule(compares_single_keys_only=False),
        Rule(opens_alone=False),
        Rule(keeps_seen_rows=False),
        Rule(keeps_needed_places=False),
    ],
    ids=str,
)
def test_each_part_of_the_rule_is_needed(rule: Rule) -> None:
    """Without one part of the rule a wrong version stays in some sequence."""
    assert any(_is_wrong(seed, rule) for seed in range(40_000))


@pytest.mark.slow
@pytest.mark.parametrize(
    "rule",
    [Rule(compares_deletions_with_places=False), Rule(compares_no_deleted_key=False), Rule(locks=False)],
    ids=str,
)
def test_each_part_of_the_rule_for_deletions_is_needed(rule: Rule) -> None:
    """Without one part of the rule a key that was deleted stays, or one that is shown later is gone."""
    assert any(_is_wrong(seed, rule, deletes=True) for seed in range(40_000))


def test_records_are_left_unchanged() -> None:
    """The rule leaves records unchanged in most of the sequences, so that it is tried."""
    played = [Sequence(seed, Rule()) for seed in range(200)]
    for sequence in played:
        sequence.play()
    assert sum(sequence.world.skipped > 0 for sequence in played) > 80
