-- One row per month, carrier and service level.
-- table: analytics.carrier_performance
-- bucket: month
-- fact logistics.shipments: (created_at at time zone 'UTC')::date
-- newest: logistics.shipments.created_at
-- key: month, carrier, service_level
-- column month: first day of the month (UTC) in which the shipments were created
-- column carrier: carrier; (none) where the shipment names none
-- column service_level: service level; (none) where the shipment names none
-- column count_shipments: shipments
-- column count_picked_up: shipments with a pick-up time
-- column count_delivered: shipments with a delivery time
-- column count_on_time: shipments delivered at or before the promised time
-- column count_late: shipments delivered after the promised time
-- column on_time_share: count_on_time / (count_on_time + count_late), 0 to 1; null where both are 0
-- column sum_late_hours: hours between promise and delivery of the late shipments, added up
-- column sum_weight_kg: weight in kilograms, where known
-- column sum_freight_cost: freight cost, where known
-- column sum_costed_weight_kg: weight in kilograms of the shipments that have both a weight and a cost
-- column sum_costed_freight_cost: freight cost of the shipments that have both a weight and a cost
-- column cost_per_kg: sum_costed_freight_cost / sum_costed_weight_kg; null where no shipment has both
-- column count_transits: shipments with a pick-up and a delivery time, which have transit hours
-- column sum_transit_hours: hours from pick-up to delivery, added up
-- column sum_squared_transit_hours: squares of the transit hours, added up (gives a deviation over rows)
-- column avg_transit_hours: mean transit hours
-- column stddev_transit_hours: sample standard deviation of the transit hours; null below two transits
-- column p50_transit_hours: median transit hours
-- column p90_transit_hours: transit hours that 90 % do not exceed (interpolated)
-- column p95_transit_hours: transit hours that 95 % do not exceed (interpolated)
with created as (
    select
        date_trunc('month', created_at at time zone 'UTC')::date as month,
        coalesce(carrier, '(none)') as carrier,
        coalesce(service_level, '(none)') as service_level,
        picked_up_at,
        delivered_at,
        weight_kg,
        freight_cost,
        delivered_at <= promised_at as is_on_time,
        case when delivered_at > promised_at
            then round(extract(epoch from delivered_at - promised_at) / 3600, 6)
        end as late_hours,
        -- Rounded in each shipment: sums of any grain then agree to the last digit.
        round(extract(epoch from delivered_at - picked_up_at) / 3600, 6) as transit_hours
    from logistics.shipments
    where created_at >= :from_utc and created_at < :until_utc
)
select
    month,
    carrier,
    service_level,
    count(*) as count_shipments,
    count(picked_up_at) as count_picked_up,
    count(delivered_at) as count_delivered,
    count(*) filter (where is_on_time) as count_on_time,
    count(*) filter (where not is_on_time) as count_late,
    round(count(*) filter (where is_on_time)::numeric / nullif(count(is_on_time), 0), 4) as on_time_share,
    coalesce(sum(late_hours), 0) as sum_late_hours,
    coalesce(sum(weight_kg), 0) as sum_weight_kg,
    coalesce(sum(freight_cost), 0) as sum_freight_cost,
    coalesce(sum(weight_kg) filter (where freight_cost is not null), 0) as sum_costed_weight_kg,
    coalesce(sum(freight_cost) filter (where weight_kg is not null), 0) as sum_costed_freight_cost,
    round(
        sum(freight_cost) filter (where weight_kg is not null)
        / nullif(sum(weight_kg) filter (where freight_cost is not null), 0),
        4
    ) as cost_per_kg,
    count(transit_hours) as count_transits,
    coalesce(sum(transit_hours), 0) as sum_transit_hours,
    coalesce(sum(transit_hours * transit_hours), 0) as sum_squared_transit_hours,
    round(avg(transit_hours), 3) as avg_transit_hours,
    round(stddev_samp(transit_hours), 3) as stddev_transit_hours,
    round(percentile_cont(0.5) within group (order by transit_hours)::numeric, 3) as p50_transit_hours,
    round(percentile_cont(0.9) within group (order by transit_hours)::numeric, 3) as p90_transit_hours,
    round(percentile_cont(0.95) within group (order by transit_hours)::numeric, 3) as p95_transit_hours
from created
group by month, carrier, service_level
