"""A report as one HTML file that opens without a network: no script, and no font or image from elsewhere. Pure."""

import datetime as dt
from collections.abc import Sequence
from typing import Any

from etl.precalculation.reading import Row, Subject
from etl.report import charts, display
from etl.report.figures import Figures
from etl.report.markup import Markup, element, joined
from etl.report.state import Sentence, instant, of_all, of_one

_STYLE = Markup("""
:root { color-scheme: light dark; --ink: #1a2433; --soft: #5b6878; --line: #dde3ea; --paper: #fff; --card: #f6f8fa;
  --bar: #2563a8; --pale: #8fb3d9; --track: #e8edf2; --warn: #a33b12; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6eaf0; --soft: #9aa7b6; --line: #303b48; --paper: #12181f;
  --card: #1a222c; --bar: #5b9be0; --pale: #39628f; --track: #232d38; --warn: #f0916a; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 1100px; padding: 32px 24px 64px; background: var(--paper); color: var(--ink);
  font: 15px/1.5 system-ui, "Segoe UI", "Liberation Sans", "Noto Sans", sans-serif; }
h1 { font-size: 26px; line-height: 1.2; margin: 0 0 4px; }
h2 { font-size: 18px; margin: 40px 0 2px; }
p { margin: 0 0 12px; color: var(--soft); }
p.state { color: var(--ink); font-weight: 600; margin-top: 12px; }
p.warn { color: var(--warn); }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(190px, 1fr)); gap: 12px; margin-top: 20px; }
.tile { background: var(--card); border: 1px solid var(--line); border-radius: 8px; padding: 12px 16px; }
.tile b { display: block; font-size: 26px; line-height: 1.3; font-variant-numeric: tabular-nums; }
.tile span { color: var(--soft); font-size: 13px; }
.wide { overflow-x: auto; border: 1px solid var(--line); border-radius: 8px; }
table { border-collapse: collapse; width: 100%; font-size: 13px; }
th, td { padding: 5px 12px; text-align: left; vertical-align: top; white-space: nowrap;
  border-bottom: 1px solid var(--line); }
tbody tr:last-child td { border-bottom: 0; }
th { color: var(--soft); font-weight: 600; background: var(--card); vertical-align: bottom; white-space: normal; }
td { unicode-bidi: isolate; }
.right { text-align: right; font-variant-numeric: tabular-nums; }
svg { display: block; width: 100%; height: auto; margin-top: 8px; font-size: 13px; overflow: visible; }
svg text { fill: var(--soft); }
.bars > div { display: grid; grid-template-columns: 3fr 4fr 3fr; gap: 0 12px; align-items: center; padding: 4px 0; }
.bars svg { height: 18px; margin: 0; }
.name, .value { unicode-bidi: isolate; overflow-wrap: anywhere; }
.name { text-align: right; }
.bar { fill: var(--bar); } .weekend { fill: var(--pale); } .track { fill: var(--track); }
.grid { stroke: var(--line); stroke-width: 1; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: 2px 16px; font-size: 13px; }
dt { font-weight: 600; } dd { margin: 0; color: var(--soft); }
@media (max-width: 640px) { body { padding: 16px 12px 32px; } svg { font-size: 26px; } .name { text-align: left; }
  .bars > div { grid-template-columns: 1fr; padding: 6px 0; } .bars svg { height: 12px; } h2 { margin-top: 28px; }
  dl { grid-template-columns: 1fr; } dt { margin-top: 6px; overflow-wrap: anywhere; } }
@media print { body { max-width: none; padding: 0; } h2 { break-after: avoid; } svg { break-inside: avoid; } }
""")


def overview(
    database: str, read_at: dt.datetime, figures: Figures, freshness: Subject, rows: Sequence[Sequence[Any]]
) -> str:
    """Return the page on all aggregates: how fresh they are, volume, punctuality, and the slowest lanes."""
    return _page(
        "Logistics report",
        [
            element("h1", "Logistics report"),
            element("p", f"Database {database}, read {instant(read_at)}."),
            *_state(of_all([dict(zip([name for name, _ in freshness.columns], row, strict=True)) for row in rows])),
            _tiles(figures),
            element("h2", "Freshness"),
            element("p", "An aggregate without pending buckets equals its facts. Rejected records are missing."),
            _table(freshness, rows),
            *_volume(figures),
            *_shares(figures),
            *_lanes(figures),
        ],
    )


def of_rows(
    database: str, read_at: dt.datetime, subject: Subject, freshness: Row, rows: Sequence[Sequence[Any]], count_all: int
) -> str:
    """Return the page on one aggregate: how fresh it is, the given rows, and its columns."""
    shown = f"The first {len(rows):,} of {count_all:,} rows." if len(rows) < count_all else f"{count_all:,} rows."
    meanings = [part for name, comment in subject.columns for part in (element("dt", name), element("dd", comment))]
    return _page(
        subject.name,
        [
            element("h1", subject.name),
            element("p", f"{subject.grain} Database {database}, read {instant(read_at)}."),
            *_state(of_one(freshness)),
            element("h2", "Rows"),
            element("p", shown),
            _table(subject, rows),
            element("h2", "Columns"),
            element("dl", *meanings),
        ],
    )


