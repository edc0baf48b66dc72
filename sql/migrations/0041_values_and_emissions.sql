-- What value at risk, claims and emissions need beside the judged shipments.

create table analytics.vehicle_transports (
    vehicle_type text primary key,
    mode text not null,
    fuel text not null
);

comment on table analytics.vehicle_transports is 'One row per type of vehicle, with what it is to a factor of emissions; empty until you fill it';
comment on column analytics.vehicle_transports.vehicle_type is 'type of vehicle exactly as it is in logistics.vehicles';
comment on column analytics.vehicle_transports.mode is 'mode of transport of its factor, such as road, van';
comment on column analytics.vehicle_transports.fuel is 'fuel of its factor, such as diesel or electricity';

create table analytics.emission_factors (
    mode text not null,
    fuel text not null,
    kg_co2e_per_tonne_km numeric not null check (kg_co2e_per_tonne_km >= 0 and kg_co2e_per_tonne_km < 'Infinity'),
    source text not null check (btrim(source) <> ''),
    primary key (mode, fuel)
);

comment on table analytics.emission_factors is 'One row per mode and fuel with an emission intensity as ISO 14083 and the GLEC Framework define it; empty until you fill it, because a factor is of a place, a year and a fleet';
comment on column analytics.emission_factors.mode is 'mode of transport (vehicle_transports.mode)';
comment on column analytics.emission_factors.fuel is 'fuel (vehicle_transports.fuel)';
comment on column analytics.emission_factors.kg_co2e_per_tonne_km is 'kilograms of CO2 equivalent, well to wheel, for a tonne over a kilometre, empty running included';
comment on column analytics.emission_factors.source is 'publication, table and year of the factor: whoever is asked for it must be able to name it';

create trigger etl_note_reference after insert or update or delete or truncate on analytics.vehicle_transports
for each statement execute function etl.note_reference();
create trigger etl_note_reference after insert or update or delete or truncate on analytics.emission_factors
for each statement execute function etl.note_reference();

set local check_function_bodies = off;

create function analytics.currency_of(currency text) returns text
language sql immutable parallel safe
as $currency$ select analytics.key_of(upper(analytics.trimmed(currency))) $currency$;

comment on function analytics.currency_of(text) is 'Return a currency as the key of an aggregate: in capitals without outer blanks; (none) where it is missing or blank';

