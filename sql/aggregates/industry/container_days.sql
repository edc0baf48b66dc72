-- One row per UTC day, place and container event that happened.
-- table: analytics.container_days
-- bucket: day
-- fact logistics.dcsa_events: (occurred_at at time zone 'UTC')::date
-- newest: logistics.dcsa_events.occurred_at
-- key: day, un_location, equipment_event
-- column day: day of the events. Unit: day (UTC). Of: equipment events that happened (classifier ACT). Null: never. Adds up: no, it is a key.
-- column un_location: place (UN/LOCODE); (none) where the event names none. Unit: text. Of: equipment events that happened (classifier ACT). Null: never. Adds up: no, it is a key.
-- column equipment_event: what happened, such as LOAD or DISC. Unit: text. Of: equipment events that happened (classifier ACT). Null: never. Adds up: no, it is a key.
-- column count_events: events. Unit: number. Of: equipment events that happened (classifier ACT). Null: never. Adds up: yes.
-- column distinct_containers: different containers; events without a container are left out. Unit: number. Of: equipment events that happened (classifier ACT). Null: never. Adds up: no, a container can be in several rows.
select
    (occurred_at at time zone 'UTC')::date as day,
    analytics.key_of(coalesce(event_un_location, un_location)) as un_location,
    equipment_event,
    count(*) as count_events,
    count(distinct equipment_reference) as distinct_containers
from logistics.dcsa_events
where occurred_at >= :from_utc and occurred_at < :until_utc
    and classifier = 'ACT' and equipment_event is not null
group by 1, 2, 3
