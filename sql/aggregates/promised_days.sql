-- One row per day of the promise and carrier.
-- table: analytics.promised_days
-- bucket: day
-- fact logistics.shipments: (promised_at at time zone 'UTC')::date
-- newest: logistics.shipments.created_at
-- key: day, carrier
-- column day: day of the promised time, which may be to come. Unit: day (UTC). Of: shipments of count_due. Null: never. Adds up: no, it is a key.
-- column carrier: carrier; (none) where the shipment names none. Unit: text, mapped by analytics.name_spellings. Of: shipments of count_due. Null: never. Adds up: no, it is a key.
-- column month: first day of the month of the promise, to group by. Unit: day (UTC). Of: shipments of count_due. Null: never. Adds up: no.
-- column count_due: shipments with a promised time on the day. Unit: number. Of: shipments that are not cancelled. Null: never. Adds up: yes.
-- column count_on_time: shipments delivered at or before the promised time. Unit: number. Of: shipments of count_due. Null: never. Adds up: yes.
-- column count_late: shipments delivered after the promised time. Unit: number. Of: shipments of count_due. Null: never. Adds up: yes.
-- column count_untimed: delivered shipments without a delivery time. Unit: number. Of: shipments of count_due. Null: never. Adds up: yes.
-- column count_failed: returned or lost shipments. Unit: number. Of: shipments of count_due. Null: never. Adds up: yes.
-- column count_open: shipments that are neither delivered nor returned nor lost; overdue if the promise is past. Unit: number. Of: shipments of count_due. Null: never. Adds up: yes.
-- column on_time_share: count_on_time / (count_on_time + count_late); compare it for days with few count_open only. Unit: 0 to 1, rounded to 4 places. Of: delivered shipments with a delivery time and a promised time. Null: both are 0. Adds up: no.
-- column kept_share: count_on_time / (count_due - count_untimed): open, returned and lost shipments count as not on time. Unit: 0 to 1, rounded to 4 places. Of: shipments of count_due but count_untimed. Null: that number is 0. Adds up: no.
-- column count_first_on_time: shipments delivered at or before the first promised time. Unit: number. Of: shipments of count_due. Null: never. Adds up: yes.
-- column count_first_late: shipments delivered after the first promised time. Unit: number. Of: shipments of count_due. Null: never. Adds up: yes.
-- column week: first day (Monday) of the ISO week of the promise, to group by. Unit: day (UTC). Of: shipments of count_due. Null: never. Adds up: no.
-- column count_moved_later: shipments whose promised time is later than the first one; a promise that was moved and moved back is not counted. Unit: number. Of: shipments of count_due. Null: never. Adds up: yes.
-- column count_moved_earlier: shipments whose promised time is earlier than the first one. Unit: number. Of: shipments of count_due. Null: never. Adds up: yes.
-- column count_on_time_by_move: shipments delivered after the first promised time, and at or before the last. Unit: number. Of: shipments of count_moved_later. Null: never. Adds up: yes.
-- column count_moved_to_24_h: shipments moved later by 24 hours or less. Unit: number. Of: shipments of count_moved_later. Null: never. Adds up: yes.
-- column count_moved_to_72_h: shipments moved later by more than 24 hours and at most 72. Unit: number. Of: shipments of count_moved_later. Null: never. Adds up: yes.
-- column count_moved_over_72_h: shipments moved later by more than 72 hours. Unit: number. Of: shipments of count_moved_later. Null: never. Adds up: yes.
-- column sum_moved_later_hours: hours from the first promised time to the last, added up. Unit: hours, each shipment rounded to 6 places. Of: shipments of count_moved_later. Null: never. Adds up: yes.
-- column sum_moved_earlier_hours: hours from the last promised time to the first, added up. Unit: hours, each shipment rounded to 6 places. Of: shipments of count_moved_earlier. Null: never. Adds up: yes.
-- column max_moved_later_hours: hours by which a promise was moved furthest. Unit: hours, rounded to 6 places. Of: shipments of count_moved_later. Null: count_moved_later is 0. Adds up: no, take the maximum.
-- column count_quantified: shipments of which the ordered and the delivered quantity are known. Unit: number. Of: shipments of count_on_time and count_late. Null: never. Adds up: yes.
-- column count_in_full: shipments with a delivered quantity that is not below the ordered one. Unit: number. Of: shipments of count_quantified. Null: never. Adds up: yes.
-- column count_on_time_in_full: shipments delivered in full, and at or before the promised time. Unit: number. Of: shipments of count_quantified. Null: never. Adds up: yes.
-- column in_full_share: count_in_full / count_quantified. Unit: 0 to 1, rounded to 4 places. Of: shipments of count_quantified. Null: count_quantified is 0. Adds up: no.
-- column on_time_in_full_share: count_on_time_in_full / count_quantified (OTIF); compare it for days with few count_open only. Unit: 0 to 1, rounded to 4 places. Of: shipments of count_quantified. Null: count_quantified is 0. Adds up: no.
-- column kept_in_full_share: count_on_time_in_full / (count_quantified + count_open + count_failed): open, returned and lost shipments count as not kept. Unit: 0 to 1, rounded to 4 places. Of: shipments of count_quantified, count_open and count_failed. Null: count_quantified is 0. Adds up: no.
-- column sum_ordered_quantity: ordered units. Unit: units, as in the data. Of: shipments of count_quantified; 0 where there is none. Null: never. Adds up: yes.
-- column sum_delivered_quantity: delivered units, also those that were not ordered. Unit: units, as in the data. Of: shipments of count_quantified; 0 where there is none. Null: never. Adds up: yes.
-- column sum_missing_quantity: ordered units that were not delivered. Unit: units, as in the data. Of: shipments of count_quantified that are not in full; 0 where there is none. Null: never. Adds up: yes.
-- column fill_rate: (sum_ordered_quantity - sum_missing_quantity) / sum_ordered_quantity. Unit: 0 to 1, rounded to 4 places. Of: shipments of count_quantified. Null: sum_ordered_quantity is 0. Adds up: no.
with promised as (
    select
        (promised_at at time zone 'UTC')::date as day,
        carrier,
        end_state,
        delivered_at,
        delivered_at <= promised_at as is_on_time,
        delivered_at <= first_promised_at as is_first_on_time,
        promised_at > first_promised_at as is_later,
        case when promised_at <> first_promised_at then analytics.hours_between(first_promised_at, promised_at) end as moved_hours,
        -- Of a delivery time that the status contradicts, no quantity counts.
        case when delivered_at is not null then delivered_quantity >= ordered_quantity end as is_in_full,
        case when delivered_at is not null and delivered_quantity is not null then ordered_quantity end as ordered_quantity,
        case when delivered_at is not null and ordered_quantity is not null then delivered_quantity end as delivered_quantity
    from (
        select * from analytics.quantified_shipments()
        where promised_at >= :from_utc and promised_at < :until_utc and end_state <> 'cancelled'
        offset 0
    ) as shipments
    -- OFFSET 0: each column is computed once for a shipment, and not once for each sum that reads it.
    offset 0
)
select
    day,
    carrier,
    date_trunc('month', day)::date as month,
    count(*) as count_due,
    count(*) filter (where is_on_time) as count_on_time,
    count(*) filter (where not is_on_time) as count_late,
    count(*) filter (where end_state = 'delivered' and delivered_at is null) as count_untimed,
    count(*) filter (where end_state in ('returned', 'lost')) as count_failed,
    count(*) filter (where end_state = 'open') as count_open,
    round(count(*) filter (where is_on_time)::numeric / nullif(count(is_on_time), 0), 4) as on_time_share,
    round(
        count(*) filter (where is_on_time)::numeric
        / nullif(count(*) filter (where end_state <> 'delivered' or delivered_at is not null), 0),
        4
    ) as kept_share,
    count(*) filter (where is_first_on_time) as count_first_on_time,
    count(*) filter (where not is_first_on_time) as count_first_late,
    date_trunc('week', day)::date as week,
    count(*) filter (where is_later) as count_moved_later,
    count(moved_hours) filter (where not is_later) as count_moved_earlier,
    count(*) filter (where is_later and is_on_time and not is_first_on_time) as count_on_time_by_move,
    count(*) filter (where is_later and moved_hours <= 24) as count_moved_to_24_h,
    count(*) filter (where is_later and moved_hours > 24 and moved_hours <= 72) as count_moved_to_72_h,
    count(*) filter (where is_later and moved_hours > 72) as count_moved_over_72_h,
    coalesce(sum(moved_hours) filter (where is_later), 0) as sum_moved_later_hours,
    coalesce(-sum(moved_hours) filter (where not is_later), 0) as sum_moved_earlier_hours,
    max(moved_hours) filter (where is_later) as max_moved_later_hours,
    count(is_in_full) as count_quantified,
    count(*) filter (where is_in_full) as count_in_full,
    count(*) filter (where is_in_full and is_on_time) as count_on_time_in_full,
    round(count(*) filter (where is_in_full)::numeric / nullif(count(is_in_full), 0), 4) as in_full_share,
    round(count(*) filter (where is_in_full and is_on_time)::numeric / nullif(count(is_in_full), 0), 4)
        as on_time_in_full_share,
    case when count(is_in_full) > 0 then
        round(
            count(*) filter (where is_in_full and is_on_time)::numeric
            / (count(is_in_full) + count(*) filter (where end_state in ('open', 'returned', 'lost'))),
            4
        )
    end as kept_in_full_share,
    coalesce(sum(ordered_quantity), 0) as sum_ordered_quantity,
    coalesce(sum(delivered_quantity), 0) as sum_delivered_quantity,
    coalesce(sum(ordered_quantity - delivered_quantity) filter (where not is_in_full), 0) as sum_missing_quantity,
    round(
        1 - coalesce(sum(ordered_quantity - delivered_quantity) filter (where not is_in_full), 0)
        / nullif(sum(ordered_quantity), 0),
        4
    ) as fill_rate
from promised
group by day, carrier
