-- One row per carrier and UTC day on which the tracking of the parcels began.
-- table: analytics.parcel_days
-- bucket: day
-- fact logistics.parcel_trackers: (created_at at time zone 'UTC')::date
-- newest: logistics.parcel_trackers.created_at
-- key: day, carrier
-- column day: day on which the tracking of the parcels began. Unit: day (UTC). Of: parcels with a time from which they are tracked (created_at). Null: never. Adds up: no, it is a key.
-- column carrier: carrier; (none) where the tracker names none. Unit: text. Of: parcels with a time from which they are tracked (created_at). Null: never. Adds up: no, it is a key.
-- column count_parcels: parcels. Unit: number. Of: parcels with a time from which they are tracked (created_at). Null: never. Adds up: yes.
-- column count_delivered: parcels with the status delivered, in any case. Unit: number. Of: parcels with a time from which they are tracked (created_at). Null: never. Adds up: yes.
-- column count_returns: parcels that go back to their sender. Unit: number. Of: parcels with a time from which they are tracked (created_at). Null: never. Adds up: yes.
select
    (created_at at time zone 'UTC')::date as day,
    analytics.key_of(carrier) as carrier,
    count(*) as count_parcels,
    count(*) filter (where analytics.folded(status) = 'delivered') as count_delivered,
    count(*) filter (where is_return) as count_returns
from logistics.parcel_trackers
where created_at >= :from_utc and created_at < :until_utc
group by 1, 2
