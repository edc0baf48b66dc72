"""The periods of a page: days, weeks and months by the last day with data. Pure."""

import datetime as dt
from dataclasses import dataclass

DAYS = 28  # four whole weeks, so that both periods have the same weekdays
WEEKS = 13
YOUNG_DAYS = 30
"""So many days after its end, most shipments of a month have arrived; before, its shares look too good."""


@dataclass(frozen=True, kw_only=True)
class Periods:
    """The days that a page compares. `last` is the last day that is over, `begin` the first one with data.

    A few shipments of which the days are long before `begin`, from `earliest` on, are `count_earlier`.
    """

    begin: dt.date
    last: dt.date
    count_earlier: int = 0
    earliest: dt.date | None = None

    @property
    def first(self) -> dt.date:
        """The first day of the period, which is shorter where the data begin later."""
        return max(self.begin, self.last - dt.timedelta(days=DAYS - 1))

    @property
    def length(self) -> int:
        """How many days the period has."""
        return (self.last - self.first).days + 1

    @property
    def first_before(self) -> dt.date:
        """The first day of the period before."""
        return self.last - dt.timedelta(days=2 * DAYS - 1)

    @property
    def last_before(self) -> dt.date:
        """The last day of the period before."""
        return self.first - dt.timedelta(days=1)

    @property
    def has_before(self) -> bool:
        """Whether there are data for all days of the period before."""
        return self.begin <= self.first_before

    @property
    def weeks(self) -> list[dt.date]:
        """The Mondays of the weeks up to the last day; without those before the first data."""
        newest = _monday(self.last)
        mondays = [newest - dt.timedelta(weeks=back) for back in reversed(range(WEEKS))]
        return [monday for monday in mondays if monday >= _monday(self.begin)]

    @property
    def unfinished_week(self) -> dt.date | None:
        """The Monday of the last week, if it is not over."""
        return None if self.last.weekday() == 6 else _monday(self.last)

    @property
    def days(self) -> list[dt.date]:
        """The days of the period."""
        return _days(self.first, self.last)

    @property
    def days_of_weeks(self) -> list[dt.date]:
        """The days of all weeks, without those before the first data."""
        return _days(max(self.weeks[0], self.begin), self.last)

    @property
    def month(self) -> dt.date:
        """The newest month that is over; where the data begin later, the newest month."""
        whole = month_of(self.last + dt.timedelta(days=1), -1)
        return whole if month_of(self.begin) <= whole else month_of(self.last)

    @property
    def months(self) -> list[dt.date]:
        """Thirteen months to `month`, and the one that is not over; without those before the first data."""
        found = [month_of(self.month, -back) for back in reversed(range(13))]
        if month_of(self.last) > self.month:
            found.append(month_of(self.last))
        return [month for month in found if month >= month_of(self.begin)]

    @property
    def unfinished_month(self) -> dt.date | None:
        """The month of the last day, if it is not over."""
        newest = month_of(self.last)
        return None if month_of(self.last + dt.timedelta(days=1)) > newest else newest

    @property
    def mature_month(self) -> dt.date:
        """The newest month whose shipments have mostly arrived; where the data begin later, the newest month."""
        mature = month_of(self.last - dt.timedelta(days=YOUNG_DAYS), -1)
        return mature if month_of(self.begin) <= mature else month_of(self.last)

    @property
    def is_young(self) -> bool:
        """Whether no month is old enough, so that shares look too good and transits too short."""
        return self.mature_month > month_of(self.last - dt.timedelta(days=YOUNG_DAYS), -1)

    @property
    def values(self) -> dict[str, dt.date]:
        """The days as parameters of queries."""
        return {
            "first": self.first,
            "last": self.last,
            "first_before": self.first_before,
            "monday": self.weeks[0],
            "month": self.month,
            "month_before": month_of(self.month, -1),
            "newest_month": month_of(self.last),
            "mature_month": self.mature_month,
        }


def month_of(day: dt.date, months: int = 0) -> dt.date:
    """Return the first day of the month so many months after that of a day."""
    year, month = divmod(day.year * 12 + day.month - 1 + months, 12)
    return dt.date(year, month + 1, 1)


def _monday(day: dt.date) -> dt.date:
    return day - dt.timedelta(days=day.weekday())


def _days(first: dt.date, last: dt.date) -> list[dt.date]:
    return [first + dt.timedelta(days=place) for place in range((last - first).days + 1)]
