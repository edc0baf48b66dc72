"""Two workers of Dask compared with two processes of the command, and the ways in which workers get an object.

The loads of a comparison run in turn. Each load begins with empty tables and reads the same file.
"""

import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from distributed import Client

from scripts.benchmark import database, samples
from scripts.benchmark.bench import Bench, RunFailedError
from scripts.benchmark.processes import Tree, cpu_seconds
from scripts.benchmark.report import MB
from scripts.benchmark.stores import BUCKET, KEY

_ROOT = Path(__file__).resolve().parent.parent.parent
_STORES = ("moto", "plain")


@dataclass(frozen=True, kw_only=True)
class Loaded:
    """What one load took: the store is apart from the command and its workers."""

    seconds: float
    cpu_seconds: float
    store_cpu_seconds: float
    peak_bytes: int


@dataclass(frozen=True, kw_only=True)
class Way:
    """A way to load the file; workers with `access` can read the store."""

    name: str
    words: tuple[str, ...]
    store: str | None = None
    access: bool = False


PROCESSES = Way(name="two processes", words=("--executor", "local"))
DASK = Way(name="two workers of Dask", words=("--executor", "dask:local"))


def _ways(store: str) -> tuple[Way, Way]:
    return (
        Way(name=f"{store}: the command sends the bytes", words=(), store=store),
        Way(name=f"{store}: workers may fetch their ranges", words=(), store=store, access=True),
    )


COMPARISONS = ((PROCESSES, DASK), *(_ways(store) for store in _STORES))

Results = dict[str, list[Loaded]]

_MUST_BE_AS_FAST = 1.00
_MUST_TAKE = 1.10


def table(results: Results) -> Iterator[str]:
    """Yield the lines of two Markdown tables: the ratios of each round, and what each way takes."""
    yield "| measure | must | median | least to most | |"
    yield "| --- | ---: | ---: | ---: | --- |"
    for plain, other in COMPARISONS:
        pairs = list(zip(results.get(plain.name, []), results.get(other.name, []), strict=True))
        if not pairs:
            continue
        of = "rate" if other.store else "time"
        ratios = [a.seconds / b.seconds if other.store else b.seconds / a.seconds for a, b in pairs]
        must, sign = (_MUST_BE_AS_FAST, 1) if other.store else (_MUST_TAKE, -1)
        reached = "reached" if sign * round(median(ratios), 2) >= sign * must else "**not reached**"
        yield (
            f"| {other.name} / {plain.name.removeprefix(f'{other.store}: ')}: {of} | {must:.2f} | {median(ratios):.2f}"
            f" | {min(ratios):.2f} to {max(ratios):.2f} | {reached} |"
        )
        cpu = [b.cpu_seconds / a.cpu_seconds for a, b in pairs]
        least, most = min(cpu), max(cpu)
        yield f"| the same: processor time without the store | | {median(cpu):.2f} | {least:.2f} to {most:.2f} | |"
    yield ""
    yield "| way | seconds | processor seconds | of the store | peak memory |"
    yield "| --- | ---: | ---: | ---: | ---: |"
    for name, loads in results.items():
        yield (
            f"| {name} | {median(each.seconds for each in loads):.2f}"
            f" | {median(each.cpu_seconds for each in loads):.2f}"
            f" | {median(each.store_cpu_seconds for each in loads):.2f}"
            f" | {max(each.peak_bytes for each in loads) / MB:,.0f} MB |"
        )


def measure(bench: Bench, records: int, rounds: int, only: str, say: Callable[[str], None]) -> Results:
    """Run the two ways of each comparison in turn, after one load of each that does not count."""
    sample = samples.make("array", records, bench.folder)
    results: Results = {}
    for ways in COMPARISONS:
        if only and not any(only in way.name for way in ways):
            continue
        with _prepared(bench, ways, Path(sample.path)) as loads:
            for number in range(rounds + 1):
                for way in ways:
                    loaded = _load(bench, sample, loads[way.name])
                    say(
                        f"round {number} of {rounds} {loaded.seconds:6.2f} s {loaded.cpu_seconds:6.2f} s of processors"
                        f" {loaded.store_cpu_seconds:6.2f} s of the store {loaded.peak_bytes / MB:5,.0f} MB  {way.name}"
                    )
                    if number:
                        results.setdefault(way.name, []).append(loaded)
    return results


