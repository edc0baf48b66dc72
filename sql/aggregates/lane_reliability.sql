-- One row per month and lane (country and city of origin and destination).
-- table: analytics.lane_reliability
-- bucket: month
-- fact logistics.shipments: (created_at at time zone 'UTC')::date
-- newest: logistics.shipments.created_at
-- key: month, origin_country, origin_city, destination_country, destination_city
-- column month: first day of the month (UTC) in which the shipments were created
-- column origin_country: country of origin; (none) where the shipment names none
-- column origin_city: city of origin; (none) where the shipment names none
-- column destination_country: country of destination; (none) where the shipment names none
-- column destination_city: city of destination; (none) where the shipment names none
-- column count_shipments: shipments
-- column count_promised: shipments with a promised time
-- column count_undelivered: shipments with a promised time and without a delivery time
-- column count_on_time: shipments delivered at or before the promised time
-- column count_late: shipments delivered after the promised time
-- column on_time_share: count_on_time / (count_on_time + count_late), 0 to 1; null where both are 0
-- column count_late_to_24_h: late shipments, at most 24 hours late
-- column count_late_to_72_h: late shipments, more than 24 and at most 72 hours late
-- column count_late_over_72_h: late shipments, more than 72 hours late
-- column p50_delay_hours: median of the hours from promise to delivery; below 0: early
-- column p90_delay_hours: hours from promise to delivery that 90 % do not exceed (interpolated); below 0: early
-- column p95_delay_hours: hours from promise to delivery that 95 % do not exceed (interpolated); below 0: early
-- column count_transits: shipments with a pick-up and a delivery time, which have transit hours
-- column count_transits_to_24_h: transits of at most 24 hours
-- column count_transits_to_48_h: transits of more than 24 and at most 48 hours
-- column count_transits_to_96_h: transits of more than 48 and at most 96 hours
-- column count_transits_to_168_h: transits of more than 96 and at most 168 hours
-- column count_transits_to_336_h: transits of more than 168 and at most 336 hours
-- column count_transits_over_336_h: transits of more than 336 hours
-- column sum_transit_hours: hours from pick-up to delivery, added up
-- column sum_squared_transit_hours: squares of the transit hours, added up (gives a deviation over rows)
-- column avg_transit_hours: mean transit hours
-- column stddev_transit_hours: sample standard deviation of the transit hours; null below two transits
-- column p10_transit_hours: transit hours that 10 % do not exceed (interpolated)
-- column p50_transit_hours: median transit hours
-- column p90_transit_hours: transit hours that 90 % do not exceed (interpolated)
-- column p95_transit_hours: transit hours that 95 % do not exceed (interpolated)
-- column spread_transit_hours: hours between the tenth and the ninetieth percentile: how far transits differ
with created as (
    select
        date_trunc('month', created_at at time zone 'UTC')::date as month,
        coalesce(origin_country, '(none)') as origin_country,
        coalesce(origin_city, '(none)') as origin_city,
        coalesce(destination_country, '(none)') as destination_country,
        coalesce(destination_city, '(none)') as destination_city,
        promised_at,
        delivered_at,
        delivered_at <= promised_at as is_on_time,
        -- Rounded in each shipment: sums of any grain then agree to the last digit.
        round(extract(epoch from delivered_at - promised_at) / 3600, 6) as delay_hours,
        round(extract(epoch from delivered_at - picked_up_at) / 3600, 6) as transit_hours
    from logistics.shipments
    where created_at >= :from_utc and created_at < :until_utc
),
by_lane as (
    select
        month,
        origin_country,
        origin_city,
        destination_country,
        destination_city,
        count(*) as count_shipments,
        count(promised_at) as count_promised,
        count(promised_at) filter (where delivered_at is null) as count_undelivered,
        count(*) filter (where is_on_time) as count_on_time,
        count(*) filter (where not is_on_time) as count_late,
        count(*) filter (where not is_on_time and delay_hours <= 24) as count_late_to_24_h,
        count(*) filter (where not is_on_time and delay_hours > 24 and delay_hours <= 72) as count_late_to_72_h,
        count(*) filter (where not is_on_time and delay_hours > 72) as count_late_over_72_h,
        percentile_cont(array[0.5, 0.9, 0.95]) within group (order by delay_hours) as delays,
        count(transit_hours) as count_transits,
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
        percentile_cont(array[0.1, 0.5, 0.9, 0.95]) within group (order by transit_hours) as transits
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
    count_promised,
    count_undelivered,
    count_on_time,
    count_late,
    round(count_on_time::numeric / nullif(count_on_time + count_late, 0), 4) as on_time_share,
    count_late_to_24_h,
    count_late_to_72_h,
    count_late_over_72_h,
    round(delays[1]::numeric, 3) as p50_delay_hours,
    round(delays[2]::numeric, 3) as p90_delay_hours,
    round(delays[3]::numeric, 3) as p95_delay_hours,
    count_transits,
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
