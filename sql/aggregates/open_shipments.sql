-- One row per carrier, age bucket and whether overdue, of the shipments that are still open.
-- table: analytics.open_shipments
-- bucket: all
-- fact logistics.shipments
-- part analytics.shipment_batches
-- part analytics.undelivered_shipments
-- newest: logistics.shipments.created_at
-- key: carrier, age_bucket, is_overdue
-- column carrier: carrier; (none) where the shipment names none. Unit: text, mapped by analytics.name_spellings. Of: open shipments. Null: never. Adds up: no, it is a key.
-- column age_bucket: whole days of 24 hours from creation to as_of, 0-2 for a creation after it: 0-2, 3-7, 8-14, 15-30, 31-90 or 91+. Unit: days. Of: open shipments. Null: never. Adds up: no, it is a key.
-- column is_overdue: whether the promised time was before as_of; false without a promised time. Unit: boolean. Of: open shipments. Null: never. Adds up: no, it is a key.
-- column as_of: newest event in the data: the latest creation, pick-up, delivery or update that is not after the newest load of a shipment; a later one is in the future, and has a wrong date. Unit: instant. Of: all shipments. Null: all these times are in the future. Adds up: no, the same in all rows.
-- column count_shipments: shipments that are neither delivered nor returned, lost or cancelled. Unit: number. Of: open shipments. Null: never. Adds up: yes.
-- column count_picked_up: shipments with a pick-up time. Unit: number. Of: open shipments. Null: never. Adds up: yes.
-- column count_unpromised: shipments without a promised time. Unit: number. Of: open shipments. Null: never. Adds up: yes.
-- column count_unknown_status: shipments with a status that analytics.shipment_states does not have, which may be closed; a missing or blank status is not counted. Unit: number. Of: open shipments. Null: never. Adds up: yes.
-- column oldest_created_at: earliest creation. Unit: instant. Of: open shipments. Null: never. Adds up: no, take the minimum.
-- column sum_age_hours: hours from creation to as_of, added up; 0 for a creation after it. Unit: hours, each shipment rounded to 6 places. Of: open shipments. Null: never. Adds up: yes.
-- column sum_overdue_hours: hours from the promised time to as_of, added up; 0 where is_overdue is false. Unit: hours, each shipment rounded to 6 places. Of: overdue shipments. Null: never. Adds up: yes.
-- column count_pieces_known: shipments with a number of pieces. Unit: number. Of: open shipments. Null: never. Adds up: yes.
-- column sum_pieces: pieces. Unit: pieces. Of: shipments of count_pieces_known; 0 where there is none. Null: never. Adds up: yes.
-- column count_weighed: shipments with a weight. Unit: number. Of: open shipments. Null: never. Adds up: yes.
-- column sum_weight_kg: weight. Unit: kg, as in the data. Of: shipments of count_weighed; 0 where there is none. Null: never. Adds up: yes.
-- column count_costed: shipments with a freight cost. Unit: number. Of: open shipments. Null: never. Adds up: yes.
-- column sum_freight_cost: freight cost. Unit: currency of the books, as in the data. Of: shipments of count_costed; 0 where there is none. Null: never. Adds up: yes.
with undelivered as (
    select
        carrier,
        is_unknown_status,
        created_at,
        picked_up_at,
        promised_at,
        weight_kg,
        freight_cost,
        pieces
    from analytics.undelivered_shipments as shipments
    union all
    -- Without a month of creation a shipment is in no part. An index finds it.
    select
        carrier,
        is_unknown_status,
        created_at,
        picked_up_at,
        promised_at,
        weight_kg,
        freight_cost,
        pieces
    from analytics.judged_shipments()
    where (created_at is null or created_at in (timestamptz '-infinity', timestamptz 'infinity'))
        and stated_delivered_at is null
        and end_state = 'open'
),
newest as materialized (
    select as_of.as_of
    from (
        select greatest(
            (select max(latest_at) from analytics.shipment_batches as batches),
            (
                select max(greatest(created_at, picked_up_at, stated_delivered_at, updated_at))
                from analytics.judged_shipments()
                where created_at is null or created_at in (timestamptz '-infinity', timestamptz 'infinity')
            )
        ) as latest
    ) as times
    cross join lateral analytics.as_of(times.latest)
),
still_open as (
    select
        shipments.*,
        newest.as_of,
        coalesce(shipments.promised_at < newest.as_of, false) as is_overdue,
        case when shipments.created_at <= newest.as_of
            then analytics.hours_between(shipments.created_at, newest.as_of)
            else 0
        end as age_hours,
        analytics.hours_between(shipments.promised_at, newest.as_of) as overdue_hours
    from undelivered as shipments
    cross join newest
)
select
    carrier,
    case
        when as_of - interval '2184 hours' >= created_at then '91+'
        when as_of - interval '744 hours' >= created_at then '31-90'
        when as_of - interval '360 hours' >= created_at then '15-30'
        when as_of - interval '192 hours' >= created_at then '8-14'
        when as_of - interval '72 hours' >= created_at then '3-7'
        else '0-2'
    end as age_bucket,
    is_overdue,
    as_of,
    count(*) as count_shipments,
    count(picked_up_at) as count_picked_up,
    count(*) filter (where promised_at is null) as count_unpromised,
    count(*) filter (where is_unknown_status) as count_unknown_status,
    min(created_at) as oldest_created_at,
    sum(age_hours) as sum_age_hours,
    coalesce(sum(overdue_hours) filter (where is_overdue), 0) as sum_overdue_hours,
    count(pieces) as count_pieces_known,
    coalesce(sum(pieces), 0) as sum_pieces,
    count(weight_kg) as count_weighed,
    coalesce(sum(weight_kg), 0) as sum_weight_kg,
    count(freight_cost) as count_costed,
    coalesce(sum(freight_cost), 0) as sum_freight_cost
from still_open
group by carrier, age_bucket, is_overdue, as_of
