-- One row per UTC day on which parcels began to be tracked, and carrier.
-- table: analytics.parcel_days
-- bucket: day
-- fact logistics.parcel_trackers: (created_at at time zone 'UTC')::date
-- newest: logistics.parcel_trackers.created_at
-- key: day, carrier
-- column day: UTC day from which the parcels are tracked
-- column carrier: carrier; (none) where the tracker names none
-- column count_parcels: parcels
-- column count_delivered: parcels that are delivered
-- column count_returns: parcels that go back to their sender
select
    (created_at at time zone 'UTC')::date as day,
    coalesce(carrier, '(none)') as carrier,
    count(*) as count_parcels,
    count(*) filter (where status = 'delivered') as count_delivered,
    count(*) filter (where is_return) as count_returns
from logistics.parcel_trackers
where created_at >= :from_utc and created_at < :until_utc
group by 1, 2