@dataclass(frozen=True, kw_only=True)
class _Prepared:
    """A load that is ready to run, and the processes that work for it."""

    words: Sequence[str]
    environment: Mapping[str, str]
    cluster: Sequence[int]
    store: Sequence[int]
    fetches: bool | None


@contextmanager
def _prepared(bench: Bench, ways: Sequence[Way], path: Path) -> Iterator[dict[str, _Prepared]]:
    with ExitStack() as stack:
        loads = {}
        variables: dict[str, str] = {}
        pids: list[int] = []
        for way in ways:
            words = ["load", database.PLAIN, str(path), "--no-precalculate", "--json", "--workers", "2", *way.words]
            cluster: list[int] = []
            if way.store is not None:
                if not pids:
                    store, address = stack.enter_context(_store(way.store, path))
                    pids = [store]
                    variables = _access(address)
                words[2] = f"s3://{BUCKET}/{path.name}"
                scheduler, cluster = stack.enter_context(_cluster(bench, variables if way.access else {}))
                words += ["--executor", f"dask:{scheduler}"]
            words += ["--failed-dir", str(bench.folder / "failed"), "--log-format", "json"]
            loads[way.name] = _Prepared(
                words=words,
                environment=variables if way.store else {},
                cluster=cluster,
                store=pids,
                fetches=way.access if way.store else None,
            )
        yield loads


def _load(bench: Bench, sample: samples.Sample, load: _Prepared) -> Loaded:
    database.empty(bench.connection)
    before, store_before = cpu_seconds(load.cluster), cpu_seconds(load.store)
    run = bench.load(load.words, load.environment)
    cpu = run.cpu_seconds + cpu_seconds(load.cluster) - before
    store_cpu = cpu_seconds(load.store) - store_before
    rows, grams = database.found(bench.connection, database.TABLES[database.PLAIN])
    if (rows, grams) != (sample.rows, sample.grams):
        raise RunFailedError(f"expected {sample.rows} rows and {sample.grams} g, got {rows} and {grams} g")
    if load.fetches is False and '"reads_itself": true, "event": "source_seen_by_workers"' in bench.output():
        raise RunFailedError("expected workers that cannot read the store")
    return Loaded(
        seconds=run.seconds,
        cpu_seconds=cpu,
        store_cpu_seconds=store_cpu,
        peak_bytes=run.peak_bytes + sum(Tree(pid).pss_bytes() for pid in load.cluster),
    )


def _access(address: str) -> dict[str, str]:
    return {
        "AWS_ENDPOINT_URL": address,
        "AWS_ACCESS_KEY_ID": KEY,
        "AWS_SECRET_ACCESS_KEY": KEY,
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
    }


@contextmanager
def _store(kind: str, path: Path) -> Iterator[tuple[int, str]]:
    """Start a store with the file; yield its process and its address."""
    words = [sys.executable, "-m", "scripts.benchmark.stores", kind, str(path)]
    with subprocess.Popen(words, cwd=_ROOT, stdout=subprocess.PIPE, text=True) as process:  # noqa: S603 - our own
        try:
            address = process.stdout.readline().strip() if process.stdout else ""
            if not address:
                raise RunFailedError(f"the store {kind} did not start")
            yield process.pid, address
        finally:
            process.kill()


@contextmanager
def _cluster(bench: Bench, access: Mapping[str, str]) -> Iterator[tuple[str, list[int]]]:
    """Start a scheduler and two workers, as somebody has them beside the loads; yield its address and all processes."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"tcp://127.0.0.1:{free.getsockname()[1]}"
    worker = ("worker", address, "--no-nanny", "--no-dashboard", "--nthreads", "1")
    environment = {name: value for name, value in bench.environment.items() if not name.startswith("AWS_")}
    environment |= {"AWS_EC2_METADATA_DISABLED": "true", **access}
    started: list[subprocess.Popen[bytes]] = []
    try:
        for name, *words in (("scheduler", "--host", address, "--no-dashboard"), worker, worker):
            command = [sys.executable, "-m", f"distributed.cli.dask_{name}", *words]
            started.append(
                subprocess.Popen(  # noqa: S603 - the programs of the benchmark, no shell of ours
                    command,
                    env=environment,
                    cwd=bench.folder,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                )
            )
        with Client(address) as client:  # type: ignore[no-untyped-call] # Dask has no types
            client.wait_for_workers(2, timeout=60)
        yield address, [each.pid for each in started]
    finally:
        for each in reversed(started):
            each.kill()
            each.wait()
