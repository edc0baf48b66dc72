-- One row per quarter and lane (country and city of origin and destination) with a shipment that is not cancelled: what the lane is like, also scaled against the other lanes of the quarter.
-- table: analytics.lane_features
-- bucket: quarter
-- fact logistics.shipments: (created_at at time zone 'UTC')::date
-- newest: logistics.shipments.created_at
-- key: quarter, origin_country, origin_city, destination_country, destination_city
-- column quarter: first day of the quarter in which the shipments were created. Unit: day (UTC). Of: shipments that are not cancelled. Null: never. Adds up: no, it is a key.
-- column origin_country: country of origin; (none) where the shipment names none. Unit: text, mapped by analytics.name_spellings. Of: shipments that are not cancelled. Null: never. Adds up: no, it is a key.
-- column origin_city: city of origin; (none) where the shipment names none. Unit: text, mapped by analytics.name_spellings. Of: shipments that are not cancelled. Null: never. Adds up: no, it is a key.
-- column destination_country: country of destination; (none) where the shipment names none. Unit: text, mapped by analytics.name_spellings. Of: shipments that are not cancelled. Null: never. Adds up: no, it is a key.
-- column destination_city: city of destination; (none) where the shipment names none. Unit: text, mapped by analytics.name_spellings. Of: shipments that are not cancelled. Null: never. Adds up: no, it is a key.
-- column count_shipments: shipments: the volume of the lane. Unit: number. Of: shipments that are not cancelled. Null: never. Adds up: yes.
-- column count_open: shipments that are neither delivered nor returned nor lost; while they are many, transits are too short and shares too good. Unit: number. Of: shipments that are not cancelled. Null: never. Adds up: yes.
-- column count_first_month: shipments created in the first month of the quarter. Unit: number. Of: shipments that are not cancelled. Null: never. Adds up: yes.
-- column count_third_month: shipments created in the third month of the quarter. Unit: number. Of: shipments that are not cancelled. Null: never. Adds up: yes.
-- column season_lean: (count_third_month - count_first_month) / count_shipments: above 0 the volume rises within the quarter, below 0 it falls. Unit: -1 to 1, rounded to 4 places. Of: shipments that are not cancelled. Null: never. Adds up: no.
-- column count_promised: shipments with a promised time that is not before their creation. Unit: number. Of: shipments that are not cancelled. Null: never. Adds up: yes.
-- column sum_promised_hours: hours from creation to the promised time, added up. Unit: hours, each shipment rounded to 6 places. Of: shipments of count_promised; 0 where there is none. Null: never. Adds up: yes.
-- column avg_promised_hours: sum_promised_hours / count_promised: known before a shipment arrives. Unit: hours, rounded to 3 places. Of: shipments of count_promised. Null: count_promised is 0. Adds up: no.
-- column count_on_time: shipments delivered at or before the promised time. Unit: number. Of: delivered shipments with a delivery time and a promised time. Null: never. Adds up: yes.
-- column count_late: shipments delivered after the promised time. Unit: number. Of: delivered shipments with a delivery time and a promised time. Null: never. Adds up: yes.
-- column on_time_share: count_on_time / (count_on_time + count_late). Unit: 0 to 1, rounded to 4 places. Of: delivered shipments with a delivery time and a promised time. Null: both are 0. Adds up: no.
-- column count_costed_weighed: shipments with a freight cost and a weight. Unit: number. Of: shipments that are not cancelled. Null: never. Adds up: yes.
-- column sum_costed_weight_kg: weight. Unit: kg, as in the data. Of: shipments of count_costed_weighed; 0 where there is none. Null: never. Adds up: yes.
-- column sum_costed_freight_cost: freight cost. Unit: currency of the books, as in the data. Of: shipments of count_costed_weighed; 0 where there is none. Null: never. Adds up: yes.
-- column cost_per_kg: sum_costed_freight_cost / sum_costed_weight_kg. Unit: currency per kg, rounded to 4 places. Of: shipments of count_costed_weighed. Null: that weight is 0. Adds up: no.
-- column count_transits: shipments with transit hours; below 20 the lane has too little data for percentiles, and is near to no other lane. Unit: number. Of: delivered shipments with a pick-up time and a delivery time that is not before it. Null: never. Adds up: yes.
-- column p50_transit_hours: median of the transit hours. Unit: hours, rounded to 3 places. Of: delivered shipments with a pick-up time and a delivery time that is not before it. Null: count_transits is below 20. Adds up: no.
-- column p90_transit_hours: transit hours that 90 % do not exceed (interpolated). Unit: hours, rounded to 3 places. Of: delivered shipments with a pick-up time and a delivery time that is not before it. Null: count_transits is below 20. Adds up: no.
-- column scaled_transit_p50: p50_transit_hours, scaled: share of the other lanes of this quarter with such a value that have a lower one; 0 where there is no other. Unit: 0 to 1, rounded to 4 places. Of: lanes of the quarter with the value. Null: count_transits is below 20. Adds up: no.
-- column scaled_transit_p90: p90_transit_hours, scaled in the same way. Unit: 0 to 1, rounded to 4 places. Of: lanes of the quarter with the value. Null: count_transits is below 20. Adds up: no.
-- column scaled_on_time: on_time_share, scaled in the same way among lanes with at least 20 such deliveries, because a share of few is chance. Unit: 0 to 1, rounded to 4 places. Of: lanes of the quarter with count_on_time + count_late of 20 or more. Null: that sum is below 20. Adds up: no.
-- column scaled_cost: cost_per_kg, scaled in the same way. Unit: 0 to 1, rounded to 4 places. Of: lanes of the quarter with the value. Null: cost_per_kg is null. Adds up: no.
-- column scaled_promise: avg_promised_hours, scaled in the same way. Unit: 0 to 1, rounded to 4 places. Of: lanes of the quarter with the value. Null: count_promised is 0. Adds up: no.
-- column scaled_volume: count_shipments, scaled in the same way. Unit: 0 to 1, rounded to 4 places. Of: all lanes of the quarter. Null: never. Adds up: no.
-- column scaled_season: season_lean, scaled in the same way among lanes with at least 20 shipments. Unit: 0 to 1, rounded to 4 places. Of: lanes of the quarter with count_shipments of 20 or more. Null: count_shipments is below 20. Adds up: no.
with created as (
    select
        date_trunc('quarter', created_at at time zone 'UTC')::date as quarter,
        -- 0, 1 or 2: the month of the quarter.
        (extract(month from created_at at time zone 'UTC')::integer - 1) % 3 as month_place,
        origin_country,
        origin_city,
        destination_country,
        destination_city,
        end_state,
        delivered_at <= promised_at as is_on_time,
        weight_kg,
        freight_cost,
        case when promised_at >= created_at then analytics.hours_between(created_at, promised_at) end as promised_hours,
        case when delivered_at >= picked_up_at then analytics.hours_between(picked_up_at, delivered_at) end as transit_hours
    -- OFFSET 0: each column is computed once for a shipment, and not once for each sum that reads it.
    from (
        select * from analytics.judged_shipments()
        where created_at >= :from_utc and created_at < :until_utc
        offset 0
    ) as shipments
    where end_state <> 'cancelled'
    offset 0
),
by_lane as (
    select
        quarter,
        origin_country,
        origin_city,
        destination_country,
        destination_city,
        count(*) as count_shipments,
        count(*) filter (where end_state = 'open') as count_open,
        count(*) filter (where month_place = 0) as count_first_month,
        count(*) filter (where month_place = 2) as count_third_month,
        count(promised_hours) as count_promised,
        coalesce(sum(promised_hours), 0) as sum_promised_hours,
        round(avg(promised_hours), 3) as avg_promised_hours,
        count(*) filter (where is_on_time) as count_on_time,
        count(*) filter (where not is_on_time) as count_late,
        count(*) filter (where freight_cost is not null and weight_kg is not null) as count_costed_weighed,
        coalesce(sum(weight_kg) filter (where freight_cost is not null), 0) as sum_costed_weight_kg,
        coalesce(sum(freight_cost) filter (where weight_kg is not null), 0) as sum_costed_freight_cost,
        count(transit_hours) as count_transits,
        case when count(transit_hours) >= 20
            then percentile_cont(array[0.5, 0.9]) within group (order by transit_hours)
        end as transits
    from created
    group by quarter, origin_country, origin_city, destination_country, destination_city
),
measured as (
    select
        *,
        round((count_third_month - count_first_month)::numeric / count_shipments, 4) as season_lean,
        round(count_on_time::numeric / nullif(count_on_time + count_late, 0), 4) as on_time_share,
        round(sum_costed_freight_cost / nullif(sum_costed_weight_kg, 0), 4) as cost_per_kg,
        round(transits[1]::numeric, 3) as p50_transit_hours,
        round(transits[2]::numeric, 3) as p90_transit_hours
    from by_lane
),
-- What is compared: a share of few is chance.
compared as (
    select
        *,
        case when count_on_time + count_late >= 20 then on_time_share end as judged_share,
        case when count_shipments >= 20 then season_lean end as judged_lean
    from measured
),
-- Lanes with a value come first in the order, so that their rank is among themselves.
ranked as (
    select
        *,
        rank() over (partition by quarter order by p50_transit_hours nulls last) - 1 as below_p50,
        rank() over (partition by quarter order by p90_transit_hours nulls last) - 1 as below_p90,
        rank() over (partition by quarter order by judged_share nulls last) - 1 as below_share,
        rank() over (partition by quarter order by cost_per_kg nulls last) - 1 as below_cost,
        rank() over (partition by quarter order by avg_promised_hours nulls last) - 1 as below_promise,
        rank() over (partition by quarter order by count_shipments) - 1 as below_volume,
        rank() over (partition by quarter order by judged_lean nulls last) - 1 as below_lean,
        greatest(count(p50_transit_hours) over lanes - 1, 1)::numeric as others_with_transits,
        greatest(count(judged_share) over lanes - 1, 1)::numeric as others_with_share,
        greatest(count(cost_per_kg) over lanes - 1, 1)::numeric as others_with_cost,
        greatest(count(avg_promised_hours) over lanes - 1, 1)::numeric as others_with_promise,
        greatest(count(*) over lanes - 1, 1)::numeric as others,
        greatest(count(judged_lean) over lanes - 1, 1)::numeric as others_with_lean
    from compared
    window lanes as (partition by quarter)
)
select
    quarter,
    origin_country,
    origin_city,
    destination_country,
    destination_city,
    count_shipments,
    count_open,
    count_first_month,
    count_third_month,
    season_lean,
    count_promised,
    sum_promised_hours,
    avg_promised_hours,
    count_on_time,
    count_late,
    on_time_share,
    count_costed_weighed,
    sum_costed_weight_kg,
    sum_costed_freight_cost,
    cost_per_kg,
    count_transits,
    p50_transit_hours,
    p90_transit_hours,
    case when p50_transit_hours is not null then round(below_p50 / others_with_transits, 4) end as scaled_transit_p50,
    case when p90_transit_hours is not null then round(below_p90 / others_with_transits, 4) end as scaled_transit_p90,
    case when judged_share is not null then round(below_share / others_with_share, 4) end as scaled_on_time,
    case when cost_per_kg is not null then round(below_cost / others_with_cost, 4) end as scaled_cost,
    case when avg_promised_hours is not null then round(below_promise / others_with_promise, 4) end as scaled_promise,
    round(below_volume / others, 4) as scaled_volume,
    case when judged_lean is not null then round(below_lean / others_with_lean, 4) end as scaled_season
from ranked
