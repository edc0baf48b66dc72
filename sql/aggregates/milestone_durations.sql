-- One row per month, lane (country and city of origin and destination) and leg between two milestones.
-- table: analytics.milestone_durations
-- bucket: month
-- fact logistics.shipments: (created_at at time zone 'UTC')::date
-- fact logistics.tracking_events: shipment_id -> logistics.shipments.shipment_id
-- newest: logistics.shipments.created_at
-- key: month, origin_country, origin_city, destination_country, destination_city, leg
-- column month: first day of the month in which the shipments were created. Unit: day (UTC). Of: all shipments. Null: never. Adds up: no, it is a key.
-- column origin_country: country of origin; (none) where the shipment names none. Unit: text, mapped by analytics.name_spellings. Of: all shipments. Null: never. Adds up: no, it is a key.
-- column origin_city: city of origin; (none) where the shipment names none. Unit: text, mapped by analytics.name_spellings. Of: all shipments. Null: never. Adds up: no, it is a key.
-- column destination_country: country of destination; (none) where the shipment names none. Unit: text, mapped by analytics.name_spellings. Of: all shipments. Null: never. Adds up: no, it is a key.
-- column destination_city: city of destination; (none) where the shipment names none. Unit: text, mapped by analytics.name_spellings. Of: all shipments. Null: never. Adds up: no, it is a key.
-- column leg: pick-up to hub (first PICKED_UP to first HUB_ARRIVED), at hubs (first HUB_ARRIVED to last HUB_DEPARTED, with the way between the hubs), hub to customs (last HUB_DEPARTED to last CUSTOMS_CLEARED, mostly the import), customs to delivery (last CUSTOMS_CLEARED to first DELIVERED), hub to delivery (last HUB_DEPARTED to first DELIVERED where there is no CUSTOMS_CLEARED), or all (first PICKED_UP to first DELIVERED). Unit: text; event codes are compared without case and outer blanks. Of: shipments that are not cancelled. Null: never. Adds up: no, it is a key; legs overlap or leave gaps where milestones are missing or out of order.
-- column count_shipments: shipments with events of both milestones, in any order. Unit: number. Of: shipments that are not cancelled. Null: never. Adds up: yes.
-- column count_out_of_order: shipments whose later milestone is before the earlier one, which have no hours. Unit: number. Of: shipments of count_shipments. Null: never. Adds up: yes.
-- column count_durations: shipments that have hours. Unit: number. Of: shipments of count_shipments. Null: never. Adds up: yes.
-- column count_differing: shipments whose first DELIVERED event is not at shipments.delivered_at; their hours are not the transit hours of other tables. Unit: number. Of: shipments of count_shipments. Null: the leg does not end with the delivery. Adds up: yes.
-- column sum_hours: hours between the milestones, added up. Unit: hours, each shipment rounded to 6 places. Of: shipments of count_durations. Null: never. Adds up: yes.
-- column avg_hours: sum_hours / count_durations. Unit: hours, rounded to 3 places. Of: shipments of count_durations. Null: count_durations is 0. Adds up: no.
-- column p50_hours: median of the hours. Unit: hours, rounded to 3 places. Of: shipments of count_durations. Null: count_durations is below 20. Adds up: no.
-- column p90_hours: hours that 90 % do not exceed (interpolated). Unit: hours, rounded to 3 places. Of: shipments of count_durations. Null: count_durations is below 20. Adds up: no.
-- column p95_hours: hours that 95 % do not exceed (interpolated). Unit: hours, rounded to 3 places. Of: shipments of count_durations. Null: count_durations is below 20. Adds up: no.
-- column max_hours: longest hours. Unit: hours, each shipment rounded to 6 places. Of: shipments of count_durations. Null: count_durations is 0. Adds up: no, take the maximum.
with happened as (
    -- The first arrival and the last departure: the way between hubs counts as time at hubs.
    -- Joined and not looked up one by one: the planner takes the index for a month and one pass over the events for all.
    select
        shipment_id,
        min(occurred_at) filter (where event = 'PICKED_UP') as picked_up_at,
        min(occurred_at) filter (where event = 'HUB_ARRIVED') as hub_arrived_at,
        max(occurred_at) filter (where event = 'HUB_DEPARTED') as hub_departed_at,
        max(occurred_at) filter (where event = 'CUSTOMS_CLEARED') as customs_cleared_at,
        min(occurred_at) filter (where event = 'DELIVERED') as delivered_at
    from (
        select tracking_events.shipment_id, occurred_at, analytics.code_of(event_code) as event
        from logistics.tracking_events
        join logistics.shipments on shipments.shipment_id = tracking_events.shipment_id
        where created_at >= :from_utc and created_at < :until_utc
        offset 0
    ) as events
    group by shipment_id
),
milestones as (
    select
        date_trunc('month', created_at at time zone 'UTC')::date as month,
        origin_country,
        origin_city,
        destination_country,
        destination_city,
        -- Sorted by a number first: comparing texts took a tenth of the time. The keys after it divide equal numbers.
        hashtextextended(origin_country || ' ' || origin_city || ' ' || destination_country || ' ' || destination_city, 0) as place,
        stated_delivered_at,
        happened.picked_up_at,
        hub_arrived_at,
        hub_departed_at,
        customs_cleared_at,
        happened.delivered_at
    from (
        select * from analytics.judged_shipments()
        where created_at >= :from_utc and created_at < :until_utc and end_state <> 'cancelled'
    ) as shipments
    join happened using (shipment_id)
    -- Sorted here, where a shipment is one row, for the grouping of its up to six legs below.
    order by place, month, origin_country, origin_city, destination_country, destination_city
    offset 0
),
legs as (
    select
        milestones.*,
        leg.name as leg,
        leg.ended_at < leg.began_at as is_out_of_order,
        case when leg.ended_at >= leg.began_at then analytics.hours_between(leg.began_at, leg.ended_at) end as hours
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
    case when leg in ('customs to delivery', 'hub to delivery', 'all')
        then count(*) filter (where delivered_at is distinct from stated_delivered_at)
    end as count_differing,
    coalesce(sum(hours), 0) as sum_hours,
    round(avg(hours), 3) as avg_hours,
    round((case when count(hours) >= 20 then percentile_cont(0.5) within group (order by hours) end)::numeric, 3) as p50_hours,
    round((case when count(hours) >= 20 then percentile_cont(0.9) within group (order by hours) end)::numeric, 3) as p90_hours,
    round((case when count(hours) >= 20 then percentile_cont(0.95) within group (order by hours) end)::numeric, 3) as p95_hours,
    max(hours) as max_hours
from legs
group by place, month, origin_country, origin_city, destination_country, destination_city, leg