def _page(title: str, content: Sequence[Markup]) -> str:
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        # The browser then refuses anything that the page may be made to fetch or run.
        element("meta", http_equiv="Content-Security-Policy", content="default-src 'none'; style-src 'unsafe-inline'"),
        element("title", title),
        element("style", _STYLE),
    )
    return "<!doctype html>\n" + element("html", head, element("body", element("main", *content)), lang="en") + "\n"


def _state(sentences: Sequence[Sentence]) -> list[Markup]:
    return [
        element(
            "p",
            f"{sentence.text[0].upper()}{sentence.text[1:]}.",
            class_="state warn" if sentence.is_warning else "state",
        )
        for sentence in sentences
    ]


def _tiles(figures: Figures) -> Markup:
    punctuality = figures.punctuality
    first = _percent(punctuality.count_first_on_time, punctuality.count_first_judged)
    of_what = (
        f"delivered on time, of {punctuality.count_judged:,} created in twelve months; by the first promise {first};"
        f" {punctuality.count_open:,} are still open"
    )
    last_day = f" to {figures.days[-1][0]} (UTC)" if figures.days else ""
    as_of = f", as of {instant(figures.open_as_of)}" if figures.open_as_of else ""
    tiles = [
        (f"{sum(count for _, count in figures.days):,}", f"shipments created in the 91 days{last_day}"),
        (_percent(punctuality.count_on_time, punctuality.count_judged), of_what),
        (f"{figures.count_open:,}", f"open shipments{as_of}"),
        (f"{figures.count_overdue:,}", "of them overdue"),
    ]
    return element(
        "div",
        *(element("div", element("b", value), element("span", what), class_="tile") for value, what in tiles),
        class_="tiles",
    )


def _percent(part: int, whole: int) -> str:
    return f"{100 * part / whole:.1f} %" if whole else "–"


def _more(count: int, what: str) -> str:
    return f", {count:,} {what}" if count else ""


def _volume(figures: Figures) -> list[Markup]:
    title = element("h2", "Shipments per day")
    if not figures.days:
        return [title, element("p", "No shipments yet.")]
    first, last = figures.days[0][0], figures.days[-1][0]
    note = element(
        "p", f"Created {first} to {last} (UTC); cancelled ones are left out; Saturdays and Sundays (UTC) are paler."
    )
    return [title, note, charts.per_day(figures.days)]


def _shares(figures: Figures) -> list[Markup]:
    title = element("h2", "On-time share per carrier")
    if not figures.shares:
        return [title, element("p", "No deliveries with a promise yet.")]
    note = (
        f"Of deliveries with a promise in {_months(figures)}; the largest carriers first,"
        f" {len(figures.shares)} of {figures.punctuality.count_carriers:,}. Shares are too good where many are open."
    )
    rows = [
        (
            display.plain(share.carrier),
            share.share,
            f"{100 * share.share:.1f} % of {share.count_judged:,}{_more(share.count_open, 'open')}",
        )
        for share in figures.shares
    ]
    return [title, element("p", note), charts.bars("On-time share per carrier", rows, 1.0)]


def _lanes(figures: Figures) -> list[Markup]:
    title = element("h2", "Slowest lanes")
    if not figures.lanes:
        return [title, element("p", "No lane has ten transits yet.")]
    note = (
        f"Mean hours from pick-up to delivery in {_months(figures)}; lanes with ten transits or more,"
        f" {len(figures.lanes)} of {figures.count_lanes:,}. Means are too short where many are under way."
    )
    rows = [
        (
            display.plain(f"{lane.origin} → {lane.destination}"),
            lane.avg_transit_hours,
            f"{lane.avg_transit_hours:,.1f} h, {lane.count_transits:,} transits"
            + _more(lane.count_in_transit, "under way"),
        )
        for lane in figures.lanes
    ]
    longest = max(lane.avg_transit_hours for lane in figures.lanes)
    return [title, element("p", note), charts.bars("Slowest lanes", rows, longest)]


def _months(figures: Figures) -> str:
    return f"the twelve months to {figures.month:%B %Y} (by creation)"


def _table(subject: Subject, rows: Sequence[Sequence[Any]]) -> Markup:
    columns = display.by_column(rows, len(subject.columns))
    classes = ["right" if is_right else None for is_right in display.numeric_columns(rows, len(subject.columns))]
    heads = [
        element("th", _breakable(name), title=comment, class_=kind)
        for (name, comment), kind in zip(subject.columns, classes, strict=True)
    ]
    lines = (
        element("tr", *(element("td", cell, class_=kind) for cell, kind in zip(line, classes, strict=True)))
        for line in zip(*columns, strict=True)
    )
    table = element("table", element("thead", element("tr", *heads)), element("tbody", joined(lines)))
    return element("div", table, class_="wide", role="region", tabindex=0, aria_label=f"Rows of {subject.name}")


def _breakable(name: str) -> Markup:
    first, *others = name.split("_")
    return joined([first, *(part for other in others for part in ("_", element("wbr"), other))])
