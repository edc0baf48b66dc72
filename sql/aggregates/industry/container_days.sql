-- One row per UTC day, place and container event that happened.
-- table: analytics.container_days
-- bucket: day
-- fact logistics.dcsa_events: (occurred_at at time zone 'UTC')::date
-- newest: logistics.dcsa_events.occurred_at
-- key: day, un_location, equipment_event
-- column day: UTC day of the events
-- column un_location: place (UN/LOCODE); (none) where the event names none
-- column equipment_event: what happened, such as LOAD or DISC
-- column count_events: events
-- column count_containers: different containers
select
    (occurred_at at time zone 'UTC')::date as day,
    coalesce(event_un_location, un_location, '(none)') as un_location,
    equipment_event,
    count(*) as count_events,
    count(distinct equipment_reference) as count_containers
from logistics.dcsa_events
where occurred_at >= :from_utc and occurred_at < :until_utc
    and classifier = 'ACT' and equipment_event is not null
group by 1, 2, 3
