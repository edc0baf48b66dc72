"""The plan of a mixture: what runs at once, drawn from a seed. A plan is a value that can be printed."""

import os
import random
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, TypeAlias

from tests.support.mixtures import statements
from tests.support.mixtures.exports import FACTS, Dataset, Export, draw_exports

Part = Literal[
    "rewrites beside refreshes",
    "dropped staging tables",
    "growing sources",
    "a failed store of two databases",
    "signals at any moment",
    "replays of everything",
    "busy atomic sources",
]
# The last one is a check, and no step.
PARTS: tuple[Part, ...] = (
    "rewrites beside refreshes",
    "dropped staging tables",
    "growing sources",
    "a failed store of two databases",
    "signals at any moment",
    "replays of everything",
    "busy atomic sources",
)

AGGREGATES = ("movement_days", "stock_levels", "daily_shipments", "lane_performance", "data_quality")


@dataclass(frozen=True, kw_only=True)
class Kill:
    """A signal to a command: so long after its first batches, or after its start where `batches` is None."""

    number: int
    batches: int | None
    seconds: float

    def __str__(self) -> str:
        after = "its start" if self.batches is None else f"{self.batches} batches"
        return f"{signal.Signals(self.number).name} {self.seconds:.3f} s after {after}"


@dataclass(frozen=True, kw_only=True)
class Command:
    """A command; `export` is the source that it loads."""

    words: tuple[str, ...]
    export: str | None = None
    as_owner: bool = False
    kill: Kill | None = None

    def __str__(self) -> str:
        return f"etl {' '.join(self.words)}{f', {self.kill}' if self.kill else ''}"


@dataclass(frozen=True, kw_only=True)
class OnFailures:
    """`failed replay` or `failed discard` of some of the pending failures that there are then."""

    what: Literal["replay", "discard"]
    picks: int
    kill: Kill | None = None

    def __str__(self) -> str:
        return f"failed {self.what} of {self.picks} failures{f', {self.kill}' if self.kill else ''}"


@dataclass(frozen=True, kw_only=True)
class Statement:
    """Statements of an administrator in a session of their own."""

    kind: str
    dataset: Dataset
    name: str
    aggregate: str
    seconds: float

    def __str__(self) -> str:
        return f"{self.kind}: {FACTS[self.dataset]}, analytics.{self.aggregate}, {self.name}, {self.seconds} s"


@dataclass(frozen=True, kw_only=True)
class Edit:
    """A change of rows by hand."""

    kind: str
    dataset: Dataset
    salt: str

    def __str__(self) -> str:
        return f"{self.kind}: {FACTS[self.dataset]}, {self.salt}"


@dataclass(frozen=True, kw_only=True)
class Grow:
    """The tail of a source is appended to its file."""

    export: str

    def __str__(self) -> str:
        return f"append the tail of {self.export}"


@dataclass(frozen=True, kw_only=True)
class Restore:
    """A dump is restored as a second database, and a source loaded into it, with a failed store of its own or not."""

    export: str
    shares_store: bool

    def __str__(self) -> str:
        store = "the same failed store" if self.shares_store else "a failed store of its own"
        return f"dump, restore beside it, and load {self.export} there with {store}"


Act: TypeAlias = Command | OnFailures | Statement | Edit | Grow | Restore


