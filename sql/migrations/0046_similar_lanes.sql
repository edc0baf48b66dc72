-- Which lanes behave like a lane, by the scaled features of analytics.lane_features.

-- The table is made after the migrations. As a text the body does not hold it fast: it can be made again.
set local check_function_bodies = off;

create function analytics.similar_lanes(lane jsonb, most integer default 5, in_quarter date default null) returns table (
    quarter date,
    origin_country text,
    origin_city text,
    destination_country text,
    destination_city text,
    distance numeric,
    count_compared bigint,
    count_shipments bigint,
    count_transits bigint,
    p50_transit_hours numeric,
    p90_transit_hours numeric,
    on_time_share numeric,
    cost_per_kg numeric,
    avg_promised_hours numeric,
    asked_transits bigint
)
language sql stable parallel safe
as $similar$
    with newest as (
        -- A quarter in the future is a wrong date.
        select max(features.quarter) as quarter from analytics.lane_features as features where features.quarter <= current_date
    ),
    asked as (
        select features.*
        from analytics.lane_features as features
        cross join newest
        where features.origin_country = lane ->> 0
            and features.origin_city = lane ->> 1
            and features.destination_country = lane ->> 2
            and features.destination_city = lane ->> 3
            and jsonb_array_length(lane) = 4
            and (in_quarter is null or features.quarter = date_trunc('quarter', in_quarter)::date)
        -- In the newest quarter only the fast shipments have arrived: it is taken if no other one has enough of them.
        order by
            features.count_transits >= 20 desc,
            case when features.count_transits >= 20
                then features.quarter < newest.quarter
                else features.quarter <= newest.quarter
            end desc,
            features.quarter desc
        limit 1
    )
    select
        other.quarter,
        other.origin_country,
        other.origin_city,
        other.destination_country,
        other.destination_city,
        round(sqrt(compared.squares / compared.features), 4) as distance,
        compared.features,
        other.count_shipments,
        other.count_transits,
        other.p50_transit_hours,
        other.p90_transit_hours,
        other.on_time_share,
        other.cost_per_kg,
        other.avg_promised_hours,
        asked.count_transits
    from asked
    join analytics.lane_features as other
        on other.quarter = asked.quarter
            and other.count_transits >= 20
            and (other.origin_country, other.origin_city, other.destination_country, other.destination_city)
                <> (asked.origin_country, asked.origin_city, asked.destination_country, asked.destination_city)
    cross join lateral (
        select count(each.difference) as features, sum(each.difference * each.difference) as squares
        from (
            values
                (asked.scaled_transit_p50 - other.scaled_transit_p50),
                (asked.scaled_transit_p90 - other.scaled_transit_p90),
                (asked.scaled_on_time - other.scaled_on_time),
                (asked.scaled_cost - other.scaled_cost),
                (asked.scaled_promise - other.scaled_promise),
                (asked.scaled_volume - other.scaled_volume),
                (asked.scaled_season - other.scaled_season)
        ) as each (difference)
    ) as compared
    order by
        distance,
        compared.features desc,
        other.origin_country collate "C",
        other.origin_city collate "C",
        other.destination_country collate "C",
        other.destination_city collate "C"
    limit most
$similar$;

comment on function analytics.similar_lanes(jsonb, integer, date) is 'Return the lanes most like a lane (a list of country and city of origin and destination) in a quarter, the nearest first: distance is the root of the mean square of the differences of the count_compared scaled features that both have. Lanes with fewer than 20 transits are left out; asked_transits says how many the lane itself has. Without in_quarter the newest quarter is taken in which the lane has 20 transits, and the newest one of all only where no other has them';
