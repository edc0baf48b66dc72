-- One row per month of the trips and lane (country and city of origin and destination) of the shipments on them.
-- table: analytics.lane_emissions
-- bucket: month
-- fact logistics.vehicle_logs: trip_date
-- fact logistics.shipments: log_id -> logistics.vehicle_logs.log_id
-- fact logistics.vehicles: vehicle_id -> logistics.vehicle_logs.vehicle_id
-- newest: logistics.vehicle_logs.trip_date
-- key: month, origin_country, origin_city, destination_country, destination_city
-- column month: first day of the month of the trips, as the source names their days. Unit: day of the source, in no known time zone. Of: shipments on trips. Null: never. Adds up: no, it is a key.
-- column origin_country: country of origin; (none) where the shipment names none. Unit: text, mapped by analytics.name_spellings. Of: shipments on trips. Null: never. Adds up: no, it is a key.
-- column origin_city: city of origin; (none) where the shipment names none. Unit: text, mapped by analytics.name_spellings. Of: shipments on trips. Null: never. Adds up: no, it is a key.
-- column destination_country: country of destination; (none) where the shipment names none. Unit: text, mapped by analytics.name_spellings. Of: shipments on trips. Null: never. Adds up: no, it is a key.
-- column destination_city: city of destination; (none) where the shipment names none. Unit: text, mapped by analytics.name_spellings. Of: shipments on trips. Null: never. Adds up: no, it is a key.
-- column count_shipments: shipments on a trip, by shipments.log_id; transports by others are not in it. Unit: number. Of: shipments on trips that are not cancelled. Null: never. Adds up: yes.
-- column count_tonne_km_known: shipments with a weight on a trip with a distance. Unit: number. Of: shipments of count_shipments. Null: never. Adds up: yes.
-- column sum_tonne_km: transport activity: weight times distance of the trip, as if each shipment went the whole way that was driven. Unit: tonne-kilometres, exact. Of: shipments of count_tonne_km_known; 0 where there is none. Null: never. Adds up: yes.
-- column count_rated: shipments of count_tonne_km_known for whose vehicle analytics.vehicle_transports and analytics.emission_factors have a factor. Unit: number. Of: shipments of count_tonne_km_known. Null: never. Adds up: yes.
-- column sum_rated_tonne_km: transport activity with a factor. Unit: tonne-kilometres, exact. Of: shipments of count_rated; 0 where there is none. Null: never. Adds up: yes.
-- column sum_co2e_kg: emissions: transport activity times the factor of mode and fuel. Unit: kg of CO2 equivalent, exact. Of: shipments of count_rated. Null: count_rated is 0. Adds up: yes.
-- column co2e_kg_per_shipment: sum_co2e_kg / count_rated. Unit: kg of CO2 equivalent, rounded to 3 places. Of: shipments of count_rated. Null: count_rated is 0. Adds up: no.
-- column co2e_g_per_tonne_km: 1000 * sum_co2e_kg / sum_rated_tonne_km. Unit: g of CO2 equivalent per tonne-kilometre, rounded to 3 places. Of: shipments of count_rated. Null: that activity is 0. Adds up: no.
with carried as (
    -- By names as they are written, so that each is looked up once a lane and not once a shipment.
    select
        -- Not date_trunc: a date may be later than any timestamp.
        logs.trip_date - extract(day from logs.trip_date)::integer + 1 as month,
        shipments.status,
        shipments.origin_country,
        shipments.origin_city,
        shipments.destination_country,
        shipments.destination_city,
        count(*) as count_shipments,
        count(shipments.weight_kg * logs.distance_km) as count_tonne_km_known,
        sum(shipments.weight_kg * logs.distance_km) as sum_kg_km,
        count(shipments.weight_kg * logs.distance_km) filter (where rated.factor is not null) as count_rated,
        sum(shipments.weight_kg * logs.distance_km) filter (where rated.factor is not null) as sum_rated_kg_km,
        sum(shipments.weight_kg * logs.distance_km * rated.factor) as sum_co2e_g
    from logistics.vehicle_logs as logs
    -- A definition of the user may lack these columns: they are unknown then.
    cross join (values (null::text, null::text, null::text, null::text, null::text, null::numeric))
        as absent (status, origin_country, origin_city, destination_country, destination_city, weight_kg)
    join lateral (
        select shipments.log_id, status, origin_country, origin_city, destination_country, destination_city, weight_kg
        from logistics.shipments
    ) as shipments on shipments.log_id = logs.log_id
    left join (
        select vehicles.vehicle_id, factors.kg_co2e_per_tonne_km as factor
        from logistics.vehicles
        join analytics.vehicle_transports as transports on transports.vehicle_type = vehicles.vehicle_type
        join analytics.emission_factors as factors on factors.mode = transports.mode and factors.fuel = transports.fuel
    ) as rated on rated.vehicle_id = logs.vehicle_id
    where logs.trip_date >= :from and logs.trip_date < :until
    group by
        month,
        shipments.status,
        shipments.origin_country,
        shipments.origin_city,
        shipments.destination_country,
        shipments.destination_city
),
named as (
    select
        carried.month,
        analytics.key_of(coalesce(from_country.name, carried.origin_country)) as origin_country,
        analytics.key_of(coalesce(from_city.name, carried.origin_city)) as origin_city,
        analytics.key_of(coalesce(to_country.name, carried.destination_country)) as destination_country,
        analytics.key_of(coalesce(to_city.name, carried.destination_city)) as destination_city,
        count_shipments,
        count_tonne_km_known,
        sum_kg_km,
        count_rated,
        sum_rated_kg_km,
        sum_co2e_g
    from carried
    left join analytics.name_spellings as from_country
        on from_country.kind = 'country' and from_country.spelling = carried.origin_country
    left join analytics.name_spellings as from_city
        on from_city.kind = 'city' and from_city.spelling = carried.origin_city
    left join analytics.name_spellings as to_country
        on to_country.kind = 'country' and to_country.spelling = carried.destination_country
    left join analytics.name_spellings as to_city
        on to_city.kind = 'city' and to_city.spelling = carried.destination_city
    where not exists (
        select
        from analytics.shipment_states as state
        where state.status = analytics.folded(carried.status) and state.meaning = 'cancelled'
    )
    offset 0
)
select
    month,
    origin_country,
    origin_city,
    destination_country,
    destination_city,
    sum(count_shipments)::bigint as count_shipments,
    sum(count_tonne_km_known)::bigint as count_tonne_km_known,
    coalesce(sum(sum_kg_km) * 0.001, 0) as sum_tonne_km,
    sum(count_rated)::bigint as count_rated,
    coalesce(sum(sum_rated_kg_km) * 0.001, 0) as sum_rated_tonne_km,
    sum(sum_co2e_g) * 0.001 as sum_co2e_kg,
    round(sum(sum_co2e_g) * 0.001 / nullif(sum(count_rated), 0), 3) as co2e_kg_per_shipment,
    round(1000 * sum(sum_co2e_g) / nullif(sum(sum_rated_kg_km), 0), 3) as co2e_g_per_tonne_km
from named
group by month, origin_country, origin_city, destination_country, destination_city
