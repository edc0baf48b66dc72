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
with promised as (
    select
        (promised_at at time zone 'UTC')::date as day,
        carrier,
        end_state,
        delivered_at,
        delivered_at <= promised_at as is_on_time,
        delivered_at <= first_promised_at as is_first_on_time
    from analytics.judged_shipments()
    where promised_at >= :from_utc and promised_at < :until_utc and end_state <> 'cancelled'
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
    count(*) filter (where not is_first_on_time) as count_first_late
from promised
group by day, carrier
