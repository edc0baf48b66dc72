-- name: period
-- Return the first and the last day with data, and the newest event; a last day that is not over is left out. So are a few shipments long before all others: their dates are wrong, and they would make the data look old.
with by_day as (
    -- A chart begins with the year 2.
    select
        day,
        sum(count_shipments) as count_shipments,
        day - lag(day) over (order by day) as count_days_since,
        sum(sum(count_shipments)) over (order by day) - sum(count_shipments) as count_before,
        sum(sum(count_shipments)) over () as count_all
    from analytics.daily_shipments
    where day between date '0002-01-01' and (now() at time zone 'UTC')::date
    group by day
),
begun as (
    select coalesce(
        max(day) filter (
            where (count_days_since > 28 and count_before * 100 <= count_all)
                or (count_days_since > 366 and count_before * 2 < count_all)
        ),
        min(day)
    ) as first_day
    from by_day
),
newest as (
    select
        max(begun.first_day) as first_day,
        max(by_day.day) as day,
        coalesce(sum(by_day.count_shipments) filter (where by_day.day < begun.first_day), 0)::bigint as count_earlier,
        min(by_day.day) filter (where by_day.day < begun.first_day) as earliest_day
    from by_day
    cross join begun
),
events as (
    select max(newest_event_at) at time zone 'UTC' as newest_at
    from analytics.freshness
    where newest_event_at between timestamptz '0002-01-01 00:00:00+00' and now()
),
days as (
    select
        coalesce(newest.first_day, events.newest_at::date) as first_day,
        coalesce(newest.day, events.newest_at::date) as day,
        newest.count_earlier,
        newest.earliest_day,
        events.newest_at
    from newest
    cross join events
)
select
    first_day,
    -- Data without times of day are all of 00:00. A day with events after 23:00 is taken for whole.
    case
        when day > first_day and newest_at::date = day and newest_at::time > time '00:00' and newest_at::time < time '23:00'
            then day - 1
        else day
    end as last_day,
    count_earlier,
    earliest_day,
    newest_at
from days;

-- name: newest_loads
-- Return the end of the newest load and the newest event, as the server writes what Python's calendar lacks.
select
    max(facts_through) as loaded_through,
    greatest(
        max(newest_event_at) filter (where newest_event_at <= now()),
        -- Also of the deliveries and updates, which no aggregate has as its newest event.
        (select max(as_of) from analytics.open_shipments)
    ) as newest_event_at
from analytics.freshness;

-- name: tile_shipments
-- Count the created shipments of the period and of the period before.
select
    coalesce(sum(count_shipments) filter (where day >= %(first)s), 0)::bigint as now,
    coalesce(sum(count_shipments) filter (where day < %(first)s), 0)::bigint as before
from analytics.daily_shipments
where day between %(first_before)s and %(last)s;

-- name: tile_promises
-- Return the share of kept promises of the period and of the period before, and how many were due.
select
    coalesce(sum(count_due) filter (where day >= %(first)s), 0)::bigint as count_due,
    sum(count_on_time) filter (where day >= %(first)s)
        / nullif(sum(count_due - count_untimed) filter (where day >= %(first)s), 0) as now,
    sum(count_on_time) filter (where day < %(first)s)
        / nullif(sum(count_due - count_untimed) filter (where day < %(first)s), 0) as before
from analytics.promised_days
where day between %(first_before)s and %(last)s;

-- name: tile_late
-- Count the open shipments and those of them that are late, with their hours. A promise of a wrong year has no hours, or one record would be the mean of all.
select
    coalesce(sum(count_shipments), 0)::bigint as count_open,
    coalesce(sum(count_shipments) filter (where is_overdue), 0)::bigint as count_late,
    (
        select avg(late_hours) from analytics.late_shipments where promised_at >= created_at - interval '90 days'
    ) as mean_hours_late,
    (
        select count(*) from analytics.late_shipments where promised_at < created_at - interval '90 days'
    ) as count_wrong,
    max(as_of) as as_of
from analytics.open_shipments;

-- name: tile_exceptions
-- Count the exceptions of the period and of the period before.
select
    coalesce(sum(count_exceptions) filter (where day >= %(first)s), 0)::bigint as now,
    coalesce(sum(count_exceptions) filter (where day < %(first)s), 0)::bigint as before
from analytics.daily_exceptions
where day between %(first_before)s and %(last)s;

