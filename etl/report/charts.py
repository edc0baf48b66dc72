"""Charts of SVG and text. Pure; colours and fonts are those of the page's style sheet."""

import datetime as dt
import math
from collections.abc import Sequence

from etl.report.markup import Markup, element, joined

_WIDTH = 960


def per_day(days: Sequence[tuple[dt.date, int]]) -> Markup:
    """Draw the counts of successive days: one bar for each day, weekends paler, one tick for each month."""
    height, left, right, top, bottom = 260, 56, 8, 12, 28
    highest = _round_up(max(count for _, count in days))
    room = height - top - bottom
    step = (_WIDTH - left - right) / len(days)
    grid, bars, ticks = [], [], []
    for part in range(5):
        value = highest * part // 4
        y = top + room * (1 - part / 4)
        grid += [
            element("line", x1=left, x2=_WIDTH - right, y1=_n(y), y2=_n(y), class_="grid"),
            element("text", f"{value:,}", x=left - 8, y=_n(y + 4), text_anchor="end"),
        ]
    for place, (day, count) in enumerate(days):
        x, tall = left + place * step, room * count / highest
        bars.append(
            element(
                "rect",
                element("title", f"{day:%a %Y-%m-%d}: {count:,}"),
                x=_n(x + step * 0.1),
                y=_n(top + room - tall),
                width=_n(step * 0.8),
                height=_n(tall),
                class_="bar weekend" if day.weekday() > 4 else "bar",
            )
        )
        if day.day == 1 or place == 0:
            label = f"{day:%b %Y}" if day.day == 1 else f"{day:%d %b}"
            if place == 0 or place > 8 or days[0][0].day == 1:
                ticks.append(element("text", label, x=_n(x), y=height - 8))
    return _svg("Shipments per day", height, joined([*grid, *bars, *ticks]))


def bars(title: str, rows: Sequence[tuple[str, float, str]], full: float) -> Markup:
    """Draw horizontal bars of (name, value, text of the value). The value `full` has the whole width.

    Names and values are text beside the drawing, so that a narrow window breaks them into lines and cuts none.
    """
    lines = [
        element(
            "div",
            element("span", name, class_="name"),
            element(
                "svg",
                element("rect", width=100, height=10, class_="track"),
                element("rect", width=_n(100 * value / full if full else 0), height=10, class_="bar"),
                viewBox="0 0 100 10",
                preserveAspectRatio="none",
                aria_hidden="true",
            ),
            element("span", words, class_="value"),
            role="listitem",
        )
        for name, value, words in rows
    ]
    return element("div", *lines, class_="bars", role="list", aria_label=title)


def _svg(title: str, height: int, content: Markup) -> Markup:
    return element(
        "svg", content, viewBox=f"0 0 {_WIDTH} {height}", role="img", aria_label=title, preserveAspectRatio="xMinYMin"
    )


def _round_up(highest: int) -> int:
    """Return the smallest number from `highest` whose quarters are round."""
    quarter = max(1.0, highest / 4)
    unit = 10.0 ** math.floor(math.log10(quarter))
    return 4 * math.ceil(
        next(unit * factor for factor in (1, 1.25, 1.5, 2, 2.5, 3, 4, 5, 6, 8, 10) if unit * factor >= quarter)
    )


def _n(value: float) -> str:
    return f"{value:.2f}".rstrip("0").rstrip(".")
