-- One row per day and country with tracking events.
-- table: analytics.daily_movements
-- bucket: day
-- fact logistics.tracking_events: (occurred_at at time zone 'UTC')::date
-- newest: logistics.tracking_events.occurred_at
-- key: day, location_country
-- column day: day on which the events happened. Unit: day (UTC). Of: tracking events. Null: never. Adds up: no, it is a key.
-- column location_country: country where they happened; (none) where the event names none. Unit: text, mapped by analytics.name_spellings. Of: tracking events. Null: never. Adds up: no, it is a key.
-- column count_events: events, repeated ones included. Unit: number. Of: tracking events. Null: never. Adds up: yes.
-- column distinct_shipments: different shipments with an event: the shipments that moved; events with a missing or blank shipment are left out. Unit: number. Of: tracking events. Null: never. Adds up: no, a shipment can be in several rows.
-- column distinct_exception_shipments: different shipments with an exception (an exception code, or the event EXCEPTION) in an event of the row. Unit: number. Of: tracking events. Null: never. Adds up: no, a shipment can be in several rows.
-- column exception_share: distinct_exception_shipments / distinct_shipments. Unit: 0 to 1, rounded to 4 places. Of: tracking events. Null: distinct_shipments is 0. Adds up: no.
with happened as (
    select
        (occurred_at at time zone 'UTC')::date as day,
        analytics.known(shipment_id) as shipment_id,
        coalesce(analytics.code_of(event_code) = 'EXCEPTION', false) or coalesce(analytics.code_of(exception_code) <> '', false)
            as is_exception,
        analytics.key_of(coalesce(country.name, location_country)) as location_country
    from logistics.tracking_events
    left join analytics.name_spellings as country
        on country.kind = 'country' and country.spelling = tracking_events.location_country
    where occurred_at >= :from_utc and occurred_at < :until_utc
)
select
    day,
    location_country,
    count(*) as count_events,
    count(distinct shipment_id) as distinct_shipments,
    count(distinct shipment_id) filter (where is_exception) as distinct_exception_shipments,
    round(
        count(distinct shipment_id) filter (where is_exception)::numeric / nullif(count(distinct shipment_id), 0), 4
    ) as exception_share
from happened
group by day, location_country
