-- One row per carrier, age bucket and whether overdue, of the shipments that are still open.
-- table: analytics.open_shipments
-- bucket: all
-- fact logistics.shipments
-- newest: logistics.shipments.created_at
-- key: carrier, age_bucket, is_overdue
-- column carrier: carrier; (none) where the shipment names none
-- column age_bucket: whole days from creation to as_of: 0-2, 3-7, 8-14 or 15+
-- column is_overdue: whether the promised time was before as_of; false without a promised time
-- column as_of: newest event in the data: the latest creation, pick-up, delivery or update of any shipment
-- column count_shipments: shipments neither delivered (by time or status) nor cancelled, returned or lost
-- column count_picked_up: open shipments with a pick-up time
-- column count_unpromised: open shipments without a promised time
-- column oldest_created_at: earliest creation
-- column sum_age_hours: hours from creation to as_of, added up
-- column sum_overdue_hours: hours from the promised time to as_of of the overdue ones, added up
-- column sum_pieces: pieces, where known
-- column sum_weight_kg: weight in kilograms, where known
-- column sum_freight_cost: freight cost, where known
with newest as (
    select max(greatest(created_at, picked_up_at, delivered_at, updated_at)) as as_of
    from logistics.shipments
),
still_open as (
    select
        coalesce(shipments.carrier, '(none)') as carrier,
        newest.as_of,
        shipments.created_at,
        shipments.picked_up_at,
        shipments.promised_at,
        shipments.pieces,
        shipments.weight_kg,
        shipments.freight_cost,
        coalesce(shipments.promised_at < newest.as_of, false) as is_overdue,
        round(extract(epoch from newest.as_of - shipments.created_at) / 3600, 6) as age_hours,
        round(extract(epoch from newest.as_of - shipments.promised_at) / 3600, 6) as overdue_hours
    from logistics.shipments
    cross join newest
    where shipments.delivered_at is null
        and coalesce(shipments.status, '') not in ('delivered', 'cancelled', 'returned', 'lost')
)
select
    carrier,
    case
        when as_of < created_at + interval '72 hours' then '0-2'
        when as_of < created_at + interval '192 hours' then '3-7'
        when as_of < created_at + interval '360 hours' then '8-14'
        else '15+'
    end as age_bucket,
    is_overdue,
    as_of,
    count(*) as count_shipments,
    count(picked_up_at) as count_picked_up,
    count(*) filter (where promised_at is null) as count_unpromised,
    min(created_at) as oldest_created_at,
    sum(age_hours) as sum_age_hours,
    coalesce(sum(overdue_hours) filter (where is_overdue), 0) as sum_overdue_hours,
    coalesce(sum(pieces), 0) as sum_pieces,
    coalesce(sum(weight_kg), 0) as sum_weight_kg,
    coalesce(sum(freight_cost), 0) as sum_freight_cost
from still_open
group by carrier, age_bucket, is_overdue, as_of
