"""Answers to the questions of the page: rows of the aggregates in the periods of the page.

Knows the statements of `sql/queries/report.sql`, and no format.
"""

import datetime as dt
from collections.abc import Collection
from typing import Any

from psycopg import sql

from etl import queries
from etl.report import readers, state
from etl.report.parts import Row
from etl.report.periods import Periods, month_of
from etl.report.readers import Reader

MOST = 12
"""The most carriers, lanes, codes, warehouses or vehicles that a part of the page shows."""

_SQL = queries.load("report")


class Answers:
    """Reads rows in one snapshot. `missing` are the aggregates that were never computed."""

    def __init__(self, reader: Reader, periods: Periods, missing: Collection[str] = ()) -> None:
        self._reader = reader
        self.periods = periods
        self.missing = missing

    def rows(self, statement: sql.SQL, **values: Any) -> list[Row]:
        """Return the rows of a statement, whose parameters are the days of the periods and `values`."""
        return list(self._reader.rows(statement, {**self.periods.values, "most": MOST, **values}))

    def one(self, statement: sql.SQL) -> dict[str, Any]:
        """Return the only row of a statement."""
        return readers.one(self._reader, statement, {**self.periods.values, "most": MOST})

    @property
    def has_facts(self) -> bool:
        """Whether statements may read the tables of facts."""
        return self._reader.has_facts

    @property
    def period(self) -> str:
        """The days of the period, as text."""
        return f"{self.periods.first} to {self.periods.last}"

    @property
    def mature_months(self) -> str:
        """The three months whose shipments have mostly arrived, as text."""
        last = self.periods.mature_month
        return f"created in {month_of(last, -2):%Y-%m} to {last:%Y-%m}" + (
            ", which are young" if self.periods.is_young else ""
        )

    def unfinished(self, grain: str) -> str:
        """Say which week or month of a chart is marked because it is not over; empty where all are."""
        first = self.periods.unfinished_week if grain == "week" else self.periods.unfinished_month
        if first is None:
            return ""
        days = (self.periods.last - first).days + 1
        return f" The last {grain} is marked: it has {days} {'day' if days == 1 else 'days'} only."

    @staticmethod
    def instant(value: dt.datetime | str | None) -> str:
        """Return an instant as text."""
        return state.instant(value)


def read_periods(reader: Reader) -> Periods | None:
    """Return the periods of the page by its data; None before the first load."""
    row = readers.one(reader, _SQL["period"])
    if row["last_day"] is None:
        return None
    return Periods(
        begin=row["first_day"],
        last=row["last_day"],
        count_earlier=row["count_earlier"] or 0,
        earliest=row["earliest_day"],
    )


def read_loads(reader: Reader) -> dict[str, Any]:
    """Return the end of the newest load, and the newest event."""
    return readers.one(reader, _SQL["newest_loads"])
