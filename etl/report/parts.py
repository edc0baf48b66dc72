"""What a page shows, as values: tiles, charts, tables and sections. Pure.

A chart is drawn by the browser from its data (`web/src/report`); the page has the same data as a table.
"""

import datetime as dt
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Literal

from etl.report import display
from etl.report.display import Kind

Row = Mapping[str, Any]
Figure = float | int | None
Grain = Literal["day", "week", "month"]


@dataclass(frozen=True, kw_only=True)
class Tile:
    """A figure: what it counts, the same figure of the period before, and whether it asks for attention."""

    label: str
    value: str
    note: str
    before: str = ""
    is_bad: bool = False


@dataclass(frozen=True)
class Column:
    """A column of a table: the key of its values in the rows, its head, its kind, and what it means."""

    key: str
    name: str
    kind: Kind = "text"
    title: str = ""


@dataclass(frozen=True, kw_only=True)
class Table:
    """Rows with named columns. `cut` says how many rows there are in all; a column may be sorted by the reader."""

    caption: str
    columns: Sequence[Column]
    rows: Sequence[Row]
    cut: str = ""
    is_wide: bool = False

    @property
    def meanings(self) -> list[Column]:
        """The columns that need an explanation."""
        return [each for each in self.columns if each.title]

    @property
    def lines(self) -> list[list[tuple[Column, str, str]]]:
        """Each row as cells: the column, the text, and the text that sorts it (empty: unknown, which comes last)."""
        return [
            [(each, display.shown(row[each.key], each.kind), _sorting(row[each.key])) for each in self.columns]
            for row in self.rows
        ]


@dataclass(frozen=True, kw_only=True)
class Listing:
    """Rows of a table of the database, as a table of a page."""

    caption: str
    names: Sequence[str]
    rows: Sequence[Sequence[Any]]
    cut: str = ""
    meanings: tuple[Column, ...] = ()

    @property
    def columns(self) -> list[Column]:
        """The columns; those with numbers only are of a kind of numbers."""
        are_numbers = display.numeric_columns(self.rows, len(self.names))
        return [
            Column(name, name, "decimal" if is_number else "text")
            for name, is_number in zip(self.names, are_numbers, strict=True)
        ]

    @property
    def lines(self) -> list[list[tuple[Column, str, str]]]:
        """Each row as cells, as those of a Table."""
        columns = self.columns
        texts = zip(*display.by_column(self.rows, len(self.names)), strict=True)
        return [
            [(column, text, _sorting(value)) for column, text, value in zip(columns, line, row, strict=True)]
            for line, row in zip(texts, self.rows, strict=True)
        ]


@dataclass(frozen=True, kw_only=True)
class Panel:
    """A chart of its own among others with the same axes; without a name it is the only one."""

    name: str
    values: Sequence[Figure]


@dataclass(frozen=True, kw_only=True)
class Times:
    """Figures over time: bars or a line in each panel. Times from `young_from` on are marked: they may still change."""

    label: str
    unit: str
    kind: Kind
    grain: Grain
    times: Sequence[dt.date]
    panels: Sequence[Panel]
    is_bars: bool = False
    young_from: dt.date | None = None
    cut: str = ""

    @property
    def is_known(self) -> bool:
        """Whether it has any figure to draw."""
        return any(value is not None for panel in self.panels for value in panel.values)

    @property
    def is_wide(self) -> bool:
        """Whether the chart needs the whole width."""
        return len(self.panels) > 1

    @property
    def data(self) -> dict[str, Any]:
        """What the browser draws."""
        return {
            "type": "times",
            "label": self.label,
            "unit": self.unit,
            "kind": self.kind,
            "grain": self.grain,
            "isBars": self.is_bars,
            "times": [f"{each}" for each in self.times],
            "youngFrom": self.young_from and f"{self.young_from}",
            "panels": [
                {"name": display.plain(each.name), "values": list(map(_number, each.values))} for each in self.panels
            ],
        }

    @property
    def table(self) -> Table:
        """The same figures as a table."""
        columns = [
            Column("at", self.grain),
            *(Column(f"{place}", each.name or self.unit, self.kind) for place, each in enumerate(self.panels)),
        ]
        rows = [
            {
                "at": display.period(at, self.grain),
                **{f"{panel}": each.values[place] for panel, each in enumerate(self.panels)},
            }
            for place, at in enumerate(self.times)
        ]
        return Table(caption=f"Figures: {self.label}", columns=columns, rows=rows)


@dataclass(frozen=True, kw_only=True)
class Groups:
    """Figures of a few groups in their order: bars, the values of the series on top of each other."""

    label: str
    axis: str
    unit: str
    names: Sequence[str]
    series: Sequence[Panel]
    cut: str = ""
    is_wide: bool = False

    @property
    def data(self) -> dict[str, Any]:
        """What the browser draws."""
        return {
            "type": "groups",
            "label": self.label,
            "axis": self.axis,
            "unit": self.unit,
            "names": [display.plain(name) for name in self.names],
            "series": [{"name": each.name, "values": list(map(_number, each.values))} for each in self.series],
        }

    @property
    def table(self) -> Table:
        """The same figures as a table."""
        columns = [
            Column("name", self.axis),
            *(Column(f"{place}", each.name, "count") for place, each in enumerate(self.series)),
        ]
        rows = [
            {"name": name, **{f"{at}": each.values[place] for at, each in enumerate(self.series)}}
            for place, name in enumerate(self.names)
        ]
        return Table(caption=f"Figures: {self.label}", columns=columns, rows=rows)


@dataclass(frozen=True, kw_only=True)
class Ranges:
    """From one figure to a larger one for each name: two dots and the line between them."""

    label: str
    unit: str
    low: str
    high: str
    rows: Sequence[tuple[str, Figure, Figure]]
    cut: str = ""
    is_wide: bool = False
    table: None = None  # the figures are in the table of the section

    @property
    def data(self) -> dict[str, Any]:
        """What the browser draws."""
        return {
            "type": "ranges",
            "label": self.label,
            "unit": self.unit,
            "low": self.low,
            "high": self.high,
            "rows": [[display.plain(name), _number(low), _number(high)] for name, low, high in self.rows],
        }


Chart = Times | Groups | Ranges


@dataclass(frozen=True, kw_only=True)
class Section:
    """A part of the page. Without charts and tables it says `empty`."""

    title: str
    note: str
    charts: Sequence[Chart] = ()
    tables: Sequence[Table] = ()
    empty: str = "Nothing is known of this period."


def panels(rows: Sequence[Row], times: Sequence[dt.date], *, without: Figure = None) -> list[Panel]:
    """Return a panel for each name of rows (name, at, value), in their order; a time without a row has `without`."""
    values: dict[str, dict[dt.date, Figure]] = {}
    for row in rows:
        values.setdefault(row["name"], {})[row["at"]] = row["value"]
    return [Panel(name=name, values=[known.get(at, without) for at in times]) for name, known in values.items()]


def cut(rows: Sequence[Row], noun: str, order: str = "") -> str:
    """Say how many of all rows are shown: `12 of 61 carriers, those with most promises`."""
    if not rows:
        return ""
    count_all = rows[0]["count_all"]
    shown = len({row["name"] for row in rows}) if "name" in rows[0] else len(rows)
    if shown >= count_all:
        return f"All {count_all:,} {noun}." if count_all > 1 else ""
    return f"{shown:,} of {count_all:,} {noun}{order and ', '}{order}."


def _number(value: Figure | Decimal) -> float | None:
    return None if value is None else round(float(value), 6)


def _sorting(value: object) -> str:
    return "" if value is None else display.plain(str(value))
