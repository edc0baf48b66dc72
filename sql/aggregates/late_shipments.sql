-- One row per open shipment whose promised time is past.
-- table: analytics.late_shipments
-- bucket: all
-- fact logistics.shipments
-- part analytics.shipment_batches
-- part analytics.undelivered_shipments
-- newest: logistics.shipments.created_at
-- key: carrier, shipment_id
-- column carrier: carrier; (none) where the shipment names none. Unit: text, mapped by analytics.name_spellings. Of: the shipment. Null: never. Adds up: no, it is a key.
-- column shipment_id: the shipment. Unit: text. Of: open shipments with a promised time before as_of. Null: never. Adds up: no, it is a key.
-- column late_hours: hours from the promised time to as_of. Unit: hours, rounded to 6 places. Of: the shipment. Null: never. Adds up: no.
-- column as_of: newest event in the data: the latest creation, pick-up, delivery or update that is not after the newest load of a shipment; a later one is in the future, and has a wrong date. Unit: instant. Of: all shipments. Null: all these times are in the future. Adds up: no, the same in all rows.
-- column promised_at: promised time as it is now. Unit: instant. Of: the shipment. Null: never. Adds up: no.
-- column first_promised_at: first promised time. Unit: instant. Of: the shipment. Null: never. Adds up: no.
-- column created_at: creation. Unit: instant. Of: the shipment. Null: never. Adds up: no.
-- column picked_up_at: pick-up. Unit: instant. Of: the shipment. Null: it was not picked up. Adds up: no.
-- column status: status as the data has it, which may be one that analytics.shipment_states does not have. Unit: text. Of: the shipment. Null: the data has none. Adds up: no.
-- column order_id: order that the shipment serves. Unit: text. Of: the shipment. Null: the data has none. Adds up: no.
-- column service_level: service level; (none) where the shipment names none. Unit: text, mapped by analytics.name_spellings. Of: the shipment. Null: never. Adds up: no.
-- column origin_country: country of origin; (none) where the shipment names none. Unit: text, mapped by analytics.name_spellings. Of: the shipment. Null: never. Adds up: no.
-- column origin_city: city of origin; (none) where the shipment names none. Unit: text, mapped by analytics.name_spellings. Of: the shipment. Null: never. Adds up: no.
-- column destination_country: country of destination; (none) where the shipment names none. Unit: text, mapped by analytics.name_spellings. Of: the shipment. Null: never. Adds up: no.
-- column destination_city: city of destination; (none) where the shipment names none. Unit: text, mapped by analytics.name_spellings. Of: the shipment. Null: never. Adds up: no.
-- column weight_kg: weight. Unit: kg, as in the data. Of: the shipment. Null: the data has none. Adds up: no.
with undelivered as (
    select
        shipment_id,
        order_id,
        carrier,
        service_level,
        status,
        origin_country,
        origin_city,
        destination_country,
        destination_city,
        created_at,
        picked_up_at,
        promised_at,
        first_promised_at,
        weight_kg
    from analytics.undelivered_shipments as shipments
    union all
    -- Without a month of creation a shipment is in no part. An index finds it.
    select
        shipment_id,
        order_id,
        carrier,
        service_level,
        status,
        origin_country,
        origin_city,
        destination_country,
        destination_city,
        created_at,
        picked_up_at,
        promised_at,
        first_promised_at,
        weight_kg
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
)
select
    carrier,
    shipment_id,
    analytics.hours_between(promised_at, as_of) as late_hours,
    as_of,
    promised_at,
    first_promised_at,
    created_at,
    picked_up_at,
    status,
    order_id,
    service_level,
    origin_country,
    origin_city,
    destination_country,
    destination_city,
    weight_kg
from undelivered
cross join newest
where promised_at < as_of