-- name: tile_cost
-- Return the cost per kg of the newest whole month and of the month before.
select
    sum(sum_costed_freight_cost) filter (where month = %(month)s)
        / nullif(sum(sum_costed_weight_kg) filter (where month = %(month)s), 0) as now,
    sum(sum_costed_freight_cost) filter (where month < %(month)s)
        / nullif(sum(sum_costed_weight_kg) filter (where month < %(month)s), 0) as before
from analytics.carrier_performance
where month between %(month_before)s and %(month)s;

-- name: tile_departures
-- Count the shipments that left a warehouse in the period and in the period before.
select
    coalesce(sum(count_departed) filter (where local_day >= %(first)s), 0)::bigint as now,
    coalesce(sum(count_departed) filter (where local_day < %(first)s), 0)::bigint as before
from analytics.warehouse_departures
where local_day between %(first_before)s and %(last)s;

-- name: tile_load
-- Return the load by distance of the vehicles in the period and in the period before.
select
    sum(sum_tonne_km) filter (where source_day >= %(first)s)
        / nullif(sum(sum_capacity_tonne_km) filter (where source_day >= %(first)s), 0) as now,
    sum(sum_tonne_km) filter (where source_day < %(first)s)
        / nullif(sum(sum_capacity_tonne_km) filter (where source_day < %(first)s), 0) as before
from analytics.vehicle_days
where source_day between %(first_before)s and %(last)s;

-- name: tile_rejected
-- Count the records of all loads, and the rejected ones that wait in the failed store.
select
    coalesce(sum(count_records), 0)::bigint as count_records,
    coalesce(sum(count_pending), 0)::bigint as count_pending
from analytics.data_quality;

-- name: promises_by_week
-- Return the share of kept promises of each week of the promise, of all carriers.
select
    '' as name,
    date_trunc('week', day)::date as "at",
    sum(count_on_time) / nullif(sum(count_due - count_untimed), 0) as value
from analytics.promised_days
where day between %(monday)s and %(last)s
group by "at";

-- name: promises_by_week_and_carrier
-- Return the share of kept promises of each week of the promise, of each of the carriers with most promises.
with largest as (
    select carrier, sum(count_due) as count_due, count(*) over () as count_all
    from analytics.promised_days
    where day between %(monday)s and %(last)s
    group by carrier
    order by count_due desc, carrier
    limit %(most)s
)
select
    carrier as name,
    date_trunc('week', day)::date as "at",
    sum(promised_days.count_on_time) / nullif(sum(promised_days.count_due - promised_days.count_untimed), 0) as value,
    largest.count_all
from analytics.promised_days
join largest using (carrier)
where day between %(monday)s and %(last)s
group by carrier, "at", largest.count_due, largest.count_all
order by largest.count_due desc, carrier;

-- name: promises_by_carrier
-- Return the promises of the carriers with most of them, in the period and in the period before.
select
    carrier,
    sum(count_due) filter (where day >= %(first)s)::bigint as count_due,
    sum(count_on_time) filter (where day >= %(first)s)
        / nullif(sum(count_due - count_untimed) filter (where day >= %(first)s), 0) as kept,
    sum(count_on_time) filter (where day < %(first)s)
        / nullif(sum(count_due - count_untimed) filter (where day < %(first)s), 0) as kept_before,
    sum(count_late) filter (where day >= %(first)s)::bigint as count_late,
    sum(count_open) filter (where day >= %(first)s)::bigint as count_open,
    sum(count_failed) filter (where day >= %(first)s)::bigint as count_failed,
    count(*) over () as count_all
from analytics.promised_days
where day between %(first_before)s and %(last)s
group by carrier
having sum(count_due) filter (where day >= %(first)s) > 0
order by count_due desc, carrier
limit %(most)s;

-- name: volume_by_day
-- Count the created shipments of each day of thirteen weeks.
select '' as name, day as "at", sum(count_shipments)::bigint as value
from analytics.daily_shipments
where day between %(monday)s and %(last)s
group by day;

-- name: open_by_age
-- Count the open shipments of each age, those in time and the late ones.
select
    age_bucket,
    coalesce(sum(count_shipments) filter (where not is_overdue), 0)::bigint as count_in_time,
    coalesce(sum(count_shipments) filter (where is_overdue), 0)::bigint as count_late
from analytics.open_shipments
group by age_bucket
order by max(oldest_created_at) desc;

