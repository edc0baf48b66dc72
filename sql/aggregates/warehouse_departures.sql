-- One row per day, warehouse and local day of the shipments that were booked there or left it.
-- table: analytics.warehouse_departures
-- bucket: day
-- fact logistics.shipments: (picked_up_at at time zone 'UTC')::date
-- fact logistics.shipments: (created_at at time zone 'UTC')::date
-- newest: logistics.shipments.picked_up_at
-- key: day, warehouse, local_day
-- column day: day of the creation (booked shipments) or of the pick-up (departed shipments). Unit: day (UTC). Of: shipments that are not cancelled. Null: never. Adds up: no, it is a key.
-- column warehouse: warehouse of origin; (none) where the shipment names none. Unit: text, mapped by analytics.name_spellings. Of: shipments that are not cancelled. Null: never. Adds up: no, it is a key.
-- column local_day: day of the same instant in the time zone of the warehouse in analytics.warehouse_timezones; the UTC day for a warehouse that is not there. Unit: day (local). Of: shipments that are not cancelled. Null: never. Adds up: no, it is a key.
-- column count_booked: shipments created on the day that have a pick-up time or are open; summed over all days up to one, less count_departed: the shipments that wait at the end of that day. Unit: number. Of: shipments that are not cancelled. Null: never. Adds up: yes.
-- column count_booked_waiting: shipments of count_booked that were not picked up before the end of the UTC day. Unit: number. Of: shipments of count_booked. Null: never. Adds up: yes.
-- column count_departed: shipments picked up on the day. Unit: number. Of: shipments that are not cancelled. Null: never. Adds up: yes.
-- column distinct_orders: different orders of these shipments; shipments with a missing or blank order are left out. Unit: number. Of: shipments of count_departed. Null: never. Adds up: no, an order can be in several rows.
-- column distinct_carriers: different carriers of these shipments; shipments without a carrier are left out. Unit: number. Of: shipments of count_departed. Null: never. Adds up: no, a carrier can be in several rows.
-- column count_pieces_known: shipments with a number of pieces. Unit: number. Of: shipments of count_departed. Null: never. Adds up: yes.
-- column sum_pieces: pieces. Unit: pieces. Of: shipments of count_pieces_known; 0 where there is none. Null: never. Adds up: yes.
-- column count_weighed: shipments with a weight. Unit: number. Of: shipments of count_departed. Null: never. Adds up: yes.
-- column sum_weight_kg: weight. Unit: kg, as in the data. Of: shipments of count_weighed; 0 where there is none. Null: never. Adds up: yes.
-- column count_measured: shipments with a volume. Unit: number. Of: shipments of count_departed. Null: never. Adds up: yes.
-- column sum_volume_m3: volume. Unit: m³, as in the data. Of: shipments of count_measured; 0 where there is none. Null: never. Adds up: yes.
-- column count_waited: departed shipments with waiting hours. Unit: number. Of: departed shipments that were not picked up before their creation. Null: never. Adds up: yes.
-- column count_out_of_order: departed shipments that were picked up before their creation, which have no waiting hours. Unit: number. Of: shipments of count_departed. Null: never. Adds up: yes.
-- column sum_waiting_hours: hours from creation (the booking, not the arrival at the warehouse) to pick-up, added up; shipments that still wait are not in it. Unit: hours, each shipment rounded to 6 places. Of: departed shipments that were not picked up before their creation. Null: never. Adds up: yes.
-- column avg_waiting_hours: sum_waiting_hours / count_waited. Unit: hours, rounded to 3 places. Of: departed shipments that were not picked up before their creation. Null: count_waited is 0. Adds up: no.
-- column p50_waiting_hours: median of the waiting hours. Unit: hours, rounded to 3 places. Of: departed shipments that were not picked up before their creation. Null: count_waited is below 20. Adds up: no.
-- column p90_waiting_hours: waiting hours that 90 % do not exceed (interpolated). Unit: hours, rounded to 3 places. Of: departed shipments that were not picked up before their creation. Null: count_waited is below 20. Adds up: no.
with moved as materialized (
    -- One scan for both: most shipments are booked and depart. OFFSET 0: each column is computed once for a shipment.
    select
        created_at,
        picked_up_at,
        -- UTC, without a look at the name of a time zone.
        (created_at at time zone interval '0')::date as created_day,
        (picked_up_at at time zone interval '0')::date as picked_up_day,
        warehouse,
        (select jsonb_object_agg(warehouse, timezone) from analytics.warehouse_timezones) ->> shipments.warehouse as timezone,
        order_id,
        carrier,
        pieces,
        weight_kg,
        volume_m3
    from (
        select
            created_at,
            picked_up_at,
            origin_warehouse as warehouse,
            analytics.known(order_id) as order_id,
            nullif(carrier, '(none)') as carrier,
            pieces,
            weight_kg,
            volume_m3
        from analytics.judged_shipments()
        where (picked_up_at >= :from_utc and picked_up_at < :until_utc or created_at >= :from_utc and created_at < :until_utc)
            and end_state <> 'cancelled' and (picked_up_at is not null or end_state = 'open')
        offset 0
    ) as shipments
),
departures as (
    select
        day,
        warehouse,
        local_day,
        count(*) as count_departed,
        count(distinct order_id) as distinct_orders,
        count(distinct carrier) as distinct_carriers,
        count(pieces) as count_pieces_known,
        coalesce(sum(pieces), 0) as sum_pieces,
        count(weight_kg) as count_weighed,
        coalesce(sum(weight_kg), 0) as sum_weight_kg,
        count(volume_m3) as count_measured,
        coalesce(sum(volume_m3), 0) as sum_volume_m3,
        count(waiting_hours) as count_waited,
        count(*) filter (where is_out_of_order) as count_out_of_order,
        coalesce(sum(waiting_hours), 0) as sum_waiting_hours,
        round(avg(waiting_hours), 3) as avg_waiting_hours,
        case when count(waiting_hours) >= 20
            then percentile_cont(array[0.5, 0.9]) within group (order by waiting_hours)
        end as waits
    from (
        select
            picked_up_day as day,
            warehouse,
            case when timezone is null then picked_up_day else (picked_up_at at time zone timezone)::date end as local_day,
            order_id,
            carrier,
            pieces,
            weight_kg,
            volume_m3,
            picked_up_at < created_at as is_out_of_order,
            case when picked_up_at >= created_at then analytics.hours_between(created_at, picked_up_at) end as waiting_hours
        from moved
        where picked_up_at >= :from_utc and picked_up_at < :until_utc
        offset 0
    ) as departed
    group by day, warehouse, local_day
),
bookings as (
    select
        day,
        warehouse,
        local_day,
        count(*) as count_booked,
        count(*) filter (where picked_up_day is null or picked_up_day > day) as count_booked_waiting
    from (
        select
            created_day as day,
            warehouse,
            case when timezone is null then created_day else (created_at at time zone timezone)::date end as local_day,
            picked_up_day
        from moved
        where created_at >= :from_utc and created_at < :until_utc
        offset 0
    ) as booked
    group by day, warehouse, local_day
)
select
    day,
    warehouse,
    local_day,
    coalesce(count_booked, 0) as count_booked,
    coalesce(count_booked_waiting, 0) as count_booked_waiting,
    coalesce(count_departed, 0) as count_departed,
    coalesce(distinct_orders, 0) as distinct_orders,
    coalesce(distinct_carriers, 0) as distinct_carriers,
    coalesce(count_pieces_known, 0) as count_pieces_known,
    coalesce(sum_pieces, 0) as sum_pieces,
    coalesce(count_weighed, 0) as count_weighed,
    coalesce(sum_weight_kg, 0) as sum_weight_kg,
    coalesce(count_measured, 0) as count_measured,
    coalesce(sum_volume_m3, 0) as sum_volume_m3,
    coalesce(count_waited, 0) as count_waited,
    coalesce(count_out_of_order, 0) as count_out_of_order,
    coalesce(sum_waiting_hours, 0) as sum_waiting_hours,
    avg_waiting_hours,
    round(waits[1]::numeric, 3) as p50_waiting_hours,
    round(waits[2]::numeric, 3) as p90_waiting_hours
from departures
full join bookings using (day, warehouse, local_day)
