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
    hub_stays,
    lane_exceptions,
    milestone_durations,
    parcel_days,
)
from tests.support.recomputed.exactly import Facts, Row
from tests.support.recomputed.fleet import vehicle_days, warehouse_departures, warehouse_hours
from tests.support.recomputed.lanes import lane_features
from tests.support.recomputed.quality import data_quality, shipment_batches, shipment_names, shipment_orphans
from tests.support.recomputed.risks import claim_months, lane_emissions, value_at_risk
from tests.support.recomputed.shipments import (
    carrier_performance,
    daily_shipments,
    lane_performance,
    lane_reliability,
    late_shipments,
    open_shipments,
    promised_days,
    undelivered_shipments,
)

AGGREGATES: dict[str, Callable[[Facts], list[Row]]] = {
    function.__name__: function
    for function in (
        carrier_performance,
        carrier_scorecard,
        claim_months,
        daily_exceptions,
        daily_movements,
        daily_shipments,
        data_quality,
        exception_quarters,
        hub_stays,
        lane_emissions,
        lane_exceptions,
        lane_features,
        lane_performance,
        lane_reliability,
        late_shipments,
        milestone_durations,
        open_shipments,
        promised_days,
        shipment_batches,
        shipment_names,
        shipment_orphans,
        undelivered_shipments,
        value_at_risk,
        vehicle_days,
        warehouse_departures,
        warehouse_hours,
    )
}


INDUSTRY: dict[str, Callable[[Facts], list[Row]]] = {"container_days": container_days, "parcel_days": parcel_days}
