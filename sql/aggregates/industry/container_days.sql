-- One row per UTC day, place and container event that happened.
-- table: analytics.container_days
-- bucket: day
-- fact logistics.dcsa_events: (occurred_at at time zone 'UTC')::date
-- newest: logistics.dcsa_events.occurred_at
-- key: day, un_location, equipment_event
-- column day: day of the events. Unit: day (UTC). Of: events with an equipment event (not blank) that happened (classifier ACT). Null: never. Adds up: no, it is a key.
-- column un_location: place of the event (UN/LOCODE), or of its transport call; (none) where the event names none. Unit: text. Of: events with an equipment event (not blank) that happened (classifier ACT). Null: never. Adds up: no, it is a key.
-- column equipment_event: what happened, such as LOAD or DISC, in capitals without outer blanks. Unit: text. Of: events with an equipment event (not blank) that happened (classifier ACT). Null: never. Adds up: no, it is a key.
-- column count_events: events. Unit: number. Of: events with an equipment event (not blank) that happened (classifier ACT). Null: never. Adds up: yes.
-- column distinct_containers: different containers; events with a missing or blank container are left out. Unit: number. Of: events with an equipment event (not blank) that happened (classifier ACT). Null: never. Adds up: no, a container can be in several rows.
select
    (occurred_at at time zone 'UTC')::date as day,
    analytics.key_of(coalesce(analytics.known(event_un_location), un_location)) as un_location,
    analytics.code_of(equipment_event) as equipment_event,
    count(*) as count_events,
    count(distinct analytics.known(equipment_reference)) as distinct_containers
from logistics.dcsa_events
where occurred_at >= :from_utc and occurred_at < :until_utc
    and analytics.code_of(classifier) = 'ACT' and analytics.code_of(equipment_event) <> ''
group by 1, 2, 3
