"""What was measured, as medians, ratios and tables. Pure."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Literal

MB = 1_000_000


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """One run of one variant."""

    records: int
    seconds: float
    peak_bytes: int = 0

    @property
    def rate(self) -> float:
        """Records a second."""
        return self.records / self.seconds


Results = Mapping[str, Mapping[int, Outcome]]
"""The outcome of each round (from 1) by the name of the variant; a round that failed is not there."""


@dataclass(frozen=True, kw_only=True)
class Figure:
    """The median of the rounds, and their least and most."""

    value: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Figure":
        """Return the figure of one value a round, at least one."""
        return cls(value=median(values), low=min(values), high=max(values))


def rate(results: Results, name: str) -> Figure | None:
    """Return the records a second of a variant; None when it was not measured."""
    outcomes = results.get(name, {})
    return Figure.of([outcome.rate for outcome in outcomes.values()]) if outcomes else None


def ratio(results: Results, over: str, under: str) -> Figure | None:
    """Return the rate of one variant over that of another, divided round by round: rounds differ by the weather."""
    first, second = results.get(over, {}), results.get(under, {})
    ratios = [first[number].rate / second[number].rate for number in first if number in second]
    return Figure.of(ratios) if ratios else None


def peak_bytes(results: Results, names: Sequence[str]) -> Figure | None:
    """Return the memory of the variant that took the most."""
    figures = [
        Figure.of([outcome.peak_bytes for outcome in results[name].values()]) for name in names if results.get(name)
    ]
    return max(figures, key=lambda figure: figure.value) if figures else None


@dataclass(frozen=True, kw_only=True)
class Measure:
    """A figure with what it must reach: of several variants `over`, the best counts.

    A `rate` is divided by that of `under` and may not be less; `time`, so divided, and `memory`, in MB, not more.
    """

    what: str
    over: tuple[str, ...]
    under: str = ""
    must: float
    aim: float
    kind: Literal["rate", "time", "memory"] = "rate"

    def figure(self, results: Results) -> Figure | None:
        """Return what was measured, or None."""
        if self.kind == "memory":
            peak = peak_bytes(results, self.over)
            return peak and Figure(value=peak.value / MB, low=peak.low / MB, high=peak.high / MB)
        if self.kind == "time":
            return ratio(results, self.under, self.over[0])
        figures = [found for name in self.over if (found := ratio(results, name, self.under))]
        return max(figures, key=lambda figure: figure.value) if figures else None

    def verdict(self, figure: Figure | None) -> str:
        """Return a comparison of the figure with its bound, in words."""
        if figure is None:
            return "not measured"
        sign = 1 if self.kind == "rate" else -1
        if sign * figure.value >= sign * self.aim:
            return "aim reached"
        return "reached" if sign * figure.value >= sign * self.must else "**not reached**"

    def shown(self, value: float) -> str:
        """Return a value with its unit."""
        return f"{value:.0f} MB" if self.kind == "memory" else f"{value:.2f}"


_APPENDS = ("etl append array", "etl append ndjson", "etl append gz")

MEASURES = (
    Measure(what="append, default settings, array / ceiling", over=_APPENDS[:1], under="ceiling", must=0.80, aim=1.00),
    Measure(
        what="append, default settings, NDJSON / ceiling", over=_APPENDS[1:2], under="ceiling", must=0.80, aim=1.00
    ),
    Measure(
        what="`--workers 2`, array / ceiling",
        over=("etl append array, 2 workers",),
        under="ceiling",
        must=0.85,
        aim=1.10,
    ),
    Measure(
        what="`--decoder ijson`, array, one worker / ceiling",
        over=("etl append array, ijson",),
        under="ceiling",
        must=0.35,
        aim=0.45,
    ),
    Measure(
        what="`--decoder ijson`, array, best of default and 2 workers / ceiling",
        over=("etl append array, ijson", "etl append array, ijson, 2 workers"),
        under="ceiling",
        must=0.45,
        aim=0.55,
    ),
    Measure(
        what="`.gz` NDJSON, best of default and 2 workers / ceiling",
        over=("etl append gz", "etl append gz, 2 workers"),
        under="ceiling",
        must=0.70,
        aim=0.95,
    ),
    Measure(
        what="merge into an empty table / append",
        over=("etl merge array",),
        under="etl append array",
        must=0.65,
        aim=0.85,
    ),
    Measure(what="against DuckDB, array", over=_APPENDS[:1], under="duckdb array", must=2.7, aim=3.4),
    Measure(what="against DuckDB, NDJSON", over=_APPENDS[1:2], under="duckdb ndjson", must=1.9, aim=2.4),
    Measure(what="against Polars and COPY, NDJSON", over=_APPENDS[1:2], under="polars ndjson", must=1.6, aim=2.1),
    *(
        Measure(what=f"the same with `--workers 2`: {what}", over=(over,), under=under, must=must, aim=aim)
        for what, over, under, must, aim in (
            ("DuckDB, array", "etl append array, 2 workers", "duckdb array", 2.7, 3.4),
            ("DuckDB, NDJSON", "etl append ndjson, 2 workers", "duckdb ndjson", 1.9, 2.4),
            ("Polars, NDJSON", "etl append ndjson, 2 workers", "polars ndjson", 1.6, 2.1),
        )
    ),
    Measure(
        what="peak memory of all loader processes, append, default settings",
        over=_APPENDS,
        must=200,
        aim=100,
        kind="memory",
    ),
    *(
        Measure(
            what=f"1 % {what} / clean",
            over=(f"etl append 1 % bad by {fault}",),
            under="etl append array",
            must=0.85,
            aim=0.95,
        )
        for what, fault in (("CHECK violations", "CHECK"), ("wrong types", "type"), ("NUL characters", "NUL"))
    ),
    Measure(
        what="whole records as jsonb beside / ceiling for those rows",
        over=("etl append with whole records",),
        under="ceiling with whole records",
        must=0.85,
        aim=0.95,
    ),
    Measure(
        what="shipments with 3 items each: rows per second / ceiling for those rows",
        over=("etl append items",),
        under="ceiling items",
        must=0.65,
        aim=0.90,
    ),
    Measure(
        what="time of `etl --help` / `python -c pass`",
        over=("etl --help",),
        under="python -c pass",
        must=8,
        aim=5,
        kind="time",
    ),
)


def measures_table(results: Results) -> Iterator[str]:
    """Yield what was asked for beside what was measured, as the lines of a table."""
    yield "| measure | must reach | aim | measured | least to most | |"
    yield "| --- | ---: | ---: | ---: | ---: | --- |"
    for measure in MEASURES:
        figure = measure.figure(results)
        text = measure.shown(figure.value) if figure else ""
        spread = f"{measure.shown(figure.low)} to {measure.shown(figure.high)}" if figure else ""
        asked = [measure.shown(value) for value in (measure.must, measure.aim)]
        yield f"| {measure.what} | {asked[0]} | {asked[1]} | {text} | {spread} | {measure.verdict(figure)} |"


def variants_table(results: Results, ceilings: Mapping[str, str], left_out: Mapping[str, str]) -> Iterator[str]:
    """Yield every variant in its order, as the lines of a table: `ceilings` and why one is left out by its name."""
    yield "| variant | records/s | / ceiling | least to most | peak memory |"
    yield "| --- | ---: | ---: | ---: | ---: |"
    for name, ceiling in ceilings.items():
        speed, share, memory = rate(results, name), ratio(results, name, ceiling), peak_bytes(results, [name])
        if speed is None or memory is None:
            yield f"| {name} | {left_out.get(name, 'not measured')} | | | |"
            continue
        text = f"{share.value:.2f} | {share.low:.2f} to {share.high:.2f}" if share else " | "
        yield f"| {name} | {speed.value:,.0f} | {text} | {memory.value / MB:,.0f} MB |"


def scale_table(results: Mapping[int, Results]) -> Iterator[str]:
    """Yield rate and memory of each variant at each size (number of records), as the lines of a table."""
    yield "| records | variant | records/s | peak memory |"
    yield "| ---: | --- | ---: | ---: |"
    for records, of_size in sorted(results.items()):
        for name in of_size:
            speed, memory = rate(of_size, name), peak_bytes(of_size, [name])
            if speed and memory:
                yield f"| {records:,} | {name} | {speed.value:,.0f} | {memory.value / MB:,.0f} MB |"


def flatness(results: Mapping[int, Results], name: str, *, at_least: int = 1_000_000) -> float | None:
    """Return by which share the memory of a variant grows or falls from the smallest of these sizes to the largest."""
    sizes = sorted(records for records in results if records >= at_least and results[records].get(name))
    if len(sizes) < 2:
        return None
    smallest, largest = (peak_bytes(results[records], [name]) for records in (sizes[0], sizes[-1]))
    return largest.value / smallest.value - 1 if smallest and largest else None


def with_part(page: str, name: str, lines: Sequence[str]) -> str:
    """Return a page with these lines between `<!-- measured: NAME -->` and `<!-- end of NAME -->`.

    Raises ValueError when the page has no such place, or more than one.
    """
    place = re.compile(rf"(<!-- measured: {re.escape(name)} -->\n).*?(<!-- end of {re.escape(name)} -->)", re.DOTALL)
    text = "\n".join(lines)
    changed, count = place.subn(lambda found: f"{found[1]}\n{text}\n\n{found[2]}", page)
    if count != 1:
        raise ValueError(f"expected one place for the measured {name}, got {count}")
    return changed
