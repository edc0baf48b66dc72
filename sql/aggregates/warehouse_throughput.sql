-- One row per day and warehouse of the shipments that left it.
-- table: analytics.warehouse_throughput
-- bucket: day
-- fact logistics.shipments: (picked_up_at at time zone 'UTC')::date
-- newest: logistics.shipments.picked_up_at
-- key: day, warehouse
-- column day: day (UTC) on which the shipments were picked up and left the warehouse
-- column warehouse: warehouse of origin; (none) where the shipment names none
-- column count_shipments: shipments that left
-- column count_orders: orders that they serve, where known
-- column count_carriers: carriers that took them, where known
-- column sum_pieces: pieces out, where known
-- column sum_weight_kg: weight out in kilograms, where known
-- column sum_volume_m3: volume out in cubic metres, where known
-- column count_unweighed: shipments that left without a known weight
-- column sum_waiting_hours: hours from creation to pick-up, added up
-- column avg_waiting_hours: sum_waiting_hours / count_shipments
-- column p50_waiting_hours: median hours from creation to pick-up
-- column p90_waiting_hours: hours from creation to pick-up that 90 % do not exceed (interpolated)
with picked_up as (
    select
        (picked_up_at at time zone 'UTC')::date as day,
        coalesce(origin_warehouse, '(none)') as warehouse,
        order_id,
        carrier,
        pieces,
        weight_kg,
        volume_m3,
        round(extract(epoch from picked_up_at - created_at) / 3600, 6) as waiting_hours
    from logistics.shipments
    where picked_up_at >= :from_utc and picked_up_at < :until_utc
)
select
    day,
    warehouse,
    count(*) as count_shipments,
    count(distinct order_id) as count_orders,
    count(distinct carrier) as count_carriers,
    coalesce(sum(pieces), 0) as sum_pieces,
    coalesce(sum(weight_kg), 0) as sum_weight_kg,
    coalesce(sum(volume_m3), 0) as sum_volume_m3,
    count(*) - count(weight_kg) as count_unweighed,
    sum(waiting_hours) as sum_waiting_hours,
    round(avg(waiting_hours), 3) as avg_waiting_hours,
    round(percentile_cont(0.5) within group (order by waiting_hours)::numeric, 3) as p50_waiting_hours,
    round(percentile_cont(0.9) within group (order by waiting_hours)::numeric, 3) as p90_waiting_hours
from picked_up
group by day, warehouse
