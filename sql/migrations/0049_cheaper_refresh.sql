-- A refresh does less work: the same values by cheaper functions.

-- Most codes are written as they should be: to find them in a list is faster than to fold. The server searches a list of
-- more than eight values by a hash.
create or replace function analytics.code_of(code text) returns text
language sql immutable parallel safe
as $code$
    select case
        when code in (
            'PICKED_UP', 'HUB_ARRIVED', 'HUB_DEPARTED', 'IN_TRANSIT', 'CUSTOMS_CLEARED', 'OUT_FOR_DELIVERY', 'DELIVERED',
            'RETURNED', 'LOST', 'EXCEPTION', 'ADDRESS_UNKNOWN', 'CUSTOMS_HOLD', 'DAMAGED', 'WEATHER'
        ) then code
        else upper(analytics.trimmed(code))
    end
$code$;

set local check_function_bodies = off;

-- The valued shipments with their quantities, which promised_days found by a second look at each shipment.
create function analytics.quantified_shipments() returns table (
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
    claimed_at timestamptz,
    ordered_quantity numeric,
    delivered_quantity numeric
)
language sql stable parallel safe
as $quantified$
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
        shipments.claimed_at::timestamptz,
        shipments.ordered_quantity::numeric,
        shipments.delivered_quantity::numeric
    from (
        values (
            null::text, null::text, null::text, null::text, null::text, null::text, null::text, null::text, null::text,
            null::text, null::timestamptz, null::timestamptz, null::timestamptz, null::timestamptz, null::timestamptz,
            null::numeric, null::numeric, null::numeric, null::integer, null::numeric, null::text, null::numeric,
            null::timestamptz, null::numeric, null::numeric
        )
    ) as absent (
        order_id, log_id, carrier, service_level, status, origin_country, origin_city, origin_warehouse,
        destination_country, destination_city, picked_up_at, promised_at, etl_first_promised_at, delivered_at, updated_at,
        weight_kg, volume_m3, freight_cost, pieces, declared_amount, declared_currency, claimed_amount, claimed_at,
        ordered_quantity, delivered_quantity
    )
    cross join lateral (
        select
            shipments.shipment_id, shipments.created_at, order_id, log_id, carrier, service_level, status,
            origin_country, origin_city, origin_warehouse, destination_country, destination_city,
            picked_up_at, promised_at, etl_first_promised_at, delivered_at, updated_at, weight_kg, volume_m3, freight_cost,
            pieces, declared_amount, declared_currency, claimed_amount, claimed_at, ordered_quantity, delivered_quantity,
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
$quantified$;

comment on function analytics.quantified_shipments() is 'The valued shipments, with the ordered and the delivered quantity';

create or replace function analytics.valued_shipments() returns table (
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
        shipment_id, order_id, log_id, carrier, service_level, status,
        end_state, is_unknown_status, origin_country, origin_city, origin_warehouse, destination_country,
        destination_city, created_at, picked_up_at, promised_at, first_promised_at, delivered_at,
        stated_delivered_at, updated_at, weight_kg, volume_m3, freight_cost, pieces,
        etl_run, etl_batch, declared_amount, declared_currency, claimed_amount, claimed_at
    from analytics.quantified_shipments()
$valued$;

-- The newest load of a shipment is not before that of the shipment created last, which an index finds. The newest time is
-- nearly always before it: only a time in the future needs the loads of all shipments.
create or replace function analytics.as_of() returns table (as_of timestamptz)
language sql stable parallel safe
rows 1
security definer
set search_path = pg_catalog, pg_temp
set timezone = 'UTC'
set datestyle = 'ISO, YMD'
set standard_conforming_strings = on
as $as_of$
    with latest as materialized (
        select max(greatest(created_at, picked_up_at, stated_delivered_at, updated_at)) as newest
        from analytics.judged_shipments()
    ),
    created_last as materialized (
        select etl_run, etl_batch
        from analytics.judged_shipments()
        where created_at is not null
        order by created_at desc
        limit 1
    ),
    loads as not materialized (
        select runs.number, unnest(coalesce(batches.part_offsets, array[batches."offset"])) as "offset", batches.loaded_at
        from etl.batches
        join etl.runs using (run)
    ),
    by_batch as materialized (
        select etl_run, etl_batch, max(greatest(created_at, picked_up_at, stated_delivered_at, updated_at)) as newest
        from analytics.judged_shipments()
        group by etl_run, etl_batch
    ),
    load as materialized (
        select coalesce(max(loads.loaded_at), now()) as newest
        from by_batch
        join loads on loads.number = by_batch.etl_run and loads."offset" = by_batch.etl_batch
    )
    select
        case
            when latest.newest <= its_load.newest then latest.newest
            when latest.newest <= (select newest from load) then latest.newest
            -- Some time is in the future. This further scan is rarely needed.
            else (
                select max(greatest(
                    case when created_at <= load.newest then created_at end,
                    case when picked_up_at <= load.newest then picked_up_at end,
                    case when stated_delivered_at <= load.newest then stated_delivered_at end,
                    case when updated_at <= load.newest then updated_at end
                ))
                from analytics.judged_shipments()
                cross join load
            )
        end
    from latest
    cross join (
        select max(loads.loaded_at) as newest
        from created_last
        join loads on loads.number = created_last.etl_run and loads."offset" = created_last.etl_batch
    ) as its_load
$as_of$;
