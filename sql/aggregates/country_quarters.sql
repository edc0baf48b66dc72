-- One row per quarter and pair of countries: the percentiles that single lanes and months are too small for.
-- table: analytics.country_quarters
-- bucket: quarter
-- fact logistics.shipments: (created_at at time zone 'UTC')::date
-- newest: logistics.shipments.created_at
-- key: quarter, origin_country, destination_country
-- column quarter: first day of the quarter in which the shipments were created. Unit: day (UTC). Of: all shipments. Null: never. Adds up: no, it is a key.
-- column origin_country: country of origin; (none) where the shipment names none. Unit: text, mapped by analytics.name_spellings. Of: all shipments. Null: never. Adds up: no, it is a key.
-- column destination_country: country of destination; (none) where the shipment names none. Unit: text, mapped by analytics.name_spellings. Of: all shipments. Null: never. Adds up: no, it is a key.
-- column count_shipments: shipments. Unit: number. Of: shipments that are not cancelled. Null: never. Adds up: yes.
-- column count_open: shipments that are neither delivered nor returned nor lost. Unit: number. Of: shipments that are not cancelled. Null: never. Adds up: yes.
-- column count_in_transit: open shipments with a pick-up time, whose transit hours are not known yet. Unit: number. Of: open shipments. Null: never. Adds up: yes.
-- column count_waited: shipments with waiting hours. Unit: number. Of: shipments with a pick-up time that is not before their creation. Null: never. Adds up: yes.
-- column p50_waiting_hours: median of the hours from creation to pick-up. Unit: hours, rounded to 3 places. Of: shipments with a pick-up time that is not before their creation. Null: count_waited is below 20. Adds up: no.
-- column p90_waiting_hours: hours from creation to pick-up that 90 % do not exceed (interpolated). Unit: hours, rounded to 3 places. Of: shipments with a pick-up time that is not before their creation. Null: count_waited is below 20. Adds up: no.
-- column count_transits: shipments with transit hours. Unit: number. Of: delivered shipments with a pick-up time and a delivery time that is not before it. Null: never. Adds up: yes.
-- column p10_transit_hours: transit hours that 10 % do not exceed (interpolated). Unit: hours, rounded to 3 places. Of: delivered shipments with a pick-up time and a delivery time that is not before it. Null: count_transits is below 20. Adds up: no.
-- column p50_transit_hours: median of the transit hours. Unit: hours, rounded to 3 places. Of: delivered shipments with a pick-up time and a delivery time that is not before it. Null: count_transits is below 20. Adds up: no.
-- column p90_transit_hours: transit hours that 90 % do not exceed (interpolated). Unit: hours, rounded to 3 places. Of: delivered shipments with a pick-up time and a delivery time that is not before it. Null: count_transits is below 20. Adds up: no.
-- column p95_transit_hours: transit hours that 95 % do not exceed (interpolated). Unit: hours, rounded to 3 places. Of: delivered shipments with a pick-up time and a delivery time that is not before it. Null: count_transits is below 20. Adds up: no.
-- column count_on_time: shipments delivered at or before the promised time. Unit: number. Of: delivered shipments with a delivery time and a promised time. Null: never. Adds up: yes.
-- column count_late: shipments delivered after the promised time. Unit: number. Of: delivered shipments with a delivery time and a promised time. Null: never. Adds up: yes.
-- column p50_delay_hours: median of the hours from promise to delivery; below 0: early. Unit: hours, rounded to 3 places. Of: delivered shipments with a delivery time and a promised time. Null: count_on_time + count_late is below 20. Adds up: no.
-- column p90_delay_hours: hours from promise to delivery that 90 % do not exceed (interpolated); below 0: early. Unit: hours, rounded to 3 places. Of: delivered shipments with a delivery time and a promised time. Null: count_on_time + count_late is below 20. Adds up: no.
-- column p95_delay_hours: hours from promise to delivery that 95 % do not exceed (interpolated); below 0: early. Unit: hours, rounded to 3 places. Of: delivered shipments with a delivery time and a promised time. Null: count_on_time + count_late is below 20. Adds up: no.
-- column p50_late_hours: median of the late hours. Unit: hours, rounded to 3 places. Of: late shipments. Null: count_late is below 20. Adds up: no.
-- column p90_late_hours: late hours that 90 % do not exceed (interpolated). Unit: hours, rounded to 3 places. Of: late shipments. Null: count_late is below 20. Adds up: no.
with created as (
    select
        date_trunc('quarter', created_at at time zone 'UTC')::date as quarter,
        origin_country,
        destination_country,
        end_state,
        picked_up_at,
        delivered_at <= promised_at as is_on_time,
        case when picked_up_at >= created_at then analytics.hours_between(created_at, picked_up_at) end as waiting_hours,
        case when delivered_at >= picked_up_at then analytics.hours_between(picked_up_at, delivered_at) end as transit_hours,
        analytics.hours_between(promised_at, delivered_at) as delay_hours
    -- OFFSET 0: each column is computed once for a shipment, and not once for each aggregate that reads it.
    from (
        select * from analytics.judged_shipments()
        where created_at >= :from_utc and created_at < :until_utc and end_state <> 'cancelled'
        offset 0
    ) as shipments
    offset 0
),
by_country as (
    select
        quarter,
        origin_country,
        destination_country,
        count(*) as count_shipments,
        count(*) filter (where end_state = 'open') as count_open,
        count(picked_up_at) filter (where end_state = 'open') as count_in_transit,
        count(waiting_hours) as count_waited,
        count(transit_hours) as count_transits,
        count(*) filter (where is_on_time) as count_on_time,
        count(*) filter (where not is_on_time) as count_late,
        case when count(waiting_hours) >= 20
            then percentile_cont(array[0.5, 0.9]) within group (order by waiting_hours)
        end as waits,
        case when count(transit_hours) >= 20
            then percentile_cont(array[0.1, 0.5, 0.9, 0.95]) within group (order by transit_hours)
        end as transits,
        case when count(delay_hours) >= 20
            then percentile_cont(array[0.5, 0.9, 0.95]) within group (order by delay_hours)
        end as delays,
        case when count(*) filter (where not is_on_time) >= 20
            then percentile_cont(array[0.5, 0.9]) within group (order by delay_hours) filter (where not is_on_time)
        end as late
    from created
    group by quarter, origin_country, destination_country
)
select
    quarter,
    origin_country,
    destination_country,
    count_shipments,
    count_open,
    count_in_transit,
    count_waited,
    round(waits[1]::numeric, 3) as p50_waiting_hours,
    round(waits[2]::numeric, 3) as p90_waiting_hours,
    count_transits,
    round(transits[1]::numeric, 3) as p10_transit_hours,
    round(transits[2]::numeric, 3) as p50_transit_hours,
    round(transits[3]::numeric, 3) as p90_transit_hours,
    round(transits[4]::numeric, 3) as p95_transit_hours,
    count_on_time,
    count_late,
    round(delays[1]::numeric, 3) as p50_delay_hours,
    round(delays[2]::numeric, 3) as p90_delay_hours,
    round(delays[3]::numeric, 3) as p95_delay_hours,
    round(late[1]::numeric, 3) as p50_late_hours,
    round(late[2]::numeric, 3) as p90_late_hours
from by_country
