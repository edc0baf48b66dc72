"""The sections of the page on all aggregates, in their order: each is one function, named in SECTIONS.

To add one: its statements in `sql/queries/report.sql`, the columns of its tables in `columns`, a function that returns
a Section, and a line in SECTIONS. Charts, tables, notes and their looks need nothing more. A chart that is cut to some
names says to how many of all.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from etl import queries
from etl.report import columns
from etl.report.answers import Answers
from etl.report.parts import Column, Groups, Panel, Ranges, Section, Table, Times, cut, panels
from etl.report.periods import month_of

_SQL = queries.load("report")


@dataclass(frozen=True, kw_only=True)
class Topic:
    """A section that can be read, and the aggregates that it is read from."""

    aggregates: tuple[str, ...]
    read: Callable[[Answers], Section]


def _promises(answers: Answers) -> Section:
    weeks, young = answers.periods.weeks, answers.periods.unfinished_week
    most = "those with most promises"
    by_week = answers.rows(_SQL["promises_by_week_and_carrier"])
    carriers = answers.rows(_SQL["promises_by_carrier"])
    charts = _all_and_each(
        Times(
            label="Promises kept, all carriers",
            unit="promises kept",
            kind="percent",
            grain="week",
            times=weeks,
            panels=panels(answers.rows(_SQL["promises_by_week"]), weeks),
            young_from=young,
        ),
        label="Promises kept by carrier",
        panels=panels(by_week, weeks),
        cut=cut(by_week, "carriers", most),
    )
    caption = f"Promises of {answers.period} by carrier"
    table = Table(
        caption=caption,
        columns=_of_period(answers, columns.PROMISES),
        rows=carriers,
        cut=cut(carriers, "carriers", most),
    )
    return Section(
        title="Promises kept",
        note="By week of the last promised time, from Monday (UTC). Open, returned and lost shipments count as not"
        f" kept, so the newest weeks do not look too good.{answers.unfinished('week')}",
        charts=charts if by_week else (),
        tables=[table] if carriers else (),
        empty="No shipment of these weeks has a promised time.",
    )


def _open(answers: Answers) -> Section:
    ages, carriers = answers.rows(_SQL["open_by_age"]), answers.rows(_SQL["open_by_carrier"])
    chart = Groups(
        label="Open shipments by age",
        axis="days since creation",
        unit="shipments",
        names=[row["age_bucket"] for row in ages],
        series=[
            Panel(name="late", values=[row["count_late"] for row in ages]),
            Panel(name="in time", values=[row["count_in_time"] for row in ages]),
        ],
    )
    late = answers.rows(_SQL["latest_shipments"])
    limit = cut(carriers, "carriers", "those with most hours late")
    tables = (
        Table(caption="Open shipments by carrier", columns=columns.OPEN, rows=carriers, cut=limit),
        Table(
            caption="Late now",
            columns=columns.LATE,
            rows=late,
            cut=cut(late, "late shipments", "the latest ones"),
            is_wide=True,
        ),
    )
    now = answers.one(_SQL["tile_late"])
    note = f"At the newest event of the shipments, {answers.instant(now['as_of'])}."
    if now["count_wrong"]:
        note += (
            f" Of {now['count_wrong']:,} late, the promise is more than 90 days before the creation: no hours count."
        )
    return Section(
        title="Open and late now",
        note=note,
        charts=[chart] if ages else (),
        tables=[table for table in tables if table.rows],
        empty="No shipment is open.",
    )


def _by_high(row: tuple[str, Any, Any]) -> Any:
    return -row[2]


def _lanes(answers: Answers) -> Section:
    first, last = answers.one(_SQL["lane_months"])["first_month"], answers.periods.mature_month
    # A fact is read only where so few shipments are on a lane that no month has percentiles. An export may have none.
    first = first if answers.has_facts else last
    lanes = answers.rows(_SQL["lanes_of_a_month"]) if first == last else answers.rows(_SQL["lanes"], first_month=first)
    first = max(first, month_of(answers.periods.begin))
    span = f"Shipments created in {first:%Y-%m}" + (f" to {last:%Y-%m}" if first < last else "")
    limit = cut(lanes, "lanes with twenty transits", "those with most late deliveries")
    chart = Ranges(
        label="Transit by lane",
        unit="hours from pick-up to delivery",
        low="median",
        high="90 % within",
        rows=sorted(((row["lane"], row["p50_hours"], row["p90_hours"]) for row in lanes), key=_by_high),
        cut=limit,
    )
    young = "these months are young: their slow shipments are still on the way, so hours look too short"
    mature = "later months are left out, because their slow shipments are still on the way"
    return Section(
        title="Lanes",
        note=f"{span}; {young if answers.periods.is_young else mature}.",
        charts=[chart] if lanes else (),
        tables=[Table(caption="Hours by lane", columns=columns.LANES, rows=lanes, cut=limit)] if lanes else (),
        empty=f"{span}: no lane has twenty transits, and of fewer there are no percentiles.",
    )


def _hubs(answers: Answers) -> Section:
    hubs, month = answers.rows(_SQL["hubs"]), answers.periods.mature_month
    limit = cut(hubs, "hubs with twenty stays", "those with most stays")
    chart = Ranges(
        label="Stay by hub",
        unit="hours from arrival to departure",
        low="median",
        high="90 % within",
        rows=sorted(((row["hub"], row["p50_hours"], row["p90_hours"]) for row in hubs), key=_by_high),
        cut=limit,
    )
    return Section(
        title="Hubs",
        note=f"Stays of shipments created in {month:%Y-%m}{', which is young' if answers.periods.is_young else ''}.",
        charts=[chart] if hubs else (),
        tables=[Table(caption="Hours by hub", columns=columns.HUBS, rows=hubs, cut=limit)] if hubs else (),
        empty=f"No hub has twenty stays of shipments created in {month:%Y-%m}, and of fewer there are no percentiles.",
    )


def _exceptions(answers: Answers) -> Section:
    weeks, most = answers.periods.weeks, "the most frequent ones"
    by_week, codes = answers.rows(_SQL["exceptions_by_week"]), answers.rows(_SQL["exceptions_by_code"])
    chart = Times(
        label="Exceptions by code",
        unit="exceptions",
        kind="count",
        grain="week",
        times=weeks,
        panels=panels(by_week, weeks, without=0),
        is_bars=True,
        young_from=answers.periods.unfinished_week,
        cut=cut(by_week, "codes", most),
    )
    by_code = Table(
        caption=f"Exceptions of {answers.period} by code",
        columns=_of_period(answers, columns.CODES),
        rows=codes,
        cut=cut(codes, "codes", most),
    )
    return Section(
        title="Exceptions",
        note=f"By week of the exception, from Monday (UTC).{answers.unfinished('week')}",
        charts=[chart] if by_week else (),
        tables=[table for table in (by_code, *_exceptions_of_carriers(answers, most)) if table.rows],
        empty="No exception in these weeks.",
    )


def _exceptions_of_carriers(answers: Answers, most: str) -> tuple[Table, Table]:
    """Return the exceptions by carrier, and by carrier and code."""
    carriers = answers.rows(_SQL["exceptions_by_carrier"])
    pairs = answers.rows(_SQL["exceptions_by_carrier_and_code"])
    by_pair = Table(
        caption=f"Exceptions by carrier and code, of shipments {answers.mature_months}",
        columns=columns.PAIRS,
        rows=pairs,
        cut=cut(pairs, "pairs of carrier and code", most),
    )
    by_carrier = Table(
        caption=f"Shipments with an exception by carrier, {answers.mature_months}",
        columns=columns.EXCEPTIONS,
        rows=carriers,
        cut=cut(carriers, "carriers", "those with most exceptions"),
    )
    return by_carrier, by_pair


def _cost(answers: Answers) -> Section:
    months, young = answers.periods.months, answers.periods.unfinished_month
    by_service = answers.rows(_SQL["cost_by_month_and_service"])
    carriers = answers.rows(_SQL["cost_by_carrier"])
    charts = _all_and_each(
        Times(
            label="Cost per kg, all shipments",
            unit="cost per kg",
            kind="money",
            grain="month",
            times=months,
            panels=panels(answers.rows(_SQL["cost_by_month"]), months),
            young_from=young,
        ),
        label="Cost per kg by service level",
        panels=panels(by_service, months),
        cut=cut(by_service, "service levels", "the heaviest ones"),
    )
    caption = f"Cost per kg by carrier, {answers.periods.month:%Y-%m}"
    table = Table(
        caption=caption, columns=columns.COST, rows=carriers, cut=cut(carriers, "carriers", "those with most weight")
    )
    return Section(
        title="Cost per kg",
        note="In the currency of the data, by month of creation (UTC), of shipments with a freight cost and a weight."
        f"{answers.unfinished('month')}",
        charts=charts if by_service else (),
        tables=[table] if carriers else (),
        empty="No shipment of these months has a freight cost and a weight.",
    )


def _volume(answers: Answers) -> Section:
    days, by_day = answers.periods.days_of_weeks, answers.rows(_SQL["volume_by_day"])
    chart = Times(
        label="Shipments created per day",
        unit="shipments",
        kind="count",
        grain="day",
        times=days,
        panels=panels(by_day, days, without=0),
        is_bars=True,
    )
    return Section(
        title="Shipments per day",
        note="By day of creation (UTC), without cancelled shipments; Saturdays and Sundays (UTC) are paler.",
        charts=[chart] if by_day else (),
        empty="No shipment was created in these weeks.",
    )


def _warehouses(answers: Answers) -> Section:
    days, most = answers.periods.days, "those with most departures"
    by_day = answers.rows(_SQL["departures_by_day_and_warehouse"])
    warehouses = answers.rows(_SQL["departures_by_warehouse"])
    charts = _all_and_each(
        Times(
            label="Departures, all warehouses",
            unit="shipments",
            kind="count",
            grain="day",
            times=days,
            panels=panels(answers.rows(_SQL["departures_by_day"]), days, without=0),
            is_bars=True,
        ),
        label="Departures by warehouse",
        panels=panels(by_day, days, without=0),
        cut=cut(by_day, "warehouses", most),
    )
    caption = f"Departures of {answers.period} by warehouse"
    table = Table(
        caption=caption,
        columns=_of_period(answers, columns.WAREHOUSES),
        rows=warehouses,
        cut=cut(warehouses, "warehouses", most),
    )
    return Section(
        title="Warehouses",
        note=f"Shipments that left, {answers.period}, by day of the warehouse; Saturdays and Sundays are paler.",
        charts=charts if by_day else (),
        tables=[table] if warehouses else (),
        empty="No shipment left a warehouse in this period.",
    )


def _vehicles(answers: Answers) -> Section:
    weeks, young = answers.periods.weeks, answers.periods.unfinished_week
    fuel, load = panels(answers.rows(_SQL["fuel_by_week"]), weeks), panels(answers.rows(_SQL["load_by_week"]), weeks)
    vehicles = answers.rows(_SQL["vehicles"])
    charts = [
        Times(
            label="Fuel, all vehicles",
            unit="litres per 100 km",
            kind="decimal",
            grain="week",
            times=weeks,
            panels=fuel,
            young_from=young,
        ),
        Times(
            label="Load by distance, all vehicles",
            unit="part of the capacity",
            kind="percent",
            grain="week",
            times=weeks,
            panels=load,
            young_from=young,
        ),
    ]
    limit = cut(vehicles, "vehicles", "those with most kilometres")
    table = Table(caption=f"Trips of {answers.period} by vehicle", columns=columns.VEHICLES, rows=vehicles, cut=limit)
    return Section(
        title="Vehicles",
        note=f"By week of the day that the source names, from Monday.{answers.unfinished('week')}",
        charts=[chart for chart in charts if chart.is_known],
        tables=[table] if vehicles else (),
        empty="No trip in these weeks.",
    )


def _of_period(answers: Answers, known: Sequence[Column]) -> Sequence[Column]:
    return known if answers.periods.has_before else columns.without_before(known)


def _all_and_each(of_all: Times, **each: Any) -> list[Times]:
    """Return a chart of all and one of each name; where there is one name only, both would be the same."""
    return [of_all, replace(of_all, **each)] if len(each["panels"]) > 1 else [of_all]


SECTIONS = (
    Topic(aggregates=("promised_days",), read=_promises),
    Topic(aggregates=("open_shipments", "late_shipments"), read=_open),
    Topic(aggregates=("lane_reliability",), read=_lanes),
    Topic(aggregates=("hub_stays",), read=_hubs),
    Topic(aggregates=("daily_exceptions", "carrier_scorecard", "lane_exceptions"), read=_exceptions),
    Topic(aggregates=("carrier_performance",), read=_cost),
    Topic(aggregates=("daily_shipments",), read=_volume),
    Topic(aggregates=("warehouse_departures",), read=_warehouses),
    Topic(aggregates=("vehicle_days",), read=_vehicles),
)
