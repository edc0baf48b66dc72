-- One row per day, exception code and country where it happened.
-- table: analytics.daily_exceptions
-- bucket: day
-- fact logistics.tracking_events: (occurred_at at time zone 'UTC')::date
-- newest: logistics.tracking_events.occurred_at
-- key: day, exception_code, location_country
-- column day: day on which the exceptions happened. Unit: day (UTC). Of: exceptions: events with an exception code, and events EXCEPTION. Null: never. Adds up: no, it is a key.
-- column exception_code: code of the exception in capitals without outer blanks; (none) where the event EXCEPTION has none. Unit: text. Of: exceptions. Null: never. Adds up: no, it is a key.
-- column location_country: country where it happened: the first in byte order of the events of one exception; (none) where no event names one. Unit: text, mapped by analytics.name_spellings. Of: exceptions. Null: never. Adds up: no, it is a key.
-- column count_exceptions: exceptions: different shipment, code and instant; repeated events count once, and events with a missing or blank shipment count as events of one shipment. Unit: number. Of: exceptions of the key. Null: never. Adds up: yes.
-- column distinct_shipments: different shipments with such an exception; events with a missing or blank shipment are left out. Unit: number. Of: exceptions of the key. Null: never. Adds up: no, a shipment can be in several rows.
-- column count_recorded: exceptions with an instant of recording that is not before the exception; of repeated events the earliest recording counts. Unit: number. Of: exceptions of the key. Null: never. Adds up: yes.
-- column count_out_of_order: exceptions whose earliest recording is before the exception, which have no recording hours. Unit: number. Of: exceptions of the key. Null: never. Adds up: yes.
-- column sum_recording_hours: hours from the exceptions to their recording, added up. Unit: hours, each exception rounded to 6 places. Of: exceptions of count_recorded. Null: never. Adds up: yes.
-- column avg_recording_hours: sum_recording_hours / count_recorded. Unit: hours, rounded to 3 places. Of: exceptions of count_recorded. Null: count_recorded is 0. Adds up: no.
-- column p90_recording_hours: hours to the recording that 90 % do not exceed (interpolated). Unit: hours, rounded to 3 places. Of: exceptions of count_recorded. Null: count_recorded is below 20. Adds up: no.
with happened as (
    select
        (occurred_at at time zone 'UTC')::date as day,
        analytics.known(shipment_id) as shipment_id,
        coalesce(analytics.code_of(event_code) = 'EXCEPTION', false) or coalesce(analytics.code_of(exception_code) <> '', false)
            as is_exception,
        coalesce(analytics.code_of(exception_code), '') as exception_code,
        analytics.key_of(coalesce(country.name, location_country)) as location_country,
        occurred_at,
        recorded_at
    from logistics.tracking_events
    left join analytics.name_spellings as country
        on country.kind = 'country' and country.spelling = tracking_events.location_country
    where occurred_at >= :from_utc and occurred_at < :until_utc
),
-- One row for an exception, however often it was sent, and with whatever country.
excepted as (
    select
        day,
        analytics.key_of(exception_code) as exception_code,
        coalesce(min(location_country collate "C") filter (where location_country <> '(none)'), '(none)')
            as location_country,
        shipment_id,
        min(recorded_at) as recorded_at,
        occurred_at
    from happened
    where is_exception
    group by day, happened.exception_code, shipment_id, occurred_at
),
timed as (
    select
        excepted.*,
        case when recorded_at >= occurred_at then analytics.hours_between(occurred_at, recorded_at) end as recording_hours
    from excepted
)
select
    day,
    exception_code,
    location_country,
    count(*) as count_exceptions,
    count(distinct shipment_id) as distinct_shipments,
    count(recording_hours) as count_recorded,
    count(*) filter (where recorded_at < occurred_at) as count_out_of_order,
    coalesce(sum(recording_hours), 0) as sum_recording_hours,
    round(avg(recording_hours), 3) as avg_recording_hours,
    round((case when count(recording_hours) >= 20 then percentile_cont(0.9) within group (order by recording_hours) end)::numeric, 3) as p90_recording_hours
from timed
group by day, exception_code, location_country
