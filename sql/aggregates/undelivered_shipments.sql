-- One row per shipment that is still open.
-- table: analytics.undelivered_shipments
-- bucket: month
-- fact logistics.shipments: (created_at at time zone 'UTC')::date
-- newest: logistics.shipments.created_at
-- key: month, shipment_id, created_at
-- column month: first day of the month of creation. Unit: day (UTC). Of: the shipment. Null: never. Adds up: no, it is a key.
-- column shipment_id: the shipment. Unit: text. Of: shipments that are neither delivered nor returned, lost or cancelled. Null: never. Adds up: no, it is a key.
-- column created_at: creation. Unit: instant. Of: the shipment. Null: never. Adds up: no, it is a key.
-- column order_id: order that the shipment serves. Unit: text. Of: the shipment. Null: the data has none. Adds up: no.
-- column carrier: carrier; (none) where the shipment names none. Unit: text, mapped by analytics.name_spellings. Of: the shipment. Null: never. Adds up: no.
-- column service_level: service level; (none) where the shipment names none. Unit: text, mapped by analytics.name_spellings. Of: the shipment. Null: never. Adds up: no.
-- column status: status as the data has it. Unit: text. Of: the shipment. Null: the data has none. Adds up: no.
-- column is_unknown_status: whether analytics.shipment_states does not have the status, so that the shipment may be closed; false for a missing or blank one. Unit: boolean. Of: the shipment. Null: never. Adds up: no.
-- column origin_country: country of origin; (none) where the shipment names none. Unit: text, mapped by analytics.name_spellings. Of: the shipment. Null: never. Adds up: no.
-- column origin_city: city of origin; (none) where the shipment names none. Unit: text, mapped by analytics.name_spellings. Of: the shipment. Null: never. Adds up: no.
-- column destination_country: country of destination; (none) where the shipment names none. Unit: text, mapped by analytics.name_spellings. Of: the shipment. Null: never. Adds up: no.
-- column destination_city: city of destination; (none) where the shipment names none. Unit: text, mapped by analytics.name_spellings. Of: the shipment. Null: never. Adds up: no.
-- column picked_up_at: pick-up. Unit: instant. Of: the shipment. Null: it was not picked up. Adds up: no.
-- column promised_at: promised time as it is now. Unit: instant. Of: the shipment. Null: none is promised. Adds up: no.
-- column first_promised_at: first promised time. Unit: instant. Of: the shipment. Null: none was promised. Adds up: no.
-- column weight_kg: weight. Unit: kg, as in the data. Of: the shipment. Null: the data has none. Adds up: no.
-- column freight_cost: freight cost. Unit: currency of the books, as in the data. Of: the shipment. Null: the data has none. Adds up: no.
-- column pieces: pieces. Unit: pieces. Of: the shipment. Null: the data has none. Adds up: no.
-- column declared_amount: declared value. Unit: amount of declared_currency, as in the data. Of: the shipment. Null: the data has none. Adds up: no.
-- column declared_currency: currency of the declared value as it is written. Unit: text. Of: the shipment. Null: the data has none. Adds up: no.
select
    date_trunc('month', created_at at time zone 'UTC')::date as month,
    shipment_id,
    created_at,
    order_id,
    carrier,
    service_level,
    status,
    is_unknown_status,
    origin_country,
    origin_city,
    destination_country,
    destination_city,
    picked_up_at,
    promised_at,
    first_promised_at,
    weight_kg,
    freight_cost,
    pieces,
    declared_amount,
    declared_currency
from analytics.valued_shipments()
where created_at >= :from_utc
    and created_at < :until_utc
    -- The cheap condition first: an open shipment has no delivery time.
    and stated_delivered_at is null
    and end_state = 'open'
