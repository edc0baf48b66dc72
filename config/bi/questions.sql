-- Questions for Metabase and for SQL Lab of Superset: one for each name. Each reads aggregates, and takes milliseconds.

-- name: shipments_by_day
-- How many shipments were created, delivered and are open, by day? A line chart of day.
select
    day,
    sum(count_shipments) as shipments,
    sum(count_delivered) as delivered,
    sum(count_open) as open
from analytics.daily_shipments
group by day
order by day;

-- name: on_time_by_promised_month
-- What share of the promises did each carrier keep? A line chart of month, one line for each carrier.
select
    month,
    carrier,
    round(sum(count_on_time) / nullif(sum(count_on_time + count_late), 0), 4) as on_time_share,
    sum(count_due) as due
from analytics.promised_days
group by month, carrier
order by month, carrier;

-- name: transit_by_lane
-- How long do the lanes with the most shipments take? A table, or a bar chart of avg_transit_hours.
select
    origin_city,
    destination_city,
    sum(count_shipments) as shipments,
    round(sum(sum_transit_hours) / nullif(sum(count_transits), 0), 1) as avg_transit_hours
from analytics.lane_performance
group by origin_city, destination_city
order by shipments desc
limit 25;

-- name: exceptions_by_code
-- Which exceptions happen most? A bar chart of exceptions by day, stacked by exception_code.
select
    day,
    exception_code,
    sum(count_exceptions) as exceptions
from analytics.daily_exceptions
group by day, exception_code
order by day, exception_code;

-- name: open_and_late
-- What is open, how old is it, and how much of it is late? A bar chart of shipments, stacked by is_overdue.
select
    carrier,
    age_bucket,
    is_overdue,
    sum(count_shipments) as shipments
from analytics.open_shipments
group by carrier, age_bucket, is_overdue
order by carrier, age_bucket, is_overdue;

-- name: cost_per_kg_by_month
-- What does a kilogram cost, by month and carrier? A line chart of month.
select
    month,
    carrier,
    round(sum(sum_costed_freight_cost) / nullif(sum(sum_costed_weight_kg), 0), 4) as cost_per_kg
from analytics.carrier_performance
group by month, carrier
order by month, carrier;

-- name: freshness
-- Which facts does each aggregate include? A table; put it on each dashboard.
select
    aggregate,
    facts_through,
    newest_event_at,
    pending_buckets
from analytics.freshness
order by aggregate;

-- name: value_at_risk
-- What is the declared value of what is open, late or in exception? A table; the values are not converted.
select
    currency,
    sum(count_open) as open,
    sum(sum_declared_value) as value_open,
    sum(sum_late_declared_value) as value_late,
    sum(sum_exception_declared_value) as value_in_exception
from analytics.value_at_risk
group by currency
order by open desc, currency;