-- name: open_by_carrier
-- Return the open shipments of the carriers with most hours of delay, without those of promises of a wrong year.
with late as (
    select carrier, sum(late_hours) as hours_late, avg(late_hours) as mean_hours_late
    from analytics.late_shipments
    where promised_at >= created_at - interval '90 days'
    group by carrier
)
select
    carrier,
    sum(count_shipments)::bigint as count_open,
    coalesce(sum(count_shipments) filter (where is_overdue), 0)::bigint as count_late,
    coalesce(sum(count_shipments) filter (where is_overdue), 0) / nullif(sum(count_shipments), 0) as late_share,
    late.mean_hours_late,
    coalesce(late.hours_late, 0) as hours_late,
    coalesce(sum(count_shipments) filter (where is_overdue and age_bucket = '91+'), 0)::bigint as count_late_old,
    count(*) over () as count_all
from analytics.open_shipments
left join late using (carrier)
group by carrier, late.mean_hours_late, late.hours_late
order by hours_late desc, carrier
limit %(most)s;

-- name: latest_shipments
-- Return the open shipments whose promise is past for the longest time; those with a promise of a wrong year come last.
select
    shipment_id,
    carrier,
    late_hours,
    to_char(promised_at at time zone 'UTC', 'YYYY-MM-DD HH24:MI') as promised,
    concat(origin_city, ' (', origin_country, ') → ', destination_city, ' (', destination_country, ')') as lane,
    status,
    count(*) over () as count_all
from analytics.late_shipments
order by promised_at < created_at - interval '90 days', late_hours desc, shipment_id
limit %(most)s;

-- name: lane_months
-- Return the first month of the lanes: of the last one, three or twelve months, the fewest in which enough lanes have 20 transits.
with transits as (
    select
        sum(count_transits) filter (where month = %(mature_month)s) as in_one,
        sum(count_transits) filter (where month >= %(mature_month)s::date - interval '2 months') as in_three
    from analytics.lane_reliability
    where month between %(mature_month)s::date - interval '11 months' and %(mature_month)s
    group by origin_country, origin_city, destination_country, destination_city
)
select (
    %(mature_month)s::date - case
        when count(*) filter (where in_one >= 20) >= %(most)s then interval '0 months'
        when count(*) filter (where in_three >= 20) >= %(most)s then interval '2 months'
        else interval '11 months'
    end
)::date as first_month
from transits;

-- name: lanes_of_a_month
-- Return the lanes with most late deliveries in one month, whose percentiles the aggregate has.
select
    concat(origin_city, ' (', origin_country, ') → ', destination_city, ' (', destination_country, ')') as lane,
    count_transits,
    p50_transit_hours as p50_hours,
    p90_transit_hours as p90_hours,
    count_late,
    count_late::numeric / nullif(count_on_time + count_late, 0) as late_share,
    count(*) over () as count_all
from analytics.lane_reliability
where month = %(mature_month)s and count_transits >= 20
order by count_late desc, count_transits desc, lane
limit %(most)s;

-- name: lanes
-- Return the lanes with most late deliveries in several months; percentiles do not add up, so these are of the facts.
with late as (
    select
        origin_country,
        origin_city,
        destination_country,
        destination_city,
        sum(count_late) as count_late,
        sum(count_late) / nullif(sum(count_on_time + count_late), 0) as late_share,
        count(*) over () as count_all
    from analytics.lane_reliability
    where month between %(first_month)s and %(mature_month)s
    group by origin_country, origin_city, destination_country, destination_city
    having sum(count_transits) >= 20
    order by count_late desc, sum(count_transits) desc, origin_country, origin_city, destination_country, destination_city
    limit %(most)s
),
transits as (
    select
        origin_country,
        origin_city,
        destination_country,
        destination_city,
        analytics.hours_between(picked_up_at, delivered_at) as hours
    from analytics.judged_shipments()
    where created_at >= %(first_month)s::timestamp at time zone 'UTC'
        and created_at < (%(mature_month)s::timestamp + interval '1 month') at time zone 'UTC'
        and end_state = 'delivered'
        and delivered_at >= picked_up_at
)
select
    concat(origin_city, ' (', origin_country, ') → ', destination_city, ' (', destination_country, ')') as lane,
    count(*) as count_transits,
    percentile_cont(0.5) within group (order by hours) as p50_hours,
    percentile_cont(0.9) within group (order by hours) as p90_hours,
    late.count_late::bigint as count_late,
    late.late_share,
    late.count_all
from late
join transits using (origin_country, origin_city, destination_country, destination_city)
group by origin_country, origin_city, destination_country, destination_city, late.count_late, late.late_share, late.count_all
order by count_late desc, count_transits desc, lane;

