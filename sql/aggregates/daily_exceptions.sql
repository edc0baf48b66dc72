-- One row per day, exception code and country where it happened.
-- table: analytics.daily_exceptions
-- bucket: day
-- fact logistics.tracking_events: (occurred_at at time zone 'UTC')::date
-- newest: logistics.tracking_events.occurred_at
-- key: day, exception_code, location_country
-- column day: day (UTC) on which the exceptions happened
-- column exception_code: code of the exception; (none) where an event EXCEPTION has no code
-- column location_country: country where it happened; (none) where the event names none
-- column count_exceptions: exceptions (shipment, code and instant); an exception that was sent twice counts once
-- column count_shipments: shipments with such an exception; events without a shipment are left out
-- column count_moving_shipments: shipments with any event on the day in the country
-- column exception_share: count_shipments / count_moving_shipments, 0 to 1; null where that is 0
-- column count_recorded: exceptions with an instant of recording
-- column sum_recording_hours: hours from the exceptions to their recording, added up
-- column avg_recording_hours: sum_recording_hours / count_recorded: the mean delay of a record
-- column p90_recording_hours: hours to the recording that 90 % do not exceed (interpolated)
with happened as (
    select
        (occurred_at at time zone 'UTC')::date as day,
        shipment_id,
        event_code = 'EXCEPTION' or exception_code is not null as is_exception,
        coalesce(exception_code, '(none)') as exception_code,
        coalesce(location_country, '(none)') as location_country,
        occurred_at,
        recorded_at
    from logistics.tracking_events
    where occurred_at >= :from_utc and occurred_at < :until_utc
),
moving as (
    select
        day,
        location_country,
        count(distinct shipment_id) as count_moving_shipments
    from happened
    group by day, location_country
),
excepted as (
    select
        day,
        exception_code,
        location_country,
        shipment_id,
        round(extract(epoch from min(recorded_at) - occurred_at) / 3600, 6) as recording_hours
    from happened
    where is_exception
    group by day, exception_code, location_country, shipment_id, occurred_at
)
select
    day,
    exception_code,
    location_country,
    count(*) as count_exceptions,
    count(distinct shipment_id) as count_shipments,
    count_moving_shipments,
    round(count(distinct shipment_id)::numeric / nullif(count_moving_shipments, 0), 4) as exception_share,
    count(recording_hours) as count_recorded,
    coalesce(sum(recording_hours), 0) as sum_recording_hours,
    round(avg(recording_hours), 3) as avg_recording_hours,
    round(percentile_cont(0.9) within group (order by recording_hours)::numeric, 3) as p90_recording_hours
from excepted
join moving using (day, location_country)
group by day, exception_code, location_country, count_moving_shipments
