"""A report as one HTML file that opens without a network: its script, its style and its data are in it.

The templates escape each value. What this module is given are values; it knows no SQL. Imported only for a page.
"""

import base64
import datetime as dt
import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from etl.precalculation.reading import Row, Subject
from etl.report import display
from etl.report.parts import Chart, Listing, Section, Tile
from etl.report.periods import Periods
from etl.report.state import Age, Sentence, instant

_FOLDER = Path(__file__).parent
# Characters that HTML does not allow, escaped or not, and that `display.plain` leaves.
_IMPOSSIBLE = re.compile("[\ud800-\udfff\ufffe\uffff]")


@dataclass(frozen=True, kw_only=True)
class Assets:
    """The script and the style of a page, and the hashes by which the browser knows them."""

    script: str
    style: str
    script_hash: str
    style_hash: str


@dataclass(frozen=True, kw_only=True)
class Overview:
    """What the page on all aggregates shows. Before the first load there are no periods, tiles and sections."""

    state: Sequence[Sentence]
    ages: Sequence[Age]
    periods: Periods | None
    tiles: Sequence[Tile]
    sections: Sequence[Section]
    freshness: Listing


def overview(database: str, read_at: dt.datetime, content: Overview) -> str:
    """Return the page on all aggregates."""
    charts: list[Chart] = [chart for section in content.sections for chart in section.charts]
    return (
        _environment()
        .get_template("overview.html.jinja")
        .render(
            assets=_assets(),
            title="Logistics report",
            database=database,
            read_at=read_at,
            state=content.state,
            ages=content.ages,
            periods=content.periods,
            tiles=content.tiles,
            sections=content.sections,
            freshness=content.freshness,
            charts={chart.label: chart.data for chart in charts},
        )
    )


def of_rows(
    database: str,
    read_at: dt.datetime,
    subject: Subject,
    state: Sequence[Sentence],
    rows: Sequence[Sequence[Any]],
    count_all: int,
) -> str:
    """Return the page on one aggregate: how fresh it is, the given rows, and its columns."""
    shown = f"The first {len(rows):,} of {count_all:,} rows." if len(rows) < count_all else f"{count_all:,} rows."
    return (
        _environment()
        .get_template("aggregate.html.jinja")
        .render(
            assets=_assets(),
            title=subject.name,
            grain=subject.grain,
            database=database,
            read_at=read_at,
            state=state,
            shown=shown,
            columns=subject.columns,
            rows=listing(subject, rows),
        )
    )


def listing(subject: Subject, rows: Sequence[Sequence[Any]]) -> Listing:
    """Return rows of a table of the database as a table of a page."""
    return Listing(caption=f"Rows of {subject.name}", names=[name for name, _ in subject.columns], rows=rows)


def freshness_of(names: Sequence[str], rows: Sequence[Row]) -> Listing:
    """Return how fresh the aggregates are as a table of a page."""
    return Listing(caption="Freshness", names=names, rows=[[row[name] for name in names] for row in rows])


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(_FOLDER / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_harmless,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"instant": instant, "sentence": _sentence}
    return environment


def _harmless(value: object) -> object:
    """Return a value without characters that HTML forbids or that would turn the direction of the text around it."""
    if isinstance(value, str) and not hasattr(value, "__html__"):
        return _IMPOSSIBLE.sub("\N{REPLACEMENT CHARACTER}", display.plain(value))
    return value


def _sentence(text: str) -> str:
    return f"{text[0].upper()}{text[1:]}."


@cache
def _assets() -> Assets:
    script, style = ((_FOLDER / "static" / name).read_text(encoding="utf-8") for name in ("report.js", "report.css"))
    return Assets(script=script, style=style, script_hash=_hash(script), style_hash=_hash(style))


def _hash(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"
