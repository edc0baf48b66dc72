-- One row per carrier and UTC day on which the tracking of the parcels began.
-- table: analytics.parcel_days
-- bucket: day
-- fact logistics.parcel_trackers: (created_at at time zone 'UTC')::date
-- newest: logistics.parcel_trackers.created_at
-- key: day, carrier
-- column day: UTC day on which the tracking of the parcels began
-- column carrier: carrier; (none) where the tracker names none
-- column count_parcels: parcels
-- column count_delivered: delivered parcels
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
