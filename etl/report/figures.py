"""The figures of the report on all aggregates, as values. Knows the aggregates that it reads, and no format."""

import datetime as dt
from dataclasses import dataclass

import psycopg
from psycopg.rows import class_row

from etl import queries

_SQL = queries.load("report")

AGGREGATES = ("carrier_scorecard", "daily_shipments", "lane_reliability", "open_shipments")
"""The aggregates that the figures are read from."""


@dataclass(frozen=True, kw_only=True)
class Share:
    """The deliveries of a carrier with a promise, how many of these were on time, and its open shipments."""

    carrier: str
    count_on_time: int
    count_judged: int
    count_open: int

    @property
    def share(self) -> float:
        """The share on time, 0 to 1."""
        return self.count_on_time / self.count_judged


@dataclass(frozen=True, kw_only=True)
class Punctuality:
    """The deliveries of all carriers with a promise: on time and in all, by the last and by the first promise.

    `count_open` are the shipments of the same months that are still open; `count_carriers` have a judged delivery.
    """

    count_on_time: int
    count_judged: int
    count_first_on_time: int
    count_first_judged: int
    count_open: int
    count_carriers: int


@dataclass(frozen=True, kw_only=True)
class Lane:
    """A lane with its mean transit time, and its shipments that are still in transit."""

    origin: str
    destination: str
    count_transits: int
    avg_transit_hours: float
    count_in_transit: int


@dataclass(frozen=True, kw_only=True)
class Figures:
    """Shipments per day; shares and lanes of the twelve months to `month`; open shipments as of `open_as_of`.

    `punctuality` is of all carriers, and `count_lanes` are all lanes; `shares` and `lanes` are those that are drawn.
    """

    days: tuple[tuple[dt.date, int], ...]
    month: dt.date | None
    punctuality: Punctuality
    shares: tuple[Share, ...]
    lanes: tuple[Lane, ...]
    count_lanes: int
    count_open: int
    count_overdue: int
    open_as_of: dt.datetime | None


def read(connection: psycopg.Connection) -> Figures:
    """Read the figures; the connection is in a snapshot."""
    days = connection.execute(_SQL["volume_per_day"]).fetchall()
    (month,) = connection.execute(_SQL["newest_month"]).fetchone() or (None,)
    with connection.cursor(row_factory=class_row(Punctuality)) as cursor:
        punctuality = cursor.execute(_SQL["punctuality"], {"month": month}).fetchall()[0]
    shares = connection.execute(_SQL["on_time_by_carrier"], {"month": month}).fetchall()
    lanes = connection.execute(_SQL["slowest_lanes"], {"month": month}).fetchall()
    count_open, count_overdue, as_of = connection.execute(_SQL["open_now"]).fetchone() or (0, 0, None)
    return Figures(
        days=tuple((day, count) for day, count in days),
        month=month,
        punctuality=punctuality,
        shares=tuple(
            Share(carrier=carrier, count_on_time=on_time, count_judged=judged, count_open=still_open)
            for carrier, on_time, judged, still_open in shares
        ),
        lanes=tuple(
            Lane(
                origin=f"{origin} ({origin_country})",
                destination=f"{destination} ({destination_country})",
                count_transits=count,
                avg_transit_hours=float(hours),
                count_in_transit=in_transit,
            )
            for origin, origin_country, destination, destination_country, count, hours, in_transit, _ in lanes
        ),
        count_lanes=lanes[0][-1] if lanes else 0,
        count_open=count_open,
        count_overdue=count_overdue,
        open_as_of=as_of,
    )