-- The judged shipments with more columns. Views of users may read analytics.judged_shipments(), so that it stays as it is.
create function analytics.valued_shipments() returns table (
    shipment_id text,
    order_id text,
    log_id text,
    carrier text,
    service_level text,
    status text,
    end_state text,
    is_unknown_status boolean,
    origin_country text,
    origin_city text,
    origin_warehouse text,
    destination_country text,
    destination_city text,
    created_at timestamptz,
    picked_up_at timestamptz,
    promised_at timestamptz,
    first_promised_at timestamptz,
    delivered_at timestamptz,
    stated_delivered_at timestamptz,
    updated_at timestamptz,
    weight_kg numeric,
    volume_m3 numeric,
    freight_cost numeric,
    pieces integer,
    etl_run bigint,
    etl_batch bigint,
    declared_amount numeric,
    declared_currency text,
    claimed_amount numeric,
    claimed_at timestamptz
)
language sql stable parallel safe
as $valued$
    select
        shipments.shipment_id::text,
        shipments.order_id::text,
        shipments.log_id::text,
        analytics.key_of(coalesce(carrier.name, shipments.carrier)),
        analytics.key_of(coalesce(service_level.name, shipments.service_level)),
        shipments.status::text,
        case
            when coalesce(state.meaning, folded.meaning) in ('cancelled', 'returned', 'lost')
                then coalesce(state.meaning, folded.meaning)
            when shipments.delivered_at is not null or coalesce(state.meaning, folded.meaning) = 'delivered'
                then 'delivered'
            else 'open'
        end,
        coalesce(state.status is null and folded.status is null and analytics.trimmed(shipments.status) <> '', false),
        analytics.key_of(coalesce(origin_country.name, shipments.origin_country)),
        analytics.key_of(coalesce(origin_city.name, shipments.origin_city)),
        analytics.key_of(coalesce(origin_warehouse.name, shipments.origin_warehouse)),
        analytics.key_of(coalesce(destination_country.name, shipments.destination_country)),
        analytics.key_of(coalesce(destination_city.name, shipments.destination_city)),
        shipments.created_at::timestamptz,
        shipments.picked_up_at::timestamptz,
        shipments.promised_at::timestamptz,
        coalesce(shipments.etl_first_promised_at, shipments.promised_at)::timestamptz,
        case when coalesce(state.meaning, folded.meaning) in ('cancelled', 'returned', 'lost') then null
            else shipments.delivered_at
        end::timestamptz,
        shipments.delivered_at::timestamptz,
        shipments.updated_at::timestamptz,
        shipments.weight_kg::numeric,
        shipments.volume_m3::numeric,
        shipments.freight_cost::numeric,
        shipments.pieces::integer,
        shipments.etl_run::bigint,
        shipments.etl_batch::bigint,
        shipments.declared_amount::numeric,
        shipments.declared_currency::text,
        shipments.claimed_amount::numeric,
        shipments.claimed_at::timestamptz
    from (
        values (
            null::text, null::text, null::text, null::text, null::text, null::text, null::text, null::text, null::text,
            null::text, null::timestamptz, null::timestamptz, null::timestamptz, null::timestamptz, null::timestamptz,
            null::numeric, null::numeric, null::numeric, null::integer, null::numeric, null::text, null::numeric,
            null::timestamptz
        )
    ) as absent (
        order_id, log_id, carrier, service_level, status, origin_country, origin_city, origin_warehouse,
        destination_country, destination_city, picked_up_at, promised_at, etl_first_promised_at, delivered_at, updated_at,
        weight_kg, volume_m3, freight_cost, pieces, declared_amount, declared_currency, claimed_amount, claimed_at
    )
    cross join lateral (
        select
            shipments.shipment_id, shipments.created_at, order_id, log_id, carrier, service_level, status,
            origin_country, origin_city, origin_warehouse, destination_country, destination_city,
            picked_up_at, promised_at, etl_first_promised_at, delivered_at, updated_at, weight_kg, volume_m3, freight_cost,
            pieces, declared_amount, declared_currency, claimed_amount, claimed_at,
            shipments.etl_run, shipments.etl_batch
        from logistics.shipments
    ) as shipments
    -- Only a status that is not there as it is written is folded, which costs more than a join.
    left join analytics.shipment_states as state on state.status = shipments.status
    left join analytics.shipment_states as folded
        on folded.status = case when state.status is null then analytics.folded(shipments.status) end
    left join analytics.name_spellings as carrier
        on carrier.kind = 'carrier' and carrier.spelling = shipments.carrier
    left join analytics.name_spellings as service_level
        on service_level.kind = 'service_level' and service_level.spelling = shipments.service_level
    left join analytics.name_spellings as origin_country
        on origin_country.kind = 'country' and origin_country.spelling = shipments.origin_country
    left join analytics.name_spellings as origin_city
        on origin_city.kind = 'city' and origin_city.spelling = shipments.origin_city
    left join analytics.name_spellings as origin_warehouse
        on origin_warehouse.kind = 'warehouse' and origin_warehouse.spelling = shipments.origin_warehouse
    left join analytics.name_spellings as destination_country
        on destination_country.kind = 'country' and destination_country.spelling = shipments.destination_country
    left join analytics.name_spellings as destination_city
        on destination_city.kind = 'city' and destination_city.spelling = shipments.destination_city
$valued$;

comment on function analytics.valued_shipments() is 'Return what analytics.judged_shipments() does, and the declared value and the claim with their currency as it is written';

