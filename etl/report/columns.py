"""The columns of the tables of sections.

Each is: its name in the answer, its head, its kind, and what it means where that is not plain.
"""

from collections.abc import Sequence

from etl.report.parts import Column

_BEFORE = "The same in the 28 days before."

PROMISES = (
    Column("carrier", "carrier"),
    Column("kept", "kept", "percent", "Delivered at or before the last promised time."),
    Column("kept_before", "kept before", "percent", _BEFORE),
    Column("count_due", "promised", "count", "Promised for these days, and not cancelled."),
    Column("count_late", "late", "count", "Delivered after the last promised time."),
    Column("count_open", "still open", "count", "Neither delivered nor returned nor lost."),
    Column("count_failed", "returned or lost", "count"),
)

OPEN = (
    Column("carrier", "carrier"),
    Column("count_late", "late", "count", "The last promised time has passed."),
    Column("mean_hours_late", "mean hours late", "decimal", "Of the late shipments."),
    Column("hours_late", "hours late in all", "count", "Added up over the late shipments."),
    Column("late_share", "late share", "percent", "Late of open shipments."),
    Column("count_open", "open", "count"),
    Column(
        "count_late_old",
        "late, 91+ days old",
        "count",
        "Created more than 91 days ago: perhaps closed, and never reported.",
    ),
)

LATE = (
    Column("shipment_id", "shipment"),
    Column("late_hours", "hours late", "decimal", "From the last promised time to the newest event."),
    Column("carrier", "carrier"),
    Column("promised", "promised (UTC)"),
    Column("lane", "lane"),
    Column("status", "status", "text", "As the data have it."),
)

LANES = (
    Column("lane", "lane"),
    Column("p50_hours", "median hours", "decimal", "Half of the transits take longer."),
    Column("p90_hours", "90 % within hours", "decimal", "A tenth of the transits takes longer."),
    Column("count_transits", "transits", "count", "With a pick-up and a delivery time."),
    Column("count_late", "late deliveries", "count"),
    Column("late_share", "late share", "percent", "Of the deliveries with a promised time."),
)

HUBS = (
    Column("hub", "hub"),
    Column("p50_hours", "median hours", "decimal", "Half of the stays are longer."),
    Column("p90_hours", "90 % within hours", "decimal", "A tenth of the stays is longer."),
    Column("count_stays", "stays", "count", "With an arrival and a departure."),
    Column("count_waiting", "not departed", "count", "Arrived, without a departure, of shipments that are open."),
)

CODES = (
    Column("exception_code", "code"),
    Column("count_exceptions", "exceptions", "count"),
    Column("count_before", "before", "count", _BEFORE),
    Column("mean_hours_to_record", "mean hours to record", "decimal", "From the exception to its recording."),
)

EXCEPTIONS = (
    Column("carrier", "carrier"),
    Column("count_with_exception", "with an exception", "count"),
    Column("exception_share", "share", "percent", "Of the tracked shipments."),
    Column("count_damaged", "damaged", "count", "With the code DAMAGED."),
    Column("count_tracked", "tracked", "count", "Shipments with at least one tracking event."),
)

PAIRS = (
    Column("carrier", "carrier"),
    Column("exception_code", "code"),
    Column("count_exceptions", "exceptions", "count"),
)

COST = (
    Column("carrier", "carrier"),
    Column("cost_per_kg", "cost per kg", "money", "In the currency of the data."),
    Column("cost_per_kg_before", "month before", "money"),
    Column("cost", "freight cost", "count", "Of the shipments with a cost and a weight."),
    Column("weight_t", "weight,\N{NO-BREAK SPACE}t", "decimal", "Of the same shipments, in tonnes."),
)

WAREHOUSES = (
    Column("warehouse", "warehouse"),
    Column("count_departed", "departed", "count", "Shipments picked up in these days."),
    Column("count_before", "before", "count", _BEFORE),
    Column("weight_t", "weight,\N{NO-BREAK SPACE}t", "decimal", "Of the departed shipments with a weight, in tonnes."),
    Column(
        "count_booked_waiting",
        "not on the day",
        "count",
        "Booked in these days, and not picked up on the day of the booking.",
    ),
    Column("mean_hours_waiting", "mean hours waiting", "decimal", "From booking to pick-up."),
)

VEHICLES = (
    Column("vehicle_id", "vehicle"),
    Column("distance_km", "distance,\N{NO-BREAK SPACE}km", "count"),
    Column("count_trips", "trips", "count"),
    Column("fuel_l_per_100_km", "litres per 100 km", "decimal"),
    Column("load_share", "load", "percent", "Weight times distance, of capacity times distance; see the guide."),
    Column("weight_t", "weight,\N{NO-BREAK SPACE}t", "decimal", "Of the carried shipments with a weight, in tonnes."),
)


def without_before(columns: Sequence[Column]) -> Sequence[Column]:
    """Return the columns that are not of the 28 days before, for data that begin later: 0 would be read as none."""
    return [each for each in columns if each.title != _BEFORE]
