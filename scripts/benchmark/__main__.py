"""Measure loads: `python -m scripts.benchmark compare` and `python -m scripts.benchmark scale`.

Tables go to stdout as Markdown, the story to stderr; --write-docs writes the tables into docs/performance.md.
"""

import os
import platform
import re
import signal
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import click

import etl
from etl import logs
from scripts.benchmark import cliffs as cliff_rows
from scripts.benchmark import files as small_files
from scripts.benchmark import nights as full_exports
from scripts.benchmark import partitions as months
from scripts.benchmark import report
from scripts.benchmark import workers as ways_of_workers
from scripts.benchmark.bench import Bench, RunFailedError, opened
from scripts.benchmark.report import Outcome
from scripts.benchmark.variants import SCALED, START_UPS, VARIANTS, Programs, Variant, ceiling_of

ROOT = Path(__file__).resolve().parent.parent.parent
PAGE = ROOT / "docs" / "performance.md"

_START_UP_ROUNDS = 10
_FAILED = "failed"
_QUIET_LOAD = 0.5

_folder_option = click.option(
    "--folder",
    type=click.Path(path_type=Path, file_okay=False, resolve_path=True),
    help="Folder of samples and server, kept and taken again; else a temporary one.",
)
_others_option = click.option(
    "--others",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path(".venv-bench"),
    show_default=True,
    help="Environment of the other tools.",
)
_write_docs_option = click.option("--write-docs", is_flag=True, help="Write the tables into docs/performance.md.")


@click.group()
def cli() -> None:
    """Measure loads against a server of the benchmark's own."""
    logs.set_up(logs.Logs(level="warning"))
    # As an exception it ends the program that runs and the server, and removes gigabytes of samples.
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))


@cli.command()
@click.option("--records", type=click.IntRange(100), default=1_000_000, show_default=True, help="Shipments per sample.")
@click.option("--rounds", type=click.IntRange(1), default=3, show_default=True, help="Runs of each variant.")
@click.option("--only", metavar="REGEX", default="", help="Variants to run, such as 'ceiling|append array$'.")
@_folder_option
@_others_option
@_write_docs_option
def compare(records: int, rounds: int, only: str, folder: Path | None, others: Path, write_docs: bool) -> None:
    """Run every variant in turn, as often as there are rounds, and compare them with the ceiling."""
    try:
        wanted = re.compile(only)
    except re.error as error:
        raise click.BadParameter(f"expected a regular expression, got {only!r}", param_hint="--only") from error
    if only and write_docs:
        raise click.UsageError("--write-docs writes the whole table: it goes without --only")
    programs = Programs.installed(others)
    left_out = _left_out([each.name for each in VARIANTS if wanted.search(each.name)], programs)
    with _bench(folder, programs) as bench:
        results = _in_turn(bench, [each for each in VARIANTS if each.name not in left_out], records, rounds, left_out)
        results |= _start_ups(bench, wanted)
        tools = "".join(f", {name} {version}" for name, version in programs.versions().items())
        facts = f"{_facts(bench)}{tools}. {rounds} rounds; {bench.holdings()}."
    under = {each.name: ceiling_of(each) for each in VARIANTS}
    tables = [facts, "", *report.measures_table(results), "", *report.variants_table(results, under, left_out)]
    _tell("benchmark", tables, left_out, write_docs=write_docs)


@cli.command()
@click.option(
    "--sizes", default="100000,1000000,10000000", show_default=True, help="Numbers of shipments, with commas between."
)
@_folder_option
@_write_docs_option
def scale(sizes: str, folder: Path | None, write_docs: bool) -> None:
    """Load ever larger files, one run each, to see rate and memory against size."""
    if not re.fullmatch(r"\d+(,\d+)*", sizes):
        raise click.BadParameter(f"expected numbers with commas between, got {sizes!r}", param_hint="--sizes")
    programs = Programs.installed(Path(".venv-bench"))
    left_out = _left_out(SCALED, programs)
    chosen = [each for each in VARIANTS if each.name not in left_out]
    results: dict[int, report.Results] = {}
    with _bench(folder, programs) as bench:
        for records in sorted(map(int, sizes.split(","))):
            results[records] = _in_turn(bench, chosen, records, 1, left_out)
        facts = f"{_facts(bench)}. One run each; {bench.holdings()}."
    flat = [
        f"Peak memory of {name}, from the smallest to the largest size of at least a million records: {share:+.0%} "
        "(asked for: within 10 %)."
        for name in SCALED
        if (share := report.flatness(results, name)) is not None
    ]
    _tell("scale", [facts, "", *report.scale_table(results), "", *flat], left_out, write_docs=write_docs)