-- name: hubs
-- Return the stays at the hubs with most of them in the newest month that is old enough.
select
    hub,
    p50_hours,
    p90_hours,
    count_stays,
    count_waiting,
    count(*) over () as count_all
from analytics.hub_stays
where month = %(mature_month)s and count_stays >= 20
order by count_stays desc, hub
limit %(most)s;

-- name: exceptions_by_week
-- Count the exceptions of each week, of each of the most frequent codes.
with frequent as (
    select exception_code, sum(count_exceptions) as count_exceptions, count(*) over () as count_all
    from analytics.daily_exceptions
    where day between %(monday)s and %(last)s
    group by exception_code
    order by count_exceptions desc, exception_code
    limit %(most)s
)
select
    exception_code as name,
    date_trunc('week', day)::date as "at",
    sum(daily_exceptions.count_exceptions)::bigint as value,
    frequent.count_all
from analytics.daily_exceptions
join frequent using (exception_code)
where day between %(monday)s and %(last)s
group by exception_code, "at", frequent.count_exceptions, frequent.count_all
order by frequent.count_exceptions desc, exception_code;

-- name: exceptions_by_code
-- Count the exceptions of the most frequent codes, in the period and in the period before.
select
    exception_code,
    coalesce(sum(count_exceptions) filter (where day >= %(first)s), 0)::bigint as count_exceptions,
    coalesce(sum(count_exceptions) filter (where day < %(first)s), 0)::bigint as count_before,
    sum(sum_recording_hours) filter (where day >= %(first)s)
        / nullif(sum(count_recorded) filter (where day >= %(first)s), 0) as mean_hours_to_record,
    count(*) over () as count_all
from analytics.daily_exceptions
where day between %(first_before)s and %(last)s
group by exception_code
order by count_exceptions desc, count_before desc, exception_code
limit %(most)s;

-- name: exceptions_by_carrier
-- Return how many tracked shipments of each carrier had an exception, of the carriers with most of them.
select
    carrier,
    sum(count_tracked)::bigint as count_tracked,
    sum(count_with_exception)::bigint as count_with_exception,
    sum(count_with_exception) / nullif(sum(count_tracked), 0) as exception_share,
    sum(count_damaged)::bigint as count_damaged,
    count(*) over () as count_all
from analytics.carrier_scorecard
where month between %(mature_month)s::date - interval '2 months' and %(mature_month)s
group by carrier
having sum(count_tracked) > 0
order by count_with_exception desc, carrier
limit %(most)s;

-- name: exceptions_by_carrier_and_code
-- Count the exceptions of each carrier and code, of the pairs with most of them.
select
    carrier,
    exception_code,
    sum(count_exceptions)::bigint as count_exceptions,
    count(*) over () as count_all
from analytics.lane_exceptions
where month between %(mature_month)s::date - interval '2 months' and %(mature_month)s
group by carrier, exception_code
order by count_exceptions desc, carrier, exception_code
limit %(most)s;

-- name: cost_by_month
-- Return the cost per kg of each of thirteen months.
select
    '' as name,
    month as "at",
    sum(sum_costed_freight_cost) / nullif(sum(sum_costed_weight_kg), 0) as value
from analytics.carrier_performance
where month between %(month)s::date - interval '12 months' and %(newest_month)s
group by month;

-- name: cost_by_month_and_service
-- Return the cost per kg of each of thirteen months, of each of the heaviest service levels.
with heaviest as (
    select service_level, sum(sum_costed_weight_kg) as weight_kg, count(*) over () as count_all
    from analytics.carrier_performance
    where month between %(month)s::date - interval '12 months' and %(newest_month)s
    group by service_level
    having sum(sum_costed_weight_kg) > 0
    order by weight_kg desc, service_level
    limit 6
)
select
    service_level as name,
    month as "at",
    sum(sum_costed_freight_cost) / nullif(sum(sum_costed_weight_kg), 0) as value,
    heaviest.count_all
from analytics.carrier_performance
join heaviest using (service_level)
where month between %(month)s::date - interval '12 months' and %(newest_month)s
group by service_level, month, heaviest.weight_kg, heaviest.count_all
order by heaviest.weight_kg desc, service_level;

