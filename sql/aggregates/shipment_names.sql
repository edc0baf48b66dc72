-- One row per month of creation, column and name as shipments spell it.
-- table: analytics.shipment_names
-- bucket: month
-- fact logistics.shipments: (created_at at time zone 'UTC')::date
-- newest: logistics.shipments.created_at
-- key: month, column_name, is_missing, spelling
-- column month: first day of the month of creation. Unit: day (UTC). Of: shipments. Null: never. Adds up: no, it is a key.
-- column column_name: column of the shipments: carrier, origin_city, destination_city or origin_warehouse. Unit: text. Of: shipments. Null: never. Adds up: no, it is a key.
-- column is_missing: whether the shipments name none; a blank name is one. Unit: boolean. Of: shipments. Null: never. Adds up: no, it is a key.
-- column spelling: name as it is written, not mapped by analytics.name_spellings; empty where it is missing. Unit: text. Of: shipments. Null: never. Adds up: no, it is a key.
-- column count_shipments: shipments with this spelling in this column. Unit: number. Of: shipments created in the month. Null: never. Adds up: no, each shipment is in a row of each column.
with named as (
    select
        date_trunc('month', shipments.created_at at time zone 'UTC')::date as month,
        shipments.carrier::text,
        shipments.origin_city::text,
        shipments.destination_city::text,
        shipments.origin_warehouse::text
    -- A definition of the user may lack one of the columns.
    from (values (null::text, null::text, null::text, null::text))
        as absent (carrier, origin_city, destination_city, origin_warehouse)
    cross join lateral (
        select shipments.created_at, carrier, origin_city, destination_city, origin_warehouse from logistics.shipments
    ) as shipments
    where shipments.created_at >= :from_utc and shipments.created_at < :until_utc
)
select
    month,
    case
        when grouping(carrier) = 0 then 'carrier'
        when grouping(origin_city) = 0 then 'origin_city'
        when grouping(destination_city) = 0 then 'destination_city'
        else 'origin_warehouse'
    end as column_name,
    coalesce(carrier, origin_city, destination_city, origin_warehouse) is null as is_missing,
    coalesce(carrier, origin_city, destination_city, origin_warehouse, '') as spelling,
    count(*) as count_shipments
from named
group by grouping sets ((month, carrier), (month, origin_city), (month, destination_city), (month, origin_warehouse))
