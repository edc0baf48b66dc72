-- One row per month, lane (country and city of origin and destination) and leg between two milestones.
-- table: analytics.milestone_durations
-- bucket: month
-- fact logistics.shipments: (created_at at time zone 'UTC')::date
-- fact logistics.tracking_events: shipment_id -> logistics.shipments.shipment_id
-- newest: logistics.shipments.created_at
-- key: month, origin_country, origin_city, destination_country, destination_city, leg
-- column month: first day of the month (UTC) in which the shipments were created
-- column origin_country: country of origin; (none) where the shipment names none
-- column origin_city: city of origin; (none) where the shipment names none
-- column destination_country: country of destination; (none) where the shipment names none
-- column destination_city: city of destination; (none) where the shipment names none
-- column leg: pick-up to hub, at hubs, hub to customs, customs to delivery, hub to delivery (no customs), or all
-- column count_shipments: shipments with events of both milestones, in any order
-- column count_out_of_order: shipments of these whose later milestone is before the earlier one; they have no hours
-- column count_durations: shipments of these that have hours
-- column sum_hours: hours between the milestones, added up
-- column avg_hours: mean hours
-- column p50_hours: median hours
-- column p90_hours: hours that 90 % do not exceed (interpolated)
-- column p95_hours: hours that 95 % do not exceed (interpolated)
-- column max_hours: longest hours
with created as (
    select
        shipment_id,
        date_trunc('month', created_at at time zone 'UTC')::date as month,
        coalesce(origin_country, '(none)') as origin_country,
        coalesce(origin_city, '(none)') as origin_city,
        coalesce(destination_country, '(none)') as destination_country,
        coalesce(destination_city, '(none)') as destination_city
    from logistics.shipments
    where created_at >= :from_utc and created_at < :until_utc
),
milestones as (
    -- The first arrival and the last departure: the way between hubs counts as time at hubs.
    -- Looked up for each shipment, so that a month reads its own events and not those of all years.
    select
        created.*,
        happened.*
    from created
    cross join lateral (
        select
            min(occurred_at) filter (where event_code = 'PICKED_UP') as picked_up_at,
            min(occurred_at) filter (where event_code = 'HUB_ARRIVED') as hub_arrived_at,
            max(occurred_at) filter (where event_code = 'HUB_DEPARTED') as hub_departed_at,
            min(occurred_at) filter (where event_code = 'CUSTOMS_CLEARED') as customs_cleared_at,
            min(occurred_at) filter (where event_code = 'DELIVERED') as delivered_at
        from logistics.tracking_events
        where tracking_events.shipment_id = created.shipment_id
    ) as happened
),
legs as (
    select
        milestones.*,
        leg.name as leg,
        leg.ended_at < leg.began_at as is_out_of_order,
        case when leg.ended_at >= leg.began_at
            then round(extract(epoch from leg.ended_at - leg.began_at) / 3600, 6)
        end as hours
    from milestones
    cross join lateral (
        values
            ('pick-up to hub', picked_up_at, hub_arrived_at),
            ('at hubs', hub_arrived_at, hub_departed_at),
            ('hub to customs', hub_departed_at, customs_cleared_at),
            ('customs to delivery', customs_cleared_at, delivered_at),
            ('hub to delivery', case when customs_cleared_at is null then hub_departed_at end, delivered_at),
            ('all', picked_up_at, delivered_at)
    ) as leg (name, began_at, ended_at)
    where leg.began_at is not null and leg.ended_at is not null
)
select
    month,
    origin_country,
    origin_city,
    destination_country,
    destination_city,
    leg,
    count(*) as count_shipments,
    count(*) filter (where is_out_of_order) as count_out_of_order,
    count(hours) as count_durations,
    coalesce(sum(hours), 0) as sum_hours,
    round(avg(hours), 3) as avg_hours,
    round(percentile_cont(0.5) within group (order by hours)::numeric, 3) as p50_hours,
    round(percentile_cont(0.9) within group (order by hours)::numeric, 3) as p90_hours,
    round(percentile_cont(0.95) within group (order by hours)::numeric, 3) as p95_hours,
    round(max(hours), 3) as max_hours
from legs
group by month, origin_country, origin_city, destination_country, destination_city, leg
