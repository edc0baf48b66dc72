"""The tiles of the page on all aggregates. Each has a statement of its own: a chart that is cut is never its base."""

from collections.abc import Callable
from typing import Any

from etl import queries
from etl.report.answers import Answers
from etl.report.display import Kind, change, shown
from etl.report.parts import Tile
from etl.report.periods import month_of

AGGREGATES = (
    "carrier_performance", "daily_exceptions", "daily_shipments", "data_quality", "late_shipments", "open_shipments",
    "promised_days", "vehicle_days", "warehouse_departures",
)  # fmt: skip
"""The aggregates that the tiles are read from."""

_SQL = queries.load("report")
_NO_EARLIER = "A state of now: no earlier one is kept."


def read(answers: Answers) -> list[Tile]:
    """Return the tiles in their order, without those of which nothing is known."""
    return [tile for each in _TILES if (tile := each(answers)) is not None]


def _shipments(answers: Answers) -> Tile:
    row = answers.one(_SQL["tile_shipments"])
    return Tile(
        label="Shipments",
        value=shown(row["now"], "count"),
        note="created in the period",
        before=_before(answers, row, "count"),
    )


def _promises(answers: Answers) -> Tile:
    row = answers.one(_SQL["tile_promises"])
    return Tile(
        label="Promises kept",
        value=shown(row["now"], "percent"),
        note=f"of {row['count_due']:,} promised in the period; open ones count as not kept",
        before=_before(answers, row, "percent"),
    )


def _late(answers: Answers) -> Tile:
    row = answers.one(_SQL["tile_late"])
    hours = f", {shown(row['mean_hours_late'], 'decimal')} hours late on average" if row["mean_hours_late"] else ""
    return Tile(
        label="Late now",
        value=shown(row["count_late"], "count"),
        note=f"of {row['count_open']:,} open{hours}",
        before=_NO_EARLIER,
        is_bad=row["count_late"] > 0,
    )


def _exceptions(answers: Answers) -> Tile | None:
    if "daily_exceptions" in answers.missing:
        return None
    row = answers.one(_SQL["tile_exceptions"])
    return Tile(
        label="Exceptions",
        value=shown(row["now"], "count"),
        note="happened in the period",
        before=_before(answers, row, "count"),
    )


def _cost(answers: Answers) -> Tile | None:
    row = answers.one(_SQL["tile_cost"])
    if row["now"] is None:
        return None
    month = answers.periods.month
    unfinished = ", which is not over" if month == answers.periods.unfinished_month else ""
    before = row["before"] and f"{shown(row['before'], 'money')} in {month_of(month, -1):%Y-%m}{_more(row)}"
    return Tile(
        label="Cost per kg",
        value=shown(row["now"], "money"),
        note=f"in the currency of the data, created in {month:%Y-%m}{unfinished}",
        before=before or "No month before.",
    )


def _departures(answers: Answers) -> Tile:
    row = answers.one(_SQL["tile_departures"])
    return Tile(
        label="Departures",
        value=shown(row["now"], "count"),
        note="shipments that left a warehouse in the period",
        before=_before(answers, row, "count"),
    )


def _load(answers: Answers) -> Tile | None:
    row = answers.one(_SQL["tile_load"])
    if row["now"] is None:
        return None
    return Tile(
        label="Load of vehicles",
        value=shown(row["now"], "percent"),
        note="of the capacity by distance, in the period",
        before=_before(answers, row, "percent"),
    )


def _rejected(answers: Answers) -> Tile:
    row = answers.one(_SQL["tile_rejected"])
    return Tile(
        label="Rejected records waiting",
        value=shown(row["count_pending"], "count"),
        note=f"of {row['count_records']:,} records of all loads; in no figure",
        before=_NO_EARLIER,
        is_bad=row["count_pending"] > 0,
    )


_TILES: tuple[Callable[[Answers], Tile | None], ...] = (
    _shipments,
    _promises,
    _late,
    _exceptions,
    _cost,
    _departures,
    _load,
    _rejected,
)


def _before(answers: Answers, row: dict[str, Any], kind: Kind) -> str:
    """Return the figure of the period before as text; of a share the difference is not named, as it has no unit."""
    if not answers.periods.has_before:
        return "No 28 days before are known."
    return f"{shown(row['before'], kind)} in the 28 days before{'' if kind == 'percent' else _more(row)}"


def _more(row: dict[str, Any]) -> str:
    difference = change(row["now"], row["before"])
    return difference and f": {difference}"
