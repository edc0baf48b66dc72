-- One row per month, lane (country and city of origin and destination), carrier and exception code.
-- table: analytics.lane_exceptions
-- bucket: month
-- fact logistics.shipments: (created_at at time zone 'UTC')::date
-- fact logistics.tracking_events: shipment_id -> logistics.shipments.shipment_id
-- newest: logistics.shipments.created_at
-- key: month, origin_country, origin_city, destination_country, destination_city, carrier, exception_code
-- column month: first day of the month in which the shipments were created. Unit: day (UTC). Of: shipments with an exception that are not cancelled. Null: never. Adds up: no, it is a key.
-- column origin_country: country of origin; (none) where the shipment names none. Unit: text, mapped by analytics.name_spellings. Of: shipments with an exception that are not cancelled. Null: never. Adds up: no, it is a key.
-- column origin_city: city of origin; (none) where the shipment names none. Unit: text, mapped by analytics.name_spellings. Of: shipments with an exception that are not cancelled. Null: never. Adds up: no, it is a key.
-- column destination_country: country of destination; (none) where the shipment names none. Unit: text, mapped by analytics.name_spellings. Of: shipments with an exception that are not cancelled. Null: never. Adds up: no, it is a key.
-- column destination_city: city of destination; (none) where the shipment names none. Unit: text, mapped by analytics.name_spellings. Of: shipments with an exception that are not cancelled. Null: never. Adds up: no, it is a key.
-- column carrier: carrier; (none) where the shipment names none. Unit: text, mapped by analytics.name_spellings. Of: shipments with an exception that are not cancelled. Null: never. Adds up: no, it is a key.
-- column exception_code: code of the exception in capitals without outer blanks; (none) where the event EXCEPTION has none. Unit: text. Of: exceptions: events with an exception code, and events EXCEPTION. Null: never. Adds up: no, it is a key.
-- column count_exceptions: exceptions: different shipment, code and instant; repeated events count once. Unit: number. Of: exceptions of shipments that are not cancelled. Null: never. Adds up: yes.
-- column distinct_shipments: different shipments with such an exception; lane_performance has all shipments of the same month, lane and carrier. Unit: number. Of: shipments with an exception that are not cancelled. Null: never. Adds up: no, a shipment can be in several rows, one for each code.
-- column distinct_late_shipments: those that were delivered after the promised time. Unit: number. Of: shipments of distinct_shipments. Null: never. Adds up: no, a shipment can be in several rows, one for each code.
-- column distinct_failed_shipments: those that were returned or lost. Unit: number. Of: shipments of distinct_shipments. Null: never. Adds up: no, a shipment can be in several rows, one for each code.
-- column distinct_open_shipments: those that are still open. Unit: number. Of: shipments of distinct_shipments. Null: never. Adds up: no, a shipment can be in several rows, one for each code.
-- column avg_late_hours: mean hours from promise to delivery, whatever caused the delay. Unit: hours, rounded to 3 places. Of: shipments of distinct_late_shipments. Null: distinct_late_shipments is 0. Adds up: no.
with excepted as (
    select
        tracking_events.shipment_id,
        coalesce(analytics.code_of(exception_code), '') as code,
        count(distinct occurred_at) as count_exceptions
    from logistics.tracking_events
    join logistics.shipments on shipments.shipment_id = tracking_events.shipment_id
    where created_at >= :from_utc and created_at < :until_utc
        -- Few events have a code. That it is not null is the part of the condition that the planner has numbers for.
        and (
            analytics.code_of(event_code) = 'EXCEPTION'
            or (exception_code is not null and analytics.code_of(exception_code) <> '')
        )
    group by 1, 2
)
select
    date_trunc('month', created_at at time zone 'UTC')::date as month,
    origin_country,
    origin_city,
    destination_country,
    destination_city,
    carrier,
    analytics.key_of(code) as exception_code,
    sum(count_exceptions)::bigint as count_exceptions,
    count(*) as distinct_shipments,
    count(*) filter (where delivered_at > promised_at) as distinct_late_shipments,
    count(*) filter (where end_state in ('returned', 'lost')) as distinct_failed_shipments,
    count(*) filter (where end_state = 'open') as distinct_open_shipments,
    round(
        avg(analytics.hours_between(promised_at, delivered_at)) filter (where delivered_at > promised_at), 3
    ) as avg_late_hours
from excepted
join (
    select * from analytics.judged_shipments()
    where created_at >= :from_utc and created_at < :until_utc and end_state <> 'cancelled'
) as shipments using (shipment_id)
group by 1, 2, 3, 4, 5, 6, 7