create or replace function analytics.judged_shipments() returns table (
    shipment_id text,
    order_id text,
    log_id text,
    carrier text,
    service_level text,
    status text,
    end_state text,
    is_unknown_status boolean,
    origin_country text,
    origin_city text,
    origin_warehouse text,
    destination_country text,
    destination_city text,
    created_at timestamptz,
    picked_up_at timestamptz,
    promised_at timestamptz,
    first_promised_at timestamptz,
    delivered_at timestamptz,
    stated_delivered_at timestamptz,
    updated_at timestamptz,
    weight_kg numeric,
    volume_m3 numeric,
    freight_cost numeric,
    pieces integer,
    etl_run bigint,
    etl_batch bigint
)
language sql stable parallel safe
as $judged$
    select
        shipment_id, order_id, log_id, carrier, service_level, status,
        end_state, is_unknown_status, origin_country, origin_city, origin_warehouse, destination_country,
        destination_city, created_at, picked_up_at, promised_at, first_promised_at, delivered_at,
        stated_delivered_at, updated_at, weight_kg, volume_m3, freight_cost, pieces,
        etl_run, etl_batch
    from analytics.valued_shipments()
$judged$;

create function analytics.shipment_emissions() returns table (
    shipment_id text,
    log_id text,
    trip_date date,
    origin_country text,
    origin_city text,
    destination_country text,
    destination_city text,
    mode text,
    fuel text,
    tonne_km numeric,
    co2e_kg numeric
)
language sql stable parallel safe
as $emissions$
    select
        shipments.shipment_id::text,
        shipments.log_id::text,
        vehicle_logs.trip_date,
        analytics.key_of(coalesce(origin_country.name, shipments.origin_country)),
        analytics.key_of(coalesce(origin_city.name, shipments.origin_city)),
        analytics.key_of(coalesce(destination_country.name, shipments.destination_country)),
        analytics.key_of(coalesce(destination_city.name, shipments.destination_city)),
        factors.mode,
        factors.fuel,
        shipments.weight_kg::numeric * vehicle_logs.distance_km * 0.001,
        shipments.weight_kg::numeric * vehicle_logs.distance_km * 0.001 * factors.kg_co2e_per_tonne_km
    -- Not by the judged shipments: with so many tables the planner keeps their order, and the trips of a month come first.
    from logistics.vehicle_logs
    cross join (values (null::text, null::text, null::text, null::text, null::text, null::numeric))
        as absent (status, origin_country, origin_city, destination_country, destination_city, weight_kg)
    join lateral (
        select
            shipments.shipment_id, shipments.log_id, status, origin_country, origin_city, destination_country,
            destination_city, weight_kg
        from logistics.shipments
    ) as shipments on shipments.log_id = vehicle_logs.log_id
    left join logistics.vehicles on vehicles.vehicle_id = vehicle_logs.vehicle_id
    left join analytics.vehicle_transports as transports on transports.vehicle_type = vehicles.vehicle_type
    left join analytics.emission_factors as factors
        on factors.mode = transports.mode and factors.fuel = transports.fuel
    left join analytics.name_spellings as origin_country
        on origin_country.kind = 'country' and origin_country.spelling = shipments.origin_country
    left join analytics.name_spellings as origin_city
        on origin_city.kind = 'city' and origin_city.spelling = shipments.origin_city
    left join analytics.name_spellings as destination_country
        on destination_country.kind = 'country' and destination_country.spelling = shipments.destination_country
    left join analytics.name_spellings as destination_city
        on destination_city.kind = 'city' and destination_city.spelling = shipments.destination_city
    where not exists (
        select
        from analytics.shipment_states as state
        where state.status = analytics.folded(shipments.status) and state.meaning = 'cancelled'
    )
$emissions$;

comment on function analytics.shipment_emissions() is 'Return one row per shipment on a trip that is not cancelled, with its transport activity and its emissions; co2e_kg is null without a factor for the vehicle of the trip';
