-- One row per day of the source and vehicle with a trip.
-- table: analytics.vehicle_days
-- bucket: day in source_day
-- fact logistics.vehicle_logs: trip_date
-- fact logistics.shipments: log_id -> logistics.vehicle_logs.log_id
-- fact logistics.vehicles: vehicle_id -> logistics.vehicle_logs.vehicle_id
-- newest: logistics.vehicle_logs.trip_date
-- key: source_day, vehicle_id
-- column source_day: day of the trips as the source names it (vehicle_logs.trip_date). Unit: day of the source, in no known time zone. Of: trips of the key. Null: never. Adds up: no, it is a key.
-- column vehicle_id: vehicle; (none) where the trip names none; a vehicle without a trip on the day has no row. Unit: text. Of: trips of the key. Null: never. Adds up: no, it is a key.
-- column count_trips: trips. Unit: number. Of: trips of the key. Null: never. Adds up: yes.
-- column count_distance_known: trips with a distance. Unit: number. Of: trips of the key. Null: never. Adds up: yes.
-- column sum_distance_km: distance. Unit: km, as in the data. Of: trips of count_distance_known; 0 where there is none. Null: never. Adds up: yes.
-- column count_fuel_known: trips with a fuel. Unit: number. Of: trips of the key. Null: never. Adds up: yes.
-- column sum_fuel_l: fuel. Unit: litres, as in the data. Of: trips of count_fuel_known; 0 where there is none. Null: never. Adds up: yes.
-- column sum_metered_distance_km: distance. Unit: km, as in the data. Of: trips that have both a distance and a fuel; 0 where there is none. Null: never. Adds up: yes.
-- column sum_metered_fuel_l: fuel. Unit: litres, as in the data. Of: trips that have both a distance and a fuel; 0 where there is none. Null: never. Adds up: yes.
-- column fuel_l_per_100_km: 100 * sum_metered_fuel_l / sum_metered_distance_km. Unit: litres per 100 km, rounded to 3 places. Of: trips that have both a distance and a fuel. Null: that distance is 0. Adds up: no.
-- column count_split_trips: trips with a distance and the part of it that was driven empty. Unit: number. Of: trips of the key. Null: never. Adds up: yes.
-- column sum_split_distance_km: distance. Unit: km, as in the data. Of: trips of count_split_trips; 0 where there is none. Null: never. Adds up: yes.
-- column sum_empty_km: distance driven without a load. Unit: km, as in the data. Of: trips of count_split_trips; 0 where there is none. Null: never. Adds up: yes.
-- column empty_km_share: sum_empty_km / sum_split_distance_km. Unit: 0 to 1, rounded to 4 places. Of: trips of count_split_trips. Null: that distance is 0. Adds up: no.
-- column count_shipments: shipments carried, by shipments.log_id. Unit: number. Of: shipments on these trips that are not cancelled. Null: never. Adds up: yes.
-- column count_pieces_known: shipments with a number of pieces. Unit: number. Of: shipments of count_shipments. Null: never. Adds up: yes.
-- column sum_pieces: pieces carried. Unit: pieces. Of: shipments of count_pieces_known; 0 where there is none. Null: never. Adds up: yes.
-- column count_weighed: shipments with a weight. Unit: number. Of: shipments of count_shipments. Null: never. Adds up: yes.
-- column count_unweighed: shipments without a weight; their trips are not rated. Unit: number. Of: shipments of count_shipments. Null: never. Adds up: yes.
-- column sum_weight_kg: weight carried. Unit: kg, as in the data. Of: shipments of count_weighed; 0 where there is none. Null: never. Adds up: yes.
-- column count_rated_trips: trips with a load factor. Unit: number. Of: rated trips: the capacity of the vehicle is known now, and every shipment on the trip has a weight. Null: never. Adds up: yes.
-- column sum_rated_weight_kg: weight carried. Unit: kg, as in the data. Of: rated trips: the capacity of the vehicle is known now, and every shipment on the trip has a weight; 0 where there is none. Null: never. Adds up: yes.
-- column sum_rated_capacity_kg: capacity of the vehicle as vehicles.capacity_kg is now, not as it was then, once for each trip. Unit: kg, as in the data. Of: rated trips: the capacity of the vehicle is known now, and every shipment on the trip has a weight; 0 where there is none. Null: never. Adds up: yes.
-- column load_factor: sum_rated_weight_kg / sum_rated_capacity_kg; above 1: overloaded, or loaded again after an unloading on the way. Unit: kg per kg, rounded to 4 places. Of: rated trips: the capacity of the vehicle is known now, and every shipment on the trip has a weight. Null: that capacity is 0. Adds up: no.
-- column sum_tonne_km: weight carried times distance of the trip, as if each shipment went the whole way. Unit: tonne-kilometres, exact. Of: rated trips with a distance; 0 where there is none. Null: never. Adds up: yes.
-- column sum_capacity_tonne_km: capacity of the vehicle now times distance of the trip. Unit: tonne-kilometres, exact. Of: rated trips with a distance; 0 where there is none. Null: never. Adds up: yes.
-- column tonne_km_load_factor: sum_tonne_km / sum_capacity_tonne_km: the load factor by distance. Unit: tonne-kilometres per tonne-kilometre, rounded to 4 places. Of: rated trips with a distance. Null: that capacity is 0. Adds up: no.
with trips as (
    select logs.*
    -- A definition of the user may lack empty_km: it is unknown then.
    from (values (null::numeric)) as absent (empty_km)
    cross join lateral (
        select log_id, vehicle_id, trip_date, distance_km, fuel_l, empty_km
        from logistics.vehicle_logs
        where trip_date >= :from and trip_date < :until
    ) as logs
),
carried as (
    select
        log_id,
        count(*) as count_shipments,
        count(pieces) as count_pieces_known,
        sum(pieces) as sum_pieces,
        count(weight_kg) as count_weighed,
        sum(weight_kg) as sum_weight_kg
    from logistics.shipments
    where log_id in (select log_id from trips)
        and not exists (
            select
            from analytics.shipment_states as state
            where state.status = analytics.folded(shipments.status) and state.meaning = 'cancelled'
        )
    group by log_id
),
loaded as (
    select
        trips.trip_date as source_day,
        analytics.key_of(trips.vehicle_id) as vehicle_id,
        trips.distance_km,
        trips.fuel_l,
        trips.empty_km,
        coalesce(carried.count_shipments, 0) as count_shipments,
        coalesce(carried.count_pieces_known, 0) as count_pieces_known,
        carried.sum_pieces,
        coalesce(carried.count_weighed, 0) as count_weighed,
        coalesce(carried.sum_weight_kg, 0) as weight_kg,
        -- A shipment without a weight would make a full vehicle look empty.
        case when coalesce(carried.count_shipments = carried.count_weighed, true) then vehicles.capacity_kg end
            as rated_capacity_kg
    from trips
    left join carried on carried.log_id = trips.log_id
    left join logistics.vehicles on vehicles.vehicle_id = trips.vehicle_id
)
select
    source_day,
    vehicle_id,
    count(*) as count_trips,
    count(distance_km) as count_distance_known,
    coalesce(sum(distance_km), 0) as sum_distance_km,
    count(fuel_l) as count_fuel_known,
    coalesce(sum(fuel_l), 0) as sum_fuel_l,
    coalesce(sum(distance_km) filter (where fuel_l is not null), 0) as sum_metered_distance_km,
    coalesce(sum(fuel_l) filter (where distance_km is not null), 0) as sum_metered_fuel_l,
    round(
        100 * sum(fuel_l) filter (where distance_km is not null)
        / nullif(sum(distance_km) filter (where fuel_l is not null), 0),
        3
    ) as fuel_l_per_100_km,
    count(*) filter (where distance_km is not null and empty_km is not null) as count_split_trips,
    coalesce(sum(distance_km) filter (where empty_km is not null), 0) as sum_split_distance_km,
    coalesce(sum(empty_km) filter (where distance_km is not null), 0) as sum_empty_km,
    round(
        sum(empty_km) filter (where distance_km is not null)
        / nullif(sum(distance_km) filter (where empty_km is not null), 0),
        4
    ) as empty_km_share,
    sum(count_shipments)::bigint as count_shipments,
    sum(count_pieces_known)::bigint as count_pieces_known,
    coalesce(sum(sum_pieces), 0)::bigint as sum_pieces,
    sum(count_weighed)::bigint as count_weighed,
    sum(count_shipments - count_weighed)::bigint as count_unweighed,
    sum(weight_kg) as sum_weight_kg,
    count(rated_capacity_kg) as count_rated_trips,
    coalesce(sum(weight_kg) filter (where rated_capacity_kg is not null), 0) as sum_rated_weight_kg,
    coalesce(sum(rated_capacity_kg), 0) as sum_rated_capacity_kg,
    round(
        sum(weight_kg) filter (where rated_capacity_kg is not null) / nullif(sum(rated_capacity_kg), 0), 4
    ) as load_factor,
    coalesce(sum(weight_kg * distance_km) filter (where rated_capacity_kg is not null) * 0.001, 0) as sum_tonne_km,
    coalesce(sum(rated_capacity_kg * distance_km) * 0.001, 0) as sum_capacity_tonne_km,
    round(
        sum(weight_kg * distance_km) filter (where rated_capacity_kg is not null)
        / nullif(sum(rated_capacity_kg * distance_km), 0),
        4
    ) as tonne_km_load_factor
from loaded
group by source_day, vehicle_id
