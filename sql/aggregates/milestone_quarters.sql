-- One row per quarter, pair of countries and leg between two milestones: the percentiles that single lanes are too small for.
-- table: analytics.milestone_quarters
-- bucket: quarter
-- fact logistics.shipments: (created_at at time zone 'UTC')::date
-- fact logistics.tracking_events: shipment_id -> logistics.shipments.shipment_id
-- newest: logistics.shipments.created_at
-- key: quarter, origin_country, destination_country, leg
-- column quarter: first day of the quarter in which the shipments were created. Unit: day (UTC). Of: all shipments. Null: never. Adds up: no, it is a key.
-- column origin_country: country of origin; (none) where the shipment names none. Unit: text, mapped by analytics.name_spellings. Of: all shipments. Null: never. Adds up: no, it is a key.
-- column destination_country: country of destination; (none) where the shipment names none. Unit: text, mapped by analytics.name_spellings. Of: all shipments. Null: never. Adds up: no, it is a key.
-- column leg: pick-up to hub (first PICKED_UP to first HUB_ARRIVED), at hubs (first HUB_ARRIVED to last HUB_DEPARTED, with the way between the hubs), hub to customs (last HUB_DEPARTED to last CUSTOMS_CLEARED, mostly the import), customs to delivery (last CUSTOMS_CLEARED to first DELIVERED), hub to delivery (last HUB_DEPARTED to first DELIVERED where there is no CUSTOMS_CLEARED), or all (first PICKED_UP to first DELIVERED). Unit: text; event codes are compared without case and outer blanks. Of: shipments that are not cancelled. Null: never. Adds up: no, it is a key; legs overlap or leave gaps where milestones are missing or out of order.
-- column count_durations: shipments with events of both milestones, the later one not before the earlier one. Unit: number. Of: shipments that are not cancelled. Null: never. Adds up: yes.
-- column p50_hours: median of the hours between the milestones. Unit: hours, rounded to 3 places. Of: shipments of count_durations. Null: count_durations is below 20. Adds up: no.
-- column p90_hours: hours between the milestones that 90 % do not exceed (interpolated). Unit: hours, rounded to 3 places. Of: shipments of count_durations. Null: count_durations is below 20. Adds up: no.
-- column p95_hours: hours between the milestones that 95 % do not exceed (interpolated). Unit: hours, rounded to 3 places. Of: shipments of count_durations. Null: count_durations is below 20. Adds up: no.
with created as (
    select
        shipment_id,
        date_trunc('quarter', created_at at time zone 'UTC')::date as quarter,
        origin_country,
        destination_country
    from analytics.judged_shipments()
    where created_at >= :from_utc and created_at < :until_utc and end_state <> 'cancelled'
),
-- Joined and not looked up: a quarter is so large that one pass over its events is faster.
happened as (
    -- The first arrival and the last departure: the way between hubs counts as time at hubs.
    select
        shipment_id,
        min(occurred_at) filter (where event = 'PICKED_UP') as picked_up_at,
        min(occurred_at) filter (where event = 'HUB_ARRIVED') as hub_arrived_at,
        max(occurred_at) filter (where event = 'HUB_DEPARTED') as hub_departed_at,
        max(occurred_at) filter (where event = 'CUSTOMS_CLEARED') as customs_cleared_at,
        min(occurred_at) filter (where event = 'DELIVERED') as delivered_at
    from (
        select created.shipment_id, occurred_at, analytics.code_of(event_code) as event
        from created
        join logistics.tracking_events on tracking_events.shipment_id = created.shipment_id
        offset 0
    ) as events
    group by shipment_id
),
milestones as (
    select created.*, picked_up_at, hub_arrived_at, hub_departed_at, customs_cleared_at, delivered_at
    from created
    join happened using (shipment_id)
),
legs as (
    select
        quarter,
        origin_country,
        destination_country,
        leg.name as leg,
        analytics.hours_between(leg.began_at, leg.ended_at) as hours
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
    where leg.ended_at >= leg.began_at
),
by_leg as (
    select
        quarter,
        origin_country,
        destination_country,
        leg,
        count(*) as count_durations,
        case when count(*) >= 20 then percentile_cont(array[0.5, 0.9, 0.95]) within group (order by hours) end as durations
    from legs
    group by quarter, origin_country, destination_country, leg
)
select
    quarter,
    origin_country,
    destination_country,
    leg,
    count_durations,
    round(durations[1]::numeric, 3) as p50_hours,
    round(durations[2]::numeric, 3) as p90_hours,
    round(durations[3]::numeric, 3) as p95_hours
from by_leg
