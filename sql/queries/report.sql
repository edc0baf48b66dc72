-- name: volume_per_day
-- Count the shipments of each of the 91 days up to the newest day that is not in the future; a day without any has 0. A
-- chart begins with the year 2.
with newest as (
    select max(day) as day
    from analytics.daily_shipments
    where day between date '0002-01-01' and (now() at time zone 'UTC')::date
),
calendar as (
    select generate_series(newest.day - 90, newest.day, interval '1 day')::date as day
    from newest
)
select calendar.day, coalesce(sum(daily_shipments.count_shipments), 0)::bigint as count_shipments
from calendar
left join analytics.daily_shipments using (day)
group by calendar.day
order by calendar.day;

-- name: newest_month
-- Return the newest month with shipments that is not in the future.
select max(month) from analytics.carrier_scorecard
where month between date '0001-01-01' and (now() at time zone 'UTC')::date;

-- name: punctuality
-- Count the deliveries of all carriers over twelve months: on time and in all, by the last promise and by the first; and
-- count what is still open, and the carriers with such a delivery.
select
    coalesce(sum(count_on_time), 0)::bigint as count_on_time,
    coalesce(sum(count_on_time + count_late), 0)::bigint as count_judged,
    coalesce(sum(count_first_on_time), 0)::bigint as count_first_on_time,
    coalesce(sum(count_first_on_time + count_first_late), 0)::bigint as count_first_judged,
    coalesce(sum(count_open), 0)::bigint as count_open,
    count(distinct carrier) filter (where count_on_time + count_late > 0) as count_carriers
from analytics.carrier_scorecard
where month between %(month)s::date - interval '11 months' and %(month)s;

-- name: on_time_by_carrier
-- Count the deliveries of each of the largest carriers over twelve months, on time and in all, and what is still open.
select
    carrier,
    sum(count_on_time)::bigint as count_on_time,
    sum(count_on_time + count_late)::bigint as count_judged,
    sum(count_open)::bigint as count_open
from analytics.carrier_scorecard
where month between %(month)s::date - interval '11 months' and %(month)s
group by carrier
having sum(count_on_time + count_late) > 0
order by count_judged desc, carrier
limit 12;

-- name: slowest_lanes
-- List the lanes with the longest mean transit over twelve months, and count all lanes; a lane needs at least ten transits.
select
    origin_city,
    origin_country,
    destination_city,
    destination_country,
    sum(count_transits)::bigint as count_transits,
    round(sum(sum_transit_hours) / sum(count_transits), 1) as avg_transit_hours,
    sum(count_in_transit)::bigint as count_in_transit,
    count(*) over () as count_lanes
from analytics.lane_reliability
where month between %(month)s::date - interval '11 months' and %(month)s
group by origin_country, origin_city, destination_country, destination_city
having sum(count_transits) >= 10
order by sum(sum_transit_hours) / sum(count_transits) desc, origin_country, origin_city, destination_country,
    destination_city
limit 10;

-- name: open_now
-- Count the open shipments and the overdue ones, and return the instant of that count.
select
    coalesce(sum(count_shipments), 0)::bigint as count_open,
    coalesce(sum(count_shipments) filter (where is_overdue), 0)::bigint as count_overdue,
    max(as_of) as as_of
from analytics.open_shipments;