-- name: cost_by_carrier
-- Return the cost per kg of the heaviest carriers, in the newest whole month and in the month before.
select
    carrier,
    sum(sum_costed_freight_cost) filter (where month = %(month)s)
        / nullif(sum(sum_costed_weight_kg) filter (where month = %(month)s), 0) as cost_per_kg,
    sum(sum_costed_freight_cost) filter (where month < %(month)s)
        / nullif(sum(sum_costed_weight_kg) filter (where month < %(month)s), 0) as cost_per_kg_before,
    sum(sum_costed_freight_cost) filter (where month = %(month)s) as cost,
    sum(sum_costed_weight_kg) filter (where month = %(month)s) / 1000 as weight_t,
    count(*) over () as count_all
from analytics.carrier_performance
where month between %(month_before)s and %(month)s
group by carrier
having sum(sum_costed_weight_kg) filter (where month = %(month)s) > 0
order by weight_t desc, carrier
limit %(most)s;

-- name: departures_by_day
-- Count the shipments that left a warehouse on each day of the period.
select '' as name, local_day as "at", sum(count_departed)::bigint as value
from analytics.warehouse_departures
where local_day between %(first)s and %(last)s
group by local_day;

-- name: departures_by_day_and_warehouse
-- Count the shipments that left on each day of the period, of each of the busiest warehouses.
with busiest as (
    select warehouse, sum(count_departed) as count_departed, count(*) over () as count_all
    from analytics.warehouse_departures
    where local_day between %(first)s and %(last)s
    group by warehouse
    having sum(count_departed) > 0
    order by count_departed desc, warehouse
    limit %(most)s
)
select
    warehouse as name,
    local_day as "at",
    sum(warehouse_departures.count_departed)::bigint as value,
    busiest.count_all
from analytics.warehouse_departures
join busiest using (warehouse)
where local_day between %(first)s and %(last)s
group by warehouse, local_day, busiest.count_departed, busiest.count_all
order by busiest.count_departed desc, warehouse;

-- name: departures_by_warehouse
-- Return what left the busiest warehouses, in the period and in the period before.
select
    warehouse,
    coalesce(sum(count_departed) filter (where local_day >= %(first)s), 0)::bigint as count_departed,
    coalesce(sum(count_departed) filter (where local_day < %(first)s), 0)::bigint as count_before,
    case
        when sum(count_weighed) filter (where local_day >= %(first)s) > 0
            then sum(sum_weight_kg) filter (where local_day >= %(first)s) / 1000
    end as weight_t,
    coalesce(sum(count_booked_waiting) filter (where local_day >= %(first)s), 0)::bigint as count_booked_waiting,
    sum(sum_waiting_hours) filter (where local_day >= %(first)s)
        / nullif(sum(count_waited) filter (where local_day >= %(first)s), 0) as mean_hours_waiting,
    count(*) over () as count_all
from analytics.warehouse_departures
where local_day between %(first_before)s and %(last)s
group by warehouse
having sum(count_departed) filter (where local_day >= %(first)s) > 0
order by count_departed desc, warehouse
limit %(most)s;

-- name: fuel_by_week
-- Return the fuel per 100 km of all vehicles in each week.
select
    '' as name,
    date_trunc('week', source_day)::date as "at",
    100 * sum(sum_metered_fuel_l) / nullif(sum(sum_metered_distance_km), 0) as value
from analytics.vehicle_days
where source_day between %(monday)s and %(last)s
group by "at";

-- name: load_by_week
-- Return the load by distance of all vehicles in each week.
select
    '' as name,
    date_trunc('week', source_day)::date as "at",
    sum(sum_tonne_km) / nullif(sum(sum_capacity_tonne_km), 0) as value
from analytics.vehicle_days
where source_day between %(monday)s and %(last)s
group by "at";

-- name: vehicles
-- Return the vehicles with most kilometres in the period.
select
    vehicle_id,
    sum(count_trips)::bigint as count_trips,
    case when sum(count_distance_known) > 0 then sum(sum_distance_km) end as distance_km,
    100 * sum(sum_metered_fuel_l) / nullif(sum(sum_metered_distance_km), 0) as fuel_l_per_100_km,
    sum(sum_tonne_km) / nullif(sum(sum_capacity_tonne_km), 0) as load_share,
    case when sum(count_weighed) > 0 or sum(count_shipments) = 0 then sum(sum_weight_kg) / 1000 end as weight_t,
    count(*) over () as count_all
from analytics.vehicle_days
where source_day between %(first)s and %(last)s
group by vehicle_id
order by distance_km desc nulls last, vehicle_id
limit %(most)s;

-- name: is_made
-- Return whether a table exists.
select to_regclass(%(table)s) is not null as is_made;

