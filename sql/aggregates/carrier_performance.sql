-- One row per month, carrier and service level.
-- table: analytics.carrier_performance
-- bucket: month
-- fact logistics.shipments: (created_at at time zone 'UTC')::date
-- newest: logistics.shipments.created_at
-- key: month, carrier, service_level
-- column month: first day of the month in which the shipments were created. Unit: day (UTC). Of: all shipments. Null: never. Adds up: no, it is a key.
-- column carrier: carrier; (none) where the shipment names none. Unit: text, mapped by analytics.name_spellings. Of: all shipments. Null: never. Adds up: no, it is a key.
-- column service_level: service level; (none) where the shipment names none. Unit: text, mapped by analytics.name_spellings. Of: all shipments. Null: never. Adds up: no, it is a key.
-- column count_shipments: shipments. Unit: number. Of: shipments that are not cancelled. Null: never. Adds up: yes.
-- column count_cancelled: cancelled shipments, which no other column counts. Unit: number. Of: cancelled shipments. Null: never. Adds up: yes.
-- column count_picked_up: shipments with a pick-up time. Unit: number. Of: shipments that are not cancelled. Null: never. Adds up: yes.
-- column count_delivered: delivered shipments, with or without a delivery time. Unit: number. Of: shipments that are not cancelled. Null: never. Adds up: yes.
-- column count_untimed: delivered shipments without a delivery time, which no share and no duration includes. Unit: number. Of: delivered shipments. Null: never. Adds up: yes.
-- column count_failed: returned or lost shipments, even if they have a delivery time. Unit: number. Of: shipments that are not cancelled. Null: never. Adds up: yes.
-- column count_open: shipments that are neither delivered nor returned nor lost: count_shipments - count_delivered - count_failed. Unit: number. Of: shipments that are not cancelled. Null: never. Adds up: yes.
-- column count_in_transit: open shipments with a pick-up time, whose transit hours are not known yet. Unit: number. Of: open shipments. Null: never. Adds up: yes.
-- column count_on_time: shipments delivered at or before the promised time. Unit: number. Of: delivered shipments with a delivery time and a promised time. Null: never. Adds up: yes.
-- column count_late: shipments delivered after the promised time. Unit: number. Of: delivered shipments with a delivery time and a promised time. Null: never. Adds up: yes.
-- column on_time_share: count_on_time / (count_on_time + count_late); too good while many shipments are open. Unit: 0 to 1, rounded to 4 places. Of: delivered shipments with a delivery time and a promised time. Null: both are 0. Adds up: no.
-- column count_first_on_time: shipments delivered at or before the first promised time. Unit: number. Of: delivered shipments with a delivery time and a first promised time. Null: never. Adds up: yes.
-- column count_first_late: shipments delivered after the first promised time. Unit: number. Of: delivered shipments with a delivery time and a first promised time. Null: never. Adds up: yes.
-- column first_on_time_share: count_first_on_time / (count_first_on_time + count_first_late): a promise that was moved counts as it was first. Unit: 0 to 1, rounded to 4 places. Of: delivered shipments with a delivery time and a first promised time. Null: both are 0. Adds up: no.
-- column sum_late_hours: hours from promise to delivery, added up, whoever caused the delay. Unit: hours, each shipment rounded to 6 places. Of: late shipments. Null: never. Adds up: yes.
-- column count_weighed: shipments with a weight. Unit: number. Of: shipments that are not cancelled. Null: never. Adds up: yes.
-- column sum_weight_kg: weight. Unit: kg, as in the data. Of: shipments of count_weighed; 0 where there is none. Null: never. Adds up: yes.
-- column count_costed: shipments with a freight cost. Unit: number. Of: shipments that are not cancelled. Null: never. Adds up: yes.
-- column sum_freight_cost: freight cost. Unit: currency of the books, as in the data. Of: shipments of count_costed; 0 where there is none. Null: never. Adds up: yes.
-- column count_costed_weighed: shipments with a freight cost and a weight. Unit: number. Of: shipments that are not cancelled. Null: never. Adds up: yes.
-- column sum_costed_weight_kg: weight. Unit: kg, as in the data. Of: shipments of count_costed_weighed; 0 where there is none. Null: never. Adds up: yes.
-- column sum_costed_freight_cost: freight cost. Unit: currency of the books, as in the data. Of: shipments of count_costed_weighed; 0 where there is none. Null: never. Adds up: yes.
-- column cost_per_kg: sum_costed_freight_cost / sum_costed_weight_kg. Unit: currency per kg, rounded to 4 places. Of: shipments of count_costed_weighed. Null: that weight is 0. Adds up: no.
-- column count_transits: shipments with transit hours. Unit: number. Of: delivered shipments with a pick-up time and a delivery time that is not before it. Null: never. Adds up: yes.
-- column count_out_of_order: shipments delivered before their pick-up, which have no transit hours. Unit: number. Of: delivered shipments with a pick-up time and a delivery time. Null: never. Adds up: yes.
-- column sum_transit_hours: hours from pick-up to delivery, added up. Unit: hours, each shipment rounded to 6 places. Of: delivered shipments with a pick-up time and a delivery time that is not before it. Null: never. Adds up: yes.
-- column sum_squared_transit_hours: squares of the transit hours, added up, from which a deviation over several rows follows. Unit: hours squared, 12 places. Of: delivered shipments with a pick-up time and a delivery time that is not before it. Null: never. Adds up: yes.
-- column avg_transit_hours: sum_transit_hours / count_transits. Unit: hours, rounded to 3 places. Of: delivered shipments with a pick-up time and a delivery time that is not before it. Null: count_transits is 0. Adds up: no.
-- column stddev_transit_hours: sample standard deviation of the transit hours. Unit: hours, rounded to 3 places. Of: delivered shipments with a pick-up time and a delivery time that is not before it. Null: count_transits is below 2. Adds up: no.
-- column p50_transit_hours: median of the transit hours. Unit: hours, rounded to 3 places. Of: delivered shipments with a pick-up time and a delivery time that is not before it. Null: count_transits is below 20. Adds up: no.
-- column p90_transit_hours: transit hours that 90 % do not exceed (interpolated). Unit: hours, rounded to 3 places. Of: delivered shipments with a pick-up time and a delivery time that is not before it. Null: count_transits is below 20. Adds up: no.
-- column p95_transit_hours: transit hours that 95 % do not exceed (interpolated). Unit: hours, rounded to 3 places. Of: delivered shipments with a pick-up time and a delivery time that is not before it. Null: count_transits is below 20. Adds up: no.
with created as (
    select
        date_trunc('month', created_at at time zone 'UTC')::date as month,
        carrier,
        service_level,
        case when end_state <> 'cancelled' then weight_kg end as weight_kg,
        case when end_state <> 'cancelled' then freight_cost end as freight_cost,
        end_state,
        picked_up_at,
        delivered_at,
        delivered_at <= promised_at as is_on_time,
        delivered_at <= first_promised_at as is_first_on_time,
        case when delivered_at > promised_at then analytics.hours_between(promised_at, delivered_at) end as late_hours,
        case when delivered_at >= picked_up_at then analytics.hours_between(picked_up_at, delivered_at) end as transit_hours
    -- OFFSET 0: each column is computed once for a shipment, and not once for each sum that reads it.
    from (
        select * from analytics.judged_shipments()
        where created_at >= :from_utc and created_at < :until_utc
        offset 0
    ) as shipments
    offset 0
)
select
    month,
    carrier,
    service_level,
    count(*) filter (where end_state <> 'cancelled') as count_shipments,
    count(*) filter (where end_state = 'cancelled') as count_cancelled,
    count(picked_up_at) filter (where end_state <> 'cancelled') as count_picked_up,
    count(*) filter (where end_state = 'delivered') as count_delivered,
    count(*) filter (where end_state = 'delivered' and delivered_at is null) as count_untimed,
    count(*) filter (where end_state in ('returned', 'lost')) as count_failed,
    count(*) filter (where end_state = 'open') as count_open,
    count(picked_up_at) filter (where end_state = 'open') as count_in_transit,
    count(*) filter (where is_on_time) as count_on_time,
    count(*) filter (where not is_on_time) as count_late,
    round(count(*) filter (where is_on_time)::numeric / nullif(count(is_on_time), 0), 4) as on_time_share,
    count(*) filter (where is_first_on_time) as count_first_on_time,
    count(*) filter (where not is_first_on_time) as count_first_late,
    round(count(*) filter (where is_first_on_time)::numeric / nullif(count(is_first_on_time), 0), 4) as first_on_time_share,
    coalesce(sum(late_hours), 0) as sum_late_hours,
    count(weight_kg) as count_weighed,
    coalesce(sum(weight_kg), 0) as sum_weight_kg,
    count(freight_cost) as count_costed,
    coalesce(sum(freight_cost), 0) as sum_freight_cost,
    count(*) filter (where freight_cost is not null and weight_kg is not null) as count_costed_weighed,
    coalesce(sum(weight_kg) filter (where freight_cost is not null), 0) as sum_costed_weight_kg,
    coalesce(sum(freight_cost) filter (where weight_kg is not null), 0) as sum_costed_freight_cost,
    round(
        sum(freight_cost) filter (where weight_kg is not null)
        / nullif(sum(weight_kg) filter (where freight_cost is not null), 0),
        4
    ) as cost_per_kg,
    count(transit_hours) as count_transits,
    count(*) filter (where delivered_at < picked_up_at) as count_out_of_order,
    coalesce(sum(transit_hours), 0) as sum_transit_hours,
    coalesce(sum(transit_hours * transit_hours), 0) as sum_squared_transit_hours,
    round(avg(transit_hours), 3) as avg_transit_hours,
    round(stddev_samp(transit_hours), 3) as stddev_transit_hours,
    round((case when count(transit_hours) >= 20 then percentile_cont(0.5) within group (order by transit_hours) end)::numeric, 3) as p50_transit_hours,
    round((case when count(transit_hours) >= 20 then percentile_cont(0.9) within group (order by transit_hours) end)::numeric, 3) as p90_transit_hours,
    round((case when count(transit_hours) >= 20 then percentile_cont(0.95) within group (order by transit_hours) end)::numeric, 3) as p95_transit_hours
from created
group by month, carrier, service_level
