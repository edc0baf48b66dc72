-- One row per month and carrier.
-- table: analytics.carrier_scorecard
-- bucket: month
-- fact logistics.shipments: (created_at at time zone 'UTC')::date
-- fact logistics.tracking_events: shipment_id -> logistics.shipments.shipment_id
-- newest: logistics.shipments.created_at
-- key: month, carrier
-- column month: first day of the month (UTC) in which the shipments were created
-- column carrier: carrier; (none) where the shipment names none
-- column count_shipments: shipments
-- column count_delivered: shipments with a delivery time
-- column count_on_time: shipments delivered at or before the promised time
-- column count_late: shipments delivered after the promised time
-- column on_time_share: count_on_time / (count_on_time + count_late), 0 to 1; null where both are 0
-- column sum_late_hours: hours between promise and delivery of the late shipments, added up: the basis of claims
-- column avg_late_hours: mean of these hours over the late shipments
-- column p50_late_hours: median of these hours
-- column p90_late_hours: hours that 90 % of the late shipments do not exceed (interpolated)
-- column max_late_hours: hours of the latest shipment
-- column count_tracked: shipments with at least one tracking event
-- column count_with_exception: tracked shipments with an exception: an exception code, or the event EXCEPTION
-- column exception_rate: count_with_exception / count_tracked, 0 to 1; null where none is tracked
-- column count_exceptions: exceptions of these shipments; an exception that was sent twice counts once
-- column count_damaged: tracked shipments with the exception code DAMAGED
-- column damage_rate: count_damaged / count_tracked, 0 to 1; null where none is tracked
-- column sum_costed_weight_kg: weight in kilograms of the shipments that have both a weight and a cost
-- column sum_costed_freight_cost: freight cost of the shipments that have both a weight and a cost
-- column cost_per_kg: sum_costed_freight_cost / sum_costed_weight_kg; null where no shipment has both
with created as (
    select
        shipment_id,
        date_trunc('month', created_at at time zone 'UTC')::date as month,
        coalesce(carrier, '(none)') as carrier,
        delivered_at,
        weight_kg,
        freight_cost,
        delivered_at <= promised_at as is_on_time,
        case when delivered_at > promised_at
            then round(extract(epoch from delivered_at - promised_at) / 3600, 6)
        end as late_hours
    from logistics.shipments
    where created_at >= :from_utc and created_at < :until_utc
),
-- Looked up for each shipment, so that a month reads its own events and not those of all years.
tracked as (
    select
        created.*,
        happened.*
    from created
    cross join lateral (
        select
            count(*) > 0 as is_tracked,
            count(distinct (coalesce(exception_code, ''), occurred_at)) filter (
                where event_code = 'EXCEPTION' or exception_code is not null
            ) as count_exceptions,
            coalesce(bool_or(exception_code = 'DAMAGED'), false) as is_damaged
        from logistics.tracking_events
        where tracking_events.shipment_id = created.shipment_id
    ) as happened
)
select
    month,
    carrier,
    count(*) as count_shipments,
    count(delivered_at) as count_delivered,
    count(*) filter (where is_on_time) as count_on_time,
    count(*) filter (where not is_on_time) as count_late,
    round(count(*) filter (where is_on_time)::numeric / nullif(count(is_on_time), 0), 4) as on_time_share,
    coalesce(sum(late_hours), 0) as sum_late_hours,
    round(avg(late_hours), 3) as avg_late_hours,
    round(percentile_cont(0.5) within group (order by late_hours)::numeric, 3) as p50_late_hours,
    round(percentile_cont(0.9) within group (order by late_hours)::numeric, 3) as p90_late_hours,
    round(max(late_hours), 3) as max_late_hours,
    count(*) filter (where is_tracked) as count_tracked,
    count(*) filter (where count_exceptions > 0) as count_with_exception,
    round(
        count(*) filter (where count_exceptions > 0)::numeric / nullif(count(*) filter (where is_tracked), 0), 4
    ) as exception_rate,
    coalesce(sum(count_exceptions), 0)::bigint as count_exceptions,
    count(*) filter (where is_damaged) as count_damaged,
    round(count(*) filter (where is_damaged)::numeric / nullif(count(*) filter (where is_tracked), 0), 4) as damage_rate,
    coalesce(sum(weight_kg) filter (where freight_cost is not null), 0) as sum_costed_weight_kg,
    coalesce(sum(freight_cost) filter (where weight_kg is not null), 0) as sum_costed_freight_cost,
    round(
        sum(freight_cost) filter (where weight_kg is not null)
        / nullif(sum(weight_kg) filter (where freight_cost is not null), 0),
        4
    ) as cost_per_kg
from tracked
group by month, carrier
