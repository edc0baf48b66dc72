-- One row per month, warehouse and hour of the day in the time zone of the warehouse.
-- table: analytics.warehouse_hours
-- bucket: month
-- fact logistics.shipments: (picked_up_at at time zone 'UTC')::date
-- newest: logistics.shipments.picked_up_at
-- key: month, warehouse, local_hour
-- column month: first day of the month of the pick-up. Unit: day (UTC). Of: departed shipments. Null: never. Adds up: no, it is a key.
-- column warehouse: warehouse of origin; (none) where the shipment names none. Unit: text, mapped by analytics.name_spellings. Of: departed shipments. Null: never. Adds up: no, it is a key.
-- column local_hour: hour of the day, 0 to 23, in the time zone of the warehouse in analytics.warehouse_timezones; in UTC for a warehouse that is not there. Unit: hour of the day (local). Of: departed shipments. Null: never. Adds up: no, it is a key.
-- column count_departed: departed shipments: those picked up in the hour. Unit: number. Of: shipments that are not cancelled. Null: never. Adds up: yes.
-- column count_weekend: those picked up on a Saturday or a Sunday of the same time zone. Unit: number. Of: departed shipments. Null: never. Adds up: yes.
-- column count_pieces_known: shipments with a number of pieces. Unit: number. Of: departed shipments. Null: never. Adds up: yes.
-- column sum_pieces: pieces. Unit: pieces. Of: shipments of count_pieces_known; 0 where there is none. Null: never. Adds up: yes.
-- column count_weighed: shipments with a weight. Unit: number. Of: departed shipments. Null: never. Adds up: yes.
-- column sum_weight_kg: weight. Unit: kg, as in the data. Of: shipments of count_weighed; 0 where there is none. Null: never. Adds up: yes.
with departed as (
    select
        date_trunc('month', picked_up_at at time zone 'UTC')::date as month,
        shipments.warehouse,
        picked_up_at at time zone coalesce(warehouse_timezones.timezone, 'UTC') as local_time,
        pieces,
        weight_kg
    from (
        select picked_up_at, origin_warehouse as warehouse, pieces, weight_kg
        from analytics.judged_shipments()
        where picked_up_at >= :from_utc and picked_up_at < :until_utc and end_state <> 'cancelled'
        offset 0
    ) as shipments
    left join analytics.warehouse_timezones on warehouse_timezones.warehouse = shipments.warehouse
    offset 0
)
select
    month,
    warehouse,
    extract(hour from local_time)::integer as local_hour,
    count(*) as count_departed,
    count(*) filter (where extract(isodow from local_time) > 5) as count_weekend,
    count(pieces) as count_pieces_known,
    coalesce(sum(pieces), 0) as sum_pieces,
    count(weight_kg) as count_weighed,
    coalesce(sum(weight_kg), 0) as sum_weight_kg
from departed
group by month, warehouse, local_hour
