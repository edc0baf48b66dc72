"""The aggregates as their comments describe them, computed in exact fractions by nothing but the facts.

Written from the comments of the columns and the guide for analysts, without a look at the queries.
"""

from collections.abc import Callable

from tests.support.recomputed.events import (
    carrier_scorecard,
    container_days,
    daily_exceptions,
    daily_movements,
    exception_quarters,
    milestone_durations,
    parcel_days,
)
from tests.support.recomputed.exactly import Facts, Row
from tests.support.recomputed.fleet import vehicle_days, warehouse_departures
from tests.support.recomputed.lanes import lane_features
from tests.support.recomputed.quality import data_quality
from tests.support.recomputed.shipments import (
    carrier_performance,
    daily_shipments,
    lane_performance,
    lane_reliability,
    open_shipments,
    promised_days,
)

AGGREGATES: dict[str, Callable[[Facts], list[Row]]] = {
    function.__name__: function
    for function in (
        carrier_performance,
        carrier_scorecard,
        daily_exceptions,
        daily_movements,
        daily_shipments,
        data_quality,
        exception_quarters,
        lane_features,
        lane_performance,
        lane_reliability,
        milestone_durations,
        open_shipments,
        promised_days,
        vehicle_days,
        warehouse_departures,
    )
}


INDUSTRY: dict[str, Callable[[Facts], list[Row]]] = {"container_days": container_days, "parcel_days": parcel_days}
