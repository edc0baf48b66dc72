-- One row per day and vehicle.
-- table: analytics.vehicle_days
-- bucket: day
-- fact logistics.vehicle_logs: trip_date
-- fact logistics.shipments: log_id -> logistics.vehicle_logs.log_id
-- fact logistics.vehicles: vehicle_id -> logistics.vehicle_logs.vehicle_id
-- newest: logistics.vehicle_logs.trip_date
-- key: day, vehicle_id
-- column day: day of the trips (vehicle_logs.trip_date)
-- column vehicle_id: vehicle; (none) where the trip names none
-- column count_trips: trips
-- column sum_distance_km: distance in kilometres, where known
-- column sum_fuel_l: fuel in litres, where known
-- column sum_metered_distance_km: distance in kilometres of the trips that have both a distance and a fuel
-- column sum_metered_fuel_l: fuel in litres of the trips that have both a distance and a fuel
-- column fuel_l_per_100_km: 100 * sum_metered_fuel_l / sum_metered_distance_km; null where that distance is 0
-- column count_shipments: shipments carried, by shipments.log_id
-- column sum_pieces: pieces carried, where known
-- column sum_weight_kg: weight carried in kilograms, where known
-- column count_rated_trips: trips of a vehicle with a known capacity (vehicles.capacity_kg)
-- column sum_rated_weight_kg: weight carried in kilograms on these trips, where known
-- column sum_rated_capacity_kg: capacity in kilograms of the vehicles of these trips, once for each trip
-- column load_factor: sum_rated_weight_kg / sum_rated_capacity_kg; above 1: overloaded; null where that capacity is 0
with trips as (
    select *
    from logistics.vehicle_logs
    where trip_date >= :from and trip_date < :until
),
carried as (
    select
        log_id,
        count(*) as count_shipments,
        sum(pieces) as sum_pieces,
        sum(weight_kg) as sum_weight_kg
    from logistics.shipments
    where log_id in (select log_id from trips)
    group by log_id
)
select
    trips.trip_date as day,
    coalesce(trips.vehicle_id, '(none)') as vehicle_id,
    count(*) as count_trips,
    coalesce(sum(distance_km), 0) as sum_distance_km,
    coalesce(sum(fuel_l), 0) as sum_fuel_l,
    coalesce(sum(distance_km) filter (where fuel_l is not null), 0) as sum_metered_distance_km,
    coalesce(sum(fuel_l) filter (where distance_km is not null), 0) as sum_metered_fuel_l,
    round(
        100 * sum(fuel_l) filter (where distance_km is not null)
        / nullif(sum(distance_km) filter (where fuel_l is not null), 0),
        3
    ) as fuel_l_per_100_km,
    coalesce(sum(carried.count_shipments), 0)::bigint as count_shipments,
    coalesce(sum(carried.sum_pieces), 0)::bigint as sum_pieces,
    coalesce(sum(carried.sum_weight_kg), 0) as sum_weight_kg,
    count(vehicles.capacity_kg) as count_rated_trips,
    coalesce(sum(carried.sum_weight_kg) filter (where vehicles.capacity_kg is not null), 0) as sum_rated_weight_kg,
    coalesce(sum(vehicles.capacity_kg), 0) as sum_rated_capacity_kg,
    round(
        coalesce(sum(carried.sum_weight_kg) filter (where vehicles.capacity_kg is not null), 0)
        / nullif(sum(vehicles.capacity_kg), 0),
        4
    ) as load_factor
from trips
left join carried on carried.log_id = trips.log_id
left join logistics.vehicles on vehicles.vehicle_id = trips.vehicle_id
group by day, coalesce(trips.vehicle_id, '(none)')
