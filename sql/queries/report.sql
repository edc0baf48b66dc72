-- name: see_one_snapshot
-- Make all that a report reads belong together, and keep it from writing.
set transaction isolation level repeatable read, read only;

-- name: read_at
-- Tell the instant of the snapshot.
select transaction_timestamp();

-- name: freshness_of
-- Tell how fresh one aggregate is.
select * from analytics.freshness where aggregate = %(aggregate)s;

-- name: columns
-- Tell the columns of a table or view, and what each is, in their order.
select attname, coalesce(col_description(attrelid, attnum), '')
from pg_attribute
where attrelid = to_regclass(%(table)s) and attnum > 0 and not attisdropped
order by attnum;

-- name: rows
-- Give the rows of a table, at most so many.
select {columns} from {table} order by {order} limit {limit};

-- name: rows_as_csv
-- Give the rows of a table as CSV with a header, at most so many.
copy (select {columns} from {table} order by {order} limit {limit}) to stdout (format csv, header true);

-- name: count_rows
-- Count the rows of a table.
select count(*) from {table};

-- name: digits
-- Tell the most digits of a numeric column before and behind the point; none for a column without a value.
select max(length(trunc(abs({column}))::text)), max(scale({column})) from {table};

-- name: volume_per_day
-- Count the shipments of each of the 91 days to the newest one that is not in the future; a day without has 0.
with newest as (
    select max(day) as day
    from analytics.daily_shipments
    where day <= (now() at time zone 'UTC')::date
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
-- Tell the newest month with shipments that is not in the future.
select max(month) from analytics.carrier_scorecard where month <= (now() at time zone 'UTC')::date;

-- name: on_time_by_carrier
-- Give counts of on time and late of each carrier over twelve months, the largest carriers first.
select
    carrier,
    sum(count_on_time)::bigint as count_on_time,
    sum(count_on_time + count_late)::bigint as count_judged
from analytics.carrier_scorecard
where month between %(month)s::date - interval '11 months' and %(month)s
group by carrier
having sum(count_on_time + count_late) > 0
order by count_judged desc, carrier
limit 12;

-- name: slowest_lanes
-- Give the lanes with the longest mean transit over twelve months, of those with at least ten transits.
select
    origin_city,
    origin_country,
    destination_city,
    destination_country,
    sum(count_transits)::bigint as count_transits,
    round(sum(sum_transit_hours) / sum(count_transits), 1) as avg_transit_hours
from analytics.lane_reliability
where month between %(month)s::date - interval '11 months' and %(month)s
group by origin_country, origin_city, destination_country, destination_city
having sum(count_transits) >= 10
order by sum(sum_transit_hours) / sum(count_transits) desc, origin_country, origin_city, destination_country,
    destination_city
limit 10;

-- name: open_now
-- Count the open shipments, the overdue ones of them, and tell the instant as of which they are so.
select
    coalesce(sum(count_shipments), 0)::bigint as count_open,
    coalesce(sum(count_shipments) filter (where is_overdue), 0)::bigint as count_overdue,
    max(as_of) as as_of
from analytics.open_shipments;
