-- One row per month and hub: how long shipments stay between their arrival and their departure there.
-- table: analytics.hub_stays
-- bucket: month
-- fact logistics.shipments: (created_at at time zone 'UTC')::date
-- fact logistics.tracking_events: shipment_id -> logistics.shipments.shipment_id
-- newest: logistics.shipments.created_at
-- key: month, hub
-- column month: first day of the month in which the shipments were created. Unit: day (UTC). Of: visits. Null: never. Adds up: no, it is a key.
-- column hub: code of the place where the events HUB_ARRIVED and HUB_DEPARTED happened; without a code, its city and country, such as Lyon, FR. Unit: text, city and country mapped by analytics.name_spellings. Of: visits. Null: never. Adds up: no, it is a key.
-- column count_visits: visits: a shipment with an arrival at the hub, a departure, or both; a shipment counts once at each hub. Unit: number. Of: shipments that are not cancelled. Null: never. Adds up: yes.
-- column count_not_departed: visits with an arrival and no departure: the shipment is still there, or its departure was not recorded. Unit: number. Of: visits. Null: never. Adds up: yes.
-- column count_waiting: those that may still be there, because the shipment is open. Unit: number. Of: visits of count_not_departed. Null: never. Adds up: yes.
-- column count_not_arrived: visits with a departure and no arrival. Unit: number. Of: visits. Null: never. Adds up: yes.
-- column count_out_of_order: visits with an arrival after the first departure: the shipment came back, or an instant is wrong. Unit: number. Of: visits. Null: never. Adds up: yes.
-- column count_stays: visits with a stay: all arrivals are before the first departure or at the same instant; repeated events count once. Unit: number. Of: visits. Null: never. Adds up: yes.
-- column count_stays_to_6_h: stays of 6 hours or less. Unit: number. Of: stays. Null: never. Adds up: yes.
-- column count_stays_to_24_h: stays of more than 6 hours and at most 24. Unit: number. Of: stays. Null: never. Adds up: yes.
-- column count_stays_to_72_h: stays of more than 24 hours and at most 72. Unit: number. Of: stays. Null: never. Adds up: yes.
-- column count_stays_over_72_h: stays of more than 72 hours. Unit: number. Of: stays. Null: never. Adds up: yes.
-- column sum_hours: hours from the first arrival to the first departure, added up. Unit: hours, each stay rounded to 6 places. Of: stays. Null: never. Adds up: yes.
-- column avg_hours: sum_hours / count_stays. Unit: hours, rounded to 3 places. Of: stays. Null: count_stays is 0. Adds up: no.
-- column p50_hours: median of the hours. Unit: hours, rounded to 3 places. Of: stays. Null: count_stays is below 20. Adds up: no.
-- column p90_hours: hours that 90 % do not exceed (interpolated). Unit: hours, rounded to 3 places. Of: stays. Null: count_stays is below 20. Adds up: no.
-- column max_hours: hours of the longest stay. Unit: hours, rounded to 6 places. Of: stays. Null: count_stays is 0. Adds up: no, take the maximum.
with visits as (
    select
        shipment_id,
        date_trunc('month', created_at at time zone 'UTC')::date as month,
        is_open,
        -- Most codes are their own key: the comparison of bytes spares them the search for blanks.
        case
            when location_code collate "C" between '0' and '~' then location_code
            when analytics.known(location_code) is not null then analytics.key_of(location_code)
            else analytics.key_of(coalesce(city.name, location_city)) || ', '
                || analytics.key_of(coalesce(country.name, location_country))
        end as hub,
        min(occurred_at) filter (where event = 'HUB_ARRIVED') as first_arrived_at,
        max(occurred_at) filter (where event = 'HUB_ARRIVED') as last_arrived_at,
        min(occurred_at) filter (where event = 'HUB_DEPARTED') as departed_at
    from (
        select shipment_id, occurred_at, analytics.code_of(event_code) as event, location_country, location_city, location_code
        from logistics.tracking_events
        where analytics.code_of(event_code) in ('HUB_ARRIVED', 'HUB_DEPARTED')
    ) as events
    join (
        select shipment_id, created_at, end_state = 'open' as is_open
        from analytics.judged_shipments()
        where created_at >= :from_utc and created_at < :until_utc and end_state <> 'cancelled'
    ) as shipments using (shipment_id)
    left join analytics.name_spellings as country
        on country.kind = 'country' and country.spelling = events.location_country
    left join analytics.name_spellings as city
        on city.kind = 'city' and city.spelling = events.location_city
    group by 1, 2, 3, 4
),
stays as (
    select
        visits.*,
        case when last_arrived_at <= departed_at then analytics.hours_between(first_arrived_at, departed_at) end as hours
    from visits
    offset 0
),
by_hub as (
    select
        month,
        hub,
        count(*) as count_visits,
        count(*) filter (where departed_at is null) as count_not_departed,
        count(*) filter (where departed_at is null and is_open) as count_waiting,
        count(*) filter (where last_arrived_at is null) as count_not_arrived,
        count(*) filter (where last_arrived_at > departed_at) as count_out_of_order,
        count(hours) as count_stays,
        count(*) filter (where hours <= 6) as count_stays_to_6_h,
        count(*) filter (where hours > 6 and hours <= 24) as count_stays_to_24_h,
        count(*) filter (where hours > 24 and hours <= 72) as count_stays_to_72_h,
        count(*) filter (where hours > 72) as count_stays_over_72_h,
        coalesce(sum(hours), 0) as sum_hours,
        round(avg(hours), 3) as avg_hours,
        case when count(hours) >= 20
            then percentile_cont(array[0.5, 0.9]) within group (order by hours)
        end as percentiles,
        max(hours) as max_hours
    from stays
    group by month, hub
)
select
    month,
    hub,
    count_visits,
    count_not_departed,
    count_waiting,
    count_not_arrived,
    count_out_of_order,
    count_stays,
    count_stays_to_6_h,
    count_stays_to_24_h,
    count_stays_to_72_h,
    count_stays_over_72_h,
    sum_hours,
    avg_hours,
    round(percentiles[1]::numeric, 3) as p50_hours,
    round(percentiles[2]::numeric, 3) as p90_hours,
    max_hours
from by_hub