@cli.command()
@click.option(
    "--rounds", type=click.IntRange(1), default=3, show_default=True, help="Times that each folder is loaded."
)
@click.option("--share", type=click.IntRange(1), default=1, show_default=True, help="Load one file of so many.")
@_folder_option
@_write_docs_option
def files(rounds: int, share: int, folder: Path | None, write_docs: bool) -> None:
    """Load folders of small files, and load them again when all are known."""
    chosen = [replace(each, files=max(1, each.files // share)) for each in small_files.FOLDERS]
    with _bench(folder, Programs.installed(Path(".venv-bench"))) as bench:
        nights = [night for each in chosen for night in small_files.measure(bench, each, rounds, _say)]
        part = f"; one file of {share}" if share > 1 else ""
        facts = f"{_facts(bench)}. {rounds} rounds{part}."
    _tell("files", [facts, "", *small_files.table(nights)], {}, write_docs=write_docs)


@cli.command()
@click.option(
    "--records", type=click.IntRange(1000), default=1_000_000, show_default=True, help="Shipments per export."
)
@click.option(
    "--rounds", type=click.IntRange(1), default=3, show_default=True, help="Times that all nights are played."
)
@_folder_option
@_write_docs_option
def nights(records: int, rounds: int, folder: Path | None, write_docs: bool) -> None:
    """Load full exports, night after night, by merge: the first, one with few changes, one with many."""
    with _bench(folder, Programs.installed(Path(".venv-bench"))) as bench:
        found = full_exports.measure(bench, records, rounds, _say)
        facts = f"{_facts(bench)}. {records:,} shipments with their items, {rounds} rounds."
    _tell("nights", [facts, "", *full_exports.table(found)], {}, write_docs=write_docs)


@cli.command()
@click.option("--records", type=click.IntRange(1000), default=250_000, show_default=True, help="Shipments per file.")
@click.option("--rounds", type=click.IntRange(1), default=3, show_default=True, help="Times that each file is loaded.")
@_folder_option
@_write_docs_option
def partitions(records: int, rounds: int, folder: Path | None, write_docs: bool) -> None:
    """Load shipments of 24 months into partitions and into plain tables, in random order and in the order of time."""
    with _bench(folder, Programs.installed(Path(".venv-bench"))) as bench:
        shares = months.measure(bench, records, rounds, _say)
        facts = f"{_facts(bench)}. {records:,} shipments, {rounds} rounds."
    _tell("partitions", [facts, "", *months.table(shares)], {}, write_docs=write_docs)


@cli.command()
@click.option(
    "--records", type=click.IntRange(1000), default=1_000_000, show_default=True, help="Shipments in the file."
)
@click.option("--rounds", type=click.IntRange(1), default=3, show_default=True, help="Loads of each way, in turn.")
@click.option("--only", metavar="TEXT", default="", help="Compare only ways whose name has this, such as 'moto'.")
@_folder_option
@_write_docs_option
def workers(records: int, rounds: int, only: str, folder: Path | None, write_docs: bool) -> None:
    """Compare two workers of Dask with two processes, and workers that fetch an object with a command that sends it."""
    if only and write_docs:
        raise click.UsageError("--write-docs writes the whole table: it goes without --only")
    with _bench(folder, Programs.installed(Path(".venv-bench"))) as bench:
        results = ways_of_workers.measure(bench, records, rounds, only, _say)
        facts = f"{_facts(bench)}. {records:,} records, {rounds} rounds."
    _tell("workers", [facts, "", *ways_of_workers.table(results)], {}, write_docs=write_docs)


@cli.command()
@click.option("--records", type=click.IntRange(100), default=180_000, show_default=True, help="Records per row.")
@click.option("--rounds", type=click.IntRange(1), default=3, show_default=True, help="Pairs of runs of each row.")
@click.option("--only", metavar="REGEX", default="", help="Rows to measure, such as 'quotes|epoch'.")
@_write_docs_option
def cliffs(records: int, rounds: int, only: str, write_docs: bool) -> None:
    """Compare files that differ from a clean one in one thing, without a server; exit 1 when one is too slow."""
    if only and write_docs:
        raise click.UsageError("--write-docs writes the whole table: it goes without --only")
    chosen = [cliff for cliff in cliff_rows.CLIFFS if re.search(only, cliff.what)]
    with tempfile.TemporaryDirectory(prefix="etl-benchmark-") as folder:
        shares = cliff_rows.Cliffs(Path(folder), records).shares(chosen, rounds, _say)
    facts = f"Python {platform.python_version()}, etl {etl.__version__}. {records:,} records, {rounds} rounds."
    _tell("cliffs", [facts, "", *cliff_rows.table(shares)], {}, write_docs=write_docs)
    if failing := cliff_rows.failing(shares):
        raise click.ClickException(f"slower than they must be: {', '.join(failing)}")


def _left_out(wanted: Sequence[str], programs: Programs) -> dict[str, str]:
    """Return why variants are not run, by their names, and tell it."""
    missing = programs.missing()
    left_out = {}
    for variant in VARIANTS:
        reasons = [missing[need] for need in variant.needs if need in missing]
        if variant.name not in wanted:
            left_out[variant.name] = "not measured"
        elif reasons:
            left_out[variant.name] = reasons[0]
            _say(f"{variant.name} is left out: {reasons[0]}")
    return left_out


@contextmanager
def _bench(folder: Path | None, programs: Programs) -> Iterator[Bench]:
    with tempfile.TemporaryDirectory(prefix="etl-benchmark-") as temporary:
        load = os.getloadavg()[0]
        if load > _QUIET_LOAD:
            _say(f"the machine is busy (load {load:.1f}): the rounds will differ, and ratios with them")
        place = folder or Path(temporary)
        place.mkdir(parents=True, exist_ok=True)
        try:
            with opened(place, programs) as bench:
                yield bench
        except RunFailedError as error:
            raise click.ClickException(str(error)) from error


def _in_turn(
    bench: Bench, variants: Sequence[Variant], records: int, rounds: int, left_out: dict[str, str]
) -> dict[str, dict[int, Outcome]]:
    """Run the variants in rounds, every other backwards; one that fails is left out from then on.

    Raises RunFailedError when a ceiling cannot be prepared.
    """
    results: dict[str, dict[int, Outcome]] = {}
    _say(f"making what is missing of the samples of {records:,} records ...")
    for variant in variants:
        bench.prepare(variant, records)
    for number in range(1, rounds + 1):
        # A machine that grows slower or faster over a round so favours no place in the order.
        for variant in variants if number % 2 else reversed(variants):
            if variant.name in left_out:
                continue
            try:
                outcome = bench.measure(variant, records)
            except RunFailedError as error:
                left_out[variant.name] = _FAILED
                results.pop(variant.name, None)
                _say(f"{variant.name} failed: {error}")
                continue
            results.setdefault(variant.name, {})[number] = outcome
            line = f"{outcome.seconds:8.2f} s {outcome.rate:10,.0f} records/s {outcome.peak_bytes / report.MB:6,.0f} MB"
            _say(f"round {number} of {rounds} {line}  {variant.name}")
    return results


def _start_ups(bench: Bench, wanted: re.Pattern[str]) -> dict[str, dict[int, Outcome]]:
    chosen = {name: words for name, words in START_UPS.items() if wanted.search(name)}
    results: dict[str, dict[int, Outcome]] = {name: {} for name in chosen}
    for number in range(1, _START_UP_ROUNDS + 1):
        for name, words in chosen.items():
            results[name][number] = bench.start(words)
    return results


def _facts(bench: Bench) -> str:
    return (
        f"{len(os.sched_getaffinity(0))} cores, shared with the server; PostgreSQL {bench.server_version}, "
        f"Python {platform.python_version()}, etl {etl.__version__}"
    )


def _tell(name: str, lines: Sequence[str], left_out: Mapping[str, str], *, write_docs: bool) -> None:
    click.echo("\n".join(lines))
    if failed := [name for name, why in left_out.items() if why == _FAILED]:
        raise click.ClickException(f"these failed, and nothing was written: {', '.join(failed)}")
    if write_docs:
        PAGE.write_text(report.with_part(PAGE.read_text(encoding="utf-8"), name, lines), encoding="utf-8")
        _say(f"wrote {PAGE.relative_to(ROOT)}")


def _say(line: str) -> None:
    click.echo(line, err=True)


if __name__ == "__main__":
    cli()
