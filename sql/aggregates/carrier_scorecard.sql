-- One row per month and carrier.
-- table: analytics.carrier_scorecard
-- bucket: month
-- fact logistics.shipments: (created_at at time zone 'UTC')::date
-- fact logistics.tracking_events: shipment_id -> logistics.shipments.shipment_id
-- newest: logistics.shipments.created_at
-- key: month, carrier
-- column month: first day of the month in which the shipments were created. Unit: day (UTC). Of: all shipments. Null: never. Adds up: no, it is a key.
-- column carrier: carrier; (none) where the shipment names none. Unit: text, mapped by analytics.name_spellings. Of: all shipments. Null: never. Adds up: no, it is a key.
-- column count_shipments: shipments. Unit: number. Of: shipments that are not cancelled. Null: never. Adds up: yes.
-- column count_cancelled: cancelled shipments, which no other column counts. Unit: number. Of: cancelled shipments. Null: never. Adds up: yes.
-- column count_delivered: delivered shipments, with or without a delivery time. Unit: number. Of: shipments that are not cancelled. Null: never. Adds up: yes.
-- column count_untimed: delivered shipments without a delivery time, which no share and no duration includes. Unit: number. Of: delivered shipments. Null: never. Adds up: yes.
-- column count_failed: returned or lost shipments, even if they have a delivery time. Unit: number. Of: shipments that are not cancelled. Null: never. Adds up: yes.
-- column count_open: shipments that are neither delivered nor returned nor lost: count_shipments - count_delivered - count_failed. Unit: number. Of: shipments that are not cancelled. Null: never. Adds up: yes.
-- column count_on_time: shipments delivered at or before the promised time. Unit: number. Of: delivered shipments with a delivery time and a promised time. Null: never. Adds up: yes.
-- column count_late: shipments delivered after the promised time. Unit: number. Of: delivered shipments with a delivery time and a promised time. Null: never. Adds up: yes.
-- column on_time_share: count_on_time / (count_on_time + count_late); too good while many shipments are open. Unit: 0 to 1, rounded to 4 places. Of: delivered shipments with a delivery time and a promised time. Null: both are 0. Adds up: no.
-- column count_first_on_time: shipments delivered at or before the first promised time. Unit: number. Of: delivered shipments with a delivery time and a first promised time. Null: never. Adds up: yes.
-- column count_first_late: shipments delivered after the first promised time. Unit: number. Of: delivered shipments with a delivery time and a first promised time. Null: never. Adds up: yes.
-- column first_on_time_share: count_first_on_time / (count_first_on_time + count_first_late): a promise that was moved counts as it was first. Unit: 0 to 1, rounded to 4 places. Of: delivered shipments with a delivery time and a first promised time. Null: both are 0. Adds up: no.
-- column sum_late_hours: hours from promise to delivery, added up, whoever caused the delay: not yet what a carrier owes. Unit: hours, each shipment rounded to 6 places. Of: late shipments. Null: never. Adds up: yes.
-- column avg_late_hours: sum_late_hours / count_late. Unit: hours, rounded to 3 places. Of: late shipments. Null: count_late is 0. Adds up: no.
-- column p50_late_hours: median of the late hours. Unit: hours, rounded to 3 places. Of: late shipments. Null: count_late is below 20. Adds up: no.
-- column p90_late_hours: late hours that 90 % do not exceed (interpolated). Unit: hours, rounded to 3 places. Of: late shipments. Null: count_late is below 20. Adds up: no.
-- column max_late_hours: hours of the latest shipment. Unit: hours, each shipment rounded to 6 places. Of: late shipments. Null: count_late is 0. Adds up: no, take the maximum.
-- column count_tracked: shipments with at least one tracking event. Unit: number. Of: shipments that are not cancelled. Null: never. Adds up: yes.
-- column tracked_share: count_tracked / count_shipments: the part of the shipments that the two rates below describe. Unit: 0 to 1, rounded to 4 places. Of: shipments that are not cancelled. Null: count_shipments is 0. Adds up: no.
-- column count_with_exception: shipments with an exception: an event with an exception code, or the event EXCEPTION. Unit: number. Of: tracked shipments. Null: never. Adds up: yes.
-- column exception_rate: count_with_exception / count_tracked. Unit: 0 to 1, rounded to 4 places. Of: tracked shipments. Null: count_tracked is 0. Adds up: no.
-- column count_exceptions: exceptions: different pairs of code (without case and outer blanks) and instant of a shipment. Unit: number. Of: tracked shipments. Null: never. Adds up: yes.
-- column count_damaged: shipments with the exception code DAMAGED, in any case. Unit: number. Of: tracked shipments. Null: never. Adds up: yes.
-- column damage_rate: count_damaged / count_tracked. Unit: 0 to 1, rounded to 4 places. Of: tracked shipments. Null: count_tracked is 0. Adds up: no.
-- column count_costed_weighed: shipments with a freight cost and a weight. Unit: number. Of: shipments that are not cancelled. Null: never. Adds up: yes.
-- column sum_costed_weight_kg: weight. Unit: kg, as in the data. Of: shipments of count_costed_weighed; 0 where there is none. Null: never. Adds up: yes.
-- column sum_costed_freight_cost: freight cost. Unit: currency of the books, as in the data. Of: shipments of count_costed_weighed; 0 where there is none. Null: never. Adds up: yes.
-- column cost_per_kg: sum_costed_freight_cost / sum_costed_weight_kg. Unit: currency per kg, rounded to 4 places. Of: shipments of count_costed_weighed. Null: that weight is 0. Adds up: no.
with created as (
    select
        date_trunc('month', created_at at time zone 'UTC')::date as month,
        carrier,
        shipment_id,
        case when end_state <> 'cancelled' then weight_kg end as weight_kg,
        case when end_state <> 'cancelled' then freight_cost end as freight_cost,
        end_state,
        picked_up_at,
        delivered_at,
        delivered_at <= promised_at as is_on_time,
        delivered_at <= first_promised_at as is_first_on_time,
        case when delivered_at > promised_at then analytics.hours_between(promised_at, delivered_at) end as late_hours
    -- OFFSET 0: each column is computed once for a shipment, and not once for each sum that reads it.
    from (
        select * from analytics.judged_shipments()
        where created_at >= :from_utc and created_at < :until_utc
        offset 0
    ) as shipments
    offset 0
),
-- Joined and not looked up one by one: the planner takes the index for a month and one pass over the events for all.
happened as (
    select shipment_id, count(occurred_at) as count_exceptions, bool_or(is_damaged) as is_damaged
    from (
        -- The events of a shipment that are no exceptions are one row.
        select
            shipment_id,
            case when is_exception then coalesce(code, '') end as code,
            case when is_exception then occurred_at end as occurred_at,
            coalesce(bool_or(code = 'DAMAGED'), false) as is_damaged
        from (
            select
                tracking_events.shipment_id,
                occurred_at,
                analytics.code_of(exception_code) as code,
                analytics.code_of(event_code) = 'EXCEPTION' or analytics.code_of(exception_code) <> '' as is_exception
            from logistics.tracking_events
            join logistics.shipments on shipments.shipment_id = tracking_events.shipment_id
            where created_at >= :from_utc and created_at < :until_utc
            offset 0
        ) as events
        group by 1, 2, 3
    ) as different
    group by shipment_id
),
tracked as (
    select
        created.*,
        count_exceptions,
        is_damaged,
        happened.shipment_id is not null as is_tracked
    from created
    left join happened on happened.shipment_id = created.shipment_id and created.end_state <> 'cancelled'
)
select
    month,
    carrier,
    count(*) filter (where end_state <> 'cancelled') as count_shipments,
    count(*) filter (where end_state = 'cancelled') as count_cancelled,
    count(*) filter (where end_state = 'delivered') as count_delivered,
    count(*) filter (where end_state = 'delivered' and delivered_at is null) as count_untimed,
    count(*) filter (where end_state in ('returned', 'lost')) as count_failed,
    count(*) filter (where end_state = 'open') as count_open,
    count(*) filter (where is_on_time) as count_on_time,
    count(*) filter (where not is_on_time) as count_late,
    round(count(*) filter (where is_on_time)::numeric / nullif(count(is_on_time), 0), 4) as on_time_share,
    count(*) filter (where is_first_on_time) as count_first_on_time,
    count(*) filter (where not is_first_on_time) as count_first_late,
    round(count(*) filter (where is_first_on_time)::numeric / nullif(count(is_first_on_time), 0), 4) as first_on_time_share,
    coalesce(sum(late_hours), 0) as sum_late_hours,
    round(avg(late_hours), 3) as avg_late_hours,
    round((case when count(late_hours) >= 20 then percentile_cont(0.5) within group (order by late_hours) end)::numeric, 3) as p50_late_hours,
    round((case when count(late_hours) >= 20 then percentile_cont(0.9) within group (order by late_hours) end)::numeric, 3) as p90_late_hours,
    max(late_hours) as max_late_hours,
    count(*) filter (where is_tracked) as count_tracked,
    round(
        count(*) filter (where is_tracked)::numeric / nullif(count(*) filter (where end_state <> 'cancelled'), 0), 4
    ) as tracked_share,
    count(*) filter (where count_exceptions > 0) as count_with_exception,
    round(
        count(*) filter (where count_exceptions > 0)::numeric / nullif(count(*) filter (where is_tracked), 0), 4
    ) as exception_rate,
    coalesce(sum(count_exceptions), 0)::bigint as count_exceptions,
    count(*) filter (where is_damaged) as count_damaged,
    round(count(*) filter (where is_damaged)::numeric / nullif(count(*) filter (where is_tracked), 0), 4) as damage_rate,
    count(*) filter (where freight_cost is not null and weight_kg is not null) as count_costed_weighed,
    coalesce(sum(weight_kg) filter (where freight_cost is not null), 0) as sum_costed_weight_kg,
    coalesce(sum(freight_cost) filter (where weight_kg is not null), 0) as sum_costed_freight_cost,
    round(
        sum(freight_cost) filter (where weight_kg is not null)
        / nullif(sum(weight_kg) filter (where freight_cost is not null), 0),
        4
    ) as cost_per_kg
from tracked
group by month, carrier
