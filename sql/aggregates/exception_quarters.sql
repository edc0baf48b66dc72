-- One row per quarter and exception code: the percentiles that single days are too small for.
-- table: analytics.exception_quarters
-- bucket: quarter
-- fact logistics.tracking_events: (occurred_at at time zone 'UTC')::date
-- newest: logistics.tracking_events.occurred_at
-- key: quarter, exception_code
-- column quarter: first day of the quarter in which the exceptions happened. Unit: day (UTC). Of: exceptions: events with an exception code, and events EXCEPTION. Null: never. Adds up: no, it is a key.
-- column exception_code: code of the exception in capitals without outer blanks; (none) where the event EXCEPTION has none. Unit: text. Of: exceptions. Null: never. Adds up: no, it is a key.
-- column count_exceptions: exceptions: different shipment, code and instant; repeated events count once, and events with a missing or blank shipment count as events of one shipment. Unit: number. Of: exceptions of the key. Null: never. Adds up: yes.
-- column count_recorded: exceptions with an instant of recording that is not before the exception; of repeated events the earliest recording counts. Unit: number. Of: exceptions of the key. Null: never. Adds up: yes.
-- column p50_recording_hours: median of the hours to the recording. Unit: hours, rounded to 3 places. Of: exceptions of count_recorded. Null: count_recorded is below 20. Adds up: no.
-- column p90_recording_hours: hours to the recording that 90 % do not exceed (interpolated). Unit: hours, rounded to 3 places. Of: exceptions of count_recorded. Null: count_recorded is below 20. Adds up: no.
with happened as (
    select shipment_id, exception_code, occurred_at, min(recorded_at) as recorded_at
    -- OFFSET 0: the planner would read all events by the index of their time, because that order serves the grouping, and
    -- took four times as long.
    from (
        select
            analytics.known(shipment_id) as shipment_id,
            coalesce(analytics.code_of(exception_code), '') as exception_code,
            occurred_at,
            recorded_at
        from logistics.tracking_events
        where occurred_at >= :from_utc and occurred_at < :until_utc
            and (analytics.code_of(event_code) = 'EXCEPTION' or analytics.code_of(exception_code) <> '')
        offset 0
    ) as events
    group by 1, 2, 3
),
timed as (
    select
        date_trunc('quarter', occurred_at at time zone 'UTC')::date as quarter,
        analytics.key_of(exception_code) as exception_code,
        case when recorded_at >= occurred_at then analytics.hours_between(occurred_at, recorded_at) end as recording_hours
    from happened
),
by_code as (
    select
        quarter,
        exception_code,
        count(*) as count_exceptions,
        count(recording_hours) as count_recorded,
        case when count(recording_hours) >= 20
            then percentile_cont(array[0.5, 0.9]) within group (order by recording_hours)
        end as recordings
    from timed
    group by quarter, exception_code
)
select
    quarter,
    exception_code,
    count_exceptions,
    count_recorded,
    round(recordings[1]::numeric, 3) as p50_recording_hours,
    round(recordings[2]::numeric, 3) as p90_recording_hours
from by_code