@dataclass(frozen=True, kw_only=True)
class Step:
    """An act; it begins when the ledger has so many batches of the mixture, and so many seconds later."""

    pause: float
    act: Act
    batches: int = 0

    def __str__(self) -> str:
        return f"after {f'{self.batches} batches and ' if self.batches else ''}{self.pause} s: {self.act}"


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A mixture: its sources, and lanes of steps, which run at once. Each batch waits twice, for `slow` seconds."""

    seed: int
    exports: tuple[Export, ...]
    lanes: tuple[tuple[Step, ...], ...]
    listeners: int
    slow: float

    @property
    def acts(self) -> list[Act]:
        """The acts of all lanes."""
        return [step.act for lane in self.lanes for step in lane]

    def of_kind(self, words: str) -> list[Statement]:
        """Return the statements whose kind begins with these words."""
        return [act for act in self.acts if isinstance(act, Statement) and act.kind.startswith(words)]

    def __str__(self) -> str:
        lines = [f"mixture {self.seed}: {self.listeners} listeners, {self.slow} s twice in each batch"]
        for export in self.exports:
            fates = [record.fate for record in export.records]
            counts = f"{len(fates)} records ({fates.count('bad')} bad, {fates.count('dozen')} dozens)"
            lines.append(f"  {export.name} {' '.join(export.options)}: {counts}, a tail of {export.tail}")
        for number, lane in enumerate(self.lanes):
            lines += [f"  lane {number}, {step}" for step in lane]
        return "\n".join(lines)


def parts_drawn() -> frozenset[Part]:
    """Return the parts that are drawn: all, or those that ETL_MIXTURE_PARTS names, separated by commas."""
    asked = os.environ.get("ETL_MIXTURE_PARTS", "all")
    return frozenset(part for part in PARTS if asked == "all" or part in asked.split(","))


def draw(seed: int, *, commands: int = 14, records: int = 2_000) -> Plan:
    """Draw the plan of a mixture with so many commands; the same seed gives the same plan."""
    rng = random.Random(seed)
    parts = parts_drawn()
    exports = draw_exports(rng, records, grows="growing sources" in parts)
    listeners = rng.choice((0, 1, 2, 2))
    lanes: list[list[Step]] = [[] for _ in range(6 - listeners)]
    acts: list[Act] = [_load(rng, export, parts) for export in exports[1:]]
    acts += [_command(rng, exports, parts) for _ in range(max(0, commands - len(acts)))]
    rng.shuffle(acts)
    for number, act in enumerate(acts):
        lanes[number % len(lanes)].append(_step(rng, act))
    beside = [_step(rng, act, rng.randrange(70)) for act in _beside(rng, exports, parts)]
    lanes += [sorted(beside[number::2], key=lambda step: step.batches) for number in range(2)]
    slow = rng.choice((0.0, 0.02, 0.05))
    return Plan(seed=seed, exports=exports, lanes=tuple(map(tuple, lanes)), listeners=listeners, slow=slow)


def _step(rng: random.Random, act: Act, batches: int = 0) -> Step:
    return Step(pause=round(rng.choice((0.0, 0.1, 0.5)) * rng.random(), 3), act=act, batches=batches)


def _kill(rng: random.Random, parts: frozenset[Part], *, is_load: bool) -> Kill | None:
    """Draw the end of a command: of a load after its first batches, of others at any moment."""
    if rng.random() < (0.5 if is_load else 0.75):
        return None
    number = rng.choice((signal.SIGKILL, signal.SIGKILL, signal.SIGTERM, signal.SIGINT))
    if is_load and ("signals at any moment" not in parts or rng.random() < 0.8):
        batches = rng.choice((rng.randint(1, 6), rng.randint(5, 14)))  # in its middle, or near its publication
        return Kill(number=number, batches=batches, seconds=round(rng.random() * 0.03, 4))
    if "signals at any moment" not in parts:
        number = signal.SIGKILL
    return Kill(number=number, batches=None, seconds=round(rng.random() * 1.2, 3))


def _load(rng: random.Random, export: Export, parts: frozenset[Part]) -> Command:
    words = ["load", export.dataset, export.name, *export.options, "--json"]
    words += ["--workers", str(rng.choice((1, 1, 1, 1, 2, 2, 3))), "--batch-rows", str(rng.choice((60, 100, 170, 400)))]
    words += rng.choice(([], [], ["--no-precalculate"]))
    return Command(words=tuple(words), export=export.name, kill=_kill(rng, parts, is_load=True))


def _command(rng: random.Random, exports: tuple[Export, ...], parts: frozenset[Part]) -> Act:
    aggregate = rng.choice(AGGREGATES)
    kind = rng.choice(("load",) * 4 + ("replay",) * 3 + ("discard", "precalculate", "precalculate", "other"))
    kill = _kill(rng, parts, is_load=False)
    if kind == "load":
        return _load(rng, rng.choice(exports[1:]), parts)
    if kind == "replay" and ("replays of everything" not in parts or rng.random() < 0.5):
        return OnFailures(what="replay", picks=rng.randint(1, 4), kill=kill)
    if kind == "replay":
        words = rng.choice((["--all"], ["--dataset", rng.choice(exports[1:]).dataset]))
        return Command(words=("failed", "replay", *words), kill=kill)
    if kind == "discard":
        return OnFailures(what="discard", picks=1, kill=kill)
    if kind == "precalculate":
        words = rng.choice(([], [aggregate], ["--full", aggregate]))
        return Command(words=("precalculate", *words), kill=kill)
    words = rng.choice(
        (
            ["db", "migrate"],
            ["dataset", "create", "movements"],
            ["report", aggregate, "--format", "csv", "--output", f"{aggregate}.csv"],
            ["failed", "purge", "--older-than", "0h"],
            ["failed", "list"],
            ["listen"],
        )
    )
    if words == ["listen"]:
        kill = Kill(number=signal.SIGKILL, batches=None, seconds=round(1 + rng.random() * 3, 3))
    return Command(words=tuple(words), kill=kill, as_owner=words[0] in {"db", "dataset"})


def _beside(rng: random.Random, exports: tuple[Export, ...], parts: frozenset[Part]) -> Iterator[Act]:
    """Draw what happens beside the commands."""
    kinds = [*statements.STATEMENTS]
    if "dropped staging tables" in parts:
        kinds += [*statements.DROP_STAGING] * 2
    acts: list[Act] = [_statement(rng, rng.choice(kinds), number) for number in range(rng.randint(4, 9))]
    acts += [_edit(rng) for _ in range(rng.randint(0, 3))]
    if "rewrites beside refreshes" in parts and rng.random() < 0.5:
        # A refresh reads a table for some milliseconds only.
        for number in range(8):
            acts += [_edit(rng), _statement(rng, rng.choice([*statements.REWRITES]), number)]
    acts += [Grow(export=export.name) for export in exports if export.tail]
    if rng.random() < 0.25:
        shares = "a failed store of two databases" in parts and rng.random() < 0.5
        acts.append(Restore(export=rng.choice(exports[1:]).name, shares_store=shares))
    rng.shuffle(acts)
    yield from acts


def _statement(rng: random.Random, kind: str, number: int) -> Statement:
    return Statement(
        kind=kind,
        dataset=rng.choice(("movements", "shipments", "stock")),
        name=f"added_{number % 3}",
        aggregate=rng.choice(AGGREGATES),
        seconds=rng.choice((0.1, 0.3, 0.6)),
    )


def _edit(rng: random.Random) -> Edit:
    dataset = rng.choice(("movements", "shipments"))
    kind = rng.choice(("add to the cost", "delete")) if dataset == "movements" else "add to the cost"
    return Edit(kind=kind, dataset=dataset, salt=str(rng.randrange(1_000)))  # type: ignore[arg-type]
