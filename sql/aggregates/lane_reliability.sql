-- One row per month and lane (country and city of origin and destination).
-- table: analytics.lane_reliability
-- bucket: month
-- fact logistics.shipments: (created_at at time zone 'UTC')::date
-- newest: logistics.shipments.created_at
-- key: month, origin_country, origin_city, destination_country, destination_city
-- column month: first day of the month in which the shipments were created. Unit: day (UTC). Of: all shipments. Null: never. Adds up: no, it is a key.
-- column origin_country: country of origin; (none) where the shipment names none. Unit: text, mapped by analytics.name_spellings. Of: all shipments. Null: never. Adds up: no, it is a key.
-- column origin_city: city of origin; (none) where the shipment names none. Unit: text, mapped by analytics.name_spellings. Of: all shipments. Null: never. Adds up: no, it is a key.
-- column destination_country: country of destination; (none) where the shipment names none. Unit: text, mapped by analytics.name_spellings. Of: all shipments. Null: never. Adds up: no, it is a key.
-- column destination_city: city of destination; (none) where the shipment names none. Unit: text, mapped by analytics.name_spellings. Of: all shipments. Null: never. Adds up: no, it is a key.
-- column count_shipments: shipments. Unit: number. Of: shipments that are not cancelled. Null: never. Adds up: yes.
-- column count_cancelled: cancelled shipments, which no other column counts. Unit: number. Of: cancelled shipments. Null: never. Adds up: yes.
-- column count_promised: shipments with a promised time: the three counts that follow, and count_on_time and count_late. Unit: number. Of: shipments that are not cancelled. Null: never. Adds up: yes.
-- column count_promised_open: open shipments with a promised time. Unit: number. Of: shipments of count_promised. Null: never. Adds up: yes.
-- column count_promised_failed: returned or lost shipments with a promised time. Unit: number. Of: shipments of count_promised. Null: never. Adds up: yes.
-- column count_promised_untimed: delivered shipments with a promised time and without a delivery time. Unit: number. Of: shipments of count_promised. Null: never. Adds up: yes.
-- column count_on_time: shipments delivered at or before the promised time. Unit: number. Of: delivered shipments with a delivery time and a promised time. Null: never. Adds up: yes.
-- column count_late: shipments delivered after the promised time. Unit: number. Of: delivered shipments with a delivery time and a promised time. Null: never. Adds up: yes.
-- column on_time_share: count_on_time / (count_on_time + count_late); too good while many shipments are open. Unit: 0 to 1, rounded to 4 places. Of: delivered shipments with a delivery time and a promised time. Null: both are 0. Adds up: no.
-- column count_first_on_time: shipments delivered at or before the first promised time. Unit: number. Of: delivered shipments with a delivery time and a first promised time. Null: never. Adds up: yes.
-- column count_first_late: shipments delivered after the first promised time. Unit: number. Of: delivered shipments with a delivery time and a first promised time. Null: never. Adds up: yes.
-- column first_on_time_share: count_first_on_time / (count_first_on_time + count_first_late): a promise that was moved counts as it was first. Unit: 0 to 1, rounded to 4 places. Of: delivered shipments with a delivery time and a first promised time. Null: both are 0. Adds up: no.
-- column count_late_to_24_h: late shipments, at most 24 hours (rounded to 6 places) late. Unit: number. Of: late shipments. Null: never. Adds up: yes.
-- column count_late_to_72_h: late shipments, more than 24 and at most 72 hours (rounded to 6 places) late. Unit: number. Of: late shipments. Null: never. Adds up: yes.
-- column count_late_over_72_h: late shipments, more than 72 hours (rounded to 6 places) late. Unit: number. Of: late shipments. Null: never. Adds up: yes.
-- column p50_delay_hours: median of the hours from promise to delivery; below 0: early. Unit: hours, rounded to 3 places. Of: delivered shipments with a delivery time and a promised time. Null: count_on_time + count_late is below 20. Adds up: no.
-- column p90_delay_hours: hours from promise to delivery that 90 % do not exceed (interpolated); below 0: early. Unit: hours, rounded to 3 places. Of: delivered shipments with a delivery time and a promised time. Null: count_on_time + count_late is below 20. Adds up: no.
-- column p95_delay_hours: hours from promise to delivery that 95 % do not exceed (interpolated); below 0: early. Unit: hours, rounded to 3 places. Of: delivered shipments with a delivery time and a promised time. Null: count_on_time + count_late is below 20. Adds up: no.
-- column count_in_transit: open shipments with a pick-up time, whose transit hours are not known yet. Unit: number. Of: open shipments. Null: never. Adds up: yes.
-- column count_transits: shipments with transit hours. Unit: number. Of: delivered shipments with a pick-up time and a delivery time that is not before it. Null: never. Adds up: yes.
-- column count_out_of_order: shipments delivered before their pick-up, which have no transit hours. Unit: number. Of: delivered shipments with a pick-up time and a delivery time. Null: never. Adds up: yes.
-- column count_transits_to_24_h: transits of at most 24 hours (rounded to 6 places). Unit: number. Of: delivered shipments with a pick-up time and a delivery time that is not before it. Null: never. Adds up: yes.
-- column count_transits_to_48_h: transits of more than 24 and at most 48 hours (rounded to 6 places). Unit: number. Of: delivered shipments with a pick-up time and a delivery time that is not before it. Null: never. Adds up: yes.
-- column count_transits_to_96_h: transits of more than 48 and at most 96 hours (rounded to 6 places). Unit: number. Of: delivered shipments with a pick-up time and a delivery time that is not before it. Null: never. Adds up: yes.
-- column count_transits_to_168_h: transits of more than 96 and at most 168 hours (rounded to 6 places). Unit: number. Of: delivered shipments with a pick-up time and a delivery time that is not before it. Null: never. Adds up: yes.
-- column count_transits_to_336_h: transits of more than 168 and at most 336 hours (rounded to 6 places). Unit: number. Of: delivered shipments with a pick-up time and a delivery time that is not before it. Null: never. Adds up: yes.
-- column count_transits_over_336_h: transits of more than 336 hours (rounded to 6 places). Unit: number. Of: delivered shipments with a pick-up time and a delivery time that is not before it. Null: never. Adds up: yes.
-- column sum_transit_hours: hours from pick-up to delivery, added up. Unit: hours, each shipment rounded to 6 places. Of: delivered shipments with a pick-up time and a delivery time that is not before it. Null: never. Adds up: yes.
-- column sum_squared_transit_hours: squares of the transit hours, added up, from which a deviation over several rows follows. Unit: hours squared, 12 places. Of: delivered shipments with a pick-up time and a delivery time that is not before it. Null: never. Adds up: yes.
-- column avg_transit_hours: sum_transit_hours / count_transits. Unit: hours, rounded to 3 places. Of: delivered shipments with a pick-up time and a delivery time that is not before it. Null: count_transits is 0. Adds up: no.
-- column stddev_transit_hours: sample standard deviation of the transit hours. Unit: hours, rounded to 3 places. Of: delivered shipments with a pick-up time and a delivery time that is not before it. Null: count_transits is below 2. Adds up: no.
-- column p10_transit_hours: transit hours that 10 % do not exceed (interpolated). Unit: hours, rounded to 3 places. Of: delivered shipments with a pick-up time and a delivery time that is not before it. Null: count_transits is below 20. Adds up: no.
-- column p50_transit_hours: median of the transit hours. Unit: hours, rounded to 3 places. Of: delivered shipments with a pick-up time and a delivery time that is not before it. Null: count_transits is below 20. Adds up: no.
-- column p90_transit_hours: transit hours that 90 % do not exceed (interpolated). Unit: hours, rounded to 3 places. Of: delivered shipments with a pick-up time and a delivery time that is not before it. Null: count_transits is below 20. Adds up: no.
-- column p95_transit_hours: transit hours that 95 % do not exceed (interpolated). Unit: hours, rounded to 3 places. Of: delivered shipments with a pick-up time and a delivery time that is not before it. Null: count_transits is below 20. Adds up: no.
-- column spread_transit_hours: p90_transit_hours - p10_transit_hours, both rounded: how far transits differ. Unit: hours, rounded to 3 places. Of: delivered shipments with a pick-up time and a delivery time that is not before it. Null: count_transits is below 20. Adds up: no.
with created as (
    select
        date_trunc('month', created_at at time zone 'UTC')::date as month,
        origin_country,
        origin_city,
        destination_country,
        destination_city,
        promised_at,
        end_state,
        picked_up_at,
        delivered_at,
        delivered_at <= promised_at as is_on_time,
        delivered_at <= first_promised_at as is_first_on_time,
        analytics.hours_between(promised_at, delivered_at) as delay_hours,
        case when delivered_at >= picked_up_at then analytics.hours_between(picked_up_at, delivered_at) end as transit_hours
    -- OFFSET 0: each column is computed once for a shipment, and not once for each sum that reads it.
    from (
        select * from analytics.judged_shipments()
        where created_at >= :from_utc and created_at < :until_utc
        offset 0
    ) as shipments
    offset 0
),
by_lane as (
    select
        month,
        origin_country,
        origin_city,
        destination_country,
        destination_city,
        count(*) filter (where end_state <> 'cancelled') as count_shipments,
        count(*) filter (where end_state = 'cancelled') as count_cancelled,
        count(promised_at) filter (where end_state <> 'cancelled') as count_promised,
        count(promised_at) filter (where end_state = 'open') as count_promised_open,
        count(promised_at) filter (where end_state in ('returned', 'lost')) as count_promised_failed,
        count(promised_at) filter (where end_state = 'delivered' and delivered_at is null) as count_promised_untimed,
        count(*) filter (where is_on_time) as count_on_time,
        count(*) filter (where not is_on_time) as count_late,
        count(*) filter (where is_first_on_time) as count_first_on_time,
        count(*) filter (where not is_first_on_time) as count_first_late,
        round(count(*) filter (where is_first_on_time)::numeric / nullif(count(is_first_on_time), 0), 4) as first_on_time_share,
        count(*) filter (where not is_on_time and delay_hours <= 24) as count_late_to_24_h,
        count(*) filter (where not is_on_time and delay_hours > 24 and delay_hours <= 72) as count_late_to_72_h,
        count(*) filter (where not is_on_time and delay_hours > 72) as count_late_over_72_h,
        count(picked_up_at) filter (where end_state = 'open') as count_in_transit,
        count(transit_hours) as count_transits,
        count(*) filter (where delivered_at < picked_up_at) as count_out_of_order,
        count(*) filter (where transit_hours <= 24) as count_transits_to_24_h,
        count(*) filter (where transit_hours > 24 and transit_hours <= 48) as count_transits_to_48_h,
        count(*) filter (where transit_hours > 48 and transit_hours <= 96) as count_transits_to_96_h,
        count(*) filter (where transit_hours > 96 and transit_hours <= 168) as count_transits_to_168_h,
        count(*) filter (where transit_hours > 168 and transit_hours <= 336) as count_transits_to_336_h,
        count(*) filter (where transit_hours > 336) as count_transits_over_336_h,
        coalesce(sum(transit_hours), 0) as sum_transit_hours,
        coalesce(sum(transit_hours * transit_hours), 0) as sum_squared_transit_hours,
        round(avg(transit_hours), 3) as avg_transit_hours,
        round(stddev_samp(transit_hours), 3) as stddev_transit_hours,
        case when count(delay_hours) >= 20
            then percentile_cont(array[0.5, 0.9, 0.95]) within group (order by delay_hours)
        end as delays,
        case when count(transit_hours) >= 20
            then percentile_cont(array[0.1, 0.5, 0.9, 0.95]) within group (order by transit_hours)
        end as transits
    from created
    group by month, origin_country, origin_city, destination_country, destination_city
)
select
    month,
    origin_country,
    origin_city,
    destination_country,
    destination_city,
    count_shipments,
    count_cancelled,
    count_promised,
    count_promised_open,
    count_promised_failed,
    count_promised_untimed,
    count_on_time,
    count_late,
    round(count_on_time::numeric / nullif(count_on_time + count_late, 0), 4) as on_time_share,
    count_first_on_time,
    count_first_late,
    first_on_time_share,
    count_late_to_24_h,
    count_late_to_72_h,
    count_late_over_72_h,
    round(delays[1]::numeric, 3) as p50_delay_hours,
    round(delays[2]::numeric, 3) as p90_delay_hours,
    round(delays[3]::numeric, 3) as p95_delay_hours,
    count_in_transit,
    count_transits,
    count_out_of_order,
    count_transits_to_24_h,
    count_transits_to_48_h,
    count_transits_to_96_h,
    count_transits_to_168_h,
    count_transits_to_336_h,
    count_transits_over_336_h,
    sum_transit_hours,
    sum_squared_transit_hours,
    avg_transit_hours,
    stddev_transit_hours,
    round(transits[1]::numeric, 3) as p10_transit_hours,
    round(transits[2]::numeric, 3) as p50_transit_hours,
    round(transits[3]::numeric, 3) as p90_transit_hours,
    round(transits[4]::numeric, 3) as p95_transit_hours,
    round(transits[3]::numeric, 3) - round(transits[1]::numeric, 3) as spread_transit_hours
from by_lane
